//! Who waits for which dial.
//!
//! One dial per peer at a time, shared by all who want the peer. Each brings its own addresses, and
//! none fails before all of its addresses were tried: what a dial under way does not cover is tried
//! by the next. A dial stops at the first address that answers, also when somebody else answers, so
//! an address that has gone to another peer must not hide the right one: it is struck out, and the
//! others are dialed again. Pure: the task dials, this only says what.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::address::strip_peer;
use crate::error::{ConnectError, chain};

/// Addresses of one peer that are dialed at once; the others follow when these fail.
const MAX_ADDRESSES: usize = 16;

/// Where the answer to a wish for a connection goes.
pub(crate) type ConnectReply = oneshot::Sender<Result<(), ConnectError>>;

/// All dials under way.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    by_peer: BTreeMap<PeerId, Dial>,
}

#[derive(Debug, Default)]
struct Dial {
    /// The dial under way and its addresses; `None` between two.
    current: Option<(ConnectionId, Vec<Multiaddr>)>,
    tried: BTreeSet<Multiaddr>,
    waiters: Vec<Waiter>,
    /// That somebody else was found says more than that nobody was.
    wrong_peer: Option<ConnectError>,
}

#[derive(Debug)]
struct Waiter {
    addresses: Vec<Multiaddr>,
    reply: ConnectReply,
}

impl Dials {
    /// Somebody wants this peer. The addresses must carry no peer id and not be empty.
    pub(crate) fn want(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, reply: ConnectReply) {
        let dial = self.by_peer.entry(peer).or_default();
        dial.waiters.retain(|waiter| !waiter.reply.is_closed());
        if dial.waiters.is_empty() {
            // A dial that everybody gave up on may hang on one silent address while the peer is
            // back at another. It goes on, but nobody has to wait for it.
            *dial = Dial::default();
        }
        dial.waiters.push(Waiter { addresses, reply });
    }

    /// What to dial now, if anything; the caller must then report [`started`](Self::started).
    pub(crate) fn next(&mut self, peer: &PeerId) -> Option<Vec<Multiaddr>> {
        let dial = self.by_peer.get_mut(peer)?;
        if dial.current.is_some() {
            return None;
        }
        dial.waiters.retain(|waiter| !waiter.reply.is_closed());
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in dial.waiters.iter().flat_map(|w| &w.addresses) {
            let known = dial.tried.contains(address) || addresses.contains(address);
            if !known && addresses.len() < MAX_ADDRESSES {
                addresses.push(address.clone());
            }
        }
        if addresses.is_empty() {
            self.by_peer.remove(peer);
            return None;
        }
        Some(addresses)
    }

    /// The dial that [`next`](Self::next) asked for is under way.
    pub(crate) fn started(&mut self, peer: &PeerId, id: ConnectionId, addresses: Vec<Multiaddr>) {
        if let Some(dial) = self.by_peer.get_mut(peer) {
            dial.current = Some((id, addresses));
        }
    }

    /// The peer is connected, by this connection: nobody waits any longer.
    pub(crate) fn connected(&mut self, peer: &PeerId, id: ConnectionId) {
        let Some(dial) = self.by_peer.get_mut(peer) else { return };
        for waiter in dial.waiters.drain(..) {
            let _ = waiter.reply.send(Ok(()));
        }
        // A dial that was overtaken by the peer's own goes on, and so does its entry.
        if dial.current.as_ref().is_none_or(|(current, _)| *current == id) {
            self.by_peer.remove(peer);
        }
    }

    /// A dial failed: those with nothing left to try are told, the others stay.
    pub(crate) fn failed(&mut self, peer: &PeerId, id: ConnectionId, error: &DialError) {
        let Some(dial) = self.by_peer.get_mut(peer) else { return };
        let Some((_, addresses)) = dial.current.take_if(|(current, _)| *current == id) else {
            return;
        };
        let told = match error {
            DialError::WrongPeerId { obtained, address } => {
                let (address, _) = strip_peer(address.clone());
                if addresses.contains(&address) {
                    dial.tried.insert(address.clone());
                } else {
                    dial.tried.extend(addresses);
                }
                let wrong = ConnectError::WrongPeer { address, obtained: *obtained };
                dial.wrong_peer = Some(wrong.clone());
                wrong
            }
            _ => {
                dial.tried.extend(addresses);
                dial.wrong_peer.clone().unwrap_or_else(|| translate(error))
            }
        };
        // No further address helps against our own limits, or makes us somebody else.
        let hopeless = matches!(told, ConnectError::Denied { .. } | ConnectError::Myself);
        let tried = &dial.tried;
        let done = dial.waiters.extract_if(.., |w| hopeless || w.addresses.iter().all(|a| tried.contains(a)));
        for waiter in done {
            let _ = waiter.reply.send(Err(told.clone()));
        }
        if dial.waiters.is_empty() {
            self.by_peer.remove(peer);
        }
    }
}

fn translate(error: &DialError) -> ConnectError {
    match error {
        DialError::LocalPeerId { .. } => ConnectError::Myself,
        DialError::NoAddresses => ConnectError::NoAddress,
        DialError::Denied { cause } => ConnectError::Denied { reason: chain(cause) },
        DialError::Transport(errors) => {
            let reasons = errors.iter().map(|(address, error)| {
                let (address, _) = strip_peer(address.clone());
                format!("{address}: {}", chain(error))
            });
            ConnectError::Unreachable { reason: reasons.collect::<Vec<_>>().join("; ") }
        }
        other => ConnectError::Unreachable { reason: chain(other) },
    }
}
