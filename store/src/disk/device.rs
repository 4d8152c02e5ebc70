//! The file under redb, watched for the moment a commit may have become current.
//!
//! A two-phase commit writes the header at offset 0 twice: with the new root in the spare slot,
//! synced together with the data, then with the byte flipped that makes this slot current. A full
//! device is harmless as long as that second write did not happen. A failed sync never is, whatever
//! its code. redb's errors tell neither, so this wrapper notes both.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use redb::{BackendError, StorageBackend};

use crate::medium::OpenFile;

/// What happened to the file.
#[derive(Debug, Default)]
pub(super) struct Watch {
    header_writes: AtomicU32,
    sync_failed: AtomicBool,
}

impl Watch {
    /// A commit begins.
    pub(super) fn start(&self) {
        self.header_writes.store(0, SeqCst);
    }

    /// Whether the commit may have become current, or the disk lied.
    pub(super) fn in_doubt(&self) -> bool {
        self.header_writes.load(SeqCst) > 1 || self.sync_failed()
    }

    /// Whether a sync failed since the file was opened.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(SeqCst)
    }
}

/// An open file with a [`Watch`].
#[derive(Debug)]
pub(super) struct Device {
    file: OpenFile,
    watch: Arc<Watch>,
}

impl Device {
    pub(super) fn new(file: OpenFile) -> (Self, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        (Self { file, watch: Arc::clone(&watch) }, watch)
    }
}

impl StorageBackend for Device {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let result = self.file.sync_data();
        if result.is_err() {
            self.watch.sync_failed.store(true, SeqCst);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write(offset, data)?;
        if offset == 0 {
            self.watch.header_writes.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
