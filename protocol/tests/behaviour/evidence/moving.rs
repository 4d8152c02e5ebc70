//! Moves: what convicts an old or a new home, and each way in which an honest one could be made to look guilty.

use postroad_protocol::cut::CutBody;
use postroad_protocol::evidence::{
    Broken, Claim, Cleared, Drop, EarlyExpiry, FalseBase, FalseHandoff, FalseHome, FalseImport, Fault, LogGap,
    NotContinued, Refuted, SplitLogs, SplitView, Wrong, WrongEntry,
};
use postroad_protocol::receipt::{Custody, LeafRefusal, RefusedLeaf};
use postroad_protocol::{Digest, Seq, VerifyError};

use super::{cleared, malformed, unproven};
use crate::common::claims::moving::{Moving, dropped_import, other};
use crate::common::claims::{Guilty, Scale};
use crate::common::{Attested, Hold};

const SCALE: Scale = Scale::SMALL;

/// After the switch, with the second message at the old home.
fn moved() -> Moving {
    Moving::new(SCALE, &Hold::Home, |_| {})
}

fn pending() -> Moving {
    Moving::settled(SCALE, &Hold::Custodians(vec![2, 3]), |_| {})
}

/// The claim that the new home lacks the second message, which this import took over, after a change.
fn lacks(moving: &mut Moving, import: u64, change: impl FnOnce(&mut Moving, &mut Drop)) -> Claim {
    moving.holds(&[]);
    let (attested, anchor) = moving.attest(2);
    let mut claim = moving.dropped(&attested, anchor, import);
    change(moving, &mut claim);
    Claim::Drop(Box::new(claim))
}

fn convicts(claim: &Claim, moving: &Moving, node: usize) -> Option<u64> {
    let verdict = claim.judge(&moving.world.federation).ok()?;
    assert_eq!((verdict.fault, verdict.culprit), (claim.fault(), moving.world.node(node)));
    Some(verdict.epoch)
}

#[test]
fn what_a_new_home_took_over_it_has() {
    for scale in [SCALE, Scale { entries: 3, ..SCALE }] {
        let Guilty { world, claim, verdict } = dropped_import(scale);
        assert_eq!(claim.judge(&world.federation), Ok(verdict));
    }
    let mut moving = moved();
    let import = moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[moving.leaf(import)]);
    let (attested, anchor) = moving.attest(2);
    let mut claim = moving.dropped(&attested, anchor, import);
    for (before, after) in [(Some(1), None), (Some(0), None), (Some(0), Some(1)), (None, Some(1)), (None, None)] {
        let at = |index: Option<usize>| index.map(|index| moving.world.leaf_at(&attested, 1, index));
        claim.gap = LogGap { before: at(before), after: at(after) };
        let claim = Claim::Drop(Box::new(claim.clone()));
        assert!(matches!(unproven(&claim, &moving.world), VerifyError::Malformed { kind: "log gap", .. }));
    }
}

#[test]
fn what_the_log_that_was_taken_over_reaches_its_home_answers_for() {
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    let (attested, _) = moving.attest(1);
    let base = moving.world.mailbox_attestation(&attested, 1).base(&moving.world.federation);
    moving.switch(2);
    let import = moving.take_over(Some(base), |_| {});
    let claim = lacks(&mut moving, import, |_, _| {});
    assert_eq!(cleared(&claim, &moving.world), Cleared::Inherited { below: 2 });
}

