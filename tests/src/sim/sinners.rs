//! Runs in which one node or two cheat, among the same faults as always.
//!
//! The invariants go on for everybody else: what a sinner says of its own is not held against the honest, and what it
//! broke for somebody is not expected to have come. What honest nodes and clients got is kept, for whoever judges.

use std::collections::{BTreeMap, BTreeSet};

use postroad_engine::cheat::{Cheat, Sin};
use postroad_engine::tables::SLICES;
use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::batch::Header;
use postroad_protocol::codec::decode;
use postroad_protocol::evidence::{Claim, Fault};
use postroad_protocol::slice::SliceBody;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, MailboxId, NodeId, Signed};
use postroad_store::Read;

use super::Options;
use super::harvest::{Harvest, Story};
use super::rng::Rng;
use super::world::{Step, World};

/// How long a run goes on after its faults.
const AFTERMATH_MS: u64 = 8_000;

/// A sin that was committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sinned {
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
}

/// Who cheats, and what came of it to others.
#[derive(Debug, Default)]
pub(crate) struct Sinners {
    cheats: BTreeMap<usize, Cheat>,
    /// The sinners' keys.
    pub(crate) keys: BTreeMap<NodeId, Cheat>,
    pub(crate) sinned: Vec<Sinned>,
    /// Headers that arrived at their holders.
    pub(crate) faces: BTreeMap<Digest, Signed<Header>>,
    /// Attestations that arrived at the owner of a mailbox.
    pub(crate) shown: BTreeMap<Digest, MailboxAttestation>,
    /// Slices that somebody fetched and that do not hold.
    pub(crate) bent: Vec<SliceParcel>,
    /// Slices of sinners, as their holders hand them out.
    pub(crate) bodies: BTreeMap<(Digest, NodeId), SliceBody>,
    /// What honest nodes found out by themselves.
    pub(crate) accusations: Vec<Claim>,
    /// Who came back with an older disk.
    pub(crate) restored: BTreeSet<NodeId>,
    /// Clients that were shown what does not verify.
    wronged: BTreeSet<MailboxId>,
}

/// A run in which somebody sins, and all that was said in it.
pub(crate) struct Sinful {
    pub(crate) harvest: Harvest,
    pub(crate) sinners: Sinners,
}

/// One sinner or two, how, and then everything else follows from `seed`.
pub(crate) fn sin(seed: u64, cheats: &[Cheat], trace: bool) -> Sinful {
    let story = Story { keys: seed, seed, name: "simulated", retention_ms: 1 << 40, quota: 1 << 20, careless: false };
    let mut world = World::told(seed, &Options { trace, ..Options::default() }, Some(&story));
    world.sinners.choose(&world.ids, cheats, &mut Rng::new(!seed));
    world.checks.sinners = world.sinners.keys.keys().copied().collect();
    let end = world.heals_at + AFTERMATH_MS;
    let violation = world.run_until(end).or_else(|| world.finish_in_part().err());
    let mut sinners = std::mem::take(&mut world.sinners);
    sinners.restored = world.nodes.iter().filter(|node| node.restored).map(|node| node.id).collect();
    let withholds = |node: &NodeId| sinners.keys.get(node).is_some_and(|cheat| cheat.sin == Sin::Withhold);
    let mut bodies = BTreeMap::new();
    for node in world.nodes.iter().filter(|node| !withholds(&node.id)) {
        let rows = node.disk().ok().and_then(|disk| disk.range(SLICES, &[], &[], usize::MAX).ok());
        for parcel in rows.unwrap_or_default().iter().filter_map(|(_, row)| decode::<SliceParcel>(row).ok()) {
            if sinners.keys.contains_key(&parcel.header.body.origin) {
                let header = parcel.header.digest(&world.federation);
                bodies.insert((header, parcel.destination), parcel.body);
            }
        }
    }
    sinners.bodies = bodies;
    Sinful { harvest: world.reap(violation), sinners }
}

