//! The numbers of one sender, as one recipient sees them: which are here, and which are missing.
//!
//! A number is *missing* once nothing that may still come late can fill its hole. It stays on the list until it turns
//! up or is explained. Everything here is bounded: a sender that leaves holes on purpose makes the oldest be forgotten.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use postroad_protocol::{NodeId, Seq};

use crate::control::{Forgotten, Numbering};

/// How many numbers of one sender may stand above a hole before it is reported in any case.
const MAX_ABOVE: usize = 1_024;
/// How many holes of one sender are remembered.
pub const MAX_HOLES: usize = 64;
/// How many places of a sender's messages are remembered.
const MAX_PLACES: usize = 16;

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Place {
    /// The origin.
    #[n(0)]
    pub via: NodeId,
    /// Its place in the order.
    #[n(1)]
    pub seq: Seq,
}

/// Numbers of one sender that should be here and are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Where the last of them for which the sender has told it stands, with its number.
    pub hint: Option<(u64, Place)>,
    /// Whether the sender was asked.
    pub asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Missing {
    #[n(0)]
    to: u64,
    #[n(1)]
    asked: bool,
}

/// Why a hole is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The message turned up.
    Arrived,
    /// The sender's memory was set back, and it does not know whether it ever used the numbers.
    Forgotten,
    /// The sender says that it gave the message up: it was never ordered.
    GivenUp,
    /// This mailbox's home refused the message, as the sender has proven.
    Refused,
}

/// The numbers of one sender.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct Numbers {
    /// Every number up to this one is here or was reported.
    #[n(0)]
    through: u64,
    /// Numbers above it that are here, each with the place where it stands, and whose holes are not reported yet.
    #[n(1)]
    above: BTreeMap<u64, Seq>,
    /// What was reported and is still missing, by its first number.
    #[n(2)]
    missing: BTreeMap<u64, Missing>,
    /// Places that the sender has told, newest numbers.
    #[n(3)]
    places: BTreeMap<u64, Place>,
    /// Entries before the next message were never read here, so its number says nothing of a hole before it.
    #[n(4)]
    blind: bool,
    /// What the sender may have used and does not remember.
    #[n(5)]
    forgotten: Option<Forgotten>,
}

impl Numbers {
    /// The numbers of a sender from whom nothing was read yet; `blind` if entries were skipped before.
    pub fn new(blind: bool) -> Numbers {
        Numbers { blind, ..Numbers::default() }
    }

    /// Every number up to this one is here, or missing.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// A message with this number is here, at `seq` and through `via`. Returns the holes that are closed by that.
    pub fn take(&mut self, numbering: &Numbering, seq: Seq, via: NodeId) -> Vec<(u64, u64, Closed)> {
        let number = numbering.number;
        let mut closed = self.explained(number, number, Closed::Arrived);
        if let Some(previous) = numbering.previous.filter(|previous| previous.number < number) {
            let place = Place { via: previous.via.unwrap_or(via), seq: previous.seq };
            self.places.insert(previous.number, place);
            if self.places.len() > MAX_PLACES {
                self.places.pop_first();
            }
        }
        if let Some(range) = numbering.forgotten.filter(|range| range.from <= range.to && range.to < number) {
            if self.forgotten.is_none_or(|known| known.to < range.to) {
                self.forgotten = Some(range);
            }
            closed.extend(self.explained(range.from, range.to, Closed::Forgotten));
        }
        if self.blind && number > self.through {
            self.blind = false;
            self.through = number - 1;
        }
        if number > self.through {
            self.above.insert(number, seq);
        }
        self.close();
        closed
    }

    /// The entries up to now were not all read, and will not be: what is missing of them means nothing.
    pub fn skip(&mut self) {
        self.through = self.above.last_key_value().map_or(self.through, |(number, _)| *number).max(self.through);
        self.above.clear();
        self.blind = true;
    }

    /// Moves over the numbers that are here, or that the sender has forgotten.
    fn close(&mut self) {
        loop {
            let next = self.through.saturating_add(1);
            match self.forgotten {
                Some(range) if (range.from..=range.to).contains(&next) => self.through = range.to,
                _ if self.above.remove(&next).is_some() => self.through = next,
                _ => break,
            }
        }
        self.above = self.above.split_off(&self.through.saturating_add(1));
    }

    /// The next hole that nothing late can fill any more.
    pub fn gap(&mut self, below: (u64, u32)) -> Option<(u64, u64)> {
        let is_due = self.above.len() > MAX_ABOVE || self.above.values().any(|seq| is_below(*seq, below));
        let (&number, _) = self.above.first_key_value().filter(|_| is_due)?;
        let from = self.through.saturating_add(1);
        let forgotten = self.forgotten.map(|range| range.from).filter(|first| *first > from && *first < number);
        let to = forgotten.unwrap_or(number) - 1;
        self.through = to;
        self.missing.insert(from, Missing { to, asked: false });
        if self.missing.len() > MAX_HOLES {
            self.missing.pop_first();
        }
        self.close();
        Some((from, to))
    }

