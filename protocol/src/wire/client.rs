//! [`CLIENT`](super::CLIENT): a mailbox's owner with a node. The connection authenticates the client, because its
//! PeerId is its address.

use minicbor::{Decode, Encode};

use crate::attestation::{Acknowledgement, LogLeaf, MailboxAttestation};
use crate::bundle::Bundle;
use crate::crypto::NodeId;
use crate::cut::CertifiedCut;
use crate::digest::Digest;
use crate::entry::{AcceptedProof, Entry, OrderedProof};
use crate::error::Refusal;
use crate::genesis::Member;
use crate::merkle::log::Frontier;
use crate::merkle::tree::Path;
use crate::signed::Signed;

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromClient {
    /// First of all: the federation.
    #[n(0)]
    Hello(#[n(0)] Digest),
    /// A bundle to send.
    #[n(1)]
    Submit(#[n(0)] Box<Bundle>),
    /// The entries of the client's own mailbox from this log index on, and what is attested of it.
    #[n(2)]
    Subscribe(#[n(0)] u64),
    /// Everything in this log is safe with the client.
    #[n(3)]
    Acknowledge(#[n(0)] Signed<Acknowledgement>),
    /// So many more entries may be sent.
    #[n(4)]
    Credit(#[n(0)] u32),
}

/// From the node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToClient {
    /// First of all: the federation, and the last epoch that this node has applied.
    #[n(0)]
    Hello(#[n(0)] Digest, #[n(1)] u64),
    /// What became of the bundle with this counter.
    #[n(1)]
    Answer(#[n(0)] u64, #[n(1)] Box<Answer>),
    /// A certified cut; the entries of its epoch follow.
    #[n(2)]
    Cut(#[n(0)] CertifiedCut),
    /// The next entry.
    #[n(3)]
    Entry(#[n(0)] Box<Entry>),
    /// The newest attestation.
    #[n(4)]
    Attested(#[n(0)] Box<MailboxAttestation>),
    /// Everything up to this epoch is in the log, except what comes late; see [`Settled`].
    #[n(5)]
    Settled(#[n(0)] Settled),
    /// The request before cannot be done.
    #[n(6)]
    Refused(#[n(0)] Refusal),
    /// A slice for this home is overdue: mail may be missing.
    #[n(7)]
    Overdue(#[n(0)] Overdue),
    /// The entries that are due are past retention; those behind them follow.
    #[n(8)]
    Expired(#[n(0)] Box<Expired>),
    /// This node closes, and offers the mailbox another home, which would take it. Nothing moves but by the owner's order.
    #[n(9)]
    Retiring(#[n(0)] Member),
}

/// Entries that a home has forgotten, and how a reader goes on behind them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Expired {
    /// The log's right edge before its last forgotten entry.
    #[n(0)]
    pub before: Frontier,
    /// The leaf of the last forgotten entry.
    #[n(1)]
    pub last: LogLeaf,
    /// That the log up to and with that entry continues the one that the reader has (RFC 9162 section 2.1.4.1).
    #[n(2)]
    pub path: Path,
}

/// A slice for the mailbox's home that was ordered, challenged, and is nowhere to be had (rule 9). Whether it holds
/// anything for this mailbox only those who hold it know. If it turns up it comes late, also below what was settled.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Overdue {
    /// The epoch that ordered it.
    #[n(0)]
    pub epoch: u64,
    /// The header's position in that cut.
    #[n(1)]
    pub position: u32,
    /// Whose batch it is.
    #[n(2)]
    pub origin: NodeId,
    /// Who has signed for it.
    #[n(3)]
    pub holders: Vec<NodeId>,
}

/// How far a mailbox's log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Settled {
    /// The last epoch that the home has delivered.
    #[n(0)]
    pub epoch: u64,
    /// How many entries the log has.
    #[n(1)]
    pub size: u64,
    /// Entries of batches at or above this (epoch, position) may still come late: the lowest pending slice of the home.
    /// Where nothing is pending, the epoch after `epoch`.
    #[n(2)]
    pub below: (u64, u32),
}

/// The three answers that a sender gets, each with its proof, and the honest no.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// The bundle is where it must be.
    #[n(0)]
    Accepted(#[n(0)] Box<AcceptedProof>),
    /// The bundle has its place in the order.
    #[n(1)]
    Ordered(#[n(0)] Box<OrderedProof>),
    /// The bundle is not taken.
    #[n(2)]
    Refused(#[n(0)] Refusal),
}
