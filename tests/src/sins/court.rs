//! The court: from what was handed out in a run, every claim that anybody could make of it, judged.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::attestation::AttestedLog;
use postroad_protocol::batch::bundle_leaf;
use postroad_protocol::evidence::{
    BadSlice, Claim, ClaimError, Drop, EarlyExpiry, Entry, Equivocation, Evidence, Forgery, LogGap, Loss, Misordering,
    Omission, Owed, SliceProof, SplitView, Verdict, Wrong, WrongEntry,
};
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::message::common_digest;
use postroad_protocol::slice::{LeafRef, mailbox_value};
use postroad_protocol::state::PendingKey;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, MailboxId, NodeId, Seq};

use crate::framing::history::{Batch, History, View};
use crate::sim::Sinners;

mod moving;

/// What was proven, and what was claimed in vain.
pub(super) struct Court<'a> {
    h: &'a History,
    sinners: &'a Sinners,
    /// By id: who is guilty, and the epoch whose cut completed the evidence.
    pub(super) verdicts: BTreeMap<Digest, (Verdict, u64)>,
    /// Claims that cleared the accused.
    pub(super) cleared: u64,
    /// Claims that proved nothing, though their parts are what was signed.
    pub(super) unproven: Vec<String>,
}

impl<'a> Court<'a> {
    /// Hears everything.
    pub(super) fn held(h: &'a History, sinners: &'a Sinners) -> Court<'a> {
        let mut court = Court { h, sinners, verdicts: BTreeMap::new(), cleared: 0, unproven: Vec::new() };
        court.equivocations();
        court.omissions();
        sinners.bent.iter().for_each(|parcel| court.bad_slice(parcel));
        court.bundles();
        for at in &h.anchored {
            court.attested(&h.views[*at]);
        }
        court.split_views();
        court.losses();
        court.moves();
        for claim in &sinners.accusations {
            court.hear(claim.clone(), h.last_epoch());
        }
        court
    }

    fn hear(&mut self, claim: Claim, complete: u64) {
        match Evidence::new(claim, &self.h.federation) {
            Ok(evidence) => {
                let verdict = evidence.verdict().clone();
                let (_, before) = self.verdicts.entry(evidence.id()).or_insert((verdict, complete));
                *before = complete.min(*before);
            }
            Err(ClaimError::Cleared(_)) => self.cleared += 1,
            Err(error) => self.unproven.push(error.to_string()),
        }
    }

    fn equivocations(&mut self) {
        let h = self.h;
        let mut slots: BTreeMap<(NodeId, u64), BTreeMap<Digest, _>> = BTreeMap::new();
        let ordered = h.cuts.iter().flat_map(|cut| &cut.body.headers).map(|sealed| &sealed.header);
        for header in ordered.chain(self.sinners.faces.values()) {
            let digest = header.digest(&h.federation);
            slots.entry((header.body.origin, header.body.number)).or_default().insert(digest, header);
        }
        for slot in slots.values() {
            let headers: Vec<_> = slot.iter().collect();
            for pair in headers.windows(2) {
                let [(one, first), (other, second)] = pair else { continue };
                let place = |digest: &Digest| h.place(digest).map_or(0, |(epoch, _)| epoch);
                let complete = place(one).max(place(other)).max(first.body.routing_epoch);
                let claim = Equivocation::of((**first).clone(), (**second).clone(), &h.federation);
                self.hear(Claim::Equivocation(Box::new(claim)), complete);
            }
        }
    }

    /// Whom slices leave out, of all batches that are not routed as the directory says.
    fn omissions(&mut self) {
        let h = self.h;
        for batch in &h.bent {
            let Some(included) = h.included(batch) else { continue };
            let routing = included.header().routing_epoch;
            let mut first = 0;
            for (ordinal, bundle) in batch.bundles.iter().enumerate() {
                for (index, message) in bundle.messages.iter().enumerate() {
                    for (position, recipient) in message.recipients.iter().enumerate() {
                        let Some(home) = h.home(&recipient.mailbox, routing) else { continue };
                        let Some(node) = home.value.as_ref().map(|value| value.home) else { continue };
                        let slice = match batch.slice_for(&node) {
                            None => None,
                            Some(_) => {
                                let Some(body) = self.sinners.bodies.get(&(batch.digest, node)) else { continue };
                                let bundles = batch.header.body.entries.bundles;
                                let Ok(slice) = body.index(bundles, h.federation.id()) else { continue };
                                let at = first + index as u64;
                                let leaves = slice.leaves().get(&recipient.mailbox);
                                if leaves.is_some_and(|leaves| leaves.iter().any(|leaf| leaf.index == at)) {
                                    continue;
                                }
                                Some(slice.prove(&recipient.mailbox))
                            }
                        };
                        let claim = Omission {
                            included: included.clone(),
                            message: batch.message(ordinal, index),
                            recipient: batch.recipient(ordinal, index, position),
                            home,
                            slice,
                        };
                        self.hear(Claim::Omission(Box::new(claim)), included.epoch());
                    }
                }
                first += bundle.messages.len() as u64;
            }
        }
    }

    /// A slice that somebody was handed, and whose root is over other messages than the entries.
    fn bad_slice(&mut self, parcel: &SliceParcel) {
        let h = self.h;
        let digest = parcel.header.digest(&h.federation);
        let Some(batch) = h.bent.iter().find(|batch| batch.digest == digest) else { return };
        let Some(leaves) = leaves_of(parcel, h) else { return };
        let values = leaves.iter().map(|(mailbox, leaves)| (*mailbox, mailbox_value(leaves.iter())));
        let map: MerkleMap<_, _> = values.collect();
        for (mailbox, of_mailbox) in &leaves {
            for (at, leaf) in of_mailbox.iter().enumerate() {
                let Some((ordinal, index)) = batch.locate(leaf.index) else { continue };
                if batch.bundles[ordinal].messages[index].digest() == leaf.message {
                    continue;
                }
                let proof = map.prove(mailbox);
                let claim = BadSlice {
                    header: parcel.header.clone(),
                    destination: parcel.destination,
                    mailbox: *mailbox,
                    slice: SliceProof { proof, leaves: of_mailbox.clone() },
                    leaf: at as u32,
                    entry: Entry::Other(Box::new(batch.message(ordinal, index))),
                };
                let complete = batch.place.map_or(parcel.header.body.routing_epoch, |(epoch, _)| epoch);
                self.hear(Claim::BadSlice(Box::new(claim)), complete);
            }
        }
    }

    /// Every bundle that a cut has, and every two of a sender that follow each other.
    fn bundles(&mut self) {
        let h = self.h;
        let mut last: BTreeMap<(NodeId, u64, MailboxId), (&Batch, usize)> = BTreeMap::new();
        let mut batches: Vec<&Batch> = h.batches.iter().chain(&h.bent).filter(|batch| batch.place.is_some()).collect();
        batches.sort_by_key(|batch| (batch.header.body.origin, batch.header.body.number));
        for batch in batches {
            let Some(included) = h.included(batch) else { continue };
            for (ordinal, bundle) in batch.bundles.iter().enumerate() {
                let at = batch.bundle(ordinal);
                let forgery = Forgery { included: included.clone(), bundle: at.clone(), unregistered: None };
                self.hear(Claim::Forgery(Box::new(forgery)), included.epoch());
                let header = included.header();
                let line = (header.origin, header.incarnation, bundle.signed.body.sender);
                let Some((earlier, its)) = last.insert(line, (batch, ordinal)) else { continue };
                let Some(before) = h.included(earlier) else { continue };
                let is_same = earlier.digest == batch.digest;
                let claim = Misordering {
                    before,
                    earlier: earlier.bundle(its),
                    after: (!is_same).then(|| included.clone()),
                    later: at,
                };
                self.hear(Claim::Misordering(Box::new(claim)), included.epoch());
            }
        }
    }

    /// Everything in the logs of a final attestation, and everything that is not.
    fn attested(&mut self, view: &View) {
        let h = self.h;
        let Some(anchor) = view.anchor.clone() else { return };
        let complete = anchor.cut.header.epoch;
        for (mailbox, said) in view.said.map.iter() {
            let leaves = h.log(said);
            if leaves.len() as u64 != said.log.size {
                continue;
            }
            let wrong = |index: usize, wrong: Wrong| {
                let (entry, home) = (h.leaf(said, index)?, h.home(mailbox, complete)?);
                let (mailbox, attested, anchor) = (*mailbox, view.of(mailbox), anchor.clone());
                Some(Claim::WrongEntry(Box::new(WrongEntry { mailbox, attested, anchor, entry, wrong, home })))
            };
            let mut claims = Vec::new();
            for (index, leaf) in leaves.iter().enumerate() {
                if leaves.get(index + 1).is_some_and(|next| next.order() <= leaf.order()) {
                    let next = h.leaf(said, index + 1).map(Box::new);
                    claims.extend(next.and_then(|next| wrong(index, Wrong::Order(next))));
                }
                let Some((batch, ordinal, at)) = h.message_at(leaf.seq) else { continue };
                if batch.bundles[ordinal].messages[at].digest() != leaf.message
                    && let Some(included) = h.included(batch)
                {
                    let truth = Entry::Other(Box::new(batch.message(ordinal, at)));
                    claims.extend(wrong(index, Wrong::Other(Box::new(included), Box::new(truth))));
                }
            }
            if let Some(index) = said.expired_to.checked_sub(1)
                && let Some(entry) = h.leaf(said, index as usize)
                && let Some(settled) = h.certified(entry.leaf.settled).cloned()
                && let Some(home) = h.home(mailbox, complete)
            {
                let (mailbox, attested, anchor) = (*mailbox, view.of(mailbox), anchor.clone());
                let claim = EarlyExpiry { mailbox, attested, anchor, entry, settled, home };
                claims.push(Claim::EarlyExpiry(Box::new(claim)));
            }
            claims.extend(self.missing(view, mailbox, complete));
            for claim in claims {
                self.hear(claim, complete);
            }
        }
    }

    /// What a final attestation's log lacks, though the home took it and the attestation reaches so far.
    fn missing(&self, view: &View, mailbox: &MailboxId, complete: u64) -> Vec<Claim> {
        let h = self.h;
        let (Some(anchor), Some(said)) = (&view.anchor, view.said.map.get(mailbox)) else { return Vec::new() };
        let (node, reached) = (view.said.attestation.body.node, view.said.attestation.body.epoch);
        let leaves = h.log(said);
        let known: BTreeSet<Seq> = leaves.iter().map(|leaf| leaf.seq).collect();
        let mut claims = Vec::new();
        let from = moving::inherited(h, mailbox, &node, complete) as usize;
        if leaves.len() < from {
            return claims;
        }
        for batch in h.batches.iter().chain(&h.bent) {
            let (Some((epoch, position)), Some(at)) = (batch.place, batch.slice_for(&node)) else { continue };
            let Some(slice) = self.slice(batch, at, mailbox) else { continue };
            let Some(included) = h.included(batch) else { continue };
            let key = PendingKey { destination: node, header: batch.digest };
            let custody = &h.cuts[epoch as usize - 1].body.headers[position].custody;
            let own = custody[at].receipts.first().is_some_and(|receipt| receipt.item.request.is_none());
            let fill = if own { None } else { h.fills.get(&key) };
            let settled = match (own, fill) {
                (true, _) => epoch,
                (false, Some(fill)) => fill.cut.header.epoch,
                (false, None) => continue,
            };
            for (leaf, wanted) in slice.leaves.iter().enumerate() {
                let seq = included.seq(wanted.index);
                if known.contains(&seq) || settled > reached {
                    continue;
                }
                let order = (settled, settled == epoch, seq);
                let Some(home) = h.home(mailbox, complete) else { continue };
                let state = &h.states[complete as usize];
                claims.push(Claim::Drop(Box::new(Drop {
                    included: included.clone(),
                    custody: custody.clone(),
                    fill: fill.cloned().map(Box::new),
                    mailbox: *mailbox,
                    slice: slice.clone(),
                    leaf: leaf as u32,
                    attested: view.of(mailbox),
                    anchor: anchor.clone(),
                    gap: gap(h, said, from, order),
                    home,
                    lost: state.lost(&key).copied(),
                    lost_path: state.prove_lost(&key),
                    closed: None,
                })));
            }
        }
        claims
    }

    /// What a slice of a batch holds for a mailbox, as its header has it.
    fn slice(&self, batch: &Batch, at: usize, mailbox: &MailboxId) -> Option<SliceProof> {
        if batch.is_lawful {
            return Some(batch.slice(at, mailbox));
        }
        let body = self.sinners.bodies.get(&(batch.digest, batch.header.body.slices[at].destination))?;
        let index = body.index(batch.header.body.entries.bundles, self.h.federation.id()).ok()?;
        Some(index.prove(mailbox))
    }

    /// What owners were shown, against what was said to everybody under the same number.
    fn split_views(&mut self) {
        let h = self.h;
        for shown in self.sinners.shown.values() {
            let (body, digest) = (&shown.attestation.body, shown.attestation.digest(&h.federation));
            let same = |view: &&View| {
                let other = &view.said.attestation.body;
                (other.node, other.number) == (body.node, body.number)
            };
            for view in h.views.iter().filter(same) {
                let other = &view.said.attestation;
                let other_digest = other.digest(&h.federation);
                let Some(anchor) = view.anchor.clone().filter(|_| other_digest != digest) else { continue };
                let complete = anchor.cut.header.epoch;
                let claim = SplitView::Anchored(Box::new(shown.attestation.clone()), Box::new(anchor));
                self.hear(Claim::SplitView(claim), complete);
                let (mut one, mut two) = (Box::new(shown.attestation.clone()), Box::new(other.clone()));
                if digest > other_digest {
                    std::mem::swap(&mut one, &mut two);
                }
                self.hear(Claim::SplitView(SplitView::Number(one, two)), complete);
            }
        }
    }

    fn losses(&mut self) {
        let h = self.h;
        for (epoch, lost) in &h.losses {
            let key = PendingKey { destination: lost.body.destination, header: lost.body.header };
            let state = &h.states[*epoch as usize];
            let (owed, path) = match (state.pending(&key), state.lost(&key)) {
                (Some(pending), _) => (Owed::Pending(Box::new(pending.clone())), state.prove_pending(&key)),
                (None, Some(lost)) => (Owed::Delivered(*lost), state.prove_lost(&key)),
                (None, None) => continue,
            };
            let Some(cut) = h.certified(*epoch).cloned() else { continue };
            let (lost, parts) = (lost.clone(), state.parts());
            self.hear(Claim::Loss(Box::new(Loss { lost, cut, owed, path, parts })), *epoch);
        }
    }
}

