//! Networks on 127.0.0.1 for the tests, and waiting that gives up.

use std::future::Future;
use std::time::Duration;

use postroad_net::{Config, Event, Limits, Multiaddr, Network, PeerId, Protocol, Stream, StreamReader, StreamWriter};
use tokio::sync::mpsc;

pub(crate) const MAIL: &str = "/postroad-test/1/mail";
pub(crate) const CALL: &str = "/postroad-test/1/call";
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// Longer than anything here takes, so that a hang is a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("within a minute")
}

/// Runs one body over both transports.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod tcp { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::Over::Tcp).await }
        )+ }
        mod quic { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::common::Over::Quic).await }
        )+ }
    };
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    Tcp,
    Quic,
}

impl Over {
    pub(crate) fn any_port(self) -> Multiaddr {
        let text = match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        text.parse().expect("an address")
    }
}

pub(crate) struct Node {
    pub(crate) net: Network,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) peer: PeerId,
    pub(crate) addr: Multiaddr,
}

pub(crate) fn config(over: Over, seed: u8) -> Config {
    Config {
        secret: [seed; 32],
        listen: vec![over.any_port()],
        protocols: vec![
            Protocol { name: MAIL, max_inbound_per_peer: 2 },
            Protocol { name: CALL, max_inbound_per_peer: 64 },
        ],
        agent: "postroad-test".to_owned(),
        identify_protocol: "/postroad-test/1".to_owned(),
        limits: Limits::default(),
    }
}

pub(crate) async fn node(over: Over, seed: u8) -> Node {
    start(config(over, seed)).await
}

pub(crate) async fn start(config: Config) -> Node {
    let (net, mut events) = Network::start(config).expect("starts");
    let Some(Event::Listening { addr }) = soon(events.recv()).await else {
        panic!("the first event is where it listens");
    };
    let peer = net.local_peer_id();
    Node { net, events, peer, addr }
}

impl Node {
    pub(crate) async fn connect(&self, to: &Node) {
        self.net.connect(to.peer, vec![to.addr.clone()], LONG).await.expect("connects");
    }

    pub(crate) async fn open(&self, to: &Node, protocol: &'static str) -> Stream {
        self.net.open(to.peer, protocol, LONG).await.expect("opens")
    }

    pub(crate) async fn framed(&self, to: &Node, protocol: &'static str) -> (StreamReader, StreamWriter) {
        self.open(to, protocol).await.framed()
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.expect("the network runs")
    }

    /// The next inbound stream, whatever else happens before.
    pub(crate) async fn inbound(&mut self) -> (PeerId, &'static str, Stream) {
        loop {
            if let Event::Inbound { peer, protocol, stream } = self.event().await {
                return (peer, protocol, stream);
            }
        }
    }

    pub(crate) async fn connected(&mut self) -> PeerId {
        loop {
            if let Event::Connected { peer, .. } = self.event().await {
                return peer;
            }
        }
    }

    pub(crate) async fn disconnected(&mut self) -> PeerId {
        loop {
            if let Event::Disconnected { peer } = self.event().await {
                return peer;
            }
        }
    }

    /// From now on, every inbound stream gets its messages back, until the network stops.
    pub(crate) fn echo(self) -> Network {
        let net = self.net.clone();
        tokio::spawn(async move {
            // The whole node, for without a handle its network stops.
            let mut node = self;
            while let Some(event) = node.events.recv().await {
                if let Event::Inbound { stream, .. } = event {
                    tokio::spawn(echo(stream));
                }
            }
        });
        net
    }
}

pub(crate) async fn echo(stream: Stream) {
    let (mut reader, mut writer) = stream.framed();
    while let Ok(Some(message)) = reader.read(MAX_MESSAGE).await {
        if writer.send(&message).await.is_err() {
            return;
        }
    }
    let _ = writer.close().await;
}

pub(crate) async fn round_trip(reader: &mut StreamReader, writer: &mut StreamWriter, message: &[u8]) {
    soon(writer.send(message)).await.expect("sends");
    let back = soon(reader.read(MAX_MESSAGE)).await.expect("reads").expect("an answer");
    assert!(back == message, "the answer is the message");
}
