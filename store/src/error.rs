//! What can go wrong with a store, sorted by what the caller has to do about it.
//!
//! Only [`StoreError::Full`] may be tried again. Everything else means: stop the process and let
//! the recovery at the next start, or the operator, decide. There is no variant for "other".

use std::error::Error;
use std::path::PathBuf;

use crate::Table;

/// Why the store said no.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another handle in this one, holds the file.
    #[error("{} is in use; stop the other process that runs on this directory", path.display())]
    InUse {
        /// The file that is held.
        path: PathBuf,
    },
    /// The bytes of a value do not match their checksum.
    #[error(
        "table {table}, key {}: the stored value does not match its checksum; stop, check the \
         disk, and restore this node from its peers or a backup",
        Hex(key)
    )]
    Corrupt {
        /// The table of the value.
        table: Table,
        /// The key of the value.
        key: Vec<u8>,
    },
    /// No space is left. Nothing of the transaction was kept; free some space and do it again.
    #[error("no space left on the device; nothing was stored: free some space and try again")]
    Full,
    /// The disk failed, in particular at fsync: pages may be lost though the kernel calls them
    /// clean, so nothing that this process believes about the disk can be trusted.
    #[error("the store failed while it tried to {doing}; stop the process and check the disk")]
    Fatal {
        /// What was being done, to be read after "tried to".
        doing: &'static str,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is not a store of ours, or a newer version wrote it.
    #[error("{} is not a store that this version can read: {found}; use the version that wrote it, or another path", path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
}

impl StoreError {
    /// Whether the same operation may succeed later without a restart.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full)
    }

    #[cfg(feature = "redb")]
    pub(crate) fn fatal(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Fatal { doing, source: source.into() }
    }
}

/// Shows a key as hex, cut after 64 bytes.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.iter().take(64) {
            write!(f, "{byte:02x}")?;
        }
        if self.0.len() > 64 {
            write!(f, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}
