//! What a former home hands over of a log, what any node extracts of slices, and what is forgotten when a move is over.

mod scene;

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_engine::arrivals::{Extracted, Handed};
use postroad_engine::departures::{self, Departure, Forgetting};
use postroad_engine::handover::{Handovers, extracts};
use postroad_engine::outbox::{AttestedView, Outbox};
use postroad_engine::serve::{Library, Reader, Served, Unreadable};
use postroad_engine::tables::{
    self, ACKS, ALL, ARRIVALS, BATCHES, CUTS, DEPARTURES, EDGES, EXPIRED, EXTRACTS, Edge, LOGS, META, PLACES, SLICES,
    WAITING,
};
use postroad_protocol::attestation::LogHead;
use postroad_protocol::batch::AttestationRef;
use postroad_protocol::codec::encode;
use postroad_protocol::evidence::Fault;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::{Base, Extent, HandedRow, Handoff, HandoffPage, LogRow};
use postroad_protocol::slice::{SliceKey, SliceLeaf};
use postroad_protocol::state::{Anchored, Imported, KeptUp, MailboxState, Moved, NodeState, Span, State, StateKey};
use postroad_protocol::{Digest, Refusal, Seq, Signed};
use postroad_store::{Read, Store, Write};
use scene::*;

fn counts(found: &[Option<Vec<SliceLeaf>>]) -> Vec<Option<usize>> {
    found.iter().map(|leaves| leaves.as_ref().map(Vec::len)).collect()
}

#[test]
fn an_extract_shows_a_mailboxs_leaves_or_that_there_are_none() {
    let scene = Scene::new();
    // One for this node, one held for another, and one that is nowhere.
    let slices =
        [scene.hold(1, HOME, &[ALICE, BOB, ALICE]), scene.hold(2, OTHER, &[BOB, ALICE]), scene.hold(3, HOME, &[BOB])];
    let nowhere = SliceKey { number: 4, ..slices[0] };
    let slices = [&slices[..], &[nowhere]].concat();
    assert_eq!(counts(&scene.extract(&slices, ALICE, MORE)), [Some(2), Some(1), Some(0), None]);
    assert_eq!(counts(&scene.extract(&slices, NOBODY, MORE)), [Some(0), Some(0), Some(0), None]);
    // One that is damaged is not here, and keeps none from being answered for.
    scene.write(&[Write::Put { table: SLICES, key: tables::slice_key(&slices[0]), value: vec![1, 2, 3] }]);
    assert_eq!(counts(&scene.extract(&slices, ALICE, MORE)), [None, Some(1), Some(0), None]);
}

#[test]
fn an_extract_is_cut_from_the_nodes_own_batch_once_that_is_ordered() {
    let mut scene = Scene::new();
    let (batch, header, _) = scene.batch(HOME, 7, &[(ALICE, OTHER), (BOB, NEW_HOME), (ALICE, OTHER)]);
    scene.write(&[tables::put(BATCHES, tables::number_key(7), &batch)]);
    let slices = [scene.key_of(&header, OTHER), scene.key_of(&header, NEW_HOME), scene.key_of(&header, ORIGIN)];
    assert_eq!(counts(&scene.extract(&slices, ALICE, MORE)), [None; 3]);
    let (_, another, _) = scene.batch(OTHER, 1, &[(BOB, HOME)]);
    let epoch = scene.cut(&[another, header]).certified.header.epoch;
    scene.write(&[tables::put(PLACES, tables::number_key(7), &(epoch, 1_u32))]);
    assert_eq!(counts(&scene.extract(&slices, ALICE, MORE)), [Some(2), Some(0), None]);
    // A batch of the same number that no cut has included is another one.
    let dead = SliceKey { header: Digest([9; 32]), ..slices[0] };
    assert_eq!(counts(&scene.extract(&[dead, slices[0]], ALICE, MORE)), [None, Some(2)]);
}

