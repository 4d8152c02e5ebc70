//! The attackers: raw sockets, and the network crate in wrong hands.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::stream::{FuturesUnordered, StreamExt};
use postroad_client::NodeAddr;
use postroad_net::{Config, Limits, Network, PeerId, Stream, split_address};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::codec::encode;
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::wire::call::Question;
use postroad_protocol::wire::client::FromClient;
use postroad_protocol::wire::{CALL, CLIENT, MAIL, ORDER};
use postroad_protocol::{Federation, SecretKey, Signature, Signed};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::net::PATIENCE;

/// A peer with this key, which opens as many streams as it likes.
pub(crate) fn peer(key: &SecretKey) -> Network {
    let config = Config {
        secret: key.seed(),
        listen: Vec::new(),
        protocols: Vec::new(),
        agent: "stranger".into(),
        identify_protocol: "/postroad/1".into(),
        limits: Limits { max_streams_per_connection: 20_000, ..Limits::default() },
    };
    Network::start(config).expect("a network").0
}

/// A key that nobody knows.
pub(crate) fn new_key() -> SecretKey {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    SecretKey::from_seed(seed)
}

/// The key of a mailbox's directory.
pub(crate) fn key_in(dir: &Path) -> SecretKey {
    let text = std::fs::read_to_string(dir.join("identity.key")).expect("a mailbox has a key");
    let seed = hex::decode(text.trim()).expect("hex");
    SecretKey::from_seed(seed.try_into().expect("32 bytes"))
}

