//! Evidence: each row holds a claim of which judging it again says the same.

use postroad_engine::tables::EVIDENCE;
use postroad_protocol::wire::call::Filed;
use postroad_store::StoreError;

use super::Context;
use super::report::Report;
use super::rows;

pub(super) fn check(context: &Context<'_>, report: &mut Report<'_>) -> Result<(), StoreError> {
    rows::each(context.store, EVIDENCE, report, |key, value, report| {
        let Some(filed) = rows::parse::<Filed>(EVIDENCE, key, value, report) else { return Ok(()) };
        if key != filed.claim.id(context.federation).0 {
            report.problem(EVIDENCE, key, "it holds other evidence");
        } else if let Err(error) = filed.claim.judge(context.federation) {
            report.problem(EVIDENCE, key, error);
        }
        Ok(())
    })
}
