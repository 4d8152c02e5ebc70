//! What applications use: connect, send, subscribe, acknowledge, verify.
//!
//! A [`Mailbox`] is a directory with the keys of one address. A [`Sender`] sends from it, and holds on to every message
//! until its place in the one order is proven. A [`Receiver`] reads it: whatever it hands out was verified, down to the
//! certified cut that ordered it. Both may run at once, in one process or two. Nodes are never believed: every answer
//! carries a proof, and what does not verify is an error that says which part.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`mailbox_dir`] | the directory of a mailbox |
//! | [`private_file`] | files of secret keys |
//! | [`export`] | the whole state of a mailbox in one file under a passphrase |
//! | [`connection`] | addresses of nodes, calls, the client stream |
//! | [`directory`] | where mailboxes live, with proof |
//! | [`history`] | the homes of a mailbox, with their signed records |
//! | [`explain`] | the way of a message, from what several nodes have of it |
//! | [`accuse`] | claims from what a client has |
//! | [`seal`] | end-to-end sealing of payloads, byte by byte |
//! | [`control`] | what the libraries ask and tell each other about missing mail |
//! | [`moving`] | moving a mailbox to another home |
//! | [`sender`] | bundles, persisted before they are sent; the three answers |
//! | [`receiver`] | entries, attestations, acknowledgements |
//! | [`verify_log`], [`delivery`], [`numbers`] | the decisions of a receiver, without IO |
//!
//! What it does not do: accuse anybody (it reports what does not hold, with the statements), or keep
//! mail. An application keeps its mail itself, and says so by [`Receiver::acknowledge`].
//!
//! ```no_run
//! use std::time::Duration;
//! use postroad_client::{Endpoint, Mailbox, NodeAddr, Outgoing, Sender, SenderOptions, Wait};
//!
//! # async fn example() -> Result<(), postroad_client::ClientError> {
//! let home: NodeAddr = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".parse()?;
//! let federation = Endpoint::anonymous()?.genesis(&home).await?;
//! let mailbox = Mailbox::create("me".as_ref(), &home, &federation)?;
//! mailbox.register(Duration::from_secs(30)).await?;
//!
//! let sender = Sender::connect(&mailbox, SenderOptions::default()).await?;
//! let mut ticket = sender.send(Outgoing::new([mailbox.address()], "a note to myself")).await?;
//! println!("{:?}", ticket.reached(Wait::Ordered).await?.seq);
//! # Ok(()) }
//! ```

pub mod accuse;
mod blocks;
pub mod connection;
pub mod control;
pub mod delivery;
pub mod directory;
mod error;
pub mod explain;
pub mod export;
#[cfg(test)]
mod fixture;
pub mod history;
mod locked_store;
pub mod mailbox_dir;
pub mod moving;
mod nodes;
pub mod numbers;
pub mod private_file;
pub mod receiver;
mod register;
pub mod seal;
pub mod sender;
pub mod verify_log;

pub use connection::{Endpoint, NodeAddr};
pub use delivery::Mode;
pub use directory::Directory;
pub use error::ClientError;
pub use explain::Explainer;
pub use export::{ExportError, Exported, Passphrase};
pub use history::History;
pub use mailbox_dir::{Mailbox, read_genesis};
pub use moving::{MoveOptions, MovePolicy, Mover};
pub use numbers::{Closed, Hole, Place};
pub use private_file::{new_secret_key, read_secret_key};
pub use receiver::{Content, Keep, Kept, Mail, Memory, Received, Receiver, ReceiverOptions};
pub use sender::{Body, Outgoing, Progress, RefusedRecipient, Sender, SenderOptions, Stage, Ticket, Wait};
pub use verify_log::Violation;
