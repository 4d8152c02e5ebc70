//! A persistent authenticated map: the state of the federation, the attested mailboxes.
//!
//! Every node computes the root of its state after every cut, keeps the states of
//! some past cuts to answer from, and proves single entries to those who hold
//! nothing but a root. So a clone is O(1) and shares structure, a change copies
//! and hashes one path, and digests are computed when somebody asks for them.
//!
//! It is a radix trie without one-way branches (crit-bit tree, PATRICIA; compare
//! the sparse trees of Jellyfish Merkle Tree, Diem 2021) over the *location* of an
//! entry, which is the SHA-256 of its key, bit 0 being the highest of the first
//! byte:
//!
//! - empty map: SHA-256 of the empty string
//! - leaf: `SHA-256(0x00 ‖ location ‖ SHA-256(value bytes))`
//! - node: `SHA-256(0x01 ‖ bit ‖ left ‖ right)`, `bit` as 2 bytes, big-endian: the
//!   first bit in which the locations below differ; left are those with a 0
//!
//! The trie, and so the root, is a function of the entries alone, not of the order
//! in which they came.
//!
//! # Why proofs are sound
//!
//! From a root, a key's location leads down one way: at every node the hash fixes
//! the bit and both children, and the location's value of that bit chooses. A
//! proof is that way up to its end, which is a leaf: the key's own, or a leaf with
//! another location, or nothing at all in the empty map. Were the key present, its
//! leaf would be below the same side of every node on the way (bits rise strictly
//! on the way down, so no bit is asked twice and the way is at most 256 nodes), and
//! so at that end. Two valid proofs for one root and one key would be a collision
//! of SHA-256. This holds for *any* tree of nodes under the root, also one that no
//! honest map builds: a liar can hide entries from this walk, but cannot answer for
//! one key in two ways under one root.

mod proof;

pub use proof::{MAX_MAP_DEPTH, MapProof};

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::tree::empty_root;
use crate::digest::{Digest, hash};

/// What can be a key of a [`MerkleMap`].
pub trait MapKey {
    /// The bytes that stand for the key. Different keys must have different bytes.
    fn key_bytes(&self) -> Vec<u8>;
}

/// What can be a value of a [`MerkleMap`].
pub trait MapValue {
    /// The bytes that the map commits to. Values that differ in what matters must differ in these,
    /// and a value's bytes must not change while it is in a map.
    fn value_bytes(&self) -> Vec<u8>;
}

impl MapValue for Digest {
    fn value_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// An authenticated map with O(1) clone; clones are independent of each other.
pub struct MerkleMap<K, V> {
    top: Option<Link<K, V>>,
    len: usize,
}

/// A subtree, possibly shared with other maps.
enum Link<K, V> {
    Leaf(Arc<Leaf<K, V>>),
    Node(Arc<Node<K, V>>),
}

struct Leaf<K, V> {
    location: Digest,
    key: K,
    value: V,
    hash: OnceLock<Digest>,
}

struct Node<K, V> {
    bit: u8,
    /// Where the locations have a 0 in `bit`, and where they have a 1.
    sides: [Link<K, V>; 2],
    /// Empty from a change below to the next time somebody asks.
    hash: OnceLock<Digest>,
}

/// Where the entry of a key stands.
fn locate(key_bytes: &[u8]) -> Digest {
    hash(&[key_bytes])
}

/// The value of one bit of a location, as an index.
fn bit_of(location: &Digest, bit: u8) -> usize {
    usize::from(location.0[usize::from(bit / 8)] >> (7 - bit % 8) & 1)
}

/// The first bit in which two locations differ.
fn first_difference(a: &Digest, b: &Digest) -> Option<u8> {
    let mut bits = 0..=u8::MAX;
    let byte = a.0.iter().zip(&b.0).position(|(a, b)| a != b)?;
    bits.nth(byte * 8 + (a.0[byte] ^ b.0[byte]).leading_zeros() as usize)
}

fn leaf_hash(location: &Digest, value: &Digest) -> Digest {
    hash(&[&[0x00], &location.0, &value.0])
}

fn node_hash(bit: u8, left: &Digest, right: &Digest) -> Digest {
    let bit = u16::from(bit).to_be_bytes();
    hash(&[&[0x01], &bit, &left.0, &right.0])
}

impl<K: MapKey, V: MapValue> MerkleMap<K, V> {
    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let location = locate(&key.key_bytes());
        let leaf = self.find(&location)?;
        (leaf.location == location).then_some(&leaf.value)
    }

    /// Whether there is an entry for `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of `key`; true if there was none.
    pub fn insert(&mut self, key: K, value: V) -> bool {
        self.insert_at(locate(&key.key_bytes()), key, value)
    }

    /// Removes the entry of `key`; true if there was one.
    pub fn remove(&mut self, key: &K) -> bool {
        self.remove_at(&locate(&key.key_bytes()))
    }

    /// The root. Hashes what has changed since somebody last asked, in this map or in one that
    /// shares the part.
    pub fn root(&self) -> Digest {
        self.top.as_ref().map_or_else(empty_root, Link::hash)
    }

    /// Proves what value `key` has, or that it has none.
    pub fn prove(&self, key: &K) -> MapProof {
        self.prove_at(&locate(&key.key_bytes()))
    }

    fn prove_at(&self, location: &Digest) -> MapProof {
        let mut siblings = Vec::new();
        let mut next = self.top.as_ref();
        while let Some(Link::Node(node)) = next {
            let side = bit_of(location, node.bit);
            siblings.push((node.bit, node.sides[1 - side].hash()));
            next = Some(&node.sides[side]);
        }
        let end = match next {
            Some(Link::Leaf(leaf)) => Some((leaf.location, hash(&[&leaf.value.value_bytes()]))),
            _ => None,
        };
        MapProof::new(location, siblings, end)
    }

