//! Backups of a node: its configuration, its federation file and all rows of its store as of one moment, in one file that
//! checks itself; and restoring one.
//!
//! A backup never holds the signing guard, and holds the key only if that is asked for. It is taken from a running node
//! through the control socket in its directory (the process holds the store), from a stopped one directly.

mod format;
mod restore;
mod rows;
mod take;

use std::io;
use std::path::PathBuf;

use postroad_store::StoreError;

use crate::config::ConfigError;
use crate::fsck;

pub use format::{Contents, FormatError, check};
pub use restore::{Restored, restore};
pub(crate) use rows::send;
pub use take::{Taken, take};

/// The files of a node's directory that are in a backup, beside the rows; the key only where it was asked for.
const FILES: [&str; 2] = ["postroad.toml", "genesis.toml"];
const KEY: &str = "key";

/// Why a backup could not be taken or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is not a whole backup.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The running node said no, or stopped in the middle.
    #[error("the running node gave no backup: {0}")]
    Node(String),
    /// A process holds the directory and has no control socket.
    #[error("{} is in use, and the process does not answer on its control socket: {source}", path.display())]
    NoSocket {
        /// The directory.
        path: PathBuf,
        /// Why it does not.
        source: io::Error,
    },
    /// Something is in the way.
    #[error("{} {what}", path.display())]
    Refused {
        /// Which file or directory.
        path: PathBuf,
        /// What about it.
        what: String,
    },
    /// What was restored has problems; it was removed again.
    #[error("what the backup holds does not agree with itself ({} problems; the first: {}: {})", problems.len(), problems[0].key, problems[0].what)]
    Problems {
        /// Which; at least one.
        problems: Vec<fsck::Problem>,
    },
    /// The directory's files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl BackupError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
        let doing = doing.into();
        move |source| BackupError::Io { doing, source }
    }
}
