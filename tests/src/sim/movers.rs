//! Owners who move: they sign switches, sometimes two for one record, change their minds, and follow their mailboxes.

use postroad_protocol::attestation::{Acknowledgement, LogHead};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::{Move, MoveRequest, OwnerBase, Switch};
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::wire::client::FromClient;
use postroad_protocol::{MailboxId, Refusal, Signed};

use super::calls::Asker;
use super::world::{Event, Step, World};

/// Time after which an order is brought again that nobody has answered.
const AGAIN_MS: u64 = 700;

/// A switch on its way to the node that is to take the mailbox over.
pub(super) struct Order {
    number: u64,
    to: usize,
    request: MoveRequest,
    again_at: u64,
}

impl World {
    /// Where some node says that a mailbox lives; it may be behind.
    fn directory(&mut self, me: usize) -> Result<Option<MailboxState>, super::Violation> {
        let node = self.rng.index(self.nodes.len());
        let id = self.clients[me].id;
        let Some(running) = self.nodes[node].running.as_ref() else { return Ok(None) };
        let Some((state, Some(cut))) = running.node.ledger().at(running.applied) else { return Ok(None) };
        let proof = state.prove_home(&id, cut.clone());
        let cut = match proof.verify(&id, &self.federation) {
            Ok(cut) => cut,
            Err(error) => return self.broken("verification", format!("a home proof: {error}")),
        };
        let verdict = self.checks.order.shown(&id, cut, &self.federation);
        self.judge(verdict)?;
        Ok(proof.value)
    }

    /// An owner thinks of moving.
    pub(super) fn wander(&mut self, me: usize) -> Step {
        if self.now >= self.heals_at {
            return Ok(());
        }
        let again = self.rng.within(500..=4_000);
        self.after(again, Event::Wander { client: me });
        if !self.clients[me].registered || self.clients[me].since == 0 {
            return Ok(());
        }
        let Some(known) = self.directory(me)? else { return Ok(()) };
        let to = self.destination(&known);
        self.order(me, &known, to);
        if self.rng.permille(200) {
            // Another one for the same record: one of them comes first.
            self.stats.moves_rivals += 1;
            let to = self.destination(&known);
            self.order(me, &known, to);
        }
        Ok(())
    }

    fn destination(&mut self, known: &MailboxState) -> usize {
        let home = self.index_of(&known.home).unwrap_or(0);
        match self.sinners.one() {
            _ if self.rng.permille(120) => home,
            // Otherwise few would move to them, or from there.
            Some(sinner) if self.rng.permille(300) => sinner,
            _ => self.rng.index(self.nodes.len()),
        }
    }

    /// Whoever moves on from a home that does nothing goes where nobody sins.
    fn flee(&mut self, me: usize, known: &MailboxState) {
        let home = self.index_of(&known.home).unwrap_or(0);
        let is_stuck = known.moved.as_ref().is_some_and(|moved| moved.import.is_none());
        if !is_stuck || !self.sinners.denies(home) || !self.clients[me].orders.is_empty() || !self.rng.permille(300) {
            return;
        }
        let honest: Vec<usize> = (0..self.nodes.len()).filter(|node| !self.sinners.is(*node)).collect();
        let to = *self.rng.pick(&honest);
        self.order(me, known, to);
    }

    fn order(&mut self, me: usize, known: &MailboxState, to: usize) {
        let home = self.index_of(&known.home).unwrap_or(0);
        let mut patience_ms = *self.rng.pick(&[0, 300, 2_000, 8_000]);
        if self.sinners.is_any() {
            // A run with sins ends soon after its faults.
            patience_ms = patience_ms.min(2_000);
        }
        let (by_recovery, by_both, overrides) =
            (self.rng.permille(400), self.rng.permille(500), self.rng.permille(300));
        let brings_base = self.rng.permille(500);
        let federation = &self.federation;
        let client = &mut self.clients[me];
        let recovery = client.recovery.as_ref().filter(|_| by_recovery);
        let replaces = if overrides && recovery.is_some() { known.last_recovered() } else { known.record };
        let switch = Switch { mailbox: client.id, replaces, home: self.ids[to], recovery_key: known.recovery_key };
        let mut order = Move::new(switch);
        if recovery.is_none() || by_both {
            order = order.by_device(&client.secret, federation);
        }
        if let Some(recovery) = recovery {
            order = order.by_recovery(recovery, federation);
            self.stats.moves_by_recovery += 1;
        }
        let base = brings_base.then(|| client.log.base()).flatten().map(|(attested, frontier)| {
            // What it says it has it keeps.
            client.saved = None;
            let body = Acknowledgement { mailbox: client.id, log: attested.log.log };
            let acknowledged = Signed::sign(body, &client.secret, federation).into_inner();
            Box::new(OwnerBase { attested, frontier, acknowledged })
        });
        if to == home {
            self.stats.moves_stays += 1;
        } else {
            self.stats.moves_ordered += 1;
            self.stats.moves_without_old_home += u64::from(patience_ms == 0);
        }
        let request = MoveRequest { order, patience_ms, base };
        let number = self.stats.moves_ordered + self.stats.moves_stays;
        self.clients[me].orders.push(Order { number, to, request, again_at: 0 });
    }

