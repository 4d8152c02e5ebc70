//! Explanations: the way of one message to one mailbox, hop by hop, with what each hop signed.
//!
//! An [`Explanation`] is what was collected of a message: the cut and the header that ordered it, the receipts or the
//! fill of its slice, what the slice and the entries hold for the mailbox, and what the home attests. Every part is
//! optional, may come from anybody, and is a statement or hangs on one; what several nodes supplied is put together with
//! [`Explanation::merge`], which believes nothing that does not verify. No single node has to answer: a suspect's silence
//! leaves a part out, and [`Explanation::conclusion`] says which, and who else could supply it.
//!
//! It is no evidence. Where its parts convict somebody, the conclusion holds the evidence, which verifies alone.

mod conclude;
mod hops;

use minicbor::{Decode, Encode};

use crate::attestation::{Anchor, LogLeaf, MailboxAttestation};
use crate::batch::{Header, SliceRef};
use crate::challenge::Lost;
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, CutHeader};
use crate::digest::Digest;
use crate::entry::EntryProof;
use crate::error::VerifyError;
use crate::evidence::{
    self, Attested, BundleAt, ClaimError, Included, LeafAt, LogGap, MessageAt, RecipientAt, SliceProof,
};
use crate::file::Kind;
use crate::genesis::Federation;
use crate::merkle::log::Frontier;
use crate::merkle::map::MapProof;
use crate::message::common_digest;
use crate::receipt::{Custody, Receipt, RefusedLeaf, custody_digest};
use crate::refused::SettledFill;
use crate::seq::Seq;
use crate::signed::{Signed, Verify};
use crate::slice::LeafRef;
use crate::state::{HomeProof, LostSlice, PendingKey};

pub use conclude::{Conclusion, Missing};
pub use hops::{Hop, HopState, Stage};

/// A file that holds one.
const FILE: Kind = Kind { magic: "postroad explanation 1", what: "explanation file" };

/// What is known of the way of one message to one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Explanation {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The message's number.
    #[n(1)]
    pub seq: Seq,
    /// The cut, and the header at the number's position in it.
    #[n(2)]
    pub included: Option<Included>,
    /// Another certified cut of that epoch: there must be none.
    #[n(3)]
    pub other_cut: Option<CertifiedCut>,
    /// All receipts that the cut settled with the header; empty where they are not known.
    #[n(4)]
    pub custody: Vec<Custody>,
    /// Where the mailbox lives.
    #[n(5)]
    pub residence: Option<Residence>,
    /// The fill of the slice for that home, where it was in custody.
    #[n(6)]
    pub fill: Option<Box<SettledFill>>,
    /// What the slice for that home holds for the mailbox.
    #[n(7)]
    pub slice: Option<SliceProof>,
    /// What the batch holds at the number.
    #[n(8)]
    pub disclosed: Option<Box<Disclosed>>,
    /// The home's word on its log.
    #[n(9)]
    pub log: Option<Box<LogWord>>,
    /// The home's word that it lost the slice.
    #[n(10)]
    pub lost: Option<Signed<Lost>>,
}

/// Where a mailbox lives, and whether its home has said that it lost the slice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Residence {
    /// The mailbox's place.
    #[n(0)]
    pub home: HomeProof,
    /// Under the same state root, whether the home has said that it lost the slice.
    #[n(1)]
    pub loss: Option<LossProof>,
}

/// Whether a state has a lost slice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LossProof {
    /// The loss; none if there is none of that name.
    #[n(0)]
    pub value: Option<LostSlice>,
    /// The path in the map of losses.
    #[n(1)]
    pub path: MapProof,
}

/// A message in its batch, and the mailbox among its recipients; without any payload.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Disclosed {
    /// The message.
    #[n(0)]
    pub message: MessageAt,
    /// The recipient.
    #[n(1)]
    pub recipient: RecipientAt,
}

