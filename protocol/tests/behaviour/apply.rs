//! `apply`: what a cut may settle, in which order, and every reason why it may not.

use postroad_protocol::batch::AttestationRef;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::{Cut, CutBody, CutHeader};
use postroad_protocol::receipt::{Custody, LeafRefusal, ReceiptItem, RefusedLeaf, Sealed, sign_receipts};
use postroad_protocol::record::Record;
use postroad_protocol::signed::Verify;
use postroad_protocol::state::{Draft, Invalid, PendingKey, apply};
use postroad_protocol::{Digest, NodeId, Verified, VerifyError};

use crate::common::story::story;
use crate::common::{Batch, Hold, World, key};

fn records(records: Vec<Record>) -> CutBody {
    CutBody { records, ..CutBody::default() }
}

fn headers(headers: Vec<Verified<Sealed>>) -> CutBody {
    CutBody { headers: headers.into_iter().map(Verified::into_inner).collect(), ..CutBody::default() }
}

/// Why a cut with this body is not valid now.
fn why_not(world: &World, body: CutBody) -> Invalid {
    world.draft(body).map(|_| ()).unwrap_err()
}

/// One message from one node to some mailboxes.
fn mail(world: &mut World, origin: usize, to: &[usize]) -> Batch {
    let message = world.message("mail", to);
    let bundle = world.bundle(0, origin, vec![message]);
    world.seal(origin, vec![bundle])
}

/// An empty batch of a node, which carries an attestation, after a change to its header.
fn empty(
    world: &mut World,
    origin: usize,
    number: u64,
    change: impl FnOnce(&mut postroad_protocol::batch::Header),
) -> Verified<Sealed> {
    let batch = world.seal_with(origin, Vec::new(), |header| {
        header.attestation = Some(AttestationRef { number, digest: Digest([number as u8; 32]), epoch: 0 });
        change(header);
    });
    world.held(&batch)
}

/// A cut that the sequencer certifies whatever the rules say, after a change to its header.
fn certified(world: &World, body: CutBody, change: impl FnOnce(&mut CutHeader)) -> Verified<Cut> {
    let (cut, _) = world.draft(CutBody::default()).unwrap();
    let mut header = cut.certified.header.clone();
    [header.records, header.fills, header.headers] = body.parts(&world.federation);
    change(&mut header);
    world.check(world.certify(header, body))
}

fn applied(world: &World, cut: &Verified<Cut>) -> Result<(), Invalid> {
    apply(&world.state, cut, &world.federation).map(drop)
}

// The cut itself.

#[test]
fn a_cut_follows_the_last_one() {
    let mut world = World::builder().build();
    world.idle(1);
    let check = |change: &dyn Fn(&mut CutHeader)| applied(&world, &certified(&world, CutBody::default(), change));
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|header| header.epoch = 4), Err(Invalid::Epoch { expected: 3, found: 4 }));
    assert_eq!(check(&|header| header.epoch = 2), Err(Invalid::Epoch { expected: 3, found: 2 }));
    assert_eq!(check(&|header| header.previous = Digest::ZERO), Err(Invalid::Previous { epoch: 3 }));
    let first = world.certified(1).header.digest(&world.federation);
    assert_eq!(check(&|header| header.previous = first), Err(Invalid::Previous { epoch: 3 }));
    let last = world.state.time_ms;
    assert_eq!(check(&|header| header.time_ms = last), Err(Invalid::Time { epoch: 3 }));
    assert_eq!(check(&|header| header.time_ms = last - 1), Err(Invalid::Time { epoch: 3 }));
    let at =
        |time_ms: u64, age_ms: u64| move |header: &mut CutHeader| (header.time_ms, header.age_ms) = (time_ms, age_ms);
    let age = world.state.age_ms;
    assert_eq!(check(&at(last + 1, age + 1)), Ok(()));
    assert_eq!(check(&at(last + 1, age + 2)), Err(Invalid::Age { epoch: 3, expected: age + 1, found: age + 2 }));
    assert_eq!(check(&|header| header.state = Digest::ZERO), Err(Invalid::StateRoot { epoch: 3 }));
}