    /// An owner looks where its mailbox lives, goes there, and brings its orders again.
    pub(super) fn look_up(&mut self, me: usize) -> Step {
        for at in 0..self.clients[me].orders.len() {
            let order = &mut self.clients[me].orders[at];
            if self.now >= order.again_at {
                order.again_at = self.now + AGAIN_MS;
                let (to, question) = (order.to, Question::Move(Box::new(order.request.clone())));
                let asker = Asker::Move { client: me, order: order.number };
                self.ask(asker, to, &question);
            }
        }
        if self.rng.permille(500)
            && let Some(known) = self.directory(me)?
        {
            self.settle_in(me, &known)?;
            self.flee(me, &known);
        }
        let client = &self.clients[me];
        if let Some((session, true)) = client.sessions.get(&client.home).copied()
            && self.sessions[session].open
            && self.sessions[session].subscription.is_none()
            && self.now >= client.subscribed_at + AGAIN_MS
        {
            let from = client.log.next_index();
            self.clients[me].subscribed_at = self.now;
            self.send_to_node(session, &FromClient::Subscribe(from));
        }
        Ok(())
    }

    fn settle_in(&mut self, me: usize, known: &MailboxState) -> Step {
        let client = &self.clients[me];
        let (id, old) = (client.id, client.home);
        if known.since <= client.since {
            return Ok(());
        }
        let Some(moved) = &known.moved else {
            self.clients[me].since = known.since;
            return Ok(());
        };
        // What the new home continues stands in the state once it has taken over.
        let (Some(import), Some(home)) = (&moved.import, self.index_of(&known.home)) else { return Ok(()) };
        let empty = LogHead { size: 0, root: Frontier::new().root() };
        let continues = import.base.map_or(empty, |base| base.log);
        let Some(there) = self.checks.logs.present(&id).filter(|there| there.since == known.since) else {
            return Ok(());
        };
        let is_sure = there.has_base() && !self.checks.logs.is_doubtful(&id);
        let mut size = (continues.size).min(client.log.next_index()) as usize;
        if is_sure {
            let came_straight = import.base.is_some_and(|base| {
                let last = moved.spans.last().map(|span| (span.node, span.since));
                last == Some((self.ids[old], client.since))
                    && base.node == self.ids[old]
                    && client.since <= base.attestation.epoch
            });
            let in_common = client.log.in_common(there.log());
            if came_straight && in_common < size {
                let what = format!("client {me} has only {in_common} of {size} entries that its new home continues");
                return self.broken("moves", what);
            }
            if let Some((forgotten, kept)) = self.clients[me].log.recall(there.log()) {
                for (message, seq) in forgotten {
                    self.checks.once.forgotten(id, message, seq);
                    self.checks.oracle.forgotten(&id, &seq);
                }
                for (message, seq) in kept {
                    self.checks.once.kept(id, message, seq);
                    self.checks.oracle.kept(&id, &seq);
                }
                size = (continues.size).min(self.clients[me].log.size()) as usize;
            }
            let in_common = self.clients[me].log.in_common(there.log());
            // The new home may continue the log of another home than that which was read last.
            size = size.min(in_common);
        }
        if let Some((session, true)) = self.clients[me].sessions.get(&old).copied()
            && self.sessions[session].open
        {
            self.close_session(session);
        }
        let client = &mut self.clients[me];
        (client.home, client.since) = (home, known.since);
        // What it has from before the move is not what comes again.
        client.saved = None;
        let again = client.log.moves_to(known.home, known.since, size, continues);
        self.stats.rolled_back += again.len() as u64;
        for (message, seq) in again {
            self.checks.once.forgotten(id, message, seq);
            self.checks.oracle.forgotten(&id, &seq);
        }
        self.trace.say(self.now, home, &format!("client {me} is here since {} with {size} entries", known.since));
        Ok(())
    }

    /// A node has said what becomes of an order.
    pub(super) fn ordered_move(&mut self, me: usize, number: u64, reply: Option<Reply>) -> Step {
        match reply {
            None | Some(Reply::Refused(Refusal::NotReady | Refusal::Busy)) => return Ok(()),
            Some(Reply::Moving(_)) => {}
            Some(Reply::Refused(refusal)) => {
                self.trace.say(self.now, 0, &format!("order {number} of client {me} is refused: {refusal}"));
            }
            Some(other) => return self.broken("world", format!("a move was answered with {other:?}")),
        }
        self.clients[me].orders.retain(|order| order.number != number);
        Ok(())
    }

    /// What a move still waits for.
    pub(super) fn unsettled_move(&self, me: usize) -> Option<String> {
        let client = &self.clients[me];
        let known = self.checks.chains.state().mailbox(&client.id).filter(|_| self.moves)?;
        let moved = known.moved.as_ref()?;
        let home = self.index_of(&known.home);
        match &moved.import {
            None => Some(format!("node {home:?}, where it lives since {}, has imported nothing", known.since)),
            Some(import) if !import.missing.is_empty() => Some(format!("its import misses {:?}", import.missing)),
            Some(_) if client.since != known.since => {
                Some(format!("it lives at node {home:?} since {}, not {}", known.since, client.since))
            }
            Some(_) => None,
        }
    }

    /// Whether the home of a mailbox can prove what was delivered there: where the mailbox has moved, it may have the
    /// log only from some entry on.
    pub(super) fn can_prove(&self, mailbox: &MailboxId) -> bool {
        self.checks.chains.state().mailbox(mailbox).is_none_or(|known| known.moved.is_none())
    }
}
