//! Slices that nobody hands out: challenged, overdue, and filled after all (rule 9).

use std::time::{Duration, Instant};

use crate::deputies::deputise;
use crate::net::{Net, run};

/// Everybody who could have a slice is dead when its destination returns: strict readers of the destination wait for a
/// challenge to run out, are told, and go on; when a holder returns the mail comes after all.
#[test]
fn a_slice_that_nobody_hands_out_does_not_stop_a_home_for_ever() {
    let mut net = Net::start_with(5, &["challenge_ms=4000"]);
    let (origin, home) = (2, 3);
    let (lost, other) = (net.mailbox("lost", origin), net.mailbox("other", 1));
    let recipient = net.mailbox("recipient", home);
    // So that the sequencer's node holds nothing of it.
    deputise(&mut net, home, &[4, 5]);
    let before = lost.send(&[&recipient], &["before"], &[]);
    assert_eq!(before.code, 0, "{}", before.error);
    net.kill(home);
    let sent = lost.send(&[&recipient], &["is nowhere to be had"], &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    [origin, 4, 5].iter().for_each(|node| net.kill(*node));
    let sent = other.send(&[&recipient], &["goes on"], &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    net.revive(home);

    let deadline = Instant::now() + Duration::from_secs(90);
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &serde_json::Value| line["text"] == "goes on") {
        seen.extend(recipient.recv(&["--strict"]).lines);
        assert!(Instant::now() < deadline, "{seen:?}");
    }
    let overdue = seen.iter().find(|line| line["type"] == "overdue").expect("the client is told");
    let mut holders = overdue["holders"].as_array().expect("a list").clone();
    holders.push(overdue["origin"].clone());
    let suspected = |net: &Net| -> Vec<serde_json::Value> {
        let status = run(&["status", "--node", &net.addr(1)]);
        let found = status.lines[0]["suspicions"].as_array().expect("a list").iter();
        found.filter(|found| found["reason"] == "unanswered").map(|found| found["peer_id"].clone()).collect()
    };
    let names = suspected(&net);
    assert!(holders.len() == 3 && holders.iter().all(|holder| names.contains(holder)), "{holders:?} {names:?}");

    [4, 5].iter().for_each(|node| net.revive(*node));
    let late = recipient.recv_until(&["--strict"], 1);
    assert_eq!((&late[0]["text"], &late[0]["late"]), (&"is nowhere to be had".into(), &true.into()));
    assert_eq!(suspected(&net), Vec::<serde_json::Value>::new(), "the fill ends all suspicion");
}
