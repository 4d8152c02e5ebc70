//! What evidence is made of: single leaves disclosed from the structures that statements commit to.

use minicbor::{Decode, Encode};

use super::{ClaimError, Cleared};
use crate::attestation::{Acknowledgement, Anchor, Attestation, AttestedLog, LogLeaf, MailboxAttestation};
use crate::batch::{Header, bundle_leaf};
use crate::bundle::{BundleBody, messages_root};
use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, HeaderProof};
use crate::digest::{Digest, hash};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::{MapProof, MapValue};
use crate::merkle::sum::SumPath;
use crate::merkle::tree::{self, Path};
use crate::message::{message_digest, recipient_leaf};
use crate::moving::Base;
use crate::seq::Seq;
use crate::signed::{Signed, Statement, Verify};
use crate::slice::{LeafRef, mailbox_value};
use crate::state::HomeProof;

/// A header that a certified cut has included.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Included {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The header's place in it.
    #[n(1)]
    pub order: HeaderProof,
}

impl Included {
    /// The header.
    pub fn header(&self) -> &Header {
        &self.order.header.body
    }

    /// The epoch that included it.
    pub fn epoch(&self) -> u64 {
        self.cut.header.epoch
    }

    /// The header's digest.
    pub fn digest(&self, federation: &Federation) -> Digest {
        self.order.header.digest(federation)
    }

    /// The number of the message at `index` of the batch.
    pub fn seq(&self, index: u64) -> Seq {
        Seq { epoch: self.epoch(), position: self.order.position, index }
    }

    pub(crate) fn verify(&self, federation: &Federation) -> Result<(), VerifyError> {
        self.cut.verify(federation)?;
        self.order.verify(&self.cut.header, federation)
    }
}

/// A bundle in its batch. Whether it may stand there is not asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BundleAt {
    /// Its place.
    #[n(0)]
    pub ordinal: u32,
    /// What its sender signed, with the signature to which the entries tree commits.
    #[n(1)]
    pub signed: Signed<BundleBody>,
    /// To the header's entries root.
    #[n(2)]
    pub path: SumPath,
}

impl BundleAt {
    /// The batch index of its first message, if it stands in the header's entries.
    pub(crate) fn first(&self, header: &Header, federation: &Federation) -> Result<u64, VerifyError> {
        let (count, leaf) = (u64::from(self.signed.body.count), bundle_leaf(&self.signed, federation.id()));
        let of = u64::from(header.entries.bundles);
        match self.path.resolve(count, &leaf, u64::from(self.ordinal), of) {
            Some((root, first)) if (root.hash, root.count) == (header.entries.root, header.entries.messages) => {
                Ok(first)
            }
            _ => Err(VerifyError::Path { what: "bundle" }),
        }
    }
}

/// A message in its batch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MessageAt {
    /// Its bundle.
    #[n(0)]
    pub bundle: BundleAt,
    /// Its place in the bundle.
    #[n(1)]
    pub index: u32,
    /// Its digest.
    #[n(2)]
    pub message: Digest,
    /// To the bundle's root.
    #[n(3)]
    pub path: Path,
}

impl MessageAt {
    /// The message's index in the batch, if it stands in the header's entries.
    pub(crate) fn resolve(&self, header: &Header, federation: &Federation) -> Result<u64, VerifyError> {
        let first = self.bundle.first(header, federation)?;
        let body = &self.bundle.signed.body;
        if messages_root(self.message, self.index, body.count, &self.path) != Some(body.messages) {
            return Err(VerifyError::Path { what: "message" });
        }
        Ok(first + u64::from(self.index))
    }
}

/// One recipient of a message, without any payload.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RecipientAt {
    /// Its place among the recipients.
    #[n(0)]
    pub position: u32,
    /// How many recipients there are.
    #[n(1)]
    pub count: u32,
    /// The recipient.
    #[n(2)]
    pub mailbox: MailboxId,
    /// The leaf's salt.
    #[cbor(n(3), with = "crate::codec::bytes16")]
    pub salt: [u8; 16],
    /// The salted digest of the own payload.
    #[n(4)]
    pub own: Digest,
    /// The digest of the common payload.
    #[n(5)]
    pub common: Digest,
    /// To the root of the recipients.
    #[n(6)]
    pub path: Path,
}

