//! [`CALL`](super::CALL): one question and one answer on a stream of its own; for look-ups and catching up.

use minicbor::{Decode, Encode};

use crate::attestation::{Anchor, DeliveryProof};
use crate::block_list::BlockList;
use crate::crypto::{MailboxId, NodeId, PublicKey, Signature};
use crate::cut::Cut;
use crate::digest::Digest;
use crate::error::Refusal;
use crate::evidence::Claim;
use crate::explanation::Explanation;
use crate::genesis::{Genesis, Member};
use crate::moving::{Extent, Extract, HandoffPage, HandoffRequest, MoveRequest, MoveStatus};
use crate::receipt::Sealed;
use crate::record::{NodeRecord, OwnerSigned};
use crate::refused::RefusedProof;
use crate::seq::Seq;
use crate::signed::Signed;
use crate::slice::SliceKey;
use crate::state::{HomeProof, Suspicion};
use crate::wire::mail::SliceParcel;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Question {
    /// The federation's genesis.
    #[n(0)]
    Genesis,
    /// What the node knows of itself and the federation.
    #[n(1)]
    Status,
    /// Where a mailbox lives: now, or as of a recent epoch.
    #[n(2)]
    Home(#[n(0)] MailboxId, #[n(1)] Option<u64>),
    /// Register a mailbox at this node; answered with [`Reply::Home`] once a cut has settled it.
    #[n(3)]
    Register(#[n(0)] OwnerSigned),
    /// The cuts after an epoch, as many as fit.
    #[n(4)]
    Cuts(#[n(0)] u64),
    /// A slice that this node holds, or can cut again from a batch of its own.
    #[n(5)]
    Slice(#[n(0)] SliceKey),
    /// Whether a message is with a recipient, finally; answered when it is, or after about two heartbeats.
    #[n(6)]
    Delivery(#[n(0)] MailboxId, #[n(1)] Seq),
    /// Headers with their receipts, for the sequencer.
    #[n(7)]
    HandIn(#[n(0)] Vec<Sealed>),
    /// The block list of a mailbox that lives here: for its owner only.
    #[n(8)]
    BlockList(#[n(0)] MailboxId),
    /// A new block list of a mailbox that lives here; answered with [`Reply::BlockList`] once it is durable.
    #[n(9)]
    SetBlockList(#[n(0)] Signed<BlockList>),
    /// Evidence; answered with [`Reply::Judged`].
    #[n(10)]
    Accuse(#[n(0)] Box<Claim>),
    /// The evidence that the node keeps, in the order of ids, after this one; as much as fits.
    #[n(11)]
    Evidence(#[n(0)] Option<Digest>),
    /// What this node can show of the way of a message to a mailbox; answered with [`Reply::Explained`].
    #[n(12)]
    Explain(#[n(0)] MailboxId, #[n(1)] Seq),
    /// Which header made a node's attestation of this number final, or its last one where no number is given.
    #[n(13)]
    Anchored(#[n(0)] NodeId, #[n(1)] Option<u64>),
    /// Take a mailbox over; the same again asks for nothing new. Answered with [`Reply::Moving`].
    #[n(14)]
    Move(#[n(0)] Box<MoveRequest>),
    /// How far a move has come; answered with [`Reply::Moving`].
    #[n(15)]
    MoveStatus(#[n(0)] MailboxId),
    /// Whether a mailbox of this extent would be taken over, and so many others besides; answered with [`Reply::Taken`].
    #[n(16)]
    MayMove(#[n(0)] MailboxId, #[n(1)] Extent, #[n(2)] u64),
    /// What a mailbox that lives here holds: for its owner.
    #[n(17)]
    Inventory(#[n(0)] MailboxId),
    /// The log of a mailbox that moves: for its new home.
    #[n(18)]
    Handoff(#[n(0)] Box<HandoffRequest>),
    /// What these slices hold for a mailbox: for its home. Answered for the first ones, as many as fit.
    #[n(19)]
    Extracts(
        #[n(0)] MailboxId,
        #[cbor(n(1), decode_with = "crate::codec::at_most::<MAX_EXTRACTS, _, _>")] Vec<SliceKey>,
    ),
    /// Where nodes listen, from this key on in the order of keys, [`MAX_MEMBERS`] at most; answered with
    /// [`Reply::Nodes`].
    #[n(20)]
    Nodes(#[n(0)] NodeId),
    /// Be a deputy of the node whose record this is, which names this node; answered with [`Reply::Deputised`].
    #[n(21)]
    Deputise(#[n(0)] Signed<NodeRecord>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Not answered, and why.
    #[n(0)]
    Refused(#[n(0)] Refusal),
    /// The genesis.
    #[n(1)]
    Genesis(#[n(0)] Box<Genesis>),
    /// The status.
    #[n(2)]
    Status(#[n(0)] Box<Status>),
    /// A mailbox's home, with its proof.
    #[n(3)]
    Home(#[n(0)] Box<HomeProof>),
    /// Cuts in ascending order.
    #[n(4)]
    Cuts(#[n(0)] Vec<Cut>),
    /// A slice, with its header.
    #[n(5)]
    Slice(#[n(0)] Box<SliceParcel>),
    /// The delivery proof; none yet if the message is not there finally.
    #[n(6)]
    Delivery(#[n(0)] Option<Box<DeliveryProof>>),
    /// Taken.
    #[n(7)]
    Taken,
    /// The message was refused for that recipient, which a cut has settled: it is never delivered.
    #[n(8)]
    LeafRefused(#[n(0)] Box<RefusedProof>),
    /// The block list that holds from now on; none if there never was one.
    #[n(9)]
    BlockList(#[n(0)] Option<Box<Signed<BlockList>>>),
    /// What the node found of the evidence that it was handed.
    #[n(10)]
    Judged(#[n(0)] Judged),
    /// Evidence, in the order of ids.
    #[n(11)]
    Evidence(#[n(0)] Vec<Filed>),
    /// What this node has of the way of a message, and where those that signed something on it listen (nobody's word).
    #[n(12)]
    Explained(#[n(0)] Box<Explanation>, #[n(1)] Vec<Member>),
    /// The header and its cut; none if none was found among recent cuts.
    #[n(13)]
    Anchored(#[n(0)] Option<Box<Anchor>>),
    /// How far a move has come.
    #[n(14)]
    Moving(#[n(0)] Box<MoveStatus>),
    /// What a mailbox holds.
    #[n(15)]
    Inventory(#[n(0)] Inventory),
    /// A part of a log.
    #[n(16)]
    Handoff(#[n(0)] Box<HandoffPage>),
    /// For each of the first slices that were asked for, what it holds for the mailbox; none if this node does not have
    /// the slice.
    #[n(17)]
    Extracts(#[n(0)] Vec<Option<Extract>>),
    /// Nodes and where they listen, as their records say. Nobody has signed it, and an address that is wrong answers
    /// nothing.
    #[n(18)]
    Nodes(#[cbor(n(0), decode_with = "crate::codec::at_most::<MAX_MEMBERS, _, _>")] Vec<Member>),
    /// This node's signature over the digest of the record that names it as a deputy.
    #[n(19)]
    Deputised(#[n(0)] Signature),
}

/// The most nodes in one answer.
pub const MAX_MEMBERS: usize = 64;

/// The most slices in one question for extracts.
pub const MAX_EXTRACTS: usize = 256;

/// What a mailbox holds at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Inventory {
    /// The entries that its owner has not acknowledged: what has to be handed over.
    #[n(0)]
    pub open: Extent,
    /// The size of the log.
    #[n(1)]
    pub size: u64,
    /// How many slices for its home are pending, which may hold mail for it.
    #[n(2)]
    pub pending: u64,
}

/// What a node found of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Judged {
    /// It holds, and is kept under this id; or was before.
    #[n(0)]
    Kept(#[n(0)] Digest),
    /// Its statements hold, and the accused is innocent, for this reason.
    #[n(1)]
    Cleared(#[n(0)] String),
    /// It proves nothing, for this reason.
    #[n(2)]
    Unproven(#[n(0)] String),
}

/// Evidence as a node keeps it. When it came and from whom is the node's own word; the claim speaks for itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Filed {
    /// The last epoch that the node had applied when it came.
    #[n(0)]
    pub found_epoch: u64,
    /// Who handed it in; the node itself, where it found it.
    #[n(1)]
    pub found_by: PublicKey,
    /// The evidence.
    #[n(2)]
    pub claim: Claim,
}

/// What a node knows of itself and of the federation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Status {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// The federation.
    #[n(1)]
    pub federation: Digest,
    /// Its incarnation; zero before its start is settled.
    #[n(2)]
    pub incarnation: u64,
    /// The last epoch it has applied.
    #[n(3)]
    pub epoch: u64,
    /// That cut's hash.
    #[n(4)]
    pub cut: Digest,
    /// That cut's time, Unix milliseconds.
    #[n(5)]
    pub time_ms: u64,
    /// How many mailboxes live here.
    #[n(6)]
    pub mailboxes: u64,
    /// How many slices for this node are pending.
    #[n(7)]
    pub pending: u64,
    /// The other nodes.
    #[n(8)]
    pub peers: Vec<PeerStatus>,
    /// The software's version.
    #[n(9)]
    pub version: String,
    /// Who is suspected as of that cut, and of what; the first 256.
    #[n(10)]
    pub suspicions: Vec<Suspicion>,
    /// The last epoch whose mail is in the mailboxes.
    #[n(11)]
    pub delivered: u64,
    /// Messages of this node's batches that cuts included, since it started.
    #[n(12)]
    pub messages_ordered: u64,
    /// Messages appended to mailboxes here, once for each mailbox, since it started.
    #[n(13)]
    pub messages_delivered: u64,
    /// The home that it offers its mailboxes, if it closes.
    #[n(14)]
    pub retiring: Option<NodeId>,
}

/// What a node sees of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PeerStatus {
    /// The other node.
    #[n(0)]
    pub node: NodeId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// How it looks from here.
    #[n(2)]
    pub state: PeerState,
}

/// How another node looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum PeerState {
    /// Connected and caught up.
    #[n(0)]
    Ready,
    /// Connected, but not caught up, or too slow.
    #[n(1)]
    Away,
    /// Not connected.
    #[n(2)]
    Unreachable,
}
