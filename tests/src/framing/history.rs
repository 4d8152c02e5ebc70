//! An honest history, with everything at hand from which a claim is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postroad_engine::outbox::AttestedView;
use postroad_protocol::attestation::{Anchor, AttestedLog, LogLeaf};
use postroad_protocol::batch::{Header, Routed, route};
use postroad_protocol::bundle::{Bundle, message_tree};
use postroad_protocol::challenge::Lost;
use postroad_protocol::cut::{CertifiedCut, Cut, HeaderProof};
use postroad_protocol::evidence::{Attested, BundleAt, Included, LeafAt, MessageAt, RecipientAt, SliceProof};
use postroad_protocol::merkle::log::Log;
use postroad_protocol::message::{Message, common_digest};
use postroad_protocol::receipt::{Fill, Receipt, ReceiptItem};
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::slice::SliceIndex;
use postroad_protocol::state::{HomeProof, PendingKey, State, apply};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Signed, Verified};

use crate::sim::{Harvest, Story, harvest};

/// A history.
pub(super) struct History {
    pub(super) federation: Federation,
    /// What ended the story before its time.
    pub(super) cut_short: Option<String>,
    pub(super) cuts: Vec<Cut>,
    /// The state after each epoch; the first is genesis.
    pub(super) states: Vec<State>,
    /// Of the headers of each cut.
    orders: Vec<Vec<HeaderProof>>,
    /// All headers that were ever signed, included or not.
    pub(super) batches: Vec<Batch>,
    /// Those of `batches` that a cut has.
    pub(super) included: Vec<usize>,
    /// Batches of one origin and number: what a node that forgot has signed again.
    pub(super) twins: Vec<(usize, usize)>,
    pub(super) views: Vec<View>,
    /// Views whose attestation is final.
    pub(super) anchored: Vec<usize>,
    logs: BTreeMap<Digest, (Log, Vec<LogLeaf>)>,
    pub(super) fills: BTreeMap<PendingKey, SettledFill>,
    /// What homes signed for slices of theirs, whether or not a cut has settled it.
    pub(super) own_receipts: BTreeMap<PendingKey, Receipt>,
    pub(super) losses: Vec<(u64, Signed<Lost>)>,
    pub(super) mailboxes: Vec<MailboxId>,
    pub(super) nodes: Vec<NodeId>,
}

/// A signed header and its batch.
pub(super) struct Batch {
    pub(super) header: Signed<Header>,
    pub(super) digest: Digest,
    pub(super) bundles: Vec<Bundle>,
    routed: Routed,
    /// In the order of the header's slices.
    pub(super) slices: Vec<SliceIndex>,
    /// Epoch and position, if a cut has it.
    pub(super) place: Option<(u64, usize)>,
}

/// An attestation, and where it is final.
pub(super) struct View {
    pub(super) said: Arc<AttestedView>,
    pub(super) anchor: Option<Anchor>,
}

impl History {
    /// Tells a story and makes it ready.
    pub(super) fn of(story: &Story) -> History {
        let Harvest { federation, cuts, headers, batches: bundles, attestations, logs, receipts, violation } =
            harvest(story);
        let mut states = vec![State::genesis(&federation)];
        let mut checked = Vec::new();
        for cut in cuts {
            let verified = Verified::check(cut, &federation).expect("an honest cut verifies");
            let before = states.last().expect("genesis");
            states.push(apply(before, &verified, &federation).expect("an honest cut applies").state);
            checked.push(verified.into_inner());
        }
        let cuts = checked;
        let orders: Vec<_> = cuts.iter().map(|cut| cut.body.header_proofs(&federation)).collect();
        let mut places = BTreeMap::new();
        let mut anchors = BTreeMap::new();
        for (cut, orders) in cuts.iter().zip(&orders) {
            for (at, order) in orders.iter().enumerate() {
                places.insert(order.header.digest(&federation), (cut.certified.header.epoch, at));
                if let Some(attested) = order.header.body.attestation {
                    let anchor = Anchor { cut: cut.certified.clone(), header: order.clone() };
                    anchors.insert(attested.digest, anchor);
                }
            }
        }
        let batches: Vec<Batch> = (headers.into_iter())
            .filter_map(|header| {
                let digest = header.digest(&federation);
                let bundles = bundles.get(&digest)?.clone();
                let routing = states.get(header.body.routing_epoch as usize)?;
                let routed = route(&bundles, federation.id(), |mailbox| routing.home(mailbox));
                (routed.slices == header.body.slices).then_some(())?;
                let index = |body: &postroad_protocol::slice::SliceBody| {
                    body.index(header.body.entries.bundles, federation.id()).ok()
                };
                let slices = routed.bodies.iter().map(index).collect::<Option<_>>()?;
                Some(Batch { place: places.get(&digest).copied(), digest, bundles, slices, routed, header })
            })
            .collect();
        let included = (0..batches.len()).filter(|at| batches[*at].place.is_some()).collect();
        let mut slots: BTreeMap<(NodeId, u64), Vec<usize>> = BTreeMap::new();
        for (at, batch) in batches.iter().enumerate() {
            slots.entry((batch.header.body.origin, batch.header.body.number)).or_default().push(at);
        }
        let pairs = |slot: &Vec<usize>| slot.windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>();
        let twins = slots.values().flat_map(pairs).collect();
        let mut known = BTreeSet::new();
        let views: Vec<View> = (attestations.into_iter())
            .filter(|said| known.insert(said.attestation.digest(&federation)))
            .map(|said| View { anchor: anchors.get(&said.attestation.digest(&federation)).cloned(), said })
            .collect();
        let anchored = (0..views.len()).filter(|at| views[*at].anchor.is_some()).collect();
        let logs = (logs.into_iter())
            .map(|(root, leaves)| {
                let mut log = Log::new();
                leaves.iter().for_each(|leaf| log.append(leaf.hash()));
                (root, (log, leaves))
            })
            .collect();
        let own = |receipt: &Receipt| receipt.holder() == receipt.item.destination && receipt.item.request.is_none();
        let key = |item: &ReceiptItem| PendingKey { destination: item.destination, header: item.header };
        let own_receipts = receipts.into_iter().filter(own).map(|receipt| (key(&receipt.item), receipt)).collect();
        let fills = cuts.iter().flat_map(settled_fills).collect();
        let lost = |cut: &Cut| {
            let epoch = cut.certified.header.epoch;
            let lost = |record: &Record| match record {
                Record::Lost(signed) => Some((epoch, signed.clone())),
                _ => None,
            };
            cut.body.records.iter().filter_map(lost).collect::<Vec<_>>()
        };
        let losses = cuts.iter().flat_map(lost).collect();
        let last = states.last().expect("genesis");
        let mailboxes = last.mailboxes().map(|(mailbox, _)| *mailbox).collect();
        let nodes = last.nodes().map(|(node, _)| *node).collect();
        History {
            cut_short: violation.map(|violation| format!("{story:?}: {violation}")),
            federation,
            cuts,
            orders,
            batches,
            included,
            twins,
            views,
            anchored,
            logs,
            fills,
            own_receipts,
            losses,
            mailboxes,
            nodes,
            states,
        }
    }

