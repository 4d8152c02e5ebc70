//! Evidence, by inputs and outputs: every fault convicts whoever made the contradiction, and next to each guilty history
//! stands the innocent one that looks like it.

mod home;
mod ledger;
mod moving;
mod origin;

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use postroad_protocol::codec::{decode, encode};
use postroad_protocol::evidence::{Claim, ClaimError, Cleared, Evidence, Fault, MAX_EVIDENCE_BYTES};
use postroad_protocol::{Federation, VerifyError};

use crate::common::World;
use crate::common::claims::moving::dropped_import;
use crate::common::claims::{Guilty, Scale, guilty};

/// Why the accused is innocent.
fn cleared(claim: &Claim, world: &World) -> Cleared {
    match claim.judge(&world.federation) {
        Err(ClaimError::Cleared(why)) => why,
        other => panic!("not cleared: {other:?}"),
    }
}

/// What of the claim does not hold.
fn unproven(claim: &Claim, world: &World) -> VerifyError {
    match claim.judge(&world.federation) {
        Err(ClaimError::Unproven(why)) => why,
        other => panic!("not unproven: {other:?}"),
    }
}

fn malformed(kind: &'static str, reason: &'static str) -> VerifyError {
    VerifyError::Malformed { kind, reason }
}

#[test]
fn every_fault_convicts_the_key_that_made_the_contradiction() {
    for scale in [Scale::SMALL, Scale::TYPICAL] {
        let mut ids = BTreeSet::new();
        for (Guilty { world, claim, verdict }, fault) in guilty(scale).into_iter().zip(Fault::ALL) {
            assert_eq!(claim.fault(), fault);
            let evidence =
                Evidence::new(claim.clone(), &world.federation).unwrap_or_else(|why| panic!("{fault}: {why}"));
            assert_eq!(*evidence.verdict(), verdict, "{fault}");
            assert_eq!(claim.accused(&world.federation), verdict.culprit, "{fault}");
            assert_eq!(Evidence::decode(&encode(&claim), &world.federation).as_ref(), Ok(&evidence), "{fault}");
            let file = claim.to_file(&world.federation);
            assert_eq!(Claim::from_file(&file, &world.federation).as_ref(), Ok(&claim), "{fault}");
            ids.insert(evidence.id());
        }
        assert_eq!(ids.len(), Fault::ALL.len(), "an id is of one fault");
    }
}

#[test]
fn of_another_federation_nothing_is_evidence() {
    for Guilty { world, claim, .. } in guilty(Scale::SMALL) {
        let other = World::builder().name("another").build().federation;
        let file = claim.to_file(&world.federation);
        let wrong = ClaimError::WrongFederation { theirs: world.federation.id(), ours: other.id() };
        assert_eq!(Claim::from_file(&file, &other), Err(wrong), "{}", claim.fault());
        assert!(matches!(claim.judge(&other), Err(ClaimError::Unproven(_))), "{}", claim.fault());
    }
}

fn holds(file: &[u8], federation: &Federation) -> bool {
    Claim::from_file(file, federation).is_ok_and(|claim| claim.judge(federation).is_ok())
}

#[test]
fn with_any_single_bit_flipped_a_file_verifies_no_more() {
    thread::scope(|scope| {
        for Guilty { world, claim, .. } in guilty(Scale::SMALL).into_iter().chain([dropped_import(Scale::SMALL)]) {
            scope.spawn(move || {
                let (file, federation) = (claim.to_file(&world.federation), &world.federation);
                assert!(holds(&file, federation), "{}", claim.fault());
                let mut decoded = 0;
                for bit in 0..file.len() * 8 {
                    let mut flipped = file.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    assert!(!holds(&flipped, federation), "{}: bit {bit} of byte {}", claim.fault(), bit / 8);
                    decoded += u64::from(Claim::from_file(&flipped, federation).is_ok());
                }
                assert!(decoded > file.len() as u64, "most bits still decode, and prove nothing");
            });
        }
    });
}

#[test]
fn bytes_behind_a_claim_or_before_it_are_none_of_it() {
    for Guilty { world, claim, .. } in guilty(Scale::SMALL) {
        let file = claim.to_file(&world.federation);
        assert!(!holds(&[file.as_slice(), &[0]].concat(), &world.federation));
        assert!(!holds(&file[..file.len() - 1], &world.federation));
        assert!(!holds(&file[1..], &world.federation));
        assert!(decode::<Claim>(&[encode(&claim).as_slice(), &[0]].concat()).is_err());
    }
}

/// docs/blame.md says how large evidence is; this is how that was measured.
#[test]
fn evidence_is_as_large_as_the_docs_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/blame.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut wrong = Vec::new();
    for Guilty { world, claim, verdict } in guilty(Scale::TYPICAL) {
        let bytes = claim.to_file(&world.federation).len();
        println!("{:>14} {bytes:>7} bytes", verdict.fault);
        assert!(bytes < MAX_EVIDENCE_BYTES);
        let row = text.lines().find(|line| line.starts_with(&format!("| {} |", verdict.fault)));
        let said = row.and_then(|row| row.trim_end_matches([' ', '|']).rsplit('|').next()).unwrap_or_default();
        if said.trim().replace(',', "") != bytes.to_string() {
            wrong.push((verdict.fault, bytes));
        }
    }
    assert_eq!(wrong, [], "docs/blame.md says otherwise");
}
