//! What can happen in a state. Owner, thief, origins and homes act between cuts; the sequencer settles any part of what
//! there is to settle. What was signed and waits on its way is not kept: it is signed in the cut that settles it, with
//! everything that it could have said earlier.

use super::cut::{Cut, Reach, has};
use super::state::{Base, Fate, MESSAGES, Message, Node, State, Switch};
use super::{Bug, Moving, numbers};

/// A step of a counterexample.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A message is written, and routed by the directory of the last cut.
    Write(usize),
    /// A switch is signed.
    Sign {
        /// Its new home; the present one: it abandons.
        to: Node,
        /// The record that it replaces.
        replaces: u8,
        /// Whether the recovery key signs it.
        recovery: bool,
    },
    /// The home has a base on its disk.
    Base(Base),
    /// The home attests the mailbox from now on; without restarts it does so as soon as it has a base.
    Attest,
    /// The owner reads its log to the end.
    Read,
    /// The home is started again.
    Restart,
    /// A node is gone for good.
    Die(Node),
    /// A cut is settled.
    Cut(Cut),
}

impl Moving {
    pub(super) fn all_steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        if state.head >= self.last {
            return;
        }
        let home = state.present();
        if self.prepared && home.base.is_none() && state.residences().len() > 1 && state.alive(home.node) {
            self.nodes(state, out);
            return;
        }
        self.people(state, out);
        self.nodes(state, out);
        self.cuts(state, out);
    }

    fn people(&self, state: &State, out: &mut Vec<(Step, State)>) {
        // Messages differ in nothing but when they are written.
        if let Some(at) = numbers().take(self.messages).find(|at| state.messages[*at].routed == 0) {
            let mut next = state.clone();
            let message = &mut next.messages[at];
            (message.routed, message.to) = (state.head, state.present().node);
            out.push((Step::Write(at), next));
        }
        let signed = |abandons, thief| {
            state.switches().iter().filter(|switch| (switch.abandons, switch.thief) == (abandons, thief)).count()
        };
        for to in self.told_apart(state).filter(|to| state.alive(*to)) {
            let abandons = to == state.present().node;
            let mut sign = |replaces: u8, recovery: bool, thief: bool| {
                let mut next = state.clone();
                let signed = if self.recovery_key { state.head } else { 0 };
                next.sign(Switch { to, abandons, replaces, recovery, thief, signed, ..Switch::default() });
                out.push((Step::Sign { to, replaces, recovery }, next));
            };
            if signed(abandons, false) < if abandons { self.abandons } else { self.moves } {
                sign(if self.recovery_key { state.anchor } else { state.record }, self.recovery_key, false);
                // The owner can sign what follows a switch before that has settled.
                let last = state.switches().len() as u8;
                if !self.recovery_key && !abandons && last != 0 {
                    let before = state.switch(last);
                    if before.settled == 0 && before.replaces != Switch::DEAD {
                        sign(last, false, false);
                    }
                }
            }
            if self.recovery_key && signed(abandons, true) < 1 {
                sign(state.record, false, true);
            }
        }
        let home = state.present();
        if self.reads && home.named != 0 && state.alive(home.node) {
            let mut next = state.clone();
            self.read(&mut next);
            if next != *state {
                out.push((Step::Read, next));
            }
        }
    }

    /// The nodes that somebody has named so far, and the first of the others: those differ in nothing.
    fn told_apart(&self, state: &State) -> std::ops::Range<Node> {
        let lived = state.residences().iter().map(|residence| residence.node);
        let named = state.switches().iter().map(|switch| switch.to).chain(lived).max().unwrap_or(0);
        0..self.homes.min(named + 2)
    }

    /// The owner reads to the end, rolled back to where its log and this one part. It knows messages by their numbers.
    pub(super) fn read(&self, state: &mut State) {
        let log = state.log(state.residences().len() - 1);
        let by_index = self.bug == Some(Bug::ShowsByIndex);
        for (index, entry) in log.as_slice().iter().enumerate() {
            let bit = 1 << entry.message;
            if by_index && index >= state.read as usize {
                state.shown_twice |= state.shown & bit != 0;
            }
            state.shown |= bit;
        }
        state.read = if by_index { log.as_slice().len() as u8 } else { 0 };
    }

    fn nodes(&self, state: &State, out: &mut Vec<(Step, State)>) {
        let home = state.present();
        let moved = state.residences().len() > 1;
        if moved && state.alive(home.node) {
            if home.base.is_none() {
                for base in self.bases(state) {
                    let mut next = state.clone();
                    let home = next.present_mut();
                    home.base = Some(base);
                    home.named = if self.restart { 0 } else { state.head };
                    out.push((Step::Base(base), next));
                }
            } else if home.named == 0 {
                let mut next = state.clone();
                next.present_mut().named = state.head;
                out.push((Step::Attest, next));
            }
            let forgets = home.named == 0 || self.bug == Some(Bug::ForgetsBase);
            if self.restart && state.fate == Fate::Well && home.base.is_some() && forgets && home.imported.first == 0 {
                let mut next = state.clone();
                next.fate = Fate::Restarted;
                let head = next.head;
                let home = next.present_mut();
                home.forgotten = home.base.take().filter(|_| home.named != 0).map(|base| (base, head));
                home.named = 0;
                out.push((Step::Restart, next));
            }
        }
        if self.death && state.fate == Fate::Well {
            let named = |node: &Node| {
                state.residences().iter().any(|residence| residence.node == *node)
                    || state.switches().iter().any(|switch| switch.to == *node)
            };
            for node in (0..self.homes).filter(named) {
                let mut next = state.clone();
                next.fate = Fate::Dead(node, state.head);
                out.push((Step::Die(node), next));
            }
        }
    }

    fn cuts(&self, state: &State, out: &mut Vec<(Step, State)>) {
        let waits = |at: &usize| {
            let message = &state.messages[*at];
            message.included != 0 && message.settled() == 0 && state.alive(message.to)
        };
        let ready = |at: &usize| {
            let message = &state.messages[*at];
            message.routed != 0 && message.included == 0 && message.routed != Message::DEAD
        };
        let fillable = bits(numbers().filter(waits));
        let ready = bits(numbers().filter(ready));
        // A destination that was there when the slice was routed can have signed for it.
        let delivered = bits(numbers().filter(|at| {
            let message = &state.messages[*at];
            has(ready, *at) && state.alive_at(message.to, message.routed)
        }));
        for (import, switches) in self.records(state) {
            for fills in subsets(fillable) {
                for headers in subsets(ready) {
                    for delivered in subsets(delivered & headers) {
                        let pending = headers & !delivered;
                        if !first_of_alike(state, ready, delivered, pending) {
                            continue;
                        }
                        for refused in self.refusals(state, delivered) {
                            let cut = Cut { import, switches, fills, delivered, refused, pending };
                            out.push((Step::Cut(cut), self.settle(state, &cut)));
                        }
                    }
                }
            }
        }
    }

    /// What the receipts under headers can refuse: the home has no room for some.
    fn refusals(&self, state: &State, delivered: u8) -> Vec<u8> {
        if self.bug == Some(Bug::RefusesUnknown) {
            let home = state.present().node;
            return vec![bits(numbers().filter(|at| has(delivered, *at) && state.messages[*at].to != home))];
        }
        subsets(if self.refusal { delivered } else { 0 }).collect()
    }

    /// The records that a cut can settle: an import, which another home's would be none of, and up to two switches.
    fn records(&self, state: &State) -> Vec<(Option<Reach>, [u8; 2])> {
        let mut due = state.clone();
        due.head += 1;
        let is_due = due.waiting.is_some_and(|(_, at)| at <= due.head);
        if is_due {
            // What waits takes effect before all records; what named the record before it does not fit then.
            due = self.settle(state, &Cut::default());
        }
        let mut imports = vec![None];
        if !is_due {
            imports.extend(self.imports(state).into_iter().map(Some));
        }
        let records = 1..=state.switches().len() as u8;
        let mut switches = vec![[0, 0]];
        for first in records.clone().filter(|record| self.fits(&due, *record)) {
            switches.push([first, 0]);
            let mut then = due.clone();
            self.settle_switch(&mut then, first, due.head);
            let second = records.clone().filter(|record| *record != first && self.fits(&then, *record));
            switches.extend(second.map(|second| [first, second]));
        }
        imports.iter().flat_map(|import| switches.iter().map(|switches| (*import, *switches))).collect()
    }

    /// The imports that the home can have signed: through any epoch that it saw, and without any part of what is open.
    fn imports(&self, state: &State) -> Vec<Reach> {
        let home = state.present();
        if home.named == 0 || home.complete != 0 || state.residences().len() == 1 {
            return Vec::new();
        }
        let before = home.imported;
        let open = self.open(state);
        let seen = match state.fate {
            Fate::Dead(node, at) if node == home.node => at,
            _ => state.head,
        };
        // Of those that cover the same and finish the move or do not, one.
        let mut imports: Vec<Reach> = Vec::new();
        let mut last = None;
        for through in before.through.max(home.since)..=seen {
            let covered = |at: &usize| has(open, *at) && state.messages[*at].included <= through;
            let covered = bits(numbers().filter(covered));
            let what = Some((covered, self.finishes(home, through)));
            if last == what {
                continue;
            }
            last = what;
            for missing in subsets(covered) {
                if (through, missing) != (before.through, before.missing) {
                    imports.push((through, missing));
                }
            }
        }
        imports
    }
}

/// Of ways to include headers that differ in nothing but which of some that are alike comes first, one.
fn first_of_alike(state: &State, ready: u8, delivered: u8, pending: u8) -> bool {
    let fate = |at: usize| 2 * u8::from(has(delivered, at)) + u8::from(has(pending, at));
    let alike = |at: &usize| has(ready, *at) && has(ready, *at + 1) && state.messages[*at] == state.messages[*at + 1];
    (0..MESSAGES - 1).filter(alike).all(|at| fate(at) >= fate(at + 1))
}

fn bits(messages: impl Iterator<Item = usize>) -> u8 {
    messages.fold(0, |bits, at| bits | 1 << at)
}

/// All subsets of some messages.
fn subsets(of: u8) -> impl Iterator<Item = u8> {
    (0..1u8 << MESSAGES).filter(move |bits| bits & !of == 0)
}
