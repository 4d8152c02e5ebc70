//! How challenges are settled (rules 9 and 10): who may ask, whose answer counts, when a slice is overdue, who is
//! suspected. Nothing here convicts: silence is not guilt.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::challenge::{Challenge, Lost};
use crate::crypto::NodeId;
use crate::digest::Digest;
use crate::genesis::Federation;
use crate::receipt::Receipt;
use crate::signed::Signed;

use super::apply::{Draft, Invalid};
use super::{LostSlice, Pending, PendingKey, State, StateKey};

/// A slice for which so many challenges were answered, and that was not filled, is asked for no more.
pub const MAX_ROUNDS: u32 = 3;
/// How many nodes may witness an answer: the first by hash.
pub const MAX_WITNESSES: usize = 3;
/// Slices that one destination may lose, of those that it has signed for, in one cut.
const MAX_LOSSES: u32 = 8;
/// And of which the state remembers it, until retention.
const MAX_LOST: u64 = 1_024;
/// Slices that are overdue and past retention are removed in the cuts whose epoch is a multiple of this.
pub const SWEEP_EPOCHS: u64 = 256;

/// An open challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Challenged {
    /// The epoch that settled it.
    #[n(0)]
    pub epoch: u64,
    /// The age of that cut.
    #[n(1)]
    pub age_ms: u64,
    /// The hash of the cut before, by which witnesses are ranked: nobody knew it when the header was made.
    #[n(2)]
    pub seed: Digest,
    /// The challenge's digest, which the witness's receipt names.
    #[n(3)]
    pub challenge: Digest,
}

/// Why a node is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// It has signed for a slice (or sealed it), was challenged for it, and no answer is settled.
    #[n(0)]
    Unanswered,
    /// It was given the slice for which it asked, or never asked for it, and has not signed for it.
    #[n(1)]
    Unfilled,
    /// Its attestations stay behind the cuts.
    #[n(2)]
    Lapsed,
}

/// A public suspicion. It ends when what is missing is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Suspicion {
    /// Who is suspected.
    #[n(0)]
    pub node: NodeId,
    /// Of what.
    #[n(1)]
    pub reason: Reason,
    /// Since which epoch.
    #[n(2)]
    pub since: u64,
    /// The slice in question, if there is one.
    #[n(3)]
    pub slice: Option<PendingKey>,
}

impl State {
    /// An open challenge.
    pub fn challenge(&self, key: &PendingKey) -> Option<&Challenged> {
        self.challenges.get(key)
    }

    /// All open challenges, in the order of their hashed keys.
    pub fn challenges(&self) -> impl Iterator<Item = (&PendingKey, &Challenged)> {
        self.challenges.iter()
    }

    /// Whether a pending slice is overdue: it was challenged and nobody answered in time, or all who could have it have
    /// said that they lost it, or it was answered for as often as it may be and is not filled. Once it is, it stays so
    /// until it is filled.
    pub fn is_overdue(&self, key: &PendingKey, federation: &Federation) -> bool {
        let Some(pending) = self.pending.get(key) else { return false };
        let is_past = |age_ms: u64| self.age_ms > age_ms.saturating_add(federation.params().challenge_ms);
        match self.challenges.get(key) {
            Some(challenged) => is_past(challenged.age_ms) || pending.asked().all(|node| pending.lost.contains(&node)),
            None => pending.rounds >= MAX_ROUNDS && pending.answered.is_some_and(|(_, age_ms)| is_past(age_ms)),
        }
    }

    /// How many open challenges of a destination are not overdue.
    pub fn open_challenges(&self, destination: &NodeId, federation: &Federation) -> u64 {
        let of_destination = self.challenges().filter(|(key, _)| key.destination == *destination);
        of_destination.filter(|(key, _)| !self.is_overdue(key, federation)).count() as u64
    }

