//! The storm: what breaks, and when.

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
        match self.rng.below(12) {
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
}
