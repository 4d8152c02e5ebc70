//! What travels for a move: orders, parts of slices, and the log that an owner brings along.

use postroad_protocol::attestation::{Acknowledgement, LogHead};
use postroad_protocol::digest::Digest;
use postroad_protocol::merkle::log::{Frontier, Log};
use postroad_protocol::moving::{Extract, Move, OwnerBase};
use postroad_protocol::record::Record;
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::{LeafRef, SliceBody};
use postroad_protocol::{NodeId, Signature, VerifyError};

use super::{guarded, signed, switch, switch_with, world};
use crate::common::story::{Story, story};
use crate::common::{Batch, World, key};

// Orders.

#[test]
fn every_signature_of_an_order_counts() {
    let mut world = world();
    let (owner, recovery) = guarded(&mut world);
    let (mailbox, fed) = (owner.public(), world.federation.clone());
    let Record::Move(order) = signed(&world, switch(&world, &owner, 1).by_recovery(&recovery, &fed)) else {
        unreachable!("the record of an order")
    };
    let check = |change: &dyn Fn(&mut Move)| {
        let mut order = (*order).clone();
        change(&mut order);
        order.verify(&fed)
    };
    let flip = |signature: &mut Signature| signature.0[40] ^= 1;
    let forged = |signer| Err(VerifyError::Signature { kind: "switch", signer });
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|order| flip(order.device.as_mut().unwrap())), forged(mailbox));
    assert_eq!(check(&|order| flip(&mut order.recovery.as_mut().unwrap().signature)), forged(recovery.public()));
    assert_eq!(check(&|order| flip(order.home.as_mut().unwrap())), forged(world.node(1)));
    // Any of them may be absent, but for one of the owner's.
    assert_eq!(check(&|order| order.device = None), Ok(()));
    assert_eq!(check(&|order| (order.recovery, order.home) = (None, None)), Ok(()));
    let nobody = "neither the device nor the recovery key has signed it";
    let malformed = |reason| Err(VerifyError::Malformed { kind: "switch", reason });
    assert_eq!(check(&|order| (order.device, order.recovery) = (None, None)), malformed(nobody));
    // What they sign is the switch, and all of it.
    let other = world.node(2);
    assert!(check(&|order| order.switch.home = other).is_err());
    assert!(check(&|order| order.switch.replaces = Digest::ZERO).is_err());
    assert!(check(&|order| order.switch.recovery_key = None).is_err());
    assert!(check(&|order| order.switch.mailbox = other).is_err());
    // Another federation's switch is another one.
    let elsewhere = World::builder().name("elsewhere").build().federation;
    assert!(order.verify(&elsewhere).is_err());
    let crooked = switch_with(&world, &mailbox, 1, |switch| switch.recovery_key = Some(NodeId::from([0; 32])));
    let crooked = crooked.by_device(&owner, &fed);
    assert_eq!(crooked.verify(&fed), malformed("the recovery key is of small order or not canonical"));
}

// Extracts.

/// What the slice of `batch` for a node holds for a mailbox.
fn extract(world: &World, batch: &Batch, slice: usize, mailbox: usize) -> Extract {
    let (body, of) = (&batch.routed.bodies[slice], &batch.header.body.slices[slice]);
    let index = body.verify(&batch.header.body, of, &world.federation).unwrap();
    Extract::of(batch.header.clone().into_inner(), of.destination, body, &index, &world.mailbox(mailbox))
}

fn slice_of(world: &World, batch: &Batch, node: usize) -> usize {
    batch.header.body.slices.iter().position(|slice| slice.destination == world.node(node)).unwrap()
}

/// The story's first batch has a slice for node 0, which holds messages for mailboxes 0 and 4.
fn shared(story: &Story) -> (&World, usize) {
    (&story.world, slice_of(&story.world, &story.first, 0))
}

#[test]
fn an_extract_shows_one_mailbox_its_messages_and_nothing_of_the_others() {
    let story = story();
    let (world, slice) = shared(&story);
    let whole = story.first.routed.bodies[slice].verify(
        &story.first.header.body,
        &story.first.header.body.slices[slice],
        &world.federation,
    );
    for mailbox in [0, 4] {
        let extract = extract(world, &story.first, slice, mailbox);
        let leaves = extract.verify(&world.mailbox(mailbox), &world.federation).unwrap();
        let of_whole = &whole.as_ref().unwrap().leaves()[&world.mailbox(mailbox)];
        assert!(leaves.iter().map(LeafRef::from).eq(of_whole.iter().map(LeafRef::from)) && !leaves.is_empty());
        assert_eq!(extract.key(&world.federation).header, story.first.digest);
        let recipients = extract.body.bundles.iter().flat_map(|bundle| &bundle.messages);
        assert!(recipients.flat_map(|message| &message.recipients).all(|of| of.mailbox == world.mailbox(mailbox)));
    }
    // Absence is proven too, and is no other mailbox's.
    let absent = extract(world, &story.first, slice, 3);
    assert_eq!(absent.verify(&world.mailbox(3), &world.federation), Ok(vec![]));
    assert_eq!(absent.body, SliceBody::default());
    assert!(absent.verify(&world.mailbox(0), &world.federation).is_err());
}

