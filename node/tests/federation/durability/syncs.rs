//! No word is ahead of its sync: a receipt of a destination or a custodian, a header of an origin, a cut of the
//! sequencer, an answer to a client.
//!
//! One node runs under a tracer while mail flows. A sync of it fails, or it is killed while its syncs are slow; then its
//! store is put back to the last sync that succeeded. What others have from it must be there, and when it runs again
//! everything that was acknowledged is delivered, once and in order.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cluster::Cluster;
use super::statements::Statements;
use super::tracer::{self, Syncs, Traced};
use crate::kills::{Progress, keep_sending};
use crate::net::{number_from_env, seed};

/// What the traced node is to the mail from node 2 to node 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Sequencer,
    Origin,
    Destination,
    Custodian,
}

impl Role {
    fn node(self) -> usize {
        match self {
            Role::Sequencer => 1,
            Role::Origin => 2,
            Role::Destination => 3,
            Role::Custodian => 4,
        }
    }
}

/// Failing syncs, and kills during a sync, of each role in CI; POSTROAD_SYNC_POINTS says how many otherwise.
const POINTS: u32 = 2;

fn check(role: Role) {
    if !tracer::is_available() {
        return;
    }
    let (seed, points) = (seed(), number_from_env("POSTROAD_SYNC_POINTS", POINTS));
    println!(
        "POSTROAD_SEED={seed} POSTROAD_SYNC_POINTS={points} cargo test --release -p postroad --test federation syncs"
    );
    println!(
        "in full: POSTROAD_SYNC_POINTS=20 cargo test --release -p postroad --test federation syncs -- --nocapture"
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = Cluster::start(4);
    let (sender, recipient) = (cluster.mailbox("sender", 2), cluster.mailbox("recipient", 3));
    if role == Role::Custodian {
        cluster.stop(3);
    }
    cluster.stop(role.node());
    let progress = Progress::of(1);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| keep_sending(&sender, std::slice::from_ref(&recipient), &progress, 0));
        let mut statements = 0;
        for point in 0..points {
            // The first ones fail while the store is opened, the last ones under load.
            let failing = Syncs::FailAt(1 + 58 * point / points.max(2).saturating_sub(1));
            statements += one_point(&mut cluster, role, failing, 0, &progress);
            let slow = Syncs::Take { ms: random.random_range(5..40) };
            statements += one_point(&mut cluster, role, slow, random.random_range(1..20), &progress);
        }
        println!("{role:?}: {points} failed syncs and {points} kills; {statements} statements of others' are covered");
        assert!(statements > 0, "the traced node said nothing");
        cluster.run_all(&[role.node()]);
        if role == Role::Custodian {
            cluster.run_all(&[3]);
        }
        progress.stop();
        sending.join().expect("the sender")
    });
    let ids: BTreeSet<String> = sent.iter().map(|line| line["id"].to_string()).collect();
    assert!(sent.iter().all(|line| line["state"] == "ordered"));
    // Once each, at their places; where they had to wait for their home, they may come late.
    let mut got = recipient.recv_until(&[], ids.len());
    assert_eq!(got.len(), sent.len());
    got.sort_by_key(|message| message["counter"].as_u64());
    for (message, line) in got.iter().zip(&sent) {
        assert_eq!((&message["id"], &message["seq"]), (&line["id"], &line["seq"]), "once, and at its place");
    }
}

/// Runs the node under the tracer until it stops, or until so many more messages are ordered and it is killed; puts its
/// store back to what is durable, and compares that with what the others have. Returns how many statements were
/// compared.
fn one_point(cluster: &mut Cluster, role: Role, syncs: Syncs, more: usize, progress: &Progress) -> usize {
    let node = role.node();
    let store = cluster.node_dir(node).join("store.redb");
    let (traced, mut command) = Traced::wrap(&cluster.command(node), &store, &cluster.path("trace"), syncs);
    cluster.launch(node, &mut command);
    if let Syncs::Take { .. } = syncs {
        cluster.until_ready(node);
        progress.wait_for_more(more);
        cluster.running(node).kill_child();
        cluster.ended(node);
    } else {
        let ended = cluster.ended(node);
        assert_eq!(ended.code, Some(1), "{syncs:?}: {ended:?}");
        let message = ended.error["message"].as_str().unwrap_or_default();
        let is_clear = message.contains("failed while it tried to") && message.contains("check the disk");
        assert!(is_clear, "{syncs:?}: {ended:?}");
    }
    let durable = traced.lose_unsynced();
    let mut statements = Statements::new(cluster.federation());
    let others: Vec<usize> = cluster.numbers().into_iter().filter(|other| *other != node).collect();
    for other in others {
        // A frozen process's file is what a crash would leave.
        let frozen = cluster.frozen_store(other);
        statements.read(&frozen).expect("a store that can be read");
    }
    let uncovered = statements.uncovered(&cluster.id(node), &store).expect("a durable image that can be read");
    assert!(
        uncovered.is_empty(),
        "{role:?}, {syncs:?}, {durable} syncs: others have what is not durable: {uncovered:?}"
    );
    assert_eq!(statements.contradictions(), Vec::<String>::new());
    statements.count_of(&cluster.id(node))
}

#[test]
fn syncs_of_the_sequencer_come_before_its_words() {
    check(Role::Sequencer);
}

#[test]
fn syncs_of_an_origin_come_before_its_words() {
    check(Role::Origin);
}

#[test]
fn syncs_of_a_destination_come_before_its_words() {
    check(Role::Destination);
}

#[test]
fn syncs_of_a_custodian_come_before_its_words() {
    check(Role::Custodian);
}
