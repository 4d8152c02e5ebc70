//! The chains recompute: cuts chain from genesis, `apply` gives the root that each of them names, headers chain for each
//! origin, and what every node has of that on its disk is the same.

use std::collections::BTreeMap;

use postroad_engine::tables::{self, CUTS};
use postroad_protocol::codec::encode;
use postroad_protocol::cut::Cut;
use postroad_protocol::state::{State, apply};
use postroad_protocol::{Digest, Federation, NodeId, Verified};
use postroad_store::Read;

use super::{Verdict, broken};

const NAME: &str = "chains";

/// The chain of all cuts, applied from genesis.
#[derive(Debug)]
pub(in crate::sim) struct Chains {
    state: State,
    previous: Digest,
    /// The bytes of every cut, by epoch from one.
    cuts: Vec<Vec<u8>>,
    /// Each origin's last included header.
    headers: BTreeMap<NodeId, (u64, Digest)>,
}

impl Chains {
    pub(in crate::sim) fn new(federation: &Federation) -> Chains {
        let state = State::genesis(federation);
        Chains { previous: state.cut, state, cuts: Vec::new(), headers: BTreeMap::new() }
    }

    /// The state after the last cut.
    pub(in crate::sim) fn state(&self) -> &State {
        &self.state
    }

    /// The next cut.
    pub(in crate::sim) fn ordered(&mut self, cut: &Cut, federation: &Federation) -> Verdict {
        let header = &cut.certified.header;
        let epoch = header.epoch;
        if epoch != self.cuts.len() as u64 + 1 || header.previous != self.previous {
            return broken(NAME, format!("cut {epoch} does not follow cut {}", self.cuts.len()));
        }
        if header.time_ms <= self.state.time_ms {
            return broken(NAME, format!("the time of cut {epoch} does not rise"));
        }
        for sealed in &cut.body.headers {
            let body = &sealed.header.body;
            let (number, last) = self.headers.get(&body.origin).copied().unwrap_or((0, Digest::ZERO));
            if body.previous != last || body.number <= number {
                let origin = body.origin;
                return broken(NAME, format!("header {} of {origin:?} does not follow header {number}", body.number));
            }
            self.headers.insert(body.origin, (body.number, sealed.digest(federation)));
        }
        match apply(&self.state, &Verified::from_own_disk(cut.clone()), federation) {
            Ok(applied) => self.state = applied.state,
            Err(invalid) => return broken(NAME, format!("cut {epoch} does not apply: {invalid}")),
        }
        if self.state.root() != header.state {
            return broken(NAME, format!("the state after cut {epoch} has another root"));
        }
        self.previous = header.digest(federation);
        self.cuts.push(encode(cut));
        Ok(())
    }

    /// The cuts of a node, as they are on its disk.
    pub(in crate::sim) fn on_disk(&self, node: usize, disk: &dyn Read) -> Verdict {
        let rows = disk.range(CUTS, &[], &[], usize::MAX);
        let rows = rows.or_else(|error| broken(NAME, format!("node {node} cannot read its cuts: {error}")))?;
        for (at, (key, value)) in rows.iter().enumerate() {
            if *key != tables::number_key(at as u64 + 1) {
                return broken(NAME, format!("node {node} has no cut {}", at + 1));
            }
            // A node may be ahead of the last cut that was looked at.
            if self.cuts.get(at).is_some_and(|cut| cut != value) {
                return broken(NAME, format!("node {node} has another cut {}", at + 1));
            }
        }
        Ok(())
    }
}
