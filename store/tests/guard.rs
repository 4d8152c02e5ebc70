//! The rules of the signing guard, in memory and on a disk.

#![cfg(feature = "redb")]

use std::fs;

use postroad_store::{Guard, GuardError};

fn sign(guard: &Guard, slot: u64, digest: u8, signature: u8) -> Result<[u8; 64], GuardError> {
    guard.sign(slot, [digest; 32], || [signature; 64])
}

fn keeps_the_rules(guard: &Guard) {
    assert_eq!(guard.last(), None);
    assert_eq!(sign(guard, 3, 1, 7).unwrap(), [7; 64]);
    let again = guard.sign(3, [1; 32], || panic!("signed twice"));
    assert_eq!(again.unwrap(), [7; 64]);
    let never = |slot, digest| guard.sign(slot, [digest; 32], || panic!("signed a contradiction"));
    assert!(matches!(never(3, 2), Err(GuardError::Refused { slot: 3, last: 3 })));
    assert!(matches!(never(2, 1), Err(GuardError::Refused { slot: 2, last: 3 })));
    assert!(matches!(never(0, 1), Err(GuardError::Refused { slot: 0, last: 3 })));
    assert_eq!(guard.last(), Some((3, [1; 32], [7; 64])));
    assert_eq!(sign(guard, 4, 1, 8).unwrap(), [8; 64]);
    assert_eq!(sign(guard, u64::MAX, 9, 9).unwrap(), [9; 64]);
    assert!(matches!(sign(guard, 4, 1, 8), Err(GuardError::Refused { .. })));
    assert_eq!(guard.last(), Some((u64::MAX, [9; 32], [9; 64])));
}

#[test]
fn memory_keeps_the_rules_and_outlives_a_crash() {
    let guard = Guard::memory();
    let held_by_the_simulator = guard.clone();
    keeps_the_rules(&guard);
    drop(guard);
    assert_eq!(held_by_the_simulator.last(), Some((u64::MAX, [9; 32], [9; 64])));
}

#[test]
fn a_file_keeps_the_rules_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made by the guard");
    let guard = Guard::open(&dir, true).unwrap();
    keeps_the_rules(&guard);
    drop(guard);
    // A guard ahead of an empty store is a store that was lost: the guard still holds.
    for store_is_empty in [false, true] {
        let guard = Guard::open(&dir, store_is_empty).unwrap();
        assert_eq!(guard.last(), Some((u64::MAX, [9; 32], [9; 64])));
        assert_eq!(sign(&guard, u64::MAX, 9, 0).unwrap(), [9; 64]);
        assert!(matches!(sign(&guard, u64::MAX, 8, 0), Err(GuardError::Refused { .. })));
    }
}

#[test]
fn every_signature_is_on_the_disk_before_it_is_returned() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let guard = Guard::open(dir.path(), true).unwrap();
    for slot in 1..50_u64 {
        sign(&guard, slot, slot as u8, slot as u8).unwrap();
        fs::copy(dir.path().join("guard"), copy.path().join("guard")).unwrap();
        let found = Guard::open(copy.path(), false).unwrap().last();
        assert_eq!(found, Some((slot, [slot as u8; 32], [slot as u8; 64])));
    }
}

#[test]
fn a_missing_guard_of_a_used_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Guard::open(dir.path(), false), Err(GuardError::Missing { .. })));
    sign(&Guard::open(dir.path(), true).unwrap(), 1, 1, 1).unwrap();
    fs::remove_file(dir.path().join("guard")).unwrap();
    assert!(matches!(Guard::open(dir.path(), false), Err(GuardError::Missing { .. })));
}

#[test]
fn an_unfinished_creation_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("guard.new"), "half").unwrap();
    assert!(matches!(Guard::open(dir.path(), false), Err(GuardError::Missing { .. })));
    assert_eq!(Guard::open(dir.path(), true).unwrap().last(), None);
}

#[test]
fn one_process_has_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let guard = Guard::open(dir.path(), true).unwrap();
    assert!(matches!(Guard::open(dir.path(), false), Err(GuardError::InUse { .. })));
    drop(guard);
    Guard::open(dir.path(), false).unwrap();
}

#[test]
fn a_panic_while_signing_changes_nothing() {
    let guard = Guard::memory();
    sign(&guard, 1, 1, 1).unwrap();
    let inner = guard.clone();
    let panicked = std::thread::spawn(move || inner.sign(2, [2; 32], || panic!("no key"))).join();
    assert!(panicked.is_err());
    assert_eq!(guard.last(), Some((1, [1; 32], [1; 64])));
    assert_eq!(sign(&guard, 2, 3, 3).unwrap(), [3; 64]);
}
