//! The directory of one mailbox: who it is, where it lives, and which federation it trusts.
//!
//! | file | holds |
//! | --- | --- |
//! | `identity.key` | the ed25519 seed, 64 hexadecimal digits, readable by its owner only |
//! | `encryption.key` | the X25519 secret, likewise |
//! | `genesis.toml` | the federation, pinned at creation |
//! | `home` | the multiaddress of the mailbox's home; written last, so it says that the directory is complete |
//! | `send/`, `recv/` | one store each, each with a lock of its own, so that one process may send while another receives |
//!
//! Keys are durable before anybody hears of them. Running the creation again keeps what is there: the same key, so the
//! same registration.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use postroad_protocol::{Federation, Genesis, MailboxId, SecretKey};
use postroad_store::DirLock;

use crate::connection::NodeAddr;
use crate::error::ClientError;
use crate::seal::EncryptionSecret;

const IDENTITY: &str = "identity.key";
const ENCRYPTION: &str = "encryption.key";
const GENESIS: &str = "genesis.toml";
const HOME: &str = "home";

/// A mailbox on this device.
///
/// ```no_run
/// use postroad_client::{Mailbox, Receiver, ReceiverOptions};
///
/// # async fn example() -> Result<(), postroad_client::ClientError> {
/// let mailbox = Mailbox::open("me".as_ref())?;
/// println!("my address is {}", mailbox.address());
/// let mut receiver = Receiver::connect(&mailbox, ReceiverOptions::default()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Mailbox {
    dir: PathBuf,
    secret: SecretKey,
    encryption: EncryptionSecret,
    federation: Federation,
    home: NodeAddr,
}

impl Mailbox {
    /// Makes the directory of a new mailbox, or completes one whose making was interrupted. The mailbox has no home
    /// yet: see [`Mailbox::register`].
    ///
    /// # Errors
    /// [`ClientError::Directory`] when the directory belongs to a mailbox of another home or federation.
    pub fn create(dir: &Path, home: &NodeAddr, federation: &Federation) -> Result<Mailbox, ClientError> {
        create_dir(dir)?;
        let _lock = DirLock::take(dir)?;
        if let Some(text) = read_if_there(&dir.join(HOME))? {
            if text.trim() != home.to_string() {
                let reason = format!("this mailbox was made for the home {}", text.trim());
                return Err(ClientError::Directory { path: dir.join(HOME), reason });
            }
        } else {
            let seed = || {
                let mut seed = [0; 32];
                rand::fill(&mut seed);
                seed
            };
            write_key_once(&dir.join(IDENTITY), seed)?;
            write_key_once(&dir.join(ENCRYPTION), || EncryptionSecret::generate().to_bytes())?;
            if read_if_there(&dir.join(GENESIS))?.is_none() {
                write_durably(&dir.join(GENESIS), &federation.genesis().to_text())?;
            }
            same_genesis(dir, federation)?;
            write_durably(&dir.join(HOME), &format!("{home}\n"))?;
        }
        same_genesis(dir, federation)?;
        Mailbox::open(dir)
    }

    /// Opens the directory of a mailbox.
    ///
    /// # Errors
    /// [`ClientError::Directory`] says what is missing or damaged, and what to do.
    pub fn open(dir: &Path) -> Result<Mailbox, ClientError> {
        let home = read_if_there(&dir.join(HOME))?.ok_or_else(|| ClientError::Directory {
            path: dir.to_owned(),
            reason: "there is no mailbox here; make one with `postroad mailbox new`".into(),
        })?;
        let home = home.trim().parse().map_err(|error: ClientError| damaged(&dir.join(HOME), error))?;
        let secret = SecretKey::from_seed(read_key(&dir.join(IDENTITY))?);
        let encryption = EncryptionSecret::from_bytes(&read_key(&dir.join(ENCRYPTION))?)
            .ok_or_else(|| damaged(&dir.join(ENCRYPTION), "no X25519 secret"))?;
        let federation = read_genesis(&dir.join(GENESIS))?;
        Ok(Mailbox { dir: dir.to_owned(), secret, encryption, federation, home })
    }

    /// Whether the directory holds a complete mailbox.
    pub fn exists(dir: &Path) -> bool {
        dir.join(HOME).exists()
    }

    /// The mailbox's address.
    pub fn address(&self) -> MailboxId {
        self.secret.public()
    }

