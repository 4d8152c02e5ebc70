//! Exhibits: slices that were not taken, because their messages lead nowhere, and whose leaves give the very root that
//! their origin signed. With the entries at a leaf's index, which the sender can disclose, one is evidence of a bad slice.

use std::collections::BTreeMap;

use postroad_protocol::batch::Header;
use postroad_protocol::evidence::{BadSlice, BundleAt, Claim, Entry, MessageAt, SliceProof};
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::{SliceBody, SliceIndex, SliceKey};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Signed};

/// Exhibits that are kept, of one origin and in all; the oldest numbers go first.
const MAX_OF_ORIGIN: usize = 4;
const MAX: usize = 64;

/// A slice that says something else than its batch.
#[derive(Clone, Debug)]
pub struct Exhibit {
    key: SliceKey,
    header: Signed<Header>,
    index: SliceIndex,
}

impl Exhibit {
    /// Of a parcel that was not taken; none if its leaves are not those of the signed header.
    pub fn of(parcel: &SliceParcel, federation: &Federation) -> Option<Exhibit> {
        let header = &parcel.header;
        let slice = header.body.slice(&parcel.destination)?;
        if header.body.slices.len() as u64 > federation.params().max_slices {
            return None;
        }
        header.verify(federation).ok()?;
        let index = parcel.body.claimed(header.body.entries.bundles, federation.id()).ok()?;
        (index.root() == slice.root).then(|| Exhibit {
            key: SliceKey::of(parcel, header.digest(federation)),
            header: header.clone(),
            index,
        })
    }

    /// The slice's name.
    pub fn key(&self) -> &SliceKey {
        &self.key
    }

    /// The header that its origin signed.
    pub fn header(&self) -> &Signed<Header> {
        &self.header
    }

    /// What the slice holds for a mailbox.
    pub fn slice(&self, mailbox: &MailboxId) -> SliceProof {
        self.index.prove(mailbox)
    }

    /// A leaf for a message that the batch has not.
    pub(crate) fn beyond(&self) -> Option<Claim> {
        let end = self.header.body.entries.messages;
        self.index.leaves().iter().find_map(|(mailbox, leaves)| {
            let leaf = leaves.iter().position(|leaf| leaf.index >= end)?;
            Some(self.accuse(*mailbox, leaf, Entry::Beyond))
        })
    }

    /// A leaf that another slice of the same header, which holds, contradicts: the message has recipients in both.
    pub(crate) fn against(&self, body: &SliceBody, bundles: u32, federation: &Federation) -> Option<Claim> {
        let other = body.index(bundles, federation.id()).ok()?;
        let true_leaves: BTreeMap<u64, _> = other.leaves().values().flatten().map(|leaf| (leaf.index, leaf)).collect();
        for (mailbox, leaves) in self.index.leaves() {
            for (at, leaf) in leaves.iter().enumerate() {
                let Some(known) = true_leaves.get(&leaf.index).filter(|known| known.message != leaf.message) else {
                    continue;
                };
                let bundle = &body.bundles[known.bundle_at as usize];
                let message = &bundle.messages[known.message_at as usize];
                let signed = bundle.signed.clone();
                let entry = Entry::Other(Box::new(MessageAt {
                    bundle: BundleAt { ordinal: bundle.ordinal, signed, path: bundle.path.clone() },
                    index: message.index,
                    message: known.message,
                    path: message.path.clone(),
                }));
                return Some(self.accuse(*mailbox, at, entry));
            }
        }
        None
    }

    fn accuse(&self, mailbox: MailboxId, leaf: usize, entry: Entry) -> Claim {
        let (header, destination, slice) = (self.header.clone(), self.key.destination, self.slice(&mailbox));
        Claim::BadSlice(Box::new(BadSlice { header, destination, mailbox, slice, leaf: leaf as u32, entry }))
    }
}

/// The exhibits of a node, in memory.
#[derive(Debug, Default)]
pub struct Exhibits(BTreeMap<SliceKey, Exhibit>);

impl Exhibits {
    /// Keeps one.
    pub fn keep(&mut self, exhibit: Exhibit) {
        let origin = exhibit.key.origin;
        self.0.insert(exhibit.key, exhibit);
        let of_origin: Vec<SliceKey> = self.0.keys().filter(|key| key.origin == origin).copied().collect();
        if of_origin.len() > MAX_OF_ORIGIN {
            self.0.remove(&of_origin[0]);
        }
        if self.0.len() > MAX {
            self.0.pop_first();
        }
    }

