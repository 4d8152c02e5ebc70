//! Whether a mailbox's log is what the cuts make it be: a state machine without IO.
//!
//! A [`LogVerifier`] follows one log entry by entry. Each entry must carry its own proof, stand at the next index and
//! after the entry before it in log order; each attestation must name the log that the entries make. It keeps the
//! log's right edge, and the leaves since the last size that can still be asked for: so it can say the root at every
//! size from there on, and forgets the rest ([`LogVerifier::release`]).
//!
//! It decides only what is *true* of the log. What the application gets to see of it, and when, is
//! [`crate::delivery`]'s.

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{LogHead, LogLeaf, MailboxAttestation};
use postroad_protocol::cut::CutHeader;
use postroad_protocol::entry::{Entry, Placed};
use postroad_protocol::merkle::log::{Frontier, verify_consistency};
use postroad_protocol::wire::client::Expired;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq, VerifyError};

/// Why a home's word does not hold. What fails here is never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A signature or a path does not hold.
    #[error("a proof does not hold: {0}")]
    Proof(#[from] VerifyError),
    /// Not the next entry.
    #[error("log entry {found} came where entry {expected} is due")]
    Index {
        /// The index that is due.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// An entry for somebody else.
    #[error("log entry {index} is addressed to {recipient}")]
    NotMine {
        /// The entry.
        index: u64,
        /// Its recipient.
        recipient: MailboxId,
    },
    /// Entries are said to be forgotten, and the log behind them does not continue the log before them.
    #[error(
        "the home has forgotten the log entries {index} to {to}, and what follows does not continue what came before"
    )]
    Forgotten {
        /// The first of them.
        index: u64,
        /// The first behind them.
        to: u64,
    },
    /// Entries are said to be forgotten, and no attestation says so.
    #[error("the home has forgotten the log entries up to {to}, and has signed for no such thing")]
    Unattested {
        /// The first behind them.
        to: u64,
    },
    /// An entry that is settled before it was ordered.
    #[error("log entry {index} is settled in epoch {settled}, before its own epoch {epoch}")]
    SettledEarly {
        /// The entry.
        index: u64,
        /// The epoch that is said to have settled it.
        settled: u64,
        /// The epoch that ordered it.
        epoch: u64,
    },
    /// An entry that does not come after the one before it.
    #[error("log entry {index} ({seq}) does not come after the entry before it ({before})")]
    Order {
        /// The entry.
        index: u64,
        /// Its sequence number.
        seq: Seq,
        /// That of the entry before.
        before: Seq,
    },
    /// An entry read again that is not what it was.
    #[error("log entry {index} is not the one that was read before")]
    Changed {
        /// The entry.
        index: u64,
    },
    /// An attested root that is not the log's.
    #[error("attestation {number} names another log of {size} entries than the one delivered")]
    Root {
        /// The attestation's number.
        number: u64,
        /// The size.
        size: u64,
    },
    /// An attested log shorter than an earlier one.
    #[error("attestation {number} names {size} entries, an earlier one {before}")]
    Shrunk {
        /// The attestation's number.
        number: u64,
        /// Its size.
        size: u64,
        /// The earlier size.
        before: u64,
    },
    /// Two attestations with one number.
    #[error("two different attestations have the number {number}")]
    TwoAttestations {
        /// The number.
        number: u64,
    },
    /// The attested last epoch is not that of the last entry.
    #[error("attestation {number} names {attested} as the last entry's epoch, which is {found}")]
    LastEpoch {
        /// The attestation's number.
        number: u64,
        /// What it says.
        attested: u64,
        /// What is.
        found: u64,
    },
    /// An entry of an epoch that was attested to be complete.
    #[error("log entry {index} is settled in epoch {settled}, but everything up to {attested} was attested without it")]
    AfterAttested {
        /// The entry.
        index: u64,
        /// Its settling epoch.
        settled: u64,
        /// The attested epoch.
        attested: u64,
    },
    /// Two certified cuts of one epoch.
    #[error("two different cuts of epoch {epoch} are certified")]
    TwoCuts {
        /// The epoch.
        epoch: u64,
    },
    /// A new home whose log does not continue the one that was read here.
    #[error("the mailbox moved to {home}, which continues a log of {size} entries that is not the one that was read")]
    NotContinued {
        /// The new home.
        home: NodeId,
        /// The size of the log that it says it continues.
        size: u64,
    },
    /// A message in strict order below what the home had called settled.
    #[error("{seq} came after everything below {below_epoch}.{below_position} was said to be there")]
    BelowSettled {
        /// The message.
        seq: Seq,
        /// The epoch of the bound.
        below_epoch: u64,
        /// The position of the bound.
        below_position: u32,
    },
}

