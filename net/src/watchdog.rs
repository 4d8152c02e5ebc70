//! How late the swarm task is.
//!
//! The task beats once per period. The lag is how late the last beat came, or how long the next
//! one is overdue, whichever is more, so a task that hangs is seen while it hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the task beats.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);

/// The last beat, as nanoseconds since the start.
#[derive(Debug)]
pub(crate) struct Watchdog {
    start: Instant,
    last_beat_ns: AtomicU64,
    last_lag_ns: AtomicU64,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (last_beat_ns, last_lag_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), last_beat_ns, last_lag_ns }
    }

    /// The task is alive. `due` is when this beat should have been.
    pub(crate) fn beat(&self, due: Instant) {
        let lag = Instant::now().saturating_duration_since(due);
        self.last_lag_ns.store(lag.as_nanos() as u64, Ordering::Relaxed);
        self.last_beat_ns.store(self.start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn lag(&self) -> Duration {
        let last_beat = Duration::from_nanos(self.last_beat_ns.load(Ordering::Relaxed));
        let overdue = self.start.elapsed().saturating_sub(last_beat + PERIOD);
        Duration::from_nanos(self.last_lag_ns.load(Ordering::Relaxed)).max(overdue)
    }
}
