//! Mailbox logs: what the cuts and the slices say that each must hold, row by row; the owners' acknowledgements of them.
//!
//! Only the right edge of each log is kept, so memory does not grow with the mail.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::tables::{
    ACKS, BLOCKS, LOGS, LogRow, REFUSED, SLICES, key_number, mailbox_key, place_key, slice_key,
};
use postroad_protocol::attestation::{Acknowledgement, AttestedLog, LogHead};
use postroad_protocol::block_list::BlockList;
use postroad_protocol::cut::Cut;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::receipt::{ReceiptItem, RefusedLeaf};
use postroad_protocol::record::Record;
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::{SliceKey, SliceLeaf};
use postroad_protocol::state::{PendingKey, State};
use postroad_protocol::{Digest, MailboxId, Signed};
use postroad_store::StoreError;

use super::Context;
use super::attestations::{Attestations, Attested};
use super::cuts::{Step, Walked};
use super::moves::{self, ArrivedLog, Movers, Turn};
use super::report::Report;
use super::rows::{self, Found};
use super::slices::{self, Loaded};

/// The logs, as far as the cuts are walked.
pub(super) struct Logs {
    logs: BTreeMap<MailboxId, MailboxLog>,
    acknowledged: BTreeMap<MailboxId, Signed<Acknowledgement>>,
    /// Slices without which some entries cannot be recomputed.
    lost: BTreeSet<SliceKey>,
    /// Those among them that are not on the disk, by header, until this node admits that it lost them.
    missing: BTreeMap<Digest, SliceKey>,
    attestations: Attestations,
    movers: Movers,
    /// Mailboxes that have moved here: what was before is not recomputed from cuts.
    arrived: BTreeSet<MailboxId>,
    /// Rows that are not there, of mailboxes that may have left.
    gone: Vec<(MailboxId, Vec<u8>)>,
}

#[derive(Default)]
struct MailboxLog {
    frontier: Frontier,
    last_epoch: u64,
    /// A row of it was wrong, or could not be recomputed.
    is_doubtful: bool,
}

/// A slice whose entries a cut makes this node owe to its mailboxes.
struct Owed {
    slice: SliceKey,
    root: Digest,
    epoch: u64,
    position: u32,
    /// What the receipt or fill in the cut refuses.
    refused: Vec<RefusedLeaf>,
}

impl Logs {
    pub(super) fn read(context: &Context<'_>, report: &mut Report<'_>) -> Result<Logs, StoreError> {
        let mut acknowledged = BTreeMap::new();
        rows::each(context.store, ACKS, report, |key, value, report| {
            let Some(signed) = rows::parse::<Signed<Acknowledgement>>(ACKS, key, value, report) else {
                return Ok(());
            };
            if key != signed.body.mailbox.0 {
                report.problem(ACKS, key, "it is another mailbox's acknowledgement");
                return Ok(());
            }
            if let Err(error) = signed.verify(context.federation) {
                report.problem(ACKS, key, error);
            }
            acknowledged.insert(signed.body.mailbox, signed);
            Ok(())
        })?;
        rows::each(context.store, BLOCKS, report, |key, value, report| {
            let Some(signed) = rows::parse::<Signed<BlockList>>(BLOCKS, key, value, report) else { return Ok(()) };
            if key != signed.body.mailbox.0 {
                report.problem(BLOCKS, key, "it is another mailbox's block list");
            } else if let Err(error) = signed.verify(context.federation) {
                report.problem(BLOCKS, key, error);
            }
            Ok(())
        })?;
        rows::each(context.store, REFUSED, report, |key, value, report| {
            rows::parse::<u64>(REFUSED, key, value, report);
            Ok(())
        })?;
        Ok(Logs {
            logs: BTreeMap::new(),
            acknowledged,
            lost: BTreeSet::new(),
            missing: BTreeMap::new(),
            attestations: Attestations::default(),
            movers: Movers::default(),
            arrived: BTreeSet::new(),
            gone: Vec::new(),
        })
    }

    /// A cut is walked over: what it makes this node owe is in the logs, if this node says that it has delivered it.
    pub(super) fn settle(
        &mut self,
        context: &Context<'_>,
        step: &Step<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let epoch = step.cut.certified.header.epoch;
        for record in &step.cut.body.records {
            match record {
                Record::Register(signed) if signed.owner.body.home == context.me => {
                    self.logs.entry(signed.owner.body.mailbox).or_default();
                    self.attest(signed.owner.body.mailbox);
                }
                Record::Lost(lost) if lost.body.holder == context.me => {
                    self.missing.remove(&lost.body.header);
                }
                _ => {}
            }
        }
        for (mailbox, turn) in self.movers.turns(context, step) {
            self.attestations.remove(&mailbox);
            if turn == Turn::Arrived {
                self.arrived.insert(mailbox);
            }
        }
        for owed in owed(context, step.cut, step.before) {
            if !owed.refused.is_empty() {
                let key = place_key(owed.epoch, owed.position);
                let found = rows::get::<u64>(context.store, REFUSED, &key, report)?;
                if !matches!(found, Found::Here(settled) if settled == epoch) {
                    report.problem(REFUSED, &key, "it does not name the cut that settled this node's refusals");
                }
            }
            if epoch <= context.meta.delivered {
                self.deliver(context, epoch, &owed, step.after, report)?;
            }
        }
        let is_known = self.arrived.is_empty() && self.lost.is_empty();
        let decisive = self.acknowledged.is_empty() && is_known && !context.kept.has_expired();
        self.attestations.walk(context, step.cut, decisive, report);
        Ok(())
    }