impl Violation {
    /// A name that does not change, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Violation::Proof(_) => "proof",
            Violation::Index { .. } => "index",
            Violation::NotMine { .. } => "not-mine",
            Violation::Forgotten { .. } => "forgotten",
            Violation::Unattested { .. } => "unattested",
            Violation::SettledEarly { .. } => "settled-early",
            Violation::Order { .. } => "order",
            Violation::Changed { .. } => "changed",
            Violation::Root { .. } => "root",
            Violation::Shrunk { .. } => "shrunk",
            Violation::TwoAttestations { .. } => "two-attestations",
            Violation::LastEpoch { .. } => "last-epoch",
            Violation::AfterAttested { .. } => "after-attested",
            Violation::TwoCuts { .. } => "two-cuts",
            Violation::NotContinued { .. } => "not-continued",
            Violation::BelowSettled { .. } => "below-settled",
        }
    }
}

/// An entry that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its index in the log.
    pub index: u64,
    /// Its leaf.
    pub leaf: LogLeaf,
    /// What it amounts to.
    pub placed: Placed,
}

/// How many attestations may wait for their entries.
const MAX_WAITING: usize = 16;

/// What an attestation amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attested {
    /// The log is complete up to this epoch, and it is the log that was delivered.
    Holds {
        /// The epoch.
        epoch: u64,
        /// The attested size, all of which was delivered.
        size: u64,
        /// Whether a cut has anchored the attestation.
        is_final: bool,
    },
    /// Entries that it covers are still to come; it is kept, and checked when they have.
    Ahead {
        /// Its size.
        size: u64,
    },
    /// Of a size that was released: it is not compared with the leaves here. Its number was compared with the newest
    /// one's; [`crate::receiver`] compares it with the last attestations, and with the leaves that are kept.
    Old,
}

/// The newest attestation that was found to hold; after a move, until the new home has attested, one of number zero that
/// stands for the log that it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Mark {
    /// The home's incarnation.
    #[n(0)]
    pub incarnation: u64,
    /// The attestation's number.
    #[n(1)]
    pub number: u64,
    /// Its digest.
    #[n(2)]
    pub digest: Digest,
    /// Complete up to this epoch.
    #[n(3)]
    pub epoch: u64,
    /// How many entries it covers.
    #[n(4)]
    pub size: u64,
}

/// Follows one mailbox's log.
///
/// ```
/// use postroad_client::verify_log::LogVerifier;
/// # let (mailbox, home) = (postroad_protocol::PublicKey([1; 32]), postroad_protocol::PublicKey([2; 32]));
///
/// let verifier = LogVerifier::new(mailbox, home);
/// assert_eq!(verifier.next_index(), 0);
/// assert_eq!(verifier.head().size, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogVerifier {
    #[n(0)]
    mailbox: MailboxId,
    #[n(1)]
    home: NodeId,
    /// The log up to the first size whose root can still be asked for.
    #[n(2)]
    base: Frontier,
    /// The last leaf under `base`.
    #[n(3)]
    before: Option<LogLeaf>,
    /// The leaves from there on.
    #[n(4)]
    tail: Vec<LogLeaf>,
    #[n(5)]
    mark: Option<Mark>,
    /// Attestations of more entries than there are, as they came. Of more than [`MAX_WAITING`] the oldest is let go
    /// uncompared; that takes a home which signs much faster than it hands out entries.
    #[n(6)]
    waiting: Vec<MailboxAttestation>,
}

impl LogVerifier {
    /// A verifier at the start of the log of `mailbox`, hosted by `home`.
    pub fn new(mailbox: MailboxId, home: NodeId) -> LogVerifier {
        LogVerifier::resume(mailbox, home, Frontier::new(), None, None)
    }

    /// A verifier that goes on behind a log of which the right edge, the last leaf and the last attestation are known.
    pub fn resume(
        mailbox: MailboxId,
        home: NodeId,
        base: Frontier,
        before: Option<LogLeaf>,
        mark: Option<Mark>,
    ) -> LogVerifier {
        LogVerifier { mailbox, home, base, before, tail: Vec::new(), mark, waiting: Vec::new() }
    }

    /// The index of the entry that is due.
    pub fn next_index(&self) -> u64 {
        self.base.size() + self.tail.len() as u64
    }

