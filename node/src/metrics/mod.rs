//! What a node counts, for operators: one registry, exposed in the text format of OpenMetrics.
//!
//! Who counts adds to an atomic and goes on; who reads waits for nobody, the core thread and the swarm's task least of
//! all. Rooms know no metrics: the driver counts what it carries out (`count.rs`). Every name begins with `postroad_`,
//! units are suffixes, and labels have few values: the federation's nodes (everybody else is `stranger`), and words of
//! this program.

mod count;
mod health;
mod sampled;

use std::sync::Arc;
use std::time::SystemTime;

use postroad_net::{Meter, Network};
use postroad_protocol::evidence::Fault;
use postroad_protocol::{Federation, NodeId, Refusal, VerifyError};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

pub(crate) use count::PeerQueue;
use health::Pulse;
use sampled::{Meters, Sampled};

/// The media type of [`Metrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabel {
    peer: String,
}

impl PeerLabel {
    pub(crate) fn node(node: &NodeId) -> PeerLabel {
        PeerLabel { peer: node.to_string() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabels {
    peer: String,
    stream: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    what: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Everything that a node counts. Counters count since the process started.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// When the node last did what it must keep doing.
    pub(crate) pulse: Arc<Pulse>,
    meters: Arc<Meters>,
    taken: Stage,
    accepted: Stage,
    ordered: Stage,
    delivered: Counter,
    cuts_applied: Counter,
    cut_headers: Counter,
    cut_messages: Counter,
    cut_fills: Counter,
    slices_held: Family<KindLabel, Counter>,
    receipts_signed: Counter,
    cuts_signed: Counter,
    attestations: Family<KindLabel, Counter>,
    batches_resealed: Counter,
    refusals: Family<RefusalLabels, Counter>,
    statements_refused: Family<PeerLabel, Counter>,
    statements_verified: Family<KindLabel, Counter>,
    statements_failed: Family<KindLabel, Counter>,
    evidence: Family<KindLabel, Counter>,
    peer_away: Family<PeerLabel, Counter>,
    peer_back: Family<PeerLabel, Counter>,
    dial_failures: Family<PeerLabel, Counter>,
    peer_connected: Family<PeerLabel, Gauge>,
    peer_present: Family<PeerLabel, Gauge>,
    peer_queue: Family<QueueLabels, Gauge>,
    peer_queue_bound: Family<QueueLabels, Gauge>,
    mailboxes: Gauge,
    pending_slices: Gauge,
    overdue_slices: Gauge,
    delivered_epoch: Gauge,
    undelivered_epochs: Gauge,
    batches_under_way: Gauge,
    batches_under_way_bytes: Gauge,
    batches_under_way_bound_bytes: Gauge,
    inbox_bytes: Gauge,
    inbox_bound_bytes: Gauge,
    registrations_waiting: Gauge,
    core_queue: Gauge,
    core_queue_bound: Gauge,
    clients: Gauge,
    clients_bound: Gauge,
    store_commit_seconds: Histogram,
    store_group_messages: Histogram,
    store_bytes: Gauge,
    disk_free_bytes: Gauge,
}

/// Bundles and messages that came to a stage of their way.
#[derive(Debug)]
struct Stage {
    bundles: Counter,
    messages: Counter,
}

impl Stage {
    fn add(&self, bundles: u64, messages: u64) {
        self.bundles.inc_by(bundles);
        self.messages.inc_by(messages);
    }
}

/// Registers metrics; a unit at the end of a name is told as such.
struct Shelf(Registry);

impl Shelf {
    fn put<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        let (name, unit) = match name.rsplit_once('_') {
            Some((name, "seconds")) => (name, Some(Unit::Seconds)),
            Some((name, "bytes")) => (name, Some(Unit::Bytes)),
            _ => (name, None),
        };
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, metric.clone()),
            None => self.0.register(name, help, metric.clone()),
        }
        metric
    }

