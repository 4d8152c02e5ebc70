//! Evidence: what was handed in or found is kept, and told to others once it is durable. And finding it: what concerns
//! several rooms, and building claims from disk where the auditor says that something is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use postroad_protocol::batch::Header;
use postroad_protocol::cut::Cut;
use postroad_protocol::evidence::{
    BundleAt, Claim, Evidence, Forgery, Included, InvalidCut, Loss, Misordering, Owed, SplitOrder, Stale,
};
use postroad_protocol::record::Record;
use postroad_protocol::state::PendingKey;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, NodeId, PublicKey, Refusal, Signed};
use postroad_store::{Read, StoreError, prefix_end};

use super::Node;
use crate::auditor::{Found, Seen};
use crate::evidence::{Action, Brief, EvidencePool};
use crate::exhibits::Exhibit;
use crate::io::{Output, Report, Token};
use crate::outbox::Place;
use crate::serve;
use crate::slices::load_body;
use crate::tables::{self, CUTS, SLICES};

/// Of one kind against one node a node builds so much itself; the first convicts as well as the last.
const ENOUGH: usize = 16;
/// Headers of an origin behind its last included one that are compared.
const MAX_AHEAD: u64 = 256;
/// What was found is remembered, so that it is not built twice.
const MAX_ACCUSED: usize = 4_096;
/// A state with more values is not quoted: the evidence would be too large to be passed on.
const MAX_QUOTED: u64 = 16_384;

impl Node {
    /// The evidence that this node keeps.
    pub fn evidence(&self) -> &EvidencePool {
        &self.evidence
    }

    /// Those with whom this node has no contact, by its operator's policy. The sequencer is none of them: without it
    /// there is no order.
    pub fn shunned(&self) -> BTreeSet<NodeId> {
        if self.config.policy.action < Action::RefuseContact {
            return BTreeSet::new();
        }
        let sequencer = self.config.federation.sequencer();
        self.refused.iter().copied().filter(|node| *node != sequencer).collect()
    }

    /// The slice for `destination` under a header that this node did not take, because its messages lead nowhere.
    pub fn exhibit_of(&self, header: &Digest, destination: &NodeId) -> Option<&Exhibit> {
        self.exhibits.of(header, destination)
    }

    /// Keeps evidence; answered once it is durable.
    pub(super) fn keep(&mut self, token: Token, from: PublicKey, evidence: &Evidence, out: &mut Vec<Output>) {
        let (head, culprit) = (self.ledger.head(), evidence.verdict().culprit);
        // Keys are free, and what somebody signed who is no node concerns nobody. A node may know of a newer one.
        let taken = match head.node(&culprit).is_some() || culprit == self.config.federation.sequencer() {
            true => self.evidence.take(evidence, head.epoch, from),
            false if head.node(&from).is_some() => Err(Refusal::NotReady),
            false => Err(Refusal::NotAllowed { reason: format!("{culprit} is no node of this federation") }),
        };
        let answer = taken.map(|write| {
            if let Some(write) = write {
                self.persist(vec![write], out);
                let (id, verdict) = (evidence.id(), evidence.verdict().clone());
                out.push(Output::Report(Report::Convicted { id, verdict, found_by: from }));
                self.decide();
            }
        });
        out.push(Output::Kept(token, answer));
    }

    /// Decides anew about whom something is done.
    pub(super) fn decide(&mut self) {
        self.refused = Arc::new(self.config.policy.refused(self.evidence.convicted(), &self.me));
    }

    /// This node found a contradiction.
    fn accuse(&mut self, claim: Claim, out: &mut Vec<Output>) {
        let federation = &self.config.federation;
        let brief = Brief { fault: claim.fault(), culprit: claim.accused(federation) };
        let id = claim.id(federation);
        let is_known = self.evidence.kept().contains_key(&id) || self.accused.contains(&id);
        if is_known || self.evidence.count(&brief) >= ENOUGH {
            return;
        }
        if self.accused.len() >= MAX_ACCUSED {
            self.accused.clear();
        }
        self.accused.insert(id);
        out.push(Output::Accuse(Box::new(claim)));
    }

    /// A header whose signature holds came by.
    pub(super) fn audit(&mut self, header: &Signed<Header>, out: &mut Vec<Output>) {
        // Only what can come next is remembered: others must not displace it.
        let Some(origin) = self.ledger.head().node(&header.body.origin) else { return };
        let last = origin.last_header.map_or(0, |last| last.number);
        let is_large = header.body.slices.len() as u64 > self.config.federation.params().max_slices;
        if is_large || header.body.number > last.saturating_add(MAX_AHEAD) {
            return;
        }
        if let Some(claim) = self.auditor.header(header) {
            self.accuse(claim, out);
        }
    }

