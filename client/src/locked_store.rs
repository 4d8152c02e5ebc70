//! A store of a mailbox's directory, with the lock that keeps it to one process.

use std::path::Path;

use postroad_store::{DirLock, Store, Table};

use crate::error::ClientError;

/// Which store of a mailbox's directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreKind {
    /// Its directory in that of the mailbox.
    pub(crate) name: &'static str,
    pub(crate) tables: &'static [Table],
}

/// An open store, locked.
#[derive(Debug)]
pub(crate) struct LockedStore {
    pub(crate) store: Store,
    _lock: DirLock,
}

impl LockedStore {
    /// Opens the store, making it if it is missing.
    pub(crate) fn open(mailbox_dir: &Path, kind: StoreKind) -> Result<LockedStore, ClientError> {
        let dir = mailbox_dir.join(kind.name);
        let lock = DirLock::take(&dir)?;
        let store = Store::open(&dir.join("store.redb"), kind.tables)?;
        Ok(LockedStore { store, _lock: lock })
    }
}
