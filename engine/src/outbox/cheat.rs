//! The sins of a home.

use std::collections::BTreeMap;

use postroad_protocol::attestation::{AttestedLog, LogHead, MailboxAttestation};
use postroad_protocol::codec::decode;
use postroad_protocol::entry::EntryProof;
use postroad_protocol::message::common_digest;
use postroad_protocol::slice::{SliceBody, SliceKey, SliceLeaf};
use postroad_protocol::{Federation, MailboxId, NodeId, Signed};
use postroad_store::{Read, StoreError, Write};

use super::{AttestedView, Outbox};
use crate::cheat::{Sin, Temptation};
use crate::slices::load_body;
use crate::tables::{self, EXPIRED, LOGS, LogRow, META};

/// [`META`]: the row that is held back, and whose it is.
const HELD_BACK: &[u8] = b"held-back";
/// Rounds of housekeeping for which a row is held back: then it takes its lawful place.
const PATIENCE: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Home {
    pub(crate) temptation: Temptation,
    /// The slice whose entries are appended next, for who alters them.
    body: Option<SliceBody>,
    /// A row that is to follow the next one of its mailbox, and since how many rounds it waits.
    held_back: Option<(MailboxId, LogRow, u32)>,
    attested: bool,
    /// Mailboxes that have left and are attested all the same, and whether one was since.
    kept: BTreeMap<MailboxId, bool>,
}

/// What a sinner makes of a payload.
pub(crate) fn altered(common: &[u8]) -> Vec<u8> {
    let mut common = common.to_vec();
    match common.last_mut() {
        Some(last) => *last ^= 1,
        None => common.push(1),
    }
    common
}

/// An entry is served so that it agrees with its leaf in the log.
pub(crate) fn serve_as_logged(mut proof: EntryProof, leaf: &SliceLeaf) -> EntryProof {
    if proof.recipient.message(proof.recipient_count, common_digest(&proof.common)) != Some(leaf.message) {
        proof.common = altered(&proof.common);
    }
    proof
}

impl Home {
    /// The entries of a slice are appended next.
    pub(crate) fn study(
        &mut self,
        key: &SliceKey,
        me: &NodeId,
        federation: &Federation,
        store: &dyn Read,
    ) -> Result<(), StoreError> {
        if self.temptation.is(Sin::Alter) {
            self.body = load_body(key, me, federation, store)?.map(|(_, body)| body);
        }
        Ok(())
    }

    /// What becomes of the leaves that one slice adds to one log.
    pub(super) fn spoil(&mut self, mut leaves: Vec<SliceLeaf>, settled: u64) -> Vec<SliceLeaf> {
        leaves.retain(|_| !self.temptation.sins(Sin::Drop, settled));
        for leaf in &mut leaves {
            let of_leaf = |body: &SliceBody| {
                let message = body.bundles.get(leaf.bundle_at as usize)?.messages.get(leaf.message_at as usize)?;
                let recipient = message.recipients.get(leaf.recipient_at as usize)?;
                recipient.message(message.recipient_count, common_digest(&altered(&message.common)))
            };
            if let Some(message) = self.body.as_ref().and_then(of_leaf)
                && self.temptation.sins(Sin::Alter, settled)
            {
                leaf.message = message;
            }
        }
        leaves
    }

    /// The rows that are appended to a log instead of this one. One that is held back is on disk under a name of its own.
    pub(super) fn reorder(&mut self, mailbox: &MailboxId, mut row: LogRow, writes: &mut Vec<Write>) -> Vec<LogRow> {
        if let Some((_, held, _)) = self.held_back.take_if(|(of, ..)| of == mailbox) {
            writes.push(tables::delete(META, HELD_BACK));
            self.temptation.sinned(row.settled);
            return vec![row, held];
        }
        if self.held_back.is_some() || !self.temptation.yields(Sin::WrongOrder) {
            return vec![row];
        }
        if let [first, second, ..] = row.leaves.as_mut_slice() {
            std::mem::swap(first, second);
            self.temptation.sinned(row.settled);
            return vec![row];
        }
        writes.push(tables::put(META, HELD_BACK, &(*mailbox, row.clone())));
        self.held_back = Some((*mailbox, row, 0));
        Vec::new()
    }

    /// What of an import's rows is appended.
    pub(crate) fn leave_out(&mut self, mut rows: Vec<(MailboxId, LogRow)>, settled: u64) -> Vec<(MailboxId, LogRow)> {
        rows.retain(|_| !self.temptation.sins(Sin::ImportDrop, settled));
        rows
    }

    /// A mailbox has left. Returns whether its log is attested all the same, as it is now.
    pub(super) fn keeps(&mut self, mailbox: &MailboxId) -> bool {
        let yields = self.temptation.yields(Sin::FalseHome);
        if yields {
            self.kept.insert(*mailbox, false);
        }
        yields
    }

    /// A mailbox that has left is here again, in truth. Returns whether it was attested all the same.
    pub(super) fn lets_go(&mut self, mailbox: &MailboxId) -> bool {
        self.kept.remove(mailbox).is_some()
    }