/// What a home attests, finally, of the place at which the message belongs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogWord {
    /// The attestation.
    #[n(0)]
    pub attested: Attested,
    /// The header that made it final.
    #[n(1)]
    pub anchor: Anchor,
    /// What the log holds there.
    #[n(2)]
    pub found: Found,
}

/// What a log holds at the place of a message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Found {
    /// The message.
    #[n(0)]
    Entry(#[n(0)] LeafAt),
    /// Nothing: these stand next to each other.
    #[n(1)]
    Gap(#[n(0)] LogGap),
}

/// The place of an entry in log order; see [`LogLeaf::order`].
pub type LogOrder = (u64, bool, Seq);

impl Disclosed {
    /// What an entry discloses, as its recipient has it.
    ///
    /// # Errors
    /// [`VerifyError::Path`] when the recipient does not lead to a message.
    pub fn of(entry: &EntryProof) -> Result<Disclosed, VerifyError> {
        let (recipient, common) = (&entry.recipient, common_digest(&entry.common));
        let message =
            recipient.message(entry.recipient_count, common).ok_or(VerifyError::Path { what: "recipient" })?;
        let bundle = BundleAt { ordinal: entry.ordinal, signed: entry.bundle.clone(), path: entry.bundle_path.clone() };
        Ok(Disclosed {
            message: MessageAt { bundle, index: entry.index, message, path: entry.message_path.clone() },
            recipient: RecipientAt {
                position: recipient.position,
                count: entry.recipient_count,
                mailbox: recipient.mailbox,
                salt: recipient.salt,
                own: recipient.own_digest(),
                common,
                path: recipient.path.clone(),
            },
        })
    }
}

impl LogWord {
    /// What a final attestation says at `order`, from the log up to some size and its `leaves` from there on; none if it
    /// is not final, the log is another one, or what stands at `order` is not among the leaves.
    pub fn of(
        attestation: &MailboxAttestation,
        base: &Frontier,
        leaves: &[LogLeaf],
        order: LogOrder,
    ) -> Option<LogWord> {
        let known = usize::try_from(attestation.log.log.size.checked_sub(base.size())?).ok()?;
        let leaves = leaves.get(..known)?;
        let hashes: Vec<Digest> = leaves.iter().map(LogLeaf::hash).collect();
        let mut log = base.clone();
        hashes.iter().for_each(|hash| log.append(*hash));
        if log.root() != attestation.log.log.root {
            return None;
        }
        let at = |place: usize| {
            let (index, leaf) = (base.size() + place as u64, *leaves.get(place)?);
            Some(LeafAt { index, leaf, path: base.inclusion_after(&hashes, index)? })
        };
        let place = leaves.partition_point(|leaf| leaf.order() < order);
        let found = match (at(place), place.checked_sub(1).and_then(at)) {
            (Some(entry), _) if entry.leaf.seq == order.2 => Found::Entry(entry),
            (_, None) if base.size() > 0 => return None,
            (after, before) => Found::Gap(LogGap { before, after }),
        };
        Some(LogWord { attested: attestation.clone().into(), anchor: attestation.anchor.clone()?, found })
    }
}

/// What the cut and the receipts say of the slice for the mailbox's home.
#[derive(Clone, Debug)]
struct Case<'a> {
    header: &'a Header,
    digest: Digest,
    /// None while it is not known.
    home: Option<NodeId>,
    /// The slice for that home, as the header names it.
    slice: Option<&'a SliceRef>,
    /// Who has signed for it in the cut; none while that is not known.
    receipts: Option<&'a [Receipt]>,
    /// Since which cut the home owes it, and which leaves it does not.
    settled: Option<(&'a CutHeader, &'a [RefusedLeaf])>,
}

impl Case<'_> {
    /// The custodians.
    fn holders(&self) -> Vec<NodeId> {
        let all = self.receipts.unwrap_or_default();
        all.iter().filter(|receipt| receipt.item.request.is_some()).map(Receipt::holder).collect()
    }

    /// Where the message belongs in the log.
    fn order(&self, seq: Seq) -> Option<LogOrder> {
        self.settled.map(|(settled, _)| (settled.epoch, settled.epoch == seq.epoch, seq))
    }
}

