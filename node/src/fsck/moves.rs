//! Mailboxes that have moved: what came for them from former homes is proven, and a log that did not begin here is whole
//! from its edge on, continues the log that its import names, and has its messages. What a former home keeps may be
//! forgotten in part.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::arrivals::Arrival;
use postroad_engine::departures::Departure;
use postroad_engine::tables::{
    ACKS, ARRIVALS, DEPARTURES, EDGES, EXTRACTS, Edge, LOGS, LogRow, SLICES, WAITING, extract_key, mailbox_key,
    slice_key,
};
use postroad_protocol::attestation::{Acknowledgement, LogHead};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::Extract;
use postroad_protocol::record::Record;
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::SliceLeaf;
use postroad_protocol::state::State;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{MailboxId, Signed};
use postroad_store::StoreError;

use super::Context;
use super::cuts::Step;
use super::report::Report;
use super::rows::{self, Found};

/// What a cut has done with a mailbox, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not live here any more.
    Left,
    /// It lives here from now on.
    Arrived,
}

/// Mailboxes for which an owner has signed a switch: others do not move.
#[derive(Default)]
pub(super) struct Movers {
    ordered: BTreeSet<MailboxId>,
}

impl Movers {
    /// The mailboxes that a cut has moved from here or here.
    pub(super) fn turns(&mut self, context: &Context<'_>, step: &Step<'_>) -> Vec<(MailboxId, Turn)> {
        let orders = step.cut.body.records.iter().filter_map(|record| match record {
            Record::Move(order) => Some(order.switch.mailbox),
            _ => None,
        });
        self.ordered.extend(orders);
        let lives = |state: &State, mailbox: &MailboxId| state.home(mailbox) == Some(context.me);
        let turn = |mailbox: &MailboxId| match (lives(step.before, mailbox), lives(step.after, mailbox)) {
            // A mailbox can only move when it is registered.
            (false, true) if step.before.home(mailbox).is_some() => Some((*mailbox, Turn::Arrived)),
            (true, false) => Some((*mailbox, Turn::Left)),
            _ => None,
        };
        self.ordered.iter().filter_map(turn).collect()
    }
}

/// Reads the tables that only mailboxes that move have, and returns where logs begin.
pub(super) fn check(context: &Context<'_>, report: &mut Report<'_>) -> Result<BTreeMap<MailboxId, Edge>, StoreError> {
    let mut edges = BTreeMap::new();
    rows::each(context.store, EDGES, report, |key, value, report| {
        let edge = rows::parse::<Edge>(EDGES, key, value, report);
        edges.extend(mailbox_of(key).zip(edge));
        Ok(())
    })?;
    rows::each(context.store, EXTRACTS, report, |key, value, report| {
        let Some(extract) = rows::parse::<Extract>(EXTRACTS, key, value, report) else { return Ok(()) };
        let Some(mailbox) = mailbox_of(key) else {
            report.problem(EXTRACTS, key, "the key names no mailbox");
            return Ok(());
        };
        if key != extract_key(&mailbox, &extract.key(context.federation)) {
            report.problem(EXTRACTS, key, "it is of another slice");
        } else if let Err(error) = extract.verify(&mailbox, context.federation) {
            report.problem(EXTRACTS, key, error);
        }
        Ok(())
    })?;
    rows::each(context.store, ARRIVALS, report, |key, value, report| {
        let Some(arrival) = rows::parse::<Arrival>(ARRIVALS, key, value, report) else { return Ok(()) };
        let Some(mailbox) = mailbox_of(key) else {
            report.problem(ARRIVALS, key, "the key names no mailbox");
            return Ok(());
        };
        if let Some(order) = &arrival.order {
            if mailbox != order.switch.mailbox || order.switch.home != context.me {
                report.problem(ARRIVALS, key, "it is the order of another mailbox, or to another node");
            } else if arrival.record != order.digest(context.federation) {
                report.problem(ARRIVALS, key, "it is not the order's digest");
            } else if let Err(error) = order.verify(context.federation) {
                report.problem(ARRIVALS, key, error);
            }
        }
        if let Some(Err(error)) = arrival.owner.map(|owner| owner.verify(&mailbox, context.federation)) {
            report.problem(ARRIVALS, key, error);
        }
        Ok(())
    })?;
    rows::each(context.store, WAITING, report, |key, value, report| {
        rows::parse::<LogRow>(WAITING, key, value, report);
        Ok(())
    })?;
    rows::each(context.store, DEPARTURES, report, |key, value, report| {
        let Some(departure) = rows::parse::<Departure>(DEPARTURES, key, value, report) else { return Ok(()) };
        let (Some(mailbox), Some(attested)) = (mailbox_of(key), departure.attested) else { return Ok(()) };
        if attested.anchor.is_none() || attested.attestation.body.epoch >= departure.until {
            report.problem(DEPARTURES, key, "it is no final attestation of a time in which the mailbox lived here");
        } else if let Err(error) = attested.verify(&mailbox, &context.me, context.federation) {
            report.problem(DEPARTURES, key, error);
        }
        Ok(())
    })?;
    Ok(edges)
}

