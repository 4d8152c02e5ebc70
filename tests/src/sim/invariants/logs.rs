//! The logs recompute: every mailbox log is a function of the cuts and of what the batches hold. Here that function is
//! written once more, without slices, receivers, outboxes and arrivals, and compared with the rows on the homes' disks.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::tables::{self, DELIVERED, EDGES, Edge, LOGS, LogRow, META};
use postroad_protocol::attestation::{LogHead, LogLeaf};
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::decode;
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{Receipt, RefusedLeaf};
use postroad_protocol::state::State;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};
use postroad_store::{Read, StoreError};

use super::residences::{Residence, Residences};
use super::{Broken, Verdict, broken};

pub(super) const NAME: &str = "logs";

/// What one slice holds, by mailbox, before it is known when it is settled.
type Leaves = Vec<(MailboxId, LogLeaf)>;

/// All logs, as they must be.
#[derive(Debug, Default)]
pub(in crate::sim) struct Logs {
    epoch: u64,
    residences: Residences,
    /// Slices that are ordered and not filled, by destination and header.
    pending: BTreeMap<(NodeId, Digest), Leaves>,
    /// Mailboxes that an origin may have left out, or that a liar had: their logs are not known.
    doubtful: BTreeSet<MailboxId>,
}

impl Logs {
    /// The next cut, and the state after it; `bundles` knows what is in the batch of a header.
    pub(in crate::sim) fn ordered<'b>(
        &mut self,
        cut: &Cut,
        state: &State,
        bundles: impl Fn(&Digest) -> Option<&'b [Bundle]>,
        (sinners, liars): (&BTreeSet<NodeId>, &BTreeSet<NodeId>),
        federation: &Federation,
    ) -> Verdict {
        let epoch = cut.certified.header.epoch;
        self.epoch = epoch;
        self.residences.begin(epoch, state);
        if !liars.is_empty() {
            let at_liars = self.residences.last().filter(|(_, residence)| liars.contains(&residence.node));
            self.doubtful.extend(at_liars.map(|(mailbox, _)| *mailbox));
        }
        for fill in &cut.body.fills {
            let destination = fill.item.destination;
            let leaves = self.pending.remove(&(destination, fill.item.header));
            for (mailbox, leaf) in leaves.into_iter().flatten() {
                let refused = refuses(&fill.item.refused, &mailbox, &leaf);
                self.residences.settled(&mailbox, leaf.seq, epoch, refused);
            }
        }
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let header = sealed.digest(federation);
            let Some(bundles) = bundles(&header) else {
                return broken(NAME, format!("nobody wrote down what is in header {position} of cut {epoch}"));
            };
            let (origin, routing_epoch) = (sealed.header.body.origin, sealed.header.body.routing_epoch);
            let mut parts = self.parts(bundles, epoch, position as u32, routing_epoch);
            for (slice, custody) in sealed.header.body.slices.iter().zip(&sealed.custody) {
                let destination = slice.destination;
                let leaves = parts.remove(&destination).unwrap_or_default();
                let is_sinner = sinners.contains(&origin);
                if leaves.len() as u64 != slice.count && is_sinner {
                    self.doubtful.extend(leaves.iter().map(|(mailbox, _)| *mailbox));
                } else if leaves.len() as u64 != slice.count {
                    return broken(NAME, format!("header {position} of cut {epoch} counts its leaves wrongly"));
                }
                for (mailbox, leaf) in &leaves {
                    self.residences.routed(mailbox, *leaf, destination, origin, routing_epoch);
                }
                let own = |receipt: &&Receipt| receipt.holder() == destination && receipt.item.request.is_none();
                match custody.receipts.iter().find(own) {
                    Some(receipt) => {
                        for (mailbox, leaf) in leaves {
                            let refused = refuses(&receipt.item.refused, &mailbox, &leaf);
                            self.residences.settled(&mailbox, leaf.seq, epoch, refused);
                        }
                    }
                    None => {
                        self.pending.insert((destination, header), leaves);
                    }
                }
            }
            if sinners.contains(&origin) {
                self.doubtful.extend(parts.values().flatten().map(|(mailbox, _)| *mailbox));
            } else if let Some((destination, _)) = parts.first_key_value() {
                return broken(NAME, format!("header {position} of cut {epoch} has no slice for {destination:?}"));
            }
        }
        let doubtful = &self.doubtful;
        self.residences.end(cut, state, |mailbox| doubtful.contains(mailbox))
    }

    /// What is in a header, by the homes that its recipients had in its routing epoch.
    fn parts(&self, bundles: &[Bundle], epoch: u64, position: u32, routing_epoch: u64) -> BTreeMap<NodeId, Leaves> {
        let mut parts: BTreeMap<NodeId, Leaves> = BTreeMap::new();
        for (index, message) in bundles.iter().flat_map(|bundle| &bundle.messages).enumerate() {
            let seq = Seq { epoch, position, index: index as u64 };
            let (id, recipients) = message.disclose();
            for recipient in recipients {
                if let Some(home) = self.residences.home_at(&recipient.mailbox, routing_epoch) {
                    let leaf = LogLeaf { settled: 0, seq, message: id, own: recipient.own_digest() };
                    parts.entry(home).or_default().push((recipient.mailbox, leaf));
                }
            }
        }
        parts
    }

    /// The last cut.
    pub(in crate::sim) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether an origin may have left a mailbox out.
    pub(in crate::sim) fn is_doubtful(&self, mailbox: &MailboxId) -> bool {
        self.doubtful.contains(mailbox)
    }

    /// All mailboxes, with the residences that last.
    pub(in crate::sim) fn all(&self) -> impl Iterator<Item = (&MailboxId, &Residence)> {
        self.residences.last()
    }

    /// A mailbox's log at its home, as far as it is known.
    pub(in crate::sim) fn present(&self, mailbox: &MailboxId) -> Option<&Residence> {
        self.residences.of(mailbox).last()
    }

    /// A mailbox's residence at a node in an epoch.
    pub(in crate::sim) fn residence(&self, mailbox: &MailboxId, node: &NodeId, epoch: u64) -> Option<&Residence> {
        self.residences.of(mailbox).iter().find(|residence| residence.is_at(node, epoch))
    }

    /// Whether a log of this head may be that of a residence whose base no import has told yet.
    pub(in crate::sim) fn may_be(&self, mailbox: &MailboxId, residence: &Residence, epoch: u64, log: LogHead) -> bool {
        self.residences.may_be(mailbox, residence, epoch, log)
    }

    /// The mailboxes of a node in an epoch.
    pub(in crate::sim) fn hosted(&self, node: NodeId, epoch: u64) -> impl Iterator<Item = (&MailboxId, &Residence)> {
        self.residences.all().filter(move |(_, residence)| residence.is_at(&node, epoch))
    }

    /// The logs of a node, as they are on its disk.
    pub(in crate::sim) fn on_disk(&self, at: usize, id: NodeId, disk: &dyn Read) -> Verdict {
        let unreadable = |error: StoreError| Broken { invariant: NAME, what: format!("node {at}: {error}") };
        let delivered = tables::get::<u64>(disk, META, DELIVERED).map_err(unreadable)?.unwrap_or(0);
        for (mailbox, residence) in self.hosted(id, delivered) {
            if !residence.is_known(delivered) || self.doubtful.contains(mailbox) {
                continue;
            }
            let edge: Option<Edge> = tables::get(disk, EDGES, &mailbox.0).map_err(unreadable)?;
            let begin = edge.map_or(0, |edge| edge.frontier.size());
            let mut found: Vec<LogLeaf> = Vec::new();
            let (from, to) = (tables::mailbox_key(mailbox, 0), tables::mailbox_key(mailbox, u64::MAX));
            for (key, value) in disk.range(LOGS, &from, &to, usize::MAX).map_err(unreadable)? {
                let Ok(row) = decode::<LogRow>(&value) else {
                    return broken(NAME, format!("node {at} has a row in its logs that is none"));
                };
                if tables::key_number(&key) != begin + found.len() as u64 {
                    return broken(
                        NAME,
                        format!("node {at} has no entry {} of {mailbox:?}", begin as usize + found.len()),
                    );
                }
                found.extend(row.log_leaves());
            }
            let wanted = residence.up_to(delivered);
            let wanted = wanted.get(begin as usize..).unwrap_or_default();
            // A node may be ahead of the last cut that was looked at.
            if !found.starts_with(wanted) || delivered <= self.epoch && found.len() != wanted.len() {
                let (found, wanted) = (found.len(), wanted.len());
                return broken(
                    NAME,
                    format!(
                        "node {at} has {found} entries of {mailbox:?} from {begin} on at epoch {delivered}, not these \
                         {wanted}"
                    ),
                );
            }
        }
        Ok(())
    }
}

fn refuses(refused: &[RefusedLeaf], mailbox: &MailboxId, leaf: &LogLeaf) -> bool {
    refused.iter().any(|refused| refused.mailbox == *mailbox && refused.index == leaf.seq.index)
}
