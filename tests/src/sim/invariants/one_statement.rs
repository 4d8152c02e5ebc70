//! No key signs two things for one slot of one incarnation; and nothing is said before what it rests on is on disk.
//!
//! It sees every statement that leaves a node, before the network does with it what it likes.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::tables::{self, BATCHES, META, SLICES, StoredBatch};
use postroad_protocol::attestation::Attestation;
use postroad_protocol::batch::Header;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{Receipt, Sealed};
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::{Digest, Federation, NodeId, Signed};
use postroad_store::Write;

use super::{STEPS, Verdict, broken};

const NAME: &str = "one-statement";

/// What ever was on a node's disk, as far as signatures rest on it.
#[derive(Debug, Default)]
pub(in crate::sim) struct Committed {
    batches: BTreeSet<Digest>,
    slices: BTreeSet<Vec<u8>>,
    drafts: BTreeSet<Digest>,
    attested: u64,
}

/// The slot of a statement: kind, signer, incarnation, number.
type Slot = (&'static str, NodeId, u64, u64);

/// Every slot that was ever filled.
#[derive(Debug, Default)]
pub(in crate::sim) struct OneStatement {
    slots: BTreeMap<Slot, Digest>,
    /// Origin and number of every header that left its origin.
    headers: BTreeMap<Digest, (NodeId, u64)>,
    /// Every receipt that left its holder.
    receipts: BTreeSet<Digest>,
}

impl OneStatement {
    fn said(&mut self, slot: Slot, digest: Digest) -> Verdict {
        match self.slots.insert(slot, digest) {
            Some(other) if other != digest => {
                let (kind, signer, incarnation, number) = slot;
                broken(
                    NAME,
                    format!("{signer:?} signed two of {kind} {number} in incarnation {incarnation}: {other}, {digest}"),
                )
            }
            _ => Ok(()),
        }
    }

    /// A header leaves its origin.
    pub(in crate::sim) fn header(
        &mut self,
        header: &Signed<Header>,
        federation: &Federation,
        committed: &Committed,
    ) -> Verdict {
        let body = &header.body;
        let digest = header.digest(federation);
        if self.headers.insert(digest, (body.origin, body.number)).is_some() {
            return Ok(());
        }
        self.said(("header", body.origin, body.incarnation, body.number), digest)?;
        if !committed.batches.contains(&digest) {
            return broken(STEPS, format!("{:?} signed header {} before it was on its disk", body.origin, body.number));
        }
        Ok(())
    }

    /// A receipt leaves its holder.
    pub(in crate::sim) fn receipt(&mut self, receipt: &Receipt, me: &NodeId, committed: &Committed) -> Verdict {
        // What it signed before may come back to it in what others hand in.
        if receipt.holder() != *me || !self.receipts.insert(Digest::tagged("seen", &[&encode(receipt)])) {
            return Ok(());
        }
        let item = &receipt.item;
        let Some((origin, number)) = self.headers.get(&item.header).copied() else {
            return broken(NAME, format!("{me:?} signed for a slice of a header that never left its origin"));
        };
        let key = SliceKey { origin, number, header: item.header, destination: item.destination };
        let held = committed.slices.contains(&tables::slice_key(&key))
            || origin == *me && committed.batches.contains(&item.header);
        if !held {
            return broken(STEPS, format!("{me:?} signed for slice {number} of {origin:?}, which is not on its disk"));
        }
        Ok(())
    }

    /// A header with receipts leaves a node on its way to the sequencer.
    pub(in crate::sim) fn sealed(
        &mut self,
        sealed: &Sealed,
        me: &NodeId,
        federation: &Federation,
        committed: &Committed,
    ) -> Verdict {
        if sealed.header.body.origin != *me {
            return Ok(());
        }
        self.header(&sealed.header, federation, committed)?;
        for receipt in sealed.custody.iter().flat_map(|custody| &custody.receipts) {
            self.receipt(receipt, me, committed)?;
        }
        Ok(())
    }

    /// An attestation leaves its node.
    pub(in crate::sim) fn attestation(
        &mut self,
        attestation: &Signed<Attestation>,
        federation: &Federation,
        committed: &Committed,
    ) -> Verdict {
        let body = &attestation.body;
        self.said(("attestation", body.node, body.incarnation, body.number), attestation.digest(federation))?;
        if committed.attested < body.number {
            return broken(STEPS, format!("{:?} attested under {} before it was on its disk", body.node, body.number));
        }
        Ok(())
    }

    /// The sequencer's guard has signed the cut with this digest.
    pub(in crate::sim) fn vote(&mut self, me: &NodeId, epoch: u64, digest: Digest, committed: &Committed) -> Verdict {
        self.said(("cut", *me, 0, epoch), digest)?;
        if !committed.drafts.contains(&digest) {
            return broken(STEPS, format!("{me:?} signed cut {epoch}, which was not on its disk"));
        }
        Ok(())
    }
}

impl Committed {
    /// A row is on disk. Gives the batch, if it is one.
    pub(in crate::sim) fn row(&mut self, write: &Write, federation: &Federation) -> Option<(Digest, StoredBatch)> {
        let Write::Put { table, key, value } = write else { return None };
        if *table == BATCHES {
            let batch: StoredBatch = decode(value).ok()?;
            let digest = batch.header.digest(federation.id());
            self.batches.insert(digest);
            return Some((digest, batch));
        }
        if *table == SLICES {
            self.slices.insert(key.clone());
        } else if *table == META && key == tables::DRAFT {
            let draft: Cut = decode(value).ok()?;
            self.drafts.insert(draft.certified.header.digest(federation));
        } else if *table == META && key == tables::ATTESTED {
            self.attested = decode(value).ok()?;
        }
        None
    }
}
