//! What a node can show of the way of a message: read from committed rows and a recent state, beside the engine.
//!
//! The cut, the receipts, the fill and the directory are every node's. What the slice holds for the mailbox is shown by
//! those who have the slice; what the batch holds, by its origin; what the log holds, by the home. All of it is digests
//! and signatures. Work is bounded: a fill or an anchor that does not stand among the next cuts is not found here.

use postroad_protocol::attestation::{Anchor, LogLeaf};
use postroad_protocol::bundle::message_tree;
use postroad_protocol::cut::{CertifiedCut, Cut, HeaderProof};
use postroad_protocol::digest::Digest;
use postroad_protocol::entry::EntryProof;
use postroad_protocol::evidence::{BundleAt, Included, MessageAt, RecipientAt};
use postroad_protocol::explanation::{Disclosed, Explanation, LogOrder, LossProof, Residence};
use postroad_protocol::message::{Message, common_digest};
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::state::{PendingKey, State};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Federation, MailboxId, NodeId, PublicKey, Seq};
use postroad_store::{Read, StoreError};

use crate::tables::{self, BATCHES, CUTS, LOGS, LogRow, SLICES, StoredBatch};

/// Cuts that are looked through for a fill or an anchor, at most, and their bytes.
const MAX_CUTS: u64 = 16_384;
const MAX_CUTS_BYTES: usize = 64 << 20;

/// Who explains, as of which state, to whom.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// This node.
    pub me: NodeId,
    /// The federation.
    pub federation: &'a Federation,
    /// A recent state.
    pub state: &'a State,
    /// The cut that certifies it.
    pub cut: Option<&'a CertifiedCut>,
    /// Who asks.
    pub asker: PublicKey,
}

