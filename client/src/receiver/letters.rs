//! Which questions may be asked and which are answered: a state machine without IO.
//!
//! Nobody may make a mailbox write without end, neither by leaving holes nor by asking: each other mailbox gets at most
//! [`MAX_ANSWERS`] questions and as many answers in an hour of cut time.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use postroad_protocol::MailboxId;

use crate::control::MAX_ANSWERS;

/// How many questions wait for their answers at most; more are not taken.
const MAX_DUTIES: usize = 64;
/// Of how many mailboxes it is remembered what they got; the oldest are forgotten first.
const MAX_RATES: usize = 256;
const HOUR_MS: u64 = 3_600_000;

/// A question that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Duty {
    #[n(0)]
    pub(super) peer: MailboxId,
    #[n(1)]
    pub(super) from: u64,
    #[n(2)]
    pub(super) to: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Rate {
    #[n(0)]
    since_ms: u64,
    #[n(1)]
    asked: u64,
    #[n(2)]
    answered: u64,
}

/// What is to be written to other mailboxes, and how much was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Letters {
    #[n(0)]
    duties: Vec<Duty>,
    #[n(1)]
    rates: BTreeMap<MailboxId, Rate>,
}

impl Letters {
    /// A mailbox asks about numbers of ours. Returns whether it will be answered, for some of them at least.
    pub(super) fn question(&mut self, peer: MailboxId, from: u64, to: u64, now_ms: u64) -> bool {
        let left = MAX_ANSWERS.saturating_sub(self.rate(peer, now_ms).answered);
        if from == 0 || to < from || left == 0 || self.duties.len() >= MAX_DUTIES {
            return false;
        }
        let to = to.min(from.saturating_add(left - 1));
        self.rate(peer, now_ms).answered += to - from + 1;
        self.duties.push(Duty { peer, from, to });
        true
    }

    /// The next question to be answered.
    pub(super) fn duty(&self) -> Option<Duty> {
        self.duties.first().copied()
    }

    /// One number of it is answered.
    pub(super) fn answered(&mut self) {
        if let Some(duty) = self.duties.first_mut()
            && duty.from < duty.to
        {
            duty.from += 1;
        } else if !self.duties.is_empty() {
            self.duties.remove(0);
        }
    }

    /// Whether a mailbox may be asked one more question.
    pub(super) fn may_ask(&mut self, peer: MailboxId, now_ms: u64) -> bool {
        self.rate(peer, now_ms).asked < MAX_ANSWERS
    }

    /// A mailbox was asked.
    pub(super) fn asked(&mut self, peer: MailboxId, now_ms: u64) {
        self.rate(peer, now_ms).asked += 1;
    }

    fn rate(&mut self, peer: MailboxId, now_ms: u64) -> &mut Rate {
        if !self.rates.contains_key(&peer)
            && self.rates.len() >= MAX_RATES
            && let Some(oldest) = self.rates.iter().min_by_key(|(_, rate)| rate.since_ms).map(|(peer, _)| *peer)
        {
            self.rates.remove(&oldest);
        }
        let rate = self.rates.entry(peer).or_default();
        if now_ms >= rate.since_ms.saturating_add(HOUR_MS) {
            *rate = Rate { since_ms: now_ms, ..Rate::default() };
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::PublicKey;

    const PEER: PublicKey = PublicKey([5; 32]);

    #[test]
    fn questions_are_answered_number_by_number_within_the_hour_s_bound() {
        let mut letters = Letters::default();
        assert!(letters.question(PEER, 3, 4, HOUR_MS));
        assert!(letters.question(PEER, 1, u64::MAX, HOUR_MS));
        assert!(!letters.question(PEER, 9, 9, HOUR_MS), "the hour's answers are used up");
        assert!(!letters.question(PublicKey([6; 32]), 4, 3, HOUR_MS), "no numbers");
        let mut numbers = Vec::new();
        while let Some(duty) = letters.duty() {
            numbers.push(duty.from);
            letters.answered();
        }
        assert_eq!(numbers, [3, 4].into_iter().chain(1..=14).collect::<Vec<_>>());
        assert!(letters.question(PEER, 9, 9, 2 * HOUR_MS));
    }

    #[test]
    fn a_sender_of_holes_is_not_asked_without_end_and_the_state_is_bounded() {
        let mut letters = Letters::default();
        let asked = (0..100).filter(|_| {
            let may = letters.may_ask(PEER, 7);
            letters.asked(PEER, 7);
            may
        });
        assert_eq!(asked.count() as u64, MAX_ANSWERS);
        for peer in 0..1_000_u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&peer.to_be_bytes());
            letters.question(PublicKey(key), 1, 1, u64::from(peer));
        }
        assert_eq!((letters.duties.len(), letters.rates.len()), (MAX_DUTIES, MAX_RATES));
    }
}
