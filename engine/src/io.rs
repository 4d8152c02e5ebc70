//! What goes into a node's engine and what comes out.

use std::sync::Arc;

use postroad_protocol::attestation::{Acknowledgement, DeliveryProof};
use postroad_protocol::block_list::BlockList;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::cut::Cut;
use postroad_protocol::evidence::{Claim, Evidence, Verdict};
use postroad_protocol::moving::{HandoffRequest, MoveStatus};
use postroad_protocol::receipt::{CustodyRequest, Fill, Receipt, Sealed};
use postroad_protocol::record::{NodeRecord, OwnerSigned, Record};
use postroad_protocol::refused::RefusedProof;
use postroad_protocol::slice::{SliceIndex, SliceKey};
use postroad_protocol::wire::client::Answer;
use postroad_protocol::wire::mail::{Homeward, Outward, SliceParcel};
use postroad_protocol::wire::order::ToSequencer;
use postroad_protocol::{
    Digest, Federation, MailboxId, NodeId, PublicKey, Refusal, Seq, Signature, Signed, Verified, VerifyError,
};
use postroad_store::Write;

use crate::arrivals::{Answered, Extracted, Wanted};
use crate::exhibits::Exhibit;
use crate::outbox::AttestedView;

/// Monotonic time, milliseconds since any beginning; drives timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// `ms` later.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; zero if that is later.
    pub fn since_ms(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the clocks say: monotonic time, and Unix milliseconds, from which only cut time is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic.
    pub time: Time,
    /// Wall clock, Unix milliseconds.
    pub wall_ms: u64,
}

/// Names one client connection, as the driver numbers them.
pub type ClientId = u64;
/// Names one pending question, as the driver numbers them.
pub type Token = u64;

/// A slice that was checked against its header: what a holder writes to its disk.
#[derive(Clone, Debug)]
pub struct Held {
    /// The slice's name.
    pub key: SliceKey,
    /// The slice, its header, and the request.
    pub parcel: Arc<SliceParcel>,
    /// Its leaves by mailbox.
    pub index: Arc<SliceIndex>,
}

impl Held {
    /// Checks a parcel: the header's signature, the request's, and every path of the slice.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn check(parcel: SliceParcel, federation: &Federation) -> Result<Held, VerifyError> {
        let (key, index) = check_parcel(&parcel, federation)?;
        Ok(Held { key, parcel: Arc::new(parcel), index: Arc::new(index) })
    }

    /// As [`Held::check`]; what is refused may be an exhibit.
    ///
    /// # Errors
    /// Those of [`Held::check`], with the exhibit.
    pub fn examine(parcel: SliceParcel, federation: &Federation) -> Result<Held, (VerifyError, Option<Box<Exhibit>>)> {
        match check_parcel(&parcel, federation) {
            Ok((key, index)) => Ok(Held { key, parcel: Arc::new(parcel), index: Arc::new(index) }),
            Err(error) => Err((error, Exhibit::of(&parcel, federation).map(Box::new))),
        }
    }
}

fn check_parcel(parcel: &SliceParcel, federation: &Federation) -> Result<(SliceKey, SliceIndex), VerifyError> {
    use postroad_protocol::signed::Verify;
    let malformed = |reason| VerifyError::Malformed { kind: "slice parcel", reason };
    let header = &parcel.header.body;
    if header.slices.len() as u64 > federation.params().max_slices {
        return Err(malformed("the header has more slices than genesis allows"));
    }
    let slice = header.slice(&parcel.destination).ok_or(malformed("the header names no such slice"))?;
    parcel.header.verify(federation)?;
    let digest = parcel.header.digest(federation);
    let key = SliceKey::of(parcel, digest);
    if let Some(request) = &parcel.request {
        check_request(request, &key, federation)?;
    }
    let index = parcel.body.verify(header, slice, federation)?;
    Ok((key, index))
}

/// Checks that a request is its origin's and names this slice.
///
/// # Errors
/// [`VerifyError`] says what does not hold.
pub fn check_request(
    request: &Signed<CustodyRequest>,
    key: &SliceKey,
    federation: &Federation,
) -> Result<(), VerifyError> {
    use postroad_protocol::signed::Verify;
    let body = &request.body;
    if body.origin != key.origin || body.header != key.header || body.destination != key.destination {
        return Err(VerifyError::Malformed { kind: "custody-request", reason: "it names another slice" });
    }
    request.verify(federation)
}

