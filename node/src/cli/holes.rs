//! What a reader misses, and when nodes are asked again what became of it: at once, and then less and less often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postroad_client::Receiver;
use postroad_protocol::{MailboxId, Seq};
use tokio::time::Instant;

/// Between two questions about one message: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Messages that are asked about at once.
const MAX_AT_ONCE: usize = 4;

/// A sender, and its number of a message.
pub(super) type Name = (MailboxId, u64);

#[derive(Debug)]
struct Hole {
    seq: Seq,
    due: Instant,
    pause: Duration,
}

/// Messages that are missing, whose place is known, and that nobody has explained for good.
#[derive(Debug, Default)]
pub(super) struct Holes(BTreeMap<Name, Hole>);

impl Holes {
    /// Takes note of what the receiver misses now, and forgets what it misses no more.
    pub(super) fn follow(&mut self, receiver: &Receiver) {
        let mut missing = BTreeSet::new();
        for (sender, hole) in receiver.holes() {
            let Some((number, place)) = hole.hint else { continue };
            missing.insert((sender, number));
            let fresh = || Hole { seq: place.seq, due: Instant::now(), pause: PAUSES.0 };
            self.0.entry((sender, number)).or_insert_with(fresh);
        }
        self.0.retain(|name, _| missing.contains(name));
    }

    /// Those that are due to be asked about; they are due again after a pause.
    pub(super) fn due(&mut self) -> Vec<(Name, Seq)> {
        let now = Instant::now();
        let mut due: Vec<(Instant, Name)> =
            self.0.iter().filter(|(_, hole)| hole.due <= now).map(|(name, hole)| (hole.due, *name)).collect();
        due.sort();
        let due = due.into_iter().take(MAX_AT_ONCE);
        due.filter_map(|(_, name)| {
            let hole = self.0.get_mut(&name)?;
            hole.due = now + hole.pause;
            hole.pause = (hole.pause * 2).min(PAUSES.1);
            Some((name, hole.seq))
        })
        .collect()
    }

    /// What became of it is told, and will not change.
    pub(super) fn explained(&mut self, name: &Name) {
        if let Some(hole) = self.0.get_mut(name) {
            hole.pause = PAUSES.1;
            hole.due = Instant::now() + PAUSES.1;
        }
    }
}
