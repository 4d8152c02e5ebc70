//! The chain of cuts: each follows the one before, is certified by the committee of genesis, holds what its roots say and
//! only what verifies, and is valid after the state before it.

use postroad_engine::tables::{CUTS, number_key};
use postroad_protocol::cut::Cut;
use postroad_protocol::signed::Verify;
use postroad_protocol::state::{State, apply};
use postroad_protocol::{Digest, Verified};
use postroad_store::StoreError;

use super::report::Report;
use super::{Context, rows, state};

/// Missing cuts in a row that are named one by one.
const MAX_NAMED: usize = 1_000;

/// One cut, and the state before and after it.
pub(super) struct Step<'a> {
    pub(super) cut: &'a Cut,
    pub(super) before: &'a State,
    pub(super) after: &'a State,
}

/// How far the chain could be followed.
pub(super) struct Walked {
    /// The last cut's epoch.
    pub(super) last_epoch: u64,
    /// The state after it, if every cut was followed.
    pub(super) head: Option<State>,
}

struct Chain {
    next: u64,
    /// The digest of the cut before; none after one that is missing.
    previous: Option<Digest>,
    /// The state after the cut before; none after one that is missing or not valid.
    state: Option<State>,
    /// Whether a cut was missing or not valid: what was to be recomputed from all of them cannot be.
    broken: bool,
}

/// What is done with each cut that could be followed.
pub(super) type OnStep<'a> = dyn FnMut(&Step<'_>, &mut Report<'_>) -> Result<(), StoreError> + 'a;

pub(super) fn check(
    context: &Context<'_>,
    report: &mut Report<'_>,
    on_step: &mut OnStep<'_>,
) -> Result<Walked, StoreError> {
    let genesis = State::genesis(context.federation);
    let mut chain = Chain { next: 1, previous: Some(genesis.cut), state: Some(genesis), broken: false };
    let mut last_epoch = 0;
    rows::each(context.store, CUTS, report, |key, value, report| {
        let Some(cut) = rows::parse::<Cut>(CUTS, key, value, report) else { return Ok(()) };
        let epoch = cut.certified.header.epoch;
        if key != number_key(epoch) {
            report.problem(CUTS, key, format_args!("it holds the cut of epoch {epoch}"));
            return Ok(());
        }
        last_epoch = epoch;
        chain.take(context, cut, report, on_step)
    })?;
    if last_epoch == 0 {
        state::check_empty(context, report)?;
    }
    Ok(Walked { last_epoch, head: chain.state.filter(|_| !chain.broken) })
}

impl Chain {
    fn take(
        &mut self,
        context: &Context<'_>,
        cut: Cut,
        report: &mut Report<'_>,
        on_step: &mut OnStep<'_>,
    ) -> Result<(), StoreError> {
        let federation = context.federation;
        let header = cut.certified.header.clone();
        let key = number_key(header.epoch);
        if header.epoch != self.next {
            self.lose(header.epoch, report);
        }
        self.next = header.epoch + 1;
        let digest = header.digest(federation);
        let before = self.previous.replace(digest);
        if before.is_some_and(|before| before != header.previous) {
            report.problem(CUTS, &key, "it does not follow the cut before it");
            self.break_off();
        }
        if let Err(error) = cut.verify(federation) {
            report.problem(CUTS, &key, error);
            self.break_off();
        }
        let cut = Verified::from_own_disk(cut);
        if let Some(before) = self.state.take() {
            match apply(&before, &cut, federation) {
                Ok(applied) => {
                    if !self.broken {
                        on_step(&Step { cut: &cut, before: &before, after: &applied.state }, report)?;
                    }
                    self.state = Some(applied.state);
                }
                Err(invalid) => {
                    report.problem(CUTS, &key, format_args!("it is not valid: {invalid}"));
                    self.break_off();
                }
            }
        }
        if let Some(floor) = context.meta.floor.as_ref().filter(|floor| floor.epoch == header.epoch) {
            // Where the cuts before are not all there, the stored state is as good a beginning: the cut names its root.
            let stored = state::check(context, floor, &header, digest, self.state.as_ref(), report)?;
            self.state = self.state.take().or(stored);
        }
        Ok(())
    }

    /// The cuts before `epoch` are not there.
    fn lose(&mut self, epoch: u64, report: &mut Report<'_>) {
        // Those that are damaged were named.
        let missing: Vec<u64> =
            (self.next..epoch).take(MAX_NAMED).filter(|epoch| !report.is_damaged(CUTS, &number_key(*epoch))).collect();
        for epoch in missing {
            report.problem(CUTS, &number_key(epoch), "the cut is missing");
        }
        self.previous = None;
        self.break_off();
    }

    fn break_off(&mut self) {
        self.state = None;
        self.broken = true;
    }
}
