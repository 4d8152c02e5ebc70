//! Power cuts under the store: what is found is what was committed, and nothing in part.

use std::sync::Arc;

use super::*;
use crate::{Read, Store, StoreError, Table, Transaction};

const A: Table = Table("a");
const B: Table = Table("b");
const TABLES: [Table; 2] = [A, B];
const PATH: &str = "/disk/store";
const COMMITS: usize = 6;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// What may be found.
#[derive(Default)]
struct Known {
    /// What the last commit that returned left.
    rows: Rows,
    /// What a commit that did not return would leave.
    in_flight: Option<Rows>,
}

impl Known {
    /// Takes what is there for what is true from now on, if it may be.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        let read = store.snapshot().map_err(|error| error.to_string())?;
        let mut found = Rows::new();
        for table in TABLES {
            let rows = read.range(table, b"", b"", usize::MAX).map_err(|error| error.to_string())?;
            found.extend(rows.into_iter().map(|(key, value)| ((table, key), value)));
        }
        match self.in_flight.take() {
            _ if found == self.rows => Ok(()),
            Some(rows) if found == rows => {
                self.rows = rows;
                Ok(())
            }
            other => Err(format!(
                "{} rows were found, and {} were committed, {:?} by the last commit",
                found.len(),
                self.rows.len(),
                other.map(|rows| rows.len()),
            )),
        }
    }

    /// A group of changes as a node makes them: some rows in the order of their keys, some
    /// anywhere, a few of them large.
    fn change(&mut self, rng: &mut ChaCha8Rng, tx: &mut Transaction) {
        let mut rows = self.rows.clone();
        for _ in 0..rng.random_range(1..20) {
            let (table, key) = match rng.random_range(0..3) {
                0 => (B, (rows.len() as u64).to_be_bytes().to_vec()),
                _ => (A, vec![rng.random_range(0..150)]),
            };
            if rng.random_range(0..4) == 0 {
                tx.delete(table, &key);
                rows.remove(&(table, key));
                continue;
            }
            let len = match rng.random_range(0..30) {
                0 => rng.random_range(0..50_000),
                1..5 => rng.random_range(0..5_000),
                _ => rng.random_range(0..300),
            };
            let value = vec![rng.random(); len];
            tx.put(table, &key, &value);
            rows.insert((table, key), value);
        }
        self.in_flight = Some(rows);
    }
}

impl Subject for Known {
    fn run(&mut self, platter: &Platter, rng: &mut ChaCha8Rng, tally: &mut Tally) -> Result<(), String> {
        let store = match Store::open_on(Arc::new(platter.clone()), PATH.as_ref(), &TABLES) {
            Ok(store) => store,
            Err(_) if platter.stopped_at().is_some() => {
                tally.opening += 1;
                return Ok(());
            }
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        self.check(&store)?;
        for _ in 0..COMMITS {
            let fills_up = rng.random_range(0..10) == 0;
            if fills_up {
                platter.fault(|faults| faults.full_after = Some(rng.random_range(0..15)));
            }
            let mut tx = store.begin().map_err(|error| format!("no transaction begins: {error}"))?;
            self.change(rng, &mut tx);
            let committed = tx.commit();
            platter.fault(|faults| faults.full_after = None);
            match committed {
                Ok(()) => self.rows = self.in_flight.take().unwrap_or_default(),
                Err(_) if platter.stopped_at().is_some() => return Ok(()),
                Err(StoreError::Full) if fills_up => {
                    tally.full += 1;
                    self.in_flight = None;
                    match store.snapshot() {
                        Ok(_) => self.check(&store)?,
                        Err(_) if platter.stopped_at().is_some() => return Ok(()),
                        Err(error) => return Err(format!("with space again: {error}")),
                    }
                }
                // The device was full when the commit had become current: the process stops.
                Err(StoreError::Fatal { .. }) if fills_up => return Ok(()),
                Err(error) => return Err(format!("a commit on a sound disk: {error}")),
            }
        }
        Ok(())
    }
}

#[test]
fn a_power_cut_leaves_an_exact_prefix() {
    let tally = survives::<Known>("a_power_cut_leaves_an_exact_prefix", 5_000);
    if tally.images >= 5_000 {
        assert!(tally.all_kinds_were_seen() && tally.full > 0, "something never happened: {tally:?}");
    }
}

#[test]
fn a_disk_that_lies_is_caught() {
    for lie in [Lie::Files, Lie::EverySecond(0), Lie::EverySecond(1), Lie::Dirs] {
        is_caught::<Known>(lie);
    }
}
