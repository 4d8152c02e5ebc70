//! The Merkle structures from outside: published vectors, and properties over random inputs.

use std::collections::BTreeMap;

use postroad_protocol::digest::{Digest, hash};
use postroad_protocol::merkle::log::{Frontier, Log, verify_consistency};
use postroad_protocol::merkle::map::{MapKey, MapProof, MapValue, MerkleMap};
use postroad_protocol::merkle::sum::{SumPath, SumTree};
use postroad_protocol::merkle::tree::{self, Path, Tree, leaf_hash, root_from_path};
use proptest::collection::vec;
use proptest::prelude::*;

fn digest(hex: &str) -> Digest {
    Digest(hex::decode(hex).unwrap().try_into().unwrap())
}

/// The inputs that the Certificate Transparency code (certificate-transparency, later
/// transparency-dev/merkle `testonly`) tests with.
fn ct_leaves() -> Vec<Digest> {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let data = inputs.iter().map(|input| hex::decode(input).unwrap());
    data.map(|data| leaf_hash(&data)).collect()
}

#[test]
fn roots_are_those_of_certificate_transparency() {
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves = ct_leaves();
    let mut log = Log::new();
    let mut frontier = Frontier::new();
    for (size, expected) in roots.iter().enumerate() {
        let expected = digest(expected);
        assert_eq!(tree::root(&leaves[..size]), expected);
        assert_eq!(Tree::new(leaves[..size].to_vec()).root(), expected);
        assert_eq!(log.root(), expected);
        assert_eq!(frontier.root(), expected);
        if let Some(leaf) = leaves.get(size) {
            log.append(*leaf);
            frontier.append(*leaf);
        }
    }
}

