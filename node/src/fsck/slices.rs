//! Slices held: every path of each leads to the root in its header, whose origin signed it; the request of a custodian
//! names it (the witness of an answer has none). And loading one for the logs.

use postroad_engine::tables::{
    BATCHES, EXPIRING, Expiring, Holding, ROOTS, SLICES, StoredBatch, number_key, slice_key,
};
use postroad_protocol::Digest;
use postroad_protocol::batch::{Header, route};
use postroad_protocol::receipt::CustodyRequest;
use postroad_protocol::signed::{Signed, Statement, Verify};
use postroad_protocol::slice::{SliceBody, SliceIndex, SliceKey};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_store::StoreError;

use super::Context;
use super::report::Report;
use super::rows::{self, Found};

pub(super) fn check(context: &Context<'_>, report: &mut Report<'_>) -> Result<(), StoreError> {
    let mut slices = 0;
    rows::each(context.store, SLICES, report, |key, value, report| {
        slices += 1;
        let Some(parcel) = rows::parse::<SliceParcel>(SLICES, key, value, report) else { return Ok(()) };
        let header = &parcel.header.body;
        let name = SliceKey::of(&parcel, parcel.header.digest(context.federation));
        if key != slice_key(&name) {
            report.problem(SLICES, key, "it holds another slice");
            return Ok(());
        }
        if let Err(error) = parcel.header.verify(context.federation) {
            report.problem(SLICES, key, error);
        }
        let Some(slice) = header.slice(&parcel.destination) else {
            report.problem(SLICES, key, "its header names no such slice");
            return Ok(());
        };
        if let Err(error) = parcel.body.verify(header, slice, context.federation) {
            report.problem(SLICES, key, error);
        }
        if let Err(what) = check_request(context, &name, slice.root, parcel.request.as_ref()) {
            report.problem(SLICES, key, what);
        }
        match rows::get::<Holding>(context.store, ROOTS, key, report)? {
            Found::Here(holding) if holding.root != slice.root => {
                report.problem(ROOTS, key, "it is not the slice's root")
            }
            Found::Missing => report.problem(ROOTS, key, "the root of a slice that is held is missing"),
            _ => {}
        }
        Ok(())
    })?;
    // When each may be forgotten; an own batch has such a row too.
    rows::each(context.store, EXPIRING, report, |key, value, report| {
        rows::parse::<Expiring>(EXPIRING, key, value, report);
        Ok(())
    })?;
    let roots = rows::count(context.store, ROOTS, report)?;
    if roots > slices {
        rows::each_again(context.store, ROOTS, report, |key, _, report| {
            if let Found::Missing = rows::get::<SliceParcel>(context.store, SLICES, key, report)? {
                report.problem(SLICES, key, "a slice that is held by name is missing");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn check_request(
    context: &Context<'_>,
    name: &SliceKey,
    root: Digest,
    request: Option<&Signed<CustodyRequest>>,
) -> Result<(), String> {
    let Some(request) = request else { return Ok(()) };
    let body = &request.body;
    if (body.origin, body.header, body.destination, body.slice) != (name.origin, name.header, name.destination, root) {
        return Err("its request names another slice".into());
    }
    if name.destination != context.me && !body.custodians.contains(&context.me) {
        return Err("its request names other custodians".into());
    }
    request.verify(context.federation).map_err(|error| error.to_string())
}

/// A slice that the logs need.
pub(super) enum Loaded {
    /// Its index.
    Here(SliceIndex),
    /// It is not on the disk.
    Missing,
    /// It is damaged or another slice, which was told; or it may be gone.
    Useless,
}

/// The index of a slice for this node, with the root that a cut names: from the slices held, or cut again from an own
/// batch.
pub(super) fn load(
    context: &Context<'_>,
    name: &SliceKey,
    root: Digest,
    settled: u64,
    report: &mut Report<'_>,
) -> Result<Loaded, StoreError> {
    let key = slice_key(name);
    let found = match rows::get::<SliceParcel>(context.store, SLICES, &key, report)? {
        Found::Here(parcel) => Some((parcel.header.body, parcel.body)),
        Found::Missing | Found::Damaged => None,
    };
    let found = match found {
        None if name.origin == context.me => from_batch(context, name, report)?,
        found => found,
    };
    let Some((header, body)) = found else {
        let is_damaged = report.is_damaged(SLICES, &key) || report.is_damaged(BATCHES, &number_key(name.number));
        let excused = is_damaged || context.kept.slice_may_be_gone(settled);
        return Ok(if excused { Loaded::Useless } else { Loaded::Missing });
    };
    let named = header.digest(context.federation.id()) == name.header;
    let slice = header.slice(&name.destination).filter(|slice| named && slice.root == root);
    let index = slice.and_then(|slice| body.verify(&header, slice, context.federation).ok());
    Ok(match index {
        Some(index) => Loaded::Here(index),
        None => {
            report.problem(SLICES, &key, "it is not the slice that the cuts name");
            Loaded::Useless
        }
    })
}

fn from_batch(
    context: &Context<'_>,
    name: &SliceKey,
    report: &mut Report<'_>,
) -> Result<Option<(Header, SliceBody)>, StoreError> {
    let batch = rows::get::<StoredBatch>(context.store, BATCHES, &number_key(name.number), report)?;
    // Bundles that do not verify, which is told where batches are checked, cannot be cut into slices.
    let batch = batch.here().filter(|batch| batch.bundles.iter().all(|it| it.verify(context.federation).is_ok()));
    Ok(batch.and_then(|batch| {
        let routed = route(&batch.bundles, context.federation.id(), |mailbox| batch.homes.get(mailbox).copied());
        let at = routed.slices.iter().position(|slice| slice.destination == name.destination)?;
        Some((batch.header, routed.bodies.into_iter().nth(at)?))
    }))
}
