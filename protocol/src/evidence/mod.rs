//! Evidence: signed statements that contradict each other, and whose key made the contradiction.
//!
//! A [`Claim`] says that somebody is guilty, and carries everything that a stranger with nothing but genesis needs to
//! judge it: statements, Merkle paths, the certified cuts that it quotes. [`Claim::judge`] gives one of three answers:
//! a [`Verdict`]; or that the statements hold and do not contradict each other, and why ([`Cleared`]); or that it proves
//! nothing ([`VerifyError`]). [`Evidence`] is a claim with its verdict, and cannot be had otherwise.
//!
//! What each fault is, who sees it and what cannot be proven stands in docs/blame.md. Two rules hold throughout. A
//! contradiction means different digests, never different signature bytes. And every word that convicts is the
//! culprit's own signature; what others say (the directory, a sender's bundle) is quoted from cuts that the committee
//! certified.

mod custody;
mod dropped;
mod home;
mod moving;
mod origin;
mod parts;
mod sequencer;

use minicbor::{Decode, Encode};

use crate::codec::{decode, encode};
use crate::crypto::{MailboxId, NodeId};
use crate::digest::Digest;
use crate::error::{DecodeError, VerifyError};
use crate::file::Kind;
use crate::genesis::Federation;
use crate::receipt::LeafRefusal;
use crate::seq::Seq;
use crate::state::PendingKey;

pub use custody::{Loss, Owed};
pub use dropped::{Closed, Drop, PendingThen, SettledImport};
pub use home::{EarlyExpiry, SplitLogs, SplitView, Wrong, WrongEntry};
pub use moving::{Broken, FalseBase, FalseHandoff, FalseHome, FalseImport, NotContinued, Refuted};
pub use origin::{BadSlice, Entry, Equivocation, Forgery, Misordering, Omission, Stale};
pub(crate) use parts::Residence;
pub use parts::{Attested, BundleAt, Included, LeafAt, LogGap, MessageAt, RecipientAt, SliceProof};
pub use sequencer::{InvalidCut, Row, SplitOrder};

/// The largest evidence that is passed on, in bytes.
pub const MAX_EVIDENCE_BYTES: usize = 4 << 20;
/// A file that holds evidence.
const FILE: Kind = Kind { magic: "postroad evidence 1", what: "evidence file" };

/// What somebody is guilty of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Fault {
    /// Two headers of one incarnation with one number.
    #[n(0)]
    Equivocation,
    /// A message is in the batch, and not in the slice for its recipient's home.
    #[n(1)]
    Omission,
    /// A slice says something else than the batch.
    #[n(2)]
    BadSlice,
    /// A bundle that its sender did not sign for this origin.
    #[n(3)]
    Forgery,
    /// Bundles of one sender in another order than its counters.
    #[n(4)]
    Misordering,
    /// A bundle that was routed after its valid-until.
    #[n(5)]
    Stale,
    /// A message that a home signed for is not in the log that it attests.
    #[n(6)]
    Drop,
    /// A log entry that the cuts do not allow.
    #[n(7)]
    WrongEntry,
    /// Mail forgotten before its time.
    #[n(8)]
    EarlyExpiry,
    /// Two attestations that cannot both be true.
    #[n(9)]
    SplitView,
    /// A slice that its holder has lost: no fraud.
    #[n(10)]
    Loss,
    /// A certified cut that breaks the rules.
    #[n(11)]
    InvalidCut,
    /// Two certified cuts of one epoch.
    #[n(12)]
    SplitOrder,
    /// An old home handed over what it never attested.
    #[n(13)]
    FalseHandoff,
    /// A new home does not continue what it took over.
    #[n(14)]
    FalseImport,
    /// A mailbox attested by a node where it did not live.
    #[n(15)]
    FalseHome,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 16] = [
        Fault::Equivocation,
        Fault::Omission,
        Fault::BadSlice,
        Fault::Forgery,
        Fault::Misordering,
        Fault::Stale,
        Fault::Drop,
        Fault::WrongEntry,
        Fault::EarlyExpiry,
        Fault::SplitView,
        Fault::Loss,
        Fault::InvalidCut,
        Fault::SplitOrder,
        Fault::FalseHandoff,
        Fault::FalseImport,
        Fault::FalseHome,
    ];

    /// A short stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Equivocation => "equivocation",
            Fault::Omission => "omission",
            Fault::BadSlice => "bad-slice",
            Fault::Forgery => "forgery",
            Fault::Misordering => "misordering",
            Fault::Stale => "stale",
            Fault::Drop => "drop",
            Fault::WrongEntry => "wrong-entry",
            Fault::EarlyExpiry => "early-expiry",
            Fault::SplitView => "split-view",
            Fault::Loss => "loss",
            Fault::InvalidCut => "invalid-cut",
            Fault::SplitOrder => "split-order",
            Fault::FalseHandoff => "false-handoff",
            Fault::FalseImport => "false-import",
            Fault::FalseHome => "false-home",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// Who is guilty, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The fault.
    pub fault: Fault,
    /// The key that made the contradiction.
    pub culprit: NodeId,
    /// The epoch in which it came about.
    pub epoch: u64,
    /// The message's number, where it is about one (for a bundle: its first message).
    pub seq: Option<Seq>,
    /// The mailbox, where it is about one.
    pub mailbox: Option<MailboxId>,
}

