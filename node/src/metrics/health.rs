//! Whether a node does its work: it applies cuts, they are recent, and its attestations become final.
//!
//! The core writes times into atomics as things happen; whoever asks compares them with the clock, so a core that hangs
//! is seen while it hangs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

/// Heartbeats without a new cut after which cuts are stale. An idle federation has one cut per heartbeat.
const STALE_HEARTBEATS: u64 = 5;
/// Heartbeats without a final attestation after which a node does not attest. One takes a heartbeat, a header and a cut.
const UNATTESTED_HEARTBEATS: u64 = 10;
/// How late the core thread or the swarm's task may be.
const MAX_LAG: Duration = Duration::from_secs(3);

/// When a node last did what it must keep doing.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    stale_ms: u64,
    unattested_ms: u64,
    beat_ms: AtomicU64,
    cut_ms: AtomicU64,
    final_ms: AtomicU64,
    epoch: AtomicU64,
    cut_time_ms: AtomicU64,
    attested_epoch: AtomicU64,
    incarnation: AtomicU64,
    draining: AtomicBool,
    full: AtomicBool,
}

/// One reason why a node is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// A short name that never changes.
    pub(crate) reason: &'static str,
    /// What it is about, with numbers.
    pub(crate) detail: String,
}

/// The answer of `/healthz`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    pub(crate) healthy: bool,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) epoch: u64,
    pub(crate) attested_epoch: u64,
    pub(crate) incarnation: u64,
}

impl Pulse {
    pub(super) fn new(heartbeat_ms: u64) -> Pulse {
        let zero = || AtomicU64::new(0);
        Pulse {
            began: Instant::now(),
            stale_ms: STALE_HEARTBEATS * heartbeat_ms,
            unattested_ms: UNATTESTED_HEARTBEATS * heartbeat_ms,
            beat_ms: zero(),
            cut_ms: zero(),
            final_ms: zero(),
            epoch: zero(),
            cut_time_ms: zero(),
            attested_epoch: zero(),
            incarnation: zero(),
            draining: AtomicBool::new(false),
            full: AtomicBool::new(false),
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn since(&self, then: &AtomicU64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(then.load(Relaxed)))
    }

    /// The core thread goes round.
    pub(crate) fn beat(&self) {
        self.beat_ms.store(self.now_ms(), Relaxed);
    }

    /// An attestation of everything up to `epoch` became final.
    pub(super) fn attested(&self, epoch: u64) {
        self.attested_epoch.store(epoch, Relaxed);
        self.final_ms.store(self.now_ms().max(1), Relaxed);
    }

    /// The last cut's epoch and time, and the incarnation (zero while the start is not settled).
    pub(super) fn show(&self, epoch: u64, cut_time_ms: u64, incarnation: u64) {
        if self.epoch.swap(epoch, Relaxed) != epoch {
            self.cut_ms.store(self.now_ms(), Relaxed);
        }
        self.cut_time_ms.store(cut_time_ms, Relaxed);
        self.incarnation.store(incarnation, Relaxed);
    }

    /// The node takes nothing new any more.
    pub(crate) fn drains(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether the disk is full.
    pub(crate) fn full(&self, full: bool) {
        self.full.store(full, Relaxed);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    pub(super) fn attested_epoch(&self) -> u64 {
        self.attested_epoch.load(Relaxed)
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation.load(Relaxed)
    }

    /// How long ago the last cut was applied here.
    pub(super) fn cut_age(&self) -> Duration {
        self.since(&self.cut_ms)
    }

    /// How far the last cut's time is behind this machine's clock; negative where it is ahead.
    pub(super) fn cut_lag_seconds(&self) -> f64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        match self.cut_time_ms.load(Relaxed) {
            0 => 0.0,
            time_ms => now - time_ms as f64 / 1_000.0,
        }
    }

    /// How long ago an attestation became final, or since the start if none has.
    pub(super) fn attestation_age(&self) -> Duration {
        self.since(&self.final_ms)
    }

    /// How long ago the core thread went round; it does so twice a second at least.
    pub(super) fn core_age(&self) -> Duration {
        self.since(&self.beat_ms)
    }

    /// How the node is, given how late the swarm's task is.
    pub(crate) fn health(&self, network_lag: Duration) -> Health {
        let mut reasons = Vec::new();
        let mut because = |reason, detail| reasons.push(Reason { reason, detail });
        if self.draining.load(Relaxed) {
            because("draining", "the node was asked to stop and takes nothing new".into());
        }
        if self.core_age() > MAX_LAG {
            because("core-lag", format!("the core thread has not gone round for {}", text(self.core_age())));
        }
        if self.full.load(Relaxed) {
            because("disk-full", "the disk is full: nothing new is taken until there is space".into());
        }
        if network_lag > MAX_LAG {
            because("network-lag", format!("the network's task is {} late", text(network_lag)));
        }
        let stale = Duration::from_millis(self.stale_ms);
        if self.incarnation() == 0 {
            because("starting", "no cut has settled this node's start yet, so it signs nothing".into());
        }
        if self.cut_age() > stale {
            let since = text(self.cut_age());
            because("cuts-stale", format!("no cut for {since}, {} are allowed", text(stale)));
        } else if self.cut_lag_seconds() > stale.as_secs_f64() {
            let detail = format!(
                "the last cut's time is {:.1} s behind this machine's clock, {} are allowed",
                self.cut_lag_seconds(),
                text(stale)
            );
            because("behind", detail);
        }
        let unattested = Duration::from_millis(self.unattested_ms);
        if self.incarnation() > 0 && self.final_ms.load(Relaxed) == 0 {
            because("not-attesting", "no attestation has become final since the start".into());
        } else if self.incarnation() > 0 && self.attestation_age() > unattested {
            let since = text(self.attestation_age());
            because(
                "not-attesting",
                format!("no attestation became final for {since}, {} are allowed", text(unattested)),
            );
        }
        Health {
            healthy: reasons.is_empty(),
            reasons,
            epoch: self.epoch(),
            attested_epoch: self.attested_epoch(),
            incarnation: self.incarnation(),
        }
    }
}

fn text(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(pulse: &Pulse, network_lag: Duration) -> Vec<&'static str> {
        pulse.health(network_lag).reasons.into_iter().map(|reason| reason.reason).collect()
    }

    fn now_ms() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
    }

