//! Rule 7: a home may refuse single leaves, in its receipt or its fill; nobody else may; and the sender can prove it.

use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::CutBody;
use postroad_protocol::receipt::{Custody, LeafRefusal, ReceiptItem, RefusedLeaf, Sealed};
use postroad_protocol::refused::{RefusedBy, RefusedProof, SettledFill};
use postroad_protocol::signed::Verify;
use postroad_protocol::state::{Draft, Invalid, PendingKey};
use postroad_protocol::{Seq, Verified, VerifyError};

use crate::common::{Batch, Hold, World};

/// Node 0 sends to mailboxes 1 and 5, which live at node 1, and to 2, which lives at node 2.
fn scene() -> (World, Batch) {
    let mut world = World::builder().mailboxes(6).build();
    let first = world.message("first", &[1, 2, 5]);
    let second = world.message("second", &[1]);
    let bundle = world.bundle(0, 0, vec![first, second]);
    let batch = world.seal(0, vec![bundle]);
    (world, batch)
}

fn refused(world: &World, index: u64, mailbox: usize, reason: LeafRefusal) -> RefusedLeaf {
    RefusedLeaf { index, mailbox: world.mailbox(mailbox), reason }
}

/// The header, with leaves refused in the receipt of node 1.
fn refusing(world: &World, batch: &Batch, leaves: Vec<RefusedLeaf>) -> Sealed {
    let mut sealed = world.held(batch).into_inner();
    let mut item = world.item(batch, 0, None);
    item.refused = leaves;
    sealed.custody[0] = Custody { request: None, receipts: vec![world.receipt(1, item)] };
    sealed
}

fn draft(world: &World, sealed: Sealed) -> Result<u32, Invalid> {
    Draft::new(&world.state, world.state.time_ms + 25, &world.federation).header(&Verified::from_own_disk(sealed))
}

#[test]
fn a_home_refuses_leaves_that_its_slice_can_have() {
    let (world, batch) = scene();
    let full = |index, mailbox| refused(&world, index, mailbox, LeafRefusal::Full);
    let check = |leaves: Vec<RefusedLeaf>| {
        let sealed = refusing(&world, &batch, leaves);
        let verified = sealed.verify(&world.federation).map_err(Invalid::Custody);
        assert_eq!(draft(&world, sealed).map(drop), verified, "what cannot be verified cannot be settled");
        verified
    };
    assert_eq!(check(vec![full(0, 1)]), Ok(()));
    let mut all = vec![full(0, 1), full(0, 5), full(1, 1)];
    all.sort_by_key(|leaf| (leaf.index, leaf.mailbox));
    assert_eq!(check(all.clone()), Ok(()), "every leaf of the slice");
    let beyond = Err(Invalid::Custody(VerifyError::Malformed {
        kind: "custody",
        reason: "refused leaves that the slice cannot have",
    }));
    assert_eq!(check(vec![full(2, 1)]), beyond, "the batch has two messages");
    let more = all.into_iter().chain([full(1, 5)]).collect::<Vec<_>>();
    let mut more = more;
    more.sort_by_key(|leaf| (leaf.index, leaf.mailbox));
    assert_eq!(check(more), beyond, "the slice has three leaves");
}

#[test]
fn a_custodian_refuses_nothing() {
    let (world, batch) = scene();
    let mut sealed = world.held_unchecked(&batch, |home| match home {
        1 => Hold::Custodians(vec![2, 3]),
        _ => Hold::Home,
    });
    let request = sealed.custody[0].request.as_ref().unwrap().digest(&world.federation);
    let mut item = world.item(&batch, 0, Some(request));
    item.refused = vec![refused(&world, 0, 1, LeafRefusal::Full)];
    let receipt = world.receipt(2, item);
    let malformed = |kind| VerifyError::Malformed { kind, reason: "a custodian refuses leaves" };
    assert_eq!(receipt.verify(&world.federation), Err(malformed("receipt")));
    sealed.custody[0].receipts[0] = receipt;
    assert_eq!(sealed.verify(&world.federation), Err(malformed("custody")));
    assert_eq!(draft(&world, sealed), Err(Invalid::Custody(malformed("custody"))));
    // Nor does a stranger, in a receipt that looks like a home's.
    let mut item = world.item(&batch, 0, None);
    item.refused = vec![refused(&world, 0, 1, LeafRefusal::Full)];
    assert_eq!(world.receipt(2, item).verify(&world.federation), Err(malformed("receipt")));
}

#[test]
fn a_receipt_refuses_no_more_than_a_batch_can_hold() {
    let (world, batch) = scene();
    let verify = |count: u64| {
        let mut item = world.item(&batch, 0, None);
        item.refused = (0..count).map(|index| refused(&world, index, 1, LeafRefusal::Full)).collect();
        world.receipt(1, item).verify(&world.federation)
    };
    let most = world.federation.params().max_leaves();
    assert_eq!(verify(most), Ok(()));
    let reason = "more refused leaves than a batch can hold";
    assert_eq!(verify(most + 1), Err(VerifyError::Malformed { kind: "receipt", reason }));
}

