//! Retention: what is older than retention_ms of cut age is forgotten, a little in every round of housekeeping; and so are
//! the logs of mailboxes that have moved away for good.
//!
//! What is forgotten are payloads: slices held, and batches of this node's own. What is small stays, so that every proof
//! can still be made: cuts, the leaves of logs, the last counter of every sender. Size forgets nothing; it makes a node
//! refuse what is new.

use postroad_protocol::NodeId;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::PendingKey;
use postroad_store::{Read, StoreError, Write};

use super::Node;
use crate::io::Output;
use crate::serve;
use crate::tables::{
    self, BATCHES, BUNDLES, EXPIRED, EXPIRING, Expiring, Holding, META, PLACES, ROOTS, SLICES, StoredBatch,
};

/// Cuts by which one round moves on, at most.
const MAX_CUTS: usize = 256;
/// Slices and batches that one round forgets, at most.
const MAX_FORGOTTEN: usize = 256;

impl Node {
    /// A round of housekeeping.
    pub(super) fn forget(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let mut writes = self.expire(store)?;
        let end = tables::number_key(self.outbox.expired() + 1);
        for (key, value) in store.range(EXPIRING, &[], &end, MAX_FORGOTTEN)? {
            match tables::read(EXPIRING, &key, &value)? {
                Expiring::Slice(slice) => self.forget_slice(&key, &slice, store, &mut writes)?,
                Expiring::Batch(number) => self.forget_batch(&key, number, store, &mut writes)?,
                Expiring::Extract(mailbox, slice) => {
                    let row = tables::extract_key(&mailbox, &slice);
                    writes.extend([tables::delete(EXPIRING, key), tables::delete(tables::EXTRACTS, row)]);
                }
            }
        }
        let window = self.config.federation.params().routing_window_epochs;
        writes.extend(self.departed.round(&self.me, self.ledger.head(), window, store)?);
        if !writes.is_empty() {
            self.persist(writes, out);
        }
        Ok(())
    }

    /// Moves the last epoch that is past retention on.
    fn expire(&mut self, store: &dyn Read) -> Result<Vec<Write>, StoreError> {
        let retention_ms = self.config.federation.params().retention_ms;
        let head = self.ledger.head().age_ms;
        let before = self.outbox.expired();
        let mut expired = before;
        while expired < self.receiver.delivered() && expired - before < MAX_CUTS as u64 {
            // Where the cut is damaged, nothing expires until it is there again.
            let cut = match serve::certified(store, expired + 1) {
                Err(StoreError::Corrupt { .. }) => None,
                cut => cut?,
            };
            let Some(cut) = cut else { break };
            if cut.header.age_ms.saturating_add(retention_ms) >= head {
                break;
            }
            expired += 1;
        }
        if expired == before {
            return Ok(Vec::new());
        }
        self.outbox.expire(expired);
        Ok(vec![tables::put(META, EXPIRED, &expired)])
    }

    fn is_pending(&self, slice: &SliceKey, destination: NodeId) -> bool {
        self.ledger.head().pending(&PendingKey { destination, header: slice.header }).is_some()
    }

    fn forget_slice(
        &self,
        key: &[u8],
        slice: &SliceKey,
        store: &dyn Read,
        writes: &mut Vec<Write>,
    ) -> Result<(), StoreError> {
        writes.push(tables::delete(EXPIRING, key));
        let row = tables::slice_key(slice);
        if self.is_pending(slice, slice.destination) {
            // Somebody still has to fetch it.
            if let Some(holding) = tables::get::<Holding>(store, ROOTS, &row)? {
                writes.extend(holding.until(slice, self.ledger.head().epoch));
            }
            return Ok(());
        }
        writes.extend([tables::delete(SLICES, row.clone()), tables::delete(ROOTS, row)]);
        Ok(())
    }

    fn forget_batch(
        &self,
        key: &[u8],
        number: u64,
        store: &dyn Read,
        writes: &mut Vec<Write>,
    ) -> Result<(), StoreError> {
        writes.push(tables::delete(EXPIRING, key));
        let row = tables::number_key(number);
        // A batch that died is gone already.
        let Some(batch) = tables::get::<StoredBatch>(store, BATCHES, &row)? else { return Ok(()) };
        let header = batch.header.digest(self.config.federation.id());
        let last = self.ledger.head().node(&self.me).and_then(|node| node.last_header);
        let pending = |destination: NodeId| self.ledger.head().pending(&PendingKey { destination, header }).is_some();
        let is_last = last.is_some_and(|last| last.digest == header);
        if is_last || batch.header.slices.iter().any(|slice| pending(slice.destination)) {
            // A destination is away, and its mailboxes can be rebuilt from it; or it shows that this disk is up to date.
            writes.push(tables::expiring(self.ledger.head().epoch, header, self.me, &Expiring::Batch(number)));
            return Ok(());
        }
        writes.extend([tables::delete(BATCHES, row.clone()), tables::delete(PLACES, row)]);
        for bundle in &batch.bundles {
            let body = &bundle.signed.body;
            let row = tables::mailbox_key(&body.sender, body.counter);
            // The last one stays: it says which counters were used.
            let end = tables::mailbox_key(&body.sender, u64::MAX);
            if store.last(BUNDLES, &row, &end)?.is_some_and(|(last, _)| last != row) {
                writes.push(tables::delete(BUNDLES, row));
            }
        }
        Ok(())
    }
}
