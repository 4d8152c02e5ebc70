//! Accepted mail comes in time: once all faults have ended, everything that was accepted is in a log under a final
//! attestation within five seconds of cut time.

use std::collections::BTreeMap;

use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::cut::Cut;
use postroad_protocol::{Digest, NodeId};

use super::attestations::Attestations;
use super::logs::Logs;
use super::{Broken, Verdict, broken};

const NAME: &str = "in-time";

/// So long after its acceptance, or after the end of the faults, everything is final.
const LIMIT_MS: u64 = 5_000;

/// Acceptances, and what became final when; in cut time.
#[derive(Debug, Default)]
pub(in crate::sim) struct InTime {
    now_ms: u64,
    /// The times of all cuts.
    times: Vec<u64>,
    healed_ms: Option<u64>,
    /// Message → when its sender had the proof.
    accepted: BTreeMap<Digest, u64>,
    /// Node → epochs that were attested, and when that was final.
    finals: BTreeMap<NodeId, Vec<(u64, u64)>>,
}

impl InTime {
    /// A sender has proof that a bundle was accepted, or ordered.
    pub(in crate::sim) fn promised(&mut self, bundle: &Bundle) {
        for message in &bundle.messages {
            self.accepted.entry(message.digest()).or_insert(self.now_ms);
        }
    }

    /// All faults have ended, while the sequencer's clock said `wall_ms`: the next cut has that time, or a later one.
    pub(in crate::sim) fn healed(&mut self, wall_ms: u64) {
        self.healed_ms = Some(self.now_ms.max(wall_ms));
    }

    /// The next cut.
    pub(in crate::sim) fn ordered(&mut self, cut: &Cut, attestations: &Attestations) -> Verdict {
        self.now_ms = cut.certified.header.time_ms;
        self.times.push(self.now_ms);
        for header in cut.body.headers.iter().map(|sealed| &sealed.header.body) {
            let Some(anchored) = header.attestation else { continue };
            match attestations.held(&anchored.digest) {
                Some((node, epoch)) if node == header.origin => {
                    self.finals.entry(node).or_default().push((epoch, self.now_ms));
                }
                Some(_) => return broken(NAME, format!("{:?} anchors another node's attestation", header.origin)),
                // Signed and sealed in, and the node died before it could show it: the next one counts.
                None => {}
            }
        }
        Ok(())
    }

    /// The end: the longest that anything took.
    pub(in crate::sim) fn finish(&self, logs: &Logs) -> Result<u64, Broken> {
        let healed = self.healed_ms.unwrap_or(0);
        let mut slowest = 0;
        for (mailbox, home) in logs.all() {
            let finals = self.finals.get(&home.node).map_or(&[][..], Vec::as_slice);
            // What a new home has taken over is final there once it has.
            let imported = home.imported();
            let since = |leaf: &LogLeaf| imported.map_or(0, |first| self.times[leaf.settled.max(first) as usize - 1]);
            // Before its import is settled a new home attests the log that it was handed over.
            let begin = if imported.is_some() { home.since } else { 0 };
            let mut seen = BTreeMap::new();
            for leaf in home.log() {
                let Some(accepted) = self.accepted.get(&leaf.message) else { continue };
                // A message that was signed again may come twice; the first one counts.
                if seen.insert(leaf.message, ()).is_some() {
                    continue;
                }
                let from = (*accepted).max(healed).max(since(leaf));
                let Some((_, at)) = finals.iter().find(|(epoch, _)| *epoch >= leaf.settled.max(begin)) else {
                    return broken(NAME, format!("{} for {mailbox:?} is under no final attestation", leaf.message));
                };
                let took = at.saturating_sub(from);
                slowest = slowest.max(took);
                if took > LIMIT_MS {
                    let after = |epoch: u64| self.times[epoch as usize - 1].saturating_sub(from);
                    let (id, ordered, settled) = (leaf.message, after(leaf.seq.epoch), after(leaf.settled));
                    return broken(
                        NAME,
                        format!("{id} for {mailbox:?} was ordered {ordered}, settled {settled}, final {took} ms after"),
                    );
                }
            }
        }
        Ok(slowest)
    }
}
