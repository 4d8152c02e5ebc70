//! Reaching a node: an address that names it, calls on streams of their own, and the long-lived client stream.
//!
//! A mailbox's owner connects with the mailbox's key, which authenticates it; look-ups use a key that is thrown away.
//! Nothing here redials by itself: whoever holds a connection keeps a [`Backoff`] of at most one second.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use minicbor::{Decode, Encode};
use postroad_net::{Backoff, Config, Limits, Multiaddr, Network, PeerId, StreamReader, StreamWriter};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::wire::call::{Question, Reply, Status};
use postroad_protocol::wire::client::{FromClient, ToClient};
use postroad_protocol::wire::{CALL, CLIENT, MAX_ANSWER_BYTES, MAX_CLIENT_BYTES};
use postroad_protocol::{Digest, Federation, NodeId, SecretKey};
use tokio::time::{Instant, sleep, timeout};

use crate::error::ClientError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a look-up may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A node and where it listens. Its text is a multiaddress that ends in `/p2p/ID`.
///
/// ```
/// use postroad_client::NodeAddr;
///
/// let text = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
/// let addr: NodeAddr = text.parse()?;
/// assert_eq!(addr.to_string(), text);
/// # Ok::<(), postroad_client::ClientError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddr {
    node: NodeId,
    peer: PeerId,
    place: Multiaddr,
}

impl NodeAddr {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// A node that is known by its key, at an address that may or may not end in its id.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`] when the text is no multiaddress, or names another node.
    pub fn new(node: NodeId, addr: &str) -> Result<NodeAddr, ClientError> {
        let full = if addr.contains("/p2p/") { addr.to_owned() } else { format!("{addr}/p2p/{node}") };
        let parsed: NodeAddr = full.parse()?;
        if parsed.node != node {
            return Err(ClientError::BadAddress { text: full, reason: format!("it does not name {node}") });
        }
        Ok(parsed)
    }
}

impl FromStr for NodeAddr {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<NodeAddr, ClientError> {
        let bad = |reason: String| ClientError::BadAddress { text: text.chars().take(300).collect(), reason };
        let (peer, place) = postroad_net::split_address(text).map_err(|error| bad(error.to_string()))?;
        let key = postroad_net::key_from_peer_id(&peer).ok_or_else(|| bad("its id is no ed25519 key".into()))?;
        Ok(NodeAddr { node: postroad_protocol::PublicKey(key), peer, place })
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", postroad_net::join_address(self.peer, &self.place))
    }
}

/// This side of all connections: one libp2p identity.
#[derive(Clone, Debug)]
pub struct Endpoint {
    network: Network,
}

impl Endpoint {
    /// An endpoint with a mailbox's identity.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the transports cannot be set up.
    pub fn with_key(secret: &SecretKey) -> Result<Endpoint, ClientError> {
        Endpoint::start(secret.seed())
    }

    /// An endpoint that nobody knows, for look-ups.
    ///
    /// # Errors
    /// As [`Endpoint::with_key`].
    pub fn anonymous() -> Result<Endpoint, ClientError> {
        let mut seed = [0; 32];
        rand::fill(&mut seed);
        Endpoint::start(seed)
    }

    fn start(secret: [u8; 32]) -> Result<Endpoint, ClientError> {
        let config = Config {
            secret,
            listen: Vec::new(),
            protocols: Vec::new(),
            agent: concat!("postroad-client/", env!("CARGO_PKG_VERSION")).into(),
            identify_protocol: "/postroad/1".into(),
            limits: Limits::default(),
        };
        // A client takes no streams, so nobody listens to its events.
        let (network, _) = Network::start(config)
            .map_err(|error| ClientError::Unreachable { node: "the network".into(), reason: error.to_string() })?;
        Ok(Endpoint { network })
    }

    async fn connect(&self, to: &NodeAddr) -> Result<(), ClientError> {
        let addrs = vec![to.place.clone()];
        self.network.connect(to.peer, addrs, CONNECT_TIMEOUT).await.map_err(|error| unreachable(to, error))
    }

    /// Asks a node one question, on a stream of its own.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the node's honest no, [`ClientError::Unreachable`], [`ClientError::TimedOut`].
    pub async fn call(&self, to: &NodeAddr, question: &Question, within: Duration) -> Result<Reply, ClientError> {
        let exchange = async {
            self.connect(to).await?;
            let stream =
                self.network.open(to.peer, CALL, CONNECT_TIMEOUT).await.map_err(|error| unreachable(to, error))?;
            let (mut reader, mut writer) = stream.framed();
            writer.send(&encode(question)).await.map_err(|error| unreachable(to, error))?;
            let bytes = reader.read(MAX_ANSWER_BYTES).await.map_err(|error| unreachable(to, error))?;
            let bytes = bytes.ok_or_else(|| unreachable(to, "it closed the stream without an answer"))?;
            read_as::<Reply>(to, &bytes)
        };
        match timeout(within, exchange).await {
            Err(_) => Err(ClientError::TimedOut { what: format!("the answer of {to}") }),
            Ok(Ok(Reply::Refused(refusal))) => Err(refusal.into()),
            Ok(reply) => reply,
        }
    }

