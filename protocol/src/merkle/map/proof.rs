//! Proofs of single entries of a [`MerkleMap`](super::MerkleMap), and of their absence.
//!
//! See the module above for why they are sound. One proof is valid for a root and
//! a key: bits must rise strictly, and a leaf that shows absence must agree with
//! the key's location in every bit on the way, and differ from it elsewhere.

use minicbor::decode::{Decode, Decoder, Error};

use super::{bit_of, leaf_hash, locate, node_hash};
use crate::digest::Digest;
use crate::merkle::decode_list;
use crate::merkle::tree::empty_root;

/// The most nodes on the way to a leaf: one for each bit of a location.
pub const MAX_MAP_DEPTH: usize = 256;

/// Proof of what value a key has in a map, or that it has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct MapProof {
    #[n(0)]
    way: Way,
    #[n(1)]
    end: End,
}

/// The nodes from the root down. At most [`MAX_MAP_DEPTH`] decode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode)]
#[cbor(transparent)]
struct Way(#[n(0)] Vec<Turn>);

impl<'b, C> Decode<'b, C> for Way {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, Error> {
        decode_list(d, ctx, MAX_MAP_DEPTH).map(Way)
    }
}

/// A node on the way, and the side that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
struct Turn {
    #[n(0)]
    bit: u8,
    #[n(1)]
    sibling: Digest,
}

/// What is at the end of a key's way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
enum End {
    /// The key's own leaf; its location is known.
    #[n(0)]
    Present {
        #[n(0)]
        value: Digest,
    },
    /// The leaf of another key.
    #[n(1)]
    Other {
        #[n(0)]
        location: Digest,
        #[n(1)]
        value: Digest,
    },
    /// Nothing, in the empty map.
    #[n(2)]
    Empty,
}

impl MapProof {
    pub(super) fn new(location: &Digest, siblings: Vec<(u8, Digest)>, end: Option<(Digest, Digest)>) -> Self {
        let turns = siblings.into_iter();
        MapProof {
            way: Way(turns.map(|(bit, sibling)| Turn { bit, sibling }).collect()),
            end: match end {
                None => End::Empty,
                Some((found, value)) if found == *location => End::Present { value },
                Some((location, value)) => End::Other { location, value },
            },
        }
    }

    /// What the proof says about the key with these bytes in the map under `root`: the SHA-256 of
    /// its value's bytes, or `Some(None)` if the key is absent. `None` if it proves nothing.
    pub fn verify(&self, root: &Digest, key_bytes: &[u8]) -> Option<Option<Digest>> {
        self.verify_at(root, &locate(key_bytes))
    }

    pub(super) fn verify_at(&self, root: &Digest, location: &Digest) -> Option<Option<Digest>> {
        let turns = self.way.0.as_slice();
        if !turns.is_sorted_by(|upper, lower| upper.bit < lower.bit) {
            return None;
        }
        let (leaf, answer) = match &self.end {
            End::Present { value } => (leaf_hash(location, value), Some(*value)),
            End::Other { location: other, value } => {
                let same_way = |turn: &Turn| bit_of(other, turn.bit) == bit_of(location, turn.bit);
                if other == location || !turns.iter().all(same_way) {
                    return None;
                }
                (leaf_hash(other, value), None)
            }
            End::Empty => return (turns.is_empty() && *root == empty_root()).then_some(None),
        };
        let found = turns.iter().rev().fold(leaf, |node, turn| match bit_of(location, turn.bit) {
            0 => node_hash(turn.bit, &node, &turn.sibling),
            _ => node_hash(turn.bit, &turn.sibling, &node),
        });
        (found == *root).then_some(answer)
    }
}
