//! What a cut does: to the state, as `apply` does it, and at the mailbox's home, as its node does it.
//!
//! The node's half goes by what the node has ("is it in my log, was it routed before I was home"); whom the protocol
//! holds liable is decided elsewhere, from epochs alone ([`super::judge`]). That the two agree is what is explored.

use super::judge;
use super::state::{Base, DELAY, Entry, Epoch, Imported, MESSAGES, Message, Residence, State, Switch, WINDOW};
use super::{Bug, Moving};

/// What one cut settles, in this order. Messages are bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// The present home's import.
    pub import: Option<Reach>,
    /// Up to two switches, by record; 0: none.
    pub switches: [u8; 2],
    /// Slices that their destination has by now.
    pub fills: u8,
    /// Headers with their destination's receipt, ...
    pub delivered: u8,
    /// ... those of them that it refuses, ...
    pub refused: u8,
    /// ... and headers that custodians hold.
    pub pending: u8,
}

/// Through which epoch an import reaches, and what it misses.
pub type Reach = (Epoch, u8);

/// Whether a message is among some.
pub fn has(bits: u8, message: usize) -> bool {
    bits & (1 << message) != 0
}

impl Moving {
    /// Whether `apply` takes a switch.
    pub fn fits(&self, state: &State, record: u8) -> bool {
        let switch = state.switch(record);
        let named = switch.replaces == state.record
            || (switch.recovery && switch.replaces == state.anchor && self.bug != Some(Bug::RecoveryNamesRecord))
            || self.bug == Some(Bug::SameReplaces);
        let waits = self.recovery_key && !switch.recovery && switch.to != state.present().node;
        switch.settled == 0 && named && !(waits && state.waiting.is_some())
    }

    /// Settles a switch in a cut.
    pub fn settle_switch(&self, state: &mut State, record: u8, epoch: Epoch) {
        let switch = *state.switch(record);
        state.switch_mut(record).settled = epoch;
        if switch.to == state.present().node {
            state.switch_mut(record).stays = true;
            state.record = record;
            if switch.recovery {
                state.anchor = record;
            }
            state.waiting = None;
        } else if self.recovery_key && !switch.recovery {
            state.waiting = Some((record, epoch + DELAY));
        } else {
            if self.bug != Some(Bug::WaitingStays) {
                state.waiting = None;
            }
            take_effect(state, record, epoch);
        }
    }

    /// What was routed to earlier homes, is in the home's log neither by its base nor by an import, and must get there.
    pub fn open(&self, state: &State) -> u8 {
        let home = state.present();
        let base = state.base_log(home.base);
        let open = |(at, message): &(usize, &Message)| {
            message.included != 0
                && message.routed < home.since
                && state.home_at(message.routed) == Some(message.to)
                && !message.refused
                && !base.holds(*at)
                && !(home.own.holds(*at) && self.bug != Some(Bug::ImportsAgain))
                && !(message.included >= home.since && self.bug == Some(Bug::MissesStragglers))
                && !(message.settled() != 0 && self.bug == Some(Bug::TrustsLateFills))
        };
        state.messages.iter().enumerate().filter(open).fold(0, |bits, (at, _)| bits | 1 << at)
    }

    /// The state after a cut. Whoever drafts one holds to the rules of `apply`.
    pub fn settle(&self, before: &State, cut: &Cut) -> State {
        let mut state = before.clone();
        let epoch = state.head + 1;
        state.head = epoch;
        if let Some((record, due)) = state.waiting
            && due <= epoch
        {
            state.waiting = None;
            take_effect(&mut state, record, epoch);
        }
        let importer = state.residences().len();
        let open = if cut.import.is_some() { self.open(&state) } else { 0 };
        if let Some((through, missing)) = cut.import {
            self.settle_import(&mut state, through, missing);
        }
        for record in cut.switches.into_iter().filter(|record| *record != 0) {
            self.settle_switch(&mut state, record, epoch);
        }
        for at in (0..MESSAGES).filter(|at| has(cut.fills, *at)) {
            state.messages[at].filled = epoch;
        }
        let headers = (0..MESSAGES).filter(|at| has(cut.delivered | cut.pending, *at));
        for (position, at) in (0u8..).zip(headers) {
            let message = &mut state.messages[at];
            (message.included, message.position) = (epoch, position);
            (message.delivered, message.refused) = (has(cut.delivered, at), has(cut.refused, at));
        }
        // The node's half. An import of a home that is none any more by the same cut is of no use to anybody.
        let import = cut.import.filter(|_| importer == state.residences().len());
        let imported = import.map_or(0, |(through, missing)| {
            (0..MESSAGES)
                .filter(|at| has(open & !missing, *at) && before.messages[*at].included <= through)
                .fold(0, |bits, at| bits | 1 << at)
        });
        self.append(&mut state, imported, cut);
        self.forget(&mut state);
        state
    }