    /// What is missing.
    pub fn holes(&self) -> impl Iterator<Item = Hole> + '_ {
        self.missing.iter().map(|(from, missing)| Hole {
            from: *from,
            to: missing.to,
            hint: self.places.range(from..=&missing.to).next_back().map(|(number, place)| (*number, *place)),
            asked: missing.asked,
        })
    }

    /// Whether a hole begins right after this number or ends right before it.
    pub fn is_beside_hole(&self, number: u64) -> bool {
        self.missing.contains_key(&number.saturating_add(1))
            || self.missing.values().any(|missing| missing.to.saturating_add(1) == number)
    }

    /// The sender was asked about the hole that begins here.
    pub fn asked(&mut self, from: u64) {
        self.missing.entry(from).and_modify(|missing| missing.asked = true);
    }

    /// These numbers are missing no more. Returns those that were.
    pub fn explained(&mut self, from: u64, to: u64, why: Closed) -> Vec<(u64, u64, Closed)> {
        let holes: Vec<(u64, Missing)> =
            (self.missing.iter()).filter(|(first, hole)| **first <= to && hole.to >= from).map(copied).collect();
        let mut closed = Vec::with_capacity(holes.len());
        for (first, hole) in holes {
            self.missing.remove(&first);
            if first < from {
                self.missing.insert(first, Missing { to: from - 1, ..hole });
            }
            if hole.to > to {
                self.missing.insert(to + 1, hole);
            }
            closed.push((first.max(from), hole.to.min(to), why));
        }
        while self.missing.len() > MAX_HOLES {
            self.missing.pop_first();
        }
        closed
    }
}

fn copied((first, hole): (&u64, &Missing)) -> (u64, Missing) {
    (*first, *hole)
}

pub(crate) fn is_below(seq: Seq, below: (u64, u32)) -> bool {
    (seq.epoch, seq.position) < below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Previous;
    use postroad_protocol::PublicKey;

    const VIA: PublicKey = PublicKey([9; 32]);

    fn seq(epoch: u64) -> Seq {
        Seq { epoch, position: 0, index: 0 }
    }

    fn take(numbers: &mut Numbers, number: u64) -> Vec<(u64, u64, Closed)> {
        numbers.take(&Numbering { number, ..Numbering::default() }, seq(number), VIA)
    }

    fn gaps(numbers: &mut Numbers) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| numbers.gap((u64::MAX, 0))).collect()
    }

    #[test]
    fn a_hole_stays_on_the_list_until_all_of_it_is_there() {
        let mut numbers = Numbers::new(false);
        take(&mut numbers, 1);
        let previous = Some(Previous { number: 4, seq: seq(4), via: None });
        numbers.take(&Numbering { number: 5, previous, forgotten: None }, seq(5), VIA);
        assert_eq!(gaps(&mut numbers), [(2, 4)]);
        numbers.asked(2);
        let place = Place { via: VIA, seq: seq(4) };
        let hole = Hole { from: 2, to: 4, hint: Some((4, place)), asked: true };
        assert_eq!(numbers.holes().collect::<Vec<_>>(), [hole]);
        assert!(numbers.is_beside_hole(1) && numbers.is_beside_hole(5) && !numbers.is_beside_hole(6));
        assert_eq!(take(&mut numbers, 3), [(3, 3, Closed::Arrived)]);
        let left: Vec<_> = numbers.holes().map(|hole| (hole.from, hole.to, hole.asked)).collect();
        assert_eq!(left, [(2, 2, true), (4, 4, true)]);
        assert_eq!(take(&mut numbers, 2), [(2, 2, Closed::Arrived)]);
        assert_eq!(numbers.explained(1, 9, Closed::Refused), [(4, 4, Closed::Refused)]);
        assert_eq!((numbers.holes().count(), numbers.through()), (0, 5));
    }

    #[test]
    fn what_the_sender_has_forgotten_is_no_hole_and_what_lies_before_it_is() {
        let mut numbers = Numbers::new(false);
        take(&mut numbers, 1);
        let forgotten = Some(Forgotten { from: 4, to: 90 });
        numbers.take(&Numbering { number: 91, previous: None, forgotten }, seq(91), VIA);
        assert_eq!(gaps(&mut numbers), [(2, 3)]);
        assert_eq!(numbers.through(), 91);
        // A range that does not end below its message is no such range.
        let wild = Some(Forgotten { from: 92, to: 200 });
        numbers.take(&Numbering { number: 95, previous: None, forgotten: wild }, seq(95), VIA);
        assert_eq!(gaps(&mut numbers), [(92, 94)]);
    }

    #[test]
    fn a_number_that_is_used_again_is_no_alarm() {
        let mut numbers = Numbers::new(false);
        (1..=9).for_each(|number| drop(take(&mut numbers, number)));
        for number in 4..=9 {
            assert_eq!(take(&mut numbers, number), []);
        }
        assert_eq!((gaps(&mut numbers), numbers.through()), (vec![], 9));
    }

    #[test]
    fn after_skipped_entries_counting_begins_anew() {
        let mut numbers = Numbers::new(false);
        take(&mut numbers, 1);
        take(&mut numbers, 3);
        numbers.skip();
        take(&mut numbers, 40);
        assert_eq!((gaps(&mut numbers), numbers.through()), (vec![], 40));
        take(&mut numbers, 42);
        assert_eq!(gaps(&mut numbers), [(41, 41)]);
    }

    #[test]
    fn a_sender_of_many_holes_is_remembered_within_bounds() {
        let mut numbers = Numbers::new(false);
        for number in 1..3_000 {
            take(&mut numbers, 2 * number);
            gaps(&mut numbers);
        }
        assert_eq!(numbers.holes().count(), MAX_HOLES);
        assert!(postroad_protocol::codec::encode(&numbers).len() < 2_000);
    }
}
