//! Each sin of an origin makes the contradiction that it is named for, and keeps to it when the batch is read again.

use postroad_protocol::codec::encode;
use postroad_protocol::genesis::Member;
use postroad_protocol::signed::Verify;
use postroad_protocol::state::{MailboxState, StateKey};
use postroad_protocol::{Federation, Genesis, Params, SecretKey};
use postroad_store::Write;

use super::*;
use crate::tables::{BATCHES, StoredBatch};

struct Scene {
    origin: Origin,
    head: State,
    clients: Vec<SecretKey>,
    other: NodeId,
}

/// A federation of two nodes, of which each has two mailboxes; this is the first node.
fn scene() -> Scene {
    let nodes: Vec<SecretKey> = (1..3).map(|seed| SecretKey::from_seed([seed; 32])).collect();
    let committee = vec![Member { node: nodes[0].public(), addrs: Vec::new() }];
    let params = Params::default();
    let genesis = Genesis { name: "cheats".into(), time_ms: 1, committee, allow: Vec::new(), params };
    let federation = Federation::new(genesis).expect("a genesis");
    let clients: Vec<SecretKey> = (10..14).map(|seed| SecretKey::from_seed([seed; 32])).collect();
    let mut head = State::genesis(&federation);
    head.epoch = 7;
    for (at, client) in clients.iter().enumerate() {
        let home = nodes[at / 2].public();
        let (record, encryption_key) = (Digest::ZERO, Digest::ZERO);
        let value = MailboxState {
            home,
            since: 1,
            record,
            encryption_key,
            recovery_key: None,
            registered: 1,
            moved: None,
            recovered: None,
        };
        head.restore(StateKey::Mailbox(client.public()), &encode(&value)).expect("a value");
    }
    let origin = Origin { me: nodes[0].public(), secret: nodes[0].clone(), federation };
    Scene { origin, head, clients, other: nodes[1].public() }
}

impl Scene {
    fn router(&self, cheat: &str) -> Router {
        let mut router = Router::new(self.origin.clone(), u64::MAX);
        router.start(1, 0);
        router.cheat.temptation = Temptation::of(cheat.parse().expect("a cheat"));
        router
    }

    fn bundle(&self, sender: usize, counter: u64, to: &[usize]) -> Bundle {
        let recipient = |to: &usize| Recipient { mailbox: self.clients[*to].public(), own: Vec::new() };
        let recipients = to.iter().map(recipient).collect();
        let messages = vec![Message { salt: [counter as u8; 16], common: b"mail".to_vec(), recipients }];
        let secret = &self.clients[sender];
        let body = BundleBody::new(secret.public(), self.origin.me, counter, 100, &messages);
        Bundle { signed: Signed::sign(body, secret, &self.origin.federation).into_inner(), messages }
    }

    fn seal(&self, router: &mut Router, bundles: Vec<Bundle>) -> StoredBatch {
        let bundles = router.tamper(bundles, &self.head);
        let sealed = router.seal(bundles, None, &self.head, 1);
        let batch = sealed.writes.iter().find_map(|write| match write {
            Write::Put { table: BATCHES, value, .. } => postroad_protocol::codec::decode(value).ok(),
            _ => None,
        });
        batch.expect("the batch is written")
    }

    fn slice_for(&self, batch: &StoredBatch, node: &NodeId) -> Option<SliceBody> {
        let routed = batch.route(self.origin.federation.id());
        assert_eq!(routed.slices, batch.header.slices);
        let at = routed.slices.iter().position(|slice| slice.destination == *node)?;
        routed.bodies.into_iter().nth(at)
    }
}

