//! What becomes of a message, as its sender sees it.

use std::sync::Arc;

use postroad_protocol::receipt::LeafRefusal;
use postroad_protocol::refused::RefusedProof;
use postroad_protocol::{Digest, MailboxId, Refusal, Seq};
use tokio::sync::watch;

use crate::error::ClientError;

/// How far a message has come. Each of the three answers was proven to this library before it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the origin's first answer.
    Waiting,
    /// It is where it must be: receipts for all its slices.
    Accepted,
    /// It has its place in the one order.
    Ordered,
    /// It is in the mailbox of every recipient that takes it, under a final attestation. Those that do not are in
    /// [`Progress::refused`].
    Delivered,
    /// It has its place in the order, and no recipient takes it; see [`Progress::refused`].
    NotDelivered,
    /// Not taken, for good.
    Refused(Refusal),
    /// Not ordered before the epoch until which it was valid.
    Expired,
    /// The origin's answer does not verify.
    Unverified(String),
}

/// An answer that a sender can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Wait {
    /// [`Stage::Accepted`].
    Accepted,
    /// [`Stage::Ordered`].
    #[default]
    Ordered,
    /// [`Stage::Delivered`].
    Delivered,
}

impl Stage {
    /// Whether nothing better can come, or the wished answer is there.
    pub fn satisfies(&self, wait: Wait) -> bool {
        match self {
            Stage::Waiting => false,
            Stage::Accepted => wait <= Wait::Accepted,
            Stage::Ordered => wait <= Wait::Ordered,
            Stage::Delivered | Stage::NotDelivered | Stage::Refused(_) | Stage::Expired | Stage::Unverified(_) => true,
        }
    }
}

/// Everything known of a message that was given to a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its end-to-end id, once it is sealed.
    pub id: Option<Digest>,
    /// Its counter at the origin, once it is signed; another one if it was signed again.
    pub counter: Option<u64>,
    /// How far it has come.
    pub stage: Stage,
    /// Whether too few nodes answer for it (see the notes on weak custody).
    pub weak: bool,
    /// Its place in the order.
    pub seq: Option<Seq>,
    /// The recipients whose homes do not take it. Complete once it is delivered; what a receipt refuses is known when it
    /// is ordered, what a later fill refuses only to who waits for [`Wait::Delivered`].
    pub refused: Vec<RefusedRecipient>,
}

/// A recipient that does not get a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecipient {
    /// The recipient.
    pub mailbox: MailboxId,
    /// Why its home refuses the message.
    pub reason: LeafRefusal,
    /// That it does, settled in a certified cut.
    pub proof: Arc<RefusedProof>,
}

impl Progress {
    pub(super) fn waiting() -> Progress {
        Progress { id: None, counter: None, stage: Stage::Waiting, weak: false, seq: None, refused: Vec::new() }
    }
}

/// Follows one message.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(super) progress: watch::Receiver<Progress>,
}

impl Ticket {
    /// What is known now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until the message is signed and durable, so that it leaves even if this process dies, or cannot be.
    pub(crate) async fn signed(&mut self) -> bool {
        let wanted = |progress: &Progress| progress.id.is_some() || progress.stage != Stage::Waiting;
        self.progress.wait_for(wanted).await.is_ok_and(|progress| progress.id.is_some())
    }

    /// Waits until the message has come as far as `wait`, or cannot any more. There is no time-out here: a message
    /// that is not answered yet is kept, and sent again.
    ///
    /// # Errors
    /// [`ClientError::Stopped`] when the sender is gone; the message is on the disk and is sent again by the next one.
    pub async fn reached(&mut self, wait: Wait) -> Result<Progress, ClientError> {
        let reached = self.progress.wait_for(|progress| progress.stage.satisfies(wait)).await;
        match reached {
            Ok(progress) => Ok(progress.clone()),
            Err(_) => Err(ClientError::Stopped { reason: "it was closed, or its store failed".into() }),
        }
    }
}
