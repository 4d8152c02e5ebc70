//! Following cuts: each is applied, written, and carried to every room that it concerns.

use std::sync::Arc;

use postroad_protocol::attestation::Anchor;
use postroad_protocol::cut::{Cut, HeaderProof};
use postroad_protocol::entry::OrderedProof;
use postroad_protocol::record::Record;
use postroad_protocol::wire::client::Answer;
use postroad_protocol::{Refusal, Verified};
use postroad_store::{Read, StoreError, Write};

use super::holding::holds;
use super::{Node, Phase};
use crate::inbox::BundleKey;
use crate::io::{Output, Report};
use crate::tables::{self, BATCHES, BUNDLES, CUTS, FORGOTTEN, META, PLACES, StoredBatch, Taken};

/// Cuts ahead of a missing one that are kept.
const MAX_EARLY_CUTS: usize = 256;

impl Node {
    /// A cut came. It is applied if it is the next one; a gap is fetched.
    pub(super) fn follow(
        &mut self,
        cut: Arc<Verified<Cut>>,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let epoch = cut.certified.header.epoch;
        let head = self.ledger.head().epoch;
        if epoch <= head {
            if !self.is_split(&cut, store, out)? {
                self.mend_cut(&cut, store, out)?;
            }
            return Ok(());
        }
        if self.halted {
            return Ok(());
        }
        if epoch > head + 1 {
            if self.early_cuts.len() < MAX_EARLY_CUTS {
                self.early_cuts.insert(epoch, cut);
            }
            if !self.fetching_cuts {
                self.fetching_cuts = true;
                out.push(Output::FetchCuts(head));
            }
            return Ok(());
        }
        let mut next = Some(cut);
        while let Some(cut) = next {
            if !self.apply_cut(&cut, store, out)? {
                break;
            }
            let head = self.ledger.head().epoch;
            self.early_cuts = self.early_cuts.split_off(&(head + 1));
            next = self.early_cuts.remove(&(head + 1));
        }
        self.check_start(store, out)?;
        self.pursue_start_after_catching_up(out);
        self.reseal_if_dead(store, out)?;
        self.pursue_pending(store, out)?;
        let early = std::mem::take(&mut self.early_slices);
        for (from, held) in early {
            self.slice(from, held, store, out)?;
        }
        out.push(Output::Applied(self.ledger.head().epoch, self.receiver.delivered()));
        Ok(())
    }

