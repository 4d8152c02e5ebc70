//! Streams over real sockets: volume, quotas, many at once, slow ends.

use crate::common::{CALL, LONG, MAIL, MAX_MESSAGE, Over, config, node, round_trip, soon, start};
use futures::future::join_all;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use postroad_net::{Event, OpenError, Stream};

over_both!(
    ten_thousand_small_messages_each_way,
    one_long_message,
    an_unknown_protocol_is_named,
    over_quota_is_dropped_and_room_comes_back,
    a_quota_outlives_the_connection,
    many_streams_at_once,
    more_streams_than_fit_wait_or_fail_alone,
    a_stalled_reader_stalls_only_itself,
    a_reader_that_takes_nothing_loses_the_stream,
    a_slow_owner_loses_streams_but_no_state,
    an_owner_that_is_gone_refuses_streams,
);

async fn ten_thousand_small_messages_each_way(over: Over) {
    const COUNT: u32 = 10_000;
    let (a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let near = a.open(&b, MAIL).await;
    let (peer, protocol, far) = b.inbound().await;
    assert_eq!((peer, protocol), (a.peer, MAIL));
    let mut tasks = Vec::new();
    for stream in [near, far] {
        let (mut reader, mut writer) = stream.framed();
        tasks.push(tokio::spawn(async move {
            for i in 0..COUNT {
                writer.feed(&i.to_be_bytes()).await.expect("feeds");
            }
            writer.close().await.expect("closes");
        }));
        tasks.push(tokio::spawn(async move {
            for i in 0..COUNT {
                let message = reader.read(4).await.expect("reads").expect("a message");
                assert_eq!(message, i.to_be_bytes());
            }
            assert!(reader.read(4).await.expect("reads").is_none(), "then a clean end");
        }));
    }
    for task in tasks {
        soon(task).await.expect("no panic");
    }
}

async fn one_long_message(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let (mut reader, mut writer) = a.framed(&b, MAIL).await;
    b.echo();
    let message: Vec<u8> = (0..8 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Both directions at once, for the echo answers only after the end.
    soon(writer.send(&message)).await.expect("sends");
    let back = soon(reader.read(MAX_MESSAGE)).await.expect("reads").expect("a message");
    assert!(back == message);
    round_trip(&mut reader, &mut writer, b"").await;
}

async fn a_reader_that_takes_nothing_loses_the_stream(over: Over) {
    let (a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let near = a.open(&b, MAIL).await;
    let (_, _, _far) = b.inbound().await;
    let (_reader, mut writer) = near.framed();
    let began = std::time::Instant::now();
    // Windows fill up first; what is sent after that has half a minute.
    soon(async { while writer.send(&[0; 1 << 20]).await.is_ok() {} }).await;
    assert!(began.elapsed().as_secs() >= 29, "given up after {:?}", began.elapsed());
}

async fn an_unknown_protocol_is_named(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let error = a.net.open(b.peer, "/postroad-test/1/other", LONG).await.expect_err("unknown");
    assert_eq!(error, OpenError::Unsupported("/postroad-test/1/other"));
    // The connection is none the worse.
    let (mut reader, mut writer) = a.framed(&b, CALL).await;
    b.echo();
    round_trip(&mut reader, &mut writer, b"hello").await;
}

/// Whether the far end let this stream go: a reset or an end, as the transport has it.
async fn is_dropped(stream: &mut Stream) -> bool {
    matches!(soon(stream.read(&mut [0; 1])).await, Ok(0) | Err(_))
}

async fn over_quota_is_dropped_and_room_comes_back(over: Over) {
    let (a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let mut near = vec![a.open(&b, MAIL).await, a.open(&b, MAIL).await];
    let mut far = vec![b.inbound().await.2, b.inbound().await.2];
    for _ in 0..10 {
        let mut over_quota = a.open(&b, MAIL).await;
        assert!(is_dropped(&mut over_quota).await);
    }
    // Another protocol has its own quota.
    let _call = a.open(&b, CALL).await;
    assert_eq!(b.inbound().await.1, CALL);
    for _ in 0..10 {
        drop(far.pop());
        near.push(a.open(&b, MAIL).await);
        far.push(b.inbound().await.2);
        let last = far.last_mut().expect("just pushed");
        let stream = near.last_mut().expect("just pushed");
        last.write_all(b"x").await.expect("writes");
        last.flush().await.expect("flushes");
        assert!(!is_dropped(stream).await);
    }
}

async fn a_quota_outlives_the_connection(over: Over) {
    let (mut a, mut b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let near = [a.open(&b, MAIL).await, a.open(&b, MAIL).await];
    let far = [b.inbound().await.2, b.inbound().await.2];
    a.net.disconnect(b.peer).await;
    assert_eq!(a.disconnected().await, b.peer);
    assert_eq!(b.disconnected().await, a.peer);
    a.connect(&b).await;
    let mut third = a.open(&b, MAIL).await;
    assert!(is_dropped(&mut third).await, "b still holds two");
    drop((near, far));
    let _fourth = a.open(&b, MAIL).await;
    assert_eq!(b.inbound().await.0, a.peer);
}

async fn many_streams_at_once(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let (peer, _b) = (b.peer, b.echo());
    for round in 0..50 {
        let calls = (0..20).map(|i| {
            let net = a.net.clone();
            tokio::spawn(async move {
                let stream = net.open(peer, CALL, LONG).await.expect("opens");
                let (mut reader, mut writer) = stream.framed();
                let message = format!("round {round} stream {i}");
                round_trip(&mut reader, &mut writer, message.as_bytes()).await;
                writer.close().await.expect("closes");
                assert!(reader.read(1).await.expect("reads").is_none());
            })
        });
        for result in soon(join_all(calls)).await {
            result.expect("no panic");
        }
    }
}

async fn more_streams_than_fit_wait_or_fail_alone(over: Over) {
    let mut roomy = config(over, 2);
    roomy.protocols[1].max_inbound_per_peer = 1000;
    let (a, b) = (node(over, 1).await, start(roomy).await);
    a.connect(&b).await;
    let (peer, _b) = (b.peer, b.echo());
    let (mut reader, mut writer) = a.net.open(peer, CALL, LONG).await.expect("opens").framed();
    // Three times what a connection carries: some get a stream, the others a typed error.
    let wait = std::time::Duration::from_secs(2);
    let calls = (0..200).map(|_| a.net.open(peer, CALL, wait));
    let mut held = Vec::new();
    for result in soon(join_all(calls)).await {
        match result {
            Ok(stream) => held.push(stream.framed()),
            Err(OpenError::TimedOut(_) | OpenError::Busy) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(held.len() >= 60, "{} streams", held.len());
    for (reader, writer) in &mut held {
        round_trip(reader, writer, b"one of many").await;
    }
    round_trip(&mut reader, &mut writer, b"the first").await;
    drop(held);
    let (mut reader, mut writer) = a.net.open(peer, CALL, LONG).await.expect("opens").framed();
    round_trip(&mut reader, &mut writer, b"afterwards").await;
}

async fn a_stalled_reader_stalls_only_itself(over: Over) {
    const BYTES: usize = 48 << 20;
    let (a, c, mut b) = (node(over, 1).await, node(over, 3).await, node(over, 2).await);
    a.connect(&b).await;
    let mut flood = a.open(&b, MAIL).await;
    let (_, _, mut stalled) = b.inbound().await;
    let flooding = tokio::spawn(async move {
        flood.write_all(&vec![7; BYTES]).await.expect("writes");
        flood.close().await.expect("closes");
    });
    // The flood is under way, and nobody takes it.
    let mut first = [0; 1];
    soon(stalled.read_exact(&mut first)).await.expect("reads");
    c.connect(&b).await;
    let (mut reader, mut writer) = c.framed(&b, CALL).await;
    let (mut same_reader, mut same_writer) = a.framed(&b, CALL).await;
    b.echo();
    for i in 0..500_u32 {
        round_trip(&mut reader, &mut writer, &i.to_be_bytes()).await;
        round_trip(&mut same_reader, &mut same_writer, &i.to_be_bytes()).await;
    }
    assert!(!flooding.is_finished(), "the flood waits for its reader");
    let mut rest = Vec::new();
    soon(stalled.read_to_end(&mut rest)).await.expect("reads");
    assert_eq!(rest.len(), BYTES - 1);
    soon(flooding).await.expect("no panic");
}

async fn a_slow_owner_loses_streams_but_no_state(over: Over) {
    let mut narrow = config(over, 9);
    narrow.limits.max_waiting_events = 1;
    let mut b = start(narrow).await;
    let mut others = Vec::new();
    for seed in 1..6 {
        let other = node(over, seed).await;
        other.connect(&b).await;
        others.push(other);
    }
    // One event waits, for one peer; the other four have no way in.
    for other in &others {
        let mut stream = other.open(&b, CALL).await;
        assert!(is_dropped(&mut stream).await);
    }
    let gone = others.pop().expect("five");
    soon(gone.net.clone().shutdown()).await;
    let mut told = std::collections::BTreeSet::new();
    while others.iter().any(|other| !told.contains(&other.peer)) {
        match b.event().await {
            Event::Connected { peer, .. } => assert!(told.insert(peer), "told once"),
            Event::Disconnected { peer } => {
                assert!(told.remove(&peer) && peer == gone.peer);
            }
            other => panic!("{other:?}"),
        }
    }
    // With room again, streams come in again; the end of the one that left may still be in the way.
    loop {
        let mut stream = others[0].open(&b, CALL).await;
        tokio::select! {
            (peer, ..) = b.inbound() => break assert_eq!(peer, others[0].peer),
            dropped = is_dropped(&mut stream) => assert!(dropped),
        }
    }
}

async fn an_owner_that_is_gone_refuses_streams(over: Over) {
    let (a, b) = (node(over, 1).await, node(over, 2).await);
    a.connect(&b).await;
    let crate::common::Node { net: b_net, events, peer, .. } = b;
    drop(events);
    let mut stream = a.net.open(peer, CALL, LONG).await.expect("opens");
    assert!(is_dropped(&mut stream).await);
    // Its own streams are as good as ever.
    let (a_peer, _a) = (a.peer, a.echo());
    let (mut reader, mut writer) = b_net.open(a_peer, CALL, LONG).await.expect("opens").framed();
    round_trip(&mut reader, &mut writer, b"outbound").await;
}
