//! The receiver holds slices, for this node and for others, and merges what each cut makes this node owe, in cut order,
//! for the outbox: fills first, then headers.
//!
//! It signs for a slice only after the slice is on disk. Slices that were ordered while custodians held them it fetches,
//! signs for, and hands in as fills. A slice that it has signed for and no longer has (its disk was set back) it fetches
//! as well, and until it is here delivers nothing that comes after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{CustodyRequest, Fill, Receipt, ReceiptItem, RefusedLeaf, sign_receipts};
use postroad_protocol::record::Record;
use postroad_protocol::slice::{SliceBody, SliceIndex, SliceKey};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, SecretKey, Signed};
use postroad_store::{Read, StoreError, Write};

use crate::arrivals::Arrivals;
use crate::auditor::Auditor;
use crate::departures;
use crate::gate::Gate;
use crate::io::{Held, Output, Report};
use crate::outbox::{Outbox, Place};
use crate::slices::{keep_until, load_index, settled_by, sources};
use crate::tables::{self, DELIVERED, Holding, META, PENDING, PendingRow, REFUSED, ROOTS, SLICES};
use pending::{PendingSlice, Step};

#[cfg(feature = "cheat")]
mod cheat;
mod pending;

/// Indexes of slices that wait for their cut, kept in memory; others are read from disk again.
const MAX_REMEMBERED: usize = 4_096;

/// One thing that a cut makes this node owe.
#[derive(Debug)]
struct Owed {
    place: Place,
    holders: Vec<NodeId>,
    was_pending: bool,
    /// The leaves that this node's receipt or fill refuses, as the cut shows it.
    refused: Vec<RefusedLeaf>,
}

/// What one cut makes this node owe.
#[derive(Debug)]
struct Due {
    epoch: u64,
    /// Mailboxes that lived here and do not since this epoch, with the epoch since which they had.
    left: Vec<(MailboxId, u64)>,
    owed: VecDeque<Owed>,
    /// Mailboxes of which the cut has settled an import by this node.
    imports: Vec<MailboxId>,
}

/// A receipt that waits for its slice to be durable.
#[derive(Debug)]
struct Unsigned {
    token: u64,
    key: SliceKey,
    root: Digest,
    request: Option<Digest>,
    refused: Vec<RefusedLeaf>,
    /// It answers a challenge, and goes to the sequencer instead of the origin.
    answers: bool,
}

/// What is signed once rows are durable.
#[derive(Debug, Default)]
pub struct Signatures {
    /// Receipts, by the origin that waits for them.
    pub receipts: BTreeMap<NodeId, Vec<Receipt>>,
    /// Fills, for the sequencer.
    pub fills: Vec<Fill>,
    /// Receipts that answer challenges, for the sequencer.
    pub answers: Vec<Receipt>,
}

/// Slices held and mail owed.
#[derive(Debug)]
pub struct Receiver {
    me: NodeId,
    secret: SecretKey,
    federation: Federation,
    incarnation: u64,
    remembered: BTreeMap<SliceKey, Arc<SliceIndex>>,
    unsigned: Vec<Unsigned>,
    delivered: u64,
    owed: VecDeque<Due>,
    /// The slice without which nothing more can be delivered.
    stalled: Option<SliceKey>,
    /// The slice without which nothing more could be delivered when that was last tried.
    missing: Option<SliceKey>,
    /// Whether nothing more can be delivered until a mailbox that moves here has come further.
    awaits_arrival: bool,
    /// The epoch of the last cut.
    head: u64,
    /// Whether it was compared with the state since the start.
    judged: bool,
    /// Headers of slices that this node has said it lost, and owes no more.
    lost: BTreeSet<Digest>,
    pending: BTreeMap<(u64, u32), PendingSlice>,
    /// The last slice that was asked for again after nobody had it.
    retried: (u64, u32),
    #[cfg(feature = "cheat")]
    pub(crate) cheat: cheat::Holder,
}