#[test]
fn an_extract_that_came_before_is_given_on_to_its_own_mailbox_only() {
    let scene = Scene::new();
    let slice = scene.hold(1, OTHER, &[ALICE, BOB]);
    let store = scene.store.snapshot().unwrap();
    let extract = extracts(&store, &id(HOME), &scene.federation, &id(ALICE), &[slice], MORE).unwrap().remove(0);
    scene.write(&[
        tables::delete(SLICES, tables::slice_key(&slice)),
        tables::put(EXTRACTS, tables::extract_key(&id(ALICE), &slice), &extract.unwrap()),
    ]);
    assert_eq!(counts(&scene.extract(&[slice], ALICE, MORE)), [Some(1)]);
    assert_eq!(counts(&scene.extract(&[slice], BOB, MORE)), [None]);
}

#[test]
fn extracts_are_answered_for_as_many_slices_as_fit_and_one_at_least() {
    let scene = Scene::new();
    let slices: Vec<SliceKey> = (1..=4).map(|number| scene.hold(number, HOME, &[ALICE])).collect();
    assert_eq!(scene.extract(&slices, ALICE, 0).len(), 1);
    let one = encode(&{
        let store = scene.store.snapshot().unwrap();
        extracts(&store, &id(HOME), &scene.federation, &id(ALICE), &slices[..1], 0).unwrap().remove(0).unwrap()
    });
    assert_eq!(scene.extract(&slices, ALICE, 2 * one.len()).len(), 2);
    assert_eq!(scene.extract(&slices, ALICE, MORE).len(), 4);
    // Large slices are not read without end for answers that are small.
    let large: Vec<SliceKey> =
        (5..=9).map(|number| scene.hold(number, HOME, &std::iter::repeat_n(BOB, 200).collect::<Vec<_>>())).collect();
    assert!(scene.extract(&large, ALICE, 4_000).len() < large.len());
}

/// All pages, each asked for where the one before ended.
fn all_pages(scene: &Scene, view: &AttestedView, max_bytes: usize, handovers: &Handovers) -> Vec<HandoffPage> {
    let mut pages = Vec::new();
    let mut from = 0;
    let size = view.of(&id(ALICE)).unwrap().log.log.size;
    while from < size {
        let page = scene.handoff(view, from, max_bytes, handovers);
        assert!(!page.rows.is_empty(), "a page has one row at least");
        from = page.before.size() + page.rows.iter().map(|row| row.row.leaves.len() as u64).sum::<u64>();
        pages.push(page);
    }
    pages
}

#[test]
fn pages_of_a_log_give_the_log_that_the_attestation_names() {
    let mut scene = Scene::new();
    (1..=9).for_each(|number| scene.deliver(number, number as usize));
    let view = scene.attest();
    // What comes after the attestation is not handed over.
    scene.deliver(10, 3);
    let log = view.of(&id(ALICE)).unwrap().log.log;
    assert_eq!(log.size, 45);
    for max_bytes in [0, 5_000, MORE] {
        let pages = all_pages(&scene, &view, max_bytes, &Handovers::default());
        assert_eq!(pages.len() == 1, max_bytes == MORE);
        let mut frontier = Frontier::new();
        for page in &pages {
            assert_eq!(page.before, frontier);
            assert_eq!(page.open, Extent { entries: 45, bytes: 4_500 });
            assert!(page.rows.iter().all(|row| row.extract.is_some()));
            let leaves = page.rows.iter().flat_map(|row| row.row.log_leaves());
            leaves.for_each(|leaf| frontier.append(leaf.hash()));
        }
        assert_eq!((frontier.size(), frontier.root()), (log.size, log.root));
    }
    // A page begins at a row: 7 and 8 are in the fourth, which begins at 6. Nobody has asked for what is before.
    let page = scene.handoff(&view, 8, 0, &Handovers::default());
    assert_eq!(page.before.size(), 6);
    assert_eq!(page.rows.len(), 1);
    let before = all_pages(&scene, &view, 0, &Handovers::default())[3].before.clone();
    assert_eq!(page.before, before);
    let nothing = scene.handoff(&view, 1_000, MORE, &Handovers::default());
    assert_eq!((nothing.before.size(), nothing.before.root(), nothing.rows.len()), (log.size, log.root, 0));
}

