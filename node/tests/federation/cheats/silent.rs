//! Sins that are silence: nobody is convicted. The node is suspected or lapsed, publicly, the mail of others goes on,
//! and when it answers it is cleared.

use std::time::Instant;

use serde_json::Value;

use crate::deputies::deputise;
use crate::net::{Net, PATIENCE, run};

const CHEAT: usize = 2;

fn start(nodes: usize, sin: &str) -> Net {
    let short = ["--param", "heartbeat_ms=200", "--param", "challenge_ms=2000", "--param", "lapse_ms=4000"];
    Net::start_args(nodes, &[["--cheat", &format!("{CHEAT}={sin}")].as_slice(), &short].concat())
}

/// Waits until the federation suspects the cheat for `reason`, or does not any more.
fn suspected(net: &Net, reason: &str, is_so: bool) {
    let peer = net.peer_id(CHEAT);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ran = run(&["status", "--node", &net.addr(1)]);
        let found = ran.lines.iter().flat_map(|line| line["suspicions"].as_array().cloned().unwrap_or_default());
        let found: Vec<Value> = found.collect();
        if found.iter().any(|suspicion| suspicion["peer_id"] == peer && suspicion["reason"] == reason) == is_so {
            return;
        }
        assert!(Instant::now() < deadline, "suspected of {reason}: not {is_so}: {ran:?}");
    }
}

/// Nobody is convicted, and the mail of others went on.
fn is_harmless(net: &Net) {
    let [carol, dave] = [("carol", 3), ("dave", 4)].map(|(name, node)| net.mailbox(name, node));
    assert_eq!(carol.send(&[&dave], &["--wait", "delivered", "as ever"], &[]).code, 0);
    for node in [1, 3, 4] {
        let ran = run(&["evidence", "list", "--node", &net.addr(node)]);
        assert_eq!((ran.code, ran.lines.iter().filter(|line| line["type"] == "evidence").count()), (0, 0), "{ran:?}");
    }
}

#[test]
fn a_home_that_attests_nothing_lapses() {
    let net = start(4, "mute-attestations");
    suspected(&net, "lapsed", true);
    is_harmless(&net);
}

#[test]
fn a_node_that_signs_no_receipts_is_suspected_of_what_it_does_not_take() {
    let net = start(4, "mute-receipts");
    let [bob, carol] = [("bob", CHEAT), ("carol", 3)].map(|(name, node)| net.mailbox(name, node));
    assert_eq!(carol.send(&[&bob], &["into silence"], &[]).code, 0);
    suspected(&net, "unfilled", true);
    is_harmless(&net);
}

/// The other holder is dead, and under the same suspicion though it is honest; when it answers, both are cleared.
#[test]
fn a_custodian_that_hands_nothing_out_is_suspected_until_the_slice_is_there() {
    let mut net = start(5, "withhold");
    let [carol, dave] = [("carol", 3), ("dave", 4)].map(|(name, node)| net.mailbox(name, node));
    deputise(&mut net, 4, &[CHEAT, 5]);
    assert_eq!(carol.send(&[&dave], &["--wait", "delivered", "before"], &[]).code, 0);
    net.kill(4);
    assert_eq!(carol.send(&[&dave], &["withheld"], &[]).code, 0);
    [3, 5].iter().for_each(|node| net.kill(*node));
    net.revive(4);
    suspected(&net, "unanswered", true);
    net.revive(5);
    let texts: Vec<Value> = dave.recv_until(&[], 2).into_iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["before", "withheld"]);
    suspected(&net, "unanswered", false);
    net.revive(3);
    is_harmless(&net);
}
