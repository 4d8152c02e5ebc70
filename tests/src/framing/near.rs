//! Near misses: claims that are right in everything but one thing, or in everything, of somebody who did nothing.
//!
//! Each is put together as a prosecutor would: the statements that belong together, of one history most of the time, and
//! at every step now and then what nearly belongs there.

use postroad_protocol::batch::Header;
use postroad_protocol::challenge::Lost;
use postroad_protocol::evidence::{
    BadSlice, BundleAt, Claim, Drop, EarlyExpiry, Entry, Equivocation, Fault, Forgery, Included, InvalidCut, LeafAt,
    LogGap, Loss, Misordering, Omission, Owed, SliceProof, SplitLogs, SplitOrder, SplitView, Stale, Wrong, WrongEntry,
};
use postroad_protocol::receipt::Custody;
use postroad_protocol::state::PendingKey;
use postroad_protocol::{MailboxId, NodeId, Signature, Signed};

use super::history::{Batch, History, View};
use crate::sim::rng::Rng;

mod moving;

/// Puts claims together.
pub(crate) struct Prosecutor<'a> {
    histories: &'a [History],
    pub(crate) rng: Rng,
}

impl<'a> Prosecutor<'a> {
    pub(crate) fn new(histories: &'a [History], rng: Rng) -> Prosecutor<'a> {
        Prosecutor { histories, rng }
    }

    /// A claim of a kind against somebody, and the place of the history that it is of most of all.
    pub(crate) fn claim(&mut self, fault: Fault) -> Option<(usize, Claim)> {
        let at = self.rng.index(self.histories.len());
        let h = self.histories.get(at).filter(|h| !h.cuts.is_empty())?;
        let claim = match fault {
            Fault::Equivocation => self.equivocation(h),
            Fault::Omission => self.omission(h),
            Fault::BadSlice => self.bad_slice(h),
            Fault::Forgery => self.forgery(h),
            Fault::Misordering => self.misordering(h),
            Fault::Stale => self.stale(h),
            Fault::Drop => self.drop_of(h),
            Fault::WrongEntry => self.wrong_entry(h),
            Fault::EarlyExpiry => self.early_expiry(h),
            Fault::SplitView => self.split_view(h),
            Fault::Loss => self.loss(h),
            Fault::InvalidCut => self.invalid_cut(h),
            Fault::SplitOrder => self.split_order(h),
            Fault::FalseHandoff => self.false_handoff(h),
            Fault::FalseImport => self.false_import(h),
            Fault::FalseHome => self.false_home(h),
        };
        Some((at, claim?))
    }

    /// This history most of the time; else the one of the same keys, or any other.
    fn or_other(&mut self, h: &'a History) -> &'a History {
        let other = match self.rng.below(20) {
            0 | 1 => {
                let at = self.histories.iter().position(|other| std::ptr::eq(other, h)).unwrap_or(0);
                self.histories.get(at ^ 1).unwrap_or(h)
            }
            2 => &self.histories[self.rng.index(self.histories.len())],
            _ => h,
        };
        if other.cuts.is_empty() { h } else { other }
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.rng.index(items.len())])
    }

