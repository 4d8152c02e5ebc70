//! The handle: what node and client hold of a network.
//!
//! It is cheap to clone and speaks to the one task that owns the swarm, over a bounded channel. A
//! full channel makes callers wait, within their own timeout. Dropping the last handle stops the
//! network as [`Network::shutdown`] does.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::address::{keypair, strip_peer};
use crate::config::Config;
use crate::error::{ConnectError, OpenError, StartError};
use crate::handler::OpenFailure;
use crate::outbox::Event;
use crate::stream::Stream;
use crate::task::{self, Command};
use crate::watchdog::{Figures, Watchdog};

/// Commands that may wait for the swarm task.
const MAX_WAITING_COMMANDS: usize = 256;

/// A running network. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Network {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    watchdog: Arc<Watchdog>,
}

impl Network {
    /// Starts the swarm's task on the current tokio runtime, listening as configured.
    ///
    /// The events should be taken promptly. While they are not, inbound streams are refused; who is
    /// connected is told later, in its newest form. Dropping the receiver refuses all inbound
    /// streams, which suits a client.
    ///
    /// # Errors
    ///
    /// [`StartError`], when an address cannot be listened on, among others.
    pub fn start(config: Config) -> Result<(Self, mpsc::Receiver<Event>), StartError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(StartError::NoRuntime);
        }
        check(&config)?;
        let keypair = keypair(&config.secret);
        let peer = keypair.public().to_peer_id();
        let (events, receiver) = mpsc::channel(config.limits.max_waiting_events);
        let (commands, wishes) = mpsc::channel(MAX_WAITING_COMMANDS);
        let watchdog = Arc::new(Watchdog::new());
        let task = task::Task::new(config, &keypair, events, Arc::clone(&watchdog))?;
        tokio::spawn(task.run(wishes));
        Ok((Self { peer, commands, watchdog }, receiver))
    }

    /// Who this network is.
    pub fn local_peer_id(&self) -> PeerId {
        self.peer
    }

    /// How late the swarm's task is, or was when it last beat. Well under a second when healthy.
    pub fn lag(&self) -> Duration {
        self.watchdog.lag()
    }

    /// What this network counts, as of a moment ago; it waits for nobody.
    pub fn figures(&self) -> Figures {
        self.watchdog.figures()
    }

    /// Makes sure that there is a connection to `peer`; at once if there is one.
    ///
    /// Calls for one peer at the same time share a dial, and each fails only when all its own
    /// addresses failed. An address may end in the peer's own `/p2p/ID`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; nothing is retried, see [`Backoff`](crate::Backoff).
    pub async fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>, timeout: Duration) -> Result<(), ConnectError> {
        if peer == self.peer {
            return Err(ConnectError::Myself);
        }
        let mut addresses = Vec::with_capacity(addrs.len());
        for address in addrs {
            match strip_peer(address) {
                (place, Some(named)) if named != peer => {
                    return Err(ConnectError::BadAddress(crate::join_address(named, &place)));
                }
                (place, _) if place.is_empty() => {}
                (place, _) => addresses.push(place),
            }
        }
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            let command = Command::Connect { peer, addresses, reply };
            self.commands.send(command).await.map_err(|_| ConnectError::Stopped)?;
            answer.await.unwrap_or(Err(ConnectError::Stopped))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(ConnectError::TimedOut(timeout)))
    }

    /// Opens a stream on a live connection to `peer`; never dials.
    ///
    /// The peer has agreed to the protocol when this returns, but may still drop the stream at
    /// once, for its quota or because nobody takes it: a stream counts as open when the application
    /// at the other end has said so. A connection that fails meanwhile is retried once, on another
    /// one if there is one.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(&self, peer: PeerId, protocol: &'static str, timeout: Duration) -> Result<Stream, OpenError> {
        let deadline = Instant::now() + timeout;
        let mut avoid = None;
        loop {
            let (reply, answer) = oneshot::channel();
            let exchange = async {
                let command = Command::Open { peer, protocol, avoid, reply };
                self.commands.send(command).await.map_err(|_| OpenError::Stopped)?;
                answer.await.map_err(|_| OpenError::Stopped)
            };
            let result = timeout_at(deadline, exchange).await.unwrap_or(Err(OpenError::TimedOut(timeout)))?;
            return match result {
                Ok(stream) => Ok(stream),
                Err(OpenFailure::Closed { connection, .. }) if avoid.is_none() => {
                    avoid = Some(connection);
                    continue;
                }
                Err(OpenFailure::Closed { reason, .. }) => Err(OpenError::Closed(reason)),
                Err(OpenFailure::NotConnected) => Err(OpenError::NotConnected),
                Err(OpenFailure::Unsupported) => Err(OpenError::Unsupported(protocol)),
                Err(OpenFailure::Busy) => Err(OpenError::Busy),
            };
        }
    }

    /// Closes all connections to `peer` and returns when they are closed, a few seconds at most.
    ///
    /// Streams on them fail. The peer may connect again.
    pub async fn disconnect(&self, peer: PeerId) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Disconnect { peer, reply }).await.is_ok() {
            // No answer means that the network stopped, which closes them too.
            let _ = answer.await;
        }
    }

    /// Where this network listens now; empty once it has stopped.
    pub async fn listen_addrs(&self) -> Vec<Multiaddr> {
        let (reply, answer) = oneshot::channel();
        match self.commands.send(Command::ListenAddrs { reply }).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Replaces the set of trusted peers, which the bounds on strangers do not hold for.
    ///
    /// They still have a bound of eight connections each, and the same quotas of streams.
    pub async fn set_trusted(&self, peers: impl IntoIterator<Item = PeerId>) {
        let peers: HashSet<PeerId> = peers.into_iter().collect();
        // A network that has stopped trusts nobody.
        let _ = self.commands.send(Command::SetTrusted { peers }).await;
    }

    /// Closes all connections and ends the task, within a few seconds. All handles are dead then.
    ///
    /// What was written and not yet answered may be lost. A QUIC socket stays bound for a moment
    /// longer, while it drains; a TCP port is free.
    pub async fn shutdown(self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            let _ = answer.await;
        } else {
            self.commands.closed().await;
        }
    }
}

fn check(config: &Config) -> Result<(), StartError> {
    let limits = &config.limits;
    let least = [
        ("max_pending_incoming", limits.max_pending_incoming, 1),
        ("max_established", limits.max_established, 1),
        ("max_per_peer", limits.max_per_peer, 1),
        ("max_streams_per_connection", limits.max_streams_per_connection, 16),
        ("max_waiting_events", limits.max_waiting_events, 1),
    ];
    if let Some((name, ..)) = least.into_iter().find(|(_, value, least)| value < least) {
        return Err(StartError::BadLimit(name));
    }
    let mut names = HashSet::new();
    for protocol in &config.protocols {
        if !protocol.name.starts_with('/') || !names.insert(protocol.name) {
            return Err(StartError::BadProtocol(protocol.name));
        }
    }
    Ok(())
}
