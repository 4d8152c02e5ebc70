//! What was said about mailboxes that move: by their old homes and their new ones.

use std::collections::BTreeSet;

use postroad_protocol::attestation::AttestedLog;
use postroad_protocol::evidence::{
    Broken, Claim, Closed, Drop, FalseBase, FalseHandoff, FalseHome, FalseImport, NotContinued, PendingThen, Refuted,
    SettledImport,
};
use postroad_protocol::state::{MailboxState, Moved, PendingKey};
use postroad_protocol::{MailboxId, NodeId, Seq};

use super::{Court, gap};
use crate::framing::history::{Batch, History, View};

/// Of what is right at the first look, one in so many is claimed to be wrong all the same.
const ONE_OF: usize = 16;

/// How many entries came with a mailbox to `node`, its home after the cut of an epoch.
pub(super) fn inherited(h: &History, mailbox: &MailboxId, node: &NodeId, epoch: u64) -> u64 {
    let known = h.states.get(epoch as usize).and_then(|state| state.mailbox(mailbox));
    let moved = known.filter(|known| known.home == *node).and_then(|known| known.moved.as_ref());
    let base = moved.and_then(|moved| moved.import.as_ref()).and_then(|import| import.base);
    base.map_or(0, |base| base.log.size)
}

/// What a node attested under a number.
fn under(h: &History, node: NodeId, number: u64) -> impl Iterator<Item = &View> {
    h.views.iter().filter(move |view| {
        let body = &view.said.attestation.body;
        (body.node, body.number) == (node, number)
    })
}

