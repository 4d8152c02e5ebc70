//! The protocol of moving a mailbox as a small model, explored in every state that it can reach.
//!
//! Proofs are facts here: nobody lies, and what is final is known. What remains is who is home, to whom a message
//! belongs, what a new home builds on and imports, and what may happen between any two cuts. [`state`] holds it,
//! [`cut`] says what a cut and the home's node do, [`judge`] what the protocol holds them to, [`rest`] that from every
//! state all can come right, [`milestones`] what must have happened for that to mean anything; [`explore`] visits the
//! states. `docs/testing.md` says what is left out.

pub mod cut;
pub mod explore;
pub mod judge;
pub mod milestones;
pub mod rest;
pub mod state;
mod steps;

pub use steps::Step;

use state::{Epoch, MESSAGES, Node, State};

/// A setting in which everything that can happen is explored.
#[derive(Clone, Copy, Debug)]
pub struct Moving {
    /// How many nodes there are; the mailbox is registered at the first.
    pub homes: Node,
    /// How many of the messages are written.
    pub messages: usize,
    /// After this cut nothing new happens.
    pub last: Epoch,
    /// How many switches to another home the owner signs.
    pub moves: usize,
    /// How many records the owner signs that abandon one.
    pub abandons: usize,
    /// Whether a recovery key is registered. Then the owner signs with it, and a thief has the device key: it signs one
    /// switch and one record that abandons.
    pub recovery_key: bool,
    /// Whether a node may be started again, once.
    pub restart: bool,
    /// Whether a node may die for good, once, unless one was started again.
    pub death: bool,
    /// Whether a home may refuse messages.
    pub refusal: bool,
    /// Whether the owner reads in between, and not only in the end.
    pub reads: bool,
    /// Whether a new home has its base from the start, so that nothing happens while it has none.
    pub prepared: bool,
    /// What is wrong.
    pub bug: Option<Bug>,
}

/// Mistakes that whoever builds this could make, and rules without which it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A home takes what is settled for its node while the mailbox lives there, also what was routed to an earlier
    /// residence there.
    AnyResidence,
    /// An import leaves out what was included after the switch.
    MissesStragglers,
    /// An import appends what one before it has closed.
    ImportsAgain,
    /// A switch settles that names a record which was replaced.
    SameReplaces,
    /// The old home attests the mailbox for one more epoch.
    AttestsOn,
    /// The log of a home whose own move had not finished serves as a base.
    IncompleteBase,
    /// A move finishes before the last header of the old directory can be included.
    FinishesEarly,
    /// A fill of the old home after the switch is taken for delivery.
    TrustsLateFills,
    /// A node that was started again has forgotten the base that it attested.
    ForgetsBase,
    /// The old home's receipts refuse, as unknown, what was routed before the switch.
    RefusesUnknown,
    /// What overrides a switch that waits leaves it waiting.
    WaitingStays,
    /// A switch that the recovery key signed must name the very record in force.
    RecoveryNamesRecord,
    /// Split view is judged across two residences at one node.
    SplitAcrossResidences,
    /// The owner's client takes what lies behind the place up to which it has read for new.
    ShowsByIndex,
}

impl explore::Model for Moving {
    type State = State;
    type Step = Step;
    type Milestone = milestones::Milestone;

    fn initial(&self) -> State {
        State::registered()
    }

    fn steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        self.all_steps(state, out);
    }

    fn milestones(&self, state: &State) -> impl Iterator<Item = milestones::Milestone> {
        milestones::milestones(state)
    }

    fn violation(&self, state: &State) -> Option<String> {
        let rules = one_home(state).or_else(|| first_cut_wins(state)).or_else(|| self.recovery_holds(state));
        let shown = || state.shown_twice.then(|| "the owner was shown a message twice".to_owned());
        rules.or_else(shown).or_else(|| self.blame(state)).or_else(|| self.comes_right(state))
    }
}

/// Every epoch since the registration has exactly one home.
fn one_home(state: &State) -> Option<String> {
    let lives = |epoch: Epoch| {
        let there = |r: &&state::Residence| r.since <= epoch && (r.until == 0 || epoch < r.until);
        state.residences().iter().filter(there).count()
    };
    (1..=state.head).find(|epoch| lives(*epoch) != 1).map(|epoch| format!("epoch {epoch} has {} homes", lives(epoch)))
}

/// Of those records that replace one record, the first that takes hold is the only one: a second move cannot, nor a move
/// that was abandoned. Only the recovery key's may come after what the device key signed.
fn first_cut_wins(state: &State) -> Option<String> {
    let held = || (1u8..).zip(state.switches()).filter(|(_, switch)| holds_from(switch) != 0);
    held().find_map(|(one, first)| {
        let second = held().find(|(other, second)| {
            let overrides = second.recovery && !first.recovery;
            // Of one cut it is not told which came first; of two of a kind neither may come second.
            let kinds = u8::from(second.recovery != first.recovery);
            let later = holds_from(second) >= holds_from(first) + kinds && second.effect != 0;
            one != *other && first.replaces == second.replaces && later && !overrides
        });
        second.map(|(other, _)| format!("record {other} took effect after record {one}, which replaced the same one"))
    })
}

/// Since when a switch stands in for the record that it replaces: its effect, or its cut where the home stays; 0: never.
fn holds_from(switch: &state::Switch) -> Epoch {
    if switch.stays { switch.settled } else { switch.effect }
}

impl Moving {
    /// What the device key alone signed waits, and cannot keep what the recovery key signed from settling.
    fn recovery_holds(&self, state: &State) -> Option<String> {
        if !self.recovery_key {
            return None;
        }
        (1u8..).zip(state.switches()).find_map(|(record, switch)| {
            if switch.effect != 0 && !switch.recovery && switch.effect < switch.settled + state::DELAY {
                return Some(format!("record {record} took effect before its delay"));
            }
            let since = |other: &&state::Switch| other.recovery && holds_from(other) > switch.signed;
            let replaced = state.switches().iter().any(|other| since(&other));
            let starved = switch.recovery && switch.settled == 0 && !self.fits(state, record) && !replaced;
            starved.then(|| format!("record {record} of the recovery key was replaced by the device key"))
        })
    }
}

/// All messages, as numbers.
fn numbers() -> std::ops::Range<usize> {
    0..MESSAGES
}
