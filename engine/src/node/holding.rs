//! Holding: slices that origins hand over or ask about, what of them this node's mailboxes refuse, and what became of a
//! message for one of them.

use std::sync::Arc;

use postroad_protocol::batch::Header;
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{CustodyRequest, RefusedLeaf};
use postroad_protocol::refused::{RefusedBy, RefusedProof, SettledFill};
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::state::{PendingKey, State};
use postroad_protocol::wire::mail::Homeward;
use postroad_protocol::{MailboxId, NodeId, Seq, Signed};
use postroad_store::{Read, StoreError};

use super::{Node, Phase};
use crate::departures::has_lived;
use crate::gate::Load;
use crate::io::{Fate, Held, Output, Report};
use crate::outbox::Outbox;
use crate::tables::{self, CUTS, REFUSED};

/// Slices whose routing epoch this node has not reached yet, kept until it has; of one origin.
const MAX_EARLY: usize = 8;

/// What a mailbox holds here that its owner has not acknowledged; none if it is unknown here. One that has left is not
/// unknown: what was routed here before, its new home takes from here. One that is still coming holds nothing yet.
pub(super) fn holds<'a>(outbox: &'a Outbox, head: &'a State, me: NodeId) -> impl Fn(&MailboxId) -> Option<Load> + 'a {
    move |mailbox| {
        let known = |mailbox| head.mailbox(mailbox).filter(|known| has_lived(known, &me));
        outbox.unacknowledged(mailbox).or_else(|| known(mailbox).map(|_| Load::default()))
    }
}

impl Node {
    /// An origin hands over a slice.
    pub(super) fn slice(
        &mut self,
        from: NodeId,
        held: Held,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let head = self.ledger.head();
        let header: &Header = &held.parcel.header.body;
        let key = held.key;
        let refuse = |reason: &str| Output::ToOrigin(from, Homeward::Refused(key, reason.to_owned()));
        if let Some(challenge) = self.witnessed(&held).filter(|_| matches!(self.phase, Phase::Started { .. })) {
            if !self.deposits.take(&held, None) {
                out.push(refuse("this node holds as much for the slice's origin as it may"));
                return Ok(());
            }
            let token = self.next_token();
            let writes = self.receiver.hold(&held, Some(challenge), Vec::new(), token, store)?;
            out.push(Output::Persist(token, writes));
            return Ok(());
        }
        if key.origin != from {
            out.push(refuse("the slice is of another origin"));
            return Ok(());
        }
        if self.refused.contains(&from) {
            out.push(refuse("this node takes nothing new from its origin, by its operator's policy"));
            return Ok(());
        }
        if self.phase == Phase::Joining || self.draining {
            out.push(refuse("not ready"));
            return Ok(());
        }
        let params = self.config.federation.params();
        let window = params.routing_window_epochs;
        if header.routing_epoch.saturating_add(window) < head.epoch || header.routing_epoch > head.epoch + window {
            out.push(refuse("its routing epoch is out of the window"));
            return Ok(());
        }
        let until = header.routing_epoch + window;
        let mut refused = Vec::new();
        if key.destination == self.me {
            // A receipt could not refuse all of them.
            if held.index.count() > params.max_leaves() {
                out.push(refuse("it has more leaves than a batch can hold"));
                return Ok(());
            }
            // A mailbox that is unknown here may have been registered in a cut that this node does not have yet.
            let ahead = header.routing_epoch > head.epoch;
            if ahead && !held.index.leaves().keys().all(|mailbox| head.home(mailbox) == Some(self.me)) {
                if self.early_slices.iter().filter(|(origin, _)| *origin == from).count() < MAX_EARLY {
                    self.early_slices.push((from, held));
                } else {
                    out.push(refuse("its routing epoch is not settled here yet"));
                }
                return Ok(());
            }
            if held.parcel.request.is_none() {
                let holds = holds(&self.outbox, self.ledger.head(), self.me);
                refused = self.gate.decide(&key, until, &held.index, holds);
            }
        } else if !held.parcel.request.as_ref().is_some_and(|request| request.body.custodians.contains(&self.me)) {
            out.push(refuse("it is for another node, and no request asks this one to hold it"));
            return Ok(());
        } else if !self.deposits.take(&held, Some(until)) {
            out.push(refuse("this node holds as much for its origin as it may"));
            return Ok(());
        }
        let token = self.next_token();
        let writes = self.receiver.hold(&held, None, refused, token, store)?;
        let is_new = !writes.is_empty();
        out.push(Output::Persist(token, writes));
        if is_new {
            out.push(Output::Report(Report::Held { in_custody: key.destination != self.me }));
        }
        Ok(())
    }

