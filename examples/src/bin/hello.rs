//! Two mailboxes, one message, and the proof of its place in the order.
//!
//! Start a federation, then give this program the address of any of its nodes:
//!
//! ```text
//! postroad testnet --nodes 4 --dir net
//! cargo run -p postroad-examples --bin hello -- MULTIADDR
//! ```

use std::error::Error;
use std::time::Duration;

use postroad_client::{Endpoint, Mailbox, NodeAddr, Outgoing, Received, Receiver, ReceiverOptions, Sender};
use postroad_client::{SenderOptions, Wait};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node: NodeAddr = std::env::args().nth(1).ok_or("usage: hello MULTIADDR")?.parse()?;

    // The first contact is trusted: it says which federation this is. Everything after it is proven.
    let federation = Endpoint::anonymous()?.genesis(&node).await?;

    // A mailbox is a directory with keys. Registering gives it a home, and returns once a cut has settled that.
    let dir = tempfile::tempdir()?;
    let alice = Mailbox::create(&dir.path().join("alice"), &node, &federation)?;
    let bob = Mailbox::create(&dir.path().join("bob"), &node, &federation)?;
    for mailbox in [&alice, &bob] {
        let epoch = mailbox.register(Duration::from_secs(30)).await?;
        println!("{} is registered since epoch {epoch}", mailbox.address());
    }

    // The bundle is on Alice's disk before it is on the wire; `Delivered` is the last of the three answers.
    let sender = Sender::connect(&alice, SenderOptions::default()).await?;
    let mut ticket = sender.send(Outgoing::new([bob.address()], "good day").waiting_for(Wait::Delivered)).await?;
    println!("ordered at {:?}", ticket.reached(Wait::Ordered).await?.seq);
    println!("{:?}", ticket.reached(Wait::Delivered).await?.stage);

    // Whatever a receiver hands out was verified, down to the certified cut.
    let mut receiver = Receiver::connect(&bob, ReceiverOptions::default()).await?;
    while let Some(received) = receiver.next().await? {
        if let Received::Message(mail) = received {
            println!("{} {}: {}", mail.seq, mail.sender, String::from_utf8_lossy(mail.body().unwrap_or_default()));
            // The proof needs nothing but genesis: a stranger can check it offline (`postroad verify`).
            let placed = mail.proof(&federation).verify(&federation)?;
            println!("the proof says {} from {}", placed.seq, placed.sender);
        }
    }
    // What was handed out is safe with us: the home may forget it.
    receiver.acknowledge().await?;
    Ok(())
}