#[test]
fn an_omitted_recipient_is_in_no_slice_and_the_others_are() {
    let scene = scene();
    let mut router = scene.router("omit");
    let batch = scene.seal(&mut router, vec![scene.bundle(0, 1, &[1, 2, 3])]);
    let federation = &scene.origin.federation;
    let body = scene.slice_for(&batch, &scene.other).expect("a slice");
    let slice = batch.header.slice(&scene.other).expect("it is named");
    let index = body.verify(&batch.header, slice, federation).expect("the slice as such is sound");
    let leaves: Vec<&MailboxId> = index.leaves().keys().collect();
    assert_eq!(leaves, [&scene.clients[3].public()]);
    let alone = scene.seal(&mut router, vec![scene.bundle(0, 2, &[2])]);
    assert_eq!(alone.header.slices.len(), 1, "a batch that is for nobody would be refused by everybody");
    assert_eq!(router.cheat.temptation.take(), [(Sin::Omit, 7)]);
}

#[test]
fn a_bad_slice_has_the_headers_root_where_its_paths_are_not_followed() {
    let scene = scene();
    let batch = scene.seal(&mut scene.router("bad-slice"), vec![scene.bundle(0, 1, &[1, 2])]);
    let federation = &scene.origin.federation;
    let body = scene.slice_for(&batch, &scene.other).expect("a slice");
    let slice = batch.header.slice(&scene.other).expect("it is named");
    assert!(body.verify(&batch.header, slice, federation).is_err());
    assert_eq!(root_of(&body, batch.header.entries.bundles, federation.id()), Some(slice.root));
    let own = scene.slice_for(&batch, &scene.origin.me).expect("its own");
    let slice = batch.header.slice(&scene.origin.me).expect("it is named");
    own.verify(&batch.header, slice, federation).expect("its own is sound");
}

#[test]
fn a_forged_bundle_is_whole_but_for_its_signature() {
    let scene = scene();
    let batch = scene.seal(&mut scene.router("forge"), vec![scene.bundle(0, 1, &[1])]);
    let [honest, forged] = batch.bundles.as_slice() else { panic!("two bundles") };
    let federation = &scene.origin.federation;
    honest.verify(federation).expect("signed by its sender");
    assert!(forged.signed.verify(federation).is_err());
    assert_eq!(scene.head.home(&forged.signed.body.sender), Some(scene.other));
    let body = scene.slice_for(&batch, &scene.other).expect("a slice");
    let slice = batch.header.slice(&scene.other).expect("it is named");
    body.verify(&batch.header, slice, federation).expect("no path shows it");
}

#[test]
fn bundles_of_one_sender_fall_within_a_batch_or_an_earlier_one_comes_again() {
    let scene = scene();
    let mut router = scene.router("misorder");
    let mut sealed = |bundles: Vec<Bundle>| -> Vec<u64> {
        let bundles = router.tamper(bundles, &scene.head);
        bundles.iter().map(|bundle| bundle.signed.body.counter).collect()
    };
    assert_eq!(sealed(vec![scene.bundle(0, 1, &[1]), scene.bundle(1, 1, &[2]), scene.bundle(0, 2, &[1])]), [2, 1, 1]);
    assert_eq!(sealed(vec![scene.bundle(2, 1, &[1])]), [1], "a sender's first one follows nothing");
    assert_eq!(sealed(vec![scene.bundle(0, 3, &[1])]), [3, 2]);
    assert_eq!(router.cheat.temptation.take().len(), 2);
}

#[test]
fn two_headers_with_one_number_are_both_signed() {
    let scene = scene();
    let mut router = scene.router("equivocate");
    let batch = scene.seal(&mut router, vec![scene.bundle(0, 1, &[1, 2])]);
    let federation = &scene.origin.federation;
    let signed = Signed::sign(batch.header, &scene.origin.secret, federation).into_inner();
    let own = router.cheat.face(&signed, &scene.origin.me, &scene.origin);
    assert_eq!(own, signed);
    let other = router.cheat.face(&signed, &scene.other, &scene.origin);
    other.verify(federation).expect("signed");
    assert_ne!(other.digest(federation), signed.digest(federation));
    assert_eq!((other.body.incarnation, other.body.number), (signed.body.incarnation, signed.body.number));
    assert_eq!(other.body.slices, signed.body.slices);
}
