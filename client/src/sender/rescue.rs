//! When an origin stays away with something that it accepted, or was set back and has forgotten it: the receipts prove
//! custody, and whoever holds them can hand header and receipts to the sequencer (rule 5). This client does, and finds
//! the bundle's place in the cuts, or that it can have none any more.

use std::time::Duration;

use postroad_protocol::cut::Cut;
use postroad_protocol::entry::{AcceptedProof, OrderedProof};
use postroad_protocol::receipt::Sealed;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{Federation, Verified};

use super::lane::{Flight, Lane, Phase};
use crate::connection::{CALL_TIMEOUT, NodeAddr};
use crate::error::ClientError;

const HAND_IN_TIMEOUT: Duration = Duration::from_secs(5);

impl Lane {
    /// Tries every other node that this client knows, once.
    pub(super) async fn rescue(&mut self) -> Result<(), ClientError> {
        let accepted = self.counters(|flight| flight.accepted.is_some());
        self.rescue_by(self.helpers(), &accepted).await
    }

    /// The same for what the origin refuses now, though it accepted it once; it is asked as well.
    pub(super) async fn resolve_doubts(&mut self) -> Result<(), ClientError> {
        let doubtful = self.counters(|flight| flight.phase.is_doubtful());
        let helpers = std::iter::once(self.via.clone()).chain(self.helpers()).collect();
        self.rescue_by(helpers, &doubtful).await
    }

    fn counters(&self, wanted: impl Fn(&Flight) -> bool) -> Vec<u64> {
        self.flights.iter().filter(|(_, flight)| wanted(flight)).map(|(counter, _)| *counter).collect()
    }

    async fn rescue_by(&mut self, helpers: Vec<NodeAddr>, accepted: &[u64]) -> Result<(), ClientError> {
        let mut last = Ok(());
        for helper in helpers.iter().take_while(|_| !accepted.is_empty()) {
            last = self.rescue_through(helper, accepted).await;
            match &last {
                Ok(()) => break,
                Err(ClientError::Store(_)) => return last,
                Err(_) => {}
            }
        }
        last
    }

    /// Other nodes: the committee, as genesis names it, and the home.
    fn helpers(&self) -> Vec<NodeAddr> {
        let committee = self.mailbox.federation().genesis().committee.iter();
        let mut helpers: Vec<NodeAddr> = committee
            .flat_map(|member| member.addrs.iter().filter_map(|addr| NodeAddr::new(member.node, addr).ok()))
            .collect();
        helpers.push(self.mailbox.home().clone());
        helpers.retain(|helper| helper.node() != self.via.node());
        helpers
    }

    async fn rescue_through(&mut self, helper: &NodeAddr, accepted: &[u64]) -> Result<(), ClientError> {
        for counter in accepted {
            let Some(AcceptedProof { chain, .. }) =
                self.flights.get(counter).and_then(|flight| flight.accepted.clone())
            else {
                continue;
            };
            self.endpoint.call(helper, &Question::HandIn(chain), HAND_IN_TIMEOUT).await?;
            self.search(helper, *counter).await?;
        }
        Ok(())
    }

    /// Looks for the bundle's header in the cuts that the helper has.
    async fn search(&mut self, helper: &NodeAddr, counter: u64) -> Result<(), ClientError> {
        let federation = self.mailbox.federation().clone();
        loop {
            let Some(Flight { pending, accepted: Some(accepted), searched, .. }) = self.flights.get_mut(&counter)
            else {
                return Ok(());
            };
            let Some(digest) = accepted.chain.last().map(|sealed| sealed.digest(&federation)) else {
                return Ok(());
            };
            let reply = self.endpoint.call(helper, &Question::Cuts(*searched), CALL_TIMEOUT).await?;
            let Reply::Cuts(cuts) = reply else {
                return Err(crate::connection::unasked(helper));
            };
            let Some(last) = cuts.last().map(|cut| cut.certified.header.epoch).filter(|last| last > searched) else {
                return Ok(());
            };
            let found = cuts.iter().find_map(|cut| {
                let at = cut.body.headers.iter().position(|sealed| sealed.digest(&federation) == digest)?;
                let order = cut.body.header_proofs(&federation).swap_remove(at);
                let sealed = &cut.body.headers[at];
                let weak = sealed.is_weak(&federation);
                let (cut, ordinal, path) = (cut.certified.clone(), accepted.ordinal, accepted.path.clone());
                let proof = OrderedProof { cut, order, ordinal, path, weak, custody: Vec::new() };
                let first = proof.verify(&pending.bundle.signed, &federation).ok()?.index;
                Some(proof.with_refusals(sealed, first..first + pending.bundle.messages.len() as u64))
            });
            *searched = last;
            if let Some(proof) = found {
                return self.ordered(counter, &proof);
            }
            if let Some(flight) = self.flights.get_mut(&counter)
                && let Phase::Doubtful { above } = flight.phase
                && let Some(accepted) = &flight.accepted
                && cuts.into_iter().any(|cut| rules_out(cut, &accepted.chain, &federation))
            {
                flight.phase = Phase::Resign { above };
                return Ok(());
            }
        }
    }
}

/// Whether no later cut can include the last header of a chain: this one includes another in the place of one of the
/// chain's, or its routing epoch is out of the window. What the cut holds counts only if it verifies.
fn rules_out(cut: Cut, chain: &[Sealed], federation: &Federation) -> bool {
    let window = federation.params().routing_window_epochs;
    let is_late =
        |sealed: &Sealed| sealed.header.body.routing_epoch.saturating_add(window) < cut.certified.header.epoch;
    let is_sibling = |other: &Sealed| {
        let (one, digest) = (&other.header.body, other.digest(federation));
        let mut places = chain.iter().filter(|sealed| {
            let own = &sealed.header.body;
            (own.origin, own.previous) == (one.origin, one.previous)
        });
        places.any(|sealed| sealed.digest(federation) != digest)
    };
    let rules_out = chain.last().is_some_and(is_late) || cut.body.headers.iter().any(is_sibling);
    rules_out && Verified::check(cut, federation).is_ok()
}
