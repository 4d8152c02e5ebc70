use postroad_protocol::Digest;
use postroad_protocol::attestation::LogHead;
use postroad_protocol::batch::AttestationRef;
use postroad_protocol::cut::vote;
use postroad_protocol::evidence::Fault;
use postroad_protocol::explanation::Residence;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::Base;

use super::*;
use crate::fixture::{Delivered, Order, federation, key};
use crate::seal::foreign;

fn verdict(evidence: Option<Evidence>) -> (Fault, Seed) {
    let evidence = evidence.expect("it convicts");
    let seed = [1, 2].into_iter().find(|seed| key(*seed).public() == evidence.verdict().culprit);
    (evidence.verdict().fault, seed.expect("a node"))
}

/// By its seed.
type Seed = u8;
const HOME: Seed = 1;
const ORIGIN: Seed = 2;

fn leaf(delivered: &Delivered) -> LogLeaf {
    served_leaf(&delivered.entry, &delivered.cut, &federation()).expect("it leads to a header")
}

/// A log of these leaves, attested and made final.
fn attested(order: &mut Order, leaves: &[LogLeaf]) -> (MailboxAttestation, Vec<LeafAt>) {
    let mut log = Frontier::new();
    let hashes: Vec<Digest> = leaves.iter().map(LogLeaf::hash).collect();
    hashes.iter().for_each(|hash| log.append(*hash));
    let attestation = order.attest_log(LogHead { size: log.size(), root: log.root() });
    let at = |index: u64| LeafAt {
        index,
        leaf: leaves[index as usize],
        path: Frontier::new().inclusion_after(&hashes, index).unwrap(),
    };
    (order.anchor(attestation), (0..log.size()).map(at).collect())
}

#[test]
fn what_origins_may_not_seal_convicts_them_and_what_they_may_does_not() {
    let (mut order, federation) = (Order::new(), federation());
    let first = order.deliver(&["one"]).remove(0);
    let second = order.deliver(&["two"]).remove(0);
    let pair =
        |a: &Delivered, b: &Delivered| misordered((&a.entry.proof, &a.cut), (&b.entry.proof, &b.cut), &federation);
    assert_eq!(pair(&first, &second), None);
    assert_eq!(entry(&first.entry.proof, &first.cut, &federation), None);
    order.set_back(1);
    let again = order.deliver(&["once more"]).remove(0);
    assert_eq!(verdict(pair(&first, &again)), (Fault::Misordering, ORIGIN));
    assert_eq!(pair(&first, &again), pair(&again, &first), "in any order");
    let message = foreign(b"never sent", &[(key(7).public(), vec![])]);
    let (cut, proofs) = order.order_signed(vec![message], &key(2));
    assert_eq!(verdict(entry(&proofs[0], &cut, &federation)), (Fault::Forgery, ORIGIN));
}

#[test]
fn attestations_that_contradict_each_other_convict_their_home() {
    let (mut order, federation) = (Order::new(), federation());
    order.deliver(&["one", "two"]);
    let honest = order.attest();
    let number = honest.attestation.body.number;
    let short = LogHead { size: 1, root: Digest([3; 32]) };
    let twin = order.attest_as(number, short);
    let (a, b) = (&honest.attestation, &twin.attestation);
    assert_eq!(verdict(two_attestations(a, b, &federation)), (Fault::SplitView, HOME));
    assert_eq!(two_attestations(a, b, &federation), two_attestations(b, a, &federation));
    assert_eq!(two_attestations(a, a, &federation), None);
    let later = order.attest_as(number + 1, short);
    let (mailbox, home) = (key(7).public(), order.home_proof());
    let shrunk = split_logs(mailbox, (&later, None), (&honest, None), &home, &federation);
    assert_eq!(verdict(shrunk), (Fault::SplitView, HOME));
    let grown = order.attest_as(number + 1, honest.log.log);
    let home = order.home_proof();
    assert_eq!(split_logs(mailbox, (&honest, None), (&grown, None), &home, &federation), None);
    assert_eq!(false_home(mailbox, &grown, &home, &federation), None);
}

fn word(attestation: &MailboxAttestation) -> FinalWord {
    FinalWord::of(attestation).expect("it is final")
}