/// Rule 11: the sequencer is away for a day, and its first cut must end no delay and no retention.
#[test]
fn age_counts_at_most_two_heartbeats_of_a_step() {
    let world = World::builder().build();
    let (time, age, heartbeat) = (world.state.time_ms, world.state.age_ms, world.federation.params().heartbeat_ms);
    let check = |step: u64, counted: u64| {
        let cut = certified(&world, CutBody::default(), |header| {
            (header.time_ms, header.age_ms) = (time + step, age + counted);
        });
        applied(&world, &cut).is_ok()
    };
    assert!(check(2 * heartbeat, 2 * heartbeat));
    assert!(!check(2 * heartbeat + 1, 2 * heartbeat + 1));
    let day = 24 * 3_600 * 1_000;
    assert!(check(day, 2 * heartbeat));
    assert!(!check(day, day));
}

#[test]
fn the_first_cut_follows_genesis() {
    let world = World::builder().unborn();
    let cut = certified(&world, CutBody::default(), |_| {});
    assert_eq!((cut.certified.header.epoch, cut.certified.header.previous), (1, world.federation.id()));
    assert_eq!(applied(&world, &cut), Ok(()));
    let at_genesis = world.federation.genesis().time_ms;
    let cut = certified(&world, CutBody::default(), |header| header.time_ms = at_genesis);
    assert_eq!(applied(&world, &cut), Err(Invalid::Time { epoch: 1 }));
}

#[test]
fn a_state_root_that_leaves_something_out_is_refused() {
    let world = World::builder().unborn();
    let body = records(vec![world.node_record(0, 1)]);
    let (_, after) = world.draft(body.clone()).unwrap();
    let honest = certified(&world, body.clone(), |header| header.state = after.root());
    assert_eq!(applied(&world, &honest), Ok(()));
    let before = world.state.root();
    let cut = certified(&world, body, |header| header.state = before);
    assert_eq!(applied(&world, &cut), Err(Invalid::StateRoot { epoch: 1 }));
}

#[test]
fn only_the_committee_certifies() {
    let world = World::builder().build();
    let good = certified(&world, CutBody::default(), |_| {}).into_inner();
    let digest = good.certified.header.digest(&world.federation);
    let check = |certificate| {
        let mut cut = good.clone();
        cut.certified.certificate = certificate;
        cut.verify(&world.federation)
    };
    let vote = |node: usize| postroad_protocol::cut::vote(&world.nodes[node], digest);
    let refused = Err(VerifyError::Certificate { epoch: 2 });
    assert_eq!(check(vec![vote(0)]), Ok(()));
    assert_eq!(check(vec![]), refused);
    assert_eq!(check(vec![vote(1)]), refused);
    assert_eq!(check(vec![vote(0), vote(1)]), refused);
    assert_eq!(check(vec![vote(0), vote(0)]), refused);
    let mut posing = vote(1);
    posing.member = world.node(0);
    assert_eq!(check(vec![posing]), refused);
}

#[test]
fn a_body_is_what_its_header_commits_to() {
    let story = story();
    let world = &story.world;
    let refused = Err(VerifyError::Malformed { kind: "cut", reason: "the body is not what the header commits to" });
    let check = |epoch: usize, change: &dyn Fn(&mut CutBody)| {
        let mut cut = world.cuts[epoch - 1].clone().into_inner();
        change(&mut cut.body);
        cut.verify(&world.federation)
    };
    assert_eq!(check(1, &|body| drop(body.records.pop())), refused);
    assert_eq!(check(1, &|body| body.records.swap(0, 1)), refused);
    assert_eq!(check(2, &|body| body.headers.swap(0, 1)), refused);
    assert_eq!(check(2, &|body| drop(body.headers[0].custody[0].receipts.pop())), refused);
    assert_eq!(check(3, &|body| body.fills.clear()), refused);
    assert_eq!(check(3, &|body| body.fills.push(body.fills[0].clone())), refused);
}

