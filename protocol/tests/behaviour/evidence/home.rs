//! Homes: what they signed over their logs, and what only looks like a fault of theirs.

use postroad_protocol::challenge::Lost;
use postroad_protocol::cut::CutBody;
use postroad_protocol::evidence::{Claim, Cleared, Fault, SplitView, Wrong};
use postroad_protocol::receipt::{Custody, LeafRefusal, RefusedLeaf};
use postroad_protocol::record::Record;
use postroad_protocol::{Digest, Seq, VerifyError};

use super::{cleared, malformed, unproven};
use crate::common::claims::{Delivery, Scale, expired, forget, logged, two_views};
use crate::common::{Hold, World};

const SCALE: Scale = Scale::SMALL;
const SEQ: Seq = Seq { epoch: 2, position: 0, index: 0 };

fn is_drop(claim: postroad_protocol::evidence::Drop, world: &World) -> Option<(u64, Option<Seq>)> {
    let verdict = Claim::Drop(Box::new(claim)).judge(&world.federation).ok()?;
    assert_eq!((verdict.fault, verdict.culprit), (Fault::Drop, world.node(1)));
    Some((verdict.epoch, verdict.seq))
}

#[test]
fn what_a_home_signed_for_and_does_not_have_it_dropped() {
    for entries in [0, 3] {
        let scale = Scale { entries, ..SCALE };
        let mut delivery = Delivery::new(scale, &Hold::Home, |_| {});
        let (attested, anchor, at) = forget(&mut delivery);
        let claim = delivery.dropped(&attested, anchor, None, at);
        assert_eq!(is_drop(claim, &delivery.world), Some((2, Some(SEQ))), "behind {entries} entries");
    }
}

#[test]
fn a_log_that_has_the_message_has_no_gap_for_it() {
    let mut delivery = Delivery::new(Scale { entries: 2, ..SCALE }, &Hold::Home, |_| {});
    let attested = delivery.world.attest(1, &[]);
    let anchor = delivery.world.make_final(1, &attested);
    for at in 0..=3 {
        let claim = Claim::Drop(Box::new(delivery.dropped(&attested, anchor.clone(), None, at)));
        let elsewhere = malformed("log gap", "the entry would stand elsewhere");
        assert_eq!(unproven(&claim, &delivery.world), elsewhere, "between {at} and the next");
    }
    let mut claim = delivery.dropped(&attested, anchor, None, 2);
    claim.gap.after = None;
    let apart = malformed("log gap", "its entries do not stand next to each other");
    assert_eq!(unproven(&Claim::Drop(Box::new(claim)), &delivery.world), apart);
}

#[test]
fn what_custodians_hold_is_not_owed() {
    let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
    let early = delivery.world.attest(1, &[]);
    let early_anchor = delivery.world.make_final(1, &early);
    let claim = Claim::Drop(Box::new(delivery.dropped(&early, early_anchor.clone(), None, 0)));
    let holders = vec![delivery.world.node(2), delivery.world.node(3)];
    let why = cleared(&claim, &delivery.world);
    assert_eq!(why, Cleared::Pending { holders: holders.clone(), until: None });

    // The fill comes after the attestation, which stays innocent of it.
    let epoch = delivery.fill();
    let fill = delivery.world.settled_fill(epoch, 0);
    let claim = Claim::Drop(Box::new(delivery.dropped(&early, early_anchor, Some(fill.clone()), 0)));
    let why = cleared(&claim, &delivery.world);
    assert_eq!(why, Cleared::Pending { holders, until: Some(epoch) });
    let [one, other] = [2, 3].map(|node| delivery.world.node(node).to_string());
    let text = format!("the slice was pending: custodians {one}, {other} held it until the fill in epoch {epoch}");
    assert_eq!(why.to_string(), text);

    // From the fill on it is owed.
    let (late, late_anchor, at) = forget(&mut delivery);
    let claim = delivery.dropped(&late, late_anchor.clone(), Some(fill), at);
    assert_eq!(is_drop(claim, &delivery.world), Some((epoch, Some(SEQ))));

    // A claim cannot hide that it was pending.
    let mut hidden = delivery.dropped(&late, late_anchor, None, at);
    hidden.custody[0].receipts.truncate(1);
    assert_eq!(unproven(&Claim::Drop(Box::new(hidden)), &delivery.world), VerifyError::Path { what: "receipts" });
}

