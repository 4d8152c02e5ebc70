//! What the application gets to see of a verified log, and when: a state machine without IO.
//!
//! *Live* hands a message out as soon as it is verified, and marks it when it comes late. *Strict* hands out only what
//! lies below every slice that can still come late, in ascending order of sequence number, and so never out of order.
//! Of several copies of one message the first handed out is mail; the others are repeats. Numbers per sender that are
//! missing below that bound are gaps, each reported once.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use postroad_protocol::{Digest, MailboxId, Seq};

use crate::verify_log::Violation;

/// When a message is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// As soon as it is verified; late ones are marked.
    #[default]
    Live,
    /// Never out of order.
    Strict,
}

/// What [`Delivery`] must know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its index in the log.
    pub index: u64,
    /// Its place in the order.
    pub seq: Seq,
    /// Its end-to-end id.
    pub id: Digest,
    /// Who sent it.
    pub sender: MailboxId,
    /// Its number from that sender, if the library sealed it.
    pub number: Option<u64>,
}

/// What to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// The message at this log index, for the first time.
    Message(u64),
    /// The message at this log index is a copy of one that was handed out.
    Repeat(u64),
    /// A sender's numbers that should be here and are not.
    Gap {
        /// The sender.
        sender: MailboxId,
        /// The first missing number.
        from: u64,
        /// The last missing number.
        to: u64,
    },
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
}

/// How many numbers of one sender may stand above a hole before it is reported in any case.
const MAX_ABOVE: usize = 1_024;

impl Numbers {
    fn take(&mut self, number: u64, seq: Seq) {
        if number > self.through {
            self.above.insert(number, seq);
            self.close();
        }
    }

    /// Moves over the numbers that are here.
    fn close(&mut self) {
        while self.above.remove(&self.through.saturating_add(1)).is_some() {
            self.through += 1;
        }
    }

    /// The next hole that nothing late can fill any more.
    fn gap(&mut self, below: (u64, u32)) -> Option<(u64, u64)> {
        let (&number, _) = self
            .above
            .first_key_value()
            .filter(|_| self.above.len() > MAX_ABOVE || self.above.values().any(|seq| is_below(*seq, below)))?;
        let gap = (self.through + 1, number - 1);
        self.through = number - 1;
        self.close();
        Some(gap)
    }
}

fn is_below(seq: Seq, below: (u64, u32)) -> bool {
    (seq.epoch, seq.position) < below
}

/// Decides what is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    mode: Mode,
    /// Nothing below this (epoch, position) can come late.
    below: (u64, u32),
    /// What the home has said is overdue: it may come late all the same.
    overdue: BTreeSet<(u64, u32)>,
    /// In strict mode: verified, and not handed out.
    held: BTreeMap<Seq, Item>,
    seen: BTreeSet<Digest>,
    numbers: BTreeMap<MailboxId, Numbers>,
}

impl Delivery {
    /// A delivery at the start of a log.
    pub fn new(mode: Mode) -> Delivery {
        Delivery::resume(mode, BTreeSet::new(), BTreeMap::new())
    }

    /// A delivery that goes on where `seen` was handed out before.
    pub fn resume(mode: Mode, seen: BTreeSet<Digest>, numbers: BTreeMap<MailboxId, Numbers>) -> Delivery {
        Delivery { mode, below: (0, 0), overdue: BTreeSet::new(), held: BTreeMap::new(), seen, numbers }
    }

    /// How many messages wait for their turn.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The numbers of one sender, to be kept.
    pub fn numbers(&self, sender: &MailboxId) -> Option<&Numbers> {
        self.numbers.get(sender)
    }

    /// A verified message.
    ///
    /// # Errors
    /// [`Violation::BelowSettled`] in strict mode, when its turn has passed and it was not overdue.
    pub fn message(&mut self, item: Item, out: &mut Vec<Out>) -> Result<(), Violation> {
        let late = is_below(item.seq, self.below);
        if self.mode == Mode::Live || (late && self.overdue.contains(&(item.seq.epoch, item.seq.position))) {
            self.hand_out(item, out);
            return Ok(());
        }
        if late {
            let (below_epoch, below_position) = self.below;
            return Err(Violation::BelowSettled { seq: item.seq, below_epoch, below_position });
        }
        self.held.insert(item.seq, item);
        Ok(())
    }

