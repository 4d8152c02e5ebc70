//! Who sins in the simulator is proven guilty, and nobody else is.

use std::collections::BTreeMap;

use postroad_engine::cheat::Sin;
use postroad_tests::sins::{fault_of, run};

/// Seeds in which everything is drawn.
const DRAWN: u64 = 40;
/// Within so many seeds each sin that leaves a contradiction behind is committed and proven.
const PROVEN_WITHIN: u64 = 20;

#[test]
fn sins_with_crashes_around_them_convict_the_sinner_and_nobody_else() {
    for seed in 0..DRAWN {
        let outcome = run(seed, None, false, false);
        assert_eq!(outcome.failure, None, "simulate --sins --seeds {seed}..{}", seed + 1);
        assert!(outcome.cleared > 0, "nobody was accused in vain in seed {seed}");
    }
}

#[test]
fn old_and_new_homes_that_sin_are_convicted_and_lose_nothing_that_others_have() {
    for seed in 0..DRAWN {
        let outcome = run(seed, None, true, false);
        assert_eq!(outcome.failure, None, "simulate --sins --moves --seeds {seed}..{}", seed + 1);
    }
}

#[test]
fn every_sin_is_proven_as_the_table_says() {
    for sin in Sin::ALL {
        let mut others = BTreeMap::new();
        let proven = (0..PROVEN_WITHIN).any(|seed| {
            let outcome = run(seed, Some(sin), false, false);
            assert_eq!(outcome.failure, None, "simulate --sins --sin {sin} --seeds {seed}..{}", seed + 1);
            let trial = &outcome.trials[0];
            others.extend(trial.others.clone());
            trial.sinned > 0 && (fault_of(sin).is_none() || trial.proven > 0)
        });
        assert!(proven, "{sin} is never proven: {others:?}");
    }
}
