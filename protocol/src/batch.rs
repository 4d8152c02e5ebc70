//! A batch: bundles in order under one signed, chained, Merkle-committed header; and how a batch is cut into slices.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::bundle::{Bundle, BundleBody, message_tree};
use crate::crypto::{MailboxId, NodeId, PublicKey};
use crate::digest::Digest;
use crate::merkle::sum::{SumPath, SumRoot, SumTree};
use crate::signed::{Signed, Statement, digest_of};
use crate::slice::{SliceBody, SliceBundle, SliceMessage};

/// What an origin signs over one batch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Header {
    /// The node that sealed the batch.
    #[n(0)]
    pub origin: NodeId,
    /// The origin's incarnation.
    #[n(1)]
    pub incarnation: u64,
    /// Rises along the chain.
    #[n(2)]
    pub number: u64,
    /// The digest of the header before, or zero.
    #[n(3)]
    pub previous: Digest,
    /// The epoch whose directory routed the batch.
    #[n(4)]
    pub routing_epoch: u64,
    /// A new attestation of the origin, if there is one.
    #[n(5)]
    pub attestation: Option<AttestationRef>,
    /// The sum tree over the bundles.
    #[n(6)]
    pub entries: Entries,
    /// The slices, by destination in ascending order.
    #[n(7)]
    pub slices: Vec<SliceRef>,
}

/// An attestation's running number and digest, and the epoch that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AttestationRef {
    /// The slot: rises with every attestation and is never used again.
    #[n(0)]
    pub number: u64,
    /// The attestation's digest.
    #[n(1)]
    pub digest: Digest,
    /// The epoch that it attests.
    #[n(2)]
    pub epoch: u64,
}

/// The root of a batch's sum tree over its bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entries {
    /// How many bundles.
    #[n(0)]
    pub bundles: u32,
    /// How many messages.
    #[n(1)]
    pub messages: u64,
    /// The root's hash.
    #[n(2)]
    pub root: Digest,
}

/// One slice, as its header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceRef {
    /// The node it is for.
    #[n(0)]
    pub destination: NodeId,
    /// The root of its map from mailbox to what is for it.
    #[n(1)]
    pub root: Digest,
    /// How many (message, recipient) pairs.
    #[n(2)]
    pub count: u64,
}

impl Statement for Header {
    const KIND: &'static str = "header";

    fn signer(&self) -> PublicKey {
        self.origin
    }
}

impl Header {
    /// The slice for `destination`, if there is one.
    pub fn slice(&self, destination: &NodeId) -> Option<&SliceRef> {
        self.slices.iter().find(|slice| slice.destination == *destination)
    }
}

/// The payload of a bundle's leaf in the sum tree: body digest and signature bytes.
pub fn bundle_leaf(bundle: &Signed<BundleBody>, federation: Digest) -> Digest {
    let body = digest_of(&bundle.body, federation);
    Digest::tagged("bundle-leaf", &[&body.0, &bundle.signature.0])
}

/// The sum tree over a batch's bundles.
fn sum_tree<'a>(bundles: impl Iterator<Item = &'a Signed<BundleBody>>, federation: Digest) -> SumTree {
    SumTree::new(bundles.map(|bundle| (u64::from(bundle.body.count), bundle_leaf(bundle, federation))).collect())
}

/// The path of the bundle at `ordinal` to the entries root.
pub fn bundle_path(bundles: &[Bundle], ordinal: usize, federation: Digest) -> SumPath {
    sum_tree(bundles.iter().map(|bundle| &bundle.signed), federation).path(ordinal)
}

impl Entries {
    /// The root over `bundles`.
    pub fn over<'a>(bundles: impl ExactSizeIterator<Item = &'a Signed<BundleBody>>, federation: Digest) -> Entries {
        let count = bundles.len() as u32;
        let SumRoot { count: messages, hash: root } = sum_tree(bundles, federation).root();
        Entries { bundles: count, messages, root }
    }
}

/// A batch cut into slices, and what its header says of it.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The root over the bundles.
    pub entries: Entries,
    /// The slices as the header lists them.
    pub slices: Vec<SliceRef>,
    /// The slices themselves, in the same order.
    pub bodies: Vec<SliceBody>,
    /// For each bundle the path to the entries root.
    pub paths: Vec<SumPath>,
}

/// Cuts bundles into slices by `home`, which says where a mailbox lives at the routing epoch. Recipients without a home
/// are left out; an inbox refuses them before.
pub fn route(bundles: &[Bundle], federation: Digest, home: impl Fn(&MailboxId) -> Option<NodeId>) -> Routed {
    let tree = sum_tree(bundles.iter().map(|bundle| &bundle.signed), federation);
    let paths: Vec<SumPath> = (0..bundles.len()).map(|ordinal| tree.path(ordinal)).collect();
    let mut bodies: BTreeMap<NodeId, SliceBody> = BTreeMap::new();
    for (ordinal, bundle) in bundles.iter().enumerate() {
        let disclosed: Vec<_> = bundle.messages.iter().map(crate::message::Message::disclose).collect();
        let messages = message_tree(&disclosed.iter().map(|(digest, _)| *digest).collect::<Vec<_>>());
        let mut parts: BTreeMap<NodeId, Vec<SliceMessage>> = BTreeMap::new();
        for (index, (_, recipients)) in disclosed.into_iter().enumerate() {
            let message = &bundle.messages[index];
            let mut by_home: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
            for recipient in recipients {
                if let Some(node) = home(&recipient.mailbox) {
                    by_home.entry(node).or_default().push(recipient);
                }
            }
            for (node, recipients) in by_home {
                parts.entry(node).or_default().push(SliceMessage {
                    index: index as u32,
                    path: messages.path(index),
                    common: message.common.clone(),
                    recipient_count: message.recipients.len() as u32,
                    recipients,
                });
            }
        }
        for (node, messages) in parts {
            bodies.entry(node).or_default().bundles.push(SliceBundle {
                ordinal: ordinal as u32,
                signed: bundle.signed.clone(),
                path: paths[ordinal].clone(),
                messages,
            });
        }
    }
    let mut slices = Vec::with_capacity(bodies.len());
    let mut parts = Vec::with_capacity(bodies.len());
    for (destination, body) in bodies {
        let index = body.index(bundles.len() as u32, federation).expect("a slice that was just cut is well formed");
        slices.push(SliceRef { destination, root: index.root(), count: index.count() });
        parts.push(body);
    }
    let SumRoot { count: messages, hash: root } = tree.root();
    Routed { entries: Entries { bundles: bundles.len() as u32, messages, root }, slices, bodies: parts, paths }
}
