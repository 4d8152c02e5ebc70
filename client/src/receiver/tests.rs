use std::path::{Path, PathBuf};

use postroad_protocol::attestation::LogHead;
use postroad_protocol::evidence::Fault;
use postroad_protocol::explanation::{Explanation, Found};
use postroad_protocol::merkle::log::Log;
use postroad_protocol::merkle::tree;
use postroad_protocol::message::Message;
use postroad_protocol::wire::client::{Expired, ToClient};

use super::*;
use crate::connection::NodeAddr;
use crate::control::{Control, Fate, Forgotten, Numbering};
use crate::fixture::{Delivered, Order, key};
use crate::seal::{Binding, Plain, SealTo, Seen};

#[path = "moved_tests.rs"]
mod moved;

const SENDER: u8 = 5;

/// A receiver whose home's words are put into its ear.
struct Bench {
    order: Order,
    dir: PathBuf,
    receiver: Receiver,
}

fn mailbox(dir: &Path) -> Mailbox {
    std::fs::write(dir.join("identity.key"), hex::encode([7; 32])).unwrap();
    let home = NodeAddr::new(key(1).public(), "/ip4/127.0.0.1/tcp/9").unwrap();
    Mailbox::create(dir, &home, &crate::fixture::federation()).unwrap()
}

fn sender() -> MailboxId {
    key(SENDER).public()
}

impl Bench {
    fn new(dir: &Path, keep: Keep) -> Bench {
        let options = ReceiverOptions { follow: true, keep: Some(keep), ..ReceiverOptions::default() };
        let receiver = Receiver::open(&mailbox(dir), options).unwrap();
        Bench { order: Order::new(), dir: dir.to_owned(), receiver }
    }

    /// The same mailbox in the next process.
    fn restart(self, options: ReceiverOptions) -> Bench {
        let Bench { order, dir, receiver } = self;
        drop(receiver);
        let receiver = Receiver::open(&Mailbox::open(&dir).unwrap(), options).unwrap();
        Bench { order, dir, receiver }
    }

    fn seal(&self, plain: &Plain, numbering: Numbering) -> Message {
        let mailbox = self.receiver.mailbox();
        let binding = Binding { federation: self.order.federation.id(), sender: sender() };
        let to = SealTo { mailbox: mailbox.address(), encryption_key: mailbox.encryption().public(), numbering };
        binding.seal(plain, Seen::default(), &[to]).unwrap()
    }

    fn order_numbers(&mut self, numbers: impl IntoIterator<Item = u64>) -> Vec<Delivered> {
        let plain = Plain::Body(b"good day".to_vec());
        let numberings = numbers.into_iter().map(|number| Numbering { number, ..Numbering::default() });
        let messages = numberings.map(|numbering| self.seal(&plain, numbering)).collect();
        self.order.deliver_messages(messages)
    }

    fn read(&mut self, delivered: &[Delivered]) -> Result<(), ClientError> {
        for Delivered { entry, cut } in delivered {
            self.receiver.take(ToClient::Cut(cut.clone()))?;
            self.receiver.take(ToClient::Entry(Box::new(entry.clone())))?;
        }
        Ok(())
    }

    /// Messages with these numbers arrive, and nothing below them can come late any more.
    fn arrive(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let delivered = self.order_numbers(numbers);
        self.read(&delivered).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        let epoch = self.order.epoch();
        let size = self.receiver.reading;
        self.receiver.take(ToClient::Settled(Settled { epoch, size, below: (epoch + 1, 0) })).unwrap();
    }

    /// The home attests the log as it is, and a cut makes that final.
    fn final_word(&mut self) {
        let attested = self.order.attest();
        let attested = self.order.anchor(attested);
        self.receiver.take(ToClient::Attested(Box::new(attested))).unwrap();
    }

    async fn drain(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while !self.receiver.queue.is_empty() {
            all.extend(self.receiver.next().await.unwrap());
        }
        all
    }

    /// What is told besides mail.
    async fn news(&mut self) -> Vec<Received> {
        let mut all = self.drain().await;
        all.retain(|received| !matches!(received, Received::Message(_) | Received::Settled { .. }));
        self.receiver.acknowledge().await.unwrap();
        all
    }

