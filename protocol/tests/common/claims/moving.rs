//! A mailbox that moves, and what its homes may be guilty of.
//!
//! Mailbox 1 lives at node 1. Its first message is in the log that node 1 attests, finally; its second is routed there as
//! well and comes too late for that. Then it moves to node 2, which continues that log and imports the second message.

use postroad_protocol::attestation::{Anchor, LogHead, LogLeaf};
use postroad_protocol::cut::CutBody;
use postroad_protocol::evidence::{
    Broken, Claim, Closed, Drop, FalseHandoff, FalseHome, FalseImport, Fault, LogGap, NotContinued, PendingThen,
    SettledImport, Verdict,
};
use postroad_protocol::moving::{Base, Handoff, Import, Missing, Move, Switch};
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::signed::Statement;
use postroad_protocol::state::PendingKey;
use postroad_protocol::{Digest, Params, Seq, Signed};

use super::super::{Attested, Batch, Hold, World};
use super::{Guilty, Scale, verdict, world_with};

/// The mailbox, its homes, and where the epochs are in which things happen.
pub(crate) struct Moving {
    pub(crate) world: World,
    scale: Scale,
    /// What the old home attested of the first message.
    pub(crate) base: Base,
    pub(crate) before: Attested,
    pub(crate) before_anchor: Anchor,
    /// The batch with the second message.
    pub(crate) open: Batch,
    /// The epoch that included it.
    pub(crate) included: u64,
    /// The epoch of the switch.
    pub(crate) switched: u64,
}

impl Moving {
    /// Up to the switch; `hold` says who holds the second message.
    pub(crate) fn new(scale: Scale, hold: &Hold, change: impl FnOnce(&mut Params)) -> Moving {
        let mut moving = Moving::settled(scale, hold, change);
        moving.switched = moving.switch(2);
        moving
    }

    /// Up to the second message.
    pub(crate) fn settled(scale: Scale, hold: &Hold, change: impl FnOnce(&mut Params)) -> Moving {
        let mut world = world_with(scale, change);
        world.prefill(1, scale.entries);
        let bundles = world.letters(scale, &[1]);
        let first = world.seal(0, bundles);
        let sealed = world.held(&first);
        world.include(vec![sealed]);
        let before = world.attest(1, &[]);
        let before_anchor = world.make_final(1, &before);
        let base = world.mailbox_attestation(&before, 1).base(&world.federation);
        let bundles = world.letters(scale, &[1]);
        let open = world.seal(0, bundles);
        let sealed = world.held_as(&open, |node| if node == 1 { hold.clone() } else { Hold::Home });
        let included = world.include(vec![sealed]).header.epoch;
        Moving { world, scale, base, before, before_anchor, open, included, switched: 0 }
    }

    /// The mailbox moves on.
    pub(crate) fn switch(&mut self, to: usize) -> u64 {
        let world = &mut self.world;
        let known = world.state.mailbox(&world.mailbox(1)).unwrap();
        let (mailbox, replaces) = (world.mailbox(1), known.record);
        let switch = Switch { mailbox, replaces, home: world.node(to), recovery_key: None };
        let order = Move::new(switch).by_device(&world.mailboxes[1], &world.federation);
        let order = world.check(order).co_sign(&world.nodes[to], &world.federation).into_inner();
        world.cut(CutBody { records: vec![Record::Move(Box::new(order))], ..CutBody::default() }).header.epoch
    }

    /// The new home's import of this base, after a change.
    pub(crate) fn import(&mut self, base: Option<Base>, change: impl FnOnce(&mut Import)) -> Signed<Import> {
        let world = &self.world;
        let known = world.state.mailbox(&world.mailbox(1)).unwrap();
        let last = known.moved.as_ref().and_then(|moved| moved.import.as_ref());
        let mut import = Import {
            mailbox: world.mailbox(1),
            home: known.home,
            previous: last.map_or(known.record, |last| last.digest),
            base,
            through: world.state.epoch,
            missing: Vec::new(),
        };
        change(&mut import);
        world.sign(import, world.secret(&known.home))
    }

