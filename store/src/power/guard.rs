//! Power cuts under the signing guard: a vote that was given out is never forgotten.

use super::*;
use crate::guard::{Guard, GuardError, GuardRecord};

const DIR: &str = "/disk/node/guard";
const VOTES: usize = 4;

#[derive(Default)]
struct Votes {
    given: Option<GuardRecord>,
    /// Signed, and perhaps not given out: the process ended before it was told.
    in_flight: Option<GuardRecord>,
}

impl Votes {
    fn check(&mut self, guard: &Guard) -> Result<(), String> {
        let (last, in_flight) = (guard.last(), self.in_flight.take());
        if last != self.given && (last.is_none() || last != in_flight) {
            let slot = |vote: Option<GuardRecord>| vote.map(|(slot, ..)| slot);
            return Err(format!("slot {:?} was given out, and {:?} is remembered", slot(self.given), slot(last)));
        }
        self.given = last;
        let Some((slot, digest, signature)) = last else {
            return Ok(());
        };
        let other = guard.sign(slot, [!digest[0]; 32], || [0; 64]);
        let lower = guard.sign(slot - 1, digest, || [0; 64]);
        match (guard.sign(slot, digest, || [0; 64]), other, lower) {
            (Ok(again), Err(GuardError::Refused { .. }), Err(GuardError::Refused { .. })) if again == signature => {
                Ok(())
            }
            signed => Err(format!("it signs against slot {slot}: {signed:?}")),
        }
    }
}

impl Subject for Votes {
    fn run(&mut self, platter: &Platter, rng: &mut ChaCha8Rng, tally: &mut Tally) -> Result<(), String> {
        let guard = match Guard::open_on(platter, DIR.as_ref(), self.given.is_none()) {
            Ok(guard) => guard,
            Err(_) if platter.stopped_at().is_some() => {
                tally.opening += 1;
                return Ok(());
            }
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        self.check(&guard)?;
        for _ in 0..VOTES {
            let slot = self.given.map_or(0, |(slot, ..)| slot) + rng.random_range(1..3);
            let vote = (slot, [rng.random(); 32], [rng.random(); 64]);
            self.in_flight = Some(vote);
            match guard.sign(vote.0, vote.1, || vote.2) {
                Ok(_) => self.given = self.in_flight.take(),
                Err(_) if platter.stopped_at().is_some() => return Ok(()),
                Err(error) => return Err(format!("on a sound disk: {error}")),
            }
        }
        Ok(())
    }
}

#[test]
fn a_power_cut_never_forgets_a_vote() {
    let tally = survives::<Votes>("a_power_cut_never_forgets_a_vote", 50_000);
    if tally.images >= 50_000 {
        assert!(tally.all_kinds_were_seen(), "something never happened: {tally:?}");
    }
}

#[test]
fn a_disk_that_lies_is_caught() {
    for lie in [Lie::Files, Lie::Dirs] {
        is_caught::<Votes>(lie);
    }
}
