//! What clients and strangers hold in their hands: every proof holds, and no changed proof does.

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{Attestation, DeliveryProof, LogHead, MailboxAttestation};
use postroad_protocol::bundle::BundleBody;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::CutBody;
use postroad_protocol::entry::{AcceptedProof, MessageProof, OrderedProof, ProofError};
use postroad_protocol::signed::Verify;
use postroad_protocol::{Digest, Seq, VerifyError};

use crate::common::story::{Story, story};
use crate::common::{Hold, World};

/// Every value whose bytes differ from the given ones in one bit, for every `step`th bit.
fn flipped<T: Encode<()> + for<'b> Decode<'b, ()>>(value: &T, step: usize) -> impl Iterator<Item = (usize, T)> {
    let bytes = encode(value);
    (0..bytes.len() * 8).step_by(step).filter_map(move |bit| {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Some((bit, decode(&bytes).ok()?))
    })
}

/// The mailboxes, and how many entries each has.
fn entries(story: &Story) -> impl Iterator<Item = (usize, usize)> {
    (0..6).flat_map(|mailbox| (0..story.world.log(mailbox).len()).map(move |index| (mailbox, index)))
}

#[test]
fn every_entry_has_its_place_in_the_certified_order() {
    let story = story();
    let world = &story.world;
    let mut seen = 0;
    for (mailbox, index) in entries(&story) {
        let entry = world.entry(mailbox, index);
        let leaf = world.log(mailbox)[index];
        let cut = &world.certified(leaf.seq.epoch).header;
        let placed = entry.proof.verify(cut, &world.federation).unwrap();
        assert_eq!((placed.seq, placed.id, placed.own), (leaf.seq, leaf.message, leaf.own));
        assert_eq!((placed.recipient, placed.time_ms), (world.mailbox(mailbox), cut.time_ms));
        assert_eq!(placed.via, entry.proof.bundle.body.via);
        seen += 1;
    }
    assert_eq!(seen, 9, "recipients of four messages");
    // The one bundle of two messages: counters and indices run on.
    let pair: Vec<_> = (world.log(2).iter().zip(0..))
        .filter(|(leaf, _)| leaf.seq.position == 0)
        .map(|(_, index)| {
            let placed = world.message_proof(2, index).verify(&world.federation).unwrap();
            (placed.seq.index, placed.counter)
        })
        .collect();
    assert_eq!(pair, [(0, 1), (1, 2), (2, 1)]);
}

#[test]
fn log_order_is_settling_epoch_then_fills_then_number() {
    let story = story();
    for mailbox in 0..6 {
        let log = story.world.log(mailbox);
        assert!(log.is_sorted_by_key(|leaf| leaf.order()));
    }
    // Mailbox 2 got the later batch first: the other was pending.
    let log: Vec<(u64, Seq, bool)> =
        story.world.log(2).iter().map(|leaf| (leaf.settled, leaf.seq, leaf.is_late())).collect();
    let seq = |position, index| Seq { epoch: 2, position, index };
    assert_eq!(log, [(2, seq(1, 0), false), (3, seq(0, 0), true), (3, seq(0, 1), true), (3, seq(0, 2), true)]);
}

#[test]
fn fills_of_one_cut_are_delivered_by_number_whatever_their_order_in_the_cut() {
    let mut world = World::builder().build();
    let mut batches = Vec::new();
    for origin in [0, 1] {
        let message = world.message("hello", &[2]);
        let bundle = world.bundle(0, origin, vec![message]);
        let batch = world.seal(origin, vec![bundle]);
        let holders = if origin == 0 { vec![1, 3] } else { vec![0, 3] };
        let sealed = world.held_as(&batch, |_| Hold::Custodians(holders.clone()));
        world.include(vec![sealed]);
        batches.push(batch);
    }
    let fills = vec![world.fill(&batches[1], 2), world.fill(&batches[0], 2)];
    world.cut(CutBody { fills, ..CutBody::default() });
    assert_eq!(world.log(2).len(), 2);
    assert!(world.log(2).is_sorted_by_key(|leaf| leaf.order()));
}

#[test]
fn an_entry_holds_under_its_own_cut_only() {
    let story = story();
    let world = &story.world;
    let entry = world.entry(2, 0).proof;
    for epoch in [1, 3, 4] {
        let found = entry.verify(&world.certified(epoch).header, &world.federation);
        assert_eq!(found, Err(VerifyError::Path { what: "header" }));
    }
}

