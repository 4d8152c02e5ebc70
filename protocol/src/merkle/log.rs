//! The tree of RFC 6962 as an append-only log.
//!
//! A mailbox's log only grows, and its owner must be able to check that the log
//! attested today continues the log of yesterday. [`Log`] is for whoever serves
//! such a log: it answers for every size it ever had. [`Frontier`] is for whoever
//! only follows one: it knows the size and the root, appends, and is at most 64
//! digests. [`verify_consistency`] is for whoever has nothing but two roots.
//!
//! As in [`super::tree`], a root means something only together with its size.

use minicbor::decode::{Decode, Decoder, Error};

use super::tree::{Path, empty_root, join, node_hash};
use crate::digest::Digest;
use crate::merkle::shape::{Side, Sides, climb};

/// The most leaves a [`Frontier`] may claim when it is decoded. Out of reach by counting, and far
/// enough below `u64::MAX` that appending to what strangers sent cannot overflow.
pub const MAX_LOG_SIZE: u64 = 1 << 62;

/// A log with the digests of all its complete subtrees, in memory: two digests per leaf. One that continues a
/// [`Frontier`] knows nothing below it, and has no answer where that would be needed.
#[derive(Debug, Clone, Default)]
pub struct Log {
    size: u64,
    levels: Vec<Level>,
}

/// The complete subtrees of one height.
#[derive(Debug, Clone, Default)]
struct Level {
    /// How many of them are not known: the first ones.
    unknown: u64,
    /// At height `k`, the one at `i` covers the leaves from `(unknown + i) << k` on.
    nodes: Vec<Digest>,
}

impl Log {
    /// A log without leaves.
    pub fn new() -> Self {
        Log::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash.
    pub fn append(&mut self, leaf: Digest) {
        let mut node = leaf;
        for height in 0.. {
            if self.levels.len() == height {
                self.levels.push(Level::default());
            }
            let level = &mut self.levels[height];
            level.nodes.push(node);
            match level.nodes.as_slice() {
                [.., left, right] if self.size >> height & 1 == 1 => node = node_hash(left, right),
                _ => break,
            }
        }
        self.size += 1;
    }

    /// The root of the whole log.
    pub fn root(&self) -> Digest {
        self.subtree(0, self.size).expect("the right edge is known")
    }

    /// The root when the log had `size` leaves; `None` if it never had as many.
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        if size > self.size {
            return None;
        }
        self.subtree(0, size)
    }

    /// The frontier when the log had `size` leaves; `None` if it never had as many.
    pub fn frontier_at(&self, size: u64) -> Option<Frontier> {
        if size > self.size {
            return None;
        }
        Some(Frontier { size, peaks: self.peaks(0, size)? })
    }

    /// The path of leaf `index` in the log of `size` leaves; `None` if there is no such leaf, or
    /// the log never had as many.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Path> {
        if size > self.size() {
            return None;
        }
        let last = size.checked_sub(1).filter(|last| index <= *last)?;
        let heights = (0..u64::BITS).take_while(|height| last >> height > 0);
        let siblings = heights.filter_map(|height| {
            let sibling = (index >> height) ^ 1;
            let start = sibling << height;
            (start <= last).then(|| self.subtree(start, size.min(start + (1 << height))))
        });
        siblings.collect::<Option<_>>().map(Path)
    }

    /// The proof that the log of `new` leaves continues the log of `old` leaves (RFC 9162 section
    /// 2.1.4.1); `None` if `old > new`, or the log never had as many. Empty if the two are equal
    /// or the old one is empty, which the RFC leaves open.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Path> {
        if old > new || new > self.size() {
            return None;
        }
        if old == 0 {
            return Some(Path::default());
        }
        // SUBPROOF of the RFC, from the top: the old log ends in the subtree of [start, end).
        let (mut start, mut end) = (0, new);
        let mut path = Vec::new();
        while old != end {
            let split = start + (end - start).next_power_of_two() / 2;
            if old <= split {
                path.push(self.subtree(split, end)?);
                end = split;
            } else {
                path.push(self.subtree(start, split)?);
                start = split;
            }
        }
        // With start 0 that subtree is the old log itself, whose root the verifier has.
        if start > 0 {
            path.push(self.subtree(start, end)?);
        }
        path.reverse();
        Some(Path(path))
    }

    /// The digest of the node over the leaves [start, end). It must be one of the tree's: `start`
    /// a multiple of the power of two that holds `end - start`, and `end` within the log.
    fn subtree(&self, start: u64, end: u64) -> Option<Digest> {
        self.peaks(start, end).map(|peaks| fold_peaks(&peaks))
    }

    /// The complete subtrees that [start, end) is made of, largest first; same condition. `None` where one of them is
    /// below what is known.
    fn peaks(&self, start: u64, end: u64) -> Option<Vec<Digest>> {
        let len = end - start;
        let heights = (0..u64::BITS).rev().filter(|height| len >> height & 1 == 1);
        let known = heights.map(|height| {
            // What the larger peaks, those of the bits above this one, have covered.
            let covered = len >> height >> 1 << height << 1;
            let level = self.levels.get(height as usize)?;
            let at = ((start + covered) >> height).checked_sub(level.unknown)?;
            level.nodes.get(usize::try_from(at).ok()?).copied()
        });
        known.collect()
    }
}

