//! Slices on disk: how one is read again, how long it is kept, and whom to ask for one that is not there.

use postroad_protocol::slice::{SliceBody, SliceIndex, SliceKey};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Federation, NodeId};
use postroad_store::{Read, StoreError, Write};

use crate::tables::{self, BATCHES, Holding, ROOTS, SLICES, StoredBatch};

/// The last epoch that can order a header which is handed over at `head`.
pub fn settled_by(head: u64, federation: &Federation) -> u64 {
    head + 2 * federation.params().routing_window_epochs + 2
}

/// Keeps a slice until `epoch` at least.
pub(crate) fn keep_until(
    key: &SliceKey,
    epoch: u64,
    store: &dyn Read,
    writes: &mut Vec<Write>,
) -> Result<(), StoreError> {
    if let Some(holding) = tables::get::<Holding>(store, ROOTS, &tables::slice_key(key))?
        && holding.until < epoch
    {
        let before = tables::expiring_key(holding.until, key.header, key.destination);
        writes.push(tables::delete(tables::EXPIRING, before));
        writes.extend(holding.until(key, epoch));
    }
    Ok(())
}

/// Removes a slice that nobody will ever ask for.
pub(crate) fn forget(key: &SliceKey) -> [Write; 2] {
    let row = tables::slice_key(key);
    [tables::delete(SLICES, row.clone()), tables::delete(ROOTS, row)]
}

/// Whom to ask for a slice: its holders, then its origin.
pub(crate) fn sources(key: &SliceKey, holders: &[NodeId], me: &NodeId) -> Vec<NodeId> {
    let mut sources: Vec<NodeId> = holders.iter().copied().filter(|node| node != me).collect();
    if key.origin != *me && !sources.contains(&key.origin) {
        sources.push(key.origin);
    }
    sources
}

/// A slice's body: from the slices held, or cut again from a batch of this node's own.
///
/// # Errors
/// [`StoreError`].
pub fn load_body(
    key: &SliceKey,
    me: &NodeId,
    federation: &Federation,
    store: &dyn Read,
) -> Result<Option<(u32, SliceBody)>, StoreError> {
    if let Some(parcel) = tables::get::<SliceParcel>(store, SLICES, &tables::slice_key(key))? {
        return Ok(Some((parcel.header.body.entries.bundles, parcel.body)));
    }
    if key.origin != *me {
        return Ok(None);
    }
    use postroad_protocol::signed::Statement;
    let Some(batch) = tables::get::<StoredBatch>(store, BATCHES, &tables::number_key(key.number))? else {
        return Ok(None);
    };
    if batch.header.digest(federation.id()) != key.header {
        return Ok(None);
    }
    let routed = batch.route(federation.id());
    let at = routed.slices.iter().position(|slice| slice.destination == key.destination);
    let body = at.and_then(|at| routed.bodies.into_iter().nth(at));
    Ok(body.map(|body| (batch.header.entries.bundles, body)))
}

/// The leaves of a slice that is on disk.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn load_index(
    key: &SliceKey,
    me: &NodeId,
    federation: &Federation,
    store: &dyn Read,
) -> Result<Option<SliceIndex>, StoreError> {
    let Some((bundles, body)) = load_body(key, me, federation, store)? else { return Ok(None) };
    let index = body.index(bundles, federation.id());
    index.map(Some).map_err(|_| StoreError::Corrupt { table: SLICES, key: tables::slice_key(key) })
}