    /// A cut that was applied before comes again: if its row is damaged, it takes its place.
    fn mend_cut(&mut self, cut: &Verified<Cut>, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let key = tables::number_key(cut.certified.header.epoch);
        match store.get(CUTS, &key) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(StoreError::Corrupt { .. }) => {
                self.persist(vec![tables::put(CUTS, key, &**cut)], out);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The moment at which the last cut that the sequencer had is applied, the start can be handed in.
    fn pursue_start_after_catching_up(&mut self, out: &mut Vec<Output>) {
        if self.phase == Phase::Joining && self.sequencer_epoch == Some(self.ledger.head().epoch) {
            self.pursue_start(out);
        }
    }

    /// Applies the next cut. Returns whether it is valid.
    fn apply_cut(
        &mut self,
        cut: &Arc<Verified<Cut>>,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<bool, StoreError> {
        let mut writes = match self.ledger.apply(cut) {
            Ok(writes) => writes,
            Err(invalid) => {
                let reason = format!("a certified cut is not valid, and no more are followed: {invalid}");
                out.push(Output::Report(Report::Refused { peer: Some(self.config.federation.sequencer()), reason }));
                self.halted = true;
                self.unsound_cut((***cut).clone(), out);
                return Ok(false);
            }
        };
        for record in &cut.body.records {
            if let Record::Register(signed) = record {
                self.registered(signed, out);
            }
        }
        let headers = cut.body.headers.iter().map(|sealed| &sealed.header.body);
        out.push(Output::Report(Report::Cut {
            headers: cut.body.headers.len() as u64,
            messages: headers.map(|header| header.entries.messages).sum(),
            fills: cut.body.fills.len() as u64,
        }));
        self.audit_cut(cut, out);
        self.gate.cut(cut);
        writes.extend(self.deposits.cut(cut, self.ledger.head()));
        let left = self.residences(cut, &mut writes, out);
        writes.extend(self.receiver.cut(cut, left));
        #[cfg(feature = "cheat")]
        self.lose(cut, &mut writes, out);
        writes.extend(self.receiver.judge(self.ledger.head(), &mut self.gate));
        if cut.body.headers.iter().any(|sealed| sealed.header.body.origin == self.me) {
            for proof in cut.body.header_proofs(&self.config.federation) {
                if proof.header.body.origin == self.me {
                    self.included(cut, proof, &mut writes, out);
                }
            }
        }
        self.persist(writes, out);
        self.deliver(store, out)?;
        Ok(true)
    }

    /// A header of this node's was included: its senders get their places, its attestation is final.
    fn included(&mut self, cut: &Cut, order: HeaderProof, writes: &mut Vec<Write>, out: &mut Vec<Output>) {
        let federation = &self.config.federation;
        let certified = &cut.certified;
        let place = (certified.header.epoch, order.position);
        writes.push(tables::put(PLACES, tables::number_key(order.header.body.number), &place));
        if let Some(attestation) = order.header.body.attestation {
            let anchor = Anchor { cut: certified.clone(), header: order.clone() };
            if let Some(view) = self.outbox.anchored(attestation.number, anchor) {
                out.push(Output::Attested(view));
            }
        }
        let sealed = &cut.body.headers[order.position as usize];
        let weak = sealed.is_weak(federation);
        let entries = &order.header.body.entries;
        if entries.bundles > 0 {
            let (bundles, messages) = (u64::from(entries.bundles), entries.messages);
            out.push(Output::Report(Report::Ordered { bundles, messages }));
        }
        let Some(flight) = self.router.included(&order.header.digest(federation)) else {
            if let Phase::Started { .. } = self.phase {
                // A header of this node's that it does not know: its disk was set back to before it was sealed (rule 4).
                let started = self.ledger.head().node(&self.me).map_or(0, |known| known.started);
                let lowest = started + self.config.federation.params().validity_epochs + 1;
                self.inbox.forget_before(lowest);
                writes.push(tables::put(META, FORGOTTEN, &lowest));
            }
            return;
        };
        let mut first = 0;
        for (ordinal, ((key, count), path)) in flight.bundles.iter().zip(&flight.counts).zip(flight.paths).enumerate() {
            let messages = first..first + count;
            first = messages.end;
            let clients = self.inbox.finish(key);
            if clients.is_empty() {
                continue;
            }
            let (cut, order, ordinal) = (certified.clone(), order.clone(), ordinal as u32);
            let proof = OrderedProof { cut, order, ordinal, path, weak, custody: Vec::new() };
            let proof = proof.with_refusals(sealed, messages);
            for client in clients {
                out.push(Output::Answer(client, key.1, Box::new(Answer::Ordered(Box::new(proof.clone())))));
            }
        }
    }

    /// The proof for a bundle that was ordered before.
    pub(super) fn ordered_proof(&self, taken: &Taken, store: &dyn Read) -> Result<Option<OrderedProof>, StoreError> {
        let federation = &self.config.federation;
        let key = tables::number_key(taken.batch);
        let Some((epoch, position)) = tables::get::<(u64, u32)>(store, PLACES, &key)? else { return Ok(None) };
        let Some(batch) = tables::get::<StoredBatch>(store, BATCHES, &key)? else { return Ok(None) };
        let Some(cut) = tables::get::<Cut>(store, CUTS, &tables::number_key(epoch))? else { return Ok(None) };
        let order = cut.body.header_proofs(federation).into_iter().nth(position as usize);
        let path = batch.route(federation.id()).paths.into_iter().nth(taken.ordinal as usize);
        let (Some(order), Some(path)) = (order, path) else { return Ok(None) };
        let sealed = &cut.body.headers[position as usize];
        let weak = sealed.is_weak(federation);
        let counts = batch.bundles.iter().map(|bundle| bundle.messages.len() as u64);
        let first: u64 = counts.clone().take(taken.ordinal as usize).sum();
        let count = counts.clone().nth(taken.ordinal as usize).unwrap_or(0);
        let (cut, ordinal) = (cut.certified, taken.ordinal);
        let proof = OrderedProof { cut, order, ordinal, path, weak, custody: Vec::new() };
        Ok(Some(proof.with_refusals(sealed, first..first + count)))
    }

    /// Delivers what is owed and here.
    pub(super) fn deliver(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let rooms = (&mut self.outbox, &mut self.gate, &mut self.auditor, &mut self.arrivals);
        let writes = self.receiver.deliver(rooms, store, out)?;
        if !writes.is_empty() {
            self.persist(writes, out);
        }
        Ok(())
    }

    /// Goes on with pending slices.
    pub(super) fn pursue_pending(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let token = self.next_token();
        let holds = holds(&self.outbox, self.ledger.head(), self.me);
        if self.receiver.pursue_pending(token, holds, &mut self.gate, store, out)? {
            out.push(Output::Persist(token, Vec::new()));
        }
        Ok(())
    }

    /// Tells the senders of bundles that have expired while they waited, and says which those were.
    pub(super) fn drop_expired(&mut self, lowest: u64, out: &mut Vec<Output>) -> Vec<BundleKey> {
        let expired = self.inbox.drop_expired(lowest);
        for (key, valid_until) in &expired {
            for client in self.inbox.finish(key) {
                let refusal = Refusal::Expired { valid_until: *valid_until };
                out.push(Output::Answer(client, key.1, Box::new(Answer::Refused(refusal))));
            }
        }
        expired.into_iter().map(|(key, _)| key).collect()
    }

    /// If the chain under way can never be included, its bundles are sealed again, in order; those that have expired
    /// are told so.
    fn reseal_if_dead(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        if self.phase == Phase::Joining || !self.router.is_dead(self.ledger.head()) {
            return Ok(());
        }
        let batches = self.router.flights().count() as u64;
        let (bundles, mut writes) = self.router.bury(store)?;
        let lowest = (self.ledger.head().epoch + 1).max(self.inbox.min_valid_until());
        self.inbox.put_back(bundles);
        for (sender, counter) in self.drop_expired(lowest, out) {
            writes.push(tables::delete(BUNDLES, tables::mailbox_key(&sender, counter)));
        }
        out.push(Output::Report(Report::Resealed { batches }));
        // The new batches are written together with the removal of the old ones, so that a crash finds one or the other.
        let mut sealed = Vec::new();
        while !self.inbox.is_empty() {
            let bundles = self.inbox.take_batch(self.ledger.head());
            let count = bundles.len() as u32;
            let token = self.token + 1;
            let batch = self.router.seal(bundles, None, self.ledger.head(), token);
            if let Some((key, body)) = batch.own {
                sealed.push((key, body, count));
            }
            writes.extend(batch.writes);
        }
        for (key, body, count) in sealed {
            self.hold_own(key, &body, count);
        }
        self.persist(writes, out);
        Ok(())
    }
}
