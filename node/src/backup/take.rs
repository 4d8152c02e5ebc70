//! Taking a backup. It appears under its name when it is whole and on the disk, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use postroad_engine::tables::ALL;
use postroad_protocol::Digest;
use postroad_store::{DirLock, Store, StoreError};

use super::format::{Head, Reader, Record, Writer};
use super::rows::{self, Broken};
use super::{BackupError, FILES, KEY, check};
use crate::config::{NodeDir, StoreKind};

/// How long a running node may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The file.
    pub file: PathBuf,
    /// How many rows it holds.
    pub rows: u64,
    /// How long it is.
    pub bytes: u64,
    /// The epoch of its last cut.
    pub epoch: u64,
    /// The digest of the whole.
    pub digest: Digest,
    /// Whether the node was running.
    pub running: bool,
}

/// Where the rows come from.
enum Source {
    Running(UnixStream),
    Stopped(DirLock, Store),
}

/// Takes a backup of the node in `dir` into the file `out`, or a new file in the directory `out`.
///
/// # Errors
/// [`BackupError`]; no file is left behind.
pub fn take(dir: &NodeDir, out: &Path, with_key: bool) -> Result<Taken, BackupError> {
    let node = dir.read_key()?.public();
    let federation = dir.read_genesis()?.id();
    let source = source(dir)?;
    let taken_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let partial = if out.is_dir() {
        out.join(format!(".postroad-{}.partial", std::process::id()))
    } else {
        let mut name = out.as_os_str().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        name.into()
    };
    let head = Head { node, federation, taken_ms };
    let running = matches!(source, Source::Running(_));
    let taken = write(dir, head, with_key, source, &partial).and_then(|(digest, bytes)| {
        // Read back: a backup that cannot be read is found now.
        let found = check(&partial)?;
        if found.digest != digest {
            return Err(BackupError::io("read the backup back")(io::Error::other("it is not what was written")));
        }
        let name = node.to_string();
        let file = match out.is_dir() {
            true => out.join(format!("postroad-{}-{}.backup", &name[name.len() - 8..], found.epoch)),
            false => out.to_owned(),
        };
        // A link, unlike a rename, never replaces what is there.
        fs::hard_link(&partial, &file).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => {
                BackupError::Refused { path: file.clone(), what: "exists already and is not overwritten".into() }
            }
            _ => BackupError::io(format!("write {}", file.display()))(source),
        })?;
        sync_parent(&file).map_err(BackupError::io(format!("write {}", file.display())))?;
        Ok(Taken { file, rows: found.rows, bytes, epoch: found.epoch, digest, running })
    });
    let _ = fs::remove_file(&partial);
    taken
}

/// The lock says whether the node runs.
fn source(dir: &NodeDir) -> Result<Source, BackupError> {
    match DirLock::take(dir.path()) {
        Ok(lock) => {
            let path = dir.store(StoreKind::Redb);
            if !path.exists() {
                return Err(BackupError::Refused { path, what: "is missing: there is nothing to back up".into() });
            }
            Ok(Source::Stopped(lock, Store::inspect(&path, &ALL)?))
        }
        Err(StoreError::InUse { .. }) => {
            let asked = UnixStream::connect(dir.control()).and_then(|mut socket| {
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.write_all(crate::driver::BACKUP_REQUEST)?;
                Ok(socket)
            });
            asked.map(Source::Running).map_err(|source| BackupError::NoSocket { path: dir.path().to_owned(), source })
        }
        Err(error) => Err(error.into()),
    }
}

fn write(
    dir: &NodeDir,
    head: Head,
    with_key: bool,
    source: Source,
    partial: &Path,
) -> Result<(Digest, u64), BackupError> {
    let failed = || BackupError::io(format!("write {}", partial.display()));
    // Mail and perhaps a key: for nobody else to read.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial);
    let file = BufWriter::with_capacity(1 << 20, file.map_err(failed())?);
    let mut writer = Writer::new(file).map_err(failed())?;
    writer.record(&Record::Head(head)).map_err(failed())?;
    let key = with_key.then_some(KEY);
    for name in FILES.into_iter().chain(key) {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).map_err(BackupError::io(format!("read {}", path.display())))?;
        writer.record(&Record::File(name.to_owned(), bytes)).map_err(failed())?;
    }
    match source {
        Source::Running(socket) => copy(socket, &mut writer, partial)?,
        Source::Stopped(_lock, store) => {
            let snapshot = store.snapshot()?;
            rows::write(&snapshot, &mut writer).map_err(|broken| match broken {
                Broken::Store(error) => BackupError::Store(error),
                Broken::Sink(error) => failed()(error),
            })?;
        }
    }
    let (file, digest, bytes) = writer.end().map_err(failed())?;
    file.into_inner().map_err(|error| failed()(error.into_error()))?.sync_all().map_err(failed())?;
    Ok((digest, bytes))
}

/// Copies the rows that a running node sends.
fn copy(socket: UnixStream, writer: &mut Writer<BufWriter<File>>, partial: &Path) -> Result<(), BackupError> {
    let gone = |error: super::FormatError| BackupError::Node(error.to_string());
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, socket)).map_err(gone)?;
    while let Some(record) = reader.next().map_err(gone)? {
        if let Record::Row(..) = &record {
            writer.record(&record).map_err(BackupError::io(format!("write {}", partial.display())))?;
        }
    }
    Ok(())
}

/// Makes the entries of the directory that holds `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}
