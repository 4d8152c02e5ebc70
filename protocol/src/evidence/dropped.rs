//! The fault of a home that owed a message and does not have it.

use minicbor::{Decode, Encode};

use super::parts::{Attested, Included, LogGap, Residence, SliceProof};
use super::{ClaimError, Cleared, Fault, Verdict};
use crate::attestation::Anchor;
use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, Cut, CutHeader};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::MapProof;
use crate::merkle::tree::{self, Path};
use crate::moving::Import;
use crate::receipt::{Custody, Receipt, RefusedLeaf, custody_digest};
use crate::record::Record;
use crate::refused::SettledFill;
use crate::signed::{Signed, Verify};
use crate::state::{HomeProof, LostSlice, Pending, PendingKey, STATE_PARTS, verify_pending};

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
    /// The destination's fill, where it had not signed for the slice by then; none if no cut has settled one.
    #[n(2)]
    pub fill: Option<Box<SettledFill>>,
    /// The mailbox.
    #[n(3)]
    pub mailbox: MailboxId,
    /// What the slice for the home, or for the former home, holds for the mailbox.
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
    /// Whether the destination has said, under the same state root, that it lost the slice.
    #[n(10)]
    pub lost: Option<LostSlice>,
    /// The path of that in the map of losses.
    #[n(11)]
    pub lost_path: MapProof,
    /// That the home has taken the message over; none where it was routed to it.
    #[n(12)]
    pub closed: Option<Box<Closed>>,
}

impl Drop {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("drop", reason));
        let body = &self.attested.attestation.body;
        let home = body.node;
        self.included.verify(federation)?;
        self.attested.verify(&self.mailbox, federation)?;
        self.attested.is_anchored(&self.anchor, federation)?;
        let state = self.home.verify(&self.mailbox, federation)?;
        let header = self.included.header();
        let routed = header.routing_epoch;
        let value = self.home.value.as_ref();
        // To whom it was routed, by the directory of that epoch: what stands in another slice nobody owes.
        let former = || value.and_then(|value| value.home_at(routed)).ok_or(Cleared::NotThere { epoch: routed });
        let destination = if self.closed.is_some() { former()? } else { home };
        let at = header.slices.iter().position(|slice| slice.destination == destination);
        let at = at.ok_or(Cleared::NotItsSlice)?;
        let leaves = self.slice.verify(&header.slices[at].root, &self.mailbox)?;
        let leaf = leaves.get(self.leaf as usize).ok_or(malformed("the slice has no such leaf"))?;
        let seq = self.included.seq(leaf.index);
        let Owed { refused, settled, pending } = self.settled(at, federation)?;
        let refused = refused.iter().find(|refused| (refused.index, refused.mailbox) == (leaf.index, self.mailbox));
        let refused = refused.map(|refused| Cleared::Refused { seq, reason: refused.reason });
        if let (Some(refused), None) = (&refused, &self.closed) {
            return Err(refused.clone().into());
        }
        if self.closed.is_none() && body.epoch < settled.epoch {
            return Err(Cleared::NotYet { settled: settled.epoch, attested: body.epoch }.into());
        }
        if state.epoch < self.anchor.cut.header.epoch {
            return Err(malformed("the state is of an earlier cut than the anchor"));
        }
        let residence = Residence::of(&self.home, &home, body.epoch)?;
        let (epoch, since) = match &self.closed {
            None if routed < residence.since => return Err(Cleared::NotThere { epoch: routed }.into()),
            None => (settled.epoch, settled),
            Some(closed) => {
                let item = Item {
                    key: PendingKey { destination, header: self.included.digest(federation) },
                    origin: header.origin,
                    routed,
                    included: self.included.epoch(),
                    settled: pending.is_none().then_some(settled.epoch),
                    refused,
                };
                let about = (&self.mailbox, &home);
                let epoch = closed.settles(&item, about, &self.home, &residence, federation)?;
                if body.epoch < epoch {
                    return Err(Cleared::NotYet { settled: epoch, attested: body.epoch }.into());
                }
                (epoch, &self.included.cut.header)
            }
        };
        // Later the state may have forgotten that the home said it lost the slice; and what is as old as that when it is
        // taken over is not owed.
        if state.age_ms > since.age_ms.saturating_add(federation.params().retention_ms) {
            return Err(Cleared::PastRetention.into());
        }
        let key = PendingKey { destination, header: self.included.digest(federation) };
        self.home.verify_loss(&key, self.lost.as_ref(), &self.lost_path)?;
        if let Some(lost) = &self.lost
            && lost.epoch < self.anchor.cut.header.epoch
            && destination == home
        {
            return Err(Cleared::Lost { epoch: lost.epoch }.into());
        }
        // A new home names the mailbox once it has the log; one that was set back and cannot have it again does not.
        if self.attested.log.is_none() && !residence.is_first {
            return Err(Cleared::NotNamed.into());
        }
        self.gap.verify(self.attested.head(), residence.inherited(), (epoch, epoch == seq.epoch, seq))?;
        match pending.filter(|_| self.closed.is_none()) {
            Some(pending) => Err(pending.into()),
            None => Ok(Verdict::new(Fault::Drop, home, epoch).for_message(seq, Some(self.mailbox))),
        }
    }

    /// What made the destination owe the slice. While custodians held it, nothing did: then what the cut ordered stands for it.
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
                if self.closed.is_none() && self.attested.attestation.body.epoch < settled.epoch {
                    return Ok(pending(Some(settled.epoch)));
                }
                Ok(Owed { refused: &item.refused, settled, pending: None })
            }
        }
    }
}

