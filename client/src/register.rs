//! Registration: the record that gives a mailbox its home, settled in a cut.

use std::time::Duration;

use postroad_protocol::record::Registration;
use postroad_protocol::signed::Signed;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{Digest, Refusal};
use tokio::time::{Instant, sleep};

use crate::connection::{Endpoint, backoff, unasked};
use crate::directory::Directory;
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;

impl Mailbox {
    /// Registers the mailbox at its home and returns the epoch since which it lives there. Registering again is safe:
    /// the record is the same.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when home or federation say no, for example because the address is registered with
    /// another home; [`ClientError::TimedOut`] when nothing was settled `within` that time.
    pub async fn register(&self, within: Duration) -> Result<u64, ClientError> {
        let deadline = Instant::now() + within;
        let endpoint = Endpoint::with_key(self.secret())?;
        let record = Registration {
            mailbox: self.address(),
            home: self.home().node(),
            encryption_key: self.encryption().public(),
            recovery_key: self.recovery_key(),
        };
        let signed = Signed::sign(record, self.secret(), self.federation()).into_inner();
        let digest = signed.digest(self.federation());
        let mut delays = backoff();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.try_register(&endpoint, &signed, digest, left).await {
                Err(error) if error.is_transient() => {
                    let delay = delays.failed();
                    if Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    sleep(delay).await;
                }
                settled => return settled,
            }
        }
    }

    async fn try_register(
        &self,
        endpoint: &Endpoint,
        signed: &Signed<Registration>,
        digest: Digest,
        within: Duration,
    ) -> Result<u64, ClientError> {
        let value = match endpoint.call(self.home(), &Question::Register(signed.clone()), within).await {
            Ok(Reply::Home(proof)) => {
                proof
                    .verify(&self.address(), self.federation())
                    .map_err(|source| ClientError::Unverified { what: "the registration's proof", source })?;
                proof.value
            }
            Ok(_) => return Err(unasked(self.home())),
            // Perhaps by an earlier run of ours, whose answer was lost.
            Err(ClientError::Refused(Refusal::AlreadyRegistered { .. })) => {
                let mut directory = Directory::new(endpoint.clone(), self.home().clone(), self.federation().clone());
                directory.look_up(&self.address()).await?.value
            }
            Err(error) => return Err(error),
        };
        match value {
            Some(value) if value.record == digest => Ok(value.since),
            Some(value) => Err(Refusal::AlreadyRegistered { home: value.home }.into()),
            None => Err(Refusal::NotReady.into()),
        }
    }
}
