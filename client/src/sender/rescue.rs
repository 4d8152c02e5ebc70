//! When an origin stays away with something that it accepted: the receipts prove custody, and whoever holds them can
//! hand header and receipts to the sequencer (rule 5). This client does, and finds the bundle's place in the cuts.

use std::time::Duration;

use postroad_protocol::entry::{AcceptedProof, OrderedProof};
use postroad_protocol::wire::call::{Question, Reply};

use super::lane::{Flight, Lane};
use crate::connection::{CALL_TIMEOUT, NodeAddr};
use crate::error::ClientError;

const HAND_IN_TIMEOUT: Duration = Duration::from_secs(5);

impl Lane {
    /// Tries every other node that this client knows, once.
    pub(super) async fn rescue(&mut self) -> Result<(), ClientError> {
        let accepted: Vec<u64> = (self.flights.iter())
            .filter(|(_, flight)| flight.accepted.is_some())
            .map(|(counter, _)| *counter)
            .collect();
        if accepted.is_empty() {
            return Ok(());
        }
        let mut last = Ok(());
        for helper in self.helpers() {
            last = self.rescue_through(&helper, &accepted).await;
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
            let Some(Flight { accepted: Some(accepted), searched, .. }) = self.flights.get_mut(&counter) else {
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
                let weak = cut.body.headers[at].is_weak(&federation);
                let (cut, ordinal, path) = (cut.certified.clone(), accepted.ordinal, accepted.path.clone());
                Some(OrderedProof { cut, order, ordinal, path, weak })
            });
            *searched = last;
            if let Some(proof) = found {
                return self.ordered(counter, &proof);
            }
        }
    }
}
