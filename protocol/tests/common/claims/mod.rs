//! Guilty histories, one at least of every fault, and the claims that show them.

pub(crate) mod moving;
mod parts;

use postroad_protocol::attestation::{Anchor, LogLeaf};
use postroad_protocol::batch::SliceRef;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::challenge::Lost;
use postroad_protocol::cut::{CutBody, CutHeader};
use postroad_protocol::evidence::{
    BadSlice, BundleAt, Claim, Drop, EarlyExpiry, Entry, Equivocation, Fault, Forgery, Included, InvalidCut, LogGap,
    Loss, Misordering, Omission, Owed, SliceProof, SplitLogs, SplitOrder, SplitView, Stale, Verdict, Wrong, WrongEntry,
};
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::slice::{LeafRef, mailbox_value};
use postroad_protocol::state::PendingKey;
use postroad_protocol::{Digest, Params, Seq};

use super::{Attested, Batch, Hold, World};

/// How large a history is around what is wrong in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Bundles of a batch beside the guilty one.
    pub(crate) bundles: usize,
    /// Mailboxes; four nodes share them.
    pub(crate) mailboxes: usize,
    /// Entries of a log before those that count.
    pub(crate) entries: usize,
}

impl Scale {
    /// As little as there can be.
    pub(crate) const SMALL: Scale = Scale { bundles: 0, mailboxes: 6, entries: 0 };
    /// As docs/blame.md has it.
    pub(crate) const TYPICAL: Scale = Scale { bundles: 9, mailboxes: 40, entries: 1_000 };
}

/// A claim that holds.
pub(crate) struct Guilty {
    pub(crate) world: World,
    pub(crate) claim: Claim,
    pub(crate) verdict: Verdict,
}

/// One of every fault, in their order.
pub(crate) fn guilty(scale: Scale) -> Vec<Guilty> {
    vec![
        equivocation(scale),
        omission(scale),
        bad_slice(scale),
        forgery(scale),
        misordering(scale),
        stale(scale),
        drop_of(scale),
        wrong_entry(scale),
        early_expiry(scale),
        split_view(scale),
        loss(scale),
        invalid_cut(scale),
        split_order(scale),
        moving::false_handoff(scale),
        moving::false_import(scale),
        moving::false_home(scale),
    ]
}

/// A federation after its first cut. What is unlawful in it reaches nobody's log.
pub(crate) fn world(scale: Scale) -> World {
    world_with(scale, |_| {})
}

pub(crate) fn world_with(scale: Scale, change: impl FnOnce(&mut Params)) -> World {
    World::builder().mailboxes(scale.mailboxes).params(change).build()
}

pub(crate) fn verdict(fault: Fault, world: &World, node: usize, epoch: u64) -> Verdict {
    Verdict { fault, culprit: world.node(node), epoch, seq: None, mailbox: None }
}

/// Two batches of one origin, sealed one beside the other; the second is of this incarnation.
pub(crate) fn two_headers(scale: Scale, incarnation: u64) -> (World, Claim) {
    let mut world = world(scale);
    let (one, other) = (world.letters(scale, &[1]), world.letters(scale, &[2]));
    let one = world.seal(0, one);
    let other = world.seal_with(0, other, |header| header.incarnation = incarnation);
    let (a, b) = (one.header.into_inner(), other.header.into_inner());
    let claim = Equivocation::of(a, b, &world.federation);
    (world, Claim::Equivocation(Box::new(claim)))
}

fn equivocation(scale: Scale) -> Guilty {
    let (world, claim) = two_headers(scale, 1);
    let verdict = verdict(Fault::Equivocation, &world, 0, 1);
    Guilty { world, claim, verdict }
}

/// A message to mailboxes 1 and 2, and a claim that 1 was left out; the header names these nodes' slices.
pub(crate) fn routed(scale: Scale, keep: impl Fn(&SliceRef) -> bool) -> (World, Omission) {
    let mut world = world(scale);
    let bundles = world.letters(scale, &[1, 2]);
    let batch = world.seal_with(0, bundles, |header| header.slices.retain(keep));
    let sealed = world.held(&batch);
    let cut = world.include(vec![sealed]);
    let epoch = cut.header.epoch;
    let ordinal = batch.bundles.len() - 1;
    let home = world.home_proof(1, epoch);
    let slice = batch.header.body.slice(&world.node(1)).map(|_| world.slice_proof(&batch, 1, 1));
    let claim = Omission {
        included: world.included(epoch, 0),
        message: world.message_at(&batch, ordinal, 0),
        recipient: world.recipient_at(&batch, ordinal, 0, 0),
        home,
        slice,
    };
    (world, claim)
}