/// Whether a mailbox is on its way here, so that parts of its log may be here already.
pub(super) fn is_arriving(
    context: &Context<'_>,
    mailbox: &MailboxId,
    report: &mut Report<'_>,
) -> Result<bool, StoreError> {
    let found = rows::get::<Arrival>(context.store, ARRIVALS, &mailbox.0, report)?;
    Ok(!matches!(found, Found::Missing))
}

fn mailbox_of(key: &[u8]) -> Option<MailboxId> {
    key.first_chunk().map(|bytes| MailboxId::from(*bytes))
}

/// A log that did not begin here, row by row.
pub(super) struct ArrivedLog {
    mailbox: MailboxId,
    frontier: Frontier,
    expired_to: u64,
    /// The log that it continues.
    base: Option<LogHead>,
}

impl ArrivedLog {
    /// The log of a mailbox that lives here as of `head`.
    pub(super) fn new(mailbox: MailboxId, edge: Option<&Edge>, head: &State) -> ArrivedLog {
        let moved = head.mailbox(&mailbox).and_then(|known| known.moved.as_ref());
        let import = moved.and_then(|moved| moved.import.as_ref());
        ArrivedLog {
            mailbox,
            frontier: edge.map_or_else(Frontier::new, |edge| edge.frontier.clone()),
            expired_to: edge.map_or(0, |edge| edge.expired_to),
            base: import.and_then(|import| import.base).map(|base| base.log),
        }
    }

    /// How many entries it has.
    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The row that begins at `start`.
    pub(super) fn row(
        &mut self,
        context: &Context<'_>,
        start: u64,
        row: &LogRow,
        acknowledged: Option<&Signed<Acknowledgement>>,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let key = mailbox_key(&self.mailbox, start);
        if start != self.frontier.size() {
            report.problem(LOGS, &key, "the entries before it are missing");
            return Ok(());
        }
        for leaf in row.log_leaves() {
            self.frontier.append(leaf.hash());
            let here = LogHead { size: self.frontier.size(), root: self.frontier.root() };
            if self.base.is_some_and(|base| base.size == here.size && base != here) {
                report.problem(LOGS, &key, "the log does not continue the one that its import names");
            }
            if acknowledged.is_some_and(|signed| signed.body.log.size == here.size && signed.body.log != here) {
                let what = format_args!("the log of {} entries has another root", here.size);
                report.problem(ACKS, &self.mailbox.0, what);
            }
        }
        let may_be_gone = self.frontier.size() <= self.expired_to || context.kept.slice_may_be_gone(row.settled);
        match self.messages(context, row, report)? {
            Some(leaves) if !row.leaves.iter().all(|leaf| leaves.contains(leaf)) => {
                report.problem(LOGS, &key, "the entries are not those of the slice that they name");
            }
            None if !may_be_gone => report.problem(LOGS, &key, "the messages of its entries are missing"),
            _ => {}
        }
        Ok(())
    }

    /// The mailbox's leaves in the slice of a row; none where that is not here. One that is damaged is told of elsewhere.
    fn messages(
        &self,
        context: &Context<'_>,
        row: &LogRow,
        report: &mut Report<'_>,
    ) -> Result<Option<Vec<SliceLeaf>>, StoreError> {
        let key = extract_key(&self.mailbox, &row.slice);
        match rows::get::<Extract>(context.store, EXTRACTS, &key, report)? {
            Found::Here(extract) => {
                let leaves = extract.verify(&self.mailbox, context.federation);
                return Ok(Some(leaves.unwrap_or_else(|_| row.leaves.clone())));
            }
            Found::Damaged => return Ok(Some(row.leaves.clone())),
            Found::Missing if row.slice.destination != context.me => return Ok(None),
            Found::Missing => {}
        }
        if row.slice.origin == context.me {
            // Cut from an own batch, which is checked for itself.
            return Ok(Some(row.leaves.clone()));
        }
        let found = rows::get::<SliceParcel>(context.store, SLICES, &slice_key(&row.slice), report)?;
        let parcel = match found {
            Found::Here(parcel) => parcel,
            Found::Damaged => return Ok(Some(row.leaves.clone())),
            Found::Missing => return Ok(None),
        };
        let index = parcel.body.index(parcel.header.body.entries.bundles, context.federation.id());
        let leaves = index.ok().and_then(|index| index.leaves().get(&self.mailbox).cloned());
        Ok(Some(leaves.unwrap_or_default()))
    }
}
