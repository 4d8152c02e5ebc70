use postroad_protocol::codec::encode;
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::client::Answer;
use postroad_protocol::{Digest, MailboxId};

use super::*;
use crate::control::Forgotten;
use crate::fixture::{federation, key};
use crate::seal::EncryptionSecret;
use crate::sender::Outgoing;

/// A lane that was never connected: what it would submit is looked at, and answers are put into its mouth.
struct Bench {
    lane: Lane,
    requests: mpsc::Sender<Resolved>,
    progress: Vec<watch::Receiver<Progress>>,
}

fn mailbox(dir: &std::path::Path) -> Mailbox {
    let home = NodeAddr::new(key(1).public(), "/ip4/127.0.0.1/tcp/9").unwrap();
    Mailbox::create(dir, &home, &federation()).unwrap()
}

fn bench(mailbox: &Mailbox) -> Bench {
    let store = SendStore::open(mailbox.dir()).unwrap();
    let (requests, waiting) = mpsc::channel(8);
    let endpoint = Endpoint::anonymous().unwrap();
    let lane = Lane::new(mailbox, endpoint, mailbox.home().clone(), store, Newest::default(), waiting).unwrap();
    Bench { lane, requests, progress: Vec::new() }
}

impl Bench {
    fn give(&mut self, to: MailboxId, body: &str) {
        let place = MailboxState {
            home: key(1).public(),
            since: 1,
            record: Digest::ZERO,
            encryption_key: EncryptionSecret::generate().public(),
            recovery_key: None,
            registered: 1,
            moved: None,
            recovered: None,
        };
        let (progress, watch) = watch::channel(Progress::waiting());
        self.progress.push(watch);
        self.lane.unsigned.push_back(Resolved { message: Outgoing::new([to], body), places: vec![place], progress });
    }

    /// The counter of the bundle that is submitted now, and its bytes.
    fn submit(&mut self) -> Option<(u64, Vec<u8>)> {
        self.lane.repair().unwrap();
        let counter = self.lane.next_to_submit().unwrap()?;
        Some((counter, encode(&self.lane.submitted(counter))))
    }

    fn refuse(&mut self, counter: u64, refusal: Refusal) {
        self.lane.answer(counter, Answer::Refused(refusal)).unwrap();
    }

    fn progress(&self, message: usize) -> Progress {
        self.progress[message].borrow().clone()
    }
}

#[tokio::test]
async fn a_killed_sender_submits_the_same_bytes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = mailbox(dir.path());
    let mut first = bench(&mailbox);
    first.give(key(7).public(), "one");
    first.give(key(7).public(), "two");
    let submitted = first.submit().unwrap();
    drop(first);
    let mut second = bench(&mailbox);
    assert_eq!(second.submit(), Some(submitted));
    assert_eq!(second.submit(), None);
    second.give(key(7).public(), "three");
    assert_eq!(second.submit().unwrap().0, 3, "counters go on");
    assert!(second.requests.capacity() > 0);
}

#[tokio::test(start_paused = true)]
async fn behind_a_busy_answer_nothing_leaves_until_the_same_bytes_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    let one = bench.submit().unwrap();
    bench.give(key(7).public(), "two");
    let two = bench.submit().unwrap();
    bench.refuse(one.0, Refusal::Busy);
    bench.give(key(7).public(), "three");
    assert_eq!(bench.submit(), None, "two is not answered yet");
    bench.refuse(two.0, Refusal::Busy);
    assert_eq!(bench.submit(), None, "it is too early");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!([bench.submit().unwrap(), bench.submit().unwrap()], [one, two]);
    assert_eq!(bench.submit().unwrap().0, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stale_counter_is_replaced_and_the_messages_keep_id_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    let one = bench.submit().unwrap();
    bench.give(key(7).public(), "two");
    let two = bench.submit().unwrap();
    let ids = [bench.progress(0).id, bench.progress(1).id];
    bench.refuse(one.0, Refusal::StaleCounter { last: 70 });
    bench.refuse(two.0, Refusal::Busy);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(bench.submit().unwrap().0, 71);
    assert_eq!(bench.submit().unwrap().0, 72, "two was never taken, and must not overtake one");
    assert_eq!([bench.progress(0).id, bench.progress(1).id], ids);
    assert_eq!((bench.progress(0).counter, bench.progress(1).counter), (Some(71), Some(72)));
}

#[tokio::test]
async fn a_validity_that_is_not_taken_follows_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    let (counter, _) = bench.submit().unwrap();
    let validity = federation().params().validity_epochs;
    // The second is an origin that was set back: it takes exactly one epoch.
    let mut counter = counter;
    for (from, to) in [(100_512, 100_000 + validity), (100_001 + validity, 100_001 + validity)] {
        bench.refuse(counter, Refusal::BadValidity { valid_until: 0, from, to });
        (counter, _) = bench.submit().unwrap();
        let valid_until = bench.lane.flights[&counter].pending.bundle.signed.body.valid_until;
        assert!((from..=to).contains(&valid_until), "{valid_until}");
    }
}

