//! A Merkle sum tree: counted items in order, of which a path also tells the position.
//!
//! A batch's bundles are its leaves, each with the number of its messages. Every
//! node commits to the counts as well as the digests of both children, so the
//! path of a bundle shows how many messages come before it, and with that the
//! index of each of its messages, without anyone having to show the others.
//!
//! Whoever made the root, two leaves that resolve under it never claim a common
//! index: where their paths part, the left one lies inside the count that the
//! right one starts behind. A lying builder can only commit to counts that do
//! not add up, and then cannot show what is below.
//!
//! The shape is that of RFC 6962; the hashing is not, since nodes hash counts:
//!
//! - leaf: `SHA-256(0x00 ‖ count ‖ digest)`
//! - node: `SHA-256(0x01 ‖ left count ‖ left hash ‖ right count ‖ right hash)`
//!
//! with counts as 8 bytes, big-endian. Proofs in which counts overflow are
//! refused. Leaves of count 0 are not: whether an empty bundle may
//! exist is not this module's business.

use minicbor::decode::{Decode, Decoder, Error};

use super::MAX_TREE_DEPTH;
use super::shape::{Levels, Side, climb};
use super::tree::empty_root;
use crate::digest::{Digest, hash};

/// What a node of a sum tree commits to, and so also the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SumRoot {
    /// Number of items below, over all leaves.
    #[n(0)]
    pub count: u64,
    /// The node's hash.
    #[n(1)]
    pub hash: Digest,
}

impl SumRoot {
    /// The root of the tree without leaves: count 0, SHA-256 of the empty string.
    pub fn empty() -> Self {
        SumRoot { count: 0, hash: empty_root() }
    }

    fn leaf(count: u64, digest: &Digest) -> Self {
        SumRoot { count, hash: hash(&[&[0x00], &count.to_be_bytes(), &digest.0]) }
    }

    /// The parent; `None` if the counts overflow.
    fn join(left: &Self, right: &Self) -> Option<Self> {
        let count = left.count.checked_add(right.count)?;
        let (lcount, rcount) = (left.count.to_be_bytes(), right.count.to_be_bytes());
        Some(SumRoot { count, hash: hash(&[&[0x01], &lcount, &left.hash.0, &rcount, &right.hash.0]) })
    }
}

/// A sum tree with all its nodes.
#[derive(Debug, Clone)]
pub struct SumTree(Levels<SumRoot>);

