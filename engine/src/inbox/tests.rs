//! Who gets a place, and whose turn it is.

use postroad_protocol::bundle::BundleBody;
use postroad_protocol::codec::encode;
use postroad_protocol::genesis::Member;
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::state::{MailboxState, StateKey};
use postroad_protocol::{Genesis, Params, SecretKey, Signed};
use postroad_store::Store;

use super::*;

const MAX_QUEUED_BYTES: u64 = 64_000;
const MAX_BATCH_BYTES: u64 = 16_384;

/// A federation whose state has three mailboxes, and an empty inbox.
struct Scene {
    federation: Federation,
    senders: Vec<SecretKey>,
    head: State,
    inbox: Inbox,
    counters: Vec<u64>,
}

impl Scene {
    fn new() -> Scene {
        let node = SecretKey::from_seed([1; 32]);
        let params = Params {
            max_batch_bytes: MAX_BATCH_BYTES,
            max_bundle_bytes: MAX_BATCH_BYTES,
            max_message_bytes: MAX_BATCH_BYTES,
            ..Params::default()
        };
        let committee = vec![Member { node: node.public(), addrs: Vec::new() }];
        let genesis = Genesis { name: "turns".into(), time_ms: 1, committee, allow: Vec::new(), params };
        let federation = Federation::new(genesis).expect("a genesis");
        let senders: Vec<SecretKey> = (0..3).map(|sender| SecretKey::from_seed([sender + 10; 32])).collect();
        let mut head = State::genesis(&federation);
        for sender in &senders {
            let value = MailboxState {
                home: node.public(),
                since: 1,
                record: Digest::ZERO,
                encryption_key: Digest::ZERO,
                recovery_key: None,
                registered: 1,
                moved: None,
                recovered: None,
            };
            head.restore(StateKey::Mailbox(sender.public()), &encode(&value)).expect("a value");
        }
        let inbox = Inbox::new(node.public(), &federation, MAX_QUEUED_BYTES, MAX_QUEUED_BYTES / 8);
        Scene { federation, senders, head, inbox, counters: vec![1; 3] }
    }

    /// The sender's next bundle, of about a kilobyte.
    fn submit(&mut self, sender: usize, busy: bool) -> Result<(), Refusal> {
        let key = &self.senders[sender];
        let recipients = vec![Recipient { mailbox: key.public(), own: Vec::new() }];
        let messages = vec![Message { salt: [0; 16], common: vec![0; 1_000], recipients }];
        let valid_until = self.head.epoch + self.federation.params().validity_epochs;
        let body = BundleBody::new(key.public(), self.inbox.me, self.counters[sender], valid_until, &messages);
        let signed = Signed::sign(body, key, &self.federation).into_inner();
        let bundle = Verified::from_own_disk(Bundle { signed, messages });
        let store = Store::memory(&tables::ALL).snapshot().expect("memory can be read");
        let answer = self.inbox.submit(sender as ClientId, bundle, &self.head, busy, &store);
        answer.expect("memory can be read")?;
        self.counters[sender] += 1;
        Ok(())
    }

    fn fill(&mut self, sender: usize) -> usize {
        (0..).take_while(|_| self.submit(sender, false).is_ok()).count()
    }

    fn batch(&mut self) -> Vec<(usize, u64)> {
        let bundles = self.inbox.take_batch(&self.head);
        let who = |bundle: &Bundle| self.senders.iter().position(|key| key.public() == bundle.signed.body.sender);
        bundles.iter().map(|bundle| (who(bundle).expect("a sender"), bundle.signed.body.counter)).collect()
    }
}

#[test]
fn a_sender_without_end_fills_its_share_and_waits_behind_itself() {
    let mut scene = Scene::new();
    let many = scene.fill(0);
    assert!((1..=8).contains(&many), "{many} of about a kilobyte are an eighth of 64,000 bytes");
    assert_eq!(scene.submit(0, false), Err(Refusal::Busy));
    scene.submit(1, false).expect("another sender has a place");
    scene.submit(2, true).expect("and one with nothing waiting has, also on a busy node");
    assert_eq!(scene.submit(2, true), Err(Refusal::Busy), "but not two");
    let batch = scene.batch();
    assert_eq!(batch[..3], [(0, 1), (1, 1), (2, 1)], "each has its turn");
    assert!(batch[3..].iter().zip(2..).all(|((sender, counter), next)| (*sender, *counter) == (0, next)), "{batch:?}");
}

#[test]
fn what_is_sealed_again_goes_before_everything_in_its_order() {
    let mut scene = Scene::new();
    (0..3).for_each(|_| scene.submit(0, false).expect("it is taken"));
    scene.submit(1, false).expect("it is taken");
    let dead = scene.inbox.take_batch(&scene.head);
    scene.submit(2, false).expect("it is taken");
    scene.inbox.put_back(dead);
    assert_eq!(scene.batch(), [(0, 1), (1, 1), (0, 2), (0, 3), (2, 1)]);
    assert!(scene.inbox.is_empty());
    assert_eq!(scene.inbox.queued_bytes, 0);
}

#[test]
fn what_expires_gives_its_place_back() {
    let mut scene = Scene::new();
    let many = scene.fill(0);
    let expired = scene.inbox.drop_expired(u64::MAX);
    assert_eq!(expired.len(), many);
    // Told to its sender, a bundle is nobody's any more.
    for (key, _) in expired {
        scene.inbox.finish(&key);
    }
    assert!(scene.inbox.is_empty());
    assert_eq!(scene.inbox.queued_bytes, 0);
    assert_eq!(scene.fill(0), many, "the share is whole again");
}
