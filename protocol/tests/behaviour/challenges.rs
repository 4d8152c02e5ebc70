//! Challenges, overdue slices, losses and lapses (rules 9 to 11), by inputs and outputs of `apply`.

use postroad_protocol::batch::AttestationRef;
use postroad_protocol::challenge::{Challenge, Lost};
use postroad_protocol::cut::CutBody;
use postroad_protocol::record::Record;
use postroad_protocol::state::{Invalid, MAX_ROUNDS, PendingKey, Reason, StateKey, Suspicion};
use postroad_protocol::{Digest, Verified};

use crate::common::{Batch, Hold, World};

/// Nodes 0 to 6; a message of node 0 for a mailbox of node 2, which nodes 1 and 3 hold for it.
fn owing(change: impl FnOnce(&mut postroad_protocol::Params)) -> (World, Batch, PendingKey) {
    let mut world = World::builder().nodes(7).mailboxes(7).params(change).build();
    let message = world.message("mail", &[2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
    world.include(vec![sealed]);
    let key = PendingKey { destination: world.node(2), header: batch.digest };
    (world, batch, key)
}

fn challenge(world: &World, key: &PendingKey, round: u32) -> Record {
    let body = Challenge { destination: key.destination, header: key.header, round };
    Record::Challenge(world.sign(body, world.secret(&key.destination)))
}

fn lost(world: &World, key: &PendingKey, holder: usize) -> Record {
    let body = Lost { holder: world.node(holder), destination: key.destination, header: key.header };
    Record::Lost(world.sign(body, world.secret(&world.node(holder))))
}

fn answer(world: &World, batch: &Batch, key: &PendingKey, witness: usize) -> Record {
    let challenge = world.state.challenge(key).map(|challenged| challenged.challenge);
    Record::Answer(Box::new(world.receipt(witness, world.item(batch, 0, challenge))))
}

fn settle(world: &mut World, record: Record) -> Result<(), Invalid> {
    let body = CutBody { records: vec![record], ..CutBody::default() };
    world.draft(body.clone())?;
    world.cut(body);
    Ok(())
}

fn wait(world: &mut World, ms: u64) {
    let step = 2 * world.federation.params().heartbeat_ms;
    let before = std::mem::replace(&mut world.step_ms, step);
    world.idle(ms.div_ceil(step));
    world.step_ms = before;
}

fn witness(world: &World, key: &PendingKey) -> usize {
    let first = world.state.witnesses(key)[0];
    (0..7).find(|node| world.node(*node) == first).unwrap()
}

fn no(reason: &'static str) -> Result<(), Invalid> {
    Err(Invalid::Challenge { reason })
}

#[test]
fn a_witness_answers_and_becomes_a_holder() {
    let (mut world, batch, key) = owing(|_| {});
    let record = challenge(&world, &key, 0);
    assert_eq!(settle(&mut world, record.clone()), Ok(()));
    assert_eq!(settle(&mut world, record), no("the slice is challenged already"));
    let suspects: Vec<_> = world.state.suspicions(&world.federation).iter().map(|found| found.node).collect();
    assert_eq!(suspects, [world.node(1), world.node(3), world.node(0)], "its holders and its origin");

    // Who is a party, and who is not among the first three by hash, cannot witness.
    let eligible = world.state.witnesses(&key);
    assert_eq!(eligible.len(), 3);
    for node in 0..7 {
        let record = answer(&world, &batch, &key, node);
        let body = CutBody { records: vec![record], ..CutBody::default() };
        assert_eq!(world.draft(body).is_ok(), eligible.contains(&world.node(node)), "node {node}");
        assert!(![0, 1, 2, 3].contains(&node) || !eligible.contains(&world.node(node)));
    }
    // A receipt under another challenge, or under none, is no answer.
    let first = witness(&world, &key);
    for request in [None, Some(Digest([7; 32]))] {
        let record = Record::Answer(Box::new(world.receipt(first, world.item(&batch, 0, request))));
        assert_eq!(settle(&mut world, record), no("the receipt is not for the challenged slice"));
    }
    let record = answer(&world, &batch, &key, first);
    assert_eq!(settle(&mut world, record.clone()), Ok(()));
    assert_eq!(settle(&mut world, record), no("nothing is challenged that it answers"));
    assert!(world.state.suspicions(&world.federation).is_empty());
    assert_eq!(world.state.pending(&key).unwrap().holders.last(), Some(&world.node(first)));

    // The destination owes the fill within C.
    let owed_ms = world.federation.params().challenge_ms;
    wait(&mut world, owed_ms + 2_000);
    let since = world.state.pending(&key).unwrap().answered.unwrap().0;
    let unfilled = Suspicion { node: world.node(2), reason: Reason::Unfilled, since, slice: Some(key) };
    assert_eq!(world.state.suspicions(&world.federation), [unfilled]);
    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    assert!(world.state.suspicions(&world.federation).is_empty());
}

/// A destination that neither signs for what waits for it nor asks for it cannot be convicted: it is named in public.
#[test]
fn a_destination_that_lets_a_slice_lie_is_suspected_until_it_fills_or_asks() {
    let (mut world, batch, key) = owing(|_| {});
    let owed_ms = world.federation.params().challenge_ms;
    let since = world.state.pending(&key).unwrap().epoch;
    wait(&mut world, 2 * owed_ms - 2_000);
    assert!(world.state.suspicions(&world.federation).is_empty());
    wait(&mut world, 4_000);
    let unfilled = Suspicion { node: world.node(2), reason: Reason::Unfilled, since, slice: Some(key) };
    assert_eq!(world.state.suspicions(&world.federation), [unfilled]);
    let before = world.state.clone();
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    let suspects: Vec<_> = world.state.suspicions(&world.federation).iter().map(|found| found.node).collect();
    assert!(!suspects.contains(&world.node(2)), "it has asked");
    world.state = before;
    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    assert!(world.state.suspicions(&world.federation).is_empty());
}

/// Rule 9: one attacker names its own nodes as custodians, hands over nothing, and a home stands still for ever.
#[test]
fn without_an_answer_a_slice_is_overdue_and_stays_so_until_its_fill() {
    let (mut world, batch, key) = owing(|_| {});
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    let owed_ms = world.federation.params().challenge_ms;
    wait(&mut world, owed_ms - 2_000);
    assert!(!world.state.is_overdue(&key, &world.federation));
    wait(&mut world, 4_000);
    assert!(world.state.is_overdue(&key, &world.federation));
    let late = answer(&world, &batch, &key, witness(&world, &key));
    assert_eq!(settle(&mut world, late), no("the slice is overdue; only its fill ends that"));
    assert_eq!(world.state.suspicions(&world.federation).len(), 3);
    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    assert!(world.state.challenge(&key).is_none() && world.state.suspicions(&world.federation).is_empty());
}

/// Rule 11: the sequencer is away for a day, and its first cut makes nothing overdue and nobody lapsed.
#[test]
fn a_sequencer_that_was_away_ends_no_deadline() {
    let (mut world, _, key) = owing(|_| {});
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    world.step_ms = 24 * 3_600 * 1_000;
    world.idle(1);
    assert!(!world.state.is_overdue(&key, &world.federation));
    assert!(world.state.nodes().all(|(_, node)| node.lapsed.is_none()));
}

#[test]
fn a_slice_that_all_have_lost_is_overdue_at_once() {
    let (mut world, _, key) = owing(|_| {});
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    let stranger = lost(&world, &key, 4);
    assert_eq!(settle(&mut world, stranger), no("it is no holder of the slice, or has said so before"));
    for holder in [1, 3, 0] {
        assert!(!world.state.is_overdue(&key, &world.federation));
        let record = lost(&world, &key, holder);
        assert_eq!(settle(&mut world, record.clone()), Ok(()));
        assert_eq!(settle(&mut world, record), no("it is no holder of the slice, or has said so before"));
    }
    assert!(world.state.is_overdue(&key, &world.federation));
    assert!(world.state.suspicions(&world.federation).is_empty(), "who has spoken is not suspected");
}

#[test]
fn a_destination_may_say_that_it_lost_what_it_signed_for() {
    let (mut world, batch, key) = owing(|_| {});
    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    let others = lost(&world, &key, 1);
    assert_eq!(settle(&mut world, others), no("the slice is not pending"));
    let own = lost(&world, &key, 2);
    assert_eq!(settle(&mut world, own), Ok(()));
    // Nothing shows that it ever had them, so one cut takes a few only.
    let unheard = |header: u8| PendingKey { header: Digest([header; 32]), ..key };
    let records = |count: u8| (0..count).map(|header| lost(&world, &unheard(header), 2)).collect();
    let settles = |records| world.draft(CutBody { records, ..CutBody::default() }).map(drop);
    assert_eq!(settles(records(8)), Ok(()));
    assert_eq!(settles(records(9)), no("its holder has lost as many slices as one cut settles"));
}

/// A home that says so is cleared of having dropped the mail, for as long as it could be accused of that.
#[test]
fn the_state_remembers_what_its_destination_has_lost_until_retention() {
    let (mut world, batch, key) = owing(|params| params.retention_ms = 200_000);
    world.cut(CutBody { fills: vec![world.fill(&batch, 2)], ..CutBody::default() });
    assert_eq!(world.state.lost(&key), None);
    let own = lost(&world, &key, 2);
    settle(&mut world, own.clone()).unwrap();
    let epoch = world.state.epoch;
    assert_eq!(world.state.lost(&key).map(|lost| lost.epoch), Some(epoch));
    assert_eq!(world.state.node(&world.node(2)).map(|node| node.lost), Some(1));
    assert_eq!(settle(&mut world, own), no("its destination has said so before"));
    wait(&mut world, 202_000);
    assert!(world.state.lost(&key).is_some());
    world.step_ms = 1;
    world.idle(512 - world.state.epoch);
    assert_eq!(world.state.lost(&key), None);
    assert_eq!(world.state.node(&world.node(2)).map(|node| node.lost), Some(0));
}

/// Colluding witnesses answer every time, and hand nothing out: a home must not stand still for that either.
#[test]
fn a_slice_that_was_answered_for_in_vain_is_overdue_in_the_end() {
    let (mut world, batch, key) = owing(|params| params.retention_ms = 200_000);
    for round in 0..MAX_ROUNDS {
        let record = challenge(&world, &key, round);
        settle(&mut world, record).unwrap();
        let record = answer(&world, &batch, &key, witness(&world, &key));
        settle(&mut world, record).unwrap();
    }
    assert!(!world.state.is_overdue(&key, &world.federation), "its destination has time to fetch it");
    wait(&mut world, 62_000);
    assert!(world.state.is_overdue(&key, &world.federation));
    wait(&mut world, 150_000);
    world.step_ms = 1;
    world.idle(512 - world.state.epoch);
    assert!(world.state.pending(&key).is_none(), "and leaves the state after retention like others");
}

/// 64 slices that nobody hands out must not keep the 65th from being challenged.
#[test]
fn what_is_overdue_does_not_count_against_the_quota() {
    let (mut world, _, key) = owing(|params| params.max_challenges_per_node = 1);
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    wait(&mut world, 62_000);
    let message = world.message("more", &[2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
    world.include(vec![sealed]);
    let second = PendingKey { header: batch.digest, ..key };
    let record = challenge(&world, &second, 0);
    assert_eq!(settle(&mut world, record), Ok(()));
}

#[test]
fn challenges_have_rounds_and_a_quota() {
    let (mut world, batch, key) = owing(|params| params.max_challenges_per_node = 1);
    let unknown = PendingKey { header: Digest([1; 32]), ..key };
    let record = challenge(&world, &unknown, 0);
    assert_eq!(settle(&mut world, record), no("the slice is not pending"));
    for round in 0..MAX_ROUNDS {
        let wrong = challenge(&world, &key, round + 1);
        assert_eq!(settle(&mut world, wrong), no("its round is not the number of answers that the slice has had"));
        let record = challenge(&world, &key, round);
        settle(&mut world, record).unwrap();
        let record = answer(&world, &batch, &key, witness(&world, &key));
        settle(&mut world, record).unwrap();
    }
    let record = challenge(&world, &key, MAX_ROUNDS);
    assert_eq!(settle(&mut world, record), no("the slice was answered for often enough"));

    // A second slice, and a third: one challenge at a time.
    let mut keys = Vec::new();
    for _ in 0..2 {
        let message = world.message("more", &[2]);
        let bundle = world.bundle(0, 0, vec![message]);
        let batch = world.seal(0, vec![bundle]);
        let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
        world.include(vec![sealed]);
        keys.push(PendingKey { header: batch.digest, ..key });
    }
    let record = challenge(&world, &keys[0], 0);
    settle(&mut world, record).unwrap();
    let record = challenge(&world, &keys[1], 0);
    assert_eq!(settle(&mut world, record), no("its destination has max_challenges_per_node open challenges"));
}

#[test]
fn pending_slices_of_an_origin_are_bounded() {
    let (mut world, first, _) = owing(|params| params.max_pending_per_origin = 1);
    let origin = world.node(0);
    assert_eq!(world.state.node(&origin).unwrap().pending, 1);
    let message = world.message("more", &[2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held_as(&batch, |_| Hold::Custodians(vec![1, 3]));
    let body = CutBody { headers: vec![sealed.clone().into_inner()], ..CutBody::default() };
    assert_eq!(world.draft(body).map(drop), Err(Invalid::TooManyPending { origin }));
    world.cut(CutBody { fills: vec![world.fill(&first, 2)], ..CutBody::default() });
    world.include(vec![sealed]);
    assert_eq!(world.state.node(&origin).unwrap().pending, 1);
}

#[test]
fn what_is_overdue_leaves_the_state_after_retention() {
    let (mut world, _, key) = owing(|params| params.retention_ms = 100_000);
    let record = challenge(&world, &key, 0);
    settle(&mut world, record).unwrap();
    wait(&mut world, 90_000);
    world.step_ms = 1;
    world.idle(512 - world.state.epoch);
    assert!(world.state.pending(&key).is_some(), "overdue, but within retention");
    wait(&mut world, 20_000);
    world.step_ms = 1;
    world.idle(768 - world.state.epoch);
    assert!(world.state.pending(&key).is_none() && world.state.challenge(&key).is_none());
    assert_eq!(world.state.node(&world.node(0)).unwrap().pending, 0);
    let touched = world.applied(world.cuts.len() - 1).touched;
    assert!(touched.contains(&StateKey::Pending(key)) && touched.contains(&StateKey::Challenge(key)));
}

/// An empty header of a node that anchors an attestation of `epoch`.
fn attestation(
    world: &mut World,
    node: usize,
    number: u64,
    epoch: u64,
) -> Verified<postroad_protocol::receipt::Sealed> {
    let batch = world.seal_with(node, Vec::new(), |header| {
        header.attestation = Some(AttestationRef { number, digest: Digest([number as u8; 32]), epoch });
    });
    world.held(&batch)
}

#[test]
fn a_node_that_does_not_keep_up_lapses_until_an_attestation_reaches_its_lapse() {
    let mut world = World::builder().nodes(4).mailboxes(4).params(|params| params.lapse_ms = 20_000).build();
    let lapsed = |world: &World| -> Vec<usize> {
        (0..4).filter(|node| world.state.node(&world.node(*node)).unwrap().lapsed.is_some()).collect()
    };
    wait(&mut world, 18_000);
    let epoch = world.state.epoch;
    // Node 1 attests what is there; node 2 something old, which does not reach its start.
    let sealed = vec![attestation(&mut world, 1, 1, epoch), attestation(&mut world, 2, 1, 0)];
    world.include(sealed);
    wait(&mut world, 4_000);
    assert_eq!(lapsed(&world), [0, 2, 3]);
    let since = world.state.node(&world.node(2)).unwrap().lapsed.unwrap();

    // Its receipts do not count, except under its own headers.
    let message = world.message("mail", &[2]);
    let bundle = world.bundle(1, 1, vec![message]);
    let to_lapsed = world.seal(1, vec![bundle]);
    let sealed = world.held(&to_lapsed);
    let body = CutBody { headers: vec![sealed.into_inner()], ..CutBody::default() };
    assert_eq!(world.draft(body).map(drop), Err(Invalid::Lapsed { node: world.node(2) }));
    let message = world.message("mail", &[2]);
    let bundle = world.bundle(2, 2, vec![message]);
    let own = world.seal(2, vec![bundle]);
    let sealed = world.held(&own);
    world.include(vec![sealed]);

    // An attestation from before the lapse does not end it, one that reaches it does.
    let sealed = vec![attestation(&mut world, 2, 2, since - 1)];
    world.include(sealed);
    assert_eq!(lapsed(&world), [0, 2, 3]);
    let sealed = vec![attestation(&mut world, 2, 3, since)];
    world.include(sealed);
    assert_eq!(lapsed(&world), [0, 3]);
    let suspicion = |node: usize| Suspicion { node: world.node(node), reason: Reason::Lapsed, since, slice: None };
    let mut found = world.state.suspicions(&world.federation);
    found.sort_by_key(|found| found.node);
    assert_eq!(found, [suspicion(0), suspicion(3)]);
}

#[test]
fn attestations_that_only_crawl_do_not_keep_a_node_from_lapsing() {
    let mut world = World::builder().nodes(2).mailboxes(2).params(|params| params.lapse_ms = 20_000).build();
    // One epoch further with every attestation, while the cuts run away.
    for number in 1..=12 {
        let sealed = vec![attestation(&mut world, 1, number, number)];
        world.include(sealed);
        wait(&mut world, 2_000);
        world.step_ms = 1;
        world.idle(20);
    }
    assert!(world.state.node(&world.node(1)).unwrap().lapsed.is_some());
}

#[test]
fn an_attestation_cannot_claim_what_no_cut_has_settled() {
    let mut world = World::builder().build();
    let epoch = world.state.epoch + 1;
    let sealed = attestation(&mut world, 1, 1, epoch);
    let body = CutBody { headers: vec![sealed.into_inner()], ..CutBody::default() };
    assert_eq!(world.draft(body).map(drop), Err(Invalid::AttestationEpoch { node: world.node(1), epoch }));
}
