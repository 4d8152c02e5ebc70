//! What has happened in a state. A property that holds because nothing ever happens is none, so the tests want these seen.

use super::state::{Base, Fate, MESSAGES, State, Switch};

/// Something that an exploration should come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// A move has finished.
    Finished,
    /// A home builds on a log that a move brought to another home before.
    MovedBase,
    /// An import closed what the one before had missed.
    Caught,
    /// What was included after the switch was imported.
    Straggler,
    /// The mailbox lives where it lived before.
    Return,
    /// Two switches settled in one cut.
    Passed,
    /// A switch can never settle.
    Lost,
    /// The mailbox has moved away from a home that is gone, and that move has finished.
    Rescued,
    /// What the recovery key signed took effect though the device key's thief had another record settled.
    Overridden,
}

/// What a state has come by.
pub fn milestones(state: &State) -> impl Iterator<Item = Milestone> {
    let home = state.present();
    let earlier = &state.residences()[..state.residences().len() - 1];
    let finished = home.base.is_some() && home.complete != 0;
    let closed = |test: &dyn Fn(usize) -> bool| (0..MESSAGES).any(|at| home.closed[at] != 0 && test(at));
    let was_first = |node| earlier.last().is_some_and(|last| last.node == node);
    let thief = state.switches().iter().any(|switch| switch.thief && switch.settled != 0 && switch.effect == 0);
    [
        (Milestone::Finished, finished),
        (Milestone::MovedBase, matches!(home.base, Some(Base::Attested(1.., _)))),
        (Milestone::Caught, closed(&|at| home.closed[at] > home.imported.first && !late(state, at))),
        (Milestone::Straggler, closed(&|at| state.messages[at].included >= home.since)),
        (Milestone::Return, earlier.iter().any(|residence| residence.node == home.node)),
        (Milestone::Passed, earlier.iter().any(|residence| residence.since == residence.until)),
        (Milestone::Lost, state.switches().iter().any(|switch| switch.replaces == Switch::DEAD)),
        (Milestone::Rescued, finished && matches!(state.fate, Fate::Dead(node, _) if was_first(node))),
        (Milestone::Overridden, thief && state.switches().iter().any(|switch| switch.recovery && switch.effect != 0)),
    ]
    .into_iter()
    .filter_map(|(milestone, come_by)| come_by.then_some(milestone))
}

/// Whether a message was included only after the home's first import.
fn late(state: &State, message: usize) -> bool {
    state.messages[message].included >= state.present().imported.first
}