#[test]
fn what_a_page_remembers_of_a_log_that_was_written_anew_is_not_used() {
    let mut scene = Scene::new();
    (1..=4).for_each(|number| scene.deliver(number, 2));
    let view = scene.attest();
    let handovers = Handovers::default();
    let first = scene.handoff(&view, 0, 0, &handovers).rows.remove(0).row;
    // Another first row takes its place, and the log that is attested from now on begins with it.
    let mut other = first;
    other.settled = 0;
    scene.write(&[tables::put(LOGS, tables::mailbox_key(&id(ALICE), 0), &other)]);
    let residents = BTreeMap::from([(id(ALICE), 1), (id(BOB), 1)]);
    let snapshot = scene.store.snapshot().unwrap();
    scene.outbox = Outbox::open(&key(HOME), &scene.federation, &residents, |_, _| false, &snapshot).unwrap();
    scene.outbox.start(2, 0);
    let view = scene.attest();
    let log = view.of(&id(ALICE)).unwrap().log.log;
    let page = scene.handoff(&view, 2, MORE, &handovers);
    let mut frontier = page.before.clone();
    page.rows.iter().flat_map(|row| row.row.log_leaves()).for_each(|leaf| frontier.append(leaf.hash()));
    assert_eq!((frontier.size(), frontier.root()), (log.size, log.root));
}

#[test]
fn what_the_owner_has_or_retention_took_is_handed_over_without_messages() {
    let mut scene = Scene::new();
    (1..=2).for_each(|number| scene.deliver(number, 2));
    // The owner has the first entry of the third row as well.
    scene.deliver(3, 2);
    let head = view_log(&scene, 5);
    scene.deliver(4, 2);
    scene.acknowledge(head);
    let view = scene.attest();
    let handed = |scene: &Scene| -> (Vec<bool>, Extent) {
        let page = scene.handoff(&view, 0, MORE, &Handovers::default());
        (page.rows.iter().map(|HandedRow { extract, .. }| extract.is_some()).collect(), page.open)
    };
    assert_eq!(handed(&scene), (vec![false, false, true, true], Extent { entries: 3, bytes: 300 }));
    // Another attestation of the same log, which says that the owner has more.
    let handovers = Handovers::default();
    assert_eq!(scene.handoff(&view, 0, MORE, &handovers).open.entries, 3);
    scene.acknowledge(view_log(&scene, 8));
    let later = scene.attest();
    assert_eq!(scene.handoff(&later, 0, MORE, &handovers).open.entries, 0);
    scene.write(&[tables::put(META, EXPIRED, &3_u64)]);
    assert_eq!(handed(&scene), (vec![false, false, false, true], Extent { entries: 2, bytes: 200 }));
}

/// Alice's log when it had `size` entries.
fn view_log(scene: &Scene, size: u64) -> LogHead {
    let mut frontier = Frontier::new();
    let rows = scene.store.snapshot().unwrap().range(LOGS, &tables::mailbox_key(&id(ALICE), 0), &[], 100).unwrap();
    let rows = rows.iter().filter(|(key, _)| key.starts_with(&id(ALICE).0));
    let rows: Vec<LogRow> = rows.map(|(key, row)| tables::read(LOGS, key, row).unwrap()).collect();
    let leaves = rows.iter().flat_map(LogRow::log_leaves).take(size as usize);
    leaves.for_each(|leaf| frontier.append(leaf.hash()));
    LogHead { size, root: frontier.root() }
}

/// The state of a federation in which Alice lives at `home`, and lived at others before.
fn state(scene: &Scene, home: u8, moved: Option<Moved>) -> State {
    let mut head = State::genesis(&scene.federation);
    let value = MailboxState {
        home: id(home),
        since: 20,
        record: Digest::ZERO,
        encryption_key: Digest::ZERO,
        recovery_key: None,
        registered: 1,
        moved,
        recovered: None,
    };
    head.restore(StateKey::Mailbox(id(ALICE)), &encode(&value)).unwrap();
    attest_up_to(&mut head, home, 30);
    head
}