    /// Forgets what can make no difference any more, so that states which differ in nothing else are one.
    fn forget(&self, state: &mut State) {
        let epoch = state.head;
        // Headers that can no more be included are all alike.
        let dead = |m: &&mut Message| m.included == 0 && m.routed != 0 && m.routed.saturating_add(WINDOW) <= epoch;
        for message in state.messages.iter_mut().filter(dead) {
            *message = Message { routed: Message::DEAD, ..Message::default() };
        }
        // So are records that replace one which is in force no more, and will not be.
        if !self.recovery_key && self.bug != Some(Bug::SameReplaces) {
            for record in 1..=state.switches().len() as u8 {
                let replaces = state.switch(record).replaces;
                let may_fit = replaces != 0 && replaces != Switch::DEAD && state.switch(replaces).settled == 0;
                if !self.fits(state, record) && !may_fit && state.switch(record).settled == 0 {
                    let Switch { abandons, .. } = *state.switch(record);
                    *state.switch_mut(record) = Switch { abandons, replaces: Switch::DEAD, ..Switch::default() };
                }
            }
        }
        // What a home could be blamed for while it was one was looked for then. Its log is a base only once it is whole.
        let judged_later = [Bug::IncompleteBase, Bug::AttestsOn, Bug::SplitAcrossResidences];
        if self.bug.is_some_and(|bug| judged_later.contains(&bug)) {
            return;
        }
        for home in state.residences_mut() {
            if home.complete != 0 {
                home.imported.through = 0;
            }
            if home.until != 0 && home.complete == 0 {
                let Residence { node, since, until, .. } = *home;
                *home = Residence { node, since, until, ..Residence::default() };
            } else if home.until != 0 {
                home.named = home.complete;
            }
        }
    }

    /// Whether nothing that was routed to an earlier home can be included after an epoch.
    pub fn finishes(&self, home: &Residence, through: Epoch) -> bool {
        through >= if self.bug == Some(Bug::FinishesEarly) { home.since } else { home.since + WINDOW - 1 }
    }

    fn settle_import(&self, state: &mut State, through: Epoch, missing: u8) {
        let (epoch, present) = (state.head, state.residences().len() - 1);
        let closed: [bool; MESSAGES] = std::array::from_fn(|at| {
            let message = &state.messages[at];
            message.included != 0
                && message.included <= through
                && !has(missing, at)
                && judge::is_open(state, message, present)
        });
        let home = state.present_mut();
        for (slot, _) in home.closed.iter_mut().zip(closed).filter(|(slot, closed)| **slot == 0 && *closed) {
            *slot = epoch;
        }
        let first = if home.imported.first == 0 { epoch } else { home.imported.first };
        home.imported = Imported { first, through, missing };
        if missing == 0 && self.finishes(home, through) {
            home.complete = epoch;
        }
    }

    /// The home appends: what its import closed and its fills, by number; then what was delivered to it.
    fn append(&self, state: &mut State, imported: u8, cut: &Cut) {
        let (epoch, messages) = (state.head, state.messages);
        let home = state.present_mut();
        let its = |message: &Message| {
            message.to == home.node && (message.routed >= home.since || self.bug == Some(Bug::AnyResidence))
        };
        let filled = |at: &usize| has(cut.fills, *at) && its(&messages[*at]);
        let mut late: Vec<usize> = (0..MESSAGES).filter(|at| has(imported, *at) || filled(at)).collect();
        late.sort_by_key(|at| messages[*at].seq());
        let delivered = |at: &usize| has(cut.delivered & !cut.refused, *at) && its(&messages[*at]);
        let entries: Vec<usize> = late.into_iter().chain((0..MESSAGES).filter(delivered)).collect();
        for at in entries {
            home.own.push(Entry { message: at as u8, settled: epoch });
        }
    }

    /// The bases that the present home can have: the log under any final attestation of a residence from where that is
    /// complete, or the empty log. Of those with one log, one.
    pub fn bases(&self, state: &State) -> Vec<Base> {
        let present = state.residences().len() - 1;
        let mut bases = vec![Base::Empty];
        for (at, earlier) in state.residences()[..present].iter().enumerate() {
            let from = if self.bug == Some(Bug::IncompleteBase) { earlier.named } else { earlier.complete };
            let log = state.log(at);
            let mut last = None;
            // An attestation of an epoch is final in a later cut.
            for epoch in (from.max(1)..earlier.until.min(state.head)).filter(|_| from != 0) {
                let log = log.up_to(epoch);
                if state.alive_at(earlier.node, epoch) && last != Some(log) {
                    bases.push(Base::Attested(at as u8, epoch));
                    last = Some(log);
                }
            }
        }
        bases
    }
}

/// The mailbox moves.
fn take_effect(state: &mut State, record: u8, epoch: Epoch) {
    let switch = state.switch_mut(record);
    switch.effect = epoch;
    let (node, recovery) = (switch.to, switch.recovery);
    state.record = record;
    if recovery {
        state.anchor = record;
    }
    state.present_mut().until = epoch;
    state.settle_in(Residence { node, since: epoch, ..Residence::default() });
}
