//! The directory of one mailbox: who it is, where it lives, and which federation it trusts.
//!
//! | file | holds |
//! | --- | --- |
//! | `identity.key` | the ed25519 seed, 64 hexadecimal digits, readable by its owner only |
//! | `encryption.key` | the X25519 secret, likewise |
//! | `genesis.toml` | the federation, pinned at creation |
//! | `recovery.pub` | the public half of the recovery key, where the owner named one |
//! | `home` | the multiaddress of the mailbox's home; written last, so it says that the directory is complete, and written anew when the mailbox has moved |
//! | `blocked` | a copy of the block list, for the next home |
//! | `nodes` | where other nodes listen, to be asked when the home does not answer |
//! | `move-policy` | what is done when the home closes and offers another one, where the owner has decided that |
//! | `move` | a move that is under way: the signed switch, see [`crate::moving`] |
//! | `send/`, `recv/` | one store each, each with a lock of its own, so that one process may send while another receives |
//!
//! Keys are durable before anybody hears of them. Running the creation again keeps what is there: the same key, so the
//! same registration.

use std::path::{Path, PathBuf};

use postroad_protocol::{Federation, Genesis, MailboxId, PublicKey, SecretKey};
use postroad_store::DirLock;

use crate::connection::NodeAddr;
use crate::error::ClientError;
use crate::moving::POLICY;
use crate::private_file::{create_dir, damaged, read_if_there, read_key, refused, write_durably, write_key_once};
use crate::seal::EncryptionSecret;

const IDENTITY: &str = "identity.key";
const ENCRYPTION: &str = "encryption.key";
const GENESIS: &str = "genesis.toml";
const RECOVERY: &str = "recovery.pub";
pub(crate) const HOME: &str = "home";
/// What an export takes along beside the stores, in this order.
pub(crate) const FILES: [&str; 6] = [IDENTITY, ENCRYPTION, GENESIS, RECOVERY, POLICY, HOME];

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
    recovery: Option<PublicKey>,
    home: NodeAddr,
}

impl Mailbox {
    /// Makes the directory of a new mailbox, or completes one whose making was interrupted. The mailbox has no home
    /// yet: see [`Mailbox::register`].
    ///
    /// # Errors
    /// [`ClientError::Directory`] when the directory belongs to a mailbox of another home or federation.
    pub fn create(dir: &Path, home: &NodeAddr, federation: &Federation) -> Result<Mailbox, ClientError> {
        Mailbox::create_with(dir, home, federation, None)
    }

    /// As [`Mailbox::create`], with a recovery key, which the registration names. Its secret stays elsewhere:
    /// [`new_secret_key`](crate::private_file::new_secret_key) makes one. A mailbox that was made keeps what it was made
    /// with, where none is given.
    ///
    /// # Errors
    /// Those of [`Mailbox::create`]; [`ClientError::Directory`] also when the mailbox was made with another recovery key
    /// or without one, and when this one can be none.
    pub fn create_with(
        dir: &Path,
        home: &NodeAddr,
        federation: &Federation,
        recovery: Option<PublicKey>,
    ) -> Result<Mailbox, ClientError> {
        if recovery.is_some_and(|key| !key.is_acceptable()) {
            return Err(refused(dir, "the recovery key is no key that a federation takes"));
        }
        create_dir(dir)?;
        let _lock = DirLock::take(dir)?;
        if let Some(text) = read_if_there(&dir.join(HOME))? {
            if text.trim() != home.to_string() {
                return Err(refused(&dir.join(HOME), format!("this mailbox was made for the home {}", text.trim())));
            }
            same_recovery(dir, recovery)?;
        } else {
            let seed = || {
                let mut seed = [0; 32];
                rand::fill(&mut seed);
                seed
            };
            write_key_once(&dir.join(IDENTITY), seed)?;
            write_key_once(&dir.join(ENCRYPTION), || EncryptionSecret::generate().to_bytes())?;
            if read_if_there(&dir.join(GENESIS))?.is_none() {
                write_durably(&dir.join(GENESIS), federation.genesis().to_text().as_bytes())?;
            }
            same_genesis(dir, federation)?;
            if let Some(key) = recovery
                && read_if_there(&dir.join(RECOVERY))?.is_none()
            {
                write_durably(&dir.join(RECOVERY), format!("{key}\n").as_bytes())?;
            }
            same_recovery(dir, recovery)?;
            write_durably(&dir.join(HOME), format!("{home}\n").as_bytes())?;
        }
        same_genesis(dir, federation)?;
        Mailbox::open(dir)
    }

