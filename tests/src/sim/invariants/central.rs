//! The federation is indistinguishable from a central server: fed with the bundles in the certified order, the reference
//! model has in every mailbox what the recipients verified, in the same order.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::batch::Entries;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

use super::{Verdict, broken};
use crate::reference::Central;

const NAME: &str = "central";

/// What one recipient verified of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Got {
    pub(in crate::sim) id: Digest,
    pub(in crate::sim) sender: MailboxId,
    pub(in crate::sim) common: Vec<u8>,
    pub(in crate::sim) own: Vec<u8>,
}

/// Feeds the reference model and compares.
#[derive(Debug, Default)]
pub(in crate::sim) struct Oracle {
    central: Central,
    /// What is in the batch of a header, as its origin wrote it down before it signed.
    batches: BTreeMap<Digest, Vec<Bundle>>,
    got: BTreeMap<MailboxId, BTreeMap<Seq, Got>>,
    /// What recipients had read beyond the logs that their new homes continue.
    kept: BTreeMap<MailboxId, BTreeMap<Seq, Got>>,
    epoch: u64,
    /// Who has signed for each ordered slice.
    holders: BTreeMap<(Digest, NodeId), Vec<NodeId>>,
}

impl Oracle {
    /// A batch is on its origin's disk.
    pub(in crate::sim) fn sealed(&mut self, header: Digest, bundles: Vec<Bundle>) {
        self.batches.insert(header, bundles);
    }

    /// The last cut that the reference model was fed with.
    pub(in crate::sim) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is in the batch of a header.
    pub(in crate::sim) fn bundles(&self, header: &Digest) -> Option<&[Bundle]> {
        self.batches.get(header).map(Vec::as_slice)
    }

    /// Who has signed for the slice of an ordered header, by its destination.
    pub(in crate::sim) fn holders(&self, header: &Digest, destination: &NodeId) -> &[NodeId] {
        self.holders.get(&(*header, *destination)).map_or(&[], Vec::as_slice)
    }

    /// A cut was certified: its bundles go to the reference model in the order of the cut.
    pub(in crate::sim) fn ordered(&mut self, cut: &Cut, federation: &Federation) -> Verdict {
        let epoch = cut.certified.header.epoch;
        if epoch <= self.epoch {
            return Ok(());
        }
        if epoch != self.epoch + 1 {
            return broken(NAME, format!("cut {epoch} was published behind cut {}", self.epoch));
        }
        self.epoch = epoch;
        for sealed in &cut.body.headers {
            for (custody, slice) in sealed.custody.iter().zip(&sealed.header.body.slices) {
                let holders = custody.receipts.iter().map(Receipt::holder).collect();
                self.holders.insert((sealed.digest(federation), slice.destination), holders);
            }
            let Some(bundles) = self.batches.get(&sealed.digest(federation)) else {
                return broken(NAME, format!("cut {epoch} has a header that never was on its origin's disk"));
            };
            let entries = Entries::over(bundles.iter().map(|bundle| &bundle.signed), federation.id());
            if entries != sealed.header.body.entries {
                return broken(NAME, format!("cut {epoch} has a header that names other bundles than its batch holds"));
            }
            for bundle in bundles {
                self.central.submit(bundle);
            }
        }
        Ok(())
    }

    /// A recipient verified a message.
    pub(in crate::sim) fn got(&mut self, recipient: MailboxId, seq: Seq, got: Got) {
        self.got.entry(recipient).or_default().insert(seq, got);
    }

    /// What a recipient had read beyond the log that its new home continues comes again.
    pub(in crate::sim) fn forgotten(&mut self, recipient: &MailboxId, seq: &Seq) {
        if let Some(got) = self.got.get_mut(recipient) {
            let kept = self.kept.entry(*recipient).or_default();
            kept.extend(got.remove_entry(seq));
        }
    }

    /// A recipient that has moved reads on in a log of which it has kept this message.
    pub(in crate::sim) fn kept(&mut self, recipient: &MailboxId, seq: &Seq) {
        let kept = self.kept.get(recipient).and_then(|kept| kept.get(seq)).cloned();
        if let (Some(kept), Some(got)) = (kept, self.got.get_mut(recipient)) {
            got.entry(*seq).or_insert(kept);
        }
    }

    /// What came to these mailboxes is what the central server has there, in its order; some of it may be missing.
    pub(in crate::sim) fn finish_in_part(&self, mailboxes: &BTreeSet<MailboxId>) -> Verdict {
        for mailbox in mailboxes {
            let mut central = self.central.mailbox(mailbox).iter();
            for (seq, got) in self.got.get(mailbox).into_iter().flatten() {
                if !central.any(|delivered| delivered.id == got.id && delivered.common == got.common) {
                    return broken(NAME, format!("{mailbox:?} has {} at {seq}, where the reference has none", got.id));
                }
            }
        }
        Ok(())
    }

    /// The end: every mailbox is what it would be with a central server.
    pub(in crate::sim) fn finish(&self, mailboxes: &[MailboxId]) -> Verdict {
        let none = BTreeMap::new();
        for mailbox in mailboxes {
            let central = self.central.mailbox(mailbox);
            let got = self.got.get(mailbox).unwrap_or(&none);
            if central.len() != got.len() {
                let what = format!("{mailbox:?} has {} messages, the reference {}", got.len(), central.len());
                return broken(NAME, what);
            }
            for (delivered, (seq, got)) in central.iter().zip(got) {
                let same = delivered.id == got.id
                    && delivered.sender == got.sender
                    && delivered.common == got.common
                    && delivered.own == got.own;
                if !same {
                    let what = format!("{mailbox:?} has {} at {seq}, the reference {}", got.id, delivered.id);
                    return broken(NAME, what);
                }
            }
        }
        Ok(())
    }
}
