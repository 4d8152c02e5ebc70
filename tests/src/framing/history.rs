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
use postroad_protocol::moving::Import;
use postroad_protocol::receipt::{Fill, Receipt, ReceiptItem};
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::slice::SliceIndex;
use postroad_protocol::state::{HomeProof, PendingKey, State, apply};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq, Signed, Verified};

use crate::sim::{Harvest, Story, harvest};

/// A history.
pub(crate) struct History {
    pub(crate) federation: Federation,
    /// What ended the story before its time.
    pub(crate) cut_short: Option<String>,
    pub(crate) cuts: Vec<Cut>,
    /// The state after each epoch; the first is genesis.
    pub(crate) states: Vec<State>,
    places: BTreeMap<Digest, (u64, usize)>,
    /// Of the headers of each cut.
    orders: Vec<Vec<HeaderProof>>,
    /// All headers that were ever signed, included or not.
    pub(crate) batches: Vec<Batch>,
    /// Those that are not routed as the directory says.
    pub(crate) bent: Vec<Batch>,
    /// Those of `batches` that a cut has.
    pub(crate) included: Vec<usize>,
    /// Batches of one origin and number: what a node that forgot has signed again.
    pub(crate) twins: Vec<(usize, usize)>,
    pub(crate) views: Vec<View>,
    /// Views whose attestation is final.
    pub(crate) anchored: Vec<usize>,
    logs: BTreeMap<Digest, (Log, Vec<LogLeaf>)>,
    pub(crate) fills: BTreeMap<PendingKey, SettledFill>,
    /// What homes signed for slices of theirs, whether or not a cut has settled it.
    pub(crate) own_receipts: BTreeMap<PendingKey, Receipt>,
    pub(crate) losses: Vec<(u64, Signed<Lost>)>,
    pub(crate) mailboxes: Vec<MailboxId>,
    pub(crate) nodes: Vec<NodeId>,
}

/// A signed header and its batch.
pub(crate) struct Batch {
    pub(crate) header: Signed<Header>,
    pub(crate) digest: Digest,
    pub(crate) bundles: Vec<Bundle>,
    routed: Routed,
    /// Whether it is routed as the directory says.
    pub(crate) is_lawful: bool,
    /// In the order of the header's slices.
    pub(crate) slices: Vec<SliceIndex>,
    /// Epoch and position, if a cut has it.
    pub(crate) place: Option<(u64, usize)>,
}

/// An attestation, and where it is final.
pub(crate) struct View {
    pub(crate) said: Arc<AttestedView>,
    pub(crate) anchor: Option<Anchor>,
}

impl History {
    /// Tells a story and makes it ready.
    pub(crate) fn of(story: &Story) -> History {
        let mut history = History::told(harvest(story));
        history.cut_short = history.cut_short.map(|violation| format!("{story:?}: {violation}"));
        history
    }

