//! Old homes that cheat: who moves away loses nothing by it, and the lie is proven.

use std::time::Instant;

use super::proven::{CHEAT, SOON, convicts};
use crate::net::{Mailbox, Net, PATIENCE, run, text};

/// Three messages are at the node that cheats, under a final attestation; then their mailbox moves to another node, and
/// everything is there.
fn moves_away(sin: &str) -> Net {
    let net = Net::start_args(4, &["--cheat", &format!("{CHEAT}={sin}")]);
    let (bob, alice): (Mailbox, Mailbox) = (net.mailbox("bob", CHEAT), net.mailbox("alice", 3));
    for words in ["one", "two", "three"] {
        let sent = alice.send(&[&bob], &["--wait", "delivered", words], &[]);
        assert_eq!(sent.code, 0, "{sent:?}");
    }
    let (to, deadline) = (net.addr(4), Instant::now() + PATIENCE);
    loop {
        // Where nobody answers, the same command goes on.
        let moved = run(&["move", "start", "--mailbox", text(&bob.dir), "--to", &to, "--patience", "2s"]);
        if moved.code == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{moved:?}");
    }
    let words: Vec<String> = bob.recv_all(3).iter().map(|message| message["text"].to_string()).collect();
    assert_eq!(words, ["\"one\"", "\"two\"", "\"three\""]);
    net
}

#[test]
fn a_false_handoff() {
    let net = moves_away("false-handoff");
    let began = Instant::now();
    let verdict = loop {
        if let Some(line) = net.news().into_iter().find(|line| line["type"] == "verdict") {
            break line;
        }
        assert!(began.elapsed() < SOON, "no verdict");
        assert_eq!(run(&["evidence", "list", "--node", &net.addr(4)]).code, 0);
    };
    convicts(&net, &verdict, ("false-handoff", &["false-handoff"], 400));
}

#[test]
fn a_log_that_is_not_handed_over() {
    let net = moves_away("withhold-handoff");
    assert!(net.news().iter().all(|line| line["type"] != "verdict"), "silence proves nothing");
}
