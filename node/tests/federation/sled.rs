//! A node on sled: mail goes through it, and is there after a kill.

use std::net::TcpListener;

use crate::net::{Mailbox, Process, run, text};

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

#[test]
fn mail_goes_through_a_node_on_sled_and_survives_a_kill() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (node, genesis) = (temp.path().join("node"), temp.path().join("federation.toml"));
    let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    assert_eq!(run(&["init", "--dir", text(&node), "--listen", &listen]).code, 0);
    assert_eq!(run(&["genesis", "--dir", text(&node), "--out", text(&genesis)]).code, 0);
    let start = || {
        let process = Process::spawn(&["run", "--dir", text(&node), "--set", "store=sled"]);
        let ready = process.wait_for("ready");
        (process, ready["addrs"][0].as_str().expect("an address").to_owned())
    };
    let (mut process, addr) = start();
    assert!(node.join("store.sled").is_dir() && !node.join("store.redb").exists());
    let mailbox = |name: &str| {
        let dir = temp.path().join(name);
        let made = run(&["mailbox", "new", "--dir", text(&dir), "--home", &addr]);
        assert_eq!(made.code, 0, "{made:?}");
        Mailbox { dir, address: made.lines[0]["address"].as_str().expect("an address").to_owned() }
    };
    let (sender, recipient) = (mailbox("sender"), mailbox("recipient"));
    let sent = sender.send(&[&recipient], &["--wait", "delivered", "before the kill"], &[]);
    assert_eq!((sent.code, &sent.lines[0]["state"]), (0, &"delivered".into()), "{}", sent.error);
    process.signal("KILL");
    process.wait();

    let (mut process, _) = start();
    let sent = sender.send(&[&recipient], &["--wait", "delivered", "and after"], &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    let texts: Vec<_> = recipient.recv_all(2).iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["before the kill", "and after"]);
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));

    let other = run(&["run", "--dir", text(&node), "--set", "store=redb"]);
    assert_eq!(other.error["code"], "other-store", "{other:?}");
    assert!(!node.join("store.redb").exists());
}
