//! What must hold, whatever happens: one file each. They see what leaves a node and what clients verified, never what a
//! node thinks.

pub(super) mod central;
pub(super) mod once_each;
pub(super) mod one_order;
pub(super) mod one_statement;

use std::fmt;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {} ms): {}", self.invariant, self.at_ms, self.what)
    }
}

/// What a check says: nothing, or what is wrong. The world adds the time.
pub(super) type Verdict = Result<(), Broken>;

/// A violation without its time.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) invariant: &'static str,
    pub(super) what: String,
}

/// Steps in their order: on disk before it is signed, certified before it is applied.
pub(super) const STEPS: &str = "steps";

impl Broken {
    /// Whether it is about the order of steps inside a node, and not about what came of it.
    pub(super) fn is_order_of_steps(&self) -> bool {
        self.invariant == STEPS
    }
}

/// Says that `invariant` does not hold.
pub(super) fn broken<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { invariant, what: what.into() })
}
