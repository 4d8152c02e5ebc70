use std::collections::BTreeMap;

use super::*;
use crate::merkle::{bit_flips, decode_strictly};

impl MapKey for u32 {
    fn key_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
}

impl MapValue for u32 {
    fn value_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
}

type Map = MerkleMap<u32, u32>;

/// The definition of the root, taken literally.
fn root_by_definition(leaves: &[(Digest, u32)]) -> Digest {
    match leaves {
        [] => hash(&[]),
        [(location, value)] => leaf_hash(location, &hash(&[&value.value_bytes()])),
        [(first, _), .., (last, _)] => {
            let bit = first_difference(first, last).unwrap();
            let split = leaves.partition_point(|(location, _)| bit_of(location, bit) == 0);
            let (left, right) = leaves.split_at(split);
            node_hash(bit, &root_by_definition(left), &root_by_definition(right))
        }
    }
}

/// Bits rise on the way down, every leaf is on its side, and digests in cache are right.
fn check(map: &Map) {
    fn below(link: &Link<u32, u32>, from: u16, leaves: &mut Vec<(Digest, u32)>) {
        match link {
            Link::Leaf(leaf) => leaves.push((leaf.location, leaf.value)),
            Link::Node(node) => {
                assert!(u16::from(node.bit) >= from);
                let first = leaves.len();
                below(&node.sides[0], u16::from(node.bit) + 1, leaves);
                let second = leaves.len();
                below(&node.sides[1], u16::from(node.bit) + 1, leaves);
                let (left, right) = leaves[first..].split_at(second - first);
                assert!(left.iter().all(|(location, _)| bit_of(location, node.bit) == 0));
                assert!(right.iter().all(|(location, _)| bit_of(location, node.bit) == 1));
            }
        }
    }
    let mut leaves = Vec::new();
    if let Some(top) = &map.top {
        below(top, 0, &mut leaves);
    }
    assert!(leaves.is_sorted_by(|(a, _), (b, _)| a < b));
    assert_eq!(leaves.len(), map.len());
    assert_eq!(map.root(), root_by_definition(&leaves));
}

