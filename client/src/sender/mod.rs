//! Sending: seal, sign, persist, submit, and hold on until the order is proven.
//!
//! A message given to [`Sender::send`] goes through two tasks: the *resolver* finds every recipient's key, with proof;
//! the *lane* of one origin seals the messages that wait, signs them as one bundle, makes the bundle durable and only
//! then sends it. The lane sends the same bytes again after every reconnection until their place in the order is
//! proven, also in the next process if this one dies. If the origin stays away with something that it accepted, the
//! lane hands the accepted headers to another node itself.
//!
//! Messages of one sender are ordered as they were given. At most four bundles wait for their first answer; what is
//! given meanwhile goes into the next one.

mod answers;
mod lane;
mod progress;
mod rescue;
mod resolver;
mod sent;
mod store;

use std::time::Duration;

use postroad_protocol::MailboxId;
use postroad_store::StoreError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::connection::{Endpoint, NodeAddr};
use crate::control::{Control, Told};
use crate::directory::{Directory, Newest};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::seal::Plain;

pub use progress::{Progress, RefusedRecipient, Stage, Ticket, Wait};
use store::SendStore;
pub(crate) use store::{STORE, mark_copied};

/// How many messages may wait to be resolved, and how many to be signed.
const MAX_WAITING: usize = 1_024;

/// How long a sender waits for another one on the same mailbox to end, and how often it looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its recipients, each once.
    pub to: Vec<MailboxId>,
    /// Its body, which the library seals.
    pub body: Body,
    /// Whether the sender waits for delivery, which has to be asked for.
    pub wait: Wait,
}

/// What a message carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// To be sealed by this library.
    Sealed(Plain),
    /// The application's own ciphertext: what all recipients get, and for each recipient, in order, what it gets.
    Foreign {
        /// For all recipients.
        common: Vec<u8>,
        /// For each recipient.
        own: Vec<Vec<u8>>,
    },
}

impl Outgoing {
    /// A message that the library seals, whose sender waits until it is ordered.
    pub fn new(to: impl Into<Vec<MailboxId>>, body: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing { to: to.into(), body: Body::Sealed(Plain::Body(body.into())), wait: Wait::default() }
    }

    /// What this library says to that of another mailbox, whose application does not get to see it.
    pub fn control(to: MailboxId, control: Control) -> Outgoing {
        Outgoing { to: vec![to], body: Body::Sealed(Plain::Control(control)), wait: Wait::default() }
    }

    /// The same message, waiting for another answer.
    #[must_use]
    pub fn waiting_for(self, wait: Wait) -> Outgoing {
        Outgoing { wait, ..self }
    }
}

/// How a mailbox sends.
#[derive(Clone, Debug, Default)]
pub struct SenderOptions {
    /// The node that takes the messages; the mailbox's home if none.
    pub via: Option<NodeAddr>,
}

/// Sends for one mailbox.
///
/// ```no_run
/// use postroad_client::{Mailbox, Outgoing, Sender, SenderOptions, Wait};
///
/// # async fn example(mailbox: Mailbox, friend: postroad_protocol::MailboxId) -> Result<(), postroad_client::ClientError> {
/// let sender = Sender::connect(&mailbox, SenderOptions::default()).await?;
/// let mut ticket = sender.send(Outgoing::new([friend], "good day")).await?;
/// let progress = ticket.reached(Wait::Ordered).await?;
/// println!("{:?} at {:?}", progress.stage, progress.seq);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Sender {
    requests: mpsc::Sender<resolver::Request>,
    store: SendStore,
    left_over: usize,
    // Dropping the set aborts the tasks; what they had to keep is on the disk.
    tasks: JoinSet<()>,
}