    /// The federation that a node belongs to; the first contact, which is trusted.
    ///
    /// # Errors
    /// Those of [`Endpoint::call`]; [`ClientError::Genesis`] when the node's genesis cannot be used.
    pub async fn genesis(&self, of: &NodeAddr) -> Result<Federation, ClientError> {
        self.genesis_within(of, Duration::ZERO).await
    }

    /// As [`Endpoint::genesis`], trying again for some time while the node cannot be reached or is not ready.
    ///
    /// # Errors
    /// Those of [`Endpoint::genesis`].
    pub async fn genesis_within(&self, of: &NodeAddr, within: Duration) -> Result<Federation, ClientError> {
        let deadline = Instant::now() + within;
        let mut delays = backoff();
        loop {
            match self.ask_genesis(of).await {
                Err(error) if error.is_transient() => {
                    let delay = delays.failed();
                    if Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    sleep(delay).await;
                }
                answered => return answered,
            }
        }
    }

    async fn ask_genesis(&self, of: &NodeAddr) -> Result<Federation, ClientError> {
        match self.call(of, &Question::Genesis, CALL_TIMEOUT).await? {
            Reply::Genesis(genesis) => Ok(Federation::new(*genesis)?),
            _ => Err(unasked(of)),
        }
    }

    /// What a node knows of itself and of the federation. Nobody has signed it.
    ///
    /// # Errors
    /// Those of [`Endpoint::call`].
    pub async fn status(&self, of: &NodeAddr) -> Result<Status, ClientError> {
        match self.call(of, &Question::Status, CALL_TIMEOUT).await? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unasked(of)),
        }
    }

    /// Opens the client stream and says hello both ways.
    pub(crate) async fn open(&self, to: &NodeAddr, federation: &Federation) -> Result<ClientStream, ClientError> {
        self.connect(to).await?;
        let stream =
            self.network.open(to.peer, CLIENT, CONNECT_TIMEOUT).await.map_err(|error| unreachable(to, error))?;
        let (reader, writer) = stream.framed();
        let mut stream = ClientStream {
            incoming: Incoming { reader, from: to.clone() },
            outgoing: Outgoing { writer, to: to.clone() },
            epoch: 0,
        };
        stream.outgoing.send(&FromClient::Hello(federation.id())).await?;
        let hello = timeout(HELLO_TIMEOUT, stream.incoming.next()).await;
        match hello.map_err(|_| ClientError::TimedOut { what: format!("the greeting of {to}") })?? {
            ToClient::Hello(theirs, epoch) => {
                same_federation(theirs, federation)?;
                stream.epoch = epoch;
                Ok(stream)
            }
            ToClient::Refused(refusal) => Err(refusal.into()),
            _ => Err(unasked(to)),
        }
    }

    /// Closes all connections.
    pub async fn close(self) {
        self.network.shutdown().await;
    }
}

/// Whether a node's federation is the expected one.
pub(crate) fn same_federation(theirs: Digest, ours: &Federation) -> Result<(), ClientError> {
    if theirs == ours.id() { Ok(()) } else { Err(ClientError::WrongFederation { theirs, ours: ours.id() }) }
}

/// The delays of every reconnection: 50 ms at first, a second at most.
pub(crate) fn backoff() -> Backoff {
    let mut seed = [0_u64; 1];
    rand::fill(&mut seed);
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1), seed[0])
}

/// A client stream that has said hello.
pub(crate) struct ClientStream {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    /// The last epoch that the node had applied when it said hello.
    pub(crate) epoch: u64,
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// What the node says.
pub(crate) struct Incoming {
    reader: StreamReader,
    from: NodeAddr,
}

impl Incoming {
    /// The next message. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<ToClient, ClientError> {
        let bytes = self.reader.read(MAX_CLIENT_BYTES).await.map_err(|error| unreachable(&self.from, error))?;
        let bytes = bytes.ok_or_else(|| unreachable(&self.from, "it closed the stream"))?;
        read_as(&self.from, &bytes)
    }
}

/// What is said to the node.
pub(crate) struct Outgoing {
    writer: StreamWriter,
    to: NodeAddr,
}

impl Outgoing {
    /// Says it. Dropped half way, the rest leaves with the next message.
    pub(crate) async fn send(&mut self, message: &FromClient) -> Result<(), ClientError> {
        self.writer.send(&encode(message)).await.map_err(|error| unreachable(&self.to, error))
    }
}

fn unreachable(node: &NodeAddr, error: impl fmt::Display) -> ClientError {
    ClientError::Unreachable { node: node.to_string(), reason: error.to_string() }
}

/// The node answered something else than it was asked.
pub(crate) fn unasked(node: &NodeAddr) -> ClientError {
    ClientError::Misbehaving { node: node.to_string(), reason: "it answers something else than it was asked".into() }
}

fn read_as<T: for<'b> Decode<'b, ()> + Encode<()>>(from: &NodeAddr, bytes: &[u8]) -> Result<T, ClientError> {
    decode(bytes).map_err(|error| ClientError::Misbehaving { node: from.to_string(), reason: error.to_string() })
}