    /// Where it lives.
    pub fn home(&self) -> &NodeAddr {
        &self.home
    }

    /// The federation that it trusts.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(crate) fn encryption(&self) -> &EncryptionSecret {
        &self.encryption
    }
}

/// Reads a genesis file.
///
/// # Errors
/// [`ClientError::Io`], [`ClientError::Directory`] when the text is no genesis.
pub fn read_genesis(path: &Path) -> Result<Federation, ClientError> {
    let text = read_if_there(path)?
        .ok_or_else(|| ClientError::Directory { path: path.to_owned(), reason: "there is no such file".into() })?;
    let genesis = Genesis::from_text(&text).map_err(|error| damaged(path, error))?;
    Federation::new(genesis).map_err(|error| damaged(path, error))
}

fn same_genesis(dir: &Path, federation: &Federation) -> Result<(), ClientError> {
    let ours = read_genesis(&dir.join(GENESIS))?;
    crate::connection::same_federation(federation.id(), &ours)
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    let reason = format!("it is damaged ({reason}); restore the directory from a backup");
    ClientError::Directory { path: path.to_owned(), reason }
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> ClientError {
    let path = path.to_owned();
    move |source| ClientError::Io { path, source }
}

fn read_if_there(path: &Path) -> Result<Option<String>, ClientError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged(path, "it is no text")),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn read_key(path: &Path) -> Result<[u8; 32], ClientError> {
    let text = read_if_there(path)?.ok_or_else(|| damaged(path, "it is missing"))?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| damaged(path, "not 64 hexadecimal digits"))?;
    Ok(key)
}

fn write_key_once(path: &Path, key: impl FnOnce() -> [u8; 32]) -> Result<(), ClientError> {
    match read_if_there(path)? {
        Some(_) => read_key(path).map(|_| ()),
        None => write_durably(path, &format!("{}\n", hex::encode(key()))),
    }
}

fn create_dir(dir: &Path) -> Result<(), ClientError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(io_error(dir))
}

/// Writes a file that only its owner reads, whole or not at all, durable with its name.
fn write_durably(path: &Path, text: &str) -> Result<(), ClientError> {
    let draft = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || {
        let mut file = options.open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn home(seed: u8) -> NodeAddr {
        let node = SecretKey::from_seed([seed; 32]).public();
        NodeAddr::new(node, "/ip4/127.0.0.1/tcp/4001").unwrap()
    }

    #[test]
    fn made_again_it_is_the_same_mailbox() {
        let dir = tempfile::tempdir().unwrap();
        let (path, federation) = (dir.path().join("m"), fixture::federation());
        let made = Mailbox::create(&path, &home(3), &federation).unwrap();
        let again = Mailbox::create(&path, &home(3), &federation).unwrap();
        assert_eq!(made.address(), again.address());
        assert_eq!(made.encryption().public(), again.encryption().public());
        assert!(matches!(Mailbox::create(&path, &home(4), &federation), Err(ClientError::Directory { .. })));
    }

    #[test]
    fn an_interrupted_creation_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let federation = fixture::federation();
        let made = Mailbox::create(dir.path(), &home(3), &federation).unwrap();
        fs::remove_file(dir.path().join(HOME)).unwrap();
        fs::remove_file(dir.path().join(GENESIS)).unwrap();
        assert!(matches!(Mailbox::open(dir.path()), Err(ClientError::Directory { .. })));
        assert_eq!(Mailbox::create(dir.path(), &home(3), &federation).unwrap().address(), made.address());
    }

    #[test]
    fn missing_damaged_and_foreign_directories_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let federation = fixture::federation();
        let text = |error: ClientError| error.to_string();
        assert!(text(Mailbox::open(dir.path()).unwrap_err()).contains("no mailbox here"));
        Mailbox::create(dir.path(), &home(3), &federation).unwrap();
        fs::write(dir.path().join(IDENTITY), "12").unwrap();
        assert!(text(Mailbox::open(dir.path()).unwrap_err()).contains("damaged"));
        let foreign = fixture::other_federation();
        assert!(matches!(Mailbox::create(dir.path(), &home(3), &foreign), Err(ClientError::WrongFederation { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Mailbox::create(dir.path(), &home(3), &fixture::federation()).unwrap();
        for name in [IDENTITY, ENCRYPTION] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
