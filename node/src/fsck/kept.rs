//! What may be gone: the one place that knows what retention has taken away.
//!
//! What is past retention loses its payloads: slices, and own batches with their places and bundles. Cuts and the rows of
//! logs stay. And a node whose disk was set back does not get its own batches again (rule 4).

use postroad_engine::tables::{EXPIRED, FORGOTTEN, META, get};
use postroad_store::{Read, StoreError};

/// What a store need not hold any more.
pub(super) struct Kept {
    forgotten: u64,
    expired: u64,
}

impl Kept {
    pub(super) fn read(store: &dyn Read) -> Result<Kept, StoreError> {
        let value = |key| match get(store, META, key) {
            Ok(value) => Ok(value.unwrap_or(0)),
            // Told where single values are checked.
            Err(StoreError::Corrupt { .. }) => Ok(u64::MAX),
            Err(error) => Err(error),
        };
        Ok(Kept { forgotten: value(FORGOTTEN)?, expired: value(EXPIRED)? })
    }

    /// Whether an own batch that the cut of `epoch` included may be gone.
    pub(super) fn batch_may_be_gone(&self, epoch: u64) -> bool {
        epoch < self.forgotten || epoch <= self.expired
    }

    /// Whether the place of an own header in the cut of `epoch` may be gone.
    pub(super) fn place_may_be_gone(&self, epoch: u64) -> bool {
        epoch <= self.expired
    }

    /// Whether a slice may be gone that put entries into logs in the cut of `settled`.
    pub(super) fn slice_may_be_gone(&self, settled: u64) -> bool {
        settled <= self.expired
    }

    /// Whether anything is past retention.
    pub(super) fn has_expired(&self) -> bool {
        self.expired > 0
    }
}
