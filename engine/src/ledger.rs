//! The ledger follows the cuts: it applies each to the state, keeps the states of the last W epochs for look-ups, and
//! says what to write so that the next start finds the same.
//!
//! On disk the state stands as of a floor, W cuts behind; a start reads it and applies the later cuts again with the
//! same function. It refuses a cut that `apply` refuses, and a store whose cuts do not follow its floor.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use postroad_protocol::codec::decode;
use postroad_protocol::cut::{CertifiedCut, Cut};
use postroad_protocol::state::{Applied, Invalid, State, StateKey, apply};
use postroad_protocol::{Federation, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::tables::{self, CUTS, FLOOR, Floor, META, STATE};

/// States by epoch, the newest last.
#[derive(Debug)]
pub struct Ledger {
    federation: Federation,
    recent: VecDeque<Recent>,
}

#[derive(Debug)]
struct Recent {
    applied: Applied,
    certified: Option<CertifiedCut>,
}

impl Ledger {
    /// Reads the ledger of a store, which may be empty.
    ///
    /// # Errors
    /// [`StoreError`]; a cut that no longer applies is [`StoreError::Corrupt`].
    pub fn open(federation: &Federation, store: &dyn Read) -> Result<Ledger, StoreError> {
        let mut state = State::genesis(federation);
        let mut certified = None;
        if let Some(floor) = tables::get::<Floor>(store, META, FLOOR)? {
            let mut from = Vec::new();
            loop {
                let rows = store.range(STATE, &from, &[], 1_024)?;
                let Some((last, _)) = rows.last() else { break };
                from = [last.as_slice(), &[0]].concat();
                for (key, value) in &rows {
                    let corrupt = |_| StoreError::Corrupt { table: STATE, key: key.clone() };
                    state.restore(decode::<StateKey>(key).map_err(corrupt)?, value).map_err(corrupt)?;
                }
            }
            (state.epoch, state.time_ms, state.age_ms) = (floor.epoch, floor.time_ms, floor.age_ms);
            state.cut = floor.cut;
            let cut: Cut = tables::get(store, CUTS, &tables::number_key(floor.epoch))?
                .ok_or(StoreError::Corrupt { table: CUTS, key: tables::number_key(floor.epoch) })?;
            if state.root() != cut.certified.header.state {
                return Err(StoreError::Corrupt { table: STATE, key: tables::number_key(floor.epoch) });
            }
            certified = Some(cut.certified);
        }
        let first = Recent { applied: Applied { state, touched: Default::default() }, certified };
        let mut ledger = Ledger { federation: federation.clone(), recent: VecDeque::from([first]) };
        while let Some(cut) = tables::get::<Cut>(store, CUTS, &tables::number_key(ledger.head().epoch + 1))? {
            let key = tables::number_key(cut.certified.header.epoch);
            ledger.push(&Verified::from_own_disk(cut)).map_err(|_| StoreError::Corrupt { table: CUTS, key })?;
        }
        Ok(ledger)
    }

    /// The state after the last cut.
    pub fn head(&self) -> &State {
        &self.recent.back().expect("a ledger is never empty").applied.state
    }

    /// The last cut's certified header; none at genesis.
    pub fn head_cut(&self) -> Option<&CertifiedCut> {
        self.recent.back().and_then(|recent| recent.certified.as_ref())
    }

    /// What the last cut has touched.
    pub fn touched(&self) -> &BTreeSet<StateKey> {
        &self.recent.back().expect("a ledger is never empty").applied.touched
    }

    /// The state after the cut of `epoch`, if it is recent.
    pub fn at(&self, epoch: u64) -> Option<(&State, Option<&CertifiedCut>)> {
        let floor = self.recent.front()?.applied.state.epoch;
        let recent = self.recent.get(usize::try_from(epoch.checked_sub(floor)?).ok()?)?;
        Some((&recent.applied.state, recent.certified.as_ref()))
    }

    fn push(&mut self, cut: &Verified<Cut>) -> Result<(), Invalid> {
        let applied = apply(self.head(), cut, &self.federation)?;
        self.recent.push_back(Recent { applied, certified: Some(cut.certified.clone()) });
        Ok(())
    }

    /// Applies a cut and says what to write.
    ///
    /// # Errors
    /// [`Invalid`]; the ledger is as it was.
    pub fn apply(&mut self, cut: &Arc<Verified<Cut>>) -> Result<Vec<Write>, Invalid> {
        self.push(cut)?;
        let epoch = cut.certified.header.epoch;
        let mut writes = vec![tables::put(CUTS, tables::number_key(epoch), &***cut)];
        // One more than W, because a header that is sealed on the head may name a routing epoch W before the next cut.
        let keep = self.federation.params().routing_window_epochs as usize + 2;
        while self.recent.len() > keep {
            self.recent.pop_front();
            let floor = &self.recent.front().expect("more than W are left").applied;
            let state = &floor.state;
            for key in &floor.touched {
                let row = postroad_protocol::codec::encode(key);
                writes.push(match state.value(key) {
                    Some(value) => Write::Put { table: STATE, key: row, value },
                    None => tables::delete(STATE, row),
                });
            }
            let floor = Floor { epoch: state.epoch, time_ms: state.time_ms, age_ms: state.age_ms, cut: state.cut };
            writes.push(tables::put(META, FLOOR, &floor));
        }
        Ok(writes)
    }
}
