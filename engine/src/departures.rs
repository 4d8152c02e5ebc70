//! Mailboxes that lived here and moved away.

use minicbor::{Decode, Encode};
use postroad_protocol::MailboxId;
use postroad_protocol::attestation::MailboxAttestation;
use postroad_store::Write;

use crate::outbox::AttestedView;
use crate::tables::{self, DEPARTURES};

/// What a store knows of a mailbox that has left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Departure {
    /// The cut that settled the switch.
    #[n(0)]
    pub until: u64,
    /// The last final attestation of this node that names the mailbox, if there is one.
    #[n(1)]
    pub attested: Option<Box<MailboxAttestation>>,
}

/// A mailbox has left in the cut of epoch `until`: what was attested last of it, finally, is what is handed over.
pub fn left(mailbox: &MailboxId, until: u64, last_final: Option<&AttestedView>) -> Vec<Write> {
    let attested = last_final.filter(|view| view.attestation.body.epoch < until).and_then(|view| view.of(mailbox));
    vec![tables::put(DEPARTURES, mailbox.0, &Departure { until, attested: attested.map(Box::new) })]
}
