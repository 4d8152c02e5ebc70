//! Receiving: subscribe, verify everything, hand out in order, acknowledge what is safe.
//!
//! A [`Receiver`] has no task of its own. [`Receiver::next`] reads from the connection when there is nothing left to
//! hand out, so an application that stops asking stops the home too. Every entry is verified against the certified cut
//! that ordered it, every attestation against the log that the entries make. What was handed out is acknowledged only
//! when the application says that it is safe ([`Receiver::acknowledge`]); until then it is handed out again after a
//! restart.

mod attested;
mod correspond;
mod keep;
mod letters;
mod mail;
mod memory;
mod moved;
mod session;
mod store;
mod tail;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use postroad_protocol::attestation::{Acknowledgement, LogLeaf};
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::evidence::Evidence;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::signed::Signed;
use postroad_protocol::wire::client::{FromClient, Overdue, Settled};
use postroad_protocol::{Digest, MailboxId, NodeId, Refusal, Seq};
use tokio::time::{Instant, sleep};

use crate::connection::{ClientStream, Endpoint, NodeAddr, backoff};
use crate::control::Told;
use crate::delivery::{Delivery, Mode, Out};
use crate::directory::Newest;
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::numbers::{Closed, Hole, Numbers};
use crate::verify_log::{LogVerifier, Violation};

use attested::Attestations;
pub use attested::MAX_RECENT;
pub use keep::{BadKeep, Keep, Kept, KeptProof};
use keep::{Note, Shelf};
use letters::Letters;
pub use mail::{Content, Mail};
pub use memory::Memory;
use moved::{ASK_OTHERS_AFTER, Given, Residence};
pub(crate) use moved::{VerifiedLog, read_verified};
pub(crate) use store::STORE;
use store::{Change, Position, RecvStore, Remembered};
use tail::Tail;

/// How long to wait for the proof of a move that the former home has spoken of.
const PAUSE: Duration = Duration::from_millis(100);

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
    /// What is kept of acknowledged entries from now on; as before if none, and at first [`Keep::CrossChecked`].
    pub keep: Option<Keep>,
}

