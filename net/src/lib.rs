//! What moves bytes: one libp2p swarm behind a small handle, and messages framed on its streams.
//!
//! This crate exists so that node and client share one way to reach a peer and neither depends on
//! libp2p. It knows peers, connections, streams and frames; it knows none of Postroad's messages,
//! never looks into a payload and checks no signature of the protocol.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `network` | [`Network`], the cloneable handle: connect, open, disconnect |
//! | `task` | the one task that owns the swarm; it only ever moves state between bounded channels |
//! | `dials` | who waits for which dial, and which addresses are still untried |
//! | `outbox` | events for the owner: state survives a slow consumer, streams are refused |
//! | `streams`, `handler`, `quota` | the libp2p behaviour that opens and accepts streams |
//! | `limits` | who may connect, by count and by memory |
//! | `transport`, `muxer` | TCP+Noise+Yamux and QUIC, with windows that fit strangers |
//! | `framed` | messages on a stream |
//! | `watchdog` | how late the swarm's task is, and what it counts |
//! | `backoff` | when to dial again |
//! | `address` | keys, peer ids and addresses |
//!
//! What it refuses: streams over a peer's quota, streams nobody takes, connections over the limits,
//! messages over the reader's size, and every second way to frame the same message. What it does
//! not do: redial by itself, dial an address because somebody advertised it, or promise that bytes
//! written were taken. Only an answer of the application is an acknowledgement.

mod address;
mod backoff;
mod config;
mod dials;
mod error;
mod framed;
mod handler;
mod limits;
mod muxer;
mod network;
mod outbox;
mod patience;
mod quota;
mod stream;
mod streams;
mod task;
mod transport;
mod watchdog;

pub use address::{AddressError, join_address, key_from_peer_id, peer_id_from_key, peer_id_from_secret, split_address};
pub use backoff::Backoff;
pub use config::{Config, Limits, Protocol};
pub use error::{ConnectError, OpenError, StartError};
pub use framed::{FRAME_BYTES, FrameError, FramedReader, FramedWriter};
pub use libp2p::{Multiaddr, PeerId};
pub use limits::resident_bytes;
pub use network::Network;
pub use outbox::Event;
pub use stream::{Meter, Stream, StreamReader, StreamWriter};
pub use watchdog::Figures;
