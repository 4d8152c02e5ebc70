//! The mailbox's own block list, which its home keeps and obeys. The directory has a copy of the newest one that was
//! seen, in the file `blocked`: it goes along when the mailbox moves, also where the old home shows nothing any more.

use std::collections::BTreeSet;
use std::time::Duration;

use postroad_protocol::block_list::BlockList;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::signed::{Signed, Verify};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, Refusal, VerifyError};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::{CALL_TIMEOUT, Endpoint, NodeAddr, backoff, unasked};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::private_file::write_durably;

/// The copy.
const FILE: &str = "blocked";
/// How long the old home may take to show the list to a mailbox that moves.
const SHOWN: Duration = Duration::from_secs(2);

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
        let known = self.ask_list(endpoint, self.home(), Question::BlockList(self.address()), CALL_TIMEOUT).await?;
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
        self.set_list(endpoint, self.home(), list).await.map(|held| held.body.senders)
    }

    /// Has a node keep the list, or one that is as new.
    async fn set_list(
        &self,
        endpoint: &Endpoint,
        at: &NodeAddr,
        list: Signed<BlockList>,
    ) -> Result<Signed<BlockList>, ClientError> {
        let version = list.body.version;
        match self.ask_list(endpoint, at, Question::SetBlockList(list), CALL_TIMEOUT).await? {
            Some(held) if held.body.version >= version => Ok(held),
            _ => Err(unasked(at)),
        }
    }

    /// A node to which the mailbox moves gets the list that the home has, or the copy's.
    pub(crate) async fn bring_blocked(&self, endpoint: &Endpoint, to: &NodeAddr) -> Result<(), ClientError> {
        if let Err(error) = self.ask_list(endpoint, self.home(), Question::BlockList(self.address()), SHOWN).await {
            tracing::debug!(%error, "the home does not show the block list; the copy is taken");
        }
        let Some(list) = self.known_list() else { return Ok(()) };
        match self.set_list(endpoint, to, list).await {
            Err(error) if is_stale(&error) => Ok(()),
            set => set.map(|_| ()),
        }
    }

    /// The newest list that was seen. A copy that is damaged is none: the home shows it again.
    fn known_list(&self) -> Option<Signed<BlockList>> {
        std::fs::read(self.dir().join(FILE)).ok().and_then(|bytes| decode(&bytes).ok())
    }

    /// Asks a home something that it answers with the list, verifies that, and keeps a copy.
    async fn ask_list(
        &self,
        endpoint: &Endpoint,
        home: &NodeAddr,
        question: Question,
        within: Duration,
    ) -> Result<Option<Signed<BlockList>>, ClientError> {
        let Reply::BlockList(list) = endpoint.call(home, &question, within).await? else {
            return Err(unasked(home));
        };
        let Some(list) = list else { return Ok(None) };
        let unverified = |source| ClientError::Unverified { what: "the block list", source };
        if list.body.mailbox != self.address() {
            let reason = "it is another mailbox's";
            return Err(unverified(VerifyError::Malformed { kind: "block-list", reason }));
        }
        list.body.check().and_then(|()| list.verify(self.federation())).map_err(unverified)?;
        if self.known_list().is_none_or(|known| known.body.version < list.body.version) {
            write_durably(&self.dir().join(FILE), &encode(&*list))?;
        }
        Ok(Some(*list))
    }
}

fn is_stale(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(Refusal::StaleVersion { .. }))
}
