//! A slice: the part of a batch that one destination needs, with the paths that tie every part to the batch's header.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::batch::{Header, SliceRef, bundle_leaf};
use crate::bundle::{BundleBody, messages_root};
use crate::crypto::{MailboxId, NodeId};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::evidence::SliceProof;
use crate::genesis::Federation;
use crate::merkle::map::MerkleMap;
use crate::merkle::sum::SumPath;
use crate::merkle::tree::{self, Path, Tree};
use crate::message::{RecipientProof, common_digest};
use crate::signed::Signed;

/// Names one slice of one header, in the order in which its origin sealed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct SliceKey {
    /// The header's origin.
    #[n(0)]
    pub origin: NodeId,
    /// The header's number.
    #[n(1)]
    pub number: u64,
    /// The header's digest.
    #[n(2)]
    pub header: Digest,
    /// Whom the slice is for.
    #[n(3)]
    pub destination: NodeId,
}

/// What travels to a destination or a custodian.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceBody {
    /// The bundles with at least one message for the destination, in batch order.
    #[n(0)]
    pub bundles: Vec<SliceBundle>,
}

/// The part of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceBundle {
    /// The bundle's place in the batch.
    #[n(0)]
    pub ordinal: u32,
    /// What the sender signed.
    #[n(1)]
    pub signed: Signed<BundleBody>,
    /// From the bundle's leaf to the header's entries root.
    #[n(2)]
    pub path: SumPath,
    /// The messages with at least one recipient at the destination, in bundle order.
    #[n(3)]
    pub messages: Vec<SliceMessage>,
}

/// The part of one message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceMessage {
    /// The message's place in its bundle.
    #[n(0)]
    pub index: u32,
    /// From the message to the bundle's signed root.
    #[n(1)]
    pub path: Path,
    /// The common payload.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub common: Vec<u8>,
    /// How many recipients the message has in all.
    #[n(3)]
    pub recipient_count: u32,
    /// The recipients at the destination, in message order.
    #[cbor(n(4), decode_with = "crate::codec::one_or_more")]
    pub recipients: Vec<RecipientProof>,
}

/// One (message, recipient) pair of a slice, and where in the slice it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceLeaf {
    /// The message's index in the batch.
    #[n(0)]
    pub index: u64,
    /// The message's digest.
    #[n(1)]
    pub message: Digest,
    /// The salted digest of the recipient's own payload.
    #[n(2)]
    pub own: Digest,
    /// The bundle's place in the slice.
    #[n(3)]
    pub bundle_at: u32,
    /// The message's place in that bundle's part.
    #[n(4)]
    pub message_at: u32,
    /// The recipient's place in that message's part.
    #[n(5)]
    pub recipient_at: u32,
    /// Payload bytes, common and own; what a quota counts, in no root.
    #[n(6)]
    pub bytes: u32,
}

/// What a bundle of a slice says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleRef {
    /// Its place in the batch.
    pub ordinal: u32,
    /// Its sender.
    pub sender: MailboxId,
    /// The origin that it is meant for.
    pub via: NodeId,
    /// The counter of its first message.
    pub counter: u64,
    /// The counter of its last message.
    pub last_counter: u64,
    /// The last epoch whose directory may route it.
    pub valid_until: u64,
}

/// The leaves of a slice by mailbox, each mailbox's in ascending order of index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceIndex {
    leaves: BTreeMap<MailboxId, Vec<SliceLeaf>>,
    bundles: Vec<BundleRef>,
    entries_root: Digest,
    messages: u64,
}

/// What a slice root commits to of one (message, recipient) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LeafRef {
    /// The message's index in the batch.
    #[n(0)]
    pub index: u64,
    /// The message's digest.
    #[n(1)]
    pub message: Digest,
    /// The salted digest of the recipient's own payload.
    #[n(2)]
    pub own: Digest,
}

impl From<&SliceLeaf> for LeafRef {
    fn from(leaf: &SliceLeaf) -> LeafRef {
        LeafRef { index: leaf.index, message: leaf.message, own: leaf.own }
    }
}

impl From<&LeafRef> for LeafRef {
    fn from(leaf: &LeafRef) -> LeafRef {
        *leaf
    }
}