    /// Who may witness the answer to an open challenge: of the started nodes that are not lapsed and no party to the
    /// slice, the first three by hash; where there are none, those who were asked.
    pub fn witnesses(&self, key: &PendingKey) -> Vec<NodeId> {
        let (Some(challenged), Some(pending)) = (self.challenges.get(key), self.pending.get(key)) else {
            return Vec::new();
        };
        let party = |node: &NodeId| *node == key.destination || pending.asked().any(|asked| asked == *node);
        let mut ranked: Vec<(Digest, NodeId)> = (self.nodes())
            .filter(|(node, known)| known.incarnation > 0 && known.lapsed.is_none() && !party(node))
            .map(|(node, _)| (Digest::tagged("witness-rank", &[&challenged.seed.0, &node.0]), *node))
            .collect();
        if ranked.is_empty() {
            return pending.asked().collect();
        }
        ranked.sort();
        ranked.into_iter().take(MAX_WITNESSES).map(|(_, node)| node).collect()
    }

    /// Everybody who is suspected now, and of what.
    pub fn suspicions(&self, federation: &Federation) -> Vec<Suspicion> {
        let mut found = Vec::new();
        for (node, known) in self.nodes() {
            if let Some(since) = known.lapsed {
                found.push(Suspicion { node: *node, reason: Reason::Lapsed, since, slice: None });
            }
        }
        for (key, challenged) in self.challenges() {
            let Some(pending) = self.pending.get(key) else { continue };
            for node in pending.asked().filter(|node| !pending.lost.contains(node)) {
                let since = challenged.epoch;
                found.push(Suspicion { node, reason: Reason::Unanswered, since, slice: Some(*key) });
            }
        }
        let owed_ms = federation.params().challenge_ms;
        let mut idle: BTreeMap<NodeId, (u64, PendingKey)> = BTreeMap::new();
        for (key, pending) in self.all_pending() {
            if let Some((since, age_ms)) = pending.answered
                && !self.challenges.contains(key)
                && self.age_ms > age_ms.saturating_add(owed_ms)
            {
                let node = key.destination;
                found.push(Suspicion { node, reason: Reason::Unfilled, since, slice: Some(*key) });
            }
            let is_old = self.age_ms > pending.age_ms.saturating_add(owed_ms.saturating_mul(2));
            if is_old && pending.answered.is_none() && !self.challenges.contains(key) {
                let oldest = idle.entry(key.destination).or_insert((pending.epoch, *key));
                *oldest = (*oldest).min((pending.epoch, *key));
            }
        }
        // Whoever is away has many of these: the oldest stands for all.
        found.extend(idle.into_iter().map(|(node, (since, slice))| Suspicion {
            node,
            reason: Reason::Unfilled,
            since,
            slice: Some(slice),
        }));
        found
    }
}

impl Pending {
    /// Who is asked for the slice when it is challenged: its holders and its origin.
    pub fn asked(&self) -> impl Iterator<Item = NodeId> + '_ {
        let origin = (!self.holders.contains(&self.origin)).then_some(self.origin);
        self.holders.iter().copied().chain(origin)
    }
}

impl Draft {
    pub(super) fn challenge(&mut self, signed: &Signed<Challenge>) -> Result<(), Invalid> {
        let Challenge { destination, header, round } = signed.body;
        let no = |reason| Err(Invalid::Challenge { reason });
        let key = PendingKey { destination, header };
        let Some(pending) = self.state.pending.get(&key) else {
            return no("the slice is not pending");
        };
        if self.state.challenges.contains(&key) {
            return no("the slice is challenged already");
        }
        if round != pending.rounds {
            return no("its round is not the number of answers that the slice has had");
        }
        if round >= MAX_ROUNDS {
            return no("the slice was answered for often enough");
        }
        let open = self.state.open_challenges(&destination, &self.federation);
        if open >= self.federation.params().max_challenges_per_node {
            return no("its destination has max_challenges_per_node open challenges");
        }
        let value = Challenged {
            epoch: self.state.epoch,
            age_ms: self.state.age_ms,
            seed: self.state.cut,
            challenge: signed.digest(&self.federation),
        };
        self.touched.insert(StateKey::Challenge(key));
        self.state.challenges.insert(key, value);
        Ok(())
    }

