//! Receiving: subscribe, verify everything, hand out in order, acknowledge what is safe.
//!
//! A [`Receiver`] has no task of its own. [`Receiver::next`] reads from the connection when there is nothing left to
//! hand out, so an application that stops asking stops the home too. Every entry is verified against the certified cut
//! that ordered it, every attestation against the log that the entries make. What was handed out is acknowledged only
//! when the application says that it is safe ([`Receiver::acknowledge`]); until then it is handed out again after a
//! restart.

mod mail;
mod session;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use postroad_protocol::attestation::{Acknowledgement, LogLeaf};
use postroad_protocol::signed::Signed;
use postroad_protocol::wire::client::{FromClient, Overdue, Settled};
use postroad_protocol::{Digest, MailboxId, Seq};
use tokio::time::{Instant, sleep};

use crate::connection::{ClientStream, Endpoint, backoff};
use crate::delivery::{Delivery, Mode, Out};
use crate::directory::Newest;
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::verify_log::{LogVerifier, Violation};

pub use mail::{Content, Mail};
use store::{Position, RecvStore};

/// How a mailbox is read.
#[derive(Clone, Debug, Default)]
pub struct ReceiverOptions {
    /// When a message is handed out.
    pub mode: Mode,
    /// Whether to wait for new mail. Without it, reading ends at the home's signed "everything up to now".
    pub follow: bool,
    /// Hand out messages from this place on, also those that the application has; older ones stay as they are.
    pub from: Option<Seq>,
    /// How long to look for the home at a stretch before [`Receiver::next`] fails; for ever if none.
    pub patience: Option<Duration>,
}

/// What a mailbox has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, for the first time.
    Message(Box<Mail>),
    /// A copy of a message that was handed out before; no mail.
    Repeat(Box<Mail>),
    /// Numbers of one sender that should be here and are not.
    Gap {
        /// The sender.
        sender: MailboxId,
        /// The first missing number.
        from: u64,
        /// The last missing number.
        to: u64,
    },
    /// The home has signed that everything up to an epoch is here, and it is the log that was verified.
    Settled {
        /// The epoch.
        epoch: u64,
        /// How many entries that is.
        size: u64,
        /// Whether a cut has made the home's word final.
        is_final: bool,
        /// In strict order: how many messages wait for one that may still come late.
        held: usize,
    },
    /// A batch for this home was ordered, and those who signed for it do not give it out: mail of it may be missing. If
    /// it turns up, it comes late, in strict order too.
    Overdue(Overdue),
    /// The home has forgotten entries that were never read here: they are past retention. Reading goes on behind them.
    Expired {
        /// The first missing log index.
        from: u64,
        /// The first log index that is still there.
        to: u64,
    },
}

/// Reads one mailbox.
///
/// ```no_run
/// use postroad_client::{Mailbox, Received, Receiver, ReceiverOptions};
///
/// # async fn example(mailbox: Mailbox) -> Result<(), postroad_client::ClientError> {
/// let mut receiver = Receiver::connect(&mailbox, ReceiverOptions::default()).await?;
/// while let Some(received) = receiver.next().await? {
///     if let Received::Message(mail) = received {
///         println!("{} {}: {:?}", mail.seq, mail.sender, mail.body());
///     }
///     receiver.acknowledge().await?; // what was handed out is safe with us
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Receiver {
    mailbox: Mailbox,
    endpoint: Endpoint,
    options: ReceiverOptions,
    store: RecvStore,
    newest: Newest,
    verifier: LogVerifier,
    delivery: Delivery,
    /// The first entry that the application does not have.
    low: u64,
    /// Leaves above it that the application has.
    above: BTreeMap<u64, LogLeaf>,
    /// The next entry to come; below `low` while reading again.
    reading: u64,
    /// Verified, not handed out.
    verified: BTreeMap<u64, Box<Mail>>,
    queue: VecDeque<Received>,
    /// Handed out, not acknowledged.
    handed: BTreeMap<u64, (LogLeaf, MailboxId)>,
    /// The hashes of cuts that were shown, newest 4,096.
    cuts: BTreeMap<u64, Digest>,
    /// The home's newest word on lateness, until its entries are here.
    settled: Option<Settled>,
    settled_epoch: u64,
    /// Entries below this index have expired, as the home has attested.
    expired_to: u64,
    /// The size at which `Settled` was last told.
    told: Option<(u64, bool)>,
    /// Without `follow`: the epoch up to which everything must be here.
    target: Option<u64>,
    /// Without `follow`: what is told last.
    last_word: Option<Received>,
    end: End,
    session: Option<session::Session>,
}

/// Whether anything can still come.
#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    /// Everything that was asked for is in the queue.
    Complete,
    /// The home broke its word; said again at every call.
    Violated(Violation),
}

