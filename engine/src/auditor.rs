//! The auditor compares what passes through this node with what it has seen before, and finds contradictions: two
//! headers with one number; in the slices that are delivered here, bundles that were routed too late, for another
//! origin, or out of their sender's order.
//!
//! It only compares values; a claim is built, from disk, when something is wrong. What it remembers is bounded and in
//! memory. So a node that has just started may miss what only the one before could have seen; clients look as well.

use std::collections::BTreeMap;

use postroad_protocol::batch::Header;
use postroad_protocol::evidence::{Claim, Equivocation};
use postroad_protocol::slice::SliceIndex;
use postroad_protocol::{Federation, MailboxId, NodeId, Signed};

use crate::outbox::Place;

/// Headers of one origin that are remembered; those with the lowest numbers go first.
const MAX_HEADERS: usize = 256;
/// Origins whose headers are remembered: more than there are nodes.
const MAX_ORIGINS: usize = 1_024;
/// (Origin, sender) pairs whose bundles are remembered, and how many of each.
const MAX_SENDERS: usize = 16_384;
const MAX_BUNDLES: usize = 16;
/// What is found and not built yet, at most.
const MAX_FOUND: usize = 16;

/// A bundle that was delivered.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Where its slice was ordered.
    pub place: Place,
    /// Its place in the batch.
    pub ordinal: u32,
}

/// What is wrong with what was delivered.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// Routed after its valid-until.
    Stale(Seen),
    /// Meant for another origin, or without a counter.
    Forged(Seen),
    /// The counter of the second is not above that of the first.
    Misordered(Seen, Seen),
}

#[derive(Clone, Copy, Debug)]
struct Counters {
    seen: Seen,
    first: u64,
    last: u64,
}

/// Bundles of one sender, by incarnation, header number and ordinal.
type Delivered = BTreeMap<(u64, u64, u32), Counters>;

/// What is remembered.
#[derive(Debug)]
pub struct Auditor {
    me: NodeId,
    federation: Federation,
    /// By number and incarnation.
    headers: BTreeMap<NodeId, BTreeMap<(u64, u64), Signed<Header>>>,
    delivered: BTreeMap<(NodeId, MailboxId), Delivered>,
    found: Vec<Found>,
}

impl Auditor {
    /// An auditor that has seen nothing.
    pub fn new(me: NodeId, federation: &Federation) -> Auditor {
        let federation = federation.clone();
        Auditor { me, federation, headers: BTreeMap::new(), delivered: BTreeMap::new(), found: Vec::new() }
    }

    /// A header whose signature holds came by. Returns the contradiction with one that came before.
    pub fn header(&mut self, header: &Signed<Header>) -> Option<Claim> {
        let body = &header.body;
        if body.origin == self.me {
            return None;
        }
        if self.headers.len() >= MAX_ORIGINS && !self.headers.contains_key(&body.origin) {
            self.headers.pop_first();
        }
        let known = self.headers.entry(body.origin).or_default();
        let slot = (body.number, body.incarnation);
        match known.get(&slot) {
            Some(before) if before.body == *body => None,
            Some(before) => {
                let claim = Equivocation::of(before.clone(), header.clone(), &self.federation);
                Some(Claim::Equivocation(Box::new(claim)))
            }
            None => {
                known.insert(slot, header.clone());
                if known.len() > MAX_HEADERS {
                    known.pop_first();
                }
                None
            }
        }
    }

    /// A slice for this node was delivered.
    pub fn delivered(&mut self, place: Place, index: &SliceIndex) {
        let origin = place.slice.origin;
        if origin == self.me {
            return;
        }
        let number = place.slice.number;
        let headers = self.headers.get(&origin).into_iter();
        let mut known = headers.flat_map(|known| known.range((number, 0)..=(number, u64::MAX)));
        let Some(header) = known.find(|(_, header)| header.digest(&self.federation) == place.slice.header) else {
            return;
        };
        let (routed, incarnation) = (header.1.body.routing_epoch, header.1.body.incarnation);
        for bundle in index.bundles() {
            let seen = Seen { place, ordinal: bundle.ordinal };
            if routed > bundle.valid_until {
                self.note(Found::Stale(seen));
            }
            if bundle.via != origin || bundle.counter == 0 {
                self.note(Found::Forged(seen));
                continue;
            }
            if self.delivered.len() >= MAX_SENDERS && !self.delivered.contains_key(&(origin, bundle.sender)) {
                self.delivered.pop_first();
            }
            let before = self.delivered.entry((origin, bundle.sender)).or_default();
            let at = (incarnation, number, bundle.ordinal);
            // Of one incarnation; a slice that was pending comes behind later ones.
            let earlier = before.range((incarnation, 0, 0)..at).next_back().map(|(_, counters)| *counters);
            let later = before.range(at..=(incarnation, u64::MAX, u32::MAX)).find(|(known, _)| **known != at);
            let later = later.map(|(_, counters)| *counters);
            before.insert(at, Counters { seen, first: bundle.counter, last: bundle.last_counter });
            if before.len() > MAX_BUNDLES {
                before.pop_first();
            }
            if let Some(earlier) = earlier.filter(|earlier| earlier.last >= bundle.counter) {
                self.note(Found::Misordered(earlier.seen, seen));
            }
            if let Some(later) = later.filter(|later| bundle.last_counter >= later.first) {
                self.note(Found::Misordered(seen, later.seen));
            }
        }
    }

