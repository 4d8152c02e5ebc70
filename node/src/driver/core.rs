//! The core thread: it owns the engine, the store's transaction and the signing guard.
//!
//! It takes messages in groups. What the engine asks to write goes into one transaction; everything else that it says
//! waits until that transaction is durable, and only then are outputs released and what was waiting for the disk is
//! signed. So one fsync serves a whole group, and no word leaves before the disk has what it is about. While the disk is
//! full the group waits (`full.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use postroad_engine::arrivals::Answered;
use postroad_engine::arrivals::Wanted;
use postroad_engine::{Config, Fate, Input, Node, Now, OpenError, Output, Report, Time, tables};
use postroad_protocol::block_list::BlockList;
use postroad_protocol::codec::encode;
use postroad_protocol::cut::Vote;
use postroad_protocol::evidence::Evidence;
use postroad_protocol::moving::MoveStatus;
use postroad_protocol::record::OwnerSigned;
use postroad_protocol::wire::client::ToClient;
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};
use postroad_protocol::{Digest, MailboxId, NodeId, PublicKey, Refusal, Seq, Signature, Signed, Verified};
use postroad_store::{Guard, GuardError, Read, Store, StoreError, Transaction, Write};
use tokio::sync::{mpsc, oneshot, watch};

use super::{NodeError, Shared, View, deputies, evidence, fetch, moving};
use crate::config::{NodeConfig, Sins};
use crate::metrics::{Metrics, PeerQueue};

/// Messages of one group, at most.
const MAX_GROUP: usize = 512;

/// Time between two moments at which what waits is shown to those who watch.
const SHOW: Duration = Duration::from_millis(200);
/// A commit that takes longer is told of.
const SLOW_COMMIT: Duration = Duration::from_secs(1);

/// Numbers streams, so that the end of an old one is not taken for the end of the one that replaced it.
pub(super) type LinkId = u64;

/// What goes to a follower. A cut is encoded once for all of them.
pub(super) enum ToFollower {
    Cut(u64, Arc<Vec<u8>>),
    Rejected(Digest, String),
    Busy(Digest),
}

/// The answer to who moves its mailbox here.
type Moving = Result<Box<MoveStatus>, Refusal>;

/// What tasks tell the core.
pub(super) enum ToCore {
    Input(Box<Input>),
    Ask(Box<dyn FnOnce(&Node) + Send>),
    HolderUp(NodeId, LinkId, mpsc::Sender<Outward>),
    HolderDown(NodeId, LinkId),
    OriginUp(NodeId, LinkId, mpsc::Sender<Homeward>),
    OriginDown(NodeId, LinkId),
    SequencerUp(u64, LinkId, mpsc::Sender<ToSequencer>),
    SequencerDown(LinkId),
    FollowerUp(NodeId, LinkId, mpsc::Sender<ToFollower>),
    FollowerDown(NodeId, LinkId),
    ClientUp(LinkId, mpsc::Sender<ToClient>),
    ClientDown(LinkId),
    Register(Box<Verified<OwnerSigned>>, oneshot::Sender<Result<(), Refusal>>),
    Block(Box<Verified<Signed<BlockList>>>, oneshot::Sender<Result<(), Refusal>>),
    Delivery(MailboxId, Seq, oneshot::Sender<Option<Fate>>),
    Move(Box<Wanted>, oneshot::Sender<Moving>),
    Retire(Option<NodeId>, oneshot::Sender<Result<(), Refusal>>),
    /// Whether a cheat hands this slice out to nobody.
    #[cfg(feature = "cheat")]
    Withholds(postroad_protocol::slice::SliceKey, oneshot::Sender<bool>),
    Evidence(PublicKey, Box<Evidence>, Option<oneshot::Sender<Result<(), Refusal>>>),
    /// Say this to an origin once everything before it is durable.
    Durable(mpsc::WeakSender<Homeward>, Homeward),
    /// Stop, once everything sealed is under receipts or this time has passed.
    Drain(Duration),
}

