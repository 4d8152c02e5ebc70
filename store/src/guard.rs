//! The signing guard of a sole sequencer: it never signs two things for one slot.
//!
//! Cut signatures carry no incarnation, so a sequencer that was set back to an old backup would
//! contradict itself. The guard remembers the last slot it signed, outside the store and its
//! backups, and makes that durable before the signature leaves. It is the same idea as CometBFT's
//! `priv_validator_state.json` and EIP-3076.
//!
//! What it refuses: a lower slot, another digest for the last slot, to start without its file
//! while the store is not empty, to start from a file it cannot read, and to sign anything after
//! a write failed.

use std::fmt;
use std::io;
#[cfg(feature = "redb")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "redb")]
use crate::guard_file::GuardFile;
#[cfg(feature = "redb")]
use crate::medium::{Files, Medium};

/// The last thing that was signed: slot, digest, signature.
pub type GuardRecord = (u64, [u8; 32], [u8; 64]);

/// A draft that was signed, and its signature.
pub type SignedDraft = (Vec<u8>, [u8; 64]);

/// Why the guard said no. Only [`GuardError::Refused`] lets the process go on.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Signing this would contradict what was signed before, or go back.
    #[error("slot {slot} will not be signed: slot {last} is signed already")]
    Refused {
        /// The slot that was asked for.
        slot: u64,
        /// The last slot that was signed.
        last: u64,
    },
    /// There is no guard file though the store has been used.
    #[error(
        "{} is missing though the store is not empty; it is not part of a backup: put back the \
         newest one this sequencer wrote, or retire its key",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Neither copy in the guard file can be read, or the two contradict each other.
    #[error(
        "{} is corrupt; what was signed last cannot be known: check the disk and retire the key",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the guard.
    #[error("{} is in use; stop the other sequencer that runs on this directory", path.display())]
    InUse {
        /// The lock that is held.
        path: PathBuf,
    },
    /// No space is left for a draft. Nothing was signed; free some space and do it again.
    #[error("no space left on the device of the guard: free some space and try again")]
    Full,
    /// The disk failed, now or before. The guard signs nothing any more: stop the process.
    #[error("the guard failed while it tried to {doing}; stop the process and check the disk")]
    Fatal {
        /// What was being done, to be read after "tried to".
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl GuardError {
    /// Whether the same request may succeed later without a restart.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full)
    }
}

/// What to do with a request to sign.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It was signed before: here it is.
    Known([u8; 64]),
    /// Nothing stands against it.
    Sign,
}

/// The rule, without any IO.
fn decide(last: Option<&GuardRecord>, slot: u64, digest: &[u8; 32]) -> Result<Decision, GuardError> {
    match last {
        Some((last, known, signature)) if *last == slot && known == digest => Ok(Decision::Known(*signature)),
        Some((last, ..)) if *last >= slot => Err(GuardError::Refused { slot, last: *last }),
        _ => Ok(Decision::Sign),
    }
}

enum Keeper {
    Memory,
    #[cfg(feature = "redb")]
    File(GuardFile),
}

struct Inner {
    last: Option<GuardRecord>,
    keeper: Keeper,
    failed: bool,
}

/// The signing guard. Clones share one memory and one file.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Mutex<Inner>>,
}

impl Guard {
    /// Opens the guard in `dir`, which is created if it is missing. The guard is created only
    /// while `store_is_empty`, so that a lost guard is not taken for a new one. One process can
    /// have it open.
    ///
    /// # Errors
    /// [`GuardError::Missing`], [`GuardError::Corrupt`] and [`GuardError::InUse`] refuse to start;
    /// [`GuardError::Fatal`] from the disk.
    #[cfg(feature = "redb")]
    pub fn open(dir: &Path, store_is_empty: bool) -> Result<Self, GuardError> {
        Self::open_on(&Files, dir, store_is_empty)
    }

    #[cfg(feature = "redb")]
    pub(crate) fn open_on(medium: &dyn Medium, dir: &Path, store_is_empty: bool) -> Result<Self, GuardError> {
        let (file, last) = GuardFile::open(medium, dir, store_is_empty)?;
        Ok(Self::new(last, Keeper::File(file)))
    }

