//! What was under way when the mailbox moved: looked for in cuts, fetched, and closed by imports.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use postroad_protocol::cut::Cut;
use postroad_protocol::moving::{Import, LogRow, MAX_MISSING, Missing, MovePhase};
use postroad_protocol::record::Record;
use postroad_protocol::signed::{Signed, Statement};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{MailboxState, Moved, PendingKey};
use postroad_protocol::wire::call::MAX_EXTRACTS;
use postroad_protocol::wire::client::Overdue;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};
use postroad_store::{Read, StoreError, Write};

use super::items::{Origins, Step};
use super::{Arrivals, Arriving, Extracted, Resolved, Steps, Surroundings};
use crate::io::{Output, Time};
use crate::slices::settled_by;
use crate::tables::{self, CUTS, EXTRACTS, Expiring};

/// Cuts that one step looks through, at most.
const MAX_CUTS: usize = 64;
/// How long an import waits for what nobody has, before it names that as missing.
const FAILED_PATIENCE_MS: u64 = 1_000;
/// Time after which what nobody had is asked for again.
const RETRY_MS: u64 = 3_000;

/// An import that is being signed or waits for its cut.
#[derive(Debug)]
pub(super) struct Signing {
    token: u64,
    body: Import,
    signed: Option<Signed<Import>>,
}

impl Signing {
    pub(super) fn digest(&self, federation: &Federation) -> Digest {
        self.body.digest(federation.id())
    }
}

impl Arrivals {
    /// What a node has answered for slices that it was asked for. Returns what to write.
    pub fn extracted(
        &mut self,
        mailbox: &MailboxId,
        node: &NodeId,
        asked: &[SliceKey],
        found: &[Extracted],
        head: u64,
        now: Time,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        let Some(arriving) = self.all.get_mut(mailbox) else { return writes };
        for key in asked {
            let extracted = found.iter().find(|extracted| extracted.key == *key);
            arriving.items.answered(&key.header, node, extracted.map(|extracted| extracted.leaves.as_slice()));
            let Some(extracted) = extracted else { continue };
            arriving.looked += 1;
            arriving.recovered += extracted.leaves.len() as u64;
            if !extracted.leaves.is_empty() {
                let until = settled_by(head, &self.federation);
                writes.push(tables::put(EXTRACTS, tables::extract_key(mailbox, key), &*extracted.extract));
                writes.push(tables::expiring(until, key.header, *mailbox, &Expiring::Extract(*mailbox, *key)));
            }
        }
        self.next = self.next.min(now);
        writes
    }

    /// Rows up to `token` are durable: signs the imports that wait for that.
    pub fn persisted(&mut self, token: u64) -> Vec<Record> {
        let waiting = self.all.values_mut().filter_map(|arriving| arriving.import.as_mut());
        let waiting = waiting.filter(|signing| signing.signed.is_none() && signing.token <= token);
        let signed = waiting.map(|signing| {
            let signed = Signed::sign(signing.body.clone(), &self.secret, &self.federation).into_inner();
            signing.signed = Some(signed.clone());
            Record::Import(signed)
        });
        signed.collect()
    }

    /// Whether everything is here of the imports that the cut of this epoch settled, for these mailboxes.
    pub fn is_ready(&self, epoch: u64, mailboxes: &[MailboxId]) -> bool {
        mailboxes.iter().all(|mailbox| {
            // One that is about to come again has lived here before; what was settled then is not its arrival's.
            let coming = self.all.get(mailbox).filter(|arriving| arriving.row.phase >= MovePhase::Importing);
            coming.is_none_or(|arriving| {
                arriving.row.whole.is_some() && arriving.scanned >= Some(epoch) && arriving.items.is_ready(epoch)
            })
        })
    }

    /// The entries of the imports that the cut of this epoch settled, for these mailboxes, once they are ready.
    pub fn due(&mut self, epoch: u64, mailboxes: &[MailboxId]) -> Vec<(MailboxId, LogRow)> {
        let mut due = Vec::new();
        for mailbox in mailboxes {
            let rows = self.all.get_mut(mailbox).and_then(|arriving| arriving.items.due(epoch));
            due.extend(rows.into_iter().flatten().map(|row| (*mailbox, row)));
        }
        due
    }

