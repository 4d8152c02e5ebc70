//! Explanations: what the parts amount to, whoever supplied them, and what is missing where some are.

use postroad_protocol::SecretKey;
use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::bundle::message_tree;
use postroad_protocol::challenge::Lost;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::CutBody;
use postroad_protocol::evidence::{BundleAt, Cleared, Fault, Included, MessageAt, RecipientAt};
use postroad_protocol::explanation::{
    Conclusion, Disclosed, Explanation, Found, HopState, LogWord, LossProof, Residence, Stage,
};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::message::{Message, common_digest};
use postroad_protocol::receipt::{Custody, LeafRefusal, RefusedLeaf};
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::state::PendingKey;
use postroad_protocol::{Digest, Seq};

use crate::common::claims::Scale;
use crate::common::claims::moving::Moving;
use crate::common::samples;
use crate::common::story::story;
use crate::common::{Attested, Batch, Hold, World};

/// Mailbox 0 sends to mailbox 1, which lives at node 1, and to 2, which lives at node 2; through node 0.
fn sealed() -> (World, Batch) {
    let mut world = World::builder().build();
    let messages = vec![world.message("to two", &[1, 2]), world.message("to one", &[2])];
    let bundle = world.bundle(0, 0, messages);
    let batch = world.seal(0, vec![bundle]);
    (world, batch)
}

/// The message of [`sealed`] for mailbox 1, ordered in epoch 2.
const SEQ: Seq = Seq { epoch: 2, position: 0, index: 0 };

fn ordered(hold: Hold) -> (World, Batch) {
    let (mut world, batch) = sealed();
    let sealed = world.held_as(&batch, |home| if home == 1 { hold.clone() } else { Hold::Home });
    world.include(vec![sealed]);
    (world, batch)
}

/// What the sender discloses.
fn disclosed(world: &World, batch: &Batch, mailbox: usize) -> Disclosed {
    let bundle = &batch.bundles[0];
    let (message, recipients) = bundle.messages[0].disclose();
    let count = recipients.len() as u32;
    let recipient = recipients.into_iter().find(|it| it.mailbox == world.mailbox(mailbox)).unwrap();
    let digests: Vec<Digest> = bundle.messages.iter().map(Message::digest).collect();
    Disclosed {
        message: MessageAt {
            bundle: BundleAt { ordinal: 0, signed: bundle.signed.clone(), path: batch.routed.paths[0].clone() },
            index: 0,
            message,
            path: message_tree(&digests).path(0),
        },
        recipient: RecipientAt {
            position: recipient.position,
            count,
            mailbox: recipient.mailbox,
            salt: recipient.salt,
            own: recipient.own_digest(),
            common: common_digest(&bundle.messages[0].common),
            path: recipient.path,
        },
    }
}

/// Everything that every node has of the message, and the slice.
fn known(world: &World, batch: &Batch) -> Explanation {
    let cut = &world.cuts[1];
    let order = cut.body.header_proofs(&world.federation).swap_remove(0);
    let home = world.node(1);
    let key = PendingKey { destination: home, header: batch.digest };
    let value = world.state.lost(&key).copied();
    let lost = world.cuts.iter().flat_map(|cut| &cut.body.records).find_map(|record| match record {
        Record::Lost(lost) => Some(lost.clone()),
        _ => None,
    });
    let body = batch.routed.bodies.iter().zip(&batch.header.body.slices).find(|(_, slice)| slice.destination == home);
    let bundles = batch.header.body.entries.bundles;
    Explanation {
        included: Some(Included { cut: cut.certified.clone(), order }),
        custody: cut.body.headers[0].custody.clone(),
        residence: Some(Residence {
            home: world.state.prove_home(&world.mailbox(1), world.certified(world.state.epoch).clone()),
            loss: Some(LossProof { value, path: world.state.prove_lost(&key) })
                .filter(|_| batch.header.body.slice(&home).is_some()),
        }),
        fill: world.cuts.iter().find_map(|cut| SettledFill::find(cut, &key)).map(Box::new),
        slice: body.map(|(body, _)| body.index(bundles, world.federation.id()).unwrap().prove(&world.mailbox(1))),
        lost,
        ..Explanation::new(world.mailbox(1), SEQ)
    }
}

/// The home attests, a cut makes it final.
fn attest(world: &mut World) -> Attested {
    let attested = world.attest(1, &[]);
    let reference = attested.reference(world);
    let empty = world.seal_with(1, Vec::new(), |header| header.attestation = Some(reference));
    let sealed = world.held(&empty);
    world.include(vec![sealed]);
    attested
}