    fn batch(&mut self, h: &'a History) -> Option<&'a Batch> {
        (!h.batches.is_empty()).then(|| &h.batches[self.rng.index(h.batches.len())])
    }

    fn included(&mut self, h: &'a History) -> Option<(&'a Batch, Included)> {
        let batch = &h.batches[self.pick(&h.included)?];
        Some((batch, h.included(batch)?))
    }

    /// An epoch close to this one, or any.
    fn epoch_near(&mut self, h: &History, epoch: u64) -> u64 {
        let last = h.last_epoch();
        match self.rng.below(6) {
            0 => epoch.saturating_sub(1).max(1),
            1 | 2 => epoch.max(1),
            3 => (epoch + 1).min(last),
            4 => last,
            _ => 1 + self.rng.below(last),
        }
    }

    /// A bundle of a batch: its ordinal.
    fn ordinal(&mut self, batch: &Batch) -> Option<usize> {
        (!batch.bundles.is_empty()).then(|| self.rng.index(batch.bundles.len()))
    }

    /// What one of a batch's slices holds for a mailbox.
    fn any_slice(&mut self, batch: &Batch, mailbox: &MailboxId) -> Option<SliceProof> {
        (!batch.slices.is_empty()).then(|| batch.slice(self.rng.index(batch.slices.len()), mailbox))
    }

    fn equivocation(&mut self, h: &'a History) -> Option<Claim> {
        let other = self.or_other(h);
        let (a, b) = match self.pick(&h.twins) {
            Some((a, b)) if self.rng.permille(400) => (&h.batches[a], &h.batches[b]),
            _ => {
                let a = self.batch(h)?;
                let origin = a.header.body.origin;
                let near = |b: &&Batch| {
                    b.header.body.origin == origin && b.header.body.number.abs_diff(a.header.body.number) <= 1
                };
                let near: Vec<&Batch> = other.batches.iter().filter(near).collect();
                (a, self.pick(&near)?)
            }
        };
        let (a, b) = (a.header.clone(), b.header.clone());
        Some(Claim::Equivocation(Box::new(Equivocation::of(a, b, &h.federation))))
    }

    fn omission(&mut self, h: &'a History) -> Option<Claim> {
        let (batch, included) = self.included(h)?;
        let other = self.or_other(h);
        let ordinal = self.ordinal(batch)?;
        let bundle = &batch.bundles[ordinal];
        let index = self.rng.index(bundle.messages.len());
        let position = self.rng.index(bundle.messages[index].recipients.len());
        let recipient = batch.recipient(ordinal, index, position);
        let mailbox = if self.rng.permille(850) { recipient.mailbox } else { self.pick(&h.mailboxes)? };
        let epoch = self.epoch_near(other, included.header().routing_epoch);
        let home = other.home(&mailbox, epoch)?;
        let node = home.value.as_ref().map(|value| value.home);
        let at = node.and_then(|node| batch.slice_for(&node));
        let slice = match at {
            Some(at) if self.rng.permille(800) => Some(batch.slice(at, &mailbox)),
            // A slice that lacks the mailbox, lawfully.
            _ if self.rng.permille(700) => Some(self.any_slice(batch, &mailbox)?),
            _ => None,
        };
        let message = batch.message(ordinal, index);
        Some(Claim::Omission(Box::new(Omission { included, message, recipient, home, slice })))
    }

    fn entry(&mut self, batch: &Batch, index: u64, mailbox: &MailboxId) -> Option<Entry> {
        let index = if self.rng.permille(850) { index } else { self.rng.below(batch.header.body.entries.messages + 1) };
        let Some((ordinal, at)) = batch.locate(index).filter(|_| self.rng.permille(900)) else {
            return Some(Entry::Beyond);
        };
        let message = Box::new(batch.message(ordinal, at));
        if self.rng.permille(500) {
            return Some(Entry::Other(message));
        }
        let recipients = &batch.bundles[ordinal].messages[at].recipients;
        let own = recipients.iter().position(|recipient| recipient.mailbox == *mailbox);
        let position = own.filter(|_| self.rng.permille(800)).unwrap_or_else(|| self.rng.index(recipients.len()));
        Some(Entry::OtherOwn(message, Box::new(batch.recipient(ordinal, at, position))))
    }

    fn bad_slice(&mut self, h: &'a History) -> Option<Claim> {
        let batch = self.batch(h)?;
        let at = (!batch.slices.is_empty()).then(|| self.rng.index(batch.slices.len()))?;
        let keys: Vec<MailboxId> = batch.slices[at].leaves().keys().copied().collect();
        let mailbox = self.pick(&keys)?;
        let slice = batch.slice(at, &mailbox);
        let leaf = self.rng.index(slice.leaves.len());
        let from = if self.rng.permille(900) { batch } else { self.batch(h)? };
        let entry = self.entry(from, slice.leaves[leaf].index, &mailbox)?;
        let destination = batch.header.body.slices[at].destination;
        let (header, leaf) = (batch.header.clone(), leaf as u32);
        Some(Claim::BadSlice(Box::new(BadSlice { header, destination, mailbox, slice, leaf, entry })))
    }

    fn forgery(&mut self, h: &'a History) -> Option<Claim> {
        let (batch, included) = self.included(h)?;
        let other = self.or_other(h);
        let ordinal = self.ordinal(batch)?;
        let bundle = batch.bundle(ordinal);
        let sender = bundle.signed.body.sender;
        let unregistered = match self.rng.below(3) {
            0 => None,
            1 => Some(other.home(&sender, self.epoch_near(other, included.header().routing_epoch))?),
            _ => {
                // Before it was registered, or of somebody else.
                let since = other.home(&sender, other.last_epoch())?.value?.since;
                let epoch = self.epoch_near(other, since);
                let who = if self.rng.permille(800) { sender } else { self.pick(&other.nodes)? };
                Some(other.home(&who, epoch)?)
            }
        };
        Some(Claim::Forgery(Box::new(Forgery { included, bundle, unregistered })))
    }

    fn misordering(&mut self, h: &'a History) -> Option<Claim> {
        let (one, before) = self.included(h)?;
        let ordinal = self.ordinal(one)?;
        let earlier: BundleAt = one.bundle(ordinal);
        let sender = earlier.signed.body.sender;
        let other = self.or_other(h);
        let mut found = None;
        for _ in 0..6 {
            let (two, after) = match self.rng.permille(300) {
                true => (one, before.clone()),
                false => self.included(other)?,
            };
            let fits = |bundle: &postroad_protocol::bundle::Bundle| bundle.signed.body.sender == sender;
            let ordinals: Vec<usize> = (0..two.bundles.len()).filter(|at| fits(&two.bundles[*at])).collect();
            let same = two.header.body.origin == one.header.body.origin;
            if let Some(at) = self.pick(&ordinals).filter(|_| same || self.rng.permille(50)) {
                found = Some((after, two.bundle(at)));
                break;
            }
        }
        let (after, later) = found?;
        let place = |included: &Included, bundle: &BundleAt| (included.header().number, bundle.ordinal);
        let rises = place(&before, &earlier) < place(&after, &later);
        let same = before.digest(&h.federation) == after.digest(&h.federation);
        let (before, earlier, after, later) = match rises || self.rng.permille(50) {
            true => (before, earlier, after, later),
            false => (after, later, before, earlier),
        };
        let after = (!same).then_some(after);
        Some(Claim::Misordering(Box::new(Misordering { before, earlier, after, later })))
    }

    fn stale(&mut self, h: &'a History) -> Option<Claim> {
        let (batch, mut included) = self.included(h)?;
        let ordinal = self.ordinal(batch)?;
        if self.rng.permille(100) {
            // The batch of the same number, of another header.
            included = self.included(h)?.1;
        }
        Some(Claim::Stale(Box::new(Stale { included, bundle: batch.bundle(ordinal) })))
    }

    /// An attestation that is final, or one that is not with the anchor of another.
    fn view(&mut self, h: &'a History) -> Option<&'a View> {
        let at = self.pick(&h.anchored)?;
        Some(&h.views[at])
    }

    fn mailbox(&mut self, h: &History, view: &View) -> Option<MailboxId> {
        let hosted: Vec<MailboxId> = view.said.map.iter().map(|(mailbox, _)| *mailbox).collect();
        if self.rng.permille(970) { self.pick(&hosted) } else { self.pick(&h.mailboxes) }
    }

    /// A batch of which its destination has said that it lost its slice, an attestation of that node, and a mailbox.
    fn lost_slice(&mut self, h: &'a History) -> Option<(&'a View, &'a Batch, MailboxId)> {
        let own = |lost: &Lost| (lost.holder == lost.destination).then_some(*lost);
        let lost: Vec<Lost> = h.losses.iter().filter_map(|(_, signed)| own(&signed.body)).collect();
        let Lost { holder, header, .. } = self.pick(&lost)?;
        let batch = h.batches.iter().find(|batch| batch.digest == header)?;
        let of_holder = |at: &usize| h.views[*at].said.attestation.body.node == holder;
        let views: Vec<usize> = h.anchored.iter().copied().filter(of_holder).collect();
        let keys: Vec<MailboxId> = batch.slices[batch.slice_for(&holder)?].leaves().keys().copied().collect();
        Some((&h.views[self.pick(&views)?], batch, self.pick(&keys)?))
    }

    fn drop_of(&mut self, h: &'a History) -> Option<Claim> {
        let lost = if self.rng.permille(250) { self.lost_slice(h) } else { None };
        let view = lost.map_or_else(|| self.view(h), |(view, ..)| Some(view))?;
        let other = if lost.is_some() { h } else { self.or_other(h) };
        let node = view.said.attestation.body.node;
        let mailbox = lost.map_or_else(|| self.mailbox(h, view), |(.., mailbox)| Some(mailbox))?;
        // Its anchor, or a later one of that node, as if it were its own.
        let anchor = match self.rng.permille(950) {
            true => view.anchor.clone()?,
            false => self.view(h)?.anchor.clone()?,
        };
        let wanted = |batch: &&Batch| {
            let at = batch.slice_for(&node);
            batch.place.is_some() && at.is_some_and(|at| batch.slices[at].leaves().contains_key(&mailbox))
        };
        let wanted: Vec<&Batch> = other.batches.iter().filter(wanted).collect();
        // What is in custody is where framing hides.
        let pending: Vec<&Batch> =
            (wanted.iter().copied()).filter(|batch| own_receipt(other, batch, &node) == Some(false)).collect();
        let batch = match (lost, self.pick(&pending).filter(|_| self.rng.permille(500))) {
            (Some((_, batch, _)), _) => batch,
            (None, Some(batch)) => batch,
            (None, None) => self.pick(&wanted)?,
        };
        let at = batch.slice_for(&node)?;
        let slice = batch.slice(at, &mailbox);
        let leaf = self.rng.index(slice.leaves.len());
        let included = other.included(batch)?;
        let seq = included.seq(slice.leaves[leaf].index);
        let (epoch, position) = batch.place?;
        let mut custody = other.cuts[epoch as usize - 1].body.headers[position].custody.clone();
        let key = PendingKey { destination: node, header: batch.digest };
        if let Some(receipt) = other.own_receipts.get(&key).filter(|_| self.rng.permille(50)) {
            // What the home signed too late for the cut.
            custody[at] = Custody { request: None, receipts: vec![receipt.clone()] };
        }
        let own = own_receipt(other, batch, &node)?;
        let fill = other.fills.get(&key).filter(|_| !own).filter(|_| self.rng.permille(700));
        let settled = match self.rng.permille(950) {
            true => fill.map_or(epoch, |fill| fill.cut.header.epoch),
            false => epoch,
        };
        let gap = self.gap(h, view, &mailbox, (settled, settled == epoch, seq));
        let shown = self.epoch_near(h, anchor.cut.header.epoch);
        let mut home = h.home(&mailbox, shown)?;
        let state = &h.states[shown as usize];
        let (mut lost, mut lost_path) = (state.lost(&key).copied(), state.prove_lost(&key));
        if self.rng.permille(50) {
            // The state of before it said that it had lost it.
            let earlier = 1 + self.rng.below(shown);
            let state = &h.states[earlier as usize];
            (lost, lost_path) = (state.lost(&key).copied(), state.prove_lost(&key));
            home = h.home(&mailbox, earlier)?;
        }
        let attested = view.of(&mailbox);
        let closed = if self.rng.permille(100) { self.closed(h, &mailbox).map(Box::new) } else { None };
        Some(Claim::Drop(Box::new(Drop {
            included,
            custody,
            fill: fill.cloned().map(Box::new),
            mailbox,
            slice,
            leaf: leaf as u32,
            attested,
            anchor,
            gap,
            home,
            lost,
            lost_path,
            closed,
        })))
    }

    /// The entries next to where one would stand; if it stands there, as if it did not.
    fn gap(
        &mut self,
        h: &History,
        view: &View,
        mailbox: &MailboxId,
        order: (u64, bool, postroad_protocol::Seq),
    ) -> LogGap {
        let Some(said) = view.said.map.get(mailbox) else { return LogGap { before: None, after: None } };
        let leaves = h.log(said);
        let at = leaves.partition_point(|leaf| leaf.order() < order);
        let stands = leaves.get(at).is_some_and(|leaf| leaf.order() == order);
        let after = if stands && self.rng.permille(800) { at + 1 } else { at };
        LogGap { before: at.checked_sub(1).and_then(|at| h.leaf(said, at)), after: h.leaf(said, after) }
    }

    /// An entry of the log that a final attestation has.
    fn attested_entry(&mut self, h: &'a History) -> Option<(&'a View, MailboxId, LeafAt)> {
        let view = self.view(h)?;
        let mailbox = self.mailbox(h, view)?;
        let said = view.said.map.get(&mailbox)?;
        let leaves = h.log(said);
        // The newest are where it is still open what they are.
        let at = match self.rng.permille(500) {
            true => leaves.len().checked_sub(1 + self.rng.index(3))?,
            false => self.rng.index(leaves.len().max(1)),
        };
        Some((view, mailbox, h.leaf(said, at)?))
    }

    fn wrong_entry(&mut self, h: &'a History) -> Option<Claim> {
        let (view, mailbox, entry) = self.attested_entry(h)?;
        let said = view.said.map.get(&mailbox)?;
        let seq = entry.leaf.seq;
        let other = self.or_other(h);
        let of_leaf = |batch: &&Batch| batch.place == Some((seq.epoch, seq.position as usize));
        let found = other.batches.iter().find(of_leaf);
        let wrong = match self.rng.below(8) {
            0 => {
                let step = if self.rng.permille(900) { 1 } else { self.rng.index(3) };
                Wrong::Order(Box::new(h.leaf(said, entry.index as usize + step)?))
            }
            1 => {
                let epoch = if self.rng.permille(900) { seq.epoch } else { self.epoch_near(other, seq.epoch) };
                Wrong::NoHeader(Box::new(other.certified(epoch)?.clone()))
            }
            2..=4 => {
                let batch = found?;
                let what = self.entry(batch, seq.index, &mailbox)?;
                Wrong::Other(Box::new(other.included(batch)?), Box::new(what))
            }
            _ => {
                let batch = found?;
                let included = other.included(batch)?;
                let node = view.said.attestation.body.node;
                let slice = match batch.slice_for(&node) {
                    Some(at) if self.rng.permille(850) => Some(batch.slice(at, &mailbox)),
                    _ if self.rng.permille(600) => Some(self.any_slice(batch, &mailbox)?),
                    _ => None,
                };
                Wrong::NotAddressed(Box::new(included), slice.map(Box::new))
            }
        };
        let home = self.home_near(other, &mailbox, view)?;
        let (attested, anchor) = (view.of(&mailbox), view.anchor.clone()?);
        Some(Claim::WrongEntry(Box::new(WrongEntry { mailbox, attested, anchor, entry, wrong, home })))
    }

    fn early_expiry(&mut self, h: &'a History) -> Option<Claim> {
        let (view, mailbox, mut entry) = self.attested_entry(h)?;
        let said = view.said.map.get(&mailbox)?;
        if self.rng.permille(600) && said.expired_to > 0 {
            // The last that was forgotten.
            let back = self.rng.below(said.expired_to.min(2));
            entry = h.leaf(said, (said.expired_to - 1 - back) as usize)?;
        }
        let other = self.or_other(h);
        let epoch = match self.rng.permille(900) {
            true => entry.leaf.settled,
            false => self.epoch_near(other, entry.leaf.settled),
        };
        let settled = other.certified(epoch)?.clone();
        let anchor = match self.rng.permille(900) {
            true => view.anchor.clone()?,
            false => self.view(h)?.anchor.clone()?,
        };
        let home = self.home_near(other, &mailbox, view)?;
        let attested = view.of(&mailbox);
        Some(Claim::EarlyExpiry(Box::new(EarlyExpiry { mailbox, attested, anchor, entry, settled, home })))
    }

    fn split_view(&mut self, h: &'a History) -> Option<Claim> {
        let a = (!h.views.is_empty()).then(|| &h.views[self.rng.index(h.views.len())])?;
        let other = self.or_other(h);
        let node = a.said.attestation.body.node;
        let own: Vec<&View> = other.views.iter().filter(|view| view.said.attestation.body.node == node).collect();
        let number = a.said.attestation.body.number;
        let near = |view: &&View| view.said.attestation.body.number.abs_diff(number) <= 1;
        let near: Vec<&View> = own.iter().copied().filter(near).collect();
        match self.rng.below(4) {
            0 => {
                let b = self.pick(&near)?;
                let (mut a, mut b) = (a.said.attestation.clone(), b.said.attestation.clone());
                if a.digest(&h.federation) > b.digest(&h.federation) {
                    std::mem::swap(&mut a, &mut b);
                }
                Some(Claim::SplitView(SplitView::Number(Box::new(a), Box::new(b))))
            }
            1 => {
                // Any header of that node that names an attestation.
                let anchors: Vec<&View> = near.into_iter().filter(|view| view.anchor.is_some()).collect();
                let anchor = self.pick(&anchors)?.anchor.clone()?;
                Some(Claim::SplitView(SplitView::Anchored(Box::new(a.said.attestation.clone()), Box::new(anchor))))
            }
            _ => {
                // What was restored in between is where logs may differ.
                let restarted = |view: &&View| {
                    view.said.attestation.body.incarnation != a.said.attestation.body.incarnation
                        && view.said.map.iter().any(|(mailbox, two)| {
                            let one = a.said.map.get(mailbox).map(|one| h.log(one));
                            one.is_some_and(|one| one.iter().zip(other.log(two)).any(|(one, two)| one != two))
                        })
                };
                let b = match self.rng.permille(200) {
                    true => own.iter().copied().find(restarted),
                    false => None,
                };
                let b = b.or_else(|| self.pick(&own))?;
                let rises = number < b.said.attestation.body.number;
                let (h1, a, h2, b) = if rises { (h, a, other, b) } else { (other, b, h, a) };
                let differ = |(mailbox, one): (&MailboxId, &_)| {
                    let two = b.said.map.get(mailbox)?;
                    h1.log(one).iter().zip(h2.log(two)).any(|(one, two)| one != two).then_some(*mailbox)
                };
                let differing = a.said.map.iter().find_map(differ);
                let mailbox = differing.or_else(|| self.mailbox(h, a))?;
                let entries = match (a.said.map.get(&mailbox), b.said.map.get(&mailbox)) {
                    (Some(one), Some(two)) if self.rng.permille(800) => {
                        let common = one.log.size.min(two.log.size) as usize;
                        let at = self.rng.index(common.max(1));
                        // At the first index that differs, if they do.
                        let (first, second) = (h1.log(one), h2.log(two));
                        let differs = first.iter().zip(second).position(|(one, two)| one != two);
                        let at = differs.unwrap_or(at);
                        Some((h1.leaf(one, at)?, h2.leaf(two, at)?))
                    }
                    _ => None,
                };
                let (earlier, later) = (a.of(&mailbox), b.of(&mailbox));
                let home = self.home_near(h2, &mailbox, b)?;
                Some(Claim::SplitView(SplitView::Logs(Box::new(SplitLogs { mailbox, earlier, later, entries, home }))))
            }
        }
    }

    fn loss(&mut self, h: &'a History) -> Option<Claim> {
        let epoch = 1 + self.rng.below(h.last_epoch());
        let real = (!h.losses.is_empty()).then(|| self.rng.index(h.losses.len()));
        let (lost, epoch) = match real.filter(|_| self.rng.permille(700)) {
            Some(at) => {
                let (settled, lost) = &h.losses[at];
                (lost.clone(), self.epoch_near(h, *settled))
            }
            None => {
                // Nobody has said so: the words of somebody who holds it, with a signature for something else.
                let state = &h.states[epoch as usize];
                let pending: Vec<_> =
                    state.all_pending().map(|(key, pending)| (*key, pending.holders.clone())).collect();
                let key = (!pending.is_empty()).then(|| self.rng.index(pending.len()))?;
                let (key, holders) = &pending[key];
                let holder = self.pick(holders)?;
                let signature: Signature = self.batch(h)?.header.signature;
                let body = Lost { holder, destination: key.destination, header: key.header };
                (Signed { body, signature }, epoch)
            }
        };
        let state = &h.states[epoch as usize];
        let key = PendingKey { destination: lost.body.destination, header: lost.body.header };
        let (owed, path) = match (state.pending(&key), state.lost(&key)) {
            (Some(pending), _) => (Owed::Pending(Box::new(pending.clone())), state.prove_pending(&key)),
            (None, Some(lost)) => (Owed::Delivered(*lost), state.prove_lost(&key)),
            (None, None) => {
                let (_, pending) = state.all_pending().next()?;
                (Owed::Pending(Box::new(pending.clone())), state.prove_pending(&key))
            }
        };
        let cut = self.or_other(h).certified(epoch)?.clone();
        Some(Claim::Loss(Box::new(Loss { lost, cut, owed, path, parts: state.parts() })))
    }

    fn invalid_cut(&mut self, h: &'a History) -> Option<Claim> {
        let epoch = 1 + self.rng.below(h.last_epoch());
        let other = self.or_other(h);
        let mut cut = other.cuts.get(epoch as usize - 1)?.clone();
        let before = if self.rng.permille(900) { epoch - 1 } else { self.epoch_near(h, epoch) };
        let mut claim = InvalidCut::of(&h.states[before as usize], h.certified(before).cloned(), cut.clone());
        match self.rng.below(8) {
            0 => drop(claim.state.pop()),
            1 => {
                let body = &other.cuts[self.rng.index(other.cuts.len())].body;
                cut.body = body.clone();
                claim.cut = cut;
            }
            2 if !cut.body.headers.is_empty() => {
                // The bytes of a header's signature are not what a cut commits to.
                let at = self.rng.index(cut.body.headers.len());
                let signature = &mut cut.body.headers[at].header.signature.0;
                signature[self.rng.index(64)] ^= 1;
                claim.cut = cut;
            }
            3 if !cut.body.records.is_empty() => {
                drop(cut.body.records.pop());
                claim.cut = cut;
            }
            4 if !cut.body.headers.is_empty() => {
                let at = self.rng.index(cut.body.headers.len());
                let header: &Signed<Header> = &cut.body.headers[at].header;
                let twin = h.batches.iter().find(|batch| batch.header.body.number == header.body.number)?;
                cut.body.headers[at].header = twin.header.clone();
                claim.cut = cut;
            }
            _ => {}
        }
        Some(Claim::InvalidCut(Box::new(claim)))
    }

    fn split_order(&mut self, h: &'a History) -> Option<Claim> {
        let epoch = 1 + self.rng.below(h.last_epoch());
        let other = self.or_other(h);
        let near = if self.rng.permille(500) { epoch } else { self.epoch_near(other, epoch) };
        let (a, b) = (h.certified(epoch)?.clone(), other.certified(near)?.clone());
        Some(Claim::SplitOrder(Box::new(SplitOrder::of(a, b, &h.federation))))
    }
}

/// Whether the home itself had signed for its slice when the cut settled it.
fn own_receipt(h: &History, batch: &Batch, node: &NodeId) -> Option<bool> {
    let (epoch, position) = batch.place?;
    let custody = h.cuts[epoch as usize - 1].body.headers[position].custody.get(batch.slice_for(node)?)?;
    Some(custody.receipts.first().is_some_and(|receipt| receipt.item.request.is_none()))
}
