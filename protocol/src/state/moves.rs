//! Mailboxes that move: switches, their delay, imports, and what the state remembers of former homes.

use minicbor::{Decode, Encode};

use crate::crypto::{MailboxId, NodeId, PublicKey};
use crate::digest::Digest;
use crate::moving::{Base, Import, MAX_SPANS, Missing, Move};
use crate::signed::Signed;

use super::{Draft, Invalid, MailboxState, State, StateKey};

/// What the federation remembers of a mailbox's moves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Moved {
    /// Former homes, the oldest first; never empty. What is forgotten leaves a gap between two of them.
    #[n(0)]
    pub spans: Vec<Span>,
    /// The switch that brought it to its present home.
    #[n(1)]
    pub switch: Digest,
    /// How far the present home has taken over.
    #[n(2)]
    pub import: Option<Imported>,
}

/// A time in which a mailbox lived at one home that is not its home any more, or is again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Span {
    /// The home.
    #[n(0)]
    pub node: NodeId,
    /// The epoch since which it lived there.
    #[n(1)]
    pub since: u64,
    /// The epoch since which it does not.
    #[n(2)]
    pub until: u64,
    /// From which epoch on that home's attestations name the whole log; none if it never had taken over all of it, or
    /// no attestation of it has become final since.
    #[n(3)]
    pub complete: Option<u64>,
}

impl Span {
    /// Whether a header of this routing epoch was routed there rightly.
    pub fn routed(&self, routing_epoch: u64) -> bool {
        (self.since..self.until).contains(&routing_epoch)
    }
}

/// How far a home has taken over a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Imported {
    /// The digest of the last import.
    #[n(0)]
    pub digest: Digest,
    /// The epoch that settled the first one.
    #[n(1)]
    pub first: u64,
    /// The epoch that settled the last one.
    #[n(2)]
    pub epoch: u64,
    /// The last epoch whose cut it considers.
    #[n(3)]
    pub through: u64,
    /// The log that was continued.
    #[n(4)]
    pub base: Option<Base>,
    /// What it could not have.
    #[n(5)]
    pub missing: Vec<Missing>,
}

/// A switch that waits for its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Delayed {
    /// The switch's digest.
    #[n(0)]
    pub record: Digest,
    /// The new home.
    #[n(1)]
    pub home: NodeId,
    /// The age at which it takes effect.
    #[n(2)]
    pub due_age_ms: u64,
}

impl Moved {
    /// What the present home's next import names as the one before it.
    pub fn follows(&self) -> Digest {
        self.import.as_ref().map_or(self.switch, |import| import.digest)
    }

    /// Whether nothing can come any more that the import does not cover.
    pub fn is_finished(&self, routing_window_epochs: u64) -> bool {
        let until = self.spans.last().map_or(0, |span| span.until);
        self.import.as_ref().is_some_and(|import| {
            import.missing.is_empty() && import.through >= until.saturating_add(routing_window_epochs) - 1
        })
    }

    /// The place of the span whose home's attestation `base` is; of the oldest one where there is none, since the log
    /// then begins there. None if that home's attestation of that epoch does not name a log that is whole.
    pub fn base_span(&self, base: Option<&Base>) -> Option<usize> {
        match base {
            None => Some(0),
            Some(base) => self.spans.iter().position(|span| {
                let epoch = base.attestation.epoch;
                span.node == base.node && epoch < span.until && span.complete.is_some_and(|from| from <= epoch)
            }),
        }
    }

    /// The place of the span in which a header of this routing epoch was routed to `node`.
    pub fn span_of(&self, node: &NodeId, routing_epoch: u64) -> Option<usize> {
        self.spans.iter().position(|span| span.node == *node && span.routed(routing_epoch))
    }
}

impl MailboxState {
    /// Whether mail of this routing epoch is the present home's by the ordinary rule: it was routed to it in the
    /// residence that still lasts.
    pub fn owes(&self, node: &NodeId, routing_epoch: u64) -> bool {
        self.home == *node && self.since <= routing_epoch
    }

