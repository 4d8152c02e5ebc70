//! Mailboxes that move here.

mod checked;

use minicbor::{Decode, Encode};
use postroad_protocol::Digest;
use postroad_protocol::moving::{Move, OwnerBase};

pub use checked::{Extracted, Handed, Wanted};

/// What a store knows of a mailbox that moves here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Arrival {
    /// The owner's order, without this node's signature.
    #[n(0)]
    pub order: Move,
    /// Its digest.
    #[n(1)]
    pub record: Digest,
    /// How long the old home may be silent.
    #[n(2)]
    pub patience_ms: u64,
    /// What the owner has of the log.
    #[n(3)]
    pub base: Option<Box<OwnerBase>>,
}
