//! The bytes of a backup: sixteen bytes that name the format, then records, each behind its length (four bytes, big
//! endian) and followed by the CRC-32 of length and record. The last record counts the ones before it and carries the
//! SHA-256 of everything before itself; nothing follows it. A record is canonical CBOR, as everywhere.
//!
//! So a bit that flipped, an end that is missing and a foreign file are each told apart, at the place where they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use minicbor::{Decode, Encode};
use postroad_engine::tables::{CUTS, key_number};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::{Digest, NodeId};
use sha2::{Digest as _, Sha256};

use super::BackupError;

const MAGIC: &[u8; 16] = b"postroad-backup1";
/// The largest record: a row holds at most one batch or cut.
const MAX_RECORD_BYTES: u32 = 1 << 30;

/// One record.
#[derive(Debug, Encode, Decode)]
pub(super) enum Record {
    /// Whose backup it is; the first record of a file.
    #[n(0)]
    Head(#[n(0)] Head),
    /// A file of the node's directory.
    #[n(1)]
    File(#[n(0)] String, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// A row of its store: table, key, value.
    #[n(2)]
    Row(
        #[n(0)] String,
        #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>,
        #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>,
    ),
    /// The last record: how many came before it, and the digest of all bytes before it.
    #[n(3)]
    End(#[n(0)] u64, #[n(1)] Digest),
    /// Instead of the last record: the node could not go on, and why.
    #[n(4)]
    Failed(#[n(0)] String),
}

/// Whose backup it is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Head {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Its federation.
    #[n(1)]
    pub federation: Digest,
    /// When it was taken, Unix milliseconds, by the clock of the machine.
    #[n(2)]
    pub taken_ms: u64,
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Another file.
    #[error("this is no backup of a postroad node")]
    Foreign,
    /// The end is missing.
    #[error("the file ends in the middle, after {at} bytes; it was not copied whole")]
    Truncated {
        /// Where.
        at: u64,
    },
    /// Bytes have changed.
    #[error("the record at byte {at} is damaged")]
    Damaged {
        /// Where the record begins.
        at: u64,
    },
    /// Every record is sound, but they are not those that were written.
    #[error("records are missing or were changed: the digest of the whole does not match")]
    Digest,
    /// Something follows the last record.
    #[error("more bytes follow the end at byte {at}")]
    Trailing {
        /// Where the backup ends.
        at: u64,
    },
    /// Records that this version does not know, or in another order.
    #[error("{0}; it was written by another version")]
    Unknown(String),
    /// The node gave up.
    #[error("{0}")]
    Failed(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Writes records.
pub(super) struct Writer<W> {
    to: W,
    hasher: Sha256,
    records: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> io::Result<Writer<W>> {
        let mut writer = Writer { to, hasher: Sha256::new(), records: 0, bytes: 0 };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        let body = encode(record);
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_RECORD_BYTES);
        let length = length.ok_or_else(|| io::Error::other("a row of more than a gibibyte"))?.to_be_bytes();
        self.put(&length)?;
        self.put(&body)?;
        self.put(&checksum(&length, &body))?;
        self.records += 1;
        Ok(())
    }

    /// Writes the last record. Returns what it was written to, with the digest and the length.
    pub(super) fn end(mut self) -> io::Result<(W, Digest, u64)> {
        let digest = Digest(self.hasher.clone().finalize().into());
        let records = self.records;
        self.record(&Record::End(records, digest))?;
        self.to.flush()?;
        Ok((self.to, digest, self.bytes))
    }

    /// Says why there is no end.
    pub(super) fn fail(mut self, reason: String) -> io::Result<()> {
        self.record(&Record::Failed(reason))?;
        self.to.flush()
    }
}

fn checksum(length: &[u8; 4], body: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize().to_be_bytes()
}

/// Reads records up to the last one, which it checks.
pub(super) struct Reader<R> {
    from: R,
    hasher: Sha256,
    records: u64,
    at: u64,
    /// The digest, once the last record was read.
    pub(super) ended: Option<Digest>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Result<Reader<R>, FormatError> {
        let mut reader = Reader { from, hasher: Sha256::new(), records: 0, at: 0, ended: None };
        let mut magic = Vec::new();
        (&mut reader.from).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(FormatError::Foreign);
        }
        reader.hasher.update(&magic);
        reader.at = magic.len() as u64;
        Ok(reader)
    }

    /// Reads so many bytes; memory grows with what comes, not with what a damaged length says.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        (&mut self.from).take(count).read_to_end(&mut bytes)?;
        match bytes.len() as u64 {
            read if read == count => Ok(bytes),
            read => Err(FormatError::Truncated { at: self.at + read }),
        }
    }

    /// The next record; none after the last.
    pub(super) fn next(&mut self) -> Result<Option<Record>, FormatError> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let begin = self.at;
        let damaged = FormatError::Damaged { at: begin };
        let length: [u8; 4] = self.bytes(4)?.try_into().unwrap_or_default();
        self.at += 4;
        if u32::from_be_bytes(length) > MAX_RECORD_BYTES {
            return Err(damaged);
        }
        let body = self.bytes(u64::from(u32::from_be_bytes(length)))?;
        self.at += body.len() as u64;
        let sum = self.bytes(4)?;
        self.at += 4;
        if sum != checksum(&length, &body) {
            return Err(damaged);
        }
        let record: Record = decode(&body).map_err(|error| FormatError::Unknown(error.to_string()))?;
        match record {
            Record::End(records, digest) => {
                if records != self.records || digest != Digest(self.hasher.clone().finalize().into()) {
                    return Err(FormatError::Digest);
                }
                if (&mut self.from).take(1).read_to_end(&mut Vec::new())? > 0 {
                    return Err(FormatError::Trailing { at: self.at });
                }
                self.ended = Some(digest);
                Ok(None)
            }
            Record::Failed(reason) => Err(FormatError::Failed(reason)),
            record => {
                for part in [&length[..], &body, &sum] {
                    self.hasher.update(part);
                }
                self.records += 1;
                Ok(Some(record))
            }
        }
    }
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is.
    pub head: Head,
    /// The files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How many rows.
    pub rows: u64,
    /// The epoch of the last cut.
    pub epoch: u64,
    /// The digest of the whole.
    pub digest: Digest,
}

impl Contents {
    /// Whether the node's key is in it.
    pub fn has_key(&self) -> bool {
        self.files.contains_key(super::KEY)
    }
}

/// Reads a backup whole and checks every sum; holds no row in memory.
///
/// # Errors
/// [`BackupError::Format`] says what is wrong with the file.
pub fn check(path: &Path) -> Result<Contents, BackupError> {
    read(path, |_, _, _| Ok(()))
}

/// Reads a backup whole, and gives each row away.
pub(super) fn read(
    path: &Path,
    mut row: impl FnMut(&str, Vec<u8>, Vec<u8>) -> Result<(), BackupError>,
) -> Result<Contents, BackupError> {
    let wrong = |source| BackupError::Format { path: path.to_owned(), source };
    let unknown = |what: &str| wrong(FormatError::Unknown(what.to_owned()));
    let file = File::open(path).map_err(|source| wrong(source.into()))?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(wrong)?;
    let Some(Record::Head(head)) = reader.next().map_err(wrong)? else {
        return Err(unknown("it does not begin with whose backup it is"));
    };
    let mut contents = Contents { head, files: BTreeMap::new(), rows: 0, epoch: 0, digest: Digest::ZERO };
    while let Some(record) = reader.next().map_err(wrong)? {
        match record {
            Record::File(name, bytes) if super::FILES.contains(&name.as_str()) || name == super::KEY => {
                contents.files.insert(name, bytes);
            }
            Record::File(name, _) => return Err(unknown(&format!("it holds a file {name:?}"))),
            Record::Row(table, key, value) => {
                contents.rows += 1;
                if table == CUTS.0 {
                    contents.epoch = contents.epoch.max(key_number(&key));
                }
                row(&table, key, value)?;
            }
            Record::Head(_) | Record::End(..) | Record::Failed(_) => {
                return Err(unknown("its records are in another order"));
            }
        }
    }
    contents.digest = reader.ended.unwrap_or_default();
    Ok(contents)
}

#[cfg(test)]
mod tests;
