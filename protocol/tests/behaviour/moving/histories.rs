//! Random histories of one guarded mailbox, its owner, a thief who has the device's key, and homes that import or do
//! not: what holds after every cut.

use std::collections::BTreeMap;

use postroad_protocol::NodeId;
use postroad_protocol::moving::{MAX_SPANS, Missing};
use postroad_protocol::record::Record;
use proptest::prelude::*;

use super::{
    DELAY_MS, WINDOW, abandoned, age_to, attest, counts, guarded, import_with, known, settle, signed, switch,
    switch_with, world,
};
use crate::common::World;

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    /// The device's key moves the mailbox there, or abandons, if that is its home.
    Device(usize),
    /// The recovery key does.
    Recovery(usize),
    /// Its home imports; with something missing of these epochs back from the last one.
    Import(Option<u64>),
    /// Its home attests.
    Attest,
    /// So many cuts without anything.
    Idle(u64),
    /// Time passes.
    Wait(u64),
    /// The records of these two in one cut.
    Both(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_usize).prop_map(Step::Device),
        2 => (0..4_usize).prop_map(Step::Recovery),
        3 => prop::option::weighted(0.3, 0..3_u64).prop_map(Step::Import),
        2 => Just(Step::Attest),
        2 => (1..WINDOW + 2).prop_map(Step::Idle),
        1 => (1..DELAY_MS).prop_map(Step::Wait),
        1 => (0..4_usize, 0..4_usize).prop_map(|(one, two)| Step::Both(one, two)),
    ]
}

/// The homes that the states have named, epoch by epoch.
fn homes(world: &World, mailbox: &postroad_protocol::MailboxId) -> BTreeMap<u64, NodeId> {
    let named = world.states.iter().filter_map(|state| Some((state.epoch, state.home(mailbox)?)));
    named.collect()
}

fn holds(world: &World, mailbox: &postroad_protocol::MailboxId) {
    let now = known(world, mailbox);
    // Every mailbox is counted where it lives.
    let living = |node: usize| world.state.mailboxes().filter(|(_, known)| known.home == world.node(node)).count();
    assert_eq!(counts(world), (0..4).map(|node| living(node) as u64).collect::<Vec<_>>());
    // Of every epoch there is one home, and what is remembered is what was so.
    let then = homes(world, mailbox);
    for (epoch, home) in &then {
        for node in (0..4).map(|node| world.node(node)) {
            assert!(node == *home || !now.lived(&node, *epoch, *epoch), "epoch {epoch} has two homes");
        }
    }
    assert_eq!(now.registered, *then.keys().next().unwrap());
    let Some(moved) = &now.moved else {
        assert_eq!(now.since, now.registered);
        return;
    };
    assert!((1..=MAX_SPANS).contains(&moved.spans.len()));
    assert_eq!(moved.spans.last().unwrap().until, now.since);
    for span in &moved.spans {
        assert!(span.since < span.until && (span.since..span.until).all(|epoch| then[&epoch] == span.node));
        assert!(span.complete.is_none_or(|from| (span.since..span.until).contains(&from)));
    }
    assert!(moved.spans.windows(2).all(|pair| pair[0].until <= pair[1].since));
    if let Some(delayed) = world.state.delayed(mailbox) {
        assert!(delayed.due_age_ms > world.state.age_ms && delayed.home != now.home);
    }
    if let Some(import) = &moved.import {
        assert!(now.since <= import.through && import.through < import.epoch && import.first <= import.epoch);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mailbox_has_one_home_and_its_owner_can_always_leave(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = world();
        let (owner, recovery) = guarded(&mut world);
        let (mailbox, fed) = (owner.public(), world.federation.clone());
        // What the recovery key could have signed at the very beginning.
        let first = switch_with(&world, &mailbox, 3, |_| {}).by_recovery(&recovery, &fed);
        let mut recovered = false;
        for step in steps {
            let home = known(&world, &mailbox).home;
            let order = |world: &World, to: usize, by_recovery: bool| -> Record {
                let order = match by_recovery {
                    true => switch_with(world, &mailbox, to, |_| {}).by_recovery(&recovery, &fed),
                    false => switch(world, &owner, to),
                };
                if world.node(to) == home { abandoned(order) } else { signed(world, order) }
            };
            // What is refused changes nothing; what holds is looked at below.
            match step {
                Step::Device(to) => {
                    let record = order(&world, to, false);
                    let _ = settle(&mut world, vec![record]);
                }
                Step::Recovery(to) => {
                    let record = order(&world, to, true);
                    recovered |= settle(&mut world, vec![record]).is_ok();
                }
                Step::Both(one, two) => {
                    let records = vec![order(&world, one, false), order(&world, two, true)];
                    recovered |= settle(&mut world, records).is_ok();
                }
                Step::Import(missing) => {
                    let (origin, epoch) = (world.node(2), world.state.epoch);
                    let record = import_with(&world, &mailbox, |import| {
                        import.missing =
                            missing.map(|back| Missing { origin, from: epoch - back, to: epoch }).into_iter().collect();
                    });
                    let _ = settle(&mut world, vec![record]);
                }
                Step::Attest => {
                    let node = (0..4).find(|node| world.node(*node) == home).unwrap();
                    attest(&mut world, node);
                }
                Step::Idle(cuts) => world.idle(cuts),
                Step::Wait(ms) => {
                    let age = world.state.age_ms + ms;
                    age_to(&mut world, age);
                }
            }
            holds(&world, &mailbox);
        }
        // Whatever has happened, the recovery key can move the mailbox, after validity_epochs at the latest; and what it
        // signed before all of that holds as long as it has signed nothing else.
        let home = known(&world, &mailbox).home;
        if known(&world, &mailbox).moved.is_some_and(|moved| moved.spans.len() == MAX_SPANS) {
            world.idle(fed.params().validity_epochs);
        }
        let away = (0..4).find(|node| world.node(*node) != home).unwrap();
        let record = match !recovered && home != world.node(3) {
            true => signed(&world, first),
            false => signed(&world, switch_with(&world, &mailbox, away, |_| {}).by_recovery(&recovery, &fed)),
        };
        prop_assert_eq!(settle(&mut world, vec![record]), Ok(()));
        prop_assert_ne!(known(&world, &mailbox).home, home);
        holds(&world, &mailbox);
        // And the new home can take over, from where the log is known to begin at worst.
        let record = import_with(&world, &mailbox, |_| {});
        prop_assert_eq!(settle(&mut world, vec![record]), Ok(()));
    }
}
