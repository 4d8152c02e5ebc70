//! The evidence that this node keeps: each fault once, by its id, and of each culprit so much of a kind, so that nobody can
//! fill the disk with what one node did a thousand times.
//!
//! It takes [`Evidence`], which cannot be had without judging a claim. What is kept stays: nothing that a culprit does
//! later makes two contradicting statements agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postroad_protocol::codec::encode;
use postroad_protocol::evidence::{Claim, Evidence, Fault, MAX_EVIDENCE_BYTES};
use postroad_protocol::wire::call::Filed;
use postroad_protocol::{Digest, Federation, NodeId, PublicKey, Refusal};
use postroad_store::{Read, StoreError, Write};

use crate::tables::{self, EVIDENCE};

/// Evidence of one kind against one node that is kept, at most. The first convicts as well as the last.
const MAX_OF_KIND: usize = 64;
/// Bytes of all evidence that is kept, at most.
const MAX_BYTES: u64 = 256 << 20;
/// And against one node.
const MAX_BYTES_OF: u64 = 8 << 20;

/// What a node does about those whom evidence convicts. Mail that it has taken is handed out and delivered whatever they
/// did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What it does.
    pub action: Action,
    /// Nothing is done about these.
    pub allow: Vec<NodeId>,
    /// These are treated as if they were convicted, and their slices are refused at least.
    pub deny: Vec<NodeId>,
}

/// What is done about somebody who is convicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing: the evidence is kept and handed on.
    #[default]
    Record,
    /// Its new slices are not taken.
    RefuseSlices,
    /// Nor is there any connection.
    RefuseContact,
}

impl Policy {
    /// Those about whom something is done, if evidence convicts these.
    pub fn refused(&self, convicted: BTreeSet<NodeId>, me: &NodeId) -> BTreeSet<NodeId> {
        let convicted = if self.action == Action::Record { BTreeSet::new() } else { convicted };
        let all = convicted.into_iter().chain(self.deny.iter().copied());
        all.filter(|node| node != me && !self.allow.contains(node)).collect()
    }
}

/// What is kept, in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// The fault.
    pub fault: Fault,
    /// Who is guilty.
    pub culprit: NodeId,
}

/// Evidence by id.
#[derive(Debug)]
pub struct EvidencePool {
    federation: Federation,
    kept: Arc<BTreeMap<Digest, Brief>>,
    bytes: u64,
    /// Of these, by who is guilty.
    bytes_of: BTreeMap<NodeId, u64>,
}

impl EvidencePool {
    /// Reads what a store keeps.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(federation: &Federation, store: &dyn Read) -> Result<EvidencePool, StoreError> {
        let mut kept = BTreeMap::new();
        let mut bytes = 0;
        let mut bytes_of: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut from = Vec::new();
        loop {
            let rows = store.range(EVIDENCE, &from, &[], 16)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                let filed: Filed = tables::read(EVIDENCE, &key, &value)?;
                bytes += value.len() as u64;
                *bytes_of.entry(filed.claim.accused(federation)).or_default() += value.len() as u64;
                kept.insert(filed.claim.id(federation), brief(&filed.claim, federation));
            }
        }
        Ok(EvidencePool { federation: federation.clone(), kept: Arc::new(kept), bytes, bytes_of })
    }

    /// Everything that is kept.
    pub fn kept(&self) -> &Arc<BTreeMap<Digest, Brief>> {
        &self.kept
    }

    /// How much evidence of a fault is kept against a node.
    pub fn count(&self, brief: &Brief) -> usize {
        self.kept.values().filter(|known| *known == brief).count()
    }

    /// Everybody who committed a fraud. A loss is none.
    pub fn convicted(&self) -> BTreeSet<NodeId> {
        self.kept.values().filter(|brief| brief.fault != Fault::Loss).map(|brief| brief.culprit).collect()
    }

    /// Takes evidence that came at `epoch` from `found_by`. Returns what to write; nothing if it is here already.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], and [`Refusal::NotAllowed`] where as much is kept as may be.
    pub fn take(&mut self, evidence: &Evidence, epoch: u64, found_by: PublicKey) -> Result<Option<Write>, Refusal> {
        let id = evidence.id();
        if self.kept.contains_key(&id) {
            return Ok(None);
        }
        let bytes = encode(evidence.claim()).len();
        if bytes > MAX_EVIDENCE_BYTES {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: MAX_EVIDENCE_BYTES as u64 });
        }
        let brief = brief(evidence.claim(), &self.federation);
        let full = |reason: &str| Err(Refusal::NotAllowed { reason: reason.to_owned() });
        if self.count(&brief) >= MAX_OF_KIND {
            return full("as much evidence of this kind against this node is kept as may be");
        }
        let filed = Filed { found_epoch: epoch, found_by, claim: evidence.claim().clone() };
        let write = tables::put(EVIDENCE, id.0, &filed);
        let Write::Put { value, .. } = &write else { return Ok(None) };
        let of = self.bytes_of.entry(brief.culprit).or_default();
        if of.saturating_add(value.len() as u64) > MAX_BYTES_OF {
            return full("as much evidence against this node is kept as may be");
        }
        if self.bytes.saturating_add(value.len() as u64) > MAX_BYTES {
            return full("as much evidence is kept as may be");
        }
        *of += value.len() as u64;
        self.bytes += value.len() as u64;
        Arc::make_mut(&mut self.kept).insert(id, brief);
        Ok(Some(write))
    }
}

fn brief(claim: &Claim, federation: &Federation) -> Brief {
    Brief { fault: claim.fault(), culprit: claim.accused(federation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_says_about_whom_something_is_done() {
        let node = |seed: u8| NodeId::from([seed; 32]);
        let convicted = || BTreeSet::from([node(1), node(2), node(9)]);
        let refused = |action, allow: &[u8], deny: &[u8]| {
            let list = |seeds: &[u8]| seeds.iter().map(|seed| node(*seed)).collect();
            let refused = Policy { action, allow: list(allow), deny: list(deny) }.refused(convicted(), &node(9));
            refused.into_iter().map(|node| node.0[0]).collect::<Vec<u8>>()
        };
        assert!(refused(Action::Record, &[], &[]).is_empty());
        assert_eq!(refused(Action::Record, &[], &[3]), [3], "as if it were convicted");
        assert_eq!(refused(Action::RefuseSlices, &[], &[]), [1, 2], "and never itself");
        assert_eq!(refused(Action::RefuseContact, &[1], &[3]), [2, 3]);
    }
}
