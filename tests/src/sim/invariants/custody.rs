//! Custody is somebody's: who signed for a slice has it while it is owed; a slice that was ordered under custody is
//! pending until one fill of its destination; and in the end none is.

use std::collections::BTreeMap;

use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::{Digest, Federation, NodeId};

use super::{Verdict, broken};

const NAME: &str = "custody";

/// Pending slices, by destination and header: since which epoch, and who holds each.
#[derive(Debug, Default)]
pub(in crate::sim) struct Pending {
    holders: BTreeMap<(NodeId, Digest), (u64, Vec<NodeId>)>,
}

impl Pending {
    /// The next cut.
    pub(in crate::sim) fn ordered(&mut self, cut: &Cut, federation: &Federation) -> Verdict {
        let epoch = cut.certified.header.epoch;
        for fill in &cut.body.fills {
            let key = (fill.item.destination, fill.item.header);
            if fill.holder() != key.0 || self.holders.remove(&key).is_none() {
                return broken(NAME, format!("cut {epoch} settles a fill of {:?} for nothing that is pending", key.0));
            }
        }
        for sealed in &cut.body.headers {
            for (slice, custody) in sealed.header.body.slices.iter().zip(&sealed.custody) {
                let holders: Vec<NodeId> = custody.receipts.iter().map(Receipt::holder).collect();
                if holders.is_empty() {
                    return broken(NAME, format!("cut {epoch} orders a slice that nobody has signed for"));
                }
                let own = |receipt: &Receipt| receipt.holder() == slice.destination && receipt.item.request.is_none();
                if !custody.receipts.iter().any(own) {
                    self.holders.insert((slice.destination, sealed.digest(federation)), (epoch, holders));
                }
            }
        }
        Ok(())
    }

    /// A node that has applied the cuts up to an epoch says that it does not have a slice. Before it knows that it is
    /// ordered, an origin keeps it for itself.
    pub(in crate::sim) fn lost(&self, node: &NodeId, applied: u64, key: &SliceKey) -> Verdict {
        match self.holders.get(&(key.destination, key.header)) {
            Some((epoch, holders)) if *epoch <= applied && holders.contains(node) => {
                broken(NAME, format!("{node:?} has signed for slice {} of {:?}, and lost it", key.number, key.origin))
            }
            _ => Ok(()),
        }
    }

    /// The end: nothing is pending.
    pub(in crate::sim) fn finish(&self) -> Verdict {
        match self.holders.first_key_value() {
            None => Ok(()),
            Some(((destination, header), _)) => {
                broken(NAME, format!("the slice of {header} for {destination:?} was never filled"))
            }
        }
    }
}
