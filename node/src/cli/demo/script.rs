//! Who writes what to whom in a demo: a pure function of the seed.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// The mailboxes, by name.
pub const NAMES: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
/// How many nodes host them.
pub const NODES: usize = 4;

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripted {
    /// Its recipients, as places in [`NAMES`]; each once, one to all.
    pub to: Vec<usize>,
    /// What it says.
    pub text: String,
}

/// What the mailbox at `place` in [`NAMES`] sends.
pub fn script(seed: u64, place: usize, messages: u64) -> Vec<Scripted> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(place as u64 + 1);
    let message = |number| {
        let mut to: Vec<usize> = (0..NAMES.len()).collect();
        to.shuffle(&mut rng);
        to.truncate(rng.random_range(1..=NAMES.len()));
        let text = format!("{}, letter {number} of {messages}: {:016x}", NAMES[place], rng.next_u64());
        Scripted { to, text }
    };
    (1..=messages).map(message).collect()
}

/// When which node is killed: once `after` of all messages are ordered, the node at `node`, which is never the first,
/// because that is the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// How many messages are ordered by then.
    pub after: u64,
    /// The node's place.
    pub node: usize,
}

/// The blow of a demo with `total` messages.
pub fn blow(seed: u64, total: u64) -> Blow {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let percent = rng.random_range(42..=52);
    Blow { after: (total * percent).div_ceil(100), node: rng.random_range(1..NODES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_script() {
        assert_eq!(script(7, 2, 50), script(7, 2, 50));
        assert_ne!(script(7, 2, 50), script(8, 2, 50));
        assert_ne!(script(7, 2, 50), script(7, 3, 50));
        assert_eq!(blow(7, 2_000), blow(7, 2_000));
    }

    #[test]
    fn every_message_has_distinct_recipients_and_all_counts_occur() {
        let mut counts = [0; 9];
        for message in script(1, 0, 500) {
            let mut to = message.to.clone();
            to.sort_unstable();
            to.dedup();
            assert_eq!(to.len(), message.to.len());
            counts[to.len()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn the_blow_falls_in_the_middle_and_never_on_the_sequencer() {
        for seed in 0..200 {
            let blow = blow(seed, 2_000);
            assert!((1..NODES).contains(&blow.node) && (800..1_200).contains(&blow.after));
        }
    }
}