    /// A cut was applied.
    pub(super) fn audit_cut(&mut self, cut: &Cut, out: &mut Vec<Output>) {
        for sealed in &cut.body.headers {
            self.audit(&sealed.header, out);
        }
        for record in &cut.body.records {
            let Record::Lost(lost) = record else { continue };
            let state = self.ledger.head();
            let key = PendingKey { destination: lost.body.destination, header: lost.body.header };
            let (owed, path) = match (state.pending(&key), state.lost(&key)) {
                (Some(pending), _) if pending.holders.contains(&lost.body.holder) => {
                    (Owed::Pending(Box::new(pending.clone())), state.prove_pending(&key))
                }
                (None, Some(lost)) => (Owed::Delivered(*lost), state.prove_lost(&key)),
                // An origin that has not even its own slice any more signed no receipt for it.
                _ => continue,
            };
            let (lost, cut, parts) = (lost.clone(), cut.certified.clone(), state.parts());
            self.accuse(Claim::Loss(Box::new(Loss { lost, cut, owed, path, parts })), out);
        }
    }

    /// A cut that cannot follow the last one, though it may be certified.
    pub(super) fn unsound_cut(&mut self, cut: Cut, out: &mut Vec<Output>) {
        let state = self.ledger.head();
        let is_next = cut.certified.header.epoch == state.epoch + 1;
        if is_next && state.mailbox_count() + state.all_pending().take(MAX_QUOTED as usize).count() as u64 <= MAX_QUOTED
        {
            let claim = InvalidCut::of(state, self.ledger.head_cut().cloned(), cut);
            self.accuse(Claim::InvalidCut(Box::new(claim)), out);
        }
    }

    /// A cut of an epoch that was applied before: whether it is another one than this node has.
    pub(super) fn is_split(&mut self, cut: &Cut, store: &dyn Read, out: &mut Vec<Output>) -> Result<bool, StoreError> {
        let known = match serve::certified(store, cut.certified.header.epoch) {
            Ok(known) => known.filter(|known| known.header != cut.certified.header),
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(known) = known else { return Ok(false) };
        let claim = SplitOrder::of(known, cut.certified.clone(), &self.config.federation);
        self.accuse(Claim::SplitOrder(Box::new(claim)), out);
        Ok(true)
    }

    /// A slice was not taken whose leaves give the root in the signed header.
    pub(super) fn exhibit(
        &mut self,
        exhibit: Exhibit,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        self.audit(exhibit.header(), out);
        let federation = &self.config.federation;
        let mut claim = exhibit.beyond();
        if claim.is_none() {
            let key = exhibit.key();
            let prefix = [&key.origin.0[..], &key.number.to_be_bytes(), &key.header.0].concat();
            for (row, value) in store.range(SLICES, &prefix, &prefix_end(&prefix), 4)? {
                let held: SliceParcel = tables::read(SLICES, &row, &value)?;
                let bundles = held.header.body.entries.bundles;
                claim = claim.or_else(|| exhibit.against(&held.body, bundles, federation));
            }
        }
        self.exhibits.keep(exhibit);
        if let Some(claim) = claim {
            self.accuse(claim, out);
        }
        Ok(())
    }

    /// Builds claims of what is wrong with what was delivered.
    pub(super) fn accuse_found(&mut self, store: &dyn Read, out: &mut Vec<Output>) {
        for found in self.auditor.take_found() {
            // A row that is damaged is told of where it is served.
            if let Some(claim) = self.claim(found, store) {
                self.accuse(claim, out);
            }
        }
    }

    fn claim(&self, found: Found, store: &dyn Read) -> Option<Claim> {
        let both = |seen: &Seen| Some((self.quote(&seen.place, store)?, self.bundle_at(seen, store)?));
        Some(match found {
            Found::Stale(seen) => {
                let (included, bundle) = both(&seen)?;
                Claim::Stale(Box::new(Stale { included, bundle }))
            }
            Found::Forged(seen) => {
                let (included, bundle) = both(&seen)?;
                Claim::Forgery(Box::new(Forgery { included, bundle, unregistered: None }))
            }
            Found::Misordered(one, other) => {
                let ((before, earlier), (after, later)) = (both(&one)?, both(&other)?);
                let after = (one.place.slice.header != other.place.slice.header).then_some(after);
                Claim::Misordering(Box::new(Misordering { before, earlier, after, later }))
            }
        })
    }

    fn quote(&self, place: &Place, store: &dyn Read) -> Option<Included> {
        let cut: Cut = tables::get(store, CUTS, &tables::number_key(place.epoch)).ok()??;
        let order = cut.body.header_proofs(&self.config.federation).into_iter().nth(place.position as usize)?;
        Some(Included { cut: cut.certified, order })
    }

    fn bundle_at(&self, seen: &Seen, store: &dyn Read) -> Option<BundleAt> {
        let (_, body) = load_body(&seen.place.slice, &self.me, &self.config.federation, store).ok()??;
        let bundle = body.bundles.into_iter().find(|bundle| bundle.ordinal == seen.ordinal)?;
        Some(BundleAt { ordinal: bundle.ordinal, signed: bundle.signed, path: bundle.path })
    }
}