/// Has `home` attest, finally, everything up to `epoch`.
fn attest_up_to(head: &mut State, home: u8, epoch: u64) {
    let attestation = AttestationRef { number: 1, digest: Digest::ZERO, epoch };
    let node = NodeState {
        version: 1,
        name: String::new(),
        addrs: Vec::new(),
        deputies: Vec::new(),
        incarnation: 1,
        nonce: [0; 16],
        started: 1,
        last_header: None,
        last_attestation: Some(Anchored { attestation, epoch: epoch + 1 }),
        mailboxes: 1,
        lapsed: None,
        pending: 0,
        kept_up: KeptUp { epoch, age_ms: 0 },
        lost: 0,
    };
    head.restore(StateKey::Node(id(home)), &encode(&node)).unwrap();
}

/// A move away from this node in the cut of epoch 20, which is finished if `through` says so.
fn moved(through: Option<u64>) -> Option<Moved> {
    let span = Span { node: id(HOME), since: 1, until: 20, complete: Some(1) };
    let attestation = AttestationRef { number: 1, digest: Digest::ZERO, epoch: 10 };
    let base = Base { node: id(HOME), attestation, log: LogHead { size: 0, root: Frontier::new().root() } };
    let import = through.map(|through| Imported {
        digest: Digest::ZERO,
        first: 21,
        epoch: 21,
        through,
        base: Some(base),
        missing: Vec::new(),
    });
    Some(Moved { spans: vec![span], switch: Digest::ZERO, import })
}

const WINDOW: u64 = 4;

#[test]
fn a_mailbox_is_handed_over_up_to_the_last_final_attestation_that_names_it() {
    let mut scene = Scene::new();
    scene.deliver(1, 1);
    let view = scene.attest();
    let attested = |scene: &Scene, head: &State, last: Option<&AttestedView>| {
        let store = scene.store.snapshot().unwrap();
        departures::attested(&id(ALICE), &id(HOME), head, last, WINDOW, &store).unwrap()
    };
    let here = state(&scene, HOME, None);
    assert_eq!(*attested(&scene, &here, Some(&view)).unwrap(), view.of(&id(ALICE)).unwrap());
    assert_eq!(attested(&scene, &here, None), Err(Refusal::NotReady), "after a start, until one is final");
    let stranger = attested(&scene, &State::genesis(&scene.federation), Some(&view));
    assert!(matches!(stranger, Err(Refusal::NotFound { .. })));
    // The switch is applied, and its epoch not delivered.
    let left = state(&scene, NEW_HOME, moved(None));
    assert_eq!(*attested(&scene, &left, Some(&view)).unwrap(), view.of(&id(ALICE)).unwrap());
    assert_eq!(attested(&scene, &left, None), Err(Refusal::NotReady));
    // It is delivered: what was final then counts, even after a start.
    scene.write(&[departures::left(&id(ALICE), 20, Some(&view))]);
    assert_eq!(*attested(&scene, &left, None).unwrap(), view.of(&id(ALICE)).unwrap());
    scene.write(&[departures::left(&id(ALICE), 20, None)]);
    assert!(matches!(attested(&scene, &left, Some(&view)), Err(Refusal::NotFound { .. })), "there was none");
    // One of the cut's own epoch, or a later one, is none of a home.
    scene.write(&[departures::left(&id(ALICE), view.attestation.body.epoch, Some(&view))]);
    let row = scene.store.snapshot().unwrap().get(DEPARTURES, &id(ALICE).0).unwrap().unwrap();
    assert_eq!(tables::read::<Departure>(DEPARTURES, &[], &row).unwrap().attested, None);
    let elsewhere = attested(&scene, &state(&scene, NEW_HOME, None), Some(&view));
    assert_eq!(elsewhere, Err(Refusal::NotHere { home: id(NEW_HOME) }), "it never lived here");
}

