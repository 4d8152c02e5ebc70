//! Connections over real sockets: dialing, failing, closing, limits.

use std::time::Duration;

use crate::common::{CALL, LONG, Node, Over, config, node, round_trip, soon, start};
use postroad_net::{ConnectError, Event, Multiaddr, Network, OpenError, StartError, join_address};

over_both!(
    connects_and_tells_both,
    a_silent_address_is_not_reached,
    the_wrong_peer_is_named,
    a_stale_address_does_not_hide_the_right_one,
    disconnecting_is_seen_by_both,
    a_restarted_peer_is_reached_again,
    simultaneous_dials_both_succeed,
    calls_at_once_share_a_dial,
    only_a_connection_without_streams_idles_out,
    strangers_over_the_limit_are_kept_out,
    a_dial_given_up_holds_up_nobody,
    stopping_ends_everything,
);

async fn connects_and_tells_both(over: Over) {
    let (mut a, mut b) = (node(over, 1).await, node(over, 2).await);
    assert_eq!(b.net.listen_addrs().await, vec![b.addr.clone()]);
    a.connect(&b).await;
    let Event::Connected { peer, addr } = a.event().await else { panic!("connected first") };
    assert_eq!((peer, addr), (b.peer, b.addr.clone()));
    assert_eq!(b.connected().await, a.peer);
    // Again is at once, also with no address.
    a.net.connect(b.peer, Vec::new(), LONG).await.expect("is connected");
    assert!(a.net.lag() < Duration::from_secs(10));
}

fn dead_address(over: Over) -> Multiaddr {
    // Bound and released, so nobody listens there.
    let address: Multiaddr = match over {
        Over::Tcp => {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
            let port = socket.local_addr().expect("bound").port();
            format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address")
        }
        Over::Quic => {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
            let port = socket.local_addr().expect("bound").port();
            format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("an address")
        }
    };
    address
}

async fn a_silent_address_is_not_reached(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    let dead = dead_address(over);
    let error = a.net.connect(b.peer, vec![dead.clone()], LONG).await.expect_err("nobody there");
    let ConnectError::Unreachable { reason } = error else { panic!("{error}") };
    assert!(reason.contains(&dead.to_string()), "{reason}");

    assert_eq!(a.net.open(b.peer, CALL, LONG).await.expect_err("none"), OpenError::NotConnected);
    let error = a.net.connect(b.peer, Vec::new(), LONG).await.expect_err("nowhere");
    assert_eq!(error, ConnectError::NoAddress);
    let error = a.net.connect(a.peer, vec![dead.clone()], LONG).await.expect_err("itself");
    assert_eq!(error, ConnectError::Myself);

    // One good address among dead ones is enough.
    a.net.connect(b.peer, vec![dead, b.addr.clone()], LONG).await.expect("one is good");
}

async fn the_wrong_peer_is_named(over: Over) {
    let (a, b, c) = (node(over, 1).await, node(over, 2).await, node(over, 3).await);
    let error = a.net.connect(b.peer, vec![c.addr.clone()], LONG).await.expect_err("c is not b");
    assert_eq!(error, ConnectError::WrongPeer { address: c.addr.clone(), obtained: c.peer });
    let named = join_address(c.peer, &c.addr);
    let error = a.net.connect(b.peer, vec![named.clone()], LONG).await.expect_err("says so");
    assert_eq!(error, ConnectError::BadAddress(named));
    a.net.connect(b.peer, vec![join_address(b.peer, &b.addr)], LONG).await.expect("named b");
}

async fn a_stale_address_does_not_hide_the_right_one(over: Over) {
    let (a, b, c) = (node(over, 1).await, node(over, 2).await, node(over, 3).await);
    let addresses = vec![c.addr.clone(), dead_address(over), b.addr.clone()];
    a.net.connect(b.peer, addresses, LONG).await.expect("the last address is right");
}

