//! The whole state of a mailbox in one file under a passphrase: for the day on which the device is lost.
//!
//! The file is in the age format (age-encryption.org/v1) with one scrypt recipient, so every age tool opens it; inside is
//! what [`format`] says. It is taken under the locks of the mailbox's stores, hence as of one moment, and only while no
//! other process sends or receives. It is imported into a directory of its own, which gets its name when it is whole.
//!
//! What is imported is an old copy as soon as the mailbox was used after the export. It catches up by itself; but bundles
//! that were waiting when it was taken may have been sent since, so they are marked
//! (`sender::mark_copied`).

mod draft;
mod format;

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use age::secrecy::SecretString;
use postroad_protocol::MailboxId;
use postroad_store::DirLock;

use crate::error::ClientError;
use crate::locked_store::{LockedStore, StoreKind};
use crate::mailbox_dir::Mailbox;
use crate::{receiver, sender};
use draft::Place;
use format::{Head, Item, Reader, Writer};

/// How much work a passphrase costs whoever tries one: 2^18 blocks of a kibibyte, about a second. Fixed, so that a file
/// made on a fast machine opens on a slow one.
const WORK_FACTOR: u8 = 18;
/// The stores, in the order in which they stand in a file: that of their names.
const STORES: [StoreKind; 2] = [receiver::STORE, sender::STORE];
/// Bytes of rows that are committed at once.
const GROUP_BYTES: usize = 8 << 20;
/// Rows read at once. Small, because one may hold a whole bundle.
const PAGE: usize = 16;

/// What a file is encrypted under; never shown.
pub struct Passphrase(SecretString);

impl Passphrase {
    /// A passphrase.
    ///
    /// # Errors
    /// [`ExportError::NoPassphrase`] when there is nothing in it.
    pub fn new(text: String) -> Result<Passphrase, ExportError> {
        if text.trim().is_empty() {
            return Err(ExportError::NoPassphrase);
        }
        Ok(Passphrase(SecretString::from(text)))
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Why a mailbox could not be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Anybody could open the file.
    #[error("the passphrase is empty")]
    NoPassphrase,
    /// It does not open the file.
    #[error("the passphrase does not open this file (or the first lines of the file have changed)")]
    WrongPassphrase,
    /// Opening it would take more memory than is given to it.
    #[error("opening this file takes 2^{log_n} KiB of memory; at most 2^{limit} are given to it")]
    TooCostly {
        /// What the file wants.
        log_n: u8,
        /// The most that is accepted.
        limit: u8,
    },
    /// Another file.
    #[error("this is no mailbox that was exported: {0}")]
    Foreign(&'static str),
    /// Bytes have changed, or the end is missing.
    #[error("the file is damaged, or it was not copied whole")]
    Damaged,
    /// It opens, but what is in it is not what this version writes.
    #[error("{0}; it was written by another version")]
    Unknown(String),
    /// It could not be read or written.
    #[error("the file cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Whose it is.
    pub mailbox: MailboxId,
    /// When it was taken, Unix milliseconds, by the clock of the device.
    pub taken_ms: u64,
    /// How many rows of the stores it holds.
    pub rows: u64,
}

impl Mailbox {
    /// Writes the whole state of the mailbox in `dir` to `to`, encrypted. The caller makes it durable.
    ///
    /// # Errors
    /// [`ClientError::Store`] (`InUse`) while another process sends or receives for the mailbox, [`ClientError::Directory`]
    /// when there is none, [`ClientError::Export`] when `to` takes no more.
    pub fn export(dir: &Path, passphrase: &Passphrase, to: impl Write) -> Result<Exported, ClientError> {
        export_at(WORK_FACTOR, dir, passphrase, to)
    }

    /// Makes a mailbox of what [`Mailbox::export`] wrote, in `dir`, which must be empty or not there.
    ///
    /// From then on no other copy of the mailbox may be used: two that send use the same counters, and two that receive
    /// each tell the home that mail may be forgotten which the other does not have.
    ///
    /// # Errors
    /// [`ClientError::Directory`] when `dir` is not empty, [`ClientError::Export`] says what is wrong with the file. In
    /// both cases `dir` is as it was. What a process that was killed leaves is beside it, under a name that ends in
    /// `.importing`; the next import removes it.
    pub fn import(from: impl Read, passphrase: &Passphrase, dir: &Path) -> Result<(Mailbox, Exported), ClientError> {
        let place = Place::new(dir)?;
        let mut reader = Reader::new(from, passphrase)?;
        let mut draft = place.begin()?;
        let mut rows = 0;
        while let Some(item) = reader.next()? {
            match item {
                Item::File(name, bytes) => draft.file(name, bytes)?,
                Item::Row(kind, table, row) => {
                    rows += 1;
                    draft.row(kind, table, &row)?;
                }
            }
        }
        let head = reader.head;
        let mailbox = draft.finish(|mailbox| {
            if (mailbox.address(), mailbox.federation().id()) == (head.mailbox, head.federation) {
                return Ok(());
            }
            Err(ExportError::Unknown("its keys are not those of the mailbox that it names".into()).into())
        })?;
        Ok((mailbox, Exported { mailbox: head.mailbox, taken_ms: head.taken_ms, rows }))
    }
}

/// As [`Mailbox::export`], with so much work.
pub(crate) fn export_at(
    log_n: u8,
    dir: &Path,
    passphrase: &Passphrase,
    to: impl Write,
) -> Result<Exported, ClientError> {
    let mailbox = Mailbox::open(dir)?;
    let _lock = DirLock::take(dir)?;
    // All are locked before one is read.
    let stores = STORES.map(|kind| Ok((kind, LockedStore::open(dir, kind)?)));
    let stores = stores.into_iter().collect::<Result<Vec<_>, ClientError>>()?;
    let taken_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let head = Head { mailbox: mailbox.address(), federation: mailbox.federation().id(), taken_ms };
    let mut writer = Writer::new(to, passphrase, log_n, &head)?;
    for (name, bytes) in mailbox.files()? {
        writer.file(name, bytes)?;
    }
    let mut rows = 0;
    for (kind, locked) in &stores {
        let snapshot = locked.store.snapshot()?;
        for table in format::tables(kind) {
            format::each_row(&snapshot, table, PAGE, |row| {
                rows += 1;
                Ok::<_, ClientError>(writer.row(kind.name, table, row)?)
            })?;
        }
    }
    writer.finish()?;
    Ok(Exported { mailbox: head.mailbox, taken_ms, rows })
}

#[cfg(test)]
mod tests;
