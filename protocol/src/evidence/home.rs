//! Faults of a home: what it signed over its mailboxes' logs.

use minicbor::{Decode, Encode};

use super::origin::Entry;
use super::parts::{Attested, Included, LeafAt, LogGap, SliceProof};
use super::{ClaimError, Cleared, Fault, Verdict, in_order};
use crate::attestation::Anchor;
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, CutHeader};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::MapProof;
use crate::receipt::{Custody, Receipt, RefusedLeaf, custody_digest};
use crate::refused::SettledFill;
use crate::signed::Verify;
use crate::slice::LeafRef;
use crate::state::{HomeProof, LostSlice, PendingKey};

/// A home owed a message to a mailbox, and the log that it attested, finally, lacks it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Drop {
    /// The message's header.
    #[n(0)]
    pub included: Included,
    /// All receipts that the cut settled with it.
    #[n(1)]
    pub custody: Vec<Custody>,
    /// The home's fill, where the home had not signed for the slice by then; none if no cut has settled one.
    #[n(2)]
    pub fill: Option<Box<SettledFill>>,
    /// The mailbox.
    #[n(3)]
    pub mailbox: MailboxId,
    /// What the slice for the home holds for the mailbox.
    #[n(4)]
    pub slice: SliceProof,
    /// Which of its leaves.
    #[n(5)]
    pub leaf: u32,
    /// The home's attestation.
    #[n(6)]
    pub attested: Attested,
    /// The header that made it final.
    #[n(7)]
    pub anchor: Anchor,
    /// That the log lacks the message.
    #[n(8)]
    pub gap: LogGap,
    /// That the mailbox lives there, as of the anchoring cut or a later one within retention.
    #[n(9)]
    pub home: HomeProof,
    /// Whether the home has said, under the same state root, that it lost the slice.
    #[n(10)]
    pub lost: Option<LostSlice>,
    /// The path of that in the map of losses.
    #[n(11)]
    pub lost_path: MapProof,
}

impl Drop {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("drop", reason));
        let body = &self.attested.attestation.body;
        let home = body.node;
        self.included.verify(federation)?;
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        let header = self.included.header();
        let at = header.slices.iter().position(|slice| slice.destination == home);
        let at = at.ok_or(Cleared::NotItsSlice)?;
        let leaves = self.slice.verify(&header.slices[at].root, &self.mailbox)?;
        let leaf = leaves.get(self.leaf as usize).ok_or(malformed("the slice has no such leaf"))?;
        let seq = self.included.seq(leaf.index);
        let Owed { refused, settled, pending } = self.settled(at, federation)?;
        if let Some(refused) = refused.iter().find(|r| (r.index, r.mailbox) == (leaf.index, self.mailbox)) {
            return Err(Cleared::Refused { seq, reason: refused.reason }.into());
        }
        if body.epoch < settled.epoch {
            return Err(Cleared::NotYet { settled: settled.epoch, attested: body.epoch }.into());
        }
        let state = self.home.verify(&self.mailbox, federation)?;
        if state.epoch < self.anchor.cut.header.epoch {
            return Err(malformed("the state is of an earlier cut than the anchor"));
        }
        if !self.home.value.as_ref().is_some_and(|value| value.home == home && value.since <= settled.epoch) {
            return Err(Cleared::NotThere { epoch: settled.epoch }.into());
        }
        // Later the state may have forgotten that the home said it lost the slice.
        if state.age_ms > settled.age_ms.saturating_add(federation.params().retention_ms) {
            return Err(Cleared::PastRetention.into());
        }
        let key = PendingKey { destination: home, header: self.included.digest(federation) };
        self.home.verify_loss(&key, self.lost.as_ref(), &self.lost_path)?;
        if let Some(lost) = &self.lost
            && lost.epoch < self.anchor.cut.header.epoch
        {
            return Err(Cleared::Lost { epoch: lost.epoch }.into());
        }
        self.gap.verify(self.attested.head(), (settled.epoch, settled.epoch == seq.epoch, seq))?;
        if let Some(pending) = pending {
            return Err(pending.into());
        }
        Ok(Verdict::new(Fault::Drop, home, settled.epoch).for_message(seq, Some(self.mailbox)))
    }

    /// What made the home owe the slice. While custodians held it, nothing did: then what the cut ordered stands for it.
    fn settled(&self, at: usize, federation: &Federation) -> Result<Owed<'_>, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("drop", reason));
        let header = self.included.header();
        let digest = self.included.digest(federation);
        if custody_digest(&self.custody) != self.included.order.custody {
            return Err(VerifyError::Path { what: "receipts" }.into());
        }
        let custody = self.custody.get(at).ok_or(malformed("not one custody for each slice"))?;
        let kind = custody.check(header, digest, &header.slices[at], federation)?;
        for receipt in &custody.receipts {
            receipt.verify(federation)?;
        }
        let ordered = &self.included.cut.header;
        let holders: Vec<NodeId> = custody.receipts.iter().map(Receipt::holder).collect();
        let pending =
            |until| Owed { refused: &[], settled: ordered, pending: Some(Cleared::Pending { holders, until }) };
        match (custody.receipts.first().filter(|_| kind.delivered), &self.fill) {
            (Some(receipt), None) => Ok(Owed { refused: &receipt.item.refused, settled: ordered, pending: None }),
            (Some(_), Some(_)) => Err(malformed("the fill is not needed")),
            (None, None) => Ok(pending(None)),
            (None, Some(fill)) => {
                fill.verify(federation)?;
                let item = &fill.fill.item;
                let slice = &header.slices[at];
                if fill.fill.holder() != slice.destination
                    || (item.destination, item.header, item.slice) != (slice.destination, digest, slice.root)
                    || item.request.is_some()
                {
                    return Err(malformed("the fill is for another slice"));
                }
                let settled = &fill.cut.header;
                if self.attested.attestation.body.epoch < settled.epoch {
                    return Ok(pending(Some(settled.epoch)));
                }
                Ok(Owed { refused: &item.refused, settled, pending: None })
            }
        }
    }
}

