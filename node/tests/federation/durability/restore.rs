//! A node that is set back to an older copy of its directory: it contradicts nothing that it signed before, fetches what
//! it forgot, and serves on. Its peers may be there, or be out of reach while it starts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use postroad_engine::tables::{self, CUTS};
use postroad_store::{Guard, Read};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::cluster::{Cluster, open_copy};
use super::statements::Statements;
use crate::kills::{Progress, keep_sending};
use crate::net::{Mailbox, number_from_env, seed};

/// Epochs to which nodes are set back in CI; POSTROAD_RESTORES says how many otherwise.
const RESTORES: usize = 4;

/// Runs the node alone for a while, as it does when a partition has it: it serves what it has and signs nothing.
fn start_alone(cluster: &mut Cluster, node: usize) {
    let others: Vec<usize> = cluster.numbers();
    for other in &others {
        cluster.freeze(*other);
    }
    let mut command = cluster.command(node);
    cluster.launch(node, &mut command);
    cluster.until_ready(node);
    for other in &others {
        cluster.running(*other).signal("CONT");
    }
}

/// Everything in a mailbox, from its beginning.
fn everything(mailbox: &Mailbox) -> Vec<Value> {
    let ran = mailbox.recv(&["--no-ack", "--from", "0.0.0"]);
    assert!([0, 4].contains(&ran.code), "{ran:?}");
    ran.lines.into_iter().filter(|line| line["type"] == "message").collect()
}

#[test]
fn a_node_that_is_set_back_contradicts_nothing_and_serves_on() {
    let (seed, restores) = (seed(), number_from_env("POSTROAD_RESTORES", RESTORES));
    println!(
        "POSTROAD_SEED={seed} POSTROAD_RESTORES={restores} cargo test --release -p postroad --test federation restore"
    );
    println!("in full: POSTROAD_RESTORES=30 cargo test --release -p postroad --test federation restore -- --nocapture");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = Cluster::start(4);
    // Mail among all three, so that the node that is set back is origin, destination and custodian.
    let mailboxes: Vec<Mailbox> = (1..=3).map(|node| cluster.mailbox(&format!("m{node}"), node)).collect();
    let progress = Progress::of(3);
    let mut statements = Statements::new(cluster.federation());
    let sent: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let senders: Vec<_> = (mailboxes.iter().enumerate())
            .map(|(number, from)| {
                let others = mailboxes.iter().filter(|other| other.address != from.address);
                let (to, progress): (Vec<Mailbox>, _) = (others.cloned().collect(), &progress);
                scope.spawn(move || keep_sending(from, &to, progress, number))
            })
            .collect();
        for number in 0..restores {
            // One at a time: what two nodes forget that alone had it is lost, as the documentation says.
            let node = 1 + number % 3;
            progress.wait_for_more(random.random_range(1..4));
            let copy = cluster.frozen_store(node);
            progress.wait_for_more(random.random_range(1..12));
            let is_alone = random.random_bool(0.5);
            cluster.kill(node);
            let store = cluster.node_dir(node).join("store.redb");
            let (from, to) = (last_epoch(&store), last_epoch(&copy));
            println!("node {node} from epoch {from} back to {to}{}", if is_alone { ", alone" } else { "" });
            statements.read_own(&store).expect("the store that is lost");
            // The sequencer's guard stays where it is.
            fs::rename(&copy, &store).expect("the older copy");
            if is_alone {
                start_alone(&mut cluster, node)
            } else {
                cluster.run_all(&[node])
            }
            cluster.until_caught_up(node, 4);
        }
        progress.wait_for_more(3);
        progress.stop();
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });
    for (own, mailbox) in mailboxes.iter().enumerate() {
        let from_others = (sent.iter().enumerate()).filter(|(from, _)| *from != own).flat_map(|(_, lines)| lines);
        let owed: BTreeSet<(String, String)> =
            from_others.map(|line| (line["id"].to_string(), line["seq"].to_string())).collect();
        mailbox.recv_until(&[], owed.len());
        let got = everything(mailbox);
        let places: BTreeSet<(String, String)> =
            got.iter().map(|message| (message["id"].to_string(), message["seq"].to_string())).collect();
        assert_eq!(got.len(), places.len(), "nothing comes twice");
        assert_eq!(places, owed, "everything is in the mailbox, at its place");
    }
    cluster.stop_all();
    for node in 1..=4 {
        statements.read_own(&cluster.node_dir(node).join("store.redb")).expect("a store");
    }
    let count: usize = (1..=4).map(|node| statements.count_of(&cluster.id(node))).sum();
    println!("{restores} times set back; {count} statements in as many slots");
    assert_eq!(statements.contradictions(), Vec::<String>::new());
}

/// The last epoch of a store.
fn last_epoch(store: &Path) -> u64 {
    let (store, _dir) = open_copy(store).expect("a store");
    let last = store.snapshot().and_then(|store| store.last(CUTS, &[], &[])).expect("its cuts");
    last.map_or(0, |(key, _)| tables::key_number(&key))
}

/// Brings it about that the sequencer has signed exactly one cut that nobody else has; it is killed then.
fn sign_one_that_reaches_nobody(cluster: &mut Cluster) {
    loop {
        cluster.stop(2);
        let epoch = cluster.status(1)["epoch"].clone();
        cluster.until_status(1, "another cut", |status| status["epoch"] != epoch);
        cluster.kill(1);
        let guard = Guard::open(&cluster.node_dir(1).join("guard"), false).expect("the guard");
        let signed = guard.last().map_or(0, |(epoch, ..)| epoch);
        drop(guard);
        if signed == last_epoch(&cluster.node_dir(2).join("store.redb")) + 1 {
            return;
        }
        cluster.run_all(&[1, 2]);
    }
}

#[test]
fn a_sequencer_publishes_again_what_it_signed_and_forgot() {
    let mut cluster = Cluster::start(2);
    let (near, far) = (cluster.mailbox("near", 1), cluster.mailbox("far", 2));
    assert_eq!(far.send(&[&near], &["before"], &[]).code, 0);
    let old = cluster.path("old");
    fs::rename(cluster.frozen_store(1), &old).expect("a copy");
    assert_eq!(far.send(&[&near], &["forgotten"], &[]).code, 0);
    sign_one_that_reaches_nobody(&mut cluster);
    let store = cluster.node_dir(1).join("store.redb");
    let mut statements = Statements::new(cluster.federation());
    statements.read_own(&store).expect("the store that is lost");
    fs::rename(old, &store).expect("the older copy");
    cluster.run_all(&[2, 1]);
    let sent = far.send(&[&near], &["after"], &[]);
    assert_eq!(sent.code, 0, "the sequencer goes on: {sent:?}");
    // In the order of their numbers: nodes that have just started may take each other for away for a moment.
    let texts: Vec<_> = near.recv_all(3).iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["before", "forgotten", "after"]);
    cluster.stop_all();
    for node in 1..=2 {
        statements.read_own(&cluster.node_dir(node).join("store.redb")).expect("a store");
    }
    assert_eq!(statements.contradictions(), Vec::<String>::new());
}
