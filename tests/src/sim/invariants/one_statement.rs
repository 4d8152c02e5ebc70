//! No key signs two things for one slot of one incarnation; and nothing is said before what it rests on is on disk.
//!
//! It sees every statement that leaves a node, before the network does with it what it likes.

use std::collections::BTreeMap;

use postroad_engine::tables::{self, BATCHES, CUTS, DRAFT, META, SLICES, StoredBatch};
use postroad_protocol::attestation::Attestation;
use postroad_protocol::batch::Header;
use postroad_protocol::receipt::{Receipt, Sealed};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::{Digest, Federation, NodeId, Signed};
use postroad_store::Read;

use super::{Verdict, broken};

const NAME: &str = "one-statement";
const DISK: &str = "disk-first";

/// The slot of a statement: kind, signer, incarnation, number.
type Slot = (&'static str, NodeId, u64, u64);

/// Every slot that was ever filled.
#[derive(Debug, Default)]
pub(in crate::sim) struct OneStatement {
    slots: BTreeMap<Slot, Digest>,
    /// Origin and number of every header that left its origin.
    headers: BTreeMap<Digest, (NodeId, u64)>,
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
        disk: &dyn Read,
    ) -> Verdict {
        let body = &header.body;
        let digest = header.digest(federation);
        if self.headers.contains_key(&digest) {
            return Ok(());
        }
        self.headers.insert(digest, (body.origin, body.number));
        self.said(("header", body.origin, body.incarnation, body.number), digest)?;
        let row: Option<StoredBatch> =
            tables::get(disk, BATCHES, &tables::number_key(body.number)).map_err(|error| super::Broken {
                invariant: DISK,
                what: error.to_string(),
            })?;
        if row.is_none_or(|row| row.header != *body) {
            return broken(DISK, format!("{:?} signed header {} before it was on its disk", body.origin, body.number));
        }
        Ok(())
    }

    /// A receipt leaves its holder.
    pub(in crate::sim) fn receipt(&self, receipt: &Receipt, me: &NodeId, disk: &dyn Read) -> Verdict {
        if receipt.holder() != *me {
            return Ok(());
        }
        let item = &receipt.item;
        let Some((origin, number)) = self.headers.get(&item.header).copied() else {
            return broken(NAME, format!("{me:?} signed for a slice of a header that never left its origin"));
        };
        let key = SliceKey { origin, number, header: item.header, destination: item.destination };
        let held = disk.get(SLICES, &tables::slice_key(&key)).is_ok_and(|row| row.is_some())
            || origin == *me && disk.get(BATCHES, &tables::number_key(number)).is_ok_and(|row| row.is_some());
        if !held {
            return broken(DISK, format!("{me:?} signed for slice {number} of {origin:?}, which is not on its disk"));
        }
        Ok(())
    }

    /// A header with receipts leaves a node on its way to the sequencer.
    pub(in crate::sim) fn sealed(
        &mut self,
        sealed: &Sealed,
        me: &NodeId,
        federation: &Federation,
        disk: &dyn Read,
    ) -> Verdict {
        if sealed.header.body.origin != *me {
            return Ok(());
        }
        self.header(&sealed.header, federation, disk)?;
        for receipt in sealed.custody.iter().flat_map(|custody| &custody.receipts) {
            self.receipt(receipt, me, disk)?;
        }
        Ok(())
    }

    /// An attestation leaves its node.
    pub(in crate::sim) fn attestation(
        &mut self,
        attestation: &Signed<Attestation>,
        federation: &Federation,
        disk: &dyn Read,
    ) -> Verdict {
        let body = &attestation.body;
        self.said(("attestation", body.node, body.incarnation, body.number), attestation.digest(federation))?;
        let written: Option<u64> = tables::get(disk, META, tables::ATTESTED).unwrap_or_default();
        if written.is_none_or(|written| written < body.number) {
            return broken(DISK, format!("{:?} attested under {} before it was on its disk", body.node, body.number));
        }
        Ok(())
    }

    /// The sequencer's guard is asked to sign the cut with this digest.
    pub(in crate::sim) fn vote(&mut self, me: &NodeId, epoch: u64, digest: Digest, disk: &dyn Read) -> Verdict {
        let drafted = disk.get(META, DRAFT).is_ok_and(|row| row.is_some());
        let cut = disk.get(CUTS, &tables::number_key(epoch)).is_ok_and(|row| row.is_some());
        if !drafted && !cut {
            return broken(DISK, format!("{me:?} votes on cut {epoch}, which is not on its disk"));
        }
        self.said(("cut", *me, 0, epoch), digest)
    }
}