    fn deliver(
        &mut self,
        context: &Context<'_>,
        settled: u64,
        owed: &Owed,
        after: &State,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let index = match slices::load(context, &owed.slice, owed.root, settled, report)? {
            Loaded::Here(index) => index,
            not_here => {
                self.lost.insert(owed.slice);
                if let Loaded::Missing = not_here {
                    self.missing.insert(owed.slice.header, owed.slice);
                }
                return Ok(());
            }
        };
        for (mailbox, leaves) in index.leaves() {
            let is_refused = |leaf: &SliceLeaf| {
                owed.refused.iter().any(|refused| (refused.index, refused.mailbox) == (leaf.index, *mailbox))
            };
            let leaves: Vec<SliceLeaf> = leaves.iter().filter(|leaf| !is_refused(leaf)).copied().collect();
            let is_here = after.home(mailbox) == Some(context.me) && !self.arrived.contains(mailbox);
            if is_here && !leaves.is_empty() {
                let Owed { slice, epoch, position, .. } = *owed;
                let right = LogRow { settled, epoch, position, slice, leaves };
                self.append(context, mailbox, right, report)?;
            }
        }
        Ok(())
    }

    /// Compares the row that comes next in a log with what it must be.
    fn append(
        &mut self,
        context: &Context<'_>,
        mailbox: &MailboxId,
        right: LogRow,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        loop {
            let log = self.logs.entry(*mailbox).or_default();
            let at = log.frontier.size();
            let key = mailbox_key(mailbox, at);
            match rows::get::<LogRow>(context.store, LOGS, &key, report)? {
                Found::Here(row) if row == right => {}
                Found::Here(row) if self.lost.contains(&row.slice) => {
                    // It cannot be recomputed; what comes after it still can.
                    log.is_doubtful = true;
                    self.push(mailbox, &row, report);
                    continue;
                }
                Found::Here(_) => {
                    log.is_doubtful = true;
                    report.problem(LOGS, &key, "the entries are not those that cuts and slices make of it");
                }
                Found::Missing => {
                    log.is_doubtful = true;
                    self.gone.push((*mailbox, key));
                }
                Found::Damaged => log.is_doubtful = true,
            }
            self.push(mailbox, &right, report);
            return Ok(());
        }
    }

    fn push(&mut self, mailbox: &MailboxId, row: &LogRow, report: &mut Report<'_>) {
        let Some(log) = self.logs.get_mut(mailbox) else { return };
        let acknowledged = self.acknowledged.get(mailbox).map(|signed| signed.body.log);
        for leaf in row.log_leaves() {
            log.frontier.append(leaf.hash());
            let size = log.frontier.size();
            if let Some(head) = acknowledged.filter(|head| head.size == size && head.root != log.frontier.root()) {
                report.problem(ACKS, &mailbox.0, format_args!("the log of {} entries has another root", head.size));
            }
        }
        log.last_epoch = row.settled;
        self.attest(*mailbox);
    }

    /// Tells the attestations how a log stands.
    fn attest(&mut self, mailbox: MailboxId) {
        let Some(log) = self.logs.get(&mailbox) else { return };
        let plain = AttestedLog {
            log: LogHead { size: log.frontier.size(), root: log.frontier.root() },
            last_epoch: log.last_epoch,
            expired_to: 0,
            acknowledged: None,
        };
        let acknowledged = self.acknowledged.get(&mailbox).filter(|signed| signed.body.log.size <= plain.log.size);
        self.attestations.set(mailbox, plain, acknowledged);
    }

