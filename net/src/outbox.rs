//! Events for the owner of a network, who may be slow.
//!
//! The swarm task never waits for the owner. What is a state (who is connected, where we listen)
//! is kept until there is room and then told in its newest form; what is an offer (an inbound
//! stream) is refused when there is no room. Per peer the order holds: connected, then streams,
//! then disconnected. A peer that came and went before it could be told is not told at all.

use std::collections::{BTreeMap, VecDeque};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::stream::Stream;

/// What a network tells its owner.
#[derive(Debug)]
pub enum Event {
    /// The first connection to a peer stands.
    Connected {
        /// Who.
        peer: PeerId,
        /// Where the peer is, or where it called from.
        addr: Multiaddr,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// The network listens here.
    Listening {
        /// With the port that was really taken.
        addr: Multiaddr,
    },
    /// A peer opened a stream.
    Inbound {
        /// Who.
        peer: PeerId,
        /// On which of the configured protocols.
        protocol: &'static str,
        /// The stream.
        stream: Stream,
    },
}

/// What a peer's owner is still to be told, in this order.
#[derive(Debug, Default)]
struct Change {
    down: bool,
    up: Option<Multiaddr>,
}

/// Events on their way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Event>,
    /// At most one entry per peer that is connected or was told to be.
    changes: BTreeMap<PeerId, Change>,
    /// At most as many as there are listeners' addresses.
    listening: VecDeque<Multiaddr>,
    refused: u64,
}

impl Outbox {
    pub(crate) fn new(sender: mpsc::Sender<Event>) -> Self {
        Self { sender, changes: BTreeMap::new(), listening: VecDeque::new(), refused: 0 }
    }

    /// Whether something waits for room.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.changes.is_empty() || !self.listening.is_empty()
    }

    /// Streams that were refused since there was no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn connected(&mut self, peer: PeerId, addr: Multiaddr) {
        self.changes.entry(peer).or_default().up = Some(addr);
        self.flush();
    }

    pub(crate) fn disconnected(&mut self, peer: PeerId) {
        let change = self.changes.entry(peer).or_default();
        if change.up.take().is_none() {
            change.down = true;
        } else if !change.down {
            self.changes.remove(&peer);
        }
        self.flush();
    }

    pub(crate) fn listening(&mut self, addr: Multiaddr) {
        self.listening.push_back(addr);
        self.flush();
    }

    /// An address that is no longer listened on need not be told.
    pub(crate) fn not_listening(&mut self, addr: &Multiaddr) {
        self.listening.retain(|a| a != addr);
    }

    pub(crate) fn inbound(&mut self, peer: PeerId, protocol: &'static str, stream: Stream) {
        self.flush();
        let event = Event::Inbound { peer, protocol, stream };
        if self.changes.contains_key(&peer) || self.sender.try_send(event).is_err() {
            self.refused += 1;
            tracing::warn!(%peer, protocol, refused = self.refused, "no room, stream refused");
        }
    }

    /// Tells what there is room for.
    pub(crate) fn flush(&mut self) {
        while let Some(addr) = self.listening.front() {
            if !push(&self.sender, || Event::Listening { addr: addr.clone() }) {
                return;
            }
            self.listening.pop_front();
        }
        while let Some(mut entry) = self.changes.first_entry() {
            let peer = *entry.key();
            let change = entry.get_mut();
            if change.down && !push(&self.sender, || Event::Disconnected { peer }) {
                return;
            }
            change.down = false;
            if let Some(addr) = &change.up
                && !push(&self.sender, || Event::Connected { peer, addr: addr.clone() })
            {
                return;
            }
            entry.remove();
        }
    }
}

/// Whether there was room; an owner that is gone takes everything.
fn push(sender: &mpsc::Sender<Event>, event: impl FnOnce() -> Event) -> bool {
    match sender.try_reserve() {
        Ok(permit) => {
            permit.send(event());
            true
        }
        Err(TrySendError::Full(())) => false,
        Err(TrySendError::Closed(())) => true,
    }
}