    /// Where it lived in an epoch, as far as is remembered.
    pub fn home_at(&self, epoch: u64) -> Option<NodeId> {
        let before = self.moved.iter().flat_map(|moved| &moved.spans);
        let home = (self.since <= epoch).then_some(self.home);
        home.or_else(|| before.into_iter().find(|span| span.routed(epoch)).map(|span| span.node))
    }

    /// Whether the mailbox lived at `node` from epoch `from` to epoch `to`, as far as is remembered.
    pub fn lived(&self, node: &NodeId, from: u64, to: u64) -> bool {
        let before = self.moved.iter().flat_map(|moved| &moved.spans);
        self.owes(node, from)
            || before.into_iter().any(|span| span.node == *node && span.since <= from && to < span.until)
    }
}

impl MailboxState {
    /// Whether a switch whose signatures hold may settle here, as far as the mailbox goes: it replaces what is in force, and
    /// who signed it may order that.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, order: &Move) -> Result<(), &'static str> {
        let switch = &order.switch;
        let overrides = order.recovery.is_some() && switch.replaces == self.last_recovered();
        if switch.replaces != self.record && !overrides {
            return Err("the switch replaces a record that is not in force (any more)");
        }
        match &order.recovery {
            Some(recovery) if self.recovery_key != Some(recovery.key) => {
                Err("the recovery key that signed the switch is not the mailbox's")
            }
            None if self.recovery_key != switch.recovery_key => {
                Err("only the recovery key can change the recovery key")
            }
            _ => Ok(()),
        }
    }

    /// The last record that the recovery key signed, or the registration's.
    pub fn last_recovered(&self) -> Digest {
        self.recovered.unwrap_or(self.record)
    }

    /// With another record in force, which the recovery key has signed, or not.
    fn replaced(self, record: Digest, by_recovery: bool, recovery_key: Option<PublicKey>) -> MailboxState {
        let recovered = (!by_recovery && recovery_key.is_some()).then(|| self.last_recovered());
        MailboxState { record, recovery_key, recovered, ..self }
    }
}

impl State {
    /// A switch of this mailbox that waits for its delay.
    pub fn delayed(&self, mailbox: &MailboxId) -> Option<&Delayed> {
        self.moves.get(mailbox)
    }

    pub(super) fn wait(&mut self, mailbox: MailboxId, delayed: Delayed) -> bool {
        self.none_due_below_ms = self.none_due_below_ms.min(delayed.due_age_ms);
        self.moves.insert(mailbox, delayed)
    }
}

impl Draft {
    /// Switches whose delay is over take effect; one whose new home cannot take the mailbox any more is void.
    pub(super) fn switch_due(&mut self) {
        if self.state.age_ms < self.state.none_due_below_ms {
            return;
        }
        let due: Vec<(MailboxId, Delayed)> = (self.state.moves.iter())
            .filter(|(_, delayed)| delayed.due_age_ms <= self.state.age_ms)
            .map(|(mailbox, delayed)| (*mailbox, *delayed))
            .collect();
        for (mailbox, Delayed { record, home, .. }) in due {
            self.set_move(mailbox, None);
            if self.has_room(&mailbox, &home).is_ok() {
                self.take_effect(mailbox, home, record, false);
            } else if let Some(known) = self.state.mailboxes.get(&mailbox).cloned() {
                // Void, and in force: nobody can hand it in again.
                let recovery_key = known.recovery_key;
                self.set_mailbox(mailbox, known.replaced(record, false, recovery_key));
            }
        }
        let left = self.state.moves.iter().map(|(_, delayed)| delayed.due_age_ms);
        self.state.none_due_below_ms = left.min().unwrap_or(u64::MAX);
    }