#[test]
fn a_cut_with_any_changed_bit_is_refused() {
    let story = story();
    let world = &story.world;
    let before = &world.states[2];
    let bytes = encode(&*world.cuts[2]);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(cut) = decode::<Cut>(&bytes) else { continue };
        let Ok(cut) = Verified::check(cut, &world.federation) else { continue };
        assert!(apply(before, &cut, &world.federation).is_err(), "bit {bit}");
    }
}

#[test]
fn apply_and_draft_agree_on_state_and_touched_keys() {
    let story = story();
    let world = &story.world;
    for (before, cut) in world.states.iter().zip(&world.cuts) {
        let mut draft = Draft::new(before, cut.certified.header.time_ms, &world.federation);
        cut.body.records.iter().for_each(|record| draft.record(&world.check(record.clone())).unwrap());
        cut.body.fills.iter().for_each(|fill| draft.fill(&world.check(fill.clone())).unwrap());
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            assert_eq!(draft.header(&world.check(sealed.clone())), Ok(position as u32));
        }
        let drafted = draft.finish(&cut.certified.header);
        let applied = apply(before, cut, &world.federation).unwrap();
        assert_eq!(drafted.state.root(), applied.state.root());
        assert_eq!(drafted.touched, applied.touched);
        // What was not touched is as it was; what was touched is all that a store has to write.
        for key in before.keys().union(&applied.state.keys()).filter(|key| !applied.touched.contains(key)) {
            assert_eq!(before.value(key), applied.state.value(key));
        }
    }
}

#[test]
fn what_a_draft_refuses_leaves_it_as_it_was() {
    let mut world = World::builder().build();
    let stranger = world.registration_at(&key("mailbox 0"), 1);
    let chain = empty(&mut world, 1, 1, |header| header.previous = Digest([1; 32]));
    let lost = mail(&mut world, 0, &[1]);
    let fill = world.check(world.fill(&lost, 1));
    let mut draft = Draft::new(&world.state, world.state.time_ms + 25, &world.federation);
    let root = draft.state().root();
    assert!(draft.record(&world.check(stranger)).is_err());
    assert!(draft.header(&chain).is_err());
    assert!(draft.fill(&fill).is_err());
    assert_eq!(draft.state().root(), root);
    let (cut, _) = world.draft(CutBody::default()).unwrap();
    assert!(draft.finish(&cut.certified.header).touched.is_empty());
}

// The order in a cut: records, fills, headers (rule 1).

#[test]
fn a_node_can_join_start_and_seal_in_one_cut() {
    let mut world = World::builder().unborn();
    let sealed = empty(&mut world, 1, 1, |_| {});
    let joining = vec![world.node_record(1, 1), world.start(1, 1)];
    let body = CutBody { records: joining, ..headers(vec![sealed.clone()]) };
    assert!(world.draft(body).is_ok());
    let mut draft = Draft::new(&world.state, world.state.time_ms + 25, &world.federation);
    assert_eq!(draft.header(&sealed), Err(Invalid::UnknownNode { node: world.node(1) }));
}

#[test]
fn a_fill_comes_before_headers_and_so_never_fills_one_of_its_own_cut() {
    let mut world = World::builder().build();
    let batch = mail(&mut world, 0, &[2]);
    let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
    let fill = world.fill(&batch, 2);
    let body = CutBody { fills: vec![fill.clone()], ..headers(vec![sealed.clone()]) };
    assert_eq!(why_not(&world, body.clone()), Invalid::NotPending);
    // A sequencer that drafts in another order makes a cut that nobody applies.
    let mut draft = Draft::new(&world.state, world.state.time_ms + 25, &world.federation);
    draft.header(&sealed).unwrap();
    draft.fill(&world.check(fill)).unwrap();
    let root = draft.state().root();
    let cut = certified(&world, body, |header| header.state = root);
    assert_eq!(applied(&world, &cut), Err(Invalid::NotPending));
}

#[test]
fn a_mailbox_registered_in_a_cut_is_routed_to_from_the_next_epoch_on() {
    let mut world = World::builder().build();
    let newcomer = key("newcomer");
    world.cut(records(vec![world.registration_at(&newcomer, 3)]));
    assert_eq!(world.states[1].home(&newcomer.public()), None);
    assert_eq!(world.states[2].home(&newcomer.public()), Some(world.node(3)));
    assert_eq!(world.state.mailbox(&newcomer.public()).unwrap().since, 2);
}

