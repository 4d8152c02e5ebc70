//! The mail of former homes that a mailbox's log lacks: derived from cuts alone, fetched from whoever has it.

use std::collections::BTreeMap;

use postroad_protocol::cut::Cut;
use postroad_protocol::moving::{Base, Import, LogRow, MAX_MISSING, Missing, OwedBy};
use postroad_protocol::receipt::Receipt;
use postroad_protocol::slice::{SliceKey, SliceLeaf};
use postroad_protocol::state::Span;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};

/// One slice of a former home that may hold mail for the mailbox.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) slice: SliceKey,
    /// The span in which it was routed.
    span: usize,
    /// Who signed for it.
    pub(super) holders: Vec<NodeId>,
    /// What the former home refused, by index.
    refused: Vec<u64>,
    pub(super) step: Step,
    /// Whom it was asked of in vain.
    pub(super) tried: Vec<NodeId>,
    /// Whether this node's own disk was not looked at yet.
    new: bool,
}

/// How far an item has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody is asked.
    Wanted,
    /// This node is.
    Asking(NodeId),
    /// Nobody had it.
    Failed,
    /// It holds nothing for the mailbox.
    Absent,
    /// It holds these.
    Found(Vec<SliceLeaf>),
}

impl Item {
    fn is_open(&self) -> bool {
        matches!(self.step, Step::Wanted | Step::Asking(_) | Step::Failed)
    }
}

/// All that may still come from former homes, and what cuts say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    /// By the place of their headers in the order.
    pub(super) all: BTreeMap<(u64, u32), Item>,
    /// The epoch of the state in which it was looked up what is still pending: what was filled later is known by that.
    pending_at: u64,
    /// Fills of the base's home, after the base, whose headers are older: to be looked for in earlier cuts.
    older: BTreeMap<Digest, Vec<u64>>,
    /// Imports that cuts have settled, and whose entries are not in the log yet, by epoch.
    settled: BTreeMap<u64, Import>,
    /// The others: what they have closed is in the log.
    done: Vec<Import>,
}

/// What items are made of: where the mailbox lived, and what its log has.
#[derive(Clone, Debug)]
pub(super) struct Origins<'a> {
    pub(super) mailbox: MailboxId,
    pub(super) home: NodeId,
    pub(super) spans: &'a [Span],
    /// The span whose home attested the base.
    pub(super) base_span: usize,
    /// The epoch that the base attests; that before the registration, if there is no base.
    pub(super) base_epoch: u64,
    pub(super) federation: &'a Federation,
}

impl<'a> Origins<'a> {
    pub(super) fn new(
        mailbox: MailboxId,
        home: NodeId,
        spans: &'a [Span],
        base: Option<&Base>,
        base_span: usize,
        federation: &'a Federation,
    ) -> Origins<'a> {
        let first = spans[base_span].since.saturating_sub(1);
        let base_epoch = base.map_or(first, |base| base.attestation.epoch);
        Origins { mailbox, home, spans, base_span, base_epoch, federation }
    }

    /// The slices of a cut that were routed to former homes and that the base cannot have, with the refusals that stand
    /// in its receipts. Of a cut that the base covers, only those that were pending then.
    fn of<'c>(&'c self, cut: &'c Cut) -> impl Iterator<Item = ((u64, u32), Item)> + 'c {
        let epoch = cut.certified.header.epoch;
        cut.body.headers.iter().enumerate().filter_map(move |(position, sealed)| {
            let header = &sealed.header.body;
            let span = self.spans.iter().position(|span| span.routed(header.routing_epoch))?;
            let destination = self.spans[span].node;
            let at = header.slices.iter().position(|slice| slice.destination == destination)?;
            let receipts = &sealed.custody[at].receipts;
            let own = receipts.first().filter(|receipt| receipt.item.request.is_none());
            if span < self.base_span || span == self.base_span && epoch <= self.base_epoch && own.is_some() {
                return None;
            }
            let header_digest = sealed.digest(self.federation);
            let slice = SliceKey { origin: header.origin, number: header.number, header: header_digest, destination };
            let refused = own.map_or_else(Vec::new, |receipt| self.refused(receipt));
            let holders = receipts.iter().map(Receipt::holder).collect();
            let item = Item { slice, span, holders, refused, step: Step::Wanted, tried: Vec::new(), new: true };
            Some(((epoch, position as u32), item))
        })
    }

    fn refused(&self, receipt: &Receipt) -> Vec<u64> {
        let refused = receipt.item.refused.iter().filter(|leaf| leaf.mailbox == self.mailbox);
        refused.map(|leaf| leaf.index).collect()
    }
}