    fn note(&mut self, found: Found) {
        if self.found.len() < MAX_FOUND {
            self.found.push(found);
        }
    }

    /// What was found since this was asked last.
    pub fn take_found(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use postroad_protocol::batch::{Entries, route};
    use postroad_protocol::bundle::{Bundle, BundleBody};
    use postroad_protocol::evidence::Fault;
    use postroad_protocol::genesis::{Genesis, Member, Params};
    use postroad_protocol::message::{Message, Recipient};
    use postroad_protocol::slice::SliceKey;
    use postroad_protocol::{Digest, SecretKey};

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn federation() -> Federation {
        let committee = vec![Member { node: key(0).public(), addrs: Vec::new() }];
        Federation::new(Genesis {
            name: "test".into(),
            time_ms: 0,
            committee,
            allow: Vec::new(),
            params: Params::default(),
        })
        .unwrap()
    }

    fn header(federation: &Federation, number: u64, incarnation: u64, routing_epoch: u64) -> Signed<Header> {
        let entries = Entries::over(std::iter::empty(), federation.id());
        let (previous, slices) = (Digest::ZERO, Vec::new());
        let origin = key(1).public();
        let header =
            Header { origin, incarnation, number, previous, routing_epoch, attestation: None, entries, slices };
        Signed::sign(header, &key(1), federation).into_inner()
    }

    #[test]
    fn two_headers_with_one_number_are_evidence_and_those_of_two_incarnations_are_not() {
        let federation = federation();
        let mut auditor = Auditor::new(key(2).public(), &federation);
        let first = header(&federation, 7, 1, 10);
        assert!(auditor.header(&first).is_none() && auditor.header(&first).is_none());
        assert!(auditor.header(&header(&federation, 7, 2, 11)).is_none());
        assert!(auditor.header(&header(&federation, 8, 1, 11)).is_none());
        let claim = auditor.header(&header(&federation, 7, 1, 11)).expect("another header with that number");
        assert_eq!(claim.judge(&federation).map(|verdict| verdict.fault), Ok(Fault::Equivocation));
        let many = (0..2 * MAX_HEADERS as u64)
            .filter(|number| auditor.header(&header(&federation, 100 + number, 1, 10)).is_some());
        assert_eq!(many.count(), 0);
        assert_eq!(auditor.headers[&key(1).public()].len(), MAX_HEADERS);
    }

    /// Delivers a bundle with this counter in the header with this number, for `via`.
    fn deliver(auditor: &mut Auditor, (number, counter, valid_until): (u64, u64, u64), via: NodeId) -> Vec<Found> {
        let federation = federation();
        let header = header(&federation, number, 1, 10);
        let (origin, destination) = (key(1).public(), key(2).public());
        let recipients = vec![Recipient { mailbox: key(5).public(), own: Vec::new() }];
        let messages = vec![Message { salt: [1; 16], common: vec![7], recipients }];
        let body = BundleBody::new(key(3).public(), via, counter, valid_until, &messages);
        let bundle = Bundle { signed: Signed::sign(body, &key(3), &federation).into_inner(), messages };
        let routed = route(&[bundle], federation.id(), |_| Some(destination));
        let index = routed.bodies[0].index(1, federation.id()).unwrap();
        let slice = SliceKey { origin, number, header: header.digest(&federation), destination };
        assert!(auditor.header(&header).is_none());
        auditor.delivered(Place { settled: 20, epoch: 20, position: 0, slice, routing_epoch: 1 }, &index);
        auditor.take_found()
    }

    #[test]
    fn what_is_delivered_late_astray_or_out_of_order_is_found_and_nothing_else() {
        let mut auditor = Auditor::new(key(2).public(), &federation());
        let origin = key(1).public();
        assert!(deliver(&mut auditor, (1, 5, 10), origin).is_empty());
        assert!(deliver(&mut auditor, (3, 9, 10), origin).is_empty());
        // A slice that was pending comes later, and stands between.
        assert!(deliver(&mut auditor, (2, 7, 10), origin).is_empty());
        assert!(matches!(deliver(&mut auditor, (4, 9, 10), origin)[..], [Found::Misordered(before, after)]
            if (before.place.slice.number, after.place.slice.number) == (3, 4)));
        assert!(matches!(deliver(&mut auditor, (5, 20, 9), origin)[..], [Found::Stale(_)]));
        assert!(matches!(deliver(&mut auditor, (6, 21, 10), key(4).public())[..], [Found::Forged(_)]));
    }
}