// Records.

#[test]
fn a_node_record_is_newer_than_the_last_one() {
    let mut world = World::builder().build();
    let stale = |node| Invalid::Stale { what: "node record", node };
    assert_eq!(why_not(&world, records(vec![world.node_record(1, 1)])), stale(world.node(1)));
    assert_eq!(why_not(&world, records(vec![world.node_record(1, 0)])), stale(world.node(1)));
    let body = records(vec![world.node_record(1, 5), world.node_record(1, 5)]);
    assert_eq!(why_not(&world, body), stale(world.node(1)));
    let before = world.state.node(&world.node(1)).unwrap().clone();
    world.cut(records(vec![world.node_record(1, 5)]));
    let after = world.state.node(&world.node(1)).unwrap();
    assert_eq!((after.version, after.incarnation, after.mailboxes), (5, before.incarnation, before.mailboxes));
}

#[test]
fn a_start_is_one_more_than_the_last_one() {
    let mut world = World::builder().build();
    let stale = Invalid::Stale { what: "start", node: world.node(1) };
    for incarnation in [0, 1, 3] {
        assert_eq!(why_not(&world, records(vec![world.start(1, incarnation)])), stale);
    }
    world.cut(records(vec![world.start(1, 2), world.start(1, 3)]));
    let node = world.state.node(&world.node(1)).unwrap();
    assert_eq!((node.incarnation, node.started), (3, 2));
    let world = World::builder().unborn();
    assert_eq!(why_not(&world, records(vec![world.start(1, 1)])), Invalid::UnknownNode { node: world.node(1) });
}

#[test]
fn who_may_join_is_for_genesis_to_say() {
    let refused = |node: NodeId, reason| Invalid::NotAdmitted { node, reason };
    let world = World::builder().allow(&[2]).unborn();
    let join = |node| world.draft(records(vec![world.node_record(node, 1)])).map(drop);
    assert_eq!(join(2), Ok(()));
    assert_eq!(join(0), Ok(()), "the committee is always allowed");
    let reason = "genesis has an allow list, and it is not on it";
    assert_eq!(join(1), Err(refused(world.node(1), reason)));

    let world = World::builder().params(|params| params.max_nodes = 2).unborn();
    let join = |nodes: &[usize]| {
        world.draft(records(nodes.iter().map(|node| world.node_record(*node, 1)).collect())).map(drop)
    };
    assert_eq!(join(&[1, 2]), Ok(()));
    assert_eq!(join(&[1, 2, 0]), Ok(()), "the committee always has room");
    assert_eq!(join(&[1, 2, 3]), Err(refused(world.node(3), "the federation has max_nodes nodes")));
}

#[test]
fn a_mailbox_registers_once_with_a_home_that_has_started() {
    let mut world = World::builder().params(|params| params.max_mailboxes_per_node = 3).build();
    let registered = Invalid::Registered { mailbox: world.mailbox(0), home: world.node(0) };
    assert_eq!(why_not(&world, records(vec![world.registration(0)])), registered);
    let elsewhere = world.registration_at(&world.mailboxes[0].clone(), 1);
    assert_eq!(why_not(&world, records(vec![elsewhere])), registered);
    // Two are at each node; one more fits.
    let (third, fourth) = (world.registration_at(&key("third"), 1), world.registration_at(&key("fourth"), 1));
    let reason = "it has max_mailboxes_per_node mailboxes";
    let full = Invalid::NotAdmitted { node: world.node(1), reason };
    assert_eq!(why_not(&world, records(vec![third.clone(), fourth])), full);
    world.cut(records(vec![third]));
    assert_eq!(world.state.node(&world.node(1)).unwrap().mailboxes, 3);

    let world = World::builder().unborn();
    let unknown = Invalid::UnknownNode { node: world.node(1) };
    assert_eq!(why_not(&world, records(vec![world.registration(1)])), unknown);
    let body = records(vec![world.node_record(1, 1), world.registration(1)]);
    assert_eq!(why_not(&world, body), unknown, "joined, but not started");
}

