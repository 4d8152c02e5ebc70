//! The back end on sled 0.34: a directory with sled's log in it.
//!
//! All tables lie in one tree, so that one batch is one commit; a key is the length of its table's
//! name, the name, and the key. sled's own flush leaves what it wrote to the kernel
//! (`sync_file_range`, sled #1452), so each commit syncs the log itself before it returns. That
//! does not make sled safe: what it does after an abrupt stop is its recovery's business, and that
//! is known to lose and to corrupt (#1533, #1509, #1189). What is read still carries our checksum.
//!
//! sled has no snapshots. A commit keeps the values that it replaces in memory ([`Past`]) as long
//! as a view from before it lives, and a view reads them instead of what came after. A commit
//! counts only when it is durable: until then new views see what was before it.
//!
//! It refuses to go on after any error. sled has applied a batch before it writes it, so a full
//! device leaves no way back either: here it is as final as a broken one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sled::{Batch, Config, Db, IVec};

use crate::medium::{Files, Medium, OpenFile, parent};
use crate::staged::{Changes, Order, Staged, Visit, bounds, cover};
use crate::{StoreError, Table, seal};

/// The version of what this crate writes: keys and checksums.
const FORMAT: u32 = 1;
/// Holds the format version; no declared table may have this name.
const META: Table = Table("store.meta");
const FORMAT_KEY: &[u8] = b"format";
const CACHE_BYTES: u64 = 128 << 20;
/// sled's log in its directory.
const LOG: &str = "db";
const LOCK: &str = "lock";

/// The key in the tree.
fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let name = table.0.as_bytes();
    let len = u8::try_from(name.len()).expect("table names are short");
    [&[len], name, key].concat()
}

/// The end of `table` in the tree if `to` is empty, and else the key.
fn full_end(table: Table, to: &[u8]) -> Vec<u8> {
    if to.is_empty() { crate::prefix_end(&full_key(table, b"")) } else { full_key(table, to) }
}

/// What commits replaced, for the views from before them. Keys are those of the tree.
#[derive(Default)]
struct Past {
    /// How many commits are durable.
    commits: u64,
    /// By the number of the commit that replaced them: values as they were before it.
    replaced: BTreeMap<u64, Changes>,
    /// How many views there are, by the commits they have seen.
    views: BTreeMap<u64, usize>,
    failed: bool,
}

impl Past {
    /// Forgets what no view needs.
    fn prune(&mut self) {
        let oldest = self.views.keys().next().copied().unwrap_or(self.commits);
        self.replaced = self.replaced.split_off(&(oldest + 1));
    }

    /// What was replaced since `seen` commits; of several values of one key the oldest.
    fn since(&self, seen: u64) -> impl Iterator<Item = &Changes> {
        self.replaced.range(seen + 1..).map(|(_, changes)| changes)
    }
}

pub(crate) struct SledDisk {
    db: Db,
    /// The same file that sled writes, to sync it.
    log: File,
    /// Held while a batch is applied, so that no reader sees half of it.
    past: RwLock<Past>,
    /// Last, so that it outlives what it protects.
    _lock: OpenFile,
}

impl SledDisk {
    pub(crate) fn open(path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        assert!(!tables.contains(&META), "the table name {META} is reserved");
        let in_use = || StoreError::InUse { path: path.to_owned() };
        if path.is_file() {
            return Err(wrong(path, "a file, where sled has a directory"));
        }
        let lock = if path.exists() {
            let lock = Files.open_locked(&path.join(LOCK)).map_err(opening)?.ok_or_else(in_use)?;
            // Whoever made it may have been killed before it had synced the name.
            Files.sync_dir(parent(path)).map_err(opening)?;
            lock
        } else {
            create(path)?
        };
        let db = open_tree(path)?;
        check_format(path, &db)?;
        let log = File::open(path.join(LOG)).map_err(opening)?;
        Ok(Self { db, log, past: RwLock::default(), _lock: lock })
    }

    // A panic under the lock leaves at most a batch half applied, which is not durable either.
    fn read(&self) -> RwLockReadGuard<'_, Past> {
        self.past.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Past> {
        self.past.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn commit(&self, staged: Staged) -> Result<(), StoreError> {
        if self.read().failed {
            return Err(failed_before());
        }
        match self.apply(staged) {
            Ok(()) => {
                let mut past = self.write();
                past.commits += 1;
                past.prune();
                Ok(())
            }
            Err(error) => {
                self.write().failed = true;
                Err(StoreError::fatal("commit", error))
            }
        }
    }

    fn apply(&self, staged: Staged) -> Result<(), sled::Error> {
        let mut batch = Batch::default();
        let mut before = Changes::new();
        for (table, changes) in staged.into_tables() {
            for (key, change) in changes {
                let key = full_key(table, &key);
                before.insert(key.clone(), self.db.get(&key)?.map(|value| value.to_vec()));
                match change {
                    Some(sealed) => batch.insert(key, sealed),
                    None => batch.remove(key),
                }
            }
        }
        let mut past = self.write();
        let number = past.commits + 1;
        past.replaced.insert(number, before);
        self.db.apply_batch(batch)?;
        drop(past);
        self.db.flush()?;
        self.log.sync_data().map_err(sled::Error::Io)
    }
}

/// What was committed when the view was taken.
pub(crate) struct SledView {
    disk: Arc<SledDisk>,
    seen: u64,
}

impl SledView {
    pub(crate) fn new(disk: &Arc<SledDisk>) -> Result<Self, StoreError> {
        let mut past = disk.write();
        if past.failed {
            return Err(failed_before());
        }
        let seen = past.commits;
        *past.views.entry(seen).or_default() += 1;
        drop(past);
        Ok(Self { disk: Arc::clone(disk), seen })
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = full_key(table, key);
        let past = self.disk.read();
        if let Some(value) = past.since(self.seen).find_map(|changes| changes.get(&key)) {
            return Ok(value.clone());
        }
        let found = self.disk.db.get(&key).map_err(reading)?;
        Ok(found.map(|sealed| sealed.to_vec()))
    }