#[test]
fn a_log_is_forgotten_when_its_move_is_finished_and_not_before() {
    let mut scene = Scene::new();
    (1..=3).for_each(|number| scene.deliver(number, 2));
    let view = scene.attest();
    let slice = scene.hold(1, HOME, &[ALICE]);
    let store = scene.store.snapshot().unwrap();
    let extract = extracts(&store, &id(HOME), &scene.federation, &id(ALICE), &[slice], MORE).unwrap().remove(0);
    let mailbox = id(ALICE);
    scene.acknowledge(view.of(&mailbox).unwrap().log.log);
    let row: LogRow =
        tables::read(LOGS, &[], &store.get(LOGS, &tables::mailbox_key(&mailbox, 0)).unwrap().unwrap()).unwrap();
    scene.write(&[
        tables::put(EXTRACTS, tables::extract_key(&mailbox, &slice), &extract.unwrap()),
        tables::put(EDGES, mailbox.0, &Edge { frontier: Frontier::new(), expired_to: 0, last_epoch: 0 }),
        tables::put(WAITING, tables::mailbox_key(&mailbox, 1), &row),
        departures::left(&mailbox, 20, Some(&view)),
    ]);
    let all = [LOGS, EXTRACTS, EDGES, WAITING, ACKS, DEPARTURES];
    let rows_of = |scene: &Scene, seed: u8| -> usize {
        let store = scene.store.snapshot().unwrap();
        let of = |table| store.range(table, &id(seed).0, &postroad_store::prefix_end(&id(seed).0), 99).unwrap().len();
        all.into_iter().map(of).sum()
    };
    let (before, bobs) = (rows_of(&scene, ALICE), rows_of(&scene, BOB));
    assert_eq!((before, bobs), (8, 3));
    let round = |scene: &Scene, head: &State| {
        let mut forgetting = Forgetting::default();
        let writes = forgetting.round(&id(HOME), head, WINDOW, &scene.store.snapshot().unwrap()).unwrap();
        scene.write(&writes);
    };
    let finished = moved(Some(20 + WINDOW - 1));
    let mut unattested = state(&scene, NEW_HOME, finished.clone());
    attest_up_to(&mut unattested, NEW_HOME, 20);
    let mut anew = finished.clone();
    if let Some(import) = anew.as_mut().and_then(|moved| moved.import.as_mut()) {
        import.base = None;
    }
    for (why, head) in [
        ("no final attestation names the whole log", unattested),
        ("the new home has begun anew", state(&scene, NEW_HOME, anew)),
        ("nothing is imported", state(&scene, NEW_HOME, moved(None))),
        ("more may come", state(&scene, NEW_HOME, moved(Some(20 + WINDOW - 2)))),
        ("it is back", state(&scene, HOME, finished.clone())),
    ] {
        round(&scene, &head);
        assert_eq!(rows_of(&scene, ALICE), before, "{why}");
    }
    let done = state(&scene, NEW_HOME, finished);
    scene.write(&[Write::Put { table: ARRIVALS, key: mailbox.0.to_vec(), value: vec![0] }]);
    round(&scene, &done);
    assert_eq!(rows_of(&scene, ALICE), before, "it is coming back");
    scene.write(&[tables::delete(ARRIVALS, mailbox.0)]);
    round(&scene, &done);
    assert_eq!((rows_of(&scene, ALICE), rows_of(&scene, BOB)), (0, bobs));
}

