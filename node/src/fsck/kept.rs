//! What may be gone: the one place that knows what retention has taken away.
//!
//! Nothing is ever forgotten yet, so everything that the cuts name must be there, with one exception: a node whose disk
//! was set back does not get its own batches again (rule 4).

use postroad_engine::tables::{FORGOTTEN, META};
use postroad_protocol::MailboxId;
use postroad_store::{Read, StoreError};

/// What a store need not hold any more.
pub(super) struct Kept {
    forgotten: u64,
}

impl Kept {
    pub(super) fn read(store: &dyn Read) -> Result<Kept, StoreError> {
        let forgotten = match postroad_engine::tables::get(store, META, FORGOTTEN) {
            Ok(forgotten) => forgotten.unwrap_or(0),
            // Told where single values are checked.
            Err(StoreError::Corrupt { .. }) => u64::MAX,
            Err(error) => return Err(error),
        };
        Ok(Kept { forgotten })
    }

    /// The first cut that must be there.
    pub(super) fn cuts_from(&self) -> u64 {
        1
    }

    /// Whether an own batch that the cut of `epoch` included may be gone.
    pub(super) fn batch_may_be_gone(&self, epoch: u64) -> bool {
        epoch < self.forgotten
    }

    /// Whether a slice may be gone that put entries into logs in the cut of `settled`.
    pub(super) fn slice_may_be_gone(&self, _settled: u64) -> bool {
        false
    }

    /// The log index below which a mailbox's rows may be gone.
    pub(super) fn log_from(&self, _mailbox: &MailboxId) -> u64 {
        0
    }
}
