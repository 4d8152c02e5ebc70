//! What operators see: metrics that tell the truth, health that says why not, and HTTP that nobody can stall.

mod exposition;
mod http;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use postroad_client::{ClientError, Endpoint, NodeAddr};
use postroad_protocol::record::Registration;
use postroad_protocol::wire::call::Question;
use postroad_protocol::{Digest, SecretKey, Signed};
use serde_json::Value;

use crate::net::{Net, postroad, run, signal, text};
use http::{exchange, get, health, metrics, until};

/// Connections that the node serves at the same time.
const MAX_CONNECTIONS: usize = 32;

#[test]
fn counters_are_exactly_what_was_sent() {
    let net = Net::start(3);
    let [one, two, three] = [1, 2, 3].map(|number| net.http(number));
    let (sender, b) = (net.mailbox("sender", 1), net.mailbox("b", 2));
    let (c, d) = (net.mailbox("c", 3), net.mailbox("d", 3));
    let lines = |count: usize| "a line\n".repeat(count).into_bytes();
    assert_eq!(sender.send(&[&b, &c, &d], &[], &lines(20)).code, 0);
    assert_eq!(sender.send(&[&b], &[], &lines(5)).code, 0);
    // From node 2, through node 3: what counts is who took it.
    assert_eq!(b.send(&[&sender], &["--via", &net.addr(3)], &lines(3)).code, 0);
    b.recv_all(25);
    c.recv_all(20);
    d.recv_all(20);
    sender.recv_all(3);

    let seen = until(
        "what was sent",
        || [metrics(&one), metrics(&two), metrics(&three)],
        |seen| seen.iter().all(|node| node.get("postroad_cut_messages_total") == 28.0),
    );
    let each = |name: &str| seen.each_ref().map(|node| node.get(name));
    for stage in ["taken", "accepted", "ordered"] {
        // A batch that is sealed again is accepted again; nothing else may count twice.
        let again = stage == "accepted" && each("postroad_batches_resealed_total").iter().any(|count| *count > 0.0);
        if !again {
            assert_eq!(each(&format!("postroad_messages_{stage}_total")), [25.0, 0.0, 3.0], "{stage}");
        }
    }
    assert_eq!(each("postroad_messages_delivered_total"), [3.0, 25.0, 40.0]);
    assert_eq!(each("postroad_mailboxes"), [1.0, 1.0, 2.0]);
    assert_eq!(each("postroad_cut_messages_total"), [28.0; 3]);
    assert!(each("postroad_bundles_taken_total") == each("postroad_bundles_ordered_total"), "{seen:?}");
    let [first, second, third] = &seen;
    assert!(first.get("postroad_cuts_signed_total") >= first.get("postroad_cuts_applied_total"));
    assert_eq!((second.get("postroad_cuts_signed_total"), third.get("postroad_cuts_signed_total")), (0.0, 0.0));
    // Whoever took slices signed for them: with receipts, or, where a node was taken for away for a moment and fetched
    // them later, with fills.
    let held = |node: &exposition::Metrics| node.all("postroad_slices_held_total").map(|(_, count)| count).sum::<f64>();
    let signed = second.get("postroad_receipts_signed_total") + second.get("postroad_cut_fills_total");
    assert!(held(second) >= 2.0 && signed >= 2.0, "{} held, {signed} signed for", held(second));
    let verified = first.with("postroad_statements_verified_total", &[("kind", "receipt")]);
    assert!(verified + first.get("postroad_cut_fills_total") >= 2.0, "{verified} receipts verified");
    assert_eq!(first.all("postroad_statements_failed_total").count(), 0);
    // The size of everything that is counted by peer is bounded: the federation, and everybody else.
    let nodes = [1, 2, 3].map(|number| net.peer_id(number));
    for (at, node) in seen.iter().enumerate() {
        let others = nodes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, id)| id.as_str());
        let known: Vec<&str> = others.chain(["stranger", "node"]).collect();
        assert!(node.values("peer").iter().all(|peer| known.contains(peer)), "{:?}", node.values("peer"));
        let moved: f64 = node.all("postroad_peer_read_bytes_total").map(|(_, bytes)| bytes).sum();
        assert!(moved > 1_000.0, "{moved}");
        for alive in ["postroad_process_cpu_seconds_total", "postroad_process_resident_memory_bytes"] {
            assert!(node.get(alive) > 0.0, "{alive}");
        }
        let commits = node.get("postroad_store_commit_seconds_count");
        assert!(commits > 0.0 && commits == node.get("postroad_store_group_messages_count"));
        assert!(node.get("postroad_store_bytes") > 0.0 && node.get("postroad_disk_free_bytes") > 0.0);
    }
    refusals_are_counted_by_reason(&net, &one);
}

/// Three questions without an answer, and a registration with a broken signature.
fn refusals_are_counted_by_reason(net: &Net, http: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let within = Duration::from_secs(20);
    runtime.block_on(async {
        let endpoint = Endpoint::anonymous().expect("an endpoint");
        let node: NodeAddr = net.addr(1).parse().expect("an address");
        let federation = endpoint.genesis(&node).await.expect("a genesis");
        let secret = SecretKey::from_seed([9; 32]);
        for _ in 0..3 {
            let question = Question::Home(secret.public(), Some(1 << 40));
            let answer = endpoint.call(&node, &question, within).await;
            assert!(matches!(answer, Err(ClientError::Refused(_))), "{answer:?}");
        }
        let body = Registration {
            mailbox: secret.public(),
            home: node.node(),
            encryption_key: Digest([7; 32]),
            recovery_key: None,
        };
        let mut signed = Signed::sign(body, &secret, &federation).into_inner();
        signed.signature.0[0] ^= 1;
        let answer = endpoint.call(&node, &Question::Register(signed), within).await;
        assert!(matches!(answer, Err(ClientError::Refused(_))), "{answer:?}");
        endpoint.close().await;
    });
    let seen = metrics(http);
    let refused = |what, reason| seen.with("postroad_refusals_total", &[("what", what), ("reason", reason)]);
    assert_eq!((refused("home", "not-found"), refused("registration", "invalid")), (3.0, 1.0));
    assert_eq!(seen.with("postroad_statements_failed_total", &[("kind", "registration")]), 1.0);
}

