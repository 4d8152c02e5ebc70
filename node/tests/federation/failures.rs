//! Dead nodes: who waits, who does not, and what comes back.

use std::time::Instant;

use crate::net::Net;

#[test]
fn a_dead_node_delays_only_its_own_mailboxes() {
    let mut net = Net::start(4);
    let sender = net.mailbox("sender", 1);
    let (alive, dead) = (net.mailbox("alive", 2), net.mailbox("dead", 3));
    net.kill(3);
    assert_eq!(sender.send(&[&alive, &dead], &["the first finds it dead"], &[]).code, 0);
    // Now it is known to be away.
    let mut took_ms = Vec::new();
    for number in 0..100 {
        let began = Instant::now();
        let sent = sender.send(&[&alive, &dead], &[&format!("{number}")], &[]);
        took_ms.push(began.elapsed().as_millis());
        assert_eq!((sent.code, &sent.lines[0]["state"]), (0, &"ordered".into()), "{}", sent.error);
    }
    took_ms.sort_unstable();
    let (p50_ms, p99_ms) = (took_ms[49], took_ms[98]);
    println!("with a destination away, ordered after {p50_ms} ms (p50), {p99_ms} ms (p99), process start included");
    assert!(p99_ms < 1_000, "{took_ms:?}");
    let live = alive.recv_all(101);

    net.revive(3);
    let late = dead.recv_until(&[], 101);
    assert!(late.iter().all(|message| message["late"] == true && message["verified"] == true));
    let places = |messages: &[serde_json::Value]| -> Vec<_> {
        messages.iter().map(|message| (message["seq"].clone(), message["text"].clone())).collect()
    };
    assert_eq!(places(&late), places(&live), "true places, in order");
}

#[test]
fn without_the_sequencer_mail_is_accepted_and_ordered_when_it_returns() {
    let mut net = Net::start(4);
    let (sender, recipient) = (net.mailbox("sender", 2), net.mailbox("recipient", 3));
    net.kill(1);
    let sent = sender.send(&[&recipient], &["--wait", "accepted"], b"one\ntwo\nthree\n");
    assert_eq!(sent.code, 0, "{}", sent.error);
    assert!(sent.lines.iter().all(|line| line["state"] == "accepted"));
    let waits = sender.send(&[&recipient], &["--timeout-ms", "1500", "four"], &[]);
    assert_eq!(waits.code, 4, "nothing is ordered: {waits:?}");
    assert_eq!(recipient.recv(&[]).lines.iter().filter(|line| line["type"] == "message").count(), 0);
    net.revive(1);
    let messages = recipient.recv_all(4);
    let texts: Vec<_> = messages.iter().filter_map(|message| message["text"].as_str()).collect();
    assert_eq!(texts, ["one", "two", "three", "four"]);
}

#[test]
fn the_origin_may_die_once_mail_is_accepted() {
    let mut net = Net::start(4);
    let (sender, recipient) = (net.mailbox("sender", 2), net.mailbox("recipient", 3));
    // Nodes that have just started may not have met yet; what is accepted weakly may die with its origin.
    let is_strong = |text: &str, wait: &str| {
        let sent = sender.send(&[&recipient], &["--wait", wait, text], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
        sent.lines[0]["weak"] == false
    };
    let mut before = 1;
    while !is_strong("before", "ordered") {
        before += 1;
    }
    net.kill(1);
    assert!(is_strong("outlives its origin", "accepted"), "the nodes have met");
    net.kill(2);
    net.revive(1);
    // The sender holds header and receipts, and hands them to the sequencer while it sends through another node.
    let ordered = sender.send(&[&recipient], &["--via", &net.addr(4), "another"], &[]);
    assert_eq!(ordered.code, 0, "{}", ordered.error);
    let messages = recipient.recv_until(&[], before + 2);
    assert!(messages.iter().any(|message| message["text"] == "outlives its origin"), "{messages:?}");
}
