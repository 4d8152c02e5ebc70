//! Origins: what they signed over their batches, and what only looks like a fault of theirs.

use postroad_protocol::bundle::Bundle;
use postroad_protocol::evidence::{Claim, Cleared, Entry, Equivocation, Fault, Forgery};
use postroad_protocol::slice::LeafRef;
use postroad_protocol::{Digest, Seq, VerifyError};

use super::{cleared, malformed, unproven};
use crate::common::World;
use crate::common::claims::{Scale, counted, routed, sliced, two_headers, valid_until, with_bundle};

const SCALE: Scale = Scale::SMALL;

#[test]
fn two_headers_of_one_number_convict_within_one_incarnation() {
    let (world, claim) = two_headers(SCALE, 1);
    let Claim::Equivocation(pair) = &claim else { panic!("another kind") };
    assert_eq!(claim.judge(&world.federation).map(|verdict| verdict.fault), Ok(Fault::Equivocation));
    let Equivocation { first, second } = (**pair).clone();
    let same = Claim::Equivocation(Box::new(Equivocation { first: first.clone(), second: first.clone() }));
    assert_eq!(cleared(&same, &world), Cleared::Same);
    let turned = Claim::Equivocation(Box::new(Equivocation { first: second, second: first.clone() }));
    assert_eq!(unproven(&turned, &world), malformed("pair", "not in ascending order"));

    let (world, restarted) = two_headers(SCALE, 2);
    assert_eq!(cleared(&restarted, &world), Cleared::OtherIncarnation);

    // Another number, and another origin under the same.
    let mut world = World::builder().build();
    let message = world.message("mail", &[1]);
    let (one, other) = (world.bundle(0, 0, vec![message.clone()]), world.bundle(0, 1, vec![message]));
    let one = world.seal(0, vec![one]);
    let next = world.seal_with(0, one.bundles.clone(), |header| header.number = 2);
    let other = world.seal(1, vec![other]);
    for two in [next, other] {
        let pair = Equivocation::of(one.header.clone().into_inner(), two.header.into_inner(), &world.federation);
        assert_eq!(cleared(&Claim::Equivocation(Box::new(pair)), &world), Cleared::OtherSlot);
    }
}

#[test]
fn a_recipient_that_has_no_leaf_was_left_out() {
    // The honest twin: the slice is there, and holds the message.
    let (world, claim) = routed(SCALE, |_| true);
    let seq = Seq { epoch: 2, position: 0, index: 0 };
    assert_eq!(cleared(&Claim::Omission(Box::new(claim.clone())), &world), Cleared::InSlice { seq });

    // A header that has the slice is not answered by leaving its proof out, nor by another slice's.
    let mut without = claim.clone();
    without.slice = None;
    let another = malformed("omission", "not what the header says of that slice");
    assert_eq!(unproven(&Claim::Omission(Box::new(without)), &world), another);

    // Where the recipient lived before the routing epoch says nothing of it; registered later, it lived nowhere.
    let node = world.node(1);
    let (mut world, mut claim) = routed(SCALE, |slice| slice.destination != node);
    assert_eq!(Claim::Omission(Box::new(claim.clone())).judge(&world.federation).map(|it| it.epoch), Ok(2));
    world.idle(2);
    claim.home = world.home_proof(1, 4);
    assert!(Claim::Omission(Box::new(claim.clone())).judge(&world.federation).is_ok(), "a later state tells the same");
    claim.home = world.home_proof(0, 4);
    assert_eq!(unproven(&Claim::Omission(Box::new(claim.clone())), &world), VerifyError::Path { what: "mailbox" });
    claim.recipient.mailbox = world.mailbox(5);
    assert_eq!(unproven(&Claim::Omission(Box::new(claim)), &world), VerifyError::Path { what: "recipient" });
}

