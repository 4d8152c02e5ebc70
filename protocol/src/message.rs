//! A message: recipients, one common payload, and one own payload per recipient.
//!
//! Payloads are opaque. The digest commits to all of them, through one tree of salted leaves, one leaf per recipient:
//! a leaf binds the mailbox and a salted digest of its own payload. A single leaf can be disclosed (to a destination, or
//! in evidence) without telling anything about the other recipients, because every leaf has salts of its own.
//!
//! The digest is also the message's end-to-end id: it does not depend on the bundle, so a message that is signed again
//! for another origin keeps its id.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use crate::crypto::MailboxId;
use crate::digest::{Digest, hash};
use crate::error::Refusal;
use crate::genesis::Params;
use crate::merkle::tree::{self, Path, Tree};

/// What one recipient adds to a slice at most, its own payload aside: address, salts and path.
pub const RECIPIENT_BYTES: u64 = 512;

/// A message as its sender hands it to an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Message {
    /// Sixteen random bytes, from which all salts of the message follow.
    #[cbor(n(0), with = "crate::codec::bytes16")]
    pub salt: [u8; 16],
    /// The payload that every recipient gets.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub common: Vec<u8>,
    /// Who gets it, each with a payload of its own.
    #[n(2)]
    pub recipients: Vec<Recipient>,
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Recipient {
    /// The address.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The payload for this recipient only.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub own: Vec<u8>,
}

/// What a recipient's leaf commits to, disclosed to that recipient's home and to the recipient.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RecipientProof {
    /// The recipient's place among the message's recipients.
    #[n(0)]
    pub position: u32,
    /// The recipient.
    #[n(1)]
    pub mailbox: MailboxId,
    /// The leaf's salt.
    #[cbor(n(2), with = "crate::codec::bytes16")]
    pub salt: [u8; 16],
    /// The salt of the own payload's digest.
    #[cbor(n(3), with = "crate::codec::bytes16")]
    pub own_salt: [u8; 16],
    /// The own payload.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub own: Vec<u8>,
    /// From the leaf to the root of the message's recipients.
    #[n(5)]
    pub path: Path,
}

/// The salted digest of an own payload.
pub fn own_digest(own_salt: &[u8; 16], own: &[u8]) -> Digest {
    Digest::tagged("own", &[own_salt, own])
}

/// The digest of a common payload.
pub fn common_digest(common: &[u8]) -> Digest {
    hash(&[common])
}

/// The leaf of one recipient.
pub(crate) fn recipient_leaf(salt: &[u8; 16], mailbox: &MailboxId, own: Digest) -> Digest {
    tree::leaf_hash(Digest::tagged("recipient", &[salt, &mailbox.0, &own.0]).as_bytes())
}

/// The digest of a message with `count` recipients under `recipients`.
pub fn message_digest(count: u32, recipients: Digest, common: Digest) -> Digest {
    Digest::tagged("message", &[&count.to_be_bytes(), &recipients.0, &common.0])
}

impl Message {
    fn salt_of(&self, what: &str, position: usize) -> [u8; 16] {
        let digest = Digest::tagged(what, &[&self.salt, &(position as u64).to_be_bytes()]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&digest.0[..16]);
        salt
    }

    /// The tree over the recipients, and each recipient's salted own digest.
    fn tree(&self) -> (Tree, Vec<Digest>) {
        let own: Vec<Digest> = (self.recipients.iter().enumerate())
            .map(|(position, recipient)| own_digest(&self.salt_of("own-salt", position), &recipient.own))
            .collect();
        let leaves = (self.recipients.iter().zip(&own).enumerate())
            .map(|(position, (recipient, own))| {
                recipient_leaf(&self.salt_of("recipient-salt", position), &recipient.mailbox, *own)
            })
            .collect();
        (Tree::new(leaves), own)
    }

    /// The message's digest, which is its id.
    pub fn digest(&self) -> Digest {
        message_digest(self.recipients.len() as u32, self.tree().0.root(), common_digest(&self.common))
    }

    /// The message's digest, and for each recipient what its home and itself need to see.
    pub fn disclose(&self) -> (Digest, Vec<RecipientProof>) {
        let (tree, _) = self.tree();
        let digest = message_digest(self.recipients.len() as u32, tree.root(), common_digest(&self.common));
        let proofs = (self.recipients.iter().enumerate())
            .map(|(position, recipient)| RecipientProof {
                position: position as u32,
                mailbox: recipient.mailbox,
                salt: self.salt_of("recipient-salt", position),
                own_salt: self.salt_of("own-salt", position),
                own: recipient.own.clone(),
                path: tree.path(position),
            })
            .collect();
        (digest, proofs)
    }

    /// What the message counts against the limits of bundles, batches and queues: its payload, and for each recipient
    /// what its proof adds to a slice.
    pub fn weight_bytes(&self) -> u64 {
        self.payload_bytes() + RECIPIENT_BYTES * self.recipients.len() as u64
    }

    /// Payload bytes, common and own.
    pub fn payload_bytes(&self) -> u64 {
        let own: usize = self.recipients.iter().map(|recipient| recipient.own.len()).sum();
        (self.common.len() + own) as u64
    }

    /// Whether the message stays within the federation's limits and names each recipient once.
    ///
    /// # Errors
    /// [`Refusal::RecipientCount`], [`Refusal::RepeatedRecipient`], [`Refusal::TooLarge`].
    pub fn check(&self, params: &Params) -> Result<(), Refusal> {
        let count = self.recipients.len() as u64;
        if count == 0 || count > params.max_recipients {
            return Err(Refusal::RecipientCount { count, limit: params.max_recipients });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.recipients.iter().find(|recipient| !seen.insert(recipient.mailbox)) {
            return Err(Refusal::RepeatedRecipient { mailbox: twice.mailbox });
        }
        let bytes = self.payload_bytes();
        if bytes > params.max_message_bytes {
            return Err(Refusal::TooLarge { bytes, limit: params.max_message_bytes });
        }
        Ok(())
    }
}

impl RecipientProof {
    /// The salted digest of the own payload.
    pub fn own_digest(&self) -> Digest {
        own_digest(&self.own_salt, &self.own)
    }

    /// The digest of the message of which this is a recipient, if the path fits a message of `count` recipients.
    pub fn message(&self, count: u32, common: Digest) -> Option<Digest> {
        let leaf = recipient_leaf(&self.salt, &self.mailbox, self.own_digest());
        let root = tree::root_from_path(leaf, u64::from(self.position), u64::from(count), &self.path)?;
        Some(message_digest(count, root, common))
    }
}