    /// The exhibit for a slice, by header and destination.
    pub fn of(&self, header: &Digest, destination: &NodeId) -> Option<&Exhibit> {
        self.0.values().find(|exhibit| exhibit.key.header == *header && exhibit.key.destination == *destination)
    }
}

#[cfg(test)]
mod tests {
    use postroad_protocol::SecretKey;
    use postroad_protocol::batch::route;
    use postroad_protocol::bundle::{Bundle, BundleBody};
    use postroad_protocol::evidence::Fault;
    use postroad_protocol::genesis::{Genesis, Member, Params};
    use postroad_protocol::message::{Message, Recipient};

    use super::*;
    use crate::io::Held;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn federation() -> Federation {
        let committee = vec![Member { node: key(0).public(), addrs: Vec::new() }];
        let genesis =
            Genesis { name: "test".into(), time_ms: 0, committee, allow: Vec::new(), params: Params::default() };
        Federation::new(genesis).unwrap()
    }

    /// An origin signs the root of a slice whose message it altered, and a true slice of the same message for another
    /// destination.
    #[test]
    fn a_slice_that_was_altered_and_signed_is_an_exhibit_and_a_true_one_beside_it_convicts() {
        let federation = federation();
        let nodes = [key(11).public(), key(12).public()];
        let recipient = |seed: u8| Recipient { mailbox: key(seed).public(), own: Vec::new() };
        let recipients = vec![recipient(21), recipient(22)];
        let messages = vec![Message { salt: [1; 16], common: vec![7; 9], recipients }];
        let body = BundleBody::new(key(3).public(), key(1).public(), 1, 10, &messages);
        let bundle = Bundle { signed: Signed::sign(body, &key(3), &federation).into_inner(), messages };
        let home = |mailbox: &MailboxId| Some(nodes[usize::from(*mailbox == key(22).public())]);
        let mut routed = route(&[bundle], federation.id(), home);
        let bad = routed.slices.iter().position(|slice| slice.destination == nodes[0]).unwrap();
        routed.bodies[bad].bundles[0].messages[0].common = vec![8; 9];
        let sign = |slices: Vec<_>| {
            let header = Header {
                origin: key(1).public(),
                incarnation: 1,
                number: 1,
                previous: Digest::ZERO,
                routing_epoch: 5,
                attestation: None,
                entries: routed.entries,
                slices,
            };
            Signed::sign(header, &key(1), &federation).into_inner()
        };
        let parcel = |header: &Signed<Header>| SliceParcel {
            header: header.clone(),
            destination: nodes[0],
            request: None,
            body: routed.bodies[bad].clone(),
        };
        // Altered on its way: the origin has not signed that, and it shows nothing.
        let honest = sign(routed.slices.clone());
        assert!(matches!(Held::examine(parcel(&honest), &federation), Err((_, None))));

        let mut slices = routed.slices.clone();
        slices[bad].root = routed.bodies[bad].claimed(1, federation.id()).unwrap().root();
        let header = sign(slices);
        let Err((_, Some(exhibit))) = Held::examine(parcel(&header), &federation) else { panic!("it is taken") };
        assert!(exhibit.beyond().is_none());
        let other = &routed.bodies[1 - bad];
        let claim = exhibit.against(other, 1, &federation).expect("another message stands there");
        let verdict = claim.judge(&federation).expect("it convicts");
        assert_eq!((verdict.fault, verdict.culprit), (Fault::BadSlice, key(1).public()));
        assert!(exhibit.against(&routed.bodies[bad], 1, &federation).is_none(), "what does not hold proves nothing");

        let mut exhibits = Exhibits::default();
        exhibits.keep(*exhibit);
        let digest = header.digest(&federation);
        let kept = exhibits.of(&digest, &nodes[0]).expect("it is kept");
        let root = header.body.slice(&nodes[0]).unwrap().root;
        assert_eq!(kept.slice(&key(21).public()).verify(&root, &key(21).public()).map(<[_]>::len), Ok(1));
        assert!(exhibits.of(&digest, &nodes[1]).is_none());
    }
}