fn omission(scale: Scale) -> Guilty {
    let node = world(scale).node(1);
    let (world, claim) = routed(scale, |slice| slice.destination != node);
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict = Verdict { seq: Some(seq), mailbox: Some(world.mailbox(1)), ..verdict(Fault::Omission, &world, 0, 2) };
    Guilty { world, claim: Claim::Omission(Box::new(claim)), verdict }
}

/// A batch with a message to mailbox 1; the slice for its home holds `leaf` of what it should.
pub(crate) fn sliced(scale: Scale, leaf: impl FnOnce(&LeafRef) -> LeafRef) -> (World, Batch, BadSlice) {
    let mut world = world(scale);
    let bundles = world.letters(scale, &[1]);
    let honest = world.seal(0, bundles.clone());
    let right = *world.slice_proof(&honest, 1, 1).leaves.last().unwrap();
    let leaves = vec![leaf(&right)];
    let mailbox = world.mailbox(1);
    // As many mailboxes as a node has.
    let others = (0..scale.mailboxes).filter(|other| other % 4 == 1).map(|other| world.mailbox(other));
    let map: MerkleMap<_, _> = others.map(|other| (other, mailbox_value(leaves.iter()))).collect();
    let slice = SliceRef { destination: world.node(1), root: map.root(), count: map.len() as u64 };
    let batch = world.seal_with(0, bundles, |header| header.slices = vec![slice]);
    let ordinal = batch.bundles.len() - 1;
    let claim = BadSlice {
        header: batch.header.clone().into_inner(),
        destination: slice.destination,
        mailbox,
        slice: SliceProof { proof: map.prove(&mailbox), leaves },
        leaf: 0,
        entry: Entry::OtherOwn(
            Box::new(world.message_at(&batch, ordinal, 0)),
            Box::new(world.recipient_at(&batch, ordinal, 0, 0)),
        ),
    };
    (world, batch, claim)
}

fn bad_slice(scale: Scale) -> Guilty {
    let (world, _, claim) = sliced(scale, |right| LeafRef { own: Digest([7; 32]), ..*right });
    let verdict = Verdict { mailbox: Some(world.mailbox(1)), ..verdict(Fault::BadSlice, &world, 0, 1) };
    Guilty { world, claim: Claim::BadSlice(Box::new(claim)), verdict }
}

/// A batch that node 0 seals of bundles, the last of them odd, and that a cut includes: the last bundle in it.
pub(crate) fn with_bundle(
    scale: Scale,
    change: impl FnOnce(&mut World, &mut Bundle),
) -> (World, Batch, Included, BundleAt) {
    let mut world = world(scale);
    let mut bundles = world.letters(scale, &[1]);
    let mut odd = bundles.pop().unwrap();
    change(&mut world, &mut odd);
    bundles.push(odd);
    let batch = world.seal(0, bundles);
    world.withhold(&batch);
    let sealed = world.held(&batch);
    let epoch = world.include(vec![sealed]).header.epoch;
    let (included, bundle) = (world.included(epoch, 0), world.bundle_at(&batch, scale.bundles));
    (world, batch, included, bundle)
}

fn forgery(scale: Scale) -> Guilty {
    let (world, _, included, bundle) = with_bundle(scale, |_, bundle| bundle.signed.signature.0[3] ^= 1);
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict = Verdict { seq: Some(seq), ..verdict(Fault::Forgery, &world, 0, 2) };
    let claim = Claim::Forgery(Box::new(Forgery { included, bundle, unregistered: None }));
    Guilty { world, claim, verdict }
}

