//! One client of the load: a mailbox with a client stream of its own, from which it sends and on which it receives.
//!
//! It does as little as it can, because it runs on the machine that is measured: bundles are built before a run where
//! they can be, answers are looked at no further than their kind, entries are decoded and their payloads compared with
//! what was sent. It verifies no proof; the client library does that, and is not what is measured here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minicbor::Decoder;
use postroad_client::{Endpoint, NodeAddr};
use postroad_net::{Network, StreamReader, StreamWriter};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::codec::encode;
use postroad_protocol::record::Registration;
use postroad_protocol::wire::call::Question;
use postroad_protocol::wire::client::{FromClient, ToClient};
use postroad_protocol::wire::{CLIENT, MAX_CLIENT_BYTES};
use postroad_protocol::{Digest, Federation, MailboxId, Refusal, SecretKey, Signed};
use tokio::sync::{Semaphore, mpsc, watch};

use super::workload::{self, Workload};
use crate::cli::output::CliError;

const PATIENCE: Duration = Duration::from_secs(30);
/// Entries that the node may send ahead; more are allowed when half of them are here.
const WINDOW: u32 = 16_384;
/// Bundles on the way to the writer, at most. One that finds no room is a failure of the run.
const MAX_TO_WRITE: usize = 65_536;
/// How long to wait with what the node was too busy for.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A mailbox of the run.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its address.
    pub address: MailboxId,
    /// Its key.
    pub secret: SecretKey,
    /// Which node hosts it.
    pub home: usize,
}

/// What all clients share.
#[derive(Debug)]
pub struct Stage {
    /// What is sent.
    pub load: Workload,
    /// The federation.
    pub federation: Federation,
    /// The nodes.
    pub nodes: Vec<NodeAddr>,
    /// The mailboxes.
    pub parties: Vec<Party>,
    /// When the run began; all times count from here.
    pub began: Instant,
    /// What has happened so far.
    pub tally: Tally,
    /// Deliveries that may be under way while the loop is closed.
    pub room: Semaphore,
    /// The first thing that went wrong.
    pub failed: watch::Sender<Option<CliError>>,
}

/// Counts since the run began.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages that a sender was told are accepted, or ordered at once.
    pub accepted: AtomicU64,
    /// Messages that a sender was told are ordered.
    pub ordered: AtomicU64,
    /// Entries that a recipient has.
    pub delivered: AtomicU64,
    /// Bundles that a node was too busy for, and that were sent again.
    pub busy: AtomicU64,
    /// Entries whose payload is not what was sent.
    pub wrong: AtomicU64,
    /// Bytes of messages between clients and nodes, both ways.
    pub bytes: AtomicU64,
}

impl Stage {
    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn fail(&self, error: CliError) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(error);
            first
        });
    }

    fn count(&self, what: &AtomicU64, more: u64) {
        what.fetch_add(more, Ordering::Relaxed);
    }
}

/// A message that was received: who sent it, its number, and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Got {
    /// The sender's place.
    pub sender: u32,
    /// The message's number.
    pub number: u64,
    /// Microseconds since the run began.
    pub at_us: u64,
}

/// What a client did in one phase.
#[derive(Clone, Debug)]
pub struct Results {
    /// The first number of each bundle that it sent, with the time at which that was to be, microseconds.
    pub sent: Vec<(u64, u64)>,
    /// How many of them it signed as they were sent.
    pub live: u64,
    /// What it received.
    pub got: Vec<Got>,
}