/// What a home owes of a slice.
struct Owed<'a> {
    /// Not these leaves.
    refused: &'a [RefusedLeaf],
    /// From this cut on.
    settled: &'a CutHeader,
    /// Nothing, because it was in custody.
    pending: Option<Cleared>,
}

/// An entry of a finally attested log that cannot stand there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct WrongEntry {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The home's attestation.
    #[n(1)]
    pub attested: Attested,
    /// The header that made it final.
    #[n(2)]
    pub anchor: Anchor,
    /// The entry.
    #[n(3)]
    pub entry: LeafAt,
    /// What is wrong with it.
    #[n(4)]
    pub wrong: Wrong,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Wrong {
    /// The next entry comes before it in log order, or is the same.
    #[n(0)]
    Order(#[n(0)] Box<LeafAt>),
    /// The cut has no header at its position.
    #[n(1)]
    NoHeader(#[n(0)] Box<CertifiedCut>),
    /// It is not the message at its number.
    #[n(2)]
    Other(#[n(0)] Box<Included>, #[n(1)] Box<Entry>),
    /// The slice for the home, where the mailbox lived at the routing epoch, does not hold it for the mailbox.
    #[n(3)]
    NotAddressed(#[n(0)] Box<Included>, #[n(1)] Option<Box<SliceProof>>, #[n(2)] Box<HomeProof>),
}

impl WrongEntry {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("wrong entry", reason));
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        let (head, home) = (self.attested.head(), self.attested.attestation.body.node);
        self.entry.verify(head)?;
        let leaf = &self.entry.leaf;
        let as_leaf = LeafRef { index: leaf.seq.index, message: leaf.message, own: leaf.own };
        let stands = |included: &Included| -> Result<(), ClaimError> {
            included.verify(federation)?;
            if included.seq(leaf.seq.index) != leaf.seq {
                return Err(malformed("the header is another one"));
            }
            Ok(())
        };
        match &self.wrong {
            Wrong::Order(next) => {
                next.verify(head)?;
                if next.index != self.entry.index + 1 {
                    return Err(malformed("the entries do not stand next to each other"));
                }
                if leaf.order() < next.leaf.order() {
                    return Err(Cleared::Rising.into());
                }
            }
            Wrong::NoHeader(cut) => {
                cut.verify(federation)?;
                if cut.header.epoch != leaf.seq.epoch {
                    return Err(malformed("the cut is another one"));
                }
                if leaf.seq.position < cut.header.headers.count {
                    return Err(Cleared::Agrees { index: self.entry.index }.into());
                }
            }
            Wrong::Other(included, entry) => {
                // A message may name a recipient twice, which its origin alone sees and refuses. So a home answers for
                // the own payload that its slice holds, not for one that the message holds as well.
                if matches!(**entry, Entry::OtherOwn(..)) {
                    return Err(malformed("what the own payload is the slice says"));
                }
                stands(included)?;
                entry.contradicts(included.header(), &self.mailbox, &as_leaf, federation)?;
            }
            Wrong::NotAddressed(included, slice, proof) => {
                stands(included)?;
                let routed = included.header().routing_epoch;
                if proof.verify(&self.mailbox, federation)?.epoch < routed {
                    return Err(malformed("the home proof is of an earlier epoch"));
                }
                if !proof.value.as_ref().is_some_and(|value| value.home == home && value.since <= routed) {
                    return Err(Cleared::NotThere { epoch: routed }.into());
                }
                match (included.header().slice(&home), slice) {
                    (Some(named), Some(slice)) => {
                        if slice.verify(&named.root, &self.mailbox)?.contains(&as_leaf) {
                            return Err(Cleared::InSlice { seq: leaf.seq }.into());
                        }
                    }
                    (None, None) => {}
                    _ => return Err(malformed("not what the header says of that slice")),
                }
            }
        }
        let epoch = self.attested.attestation.body.epoch;
        Ok(Verdict::new(Fault::WrongEntry, home, epoch).for_message(leaf.seq, Some(self.mailbox)))
    }
}

/// A finally attested log whose expired-to is past an entry that is younger than retention and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct EarlyExpiry {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The home's attestation.
    #[n(1)]
    pub attested: Attested,
    /// The header that made it final.
    #[n(2)]
    pub anchor: Anchor,
    /// The entry.
    #[n(3)]
    pub entry: LeafAt,
    /// The cut that settled the entry, as the home itself says.
    #[n(4)]
    pub settled: CertifiedCut,
}

impl EarlyExpiry {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        self.entry.verify(self.attested.head())?;
        self.settled.verify(federation)?;
        let settled = &self.settled.header;
        if settled.epoch != self.entry.leaf.settled {
            return Err(VerifyError::malformed("early expiry", "the cut is another one").into());
        }
        let (expired_to, acknowledged) = self.attested.log.as_ref().map_or((0, 0), |log| {
            (log.expired_to, log.acknowledged.as_ref().map_or(0, |acknowledged| acknowledged.body.log.size))
        });
        let index = self.entry.index;
        if index >= expired_to {
            return Err(Cleared::Kept { index }.into());
        }
        if index < acknowledged {
            return Err(Cleared::Acknowledged { below: acknowledged }.into());
        }
        if self.anchor.cut.header.age_ms > settled.age_ms.saturating_add(federation.params().retention_ms) {
            return Err(Cleared::PastRetention.into());
        }
        let body = &self.attested.attestation.body;
        let verdict = Verdict::new(Fault::EarlyExpiry, body.node, body.epoch);
        Ok(verdict.for_message(self.entry.leaf.seq, Some(self.mailbox)))
    }
}