impl Asked<'_> {
    /// What this node has of the way of the message at `seq` to `mailbox`, except the home's word on its log: see
    /// [`located`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn explain(&self, store: &dyn Read, mailbox: MailboxId, seq: Seq) -> Result<Explanation, StoreError> {
        let mut explanation = Explanation::new(mailbox, seq);
        if let Some(cut) = self.cut {
            explanation.residence = Some(Residence { home: self.state.prove_home(&mailbox, cut.clone()), loss: None });
        }
        let Some(cut) = load_cut(store, seq.epoch)? else { return Ok(explanation) };
        let at = seq.position as usize;
        let Some(order) = cut.body.header_proofs(self.federation).into_iter().nth(at) else { return Ok(explanation) };
        explanation.custody.clone_from(&cut.body.headers[at].custody);
        let header = order.header.clone();
        let digest = header.digest(self.federation);
        explanation.included = Some(Included { cut: cut.certified, order: order.clone() });
        let Some(home) = explanation.home().filter(|home| header.body.slice(home).is_some()) else {
            let origin = header.body.origin == self.me;
            if let Some((_, batch)) = self.batch(store, header.body.number, digest, origin)? {
                explanation.disclosed = self.disclosed(&batch, mailbox, seq).map(Box::new);
            }
            return Ok(explanation);
        };
        let key = PendingKey { destination: home, header: digest };
        if let Some(residence) = &mut explanation.residence {
            let value = self.state.lost(&key).copied();
            residence.loss = Some(LossProof { value, path: self.state.prove_lost(&key) });
            if let Some(value) = value {
                explanation.lost = lost_word(store, value.epoch, &key)?;
            }
        }
        if explanation.log_order(self.federation).is_none() && self.state.pending(&key).is_none() {
            explanation.fill = find_fill(store, seq.epoch, self.state.epoch, &key)?.map(Box::new);
        }
        let slice =
            SliceKey { origin: header.body.origin, number: header.body.number, header: digest, destination: home };
        self.show_slice(store, &slice, order, &mut explanation)?;
        Ok(explanation)
    }

    /// What the slice and the batch hold for the mailbox, to those whom it concerns.
    fn show_slice(
        &self,
        store: &dyn Read,
        key: &SliceKey,
        order: HeaderProof,
        explanation: &mut Explanation,
    ) -> Result<(), StoreError> {
        let (mailbox, seq) = (explanation.mailbox, explanation.seq);
        let bundles = order.header.body.entries.bundles;
        if let Some(parcel) = tables::get::<SliceParcel>(store, SLICES, &tables::slice_key(key))? {
            self.show(&parcel.body, bundles, Some(order), explanation);
        } else if let Some((body, batch)) =
            self.batch(store, key.number, key.header, key.origin == self.me)?.map(|(bodies, batch)| {
                let at = batch.header.slices.iter().position(|slice| slice.destination == key.destination);
                (at.and_then(|at| bodies.into_iter().nth(at)), batch)
            })
        {
            let disclosed = self.disclosed(&batch, mailbox, seq);
            if let Some(body) = body {
                self.show(&body, bundles, None, explanation);
                if disclosed.is_some() && explanation.slice.is_none() {
                    // The sender of something that the slice does not hold for the mailbox.
                    explanation.slice = self.prove(&body, bundles, mailbox);
                }
            }
            explanation.disclosed = disclosed.map(Box::new);
        }
        Ok(())
    }

    fn prove(
        &self,
        body: &SliceBody,
        bundles: u32,
        mailbox: MailboxId,
    ) -> Option<postroad_protocol::evidence::SliceProof> {
        body.index(bundles, self.federation.id()).ok().map(|index| index.prove(&mailbox))
    }

    /// Shows the slice's leaf for the mailbox to the recipient, the sender and to nodes; and with `order` the message as
    /// it stands there to the first two.
    fn show(&self, body: &SliceBody, bundles: u32, order: Option<HeaderProof>, explanation: &mut Explanation) {
        let Ok(index) = body.index(bundles, self.federation.id()) else { return };
        let mailbox = explanation.mailbox;
        let leaves = index.leaves().get(&mailbox).map_or(&[][..], Vec::as_slice);
        let leaf = leaves.iter().find(|leaf| leaf.index == explanation.seq.index);
        let concerned =
            self.asker == mailbox || leaf.and_then(|leaf| index.sender(leaf)).is_some_and(|it| *it == self.asker);
        if concerned || self.state.node(&self.asker).is_some() {
            explanation.slice = Some(index.prove(&mailbox));
        }
        if let (true, Some(leaf), Some(order)) = (concerned, leaf, order) {
            let entry = EntryProof::of(body, leaf, order);
            explanation.disclosed = entry.and_then(|entry| Disclosed::of(&entry).ok()).map(Box::new);
        }
    }

    /// A batch of this node's own, with its slices.
    fn batch(
        &self,
        store: &dyn Read,
        number: u64,
        digest: Digest,
        is_mine: bool,
    ) -> Result<Option<(Vec<SliceBody>, StoredBatch)>, StoreError> {
        if !is_mine {
            return Ok(None);
        }
        let batch = tables::get::<StoredBatch>(store, BATCHES, &tables::number_key(number))?;
        let batch = batch.filter(|batch| batch.header.digest(self.federation.id()) == digest);
        Ok(batch.map(|batch| (batch.route(self.federation.id()).bodies, batch)))
    }

    /// The message at `seq` of a batch of this node's own, to its sender and to the recipient.
    fn disclosed(&self, batch: &StoredBatch, mailbox: MailboxId, seq: Seq) -> Option<Disclosed> {
        let mut first = 0;
        let (ordinal, bundle) = batch.bundles.iter().enumerate().find(|(_, bundle)| {
            let count = bundle.messages.len() as u64;
            let holds = (first..first + count).contains(&seq.index);
            if !holds {
                first += count;
            }
            holds
        })?;
        if self.asker != mailbox && self.asker != bundle.signed.body.sender {
            return None;
        }
        let index = usize::try_from(seq.index - first).ok()?;
        let message = bundle.messages.get(index)?;
        let digests: Vec<Digest> = bundle.messages.iter().map(Message::digest).collect();
        let (digest, recipients) = message.disclose();
        let count = recipients.len() as u32;
        let recipient = recipients.into_iter().find(|recipient| recipient.mailbox == mailbox)?;
        let path = postroad_protocol::batch::bundle_path(&batch.bundles, ordinal, self.federation.id());
        Some(Disclosed {
            message: MessageAt {
                bundle: BundleAt { ordinal: ordinal as u32, signed: bundle.signed.clone(), path },
                index: index as u32,
                message: digest,
                path: message_tree(&digests).path(index),
            },
            recipient: RecipientAt {
                position: recipient.position,
                count,
                mailbox,
                salt: recipient.salt,
                own: recipient.own_digest(),
                common: common_digest(&message.common),
                path: recipient.path,
            },
        })
    }
}

fn load_cut(store: &dyn Read, epoch: u64) -> Result<Option<Cut>, StoreError> {
    tables::get(store, CUTS, &tables::number_key(epoch))
}

/// The home's word in the cut that settled it.
fn lost_word(
    store: &dyn Read,
    epoch: u64,
    key: &PendingKey,
) -> Result<Option<postroad_protocol::Signed<postroad_protocol::challenge::Lost>>, StoreError> {
    let records = load_cut(store, epoch)?.map_or_else(Vec::new, |cut| cut.body.records);
    Ok(records.into_iter().find_map(|record| match record {
        Record::Lost(lost) => {
            let body = &lost.body;
            let is_it = (body.destination, body.header) == (key.destination, key.header);
            (is_it && body.holder == body.destination).then_some(lost)
        }
        _ => None,
    }))
}