    /// After the walk: nothing is in the logs that no cut put there.
    pub(super) fn finish(
        mut self,
        context: &Context<'_>,
        walked: &Walked,
        report: &mut Report<'_>,
    ) -> Result<Attested, StoreError> {
        for slice in self.missing.values() {
            report.problem(SLICES, &slice_key(slice), "a slice whose entries are in the logs is missing");
        }
        for mailbox in self.logs.keys().copied().collect::<Vec<_>>() {
            // Rows at the end of a log that cannot be recomputed.
            let next = |logs: &Logs| mailbox_key(&mailbox, logs.logs[&mailbox].frontier.size());
            while let Found::Here(row) = rows::get::<LogRow>(context.store, LOGS, &next(&self), report)?
                && self.lost.contains(&row.slice)
            {
                self.push(&mailbox, &row, report);
            }
        }
        let me = context.me;
        let has_left = |mailbox: &MailboxId| {
            let known = walked.head.as_ref().and_then(|head| head.mailbox(mailbox));
            known.is_some_and(|known| known.home != me && known.moved.is_some())
        };
        for (_, key) in self.gone.iter().filter(|(mailbox, _)| !has_left(mailbox)) {
            report.problem(LOGS, key, "entries that this node has delivered are missing");
        }
        let edges = moves::check(context, report)?;
        let mut arrived: BTreeMap<MailboxId, ArrivedLog> = BTreeMap::new();
        if let Some(head) = &walked.head {
            let here = self.arrived.iter().filter(|mailbox| !has_left(mailbox));
            arrived.extend(here.map(|mailbox| (*mailbox, ArrivedLog::new(*mailbox, edges.get(mailbox), head))));
        }
        let mut end: Option<(MailboxId, u64)> = None;
        rows::each(context.store, LOGS, report, |key, value, report| {
            let row = rows::parse::<LogRow>(LOGS, key, value, report);
            let Some(mailbox) = key.first_chunk().map(|bytes| MailboxId::from(*bytes)).filter(|_| key.len() == 40)
            else {
                report.problem(LOGS, key, "the key names no mailbox and index");
                return Ok(());
            };
            let start = key_number(key);
            if let Some(log) = arrived.get_mut(&mailbox) {
                let Some(row) = row else { return Ok(()) };
                return log.row(context, start, &row, self.acknowledged.get(&mailbox), report);
            }
            let expected = match end {
                Some((known, end)) if known == mailbox => Some(end),
                _ => Some(0),
            };
            end = row.map(|row| (mailbox, start + row.leaves.len() as u64));
            if walked.head.is_none() {
                return Ok(());
            }
            let Some(log) = self.logs.get(&mailbox) else {
                if !self.arrived.contains(&mailbox) && !moves::is_arriving(context, &mailbox, report)? {
                    report.problem(LOGS, key, "the mailbox does not live here");
                }
                return Ok(());
            };
            // Where it has left, what was delivered after the last attestation is the new home's.
            if has_left(&mailbox) {
                return Ok(());
            }
            let is_next = expected.is_none_or(|expected| expected == start);
            if start >= log.frontier.size() || (!is_next && !log.is_doubtful) {
                report.problem(LOGS, key, "entries that no cut makes this node owe");
            }
            Ok(())
        })?;
        if walked.head.is_some() {
            for (mailbox, signed) in self.acknowledged.iter().filter(|(mailbox, _)| !has_left(mailbox)) {
                let known = self.logs.get(mailbox).map_or(0, |log| log.frontier.size());
                let size = arrived.get(mailbox).map_or(known, ArrivedLog::size);
                if signed.body.log.size > size && self.lost.is_empty() {
                    report.problem(ACKS, &mailbox.0, format_args!("the log has {size} entries only"));
                }
            }
        }
        Ok(self.attestations.attested())
    }
}

/// What a cut makes this node owe, in log order: fills by the numbers of their headers, then headers.
fn owed(context: &Context<'_>, cut: &Cut, before: &State) -> Vec<Owed> {
    let me = context.me;
    let mut owed: Vec<Owed> = Vec::new();
    for fill in cut.body.fills.iter().filter(|fill| fill.item.destination == me) {
        let ReceiptItem { header, slice: root, .. } = fill.item;
        let refused = fill.item.refused.clone();
        let Some(pending) = before.pending(&PendingKey { destination: me, header }) else { continue };
        let slice = SliceKey { origin: pending.origin, number: pending.number, header, destination: me };
        owed.push(Owed { slice, root, epoch: pending.epoch, position: pending.position, refused });
    }
    owed.sort_by_key(|owed| (owed.epoch, owed.position));
    for (position, sealed) in cut.body.headers.iter().enumerate() {
        let header = &sealed.header.body;
        let digest = sealed.digest(context.federation);
        for (named, custody) in header.slices.iter().zip(&sealed.custody) {
            let kind = custody.check(header, digest, named, context.federation);
            if named.destination == me && kind.is_ok_and(|kind| kind.delivered) {
                let slice = SliceKey { origin: header.origin, number: header.number, header: digest, destination: me };
                let epoch = cut.certified.header.epoch;
                let refused = custody.receipts.first().map_or(Vec::new(), |receipt| receipt.item.refused.clone());
                owed.push(Owed { slice, root: named.root, epoch, position: position as u32, refused });
            }
        }
    }
    owed
}
