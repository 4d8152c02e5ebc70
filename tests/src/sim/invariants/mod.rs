//! What must hold, whatever happens: one file each. They see what leaves a node and what clients verified, never what a
//! node thinks.

pub(super) mod attestations;
pub(super) mod central;
pub(super) mod chains;
pub(super) mod custody;
pub(super) mod in_time;
pub(super) mod logs;
pub(super) mod no_blame;
pub(super) mod once_each;
pub(super) mod one_order;
pub(super) mod one_statement;
pub(super) mod residences;

use std::collections::BTreeSet;
use std::fmt;

use postroad_protocol::cut::Cut;
use postroad_protocol::{Federation, MailboxId, NodeId};

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

/// All invariants.
pub(super) struct Checks {
    pub(super) order: one_order::OneOrder,
    pub(super) statements: one_statement::OneStatement,
    pub(super) once: once_each::OnceEach,
    pub(super) oracle: central::Oracle,
    pub(super) chains: chains::Chains,
    pub(super) logs: logs::Logs,
    pub(super) attestations: attestations::Attestations,
    pub(super) custody: custody::Pending,
    pub(super) in_time: in_time::InTime,
    pub(super) no_blame: no_blame::NoBlame,
    /// Who cheats: what such a node does wrong to its own is not looked at.
    pub(super) sinners: BTreeSet<NodeId>,
    /// Those of them whose logs are not what they should be: neither are those that continue them.
    pub(super) liars: BTreeSet<NodeId>,
}

impl Checks {
    pub(super) fn new(federation: &Federation) -> Checks {
        Checks {
            order: Default::default(),
            statements: Default::default(),
            once: Default::default(),
            oracle: Default::default(),
            chains: chains::Chains::new(federation),
            logs: Default::default(),
            attestations: Default::default(),
            custody: Default::default(),
            in_time: Default::default(),
            no_blame: Default::default(),
            sinners: BTreeSet::new(),
            liars: BTreeSet::new(),
        }
    }

    /// A cut that nobody looked at before, in order.
    pub(super) fn ordered(&mut self, cut: &Cut, federation: &Federation) -> Verdict {
        self.oracle.ordered(cut, federation)?;
        self.chains.ordered(cut, federation)?;
        self.custody.ordered(cut, federation)?;
        self.no_blame.ordered(cut, |header| self.oracle.bundles(header), &self.sinners, federation)?;
        let state = self.chains.state();
        let (sinners, liars) = (&self.sinners, &self.liars);
        self.logs.ordered(cut, state, |header| self.oracle.bundles(header), (sinners, liars), federation)?;
        self.attestations.ordered(&self.logs, federation)?;
        self.in_time.ordered(cut, &self.attestations)
    }

    /// The end. Returns the longest that anything accepted took to be final, in cut time.
    pub(super) fn finish(&self, mailboxes: &[MailboxId]) -> Result<u64, Broken> {
        self.once.finish()?;
        self.oracle.finish(mailboxes)?;
        self.custody.finish()?;
        self.attestations.finish()?;
        self.in_time.finish(&self.logs)
    }
}
