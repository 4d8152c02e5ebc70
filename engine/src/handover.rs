//! What is given out for a mailbox that moves: its part of slices, to its home; and its log, by its former home.
//!
//! Everything here is a function of committed rows, so it runs beside the engine, on snapshots.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postroad_protocol::attestation::{LogHead, MailboxAttestation};
use postroad_protocol::batch::{Header, Routed};
use postroad_protocol::codec::encode;
use postroad_protocol::cut::Cut;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::{Extent, Extract, HandedRow, Handoff, HandoffPage};
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Signed};
use postroad_store::{Read, StoreError};

use crate::tables::{
    self, BATCHES, CUTS, EDGES, EXPIRED, EXTRACTS, Edge, LOGS, LogRow, META, PLACES, SLICES, StoredBatch,
};

/// Bytes that are read for one answer, for each byte that the answer may have: who asks for little of large slices asks
/// again.
const READ_FACTOR: usize = 16;
/// Log rows in one answer, at most.
const MAX_ROWS: usize = 16_384;
/// Log rows read at once.
const PAGE: usize = 256;
/// Mailboxes whose place in a handover is remembered.
const MAX_KNOWN: usize = 64;

/// What the first of these slices hold for a mailbox, until `max_bytes` are reached (one at least): none where this node
/// does not have the slice, or it is damaged.
///
/// # Errors
/// [`StoreError`].
pub fn extracts(
    store: &dyn Read,
    me: &NodeId,
    federation: &Federation,
    mailbox: &MailboxId,
    slices: &[SliceKey],
    max_bytes: usize,
) -> Result<Vec<Option<Extract>>, StoreError> {
    let mut extractor = Extractor::new(store, me, federation, mailbox);
    let mut bytes = 0;
    let mut found = Vec::new();
    for slice in slices {
        if !found.is_empty() && (bytes >= max_bytes || extractor.read >= max_bytes.saturating_mul(READ_FACTOR)) {
            break;
        }
        let extract = extractor.extract(slice)?;
        bytes += extract.as_ref().map_or(1, |extract| encode(extract).len());
        found.push(extract);
    }
    Ok(found)
}

/// Takes one mailbox's part out of slices. What slices next to each other have in common is read once: the batch of this
/// node's own that they are cut from, and its cut.
struct Extractor<'a> {
    store: &'a dyn Read,
    me: &'a NodeId,
    federation: &'a Federation,
    mailbox: &'a MailboxId,
    /// Bytes of rows that were read.
    read: usize,
    cut: Option<Cut>,
    batch: Option<OwnBatch>,
}

/// A batch of this node's own that a cut has included.
struct OwnBatch {
    header: Signed<Header>,
    digest: Digest,
    routed: Routed,
}

