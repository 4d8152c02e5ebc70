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
