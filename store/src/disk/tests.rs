//! A disk that fills up or fails, at every point of a commit.

use std::fs;

use super::*;
use crate::power::platter::{Faults, Platter};
use crate::{Read, Store};

const T: Table = Table("t");
const PATH: &str = "/disk/store";

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

fn open(platter: &Platter) -> Result<Disk, StoreError> {
    Disk::open(Arc::new(platter.clone()), Path::new(PATH), &[T])
}

/// A store that holds round 1, and its disk.
fn opened() -> (Platter, Disk) {
    let platter = Platter::with_dir(Path::new("/disk"));
    let disk = open(&platter).unwrap();
    disk.commit(staged(1)).unwrap();
    (platter, disk)
}

/// The process stops, and the next one finds a whole round.
fn stops(platter: &Platter, disk: Disk) {
    assert!(matches!(disk.commit(staged(3)), Err(StoreError::Fatal { .. })));
    assert!(matches!(disk.view(), Err(StoreError::Fatal { .. })));
    drop(disk);
    platter.fault(|faults| *faults = Faults::default());
    assert!([1, 2].contains(&round_of(&open(&platter.after_kill()).unwrap())));
}

#[test]
fn full_keeps_nothing_and_can_be_tried_again() {
    let mut full = 0;
    for at in 0.. {
        let (platter, disk) = opened();
        platter.fault(|faults| faults.full_after = Some(at));
        match disk.commit(staged(2)) {
            Err(StoreError::Full) => full += 1,
            // Past the last write of a commit.
            Ok(()) => break,
            // After the flip of the commit: stop, and let the next start decide.
            Err(StoreError::Fatal { .. }) => {
                stops(&platter, disk);
                continue;
            }
            Err(other) => panic!("{other}"),
        }
        // As long as it is full, and when there is space again, without a restart.
        for _ in 0..3 {
            assert!(matches!(disk.commit(staged(2)), Err(StoreError::Full)));
        }
        platter.fault(|faults| faults.full_after = None);
        assert_eq!(round_of(&disk), 1);
        disk.commit(staged(2)).unwrap();
        assert_eq!(round_of(&disk), 2);
        drop(disk);
        assert_eq!(round_of(&open(&platter).unwrap()), 2);
    }
    assert!(full > 10, "only {full} harmless points");
}

#[test]
fn after_full_the_same_store_goes_on() {
    let (platter, disk) = opened();
    platter.fault(|faults| faults.full_after = Some(0));
    let held = disk.view().unwrap();
    assert!(matches!(disk.commit(staged(2)), Err(StoreError::Full)));
    assert!(matches!(disk.view(), Err(StoreError::Full)), "a view still holds the file");
    platter.fault(|faults| faults.full_after = None);
    drop(held);
    disk.commit(staged(3)).unwrap();
    assert_eq!(round_of(&disk), 3);
}

#[test]
fn a_failed_write_is_final() {
    let mut failed = 0;
    for at in 0.. {
        let (platter, disk) = opened();
        platter.fault(|faults| faults.bad_write_after = Some(at));
        match disk.commit(staged(2)) {
            Ok(()) => break,
            Err(StoreError::Fatal { .. }) => failed += 1,
            Err(other) => panic!("write {at}: {other}"),
        }
        stops(&platter, disk);
    }
    assert!(failed > 10, "only {failed} writes");
}

#[test]
fn a_failed_sync_is_final_whatever_its_code() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let mut failed = 0;
        for at in 0.. {
            let (platter, disk) = opened();
            platter.fault(|faults| faults.bad_sync_after = Some((at, kind)));
            match disk.commit(staged(2)) {
                Ok(()) => break,
                Err(StoreError::Fatal { .. }) => failed += 1,
                Err(other) => panic!("sync {at}: {other}"),
            }
            stops(&platter, disk);
        }
        assert!(failed >= 2, "only {failed} syncs");
    }
}

#[test]
fn a_first_start_on_a_bad_disk_fails_and_the_next_one_goes() {
    let all = opened().0.steps();
    let bad: [fn(&mut Faults, u64); 3] = [
        |faults, at| faults.full_after = Some(at),
        |faults, at| faults.bad_write_after = Some(at),
        |faults, at| faults.bad_sync_after = Some((at, io::ErrorKind::StorageFull)),
    ];
    for (index, bad) in bad.iter().enumerate() {
        for at in 0..all {
            let platter = Platter::with_dir(Path::new("/disk"));
            platter.fault(|faults| bad(faults, at));
            match open(&platter) {
                Ok(_) => break,
                Err(StoreError::Full) => assert_eq!(index, 0, "only a write may find the device full"),
                Err(error) => assert!(matches!(error, StoreError::Fatal { .. }), "{error}"),
            }
            platter.fault(|faults| *faults = Faults::default());
            let disk = open(&platter.after_kill()).unwrap();
            disk.commit(staged(1)).unwrap();
            assert_eq!(round_of(&disk), 1);
        }
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

#[test]
fn a_closed_file_can_be_opened_again_while_handles_of_it_remain() {
    let (platter, disk) = opened();
    disk.close();
    assert!(matches!(disk.commit(staged(2)), Err(StoreError::Fatal { .. })));
    assert!(matches!(disk.view(), Err(StoreError::Fatal { .. })));
    assert_eq!(round_of(&open(&platter).unwrap()), 1);
}
