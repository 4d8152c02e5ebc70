//! One byte of one record flips on the disk: it is never served as good. What others have is fetched again; what nobody
//! else has is named, with its table and key, and a backup brings it back.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use postroad_engine::tables::{
    ACKS, ALL, ARRIVALS, BATCHES, BLOCKS, CUTS, EDGES, EVIDENCE, FLOOR, Floor, LOGS, META, PENDING, SLICES, STATE,
    StoredBatch, WAITING, number_key,
};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::state::StateKey;
use postroad_protocol::wire::call::Judged;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_store::{Store, Table};
use serde_json::Value;

use super::forge;
use super::rows::{Rows, flip};
use crate::evidence::{accuse, equivocation_of};
use crate::net::{Mailbox, Net, postroad, run, signal, text};

const PATIENCE: Duration = Duration::from_secs(90);
/// W of these federations: small, so that cuts soon lie below the floor, and are read by nobody but readers.
const WINDOW: u64 = 16;

fn start(nodes: usize) -> Net {
    Net::start_with(nodes, &[&format!("routing_window_epochs={WINDOW}")])
}

/// Everything that a mailbox ever got, read from its home again, verified; what is being mended comes in the end.
fn all_again(mailbox: &Mailbox, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ran = mailbox.recv(&["--from", "0.0.0", "--no-ack"]);
        assert!(ran.code == 0 || ran.code == 4, "{} {}", ran.code, ran.error);
        let messages: Vec<&Value> = ran.lines.iter().filter(|line| line["type"] == "message").collect();
        assert!(messages.iter().all(|message| message["verified"] == true), "{messages:?}");
        if messages.len() >= count {
            return messages.iter().filter_map(|message| Some(message["text"].as_str()?.to_owned())).collect();
        }
        assert!(Instant::now() < deadline, "{} of {count} messages came again", messages.len());
    }
}

/// A node's store file and rows, once its process is gone.
fn stopped(net: &Net, node: usize) -> (PathBuf, Rows) {
    let dir = net.path(&format!("net/node-{node}"));
    while run(&["fsck", "--dir", text(&dir)]).code == 5 {}
    (dir.join("store.redb"), Rows::of(&dir))
}