/// Locations that share long prefixes with each other, down to the last bit.
fn crafted_locations() -> Vec<Digest> {
    let mut locations = vec![Digest([0; 32])];
    for bit in 0..=255u8 {
        let mut location = Digest([0; 32]);
        location.0[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
        locations.push(location);
    }
    locations
}

#[test]
fn bits_are_counted_from_the_highest() {
    let locations = crafted_locations();
    for (bit, location) in (0..=255u8).zip(&locations[1..]) {
        assert_eq!(first_difference(&locations[0], location), Some(bit));
        assert_eq!(bit_of(location, bit), 1);
        assert_eq!((0..=255).filter(|bit| bit_of(location, *bit) == 1).count(), 1);
    }
    assert_eq!(first_difference(&locations[0], &locations[0]), None);
}

#[test]
fn the_deepest_trie_works() {
    let locations = crafted_locations();
    let mut map = Map::new();
    for (i, location) in (0..).zip(&locations) {
        assert!(map.insert_at(*location, i, i));
    }
    check(&map);
    let mut backwards = Map::new();
    for (i, location) in (0..257u32).zip(&locations).rev() {
        assert!(backwards.insert_at(*location, i, i));
    }
    assert_eq!(map.root(), backwards.root());
    let root = map.root();
    for (i, location) in (0u32..).zip(&locations).step_by(5) {
        let proof = map.prove_at(location);
        let bytes = minicbor::to_vec(&proof).unwrap();
        assert_eq!(decode_strictly(&bytes), Some(proof.clone()));
        let value = hash(&[&i.value_bytes()]);
        assert_eq!(proof.verify_at(&root, location), Some(Some(value)));
        for other in locations.iter().step_by(31) {
            assert_eq!(proof.verify_at(&root, other).is_some(), other == location);
        }
    }
    for location in locations.iter().step_by(5) {
        let mut absent = *location;
        absent.0[31] ^= 3;
        absent.0[0] ^= 0x18;
        let proof = map.prove_at(&absent);
        assert_eq!(proof.verify_at(&root, &absent), Some(None));
        assert_eq!(proof.verify_at(&root, location), None);
    }
    for (i, location) in locations.iter().enumerate() {
        assert!(map.remove_at(location));
        assert!(!map.remove_at(location));
        if i % 64 == 0 {
            check(&map);
        }
    }
    assert_eq!(map.root(), empty_root());
}

#[test]
fn a_deeper_proof_does_not_decode() {
    let with = |len: usize| {
        let siblings = vec![(0, Digest::default()); len];
        minicbor::to_vec(MapProof::new(&Digest::default(), siblings, None)).unwrap()
    };
    assert!(minicbor::decode::<MapProof>(&with(MAX_MAP_DEPTH)).is_ok());
    assert!(minicbor::decode::<MapProof>(&with(MAX_MAP_DEPTH + 1)).is_err());
}

/// A walk that a liar builds with falling or repeated bits is refused though its hashes are right.
#[test]
fn bits_must_rise() {
    let location = Digest([0xaa; 32]);
    let (value, sibling) = (hash(&[b"value"]), hash(&[b"sibling"]));
    let leaf = leaf_hash(&location, &value);
    for (upper, lower, valid) in [(3, 5, true), (5, 3, false), (5, 5, false)] {
        let step = |bit, node: &Digest| match bit_of(&location, bit) {
            0 => node_hash(bit, node, &sibling),
            _ => node_hash(bit, &sibling, node),
        };
        let root = step(upper, &step(lower, &leaf));
        let siblings = vec![(upper, sibling), (lower, sibling)];
        let proof = MapProof::new(&location, siblings, Some((location, value)));
        let expected = valid.then_some(Some(value));
        assert_eq!(proof.verify_at(&root, &location), expected);
    }
}

/// The key's own leaf, shown as if it were another's, does not make the key absent.
#[test]
fn a_present_key_cannot_be_shown_absent() {
    let location = Digest([0xaa; 32]);
    let (value, sibling) = (hash(&[b"value"]), hash(&[b"sibling"]));
    let leaf = leaf_hash(&location, &value);
    let root = node_hash(0, &sibling, &leaf);
    let with_end = |kind: u8, end: &[Digest]| -> MapProof {
        let proof = (vec![(0u8, sibling)], (kind, end));
        decode_strictly(&minicbor::to_vec(proof).unwrap()).unwrap()
    };
    let present = with_end(0, &[value]).verify_at(&root, &location);
    assert_eq!(present, Some(Some(value)));
    assert_eq!(with_end(1, &[location, value]).verify_at(&root, &location), None);
    assert_eq!(with_end(2, &[]).verify_at(&root, &location), None);
}

/// A leaf that a liar put on the wrong side of a node ends nobody's way.
#[test]
fn a_misplaced_leaf_proves_nothing() {
    let (misplaced, asked) = (Digest([0xff; 32]), Digest([0x00; 32]));
    let (value, sibling) = (hash(&[b"value"]), hash(&[b"sibling"]));
    let root = node_hash(0, &leaf_hash(&misplaced, &value), &sibling);
    for location in [misplaced, asked] {
        let proof = MapProof::new(&location, vec![(0, sibling)], Some((misplaced, value)));
        assert_eq!(proof.verify_at(&root, &location), None);
    }
}

/// The leaf of another key is no proof of absence unless the key's own way leads there.
#[test]
fn absence_needs_the_keys_own_way() {
    let map: Map = (0..50).map(|i| (i, i)).collect();
    let root = map.root();
    for present in 0..50u32 {
        for other in 0..50u32 {
            let location = locate(&other.key_bytes());
            let mut siblings = Vec::new();
            let mut link = map.top.as_ref().unwrap();
            while let Link::Node(node) = link {
                let side = bit_of(&location, node.bit);
                siblings.push((node.bit, node.sides[1 - side].hash()));
                link = &node.sides[side];
            }
            let end = Some((location, hash(&[&other.value_bytes()])));
            let claim = locate(&present.key_bytes());
            let proof = MapProof::new(&claim, siblings, end);
            let expected = (present == other).then(|| Some(hash(&[&present.value_bytes()])));
            assert_eq!(proof.verify_at(&root, &claim), expected);
        }
    }
}

#[test]
fn no_flipped_bit_verifies() {
    for n in [0, 1, 2, 6] {
        let map: Map = (0..n).map(|i| (i, i)).collect();
        for key in 0..n + 4 {
            let proof = map.prove(&key);
            let bytes = key.key_bytes();
            let expected = (key < n).then(|| hash(&[&key.value_bytes()]));
            assert_eq!(proof.verify(&map.root(), &bytes), Some(expected));
            for flipped in bit_flips(&proof) {
                assert_eq!(flipped.verify(&map.root(), &bytes), None);
            }
        }
    }
}

#[test]
fn changes_behave_as_in_a_plain_map() {
    let mut map = Map::new();
    let mut model = BTreeMap::new();
    let mut past: Vec<(Map, BTreeMap<u32, u32>)> = Vec::new();
    // A fixed sequence of a linear congruential generator (Knuth's MMIX constants).
    let mut state = 1u64;
    for round in 0..4000u32 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (key, action) = ((state >> 33) as u32 % 300, (state >> 60) as u32);
        if action < 6 {
            assert_eq!(map.remove(&key), model.remove(&key).is_some());
        } else {
            assert_eq!(map.insert(key, round), model.insert(key, round).is_none());
        }
        assert_eq!(map.get(&key), model.get(&key));
        if round % 400 == 0 {
            check(&map);
            past.push((map.clone(), model.clone()));
        }
    }
    past.push((map, model));
    for (map, model) in past {
        check(&map);
        let entries: BTreeMap<u32, u32> = map.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(map.iter().len(), model.len());
        assert_eq!(entries, model);
        let again: Map = model.into_iter().rev().collect();
        assert!(again == map);
    }
}

#[test]
fn a_map_without_cloneable_entries_can_be_cloned() {
    struct Opaque(u8);
    impl MapKey for Opaque {
        fn key_bytes(&self) -> Vec<u8> {
            vec![self.0]
        }
    }
    impl MapValue for Opaque {
        fn value_bytes(&self) -> Vec<u8> {
            vec![self.0]
        }
    }
    let mut map = MerkleMap::new();
    for i in 0..100 {
        map.insert(Opaque(i), Opaque(i));
    }
    let (before, root) = (map.clone(), map.root());
    for i in 0..100 {
        assert!(map.remove(&Opaque(i)));
        assert!(map.get(&Opaque(i)).is_none());
        assert!(before.get(&Opaque(i)).is_some());
    }
    assert!(map.is_empty());
    assert_eq!(before.root(), root);
}
