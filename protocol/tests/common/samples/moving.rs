//! What is signed, sent and stored of mailboxes that move. In the story nothing moves: these are shapes.

use postroad_protocol::batch::AttestationRef;
use postroad_protocol::merkle::log::{Frontier, Log};
use postroad_protocol::moving::{
    Base, Extent, Extract, HandedRow, Handoff, HandoffPage, HandoffRequest, Import, LogRow, Missing, Move, MovePhase,
    MoveRequest, MoveStatus, OwedBy, OwnerBase, Switch,
};
use postroad_protocol::record::Record;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{Delayed, Imported, MailboxState, Moved, Span, StateKey};
use postroad_protocol::wire::call::{Inventory, Question, Reply};
use postroad_protocol::{Digest, Signed};

use super::{Sample, sample};
use crate::common::key;
use crate::common::story::Story;

/// Mailbox 2 moves from node 2 to node 3.
pub(super) fn switch(story: &Story) -> Switch {
    let world = &story.world;
    let replaces = world.state.mailbox(&world.mailbox(2)).unwrap().record;
    let recovery_key = Some(key("recovery").public());
    Switch { mailbox: world.mailbox(2), replaces, home: world.node(3), recovery_key }
}

pub(super) fn import(story: &Story) -> Signed<Import> {
    let world = &story.world;
    let import = Import {
        mailbox: world.mailbox(2),
        home: world.node(3),
        previous: Digest([4; 32]),
        base: Some(base(story)),
        through: 300,
        missing: vec![Missing { origin: world.node(0), from: 290, to: 299 }],
    };
    world.sign(import, &world.nodes[3])
}

pub(super) fn handoff(story: &Story) -> Signed<Handoff> {
    let world = &story.world;
    let Base { node, attestation, log } = base(story);
    let handoff = Handoff { node, mailbox: world.mailbox(2), home: world.node(3), attestation, log };
    world.sign(handoff, &world.nodes[2])
}

fn base(story: &Story) -> Base {
    story.world.mailbox_attestation(&story.attested, 2).base(&story.world.federation)
}

fn order(story: &Story) -> Move {
    Move::new(switch(story)).by_device(&story.world.mailboxes[2], &story.world.federation)
}

/// The order with every signature.
fn whole_order(story: &Story) -> Move {
    let world = &story.world;
    let order = order(story).by_recovery(&key("recovery"), &world.federation);
    world.check(order).co_sign(&world.nodes[3], &world.federation).into_inner()
}

fn extract(story: &Story, mailbox: usize) -> Extract {
    let world = &story.world;
    let (header, slice) = (&story.first.header, &story.first.routed.bodies[2]);
    let index = slice.index(header.body.entries.bundles, world.federation.id()).unwrap();
    Extract::of(header.clone().into_inner(), world.node(2), slice, &index, &world.mailbox(mailbox))
}

fn slice(story: &Story) -> SliceKey {
    extract(story, 2).key(&story.world.federation)
}

fn frontier(story: &Story) -> Frontier {
    let mut log = Log::new();
    story.world.log(2).iter().for_each(|leaf| log.append(leaf.hash()));
    log.frontier_at(log.size()).unwrap()
}

pub(super) fn structures(story: &Story) -> Vec<Sample> {
    let world = &story.world;
    let waits = Delayed { record: Digest([5; 32]), home: world.node(3), due_age_ms: 259_200_000 };
    let base = base(story);
    let attestation = AttestationRef { number: 9, digest: Digest([6; 32]), epoch: 280 };
    let imported = Imported {
        digest: Digest([7; 32]),
        first: 300,
        epoch: 310,
        through: 309,
        base: Some(Base { attestation, ..base }),
        missing: vec![Missing { origin: world.node(0), from: 290, to: 299 }],
    };
    let spans = vec![
        Span { node: world.node(2), since: 1, until: 100, complete: Some(1) },
        Span { node: world.node(1), since: 100, until: 289, complete: None },
    ];
    let resident = world.state.mailbox(&world.mailbox(2)).unwrap().clone();
    let moved = |import| MailboxState {
        home: world.node(3),
        since: 289,
        recovery_key: Some(key("recovery").public()),
        moved: Some(Moved { spans: spans.clone(), switch: Digest([8; 32]), import }),
        ..resident.clone()
    };
    let recovered = MailboxState { recovered: Some(Digest([9; 32])), ..moved(None) };
    let mut first = import(story);
    (first.body.base, first.body.missing) = (None, Vec::new());
    let abandoned = Move { home: None, ..order(story) };
    vec![
        sample("record-move", &Record::Move(Box::new(whole_order(story)))),
        sample("record-move-by-device", &Record::Move(Box::new(abandoned))),
        sample("record-move-by-recovery", &Record::Move(Box::new(Move { device: None, ..whole_order(story) }))),
        sample("record-import", &Record::Import(import(story))),
        sample("record-import-of-all", &Record::Import(first)),
        sample("handoff", &handoff(story)),
        sample("extract-present", &extract(story, 2)),
        sample("extract-absent", &extract(story, 3)),
        sample("state-mailbox-moved", &moved(None)),
        sample("state-mailbox-imported", &moved(Some(imported))),
        sample("state-mailbox-recovered", &recovered),
        sample("state-move", &waits),
        sample("state-key-move", &StateKey::Move(world.mailbox(2))),
    ]
}

