//! The few things that this crate asks of a file system: the place where tests cut the power.
//!
//! The store's file and the guard's file are made, written and synced through [`Medium`], so that
//! a simulated disk can stand under the very code that runs on a real one. An open file is redb's
//! [`StorageBackend`], which offers all that the guard needs as well.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

/// An open file; its locks end with it.
pub(crate) type OpenFile = Box<dyn StorageBackend>;

/// A file system. Nothing that changes a directory is durable before [`Medium::sync_dir`].
pub(crate) trait Medium: Send + Sync {
    /// Whether there is a file or directory at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes a directory in one that is there; nothing happens if it is there already.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens the file at `path`.
    fn open(&self, path: &Path) -> io::Result<OpenFile>;

    /// Opens the file at `path`, creating it if need be, and locks it; `None` if it is locked.
    fn open_locked(&self, path: &Path) -> io::Result<Option<OpenFile>>;

    /// Renames a file, replacing what is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and what is missing above it, each durable before the next.
pub(crate) fn make_dirs(medium: &dyn Medium, path: &Path) -> io::Result<()> {
    if medium.exists(path)? {
        // Whoever made it may have been killed before it had synced the name.
        return match medium.sync_dir(parent(path)) {
            // A directory that we may not read is not one that we made anything in.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    make_dirs(medium, parent(path))?;
    medium.make_dir(path)?;
    medium.sync_dir(parent(path))
}

/// The file system of this machine.
pub(crate) struct Files;

impl Medium for Files {
    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    fn open(&self, path: &Path) -> io::Result<OpenFile> {
        backend(OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn open_locked(&self, path: &Path) -> io::Result<Option<OpenFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => backend(file).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

fn backend(file: File) -> io::Result<OpenFile> {
    let backend = FileBackend::new(file).map_err(io::Error::other)?;
    Ok(Box::new(backend))
}
