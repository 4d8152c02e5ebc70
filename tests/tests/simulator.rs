//! The simulator holds, repeats itself, and bites.

use postroad_tests::sim::{Bug, Options, Stats, run};

/// Within so many seeds a planted bug is found.
const BITES_WITHIN: u64 = 200;

#[test]
fn seeds_hold_and_every_kind_of_fault_happens() {
    let mut stats = Stats::default();
    for seed in 0..40 {
        let outcome = run(seed, &Options::default());
        if let Some(violation) = outcome.violation {
            panic!(
                "seed {seed}: {violation}\n\
                 again: cargo run --release -p postroad-tests --bin simulate -- --seeds {seed}..{} --trace",
                seed + 1
            );
        }
        stats.add(&outcome.stats);
    }
    for (name, count) in stats.list() {
        println!("{name:>22} {count}");
    }
    let never: Vec<&str> = stats.list().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(never.is_empty(), "in forty seeds there were no {never:?}");
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
    let options = Options { bug: Some(bug), outcomes_only, trace: false };
    let found = (0..BITES_WITHIN).find_map(|seed| run(seed, &options).violation.map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{} is not found within {BITES_WITHIN} seeds", bug.name()));
    format!("{} (outcomes only: {outcomes_only}): seed {seed}, {violation}", bug.name())
}

#[test]
fn signing_before_persisting_is_found() {
    println!("{}", first_bite(Bug::SignBeforePersist, false));
    println!("{}", first_bite(Bug::SignBeforePersist, true));
}

#[test]
fn delivering_before_the_cut_is_found() {
    println!("{}", first_bite(Bug::DeliverBeforeCut, false));
    println!("{}", first_bite(Bug::DeliverBeforeCut, true));
}