/// Two attestations that cannot both be a home's one word.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SplitView {
    /// Two of one number, the one with the lower digest first.
    #[n(0)]
    Number(
        #[n(0)] Box<crate::signed::Signed<crate::attestation::Attestation>>,
        #[n(1)] Box<crate::signed::Signed<crate::attestation::Attestation>>,
    ),
    /// One, and the header that made another one of that number final.
    #[n(1)]
    Anchored(#[n(0)] Box<crate::signed::Signed<crate::attestation::Attestation>>, #[n(1)] Box<Anchor>),
    /// Two of one incarnation whose logs of one mailbox disagree; the one with the lower number first.
    #[n(2)]
    Logs(#[n(0)] Box<SplitLogs>),
}

/// Two attested logs of one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SplitLogs {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The earlier attestation.
    #[n(1)]
    pub earlier: Attested,
    /// The later one.
    #[n(2)]
    pub later: Attested,
    /// The entries at one index that differ; none where the later log is shorter.
    #[n(3)]
    pub entries: Option<(LeafAt, LeafAt)>,
}

impl SplitView {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("split view", reason));
        match self {
            SplitView::Number(first, second) => {
                first.verify(federation)?;
                second.verify(federation)?;
                let (a, b) = (&first.body, &second.body);
                if (a.node, a.number) != (b.node, b.number) {
                    return Err(Cleared::OtherSlot.into());
                }
                in_order(first.digest(federation), second.digest(federation))?;
                if a.incarnation != b.incarnation {
                    return Err(Cleared::OtherIncarnation.into());
                }
                Ok(Verdict::new(Fault::SplitView, a.node, a.epoch.max(b.epoch)))
            }
            SplitView::Anchored(attestation, anchor) => {
                attestation.verify(federation)?;
                anchor.verify(federation)?;
                let (body, header) = (&attestation.body, &anchor.header.header.body);
                let named =
                    header.attestation.filter(|named| (header.origin, named.number) == (body.node, body.number));
                match named {
                    None => Err(Cleared::OtherSlot.into()),
                    Some(named) if named.digest == attestation.digest(federation) => Err(Cleared::Same.into()),
                    Some(_) => Ok(Verdict::new(Fault::SplitView, body.node, body.epoch)),
                }
            }
            SplitView::Logs(logs) => {
                let SplitLogs { mailbox, earlier, later, entries } = &**logs;
                earlier.verify(mailbox, federation)?;
                later.verify(mailbox, federation)?;
                let (a, b) = (&earlier.attestation.body, &later.attestation.body);
                if a.node != b.node {
                    return Err(Cleared::OtherSlot.into());
                }
                if a.number >= b.number {
                    return Err(malformed("not in ascending order"));
                }
                match entries {
                    None if earlier.head().0 > later.head().0 => {}
                    None => return Err(Cleared::Agrees { index: earlier.head().0 }.into()),
                    Some((one, other)) => {
                        one.verify(earlier.head())?;
                        other.verify(later.head())?;
                        if one.index != other.index {
                            return Err(malformed("the entries are of two indexes"));
                        }
                        if one.leaf == other.leaf {
                            return Err(Cleared::Agrees { index: one.index }.into());
                        }
                    }
                }
                if a.incarnation != b.incarnation {
                    return Err(Cleared::OtherIncarnation.into());
                }
                let mut verdict = Verdict::new(Fault::SplitView, a.node, b.epoch);
                verdict.mailbox = Some(*mailbox);
                Ok(verdict)
            }
        }
    }
}
