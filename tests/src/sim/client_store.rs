//! What a client has on its disk, and clients that die. What it had in memory is gone; it comes back with its store as it
//! was, or with an older copy of it.

use std::collections::BTreeMap;

use super::client::Outgoing;
use super::log::Log;
use super::world::World;

/// A copy of a client's store.
pub(super) struct Saved {
    counters: BTreeMap<usize, u64>,
    outgoing: Vec<Outgoing>,
    log: Log,
    lives: (usize, u64),
}

impl World {
    /// Somebody copies a client's store.
    pub(super) fn save_client(&mut self, me: usize) {
        let client = &mut self.clients[me];
        let (counters, outgoing, log) = (client.counters.clone(), client.outgoing.clone(), client.log.clone());
        let lives = (client.home, client.since);
        client.saved = Some(Saved { counters, outgoing, log, lives });
    }

    /// A client dies, and is back at once.
    pub(super) fn crash_client(&mut self, me: usize) {
        self.trace.note(self.now, "client-crash", me as u64, 0, &[]);
        for session in 0..self.sessions.len() {
            if self.sessions[session].client == me && self.sessions[session].open {
                self.close_session(session);
            }
        }
        let set_back = self.rng.permille(500);
        let client = &mut self.clients[me];
        self.stats.client_crashes += 1;
        client.sessions.clear();
        client.registered = false;
        client.epoch = 0;
        if set_back && let Some(Saved { counters, outgoing, log, lives }) = client.saved.take() {
            // What it has forgotten it reads again, and reads the same.
            for (id, seq) in client.log.behind(&log) {
                self.checks.once.forgotten(client.id, id, seq);
            }
            // Rule 5: a sender keeps a bundle until it is ordered, or else it may expire in a chain that died.
            let kept = |lost: &Outgoing| outgoing.iter().any(|kept| kept.bundle == lost.bundle);
            for lost in client.outgoing.iter().filter(|lost| !kept(lost)) {
                self.checks.once.not_kept(&lost.bundle);
            }
            (client.counters, client.outgoing, client.log) = (counters, outgoing, log);
            (client.home, client.since) = lives;
            self.stats.clients_set_back += 1;
        }
        for outgoing in &mut client.outgoing {
            outgoing.again_at = 0;
        }
    }
}
