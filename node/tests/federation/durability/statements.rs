//! What nodes have signed, as the stores of others tell: nothing contradicts, and everything is covered by the disk of
//! whoever signed it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use postroad_engine::tables::{self, ATTESTED, BATCHES, CUTS, META, ROOTS, SLICES, StoredBatch};
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, NodeId, Signed, batch::Header};
use postroad_store::{Read, StoreError};

use super::cluster::open_copy;

/// Statements by their slots.
#[derive(Debug)]
pub(super) struct Statements {
    federation: Federation,
    /// (origin, incarnation, number) → headers.
    headers: BTreeMap<(NodeId, u64, u64), BTreeSet<Digest>>,
    /// Header → (origin, number), to name the slices of fills.
    origins: BTreeMap<Digest, (NodeId, u64)>,
    /// (home, attestation number) → attestations.
    attestations: BTreeMap<(NodeId, u64), BTreeSet<Digest>>,
    /// Epoch → cuts.
    cuts: BTreeMap<u64, BTreeSet<Digest>>,
    /// (holder, header, destination): receipts and fills.
    receipts: BTreeSet<(NodeId, Digest, NodeId)>,
}

impl Statements {
    pub(super) fn new(federation: &Federation) -> Statements {
        Statements {
            federation: federation.clone(),
            headers: BTreeMap::new(),
            origins: BTreeMap::new(),
            attestations: BTreeMap::new(),
            cuts: BTreeMap::new(),
            receipts: BTreeSet::new(),
        }
    }

    /// Adds what a store of a node that does not run knows of everybody.
    pub(super) fn read(&mut self, store: &Path) -> Result<(), StoreError> {
        let (store, _dir) = open_copy(store)?;
        let store = store.snapshot()?;
        for (key, value) in store.range(CUTS, &[], &[], usize::MAX)? {
            let cut: Cut = tables::read(CUTS, &key, &value)?;
            let header = &cut.certified.header;
            self.cuts.entry(header.epoch).or_default().insert(header.digest(&self.federation));
            for sealed in &cut.body.headers {
                self.header(&sealed.header);
                sealed.custody.iter().flat_map(|custody| &custody.receipts).for_each(|receipt| self.receipt(receipt));
            }
            cut.body.fills.iter().for_each(|fill| self.receipt(fill));
        }
        for (key, value) in store.range(SLICES, &[], &[], usize::MAX)? {
            let parcel: SliceParcel = tables::read(SLICES, &key, &value)?;
            self.header(&parcel.header);
        }
        Ok(())
    }

    /// The same, and what the node has sealed itself, whether or not it was seen.
    pub(super) fn read_own(&mut self, path: &Path) -> Result<(), StoreError> {
        self.read(path)?;
        let (store, _dir) = open_copy(path)?;
        for (key, value) in store.snapshot()?.range(BATCHES, &[], &[], usize::MAX)? {
            let header = tables::read::<StoredBatch>(BATCHES, &key, &value)?.header;
            let digest = header.digest(self.federation.id());
            self.headers.entry((header.origin, header.incarnation, header.number)).or_default().insert(digest);
        }
        Ok(())
    }

    fn header(&mut self, signed: &Signed<Header>) {
        let (header, digest) = (&signed.body, signed.digest(&self.federation));
        self.headers.entry((header.origin, header.incarnation, header.number)).or_default().insert(digest);
        self.origins.insert(digest, (header.origin, header.number));
        if let Some(attestation) = &header.attestation {
            self.attestations.entry((header.origin, attestation.number)).or_default().insert(attestation.digest);
        }
    }

    fn receipt(&mut self, receipt: &Receipt) {
        self.receipts.insert((receipt.holder(), receipt.item.header, receipt.item.destination));
    }

    /// How many statements there are, of this node.
    pub(super) fn count_of(&self, node: &NodeId) -> usize {
        self.headers.keys().filter(|(origin, ..)| origin == node).count()
            + self.attestations.keys().filter(|(home, _)| home == node).count()
            + self.receipts.iter().filter(|(holder, ..)| holder == node).count()
            + if self.federation.sequencer() == *node { self.cuts.len() } else { 0 }
    }

    /// The slots that hold more than one statement.
    pub(super) fn contradictions(&self) -> Vec<String> {
        fn doubled<K: std::fmt::Debug>(slots: &BTreeMap<K, BTreeSet<Digest>>) -> impl Iterator<Item = String> + '_ {
            slots.iter().filter(|(_, said)| said.len() > 1).map(|(slot, said)| format!("{slot:?}: {said:?}"))
        }
        doubled(&self.headers).chain(doubled(&self.attestations)).chain(doubled(&self.cuts)).collect()
    }

    /// What others have from `node` that its store does not know.
    pub(super) fn uncovered(&self, node: &NodeId, store: &Path) -> Result<Vec<String>, StoreError> {
        let (store, _dir) = open_copy(store)?;
        let store = store.snapshot()?;
        let mut uncovered = Vec::new();
        let has_batch = |number: u64, digest: &Digest| -> Result<bool, StoreError> {
            let batch: Option<StoredBatch> = tables::get(&store, BATCHES, &tables::number_key(number))?;
            Ok(batch.is_some_and(|batch| batch.header.digest(self.federation.id()) == *digest))
        };
        for ((_, _, number), said) in self.headers.iter().filter(|((origin, ..), _)| origin == node) {
            for digest in said {
                if !has_batch(*number, digest)? {
                    uncovered.push(format!("header {number}"));
                }
            }
        }
        for (_, header, destination) in self.receipts.iter().filter(|(holder, ..)| holder == node) {
            let Some((origin, number)) = self.origins.get(header).copied() else { continue };
            let key = SliceKey { origin, number, header: *header, destination: *destination };
            let held = store.get(ROOTS, &tables::slice_key(&key))?.is_some();
            let own = origin == *node && has_batch(number, header)?;
            if !(held || own) {
                uncovered.push(format!("receipt for the slice of header {number} for {destination}"));
            }
        }
        let attested: u64 = tables::get(&store, META, ATTESTED)?.unwrap_or(0);
        for (_, number) in self.attestations.keys().filter(|(home, number)| home == node && *number > attested) {
            uncovered.push(format!("attestation {number}"));
        }
        if self.federation.sequencer() == *node {
            for epoch in self.cuts.keys() {
                if store.get(CUTS, &tables::number_key(*epoch))?.is_none() {
                    uncovered.push(format!("cut {epoch}"));
                }
            }
        }
        Ok(uncovered)
    }
}