    /// The log so far.
    pub fn head(&self) -> LogHead {
        self.head_at(self.next_index()).expect("the whole log is never below its own base")
    }

    /// The log when it had `size` entries; none if that was released, or is still to come.
    pub fn head_at(&self, size: u64) -> Option<LogHead> {
        self.frontier_at(size).map(|frontier| LogHead { size, root: frontier.root() })
    }

    /// The log's right edge when it had `size` entries; none as for [`LogVerifier::head_at`].
    pub fn frontier_at(&self, size: u64) -> Option<Frontier> {
        let count = usize::try_from(size.checked_sub(self.base.size())?).ok()?;
        let mut frontier = self.base.clone();
        for leaf in self.tail.get(..count)? {
            frontier.append(leaf.hash());
        }
        Some(frontier)
    }

    /// The leaf at `index`, if it was not released.
    pub fn leaf_at(&self, index: u64) -> Option<LogLeaf> {
        let at = usize::try_from(index.checked_sub(self.base.size())?).ok()?;
        self.tail.get(at).copied()
    }

    /// The last leaf of the log when it had `size` entries; none if that was released, or there is none.
    pub fn leaf_before(&self, size: u64) -> Option<LogLeaf> {
        if size == self.base.size() { self.before } else { self.leaf_at(size.checked_sub(1)?) }
    }

    /// Goes on behind entries that the home has forgotten, all of which are still to come here.
    ///
    /// # Errors
    /// [`Violation::Forgotten`] when the log behind them does not continue this one. Nothing has changed then.
    pub fn skip(&mut self, expired: &Expired) -> Result<(), Violation> {
        let mut log = expired.before.clone();
        log.append(expired.last.hash());
        let here = self.head();
        if log.size() <= here.size || !verify_consistency(here.size, here.root, log.size(), log.root(), &expired.path) {
            return Err(Violation::Forgotten { index: here.size, to: log.size() });
        }
        self.base = log;
        self.before = Some(expired.last);
        self.tail.clear();
        Ok(())
    }

    /// The log had `log.size()` entries when it moved, the last of them `before`: what was read beyond is forgotten, and
    /// comes again.
    pub fn roll_back(&mut self, log: Frontier, before: Option<LogLeaf>) {
        match log.size().checked_sub(self.base.size()) {
            Some(count) => self.tail.truncate(count as usize),
            None => {
                self.tail.clear();
                (self.base, self.before) = (log, before);
            }
        }
    }

    /// From now on `home` attests the log, where the mailbox lives since epoch `since`. It continues the first `size`
    /// entries, and whatever follows them is settled in its own time.
    pub fn moves_to(&mut self, home: NodeId, since: u64, size: u64) {
        let (incarnation, number, digest) = (0, 0, Digest::ZERO);
        self.home = home;
        self.mark = Some(Mark { incarnation, number, digest, epoch: since.saturating_sub(1), size });
        self.waiting.clear();
    }

    /// The newest attestation that was found to hold.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Nobody asks any more for the log at sizes below `size`.
    pub fn release(&mut self, size: u64) {
        let keep = self.mark.map_or(0, |mark| mark.size).max(self.base.size());
        let size = size.min(keep).min(self.next_index());
        let count = size.saturating_sub(self.base.size()) as usize;
        for leaf in self.tail.drain(..count) {
            self.base.append(leaf.hash());
            self.before = Some(leaf);
        }
    }

