//! Merkle trees: what is committed to by one digest and disclosed leaf by leaf.
//!
//! Whoever signs here signs a root, and whoever is shown a leaf must be able to
//! check it without the rest. There is one shape of tree, that of RFC 6962
//! section 2.1 (unchanged in RFC 9162), and one trie:
//!
//! | module | structure | commits to |
//! | --- | --- | --- |
//! | [`tree`] | the plain tree | a fixed list |
//! | [`log`] | the same tree, growing | mailbox logs and every prefix of them |
//! | [`sum`] | the same shape with counts | a batch's bundles, and the index of each message |
//! | [`map`] | a persistent radix trie | the state, the attested mailboxes, a slice |
//!
//! Every proof is canonical: for one root and one question there is one proof,
//! of one exact length. Proofs are input from strangers, so nothing here panics
//! or recurses on them, and their length is checked against an explicit limit
//! before anything is allocated. What these types refuse is structure; that the
//! *bytes* are the shortest form of CBOR without anything trailing is the
//! codec's to check, as for all that is decoded.

pub mod log;
pub mod map;
mod shape;
pub mod sum;
pub mod tree;

use minicbor::decode::{Decode, Decoder, Error};

/// The most siblings a proof in a tree can have: trees have fewer than 2^64 leaves.
pub const MAX_TREE_DEPTH: usize = 64;

/// Decodes an array of at most `max` elements, of definite length.
fn decode_list<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, ctx: &mut C, max: usize) -> Result<Vec<T>, Error> {
    let at = d.position();
    let len = d
        .array()?
        .and_then(|len| usize::try_from(len).ok())
        .filter(|len| *len <= max)
        .ok_or_else(|| Error::message("list too long or of no definite length").at(at))?;
    let mut items = Vec::with_capacity(len);
    for _ in 0..len {
        items.push(T::decode(d, ctx)?);
    }
    Ok(items)
}

/// Test help: what a decoder that insists on one byte string per value accepts.
#[cfg(test)]
fn decode_strictly<T>(bytes: &[u8]) -> Option<T>
where
    T: minicbor::Encode<()> + for<'b> Decode<'b, ()>,
{
    let value: T = minicbor::decode(bytes).ok()?;
    (minicbor::to_vec(&value).ok()? == bytes).then_some(value)
}

/// Test help: every variant of `value` that differs in one bit of its encoding and still decodes.
#[cfg(test)]
fn bit_flips<T>(value: &T) -> Vec<T>
where
    T: minicbor::Encode<()> + for<'b> Decode<'b, ()>,
{
    let bytes = minicbor::to_vec(value).unwrap();
    (0..bytes.len() * 8)
        .filter_map(|bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            decode_strictly(&bytes)
        })
        .collect()
}
