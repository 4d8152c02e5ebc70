//! What many seeds came to: per sin, alone and beside each partner.

use std::collections::BTreeMap;
use std::fmt;

use postroad_engine::cheat::Sin;
use postroad_protocol::evidence::Fault;

use super::{Outcome, fault_of};

/// In so many seeds every sin that can be proven was proven, alone.
const ENOUGH: u64 = 200;

/// Counters of one sin beside one partner, or alone.
#[derive(Clone, Debug, Default)]
struct Row {
    runs: u64,
    /// Runs in which it was committed, and how often in all.
    sinned: (u64, u64),
    /// Runs in which it was proven, and verdicts in all.
    proven: (u64, u64),
    found: u64,
    epochs: u64,
    excuses: BTreeMap<&'static str, u64>,
    others: BTreeMap<Fault, u64>,
}

/// All counters.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: BTreeMap<(Sin, Option<Sin>), Row>,
    /// Seeds.
    pub seeds: u64,
    /// Of these, how many did not hold.
    pub failed: u64,
    cleared: u64,
}

impl Report {
    /// One more seed.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.failure.is_some());
        self.cleared += outcome.cleared;
        for trial in &outcome.trials {
            let row = self.rows.entry((trial.cheat.sin, trial.partner)).or_default();
            row.runs += 1;
            row.sinned.0 += u64::from(trial.sinned > 0);
            row.sinned.1 += trial.sinned;
            row.proven.0 += u64::from(trial.proven > 0);
            row.proven.1 += trial.proven;
            row.found += trial.found;
            row.epochs = row.epochs.max(trial.epochs);
            if let Some(excuse) = trial.excuse {
                *row.excuses.entry(excuse).or_default() += 1;
            }
            for (fault, count) in &trial.others {
                *row.others.entry(*fault).or_default() += count;
            }
        }
    }

    /// Sins that can be proven and never were, in as many seeds as that takes; with `moves`, of those about moves.
    pub fn never(&self, moves: bool) -> Vec<Sin> {
        let is_proven = |sin: &Sin| self.rows.iter().any(|((other, _), row)| other == sin && row.proven.0 > 0);
        let is_meant = |sin: &Sin| fault_of(*sin).is_some() && (!moves || sin.is_about_moves());
        let all = Sin::ALL.into_iter().filter(is_meant);
        if self.seeds < ENOUGH { Vec::new() } else { all.filter(|sin| !is_proven(sin)).collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((sin, partner), row) in &self.rows {
            let partner = partner.map_or("alone".into(), |partner| format!("beside {partner}"));
            let fault = fault_of(*sin).map_or("no contradiction", Fault::code);
            write!(
                f,
                "{sin:>17} {partner:<24} -> {fault}: {} runs, sinned in {} ({}), proven in {} ({}), {} by nodes, \
                 within {} epochs",
                row.runs, row.sinned.0, row.sinned.1, row.proven.0, row.proven.1, row.found, row.epochs
            )?;
            for (excuse, count) in &row.excuses {
                write!(f, "; {excuse} {count}")?;
            }
            for (fault, count) in &row.others {
                write!(f, "; also {fault} {count}")?;
            }
            writeln!(f)?;
        }
        write!(f, "seeds={} failed={} cleared={}", self.seeds, self.failed, self.cleared)
    }
}
