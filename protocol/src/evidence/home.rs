//! Faults of a home: what it signed over its mailboxes' logs.

use minicbor::{Decode, Encode};

use super::origin::Entry;
use super::parts::{Attested, Included, LeafAt, Residence, SliceProof};
use super::{ClaimError, Cleared, Fault, Verdict, in_order};
use crate::attestation::Anchor;
use crate::crypto::MailboxId;
use crate::cut::CertifiedCut;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::signed::Verify;
use crate::slice::LeafRef;
use crate::state::HomeProof;

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
    /// Since when the mailbox lives there and which log came with it, as of the epoch that is attested or a later one.
    #[n(5)]
    pub home: HomeProof,
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
    /// The slice for the node where the mailbox lived at the routing epoch does not hold it for the mailbox.
    #[n(3)]
    NotAddressed(#[n(0)] Box<Included>, #[n(1)] Option<Box<SliceProof>>),
}

impl WrongEntry {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("wrong entry", reason));
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        let (head, home) = (self.attested.head(), self.attested.attestation.body.node);
        self.entry.verify(head)?;
        self.home.verify(&self.mailbox, federation)?;
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
            Wrong::NotAddressed(included, slice) => {
                stands(included)?;
                let routed = included.header().routing_epoch;
                if self.home.cut.header.epoch < routed {
                    return Err(malformed("the home proof is of an earlier epoch"));
                }
                // What a new home took over stands in a slice for a former one.
                let lived = self.home.value.as_ref().and_then(|value| value.home_at(routed));
                let lived = lived.ok_or(Cleared::NotThere { epoch: routed })?;
                match (included.header().slice(&lived), slice) {
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
        // For what came with the mailbox, its former home answers.
        Residence::of(&self.home, &home, epoch)?.is_own(self.entry.index)?;
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
    /// Since when the mailbox lives there and which log came with it, as of the epoch that is attested or a later one.
    #[n(5)]
    pub home: HomeProof,
}

impl EarlyExpiry {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        self.entry.verify(self.attested.head())?;
        self.settled.verify(federation)?;
        self.home.verify(&self.mailbox, federation)?;
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
        Residence::of(&self.home, &body.node, body.epoch)?.is_own(index)?;
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
    /// Since when the mailbox lives there, as of the later epoch that is attested or one after it: who has a mailbox
    /// again may continue another log.
    #[n(4)]
    pub home: HomeProof,
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
                let SplitLogs { mailbox, earlier, later, entries, home } = &**logs;
                earlier.verify(mailbox, federation)?;
                later.verify(mailbox, federation)?;
                home.verify(mailbox, federation)?;
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
                let (before, after) = (Residence::of(home, &a.node, a.epoch)?, Residence::of(home, &b.node, b.epoch)?);
                if before.since != after.since {
                    return Err(Cleared::OtherSlot.into());
                }
                if later.log.is_none() && !after.is_first {
                    return Err(Cleared::NotNamed.into());
                }
                let mut verdict = Verdict::new(Fault::SplitView, a.node, b.epoch);
                verdict.mailbox = Some(*mailbox);
                Ok(verdict)
            }
        }
    }
}