/// The home's word on the place where a leaf belongs.
fn word(world: &World, attested: &Attested, order: (u64, bool, Seq)) -> Option<Box<LogWord>> {
    LogWord::of(&world.mailbox_attestation(attested, 1), &Frontier::new(), world.log(1), order).map(Box::new)
}

fn told(explanation: &Explanation, world: &World) -> Conclusion {
    assert_eq!(explanation.verify(&world.federation), Ok(()));
    explanation.conclusion(&world.federation)
}

fn states(explanation: &Explanation, world: &World) -> Vec<(Stage, HopState)> {
    explanation.hops(&world.federation).into_iter().map(|hop| (hop.stage, hop.state)).collect()
}

#[test]
fn what_is_in_a_final_log_is_delivered_and_every_hop_did_its_part() {
    let (mut world, batch) = ordered(Hold::Home);
    let attested = attest(&mut world);
    let mut explanation = known(&world, &batch);
    explanation.log = word(&world, &attested, world.log(1)[0].order());
    explanation.disclosed = Some(Box::new(disclosed(&world, &batch, 1)));
    let delivered = Conclusion::Delivered { home: world.node(1), index: 0, late: None };
    assert_eq!(told(&explanation, &world), delivered);
    let all = [Stage::Sender, Stage::Origin, Stage::Sequencer, Stage::Destination, Stage::Home];
    assert_eq!(states(&explanation, &world), all.map(|stage| (stage, HopState::Ok)));
    let epochs: Vec<_> = explanation.hops(&world.federation).iter().map(|hop| hop.epoch).collect();
    assert_eq!(epochs, [None, Some(2), Some(2), Some(2), Some(2)]);
}

#[test]
fn what_custodians_hold_is_pending_and_late_once_it_is_filled() {
    let (mut world, batch) = ordered(Hold::Custodians(vec![2, 3]));
    let holders = vec![world.node(2), world.node(3)];
    let pending = known(&world, &batch);
    assert_eq!(told(&pending, &world), Conclusion::Pending { home: world.node(1), holders: holders.clone() });
    let way = states(&pending, &world);
    assert_eq!(
        way[3..],
        [
            (Stage::Custodian, HopState::Ok),
            (Stage::Custodian, HopState::Ok),
            (Stage::Destination, HopState::Missing),
            (Stage::Home, HopState::Missing),
        ]
    );

    world.idle(2);
    let early = attest(&mut world);
    let fills = vec![world.fill(&batch, 1)];
    world.cut(CutBody { fills, ..CutBody::default() });
    let filled = world.state.epoch;
    let mut claimed = known(&world, &batch);
    claimed.log =
        LogWord::of(&world.mailbox_attestation(&early, 1), &Frontier::new(), &[], (filled, false, SEQ)).map(Box::new);
    let until = |until| Cleared::Pending { holders: holders.clone(), until: Some(until) };
    let accused = world.node(1);
    assert_eq!(told(&claimed, &world), Conclusion::Cleared { accused, reason: until(filled) });

    let attested = attest(&mut world);
    let mut late = known(&world, &batch);
    late.log = word(&world, &attested, world.log(1)[0].order());
    let delivered = Conclusion::Delivered { home: accused, index: 0, late: Some(until(filled)) };
    assert_eq!(told(&late, &world), delivered);
    let held = format!("custodians {}, {} held it until the fill in epoch {filled}", holders[0], holders[1]);
    assert!(delivered.to_string().ends_with(&format!("the slice was pending: {held}")), "{delivered}");
}

#[test]
fn what_a_home_refuses_in_the_cut_is_refused() {
    let (mut world, batch) = sealed();
    let mut sealed = world.held(&batch).into_inner();
    let mut item = world.item(&batch, 0, None);
    item.refused = vec![RefusedLeaf { index: 0, mailbox: world.mailbox(1), reason: LeafRefusal::Full }];
    sealed.custody[0] = Custody { request: None, receipts: vec![world.receipt(1, item)] };
    let sealed = world.check(sealed);
    world.include(vec![sealed]);
    let explanation = known(&world, &batch);
    let refused = Conclusion::Refused { home: world.node(1), reason: LeafRefusal::Full };
    assert_eq!(told(&explanation, &world), refused);
}