#[test]
fn a_long_log_is_forgotten_in_bounded_rounds_to_the_end_and_handed_over_to_nobody() {
    let scene = Scene::new();
    let slice = scene.hold(1, HOME, &[ALICE]);
    let row = LogRow { settled: 1, epoch: 1, position: 0, slice, leaves: Vec::new() };
    let rows = (0..3_000).map(|at| tables::put(LOGS, tables::mailbox_key(&id(ALICE), at), &row));
    let writes: Vec<Write> = rows.chain([departures::left(&id(ALICE), 20, None)]).collect();
    scene.write(&writes);
    let head = state(&scene, NEW_HOME, moved(Some(20 + WINDOW - 1)));
    // After the first round, it moves on.
    let later = state(&scene, OTHER, moved(None));
    let mut forgetting = Forgetting::default();
    let mut rounds = 0;
    loop {
        let head = if rounds == 0 { &head } else { &later };
        let store = scene.store.snapshot().unwrap();
        let writes = forgetting.round(&id(HOME), head, WINDOW, &store).unwrap();
        if writes.is_empty() {
            break;
        }
        assert!(writes.len() <= 1_024 + 3);
        scene.write(&writes);
        rounds += 1;
        let store = scene.store.snapshot().unwrap();
        let handed = departures::attested(&id(ALICE), &id(HOME), head, None, WINDOW, &store).unwrap();
        assert!(handed.is_err(), "{handed:?}");
    }
    assert_eq!(rounds, 3);
    assert!(scene.store.snapshot().unwrap().last(LOGS, &[], &[]).unwrap().is_none());
    assert!(scene.store.snapshot().unwrap().last(DEPARTURES, &[], &[]).unwrap().is_none());
}

/// What a reader is served.
fn served(scene: &Scene, me: u8, from: u64) -> Result<Vec<Served>, Unreadable> {
    let library = Arc::new(Library::new(id(me), &scene.federation));
    Reader::new(library).entries(&scene.store.snapshot().unwrap(), &id(ALICE), from, 100, MORE)
}

/// The rows that the new home has after it took over what a page hands over, of which it knows what is below `edge` by its
/// right edge only.
fn take_over(scene: &Scene, page: &HandoffPage, edge: u64) -> Store {
    let store = Store::memory(&ALL);
    let mut transaction = store.begin().unwrap();
    let from = scene.store.snapshot().unwrap();
    for (key, value) in from.range(CUTS, &[], &[], 100).unwrap() {
        transaction.apply(&Write::Put { table: CUTS, key, value });
    }
    let (mut frontier, mut expired_to) = (page.before.clone(), 0);
    for HandedRow { row, extract } in &page.rows {
        let start = frontier.size();
        row.log_leaves().for_each(|leaf| frontier.append(leaf.hash()));
        if start < edge {
            let edge = Edge { frontier: frontier.clone(), expired_to, last_epoch: 0 };
            transaction.apply(&tables::put(EDGES, id(ALICE).0, &edge));
            continue;
        }
        let mut row = row.clone();
        match extract {
            Some(extract) => {
                row.leaves = Extracted::check((**extract).clone(), &id(ALICE), &scene.federation).unwrap().leaves;
                let key = tables::extract_key(&id(ALICE), &row.slice);
                transaction.apply(&tables::put(EXTRACTS, key, &**extract));
            }
            None => expired_to = frontier.size(),
        }
        transaction.apply(&tables::put(LOGS, tables::mailbox_key(&id(ALICE), start), &row));
    }
    if expired_to > 0 {
        let edge = Edge { frontier: page.before.clone(), expired_to, last_epoch: 0 };
        transaction.apply(&tables::put(EDGES, id(ALICE).0, &edge));
    }
    transaction.commit().unwrap();
    store
}

fn log_of(served: &[Served]) -> Vec<(u64, Seq)> {
    let entries = served.iter().filter_map(|served| match served {
        Served::Entry(entry) => Some(entry),
        _ => None,
    });
    entries.map(|entry| (entry.log_index, Seq { epoch: entry.settled, position: 0, index: 0 })).collect()
}

#[test]
fn entries_that_were_handed_over_are_read_from_their_extracts() {
    let mut scene = Scene::new();
    (1..=3).for_each(|number| scene.deliver(number, 2));
    let view = scene.attest();
    let before = served(&scene, HOME, 0).unwrap();
    let page = scene.handoff(&view, 0, MORE, &Handovers::default());
    let old = std::mem::replace(&mut scene.store, Store::memory(&ALL));
    let there = Scene { store: old, ..scene };
    let new = Scene { store: take_over(&there, &page, 0), ..Scene::new() };
    let after = served(&new, NEW_HOME, 0).unwrap();
    assert_eq!(log_of(&after).len(), 6);
    assert_eq!(encoded(&after), encoded(&before), "the same entries, with the same proofs");
    // One whose extract is gone is asked for from others; the slice of another node does not do.
    let slice = page.rows[0].row.slice;
    new.write(&[tables::delete(EXTRACTS, tables::extract_key(&id(ALICE), &slice))]);
    assert!(
        matches!(served(&new, NEW_HOME, 0), Err(Unreadable::Extract(gone, of, _)) if *gone == slice && of == id(ALICE))
    );
    assert_eq!(log_of(&served(&new, NEW_HOME, 2).unwrap()).len(), 4);
}