#[test]
fn a_custodian_never_owed_it_to_the_mailbox() {
    let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
    let attested = delivery.world.attest(2, &[]);
    let anchor = delivery.world.make_final(2, &attested);
    let claim = Claim::Drop(Box::new(delivery.dropped(&attested, anchor, None, 0)));
    assert_eq!(cleared(&claim, &delivery.world), Cleared::NotItsSlice);
}

#[test]
fn what_a_home_refused_it_does_not_owe() {
    let mut world = crate::common::claims::world(SCALE);
    let bundles = world.letters(SCALE, &[1]);
    let batch = world.seal(0, bundles);
    let mut sealed = world.held(&batch).into_inner();
    let mut item = world.item(&batch, 0, None);
    item.refused = vec![RefusedLeaf { index: 0, mailbox: world.mailbox(1), reason: LeafRefusal::Full }];
    sealed.custody[0] = Custody { request: None, receipts: vec![world.receipt(1, item)] };
    let epoch = world.include(vec![world.check(sealed)]).header.epoch;
    let mut delivery = Delivery { world, batch, epoch };
    let (attested, anchor, at) = forget(&mut delivery);
    let claim = Claim::Drop(Box::new(delivery.dropped(&attested, anchor, None, at)));
    assert_eq!(cleared(&claim, &delivery.world), Cleared::Refused { seq: SEQ, reason: LeafRefusal::Full });
}

#[test]
fn what_a_fill_refused_it_does_not_owe() {
    let mut delivery = Delivery::new(SCALE, &Hold::Custodians(vec![2, 3]), |_| {});
    let world = &mut delivery.world;
    let mut item = world.item(&delivery.batch, 0, None);
    item.refused = vec![RefusedLeaf { index: 0, mailbox: world.mailbox(1), reason: LeafRefusal::Blocked }];
    let fill = world.receipt(1, item);
    let epoch = world.cut(CutBody { fills: vec![fill], ..CutBody::default() }).header.epoch;
    let (attested, anchor, at) = forget(&mut delivery);
    let fill = delivery.world.settled_fill(epoch, 0);
    let claim = Claim::Drop(Box::new(delivery.dropped(&attested, anchor, Some(fill), at)));
    assert_eq!(cleared(&claim, &delivery.world), Cleared::Refused { seq: SEQ, reason: LeafRefusal::Blocked });
}

#[test]
fn an_attestation_owes_what_it_reaches() {
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    delivery.world.falsify(1, |log| log.clear());
    let attested = delivery.world.attest_with(1, |_, _| {}, |body| body.epoch = 1);
    let anchor = delivery.world.make_final(1, &attested);
    let claim = Claim::Drop(Box::new(delivery.dropped(&attested, anchor, None, 0)));
    assert_eq!(cleared(&claim, &delivery.world), Cleared::NotYet { settled: 2, attested: 1 });
}

#[test]
fn an_attestation_that_is_not_final_convicts_nobody_of_a_drop() {
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    let (_, anchor, at) = forget(&mut delivery);
    let other = delivery.world.attest(1, &[]);
    let claim = Claim::Drop(Box::new(delivery.dropped(&other, anchor, None, at)));
    let another = malformed("attestation", "the anchoring header names another one");
    assert_eq!(unproven(&claim, &delivery.world), another);
}

#[test]
fn who_said_that_it_lost_the_slice_did_not_drop_it() {
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    let lose = |delivery: &mut Delivery| {
        let key = delivery.key();
        let world = &mut delivery.world;
        let lost = Lost { holder: key.destination, destination: key.destination, header: key.header };
        let records = vec![Record::Lost(world.sign(lost, &world.nodes[1]))];
        world.cut(CutBody { records, ..CutBody::default() }).header.epoch
    };
    let epoch = lose(&mut delivery);
    let (attested, anchor, at) = forget(&mut delivery);
    let claim = delivery.dropped(&attested, anchor, None, at);
    assert_eq!(cleared(&Claim::Drop(Box::new(claim.clone())), &delivery.world), Cleared::Lost { epoch });
    // The state that does not say so is of before the anchor.
    let mut older = claim.clone();
    older.home = delivery.world.home_proof(1, 2);
    older.lost = None;
    older.lost_path = delivery.world.states[2].prove_lost(&delivery.key());
    let earlier = malformed("drop", "the state is of an earlier cut than the anchor");
    assert_eq!(unproven(&Claim::Drop(Box::new(older)), &delivery.world), earlier);
    let mut hidden = claim;
    hidden.lost = None;
    assert_eq!(unproven(&Claim::Drop(Box::new(hidden)), &delivery.world), VerifyError::Path { what: "lost slice" });

    // Who attests first and says it later has dropped it.
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    let (attested, anchor, at) = forget(&mut delivery);
    lose(&mut delivery);
    let claim = delivery.dropped(&attested, anchor, None, at);
    assert_eq!(is_drop(claim, &delivery.world), Some((2, Some(SEQ))));
}

