//! What the application gets to see of a verified log, and when: a state machine without IO.
//!
//! *Live* hands a message out as soon as it is verified, and marks it when it comes late. *Strict* hands out only what
//! lies below every slice that can still come late, in ascending order of sequence number, and so never out of order.
//! Of several copies of one message the first handed out is mail; the others are repeats, as far as ids are remembered
//! ([`MAX_SEEN`]). Numbers per sender that are missing below that bound are gaps, each reported once, and once more when
//! it is closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use postroad_protocol::{Digest, MailboxId, NodeId, Seq};

use crate::control::Numbering;
use crate::numbers::{Closed, Hole, Numbers, is_below};
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
    /// Its place in the order.
    pub seq: Seq,
    /// Its end-to-end id.
    pub id: Digest,
    /// Who sent it.
    pub sender: MailboxId,
    /// Its origin.
    pub via: NodeId,
    /// Its number from that sender, if the library sealed it.
    pub numbering: Option<Numbering>,
}

/// What to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// The message at this place, for the first time.
    Message(Seq),
    /// The message at this place is a copy of one that was handed out.
    Repeat(Seq),
    /// A sender's numbers that should be here and are not.
    Gap {
        /// The sender.
        sender: MailboxId,
        /// The first missing number.
        from: u64,
        /// The last missing number.
        to: u64,
    },
    /// They are missing no more.
    Closed {
        /// The sender.
        sender: MailboxId,
        /// The first number.
        from: u64,
        /// The last number.
        to: u64,
        /// Why.
        why: Closed,
    },
}

/// How many ids are remembered, to know copies.
pub const MAX_SEEN: usize = 4_096;

/// Decides what is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    mode: Mode,
    /// Nothing below this (epoch, position) can come late.
    below: (u64, u32),
    /// The same as a former home had said it. What it has kept back may come late all the same: the new home is not
    /// guilty of that.
    former: (u64, u32),
    /// What the home has said is overdue: it may come late all the same.
    overdue: BTreeSet<(u64, u32)>,
    /// In strict mode: verified, and not handed out.
    held: BTreeMap<Seq, Item>,
    seen: BTreeSet<Digest>,
    /// The same, oldest first.
    order: VecDeque<Digest>,
    numbers: BTreeMap<MailboxId, Numbers>,
    /// Entries of this log were never read here: what a new sender's first number is says nothing.
    blind: bool,
}

impl Delivery {
    /// A delivery at the start of a log.
    pub fn new(mode: Mode) -> Delivery {
        Delivery::resume(mode, Vec::new(), BTreeMap::new(), false)
    }

    /// A delivery that goes on where `seen` was handed out before, oldest first; `blind` if entries were skipped.
    pub fn resume(mode: Mode, seen: Vec<Digest>, numbers: BTreeMap<MailboxId, Numbers>, blind: bool) -> Delivery {
        Delivery {
            mode,
            below: (0, 0),
            former: (0, 0),
            overdue: BTreeSet::new(),
            held: BTreeMap::new(),
            seen: seen.iter().copied().collect(),
            order: seen.into(),
            numbers,
            blind,
        }
    }

    /// Whether entries of this log were never read here.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Entries are skipped that will never be read here: holes that they leave mean nothing.
    pub fn skipped(&mut self) {
        self.blind = true;
        self.numbers.values_mut().for_each(Numbers::skip);
    }

    /// All senders whose numbers are known.
    pub fn senders(&self) -> impl Iterator<Item = &MailboxId> {
        self.numbers.keys()
    }

    /// Everything that is missing.
    pub fn holes(&self) -> impl Iterator<Item = (MailboxId, Hole)> + '_ {
        self.numbers.iter().flat_map(|(sender, numbers)| numbers.holes().map(|hole| (*sender, hole)))
    }

    /// The sender was asked about the hole that begins here.
    pub fn asked(&mut self, sender: &MailboxId, from: u64) {
        self.numbers.entry(*sender).and_modify(|numbers| numbers.asked(from));
    }

    /// Why these numbers of a sender are not here is known.
    pub fn explained(&mut self, sender: &MailboxId, number: u64, why: Closed, out: &mut Vec<Out>) {
        if let Some(numbers) = self.numbers.get_mut(sender) {
            close(*sender, numbers.explained(number, number, why), out);
        }
    }

    /// The mailbox lives elsewhere now.
    pub fn moved(&mut self) {
        self.former = self.below;
        self.overdue.clear();
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
        let excused = is_below(item.seq, self.former) || self.overdue.contains(&(item.seq.epoch, item.seq.position));
        if self.mode == Mode::Live || (late && excused) {
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
            out.push(Out::Repeat(item.seq));
            return;
        }
        self.order.push_back(item.id);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        out.push(Out::Message(item.seq));
        if let Some(numbering) = &item.numbering {
            let numbers = self.numbers.entry(item.sender).or_insert_with(|| Numbers::new(self.blind));
            close(item.sender, numbers.take(numbering, item.seq, item.via), out);
        }
    }
}

