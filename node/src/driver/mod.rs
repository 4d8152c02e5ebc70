//! The driver: what carries a node's engine into the world.
//!
//! One thread owns the engine and the store's only transaction (`core.rs`); tasks own streams and talk to it over one
//! bounded channel. Bytes are decoded and verified in the tasks, before the core sees them. Queues towards a peer are
//! bounded; when one is full its stream is closed, and the peer resumes.
//!
//! | task | how many | does |
//! | --- | --- | --- |
//! | core thread | 1 | engine, transaction, fsync, signing guard |
//! | verify | a thread per core | bundles: what waits is verified together |
//! | swarm | 1 | libp2p (in the network crate) |
//! | accept | 1 | hands inbound streams to their tasks |
//! | peers | 1 | starts a holder task for each node of the directory |
//! | holder | 1 per other node | slices to it, receipts from it; evidence that it lacks (`evidence.rs`) |
//! | origin | 1 per inbound mail stream | slices from it, receipts to it |
//! | sequencer link | 1 on other nodes | hands in; follows the cuts |
//! | follower | 1 per inbound order stream, on the sequencer's node | the same, seen from there |
//! | client | 2 per client stream | requests; entries |
//! | call | 1 per inbound call, bounded | one answer |
//! | control | 1, and 1 per connection | hands out backups, and closes the node, for who may open the socket in its directory |
//! | http | 1, and 1 per connection, bounded | metrics and health, from what is published (`http.rs`) |
//! | deputies | 1 per deputy that the core asks | asks it for its consent (`deputies.rs`) |
//! | handoff, extracts | 1 per question of the core | asks another node what a mailbox that moves here lacks (`moving.rs`) |
//! | watcher | 1 | says in the log when the node's health changes |

mod calls;
mod clients;
mod control;
mod core;
mod deputies;
mod evidence;
mod explain;
mod fetch;
mod full;
mod holders;
mod moving;
mod offences;
mod order;
mod origins;
mod retiring;
mod streams;
mod verify;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_engine::Input;
use postroad_engine::arrivals::Unsettled;
use postroad_engine::evidence::Brief;
use postroad_engine::handover::Handovers;
use postroad_engine::node::retiring::Retirement;
use postroad_engine::outbox::AttestedView;
use postroad_engine::serve::Library;
use postroad_net::{
    Event, Multiaddr, Network, PeerId, Protocol, Stream, key_from_peer_id, peer_id_from_key, split_address,
};
use postroad_protocol::codec::decode;
use postroad_protocol::cut::{CertifiedCut, Cut, Vote};
use postroad_protocol::state::State;
use postroad_protocol::wire::client::Overdue;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, SecretKey, Signature, Verified, wire};
use postroad_store::{Guard, GuardError, SignedDraft, Store, StoreError};
use tokio::sync::{mpsc, watch};

use crate::config::{ConfigError, NodeConfig, Serving, StoreKind};
use crate::http;
use crate::metrics::Metrics;
pub(crate) use control::{BACKUP_REQUEST, RETIRE_REQUEST};
use core::{Core, ToCore};
pub(crate) use retiring::{Standing, Wish, Word};
use verify::Verifier;

