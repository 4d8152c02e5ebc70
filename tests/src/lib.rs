//! Federations under test.
//!
//! [`sim`] is the seeded simulator: the real rooms, the real codec and the real verification under a scheduler that one
//! number decides. [`reference`](mod@reference) is the central server that the federation must be indistinguishable
//! from. [`model`] is moving a mailbox as a small model, for exploring every state. [`fuzz`] is what the fuzzers run. The
//! tests in `tests/` run them, and hold the pure crates to their dependency lists.

pub mod framing;
pub mod fuzz;
pub mod model;
pub mod reference;
pub mod sim;
pub mod sins;
