//! The seeded simulator: the real rooms, codec and verification; a network, disks and clocks that one number decides.
//!
//! A run has a stormy part, in which nodes crash between any two steps, connections break, stall and come back, disks
//! are slow and clients send; then everything heals, and within a bounded time all that was promised must be where it
//! belongs. `docs/simulator.md` says what is simulated and what is not.

mod answers;
mod bugs;
mod calls;
mod client;
mod client_store;
mod disk;
mod edge;
mod faults;
mod harvest;
mod invariants;
mod log;
mod mangle;
mod movers;
mod moves;
mod net;
mod node;
mod outputs;
pub(crate) mod rng;
mod sessions;
mod sinners;
mod stats;
mod trace;
mod world;

pub use bugs::Bug;
pub use harvest::{Harvest, Story, harvest};
pub use invariants::Violation;
pub(crate) use sinners::{Sinful, Sinners, sin};
pub use stats::Stats;

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The bug that is planted.
    pub bug: Option<Bug>,
    /// Whether a step that came too early is let pass, so that only what comes of it counts.
    pub outcomes_only: bool,
    /// Whether every event is printed.
    pub trace: bool,
    /// Whether owners move their mailboxes.
    pub moves: bool,
}

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The invariant that did not hold, if one did not.
    pub violation: Option<Violation>,
    /// What happened.
    pub stats: Stats,
    /// The longest that anything accepted took to be final, once all faults had ended; milliseconds of cut time.
    pub final_ms: u64,
    /// The hash of all events.
    pub trace: [u8; 32],
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    world::World::new(seed, options).run(seed)
}
