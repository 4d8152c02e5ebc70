//! The store itself: one writer at a time, any number of readers.
//!
//! A [`Transaction`] is a view of what is committed plus its own staged writes, so the node's core
//! can keep one open across a whole group of inputs and read what it wrote. A [`Snapshot`] is the
//! view alone, for tasks that serve reads while the core goes on.

use std::fmt;
#[cfg(feature = "redb")]
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[cfg(feature = "redb")]
use crate::disk::{Disk, DiskView};
#[cfg(feature = "redb")]
use crate::medium::{Files, Medium};
use crate::memory::{Memory, MemoryView};
#[cfg(feature = "sled")]
use crate::sled_disk::{SledDisk, SledView};
use crate::staged::{Order, Staged, Visit};
use crate::{Pair, Read, StoreError, Table, Write, seal};

enum Backend {
    Memory(Memory),
    #[cfg(feature = "redb")]
    Disk(Disk),
    #[cfg(feature = "sled")]
    Sled(Arc<SledDisk>),
}

/// What a back end had committed at one moment.
enum View {
    Memory(MemoryView),
    #[cfg(feature = "redb")]
    Disk(DiskView),
    #[cfg(feature = "sled")]
    Sled(SledView),
}

impl View {
    /// The sealed value of `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Memory(view) => Ok(view.get(table, key)),
            #[cfg(feature = "redb")]
            Self::Disk(view) => view.get(table, key),
            #[cfg(feature = "sled")]
            Self::Sled(view) => view.get(table, key),
        }
    }

    fn scan(&self, table: Table, range: (&[u8], &[u8]), order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        match self {
            Self::Memory(view) => view.scan(table, range, order, visit),
            #[cfg(feature = "redb")]
            Self::Disk(view) => view.scan(table, range, order, visit),
            #[cfg(feature = "sled")]
            Self::Sled(view) => view.scan(table, range, order, visit),
        }
    }
}

struct Shared {
    /// Sorted.
    tables: Vec<Table>,
    backend: Backend,
    /// Whether a transaction is open.
    writing: Mutex<bool>,
    idle: Condvar,
}

impl Shared {
    fn view(&self) -> Result<View, StoreError> {
        match &self.backend {
            Backend::Memory(memory) => Ok(View::Memory(memory.view())),
            #[cfg(feature = "redb")]
            Backend::Disk(disk) => disk.view().map(View::Disk),
            #[cfg(feature = "sled")]
            Backend::Sled(disk) => SledView::new(disk).map(View::Sled),
        }
    }

    fn expect_declared(&self, table: Table) {
        assert!(self.tables.binary_search(&table).is_ok(), "table {table} was not declared when the store was opened");
    }
}

/// A handle on a store. Clones share it; the file is closed with the last handle, transaction or
/// snapshot.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Opens the store in the file at `path`, creating it with all its directory entries synced if
    /// it does not exist, and creates those of `tables` that it does not have. The directory must
    /// exist.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if someone else has it open, [`StoreError::WrongFormat`] if it is not
    /// ours, [`StoreError::Full`] and [`StoreError::Fatal`] from the disk.
    #[cfg(feature = "redb")]
    pub fn open(path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(Files), path, tables)
    }

    #[cfg(feature = "redb")]
    pub(crate) fn open_on(medium: Arc<dyn Medium>, path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        let tables = sorted(tables);
        let disk = Disk::open(medium, path, &tables)?;
        Ok(Self::new(tables, Backend::Disk(disk)))
    }

    /// Opens the store in the directory at `path` that sled 0.34 keeps, creating it if it does not
    /// exist. sled is not safe against power loss, and is known to corrupt after abrupt stops.
    ///
    /// # Errors
    /// As for [`Store::open`]; a full disk is [`StoreError::Fatal`] here.
    #[cfg(feature = "sled")]
    pub fn open_sled(path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        let tables = sorted(tables);
        let disk = SledDisk::open(path, &tables)?;
        Ok(Self::new(tables, Backend::Sled(Arc::new(disk))))
    }

    /// Opens the store in the file at `path`, which must exist, to look at what it holds. The file is locked as by
    /// [`Store::open`] and never changed: what a repair or a transaction writes stays in memory.
    ///
    /// # Errors
    /// As for [`Store::open`].
    #[cfg(feature = "redb")]
    pub fn inspect(path: &Path, tables: &[Table]) -> Result<Self, StoreError> {
        let tables = sorted(tables);
        let disk = Disk::inspect(path, &tables)?;
        Ok(Self::new(tables, Backend::Disk(disk)))
    }

    /// A store that lives as long as its handles. Committing to it costs no IO and cannot fail.
    #[must_use]
    pub fn memory(tables: &[Table]) -> Self {
        let tables = sorted(tables);
        let memory = Memory::new(&tables);
        Self::new(tables, Backend::Memory(memory))
    }

    fn new(tables: Vec<Table>, backend: Backend) -> Self {
        let (writing, idle) = (Mutex::new(false), Condvar::new());
        Self { shared: Arc::new(Shared { tables, backend, writing, idle }) }
    }

    /// Starts the one transaction. Waits while another one is open; a thread that begins a second
    /// one before it ended its first waits for ever.
    ///
    /// # Errors
    /// [`StoreError::Full`] while a full disk keeps the store shut, [`StoreError::Fatal`] for ever
    /// after the disk failed.
    pub fn begin(&self) -> Result<Transaction, StoreError> {
        let turn = Turn::wait(Arc::clone(&self.shared));
        let view = self.shared.view()?;
        Ok(Transaction { staged: Staged::default(), view, turn })
    }

    /// What is committed now. It stays as it is while later transactions commit, and keeps their
    /// freed pages from being used again, so it should not be held for long.
    ///
    /// # Errors
    /// As for [`Store::begin`].
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let view = self.shared.view()?;
        Ok(Snapshot { view, shared: Arc::clone(&self.shared) })
    }

    /// Closes a redb file in order, as soon as the last snapshot of it is gone; nothing more can be read or written
    /// through any handle. Whoever opens a file that was not closed in order reads all of it first. The other back
    /// ends close with their last handle.
    pub fn close(&self) {
        #[cfg(feature = "redb")]
        if let Backend::Disk(disk) = &self.shared.backend {
            disk.close();
        }
    }
}