#[test]
fn one_import_closes_an_item() {
    let mut moving = moved();
    let missing = moving.missing();
    let first = moving.take_over(Some(moving.base), |import| import.missing = missing);
    let second = moving.take_over(Some(moving.base), |_| {});
    let third = moving.take_over(Some(moving.base), |_| {});
    let of = |moving: &Moving, epoch: u64| {
        let found = postroad_protocol::evidence::SettledImport::find(
            &moving.world.cuts[epoch as usize - 1],
            &moving.world.mailbox(1),
        );
        found.map(|settled| Box::new(settled.import))
    };
    let not_closed = |epoch| Cleared::NotClosed { epoch };
    let claim = lacks(&mut moving, first, |_, _| {});
    assert_eq!(cleared(&claim, &moving.world), not_closed(first), "it was missing");
    let claim = lacks(&mut moving, second, |_, _| {});
    assert_eq!(unproven(&claim, &moving.world), malformed("closed item", "it is not the first import"));
    let claim = lacks(&mut moving, second, |moving, claim| claim.closed.as_mut().unwrap().after = of(moving, first));
    assert_eq!(convicts(&claim, &moving, 2), Some(second));
    let claim = lacks(&mut moving, third, |moving, claim| claim.closed.as_mut().unwrap().after = of(moving, first));
    assert_eq!(unproven(&claim, &moving.world), malformed("closed item", "it is not the import before"));
    let claim = lacks(&mut moving, third, |moving, claim| claim.closed.as_mut().unwrap().after = of(moving, second));
    assert_eq!(cleared(&claim, &moving.world), not_closed(third), "the one before had it");
}

#[test]
fn an_import_of_another_residence_closes_nothing_now() {
    let mut moving = moved();
    let first = moving.take_over(Some(moving.base), |_| {});
    moving.switch(1);
    moving.take_over(None, |_| {});
    moving.switch(2);
    let base = moving.base;
    moving.take_over(Some(base), |_| {});
    let claim = lacks(&mut moving, first, |_, _| {});
    assert_eq!(unproven(&claim, &moving.world), malformed("closed item", "it is an import of another residence"));
}

#[test]
fn an_attestation_owes_what_was_imported_by_then() {
    let mut moving = moved();
    let missing = moving.missing();
    moving.take_over(Some(moving.base), |import| import.missing = missing);
    moving.holds(&[]);
    let (attested, anchor) = moving.attest(2);
    let reached = attested.signed.body.epoch;
    let settled = moving.take_over(Some(moving.base), |_| {});
    let mut claim = moving.dropped(&attested, anchor, settled);
    let before = moving
        .world
        .cuts
        .iter()
        .find_map(|cut| postroad_protocol::evidence::SettledImport::find(cut, &moving.world.mailbox(1)));
    claim.closed.as_mut().unwrap().after = before.map(|settled| Box::new(settled.import));
    let claim = Claim::Drop(Box::new(claim));
    assert_eq!(cleared(&claim, &moving.world), Cleared::NotYet { settled, attested: reached });
}

#[test]
fn what_a_former_home_refused_nobody_owes() {
    for before in [true, false] {
        let mut moving = pending();
        let refused = RefusedLeaf { index: 0, mailbox: moving.world.mailbox(1), reason: LeafRefusal::Full };
        let fill = |moving: &mut Moving| {
            let mut item = moving.world.item(&moving.open, 0, None);
            item.refused = vec![refused.clone()];
            let fill = moving.world.receipt(1, item);
            let epoch = moving.world.cut(CutBody { fills: vec![fill], ..CutBody::default() }).header.epoch;
            moving.world.settled_fill(epoch, 0)
        };
        let early = if before { Some(fill(&mut moving)) } else { None };
        moving.switch(2);
        let late = if before { None } else { Some(fill(&mut moving)) };
        let import = moving.take_over(Some(moving.base), |_| {});
        let claim = lacks(&mut moving, import, |_, claim| claim.fill = early.or(late).map(Box::new));
        match before {
            true => {
                let seq = Seq { epoch: moving.included, position: 0, index: 0 };
                let why = Cleared::Refused { seq, reason: LeafRefusal::Full };
                assert_eq!(cleared(&claim, &moving.world), why);
            }
            false => assert_eq!(convicts(&claim, &moving, 2), Some(import), "a fill after the switch says nothing"),
        }
    }

    // In the receipt of the cut that ordered it, which the claim quotes.
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    let bundles = moving.world.letters(SCALE, &[1]);
    moving.open = moving.world.seal(0, bundles);
    let mut sealed = moving.world.held(&moving.open).into_inner();
    let mut item = moving.world.item(&moving.open, 0, None);
    item.refused = vec![RefusedLeaf { index: 0, mailbox: moving.world.mailbox(1), reason: LeafRefusal::Blocked }];
    sealed.custody[0] = Custody { request: None, receipts: vec![moving.world.receipt(1, item)] };
    let sealed = moving.world.check(sealed);
    moving.included = moving.world.include(vec![sealed]).header.epoch;
    moving.switch(2);
    let import = moving.take_over(Some(moving.base), |_| {});
    let claim = lacks(&mut moving, import, |_, _| {});
    let seq = Seq { epoch: moving.included, position: 0, index: 0 };
    assert_eq!(cleared(&claim, &moving.world), Cleared::Refused { seq, reason: LeafRefusal::Blocked });
}

