//! The Merkle tree of RFC 6962 section 2.1 (RFC 9162 section 2.1) over a fixed list.
//!
//! Leaves and nodes hash under different prefixes, so neither passes for the
//! other. A path is checked against (index, size) and must have exactly the
//! length that these ask for.
//!
//! The root does not bind the size: some pairs of sizes ask for the same path,
//! and a path then leads to the same root under both. Sign the size next to the
//! root, as RFC 6962 does in its tree head.

use minicbor::decode::{Decode, Decoder, Error};

use super::MAX_TREE_DEPTH;
use super::shape::{Levels, climb, pair_up};
use crate::digest::{Digest, hash};

/// The digest of a leaf: `SHA-256(0x00 ‖ data)`.
pub fn leaf_hash(data: &[u8]) -> Digest {
    hash(&[&[0x00], data])
}

/// The digest of an inner node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[0x01], &left.0, &right.0])
}

/// The root of the tree without leaves: SHA-256 of the empty string.
pub fn empty_root() -> Digest {
    hash(&[])
}

pub(super) fn join(left: &Digest, right: &Digest) -> Option<Digest> {
    Some(node_hash(left, right))
}

/// The root over leaf hashes.
pub fn root(leaves: &[Digest]) -> Digest {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        // `join` refuses nothing; an empty level would end the loop all the same.
        level = pair_up(&level, join).unwrap_or_default();
    }
    level.first().copied().unwrap_or_else(empty_root)
}

/// The path of one leaf. For many leaves of one list, keep a [`Tree`].
///
/// # Panics
/// If there is no leaf `index`, which is for the caller to know.
pub fn path(leaves: &[Digest], index: usize) -> Path {
    Tree::new(leaves.to_vec()).path(index)
}

/// The root that `leaf` (a leaf hash), as leaf `index` of `size`, leads to along `path`. `None`
/// unless the path has exactly the length that (index, size) asks for.
pub fn root_from_path(leaf: Digest, index: u64, size: u64, path: &Path) -> Option<Digest> {
    climb(leaf, index, size, &path.0, |_, left, right| join(left, right))
}

/// A list of digests that proves something about a tree: the siblings of a leaf from the bottom
/// up (RFC 9162 section 2.1.3), or a consistency proof (section 2.1.4). At most
/// [`MAX_TREE_DEPTH`] of them decode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, minicbor::Encode)]
#[cbor(transparent)]
pub struct Path(#[n(0)] pub Vec<Digest>);

impl<'b, C> Decode<'b, C> for Path {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Error> {
        super::decode_list(d, ctx, MAX_TREE_DEPTH).map(Path)
    }
}

/// A tree with all its nodes, from which any path is a copy.
#[derive(Debug, Clone)]
pub struct Tree(Levels<Digest>);

impl Tree {
    /// Builds the tree over leaf hashes.
    pub fn new(leaves: Vec<Digest>) -> Self {
        Tree(Levels::new(leaves, join).expect("hashing a pair cannot fail"))
    }

    /// Number of leaves.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no leaves.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The root.
    pub fn root(&self) -> Digest {
        self.0.top().unwrap_or_else(empty_root)
    }

    /// The path of leaf `index`.
    ///
    /// # Panics
    /// If there is no such leaf, which is for the caller to know.
    pub fn path(&self, index: usize) -> Path {
        Path(self.0.siblings(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::bit_flips;

    fn leaves(n: u64) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn root_by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => hash(&[]),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&root_by_definition(left), &root_by_definition(right))
            }
        }
    }

    #[test]
    fn every_path_leads_to_the_root() {
        for n in 0..70 {
            let leaves = leaves(n);
            let tree = Tree::new(leaves.clone());
            let expected = root_by_definition(&leaves);
            assert_eq!(tree.root(), expected);
            assert_eq!(root(&leaves), expected);
            assert_eq!(tree.len() as u64, n);
            for (i, leaf) in leaves.iter().enumerate() {
                let path = tree.path(i);
                assert_eq!(root_from_path(*leaf, i as u64, n, &path), Some(expected), "{i} of {n}");
                for other in (0..n).filter(|other| *other != i as u64) {
                    assert_ne!(root_from_path(*leaf, other, n, &path), Some(expected));
                }
                let mut longer = path.clone();
                longer.0.push(*leaf);
                assert_eq!(root_from_path(*leaf, i as u64, n, &longer), None);
                let mut shorter = path;
                if shorter.0.pop().is_some() {
                    assert_eq!(root_from_path(*leaf, i as u64, n, &shorter), None);
                }
            }
        }
    }

    #[test]
    fn no_flipped_bit_verifies() {
        for n in [1, 2, 3, 5, 8, 11] {
            let leaves = leaves(n);
            let tree = Tree::new(leaves.clone());
            for (i, leaf) in leaves.iter().enumerate() {
                for flipped in bit_flips(&tree.path(i)) {
                    let found = root_from_path(*leaf, i as u64, n, &flipped);
                    assert_ne!(found, Some(tree.root()));
                }
            }
        }
    }

    #[test]
    fn paths_beyond_the_limit_do_not_decode() {
        let longest = minicbor::to_vec(Path(vec![Digest::default(); MAX_TREE_DEPTH])).unwrap();
        assert!(minicbor::decode::<Path>(&longest).is_ok());
        let longer = minicbor::to_vec(Path(vec![Digest::default(); MAX_TREE_DEPTH + 1])).unwrap();
        assert!(minicbor::decode::<Path>(&longer).is_err());
        let endless = [0x9f, 0xff];
        assert!(minicbor::decode::<Path>(&endless).is_err());
        let huge = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(minicbor::decode::<Path>(&huge).is_err());
    }
}