    /// The same, settled.
    pub(crate) fn take_over(&mut self, base: Option<Base>, change: impl FnOnce(&mut Import)) -> u64 {
        let import = self.import(base, change);
        self.world.cut(CutBody { records: vec![Record::Import(import)], ..CutBody::default() }).header.epoch
    }

    /// All headers of the origin up to the second message's are missing.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        vec![Missing { origin: self.world.node(0), from: self.included, to: self.included }]
    }

    /// The old home's fill of the second message's slice, settled.
    pub(crate) fn fill(&mut self) -> SettledFill {
        let fill = self.world.fill(&self.open, 1);
        let epoch = self.world.cut(CutBody { fills: vec![fill], ..CutBody::default() }).header.epoch;
        self.world.settled_fill(epoch, 0)
    }

    pub(crate) fn key(&self) -> PendingKey {
        PendingKey { destination: self.world.node(1), header: self.open.digest }
    }

    /// The log leaf of the second message when this epoch settles it.
    pub(crate) fn leaf(&self, settled: u64) -> LogLeaf {
        self.leaf_for(1, settled)
    }

    /// The same, of the slice for a node.
    pub(crate) fn leaf_for(&self, node: usize, settled: u64) -> LogLeaf {
        let leaf = *self.world.slice_proof(&self.open, node, 1).leaves.last().unwrap();
        let seq = Seq { epoch: self.included, position: 0, index: leaf.index };
        LogLeaf { settled, seq, message: leaf.message, own: leaf.own }
    }

    /// The present home's log: what it took over, and these entries.
    pub(crate) fn holds(&mut self, own: &[LogLeaf]) {
        let base = self.base.log.size as usize;
        self.world.falsify(1, |log| {
            log.truncate(base);
            log.extend(own);
        });
    }

    /// Its attestation, made final.
    pub(crate) fn attest(&mut self, node: usize) -> (Attested, Anchor) {
        let attested = self.world.attest(node, &[]);
        let anchor = self.world.make_final(node, &attested);
        (attested, anchor)
    }

    /// The claim that the new home took the second message over in this epoch, and lacks it at the end of its log.
    pub(crate) fn dropped(&self, attested: &Attested, anchor: Anchor, import: u64) -> Drop {
        let destination = self.open.header.body.slices[0].destination;
        let node = (0..self.world.nodes.len()).find(|node| self.world.node(*node) == destination).unwrap();
        self.dropped_of(attested, anchor, node, self.closed(import))
    }

    /// That this import took the second message over.
    pub(crate) fn closed(&self, import: u64) -> Option<Box<Closed>> {
        let by = SettledImport::find(&self.world.cuts[import as usize - 1], &self.world.mailbox(1)).unwrap();
        Some(Box::new(Closed { by, after: None, pending: None }))
    }

    /// The claim that the log lacks the second message at its end, as the slice for a node has it.
    pub(crate) fn dropped_of(
        &self,
        attested: &Attested,
        anchor: Anchor,
        node: usize,
        closed: Option<Box<Closed>>,
    ) -> Drop {
        let world = &self.world;
        let id = world.mailbox(1);
        let key = PendingKey { destination: world.node(node), header: self.open.digest };
        let state = world.states.last().unwrap();
        let shown = world.shown(attested, 1);
        let size = shown.log.as_ref().map_or(0, |log| log.log.size) as usize;
        Drop {
            included: world.included(self.included, 0),
            custody: world.cuts[self.included as usize - 1].body.headers[0].custody.clone(),
            fill: None,
            mailbox: id,
            slice: world.slice_proof(&self.open, node, 1),
            leaf: world.slice_proof(&self.open, node, 1).leaves.len() as u32 - 1,
            gap: LogGap { before: size.checked_sub(1).map(|at| world.leaf_at(attested, 1, at)), after: None },
            attested: shown,
            anchor,
            home: world.home_proof(1, state.epoch),
            lost: state.lost(&key).copied(),
            lost_path: state.prove_lost(&key),
            closed,
        }
    }

    /// That the second message's slice was pending after an epoch.
    pub(crate) fn pending_at(&self, epoch: u64) -> PendingThen {
        let (state, key) = (&self.world.states[epoch as usize], self.key());
        PendingThen {
            cut: self.world.certified(epoch).clone(),
            pending: state.pending(&key).expect("it is pending").clone(),
            path: state.prove_pending(&key),
            parts: state.parts(),
        }
    }

    /// The old home's word on what it hands over.
    pub(crate) fn handoff(&self, log: LogHead) -> Signed<Handoff> {
        let world = &self.world;
        let handoff = Handoff {
            node: world.node(1),
            mailbox: world.mailbox(1),
            home: world.node(2),
            attestation: self.base.attestation,
            log,
        };
        assert_eq!(handoff.signer(), world.node(1));
        world.sign(handoff, &world.nodes[1])
    }

    fn guilty(self, fault: Fault, node: usize, epoch: u64, claim: Claim) -> Guilty {
        let verdict = Verdict { mailbox: Some(self.world.mailbox(1)), ..verdict(fault, &self.world, node, epoch) };
        Guilty { world: self.world, claim, verdict }
    }
}

