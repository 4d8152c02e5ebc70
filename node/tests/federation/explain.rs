//! The way of a message, told by whoever is there: with its home killed, and while it waits in custody.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::net::{Mailbox, Net, PATIENCE, Ran, run, text};

/// What `explain` says of a message to `mailbox`.
fn explain(mailbox: &str, seq: &str, args: &[&str]) -> Ran {
    let ran = run(&[&["explain", "--mailbox", mailbox, "--seq", seq], args].concat());
    assert_eq!(ran.code, 0, "{}", ran.error);
    ran
}

/// The conclusion's line, which is the last one.
fn told(ran: &Ran) -> &Value {
    let last = ran.lines.last().expect("it says something");
    assert_eq!(last["type"], "explained");
    last
}

/// The state of each hop, in order.
fn hops(ran: &Ran) -> Vec<(&str, &str)> {
    let hops = ran.lines.iter().filter(|line| line["type"] == "hop");
    hops.map(|hop| (hop["hop"].as_str().expect("a hop"), hop["state"].as_str().expect("a state"))).collect()
}

/// What `verify` says of a file, without any node.
fn verified(file: &Path, genesis: &str) -> Ran {
    run(&["verify", text(file), "--genesis", genesis])
}

fn seq_of(sender: &Mailbox, to: &Mailbox, args: &[&str]) -> String {
    let sent = sender.send(&[to], args, &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    sent.lines[0]["seq"].as_str().expect("a number").to_owned()
}

#[test]
fn strangers_explain_a_message_whose_home_is_gone() {
    let net = Net::start(4);
    let (sender, recipient) = (net.mailbox("sender", 3), net.mailbox("recipient", 2));
    let seq = seq_of(&sender, &recipient, &["--wait", "delivered", "good day"]);
    let kept = net.path("kept.explanation");
    let stranger = net.addr(4);
    let whole =
        explain(&recipient.address, &seq, &["--as", text(&sender.dir), "--node", &stranger, "--out", text(&kept)]);
    assert_eq!(told(&whole)["conclusion"], "delivered");
    let way = ["sender", "origin", "sequencer", "destination", "home"];
    assert_eq!(hops(&whole), way.map(|hop| (hop, "ok")));

    let deadline = Instant::now() + PATIENCE;
    let has_final = |ran: &Ran| ran.lines.iter().any(|line| line["type"] == "settled" && line["final"] == true);
    while !has_final(&recipient.recv(&[])) {
        assert!(Instant::now() < deadline, "its home's word becomes final");
    }

    net.kill(2);
    let alone = explain(&recipient.address, &seq, &["--node", &stranger]);
    let open = told(&alone);
    assert_eq!((&open["conclusion"], &open["culprit"]), (&"open".into(), &Value::Null), "silence convicts nobody");
    let asked: Vec<&Value> = open["missing"].as_array().expect("a list").iter().map(|it| &it["nodes"]).collect();
    assert!(asked.iter().any(|nodes| nodes[0] == net.peer_id(2).as_str()), "{open}");
    let shown =
        [("sender", "missing"), ("origin", "ok"), ("sequencer", "ok"), ("destination", "ok"), ("home", "missing")];
    assert_eq!(hops(&alone), shown, "what every node has, and the home's receipt");
    let with = explain(&recipient.address, &seq, &["--node", &stranger, "--with", text(&kept)]);
    assert_eq!(told(&with)["conclusion"], "delivered");

    let own = explain(text(&recipient.dir), &seq, &["--node", &stranger]);
    assert_eq!(told(&own)["conclusion"], "delivered", "the recipient has kept its home's word");
    assert_eq!(hops(&own), hops(&whole));

    let offline = verified(&kept, &net.genesis());
    assert_eq!((offline.code, told(&offline)), (0, told(&whole)));
    assert_eq!(hops(&offline), hops(&whole));
    let mut bytes = std::fs::read(&kept).expect("it was kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let forged = net.path("forged.explanation");
    std::fs::write(&forged, bytes).expect("it can be written");
    assert_eq!(verified(&forged, &net.genesis()).code, 3);
}

#[test]
fn what_waits_in_custody_is_pending_and_late_once_its_home_is_back() {
    let mut net = Net::start(4);
    let (sender, recipient) = (net.mailbox("sender", 3), net.mailbox("recipient", 2));
    seq_of(&sender, &recipient, &["--wait", "delivered", "while it is there"]);
    net.kill(2);
    let seq = seq_of(&sender, &recipient, &["while it is away"]);
    let kept = net.path("kept.explanation");
    let pending = explain(&recipient.address, &seq, &["--as", text(&sender.dir), "--out", text(&kept)]);
    let line = told(&pending);
    assert_eq!((&line["conclusion"], &line["home"]), (&"pending".into(), &net.peer_id(2).into()), "{line}");
    let holders = line["holders"].as_array().expect("a list").clone();
    assert!(!holders.is_empty() && !holders.contains(&net.peer_id(2).into()), "{line}");
    let custodians = hops(&pending).into_iter().filter(|hop| *hop == ("custodian", "ok")).count();
    assert_eq!(custodians, holders.len());

    net.revive(2);
    let deadline = Instant::now() + PATIENCE;
    let late = loop {
        let now = explain(&recipient.address, &seq, &["--as", text(&sender.dir)]);
        if told(&now)["conclusion"] == "delivered" {
            break now;
        }
        assert!(Instant::now() < deadline, "{}", told(&now));
    };
    let line = told(&late);
    assert_eq!(line["late"], true);
    let reason = line["reason"].as_str().expect("a reason");
    assert!(reason.contains("the slice was pending") && reason.contains("held it until the fill in epoch"), "{reason}");
    assert!(holders.iter().all(|holder| reason.contains(holder.as_str().expect("a PeerId"))), "{reason}");

    let offline = verified(&kept, &net.genesis());
    assert_eq!((offline.code, told(&offline)), (0, told(&pending)), "what was kept says what it said");
}
