//! Rule 8: which receipts a slice needs, which are too many, and when custody is weak.

use postroad_protocol::receipt::{Custody, CustodyKind, MAX_CUSTODIANS, Receipt, Sealed};
use postroad_protocol::record::{Appointed, NodeRecord, Record};
use postroad_protocol::signed::{Statement, Verify, sign_digest};
use postroad_protocol::{Digest, VerifyError};

use crate::common::{Batch, Hold, World};

/// Twelve nodes; the origin is node 0, and its batch has a slice for itself and one for node 1.
struct Scene {
    world: World,
    batch: Batch,
}

const OWN: usize = 0;
const OTHER: usize = 1;

fn scene() -> Scene {
    let mut world = World::builder().nodes(12).mailboxes(2).build();
    let message = world.message("hello", &[0, 1]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    Scene { world, batch }
}

impl Scene {
    fn check(&self, slice: usize, custody: &Custody) -> Result<CustodyKind, VerifyError> {
        let header = &self.batch.header.body;
        custody.check(header, self.batch.digest, &header.slices[slice], &self.world.federation)
    }

    fn hold(&self, slice: usize, hold: Hold) -> Custody {
        self.world.custody(&self.batch, slice, &hold)
    }

    fn receipt(&self, holder: usize, slice: usize, request: Option<Digest>) -> Receipt {
        self.world.receipt(holder, self.world.item(&self.batch, slice, request))
    }
}

const STRONG: Result<CustodyKind, VerifyError> = Ok(CustodyKind { delivered: true, weak: false });
const WEAK: Result<CustodyKind, VerifyError> = Ok(CustodyKind { delivered: true, weak: true });
const PENDING: Result<CustodyKind, VerifyError> = Ok(CustodyKind { delivered: false, weak: false });
const PENDING_WEAK: Result<CustodyKind, VerifyError> = Ok(CustodyKind { delivered: false, weak: true });

fn refused(reason: &'static str) -> Result<CustodyKind, VerifyError> {
    Err(VerifyError::Malformed { kind: "custody", reason })
}

#[test]
fn what_is_enough_and_what_it_amounts_to() {
    use Hold::{Custodians, Home, HomeAnd};
    let scene = scene();
    let all: Vec<usize> = (2..2 + MAX_CUSTODIANS).collect();
    let table = [
        // Another node's slice: its own receipt, or two custodians besides the origin.
        (OTHER, Home, STRONG),
        (OTHER, Custodians(vec![2, 3]), PENDING),
        (OTHER, Custodians(all), PENDING),
        (OTHER, Custodians(vec![2]), PENDING_WEAK),
        (OTHER, Custodians(vec![0]), PENDING_WEAK),
        (OTHER, Custodians(vec![0, 2]), PENDING_WEAK),
        (OTHER, Custodians(vec![0, 2, 3]), PENDING),
        // The origin's own slice: one custodian beside itself.
        (OWN, Home, WEAK),
        (OWN, HomeAnd(vec![2]), STRONG),
        (OWN, HomeAnd(vec![2, 3]), STRONG),
        // The origin has not signed for its own slice: it is pending there as anywhere.
        (OWN, Custodians(vec![2, 3]), PENDING),
        (OWN, Custodians(vec![2]), PENDING_WEAK),
    ];
    for (slice, hold, expected) in table {
        let found = scene.check(slice, &scene.hold(slice, hold.clone()));
        assert_eq!(found, expected, "slice {slice}, {hold:?}");
    }
}

#[test]
fn what_is_not_enough_or_too_much() {
    use Hold::{Custodians, Home, HomeAnd};
    let scene = scene();
    let named = refused("not exactly the receipts of all named custodians");
    let names = refused("custodians are 1 to 8 other nodes in ascending order");
    let check = |slice: usize, hold: Hold, change: &dyn Fn(&mut Custody)| {
        let mut custody = scene.hold(slice, hold);
        change(&mut custody);
        scene.check(slice, &custody)
    };
    let none = |_: &mut Custody| {};

    // Nothing, or nothing to do with a request.
    assert_eq!(check(OTHER, Home, &|custody| custody.receipts.clear()), refused("no receipt"));
    let twice = check(OTHER, Home, &|custody| custody.receipts.push(custody.receipts[0].clone()));
    assert_eq!(twice, refused("custodians without a request"));
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &|custody| custody.request = None), {
        refused("custodians without a request")
    });
    // Strangers who hand in receipts of their own.
    let stranger = check(OTHER, Home, &|custody| custody.receipts = vec![scene.receipt(5, OTHER, None)]);
    assert_eq!(stranger, refused("a receipt without a request that is not the destination's"));
    let strangers = check(OTHER, Custodians(vec![2, 3]), &|custody| {
        let digest = custody.receipts[0].item.request;
        custody.receipts = vec![scene.receipt(5, OTHER, digest), scene.receipt(6, OTHER, digest)];
    });
    assert_eq!(strangers, named);

    // Custodians: all of them, in order, under this request.
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &|custody| drop(custody.receipts.pop())), named);
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &|custody| drop(custody.receipts.remove(0))), named);
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &|custody| custody.receipts.clear()), named);
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &|custody| custody.receipts.swap(0, 1)), named);
    let unnamed = |custody: &mut Custody| {
        let digest = custody.receipts[0].item.request;
        custody.receipts.push(scene.receipt(4, OTHER, digest));
    };
    assert_eq!(check(OTHER, Custodians(vec![2, 3]), &unnamed), named);
    let other_request = check(OTHER, Custodians(vec![2, 3]), &|custody| {
        let digest = scene.world.request(&scene.batch, OTHER, &[2, 3, 4]).digest(&scene.world.federation);
        custody.receipts[1] = scene.receipt(3, OTHER, Some(digest));
    });
    assert_eq!(other_request, named);
    let without = check(OTHER, Custodians(vec![2, 3]), &|custody| custody.receipts[1] = scene.receipt(3, OTHER, None));
    assert_eq!(without, named);

    // Who may be named.
    assert_eq!(check(OTHER, Custodians(vec![]), &none), names);
    assert_eq!(check(OTHER, Custodians(vec![3, 2]), &none), names);
    assert_eq!(check(OTHER, Custodians(vec![2, 2]), &none), names);
    assert_eq!(check(OTHER, Custodians(vec![1, 2]), &none), names);
    assert_eq!(check(OTHER, Custodians((2..3 + MAX_CUSTODIANS).collect()), &none), names);
    assert_eq!(check(OWN, HomeAnd(vec![0]), &none), names);
    assert_eq!(check(OWN, HomeAnd(vec![]), &none), names);

    // The destination and custodians: only for the origin's own slice.
    let beside = refused("custodians beside the destination's own receipt");
    assert_eq!(check(OTHER, HomeAnd(vec![2, 3]), &none), beside);
    let home_last = check(OTHER, Custodians(vec![2, 3]), &|custody| {
        custody.receipts.push(scene.receipt(1, OTHER, None));
    });
    assert_eq!(home_last, named);
    assert_eq!(check(OWN, HomeAnd(vec![2]), &|custody| drop(custody.receipts.pop())), named);
    assert_eq!(check(OWN, HomeAnd(vec![2]), &|custody| custody.receipts.swap(0, 1)), named);
}

