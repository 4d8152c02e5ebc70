//! `testnet.json`: what runs where, for people, scripts and nodes that come back.
//!
//! It is replaced atomically, so a reader sees one state or the next; several writers (the testnet, and nodes that are
//! started by hand) take turns by a lock on a file beside it. A pid is `null` while the node does not run: a number
//! would sooner or later be somebody else's process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::output::CliError;
use crate::config::read_genesis;

/// The content of `testnet.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The federation's id.
    pub federation: String,
    /// The federation file.
    pub genesis: PathBuf,
    /// The nodes, in the order of their names' numbers.
    pub nodes: Vec<Node>,
}

/// One node of a testnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name: node-1, node-2, …
    pub name: String,
    /// Its PeerId.
    pub peer_id: String,
    /// Its addresses, each ending in `/p2p/ID`.
    pub addrs: Vec<String>,
    /// Where its `/metrics` and `/healthz` are.
    pub http: Option<String>,
    /// Its directory.
    pub dir: PathBuf,
    /// The process that runs it, if one does.
    pub pid: Option<u32>,
    /// Whether it is the sequencer.
    pub sequencer: bool,
}

const FILE: &str = "testnet.json";
const LOCK: &str = "testnet.lock";

/// Reads the record of the testnet in `dir`, if there is one.
///
/// # Errors
/// If the file cannot be read or is not a record.
pub fn read(dir: &Path) -> Result<Option<Record>, CliError> {
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(CliError::io(format_args!("read {}", path.display()), &error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let message = format!("{} is not a testnet's record: {error}", path.display());
        CliError::usage("testnet-record", message, "remove the file; starting the testnet writes it again")
    })
}

/// Replaces the record.
///
/// # Errors
/// If the disk refuses.
pub fn write(dir: &Path, record: &Record) -> Result<(), CliError> {
    let _turn = take_turn(dir)?;
    replace(dir, record)
}

/// Removes the record, if there is one: nothing that it says holds any more.
///
/// # Errors
/// If the disk refuses.
pub fn remove(dir: &Path) -> Result<(), CliError> {
    let _turn = take_turn(dir)?;
    match fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::io("remove testnet.json", &error)),
        _ => Ok(()),
    }
}

/// Changes the record, if there is one, and returns it as it is then.
///
/// # Errors
/// If the file is not a record, or the disk refuses.
pub fn change(dir: &Path, change: impl FnOnce(&mut Record)) -> Result<Option<Record>, CliError> {
    if !dir.join(FILE).exists() {
        return Ok(None);
    }
    let _turn = take_turn(dir)?;
    let Some(before) = read(dir)? else { return Ok(None) };
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        replace(dir, &after)?;
    }
    Ok(Some(after))
}

/// Puts this process's pid into the record of the testnet that `node_dir` belongs to, if it belongs to one.
///
/// # Errors
/// As for [`change`].
pub fn take_place(node_dir: &Path, peer_id: &str) -> Result<(), CliError> {
    let Ok(node_dir) = node_dir.canonicalize() else { return Ok(()) };
    let Some(dir) = node_dir.parent() else { return Ok(()) };
    let pid = Some(std::process::id());
    change(dir, |record| {
        let ours = |node: &&mut Node| node.peer_id == peer_id && node.dir == node_dir;
        if let Some(node) = record.nodes.iter_mut().find(ours) {
            node.pid = pid;
        }
    })?;
    Ok(())
}

/// Whether a node's directory is one of a testnet's, running or about to: the testnet keeps the writers' lock beside it,
/// and both have one genesis.
pub fn is_testnet(node_dir: &Path) -> bool {
    let Ok(node_dir) = node_dir.canonicalize() else { return false };
    let Some(dir) = node_dir.parent() else { return false };
    let genesis = |dir: &Path| read_genesis(&dir.join("genesis.toml")).ok().map(|federation| federation.id());
    dir.join(LOCK).exists() && genesis(dir).is_some_and(|id| genesis(&node_dir) == Some(id))
}

/// Waits for the lock of the writers; it is given back on drop, and with the process.
fn take_turn(dir: &Path) -> Result<File, CliError> {
    let path = dir.join(LOCK);
    let failed = |error: io::Error| CliError::io(format_args!("lock {}", path.display()), &error);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn replace(dir: &Path, record: &Record) -> Result<(), CliError> {
    let path = dir.join(FILE);
    // One name is enough, since writers take turns; what a killed writer left is overwritten.
    let partial = dir.join("testnet.json.partial");
    let failed = |error: io::Error| CliError::io(format_args!("write {}", path.display()), &error);
    let mut text = serde_json::to_string_pretty(record).map_err(|error| failed(error.into()))?;
    text.push('\n');
    let mut file = File::create(&partial).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, &path).map_err(failed)
}
