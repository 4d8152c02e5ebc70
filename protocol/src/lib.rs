//! What is said in Postroad: the types, their one canonical encoding, hashes and signatures, Merkle structures, cuts
//! and the state they change, attestations, and the proofs that a client or a stranger verifies.
//!
//! Everything here is pure: no IO, no clock, no randomness, no async. `tests/` holds the dependency list to that.

pub mod attestation;
pub mod batch;
pub mod block_list;
pub mod bundle;
pub mod challenge;
pub mod codec;
pub mod crypto;
pub mod cut;
pub mod digest;
pub mod entry;
pub mod error;
pub mod evidence;
pub mod explanation;
mod file;
pub mod genesis;
pub mod merkle;
pub mod message;
pub mod moving;
pub mod receipt;
pub mod record;
pub mod refused;
pub mod seq;
pub mod signed;
pub mod slice;
pub mod state;
pub mod wire;

pub use crypto::{MailboxId, NodeId, PublicKey, SecretKey, Signature};
pub use digest::Digest;
pub use error::{DecodeError, Refusal, VerifyError};
pub use genesis::{Federation, Genesis, Params};
pub use seq::Seq;
pub use signed::{Signed, Verified};
