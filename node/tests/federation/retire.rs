//! A node that closes: its mailboxes are offered another home, and each owner takes it in its own way.

use std::time::Instant;

use serde_json::Value;

use crate::net::{Mailbox, Net, PATIENCE, Process, Ran, run, text};

const CLOSING: usize = 2;
const OFFERED: usize = 3;

fn retire(net: &Net, more: &[&str]) -> Ran {
    let dir = net.path(&format!("net/node-{CLOSING}"));
    run(&[&["retire", "--dir", text(&dir)], more].concat())
}

/// How the node stands.
fn standing(net: &Net) -> Value {
    let ran = retire(net, &[]);
    assert_eq!(ran.code, 0, "{}", ran.error);
    ran.lines[0].clone()
}

/// Waits until the node stands so.
fn until(net: &Net, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = standing(net);
        if is_so(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "not {what}: {found}");
    }
}

fn remaining(found: &Value) -> Vec<&str> {
    let mut found: Vec<&str> =
        found["remaining"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    found.sort_unstable();
    found
}

fn register(net: &Net, name: &str) -> Ran {
    run(&["mailbox", "new", "--dir", text(&net.path(name)), "--home", &net.addr(CLOSING)])
}

fn home_of(net: &Net, mailbox: &Mailbox) -> String {
    let shown = run(&["directory", "show", &mailbox.address, "--node", &net.addr(1)]);
    shown.lines.last().expect("its home")["home"].as_str().expect("a PeerId").to_owned()
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().filter_map(|message| message["text"].as_str()).collect()
}

#[test]
fn each_owner_takes_the_offer_of_a_closing_home_in_its_own_way_and_nothing_is_lost() {
    // A move is finished when the routing window has passed.
    let mut net = Net::start_with(4, &["routing_window_epochs=16"]);
    let sender = net.mailbox("sender", 4);
    let [willing, asked, absent] = ["willing", "asked", "absent"].map(|name| net.mailbox(name, CLOSING));
    let all = [&willing, &asked, &absent];
    let say = |words: &str| {
        let sent = sender.send(&all, &["--wait", "delivered", words], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
    };
    say("before");
    let open = standing(&net);
    assert_eq!((&open["state"], &open["over"], remaining(&open).len()), (&"open".into(), &false.into(), 3));
    let follow = ["recv", "--mailbox", text(&willing.dir), "--strict", "--follow", "--moves", "accept"];
    let reader = Process::spawn(&follow);
    assert_eq!(reader.wait_for("message")["text"], "before");

    let offered = net.addr(OFFERED);
    let began = retire(&net, &["--to", &offered]);
    assert_eq!((began.code, &began.lines[0]["state"]), (0, &"retiring".into()), "{began:?}");
    let refused = register(&net, "too-late");
    assert!(refused.code == 1 && refused.error["message"].to_string().contains("closes"), "{refused:?}");
    let status = run(&["status", "--node", &net.addr(CLOSING)]);
    assert_eq!(status.lines[0]["retiring"], net.peer_id(OFFERED).as_str());

    // Told while it reads, it moves by itself, and reads on.
    assert_eq!(reader.wait_for("retiring")["policy"], "accept");
    let moved = reader.wait_for("moved");
    assert_eq!((&moved["ok"], &moved["to"]), (&true.into(), &net.peer_id(OFFERED).into()), "{moved}");
    let mut left = [asked.address.as_str(), absent.address.as_str()];
    left.sort_unstable();
    let found = until(&net, "one has moved", |found| found["moved"] == 1);
    assert_eq!((remaining(&found), &found["state"]), (left.to_vec(), &"retiring".into()));

    // What was said holds after a restart.
    net.kill(CLOSING);
    net.revive(CLOSING);
    say("in between");
    assert_eq!(reader.wait_for("message")["text"], "in between");
    let asked_read = asked.recv(&["--strict"]);
    assert_eq!(asked_read.code, 0, "{}", asked_read.error);
    let line = asked_read.lines.iter().find(|line| line["type"] == "retiring").expect("it is told");
    assert_eq!((&line["policy"], &line["home"]), (&"ask".into(), &net.peer_id(CLOSING).into()));
    assert_eq!(home_of(&net, &asked), net.peer_id(CLOSING), "nothing moves by itself");
    let by_hand = line["to"].as_str().expect("an address");
    let moved = run(&["move", "start", "--mailbox", text(&asked.dir), "--to", by_hand]);
    assert_eq!(moved.code, 0, "{}", moved.error);
    let found = until(&net, "two have moved", |found| found["moved"] == 2);
    assert_eq!((remaining(&found), &found["over"]), (vec![absent.address.as_str()], &false.into()));
    assert!(found["state"] == "retiring" && register(&net, "still-too-late").code == 1);

    // The one that never read comes at last.
    say("after");
    assert_eq!(reader.wait_for("message")["text"], "after");
    let absent_read = absent.recv(&["--strict", "--moves", "accept"]);
    let moved = absent_read.lines.last().is_some_and(|line| line["type"] == "moved" && line["ok"] == true);
    assert!(absent_read.code == 0 && moved, "{absent_read:?}");
    let over = until(&net, "over", |found| found["over"] == true);
    assert_eq!((&over["state"], &over["moved"], remaining(&over).len()), (&"retired".into(), &3.into(), 0));

    // Nobody needs it any more: it is gone, and nothing with it.
    net.kill(CLOSING);
    std::fs::remove_dir_all(net.path(&format!("net/node-{CLOSING}"))).expect("its directory can be removed");
    say("at the new home");
    assert_eq!(reader.wait_for("message")["text"], "at the new home");
    // In strict order, what may come late is held back until it cannot.
    for (mailbox, read) in [(&asked, &asked_read), (&absent, &absent_read)] {
        let before = texts(&read.lines);
        let rest = mailbox.recv_all(4 - before.len());
        assert_eq!([before, texts(&rest)].concat(), ["before", "in between", "after", "at the new home"]);
    }
    for mailbox in all {
        assert_eq!(home_of(&net, mailbox), net.peer_id(OFFERED));
    }
}

#[test]
fn a_node_closes_only_where_another_takes_its_mailboxes_and_thinks_otherwise_when_told() {
    let mut net = Net::start(3);
    let mailboxes = ["one", "two"].map(|name| net.mailbox(name, CLOSING));
    let refused = |more: &[&str], code: &str, reason: &str| {
        let ran = retire(&net, more);
        let message = ran.error["message"].to_string();
        assert!(ran.code == 1 && ran.error["code"] == code && message.contains(reason), "{ran:?}");
        assert_eq!(standing(&net)["state"], "open", "nothing has changed");
        ran.lines
    };
    let (closing, offered) = (net.peer_id(CLOSING), net.peer_id(OFFERED));
    refused(&["--to", &closing], "not-closed", "no new home");
    refused(&["--to", &mailboxes[0].address], "not-closed", "in the federation");
    refused(&["--to", "nonsense"], "not-closed", "nonsense");

    // Room for one of two.
    net.configure(OFFERED, &[("max_mailboxes", "1".into())]);
    let lines = retire(&net, &["--to", &offered]);
    assert_eq!((lines.code, &lines.error["code"], lines.lines.len()), (1, &"not-taken".into(), 1), "{lines:?}");
    assert!(lines.lines[0]["reason"].to_string().contains("as many mailboxes"), "{lines:?}");
    assert_eq!(standing(&net)["state"], "open");

    net.configure(OFFERED, &[("accept", "\"closed\"".into())]);
    let lines = retire(&net, &["--to", &offered]);
    assert_eq!((lines.code, lines.lines.len()), (1, 2), "{lines:?}");
    assert!(lines.lines.iter().all(|line| line["reason"].to_string().contains("policy")), "{lines:?}");
    let anyway = retire(&net, &["--to", &offered, "--anyway"]);
    assert_eq!((anyway.code, &anyway.lines[0]["state"]), (0, &"retiring".into()), "{anyway:?}");

    // Whoever accepts finds out that the offer is none, and stays, with its mail.
    let read = mailboxes[0].recv(&["--moves", "accept"]);
    assert_eq!((read.code, &read.error["code"]), (1, &"not-allowed".into()), "{read:?}");
    assert_eq!(home_of(&net, &mailboxes[0]), closing);
    let never = mailboxes[1].recv(&["--moves", "never"]);
    assert_eq!(never.code, 0, "{never:?}");
    let told = never.lines.iter().find(|line| line["type"] == "retiring").expect("it is told");
    assert_eq!(told["policy"], "never");

    let cancelled = retire(&net, &["--cancel"]);
    assert_eq!((cancelled.code, &cancelled.lines[0]["state"]), (0, &"open".into()), "{cancelled:?}");
    assert_eq!(register(&net, "welcome").code, 0);
    let read = mailboxes[0].recv(&[]);
    assert!(read.code == 0 && read.lines.iter().all(|line| line["type"] != "retiring"), "{read:?}");
}
