//! A rate: so many things in a minute, and as many at once after a quiet one.

use crate::io::Time;

/// What one thing takes; a minute has as many milliseconds.
const COST: u64 = 60_000;

/// Lets things through at a rate.
#[derive(Debug)]
pub struct Rate {
    per_minute: u64,
    /// What is left, in units of which `per_minute` come back each millisecond.
    left: u64,
    at: Time,
}

impl Rate {
    /// `per_minute` things in a minute; 0 for no bound.
    pub fn new(per_minute: u64) -> Rate {
        Rate { per_minute, left: per_minute.saturating_mul(COST), at: Time(0) }
    }

    /// Whether one more may pass now; if so, it has.
    pub fn pass(&mut self, now: Time) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let back = now.since_ms(self.at).saturating_mul(self.per_minute);
        self.left = self.left.saturating_add(back).min(self.per_minute.saturating_mul(COST));
        self.at = self.at.max(now);
        let passes = self.left >= COST;
        if passes {
            self.left -= COST;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_lets_its_number_through_and_what_comes_beyond_waits_its_turn() {
        let mut rate = Rate::new(6);
        let start = Time(1_000);
        assert!((0..6).all(|_| rate.pass(start)));
        assert!(!rate.pass(start));
        assert!(!rate.pass(start.after_ms(9_999)));
        assert!(rate.pass(start.after_ms(10_000)), "one comes back in ten seconds");
        assert!(!rate.pass(start.after_ms(10_001)));
        let later = start.after_ms(3_600_000);
        assert_eq!((0..100).filter(|_| rate.pass(later)).count(), 6, "a quiet hour saves up no more than a minute");
        assert!(!rate.pass(start), "a clock that goes back gives nothing");
    }

    #[test]
    fn zero_is_no_bound() {
        let mut rate = Rate::new(0);
        assert!((0..10_000).all(|_| rate.pass(Time(0))));
    }
}
