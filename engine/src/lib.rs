//! What is decided: the rooms of a node as sans-IO state machines.
//!
//! A [`Node`] takes [`Input`]s and gives [`Output`]s. It has no clock (time comes with each input), no randomness (the
//! one nonce it needs comes with its configuration), no async and no IO: what it reads of its own past it reads through
//! [`postroad_store::Read`], what it writes it asks for with [`Output::Persist`]. Whoever drives it carries outputs out
//! in order, and makes everything before a `Persist`'s answer durable before it gives that answer. So "persist, fsync,
//! sign, send" can be read off the code: signing happens where [`Input::Persisted`] is handled.
//!
//! The rooms never call each other; [`node`] composes them.

pub mod arrivals;
pub mod auditor;
#[cfg(feature = "cheat")]
pub mod cheat;
pub mod departures;
pub mod deposits;
pub mod evidence;
pub mod exhibits;
pub mod explain;
pub mod gate;
pub mod handover;
pub mod inbox;
pub mod io;
pub mod ledger;
pub mod node;
pub mod outbox;
pub mod peers;
pub mod rate;
pub mod receiver;
pub mod router;
pub mod sequencer;
pub mod serve;
pub mod shelf;
pub mod slices;
pub mod tables;

pub use gate::Load;
pub use io::{ClientId, Fate, Held, Input, Now, Output, Report, Time, Token};
pub use node::{Backlog, Config, Node, OpenError};
