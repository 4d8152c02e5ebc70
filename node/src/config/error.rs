//! What can be wrong with a node's configuration and directory.

use std::io;
use std::path::PathBuf;

use super::StoreKind;

/// Why a node's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file of the directory is not there.
    #[error("{} is missing: {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// How it comes to be.
        hint: &'static str,
    },
    /// There is no federation file.
    #[error(
        "{} is missing: copy your federation's genesis file there, or begin a federation with postroad genesis",
        path.display()
    )]
    NoGenesis {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("could not write {}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content is wrong.
    #[error("{}: {message}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        message: String,
    },
    /// A value from the environment or the command line is wrong.
    #[error("{origin}: {message}")]
    BadSetting {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// Others than the owner can read the key.
    #[error("{} has mode {mode:o}, so others may read the key: chmod 600 {}", path.display(), path.display())]
    ExposedKey {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is there already, and writing it would destroy something.
    #[error("{} exists already and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The directory holds a store of another engine; a new one beside it would begin empty.
    #[error(
        "{} is a {} store, and the configuration says store = \"{}\": set store = \"{}\"; mail does not move from one \
         engine to another",
        found.display(), kind.name(), wanted.name(), kind.name()
    )]
    OtherStore {
        /// What is there.
        found: PathBuf,
        /// Its engine.
        kind: StoreKind,
        /// The engine in the configuration.
        wanted: StoreKind,
    },
}
