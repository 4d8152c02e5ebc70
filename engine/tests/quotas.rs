//! Quotas of single rooms: what one peer can take of them, and that the others' part stays theirs.

use postroad_engine::gate::Gate;
use postroad_engine::sequencer::Sequencer;
use postroad_engine::tables::ALL;
use postroad_engine::{Load, Output};
use postroad_protocol::batch::route;
use postroad_protocol::block_list::{BlockList, MAX_BLOCKED};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::genesis::{Federation, Genesis, Member, Params};
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::receipt::LeafRefusal;
use postroad_protocol::record::{Appointed, NodeRecord, Record};
use postroad_protocol::slice::{SliceIndex, SliceKey};
use postroad_protocol::state::{Draft, State};
use postroad_protocol::{Digest, MailboxId, NodeId, Refusal, SecretKey, Signed, Verified};
use postroad_store::Store;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn federation() -> Federation {
    let genesis = Genesis {
        name: "quotas".into(),
        time_ms: 0,
        committee: vec![Member { node: key(0).public(), addrs: Vec::new() }],
        allow: Vec::new(),
        params: Params::default(),
    };
    Federation::new(genesis).unwrap()
}

fn node_record(federation: &Federation, node: u8, version: u64) -> Verified<Record> {
    let body =
        NodeRecord { node: key(node).public(), version, name: String::new(), addrs: Vec::new(), deputies: Vec::new() };
    let signed = Signed::sign(body, &key(node), federation).into_inner();
    Verified::check(Record::Node(Appointed::alone(signed)), federation).unwrap()
}

/// A state that knows nodes 0 to 2.
fn state(federation: &Federation) -> State {
    let mut draft = Draft::new(&State::genesis(federation), 25, federation);
    for node in 0..3 {
        draft.record(&node_record(federation, node, 1)).unwrap();
    }
    draft.state().clone()
}

#[test]
fn a_node_fills_its_own_share_of_the_sequencers_records_and_no_other() {
    let federation = federation();
    let state = state(&federation);
    let mut sequencer = Sequencer::new(&federation, 0);
    let mut hand_in = |from: NodeId, record: &Verified<Record>| {
        let mut out = Vec::new();
        sequencer.record(from, record.clone(), &state, &mut out);
        match out.as_slice() {
            [] => true,
            [Output::Defer(to, digest)] => {
                assert_eq!((*to, *digest), (from, record.digest(&federation)));
                false
            }
            other => panic!("{other:?}"),
        }
    };
    let (greedy, modest) = (key(1).public(), key(2).public());
    let taken = (0..).take_while(|version| hand_in(greedy, &node_record(&federation, 1, 2 + version))).count();
    assert_eq!(taken, 1_024, "a quarter: three nodes, and those that are none");
    assert!(hand_in(greedy, &node_record(&federation, 1, 2)), "what waits already takes no more room");
    assert!(hand_in(modest, &node_record(&federation, 2, 2)));
    // Strangers share one part, however many they are.
    let strangers = (10..40).flat_map(|stranger| (0..50).map(move |version| (stranger, version)));
    let taken = strangers.filter(|(stranger, version)| {
        hand_in(key(*stranger).public(), &node_record(&federation, *stranger, 1 + version))
    });
    assert_eq!(taken.count(), 1_024);
    assert!(hand_in(modest, &node_record(&federation, 2, 3)));
}

/// A slice with one message from `sender` to each of `recipients`, so many of them.
fn slice(federation: &Federation, sender: u8, recipients: &[u8], count: u64, number: u64) -> (SliceKey, SliceIndex) {
    let (origin, destination) = (key(1).public(), key(2).public());
    let to = |seed: &u8| Recipient { mailbox: key(*seed).public(), own: Vec::new() };
    let messages: Vec<Message> = (0..count)
        .map(|salt| Message {
            salt: [salt as u8; 16],
            common: vec![7; 100],
            recipients: recipients.iter().map(to).collect(),
        })
        .collect();
    let body = BundleBody::new(key(sender).public(), origin, 1, 100, &messages);
    let bundle = Bundle { signed: Signed::sign(body, &key(sender), federation).into_inner(), messages };
    let routed = route(&[bundle], federation.id(), |_| Some(destination));
    let index = routed.bodies[0].index(1, federation.id()).unwrap();
    (SliceKey { origin, number, header: Digest([number as u8; 32]), destination }, index)
}

const ALICE: u8 = 100;
const BOB: u8 = 101;
const NOBODY: u8 = 102;

/// Alice and Bob live here, and hold nothing yet.
fn holds(mailbox: &MailboxId) -> Option<Load> {
    [ALICE, BOB].iter().any(|seed| key(*seed).public() == *mailbox).then(Load::default)
}

fn gate(federation: &Federation, entries: u64) -> Gate {
    let store = Store::memory(&ALL);
    Gate::open(federation, Load { entries, bytes: 1 << 20 }, &store.snapshot().unwrap()).unwrap()
}