#[test]
fn a_claim_cannot_hide_when_the_former_home_signed() {
    let mut moving = pending();
    moving.world.idle(2);
    let shown = moving.pending_at(moving.world.state.epoch - 1);
    let last = moving.pending_at(moving.world.state.epoch);
    let fill = moving.fill();
    moving.switch(2);
    let import = moving.take_over(Some(moving.base), |_| {});
    let nothing = malformed("closed item", "nothing shows whether the former home signed for it in time");
    let early = malformed("closed item", "it was pending before the mailbox left");
    let claim = lacks(&mut moving, import, |_, _| {});
    assert_eq!(unproven(&claim, &moving.world), nothing);
    for shown in [shown, last] {
        let claim = lacks(&mut moving, import, |_, claim| {
            claim.closed.as_mut().unwrap().pending = Some(Box::new(shown));
        });
        assert_eq!(unproven(&claim, &moving.world), early);
    }
    let claim = lacks(&mut moving, import, |_, claim| claim.fill = Some(Box::new(fill)));
    assert_eq!(convicts(&claim, &moving, 2), Some(import), "it was not refused, and is not in the log of before");

    // Without a fill, that it was pending when the mailbox left.
    let mut moving = pending();
    moving.world.idle(2);
    let shown = moving.pending_at(moving.world.state.epoch);
    moving.switch(2);
    let import = moving.take_over(Some(moving.base), |_| {});
    let claim = lacks(&mut moving, import, |_, claim| claim.closed.as_mut().unwrap().pending = Some(Box::new(shown)));
    assert_eq!(convicts(&claim, &moving, 2), Some(import));
}

#[test]
fn what_is_past_retention_when_it_is_taken_over_nobody_owes() {
    let mut moving = Moving::new(SCALE, &Hold::Home, |params| params.retention_ms = 3_000);
    moving.world.step_ms = 1_000;
    moving.world.idle(3);
    let import = moving.take_over(Some(moving.base), |_| {});
    let claim = lacks(&mut moving, import, |_, _| {});
    assert_eq!(cleared(&claim, &moving.world), Cleared::PastRetention);
}

#[test]
fn what_an_origin_put_into_the_wrong_slice_nobody_owes() {
    // The header says that it was routed after the switch, and its slice is for the old home.
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    let bundles = moving.world.letters(SCALE, &[1]);
    let next = moving.world.state.epoch + 1;
    moving.open = moving.world.seal_with(0, bundles, |header| header.routing_epoch = next);
    moving.switch(2);
    let sealed = moving.world.held(&moving.open);
    moving.included = moving.world.include(vec![sealed]).header.epoch;
    let import = moving.take_over(Some(moving.base), |_| {});
    let claim = lacks(&mut moving, import, |_, _| {});
    assert_eq!(cleared(&claim, &moving.world), Cleared::NotItsSlice);

    // The slice is for the new home, and the header was routed before the switch.
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    let routed = moving.world.state.epoch;
    moving.switch(2);
    let bundles = moving.world.letters(SCALE, &[1]);
    moving.open = moving.world.seal_with(0, bundles, |header| header.routing_epoch = routed);
    let sealed = moving.world.held(&moving.open);
    moving.included = moving.world.include(vec![sealed]).header.epoch;
    let import = moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[]);
    let (attested, anchor) = moving.attest(2);
    let mut claim = moving.dropped_of(&attested, anchor, 2, None);
    assert_eq!(cleared(&Claim::Drop(Box::new(claim.clone())), &moving.world), Cleared::NotThere { epoch: routed });
    claim.closed = moving.closed(import);
    assert_eq!(cleared(&Claim::Drop(Box::new(claim)), &moving.world), Cleared::NotItsSlice);
}

