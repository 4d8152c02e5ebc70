//! The writes of a transaction that is not committed yet, and how they cover what is stored.
//!
//! Staging in memory instead of writing into the back end at once keeps three promises cheaply:
//! both back ends behave the same, a transaction that is dropped leaves no trace, and a disk that
//! is full shows only at the commit, where it has an answer. The price is that the values of one
//! transaction are held in memory until it ends.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::{Pair, StoreError, Table, seal};

/// Changes of one table: sealed values, `None` for a key that is not there.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// From which end a range is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// Bounds as the maps take them.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds `from <= key < to`, where an empty `to` is no bound; `None` if nothing can match.
pub(crate) fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> Option<Bounds<'a>> {
    if to.is_empty() {
        Some((Bound::Included(from), Bound::Unbounded))
    } else if from < to {
        Some((Bound::Included(from), Bound::Excluded(to)))
    } else {
        None
    }
}

/// Called with each stored key and sealed value, until it breaks.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// All staged changes of a transaction.
#[derive(Default)]
pub(crate) struct Staged {
    tables: BTreeMap<Table, Changes>,
}

impl Staged {
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(crate) fn into_tables(self) -> BTreeMap<Table, Changes> {
        self.tables
    }

    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let sealed = seal::seal(table, key, value);
        self.tables.entry(table).or_default().insert(key.to_vec(), Some(sealed));
    }

    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        self.tables.entry(table).or_default().insert(key.to_vec(), None);
    }

    /// What is staged for `key`: nothing, a deletion, or a sealed value.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables.get(&table)?.get(key).map(Option::as_deref)
    }

    /// Up to `limit` pairs in `from..to`: what `scan` finds in the back end, covered by what is
    /// staged. `scan` must visit its keys in `order`.
    pub(crate) fn merge(
        &self,
        table: Table,
        (from, to): (&[u8], &[u8]),
        order: Order,
        limit: usize,
        scan: impl FnOnce(&mut Visit<'_>) -> Result<(), StoreError>,
    ) -> Result<Vec<Pair>, StoreError> {
        let Some(bounds) = bounds(from, to).filter(|_| limit > 0) else {
            return Ok(Vec::new());
        };
        let mut found = Found { table, pairs: Vec::new(), limit };
        cover(self.tables.get(&table), bounds, order, scan, &mut |key, sealed| {
            found.push(key, sealed)?;
            Ok(found.flow())
        })?;
        Ok(found.pairs)
    }
}

/// Visits what `scan` finds within the bounds, covered by `changes`. `scan` must visit its keys in
/// `order`.
pub(crate) fn cover(
    changes: Option<&Changes>,
    bounds: Bounds<'_>,
    order: Order,
    scan: impl FnOnce(&mut Visit<'_>) -> Result<(), StoreError>,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let mut changed = Walk { range: changes.map(|changes| changes.range::<[u8], _>(bounds)), order }.peekable();
    let mut flow = ControlFlow::Continue(());
    scan(&mut |key, sealed| {
        while let Some((changed_key, change)) = changed.next_if(|(k, _)| match order {
            Order::Ascending => k.as_slice() <= key,
            Order::Descending => k.as_slice() >= key,
        }) {
            if let Some(sealed) = change {
                flow = visit(changed_key, sealed)?;
            }
            if changed_key == key || flow.is_break() {
                return Ok(flow);
            }
        }
        flow = visit(key, sealed)?;
        Ok(flow)
    })?;
    while flow.is_continue()
        && let Some((key, change)) = changed.next()
    {
        if let Some(sealed) = change {
            flow = visit(key, sealed)?;
        }
    }
    Ok(())
}

/// The changes of a range, in either order.
struct Walk<'a> {
    range: Option<std::collections::btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>>,
    order: Order,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a Vec<u8>, &'a Option<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.range.as_mut()?;
        match self.order {
            Order::Ascending => range.next(),
            Order::Descending => range.next_back(),
        }
    }
}

/// The pairs found so far, opened and checked.
struct Found {
    table: Table,
    pairs: Vec<Pair>,
    limit: usize,
}

impl Found {
    fn push(&mut self, key: &[u8], sealed: &[u8]) -> Result<(), StoreError> {
        let value = seal::open(self.table, key, sealed.to_vec())?;
        self.pairs.push((key.to_vec(), value));
        Ok(())
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.pairs.len() < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}