    fn insert_at(&mut self, location: Digest, key: K, value: V) -> bool {
        let difference = match self.find(&location) {
            Some(leaf) => first_difference(&leaf.location, &location),
            None => None,
        };
        let leaf = Link::Leaf(Arc::new(Leaf { location, key, value, hash: OnceLock::new() }));
        let Some(mut link) = self.top.as_mut() else {
            self.top = Some(leaf);
            self.len = 1;
            return true;
        };
        // Down to the key's own leaf, or to the first subtree whose locations all differ from the
        // key's in an earlier bit than they differ in among themselves.
        while link.splits_before(difference) {
            link = link.changing_side(&location);
        }
        let Some(bit) = difference else {
            *link = leaf;
            return false;
        };
        let other = link.clone();
        let sides = match bit_of(&location, bit) {
            0 => [leaf, other],
            _ => [other, leaf],
        };
        *link = Link::Node(Arc::new(Node { bit, sides, hash: OnceLock::new() }));
        self.len += 1;
        true
    }

    fn remove_at(&mut self, location: &Digest) -> bool {
        if self.find(location).is_none_or(|leaf| leaf.location != *location) {
            return false;
        }
        self.len -= 1;
        let Some(mut link) = self.top.as_mut().filter(|top| matches!(top, Link::Node(_))) else {
            self.top = None;
            return true;
        };
        // Down to the node above the leaf; its other side takes its place.
        loop {
            if let Some(remaining) = link.without_leaf_at(location) {
                *link = remaining;
                return true;
            }
            link = link.changing_side(location);
        }
    }
}

impl<K, V> MerkleMap<K, V> {
    /// An empty map.
    pub fn new() -> Self {
        MerkleMap { top: None, len: 0 }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in the order of the SHA-256 of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { ahead: self.top.iter().collect(), remaining: self.len }
    }

    /// The leaf at the end of a location's way: the only one that can have this location.
    fn find(&self, location: &Digest) -> Option<&Leaf<K, V>> {
        let mut link = self.top.as_ref()?;
        loop {
            match link {
                Link::Leaf(leaf) => return Some(leaf),
                Link::Node(node) => link = &node.sides[bit_of(location, node.bit)],
            }
        }
    }
}

impl<K, V> Link<K, V> {
    /// Whether this is a node, and asks for a bit before the given one (or any bit).
    fn splits_before(&self, bit: Option<u8>) -> bool {
        matches!(self, Link::Node(node) if bit.is_none_or(|bit| node.bit < bit))
    }

    /// The side of this node that a location is on, for a change there: copies the node if other
    /// maps share it, and drops its digest.
    fn changing_side(&mut self, location: &Digest) -> &mut Self {
        let Link::Node(node) = self else {
            unreachable!("a change goes down from nodes only");
        };
        let node = Arc::make_mut(node);
        node.hash.take();
        &mut node.sides[bit_of(location, node.bit)]
    }

    /// If this is a node right above the leaf at a location's end: its other side.
    fn without_leaf_at(&self, location: &Digest) -> Option<Self> {
        let Link::Node(node) = self else { return None };
        let side = bit_of(location, node.bit);
        matches!(node.sides[side], Link::Leaf(_)).then(|| node.sides[1 - side].clone())
    }
}

impl<K, V: MapValue> Link<K, V> {
    /// Recursive, but never deeper than there are bits in a location: bits rise on the way down.
    fn hash(&self) -> Digest {
        match self {
            Link::Leaf(leaf) => {
                *leaf.hash.get_or_init(|| leaf_hash(&leaf.location, &hash(&[&leaf.value.value_bytes()])))
            }
            Link::Node(node) => {
                *node.hash.get_or_init(|| node_hash(node.bit, &node.sides[0].hash(), &node.sides[1].hash()))
            }
        }
    }
}

// By hand, because a derived `Clone` would ask for `K: Clone` and `V: Clone`, which sharing spares.
impl<K, V> Clone for Link<K, V> {
    fn clone(&self) -> Self {
        match self {
            Link::Leaf(leaf) => Link::Leaf(Arc::clone(leaf)),
            Link::Node(node) => Link::Node(Arc::clone(node)),
        }
    }
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        Node { bit: self.bit, sides: self.sides.clone(), hash: self.hash.clone() }
    }
}

impl<K, V> Clone for MerkleMap<K, V> {
    fn clone(&self) -> Self {
        MerkleMap { top: self.top.clone(), len: self.len }
    }
}

impl<K, V> Default for MerkleMap<K, V> {
    fn default() -> Self {
        MerkleMap::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for MerkleMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// Maps are equal if their roots are.
impl<K: MapKey, V: MapValue> PartialEq for MerkleMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.root() == other.root()
    }
}

impl<K: MapKey, V: MapValue> Eq for MerkleMap<K, V> {}

impl<K: MapKey, V: MapValue> FromIterator<(K, V)> for MerkleMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = MerkleMap::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<'a, K, V> IntoIterator for &'a MerkleMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// The entries of a [`MerkleMap`], in the order of the SHA-256 of their keys.
pub struct Iter<'a, K, V> {
    /// Subtrees not yet seen, the next one last.
    ahead: Vec<&'a Link<K, V>>,
    remaining: usize,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let mut link = self.ahead.pop()?;
        loop {
            match link {
                Link::Leaf(leaf) => {
                    self.remaining -= 1;
                    return Some((&leaf.key, &leaf.value));
                }
                Link::Node(node) => {
                    self.ahead.push(&node.sides[1]);
                    link = &node.sides[0];
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests;