#[test]
fn past_retention_the_state_may_have_forgotten_what_clears() {
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |params| params.retention_ms = 3_000);
    let (attested, anchor, at) = forget(&mut delivery);
    delivery.world.step_ms = 1_000;
    delivery.world.idle(3);
    let claim = delivery.dropped(&attested, anchor, None, at);
    assert_eq!(is_drop(claim.clone(), &delivery.world).map(|it| it.0), None);
    assert_eq!(cleared(&Claim::Drop(Box::new(claim)), &delivery.world), Cleared::PastRetention);
}

#[test]
fn an_entry_is_what_the_cuts_say() {
    let (delivery, _, claim) = logged(SCALE, |log| log.last_mut().unwrap().message = Digest([7; 32]));
    let judged = Claim::WrongEntry(Box::new(claim)).judge(&delivery.world.federation);
    assert_eq!(judged.map(|it| (it.culprit, it.seq)), Ok((delivery.world.node(1), Some(SEQ))));

    let (delivery, _, claim) = logged(SCALE, |_| {});
    assert_eq!(cleared(&Claim::WrongEntry(Box::new(claim)), &delivery.world), Cleared::Agrees { index: 0 });

    // The cut of its epoch has one header.
    for (position, guilty) in [(0, false), (1, true)] {
        let (delivery, _, mut claim) = logged(SCALE, |log| log.last_mut().unwrap().seq.position = position);
        claim.wrong = Wrong::NoHeader(Box::new(delivery.world.certified(2).clone()));
        let claim = Claim::WrongEntry(Box::new(claim));
        assert_eq!(claim.judge(&delivery.world.federation).is_ok(), guilty, "position {position}");
    }
}

#[test]
fn entries_stand_in_log_order() {
    for (turned, guilty) in [(false, false), (true, true)] {
        let scale = Scale { entries: 2, ..SCALE };
        let (delivery, attested, mut claim) = logged(scale, |log| {
            if turned {
                log.swap(1, 2)
            }
        });
        claim.entry = delivery.world.leaf_at(&attested, 1, 1);
        claim.wrong = Wrong::Order(Box::new(delivery.world.leaf_at(&attested, 1, 2)));
        let claim = Claim::WrongEntry(Box::new(claim));
        match guilty {
            true => assert_eq!(claim.judge(&delivery.world.federation).map(|it| it.fault), Ok(Fault::WrongEntry)),
            false => assert_eq!(cleared(&claim, &delivery.world), Cleared::Rising),
        }
    }
}

#[test]
fn an_entry_is_for_its_mailbox() {
    let (delivery, _, mut claim) = logged(SCALE, |_| {});
    let (world, batch) = (&delivery.world, &delivery.batch);
    let (included, slice) = (Box::new(world.included(2, 0)), Box::new(world.slice_proof(batch, 1, 1)));
    claim.wrong = Wrong::NotAddressed(included, Some(slice));
    assert_eq!(cleared(&Claim::WrongEntry(Box::new(claim)), world), Cleared::InSlice { seq: SEQ });

    // Mailbox 5 lives at node 1 as well; the entry in its log is not for it.
    let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
    let leaf = delivery.world.log(1)[0];
    let world = &mut delivery.world;
    world.falsify(5, |log| log.push(leaf));
    let attested = world.attest(1, &[]);
    let anchor = world.make_final(1, &attested);
    let claim = postroad_protocol::evidence::WrongEntry {
        mailbox: world.mailbox(5),
        attested: world.shown(&attested, 5),
        anchor,
        entry: world.leaf_at(&attested, 5, 0),
        wrong: Wrong::NotAddressed(
            Box::new(world.included(2, 0)),
            Some(Box::new(world.slice_proof(&delivery.batch, 1, 5))),
        ),
        home: world.home_proof(5, 2),
    };
    let judged = Claim::WrongEntry(Box::new(claim)).judge(&world.federation);
    assert_eq!(judged.map(|it| (it.fault, it.mailbox)), Ok((Fault::WrongEntry, Some(world.mailbox(5)))));
}

