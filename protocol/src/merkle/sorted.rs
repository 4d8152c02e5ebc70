//! A Merkle tree over ascending keys: presence and absence are both short proofs.
//!
//! A slice is one: leaves of mailbox and what is for it. A mailbox that is in the
//! slice is shown with its path, one that is not by its two neighbours, which
//! stand next to each other and leave no room between them.
//!
//! - tree: RFC 6962 ([`super::tree`]) over leaves with data `key ‖ value`
//! - root: `SHA-256(0x02 ‖ size ‖ tree root)`, size as 8 bytes, big-endian
//!
//! The root binds the size, because what stands next to what depends on it.
//!
//! For a tree and a key there is exactly one valid proof. A proof shows the order
//! of the leaves it discloses, not of all: a builder who lies can put a key where
//! nobody looks for it. So whoever gets all leaves builds the tree again, which
//! refuses keys that do not strictly ascend, before anything is signed for.

use std::cmp::Ordering;

use super::tree::{self, Path, Tree, leaf_hash, root_from_path};
use crate::digest::{Digest, hash};

/// A key; keys are ordered bytewise.
pub type Key = [u8; 32];

/// The root of a sorted tree, from its size and the root of the plain tree.
fn bind(size: u64, tree_root: &Digest) -> Digest {
    hash(&[&[0x02], &size.to_be_bytes(), &tree_root.0])
}

fn entry_hash(key: &Key, value: &Digest) -> Digest {
    let mut data = [0; 64];
    data[..32].copy_from_slice(key);
    data[32..].copy_from_slice(&value.0);
    leaf_hash(&data)
}

/// A tree over ascending keys with all its nodes.
#[derive(Debug, Clone)]
pub struct SortedTree {
    entries: Vec<(Key, Digest)>,
    tree: Tree,
}

impl SortedTree {
    /// Builds the tree; `None` unless the keys strictly ascend.
    pub fn new(entries: Vec<(Key, Digest)>) -> Option<Self> {
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            return None;
        }
        let leaves = entries.iter().map(|(key, value)| entry_hash(key, value));
        let tree = Tree::new(leaves.collect());
        Some(SortedTree { entries, tree })
    }

    /// The entries in order.
    pub fn entries(&self) -> &[(Key, Digest)] {
        &self.entries
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The root, which binds the size too.
    pub fn root(&self) -> Digest {
        bind(self.len() as u64, &self.tree.root())
    }

    /// Proves that `key` is there, or that it is not.
    pub fn prove(&self, key: &Key) -> SortedProof {
        match self.entries.binary_search_by(|(other, _)| other.cmp(key)) {
            Ok(index) => {
                SortedProof::Present { index: index as u64, value: self.entries[index].1, path: self.path(index) }
            }
            Err(rank) => SortedProof::Absent {
                rank: rank as u64,
                before: rank.checked_sub(1).map(|index| self.neighbour(index)),
                after: (rank < self.len()).then(|| self.neighbour(rank)),
            },
        }
    }

    fn neighbour(&self, index: usize) -> Neighbour {
        let (key, value) = self.entries[index];
        Neighbour { key, value, path: self.path(index) }
    }

    fn path(&self, index: usize) -> Path {
        self.tree.path(index)
    }
}

/// Whether a key is in a tree, and with what value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there, with this value.
    Present(Digest),
    /// It is not there.
    Absent,
}

/// Proof that a key is in a tree, or that it is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub enum SortedProof {
    /// The key's own leaf.
    #[n(0)]
    Present {
        /// Its position.
        #[n(0)]
        index: u64,
        /// Its value.
        #[n(1)]
        value: Digest,
        /// Its path.
        #[n(2)]
        path: Path,
    },
    /// The leaves on both sides of where the key would stand.
    #[n(1)]
    Absent {
        /// How many keys are lower.
        #[n(0)]
        rank: u64,
        /// The leaf at `rank - 1`; none exactly if `rank` is 0.
        #[n(1)]
        before: Option<Neighbour>,
        /// The leaf at `rank`; none exactly if `rank` is the size.
        #[n(2)]
        after: Option<Neighbour>,
    },
}

/// A leaf next to where an absent key would stand. Its position is the proof's to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Neighbour {
    /// Its key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Key,
    /// Its value.
    #[n(1)]
    pub value: Digest,
    /// Its path.
    #[n(2)]
    pub path: Path,
}

impl Neighbour {
    fn root(&self, index: u64, size: u64) -> Option<Digest> {
        root_from_path(entry_hash(&self.key, &self.value), index, size, &self.path)
    }
}