impl Items {
    /// Takes note of a cut after the base, in order.
    pub(super) fn cut(&mut self, cut: &Cut, of: &Origins<'_>, delivered: u64) {
        let epoch = cut.certified.header.epoch;
        for record in &cut.body.records {
            if let postroad_protocol::record::Record::Import(signed) = record
                && signed.body.mailbox == of.mailbox
                && signed.body.home == of.home
                && of.spans.last().is_some_and(|span| span.until <= epoch)
            {
                if epoch <= delivered {
                    self.close(signed.body.clone());
                } else {
                    self.settled.insert(epoch, signed.body.clone());
                }
            }
        }
        for fill in &cut.body.fills {
            let refused = of.refused(fill);
            let header = fill.item.header;
            if let Some(item) = self.all.values_mut().find(|item| item.slice.header == header) {
                // What a home fills when the mailbox has left says nothing for it.
                if item.slice.destination == fill.item.destination && epoch < of.spans[item.span].until {
                    item.refused = refused;
                }
            } else if of.spans[of.base_span].node == fill.item.destination && epoch <= self.pending_at {
                let refused = if epoch < of.spans[of.base_span].until { refused } else { Vec::new() };
                self.older.insert(header, refused);
            }
        }
        self.all.extend(of.of(cut));
    }

    /// What is pending in this epoch is looked up now.
    pub(super) fn begin(&mut self, pending_at: u64) {
        self.pending_at = pending_at;
    }

    /// Whether fills were seen whose headers stand in cuts that the base covers.
    pub(super) fn wants_older(&self) -> bool {
        !self.older.is_empty()
    }

    /// Takes note of a cut that the base covers: of its slices that were filled after the base, and of those that
    /// `is_pending` still.
    pub(super) fn older_cut(&mut self, cut: &Cut, of: &Origins<'_>, is_pending: impl Fn(&SliceKey) -> bool) {
        for (at, mut item) in of.of(cut) {
            match self.older.remove(&item.slice.header) {
                Some(refused) => item.refused = refused,
                None if is_pending(&item.slice) => {}
                None => continue,
            }
            if self.done.iter().any(|import| import.closes(&item.slice.origin, at.0)) {
                continue;
            }
            self.all.entry(at).or_insert(item);
        }
    }

    /// No cut can have what is still looked for.
    pub(super) fn forget_older(&mut self) {
        self.older.clear();
    }

    /// A node has answered for a slice: with what it holds, or that it does not have it.
    pub(super) fn answered(&mut self, header: &Digest, node: &NodeId, leaves: Option<&[SliceLeaf]>) {
        let Some(item) = self.all.values_mut().find(|item| item.slice.header == *header) else { return };
        match leaves {
            Some(leaves) => item.found(leaves),
            None if item.step == Step::Asking(*node) => {
                item.tried.push(*node);
                item.step = Step::Wanted;
            }
            None => {}
        }
    }

    /// What is not here does not come any more.
    pub(super) fn give_up(&mut self) {
        self.all.values_mut().filter(|item| item.is_open()).for_each(|item| item.step = Step::Absent);
    }

    /// An import has closed what it covers.
    fn close(&mut self, import: Import) -> Vec<((u64, u32), Item)> {
        let closed = |at: &(u64, u32), item: &Item| import.closes(&item.slice.origin, at.0);
        let (closed, open) = std::mem::take(&mut self.all).into_iter().partition(|(at, item)| closed(at, item));
        self.all = open;
        let closed: BTreeMap<(u64, u32), Item> = closed;
        self.done.push(import);
        closed.into_iter().collect()
    }

    /// Whether everything is here of the import that the cut of this epoch settled.
    pub(super) fn is_ready(&self, epoch: u64) -> bool {
        self.settled.get(&epoch).is_none_or(|import| {
            self.all.iter().all(|(at, item)| !import.closes(&item.slice.origin, at.0) || !item.is_open())
        })
    }

    /// The entries of the import that the cut of this epoch settled, in order; none if there was none.
    pub(super) fn due(&mut self, epoch: u64) -> Option<Vec<LogRow>> {
        let import = self.settled.remove(&epoch)?;
        let rows = self.close(import).into_iter().filter_map(|((of, position), item)| match item.step {
            Step::Found(leaves) => {
                let leaves: Vec<SliceLeaf> =
                    leaves.into_iter().filter(|leaf| !item.refused.contains(&leaf.index)).collect();
                let row = LogRow { settled: epoch, epoch: of, position, slice: item.slice, leaves };
                (!row.leaves.is_empty()).then_some(row)
            }
            _ => None,
        });
        Some(rows.collect())
    }

    /// Whether an import was settled whose entries are not in the log yet.
    pub(super) fn has_settled(&self) -> bool {
        !self.settled.is_empty()
    }