    pub(super) fn answer(&mut self, receipt: &Receipt) -> Result<(), Invalid> {
        let no = |reason| Err(Invalid::Challenge { reason });
        let item = &receipt.item;
        let key = PendingKey { destination: item.destination, header: item.header };
        let (Some(challenged), Some(pending)) = (self.state.challenges.get(&key), self.state.pending.get(&key)) else {
            return no("nothing is challenged that it answers");
        };
        if item.request != Some(challenged.challenge) || item.slice != pending.slice || !item.refused.is_empty() {
            return no("the receipt is not for the challenged slice");
        }
        if self.state.is_overdue(&key, &self.federation) {
            return no("the slice is overdue; only its fill ends that");
        }
        if !self.state.witnesses(&key).contains(&receipt.holder()) {
            return no("the receipt is not a witness's");
        }
        let mut pending = pending.clone();
        self.receipt(receipt, None)?;
        if !pending.holders.contains(&receipt.holder()) {
            pending.holders.push(receipt.holder());
        }
        pending.rounds += 1;
        pending.answered = Some((self.state.epoch, self.state.age_ms));
        self.set_pending(key, pending);
        self.close_challenge(&key);
        Ok(())
    }

    pub(super) fn lost(&mut self, lost: &Lost) -> Result<(), Invalid> {
        let Lost { holder, destination, header } = *lost;
        let mut known = self.started(&holder)?.clone();
        let key = PendingKey { destination, header };
        let Some(pending) = self.state.pending.get(&key) else {
            if holder != destination {
                return Err(Invalid::Challenge { reason: "the slice is not pending" });
            }
            // The state forgets a slice that its destination has signed for; that the destination speaks against itself
            // needs no proof, but it costs a place in the cut. What is settled here clears it of having dropped the mail.
            if self.state.losses.contains(&key) {
                return Err(Invalid::Challenge { reason: "its destination has said so before" });
            }
            let losses = self.losses.entry(holder).or_default();
            if *losses >= MAX_LOSSES {
                return Err(Invalid::Challenge { reason: "its holder has lost as many slices as one cut settles" });
            }
            if known.lost >= MAX_LOST {
                return Err(Invalid::Challenge { reason: "its holder has lost as many slices as the state remembers" });
            }
            *losses += 1;
            known.lost += 1;
            self.set_node(holder, known);
            self.touched.insert(StateKey::Lost(key));
            self.state.losses.insert(key, LostSlice { epoch: self.state.epoch, age_ms: self.state.age_ms });
            return Ok(());
        };
        if !pending.asked().any(|node| node == holder) || pending.lost.contains(&holder) {
            return Err(Invalid::Challenge { reason: "it is no holder of the slice, or has said so before" });
        }
        let mut pending = pending.clone();
        pending.lost.push(holder);
        self.set_pending(key, pending);
        Ok(())
    }

    /// Removes what is overdue, or lost, and past retention.
    pub(super) fn sweep(&mut self) {
        if !self.state.epoch.is_multiple_of(SWEEP_EPOCHS) {
            return;
        }
        let retention_ms = self.federation.params().retention_ms;
        let past: Vec<PendingKey> = (self.state.all_pending())
            .filter(|(_, slice)| self.state.age_ms > slice.age_ms.saturating_add(retention_ms))
            .map(|(key, _)| *key)
            .filter(|key| self.state.is_overdue(key, &self.federation))
            .collect();
        for key in past {
            self.close_pending(&key);
        }
        let past: Vec<PendingKey> = (self.state.losses.iter())
            .filter(|(_, lost)| self.state.age_ms > lost.age_ms.saturating_add(retention_ms))
            .map(|(key, _)| *key)
            .collect();
        for key in past {
            self.state.losses.remove(&key);
            self.touched.insert(StateKey::Lost(key));
            if let Some(mut node) = self.state.nodes.get(&key.destination).cloned() {
                node.lost = node.lost.saturating_sub(1);
                self.set_node(key.destination, node);
            }
        }
    }
}
