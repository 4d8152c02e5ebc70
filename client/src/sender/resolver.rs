//! The resolver: finds where every recipient lives, and its key, before a message may be sealed.
//!
//! It takes messages in order and hands them on in order, so a message whose recipient is not registered yet holds up
//! those behind it, for five seconds at most.

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_protocol::state::MailboxState;
use postroad_protocol::{MailboxId, Refusal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::{Outgoing, Progress, Stage};
use crate::connection::backoff;
use crate::directory::Directory;
use crate::error::ClientError;

/// How long a recipient may take to appear in the directory.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
/// How many unknown addresses are remembered.
const MAX_ABSENT: usize = 4_096;

/// A message as it was given.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message: Outgoing,
    pub(super) progress: watch::Sender<Progress>,
}

/// A message that can be sealed.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) message: Outgoing,
    /// For each recipient, in order.
    pub(super) places: Vec<MailboxState>,
    pub(super) progress: watch::Sender<Progress>,
}

/// Runs until nobody gives or takes messages any more.
pub(super) async fn run(
    mut directory: Directory,
    mut requests: mpsc::Receiver<Request>,
    resolved: mpsc::Sender<Resolved>,
) {
    let mut absent = BTreeMap::new();
    while let Some(Request { message, progress }) = requests.recv().await {
        match resolve(&mut directory, &mut absent, &message.to).await {
            Ok(places) => {
                if resolved.send(Resolved { message, places, progress }).await.is_err() {
                    return;
                }
            }
            Err(stage) => progress.send_modify(|progress| progress.stage = stage),
        }
    }
}

/// Since when an address was found not to be registered. Its patience is spent once, not per message.
type Absent = BTreeMap<MailboxId, Instant>;

async fn resolve(directory: &mut Directory, absent: &mut Absent, to: &[MailboxId]) -> Result<Vec<MailboxState>, Stage> {
    let mut places = Vec::with_capacity(to.len());
    for mailbox in to {
        places.push(find(directory, absent, mailbox).await?);
    }
    Ok(places)
}

async fn find(directory: &mut Directory, absent: &mut Absent, mailbox: &MailboxId) -> Result<MailboxState, Stage> {
    let mut delays = backoff();
    loop {
        match directory.find(mailbox).await {
            Ok(Some(place)) => {
                absent.remove(mailbox);
                return Ok(place);
            }
            Ok(None) => {
                if absent.len() >= MAX_ABSENT {
                    absent.clear();
                }
                let since = absent.entry(*mailbox).or_insert_with(Instant::now);
                if since.elapsed() >= PATIENCE {
                    return Err(Stage::Refused(Refusal::UnknownRecipient { mailbox: *mailbox }));
                }
                sleep(RETRY).await;
            }
            Err(error) if error.is_transient() => sleep(delays.failed()).await,
            Err(ClientError::Refused(refusal)) => return Err(Stage::Refused(refusal)),
            Err(error) => return Err(Stage::Unverified(error.to_string())),
        }
    }
}
