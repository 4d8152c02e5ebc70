//! What is seen of the swarm task from outside: how late it is, and what it counts.
//!
//! The task beats once per period. The lag is how late the last beat came, or how long the next
//! one is overdue, whichever is more, so a task that hangs is seen while it hangs. With each beat it
//! publishes its figures, so reading them never waits for the task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the task beats.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);

/// What a network counts, as of its last beat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Established connections of trusted peers.
    pub trusted: u64,
    /// Established connections of others.
    pub strangers: u64,
    /// Inbound connections still in their handshake.
    pub handshakes: u64,
    /// Inbound connections that were not let in, or whose handshake failed, since the start.
    pub not_let_in: u64,
    /// Dials that failed, since the start.
    pub failed_dials: u64,
    /// Inbound streams that were refused since nobody took them, since the start.
    pub refused_streams: u64,
}

impl Figures {
    const COUNT: usize = 6;

    fn values(self) -> [u64; Self::COUNT] {
        let Self { trusted, strangers, handshakes, not_let_in, failed_dials, refused_streams } = self;
        [trusted, strangers, handshakes, not_let_in, failed_dials, refused_streams]
    }

    fn of(values: [u64; Self::COUNT]) -> Self {
        let [trusted, strangers, handshakes, not_let_in, failed_dials, refused_streams] = values;
        Self { trusted, strangers, handshakes, not_let_in, failed_dials, refused_streams }
    }
}

/// The last beat, as nanoseconds since the start, and what was published with it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    start: Instant,
    last_beat_ns: AtomicU64,
    last_lag_ns: AtomicU64,
    figures: [AtomicU64; Figures::COUNT],
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (last_beat_ns, last_lag_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), last_beat_ns, last_lag_ns, figures: Default::default() }
    }

    /// The task is alive. `due` is when this beat should have been.
    pub(crate) fn beat(&self, due: Instant, figures: Figures) {
        let lag = Instant::now().saturating_duration_since(due);
        for (slot, value) in self.figures.iter().zip(figures.values()) {
            slot.store(value, Ordering::Relaxed);
        }
        self.last_lag_ns.store(lag.as_nanos() as u64, Ordering::Relaxed);
        self.last_beat_ns.store(self.start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn lag(&self) -> Duration {
        let last_beat = Duration::from_nanos(self.last_beat_ns.load(Ordering::Relaxed));
        let overdue = self.start.elapsed().saturating_sub(last_beat + PERIOD);
        Duration::from_nanos(self.last_lag_ns.load(Ordering::Relaxed)).max(overdue)
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures::of(std::array::from_fn(|at| self.figures[at].load(Ordering::Relaxed)))
    }
}
