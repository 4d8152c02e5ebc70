//! The end of a move: one check, not counters.

use std::time::Duration;

use postroad_protocol::NodeId;
use postroad_store::StoreError;
use tokio::time::{Instant, sleep, timeout_at};

use super::Mover;
use crate::error::ClientError;
use crate::receiver::{Received, Receiver, ReceiverOptions, VerifiedLog, read_verified};

const PAUSE: Duration = Duration::from_millis(200);

/// That a mailbox's log went on unbroken at its new home: the log that was read before is the beginning of one that the
/// new home has attested finally, but for what the move made come again, all of which is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The home.
    pub home: NodeId,
    /// The epoch up to which it has attested the log.
    pub epoch: u64,
    /// How many entries that is.
    pub size: u64,
    /// How many entries that were read before are not there (again): zero, unless somebody still owes them.
    pub missing: usize,
    /// Whether a receiver that runs on this mailbox has made the check.
    pub by_reader: bool,
}

impl Mover {
    /// Checks that the log went on unbroken, by reading it: up to an attestation of the new home that a cut has made
    /// final, of an epoch not before its import. Nothing is acknowledged; what was not read yet is there for the
    /// application afterwards. While a receiver runs on the mailbox, that one makes the same check as it reads, and this
    /// waits for what it writes down.
    ///
    /// # Errors
    /// [`ClientError::Violation`] when the log is another one; [`ClientError::TimedOut`] when no such attestation came
    /// `within` that time.
    pub async fn check(&mut self, within: Duration) -> Result<Checked, ClientError> {
        let deadline = Instant::now() + within;
        let place = self.place(&[]).await?;
        let imported = place.moved.as_ref().and_then(|moved| moved.import.as_ref()).map_or(0, |import| import.first);
        let what = || ClientError::TimedOut { what: "a final attestation of the new home".into() };
        loop {
            let options = ReceiverOptions { follow: true, patience: Some(within), ..ReceiverOptions::default() };
            let checked = match timeout_at(deadline, Receiver::connect(&self.mailbox, options)).await {
                Err(_) => return Err(what()),
                Ok(Ok(receiver)) => timeout_at(deadline, read(receiver, imported)).await.map_err(|_| what())??,
                Ok(Err(ClientError::Store(StoreError::InUse { .. }))) => self.written_down(place.home, imported)?,
                Ok(Err(error)) => return Err(error),
            };
            if let Some(checked) = checked {
                return Ok(checked);
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(what());
            }
            sleep(PAUSE).await;
        }
    }

    /// What a running receiver has verified, and the application acknowledged.
    fn written_down(&self, home: NodeId, imported: u64) -> Result<Option<Checked>, ClientError> {
        let verified = read_verified(self.mailbox.dir())?;
        let its = verified.filter(|verified| verified.home == home && verified.epoch >= imported);
        Ok(its.map(|VerifiedLog { epoch, size, .. }| Checked { home, epoch, size, missing: 0, by_reader: true }))
    }
}

async fn read(mut receiver: Receiver, imported: u64) -> Result<Option<Checked>, ClientError> {
    while let Some(received) = receiver.next().await? {
        if let Received::Settled { epoch, size, is_final: true, .. } = received
            && epoch >= imported
        {
            let home = receiver.mailbox().home().node();
            let missing = receiver.awaited_again();
            return Ok(Some(Checked { home, epoch, size, missing, by_reader: false }));
        }
    }
    Ok(None)
}