impl Court<'_> {
    /// Everything that can be claimed of moves.
    pub(super) fn moves(&mut self) {
        self.handoffs();
        self.imports();
        let h = self.h;
        for (at, view) in h.views.iter().enumerate() {
            for (of, (mailbox, said)) in view.said.map.iter().enumerate() {
                let is_asked = (at + of).is_multiple_of(ONE_OF);
                self.home(view, mailbox, is_asked);
                self.continued(view, mailbox, said, is_asked);
            }
        }
        let mut named = BTreeSet::new();
        for at in &h.anchored {
            self.taken_over(&h.views[*at], &mut named);
        }
    }

    /// Every handoff, against the attestation that came with it and what is final under that number.
    fn handoffs(&mut self) {
        for (handoff, attested) in self.sinners.handoffs.values() {
            let (node, named) = (handoff.body.node, handoff.body.attestation);
            self.hear(FalseHandoff::by_log(handoff, attested), named.epoch);
            for anchor in under(self.h, node, named.number).filter_map(|view| view.anchor.clone()) {
                self.hear(FalseHandoff::by_anchor(handoff, anchor), named.epoch);
            }
        }
    }

    /// Every settled import, against what was attested under the number that it names.
    fn imports(&mut self) {
        let h = self.h;
        for (epoch, import) in h.imports() {
            let Some(base) = &import.body.base else { continue };
            for view in under(h, base.node, base.attestation.number) {
                let log = Refuted::Log(Box::new(view.of(&import.body.mailbox)));
                let other = view.anchor.clone().map(|anchor| Refuted::Other(Box::new(anchor)));
                for by in [Some(log), other].into_iter().flatten() {
                    let claim = FalseImport::Base(Box::new(FalseBase { import: import.clone(), by }));
                    self.hear(Claim::FalseImport(claim), epoch);
                }
            }
        }
    }

    /// Whether a mailbox lived where it is attested.
    fn home(&mut self, view: &View, mailbox: &MailboxId, is_asked: bool) {
        let (h, body) = (self.h, &view.said.attestation.body);
        let Some(home) = h.home(mailbox, body.epoch) else { return };
        if is_asked || home.value.as_ref().is_none_or(|value| value.home != body.node) {
            let claim = FalseHome { mailbox: *mailbox, attested: view.of(mailbox), home };
            self.hear(Claim::FalseHome(Box::new(claim)), body.epoch);
        }
    }

    /// Whether an attested log continues the one that came with the mailbox.
    fn continued(&mut self, view: &View, mailbox: &MailboxId, said: &AttestedLog, is_asked: bool) {
        let (h, body) = (self.h, &view.said.attestation.body);
        let Some(home) = h.home(mailbox, body.epoch) else { return };
        let Some(known) = home.value.clone().filter(|known| known.home == body.node) else { return };
        let import = known.moved.as_ref().and_then(|moved| moved.import.as_ref());
        let Some(import) = import.filter(|import| import.first <= body.epoch) else { return };
        let mut all = Vec::new();
        let leaves = h.log(said);
        let from = import.base.map_or(0, |base| base.log.size);
        if said.log.size < from || is_asked {
            all.push(Broken::Shorter);
        }
        if let Some(base) = import.base {
            let theirs = h.leaves_of(&base.log.root);
            let differs = theirs.iter().zip(leaves).position(|(their, own)| their != own);
            if let Some(at) = differs.or_else(|| is_asked.then_some(0))
                && let (Some(their), Some(own)) = (h.leaf_of(&base.log.root, at), h.leaf(said, at))
                && base.log.size == theirs.len() as u64
            {
                all.push(Broken::Entry(Box::new(their), Box::new(own)));
            }
        }
        let own = (from as usize..leaves.len()).filter(|at| leaves[*at].settled < known.since || is_asked);
        all.extend(own.take(2).filter_map(|at| h.leaf(said, at)).map(|entry| Broken::Early(Box::new(entry))));
        for broken in all {
            let (mailbox, attested, home) = (*mailbox, view.of(mailbox), home.clone());
            let claim = FalseImport::Continued(Box::new(NotContinued { mailbox, attested, home, broken }));
            self.hear(Claim::FalseImport(claim), body.epoch);
        }
    }

    /// What imports took over and a final log lacks.
    fn taken_over(&mut self, view: &View, named: &mut BTreeSet<(NodeId, MailboxId, Seq)>) {
        let (h, body) = (self.h, &view.said.attestation.body);
        let Some(anchor) = &view.anchor else { return };
        let complete = anchor.cut.header.epoch;
        for (mailbox, said) in view.said.map.iter() {
            let leaves = h.log(said);
            let known = h.states.get(complete as usize).and_then(|state| state.mailbox(mailbox));
            let known = known.filter(|known| known.owes(&body.node, body.epoch));
            let Some((known, moved)) = known.and_then(|known| Some((known, known.moved.as_ref()?))) else { continue };
            let imports = imports_of(h, mailbox, known.since, body.epoch);
            let from = inherited(h, mailbox, &body.node, complete);
            if imports.is_empty() || leaves.len() as u64 != said.log.size || said.log.size < from {
                continue;
            }
            let has: BTreeSet<Seq> = leaves.iter().map(|leaf| leaf.seq).collect();
            for batch in h.batches.iter().filter(|batch| batch.place.is_some()) {
                let routed = batch.header.body.routing_epoch;
                let former = known.home_at(routed).filter(|_| routed < known.since);
                let Some(at) = former.and_then(|former| batch.slice_for(&former)) else { continue };
                for (leaf, wanted) in batch.slices[at].leaves().get(mailbox).into_iter().flatten().enumerate() {
                    let Some((epoch, position)) = batch.place else { continue };
                    let seq = Seq { epoch, position: position as u32, index: wanted.index };
                    if has.contains(&seq) || !named.insert((body.node, *mailbox, seq)) {
                        continue;
                    }
                    let item = Item { batch, at, leaf, seq, moved };
                    if let Some(claim) = self.lacks(view, mailbox, known, &imports, &item) {
                        self.hear(claim, complete);
                    }
                }
            }
        }
    }

    fn lacks(
        &self,
        view: &View,
        mailbox: &MailboxId,
        known: &MailboxState,
        imports: &[SettledImport],
        item: &Item<'_>,
    ) -> Option<Claim> {
        let Item { batch, at, leaf, seq, moved } = *item;
        let (h, said) = (self.h, view.said.map.get(mailbox)?);
        let anchor = view.anchor.clone()?;
        let (complete, node) = (anchor.cut.header.epoch, view.said.attestation.body.node);
        let header = &batch.header.body;
        let closes = |import: &SettledImport| import.import.body.closes(&header.origin, seq.epoch);
        let first = imports.iter().position(closes)?;
        let custody = h.cuts[seq.epoch as usize - 1].body.headers[seq.position as usize].custody.clone();
        let own = custody[at].receipts.first().is_some_and(|receipt| receipt.item.request.is_none());
        let key = PendingKey { destination: header.slices[at].destination, header: batch.digest };
        let fill = h.fills.get(&key).filter(|_| !own);
        let span = moved.spans[moved.span_of(&key.destination, header.routing_epoch)?];
        let last = span.until.saturating_sub(1);
        let is_known = own || fill.is_some() || seq.epoch >= last;
        let pending = if is_known { None } else { Some(Box::new(pending_then(h, &key, last)?)) };
        let by = imports[first].clone();
        let order = (by.cut.header.epoch, by.cut.header.epoch == seq.epoch, seq);
        let after = first.checked_sub(1).map(|before| Box::new(imports[before].import.clone()));
        let from = inherited(h, mailbox, &known.home, complete) as usize;
        let state = &h.states[complete as usize];
        debug_assert_eq!(known.home, node);
        Some(Claim::Drop(Box::new(Drop {
            included: h.included(batch)?,
            custody,
            fill: fill.cloned().map(Box::new),
            mailbox: *mailbox,
            slice: batch.slice(at, mailbox),
            leaf: leaf as u32,
            attested: view.of(mailbox),
            anchor,
            gap: gap(h, said, from, order),
            home: h.home(mailbox, complete)?,
            lost: state.lost(&key).copied(),
            lost_path: state.prove_lost(&key),
            closed: Some(Box::new(Closed { by, after, pending })),
        })))
    }
}

/// A message that was routed to a former home.
#[derive(Clone, Copy)]
struct Item<'a> {
    batch: &'a Batch,
    /// Which slice, and which of the mailbox's leaves in it.
    at: usize,
    leaf: usize,
    seq: Seq,
    moved: &'a Moved,
}

/// The imports of a mailbox in the residence that began in epoch `since`, up to an epoch.
fn imports_of(h: &History, mailbox: &MailboxId, since: u64, to: u64) -> Vec<SettledImport> {
    let epochs = since + 1..=to.min(h.last_epoch());
    epochs.filter_map(|epoch| SettledImport::find(&h.cuts[epoch as usize - 1], mailbox)).collect()
}

/// That a slice was pending after the cut of an epoch.
fn pending_then(h: &History, key: &PendingKey, epoch: u64) -> Option<PendingThen> {
    let state = h.states.get(epoch as usize)?;
    let (cut, pending) = (h.certified(epoch)?.clone(), state.pending(key)?.clone());
    Some(PendingThen { cut, pending, path: state.prove_pending(key), parts: state.parts() })
}