    /// Checks an entry that was ordered by `cut`, which must be certified, without adding it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check(&self, entry: &Entry, cut: &CutHeader, federation: &Federation) -> Result<Checked, Violation> {
        let index = entry.log_index;
        let placed = entry.proof.verify(cut, federation)?;
        if placed.recipient != self.mailbox {
            return Err(Violation::NotMine { index, recipient: placed.recipient });
        }
        let seq = placed.seq;
        if entry.settled < seq.epoch {
            return Err(Violation::SettledEarly { index, settled: entry.settled, epoch: seq.epoch });
        }
        let leaf = LogLeaf { settled: entry.settled, seq, message: placed.id, own: placed.own };
        Ok(Checked { index, leaf, placed })
    }

    /// Checks an entry that was read before, when its leaf was `known`.
    ///
    /// # Errors
    /// [`Violation::Changed`] when it is another one now, and those of [`LogVerifier::check`].
    pub fn again(
        &self,
        entry: &Entry,
        cut: &CutHeader,
        known: &LogLeaf,
        federation: &Federation,
    ) -> Result<Checked, Violation> {
        let checked = self.check(entry, cut, federation)?;
        if checked.leaf == *known { Ok(checked) } else { Err(Violation::Changed { index: entry.log_index }) }
    }

    /// Takes the next entry, which was ordered by `cut`, which must be certified. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn entry(&mut self, entry: &Entry, cut: &CutHeader, federation: &Federation) -> Result<Checked, Violation> {
        let expected = self.next_index();
        let index = entry.log_index;
        if index != expected {
            return Err(Violation::Index { expected, found: index });
        }
        let checked = self.check(entry, cut, federation)?;
        self.append(index, checked.leaf)?;
        Ok(checked)
    }

    /// Takes an entry at the next index that does not verify, because its origin sealed what it must not: the home owed
    /// it all the same, and what it attests covers it. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Violation`], where it stands in no log.
    pub fn unsound(&mut self, index: u64, leaf: LogLeaf) -> Result<(), Violation> {
        let expected = self.next_index();
        if index != expected {
            return Err(Violation::Index { expected, found: index });
        }
        self.append(index, leaf)
    }

    /// Adds a leaf that comes next in log order.
    fn append(&mut self, index: u64, leaf: LogLeaf) -> Result<(), Violation> {
        if let Some(last) = self.tail.last().or(self.before.as_ref())
            && last.order() >= leaf.order()
        {
            return Err(Violation::Order { index, seq: leaf.seq, before: last.seq });
        }
        if let Some(mark) = self.mark
            && index >= mark.size
            && leaf.settled <= mark.epoch
        {
            return Err(Violation::AfterAttested { index, settled: leaf.settled, attested: mark.epoch });
        }
        self.tail.push(leaf);
        Ok(())
    }

    /// Takes an attestation. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn attested(
        &mut self,
        attestation: &MailboxAttestation,
        federation: &Federation,
    ) -> Result<Attested, Violation> {
        attestation.verify(&self.mailbox, &self.home, federation)?;
        let size = attestation.log.log.size;
        if size > self.next_index() {
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.remove(0);
            }
            self.waiting.push(attestation.clone());
            return Ok(Attested::Ahead { size });
        }
        self.compare(attestation, federation)
    }

    /// Checks the attestations that waited for entries, once those are there. Returns what the longest amounts to.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn caught_up(&mut self, federation: &Federation) -> Result<Option<Attested>, Violation> {
        let next = self.next_index();
        let mut due: Vec<MailboxAttestation> =
            self.waiting.extract_if(.., |waiting| waiting.log.log.size <= next).collect();
        // A longer one raises the mark, below which leaves are released.
        due.sort_by_key(|attestation| attestation.log.log.size);
        let mut last = None;
        for attestation in due {
            last = Some(self.compare(&attestation, federation)?);
        }
        Ok(last)
    }

    fn compare(&mut self, attestation: &MailboxAttestation, federation: &Federation) -> Result<Attested, Violation> {
        let body = &attestation.attestation.body;
        let digest = attestation.attestation.digest(federation);
        let (number, size) = (body.number, attestation.log.log.size);
        if let Some(mark) = self.mark {
            if number == mark.number && body.incarnation == mark.incarnation && digest != mark.digest {
                return Err(Violation::TwoAttestations { number });
            }
            if number > mark.number && size < mark.size {
                return Err(Violation::Shrunk { number, size, before: mark.size });
            }
        }
        let Some(head) = self.head_at(size) else {
            return Ok(Attested::Old);
        };
        if head != attestation.log.log {
            return Err(Violation::Root { number, size });
        }
        let found = self.leaf_before(size).map_or(0, |leaf| leaf.settled);
        if attestation.log.last_epoch != found {
            return Err(Violation::LastEpoch { number, attested: attestation.log.last_epoch, found });
        }
        if let Some(leaf) = self.leaf_at(size).filter(|leaf| leaf.settled <= body.epoch) {
            return Err(Violation::AfterAttested { index: size, settled: leaf.settled, attested: body.epoch });
        }
        if self.mark.is_none_or(|mark| number >= mark.number) {
            let incarnation = body.incarnation;
            self.mark = Some(Mark { incarnation, number, digest, epoch: body.epoch, size });
        }
        Ok(Attested::Holds { epoch: body.epoch, size, is_final: attestation.anchor.is_some() })
    }
}

#[cfg(test)]
#[path = "verify_log_tests.rs"]
mod tests;
