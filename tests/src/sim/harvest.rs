//! Stories: runs of which everything is kept that was signed, for whoever looks for a contradiction in it.
//!
//! A story may go further than the runs that the invariants judge: mailboxes fill up, entries are past retention before
//! the end, several disks are set back at once, and mail is lost with them. All nodes are honest in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_engine::outbox::AttestedView;
use postroad_engine::tables::{self, LOGS, LogRow};
use postroad_engine::{Load, Output};
use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::batch::Header;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::decode;
use postroad_protocol::cut::Cut;
use postroad_protocol::merkle::tree;
use postroad_protocol::receipt::{Receipt, Sealed};
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::wire::order::ToSequencer;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Signed};
use postroad_store::Read;

use super::world::World;
use super::{Options, Violation};

/// How long a story goes on after its faults; and where mail is lost, until its holders say so.
const AFTERMATH_MS: [u64; 2] = [4_000, 9_000];

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Keys, genesis (but for its name and retention) and who there is follow from this.
    pub keys: u64,
    /// Everything that happens follows from this.
    pub seed: u64,
    /// The federation's name: with another one it is another federation.
    pub name: &'static str,
    /// Milliseconds of age after which entries are forgotten.
    pub retention_ms: u64,
    /// How many entries a mailbox may hold that are neither acknowledged nor past retention.
    pub quota: u64,
    /// Whether disks are set back even if something is lost for good.
    pub careless: bool,
}

/// Everything that was signed in a story, and what it was signed over.
#[derive(Debug)]
pub struct Harvest {
    /// The federation.
    pub federation: Federation,
    /// All cuts, in order from the first.
    pub cuts: Vec<Cut>,
    /// All headers that were on their origin's disk and left it, included or not.
    pub headers: Vec<Signed<Header>>,
    /// What is in the batch of a header.
    pub batches: BTreeMap<Digest, Vec<Bundle>>,
    /// All receipts that left their holders, settled or not.
    pub receipts: Vec<Receipt>,
    /// All attestations with their maps, as they were said, and again when they were final.
    pub attestations: Vec<Arc<AttestedView>>,
    /// The logs that were attested, by their roots.
    pub logs: BTreeMap<Digest, Vec<LogLeaf>>,
    /// What ended the story before its time.
    pub violation: Option<Violation>,
}

/// What is gathered while it happens.
pub(super) struct Gathered {
    pub(super) story: Story,
    pub(super) cuts: Vec<Cut>,
    headers: Vec<Signed<Header>>,
    receipts: Vec<Receipt>,
    attestations: Vec<Arc<AttestedView>>,
    logs: BTreeMap<Digest, Vec<LogLeaf>>,
    /// What was last read of the log of a mailbox at a node.
    known: BTreeMap<(NodeId, MailboxId), Vec<LogLeaf>>,
}

/// Tells a story.
pub fn harvest(story: &Story) -> Harvest {
    let mut world = World::told(story.seed, &Options::default(), Some(story));
    let end = world.heals_at + AFTERMATH_MS[usize::from(story.careless)];
    let violation = world.run_until(end);
    world.reap(violation)
}

impl World {
    /// Everything that was gathered.
    pub(super) fn reap(mut self, violation: Option<Violation>) -> Harvest {
        let mut batches = BTreeMap::new();
        let Some(gathered) = self.gathered.take() else { unreachable!("a story is gathered") };
        let mut headers: BTreeMap<Digest, Signed<Header>> = BTreeMap::new();
        let included = gathered.cuts.iter().flat_map(|cut| &cut.body.headers).map(|sealed| &sealed.header);
        for header in gathered.headers.iter().chain(included) {
            let digest = header.digest(&self.federation);
            if let Some(bundles) = self.checks.oracle.bundles(&digest) {
                batches.insert(digest, bundles.to_vec());
                headers.insert(digest, header.clone());
            }
        }
        Harvest {
            federation: self.federation,
            cuts: gathered.cuts,
            headers: headers.into_values().collect(),
            batches,
            receipts: gathered.receipts,
            attestations: gathered.attestations,
            logs: gathered.logs,
            violation,
        }
    }
}

impl Gathered {
    pub(super) fn new(story: Story) -> Gathered {
        let (cuts, headers, receipts, attestations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Gathered { story, cuts, headers, receipts, attestations, logs: BTreeMap::new(), known: BTreeMap::new() }
    }

    pub(super) fn quota(&self) -> Load {
        Load { entries: self.story.quota, bytes: 1 << 40 }
    }

    /// Something leaves a node.
    pub(super) fn sent(&mut self, output: &Output) {
        match output {
            Output::ToHolder(_, message) => {
                if let Outward::Slice(parcel) = &**message {
                    self.headers.push(parcel.header.clone());
                }
            }
            Output::ToOrigin(_, Homeward::Receipts(receipts)) => self.receipts.extend(receipts.iter().cloned()),
            Output::ToSequencer(message) => match &**message {
                ToSequencer::Sealed(sealed) => {
                    let Sealed { header, custody } = &**sealed;
                    self.headers.push(header.clone());
                    self.receipts.extend(custody.iter().flat_map(|custody| custody.receipts.iter().cloned()));
                }
                ToSequencer::Fill(fill) => self.receipts.push((**fill).clone()),
                _ => {}
            },
            _ => {}
        }
    }

    /// An attestation leaves a node, or is final.
    pub(super) fn attested(&mut self, view: &Arc<AttestedView>, disk: &dyn Read) {
        self.attestations.push(Arc::clone(view));
        for (mailbox, said) in view.map.iter() {
            if self.logs.contains_key(&said.log.root) {
                continue;
            }
            let known = self.known.entry((view.attestation.body.node, *mailbox)).or_default();
            read_log(disk, mailbox, known);
            let log = known.get(..said.log.size as usize).unwrap_or_default();
            if tree::root(&log.iter().map(LogLeaf::hash).collect::<Vec<_>>()) == said.log.root {
                self.logs.insert(said.log.root, log.to_vec());
            }
        }
    }
}

/// What is on a disk of a log, over what was there before: entries that are forgotten are remembered here.
fn read_log(disk: &dyn Read, mailbox: &MailboxId, log: &mut Vec<LogLeaf>) {
    let rows = disk.range(LOGS, &mailbox.0, &[], usize::MAX).unwrap_or_default();
    for (key, row) in rows.iter().take_while(|(key, _)| key.starts_with(&mailbox.0)) {
        let at = tables::key_number(key) as usize;
        if let Ok(row) = decode::<LogRow>(row)
            && at <= log.len()
        {
            log.truncate(at);
            log.extend(row.log_leaves());
        }
    }
}