/// What finally became of a message for one recipient.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is in the mailbox.
    Delivered(Box<DeliveryProof>),
    /// It was refused.
    Refused(Box<RefusedProof>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Writes up to this token are on disk.
    Persisted(u64),
    /// A timer that [`crate::Node::next_timeout`] asked for has come.
    TimedOut,
    /// The stream on which slices go to this node is up (with its greeting), or gone.
    Holder(NodeId, bool),
    /// The stream to the sequencer is up, with the sequencer's last epoch; or gone.
    Sequencer(Option<u64>),
    /// A holder's answer on that stream, its receipts verified.
    Receipts(NodeId, Vec<Verified<Receipt>>),
    /// A holder does not have a slice that was to be resumed.
    Missing(NodeId, SliceKey),
    /// A holder does not take a slice.
    NotTaken(NodeId, SliceKey, String),
    /// A holder says whether it is caught up.
    Ready(NodeId, bool),
    /// An origin opened its stream to this node.
    Origin(NodeId),
    /// An origin hands over a slice.
    Slice(NodeId, Held),
    /// An origin asks for another receipt for a slice that it handed over before (the request is checked).
    Resume(NodeId, SliceKey, Option<Signed<CustodyRequest>>),
    /// A slice that was asked for with [`Output::Fetch`], or that nobody had it.
    Fetched(SliceKey, Option<Held>),
    /// A cut, from the sequencer or from anybody.
    Cut(Arc<Verified<Cut>>),
    /// A cut that does not verify, from the sequencer: it may be certified all the same.
    UnsoundCut(Box<Cut>),
    /// A slice that was not taken, though its leaves give the root in the signed header.
    Exhibit(Box<Exhibit>),
    /// The cuts that were asked for with [`Output::FetchCuts`] are in, or could not be had.
    CutsFetched,
    /// The signing guard has let the vote for this epoch pass.
    Voted(u64, postroad_protocol::cut::Vote),
    /// The signing guard refuses to sign this epoch.
    VoteRefused(u64, String),
    /// A header with receipts is handed in, by a node or a client.
    Sealed(Option<NodeId>, Box<Verified<Sealed>>),
    /// A fill is handed in.
    Fill(NodeId, Box<Verified<Fill>>),
    /// A record is handed in.
    Record(NodeId, Box<Verified<Record>>),
    /// The sequencer cannot settle what has this digest.
    Rejected(Digest, String),
    /// The sequencer has no room at the moment for what has this digest.
    Deferred(Digest),
    /// A client submits a bundle.
    Submit(ClientId, MailboxId, Box<Verified<Bundle>>),
    /// A client has gone.
    ClientGone(ClientId),
    /// A client asks to be registered here.
    Register(Token, Box<Verified<OwnerSigned>>),
    /// An owner acknowledges.
    Acknowledge(Box<Verified<Signed<Acknowledgement>>>),
    /// An owner says whom it blocks.
    Block(Token, Box<Verified<Signed<BlockList>>>),
    /// Somebody asks whether a message is with a mailbox of this node.
    Delivery(Token, MailboxId, Seq),
    /// An owner moves its mailbox here, or asks again; its order is verified, and so is its base.
    Move(Token, Box<Wanted>),
    /// What [`Output::AskHandoff`] has brought.
    HandedOver(MailboxId, Answered),
    /// What [`Output::AskExtracts`] has brought: of the slices that were asked for, those that this node had.
    Extracted(MailboxId, NodeId, Vec<SliceKey>, Vec<Extracted>),
    /// What a deputy of [`Output::AskDeputies`] says about the record with this digest: its consent, or why there is none.
    /// One of these comes for each of them.
    Deputised(NodeId, Digest, Result<Signature, String>),
    /// The operator closes this node and offers its mailboxes another home, or thinks otherwise.
    Retire(Token, Option<NodeId>),
    /// Somebody hands evidence in: another node, a client, or this node, which found it.
    Evidence(Token, PublicKey, Box<Evidence>),
    /// The group of inputs is over: what waits for company is sealed.
    Flush,
    /// The node is about to stop: take nothing new.
    Drain,
}

