//! Switches: who may move a mailbox, when it takes effect, and what a recovery key is for.

use postroad_protocol::Digest;
use postroad_protocol::cut::CutBody;
use postroad_protocol::digest::hash;
use postroad_protocol::moving::{Move, Switch};
use postroad_protocol::record::Record;
use postroad_protocol::state::{Draft, Invalid, MailboxState, Span, State, StateKey};

use super::{
    DELAY_MS, abandoned, age_to, attest, counts, guarded, known, move_to, refused, settle, signed, switch, switch_with,
    with, world,
};
use crate::common::key;

const NOT_IN_FORCE: &str = "the switch replaces a record that is not in force (any more)";
const WAITS: &str = "another switch waits for its delay";

#[test]
fn a_switch_takes_effect_in_its_cut() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    let before = known(&world, &mailbox);
    let order = switch(&world, &owner, 1);
    let record = order.digest(&world.federation);
    let order = signed(&world, order);
    settle(&mut world, vec![order]).unwrap();
    let epoch = world.state.epoch;
    let after = known(&world, &mailbox);
    assert_eq!((after.home, after.since, after.record), (world.node(1), epoch, record));
    assert_eq!((after.registered, after.encryption_key), (before.registered, before.encryption_key));
    let moved = after.moved.clone().unwrap();
    let span = Span { node: world.node(0), since: 1, until: epoch, complete: Some(1) };
    assert_eq!((moved.spans, moved.switch, moved.import), (vec![span], record, None));
    assert_eq!(counts(&world), [0, 2, 1, 1]);

    // To whom an epoch belongs.
    assert!(after.owes(&world.node(1), epoch) && !after.owes(&world.node(1), epoch - 1));
    assert!(!after.owes(&world.node(0), epoch - 1));
    assert!(after.lived(&world.node(0), 1, epoch - 1) && !after.lived(&world.node(0), 1, epoch));
    assert!(after.lived(&world.node(1), epoch, epoch + 9) && !after.lived(&world.node(1), epoch - 1, epoch));
    let moved = after.moved.unwrap();
    assert_eq!(moved.span_of(&world.node(0), epoch - 1), Some(0));
    assert_eq!(moved.span_of(&world.node(0), epoch), None);
    assert_eq!(moved.span_of(&world.node(1), epoch - 1), None);
}

#[test]
fn the_first_switch_in_a_cut_wins() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let (one, two) = (switch(&world, &owner, 1), switch(&world, &owner, 2));
    let (one, two) = (signed(&world, one), signed(&world, two));
    assert_eq!(settle(&mut world, vec![one.clone(), two.clone()]), refused(owner.public(), NOT_IN_FORCE));
    settle(&mut world, vec![one.clone()]).unwrap();
    assert_eq!(settle(&mut world, vec![two]), refused(owner.public(), NOT_IN_FORCE));
    // Nor does a record settle twice, also after the mailbox has come back.
    move_to(&mut world, &owner, 0);
    assert_eq!(settle(&mut world, vec![one]), refused(owner.public(), NOT_IN_FORCE));
    assert_eq!(counts(&world), [1, 1, 1, 1]);
}

#[test]
fn abandoning_kills_whatever_replaces_the_same_record() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    let (one, two) = (switch(&world, &owner, 1), switch(&world, &owner, 2));
    let (one, two) = (signed(&world, one), signed(&world, two));
    let stay = abandoned(switch(&world, &owner, 0));
    let before = known(&world, &mailbox);
    settle(&mut world, vec![stay.clone()]).unwrap();
    let after = known(&world, &mailbox);
    assert_ne!(after.record, before.record);
    assert_eq!(MailboxState { record: before.record, ..after }, before, "nothing else has changed");
    for record in [one, two, stay] {
        assert_eq!(settle(&mut world, vec![record]), refused(mailbox, NOT_IN_FORCE));
    }
    move_to(&mut world, &owner, 1);
}