#[test]
fn what_is_routed_to_a_new_home_it_owes_once_it_has_taken_over() {
    let mut moving = moved();
    let bundles = moving.world.letters(SCALE, &[1]);
    moving.open = moving.world.seal(0, bundles);
    let sealed = moving.world.held(&moving.open);
    moving.included = moving.world.include(vec![sealed]).header.epoch;
    // It does not have the log yet.
    moving.holds(&[]);
    let (early, early_anchor) = moving.attest(2);
    let reached = early.signed.body.epoch;
    moving.take_over(Some(moving.base), |_| {});
    let claim = moving.dropped_of(&early, early_anchor, 2, None);
    let not_yet = Cleared::NotTakenOver { epoch: reached };
    assert_eq!(cleared(&Claim::Drop(Box::new(claim)), &moving.world), not_yet);

    let (attested, anchor) = moving.attest(2);
    let claim = Claim::Drop(Box::new(moving.dropped_of(&attested, anchor, 2, None)));
    assert_eq!(convicts(&claim, &moving, 2), Some(moving.included));

    // Set back, it cannot have the log again.
    let world = &mut moving.world;
    let mut none = world.attest(3, &[]);
    none.signed = {
        let body =
            postroad_protocol::attestation::Attestation { node: world.node(2), number: 90, ..none.signed.body.clone() };
        postroad_protocol::Signed::sign(body, &world.nodes[2], &world.federation)
    };
    let anchor = world.make_final(2, &none);
    let mut claim = moving.dropped_of(&none, anchor, 2, None);
    claim.gap = LogGap { before: None, after: None };
    assert_eq!(cleared(&Claim::Drop(Box::new(claim)), &moving.world), Cleared::NotNamed);
}

#[test]
fn a_log_in_disorder_that_was_taken_over_hides_nothing_of_the_new_home() {
    // The old home attests an entry of a time that never comes; what it has of before stands behind that.
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    moving.world.falsify(1, |log| log[0].settled = 1_000);
    let (attested, _) = moving.attest(1);
    moving.base = moving.world.mailbox_attestation(&attested, 1).base(&moving.world.federation);
    moving.world.idle(1);
    moving.switch(2);
    let bundles = moving.world.letters(SCALE, &[1]);
    moving.open = moving.world.seal(0, bundles);
    let sealed = moving.world.held(&moving.open);
    moving.included = moving.world.include(vec![sealed]).header.epoch;
    moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[moving.leaf_for(2, moving.included)]);
    let (attested, anchor) = moving.attest(2);
    let mut claim = moving.dropped_of(&attested, anchor, 2, None);
    let at = |index| Some(moving.world.leaf_at(&attested, 1, index));
    for gap in [LogGap { before: None, after: at(0) }, LogGap { before: at(0), after: at(1) }] {
        claim.gap = gap;
        let apart = malformed("log gap", "its entries do not stand next to each other");
        assert_eq!(unproven(&Claim::Drop(Box::new(claim.clone())), &moving.world), apart);
    }
    claim.gap = LogGap { before: at(1), after: at(2) };
    let elsewhere = malformed("log gap", "the entry would stand elsewhere");
    assert_eq!(unproven(&Claim::Drop(Box::new(claim)), &moving.world), elsewhere);
}

