//! `fsck`: recomputes everything that a node's store holds from its rows alone, and names what does not agree.
//!
//! It shares the shapes of the rows with the engine and the rules with the protocol, and nothing else: no room, no cache,
//! no recovery code. So what the engine writes wrongly, it does not read back wrongly in the same way. It walks the cuts
//! once, from genesis on, and keeps in memory one cut, the state, and the right edge of each mailbox log; large values
//! are read one by one. It never writes.
//!
//! | file | what is recomputed |
//! | --- | --- |
//! | `cuts.rs` | the chain of cuts, certificates, Merkle roots, every signature in them, and the state after each |
//! | `state.rs` | that the stored state is that of its floor |
//! | `logs.rs` | every mailbox log from cuts, slices and what they refuse; the owners' acknowledgements and block lists |
//! | `attestations.rs` | the attestations that cuts have made final, from the recomputed logs |
//! | `slices.rs` | every slice held: paths, root, the header's signature, the request |
//! | `batches.rs` | own batches: entries, slices, bundles, their chain; places; bundles taken |
//! | `pending.rs` | slices that are waited for or answered for, against the state |
//! | `moves.rs` | logs of mailboxes that have moved here, from their edge on; extracts; orders; what a former home keeps |
//! | `evidence.rs` | the verdict of every piece of evidence |
//! | `meta.rs` | single values |

mod attestations;
mod batches;
mod cuts;
mod evidence;
mod kept;
mod logs;
mod meta;
mod moves;
mod pending;
mod report;
mod rows;
mod slices;
mod state;

use postroad_protocol::{Federation, NodeId};
use postroad_store::{Read, StoreError};

use kept::Kept;
use meta::Meta;
pub use report::Problem;
use report::Report;

/// What every check needs.
struct Context<'a> {
    store: &'a dyn Read,
    me: NodeId,
    federation: &'a Federation,
    meta: Meta,
    kept: Kept,
}

/// What was found in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows read.
    pub records: u64,
    /// Problems told.
    pub problems: u64,
    /// The epoch of the last cut.
    pub epoch: u64,
    /// Final attestations of this node that were recomputed.
    pub attestations: u64,
    /// Final attestations that cannot be, because they name acknowledgements that later ones have replaced.
    pub unknown_attestations: u64,
}

/// Checks the store of the node `me`, and tells each problem as it is found.
///
/// # Errors
/// [`StoreError`] when the store cannot be read at all; a damaged row is a problem and no error.
pub fn check(
    store: &dyn Read,
    me: NodeId,
    federation: &Federation,
    tell: &mut dyn FnMut(Problem),
) -> Result<Summary, StoreError> {
    let mut report = Report::new(tell);
    let meta = Meta::read(store, &mut report)?;
    let context = Context { store, me, federation, meta, kept: Kept::read(store)? };
    let mut logs = logs::Logs::read(&context, &mut report)?;
    let mut own = batches::Own::default();
    let mut filled = pending::Filled::default();
    let walked = cuts::check(&context, &mut report, &mut |step, report| {
        own.included(&context, step.cut, report)?;
        filled.note(&context, step);
        logs.settle(&context, step, report)
    })?;
    meta::check(&context, &walked, &mut report)?;
    let attested = logs.finish(&context, &walked, &mut report)?;
    own.finish(&context, &walked, &mut report)?;
    slices::check(&context, &mut report)?;
    pending::check(&context, &walked, &filled, &mut report)?;
    evidence::check(&context, &mut report)?;
    Ok(Summary {
        records: report.records(),
        problems: report.problems(),
        epoch: walked.last_epoch,
        attestations: attested.recomputed,
        unknown_attestations: attested.unknown,
    })
}