    /// An attestation of this epoch begins: it names what is kept.
    pub(super) fn names_kept(&mut self, epoch: u64) {
        for attested in self.kept.values_mut().filter(|attested| !**attested) {
            *attested = true;
            self.temptation.sinned(epoch);
        }
    }

    /// Whether there is nothing to attest: an attestation now would show that an entry is missing.
    pub(super) fn attests_nothing(&mut self, epoch: u64) -> bool {
        self.held_back.is_some()
            || std::mem::replace(&mut self.attested, true) && self.temptation.sins(Sin::MuteAttestations, epoch)
    }
}

impl Outbox {
    /// The node is to cheat.
    pub(crate) fn tempt(&mut self, temptation: Temptation, store: &dyn Read) -> Result<(), StoreError> {
        self.cheat.temptation = temptation;
        if let Some(row) = store.get(META, HELD_BACK)? {
            let corrupt = |_| StoreError::Corrupt { table: META, key: HELD_BACK.to_vec() };
            let (mailbox, row) = decode(&row).map_err(corrupt)?;
            self.cheat.held_back = Some((mailbox, row, 0));
        }
        Ok(())
    }

    /// Whether a mailbox that has left is attested all the same.
    pub(crate) fn keeps(&self, mailbox: &MailboxId) -> bool {
        self.cheat.kept.contains_key(mailbox)
    }

    /// The log of a mailbox without its last entry, which it has under that root; where it is not here any more, fewer
    /// entries under the same root.
    pub(crate) fn shortened(&self, mailbox: &MailboxId, log: LogHead) -> Option<LogHead> {
        let size = log.size.checked_sub(1)?;
        let here = self.logs.get(mailbox).filter(|known| known.log.root_at(log.size) == Some(log.root));
        Some(LogHead { size, root: here.and_then(|known| known.log.root_at(size)).unwrap_or(log.root) })
    }

    /// A round of housekeeping: a row that nothing followed takes its place.
    pub(crate) fn give_back(&mut self) -> Vec<Write> {
        let Some((_, _, rounds)) = &mut self.cheat.held_back else { return Vec::new() };
        *rounds += 1;
        if *rounds <= PATIENCE {
            return Vec::new();
        }
        let Some((mailbox, row, _)) = self.cheat.held_back.take() else { return Vec::new() };
        let Some(log) = self.logs.get_mut(&mailbox) else { return Vec::new() };
        self.cheat.temptation.repent();
        let key = tables::mailbox_key(&mailbox, log.log.size());
        log.push(&row, self.expired);
        self.due.entry(row.settled).or_default().insert(mailbox);
        self.map.insert(mailbox, log.attested());
        vec![tables::delete(META, HELD_BACK), tables::put(LOGS, key, &row)]
    }

    /// Before an attestation of everything up to `epoch` begins: all of it is past retention, if an owner has not
    /// acknowledged some of it. The write comes before the attestation's.
    pub(crate) fn expire_early(&mut self, epoch: u64) -> Option<Write> {
        let begins =
            self.incarnation > 0 && self.begun.is_none() && self.fresh.is_none() && epoch > self.attested_epoch;
        let tempting = begins && self.logs.values().any(|log| !log.open.is_empty());
        if !tempting || !self.cheat.temptation.sins(Sin::EarlyExpiry, epoch) {
            return None;
        }
        self.expire(epoch);
        Some(tables::put(META, EXPIRED, &epoch))
    }

    /// The attestation as it is shown: to the owner of the log that grew last another one, until this one is anchored.
    pub(super) fn split(&mut self, mut view: AttestedView) -> AttestedView {
        let latest = self.logs.iter().filter(|(_, log)| log.log.size() > 0).max_by_key(|(_, log)| log.last_epoch);
        let Some((mailbox, log)) = latest else { return view };
        let size = log.log.size() - 1;
        // Of an entry that is past retention the epoch is not here any more.
        if log.expired_to > 0 && log.expired_to >= size {
            return view;
        }
        let last_epoch = log.ends.iter().find(|(_, end)| *end >= size).map_or(0, |(settled, _)| *settled);
        let (Some(root), Some(true_log)) = (log.log.root_at(size), view.map.get(mailbox)) else { return view };
        let false_log = AttestedLog {
            log: LogHead { size, root },
            last_epoch: if size == 0 { 0 } else { last_epoch },
            expired_to: true_log.expired_to.min(size),
            acknowledged: true_log.acknowledged.clone().filter(|known| known.body.log.size <= size),
        };
        let body = &view.attestation.body;
        if !self.cheat.temptation.sins(Sin::SplitView, body.epoch) {
            return view;
        }
        let mut map = view.map.clone();
        map.insert(*mailbox, false_log.clone());
        let mut body = body.clone();
        body.root = map.root();
        let attestation = Signed::sign(body, &self.secret, &self.federation).into_inner();
        let proof = map.prove(mailbox);
        view.other =
            Some(Box::new((*mailbox, MailboxAttestation { attestation, log: false_log, proof, anchor: None })));
        view
    }
}

#[cfg(test)]
mod tests;
