//! A bundle: what a client submits at once. One signature over 1..n messages with contiguous counters, all or nothing.

use minicbor::{Decode, Encode};

use crate::crypto::{MailboxId, NodeId, PublicKey};
use crate::digest::Digest;
use crate::error::{Refusal, VerifyError};
use crate::genesis::{Federation, Params};
use crate::merkle::tree::{self, Path, Tree};
use crate::message::Message;
use crate::signed::{Claims, Signed, Statement, Verify};

/// What the sender signs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BundleBody {
    /// The sender's mailbox.
    #[n(0)]
    pub sender: MailboxId,
    /// The origin that the bundle is meant for.
    #[n(1)]
    pub via: NodeId,
    /// The counter of the first message; the others follow it. Counters rise per (sender, via).
    #[n(2)]
    pub counter: u64,
    /// The last epoch whose directory may route the bundle.
    #[n(3)]
    pub valid_until: u64,
    /// How many messages.
    #[n(4)]
    pub count: u32,
    /// The root of the tree over the messages' digests.
    #[n(5)]
    pub messages: Digest,
}

impl Statement for BundleBody {
    const KIND: &'static str = "bundle";

    fn signer(&self) -> PublicKey {
        self.sender
    }
}

/// A signed bundle with its messages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Bundle {
    /// What the sender signed.
    #[n(0)]
    pub signed: Signed<BundleBody>,
    /// The messages.
    #[n(1)]
    pub messages: Vec<Message>,
}

/// The tree over a bundle's messages, given their digests.
pub fn message_tree(digests: &[Digest]) -> Tree {
    Tree::new(digests.iter().map(|digest| tree::leaf_hash(&digest.0)).collect())
}

/// The root of the bundle in which `message` stands at `index` of `count`, if the path fits.
pub fn messages_root(message: Digest, index: u32, count: u32, path: &Path) -> Option<Digest> {
    tree::root_from_path(tree::leaf_hash(&message.0), u64::from(index), u64::from(count), path)
}

impl BundleBody {
    /// The body that commits to `messages`.
    pub fn new(sender: MailboxId, via: NodeId, counter: u64, valid_until: u64, messages: &[Message]) -> BundleBody {
        let digests: Vec<Digest> = messages.iter().map(Message::digest).collect();
        BundleBody {
            sender,
            via,
            counter,
            valid_until,
            count: messages.len() as u32,
            messages: message_tree(&digests).root(),
        }
    }

    /// The counter of the last message.
    pub fn last_counter(&self) -> u64 {
        self.counter.saturating_add(u64::from(self.count).saturating_sub(1))
    }
}

impl Bundle {
    /// What the bundle counts against limits; see [`Message::weight_bytes`].
    pub fn weight_bytes(&self) -> u64 {
        self.messages.iter().map(Message::weight_bytes).sum()
    }

    /// Whether the bundle stays within the federation's limits; what costs no hashing.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] and those of [`Message::check`].
    pub fn check_limits(&self, params: &Params) -> Result<(), Refusal> {
        let count = self.messages.len() as u64;
        if count == 0 {
            return Err(Refusal::Invalid { reason: "a bundle holds at least one message".into() });
        }
        if count > params.max_bundle_messages {
            return Err(Refusal::TooLarge { bytes: count, limit: params.max_bundle_messages });
        }
        for message in &self.messages {
            message.check(params)?;
        }
        let bytes = self.weight_bytes();
        if bytes > params.max_bundle_bytes {
            return Err(Refusal::TooLarge { bytes, limit: params.max_bundle_bytes });
        }
        Ok(())
    }
}

impl Verify for Bundle {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        let body = &self.signed.body;
        let malformed = |reason| Err(VerifyError::malformed(BundleBody::KIND, reason));
        if body.count == 0 || body.count as usize != self.messages.len() {
            return malformed("the signed count is not the number of messages");
        }
        if body.counter == 0 || body.counter.checked_add(u64::from(body.count)).is_none() {
            return malformed("counters begin at 1 and end below 2^64");
        }
        let digests: Vec<Digest> = self.messages.iter().map(Message::digest).collect();
        if message_tree(&digests).root() != body.messages {
            return malformed("the messages are not those that were signed");
        }
        self.signed.claims(federation, claims)
    }
}