#[test]
fn an_origin_that_left_a_recipient_out_is_guilty_once_the_message_is_disclosed() {
    let (mut world, batch) = sealed();
    let whole = batch.bundles.clone();
    let mut batch = world.seal_with(0, whole, |header| {
        header.slices.remove(0);
    });
    batch.routed.bodies.remove(0);
    let sealed = world.held(&batch);
    world.include(vec![sealed]);
    let mut explanation = known(&world, &batch);
    let Conclusion::Open(missing) = told(&explanation, &world) else { panic!("nobody is guilty yet") };
    assert_eq!(missing[0].nodes, [world.node(0)]);
    explanation.disclosed = Some(Box::new(disclosed(&world, &batch, 1)));
    guilty(&explanation, &world, Fault::Omission, 0, Stage::Origin);
}

fn guilty(explanation: &Explanation, world: &World, fault: Fault, culprit: usize, stage: Stage) {
    let Conclusion::Guilty(evidence) = told(explanation, world) else {
        panic!("{}", told(explanation, world));
    };
    assert_eq!((evidence.verdict().fault, evidence.verdict().culprit), (fault, world.node(culprit)));
    let wrong: Vec<_> = states(explanation, world).into_iter().filter(|(_, state)| *state == HopState::Wrong).collect();
    assert_eq!(wrong, [(stage, HopState::Wrong)]);
}

#[test]
fn a_bundle_routed_past_its_time_convicts_its_origin() {
    let mut world = World::builder().build();
    let message = world.message("to two", &[1, 2]);
    let bundle = world.bundle(0, 0, vec![message]);
    world.idle(101);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held(&batch);
    let cut = world.include(vec![sealed]);
    let order = world.cuts.last().unwrap().body.header_proofs(&world.federation).swap_remove(0);
    let seq = Seq { epoch: cut.header.epoch, position: 0, index: 0 };
    let explanation = Explanation {
        included: Some(Included { cut, order }),
        disclosed: Some(Box::new(disclosed(&world, &batch, 1))),
        ..Explanation::new(world.mailbox(1), seq)
    };
    guilty(&explanation, &world, Fault::Stale, 0, Stage::Origin);
}

#[test]
fn a_home_whose_final_log_lacks_what_it_signed_for_is_guilty_of_drop() {
    let (mut world, batch) = ordered(Hold::Home);
    let dropped: LogLeaf = world.drop_entry(1, 0);
    let attested = attest(&mut world);
    let mut explanation = known(&world, &batch);
    explanation.log = word(&world, &attested, dropped.order());
    assert!(matches!(explanation.log.as_ref().unwrap().found, Found::Gap(_)));
    guilty(&explanation, &world, Fault::Drop, 1, Stage::Home);
    explanation.slice = None;
    let Conclusion::Open(missing) = told(&explanation, &world) else { panic!("the slice is not shown") };
    assert!(missing[0].nodes.contains(&world.node(0)) && missing[0].what.contains("slice"));
}

#[test]
fn a_home_that_said_so_has_lost_the_slice() {
    let (mut world, batch) = ordered(Hold::Home);
    let home = world.node(1);
    let lost = Lost { holder: home, destination: home, header: batch.digest };
    let records = vec![Record::Lost(world.sign(lost, &world.nodes[1]))];
    world.cut(CutBody { records, ..CutBody::default() });
    let explanation = known(&world, &batch);
    guilty(&explanation, &world, Fault::Loss, 1, Stage::Destination);
}

#[test]
fn two_cuts_of_its_epoch_convict_the_sequencer() {
    let (mut world, batch) = ordered(Hold::Home);
    world.idle(1);
    let mut explanation = known(&world, &batch);
    let mut header = world.certified(2).header.clone();
    header.time_ms += 1;
    let mut other = explanation.clone();
    other.included.as_mut().unwrap().cut = world.certify(header, CutBody::default()).certified;
    explanation.merge(other, &world.federation);
    guilty(&explanation, &world, Fault::SplitOrder, 0, Stage::Sequencer);
}

#[test]
fn without_a_part_it_is_open_and_says_who_could_supply_it() {
    let (mut world, batch) = ordered(Hold::Home);
    let attested = attest(&mut world);
    let whole = known(&world, &batch);
    let without = |change: &dyn Fn(&mut Explanation)| {
        let mut explanation = whole.clone();
        change(&mut explanation);
        match explanation.conclusion(&world.federation) {
            Conclusion::Open(missing) => missing.into_iter().next().expect("it names one").what,
            other => panic!("{other}"),
        }
    };
    assert!(without(&|it| it.included = None).contains("header"));
    assert!(without(&|it| it.residence = None).contains("directory"));
    assert!(without(&|it| it.custody.clear()).contains("receipts"));
    assert!(without(&|it| it.log = None).contains("attests of its log from epoch 2 on"));
    let mut none = Explanation::new(whole.mailbox, whole.seq);
    assert!(states(&none, &world).iter().all(|(_, state)| *state == HopState::Missing));
    none.log = word(&world, &attested, world.log(1)[0].order());
    assert!(none.verify(&world.federation).is_err(), "a log of nobody knows whom");
}