    /// The batch at this (epoch, position) is overdue. Returns whether that is new.
    pub fn overdue(&mut self, at: (u64, u32)) -> bool {
        self.overdue.insert(at)
    }

    /// From now on nothing below this (epoch, position) comes late.
    pub fn settled(&mut self, below: (u64, u32), out: &mut Vec<Out>) {
        self.below = self.below.max(below);
        let bound = Seq { epoch: self.below.0, position: self.below.1, index: 0 };
        let rest = self.held.split_off(&bound);
        for item in std::mem::replace(&mut self.held, rest).into_values() {
            self.hand_out(item, out);
        }
        for (sender, numbers) in &mut self.numbers {
            while let Some((from, to)) = numbers.gap(self.below) {
                out.push(Out::Gap { sender: *sender, from, to });
            }
        }
    }

    fn hand_out(&mut self, item: Item, out: &mut Vec<Out>) {
        if !self.seen.insert(item.id) {
            out.push(Out::Repeat(item.index));
            return;
        }
        if let Some(number) = item.number {
            self.numbers.entry(item.sender).or_default().take(number, item.seq);
        }
        out.push(Out::Message(item.index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::SecretKey;

    fn item(index: u64, epoch: u64, id: u8, number: u64) -> Item {
        Item {
            index,
            seq: Seq { epoch, position: 0, index: 0 },
            id: Digest([id; 32]),
            sender: SecretKey::from_seed([1; 32]).public(),
            number: Some(number),
        }
    }

    fn gap(from: u64, to: u64) -> Out {
        Out::Gap { sender: item(0, 0, 0, 0).sender, from, to }
    }

    #[test]
    fn live_hands_out_at_once_and_knows_copies() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(0, 5, 1, 1), &mut out).unwrap();
        delivery.message(item(1, 4, 2, 2), &mut out).unwrap();
        delivery.message(item(2, 6, 1, 1), &mut out).unwrap();
        assert_eq!(out, [Out::Message(0), Out::Message(1), Out::Repeat(2)]);
    }

    #[test]
    fn strict_waits_and_never_goes_back() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Strict), Vec::new());
        delivery.message(item(0, 5, 1, 2), &mut out).unwrap();
        delivery.settled((4, 0), &mut out);
        assert_eq!(out, []);
        delivery.message(item(1, 4, 2, 1), &mut out).unwrap();
        delivery.settled((6, 0), &mut out);
        assert_eq!(out, [Out::Message(1), Out::Message(0)]);
        let late = delivery.message(item(2, 3, 3, 3), &mut out);
        assert!(matches!(late, Err(Violation::BelowSettled { .. })));
    }

    #[test]
    fn a_hole_is_reported_once_and_only_when_nothing_late_can_fill_it() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(0, 5, 1, 1), &mut out).unwrap();
        delivery.message(item(1, 6, 2, 4), &mut out).unwrap();
        delivery.message(item(2, 7, 3, 6), &mut out).unwrap();
        delivery.settled((6, 0), &mut out);
        assert_eq!(out.split_off(3), []);
        out.clear();
        delivery.settled((9, 0), &mut out);
        assert_eq!(out, [gap(2, 3), gap(5, 5)]);
        out.clear();
        delivery.settled((10, 0), &mut out);
        delivery.message(item(3, 11, 4, 2), &mut out).unwrap();
        delivery.settled((12, 0), &mut out);
        assert_eq!(out, [Out::Message(3)]);
    }

    #[test]
    fn a_late_message_closes_its_hole_in_time() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(0, 6, 1, 2), &mut out).unwrap();
        delivery.settled((5, 0), &mut out);
        delivery.message(item(1, 5, 2, 1), &mut out).unwrap();
        delivery.settled((9, 0), &mut out);
        assert_eq!(out, [Out::Message(0), Out::Message(1)]);
    }
}
