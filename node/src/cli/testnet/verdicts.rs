//! What the nodes of a testnet find of each other: asked of one after the other, told once, and kept as files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_client::{Endpoint, NodeAddr};
use postroad_protocol::evidence::Evidence;
use postroad_protocol::wire::call::{Filed, Question, Reply};
use postroad_protocol::{Digest, Federation, PublicKey};
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::cli::evidence::ask;
use crate::cli::live::Target;
use crate::cli::output::CliError;

/// Between two questions; one node is asked at a time, and each has what any of them found.
const PAUSE: Duration = Duration::from_millis(250);
/// How long one node has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches a testnet's nodes.
pub(super) struct Verdicts {
    endpoint: Endpoint,
    federation: Federation,
    nodes: Vec<Target>,
    dir: PathBuf,
    known: BTreeSet<Digest>,
    turn: usize,
    /// Found, and not handed out yet.
    told: Vec<Told>,
    ticks: Interval,
}

/// A verdict, as it is told: for programs and for people.
pub(super) type Told = (serde_json::Value, String);

impl Verdicts {
    /// Watches these nodes; what was told before the testnet was stopped is known from its files.
    pub(super) fn new(nodes: Vec<Target>, federation: Federation, testnet: &Path) -> Result<Verdicts, CliError> {
        let dir = testnet.join("evidence");
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let id = |file: std::fs::DirEntry| {
            let bytes = hex::decode(file.path().file_stem()?.to_str()?).ok()?;
            Some(Digest(bytes.try_into().ok()?))
        };
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = files.filter_map(id).collect();
        Ok(Verdicts {
            endpoint: Endpoint::anonymous()?,
            federation,
            nodes,
            dir,
            known,
            turn: 0,
            told: Vec::new(),
            ticks,
        })
    }

    /// What was found since this was asked last. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Result<Vec<Told>, CliError> {
        self.ticks.tick().await;
        let Some(node) = self.nodes.get(self.turn % self.nodes.len().max(1)) else { return Ok(Vec::new()) };
        self.turn += 1;
        // One that does not answer is told of elsewhere, or was killed on purpose.
        let asked = tokio::time::timeout(PATIENCE, ask(&self.endpoint, &node.addr, &self.federation, None)).await;
        let Ok(Ok(all)) = asked else { return Ok(Vec::new()) };
        for filed in all {
            let id = filed.claim.id(&self.federation);
            if self.known.contains(&id) {
                continue;
            }
            let filed = self.first(id, filed).await;
            let told = self.tell(&id, filed)?;
            self.known.insert(id);
            self.told.extend(told);
        }
        Ok(std::mem::take(&mut self.told))
    }

    /// The same evidence as it is kept where it was found, or came in from outside.
    async fn first(&self, id: Digest, filed: Filed) -> Filed {
        let is_node = |key: &PublicKey| self.nodes.iter().any(|node| node.addr.node() == *key);
        if !is_node(&filed.found_by) {
            return filed;
        }
        let mut finder = filed.found_by;
        let mut first = filed;
        // From one to the one that told it; nobody is asked twice.
        for _ in 0..self.nodes.len() {
            let Some(node) = self.nodes.iter().find(|node| node.addr.node() == finder) else { break };
            let Some(there) = self.one(&node.addr, id).await else { break };
            let is_first = there.found_by == finder || !is_node(&there.found_by);
            finder = there.found_by;
            first = there;
            if is_first {
                break;
            }
        }
        first
    }

    async fn one(&self, node: &NodeAddr, id: Digest) -> Option<Filed> {
        let question = Question::Evidence(before(id));
        let Ok(Reply::Evidence(page)) = self.endpoint.call(node, &question, PATIENCE).await else { return None };
        page.into_iter().next().filter(|filed| filed.claim.id(&self.federation) == id)
    }

    /// Writes the file.
    fn tell(&self, id: &Digest, filed: Filed) -> Result<Option<Told>, CliError> {
        let Filed { found_epoch, found_by, claim } = filed;
        let Ok(evidence) = Evidence::new(claim, &self.federation) else { return Ok(None) };
        let file = self.dir.join(format!("{id}.evidence"));
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(&file, evidence.claim().to_file(&self.federation)))
            .map_err(|error| CliError::io(format_args!("write {}", file.display()), &error))?;
        let verdict = evidence.verdict();
        let number = |key: &PublicKey| self.nodes.iter().position(|node| node.addr.node() == *key).map(|at| at + 1);
        let name = |key: &PublicKey| match number(key) {
            Some(number) => format!("node-{number}"),
            None => key.to_string(),
        };
        let after_epochs = found_epoch.saturating_sub(verdict.epoch);
        let line = json!({
            "type": "verdict",
            "id": id.to_string(),
            "kind": verdict.fault.code(),
            "culprit": verdict.culprit.to_string(),
            "culprit_node": number(&verdict.culprit),
            "epoch": verdict.epoch,
            "seq": verdict.seq.map(|seq| seq.to_string()),
            "mailbox": verdict.mailbox.map(|mailbox| mailbox.to_string()),
            "found_by": found_by.to_string(),
            "found_by_node": number(&found_by),
            "after_epochs": after_epochs,
            "evidence": file,
        });
        let plain = format!(
            "{} is guilty of {} in epoch {}; found by {} after {after_epochs} epochs; postroad verify {} proves it",
            name(&verdict.culprit),
            verdict.fault,
            verdict.epoch,
            name(&found_by),
            file.display(),
        );
        Ok(Some((line, plain)))
    }
}

/// The id before this one.
fn before(id: Digest) -> Option<Digest> {
    let mut bytes = id.0;
    for byte in bytes.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            return Some(Digest(bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_before_is_one_less() {
        let mut id = [0; 32];
        assert_eq!(before(Digest(id)), None);
        id[30] = 1;
        let mut less = [0; 32];
        less[31] = 0xff;
        assert_eq!(before(Digest(id)), Some(Digest(less)));
    }
}