#[test]
fn receipts_and_requests_are_for_one_slice_of_one_header() {
    let mut scene = scene();
    let earlier = scene.batch.clone();
    let message = scene.world.message("hello again", &[0, 1]);
    let bundle = scene.world.bundle(0, 0, vec![message]);
    scene.batch = scene.world.seal(0, vec![bundle]);
    let other_receipt = refused("a receipt for another slice");
    let other_request = refused("a request for another slice");
    // Of another header, and of another slice of this one.
    let held = scene.world.custody(&earlier, OTHER, &Hold::Home);
    assert_eq!(scene.check(OTHER, &held), other_receipt);
    let held = scene.hold(OWN, Hold::Home);
    assert_eq!(scene.check(OTHER, &held), other_receipt);
    for (batch, slice) in [(&earlier, OTHER), (&scene.batch, OWN)] {
        let mut custody = scene.hold(OTHER, Hold::Custodians(vec![2, 3]));
        let request = scene.world.request(batch, slice, &[2, 3]);
        let digest = Some(request.digest(&scene.world.federation));
        custody.receipts = vec![scene.receipt(2, OTHER, digest), scene.receipt(3, OTHER, digest)];
        custody.request = Some(request);
        assert_eq!(scene.check(OTHER, &custody), other_request);
    }
    // Of another root.
    let mut custody = scene.hold(OTHER, Hold::Custodians(vec![2, 3]));
    let mut body = custody.request.clone().unwrap().body;
    body.slice = Digest::ZERO;
    let request = scene.world.sign(body, &scene.world.nodes[0]);
    let digest = Some(request.digest(&scene.world.federation));
    custody.receipts = vec![scene.receipt(2, OTHER, digest), scene.receipt(3, OTHER, digest)];
    custody.request = Some(request);
    assert_eq!(scene.check(OTHER, &custody), other_request);
    // Of another origin, which signs for itself.
    let mut custody = scene.hold(OTHER, Hold::Custodians(vec![2, 3]));
    let mut body = custody.request.clone().unwrap().body;
    body.origin = scene.world.node(4);
    let request = scene.world.sign(body, &scene.world.nodes[4]);
    let digest = Some(request.digest(&scene.world.federation));
    custody.receipts = vec![scene.receipt(2, OTHER, digest), scene.receipt(3, OTHER, digest)];
    custody.request = Some(request);
    assert_eq!(scene.check(OTHER, &custody), other_request);
}

