//! The bytes of an exported mailbox, inside the encryption: sixteen bytes that name the format, one with its version, then
//! records, each behind its length (four bytes, big endian). A record is canonical CBOR, as everywhere. First comes whose
//! mailbox it is, then the files of its directory, then the rows of its stores, each of these in one possible order; so
//! one state is one byte string.
//!
//! There are no sums and no end mark, unlike in a node's backup: the encryption authenticates every byte and the end.

use std::io::{self, BufReader, Chain, Cursor, Read, Write};
use std::iter;

use age::{DecryptError, Decryptor, EncryptError, Encryptor, Identity, Recipient, scrypt};
use minicbor::{Decode, Encode};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::{Digest, MailboxId};
use postroad_store::{Pair, Read as _, Snapshot, StoreError, Table};

use super::{ExportError, Passphrase, STORES};
use crate::locked_store::StoreKind;
use crate::mailbox_dir::FILES;

const MAGIC: &[u8; 17] = b"postroad-mailbox\x01";
/// The most work that a file may ask for: a gibibyte of memory, some seconds.
pub(super) const MAX_WORK_FACTOR: u8 = 20;
/// The longest age header that is read. One with a passphrase has 150 bytes or so.
const MAX_HEADER_BYTES: u64 = 1_024;
/// The largest record: a row holds at most one bundle or one entry, which a federation keeps far below that.
const MAX_RECORD_BYTES: u32 = 64 << 20;
/// The largest file of a directory.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Whose mailbox it is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Head {
    #[n(0)]
    pub(super) mailbox: MailboxId,
    #[n(1)]
    pub(super) federation: Digest,
    /// When it was taken, Unix milliseconds, by the clock of the device.
    #[n(2)]
    pub(super) taken_ms: u64,
}

#[derive(Debug, Encode, Decode)]
enum Record {
    /// The first record of a file.
    #[n(0)]
    Head(#[n(0)] Head),
    /// A file of the directory.
    #[n(1)]
    File(#[n(0)] String, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// A row of a store: store, table, key, value.
    #[n(2)]
    Row(
        #[n(0)] String,
        #[n(1)] String,
        #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>,
        #[cbor(n(3), with = "minicbor::bytes")] Vec<u8>,
    ),
}

/// What a file holds beside its head.
pub(super) enum Item {
    /// A file of the directory.
    File(&'static str, Vec<u8>),
    /// A row.
    Row(StoreKind, Table, Pair),
}

/// Encrypts and writes.
pub(super) struct Writer<W: Write> {
    to: age::stream::StreamWriter<W>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W, passphrase: &Passphrase, log_n: u8, head: &Head) -> Result<Writer<W>, ExportError> {
        let mut recipient = scrypt::Recipient::new(passphrase.0.clone());
        recipient.set_work_factor(log_n);
        let to = Encryptor::with_recipients(iter::once(&recipient as &dyn Recipient))
            .map_err(|error| match error {
                EncryptError::Io(error) => error,
                other => io::Error::other(other.to_string()),
            })?
            .wrap_output(to)?;
        let mut writer = Writer { to };
        writer.to.write_all(MAGIC)?;
        writer.record(&Record::Head(head.clone()))?;
        Ok(writer)
    }

    pub(super) fn file(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), ExportError> {
        self.record(&Record::File(name.to_owned(), bytes))
    }

    pub(super) fn row(&mut self, store: &str, table: Table, (key, value): Pair) -> Result<(), ExportError> {
        self.record(&Record::Row(store.to_owned(), table.0.to_owned(), key, value))
    }

    fn record(&mut self, record: &Record) -> Result<(), ExportError> {
        let body = encode(record);
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_RECORD_BYTES);
        let length = length.ok_or_else(|| io::Error::other("a row is larger than an export takes"))?;
        self.to.write_all(&length.to_be_bytes())?;
        Ok(self.to.write_all(&body)?)
    }

    /// Writes the end.
    pub(super) fn finish(self) -> Result<(), ExportError> {
        Ok(self.to.finish()?.flush()?)
    }
}

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Decrypts and reads.
pub(super) struct Reader<R: Read> {
    from: Records<R>,
    pub(super) head: Head,
    /// The place of the last item, to know that the next one follows it.
    last: Option<Place>,
}

/// Where an item stands among all; the first part says of which kind it is.
type Place = (usize, usize, &'static str, Vec<u8>);

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R, passphrase: &Passphrase) -> Result<Reader<R>, ExportError> {
        let mut identity = scrypt::Identity::new(passphrase.0.clone());
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        let decryptor = Decryptor::new_buffered(bounded_header(from)?).map_err(refused)?;
        let from = decryptor.decrypt(iter::once(&identity as &dyn Identity)).map_err(refused)?;
        let mut from = Records(from);
        let magic = from.bytes(MAGIC.len() as u64)?;
        if magic.get(..16) != MAGIC.get(..16) {
            return Err(ExportError::Foreign("the passphrase opens it, and something else is in it"));
        }
        if magic != MAGIC {
            return Err(ExportError::Unknown(format!("the format has version {:?}", magic.get(16))));
        }
        match from.record()? {
            Some(Record::Head(head)) => Ok(Reader { from, head, last: None }),
            _ => Err(ExportError::Unknown("it does not begin with whose mailbox it is".into())),
        }
    }

