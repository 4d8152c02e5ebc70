//! When to dial a peer again: exponential, jittered, reset by success.
//!
//! The swarm redials nobody, so whoever wants a peer keeps one of these for it. It is pure: it
//! names delays and sleeps through none, and its jitter comes from the seed, so a test sees the
//! same delays every time while two nodes with different seeds do not redial in step.

use std::time::Duration;

/// The delays before one peer is dialed again.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    /// Failures since the last success; saturates.
    failures: u32,
    /// State of the splitmix64 generator.
    jitter: u64,
}

impl Backoff {
    /// Delays from `first` to `cap`, with jitter drawn from `seed`.
    ///
    /// A `cap` below `first` counts as `first`.
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Self { first, cap: cap.max(first), failures: 0, jitter: seed }
    }

    /// The default range, 0.5 s to 60 s.
    pub fn standard(seed: u64) -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(60), seed)
    }

    /// A dial failed: how long to wait before the next one.
    ///
    /// The n-th delay in a row lies between half and all of `first * 2^n`, never below `first` and
    /// never above `cap`.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let ceiling = self.first.saturating_mul(factor).min(self.cap);
        let floor = (ceiling / 2).max(self.first).min(ceiling);
        // 53 bits, so that the fraction is exact and below one.
        let fraction = (self.draw() >> 11) as f64 / (1_u64 << 53) as f64;
        floor + (ceiling - floor).mul_f64(fraction)
    }

    /// A dial succeeded: the next failure starts from `first` again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn draw(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
