//! The durable back end: one redb file.
//!
//! Every commit is immediate and two-phase: data and the new root are synced before the byte that
//! makes them current is flipped and synced. Reads never touch a write transaction: redb's tables
//! borrow theirs, which an owned transaction cannot keep, while its read-only tables are owned and
//! stay open as long as a view lives.
//!
//! It refuses to go on after an IO error. Only one is harmless: a device that was full before the
//! commit could become current. Then the file still says what it said before; it is closed, because
//! redb refuses work after any failed write, and opened again at the next use.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, StorageError, TableDefinition,
    TableHandle,
};

use crate::medium::{Files, Medium, OpenFile, parent};
use crate::staged::{Order, Staged, Visit, bounds};
use crate::{StoreError, Table, seal};

mod device;
mod overlay;
use device::{Device, Watch};
use overlay::Overlay;

/// The version of what this crate writes: table layout and checksums.
const FORMAT: u32 = 1;
/// Holds the format version; no declared table may have this name.
const META: Table = Table("store.meta");
const FORMAT_KEY: &[u8] = b"format";
const CACHE_BYTES: usize = 128 << 20;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.0)
}

/// An open file. Closed when the store and all views of it are gone.
struct Opened {
    db: Database,
    watch: Arc<Watch>,
}

enum State {
    Open(Arc<Opened>),
    /// A commit found the device full; the file is intact and closed.
    Full,
    /// The disk failed. There is no way out of this state.
    Failed,
    /// Closed on purpose. There is no way out of this state either.
    Closed,
}

pub(crate) struct Disk {
    medium: Arc<dyn Medium>,
    path: PathBuf,
    tables: Vec<Table>,
    state: Mutex<State>,
}

impl Disk {
    /// `tables` must be sorted.
    pub(crate) fn open(medium: Arc<dyn Medium>, path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        assert!(!tables.contains(&META), "the table name {META} is reserved");
        let opened = open_file(&*medium, path, tables)?;
        let state = Mutex::new(State::Open(Arc::new(opened)));
        Ok(Self { medium, path: path.to_owned(), tables: tables.to_vec(), state })
    }

    /// Opens the file at `path` and never changes it: what is written stays in memory.
    pub(crate) fn inspect(path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        // For writing too, because a lock that excludes others wants that.
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| opening(path, redb::Error::Io(error)))?;
        let overlay = Overlay::new(file).map_err(|error| opening(path, error.into()))?;
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(overlay)
            .map_err(|error| opening(path, error.into()))?;
        let opened = Opened { db, watch: Arc::default() };
        prepare(path, &opened.db, tables)?;
        let state = Mutex::new(State::Open(Arc::new(opened)));
        Ok(Self { medium: Arc::new(Files), path: path.to_owned(), tables: tables.to_vec(), state })
    }

    fn opened(&self) -> Result<Arc<Opened>, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Open(opened) => Ok(Arc::clone(opened)),
            State::Failed => Err(StoreError::fatal("go on after it had failed before", "an earlier IO error")),
            State::Closed => Err(StoreError::fatal("go on after it was closed", "the process is ending")),
            State::Full => match open_file(&*self.medium, &self.path, &self.tables) {
                Ok(opened) => {
                    let opened = Arc::new(opened);
                    *state = State::Open(Arc::clone(&opened));
                    Ok(opened)
                }
                // A snapshot from before still holds the file, or repairing it needs space.
                Err(StoreError::InUse { .. } | StoreError::Full) => Err(StoreError::Full),
                Err(error) => {
                    *state = State::Failed;
                    Err(error)
                }
            },
        }
    }

    /// Closes the file as soon as no view reads it any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Open(_) | State::Full) {
            *state = State::Closed;
        }
    }

    pub(crate) fn view(&self) -> Result<DiskView, StoreError> {
        let opened = self.opened()?;
        let transaction = opened.db.begin_read().map_err(|error| StoreError::fatal("begin to read", error))?;
        let tables = self.tables.iter().map(|table| (*table, OnceLock::new())).collect();
        Ok(DiskView { tables, transaction, _opened: opened })
    }

    pub(crate) fn commit(&self, staged: Staged) -> Result<(), StoreError> {
        let opened = self.opened()?;
        opened.watch.start();
        let Err(error) = write(&opened, staged) else {
            return Ok(());
        };
        let harmless = is_full(&error) && !opened.watch.in_doubt();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if harmless {
            *state = State::Full;
            Err(StoreError::Full)
        } else {
            *state = State::Failed;
            Err(StoreError::fatal("commit", error))
        }
    }
}