    /// Whether anything is not known yet: it is to be asked for, or somebody is asked. What is known to be missing is
    /// asked for beside everything else.
    pub(super) fn is_busy(&self, known_missing: &[Missing]) -> bool {
        let known = |at: &(u64, u32), item: &Item| known_missing.iter().any(|of| of.covers(&item.slice.origin, at.0));
        (self.all.iter()).any(|(at, item)| matches!(item.step, Step::Wanted | Step::Asking(_)) && !known(at, item))
    }

    /// Whether anything was found that an import up to an epoch with these gaps would close.
    pub(super) fn would_close(&self, missing: &[Missing], through: u64) -> bool {
        let covered = |at: &(u64, u32), item: &Item| missing.iter().any(|of| of.covers(&item.slice.origin, at.0));
        self.all.iter().any(|(at, item)| at.0 <= through && item.has_mail() && !covered(at, item))
    }

    /// What is not here.
    pub(super) fn failed(&self) -> impl Iterator<Item = (&(u64, u32), &Item)> {
        self.all.iter().filter(|(_, item)| item.is_open())
    }

    /// What could not be had, as ranges: one for each origin and epoch, joined until they are few enough. `before` are
    /// the ranges of the import before, with its last epoch: what it had is never missing again.
    pub(super) fn missing(&self, before: Option<(&[Missing], u64)>) -> Vec<Missing> {
        let mut ranges: BTreeMap<Missing, ()> = BTreeMap::new();
        for ((epoch, _), item) in self.failed() {
            ranges.insert(Missing { origin: item.slice.origin, from: *epoch, to: *epoch }, ());
        }
        let mut ranges: Vec<Missing> = ranges.into_keys().collect();
        // Two ranges may be joined where neither reaches over what an import has closed: both new, or both in one range
        // that was missing before.
        let side = |missing: &Missing| match before {
            Some((known, through)) if missing.from <= through => {
                known.iter().position(|known| known.covers(&missing.origin, missing.from)).map_or(0, |at| at + 1)
            }
            _ => usize::MAX,
        };
        let mut gap = 0;
        while ranges.len() > MAX_MISSING {
            let mut joined: Vec<Missing> = Vec::new();
            for next in ranges {
                match joined.last_mut() {
                    Some(last)
                        if last.origin == next.origin
                            && side(last) == side(&next)
                            && next.from - last.to <= 1 + gap =>
                    {
                        last.to = next.to;
                    }
                    _ => joined.push(next),
                }
            }
            ranges = joined;
            if gap == u64::MAX / 4 {
                break;
            }
            gap = (gap * 4 + 1).min(u64::MAX / 4);
        }
        ranges
    }

    /// Who owes what could not be had.
    pub(super) fn owed(&self) -> Vec<OwedBy> {
        let mut owed: BTreeMap<(NodeId, Vec<NodeId>), OwedBy> = BTreeMap::new();
        for ((epoch, _), item) in self.failed() {
            let origin = item.slice.origin;
            let mut holders = item.holders.clone();
            if !holders.contains(&origin) {
                holders.push(origin);
            }
            let missing = Missing { origin, from: *epoch, to: *epoch };
            let known = owed.entry((origin, holders.clone())).or_insert(OwedBy { missing, slices: 0, holders });
            known.slices += 1;
            known.missing.to = *epoch;
        }
        owed.into_values().take(MAX_MISSING).collect()
    }

    /// Below which place nothing can come late any more, as far as former homes go. What an import has named as missing
    /// bounds nothing.
    pub(super) fn settled_below(&self, known_missing: &[Missing]) -> Option<(u64, u32)> {
        let bounds = |at: &(u64, u32), item: &Item| match item.step {
            Step::Absent | Step::Found(_) if !item.has_mail() => false,
            Step::Failed | Step::Wanted | Step::Asking(_) => {
                !known_missing.iter().any(|missing| missing.covers(&item.slice.origin, at.0))
            }
            _ => true,
        };
        self.all.iter().find(|(at, item)| bounds(at, item)).map(|(at, _)| *at)
    }
}

impl Item {
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    pub(super) fn seen(&mut self) {
        self.new = false;
    }

    /// It is here: these are its leaves.
    pub(super) fn found(&mut self, leaves: &[SliceLeaf]) {
        self.step = if leaves.is_empty() { Step::Absent } else { Step::Found(leaves.to_vec()) };
    }

    /// Whether it is here and holds something that was not refused.
    fn has_mail(&self) -> bool {
        matches!(&self.step, Step::Found(leaves) if leaves.iter().any(|leaf| !self.refused.contains(&leaf.index)))
    }

    /// Whom to ask: the former home, who holds it, its origin; those that are there first.
    pub(super) fn source(&self, is_present: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        let mut all = vec![self.slice.destination];
        all.extend(self.holders.iter().copied());
        all.push(self.slice.origin);
        let left: Vec<NodeId> = all.into_iter().filter(|node| !self.tried.contains(node)).collect();
        left.iter().find(|node| is_present(node)).or(left.first()).copied()
    }
}