#[test]
fn what_several_supply_is_one_explanation_and_what_does_not_hold_displaces_nothing() {
    let story = story();
    let (world, whole) = (&story.world, samples::explanation(&story));
    assert_eq!(whole.verify(&world.federation), Ok(()));
    let bare = Explanation::new(whole.mailbox, whole.seq);
    let halves = [
        Explanation { residence: whole.residence.clone(), log: whole.log.clone(), ..bare.clone() },
        Explanation { included: whole.included.clone(), custody: whole.custody.clone(), ..bare.clone() },
        Explanation { fill: whole.fill.clone(), slice: whole.slice.clone(), ..bare.clone() },
        Explanation { disclosed: whole.disclosed.clone(), residence: whole.residence.clone(), ..bare.clone() },
        Explanation { log: whole.log.clone(), ..bare.clone() },
    ];
    let mut merged = bare.clone();
    let mut forged = whole.clone();
    forged.custody[0].receipts.reverse();
    forged.slice.as_mut().unwrap().leaves[0].index += 1;
    forged.residence.as_mut().unwrap().home.parts[0] = Digest::ZERO;
    for supplied in halves {
        merged.merge(supplied, &world.federation);
        merged.merge(forged.clone(), &world.federation);
    }
    assert_eq!(merged, whole);
    let mut other = bare;
    other.seq.index = 1;
    other.merge(whole, &world.federation);
    assert_eq!(other.included, None, "it is of another message");
}

#[test]
fn a_kept_explanation_is_read_again_and_no_bit_of_it_can_change() {
    let story = story();
    let (federation, whole) = (&story.world.federation, samples::explanation(&story));
    let file = whole.to_file(federation);
    assert!(Explanation::is_file(&file));
    assert_eq!(Explanation::from_file(&file, federation).unwrap(), whole);
    assert_eq!(decode::<Explanation>(&encode(&whole)).unwrap(), whole);
    let is_whole = |bytes: &[u8]| {
        let read = Explanation::from_file(bytes, federation);
        read.is_ok_and(|read| {
            let same = (read.mailbox, read.seq) == (whole.mailbox, whole.seq);
            same && read.verify(federation).is_ok() && read.conclusion(federation) == whole.conclusion(federation)
        })
    };
    assert!(is_whole(&file));
    let stride = 7;
    for bit in (0..file.len() * 8).step_by(stride) {
        let mut bytes = file.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_whole(&bytes), "bit {bit} of {}", file.len() * 8);
    }
    let stranger = SecretKey::from_seed([9; 32]).public();
    let mut elsewhere = whole;
    elsewhere.mailbox = stranger;
    assert!(elsewhere.verify(federation).is_err());
}

#[test]
fn what_was_routed_to_a_former_home_accuses_nobody() {
    let mut moving = Moving::new(Scale::SMALL, &Hold::Home, |_| {});
    let (switched, included) = (moving.switched, moving.included);
    let seq = Seq { epoch: included, position: 0, index: 0 };
    let explain = |moving: &Moving| {
        let world = &moving.world;
        let home = world.home_proof(1, world.state.epoch);
        Explanation {
            included: Some(world.included(included, 0)),
            residence: Some(Residence { home, loss: None }),
            disclosed: Some(Box::new(disclosed(world, &moving.open, 1))),
            ..Explanation::new(world.mailbox(1), seq)
        }
    };
    let (from, to) = (moving.world.node(1), moving.world.node(2));
    let moved = |taken| Conclusion::Moved { from, to, since: switched, taken };
    assert_eq!(told(&explain(&moving), &moving.world), moved(None));
    let missing = moving.missing();
    moving.take_over(Some(moving.base), |import| import.missing = missing);
    assert_eq!(told(&explain(&moving), &moving.world), moved(None), "it is missing");
    let epoch = moving.take_over(Some(moving.base), |_| {});
    assert_eq!(told(&explain(&moving), &moving.world), moved(Some(epoch)));
    let states = states(&explain(&moving), &moving.world);
    assert_eq!(states.last(), Some(&(Stage::Destination, HopState::Ok)));

    moving.holds(&[moving.leaf(epoch)]);
    let (attested, _) = moving.attest(2);
    let mut explanation = explain(&moving);
    explanation.log = word(&moving.world, &attested, (epoch, false, seq));
    let delivered = Conclusion::Delivered { home: to, index: 1, late: None };
    assert_eq!(told(&explanation, &moving.world), delivered);
}
