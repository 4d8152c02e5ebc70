//! Streams to and from all peers: which connection opens them, and whose quota they use.
//!
//! A peer may have more than one connection, after simultaneous dials or when a restarted peer is
//! back before its old connection is known to be dead. All of them live, within the limits, and no
//! connection is ever closed because there is another. New streams go to the *newest*: a peer dials
//! only when it sees no connection, so a second one says that the first may be dead on its side. A
//! connection that is left without streams closes for idleness, so in time one remains. Both sides
//! may prefer different connections of two; that does no harm.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, ToSwarm};
use tokio::sync::{mpsc, oneshot};

use crate::config::Protocol;
use crate::handler::{Handler, Inbound, MAX_NEGOTIATING, OpenFailure, OpenRequest};
use crate::quota::Quota;
use crate::stream::Stream;

/// Where the answer to a wish for a stream goes.
pub(crate) type OpenReply = oneshot::Sender<Result<Stream, OpenFailure>>;

/// An inbound stream and whose it is.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) peer: PeerId,
    pub(crate) inbound: Inbound,
}

/// The connections of one peer.
struct Peer {
    quota: Arc<Quota>,
    /// Oldest first.
    links: Vec<Link>,
}

struct Link {
    connection: ConnectionId,
    requests: mpsc::Sender<OpenRequest>,
    /// Being closed by us: still counted, not used.
    closing: bool,
}

/// Opens and accepts streams.
pub(crate) struct Behaviour {
    protocols: Arc<[Protocol]>,
    peers: BTreeMap<PeerId, Peer>,
    /// Handed to a handler whose connection may still be denied.
    nascent: HashMap<ConnectionId, mpsc::Sender<OpenRequest>>,
    accepted: VecDeque<Accepted>,
}

impl Behaviour {
    pub(crate) fn new(protocols: Vec<Protocol>) -> Self {
        Self { protocols: protocols.into(), peers: BTreeMap::new(), nascent: HashMap::new(), accepted: VecDeque::new() }
    }

    /// Asks for a stream on the newest live connection, on `avoid` only if there is no other.
    pub(crate) fn open(&self, peer: &PeerId, protocol: &'static str, avoid: Option<ConnectionId>, reply: OpenReply) {
        let live = || {
            let links = self.peers.get(peer).map_or(&[][..], |p| p.links.as_slice());
            links.iter().rev().filter(|link| !link.closing)
        };
        let link = live().find(|link| Some(link.connection) != avoid).or_else(|| live().next());
        let Some(link) = link else {
            let _ = reply.send(Err(OpenFailure::NotConnected));
            return;
        };
        let request = OpenRequest::new(protocol, link.connection, reply);
        match link.requests.try_send(request) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(request)) => request.answer(Err(OpenFailure::Busy)),
            // Dropping it says so.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// Whether streams can be opened to this peer.
    pub(crate) fn is_live(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|p| p.links.iter().any(|link| !link.closing))
    }

    /// Whether a connection to this peer is being closed by us.
    pub(crate) fn is_closing(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|p| p.links.iter().any(|link| link.closing))
    }

    /// No further streams on these connections.
    pub(crate) fn set_closing(&mut self, peer: &PeerId, only: Option<ConnectionId>) {
        for link in self.peers.get_mut(peer).map_or(&mut [][..], |p| p.links.as_mut_slice()) {
            if only.is_none_or(|id| id == link.connection) {
                link.closing = true;
            }
        }
    }

    /// Forgets peers that have no connection and of whose streams none is held any more.
    pub(crate) fn sweep(&mut self) {
        self.peers.retain(|_, peer| !peer.links.is_empty() || Arc::strong_count(&peer.quota) > 1);
    }

    fn handler(&mut self, connection: ConnectionId, peer: PeerId) -> Handler {
        let (requests, receiver) = mpsc::channel(MAX_NEGOTIATING);
        self.nascent.insert(connection, requests);
        let entry =
            self.peers.entry(peer).or_insert_with(|| Peer { quota: Quota::new(&self.protocols), links: Vec::new() });
        Handler::new(peer, Arc::clone(&self.protocols), Arc::clone(&entry.quota), receiver)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Accepted;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                let requests = self.nascent.remove(&e.connection_id);
                if let (Some(requests), Some(peer)) = (requests, self.peers.get_mut(&e.peer_id)) {
                    let connection = e.connection_id;
                    peer.links.push(Link { connection, requests, closing: false });
                }
            }
            FromSwarm::ConnectionClosed(e) => {
                if let Some(peer) = self.peers.get_mut(&e.peer_id) {
                    peer.links.retain(|link| link.connection != e.connection_id);
                }
            }
            FromSwarm::DialFailure(e) => {
                self.nascent.remove(&e.connection_id);
            }
            FromSwarm::ListenFailure(e) => {
                self.nascent.remove(&e.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, inbound: Inbound) {
        self.accepted.push_back(Accepted { peer, inbound });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Accepted, THandlerInEvent<Self>>> {
        match self.accepted.pop_front() {
            Some(accepted) => Poll::Ready(ToSwarm::GenerateEvent(accepted)),
            // The swarm polls again after every event of a handler.
            None => Poll::Pending,
        }
    }
}