    /// For each mailbox whose former homes may still have mail for it: the place below which none can come, and what
    /// could not be had.
    pub fn unsettled(&self, head: &postroad_protocol::state::State) -> BTreeMap<MailboxId, Unsettled> {
        let mut unsettled = BTreeMap::new();
        for (mailbox, arriving) in &self.all {
            let Some(known) = head.mailbox(mailbox).filter(|known| known.home == self.me) else { continue };
            let Some(moved) = &known.moved else { continue };
            let missing = moved.import.as_ref().map_or(&[][..], |import| &import.missing);
            let below = match arriving.scanned {
                Some(scanned)
                    if (moved.import.is_some() || known.since <= scanned) && !arriving.items.wants_older() =>
                {
                    // What the next cuts hold is not looked at yet.
                    let next = (scanned + 1, 0);
                    Some(arriving.items.settled_below(missing).map_or(next, |below| below.min(next)))
                }
                _ => Some((moved.spans.first().map_or(0, |span| span.since), 0)),
            };
            let failed = arriving.items.failed();
            let failed = failed.filter(|(at, item)| missing.iter().any(|of| of.covers(&item.slice.origin, at.0)));
            let overdue = failed.map(|((epoch, position), item)| Overdue {
                epoch: *epoch,
                position: *position,
                origin: item.slice.origin,
                holders: item.holders.clone(),
            });
            let overdue: Vec<Overdue> = overdue.take(64).collect();
            if below.is_some() || !overdue.is_empty() {
                unsettled.insert(*mailbox, Unsettled { below, overdue });
            }
        }
        unsettled
    }

    /// The log is whole: goes on with what was under way. Returns whether nothing can come any more.
    pub(super) fn import(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        known: &MailboxState,
        moved: &Moved,
        around: &Surroundings<'_>,
        steps: &mut Steps,
    ) -> Result<bool, StoreError> {
        let Some(whole) = arriving.row.whole.clone() else { return Ok(false) };
        let Some(base_span) = moved.base_span(whole.base.as_ref()) else {
            arriving.reason = Some("the log that was taken over is not one that the state knows of".into());
            return Ok(false);
        };
        let of = Origins::new(*mailbox, self.me, &moved.spans, whole.base.as_ref(), base_span, &self.federation);
        let is_caught_up = self.look(arriving, &of, around)?;
        self.recall(mailbox, arriving, around.store)?;
        self.ask(mailbox, arriving, moved, around, steps);
        if !is_caught_up {
            return Ok(false);
        }
        let window = self.federation.params().routing_window_epochs;
        let last = moved.import.as_ref();
        if last.is_some() {
            arriving.row.phase = MovePhase::Following;
        }
        if moved.is_finished(window) && last.is_some_and(|last| last.epoch <= around.delivered) {
            return Ok(!arriving.items.has_settled());
        }
        let previous = moved.follows();
        if let Some(signing) = arriving.import.take_if(|signing| signing.body.previous == previous) {
            if let Some(signed) = signing.signed.clone().filter(|_| arriving.hands_in(around.now)) {
                steps.records.push(Record::Import(signed));
            }
            arriving.import = Some(signing);
            return Ok(false);
        }
        arriving.import = None;
        if arriving.items.has_settled() {
            return Ok(false);
        }
        let known_missing = last.map_or(&[][..], |last| &last.missing);
        if around.head.epoch < known.since || arriving.items.is_busy(known_missing) {
            return Ok(false);
        }
        let missing = arriving.items.missing(last.map(|last| (last.missing.as_slice(), last.through)));
        let (missing, through) = as_far_as_it_fits(missing, around.head.epoch);
        if through < last.map_or(known.since, |last| last.through) {
            arriving.reason = Some(format!("mail of more than {MAX_MISSING} origins could not be had"));
            return Ok(false);
        }
        let is_new = |missing: &Missing| !known_missing.iter().any(|known| known.covers(&missing.origin, missing.from));
        if missing.iter().any(is_new) {
            let since = *arriving.failed_since.get_or_insert(around.now);
            if around.now < since.after_ms(FAILED_PATIENCE_MS) {
                return Ok(false);
            }
        }
        arriving.failed_since = None;
        let until = moved.spans.last().map_or(0, |span| span.until);
        let finishes = missing.is_empty() && through >= until.saturating_add(window) - 1;
        if last.is_none() || finishes || arriving.items.would_close(&missing, through) {
            arriving.row.resolved = Some(Resolved { through, missing: missing.clone() });
            let body = Import { mailbox: *mailbox, home: self.me, previous, base: whole.base, through, missing };
            arriving.import = Some(Signing { token: around.token, body, signed: None });
            arriving.handed_in = Some(around.now);
        }
        Ok(false)
    }

