//! Deposits: the slices that this node holds for others while their destinations are away, so many bytes for each origin.
//!
//! A slice counts from the moment it is taken until its destination has signed for it, or its header can no longer be
//! ordered. After a start those count that were ordered by then.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::cut::Cut;
use postroad_protocol::message::RECIPIENT_BYTES;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{PendingKey, State};
use postroad_protocol::{Digest, Federation, NodeId, PublicKey};
use postroad_store::{Read, StoreError, Write};

use crate::io::Held;
use crate::slices::forget;
use crate::tables::{self, SLICES};

/// One slice held for another node.
#[derive(Clone, Copy, Debug)]
struct Deposit {
    bytes: u64,
    /// The last epoch in which its header can be ordered; none once it is.
    until: Option<u64>,
}

/// The slices held for others.
#[derive(Debug)]
pub struct Deposits {
    federation: Federation,
    max_bytes: u64,
    held: BTreeMap<SliceKey, Deposit>,
    /// The sum for each origin.
    bytes: BTreeMap<NodeId, u64>,
}

impl Deposits {
    /// Reads what the state says that `me` holds. Of one origin at most `max_bytes` are taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        me: NodeId,
        federation: &Federation,
        max_bytes: u64,
        head: &State,
        store: &dyn Read,
    ) -> Result<Deposits, StoreError> {
        let federation = federation.clone();
        let mut deposits = Deposits { federation, max_bytes, held: BTreeMap::new(), bytes: BTreeMap::new() };
        for (key, pending) in head.all_pending().filter(|(_, pending)| pending.holders.contains(&me)) {
            let (origin, number) = (pending.origin, pending.number);
            let slice = SliceKey { origin, number, header: key.header, destination: key.destination };
            match store.get(SLICES, &tables::slice_key(&slice)) {
                Ok(Some(row)) => deposits.insert(slice, Deposit { bytes: row.len() as u64, until: None }),
                // What is damaged is admitted to be lost when it is asked for.
                Ok(None) | Err(StoreError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deposits)
    }

    /// Whether a slice of a header that can be ordered in the epochs up to `until` (or is ordered, if that is none) may
    /// be held. The first one of an origin always may.
    pub fn take(&mut self, held: &Held, until: Option<u64>) -> bool {
        if self.held.contains_key(&held.key) {
            return true;
        }
        let bytes = held.parcel.body.payload_bytes() + RECIPIENT_BYTES * held.index.count();
        let before = self.bytes.get(&held.key.origin).copied().unwrap_or(0);
        if before > 0 && before + bytes > self.max_bytes {
            return false;
        }
        self.insert(held.key, Deposit { bytes, until });
        true
    }

    fn insert(&mut self, slice: SliceKey, deposit: Deposit) {
        *self.bytes.entry(slice.origin).or_default() += deposit.bytes;
        self.held.insert(slice, deposit);
    }

    fn release(&mut self, slice: &SliceKey) {
        let Some(deposit) = self.held.remove(slice) else { return };
        if let Some(bytes) = self.bytes.get_mut(&slice.origin) {
            *bytes = bytes.saturating_sub(deposit.bytes);
            if *bytes == 0 {
                self.bytes.remove(&slice.origin);
            }
        }
    }

    /// A cut was applied: what it settles, and what can no longer be ordered, need not be held any more. What can no
    /// longer be ordered nobody will ever ask for: returns what to remove.
    pub fn cut(&mut self, cut: &Cut, head: &State) -> Vec<Write> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let epoch = cut.certified.header.epoch;
        let mut done: Vec<SliceKey> = Vec::new();
        let mut settled: BTreeSet<SliceKey> = BTreeSet::new();
        let fills = cut.body.fills.iter().map(|fill| (fill.item.destination, fill.item.header));
        let fills: BTreeSet<(NodeId, Digest)> = fills.collect();
        if !fills.is_empty() {
            let filled = |slice: &SliceKey| fills.contains(&(slice.destination, slice.header));
            done.extend(self.held.keys().filter(|slice| filled(slice)));
        }
        for sealed in &cut.body.headers {
            let header = &sealed.header.body;
            let digest = sealed.digest(&self.federation);
            let end = |number, fill: u8| SliceKey {
                origin: header.origin,
                number,
                header: Digest([fill; 32]),
                destination: PublicKey([fill; 32]),
            };
            for (slice, deposit) in self.held.range_mut(end(0, 0)..=end(header.number, u8::MAX)) {
                if slice.header != digest {
                    // Numbers rise along the chain: what has a lower one and is not ordered never will be.
                    if deposit.until.is_some() {
                        done.push(*slice);
                    }
                    continue;
                }
                let at = header.slices.iter().position(|named| named.destination == slice.destination);
                let receipts = at.map_or(&[][..], |at| &sealed.custody[at].receipts);
                if receipts.first().is_some_and(|receipt| receipt.item.request.is_none()) {
                    done.push(*slice);
                    settled.insert(*slice);
                } else {
                    deposit.until = None;
                }
            }
        }
        let late = self.held.iter().filter(|(_, deposit)| deposit.until.is_some_and(|until| until < epoch));
        done.extend(late.map(|(slice, _)| *slice));
        let mut writes = Vec::new();
        for slice in done {
            // One that comes once more after it was ordered looks as if it never were.
            let key = PendingKey { destination: slice.destination, header: slice.header };
            let is_dead = self.held.get(&slice).is_some_and(|deposit| deposit.until.is_some());
            if is_dead && !settled.contains(&slice) && head.pending(&key).is_none() {
                writes.extend(forget(&slice));
            }
            self.release(&slice);
        }
        writes
    }
}
