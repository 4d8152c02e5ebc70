//! A disk that fills up or fails, at every point of a commit.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{Read, Store};

const T: Table = Table("t");

fn staged(round: u64) -> Staged {
    let mut staged = Staged::default();
    for key in 0..40_u64 {
        staged.put(T, &key.to_be_bytes(), &[round as u8; 3000]);
    }
    staged
}

fn round_of(disk: &Disk) -> u8 {
    let view = disk.view().unwrap();
    let rows: Vec<u8> = (0..40_u64)
        .map(|key| {
            let sealed = view.get(T, &key.to_be_bytes()).unwrap().unwrap();
            seal::open(T, &key.to_be_bytes(), sealed).unwrap()[0]
        })
        .collect();
    assert!(rows.iter().all(|round| *round == rows[0]), "half a commit: {rows:?}");
    rows[0]
}

fn watch(disk: &Disk) -> Arc<Watch> {
    Arc::clone(&disk.opened().unwrap().watch)
}

#[test]
fn full_keeps_nothing_and_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let disk = Disk::open(&path, &[T]).unwrap();
    disk.commit(staged(1)).unwrap();
    let mut full = 0;
    for at in 0..200 {
        watch(&disk).faults.full_at.store(at, SeqCst);
        match disk.commit(staged(2)) {
            Err(StoreError::Full) => full += 1,
            // Past the last write of a commit.
            Ok(()) => break,
            // After the flip of the commit: stop, and let the next start decide.
            Err(StoreError::Fatal { .. }) => {
                assert!(disk.view().is_err());
                drop(disk);
                let disk = Disk::open(&path, &[T]).unwrap();
                assert!([1, 2].contains(&round_of(&disk)));
                assert!(full > 10, "only {full} harmless points");
                return;
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(round_of(&disk), 1);
    }
    assert!(full > 10, "only {full} harmless points");
    assert_eq!(round_of(&disk), 2);
}

#[test]
fn after_full_the_same_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(&dir.path().join("store"), &[T]).unwrap();
    disk.commit(staged(1)).unwrap();
    watch(&disk).faults.full_at.store(0, SeqCst);
    let held = disk.view().unwrap();
    assert!(matches!(disk.commit(staged(2)), Err(StoreError::Full)));
    assert!(matches!(disk.view(), Err(StoreError::Full)), "a view still holds the file");
    drop(held);
    disk.commit(staged(3)).unwrap();
    assert_eq!(round_of(&disk), 3);
}

#[test]
fn a_failed_sync_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for at in 0..2 {
        let disk = Disk::open(&path, &[T]).unwrap();
        disk.commit(staged(1)).unwrap();
        watch(&disk).faults.bad_sync_at.store(at, SeqCst);
        assert!(matches!(disk.commit(staged(2)), Err(StoreError::Fatal { .. })), "sync {at}");
        assert!(matches!(disk.commit(staged(3)), Err(StoreError::Fatal { .. })));
        assert!(matches!(disk.view(), Err(StoreError::Fatal { .. })));
        drop(disk);
        let disk = Disk::open(&path, &[T]).unwrap();
        assert!([1, 2].contains(&round_of(&disk)));
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = |path: &Path| {
        assert!(matches!(Store::open(path, &[T]), Err(StoreError::WrongFormat { .. })));
    };

    let text = dir.path().join("text");
    std::fs::write(&text, "not a store at all").unwrap();
    wrong(&text);
    assert_eq!(fs::read(&text).unwrap(), b"not a store at all");

    let foreign = dir.path().join("foreign");
    let db = Database::create(&foreign).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(definition(T)).unwrap();
    write.commit().unwrap();
    drop(db);
    wrong(&foreign);

    let newer = dir.path().join("newer");
    drop(Store::open(&newer, &[T]).unwrap());
    let db = Database::create(&newer).unwrap();
    let write = db.begin_write().unwrap();
    let version = seal::seal(META, FORMAT_KEY, &(FORMAT + 1).to_le_bytes());
    write.open_table(definition(META)).unwrap().insert(FORMAT_KEY, &*version).unwrap();
    write.commit().unwrap();
    drop(db);
    wrong(&newer);
}

#[test]
fn an_unfinished_creation_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.new"), "half of a header").unwrap();
    let store = Store::open(&dir.path().join("store"), &[T]).unwrap();
    assert_eq!(store.snapshot().unwrap().get(T, b"key").unwrap(), None);
    assert!(!dir.path().join("store.new").exists());
}
