//! Peers that come and go without end.

use crate::attacks::{connect, new_key, peer, raw};
use crate::net::Net;
use crate::scale;

/// How many connections in a row one network makes before its key is changed.
const PER_KEY: usize = 50;
/// What the second half of all connections may add: less than a byte for each hundred bytes that a forgotten entry has.
const SLACK_BYTES: u64 = 4 << 20;

/// Half of them sockets that say nothing, half of them peers with a finished handshake, most with a new key.
async fn turn_over(net: &Net, count: usize) {
    let port = net.port(0);
    let mut made = 0;
    while made < count {
        let network = peer(&new_key());
        for _ in 0..PER_KEY.min(count - made) {
            if made % 2 == 0 {
                drop(raw(port).await);
            } else if let Some(node) = connect(&network, &net.addr(0)).await {
                network.disconnect(node).await;
            } else {
                panic!("the node lets nobody in after {made} connections");
            }
            made += 1;
        }
        network.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_end_leave_nothing_behind() {
    let count = scale("POSTROAD_CONNECTIONS", 600, 20_000);
    let net = Net::start(1).await;
    let descriptors = net.descriptors(0);
    turn_over(&net, count / 2).await;
    net.descriptors_fall_to(0, descriptors + 4).await;
    let half = net.memory_bytes(0);
    turn_over(&net, count / 2).await;
    net.descriptors_fall_to(0, descriptors + 4).await;
    let whole = net.memory_bytes(0);
    println!(
        "{count} connections: {} and then {} KiB, {descriptors} and then {} descriptors",
        half / 1_024,
        whole / 1_024,
        net.descriptors(0)
    );
    assert!(whole <= half + SLACK_BYTES, "{} bytes more for {} more connections", whole - half, count / 2);
}
