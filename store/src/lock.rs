//! One process per data directory.
//!
//! Two nodes that run on one directory with one key would contradict each other under one name.
//! redb locks its own file, but the directory holds more than that. The lock is advisory and is
//! gone with the process, however that ends; the file that carries it stays and means nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::StoreError;

/// An exclusive lock on a directory, released on drop.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock on `dir/lock`; `dir` is created if it is missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if it is taken, [`StoreError::Fatal`] if the file cannot be made.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = |error: io::Error| StoreError::fatal("lock its directory", error);
        fs::create_dir_all(dir).map_err(failed)?;
        match lock_file(&path) {
            Ok(Some(file)) => Ok(Self { _file: file }),
            Ok(None) => Err(StoreError::InUse { path }),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Opens the file at `path`, creating it if need be, and locks it; `None` if it is locked.
pub(crate) fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Makes the entries of the directory that holds `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}
