//! Nodes under strace: syncs that fail or take their time, and what of a store's file is durable.
//!
//! The network is encrypted, so a trace does not show which word left when. It does show every write to the store and
//! every sync, with the bytes: so the file can be made again as it was at the last sync that succeeded, as if the power
//! had gone. Whatever others have from the node must be covered by that file.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the tracer does to syncs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Syncs {
    /// The n-th of a thread fails with EIO, after a while in which a word that leaves too early would be seen.
    FailAt(u32),
    /// Each takes this long.
    Take { ms: u64 },
}

/// How long a sync that fails takes.
const FAILING_MS: u64 = 400;

impl Syncs {
    fn injection(self) -> String {
        match self {
            Syncs::FailAt(number) => {
                format!("inject=fdatasync,fsync:error=EIO:delay_enter={}:when={number}", FAILING_MS * 1_000)
            }
            Syncs::Take { ms } => format!("inject=fdatasync,fsync:delay_enter={}", ms * 1_000),
        }
    }
}

/// Whether nodes can be traced here; says so where they cannot.
pub(super) fn is_available() -> bool {
    let tried = Command::new("strace")
        .args([
            "-f",
            "--seccomp-bpf",
            "-e",
            "trace=fsync",
            "-e",
            "inject=fsync:delay_enter=1",
            "-o",
            "/dev/null",
            "true",
        ])
        .stdout(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("SKIPPED: strace cannot trace here: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("SKIPPED: there is no strace: {error}");
            false
        }
    }
}

/// A command under the tracer, and what its trace tells.
pub(super) struct Traced {
    store: PathBuf,
    trace: PathBuf,
    /// The store's file before it starts.
    before: Vec<u8>,
}

impl Traced {
    /// Wraps the command of a node with this store.
    pub(super) fn wrap(command: &Command, store: &Path, trace: &Path, syncs: Syncs) -> (Traced, Command) {
        let mut wrapped = Command::new("strace");
        wrapped
            .args(["-f", "-y", "-xx", "-s", "67108864", "--seccomp-bpf"])
            .args(["-e", "trace=pwrite64,ftruncate,fdatasync,fsync", "-e", &syncs.injection(), "-o"])
            .arg(trace)
            .arg(command.get_program())
            .args(command.get_args());
        let before = fs::read(store).expect("a store");
        (Traced { store: store.to_owned(), trace: trace.to_owned(), before }, wrapped)
    }

    /// Puts the store's file back to its last successful sync. Returns how many syncs of it succeeded.
    pub(super) fn lose_unsynced(self) -> usize {
        let trace = fs::read_to_string(&self.trace).expect("a trace");
        let mut file = self.before;
        let mut unsynced = VecDeque::new();
        let mut syncs = 0;
        let mut syncing = None;
        for line in trace.lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let is_of_store = || path_of(call).is_some_and(|path| path == self.store);
            if call.starts_with("pwrite64(") && is_of_store() {
                unsynced
                    .push_back(Change::written(call).unwrap_or_else(|| panic!("a write is not told: {:.300}", line)));
            } else if call.starts_with("ftruncate(") && is_of_store() {
                unsynced.push_back(Change::cut(call).unwrap_or_else(|| panic!("a length is not told: {line}")));
            } else if call.starts_with("fdatasync(") && is_of_store() {
                if call.contains("<unfinished") {
                    syncing = Some((thread.to_owned(), unsynced.len()));
                } else if succeeded(call) {
                    syncs += 1;
                    unsynced.drain(..).for_each(|change| change.apply(&mut file));
                }
            } else if call.starts_with("<... fdatasync resumed")
                && let Some((_, covered)) = syncing.take_if(|(by, _)| by == thread)
                && succeeded(call)
            {
                syncs += 1;
                unsynced.drain(..covered).for_each(|change| change.apply(&mut file));
            }
        }
        fs::write(&self.store, file).expect("the store is written");
        syncs
    }
}

fn succeeded(call: &str) -> bool {
    call.rsplit_once(" = ").is_some_and(|(_, result)| result.split(' ').next() == Some("0"))
}

/// The file that a call is about, as `-y` and `-xx` tell it.
fn path_of(call: &str) -> Option<PathBuf> {
    let (_, rest) = call.split_once('<')?;
    let bytes = unescape(rest.split_once('>')?.0)?;
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// A change of the file that is not synced yet.
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    /// `pwrite64(FD<PATH>, "BYTES", COUNT, OFFSET…`
    fn written(call: &str) -> Option<Change> {
        let mut quoted = call.split('"');
        let bytes = unescape(quoted.nth(1)?)?;
        let mut numbers =
            quoted.next()?.trim_start_matches(", ").split([',', ')', ' ']).filter(|part| !part.is_empty());
        let count: usize = numbers.next()?.parse().ok()?;
        let offset = numbers.next()?.parse().ok()?;
        (count == bytes.len()).then_some(Change::Write { offset, bytes })
    }

    /// `ftruncate(FD<PATH>, LENGTH…`
    fn cut(call: &str) -> Option<Change> {
        let (_, rest) = call.split_once(">, ")?;
        rest.split([')', ' ']).next()?.parse().ok().map(Change::Length)
    }

    fn apply(self, file: &mut Vec<u8>) {
        match self {
            Change::Length(length) => file.resize(length, 0),
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[offset..end].copy_from_slice(&bytes);
            }
        }
    }
}
