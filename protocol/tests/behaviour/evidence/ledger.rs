//! Holders and the committee: losses, cuts that nobody may follow, and two orders.

use postroad_protocol::challenge::Lost;
use postroad_protocol::cut::{CutBody, CutHeader};
use postroad_protocol::evidence::{Claim, Cleared, Fault, InvalidCut, Loss, Owed, SplitOrder};
use postroad_protocol::record::Record;
use postroad_protocol::{Digest, VerifyError};

use super::{cleared, malformed, unproven};
use crate::common::claims::{Delivery, Scale, next_cut};
use crate::common::{Hold, World};

const SCALE: Scale = Scale::SMALL;

/// The word of a node that it lost the mail, and the state after it was settled, if it can be.
fn lost(delivery: &mut Delivery, holder: usize, settle: bool) -> Loss {
    let key = delivery.key();
    let world = &mut delivery.world;
    let body = Lost { holder: world.node(holder), destination: key.destination, header: key.header };
    let lost = world.sign(body, &world.nodes[holder]);
    if settle {
        world.cut(CutBody { records: vec![Record::Lost(lost.clone())], ..CutBody::default() });
    }
    let (state, cut) = (&world.state, world.certified(world.state.epoch).clone());
    let (owed, path) = match state.pending(&key) {
        Some(pending) => (Owed::Pending(Box::new(pending.clone())), state.prove_pending(&key)),
        None => (Owed::Delivered(*state.lost(&key).unwrap()), state.prove_lost(&key)),
    };
    Loss { lost, cut, owed, path, parts: state.parts() }
}

#[test]
fn a_holder_that_lost_what_it_owes_says_so_itself() {
    let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
    let claim = lost(&mut delivery, 3, true);
    let judged = Claim::Loss(Box::new(claim)).judge(&delivery.world.federation);
    let node = delivery.world.node(3);
    assert_eq!(judged.map(|it| (it.fault, it.culprit, it.epoch)), Ok((Fault::Loss, node, 2)));

    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    let claim = lost(&mut delivery, 1, true);
    let judged = Claim::Loss(Box::new(claim)).judge(&delivery.world.federation);
    assert_eq!(judged.map(|it| it.culprit), Ok(delivery.world.node(1)));
}

#[test]
fn who_never_signed_for_it_lost_nothing() {
    // Neither a word that no cut has settled, nor that of a stranger, is a loss.
    for holder in [2, 0] {
        let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
        let claim = Claim::Loss(Box::new(lost(&mut delivery, holder, false)));
        assert_eq!(cleared(&claim, &delivery.world), Cleared::NotItsSlice, "node {holder}");
    }
    let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
    let mut claim = lost(&mut delivery, 2, true);
    let Owed::Pending(pending) = &mut claim.owed else { panic!("it is pending") };
    pending.lost.push(delivery.world.node(3));
    assert_eq!(unproven(&Claim::Loss(Box::new(claim)), &delivery.world), VerifyError::Path { what: "lost slice" });
}

#[test]
fn a_cut_that_apply_refuses_convicts_its_signer() {
    let changes: [fn(&mut CutHeader); 3] =
        [|header| header.state = Digest::ZERO, |header| header.previous = Digest([7; 32]), |header| header.time_ms = 0];
    for change in changes {
        let (world, claim) = next_cut(SCALE, change);
        let judged = Claim::InvalidCut(Box::new(claim)).judge(&world.federation);
        let sequencer = world.node(0);
        assert_eq!(judged.map(|it| (it.fault, it.culprit, it.epoch)), Ok((Fault::InvalidCut, sequencer, 2)));
    }
    let (world, claim) = next_cut(SCALE, |_| {});
    assert_eq!(cleared(&Claim::InvalidCut(Box::new(claim.clone())), &world), Cleared::Valid { epoch: 2 });

    // A state that the cut before did not certify shows nothing, and a cut that comes later does not follow it.
    let mut without = claim.clone();
    without.state.pop();
    assert_eq!(unproven(&Claim::InvalidCut(Box::new(without)), &world), VerifyError::Path { what: "state" });
    let (_, third) = next_cut(SCALE, |header| header.epoch = 3);
    let before = malformed("invalid cut", "the state is not that before the cut");
    assert_eq!(unproven(&Claim::InvalidCut(Box::new(third)), &world), before);
    let mut another = claim;
    another.cut.body.records.push(world.start(1, 2));
    let body = malformed("invalid cut", "the body is not what the cut commits to");
    assert_eq!(unproven(&Claim::InvalidCut(Box::new(another)), &world), body);
}

#[test]
fn the_first_cut_follows_nothing() {
    let world = World::builder().build();
    let first = world.cuts[0].clone().into_inner();
    let genesis = &world.states[0];
    let claim = Claim::InvalidCut(Box::new(InvalidCut::of(genesis, None, first)));
    assert_eq!(cleared(&claim, &world), Cleared::Valid { epoch: 1 });
    let (cut, _) = World::builder().unborn().draft(CutBody::default()).unwrap();
    let header = CutHeader { state: Digest::ZERO, ..cut.certified.header.clone() };
    let cut = world.certify(header, CutBody::default());
    let claim = Claim::InvalidCut(Box::new(InvalidCut::of(genesis, None, cut)));
    assert_eq!(claim.judge(&world.federation).map(|it| it.epoch), Ok(1));
}

#[test]
fn an_epoch_has_one_cut() {
    let mut world = World::builder().build();
    world.idle(1);
    let (one, two) = (world.certified(1).clone(), world.certified(2).clone());
    let pair =
        |a: &_, b: &_| Claim::SplitOrder(Box::new(SplitOrder::of(Clone::clone(a), Clone::clone(b), &world.federation)));
    assert_eq!(cleared(&pair(&one, &one), &world), Cleared::Same);
    assert_eq!(cleared(&pair(&one, &two), &world), Cleared::OtherSlot);
    let other = CutHeader { age_ms: one.header.age_ms + 1, ..one.header.clone() };
    let mut other = world.certify(other, CutBody::default()).certified;
    assert_eq!(pair(&one, &other).judge(&world.federation).map(|it| it.epoch), Ok(1));
    // Somebody else's signature is no certificate.
    other.certificate[0] = postroad_protocol::cut::vote(&world.nodes[1], other.header.digest(&world.federation));
    assert_eq!(unproven(&pair(&one, &other), &world), VerifyError::Certificate { epoch: 1 });
}
