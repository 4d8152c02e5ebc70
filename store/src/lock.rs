//! One process per data directory.
//!
//! Two nodes that run on one directory with one key would contradict each other under one name.
//! redb locks its own file, but the directory holds more than that. The lock is advisory and is
//! gone with the process, however that ends; the file that carries it stays and means nothing.

use std::io;
use std::path::Path;

use crate::StoreError;
use crate::medium::{Files, Medium, OpenFile, make_dirs};

/// An exclusive lock on a directory, released on drop.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct DirLock {
    _file: OpenFile,
}

impl DirLock {
    /// Takes the lock on `dir/lock`; `dir` is created if it is missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if it is taken, [`StoreError::Fatal`] if the file cannot be made.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = |error: io::Error| StoreError::fatal("lock its directory", error);
        make_dirs(&Files, dir).map_err(failed)?;
        match Files.open_locked(&path) {
            Ok(Some(file)) => Ok(Self { _file: file }),
            Ok(None) => Err(StoreError::InUse { path }),
            Err(error) => Err(failed(error)),
        }
    }
}
