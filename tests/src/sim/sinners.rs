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
use postroad_protocol::cut::Cut;
use postroad_protocol::evidence::{Claim, Fault};
use postroad_protocol::moving::{Handoff, HandoffPage};
use postroad_protocol::slice::SliceBody;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Signed};
use postroad_store::Read;

use super::Options;
use super::harvest::{Harvest, Story};
use super::rng::Rng;
use super::world::{Step, World};

/// How long a run goes on after its faults; and where mailboxes move, until the last move is over.
const AFTERMATH_MS: [u64; 2] = [8_000, 12_000];
/// Within so much of the cuts' time a move to an honest home is over, where nothing breaks any more.
const MOVED_WITHIN_MS: u64 = 8_000;

/// Sins after which the sinner's own logs are what they should be, and so are those that continue them.
const HARMLESS: [Sin; 4] = [Sin::FalseHandoff, Sin::WithholdHandoff, Sin::FalseHome, Sin::DenyAcceptance];

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
    /// Handoffs that arrived at a new home, each with the attestation that came with it.
    pub(crate) handoffs: BTreeMap<Digest, (Signed<Handoff>, MailboxAttestation)>,
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

/// One sinner or two, how, whether owners move, and then everything else follows from `seed`.
pub(crate) fn sin(seed: u64, cheats: &[Cheat], moves: bool, trace: bool) -> Sinful {
    let story = Story { keys: seed, seed, name: "simulated", retention_ms: 1 << 40, quota: 1 << 20, careless: false };
    let mut world = World::told(seed, &Options { trace, moves, ..Options::default() }, Some(&story));
    world.sinners.choose(&world.ids, cheats, &mut Rng::new(!seed));
    world.checks.sinners = world.sinners.keys.keys().copied().collect();
    let lies = |(node, cheat): (&NodeId, &Cheat)| (!HARMLESS.contains(&cheat.sin)).then_some(*node);
    world.checks.liars = world.sinners.keys.iter().filter_map(lies).collect();
    let end = world.heals_at + AFTERMATH_MS[usize::from(moves)];
    let violation = world.run_until(end);
    world.tell_ends();
    let violation = violation.or_else(|| world.finish_in_part().err());
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

    /// Whether anybody is.
    pub(super) fn is_any(&self) -> bool {
        !self.keys.is_empty()
    }

    /// One of them, if there are any.
    pub(super) fn one(&self) -> Option<usize> {
        self.cheats.keys().next().copied()
    }

    /// Whether a node may act as if it had not signed a switch.
    pub(super) fn denies(&self, node: usize) -> bool {
        self.cheat(node).is_some_and(|cheat| cheat.sin == Sin::DenyAcceptance)
    }

    /// A page of a log arrived at a new home.
    pub(super) fn handed(&mut self, page: &HandoffPage, federation: &Federation) {
        if self.is_any() {
            let HandoffPage { handoff, attested, .. } = page;
            self.handoffs.insert(handoff.digest(federation), (handoff.clone(), attested.clone()));
        }
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
        if self.sinners.is(node) || self.sinners.any(&[Sin::Forge]) || self.is_misled(client) {
            self.sinners.wronged.insert(self.clients[client].id);
            return Ok(());
        }
        self.broken("verification", format!("client {client} of node {node}: {what}"))
    }

    /// Whether a client's mailbox has lived where logs are not what they should be.
    pub(super) fn is_misled(&self, client: usize) -> bool {
        let liars = &self.checks.liars;
        let known = self.checks.chains.state().mailbox(&self.clients[client].id).filter(|_| !liars.is_empty());
        let spans = known.iter().filter_map(|known| known.moved.as_ref()).flat_map(|moved| &moved.spans);
        spans.map(|span| span.node).chain(known.map(|known| known.home)).any(|node| liars.contains(&node))
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

    /// A trace tells how far everybody has come.
    fn tell_ends(&mut self) {
        for (at, client) in self.clients.iter().enumerate() {
            let (since, has, home) = (client.since, client.log.next_index(), client.home);
            let there = self.checks.logs.present(&client.id).map_or(0, |there| there.log().len());
            let imported = self.checks.chains.state().mailbox(&client.id).and_then(|known| known.moved.as_ref());
            let imported =
                imported.map(|moved| moved.import.as_ref().map(|import| (import.epoch, import.missing.len())));
            let misled = self.is_misled(at);
            self.trace.say(
                self.now,
                home,
                &format!("client {at} here since {since} has {has} of {there} entries, imported {imported:?}, misled {misled}"),
            );
        }
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
        self.moved_on()?;
        let is_unharmed = |at: &usize| {
            let client = &self.clients[*at];
            !self.sinners.is(client.home) && !self.sinners.wronged.contains(&client.id) && !self.is_misled(*at)
        };
        let honest = (0..self.clients.len()).filter(is_unharmed).filter(|at| self.is_settled(*at));
        let honest: BTreeSet<MailboxId> = honest.map(|at| self.clients[at].id).collect();
        self.judge(self.checks.oracle.finish_in_part(&honest))?;
        // A custodian that sins may be the only one who has a slice.
        if !self.sinners.any(&[Sin::Withhold, Sin::Lose]) {
            let verdict = self.checks.once.finish_among(&honest, &self.checks.sinners);
            self.judge(verdict)?;
        }
        Ok(())
    }

    /// How long ago a cut was made, by the cuts' own time.
    fn since_cut_ms(&self, epoch: u64) -> u64 {
        let cuts = self.gathered.as_ref().map_or(&[][..], |gathered| &gathered.cuts);
        let age_ms = |cut: &Cut| cut.certified.header.age_ms;
        let then = epoch.checked_sub(1).and_then(|at| cuts.get(at as usize)).map_or(0, age_ms);
        cuts.last().map_or(0, age_ms) - then
    }

    /// Whether a mailbox has been at its home for long enough that everything has come, and its owner knows where it is.
    fn is_settled(&self, client: usize) -> bool {
        let client = &self.clients[client];
        let known = self.checks.chains.state().mailbox(&client.id);
        known.is_some_and(|known| {
            let Some(moved) = &known.moved else { return true };
            moved.import.as_ref().is_some_and(|import| import.missing.is_empty())
                && known.since == client.since
                && self.since_cut_ms(known.since) >= MOVED_WITHIN_MS
        })
    }

    /// A mailbox that has left a sinner, or has come from one, is taken over by its honest home: with everything that
    /// nobody but a sinner has to hand out.
    fn moved_on(&self) -> Step {
        let was_set_back = self.nodes.iter().any(|node| node.restored);
        let state = self.checks.chains.state();
        for (at, client) in self.clients.iter().enumerate() {
            let Some(known) = state.mailbox(&client.id) else { continue };
            let Some(moved) = &known.moved else { continue };
            let is_honest = self.index_of(&known.home).is_some_and(|home| !self.sinners.is(home));
            if !is_honest || was_set_back || self.since_cut_ms(known.since) < MOVED_WITHIN_MS {
                continue;
            }
            let missing = moved.import.as_ref().map(|import| {
                let mut missing = import.missing.iter();
                missing.find(|missing| !self.sinners.keys.contains_key(&missing.origin))
            });
            match missing {
                Some(None) => {}
                Some(Some(missing)) => {
                    return self.broken("moves", format!("nobody hands {missing:?} out to the home of client {at}"));
                }
                None => {
                    return self.broken("moves", format!("client {at} came to an honest home that imports nothing"));
                }
            }
        }
        Ok(())
    }

    /// Whether a node, told to, keeps a slice to itself.
    pub(super) fn withholds(&mut self, node: usize, key: &postroad_protocol::slice::SliceKey) -> bool {
        let running = self.nodes[node].running.as_mut();
        running.is_some_and(|running| running.node.withholds(key))
    }
}
