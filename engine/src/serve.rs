//! What a node reads to others from its disk: cuts, slices, and the entries of mailbox logs with their proofs.
//!
//! Everything here is a function of committed rows, so it runs beside the engine, on snapshots.

use std::sync::Arc;

use postroad_protocol::cut::{CertifiedCut, Cut, HeaderProof};
use postroad_protocol::entry::{Entry, EntryProof};
use postroad_protocol::merkle::log::Log;
use postroad_protocol::moving::Extract;
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::wire::call::Filed;
use postroad_protocol::wire::client::Expired;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};
use postroad_store::{Read, StoreError};

use crate::shelf::Shelf;
use crate::slices::load_body;
use crate::tables::{self, CUTS, EDGES, EVIDENCE, EXPIRED, EXTRACTS, Edge, LOGS, LogRow, META, PLACES, SLICES};

/// Bytes of decoded cuts that are kept for all subscribers of a node, about.
const MAX_CUT_BYTES: u64 = 8 << 20;
/// The same for slices: a few of the largest.
const MAX_SLICE_BYTES: u64 = 32 << 20;
/// What the proofs around one payload take, about.
const PROOF_BYTES: u64 = 1_024;

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
    store.get(CUTS, &key)?.map(|row| certified_in(&row, &key)).transpose()
}

/// The certified header of the cut in a row: the first of its two fields; what follows may be large.
pub(crate) fn certified_in(row: &[u8], key: &[u8]) -> Result<CertifiedCut, StoreError> {
    let mut decoder = minicbor::Decoder::new(row);
    let certified = decoder.array().and_then(|_| decoder.decode());
    certified.map_err(|_| StoreError::Corrupt { table: CUTS, key: key.to_vec() })
}