// Fills.

#[test]
fn a_fill_is_the_destinations_own_receipt_for_what_is_pending() {
    let mut world = World::builder().build();
    let batch = mail(&mut world, 0, &[2]);
    let fill = |world: &World, holder: usize, change: &dyn Fn(&mut ReceiptItem)| {
        let mut item = world.item(&batch, 0, None);
        change(&mut item);
        let fills = vec![world.receipt(holder, item)];
        world.draft(CutBody { fills, ..CutBody::default() }).map(drop)
    };
    assert_eq!(fill(&world, 2, &|_| {}), Err(Invalid::NotPending), "before the header is included");
    let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
    let request = sealed.custody[0].request.as_ref().unwrap().digest(&world.federation);
    world.include(vec![sealed]);
    let key = PendingKey { destination: world.node(2), header: batch.digest };
    let pending = world.state.pending(&key).unwrap();
    assert_eq!(pending.holders, [world.node(1), world.node(3)]);
    assert_eq!((pending.epoch, pending.position, pending.origin), (2, 0, world.node(0)));

    assert_eq!(fill(&world, 2, &|_| {}), Ok(()));
    assert_eq!(fill(&world, 1, &|_| {}), Err(Invalid::NotPending), "a custodian's");
    assert_eq!(fill(&world, 2, &|item| item.slice = Digest::ZERO), Err(Invalid::NotPending));
    assert_eq!(fill(&world, 2, &|item| item.header = Digest::ZERO), Err(Invalid::NotPending));
    assert_eq!(fill(&world, 2, &|item| item.destination = world.node(1)), Err(Invalid::NotPending));
    assert_eq!(fill(&world, 2, &|item| item.request = Some(request)), Err(Invalid::NotPending));
    let refused = RefusedLeaf { index: 0, mailbox: world.mailbox(2), reason: LeafRefusal::Full };
    assert_eq!(fill(&world, 2, &|item| item.refused = vec![refused.clone()]), Ok(()));
    let fills = vec![world.fill(&batch, 2); 2];
    assert_eq!(why_not(&world, CutBody { fills, ..CutBody::default() }), Invalid::NotPending, "twice in one cut");

    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    assert_eq!(world.state.pending(&key), None);
    assert_eq!(fill(&world, 2, &|_| {}), Err(Invalid::NotPending), "twice");
    let entry = world.log(2)[0];
    assert!(entry.is_late());
    assert_eq!((entry.settled, entry.seq.epoch), (3, 2));
}

// Headers.

#[test]
fn a_header_follows_the_last_included_one_of_its_origin() {
    let mut world = World::builder().build();
    let refused = Err(Invalid::Chain { origin: world.node(1) });
    let first = empty(&mut world, 1, 1, |_| {});
    let sibling = empty(&mut world, 1, 1, |header| header.number = 2);
    let check = |world: &World, sealed: &Verified<Sealed>| world.draft(headers(vec![sealed.clone()])).map(drop);
    let ahead = empty(&mut world, 1, 1, |header| header.previous = Digest([1; 32]));
    assert_eq!(check(&world, &ahead), refused);
    assert_eq!(check(&world, &first), Ok(()));
    assert_eq!(check(&world, &sibling), Ok(()));
    assert_eq!(world.draft(headers(vec![first.clone(), sibling.clone()])).map(drop), refused);
    world.include(vec![first.clone()]);
    assert_eq!(check(&world, &first), refused, "again");
    assert_eq!(check(&world, &sibling), refused, "only one of two siblings");
    for number in [0, 1] {
        let stuck = empty(&mut world, 1, 2, |header| header.number = number);
        assert_eq!(check(&world, &stuck), refused, "the number does not rise");
    }
    let next = empty(&mut world, 1, 2, |header| header.number = 9);
    assert_eq!(check(&world, &next), Ok(()), "numbers may leave gaps");
}

