//! The end of the log that a move may make come again.
//!
//! A new home continues a log that its former home has attested finally: perhaps not all that was read here. So the
//! leaves since such an attestation are kept, that the log can be taken back to any size from there on. The attestation
//! itself, all of whose log the application has acknowledged, is what the owner can hand to a new home when the old one
//! does not ([`OwnerBase`](postroad_protocol::moving::OwnerBase)).
//!
//! Leaves are kept since the attestation *before* that one: who reads the one while a newer takes its place can still
//! use it. While a move away from here is under way, nothing is let go.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{LogLeaf, MailboxAttestation};
use postroad_protocol::merkle::log::Frontier;

/// What a new home may continue.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct Based {
    /// A final attestation of the home.
    #[n(0)]
    pub(crate) attested: MailboxAttestation,
    /// The right edge of the log that it names.
    #[n(1)]
    pub(crate) frontier: Frontier,
}

/// What is stored in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Floor {
    /// The log before the first leaf that is kept.
    #[n(0)]
    log: Frontier,
    /// The last leaf of it.
    #[n(1)]
    before: Option<LogLeaf>,
    #[n(2)]
    base: Option<Based>,
}

/// The leaves up to the first entry that the application does not have.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    floor: Floor,
    leaves: VecDeque<LogLeaf>,
    /// A final attestation of more than the application has; the first such one, so that one is reached some day.
    next: Option<MailboxAttestation>,
    /// The rows on the disk: from the first index to before the last.
    stored: (u64, u64),
}

impl Tail {
    /// As it was stored.
    pub(super) fn resume(floor: Floor, leaves: Vec<LogLeaf>) -> Tail {
        let first = floor.log.size();
        let stored = (first, first + leaves.len() as u64);
        Tail { floor, leaves: leaves.into(), next: None, stored }
    }

    /// Everything up to `log` is forgotten, and nothing is known that could be continued.
    pub(super) fn reset(&mut self, log: Frontier, before: Option<LogLeaf>) {
        self.leaves.clear();
        self.floor = Floor { log, before, base: None };
    }

    pub(super) fn floor(&self) -> &Floor {
        &self.floor
    }

    pub(super) fn base(&self) -> Option<&Based> {
        self.floor.base.as_ref()
    }

    /// The first index behind it.
    pub(super) fn end(&self) -> u64 {
        self.floor.log.size() + self.leaves.len() as u64
    }

    /// The application has the next entry.
    pub(super) fn push(&mut self, leaf: LogLeaf) {
        self.leaves.push_back(leaf);
    }

    /// The log when it had `size` entries, and the last of them; none if that is not known.
    pub(super) fn edge_at(&self, size: u64) -> Option<(Frontier, Option<LogLeaf>)> {
        let count = usize::try_from(size.checked_sub(self.floor.log.size())?).ok()?;
        if count > self.leaves.len() {
            return None;
        }
        let mut log = self.floor.log.clone();
        let mut before = self.floor.before;
        for leaf in self.leaves.iter().take(count) {
            log.append(leaf.hash());
            before = Some(*leaf);
        }
        Some((log, before))
    }

    /// The log has `size` entries again. Returns the leaves beyond that.
    pub(super) fn roll_back(&mut self, size: u64) -> Vec<LogLeaf> {
        let count = size.saturating_sub(self.floor.log.size()) as usize;
        self.next = None;
        self.leaves.split_off(count.min(self.leaves.len())).into()
    }

    /// The home has attested this, finally. Unless `is_frozen`, it takes the place of the base once the application has
    /// all of it. Returns whether it has.
    pub(super) fn attested(&mut self, last_final: Option<&MailboxAttestation>, is_frozen: bool) -> bool {
        if is_frozen {
            return false;
        }
        let next = self.next.take().or_else(|| last_final.cloned());
        let Some(next) = next else { return false };
        let known = self.base().map(|base| &base.attested);
        if known.is_some_and(|known| known.attestation == next.attestation) {
            return false;
        }
        let size = next.log.log.size;
        if size > self.end() {
            self.next = Some(next);
            return false;
        }
        // One that is not of this log is a violation, and told as such.
        let Some((frontier, _)) = self.edge_at(size).filter(|(log, _)| log.root() == next.log.log.root) else {
            return false;
        };
        if let Some(before) = self.floor.base.replace(Based { attested: next, frontier })
            && let Some((log, last)) = self.edge_at(before.frontier.size())
        {
            self.leaves.drain(..(log.size() - self.floor.log.size()) as usize);
            (self.floor.log, self.floor.before) = (log, last);
        }
        true
    }