#[test]
fn switches_are_refused() {
    let mut world = with(|params| params.max_mailboxes_per_node = 2);
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    let fed = world.federation.clone();
    let stranger = key("stranger");
    let order = |home: usize| Switch {
        mailbox: stranger.public(),
        replaces: Digest::ZERO,
        home: world.node(home),
        recovery_key: None,
    };
    let record = signed(&world, Move::new(order(1)).by_device(&stranger, &fed));
    assert_eq!(settle(&mut world, vec![record]), refused(stranger.public(), "it is not registered"));

    let record = abandoned(switch(&world, &owner, 1));
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, "the new home has not signed the switch"));

    let record = signed(&world, switch(&world, &owner, 0));
    let reason = "a switch to the present home needs no signature of it";
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, reason));

    // A recovery key that the mailbox does not have, as what is signed and as who signs.
    let posing = key("recovery");
    let named = switch_with(&world, &mailbox, 1, |switch| switch.recovery_key = Some(posing.public()));
    let record = signed(&world, named.by_device(&owner, &fed));
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, "only the recovery key can change the recovery key"));
    let record = signed(&world, switch(&world, &owner, 1).by_recovery(&posing, &fed));
    let reason = "the recovery key that signed the switch is not the mailbox's";
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, reason));

    // The new home: known, started, not lapsed, and with room.
    let nobody = key("node that never joined");
    let order = switch_with(&world, &mailbox, 1, |switch| switch.home = nobody.public()).by_device(&owner, &fed);
    let record = Record::Move(Box::new(world.check(order).co_sign(&nobody, &fed).into_inner()));
    assert_eq!(settle(&mut world, vec![record]), Err(Invalid::UnknownNode { node: nobody.public() }));
    let other = world.mailboxes[2].clone();
    move_to(&mut world, &other, 1);
    let record = signed(&world, switch(&world, &owner, 1));
    let reason = "it has max_mailboxes_per_node mailboxes";
    let full = Err(Invalid::NotAdmitted { node: world.node(1), reason });
    assert_eq!(settle(&mut world, vec![record.clone()]), full);
    move_to(&mut world, &other, 3);
    settle(&mut world, vec![record]).unwrap();
}

#[test]
fn no_mailbox_moves_to_a_node_that_has_lapsed_and_all_may_leave_it() {
    let mut world = world();
    let (owner, leaver) = (world.mailboxes[0].clone(), world.mailboxes[1].clone());
    let lapse = world.state.age_ms + world.federation.params().lapse_ms;
    age_to(&mut world, lapse - 1_000);
    for node in [0, 2, 3] {
        attest(&mut world, node);
    }
    age_to(&mut world, lapse + 2_000);
    assert!(world.state.node(&world.node(1)).unwrap().lapsed.is_some());
    let record = signed(&world, switch(&world, &owner, 1));
    assert_eq!(settle(&mut world, vec![record]), Err(Invalid::Lapsed { node: world.node(1) }));
    move_to(&mut world, &leaver, 2);
}

// Recovery keys.

#[test]
fn a_switch_without_the_recovery_key_waits() {
    let mut world = world();
    let (owner, _) = guarded(&mut world);
    let mailbox = owner.public();
    let before = known(&world, &mailbox);
    let order = switch(&world, &owner, 1);
    let digest = order.digest(&world.federation);
    let record = signed(&world, order);
    settle(&mut world, vec![record.clone()]).unwrap();
    assert_eq!(known(&world, &mailbox), before, "nothing has changed");
    let due = world.state.age_ms + DELAY_MS;
    let waiting = *world.state.delayed(&mailbox).unwrap();
    assert_eq!((waiting.record, waiting.home, waiting.due_age_ms), (digest, world.node(1), due));
    assert!(world.state.value(&StateKey::Move(mailbox)).is_some());

    let other = signed(&world, switch(&world, &owner, 2));
    assert_eq!(settle(&mut world, vec![other]), refused(mailbox, WAITS));
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, WAITS));
    age_to(&mut world, due - 1);
    assert_eq!(known(&world, &mailbox).home, world.node(0));
    world.step_ms = 1;
    world.idle(1);
    let after = known(&world, &mailbox);
    assert_eq!((after.home, after.since, after.record), (world.node(1), world.state.epoch, digest));
    assert_eq!((world.state.delayed(&mailbox), world.state.age_ms), (None, due));
    assert_eq!(counts(&world), [1, 2, 1, 1]);
}

