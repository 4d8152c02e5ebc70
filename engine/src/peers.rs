//! How other nodes look from here, as holders of slices: connected or not, caught up or not, and how fast they answer.
//! From that follow who is *present*, and how long to wait for an answer (the adaptive deadline, rule 15).

use std::collections::BTreeMap;

use postroad_protocol::{Digest, NodeId};

/// Answers in a row that may take more than three quarters of the cap before a node counts as away.
const NEAR_CAP_LIMIT: u32 = 5;
/// Rounds of housekeeping after which a slow node is tried again: nothing that it could answer in time reaches it else.
const PROBATION_ROUNDS: u32 = 10;

/// All other nodes, as seen from here.
#[derive(Debug)]
pub struct Peers {
    cap_ms: u64,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    connected: bool,
    ready: bool,
    /// It missed a deadline and has not answered since.
    slow: bool,
    /// Rounds of housekeeping since then.
    slow_rounds: u32,
    near_cap: u32,
    /// Smoothed time to a receipt and its deviation, as RFC 6298 smooths round trips.
    smoothed_ms: Option<(f64, f64)>,
}

impl Peers {
    /// No peers yet; no deadline is above `cap_ms`.
    pub fn new(cap_ms: u64) -> Peers {
        Peers { cap_ms, peers: BTreeMap::new() }
    }

    fn peer(&mut self, node: NodeId) -> &mut Peer {
        self.peers.entry(node).or_default()
    }

    /// The stream to the node is up or gone.
    pub fn connected(&mut self, node: NodeId, connected: bool) {
        let peer = self.peer(node);
        peer.connected = connected;
        peer.ready = false;
        if connected {
            peer.slow = false;
            peer.near_cap = 0;
        }
    }

    /// The node says whether it is caught up.
    pub fn ready(&mut self, node: NodeId, ready: bool) {
        self.peer(node).ready = ready;
    }

    /// Whether there is a stream to the node.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.connected)
    }

    /// Whether slices go to the node: it is connected, caught up, and answers in time.
    pub fn is_present(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.connected && peer.ready && !peer.slow)
    }

    /// The node has not answered in time. Returns whether it was present until now.
    pub fn missed(&mut self, node: NodeId) -> bool {
        let was = self.is_present(&node);
        let peer = self.peer(node);
        (peer.slow, peer.slow_rounds) = (true, 0);
        was
    }

    /// The node has answered after `elapsed_ms`. Returns whether it is back from being away, or away from now on
    /// because it keeps coming near the cap.
    pub fn answered(&mut self, node: NodeId, elapsed_ms: u64) -> Change {
        let cap_ms = self.cap_ms;
        let peer = self.peer(node);
        let elapsed = elapsed_ms as f64;
        peer.smoothed_ms = Some(match peer.smoothed_ms {
            None => (elapsed, elapsed / 2.0),
            Some((mean, deviation)) => {
                (mean * 0.875 + elapsed * 0.125, deviation * 0.75 + (elapsed - mean).abs() * 0.25)
            }
        });
        if elapsed_ms * 4 > cap_ms * 3 {
            peer.near_cap += 1;
            if peer.near_cap >= NEAR_CAP_LIMIT {
                peer.slow_rounds = 0;
                return if std::mem::replace(&mut peer.slow, true) { Change::None } else { Change::Away };
            }
        } else {
            peer.near_cap = 0;
        }
        if std::mem::replace(&mut peer.slow, false) { Change::Back } else { Change::None }
    }

    /// A round of housekeeping: slow nodes that have waited long enough are tried again, and are away again with the
    /// next late answer. Returns those that are present again.
    pub fn try_again(&mut self) -> Vec<NodeId> {
        let mut tried = Vec::new();
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.slow) {
            peer.slow_rounds += 1;
            if peer.slow_rounds >= PROBATION_ROUNDS {
                peer.slow = false;
                peer.near_cap = NEAR_CAP_LIMIT - 1;
                tried.push(*node);
            }
        }
        tried.retain(|node| self.is_present(node));
        tried
    }

    /// How long to wait for the node's receipt: a quarter of the cap at least, the cap at most.
    pub fn deadline_ms(&self, node: &NodeId) -> u64 {
        let adaptive = (self.peers.get(node).and_then(|peer| peer.smoothed_ms))
            .map_or(self.cap_ms, |(mean, deviation)| (mean + 4.0 * deviation) as u64);
        adaptive.clamp(self.cap_ms.div_ceil(4), self.cap_ms)
    }
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The node is away from now on.
    Away,
    /// The node is back.
    Back,
}

/// The order in which nodes are asked to hold slices for `destination`: its deputies, then the others by hash.
pub fn rank_custodians(destination: &NodeId, deputies: &[NodeId], nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut others: Vec<(Digest, NodeId)> = nodes
        .filter(|node| node != destination && !deputies.contains(node))
        .map(|node| (Digest::tagged("custodian-rank", &[&destination.0, &node.0]), node))
        .collect();
    others.sort();
    let deputies = deputies.iter().copied().filter(|node| node != destination);
    deputies.chain(others.into_iter().map(|(_, node)| node)).collect()
}