/// What a destination owes of a slice.
struct Owed<'a> {
    /// Not these leaves.
    refused: &'a [RefusedLeaf],
    /// From this cut on.
    settled: &'a CutHeader,
    /// Nothing, because it was in custody.
    pending: Option<Cleared>,
}

/// An import in the cut that settled it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SettledImport {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The import.
    #[n(1)]
    pub import: Signed<Import>,
    /// Its place among the cut's records.
    #[n(2)]
    pub index: u32,
    /// From the record to the cut's records root.
    #[n(3)]
    pub path: Path,
}

impl SettledImport {
    /// A mailbox's import in `cut`, if there is one.
    pub fn find(cut: &Cut, mailbox: &MailboxId) -> Option<SettledImport> {
        let imports = cut.body.records.iter().enumerate();
        let (index, import) = imports.into_iter().find_map(|(index, record)| match record {
            Record::Import(signed) if signed.body.mailbox == *mailbox => Some((index, signed.clone())),
            _ => None,
        })?;
        let path = cut.body.record_path(index);
        Some(SettledImport { cut: cut.certified.clone(), import, index: index as u32, path })
    }

    fn verify(&self, federation: &Federation) -> Result<(), VerifyError> {
        self.cut.verify(federation)?;
        self.import.verify(federation)?;
        let records = self.cut.header.records;
        let leaf = tree::leaf_hash(&encode(&Record::Import(self.import.clone())));
        let root = tree::root_from_path(leaf, u64::from(self.index), u64::from(records.count), &self.path);
        if root != Some(records.root) {
            return Err(VerifyError::Path { what: "import" });
        }
        Ok(())
    }
}

/// That an item of a former home's span was pending after a cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PendingThen {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// What the state after it says of the slice.
    #[n(1)]
    pub pending: Pending,
    /// The path of that in its map.
    #[n(2)]
    pub path: MapProof,
    /// The roots of the state's parts.
    #[n(3)]
    pub parts: [Digest; STATE_PARTS],
}

/// That a new home's import took over a message that was routed to a former home.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Closed {
    /// The import that speaks of the message's header.
    #[n(0)]
    pub by: SettledImport,
    /// The import before it, which does not; none if it is the first of the residence.
    #[n(1)]
    pub after: Option<Box<Signed<Import>>>,
    /// That the former home had not signed for the slice when the mailbox left; none where its receipt or fill shows
    /// when it did, or where the cut that ordered it came too late for that.
    #[n(2)]
    pub pending: Option<Box<PendingThen>>,
}

