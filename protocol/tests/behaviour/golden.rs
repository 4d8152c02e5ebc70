//! Golden vectors: the bytes of everything that is signed, sent or stored, compared with `testdata/`.
//!
//! A difference means that the format has changed, and with it every signature and every proof file in the world. Only
//! when that is meant: `POSTROAD_BLESS=1 cargo test -p postroad-protocol golden` writes the files again.

use std::fmt::Write as _;
use std::path::Path;

use postroad_protocol::codec::encode;
use postroad_protocol::digest::hash;
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::merkle::sum::SumTree;
use postroad_protocol::merkle::tree;
use postroad_protocol::state::{MailboxState, State};
use postroad_protocol::{Digest, MailboxId};

use crate::common::claims::{Scale, guilty};
use crate::common::samples;
use crate::common::story::story;

/// Compares lines of `name hex` with a file of them, or writes the file.
fn compare(file: &str, lines: &[(String, Vec<u8>)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let mut text = String::new();
    for (name, bytes) in lines {
        writeln!(text, "{name} {}", hex::encode(bytes)).unwrap();
    }
    if std::env::var_os("POSTROAD_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (known, now) in known.lines().zip(text.lines()) {
        assert_eq!(known, now, "the format of this has changed ({file})");
    }
    assert_eq!(known, text, "{file} has more or fewer vectors than there are values");
}

#[test]
fn statements_have_the_bytes_digests_and_signatures_that_they_always_had() {
    let story = story();
    let mut lines = vec![("federation".to_owned(), story.world.federation.id().0.to_vec())];
    for said in samples::statements(&story) {
        lines.push((format!("{}.signer", said.kind), said.signer.to_vec()));
        lines.push((format!("{}.body", said.kind), said.body));
        lines.push((format!("{}.digest", said.kind), said.digest.0.to_vec()));
        lines.push((format!("{}.signature", said.kind), said.signature.0.to_vec()));
    }
    compare("statements.hex", &lines);
}

#[test]
fn structures_have_the_bytes_that_they_always_had() {
    let lines: Vec<_> =
        samples::structures(&story()).into_iter().map(|sample| (sample.name.to_owned(), sample.bytes)).collect();
    compare("structures.hex", &lines);
}

#[test]
fn messages_have_the_bytes_that_they_always_had() {
    let lines: Vec<_> =
        samples::messages(&story()).into_iter().map(|sample| (sample.name.to_owned(), sample.bytes)).collect();
    compare("wire.hex", &lines);
}

#[test]
fn files_have_the_bytes_that_they_always_had() {
    let story = story();
    let guilty = guilty(Scale::SMALL).remove(0);
    let lines = [
        ("genesis.toml".to_owned(), story.world.federation.genesis().to_text().into_bytes()),
        ("message.proof".to_owned(), story.world.message_proof(2, 0).to_file()),
        ("equivocation.evidence".to_owned(), guilty.claim.to_file(&guilty.world.federation)),
    ];
    compare("files.hex", &lines);
}

#[test]
fn digests_and_roots_are_what_they_always_were() {
    let story = story();
    let world = &story.world;
    let (message, slice) = (&story.first.bundles[0].messages[0], &story.first.routed.bodies[2]);
    let index = slice.index(story.first.header.body.entries.bundles, world.federation.id()).unwrap();
    let (_, proofs) = message.disclose();
    let sealed = &world.cuts[1].body.headers[0];
    let leaves: Vec<Digest> = (0..5u8).map(|leaf| tree::leaf_hash(&[leaf])).collect();
    let sum = SumTree::new((0..5u64).map(|leaf| (leaf, hash(&[&leaf.to_be_bytes()]))).collect());
    let empty = MerkleMap::<MailboxId, MailboxState>::new().root();
    let lines: Vec<(String, Vec<u8>)> = [
        ("tree.empty", tree::empty_root()),
        ("tree.of-5", tree::root(&leaves)),
        ("sum.of-5", sum.root().hash),
        ("map.empty", empty),
        ("message", message.digest()),
        ("message.own.0", proofs[0].own_digest()),
        ("bundle.messages", story.first.bundles[0].signed.body.messages),
        ("bundle.leaf", postroad_protocol::batch::bundle_leaf(&story.first.bundles[0].signed, world.federation.id())),
        ("entries", story.first.header.body.entries.root),
        ("slice", index.root()),
        ("custody", sealed.custody_digest()),
        ("state.genesis", State::genesis(&world.federation).root()),
        ("state.1", world.states[1].root()),
        ("state.2", world.states[2].root()),
        ("state.4", world.state.root()),
        ("log.leaf", world.log(2)[0].hash()),
        ("attestation.root", story.attested.map.root()),
        ("genesis", world.federation.id()),
    ]
    .map(|(name, digest)| (name.to_owned(), digest.0.to_vec()))
    .into();
    compare("digests.hex", &lines);
    // What a log leaf hashes is its encoding.
    assert_eq!(world.log(2)[0].hash(), tree::leaf_hash(&encode(&world.log(2)[0])));
}