#[test]
fn one_receipt_covers_all_slices_of_one_disk_sync() {
    let scene = scene();
    let world = &scene.world;
    for count in 1..6 {
        let items = (0..count).map(|n| {
            let mut item = world.item(&scene.batch, OTHER, None);
            item.header = Digest([n; 32]);
            item
        });
        let receipts = world.receipts(1, items.collect());
        for receipt in &receipts {
            assert_eq!(receipt.signed, receipts[0].signed);
            assert_eq!(receipt.verify(&world.federation), Ok(()));
            let mut moved = receipt.clone();
            moved.item.header = Digest([9; 32]);
            assert_eq!(moved.verify(&world.federation), Err(VerifyError::Path { what: "receipt" }));
            let mut moved = receipt.clone();
            moved.index = (receipt.index + 1) % u32::from(count);
            assert_eq!(moved.verify(&world.federation).is_ok(), count == 1);
            let mut forged = receipt.clone();
            forged.signed.body.holder = world.node(2);
            assert!(matches!(forged.verify(&world.federation), Err(VerifyError::Signature { .. })));
        }
    }
}

#[test]
fn refused_leaves_stand_in_ascending_order() {
    use postroad_protocol::receipt::{LeafRefusal, RefusedLeaf};
    let scene = scene();
    let world = &scene.world;
    let verify = |leaves: &[(u64, usize)]| {
        let mut item = world.item(&scene.batch, OTHER, None);
        let leaf = |(index, mailbox): &(u64, usize)| RefusedLeaf {
            index: *index,
            mailbox: world.node(*mailbox),
            reason: LeafRefusal::Full,
        };
        item.refused = leaves.iter().map(leaf).collect();
        world.receipt(1, item).verify(&world.federation)
    };
    assert_eq!(verify(&[(0, 1), (0, 2), (1, 1)]), Ok(()));
    for leaves in [[(1, 1), (0, 1)], [(0, 2), (0, 1)], [(0, 1), (0, 1)]] {
        assert!(matches!(verify(&leaves), Err(VerifyError::Malformed { kind: "receipt", .. })));
    }
}

