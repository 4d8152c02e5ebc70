//! The attestations recompute: the map under every attestation that leaves a node is made of the logs of its mailboxes,
//! all of them, up to the epoch that it names; and what an anchor makes final is the one that was signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_engine::outbox::AttestedView;
use postroad_protocol::attestation::{AttestedLog, LogHead, LogLeaf};
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::signed::Verify;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};

use super::logs::Logs;
use super::residences::root_of;
use super::{Verdict, broken};

const NAME: &str = "attestations";

/// All attestations.
#[derive(Debug, Default)]
pub(in crate::sim) struct Attestations {
    /// Those of an epoch that has not been looked at yet.
    early: Vec<Arc<AttestedView>>,
    /// Node and epoch of each that held, by digest.
    held: BTreeMap<Digest, (NodeId, u64)>,
    roots: BTreeMap<(MailboxId, u64, u64), Digest>,
}

impl Attestations {
    /// An attestation leaves its node, or became final.
    pub(in crate::sim) fn said(&mut self, view: &Arc<AttestedView>, logs: &Logs, federation: &Federation) -> Verdict {
        let digest = view.attestation.digest(federation);
        if let Some(anchor) = &view.anchor {
            let anchored = anchor.header.header.body.attestation;
            if anchored.map(|anchored| anchored.digest) != Some(digest) {
                return broken(NAME, format!("attestation {digest} was taken for final, and is not what is anchored"));
            }
        }
        if self.held.contains_key(&digest) {
            return Ok(());
        }
        if view.attestation.body.epoch > logs.epoch() {
            self.early.push(Arc::clone(view));
            return Ok(());
        }
        self.check(view, logs, federation)
    }

    /// A cut was looked at.
    pub(in crate::sim) fn ordered(&mut self, logs: &Logs, federation: &Federation) -> Verdict {
        for view in std::mem::take(&mut self.early) {
            self.said(&view, logs, federation)?;
        }
        Ok(())
    }

    fn check(&mut self, view: &AttestedView, logs: &Logs, federation: &Federation) -> Verdict {
        let body = &view.attestation.body;
        let (node, number, epoch) = (body.node, body.number, body.epoch);
        let mut hosted = logs.hosted(node, epoch).filter(|(_, residence)| residence.is_known(epoch));
        if let Some((missing, _)) = hosted.find(|(mailbox, _)| !view.map.contains(mailbox)) {
            return broken(NAME, format!("attestation {number} of {node:?} leaves {missing:?} out"));
        }
        let mut map = MerkleMap::new();
        for (mailbox, said) in view.map.iter() {
            let Some(residence) = logs.residence(mailbox, &node, epoch) else {
                return broken(
                    NAME,
                    format!("attestation {number} of {node:?} has {mailbox:?}, which lives elsewhere at epoch {epoch}"),
                );
            };
            if logs.is_doubtful(mailbox) {
                map.insert(*mailbox, said.clone());
                continue;
            }
            if !residence.has_base() {
                // Between the handoff and the import.
                if !logs.may_be(mailbox, residence, epoch, said.log) {
                    let size = said.log.size;
                    let what = format!(
                        "attestation {number} of {node:?} has {size} entries of {mailbox:?}, which continue no log"
                    );
                    return broken(NAME, what);
                }
                map.insert(*mailbox, said.clone());
                continue;
            }
            let log = residence.up_to(epoch);
            let known = (*mailbox, residence.since);
            let recomputed = AttestedLog {
                log: LogHead { size: log.len() as u64, root: self.root(known, log) },
                last_epoch: log.last().map_or(0, |leaf| leaf.settled),
                ..said.clone()
            };
            if let Some(acknowledged) = &said.acknowledged {
                let head = acknowledged.body.log;
                let root = log.get(..head.size as usize).map(|log| self.root(known, log));
                if root != Some(head.root)
                    || acknowledged.body.mailbox != *mailbox
                    || acknowledged.verify(federation).is_err()
                {
                    return broken(NAME, format!("attestation {number} of {node:?} has an acknowledgement of nothing"));
                }
            }
            if recomputed != *said {
                let (size, found) = (said.log.size, recomputed.log.size);
                let what = format!(
                    "attestation {number} of {node:?} has {size} entries of {mailbox:?} up to {}, at epoch {epoch} there \
                     are these {found} up to {}",
                    said.last_epoch, recomputed.last_epoch
                );
                return broken(NAME, what);
            }
            map.insert(*mailbox, recomputed);
        }
        if map.root() != body.root || map.len() as u64 != body.mailboxes {
            return broken(
                NAME,
                format!(
                    "attestation {number} of {node:?} is not of the logs at epoch {epoch}, which give another root"
                ),
            );
        }
        self.held.insert(view.attestation.digest(federation), (node, epoch));
        Ok(())
    }

    /// The root over a log of a mailbox in the residence that began in an epoch.
    fn root(&mut self, (mailbox, since): (MailboxId, u64), log: &[LogLeaf]) -> Digest {
        *self.roots.entry((mailbox, since, log.len() as u64)).or_insert_with(|| root_of(log))
    }

    /// Whose attestation this is, and up to which epoch, if it holds.
    pub(in crate::sim) fn held(&self, digest: &Digest) -> Option<(NodeId, u64)> {
        self.held.get(digest).copied()
    }

    /// The end: all could be looked at.
    pub(in crate::sim) fn finish(&self) -> Verdict {
        match self.early.first() {
            None => Ok(()),
            Some(view) => {
                broken(NAME, format!("an attestation is of epoch {}, which is none", view.attestation.body.epoch))
            }
        }
    }
}
