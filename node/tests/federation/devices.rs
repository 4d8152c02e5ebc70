//! What the owner of a mailbox keeps beside the device: the recovery key, and the mailbox's state in a file.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::net::{Mailbox, Net, PATIENCE, Process, Ran, ended, postroad, run, text};

#[test]
fn a_recovery_key_is_named_at_registration_and_everybody_can_look_it_up() {
    let net = Net::start(2);
    let (file, dir) = (net.path("recovery.key"), net.path("alice"));
    let made = run(&["mailbox", "new-recovery-key", "--out", text(&file)]);
    assert_eq!(made.code, 0, "{made:?}");
    let key = made.lines[0]["key"].as_str().expect("a key");
    assert_ne!(run(&["mailbox", "new-recovery-key", "--out", text(&file)]).code, 0, "nothing is overwritten");

    let new = |dir: &str, recovery: &str| {
        run(&["mailbox", "new", "--dir", dir, "--home", &net.addr(1), "--recovery-key", recovery])
    };
    let alice = new(text(&dir), key);
    assert_eq!((alice.code, &alice.lines[0]["recovery_key"]), (0, &key.into()), "{alice:?}");
    // The file says the same key, so this is the same mailbox and the same registration.
    let again = new(text(&dir), text(&file));
    assert_eq!((again.code, &again.lines), (0, &alice.lines), "{again:?}");
    assert_eq!(new(text(&net.path("carol")), "nothing-like-it").code, 2);

    let shown = |address: &str| {
        let ran = run(&["directory", "show", address, "--node", &net.addr(2)]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.lines[0]["recovery_key"].clone()
    };
    assert_eq!(shown(alice.lines[0]["address"].as_str().expect("an address")), key);
    assert!(shown(&net.mailbox("bob", 2).address).is_null());
}

/// Exports a mailbox, under a passphrase in a file.
fn export(net: &Net, mailbox: &Mailbox, out: &Path) -> Ran {
    let secret = net.path("secret.txt");
    std::fs::write(&secret, "correct horse battery staple\n").expect("it is written");
    let ran = ["mailbox", "export", "--mailbox", text(&mailbox.dir), "--out", text(out)];
    run(&[&ran[..], &["--passphrase-file", text(&secret)]].concat())
}

/// Imports a mailbox, under a passphrase in the environment.
fn import(file: &Path, dir: &Path, passphrase: &str) -> Ran {
    let args = ["mailbox", "import", "--in", text(file), "--mailbox", text(dir)];
    ended(postroad(&args).env("POSTROAD_PASSPHRASE", passphrase))
}

fn exit_and_code(ran: &Ran) -> (i32, &str) {
    (ran.code, ran.error["code"].as_str().unwrap_or_default())
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter(|line| line["type"] == "message").filter_map(|line| line["text"].as_str()).collect()
}

const PASSPHRASE: &str = "correct horse battery staple";

#[test]
fn a_mailbox_whose_device_is_lost_goes_on_from_its_export() {
    let net = Net::start(3);
    let (alice, bob) = (net.mailbox("alice", 1), net.mailbox("bob", 2));
    let say = |from: &Mailbox, to: &Mailbox, words: &[u8]| {
        let sent = from.send(&[to], &[], words);
        assert_eq!(sent.code, 0, "{}", sent.error);
    };
    say(&alice, &bob, b"a1\na2\n");
    say(&bob, &alice, b"b1\nb2\n");
    assert_eq!(alice.recv_until(&[], 2).len(), 2);

    // Not while somebody sends or receives.
    let file = net.path("alice.age");
    let following = Process::spawn(&["recv", "--mailbox", text(&alice.dir), "--follow"]);
    following.wait_for("settled");
    assert_eq!(exit_and_code(&export(&net, &alice, &file)), (5, "in-use"));
    drop(following);
    let (sending, mut lines) =
        Process::spawn_with_input(&["send", "--mailbox", text(&alice.dir), "--to", &bob.address]);
    lines.write_all(b"a3\n").expect("it reads");
    sending.wait_for("sent");
    assert_eq!(exit_and_code(&export(&net, &alice, &file)), (5, "in-use"));
    assert!(!file.exists());
    drop(sending);

    let deadline = Instant::now() + PATIENCE;
    let exported = loop {
        // The killed ones hold their locks for a moment longer.
        let ran = export(&net, &alice, &file);
        if ran.code != 5 || Instant::now() > deadline {
            break ran;
        }
    };
    assert_eq!((exported.code, &exported.lines[0]["address"]), (0, &alice.address.as_str().into()), "{exported:?}");
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    assert_eq!(exit_and_code(&export(&net, &alice, &file)), (1, "exists"));

    // What the export does not know of. Then the device is lost.
    say(&alice, &bob, b"a4\n");
    say(&bob, &alice, b"b3\n");
    assert_eq!(texts(&alice.recv_until(&[], 1)), ["b3"]);
    say(&bob, &alice, b"b4\n");
    assert_eq!(exit_and_code(&import(&file, &alice.dir, PASSPHRASE)), (2, "mailbox-directory"), "it is there");
    std::fs::remove_dir_all(&alice.dir).expect("it can be removed");
    assert_eq!(exit_and_code(&import(&file, &alice.dir, "a guess")), (1, "passphrase"));
    assert_eq!(exit_and_code(&import(&file, &alice.dir, "")), (2, "passphrase"));
    let whole = std::fs::read(&file).expect("the file");
    let half = net.path("half.age");
    std::fs::write(&half, &whole[..whole.len() / 2]).expect("it is written");
    assert_eq!(exit_and_code(&import(&half, &alice.dir, PASSPHRASE)), (3, "export"));
    assert!(!alice.dir.exists() && !net.path("alice.importing").exists());

    let imported = import(&file, &alice.dir, PASSPHRASE);
    assert_eq!((imported.code, &imported.lines[0]["address"]), (0, &alice.address.as_str().into()), "{imported:?}");
    assert_eq!(imported.lines[0]["taken_ms"], exported.lines[0]["taken_ms"]);
    assert_eq!(texts(&alice.recv_until(&[], 2)), ["b3", "b4"], "it goes on where it stood at the export");
    say(&alice, &bob, b"a5\na6\n");
    let lines = bob.recv_until(&["--strict"], 6);
    assert_eq!(texts(&lines), ["a1", "a2", "a3", "a4", "a5", "a6"], "nothing is lost or comes twice");
}

#[test]
fn what_waited_to_be_ordered_at_the_export_is_ordered_once() {
    let mut net = Net::start(3);
    let (alice, bob) = (net.mailbox("alice", 2), net.mailbox("bob", 3));
    assert_eq!(alice.send(&[&bob], &[], b"one\n").code, 0);
    // Without the sequencer it is accepted, and waits.
    net.kill(1);
    assert_eq!(alice.send(&[&bob], &["--wait", "accepted"], b"two\n").code, 0);
    let file = net.path("alice.age");
    assert_eq!(export(&net, &alice, &file).code, 0);
    net.revive(1);
    assert_eq!(alice.send(&[&bob], &[], b"three\n").code, 0);
    std::fs::remove_dir_all(&alice.dir).expect("it can be removed");
    assert_eq!(import(&file, &alice.dir, PASSPHRASE).code, 0);
    assert_eq!(alice.send(&[&bob], &[], b"four\n").code, 0);
    assert_eq!(texts(&bob.recv_until(&["--strict"], 4)), ["one", "two", "three", "four"]);
    assert_eq!(bob.recv(&[]).lines.iter().filter(|line| line["type"] == "repeat").count(), 0);
}
