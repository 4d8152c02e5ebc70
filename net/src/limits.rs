//! Who may connect: counts per peer, per place and in all, memory, and the peers that are exempt.
//!
//! A peer's id costs nothing, an IP address does. So one place (an IPv4 address, or an IPv6 network of 64 bits) has at
//! most a quarter of what strangers may have: whoever sits there cannot shut all others out. This machine itself is no
//! such place, since a relay in front of a node makes everybody look like that.
//!
//! Why not `libp2p-connection-limits`: there a trusted peer's connections count towards the
//! strangers' total, and every peer that ever connected leaves an entry behind for ever, so that
//! throwaway identities grow our memory. Here trusted peers do not count, and entries go with their
//! connection. Trusted peers still have a cap of their own, since a federation's node can misbehave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{PeerId, core};

use crate::config::Limits;

/// Connections of one trusted peer: some that died unnoticed, and the one that lives.
const MAX_PER_TRUSTED_PEER: usize = 8;

/// One place may have this part of the handshakes, and of the connections of strangers.
const PLACES: usize = 4;

/// The bound that a connection ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    #[error("{0} handshakes are under way")]
    PendingIncoming(usize),
    #[error("{0} handshakes with this address are under way")]
    PendingFromPlace(usize),
    #[error("{0} connections with this address are established")]
    EstablishedFromPlace(usize),
    #[error("{0} connections of strangers are established")]
    Established(usize),
    #[error("{0} connections of this peer are established")]
    PerPeer(usize),
    #[error("{0} bytes are in use")]
    Memory(u64),
}

/// Counts connections and denies those over a bound.
pub(crate) struct Behaviour {
    limits: Limits,
    trusted: HashSet<PeerId>,
    pending: HashMap<ConnectionId, Option<IpAddr>>,
    pending_from: BTreeMap<IpAddr, usize>,
    established: HashMap<ConnectionId, (PeerId, Option<IpAddr>)>,
    established_from: BTreeMap<IpAddr, usize>,
    per_peer: BTreeMap<PeerId, usize>,
    /// Of the established ones, those whose peer is not trusted.
    strangers: usize,
    /// Bytes resident when last looked.
    memory_bytes: u64,
}

impl Behaviour {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            trusted: HashSet::new(),
            pending: HashMap::new(),
            pending_from: BTreeMap::new(),
            established: HashMap::new(),
            established_from: BTreeMap::new(),
            per_peer: BTreeMap::new(),
            strangers: 0,
            memory_bytes: 0,
        }
    }

    /// Replaces the set of peers that are exempt. Existing connections stay as they are.
    pub(crate) fn set_trusted(&mut self, trusted: HashSet<PeerId>) {
        self.trusted = trusted;
        self.strangers = self.established.values().filter(|(peer, _)| !self.trusted.contains(peer)).count();
    }

    /// Looks at the memory in use, if there is a bound on it.
    pub(crate) fn look_at_memory(&mut self) {
        if self.limits.max_memory_bytes.is_some() {
            self.memory_bytes = resident_bytes().unwrap_or(0);
        }
    }

    fn no_longer_pending(&mut self, id: &ConnectionId) {
        if let Some(Some(place)) = self.pending.remove(id) {
            one_less(&mut self.pending_from, &place);
        }
    }

    /// Established connections of trusted peers and of others, and handshakes under way.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let trusted = self.established.len() - self.strangers;
        (trusted as u64, self.strangers as u64, self.pending.len() as u64)
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), Exceeded> {
        let trusted = self.trusted.contains(peer);
        let max = if trusted { MAX_PER_TRUSTED_PEER } else { self.limits.max_per_peer };
        let now = self.per_peer.get(peer).copied().unwrap_or(0);
        if now >= max { Err(Exceeded::PerPeer(now)) } else { Ok(()) }
    }

    fn check_stranger(&self, peer: &PeerId, from: &Multiaddr) -> Result<(), Exceeded> {
        if self.trusted.contains(peer) {
            return Ok(());
        }
        if self.strangers >= self.limits.max_established {
            return Err(Exceeded::Established(self.strangers));
        }
        let here = place(from).and_then(|place| self.established_from.get(&place)).copied().unwrap_or(0);
        if here >= self.limits.max_established.div_ceil(PLACES) {
            return Err(Exceeded::EstablishedFromPlace(here));
        }
        match self.limits.max_memory_bytes {
            Some(max) if self.memory_bytes > max => Err(Exceeded::Memory(self.memory_bytes)),
            _ => Ok(()),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.pending.len() >= self.limits.max_pending_incoming {
            return Err(ConnectionDenied::new(Exceeded::PendingIncoming(self.pending.len())));
        }
        let place = place(from);
        if let Some(place) = place {
            let here = self.pending_from.entry(place).or_default();
            if *here >= self.limits.max_pending_incoming.div_ceil(PLACES) {
                return Err(ConnectionDenied::new(Exceeded::PendingFromPlace(*here)));
            }
            *here += 1;
        }
        self.pending.insert(id, place);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.no_longer_pending(&id);
        self.check_peer(&peer).and_then(|()| self.check_stranger(&peer, from)).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // We wanted this one, so only the peer's own bound counts.
        self.check_peer(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                let place = place(e.endpoint.get_remote_address());
                self.established.insert(e.connection_id, (e.peer_id, place));
                if let Some(place) = place {
                    *self.established_from.entry(place).or_default() += 1;
                }
                *self.per_peer.entry(e.peer_id).or_default() += 1;
                self.strangers += usize::from(!self.trusted.contains(&e.peer_id));
            }
            FromSwarm::ConnectionClosed(e) => {
                let Some((_, place)) = self.established.remove(&e.connection_id) else { return };
                if let Some(place) = place {
                    one_less(&mut self.established_from, &place);
                }
                self.strangers -= usize::from(!self.trusted.contains(&e.peer_id));
                one_less(&mut self.per_peer, &e.peer_id);
            }
            FromSwarm::ListenFailure(e) => self.no_longer_pending(&e.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        core::util::unreachable(event)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// Where a connection comes from, as far as one party can be thought to own it; none for this machine.
fn place(address: &Multiaddr) -> Option<IpAddr> {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    })?;
    match ip {
        IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
        IpAddr::V4(_) => Some(ip),
        IpAddr::V6(ip) => Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)))),
    }
}

/// Takes one from a count; none is kept at zero, so that entries go with what they count.
fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Bytes of this process in memory, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
