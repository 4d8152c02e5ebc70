//! What a home does not take, it refuses by itself and says so; everybody else's mail goes on.

use serde_json::Value;

use crate::net::{Mailbox, Net, run, text};

const QUOTA: usize = 5;

/// The refusals among a command's lines.
fn refusals(lines: &[Value]) -> Vec<(&str, &str)> {
    let refused = lines.iter().filter(|line| line["type"] == "refused");
    refused.filter_map(|line| Some((line["to"].as_str()?, line["reason"].as_str()?))).collect()
}

/// Rule 7: an attacker fills one mailbox, and its home neither drops nor refuses everybody's slice.
#[test]
fn filling_one_mailbox_shuts_nobody_else_out() {
    let mut net = Net::start(2);
    net.configure(2, &[("mailbox_entries", QUOTA.to_string())]);
    let [attacker, friend] = ["attacker", "friend"].map(|name| net.mailbox(name, 1));
    let [victim, bystander]: [Mailbox; 2] = ["victim", "bystander"].map(|name| net.mailbox(name, 2));
    let lines: String = (0..12).map(|line| format!("spam {line}\n")).collect();
    let flood = attacker.send(&[&victim], &["--wait", "delivered"], lines.as_bytes());
    let refused = refusals(&flood.lines);
    assert_eq!(flood.code, 1, "{flood:?}");
    assert!(refused.iter().all(|refused| *refused == (victim.address.as_str(), "full")), "{flood:?}");
    let taken = 12 - refused.len();
    assert!((1..=QUOTA).contains(&taken), "{taken} of 12 messages were taken, and {QUOTA} fit");

    // One message to both: the full mailbox is refused, the other one gets it.
    let both = friend.send(&[&victim, &bystander], &["--wait", "delivered", "good day"], &[]);
    if taken == QUOTA {
        assert_eq!(refusals(&both.lines), [(victim.address.as_str(), "full")], "{both:?}");
        assert_eq!(both.code, 1);
    }
    let sent = both.lines.iter().find(|line| line["type"] == "sent").expect("a line about the message");
    assert_eq!(sent["state"], "delivered", "{both:?}");
    assert_eq!(bystander.recv_all(1)[0]["text"], "good day");

    // What is read and acknowledged makes room.
    let there = victim.recv_all(taken);
    assert!(there.iter().all(|message| message["text"].as_str().is_some_and(|text| text.starts_with("spam"))));
    let again = friend.send(&[&victim], &["--wait", "delivered", "and again"], &[]);
    assert_eq!((again.code, refusals(&again.lines).len()), (0, 0), "{again:?}");
}

/// An owner blocks a sender: its mail is refused by that mailbox alone, until the owner unblocks it.
#[test]
fn an_owner_blocks_a_sender_and_the_sender_is_told() {
    let net = Net::start(2);
    let [pest, friend] = ["pest", "friend"].map(|name| net.mailbox(name, 1));
    let [owner, other] = ["owner", "other"].map(|name| net.mailbox(name, 2));
    let change = |what: &str, address: &[&str]| {
        let ran = run(&[&["mailbox", what, "--mailbox", text(&owner.dir)], address].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.lines[0]["senders"].as_array().expect("a list").len()
    };
    assert_eq!(change("blocked", &[]), 0);
    assert_eq!(change("block", &[&pest.address]), 1);
    let sent = pest.send(&[&owner, &other], &["--wait", "delivered", "buy this"], &[]);
    assert_eq!(refusals(&sent.lines), [(owner.address.as_str(), "blocked")], "{sent:?}");
    assert_eq!(sent.code, 1);
    assert_eq!(other.recv_all(1)[0]["text"], "buy this");
    assert_eq!(friend.send(&[&owner], &["--wait", "delivered", "good day"], &[]).code, 0);

    assert_eq!(change("unblock", &[&pest.address]), 0);
    let sent = pest.send(&[&owner], &["--wait", "delivered", "sorry"], &[]);
    assert_eq!((sent.code, refusals(&sent.lines).len()), (0, 0), "{sent:?}");
    let texts: Vec<Value> = owner.recv_all(2).into_iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["good day", "sorry"]);
}

/// The cap on mailboxes is a clear no, the rate only a wait.
#[test]
fn a_node_takes_so_many_mailboxes_and_so_many_in_a_minute() {
    let mut capped = Net::start(1);
    capped.configure(1, &[("max_mailboxes", "2".into())]);
    for name in ["a", "b"] {
        capped.mailbox(name, 1);
    }
    let third = run(&["mailbox", "new", "--dir", text(&capped.path("c")), "--home", &capped.addr(1)]);
    assert_eq!((third.code, &third.error["code"]), (1, &Value::from("not-allowed")), "{third:?}");
    // The same mailbox again is no new one.
    capped.mailbox("a", 1);

    let mut slow = Net::start(1);
    slow.configure(1, &[("registrations_per_minute", "20".into())]);
    let began = std::time::Instant::now();
    for number in 0..22 {
        slow.mailbox(&format!("mailbox-{number}"), 1);
    }
    assert!(began.elapsed().as_secs() >= 3, "22 where 20 may come at once and one every three seconds after that");
}
