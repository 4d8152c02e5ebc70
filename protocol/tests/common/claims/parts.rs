//! What claims are made of, out of a [`World`]; and ways to be guilty in it.

use postroad_protocol::attestation::{Anchor, Attestation, AttestedLog, LogLeaf};
use postroad_protocol::bundle::{Bundle, BundleBody, message_tree};
use postroad_protocol::digest::hash;
use postroad_protocol::evidence::{Attested as Shown, BundleAt, Included, LeafAt, MessageAt, RecipientAt, SliceProof};
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::message::{Message, common_digest};
use postroad_protocol::refused::SettledFill;
use postroad_protocol::state::HomeProof;
use postroad_protocol::{Digest, MailboxId, Seq, Signed};

use super::super::{Attested, Batch, World};
use super::Scale;

impl World {
    /// A bundle of one message from mailbox 0, behind as many others as the scale has.
    pub(crate) fn letters(&mut self, scale: Scale, to: &[usize]) -> Vec<Bundle> {
        let mut bundles = Vec::new();
        for other in 0..scale.bundles {
            let message = self.message("another", &[(other + 1) % scale.mailboxes, (other + 2) % scale.mailboxes]);
            bundles.push(self.bundle(other % 4 + 1, 0, vec![message]));
        }
        let message = self.message("mail", to);
        bundles.push(self.bundle(0, 0, vec![message]));
        bundles
    }

    /// A bundle of mailbox 0 via node 0 that is what it is told to be, with its sender's signature.
    pub(crate) fn bundle_with(&mut self, to: &[usize], change: impl FnOnce(&mut BundleBody)) -> Bundle {
        let messages = vec![self.message("odd", to)];
        let mut body = BundleBody::new(self.mailbox(0), self.node(0), 1, self.state.epoch + 100, &messages);
        change(&mut body);
        Bundle { signed: self.sign(body, &self.mailboxes[0]), messages }
    }

    /// Nobody's log gets what is in this batch.
    pub(crate) fn withhold(&mut self, batch: &Batch) {
        self.slices.retain(|(header, _), _| *header != batch.digest);
    }

    /// The header at a place of the order.
    pub(crate) fn included(&self, epoch: u64, position: usize) -> Included {
        let cut = &self.cuts[epoch as usize - 1];
        let order = cut.body.header_proofs(&self.federation).remove(position);
        Included { cut: cut.certified.clone(), order }
    }

    pub(crate) fn bundle_at(&self, batch: &Batch, ordinal: usize) -> BundleAt {
        let (signed, path) = (batch.bundles[ordinal].signed.clone(), batch.routed.paths[ordinal].clone());
        BundleAt { ordinal: ordinal as u32, signed, path }
    }

    pub(crate) fn message_at(&self, batch: &Batch, ordinal: usize, index: usize) -> MessageAt {
        let digests: Vec<Digest> = batch.bundles[ordinal].messages.iter().map(Message::digest).collect();
        let path = message_tree(&digests).path(index);
        MessageAt { bundle: self.bundle_at(batch, ordinal), index: index as u32, message: digests[index], path }
    }

    pub(crate) fn recipient_at(&self, batch: &Batch, ordinal: usize, index: usize, position: usize) -> RecipientAt {
        let message = &batch.bundles[ordinal].messages[index];
        let proof = message.disclose().1.remove(position);
        RecipientAt {
            position: position as u32,
            count: message.recipients.len() as u32,
            mailbox: proof.mailbox,
            salt: proof.salt,
            own: proof.own_digest(),
            common: common_digest(&message.common),
            path: proof.path,
        }
    }

    /// What a batch's slice for a node holds for a mailbox.
    pub(crate) fn slice_proof(&self, batch: &Batch, destination: usize, mailbox: usize) -> SliceProof {
        let at = batch.routed.slices.iter().position(|slice| slice.destination == self.node(destination)).unwrap();
        let count = batch.routed.entries.bundles;
        let index = batch.routed.bodies[at].index(count, self.federation.id()).unwrap();
        index.prove(&self.mailbox(mailbox))
    }

    /// Where a mailbox lives after an epoch.
    pub(crate) fn home_proof(&self, mailbox: usize, epoch: u64) -> HomeProof {
        self.states[epoch as usize].prove_home(&self.mailbox(mailbox), self.certified(epoch).clone())
    }

    /// Entries before everything else in a mailbox's log, of nothing.
    pub(crate) fn prefill(&mut self, mailbox: usize, entries: usize) {
        let leaf = |index: usize| LogLeaf {
            settled: 1,
            seq: Seq { epoch: 1, position: 0, index: index as u64 },
            message: hash(&[&index.to_be_bytes()]),
            own: hash(&[b"own", &index.to_be_bytes()]),
        };
        let id = self.mailbox(mailbox);
        self.logs.entry(id).or_default().splice(0..0, (0..entries).map(leaf));
    }

    /// A change to what a home has in a mailbox's log.
    pub(crate) fn falsify(&mut self, mailbox: usize, change: impl FnOnce(&mut Vec<LogLeaf>)) {
        let id = self.mailbox(mailbox);
        change(self.logs.entry(id).or_default());
    }

    /// A node's next attestation, of logs that are falsified, with a change to body and map.
    pub(crate) fn attest_with(
        &mut self,
        node: usize,
        said: impl Fn(MailboxId, &mut AttestedLog),
        change: impl FnOnce(&mut Attestation),
    ) -> Attested {
        let mut attested = self.attest(node, &[]);
        let mut map = MerkleMap::new();
        for (mailbox, log) in attested.map.iter() {
            let mut log = log.clone();
            said(*mailbox, &mut log);
            map.insert(*mailbox, log);
        }
        let mut body = attested.signed.body.clone();
        body.root = map.root();
        change(&mut body);
        attested.map = map;
        attested.signed = Signed::sign(body, &self.nodes[node], &self.federation);
        attested
    }

    /// Makes a node's attestation final.
    pub(crate) fn make_final(&mut self, node: usize, attested: &Attested) -> Anchor {
        let reference = attested.reference(self);
        let empty = self.seal_with(node, Vec::new(), |header| header.attestation = Some(reference));
        let sealed = self.held(&empty);
        self.include(vec![sealed]);
        self.anchor(attested).unwrap()
    }

    pub(crate) fn shown(&self, attested: &Attested, mailbox: usize) -> Shown {
        let id = self.mailbox(mailbox);
        Shown {
            attestation: attested.signed.clone().into_inner(),
            log: attested.map.get(&id).cloned(),
            proof: attested.map.prove(&id),
        }
    }

    /// An entry of the log of a mailbox when it was attested.
    pub(crate) fn leaf_at(&self, attested: &Attested, mailbox: usize, index: usize) -> LeafAt {
        let log = &attested.logs[&self.mailbox(mailbox)];
        let path = log.inclusion(index as u64, log.size()).unwrap();
        LeafAt { index: index as u64, leaf: self.log(mailbox)[index], path }
    }

    pub(crate) fn settled_fill(&self, epoch: u64, index: usize) -> SettledFill {
        let cut = &self.cuts[epoch as usize - 1];
        SettledFill {
            cut: cut.certified.clone(),
            fill: cut.body.fills[index].clone(),
            index: index as u32,
            path: cut.body.fill_path(index),
        }
    }
}