impl Verdict {
    fn new(fault: Fault, culprit: NodeId, epoch: u64) -> Verdict {
        Verdict { fault, culprit, epoch, seq: None, mailbox: None }
    }

    fn for_message(self, seq: Seq, mailbox: Option<MailboxId>) -> Verdict {
        Verdict { seq: Some(seq), mailbox, ..self }
    }
}

/// Why the accused is innocent of a claim whose statements hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cleared {
    /// One statement, twice.
    #[error("both are the same statement")]
    Same,
    /// Statements of two slots, which need not agree.
    #[error("the statements are not about the same thing")]
    OtherSlot,
    /// Statements of two incarnations: what a node that was set back forgot binds it no more.
    #[error("the statements are of two incarnations, and such a pair need not agree")]
    OtherIncarnation,
    /// The slice was in custody.
    #[error("the slice was pending: {} held it {}", list(holders), until.map_or("and no fill has settled it".into(), |epoch| format!("until the fill in epoch {epoch}")))]
    Pending {
        /// The custodians.
        holders: Vec<NodeId>,
        /// The epoch that settled its fill.
        until: Option<u64>,
    },
    /// The home refused the message, as the cut shows.
    #[error("the home did not take {seq} for this mailbox ({}), as the cut shows", reason.code())]
    Refused {
        /// The message.
        seq: Seq,
        /// Why.
        reason: LeafRefusal,
    },
    /// The attestation does not reach so far.
    #[error("the attestation reaches epoch {attested}, and the message was owed only from epoch {settled} on")]
    NotYet {
        /// Since when the message was owed.
        settled: u64,
        /// How far the attestation reaches.
        attested: u64,
    },
    /// The mailbox lived elsewhere.
    #[error("the mailbox did not live there in epoch {epoch}")]
    NotThere {
        /// The epoch.
        epoch: u64,
    },
    /// The mailbox did live there.
    #[error("the mailbox lived there in epoch {epoch}")]
    LivedThere {
        /// The epoch.
        epoch: u64,
    },
    /// The mailbox had moved there, and its log was not taken over yet.
    #[error("the mailbox had moved there, and no import of its log was settled by epoch {epoch}")]
    NotTakenOver {
        /// The epoch.
        epoch: u64,
    },
    /// The attestation does not name the mailbox.
    #[error("the attestation says nothing of the mailbox")]
    NotNamed,
    /// The import says nothing of the message, or one before it did.
    #[error("the import that epoch {epoch} settled is not the first that speaks of the message")]
    NotClosed {
        /// The epoch.
        epoch: u64,
    },
    /// The former home answers for it.
    #[error("it is of the log that came with the mailbox, whose former homes answer for the entries below {below}")]
    Inherited {
        /// The first index that the accused answers for.
        below: u64,
    },
    /// The accused had nothing to do with the slice.
    #[error("the accused never signed for that slice")]
    NotItsSlice,
    /// The slice holds the message.
    #[error("the slice holds {seq} for this mailbox")]
    InSlice {
        /// The message.
        seq: Seq,
    },
    /// What is said agrees.
    #[error("what is said at index {index} agrees")]
    Agrees {
        /// The index.
        index: u64,
    },
    /// The bundle is its sender's.
    #[error("{sender} signed the bundle for this origin, and is registered")]
    Signed {
        /// The sender.
        sender: MailboxId,
    },
    /// The order is right.
    #[error("they stand in the right order")]
    Rising,
    /// The bundle was routed in time.
    #[error("the bundle was valid until epoch {valid_until}, and was routed in epoch {routed}")]
    InTime {
        /// Its valid-until.
        valid_until: u64,
        /// Its routing epoch.
        routed: u64,
    },
    /// The home has said that it lost the slice: that is a loss, and no fraud.
    #[error("the home has said, in epoch {epoch}, that it lost the slice")]
    Lost {
        /// The epoch that settled its word.
        epoch: u64,
    },
    /// It was old enough to be forgotten.
    #[error("it is past retention")]
    PastRetention,
    /// It was not forgotten.
    #[error("entry {index} was not forgotten")]
    Kept {
        /// The entry.
        index: u64,
    },
    /// The owner has it.
    #[error("the owner has acknowledged everything below {below}")]
    Acknowledged {
        /// The first index that is not.
        below: u64,
    },
    /// The cut is valid.
    #[error("cut {epoch} is valid")]
    Valid {
        /// Its epoch.
        epoch: u64,
    },
}

