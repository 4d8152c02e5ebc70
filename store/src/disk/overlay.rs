//! A file under redb that is only read. redb writes at every open (and repairs a file that was not closed); here those
//! writes stay in memory, so that whoever inspects a store leaves its evidence as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// The unit in which written bytes are kept.
const BLOCK_BYTES: usize = 4_096;

#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    locks: FileBackend,
    written: Mutex<Written>,
}

/// What was written since the file was opened.
#[derive(Debug)]
struct Written {
    len: u64,
    /// By block number; each begins as the file's bytes.
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        let locks = FileBackend::new(file.try_clone()?)?;
        let len = file.metadata()?.len();
        Ok(Self { file, locks, written: Mutex::new(Written { len, blocks: BTreeMap::new() }) })
    }

    /// Reads from the file; zeros behind its end.
    fn read_file(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match self.file.read_at(out, offset)? {
                0 => {
                    out.fill(0);
                    return Ok(());
                }
                count => {
                    out = &mut out[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }
}

/// The blocks that `bytes` bytes from `offset` on touch: number, where in the block, where in the bytes.
fn blocks(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES as u64) as usize;
        let count = (BLOCK_BYTES - within).min(bytes - done);
        let part = done..done + count;
        done += count;
        (count > 0).then_some((at / BLOCK_BYTES as u64, within, part))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.written.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.read_file(offset, out)?;
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, within, part) in blocks(offset, out.len()) {
            if let Some(block) = written.blocks.get(&number) {
                let count = part.len();
                out[part].copy_from_slice(&block[within..within + count]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, within, part) in blocks(offset, data.len()) {
            let block = match written.blocks.entry(number) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let mut block = Box::new([0; BLOCK_BYTES]);
                    self.read_file(number * BLOCK_BYTES as u64, &mut block[..])?;
                    new.insert(block)
                }
            };
            block[within..within + part.len()].copy_from_slice(&data[part]);
        }
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.query_lock_range(start, end)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.locks.close()
    }
}
