//! What every back end of the store promises, checked against redb, memory and, with its feature, sled alike.

#![cfg(feature = "redb")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use postroad_store::{DirLock, Read, Snapshot, Store, StoreError, Table, Write, prefix_end};
use proptest::prelude::*;

const A: Table = Table("a");
const B: Table = Table("b");
const TABLES: [Table; 2] = [A, B];

type Open = fn(&Path, &[Table]) -> Result<Store, StoreError>;

/// The back ends that outlive a process.
const DISKS: &[Open] = &[
    Store::open,
    #[cfg(feature = "sled")]
    Store::open_sled,
];

/// Runs `check` with a store of each kind, empty at first.
fn on_each(check: impl Fn(&Store)) {
    check(&Store::memory(&TABLES));
    for open in DISKS {
        let dir = tempfile::tempdir().unwrap();
        check(&open(&dir.path().join("store"), &TABLES).unwrap());
    }
}

fn commit(store: &Store, rows: &[(Table, &[u8], &[u8])]) {
    let mut tx = store.begin().unwrap();
    for (table, key, value) in rows {
        tx.put(*table, key, value);
    }
    tx.commit().unwrap();
}

fn keys(read: &dyn Read, from: &[u8], to: &[u8], limit: usize) -> Vec<Vec<u8>> {
    read.range(A, from, to, limit).unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn a_transaction_reads_its_own_writes() {
    on_each(|store| {
        commit(store, &[(A, b"kept", b"1"), (A, b"changed", b"1"), (A, b"deleted", b"1")]);
        let mut tx = store.begin().unwrap();
        assert!(tx.is_empty());
        tx.apply(&Write::Put { table: A, key: b"changed".into(), value: b"2".into() });
        tx.apply(&Write::Delete { table: A, key: b"deleted".into() });
        tx.put(A, b"new", b"");
        tx.put(B, b"kept", b"other table");
        assert_eq!(tx.get(A, b"kept").unwrap().unwrap(), b"1");
        assert_eq!(tx.get(A, b"changed").unwrap().unwrap(), b"2");
        assert_eq!(tx.get(A, b"deleted").unwrap(), None);
        assert_eq!(tx.get(A, b"new").unwrap().unwrap(), b"");
        assert_eq!(tx.get(B, b"changed").unwrap(), None);
        assert_eq!(keys(&tx, b"", b"", 9), [&b"changed"[..], b"kept", b"new"]);
        assert_eq!(keys(&tx, b"", b"", 2), [&b"changed"[..], b"kept"]);
        assert_eq!(tx.last(A, b"", b"kept").unwrap().unwrap(), (b"changed".into(), b"2".into()));
        tx.commit().unwrap();
        let after = store.snapshot().unwrap();
        assert_eq!(keys(&after, b"", b"", 9), [&b"changed"[..], b"kept", b"new"]);
        assert_eq!(after.get(B, b"kept").unwrap().unwrap(), b"other table");
    });
}

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    on_each(|store| {
        commit(store, &[(A, b"k", b"1")]);
        let mut tx = store.begin().unwrap();
        tx.put(A, b"k", b"2");
        tx.put(A, b"l", b"2");
        tx.delete(A, b"k");
        drop(tx);
        let tx = store.begin().unwrap();
        assert_eq!(tx.range(A, b"", b"", 9).unwrap(), [(b"k".to_vec(), b"1".to_vec())]);
    });
}

#[test]
fn ranges_are_ordered_half_open_and_limited() {
    on_each(|store| {
        let all: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"b", b"\xff\xff"];
        // Half of them stored, half staged, so that reads have to merge.
        let mut tx = store.begin().unwrap();
        for key in all.iter().rev().step_by(2) {
            tx.put(A, key, key);
        }
        tx.commit().unwrap();
        let mut tx = store.begin().unwrap();
        for key in all.iter().rev().skip(1).step_by(2) {
            tx.put(A, key, key);
        }
        assert_eq!(keys(&tx, b"", b"", usize::MAX), all);
        for limit in 0..=all.len() {
            assert_eq!(keys(&tx, b"", b"", limit), all[..limit]);
        }
        for (i, from) in all.iter().enumerate() {
            assert_eq!(keys(&tx, from, b"", 9), all[i..]);
            for (j, to) in all.iter().enumerate().skip(1) {
                let expected = all.get(i..j).unwrap_or_default();
                assert_eq!(keys(&tx, from, to, 9), expected, "{from:?}..{to:?}");
                let last = tx.last(A, from, to).unwrap().map(|(key, _)| key);
                assert_eq!(last.as_deref(), expected.last().copied(), "{from:?}..{to:?}");
            }
        }
        assert_eq!(tx.last(B, b"", b"").unwrap(), None);
    });
}