/// The entries of a log, from index `from` on, between which one would stand.
fn gap(h: &History, said: &AttestedLog, from: usize, order: (u64, bool, Seq)) -> LogGap {
    let next = from + h.log(said)[from..].partition_point(|leaf| leaf.order() < order);
    let before = next.checked_sub(1).and_then(|at| h.leaf(said, at));
    LogGap { before, after: h.leaf(said, next) }
}

/// The leaves of a slice as its body says them, its paths to the messages not followed.
fn leaves_of(parcel: &SliceParcel, h: &History) -> Option<BTreeMap<MailboxId, Vec<LeafRef>>> {
    let bundles = u64::from(parcel.header.body.entries.bundles);
    let mut leaves: BTreeMap<MailboxId, Vec<LeafRef>> = BTreeMap::new();
    for bundle in &parcel.body.bundles {
        let leaf = bundle_leaf(&bundle.signed, h.federation.id());
        let count = u64::from(bundle.signed.body.count);
        let (_, first) = bundle.path.resolve(count, &leaf, u64::from(bundle.ordinal), bundles)?;
        for message in &bundle.messages {
            for recipient in &message.recipients {
                let digest = recipient.message(message.recipient_count, common_digest(&message.common))?;
                leaves.entry(recipient.mailbox).or_default().push(LeafRef {
                    index: first + u64::from(message.index),
                    message: digest,
                    own: recipient.own_digest(),
                });
            }
        }
    }
    Some(leaves)
}
