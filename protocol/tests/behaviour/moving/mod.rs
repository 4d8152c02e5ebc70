//! Mailboxes that move: switches and imports, by inputs and outputs of `apply`; and the parts that travel for a move.

mod handover;
mod histories;
mod imports;
mod switches;

use postroad_protocol::batch::AttestationRef;
use postroad_protocol::cut::CutBody;
use postroad_protocol::moving::{Import, Move, Switch};
use postroad_protocol::record::Record;
use postroad_protocol::state::{Invalid, MailboxState};
use postroad_protocol::{MailboxId, Params, SecretKey};

use crate::common::{World, key};

/// The routing window, and the delay of a switch that the recovery key has not signed.
const WINDOW: u64 = 8;
const DELAY_MS: u64 = 10_000;

/// Four nodes; mailbox 0 lives at node 0.
fn world() -> World {
    with(|_| {})
}

fn with(change: impl FnOnce(&mut Params)) -> World {
    let params = |params: &mut Params| {
        params.routing_window_epochs = WINDOW;
        params.validity_epochs = 4 * WINDOW;
        params.move_delay_ms = DELAY_MS;
        change(params);
    };
    World::builder().mailboxes(4).params(params).build()
}

/// A mailbox at node 0 that has a recovery key, and that key.
fn guarded(world: &mut World) -> (SecretKey, SecretKey) {
    let (owner, recovery) = (key("guarded"), key("recovery"));
    let record = world.registration_with(&owner, 0, Some(recovery.public()));
    settle(world, vec![record]).unwrap();
    (owner, recovery)
}

fn known(world: &World, mailbox: &MailboxId) -> MailboxState {
    world.state.mailbox(mailbox).unwrap().clone()
}

/// The switch of a mailbox to another home, of the record in force, after a change.
fn switch_with(world: &World, mailbox: &MailboxId, home: usize, change: impl FnOnce(&mut Switch)) -> Move {
    let known = known(world, mailbox);
    let mut switch =
        Switch { mailbox: *mailbox, replaces: known.record, home: world.node(home), recovery_key: known.recovery_key };
    change(&mut switch);
    Move::new(switch)
}

fn switch(world: &World, owner: &SecretKey, home: usize) -> Move {
    switch_with(world, &owner.public(), home, |_| {}).by_device(owner, &world.federation)
}

/// The record of an order, with the new home's signature.
fn signed(world: &World, order: Move) -> Record {
    let home = order.switch.home;
    Record::Move(Box::new(world.check(order).co_sign(world.secret(&home), &world.federation).into_inner()))
}

/// The record of an order to the present home.
fn abandoned(order: Move) -> Record {
    Record::Move(Box::new(order))
}

/// A cut of these records, or why one of them is refused. No value changes that is not touched.
fn settle(world: &mut World, records: Vec<Record>) -> Result<(), Invalid> {
    let body = CutBody { records, ..CutBody::default() };
    world.draft(body.clone())?;
    let before = world.state.clone();
    world.cut(body);
    let touched = world.applied(world.cuts.len() - 1).touched;
    for key in before.keys().union(&world.state.keys()) {
        assert!(touched.contains(key) || before.value(key) == world.state.value(key), "{key:?} is not touched");
    }
    Ok(())
}

fn refused(mailbox: MailboxId, reason: &'static str) -> Result<(), Invalid> {
    Err(Invalid::Moving { mailbox, reason })
}

/// Moves at once.
fn move_to(world: &mut World, owner: &SecretKey, home: usize) {
    let record = signed(world, switch(world, owner, home));
    settle(world, vec![record]).unwrap();
    assert_eq!(known(world, &owner.public()).home, world.node(home));
}

/// The next import of a mailbox's home, through the last epoch, without a base, after a change.
fn import_with(world: &World, mailbox: &MailboxId, change: impl FnOnce(&mut Import)) -> Record {
    let known = known(world, mailbox);
    let moved = known.moved.as_ref();
    let mut import = Import {
        mailbox: *mailbox,
        home: known.home,
        previous: moved.map_or(known.record, |moved| moved.follows()),
        base: moved.and_then(|moved| moved.import.as_ref()).and_then(|import| import.base),
        through: world.state.epoch,
        missing: Vec::new(),
    };
    change(&mut import);
    let home = import.home;
    Record::Import(world.sign(import, world.secret(&home)))
}

/// A final attestation of a node, of the last epoch.
fn attest(world: &mut World, node: usize) -> AttestationRef {
    let reference = world.attest(node, &[]).reference(world);
    let empty = world.seal_with(node, Vec::new(), |header| header.attestation = Some(reference));
    let sealed = world.held(&empty);
    world.include(vec![sealed]);
    reference
}

/// The home finishes the move: everything that can come has come, and its log is attested.
fn finish(world: &mut World, mailbox: &MailboxId) {
    world.idle(WINDOW);
    let record = import_with(world, mailbox, |_| {});
    settle(world, vec![record]).unwrap();
    let home = known(world, mailbox).home;
    let node = (0..world.nodes.len()).find(|node| world.node(*node) == home).unwrap();
    attest(world, node);
}

/// Cuts until the age has come to `age_ms` and no further, in steps of at most a heartbeat.
fn age_to(world: &mut World, age_ms: u64) {
    let before = world.step_ms;
    while world.state.age_ms < age_ms {
        world.step_ms = (age_ms - world.state.age_ms).min(1_000);
        world.idle(1);
    }
    world.step_ms = before;
}

fn counts(world: &World) -> Vec<u64> {
    (0..world.nodes.len()).map(|node| world.state.node(&world.node(node)).unwrap().mailboxes).collect()
}