impl ToCore {
    pub(super) fn input(input: Input) -> ToCore {
        ToCore::Input(Box::new(input))
    }
}

/// The outputs of a group so far: writes go into the transaction at once, so that the next input reads them; the rest
/// waits for the commit.
#[derive(Default)]
struct Staged {
    token: Option<u64>,
    /// What the transaction holds, to be tried again when the disk was full.
    writes: Vec<Write>,
    released: Vec<Output>,
}

impl Staged {
    fn take(&mut self, out: &mut Vec<Output>, transaction: &mut Transaction) {
        for output in out.drain(..) {
            match output {
                Output::Persist(token, writes) => {
                    writes.iter().for_each(|write| transaction.apply(write));
                    self.writes.extend(writes);
                    self.token = Some(token);
                }
                other => self.released.push(other),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.token.is_none() && self.released.is_empty()
    }
}

/// A handle for the driver.
pub(super) struct Core;

type Stopped = oneshot::Receiver<Result<(), String>>;

pub(super) struct Thread {
    pub(super) node: Node,
    pub(super) store: Store,
    guard: Option<Guard>,
    secret: postroad_protocol::SecretKey,
    began: Instant,
    pub(super) from_tasks: mpsc::Receiver<ToCore>,
    /// What came while the disk was full, and goes before what comes now.
    pub(super) backlog: VecDeque<ToCore>,
    view: watch::Sender<View>,
    fetcher: Option<Shared>,
    holders: BTreeMap<NodeId, (LinkId, mpsc::Sender<Outward>)>,
    pub(super) origins: BTreeMap<NodeId, (LinkId, mpsc::Sender<Homeward>)>,
    sequencer: Option<(LinkId, mpsc::Sender<ToSequencer>)>,
    followers: BTreeMap<NodeId, (LinkId, mpsc::Sender<ToFollower>)>,
    pub(super) clients: BTreeMap<LinkId, mpsc::Sender<ToClient>>,
    /// Who waits for a registration, or for a block list, evidence or the operator's word to be durable.
    registrations: BTreeMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    deliveries: BTreeMap<u64, oneshot::Sender<Option<Fate>>>,
    moves: BTreeMap<u64, oneshot::Sender<Moving>>,
    durable: Vec<(mpsc::WeakSender<Homeward>, Homeward)>,
    next_token: u64,
    pub(super) drain_by: Option<Instant>,
    /// While the disk is full: the last pause between two tries.
    pub(super) full: Option<Duration>,
    view_changed: bool,
    pub(super) metrics: Arc<Metrics>,
    sins: Sins,
    shown: Option<Instant>,
    fatal: Option<String>,
}

impl Core {
    /// Opens the engine on its store and starts its thread.
    pub(super) fn start(
        config: Config,
        settings: &NodeConfig,
        store: Store,
        guard: Option<Guard>,
        from_tasks: mpsc::Receiver<ToCore>,
        metrics: Arc<Metrics>,
    ) -> Result<(CoreStarted, watch::Receiver<View>, Stopped), NodeError> {
        let secret = config.secret.clone();
        let (node, outputs) = Node::open(config, &store.snapshot()?).map_err(|OpenError::Store(error)| error)?;
        #[cfg(feature = "cheat")]
        let node = tempted(node, settings, &store)?;
        let (view, views) = watch::channel(View {
            head: node.head().clone(),
            head_cut: node.ledger().head_cut().cloned(),
            delivered: node.settled().0,
            settled_below: node.settled().1,
            overdue: node.overdue(),
            unsettled: Arc::new(node.unsettled()),
            evidence: Arc::clone(node.evidence().kept()),
            shunned: Arc::new(node.shunned()),
            incarnation: 0,
            retiring: node.retirement().copied(),
            signed: None,
            last_final: None,
        });
        let (ended, stopped) = oneshot::channel();
        let mut thread = Thread {
            node,
            store,
            guard,
            secret,
            began: Instant::now(),
            from_tasks,
            backlog: VecDeque::new(),
            view,
            fetcher: None,
            holders: BTreeMap::new(),
            origins: BTreeMap::new(),
            sequencer: None,
            followers: BTreeMap::new(),
            clients: BTreeMap::new(),
            registrations: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            moves: BTreeMap::new(),
            durable: Vec::new(),
            next_token: 0,
            drain_by: None,
            full: None,
            view_changed: false,
            metrics,
            sins: settings.sins.clone(),
            shown: None,
            fatal: None,
        };
        let (fetcher, fetchers) = oneshot::channel();
        let spawned = std::thread::Builder::new().name("postroad-core".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let result = match runtime {
                Ok(runtime) => {
                    // Outputs may ask for fetches, so wait for who does them.
                    thread.fetcher = runtime.block_on(fetchers).ok();
                    thread.run(&runtime, outputs)
                }
                Err(error) => Err(format!("no runtime for the core thread: {error}")),
            };
            // Whoever waits may end the process, and what is open then is not closed in order.
            drop(thread);
            let _ = ended.send(result);
        });
        spawned.map_err(|error| NodeError::Fatal(format!("the core thread does not start: {error}")))?;
        Ok((CoreStarted { fetcher }, views, stopped))
    }
}

/// The started thread, which waits for its fetcher.
pub(super) struct CoreStarted {
    fetcher: oneshot::Sender<Shared>,
}

impl CoreStarted {
    /// Gives the core what its fetches run with; it begins to work.
    pub(super) async fn runs_fetches_with(self, shared: &Shared) {
        let _ = self.fetcher.send(shared.clone());
    }
}

impl Thread {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { time: Time(self.began.elapsed().as_millis() as u64), wall_ms: wall.as_millis() as u64 }
    }

