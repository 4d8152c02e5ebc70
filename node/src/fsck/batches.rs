//! Own batches: what each header says of its entries and slices, every bundle's signature, the chain of those that no cut
//! has included; the places that cuts gave them; and the bundles taken.

use postroad_engine::tables::{BATCHES, BUNDLES, PLACES, StoredBatch, Taken, key_number, mailbox_key, number_key};
use postroad_protocol::Digest;
use postroad_protocol::batch::route;
use postroad_protocol::cut::Cut;
use postroad_protocol::signed::{Statement, Verify};
use postroad_store::StoreError;

use super::Context;
use super::cuts::Walked;
use super::report::Report;
use super::rows::{self, Found};

/// What the walk along the cuts has seen of this node's own headers.
#[derive(Default)]
pub(super) struct Own {
    /// Headers with a row that says where they stand.
    placed: u64,
}

impl Own {
    /// A cut is walked over: its headers of this node have places, and their batches are here.
    pub(super) fn included(
        &mut self,
        context: &Context<'_>,
        cut: &Cut,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let epoch = cut.certified.header.epoch;
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let header = &sealed.header.body;
            if header.origin != context.me {
                continue;
            }
            let key = number_key(header.number);
            match rows::get::<(u64, u32)>(context.store, PLACES, &key, report)? {
                Found::Here(place) => {
                    self.placed += 1;
                    if place != (epoch, position as u32) {
                        report.problem(PLACES, &key, format_args!("the cuts put the batch at {epoch}.{position}"));
                    }
                }
                Found::Missing if context.kept.place_may_be_gone(epoch) => {}
                Found::Missing => report.problem(PLACES, &key, "the place of an included batch is missing"),
                Found::Damaged => self.placed += 1,
            }
            match rows::get::<StoredBatch>(context.store, BATCHES, &key, report)? {
                Found::Here(batch) => {
                    if batch.header != *header {
                        report.problem(BATCHES, &key, "a cut included another header under this number");
                    }
                }
                Found::Missing if !context.kept.batch_may_be_gone(epoch) => {
                    report.problem(BATCHES, &key, "a batch that a cut included is missing");
                }
                Found::Missing | Found::Damaged => {}
            }
        }
        Ok(())
    }

    /// Checks the rows themselves.
    pub(super) fn finish(
        self,
        context: &Context<'_>,
        walked: &Walked,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let mut named = 0;
        let mut before: Option<(u64, Digest)> = None;
        let last = walked.head.as_ref().and_then(|head| head.node(&context.me)?.last_header);
        rows::each(context.store, BATCHES, report, |key, value, report| {
            let Some(batch) = rows::parse::<StoredBatch>(BATCHES, key, value, report) else {
                before = None;
                return Ok(());
            };
            if key != number_key(batch.header.number) {
                report.problem(BATCHES, key, "it holds another batch");
                return Ok(());
            }
            check_batch(context, key, &batch, report);
            let digest = batch.header.digest(context.federation.id());
            let number = batch.header.number;
            if let Some((_, before)) = before.filter(|(before, _)| last.is_none_or(|last| *before > last.number))
                && batch.header.previous != before
            {
                report.problem(BATCHES, key, "it does not follow the batch before it");
            }
            before = Some((number, digest));
            let included =
                matches!(rows::get::<(u64, u32)>(context.store, PLACES, key, report)?, Found::Here(_) | Found::Damaged);
            named += check_bundles(context, &batch, included, report)?;
            Ok(())
        })?;
        self.check_places(context, walked, report)?;
        check_taken(context, named, report)
    }

    fn check_places(&self, context: &Context<'_>, walked: &Walked, report: &mut Report<'_>) -> Result<(), StoreError> {
        let places = rows::count(context.store, PLACES, report)?;
        // Each header of the walk has met its own row, so only more rows than that name what no cut has included.
        if walked.head.is_none() || places <= self.placed {
            return Ok(());
        }
        rows::each_again(context.store, PLACES, report, |key, value, report| {
            let Some((epoch, position)) = rows::parse::<(u64, u32)>(PLACES, key, value, report) else { return Ok(()) };
            let cut = rows::get::<Cut>(context.store, postroad_engine::tables::CUTS, &number_key(epoch), report)?;
            let header = cut.here().and_then(|cut| cut.body.headers.into_iter().nth(position as usize));
            let own = header.is_some_and(|sealed| {
                let header = &sealed.header.body;
                header.origin == context.me && header.number == key_number(key)
            });
            if !own {
                report.problem(
                    PLACES,
                    key,
                    format_args!("this node has no header of that number at {epoch}.{position}"),
                );
            }
            Ok(())
        })
    }
}