impl SortedProof {
    /// What the proof says about `key` in the tree of `size` entries under `root`; `None` if it
    /// proves nothing.
    pub fn verify(&self, key: &Key, root: &Digest, size: u64) -> Option<Presence> {
        let leads_to = |tree_root: Digest| bind(size, &tree_root) == *root;
        match self {
            SortedProof::Present { index, value, path } => {
                let found = root_from_path(entry_hash(key, value), *index, size, path)?;
                leads_to(found).then_some(Presence::Present(*value))
            }
            SortedProof::Absent { rank, before, after } => {
                if *rank > size || before.is_some() != (*rank > 0) || after.is_some() != (*rank < size) {
                    return None;
                }
                if size == 0 {
                    return leads_to(tree::empty_root()).then_some(Presence::Absent);
                }
                let stands = |neighbour: &Option<Neighbour>, index: u64, order: Ordering| {
                    neighbour.as_ref().is_none_or(|neighbour| {
                        neighbour.key.cmp(key) == order && neighbour.root(index, size).is_some_and(leads_to)
                    })
                };
                // Without a leaf before, `rank` is 0 and the first index is not looked at.
                let both =
                    stands(before, rank.saturating_sub(1), Ordering::Less) && stands(after, *rank, Ordering::Greater);
                both.then_some(Presence::Absent)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{bit_flips, decode_strictly};

    fn key(i: u8) -> Key {
        let mut key = [7; 32];
        key[31] = i;
        key
    }

    /// Keys 1, 3, 5, … so that every even one is absent.
    fn tree(n: u8) -> SortedTree {
        let entries = (0..n).map(|i| (key(2 * i + 1), hash(&[&[i]])));
        SortedTree::new(entries.collect()).unwrap()
    }

    #[test]
    fn every_key_has_its_proof() {
        for n in 0..20 {
            let tree = tree(n);
            for i in 0..=2 * n + 1 {
                let proof = tree.prove(&key(i));
                let bytes = minicbor::to_vec(&proof).unwrap();
                assert_eq!(decode_strictly(&bytes), Some(proof.clone()));
                let verify = |i, size: u8| proof.verify(&key(i), &tree.root(), u64::from(size));
                let expected = match (i / 2, i % 2) {
                    (entry, 1) if entry < n => Presence::Present(tree.entries()[usize::from(entry)].1),
                    _ => Presence::Absent,
                };
                assert_eq!(verify(i, n), Some(expected), "{i} of {n}");
                for other in 0..=2 * n + 2 {
                    // An absence proof holds for every key of its gap, and nothing else does.
                    let same_gap = i % 2 == 0 && other == i || n > 0 && i.min(other) >= 2 * n || n == 0;
                    assert_eq!(verify(other, n).is_some(), other == i || same_gap);
                }
                for size in (0..n + 3).filter(|size| *size != n) {
                    assert_eq!(verify(i, size), None);
                }
                assert_eq!(proof.verify(&key(i), &hash(&[b"?"]), u64::from(n)), None);
            }
        }
    }

    #[test]
    fn no_flipped_bit_verifies() {
        for n in [0, 1, 2, 3, 5] {
            let tree = tree(n);
            for i in 0..=2 * n + 1 {
                for flipped in bit_flips(&tree.prove(&key(i))) {
                    let found = flipped.verify(&key(i), &tree.root(), u64::from(n));
                    assert_eq!(found, None, "{flipped:?}");
                }
            }
        }
    }

    #[test]
    fn neighbours_must_be_adjacent_and_at_the_ends() {
        let tree = tree(6);
        let (root, size) = (tree.root(), 6);
        let absent = |rank, before: Option<usize>, after: Option<usize>| SortedProof::Absent {
            rank,
            before: before.map(|index| tree.neighbour(index)),
            after: after.map(|index| tree.neighbour(index)),
        };
        // The key of entry 2 is 5: nothing may make it seem absent.
        for rank in 0..8 {
            for before in [None].into_iter().chain((0..6).map(Some)) {
                for after in [None].into_iter().chain((0..6).map(Some)) {
                    let proof = absent(rank, before, after);
                    assert_eq!(proof.verify(&key(5), &root, size), None);
                    // Key 6 is absent, by one proof only.
                    let right = (rank, before, after) == (3, Some(2), Some(3));
                    assert_eq!(proof.verify(&key(6), &root, size).is_some(), right);
                }
            }
        }
    }

    #[test]
    fn keys_must_strictly_ascend() {
        let value = Digest::default();
        assert!(SortedTree::new(vec![(key(1), value), (key(2), value)]).is_some());
        assert!(SortedTree::new(vec![(key(2), value), (key(1), value)]).is_none());
        assert!(SortedTree::new(vec![(key(1), value), (key(1), value)]).is_none());
    }

    #[test]
    fn extreme_positions_are_refused_without_panic() {
        let tree = tree(3);
        for rank in [0, 1, u64::MAX - 1, u64::MAX] {
            for size in [0, 1, 3, u64::MAX] {
                let proof =
                    SortedProof::Absent { rank, before: Some(tree.neighbour(0)), after: Some(tree.neighbour(1)) };
                let holds = proof.verify(&key(2), &tree.root(), size).is_some();
                assert_eq!(holds, rank == 1 && size == 3);
            }
        }
    }
}
