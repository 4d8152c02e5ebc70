//! The state: its root, its proofs, and how a store's copy becomes a state again.

use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::CutBody;
use postroad_protocol::digest::hash;
use postroad_protocol::record::Record;
use postroad_protocol::state::{HomeProof, PendingKey, State, StateKey};
use postroad_protocol::{Digest, VerifyError};

use crate::common::story::story;
use crate::common::{World, key};

#[test]
fn the_root_does_not_depend_on_the_way() {
    let roots: Vec<Digest> = [false, true]
        .into_iter()
        .map(|reversed| {
            let mut world = World::builder().build();
            let mut records: Vec<Record> =
                (0..20).map(|n| world.registration_at(&key(&format!("late {n}")), n % 4)).collect();
            if reversed {
                records.reverse();
            }
            world.cut(CutBody { records, ..CutBody::default() });
            world.state.root()
        })
        .collect();
    assert_eq!(roots[0], roots[1]);
}

#[test]
fn the_root_covers_the_values_and_neither_epoch_nor_time_nor_cut() {
    let mut world = World::builder().build();
    let root = world.state.root();
    world.idle(2);
    assert_eq!(world.state.root(), root);
    world.cut(CutBody { records: vec![world.node_record(0, 2)], ..CutBody::default() });
    assert_ne!(world.state.root(), root);
}

#[test]
fn the_root_is_made_of_seven_parts_one_of_which_is_empty_yet() {
    let world = World::builder().unborn();
    let empty = hash(&[]);
    let committee = Digest::tagged("committee", &[&encode(&vec![world.node(0)])]);
    let parts = [empty, empty, empty, empty, empty, empty, committee];
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.0.as_slice()).collect();
    assert_eq!(world.state.root(), Digest::tagged("state", &parts));
    let story = story();
    let proof = story.world.state.prove_home(&story.world.mailbox(0), story.world.certified(4).clone());
    assert_eq!(proof.parts[3..6], [empty, empty, empty]);
}

#[test]
fn a_state_restored_value_by_value_in_any_order_has_the_same_root() {
    let story = story();
    for state in &story.world.states {
        let values: Vec<(StateKey, Vec<u8>)> =
            state.keys().into_iter().map(|key| (key, state.value(&key).unwrap())).collect();
        for turn in 0..2 {
            let mut restored = State::genesis(&story.world.federation);
            let mut values = values.clone();
            if turn == 1 {
                values.reverse();
            }
            for (key, value) in values {
                restored.restore(key, &value).unwrap();
            }
            (restored.epoch, restored.time_ms, restored.age_ms) = (state.epoch, state.time_ms, state.age_ms);
            restored.cut = state.cut;
            assert_eq!(restored.root(), state.root());
            assert_eq!(restored.keys(), state.keys());
            // Not only the same root: the next cut applies.
            if let Some(next) = story.world.cuts.get(state.epoch as usize) {
                assert!(postroad_protocol::state::apply(&restored, next, &story.world.federation).is_ok());
            }
        }
    }
    let mut state = State::genesis(&story.world.federation);
    let node = StateKey::Node(story.world.node(0));
    assert!(state.restore(node, &[0x80]).is_err());
}

#[test]
fn old_states_stay_what_they_were() {
    let story = story();
    let world = &story.world;
    let key = PendingKey { destination: world.node(2), header: story.first.digest };
    let pending: Vec<bool> = world.states.iter().map(|state| state.pending(&key).is_some()).collect();
    assert_eq!(pending, [false, false, true, false, false]);
    for (state, cut) in world.states[1..].iter().zip(&world.cuts) {
        assert_eq!(state.root(), cut.certified.header.state);
    }
}

#[test]
fn a_home_proof_shows_where_a_mailbox_lives_or_that_it_is_nowhere() {
    let story = story();
    let world = &story.world;
    let federation = &world.federation;
    for epoch in 1..=4 {
        let (state, cut) = (&world.states[epoch as usize], world.certified(epoch));
        for mailbox in 0..6 {
            let id = world.mailbox(mailbox);
            let proof = state.prove_home(&id, cut.clone());
            assert_eq!(proof.verify(&id, federation), Ok(&cut.header));
            assert_eq!(proof.value.as_ref().unwrap().home, world.node(world.home_of(mailbox)));
            assert!(proof.verify(&world.mailbox((mailbox + 1) % 6), federation).is_err());
        }
        for stranger in 0..6 {
            let id = key(&format!("stranger {stranger}")).public();
            let proof = state.prove_home(&id, cut.clone());
            assert_eq!(proof.value, None);
            assert_eq!(proof.verify(&id, federation), Ok(&cut.header));
            assert!(proof.verify(&world.mailbox(0), federation).is_err());
        }
    }
}

#[test]
fn a_home_proof_holds_under_its_own_cut_only() {
    let story = story();
    let world = &story.world;
    let (id, federation) = (world.mailbox(0), &world.federation);
    let refused = Err(VerifyError::Path { what: "mailbox" });
    assert_eq!(world.states[1].prove_home(&id, world.certified(2).clone()).verify(&id, federation), refused);
    let good = world.state.prove_home(&id, world.certified(4).clone());
    let check = |change: &dyn Fn(&mut HomeProof)| {
        let mut proof = good.clone();
        change(&mut proof);
        proof.verify(&id, federation).map(drop)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let refused = Err(VerifyError::Path { what: "mailbox" });
    assert_eq!(check(&|proof| proof.value = None), refused);
    assert_eq!(check(&|proof| proof.value.as_mut().unwrap().home = world.node(1)), refused);
    assert_eq!(check(&|proof| proof.value.as_mut().unwrap().since = 2), refused);
    assert_eq!(check(&|proof| proof.parts[0] = Digest::ZERO), refused);
    assert_eq!(check(&|proof| proof.parts.swap(3, 6)), refused);
    let absent = world.state.prove_home(&key("nobody").public(), world.certified(4).clone());
    assert_eq!(check(&|proof| proof.path = absent.path.clone()), refused);
    let other = World::builder().name("another").build();
    let certificate = Err(VerifyError::Certificate { epoch: 4 });
    assert_eq!(good.verify(&id, &other.federation).map(drop), certificate);
}

#[test]
fn a_home_proof_with_any_changed_bit_is_refused() {
    let story = story();
    let world = &story.world;
    for id in [world.mailbox(2), key("nobody").public()] {
        let bytes = encode(&world.state.prove_home(&id, world.certified(4).clone()));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(proof) = decode::<HomeProof>(&bytes) {
                assert!(proof.verify(&id, &world.federation).is_err(), "bit {bit}");
            }
        }
    }
}
