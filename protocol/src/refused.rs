//! The proof that a recipient's home refused a message (rule 7). A home may refuse single leaves of a slice, in its
//! own receipt or in its fill; the cut shows them, they are not owed, and the sender learns which and why.
//!
//! Only what a cut has settled counts. A home may sign for one slice twice, with other refusals the second time (it was
//! asked again, or started again); the receipt that the cut shows is the one that holds.

use minicbor::{Decode, Encode};

use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId};
use crate::cut::{CertifiedCut, Cut, HeaderProof};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::tree::{self, Path};
use crate::receipt::{Custody, Fill, LeafRefusal, ReceiptItem, custody_digest};
use crate::seq::Seq;
use crate::signed::{Claims, Verify};
use crate::state::PendingKey;

/// That a home refused a leaf, settled in a certified cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RefusedProof {
    /// The cut that ordered the message.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The message's batch in that cut.
    #[n(1)]
    pub order: HeaderProof,
    /// What refuses the leaf.
    #[n(2)]
    pub by: RefusedBy,
}

/// The home's word that refuses a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RefusedBy {
    /// Its receipt, among all that the cut settled with the header.
    #[n(0)]
    Receipt(#[n(0)] Vec<Custody>),
    /// Its fill, which a later cut settled.
    #[n(1)]
    Fill(#[n(0)] Box<SettledFill>),
}

/// A fill in the cut that settled it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SettledFill {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The fill.
    #[n(1)]
    pub fill: Fill,
    /// Its place among the cut's fills.
    #[n(2)]
    pub index: u32,
    /// From the fill to the cut's fills root.
    #[n(3)]
    pub path: Path,
}

const KIND: &str = "refused proof";

impl RefusedProof {
    /// Checks that `home` refused the message at `seq` for `mailbox`, and says why it did.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(
        &self,
        seq: Seq,
        mailbox: &MailboxId,
        home: &NodeId,
        federation: &Federation,
    ) -> Result<LeafRefusal, VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed(KIND, reason));
        self.cut.verify(federation)?;
        self.order.verify(&self.cut.header, federation)?;
        if (self.cut.header.epoch, self.order.position) != (seq.epoch, seq.position) {
            return malformed("it is of another batch");
        }
        let item = match &self.by {
            RefusedBy::Receipt(custody) => settled_with(&self.order, custody, home, federation)?,
            RefusedBy::Fill(settled) => {
                settled.verify(federation)?;
                let item = &settled.fill.item;
                if item.destination != *home || item.header != self.order.header.digest(federation) {
                    return malformed("the fill is for another slice");
                }
                item
            }
        };
        match item.refused.iter().find(|leaf| leaf.index == seq.index && leaf.mailbox == *mailbox) {
            Some(leaf) => Ok(leaf.reason),
            None => malformed("the home took it"),
        }
    }
}

/// The item of the destination's own receipt, among the receipts that a cut settled with a header; both were checked
/// to stand in the cut.
fn settled_with<'a>(
    order: &HeaderProof,
    custody: &'a [Custody],
    home: &NodeId,
    federation: &Federation,
) -> Result<&'a ReceiptItem, VerifyError> {
    if custody_digest(custody) != order.custody {
        return Err(VerifyError::Path { what: "receipts" });
    }
    let header = &order.header.body;
    let missing = VerifyError::malformed(KIND, "no receipt of this home");
    let at = header.slices.iter().position(|slice| slice.destination == *home).ok_or(missing.clone())?;
    let custody = custody.get(at).ok_or(missing.clone())?;
    let kind = custody.check(header, order.header.digest(federation), &header.slices[at], federation)?;
    let receipt = custody.receipts.first().filter(|_| kind.delivered).ok_or(missing)?;
    receipt.verify(federation)?;
    Ok(&receipt.item)
}

impl SettledFill {
    /// The fill of a slice in `cut`, if it is there.
    pub fn find(cut: &Cut, slice: &PendingKey) -> Option<SettledFill> {
        let is_it = |fill: &Fill| (fill.item.destination, fill.item.header) == (slice.destination, slice.header);
        let index = cut.body.fills.iter().position(is_it)?;
        let (fill, path) = (cut.body.fills[index].clone(), cut.body.fill_path(index));
        Some(SettledFill { cut: cut.certified.clone(), fill, index: index as u32, path })
    }
}

impl Verify for SettledFill {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        self.cut.claims(federation, claims)?;
        let fills = self.cut.header.fills;
        let leaf = tree::leaf_hash(&encode(&self.fill));
        let root = tree::root_from_path(leaf, u64::from(self.index), u64::from(fills.count), &self.path);
        if root != Some(fills.root) {
            return Err(VerifyError::Path { what: "fill" });
        }
        self.fill.claims(federation, claims)
    }
}
