//! A disk in memory that forgets, when the power fails, what was not synced.
//!
//! It keeps two things apart: what a running system sees, and what would be there after a power
//! cut. Between them lie the writes, new lengths and new names since the last sync. A cut keeps
//! any part of these: each whole, in sectors, or not at all. Of lengths it keeps the first few,
//! since a file system journals them in order.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use redb::{BackendError, StorageBackend};

use crate::medium::{Medium, OpenFile, parent};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    /// The index of its contents.
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

enum Change {
    Write { offset: usize, data: Vec<u8> },
    Len(usize),
}

#[derive(Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What makes `now` out of `durable`, in order.
    unsynced: Vec<Change>,
    locked_by: Option<u64>,
}

impl Contents {
    fn settled(bytes: Vec<u8>) -> Self {
        Self { now: bytes.clone(), durable: bytes, unsynced: Vec::new(), locked_by: None }
    }
}

/// A disk that says that it has synced, and has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// No sync of a file does anything.
    Files,
    /// Every second sync of a file does nothing, beginning with the first or the second.
    EverySecond(u64),
    /// No sync of a directory does anything.
    Dirs,
}

/// What goes wrong: each counts the calls that still succeed; then it fails, and goes on failing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Steps (whatever changes or syncs something) until the process and its machine stand still.
    pub(crate) stop_after: Option<u64>,
    /// Writes and lengths until the device is full.
    pub(crate) full_after: Option<u64>,
    /// Writes and lengths until they fail as on a broken disk.
    pub(crate) bad_write_after: Option<u64>,
    /// Syncs until they fail, and how.
    pub(crate) bad_sync_after: Option<(u64, io::ErrorKind)>,
}

/// What the step was at which the disk stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Write,
    Len,
    Sync,
    Name,
    SyncDir,
}

#[derive(Default)]
struct State {
    contents: Vec<Contents>,
    now: Names,
    durable: Names,
    /// Each is one entry or two that change together: a path, and what is there from now on.
    unsynced: Vec<Vec<(PathBuf, Option<Node>)>>,
    faults: Faults,
    lie: Option<Lie>,
    steps: u64,
    syncs: u64,
    stopped_at: Option<Step>,
    handles: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Platter {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Platter")
    }
}