    async fn arrive_control(&mut self, control: Control, number: u64) -> Vec<Received> {
        let numbering = Numbering { number, ..Numbering::default() };
        let message = self.seal(&Plain::Control(control), numbering);
        let delivered = self.order.deliver_messages(vec![message]);
        self.read(&delivered).unwrap();
        self.news().await
    }

    /// How many rows the store has of entries, and how many bytes its file.
    fn kept(&self) -> (usize, u64) {
        let file = self.dir.join("recv").join("store.redb");
        (self.receiver.shelf.notes().len(), std::fs::metadata(file).unwrap().len())
    }
}

fn following() -> ReceiverOptions {
    ReceiverOptions { follow: true, ..ReceiverOptions::default() }
}

fn gap(from: u64, to: u64) -> Received {
    Received::Gap { sender: sender(), hole: Hole { from, to, hint: None, asked: false } }
}

fn closed(from: u64, to: u64, why: Closed) -> Received {
    Received::GapClosed { sender: sender(), from, to, why }
}

#[tokio::test]
async fn a_hole_is_told_at_every_start_until_its_sender_was_asked_and_again_when_it_closes() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    let late = bench
        .order
        .order(vec![bench.seal(&Plain::Body(b"late".to_vec()), Numbering { number: 2, ..Numbering::default() })]);
    bench.arrive([1, 4]);
    assert_eq!(bench.news().await, [gap(2, 3)]);
    let mut bench = bench.restart(following());
    assert_eq!(bench.news().await, [gap(2, 3)]);
    bench.receiver.delivery.asked(&sender(), 2);
    bench.receiver.touched.insert(sender());
    bench.receiver.acknowledge().await.unwrap();
    let mut bench = bench.restart(following());
    assert_eq!(bench.news().await, []);
    assert!(bench.receiver.is_asked(&sender(), 2));
    let (cut, proofs) = late;
    let other = bench.seal(&Plain::Body(vec![]), Numbering::default());
    bench.order.order(vec![other]);
    let settled = bench.order.epoch();
    let late: Vec<Delivered> = proofs.into_iter().map(|proof| bench.order.append(proof, &cut, settled)).collect();
    bench.read(&late).unwrap();
    assert_eq!(bench.news().await, [closed(2, 2, Closed::Arrived)]);
    assert_eq!(bench.receiver.holes().map(|(_, hole)| (hole.from, hole.to)).collect::<Vec<_>>(), [(3, 3)]);
}

#[tokio::test]
async fn control_mail_is_no_mail_takes_a_number_and_is_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive([1]);
    bench.news().await;
    let told = bench.arrive_control(Control::Ask { from: 3, to: 4 }, 2).await;
    assert!(matches!(told.as_slice(), [Received::Control(mail)] if mail.body().is_none()), "{told:?}");
    bench.arrive([3]);
    assert_eq!(bench.news().await, [], "the question took number 2");
    let mut bench = bench.restart(following());
    assert!(bench.receiver.has_letters(), "the question is durable");
    assert_eq!(bench.receiver.letters.duty().map(|duty| (duty.peer, duty.from, duty.to)), Some((sender(), 3, 4)));
    let Some(Received::Control(mail)) = told.first() else { unreachable!("it was just looked at") };
    bench.receiver.letter(mail);
    bench.receiver.letters.answered();
    bench.receiver.letters.answered();
    assert!(!bench.receiver.has_letters(), "read again, it is not answered again");
}

#[tokio::test]
async fn a_stranger_s_question_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive_control(Control::Ask { from: 1, to: 3 }, 1).await;
    assert!(bench.receiver.has_letters());
    assert!(bench.receiver.correspond_alone().await.unwrap());
    assert!(!bench.receiver.has_letters());
    // While another sender runs, letters wait.
    bench.arrive_control(Control::Ask { from: 1, to: 3 }, 2).await;
    let other = crate::sender::Sender::connect(bench.receiver.mailbox(), Default::default()).await.unwrap();
    assert!(!bench.receiver.correspond_alone().await.unwrap());
    assert!(bench.receiver.has_letters());
    assert_eq!(bench.receiver.correspond(&other).await.unwrap(), 0);
    assert!(!bench.receiver.has_letters());
}