#[test]
fn mail_is_kept_until_it_is_acknowledged_or_past_retention() {
    let judge = |expired_to, acknowledge, idle| {
        let (world, claim) = expired(SCALE, 5_000, expired_to, acknowledge, idle);
        Claim::EarlyExpiry(Box::new(claim)).judge(&world.federation).map(|verdict| verdict.fault)
    };
    // Retention is five seconds, a cut comes every second.
    for idle in 0..8 {
        let guilty = judge(1, false, idle).is_ok();
        assert_eq!(guilty, idle <= 4, "{} ms after it was settled", 1_000 * (idle + 1));
    }
    let cleared = |expired_to, acknowledge, idle| {
        let (world, claim) = expired(SCALE, 5_000, expired_to, acknowledge, idle);
        cleared(&Claim::EarlyExpiry(Box::new(claim)), &world)
    };
    assert_eq!(cleared(1, false, 6), Cleared::PastRetention);
    assert_eq!(cleared(0, false, 1), Cleared::Kept { index: 0 });
    assert_eq!(cleared(1, true, 1), Cleared::Acknowledged { below: 1 });
}

#[test]
fn logs_of_one_incarnation_agree() {
    let (world, logs) = two_views(SCALE, 1);
    let claim = |logs| Claim::SplitView(SplitView::Logs(Box::new(logs)));
    assert_eq!(claim(logs.clone()).judge(&world.federation).map(|it| it.culprit), Ok(world.node(1)));
    let mut none = logs.clone();
    none.entries = None;
    assert_eq!(cleared(&claim(none), &world), Cleared::Agrees { index: 1 });
    let mut turned = logs.clone();
    (turned.earlier, turned.later) = (logs.later, logs.earlier);
    assert_eq!(unproven(&claim(turned), &world), malformed("split view", "not in ascending order"));
    let (world, logs) = two_views(SCALE, 2);
    assert_eq!(cleared(&claim(logs), &world), Cleared::OtherIncarnation);

    // A log that shrinks.
    for incarnation in [1, 2] {
        let mut delivery = Delivery::new(SCALE, &Hold::Home, |_| {});
        let world = &mut delivery.world;
        let earlier = world.attest(1, &[]);
        world.falsify(1, |log| log.clear());
        let later = world.attest_with(1, |_, _| {}, |body| body.incarnation = incarnation);
        let (earlier, later) = (world.shown(&earlier, 1), world.shown(&later, 1));
        let mailbox = world.mailbox(1);
        let shrunk = postroad_protocol::evidence::SplitLogs {
            mailbox,
            earlier,
            later,
            entries: None,
            home: world.home_proof(1, 2),
        };
        assert_eq!(claim(shrunk).judge(&world.federation).is_ok(), incarnation == 1);
    }
}

#[test]
fn a_number_is_of_one_attestation() {
    let mut world = World::builder().build();
    let one = world.attest(1, &[]);
    let number = one.signed.body.number;
    let pair = |a: &crate::common::Attested, b: &crate::common::Attested, world: &World| {
        let (mut a, mut b) = (a.signed.clone().into_inner(), b.signed.clone().into_inner());
        if a.digest(&world.federation) > b.digest(&world.federation) {
            std::mem::swap(&mut a, &mut b);
        }
        Claim::SplitView(SplitView::Number(Box::new(a), Box::new(b)))
    };
    let other = world.attest_with(1, |_, _| {}, |body| (body.number, body.epoch) = (number, 0));
    assert_eq!(pair(&one, &other, &world).judge(&world.federation).map(|it| it.culprit), Ok(world.node(1)));
    assert_eq!(cleared(&pair(&one, &one, &world), &world), Cleared::Same);
    let next = world.attest(1, &[]);
    assert_eq!(cleared(&pair(&one, &next, &world), &world), Cleared::OtherSlot);
    let older = world.attest_with(1, |_, _| {}, |body| (body.number, body.incarnation) = (number, 2));
    assert_eq!(cleared(&pair(&one, &older, &world), &world), Cleared::OtherIncarnation);

    // What is anchored under a number is the one, whatever the incarnation.
    let anchor = world.make_final(1, &one);
    let anchored = |attested: &crate::common::Attested| {
        let attestation = Box::new(attested.signed.clone().into_inner());
        Claim::SplitView(SplitView::Anchored(attestation, Box::new(anchor.clone())))
    };
    assert_eq!(cleared(&anchored(&one), &world), Cleared::Same);
    assert_eq!(cleared(&anchored(&next), &world), Cleared::OtherSlot);
    for other in [other, older] {
        assert_eq!(anchored(&other).judge(&world.federation).map(|it| it.fault), Ok(Fault::SplitView));
    }
}