    /// An origin asks for another receipt.
    pub(super) fn resume(
        &mut self,
        from: NodeId,
        key: SliceKey,
        request: Option<&Signed<CustodyRequest>>,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let mut refused = Vec::new();
        if key.destination == self.me && key.origin == from && request.is_none() {
            match self.gate.decided(&key) {
                Some(decided) => refused = decided.to_vec(),
                None => {
                    if let Some(index) = self.receiver.index(&key, store)? {
                        let until = self.ledger.head().epoch + self.config.federation.params().routing_window_epochs;
                        let holds = holds(&self.outbox, self.ledger.head(), self.me);
                        refused = self.gate.decide(&key, until, &index, holds);
                    }
                }
            }
        }
        let token = self.next_token();
        if key.origin == from && self.receiver.resume(&key, request, refused, token, store)? {
            out.push(Output::Persist(token, Vec::new()));
        } else {
            out.push(Output::ToOrigin(from, Homeward::Missing(key)));
        }
        Ok(())
    }

    /// Holds the part of this node's own batch that is for itself, and decides what of it is refused.
    pub(super) fn hold_own(&mut self, key: SliceKey, body: &Arc<SliceBody>, bundle_count: u32) {
        let Some(index) = self.receiver.remember_own(key, body, bundle_count) else { return };
        let until = self.ledger.head().epoch + self.config.federation.params().routing_window_epochs;
        let holds = holds(&self.outbox, self.ledger.head(), self.me);
        let refused: Vec<RefusedLeaf> = self.gate.decide(&key, until, &index, holds);
        self.router.refuse_own(&key, refused);
    }

    /// What became of the message at `seq` for `mailbox`, finally, as far as is known.
    pub(super) fn fate(&self, mailbox: &MailboxId, seq: Seq, store: &dyn Read) -> Result<Option<Fate>, StoreError> {
        if let Some(proof) = self.outbox.delivery(mailbox, seq, store)? {
            return Ok(Some(Fate::Delivered(Box::new(proof))));
        }
        let place = tables::place_key(seq.epoch, seq.position);
        let Some(settled) = tables::get::<u64>(store, REFUSED, &place)? else { return Ok(None) };
        let federation = &self.config.federation;
        let load = |epoch: u64| tables::get::<Cut>(store, CUTS, &tables::number_key(epoch));
        let Some(cut) = load(seq.epoch)? else { return Ok(None) };
        let at = seq.position as usize;
        let Some(order) = cut.body.header_proofs(federation).into_iter().nth(at) else { return Ok(None) };
        let by = if settled == seq.epoch {
            RefusedBy::Receipt(cut.body.headers[at].custody.clone())
        } else {
            let header = order.header.digest(federation);
            let Some(cut) = load(settled)? else { return Ok(None) };
            let slice = PendingKey { destination: self.me, header };
            let Some(settled) = SettledFill::find(&cut, &slice) else { return Ok(None) };
            RefusedBy::Fill(Box::new(settled))
        };
        let proof = RefusedProof { cut: cut.certified, order, by };
        let holds = proof.verify(seq, mailbox, &self.me, federation).is_ok();
        Ok(holds.then(|| Fate::Refused(Box::new(proof))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postroad_protocol::codec::encode;
    use postroad_protocol::genesis::{Genesis, Member, Params};
    use postroad_protocol::state::{MailboxState, Moved, Span, StateKey};
    use postroad_protocol::{Digest, Federation, SecretKey};
    use postroad_store::Store;

    use super::*;

    #[test]
    fn a_mailbox_that_has_left_or_is_still_coming_is_not_unknown() {
        let key = |seed: u8| SecretKey::from_seed([seed; 32]);
        let id = |seed: u8| key(seed).public();
        let committee = vec![Member { node: id(0), addrs: Vec::new() }];
        let genesis =
            Genesis { name: "holding".into(), time_ms: 0, committee, allow: Vec::new(), params: Params::default() };
        let federation = Federation::new(genesis).expect("a genesis");
        let (me, other) = (id(1), id(2));
        let mut head = State::genesis(&federation);
        let mut lives = |mailbox: u8, home: NodeId, before: Option<NodeId>| {
            let span = |node| Span { node, since: 1, until: 5, complete: Some(1) };
            let moved = before.map(|node| Moved { spans: vec![span(node)], switch: Digest::ZERO, import: None });
            let value = MailboxState {
                home,
                since: 5,
                record: Digest::ZERO,
                encryption_key: Digest::ZERO,
                recovery_key: None,
                registered: 1,
                moved,
                recovered: None,
            };
            head.restore(StateKey::Mailbox(id(mailbox)), &encode(&value)).expect("a value");
        };
        lives(10, other, Some(me));
        lives(11, me, Some(other));
        lives(12, other, None);
        let store = Store::memory(&tables::ALL).snapshot().expect("a snapshot");
        let outbox = Outbox::open(&key(1), &federation, &BTreeMap::new(), |_, _| false, &store).expect("no rows");
        let holds = holds(&outbox, &head, me);
        assert_eq!(holds(&id(10)), Some(Load::default()), "it has left");
        assert_eq!(holds(&id(11)), Some(Load::default()), "its log is still coming");
        assert_eq!(holds(&id(12)), None, "it never lived here");
        assert_eq!(holds(&id(13)), None, "nobody knows it");
    }
}
