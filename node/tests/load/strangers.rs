//! One node, honest senders, and each kind of attacker in turn.

use std::time::Duration;

use postroad_client::{Mailbox, NodeAddr};
use postroad_protocol::{Federation, SecretKey};

use crate::attacks::{self, flood, half_open, key_in, many_streams, new_key, slow};
use crate::honest::{Comparison, Honest, compare};
use crate::net::Net;
use crate::scale;

/// Honest throughput with an attacker is at least this part of that without.
const LEAST: f64 = 0.8;
/// What an attacker may make a node hold.
const MOST_BYTES: i64 = 64 << 20;

/// A node with some senders who behave, and the address and keys of one who does not.
struct Scene {
    net: Net,
    honest: Vec<Honest>,
    addr: NodeAddr,
    federation: Federation,
    attacker: SecretKey,
    rounds: (usize, Duration),
}

impl Scene {
    async fn new() -> Scene {
        let rounds = scale("POSTROAD_ROUNDS", 2, 10);
        let net = Net::start(1).await;
        let mut honest = Vec::new();
        for name in ["alice", "bob", "carol"] {
            honest.push(Honest::start(&net.mailbox(name, 0).await, None).await);
        }
        let mailbox: Mailbox = net.mailbox("mallory", 0).await;
        let (addr, federation) = (net.addr(0), net.federation.clone());
        let attacker = key_in(mailbox.dir());
        Scene { net, honest, addr, federation, attacker, rounds: (rounds, Duration::from_millis(1_500)) }
    }

    /// Compares, and holds the attack to what it may cost.
    async fn endures<A>(&self, name: &str, attack: impl AsyncFnMut() -> A) {
        let good = |comparison: &Comparison| comparison.ratio() >= LEAST;
        let comparison = compare(&self.net, &self.honest, self.rounds, attack, good).await;
        let (ratio, share) = (comparison.ratio(), comparison.lowest_share());
        let growth = comparison.growth_bytes();
        let total = |reached: &crate::honest::Reached| reached.total().round();
        println!(
            "{name}: {:?} messages/s without, {:?} with it: {ratio:.2} ×, lowest share {share:.2}, {} KiB more",
            comparison.without.iter().map(total).collect::<Vec<_>>(),
            comparison.with.iter().map(total).collect::<Vec<_>>(),
            growth / 1_024
        );
        assert!(ratio >= LEAST, "{name}: honest throughput fell to {ratio:.2} ×");
        assert!(growth <= MOST_BYTES, "{name}: {growth} bytes more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_a_second_costs_nobody_anything() {
    let scene = Scene::new().await;
    scene.endures("one byte a second", async || slow(&scene.attacker, &scene.addr, &scene.federation).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_streams_cost_nobody_anything() {
    let scene = Scene::new().await;
    let mut held = 0;
    let attack = async || {
        let (network, streams) = many_streams(&scene.addr, 5_000).await;
        held = held.max(streams.len());
        (network, streams)
    };
    scene.endures("5,000 streams", attack).await;
    // All that one peer can think to have, over all protocols and connections; the node refuses further ones later than
    // the peer believes, since multistream-select lets it believe.
    println!("the attacker held {held} streams at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_signatures_cost_nobody_anything() {
    let scene = Scene::new().await;
    scene
        .endures("bad signatures", async || {
            let known = flood(&scene.attacker, &scene.addr, &scene.federation, 4);
            let unknown = flood(&new_key(), &scene.addr, &scene.federation, 4);
            (known, unknown)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_cost_nobody_anything_and_end() {
    let scene = Scene::new().await;
    let port = scene.net.port(0);
    let before = scene.net.descriptors(0);
    scene.endures("100 half-open connections", async || half_open(&scene.addr, port, 100).await).await;
    // Others are let in all the same, from another place: the one that fills up has used its part.
    let filling = attacks::silent(port, 150);
    let late = scene.net.mailbox("late", 0).await;
    drop(filling);
    let late = Honest::start(&late, None).await;
    drop(late);
    let (sockets, networks) = half_open(&scene.addr, port, 30).await;
    // The node ends them all; nobody here closes any.
    scene.net.descriptors_fall_to(0, before + 8).await;
    drop((sockets, networks));
}