/// Messages that wait for the core thread, at most.
const MAX_TO_CORE: usize = 4_096;
/// Calls that are answered at the same time.
const MAX_CALLS: usize = 256;
/// How long a node that cannot settle its start waits before it says that it serves what it has.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// How long a draining node waits for what it has sealed.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Why a node could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its directory is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its store is not usable.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// Its signing guard is not usable.
    #[error("the signing guard: {0}")]
    Guard(#[from] GuardError),
    /// The network does not start.
    #[error("the network: {0}")]
    Network(#[from] postroad_net::StartError),
    /// The node cannot go on. What it accepted is on disk; start it again.
    #[error("the node had to stop: {0}")]
    Fatal(String),
}

/// What the core has made durable: published after each commit, for those who serve from snapshots.
#[derive(Clone, Debug)]
struct View {
    head: State,
    head_cut: Option<CertifiedCut>,
    delivered: u64,
    settled_below: (u64, u32),
    overdue: Vec<Overdue>,
    /// For mailboxes that moved here: what former homes may still have for them.
    unsettled: Arc<BTreeMap<MailboxId, Unsettled>>,
    evidence: Arc<BTreeMap<Digest, Brief>>,
    /// Those with whom there is no contact, by the operator's policy.
    shunned: Arc<BTreeSet<NodeId>>,
    incarnation: u64,
    /// Whether this node closes.
    retiring: Option<Retirement>,
    /// The last attestation that is signed, and the last that is final.
    signed: Option<Arc<AttestedView>>,
    last_final: Option<Arc<AttestedView>>,
}

/// What every task needs.
#[derive(Clone, Debug)]
struct Shared {
    me: NodeId,
    federation: Federation,
    network: Network,
    store: Store,
    /// What clients read of it.
    library: Arc<Library>,
    /// Verifies what clients submit.
    verifier: Verifier,
    core: mpsc::Sender<ToCore>,
    runtime: tokio::runtime::Handle,
    view: watch::Receiver<View>,
    /// Addresses beside those of the directory: committee and bootstrap.
    known: Arc<BTreeMap<NodeId, Vec<Multiaddr>>>,
    redial_cap: Duration,
    max_peer_bytes: u64,
    offences: Arc<offences::Offences>,
    desk: Arc<evidence::Desk>,
    /// Bounds the questions that read many rows.
    explaining: Arc<tokio::sync::Semaphore>,
    /// Bounds what is read at once for mailboxes that move.
    moving: Arc<tokio::sync::Semaphore>,
    /// How far the logs have come that this node hands over.
    handovers: Arc<Handovers>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Where a node may be reached.
    fn addrs(&self, node: &NodeId) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = Vec::new();
        if let Some(known) = self.view.borrow().head.node(node) {
            addrs.extend(known.addrs.iter().filter_map(|addr| addr.parse().ok()));
        }
        for addr in self.known.get(node).into_iter().flatten() {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }

    /// Whether there is no contact with this node, by the operator's policy.
    fn shuns(&self, node: &NodeId) -> bool {
        self.view.borrow().shunned.contains(node)
    }

    /// Sends to the core; false when the node is stopping.
    async fn tell(&self, message: ToCore) -> bool {
        self.core.send(message).await.is_ok()
    }

    /// Makes sure that there is a connection to a node. By TCP where it offers that: a dead TCP port answers at once,
    /// while a dead QUIC port is silent for seconds, in which a node that is back would not be found.
    async fn connect(&self, node: &NodeId) -> Result<PeerId, streams::StreamError> {
        let peer = peer_of(node).ok_or(streams::StreamError::Unexpected("not an ed25519 key"))?;
        let mut addrs = self.addrs(node);
        if addrs.iter().any(is_tcp) {
            addrs.retain(is_tcp);
        }
        let connected = self.network.connect(peer, addrs, streams::GREETING).await;
        if connected.is_err() {
            self.metrics.dial_failed(node);
        }
        connected?;
        Ok(peer)
    }

    /// A peer has said something that does not verify, or that nobody could take. Too often, and its connections are closed.
    async fn offended(&self, peer: NodeId, weight: u32) -> Result<(), streams::StreamError> {
        if self.offences.is_forgiven(peer, weight) {
            return Ok(());
        }
        if let Some(peer) = peer_of(&peer) {
            tracing::info!(%peer, "too much that does not verify; not listened to for a minute");
            let network = self.network.clone();
            // Not awaited by a task whose stream this closes.
            self.runtime.spawn(async move { network.disconnect(peer).await });
        }
        Err(streams::StreamError::Unexpected("too much that does not verify"))
    }

    /// Opens a stream to a node, whose bytes count as its own.
    async fn open(&self, node: &NodeId, protocol: &'static str) -> Result<Stream, streams::StreamError> {
        let peer = self.connect(node).await?;
        let stream = self.network.open(peer, protocol, streams::GREETING).await?;
        Ok(stream.metered(self.metrics.meter(Some(node))))
    }

    /// Counts the bytes of a stream that somebody opened to this node.
    fn meter(&self, peer: &NodeId, stream: Stream) -> Stream {
        let is_node = *peer == self.federation.sequencer() || self.view.borrow().head.node(peer).is_some();
        stream.metered(self.metrics.meter(is_node.then_some(peer)))
    }

    /// Verifies something costly off the reactor threads.
    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }
}

fn is_tcp(addr: &Multiaddr) -> bool {
    addr.to_string().contains("/tcp/")
}

fn peer_of(node: &NodeId) -> Option<PeerId> {
    peer_id_from_key(&node.0).ok()
}

fn node_of(peer: &PeerId) -> Option<NodeId> {
    key_from_peer_id(peer).map(NodeId::from)
}

/// Opens the store that a configuration names, creating it if the directory has none.
///
/// # Errors
/// [`NodeError::Config`] if the directory has another engine's store, or this build has not the engine;
/// [`NodeError::Store`] if it cannot be opened.
pub fn open_store(config: &NodeConfig) -> Result<Store, NodeError> {
    let path = config.store_path()?;
    let tables = &postroad_engine::tables::ALL;
    match config.store {
        StoreKind::Redb => Ok(Store::open(&path, tables)?),
        #[cfg(feature = "sled")]
        StoreKind::Sled => {
            tracing::warn!(
                "this node's store is sled: it is not safe against power loss, and is known to lose or corrupt data \
                 after abrupt stops; the operator's guide says more"
            );
            Ok(Store::open_sled(&path, tables)?)
        }
        #[cfg(not(feature = "sled"))]
        StoreKind::Sled => {
            Err(ConfigError::Bad { path: config.dir.config(), message: StoreKind::NO_SLED.to_owned() }.into())
        }
    }
}

