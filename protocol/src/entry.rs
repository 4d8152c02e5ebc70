//! Entries: a message as its recipient gets it, with the paths that tie it to a certified cut; and the two proofs that
//! the sender gets on the way.

use std::ops::Range;

use minicbor::{Decode, Encode};

use crate::batch::bundle_leaf;
use crate::bundle::{Bundle, BundleBody, messages_root};
use crate::codec::{decode, encode};
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, CutHeader, HeaderProof};
use crate::digest::Digest;
use crate::error::{DecodeError, VerifyError};
use crate::genesis::Federation;
use crate::merkle::sum::SumPath;
use crate::merkle::tree::Path;
use crate::message::{RecipientProof, common_digest};
use crate::receipt::{Custody, LeafRefusal, Sealed, custody_digest};
use crate::refused::{RefusedBy, RefusedProof};
use crate::seq::Seq;
use crate::signed::{Signed, Verify};
use crate::slice::{SliceBody, SliceLeaf};

/// One message for one recipient, with everything that proves its place except the cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct EntryProof {
    /// The batch's header in its cut.
    #[n(0)]
    pub order: HeaderProof,
    /// The bundle in its batch.
    #[n(1)]
    pub ordinal: u32,
    /// What the sender signed.
    #[n(2)]
    pub bundle: Signed<BundleBody>,
    /// From the bundle to the header's entries root.
    #[n(3)]
    pub bundle_path: SumPath,
    /// The message in its bundle.
    #[n(4)]
    pub index: u32,
    /// From the message to the bundle's signed root.
    #[n(5)]
    pub message_path: Path,
    /// The common payload.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub common: Vec<u8>,
    /// How many recipients the message has in all.
    #[n(7)]
    pub recipient_count: u32,
    /// The recipient, its own payload, and the path to the message.
    #[n(8)]
    pub recipient: RecipientProof,
}

/// What a verified entry amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The message's place in the order.
    pub seq: Seq,
    /// Cut time, Unix milliseconds.
    pub time_ms: u64,
    /// The message's digest, which is its id.
    pub id: Digest,
    /// The salted digest of the recipient's own payload.
    pub own: Digest,
    /// The sender.
    pub sender: MailboxId,
    /// The origin.
    pub via: NodeId,
    /// The message's counter.
    pub counter: u64,
    /// The recipient.
    pub recipient: MailboxId,
}

impl EntryProof {
    /// The entry that stands at `leaf` of a slice; none if the slice has no such leaf.
    pub fn of(body: &SliceBody, leaf: &SliceLeaf, order: HeaderProof) -> Option<EntryProof> {
        let bundle = body.bundles.get(leaf.bundle_at as usize)?;
        let message = bundle.messages.get(leaf.message_at as usize)?;
        let recipient = message.recipients.get(leaf.recipient_at as usize)?;
        Some(EntryProof {
            order,
            ordinal: bundle.ordinal,
            bundle: bundle.signed.clone(),
            bundle_path: bundle.path.clone(),
            index: message.index,
            message_path: message.path.clone(),
            common: message.common.clone(),
            recipient_count: message.recipient_count,
            recipient: recipient.clone(),
        })
    }

    /// Follows the entry from its payloads to `cut`, which must be certified.
    ///
    /// # Errors
    /// [`VerifyError`] says which signature or path does not hold.
    pub fn verify(&self, cut: &CutHeader, federation: &Federation) -> Result<Placed, VerifyError> {
        let body = &self.bundle.body;
        let header = &self.order.header.body;
        let malformed = |reason| Err(VerifyError::malformed("entry", reason));
        let id = self
            .recipient
            .message(self.recipient_count, common_digest(&self.common))
            .ok_or(VerifyError::Path { what: "recipient" })?;
        if messages_root(id, self.index, body.count, &self.message_path) != Some(body.messages) {
            return Err(VerifyError::Path { what: "message" });
        }
        let first = resolve_bundle(&self.bundle, self.ordinal, &self.bundle_path, header, federation)?;
        let Some(counter) = body.counter.checked_add(u64::from(self.index)) else {
            return malformed("counters end below 2^64");
        };
        self.bundle.verify(federation)?;
        self.order.verify(cut, federation)?;
        Ok(Placed {
            seq: Seq { epoch: cut.epoch, position: self.order.position, index: first + u64::from(self.index) },
            time_ms: cut.time_ms,
            id,
            own: self.recipient.own_digest(),
            sender: body.sender,
            via: header.origin,
            counter,
            recipient: self.recipient.mailbox,
        })
    }
}