#[test]
fn an_entry_is_of_the_origin_it_was_signed_for_and_was_routed_in_time() {
    let mut world = World::builder().build();
    let message = world.message("hello", &[1]);
    // Signed for node 1, and sealed by node 0; then valid until the epoch before the routing epoch.
    let misdirected = world.bundle(0, 1, vec![message.clone()]);
    let mut late = world.bundle(0, 0, vec![message]);
    late.signed.body.valid_until = 0;
    late.signed = world.sign(late.signed.body, &world.mailboxes[0]);
    for (bundle, reason) in [
        (misdirected, "the bundle is signed for another origin"),
        (late, "the bundle was routed after its valid-until"),
    ] {
        let batch = world.seal(0, vec![bundle]);
        let sealed = world.held(&batch);
        world.include(vec![sealed]);
        let last = world.log(1).len() - 1;
        let epoch = world.log(1)[last].seq.epoch;
        let found = world.entry(1, last).proof.verify(&world.certified(epoch).header, &world.federation);
        assert_eq!(found, Err(VerifyError::Malformed { kind: "bundle", reason }));
    }
}

#[test]
fn a_header_that_counts_wrong_places_nothing() {
    let mut world = World::builder().build();
    let message = world.message("hello", &[1]);
    let bundle = world.bundle(0, 0, vec![message]);
    let good = world.seal(0, vec![bundle.clone()]);
    let sealed = world.held(&good);
    world.include(vec![sealed]);
    let mut entry = world.entry(1, 0).proof;
    let batch = world.seal_with(0, vec![bundle.clone()], |header| header.entries.messages = 2);
    let sealed = world.held(&batch);
    let (cut, _) = world.draft(CutBody { headers: vec![sealed.into_inner()], ..CutBody::default() }).unwrap();
    entry.order = cut.body.header_proofs(&world.federation).remove(0);
    let refused = VerifyError::Path { what: "bundle" };
    assert_eq!(entry.verify(&cut.certified.header, &world.federation), Err(refused.clone()));
    let mut ordered = world.ordered_proof(2, 0, &good, 0);
    (ordered.cut, ordered.order) = (cut.certified.clone(), entry.order);
    assert_eq!(ordered.verify(&bundle.signed, &world.federation), Err(refused));
}