impl From<Frontier> for Log {
    /// The log that goes on from this right edge.
    fn from(frontier: Frontier) -> Log {
        let size = frontier.size;
        let mut peaks = frontier.peaks.into_iter().rev();
        let levels = (0..u64::BITS - size.leading_zeros()).map(|height| {
            // A peak stands where the size has a bit: it is the last subtree of its height.
            let nodes: Vec<Digest> = (size >> height & 1 == 1).then(|| peaks.next()).flatten().into_iter().collect();
            Level { unknown: (size >> height) - nodes.len() as u64, nodes }
        });
        Log { size, levels: levels.collect() }
    }
}

/// Joins complete subtrees, largest first, to the root over them.
fn fold_peaks(peaks: &[Digest]) -> Digest {
    let folded = peaks.iter().rev().copied();
    folded.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
}

/// Whether `path` proves that a log of `new_size` leaves under `new_root` continues one of
/// `old_size` leaves under `old_root` (RFC 9162 section 2.1.4.2).
///
/// Total where the RFC is not: a log continues itself and the empty log, both by the empty path
/// alone. Refuses a path of any other length than the sizes ask for.
pub fn verify_consistency(old_size: u64, old_root: Digest, new_size: u64, new_root: Digest, path: &Path) -> bool {
    if old_size == 0 {
        let new_agrees = new_size > 0 || new_root == empty_root();
        return path.0.is_empty() && old_root == empty_root() && new_agrees;
    }
    if old_size == new_size {
        return path.0.is_empty() && old_root == new_root;
    }
    if old_size > new_size {
        return false;
    }
    // The path starts at the last complete subtree of the old log. Where that is all of the old
    // log, its digest is the old root and not sent.
    let height = old_size.trailing_zeros();
    let (seed, siblings) = if old_size.is_power_of_two() {
        (old_root, path.0.as_slice())
    } else {
        match path.0.split_first() {
            Some((seed, siblings)) => (*seed, siblings),
            None => return false,
        }
    };
    // In units of that subtree, it is node `index` among `size`, the last of which may be partial.
    let index = (old_size >> height) - 1;
    let size = ((new_size - 1) >> height) + 1;
    let found_new = climb(seed, index, size, siblings, |_, left, right| join(left, right));
    // The old root is made of the same nodes, without those to the right.
    let Some(sides) = Sides::new(index, size) else {
        return false;
    };
    let to_the_left = sides.zip(siblings).filter(|(side, _)| *side == Side::Left).map(|(_, sibling)| *sibling);
    let found_old = to_the_left.fold(seed, |node, left| node_hash(&left, &node));
    found_new == Some(new_root) && found_old == old_root
}

/// The right edge of a log: the roots of its complete subtrees, largest first. Enough to append
/// and to compute the root, in O(log size) memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, minicbor::Encode)]
#[cbor(array)]
pub struct Frontier {
    #[n(0)]
    size: u64,
    /// One for each bit set in `size`.
    #[n(1)]
    peaks: Vec<Digest>,
}