/// The sending side, shared by whoever sends and by the task that reads answers.
#[derive(Debug)]
struct Lane {
    /// The number of the next message to build, which is its counter.
    next: u64,
    /// Built, signed and encoded, in order.
    ready: VecDeque<(u64, Arc<Vec<u8>>)>,
    /// Sent and not ordered.
    open: BTreeMap<u64, Arc<Vec<u8>>>,
    /// The first number of each bundle of this phase with its intended time, microseconds.
    sent: Vec<(u64, u64)>,
    /// The highest counter that was accepted.
    accepted: u64,
    /// Whether what is open will be sent again soon.
    again: bool,
    /// Bundles of this phase that were signed as they were sent.
    live: u64,
    valid_until: u64,
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    place: usize,
    stage: Arc<Stage>,
    audience: Vec<usize>,
    lane: Mutex<Lane>,
    got: Mutex<Vec<Got>>,
    to_write: mpsc::Sender<Arc<Vec<u8>>>,
    _network: Network,
}

impl Client {
    /// Registers the mailbox, connects it to its home and subscribes it.
    ///
    /// # Errors
    /// If the node cannot be reached, or refuses.
    pub async fn connect(stage: Arc<Stage>, place: usize) -> Result<Arc<Client>, CliError> {
        let Party { address, ref secret, home } = stage.parties[place];
        let node = stage.nodes[home].clone();
        let record =
            Registration { mailbox: address, home: node.node(), encryption_key: Digest([1; 32]), recovery_key: None };
        let signed = Signed::sign(record, secret, &stage.federation).into_inner();
        let endpoint = Endpoint::anonymous()?;
        endpoint.call(&node, &Question::Register(signed), PATIENCE).await?;
        endpoint.close().await;
        let (network, mut reader, mut writer) = open(secret, &node).await?;
        for message in [FromClient::Hello(stage.federation.id()), FromClient::Subscribe(0), FromClient::Credit(WINDOW)]
        {
            writer.send(&encode(&message)).await.map_err(lost)?;
        }
        let hello = reader.read(MAX_CLIENT_BYTES).await.map_err(lost)?.unwrap_or_default();
        if !matches!(minicbor::decode::<ToClient>(&hello), Ok(ToClient::Hello(..))) {
            return Err(CliError::refused("bench", "a node did not greet its client", ""));
        }
        let (to_write, queue) = mpsc::channel(MAX_TO_WRITE);
        let lane = Lane {
            next: 1,
            ready: VecDeque::new(),
            open: BTreeMap::new(),
            sent: Vec::new(),
            accepted: 0,
            again: false,
            live: 0,
            valid_until: 0,
        };
        let audience = stage.load.audience(place, &stage.parties, stage.nodes.len());
        if audience.len() < stage.load.recipients {
            let message = format!("{} needs more clients: {} recipients at one node", stage.load.name, audience.len());
            return Err(CliError::usage("clients", message, "raise --clients, or lower --nodes"));
        }
        let client = Arc::new(Client {
            place,
            audience,
            lane: Mutex::new(lane),
            got: Mutex::default(),
            to_write,
            stage,
            _network: network,
        });
        tokio::spawn(write(Arc::downgrade(&client), writer, queue));
        tokio::spawn(Arc::clone(&client).read(reader));
        Ok(client)
    }

    /// A new phase: bundles are valid until this epoch, and none is sent yet.
    pub fn begin(&self, valid_until: u64) {
        let mut lane = hold(&self.lane);
        lane.valid_until = valid_until;
        lane.sent.clear();
        lane.live = 0;
        hold(&self.got).clear();
    }

    /// Builds and signs bundles ahead, until so many are ready.
    pub fn prepare(&self, bundles: usize) {
        let mut lane = hold(&self.lane);
        while lane.ready.len() < bundles {
            let built = self.build(&mut lane);
            lane.ready.push_back(built);
        }
    }

    fn build(&self, lane: &mut Lane) -> (u64, Arc<Vec<u8>>) {
        let Stage { load, parties, nodes, federation, .. } = &*self.stage;
        let (first, count) = (lane.next, load.messages as u64);
        lane.next += count;
        let messages: Vec<_> =
            (first..first + count).map(|number| load.message(self.place, number, &self.audience, parties)).collect();
        let me = &parties[self.place];
        let body = BundleBody::new(me.address, nodes[me.home].node(), first, lane.valid_until, &messages);
        let signed = Signed::sign(body, &me.secret, federation).into_inner();
        (first, Arc::new(encode(&FromClient::Submit(Box::new(Bundle { signed, messages })))))
    }

