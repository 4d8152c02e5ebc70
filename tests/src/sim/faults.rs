//! The storm: what breaks, and when.

use postroad_engine::tables::{self, ALL, BATCHES, CUTS, SLICES, StoredBatch};
use postroad_protocol::codec::decode;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_store::{Read, Store, Table, Write};

use super::invariants::one_statement::Committed;
use super::node::SimNode;
use super::world::{Event, World};

impl World {
    /// Something breaks.
    pub(super) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let next = self.rng.within(50..=900);
        self.after(next, Event::Fault);
        let node = self.rng.index(self.nodes.len());
        let link = self.rng.index(self.links.len());
        match self.rng.below(13) {
            0..=2 => self.light_fuse(node),
            3 | 4 => {
                self.stats.resets += u64::from(self.links[link].alive);
                self.reset(link);
            }
            5 => {
                let until = self.now + self.rng.within(500..=3_500);
                self.links[link].blocked_until = until;
                self.stats.partitions += 1;
                self.reset(link);
            }
            6 => {
                // A node alone: nobody reaches it.
                let until = self.now + self.rng.within(500..=2_500);
                self.stats.partitions += 1;
                for link in 0..self.links.len() {
                    let (a, b) = self.links[link].ends;
                    if a == node || b == node {
                        self.links[link].blocked_until = until;
                        self.reset(link);
                    }
                }
            }
            7 => {
                self.links[link].stalled_until = self.now + self.rng.within(300..=2_500);
                self.stats.stalls += 1;
            }
            8 => {
                self.nodes[node].slow_disk_until = self.now + self.rng.within(300..=2_500);
                self.stats.slow_disks += 1;
            }
            9 | 10 => {
                let open: Vec<usize> =
                    (0..self.sessions.len()).filter(|session| self.sessions[*session].open).collect();
                if !open.is_empty() {
                    let session = *self.rng.pick(&open);
                    self.stats.client_resets += 1;
                    self.close_session(session);
                }
            }
            11 => self.back_up(node),
            _ => {
                // Everything at once, as when the power fails in one place.
                for node in 0..self.nodes.len() {
                    if self.rng.permille(400) {
                        self.light_fuse(node);
                    }
                }
            }
        }
    }

    /// The node will crash after some more steps, or at once.
    fn light_fuse(&mut self, node: usize) {
        if self.nodes[node].running.is_none() {
            return;
        }
        if self.rng.permille(300) {
            self.crash(node);
        } else {
            self.nodes[node].fuse = Some(self.rng.below(12));
        }
    }

    /// How long a node stays down.
    pub(super) fn downtime(&mut self, node: usize) -> u64 {
        if node != self.sequencer && self.rng.permille(200) {
            return self.rng.within(2_000..=6_000);
        }
        self.rng.within(20..=900)
    }

    /// Somebody copies a disk.
    fn back_up(&mut self, node: usize) {
        let sim = &mut self.nodes[node];
        let Ok(disk) = sim.store.snapshot() else { return };
        let rows = ALL.iter().flat_map(|table| {
            let rows = disk.range(*table, &[], &[], usize::MAX).unwrap_or_default();
            rows.into_iter().map(|(key, value)| Write::Put { table: *table, key, value })
        });
        sim.backup = Some(rows.collect());
    }

    /// A node that has crashed may come back with an older disk: one node of a run, and only when nothing is lost with
    /// it that nobody else has.
    pub(super) fn maybe_restore(&mut self, node: usize) {
        if self.healed || self.nodes.iter().any(|sim| sim.restored) || !self.may_restore(node) {
            return;
        }
        let sim = &mut self.nodes[node];
        let Some(rows) = sim.backup.take() else { return };
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
        self.trace.note(self.now, "restore", node as u64, rows.len() as u64, &[]);
    }

    fn may_restore(&self, node: usize) -> bool {
        let sim = &self.nodes[node];
        let (Some(backup), Ok(disk)) = (&sim.backup, sim.store.snapshot()) else { return false };
        if let Some((epoch, ..)) = sim.guard.last()
            && !self.nodes.iter().any(|other| other.id != sim.id && has(other, CUTS, &tables::number_key(epoch)))
        {
            return false;
        }
        // Every batch that is not in the copy: its slices must be where a cut says that they are.
        let rows = disk.range(BATCHES, &[], &[], usize::MAX).unwrap_or_default();
        rows.into_iter().all(|(key, value)| {
            let Ok(StoredBatch { header, .. }) = decode::<StoredBatch>(&value) else { return false };
            let digest = header.digest(self.federation.id());
            backup.contains(&Write::Put { table: BATCHES, key, value })
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

fn has(node: &SimNode, table: Table, key: &[u8]) -> bool {
    node.store.snapshot().is_ok_and(|disk| disk.get(table, key).is_ok_and(|row| row.is_some()))
}
