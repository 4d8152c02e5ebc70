//! Disks: a group's transaction goes to disk whole or not at all, which takes a while; it may be slow, or full, or the
//! process may die meanwhile, and nobody has heard which of the two it was. A disk may also come back as it was before.

use postroad_engine::tables::{self, ALL, BATCHES, CUTS, EDGES, LOGS, SLICES, StoredBatch};
use postroad_engine::{Input, Output};
use postroad_protocol::MailboxId;
use postroad_protocol::codec::decode;
use postroad_protocol::moving::Base;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_store::{Guard, GuardRecord, Read, Store, Table, Transaction, Write};

use super::bugs::{self, Bug};
use super::invariants::one_statement::Committed;
use super::node::SimNode;
use super::world::{Event, Step, World};

/// A commit under way.
pub(super) struct Syncing {
    transaction: Transaction,
    writes: Vec<Write>,
    outputs: Vec<Output>,
    token: Option<u64>,
}

/// A copy of a disk.
pub(super) struct Backup {
    rows: Vec<Write>,
    guard: Option<GuardRecord>,
}

impl World {
    /// The group is over: its transaction goes to disk, then its outputs go out.
    pub(super) fn settle(&mut self, me: usize, mut transaction: Transaction, outputs: Vec<Output>) -> Step {
        let life = self.nodes[me].life;
        let token = outputs.iter().rev().find_map(|output| match output {
            Output::Persist(token, _) => Some(*token),
            _ => None,
        });
        let mut writes = Vec::new();
        let mut said = Vec::new();
        for output in outputs {
            match output {
                Output::Persist(_, more) => writes.extend(more),
                other => said.push(other),
            }
        }
        let mut outputs = said;
        if transaction.is_empty() {
            drop(transaction);
            return self.said(me, life, outputs, token);
        }
        if self.bug == Some(Bug::SignBeforePersist) {
            // Planted: everything is said, and the rooms are told that it is on disk, before it is.
            self.release(me, life, std::mem::take(&mut outputs))?;
            if self.nodes[me].life != life {
                return Ok(());
            }
            let now = self.clock(me);
            if let (Some(running), Some(token)) = (self.nodes[me].running.as_mut(), token) {
                let mut early = Vec::new();
                running.node.handle(now, Input::Persisted(token), &transaction, &mut early);
                stage(&mut transaction, &early);
                early.retain(|output| !matches!(output, Output::Persist(..)));
                self.release(me, life, early)?;
            }
            if self.nodes[me].life != life {
                return Ok(());
            }
        }
        let slow = self.nodes[me].slow_disk_until > self.now;
        let sync_ms = if slow { self.rng.within(20..=300) } else { self.rng.below(6) };
        if let Some(running) = self.nodes[me].running.as_mut() {
            running.syncing = Some(Syncing { transaction, writes, outputs, token });
            self.after(sync_ms, Event::Synced { node: me, life });
        }
        Ok(())
    }

    /// The disk has confirmed, or has no space.
    pub(super) fn synced(&mut self, me: usize, life: u64) -> Step {
        let (now, bug) = (self.now, self.bug);
        let sim = &mut self.nodes[me];
        if sim.life != life {
            return Ok(());
        }
        let Some(syncing) = sim.running.as_mut().and_then(|running| running.syncing.take()) else { return Ok(()) };
        if sim.full_disk_until > now {
            self.stats.full_commits += 1;
            return self.full(me, life, syncing);
        }
        let Syncing { transaction, writes, outputs, token } = syncing;
        // The commit is a step like any other: before it, in it, or right behind it, the process may die.
        if sim.fuse == Some(0) && self.rng.permille(700) {
            self.interrupted(me, Syncing { transaction, writes, outputs, token })?;
            return self.crash(me);
        }
        self.commit(me, transaction, &writes)?;
        if bug == Some(Bug::DroppedCustody) {
            let sim = &mut self.nodes[me];
            if let Some(running) = sim.running.as_mut() {
                running.aside.extend(bugs::dropped(&writes, &sim.id.0));
            }
        }
        self.trace.note(self.now, "synced", me as u64, token.unwrap_or(0), &[]);
        self.said(me, life, outputs, token)
    }