    /// Looks through cuts. Returns whether all were.
    pub(super) fn look(
        &self,
        arriving: &mut Arriving,
        of: &Origins<'_>,
        around: &Surroundings<'_>,
    ) -> Result<bool, StoreError> {
        let cut = |epoch: u64| around.cuts.get(epoch, around.store);
        let is_pending = |slice: &SliceKey| {
            let key = PendingKey { destination: slice.destination, header: slice.header };
            around.head.pending(&key).is_some()
        };
        let node = of.spans[of.base_span].node;
        let mut scanned = match arriving.scanned {
            Some(scanned) => scanned,
            None => {
                let pending = around
                    .head
                    .all_pending()
                    .filter(|(key, pending)| key.destination == node && pending.epoch <= of.base_epoch);
                let epochs: BTreeSet<u64> = pending.map(|(_, pending)| pending.epoch).collect();
                for epoch in epochs {
                    let Some(cut) = cut(epoch)? else { return Ok(false) };
                    arriving.items.older_cut(&cut, of, is_pending);
                }
                arriving.items.begin(around.head.epoch);
                arriving.older = None;
                of.base_epoch
            }
        };
        let end = around.head.epoch.min(scanned.saturating_add(MAX_CUTS as u64));
        while scanned < end {
            let Some(cut) = cut(scanned + 1)? else { break };
            arriving.items.cut(&cut, of, around.delivered);
            scanned += 1;
        }
        arriving.scanned = Some(scanned);
        if scanned < around.head.epoch {
            return Ok(false);
        }
        if arriving.items.wants_older() {
            let first = of.spans[of.base_span].since;
            let mut next = arriving.older.unwrap_or(of.base_epoch);
            for _ in 0..MAX_CUTS {
                if next <= first || !arriving.items.wants_older() {
                    arriving.items.forget_older();
                    break;
                }
                let Some(cut) = cut(next)? else { return Ok(false) };
                if self.is_past_retention(&cut, around) {
                    arriving.items.forget_older();
                    break;
                }
                arriving.items.older_cut(&cut, of, |_| false);
                next -= 1;
            }
            arriving.older = Some(next);
            return Ok(!arriving.items.wants_older());
        }
        arriving.older = None;
        Ok(true)
    }

    fn is_past_retention(&self, cut: &Cut, around: &Surroundings<'_>) -> bool {
        let retention_ms = self.federation.params().retention_ms;
        cut.certified.header.age_ms.saturating_add(retention_ms) < around.head.age_ms
    }

    /// What is here already, or was known to hold nothing when an import was signed.
    pub(super) fn recall(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        store: &dyn Read,
    ) -> Result<(), StoreError> {
        let resolved = arriving.row.resolved.clone();
        for (at, item) in arriving.items.all.iter_mut().filter(|(_, item)| item.is_new()) {
            item.seen();
            let row = tables::extract_key(mailbox, &item.slice);
            let extract: Option<postroad_protocol::moving::Extract> = match tables::get(store, EXTRACTS, &row) {
                Err(StoreError::Corrupt { .. }) => None,
                found => found?,
            };
            if let Some(extract) = extract {
                let leaves = extract.body.leaves_of(mailbox, &extract.header.body, &self.federation);
                item.found(&leaves.unwrap_or_default());
            } else if resolved.as_ref().is_some_and(|resolved| {
                at.0 <= resolved.through
                    && !resolved.missing.iter().any(|missing| missing.covers(&item.slice.origin, at.0))
            }) {
                item.step = Step::Absent;
            }
        }
        Ok(())
    }

