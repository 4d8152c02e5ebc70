//! What a peer may get wrong: a budget of statements that do not verify, or that nobody could take.
//!
//! They cost the node more than their sender. So a peer that has sent too many loses its streams and
//! is not listened to for a while. Another identity is cheap, but costs a handshake, which is more than what the budget
//! buys with it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use postroad_protocol::NodeId;

/// What is forgiven one peer, with less than [`MEMORY`] between its offences.
const BUDGET: u32 = 256;
/// What does not verify, or nobody could take. Honest software never sends it.
pub(super) const OFFENCE: u32 = 16;
/// What this node does not take now and may take a moment later, when it has followed the cuts.
pub(super) const NUISANCE: u32 = 1;
/// How long an offence is remembered after the last one, and how long a peer over its budget is not listened to.
const MEMORY: Duration = Duration::from_secs(60);
/// Peers that are remembered at most; with more, those whose last offence is longest ago are forgotten.
const MAX_PEERS: usize = 4_096;

/// The offences of all peers.
#[derive(Debug, Default)]
pub(super) struct Offences {
    peers: Mutex<BTreeMap<NodeId, Offender>>,
}

#[derive(Clone, Copy, Debug)]
struct Offender {
    count: u32,
    last: Instant,
}

impl Offences {
    /// Notes an offence; false when that was the one too many.
    pub(super) fn is_forgiven(&self, peer: NodeId, weight: u32) -> bool {
        self.note(peer, weight, Instant::now())
    }

    /// Whether this peer is over its budget, and not to be listened to now.
    pub(super) fn is_barred(&self, peer: &NodeId) -> bool {
        self.is_barred_at(peer, Instant::now())
    }

    fn note(&self, peer: NodeId, weight: u32, now: Instant) -> bool {
        let mut peers = self.peers.lock().expect("nobody panics with the lock");
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            peers.retain(|_, offender| now.duration_since(offender.last) < MEMORY);
            let oldest = peers.iter().min_by_key(|(_, offender)| offender.last).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest.filter(|_| peers.len() >= MAX_PEERS) {
                peers.remove(&oldest);
            }
        }
        let offender = peers.entry(peer).or_insert(Offender { count: 0, last: now });
        if now.duration_since(offender.last) >= MEMORY {
            offender.count = 0;
        }
        offender.count = offender.count.saturating_add(weight);
        offender.last = now;
        offender.count <= BUDGET
    }

    fn is_barred_at(&self, peer: &NodeId, now: Instant) -> bool {
        let peers = self.peers.lock().expect("nobody panics with the lock");
        peers.get(peer).is_some_and(|known| known.count > BUDGET && now.duration_since(known.last) < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from(bytes)
    }

    #[test]
    fn a_budget_is_spent_and_given_back() {
        let (offences, now) = (Offences::default(), Instant::now());
        assert!((0..BUDGET / OFFENCE).all(|_| offences.note(peer(1), OFFENCE, now)));
        assert!(!offences.is_barred_at(&peer(1), now), "within the budget");
        assert!(!offences.note(peer(1), NUISANCE, now));
        assert!(offences.is_barred_at(&peer(1), now));
        assert!(!offences.is_barred_at(&peer(2), now), "another peer has its own");
        assert!(!offences.is_barred_at(&peer(1), now + MEMORY));
        assert!(offences.note(peer(1), OFFENCE, now + MEMORY), "the budget is whole again");
    }

    #[test]
    fn peers_without_number_are_not_remembered_without_bound() {
        let (offences, now) = (Offences::default(), Instant::now());
        for number in 0..2 * MAX_PEERS as u32 {
            offences.note(peer(number), OFFENCE, now + Duration::from_millis(u64::from(number)));
        }
        assert_eq!(offences.peers.lock().expect("the lock").len(), MAX_PEERS);
    }
}
