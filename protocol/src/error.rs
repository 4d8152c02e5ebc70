//! The error families of the protocol: bytes that do not decode, statements that do not verify, and the honest no that
//! travels to whoever asked. (The fourth family, the store's, lives with the store.)

use minicbor::{Decode, Encode};

use crate::crypto::{MailboxId, NodeId, PublicKey};

/// Bytes that are not the canonical encoding of what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No such value.
    #[error("these bytes are no {what}: {reason}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// Bytes after the value.
    #[error("{bytes} bytes follow the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Another byte string is this value's encoding.
    #[error("the value is not encoded canonically")]
    NotCanonical,
}

/// A statement or a proof that does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The signature does not hold.
    #[error("the signature of {signer} on this {kind} does not hold")]
    Signature {
        /// The kind of statement.
        kind: &'static str,
        /// Who is said to have signed.
        signer: PublicKey,
    },
    /// The parts contradict each other or leave the limits of genesis.
    #[error("this {kind} is not well formed: {reason}")]
    Malformed {
        /// The kind of statement.
        kind: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A Merkle path does not lead to the root that it should.
    #[error("the path of the {what} does not lead to its root")]
    Path {
        /// What the path was to prove.
        what: &'static str,
    },
    /// The certificate is not the committee's.
    #[error("the certificate of cut {epoch} is not signed by the committee")]
    Certificate {
        /// The cut's epoch.
        epoch: u64,
    },
}

impl VerifyError {
    pub(crate) fn malformed(kind: &'static str, reason: &'static str) -> VerifyError {
        VerifyError::Malformed { kind, reason }
    }
}

/// The honest no: why a node does not take what a peer or a client handed it. Nothing was lost: the sender still has
/// it, and the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum Refusal {
    /// A queue is full.
    #[n(0)]
    #[error("the node is busy; send the same bytes again a little later")]
    Busy,
    /// The counter is not above the last one that this node took from this sender.
    #[n(1)]
    #[error("the counter is not above {last}, the last one taken; use a higher counter")]
    StaleCounter {
        /// The last counter taken.
        #[n(0)]
        last: u64,
    },
    /// Something is larger than genesis allows.
    #[n(2)]
    #[error("too large: {bytes} where the federation's limit is {limit}; send less at once")]
    TooLarge {
        /// What was sent (bytes, messages, or homes of recipients).
        #[n(0)]
        bytes: u64,
        /// What is allowed.
        #[n(1)]
        limit: u64,
    },
    /// A recipient is not registered.
    #[n(3)]
    #[error("{mailbox} is not registered in this federation; check the address, or wait until its owner registers it")]
    UnknownRecipient {
        /// The recipient.
        #[n(0)]
        mailbox: MailboxId,
    },
    /// The sender is not registered.
    #[n(4)]
    #[error("{mailbox} is not registered in this federation; register it first (`postroad mailbox new`)")]
    UnknownSender {
        /// The sender.
        #[n(0)]
        mailbox: MailboxId,
    },
    /// The bundle was signed for another origin.
    #[n(5)]
    #[error("the bundle is signed for the node {via}; sign it for the node that you send it to")]
    WrongVia {
        /// The origin it was signed for.
        #[n(0)]
        via: NodeId,
    },
    /// The valid-until epoch is too near, past, or too far.
    #[n(6)]
    #[error("the bundle is valid until epoch {valid_until}, but this node takes only {from} to {to}; sign it again")]
    BadValidity {
        /// What the bundle says.
        #[n(0)]
        valid_until: u64,
        /// The lowest epoch taken.
        #[n(1)]
        from: u64,
        /// The highest epoch taken.
        #[n(2)]
        to: u64,
    },
    /// A recipient is named twice.
    #[n(7)]
    #[error("{mailbox} is named twice; name each recipient once")]
    RepeatedRecipient {
        /// The recipient.
        #[n(0)]
        mailbox: MailboxId,
    },
    /// A message has no recipient, or more than genesis allows.
    #[n(8)]
    #[error("{count} recipients; a message has 1 to {limit}")]
    RecipientCount {
        /// How many were named.
        #[n(0)]
        count: u64,
        /// How many are allowed.
        #[n(1)]
        limit: u64,
    },
    /// The bytes do not decode or a signature does not hold.
    #[n(9)]
    #[error("refused: {reason}")]
    Invalid {
        /// What is wrong.
        #[n(0)]
        reason: String,
    },
    /// The peer speaks for another federation.
    #[n(10)]
    #[error("this node belongs to another federation; check the genesis file")]
    WrongFederation,
    /// The node is starting or stopping and signs nothing at the moment.
    #[n(11)]
    #[error("the node is not ready (it starts, stops, or waits for its sequencer); try again in a moment")]
    NotReady,
    /// The mailbox is hosted elsewhere.
    #[n(12)]
    #[error("the mailbox lives at {home}; connect there")]
    NotHere {
        /// Its home.
        #[n(0)]
        home: NodeId,
    },
    /// The mailbox is registered already, with another home or other keys.
    #[n(13)]
    #[error("the mailbox is already registered, at {home}")]
    AlreadyRegistered {
        /// Its home.
        #[n(0)]
        home: NodeId,
    },
    /// What was asked for is not on this node.
    #[n(14)]
    #[error("not found here: {what}")]
    NotFound {
        /// What was asked for.
        #[n(0)]
        what: String,
    },
    /// The federation's or the node's policy does not allow it.
    #[n(15)]
    #[error("not allowed: {reason}")]
    NotAllowed {
        /// Which policy.
        #[n(0)]
        reason: String,
    },
    /// The bundle was not ordered before the epoch until which it is valid.
    #[n(16)]
    #[error("the bundle was valid until epoch {valid_until} and was not ordered by then; sign it again")]
    Expired {
        /// The bundle's last epoch.
        #[n(0)]
        valid_until: u64,
    },
    /// A statement that a newer one has replaced.
    #[n(17)]
    #[error("it is out of date: version {newest} is known; change that one")]
    StaleVersion {
        /// The newest version known.
        #[n(0)]
        newest: u64,
    },
}

impl Refusal {
    /// A short stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Busy => "busy",
            Refusal::StaleCounter { .. } => "stale-counter",
            Refusal::TooLarge { .. } => "too-large",
            Refusal::UnknownRecipient { .. } => "unknown-recipient",
            Refusal::UnknownSender { .. } => "unknown-sender",
            Refusal::WrongVia { .. } => "wrong-via",
            Refusal::BadValidity { .. } => "bad-validity",
            Refusal::RepeatedRecipient { .. } => "repeated-recipient",
            Refusal::RecipientCount { .. } => "recipient-count",
            Refusal::Invalid { .. } => "invalid",
            Refusal::WrongFederation => "wrong-federation",
            Refusal::NotReady => "not-ready",
            Refusal::NotHere { .. } => "not-here",
            Refusal::AlreadyRegistered { .. } => "already-registered",
            Refusal::NotFound { .. } => "not-found",
            Refusal::NotAllowed { .. } => "not-allowed",
            Refusal::Expired { .. } => "expired",
            Refusal::StaleVersion { .. } => "stale-version",
        }
    }

    /// Whether the same bytes may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Refusal::Busy | Refusal::NotReady)
    }
}