/// Two batches of node 0, each with a bundle of mailbox 0 under a counter; the second of an incarnation.
pub(crate) fn counted(scale: Scale, counters: (u64, u64), incarnation: u64) -> (World, Misordering) {
    let mut world = world(scale);
    let mut places = Vec::new();
    for (round, counter) in [counters.0, counters.1].into_iter().enumerate() {
        if round == 1 && incarnation == 2 {
            let start = world.start(0, 2);
            world.cut(CutBody { records: vec![start], ..CutBody::default() });
        }
        let mut bundles = world.letters(scale, &[1]);
        bundles.pop();
        bundles.push(world.bundle_with(&[1], |body| body.counter = counter));
        let batch = world.seal_with(0, bundles, |header| header.incarnation = if round == 1 { incarnation } else { 1 });
        let sealed = world.held(&batch);
        let epoch = world.include(vec![sealed]).header.epoch;
        places.push((world.included(epoch, 0), world.bundle_at(&batch, scale.bundles)));
    }
    let (after, later) = places.pop().unwrap();
    let (before, earlier) = places.pop().unwrap();
    (world, Misordering { before, earlier, after: Some(after), later })
}

fn misordering(scale: Scale) -> Guilty {
    let (world, claim) = counted(scale, (5, 5), 1);
    let seq = Seq { epoch: 3, position: 0, index: scale.bundles as u64 };
    let verdict = Verdict { seq: Some(seq), ..verdict(Fault::Misordering, &world, 0, 3) };
    Guilty { world, claim: Claim::Misordering(Box::new(claim)), verdict }
}

/// A bundle that was valid until an epoch, routed in epoch 1.
pub(crate) fn valid_until(scale: Scale, epoch: u64) -> (World, Claim) {
    let (world, _, included, bundle) = with_bundle(scale, |world, bundle| {
        *bundle = world.bundle_with(&[1], |body| body.valid_until = epoch);
    });
    (world, Claim::Stale(Box::new(Stale { included, bundle })))
}

fn stale(scale: Scale) -> Guilty {
    let (world, claim) = valid_until(scale, 0);
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict = Verdict { seq: Some(seq), ..verdict(Fault::Stale, &world, 0, 2) };
    Guilty { world, claim, verdict }
}

/// Mail from node 0 to mailbox 1, held as told, and what comes after it.
pub(crate) struct Delivery {
    pub(crate) world: World,
    pub(crate) batch: Batch,
    /// The epoch that ordered it.
    pub(crate) epoch: u64,
}

impl Delivery {
    pub(crate) fn new(scale: Scale, hold: &Hold, change: impl FnOnce(&mut Params)) -> Delivery {
        let mut world = world_with(scale, change);
        let bundles = world.letters(scale, &[1]);
        let batch = world.seal(0, bundles);
        let sealed = world.held_as(&batch, |node| if node == 1 { hold.clone() } else { Hold::Home });
        let epoch = world.include(vec![sealed]).header.epoch;
        world.prefill(1, scale.entries);
        Delivery { world, batch, epoch }
    }

    pub(crate) fn key(&self) -> PendingKey {
        PendingKey { destination: self.world.node(1), header: self.batch.digest }
    }

    /// The home's fill, settled.
    pub(crate) fn fill(&mut self) -> u64 {
        let fill = self.world.fill(&self.batch, 1);
        self.world.cut(CutBody { fills: vec![fill], ..CutBody::default() }).header.epoch
    }

    /// The claim that a log which was attested and is final lacks the message: `order` is where it would stand, and
    /// `at` the index.
    pub(crate) fn dropped(&self, attested: &Attested, anchor: Anchor, fill: Option<SettledFill>, at: usize) -> Drop {
        let world = &self.world;
        let state = world.states.last().unwrap();
        let key = self.key();
        let size = attested.map.get(&world.mailbox(1)).map_or(0, |log| log.log.size as usize);
        Drop {
            included: world.included(self.epoch, 0),
            custody: world.cuts[self.epoch as usize - 1].body.headers[0].custody.clone(),
            fill: fill.map(Box::new),
            mailbox: world.mailbox(1),
            slice: world.slice_proof(&self.batch, 1, 1),
            leaf: world.slice_proof(&self.batch, 1, 1).leaves.len() as u32 - 1,
            attested: world.shown(attested, 1),
            anchor,
            gap: LogGap {
                before: at.checked_sub(1).map(|at| world.leaf_at(attested, 1, at)),
                after: (at < size).then(|| world.leaf_at(attested, 1, at)),
            },
            home: world.home_proof(1, state.epoch),
            lost: state.lost(&key).copied(),
            lost_path: state.prove_lost(&key),
            closed: None,
        }
    }
}

