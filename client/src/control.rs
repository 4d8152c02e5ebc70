//! What client libraries say to each other inside sealed mail, so that a missing message can be asked about.
//!
//! Control mail is mail: sealed, numbered, ordered and acknowledged like any other, and carried by nodes that cannot
//! tell it apart. Only the libraries at its ends read it; no application gets to see it as a message.

use minicbor::{Decode, Encode};
use postroad_protocol::bundle::BundleBody;
use postroad_protocol::entry::OrderedProof;
use postroad_protocol::merkle::tree::Path;
use postroad_protocol::message::RecipientProof;
use postroad_protocol::receipt::LeafRefusal;
use postroad_protocol::signed::Signed;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

/// How many numbers one question is answered for, and how many answers one mailbox gets in an hour of cut time.
pub const MAX_ANSWERS: u64 = 16;
/// How many bytes of statements one answer carries at most.
pub const MAX_STATEMENT_BYTES: usize = 256 << 10;

/// A message's number from its sender to one recipient, and what the sender knows of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Numbering {
    /// The number; contiguous per (sender, recipient), from 1.
    pub number: u64,
    /// The last message to this recipient whose place the sender knew.
    pub previous: Option<Previous>,
    /// Numbers that the sender may have used and does not remember.
    pub forgotten: Option<Forgotten>,
}

/// Where an earlier message to the same recipient stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Previous {
    /// Its number.
    #[n(0)]
    pub number: u64,
    /// Its place in the order.
    #[n(1)]
    pub seq: Seq,
    /// Its origin; none if it is that of the message which says so.
    #[n(2)]
    pub via: Option<NodeId>,
}

/// Numbers that a sender whose memory was set back may have used: a hole there means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Forgotten {
    /// The first.
    #[n(0)]
    pub from: u64,
    /// The last.
    #[n(1)]
    pub to: u64,
}

/// A question or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Control {
    /// "Your messages with these numbers are not here."
    #[n(0)]
    Ask {
        /// The first.
        #[n(0)]
        from: u64,
        /// The last.
        #[n(1)]
        to: u64,
    },
    /// What the sender knows of one of them.
    #[n(1)]
    Told(#[n(0)] Told),
}

/// What a sender knows of its message with one number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Told {
    /// The number.
    #[n(0)]
    pub number: u64,
    /// What became of it.
    #[n(1)]
    pub fate: Fate,
    /// Its place, if it is ordered.
    #[n(2)]
    pub seq: Option<Seq>,
    /// An encoded [`Statements`] if it is ordered, else nothing; at most [`MAX_STATEMENT_BYTES`].
    #[cbor(n(3), with = "minicbor::bytes")]
    pub statements: Vec<u8>,
}

/// What became of a message, as its sender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Fate {
    /// It has a place in the order.
    #[n(0)]
    Ordered,
    /// It waits for one.
    #[n(1)]
    Waiting,
    /// It was never ordered, and the sender has given it up.
    #[n(2)]
    GivenUp,
    /// The sender keeps nothing of it any more.
    #[n(3)]
    Unknown,
}

/// What proves that a message was ordered for a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Statements {
    /// What the sender signed.
    #[n(0)]
    pub bundle: Signed<BundleBody>,
    /// The message in its bundle.
    #[n(1)]
    pub index: u32,
    /// From the message to the bundle's signed root.
    #[n(2)]
    pub path: Path,
    /// The digest of the common payload.
    #[n(3)]
    pub common: Digest,
    /// How many recipients the message has.
    #[n(4)]
    pub recipient_count: u32,
    /// The recipient's leaf.
    #[n(5)]
    pub recipient: RecipientProof,
    /// The bundle's place in the order.
    #[n(6)]
    pub ordered: OrderedProof,
}

impl Statements {
    /// The message's place, and why the recipient's home refuses it if it does; none if anything does not hold or is
    /// about another recipient.
    pub fn verify(
        &self,
        mailbox: &MailboxId,
        home: &NodeId,
        federation: &Federation,
    ) -> Option<(Seq, Option<LeafRefusal>)> {
        let body = &self.bundle.body;
        let id = self.recipient.message(self.recipient_count, self.common)?;
        let root = postroad_protocol::bundle::messages_root(id, self.index, body.count, &self.path)?;
        if self.recipient.mailbox != *mailbox || root != body.messages {
            return None;
        }
        let first = self.ordered.verify(&self.bundle, federation).ok()?;
        let seq = Seq { index: first.index.checked_add(u64::from(self.index))?, ..first };
        let refusal = self.ordered.refusal(seq, mailbox, home, federation).map(|(reason, _)| reason);
        Some((seq, refusal))
    }
}