impl Receiver {
    /// Opens what the mailbox remembers and connects to its home.
    ///
    /// # Errors
    /// [`ClientError::Store`] (`InUse`) when another receiver runs on the mailbox; [`ClientError::Unreachable`] after
    /// the options' patience.
    pub async fn connect(mailbox: &Mailbox, options: ReceiverOptions) -> Result<Receiver, ClientError> {
        let store = RecvStore::open(mailbox.dir())?;
        let found = store.load(options.from)?;
        let Position { log, before, mark } = found.position;
        let (me, home) = (mailbox.address(), mailbox.home().node());
        let mut receiver = Receiver {
            endpoint: Endpoint::with_key(mailbox.secret())?,
            newest: Newest::default(),
            delivery: Delivery::resume(options.mode, found.seen, found.numbers),
            low: log.size(),
            verifier: LogVerifier::resume(me, home, log, before, mark),
            above: found.above,
            reading: found.start,
            verified: BTreeMap::new(),
            queue: VecDeque::new(),
            handed: BTreeMap::new(),
            cuts: BTreeMap::new(),
            settled: None,
            settled_epoch: 0,
            expired_to: 0,
            told: None,
            target: None,
            last_word: None,
            end: End::Open,
            session: None,
            mailbox: mailbox.clone(),
            options,
            store,
        };
        receiver.reconnect().await?;
        Ok(receiver)
    }

    /// The next thing that the mailbox has to say; none when reading is complete. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Violation`] and [`ClientError::Unverified`] when the home's word does not hold: nothing more
    /// comes then, and nothing more is acknowledged.
    pub async fn next(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            if let Some(received) = self.queue.pop_front() {
                if let Received::Message(mail) | Received::Repeat(mail) = &received {
                    self.handed.insert(mail.index, (mail.leaf, mail.sender));
                }
                return Ok(Some(received));
            }
            match &self.end {
                End::Open => {}
                End::Complete => return Ok(None),
                End::Violated(violation) => return Err(violation.clone().into()),
            }
            if self.session.is_none() {
                self.reconnect().await?;
            }
            if let Err(error) = self.read_one().await {
                if !error.is_transient() {
                    return Err(error);
                }
                tracing::debug!(%error, "connection lost");
                self.session = None;
            }
        }
    }

    /// Everything that [`Receiver::next`] has handed out is safe with the application: it is not handed out again,
    /// and the home may forget it.
    ///
    /// # Errors
    /// [`ClientError::Store`]. A home that cannot be reached is no error: it is told later.
    pub async fn acknowledge(&mut self) -> Result<(), ClientError> {
        if self.handed.is_empty() {
            return Ok(());
        }
        if let End::Violated(violation) = &self.end {
            return Err(violation.clone().into());
        }
        let handed = std::mem::take(&mut self.handed);
        let leaves: Vec<(u64, LogLeaf)> = handed.iter().map(|(index, (leaf, _))| (*index, *leaf)).collect();
        let before_low = self.low;
        self.above.extend(leaves.iter().copied().filter(|(index, _)| *index >= before_low));
        let mut last = None;
        while let Some(leaf) = self.above.remove(&self.low) {
            last = Some(leaf);
            self.low += 1;
        }
        let position = Position {
            log: self.verifier.frontier_at(self.low).expect("the verifier keeps every size from `low` on"),
            before: last.or_else(|| self.verifier.leaf_before(before_low)),
            mark: self.verifier.mark(),
        };
        let senders: std::collections::BTreeSet<MailboxId> = handed.values().map(|(_, sender)| *sender).collect();
        let numbers =
            senders.into_iter().filter_map(|sender| self.delivery.numbers(&sender).map(|numbers| (sender, numbers)));
        self.store.commit(&leaves, &position, numbers)?;
        self.verifier.release(self.low);
        if self.low > before_low {
            self.tell_home().await;
        }
        Ok(())
    }

    /// The mailbox that is read.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Says to the home what is safe here.
    async fn tell_home(&mut self) {
        let Some(log) = self.verifier.head_at(self.low) else {
            return;
        };
        let body = Acknowledgement { mailbox: self.mailbox.address(), log };
        let signed = Signed::sign(body, self.mailbox.secret(), self.mailbox.federation()).into_inner();
        if let Some(session) = &mut self.session
            && let Err(error) = session.stream.outgoing.send(&FromClient::Acknowledge(signed)).await
        {
            tracing::debug!(%error, "the acknowledgement waits for the next connection");
            self.session = None;
        }
    }

    /// Connects and subscribes, again and again, as long as the options' patience lasts.
    async fn reconnect(&mut self) -> Result<(), ClientError> {
        let since = Instant::now();
        let mut delays = backoff();
        loop {
            match self.subscribe().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    let delay = delays.failed();
                    if self.options.patience.is_some_and(|patience| since.elapsed() + delay >= patience) {
                        return Err(error);
                    }
                    tracing::debug!(%error, ?delay, "connecting again");
                    sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn subscribe(&mut self) -> Result<(), ClientError> {
        let mut stream: ClientStream = self.endpoint.open(self.mailbox.home(), self.mailbox.federation()).await?;
        stream.outgoing.send(&FromClient::Subscribe(self.reading)).await?;
        stream.outgoing.send(&FromClient::Credit(session::WINDOW)).await?;
        if !self.options.follow {
            self.target.get_or_insert(stream.epoch);
        }
        self.session = Some(session::Session::new(stream));
        if self.low > 0 {
            // The last acknowledgement may have been lost with the last connection.
            self.tell_home().await;
        }
        Ok(())
    }

    fn hand_out(&mut self, outs: Vec<Out>) {
        for out in outs {
            let received = match out {
                Out::Message(index) => self.verified.remove(&index).map(Received::Message),
                Out::Repeat(index) => self.verified.remove(&index).map(Received::Repeat),
                Out::Gap { sender, from, to } => Some(Received::Gap { sender, from, to }),
            };
            self.queue.extend(received);
        }
    }
}
