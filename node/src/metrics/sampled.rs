//! What is looked up when somebody asks: ages, the process, the network's figures, bytes by peer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use postroad_net::{Meter, Network, resident_bytes};
use postroad_protocol::NodeId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::time::{ClockId, clock_gettime};

use super::Pulse;

/// Reads clocks and atomics at each scrape.
#[derive(Debug)]
pub(super) struct Sampled {
    pulse: Arc<Pulse>,
    network: Network,
}

impl Sampled {
    pub(super) fn new(pulse: Arc<Pulse>, network: Network) -> Sampled {
        Sampled { pulse, network }
    }
}

/// Writes one metric without labels.
fn one(
    to: &mut DescriptorEncoder<'_>,
    (name, unit, help): (&str, Option<Unit>, &str),
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(to.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?)
}

impl Collector for Sampled {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let Sampled { pulse, network } = self;
        let (lag, figures) = (network.lag(), network.figures());
        let seconds = |name, help| (name, Some(Unit::Seconds), help);
        let plain = |name, help| (name, None, help);
        let age = |age: Duration| ConstGauge::new(age.as_secs_f64());
        let healthy = i64::from(pulse.health(lag).healthy);
        one(to, plain("healthy", "Whether /healthz says 200"), &ConstGauge::new(healthy))?;
        one(to, plain("head_epoch", "The epoch of the last cut applied"), &ConstGauge::new(pulse.epoch() as i64))?;
        let attested = ConstGauge::new(pulse.attested_epoch() as i64);
        one(to, plain("attested_epoch", "The epoch up to which the last final attestation speaks"), &attested)?;
        let incarnation = ConstGauge::new(pulse.incarnation() as i64);
        one(to, plain("incarnation", "The node's incarnation; 0 until its start is settled"), &incarnation)?;
        one(to, seconds("cut_age", "Time since a cut was last applied here"), &age(pulse.cut_age()))?;
        let cut_lag = ConstGauge::new(pulse.cut_lag_seconds());
        one(to, seconds("cut_lag", "How far the last cut's time is behind this machine's clock"), &cut_lag)?;
        let attestation_age = age(pulse.attestation_age());
        one(to, seconds("attestation_age", "Time since an attestation last became final"), &attestation_age)?;
        one(to, seconds("core_lag", "Time since the core thread last went round"), &age(pulse.core_age()))?;
        one(to, seconds("network_lag", "How late the network's task is"), &age(lag))?;

        let handshakes = ConstGauge::new(figures.handshakes as i64);
        one(to, plain("handshakes", "Inbound connections in their handshake"), &handshakes)?;
        let not_let_in = ConstCounter::new(figures.not_let_in);
        one(to, plain("connections_not_let_in", "Inbound connections refused or broken off"), &not_let_in)?;
        let failed_dials = ConstCounter::new(figures.failed_dials);
        one(to, plain("dials_failed", "Dials that failed, of any peer"), &failed_dials)?;
        let refused_streams = ConstCounter::new(figures.refused_streams);
        one(to, plain("streams_refused", "Inbound streams that nobody took"), &refused_streams)?;
        let kinds = [("node", figures.trusted), ("stranger", figures.strangers)];
        let sample = ConstGauge::new(0_i64);
        let mut family = to.encode_descriptor("connections", "Established connections", None, sample.metric_type())?;
        for (kind, count) in kinds {
            ConstGauge::new(count as i64).encode(family.encode_family(&[("peer", kind)])?)?;
        }

        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = ConstCounter::new(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
        one(to, seconds("process_cpu", "Processor time, user and system"), &cpu)?;
        if let Some(bytes) = resident_bytes() {
            let resident = ConstGauge::new(bytes as i64);
            one(to, ("process_resident_memory", Some(Unit::Bytes), "Memory resident"), &resident)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let open = ConstGauge::new(open.count() as i64);
            one(to, plain("process_open_fds", "File descriptors open"), &open)?;
        }
        Ok(())
    }
}

/// Bytes by peer: one meter for each node of the federation, and one for everybody else.
#[derive(Debug, Default)]
pub(super) struct Meters {
    by_peer: RwLock<BTreeMap<Option<NodeId>, Arc<Meter>>>,
}

impl Meters {
    pub(super) fn of(&self, node: Option<&NodeId>) -> Arc<Meter> {
        let mut by_peer = self.by_peer.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_peer.entry(node.copied()).or_default())
    }
}

impl Collector for Meters {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let by_peer = self.by_peer.read().unwrap_or_else(PoisonError::into_inner);
        let help = "Bytes of streams read, by peer, without what the transport adds";
        by_peer_family(&mut to, "peer_read", help, &by_peer, Meter::read_bytes)?;
        let help = "Bytes of streams written, by peer, without what the transport adds";
        by_peer_family(&mut to, "peer_written", help, &by_peer, Meter::written_bytes)
    }
}

fn by_peer_family(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    by_peer: &BTreeMap<Option<NodeId>, Arc<Meter>>,
    bytes: fn(&Meter) -> u64,
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = to.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?;
    for (peer, meter) in by_peer {
        let peer = peer.as_ref().map_or_else(|| "stranger".to_owned(), NodeId::to_string);
        ConstCounter::new(bytes(meter)).encode(family.encode_family(&[("peer", peer)])?)?;
    }
    Ok(())
}