fn encoded(served: &[Served]) -> Vec<Vec<u8>> {
    let bytes = |served: &Served| match served {
        Served::Cut(cut) => encode(&**cut),
        Served::Entry(entry) => encode(&**entry),
        Served::Expired(expired) => encode(&**expired),
        Served::Elsewhere(index) => encode(index),
    };
    served.iter().map(bytes).collect()
}

#[test]
fn a_log_that_began_elsewhere_is_read_from_its_edge_on() {
    let mut scene = Scene::new();
    (1..=3).for_each(|number| scene.deliver(number, 2));
    let view = scene.attest();
    let page = scene.handoff(&view, 0, MORE, &Handovers::default());
    scene.store = take_over(&scene, &page, 2);
    for from in 0..2 {
        assert!(matches!(served(&scene, NEW_HOME, from).unwrap()[..], [Served::Elsewhere(2)]));
    }
    assert_eq!(log_of(&served(&scene, NEW_HOME, 2).unwrap()).len(), 4);
    // Past retention, the log goes on from its edge.
    scene.write(&[tables::put(META, EXPIRED, &2_u64)]);
    let Served::Expired(expired) = served(&scene, NEW_HOME, 2).unwrap().remove(0) else { panic!("it is expired") };
    let mut frontier = expired.before.clone();
    frontier.append(expired.last.hash());
    assert_eq!((frontier.size(), frontier.root()), (4, view_log_of(&page, 4)));
}

/// The root of the log of a page that begins at its beginning.
fn view_log_of(page: &HandoffPage, size: usize) -> Digest {
    let mut frontier = Frontier::new();
    let leaves = page.rows.iter().flat_map(|row| row.row.log_leaves()).take(size);
    leaves.for_each(|leaf| frontier.append(leaf.hash()));
    frontier.root()
}

#[test]
fn what_came_without_its_messages_counts_as_past_retention() {
    let mut scene = Scene::new();
    (1..=3).for_each(|number| scene.deliver(number, 2));
    scene.acknowledge(view_log(&scene, 4));
    let view = scene.attest();
    let page = scene.handoff(&view, 0, MORE, &Handovers::default());
    scene.store = take_over(&scene, &page, 0);
    let Served::Expired(expired) = served(&scene, NEW_HOME, 1).unwrap().remove(0) else { panic!("it is expired") };
    assert_eq!(expired.before.size(), 3);
    assert_eq!(log_of(&served(&scene, NEW_HOME, 4).unwrap()).len(), 2);
}

#[test]
fn a_handoff_of_another_log_or_another_attestation_than_the_final_one_convicts_the_old_home() {
    let mut scene = Scene::new();
    scene.deliver(1, 2);
    let view = scene.attest();
    let page = scene.handoff(&view, 0, MORE, &Handovers::default());
    let lies: [fn(&mut Handoff); 2] =
        [|handoff| handoff.log.size -= 1, |handoff| handoff.attestation.digest = Digest([1; 32])];
    for lie in lies {
        let mut page = page.clone();
        lie(&mut page.handoff.body);
        page.handoff = Signed::sign(page.handoff.body.clone(), &key(HOME), &scene.federation).into_inner();
        let handed = Handed::check(page, &id(HOME), &id(ALICE), &scene.federation).unwrap();
        let verdict = handed.accusation().expect("it is false").judge(&scene.federation).expect("it convicts");
        assert_eq!((verdict.fault, verdict.culprit), (Fault::FalseHandoff, id(HOME)));
    }
}
