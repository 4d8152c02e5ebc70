//! The back end without a disk, for tests and the simulator.
//!
//! What is committed lives behind an `Arc`: a view is a clone of the `Arc`, and a commit changes
//! the maps in place unless someone still looks at them, in which case it copies the tables that
//! it touches. A crash is a transaction that was dropped; there is nothing else to lose.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::staged::{Changes, Order, Staged, Visit, bounds};
use crate::{StoreError, Table};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Committed tables: sealed values by key.
type Tables = BTreeMap<Table, Arc<Rows>>;

pub(crate) struct Memory {
    committed: Mutex<Arc<Tables>>,
}

impl Memory {
    pub(crate) fn new(tables: &[Table]) -> Self {
        let tables = tables.iter().map(|table| (*table, Arc::default())).collect();
        Self { committed: Mutex::new(Arc::new(tables)) }
    }

    pub(crate) fn view(&self) -> MemoryView {
        // A panic while the lock is held cannot leave half a commit: maps do not fail.
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        MemoryView { tables: Arc::clone(&committed) }
    }

    pub(crate) fn commit(&self, staged: Staged) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = Arc::make_mut(&mut committed);
        for (table, changes) in staged.into_tables() {
            if let Some(rows) = tables.get_mut(&table) {
                apply(Arc::make_mut(rows), changes);
            }
        }
    }
}

fn apply(rows: &mut Rows, changes: Changes) {
    for (key, change) in changes {
        match change {
            Some(sealed) => rows.insert(key, sealed),
            None => rows.remove(&key),
        };
    }
}

/// What was committed when the view was taken.
pub(crate) struct MemoryView {
    tables: Arc<Tables>,
}

impl MemoryView {
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.tables.get(&table)?.get(key).cloned()
    }

    pub(crate) fn scan(
        &self,
        table: Table,
        (from, to): (&[u8], &[u8]),
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let (Some(rows), Some(bounds)) = (self.tables.get(&table), bounds(from, to)) else {
            return Ok(());
        };
        let mut range = rows.range::<[u8], _>(bounds);
        while let Some((key, sealed)) = match order {
            Order::Ascending => range.next(),
            Order::Descending => range.next_back(),
        } {
            if let ControlFlow::Break(()) = visit(key, sealed)? {
                break;
            }
        }
        Ok(())
    }
}
