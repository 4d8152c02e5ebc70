//! Imports: what a new home may say that it has taken over, and what the state remembers of former homes.

use postroad_protocol::Digest;
use postroad_protocol::attestation::LogHead;
use postroad_protocol::batch::AttestationRef;
use postroad_protocol::cut::CutBody;
use postroad_protocol::moving::{Base, Import, MAX_SPANS, Missing};
use postroad_protocol::state::{Imported, Span, State};

use super::{
    WINDOW, abandoned, attest, counts, finish, guarded, import_with, known, move_to, refused, settle, signed, switch,
    switch_with, world,
};
use crate::common::{World, key};

const DOES_NOT_FOLLOW: &str = "the import does not follow the last one";
const NO_LOG: &str = "the import continues no log that a former home could have whole";
const OTHER_LOG: &str = "the import continues another log than the import before";
const TOO_FAR: &str = "an import that reaches too far, or less far than its switch or the import before";
const RANGES: &str = "missing headers are ascending ranges up to the epoch that the import reaches";
const MISSES: &str = "the import misses what the import before had";
const FULL: &str = "it has moved 8 times and no move was finished: one has to be, or validity_epochs pass first";

#[test]
fn an_import_is_remembered_and_the_next_follows_it() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    move_to(&mut world, &owner, 1);
    let epoch = world.state.epoch;
    let missing = vec![Missing { origin: world.node(2), from: 1, to: epoch }];
    let first = import_with(&world, &mailbox, |import| import.missing.clone_from(&missing));
    settle(&mut world, vec![first.clone()]).unwrap();
    let digest = first.digest(&world.federation);
    let import = known(&world, &mailbox).moved.unwrap().import.unwrap();
    let expected = Imported { digest, first: epoch + 1, epoch: epoch + 1, through: epoch, base: None, missing };
    assert_eq!(import, expected);
    assert_eq!(settle(&mut world, vec![first]), refused(mailbox, DOES_NOT_FOLLOW));

    let second = import_with(&world, &mailbox, |_| {});
    let digest = second.digest(&world.federation);
    settle(&mut world, vec![second]).unwrap();
    let import = known(&world, &mailbox).moved.unwrap().import.unwrap();
    assert_eq!(import.missing, []);
    assert_eq!((import.digest, import.first, import.epoch, import.through), (digest, epoch + 1, epoch + 2, epoch + 1));
}

/// The owner's device may replace the record whenever it likes: that keeps no home from importing.
#[test]
fn an_import_follows_its_switch_whatever_record_is_in_force() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    move_to(&mut world, &owner, 1);
    let import = import_with(&world, &mailbox, |_| {});
    let stay = abandoned(switch(&world, &owner, 1));
    settle(&mut world, vec![stay]).unwrap();
    let record = known(&world, &mailbox).record;
    let wrong = import_with(&world, &mailbox, |import| import.previous = record);
    assert_eq!(settle(&mut world, vec![wrong]), refused(mailbox, DOES_NOT_FOLLOW));
    settle(&mut world, vec![import]).unwrap();
}

#[test]
fn imports_are_refused() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    let stranger = key("stranger").public();
    let unmoved = import_with(&world, &mailbox, |_| {});
    assert_eq!(settle(&mut world, vec![unmoved]), refused(mailbox, "it has not moved"));
    let unknown = import_with(&world, &mailbox, |import| import.mailbox = stranger);
    assert_eq!(settle(&mut world, vec![unknown]), refused(stranger, "it is not registered"));

    world.idle(3);
    move_to(&mut world, &owner, 1);
    let since = world.state.epoch;
    let same_cut = import_with(&world, &mailbox, |_| {});
    let node = world.node(0);
    let check = |world: &World, change: &dyn Fn(&mut Import)| {
        let record = import_with(world, &mailbox, change);
        world.draft(CutBody { records: vec![record], ..CutBody::default() }).map(drop)
    };
    let foreign = "an import by a node that is not its home";
    assert_eq!(check(&world, &|import| import.home = node), refused(mailbox, foreign));
    assert_eq!(check(&world, &|import| import.previous = Digest::ZERO), refused(mailbox, DOES_NOT_FOLLOW));
    assert_eq!(check(&world, &|import| import.through = since + 1), refused(mailbox, TOO_FAR));
    assert_eq!(check(&world, &|import| import.through = since - 1), refused(mailbox, TOO_FAR));
    assert_eq!(check(&world, &|import| import.through = since), Ok(()));
    let missing = |from, to| Missing { origin: node, from, to };
    for wrong in [
        vec![missing(3, 2)],
        vec![missing(1, since + 1)],
        vec![missing(2, 2), missing(1, 1)],
        vec![missing(1, 1), missing(1, 1)],
    ] {
        assert_eq!(check(&world, &|import| import.missing.clone_from(&wrong)), refused(mailbox, RANGES), "{wrong:?}");
    }
    settle(&mut world, vec![same_cut]).unwrap();
    world.idle(2);
    assert_eq!(check(&world, &|import| import.through = since - 1), refused(mailbox, TOO_FAR));
}