/// Runs a node until `shutdown` says true, then drains it.
///
/// # Errors
/// [`NodeError`].
pub async fn run_node(config: NodeConfig, mut shutdown: watch::Receiver<bool>) -> Result<(), NodeError> {
    let secret = config.dir.read_key()?;
    let federation = config.dir.read_genesis()?;
    if config.deputies.contains(&secret.public()) {
        let message = "deputies: a node is not its own deputy".to_owned();
        return Err(ConfigError::Bad { path: config.dir.config(), message }.into());
    }
    let is_sequencer = federation.sequencer() == secret.public();
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(peer = %secret.public(), name = config.name, version, is_sequencer, "starting");
    let (network, events) = start_network(&config, &secret)?;
    let store = open_store(&config)?;
    let guard = if is_sequencer {
        let empty = postroad_store::Read::last(&store.snapshot()?, postroad_engine::tables::CUTS, &[], &[])?.is_none();
        Some(Guard::open(&config.dir.guard(), empty)?)
    } else {
        None
    };
    let mut nonce = [0; 16];
    rand::fill(&mut nonce);
    let engine_config = postroad_engine::Config {
        federation: federation.clone(),
        secret: secret.clone(),
        name: config.name.clone(),
        addrs: config.announced().iter().map(Multiaddr::to_string).collect(),
        deputies: config.deputies.clone(),
        deputy_for: config.deputy_for.admission(),
        nonce,
        admission: config.allow_registration.admission(),
        moves: config.moves.accept.admission(),
        max_move_bytes: config.moves.max_mailbox_bytes,
        max_queued_bytes: config.limits.inbox_queue_bytes,
        max_flight_bytes: config.limits.inbox_queue_bytes,
        max_sender_bytes: config.limits.sender_queue_bytes,
        max_custody_bytes: config.limits.custody_bytes_per_origin,
        max_mailboxes: config.limits.max_mailboxes,
        registrations_per_minute: config.limits.registrations_per_minute,
        mailbox_quota: postroad_engine::Load {
            entries: config.limits.mailbox_entries,
            bytes: config.limits.mailbox_bytes,
        },
        policy: config.blame.policy(),
        guard_epoch: guard.as_ref().and_then(Guard::last).map_or(0, |(epoch, ..)| epoch),
    };
    let kept = guard.as_ref().map_or(Ok(Vec::new()), |guard| kept_cuts(guard, &federation))?;
    let (to_core, from_tasks) = mpsc::channel(MAX_TO_CORE);
    let metrics = Metrics::new(&secret.public(), &federation, &network, config.limits.max_clients);
    let (core, view, stopped) =
        Core::start(engine_config, &config, store.clone(), guard, from_tasks, Arc::clone(&metrics))?;
    let shared = Shared {
        me: secret.public(),
        federation: federation.clone(),
        network: network.clone(),
        store,
        verifier: Verifier::start(&federation)
            .map_err(|error| NodeError::Fatal(format!("the threads that verify do not start: {error}")))?,
        library: Arc::new(Library::new(secret.public(), &federation)),
        core: to_core,
        runtime: tokio::runtime::Handle::current(),
        view,
        known: Arc::new(known_addrs(&config, &federation)),
        redial_cap: Duration::from_millis(config.redial_cap_ms),
        max_peer_bytes: config.limits.peer_queue_bytes,
        offences: Arc::default(),
        desk: Arc::default(),
        explaining: Arc::new(tokio::sync::Semaphore::new(explain::MAX_EXPLAINING)),
        moving: Arc::new(tokio::sync::Semaphore::new(moving::MAX_MOVING)),
        handovers: Arc::default(),
        metrics: Arc::clone(&metrics),
    };
    core.runs_fetches_with(&shared).await;
    for cut in kept.into_iter().rev() {
        shared.tell(ToCore::input(Input::Cut(Arc::new(cut)))).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(holders::peers(shared.clone()));
    if federation.sequencer() != shared.me {
        tasks.spawn(order::link(shared.clone()));
    }
    tasks.spawn(control::serve(config.dir.clone(), shared.clone()));
    tasks.spawn(streams::accept(shared.clone(), events, config.limits.max_clients as usize));
    tasks.spawn(watcher::run(shared.clone(), config.dir.store(config.store)));
    let mut http = None;
    if let Some(at) = config.http.listen {
        // A node that cannot be watched still carries mail, and whoever watches notices that nobody answers.
        match http::listen(at).await {
            Ok((listener, at)) => {
                http = Some(at);
                let source = http::Source { metrics: Arc::clone(&metrics), network: network.clone() };
                tasks.spawn(http::serve(listener, source));
            }
            Err(error) => tracing::error!(%at, %error, "no metrics and no health: set http.listen to a free port"),
        }
    }
    tell_ready(&config, &shared, http).await;

    let mut stopped = stopped;
    let ended = tokio::select! {
        ended = &mut stopped => ended,
        () = asked_to_stop(&mut shutdown) => {
            tracing::info!("asked to stop: takes nothing new, sends what is sealed");
            metrics.pulse.drains();
            let _ = shared.tell(ToCore::Drain(DRAIN_PATIENCE)).await;
            stopped.await
        }
    };
    tasks.shutdown().await;
    network.shutdown().await;
    // Fetches may still hold it, and the next start reads a file that was not closed from end to end.
    shared.store.close();
    match ended {
        Ok(Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        Ok(Err(reason)) => Err(NodeError::Fatal(reason)),
        Err(_) => Err(NodeError::Fatal("the core thread ended without a word".into())),
    }
}

/// The cuts that the guard keeps: what this node signed, though its store may have forgotten it, and others may not have
/// it. They are followed like any others.
fn kept_cuts(guard: &Guard, federation: &Federation) -> Result<Vec<Verified<Cut>>, GuardError> {
    let certified = |(draft, signature): SignedDraft| {
        let mut cut: Cut = decode(&draft).ok()?;
        cut.certified.certificate = vec![Vote { member: federation.sequencer(), signature: Signature(signature) }];
        Verified::check(cut, federation).ok()
    };
    Ok(guard.kept()?.into_iter().filter_map(certified).collect())
}

async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>) {
    while !*shutdown.borrow_and_update() {
        if shutdown.changed().await.is_err() {
            return;
        }
    }
}

fn start_network(
    config: &NodeConfig,
    secret: &SecretKey,
) -> Result<(Network, mpsc::Receiver<Event>), postroad_net::StartError> {
    let limits = &config.limits;
    let protocol = |name, max_inbound_per_peer| Protocol { name, max_inbound_per_peer };
    Network::start(postroad_net::Config {
        secret: secret.seed(),
        listen: config.listen.clone(),
        protocols: vec![
            protocol(wire::MAIL, 2),
            protocol(wire::ORDER, 2),
            protocol(wire::CLIENT, 8),
            protocol(wire::CALL, 16),
        ],
        agent: concat!("postroad/", env!("CARGO_PKG_VERSION")).into(),
        identify_protocol: "/postroad/1".into(),
        limits: postroad_net::Limits {
            max_pending_incoming: limits.max_pending_connections as usize,
            max_established: limits.max_connections as usize,
            max_per_peer: limits.max_connections_per_peer as usize,
            max_memory_bytes: (limits.max_memory_bytes > 0).then_some(limits.max_memory_bytes),
            ..postroad_net::Limits::default()
        },
    })
}

/// Addresses of the committee in genesis and of the bootstrap nodes.
fn known_addrs(config: &NodeConfig, federation: &Federation) -> BTreeMap<NodeId, Vec<Multiaddr>> {
    let mut known: BTreeMap<NodeId, Vec<Multiaddr>> = BTreeMap::new();
    for member in &federation.genesis().committee {
        known.entry(member.node).or_default().extend(member.addrs.iter().filter_map(|addr| addr.parse().ok()));
    }
    for addr in &config.bootstrap {
        if let Ok((peer, addr)) = split_address(&addr.to_string())
            && let Some(node) = node_of(&peer)
        {
            known.entry(node).or_default().push(addr);
        }
    }
    known
}

/// Says that the node serves, once its start is settled, or else when it has waited for its sequencer for a while.
async fn tell_ready(config: &NodeConfig, shared: &Shared, http: Option<SocketAddr>) {
    let mut view = shared.view.clone();
    let started = view.wait_for(|view| view.incarnation > 0);
    if tokio::time::timeout(START_PATIENCE, started).await.is_err() {
        tracing::warn!("the sequencer is out of reach, so this node cannot sign yet; it serves what it has");
    }
    let addrs = shared.network.listen_addrs().await;
    tracing::info!(peer = %shared.me, epoch = shared.view.borrow().head.epoch, ?addrs, http = %http.map_or("nowhere".into(), |at| at.to_string()), "ready");
    config.ready.tell(Serving { addrs, http });
}