    fn commit(&mut self, me: usize, transaction: Transaction, writes: &[Write]) -> Step {
        if let Err(error) = transaction.commit() {
            return self.broken("store", error.to_string());
        }
        for write in writes {
            if let Some((digest, batch)) = self.nodes[me].committed.row(write, &self.federation) {
                self.checks.oracle.sealed(digest, batch.bundles);
            }
        }
        Ok(())
    }

    /// The transaction of a process that died is gone.
    fn lost(&mut self, me: usize, transaction: Transaction, writes: &[Write]) -> Step {
        drop(transaction);
        if self.bug != Some(Bug::TornGroups) {
            return Ok(());
        }
        // Planted: the first half went in a transaction of its own.
        let mut half = match self.nodes[me].store.begin() {
            Ok(half) => half,
            Err(error) => return self.broken("store", error.to_string()),
        };
        let writes = &writes[..writes.len() / 2];
        writes.iter().for_each(|write| half.apply(write));
        self.commit(me, half, writes)
    }

    /// The process died while its transaction was on the way to the disk: it is there whole, or not at all.
    pub(super) fn interrupted(&mut self, me: usize, syncing: Syncing) -> Step {
        let Syncing { transaction, writes, .. } = syncing;
        if self.nodes[me].full_disk_until <= self.now && self.rng.permille(500) {
            self.stats.crashes_unheard += 1;
            self.commit(me, transaction, &writes)
        } else {
            self.stats.crashes_uncommitted += 1;
            self.lost(me, transaction, &writes)
        }
    }

    /// No space: nothing of the transaction is kept. A driver may try the same again, or stop and be started again.
    fn full(&mut self, me: usize, life: u64, syncing: Syncing) -> Step {
        if self.rng.permille(200) {
            drop(syncing);
            return self.stop(me);
        }
        if let Some(running) = self.nodes[me].running.as_mut() {
            running.syncing = Some(syncing);
            self.after(100, Event::Synced { node: me, life });
        }
        Ok(())
    }

    /// Somebody copies a disk.
    pub(super) fn back_up(&mut self, node: usize) {
        let sim = &mut self.nodes[node];
        if let Some(rows) = rows_of(&sim.store) {
            sim.backup = Some(Backup { rows, guard: sim.guard.last() });
        }
    }

    /// A node that is down may come back with an older disk: one node of a run, and only when nothing is lost with it
    /// that nobody else has.
    pub(super) fn maybe_restore(&mut self, node: usize) {
        let careless = self.gathered.as_ref().is_some_and(|gathered| gathered.story.careless);
        if self.healed || !careless && self.nodes.iter().any(|sim| sim.restored) || !self.may_restore(node, careless) {
            return;
        }
        let bug = self.bug;
        let sim = &mut self.nodes[node];
        let Some(Backup { mut rows, guard }) = sim.backup.take() else { return };
        if bug == Some(Bug::MixedRestore) {
            rows.extend(bugs::newer_batches(&rows_of(&sim.store).unwrap_or_default()));
        }
        if bug == Some(Bug::GuardInBackup) {
            sim.guard = Guard::memory();
            if let Some((slot, digest, signature)) = guard {
                sim.guard.sign(slot, digest, || signature).expect("a new guard signs anything");
            }
        }
        let store = Store::memory(&ALL);
        let Ok(mut transaction) = store.begin() else { return };
        rows.iter().for_each(|write| transaction.apply(write));
        if transaction.commit().is_err() {
            return;
        }
        sim.committed = Committed::default();
        for row in &rows {
            sim.committed.row(row, &self.federation);
        }
        sim.store = store;
        sim.restored = true;
        self.stats.restores += 1;
        self.stats.restores_sequencer += u64::from(node == self.sequencer);
        self.trace.note(self.now, "restore", node as u64, rows.len() as u64, &[]);
    }

