//! The mailbox's own block list, which its home keeps and obeys.

use std::collections::BTreeSet;
use std::time::Duration;

use postroad_protocol::block_list::BlockList;
use postroad_protocol::signed::{Signed, Verify};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, Refusal, VerifyError};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::{CALL_TIMEOUT, Endpoint, backoff, unasked};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;

impl Mailbox {
    /// The senders that this mailbox blocks, as its home has it under the owner's signature.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the home's no, [`ClientError::Unverified`] when the list is not the owner's, and
    /// those of [`Endpoint::call`] when the home stays away `within` that time.
    pub async fn blocked(&self, within: Duration) -> Result<Vec<MailboxId>, ClientError> {
        self.change_blocked(within, |_| ()).await
    }

    /// Blocks and unblocks senders: from now on, the home refuses new mail of the former. Returns all that are blocked
    /// then. What is on its way may still arrive.
    ///
    /// # Errors
    /// Those of [`Mailbox::blocked`].
    pub async fn block(
        &self,
        block: &[MailboxId],
        unblock: &[MailboxId],
        within: Duration,
    ) -> Result<Vec<MailboxId>, ClientError> {
        self.change_blocked(within, |senders| {
            senders.extend(block);
            senders.retain(|sender| !unblock.contains(sender));
        })
        .await
    }

    async fn change_blocked(
        &self,
        within: Duration,
        change: impl Fn(&mut BTreeSet<MailboxId>),
    ) -> Result<Vec<MailboxId>, ClientError> {
        let deadline = Instant::now() + within;
        let endpoint = Endpoint::with_key(self.secret())?;
        let mut delays = backoff();
        loop {
            let tried = timeout_at(deadline, self.try_change(&endpoint, &change)).await;
            match tried.map_err(|_| ClientError::TimedOut { what: "the block list".into() })? {
                // Another process has changed the list in between.
                Err(error) if error.is_transient() || is_stale(&error) => {
                    let delay = delays.failed();
                    if Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    sleep(delay).await;
                }
                done => return done,
            }
        }
    }

    async fn try_change(
        &self,
        endpoint: &Endpoint,
        change: impl Fn(&mut BTreeSet<MailboxId>),
    ) -> Result<Vec<MailboxId>, ClientError> {
        let known = self.ask_list(endpoint, Question::BlockList(self.address())).await?;
        let before: BTreeSet<MailboxId> = known.iter().flat_map(|list| &list.body.senders).copied().collect();
        let mut senders = before.clone();
        change(&mut senders);
        if senders == before {
            return Ok(before.into_iter().collect());
        }
        let version = known.map_or(0, |list| list.body.version) + 1;
        let body = BlockList { mailbox: self.address(), version, senders: senders.into_iter().collect() };
        body.check().map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
        let list = Signed::sign(body, self.secret(), self.federation()).into_inner();
        match self.ask_list(endpoint, Question::SetBlockList(list.clone())).await? {
            Some(held) if held.body.version >= version => Ok(held.body.senders),
            _ => Err(unasked(self.home())),
        }
    }

    /// Asks the home something that it answers with the list, and verifies that.
    async fn ask_list(
        &self,
        endpoint: &Endpoint,
        question: Question,
    ) -> Result<Option<Signed<BlockList>>, ClientError> {
        let Reply::BlockList(list) = endpoint.call(self.home(), &question, CALL_TIMEOUT).await? else {
            return Err(unasked(self.home()));
        };
        let Some(list) = list else { return Ok(None) };
        let unverified = |source| ClientError::Unverified { what: "the block list", source };
        if list.body.mailbox != self.address() {
            let reason = "it is another mailbox's";
            return Err(unverified(VerifyError::Malformed { kind: "block-list", reason }));
        }
        list.body.check().and_then(|()| list.verify(self.federation())).map_err(unverified)?;
        Ok(Some(*list))
    }
}

fn is_stale(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(Refusal::StaleVersion { .. }))
}