/// What the sender is shown, with the place of the message.
fn by_receipt(world: &mut World, batch: &Batch) -> (RefusedProof, Seq) {
    let leaves = vec![refused(world, 0, 1, LeafRefusal::Blocked), refused(world, 1, 1, LeafRefusal::Full)];
    let sealed = world.check(refusing(world, batch, leaves));
    world.include(vec![sealed]);
    let cut = world.cuts.last().unwrap();
    let order = cut.body.header_proofs(&world.federation).remove(0);
    let by = RefusedBy::Receipt(cut.body.headers[0].custody.clone());
    let seq = Seq { epoch: cut.certified.header.epoch, position: 0, index: 0 };
    (RefusedProof { cut: cut.certified.clone(), order, by }, seq)
}

/// As [`by_receipt`], where node 1 was away and its fill refuses the leaf.
fn by_fill(world: &mut World, batch: &Batch) -> (RefusedProof, Seq) {
    let sealed = world.held_as(batch, |home| match home {
        1 => Hold::Custodians(vec![2, 3]),
        _ => Hold::Home,
    });
    let ordering = world.include(vec![sealed]);
    let order = world.cuts.last().unwrap().body.header_proofs(&world.federation).remove(0);
    let mut item: ReceiptItem = world.item(batch, 0, None);
    item.refused = vec![refused(world, 0, 1, LeafRefusal::Blocked)];
    let fill = world.receipt(1, item);
    let certified = world.cut(CutBody { fills: vec![fill.clone()], ..CutBody::default() });
    let key = PendingKey { destination: world.node(1), header: batch.digest };
    assert_eq!(world.state.pending(&key), None, "a fill that refuses a leaf settles the slice");
    let path = world.cuts.last().unwrap().body.fill_path(0);
    let by = RefusedBy::Fill(Box::new(SettledFill { cut: certified, fill, index: 0, path }));
    let seq = Seq { epoch: ordering.header.epoch, position: 0, index: 0 };
    (RefusedProof { cut: ordering, order, by }, seq)
}

#[test]
fn a_refusal_is_proven_for_its_leaf_and_no_other() {
    for make in [by_receipt, by_fill] {
        let (mut world, batch) = scene();
        let (proof, seq) = make(&mut world, &batch);
        let verify =
            |seq, mailbox, home| proof.verify(seq, &world.mailbox(mailbox), &world.node(home), &world.federation);
        assert_eq!(verify(seq, 1, 1), Ok(LeafRefusal::Blocked));
        assert!(verify(seq, 5, 1).is_err(), "another recipient at that home");
        assert!(verify(seq, 2, 2).is_err(), "another home");
        assert!(verify(seq, 1, 2).is_err());
        assert!(verify(Seq { epoch: seq.epoch + 1, ..seq }, 1, 1).is_err());
        assert!(verify(Seq { position: 1, ..seq }, 1, 1).is_err());
        let other = verify(Seq { index: 1, ..seq }, 1, 1);
        assert_eq!(other.is_ok(), matches!(proof.by, RefusedBy::Receipt(_)), "only the receipt refuses the second");
        let bytes = encode(&proof);
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = decode::<RefusedProof>(&changed) else { continue };
            let found = changed.verify(seq, &world.mailbox(1), &world.node(1), &world.federation);
            assert!(found.is_err(), "bit {bit}");
        }
    }
}

#[test]
fn the_proof_of_the_order_carries_the_receipts_where_they_refuse_a_leaf_of_the_bundle() {
    let (mut world, batch) = scene();
    by_receipt(&mut world, &batch);
    let (home, federation) = (world.node(1), world.federation.clone());
    let sealed = &world.cuts[1].body.headers[0];
    let plain = world.ordered_proof(2, 0, &batch, 0);
    assert_eq!(plain.clone().with_refusals(sealed, 2..3), plain, "a bundle of which nothing is refused");
    let proof = plain.with_refusals(sealed, 0..2);
    let seq = proof.verify(&batch.bundles[0].signed, &federation).unwrap();
    let (reason, shown) = proof.refusal(seq, &world.mailbox(1), &home, &federation).unwrap();
    assert_eq!(reason, LeafRefusal::Blocked);
    assert_eq!(shown.verify(seq, &world.mailbox(1), &home, &federation), Ok(reason));
    assert_eq!(proof.refusal(seq, &world.mailbox(5), &home, &federation), None);
    let mut other = proof;
    other.custody.pop();
    let found = other.verify(&batch.bundles[0].signed, &federation);
    assert_eq!(found, Err(VerifyError::Path { what: "receipts" }), "other receipts than those of the cut");
}