    /// In a story, a disk may lose slices, and batches that others were to be asked for.
    pub(super) fn maybe_lose(&mut self, node: usize) {
        let careless = self.gathered.as_ref().is_some_and(|gathered| gathered.story.careless);
        if !careless || self.healed || !self.rng.permille(400) {
            return;
        }
        let store = &self.nodes[node].store;
        let Ok(disk) = store.snapshot() else { return };
        let rows = |table| disk.range(table, &[], &[], usize::MAX).unwrap_or_default();
        let slices = rows(SLICES).into_iter().map(|(key, _)| Write::Delete { table: SLICES, key });
        let mut batches: Vec<Write> =
            rows(BATCHES).into_iter().map(|(key, _)| Write::Delete { table: BATCHES, key }).collect();
        // The newest are not ordered yet.
        batches.truncate(batches.len().saturating_sub(4));
        let gone: Vec<Write> = slices.chain(batches).filter(|_| self.rng.permille(500)).collect();
        let Ok(mut transaction) = self.nodes[node].store.begin() else { return };
        gone.iter().for_each(|write| transaction.apply(write));
        if transaction.commit().is_ok() {
            self.trace.note(self.now, "lose", node as u64, gone.len() as u64, &[]);
        }
    }

    /// `careless`: even if something is lost with it.
    fn may_restore(&self, node: usize, careless: bool) -> bool {
        let sim = &self.nodes[node];
        let (Some(backup), Ok(disk)) = (&sim.backup, sim.store.snapshot()) else { return false };
        if let Some((epoch, ..)) = sim.guard.last()
            && !self.nodes.iter().any(|other| other.id != sim.id && has(other, CUTS, &tables::number_key(epoch)))
        {
            return false;
        }
        if careless {
            return true;
        }
        // A log that was taken over is kept by those who had it only until that is settled and done: every row of it has
        // to be in the copy.
        let lacks = |mailbox: &MailboxId, base: &Base| {
            let (from, to) = (tables::mailbox_key(mailbox, 0), tables::mailbox_key(mailbox, base.log.size));
            let edge = disk.get(EDGES, &mailbox.0).unwrap_or_default().map(|edge| (EDGES, mailbox.0.to_vec(), edge));
            let rows = disk.range(LOGS, &from, &to, usize::MAX).unwrap_or_default().into_iter();
            let mut rows = rows.map(|(key, value)| (LOGS, key, value)).chain(edge.filter(|_| base.log.size > 0));
            rows.any(|(table, key, value)| !backup.rows.contains(&Write::Put { table, key, value }))
        };
        let window = self.federation.params().routing_window_epochs;
        let mut here = self.checks.chains.state().mailboxes().filter(|(_, known)| known.home == sim.id);
        if here.any(|(mailbox, known)| {
            let moved = known.moved.as_ref().filter(|moved| moved.is_finished(window));
            let base = moved.and_then(|moved| moved.import.as_ref()?.base);
            base.is_some_and(|base| lacks(mailbox, &base))
        }) {
            return false;
        }
        // Every batch that is not in the copy: its slices must be where a cut says that they are.
        let rows = disk.range(BATCHES, &[], &[], usize::MAX).unwrap_or_default();
        rows.into_iter().all(|(key, value)| {
            let Ok(StoredBatch { header, .. }) = decode::<StoredBatch>(&value) else { return false };
            let digest = header.digest(self.federation.id());
            backup.rows.contains(&Write::Put { table: BATCHES, key, value })
                || header.slices.iter().all(|slice| {
                    let (origin, number, destination) = (header.origin, header.number, slice.destination);
                    let key = tables::slice_key(&SliceKey { origin, number, header: digest, destination });
                    let holders = self.checks.oracle.holders(&digest, &destination);
                    holders.iter().filter(|holder| **holder != sim.id).any(|holder| {
                        let holder = self.nodes.iter().find(|node| node.id == *holder);
                        holder.is_some_and(|holder| has(holder, SLICES, &key))
                    })
                })
        })
    }
}

/// Stages the writes that the rooms ask for.
pub(super) fn stage(transaction: &mut Transaction, outputs: &[Output]) {
    for output in outputs {
        if let Output::Persist(_, writes) = output {
            writes.iter().for_each(|write| transaction.apply(write));
        }
    }
}

/// Everything on a disk.
fn rows_of(store: &Store) -> Option<Vec<Write>> {
    let disk = store.snapshot().ok()?;
    let rows = ALL.iter().flat_map(|table| {
        let rows = disk.range(*table, &[], &[], usize::MAX).unwrap_or_default();
        rows.into_iter().map(|(key, value)| Write::Put { table: *table, key, value })
    });
    Some(rows.collect())
}

fn has(node: &SimNode, table: Table, key: &[u8]) -> bool {
    node.store.snapshot().is_ok_and(|disk| disk.get(table, key).is_ok_and(|row| row.is_some()))
}