    pub(super) fn switch(&mut self, order: &Move) -> Result<(), Invalid> {
        let switch = &order.switch;
        let mailbox = switch.mailbox;
        let refused = |reason| Err(Invalid::Moving { mailbox, reason });
        let Some(known) = self.state.mailboxes.get(&mailbox).cloned() else {
            return refused("it is not registered");
        };
        if let Err(reason) = known.admits(order) {
            return refused(reason);
        }
        let recovered = order.recovery.is_some();
        let record = order.digest(&self.federation);
        let stays = switch.home == known.home;
        if stays {
            if order.home.is_some() {
                return refused("a switch to the present home needs no signature of it");
            }
            self.set_move(mailbox, None);
            self.set_mailbox(mailbox, known.replaced(record, recovered, switch.recovery_key));
            return Ok(());
        }
        if order.home.is_none() {
            return refused("the new home has not signed the switch");
        }
        if !recovered && self.state.moves.get(&mailbox).is_some() {
            return refused("another switch waits for its delay");
        }
        self.has_room(&mailbox, &switch.home)?;
        let delay_ms = self.federation.params().move_delay_ms;
        if known.recovery_key.is_some() && !recovered && delay_ms > 0 {
            let due_age_ms = self.state.age_ms.saturating_add(delay_ms);
            self.set_move(mailbox, Some(Delayed { record, home: switch.home, due_age_ms }));
            return Ok(());
        }
        self.set_move(mailbox, None);
        if known.recovery_key != switch.recovery_key {
            self.set_mailbox(mailbox, MailboxState { recovery_key: switch.recovery_key, ..known });
        }
        self.take_effect(mailbox, switch.home, record, recovered);
        Ok(())
    }

    /// Whether `home` can take a mailbox over, and the state can remember the move.
    fn has_room(&self, mailbox: &MailboxId, home: &NodeId) -> Result<(), Invalid> {
        let node = *home;
        let known = self.started(home)?;
        if known.lapsed.is_some() {
            return Err(Invalid::Lapsed { node });
        }
        if known.mailboxes >= self.federation.params().max_mailboxes_per_node {
            return Err(Invalid::NotAdmitted { node, reason: "it has max_mailboxes_per_node mailboxes" });
        }
        let known = self.state.mailboxes.get(mailbox);
        if known.is_some_and(|known| self.spans_after(known).is_none()) {
            let reason = "it has moved 8 times and no move was finished: one has to be, or validity_epochs pass first";
            return Err(Invalid::Moving { mailbox: *mailbox, reason });
        }
        Ok(())
    }

    /// The spans of a mailbox that leaves its home in this cut; none if there are too many of them.
    ///
    /// A residence that begins and ends in one cut leaves none: nothing was routed there. Of more than [`MAX_SPANS`] the
    /// oldest is forgotten, since a later home has had the whole log. Where none has, the oldest that has not is, but
    /// only after the present home has had validity_epochs to finish: no home that is dead or lies can keep a mailbox.
    fn spans_after(&self, known: &MailboxState) -> Option<Vec<Span>> {
        let mut spans = known.moved.as_ref().map_or_else(Vec::new, |moved| moved.spans.clone());
        let until = self.state.epoch;
        if known.since == until && !spans.is_empty() {
            return Some(spans);
        }
        spans.push(Span { node: known.home, since: known.since, until, complete: self.complete(known) });
        if spans.len() > MAX_SPANS {
            let later = spans.iter().skip(1).any(|span| span.complete.is_some());
            let waited = until - known.since >= self.federation.params().validity_epochs;
            if !later && !waited {
                return None;
            }
            spans.remove(usize::from(!later));
        }
        Some(spans)
    }

    /// From which epoch on the attestations of the present home name the whole log, if one has become final.
    fn complete(&self, known: &MailboxState) -> Option<u64> {
        match &known.moved {
            None => Some(known.since),
            Some(moved) => {
                let home = self.state.nodes.get(&known.home)?;
                let finished = moved.is_finished(self.federation.params().routing_window_epochs);
                let from = moved.import.as_ref().filter(|_| finished)?.epoch;
                home.last_attestation.filter(|last| last.attestation.epoch >= from).map(|_| from)
            }
        }
    }

