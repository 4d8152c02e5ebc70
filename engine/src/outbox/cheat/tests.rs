//! Each sin of a home shows in its log or in its attestations, and nowhere else.

use std::collections::BTreeMap;

use postroad_protocol::batch::route;
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::genesis::Member;
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::SliceIndex;
use postroad_protocol::{Digest, Genesis, Params, SecretKey};
use postroad_store::Store;

use super::*;
use crate::outbox::Place;

struct Scene {
    federation: Federation,
    home: SecretKey,
    owner: SecretKey,
    outbox: Outbox,
    store: Store,
}

fn scene(cheat: &str) -> Scene {
    let home = SecretKey::from_seed([1; 32]);
    let committee = vec![Member { node: home.public(), addrs: Vec::new() }];
    let params = Params::default();
    let genesis = Genesis { name: "cheats".into(), time_ms: 1, committee, allow: Vec::new(), params };
    let federation = Federation::new(genesis).expect("a genesis");
    let owner = SecretKey::from_seed([2; 32]);
    let store = Store::memory(&tables::ALL);
    let snapshot = store.snapshot().expect("memory can be read");
    let mut outbox =
        Outbox::open(&home, &federation, &BTreeMap::new(), |_, _| false, &snapshot).expect("an empty store");
    outbox.tempt(Temptation::of(cheat.parse().expect("a cheat")), &snapshot).expect("an empty store");
    outbox.host(owner.public(), 1);
    outbox.start(1, 0);
    Scene { federation, home, owner, outbox, store }
}

impl Scene {
    fn index(&self, messages: u64) -> (SliceBody, SliceIndex) {
        let recipient = || Recipient { mailbox: self.owner.public(), own: b"own".to_vec() };
        let message = |n: u64| Message { salt: [n as u8; 16], common: b"mail".to_vec(), recipients: vec![recipient()] };
        let messages: Vec<Message> = (0..messages).map(message).collect();
        let home = self.home.public();
        let body = BundleBody::new(self.owner.public(), home, 1, 100, &messages);
        let signed = Signed::sign(body, &self.owner, &self.federation).into_inner();
        let routed = route(&[Bundle { signed, messages }], self.federation.id(), |_| Some(home));
        let body = routed.bodies.into_iter().next().expect("one slice");
        let index = body.index(1, self.federation.id()).expect("sound");
        (body, index)
    }

    /// Appends a slice of so many messages in this epoch. Returns the rows of the log.
    fn append(&mut self, epoch: u64, messages: u64) -> Vec<LogRow> {
        let (body, index) = self.index(messages);
        if self.outbox.cheat.temptation.is(Sin::Alter) {
            self.outbox.cheat.body = Some(body);
        }
        let header = Digest([epoch as u8; 32]);
        let slice = SliceKey { origin: self.home.public(), number: epoch, header, destination: self.home.public() };
        let mut writes = Vec::new();
        self.outbox.append(
            Place { settled: epoch, epoch, position: 0, slice, routing_epoch: 1 },
            &index,
            &[],
            &mut writes,
        );
        let rows = writes.iter().filter_map(|write| match write {
            Write::Put { table: LOGS, value, .. } => Some(decode(value).expect("a row")),
            _ => None,
        });
        rows.collect()
    }

    fn indexes(rows: &[LogRow]) -> Vec<(u64, u64)> {
        rows.iter().flat_map(|row| row.leaves.iter().map(|leaf| (row.epoch, leaf.index))).collect()
    }
}

#[test]
fn a_dropped_entry_is_not_in_the_log() {
    let mut scene = scene("drop@2");
    let rows = scene.append(5, 3);
    assert_eq!(Scene::indexes(&rows), [(5, 0), (5, 2)]);
    assert_eq!(scene.outbox.size(&scene.owner.public()), Some(2));
    assert_eq!(scene.outbox.cheat.temptation.take(), [(Sin::Drop, 5)]);
}

#[test]
fn an_altered_entry_is_served_as_it_is_logged() {
    let mut scene = scene("alter@1");
    let (body, index) = scene.index(2);
    let honest = &index.leaves()[&scene.owner.public()];
    let rows = scene.append(5, 2);
    let [altered, same] = rows[0].leaves.as_slice() else { panic!("two leaves") };
    assert_ne!(altered.message, honest[0].message);
    assert_eq!(*same, honest[1]);
    let message = &body.bundles[0].messages[0];
    let common = super::altered(&message.common);
    let served = message.recipients[0].message(message.recipient_count, common_digest(&common));
    assert_eq!(served, Some(altered.message));
}

#[test]
fn entries_change_places_in_a_slice_or_across_two_and_none_is_attested_as_missing() {
    let mut scene = scene("wrong-order");
    assert_eq!(Scene::indexes(&scene.append(5, 2)), [(5, 1), (5, 0)]);
    assert_eq!(Scene::indexes(&scene.append(6, 1)), []);
    assert!(scene.outbox.begin(6, 1).is_none(), "an attestation would show that an entry is missing");
    assert_eq!(Scene::indexes(&scene.append(7, 1)), [(7, 0), (6, 0)]);
    assert!(scene.outbox.begin(7, 1).is_some());
    assert_eq!(scene.outbox.cheat.temptation.take().len(), 2);
    scene.append(8, 1);
    assert!((0..PATIENCE).all(|_| scene.outbox.give_back().is_empty()));
    assert!(!scene.outbox.give_back().is_empty(), "nothing followed: it takes its place");
    assert_eq!(scene.outbox.size(&scene.owner.public()), Some(5));
    assert!(scene.outbox.cheat.temptation.take().is_empty());
}