#[tokio::test]
async fn what_the_sender_gave_up_is_missing_no_more_and_its_word_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive([1, 4]);
    assert_eq!(bench.news().await, [gap(2, 3)]);
    let told = |number, fate| Told { number, fate, seq: None, statements: vec![] };
    let (unknown, given_up) = (told(2, Fate::Unknown), told(3, Fate::GivenUp));
    let unasked = told(90, Fate::GivenUp);
    assert_eq!(bench.arrive_control(Control::Told(unknown.clone()), 5).await.len(), 1, "it explains nothing");
    let news = bench.arrive_control(Control::Told(given_up), 6).await;
    assert_eq!(news[1..], [closed(3, 3, Closed::GivenUp)]);
    bench.arrive_control(Control::Told(unasked), 7).await;
    let bench = bench.restart(following());
    assert_eq!(bench.receiver.told(&sender(), 2).unwrap(), Some(unknown));
    assert_eq!(bench.receiver.told(&sender(), 90).unwrap(), None, "nobody has asked for that");
}

#[tokio::test]
async fn a_claim_of_refusal_needs_its_proof() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive([1, 3]);
    bench.news().await;
    let seq = Some(Seq { epoch: 2, position: 0, index: 1 });
    let told = Told { number: 2, fate: Fate::Ordered, seq, statements: vec![0x80] };
    assert_eq!(bench.arrive_control(Control::Told(told), 4).await.len(), 1);
    assert_eq!(bench.receiver.holes().count(), 1);
}

/// Ten thousand messages, acknowledged in groups of 250, as `recv` does, of a home that attests its log or does not.
async fn ten_thousand(bench: &mut Bench, attests: bool) {
    for group in 0..40 {
        bench.arrive((1..=250).map(|at| group * 250 + at));
        assert_eq!(bench.news().await, []);
        if attests {
            bench.final_word();
        }
    }
}

#[tokio::test]
async fn the_frontier_alone_is_of_constant_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Frontier);
    ten_thousand(&mut bench, true).await;
    let (rows, bytes) = bench.kept();
    assert_eq!(rows, 0);
    assert!(bytes < 1 << 20, "{bytes}");
}

#[tokio::test]
async fn cross_checked_keeps_the_last_of_each_sender_and_what_lies_beside_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    ten_thousand(&mut bench, true).await;
    let (rows, bytes) = bench.kept();
    assert_eq!(rows, 1);
    assert!(bytes < 1 << 20, "{bytes}");
    bench.arrive([10_001, 10_004, 10_005, 10_006]);
    assert_eq!(bench.news().await, [gap(10_002, 10_003)]);
    let kept: Vec<_> = bench.receiver.shelf.notes().values().map(|note| note.number.unwrap()).collect();
    assert_eq!(kept, [10_001, 10_004, 10_006]);
    let first = *bench.receiver.shelf.notes().keys().next().unwrap();
    let entry = bench.receiver.kept(first).unwrap().unwrap();
    assert!(entry.holds(&bench.receiver.mailbox().address()));
    assert!(!entry.holds(&sender()));
    let size = postroad_protocol::codec::encode(&entry).len();
    assert!((600..1_400).contains(&size), "{size} bytes, as docs/clients.md says");
    let [before, after] = bench.receiver.kept_beside(entry.leaf.seq).unwrap();
    assert_eq!((before.unwrap().0, after.unwrap().0), (first, first + 1));
}