/// The value of a mailbox's leaf: the root of its [(index, message digest, own digest)], bound to their number.
pub fn mailbox_value<'a, L: 'a>(leaves: impl ExactSizeIterator<Item = &'a L>) -> Digest
where
    LeafRef: From<&'a L>,
{
    let count = leaves.len() as u64;
    let hashes = leaves
        .map(LeafRef::from)
        .map(|leaf| {
            tree::leaf_hash(
                Digest::tagged("slice-leaf", &[&leaf.index.to_be_bytes(), &leaf.message.0, &leaf.own.0]).as_bytes(),
            )
        })
        .collect();
    Digest::tagged("slice-mailbox", &[&count.to_be_bytes(), &Tree::new(hashes).root().0])
}

impl SliceIndex {
    /// The mailboxes and their leaves.
    pub fn leaves(&self) -> &BTreeMap<MailboxId, Vec<SliceLeaf>> {
        &self.leaves
    }

    /// Who sent the message at a leaf of this index.
    pub fn sender(&self, leaf: &SliceLeaf) -> Option<&MailboxId> {
        self.bundles.get(leaf.bundle_at as usize).map(|bundle| &bundle.sender)
    }

    /// The bundles of the slice, in batch order.
    pub fn bundles(&self) -> &[BundleRef] {
        &self.bundles
    }

    /// How many (message, recipient) pairs.
    pub fn count(&self) -> u64 {
        self.leaves.values().map(|leaves| leaves.len() as u64).sum()
    }

    /// The map from mailbox to what is for it. Whoever built a root, it has one answer for one mailbox: so a new home
    /// that was shown a former home's leaves, or their absence, cannot be shown others later.
    pub fn map(&self) -> MerkleMap<MailboxId, Digest> {
        self.leaves.iter().map(|(mailbox, leaves)| (*mailbox, mailbox_value(leaves.iter()))).collect()
    }

    /// The slice root.
    pub fn root(&self) -> Digest {
        self.map().root()
    }

    /// What the slice holds for `mailbox`, or that it holds nothing.
    pub fn prove(&self, mailbox: &MailboxId) -> SliceProof {
        let leaves =
            self.leaves.get(mailbox).map_or_else(Vec::new, |leaves| leaves.iter().map(LeafRef::from).collect());
        SliceProof { proof: self.map().prove(mailbox), leaves }
    }
}

impl SliceBody {
    /// Follows every path of the slice and collects its leaves. All bundles must lead to one entries root, over
    /// `bundle_count` bundles.
    ///
    /// # Errors
    /// [`VerifyError`] where a path does not fit or the order is not canonical.
    pub fn index(&self, bundle_count: u32, federation: Digest) -> Result<SliceIndex, VerifyError> {
        self.collect(bundle_count, federation, true)
    }

    /// The leaves that this slice claims to have, though its messages may lead nowhere: what a slice root is made of that
    /// says something else than the entries. Not for anything that is taken.
    ///
    /// # Errors
    /// [`VerifyError`] where even their places cannot be told.
    pub fn claimed(&self, bundle_count: u32, federation: Digest) -> Result<SliceIndex, VerifyError> {
        self.collect(bundle_count, federation, false)
    }

    fn collect(&self, bundle_count: u32, federation: Digest, follow: bool) -> Result<SliceIndex, VerifyError> {
        let malformed = |reason| VerifyError::malformed("slice", reason);
        let mut leaves: BTreeMap<MailboxId, Vec<SliceLeaf>> = BTreeMap::new();
        let mut root = None;
        let mut last_ordinal = None;
        for (bundle_at, bundle) in self.bundles.iter().enumerate() {
            if last_ordinal.is_some_and(|last| last >= bundle.ordinal) {
                return Err(malformed("bundles are not in ascending order"));
            }
            last_ordinal = Some(bundle.ordinal);
            let body = &bundle.signed.body;
            let (sum, first) = bundle
                .path
                .resolve(
                    u64::from(body.count),
                    &bundle_leaf(&bundle.signed, federation),
                    u64::from(bundle.ordinal),
                    u64::from(bundle_count),
                )
                .ok_or(VerifyError::Path { what: "bundle" })?;
            if *root.get_or_insert(sum) != sum && follow {
                return Err(VerifyError::Path { what: "bundle" });
            }
            let mut last_index = None;
            for (message_at, message) in bundle.messages.iter().enumerate() {
                if last_index.is_some_and(|last| last >= message.index) {
                    return Err(malformed("messages are not in ascending order"));
                }
                last_index = Some(message.index);
                if message.index >= body.count && follow {
                    return Err(VerifyError::Path { what: "message" });
                }
                let common = common_digest(&message.common);
                let mut last_position = None;
                let mut digest = None;
                for (recipient_at, recipient) in message.recipients.iter().enumerate() {
                    if last_position.is_some_and(|last| last >= recipient.position) {
                        return Err(malformed("recipients are not in ascending order"));
                    }
                    last_position = Some(recipient.position);
                    let found = recipient
                        .message(message.recipient_count, common)
                        .ok_or(VerifyError::Path { what: "recipient" })?;
                    if *digest.get_or_insert(found) != found && follow {
                        return Err(VerifyError::Path { what: "recipient" });
                    }
                    leaves.entry(recipient.mailbox).or_default().push(SliceLeaf {
                        index: first.saturating_add(u64::from(message.index)),
                        message: found,
                        own: recipient.own_digest(),
                        bundle_at: bundle_at as u32,
                        message_at: message_at as u32,
                        recipient_at: recipient_at as u32,
                        bytes: (message.common.len() + recipient.own.len()) as u32,
                    });
                }
                let digest = digest.ok_or(malformed("a message without a recipient"))?;
                if follow && messages_root(digest, message.index, body.count, &message.path) != Some(body.messages) {
                    return Err(VerifyError::Path { what: "message" });
                }
            }
            if bundle.messages.is_empty() {
                return Err(malformed("a bundle without a message"));
            }
        }
        let root = root.ok_or(malformed("a slice without a bundle"))?;
        if leaves.values().any(|leaves| leaves.windows(2).any(|pair| pair[0].index >= pair[1].index)) {
            return Err(malformed("a message names a recipient twice"));
        }
        let bundles = self.bundles.iter().map(|bundle| {
            let body = &bundle.signed.body;
            BundleRef {
                ordinal: bundle.ordinal,
                sender: body.sender,
                via: body.via,
                counter: body.counter,
                last_counter: body.last_counter(),
                valid_until: body.valid_until,
            }
        });
        Ok(SliceIndex { leaves, bundles: bundles.collect(), entries_root: root.hash, messages: root.count })
    }

    /// Whether this is the slice that `header` names as `slice`.
    ///
    /// # Errors
    /// Those of [`SliceBody::index`], and where root or count are not the header's.
    pub fn verify(
        &self,
        header: &Header,
        slice: &SliceRef,
        federation: &Federation,
    ) -> Result<SliceIndex, VerifyError> {
        let index = self.index(header.entries.bundles, federation.id())?;
        if index.entries_root != header.entries.root || index.messages != header.entries.messages {
            return Err(VerifyError::Path { what: "bundle" });
        }
        if index.root() != slice.root || index.count() != slice.count {
            return Err(VerifyError::Path { what: "slice" });
        }
        Ok(index)
    }

    /// The part that is for one mailbox.
    pub fn part_of(&self, mailbox: &MailboxId) -> SliceBody {
        let message = |message: &SliceMessage| {
            let recipients: Vec<_> = message.recipients.iter().filter(|of| of.mailbox == *mailbox).cloned().collect();
            (!recipients.is_empty()).then(|| SliceMessage { recipients, ..message.clone() })
        };
        let bundles = self.bundles.iter().filter_map(|bundle| {
            let messages: Vec<_> = bundle.messages.iter().filter_map(message).collect();
            (!messages.is_empty()).then(|| SliceBundle { messages, ..bundle.clone() })
        });
        SliceBody { bundles: bundles.collect() }
    }

    /// The leaves of a part that is for one mailbox alone; none if it is empty.
    ///
    /// # Errors
    /// Those of [`SliceBody::index`]; where it does not lead to the header's entries, or is for others as well.
    pub fn leaves_of(
        &self,
        mailbox: &MailboxId,
        header: &Header,
        federation: &Federation,
    ) -> Result<Vec<SliceLeaf>, VerifyError> {
        if self.bundles.is_empty() {
            return Ok(Vec::new());
        }
        let mut index = self.index(header.entries.bundles, federation.id())?;
        if index.entries_root != header.entries.root || index.messages != header.entries.messages {
            return Err(VerifyError::Path { what: "bundle" });
        }
        match index.leaves.pop_first() {
            Some((of, leaves)) if of == *mailbox && index.leaves.is_empty() => Ok(leaves),
            _ => Err(VerifyError::malformed("slice", "it is for another mailbox as well")),
        }
    }

    /// Payload bytes.
    pub fn payload_bytes(&self) -> u64 {
        (self.bundles.iter().flat_map(|bundle| &bundle.messages))
            .map(|message| {
                let own: usize = message.recipients.iter().map(|recipient| recipient.own.len()).sum();
                (message.common.len() + own) as u64
            })
            .sum()
    }
}

impl SliceKey {
    /// The name of a parcel whose header has this digest.
    pub fn of(parcel: &crate::wire::mail::SliceParcel, header: Digest) -> SliceKey {
        SliceKey {
            origin: parcel.header.body.origin,
            number: parcel.header.body.number,
            header,
            destination: parcel.destination,
        }
    }
}