    /// A node that began `before` ago and has done nothing since.
    fn begun(before: Duration) -> Pulse {
        Pulse { began: Instant::now() - before, ..Pulse::new(1_000) }
    }

    #[test]
    fn a_node_is_healthy_only_while_everything_goes_on() {
        let pulse = begun(Duration::from_secs(60));
        assert_eq!(codes(&pulse, Duration::ZERO), ["core-lag", "starting", "cuts-stale"]);
        pulse.beat();
        pulse.show(7, now_ms(), 0);
        assert_eq!(codes(&pulse, Duration::ZERO), ["starting"]);
        pulse.show(7, now_ms(), 1);
        assert_eq!(codes(&pulse, Duration::ZERO), ["not-attesting"]);
        pulse.attested(6);
        assert!(pulse.health(Duration::ZERO).healthy);
        assert_eq!(codes(&pulse, MAX_LAG * 2), ["network-lag"]);
        pulse.full(true);
        assert_eq!(codes(&pulse, Duration::ZERO), ["disk-full"]);
        pulse.full(false);
        pulse.drains();
        assert_eq!(codes(&pulse, Duration::ZERO), ["draining"]);
    }

    #[test]
    fn each_bound_is_a_number_of_heartbeats() {
        let pulse = begun(Duration::from_secs(60));
        pulse.beat();
        pulse.show(7, now_ms() - 6_000, 1);
        pulse.attested(6);
        assert_eq!(codes(&pulse, Duration::ZERO), ["behind"]);
        // The same epoch again is no new cut.
        pulse.cut_ms.store(60_000 - 5_500, Relaxed);
        pulse.show(7, now_ms(), 1);
        assert_eq!(codes(&pulse, Duration::ZERO), ["cuts-stale"]);
        pulse.show(8, now_ms(), 1);
        assert!(pulse.health(Duration::ZERO).healthy);
        pulse.final_ms.store(60_000 - 9_000, Relaxed);
        assert!(pulse.health(Duration::ZERO).healthy);
        pulse.final_ms.store(60_000 - 11_000, Relaxed);
        assert_eq!(codes(&pulse, Duration::ZERO), ["not-attesting"]);
    }
}