#[tokio::test]
async fn epochs_keeps_those_of_the_last_epochs_and_tells_the_log_from_there_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Epochs(8));
    ten_thousand(&mut bench, false).await;
    // One cut orders a group, and nine cuts are in the last eight epochs and the newest.
    let (rows, bytes) = bench.kept();
    assert_eq!(rows, 9 * 250);
    assert!(bytes < 10 << 20, "{bytes}, with the leaves that no attestation covers");
    let mut bench = bench.restart(following());
    assert_eq!((bench.receiver.shelf.keep(), bench.kept().0), (Keep::Epochs(8), rows));
    let head = bench.receiver.log_at(10_000).unwrap();
    assert_eq!(head, bench.receiver.verifier.head());
    assert!(bench.receiver.log_at(9_000).is_some());
    assert_eq!(bench.receiver.log_at(7_000), None);
    // So an attestation of an old size is compared with the log that was.
    let honest = bench.receiver.log_at(9_000).unwrap();
    let lie = LogHead { root: Digest([3; 32]), ..honest };
    let newest = bench.order.attest_as(9, head);
    bench.receiver.take(ToClient::Attested(Box::new(newest))).unwrap();
    let old = bench.order.attest_as(7, honest);
    assert!(bench.receiver.compare_old(&old).is_ok());
    let old = bench.order.attest_as(7, lie);
    let told = bench.receiver.take(ToClient::Attested(Box::new(old)));
    assert!(matches!(told, Err(ClientError::Violation(Violation::Root { number: 7, size: 9_000 }))), "{told:?}");
}

#[tokio::test]
async fn what_is_not_kept_is_read_again_against_the_log_that_it_must_make() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Frontier);
    let delivered = bench.order_numbers(1..=6);
    bench.read(&delivered).unwrap();
    bench.news().await;
    let other = bench.order_numbers([1]);
    let from = Some(Seq { index: 3, ..entry_seq(&delivered[0], &bench) });
    let options = || ReceiverOptions { from, ..following() };
    let mut bench = bench.restart(options());
    assert_eq!(bench.receiver.reading, 0);
    bench.read(&delivered).unwrap();
    let seqs: Vec<u64> = (bench.drain().await.iter())
        .map(|received| match received {
            Received::Message(mail) => mail.seq.index,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs, [3, 4, 5]);
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!(bench.kept().0, 0);
    // One of them replaced by another message of the same sender, which is proven just as well.
    let mut bench = bench.restart(options());
    let mut changed = delivered.clone();
    changed[1] = other[0].clone();
    changed[1].entry.log_index = 1;
    let told = bench.read(&changed);
    assert!(matches!(told, Err(ClientError::Violation(Violation::Changed { index: 5 }))), "{told:?}");
}

fn leaf(delivered: &Delivered, bench: &Bench) -> LogLeaf {
    let placed = delivered.entry.proof.verify(&delivered.cut.header, &bench.order.federation).unwrap();
    LogLeaf { settled: delivered.entry.settled, seq: placed.seq, message: placed.id, own: placed.own }
}

#[tokio::test]
async fn another_way_to_keep_is_remembered_and_applied_to_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Epochs(100));
    bench.arrive(1..=6);
    bench.news().await;
    assert_eq!(bench.kept().0, 6);
    for (keep, rows) in [(Keep::CrossChecked, 1), (Keep::Frontier, 0), (Keep::Epochs(3), 0)] {
        bench = bench.restart(ReceiverOptions { keep: Some(keep), ..following() });
        bench.receiver.acknowledge().await.unwrap();
        bench = bench.restart(following());
        assert_eq!((bench.receiver.shelf.keep(), bench.kept().0), (keep, rows));
    }
    // Kept again from here on.
    bench.arrive(7..=9);
    bench.news().await;
    assert_eq!((bench.kept().0, bench.receiver.shelf.head_at(8).is_some()), (3, true));
    assert_eq!((bench.receiver.shelf.head_at(5), "epochs=3".parse()), (None, Ok(Keep::Epochs(3))));
}

fn entry_seq(delivered: &Delivered, bench: &Bench) -> Seq {
    delivered.entry.proof.verify(&delivered.cut.header, &bench.order.federation).unwrap().seq
}