#[test]
fn a_final_log_in_another_order_or_of_other_messages_convicts_its_home() {
    let (mut order, federation) = (Order::new(), federation());
    let mailbox = key(7).public();
    let (one, two) = (order.deliver(&["one"]).remove(0), order.deliver(&["two"]).remove(0));
    let (honest, entries) = attested(&mut order, &[leaf(&one), leaf(&two)]);
    let home = order.home_proof();
    assert_eq!(out_of_order(mailbox, word(&honest), &entries[0], &entries[1], &home, &federation), None);
    let (swapped, wrong) = attested(&mut order, &[leaf(&two), leaf(&one)]);
    let home = order.home_proof();
    let found = out_of_order(mailbox, word(&swapped), &wrong[0], &wrong[1], &home, &federation);
    assert_eq!(verdict(found), (Fault::WrongEntry, HOME));

    let mut truth = Explanation::new(mailbox, leaf(&one).seq);
    truth.included = Some(parts(&one.entry.proof, &one.cut).0);
    truth.disclosed = Disclosed::of(&one.entry.proof).ok().map(Box::new);
    truth.residence = Some(Residence { home: order.home_proof(), loss: None });
    assert_eq!(wrong_entry(word(&honest), &entries[0], &truth, &federation), None);
    let mut altered = one.clone();
    altered.entry.proof.recipient.own = b"something else".to_vec();
    assert_ne!(leaf(&altered), leaf(&one), "the home has to attest what it serves, or contradict itself");
    let (lie, entries) = attested(&mut order, &[leaf(&altered), leaf(&two)]);
    truth.residence = Some(Residence { home: order.home_proof(), loss: None });
    assert_eq!(verdict(wrong_entry(word(&lie), &entries[0], &truth, &federation)), (Fault::WrongEntry, HOME));
}

#[test]
fn forgetting_before_its_time_convicts_a_home() {
    let (mut order, federation) = (Order::new(), federation());
    let one = order.deliver(&["one"]).remove(0);
    let entry =
        LeafAt { index: 0, leaf: leaf(&one), path: Frontier::new().inclusion_after(&[leaf(&one).hash()], 0).unwrap() };
    let claim = |attestation: &MailboxAttestation, home: &HomeProof| {
        early_expiry(key(7).public(), FinalWord::of(attestation)?, &entry, one.cut.clone(), home, &federation)
    };
    let kept = order.attest();
    let kept = order.anchor(kept);
    assert_eq!(claim(&kept, &order.home_proof()), None);
    let forgotten = order.attest_forgotten(1);
    assert_eq!(claim(&forgotten, &order.home_proof()), None, "it is not final");
    let forgotten = order.anchor(forgotten);
    assert_eq!(verdict(claim(&forgotten, &order.home_proof())), (Fault::EarlyExpiry, HOME));
}

#[test]
fn an_import_of_what_was_not_attested_convicts_the_new_home() {
    let (mut order, federation) = (Order::new(), federation());
    let delivered = order.deliver(&["one"]).remove(0);
    let (attestation, _) = attested(&mut order, &[leaf(&delivered)]);
    let Attestation { node, number, epoch, .. } = attestation.attestation.body;
    let named = AttestationRef { number, digest: attestation.attestation.digest(&federation), epoch };
    let claim = |log: LogHead| {
        let (mailbox, home, previous) = (key(7).public(), key(ORIGIN).public(), Digest::ZERO);
        let base = Some(Base { node, attestation: named, log });
        let body = Import { mailbox, home, previous, base, through: epoch, missing: Vec::new() };
        let import = Signed::sign(body, &key(ORIGIN), &federation).into_inner();
        false_base(&import, Refuted::Log(Box::new(attestation.clone().into())), &federation)
    };
    assert_eq!(claim(attestation.log.log), None);
    let shorter = LogHead { size: 0, root: Frontier::new().root() };
    assert_eq!(verdict(claim(shorter)), (Fault::FalseImport, ORIGIN));
}

#[test]
fn two_cuts_of_one_epoch_convict_the_sequencer() {
    let (mut order, federation) = (Order::new(), federation());
    let one = order.deliver(&["one"]).remove(0).cut;
    let mut header = one.header.clone();
    header.time_ms += 1;
    let certificate = vec![vote(&key(1), header.digest(&federation))];
    let other = CertifiedCut { header, certificate };
    assert_eq!(verdict(split_order(one.clone(), other, &federation)), (Fault::SplitOrder, HOME));
    assert_eq!(split_order(one.clone(), one, &federation), None);
}
