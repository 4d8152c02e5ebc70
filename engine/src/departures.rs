//! Mailboxes that lived here and moved away.

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::MailboxAttestation;

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