/// What an import has closed no later one opens again; what it has not even looked at, the next may miss.
#[test]
fn nothing_that_an_import_closed_becomes_missing_again() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    world.idle(10);
    move_to(&mut world, &owner, 1);
    let since = world.state.epoch;
    let (one, two) = (world.node(2), world.node(3));
    let range = |origin, from, to| Missing { origin, from, to };
    let first = import_with(&world, &mailbox, |import| import.missing = vec![range(one, 4, 8)]);
    settle(&mut world, vec![first]).unwrap();
    world.idle(2);
    let check = |missing: Vec<Missing>| {
        let record = import_with(&world, &mailbox, |import| import.missing = missing);
        world.draft(CutBody { records: vec![record], ..CutBody::default() }).map(drop)
    };
    let again = || refused(mailbox, MISSES);
    assert_eq!(check(vec![]), Ok(()));
    assert_eq!(check(vec![range(one, 4, 8)]), Ok(()));
    assert_eq!(check(vec![range(one, 4, 5), range(one, 7, 8)]), Ok(()));
    assert_eq!(check(vec![range(one, 5, 5), range(one, since + 1, since + 2)]), Ok(()));
    assert_eq!(check(vec![range(one, since + 1, since + 1)]), Ok(()));
    assert_eq!(check(vec![range(one, 3, 8)]), again());
    assert_eq!(check(vec![range(one, 4, 9)]), again());
    assert_eq!(check(vec![range(one, 4, since + 1)]), again());
    assert_eq!(check(vec![range(one, since, since + 1)]), again());
    assert_eq!(check(vec![range(two, 5, 5)]), again());
}

#[test]
fn a_base_is_an_attestation_of_a_former_home_that_had_the_whole_log() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    world.idle(5);
    move_to(&mut world, &owner, 1);
    let first = world.state.epoch;
    world.idle(5);
    move_to(&mut world, &owner, 2);
    let second = world.state.epoch;
    let log = LogHead { size: 3, root: Digest([3; 32]) };
    let base = |node: usize, epoch: u64| {
        let attestation = AttestationRef { number: 1, digest: Digest([1; 32]), epoch };
        Some(Base { node: world.node(node), attestation, log })
    };
    let check = |world: &World, base: Option<Base>| {
        let record = import_with(world, &mailbox, |import| import.base = base);
        world.draft(CutBody { records: vec![record], ..CutBody::default() }).map(drop)
    };
    assert_eq!(check(&world, None), Ok(()));
    assert_eq!(check(&world, base(0, 1)), Ok(()));
    assert_eq!(check(&world, base(0, first - 1)), Ok(()));
    for wrong in [base(0, 0), base(0, first), base(1, first), base(1, second - 1), base(2, second), base(3, 1)] {
        assert_eq!(check(&world, wrong), refused(mailbox, NO_LOG));
    }
    // Once said, it stays.
    let said = base(0, 2);
    let (other, none) = (base(0, 3), None);
    let record = import_with(&world, &mailbox, |import| import.base = said);
    settle(&mut world, vec![record]).unwrap();
    assert_eq!(check(&world, said), Ok(()));
    assert_eq!(check(&world, other), refused(mailbox, OTHER_LOG));
    assert_eq!(check(&world, none), refused(mailbox, OTHER_LOG));
}

#[test]
fn a_home_has_the_whole_log_once_its_move_is_finished_and_attested() {
    for (missing, through, attested, whole) in [
        (false, WINDOW - 1, true, true),
        (false, WINDOW - 2, true, false),
        (true, WINDOW - 1, true, false),
        (false, WINDOW - 1, false, false),
    ] {
        let mut world = world();
        let owner = world.mailboxes[0].clone();
        let mailbox = owner.public();
        move_to(&mut world, &owner, 1);
        let until = world.state.epoch;
        world.idle(WINDOW);
        let origin = world.node(2);
        let record = import_with(&world, &mailbox, |import| {
            import.through = until + through;
            import.missing = Vec::from_iter(missing.then_some(Missing { origin, from: until, to: until }));
        });
        settle(&mut world, vec![record]).unwrap();
        let imported = world.state.epoch;
        match attested {
            true => assert_eq!(attest(&mut world, 1).epoch, imported),
            false => world.idle(1),
        }
        assert_eq!(known(&world, &mailbox).moved.unwrap().is_finished(WINDOW), through == WINDOW - 1 && !missing);
        move_to(&mut world, &owner, 2);
        let span = *known(&world, &mailbox).moved.unwrap().spans.last().unwrap();
        assert_eq!((span.node, span.complete), (world.node(1), whole.then_some(imported)));
    }
}