/// A log that nobody has.
pub(crate) fn other(log: LogHead) -> LogHead {
    LogHead { root: Digest([7; 32]), ..log }
}

pub(super) fn false_handoff(scale: Scale) -> Guilty {
    let moving = Moving::new(scale, &Hold::Home, |_| {});
    let attested = moving.world.mailbox_attestation(&moving.before, 1);
    let claim = FalseHandoff::by_log(&moving.handoff(other(moving.base.log)), &attested);
    moving.guilty(Fault::FalseHandoff, 1, 2, claim)
}

/// The new home lacks what it took over.
pub(super) fn false_import(scale: Scale) -> Guilty {
    let mut moving = Moving::new(scale, &Hold::Home, |_| {});
    let epoch = moving.take_over(Some(moving.base), |_| {});
    moving.world.falsify(1, |log| log.clear());
    let attested = moving.world.attest(2, &[]);
    let claim = NotContinued {
        mailbox: moving.world.mailbox(1),
        attested: moving.world.shown(&attested, 1),
        home: moving.world.home_proof(1, epoch),
        broken: Broken::Shorter,
    };
    moving.guilty(Fault::FalseImport, 2, epoch, Claim::FalseImport(FalseImport::Continued(Box::new(claim))))
}

/// The old home goes on as if nothing had happened.
pub(super) fn false_home(scale: Scale) -> Guilty {
    let mut moving = Moving::settled(scale, &Hold::Home, |_| {});
    let mut attested = moving.world.attest(1, &[]);
    let epoch = moving.switch(2);
    attested.signed = {
        let body = postroad_protocol::attestation::Attestation { epoch, ..attested.signed.body.clone() };
        Signed::sign(body, &moving.world.nodes[1], &moving.world.federation)
    };
    let claim = FalseHome {
        mailbox: moving.world.mailbox(1),
        attested: moving.world.shown(&attested, 1),
        home: moving.world.home_proof(1, epoch),
    };
    moving.guilty(Fault::FalseHome, 1, epoch, Claim::FalseHome(Box::new(claim)))
}

/// The new home says that it has taken a message over, and lacks it.
pub(crate) fn dropped_import(scale: Scale) -> Guilty {
    let mut moving = Moving::new(scale, &Hold::Home, |_| {});
    let epoch = moving.take_over(Some(moving.base), |_| {});
    moving.holds(&[]);
    let (attested, anchor) = moving.attest(2);
    let claim = moving.dropped(&attested, anchor, epoch);
    let seq = Seq { epoch: moving.included, position: 0, index: moving.scale.bundles as u64 };
    let mut guilty = moving.guilty(Fault::Drop, 2, epoch, Claim::Drop(Box::new(claim)));
    guilty.verdict.seq = Some(seq);
    guilty
}