/// What is known of a message that was routed to a former home.
struct Item {
    /// The slice.
    key: PendingKey,
    /// The message's origin.
    origin: NodeId,
    /// The header's routing epoch.
    routed: u64,
    /// The epoch that included it.
    included: u64,
    /// The epoch that settled it at the former home, as far as that is shown.
    settled: Option<u64>,
    /// That it was refused there.
    refused: Option<Cleared>,
}

impl Closed {
    /// The epoch that settles the item in the new home's log. `residence` is the accused's, at the epoch that it attests,
    /// and `home` the state that says so.
    ///
    /// Exactly one import closes an item: what one had, no later one may miss (the state refuses that), so it is the
    /// first that speaks of it, which is the first of the residence, or the one whose predecessor does not.
    fn settles(
        &self,
        item: &Item,
        (mailbox, accused): (&MailboxId, &NodeId),
        home: &HomeProof,
        residence: &Residence<'_>,
        federation: &Federation,
    ) -> Result<u64, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("closed item", reason));
        let Some(value) = &home.value else { return Err(Cleared::NotThere { epoch: item.routed }.into()) };
        let Some(moved) = &value.moved else { return Err(malformed("the mailbox has never moved")) };
        self.by.verify(federation)?;
        let (epoch, import) = (self.by.cut.header.epoch, &self.by.import.body);
        if (import.mailbox, import.home) != (*mailbox, *accused) {
            return Err(malformed("it is another import"));
        }
        // An import considers cuts from the switch on, and so is settled after it.
        if (value.home, value.since) != (*accused, residence.since) || epoch <= value.since {
            return Err(malformed("it is an import of another residence"));
        }
        let at = moved.span_of(&item.key.destination, item.routed).ok_or(Cleared::NotThere { epoch: item.routed })?;
        let span = moved.spans[at];
        if !import.closes(&item.origin, item.included) {
            return Err(Cleared::NotClosed { epoch }.into());
        }
        match &self.after {
            None if moved.import.as_ref().is_some_and(|known| known.first == epoch) => {}
            None => return Err(malformed("it is not the first import")),
            Some(before) => {
                if before.digest(federation) != import.previous {
                    return Err(malformed("it is not the import before"));
                }
                if before.body.closes(&item.origin, item.included) {
                    return Err(Cleared::NotClosed { epoch }.into());
                }
            }
        }
        // A fill of after the switch says nothing for this mailbox. One of before may refuse it, or put it into the log
        // that was taken over: so there is the fill, or a proof that there was none.
        let settled = item.settled.filter(|settled| *settled < span.until);
        let last = span.until.saturating_sub(1);
        match &self.pending {
            Some(_) if item.settled.is_some() => return Err(malformed("that it was pending is not needed")),
            Some(shown) => {
                shown.cut.verify(federation)?;
                let PendingThen { cut, pending, path, parts } = &**shown;
                verify_pending(&cut.header, parts, &item.key, pending, path)
                    .ok_or(VerifyError::Path { what: "pending slice" })?;
                if cut.header.epoch < last {
                    return Err(malformed("it was pending before the mailbox left"));
                }
            }
            None if item.settled.is_some() || item.included >= last => {}
            None => return Err(malformed("nothing shows whether the former home signed for it in time")),
        }
        if let Some(refused) = &item.refused
            && (settled.is_some() || item.settled == Some(item.included))
        {
            return Err(refused.clone().into());
        }
        match (moved.base_span(import.base.as_ref()), &import.base) {
            (None, _) => Err(malformed("the import continues no log of a former home")),
            (Some(base), Some(_)) if at < base => Err(Cleared::Inherited { below: residence.inherited() }.into()),
            (Some(base), Some(log)) if at == base && settled.is_some_and(|it| it <= log.attestation.epoch) => {
                Err(Cleared::Inherited { below: residence.inherited() }.into())
            }
            _ => Ok(epoch),
        }
    }
}
