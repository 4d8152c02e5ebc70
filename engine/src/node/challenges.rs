//! Challenges (rules 9 and 10): asking in public for what is owed and cannot be had, answering for what is held, and
//! saying so when it is lost.

use postroad_protocol::challenge::{Challenge, Lost};
use postroad_protocol::record::Record;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{MAX_ROUNDS, PendingKey};
use postroad_protocol::wire::mail::Outward;
use postroad_protocol::{Digest, Signed, Verified};
use postroad_store::{Read, StoreError};

use super::{Node, Phase};
use crate::io::{Held, Output, Report, Time};
use crate::serve;
use crate::slices::load_body;

/// Challenges that this node answers in one round of housekeeping: an answer carries a whole slice.
const MAX_ANSWERS: usize = 4;

/// For how many times challenge_ms a node looks for a slice that it has signed for, before it says that it lost it: those
/// who have it may be away, and what was said cannot be taken back.
const LOSS_PATIENCE: u64 = 10;

impl Node {
    /// A round of housekeeping. What is handed in and not settled is handed in again in the next round.
    pub(super) fn pursue_challenges(
        &mut self,
        time: Time,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        if self.phase == Phase::Joining || self.draining || !self.follows() {
            return Ok(());
        }
        // Holders may be starting as well, or on their way back.
        let patience_ms = self.config.federation.params().challenge_ms / 4;
        if self.here_since.is_some_and(|since| time.since_ms(since) >= patience_ms) {
            self.challenge(out);
        }
        self.admit_loss(out);
        self.rounds += 1;
        self.answer_challenges(store, out)
    }

    /// Challenges the holders of slices for this node that nobody had when they were last asked for.
    fn challenge(&mut self, out: &mut Vec<Output>) {
        let head = self.ledger.head();
        let federation = &self.config.federation;
        let open = head.open_challenges(&self.me, federation);
        let max = federation.params().max_challenges_per_node;
        let records: Vec<_> = (self.receiver.unobtainable())
            .map(|slice| PendingKey { destination: self.me, header: slice.header })
            .filter(|key| head.challenge(key).is_none())
            .filter_map(|key| Some((key, head.pending(&key)?.rounds)))
            .filter(|(_, rounds)| *rounds < MAX_ROUNDS)
            .take(max.saturating_sub(open) as usize)
            .map(|(key, round)| {
                self.sign_record(Challenge { destination: self.me, header: key.header, round }, Record::Challenge)
            })
            .collect();
        for record in records {
            self.hand_in_record(record, out);
        }
    }

    /// A slice that this node has signed for, and that neither its disk nor anybody else has had for a long time, is
    /// lost. Nothing that comes after it can be delivered before that is settled.
    fn admit_loss(&mut self, out: &mut Vec<Output>) {
        let params = self.config.federation.params();
        let age_ms = self.ledger.head().age_ms;
        let Some(slice) = self.receiver.missing() else {
            self.missing_since = None;
            return;
        };
        let since = match self.missing_since {
            Some((header, since)) if header == slice.header => since,
            _ => self.missing_since.insert((slice.header, age_ms)).1,
        };
        if age_ms > since.saturating_add(params.challenge_ms.saturating_mul(LOSS_PATIENCE)) {
            self.hand_in_loss(&slice, out);
        }
    }

    pub(super) fn hand_in_loss(&mut self, slice: &SliceKey, out: &mut Vec<Output>) {
        let lost = Lost { holder: self.me, destination: slice.destination, header: slice.header };
        let reason = format!("batch {} of {} for {} is lost here", slice.number, slice.origin, slice.destination);
        out.push(Output::Report(Report::Refused { peer: None, reason }));
        let record = self.sign_record(lost, Record::Lost);
        self.hand_in_record(record, out);
    }

    fn sign_record<T: Statement>(&self, body: T, record: impl Fn(Signed<T>) -> Record) -> Verified<Record> {
        let signed = Signed::sign(body, &self.config.secret, &self.config.federation).into_inner();
        Verified::from_own_disk(record(signed))
    }

    /// Hands the slices for which this node is asked to a witness, another one in every round; where nobody can be a
    /// witness, this node signs itself.
    fn answer_challenges(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let head = self.ledger.head();
        let federation = &self.config.federation;
        let asked: Vec<_> = (head.challenges())
            .filter_map(|(key, challenged)| Some((*key, challenged.challenge, head.pending(key)?)))
            .filter(|(key, _, pending)| {
                pending.asked().any(|node| node == self.me)
                    && !pending.lost.contains(&self.me)
                    && !head.is_overdue(key, federation)
            })
            .map(|(key, challenge, pending)| {
                let slice = SliceKey {
                    origin: pending.origin,
                    number: pending.number,
                    header: key.header,
                    destination: key.destination,
                };
                (slice, challenge, pending.slice, head.witnesses(&key))
            })
            .collect();
        let turn = if asked.is_empty() { 0 } else { self.rounds % asked.len() };
        for (slice, challenge, root, witnesses) in asked.iter().cycle().skip(turn).take(asked.len().min(MAX_ANSWERS)) {
            #[cfg(feature = "cheat")]
            if self.withholds(slice) {
                continue;
            }
            let parcel = match serve::slice(store, &self.me, &self.config.federation, slice) {
                Ok(Some(parcel)) => parcel,
                // One that is damaged is lost like one that is gone. What else it takes to hand it out can be mended.
                Ok(None) | Err(StoreError::Corrupt { .. }) => {
                    if !matches!(load_body(slice, &self.me, &self.config.federation, store), Ok(Some(_))) {
                        self.hand_in_loss(slice, out);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if witnesses.contains(&self.me) {
                let token = self.next_token();
                self.receiver.answer(*slice, *root, *challenge, token);
                out.push(Output::Persist(token, Vec::new()));
                continue;
            }
            let reached: Vec<_> = witnesses.iter().filter(|node| self.router.peers.is_connected(node)).collect();
            if let Some(witness) = reached.get(self.rounds % reached.len().max(1)) {
                out.push(Output::ToHolder(**witness, Box::new(Outward::Slice(Box::new(parcel)))));
            }
        }
        Ok(())
    }

    /// The open challenge to which this slice is an answer that this node may witness.
    pub(super) fn witnessed(&self, held: &Held) -> Option<Digest> {
        let head = self.ledger.head();
        let key = PendingKey { destination: held.key.destination, header: held.key.header };
        let challenged = head.challenge(&key)?;
        let fits = held.parcel.header.body.slice(&key.destination)?.root == head.pending(&key)?.slice;
        (fits && head.witnesses(&key).contains(&self.me)).then_some(challenged.challenge)
    }
}