/// What to do. Outputs are carried out in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write; once everything so far is durable, answer with [`Input::Persisted`] of this token.
    Persist(u64, Vec<Write>),
    /// To a holder, on the stream that this node opened to it.
    ToHolder(NodeId, Box<Outward>),
    /// To an origin, on the stream that it opened to this node.
    ToOrigin(NodeId, Homeward),
    /// To every origin that has a stream to this node.
    ToOrigins(Homeward),
    /// To the sequencer.
    ToSequencer(Box<ToSequencer>),
    /// Ask the signing guard for the vote on the cut of this epoch and digest.
    Vote(u64, Digest),
    /// A new certified cut, for everybody who follows.
    Publish(Arc<Verified<Cut>>),
    /// What this node handed in cannot be settled.
    Reject(NodeId, Digest, String),
    /// There is no room at the moment for what this node handed in.
    Defer(NodeId, Digest),
    /// An answer to a client: about the bundle with this counter.
    Answer(ClientId, u64, Box<Answer>),
    /// The registration is settled, or refused.
    Registered(Token, Result<(), Refusal>),
    /// The answer to [`Input::Block`].
    Blocked(Token, Result<(), Refusal>),
    /// The answer to [`Input::Delivery`].
    Delivery(Token, Option<Fate>),
    /// This node found a contradiction: judge it and, if it holds, hand it in with [`Input::Evidence`].
    Accuse(Box<Claim>),
    /// The answer to [`Input::Retire`].
    Retiring(Token, Result<(), Refusal>),
    /// The answer to [`Input::Evidence`].
    Kept(Token, Result<(), Refusal>),
    /// The answer to [`Input::Move`].
    Moving(Token, Result<Box<MoveStatus>, Refusal>),
    /// Ask a mailbox's former home for its log.
    AskHandoff(NodeId, Box<HandoffRequest>),
    /// Ask a node for what slices hold for a mailbox, at most `MAX_EXTRACTS`.
    AskExtracts(NodeId, MailboxId, Vec<SliceKey>),
    /// Ask each deputy that this record names for its consent.
    AskDeputies(Box<Signed<NodeRecord>>),
    /// Get a slice from any of these nodes.
    Fetch(SliceKey, Vec<NodeId>),
    /// Get the cuts after this epoch, from any node.
    FetchCuts(u64),
    /// A cut was applied: the last epoch, and the last epoch whose mail is in the logs.
    Applied(u64, u64),
    /// A new attestation is signed, or has become final.
    Attested(Arc<AttestedView>),
    /// Something that an operator may want to know.
    Report(Report),
    /// The node cannot go on; the process must stop.
    Fatal(String),
}

/// Events for logs and metrics. What they tell of is durable when they are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A bundle was taken into the inbox; one that comes again is not taken again.
    Taken {
        /// Its messages.
        messages: u64,
    },
    /// All slices of a batch of this node's are under receipts. A batch that dies is sealed again, and so accepted again.
    Accepted {
        /// Its bundles.
        bundles: u64,
        /// Its messages.
        messages: u64,
    },
    /// A cut included a batch of this node's.
    Ordered {
        /// Its bundles.
        bundles: u64,
        /// Its messages.
        messages: u64,
    },
    /// A cut was applied.
    Cut {
        /// The headers in it.
        headers: u64,
        /// The messages under those, of all nodes.
        messages: u64,
        /// The fills in it.
        fills: u64,
    },
    /// Entries were appended to the logs of mailboxes that live here.
    Delivered {
        /// How many: one for each message and mailbox.
        entries: u64,
    },
    /// A slice was taken to hold.
    Held {
        /// Whether it is for another node.
        in_custody: bool,
    },
    /// This node's start is settled: from now on it signs.
    Started {
        /// Its incarnation.
        incarnation: u64,
    },
    /// A destination is away: its slices go to custodians.
    Away {
        /// The destination.
        node: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// A destination is back.
    Back {
        /// The destination.
        node: NodeId,
    },
    /// This node closes, and its last mailbox has left.
    Retired,
    /// A node that the operator wishes for as a deputy does not consent.
    NoDeputy {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A chain of headers can never be included; its bundles are sealed again.
    Resealed {
        /// How many batches died.
        batches: u64,
    },
    /// Evidence is kept that was not here before.
    Convicted {
        /// Its id.
        id: Digest,
        /// Who is guilty, and of what.
        verdict: Verdict,
        /// Who handed it in; this node, if it found it.
        found_by: PublicKey,
    },
    /// Something from a peer was not taken.
    Refused {
        /// The peer, if it is a node.
        peer: Option<NodeId>,
        /// Why.
        reason: String,
    },
    /// A node that was told to cheat did; only in builds that can (this variant is in all of them, because cargo may give
    /// one member of a workspace an engine that can, and another code that does not know of it).
    Sinned {
        /// The sin's name.
        sin: &'static str,
        /// The epoch.
        epoch: u64,
    },
}