    /// What has changed since it was stored: leaves to write, each with its index, and indices to delete.
    pub(super) fn changes(&self) -> (Vec<(u64, LogLeaf)>, Vec<u64>) {
        let (first, end) = (self.floor.log.size(), self.end());
        let (from, to) = self.stored;
        let put = (first..end).zip(&self.leaves).filter(|(index, _)| !(from..to).contains(index));
        let gone = (from..to).filter(|index| !(first..end).contains(index));
        (put.map(|(index, leaf)| (index, *leaf)).collect(), gone.collect())
    }

    /// It is stored as it is.
    pub(super) fn is_stored(&mut self) {
        self.stored = (self.floor.log.size(), self.end());
    }

    /// The rows beyond `size` on the disk are of another log now.
    pub(super) fn is_rewritten(&mut self, size: u64) -> Vec<u64> {
        let (from, to) = self.stored;
        let cut = size.clamp(from, to.max(from));
        self.stored.1 = cut;
        (cut..to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Delivered, Order};

    fn leaf(order: &Order, delivered: &Delivered) -> LogLeaf {
        let placed = delivered.entry.proof.verify(&delivered.cut.header, &order.federation).unwrap();
        LogLeaf { settled: delivered.entry.settled, seq: placed.seq, message: placed.id, own: placed.own }
    }

    fn deliver(order: &mut Order, tail: &mut Tail, count: usize) {
        for delivered in order.deliver(&vec!["x"; count]) {
            tail.push(leaf(order, &delivered));
        }
    }

    fn final_word(order: &mut Order) -> MailboxAttestation {
        let attested = order.attest();
        order.anchor(attested)
    }

    #[test]
    fn it_reaches_back_to_the_base_before_the_last_and_no_further() {
        let (mut order, mut tail) = (Order::new(), Tail::default());
        let mut edges = Vec::new();
        for _ in 0..3 {
            deliver(&mut order, &mut tail, 2);
            let word = final_word(&mut order);
            assert!(tail.attested(Some(&word), false));
            assert!(!tail.attested(Some(&word), false), "the same word again");
            edges.push(tail.base().unwrap().frontier.clone());
        }
        assert_eq!(tail.edge_at(4).map(|(log, _)| log), Some(edges[1].clone()));
        assert_eq!(tail.edge_at(5).map(|(log, _)| log.size()), Some(5));
        assert_eq!((tail.edge_at(2), tail.edge_at(7)), (None, None));
        let kept = tail.roll_back(5);
        assert_eq!((kept.len(), tail.end()), (1, 5));
    }

    #[test]
    fn while_a_move_is_under_way_nothing_is_let_go() {
        let (mut order, mut tail) = (Order::new(), Tail::default());
        for is_frozen in [false, true, true] {
            deliver(&mut order, &mut tail, 1);
            let word = final_word(&mut order);
            tail.attested(Some(&word), is_frozen);
        }
        assert_eq!(tail.base().unwrap().frontier.size(), 1);
        assert!(tail.edge_at(1).is_some());
    }

    #[test]
    fn a_word_about_more_than_the_application_has_waits_and_a_newer_one_does_not_displace_it() {
        let (mut order, mut tail) = (Order::new(), Tail::default());
        let ahead: Vec<LogLeaf> = order.deliver(&["one"]).iter().map(|it| leaf(&order, it)).collect();
        let first = final_word(&mut order);
        assert!(!tail.attested(Some(&first), false));
        let more: Vec<LogLeaf> = order.deliver(&["two"]).iter().map(|it| leaf(&order, it)).collect();
        let second = final_word(&mut order);
        assert!(!tail.attested(Some(&second), false));
        tail.push(ahead[0]);
        assert!(tail.attested(Some(&second), false));
        assert_eq!(tail.base().unwrap().attested, first);
        tail.push(more[0]);
        assert!(tail.attested(Some(&second), false));
    }

    #[test]
    fn what_is_written_and_deleted_is_what_has_changed() {
        let (mut order, mut tail) = (Order::new(), Tail::default());
        deliver(&mut order, &mut tail, 3);
        let indices = |tail: &Tail| {
            let (put, gone) = tail.changes();
            (put.into_iter().map(|(index, _)| index).collect::<Vec<_>>(), gone)
        };
        assert_eq!(indices(&tail), (vec![0, 1, 2], vec![]));
        tail.is_stored();
        deliver(&mut order, &mut tail, 1);
        assert_eq!(indices(&tail), (vec![3], vec![]));
        tail.is_stored();
        tail.roll_back(2);
        assert_eq!(tail.is_rewritten(2), [2, 3]);
        deliver(&mut order, &mut tail, 1);
        assert_eq!(indices(&tail), (vec![2], vec![]));
    }
}
