//! The simulator holds, repeats itself, and bites.

use postroad_tests::sim::{Bug, Options, Stats, run};

/// Within so many seeds a planted bug is found.
const BITES_WITHIN: u64 = 200;

#[test]
fn seeds_hold_and_every_kind_of_fault_happens() {
    let (mut stats, mut slowest) = (Stats::default(), 0);
    for seed in 0..100 {
        let outcome = run(seed, &Options::default());
        if let Some(violation) = outcome.violation {
            panic!(
                "seed {seed}: {violation}\n\
                 again: cargo run --release -p postroad-tests --bin simulate -- --seeds {seed}..{} --trace",
                seed + 1
            );
        }
        stats.add(&outcome.stats);
        slowest = slowest.max(outcome.final_ms);
    }
    for (name, count) in stats.list() {
        println!("{name:>22} {count}");
    }
    println!("final at most {slowest} ms of cut time after all faults");
    assert!(stats.never(false).is_empty(), "in a hundred seeds there were no {:?}", stats.never(false));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4] {
        let (once, again) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(hex::encode(once.trace), hex::encode(again.trace), "seed {seed}");
        assert_eq!(once.stats, again.stats, "seed {seed}");
    }
    assert_ne!(run(3, &Options::default()).trace, run(4, &Options::default()).trace);
}

/// The first seed that finds a bug, with all invariants or with those alone that see what comes of it.
fn first_bite(bug: Bug, outcomes_only: bool) -> String {
    let options = Options { bug: Some(bug), outcomes_only, ..Options::default() };
    let found = (0..BITES_WITHIN).find_map(|seed| run(seed, &options).violation.map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{} is not found within {BITES_WITHIN} seeds", bug.name()));
    let only = if outcomes_only { " (by what comes of it)" } else { "" };
    format!("{}{only}: seed {seed}, {violation}", bug.name())
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        println!("{}", first_bite(bug, false));
    }
}

#[test]
fn steps_that_come_too_early_are_found_by_what_comes_of_them() {
    for bug in [Bug::SignBeforePersist, Bug::DeliverBeforeCut, Bug::LateSlices] {
        println!("{}", first_bite(bug, true));
    }
}