#[test]
fn deletions_do_not_use_up_the_limit() {
    on_each(|store| {
        commit(store, &[(A, b"1", b""), (A, b"2", b""), (A, b"3", b""), (A, b"4", b"")]);
        let mut tx = store.begin().unwrap();
        tx.delete(A, b"1");
        tx.delete(A, b"4");
        tx.delete(A, b"absent");
        assert_eq!(keys(&tx, b"", b"", 2), [b"2", b"3"]);
        assert_eq!(tx.last(A, b"", b"").unwrap().unwrap().0, b"3");
        tx.delete(A, b"3");
        tx.put(A, b"1", b"back");
        assert_eq!(tx.get(A, b"1").unwrap().unwrap(), b"back");
        tx.commit().unwrap();
        assert_eq!(keys(&store.snapshot().unwrap(), b"", b"", 9), [b"1", b"2"]);
    });
}

#[test]
fn a_snapshot_stays_as_it_was() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    on_each(|store| {
        commit(store, &[(A, b"k", b"before"), (A, b"gone", b"1")]);
        let before: Snapshot = store.snapshot().unwrap();
        assert_shared(store);
        assert_shared(&before);
        for round in 0..20_u8 {
            let mut tx = store.begin().unwrap();
            tx.put(A, b"k", &[round]);
            tx.delete(A, b"gone");
            let other = store.snapshot().unwrap().get(A, b"k").unwrap().unwrap();
            assert_ne!(other, [round], "a snapshot sees staged writes");
            tx.commit().unwrap();
        }
        assert_eq!(before.get(A, b"k").unwrap().unwrap(), b"before");
        assert_eq!(keys(&before, b"", b"", 9), [&b"gone"[..], b"k"]);
        assert_eq!(store.snapshot().unwrap().get(A, b"k").unwrap().unwrap(), [19]);
    });
}

#[test]
fn a_snapshot_outlives_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = DISKS.iter().enumerate().map(|(i, open)| open(&dir.path().join(i.to_string()), &TABLES).unwrap());
    for store in on_disk.chain([Store::memory(&TABLES)]) {
        commit(&store, &[(A, b"k", b"1"), (B, b"k", b"2")]);
        let snapshot = store.snapshot().unwrap();
        drop(store);
        assert_eq!(snapshot.get(B, b"k").unwrap().unwrap(), b"2");
    }
}

#[test]
fn one_writer_at_a_time() {
    on_each(|store| {
        let mut tx = store.begin().unwrap();
        let (sender, receiver) = mpsc::channel();
        let other = store.clone();
        let thread = thread::spawn(move || {
            let tx = other.begin().unwrap();
            sender.send(tx.get(A, b"k").unwrap()).unwrap();
        });
        tx.put(A, b"k", b"first");
        assert!(receiver.try_recv().is_err());
        tx.commit().unwrap();
        // The second transaction starts from what the first one committed.
        assert_eq!(receiver.recv().unwrap().unwrap(), b"first");
        thread.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "table c was not declared")]
fn an_undeclared_table_is_a_bug() {
    let _ = Store::memory(&TABLES).snapshot().unwrap().get(Table("c"), b"k");
}

#[test]
fn prefix_ends() {
    assert_eq!(prefix_end(b"ab"), b"ac");
    assert_eq!(prefix_end(b"a\xff\xff"), b"b");
    assert_eq!(prefix_end(b"\xff\xff"), b"");
    assert_eq!(prefix_end(b""), b"");
    on_each(|store| {
        commit(store, &[(A, b"a\xff", b""), (A, b"b", b""), (A, b"\xff", b""), (A, b"\xff\0", b"")]);
        let tx = store.begin().unwrap();
        assert_eq!(keys(&tx, b"a", &prefix_end(b"a"), 9), [b"a\xff"]);
        assert_eq!(keys(&tx, b"\xff", &prefix_end(b"\xff"), 9), [&b"\xff"[..], b"\xff\0"]);
    });
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_nothing_else() {
    for open in DISKS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = open(&path, &TABLES).unwrap();
        commit(&store, &[(A, b"k", b"1"), (B, b"k", b"2")]);
        let mut tx = store.begin().unwrap();
        tx.put(A, b"lost", b"3");
        drop(tx);
        drop(store);
        let store = open(&path, &[A, B, Table("added later")]).unwrap();
        let read = store.snapshot().unwrap();
        assert_eq!(read.range(A, b"", b"", 9).unwrap(), [(b"k".to_vec(), b"1".to_vec())]);
        assert_eq!(read.get(B, b"k").unwrap().unwrap(), b"2");
        assert_eq!(read.get(Table("added later"), b"k").unwrap(), None);
    }
}

#[test]
fn a_second_opening_is_refused() {
    for (kind, open) in DISKS.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = open(&path, &TABLES).unwrap();
        let in_use = open(&path, &TABLES).unwrap_err();
        assert!(matches!(&in_use, StoreError::InUse { path: held } if *held == path), "{in_use}");
        let lock = DirLock::take(dir.path()).unwrap();
        assert!(matches!(DirLock::take(dir.path()), Err(StoreError::InUse { .. })));

        // The same in another process: this test binary again, with only the helper below.
        let child = |expected: &str| {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["helper_for_another_process", "--exact", "--nocapture"])
                .env("POSTROAD_TEST_DIR", dir.path())
                .env("POSTROAD_TEST_KIND", kind.to_string())
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(output.contains(expected), "{output}");
        };
        child("store in use: true, directory in use: true");
        drop((store, lock));
        child("store in use: false, directory in use: false");
        open(&path, &TABLES).unwrap();
        drop(DirLock::take(dir.path()).unwrap());
    }
}