#[test]
fn a_header_with_its_custody_is_well_formed_and_signed_throughout() {
    let scene = scene();
    let world = &scene.world;
    let good = world.held_unchecked(&scene.batch, |home| match home {
        0 => Hold::HomeAnd(vec![2]),
        _ => Hold::Custodians(vec![2, 3]),
    });
    let check = |change: &dyn Fn(&mut Sealed)| {
        let mut sealed = good.clone();
        change(&mut sealed);
        sealed.verify(&world.federation)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let header = |reason| Err(VerifyError::Malformed { kind: "header", reason });
    assert_eq!(check(&|sealed| drop(sealed.custody.pop())), header("not one custody for each slice"));
    assert_eq!(check(&|sealed| sealed.header.body.slices.swap(0, 1)), {
        header("slices are not in ascending order of destination")
    });
    let emptied = check(&|sealed| sealed.header.body.slices.clear());
    assert_eq!(emptied, header("messages without slices, or slices without messages"));
    let uncounted = check(&|sealed| sealed.header.body.entries.messages = 0);
    assert_eq!(uncounted, header("messages without slices, or slices without messages"));
    let empty = check(&|sealed| {
        sealed.header.body.entries.messages = 0;
        sealed.header.body.slices.clear();
        sealed.custody.clear();
    });
    assert_eq!(empty, header("neither messages nor an attestation"));
    // Every signature counts.
    let signature = |kind, node| Err(VerifyError::Signature { kind, signer: world.node(node) });
    assert_eq!(check(&|sealed| sealed.header.signature.0[40] ^= 1), signature("header", 0));
    let request = check(&|sealed| sealed.custody[1].request.as_mut().unwrap().signature.0[40] ^= 1);
    assert_eq!(request, signature("custody-request", 0));
    for (slice, receipt, holder) in [(0, 0, 0), (0, 1, 2), (1, 0, 2), (1, 1, 3)] {
        let found = check(&|sealed| sealed.custody[slice].receipts[receipt].signed.signature.0[40] ^= 1);
        assert_eq!(found, signature("receipt", holder));
    }
}

#[test]
fn a_header_has_at_most_as_many_slices_as_genesis_allows() {
    let mut world = World::builder().nodes(3).mailboxes(3).params(|params| params.max_slices = 2).build();
    let message = world.message("to three homes", &[0, 1, 2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let sealed = world.held_unchecked(&batch, |_| Hold::Home);
    let refused = Err(VerifyError::Malformed { kind: "header", reason: "more slices than genesis allows" });
    assert_eq!(sealed.verify(&world.federation), refused);
}

#[test]
fn weakness_of_one_slice_is_weakness_of_the_batch() {
    let scene = scene();
    let weak = |own: Hold, other: Hold| {
        let hold = |home| if home == 0 { own.clone() } else { other.clone() };
        scene.world.held_as(&scene.batch, hold).is_weak(&scene.world.federation)
    };
    assert!(!weak(Hold::HomeAnd(vec![2]), Hold::Home));
    assert!(!weak(Hold::HomeAnd(vec![2]), Hold::Custodians(vec![2, 3])));
    assert!(weak(Hold::Home, Hold::Home));
    assert!(weak(Hold::HomeAnd(vec![2]), Hold::Custodians(vec![0, 2])));
}

#[test]
fn records_are_signed_by_all_whom_they_bind() {
    let world = World::builder().build();
    let verify = |record: &Record| record.verify(&world.federation);
    let registration = |change: &dyn Fn(&mut postroad_protocol::record::CoSigned)| {
        let Record::Register(mut signed) = world.registration(1) else { unreachable!("a registration") };
        change(&mut signed);
        verify(&Record::Register(signed))
    };
    assert_eq!(registration(&|_| {}), Ok(()));
    let signature = |signer| Err(VerifyError::Signature { kind: "registration", signer });
    assert_eq!(registration(&|signed| signed.home.0[40] ^= 1), signature(world.node(1)));
    assert_eq!(registration(&|signed| signed.home = signed.owner.signature), signature(world.node(1)));
    assert_eq!(registration(&|signed| signed.owner.signature = signed.home), signature(world.mailbox(1)));
    assert_eq!(registration(&|signed| signed.owner.body.home = world.node(2)), signature(world.mailbox(1)));
    let weak = postroad_protocol::PublicKey([0; 32]);
    let malformed = |kind, reason| Err(VerifyError::Malformed { kind, reason });
    let key = "the mailbox's key is of small order or not canonical";
    assert_eq!(registration(&|signed| signed.owner.body.mailbox = weak), malformed("registration", key));
    let recovery = "the recovery key is of small order or not canonical";
    let found = registration(&|signed| signed.owner.body.recovery_key = Some(weak));
    assert_eq!(found, malformed("registration", recovery));

    let node = |change: &dyn Fn(&mut postroad_protocol::record::NodeRecord)| {
        let Record::Node(mut signed) = world.node_record(1, 1) else { unreachable!("a node record") };
        change(&mut signed.node.body);
        verify(&Record::Node(world.appointed(signed.node.body, &world.nodes[1])))
    };
    assert_eq!(node(&|record| record.name = "n".repeat(64)), Ok(()));
    assert_eq!(node(&|record| record.addrs = vec!["a".repeat(256); 8]), Ok(()));
    let addresses = "more than 8 addresses, or one of more than 256 bytes";
    assert_eq!(node(&|record| record.addrs = vec![String::new(); 9]), malformed("node-record", addresses));
    assert_eq!(node(&|record| record.addrs = vec!["a".repeat(257)]), malformed("node-record", addresses));
    let names = "a name of more than 64 bytes, or more than 8 deputies";
    assert_eq!(node(&|record| record.name = "n".repeat(65)), malformed("node-record", names));
    assert_eq!(node(&|record| record.deputies = vec![world.node(0); 9]), malformed("node-record", names));
    let Record::Node(mut signed) = world.node_record(1, 1) else { unreachable!("a node record") };
    signed.node.body.node = weak;
    let key = "the key is of small order or not canonical";
    assert_eq!(verify(&Record::Node(signed)), malformed("node-record", key));
    assert_eq!(node(&|record| record.deputies = vec![weak]), malformed("node-record", key));
    let Record::Start(mut signed) = world.start(1, 1) else { unreachable!("a start") };
    signed.body.incarnation = 2;
    let refused = Err(VerifyError::Signature { kind: "start", signer: world.node(1) });
    assert_eq!(verify(&Record::Start(signed)), refused);
}

#[test]
fn nobody_is_a_deputy_without_its_own_signature() {
    let world = World::builder().build();
    let consent =
        |deputy: usize, record: &NodeRecord| sign_digest(&world.nodes[deputy], record.digest(world.federation.id()));
    let appointed = |named: &[usize], change: &dyn Fn(&mut Appointed)| {
        let Record::Node(mut signed) = world.node_record(1, 1) else { unreachable!("a node record") };
        signed.node.body.deputies = named.iter().map(|deputy| world.node(*deputy)).collect();
        signed = world.appointed(signed.node.body, &world.nodes[1]);
        change(&mut signed);
        Record::Node(signed).verify(&world.federation)
    };
    let malformed = |reason| Err(VerifyError::Malformed { kind: "node-record", reason });
    let forged = |deputy| Err(VerifyError::Signature { kind: "node-record", signer: world.node(deputy) });
    for named in [&[][..], &[2], &[2, 0], &[0, 2]] {
        assert_eq!(appointed(named, &|_| {}), Ok(()), "{named:?}");
    }
    let count = "not one consent for each deputy";
    assert_eq!(appointed(&[2, 0], &|signed| signed.deputies.truncate(1)), malformed(count), "one is missing");
    assert_eq!(appointed(&[2], &|signed| signed.deputies.push(consent(0, &signed.node.body))), malformed(count));
    assert_eq!(appointed(&[], &|signed| signed.deputies.push(consent(2, &signed.node.body))), malformed(count));
    assert_eq!(appointed(&[2, 0], &|signed| signed.deputies.swap(0, 1)), forged(2), "in the order of the deputies");
    assert_eq!(appointed(&[2], &|signed| signed.deputies[0] = signed.node.signature), forged(2), "the node's own");
    let other = |signed: &mut Appointed| {
        let record = NodeRecord { version: 2, ..signed.node.body.clone() };
        signed.deputies[1] = consent(0, &record);
    };
    assert_eq!(appointed(&[2, 0], &other), forged(0), "for another record");
    let twice = "a node that is its own deputy, or a deputy named twice";
    assert_eq!(appointed(&[2, 2], &|_| {}), malformed(twice));
    assert_eq!(appointed(&[1], &|_| {}), malformed(twice));
}