/// Two different statements, the one with the lower digest first, so that a pair has one form.
fn in_order(first: Digest, second: Digest) -> Result<(), ClaimError> {
    match first.cmp(&second) {
        std::cmp::Ordering::Less => Ok(()),
        std::cmp::Ordering::Equal => Err(Cleared::Same.into()),
        std::cmp::Ordering::Greater => Err(VerifyError::malformed("pair", "not in ascending order").into()),
    }
}

fn list(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("custodian {one}"),
        all => format!("custodians {}", all.join(", ")),
    }
}

/// Why a claim is no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It does not decode.
    #[error("not evidence: {0}")]
    Malformed(#[from] DecodeError),
    /// It is of another federation.
    #[error("the evidence belongs to the federation {theirs}, this genesis is {ours}")]
    WrongFederation {
        /// The evidence's.
        theirs: Digest,
        /// The genesis file's.
        ours: Digest,
    },
    /// A part of it does not verify: it proves nothing.
    #[error("proves nothing: {0}")]
    Unproven(#[from] VerifyError),
    /// Its statements hold, and the accused is innocent.
    #[error("cleared: {0}")]
    Cleared(#[from] Cleared),
}

/// Statements by which somebody is said to be guilty.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Claim {
    /// Of [`Fault::Equivocation`].
    #[n(0)]
    Equivocation(#[n(0)] Box<Equivocation>),
    /// Of [`Fault::Omission`].
    #[n(1)]
    Omission(#[n(0)] Box<Omission>),
    /// Of [`Fault::BadSlice`].
    #[n(2)]
    BadSlice(#[n(0)] Box<BadSlice>),
    /// Of [`Fault::Forgery`].
    #[n(3)]
    Forgery(#[n(0)] Box<Forgery>),
    /// Of [`Fault::Misordering`].
    #[n(4)]
    Misordering(#[n(0)] Box<Misordering>),
    /// Of [`Fault::Stale`].
    #[n(5)]
    Stale(#[n(0)] Box<Stale>),
    /// Of [`Fault::Drop`].
    #[n(6)]
    Drop(#[n(0)] Box<Drop>),
    /// Of [`Fault::WrongEntry`].
    #[n(7)]
    WrongEntry(#[n(0)] Box<WrongEntry>),
    /// Of [`Fault::EarlyExpiry`].
    #[n(8)]
    EarlyExpiry(#[n(0)] Box<EarlyExpiry>),
    /// Of [`Fault::SplitView`].
    #[n(9)]
    SplitView(#[n(0)] SplitView),
    /// Of [`Fault::Loss`].
    #[n(10)]
    Loss(#[n(0)] Box<Loss>),
    /// Of [`Fault::InvalidCut`].
    #[n(11)]
    InvalidCut(#[n(0)] Box<InvalidCut>),
    /// Of [`Fault::SplitOrder`].
    #[n(12)]
    SplitOrder(#[n(0)] Box<SplitOrder>),
    /// Of [`Fault::FalseHandoff`].
    #[n(13)]
    FalseHandoff(#[n(0)] Box<FalseHandoff>),
    /// Of [`Fault::FalseImport`].
    #[n(14)]
    FalseImport(#[n(0)] FalseImport),
    /// Of [`Fault::FalseHome`].
    #[n(15)]
    FalseHome(#[n(0)] Box<FalseHome>),
}

impl Claim {
    /// Of what.
    pub fn fault(&self) -> Fault {
        match self {
            Claim::Equivocation(_) => Fault::Equivocation,
            Claim::Omission(_) => Fault::Omission,
            Claim::BadSlice(_) => Fault::BadSlice,
            Claim::Forgery(_) => Fault::Forgery,
            Claim::Misordering(_) => Fault::Misordering,
            Claim::Stale(_) => Fault::Stale,
            Claim::Drop(_) => Fault::Drop,
            Claim::WrongEntry(_) => Fault::WrongEntry,
            Claim::EarlyExpiry(_) => Fault::EarlyExpiry,
            Claim::SplitView(_) => Fault::SplitView,
            Claim::Loss(_) => Fault::Loss,
            Claim::InvalidCut(_) => Fault::InvalidCut,
            Claim::SplitOrder(_) => Fault::SplitOrder,
            Claim::FalseHandoff(_) => Fault::FalseHandoff,
            Claim::FalseImport(_) => Fault::FalseImport,
            Claim::FalseHome(_) => Fault::FalseHome,
        }
    }

    /// Who is accused.
    pub fn accused(&self, federation: &Federation) -> NodeId {
        match self {
            Claim::Equivocation(claim) => claim.first.body.origin,
            Claim::Omission(claim) => claim.included.header().origin,
            Claim::BadSlice(claim) => claim.header.body.origin,
            Claim::Forgery(claim) => claim.included.header().origin,
            Claim::Misordering(claim) => claim.before.header().origin,
            Claim::Stale(claim) => claim.included.header().origin,
            Claim::Drop(claim) => claim.attested.attestation.body.node,
            Claim::WrongEntry(claim) => claim.attested.attestation.body.node,
            Claim::EarlyExpiry(claim) => claim.attested.attestation.body.node,
            Claim::SplitView(SplitView::Number(attestation, _) | SplitView::Anchored(attestation, _)) => {
                attestation.body.node
            }
            Claim::SplitView(SplitView::Logs(logs)) => logs.earlier.attestation.body.node,
            Claim::Loss(claim) => claim.lost.body.holder,
            Claim::InvalidCut(_) | Claim::SplitOrder(_) => federation.sequencer(),
            Claim::FalseHandoff(claim) => claim.handoff.body.node,
            Claim::FalseImport(claim) => claim.accused(),
            Claim::FalseHome(claim) => claim.attested.attestation.body.node,
        }
    }

    /// What it is about, so that the same fault is known again in other words.
    fn slot(&self, federation: &Federation) -> Vec<u8> {
        match self {
            Claim::Equivocation(claim) => encode(&(claim.first.body.incarnation, claim.first.body.number)),
            Claim::Omission(claim) => {
                let place = (claim.message.bundle.ordinal, claim.message.index);
                encode(&(claim.included.digest(federation), place, claim.recipient.mailbox))
            }
            Claim::BadSlice(claim) => encode(&(claim.header.digest(federation), claim.destination, claim.mailbox)),
            Claim::Forgery(claim) => encode(&(claim.included.digest(federation), claim.bundle.ordinal)),
            Claim::Misordering(claim) => encode(&(claim.after().digest(federation), claim.later.ordinal)),
            Claim::Stale(claim) => encode(&(claim.included.digest(federation), claim.bundle.ordinal)),
            Claim::Drop(claim) => encode(&(claim.included.digest(federation), claim.mailbox, claim.leaf)),
            Claim::WrongEntry(claim) => encode(&(claim.mailbox, claim.entry.index)),
            Claim::EarlyExpiry(claim) => encode(&(claim.mailbox, claim.entry.index)),
            Claim::SplitView(SplitView::Number(attestation, _) | SplitView::Anchored(attestation, _)) => {
                encode(&(attestation.body.incarnation, attestation.body.number))
            }
            Claim::SplitView(SplitView::Logs(logs)) => {
                encode(&(logs.mailbox, logs.later.attestation.body.incarnation, logs.later.attestation.body.number))
            }
            Claim::Loss(claim) => {
                encode(&PendingKey { destination: claim.lost.body.destination, header: claim.lost.body.header })
            }
            Claim::InvalidCut(claim) => encode(&claim.cut.certified.header.epoch),
            Claim::SplitOrder(claim) => encode(&claim.first.header.epoch),
            Claim::FalseHandoff(claim) => {
                encode(&(claim.handoff.body.mailbox, claim.handoff.body.attestation, claim.handoff.body.log))
            }
            Claim::FalseImport(claim) => claim.slot(federation),
            Claim::FalseHome(claim) => {
                let body = &claim.attested.attestation.body;
                encode(&(claim.mailbox, body.incarnation, body.number))
            }
        }
    }

    /// The stable id: fault, accused and slot. The same fault has the same id, whoever proves it and how. It costs no
    /// verification, so it is what duplicates are known by.
    pub fn id(&self, federation: &Federation) -> Digest {
        let accused = self.accused(federation);
        let parts: [&[u8]; 4] =
            [&federation.id().0, self.fault().code().as_bytes(), &accused.0, &self.slot(federation)];
        Digest::tagged("evidence", &parts)
    }

    /// Judges it. What clears though everything else speaks against the accused (another incarnation, custody) is
    /// asked last.
    ///
    /// # Errors
    /// [`ClaimError::Cleared`] when the statements hold and the accused is innocent, [`ClaimError::Unproven`] when they
    /// do not hold.
    pub fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        match self {
            Claim::Equivocation(claim) => claim.judge(federation),
            Claim::Omission(claim) => claim.judge(federation),
            Claim::BadSlice(claim) => claim.judge(federation),
            Claim::Forgery(claim) => claim.judge(federation),
            Claim::Misordering(claim) => claim.judge(federation),
            Claim::Stale(claim) => claim.judge(federation),
            Claim::Drop(claim) => claim.judge(federation),
            Claim::WrongEntry(claim) => claim.judge(federation),
            Claim::EarlyExpiry(claim) => claim.judge(federation),
            Claim::SplitView(claim) => claim.judge(federation),
            Claim::Loss(claim) => claim.judge(federation),
            Claim::InvalidCut(claim) => claim.judge(federation),
            Claim::SplitOrder(claim) => claim.judge(federation),
            Claim::FalseHandoff(claim) => claim.judge(federation),
            Claim::FalseImport(claim) => claim.judge(federation),
            Claim::FalseHome(claim) => claim.judge(federation),
        }
    }

    /// The bytes of a file that holds it: verifiable with nothing but genesis.
    pub fn to_file(&self, federation: &Federation) -> Vec<u8> {
        FILE.write(self, federation)
    }

    /// Whether a file claims to hold evidence.
    pub fn is_file(bytes: &[u8]) -> bool {
        FILE.is(bytes)
    }

    /// Reads a file's bytes; judges nothing yet.
    ///
    /// # Errors
    /// [`ClaimError::Malformed`], [`ClaimError::WrongFederation`].
    pub fn from_file(bytes: &[u8], federation: &Federation) -> Result<Claim, ClaimError> {
        FILE.read(bytes, federation)
    }
}

/// A claim that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    claim: Claim,
    verdict: Verdict,
    id: Digest,
}

impl Evidence {
    /// Judges a claim.
    ///
    /// # Errors
    /// Those of [`Claim::judge`].
    pub fn new(claim: Claim, federation: &Federation) -> Result<Evidence, ClaimError> {
        let verdict = claim.judge(federation)?;
        let id = claim.id(federation);
        Ok(Evidence { claim, verdict, id })
    }

    /// Reads and judges a claim's canonical bytes.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn decode(bytes: &[u8], federation: &Federation) -> Result<Evidence, ClaimError> {
        Evidence::new(decode(bytes)?, federation)
    }

    /// The statements.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Who is guilty, and of what.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The stable id; see [`Claim::id`].
    pub fn id(&self) -> Digest {
        self.id
    }
}