/// Connects, and tells as whom one has to open streams.
pub(crate) async fn connect(network: &Network, to: &NodeAddr) -> Option<PeerId> {
    let (peer, place) = split_address(&to.to_string()).expect("an address");
    network.connect(peer, vec![place], PATIENCE).await.ok()?;
    Some(peer)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

/// What one byte a second means here.
const SLOWLY: Duration = Duration::from_secs(1);

async fn read_slowly(mut stream: Stream) {
    let mut ticks = tokio::time::interval(SLOWLY);
    let mut byte = [0];
    loop {
        ticks.tick().await;
        if !matches!(stream.read(&mut byte).await, Ok(1)) {
            return;
        }
    }
}

/// Greets, asks for its whole log, sends what gives long answers, and reads a byte a second; asks for all cuts on every
/// call that it may have, and reads those a byte a second; writes a byte a second on others.
pub(crate) async fn slow(key: &SecretKey, to: &NodeAddr, federation: &Federation) -> JoinSet<()> {
    let network = peer(key);
    let node = connect(&network, to).await.expect("a connection");
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let Ok(mut stream) = network.open(node, CLIENT, PATIENCE).await else { continue };
        let hello = framed(&encode(&FromClient::Hello(federation.id())));
        let wishes =
            [FromClient::Subscribe(0), FromClient::Credit(u32::MAX)].map(|wish| framed(&encode(&wish))).concat();
        let _ = stream.write_all(&[hello, wishes].concat()).await;
        let _ = stream.flush().await;
        tasks.spawn(read_slowly(stream));
    }
    for _ in 0..8 {
        let Ok(mut stream) = network.open(node, CALL, PATIENCE).await else { continue };
        let _ = stream.write_all(&framed(&encode(&Question::Cuts(0)))).await;
        let _ = stream.flush().await;
        tasks.spawn(read_slowly(stream));
    }
    for protocol in [CLIENT, CLIENT, CALL, CALL, MAIL, ORDER] {
        let Ok(mut stream) = network.open(node, protocol, PATIENCE).await else { continue };
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(SLOWLY);
            for byte in framed(&[0x82; 4_096]) {
                ticks.tick().await;
                if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
    // The network lives as long as its tasks.
    tasks.spawn(async move {
        let _network = network;
        std::future::pending().await
    });
    tasks
}

/// Opens this many streams and keeps all that it gets.
pub(crate) async fn many_streams(to: &NodeAddr, count: usize) -> (Network, Vec<Stream>) {
    let network = peer(&new_key());
    let node = connect(&network, to).await.expect("a connection");
    let mut streams = Vec::new();
    let mut opening = FuturesUnordered::new();
    for number in 0..count {
        let protocol = [CLIENT, CALL, MAIL, ORDER][number % 4];
        opening.push(network.open(node, protocol, Duration::from_secs(2)));
        if opening.len() >= 64
            && let Some(opened) = opening.next().await
        {
            streams.extend(opened.ok());
        }
        if number % 512 == 511 {
            // Whoever was thrown out comes back.
            connect(&network, to).await;
        }
    }
    while let Some(opened) = opening.next().await {
        streams.extend(opened.ok());
    }
    drop(opening);
    (network, streams)
}

/// A bundle that is lawful but for its signature.
fn badly_signed(key: &SecretKey, to: &NodeAddr, epoch: u64, counter: u64) -> Bundle {
    let sender = key.public();
    let node = postroad_net::key_from_peer_id(&split_address(&to.to_string()).expect("an address").0).expect("a key");
    let recipients = vec![Recipient { mailbox: sender, own: vec![0; 32] }];
    let messages = vec![Message { salt: [7; 16], common: vec![0; 4_096], recipients }];
    let body = BundleBody::new(sender, node.into(), counter, epoch + 1_000, &messages);
    Bundle { signed: Signed { body, signature: Signature([9; 64]) }, messages }
}

/// Sends badly signed bundles as fast as they are taken, from `streams` tasks; comes back whenever it is thrown out.
pub(crate) fn flood(key: &SecretKey, to: &NodeAddr, federation: &Federation, streams: usize) -> JoinSet<()> {
    let network = peer(key);
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let (network, key, to, federation) = (network.clone(), key.clone(), to.clone(), federation.clone());
        tasks.spawn(async move {
            let mut backoff = postroad_net::Backoff::new(Duration::from_millis(50), Duration::from_millis(500), 1);
            let hello = encode(&FromClient::Hello(federation.id()));
            loop {
                if let Some(node) = connect(&network, &to).await
                    && let Ok(stream) = network.open(node, CLIENT, Duration::from_secs(2)).await
                {
                    let (_reader, mut writer) = stream.framed();
                    let mut sent = writer.send(&hello).await;
                    let mut counter = 1;
                    while sent.is_ok() {
                        let bundle = badly_signed(&key, &to, 1, counter);
                        sent = writer.send(&encode(&FromClient::Submit(Box::new(bundle)))).await;
                        counter += 1;
                    }
                }
                tokio::time::sleep(backoff.failed()).await;
            }
        });
    }
    tasks
}

/// Connects from an address of its own on this machine, as another machine would.
pub(crate) async fn raw(port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).expect("all of 127.0.0.0/8 is this machine");
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()
}

/// Connections that stop at once, in the middle of the handshake, or after it.
pub(crate) async fn half_open(to: &NodeAddr, port: u16, count: usize) -> (Vec<TcpStream>, Vec<Network>) {
    let (mut sockets, mut networks) = (Vec::new(), Vec::new());
    for number in 0..count {
        match number % 3 {
            0 => sockets.extend(raw(port).await),
            1 => {
                if let Some(mut socket) = raw(port).await {
                    // Multistream-select as far as the choice of Noise, and the length of a message that never comes.
                    let _ = socket.write_all(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20").await;
                    sockets.push(socket);
                }
            }
            _ => {
                let network = peer(&new_key());
                if connect(&network, to).await.is_some() {
                    networks.push(network);
                }
            }
        }
    }
    (sockets, networks)
}

/// Keeps this many connections that say nothing: whoever is thrown out is back within half a second.
pub(crate) fn silent(port: u16, count: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(500));
            loop {
                ticks.tick().await;
                if let Some(mut socket) = raw(port).await {
                    let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 1_024]).await;
                }
            }
        });
    }
    tasks
}
