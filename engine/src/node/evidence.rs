//! Evidence: what was handed in or found is kept, and told to others once it is durable.

use postroad_protocol::PublicKey;
use postroad_protocol::evidence::Evidence;

use super::Node;
use crate::evidence::EvidencePool;
use crate::io::{Output, Report, Token};

impl Node {
    /// The evidence that this node keeps.
    pub fn evidence(&self) -> &EvidencePool {
        &self.evidence
    }

    /// Keeps evidence; answered once it is durable.
    pub(super) fn keep(&mut self, token: Token, from: PublicKey, evidence: &Evidence, out: &mut Vec<Output>) {
        let taken = self.evidence.take(evidence, self.ledger.head().epoch, from);
        let answer = taken.map(|write| {
            if let Some(write) = write {
                self.persist(vec![write], out);
                let (id, verdict) = (evidence.id(), evidence.verdict().clone());
                out.push(Output::Report(Report::Convicted { id, verdict, found_by: from }));
            }
        });
        out.push(Output::Kept(token, answer));
    }
}