async fn disconnecting_is_seen_by_both(over: Over) {
    let (mut a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    assert_eq!(b.connected().await, a.peer);
    soon(a.net.disconnect(b.peer)).await;
    let error = a.net.open(b.peer, CALL, LONG).await.expect_err("closed");
    assert_eq!(error, OpenError::NotConnected);
    assert_eq!(a.disconnected().await, b.peer);
    assert_eq!(b.disconnected().await, a.peer);
    // Nothing to close is nothing to wait for.
    soon(a.net.disconnect(b.peer)).await;
    a.connect(&b).await;
    assert_eq!(a.connected().await, b.peer);
    assert_eq!(b.connected().await, a.peer);
}

async fn a_restarted_peer_is_reached_again(over: Over) {
    let mut a = node(over, 1).await;
    for _ in 0..3 {
        let b = node(over, 2).await;
        a.connect(&b).await;
        assert_eq!(a.connected().await, b.peer);
        let (mut reader, mut writer) = a.framed(&b, CALL).await;
        let (peer, net) = (b.peer, b.echo());
        round_trip(&mut reader, &mut writer, b"here").await;
        soon(net.shutdown()).await;
        assert!(!matches!(soon(reader.read(100)).await, Ok(Some(_))));
        assert_eq!(a.disconnected().await, peer);
    }
}

async fn simultaneous_dials_both_succeed(over: Over) {
    for round in 0..20 {
        let (a, b) = (node(over, 1).await, node(over, 2).await);
        tokio::join!(a.connect(&b), b.connect(&a));
        let (a_peer, b_peer) = (a.peer, b.peer);
        let (a, b) = (a.echo(), b.echo());
        for (from, to) in [(&a, b_peer), (&b, a_peer)] {
            let stream = from.open(to, CALL, LONG).await;
            let (mut reader, mut writer) = stream.expect("opens").framed();
            round_trip(&mut reader, &mut writer, format!("round {round}").as_bytes()).await;
        }
    }
}

async fn calls_at_once_share_a_dial(over: Over) {
    let (a, mut b) = (node(over, 1).await, node(over, 2).await);
    let dead = dead_address(over);
    let calls = (0..40).map(|i| {
        // Half of them know no good address, and one good address serves those who named it.
        let mut addresses = vec![dead.clone()];
        if i % 2 == 0 {
            addresses.push(b.addr.clone());
        }
        a.net.connect(b.peer, addresses, LONG)
    });
    let results = soon(futures::future::join_all(calls)).await;
    assert!(results.iter().step_by(2).all(Result::is_ok), "{results:?}");
    assert_eq!(b.connected().await, a.peer);
    let stopped = a.net.clone();
    soon(a.net.shutdown()).await;
    assert_eq!(b.disconnected().await, a.peer);
    let error = stopped.connect(b.peer, vec![b.addr.clone()], LONG).await.expect_err("stopped");
    assert_eq!(error, ConnectError::Stopped);
}

async fn a_dial_given_up_holds_up_nobody(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = silent.local_addr().expect("bound").port();
    let hole: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
    let short = Duration::from_millis(20);
    let error = a.net.connect(b.peer, vec![hole], short).await.expect_err("silent");
    assert_eq!(error, ConnectError::TimedOut(short));
    // Less than the silent dial takes.
    let less = Duration::from_secs(5);
    a.net.connect(b.peer, vec![b.addr.clone()], less).await.expect("connects");
}

async fn only_a_connection_without_streams_idles_out(over: Over) {
    let mut short = config(over, 2);
    short.limits.idle_timeout = Duration::from_millis(300);
    let (a, mut c, mut b) = (node(over, 1).await, node(over, 3).await, start(short).await);
    a.connect(&b).await;
    let (mut reader, mut writer) = a.framed(&b, CALL).await;
    let (_, _, held) = b.inbound().await;
    tokio::spawn(crate::common::echo(held));
    for _ in 0..3 {
        c.connect(&b).await;
        assert_eq!(b.connected().await, c.peer);
        assert_eq!(b.disconnected().await, c.peer, "the one without streams");
        // Until it knows, c takes itself for connected.
        assert_eq!(c.disconnected().await, b.peer);
    }
    round_trip(&mut reader, &mut writer, b"still here").await;
}

async fn strangers_over_the_limit_are_kept_out(over: Over) {
    let mut tight = config(over, 2);
    tight.limits.max_established = 1;
    let (a, mut c, mut b) = (node(over, 1).await, node(over, 3).await, start(tight).await);
    a.connect(&b).await;
    assert_eq!(b.connected().await, a.peer);
    // Whether c sees the refusal as a failed dial or as a connection that closes depends on who is
    // faster; it never has a stream.
    if c.net.connect(b.peer, vec![b.addr.clone()], LONG).await.is_ok() {
        assert_eq!(c.disconnected().await, b.peer);
    }
    b.net.set_trusted([c.peer]).await;
    c.connect(&b).await;
    assert_eq!(b.connected().await, c.peer, "the refused connection was never told");
    let (mut reader, mut writer) = c.framed(&b, CALL).await;
    b.echo();
    round_trip(&mut reader, &mut writer, b"trusted").await;
}

async fn stopping_ends_everything(over: Over) {
    let (a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    assert_eq!(b.connected().await, a.peer);
    let Node { net, mut events, addr, .. } = a;
    let other = net.clone();
    soon(net.shutdown()).await;
    while soon(events.recv()).await.is_some() {}
    assert_eq!(other.open(b.peer, CALL, LONG).await.expect_err("stopped"), OpenError::Stopped);
    assert!(other.listen_addrs().await.is_empty());
    soon(other.disconnect(b.peer)).await;
    soon(other.shutdown()).await;
    // A TCP port is free again at once; a QUIC socket drains its connections first.
    if let Over::Tcp = over {
        let mut again = config(over, 1);
        again.listen = vec![addr.clone()];
        assert_eq!(start(again).await.addr, addr);
    }
}

#[test]
fn starting_outside_a_runtime_is_refused() {
    let error = Network::start(config(Over::Tcp, 1)).expect_err("no runtime");
    assert!(matches!(error, StartError::NoRuntime));
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let mut taken = config(Over::Tcp, 1);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = socket.local_addr().expect("bound").port();
    taken.listen = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address")];
    assert!(matches!(Network::start(taken), Err(StartError::Listen { .. })));

    let mut unsupported = config(Over::Tcp, 1);
    unsupported.listen = vec!["/ip4/127.0.0.1/sctp/9".parse().expect("an address")];
    assert!(matches!(Network::start(unsupported), Err(StartError::Listen { .. })));

    let mut twice = config(Over::Tcp, 1);
    twice.protocols.push(twice.protocols[0].clone());
    assert!(matches!(Network::start(twice), Err(StartError::BadProtocol(_))));

    let mut low = config(Over::Tcp, 1);
    low.limits.max_streams_per_connection = 1;
    assert!(matches!(Network::start(low), Err(StartError::BadLimit(_))));
}