    fn zero<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.put(name, help, M::default())
    }

    fn stage(&mut self, stage: &str, help: &str) -> Stage {
        Stage {
            bundles: self.zero(&format!("bundles_{stage}"), &format!("Bundles {help}")),
            messages: self.zero(&format!("messages_{stage}"), &format!("Messages {help}")),
        }
    }
}

impl Metrics {
    /// Everything at zero.
    pub(crate) fn new(me: &NodeId, federation: &Federation, network: &Network, max_clients: u64) -> Arc<Metrics> {
        let mut shelf = Shelf(Registry::with_prefix("postroad"));
        let to = &mut shelf;
        let heartbeat_ms = federation.params().heartbeat_ms;
        let pulse = Arc::new(Pulse::new(heartbeat_ms));
        let meters = Arc::new(Meters::default());
        let role = if federation.sequencer() == *me { "sequencer" } else { "node" };
        to.0.register("build", "The software", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let who = [("peer_id", me.to_string()), ("federation", federation.id().to_string()), ("role", role.to_owned())];
        to.0.register("node", "The node", Info::new(who.to_vec()));
        let started: Gauge = to.zero("start_time_seconds", "When the process started, Unix time");
        started.set(unix_seconds());
        to.0.register_collector(Box::new(Sampled::new(Arc::clone(&pulse), network.clone())));
        to.0.register_collector(Box::new(Arc::clone(&meters)));
        let metrics = Metrics {
            taken: to.stage("taken", "that were taken from clients"),
            accepted: to.stage("accepted", "whose batch is under receipts; again if it is sealed again"),
            ordered: to.stage("ordered", "of this node's batches that a cut included"),
            delivered: to.zero("messages_delivered", "Messages appended to mailboxes here, once for each mailbox"),
            cuts_applied: to.zero("cuts_applied", "Cuts applied"),
            cut_headers: to.zero("cut_headers", "Headers, of all nodes, in the cuts applied"),
            cut_messages: to.zero("cut_messages", "Messages, of all nodes, in the cuts applied"),
            cut_fills: to.zero("cut_fills", "Fills, of all nodes, in the cuts applied"),
            slices_held: to.zero("slices_held", "Slices taken to hold: own mail, or in custody for others"),
            receipts_signed: to.zero("receipts_signed", "Receipts signed for other origins"),
            cuts_signed: to.zero("cuts_signed", "Cuts signed, on the sequencer's node"),
            attestations: to.zero("attestations", "Attestations of this node: signed, and final (anchored in a cut)"),
            batches_resealed: to.zero("batches_resealed", "Batches that could not be included and were sealed again"),
            refusals: to.zero("refusals", "What clients and peers asked and were refused, by reason"),
            statements_refused: to.zero("statements_refused", "Statements of or about a peer that were not taken"),
            statements_verified: to.zero("statements_verified", "Statements whose signatures and paths hold"),
            statements_failed: to.zero("statements_failed", "Statements that do not verify"),
            evidence: to.zero("evidence", "Evidence of a fault that was kept and was not here before"),
            peer_away: to.zero("peer_away", "Times that a node became away: its slices go to custodians"),
            peer_back: to.zero("peer_back", "Times that a node came back"),
            dial_failures: to.zero("dial_failures", "Failed attempts to connect to a node"),
            peer_connected: to.zero("peer_connected", "Whether there is a mail stream to the node"),
            peer_present: to.zero("peer_present", "Whether the node takes slices: connected, caught up, in time"),
            peer_queue: to.zero("peer_queue_messages", "Messages that wait for a peer's stream"),
            peer_queue_bound: to.zero("peer_queue_bound_messages", "How many may wait before the stream is closed"),
            mailboxes: to.zero("mailboxes", "Mailboxes hosted"),
            pending_slices: to.zero("pending_slices", "Slices for this node that were ordered and are not filled"),
            overdue_slices: to.zero("overdue_slices", "Slices for this node that their holders do not give out"),
            delivered_epoch: to.zero("delivered_epoch", "The last epoch whose mail is in the mailboxes"),
            undelivered_epochs: to.zero("undelivered_epochs", "Applied epochs whose mail is not in the mailboxes"),
            batches_under_way: to.zero("batches_under_way", "Batches sealed and not ordered"),
            batches_under_way_bytes: to.zero("batches_under_way_bytes", "Their payload"),
            batches_under_way_bound_bytes: to.zero("batches_under_way_bound_bytes", "Beyond it clients are told busy"),
            inbox_bytes: to.zero("inbox_bytes", "Payload that waits to be sealed"),
            inbox_bound_bytes: to.zero("inbox_bound_bytes", "Beyond it clients are told busy"),
            registrations_waiting: to.zero("registrations_waiting", "Registrations that no cut has settled yet"),
            core_queue: to.zero("core_queue_messages", "Messages that wait for the core thread"),
            core_queue_bound: to.zero("core_queue_bound_messages", "How many may wait"),
            clients: to.zero("clients", "Clients with an open session"),
            clients_bound: to.zero("clients_bound", "How many there may be"),
            store_commit_seconds: to.put(
                "store_commit_seconds",
                "Time of a commit that wrote something, its syncs included",
                Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            ),
            store_group_messages: to.put(
                "store_group_messages",
                "Messages that the core handled under one commit",
                Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            ),
            store_bytes: to.zero("store_bytes", "Size of the store's file on disk"),
            disk_free_bytes: to.zero("disk_free_bytes", "Bytes that this process may still write on the store's disk"),
            registry: shelf.0,
            pulse,
            meters,
        };
        metrics.clients_bound.set(signed(max_clients));
        for kind in ["signed", "final"] {
            let _ = metrics.attestations.get_or_create(&KindLabel { kind });
        }
        for kind in ["own", "custody"] {
            let _ = metrics.slices_held.get_or_create(&KindLabel { kind });
        }
        for fault in Fault::ALL {
            let _ = metrics.evidence.get_or_create(&KindLabel { kind: fault.code() });
        }
        Arc::new(metrics)
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> String {
        let mut to = String::with_capacity(32 << 10);
        // A string takes whatever is written to it.
        let _ = text::encode(&mut to, &self.registry);
        to
    }

    /// Counts what verification said of a statement, and passes it on.
    pub(crate) fn checked<T>(&self, kind: &'static str, result: Result<T, VerifyError>) -> Result<T, VerifyError> {
        let family = if result.is_ok() { &self.statements_verified } else { &self.statements_failed };
        family.get_or_create(&KindLabel { kind }).inc();
        result
    }

    /// Something was refused.
    pub(crate) fn refused(&self, what: &'static str, refusal: &Refusal) {
        self.refusals.get_or_create(&RefusalLabels { what, reason: refusal.code() }).inc();
    }

    /// A node could not be connected to.
    pub(crate) fn dial_failed(&self, node: &NodeId) {
        self.dial_failures.get_or_create(&PeerLabel::node(node)).inc();
    }

    /// What counts the bytes of streams with a node, or with strangers.
    pub(crate) fn meter(&self, node: Option<&NodeId>) -> Arc<Meter> {
        self.meters.of(node)
    }

    /// Messages of this node's batches that cuts included.
    pub(crate) fn messages_ordered(&self) -> u64 {
        self.ordered.messages.get()
    }

    /// Messages appended to mailboxes here.
    pub(crate) fn messages_delivered(&self) -> u64 {
        self.delivered.get()
    }

    /// A client's session, counted as long as it is held.
    pub(crate) fn client(self: &Arc<Metrics>) -> Session {
        self.clients.inc();
        Session(Arc::clone(self))
    }

    /// What the disk says.
    pub(crate) fn disk(&self, store_bytes: u64, free_bytes: u64) {
        self.store_bytes.set(signed(store_bytes));
        self.disk_free_bytes.set(signed(free_bytes));
    }
}

/// Counts one client while it lives.
#[derive(Debug)]
pub(crate) struct Session(Arc<Metrics>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.clients.dec();
    }
}

/// Gauges hold signed numbers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    signed(since.as_secs())
}