    /// Opens the directory of a mailbox.
    ///
    /// # Errors
    /// [`ClientError::Directory`] says what is missing or damaged, and what to do.
    pub fn open(dir: &Path) -> Result<Mailbox, ClientError> {
        let home = read_if_there(&dir.join(HOME))?
            .ok_or_else(|| refused(dir, "there is no mailbox here; make one with `postroad mailbox new`"))?;
        let home = home.trim().parse().map_err(|error: ClientError| damaged(&dir.join(HOME), error))?;
        let secret = SecretKey::from_seed(read_key(&dir.join(IDENTITY))?);
        let encryption = EncryptionSecret::from_bytes(&read_key(&dir.join(ENCRYPTION))?)
            .ok_or_else(|| damaged(&dir.join(ENCRYPTION), "no X25519 secret"))?;
        let federation = read_genesis(&dir.join(GENESIS))?;
        let recovery = read_recovery(dir)?;
        Ok(Mailbox { dir: dir.to_owned(), secret, encryption, federation, recovery, home })
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

    /// The public half of its recovery key, if it has one.
    pub fn recovery_key(&self) -> Option<PublicKey> {
        self.recovery
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files that are there, by name.
    pub(crate) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ClientError> {
        let mut files = Vec::with_capacity(FILES.len());
        for name in FILES {
            files.extend(read_if_there(&self.dir.join(name))?.map(|text| (name, text.into_bytes())));
        }
        Ok(files)
    }

    /// The mailbox lives elsewhere now, as a certified cut says: from here on, and from the next opening on.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub(crate) fn lives_at(&mut self, home: NodeAddr) -> Result<(), ClientError> {
        if self.home != home {
            write_durably(&self.dir.join(HOME), format!("{home}\n").as_bytes())?;
            self.home = home;
        }
        Ok(())
    }

    /// The home that the directory names now; another process may have learnt of a move.
    pub(crate) fn recorded_home(&self) -> Option<NodeAddr> {
        let text = read_if_there(&self.dir.join(HOME)).ok().flatten()?;
        text.trim().parse().ok()
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
    let text = read_if_there(path)?.ok_or_else(|| refused(path, "there is no such file"))?;
    let genesis = Genesis::from_text(&text).map_err(|error| damaged(path, error))?;
    Federation::new(genesis).map_err(|error| damaged(path, error))
}

fn same_genesis(dir: &Path, federation: &Federation) -> Result<(), ClientError> {
    let ours = read_genesis(&dir.join(GENESIS))?;
    crate::connection::same_federation(federation.id(), &ours)
}

fn read_recovery(dir: &Path) -> Result<Option<PublicKey>, ClientError> {
    let path = dir.join(RECOVERY);
    let key = |text: String| text.trim().parse().map_err(|error| damaged(&path, error));
    read_if_there(&path)?.map(key).transpose()
}

fn same_recovery(dir: &Path, wanted: Option<PublicKey>) -> Result<(), ClientError> {
    let ours = read_recovery(dir)?;
    if wanted.is_none() || ours == wanted {
        return Ok(());
    }
    let with = ours.map_or("without a recovery key".to_owned(), |key| format!("with the recovery key {key}"));
    Err(refused(dir, format_args!("this mailbox was made {with}, and its registration says so")))
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    #[test]
    fn the_recovery_key_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let federation = fixture::federation();
        let key = |seed| Some(SecretKey::from_seed([seed; 32]).public());
        let create = |name: &str, recovery| {
            let made = Mailbox::create_with(&dir.path().join(name), &home(3), &federation, recovery);
            made.map(|mailbox| mailbox.recovery_key())
        };
        let refused = |made: Result<_, ClientError>| made.unwrap_err().to_string();
        assert_eq!(create("with", key(8)).unwrap(), key(8));
        // An interrupted creation goes on with the key that it began with.
        fs::remove_file(dir.path().join("with").join(HOME)).unwrap();
        assert!(refused(create("with", key(9))).contains(&key(8).unwrap().to_string()));
        assert_eq!(create("with", None).unwrap(), key(8));
        assert_eq!(create("with", key(8)).unwrap(), key(8));
        assert!(refused(create("with", key(9))).contains(&key(8).unwrap().to_string()));
        assert_eq!(create("without", None).unwrap(), None);
        assert!(refused(create("without", key(8))).contains("without a recovery key"));
        let none = Some(PublicKey([0; 32]));
        assert!(refused(create("wrong", none)).contains("no key that a federation takes"));
        assert!(!dir.path().join("wrong").exists());
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