#[test]
fn an_extract_that_withholds_or_adds_is_refused() {
    let story = story();
    let (world, slice) = shared(&story);
    let (mailbox, fed) = (world.mailbox(0), &world.federation);
    let good = extract(world, &story.first, slice, 0);
    let other = extract(world, &story.first, slice, 4);
    let check = |change: &dyn Fn(&mut Extract)| {
        let mut extract = good.clone();
        change(&mut extract);
        extract.verify(&mailbox, fed).map(drop)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let malformed = |reason| Err(VerifyError::Malformed { kind: "extract", reason });
    let another = malformed("the messages are not those of the leaves");
    assert_eq!(check(&|extract| extract.body = SliceBody::default()), another);
    let foreign = Err(VerifyError::Malformed { kind: "slice", reason: "it is for another mailbox as well" });
    assert_eq!(check(&|extract| extract.body = other.body.clone()), foreign);
    let whole = story.first.routed.bodies[slice].clone();
    assert_eq!(check(&|extract| extract.body = whole.clone()), foreign);
    let path = Err(VerifyError::Path { what: "slice" });
    assert_eq!(check(&|extract| extract.proof = other.proof.clone()), path);
    assert_eq!(check(&|extract| extract.proof.leaves.clear()), path);
    // An absence that is shown, with messages all the same.
    let absent = extract(world, &story.first, slice, 3);
    let mut padded = absent.clone();
    padded.body = good.body.clone();
    assert!(padded.verify(&world.mailbox(3), fed).is_err());
    // Another slice of the same header, no slice of it, and another header.
    let elsewhere = world.node(1);
    assert_eq!(check(&|extract| extract.destination = elsewhere), path);
    let nobody = key("nobody").public();
    assert_eq!(check(&|extract| extract.destination = nobody), malformed("the header names no such slice"));
    let second = story.second.header.clone().into_inner();
    assert!(check(&|extract| extract.header = second.clone()).is_err());
    let forged = Err(VerifyError::Signature { kind: "header", signer: world.node(0) });
    assert_eq!(check(&|extract| extract.header.signature.0[3] ^= 1), forged);
}

#[test]
fn an_extract_with_any_changed_bit_is_refused() {
    let story = story();
    let (world, slice) = shared(&story);
    let fed = &world.federation;
    for mailbox in [0, 3] {
        let good = extract(world, &story.first, slice, mailbox);
        let bytes = postroad_protocol::codec::encode(&good);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = postroad_protocol::codec::decode::<Extract>(&bytes) else { continue };
            let verified = changed.verify(&world.mailbox(mailbox), fed);
            // The senders' signatures are the origin's liability, as in a slice, and in the tree all the same.
            assert!(verified.is_err(), "mailbox {mailbox}, bit {bit}: {verified:?}");
        }
    }
}

// What an owner has.

/// Mailbox 2's log, of which its home's attestation is final, as its owner has it.
fn owned(story: &Story) -> OwnerBase {
    let world = &story.world;
    let attested = world.mailbox_attestation(&story.attested, 2);
    let mut frontier = Frontier::new();
    world.log(2).iter().for_each(|leaf| frontier.append(leaf.hash()));
    OwnerBase { attested, frontier, acknowledged: world.acknowledgement(2) }
}

#[test]
fn an_owner_brings_a_log_that_its_home_attested_and_that_it_acknowledged() {
    let story = story();
    let world = &story.world;
    let (mailbox, fed) = (world.mailbox(2), &world.federation);
    let good = owned(&story);
    let base = good.verify(&mailbox, fed).unwrap();
    assert_eq!((base.node, base.attestation), (world.node(2), story.attested.reference(world)));
    assert_eq!(base.log.size, world.log(2).len() as u64);

    let check = |change: &dyn Fn(&mut OwnerBase)| {
        let mut base = good.clone();
        change(&mut base);
        base.verify(&mailbox, fed).map(drop)
    };
    let malformed = |reason| Err(VerifyError::Malformed { kind: "base", reason });
    assert_eq!(check(&|base| base.attested.anchor = None), malformed("the attestation is not final"));
    let mut shorter = Log::new();
    world.log(2)[1..].iter().for_each(|leaf| shorter.append(leaf.hash()));
    let (head, edge) =
        (LogHead { size: shorter.size(), root: shorter.root() }, shorter.frontier_at(shorter.size()).unwrap());
    assert_eq!(check(&|base| base.frontier = edge.clone()), malformed("the frontier is another log's"));
    assert_eq!(check(&|base| base.frontier = Frontier::new()), malformed("the frontier is another log's"));
    let acknowledge =
        |mailbox, log, signer: usize| world.sign(Acknowledgement { mailbox, log }, &world.mailboxes[signer]);
    let another = malformed("the acknowledgement is of another log");
    let less = acknowledge(mailbox, head, 2);
    assert_eq!(check(&|base| base.acknowledged = less.clone()), another);
    let neighbours = acknowledge(world.mailbox(0), good.attested.log.log, 0);
    assert_eq!(check(&|base| base.acknowledged = neighbours.clone()), another);
    let forged = acknowledge(mailbox, good.attested.log.log, 0);
    let signature = Err(VerifyError::Signature { kind: "acknowledgement", signer: mailbox });
    assert_eq!(check(&|base| base.acknowledged = forged.clone()), signature);
    let signature = Err(VerifyError::Signature { kind: "attestation", signer: world.node(2) });
    assert_eq!(check(&|base| base.attested.attestation.signature.0[0] ^= 1), signature);
    assert_eq!(check(&|base| base.attested.log.last_epoch += 1), Err(VerifyError::Path { what: "attested log" }));
    assert!(good.verify(&world.mailbox(0), fed).is_err(), "another mailbox's");
}

#[test]
fn an_owners_log_with_any_changed_bit_is_refused() {
    let story = story();
    let world = &story.world;
    let bytes = postroad_protocol::codec::encode(&owned(&story));
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = postroad_protocol::codec::decode::<OwnerBase>(&bytes) else { continue };
        assert!(changed.verify(&world.mailbox(2), &world.federation).is_err(), "bit {bit}");
    }
}