/// What a mailbox has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, for the first time.
    Message(Box<Mail>),
    /// A copy of a message that was handed out before; no mail.
    Repeat(Box<Mail>),
    /// What another mailbox's library says to this one; no mail. See [`Receiver::correspond`].
    Control(Box<Mail>),
    /// Numbers of one sender that should be here and are not. Told again at the next start if the sender could not be
    /// asked.
    Gap {
        /// The sender.
        sender: MailboxId,
        /// The numbers.
        hole: Hole,
    },
    /// Numbers that were told as missing are missing no more.
    GapClosed {
        /// The sender.
        sender: MailboxId,
        /// The first number.
        from: u64,
        /// The last number.
        to: u64,
        /// Why.
        why: Closed,
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
    /// A log entry that its origin must not have sealed, so it is no mail: the origin is guilty, and the home, which had
    /// to deliver it, is not.
    Unsound {
        /// Its log index.
        index: u64,
        /// Who is guilty of what.
        evidence: Box<Evidence>,
    },
    /// A sender says that it knows another cut of an epoch than this mailbox's home has shown. It may be mistaken; if it
    /// is not, somebody certified two orders ([`Explainer::split_order`](crate::Explainer::split_order) asks for both).
    ForeignCut {
        /// The sender.
        sender: MailboxId,
        /// Its message.
        seq: Seq,
        /// The epoch.
        epoch: u64,
    },
    /// The home closes, and offers the mailbox another one, which would take it. [`Mailbox::move_policy`] is what the
    /// owner wants done; a [`Mover`](crate::Mover) carries it out. Told once for each offer.
    Retiring {
        /// The home.
        home: NodeId,
        /// The new one.
        to: NodeAddr,
    },
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
    /// What was written down last of the log that was read.
    written: Option<VerifiedLog>,
    verifier: LogVerifier,
    delivery: Delivery,
    /// The first entry that the application does not have.
    low: u64,
    /// Leaves above it that the application has.
    above: BTreeMap<u64, LogLeaf>,
    /// The next entry to come; below `low` while reading again.
    reading: u64,
    /// Verified, not handed out.
    verified: BTreeMap<Seq, Box<Mail>>,
    queue: VecDeque<Received>,
    /// Handed out, not acknowledged.
    handed: BTreeMap<Seq, Handed>,
    /// The end of the log that a move may make come again.
    tail: Tail,
    /// What of it has come, and comes again.
    given: Given,
    /// The same of what was offered to the application on this run, and was not acknowledged.
    again_here: BTreeSet<Seq>,
    /// Rows that a move has taken back, until that is durable: of the tail, and of what is kept.
    tail_rewritten: Vec<u64>,
    dropped: Vec<u64>,
    /// Where the mailbox lived when it was read last.
    residence: Option<Residence>,
    /// Whether the home was asked for other nodes.
    has_learnt: bool,
    /// When the home was last asked whether the move to it is finished.
    asked_at: Option<Instant>,
    /// When the directory was looked at last.
    looked_at: Instant,
    /// What is on the disk.
    position: Position,
    shelf: Shelf,
    attestations: Attestations,
    letters: Letters,
    /// Answers about missing messages that are not on the disk yet.
    told_now: Vec<(MailboxId, Told)>,
    /// Senders whose numbers have changed since they were made durable.
    touched: BTreeSet<MailboxId>,
    /// Whether anything else has.
    is_changed: bool,
    /// The newest cut time seen.
    time_ms: u64,
    /// While entries are read again that are not kept: the log that they make.
    again: Option<Frontier>,
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
    /// What an origin or the home was found guilty of.
    evidence: Vec<Evidence>,
    /// The entries at which the home's word broke, as it served them.
    broken: Vec<Seq>,
    /// The last entry that the home has forgotten before it was read here.
    forgotten: Option<LogLeaf>,
    /// The last offer of a home that closes: who made it, and whom it named.
    offered: Option<(NodeId, NodeId)>,
    session: Option<ClientStream>,
    /// The cut that ordered the entries to come on this connection.
    cut: Option<CertifiedCut>,
    /// Entries taken since the last credit.
    taken: u32,
}

/// An entry that was handed out.
#[derive(Clone, Debug)]
struct Handed {
    /// Its log index; none while it is to come again from a new home.
    index: Option<u64>,
    entry: Kept,
}

impl Handed {
    fn of(mail: &Mail) -> Handed {
        Handed { index: Some(mail.index), entry: Kept::of(mail) }
    }
}

impl Received {
    /// The mail in it.
    fn mail(&self) -> Option<&Mail> {
        match self {
            Received::Message(mail) | Received::Repeat(mail) | Received::Control(mail) => Some(mail),
            _ => None,
        }
    }