fn close(sender: MailboxId, closed: Vec<(u64, u64, Closed)>, out: &mut Vec<Out>) {
    out.extend(closed.into_iter().map(|(from, to, why)| Out::Closed { sender, from, to, why }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::SecretKey;

    fn seq(epoch: u64) -> Seq {
        Seq { epoch, position: 0, index: 0 }
    }

    fn item(epoch: u64, id: u8, number: u64) -> Item {
        Item {
            seq: seq(epoch),
            id: Digest([id; 32]),
            sender: SecretKey::from_seed([1; 32]).public(),
            via: SecretKey::from_seed([2; 32]).public(),
            numbering: Some(Numbering { number, ..Numbering::default() }),
        }
    }

    fn gap(from: u64, to: u64) -> Out {
        Out::Gap { sender: item(0, 0, 0).sender, from, to }
    }

    #[test]
    fn live_hands_out_at_once_and_knows_copies() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(5, 1, 1), &mut out).unwrap();
        delivery.message(item(4, 2, 2), &mut out).unwrap();
        delivery.message(item(6, 1, 1), &mut out).unwrap();
        assert_eq!(out, [Out::Message(seq(5)), Out::Message(seq(4)), Out::Repeat(seq(6))]);
    }

    #[test]
    fn strict_waits_and_never_goes_back() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Strict), Vec::new());
        delivery.message(item(5, 1, 2), &mut out).unwrap();
        delivery.settled((4, 0), &mut out);
        assert_eq!(out, []);
        delivery.message(item(4, 2, 1), &mut out).unwrap();
        delivery.settled((6, 0), &mut out);
        assert_eq!(out, [Out::Message(seq(4)), Out::Message(seq(5))]);
        let late = delivery.message(item(3, 3, 3), &mut out);
        assert!(matches!(late, Err(Violation::BelowSettled { .. })));
    }

    #[test]
    fn what_a_former_home_kept_back_comes_late_and_is_no_violation() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Strict), Vec::new());
        delivery.settled((6, 0), &mut out);
        delivery.moved();
        delivery.message(item(5, 1, 1), &mut out).unwrap();
        assert_eq!(out, [Out::Message(seq(5))]);
        delivery.settled((8, 0), &mut out);
        let late = delivery.message(item(7, 2, 2), &mut out);
        assert!(matches!(late, Err(Violation::BelowSettled { .. })));
    }

    #[test]
    fn a_hole_is_reported_once_and_only_when_nothing_late_can_fill_it() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(5, 1, 1), &mut out).unwrap();
        delivery.message(item(6, 2, 4), &mut out).unwrap();
        delivery.message(item(7, 3, 6), &mut out).unwrap();
        delivery.settled((6, 0), &mut out);
        assert_eq!(out.split_off(3), []);
        out.clear();
        delivery.settled((9, 0), &mut out);
        assert_eq!(out, [gap(2, 3), gap(5, 5)]);
        out.clear();
        delivery.settled((10, 0), &mut out);
        delivery.message(item(11, 4, 2), &mut out).unwrap();
        delivery.settled((12, 0), &mut out);
        let closed = Out::Closed { sender: item(0, 0, 0).sender, from: 2, to: 2, why: Closed::Arrived };
        assert_eq!(out, [Out::Message(seq(11)), closed]);
    }

    #[test]
    fn a_late_message_closes_its_hole_in_time() {
        let (mut delivery, mut out) = (Delivery::new(Mode::Live), Vec::new());
        delivery.message(item(6, 1, 2), &mut out).unwrap();
        delivery.settled((5, 0), &mut out);
        delivery.message(item(5, 2, 1), &mut out).unwrap();
        delivery.settled((9, 0), &mut out);
        assert_eq!(out, [Out::Message(seq(6)), Out::Message(seq(5))]);
    }
}