    pub(super) fn last_epoch(&self) -> u64 {
        self.cuts.len() as u64
    }

    pub(super) fn certified(&self, epoch: u64) -> Option<&CertifiedCut> {
        Some(&self.cuts.get(epoch.checked_sub(1)? as usize)?.certified)
    }

    /// A batch's header in its cut.
    pub(super) fn included(&self, batch: &Batch) -> Option<Included> {
        let (epoch, at) = batch.place?;
        let order = self.orders[epoch as usize - 1][at].clone();
        Some(Included { cut: self.certified(epoch)?.clone(), order })
    }

    /// Where a mailbox lives after an epoch.
    pub(super) fn home(&self, mailbox: &MailboxId, epoch: u64) -> Option<HomeProof> {
        Some(self.states.get(epoch as usize)?.prove_home(mailbox, self.certified(epoch)?.clone()))
    }

    /// The log that was attested.
    pub(super) fn log(&self, said: &AttestedLog) -> &[LogLeaf] {
        self.logs.get(&said.log.root).map_or(&[], |(_, leaves)| leaves)
    }

    /// An entry of a log that was attested.
    pub(super) fn leaf(&self, said: &AttestedLog, index: usize) -> Option<LeafAt> {
        let (log, leaves) = self.logs.get(&said.log.root)?;
        let path = log.inclusion(index as u64, log.size())?;
        Some(LeafAt { index: index as u64, leaf: *leaves.get(index)?, path })
    }
}

impl View {
    pub(super) fn of(&self, mailbox: &MailboxId) -> Attested {
        let AttestedView { attestation, map, .. } = &*self.said;
        Attested { attestation: attestation.clone(), log: map.get(mailbox).cloned(), proof: map.prove(mailbox) }
    }
}

impl Batch {
    pub(super) fn bundle(&self, ordinal: usize) -> BundleAt {
        let (signed, path) = (self.bundles[ordinal].signed.clone(), self.routed.paths[ordinal].clone());
        BundleAt { ordinal: ordinal as u32, signed, path }
    }

    /// The message at an index of a bundle.
    pub(super) fn message(&self, ordinal: usize, index: usize) -> MessageAt {
        let digests: Vec<Digest> = self.bundles[ordinal].messages.iter().map(Message::digest).collect();
        let path = message_tree(&digests).path(index);
        MessageAt { bundle: self.bundle(ordinal), index: index as u32, message: digests[index], path }
    }

    /// The message at an index of the batch: its bundle and its place there.
    pub(super) fn locate(&self, index: u64) -> Option<(usize, usize)> {
        let mut index = index as usize;
        for (ordinal, bundle) in self.bundles.iter().enumerate() {
            if index < bundle.messages.len() {
                return Some((ordinal, index));
            }
            index -= bundle.messages.len();
        }
        None
    }

    pub(super) fn recipient(&self, ordinal: usize, index: usize, position: usize) -> RecipientAt {
        let message = &self.bundles[ordinal].messages[index];
        let proof = message.disclose().1.swap_remove(position);
        RecipientAt {
            position: proof.position,
            count: message.recipients.len() as u32,
            mailbox: proof.mailbox,
            salt: proof.salt,
            own: proof.own_digest(),
            common: common_digest(&message.common),
            path: proof.path,
        }
    }

    pub(super) fn slice(&self, at: usize, mailbox: &MailboxId) -> SliceProof {
        self.slices[at].prove(mailbox)
    }

    /// The slice for a node.
    pub(super) fn slice_for(&self, node: &NodeId) -> Option<usize> {
        self.header.body.slices.iter().position(|slice| slice.destination == *node)
    }
}

fn settled_fills(cut: &Cut) -> Vec<(PendingKey, SettledFill)> {
    let settled = |(at, fill): (usize, &Fill)| {
        let key = PendingKey { destination: fill.item.destination, header: fill.item.header };
        let path = cut.body.fill_path(at);
        (key, SettledFill { cut: cut.certified.clone(), fill: fill.clone(), index: at as u32, path })
    };
    cut.body.fills.iter().enumerate().map(settled).collect()
}