#[test]
fn a_due_switch_comes_before_the_records_of_its_cut() {
    let mut world = world();
    let (owner, _) = guarded(&mut world);
    let mailbox = owner.public();
    let record = signed(&world, switch(&world, &owner, 1));
    settle(&mut world, vec![record]).unwrap();
    let stay = abandoned(switch(&world, &owner, 0));
    let due = world.state.age_ms + DELAY_MS;
    age_to(&mut world, due - 1);
    let early = world.draft(CutBody { records: vec![stay.clone()], ..CutBody::default() });
    assert_eq!(early.map(drop), refused(mailbox, NOT_IN_FORCE), "the switch has taken effect before it");
    world.step_ms = 1;
    assert!(world.state.delayed(&mailbox).is_some());
    settle(&mut world, vec![]).unwrap();
    assert_eq!(known(&world, &mailbox).home, world.node(1));
}

#[test]
fn the_device_abandons_what_waits() {
    let mut world = world();
    let (owner, _) = guarded(&mut world);
    let mailbox = owner.public();
    let order = signed(&world, switch(&world, &owner, 1));
    settle(&mut world, vec![order.clone()]).unwrap();
    let stay = abandoned(switch(&world, &owner, 0));
    settle(&mut world, vec![stay]).unwrap();
    assert_eq!(world.state.delayed(&mailbox), None);
    assert_eq!(settle(&mut world, vec![order]), refused(mailbox, NOT_IN_FORCE));
    let later = world.state.age_ms + 2 * DELAY_MS;
    age_to(&mut world, later);
    assert_eq!(known(&world, &mailbox).home, world.node(0));
    assert_eq!(counts(&world), [2, 1, 1, 1]);
}

#[test]
fn the_recovery_key_moves_at_once_and_overrides_what_waits() {
    for waiting in [false, true] {
        let mut world = world();
        let (owner, recovery) = guarded(&mut world);
        let mailbox = owner.public();
        if waiting {
            let record = signed(&world, switch(&world, &owner, 1));
            settle(&mut world, vec![record]).unwrap();
        }
        let order = switch_with(&world, &mailbox, 2, |_| {}).by_recovery(&recovery, &world.federation);
        let record = signed(&world, order);
        settle(&mut world, vec![record]).unwrap();
        assert_eq!((known(&world, &mailbox).home, world.state.delayed(&mailbox)), (world.node(2), None));
        let later = world.state.age_ms + 2 * DELAY_MS;
        age_to(&mut world, later);
        assert_eq!(known(&world, &mailbox).home, world.node(2), "what waited is gone for good");
        assert_eq!(counts(&world), [1, 1, 2, 1]);
    }
}

#[test]
fn only_the_recovery_key_changes_itself() {
    let mut world = world();
    let (owner, recovery) = guarded(&mut world);
    let (mailbox, fed) = (owner.public(), world.federation.clone());
    let next = key("next recovery");
    for home in [0, 1] {
        for to in [None, Some(next.public())] {
            let order = switch_with(&world, &mailbox, home, |switch| switch.recovery_key = to).by_device(&owner, &fed);
            let record = if home == 0 { abandoned(order) } else { signed(&world, order) };
            let reason = "only the recovery key can change the recovery key";
            assert_eq!(settle(&mut world, vec![record]), refused(mailbox, reason));
        }
    }
    // In place; then with a move, after which the old one has no say; then away.
    let order = switch_with(&world, &mailbox, 0, |switch| switch.recovery_key = Some(next.public()));
    settle(&mut world, vec![abandoned(order.by_recovery(&recovery, &fed))]).unwrap();
    assert_eq!(known(&world, &mailbox).recovery_key, Some(next.public()));
    let order = switch_with(&world, &mailbox, 1, |_| {}).by_recovery(&recovery, &fed);
    let reason = "the recovery key that signed the switch is not the mailbox's";
    let record = signed(&world, order);
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, reason));
    let order = switch_with(&world, &mailbox, 1, |switch| switch.recovery_key = Some(recovery.public()));
    let record = signed(&world, order.by_recovery(&next, &fed));
    settle(&mut world, vec![record]).unwrap();
    assert_eq!(known(&world, &mailbox).recovery_key, Some(recovery.public()));
    let order = switch_with(&world, &mailbox, 1, |switch| switch.recovery_key = None);
    settle(&mut world, vec![abandoned(order.by_recovery(&recovery, &fed))]).unwrap();
    assert_eq!((known(&world, &mailbox).recovery_key, known(&world, &mailbox).recovered), (None, None));
    move_to(&mut world, &owner, 2);
}