#[tokio::test]
async fn the_attestations_that_show_a_split_view_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Frontier);
    bench.arrive(1..=3);
    bench.news().await;
    let honest = bench.order.attest();
    let number = honest.attestation.body.number;
    bench.receiver.take(ToClient::Attested(Box::new(honest.clone()))).unwrap();
    bench.receiver.acknowledge().await.unwrap();
    let mut bench = bench.restart(following());
    assert_eq!(bench.receiver.attestations(), std::slice::from_ref(&honest));
    let lie = bench.order.attest_as(number, LogHead { size: 2, root: Digest([3; 32]) });
    let told = bench.receiver.take(ToClient::Attested(Box::new(lie.clone())));
    assert!(matches!(told, Err(ClientError::Violation(Violation::TwoAttestations { .. }))), "{told:?}");
    assert!(bench.receiver.next().await.is_err() && bench.receiver.next().await.is_err());
    let bench = bench.restart(following());
    assert_eq!(bench.receiver.attestations(), [honest, lie]);
}

/// A mailbox's `recv/` as it was, put back later.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_receiver_from_an_old_backup_reads_again_what_it_forgot_without_an_alarm() {
    for keep in [Keep::Frontier, Keep::CrossChecked, Keep::Epochs(100)] {
        let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut bench = Bench::new(dir.path(), keep);
        bench.arrive(1..=3);
        bench.news().await;
        let first = bench.order.attest();
        bench.receiver.take(ToClient::Attested(Box::new(first))).unwrap();
        bench.receiver.acknowledge().await.unwrap();
        let Bench { order, dir: path, receiver } = bench;
        drop(receiver);
        copy(&path.join("recv"), backup.path());
        let receiver = Receiver::open(&Mailbox::open(&path).unwrap(), following()).unwrap();
        let mut bench = Bench { order, dir: path, receiver };
        let forgotten = bench.order_numbers(4..=9);
        bench.read(&forgotten).unwrap();
        bench.news().await;
        let Bench { order, dir: path, receiver } = bench;
        drop(receiver);
        copy(backup.path(), &path.join("recv"));
        let receiver = Receiver::open(&Mailbox::open(&path).unwrap(), following()).unwrap();
        let mut bench = Bench { order, dir: path, receiver };
        assert_eq!(bench.receiver.reading, 3);
        bench.read(&forgotten).unwrap();
        bench.settle();
        let newest = bench.order.attest();
        bench.receiver.take(ToClient::Attested(Box::new(newest))).unwrap();
        let shown = bench.drain().await;
        let messages = shown.iter().filter(|received| matches!(received, Received::Message(_))).count();
        assert_eq!(messages, 6, "{shown:?}");
        bench.receiver.acknowledge().await.unwrap();
        bench.arrive(10..=12);
        assert_eq!(bench.news().await, []);
    }
}

#[tokio::test]
async fn what_expired_before_it_was_read_is_told_as_expired_and_not_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    let first = bench.order_numbers(1..=2);
    bench.read(&first).unwrap();
    bench.settle();
    bench.news().await;
    let lost = bench.order_numbers(3..=6);
    let mut log = Log::new();
    let leaves: Vec<LogLeaf> = first.iter().chain(&lost).map(|delivered| leaf(delivered, &bench)).collect();
    leaves.iter().for_each(|leaf| log.append(leaf.hash()));
    let before = log.frontier_at(5).unwrap();
    let expired = Expired { before, last: leaves[5], path: log.consistency(2, 6).unwrap() };
    bench.receiver.expired_to = 6;
    bench.receiver.take(ToClient::Expired(Box::new(expired))).unwrap();
    assert_eq!(bench.news().await, [Received::Expired { from: 2, to: 6 }]);
    bench.arrive([8]);
    assert_eq!(bench.news().await, [], "3 to 7 may all have expired");
    bench.arrive([10]);
    assert_eq!(bench.news().await, [gap(9, 9)]);
}

#[tokio::test]
async fn numbers_that_a_restored_sender_uses_again_or_jumps_over_are_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive(1..=9);
    bench.news().await;
    // It remembers three, uses four again, is told of six more, and jumps.
    bench.arrive([4]);
    assert_eq!(bench.news().await, []);
    let forgotten = Some(Forgotten { from: 5, to: 10 });
    let numbering = Numbering { number: 11, previous: None, forgotten };
    let message = bench.seal(&Plain::Body(b"back".to_vec()), numbering);
    let delivered = bench.order.deliver_messages(vec![message]);
    bench.read(&delivered).unwrap();
    bench.settle();
    assert_eq!(bench.news().await, []);
    bench.arrive([13]);
    assert_eq!(bench.news().await, [gap(12, 12)], "holes are seen again");
}

