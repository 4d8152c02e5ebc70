//! A mailbox's directory in the making: beside the place where it is wanted, and moved there when it is whole.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use postroad_store::{DirLock, Pair, Store, Table, Transaction};

use super::{GROUP_BYTES, STORES};
use crate::error::ClientError;
use crate::locked_store::{LockedStore, StoreKind};
use crate::mailbox_dir::{HOME, Mailbox};
use crate::private_file::{create_dir, io_error, parent, refused, sync_dir, write_durably};
use crate::sender;

const LOCK: &str = "lock";

/// Where a directory may be made.
pub(super) struct Place {
    dir: PathBuf,
    draft: PathBuf,
}

impl Place {
    /// A place where nothing is.
    pub(super) fn new(dir: &Path) -> Result<Place, ClientError> {
        let mut name: OsString =
            dir.file_name().ok_or_else(|| refused(dir, "a new directory needs a name of its own"))?.to_owned();
        name.push(".importing");
        match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(refused(dir, "it is not empty; a mailbox is imported into a new directory")),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(dir)(error)),
        }
        Ok(Place { dir: dir.to_owned(), draft: dir.with_file_name(name) })
    }

    /// Begins, on what an import that was killed has left.
    pub(super) fn begin(self) -> Result<Draft, ClientError> {
        create_dir(&self.draft)?;
        let lock = DirLock::take(&self.draft)?;
        if self.draft.join(HOME).exists() {
            return Err(refused(&self.draft, "it is in the way, and holds a mailbox; move it away"));
        }
        let entries = fs::read_dir(&self.draft).map_err(io_error(&self.draft))?;
        for entry in entries {
            let entry = entry.map_err(io_error(&self.draft))?;
            let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if entry.file_name() != LOCK {
                let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(io_error(&path))?;
            }
        }
        let mut draft = Draft { place: self, _lock: lock, home: None, stores: Vec::new(), is_done: false };
        for kind in STORES {
            draft.stores.push(Filling { kind, locked: LockedStore::open(&draft.place.draft, kind)?, group: None });
        }
        Ok(draft)
    }
}

/// The directory in the making. Removed when it is dropped before it is whole.
pub(super) struct Draft {
    place: Place,
    _lock: DirLock,
    /// Written last.
    home: Option<Vec<u8>>,
    stores: Vec<Filling>,
    is_done: bool,
}

/// A store that is being filled.
struct Filling {
    kind: StoreKind,
    locked: LockedStore,
    /// What is not committed yet, and how many bytes that is.
    group: Option<(Transaction, usize)>,
}

impl Draft {
    /// Takes a file of the directory.
    pub(super) fn file(&mut self, name: &'static str, bytes: Vec<u8>) -> Result<(), ClientError> {
        if name == HOME {
            self.home = Some(bytes);
            return Ok(());
        }
        write_durably(&self.place.draft.join(name), &bytes)
    }

    /// Takes a row of a store.
    pub(super) fn row(&mut self, kind: StoreKind, table: Table, row: &Pair) -> Result<(), ClientError> {
        match self.stores.iter_mut().find(|filling| filling.kind.name == kind.name) {
            Some(filling) => filling.row(table, row),
            None => Err(refused(&self.place.draft, format_args!("there is no store {}", kind.name))),
        }
    }

    /// Gives the directory its name.
    pub(super) fn finish(
        mut self,
        check: impl FnOnce(&Mailbox) -> Result<(), ClientError>,
    ) -> Result<Mailbox, ClientError> {
        for filling in std::mem::take(&mut self.stores) {
            filling.finish()?;
        }
        let Place { dir, draft } = &self.place;
        if let Some(home) = &self.home {
            write_durably(&draft.join(HOME), home)?;
        }
        check(&Mailbox::open(draft)?)?;
        sync_dir(draft).map_err(io_error(draft))?;
        // An empty directory is replaced; one that is not empty any more is an error.
        fs::rename(draft, dir).map_err(io_error(dir))?;
        self.is_done = true;
        sync_dir(parent(dir)).map_err(io_error(dir))?;
        Mailbox::open(dir)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done {
            self.stores.clear();
            let _ = fs::remove_dir_all(&self.place.draft);
        }
    }
}

impl Filling {
    fn row(&mut self, table: Table, (key, value): &Pair) -> Result<(), ClientError> {
        let store: &Store = &self.locked.store;
        let (mut transaction, mut bytes) = match self.group.take() {
            Some(group) => group,
            None => (store.begin()?, 0),
        };
        transaction.put(table, key, value);
        if self.kind.name == sender::STORE.name {
            sender::mark_copied(&mut transaction, table, key);
        }
        bytes += key.len() + value.len();
        if bytes >= GROUP_BYTES {
            transaction.commit()?;
        } else {
            self.group = Some((transaction, bytes));
        }
        Ok(())
    }

    /// Commits what is left, and closes the store.
    fn finish(self) -> Result<(), ClientError> {
        if let Some((transaction, _)) = self.group {
            transaction.commit()?;
        }
        self.locked.store.close();
        Ok(())
    }
}
