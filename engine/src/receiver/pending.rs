//! Pending slices: ordered while custodians held them, fetched, signed for and handed in as fills.

use postroad_protocol::MailboxId;
use postroad_protocol::receipt::{Fill, RefusedLeaf};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{PendingKey, SWEEP_EPOCHS, State};
use postroad_protocol::wire::client::Overdue;
use postroad_store::{Read, StoreError, Write};

use super::Receiver;
use crate::gate::{Gate, Load};
use crate::io::{Held, Output};
use crate::slices::sources;
use crate::tables::{self, PENDING, PendingRow, ROOTS, SLICES};

/// Pending slices that are fetched at the same time.
const MAX_FETCHES: usize = 8;
/// Pending slices that nobody had, and that are asked for again at the same time.
const MAX_RETRIES: usize = 2;
/// Pending slices that are here and are read to be signed for, in one round; the others follow in the next.
const MAX_READ: usize = 64;

#[derive(Debug)]
pub(super) struct PendingSlice {
    pub(super) row: PendingRow,
    pub(super) step: Step,
    /// Nobody had it when it was last asked for: it no longer holds up the others.
    pub(super) failed: bool,
    /// It was challenged in vain (rule 9): nothing is bounded by it any more.
    pub(super) overdue: bool,
}

impl PendingSlice {
    pub(super) fn new(row: PendingRow) -> PendingSlice {
        PendingSlice { row, step: Step::Waiting, failed: false, overdue: false }
    }
}

/// How far a pending slice has come.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing was done yet.
    Waiting,
    /// Its holders are asked.
    Fetching,
    /// It is here; the fill is signed once rows up to the token are durable.
    Here { token: u64, refused: Vec<RefusedLeaf> },
    /// The fill is handed in until a cut settles it.
    Filled { fill: Box<Fill> },
}

impl Receiver {
    /// Takes note of the state after the last cut: its epoch, which pending slices are overdue, and which are pending no
    /// more because that lasted for too long. Returns what to write.
    pub fn judge(&mut self, head: &State, gate: &mut Gate) -> Vec<Write> {
        self.head = head.epoch;
        let destination = self.me;
        let key = |pending: &PendingSlice| PendingKey { destination, header: pending.row.slice.header };
        for pending in self.pending.values_mut().filter(|pending| pending.failed && !pending.overdue) {
            pending.overdue = head.is_overdue(&key(pending), &self.federation);
        }
        if self.judged && !head.epoch.is_multiple_of(SWEEP_EPOCHS) {
            return Vec::new();
        }
        if !self.judged {
            // A start does not know yet what can be had.
            for pending in self.pending.values_mut() {
                pending.overdue = head.is_overdue(&key(pending), &self.federation);
            }
        }
        self.judged = true;
        let mut writes = Vec::new();
        self.pending.retain(|_, pending| {
            let is_there = head.pending(&key(pending)).is_some();
            if !is_there {
                gate.delivered(&pending.row.slice);
                writes.push(tables::delete(PENDING, pending.row.slice.header.0));
            }
            is_there
        });
        writes
    }

    /// Slices that are overdue.
    pub fn overdue(&self) -> Vec<Overdue> {
        (self.pending.values().filter(|pending| pending.overdue))
            .map(|PendingSlice { row, .. }| Overdue {
                epoch: row.epoch,
                position: row.position,
                origin: row.slice.origin,
                holders: row.holders.clone(),
            })
            .collect()
    }