    fn run(&mut self, runtime: &tokio::runtime::Runtime, outputs: Vec<Output>) -> Result<(), String> {
        self.group(runtime, Vec::new(), outputs).map_err(|error| error.to_string())?;
        loop {
            self.show();
            if let Some(reason) = self.fatal.take() {
                return Err(reason);
            }
            if self.drain_by.is_some_and(|by| self.node.is_drained() || Instant::now() >= by) {
                return Ok(());
            }
            let due = self.began + Duration::from_millis(self.node.next_timeout().0);
            let mut group: Vec<ToCore> = self.backlog.drain(..self.backlog.len().min(MAX_GROUP)).collect();
            if group.is_empty() {
                let first = runtime.block_on(async {
                    let wait = due.min(Instant::now() + Duration::from_millis(500));
                    tokio::time::timeout_at(wait.into(), self.from_tasks.recv()).await
                });
                match first {
                    Ok(Some(message)) => group.push(message),
                    Ok(None) => return Ok(()),
                    Err(_) => {}
                }
            }
            while self.backlog.is_empty()
                && group.len() < MAX_GROUP
                && let Ok(message) = self.from_tasks.try_recv()
            {
                group.push(message);
            }
            // On an error nothing of the group was released, and memory is ahead of the disk: only a start can mend that.
            self.group(runtime, group, Vec::new()).map_err(|error| error.to_string())?;
        }
    }

