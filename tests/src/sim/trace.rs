//! The trace: every event of a run under one hash. Two runs of one seed have the same, or something leaked in.

use sha2::{Digest as _, Sha256};

/// Hashes what happens, and prints it if asked to.
pub(super) struct Trace {
    hasher: Sha256,
    print: bool,
}

impl Trace {
    pub(super) fn new(seed: u64, print: bool) -> Trace {
        let mut hasher = Sha256::new();
        hasher.update(seed.to_be_bytes());
        Trace { hasher, print }
    }

    /// Something happened at `now`: a kind, up to two numbers, and the bytes that were in it.
    pub(super) fn note(&mut self, now: u64, kind: &'static str, a: u64, b: u64, bytes: &[u8]) {
        self.hasher.update(kind.as_bytes());
        for number in [now, a, b, bytes.len() as u64] {
            self.hasher.update(number.to_be_bytes());
        }
        self.hasher.update(bytes);
        if self.print {
            let head = hex::encode(&bytes[..bytes.len().min(6)]);
            println!("{now:>7} {kind:<14} {a:>3} {b:>6} {head}");
        }
    }

    /// As [`Trace::note`], for what is said better in words; the words are made only if they are printed or hashed.
    pub(super) fn say(&mut self, now: u64, node: usize, words: &str) {
        self.hasher.update(words.as_bytes());
        self.hasher.update(now.to_be_bytes());
        if self.print {
            println!("{now:>7} node {node}: {words}");
        }
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}