/// The evidence after the one with this id, in the order of ids, until `max_bytes` are reached (one at least, if there is
/// one).
///
/// # Errors
/// [`StoreError`].
pub fn evidence(store: &dyn Read, after: Option<Digest>, max_bytes: usize) -> Result<Vec<Filed>, StoreError> {
    let mut page = Vec::new();
    let mut bytes = 0;
    let mut from = after.map_or_else(Vec::new, |id| [&id.0[..], &[0]].concat());
    while let Some((key, row)) = store.range(EVIDENCE, &from, &[], 1)?.pop() {
        bytes += row.len();
        if bytes > max_bytes && !page.is_empty() {
            break;
        }
        page.push(tables::read(EVIDENCE, &key, &row)?);
        from = [&key[..], &[0]].concat();
    }
    Ok(page)
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

/// Why entries cannot be read. Nothing is served of a row that is damaged; what others have can be had again.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The cut of this epoch: any node has it.
    #[error("{1}")]
    Cut(u64, StoreError),
    /// This slice: its holders and its origin have it.
    #[error("{1}")]
    Slice(Box<SliceKey>, StoreError),
    /// What this slice of a former home's holds for one mailbox: that home, its custodians and its origin have it.
    #[error("{2}")]
    Extract(Box<SliceKey>, MailboxId, StoreError),
    /// Something that nobody else has.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps apart what is damaged from a disk that fails.
fn damaged(error: StoreError, what: impl FnOnce(StoreError) -> Unreadable) -> Unreadable {
    match error {
        StoreError::Corrupt { .. } => what(error),
        error => Unreadable::Store(error),
    }
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
    /// The entries up to this index were not handed over when the mailbox moved here.
    Elsewhere(u64),
}

/// The cuts and slices that a node's subscribers read, decoded once for all of them.
#[derive(Debug)]
pub struct Library {
    me: NodeId,
    federation: Federation,
    cuts: Shelf<u64, (CertifiedCut, Vec<HeaderProof>)>,
    /// Slices, and what of them was extracted for one mailbox.
    slices: Shelf<(SliceKey, Option<MailboxId>), SliceBody>,
}

impl Library {
    /// An empty library for the node `me`.
    pub fn new(me: NodeId, federation: &Federation) -> Library {
        Library {
            me,
            federation: federation.clone(),
            cuts: Shelf::new(MAX_CUT_BYTES),
            slices: Shelf::new(MAX_SLICE_BYTES),
        }
    }

    fn cut(&self, store: &dyn Read, epoch: u64) -> Result<Arc<(CertifiedCut, Vec<HeaderProof>)>, StoreError> {
        self.cuts.get(epoch, || {
            let key = tables::number_key(epoch);
            let row = store.get(CUTS, &key)?.ok_or_else(|| StoreError::Corrupt { table: CUTS, key: key.clone() })?;
            let cut: Cut = tables::read(CUTS, &key, &row)?;
            let proofs = cut.body.header_proofs(&self.federation);
            Ok(((cut.certified, proofs), 2 * row.len() as u64))
        })
    }

    /// What a mailbox's leaves of a slice have their places in: the extract that came when the mailbox moved here, if
    /// there is one, or the slice.
    fn slice(&self, store: &dyn Read, key: &SliceKey, mailbox: &MailboxId) -> Result<Arc<SliceBody>, StoreError> {
        let row = tables::extract_key(mailbox, key);
        let extract = store.get(EXTRACTS, &row)?;
        self.slices.get((*key, extract.is_some().then_some(*mailbox)), || {
            let body = match extract {
                Some(extract) => tables::read::<Extract>(EXTRACTS, &row, &extract)?.body,
                // In a slice for another node that this one holds as well, the leaves have other places.
                None if key.destination != self.me => return Err(StoreError::Corrupt { table: EXTRACTS, key: row }),
                None => load_body(key, &self.me, &self.federation, store)?.ok_or_else(|| gone(key))?.1,
            };
            let bytes = weight_bytes(&body);
            Ok((body, bytes))
        })
    }
}

fn gone(slice: &SliceKey) -> StoreError {
    StoreError::Corrupt { table: SLICES, key: tables::slice_key(slice) }
}

/// What a decoded slice takes in memory, about: its payloads, and for each recipient the proofs around them.
fn weight_bytes(body: &SliceBody) -> u64 {
    let messages = body.bundles.iter().flat_map(|bundle| &bundle.messages);
    body.payload_bytes() + PROOF_BYTES * messages.map(|message| 1 + message.recipients.len() as u64).sum::<u64>()
}

/// Serves one subscriber.
#[derive(Debug)]
pub struct Reader {
    library: Arc<Library>,
    /// The cut that was served last.
    served: Option<u64>,
}

impl Reader {
    /// A reader at the start of a subscription.
    pub fn new(library: Arc<Library>) -> Reader {
        Reader { library, served: None }
    }

    /// The entries of `mailbox` from log index `from` on, until about `max_bytes` or `limit` entries are reached.
    ///
    /// # Errors
    /// [`Unreadable`], when the very first entry cannot be read; a slice or cut that is gone counts as damaged.
    pub fn entries(
        &mut self,
        store: &dyn Read,
        mailbox: &MailboxId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Served>, Unreadable> {
        let mut served = Vec::new();
        let until = tables::mailbox_key(mailbox, u64::MAX);
        let past = Past {
            settled: tables::get(store, META, EXPIRED)?.unwrap_or(0),
            edge: tables::get(store, EDGES, &mailbox.0)?,
        };
        if let Some(begin) = past.edge.as_ref().map(|edge| edge.frontier.size()).filter(|begin| from < *begin) {
            return Ok(vec![Served::Elsewhere(begin)]);
        }
        let first = store.last(
            LOGS,
            &tables::mailbox_key(mailbox, 0),
            &tables::mailbox_key(mailbox, from.saturating_add(1)),
        )?;
        let mut next = first.map_or_else(|| tables::mailbox_key(mailbox, from), |(key, _)| key);
        let (mut count, mut bytes) = (0, 0);
        loop {
            let rows = store.range(LOGS, &next, &until, 16)?;
            let Some((last, _)) = rows.last() else { return Ok(served) };
            next = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                let row: LogRow = tables::read(LOGS, &key, &value)?;
                let start = tables::key_number(&key);
                let end = start + row.leaves.len() as u64;
                if past.has(&row, end) {
                    if end <= from {
                        continue;
                    }
                    served.extend(expired(store, mailbox, from, &past)?.map(|it| Served::Expired(Box::new(it))));
                    return Ok(served);
                }
                let mut sources = None;
                for (offset, log_index) in (start..end).enumerate() {
                    if log_index < from {
                        continue;
                    }
                    if count >= limit || bytes >= max_bytes {
                        return Ok(served);
                    }
                    let read = match &sources {
                        Some(sources) => self.entry(sources, &row, offset, log_index),
                        None => self.sources(store, mailbox, &row).and_then(|read| {
                            let entry = self.entry(&read, &row, offset, log_index);
                            sources = Some(read);
                            entry
                        }),
                    };
                    let entry = match read {
                        Ok(entry) => entry,
                        // What comes before it is sound.
                        Err(_) if !served.is_empty() => return Ok(served),
                        Err(unreadable) => return Err(unreadable),
                    };
                    if self.served != Some(row.epoch) {
                        self.served = Some(row.epoch);
                        served.extend(sources.as_ref().map(|read| Served::Cut(Box::new(read.cut.0.clone()))));
                    }
                    count += 1;
                    bytes += entry.proof.common.len() + entry.proof.recipient.own.len() + PROOF_BYTES as usize;
                    served.push(Served::Entry(Box::new(entry)));
                }
            }
        }
    }

    /// The cut and the messages of a row.
    fn sources(&self, store: &dyn Read, mailbox: &MailboxId, row: &LogRow) -> Result<Sources, Unreadable> {
        let cut = self.library.cut(store, row.epoch);
        let cut = cut.map_err(|error| damaged(error, |error| Unreadable::Cut(row.epoch, error)))?;
        let body = self.library.slice(store, &row.slice, mailbox);
        let body = body.map_err(|error| damaged(error, |error| lacks(&row.slice, mailbox, error)))?;
        Ok(Sources { cut, body })
    }

    fn entry(&self, sources: &Sources, row: &LogRow, offset: usize, log_index: u64) -> Result<Entry, Unreadable> {
        let order = sources.cut.1.get(row.position as usize).cloned();
        let proof = order.and_then(|order| EntryProof::of(&sources.body, &row.leaves[offset], order));
        let proof = proof.ok_or_else(|| gone(&row.slice))?;
        #[cfg(feature = "cheat")]
        let proof = crate::outbox::cheat::serve_as_logged(proof, &row.leaves[offset]);
        Ok(Entry { log_index, settled: row.settled, proof })
    }
}

fn lacks(slice: &SliceKey, mailbox: &MailboxId, error: StoreError) -> Unreadable {
    match error {
        StoreError::Corrupt { table: EXTRACTS, .. } => Unreadable::Extract(Box::new(*slice), *mailbox, error),
        error => Unreadable::Slice(Box::new(*slice), error),
    }
}

/// What the entries of one row are read from.
struct Sources {
    cut: Arc<(CertifiedCut, Vec<HeaderProof>)>,
    body: Arc<SliceBody>,
}

/// What of a log has no messages here any more.
struct Past {
    /// The last epoch that is past retention.
    settled: u64,
    /// Where the log begins here.
    edge: Option<Edge>,
}

impl Past {
    /// Whether a row that ends at this index is past retention, or came without its messages.
    fn has(&self, row: &LogRow, end: u64) -> bool {
        row.settled <= self.settled || self.edge.as_ref().is_some_and(|edge| end <= edge.expired_to)
    }
}

/// What is to be said to a reader at index `from` of the entries that are past retention.
fn expired(store: &dyn Read, mailbox: &MailboxId, from: u64, past: &Past) -> Result<Option<Expired>, StoreError> {
    let end = tables::mailbox_key(mailbox, u64::MAX);
    let mut next = tables::mailbox_key(mailbox, 0);
    let mut log = past.edge.as_ref().map_or_else(Log::new, |edge| Log::from(edge.frontier.clone()));
    let mut last = None;
    'rows: loop {
        let rows = store.range(LOGS, &next, &end, 256)?;
        let Some((key, _)) = rows.last() else { break };
        next = [key.as_slice(), &[0]].concat();
        for (key, value) in rows {
            let row: LogRow = tables::read(LOGS, &key, &value)?;
            if !past.has(&row, tables::key_number(&key) + row.leaves.len() as u64) {
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
