//! Bugs that are planted to see whether the simulator finds them. Each is a plausible mistake of whoever drives a node:
//! its loop, its store, its clock, its backups, what it serves; nothing of them is in the product.

use std::sync::Arc;

use postroad_engine::{Input, Output, tables};
use postroad_protocol::Verified;
use postroad_protocol::codec::decode;
use postroad_protocol::cut::Cut;
use postroad_store::Write;

use tables::{BATCHES, DRAFT, META, ROOTS, SLICES};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What a group of inputs wants to say is said before its transaction is committed.
    SignBeforePersist,
    /// The sequencer's node delivers what it has drafted before the cut is certified.
    DeliverBeforeCut,
    /// Slices go to disk now and then, some transactions after the one that is told to be durable.
    LateSlices,
    /// A group's writes go to disk in two transactions.
    TornGroups,
    /// The store does not remove what it is told to remove.
    KeptRows,
    /// A custodian removes a slice once it has signed for it.
    DroppedCustody,
    /// The sequencer votes without asking its guard.
    NoGuard,
    /// The guard is part of the backup, and is set back with it.
    GuardInBackup,
    /// A node starts with the nonce that it had before.
    SameNonce,
    /// A restore brings newer batches along, and not the counters of what is in them.
    MixedRestore,
    /// Signatures are not verified.
    Unverified,
    /// Readers are told that all is settled that is delivered, also where slices are pending.
    SettledTooFar,
    /// Timers run by the wall clock.
    WallClockTimers,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::SignBeforePersist,
        Bug::DeliverBeforeCut,
        Bug::LateSlices,
        Bug::TornGroups,
        Bug::KeptRows,
        Bug::DroppedCustody,
        Bug::NoGuard,
        Bug::GuardInBackup,
        Bug::SameNonce,
        Bug::MixedRestore,
        Bug::Unverified,
        Bug::SettledTooFar,
        Bug::WallClockTimers,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::SignBeforePersist => "sign-before-persist",
            Bug::DeliverBeforeCut => "deliver-before-cut",
            Bug::LateSlices => "late-slices",
            Bug::TornGroups => "torn-groups",
            Bug::KeptRows => "kept-rows",
            Bug::DroppedCustody => "dropped-custody",
            Bug::NoGuard => "no-guard",
            Bug::GuardInBackup => "guard-in-backup",
            Bug::SameNonce => "same-nonce",
            Bug::MixedRestore => "mixed-restore",
            Bug::Unverified => "unverified",
            Bug::SettledTooFar => "settled-too-far",
            Bug::WallClockTimers => "wall-clock-timers",
        }
    }

    /// The bug of a name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }

    /// What this bug makes of the writes of a group. What it puts aside comes with a later group.
    pub(super) fn spoil(self, outputs: &mut [Output], aside: &mut Vec<Write>) {
        let first = outputs.iter_mut().filter_map(|output| match output {
            Output::Persist(_, writes) => Some(writes),
            _ => None,
        });
        for writes in first {
            match self {
                Bug::LateSlices => {
                    let late = |write: &mut Write| matches!(write, Write::Put { table, .. } if is_slice(*table));
                    aside.extend(writes.extract_if(.., late));
                }
                Bug::KeptRows => writes.retain(|write| matches!(write, Write::Put { .. })),
                _ => {}
            }
        }
    }
}

fn is_slice(table: postroad_store::Table) -> bool {
    table == SLICES || table == ROOTS
}

/// Planted: the sequencer's node follows its own draft at once, as if the guard had signed it.
pub(super) fn unvoted(outputs: &[Output]) -> Vec<Input> {
    let writes = outputs.iter().filter_map(|output| match output {
        Output::Persist(_, writes) => Some(writes),
        _ => None,
    });
    let drafts = writes.flatten().filter_map(|write| match write {
        Write::Put { table, key, value } if *table == META && key == DRAFT => decode::<Cut>(value).ok(),
        _ => None,
    });
    drafts.map(|draft| Input::Cut(Arc::new(Verified::assemble(draft.certified, draft.body)))).collect()
}

/// Planted: the removal of the slices among these writes that are for another node than `me`.
pub(super) fn dropped(writes: &[Write], me: &[u8]) -> Vec<Write> {
    let for_others = writes.iter().filter_map(|write| match write {
        Write::Put { table, key, .. } if is_slice(*table) && !key.ends_with(me) => Some((*table, key.clone())),
        _ => None,
    });
    for_others.map(|(table, key)| Write::Delete { table, key }).collect()
}

/// Planted: the batches of the newer disk, for the older one.
pub(super) fn newer_batches(rows: &[Write]) -> Vec<Write> {
    rows.iter().filter(|row| matches!(row, Write::Put { table, .. } if *table == BATCHES)).cloned().collect()
}
