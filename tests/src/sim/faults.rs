//! The storm: what breaks, and when.

use super::world::{Event, Step, World};

impl World {
    /// Something breaks.
    pub(super) fn fault(&mut self) -> Step {
        if self.healed {
            return Ok(());
        }
        let next = self.rng.within(30..=600);
        self.after(next, Event::Fault);
        let node = self.rng.index(self.nodes.len());
        let link = self.rng.index(self.links.len());
        let client = self.rng.index(self.clients.len());
        let now = self.now;
        match self.rng.below(24) {
            0..=2 => self.light_fuse(node)?,
            3 | 4 => {
                self.stats.resets += u64::from(self.links[link].alive);
                self.reset(link);
            }
            5 => {
                let until = now + self.rng.within(500..=3_500);
                self.stats.partitions += 1;
                self.block(link, until);
            }
            6 => {
                // A node alone: nobody reaches it.
                self.stats.isolations += 1;
                let until = now + self.rng.within(500..=2_500);
                self.split(until, |a, b| a == node || b == node);
            }
            7 => {
                // Two parts that do not reach each other.
                let side: Vec<bool> = (0..self.nodes.len()).map(|_| self.rng.permille(500)).collect();
                let until = now + self.rng.within(500..=2_000);
                self.stats.splits += u64::from(side.contains(&true) && side.contains(&false));
                self.split(until, |a, b| side[a] != side[b]);
            }
            8 => {
                self.links[link].stalled_until = now + self.rng.within(300..=2_500);
                self.stats.stalls += 1;
            }
            9 | 10 => {
                self.links[link].slow_until = now + self.rng.within(500..=4_000);
                self.links[link].bytes_per_ms = self.rng.within(1..=16);
                self.stats.slow_links += 1;
            }
            11 => {
                self.nodes[node].slow_disk_until = now + self.rng.within(300..=2_500);
                self.stats.slow_disks += 1;
            }
            12 => {
                self.nodes[node].full_disk_until = now + self.rng.within(300..=2_000);
                self.stats.full_disks += 1;
            }
            13 => self.reset_client(),
            14..=16 => self.crash_client(client),
            17..=19 => self.back_up(node),
            20 => self.turn_clock(node),
            21 => self.turn_clock(self.sequencer),
            22 => self.drain(node),
            _ => {
                // Everything at once, as when the power fails in one place.
                for node in 0..self.nodes.len() {
                    if self.rng.permille(400) {
                        self.light_fuse(node)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The node will crash after some more steps, or at once.
    fn light_fuse(&mut self, node: usize) -> Step {
        if self.nodes[node].running.is_none() {
            return Ok(());
        }
        if self.rng.permille(300) {
            return self.crash(node);
        }
        self.nodes[node].fuse = Some(self.rng.below(12));
        Ok(())
    }

    /// How long a node stays down.
    pub(super) fn downtime(&mut self, node: usize) -> u64 {
        if node != self.sequencer && self.rng.permille(200) {
            return self.rng.within(2_000..=6_000);
        }
        self.rng.within(20..=900)
    }

    /// Nobody gets through on this link for a while.
    fn block(&mut self, link: usize, until: u64) {
        self.links[link].blocked_until = until;
        self.reset(link);
    }

    /// All these links are blocked.
    fn split(&mut self, until: u64, blocked: impl Fn(usize, usize) -> bool) {
        for link in 0..self.links.len() {
            let (a, b) = self.links[link].ends;
            if blocked(a, b) {
                self.block(link, until);
            }
        }
    }

    /// Somebody sets a wall clock: by seconds, or by up to a day, forward or back.
    fn turn_clock(&mut self, node: usize) {
        let most = *self.rng.pick(&[5_000, 60_000, 86_400_000]);
        let by = self.rng.within(1..=most);
        let clock_ms = &mut self.nodes[node].clock_ms;
        if self.rng.permille(500) {
            *clock_ms += by;
            self.stats.clocks_forward += 1;
        } else {
            *clock_ms -= by;
            self.stats.clocks_back += 1;
        }
        self.stats.clocks_sequencer += u64::from(node == self.sequencer);
    }

    /// A client loses a connection.
    fn reset_client(&mut self) {
        let open: Vec<usize> = (0..self.sessions.len()).filter(|session| self.sessions[*session].open).collect();
        if !open.is_empty() {
            let session = *self.rng.pick(&open);
            self.stats.client_resets += 1;
            self.close_session(session);
        }
    }
}