impl<'a> Extractor<'a> {
    fn new(store: &'a dyn Read, me: &'a NodeId, federation: &'a Federation, mailbox: &'a MailboxId) -> Extractor<'a> {
        Extractor { store, me, federation, mailbox, read: 0, cut: None, batch: None }
    }

    fn extract(&mut self, slice: &SliceKey) -> Result<Option<Extract>, StoreError> {
        match self.find(slice) {
            // Others have it.
            Err(StoreError::Corrupt { .. }) => Ok(None),
            found => found,
        }
    }

    fn find(&mut self, slice: &SliceKey) -> Result<Option<Extract>, StoreError> {
        let key = tables::extract_key(self.mailbox, slice);
        if let Some(row) = self.store.get(EXTRACTS, &key)? {
            self.read += row.len();
            return tables::read(EXTRACTS, &key, &row).map(Some);
        }
        let key = tables::slice_key(slice);
        if let Some(row) = self.store.get(SLICES, &key)? {
            self.read += row.len();
            let parcel: SliceParcel = tables::read(SLICES, &key, &row)?;
            return self.part(&parcel.header, slice, &parcel.body).map(Some);
        }
        if slice.origin != *self.me {
            return Ok(None);
        }
        if self.batch.as_ref().is_none_or(|batch| batch.digest != slice.header) {
            self.batch = self.own(slice)?;
        }
        let Some(OwnBatch { header, routed, .. }) = &self.batch else { return Ok(None) };
        let at = routed.slices.iter().position(|named| named.destination == slice.destination);
        let body = at.and_then(|at| routed.bodies.get(at));
        body.map(|body| self.part(header, slice, body)).transpose()
    }

    fn part(&self, header: &Signed<Header>, slice: &SliceKey, body: &SliceBody) -> Result<Extract, StoreError> {
        let index = body.index(header.body.entries.bundles, self.federation.id());
        let index = index.map_err(|_| StoreError::Corrupt { table: SLICES, key: tables::slice_key(slice) })?;
        Ok(Extract::of(header.clone(), slice.destination, body, &index, self.mailbox))
    }

    fn own(&mut self, slice: &SliceKey) -> Result<Option<OwnBatch>, StoreError> {
        let key = tables::number_key(slice.number);
        let Some((epoch, position)) = tables::get::<(u64, u32)>(self.store, PLACES, &key)? else { return Ok(None) };
        if self.cut.as_ref().is_none_or(|cut| cut.certified.header.epoch != epoch) {
            let key = tables::number_key(epoch);
            let Some(row) = self.store.get(CUTS, &key)? else { return Ok(None) };
            self.read += row.len();
            self.cut = Some(tables::read(CUTS, &key, &row)?);
        }
        let sealed = self.cut.as_ref().and_then(|cut| cut.body.headers.get(position as usize));
        let header = sealed.map(|sealed| sealed.header.clone());
        let Some(header) = header.filter(|header| header.digest(self.federation) == slice.header) else {
            return Ok(None);
        };
        let Some(row) = self.store.get(BATCHES, &key)? else { return Ok(None) };
        self.read += row.len();
        let batch: StoredBatch = tables::read(BATCHES, &key, &row)?;
        let routed = batch.route(self.federation.id());
        Ok(Some(OwnBatch { header, digest: slice.header, routed }))
    }
}

/// The logs that this node hands over, and how far each has come, so that no page counts again from the beginning.
#[derive(Debug, Default)]
pub struct Handovers {
    known: Mutex<BTreeMap<MailboxId, Known>>,
}

/// Where the last page of a log ended.
#[derive(Clone, Debug)]
struct Known {
    edge: Frontier,
    /// What `open` was counted for.
    counted: Counted,
    open: Extent,
}

/// A log, its first entry that the owner has not acknowledged, and the last epoch that is past retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    log: LogHead,
    safe: u64,
    past: u64,
}

impl Handovers {
    /// The rows of a mailbox's log from index `from` on, up to the log that `attested` names, until about `max_bytes` are
    /// reached (one row at least, if there is one). `handoff` says the same as `attested`. Where the rows begin above
    /// `from`, those before them were not handed over to this node either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn page(
        &self,
        store: &dyn Read,
        federation: &Federation,
        handoff: Signed<Handoff>,
        attested: MailboxAttestation,
        from: u64,
        max_bytes: usize,
    ) -> Result<HandoffPage, StoreError> {
        let mailbox = handoff.body.mailbox;
        let known = hold(&self.known).get(&mailbox).cloned();
        let asked = Asked { store, federation, handoff: &handoff.body, attested: &attested, from, max_bytes };
        let mut part = asked.part(known.as_ref())?;
        if known.is_some() && part.ends_wrongly(&handoff.body.log) {
            // The log was written anew since the last page.
            part = asked.part(None)?;
        }
        let Part { before, rows, known } = part;
        let open = known.open;
        let mut all = hold(&self.known);
        if all.len() >= MAX_KNOWN && !all.contains_key(&mailbox) {
            all.pop_first();
        }
        all.insert(mailbox, known);
        Ok(HandoffPage { handoff, attested, before, rows, open })
    }
}

fn hold(known: &Mutex<BTreeMap<MailboxId, Known>>) -> MutexGuard<'_, BTreeMap<MailboxId, Known>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked of a log.
struct Asked<'a> {
    store: &'a dyn Read,
    federation: &'a Federation,
    handoff: &'a Handoff,
    attested: &'a MailboxAttestation,
    from: u64,
    max_bytes: usize,
}

/// A part of a log.
struct Part {
    before: Frontier,
    rows: Vec<HandedRow>,
    known: Known,
}

impl Part {
    fn ends_wrongly(&self, log: &LogHead) -> bool {
        self.known.edge.size() == log.size && self.known.edge.root() != log.root
    }
}

