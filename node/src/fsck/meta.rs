//! Single values: the floor, the last attestation's number, the last epoch delivered, the sequencer's draft, whether the
//! node closes.

use postroad_engine::node::retiring::Retirement;
use postroad_engine::tables::{ATTESTED, DELIVERED, DRAFT, EXPIRED, FLOOR, FORGOTTEN, Floor, META, RETIREMENT};
use postroad_protocol::cut::Cut;
use postroad_store::{Read, StoreError};

use super::Context;
use super::cuts::Walked;
use super::report::Report;
use super::rows;

/// The values that other checks need.
pub(super) struct Meta {
    /// The epoch as of which the state is stored.
    pub(super) floor: Option<Floor>,
    /// The last epoch whose mail is in the logs.
    pub(super) delivered: u64,
}

impl Meta {
    pub(super) fn read(store: &dyn Read, report: &mut Report<'_>) -> Result<Meta, StoreError> {
        let floor = rows::get(store, META, FLOOR, report)?.here();
        // If it cannot be read, no log can be checked; that it is damaged is a problem already.
        let delivered = rows::get(store, META, DELIVERED, report)?.here().unwrap_or(0);
        Ok(Meta { floor, delivered })
    }
}

/// Checks what does not depend on the logs.
pub(super) fn check(context: &Context<'_>, walked: &Walked, report: &mut Report<'_>) -> Result<(), StoreError> {
    // Counts the table's rows, and names those that are damaged.
    rows::each(context.store, META, report, |key, value, report| {
        if [ATTESTED, DELIVERED, EXPIRED, FORGOTTEN].contains(&key) {
            rows::parse::<u64>(META, key, value, report);
        }
        if key == DRAFT {
            rows::parse::<Cut>(META, key, value, report);
        }
        if key == RETIREMENT {
            rows::parse::<Retirement>(META, key, value, report);
        }
        Ok(())
    })?;
    let meta = &context.meta;
    if meta.delivered > walked.last_epoch {
        report.problem(META, DELIVERED, format_args!("epoch {} is delivered, and has no cut", meta.delivered));
    }
    match &meta.floor {
        Some(floor) if floor.epoch > walked.last_epoch => {
            report.problem(META, FLOOR, format_args!("the state stands as of epoch {}, which has no cut", floor.epoch));
        }
        None if walked.last_epoch > context.federation.params().routing_window_epochs + 2 => {
            report.damaged(META, FLOOR, "there are cuts, and the state has no floor");
        }
        _ => {}
    }
    Ok(())
}
