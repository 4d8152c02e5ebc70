//! The rows of a store as of one moment, as a stream of records.

use std::io::{self, Write};

use postroad_engine::tables::ALL;
use postroad_store::{Read, StoreError};

use super::format::{Record, Writer};

/// Rows read at once. Small, because one may hold a whole batch.
const PAGE: usize = 16;

/// What ended a stream of rows.
pub(super) enum Broken {
    /// The store.
    Store(StoreError),
    /// Where it goes.
    Sink(io::Error),
}

/// Writes all rows.
pub(super) fn write<W: Write>(rows: &dyn Read, to: &mut Writer<W>) -> Result<(), Broken> {
    for table in ALL {
        let mut from = Vec::new();
        loop {
            let page = rows.range(table, &from, &[], PAGE).map_err(Broken::Store)?;
            let Some((last, _)) = page.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in page {
                to.record(&Record::Row(table.0.to_owned(), key, value)).map_err(Broken::Sink)?;
            }
        }
    }
    Ok(())
}

/// Sends all rows to whoever takes a backup of a running node.
///
/// # Errors
/// [`io::Error`] when nobody takes them.
pub(crate) fn send(rows: Result<&dyn Read, String>, to: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(to)?;
    let sent = match rows {
        Ok(rows) => write(rows, &mut writer),
        Err(reason) => return writer.fail(reason),
    };
    match sent {
        Ok(()) => writer.end().map(drop),
        Err(Broken::Store(error)) => writer.fail(error.to_string()),
        Err(Broken::Sink(error)) => Err(error),
    }
}
