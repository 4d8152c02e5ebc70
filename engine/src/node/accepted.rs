//! *Accepted*: complete headers go to the sequencer, and their senders get the receipts as a proof.

use std::sync::Arc;

use postroad_protocol::Verified;
use postroad_protocol::entry::AcceptedProof;
use postroad_protocol::receipt::Sealed;
use postroad_protocol::wire::client::Answer;

use super::Node;
use crate::io::{ClientId, Output};

/// With a longer chain, senders are told *accepted* only when *ordered* does not come soon.
const MAX_PROMPT_CHAIN: usize = 8;

impl Node {
    /// Hands complete headers to the sequencer, and tells their senders.
    pub(super) fn tell_accepted(&mut self, all: bool, out: &mut Vec<Output>) {
        let complete: Vec<(bool, Arc<Verified<Sealed>>, Vec<_>)> = (self.router.complete_prefix())
            .map(|flight| {
                let sealed = flight.sealed().expect("a complete prefix is complete");
                (
                    flight.handed_in,
                    Arc::clone(sealed),
                    if flight.accepted { Vec::new() } else { flight.bundles.clone() },
                )
            })
            .collect();
        if complete.iter().all(|(handed_in, _, bundles)| *handed_in && bundles.is_empty()) {
            return;
        }
        for (_, sealed, _) in complete.iter().filter(|(handed_in, ..)| !handed_in) {
            self.hand_in_header(Some(self.me), (**sealed).clone(), out);
        }
        let prompt = all || complete.len() <= MAX_PROMPT_CHAIN;
        for flight in self.router.flights().take(complete.len()) {
            flight.handed_in = true;
            flight.accepted |= prompt;
        }
        if prompt {
            for key in complete.into_iter().flat_map(|(_, _, bundles)| bundles) {
                let clients = self.inbox.clients(&key).to_vec();
                self.answer_accepted(&key, &clients, out);
            }
        }
    }

    pub(super) fn answer_accepted(
        &mut self,
        key: &crate::inbox::BundleKey,
        clients: &[ClientId],
        out: &mut Vec<Output>,
    ) {
        if clients.is_empty() {
            return;
        }
        let mut chain = Vec::new();
        for flight in self.router.complete_prefix() {
            let Some(sealed) = flight.sealed() else { return };
            chain.push((***sealed).clone());
            if let Some(ordinal) = flight.bundles.iter().position(|bundle| bundle == key) {
                let proof = AcceptedProof { chain, ordinal: ordinal as u32, path: flight.paths[ordinal].clone() };
                for client in clients {
                    out.push(Output::Answer(*client, key.1, Box::new(Answer::Accepted(Box::new(proof.clone())))));
                }
                return;
            }
        }
    }
}
