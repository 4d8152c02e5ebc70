//! A node's directory: what lies where, and who may read it.
//!
//! | path | what it is |
//! | --- | --- |
//! | `postroad.toml` | the configuration |
//! | `key` | the ed25519 seed in hex, readable by its owner alone |
//! | `genesis.toml` | the federation |
//! | `store.redb`, or the directory `store.sled` | everything the node holds |
//! | `guard/` | the signing guard of a sequencer. It must not be restored from a backup, so keep it out of them |
//! | `control` | the socket for who operates the running node: backups, and closing it |
//! | `lock` | held by the process that runs on the directory |

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use postroad_protocol::{Federation, SecretKey};

use super::{ConfigError, StoreKind};

/// The directory of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDir {
    path: PathBuf,
}

impl NodeDir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: &Path) -> NodeDir {
        NodeDir { path: path.to_owned() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("postroad.toml")
    }

    /// The key.
    pub fn key(&self) -> PathBuf {
        self.path.join("key")
    }

    /// The federation file.
    pub fn genesis(&self) -> PathBuf {
        self.path.join("genesis.toml")
    }

    /// The store of an engine.
    pub fn store(&self, kind: StoreKind) -> PathBuf {
        self.path.join(match kind {
            StoreKind::Redb => "store.redb",
            StoreKind::Sled => "store.sled",
        })
    }

    /// The socket on which a running node answers who operates it.
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// The signing guard of a sequencer.
    pub fn guard(&self) -> PathBuf {
        self.path.join("guard")
    }

    /// Reads the node's key.
    ///
    /// # Errors
    /// [`ConfigError`] if it is missing, not 64 hex digits, or readable by others.
    pub fn read_key(&self) -> Result<SecretKey, ConfigError> {
        let path = self.key();
        let text = self.read(&path, "postroad init makes it")?;
        let mode = fs::metadata(&path)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(ConfigError::ExposedKey { path, mode: mode & 0o777 });
        }
        let mut seed = [0; 32];
        match hex::decode_to_slice(text.trim(), &mut seed) {
            Ok(()) => Ok(SecretKey::from_seed(seed)),
            Err(_) => Err(ConfigError::Bad { path, message: "a key is 64 hex digits".to_owned() }),
        }
    }

    /// Writes a key where none is yet, readable by its owner alone.
    ///
    /// # Errors
    /// [`ConfigError::Exists`] if there is one.
    pub fn write_key(&self, key: &SecretKey) -> Result<(), ConfigError> {
        let text = format!("{}\n", hex::encode(key.seed()));
        self.create(&self.key(), 0o600, &text)
    }

    /// Writes a configuration where none is yet.
    ///
    /// # Errors
    /// [`ConfigError::Exists`] if there is one.
    pub fn write_config(&self, text: &str) -> Result<(), ConfigError> {
        self.create(&self.config(), 0o644, text)
    }

    /// Reads the federation.
    ///
    /// # Errors
    /// [`ConfigError`] if the file is missing or not usable.
    pub fn read_genesis(&self) -> Result<Federation, ConfigError> {
        super::read_genesis(&self.genesis())
    }

    /// Puts the federation file there; the same one may be put twice.
    ///
    /// # Errors
    /// [`ConfigError::Exists`] if the node is in another federation.
    pub fn write_genesis(&self, federation: &Federation) -> Result<(), ConfigError> {
        match self.read_genesis() {
            Ok(there) if there.id() == federation.id() => Ok(()),
            Err(ConfigError::NoGenesis { path }) => self.create(&path, 0o644, &federation.genesis().to_text()),
            Ok(_) | Err(_) => Err(ConfigError::Exists { path: self.genesis() }),
        }
    }

    pub(super) fn read(&self, path: &Path, hint: &'static str) -> Result<String, ConfigError> {
        fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned(), hint },
            _ => ConfigError::Unreadable { path: path.to_owned(), source },
        })
    }

    /// Makes a new file, complete and durable or not at all: a key must never be half there.
    fn create(&self, path: &Path, mode: u32, text: &str) -> Result<(), ConfigError> {
        let unwritable = |source| ConfigError::Unwritable { path: path.to_owned(), source };
        fs::create_dir_all(&self.path).map_err(unwritable)?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".partial-{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let written = options.write(true).create(true).truncate(true).mode(mode).open(&partial).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        // A link, unlike a rename, never replaces what is there.
        let linked = written.and_then(|()| fs::hard_link(&partial, path));
        let _ = fs::remove_file(&partial);
        linked.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ConfigError::Exists { path: path.to_owned() },
            _ => unwritable(source),
        })
    }
}