/// Looks through cuts, from `first` on, or back from it, until `found` says something or it has been enough.
fn search<T>(
    store: &dyn Read,
    epochs: impl Iterator<Item = u64>,
    worth: impl Fn(&CertifiedCut) -> bool,
    mut found: impl FnMut(Cut) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    let mut bytes = 0;
    for epoch in epochs.take(MAX_CUTS as usize) {
        let key = tables::number_key(epoch);
        let Some(row) = store.get(CUTS, &key)? else { return Ok(None) };
        bytes += row.len();
        // Most cuts are passed over after their first field.
        let certified = crate::serve::certified_in(&row, &key)?;
        if worth(&certified)
            && let Some(found) = found(tables::read(CUTS, &key, &row)?)
        {
            return Ok(Some(found));
        }
        if bytes > MAX_CUTS_BYTES {
            break;
        }
    }
    Ok(None)
}

/// The fill of a slice that was ordered in `ordered`.
fn find_fill(store: &dyn Read, ordered: u64, head: u64, key: &PendingKey) -> Result<Option<SettledFill>, StoreError> {
    let has_fills = |cut: &CertifiedCut| cut.header.fills.count > 0;
    search(store, ordered.saturating_add(1)..=head, has_fills, |cut| SettledFill::find(&cut, key))
}

/// The header that made attestation `number` of `node` final, or its last one.
///
/// # Errors
/// [`StoreError`].
pub fn anchored(
    store: &dyn Read,
    state: &State,
    federation: &Federation,
    node: &NodeId,
    number: Option<u64>,
) -> Result<Option<Anchor>, StoreError> {
    let Some(last) = state.node(node).and_then(|known| known.last_attestation) else { return Ok(None) };
    let number = number.unwrap_or(last.attestation.number);
    // They rise, so there is none of that number below a lower one.
    let mut is_below = number > last.attestation.number;
    let epochs = (1..=last.epoch).rev();
    let has_headers = |cut: &CertifiedCut| cut.header.headers.count > 0;
    let found = search(store, epochs, has_headers, |cut| {
        let mut named = None;
        for (at, sealed) in cut.body.headers.iter().enumerate().rev() {
            let header = &sealed.header.body;
            if let Some(attestation) = header.attestation.filter(|_| header.origin == *node) {
                is_below |= attestation.number < number;
                if attestation.number == number {
                    named = Some(at);
                }
            }
        }
        match named {
            Some(at) => {
                let header = cut.body.header_proofs(federation).into_iter().nth(at);
                Some(header.map(|header| Anchor { cut: cut.certified, header }))
            }
            None => is_below.then_some(None),
        }
    });
    Ok(found?.flatten())
}

/// What a log of `size` entries holds at a place in log order: the entry, or those before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// The entry, with its index.
    Entry(u64, LogLeaf),
    /// The entries between which it would stand.
    Gap(Option<(u64, LogLeaf)>, Option<(u64, LogLeaf)>),
}

/// Looks for a place in a mailbox's log.
///
/// # Errors
/// [`StoreError`]; a log with fewer entries is [`StoreError::Corrupt`].
pub fn located(store: &dyn Read, mailbox: &MailboxId, size: u64, order: LogOrder) -> Result<Located, StoreError> {
    let leaf = |index: u64| -> Result<(u64, LogLeaf), StoreError> {
        let corrupt = || StoreError::Corrupt { table: LOGS, key: tables::mailbox_key(mailbox, index) };
        let (first, end) = (tables::mailbox_key(mailbox, 0), tables::mailbox_key(mailbox, index.saturating_add(1)));
        let (key, value) = store.last(LOGS, &first, &end)?.ok_or_else(corrupt)?;
        let row: LogRow = tables::read(LOGS, &key, &value)?;
        let at = usize::try_from(index - tables::key_number(&key)).ok();
        let leaf = at.and_then(|at| row.log_leaves().nth(at)).ok_or_else(corrupt)?;
        Ok((index, leaf))
    };
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        if leaf(middle)?.1.order() < order {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let after = if low < size { Some(leaf(low)?) } else { None };
    match after {
        Some((index, found)) if found.seq == order.2 => Ok(Located::Entry(index, found)),
        after => Ok(Located::Gap(low.checked_sub(1).map(leaf).transpose()?, after)),
    }
}