    /// Pending slices that nobody had when they were last asked for, and that are not overdue.
    pub fn unobtainable(&self) -> impl Iterator<Item = SliceKey> + '_ {
        self.pending.values().filter(|pending| pending.failed && !pending.overdue).map(|pending| pending.row.slice)
    }

    /// Goes on with pending slices, lowest first: those that are here are signed for once `token` is persisted, the
    /// others are asked for. `holds` is for the gate. Returns whether anything waits for the token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pursue_pending(
        &mut self,
        token: u64,
        holds: impl Fn(&MailboxId) -> Option<Load>,
        gate: &mut Gate,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<bool, StoreError> {
        if self.incarnation == 0 {
            return Ok(false);
        }
        let mut waits = false;
        let fetching = |failed: bool| {
            move |pending: &&PendingSlice| matches!(pending.step, Step::Fetching) && pending.failed == failed
        };
        // What nobody had has few places of its own, so that it keeps no other from being fetched.
        let mut places = MAX_FETCHES.saturating_sub(self.pending.values().filter(fetching(false)).count());
        let mut retries = MAX_RETRIES.saturating_sub(self.pending.values().filter(fetching(true)).count());
        let cursor = self.retried;
        let waiting = self.pending.iter().filter(|(_, pending)| matches!(pending.step, Step::Waiting));
        let waiting: Vec<(u64, u32)> = waiting.map(|(at, _)| *at).collect();
        let mut read = 0;
        for at in &waiting {
            let Some(pending) = self.pending.get(at) else { continue };
            let places = match pending.failed {
                true if *at <= cursor => continue,
                true => &mut retries,
                false => &mut places,
            };
            if *places == 0 {
                continue;
            }
            let slice = pending.row.slice;
            if store.get(ROOTS, &tables::slice_key(&slice))?.is_some() {
                if read == MAX_READ {
                    break;
                }
                read += 1;
                let holders = pending.row.holders.clone();
                // One that is damaged is fetched like one that is gone.
                let index = match self.index(&slice, store) {
                    Ok(index) => index,
                    Err(StoreError::Corrupt { .. }) => None,
                    Err(error) => return Err(error),
                };
                let Some(index) = index else {
                    *places -= 1;
                    out.push(Output::Fetch(slice, sources(&slice, &holders, &self.me)));
                    self.set_step(at, Step::Fetching);
                    continue;
                };
                let refused = gate.decide(&slice, u64::MAX, &index, &holds);
                self.set_step(at, Step::Here { token, refused });
                waits = true;
                continue;
            }
            *places -= 1;
            out.push(Output::Fetch(slice, sources(&slice, &pending.row.holders, &self.me)));
            if pending.failed {
                self.retried = *at;
            }
            self.set_step(at, Step::Fetching);
        }
        if retries > 0 {
            // The end of the list: the next round begins at its head again.
            self.retried = (0, 0);
        }
        Ok(waits)
    }

    fn set_step(&mut self, at: &(u64, u32), step: Step) {
        if let Some(pending) = self.pending.get_mut(at) {
            pending.step = step;
        }
    }

    /// The fills that no cut has settled yet.
    pub fn open_fills(&self) -> impl Iterator<Item = &Fill> {
        self.pending.values().filter_map(|pending| match &pending.step {
            Step::Filled { fill } => Some(&**fill),
            _ => None,
        })
    }

    /// A fetch has ended. Returns what to write if the slice came.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fetched(&mut self, key: &SliceKey, held: Option<&Held>, store: &dyn Read) -> Result<Vec<Write>, StoreError> {
        for pending in self.pending.values_mut().filter(|pending| pending.row.slice == *key) {
            if matches!(pending.step, Step::Fetching) {
                pending.step = Step::Waiting;
                pending.failed = held.is_none();
            }
        }
        if self.stalled == Some(*key) {
            self.stalled = None;
        }
        let Some(held) = held.filter(|held| held.key == *key) else { return Ok(Vec::new()) };
        let row = tables::slice_key(key);
        match store.get(SLICES, &row) {
            Ok(Some(_)) => Ok(Vec::new()),
            // It was fetched because its row is damaged, and takes its place.
            Err(StoreError::Corrupt { .. }) if store.get(ROOTS, &row)?.is_some() => {
                Ok(vec![tables::put(SLICES, row, &*held.parcel)])
            }
            Ok(None) | Err(StoreError::Corrupt { .. }) => Ok(self.slice_rows(key, &held.parcel)),
            Err(error) => Err(error),
        }
    }
}