    /// A guard that remembers as long as one of its clones lives. A simulator keeps one across
    /// the crashes of a node, as a disk would.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(None, Keeper::Memory)
    }

    fn new(last: Option<GuardRecord>, keeper: Keeper) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { last, keeper, failed: false })) }
    }

    /// Signs `digest` for `slot`, unless that contradicts what was signed before.
    ///
    /// The last slot with the same digest gives the stored signature again. For a higher slot
    /// `sign` is called, and its result is made durable before it is returned.
    ///
    /// # Errors
    /// [`GuardError::Refused`] for a lower slot, or the last slot with another digest;
    /// [`GuardError::Fatal`] if the record could not be written: the signature is then discarded
    /// and nothing is signed any more.
    pub fn sign(&self, slot: u64, digest: [u8; 32], sign: impl FnOnce() -> [u8; 64]) -> Result<[u8; 64], GuardError> {
        // A panic in `sign` happens before anything changes, so a poisoned lock guards nothing.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.failed {
            return Err(GuardError::Fatal {
                doing: "sign after it had failed before",
                source: io::Error::other("an earlier write failed"),
            });
        }
        if let Decision::Known(signature) = decide(inner.last.as_ref(), slot, &digest)? {
            return Ok(signature);
        }
        let signature = sign();
        let record = (slot, digest, signature);
        match &inner.keeper {
            Keeper::Memory => {}
            #[cfg(feature = "redb")]
            Keeper::File(file) => {
                if let Err(source) = file.write(&record) {
                    inner.failed = true;
                    return Err(GuardError::Fatal { doing: "store a signature", source });
                }
            }
        }
        inner.last = Some(record);
        Ok(signature)
    }

    /// Makes what is about to be signed for `slot` durable, outside the store and its backups, so that it can be
    /// published again though the store forgot it. A guard in memory keeps nothing.
    ///
    /// # Errors
    /// [`GuardError::Full`] changed nothing that was signed; after [`GuardError::Fatal`] nothing is signed any more.
    pub fn keep(&self, slot: u64, draft: &[u8]) -> Result<(), GuardError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.last;
        if before.is_some_and(|(last, ..)| last >= slot) {
            return Ok(());
        }
        let kept = match &inner.keeper {
            Keeper::Memory => {
                let _ = draft;
                Ok::<(), io::Error>(())
            }
            #[cfg(feature = "redb")]
            Keeper::File(file) => file.keep(slot, draft, before.as_ref()),
        };
        kept.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => GuardError::Full,
            _ => {
                inner.failed = true;
                GuardError::Fatal { doing: "keep a draft", source }
            }
        })
    }

    /// What was kept and signed, with its signatures, the newest first, as far as it is here and whole.
    ///
    /// # Errors
    /// [`GuardError::Fatal`] if it cannot be read.
    pub fn kept(&self) -> Result<Vec<SignedDraft>, GuardError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match (&inner.keeper, inner.last) {
            #[cfg(feature = "redb")]
            (Keeper::File(file), Some(last)) => {
                file.kept(last).map_err(|source| GuardError::Fatal { doing: "read its drafts", source })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// What was signed last.
    #[must_use]
    pub fn last(&self) -> Option<GuardRecord> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).last
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last().map(|(slot, ..)| slot);
        f.debug_struct("Guard").field("last_slot", &last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let last = (5, [1; 32], [2; 64]);
        let sign = |slot, digest: u8| decide(Some(&last), slot, &[digest; 32]);
        assert_eq!(sign(5, 1).unwrap(), Decision::Known([2; 64]));
        assert_eq!(sign(6, 9).unwrap(), Decision::Sign);
        assert!(matches!(sign(5, 9), Err(GuardError::Refused { slot: 5, last: 5 })));
        assert!(matches!(sign(4, 1), Err(GuardError::Refused { slot: 4, last: 5 })));
        assert_eq!(decide(None, 0, &[0; 32]).unwrap(), Decision::Sign);
    }
}