    /// The next item; none after the last.
    pub(super) fn next(&mut self) -> Result<Option<Item>, ExportError> {
        let (place, item) = match self.from.record()? {
            None => return Ok(None),
            Some(Record::File(name, bytes)) => {
                let at = FILES.iter().position(|known| *known == name).filter(|_| bytes.len() <= MAX_FILE_BYTES);
                let at = at.ok_or_else(|| ExportError::Unknown(format!("it holds a file {name:?}")))?;
                ((0, at, "", Vec::new()), Item::File(FILES[at], bytes))
            }
            Some(Record::Row(store, table, key, value)) => {
                let at = STORES.iter().position(|kind| kind.name == store);
                let found = at.and_then(|at| Some((at, *STORES[at].tables.iter().find(|known| known.0 == table)?)));
                let (at, known) =
                    found.ok_or_else(|| ExportError::Unknown(format!("it holds rows of {store:?}, {table:?}")))?;
                ((1, at, known.0, key.clone()), Item::Row(STORES[at], known, (key, value)))
            }
            Some(Record::Head(_)) => return Err(disordered()),
        };
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            return Err(disordered());
        }
        self.last = Some(place);
        Ok(Some(item))
    }
}

/// What is decrypted, record by record.
struct Records<R: Read>(age::stream::StreamReader<Source<R>>);

impl<R: Read> Records<R> {
    fn record(&mut self) -> Result<Option<Record>, ExportError> {
        let length = self.bytes(4)?;
        if length.is_empty() {
            return Ok(None);
        }
        let cut = || ExportError::Unknown("a record ends in the middle".into());
        let length = u32::from_be_bytes(length.try_into().map_err(|_| cut())?);
        if length > MAX_RECORD_BYTES {
            return Err(ExportError::Unknown(format!("a record has {length} bytes")));
        }
        let body = self.bytes(u64::from(length))?;
        if body.len() as u64 != u64::from(length) {
            return Err(cut());
        }
        decode(&body).map(Some).map_err(|error| ExportError::Unknown(error.to_string()))
    }

    /// Reads so many bytes, fewer at the end; memory grows with what comes, not with what a length says.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, ExportError> {
        let mut bytes = Vec::new();
        match (&mut self.0).take(count).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if is_damage(&error) => Err(ExportError::Damaged),
            Err(error) => Err(error.into()),
        }
    }
}

fn disordered() -> ExportError {
    ExportError::Unknown("its records are in another order".into())
}

/// The tables of a store, in the order in which their rows stand in a file.
pub(super) fn tables(kind: &StoreKind) -> Vec<Table> {
    let mut tables = kind.tables.to_vec();
    tables.sort_unstable();
    tables
}

/// Does something with every row of a table.
pub(super) fn each_row<E: From<StoreError>>(
    snapshot: &Snapshot,
    table: Table,
    page: usize,
    mut row: impl FnMut(Pair) -> Result<(), E>,
) -> Result<(), E> {
    let mut next = Vec::new();
    loop {
        let rows = snapshot.range(table, &next, &[], page)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        rows.into_iter().try_for_each(&mut row)?;
    }
}

/// The same bytes, if they begin with an age header that ends within bounds: the decryptor reads one as long as it is.
fn bounded_header<R: Read>(mut from: R) -> Result<Source<R>, ExportError> {
    let mut begin = Vec::new();
    (&mut from).take(MAX_HEADER_BYTES).read_to_end(&mut begin)?;
    let mac = begin.windows(4).position(|bytes| bytes == b"\n---");
    let ends = mac.is_some_and(|at| begin[at + 1..].contains(&b'\n'));
    if !ends {
        return Err(match begin.starts_with(b"age-encryption.org/") {
            true if (begin.len() as u64) < MAX_HEADER_BYTES => ExportError::Damaged,
            true => ExportError::Foreign("it is an age file, but not under one passphrase"),
            false => ExportError::Foreign("it is no age file"),
        });
    }
    Ok(BufReader::new(Cursor::new(begin).chain(from)))
}

fn refused(error: DecryptError) -> ExportError {
    match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => ExportError::WrongPassphrase,
        DecryptError::ExcessiveWork { required, .. } => {
            ExportError::TooCostly { log_n: required, limit: MAX_WORK_FACTOR }
        }
        DecryptError::NoMatchingKeys => ExportError::Foreign("it is an age file, but not under a passphrase"),
        DecryptError::Io(error) if !is_damage(&error) => ExportError::Io(error),
        DecryptError::UnknownFormat => ExportError::Foreign("it is an age file of a later version"),
        _ => ExportError::Damaged,
    }
}

/// Whether bytes that are wrong or missing are the reason, and not the disk.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}
