//! The one task that owns the swarm.
//!
//! It turns commands into dials and requests, and what the swarm reports into answers and events.
//! It moves state between bounded channels and nothing else: it never waits for its owner, for a
//! peer or for the disk, and it never redials. A connection whose peer leaves two pings in a row
//! unanswered is closed, since TCP alone would keep it for many minutes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, ping};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::address::strip_peer;
use crate::config::Config;
use crate::dials::{ConnectReply, Dials};
use crate::error::{ConnectError, StartError, chain};
use crate::handler::MAX_NEGOTIATING;
use crate::outbox::{Event, Outbox};
use crate::streams::{self, OpenReply};
use crate::watchdog::{Figures, PERIOD, Watchdog};
use crate::{limits, transport};

/// How often a peer is pinged, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Pings in a row without an answer that mean that the peer is gone.
const MAX_MISSED_PINGS: u32 = 2;

/// How long closing all connections may take when the network stops.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(4);

/// Beats of the watchdog between two rounds of housekeeping.
const BEATS_PER_ROUND: u32 = 10;

/// What a handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Connect { peer: PeerId, addresses: Vec<Multiaddr>, reply: ConnectReply },
    Open { peer: PeerId, protocol: &'static str, avoid: Option<ConnectionId>, reply: OpenReply },
    Disconnect { peer: PeerId, reply: oneshot::Sender<()> },
    ListenAddrs { reply: oneshot::Sender<Vec<Multiaddr>> },
    SetTrusted { peers: HashSet<PeerId> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// Everything that runs on a connection. Limits come first: what they deny, nobody else sees.
#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: limits::Behaviour,
    streams: streams::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The task's state.
pub(crate) struct Task {
    swarm: Swarm<Behaviour>,
    dials: Dials,
    outbox: Outbox,
    /// For waiting until there is room again.
    events: mpsc::Sender<Event>,
    /// Who waits for a peer's connections to close.
    closing: BTreeMap<PeerId, Vec<oneshot::Sender<()>>>,
    missed_pings: HashMap<ConnectionId, u32>,
    watchdog: Arc<Watchdog>,
    /// What only this task counts; the rest is taken from where it is counted, at each beat.
    figures: Figures,
}

impl Task {
    /// Sets up the swarm and its listeners.
    pub(crate) fn new(
        config: Config,
        keypair: &Keypair,
        events: mpsc::Sender<Event>,
        watchdog: Arc<Watchdog>,
    ) -> Result<Self, StartError> {
        let transport =
            transport::build(keypair, config.limits.max_streams_per_connection).map_err(StartError::Transport)?;
        let idle_timeout = config.limits.idle_timeout;
        let identify = identify::Config::new(config.identify_protocol, keypair.public())
            .with_agent_version(config.agent)
            // What peers say about addresses is never dialed, so it is not kept either.
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_INTERVAL);
        let behaviour = Behaviour {
            limits: limits::Behaviour::new(config.limits),
            streams: streams::Behaviour::new(config.protocols),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
        };
        let settings = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(idle_timeout)
            .with_max_negotiating_inbound_streams(MAX_NEGOTIATING);
        let peer = keypair.public().to_peer_id();
        let mut swarm = Swarm::new(transport, behaviour, peer, settings);
        for address in config.listen {
            swarm.listen_on(address.clone()).map_err(|error| StartError::Listen { address, reason: chain(&error) })?;
        }
        Ok(Self {
            swarm,
            dials: Dials::default(),
            outbox: Outbox::new(events.clone()),
            events,
            closing: BTreeMap::new(),
            missed_pings: HashMap::new(),
            watchdog,
            figures: Figures::default(),
        })
    }

    /// Runs until told to stop, or until the last handle is gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let events = self.events.clone();
        let mut ticks = tokio::time::interval(PERIOD);
        // A late beat tells how late; a burst of them would tell nothing more.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0_u32;
        let stopped = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                due = ticks.tick() => {
                    self.watchdog.beat(due.into_std(), self.figures());
                    beats = (beats + 1) % BEATS_PER_ROUND;
                    if beats == 0 {
                        self.swarm.behaviour_mut().streams.sweep();
                        self.swarm.behaviour_mut().limits.look_at_memory();
                    }
                }
                // Room, or nobody to tell.
                room = events.reserve(), if self.outbox.is_waiting() => {
                    drop(room);
                    self.outbox.flush();
                }
            }
        };
        drop(commands);
        self.close_all().await;
        drop(self);
        if let Some(reply) = stopped {
            let _ = reply.send(());
        }
    }

    fn figures(&self) -> Figures {
        let (trusted, strangers, handshakes) = self.swarm.behaviour().limits.counts();
        Figures { trusted, strangers, handshakes, refused_streams: self.outbox.refused(), ..self.figures }
    }

    /// Closes every connection, as gracefully as the deadline allows.
    async fn close_all(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it is not connected any more.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let mut deadline = pin!(tokio::time::sleep(SHUTDOWN_DEADLINE));
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                event = self.swarm.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                        let _ = self.swarm.disconnect_peer_id(peer_id);
                    }
                    event @ SwarmEvent::ConnectionClosed { .. } => self.on_swarm_event(event),
                    _ => {}
                },
                () = &mut deadline => {
                    tracing::warn!("connections did not close in time and are dropped");
                    return;
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addresses, reply } => {
                if self.swarm.behaviour().streams.is_live(&peer) {
                    let _ = reply.send(Ok(()));
                } else if addresses.is_empty() {
                    let _ = reply.send(Err(ConnectError::NoAddress));
                } else {
                    self.dials.want(peer, addresses, reply);
                    self.dial(peer);
                }
            }
            Command::Open { peer, protocol, avoid, reply } => {
                self.swarm.behaviour().streams.open(&peer, protocol, avoid, reply);
            }
            Command::Disconnect { peer, reply } => {
                self.swarm.behaviour_mut().streams.set_closing(&peer, None);
                if self.swarm.disconnect_peer_id(peer).is_ok() {
                    self.closing.entry(peer).or_default().push(reply);
                } else {
                    let _ = reply.send(());
                }
            }
            Command::ListenAddrs { reply } => {
                let _ = reply.send(self.swarm.listeners().cloned().collect());
            }
            Command::SetTrusted { peers } => {
                self.swarm.behaviour_mut().limits.set_trusted(peers);
            }
            // Taken by the loop.
            Command::Shutdown { .. } => {}
        }
    }

    /// Dials a peer whom somebody waits for, unless a dial is under way.
    fn dial(&mut self, peer: PeerId) {
        // Each turn strikes out at least one address.
        while let Some(addresses) = self.dials.next(&peer) {
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(addresses.clone())
                // From the listening port, two nodes that dial each other at once would make one
                // TCP connection with two clients.
                .allocate_new_port()
                .build();
            let id = options.connection_id();
            self.dials.started(&peer, id, addresses);
            match self.swarm.dial(options) {
                Ok(()) => return,
                Err(error) => self.dials.failed(&peer, id, &error),
            }
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(accepted)) => {
                let streams::Accepted { peer, inbound } = accepted;
                self.outbox.inbound(peer, inbound.protocol, inbound.stream);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(_)) => {}
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                if num_established.get() == 1 {
                    let (addr, _) = strip_peer(endpoint.get_remote_address().clone());
                    self.outbox.connected(peer_id, addr);
                }
                self.dials.connected(&peer_id, connection_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, left = num_established, "closed");
                self.missed_pings.remove(&connection_id);
                if num_established == 0 {
                    self.outbox.disconnected(peer_id);
                }
                if !self.swarm.behaviour().streams.is_closing(&peer_id) {
                    for reply in self.closing.remove(&peer_id).unwrap_or_default() {
                        let _ = reply.send(());
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error } => {
                self.figures.failed_dials += 1;
                tracing::debug!(%peer, error = chain(&error), "dial failed");
                self.dials.failed(&peer, connection_id, &error);
                self.dial(peer);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.figures.not_let_in += 1;
                tracing::debug!(from = %send_back_addr, error = chain(&error), "not let in");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::debug!(%address, "listening");
                self.outbox.listening(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.outbox.not_listening(&address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "listener closed");
                addresses.iter().for_each(|address| self.outbox.not_listening(address));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener"),
            _ => {}
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(_) => {
                self.missed_pings.remove(&event.connection);
            }
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                let missed = self.missed_pings.entry(event.connection).or_default();
                *missed += 1;
                tracing::debug!(peer = %event.peer, %error, missed, "ping unanswered");
                if *missed >= MAX_MISSED_PINGS {
                    self.missed_pings.remove(&event.connection);
                    let streams = &mut self.swarm.behaviour_mut().streams;
                    streams.set_closing(&event.peer, Some(event.connection));
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }
}