#[test]
fn health_says_why_not_and_http_cannot_be_stalled() {
    let mut net = Net::start(3);
    let [one, two, three] = [1, 2, 3].map(|number| net.http(number));
    let is_healthy = |answer: &Option<(u16, Vec<String>)>| answer.as_ref().is_some_and(|(status, _)| *status == 200);
    for http in [&one, &two, &three] {
        until("health", || health(http), is_healthy);
    }
    http_has_bounds(&two, &net.addr(2));

    net.kill(1);
    let why = |reason: &'static str| {
        move |answer: &Option<(u16, Vec<String>)>| {
            let found = answer.as_ref().map(|(status, reasons)| (*status, reasons.iter().any(|other| other == reason)));
            found == Some((503, true))
        }
    };
    until("cuts-stale", || health(&two), why("cuts-stale"));
    let stale = metrics(&two);
    assert!(stale.get("postroad_cut_age_seconds") > 5.0, "five heartbeats of a second are allowed");
    assert_eq!(stale.get("postroad_healthy"), 0.0);
    assert_eq!(stale.with("postroad_peer_connected", &[("peer", &net.peer_id(1))]), 0.0);
    // A node that starts without a sequencer cannot sign yet.
    net.kill(3);
    net.revive(3);
    until("starting", || health(&three), why("starting"));
    assert_eq!(metrics(&three).get("postroad_incarnation"), 0.0);

    net.revive(1);
    for http in [&one, &two, &three] {
        until("health again", || health(http), is_healthy);
    }
    assert_eq!(metrics(&three).get("postroad_incarnation"), 2.0);
    // Whoever reads the log of node 2 learned it too, once.
    let log = std::fs::read_to_string(net.path("net/node-2/log")).expect("a log");
    assert_eq!(log.matches("not healthy reason=\"cuts-stale\"").count(), 1, "{log}");
    assert_eq!(log.matches("no longer the case reason=\"cuts-stale\"").count(), 1, "{log}");
}

#[test]
fn a_log_has_a_line_for_what_matters_and_warns_of_an_open_door() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (node, genesis) = (dir.path().join("node"), dir.path().join("genesis.toml"));
    let (node, genesis) = (text(&node), text(&genesis));
    // Port 0: a free one. The genesis wants an address that others could dial, so it gets one that nobody does.
    let listen = "/ip4/127.0.0.1/tcp/0";
    assert_eq!(run(&["init", "--dir", node, "--name", "alone", "--listen", listen]).code, 0);
    let config = format!("{node}/postroad.toml");
    let announced = std::fs::read_to_string(&config).expect("a configuration");
    let announced = announced.replace("announce = []", "announce = [\"/dns4/post.example/tcp/4170\"]");
    std::fs::write(&config, announced).expect("it can be written");
    assert_eq!(run(&["genesis", "--dir", node, "--out", genesis]).code, 0);
    let mut child = postroad(&["run", "--dir", node, "--set", "log_format=json", "--set", "http.listen=0.0.0.0:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut ready = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ready).expect("a line");
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    let port = ready["http"].as_str().expect("an address").rsplit(':').next().expect("a port").to_owned();
    until("health", || health(&format!("127.0.0.1:{port}")), |answer| answer == &Some((200, Vec::new())));
    signal(child.id(), "TERM");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));

    let log = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let count = |level: &str, message: &str| {
        let same =
            |line: &&Value| line["level"] == level && line["message"].as_str().is_some_and(|m| m.starts_with(message));
        lines.iter().filter(same).count()
    };
    for message in ["starting", "the start is settled", "ready", "asked to stop", "stopped"] {
        assert_eq!(count("INFO", message), 1, "{message}: {log}");
    }
    assert_eq!(count("WARN", "metrics and health can be read from other machines"), 1, "{log}");
    assert!(lines.iter().any(|line| line["peer"] == ready["peer_id"] && line["epoch"].is_u64()), "{log}");
    assert!(lines.len() <= 8, "a line that does not matter: {log}");
}

/// Small requests for two paths, a bounded number of connections, and no patience.
fn http_has_bounds(http: &str, node: &str) {
    let status = |request: &str| exchange(http, request.as_bytes()).map(|(status, _)| status);
    assert_eq!(get(http, "/").map(|(status, _)| status), Some(404));
    assert_eq!(status("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), Some(405));
    assert_eq!(status("nonsense\r\n\r\n"), Some(400));
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    assert!(matches!(status(&long), Some(431) | None));

    // All places are taken by who says nothing; the next one is shut out at once, and the node works on.
    let silent: Vec<TcpStream> =
        (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(http).expect("a connection")).collect();
    until("all places to be taken", || get(http, "/healthz"), Option::is_none);
    assert_eq!(run(&["status", "--node", node]).code, 0);
    // Silence costs them their places.
    until("a place", || get(http, "/healthz"), Option::is_some);
    for mut stream in silent {
        // Closed by the node, with or without a word.
        let mut rest = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        assert!(!matches!(stream.read_to_end(&mut rest), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
}