fn write(opened: &Opened, staged: Staged) -> Result<(), redb::Error> {
    let mut transaction = opened.db.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    for (table, changes) in staged.into_tables() {
        let mut rows = transaction.open_table(definition(table))?;
        for (key, change) in changes {
            match change {
                Some(sealed) => rows.insert(key.as_slice(), sealed.as_slice())?,
                None => rows.remove(key.as_slice())?,
            };
        }
    }
    Ok(transaction.commit()?)
}

fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if is_full_io(error))
}

fn is_full_io(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What was committed when the view was taken. Tables are opened at their first use.
pub(crate) struct DiskView {
    /// Sorted by table.
    tables: Vec<(Table, OnceLock<Rows>)>,
    transaction: ReadTransaction,
    /// Last, so that the file outlives what reads it.
    _opened: Arc<Opened>,
}

impl DiskView {
    fn rows(&self, table: Table) -> Result<&Rows, StoreError> {
        let index = self
            .tables
            .binary_search_by_key(&table, |(name, _)| *name)
            .map_err(|_| StoreError::fatal("find a table", "it was never declared"))?;
        let cell = &self.tables[index].1;
        if let Some(rows) = cell.get() {
            return Ok(rows);
        }
        let rows =
            self.transaction.open_table(definition(table)).map_err(|error| StoreError::fatal("open a table", error))?;
        Ok(cell.get_or_init(|| rows))
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.rows(table)?.get(key).map_err(reading)?;
        Ok(found.map(|sealed| sealed.value().to_vec()))
    }

    pub(crate) fn scan(
        &self,
        table: Table,
        (from, to): (&[u8], &[u8]),
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let Some(bounds) = bounds(from, to) else {
            return Ok(());
        };
        let mut range = self.rows(table)?.range::<&[u8]>(bounds).map_err(reading)?;
        while let Some(row) = match order {
            Order::Ascending => range.next(),
            Order::Descending => range.next_back(),
        } {
            let (key, sealed) = row.map_err(reading)?;
            if let ControlFlow::Break(()) = visit(key.value(), sealed.value())? {
                break;
            }
        }
        Ok(())
    }
}

fn reading(error: StorageError) -> StoreError {
    StoreError::fatal("read", error)
}

/// Opens the file at `path`, or creates it so that a crash leaves a whole file or none.
fn open_file(medium: &dyn Medium, path: &Path, tables: &[Table]) -> Result<Opened, StoreError> {
    let failed = |error: io::Error| opening(path, redb::Error::Io(error));
    if medium.exists(path).map_err(failed)? {
        let opened = open_database(path, medium.open(path).map_err(failed)?, tables)?;
        // Whoever made it may have been killed before it had synced the name.
        medium.sync_dir(parent(path)).map_err(unsynced)?;
        return Ok(opened);
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let in_use = || StoreError::InUse { path: path.to_owned() };
    let file = medium.open_locked(&unfinished).map_err(failed)?.ok_or_else(in_use)?;
    // Under the lock: if the file appeared meanwhile, the one just locked may be that very file.
    if medium.exists(path).map_err(failed)? {
        return Err(in_use());
    }
    file.set_len(0).map_err(failed)?;
    let opened = open_database(path, file, tables)?;
    medium.rename(&unfinished, path).map_err(failed)?;
    medium.sync_dir(parent(path)).map_err(unsynced)?;
    Ok(opened)
}

fn open_database(path: &Path, file: OpenFile, tables: &[Table]) -> Result<Opened, StoreError> {
    let (device, watch) = Device::new(file);
    let db = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(device)
        .map_err(|error| watched(&watch, opening(path, error.into())))?;
    prepare(path, &db, tables).map_err(|error| watched(&watch, error))?;
    Ok(Opened { db, watch })
}

fn unsynced(error: io::Error) -> StoreError {
    StoreError::fatal("sync the directory of its file", error)
}

/// A full device is harmless at a write, not at a sync.
fn watched(watch: &Watch, error: StoreError) -> StoreError {
    match error {
        StoreError::Full if watch.sync_failed() => {
            StoreError::fatal("sync its file", io::Error::from(io::ErrorKind::StorageFull))
        }
        other => other,
    }
}

/// Checks the format version and creates what is missing. A file without any table is new.
fn prepare(path: &Path, db: &Database, tables: &[Table]) -> Result<(), StoreError> {
    let present: Vec<String> = list(db).map_err(|error| opening(path, error))?;
    let has = |table: Table| present.iter().any(|name| name == table.0);
    if !present.is_empty() {
        let found = if has(META) { format_row(db).map_err(|error| opening(path, error))? } else { None };
        check_format(path, found)?;
    }
    if has(META) && tables.iter().all(|table| has(*table)) {
        return Ok(());
    }
    create_tables(db, tables).map_err(|error| opening(path, error))
}

fn list(db: &Database) -> Result<Vec<String>, redb::Error> {
    let read = db.begin_read()?;
    Ok(read.list_tables()?.map(|table| table.name().to_owned()).collect())
}

fn format_row(db: &Database) -> Result<Option<Vec<u8>>, redb::Error> {
    let rows = db.begin_read()?.open_table(definition(META))?;
    Ok(rows.get(FORMAT_KEY)?.map(|sealed| sealed.value().to_vec()))
}

fn check_format(path: &Path, sealed: Option<Vec<u8>>) -> Result<(), StoreError> {
    let wrong = |found: String| StoreError::WrongFormat { path: path.to_owned(), found };
    let sealed = sealed.ok_or_else(|| wrong("a redb file without a format version".into()))?;
    let value = seal::open(META, FORMAT_KEY, sealed)?;
    match value.as_slice().try_into().map(u32::from_le_bytes) {
        Ok(FORMAT) => Ok(()),
        Ok(other) => Err(wrong(format!("format version {other}, expected {FORMAT}"))),
        Err(_) => Err(wrong("a format version that is no number".into())),
    }
}

fn create_tables(db: &Database, tables: &[Table]) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    for table in tables {
        transaction.open_table(definition(*table))?;
    }
    let version = seal::seal(META, FORMAT_KEY, &FORMAT.to_le_bytes());
    transaction.open_table(definition(META))?.insert(FORMAT_KEY, version.as_slice())?;
    Ok(transaction.commit()?)
}

/// What an error means while the file is being opened.
fn opening(path: &Path, error: redb::Error) -> StoreError {
    use redb::Error as E;
    let path = path.to_owned();
    match error {
        E::DatabaseAlreadyOpen | E::LockProtocolMismatch => StoreError::InUse { path },
        E::UpgradeRequired(version) => {
            StoreError::WrongFormat { path, found: format!("a redb file of the old version {version}") }
        }
        E::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::WrongFormat { path, found: error.to_string() }
        }
        E::TableTypeMismatch { .. } | E::TableIsMultimap(_) | E::TypeDefinitionChanged { .. } => {
            StoreError::WrongFormat { path, found: error.to_string() }
        }
        E::Io(error) if is_full_io(&error) => StoreError::Full,
        other => StoreError::fatal("open its file", other),
    }
}

#[cfg(test)]
mod tests;