#[test]
fn cuts_and_slices_that_rot_are_fetched_again() {
    let mut net = start(3);
    let [alice, dan, bob] = [("alice", 2), ("dan", 2), ("bob", 3)].map(|(name, node)| net.mailbox(name, node));
    // The slice of a mailbox on the same node is cut from the origin's own batch; a custodian has it too, once the
    // nodes have met.
    let mut here = 0;
    loop {
        let sent = alice.send(&[&dan], &["here"], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
        here += 1;
        if sent.lines[0]["weak"] == false {
            break;
        }
    }
    let sent = alice.send(&[&bob], &[], b"one\ntwo\nthree\n");
    assert_eq!(sent.code, 0, "{}", sent.error);
    let epoch = |line: &Value| -> u64 {
        line["seq"]
            .as_str()
            .and_then(|seq| seq.split('.').next())
            .and_then(|epoch| epoch.parse().ok())
            .expect("a number")
    };
    let first = epoch(&sent.lines[0]);
    // Until that lies below the floor. What comes last is what a start reads.
    let mut count = 3;
    loop {
        let sent = alice.send(&[&bob], &["--wait", "delivered", "more"], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
        count += 1;
        if epoch(&sent.lines[0]) > first + WINDOW + 8 {
            break;
        }
    }
    let read = [bob.recv_all(count), dan.recv_all(here)];
    // Not killed: after that, redb reads the whole file when it opens it, and refuses one with damage in it.
    for node in [2, 3] {
        net.stop(node);
    }
    let (file, third) = stopped(&net, 3);
    // Not those that it holds for others, whose mail is to come back from there.
    let is_own =
        |(_, value): &&(Vec<u8>, Vec<u8>)| decode::<SliceParcel>(value).expect("a slice").destination == third.me;
    for (key, value) in third.table(SLICES).iter().filter(is_own) {
        flip(&file, SLICES, key, value);
    }
    let key = number_key(first);
    flip(&file, CUTS, &key, &third.value_bytes(CUTS, &key));
    let (file, second) = stopped(&net, 2);
    let is_own = |(_, value): &&(Vec<u8>, Vec<u8>)| {
        let batch: StoredBatch = decode(value).expect("a batch");
        !batch.homes.is_empty() && batch.homes.values().all(|home| *home == second.me)
    };
    let (key, value) = second.table(BATCHES).iter().rev().find(is_own).expect("a batch for the node itself");
    flip(&file, BATCHES, key, value);
    net.revive(2);
    net.revive(3);
    for (mailbox, read) in [(&bob, &read[0]), (&dan, &read[1])] {
        let texts: Vec<&str> = read.iter().filter_map(|message| message["text"].as_str()).collect();
        assert_eq!(all_again(mailbox, texts.len()), texts);
    }
    net.stop_revived();
    let (_, third) = stopped(&net, 3);
    assert_eq!(third.check(&[]).1, [], "every damaged row was fetched again");
}

/// Runs a command that is to end by itself, and returns its exit code and its last words.
fn ends(args: &[&str]) -> (Option<i32>, Value) {
    let mut child = postroad(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let pid = child.id();
    let mut stderr = child.stderr.take().expect("a pipe");
    let (sender, words) = channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        // A process that is killed has said what it had to say.
        let _ = stderr.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let words = words.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        signal(pid, "KILL");
        panic!("{args:?} does not end")
    });
    reader.join().expect("the reader ends");
    let error = words.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back();
    (child.wait().expect("it ends").code(), error.unwrap_or(Value::String(words)))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for name in ["key", "postroad.toml", "genesis.toml", "store.redb"] {
        std::fs::copy(from.join(name), to.join(name)).expect("it is copied");
    }
}

#[test]
fn a_record_of_any_kind_that_rots_is_named_and_a_backup_brings_it_back() {
    let net = start(3);
    let [carol, alice, bob] = [("carol", 1), ("alice", 2), ("bob", 3)].map(|(name, node)| net.mailbox(name, node));
    assert_eq!(alice.send(&[&bob], &[], b"one\ntwo\n").code, 0);
    bob.recv_all(2);
    for _ in 0..WINDOW {
        assert_eq!(bob.send(&[&alice, &carol], &["--wait", "delivered", "back"], &[]).code, 0);
    }
    // A block list, and mail that it refuses.
    assert_eq!(run(&["mailbox", "block", "--mailbox", text(&bob.dir), &carol.address]).code, 0);
    assert_eq!(carol.send(&[&bob], &["--wait", "delivered", "unwanted"], &[]).code, 1);
    let (claim, federation) = equivocation_of(&net, 2);
    assert_eq!(accuse(&net.addr(3), &claim), Judged::Kept(claim.id(&federation)));
    let third = net.path("net/node-3");
    let backup = net.path("third.backup");
    assert_eq!(run(&["backup", "--dir", text(&third), "--out", text(&backup)]).code, 0);
    net.kill(3);
    assert_eq!(alice.send(&[&bob], &["late"], &[]).code, 0);
    net.kill(2);
    net.kill(1);
    // Node 3 as it is when it knows what waits for it, and has not fetched it.
    let (_, ahead) = stopped(&net, 1);
    let (file, rows) = stopped(&net, 3);
    let secret = postroad::config::NodeDir::new(&third).read_key().expect("its key");
    let mut writes = forge::follow(&rows, &secret, &ahead.table(CUTS)[rows.table(CUTS).len()..]);
    writes.extend(forge::moving(&rows));
    {
        let store = Store::open(&file, &ALL).expect("nobody runs on it");
        let mut transaction = store.begin().expect("the one transaction");
        writes.iter().for_each(|write| transaction.apply(write));
        transaction.commit().expect("it is written");
    }
    let rows = Rows::of(&third);
    assert_eq!(rows.check(&[]).1, []);

    let floor: Floor = rows.value(META, FLOOR);
    let last = |table: Table| rows.table(table).last().unwrap_or_else(|| panic!("a row in {table}")).0.clone();
    let mut keys: BTreeMap<Table, Vec<u8>> = ALL.into_iter().map(|table| (table, last(table))).collect();
    keys.insert(META, FLOOR.to_vec());
    keys.insert(STATE, encode(&StateKey::Node(rows.me)));
    keys.insert(CUTS, number_key(floor.epoch + 1));
    for (table, key) in keys {
        let dir = net.path(&format!("rotten-{table}"));
        copy(&third, &dir);
        flip(&dir.join("store.redb"), table, &key, &rows.value_bytes(table, &key));
        let name = format!("{table}/{}", hex::encode(&key));
        let checked = run(&["fsck", "--dir", text(&dir)]);
        let named = |line: &&Value| {
            line["key"] == name.as_str() && line["what"].as_str().is_some_and(|what| what.contains("checksum"))
        };
        assert_eq!((checked.code, checked.lines.iter().filter(named).count()), (3, 1), "{name}: {checked:?}");
        // What a start reads, it names, and stops.
        if [META, STATE, CUTS, PENDING, LOGS, ACKS, BLOCKS, EVIDENCE, EDGES, ARRIVALS, WAITING].contains(&table) {
            let (code, error) = ends(&["run", "--dir", text(&dir)]);
            assert_eq!((code, &error["code"]), (Some(1), &"store-damaged".into()), "{name}: {error}");
            let message = error["message"].as_str().expect("a message");
            assert!(
                message.contains(&format!("table {table}, key {}", &hex::encode(&key)[..16.min(2 * key.len())])),
                "{message}"
            );
            assert!(error["fix"].as_str().is_some_and(|fix| fix.contains("postroad fsck")), "{error}");
            std::fs::remove_file(dir.join("store.redb")).expect("it is moved away");
            let restored = run(&["restore", "--from", text(&backup), "--dir", text(&dir)]);
            assert_eq!(restored.code, 0, "{restored:?}");
            assert_eq!(run(&["fsck", "--dir", text(&dir)]).code, 0);
        }
    }
}