    /// The mailbox lives at `home` from this cut on. [`Self::has_room`] has said that it can.
    fn take_effect(&mut self, mailbox: MailboxId, home: NodeId, record: Digest, recovered: bool) {
        let Some(known) = self.state.mailboxes.get(&mailbox).cloned() else { return };
        let Some(spans) = self.spans_after(&known) else { return };
        if let Some(old) = self.state.nodes.get(&known.home).cloned() {
            let mailboxes = old.mailboxes.saturating_sub(1);
            self.set_node(known.home, super::NodeState { mailboxes, ..old });
        }
        if let Some(new) = self.state.nodes.get(&home).cloned() {
            let mailboxes = new.mailboxes + 1;
            self.set_node(home, super::NodeState { mailboxes, ..new });
        }
        let moved = Some(Moved { spans, switch: record, import: None });
        let recovery_key = known.recovery_key;
        let next = MailboxState { home, since: self.state.epoch, moved, ..known };
        self.set_mailbox(mailbox, next.replaced(record, recovered, recovery_key));
    }

    pub(super) fn import(&mut self, signed: &Signed<Import>) -> Result<(), Invalid> {
        let import = &signed.body;
        let mailbox = import.mailbox;
        let refused = |reason| Err(Invalid::Moving { mailbox, reason });
        let Some(known) = self.state.mailboxes.get(&mailbox).cloned() else {
            return refused("it is not registered");
        };
        if known.home != import.home {
            return refused("an import by a node that is not its home");
        }
        let Some(moved) = &known.moved else { return refused("it has not moved") };
        let last = moved.import.as_ref();
        if import.previous != moved.follows() {
            return refused("the import does not follow the last one");
        }
        // What a home has finished, its former homes forget: it cannot be unsaid.
        if moved.is_finished(self.federation.params().routing_window_epochs) {
            return refused("the move is finished");
        }
        if import.through >= self.state.epoch || import.through < last.map_or(known.since, |last| last.through) {
            return refused("an import that reaches too far, or less far than its switch or the import before");
        }
        if moved.base_span(import.base.as_ref()).is_none() {
            return refused("the import continues no log that a former home could have whole");
        }
        if last.is_some_and(|last| last.base != import.base) {
            return refused("the import continues another log than the import before");
        }
        if import.missing.windows(2).any(|pair| pair[0] >= pair[1])
            || import.missing.iter().any(|missing| missing.from > missing.to || missing.to > import.through)
        {
            return refused("missing headers are ascending ranges up to the epoch that the import reaches");
        }
        let again = |missing: &Missing| {
            last.is_some_and(|last| {
                missing.from <= last.through
                    && !last.missing.iter().any(|before| {
                        before.origin == missing.origin && before.from <= missing.from && missing.to <= before.to
                    })
            })
        };
        if import.missing.iter().any(again) {
            return refused("the import misses what the import before had");
        }
        let imported = super::Imported {
            digest: signed.digest(&self.federation),
            first: last.map_or(self.state.epoch, |last| last.first),
            epoch: self.state.epoch,
            through: import.through,
            base: import.base,
            missing: import.missing.clone(),
        };
        let moved = Some(Moved { import: Some(imported), ..moved.clone() });
        self.set_mailbox(mailbox, MailboxState { moved, ..known });
        Ok(())
    }

    fn set_move(&mut self, mailbox: MailboxId, value: Option<Delayed>) {
        match value {
            Some(value) => drop(self.state.wait(mailbox, value)),
            None if self.state.moves.get(&mailbox).is_none() => return,
            None => drop(self.state.moves.remove(&mailbox)),
        }
        self.touched.insert(StateKey::Move(mailbox));
    }

    pub(super) fn set_mailbox(&mut self, mailbox: MailboxId, value: MailboxState) {
        self.touched.insert(StateKey::Mailbox(mailbox));
        self.state.mailboxes.insert(mailbox, value);
    }
}
