//! From every state it can all come right: with nobody writing and nothing breaking any more, the mailbox comes to a home
//! that has every ordered message once, and its owner sees them all.

use super::cut::Cut;
use super::state::{Message, State, Switch};
use super::{Moving, numbers};

/// More cuts than it takes.
const PATIENCE: usize = 24;

impl Moving {
    /// Brings a copy of a state to rest, and says what is not right then.
    pub(super) fn comes_right(&self, state: &State) -> Option<String> {
        let mut state = state.clone();
        for _ in 0..PATIENCE {
            if self.is_at_rest(&state) {
                return self.wrong_at_rest(state);
            }
            let mut cut = Cut::default();
            let home = *state.present();
            if state.waiting.is_some() || !state.alive(home.node) {
                // Whoever moves away from a dead home has the right to, and a recovery key, if there is one.
                let to =
                    if state.alive(home.node) { Some(home.node) } else { (0..self.homes).find(|n| state.alive(*n)) };
                let to = to.expect("one node dies at most");
                let abandons = to == home.node;
                let (replaces, signed) = (state.anchor, state.head);
                let switch = Switch { to, abandons, replaces, recovery: true, signed, ..Switch::default() };
                cut.switches[0] = state.sign(switch);
            } else if !is_finished(&state) {
                if home.base.is_none() {
                    state.present_mut().base = self.bases(&state).pop();
                }
                if home.named == 0 {
                    state.present_mut().named = state.head;
                }
                cut.import = Some((state.head, 0));
            }
            cut.fills = numbers().filter(|at| waits(&state, &state.messages[*at])).fold(0, |bits, at| bits | 1 << at);
            state = self.settle(&state, &cut);
        }
        Some("it never comes to rest".to_owned())
    }

    fn is_at_rest(&self, state: &State) -> bool {
        let filled = !state.messages.iter().any(|message| waits(state, message));
        state.waiting.is_none() && state.alive(state.present().node) && is_finished(state) && filled
    }

    fn wrong_at_rest(&self, mut state: State) -> Option<String> {
        let present = state.residences().len() - 1;
        let log = state.log(present);
        for at in numbers() {
            let message = &state.messages[at];
            // Without a home that refuses, nobody has the right to.
            let owed = message.included != 0 && !(message.refused && self.refusal);
            let times = log.as_slice().iter().filter(|entry| entry.message as usize == at).count();
            if times != usize::from(owed) {
                return Some(format!("message {at} is in the log {times} times"));
            }
        }
        self.read(&mut state);
        let unseen = log.as_slice().iter().find(|entry| state.shown & (1 << entry.message) == 0);
        if let Some(entry) = unseen {
            return Some(format!("the owner never sees message {}", entry.message));
        }
        state.shown_twice.then(|| "the owner is shown a message twice".to_owned()).or_else(|| self.blame(&state))
    }
}

/// Whether the mailbox's last move has finished, if there was one.
fn is_finished(state: &State) -> bool {
    state.present().complete != 0
}

/// Whether a pending slice waits for a destination that can take it.
fn waits(state: &State, message: &Message) -> bool {
    message.included != 0 && message.settled() == 0 && state.alive(message.to)
}
