//! What is no fraud, but a holder's own word that its receipt is not honoured.

use minicbor::{Decode, Encode};

use super::{ClaimError, Cleared, Fault, Verdict};
use crate::challenge::Lost;
use crate::cut::CertifiedCut;
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::MapProof;
use crate::signed::{Signed, Verify};
use crate::state::{LostSlice, Pending, PendingKey, STATE_PARTS, verify_lost, verify_pending};

/// A holder says that it lost a slice that it owes, as the state of a cut shows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Loss {
    /// The holder's word.
    #[n(0)]
    pub lost: Signed<Lost>,
    /// The cut.
    #[n(1)]
    pub cut: CertifiedCut,
    /// That the slice is owed.
    #[n(2)]
    pub owed: Owed,
    /// The path of that in its map.
    #[n(3)]
    pub path: MapProof,
    /// The roots of the state's parts.
    #[n(4)]
    pub parts: [Digest; STATE_PARTS],
}

/// What the state says of a lost slice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Owed {
    /// It is pending, and the holder has signed for it.
    #[n(0)]
    Pending(#[n(0)] Box<Pending>),
    /// Its destination has signed for it, and is the holder.
    #[n(1)]
    Delivered(#[n(0)] LostSlice),
}

impl Loss {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let Lost { holder, destination, header } = self.lost.body;
        self.lost.verify(federation)?;
        self.cut.verify(federation)?;
        let key = PendingKey { destination, header };
        let path = VerifyError::Path { what: "lost slice" };
        let epoch = match &self.owed {
            Owed::Pending(pending) => {
                verify_pending(&self.cut.header, &self.parts, &key, pending, &self.path).ok_or(path)?;
                if !pending.holders.contains(&holder) || !pending.lost.contains(&holder) {
                    return Err(Cleared::NotItsSlice.into());
                }
                pending.epoch
            }
            Owed::Delivered(lost) => {
                verify_lost(&self.cut.header, &self.parts, &key, Some(lost), &self.path).ok_or(path)?;
                if holder != destination {
                    return Err(Cleared::NotItsSlice.into());
                }
                lost.epoch
            }
        };
        Ok(Verdict::new(Fault::Loss, holder, epoch))
    }
}