    /// Sends the next bundle, which was to be sent at `intended_us`. Never waits.
    pub fn send(&self, intended_us: u64) {
        let mut lane = hold(&self.lane);
        let ready = lane.ready.pop_front();
        let (first, bytes) = ready.unwrap_or_else(|| {
            lane.live += 1;
            self.build(&mut lane)
        });
        lane.sent.push((first, intended_us));
        lane.open.insert(first, Arc::clone(&bytes));
        // Under the lock, so that counters rise on the wire.
        self.write(bytes);
    }

    fn write(&self, bytes: Arc<Vec<u8>>) {
        self.stage.count(&self.stage.tally.bytes, bytes.len() as u64);
        if self.to_write.try_send(bytes).is_err() {
            self.stage.fail(CliError::refused("bench", "a node does not read what is sent to it at this rate", ""));
        }
    }

    /// Bundles sent in this phase.
    pub fn sent(&self) -> u64 {
        hold(&self.lane).sent.len() as u64
    }

    /// What this phase was for this client; forgotten here.
    pub fn results(&self) -> Results {
        let mut lane = hold(&self.lane);
        let sent = std::mem::take(&mut lane.sent);
        Results { sent, live: lane.live, got: std::mem::take(&mut hold(&self.got)) }
    }

    async fn read(self: Arc<Client>, mut reader: StreamReader) {
        let mut taken = 0;
        loop {
            let bytes = match reader.read(MAX_CLIENT_BYTES).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return self.stage.fail(lost("the stream has ended")),
                Err(error) => return self.stage.fail(lost(error)),
            };
            self.stage.count(&self.stage.tally.bytes, bytes.len() as u64);
            match kind(&bytes) {
                Some(Kind::Answer(counter, true)) => self.answered(counter, &bytes),
                Some(Kind::Answer(counter, false)) => self.refused(counter, &bytes),
                Some(Kind::Entry) => {
                    self.entry(&bytes);
                    taken += 1;
                    if taken >= WINDOW / 2 {
                        self.write(Arc::new(encode(&FromClient::Credit(taken))));
                        taken = 0;
                    }
                }
                Some(Kind::Other) => {}
                None => return self.stage.fail(CliError::refused("bench", "a node said what cannot be read", "")),
            }
        }
    }

    /// Accepted or ordered: the kinds 0 and 1.
    fn answered(&self, counter: u64, bytes: &[u8]) {
        let Stage { tally, load, .. } = &*self.stage;
        let is_ordered = answer_kind(bytes) == Some(1);
        let mut lane = hold(&self.lane);
        let last = counter + load.messages as u64 - 1;
        if lane.accepted < last {
            lane.accepted = last;
            self.stage.count(&tally.accepted, load.messages as u64);
        }
        if is_ordered && lane.open.remove(&counter).is_some() {
            self.stage.count(&tally.ordered, load.messages as u64);
        }
    }

    fn refused(self: &Arc<Client>, counter: u64, bytes: &[u8]) {
        use postroad_protocol::wire::client::Answer;
        match minicbor::decode::<ToClient>(bytes) {
            Ok(ToClient::Answer(_, answer)) if matches!(*answer, Answer::Refused(Refusal::Busy)) => {}
            other => {
                let message =
                    format!("a node refused bundle {counter}: {other:?}").chars().take(300).collect::<String>();
                return self.stage.fail(CliError::refused("bench", message, ""));
            }
        }
        self.stage.count(&self.stage.tally.busy, 1);
        let mut lane = hold(&self.lane);
        if std::mem::replace(&mut lane.again, true) {
            return;
        }
        let client = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(BUSY_PAUSE).await;
            let mut lane = hold(&client.lane);
            lane.again = false;
            // All from there on, in order, or a later one would make an earlier one stale.
            for (_, bytes) in lane.open.range(counter..) {
                client.write(Arc::clone(bytes));
            }
        });
    }

    fn entry(&self, bytes: &[u8]) {
        let at_us = self.stage.now_us();
        let Stage { tally, load, parties, .. } = &*self.stage;
        let got = match minicbor::decode::<ToClient>(bytes) {
            Ok(ToClient::Entry(entry)) => {
                let proof = &entry.proof;
                workload::origin_of(&proof.common).filter(|(sender, number)| {
                    parties.get(*sender).is_some_and(|party| party.address == proof.bundle.body.sender)
                        && proof.bundle.body.counter + u64::from(proof.index) == *number
                        && proof.recipient.mailbox == parties[self.place].address
                        && proof.common == load.common(*sender, *number)
                        && proof.recipient.own == workload::own(*sender, *number, self.place)
                })
            }
            _ => None,
        };
        match got {
            Some((sender, number)) => hold(&self.got).push(Got { sender: sender as u32, number, at_us }),
            None => self.stage.count(&tally.wrong, 1),
        }
        self.stage.count(&tally.delivered, 1);
        self.stage.room.add_permits(1);
    }
}