#[test]
fn what_is_on_its_way_counts_until_it_is_delivered() {
    let federation = federation();
    let mut gate = gate(&federation, 5);
    let refused = |gate: &mut Gate, number, count| {
        let (key, index) = slice(&federation, 50, &[ALICE], count, number);
        let refused = gate.decide(&key, 100, &index, holds);
        assert!(refused.iter().all(|leaf| leaf.reason == LeafRefusal::Full));
        refused.len()
    };
    assert_eq!(refused(&mut gate, 1, 3), 0);
    assert_eq!(refused(&mut gate, 2, 3), 1);
    assert_eq!(refused(&mut gate, 2, 3), 1, "the same slice again gets the same answer, and counts once");
    assert_eq!(refused(&mut gate, 3, 1), 1);
    // In the log now, and acknowledged at once: `holds` says nothing of it.
    gate.delivered(&slice(&federation, 50, &[ALICE], 3, 1).0);
    assert_eq!(refused(&mut gate, 4, 4), 1);
}

#[test]
fn bytes_count_as_entries_do() {
    let federation = federation();
    let store = Store::memory(&ALL);
    // A message of 100 bytes counts 612.
    let quota = Load { entries: 100, bytes: 2 * 612 };
    let mut gate = Gate::open(&federation, quota, &store.snapshot().unwrap()).unwrap();
    let (slice, index) = slice(&federation, 50, &[ALICE], 3, 1);
    assert_eq!(gate.decide(&slice, 100, &index, holds).len(), 1);
}

#[test]
fn a_leaf_is_refused_for_its_own_mailbox_only() {
    let federation = federation();
    let mut gate = gate(&federation, 1);
    let (key_of_slice, index) = slice(&federation, 50, &[ALICE, BOB, NOBODY], 1, 1);
    let reasons = |refused: Vec<postroad_protocol::receipt::RefusedLeaf>| -> Vec<_> {
        refused.into_iter().map(|leaf| (leaf.mailbox, leaf.reason)).collect()
    };
    let unknown = (key(NOBODY).public(), LeafRefusal::Unknown);
    assert_eq!(reasons(gate.decide(&key_of_slice, 100, &index, holds)), [unknown]);
    let (again, index) = slice(&federation, 50, &[ALICE, NOBODY], 1, 2);
    let mut found = reasons(gate.decide(&again, 100, &index, holds));
    let mut expected = vec![(key(ALICE).public(), LeafRefusal::Full), unknown];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_block_list_is_the_owners_newest_one() {
    let federation = federation();
    let mut gate = gate(&federation, 100);
    let list = |version, senders: &[u8]| {
        let mut senders: Vec<MailboxId> = senders.iter().map(|seed| key(*seed).public()).collect();
        senders.sort();
        Signed::sign(BlockList { mailbox: key(ALICE).public(), version, senders }, &key(ALICE), &federation)
    };
    let mut number = 0;
    let mut refused = |gate: &mut Gate, sender| {
        number += 1;
        let (slice, index) = slice(&federation, sender, &[ALICE, BOB], 1, number);
        let refused = gate.decide(&slice, 100, &index, holds);
        assert!(refused.iter().all(|leaf| leaf.reason == LeafRefusal::Blocked));
        refused.iter().map(|leaf| leaf.mailbox).collect::<Vec<_>>()
    };
    assert!(gate.block(&list(2, &[50, 51])).unwrap().is_some());
    assert_eq!(refused(&mut gate, 50), [key(ALICE).public()], "Bob blocks nobody");
    assert_eq!(refused(&mut gate, 52), []);
    assert!(gate.block(&list(2, &[50, 51])).unwrap().is_none(), "the same list again");
    for old in [list(1, &[]), list(2, &[])] {
        assert_eq!(gate.block(&old).unwrap_err(), Refusal::StaleVersion { newest: 2 });
    }
    assert!(gate.block(&list(3, &[52])).unwrap().is_some());
    assert_eq!(refused(&mut gate, 50), []);
    assert_eq!(refused(&mut gate, 52), [key(ALICE).public()]);
    let ascending: Vec<MailboxId> = {
        let mut senders: Vec<MailboxId> = (0..=MAX_BLOCKED as u16)
            .map(|n| {
                let mut seed = [9; 32];
                seed[..2].copy_from_slice(&n.to_be_bytes());
                SecretKey::from_seed(seed).public()
            })
            .collect();
        senders.sort();
        senders
    };
    let body = |senders| BlockList { mailbox: key(ALICE).public(), version: 4, senders };
    assert!(body(ascending.clone()).check().is_err(), "one too many");
    assert!(body(ascending[1..].to_vec()).check().is_ok());
    assert!(body(vec![ascending[1], ascending[0]]).check().is_err(), "not ascending");
}