/// The other process of the test above; in this one it has nothing to do.
#[test]
fn helper_for_another_process() {
    let (Some(dir), Ok(kind)) = (std::env::var_os("POSTROAD_TEST_DIR"), std::env::var("POSTROAD_TEST_KIND")) else {
        return;
    };
    let store = DISKS[kind.parse::<usize>().unwrap()](&Path::new(&dir).join("store"), &TABLES);
    let lock = DirLock::take(Path::new(&dir));
    println!(
        "store in use: {}, directory in use: {}",
        matches!(store, Err(StoreError::InUse { .. })),
        matches!(lock, Err(StoreError::InUse { .. })),
    );
}

const NEEDLE: &[u8] = b"a value that can be found in the file";

/// Flips a bit of the value at `(A, "bad")` in a closed store, as far from its needle as told.
type Flip = fn(&Path, usize);

fn flip_in_file(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - NEEDLE.len()).filter(|i| bytes[*i..].starts_with(NEEDLE)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place + at] ^= 0x10;
    }
    fs::write(path, bytes).unwrap();
}

/// sled has a checksum over each of its log's entries, so what rots in its file does not come
/// through (`tests/sled.rs`); what rots before it writes or after it read does.
#[cfg(feature = "sled")]
fn flip_in_sled(path: &Path, at: usize) {
    let db = sled::open(path).unwrap();
    let mut value = db.get(b"\x01abad").unwrap().unwrap().to_vec();
    assert!(value.starts_with(NEEDLE));
    value[at] ^= 0x10;
    db.insert(b"\x01abad", value).unwrap();
    db.flush().unwrap();
}

#[test]
fn a_flipped_bit_is_found_at_the_read() {
    let kinds: &[(Open, Flip)] = &[
        (Store::open, flip_in_file),
        #[cfg(feature = "sled")]
        (Store::open_sled, flip_in_sled),
    ];
    for (open, flip) in kinds {
        for (at, len) in [(0, 100), (36, 100), (0, 20_000)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let store = open(&path, &TABLES).unwrap();
            let mut value = NEEDLE.to_vec();
            value.resize(len, b'.');
            commit(&store, &[(A, b"bad", &value), (A, b"good", b"1"), (A, b"also good", b"2")]);
            drop(store);
            flip(&path, at);

            let store = open(&path, &TABLES).unwrap();
            let read = store.begin().unwrap();
            let corrupt = |error: StoreError| {
                assert!(matches!(&error, StoreError::Corrupt { table: A, key } if key == b"bad"), "{error}");
            };
            corrupt(read.get(A, b"bad").unwrap_err());
            corrupt(read.range(A, b"", b"", 9).unwrap_err());
            corrupt(read.last(A, b"", b"c").unwrap_err());
            assert_eq!(read.get(A, b"good").unwrap().unwrap(), b"1");
            assert_eq!(read.last(A, b"", b"").unwrap().unwrap().1, b"1");
            assert_eq!(read.range(A, b"", b"", 1).unwrap()[0].1, b"2");
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, Vec<u8>, Vec<u8>),
    Delete(u8, Vec<u8>),
    Get(u8, Vec<u8>),
    Range(u8, Vec<u8>, Vec<u8>, usize),
    Last(u8, Vec<u8>, Vec<u8>),
    Commit,
    Abort,
}

fn op() -> impl Strategy<Value = Op> {
    // Few and short keys, so that operations meet.
    let key = || prop::collection::vec(prop::sample::select(vec![0_u8, 1, 0xff]), 0..3);
    let value = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (0..2_u8, key(), value).prop_map(|(t, k, v)| Op::Put(t, k, v)),
        3 => (0..2_u8, key()).prop_map(|(t, k)| Op::Delete(t, k)),
        3 => (0..2_u8, key()).prop_map(|(t, k)| Op::Get(t, k)),
        3 => (0..2_u8, key(), key(), 0..6_usize).prop_map(|(t, a, b, n)| Op::Range(t, a, b, n)),
        3 => (0..2_u8, key(), key()).prop_map(|(t, a, b)| Op::Last(t, a, b)),
        1 => Just(Op::Commit),
        1 => Just(Op::Abort),
    ]
}

