//! Follows a mailbox and answers every message with its own text.
//!
//! ```text
//! postroad mailbox new --dir echo --home MULTIADDR
//! cargo run -p postroad-examples --bin echo -- echo
//! postroad send --mailbox alice --to ADDRESS-OF-ECHO "is anybody there?"
//! ```

use std::error::Error;

use postroad_client::{Mailbox, Outgoing, Received, Receiver, ReceiverOptions, Sender, SenderOptions, Wait};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: echo MAILBOX-DIR")?;
    let mailbox = Mailbox::open(dir.as_ref())?;
    println!("{} answers; stop it with Ctrl-C", mailbox.address());

    // Sending and receiving have a store of their own each, so both run at once.
    let sender = Sender::connect(&mailbox, SenderOptions::default()).await?;
    let options = ReceiverOptions { follow: true, ..ReceiverOptions::default() };
    let mut receiver = Receiver::connect(&mailbox, options).await?;

    while let Some(received) = receiver.next().await? {
        match received {
            Received::Message(mail) if mail.sender != mailbox.address() => {
                let Some(body) = mail.body() else { continue };
                println!("{} {}: {}", mail.seq, mail.sender, String::from_utf8_lossy(body));
                let mut ticket = sender.send(Outgoing::new([mail.sender], body)).await?;
                // Accepted: the answer is where it must be, even if this process dies now. Only then is the
                // question done with, so a crash before this line answers twice rather than never.
                ticket.reached(Wait::Accepted).await?;
                receiver.acknowledge().await?;
            }
            Received::Gap { sender: from, hole } => {
                println!("missing: numbers {} to {} of {from}", hole.from, hole.to);
                // The library asks the sender what became of them, once.
                receiver.correspond(&sender).await?;
            }
            // Others may miss something of ours, and ask.
            Received::Control(_) => {
                receiver.acknowledge().await?;
                receiver.correspond(&sender).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