#[test]
fn a_chain_of_headers_can_be_included_in_one_cut() {
    let mut world = World::builder().build();
    let first = empty(&mut world, 1, 1, |_| {});
    let digest = first.digest(&world.federation);
    let second = empty(&mut world, 1, 2, |header| {
        header.previous = digest;
        header.number = 2;
    });
    let refused = Invalid::Chain { origin: world.node(1) };
    assert_eq!(why_not(&world, headers(vec![second.clone(), first.clone()])), refused);
    world.include(vec![first, second.clone()]);
    let last = world.state.node(&world.node(1)).unwrap().last_header.unwrap();
    assert_eq!((last.number, last.digest), (2, second.digest(&world.federation)));
}

#[test]
fn a_routing_epoch_is_settled_and_at_most_w_old() {
    const W: u64 = 8;
    let mut world = World::builder()
        .params(|params| {
            params.routing_window_epochs = W;
            params.validity_epochs = 4 * W;
        })
        .build();
    world.idle(19);
    // The cut in the making is 21.
    for (routing_epoch, lawful) in [(0, false), (12, false), (13, true), (20, true), (21, false), (u64::MAX, false)] {
        let sealed = empty(&mut world, 1, 1, |header| header.routing_epoch = routing_epoch);
        let found = world.draft(headers(vec![sealed])).map(drop);
        let refused = Invalid::RoutingEpoch { routing_epoch, from: 21 - W, to: 20 };
        assert_eq!(found, if lawful { Ok(()) } else { Err(refused) }, "epoch {routing_epoch}");
    }
    // Sealed at 20, a header can be included up to cut 28.
    let waiting = empty(&mut world, 1, 1, |_| {});
    world.idle(W - 1);
    assert_eq!(world.draft(headers(vec![waiting.clone()])).unwrap().0.certified.header.epoch, 28);
    world.idle(1);
    let refused = Invalid::RoutingEpoch { routing_epoch: 20, from: 21, to: 28 };
    assert_eq!(why_not(&world, headers(vec![waiting])), refused);
}

#[test]
fn a_routing_epoch_does_not_fall_along_the_chain() {
    let mut world = World::builder().build();
    world.idle(5);
    let sealed = empty(&mut world, 1, 1, |header| header.routing_epoch = 4);
    world.include(vec![sealed]);
    for (routing_epoch, lawful) in [(3, false), (4, true), (7, true)] {
        let sealed = empty(&mut world, 1, 2, |header| header.routing_epoch = routing_epoch);
        let found = world.draft(headers(vec![sealed])).map(drop);
        let refused = Invalid::RoutingEpoch { routing_epoch, from: 4, to: 7 };
        assert_eq!(found, if lawful { Ok(()) } else { Err(refused) }, "epoch {routing_epoch}");
    }
    let other = empty(&mut world, 2, 1, |header| header.routing_epoch = 3);
    assert!(world.draft(headers(vec![other])).is_ok(), "each chain for itself");
}

#[test]
fn attestation_numbers_rise() {
    let mut world = World::builder().build();
    let sealed = empty(&mut world, 1, 5, |_| {});
    world.include(vec![sealed]);
    let anchored = world.state.node(&world.node(1)).unwrap().last_attestation.unwrap();
    assert_eq!((anchored.attestation.number, anchored.epoch), (5, 2));
    for number in [0, 4, 5] {
        let sealed = empty(&mut world, 1, number, |_| {});
        let refused = Invalid::AttestationNumber { node: world.node(1), number };
        assert_eq!(why_not(&world, headers(vec![sealed])), refused);
    }
    let sealed = empty(&mut world, 1, 8, |_| {});
    assert!(world.draft(headers(vec![sealed])).is_ok());
}

#[test]
fn a_cut_has_at_most_as_many_headers_as_genesis_allows() {
    let mut world = World::builder().params(|params| params.max_cut_headers = 2).build();
    let sealed: Vec<_> = (0..3).map(|node| empty(&mut world, node, 1, |_| {})).collect();
    assert!(world.draft(headers(sealed[..2].to_vec())).is_ok());
    assert_eq!(why_not(&world, headers(sealed)), Invalid::Full);
}