#[tokio::test]
async fn what_is_kept_is_this_mailboxs_part_of_an_explanation() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::Epochs(1_000));
    bench.arrive(1..=5);
    let attested = bench.order.attest();
    let anchored = bench.order.anchor(attested);
    bench.receiver.take(ToClient::Attested(Box::new(anchored.clone()))).unwrap();
    bench.news().await;
    let leaf = bench.receiver.kept_leaf(3).unwrap();
    let mailbox = bench.receiver.mailbox().clone();
    assert!(matches!(Memory::open(&mailbox), Err(ClientError::Store(_))), "the receiver has it");
    drop(bench);
    let memory = Memory::open(&mailbox).unwrap();
    let known = memory.known(leaf.seq).unwrap();
    assert_eq!(known.included.as_ref().unwrap().seq(3), leaf.seq);
    assert_eq!(known.disclosed.unwrap().message.message, leaf.message);
    let Found::Entry(entry) = known.log.unwrap().found else { panic!("it is in the log") };
    assert_eq!((entry.index, entry.leaf), (3, leaf));
    let root = tree::root_from_path(leaf.hash(), 3, anchored.log.log.size, &entry.path);
    assert_eq!(root, Some(anchored.log.log.root), "the home has signed that");
    let unknown = Seq { epoch: 900, ..leaf.seq };
    assert_eq!(memory.known(unknown).unwrap(), Explanation::new(mailbox.address(), unknown));
    assert_eq!(memory.missing(&sender(), 9).unwrap(), None);
}

#[tokio::test]
async fn a_hint_in_a_later_message_says_where_a_missing_one_stands() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive([1]);
    let (seq, via) = (Seq { epoch: 3, position: 0, index: 4 }, Some(key(2).public()));
    let previous = Some(crate::control::Previous { number: 2, seq, via });
    let message = bench.seal(&Plain::Body(b"the third".to_vec()), Numbering { number: 3, previous, forgotten: None });
    let delivered = bench.order.deliver_messages(vec![message]);
    bench.read(&delivered).unwrap();
    bench.settle();
    let mailbox = bench.receiver.mailbox().clone();
    bench.news().await;
    drop(bench);
    let found = Memory::open(&mailbox).unwrap().missing(&sender(), 2).unwrap();
    assert_eq!(found, Some(Explanation::new(mailbox.address(), seq)));
}

#[tokio::test]
async fn a_broken_word_that_proves_something_is_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), Keep::CrossChecked);
    bench.arrive(1..=2);
    assert_eq!(bench.receiver.evidence(), []);
    let message = bench.seal(&Plain::Body(b"never sent".to_vec()), Numbering { number: 3, ..Numbering::default() });
    let (cut, mut proofs) = bench.order.order_signed(vec![message], &key(2));
    let settled = cut.header.epoch;
    let forged =
        Delivered { entry: postroad_protocol::entry::Entry { log_index: 2, settled, proof: proofs.remove(0) }, cut };
    bench.read(&[forged]).unwrap();
    let news = bench.news().await;
    let told = news.iter().find_map(|received| match received {
        Received::Unsound { index: 2, evidence } => Some((evidence.verdict().fault, evidence.verdict().culprit)),
        _ => None,
    });
    assert_eq!(told, Some((Fault::Forgery, key(2).public())), "{news:?}");

    let other = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(other.path(), Keep::CrossChecked);
    bench.arrive(1..=2);
    let honest = bench.order.attest();
    let twin = bench.order.attest_as(honest.attestation.body.number, LogHead { size: 1, root: Digest([3; 32]) });
    bench.receiver.take(ToClient::Attested(Box::new(honest))).unwrap();
    assert!(bench.receiver.take(ToClient::Attested(Box::new(twin))).is_err());
    let verdict = bench.receiver.evidence()[0].verdict();
    assert_eq!((verdict.fault, verdict.culprit), (Fault::SplitView, key(1).public()));
}
