//! Reading rows so that one that is damaged hides no other.

use minicbor::{Decode, Encode};
use postroad_protocol::codec::decode;
use postroad_store::{Read, StoreError, Table};

use super::report::Report;

/// Rows read at once. Small, because one may hold a whole batch.
const PAGE: usize = 16;

/// A row that was looked for.
pub(super) enum Found<T> {
    /// It is there.
    Here(T),
    /// There is none.
    Missing,
    /// It cannot be read, and that was told.
    Damaged,
}

impl<T> Found<T> {
    pub(super) fn here(self) -> Option<T> {
        match self {
            Found::Here(value) => Some(value),
            Found::Missing | Found::Damaged => None,
        }
    }
}

/// Reads one row.
pub(super) fn get<T>(
    store: &dyn Read,
    table: Table,
    key: &[u8],
    report: &mut Report<'_>,
) -> Result<Found<T>, StoreError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    match store.get(table, key) {
        Ok(None) => Ok(Found::Missing),
        Ok(Some(bytes)) => Ok(parse(table, key, &bytes, report).map_or(Found::Damaged, Found::Here)),
        Err(StoreError::Corrupt { .. }) => {
            report.damaged(table, key, CHECKSUM);
            Ok(Found::Damaged)
        }
        Err(error) => Err(error),
    }
}

const CHECKSUM: &str = "the row does not match its checksum";

/// Decodes a row, or tells that it is none.
pub(super) fn parse<T>(table: Table, key: &[u8], bytes: &[u8], report: &mut Report<'_>) -> Option<T>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    decode(bytes).map_err(|error| report.damaged(table, key, error)).ok()
}

/// Calls `visit` with each row of a table that can be read, in the order of keys; counts all and names the others.
pub(super) fn each(
    store: &dyn Read,
    table: Table,
    report: &mut Report<'_>,
    mut visit: impl FnMut(&[u8], &[u8], &mut Report<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    walk(store, table, report, &mut |row, report| {
        report.record();
        row.map_or(Ok(()), |(key, value)| visit(key, value, report))
    })
}

/// As [`each`], for rows that were counted before.
pub(super) fn each_again(
    store: &dyn Read,
    table: Table,
    report: &mut Report<'_>,
    mut visit: impl FnMut(&[u8], &[u8], &mut Report<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    walk(store, table, report, &mut |row, report| row.map_or(Ok(()), |(key, value)| visit(key, value, report)))
}

/// A row; none for one that is damaged.
type Row<'a> = Option<(&'a [u8], &'a [u8])>;

fn walk(
    store: &dyn Read,
    table: Table,
    report: &mut Report<'_>,
    visit: &mut dyn FnMut(Row<'_>, &mut Report<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut from = Vec::new();
    // While not empty: the next row that is damaged; what comes before it is read first.
    let mut damaged = Vec::new();
    loop {
        match store.range(table, &from, &damaged, PAGE) {
            Ok(rows) => {
                for (key, value) in &rows {
                    visit(Some((key, value)), report)?;
                }
                let last = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
                from = match last {
                    Some(last) => after(&last),
                    None if damaged.is_empty() => return Ok(()),
                    None => after(&std::mem::take(&mut damaged)),
                };
            }
            Err(StoreError::Corrupt { key, .. }) => {
                report.damaged(table, &key, CHECKSUM);
                visit(None, report)?;
                damaged = key;
            }
            Err(error) => return Err(error),
        }
    }
}

fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// How many rows a table has; counts them.
pub(super) fn count(store: &dyn Read, table: Table, report: &mut Report<'_>) -> Result<u64, StoreError> {
    let mut rows = 0;
    walk(store, table, report, &mut |_, report| {
        report.record();
        rows += 1;
        Ok(())
    })?;
    Ok(rows)
}