#[test]
fn for_what_came_with_the_mailbox_its_former_home_answers() {
    let mut moving = moved();
    moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[]);
    let world = &mut moving.world;
    let attested = world.attest_with(2, |_, log| log.expired_to = 1, |_| {});
    let anchor = world.make_final(2, &attested);
    let (mailbox, entry) = (world.mailbox(1), world.leaf_at(&attested, 1, 0));
    let home = world.home_proof(1, world.state.epoch);
    let no_header = Wrong::NoHeader(Box::new(world.certified(2).clone()));
    let (shown, settled) = (world.shown(&attested, 1), world.certified(2).clone());
    let expired = EarlyExpiry {
        mailbox,
        attested: shown.clone(),
        anchor: anchor.clone(),
        entry: entry.clone(),
        settled,
        home: home.clone(),
    };
    let inherited = Cleared::Inherited { below: 1 };
    assert_eq!(cleared(&Claim::EarlyExpiry(Box::new(expired)), world), inherited);
    let mut wrong = WrongEntry { mailbox, attested: shown, anchor, entry, wrong: no_header, home };
    assert_eq!(cleared(&Claim::WrongEntry(Box::new(wrong.clone())), world), Cleared::Agrees { index: 0 });

    // The former home had put there what no cut has.
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    moving.world.falsify(1, |log| log[0].seq.position = 7);
    let (attested, _) = moving.attest(1);
    moving.base = moving.world.mailbox_attestation(&attested, 1).base(&moving.world.federation);
    moving.switch(2);
    moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[]);
    let (attested, anchor) = moving.attest(2);
    let world = &moving.world;
    wrong.attested = world.shown(&attested, 1);
    wrong.anchor = anchor;
    wrong.entry = world.leaf_at(&attested, 1, 0);
    wrong.home = world.home_proof(1, world.state.epoch);
    let claim = Claim::WrongEntry(Box::new(wrong));
    assert_eq!(cleared(&claim, world), Cleared::Inherited { below: 2 });
}

#[test]
fn an_imported_entry_stands_in_a_slice_for_a_former_home() {
    let mut moving = moved();
    let import = moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[moving.leaf(import)]);
    let (attested, anchor) = moving.attest(2);
    let world = &moving.world;
    let claim = |slice| {
        Claim::WrongEntry(Box::new(WrongEntry {
            mailbox: world.mailbox(1),
            attested: world.shown(&attested, 1),
            anchor: anchor.clone(),
            entry: world.leaf_at(&attested, 1, 1),
            wrong: Wrong::NotAddressed(Box::new(world.included(moving.included, 0)), slice),
            home: world.home_proof(1, world.state.epoch),
        }))
    };
    let seq = Seq { epoch: moving.included, position: 0, index: 0 };
    let slice = Box::new(world.slice_proof(&moving.open, 1, 1));
    assert_eq!(cleared(&claim(Some(slice)), world), Cleared::InSlice { seq });
    let other = malformed("wrong entry", "not what the header says of that slice");
    assert_eq!(unproven(&claim(None), world), other, "there is none for the new home");
}

