//! The sins of a holder.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::slice::SliceKey;

use super::{Receiver, Unsigned};
use crate::cheat::{Sin, Temptation};

#[derive(Debug, Default)]
pub(crate) struct Holder {
    pub(crate) temptation: Temptation,
    /// Slices that are deleted, until a cut has the word of it.
    pub(crate) losing: BTreeSet<SliceKey>,
    /// Pending slices, by their places, and whether their fills are never signed.
    unfilled: BTreeMap<(u64, u32), bool>,
    /// Slices that it was asked for, and whether it hands them out to nobody.
    withheld: BTreeMap<SliceKey, bool>,
}

impl Holder {
    /// What of these receipts is signed. Those for the answers to challenges are receipts like others.
    pub(super) fn sign_some(&mut self, receipts: Vec<Unsigned>, epoch: u64) -> Vec<Unsigned> {
        receipts.into_iter().filter(|_| !self.temptation.sins(Sin::MuteReceipts, epoch)).collect()
    }

    /// What of these fills is signed; they are asked about again and again.
    pub(super) fn fill_some(&mut self, fills: Vec<(u64, u32)>, epoch: u64) -> Vec<(u64, u32)> {
        let temptation = &mut self.temptation;
        let mut judge = |at| *self.unfilled.entry(at).or_insert_with(|| temptation.sins(Sin::MuteReceipts, epoch));
        fills.into_iter().filter(|at| !judge(*at)).collect()
    }

    /// Whether a slice is handed out to nobody.
    pub(crate) fn withholds(&mut self, key: &SliceKey, epoch: u64) -> bool {
        let temptation = &mut self.temptation;
        *self.withheld.entry(*key).or_insert_with(|| temptation.sins(Sin::Withhold, epoch))
    }
}

impl Receiver {
    /// A slice that a cut has under this node's receipt is deleted.
    pub(crate) fn lose(&mut self, key: SliceKey) {
        self.remembered.remove(&key);
        self.cheat.losing.insert(key);
    }
}
