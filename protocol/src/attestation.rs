//! Attestations: a node's signature over the Merkle map of all mailboxes that it hosts; and the mailbox log's leaves,
//! the owner's acknowledgements, and the proof that a message is in a log under a final attestation.

use minicbor::{Decode, Encode};

use crate::batch::AttestationRef;
use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId, PublicKey};
use crate::cut::{CertifiedCut, HeaderProof};
use crate::digest::{Digest, hash};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::{MapProof, MapValue};
use crate::merkle::tree::{self, Path};
use crate::moving::Base;
use crate::seq::Seq;
use crate::signed::{Signed, Statement, Verify};

/// One entry of a mailbox log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogLeaf {
    /// The epoch whose cut made the home owe the entry: that of its header, or later that of its fill.
    #[n(0)]
    pub settled: u64,
    /// The message's sequence number.
    #[n(1)]
    pub seq: Seq,
    /// The message's digest.
    #[n(2)]
    pub message: Digest,
    /// The salted digest of the recipient's own payload.
    #[n(3)]
    pub own: Digest,
}

impl LogLeaf {
    /// The leaf's hash in the log's RFC 6962 tree.
    pub fn hash(&self) -> Digest {
        tree::leaf_hash(&encode(self))
    }

    /// Whether the entry came by a fill, after its place in the order had passed.
    pub fn is_late(&self) -> bool {
        self.settled != self.seq.epoch
    }

    /// What log order compares: settling epoch, fills first, number.
    pub fn order(&self) -> (u64, bool, Seq) {
        (self.settled, !self.is_late(), self.seq)
    }
}

/// The size and root of a mailbox log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogHead {
    /// How many entries.
    #[n(0)]
    pub size: u64,
    /// The RFC 6962 root over them.
    #[n(1)]
    pub root: Digest,
}

/// An owner's word that everything below an index of its log is safe with the owner.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Acknowledgement {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The log that is acknowledged: its size and root.
    #[n(1)]
    pub log: LogHead,
}

impl Statement for Acknowledgement {
    const KIND: &'static str = "acknowledgement";

    fn signer(&self) -> PublicKey {
        self.mailbox
    }
}

/// What an attestation says of one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AttestedLog {
    /// The log's head.
    #[n(0)]
    pub log: LogHead,
    /// The settling epoch of the last entry; zero when there is none.
    #[n(1)]
    pub last_epoch: u64,
    /// Entries below this index were forgotten.
    #[n(2)]
    pub expired_to: u64,
    /// The owner's last acknowledgement.
    #[n(3)]
    pub acknowledged: Option<Signed<Acknowledgement>>,
}

impl MapValue for AttestedLog {
    fn value_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

/// What a node attests, about once a second: all its logs, complete up to an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Attestation {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Its incarnation.
    #[n(1)]
    pub incarnation: u64,
    /// The slot: rises with every attestation and is never used again.
    #[n(2)]
    pub number: u64,
    /// Everything that the cuts up to this epoch make the node owe is in the logs.
    #[n(3)]
    pub epoch: u64,
    /// How many mailboxes.
    #[n(4)]
    pub mailboxes: u64,
    /// The root of the map from mailbox to [`AttestedLog`].
    #[n(5)]
    pub root: Digest,
}

impl Statement for Attestation {
    const KIND: &'static str = "attestation";

    fn signer(&self) -> PublicKey {
        self.node
    }
}

/// What one mailbox sees of an attestation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MailboxAttestation {
    /// The attestation.
    #[n(0)]
    pub attestation: Signed<Attestation>,
    /// What it says of the mailbox.
    #[n(1)]
    pub log: AttestedLog,
    /// That it says so.
    #[n(2)]
    pub proof: MapProof,
    /// The cut that made it final, if one has.
    #[n(3)]
    pub anchor: Option<Anchor>,
}

/// That an attestation's digest stands in a header of a certified cut, which makes it final.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Anchor {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The header.
    #[n(1)]
    pub header: HeaderProof,
}

impl Anchor {
    /// Checks that the header stands in the certified cut.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(&self, federation: &Federation) -> Result<(), VerifyError> {
        self.cut.verify(federation)?;
        self.header.verify(&self.cut.header, federation)
    }
}

impl MailboxAttestation {
    /// The log that it names, for a new home to continue.
    pub fn base(&self, federation: &Federation) -> Base {
        let body = &self.attestation.body;
        let digest = self.attestation.digest(federation);
        let attestation = AttestationRef { number: body.number, digest, epoch: body.epoch };
        Base { node: body.node, attestation, log: self.log.log }
    }

    /// Checks signature, map proof and anchor for `mailbox` hosted at `home`. Whether the attestation is final is
    /// `self.anchor.is_some()`.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(&self, mailbox: &MailboxId, home: &NodeId, federation: &Federation) -> Result<(), VerifyError> {
        let body = &self.attestation.body;
        if body.node != *home {
            return Err(VerifyError::malformed(Attestation::KIND, "it is not the home's"));
        }
        self.attestation.verify(federation)?;
        let value = self.proof.verify(&body.root, &mailbox.0);
        if value != Some(Some(hash(&[&encode(&self.log)]))) {
            return Err(VerifyError::Path { what: "attested log" });
        }
        if let Some(acknowledged) = &self.log.acknowledged {
            if acknowledged.body.mailbox != *mailbox {
                return Err(VerifyError::malformed(Acknowledgement::KIND, "it is another mailbox's"));
            }
            acknowledged.verify(federation)?;
        }
        if let Some(anchor) = &self.anchor {
            let header = &anchor.header.header.body;
            let named =
                AttestationRef { number: body.number, digest: self.attestation.digest(federation), epoch: body.epoch };
            if header.origin != *home || header.attestation != Some(named) {
                return Err(VerifyError::malformed(Attestation::KIND, "the anchoring header names another one"));
            }
            anchor.verify(federation)?;
        }
        Ok(())
    }
}

/// The sender's proof of *delivered*: the message is in the recipient's log, under a final attestation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct DeliveryProof {
    /// The recipient.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The entry.
    #[n(1)]
    pub leaf: LogLeaf,
    /// Its index in the log.
    #[n(2)]
    pub index: u64,
    /// From the entry to the attested root.
    #[n(3)]
    pub path: Path,
    /// The final attestation.
    #[n(4)]
    pub attested: MailboxAttestation,
}

impl DeliveryProof {
    /// Checks that the message with digest `message`, ordered at `seq`, is with `mailbox` at `home`, finally.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(
        &self,
        message: Digest,
        seq: Seq,
        mailbox: &MailboxId,
        home: &NodeId,
        federation: &Federation,
    ) -> Result<(), VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed("delivery proof", reason));
        if self.mailbox != *mailbox || self.leaf.message != message || self.leaf.seq != seq {
            return malformed("it is of another message");
        }
        if self.attested.anchor.is_none() {
            return malformed("the attestation is not final");
        }
        self.attested.verify(mailbox, home, federation)?;
        let log = self.attested.log.log;
        if tree::root_from_path(self.leaf.hash(), self.index, log.size, &self.path) != Some(log.root) {
            return Err(VerifyError::Path { what: "log entry" });
        }
        Ok(())
    }
}
