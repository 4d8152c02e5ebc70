//! What a node reads to others from its disk: cuts, slices, and the entries of mailbox logs with their proofs.
//!
//! Everything here is a function of committed rows, so it runs beside the engine, on snapshots.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use postroad_protocol::codec::encode;
use postroad_protocol::cut::{CertifiedCut, Cut, HeaderProof};
use postroad_protocol::entry::{Entry, EntryProof};
use postroad_protocol::merkle::log::Log;
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::wire::client::Expired;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Federation, MailboxId, NodeId};
use postroad_store::{Read, StoreError};

use crate::receiver::load_body;
use crate::tables::{self, CUTS, EXPIRED, LOGS, LogRow, META, PLACES, SLICES};

/// Cuts and slices that a reader keeps decoded.
const MAX_CACHED: usize = 32;

/// The cuts after `epoch`, in order, until `max_bytes` are reached (one at least, if there is one).
///
/// # Errors
/// [`StoreError`].
pub fn cuts(store: &dyn Read, epoch: u64, max_bytes: usize) -> Result<Vec<Cut>, StoreError> {
    let mut cuts = Vec::new();
    let mut bytes = 0;
    let mut next = epoch.saturating_add(1);
    while let Some(row) = store.get(CUTS, &tables::number_key(next))? {
        bytes += row.len();
        if bytes > max_bytes && !cuts.is_empty() {
            break;
        }
        cuts.push(tables::read(CUTS, &tables::number_key(next), &row)?);
        next += 1;
    }
    Ok(cuts)
}

/// The certified header of a cut.
///
/// # Errors
/// [`StoreError`].
pub fn certified(store: &dyn Read, epoch: u64) -> Result<Option<CertifiedCut>, StoreError> {
    let key = tables::number_key(epoch);
    let Some(row) = store.get(CUTS, &key)? else { return Ok(None) };
    // The first of the cut's two fields; what follows may be large.
    let mut decoder = minicbor::Decoder::new(&row);
    let certified = decoder.array().and_then(|_| decoder.decode());
    certified.map(Some).map_err(|_| StoreError::Corrupt { table: CUTS, key })
}

/// A slice that this node holds, or that it cuts again from an ordered batch of its own.
///
/// # Errors
/// [`StoreError`].
pub fn slice(
    store: &dyn Read,
    me: &NodeId,
    federation: &Federation,
    key: &SliceKey,
) -> Result<Option<SliceParcel>, StoreError> {
    if let Some(mut parcel) = tables::get::<SliceParcel>(store, SLICES, &tables::slice_key(key))? {
        parcel.request = None;
        return Ok(Some(parcel));
    }
    let Some((_, body)) = load_body(key, me, federation, store)? else { return Ok(None) };
    let place: Option<(u64, u32)> = tables::get(store, PLACES, &tables::number_key(key.number))?;
    let Some((epoch, position)) = place else { return Ok(None) };
    let Some(cut) = tables::get::<Cut>(store, CUTS, &tables::number_key(epoch))? else { return Ok(None) };
    let Some(sealed) = cut.body.headers.into_iter().nth(position as usize) else { return Ok(None) };
    Ok(Some(SliceParcel { header: sealed.header, destination: key.destination, request: None, body }))
}

/// What a subscriber gets: each cut before the first entry of its epoch.
#[derive(Clone, Debug)]
pub enum Served {
    /// A certified cut.
    Cut(Box<CertifiedCut>),
    /// An entry of that cut's epoch.
    Entry(Box<Entry>),
    /// The entries up to some index are past retention.
    Expired(Box<Expired>),
}

/// Serves one subscriber; remembers the cuts and slices that it has just decoded.
#[derive(Debug)]
pub struct Reader {
    me: NodeId,
    federation: Federation,
    cuts: Cache<u64, (CertifiedCut, Vec<HeaderProof>)>,
    slices: Cache<SliceKey, SliceBody>,
    /// The cut that was served last.
    served: Option<u64>,
}

impl Reader {
    /// A reader for the node `me`.
    pub fn new(me: NodeId, federation: &Federation) -> Reader {
        Reader { me, federation: federation.clone(), cuts: Cache::default(), slices: Cache::default(), served: None }
    }

