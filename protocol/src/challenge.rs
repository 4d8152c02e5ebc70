//! Challenges: a destination that cannot get a slice asks its holders in public (rules 9 and 10).
//!
//! A challenge is a record that a cut settles. It is answered by a *witness*: a third node, chosen by hash, that was
//! handed the slice, has it on its disk, and signs a receipt which names the challenge where a custodian's names the
//! origin's request. So an answer cannot be claimed without the slice, and whoever asked can fetch it from the witness.

use minicbor::{Decode, Encode};

use crate::crypto::{NodeId, PublicKey};
use crate::digest::Digest;
use crate::signed::Statement;

/// "I am owed this slice, and nobody gives it to me."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Challenge {
    /// The slice's destination, which asks.
    #[n(0)]
    pub destination: NodeId,
    /// The digest of the slice's header.
    #[n(1)]
    pub header: Digest,
    /// How many challenges for this slice were answered before.
    #[n(2)]
    pub round: u32,
}

impl Statement for Challenge {
    const KIND: &'static str = "challenge";

    fn signer(&self) -> PublicKey {
        self.destination
    }
}

/// "I have signed for this slice, and do not have it any more." It is no fraud, but the holder's own word that its
/// receipt is not honoured. A destination that says it owes the slice's entries no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Lost {
    /// Who has lost it.
    #[n(0)]
    pub holder: NodeId,
    /// Whom the slice was for.
    #[n(1)]
    pub destination: NodeId,
    /// The digest of the slice's header.
    #[n(2)]
    pub header: Digest,
}

impl Statement for Lost {
    const KIND: &'static str = "lost";

    fn signer(&self) -> PublicKey {
        self.holder
    }
}
