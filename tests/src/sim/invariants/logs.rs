//! The logs recompute: every mailbox log is a function of the cuts and of what the batches hold. Here that function is
//! written once more, without slices, receivers and outboxes, and compared with the rows on the homes' disks.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::tables::{self, DELIVERED, LOGS, LogRow, META};
use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::decode;
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{Receipt, RefusedLeaf};
use postroad_protocol::record::Record;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};
use postroad_store::{Read, StoreError};

use super::{Broken, Verdict, broken};

const NAME: &str = "logs";

/// What one slice holds, by mailbox, before it is known when it is settled.
type Leaves = Vec<(MailboxId, LogLeaf)>;

/// All logs, as they must be.
#[derive(Debug, Default)]
pub(in crate::sim) struct Logs {
    epoch: u64,
    /// Where each mailbox lives, and since which epoch.
    homes: BTreeMap<MailboxId, (NodeId, u64)>,
    logs: BTreeMap<MailboxId, Vec<LogLeaf>>,
    /// Slices that are ordered and not filled, by destination and header.
    pending: BTreeMap<(NodeId, Digest), Leaves>,
    /// Mailboxes that an origin may have left out: their logs are not known.
    doubtful: BTreeSet<MailboxId>,
}

impl Logs {
    /// The next cut; `bundles` knows what is in the batch of a header.
    pub(in crate::sim) fn ordered<'b>(
        &mut self,
        cut: &Cut,
        bundles: impl Fn(&Digest) -> Option<&'b [Bundle]>,
        sinners: &BTreeSet<NodeId>,
        federation: &Federation,
    ) -> Verdict {
        let epoch = cut.certified.header.epoch;
        self.epoch = epoch;
        for record in &cut.body.records {
            if let Record::Register(signed) = record {
                let registration = &signed.owner.body;
                self.homes.entry(registration.mailbox).or_insert((registration.home, epoch));
            }
        }
        let mut filled = Leaves::new();
        for fill in &cut.body.fills {
            let leaves = self.pending.remove(&(fill.item.destination, fill.item.header));
            let leaves = leaves.into_iter().flatten();
            filled.extend(leaves.filter(|(mailbox, leaf)| !refuses(&fill.item.refused, mailbox, leaf)));
        }
        filled.sort_by_key(|(_, leaf)| leaf.seq);
        self.append(filled, epoch);
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let header = sealed.digest(federation);
            let Some(bundles) = bundles(&header) else {
                return broken(NAME, format!("nobody wrote down what is in header {position} of cut {epoch}"));
            };
            let mut parts = self.parts(bundles, epoch, position as u32);
            for (slice, custody) in sealed.header.body.slices.iter().zip(&sealed.custody) {
                let destination = slice.destination;
                let leaves = parts.remove(&destination).unwrap_or_default();
                let is_sinner = sinners.contains(&sealed.header.body.origin);
                if leaves.len() as u64 != slice.count && is_sinner {
                    self.doubtful.extend(leaves.iter().map(|(mailbox, _)| *mailbox));
                } else if leaves.len() as u64 != slice.count {
                    return broken(NAME, format!("header {position} of cut {epoch} counts its leaves wrongly"));
                }
                let own = |receipt: &&Receipt| receipt.holder() == destination && receipt.item.request.is_none();
                match custody.receipts.iter().find(own) {
                    Some(receipt) => {
                        let refused = &receipt.item.refused;
                        let taken = leaves.into_iter().filter(|(mailbox, leaf)| !refuses(refused, mailbox, leaf));
                        self.append(taken.collect(), epoch);
                    }
                    None => {
                        self.pending.insert((destination, header), leaves);
                    }
                }
            }
            if sinners.contains(&sealed.header.body.origin) {
                self.doubtful.extend(parts.values().flatten().map(|(mailbox, _)| *mailbox));
            } else if let Some((destination, _)) = parts.first_key_value() {
                return broken(NAME, format!("header {position} of cut {epoch} has no slice for {destination:?}"));
            }
        }
        Ok(())
    }

    fn parts(&self, bundles: &[Bundle], epoch: u64, position: u32) -> BTreeMap<NodeId, Leaves> {
        let mut parts: BTreeMap<NodeId, Leaves> = BTreeMap::new();
        for (index, message) in bundles.iter().flat_map(|bundle| &bundle.messages).enumerate() {
            let seq = Seq { epoch, position, index: index as u64 };
            let (id, recipients) = message.disclose();
            for recipient in recipients {
                if let Some((home, _)) = self.homes.get(&recipient.mailbox) {
                    let leaf = LogLeaf { settled: 0, seq, message: id, own: recipient.own_digest() };
                    parts.entry(*home).or_default().push((recipient.mailbox, leaf));
                }
            }
        }
        parts
    }

    fn append(&mut self, leaves: Leaves, settled: u64) {
        for (mailbox, leaf) in leaves {
            self.logs.entry(mailbox).or_default().push(LogLeaf { settled, ..leaf });
        }
    }

    /// The last cut.
    pub(in crate::sim) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A mailbox's log up to an epoch.
    pub(in crate::sim) fn up_to(&self, mailbox: &MailboxId, epoch: u64) -> &[LogLeaf] {
        let log = self.logs.get(mailbox).map_or(&[][..], Vec::as_slice);
        &log[..log.partition_point(|leaf| leaf.settled <= epoch)]
    }

    /// Whether an origin may have left a mailbox out.
    pub(in crate::sim) fn is_doubtful(&self, mailbox: &MailboxId) -> bool {
        self.doubtful.contains(mailbox)
    }

    /// All logs.
    pub(in crate::sim) fn all(&self) -> impl Iterator<Item = (&MailboxId, &[LogLeaf])> {
        self.logs.iter().map(|(mailbox, log)| (mailbox, log.as_slice()))
    }

    /// Where a mailbox lives, and since which epoch.
    pub(in crate::sim) fn home(&self, mailbox: &MailboxId) -> Option<(NodeId, u64)> {
        self.homes.get(mailbox).copied()
    }

    /// The mailboxes of a node since an epoch or before.
    pub(in crate::sim) fn hosted(&self, node: NodeId, epoch: u64) -> impl Iterator<Item = &MailboxId> {
        let here = move |home: &(NodeId, u64)| home.0 == node && home.1 <= epoch;
        self.homes.iter().filter(move |(_, home)| here(home)).map(|(mailbox, _)| mailbox)
    }

    /// The logs of a node, as they are on its disk.
    pub(in crate::sim) fn on_disk(&self, at: usize, id: NodeId, disk: &dyn Read) -> Verdict {
        let unreadable = |error: StoreError| Broken { invariant: NAME, what: format!("node {at}: {error}") };
        let delivered = tables::get::<u64>(disk, META, DELIVERED).map_err(unreadable)?.unwrap_or(0);
        let mut found: BTreeMap<MailboxId, Vec<LogLeaf>> = BTreeMap::new();
        for (key, value) in disk.range(LOGS, &[], &[], usize::MAX).map_err(unreadable)? {
            let mailbox = key.first_chunk().copied().map(MailboxId::from);
            let (Some(mailbox), Ok(row)) = (mailbox, decode::<LogRow>(&value)) else {
                return broken(NAME, format!("node {at} has a row in its logs that is none"));
            };
            let log = found.entry(mailbox).or_default();
            if tables::key_number(&key) != log.len() as u64 {
                return broken(NAME, format!("node {at} has no entry {} of {mailbox:?}", log.len()));
            }
            log.extend(row.log_leaves());
        }
        for mailbox in self.hosted(id, delivered) {
            let found = found.remove(mailbox).unwrap_or_default();
            let wanted = self.up_to(mailbox, delivered);
            // A node may be ahead of the last cut that was looked at.
            let is_known = !self.doubtful.contains(mailbox);
            if is_known && (!found.starts_with(wanted) || delivered <= self.epoch && found.len() != wanted.len()) {
                let (found, wanted) = (found.len(), wanted.len());
                return broken(
                    NAME,
                    format!("node {at} has {found} entries of {mailbox:?} at epoch {delivered}, not these {wanted}"),
                );
            }
        }
        Ok(())
    }
}

fn refuses(refused: &[RefusedLeaf], mailbox: &MailboxId, leaf: &LogLeaf) -> bool {
    refused.iter().any(|refused| refused.mailbox == *mailbox && refused.index == leaf.seq.index)
}