impl Frontier {
    /// The frontier of the empty log.
    pub fn new() -> Self {
        Frontier::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash.
    pub fn append(&mut self, leaf: Digest) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak per bit of the size");
            node = node_hash(&left, &node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root of the log.
    pub fn root(&self) -> Digest {
        fold_peaks(&self.peaks)
    }
}

impl Frontier {
    /// The path of the leaf at `index` in this log when `leaves` follow it, of which it must be one.
    pub fn inclusion_after(&self, leaves: &[Digest], index: u64) -> Option<Path> {
        let size = self.size.checked_add(leaves.len() as u64)?;
        let mut path = Vec::new();
        let (mut low, mut high) = (0, size);
        if !(self.size..size).contains(&index) {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low).next_power_of_two() / 2;
            if index < middle {
                path.push(self.root_of(leaves, middle, high)?);
                high = middle;
            } else {
                path.push(self.root_of(leaves, low, middle)?);
                low = middle;
            }
        }
        path.reverse();
        Some(Path(path))
    }

    /// The root of the subtree over these leaves. One that ends below the frontier is one of the peaks, because none is
    /// asked for whose parent does too.
    fn root_of(&self, leaves: &[Digest], low: u64, high: u64) -> Option<Digest> {
        if high <= self.size {
            let bits = (0..64).rev().map(|bit| 1_u64 << bit).filter(|bit| self.size & bit != 0);
            let starts = bits.scan(0, |start, bit| Some((std::mem::replace(start, *start + bit), bit)));
            let at = starts.into_iter().position(|peak| peak == (low, high - low))?;
            return self.peaks.get(at).copied();
        }
        if high - low == 1 {
            return leaves.get(usize::try_from(low - self.size).ok()?).copied();
        }
        let middle = low + (high - low).next_power_of_two() / 2;
        Some(node_hash(&self.root_of(leaves, low, middle)?, &self.root_of(leaves, middle, high)?))
    }
}

impl<'b, C> Decode<'b, C> for Frontier {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Error> {
        let at = d.position();
        if d.array()? != Some(2) {
            return Err(Error::message("a frontier is an array of two").at(at));
        }
        let size = d.u64()?;
        if size > MAX_LOG_SIZE {
            return Err(Error::message("no log is that long").at(at));
        }
        let peaks: Vec<Digest> = super::decode_list(d, ctx, size.count_ones() as usize)?;
        if peaks.len() != size.count_ones() as usize {
            return Err(Error::message("a frontier has one digest per bit of its size").at(at));
        }
        Ok(Frontier { size, peaks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::tree::{self, leaf_hash, root_from_path};
    use crate::merkle::{bit_flips, decode_strictly};

    const N: u64 = 40;

    fn leaves(n: u64) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn log(n: u64) -> Log {
        let mut log = Log::new();
        leaves(n).into_iter().for_each(|leaf| log.append(leaf));
        log
    }

    #[test]
    fn a_log_that_continues_a_frontier_knows_what_is_above_it() {
        let whole = log(N);
        for start in 0..N {
            let mut log = Log::from(whole.frontier_at(start).unwrap());
            leaves(N)[start as usize..].iter().for_each(|leaf| log.append(*leaf));
            assert_eq!((log.size(), log.root()), (N, whole.root()));
            for size in start..=N {
                assert_eq!(log.root_at(size), whole.root_at(size));
                assert_eq!(log.frontier_at(size), whole.frontier_at(size));
                for index in start..size {
                    assert_eq!(log.inclusion(index, size), whole.inclusion(index, size));
                }
                assert_eq!(log.consistency(start, size), whole.consistency(start, size), "{start} to {size}");
            }
            for size in 0..start {
                assert!(log.root_at(size).is_none_or(|root| Some(root) == whole.root_at(size)));
            }
        }
    }

    #[test]
    fn log_and_frontier_agree_with_the_tree() {
        let leaves = leaves(N);
        let log = log(N);
        let mut frontier = Frontier::new();
        for size in 0..=N {
            let expected = tree::root(&leaves[..size as usize]);
            assert_eq!(log.root_at(size), Some(expected));
            assert_eq!(frontier.root(), expected);
            assert_eq!(frontier.size(), size);
            assert_eq!(log.frontier_at(size).as_ref(), Some(&frontier));
            // What costs the fourth power of the size is enough for small ones.
            for known in 0..if size < 40 { size } else { 0 } {
                let base = log.frontier_at(known).unwrap();
                for index in 0..size {
                    let path = base.inclusion_after(&leaves[known as usize..size as usize], index);
                    assert_eq!(path, log.inclusion(index, size).filter(|_| index >= known), "{known} {index} {size}");
                }
            }
            let bytes = minicbor::to_vec(&frontier).unwrap();
            assert_eq!(decode_strictly(&bytes), Some(frontier.clone()));
            for index in 0..size {
                let path = log.inclusion(index, size).unwrap();
                assert_eq!(tree::path(&leaves[..size as usize], index as usize), path);
                let leaf = leaves[index as usize];
                assert_eq!(root_from_path(leaf, index, size, &path), Some(expected));
            }
            assert_eq!(log.inclusion(size, size), None);
            if size < N {
                frontier.append(leaves[size as usize]);
            }
        }
        assert_eq!(log.root(), tree::root(&leaves));
        assert_eq!(log.root_at(N + 1), None);
        assert_eq!(log.frontier_at(N + 1), None);
        assert_eq!(log.inclusion(0, N + 1), None);
    }

    /// SUBPROOF of RFC 9162 section 2.1.4.1, taken literally.
    fn subproof(old: usize, leaves: &[Digest], is_root: bool) -> Vec<Digest> {
        if old == leaves.len() {
            return if is_root { vec![] } else { vec![tree::root(leaves)] };
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut proof, sibling) = if old <= split {
            (subproof(old, left, is_root), right)
        } else {
            (subproof(old - split, right, false), left)
        };
        proof.push(tree::root(sibling));
        proof
    }

    #[test]
    fn consistency_proofs_are_those_of_the_rfc_and_exact() {
        let leaves = leaves(N);
        let log = log(N);
        let roots: Vec<Digest> = (0..=N).map(|size| log.root_at(size).unwrap()).collect();
        for new in 0..=N {
            for old in 0..=new {
                let (o, n) = (roots[old as usize], roots[new as usize]);
                let path = log.consistency(old, new).unwrap();
                if old > 0 {
                    let expected = subproof(old as usize, &leaves[..new as usize], true);
                    assert_eq!(path.0, expected);
                }
                assert!(verify_consistency(old, o, new, n, &path), "{old} {new}");
                let wrong = leaf_hash(b"another");
                assert!(!verify_consistency(old, wrong, new, n, &path));
                // Everything continues the empty log; there the new root is not looked at.
                assert!(old == 0 && new > 0 || !verify_consistency(old, o, new, wrong, &path));
                let mut longer = path.clone();
                longer.0.push(wrong);
                assert!(!verify_consistency(old, o, new, n, &longer));
                let mut longer = path.clone();
                longer.0.insert(0, wrong);
                assert!(!verify_consistency(old, o, new, n, &longer));
                let mut shorter = path.clone();
                if shorter.0.pop().is_some() {
                    assert!(!verify_consistency(old, o, new, n, &shorter));
                }
                if old < new {
                    assert!(!verify_consistency(new, n, old, o, &path));
                }
            }
        }
        assert_eq!(log.consistency(2, 1), None);
        assert_eq!(log.consistency(1, N + 1), None);
    }

    #[test]
    fn no_flipped_bit_verifies() {
        let log = log(13);
        for (old, new) in [(1, 2), (3, 7), (4, 7), (6, 8), (5, 13), (8, 13)] {
            let (o, n) = (log.root_at(old).unwrap(), log.root_at(new).unwrap());
            for flipped in bit_flips(&log.consistency(old, new).unwrap()) {
                assert!(!verify_consistency(old, o, new, n, &flipped));
            }
        }
        let frontier = log.frontier_at(13).unwrap();
        for flipped in bit_flips(&frontier) {
            assert!((flipped.size(), flipped.root()) != (13, frontier.root()));
        }
    }

    #[test]
    fn extreme_sizes_are_refused_without_panic() {
        let root = leaf_hash(b"");
        for path in [Path::default(), Path(vec![root; 64]), Path(vec![root; 65])] {
            for size in [1, 2, 3, 1 << 63, u64::MAX - 1, u64::MAX] {
                for old in [0, 1, 2, 3, 1 << 63, u64::MAX - 1, u64::MAX] {
                    let empty_agrees = old == size && path.0.is_empty();
                    assert_eq!(verify_consistency(old, root, size, root, &path), empty_agrees);
                }
            }
        }
    }

    #[test]
    fn a_frontier_of_the_wrong_shape_does_not_decode() {
        let with = |size: u64, peaks: usize| {
            let peaks = vec![Digest::default(); peaks];
            minicbor::to_vec(Frontier { size, peaks }).unwrap()
        };
        assert!(minicbor::decode::<Frontier>(&with(5, 2)).is_ok());
        assert!(minicbor::decode::<Frontier>(&with(5, 1)).is_err());
        assert!(minicbor::decode::<Frontier>(&with(5, 3)).is_err());
        assert!(minicbor::decode::<Frontier>(&with(0, 1)).is_err());
        assert!(minicbor::decode::<Frontier>(&with(MAX_LOG_SIZE, 1)).is_ok());
        assert!(minicbor::decode::<Frontier>(&with(u64::MAX, 64)).is_err());
    }
}