impl SumTree {
    /// Builds the tree over (count, payload digest).
    ///
    /// # Panics
    /// If the counts overflow `u64`: they count what the builder holds.
    pub fn new(leaves: Vec<(u64, Digest)>) -> Self {
        let leaves = leaves.iter();
        let leaves = leaves.map(|(count, digest)| SumRoot::leaf(*count, digest));
        let levels = Levels::new(leaves.collect(), SumRoot::join);
        SumTree(levels.expect("nobody holds 2^64 items"))
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
    pub fn root(&self) -> SumRoot {
        self.0.top().unwrap_or_else(SumRoot::empty)
    }

    /// The path of leaf `index`.
    ///
    /// # Panics
    /// If there is no such leaf, which is for the caller to know.
    pub fn path(&self, index: usize) -> SumPath {
        SumPath(self.0.siblings(index))
    }
}

/// The siblings of a leaf of a sum tree, from the bottom up. At most [`MAX_TREE_DEPTH`] decode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, minicbor::Encode)]
#[cbor(transparent)]
pub struct SumPath(#[n(0)] pub Vec<SumRoot>);

impl SumPath {
    /// Where the leaf (count, digest), as leaf `index` of `size`, leads to: the root, and how many
    /// items come before the leaf's first. `None` if the path has not exactly the length that
    /// (index, size) asks for, or if counts overflow.
    ///
    /// Compare the whole root: the hash fixes the count that is returned here, but not the one that
    /// somebody wrote next to it.
    pub fn resolve(&self, count: u64, digest: &Digest, index: u64, size: u64) -> Option<(SumRoot, u64)> {
        let leaf = SumRoot::leaf(count, digest);
        let mut first = 0u64;
        let root = climb(leaf, index, size, &self.0, |side, left, right| {
            if side == Side::Left {
                first = first.checked_add(left.count)?;
            }
            SumRoot::join(left, right)
        })?;
        Some((root, first))
    }
}

impl<'b, C> Decode<'b, C> for SumPath {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Error> {
        super::decode_list(d, ctx, MAX_TREE_DEPTH).map(SumPath)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::bit_flips;

    fn leaves(n: u64) -> Vec<(u64, Digest)> {
        (0..n).map(|i| (i * 7 % 5, hash(&[&i.to_be_bytes()]))).collect()
    }

    fn by_definition(leaves: &[(u64, Digest)]) -> SumRoot {
        match leaves {
            [] => SumRoot::empty(),
            [(count, digest)] => SumRoot::leaf(*count, digest),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                SumRoot::join(&by_definition(left), &by_definition(right)).unwrap()
            }
        }
    }

    #[test]
    fn every_path_tells_the_root_and_the_first_index() {
        for n in 0..40 {
            let leaves = leaves(n);
            let tree = SumTree::new(leaves.clone());
            let root = by_definition(&leaves);
            assert_eq!(tree.root(), root);
            assert_eq!(root.count, leaves.iter().map(|(count, _)| count).sum());
            let mut first = 0;
            for (i, (count, digest)) in leaves.iter().enumerate() {
                let path = tree.path(i);
                let resolve = |count, index| path.resolve(count, digest, index, n);
                assert_eq!(resolve(*count, i as u64), Some((root, first)));
                assert_ne!(resolve(*count + 1, i as u64).map(|(root, _)| root), Some(root));
                for other in (0..=n).filter(|other| *other != i as u64) {
                    assert_ne!(resolve(*count, other).map(|(root, _)| root), Some(root));
                }
                let mut longer = path.clone();
                longer.0.push(root);
                assert_eq!(longer.resolve(*count, digest, i as u64, n), None);
                let mut shorter = path.clone();
                if shorter.0.pop().is_some() {
                    assert_eq!(shorter.resolve(*count, digest, i as u64, n), None);
                }
                first += count;
            }
        }
    }

    #[test]
    fn no_flipped_bit_resolves_to_the_root() {
        for n in [1, 2, 3, 5, 8] {
            let leaves = leaves(n);
            let tree = SumTree::new(leaves.clone());
            for (i, (count, digest)) in leaves.iter().enumerate() {
                for flipped in bit_flips(&tree.path(i)) {
                    let found = flipped.resolve(*count, digest, i as u64, n);
                    assert_ne!(found.map(|(root, _)| root), Some(tree.root()));
                }
            }
        }
    }

    #[test]
    fn counts_moved_between_siblings_change_the_root() {
        let leaves = vec![(3, Digest([1; 32])), (4, Digest([2; 32]))];
        let moved = vec![(4, Digest([1; 32])), (3, Digest([2; 32]))];
        let (a, b) = (SumTree::new(leaves), SumTree::new(moved));
        assert_eq!(a.root().count, b.root().count);
        assert_ne!(a.root().hash, b.root().hash);
    }

    #[test]
    fn overflowing_counts_are_refused() {
        let digest = Digest::default();
        let tree = SumTree::new(vec![(u64::MAX, digest), (0, digest)]);
        assert_eq!(tree.root().count, u64::MAX);
        let sibling = SumRoot { count: u64::MAX, hash: digest };
        let path = SumPath(vec![sibling]);
        assert!(path.resolve(0, &digest, 0, 2).is_some());
        assert!(path.resolve(1, &digest, 0, 2).is_none());
        let path = SumPath(vec![sibling, sibling]);
        assert!(path.resolve(0, &digest, 3, 4).is_none());
    }
}
