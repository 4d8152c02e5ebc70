//! What is past retention is forgotten, attested as forgotten, and readers go on behind it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::net::{Mailbox, Net};

/// Reads from the beginning, as somebody would who has never read before.
fn read_anew(mailbox: &Mailbox) -> Vec<Value> {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(&mailbox.dir).expect("the mailbox is there") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it can be copied");
        }
    }
    Mailbox { dir: copy.path().to_owned(), address: mailbox.address.clone() }.recv(&[]).lines
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["text"].as_str()).collect()
}

#[test]
fn mail_is_forgotten_after_retention_and_reading_goes_on_behind_it() {
    let mut net = Net::start_with(3, &["retention_ms=8000"]);
    let (sender, in_time, too_late) = (net.mailbox("sender", 2), net.mailbox("in-time", 3), net.mailbox("too-late", 3));
    let old: Vec<u8> = (0..30).flat_map(|line| format!("old {line}\n").into_bytes()).collect();
    let sent = sender.send(&[&in_time, &too_late], &[], &old);
    assert_eq!(sent.code, 0, "{}", sent.error);
    assert_eq!(in_time.recv_all(30).len(), 30);
    let first = read_anew(&too_late);
    assert_eq!(texts(&first).len(), 30, "{first:?}");

    let deadline = Instant::now() + Duration::from_secs(60);
    while read_anew(&too_late).iter().all(|line| line["type"] != "expired") {
        assert!(Instant::now() < deadline, "nothing is forgotten");
    }
    let sent = sender.send(&[&in_time, &too_late], &["new"], &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    net.kill(3);
    net.revive(3);
    let mut lines = Vec::new();
    while !texts(&lines).contains(&"new") {
        lines.extend(too_late.recv(&[]).lines);
        assert!(Instant::now() < deadline + Duration::from_secs(60), "{lines:?}");
    }
    assert_eq!(texts(&lines), ["new"], "what is forgotten is not shown");
    let expired: Vec<_> = lines.iter().filter(|line| line["type"] == "expired").collect();
    assert_eq!(expired.len(), 1, "{lines:?}");
    assert_eq!((&expired[0]["from"], &expired[0]["to"]), (&0.into(), &30.into()));
    // Who has read in time goes on as if nothing were.
    assert_eq!(texts(&in_time.recv_until(&[], 1)), ["new"]);
}