impl Sender {
    /// Opens what the mailbox has not finished sending, and starts. Bundles of an earlier process are sent first. The
    /// origin is not waited for: [`Ticket::reached`] tells.
    ///
    /// # Errors
    /// [`ClientError::Store`] (`InUse`) when another sender runs on the mailbox, and does not end within ten seconds: one
    /// that a receiver uses for a question is gone by then.
    pub async fn connect(mailbox: &Mailbox, options: SenderOptions) -> Result<Sender, ClientError> {
        let since = Instant::now();
        loop {
            match SendStore::open(mailbox.dir()) {
                Err(ClientError::Store(StoreError::InUse { .. })) if since.elapsed() < LOCK_PATIENCE => {
                    sleep(LOCK_RETRY).await;
                }
                opened => return Sender::start(mailbox, options, opened?),
            }
        }
    }

    /// As [`Sender::connect`], at once or not at all: none while another sender runs on the mailbox.
    pub(crate) fn connect_now(mailbox: &Mailbox) -> Result<Option<Sender>, ClientError> {
        match SendStore::open(mailbox.dir()) {
            Err(ClientError::Store(StoreError::InUse { .. })) => Ok(None),
            opened => Sender::start(mailbox, SenderOptions::default(), opened?).map(Some),
        }
    }

    fn start(mailbox: &Mailbox, options: SenderOptions, store: SendStore) -> Result<Sender, ClientError> {
        let via = options.via.unwrap_or_else(|| mailbox.home().clone());
        let endpoint = Endpoint::with_key(mailbox.secret())?;
        let newest = Newest::default();
        let mut tasks = JoinSet::new();
        let mut left_over = 0;
        for (node, addr) in store.vias()? {
            if node != via.node() {
                let addr = NodeAddr::new(node, &addr)?;
                let (_, nothing) = mpsc::channel(1);
                let lane = lane::Lane::new(mailbox, endpoint.clone(), addr, store.clone(), newest.clone(), nothing)?;
                left_over += lane.pending();
                tasks.spawn(lane.run());
            }
        }
        let (resolved, waiting) = mpsc::channel(MAX_WAITING);
        let lane = lane::Lane::new(mailbox, endpoint.clone(), via.clone(), store.clone(), newest.clone(), waiting)?;
        left_over += lane.pending();
        tasks.spawn(lane.run());
        let (requests, unresolved) = mpsc::channel(MAX_WAITING);
        let directory = Directory::sharing(endpoint, via, mailbox.federation().clone(), newest);
        tasks.spawn(resolver::run(directory, unresolved, resolved));
        Ok(Sender { requests, store, left_over, tasks })
    }

    /// Gives a message to the sender; waits while too many are waiting. Messages are ordered as they are given.
    ///
    /// # Errors
    /// [`ClientError::Stopped`] when the store failed.
    pub async fn send(&self, message: Outgoing) -> Result<Ticket, ClientError> {
        let (progress, ticket) = watch::channel(Progress::waiting());
        let request = resolver::Request { message, progress };
        match self.requests.send(request).await {
            Ok(()) => Ok(Ticket { progress: ticket }),
            Err(_) => Err(ClientError::Stopped { reason: "its store failed".into() }),
        }
    }

    /// Takes nothing more, and waits until everything is ordered, also what an earlier process left; for `patience` at
    /// most. Returns whether everything is. What is not stays on the disk for the next sender.
    pub async fn finish(mut self, patience: Duration) -> bool {
        drop(self.requests);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(patience, all).await.is_ok()
    }

    /// Whether this mailbox remembers that it ever wrote to another one.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn has_written_to(&self, recipient: &MailboxId) -> Result<bool, ClientError> {
        self.store.has_written_to(recipient)
    }

    /// What this mailbox knows of its message to `recipient` with this number, with the proof of its place if it is kept:
    /// what the recipient is told when it asks.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn told(&self, recipient: &MailboxId, number: u64) -> Result<Told, ClientError> {
        self.store.told(recipient, number)
    }

    /// How many bundles of an earlier process were found, which are being sent again.
    pub fn left_over(&self) -> usize {
        self.left_over
    }
}
