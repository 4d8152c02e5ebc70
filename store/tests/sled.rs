//! What is sled's own: its directory, snapshots that it does not have, and what it does not hold.

#![cfg(feature = "sled")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use postroad_store::{Read, Store, StoreError, Table};

const T: Table = Table("t");

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open_sled(path, &[T])
}

fn commit(store: &Store, rows: &[(&[u8], &[u8])]) {
    let mut tx = store.begin().unwrap();
    for (key, value) in rows {
        tx.put(T, key, value);
    }
    tx.commit().unwrap();
}

fn refused(path: &Path, what: &str) {
    let error = open(path).unwrap_err();
    assert!(matches!(&error, StoreError::WrongFormat { found, .. } if found.contains(what)), "{error}");
}

#[test]
fn foreign_and_newer_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();

    let file = dir.path().join("file");
    drop(Store::open(&file, &[T]).unwrap());
    refused(&file, "a file");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    refused(&empty, "without a format version");

    let foreign = dir.path().join("foreign");
    let db = sled::open(&foreign).unwrap();
    db.insert("key", "value").unwrap();
    drop(db);
    refused(&foreign, "without a format version");

    let newer = dir.path().join("newer");
    drop(open(&newer).unwrap());
    let db = sled::open(&newer).unwrap();
    let key = b"\x0astore.metaformat";
    let mut sealed = db.get(key).unwrap().unwrap().to_vec();
    sealed[0] += 1;
    let mut sum = crc32fast::Hasher::new();
    sum.update(b"\x0a\0\0\0store.meta\x06\0\0\0format");
    sum.update(&sealed[..4]);
    sealed[4..].copy_from_slice(&sum.finalize().to_le_bytes());
    db.insert(key, sealed).unwrap();
    drop(db);
    refused(&newer, "format version 2, expected 1");
}

#[test]
fn an_unfinished_creation_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let unfinished = dir.path().join("store.new");
    fs::create_dir_all(unfinished.join("blobs")).unwrap();
    fs::write(unfinished.join("db"), "half of a log").unwrap();
    let store = open(&path).unwrap();
    assert_eq!(store.snapshot().unwrap().get(T, b"key").unwrap(), None);
    assert!(!unfinished.exists());
}

/// Two rows that every commit changes together, and a third that every other commit removes, are
/// never seen apart, whatever the reader took its snapshot between.
#[test]
fn readers_see_whole_commits_while_a_writer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store")).unwrap();
    commit(&store, &[(b"1", &0_u64.to_be_bytes()), (b"2", &0_u64.to_be_bytes()), (b"3", b"")]);
    let done = AtomicBool::new(false);
    let reader = || {
        let (mut newest, mut seen) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let read = store.snapshot().unwrap();
            let first = read.get(T, b"1").unwrap().unwrap();
            let number = u64::from_be_bytes(*first.first_chunk().unwrap());
            let rows = read.range(T, b"", b"", 9).unwrap();
            assert_eq!((&rows[0].1, &rows[1].1), (&first, &first), "half a commit, or a snapshot that changed");
            assert_eq!(rows.len(), if number % 2 == 0 { 3 } else { 2 }, "commit {number}");
            assert_eq!(read.last(T, b"", b"").unwrap(), rows.last().cloned());
            assert!(number >= newest, "an older commit after a newer one");
            seen += u32::from(number > newest);
            newest = number;
        }
        seen
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for number in 1..500_u64 {
            let mut tx = store.begin().unwrap();
            tx.put(T, b"1", &number.to_be_bytes());
            tx.put(T, b"2", &number.to_be_bytes());
            match number % 2 {
                0 => tx.put(T, b"3", b""),
                _ => tx.delete(T, b"3"),
            }
            tx.commit().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 1, "a reader saw nothing change");
        }
    });
}

/// What rots in sled's file is at worst lost without a word: that is told in docs/operators.md.
/// It never comes back as another value.
#[test]
fn what_rots_in_the_file_is_never_served() {
    let needle = b"a value that can be found in the file";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path).unwrap();
    commit(&store, &[(b"bad", needle)]);
    drop(store);
    let log = path.join("db");
    let mut bytes = fs::read(&log).unwrap();
    let places: Vec<usize> = (0..bytes.len() - needle.len()).filter(|i| bytes[*i..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0x10;
    }
    fs::write(&log, bytes).unwrap();
    let served = open(&path).and_then(|store| store.snapshot()?.get(T, b"bad"));
    println!("a flipped bit in sled's log: {served:?}");
    assert!(matches!(served, Err(_) | Ok(None)), "{served:?}");
}

/// A process that is killed, not a power cut: the kernel has what was written.
#[test]
fn a_killed_process_keeps_what_it_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["helper_that_aborts", "--exact", "--nocapture"])
        .env("POSTROAD_TEST_SLED", &path)
        .output()
        .unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains("50 committed"));
    let store = open(&path).unwrap();
    let rows = store.snapshot().unwrap().range(T, b"", b"", 99).unwrap();
    assert_eq!(rows.len(), 50);
}

/// The other process of the test above; in this one it has nothing to do.
#[test]
fn helper_that_aborts() {
    let Some(path) = std::env::var_os("POSTROAD_TEST_SLED") else {
        return;
    };
    let store = open(Path::new(&path)).unwrap();
    for n in 0..50_u8 {
        commit(&store, &[(&[n], &[n; 3000])]);
    }
    println!("50 committed");
    std::process::abort();
}