impl RecipientAt {
    /// The digest of the message of which this is a recipient.
    pub(crate) fn message(&self) -> Result<Digest, VerifyError> {
        let leaf = recipient_leaf(&self.salt, &self.mailbox, self.own);
        match tree::root_from_path(leaf, u64::from(self.position), u64::from(self.count), &self.path) {
            Some(root) => Ok(message_digest(self.count, root, self.common)),
            None => Err(VerifyError::Path { what: "recipient" }),
        }
    }
}

/// What a slice holds for one mailbox, or that it holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceProof {
    /// The mailbox's leaf, or its absence.
    #[n(0)]
    pub proof: MapProof,
    /// What is for the mailbox; empty exactly if it is absent.
    #[n(1)]
    pub leaves: Vec<LeafRef>,
}

impl SliceProof {
    /// What is for `mailbox` under the slice root `root`.
    ///
    /// # Errors
    /// [`VerifyError`] when the proof does not lead there.
    pub fn verify(&self, root: &Digest, mailbox: &MailboxId) -> Result<&[LeafRef], VerifyError> {
        let expected = match self.leaves.as_slice() {
            [] => None,
            leaves => Some(hash(&[&mailbox_value(leaves.iter()).value_bytes()])),
        };
        match self.proof.verify(root, &mailbox.0) {
            Some(found) if found == expected => Ok(&self.leaves),
            _ => Err(VerifyError::Path { what: "slice" }),
        }
    }
}

/// What an attestation says of one mailbox, whether or not it is final.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Attested {
    /// The attestation.
    #[n(0)]
    pub attestation: Signed<Attestation>,
    /// What it says of the mailbox; none if it does not name it.
    #[n(1)]
    pub log: Option<AttestedLog>,
    /// That it says so.
    #[n(2)]
    pub proof: MapProof,
}

impl From<MailboxAttestation> for Attested {
    fn from(attested: MailboxAttestation) -> Attested {
        Attested { attestation: attested.attestation, log: Some(attested.log), proof: attested.proof }
    }
}

impl Attested {
    /// How many entries it attests, and their root.
    pub(crate) fn head(&self) -> (u64, Digest) {
        self.log.as_ref().map_or((0, tree::empty_root()), |log| (log.log.size, log.log.root))
    }

    pub(crate) fn verify(&self, mailbox: &MailboxId, federation: &Federation) -> Result<(), VerifyError> {
        self.attestation.verify(federation)?;
        let value = self.log.as_ref().map(|log| hash(&[&encode(log)]));
        if self.proof.verify(&self.attestation.body.root, &mailbox.0) != Some(value) {
            return Err(VerifyError::Path { what: "attested log" });
        }
        if let Some(acknowledged) = self.log.as_ref().and_then(|log| log.acknowledged.as_ref()) {
            if acknowledged.body.mailbox != *mailbox {
                return Err(VerifyError::malformed(Acknowledgement::KIND, "it is another mailbox's"));
            }
            acknowledged.verify(federation)?;
        }
        Ok(())
    }

    /// Checks that `anchor` makes it final.
    pub(crate) fn is_anchored(&self, anchor: &Anchor, federation: &Federation) -> Result<(), VerifyError> {
        let body = &self.attestation.body;
        anchor.verify(federation)?;
        let named = anchor.header.header.body.attestation.filter(|_| anchor.header.header.body.origin == body.node);
        match named {
            Some(named) if named.digest == self.attestation.digest(federation) => Ok(()),
            _ => Err(VerifyError::malformed(Attestation::KIND, "the anchoring header names another one")),
        }
    }
}

/// An entry of an attested log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LeafAt {
    /// Its index.
    #[n(0)]
    pub index: u64,
    /// The entry.
    #[n(1)]
    pub leaf: LogLeaf,
    /// To the log's root.
    #[n(2)]
    pub path: Path,
}