    /// Handles a group of messages under one transaction, and then what follows from its being durable.
    fn group(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        messages: Vec<ToCore>,
        mut out: Vec<Output>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.store.begin()?;
        let mut staged = Staged::default();
        let mut count = messages.len();
        staged.take(&mut out, &mut transaction);
        for message in messages {
            for input in self.inputs_of(message) {
                self.node.handle(self.now(), input, &transaction, &mut out);
                staged.take(&mut out, &mut transaction);
            }
        }
        let now = self.now();
        if now.time >= self.node.next_timeout() {
            self.node.handle(now, Input::TimedOut, &transaction, &mut out);
            staged.take(&mut out, &mut transaction);
        }
        self.node.handle(now, Input::Flush, &transaction, &mut out);
        loop {
            staged.take(&mut out, &mut transaction);
            let Staged { token, writes, released } = std::mem::take(&mut staged);
            let (begun, is_empty) = (Instant::now(), transaction.is_empty());
            self.commit(runtime, transaction, &writes)?;
            if !is_empty {
                self.committed(std::mem::take(&mut count), begun.elapsed());
            }
            for (sender, message) in self.durable.drain(..) {
                if let Some(sender) = sender.upgrade()
                    && sender.try_send(message).is_err()
                {
                    self.origins.retain(|_, (_, other)| !other.same_channel(&sender));
                }
            }
            let mut inputs: Vec<Input> = token.map(Input::Persisted).into_iter().collect();
            for output in released {
                if let Output::Vote(epoch, digest) = output {
                    inputs.push(self.vote(runtime, epoch, digest)?);
                } else {
                    inputs.extend(self.release(output));
                }
            }
            self.publish_view();
            if inputs.is_empty() {
                return Ok(());
            }
            transaction = self.store.begin()?;
            for input in inputs {
                self.node.handle(self.now(), input, &transaction, &mut out);
                staged.take(&mut out, &mut transaction);
            }
            if staged.is_empty() {
                return Ok(());
            }
        }
    }

    fn committed(&self, messages: usize, took: Duration) {
        self.metrics.committed(messages, took);
        if took > SLOW_COMMIT {
            tracing::warn!(seconds = took.as_secs_f64(), "the disk took long to sync; everything waits for it");
        }
    }

    /// Shows those who watch how the node stands; what is costly only now and then.
    fn show(&mut self) {
        self.metrics.pulse.beat();
        if self.shown.is_some_and(|shown| shown.elapsed() < SHOW) {
            return;
        }
        self.shown = Some(Instant::now());
        fn queue<'a, T>(node: &'a NodeId, stream: &'static str, sender: &mpsc::Sender<T>) -> PeerQueue<'a> {
            (node, stream, sender.max_capacity() - sender.capacity(), sender.max_capacity())
        }
        let sequencer = self.fetcher.as_ref().map(|shared| shared.federation.sequencer());
        let to_sequencer = sequencer.iter().zip(&self.sequencer);
        let queues = (self.holders.iter().map(|(node, (_, sender))| queue(node, "slices", sender)))
            .chain(self.origins.iter().map(|(node, (_, sender))| queue(node, "receipts", sender)))
            .chain(self.followers.iter().map(|(node, (_, sender))| queue(node, "cuts", sender)))
            .chain(to_sequencer.map(|(node, (_, sender))| queue(node, "headers", sender)));
        let core = (self.from_tasks.len(), self.from_tasks.max_capacity());
        self.metrics.show(&self.node, core, queues);
    }

