//! One order for all: one cut per epoch wherever it is applied, one message per sequence number whoever reads it, and
//! every log in the order of its numbers.

use std::collections::BTreeMap;

use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::cut::CutHeader;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

use super::{STEPS, Verdict, broken};

const NAME: &str = "one-order";

/// All orders that anybody has seen.
#[derive(Debug, Default)]
pub(in crate::sim) struct OneOrder {
    /// What the guard has let pass.
    certified: BTreeMap<u64, Digest>,
    states: BTreeMap<u64, (Digest, Digest)>,
    messages: BTreeMap<Seq, Digest>,
}

impl OneOrder {
    /// The guard signed a cut.
    pub(in crate::sim) fn certified(&mut self, epoch: u64, cut: Digest) -> Verdict {
        match self.certified.insert(epoch, cut) {
            Some(other) if other != cut => {
                broken(NAME, format!("the guard signed {other} and {cut} for epoch {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// A node has applied a cut, and its state is now this one.
    pub(in crate::sim) fn applied(&mut self, node: &NodeId, epoch: u64, cut: Digest, state: Digest) -> Verdict {
        match self.states.insert(epoch, (cut, state)) {
            Some(other) if other != (cut, state) => {
                return broken(
                    NAME,
                    format!("{node:?} has another cut or state at epoch {epoch}: {state}, not {}", other.1),
                );
            }
            _ => {}
        }
        if self.certified.get(&epoch) != Some(&cut) {
            return broken(STEPS, format!("{node:?} applied cut {epoch} before it was certified"));
        }
        Ok(())
    }

    /// A client was shown a cut.
    pub(in crate::sim) fn shown(&self, who: &MailboxId, cut: &CutHeader, federation: &Federation) -> Verdict {
        if self.certified.get(&cut.epoch) != Some(&cut.digest(federation)) {
            return broken(NAME, format!("{who:?} was shown a cut of epoch {} that is not certified", cut.epoch));
        }
        Ok(())
    }

    /// A sender or a recipient knows that `message` stands at `seq`.
    pub(in crate::sim) fn placed(&mut self, who: &MailboxId, seq: Seq, message: Digest) -> Verdict {
        match self.messages.insert(seq, message) {
            Some(other) if other != message => {
                broken(NAME, format!("{who:?} has {message} at {seq}, another mailbox has {other} there"))
            }
            _ => Ok(()),
        }
    }

    /// A recipient's log goes on with `leaf` behind `before`.
    pub(in crate::sim) fn appended(&self, who: &MailboxId, before: Option<&LogLeaf>, leaf: &LogLeaf) -> Verdict {
        if before.is_some_and(|before| before.order() >= leaf.order()) {
            return broken(
                NAME,
                format!("{who:?}: {} comes behind {}", leaf.seq, before.map_or(Seq::default(), |b| b.seq)),
            );
        }
        Ok(())
    }
}
