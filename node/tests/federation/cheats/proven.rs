//! Sins that leave a proof: exactly the guilty node is named, soon, by a file that verifies offline.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::net::{Mailbox, Net, Process, run, text};

/// From the sin to the verdict.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// The node that cheats.
pub(super) const CHEAT: usize = 2;

/// What happens around a node that cheats.
struct Scene {
    net: Net,
    readers: Vec<Process>,
}

/// Two mailboxes at the node that cheats, which are written to and write, and two elsewhere; all are read. It goes on
/// until the testnet names somebody.
fn play(sin: &str) -> (Net, Value) {
    // What nobody can deliver is missing for good once a challenge has run out.
    let net = Net::start_args(4, &["--cheat", &format!("{CHEAT}={sin}"), "--param", "challenge_ms=2000"]);
    let [bob, alice, carol, dave] =
        [("bob", CHEAT), ("alice", CHEAT), ("carol", 3), ("dave", 4)].map(|(name, node)| net.mailbox(name, node));
    // Who reads at once acknowledges at once, and what is acknowledged may be forgotten.
    let reads_late = sin.starts_with("early-expiry");
    let following = [&alice, &carol, &dave].into_iter().chain((!reads_late).then_some(&bob));
    let follow = |mailbox: &Mailbox| Process::spawn(&["recv", "--mailbox", text(&mailbox.dir), "--follow"]);
    let readers = following.map(follow).collect();
    let scene = Scene { net, readers };
    let began = Instant::now();
    let mut sinned: Option<Instant> = None;
    for round in 0.. {
        let words = format!("round {round}");
        for sender in [&carol, &dave] {
            let sent = sender.send(&[&bob], &[&words], &[]);
            assert!(sent.code == 0 || sent.code == 4, "{sent:?}");
        }
        let sent = alice.send(&[&carol, &dave], &[], format!("{words}\n{words} again\n").as_bytes());
        assert!([0, 1, 4].contains(&sent.code), "{sent:?}");
        if reads_late && sinned.is_some() {
            bob.recv(&[]);
        }
        let news = scene.net.news();
        if news.iter().any(|line| line["type"] == "sinned") {
            sinned = sinned.or(Some(Instant::now()));
        }
        if let Some(line) = news.into_iter().find(|line| line["type"] == "verdict") {
            drop(scene.readers);
            return (scene.net, line);
        }
        let late = sinned.map_or(began.elapsed() > 3 * SOON, |sinned| sinned.elapsed() > SOON);
        assert!(!late, "{sin}: no verdict {:?} after the sin", sinned.map(|sinned| sinned.elapsed()));
    }
    unreachable!("it goes on until there is a verdict")
}

fn verify(file: &Path, genesis: &str) -> (i32, Value) {
    let ran = run(&["verify", text(file), "--genesis", genesis]);
    (ran.code, ran.lines.into_iter().next().unwrap_or(ran.error))
}

/// `sin` is proven as one of `kinds`, by whoever may find it, after `epochs` at most.
fn is_proven(sin: &str, kinds: &[&str], epochs: u64) {
    let (net, verdict) = play(sin);
    convicts(&net, &verdict, (sin, kinds, epochs));
}

/// A verdict is of one of these kinds, after so many epochs at most, and its file verifies offline; nobody else is named.
pub(super) fn convicts(net: &Net, verdict: &Value, (sin, kinds, epochs): (&str, &[&str], u64)) {
    let kind = verdict["kind"].as_str().expect("a kind");
    assert!(kinds.contains(&kind) && verdict["culprit_node"] == CHEAT, "{verdict}");
    assert!(verdict["after_epochs"].as_u64().is_some_and(|after| after <= epochs), "{verdict}");
    let file = net.path(verdict["evidence"].as_str().expect("a file"));
    let genesis = net.genesis();
    let peer = net.peer_id(CHEAT);
    let (code, said) = verify(&file, &genesis);
    assert_eq!((code, &said["kind"], &said["culprit"]), (0, &kind.into(), &peer.as_str().into()), "{said}");
    let bytes = std::fs::read(&file).expect("the evidence");
    println!("{sin}: {kind} after {} epochs, {} bytes", verdict["after_epochs"], bytes.len());
    // Every bit is flipped in a test of the protocol; here a few, through the command.
    for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let flipped = net.path("flipped");
        std::fs::write(&flipped, bytes).expect("it is written");
        let (code, said) = verify(&flipped, &genesis);
        assert!(code != 0 && said["result"] != "guilty", "byte {at}: {said}");
    }
    // Nobody else is named, by any node.
    for node in 1..=4 {
        let ran = run(&["evidence", "list", "--node", &net.addr(node)]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for line in ran.lines.iter().filter(|line| line["type"] == "evidence") {
            assert_eq!(line["culprit"], peer, "node {node}: {line}");
        }
    }
}

macro_rules! proven {
    ($($name:ident: $sin:literal is [$($kind:literal),*] within $epochs:literal;)*) => {$(
        #[test]
        fn $name() {
            is_proven($sin, &[$($kind),*], $epochs);
        }
    )*};
}

proven! {
    a_dropped_message: "drop@2" is ["drop"] within 400;
    an_altered_message: "alter@2" is ["wrong-entry"] within 400;
    a_wrong_order: "wrong-order@2" is ["wrong-entry", "drop"] within 400;
    a_split_view: "split-view@2" is ["split-view"] within 400;
    an_early_expiry: "early-expiry" is ["early-expiry"] within 400;
    an_omitted_recipient: "omit@2" is ["omission"] within 400;
    a_bad_slice: "bad-slice@2" is ["bad-slice"] within 400;
    a_forged_bundle: "forge@2" is ["forgery"] within 400;
    bundles_out_of_order: "misorder@2" is ["misordering"] within 400;
    an_equivocation: "equivocate@2" is ["equivocation"] within 400;
    a_loss: "lose@2" is ["loss"] within 400;
}