    pub(crate) fn scan(
        &self,
        table: Table,
        (from, to): (&[u8], &[u8]),
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let prefix = full_key(table, b"").len();
        let (from, to) = (full_key(table, from), full_end(table, to));
        let Some(bounds) = bounds(&from, &to) else {
            return Ok(());
        };
        let past = self.disk.read();
        let mut before = Changes::new();
        for changes in past.since(self.seen) {
            for (key, value) in changes.range::<[u8], _>(bounds) {
                before.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let scan = |visit: &mut Visit<'_>| {
            let mut range = self.disk.db.range::<&[u8], _>(bounds);
            while let Some(row) = match order {
                Order::Ascending => range.next(),
                Order::Descending => range.next_back(),
            } {
                let (key, sealed): (IVec, IVec) = row.map_err(reading)?;
                if let ControlFlow::Break(()) = visit(&key, &sealed)? {
                    break;
                }
            }
            Ok(())
        };
        cover(Some(&before), bounds, order, scan, &mut |key, sealed| visit(&key[prefix..], sealed))
    }
}

impl Drop for SledView {
    fn drop(&mut self) {
        let mut past = self.disk.write();
        if let Some(count) = past.views.get_mut(&self.seen) {
            *count -= 1;
            if *count == 0 {
                past.views.remove(&self.seen);
            }
        }
        past.prune();
    }
}

/// Makes the directory beside its place and renames it, so that a crash leaves a whole one or
/// none. The lock goes with it.
fn create(path: &Path) -> Result<OpenFile, StoreError> {
    let in_use = || StoreError::InUse { path: path.to_owned() };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    Files.make_dir(&unfinished).map_err(opening)?;
    let lock = Files.open_locked(&unfinished.join(LOCK)).map_err(opening)?.ok_or_else(in_use)?;
    if path.exists() {
        return Err(in_use());
    }
    clear(&unfinished).map_err(opening)?;
    let db = open_tree(&unfinished)?;
    let key = full_key(META, FORMAT_KEY);
    db.insert(key, seal::seal(META, FORMAT_KEY, &FORMAT.to_le_bytes())).map_err(opening)?;
    db.flush().map_err(opening)?;
    drop(db);
    for entry in fs::read_dir(&unfinished).map_err(opening)? {
        File::open(entry.map_err(opening)?.path()).and_then(|file| file.sync_all()).map_err(opening)?;
    }
    Files.sync_dir(&unfinished).map_err(opening)?;
    Files.rename(&unfinished, path).map_err(opening)?;
    Files.sync_dir(parent(path)).map_err(opening)?;
    Ok(lock)
}

/// Removes what an earlier, unfinished creation left.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.file_name() != Some(LOCK.as_ref()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn open_tree(path: &Path) -> Result<Db, StoreError> {
    Config::new().path(path).cache_capacity(CACHE_BYTES).open().map_err(|error| match error {
        sled::Error::Unsupported(found) => wrong(path, &found),
        other => opening(other),
    })
}

/// A directory of ours has had a format version since it got its name: one without is foreign, or
/// sled lost what was in it.
fn check_format(path: &Path, db: &Db) -> Result<(), StoreError> {
    let sealed = db.get(full_key(META, FORMAT_KEY)).map_err(opening)?;
    let sealed = sealed.ok_or_else(|| wrong(path, "a sled directory without a format version"))?;
    let value = seal::open(META, FORMAT_KEY, sealed.to_vec())?;
    match value.as_slice().try_into().map(u32::from_le_bytes) {
        Ok(FORMAT) => Ok(()),
        Ok(other) => Err(wrong(path, &format!("format version {other}, expected {FORMAT}"))),
        Err(_) => Err(wrong(path, "a format version that is no number")),
    }
}

fn wrong(path: &Path, found: &str) -> StoreError {
    StoreError::WrongFormat { path: path.to_owned(), found: found.to_owned() }
}

fn opening(error: impl Into<sled::Error>) -> StoreError {
    StoreError::fatal("open its directory", error.into())
}

fn reading(error: sled::Error) -> StoreError {
    StoreError::fatal("read", error)
}

fn failed_before() -> StoreError {
    StoreError::fatal("go on after it had failed before", "an earlier error")
}