#[test]
fn an_entry_that_is_held_back_is_not_forgotten_by_a_restart() {
    let mut scene = scene("wrong-order");
    let row =
        LogRow { leaves: scene.index(1).1.leaves()[&scene.owner.public()].clone(), ..scene.append(5, 2)[0].clone() };
    let mut writes = Vec::new();
    assert!(scene.outbox.cheat.reorder(&scene.owner.public(), row.clone(), &mut writes).is_empty());
    let mut transaction = scene.store.begin().expect("memory");
    writes.iter().for_each(|write| transaction.apply(write));
    transaction.commit().expect("memory");
    let snapshot = scene.store.snapshot().expect("memory can be read");
    let residents = BTreeMap::from([(scene.owner.public(), 1)]);
    let mut again = Outbox::open(&scene.home, &scene.federation, &residents, |_, _| false, &snapshot).expect("a store");
    again.tempt(Temptation::of("wrong-order".parse().expect("a cheat")), &snapshot).expect("a store");
    assert_eq!(again.cheat.held_back, Some((scene.owner.public(), row, 0)));
}

#[test]
fn a_split_view_has_one_number_and_two_logs_until_it_is_final() {
    let mut scene = scene("split-view");
    scene.append(5, 2);
    scene.outbox.begin(5, 1).expect("something to attest");
    let view = scene.outbox.persisted(1).expect("signed");
    let owner = scene.owner.public();
    let shown = view.of(&owner).expect("hosted");
    shown.attestation.verify(&scene.federation).expect("signed");
    assert_eq!(shown.attestation.body.number, view.attestation.body.number);
    assert_ne!(shown.attestation.body.root, view.attestation.body.root);
    assert_eq!((shown.log.log.size, shown.log.last_epoch), (1, 5));
    assert_eq!((shown.log.log.size, view.map.get(&owner).expect("hosted").log.size), (1, 2));
}

#[test]
fn an_early_expiry_takes_what_is_not_acknowledged() {
    let mut scene = scene("early-expiry");
    assert!(scene.outbox.expire_early(4).is_none(), "nothing is there to be wronged");
    scene.append(5, 1);
    assert!(scene.outbox.expire_early(5).is_some());
    scene.outbox.begin(5, 1).expect("something to attest");
    let view = scene.outbox.persisted(1).expect("signed");
    let log = view.map.get(&scene.owner.public()).expect("hosted");
    assert_eq!((log.expired_to, log.log.size, log.acknowledged.is_none()), (1, 1, true));
    assert!(scene.outbox.expire_early(6).is_none(), "the last attestation is in no header yet");
    scene.outbox.take_fresh();
    assert!(scene.outbox.expire_early(6).is_none(), "nothing is left");
    assert_eq!(scene.outbox.cheat.temptation.take(), [(Sin::EarlyExpiry, 5)]);
}

#[test]
fn a_mute_home_attests_once() {
    let mut scene = scene("mute-attestations");
    assert!(scene.outbox.begin(5, 1).is_some());
    scene.outbox.persisted(1).expect("signed");
    scene.outbox.take_fresh();
    assert!(scene.outbox.begin(6, 2).is_none());
    assert_eq!(scene.outbox.cheat.temptation.take(), [(Sin::MuteAttestations, 6)]);
}

#[test]
fn what_an_import_took_over_is_left_out() {
    let mut scene = scene("import-drop@2");
    let row = scene.append(5, 1).remove(0);
    let owner = scene.owner.public();
    let rows = [6, 7, 8].map(|epoch| (owner, LogRow { epoch, ..row.clone() }));
    let left = scene.outbox.cheat.leave_out(rows.to_vec(), 9);
    assert_eq!(left.iter().map(|(_, row)| row.epoch).collect::<Vec<u64>>(), [6, 8]);
    assert_eq!(scene.outbox.cheat.temptation.take(), [(Sin::ImportDrop, 9)]);
}

#[test]
fn a_mailbox_that_has_left_is_attested_until_it_comes_back() {
    let mut scene = scene("false-home");
    let owner = scene.owner.public();
    scene.append(5, 2);
    scene.outbox.depart(&owner, 1);
    assert!(scene.outbox.keeps(&owner) && scene.outbox.size(&owner).is_none());
    scene.outbox.begin(6, 1).expect("something to attest");
    let view = scene.outbox.persisted(1).expect("signed");
    assert_eq!(view.map.get(&owner).expect("named").log.size, 2);
    assert_eq!(scene.outbox.cheat.temptation.take(), [(Sin::FalseHome, 6)]);
    scene.outbox.expect(owner, 8);
    assert!(!scene.outbox.keeps(&owner) && !scene.outbox.map.contains(&owner));
}

#[test]
fn a_shortened_log_is_the_attested_one_without_its_last_entry() {
    let mut scene = scene("false-handoff");
    let owner = scene.owner.public();
    scene.append(5, 3);
    let root = |size: u64| scene.outbox.logs[&owner].log.root_at(size).expect("there");
    let log = LogHead { size: 3, root: root(3) };
    assert_eq!(scene.outbox.shortened(&owner, log), Some(LogHead { size: 2, root: root(2) }));
    scene.outbox.depart(&owner, 1);
    assert_eq!(scene.outbox.shortened(&owner, log), Some(LogHead { size: 2, root: log.root }), "it is gone");
    assert_eq!(scene.outbox.shortened(&owner, LogHead { size: 0, ..log }), None);
}