/// Removes the last entry of mailbox 1's log, attests that, and makes it final.
pub(crate) fn forget(delivery: &mut Delivery) -> (Attested, Anchor, usize) {
    delivery.world.falsify(1, |log| log.truncate(log.len().saturating_sub(1)));
    let at = delivery.world.log(1).len();
    let attested = delivery.world.attest(1, &[]);
    let anchor = delivery.world.make_final(1, &attested);
    (attested, anchor, at)
}

fn drop_of(scale: Scale) -> Guilty {
    let mut delivery = Delivery::new(scale, &Hold::Home, |_| {});
    let (attested, anchor, at) = forget(&mut delivery);
    let claim = delivery.dropped(&attested, anchor, None, at);
    let world = delivery.world;
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict = Verdict { seq: Some(seq), mailbox: Some(world.mailbox(1)), ..verdict(Fault::Drop, &world, 1, 2) };
    Guilty { world, claim: Claim::Drop(Box::new(claim)), verdict }
}

/// The last entry of mailbox 1's log, after a change to it, is attested and final; and it is the guilty one.
pub(crate) fn logged(scale: Scale, change: impl FnOnce(&mut Vec<LogLeaf>)) -> (Delivery, Attested, WrongEntry) {
    let mut delivery = Delivery::new(scale, &Hold::Home, |_| {});
    delivery.world.falsify(1, change);
    let world = &mut delivery.world;
    let attested = world.attest(1, &[]);
    let anchor = world.make_final(1, &attested);
    let last = world.log(1).len() - 1;
    let ordinal = scale.bundles;
    let claim = WrongEntry {
        mailbox: world.mailbox(1),
        attested: world.shown(&attested, 1),
        anchor,
        entry: world.leaf_at(&attested, 1, last),
        wrong: Wrong::Other(
            Box::new(world.included(delivery.epoch, 0)),
            Box::new(Entry::Other(Box::new(world.message_at(&delivery.batch, ordinal, 0)))),
        ),
        home: world.home_proof(1, world.state.epoch),
    };
    (delivery, attested, claim)
}

fn wrong_entry(scale: Scale) -> Guilty {
    let (delivery, _, claim) = logged(scale, |log| log.last_mut().unwrap().message = Digest([7; 32]));
    let world = delivery.world;
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict =
        Verdict { seq: Some(seq), mailbox: Some(world.mailbox(1)), ..verdict(Fault::WrongEntry, &world, 1, 2) };
    Guilty { world, claim: Claim::WrongEntry(Box::new(claim)), verdict }
}

/// Mailbox 1's log is attested as forgotten below an index, some seconds after its last entry was settled.
pub(crate) fn expired(
    scale: Scale,
    retention_ms: u64,
    expired_to: u64,
    acknowledge: bool,
    idle: u64,
) -> (World, EarlyExpiry) {
    let Delivery { mut world, epoch, .. } =
        Delivery::new(scale, &Hold::Home, |params| params.retention_ms = retention_ms);
    world.step_ms = 1_000;
    world.idle(idle);
    let owner = world.mailbox(1);
    let acknowledgement = acknowledge.then(|| world.acknowledgement(1));
    let attested = world.attest_with(
        1,
        |mailbox, log| {
            if mailbox == owner {
                log.expired_to = expired_to;
                log.acknowledged = acknowledgement.clone();
            }
        },
        |_| {},
    );
    let anchor = world.make_final(1, &attested);
    let last = world.log(1).len() - 1;
    let claim = EarlyExpiry {
        mailbox: owner,
        attested: world.shown(&attested, 1),
        anchor,
        entry: world.leaf_at(&attested, 1, last),
        settled: world.certified(epoch).clone(),
        home: world.home_proof(1, world.state.epoch),
    };
    (world, claim)
}

