//! Power cuts: the store and the guard, whole, on a disk that loses what was not synced.
//!
//! A history is written until the disk stands still at a chosen step: a write, a new length, a
//! sync, a rename, a directory's sync. What is then on the disk is drawn from all that a power cut
//! may leave, and the next process opens that. Three times in a row; now and then a process is
//! killed between, so that another one goes on with what is unsynced. The same histories on a disk
//! that lies about its syncs must fail, or they show nothing.

mod guard;
pub(crate) mod platter;
mod store;

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use platter::{Lie, Platter, Step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Power cuts in a row.
const CUTS: u64 = 3;

/// One process on the disk, from its start until the disk stands still or its work is done.
trait Subject: Default {
    /// # Errors
    /// A sentence, if what it finds is not what it must be.
    fn run(&mut self, platter: &Platter, rng: &mut ChaCha8Rng, tally: &mut Tally) -> Result<(), String>;
}

/// What happened, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    images: u64,
    /// Cuts by the step at which they struck; `None` is between two processes.
    at: BTreeMap<Option<Step>, u64>,
    /// Cuts while a process opened what it found.
    opening: u64,
    /// Cuts that could lose something.
    at_stake: u64,
    kills: u64,
    full: u64,
}

impl Tally {
    fn all_kinds_were_seen(&self) -> bool {
        let steps = [None, Some(Step::Write), Some(Step::Len), Some(Step::Sync), Some(Step::Name), Some(Step::SyncDir)];
        steps.iter().all(|step| self.at.contains_key(step)) && self.opening > 0 && self.at_stake > 0 && self.kills > 0
    }
}

/// One history. The first process does the same for `steps` seeds in a row, and each of them
/// stops it one step later.
fn history<S: Subject>(seed: u64, steps: u64, lie: Option<Lie>, tally: &mut Tally) -> Result<(), String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut first = ChaCha8Rng::seed_from_u64(seed / steps);
    let mut platter = Platter::with_dir("/disk".as_ref());
    platter.set_lie(lie);
    let mut subject = S::default();
    for cut in 0..CUTS {
        let (stop, work) = match cut {
            0 => (seed % steps, &mut first),
            _ => (rng.random_range(0..steps), &mut rng),
        };
        platter.fault(|faults| faults.stop_after = Some(stop));
        subject.run(&platter, work, tally)?;
        if rng.random() {
            platter = platter.after_kill();
            tally.kills += 1;
            platter.fault(|faults| faults.stop_after = Some(rng.random_range(0..steps)));
            subject.run(&platter, &mut rng, tally)?;
        }
        tally.images += 1;
        tally.at_stake += u64::from(platter.at_stake() > 0);
        *tally.at.entry(platter.stopped_at()).or_default() += 1;
        platter = platter.after_power_cut(&mut rng);
    }
    subject.run(&platter, &mut rng, tally)
}

fn from_env(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

/// How many steps a process takes on an empty disk.
fn steps<S: Subject>() -> u64 {
    let platter = Platter::with_dir("/disk".as_ref());
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    S::default().run(&platter, &mut rng, &mut Tally::default()).unwrap();
    platter.steps()
}

/// Runs histories until there were so many images; the first wrong one ends it.
fn histories<S: Subject>(images: u64, lie: Option<Lie>) -> (Tally, Option<(u64, String)>) {
    let steps = steps::<S>();
    let mut tally = Tally::default();
    let first = from_env("POSTROAD_SEED").unwrap_or(0);
    for seed in first.. {
        let outcome = catch_unwind(AssertUnwindSafe(|| history::<S>(seed, steps, lie, &mut tally)));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".into()));
        if let Err(what) = outcome {
            return (tally, Some((seed, what)));
        }
        if tally.images >= images {
            break;
        }
    }
    (tally, None)
}

/// The histories of an honest disk.
fn survives<S: Subject>(test: &str, in_ci: u64) -> Tally {
    let images = from_env("POSTROAD_IMAGES").unwrap_or(in_ci);
    let begin = Instant::now();
    let (tally, wrong) = histories::<S>(images, None);
    let command = format!("cargo test --release -p postroad-store --lib {test} -- --nocapture");
    if let Some((seed, what)) = wrong {
        panic!("seed {seed}: {what}\nagain: POSTROAD_SEED={seed} POSTROAD_IMAGES=1 {command}");
    }
    let rate = tally.images as f64 / begin.elapsed().as_secs_f64();
    println!("{test}: {rate:.0} images/s, {tally:?}\nfor more: POSTROAD_IMAGES={} {command}", in_ci * 20);
    tally
}

/// A disk that lies must be found out.
fn is_caught<S: Subject>(lie: Lie) {
    let (tally, wrong) = histories::<S>(2_000, Some(lie));
    match wrong {
        Some((seed, what)) => println!("{lie:?}: caught after {} images, seed {seed}: {what}", tally.images),
        None => panic!("{lie:?} was not noticed in {} images", tally.images),
    }
}
