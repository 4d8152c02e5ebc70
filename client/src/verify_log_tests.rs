use super::*;
use crate::fixture::{Delivered, Order, key};
use crate::seal::foreign;
use postroad_protocol::codec::{decode, encode};

fn verifier() -> LogVerifier {
    LogVerifier::new(key(7).public(), key(1).public())
}

fn take(verifier: &mut LogVerifier, order: &Order, delivered: &Delivered) -> Result<Checked, Violation> {
    verifier.entry(&delivered.entry, &delivered.cut.header, &order.federation)
}

#[test]
fn entries_in_order_and_their_attestation_hold() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let empty = order.attest();
    assert_eq!(
        verifier.attested(&empty, &order.federation),
        Ok(Attested::Holds { epoch: order.epoch(), size: 0, is_final: false })
    );
    let mut seqs = Vec::new();
    for bodies in [&["a", "b"][..], &["c"]] {
        for delivered in order.deliver(bodies) {
            seqs.push(take(&mut verifier, &order, &delivered).unwrap().leaf.seq.to_string());
        }
    }
    assert_eq!(seqs, ["2.0.0", "2.0.1", "3.0.0"]);
    let attested = order.attest();
    let epoch = order.epoch();
    let attested = order.anchor(attested);
    assert_eq!(verifier.attested(&attested, &order.federation), Ok(Attested::Holds { epoch, size: 3, is_final: true }));
    assert_eq!(verifier.head(), attested.log.log);
}

#[test]
fn an_attestation_ahead_waits_for_its_entries() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered = order.deliver(&["a", "b"]);
    let attested = order.attest();
    assert_eq!(verifier.attested(&attested, &order.federation), Ok(Attested::Ahead { size: 2 }));
    take(&mut verifier, &order, &delivered[0]).unwrap();
    assert_eq!(verifier.caught_up(&order.federation), Ok(None));
    take(&mut verifier, &order, &delivered[1]).unwrap();
    let holds = Attested::Holds { epoch: order.epoch(), size: 2, is_final: false };
    assert_eq!(verifier.caught_up(&order.federation), Ok(Some(holds)));
}

#[test]
fn every_attestation_that_waits_is_compared_and_not_the_newest_alone() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered = order.deliver(&["a", "b", "c"]);
    let lie = order.attest_log(LogHead { size: 2, root: Digest([9; 32]) });
    let honest = order.attest();
    for attested in [&lie, &honest] {
        assert!(matches!(verifier.attested(attested, &order.federation), Ok(Attested::Ahead { .. })));
    }
    take(&mut verifier, &order, &delivered[0]).unwrap();
    assert_eq!(verifier.caught_up(&order.federation), Ok(None));
    take(&mut verifier, &order, &delivered[1]).unwrap();
    assert_eq!(verifier.caught_up(&order.federation), Err(Violation::Root { number: 1, size: 2 }));
}

#[test]
fn a_missing_entry_a_repeated_one_and_a_swapped_one_are_refused() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered: Vec<Delivered> = ["a", "b", "c"].iter().flat_map(|body| order.deliver(&[body])).collect();
    take(&mut verifier, &order, &delivered[0]).unwrap();
    assert_eq!(take(&mut verifier, &order, &delivered[2]), Err(Violation::Index { expected: 1, found: 2 }));
    assert_eq!(take(&mut verifier, &order, &delivered[0]), Err(Violation::Index { expected: 1, found: 0 }));
    // The home hides entry 1 and renumbers: the order still rises, so only the attested root tells.
    let mut renumbered = delivered[2].clone();
    renumbered.entry.log_index = 1;
    take(&mut verifier, &order, &renumbered).unwrap();
    // And going back in the order does not pass at all.
    let mut back = delivered[1].clone();
    back.entry.log_index = 2;
    assert!(matches!(take(&mut verifier, &order, &back), Err(Violation::Order { index: 2, .. })));
    let head = LogHead { size: 2, root: Digest([1; 32]) };
    let attested = order.attest_log(head);
    assert_eq!(verifier.attested(&attested, &order.federation), Err(Violation::Root { number: 1, size: 2 }));
}