impl Asked<'_> {
    fn part(&self, known: Option<&Known>) -> Result<Part, StoreError> {
        let Asked { store, federation, handoff, attested, max_bytes, .. } = *self;
        let Handoff { mailbox, node, log, .. } = *handoff;
        let from = self.from.min(log.size);
        let begin = tables::mailbox_key(&mailbox, 0);
        let first = store.last(LOGS, &begin, &tables::mailbox_key(&mailbox, from.saturating_add(1)))?;
        // The row at which the page begins: the one that holds `from`, or the next.
        let mut start = from;
        if let Some((key, row)) = first {
            let (at, row): (u64, LogRow) = (tables::key_number(&key), tables::read(LOGS, &key, &row)?);
            if from < at + row.leaves.len() as u64 {
                start = at;
            }
        }
        let past: u64 = tables::get(store, META, EXPIRED)?.unwrap_or(0);
        let edge: Option<Edge> = tables::get(store, EDGES, &mailbox.0)?;
        let safe = attested.log.acknowledged.as_ref().map_or(0, |known| known.body.log.size);
        let safe = safe.max(attested.log.expired_to).max(edge.as_ref().map_or(0, |edge| edge.expired_to));
        let counted = Counted { log, safe, past };
        let open = match known {
            Some(known) if known.counted == counted => known.open,
            _ => open(store, &mailbox, safe, log.size, past)?,
        };
        let before = match known {
            Some(known) if known.edge.size() <= start => known.edge.clone(),
            _ => edge.map_or_else(Frontier::new, |edge| edge.frontier),
        };
        let before = frontier_at(store, &mailbox, before, start)?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut extractor = Extractor::new(store, &node, federation, &mailbox);
        let mut after = before.clone();
        walk(store, &mailbox, before.size(), log.size, |start, size, row| {
            let end = start + row.leaves.len() as u64;
            if !rows.is_empty() && (bytes >= max_bytes || extractor.read >= max_bytes.saturating_mul(READ_FACTOR)) {
                return Ok(false);
            }
            row.log_leaves().for_each(|leaf| after.append(leaf.hash()));
            let is_safe = end <= safe || row.settled <= past;
            let extract = if is_safe { None } else { extractor.extract(&row.slice)?.map(Box::new) };
            bytes += size + extract.as_ref().map_or(0, |extract| encode(extract).len());
            rows.push(HandedRow { row, extract });
            Ok(rows.len() < MAX_ROWS)
        })?;
        Ok(Part { before, rows, known: Known { edge: after, counted, open } })
    }
}

/// Calls `visit` with the rows of a log that begin from index `from` on and below `to`: where each begins, its size on
/// disk, and the row; until that says no.
fn walk(
    store: &dyn Read,
    mailbox: &MailboxId,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, usize, LogRow) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let end = tables::mailbox_key(mailbox, to);
    let mut next = tables::mailbox_key(mailbox, from);
    loop {
        let rows = store.range(LOGS, &next, &end, PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in rows {
            let row: LogRow = tables::read(LOGS, &key, &value)?;
            if !visit(tables::key_number(&key), value.len(), row)? {
                return Ok(());
            }
        }
    }
}

/// The right edge of the log before the row that begins at `index`, on from an edge below it.
fn frontier_at(store: &dyn Read, mailbox: &MailboxId, mut edge: Frontier, index: u64) -> Result<Frontier, StoreError> {
    walk(store, mailbox, edge.size(), index, |_, _, row| {
        row.log_leaves().for_each(|leaf| edge.append(leaf.hash()));
        Ok(true)
    })?;
    Ok(edge)
}

/// What of a log of `size` entries, from the entry `safe` on, is not past retention.
fn open(store: &dyn Read, mailbox: &MailboxId, safe: u64, size: u64, past: u64) -> Result<Extent, StoreError> {
    let mut open = Extent::default();
    let begin = tables::mailbox_key(mailbox, 0);
    let first = store.last(LOGS, &begin, &tables::mailbox_key(mailbox, safe.saturating_add(1)))?;
    let first = first.map_or(safe, |(key, _)| tables::key_number(&key));
    walk(store, mailbox, first, size, |start, _, row| {
        if row.settled > past {
            for (_, leaf) in (start..).zip(&row.leaves).filter(|(index, _)| *index >= safe) {
                open.entries += 1;
                open.bytes += u64::from(leaf.bytes);
            }
        }
        Ok(true)
    })?;
    Ok(open)
}