impl Explanation {
    /// Nothing known yet.
    pub fn new(mailbox: MailboxId, seq: Seq) -> Explanation {
        Explanation {
            mailbox,
            seq,
            included: None,
            other_cut: None,
            custody: Vec::new(),
            residence: None,
            fill: None,
            slice: None,
            disclosed: None,
            log: None,
            lost: None,
        }
    }

    /// The mailbox's home, as far as it is known.
    pub fn home(&self) -> Option<NodeId> {
        self.residence.as_ref()?.home.value.as_ref().map(|value| value.home)
    }

    /// Where the message belongs in the log of its home, once the home owes it.
    pub fn log_order(&self, federation: &Federation) -> Option<LogOrder> {
        self.case(federation)?.order(self.seq)
    }

    /// The leaf of the slice that is this message, if the slice is known and has it.
    fn leaf(&self) -> Option<(u32, LeafRef)> {
        let leaves = &self.slice.as_ref()?.leaves;
        let at = leaves.iter().position(|leaf| leaf.index == self.seq.index)?;
        Some((at as u32, leaves[at]))
    }

    /// What the parts that were found sound amount to; none without the header.
    fn case(&self, federation: &Federation) -> Option<Case<'_>> {
        let included = self.included.as_ref()?;
        let (header, digest, home) = (included.header(), included.digest(federation), self.home());
        let at = home.and_then(|home| header.slices.iter().position(|slice| slice.destination == home));
        let receipts = at.and_then(|at| self.custody.get(at)).map(|custody| custody.receipts.as_slice());
        let own = receipts.and_then(|receipts| receipts.first()).filter(|receipt| receipt.item.request.is_none());
        let settled = match (own, &self.fill) {
            (Some(receipt), _) => Some((&included.cut.header, receipt.item.refused.as_slice())),
            (None, Some(fill)) => Some((&fill.cut.header, fill.fill.item.refused.as_slice())),
            (None, None) => None,
        };
        Some(Case { header, digest, home, slice: at.map(|at| &header.slices[at]), receipts, settled })
    }

    /// Verifies every part, each against those that it hangs on.
    ///
    /// # Errors
    /// [`VerifyError`] of the first part that does not hold, or that hangs on one that is not there.
    pub fn verify(&self, federation: &Federation) -> Result<(), VerifyError> {
        let mut sound = self.clone();
        match sound.retain_sound(federation) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Leaves out what does not hold, and tells of the first such part.
    fn retain_sound(&mut self, federation: &Federation) -> Option<VerifyError> {
        let mut first = None;
        macro_rules! keep {
            ($part:ident, $check:expr) => {
                if let Some(part) = &self.$part
                    && let Err(error) = $check(part)
                {
                    first.get_or_insert(error);
                    self.$part = None;
                }
            };
        }
        let seq = self.seq;
        keep!(included, |included: &Included| {
            included.verify(federation)?;
            match (included.epoch(), included.order.position) == (seq.epoch, seq.position) {
                true => Ok(()),
                false => Err(malformed("the header stands elsewhere")),
            }
        });
        keep!(other_cut, |other: &CertifiedCut| {
            other.verify(federation)?;
            let is_other =
                |included: &Included| included.cut.header.digest(federation) != other.header.digest(federation);
            match other.header.epoch == seq.epoch && self.included.as_ref().is_some_and(is_other) {
                true => Ok(()),
                false => Err(malformed("the other cut is no other cut of that epoch")),
            }
        });
        keep!(residence, |residence: &Residence| residence.home.verify(&self.mailbox, federation).map(drop));
        if !self.custody.is_empty()
            && let Err(error) = self.check_custody(federation)
        {
            first.get_or_insert(error);
            self.custody.clear();
        }
        let key = self.slice_key(federation);
        if let Some(Residence { home, loss }) = &mut self.residence
            && let Some(proof) = loss
        {
            let checked = key.ok_or(malformed("a loss of no slice"));
            let checked = checked.and_then(|key| home.verify_loss(&key, proof.value.as_ref(), &proof.path));
            if let Err(error) = checked {
                first.get_or_insert(error);
                *loss = None;
            }
        }
        keep!(fill, |fill: &SettledFill| self.check_fill(fill, federation));
        keep!(slice, |slice: &SliceProof| {
            let case = self.case(federation);
            let named = case.and_then(|case| case.slice).ok_or(malformed("the header has no such slice"))?;
            slice.verify(&named.root, &self.mailbox).map(drop)
        });
        keep!(disclosed, |disclosed: &Disclosed| self.check_disclosed(disclosed, federation));
        keep!(log, |log: &LogWord| self.check_log(log, federation));
        keep!(lost, |lost: &Signed<Lost>| {
            lost.verify(federation)?;
            let Lost { holder, destination, header } = lost.body;
            let key = key.ok_or(malformed("a loss of no slice"))?;
            match holder == destination && key == (PendingKey { destination, header }) {
                true => Ok(()),
                false => Err(malformed("the home lost another slice")),
            }
        });
        first
    }

    /// The slice for the mailbox's home by name, as far as header and home are known.
    pub fn slice_key(&self, federation: &Federation) -> Option<PendingKey> {
        let header = self.included.as_ref()?.digest(federation);
        Some(PendingKey { destination: self.home()?, header })
    }

    fn check_custody(&self, federation: &Federation) -> Result<(), VerifyError> {
        let included = self.included.as_ref().ok_or(malformed("receipts without their header"))?;
        let (header, digest) = (included.header(), included.digest(federation));
        if custody_digest(&self.custody) != included.order.custody || self.custody.len() != header.slices.len() {
            return Err(VerifyError::Path { what: "receipts" });
        }
        for (custody, slice) in self.custody.iter().zip(&header.slices) {
            custody.check(header, digest, slice, federation)?;
            // Who signed for slices of other nodes plays no part here.
            if Some(slice.destination) == self.home() {
                custody.receipts.iter().try_for_each(|receipt| receipt.verify(federation))?;
            }
        }
        Ok(())
    }

    fn check_fill(&self, fill: &SettledFill, federation: &Federation) -> Result<(), VerifyError> {
        fill.verify(federation)?;
        let case = self.case(federation).ok_or(malformed("a fill without its header"))?;
        let slice = case.slice.ok_or(malformed("the header has no such slice"))?;
        let item = &fill.fill.item;
        let is_own = |receipt: &Receipt| receipt.item.request.is_none();
        if case.receipts.is_none_or(|receipts| receipts.iter().any(is_own)) {
            return Err(malformed("a fill of what was not in custody"));
        }
        if fill.fill.holder() != slice.destination
            || (item.destination, item.header, item.slice) != (slice.destination, case.digest, slice.root)
            || item.request.is_some()
        {
            return Err(malformed("the fill is for another slice"));
        }
        Ok(())
    }

    fn check_disclosed(&self, disclosed: &Disclosed, federation: &Federation) -> Result<(), VerifyError> {
        let included = self.included.as_ref().ok_or(malformed("a message without its header"))?;
        let Disclosed { message, recipient } = disclosed;
        if message.resolve(included.header(), federation)? != self.seq.index || recipient.mailbox != self.mailbox {
            return Err(malformed("it discloses another message"));
        }
        if recipient.message()? != message.message {
            return Err(VerifyError::Path { what: "recipient" });
        }
        Ok(())
    }

    fn check_log(&self, log: &LogWord, federation: &Federation) -> Result<(), VerifyError> {
        let LogWord { attested, anchor, found } = log;
        attested.verify(&self.mailbox, federation)?;
        attested.is_anchored(anchor, federation)?;
        if Some(attested.attestation.body.node) != self.home() {
            return Err(malformed("another node's attestation"));
        }
        match found {
            Found::Entry(entry) if entry.leaf.seq == self.seq => entry.verify(attested.head()),
            Found::Entry(_) => Err(malformed("another entry")),
            Found::Gap(gap) => {
                let order = self.log_order(federation).ok_or(malformed("a hole where nothing is owed"))?;
                let body = &attested.attestation.body;
                let residence =
                    self.residence.as_ref().map(|it| evidence::Residence::of(&it.home, &body.node, body.epoch));
                let from = residence.and_then(Result::ok).map_or(0, |residence| residence.inherited());
                gap.verify(attested.head(), from, order)
            }
        }
    }

    /// Takes what another explanation of the same message knows and this one does not, as far as it holds; of a
    /// mailbox's place and its home's word the newer.
    pub fn merge(&mut self, other: Explanation, federation: &Federation) {
        if (other.mailbox, other.seq) != (self.mailbox, self.seq) {
            return;
        }
        self.retain_sound(federation);
        let mut other = other;
        if let (Some(ours), Some(theirs)) = (&self.included, &other.included)
            && ours.cut.header.digest(federation) != theirs.cut.header.digest(federation)
        {
            if theirs.verify(federation).is_ok() {
                self.other_cut.get_or_insert(theirs.cut.clone());
                self.retain_sound(federation);
            }
            return;
        }
        // What hangs on parts that only this one has is judged by those.
        other.included = self.included.clone().or(other.included);
        let is_fresher = |theirs: &Residence, ours: &Residence| {
            let rank = |it: &Residence| (it.loss.is_some(), it.home.cut.header.epoch);
            rank(theirs) > rank(ours)
        };
        let residence = other.residence.take();
        other.residence = residence.clone().filter(|it| it.home.verify(&self.mailbox, federation).is_ok());
        if other.residence.is_none() {
            other.residence = self.residence.clone();
        }
        if other.custody.is_empty() {
            other.custody = self.custody.clone();
        }
        other.fill = other.fill.or_else(|| self.fill.clone());
        other.retain_sound(federation);

        self.included = other.included;
        self.other_cut = self.other_cut.take().or(other.other_cut);
        if self.custody.is_empty() {
            self.custody = other.custody;
        }
        match (&self.residence, other.residence) {
            (Some(ours), Some(theirs)) if !is_fresher(&theirs, ours) => {}
            (_, Some(theirs)) => self.residence = Some(theirs),
            (_, None) => {}
        }
        self.fill = self.fill.take().or(other.fill);
        self.slice = self.slice.take().or(other.slice);
        self.disclosed = self.disclosed.take().or(other.disclosed);
        match (&self.log, other.log) {
            (Some(ours), Some(theirs)) if theirs.rank() <= ours.rank() => {}
            (_, Some(theirs)) => self.log = Some(theirs),
            (_, None) => {}
        }
        self.lost = self.lost.take().or(other.lost);
        self.retain_sound(federation);
    }

    /// The bytes of a file that holds it: verifiable with nothing but genesis.
    pub fn to_file(&self, federation: &Federation) -> Vec<u8> {
        FILE.write(self, federation)
    }

    /// Whether a file claims to hold an explanation.
    pub fn is_file(bytes: &[u8]) -> bool {
        FILE.is(bytes)
    }

    /// Reads a file's bytes; verifies nothing yet.
    ///
    /// # Errors
    /// [`ClaimError::Malformed`], [`ClaimError::WrongFederation`].
    pub fn from_file(bytes: &[u8], federation: &Federation) -> Result<Explanation, ClaimError> {
        FILE.read(bytes, federation)
    }
}

impl LogWord {
    /// The newer word is the better one.
    fn rank(&self) -> (u64, u64) {
        let body = &self.attested.attestation.body;
        (body.incarnation, body.number)
    }
}

fn malformed(reason: &'static str) -> VerifyError {
    VerifyError::malformed("explanation", reason)
}