/// The index of a bundle's first message in its batch, if its path leads to the header and it may stand there.
fn resolve_bundle(
    bundle: &Signed<BundleBody>,
    ordinal: u32,
    path: &SumPath,
    header: &crate::batch::Header,
    federation: &Federation,
) -> Result<u64, VerifyError> {
    let malformed = |reason| Err(VerifyError::malformed("bundle", reason));
    if bundle.body.via != header.origin {
        return malformed("the bundle is signed for another origin");
    }
    if bundle.body.valid_until < header.routing_epoch {
        return malformed("the bundle was routed after its valid-until");
    }
    if bundle.body.counter == 0 {
        return malformed("counters begin at 1");
    }
    let (root, first) = path
        .resolve(
            u64::from(bundle.body.count),
            &bundle_leaf(bundle, federation.id()),
            u64::from(ordinal),
            u64::from(header.entries.bundles),
        )
        .ok_or(VerifyError::Path { what: "bundle" })?;
    if root.hash != header.entries.root || root.count != header.entries.messages {
        return Err(VerifyError::Path { what: "bundle" });
    }
    Ok(first)
}

/// An entry as a home hands it to the mailbox's owner.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entry {
    /// Its index in the mailbox log.
    #[n(0)]
    pub log_index: u64,
    /// The epoch that settled it (that of its cut, or of its fill).
    #[n(1)]
    pub settled: u64,
    /// The message and the proof of its place.
    #[n(2)]
    pub proof: EntryProof,
}

/// A message proof as it stands in a file: verifiable with nothing but genesis.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MessageProof {
    /// The federation.
    #[n(0)]
    pub federation: Digest,
    /// The cut.
    #[n(1)]
    pub cut: CertifiedCut,
    /// The entry.
    #[n(2)]
    pub entry: EntryProof,
}

/// The first bytes of a proof file.
const FILE_MAGIC: &[u8; 16] = b"postroad proof 1";

/// Why a proof file does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a proof file.
    #[error("not a message proof: {0}")]
    Malformed(#[from] DecodeError),
    /// Of another federation.
    #[error("the proof belongs to the federation {theirs}, this genesis is {ours}")]
    WrongFederation {
        /// The proof's.
        theirs: Digest,
        /// The genesis file's.
        ours: Digest,
    },
    /// A part does not verify.
    #[error(transparent)]
    Refuted(#[from] VerifyError),
}

impl MessageProof {
    /// The file's bytes.
    pub fn to_file(&self) -> Vec<u8> {
        let mut bytes = FILE_MAGIC.to_vec();
        bytes.extend(encode(self));
        bytes
    }

    /// Reads a file's bytes; verifies nothing yet.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_file(bytes: &[u8]) -> Result<MessageProof, DecodeError> {
        let body = bytes.strip_prefix(FILE_MAGIC).ok_or(DecodeError::Malformed {
            what: "proof file",
            reason: "it does not begin with \"postroad proof 1\"".into(),
        })?;
        decode(body)
    }

    /// Verifies the proof.
    ///
    /// # Errors
    /// [`ProofError`] says what does not hold.
    pub fn verify(&self, federation: &Federation) -> Result<Placed, ProofError> {
        if self.federation != federation.id() {
            return Err(ProofError::WrongFederation { theirs: self.federation, ours: federation.id() });
        }
        self.cut.verify(federation)?;
        Ok(self.entry.verify(&self.cut.header, federation)?)
    }
}

