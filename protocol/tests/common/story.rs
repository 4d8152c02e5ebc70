//! One short story of a federation, in which everything happens once: mail, a pending slice and its fill, weak and
//! strong custody, attestations and their anchors.

use postroad_protocol::cut::CutBody;
use postroad_protocol::record::Record;

use super::{Attested, Batch, Hold, World};

/// The story's end, and what happened on the way.
pub(crate) struct Story {
    /// After the last cut.
    pub(crate) world: World,
    /// Epoch 2, position 0: from node 0, two bundles; the slice for node 2 is pending.
    pub(crate) first: Batch,
    /// Epoch 2, position 1: from node 1, one bundle.
    pub(crate) second: Batch,
    /// The attestation of node 2, anchored in epoch 4.
    pub(crate) attested: Attested,
}

/// Node 2 is away in epoch 2 and comes back in epoch 3; it attests in epoch 4.
pub(crate) fn story() -> Story {
    let mut world = World::builder().mailboxes(6).build();
    let one = world.message("to three homes", &[0, 1, 2, 4]);
    let two = world.message("a second one in the same bundle", &[2]);
    let bundles = vec![world.bundle(0, 0, vec![one, two])];
    let three = world.message("alone", &[2, 5]);
    let bundles = [bundles, vec![world.bundle(3, 0, vec![three])]].concat();
    let first = world.seal(0, bundles);
    let four = world.message("from elsewhere", &[0, 2]);
    let bundle = world.bundle(1, 1, vec![four]);
    let second = world.seal(1, vec![bundle]);
    let sealed = world.held_as(&first, |home| match home {
        0 => Hold::HomeAnd(vec![3]),
        2 => Hold::Custodians(vec![1, 3]),
        _ => Hold::Home,
    });
    let other = world.held(&second);
    world.include(vec![sealed, other]);

    let fills = vec![world.fill(&first, 2)];
    let records: Vec<Record> = vec![world.node_record(2, 2)];
    world.cut(CutBody { records, fills, ..CutBody::default() });

    let attested = world.attest(2, &[2]);
    let reference = attested.reference(&world);
    let empty = world.seal_with(2, Vec::new(), |header| header.attestation = Some(reference));
    let sealed = world.held(&empty);
    world.include(vec![sealed]);
    Story { world, first, second, attested }
}