    /// The entries of `mailbox` from log index `from` on, until `max_bytes` or `limit` entries are reached.
    ///
    /// # Errors
    /// [`StoreError`]; a row whose slice or cut is gone is [`StoreError::Corrupt`].
    pub fn entries(
        &mut self,
        store: &dyn Read,
        mailbox: &MailboxId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Served>, StoreError> {
        let mut served = Vec::new();
        let end = tables::mailbox_key(mailbox, u64::MAX);
        let past = tables::get(store, META, EXPIRED)?.unwrap_or(0);
        let first = store.last(
            LOGS,
            &tables::mailbox_key(mailbox, 0),
            &tables::mailbox_key(mailbox, from.saturating_add(1)),
        )?;
        let mut next = first.map_or_else(|| tables::mailbox_key(mailbox, from), |(key, _)| key);
        let (mut count, mut bytes) = (0, 0);
        loop {
            let rows = store.range(LOGS, &next, &end, 16)?;
            let Some((last, _)) = rows.last() else { return Ok(served) };
            next = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                let row: LogRow = tables::read(LOGS, &key, &value)?;
                let start = tables::key_number(&key);
                if row.settled <= past {
                    if start + row.leaves.len() as u64 <= from {
                        continue;
                    }
                    served.extend(expired(store, mailbox, from, past)?.map(|it| Served::Expired(Box::new(it))));
                    return Ok(served);
                }
                for (offset, log_index) in (start..start + row.leaves.len() as u64).enumerate() {
                    if log_index < from {
                        continue;
                    }
                    if count >= limit || bytes >= max_bytes {
                        return Ok(served);
                    }
                    let (cut, entry) = self.entry(store, &row, offset, log_index)?;
                    if self.served != Some(row.epoch) {
                        self.served = Some(row.epoch);
                        served.push(Served::Cut(Box::new(cut)));
                    }
                    count += 1;
                    bytes += encode(&entry).len();
                    served.push(Served::Entry(Box::new(entry)));
                }
            }
        }
    }

    fn entry(
        &mut self,
        store: &dyn Read,
        row: &LogRow,
        offset: usize,
        log_index: u64,
    ) -> Result<(CertifiedCut, Entry), StoreError> {
        let federation = &self.federation;
        let cut_key = tables::number_key(row.epoch);
        let cut = self.cuts.get(row.epoch, || {
            let cut: Cut = tables::get(store, CUTS, &cut_key)?
                .ok_or_else(|| StoreError::Corrupt { table: CUTS, key: cut_key.clone() })?;
            let proofs = cut.body.header_proofs(federation);
            Ok((cut.certified, proofs))
        })?;
        let gone = || StoreError::Corrupt { table: SLICES, key: tables::slice_key(&row.slice) };
        let me = &self.me;
        let body = self
            .slices
            .get(row.slice, || load_body(&row.slice, me, federation, store)?.map(|(_, body)| body).ok_or_else(gone))?;
        let order = cut.1.get(row.position as usize).ok_or_else(gone)?;
        let proof = EntryProof::of(&body, &row.leaves[offset], order.clone()).ok_or_else(gone)?;
        Ok((cut.0.clone(), Entry { log_index, settled: row.settled, proof }))
    }
}

/// What is to be said to a reader at index `from` of the entries that are past retention.
fn expired(store: &dyn Read, mailbox: &MailboxId, from: u64, past: u64) -> Result<Option<Expired>, StoreError> {
    let end = tables::mailbox_key(mailbox, u64::MAX);
    let mut next = tables::mailbox_key(mailbox, 0);
    let mut log = Log::new();
    let mut last = None;
    'rows: loop {
        let rows = store.range(LOGS, &next, &end, 256)?;
        let Some((key, _)) = rows.last() else { break };
        next = [key.as_slice(), &[0]].concat();
        for (key, value) in rows {
            let row: LogRow = tables::read(LOGS, &key, &value)?;
            if row.settled > past {
                break 'rows;
            }
            for leaf in row.log_leaves() {
                log.append(leaf.hash());
                last = Some(leaf);
            }
        }
    }
    let before = log.size().checked_sub(1).and_then(|before| log.frontier_at(before));
    let (Some(before), Some(last), Some(path)) = (before, last, log.consistency(from, log.size())) else {
        return Ok(None);
    };
    Ok(Some(Expired { before, last, path }))
}

/// The last few values that were asked for.
#[derive(Debug)]
struct Cache<K, V> {
    values: BTreeMap<K, Arc<V>>,
    order: VecDeque<K>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Cache<K, V> {
        Cache { values: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Copy, V> Cache<K, V> {
    fn get(&mut self, key: K, load: impl FnOnce() -> Result<V, StoreError>) -> Result<Arc<V>, StoreError> {
        if let Some(value) = self.values.get(&key) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(load()?);
        if self.order.len() >= MAX_CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        self.order.push_back(key);
        self.values.insert(key, Arc::clone(&value));
        Ok(value)
    }
}
