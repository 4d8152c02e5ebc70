//! Breadth-first exploration of every state that a model can reach.
//!
//! Not the crate `stateright`: it tells states apart by 64 bits of a hash, so that "all states" would be all but for
//! collisions, and it brings an HTTP server for its explorer along. Here states themselves are compared, and breadth first
//! makes the first counterexample a shortest one.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// What can be explored.
pub trait Model {
    /// One state.
    type State: Clone + Eq + Hash;
    /// What leads from one to the next, as a counterexample prints it.
    type Step: Debug;
    /// What should happen in some state.
    type Milestone: Ord;

    /// The first state.
    fn initial(&self) -> Self::State;
    /// Every step out of a state, with where it leads.
    fn steps(&self, state: &Self::State, out: &mut Vec<(Self::Step, Self::State)>);
    /// What has happened in a state.
    fn milestones(&self, state: &Self::State) -> impl Iterator<Item = Self::Milestone>;
    /// What does not hold in a state.
    fn violation(&self, state: &Self::State) -> Option<String>;
}

/// What an exploration found.
#[derive(Debug)]
pub struct Explored<M> {
    /// How many different states there are; up to the violation, if there is one.
    pub states: usize,
    /// How many steps lead between them.
    pub steps: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// What has happened somewhere.
    pub milestones: BTreeSet<M>,
    /// The first violation, and the steps that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// The states seen, in the order in which they were found, each with the one before it.
struct Seen<S> {
    states: Vec<(S, u32)>,
    // By hash; where that is taken by another state, at the next number. States are compared whole.
    index: HashMap<u64, u32, BuildHasherDefault<Mix>>,
}

/// A hash for many small fields: several times as fast as the standard library's, which nobody attacks here.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.write_u64(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl<S: Eq + Hash> Seen<S> {
    fn insert(&mut self, state: S, parent: u32) {
        let mut slot = self.index.hasher().hash_one(&state);
        while let Some(&at) = self.index.get(&slot) {
            if self.states[at as usize].0 == state {
                return;
            }
            slot = slot.wrapping_add(1);
        }
        self.index.insert(slot, u32::try_from(self.states.len()).expect("fewer than 2^32 states"));
        self.states.push((state, parent));
    }
}

/// Explores all states, or until the first violation.
pub fn explore<M: Model>(model: &M) -> Explored<M::Milestone> {
    let mut seen = Seen { states: Vec::new(), index: HashMap::default() };
    seen.insert(model.initial(), 0);
    let mut explored = Explored { states: 0, steps: 0, depth: 0, milestones: BTreeSet::new(), violation: None };
    let (mut at, mut level_ends) = (0, 1);
    let mut next = Vec::new();
    while at < seen.states.len() {
        if at == level_ends {
            explored.depth += 1;
            level_ends = seen.states.len();
        }
        let state = seen.states[at].0.clone();
        if let Some(violation) = model.violation(&state) {
            explored.violation = Some((violation, way(model, &seen, at)));
            break;
        }
        explored.milestones.extend(model.milestones(&state));
        model.steps(&state, &mut next);
        explored.steps += next.len();
        for (_, state) in next.drain(..) {
            seen.insert(state, at as u32);
        }
        at += 1;
    }
    Explored { states: seen.states.len(), ..explored }
}

/// The steps that lead to the state at an index.
fn way<M: Model>(model: &M, seen: &Seen<M::State>, mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while at > 0 {
        let (state, parent) = &seen.states[at];
        let mut steps = Vec::new();
        model.steps(&seen.states[*parent as usize].0, &mut steps);
        let step = steps.into_iter().find(|(_, next)| next == state).expect("a step led here").0;
        way.push(format!("{step:?}"));
        at = *parent as usize;
    }
    way.reverse();
    way
}
