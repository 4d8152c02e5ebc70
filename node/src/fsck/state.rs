//! The stored state: it must be, row by row, what `apply` gives at the floor.

use postroad_engine::tables::{FLOOR, Floor, META, STATE};
use postroad_protocol::Digest;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::CutHeader;
use postroad_protocol::state::{State, StateKey};
use postroad_store::StoreError;

use super::report::Report;
use super::{Context, rows};

/// Compares the stored state with the computed one (none if cuts before it are missing) and with the root in its cut.
/// Returns it, if that is its root.
pub(super) fn check(
    context: &Context<'_>,
    floor: &Floor,
    header: &CutHeader,
    digest: Digest,
    computed: Option<&State>,
    report: &mut Report<'_>,
) -> Result<Option<State>, StoreError> {
    if (floor.time_ms, floor.age_ms, floor.cut) != (header.time_ms, header.age_ms, digest) {
        report.problem(META, FLOOR, "it is not that of the cut of its epoch");
    }
    let mut stored = State::genesis(context.federation);
    rows::each(context.store, STATE, report, |key, value, report| {
        let Ok(name) = decode::<StateKey>(key) else {
            report.problem(STATE, key, "the key is no name of a value of the state");
            return Ok(());
        };
        if let Some(state) = computed {
            match state.value(&name) {
                None => report.problem(STATE, key, "the state at the floor has no such value"),
                Some(right) if right != value => report.problem(STATE, key, "it is not what the cuts make of it"),
                Some(_) => {}
            }
        }
        if let Err(error) = stored.restore(name, value) {
            report.damaged(STATE, key, error);
        }
        Ok(())
    })?;
    for name in computed.map(State::keys).unwrap_or_default() {
        let key = encode(&name);
        if stored.value(&name).is_none() && !report.is_damaged(STATE, &key) {
            report.problem(STATE, &key, "the value is missing");
        }
    }
    (stored.epoch, stored.time_ms, stored.age_ms, stored.cut) = (header.epoch, header.time_ms, header.age_ms, digest);
    if stored.root() == header.state {
        return Ok(Some(stored));
    }
    if computed.is_none() {
        report.problem(META, FLOOR, "the stored state does not have the root that the cut of its epoch names");
    }
    Ok(None)
}

/// Without cuts there is no state.
pub(super) fn check_empty(context: &Context<'_>, report: &mut Report<'_>) -> Result<(), StoreError> {
    rows::each(context.store, STATE, report, |key, _, report| {
        report.problem(STATE, key, "there is a state, and there are no cuts");
        Ok(())
    })
}
