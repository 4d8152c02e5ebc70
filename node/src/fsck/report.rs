//! What was found: each problem is told once, when it is found.

use std::collections::BTreeSet;
use std::fmt::Display;

use postroad_store::Table;

/// Damaged rows that are remembered, so that each is named once.
const MAX_REMEMBERED: usize = 100_000;

/// Something in the store that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The row: table, slash, key in hex.
    pub key: String,
}

/// Counts rows and problems.
pub(super) struct Report<'a> {
    tell: &'a mut dyn FnMut(Problem),
    records: u64,
    problems: u64,
    damaged: BTreeSet<(Table, Vec<u8>)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(tell: &'a mut dyn FnMut(Problem)) -> Report<'a> {
        Report { tell, records: 0, problems: 0, damaged: BTreeSet::new() }
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn problems(&self) -> u64 {
        self.problems
    }

    /// A row was read.
    pub(super) fn record(&mut self) {
        self.records += 1;
    }

    /// A row is not what it must be.
    pub(super) fn problem(&mut self, table: Table, key: &[u8], what: impl Display) {
        self.problems += 1;
        (self.tell)(Problem { what: what.to_string(), key: format!("{table}/{}", hex::encode(key)) });
    }

    /// A row cannot be read; told once, however often it is met.
    pub(super) fn damaged(&mut self, table: Table, key: &[u8], what: impl Display) {
        if self.is_damaged(table, key) {
            return;
        }
        if self.damaged.len() < MAX_REMEMBERED {
            self.damaged.insert((table, key.to_vec()));
        }
        self.problem(table, key, what);
    }

    /// Whether a row was met that cannot be read.
    pub(super) fn is_damaged(&self, table: Table, key: &[u8]) -> bool {
        self.damaged.contains(&(table, key.to_vec()))
    }
}
