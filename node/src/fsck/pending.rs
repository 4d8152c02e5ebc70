//! Slices that this node waits for, and slices that it answers for while others wait: both follow from the state.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::tables::{Holding, PENDING, PendingRow, ROOTS, SLICES, slice_key};
use postroad_protocol::Digest;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{Pending, PendingKey};
use postroad_store::StoreError;

use super::Context;
use super::cuts::{Step, Walked};
use super::report::Report;
use super::rows::{self, Found};

/// Slices for this node that are not pending any more, and whose rows may be there.
#[derive(Default)]
pub(super) struct Filled {
    /// Their fill is settled, and their entries are not in the logs yet: their rows go with the delivery.
    undelivered: Vec<(PendingKey, Pending)>,
    /// They were overdue for so long that the state forgot them.
    forgotten: BTreeSet<Digest>,
}

impl Filled {
    pub(super) fn note(&mut self, context: &Context<'_>, step: &Step<'_>) {
        let fills = &step.cut.body.fills;
        if step.cut.certified.header.epoch > context.meta.delivered {
            for fill in fills.iter().filter(|fill| fill.item.destination == context.me) {
                let key = PendingKey { destination: context.me, header: fill.item.header };
                if let Some(pending) = step.before.pending(&key) {
                    self.undelivered.push((key, pending.clone()));
                }
            }
        }
        // Only challenged slices are ever forgotten, and those are few.
        let gone = (step.before.challenges().map(|(key, _)| key))
            .filter(|key| key.destination == context.me && step.after.pending(key).is_none())
            .filter(|key| !fills.iter().any(|fill| fill.item.header == key.header));
        self.forgotten.extend(gone.map(|key| key.header));
    }
}

pub(super) fn check(
    context: &Context<'_>,
    walked: &Walked,
    filled: &Filled,
    report: &mut Report<'_>,
) -> Result<(), StoreError> {
    let Some(head) = &walked.head else {
        // What must be there is not known; the rows are counted, and named if they are damaged.
        return rows::each(context.store, PENDING, report, |key, value, report| {
            rows::parse::<PendingRow>(PENDING, key, value, report);
            Ok(())
        });
    };
    let mut awaited: BTreeMap<Digest, PendingRow> = BTreeMap::new();
    let all = head.all_pending().map(|(key, pending)| (*key, pending));
    for (key, pending) in all.chain(filled.undelivered.iter().map(|(key, pending)| (*key, pending))) {
        let slice = SliceKey {
            origin: pending.origin,
            number: pending.number,
            header: key.header,
            destination: key.destination,
        };
        if key.destination == context.me {
            let holders = pending.holders.iter().copied().filter(|node| *node != context.me).collect();
            let Pending { epoch, position, slice: root, .. } = *pending;
            awaited
                .insert(key.header, in_order(PendingRow { slice, root, epoch, position, holders, routing_epoch: 0 }));
        } else if pending.holders.contains(&context.me)
            && pending.origin != context.me
            && !pending.lost.contains(&context.me)
        {
            let row = slice_key(&slice);
            if let Found::Missing = rows::get::<Holding>(context.store, ROOTS, &row, report)? {
                report.problem(
                    SLICES,
                    &row,
                    "this node has signed for the slice, others wait for it, and it is missing",
                );
            }
        }
    }
    rows::each(context.store, PENDING, report, |key, value, report| {
        let Some(row) = rows::parse::<PendingRow>(PENDING, key, value, report) else { return Ok(()) };
        match awaited.remove(&row.slice.header) {
            _ if key != row.slice.header.0 => report.problem(PENDING, key, "it names another slice"),
            None if filled.forgotten.contains(&row.slice.header) => {}
            None => report.problem(PENDING, key, "the slice is not pending"),
            Some(right) if right != in_order(row) => {
                report.problem(PENDING, key, "it is not what the cuts say of the slice")
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    for header in awaited.keys() {
        if !report.is_damaged(PENDING, &header.0) {
            report.problem(PENDING, &header.0, "a slice is pending, and its row is missing");
        }
    }
    Ok(())
}

/// A row whose holders are in one order: this node asks witnesses first.
/// Without what the state does not say of a pending slice, or says in another order.
fn in_order(mut row: PendingRow) -> PendingRow {
    row.holders.sort();
    row.routing_epoch = 0;
    row
}
