//! Mailboxes that move here, and switches that stay: what the arrivals' room needs of the others.

use std::collections::BTreeMap;

use postroad_protocol::cut::Cut;
use postroad_protocol::moving::{Extent, MovePhase, MoveStatus};
use postroad_protocol::record::Record;
use postroad_protocol::state::StateKey;
use postroad_protocol::{Digest, MailboxId, Refusal, Verified};
use postroad_store::{Read, StoreError, Write};

use super::{Node, Phase};
use crate::arrivals::{Cuts, Surroundings, Unsettled, Wanted};
use crate::io::{Output, Time, Token};

/// Switches to the present home that wait for their cut, at most.
const MAX_STAYING: usize = 1_024;

impl Node {
    /// An owner moves its mailbox here; or has its mailbox stay where it is, which abandons a move.
    pub(super) fn want(&mut self, token: Token, wanted: Wanted, out: &mut Vec<Output>) {
        let answer = self.try_want(token, wanted, out);
        if let Some(answer) = answer.transpose() {
            out.push(Output::Moving(token, answer.map(Box::new)));
        }
    }

    fn try_want(&mut self, token: Token, wanted: Wanted, out: &mut Vec<Output>) -> Result<Option<MoveStatus>, Refusal> {
        let mailbox = wanted.order.switch.mailbox;
        let Some(known) = self.ledger.head().mailbox(&mailbox) else {
            return Err(Refusal::NotFound { what: format!("mailbox {mailbox}") });
        };
        if self.phase == Phase::Joining || self.draining {
            return Err(Refusal::NotReady);
        }
        let switch = &wanted.order.switch;
        let digest = wanted.order.digest(&self.config.federation);
        let came_by_it = known.moved.as_ref().is_some_and(|moved| moved.switch == digest);
        if switch.home == known.home && known.record != digest && !came_by_it {
            known.admits(&wanted.order).map_err(|reason| Refusal::Invalid { reason: reason.into() })?;
            if self.staying.len() >= MAX_STAYING {
                return Err(Refusal::Busy);
            }
            self.staying.entry(digest).or_default().push(token);
            let order = Box::new(wanted.order.into_inner());
            self.hand_in_record(Verified::from_own_disk(Record::Move(order)), out);
            return Ok(None);
        }
        if switch.home == known.home && known.home != self.me {
            return Ok(self.stays(&mailbox));
        }
        if switch.home != self.me {
            return Err(Refusal::NotHere { home: switch.home });
        }
        if !came_by_it && !self.arrivals.has(&mailbox) {
            self.may_move(&mailbox, Extent::default(), 0)?;
        }
        let writes = self.arrivals.want(wanted, self.ledger.head())?;
        if !writes.is_empty() {
            self.persist(writes, out);
        }
        Ok(self.move_status(&mailbox))
    }

    /// A mailbox that stays where it is.
    fn stays(&self, mailbox: &MailboxId) -> Option<MoveStatus> {
        let known = self.ledger.head().mailbox(mailbox)?;
        Some(MoveStatus::new(*mailbox, MovePhase::Abandoned, known.home, known.home, known.record))
    }

    /// How far the move of a mailbox to this node has come; none if it neither moves here nor has moved here.
    pub fn move_status(&self, mailbox: &MailboxId) -> Option<MoveStatus> {
        self.arrivals.status(mailbox, self.ledger.head())
    }

    /// For mailboxes that moved here: what former homes may still have for them.
    pub fn unsettled(&self) -> BTreeMap<MailboxId, Unsettled> {
        self.arrivals.unsettled(self.ledger.head())
    }

    /// A cut was applied: who came, and who left, with the epoch since which it had lived here.
    pub(super) fn residences(
        &mut self,
        cut: &Cut,
        writes: &mut Vec<Write>,
        out: &mut Vec<Output>,
    ) -> Vec<(MailboxId, u64)> {
        let epoch = cut.certified.header.epoch;
        let mut left = Vec::new();
        let head = self.ledger.head();
        for key in self.ledger.touched() {
            let StateKey::Mailbox(mailbox) = *key else { continue };
            let Some(known) = head.mailbox(&mailbox).filter(|known| known.since == epoch) else { continue };
            let Some(span) = known.moved.as_ref().and_then(|moved| moved.spans.last()) else { continue };
            if span.node == self.me {
                left.push((mailbox, span.since));
            }
            if known.home == self.me {
                writes.extend(self.outbox.expect(mailbox, epoch));
                let switch = known.moved.as_ref().map_or(known.record, |moved| moved.switch);
                writes.push(self.arrivals.expect(&mailbox, switch, epoch));
            }
        }
        for record in &cut.body.records {
            if let Record::Move(order) = record {
                let digest = order.digest(&self.config.federation);
                let status = self.stays(&order.switch.mailbox);
                for (token, status) in self.staying.remove(&digest).into_iter().flatten().zip(std::iter::repeat(status))
                {
                    let gone = Refusal::NotFound { what: "the mailbox".into() };
                    out.push(Output::Moving(token, status.map(Box::new).ok_or(gone)));
                }
            }
        }
        if !left.is_empty() {
            self.tell_retired(out);
        }
        left
    }

    /// The sequencer cannot settle a switch or an import.
    pub(super) fn move_rejected(&mut self, digest: &Digest, reason: &str, out: &mut Vec<Output>) {
        self.arrivals.rejected(digest, reason);
        for token in self.staying.remove(digest).into_iter().flatten() {
            out.push(Output::Moving(token, Err(Refusal::NotAllowed { reason: reason.to_owned() })));
        }
    }

    /// Goes on with what moves here.
    pub(super) fn pursue_arrivals(
        &mut self,
        now: Time,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        if self.phase == Phase::Joining || self.draining || self.arrivals.next_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        let token = self.next_token();
        let peers = &self.router.peers;
        let around = Surroundings {
            now,
            head: self.ledger.head(),
            delivered: self.receiver.delivered(),
            store,
            token,
            is_present: &|node| peers.is_present(node),
            cuts: Cuts::default(),
        };
        let steps = self.arrivals.pursue(&around)?;
        self.arriving.extend(steps.whole.into_iter().map(|mailbox| (token, mailbox)));
        if !steps.writes.is_empty() {
            out.push(Output::Persist(token, steps.writes));
        }
        out.extend(steps.outputs);
        for record in steps.records {
            self.hand_in_record(Verified::from_own_disk(record), out);
        }
        // What a cut has settled may be known only now: mail for everybody else waits for it as well.
        if self.receiver.awaits_arrival() {
            let before = self.receiver.delivered();
            self.deliver(store, out)?;
            if self.receiver.delivered() != before {
                out.push(Output::Applied(self.ledger.head().epoch, self.receiver.delivered()));
            }
        }
        Ok(())
    }

    /// Rows up to `token` are durable: imports are signed, and logs that are whole go on here.
    pub(super) fn arrivals_persisted(
        &mut self,
        token: u64,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        if self.phase != Phase::Joining {
            for record in self.arrivals.persisted(token) {
                self.hand_in_record(Verified::from_own_disk(record), out);
            }
        }
        let (here, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.arriving).into_iter().partition(|(waits, _)| *waits <= token);
        self.arriving = waiting;
        let mut writes = Vec::new();
        for (_, mailbox) in here {
            writes.extend(self.outbox.arrive(&mailbox, store)?);
        }
        if !writes.is_empty() {
            self.persist(writes, out);
            out.push(Output::Applied(self.ledger.head().epoch, self.receiver.delivered()));
        }
        Ok(())
    }
}