/// The sender's proof of *accepted*: the receipts of the whole chain since the origin's last included header (rule 5).
/// Whoever holds it can hand the chain to the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AcceptedProof {
    /// Headers with receipts, in order; the last one holds the bundle.
    #[n(0)]
    pub chain: Vec<Sealed>,
    /// The bundle in its batch.
    #[n(1)]
    pub ordinal: u32,
    /// From the bundle to the header's entries root.
    #[n(2)]
    pub path: SumPath,
}

impl AcceptedProof {
    /// Checks that every header of the chain is signed by the bundle's origin and complete in receipts, that each
    /// follows the one before, and that the last one holds `bundle`. Returns whether custody of its slices is weak.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(&self, bundle: &Bundle, federation: &Federation) -> Result<bool, VerifyError> {
        let malformed = |reason| VerifyError::malformed("accepted proof", reason);
        let last = self.chain.last().ok_or(malformed("an empty chain"))?;
        let mut before: Option<(&crate::batch::Header, Digest)> = None;
        for sealed in &self.chain {
            let header = &sealed.header.body;
            if header.origin != bundle.signed.body.via {
                return Err(malformed("a header of another origin"));
            }
            if before.is_some_and(|(before, digest)| {
                digest != header.previous
                    || before.number >= header.number
                    || before.routing_epoch > header.routing_epoch
            }) {
                return Err(malformed("the headers do not follow each other"));
            }
            sealed.verify(federation)?;
            before = Some((header, sealed.digest(federation)));
        }
        resolve_bundle(&bundle.signed, self.ordinal, &self.path, &last.header.body, federation)?;
        Ok(last.is_weak(federation))
    }
}

/// The sender's proof of *ordered*: the bundle's place in a certified cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OrderedProof {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The header in the cut.
    #[n(1)]
    pub order: HeaderProof,
    /// The bundle in its batch.
    #[n(2)]
    pub ordinal: u32,
    /// From the bundle to the header's entries root.
    #[n(3)]
    pub path: SumPath,
    /// Whether custody was weak, as the origin says.
    #[n(4)]
    pub weak: bool,
    /// The receipts that the cut settled with the header, where one of them refuses a leaf of the bundle (rule 7);
    /// empty where none does.
    #[n(5)]
    pub custody: Vec<Custody>,
}

impl OrderedProof {
    /// This proof with the receipts of `sealed`, its header, if they refuse a leaf of the bundle, whose `messages` have
    /// these indexes in the batch.
    #[must_use]
    pub fn with_refusals(self, sealed: &Sealed, messages: Range<u64>) -> OrderedProof {
        let custody = if sealed.refuses(messages) { sealed.custody.clone() } else { Vec::new() };
        OrderedProof { custody, ..self }
    }

    /// The proof that `home` refused the message at `seq` for `mailbox`, and why, if the receipts show that it did. Of
    /// a proof that holds.
    pub fn refusal(
        &self,
        seq: Seq,
        mailbox: &MailboxId,
        home: &NodeId,
        federation: &Federation,
    ) -> Option<(LeafRefusal, RefusedProof)> {
        if self.custody.is_empty() {
            return None;
        }
        let by = RefusedBy::Receipt(self.custody.clone());
        let proof = RefusedProof { cut: self.cut.clone(), order: self.order.clone(), by };
        let reason = proof.verify(seq, mailbox, home, federation).ok()?;
        Some((reason, proof))
    }

    /// The sequence number of the bundle's first message.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(&self, bundle: &Signed<BundleBody>, federation: &Federation) -> Result<Seq, VerifyError> {
        let header = &self.order.header.body;
        self.cut.verify(federation)?;
        self.order.verify(&self.cut.header, federation)?;
        if !self.custody.is_empty() && custody_digest(&self.custody) != self.order.custody {
            return Err(VerifyError::Path { what: "receipts" });
        }
        let index = resolve_bundle(bundle, self.ordinal, &self.path, header, federation)?;
        Ok(Seq { epoch: self.cut.header.epoch, position: self.order.position, index })
    }
}