fn sorted(tables: &[Table]) -> Vec<Table> {
    let mut tables = tables.to_vec();
    tables.sort_unstable();
    tables.dedup();
    tables
}

/// The right to write; there is one per store.
struct Turn {
    shared: Arc<Shared>,
}

impl Turn {
    fn wait(shared: Arc<Shared>) -> Self {
        let mut writing = shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        while *writing {
            writing = shared.idle.wait(writing).unwrap_or_else(PoisonError::into_inner);
        }
        *writing = true;
        drop(writing);
        Self { shared }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.shared.idle.notify_one();
    }
}

/// A group of writes that become durable together or not at all. Dropping it forgets them.
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction {
    staged: Staged,
    view: View,
    turn: Turn,
}

impl Transaction {
    /// Stages one change.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Put { table, key, value } => self.put(*table, key, value),
            Write::Delete { table, key } => self.delete(*table, key),
        }
    }

    /// Stages `key = value`.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.turn.shared.expect_declared(table);
        self.staged.put(table, key, value);
    }

    /// Stages the removal of `key`.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.turn.shared.expect_declared(table);
        self.staged.delete(table, key);
    }

    /// Whether nothing was staged, so that a commit would do nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// Makes everything staged durable; returns after the disk confirmed it. Without a staged
    /// write it touches nothing.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing was kept, and the same writes may be tried again in a new
    /// transaction. [`StoreError::Fatal`]: the writes may or may not be on the disk, the store
    /// answers nothing but errors from now on, and the process must stop.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { staged, view, turn } = self;
        // A view that is still open would make memory copy its tables, and redb keep old pages.
        drop(view);
        if staged.is_empty() {
            return Ok(());
        }
        match &turn.shared.backend {
            Backend::Memory(memory) => {
                memory.commit(staged);
                Ok(())
            }
            #[cfg(feature = "redb")]
            Backend::Disk(disk) => disk.commit(staged),
            #[cfg(feature = "sled")]
            Backend::Sled(disk) => disk.commit(staged),
        }
    }
}

impl Read for Transaction {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.turn.shared.expect_declared(table);
        let sealed = match self.staged.get(table, key) {
            Some(change) => change.map(<[u8]>::to_vec),
            None => self.view.get(table, key)?,
        };
        sealed.map(|sealed| seal::open(table, key, sealed)).transpose()
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.turn.shared.expect_declared(table);
        select(&self.staged, &self.view, table, (from, to), Order::Ascending, limit)
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StoreError> {
        self.turn.shared.expect_declared(table);
        let found = select(&self.staged, &self.view, table, (from, to), Order::Descending, 1)?;
        Ok(found.into_iter().next())
    }
}

fn select(
    staged: &Staged,
    view: &View,
    table: Table,
    range: (&[u8], &[u8]),
    order: Order,
    limit: usize,
) -> Result<Vec<Pair>, StoreError> {
    staged.merge(table, range, order, limit, |visit| view.scan(table, range, order, visit))
}

/// What was committed when it was taken. Several threads may read it.
pub struct Snapshot {
    view: View,
    shared: Arc<Shared>,
}

impl Read for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.expect_declared(table);
        let sealed = self.view.get(table, key)?;
        sealed.map(|sealed| seal::open(table, key, sealed)).transpose()
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.shared.expect_declared(table);
        select(&Staged::default(), &self.view, table, (from, to), Order::Ascending, limit)
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StoreError> {
        self.shared.expect_declared(table);
        let none = Staged::default();
        let found = select(&none, &self.view, table, (from, to), Order::Descending, 1)?;
        Ok(found.into_iter().next())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.shared.backend {
            Backend::Memory(_) => "memory",
            #[cfg(feature = "redb")]
            Backend::Disk(_) => "redb",
            #[cfg(feature = "sled")]
            Backend::Sled(_) => "sled",
        };
        f.debug_struct("Store").field("backend", &kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
