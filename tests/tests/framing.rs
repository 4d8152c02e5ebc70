//! Nobody is framed, and the generator that says so bites.

use postroad_tests::framing::{Flaw, Options, Report, run};

/// What every run makes.
const COMBINATIONS: u64 = 10_000;
/// Within so many combinations a planted flaw convicts somebody.
const BITES_WITHIN: u64 = 100_000;

fn options(seed: u64) -> Options {
    Options { seed, from: 0, combinations: COMBINATIONS, jobs: 2, flaw: None, stop: false }
}

#[test]
fn nobody_who_was_honest_is_convicted() {
    let report = run(&options(3));
    let total = report.total();
    println!("{total:?}");
    for ((fault, reason), count) in &report.reasons {
        println!("{fault:>14} cleared {count:>6} {reason}");
    }
    if let Some(conviction) = report.convictions.first() {
        let (number, verdict) = (conviction.number, &conviction.verdict);
        panic!(
            "combination {number} convicts {}: {verdict:?}\n\
             again: cargo run --release -p postroad-tests --bin frame -- --seed 3 --from {number} --combinations 1",
            verdict.culprit
        );
    }
    assert_eq!((total.combinations, total.verdicts), (COMBINATIONS, 0));
    assert!(total.decoded * 2 >= total.combinations, "at least half of them decode: {total:?}");
    assert_eq!(report.kinds.len(), 16, "claims of every kind");
    has_come_close(&report);
}

/// What clears the innocent at the last moment has done so.
fn has_come_close(report: &Report) {
    use postroad_protocol::evidence::Fault::*;
    let close = [
        (Omission, "InSlice"),
        (BadSlice, "Agrees"),
        (Forgery, "Signed"),
        (Misordering, "Rising"),
        (Stale, "InTime"),
        (Drop, "Pending"),
        (Drop, "Refused"),
        (Drop, "NotYet"),
        (WrongEntry, "Agrees"),
        (WrongEntry, "InSlice"),
        (EarlyExpiry, "Acknowledged"),
        (EarlyExpiry, "PastRetention"),
        (SplitView, "Same"),
        (SplitView, "Agrees"),
        (InvalidCut, "Valid"),
        (SplitOrder, "Same"),
        (FalseImport, "Agrees"),
        (FalseHome, "LivedThere"),
    ];
    for (fault, reason) in close {
        assert!(report.reasons.contains_key(&(fault, reason.to_owned())), "{fault} was never cleared by {reason}");
    }
    let of_two = report.reasons.keys().any(|(_, reason)| reason == "OtherIncarnation");
    assert!(of_two, "nobody was cleared because it had started again");
    assert!(report.total().losses > 0, "no holder has lost anything");
}

#[test]
fn a_combination_is_the_same_whenever_it_is_made() {
    let once = run(&Options { combinations: 400, jobs: 1, ..options(5) });
    let parts = [(0, 150), (150, 250)]
        .map(|(from, combinations)| run(&Options { from, combinations, jobs: 1, ..options(5) }).kinds);
    for (fault, counts) in &once.kinds {
        let sum: u64 = parts.iter().filter_map(|part| part.get(fault)).map(|counts| counts.unproven).sum();
        assert_eq!(sum, counts.unproven, "{fault}");
    }
}

#[test]
fn every_planted_flaw_convicts() {
    for flaw in Flaw::ALL {
        let options = Options { combinations: BITES_WITHIN, jobs: 1, flaw: Some(flaw), stop: true, ..options(1) };
        let report = run(&options);
        let conviction = report.convictions.first();
        let conviction = conviction.unwrap_or_else(|| panic!("{} convicts nobody in {BITES_WITHIN}", flaw.name()));
        println!("{}: {} after {} combinations", flaw.name(), conviction.verdict.fault, conviction.number + 1);
    }
}