/// A thief with the device's key replaces the record in every cut. What the recovery key signed against any of them, or
/// before the first, settles all the same; and only once.
#[test]
fn a_thief_cannot_outrun_the_recovery_key() {
    let mut world = world();
    let (owner, recovery) = guarded(&mut world);
    let (mailbox, fed) = (owner.public(), world.federation.clone());
    let rescue = switch_with(&world, &mailbox, 2, |_| {}).by_recovery(&recovery, &fed);
    let rescue = signed(&world, rescue);
    for round in 0..6 {
        let record = match round % 2 {
            0 => signed(&world, switch(&world, &owner, 1)),
            _ => abandoned(switch(&world, &owner, 0)),
        };
        settle(&mut world, vec![record]).unwrap();
    }
    let before = known(&world, &mailbox);
    assert_eq!(before.last_recovered(), before.recovered.unwrap());
    assert_ne!(before.last_recovered(), before.record);
    // In the same cut, after yet another one.
    let theft = abandoned(switch(&world, &owner, 0));
    settle(&mut world, vec![theft, rescue.clone()]).unwrap();
    let after = known(&world, &mailbox);
    assert_eq!((after.home, after.recovered, after.last_recovered()), (world.node(2), None, after.record));
    assert_eq!(settle(&mut world, vec![rescue]), refused(mailbox, NOT_IN_FORCE));
    // The device cannot name that older record.
    let stay = abandoned(switch(&world, &owner, 2));
    settle(&mut world, vec![stay]).unwrap();
    let recovered = known(&world, &mailbox).last_recovered();
    let order = switch_with(&world, &mailbox, 3, |switch| switch.replaces = recovered);
    let record = signed(&world, order.clone().by_device(&owner, &fed));
    assert_eq!(settle(&mut world, vec![record]), refused(mailbox, NOT_IN_FORCE));
    let record = signed(&world, order.by_device(&owner, &fed).by_recovery(&recovery, &fed));
    settle(&mut world, vec![record]).unwrap();
    assert_eq!(known(&world, &mailbox).home, world.node(3));
}

/// Whoever takes the recovery key's signature off a switch and is faster gains nothing.
#[test]
fn a_switch_that_lost_its_recovery_signature_only_waits() {
    let mut world = world();
    let (owner, recovery) = guarded(&mut world);
    let (mailbox, fed) = (owner.public(), world.federation.clone());
    let order = switch(&world, &owner, 1);
    let (stripped, whole) = (signed(&world, order.clone()), signed(&world, order.by_recovery(&recovery, &fed)));
    settle(&mut world, vec![stripped]).unwrap();
    assert!(world.state.delayed(&mailbox).is_some());
    settle(&mut world, vec![whole]).unwrap();
    assert_eq!((known(&world, &mailbox).home, world.state.delayed(&mailbox)), (world.node(1), None));
}