#[test]
fn nodes_that_have_not_started_neither_seal_nor_hold_nor_receive() {
    // Node 3 has joined, but not started; node 4 is unknown.
    let mut world = World::builder().nodes(5).unborn();
    let mut joining: Vec<_> = (0..4).map(|node| world.node_record(node, 1)).collect();
    joining.extend((0..3).map(|node| world.start(node, 1)));
    joining.push(world.registration_at(&world.mailboxes[0].clone(), 0));
    joining.push(world.registration_at(&world.mailboxes[1].clone(), 1));
    world.cut(records(joining));
    for node in [3, 4] {
        let unknown = Invalid::UnknownNode { node: world.node(node) };
        let sealed = empty(&mut world, node, 1, |_| {});
        assert_eq!(why_not(&world, headers(vec![sealed])), unknown, "seals");
        let batch = mail(&mut world, 0, &[1]);
        let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![2, node]));
        assert_eq!(why_not(&world, headers(vec![sealed])), unknown, "holds");
        let away = world.node(node);
        let mut batch = mail(&mut world, 0, &[1]);
        let mut header = batch.header.body.clone();
        header.slices[0].destination = away;
        batch.header = world.check(world.sign(header, &world.nodes[0]));
        batch.digest = batch.header.digest(&world.federation);
        let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 2]));
        assert_eq!(why_not(&world, headers(vec![sealed])), unknown, "receives");
    }
}

#[test]
fn receipts_count_in_incarnations_that_have_been() {
    let mut world = World::builder().build();
    world.cut(records(vec![world.start(1, 2)]));
    let batch = mail(&mut world, 0, &[1]);
    for (incarnation, lawful) in [(0, false), (1, true), (2, true), (3, false), (u64::MAX, false)] {
        let item = world.item(&batch, 0, None);
        let receipts = sign_receipts(vec![item], incarnation, &world.nodes[1], &world.federation);
        let receipts = receipts.into_iter().map(Verified::into_inner).collect();
        let custody = vec![Custody { request: None, receipts }];
        let sealed = world.check(Sealed { header: batch.header.clone().into_inner(), custody });
        let found = world.draft(headers(vec![sealed])).map(drop);
        let unknown = Invalid::UnknownNode { node: world.node(1) };
        assert_eq!(found, if lawful { Ok(()) } else { Err(unknown) }, "incarnation {incarnation}");
    }
}

#[test]
fn custody_that_is_not_complete_is_refused_even_unverified() {
    let mut world = World::builder().build();
    let batch = mail(&mut world, 0, &[1]);
    let mut sealed = world.held(&batch).into_inner();
    sealed.custody[0].receipts.clear();
    let mut draft = Draft::new(&world.state, world.state.time_ms + 25, &world.federation);
    let refused = VerifyError::Malformed { kind: "custody", reason: "no receipt" };
    assert_eq!(draft.header(&Verified::from_own_disk(sealed)), Err(Invalid::Custody(refused)));
}

#[test]
fn every_reason_says_what_is_wrong() {
    let node = key("node 0").public();
    let reasons = [
        Invalid::Epoch { expected: 3, found: 5 },
        Invalid::Previous { epoch: 3 },
        Invalid::Time { epoch: 3 },
        Invalid::StateRoot { epoch: 3 },
        Invalid::Full,
        Invalid::UnknownNode { node },
        Invalid::NotAdmitted { node, reason: "why" },
        Invalid::Stale { what: "start", node },
        Invalid::Registered { mailbox: node, home: node },
        Invalid::NotPending,
        Invalid::Chain { origin: node },
        Invalid::RoutingEpoch { routing_epoch: 1, from: 2, to: 3 },
        Invalid::AttestationNumber { node, number: 4 },
        Invalid::Age { epoch: 3, expected: 4, found: 5 },
        Invalid::AttestationEpoch { node, epoch: 4 },
        Invalid::Lapsed { node },
        Invalid::TooManyPending { origin: node },
        Invalid::Challenge { reason: "why" },
        Invalid::Custody(VerifyError::Path { what: "receipt" }),
    ];
    let texts: std::collections::BTreeSet<String> = reasons.iter().map(Invalid::to_string).collect();
    assert_eq!(texts.len(), reasons.len());
    assert!(texts.contains("cut 3 follows another cut 2"));
}
