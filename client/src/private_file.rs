//! Files that only their owner reads: keys, and what else a mailbox's directory holds.
//!
//! A secret key is its ed25519 seed, 64 hexadecimal digits and a newline. Files are written whole or not at all, and are
//! durable with their names before anybody hears of what they hold.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use postroad_protocol::SecretKey;

use crate::error::ClientError;

/// Reads the file of a secret key, for example a recovery key.
///
/// # Errors
/// [`ClientError::Directory`] when there is none or it holds no key, [`ClientError::Io`].
pub fn read_secret_key(path: &Path) -> Result<SecretKey, ClientError> {
    let text = read_if_there(path)?.ok_or_else(|| refused(path, "there is no such file"))?;
    let seed = parse_key(&text).ok_or_else(|| refused(path, "it holds no secret key: 64 hexadecimal digits"))?;
    Ok(SecretKey::from_seed(seed))
}

/// Makes a secret key and writes it to a new file, which it never overwrites.
///
/// # Errors
/// [`ClientError::Directory`] when the file exists, [`ClientError::Io`].
pub fn new_secret_key(path: &Path) -> Result<SecretKey, ClientError> {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    let mut file = create_new(path)?;
    // Nobody has heard of the key before the file is durable, so a half one that is left by a crash means nothing.
    let written = file.write_all(key_text(&seed).as_bytes()).and_then(|()| file.sync_all());
    if let Err(source) = written.and_then(|()| sync_dir(parent(path))) {
        let _ = fs::remove_file(path);
        return Err(io_error(path)(source));
    }
    Ok(SecretKey::from_seed(seed))
}

/// A new file that only its owner reads.
pub(crate) fn create_new(path: &Path) -> Result<File, ClientError> {
    private().create_new(true).open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => refused(path, "it exists already and is not overwritten"),
        _ => io_error(path)(error),
    })
}

pub(crate) fn refused(path: &Path, reason: impl Display) -> ClientError {
    ClientError::Directory { path: path.to_owned(), reason: reason.to_string() }
}

pub(crate) fn damaged(path: &Path, reason: impl Display) -> ClientError {
    refused(path, format_args!("it is damaged ({reason}); restore the directory from a backup"))
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ClientError {
    let path = path.to_owned();
    move |source| ClientError::Io { path, source }
}

pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, ClientError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged(path, "it is no text")),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn parse_key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).ok()?;
    Some(key)
}

/// A key of a mailbox's directory.
pub(crate) fn read_key(path: &Path) -> Result<[u8; 32], ClientError> {
    let text = read_if_there(path)?.ok_or_else(|| damaged(path, "it is missing"))?;
    parse_key(&text).ok_or_else(|| damaged(path, "not 64 hexadecimal digits"))
}

pub(crate) fn write_key_once(path: &Path, key: impl FnOnce() -> [u8; 32]) -> Result<(), ClientError> {
    match read_if_there(path)? {
        Some(_) => read_key(path).map(|_| ()),
        None => write_durably(path, key_text(&key()).as_bytes()),
    }
}

fn key_text(key: &[u8; 32]) -> String {
    format!("{}\n", hex::encode(key))
}

pub(crate) fn create_dir(dir: &Path) -> Result<(), ClientError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(io_error(dir))
}

/// Options for a file that only its owner reads.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Writes a file that only its owner reads, whole or not at all, durable with its name.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    // Two processes may write the same file: each has a draft of its own.
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{number}.new", std::process::id()));
    let write = || {
        let mut file = private().create(true).truncate(true).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_dir(parent(path))
    };
    write().map_err(io_error(path))
}

/// The directory that holds a file.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_is_read_as_it_was_written_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery.key");
        let made = new_secret_key(&path).unwrap();
        assert_eq!(read_secret_key(&path).unwrap().public(), made.public());
        let before = fs::read(&path).unwrap();
        assert!(new_secret_key(&path).unwrap_err().to_string().contains("not overwritten"));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_file_that_is_no_key_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery.key");
        assert!(read_secret_key(&path).unwrap_err().to_string().contains("no such file"));
        for text in ["", "12", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            fs::write(&path, text).unwrap();
            assert!(read_secret_key(&path).unwrap_err().to_string().contains("no secret key"), "{text:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_key_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery.key");
        new_secret_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