fn check_batch(context: &Context<'_>, key: &[u8], batch: &StoredBatch, report: &mut Report<'_>) {
    let header = &batch.header;
    if header.origin != context.me {
        report.problem(BATCHES, key, "it is another node's batch");
    }
    let mut are_sound = true;
    for (ordinal, bundle) in batch.bundles.iter().enumerate() {
        if let Err(error) = bundle.verify(context.federation) {
            are_sound = false;
            report.problem(BATCHES, key, format_args!("bundle {ordinal}: {error}"));
        }
        if bundle.signed.body.via != context.me {
            report.problem(BATCHES, key, format_args!("bundle {ordinal} is meant for another node"));
        }
    }
    if !are_sound {
        // Such bundles cannot be cut into slices.
        return;
    }
    let routed = route(&batch.bundles, context.federation.id(), |mailbox| batch.homes.get(mailbox).copied());
    if routed.entries != header.entries {
        report.problem(BATCHES, key, "its header does not commit to its bundles");
    }
    if routed.slices != header.slices {
        report.problem(BATCHES, key, "its header does not commit to the slices that are cut from it");
    }
}

/// The rows of the bundles of an included batch name it. Returns how many rows name this batch.
fn check_bundles(
    context: &Context<'_>,
    batch: &StoredBatch,
    included: bool,
    report: &mut Report<'_>,
) -> Result<u64, StoreError> {
    let mut named = 0;
    for (ordinal, bundle) in batch.bundles.iter().enumerate() {
        let body = &bundle.signed.body;
        let key = mailbox_key(&body.sender, body.counter);
        let right = Taken {
            bundle: bundle.signed.digest(context.federation),
            last_counter: body.last_counter(),
            batch: batch.header.number,
            ordinal: ordinal as u32,
        };
        match rows::get::<Taken>(context.store, BUNDLES, &key, report)? {
            Found::Here(taken) if taken == right => named += 1,
            Found::Here(taken) if included || taken.batch == right.batch => {
                // Counted as named, so that it is told once.
                named += u64::from(taken.batch == right.batch);
                report.problem(BUNDLES, &key, format_args!("it is not what batch {} holds", right.batch));
            }
            Found::Missing if included => {
                report.problem(BUNDLES, &key, format_args!("a bundle of batch {} is not known as taken", right.batch));
            }
            _ => {}
        }
    }
    Ok(named)
}

/// Every bundle taken is in its batch.
fn check_taken(context: &Context<'_>, named: u64, report: &mut Report<'_>) -> Result<(), StoreError> {
    if rows::count(context.store, BUNDLES, report)? <= named {
        return Ok(());
    }
    rows::each_again(context.store, BUNDLES, report, |key, value, report| {
        let Some(taken) = rows::parse::<Taken>(BUNDLES, key, value, report) else { return Ok(()) };
        let batch = match rows::get::<StoredBatch>(context.store, BATCHES, &number_key(taken.batch), report)? {
            Found::Here(batch) => Some(batch),
            // A sender's last one stays when its batch is forgotten.
            Found::Missing if context.kept.has_expired() => return Ok(()),
            Found::Missing => None,
            Found::Damaged => return Ok(()),
        };
        let body = batch.and_then(|batch| Some(batch.bundles.get(taken.ordinal as usize)?.signed.body.clone()));
        if body.is_none_or(|body| mailbox_key(&body.sender, body.counter) != key) {
            report.problem(BUNDLES, key, format_args!("batch {} does not hold the bundle", taken.batch));
        }
        Ok(())
    })
}