    /// Asks whoever may have what is not here.
    fn ask(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        moved: &Moved,
        around: &Surroundings<'_>,
        steps: &mut Steps,
    ) {
        let without = arriving.row.patience_ms == 0;
        let building = &arriving.building;
        let is_present = |node: &NodeId| {
            let given_up = without && moved.spans.iter().any(|span| span.node == *node) || building.gave_up(node);
            *node == self.me || !given_up && (around.is_present)(node)
        };
        if around.now >= arriving.retry_at {
            arriving.retry_at = around.now.after_ms(RETRY_MS);
            for item in arriving.items.all.values_mut().filter(|item| item.step == Step::Failed) {
                item.tried.clear();
                item.step = Step::Wanted;
            }
        }
        let asked = arriving.items.all.values().filter_map(|item| match &item.step {
            Step::Asking(node) => Some(*node),
            _ => None,
        });
        let asked: BTreeSet<NodeId> = asked.collect();
        let mut wanted: BTreeMap<NodeId, Vec<SliceKey>> = BTreeMap::new();
        for item in arriving.items.all.values_mut().filter(|item| item.step == Step::Wanted) {
            let Some(node) = item.source(is_present) else {
                item.step = Step::Failed;
                continue;
            };
            let slices = wanted.entry(node).or_default();
            if !asked.contains(&node) && slices.len() < MAX_EXTRACTS {
                slices.push(item.slice);
                item.step = Step::Asking(node);
            }
        }
        for (node, slices) in wanted.into_iter().filter(|(_, slices)| !slices.is_empty()) {
            steps.outputs.push(Output::AskExtracts(node, *mailbox, slices));
        }
    }
}

/// Cuts that were read from the store, for whoever looks through the same ones next.
#[derive(Debug, Default)]
pub struct Cuts(RefCell<BTreeMap<u64, Rc<Cut>>>);

impl Cuts {
    /// The cut of an epoch. One that is damaged is fetched again by whoever serves it.
    fn get(&self, epoch: u64, store: &dyn Read) -> Result<Option<Rc<Cut>>, StoreError> {
        let mut known = self.0.borrow_mut();
        if let Some(cut) = known.get(&epoch) {
            return Ok(Some(Rc::clone(cut)));
        }
        let cut = match tables::get(store, CUTS, &tables::number_key(epoch)) {
            Ok(Some(cut)) => Rc::new(cut),
            Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if known.len() >= MAX_CUTS {
            known.pop_first();
        }
        known.insert(epoch, Rc::clone(&cut));
        Ok(Some(cut))
    }
}

/// What an import can name as missing, and the last epoch that it can reach then, up to `through`: it ends before what it
/// has no room for.
fn as_far_as_it_fits(mut missing: Vec<Missing>, through: u64) -> (Vec<Missing>, u64) {
    let mut first: Vec<u64> = missing.iter().map(|missing| missing.from).collect();
    first.sort_unstable();
    let through = first.get(MAX_MISSING).map_or(through, |from| through.min(from.saturating_sub(1)));
    missing.retain(|missing| missing.from <= through);
    missing.iter_mut().for_each(|missing| missing.to = missing.to.min(through));
    (missing, through)
}

/// What former homes may still have for a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The place below which none of it is; none if there is nothing but what could not be had.
    pub below: Option<(u64, u32)>,
    /// What could not be had, as an import has said.
    pub overdue: Vec<Overdue>,
}

#[cfg(test)]
mod tests {
    use postroad_protocol::SecretKey;

    use super::*;

    #[test]
    fn an_import_ends_before_what_it_cannot_name() {
        let origin = |seed: u64| SecretKey::from_seed([seed as u8; 32]).public();
        let ranges = |count: u64| -> Vec<Missing> {
            (0..count).map(|at| Missing { origin: origin(at), from: 100 + at, to: 300 }).collect()
        };
        let room = MAX_MISSING as u64;
        assert_eq!(as_far_as_it_fits(ranges(room), 400), (ranges(room), 400));
        let (missing, through) = as_far_as_it_fits(ranges(room + 10), 400);
        assert_eq!((missing.len(), through), (MAX_MISSING, 100 + room - 1));
        assert!(missing.iter().all(|missing| missing.from <= missing.to && missing.to == through));
        // All of one cut: there is no such end.
        let all_at_once = ranges(room + 1).into_iter().map(|missing| Missing { from: 100, ..missing }).collect();
        assert_eq!(as_far_as_it_fits(all_at_once, 400), (Vec::new(), 99));
    }
}