#[test]
fn proofs_are_those_of_certificate_transparency() {
    let leaves = ct_leaves();
    let mut log = Log::new();
    leaves.iter().for_each(|leaf| log.append(*leaf));
    let path = |digests: &[&str]| Path(digests.iter().map(|hex| digest(hex)).collect());
    // (leaf, size, path); the published tests count leaves from 1.
    let inclusions = [
        (0, 1, path(&[])),
        (
            0,
            8,
            path(&[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]),
        ),
        (
            5,
            8,
            path(&[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]),
        ),
        (2, 3, path(&["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"])),
        (
            1,
            5,
            path(&[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]),
        ),
    ];
    for (index, size, expected) in inclusions {
        let found = log.inclusion(index, size);
        assert_eq!(found.as_ref(), Some(&expected), "{index} of {size}");
    }
    let consistencies = [
        (1, 1, path(&[])),
        (
            1,
            8,
            path(&[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]),
        ),
        (
            6,
            8,
            path(&[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]),
        ),
        (
            2,
            5,
            path(&[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]),
        ),
    ];
    for (old, new, expected) in consistencies {
        let found = log.consistency(old, new);
        assert_eq!(found.as_ref(), Some(&expected), "{old} to {new}");
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl MapKey for Bytes {
    fn key_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

impl MapValue for Bytes {
    fn value_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

fn key(i: u8) -> Bytes {
    Bytes(vec![i; usize::from(i % 40) + 1])
}

proptest! {
    #[test]
    fn a_log_proves_itself_to_a_frontier(size in 1u64..300, at in any::<u64>(), old in any::<u64>()) {
        let mut log = Log::new();
        let mut frontier = Frontier::new();
        for i in 0..size {
            log.append(leaf_hash(&i.to_le_bytes()));
            frontier.append(leaf_hash(&i.to_le_bytes()));
        }
        prop_assert_eq!(log.root(), frontier.root());
        let (at, old) = (at % size, old % (size + 1));
        let path = log.inclusion(at, size).unwrap();
        let leaf = leaf_hash(&at.to_le_bytes());
        prop_assert_eq!(root_from_path(leaf, at, size, &path), Some(log.root()));
        let then = log.inclusion(at, at + 1).unwrap();
        prop_assert_eq!(root_from_path(leaf, at, at + 1, &then), log.root_at(at + 1));
        let path = log.consistency(old, size).unwrap();
        let old_root = log.root_at(old).unwrap();
        prop_assert!(verify_consistency(old, old_root, size, log.root(), &path));
        let bytes = minicbor::to_vec(&path).unwrap();
        prop_assert_eq!(minicbor::decode::<Path>(&bytes).unwrap(), path);
    }

    #[test]
    fn a_sum_path_tells_where_its_items_begin(counts in vec(0u64..1000, 1..100), at in any::<prop::sample::Index>()) {
        let leaves: Vec<_> = (0u64..).zip(&counts).map(|(i, count)| (*count, hash(&[&i.to_be_bytes()]))).collect();
        let tree = SumTree::new(leaves.clone());
        let at = at.index(leaves.len());
        let path = tree.path(at);
        let (count, digest) = &leaves[at];
        let first = counts[..at].iter().sum();
        prop_assert_eq!(path.resolve(*count, digest, at as u64, leaves.len() as u64), Some((tree.root(), first)));
        let bytes = minicbor::to_vec(&path).unwrap();
        prop_assert_eq!(minicbor::decode::<SumPath>(&bytes).unwrap(), path);
    }

    #[test]
    fn a_map_answers_as_a_plain_one(changes in vec((0u8..50, prop::option::weighted(0.7, any::<u8>())), 0..200), snapshot in any::<prop::sample::Index>()) {
        let mut map = MerkleMap::new();
        let mut model = BTreeMap::new();
        let snapshot = snapshot.index(changes.len() + 1);
        let mut kept = None;
        for (i, (name, value)) in changes.iter().enumerate() {
            if i == snapshot {
                kept = Some((map.clone(), model.clone()));
            }
            match value {
                Some(value) => {
                    let new = map.insert(key(*name), Bytes(vec![*value]));
                    prop_assert_eq!(new, model.insert(*name, *value).is_none());
                }
                None => prop_assert_eq!(map.remove(&key(*name)), model.remove(name).is_some()),
            }
        }
        for (map, model) in [Some((map, model)), kept].into_iter().flatten() {
            prop_assert_eq!(map.len(), model.len());
            let again: MerkleMap<Bytes, Bytes> = model.iter().rev().map(|(name, value)| (key(*name), Bytes(vec![*value]))).collect();
            prop_assert_eq!(again.root(), map.root());
            for name in 0..55u8 {
                let value = model.get(&name).map(|value| Bytes(vec![*value]));
                prop_assert_eq!(map.get(&key(name)), value.as_ref());
                let proof = map.prove(&key(name));
                let answer = value.map(|value| hash(&[&value.value_bytes()]));
                prop_assert_eq!(proof.verify(&map.root(), &key(name).key_bytes()), Some(answer));
                // A proof of presence is for this key alone; one of absence also holds for others.
                let other = key(name + 1).key_bytes();
                if answer.is_some() {
                    prop_assert_eq!(proof.verify(&map.root(), &other), None);
                }
                prop_assert_eq!(proof.verify(&hash(&[b"another root"]), &other), None);
                let bytes = minicbor::to_vec(&proof).unwrap();
                prop_assert_eq!(minicbor::decode::<MapProof>(&bytes).unwrap(), proof);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), index in any::<u64>(), size in any::<u64>()) {
        let (root, key) = (hash(&[&bytes]), [7; 32]);
        if let Ok(path) = minicbor::decode::<Path>(&bytes) {
            let _ = root_from_path(root, index, size, &path);
            prop_assert!(index == size || !verify_consistency(index, root, size, root, &path));
        }
        if let Ok(path) = minicbor::decode::<SumPath>(&bytes) {
            let _ = path.resolve(index, &root, index, size);
        }
        if let Ok(proof) = minicbor::decode::<MapProof>(&bytes) {
            prop_assert_eq!(proof.verify(&root, &key), None);
        }
        if let Ok(mut frontier) = minicbor::decode::<Frontier>(&bytes) {
            frontier.append(root);
        }
    }
}
