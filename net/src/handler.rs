//! Streams on one connection: what to offer, whom to let in, whom to answer.
//!
//! One per connection, polled by the connection's own task. Requests to open come over a bounded
//! channel of its own, not through the swarm's single pending slot, so a connection that is stuck
//! holds up nobody else. A stream over its peer's quota is dropped as soon as its protocol is known.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol};
use tokio::sync::{mpsc, oneshot};

use crate::config::Protocol;
use crate::error::chain;
use crate::quota::Quota;
use crate::stream::Stream;

/// Streams that may be in negotiation at once, per connection and direction.
pub(crate) const MAX_NEGOTIATING: usize = 64;

/// How long a stream may take from the wish to the agreed protocol.
const NEGOTIATION_DEADLINE: Duration = Duration::from_secs(10);

/// Why a stream was not opened on a connection.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    NotConnected,
    Unsupported,
    Busy,
    /// This connection failed; another one may do.
    Closed {
        connection: ConnectionId,
        reason: String,
    },
}

/// A wish for a stream. It is always answered: dropping it unanswered says that its connection
/// closed.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    protocol: &'static str,
    connection: ConnectionId,
    reply: Option<oneshot::Sender<Result<Stream, OpenFailure>>>,
}

impl OpenRequest {
    pub(crate) fn new(
        protocol: &'static str,
        connection: ConnectionId,
        reply: oneshot::Sender<Result<Stream, OpenFailure>>,
    ) -> Self {
        Self { protocol, connection, reply: Some(reply) }
    }

    pub(crate) fn answer(mut self, result: Result<Stream, OpenFailure>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have stopped waiting; the stream is then dropped.
            let _ = reply.send(result);
        }
    }

    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let connection = self.connection;
            let reason = "connection closed".to_owned();
            let _ = reply.send(Err(OpenFailure::Closed { connection, reason }));
        }
    }
}

/// An inbound stream within its quota.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) protocol: &'static str,
    pub(crate) stream: Stream,
}

/// The streams of one connection.
pub(crate) struct Handler {
    peer: PeerId,
    protocols: Arc<[Protocol]>,
    quota: Arc<Quota>,
    requests: mpsc::Receiver<OpenRequest>,
    /// Outbound streams in negotiation.
    negotiating: usize,
    /// Accepted, on their way to the behaviour.
    accepted: VecDeque<Inbound>,
}

impl Handler {
    pub(crate) fn new(
        peer: PeerId,
        protocols: Arc<[Protocol]>,
        quota: Arc<Quota>,
        requests: mpsc::Receiver<OpenRequest>,
    ) -> Self {
        Self { peer, protocols, quota, requests, negotiating: 0, accepted: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Inbound;
    type InboundProtocol = Offer;
    type OutboundProtocol = ReadyUpgrade<&'static str>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(Arc::clone(&self.protocols)), ()).with_timeout(NEGOTIATION_DEADLINE)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpenRequest, Inbound>> {
        if let Some(inbound) = self.accepted.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(inbound));
        }
        while self.negotiating < MAX_NEGOTIATING {
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(request)) if request.abandoned() => {}
                Poll::Ready(Some(request)) => {
                    self.negotiating += 1;
                    let upgrade = ReadyUpgrade::new(request.protocol);
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                        protocol: SubstreamProtocol::new(upgrade, request).with_timeout(NEGOTIATION_DEADLINE),
                    });
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        libp2p::core::util::unreachable(event)
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Self::OutboundProtocol, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, index), .. }) => {
                let protocol = self.protocols[index].name;
                match self.quota.take(index) {
                    Some(place) => {
                        self.accepted.push_back(Inbound { protocol, stream: Stream::inbound(stream, place) })
                    }
                    None => {
                        tracing::debug!(peer = %self.peer, protocol, "stream over quota refused");
                    }
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: request }) => {
                self.negotiating -= 1;
                request.answer(Ok(Stream::outbound(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: request, error }) => {
                self.negotiating -= 1;
                let connection = request.connection;
                let failure = match error {
                    StreamUpgradeError::NegotiationFailed => OpenFailure::Unsupported,
                    StreamUpgradeError::Timeout => {
                        OpenFailure::Closed { connection, reason: "negotiation took too long".to_owned() }
                    }
                    StreamUpgradeError::Io(error) => OpenFailure::Closed { connection, reason: chain(&error) },
                    StreamUpgradeError::Apply(never) => libp2p::core::util::unreachable(never),
                };
                request.answer(Err(failure));
            }
            _ => {}
        }
    }
}

/// The protocols on which streams are accepted, as negotiation wants them.
#[derive(Debug, Clone)]
pub(crate) struct Offer(Arc<[Protocol]>);

/// One of them. Cloning the list for every look at it would cost an allocation per poll of every
/// connection, so this counts instead.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    name: &'static str,
    index: usize,
}

impl AsRef<str> for Offered {
    fn as_ref(&self) -> &str {
        self.name
    }
}

/// Walks over an [`Offer`].
pub(crate) struct Offers {
    protocols: Arc<[Protocol]>,
    next: usize,
}

impl Iterator for Offers {
    type Item = Offered;

    fn next(&mut self) -> Option<Offered> {
        let index = self.next;
        let name = self.protocols.get(index)?.name;
        self.next += 1;
        Some(Offered { name, index })
    }
}

impl UpgradeInfo for Offer {
    type Info = Offered;
    type InfoIter = Offers;

    fn protocol_info(&self) -> Offers {
        Offers { protocols: Arc::clone(&self.0), next: 0 }
    }
}

impl InboundUpgrade<libp2p::Stream> for Offer {
    type Output = (libp2p::Stream, usize);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, chosen: Offered) -> Self::Future {
        ready(Ok((stream, chosen.index)))
    }
}