#[test]
fn counters_at_the_end_of_the_numbers_are_refused() {
    let mut world = World::builder().build();
    let messages = vec![world.message("one", &[1]), world.message("two", &[1])];
    let mut bundle = world.bundle(0, 0, messages);
    let body = BundleBody { counter: u64::MAX, ..bundle.signed.body.clone() };
    bundle.signed = world.sign(body, &world.mailboxes[0]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held(&batch);
    world.include(vec![sealed]);
    let found = world.message_proof(1, 1).verify(&world.federation);
    let refused = VerifyError::Malformed { kind: "entry", reason: "counters end below 2^64" };
    assert_eq!(found, Err(ProofError::Refuted(refused)));
}

#[test]
fn a_proof_file_with_any_changed_bit_does_not_verify() {
    let story = story();
    let world = &story.world;
    // A late entry from a batch of two bundles and a cut of two headers: every path has a length.
    let file = world.message_proof(2, 2).to_file();
    assert!(MessageProof::from_file(&file).unwrap().verify(&world.federation).is_ok());
    let mut decoded = 0;
    for bit in 0..file.len() * 8 {
        let mut file = file.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(proof) = MessageProof::from_file(&file) {
            assert!(proof.verify(&world.federation).is_err(), "bit {bit} of byte {}", bit / 8);
            decoded += 1;
        }
    }
    assert!(decoded > file.len() * 6, "{decoded} of {}", file.len() * 8);
}

#[test]
fn a_proof_file_is_of_this_version_and_this_federation() {
    let story = story();
    let world = &story.world;
    let proof = world.message_proof(0, 0);
    let file = proof.to_file();
    assert!(file.starts_with(b"postroad proof 1"));
    assert_eq!(MessageProof::from_file(&file), Ok(proof.clone()));
    for bytes in [b"".as_slice(), b"postroad proof", b"postroad proof 2\x83", &file[1..], &file[..file.len() - 1]] {
        assert!(MessageProof::from_file(bytes).is_err());
    }
    let other = World::builder().name("another").unborn().federation;
    let refused = ProofError::WrongFederation { theirs: world.federation.id(), ours: other.id() };
    assert_eq!(proof.verify(&other), Err(refused));
}

#[test]
fn accepted_is_a_chain_of_complete_headers_that_ends_with_the_bundle() {
    let mut world = World::builder().build();
    let (one, two) = (world.message("one", &[1, 2]), world.message("two", &[0]));
    let bundle = world.bundle(0, 0, vec![one]);
    let first = world.seal(0, vec![bundle]);
    let bundles = vec![world.bundle(1, 0, vec![two.clone()]), world.bundle(0, 0, vec![two])];
    let second = world.seal_with(0, bundles, |header| {
        header.previous = first.digest;
        header.number = 2;
    });
    let sealed = |hold: Hold| {
        let first = world.held_unchecked(&first, |_| Hold::Home);
        vec![first, world.held_unchecked(&second, |_| hold.clone())]
    };
    let strong = sealed(Hold::HomeAnd(vec![2]));
    let verify = |chain: Vec<_>, ordinal: usize, bundle: usize| {
        world.accepted_proof(chain, &second, ordinal).verify(&second.bundles[bundle], &world.federation)
    };
    for bundle in 0..2 {
        assert_eq!(verify(strong.clone(), bundle, bundle), Ok(false));
        assert_eq!(verify(sealed(Hold::Home), bundle, bundle), Ok(true), "weak");
        assert_eq!(verify(strong[1..].to_vec(), bundle, bundle), Ok(false));
    }
    let malformed = |reason| Err(VerifyError::Malformed { kind: "accepted proof", reason });
    assert_eq!(verify(vec![], 0, 0), malformed("an empty chain"));
    assert_eq!(verify(strong.clone(), 0, 1), Err(VerifyError::Path { what: "bundle" }));
    assert_eq!(verify(strong[..1].to_vec(), 0, 0), Err(VerifyError::Path { what: "bundle" }));
    let turned = vec![strong[1].clone(), strong[0].clone(), strong[1].clone()];
    assert_eq!(verify(turned, 0, 0), malformed("the headers do not follow each other"));
    let mut other = second.bundles[0].clone();
    other.signed.body.via = world.node(1);
    let proof = world.accepted_proof(strong.clone(), &second, 0);
    assert_eq!(proof.verify(&other, &world.federation), malformed("a header of another origin"));
    let mut chain = strong.clone();
    chain[0].custody[0].receipts.clear();
    assert_eq!(verify(chain, 0, 0), Err(VerifyError::Malformed { kind: "custody", reason: "no receipt" }));
    for (bit, changed) in flipped::<AcceptedProof>(&proof, 5) {
        assert!(changed.verify(&second.bundles[0], &world.federation).is_err(), "bit {bit}");
    }
}

#[test]
fn ordered_is_the_place_of_the_bundles_first_message() {
    let story = story();
    let world = &story.world;
    for (batch, position) in [(&story.first, 0), (&story.second, 1)] {
        let mut index = 0;
        for (ordinal, bundle) in batch.bundles.iter().enumerate() {
            let proof = world.ordered_proof(2, position as usize, batch, ordinal);
            let seq = Seq { epoch: 2, position, index };
            assert_eq!(proof.verify(&bundle.signed, &world.federation), Ok(seq));
            assert!(!proof.weak);
            index += bundle.messages.len() as u64;
        }
    }
    let (proof, bundle) = (world.ordered_proof(2, 0, &story.first, 1), &story.first.bundles[1].signed);
    assert!(proof.verify(&story.first.bundles[0].signed, &world.federation).is_err());
    assert!(proof.verify(&story.second.bundles[0].signed, &world.federation).is_err());
    // `weak` is the origin's word; nothing else can change.
    let holding: Vec<usize> = flipped::<OrderedProof>(&proof, 1)
        .filter(|(_, changed)| changed.verify(bundle, &world.federation).is_ok())
        .map(|(bit, changed)| {
            assert_eq!(OrderedProof { weak: proof.weak, ..changed }, proof);
            bit
        })
        .collect();
    assert_eq!(holding.len(), 1);
}

#[test]
fn an_attestation_shows_each_of_its_mailboxes_before_and_after_it_is_final() {
    let mut world = World::builder().build();
    let message = world.message("hello", &[1, 5]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held(&batch);
    world.include(vec![sealed]);
    let attested = world.attest(1, &[1]);
    let reference = attested.reference(&world);
    let check = |world: &World, anchored: bool| {
        for mailbox in [1, 5] {
            let shown = world.mailbox_attestation(&attested, mailbox);
            assert_eq!(shown.anchor.is_some(), anchored);
            assert_eq!(shown.verify(&world.mailbox(mailbox), &world.node(1), &world.federation), Ok(()));
            assert_eq!(shown.log.log.size, 1);
            assert_eq!(shown.log.acknowledged.is_some(), mailbox == 1);
        }
    };
    check(&world, false);
    let empty = world.seal_with(1, Vec::new(), |header| header.attestation = Some(reference));
    let sealed = world.held(&empty);
    world.include(vec![sealed]);
    check(&world, true);

    let good = world.mailbox_attestation(&attested, 1);
    let verify = |change: &dyn Fn(&mut MailboxAttestation)| {
        let mut shown = good.clone();
        change(&mut shown);
        shown.verify(&world.mailbox(1), &world.node(1), &world.federation)
    };
    let path = Err(VerifyError::Path { what: "attested log" });
    let malformed = |kind, reason| Err(VerifyError::Malformed { kind, reason });
    assert_eq!(verify(&|shown| shown.log.log.size = 2), path);
    assert_eq!(verify(&|shown| shown.log.acknowledged = None), path);
    assert_eq!(verify(&|shown| shown.log.expired_to = 1), path);
    let body = Attestation { incarnation: 2, ..attested.signed.body.clone() };
    let other = world.sign(body, &world.nodes[1]);
    let unanchored = verify(&|shown| shown.attestation = other.clone());
    assert_eq!(unanchored, malformed("attestation", "the anchoring header names another one"));
    let found = good.verify(&world.mailbox(1), &world.node(2), &world.federation);
    assert_eq!(found, malformed("attestation", "it is not the home's"));
    assert_eq!(good.verify(&world.mailbox(5), &world.node(1), &world.federation), path);
    for (bit, changed) in flipped(&good, 3) {
        assert!(changed.verify(&world.mailbox(1), &world.node(1), &world.federation).is_err(), "bit {bit}");
    }
}

#[test]
fn an_acknowledgement_in_an_attestation_is_the_owners() {
    let story = story();
    let mut world = story.world;
    let acknowledgement = world.acknowledgement(2);
    assert_eq!(acknowledgement.verify(&world.federation), Ok(()));
    assert_eq!(acknowledgement.body.log.size, 4);
    // A node that puts another mailbox's acknowledgement, or a forged one, into its map.
    let mut forged = world.sign(acknowledgement.body.clone(), &world.mailboxes[2].clone());
    forged.body.log = LogHead { size: 9, root: Digest::ZERO };
    let other = world.acknowledgement(0);
    for (planted, kind) in [(other, "it is another mailbox's"), (forged, "")] {
        let attested = world.attest_to(2, [(2, planted)].into());
        let shown = world.mailbox_attestation(&attested, 2);
        let found = shown.verify(&world.mailbox(2), &world.node(2), &world.federation);
        match kind {
            "" => assert!(matches!(found, Err(VerifyError::Signature { kind: "acknowledgement", .. }))),
            reason => assert_eq!(found, Err(VerifyError::Malformed { kind: "acknowledgement", reason })),
        }
    }
}

#[test]
fn delivered_is_an_entry_under_a_final_attestation() {
    let story = story();
    let world = &story.world;
    let (id, home) = (world.mailbox(2), world.node(2));
    for (index, leaf) in world.log(2).iter().enumerate() {
        let proof = world.delivery_proof(&story.attested, 2, index);
        let verify = |proof: &DeliveryProof| proof.verify(leaf.message, leaf.seq, &id, &home, &world.federation);
        assert_eq!(verify(&proof), Ok(()));
        let malformed = |reason| Err(VerifyError::Malformed { kind: "delivery proof", reason });
        let another = malformed("it is of another message");
        let federation = &world.federation;
        assert_eq!(proof.verify(Digest::ZERO, leaf.seq, &id, &home, federation), another);
        assert_eq!(proof.verify(leaf.message, Seq::default(), &id, &home, federation), another);
        assert_eq!(proof.verify(leaf.message, leaf.seq, &world.mailbox(0), &home, federation), another);
        assert!(proof.verify(leaf.message, leaf.seq, &id, &world.node(1), federation).is_err());
        let mut early = proof.clone();
        early.attested.anchor = None;
        assert_eq!(verify(&early), malformed("the attestation is not final"));
        let mut moved = proof.clone();
        moved.index += 1;
        assert_eq!(verify(&moved), Err(VerifyError::Path { what: "log entry" }));
        let mut moved = proof.clone();
        moved.leaf.settled += 1;
        assert_eq!(verify(&moved), Err(VerifyError::Path { what: "log entry" }));
        for (bit, changed) in flipped(&proof, 7) {
            assert!(verify(&changed).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_message_and_its_copy_through_another_origin_have_one_id_and_two_places() {
    let mut world = World::builder().build();
    let message = world.message("hello", &[1]);
    let mut sealed = Vec::new();
    for origin in [0, 2] {
        let bundle = world.bundle(0, origin, vec![message.clone()]);
        let batch = world.seal(origin, vec![bundle]);
        sealed.push(world.held(&batch).into_inner());
    }
    world.cut(CutBody { headers: sealed, ..CutBody::default() });
    let placed: Vec<_> = (0..2).map(|index| world.message_proof(1, index).verify(&world.federation).unwrap()).collect();
    assert_eq!(placed[0].id, placed[1].id);
    assert!(placed[0].seq < placed[1].seq);
}
