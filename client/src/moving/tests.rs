use postroad_protocol::moving::Extent;

use super::*;
use crate::fixture::{self, Order as Cuts, key};

fn mailbox(dir: &std::path::Path) -> Mailbox {
    std::fs::write(dir.join("identity.key"), hex::encode([7; 32])).unwrap();
    let home = NodeAddr::new(key(1).public(), "/ip4/127.0.0.1/tcp/9").unwrap();
    Mailbox::create(dir, &home, &fixture::federation()).unwrap()
}

fn there() -> NodeAddr {
    NodeAddr::new(key(3).public(), "/ip4/127.0.0.1/tcp/9").unwrap()
}

fn stage(dir: &std::path::Path) -> (Mover, Order, MailboxState) {
    let mover = Mover::new(&mailbox(dir)).unwrap();
    let place = Cuts::new().home();
    let switch = Switch {
        mailbox: key(7).public(),
        replaces: place.record,
        home: there().node(),
        recovery_key: place.recovery_key,
    };
    let signed = mover.sign(switch, None);
    let order = Order { signed, to: there().to_string(), from: place.home, patience_ms: 0, base: None };
    order.save(dir).unwrap();
    (mover, order, place)
}

fn status(order: &Order, phase: MovePhase) -> MoveStatus {
    MoveStatus::new(key(7).public(), phase, order.from, order.target(), Digest::ZERO)
}

#[tokio::test]
async fn that_a_move_happened_is_believed_of_cuts_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut mover, order, place) = stage(dir.path());
    let digest = order.signed.digest(&fixture::federation());
    let mut judge =
        |phase, place: &MailboxState| mover.judge(&order, digest, there(), Some(status(&order, phase)), place).unwrap();
    let told = judge(MovePhase::Finished, &place);
    assert_eq!((told.phase, told.epoch, told.has_moved()), (MovePhase::Switching, None, false));
    let mut moved = Cuts::new().moves_to(3, 0);
    moved.record = digest;
    let import = moved.moved.as_mut().unwrap().import.take();
    let told = judge(MovePhase::Preparing, &moved);
    assert_eq!((told.phase, told.epoch, told.has_moved()), (MovePhase::Importing, Some(moved.since), false));
    moved.moved.as_mut().unwrap().import = import;
    let told = judge(MovePhase::Preparing, &moved);
    assert_eq!((told.phase, told.has_moved()), (MovePhase::Following, true));
    let other = MailboxState { record: Digest([9; 32]), home: key(4).public(), ..place.clone() };
    assert_eq!(judge(MovePhase::Importing, &other).overtaken, Some(key(4).public()));
    assert_eq!(mover.mailbox().home(), &there());
    assert_eq!(Mailbox::open(dir.path()).unwrap().home(), &there(), "the directory says so too");
}

#[tokio::test]
async fn a_move_to_another_node_has_to_be_aborted_first() {
    let dir = tempfile::tempdir().unwrap();
    let (mover, order, _) = stage(dir.path());
    assert_eq!(mover.under_way().unwrap(), Some(order.target()));
    let again = Mover::new(&Mailbox::open(dir.path()).unwrap()).unwrap();
    assert_eq!(again.under_way().unwrap(), Some(order.target()), "another process finds it");
    again.finish().unwrap();
    assert_eq!(mover.under_way().unwrap(), None);
}

#[tokio::test]
async fn both_keys_sign_one_switch() {
    let dir = tempfile::tempdir().unwrap();
    let (mover, order, _) = stage(dir.path());
    let recovery = key(40);
    let both = mover.sign(order.signed.switch.clone(), Some(&recovery));
    let federation = fixture::federation();
    assert_eq!(both.digest(&federation), order.signed.digest(&federation));
    let verified = postroad_protocol::Verified::check(both, &federation).unwrap();
    assert_eq!(verified.recovery.map(|recovery| recovery.key), Some(recovery.public()));
}

#[test]
fn what_could_be_lost_is_said_before() {
    let alive = Inventory { open: Extent::default(), size: 3, pending: 0 };
    assert_eq!(remarks(Some(&alive), true, 0, 86_400_000).len(), 1);
    let dead = remarks(None, false, 3_600_001, 2 * 86_400_000);
    assert!(dead[0].contains("2 days") && dead[1].contains("2 hours"), "{dead:?}");
}
