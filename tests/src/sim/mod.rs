//! The seeded simulator: the real rooms, codec and verification; a network, disks and clocks that one number decides.
//!
//! A run has a stormy part, in which nodes crash between any two steps, connections break, stall and come back, disks
//! are slow and clients send; then everything heals, and within a bounded time all that was promised must be where it
//! belongs. `docs/simulator.md` says what is simulated and what is not.

mod answers;
mod calls;
mod client;
mod edge;
mod faults;
mod invariants;
mod log;
mod mangle;
mod net;
mod node;
mod outputs;
mod rng;
mod sessions;
mod stats;
mod trace;
mod world;

pub use invariants::Violation;
pub use stats::Stats;

/// A bug that is planted to see whether the simulator finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What a group of inputs wants to say is said before its transaction is committed.
    SignBeforePersist,
    /// The sequencer's node delivers what it has drafted before the cut is certified.
    DeliverBeforeCut,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 2] = [Bug::SignBeforePersist, Bug::DeliverBeforeCut];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::SignBeforePersist => "sign-before-persist",
            Bug::DeliverBeforeCut => "deliver-before-cut",
        }
    }

    /// The bug of a name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The bug that is planted.
    pub bug: Option<Bug>,
    /// Whether a step that came too early is let pass, so that only what comes of it counts.
    pub outcomes_only: bool,
    /// Whether every event is printed.
    pub trace: bool,
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
    /// The hash of all events.
    pub trace: [u8; 32],
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    world::World::new(seed, options).run(seed)
}