/// Its former homes forget the mailbox then: no import can say afterwards that something is missing.
#[test]
fn a_finished_move_stays_finished() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    move_to(&mut world, &owner, 1);
    finish(&mut world, &mailbox);
    world.idle(2);
    let (origin, epoch) = (world.node(2), world.state.epoch);
    let again = import_with(&world, &mailbox, |_| {});
    let missing =
        import_with(&world, &mailbox, |import| import.missing = vec![Missing { origin, from: epoch, to: epoch }]);
    for record in [again, missing] {
        assert_eq!(settle(&mut world, vec![record]), refused(mailbox, "the move is finished"));
    }
}

// What is remembered.

#[test]
fn the_oldest_home_is_forgotten_once_a_later_one_had_the_whole_log() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    (1..=MAX_SPANS).for_each(|turn| move_to(&mut world, &owner, turn % 2));
    let before = known(&world, &mailbox).moved.unwrap().spans;
    assert_eq!(before.len(), MAX_SPANS);
    let record = signed(&world, switch(&world, &owner, 3));
    assert_eq!(settle(&mut world, vec![record.clone()]), refused(mailbox, FULL));
    finish(&mut world, &mailbox);
    settle(&mut world, vec![record]).unwrap();
    let after = known(&world, &mailbox).moved.unwrap().spans;
    assert_eq!(after[..MAX_SPANS - 1], before[1..]);
    assert!(after[MAX_SPANS - 1].complete.is_some());
    // The next import can still begin with the oldest home that is remembered.
    let import = import_with(&world, &mailbox, |_| {});
    settle(&mut world, vec![import]).unwrap();
}

/// The eighth home dies before it has taken over: its mailboxes can leave it all the same, after a while.
#[test]
fn a_home_that_never_finishes_keeps_no_mailbox_for_ever() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    (1..=MAX_SPANS).for_each(|turn| move_to(&mut world, &owner, turn % 2));
    let before = known(&world, &mailbox).moved.unwrap().spans;
    let record = signed(&world, switch(&world, &owner, 3));
    // The next cut is the one after.
    world.idle(world.federation.params().validity_epochs - 2);
    assert_eq!(settle(&mut world, vec![record.clone()]), refused(mailbox, FULL));
    world.idle(1);
    settle(&mut world, vec![record]).unwrap();
    let after = known(&world, &mailbox).moved.unwrap();
    assert_eq!(after.spans[0], before[0], "the one home that had the whole log");
    assert_eq!(after.spans[1..MAX_SPANS - 1], before[2..]);
    let attestation = AttestationRef { number: 1, digest: Digest([1; 32]), epoch: 1 };
    let log = LogHead { size: 0, root: Digest::ZERO };
    assert_eq!(after.base_span(Some(&Base { node: world.node(0), attestation, log })), Some(0));
}

#[test]
fn a_residence_within_one_cut_is_none() {
    let mut world = world();
    let owner = world.mailboxes[0].clone();
    let mailbox = owner.public();
    // The second one's record follows from the first one's.
    let first = switch(&world, &owner, 1);
    let second = switch_with(&world, &mailbox, 2, |switch| switch.replaces = first.digest(&world.federation))
        .by_device(&owner, &world.federation);
    let records = vec![signed(&world, first), signed(&world, second)];
    settle(&mut world, records).unwrap();
    let after = known(&world, &mailbox);
    let epoch = world.state.epoch;
    let span = Span { node: world.node(0), since: 1, until: epoch, complete: Some(1) };
    assert_eq!((after.home, after.since, after.moved.unwrap().spans), (world.node(2), epoch, vec![span]));
    assert_eq!(counts(&world), [0, 1, 2, 1]);
}

#[test]
fn a_restored_state_has_its_moves() {
    let mut world = world();
    let (owner, _) = guarded(&mut world);
    let waiting = signed(&world, switch(&world, &owner, 1));
    settle(&mut world, vec![waiting]).unwrap();
    let other = world.mailboxes[0].clone();
    move_to(&mut world, &other, 3);
    let mut again = State::genesis(&world.federation);
    for key in world.state.keys() {
        again.restore(key, &world.state.value(&key).unwrap()).unwrap();
    }
    assert_eq!(again.root(), world.state.root());
    assert_eq!(again.delayed(&owner.public()), world.state.delayed(&owner.public()));
}