fn early_expiry(scale: Scale) -> Guilty {
    let retention_ms = Params::default().retention_ms;
    let size = scale.entries as u64 + scale.bundles as u64;
    let (world, claim) = expired(scale, retention_ms, size.max(1) + 1, false, 1);
    let seq = Seq { epoch: 2, position: 0, index: scale.bundles as u64 };
    let verdict =
        Verdict { seq: Some(seq), mailbox: Some(world.mailbox(1)), ..verdict(Fault::EarlyExpiry, &world, 1, 3) };
    Guilty { world, claim: Claim::EarlyExpiry(Box::new(claim)), verdict }
}

/// Two attestations of mailbox 1's log; between them its last entry changes, and maybe the node's incarnation.
pub(crate) fn two_views(scale: Scale, incarnation: u64) -> (World, SplitLogs) {
    let mut delivery = Delivery::new(scale, &Hold::Home, |_| {});
    let world = &mut delivery.world;
    let last = world.log(1).len() - 1;
    let earlier = world.attest(1, &[]);
    let one = world.leaf_at(&earlier, 1, last);
    world.falsify(1, |log| log[last].message = Digest([7; 32]));
    let later = world.attest_with(1, |_, _| {}, |body| body.incarnation = incarnation);
    let other = world.leaf_at(&later, 1, last);
    let (mailbox, earlier, later) = (world.mailbox(1), world.shown(&earlier, 1), world.shown(&later, 1));
    let home = world.home_proof(1, world.state.epoch);
    (delivery.world, SplitLogs { mailbox, earlier, later, entries: Some((one, other)), home })
}

fn split_view(scale: Scale) -> Guilty {
    let (world, logs) = two_views(scale, 1);
    let verdict = Verdict { mailbox: Some(world.mailbox(1)), ..verdict(Fault::SplitView, &world, 1, 2) };
    Guilty { world, claim: Claim::SplitView(SplitView::Logs(Box::new(logs))), verdict }
}

/// Nodes 2 and 3 hold mail for node 1, and 2 says that it lost it.
fn loss(scale: Scale) -> Guilty {
    let mut delivery = Delivery::new(scale, &Hold::Custodians(vec![2, 3]), |_| {});
    let key = delivery.key();
    let world = &mut delivery.world;
    let lost = Lost { holder: world.node(2), destination: key.destination, header: key.header };
    let lost = world.sign(lost, &world.nodes[2]);
    let records = vec![Record::Lost(lost.clone())];
    let cut = world.cut(CutBody { records, ..CutBody::default() });
    let state = &world.state;
    let claim = Loss {
        lost,
        cut,
        owed: Owed::Pending(Box::new(state.pending(&key).unwrap().clone())),
        path: state.prove_pending(&key),
        parts: state.parts(),
    };
    let verdict = verdict(Fault::Loss, world, 2, 2);
    Guilty { claim: Claim::Loss(Box::new(claim)), verdict, world: delivery.world }
}

/// The claim that the cut that `change` made of an empty one is invalid.
pub(crate) fn next_cut(scale: Scale, change: impl FnOnce(&mut CutHeader)) -> (World, InvalidCut) {
    let world = world(scale);
    let (cut, _) = world.draft(CutBody::default()).unwrap();
    let cut = cut.into_inner();
    let mut header = cut.certified.header;
    change(&mut header);
    let cut = world.certify(header, cut.body);
    let claim = InvalidCut::of(&world.state, Some(world.certified(1).clone()), cut);
    (world, claim)
}

fn invalid_cut(scale: Scale) -> Guilty {
    let (world, claim) = next_cut(scale, |header| header.state = Digest::ZERO);
    let verdict = verdict(Fault::InvalidCut, &world, 0, 2);
    Guilty { world, claim: Claim::InvalidCut(Box::new(claim)), verdict }
}

fn split_order(scale: Scale) -> Guilty {
    let world = world(scale);
    let other = CutHeader { time_ms: world.state.time_ms + 1, ..world.certified(1).header.clone() };
    let other = world.certify(other, CutBody::default()).certified;
    let claim = SplitOrder::of(world.certified(1).clone(), other, &world.federation);
    let verdict = verdict(Fault::SplitOrder, &world, 0, 1);
    Guilty { world, claim: Claim::SplitOrder(Box::new(claim)), verdict }
}
