//! One origin that hogs, while the others behave.
//!
//! Each origin is a node of its own. Ten of them are heavy for two cores, so CI has three; what is shared between them,
//! the sequencer's turns and the receivers, is the same. The honest send at a pace that the machine can bear, for with
//! all processes on two cores a closed loop would measure the scheduler.

use std::time::Duration;

use postroad_client::{Outgoing, Sender, SenderOptions};
use tokio::task::JoinSet;

use crate::honest::{Comparison, Honest, compare};
use crate::net::Net;
use crate::scale;

/// A sender who gives message after message and waits for no answer.
async fn hog(sender: &Sender, to: postroad_protocol::MailboxId) {
    loop {
        let message = Outgoing::new([to], vec![7; 4_096]);
        // The ticket is dropped: what becomes of the message is nothing to this sender.
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_hogs_leaves_the_others_their_share() {
    let origins = scale("POSTROAD_ORIGINS", 3, 10);
    let net = Net::start(origins).await;
    let mut honest = Vec::new();
    for origin in 1..origins {
        let mailbox = net.mailbox(&format!("honest-{origin}"), origin).await;
        honest.push(Honest::start(&mailbox, Some(Duration::from_millis(50))).await);
    }
    // Its mail goes to the others' homes too, so that they have it to receive.
    let (greedy, to) = (net.mailbox("greedy", 0).await, net.mailbox("drowned", 1).await.address());
    let sender = std::sync::Arc::new(Sender::connect(&greedy, SenderOptions::default()).await.expect("a sender"));
    let attack = async || {
        let mut tasks = JoinSet::new();
        let sender = std::sync::Arc::clone(&sender);
        tasks.spawn(async move { hog(&sender, to).await });
        tasks
    };
    let good = |comparison: &Comparison| comparison.ratio() >= 0.8 && comparison.lowest_share() >= 0.5;
    let comparison = compare(&net, &honest, (2, Duration::from_secs(2)), attack, good).await;
    let (ratio, share) = (comparison.ratio(), comparison.lowest_share());
    println!("{origins} origins, one of which hogs: the others reach {ratio:.2} ×, the lowest share is {share:.2}");
    assert!(ratio >= 0.8, "honest throughput fell to {ratio:.2} ×: {comparison:?}");
    assert!(share >= 0.5, "an honest origin got {share:.2} of its share: {comparison:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hogs_its_node_leaves_the_others_their_share() {
    let net = Net::start(1).await;
    let mut honest = Vec::new();
    for name in ["alice", "bob", "carol"] {
        honest.push(Honest::start(&net.mailbox(name, 0).await, Some(Duration::from_millis(50))).await);
    }
    let greedy = net.mailbox("greedy", 0).await;
    let to = greedy.address();
    let sender = std::sync::Arc::new(Sender::connect(&greedy, SenderOptions::default()).await.expect("a sender"));
    let attack = async || {
        let mut tasks = JoinSet::new();
        let sender = std::sync::Arc::clone(&sender);
        tasks.spawn(async move { hog(&sender, to).await });
        tasks
    };
    let good = |comparison: &Comparison| comparison.ratio() >= 0.8 && comparison.lowest_share() >= 0.5;
    let rounds = (scale("POSTROAD_ROUNDS", 2, 10), Duration::from_secs(2));
    let comparison = compare(&net, &honest, rounds, attack, good).await;
    let (ratio, share) = (comparison.ratio(), comparison.lowest_share());
    println!("beside a client that hogs: the others reach {ratio:.2} ×, the lowest share is {share:.2}");
    assert!(ratio >= 0.8, "honest throughput fell to {ratio:.2} ×: {comparison:?}");
    assert!(share >= 0.5, "an honest client got {share:.2} of its share: {comparison:?}");
}
