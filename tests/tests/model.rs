//! Moving a mailbox, in every state that a small model of it can reach (`docs/testing.md`).

use postroad_tests::model::explore::{Explored, explore};
use postroad_tests::model::milestones::Milestone::{self, *};
use postroad_tests::model::{Bug, Moving};

/// Two moves among three nodes, and nothing that goes wrong.
const MOVES: Moving = Moving {
    homes: 3,
    messages: 3,
    last: 4,
    moves: 2,
    abandons: 0,
    recovery_key: false,
    restart: false,
    death: false,
    refusal: false,
    reads: false,
    prepared: false,
    bug: None,
};

/// With one message, and time for one move to finish before the next: what most bugs need.
const SMALL: Moving = Moving { messages: 1, last: 6, ..MOVES };

fn told(found: &Explored<Milestone>) -> String {
    match &found.violation {
        Some((violation, way)) => format!("{violation}\n  {}", way.join("\n  ")),
        None => format!("{} states, {} steps, depth {}", found.states, found.steps, found.depth),
    }
}

/// Everything holds in all states of a setting, some of which have come by these milestones, and the documentation names
/// it with their number.
#[track_caller]
fn holds(name: &str, setting: Moving, milestones: &[Milestone]) {
    let found = explore(&setting);
    println!("{name}: {}", told(&found));
    assert!(found.violation.is_none(), "{name}: {}", told(&found));
    let never: Vec<_> = milestones.iter().filter(|milestone| !found.milestones.contains(milestone)).collect();
    assert!(never.is_empty(), "{name}: no state has come by {never:?}");
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/testing.md")).expect("the docs");
    let row = docs.lines().find(|line| line.starts_with(&format!("| {name} |"))).expect("a row for the setting");
    let count = row.trim_end_matches([' ', '|']).rsplit('|').next().expect("a last column").replace(',', "");
    assert_eq!(count.trim(), found.states.to_string(), "{name}: docs/testing.md says another number of states");
}

/// With this bug something does not hold, which is the one that is told.
#[track_caller]
fn is_found(bug: Bug, setting: Moving, violation: &str) {
    let found = explore(&Moving { bug: Some(bug), ..setting });
    println!("{bug:?}: {}", told(&found));
    let told = found.violation.unwrap_or_else(|| panic!("{bug:?} was not found in {} states", found.states)).0;
    assert!(told.contains(violation), "{bug:?}: {told}");
}

#[test]
fn three_messages_two_moves_and_a_death() {
    holds(
        "death",
        Moving { death: true, prepared: true, ..MOVES },
        &[Caught, Straggler, Return, Passed, Lost, Rescued],
    );
}

#[test]
fn a_move_that_finishes_before_the_next() {
    let long = Moving { messages: 2, last: 6, prepared: true, ..MOVES };
    holds("long", long, &[Finished, MovedBase, Caught, Straggler, Return, Passed, Lost]);
}

#[test]
fn a_move_long_after_another() {
    let return_ = Moving { last: 7, ..SMALL };
    holds("return", return_, &[Finished, MovedBase, Caught, Straggler, Return, Passed, Lost]);
}

#[test]
fn a_home_that_has_no_base_yet_and_is_started_again() {
    holds("restart", Moving { messages: 2, restart: true, ..MOVES }, &[Finished, Caught, Straggler]);
}

#[test]
fn moves_that_are_abandoned() {
    holds("abandon", Moving { messages: 1, abandons: 1, death: true, ..MOVES }, &[Lost, Passed, Rescued]);
}

#[test]
fn a_live_reader_and_a_home_that_refuses() {
    let reader = Moving { reads: true, refusal: true, prepared: true, ..MOVES };
    holds("reader", reader, &[Finished, Caught, Straggler, Return]);
}

#[test]
fn a_recovery_key_against_a_thief() {
    let thief = Moving { moves: 1, recovery_key: true, ..MOVES };
    holds("thief", Moving { messages: 1, ..thief }, &[Finished, Overridden]);
    holds("race", Moving { messages: 0, last: 5, abandons: 1, ..thief }, &[Return, Overridden]);
}

#[test]
fn a_message_of_another_residence_is_not_its_own() {
    is_found(Bug::AnyResidence, SMALL, "wrong entry");
}

#[test]
fn stragglers_must_be_imported() {
    is_found(Bug::MissesStragglers, SMALL, "in the log 0 times");
}

#[test]
fn an_import_closes_once() {
    is_found(Bug::ImportsAgain, SMALL, "in the log 2 times");
}

#[test]
fn one_switch_for_each_record() {
    is_found(Bug::SameReplaces, SMALL, "took effect after");
}

#[test]
fn the_old_home_attests_no_more() {
    is_found(Bug::AttestsOn, SMALL, "false home");
}

#[test]
fn a_base_is_whole() {
    is_found(Bug::IncompleteBase, SMALL, "message 0");
}

#[test]
fn a_move_finishes_after_the_last_straggler() {
    is_found(Bug::FinishesEarly, SMALL, "belongs to nobody");
}

#[test]
fn a_fill_after_the_switch_says_nothing() {
    is_found(Bug::TrustsLateFills, SMALL, "in the log 0 times");
}

#[test]
fn a_base_is_kept_over_restarts() {
    is_found(Bug::ForgetsBase, Moving { restart: true, ..SMALL }, "split view");
}

#[test]
fn the_old_home_refuses_nothing_as_unknown() {
    is_found(Bug::RefusesUnknown, SMALL, "in the log 0 times");
}

#[test]
fn what_overrides_a_switch_ends_its_waiting() {
    let thief = Moving { abandons: 1, recovery_key: true, ..SMALL };
    is_found(Bug::WaitingStays, thief, "took effect after");
}

#[test]
fn a_thief_cannot_outrun_the_recovery_key() {
    let thief = Moving { abandons: 1, recovery_key: true, ..SMALL };
    is_found(Bug::RecoveryNamesRecord, thief, "replaced by the device key");
}

#[test]
fn what_was_attested_in_another_residence_binds_no_more() {
    is_found(Bug::SplitAcrossResidences, SMALL, "split view");
}

#[test]
fn an_owner_knows_messages_by_their_numbers() {
    is_found(Bug::ShowsByIndex, Moving { reads: true, ..SMALL }, "shown a message twice");
}
