//! What a mailbox's owner sees of missing mail, and that an old copy of a mailbox's directory alarms nobody.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::net::{Mailbox, Net, PATIENCE, run, text};

/// All lines of `recv`, again and again, until one of this type is among them.
fn recv_for(mailbox: &Mailbox, kind: &str) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &Value| line["type"] == kind) {
        let ran = mailbox.recv(&[]);
        assert_eq!(ran.code, 0, "{}", ran.error);
        lines.extend(ran.lines);
        assert!(Instant::now() < deadline, "no line of type {kind} came: {lines:?}");
    }
    lines
}

fn find<'a>(lines: &'a [Value], kind: &str) -> &'a Value {
    lines.iter().find(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {lines:?}"))
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter(|line| line["type"] == "message").filter_map(|line| line["text"].as_str()).collect()
}

#[test]
fn a_hole_is_asked_about_through_the_mail_and_its_sender_explains_it() {
    let net = Net::start(3);
    let (sender, owner) = (net.mailbox("sender", 1), net.mailbox("owner", 2));
    let change = |what: &str| {
        let ran = run(&["mailbox", what, "--mailbox", text(&owner.dir), &sender.address]);
        assert_eq!(ran.code, 0, "{}", ran.error);
    };
    assert_eq!(sender.send(&[&owner], &["one"], &[]).code, 0);
    assert_eq!(owner.recv_all(1)[0]["text"], "one");
    change("block");
    assert_eq!(sender.send(&[&owner], &["two"], &[]).code, 1, "it is refused for the owner");
    change("unblock");
    assert_eq!(sender.send(&[&owner], &["three"], &[]).code, 0);

    let lines = recv_for(&owner, "gap");
    assert_eq!(texts(&lines), ["three"]);
    let gap = find(&lines, "gap");
    assert_eq!((&gap["from"], &gap["numbers"]), (&json!(sender.address), &json!([2, 2])));
    assert_eq!(gap["hint"]["number"], 2, "the third message says where the second stands");

    if gap["asked"] == false {
        // On a busy machine the question waits for the next reading.
        assert_eq!(owner.recv(&[]).code, 0);
    }
    let lines = recv_for(&sender, "asked");
    let asked = find(&lines, "asked");
    assert_eq!((&asked["from"], &asked["numbers"]), (&json!(owner.address), &json!([2, 2])));
    assert_eq!(texts(&lines), [] as [&str; 0], "a question is no mail");

    let lines = recv_for(&owner, "gap-closed");
    let told = find(&lines, "told");
    assert_eq!((&told["number"], &told["fate"], &told["seq"]), (&json!(2), &json!("ordered"), &gap["hint"]["seq"]));
    let closed = find(&lines, "gap-closed");
    assert_eq!((&closed["numbers"], &closed["why"]), (&json!([2, 2]), &json!("refused")));
    // It is told once, and numbers go on behind question and answer.
    assert_eq!(sender.send(&[&owner], &["four"], &[]).code, 0);
    let lines = recv_for(&owner, "message");
    assert_eq!(texts(&lines), ["four"]);
    assert!(lines.iter().all(|line| line["type"] != "gap"), "{lines:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("an entry");
        let place = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).expect("it can be copied");
        }
    }
}

#[test]
fn a_mailbox_from_an_old_backup_catches_up_and_nobody_is_alarmed() {
    let net = Net::start(3);
    let (alice, bob) = (net.mailbox("alice", 1), net.mailbox("bob", 2));
    let say = |from: &Mailbox, to: &Mailbox, words: &[u8]| {
        let sent = from.send(&[to], &[], words);
        assert_eq!(sent.code, 0, "{}", sent.error);
    };
    say(&alice, &bob, b"a1\na2\na3\n");
    say(&bob, &alice, b"b1\nb2\n");
    assert_eq!(alice.recv_until(&[], 2).len(), 2);
    let backup = net.path("backup");
    copy(&alice.dir, &backup);

    // What the backup does not know of.
    say(&alice, &bob, b"a4\na5\n");
    say(&bob, &alice, b"b3\nb4\n");
    assert_eq!(bob.recv_until(&[], 5).len(), 5);
    assert_eq!(texts(&alice.recv_until(&[], 2)), ["b3", "b4"]);

    std::fs::remove_dir_all(&alice.dir).expect("it can be removed");
    copy(&backup, &alice.dir);
    assert_eq!(texts(&alice.recv_until(&[], 2)), ["b3", "b4"], "they are read again");
    say(&alice, &bob, b"a6\n");
    say(&alice, &bob, b"a7\n");
    say(&bob, &alice, b"b5\n");
    let mut lines = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while texts(&lines).len() < 2 {
        lines.extend(bob.recv(&[]).lines);
        assert!(Instant::now() < deadline, "{lines:?}");
    }
    assert_eq!(texts(&lines), ["a6", "a7"]);
    lines.extend(recv_for(&alice, "message"));
    let quiet = |line: &Value| ["message", "settled"].contains(&line["type"].as_str().unwrap_or_default());
    assert!(lines.iter().all(quiet), "{lines:?}");
    // The jump over what was forgotten hides no later hole: numbers are contiguous again behind it.
    say(&alice, &bob, b"a8\n");
    let lines = recv_for(&bob, "message");
    assert!(texts(&lines) == ["a8"] && lines.iter().all(quiet), "{lines:?}");
}