    /// What a message means to the engine. Streams come and go here.
    fn inputs_of(&mut self, message: ToCore) -> Vec<Input> {
        match message {
            ToCore::Input(input) => return vec![*input],
            ToCore::Ask(question) => question(&self.node),
            ToCore::HolderUp(node, link, sender) => {
                let replaced = self.holders.insert(node, (link, sender)).is_some();
                let down = replaced.then_some(Input::Holder(node, false));
                return down.into_iter().chain([Input::Holder(node, true)]).collect();
            }
            ToCore::HolderDown(node, link) => {
                if self.holders.get(&node).is_some_and(|(known, _)| *known == link) {
                    self.holders.remove(&node);
                    return vec![Input::Holder(node, false)];
                }
            }
            ToCore::OriginUp(node, link, sender) => {
                self.origins.insert(node, (link, sender));
                return vec![Input::Origin(node)];
            }
            ToCore::OriginDown(node, link) => {
                if self.origins.get(&node).is_some_and(|(known, _)| *known == link) {
                    self.origins.remove(&node);
                }
            }
            ToCore::SequencerUp(epoch, link, sender) => {
                self.sequencer = Some((link, sender));
                return vec![Input::Sequencer(Some(epoch))];
            }
            ToCore::SequencerDown(link) => {
                if self.sequencer.as_ref().is_some_and(|(known, _)| *known == link) {
                    self.sequencer = None;
                    return vec![Input::Sequencer(None)];
                }
            }
            ToCore::FollowerUp(node, link, sender) => {
                self.followers.insert(node, (link, sender));
            }
            ToCore::FollowerDown(node, link) => {
                if self.followers.get(&node).is_some_and(|(known, _)| *known == link) {
                    self.followers.remove(&node);
                }
            }
            ToCore::ClientUp(link, sender) => {
                self.clients.insert(link, sender);
            }
            ToCore::ClientDown(link) => {
                self.clients.remove(&link);
                return vec![Input::ClientGone(link)];
            }
            ToCore::Register(owner, answer) => {
                let token = self.token();
                self.registrations.insert(token, answer);
                return vec![Input::Register(token, owner)];
            }
            ToCore::Move(wanted, answer) => {
                let token = self.token();
                self.moves.insert(token, answer);
                return vec![Input::Move(token, wanted)];
            }
            ToCore::Delivery(mailbox, seq, answer) => {
                let token = self.token();
                self.deliveries.insert(token, answer);
                return vec![Input::Delivery(token, mailbox, seq)];
            }
            ToCore::Block(list, answer) => {
                let token = self.token();
                self.registrations.insert(token, answer);
                return vec![Input::Block(token, list)];
            }
            ToCore::Retire(to, answer) => {
                let token = self.token();
                self.registrations.insert(token, answer);
                return vec![Input::Retire(token, to)];
            }
            #[cfg(feature = "cheat")]
            ToCore::Withholds(key, answer) => {
                let _ = answer.send(self.node.withholds(&key));
            }
            ToCore::Evidence(from, evidence, answer) => {
                let token = self.token();
                self.registrations.extend(answer.map(|answer| (token, answer)));
                return vec![Input::Evidence(token, from, evidence)];
            }
            ToCore::Durable(sender, message) => self.durable.push((sender, message)),
            ToCore::Drain(patience) => {
                self.drain_by = Some(Instant::now() + patience);
                return vec![Input::Drain];
            }
        }
        Vec::new()
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Carries out what is not a write; everything before it is durable. A queue that is full loses its stream: whoever
    /// is at the other end comes back and resumes.
    fn release(&mut self, output: Output) -> Option<Input> {
        self.metrics.count(&output);
        match output {
            Output::Persist(..) | Output::Vote(..) => {}
            Output::ToHolder(node, message) => {
                if let Some((_, sender)) = self.holders.get(&node)
                    && sender.try_send(*message).is_err()
                {
                    self.holders.remove(&node);
                    return Some(Input::Holder(node, false));
                }
            }
            Output::ToOrigin(node, message) => {
                if let Some((_, sender)) = self.origins.get(&node)
                    && sender.try_send(message).is_err()
                {
                    self.origins.remove(&node);
                }
            }
            Output::ToOrigins(message) => {
                self.origins.retain(|_, (_, sender)| sender.try_send(message.clone()).is_ok());
            }
            Output::ToSequencer(message) => {
                if let Some((_, sender)) = &self.sequencer
                    && sender.try_send(*message).is_err()
                {
                    self.sequencer = None;
                    return Some(Input::Sequencer(None));
                }
            }
            Output::Publish(cut) => {
                let epoch = cut.certified.header.epoch;
                let bytes = Arc::new(encode(&FromSequencer::Cut(Box::new((**cut).clone()))));
                self.followers.retain(|_, (_, sender)| sender.try_send(ToFollower::Cut(epoch, bytes.clone())).is_ok());
            }
            Output::Reject(node, digest, reason) if node == self.secret.public() => {
                return Some(Input::Rejected(digest, reason));
            }
            Output::Reject(node, digest, reason) => {
                if let Some((_, sender)) = self.followers.get(&node)
                    && sender.try_send(ToFollower::Rejected(digest, reason)).is_err()
                {
                    self.followers.remove(&node);
                }
            }
            Output::Defer(node, digest) if node == self.secret.public() => return Some(Input::Deferred(digest)),
            Output::Defer(node, digest) => {
                if let Some((_, sender)) = self.followers.get(&node)
                    && sender.try_send(ToFollower::Busy(digest)).is_err()
                {
                    self.followers.remove(&node);
                }
            }
            Output::Answer(client, counter, answer) => {
                if let Some(sender) = self.clients.get(&client)
                    && sender.try_send(ToClient::Answer(counter, answer)).is_err()
                {
                    self.clients.remove(&client);
                    return Some(Input::ClientGone(client));
                }
            }
            Output::Registered(token, result) | Output::Blocked(token, result) | Output::Kept(token, result) => {
                if let Some(answer) = self.registrations.remove(&token) {
                    let _ = answer.send(result);
                }
            }
            Output::Retiring(token, result) => {
                self.view_changed = true;
                if let Some(answer) = self.registrations.remove(&token) {
                    let _ = answer.send(result);
                }
            }
            Output::Delivery(token, fate) => {
                if let Some(answer) = self.deliveries.remove(&token) {
                    let _ = answer.send(fate);
                }
            }
            Output::Moving(token, status) => {
                if let Some(answer) = self.moves.remove(&token) {
                    let _ = answer.send(status);
                }
            }
            Output::AskHandoff(node, request) => match &self.fetcher {
                Some(shared) => moving::ask_handoff(shared, node, *request),
                None => return Some(Input::HandedOver(request.mailbox, Answered::Silent)),
            },
            Output::AskExtracts(node, mailbox, slices) => match &self.fetcher {
                Some(shared) => moving::ask_extracts(shared, node, mailbox, slices),
                None => return Some(Input::Extracted(mailbox, node, slices, Vec::new())),
            },
            Output::AskDeputies(record) => {
                if let Some(shared) = &self.fetcher {
                    deputies::ask_all(shared, &record);
                }
            }
            Output::Fetch(key, sources) => match &self.fetcher {
                Some(shared) => fetch::slice(shared, key, sources),
                None => return Some(Input::Fetched(key, None)),
            },
            Output::FetchCuts(epoch) => match &self.fetcher {
                Some(shared) => fetch::cuts(shared, epoch),
                None => return Some(Input::CutsFetched),
            },
            Output::Applied(..) => self.view_changed = true,
            Output::Attested(view) => {
                self.view_changed = true;
                self.view.send_modify(|all| {
                    if view.anchor.is_some() {
                        all.last_final = Some(Arc::clone(&view));
                    }
                    let newest = all.signed.as_ref().map_or(0, |known| known.attestation.body.number);
                    if view.attestation.body.number >= newest {
                        all.signed = Some(view);
                    }
                });
            }
            Output::Accuse(claim) => {
                if let Some(shared) = &self.fetcher {
                    evidence::found(shared, *claim);
                }
            }
            Output::Report(report) => {
                self.view_changed |= matches!(report, Report::Convicted { .. });
                if let Report::Sinned { sin, epoch } = report {
                    self.sins.tell(sin, epoch);
                }
                tell(&report);
            }
            Output::Fatal(reason) => self.fatal = Some(reason),
        }
        None
    }

    /// Asks the guard for the vote on the draft, which is durable: beside the guard as well, because a store that is set
    /// back forgets its draft, and nobody else may have the cut yet.
    fn vote(&mut self, runtime: &tokio::runtime::Runtime, epoch: u64, digest: Digest) -> Result<Input, StoreError> {
        let Some(guard) = self.guard.clone() else {
            return Ok(Input::VoteRefused(epoch, "this node has no signing guard".into()));
        };
        let draft = self.store.snapshot()?.get(tables::META, tables::DRAFT)?.unwrap_or_default();
        while let Err(error) = guard.keep(epoch, &draft) {
            if !error.is_retryable() {
                self.fatal = Some(format!("the signing guard: {error}"));
                return Ok(Input::VoteRefused(epoch, error.to_string()));
            }
            self.wait_for_space(runtime)?;
        }
        let signed = guard.sign(epoch, digest.0, || postroad_protocol::cut::vote(&self.secret, digest).signature.0);
        match signed {
            Ok(signature) => {
                Ok(Input::Voted(epoch, Vote { member: self.secret.public(), signature: Signature(signature) }))
            }
            Err(error) => {
                if !matches!(error, GuardError::Refused { .. }) {
                    self.fatal = Some(format!("the signing guard: {error}"));
                }
                Ok(Input::VoteRefused(epoch, error.to_string()))
            }
        }
    }

    fn publish_view(&mut self) {
        if !std::mem::take(&mut self.view_changed) {
            return;
        }
        let node = &self.node;
        self.view.send_modify(|view| {
            view.head = node.head().clone();
            view.head_cut = node.ledger().head_cut().cloned();
            (view.delivered, view.settled_below) = node.settled();
            view.overdue = node.overdue();
            let unsettled = node.unsettled();
            if *view.unsettled != unsettled {
                view.unsettled = Arc::new(unsettled);
            }
            if !Arc::ptr_eq(&view.evidence, node.evidence().kept()) {
                view.evidence = Arc::clone(node.evidence().kept());
                view.shunned = Arc::new(node.shunned());
            }
            view.incarnation = node.incarnation();
            view.retiring = node.retirement().copied();
        });
    }
}

/// The node, which cheats if it is told to.
#[cfg(feature = "cheat")]
fn tempted(mut node: Node, settings: &NodeConfig, store: &Store) -> Result<Node, StoreError> {
    if let Some(cheating) = settings.cheat {
        tracing::warn!(cheat = %cheating, "this node cheats");
        node.tempt(cheating.0, &store.snapshot()?)?;
    }
    Ok(node)
}

/// What an operator wants to read: nothing that comes with every message or cut.
fn tell(report: &Report) {
    match report {
        Report::Started { incarnation } => tracing::info!(incarnation, "the start is settled"),
        Report::Away { node, reason } => tracing::info!(peer = %node, reason, "away: its slices go to custodians"),
        Report::Back { node } => tracing::info!(peer = %node, "back"),
        Report::Retired => {
            tracing::info!("no mailbox lives here any more: what is left to wait for is in `postroad retire`")
        }
        Report::NoDeputy { node, reason } => tracing::warn!(peer = %node, reason, "does not consent to be a deputy"),
        Report::Resealed { batches } => tracing::info!(batches, "batches that could not be included are sealed again"),
        Report::Convicted { id, verdict, found_by } => {
            let (culprit, epoch) = (&verdict.culprit, verdict.epoch);
            tracing::warn!(fault = %verdict.fault, peer = %culprit, epoch, %id, %found_by, "evidence is kept");
        }
        Report::Refused { peer: Some(node), reason } => tracing::debug!(peer = %node, reason, "refused"),
        Report::Refused { peer: None, reason } => tracing::debug!(reason, "refused"),
        Report::Sinned { sin, epoch } => tracing::warn!(sin, epoch, "sinned"),
        Report::Taken { .. }
        | Report::Accepted { .. }
        | Report::Ordered { .. }
        | Report::Delivered { .. }
        | Report::Cut { .. }
        | Report::Held { .. } => {}
    }
}