type Model = [BTreeMap<Vec<u8>, Vec<u8>>; 2];

fn model_range(model: &Model, t: u8, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let inside = |key: &[u8]| key >= from && (to.is_empty() || key < to);
    let rows = model[usize::from(t)].iter().filter(|(key, _)| inside(key));
    rows.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn follows_the_model(store: &Store, ops: &[Op]) {
    let (mut committed, mut model) = (Model::default(), Model::default());
    let mut tx = store.begin().unwrap();
    for op in ops {
        match op {
            Op::Put(t, key, value) => {
                tx.put(TABLES[usize::from(*t)], key, value);
                model[usize::from(*t)].insert(key.clone(), value.clone());
            }
            Op::Delete(t, key) => {
                tx.delete(TABLES[usize::from(*t)], key);
                model[usize::from(*t)].remove(key);
            }
            Op::Get(t, key) => {
                let found = tx.get(TABLES[usize::from(*t)], key).unwrap();
                assert_eq!(found.as_ref(), model[usize::from(*t)].get(key));
            }
            Op::Range(t, from, to, limit) => {
                let mut expected = model_range(&model, *t, from, to);
                expected.truncate(*limit);
                let found = tx.range(TABLES[usize::from(*t)], from, to, *limit).unwrap();
                assert_eq!(found, expected);
            }
            Op::Last(t, from, to) => {
                let expected = model_range(&model, *t, from, to).pop();
                assert_eq!(tx.last(TABLES[usize::from(*t)], from, to).unwrap(), expected);
            }
            Op::Commit => {
                tx.commit().unwrap();
                committed.clone_from(&model);
                tx = store.begin().unwrap();
            }
            Op::Abort => {
                drop(tx);
                model.clone_from(&committed);
                tx = store.begin().unwrap();
            }
        }
        let snapshot = store.snapshot().unwrap();
        for t in 0..2_u8 {
            let found = snapshot.range(TABLES[usize::from(t)], b"", b"", 99).unwrap();
            assert_eq!(found, model_range(&committed, t, b"", b""));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_history_follows_the_model(ops in prop::collection::vec(op(), 0..60)) {
        on_each(|store| follows_the_model(store, &ops));
    }
}

#[test]
fn who_inspects_a_store_changes_no_byte_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = Store::open(&path, &TABLES).unwrap();
    commit(&store, &[(A, b"1", b"one"), (A, b"2", &[7; 20_000])]);
    // A copy of a file that is open is one that was not closed, and is repaired when it is opened.
    fs::copy(&path, &copy).unwrap();
    assert!(matches!(Store::inspect(&path, &TABLES), Err(StoreError::InUse { .. })));
    drop(store);
    let missing = dir.path().join("missing");
    assert!(Store::inspect(&missing, &TABLES).is_err());
    assert!(!missing.exists());
    for path in [&path, &copy] {
        let before = fs::read(path).unwrap();
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        // With a table that it does not have.
        let store = Store::inspect(path, &[A, B, Table("new")]).unwrap();
        assert!(matches!(Store::inspect(path, &TABLES), Err(StoreError::InUse { .. })));
        commit(&store, &[(B, b"3", &[8; 20_000])]);
        let view = store.snapshot().unwrap();
        assert_eq!(view.get(A, b"2").unwrap().unwrap(), [7; 20_000]);
        assert_eq!(view.get(B, b"3").unwrap().unwrap(), [8; 20_000]);
        assert_eq!(view.get(Table("new"), b"").unwrap(), None);
        drop((view, store));
        assert!(fs::read(path).unwrap() == before);
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), modified);
        assert_eq!(Store::open(path, &TABLES).unwrap().snapshot().unwrap().get(B, b"3").unwrap(), None);
    }
}
