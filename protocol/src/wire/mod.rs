//! What travels on each libp2p protocol, and how much of it at most.
//!
//! Every message is the canonical encoding of one value; the framing below it is the network crate's. A protocol's
//! first message in each direction is a `Hello` that names the federation.

pub mod call;
pub mod client;
pub mod mail;
pub mod order;

/// Slices and their receipts: a long-lived stream from an origin to a holder.
pub const MAIL: &str = "/postroad/1/mail";
/// Headers, fills and records to the sequencer; cuts to everybody: a long-lived stream.
pub const ORDER: &str = "/postroad/1/order";
/// A client with a node: a long-lived stream.
pub const CLIENT: &str = "/postroad/1/client";
/// One question and one answer.
pub const CALL: &str = "/postroad/1/call";

/// The largest message on [`MAIL`]: a slice of the largest batch, with its paths.
pub const MAX_MAIL_BYTES: usize = 32 << 20;
/// The largest message on [`ORDER`]: a cut.
pub const MAX_ORDER_BYTES: usize = 16 << 20;
/// The largest message on [`CLIENT`]: the largest bundle, or an entry of it.
pub const MAX_CLIENT_BYTES: usize = 16 << 20;
/// The largest question on [`CALL`]: evidence, and a few bytes around it.
pub const MAX_QUESTION_BYTES: usize = crate::evidence::MAX_EVIDENCE_BYTES + 64;
/// The largest answer on [`CALL`]: a page of cuts, or a slice.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;