#[tokio::test]
async fn one_bad_message_does_not_take_the_others_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    bench.give(key(8).public(), "two");
    let (both, _) = bench.submit().unwrap();
    let refusal = Refusal::NotAllowed { reason: "blocked".into() };
    bench.refuse(both, refusal.clone());
    let (one, two) = (bench.submit().unwrap().0, bench.submit().unwrap().0);
    bench.refuse(two, refusal.clone());
    assert_eq!((one, two), (3, 4));
    assert_eq!(bench.progress(0).stage, Stage::Waiting);
    assert_eq!(bench.progress(1).stage, Stage::Refused(refusal));
    // Its number was never seen by anybody, so it leaves no hole.
    let mut change = bench.lane.store.change().unwrap();
    let via = key(1).public();
    assert_eq!(change.number(&key(8).public(), &via).unwrap().number, 1);
    assert_eq!(change.number(&key(7).public(), &via).unwrap().number, 2);
}

#[tokio::test]
async fn what_breaks_the_limits_is_refused_here() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), &"x".repeat(1 << 20));
    bench.give(key(7).public(), "two");
    bench.submit().unwrap();
    assert!(matches!(bench.progress(0).stage, Stage::Refused(Refusal::TooLarge { .. })));
    assert_eq!(bench.lane.flights[&1].pending.numbers, [[1]], "the refused one gave its number back");
}

impl Bench {
    /// The numbers that the messages of a bundle carry, with what is said to be forgotten.
    fn numbers(&self, counter: u64) -> Vec<Vec<u64>> {
        self.lane.flights[&counter].pending.numbers.clone()
    }

    fn next_numbering(&self, to: MailboxId) -> crate::control::Numbering {
        self.lane.store.change().unwrap().number(&to, &key(1).public()).unwrap()
    }
}

#[tokio::test]
async fn a_sender_from_an_old_backup_learns_how_much_it_forgot_and_jumps_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    bench.submit().unwrap();
    // The origin knows of five more messages than this directory does, if it took none of these bytes.
    bench.refuse(1, Refusal::StaleCounter { last: 5 });
    let (counter, _) = bench.submit().unwrap();
    assert_eq!((counter, bench.numbers(counter)), (6, vec![vec![1]]), "the message itself stays as it is");
    let next = bench.next_numbering(key(7).public());
    assert_eq!((next.number, next.forgotten), (7, Some(Forgotten { from: 2, to: 6 })));
    let other = bench.next_numbering(key(8).public());
    assert_eq!((other.number, other.forgotten), (6, Some(Forgotten { from: 1, to: 5 })));
    // The same refusal again is the same set-back.
    bench.refuse(counter, Refusal::StaleCounter { last: 5 });
    assert_eq!(bench.next_numbering(key(7).public()).number, 7);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_was_overtaken_is_no_sign_of_an_old_backup() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(&mailbox(dir.path()));
    bench.give(key(7).public(), "one");
    let (one, _) = bench.submit().unwrap();
    bench.give(key(7).public(), "two");
    let (two, _) = bench.submit().unwrap();
    // Two was taken while one was refused as busy; one can only come behind it.
    bench.refuse(one, Refusal::StaleCounter { last: two });
    assert_eq!(bench.next_numbering(key(7).public()).number, 3, "nothing was jumped over");
}

/// The mailbox of a lane that is not used any more, imported elsewhere.
fn moved_to(dir: &std::path::Path, mailbox: &Mailbox) -> Mailbox {
    let passphrase = crate::Passphrase::new("a long one".into()).unwrap();
    let mut file = Vec::new();
    crate::export::export_at(2, mailbox.dir(), &passphrase, &mut file).unwrap();
    Mailbox::import(&file[..], &passphrase, &dir.join("imported")).unwrap().0
}

#[tokio::test]
async fn what_waited_at_the_export_is_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = mailbox(&dir.path().join("m"));
    let mut old = bench(&mailbox);
    old.give(key(7).public(), "one");
    let one = old.submit().unwrap();
    drop(old);
    let imported = moved_to(dir.path(), &mailbox);
    // The same bytes: whether the origin has them or not, they are taken once.
    let mut new = bench(&imported);
    assert_eq!(new.submit(), Some(one.clone()));
    // It does not know the bytes any more, but the counter was used: the mailbox has sent them after the export.
    new.refuse(one.0, Refusal::StaleCounter { last: 70 });
    assert_eq!(new.submit(), None, "old mail is not signed anew");
    drop(new);
    let mut new = bench(&imported);
    assert_eq!((new.submit(), new.lane.pending()), (None, 0), "nor by the next process");
    new.give(key(7).public(), "two");
    let (two, _) = new.submit().unwrap();
    assert_eq!(new.numbers(two), [[71]], "its number jumps over what was forgotten");
    new.refuse(two, Refusal::StaleCounter { last: 70 });
    assert_eq!(new.submit().unwrap().0, 71, "what is given here is sent");
}

#[tokio::test]
async fn what_waited_at_the_export_and_was_never_taken_is_signed_anew_when_it_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = mailbox(&dir.path().join("m"));
    let mut old = bench(&mailbox);
    old.give(key(7).public(), "one");
    let one = old.submit().unwrap();
    drop(old);
    let mut new = bench(&moved_to(dir.path(), &mailbox));
    assert_eq!(new.submit(), Some(one.clone()));
    new.refuse(one.0, Refusal::BadValidity { valid_until: 0, from: 5_000, to: 9_000 });
    assert_eq!(new.submit().unwrap().0, 2);
}