    /// Makes it ready.
    pub(crate) fn told(harvest: Harvest) -> History {
        let Harvest { federation, cuts, headers, batches: bundles, attestations, logs, receipts, violation } = harvest;
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
                let is_lawful = routed.slices == header.body.slices;
                let index = |body: &postroad_protocol::slice::SliceBody| {
                    body.index(header.body.entries.bundles, federation.id()).ok()
                };
                let slices = routed.bodies.iter().map(index).collect::<Option<_>>()?;
                Some(Batch { place: places.get(&digest).copied(), digest, bundles, slices, routed, is_lawful, header })
            })
            .collect();
        let (batches, bent): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.is_lawful);
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
            cut_short: violation.map(|violation| violation.to_string()),
            federation,
            places,
            cuts,
            orders,
            batches,
            bent,
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

    pub(crate) fn last_epoch(&self) -> u64 {
        self.cuts.len() as u64
    }

    pub(crate) fn certified(&self, epoch: u64) -> Option<&CertifiedCut> {
        Some(&self.cuts.get(epoch.checked_sub(1)? as usize)?.certified)
    }

    /// A batch's header in its cut.
    pub(crate) fn included(&self, batch: &Batch) -> Option<Included> {
        let (epoch, at) = batch.place?;
        let order = self.orders[epoch as usize - 1][at].clone();
        Some(Included { cut: self.certified(epoch)?.clone(), order })
    }

    /// Where the header of this digest stands.
    pub(crate) fn place(&self, digest: &Digest) -> Option<(u64, usize)> {
        self.places.get(digest).copied()
    }

    /// Whether a header is the one that its origin wrote down.
    pub(crate) fn is_written(&self, digest: &Digest) -> bool {
        self.batches.iter().chain(&self.bent).any(|batch| batch.digest == *digest)
    }

    /// Whether every header of an origin with this routing epoch is in a cut, and there is one.
    pub(crate) fn included_of(&self, origin: &NodeId, routing_epoch: u64) -> bool {
        let of =
            |batch: &&Batch| batch.header.body.origin == *origin && batch.header.body.routing_epoch == routing_epoch;
        let mut batches = self.batches.iter().chain(&self.bent).filter(of).peekable();
        batches.peek().is_some() && batches.all(|batch| batch.place.is_some())
    }

    /// The batch with the message of this number, its bundle and its place there.
    pub(crate) fn message_at(&self, seq: Seq) -> Option<(&Batch, usize, usize)> {
        let place = Some((seq.epoch, seq.position as usize));
        let batch = self.batches.iter().chain(&self.bent).find(|batch| batch.place == place)?;
        let (ordinal, at) = batch.locate(seq.index)?;
        Some((batch, ordinal, at))
    }

    /// Where a mailbox lives after an epoch.
    pub(crate) fn home(&self, mailbox: &MailboxId, epoch: u64) -> Option<HomeProof> {
        Some(self.states.get(epoch as usize)?.prove_home(mailbox, self.certified(epoch)?.clone()))
    }

    /// The log that was attested.
    pub(crate) fn log(&self, said: &AttestedLog) -> &[LogLeaf] {
        self.leaves_of(&said.log.root)
    }

    /// The log of this root.
    pub(crate) fn leaves_of(&self, root: &Digest) -> &[LogLeaf] {
        self.logs.get(root).map_or(&[], |(_, leaves)| leaves)
    }

    /// The imports of mailboxes that cuts have settled, with their epochs.
    pub(crate) fn imports(&self) -> impl Iterator<Item = (u64, &Signed<Import>)> {
        self.cuts.iter().flat_map(|cut| {
            cut.body.records.iter().filter_map(|record| match record {
                Record::Import(signed) => Some((cut.certified.header.epoch, signed)),
                _ => None,
            })
        })
    }

    /// An entry of a log that was attested.
    pub(crate) fn leaf(&self, said: &AttestedLog, index: usize) -> Option<LeafAt> {
        self.leaf_of(&said.log.root, index)
    }

    /// An entry of the log of this root.
    pub(crate) fn leaf_of(&self, root: &Digest, index: usize) -> Option<LeafAt> {
        let (log, leaves) = self.logs.get(root)?;
        let path = log.inclusion(index as u64, log.size())?;
        Some(LeafAt { index: index as u64, leaf: *leaves.get(index)?, path })
    }
}

impl View {
    pub(crate) fn of(&self, mailbox: &MailboxId) -> Attested {
        let AttestedView { attestation, map, .. } = &*self.said;
        Attested { attestation: attestation.clone(), log: map.get(mailbox).cloned(), proof: map.prove(mailbox) }
    }
}

impl Batch {
    pub(crate) fn bundle(&self, ordinal: usize) -> BundleAt {
        let (signed, path) = (self.bundles[ordinal].signed.clone(), self.routed.paths[ordinal].clone());
        BundleAt { ordinal: ordinal as u32, signed, path }
    }

    /// The message at an index of a bundle.
    pub(crate) fn message(&self, ordinal: usize, index: usize) -> MessageAt {
        let digests: Vec<Digest> = self.bundles[ordinal].messages.iter().map(Message::digest).collect();
        let path = message_tree(&digests).path(index);
        MessageAt { bundle: self.bundle(ordinal), index: index as u32, message: digests[index], path }
    }

    /// The message at an index of the batch: its bundle and its place there.
    pub(crate) fn locate(&self, index: u64) -> Option<(usize, usize)> {
        let mut index = index as usize;
        for (ordinal, bundle) in self.bundles.iter().enumerate() {
            if index < bundle.messages.len() {
                return Some((ordinal, index));
            }
            index -= bundle.messages.len();
        }
        None
    }

    pub(crate) fn recipient(&self, ordinal: usize, index: usize, position: usize) -> RecipientAt {
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

    pub(crate) fn slice(&self, at: usize, mailbox: &MailboxId) -> SliceProof {
        self.slices[at].prove(mailbox)
    }

    /// The slice for a node.
    pub(crate) fn slice_for(&self, node: &NodeId) -> Option<usize> {
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