impl LeafAt {
    pub(crate) fn verify(&self, (size, root): (u64, Digest)) -> Result<(), VerifyError> {
        if tree::root_from_path(self.leaf.hash(), self.index, size, &self.path) != Some(root) {
            return Err(VerifyError::Path { what: "log entry" });
        }
        Ok(())
    }
}

/// A home's time with a mailbox, in which it keeps one log.
#[derive(Debug)]
pub(crate) struct Residence<'a> {
    /// The epoch since which the mailbox lives there.
    pub(crate) since: u64,
    /// The log that came with it; none if that was empty.
    pub(crate) base: Option<&'a Base>,
    /// Whether it is that of the registration, before which there was nothing to take over.
    pub(crate) is_first: bool,
}

impl<'a> Residence<'a> {
    /// `node`'s time with a mailbox, which holds the epoch that it attests, from a proof that holds, of that epoch or a
    /// later one. Before its first import is settled, nothing binds a new home to the log that it takes over. Of former
    /// homes only the first is known to have taken over nothing; of the others a proof of their own time tells.
    pub(crate) fn of(proof: &'a HomeProof, node: &NodeId, epoch: u64) -> Result<Residence<'a>, ClaimError> {
        if proof.cut.header.epoch < epoch {
            return Err(VerifyError::malformed("home proof", "it is of an earlier epoch").into());
        }
        let value = proof.value.as_ref().ok_or(Cleared::NotThere { epoch })?;
        let moved = value.moved.as_ref();
        if value.owes(node, epoch) {
            let since = value.since;
            return match moved.map(|moved| &moved.import) {
                None => Ok(Residence { since, base: None, is_first: true }),
                Some(Some(import)) if import.first <= epoch => {
                    Ok(Residence { since, base: import.base.as_ref(), is_first: false })
                }
                Some(_) => Err(Cleared::NotTakenOver { epoch }.into()),
            };
        }
        let span = moved.and_then(|moved| moved.spans.first());
        let span = span.filter(|span| span.since == value.registered && span.complete == Some(span.since));
        match span {
            Some(span) if span.node == *node && span.routed(epoch) => {
                Ok(Residence { since: span.since, base: None, is_first: true })
            }
            _ => Err(Cleared::NotThere { epoch }.into()),
        }
    }

    /// How many entries came with the mailbox.
    pub(crate) fn inherited(&self) -> u64 {
        self.base.map_or(0, |base| base.log.size)
    }

    /// Checks that the entry at `index` is the home's own.
    pub(crate) fn is_own(&self, index: u64) -> Result<(), Cleared> {
        let below = self.inherited();
        if index < below { Err(Cleared::Inherited { below }) } else { Ok(()) }
    }
}

/// The entries of a log between which another one would stand: that it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogGap {
    /// The last one before; none if there is none.
    #[n(0)]
    pub before: Option<LeafAt>,
    /// The first one after; none if there is none.
    #[n(1)]
    pub after: Option<LeafAt>,
}

impl LogGap {
    /// Checks that no entry of this log stands at `order`. Entries below `from` came with the mailbox: nobody here
    /// answers for their order, and what is looked for would stand behind them.
    pub(crate) fn verify(&self, head: (u64, Digest), from: u64, order: (u64, bool, Seq)) -> Result<(), VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed("log gap", reason));
        for entry in [&self.before, &self.after].into_iter().flatten() {
            entry.verify(head)?;
        }
        let next = self.before.as_ref().map_or(from, |before| before.index.saturating_add(1));
        let end = self.after.as_ref().map_or(head.0, |after| after.index);
        if next != end || next < from {
            return malformed("its entries do not stand next to each other");
        }
        let own = |before: &&LeafAt| before.index >= from;
        if self.before.as_ref().filter(own).is_some_and(|before| before.leaf.order() >= order)
            || self.after.as_ref().is_some_and(|after| after.leaf.order() <= order)
        {
            return malformed("the entry would stand elsewhere");
        }
        Ok(())
    }
}
