//! Backups of running and stopped nodes: taken under load, checked, damaged, restored, and run.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::net::{Net, run, text};

fn exit_and_code(args: &[&str]) -> (i32, String) {
    let ran = run(args);
    (ran.code, ran.error["code"].as_str().unwrap_or_default().to_owned())
}

/// The names of what a directory holds.
fn names(dir: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(dir).expect("a directory");
    files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect()
}

#[test]
fn a_node_is_backed_up_while_it_works_and_goes_on_from_there() {
    let mut net = Net::start(3);
    let (alice, bob) = (net.mailbox("alice", 2), net.mailbox("bob", 3));
    assert_eq!(alice.send(&[&bob], &[], b"one\ntwo\n").code, 0);
    let third = net.path("net/node-3");
    let backup = net.path("third.backup");
    let stop = AtomicBool::new(false);
    let more = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(alice.send(&[&bob], &[], b"more\nand more\n").code, 0);
                sent += 2;
            }
            sent
        });
        let taken = run(&["backup", "--dir", text(&third), "--out", text(&backup), "--with-key"]);
        assert_eq!(taken.code, 0, "{taken:?}");
        assert_eq!((&taken.lines[0]["running"], &taken.lines[0]["key"]), (&true.into(), &true.into()));
        // Nothing that is there is overwritten; without the key it says so.
        let again = ["backup", "--dir", text(&third), "--out", text(&backup)];
        assert_eq!(exit_and_code(&again), (1, "in-the-way".into()));
        let dir = net.path("backups");
        std::fs::create_dir(&dir).expect("a directory");
        let taken = run(&["backup", "--dir", text(&third), "--out", text(&dir)]);
        assert_eq!((taken.code, &taken.lines[0]["key"]), (0, &false.into()));
        assert_eq!(names(&dir).len(), 1);
        // A running node is not checked in place.
        assert_eq!(exit_and_code(&["fsck", "--dir", text(&third)]), (5, "in-use".into()));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the sender")
    });
    assert!(more > 0);
    let checked = run(&["backup", "--check", text(&backup)]);
    assert_eq!((checked.code, &checked.lines[0]["key"]), (0, &true.into()), "{checked:?}");

    // The disk is lost; the node is restored into a new directory, checked, and goes on.
    net.kill(3);
    let old = net.path("net/lost");
    std::fs::rename(&third, &old).expect("it moves");
    let restored = run(&["restore", "--from", text(&backup), "--dir", text(&third)]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(restored.lines[0]["epoch"], checked.lines[0]["epoch"]);
    let wanted = ["genesis.toml", "key", "lock", "postroad.toml", "store.redb"].map(str::to_owned);
    assert_eq!(names(&third), BTreeSet::from(wanted));
    for name in ["key", "genesis.toml", "postroad.toml"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a file");
        assert_eq!(read(&third), read(&old), "{name}");
    }
    assert_eq!(run(&["fsck", "--dir", text(&third)]).code, 0);
    net.revive(3);
    assert_eq!(alice.send(&[&bob], &["--wait", "delivered", "after"], &[]).code, 0);
    let texts: Vec<_> = bob.recv_all(2 + more + 1).into_iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts[..2], ["one", "two"]);
    assert_eq!(texts.last().expect("mail"), "after");
}

#[test]
fn a_damaged_backup_restores_nothing_and_the_sequencer_keeps_its_guard() {
    let net = Net::start(1);
    let (alice, bob) = (net.mailbox("alice", 1), net.mailbox("bob", 1));
    assert_eq!(alice.send(&[&bob], &[], b"one\ntwo\n").code, 0);
    let dir = net.path("net/node-1");
    net.kill(1);
    let backup = net.path("first.backup");
    let args = ["backup", "--dir", text(&dir), "--out", text(&backup)];
    let mut taken = run(&args);
    while taken.code == 5 {
        // The killed process holds the lock for a moment longer.
        taken = run(&args);
    }
    assert_eq!((taken.code, &taken.lines[0]["running"]), (0, &false.into()), "{taken:?}");

    let whole = std::fs::read(&backup).expect("the backup");
    let (bad, to) = (net.path("bad.backup"), net.path("restored"));
    let refuse = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).expect("it is written");
        assert_eq!(exit_and_code(&["backup", "--check", text(&bad)]), (3, "backup".into()), "{what}");
        assert_eq!(
            exit_and_code(&["restore", "--from", text(&bad), "--dir", text(&to)]),
            (3, "backup".into()),
            "{what}"
        );
        assert!(!to.exists(), "{what}");
    };
    refuse(&whole[..whole.len() / 2], "cut off");
    refuse(&whole[..whole.len() - 1], "cut off at the end");
    refuse(b"PK\x03\x04 something else", "foreign");
    refuse(b"", "empty");
    for place in 1..8 {
        let mut flipped = whole.clone();
        flipped[whole.len() / 8 * place] ^= 0x10;
        refuse(&flipped, "flipped");
    }
    // Where a store is, nothing is restored.
    let over = ["restore", "--from", text(&backup), "--dir", text(&dir)];
    assert_eq!(exit_and_code(&over), (1, "in-the-way".into()));
    // Another node's directory.
    let other = net.path("other");
    assert_eq!(run(&["init", "--dir", text(&other)]).code, 0);
    let before = names(&other);
    assert_eq!(exit_and_code(&["restore", "--from", text(&backup), "--dir", text(&other)]), (1, "in-the-way".into()));
    assert_eq!(names(&other).len(), before.len() + usize::from(!before.contains("lock")));

    // Of the sequencer's directory only key and guard are left.
    for name in ["store.redb", "postroad.toml", "genesis.toml"] {
        std::fs::remove_file(dir.join(name)).expect("it was there");
    }
    let guard = || -> Vec<_> {
        let files = names(&dir.join("guard"));
        files.into_iter().map(|name| std::fs::read(dir.join("guard").join(name)).expect("a file")).collect()
    };
    let before = guard();
    let restored = run(&over);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!((&restored.lines[0]["guard"], &restored.lines[0]["key"]), (&true.into(), &true.into()));
    assert_eq!(guard(), before);
    // Without its guard a restored sequencer does not start.
    let elsewhere = net.path("elsewhere");
    let restored = run(&["restore", "--from", text(&backup), "--dir", text(&elsewhere)]);
    assert_eq!((restored.code, &restored.lines[0]["guard"]), (0, &false.into()));
    assert_eq!(restored.lines[0]["key"], false);
    std::fs::copy(dir.join("key"), elsewhere.join("key")).expect("the key");
    assert_eq!(exit_and_code(&["run", "--dir", text(&elsewhere)]), (1, "guard".into()));
}
