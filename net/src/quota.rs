//! How many inbound streams one peer has, per protocol.
//!
//! One ledger per peer, shared by all its connections. A stream holds its place until it is
//! dropped, which may be long after its connection is gone: what a peer makes us hold is what
//! counts, not what it still has open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Protocol;

/// One peer's inbound streams, by the protocol's index in the configuration.
#[derive(Debug)]
pub(crate) struct Quota {
    used: Box<[(usize, AtomicUsize)]>,
}

impl Quota {
    pub(crate) fn new(protocols: &[Protocol]) -> Arc<Self> {
        let used = protocols.iter().map(|p| (p.max_inbound_per_peer, AtomicUsize::new(0)));
        Arc::new(Self { used: used.collect() })
    }

    /// A place for one more stream, or `None` when the peer has all it may have.
    pub(crate) fn take(self: &Arc<Self>, protocol: usize) -> Option<Place> {
        let (max, used) = &self.used[protocol];
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < *max).then_some(n + 1)).ok()?;
        Some(Place { quota: Arc::clone(self), protocol })
    }
}

/// One stream's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Arc<Quota>,
    protocol: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.quota.used[self.protocol].1.fetch_sub(1, Ordering::AcqRel);
    }
}