fn counted(left: &mut Option<u64>) -> bool {
    match left {
        None => false,
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

impl State {
    /// Every step passes here.
    fn step(&mut self, step: Step) -> io::Result<()> {
        if counted(&mut self.faults.stop_after) {
            self.stopped_at.get_or_insert(step);
            return Err(io::Error::other("the machine stands still"));
        }
        self.steps += 1;
        if matches!(step, Step::Write | Step::Len) {
            if counted(&mut self.faults.full_after) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if counted(&mut self.faults.bad_write_after) {
                return Err(io::Error::other("a bad sector"));
            }
        }
        if matches!(step, Step::Sync | Step::SyncDir)
            && let Some((left, kind)) = &mut self.faults.bad_sync_after
        {
            let mut count = Some(*left);
            if counted(&mut count) {
                return Err((*kind).into());
            }
            *left = count.unwrap_or_default();
        }
        Ok(())
    }

    fn name(&mut self, entries: Vec<(PathBuf, Option<Node>)>) {
        set(&mut self.now, &entries);
        self.unsynced.push(entries);
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.now.get(path) {
            Some(Node::File(index)) => Ok(*index),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn set(names: &mut Names, entries: &[(PathBuf, Option<Node>)]) {
    for (path, node) in entries {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

impl Platter {
    /// A disk with one empty directory.
    pub(crate) fn with_dir(dir: &Path) -> Self {
        let platter = Self::default();
        let names: Names = dir.ancestors().map(|dir| (dir.to_owned(), Node::Dir)).collect();
        let mut state = platter.state();
        state.now = names.clone();
        state.durable = names;
        drop(state);
        platter
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    pub(crate) fn set_lie(&self, lie: Option<Lie>) {
        self.state().lie = lie;
    }

    /// Changes and syncs so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// At which step [`Faults::stop_after`] struck, if it did.
    pub(crate) fn stopped_at(&self) -> Option<Step> {
        self.state().stopped_at
    }

    /// How many changes a power cut now could lose.
    pub(crate) fn at_stake(&self) -> usize {
        let state = self.state();
        state.unsynced.len() + state.contents.iter().map(|file| file.unsynced.len()).sum::<usize>()
    }

    /// The process is gone, the machine is not: everything that it wrote can still be read.
    pub(crate) fn after_kill(&self) -> Self {
        let mut state = self.state();
        let mut next =
            State { lie: state.lie, now: state.now.clone(), durable: state.durable.clone(), ..State::default() };
        next.unsynced = std::mem::take(&mut state.unsynced);
        next.contents = std::mem::take(&mut state.contents);
        for file in &mut next.contents {
            file.locked_by = None;
        }
        Self { state: Arc::new(Mutex::new(next)) }
    }

    /// What is on the disk when the power comes back.
    pub(crate) fn after_power_cut(&self, rng: &mut ChaCha8Rng) -> Self {
        let state = self.state();
        let loss = Loss::choose(rng);
        let mut names = state.durable.clone();
        for entries in &state.unsynced {
            if loss.keeps(rng) {
                set(&mut names, entries);
            }
        }
        // Who lost its directory is lost.
        let whole = |path: &Path| path.ancestors().skip(1).all(|dir| names.get(dir) == Some(&Node::Dir));
        let names: Names =
            names.iter().filter(|(path, _)| whole(path)).map(|(path, node)| (path.clone(), *node)).collect();
        let contents = state.contents.iter().map(|file| Contents::settled(loss.of(file, rng))).collect();
        let next = State { lie: state.lie, now: names.clone(), durable: names, contents, ..State::default() };
        Self { state: Arc::new(Mutex::new(next)) }
    }
}

/// What a power cut takes.
#[derive(Clone, Copy)]
enum Loss {
    Everything,
    Nothing,
    /// Whole writes, each with this chance in a hundred.
    Writes(u32),
    /// Parts of writes, cut at multiples of so many bytes.
    Sectors(usize),
}

impl Loss {
    fn choose(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..8) {
            0 => Self::Everything,
            1 => Self::Nothing,
            2 => Self::Writes(10),
            3 => Self::Writes(50),
            4 => Self::Writes(90),
            5 => Self::Sectors(4096),
            _ => Self::Sectors(512),
        }
    }

    fn keeps(self, rng: &mut ChaCha8Rng) -> bool {
        match self {
            Self::Everything => false,
            Self::Nothing => true,
            Self::Writes(lost) => rng.random_range(0..100) >= lost,
            Self::Sectors(_) => rng.random(),
        }
    }

    fn of(self, file: &Contents, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut bytes = file.durable.clone();
        let lens = file.unsynced.iter().filter(|change| matches!(change, Change::Len(_))).count();
        let mut kept_lens = match self {
            Self::Everything => 0,
            Self::Nothing => lens,
            _ => rng.random_range(0..=lens),
        };
        for change in &file.unsynced {
            match change {
                Change::Len(_) if kept_lens == 0 => {}
                Change::Len(len) => {
                    kept_lens -= 1;
                    bytes.resize(*len, 0);
                }
                Change::Write { offset, data } => {
                    let Self::Sectors(size) = self else {
                        if self.keeps(rng) {
                            put(&mut bytes, *offset, data);
                        }
                        continue;
                    };
                    let mut at = *offset;
                    let end = offset + data.len();
                    while at < end {
                        let next = (at / size + 1) * size;
                        let next = next.min(end);
                        if self.keeps(rng) {
                            put(&mut bytes, at, &data[at - offset..next - offset]);
                        }
                        at = next;
                    }
                }
            }
        }
        bytes
    }
}

/// Writes as far as the file reaches: its length is what the lengths say.
fn put(bytes: &mut [u8], offset: usize, data: &[u8]) {
    let end = (offset + data.len()).min(bytes.len());
    if offset < end {
        bytes[offset..end].copy_from_slice(&data[..end - offset]);
    }
}

impl Platter {
    fn handle(&self, state: &mut State, contents: usize) -> Handle {
        state.handles += 1;
        Handle { platter: self.clone(), contents, id: state.handles }
    }
}

impl Medium for Platter {
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().now.contains_key(path))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.now.get(parent(path)) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step(Step::Name)?;
        state.name(vec![(path.to_owned(), Some(Node::Dir))]);
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<OpenFile> {
        let mut state = self.state();
        let contents = state.file(path)?;
        Ok(Box::new(self.handle(&mut state, contents)))
    }

    fn open_locked(&self, path: &Path) -> io::Result<Option<OpenFile>> {
        let mut state = self.state();
        if !state.now.contains_key(path) {
            state.step(Step::Name)?;
            state.contents.push(Contents::default());
            let node = Node::File(state.contents.len() - 1);
            state.name(vec![(path.to_owned(), Some(node))]);
        }
        let contents = state.file(path)?;
        if state.contents[contents].locked_by.is_some() {
            return Ok(None);
        }
        let handle = self.handle(&mut state, contents);
        state.contents[contents].locked_by = Some(handle.id);
        Ok(Some(Box::new(handle)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = Node::File(state.file(from)?);
        state.step(Step::Name)?;
        state.name(vec![(to.to_owned(), Some(node)), (from.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Step::SyncDir)?;
        if state.lie == Some(Lie::Dirs) {
            return Ok(());
        }
        let State { unsynced, durable, .. } = &mut *state;
        unsynced.retain(|entries| {
            let here = entries.iter().all(|(entry, _)| parent(entry) == path);
            if here {
                set(durable, entries);
            }
            !here
        });
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
struct Handle {
    platter: Platter,
    contents: usize,
    id: u64,
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter.state().contents[self.contents].now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.platter.state();
        let bytes = &state.contents[self.contents].now;
        let found = bytes.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.platter.state();
        state.step(Step::Len)?;
        let file = &mut state.contents[self.contents];
        file.now.resize(len as usize, 0);
        file.unsynced.push(Change::Len(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.platter.state();
        state.step(Step::Sync)?;
        state.syncs += 1;
        let lies = match state.lie {
            Some(Lie::Files) => true,
            Some(Lie::EverySecond(first)) => (state.syncs + first) % 2 == 1,
            Some(Lie::Dirs) | None => false,
        };
        if !lies {
            let file = &mut state.contents[self.contents];
            file.durable.clone_from(&file.now);
            file.unsynced.clear();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.platter.state();
        state.step(Step::Write)?;
        let file = &mut state.contents[self.contents];
        let offset = offset as usize;
        assert!(offset + data.len() <= file.now.len(), "a write past the end, which would make the file longer");
        put(&mut file.now, offset, data);
        file.unsynced.push(Change::Write { offset, data: data.to_vec() });
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !matches!((start, end), (Bound::Unbounded | Bound::Included(0), Bound::Unbounded)) {
            return Err(BackendError::Unsupported);
        }
        let mut state = self.platter.state();
        let locked_by = &mut state.contents[self.contents].locked_by;
        Ok(*locked_by.get_or_insert(self.id) == self.id)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        self.unlock();
        Ok(())
    }
}

impl Handle {
    fn unlock(&self) {
        let mut state = self.platter.state();
        // After a kill the contents are another disk's.
        if let Some(file) = state.contents.get_mut(self.contents)
            && file.locked_by == Some(self.id)
        {
            file.locked_by = None;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.unlock();
    }
}