async fn write(client: std::sync::Weak<Client>, mut writer: StreamWriter, mut queue: mpsc::Receiver<Arc<Vec<u8>>>) {
    while let Some(bytes) = queue.recv().await {
        let written = async {
            writer.feed(&bytes).await?;
            while let Ok(bytes) = queue.try_recv() {
                writer.feed(&bytes).await?;
            }
            writer.flush().await
        };
        if let Err(error) = written.await {
            if let Some(client) = client.upgrade() {
                client.stage.fail(lost(error));
            }
            return;
        }
    }
}

async fn open(secret: &SecretKey, node: &NodeAddr) -> Result<(Network, StreamReader, StreamWriter), CliError> {
    let config = postroad_net::Config {
        secret: secret.seed(),
        listen: Vec::new(),
        protocols: Vec::new(),
        agent: concat!("postroad-bench/", env!("CARGO_PKG_VERSION")).into(),
        identify_protocol: "/postroad/1".into(),
        limits: postroad_net::Limits::default(),
    };
    let (network, _) = Network::start(config).map_err(lost)?;
    let (peer, addr) = postroad_net::split_address(&node.to_string()).map_err(lost)?;
    network.connect(peer, vec![addr], PATIENCE).await.map_err(lost)?;
    let (reader, writer) = network.open(peer, CLIENT, PATIENCE).await.map_err(lost)?.framed();
    Ok((network, reader, writer))
}

fn lost(error: impl std::fmt::Display) -> CliError {
    CliError::unreachable("bench", format!("a client lost its node: {error}"), "see the nodes' logs (--keep DIR)")
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node said, looked at from outside.
enum Kind {
    /// An answer about the bundle with this counter, and whether it is a yes.
    Answer(u64, bool),
    Entry,
    Other,
}

fn kind(bytes: &[u8]) -> Option<Kind> {
    let mut decoder = Decoder::new(bytes);
    decoder.array().ok()?;
    match decoder.u32().ok()? {
        1 => {
            decoder.array().ok()?;
            let counter = decoder.u64().ok()?;
            Some(Kind::Answer(counter, answer_kind(bytes)? < 2))
        }
        3 => Some(Kind::Entry),
        _ => Some(Kind::Other),
    }
}

/// Which of the answers it is: accepted, ordered, refused.
fn answer_kind(bytes: &[u8]) -> Option<u32> {
    let mut decoder = Decoder::new(bytes);
    decoder.array().ok()?;
    decoder.u32().ok()?;
    decoder.array().ok()?;
    decoder.u64().ok()?;
    decoder.array().ok()?;
    decoder.u32().ok()
}