#[test]
fn fills_come_first_in_their_epoch() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let (early, mut late) = order.order(vec![foreign(b"late", &[(key(7).public(), vec![])])]);
    let (cut, mut on_time) = order.order(vec![foreign(b"on time", &[(key(7).public(), vec![])])]);
    let epoch = cut.header.epoch;
    let first = order.append(late.remove(0), &early, epoch);
    let second = order.append(on_time.remove(0), &cut, epoch);
    let checked = take(&mut verifier, &order, &first).unwrap();
    assert!(checked.leaf.is_late());
    assert!(!take(&mut verifier, &order, &second).unwrap().leaf.is_late());
    let mut swapped = LogVerifier::new(key(7).public(), key(1).public());
    let (mut first, mut second) = (second, first);
    (first.entry.log_index, second.entry.log_index) = (0, 1);
    take(&mut swapped, &order, &first).unwrap();
    assert!(matches!(take(&mut swapped, &order, &second), Err(Violation::Order { index: 1, .. })));
}

#[test]
fn entries_that_are_not_what_they_seem_are_refused() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered = order.deliver(&["a"]).remove(0);
    let other = order.deliver(&["b"]).remove(0);
    let federation = order.federation.clone();
    let mut altered = delivered.clone();
    altered.entry.proof.common.push(0);
    assert!(matches!(take(&mut verifier, &order, &altered), Err(Violation::Proof(_))));
    let elsewhere = verifier.entry(&delivered.entry, &other.cut.header, &federation);
    assert!(matches!(elsewhere, Err(Violation::Proof(_))));
    let mut early = delivered.clone();
    early.entry.settled -= 1;
    assert!(matches!(take(&mut verifier, &order, &early), Err(Violation::SettledEarly { .. })));
    let mut stranger = LogVerifier::new(key(8).public(), key(1).public());
    assert!(matches!(take(&mut stranger, &order, &delivered), Err(Violation::NotMine { .. })));
    let checked = take(&mut verifier, &order, &delivered).unwrap();
    assert_eq!(verifier.again(&delivered.entry, &delivered.cut.header, &checked.leaf, &federation), Ok(checked));
    let changed = LogLeaf { settled: 99, ..checked.leaf };
    let again = verifier.again(&delivered.entry, &delivered.cut.header, &changed, &federation);
    assert_eq!(again, Err(Violation::Changed { index: 0 }));
}

#[test]
fn what_was_attested_binds_what_comes_later() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered: Vec<Delivered> = ["a", "b"].iter().flat_map(|body| order.deliver(&[body])).collect();
    take(&mut verifier, &order, &delivered[0]).unwrap();
    let federation = order.federation.clone();
    // The home attests the epoch of b as complete without b.
    let mut attested = order.attest_log(verifier.head());
    let wrong_epoch = verifier.attested(&attested, &federation);
    assert!(matches!(wrong_epoch, Err(Violation::LastEpoch { .. })));
    attested = order.attest_short(&delivered[0]);
    assert!(matches!(verifier.attested(&attested, &federation), Ok(Attested::Holds { size: 1, .. })));
    assert!(matches!(take(&mut verifier, &order, &delivered[1]), Err(Violation::AfterAttested { index: 1, .. })));
    let shrunk =
        order.attest_log(LogHead { size: 0, root: LogVerifier::new(key(7).public(), key(1).public()).head().root });
    assert!(matches!(verifier.attested(&shrunk, &federation), Err(Violation::Shrunk { .. })));
    let number = attested.attestation.body.number;
    let twice = order.attest_as(number, LogHead { size: 1, root: Digest([2; 32]) });
    assert_eq!(verifier.attested(&twice, &federation), Err(Violation::TwoAttestations { number }));
}

#[test]
fn it_goes_on_where_it_was_and_remembers_what_can_be_asked() {
    let mut order = Order::new();
    let mut verifier = verifier();
    let delivered = order.deliver(&["a", "b", "c"]);
    let federation = order.federation.clone();
    for delivered in &delivered[..2] {
        take(&mut verifier, &order, delivered).unwrap();
    }
    let heads: Vec<_> = (0..=2).map(|size| verifier.head_at(size).unwrap()).collect();
    verifier.release(2);
    assert_eq!(verifier.head_at(0), Some(heads[0]), "nothing is attested, so everything can still be asked for");
    let frontier = verifier.frontier_at(1).unwrap();
    let before = verifier.leaf_before(1);
    let mut resumed = LogVerifier::resume(key(7).public(), key(1).public(), frontier, before, None);
    for delivered in &delivered[1..] {
        take(&mut resumed, &order, delivered).unwrap();
    }
    let attested = order.attest();
    assert!(matches!(resumed.attested(&attested, &federation), Ok(Attested::Holds { size: 3, .. })));
    resumed.release(2);
    assert_eq!((resumed.head_at(1), resumed.head_at(2)), (None, Some(heads[2])));
    let bytes = encode(&resumed);
    assert_eq!(decode::<LogVerifier>(&bytes).as_ref(), Ok(&resumed));
}