impl Receiver {
    /// Reads what a store knows of pending slices and deliveries.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(secret: &SecretKey, federation: &Federation, store: &dyn Read) -> Result<Receiver, StoreError> {
        let mut pending = BTreeMap::new();
        for (key, value) in store.range(PENDING, &[], &[], usize::MAX)? {
            let row: PendingRow = tables::read(PENDING, &key, &value)?;
            pending.insert((row.epoch, row.position), PendingSlice::new(row));
        }
        Ok(Receiver {
            me: secret.public(),
            secret: secret.clone(),
            federation: federation.clone(),
            incarnation: 0,
            remembered: BTreeMap::new(),
            unsigned: Vec::new(),
            delivered: tables::get(store, META, DELIVERED)?.unwrap_or(0),
            owed: VecDeque::new(),
            stalled: None,
            missing: None,
            awaits_arrival: false,
            head: 0,
            judged: false,
            lost: BTreeSet::new(),
            pending,
            retried: (0, 0),
            #[cfg(feature = "cheat")]
            cheat: cheat::Holder::default(),
        })
    }

    /// From now on receipts carry this incarnation.
    pub fn start(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// The last epoch whose mail is in the logs.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Epochs whose mail for this node is not in the logs yet.
    pub fn undelivered(&self) -> u64 {
        self.owed.len() as u64
    }

    /// Whether everything that is owed is in the logs.
    pub fn is_caught_up(&self) -> bool {
        self.owed.is_empty()
    }

    /// How many pending slices are still to be had, as far as is known.
    pub fn obtainable(&self) -> usize {
        self.pending.values().filter(|pending| !pending.failed).count()
    }

    /// How many slices for this node are pending.
    pub fn pending(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Remembers the index of a slice of this node's own batch, which is kept there and nowhere else.
    pub fn remember_own(&mut self, key: SliceKey, body: &SliceBody, bundle_count: u32) -> Option<Arc<SliceIndex>> {
        let index = Arc::new(body.index(bundle_count, self.federation.id()).ok()?);
        self.remember(key, Arc::clone(&index));
        Some(index)
    }

    /// The index of a slice for this node that is on its disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn index(&mut self, key: &SliceKey, store: &dyn Read) -> Result<Option<Arc<SliceIndex>>, StoreError> {
        if let Some(index) = self.remembered.get(key) {
            return Ok(Some(Arc::clone(index)));
        }
        let index = load_index(key, &self.me, &self.federation, store)?.map(Arc::new);
        if let Some(index) = &index {
            self.remember(*key, Arc::clone(index));
        }
        Ok(index)
    }

    fn remember(&mut self, key: SliceKey, index: Arc<SliceIndex>) {
        self.remembered.insert(key, index);
        // Those of headers that no cut ever included would stay; what is dropped is read from disk when it is owed.
        if self.remembered.len() > MAX_REMEMBERED {
            self.remembered.pop_first();
        }
    }

    /// Takes a slice to hold, as a custodian, as its destination with some `refused` leaves, or as the witness of an
    /// answer to `challenge`. Returns what to write, nothing if it is on disk already; in both cases `token` must be
    /// persisted before the receipt is signed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hold(
        &mut self,
        held: &Held,
        challenge: Option<Digest>,
        refused: Vec<RefusedLeaf>,
        token: u64,
        store: &dyn Read,
    ) -> Result<Vec<Write>, StoreError> {
        let Held { key, parcel, index } = held;
        let known = store.get(ROOTS, &tables::slice_key(key))?.is_some();
        if key.destination == self.me {
            self.remember(*key, Arc::clone(index));
        }
        if let Some(slice) = parcel.header.body.slice(&key.destination) {
            let request = parcel.request.as_ref().map(|request| request.digest(&self.federation));
            let (request, answers) = (challenge.or(request), challenge.is_some());
            self.unsigned.push(Unsigned { token, key: *key, root: slice.root, request, refused, answers });
        }
        Ok(if known { Vec::new() } else { self.slice_rows(key, parcel) })
    }

    /// An origin asks for another receipt for a slice that is here; signed once `token` is persisted. Returns whether
    /// it is here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn resume(
        &mut self,
        key: &SliceKey,
        request: Option<&Signed<CustodyRequest>>,
        refused: Vec<RefusedLeaf>,
        token: u64,
        store: &dyn Read,
    ) -> Result<bool, StoreError> {
        let Some(Holding { root, .. }) = tables::get(store, ROOTS, &tables::slice_key(key))? else { return Ok(false) };
        let request = request.map(|request| request.digest(&self.federation));
        self.unsigned.push(Unsigned { token, key: *key, root, request, refused, answers: false });
        Ok(true)
    }

    /// Answers a challenge for a slice that is here, where there is no third node to witness it; signed once `token` is
    /// persisted.
    pub fn answer(&mut self, key: SliceKey, root: Digest, challenge: Digest, token: u64) {
        self.unsigned.push(Unsigned { token, key, root, request: Some(challenge), refused: Vec::new(), answers: true });
    }

    /// Rows up to `token` are durable: signs one receipt over everything that waits for that.
    pub fn persisted(&mut self, token: u64) -> Signatures {
        let mut signatures = Signatures::default();
        if self.incarnation == 0 {
            return signatures;
        }
        let (durable, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsigned).into_iter().partition(|unsigned| unsigned.token <= token);
        self.unsigned = waiting;
        #[cfg(feature = "cheat")]
        let durable = self.cheat.sign_some(durable, self.head);
        // Fills go in the order of their numbers, so that mail that waited arrives in that order.
        let mut fills: Vec<(u64, u32)> = Vec::new();
        for (at, pending) in &self.pending {
            match &pending.step {
                Step::Here { token: waits, .. } if *waits <= token => fills.push(*at),
                Step::Filled { .. } => {}
                _ if pending.failed => {}
                _ => break,
            }
        }
        #[cfg(feature = "cheat")]
        let fills = self.cheat.fill_some(fills, self.head);
        let origins: Vec<Option<NodeId>> =
            durable.iter().map(|unsigned| (!unsigned.answers).then_some(unsigned.key.origin)).collect();
        let mut items: Vec<ReceiptItem> = durable.into_iter().map(Unsigned::into_item).collect();
        for at in &fills {
            let PendingSlice { row, step: Step::Here { refused, .. }, .. } = &self.pending[at] else { continue };
            let (key, root, refused) = (row.slice, row.root, refused.clone());
            items.push(Unsigned { token, key, root, request: None, refused, answers: false }.into_item());
        }
        if items.is_empty() {
            return signatures;
        }
        let mut signed = sign_receipts(items, self.incarnation, &self.secret, &self.federation).into_iter();
        for (origin, receipt) in origins.into_iter().zip(signed.by_ref()) {
            match origin {
                Some(origin) => signatures.receipts.entry(origin).or_default().push(receipt.into_inner()),
                None => signatures.answers.push(receipt.into_inner()),
            }
        }
        for (at, fill) in fills.into_iter().zip(signed) {
            let fill = fill.into_inner();
            signatures.fills.push(fill.clone());
            if let Some(pending) = self.pending.get_mut(&at) {
                pending.step = Step::Filled { fill: Box::new(fill) };
            }
        }
        signatures
    }

    /// A cut was applied: notes what it makes this node owe, and which mailboxes have `left`, with the epoch since which
    /// they had lived here. Returns what to write.
    pub fn cut(&mut self, cut: &Cut, left: Vec<(MailboxId, u64)>) -> Vec<Write> {
        let epoch = cut.certified.header.epoch;
        let mut writes = Vec::new();
        let mut owed = VecDeque::new();
        for fill in cut.body.fills.iter().filter(|fill| fill.item.destination == self.me) {
            let found = self.pending.iter().find(|(_, pending)| pending.row.slice.header == fill.item.header);
            let Some(at) = found.map(|(at, _)| *at) else { continue };
            let Some(PendingSlice { row, .. }) = self.pending.remove(&at) else { continue };
            let place = Place {
                settled: epoch,
                epoch: row.epoch,
                position: row.position,
                slice: row.slice,
                routing_epoch: row.routing_epoch,
            };
            let refused = fill.item.refused.clone();
            owed.push_back(Owed { place, holders: row.holders, was_pending: true, refused });
        }
        // Log order within one cut: fills by their numbers, whatever order the cut lists them in; then headers.
        owed.make_contiguous().sort_by_key(|owed| (owed.place.epoch, owed.place.position));
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let header = &sealed.header.body;
            let Some(at) = header.slices.iter().position(|slice| slice.destination == self.me) else { continue };
            let slice = SliceKey {
                origin: header.origin,
                number: header.number,
                header: sealed.digest(&self.federation),
                destination: self.me,
            };
            let position = position as u32;
            let receipts = &sealed.custody[at].receipts;
            let delivered = receipts.first().is_some_and(|receipt| receipt.item.request.is_none());
            let holders: Vec<NodeId> = receipts.iter().map(Receipt::holder).filter(|node| *node != self.me).collect();
            if delivered {
                let routing_epoch = header.routing_epoch;
                let place = Place { settled: epoch, epoch, position, slice, routing_epoch };
                let refused = receipts[0].item.refused.clone();
                owed.push_back(Owed { place, holders, was_pending: false, refused });
            } else {
                let (root, routing_epoch) = (header.slices[at].root, header.routing_epoch);
                let row = PendingRow { slice, root, epoch, position, holders, routing_epoch };
                writes.push(tables::put(PENDING, slice.header.0, &row));
                self.pending.insert((epoch, position), PendingSlice::new(row));
            }
        }
        let refusing = owed.iter().filter(|owed| !owed.refused.is_empty()).map(|owed| owed.place);
        writes.extend(
            refusing.map(|place| tables::put(REFUSED, tables::place_key(place.epoch, place.position), &place.settled)),
        );
        let imports = cut.body.records.iter().filter_map(|record| match record {
            Record::Import(signed) if signed.body.home == self.me => Some(signed.body.mailbox),
            _ => None,
        });
        // What leaves in the same cut is attested here no more.
        let imports = imports.filter(|mailbox| left.iter().all(|(gone, _)| gone != mailbox)).collect();
        self.owed.push_back(Due { epoch, left, owed, imports });
        for record in &cut.body.records {
            match record {
                Record::Lost(lost) if lost.body.holder == self.me && lost.body.destination == self.me => {
                    self.lost.insert(lost.body.header);
                }
                Record::Answer(receipt) if receipt.item.destination == self.me => {
                    let found = self.pending.values_mut().find(|known| known.row.slice.header == receipt.item.header);
                    if let Some(pending) = found.filter(|known| !known.row.holders.contains(&receipt.holder())) {
                        // The witness has it: asked for at once, and first.
                        pending.row.holders.insert(0, receipt.holder());
                        pending.failed = false;
                        writes.push(tables::put(PENDING, pending.row.slice.header.0, &pending.row));
                    }
                }
                _ => {}
            }
        }
        writes
    }

    /// The rows of a slice that is taken to hold: until a retention after the last epoch that could order it.
    fn slice_rows(&self, key: &SliceKey, parcel: &SliceParcel) -> Vec<Write> {
        let mut rows = vec![tables::put(SLICES, tables::slice_key(key), parcel)];
        if let Some(slice) = parcel.header.body.slice(&key.destination) {
            let until = settled_by(self.head, &self.federation);
            rows.extend(Holding { root: slice.root, until }.until(key, until));
        }
        rows
    }

    /// The slice without which nothing more can be delivered, although this node has signed for it.
    pub fn missing(&self) -> Option<SliceKey> {
        self.missing
    }

    /// Whether nothing more can be delivered until a mailbox that moves here has come further.
    pub fn awaits_arrival(&self) -> bool {
        self.awaits_arrival
    }

    /// Delivers what is owed and here, in order, until something is missing, which it asks for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn deliver(
        &mut self,
        (outbox, gate, auditor, arrivals): (&mut Outbox, &mut Gate, &mut Auditor, &mut Arrivals),
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        let before = self.delivered;
        let mut entries = 0;
        self.awaits_arrival = false;
        while let Some(Due { epoch, left, owed, imports }) = self.owed.front() {
            // This node has signed imports for nothing that is not here; but its disk may have been set back.
            let is_over =
                |mailbox: &MailboxId, since| self.owed.iter().any(|due| due.left.contains(&(*mailbox, since)));
            let imports = outbox.importing(imports, *epoch, is_over).filter(|all| arrivals.is_ready(*epoch, all));
            let Some(imports) = imports else {
                self.awaits_arrival = true;
                break;
            };
            // An epoch is in the logs whole or not at all: the next start begins behind the last whole one.
            let mut indexes = Vec::with_capacity(owed.len());
            for next in owed {
                let key = next.place.slice;
                if self.lost.contains(&key.header) {
                    indexes.push(None);
                    continue;
                }
                #[cfg(feature = "cheat")]
                if self.cheat.losing.contains(&key) {
                    self.mark_delivered(before, entries, &mut writes, out);
                    return Ok(writes);
                }
                let index = match self.remembered.get(&key) {
                    Some(index) => Arc::clone(index),
                    None => match load_index(&key, &self.me, &self.federation, store) {
                        Ok(Some(index)) => Arc::new(index),
                        // One that is damaged is fetched as one that is gone.
                        Ok(None) | Err(StoreError::Corrupt { .. }) => {
                            self.missing = Some(key);
                            if self.stalled != Some(key) {
                                self.stalled = Some(key);
                                out.push(Output::Fetch(key, sources(&key, &next.holders, &self.me)));
                            }
                            self.mark_delivered(before, entries, &mut writes, out);
                            return Ok(writes);
                        }
                        Err(error) => return Err(error),
                    },
                };
                indexes.push(Some(index));
            }
            let imported = arrivals.due(*epoch, &imports);
            #[cfg(feature = "cheat")]
            let imported = outbox.cheat.leave_out(imported, *epoch);
            for (mailbox, since) in left {
                writes.push(departures::left(mailbox, *epoch, outbox.last_final()));
                writes.extend(outbox.depart(mailbox, *since));
            }
            let mut imported = VecDeque::from(imported);
            imported.make_contiguous().sort_by_key(|(_, row)| (row.epoch, row.position));
            for (next, index) in owed.iter().zip(indexes) {
                // Among the fills, by number; headers are of this very epoch.
                while let Some((mailbox, row)) = imported.front()
                    && (row.epoch, row.position) < (next.place.epoch, next.place.position)
                {
                    entries += outbox.append_row(mailbox, row, &mut writes);
                    imported.pop_front();
                }
                #[cfg(feature = "cheat")]
                outbox.cheat.study(&next.place.slice, &self.me, &self.federation, store)?;
                match index {
                    Some(index) => {
                        auditor.delivered(next.place, &index);
                        entries += outbox.append(next.place, &index, &next.refused, &mut writes);
                    }
                    None => {
                        self.lost.remove(&next.place.slice.header);
                    }
                }
                gate.delivered(&next.place.slice);
                self.remembered.remove(&next.place.slice);
                if next.was_pending {
                    writes.push(tables::delete(PENDING, next.place.slice.header.0));
                    // Its entries are as young as the cut that settled them.
                    keep_until(&next.place.slice, *epoch, store, &mut writes)?;
                }
            }
            for (mailbox, row) in imported {
                entries += outbox.append_row(&mailbox, &row, &mut writes);
            }
            self.delivered = *epoch;
            self.owed.pop_front();
        }
        (self.stalled, self.missing) = (None, None);
        self.mark_delivered(before, entries, &mut writes, out);
        Ok(writes)
    }

    fn mark_delivered(&self, before: u64, entries: u64, writes: &mut Vec<Write>, out: &mut Vec<Output>) {
        if entries > 0 {
            out.push(Output::Report(Report::Delivered { entries }));
        }
        if self.delivered != before {
            writes.push(tables::put(META, DELIVERED, &self.delivered));
        }
    }

    /// Below which (epoch, position) nothing can come late any more.
    pub fn settled_below(&self) -> (u64, u32) {
        let open = (self.delivered + 1, 0);
        // A fill that is settled is not pending any more; while something before it is missing, it still comes.
        let owed = self.owed.iter().flat_map(|due| &due.owed).map(|owed| (owed.place.epoch, owed.place.position));
        let pending = self.pending.iter().filter(|(_, pending)| !pending.overdue).map(|(at, _)| *at);
        pending.chain(owed).fold(open, Ord::min)
    }
}

impl Unsigned {
    fn into_item(self) -> ReceiptItem {
        ReceiptItem {
            header: self.key.header,
            destination: self.key.destination,
            slice: self.root,
            request: self.request,
            refused: self.refused,
        }
    }
}