#[test]
fn a_due_switch_whose_new_home_is_full_or_lapsed_is_void() {
    let mut world = with(|params| params.max_mailboxes_per_node = 2);
    let (owner, _) = guarded(&mut world);
    let mailbox = owner.public();
    let record = signed(&world, switch(&world, &owner, 1));
    let digest = record.digest(&world.federation);
    settle(&mut world, vec![record.clone()]).unwrap();
    let other = world.mailboxes[2].clone();
    move_to(&mut world, &other, 1);
    let before = known(&world, &mailbox);
    let due = world.state.delayed(&mailbox).unwrap().due_age_ms;
    age_to(&mut world, due);
    let after = known(&world, &mailbox);
    assert_eq!((after.home, after.since, world.state.delayed(&mailbox)), (before.home, before.since, None));
    assert_eq!(counts(&world), [2, 2, 0, 1]);
    // It is in force all the same, so that nobody can hand it in again.
    assert_eq!((after.record, after.last_recovered()), (digest, before.record));
    assert!(settle(&mut world, vec![record]).is_err());

    let mut world = with(|params| params.move_delay_ms = 400_000);
    let (owner, _) = guarded(&mut world);
    let mailbox = owner.public();
    let record = signed(&world, switch(&world, &owner, 1));
    settle(&mut world, vec![record]).unwrap();
    let due = world.state.delayed(&mailbox).unwrap().due_age_ms;
    age_to(&mut world, due);
    assert!(world.state.node(&world.node(1)).unwrap().lapsed.is_some());
    assert_eq!((known(&world, &mailbox).home, world.state.delayed(&mailbox)), (world.node(0), None));
}

/// Of two that are due in one cut, where there is room for one, the first in their map moves.
#[test]
fn due_switches_go_in_the_order_of_their_map() {
    let mut world = with(|params| params.max_mailboxes_per_node = 3);
    let recovery = key("recovery").public();
    let mut owners = [key("first due"), key("second due")];
    let fill = [world.mailboxes[2].clone()];
    let records = owners.iter().map(|owner| world.registration_with(owner, 0, Some(recovery))).collect();
    settle(&mut world, records).unwrap();
    let orders: Vec<_> = owners.iter().map(|owner| signed(&world, switch(&world, owner, 1))).collect();
    settle(&mut world, orders).unwrap();
    fill.iter().for_each(|owner| move_to(&mut world, owner, 1));
    let due = world.state.delayed(&owners[0].public()).unwrap().due_age_ms;
    age_to(&mut world, due);
    owners.sort_by_key(|owner| hash(&[&owner.public().0]));
    let homes: Vec<_> = owners.iter().map(|owner| known(&world, &owner.public()).home).collect();
    assert_eq!(homes, [world.node(1), world.node(0)]);
    assert!(owners.iter().all(|owner| world.state.delayed(&owner.public()).is_none()));
}

/// Several wait, with other ends; each has its own, also in a state that was put together again from its values.
#[test]
fn each_switch_that_waits_has_its_own_end() {
    let mut world = world();
    let recovery = key("recovery").public();
    let owners: Vec<_> = (0..4).map(|owner| key(&format!("waiting {owner}"))).collect();
    let records = owners.iter().map(|owner| world.registration_with(owner, 0, Some(recovery))).collect();
    settle(&mut world, records).unwrap();
    let mut due = Vec::new();
    for owner in &owners {
        let order = signed(&world, switch(&world, owner, 1));
        settle(&mut world, vec![order]).unwrap();
        due.push(world.state.delayed(&owner.public()).unwrap().due_age_ms);
        let age = world.state.age_ms + 700;
        age_to(&mut world, age);
    }
    let mut again = State::genesis(&world.federation);
    for key in world.state.keys() {
        again.restore(key, &world.state.value(&key).unwrap()).unwrap();
    }
    (again.epoch, again.time_ms, again.age_ms) = (world.state.epoch, world.state.time_ms, world.state.age_ms);
    for step in (0..2 * DELAY_MS).step_by(500) {
        let time = world.state.time_ms + 500;
        world.step_ms = 500;
        world.idle(1);
        again = Draft::new(&again, time, &world.federation).state().clone();
        for (owner, due) in owners.iter().zip(&due) {
            let moved = world.state.age_ms >= *due;
            assert_eq!(known(&world, &owner.public()).home, world.node(usize::from(moved)), "after {step} ms");
        }
        assert_eq!(again.root(), world.state.root());
    }
    assert!(owners.iter().all(|owner| world.state.delayed(&owner.public()).is_none()));
}

#[test]
fn without_a_delay_in_genesis_nothing_waits() {
    let mut world = with(|params| params.move_delay_ms = 0);
    let (owner, _) = guarded(&mut world);
    let recovered = known(&world, &owner.public()).record;
    move_to(&mut world, &owner, 1);
    assert_eq!(known(&world, &owner.public()).last_recovered(), recovered);
}