#[test]
fn who_has_a_mailbox_again_may_continue_another_log() {
    let mut moving = moved();
    let mut earlier = moving.world.shown(&moving.before, 1);
    moving.take_over(Some(moving.base), |_| {});
    moving.switch(1);
    let epoch = moving.take_over(None, |_| {});
    moving.world.falsify(1, |log| log.clear());
    let attested = moving.world.attest(1, &[]);
    let world = &moving.world;
    let (mailbox, later) = (world.mailbox(1), world.shown(&attested, 1));
    let claim = |earlier: &_, home| {
        let (earlier, later) = (std::clone::Clone::clone(earlier), later.clone());
        Claim::SplitView(SplitView::Logs(Box::new(SplitLogs { mailbox, earlier, later, entries: None, home })))
    };
    assert_eq!(cleared(&claim(&earlier, world.home_proof(1, epoch)), world), Cleared::OtherSlot);
    let stale = world.home_proof(1, moving.switched - 1);
    let old = malformed("home proof", "it is of an earlier epoch");
    assert_eq!(unproven(&claim(&earlier, stale), world), old);
    // Within one residence it is its word.
    moving.holds(&[moving.leaf(epoch)]);
    let kept = moving.world.attest(1, &[]);
    earlier = moving.world.shown(&kept, 1);
    moving.world.falsify(1, |log| log.clear());
    let shrunk = moving.world.attest(1, &[]);
    let later = moving.world.shown(&shrunk, 1);
    let home = moving.world.home_proof(1, moving.world.state.epoch);
    let logs = SplitLogs { mailbox, earlier, later, entries: None, home };
    let claim = Claim::SplitView(SplitView::Logs(Box::new(logs)));
    assert!(convicts(&claim, &moving, 1).is_some());
}

#[test]
fn a_handoff_is_what_was_attested() {
    let mut moving = moved();
    let attested = moving.world.mailbox_attestation(&moving.before, 1);
    let honest = moving.handoff(moving.base.log);
    let by_log = FalseHandoff::by_log(&honest, &attested);
    assert_eq!(cleared(&by_log, &moving.world), Cleared::Same);
    let by_anchor = FalseHandoff::by_anchor(&honest, moving.before_anchor.clone());
    assert_eq!(cleared(&by_anchor, &moving.world), Cleared::Same);
    let (later, later_anchor) = moving.attest(1);
    let by_anchor = FalseHandoff::by_anchor(&honest, later_anchor);
    assert_eq!(cleared(&by_anchor, &moving.world), Cleared::OtherSlot, "it is of another number");
    // It says nothing of the mailbox, which lives elsewhere by then.
    let by = Refuted::Log(Box::new(moving.world.shown(&later, 1)));
    let claim = Claim::FalseHandoff(Box::new(FalseHandoff { handoff: honest, by }));
    assert_eq!(cleared(&claim, &moving.world), Cleared::OtherSlot);

    let mut named = moving.handoff(moving.base.log).body;
    named.attestation.digest = Digest([7; 32]);
    let lie = moving.world.sign(named, &moving.world.nodes[1]);
    let claim = FalseHandoff::by_anchor(&lie, moving.before_anchor.clone());
    assert_eq!(convicts(&claim, &moving, 1), Some(2));
    assert_eq!(cleared(&FalseHandoff::by_log(&lie, &attested), &moving.world), Cleared::OtherSlot);
}

#[test]
fn an_import_names_what_was_attested() {
    let mut moving = moved();
    let attested = moving.world.mailbox_attestation(&moving.before, 1);
    let base = moving.base;
    let claim = |moving: &mut Moving, base| {
        let import = moving.import(base, |_| {});
        let by = Refuted::Log(Box::new(attested.clone().into()));
        Claim::FalseImport(FalseImport::Base(Box::new(FalseBase { import, by })))
    };
    let honest = claim(&mut moving, Some(base));
    assert_eq!(cleared(&honest, &moving.world), Cleared::Same);
    let none = claim(&mut moving, None);
    assert_eq!(unproven(&none, &moving.world), malformed("false import", "it continues no log"));
    for change in [
        |base: &mut postroad_protocol::moving::Base| base.log = other(base.log),
        |base: &mut postroad_protocol::moving::Base| base.log.size += 1,
        |base: &mut postroad_protocol::moving::Base| base.attestation.epoch += 1,
        |base: &mut postroad_protocol::moving::Base| base.attestation.number += 1,
    ] {
        let mut lie = base;
        change(&mut lie);
        let claim = claim(&mut moving, Some(lie));
        assert!(convicts(&claim, &moving, 2).is_some());
    }
}

