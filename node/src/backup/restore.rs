//! Restoring a backup: into files with other names, checked, and then renamed; the key last, so that nothing can run on
//! half of it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use postroad_engine::tables::ALL;
use postroad_protocol::{Federation, Genesis};
use postroad_store::{DirLock, Store, Table};

use super::format::{self, Contents};
use super::take::sync_parent;
use super::{BackupError, KEY};
use crate::config::{ConfigError, NodeDir, StoreKind};
use crate::fsck::{self, Summary};

/// Bytes of rows that are committed at once.
const GROUP_BYTES: usize = 8 << 20;
/// What a file is called until everything is there.
const SUFFIX: &str = ".restoring";

/// A node that was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup held.
    pub contents: Contents,
    /// What checking the restored store found.
    pub summary: Summary,
    /// Whether the key is there: from the backup, or because it was there before.
    pub has_key: bool,
    /// Whether the node is the federation's sequencer, and whether its guard is there.
    pub guard: Option<bool>,
}

/// Restores the backup `from` into `dir`, which must hold no store.
///
/// # Errors
/// [`BackupError`]; the directory is then as it was.
pub fn restore(from: &Path, dir: &NodeDir) -> Result<Restored, BackupError> {
    let contents = format::check(from)?;
    let federation = federation(&contents, from)?;
    let is_new = !dir.path().exists();
    let lock = DirLock::take(dir.path())?;
    let restored = refuse(dir, &contents, &federation).and_then(|()| fill(from, dir, &contents, &federation));
    drop(lock);
    if restored.is_err() {
        for name in [NAMES[0], NAMES[1], NAMES[2], KEY] {
            let _ = fs::remove_file(beside(&dir.path().join(name)));
        }
        if is_new {
            let _ = fs::remove_file(dir.path().join("lock"));
            let _ = fs::remove_dir(dir.path());
        }
    }
    let summary = restored?;
    let is_sequencer = federation.sequencer() == contents.head.node;
    Ok(Restored { summary, has_key: dir.key().exists(), guard: is_sequencer.then(|| dir.guard().exists()), contents })
}

/// In the order in which they take their names: a store without a federation file does not run, and nothing runs without
/// the key.
const NAMES: [&str; 3] = ["postroad.toml", "genesis.toml", "store.redb"];

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

fn federation(contents: &Contents, from: &Path) -> Result<Federation, BackupError> {
    let bad = |what: String| BackupError::Refused { path: from.to_owned(), what };
    let text = contents.files.get("genesis.toml").map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let text = text.ok_or_else(|| bad("holds no genesis.toml".into()))?;
    let genesis = Genesis::from_text(&text).map_err(|error| bad(format!("holds a wrong genesis.toml: {error}")))?;
    let federation = Federation::new(genesis).map_err(|error| bad(format!("holds a wrong genesis.toml: {error}")))?;
    if federation.id() != contents.head.federation {
        return Err(bad("holds the genesis.toml of another federation".into()));
    }
    Ok(federation)
}

/// What may be there: the guard and the key of this node, its configuration, its federation; no store.
fn refuse(dir: &NodeDir, contents: &Contents, federation: &Federation) -> Result<(), BackupError> {
    let refused = |path: PathBuf, what: &str| Err(BackupError::Refused { path, what: what.to_owned() });
    for kind in [StoreKind::Redb, StoreKind::Sled] {
        if dir.store(kind).exists() {
            return refused(dir.store(kind), "exists: move it away first (and leave guard/ where it is)");
        }
    }
    if dir.genesis().exists() && dir.read_genesis()?.id() != federation.id() {
        return refused(dir.genesis(), "is of another federation than the backup");
    }
    if dir.key().exists() && dir.read_key()?.public() != contents.head.node {
        return refused(dir.key(), "is another node's key than the backup's");
    }
    Ok(())
}

fn fill(from: &Path, dir: &NodeDir, contents: &Contents, federation: &Federation) -> Result<Summary, BackupError> {
    let store = beside(&dir.store(StoreKind::Redb));
    if store.exists() {
        fs::remove_file(&store).map_err(BackupError::io(format!("remove {}", store.display())))?;
    }
    let summary = write_rows(from, &store, contents, federation)?;
    let mut there = BTreeMap::new();
    for (name, bytes) in &contents.files {
        let path = dir.path().join(name);
        // What is there was checked, or is the operator's to decide.
        if !path.exists() {
            write_file(&beside(&path), bytes, if name == KEY { 0o600 } else { 0o644 })?;
            there.insert(name.as_str(), path);
        }
    }
    there.insert(NAMES[2], dir.store(StoreKind::Redb));
    for name in NAMES.into_iter().chain([KEY]) {
        if let Some(path) = there.get(name) {
            let failed = || BackupError::io(format!("write {}", path.display()));
            fs::rename(beside(path), path).map_err(failed())?;
            sync_parent(path).map_err(failed())?;
        }
    }
    Ok(summary)
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BackupError> {
    // What a restore that was killed left.
    let _ = fs::remove_file(path);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| ConfigError::Unwritable { path: path.to_owned(), source }.into())
}

/// Writes the rows into a new store, and checks them as `fsck` does.
fn write_rows(from: &Path, path: &Path, contents: &Contents, federation: &Federation) -> Result<Summary, BackupError> {
    let store = Store::open(path, &ALL)?;
    let mut transaction = store.begin()?;
    let mut bytes = 0;
    let again = format::read(from, |table, key, value| {
        let unknown = || BackupError::Format {
            path: from.to_owned(),
            source: super::FormatError::Unknown(format!("it has rows of a table {table:?}")),
        };
        let table: Table = ALL.into_iter().find(|known| known.0 == table).ok_or_else(unknown)?;
        bytes += key.len() + value.len();
        transaction.put(table, &key, &value);
        if bytes >= GROUP_BYTES {
            bytes = 0;
            // One transaction at a time: the old one ends before the next begins.
            let full = std::mem::replace(&mut transaction, Store::memory(&ALL).begin()?);
            full.commit()?;
            transaction = store.begin()?;
        }
        Ok(())
    })?;
    transaction.commit()?;
    if again.digest != contents.digest {
        return Err(BackupError::io(format!("read {}", from.display()))(io::Error::other("it has changed meanwhile")));
    }
    let mut problems = Vec::new();
    let snapshot = store.snapshot()?;
    let summary = fsck::check(&snapshot, contents.head.node, federation, &mut |problem| problems.push(problem))?;
    if problems.is_empty() { Ok(summary) } else { Err(BackupError::Problems { problems }) }
}