    fn mail_mut(&mut self) -> Option<&mut Mail> {
        match self {
            Received::Message(mail) | Received::Repeat(mail) | Received::Control(mail) => Some(mail),
            _ => None,
        }
    }
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
        let mut receiver = Receiver::open(mailbox, options)?;
        receiver.reconnect().await?;
        Ok(receiver)
    }

    /// Takes up what the mailbox remembers.
    fn open(mailbox: &Mailbox, options: ReceiverOptions) -> Result<Receiver, ClientError> {
        let store = RecvStore::open(mailbox.dir())?;
        let found = store.load(options.from, options.keep)?;
        let Remembered { position, shelf, above, start, again, seen, numbers, attestations, letters, .. } = found;
        let Remembered { tail, given, residence, .. } = found;
        let Position { log, before, mark, blind, .. } = position.clone();
        let home = residence.as_ref().map_or(mailbox.home().node(), |residence| residence.home);
        let me = mailbox.address();
        let mut receiver = Receiver {
            endpoint: Endpoint::with_key(mailbox.secret())?,
            newest: Newest::default(),
            written: None,
            delivery: Delivery::resume(options.mode, seen, numbers, blind),
            low: log.size(),
            verifier: LogVerifier::resume(me, home, log, before, mark),
            above,
            reading: start,
            verified: BTreeMap::new(),
            queue: VecDeque::new(),
            handed: BTreeMap::new(),
            tail,
            given,
            again_here: BTreeSet::new(),
            tail_rewritten: Vec::new(),
            dropped: Vec::new(),
            residence,
            has_learnt: false,
            asked_at: None,
            looked_at: Instant::now(),
            position,
            // Another way to keep is remembered, and applied to what is there.
            touched: if options.keep.is_some() { shelf.senders().copied().collect() } else { BTreeSet::new() },
            shelf,
            attestations,
            letters,
            told_now: Vec::new(),
            is_changed: options.keep.is_some(),
            time_ms: 0,
            again,
            cuts: BTreeMap::new(),
            settled: None,
            settled_epoch: 0,
            expired_to: 0,
            told: None,
            target: None,
            last_word: None,
            evidence: Vec::new(),
            broken: Vec::new(),
            forgotten: None,
            end: End::Open,
            offered: None,
            session: None,
            cut: None,
            taken: 0,
            mailbox: mailbox.clone(),
            options,
            store,
        };
        receiver.tell_open_holes();
        receiver.write_base()?;
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
                if let Some(mail) = received.mail() {
                    let index = (!self.again_here.contains(&mail.seq)).then_some(mail.index);
                    self.handed.insert(mail.seq, Handed { index, ..Handed::of(mail) });
                    self.letter(mail);
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
                let has_moved = matches!(error, ClientError::Refused(Refusal::NotHere { .. }));
                if !error.is_transient() && !has_moved {
                    return Err(error);
                }
                tracing::debug!(%error, "connection lost");
                self.session = None;
                if has_moved {
                    // The home may know it before it can prove it.
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Everything that [`Receiver::next`] has handed out is safe with the application: it is not handed out again,
    /// and the home may forget it.
    ///
    /// # Errors
    /// [`ClientError::Store`]. A home that cannot be reached is no error: it is told later.
    pub async fn acknowledge(&mut self) -> Result<(), ClientError> {
        if self.handed.is_empty() && !self.is_changed && self.touched.is_empty() && !self.attestations.is_changed {
            return Ok(());
        }
        if let End::Violated(violation) = &self.end {
            return Err(violation.clone().into());
        }
        let before_low = self.low;
        let (mut kept, mut seen) = (Vec::new(), Vec::new());
        for (seq, Handed { index, entry }) in std::mem::take(&mut self.handed) {
            let Some(index) = index else {
                // It comes again from the new home, and has its index then.
                self.touched.insert(entry.sender);
                seen.push((entry.leaf.message, seq));
                self.given.add([seq]);
                continue;
            };
            // What was read again is known already.
            if index >= before_low && !self.above.contains_key(&index) {
                self.above.insert(index, entry.leaf);
                self.touched.insert(entry.sender);
                if !self.given.remove(&seq) {
                    seen.push((entry.leaf.message, seq));
                }
                kept.push((index, entry));
            }
        }
        let mut last = None;
        while let Some(leaf) = self.above.remove(&self.low) {
            self.tail.push(leaf);
            last = Some(leaf);
            self.low += 1;
        }
        self.position.log = self.verifier.frontier_at(self.low).expect("the verifier keeps every size from `low` on");
        self.position.before = last.or_else(|| self.verifier.leaf_before(before_low));
        self.learn_completion().await;
        let is_based = self.tail.attested(self.attestations.last_final(), self.may_go_back());
        self.save(kept, &seen)?;
        if is_based {
            self.write_base()?;
        }
        self.write_verified()?;
        self.verifier.release(self.low);
        if self.low > before_low {
            self.tell_home().await;
        }
        Ok(())
    }

    /// Evidence that what broke the last call proves by itself: it stands whoever is asked.
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// The entries at which the home's word broke in the last call, as it served them: [`Explainer`](crate::Explainer)
    /// asks what the log that it has attested holds there.
    pub fn broken(&self) -> &[Seq] {
        &self.broken
    }

    /// The last entry that the home has forgotten before it was read here.
    pub fn forgotten(&self) -> Option<LogLeaf> {
        self.forgotten
    }

    /// The mailbox that is read.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Makes durable what has changed: entries that the application has now, and everything that follows from them.
    fn save(&mut self, mut kept: Vec<(u64, Kept)>, seen: &[(Digest, Seq)]) -> Result<(), ClientError> {
        for (index, entry) in &kept {
            self.shelf.add(*index, Note::of(entry));
        }
        let mark = self.verifier.mark();
        let epoch = mark.map_or(0, |mark| mark.epoch).max(self.position.before.map_or(0, |leaf| leaf.settled));
        let delivery = &self.delivery;
        let dropped = self.shelf.tidy(self.low, epoch, &self.touched, |sender| delivery.numbers(sender));
        kept.retain(|(index, _)| self.shelf.notes().contains_key(index));
        self.position.mark = mark;
        self.position.keep = self.shelf.keep();
        self.position.floor = self.shelf.floor().cloned();
        self.position.forgotten_to = self.shelf.forgotten_to();
        self.position.blind = delivery.is_blind();
        self.position.handed_out += seen.len() as u64;
        let numbers: Vec<(MailboxId, &Numbers)> =
            self.touched.iter().filter_map(|sender| Some((*sender, delivery.numbers(sender)?))).collect();
        self.store.commit(&Change {
            position: &self.position,
            kept: &kept,
            rolled_back: &self.dropped,
            dropped: &dropped,
            seen,
            numbers: &numbers,
            attestations: &self.attestations,
            letters: &self.letters,
            told: &self.told_now,
            tail: &self.tail,
            tail_rewritten: &self.tail_rewritten,
            given: &self.given,
            residence: self.residence.as_ref(),
        })?;
        self.tail.is_stored();
        self.given.changed.clear();
        self.tail_rewritten.clear();
        self.dropped.clear();
        self.touched.clear();
        self.told_now.clear();
        self.is_changed = false;
        self.attestations.is_changed = false;
        Ok(())
    }

    /// Says to the home what is safe here.
    async fn tell_home(&mut self) {
        let Some(log) = self.verifier.head_at(self.low) else {
            return;
        };
        let body = Acknowledgement { mailbox: self.mailbox.address(), log };
        let signed = Signed::sign(body, self.mailbox.secret(), self.mailbox.federation()).into_inner();
        if let Some(session) = &mut self.session
            && let Err(error) = session.outgoing.send(&FromClient::Acknowledge(signed)).await
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
            match self.subscribe(since.elapsed() >= ASK_OTHERS_AFTER).await {
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

    async fn subscribe(&mut self, ask_others: bool) -> Result<(), ClientError> {
        self.locate(ask_others).await?;
        let mut stream: ClientStream = self.endpoint.open(self.mailbox.home(), self.mailbox.federation()).await?;
        stream.outgoing.send(&FromClient::Subscribe(self.reading)).await?;
        stream.outgoing.send(&FromClient::Credit(session::WINDOW)).await?;
        if !self.options.follow {
            self.target.get_or_insert(stream.epoch);
        }
        self.session = Some(stream);
        (self.cut, self.taken) = (None, 0);
        if self.low > 0 {
            // The last acknowledgement may have been lost with the last connection.
            self.tell_home().await;
        }
        Ok(())
    }

    fn hand_out(&mut self, outs: Vec<Out>) {
        for out in outs {
            let received = match out {
                Out::Message(seq) => self.verified.remove(&seq).map(|mail| match mail.content {
                    Content::Control { .. } => Received::Control(mail),
                    _ => Received::Message(mail),
                }),
                Out::Repeat(seq) => self.verified.remove(&seq).map(Received::Repeat),
                Out::Gap { sender, from, to } => {
                    self.touched.insert(sender);
                    Some(self.gap(sender, from, to))
                }
                Out::Closed { sender, from, to, why } => {
                    self.touched.insert(sender);
                    Some(Received::GapClosed { sender, from, to, why })
                }
            };
            self.queue.extend(received);
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