#[test]
fn a_new_home_continues_what_it_took_over() {
    let mut moving = moved();
    let own = moving.leaf(moving.switched + 1);
    let theirs = moving.world.leaf_at(&moving.before, 1, 0);
    moving.holds(&[]);
    let early = moving.world.attest(2, &[]);
    moving.take_over(Some(moving.base), |_| {});
    let judge = |moving: &Moving, attested: &Attested, broken: Broken| {
        let world = &moving.world;
        let (mailbox, attested) = (world.mailbox(1), world.shown(attested, 1));
        let home = world.home_proof(1, world.state.epoch);
        let claim = NotContinued { mailbox, attested, home, broken };
        Claim::FalseImport(FalseImport::Continued(Box::new(claim)))
    };
    let claim = judge(&moving, &early, Broken::Shorter);
    let epoch = early.signed.body.epoch;
    assert_eq!(cleared(&claim, &moving.world), Cleared::NotTakenOver { epoch }, "nothing binds it yet");

    moving.holds(&[own]);
    let honest = moving.world.attest(2, &[]);
    let at = |moving: &Moving, attested: &Attested, index| Box::new(moving.world.leaf_at(attested, 1, index));
    for broken in [
        Broken::Shorter,
        Broken::Entry(Box::new(theirs.clone()), at(&moving, &honest, 0)),
        Broken::Early(at(&moving, &honest, 1)),
    ] {
        let claim = judge(&moving, &honest, broken);
        assert!(matches!(cleared(&claim, &moving.world), Cleared::Agrees { .. }));
    }
    let inherited = judge(&moving, &honest, Broken::Early(at(&moving, &honest, 0)));
    assert_eq!(cleared(&inherited, &moving.world), Cleared::Inherited { below: 1 });
    let apart = judge(&moving, &honest, Broken::Entry(Box::new(theirs.clone()), at(&moving, &honest, 1)));
    let two = malformed("false import", "the entries are of two indexes");
    assert_eq!(unproven(&apart, &moving.world), two);

    moving.world.falsify(1, |log| log[0].message = Digest([7; 32]));
    let lie = moving.world.attest(2, &[]);
    let broken = Broken::Entry(Box::new(theirs), at(&moving, &lie, 0));
    let claim = judge(&moving, &lie, broken);
    assert!(convicts(&claim, &moving, 2).is_some());
    moving.world.falsify(1, |log| log[1].settled = 1);
    let lie = moving.world.attest(2, &[]);
    let broken = Broken::Early(at(&moving, &lie, 1));
    let claim = judge(&moving, &lie, broken);
    assert!(convicts(&claim, &moving, 2).is_some());
}

#[test]
fn a_mailbox_is_named_where_it_lives() {
    let mut moving = Moving::settled(SCALE, &Hold::Home, |_| {});
    let attested = moving.world.attest(1, &[]);
    let epoch = attested.signed.body.epoch;
    moving.switch(2);
    let after = moving.world.attest(1, &[]);
    let own = moving.world.attest(2, &[]);
    let claim = |moving: &Moving, attested: &Attested, at| {
        let world = &moving.world;
        let (mailbox, attested) = (world.mailbox(1), world.shown(attested, 1));
        Claim::FalseHome(Box::new(FalseHome { mailbox, attested, home: world.home_proof(1, at) }))
    };
    let now = moving.world.state.epoch;
    assert_eq!(cleared(&claim(&moving, &attested, now), &moving.world), Cleared::LivedThere { epoch });
    assert_eq!(cleared(&claim(&moving, &after, now), &moving.world), Cleared::NotNamed);
    assert_eq!(cleared(&claim(&moving, &own, now), &moving.world), Cleared::LivedThere { epoch: now });
    let old = malformed("home proof", "it is of an earlier epoch");
    assert_eq!(unproven(&claim(&moving, &own, now - 1), &moving.world), old);
    assert_eq!(claim(&moving, &own, now).fault(), Fault::FalseHome);
}