fn status(story: &Story, phase: MovePhase) -> MoveStatus {
    let world = &story.world;
    let owed = OwedBy {
        missing: Missing { origin: world.node(0), from: 290, to: 299 },
        slices: 4,
        holders: vec![world.node(0), world.node(1)],
    };
    MoveStatus {
        mailbox: world.mailbox(2),
        phase,
        from: world.node(2),
        to: world.node(3),
        record: Digest([4; 32]),
        epoch: (phase >= MovePhase::Importing).then_some(289),
        due: (phase == MovePhase::Delayed).then_some((259_200_000, 7_000)),
        here: Extent { entries: 5, bytes: 900 },
        total: Extent { entries: 7, bytes: 1_200 },
        looked: 3,
        recovered: 1,
        owed: vec![owed],
        handed_over: phase >= MovePhase::Switching,
        reason: (phase == MovePhase::Abandoned).then(|| "another switch came first".into()),
    }
}

pub(super) fn messages(story: &Story) -> Vec<Sample> {
    let world = &story.world;
    let (mailbox, all) = (world.mailbox(2), Extent { entries: 7, bytes: 1_200 });
    let attested = world.mailbox_attestation(&story.attested, 2);
    let frontier = frontier(story);
    let owned = OwnerBase { attested: attested.clone(), frontier, acknowledged: world.acknowledgement(2) };
    let asked = |base| Question::Move(Box::new(MoveRequest { order: order(story), patience_ms: 10_000, base }));
    let wanted = |order, from| Question::Handoff(Box::new(HandoffRequest { mailbox, order, from }));
    let leaves = extract(story, 2).verify(&mailbox, &world.federation).unwrap();
    let (first, late) = (leaves[0], world.log(2).iter().find(|leaf| leaf.settled > leaf.seq.epoch).unwrap());
    let row = |leaves| LogRow {
        settled: late.settled,
        epoch: late.seq.epoch,
        position: late.seq.position,
        slice: slice(story),
        leaves,
    };
    let page = HandoffPage {
        handoff: handoff(story),
        attested,
        before: Frontier::new(),
        rows: vec![
            HandedRow { row: row(vec![first]), extract: None },
            HandedRow { row: row(leaves), extract: Some(Box::new(extract(story, 2))) },
        ],
        open: all,
    };
    const PHASES: [(&str, MovePhase); 7] = [
        ("call/reply/moving-preparing", MovePhase::Preparing),
        ("call/reply/moving-switching", MovePhase::Switching),
        ("call/reply/moving-delayed", MovePhase::Delayed),
        ("call/reply/moving-importing", MovePhase::Importing),
        ("call/reply/moving-following", MovePhase::Following),
        ("call/reply/moving-finished", MovePhase::Finished),
        ("call/reply/moving-abandoned", MovePhase::Abandoned),
    ];
    let mut samples = vec![
        sample("call/question/move", &asked(None)),
        sample("call/question/move-with-base", &asked(Some(Box::new(owned)))),
        sample("call/question/move-status", &Question::MoveStatus(mailbox)),
        sample("call/question/may-move", &Question::MayMove(mailbox, all, 7)),
        sample("call/question/inventory", &Question::Inventory(mailbox)),
        sample("call/question/handoff", &wanted(None, 300)),
        sample("call/question/handoff-by-order", &wanted(Some(Box::new(order(story))), 0)),
        sample("call/question/extracts", &Question::Extracts(mailbox, vec![slice(story)])),
        sample("call/reply/inventory", &Reply::Inventory(Inventory { open: all, size: 9, pending: 2 })),
        sample("call/reply/handoff", &Reply::Handoff(Box::new(page))),
        sample("call/reply/extracts", &Reply::Extracts(vec![Some(extract(story, 2)), None, Some(extract(story, 3))])),
    ];
    samples.extend(PHASES.map(|(name, phase)| sample(name, &Reply::Moving(Box::new(status(story, phase))))));
    samples
}