#[test]
fn a_recipient_that_was_not_registered_when_it_was_routed_lived_nowhere() {
    let mut world = World::builder().mailboxes(2).build();
    let late = crate::common::key("mailbox 5");
    world.mailboxes.extend((2..6).map(|i| crate::common::key(&format!("mailbox {i}"))));
    let message = world.message("mail", &[1, 5]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let record = world.registration_at(&late, 1);
    world.cut(postroad_protocol::cut::CutBody { records: vec![record], ..Default::default() });
    let sealed = world.held(&batch);
    let epoch = world.include(vec![sealed]).header.epoch;
    let claim = |world: &World, at| postroad_protocol::evidence::Omission {
        included: world.included(epoch, 0),
        message: world.message_at(&batch, 0, 0),
        recipient: world.recipient_at(&batch, 0, 0, 1),
        home: world.home_proof(5, at),
        slice: Some(world.slice_proof(&batch, 1, 5)),
    };
    let omission = Claim::Omission(Box::new(claim(&world, epoch)));
    assert_eq!(cleared(&omission, &world), Cleared::NotThere { epoch: 1 });
    let omission = Claim::Omission(Box::new(claim(&world, 1)));
    assert_eq!(cleared(&omission, &world), Cleared::NotThere { epoch: 1 });
}

#[test]
fn a_home_proof_from_before_the_routing_epoch_proves_nothing() {
    let mut world = World::builder().build();
    world.idle(3);
    let message = world.message("mail", &[1, 2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let node = world.node(1);
    let batch = world.seal_with(0, vec![bundle], |header| header.slices.retain(|slice| slice.destination != node));
    let sealed = world.held(&batch);
    let epoch = world.include(vec![sealed]).header.epoch;
    for (at, guilty) in [(3, false), (4, true), (epoch, true)] {
        let claim = postroad_protocol::evidence::Omission {
            included: world.included(epoch, 0),
            message: world.message_at(&batch, 0, 0),
            recipient: world.recipient_at(&batch, 0, 0, 0),
            home: world.home_proof(1, at),
            slice: None,
        };
        let judged = Claim::Omission(Box::new(claim)).judge(&world.federation);
        assert_eq!(judged.is_ok(), guilty, "a state of epoch {at}, routed in 4: {judged:?}");
    }
}

#[test]
fn a_slice_that_disagrees_with_the_entries_is_bad() {
    let wrong: [fn(&LeafRef) -> LeafRef; 3] = [
        |right| LeafRef { own: Digest([7; 32]), ..*right },
        |right| LeafRef { message: Digest([7; 32]), ..*right },
        |right| LeafRef { index: 9, ..*right },
    ];
    for (kind, leaf) in wrong.into_iter().enumerate() {
        let (world, batch, mut claim) = sliced(SCALE, leaf);
        let message = Box::new(world.message_at(&batch, 0, 0));
        match kind {
            0 => {}
            1 => claim.entry = Entry::Other(message),
            _ => claim.entry = Entry::Beyond,
        }
        let judged = Claim::BadSlice(Box::new(claim)).judge(&world.federation);
        assert_eq!(judged.map(|verdict| (verdict.fault, verdict.culprit)), Ok((Fault::BadSlice, world.node(0))));
    }

    let (world, batch, claim) = sliced(SCALE, |right| *right);
    let message = Box::new(world.message_at(&batch, 0, 0));
    let agrees = Cleared::Agrees { index: 0 };
    for entry in [claim.entry.clone(), Entry::Other(message), Entry::Beyond] {
        let mut claim = claim.clone();
        claim.entry = entry;
        assert_eq!(cleared(&Claim::BadSlice(Box::new(claim)), &world), agrees);
    }
}

fn forged(change: impl FnOnce(&mut World, &mut Bundle)) -> (World, Forgery) {
    let (world, _, included, bundle) = with_bundle(SCALE, change);
    (world, Forgery { included, bundle, unregistered: None })
}

#[test]
fn a_bundle_that_nobody_signed_for_this_origin_is_forged() {
    let guilty: [fn(&mut World, &mut Bundle); 4] = [
        |_, bundle| bundle.signed.signature.0[0] ^= 1,
        |world, bundle| {
            let via = world.node(2);
            *bundle = world.bundle_with(&[1], |body| body.via = via);
        },
        |world, bundle| *bundle = world.bundle_with(&[1], |body| body.counter = 0),
        |world, bundle| *bundle = world.bundle_with(&[1], |body| body.counter = u64::MAX),
    ];
    for change in guilty {
        let (world, claim) = forged(change);
        let judged = Claim::Forgery(Box::new(claim)).judge(&world.federation);
        let seq = Seq { epoch: 2, position: 0, index: 0 };
        assert_eq!(judged.map(|it| (it.fault, it.culprit, it.seq)), Ok((Fault::Forgery, world.node(0), Some(seq))));
    }

    let (mut world, mut claim) = forged(|_, _| {});
    let sender = world.mailbox(0);
    assert_eq!(cleared(&Claim::Forgery(Box::new(claim.clone())), &world), Cleared::Signed { sender });
    world.idle(1);
    for epoch in 1..=3 {
        claim.unregistered = Some(world.home_proof(0, epoch));
        assert_eq!(cleared(&Claim::Forgery(Box::new(claim.clone())), &world), Cleared::Signed { sender });
    }
    // That somebody else is not registered says nothing of the sender.
    claim.unregistered = Some(world.states[2].prove_home(&world.node(3), world.certified(2).clone()));
    assert_eq!(unproven(&Claim::Forgery(Box::new(claim)), &world), VerifyError::Path { what: "mailbox" });
}

#[test]
fn a_sender_that_was_not_registered_when_it_was_routed_is_a_forgery() {
    let mut world = World::builder().mailboxes(2).build();
    let stranger = crate::common::key("mailbox 4");
    world.mailboxes.extend((2..5).map(|i| crate::common::key(&format!("mailbox {i}"))));
    let message = world.message("mail", &[1]);
    let bundle = world.bundle(4, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held(&batch);
    let epoch = world.include(vec![sealed]).header.epoch;
    let record = world.registration_at(&stranger, 0);
    world.cut(postroad_protocol::cut::CutBody { records: vec![record], ..Default::default() });
    let claim = |at| {
        Claim::Forgery(Box::new(Forgery {
            included: world.included(epoch, 0),
            bundle: world.bundle_at(&batch, 0),
            unregistered: Some(world.home_proof(4, at)),
        }))
    };
    for at in 1..=2 {
        let judged = claim(at).judge(&world.federation);
        assert_eq!(judged.map(|it| it.fault), Ok(Fault::Forgery), "registered in epoch 3, shown by the state of {at}");
    }
    // Once it is registered, the state does not tell since when.
    assert_eq!(cleared(&claim(3), &world), Cleared::Signed { sender: stranger.public() });
}

#[test]
fn counters_rise_within_one_incarnation() {
    let judge = |counters, incarnation| {
        let (world, claim) = counted(SCALE, counters, incarnation);
        let claim = Claim::Misordering(Box::new(claim));
        (claim.judge(&world.federation).map(|verdict| verdict.epoch).ok(), world, claim)
    };
    for counters in [(5, 5), (5, 4), (2, 1)] {
        assert_eq!(judge(counters, 1).0, Some(3), "{counters:?}");
        let (_, world, claim) = judge(counters, 2);
        assert_eq!(cleared(&claim, &world), Cleared::OtherIncarnation, "{counters:?}");
    }
    let (_, world, claim) = judge((5, 6), 1);
    assert_eq!(cleared(&claim, &world), Cleared::Rising);
    // What stands the other way round is no claim.
    let (world, claim) = counted(SCALE, (5, 6), 1);
    let mut turned = claim.clone();
    (turned.before, turned.after) = (claim.after.clone().unwrap(), Some(claim.before));
    (turned.earlier, turned.later) = (claim.later, claim.earlier);
    let another = malformed("misordering", "the bundles do not stand one after the other");
    assert_eq!(unproven(&Claim::Misordering(Box::new(turned)), &world), another);
}

#[test]
fn a_bundle_is_stale_behind_its_last_epoch() {
    let (world, claim) = valid_until(SCALE, 0);
    assert_eq!(claim.judge(&world.federation).map(|it| (it.fault, it.culprit)), Ok((Fault::Stale, world.node(0))));
    for valid_until_epoch in [1, 2, u64::MAX] {
        let (world, claim) = valid_until(SCALE, valid_until_epoch);
        let in_time = Cleared::InTime { valid_until: valid_until_epoch, routed: 1 };
        assert_eq!(cleared(&claim, &world), in_time);
    }
}