impl Sinners {
    fn choose(&mut self, ids: &[NodeId], cheats: &[Cheat], rng: &mut Rng) {
        let mut free: Vec<usize> = (0..ids.len()).collect();
        for cheat in cheats {
            let node = free.remove(rng.index(free.len()));
            self.cheats.insert(node, *cheat);
            self.keys.insert(ids[node], *cheat);
        }
    }

    /// What a node was told to do.
    pub(super) fn cheat(&self, node: usize) -> Option<Cheat> {
        self.cheats.get(&node).copied()
    }

    /// Whether a node is a sinner.
    pub(super) fn is(&self, node: usize) -> bool {
        self.cheats.contains_key(&node)
    }

    /// Whether somebody commits this sin.
    fn any(&self, sins: &[Sin]) -> bool {
        self.cheats.values().any(|cheat| sins.contains(&cheat.sin))
    }
}

impl World {
    /// A node that was told to cheat has done so.
    pub(super) fn sinned(&mut self, me: usize, epoch: u64) {
        let node = self.ids[me];
        self.sinners.sinned.push(Sinned { node, epoch });
    }

    /// What a sinner brought about is not held against anybody else.
    pub(super) fn unless_sinner(&self, node: usize, step: Step) -> Step {
        if self.sinners.is(node) { Ok(()) } else { step }
    }

    /// What a client was shown does not hold. Its home is to blame, or the origin of a bundle that its sender never signed.
    pub(super) fn wrong(&mut self, client: usize, node: usize, what: String) -> Step {
        if self.sinners.is(node) || self.sinners.any(&[Sin::Forge]) {
            self.sinners.wronged.insert(self.clients[client].id);
            return Ok(());
        }
        self.broken("verification", format!("client {client} of node {node}: {what}"))
    }

    /// A slice that was fetched does not hold.
    pub(super) fn bent(&mut self, parcel: SliceParcel, why: String) -> Step {
        if self.sinners.keys.contains_key(&parcel.header.body.origin) {
            self.sinners.bent.push(parcel);
            return Ok(());
        }
        self.broken("verification", format!("what an honest node sent was refused: {why}"))
    }

    /// A node accuses somebody. Where nobody lies, only a disk that was set back may have lost what its node signed for.
    pub(super) fn accused(&mut self, me: usize, claim: Claim) -> Step {
        let (fault, accused) = (claim.fault(), claim.accused(&self.federation));
        let judged = claim.judge(&self.federation);
        if judged.is_err() || fault != Fault::Loss && !self.sinners.keys.contains_key(&accused) {
            return self.broken("accused", format!("node {me} accuses {accused} of {fault}: {judged:?}"));
        }
        self.sinners.accusations.push(claim);
        Ok(())
    }

    /// What must hold among the honest, though not everything has come where it belongs.
    fn finish_in_part(&self) -> Step {
        for at in (0..self.nodes.len()).filter(|at| !self.sinners.is(*at)) {
            let disk = self.nodes[at].disk()?;
            let verdict = self.checks.chains.on_disk(at, &disk);
            self.judge(verdict)?;
            let verdict = self.checks.logs.on_disk(at, self.nodes[at].id, &disk);
            self.judge(verdict)?;
        }
        let honest: BTreeSet<MailboxId> = (self.clients.iter())
            .filter(|client| !self.sinners.is(client.home) && !self.sinners.wronged.contains(&client.id))
            .map(|client| client.id)
            .collect();
        self.judge(self.checks.oracle.finish_in_part(&honest))?;
        // A custodian that sins may be the only one who has a slice.
        if !self.sinners.any(&[Sin::Withhold, Sin::Lose]) {
            let verdict = self.checks.once.finish_among(&honest, &self.checks.sinners);
            self.judge(verdict)?;
        }
        Ok(())
    }

    /// Whether a node, told to, keeps a slice to itself.
    pub(super) fn withholds(&mut self, node: usize, key: &postroad_protocol::slice::SliceKey) -> bool {
        let running = self.nodes[node].running.as_mut();
        running.is_some_and(|running| running.node.withholds(key))
    }
}
