//! Custody: receipts, the origin's request that makes a node a custodian, fills, and what of all that a header needs to
//! be included in a cut (rules 7 and 8).

use std::ops::Range;

use minicbor::{Decode, Encode};

use crate::batch::{Header, SliceRef};
use crate::codec::encode;
use crate::crypto::{NodeId, PublicKey, SecretKey};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::tree::{self, Path, Tree};
use crate::signed::{Claims, Signed, Statement, Verified, Verify};

/// One signature over all slices of one disk sync: "these are on my disk, and I answer for them".
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ReceiptBody {
    /// Who holds the slices.
    #[n(0)]
    pub holder: NodeId,
    /// The holder's incarnation.
    #[n(1)]
    pub incarnation: u64,
    /// How many items.
    #[n(2)]
    pub count: u32,
    /// The root of the tree over the items.
    #[n(3)]
    pub items: Digest,
}

impl Statement for ReceiptBody {
    const KIND: &'static str = "receipt";

    fn signer(&self) -> PublicKey {
        self.holder
    }
}

/// One slice under a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ReceiptItem {
    /// The digest of the slice's header.
    #[n(0)]
    pub header: Digest,
    /// Whom the slice is for.
    #[n(1)]
    pub destination: NodeId,
    /// The slice root.
    #[n(2)]
    pub slice: Digest,
    /// For a custodian: the digest of the origin's request.
    #[n(3)]
    pub request: Option<Digest>,
    /// Leaves that the destination does not take (rule 7), ascending by index and mailbox; a custodian refuses none.
    #[n(4)]
    pub refused: Vec<RefusedLeaf>,
}

/// A leaf that its home does not take, and is not owed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RefusedLeaf {
    /// The message's index in the batch.
    #[n(0)]
    pub index: u64,
    /// The recipient for whom it is refused.
    #[n(1)]
    pub mailbox: PublicKey,
    /// Why.
    #[n(2)]
    pub reason: LeafRefusal,
}

/// Why a leaf is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum LeafRefusal {
    /// The mailbox is full.
    #[n(0)]
    Full,
    /// Its owner blocks the sender.
    #[n(1)]
    Blocked,
    /// It does not live there.
    #[n(2)]
    Unknown,
}

impl ReceiptItem {
    /// Whether the refused leaves can stand in this slice of a batch of `messages` messages.
    pub fn refuses_within(&self, slice: &SliceRef, messages: u64) -> bool {
        self.refused.len() as u64 <= slice.count && self.refused.iter().all(|leaf| leaf.index < messages)
    }
}

impl LeafRefusal {
    /// A short stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            LeafRefusal::Full => "full",
            LeafRefusal::Blocked => "blocked",
            LeafRefusal::Unknown => "unknown",
        }
    }
}

/// One item of a receipt, with the path to what was signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Receipt {
    /// What was signed.
    #[n(0)]
    pub signed: Signed<ReceiptBody>,
    /// The item's place under it.
    #[n(1)]
    pub index: u32,
    /// The item.
    #[n(2)]
    pub item: ReceiptItem,
    /// From the item to the signed root.
    #[n(3)]
    pub path: Path,
}

/// A destination's later receipt for a slice that was ordered while custodians held it; settled in a cut of its own.
pub type Fill = Receipt;

/// An origin's request to hold a slice for its destination, naming all who are asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CustodyRequest {
    /// Who asks.
    #[n(0)]
    pub origin: NodeId,
    /// The origin's incarnation.
    #[n(1)]
    pub incarnation: u64,
    /// The digest of the slice's header.
    #[n(2)]
    pub header: Digest,
    /// Whom the slice is for.
    #[n(3)]
    pub destination: NodeId,
    /// The slice root.
    #[n(4)]
    pub slice: Digest,
    /// All custodians, in ascending order.
    #[n(5)]
    pub custodians: Vec<NodeId>,
}

impl Statement for CustodyRequest {
    const KIND: &'static str = "custody-request";

    fn signer(&self) -> PublicKey {
        self.origin
    }
}

/// The most custodians that a request may name.
pub const MAX_CUSTODIANS: usize = 8;

/// Signs one receipt over `items` and returns each item with its path.
pub fn sign_receipts(
    items: Vec<ReceiptItem>,
    incarnation: u64,
    secret: &SecretKey,
    federation: &Federation,
) -> Vec<Verified<Receipt>> {
    let tree = Tree::new(items.iter().map(item_leaf).collect());
    let body = ReceiptBody { holder: secret.public(), incarnation, count: items.len() as u32, items: tree.root() };
    let signed = Signed::sign(body, secret, federation).into_inner();
    (items.into_iter().enumerate())
        .map(|(index, item)| {
            Verified(Receipt { signed: signed.clone(), index: index as u32, item, path: tree.path(index) })
        })
        .collect()
}

fn item_leaf(item: &ReceiptItem) -> Digest {
    tree::leaf_hash(&encode(item))
}

impl Receipt {
    /// Who holds the slice.
    pub fn holder(&self) -> NodeId {
        self.signed.body.holder
    }
}

impl Verify for Receipt {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        let body = &self.signed.body;
        let root =
            tree::root_from_path(item_leaf(&self.item), u64::from(self.index), u64::from(body.count), &self.path);
        if root != Some(body.items) {
            return Err(VerifyError::Path { what: "receipt" });
        }
        if self.item.refused.windows(2).any(|pair| (pair[0].index, pair[0].mailbox) >= (pair[1].index, pair[1].mailbox))
        {
            return Err(VerifyError::malformed(ReceiptBody::KIND, "refused leaves are not in ascending order"));
        }
        if self.item.refused.len() as u64 > federation.params().max_leaves() {
            return Err(VerifyError::malformed(ReceiptBody::KIND, "more refused leaves than a batch can hold"));
        }
        // Only a mailbox's home may refuse it mail.
        if !self.item.refused.is_empty() && (self.item.request.is_some() || body.holder != self.item.destination) {
            return Err(VerifyError::malformed(ReceiptBody::KIND, "a custodian refuses leaves"));
        }
        self.signed.claims(federation, claims)
    }
}

/// The receipts that one slice of a header has.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Custody {
    /// The request under which custodians signed, if there are any.
    #[n(0)]
    pub request: Option<Signed<CustodyRequest>>,
    /// The receipts: the destination's, if it signed, then the custodians' in the request's order.
    #[cbor(n(1), decode_with = "crate::codec::one_or_more")]
    pub receipts: Vec<Receipt>,
}

/// What a complete custody amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CustodyKind {
    /// The destination itself has signed: the slice is not pending.
    pub delivered: bool,
    /// Too few independent holders: the loss of one disk can lose the slice.
    pub weak: bool,
}

impl Custody {
    /// Checks that the receipts are complete for `slice` of the header with digest `digest`, and says what they amount
    /// to. Rule 8: the destination's receipt, or those of all named custodians. Fewer than two independent holders are
    /// weak; an origin's own slice needs one custodian besides itself.
    ///
    /// Signatures are checked by [`Verify`] on [`Sealed`]; this looks at names only.
    ///
    /// # Errors
    /// [`VerifyError::Malformed`] says what is missing or too much.
    pub fn check(
        &self,
        header: &Header,
        digest: Digest,
        slice: &SliceRef,
        federation: &Federation,
    ) -> Result<CustodyKind, VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed("custody", reason));
        let mut receipts = self.receipts.as_slice();
        for receipt in receipts {
            let item = &receipt.item;
            if item.header != digest || item.destination != slice.destination || item.slice != slice.root {
                return malformed("a receipt for another slice");
            }
            if !item.refuses_within(slice, header.entries.messages) {
                return malformed("refused leaves that the slice cannot have");
            }
        }
        if receipts.iter().any(|receipt| receipt.item.request.is_some() && !receipt.item.refused.is_empty()) {
            return malformed("a custodian refuses leaves");
        }
        let mut delivered = false;
        if let Some((first, rest)) = receipts.split_first()
            && first.item.request.is_none()
        {
            if first.holder() != slice.destination {
                return malformed("a receipt without a request that is not the destination's");
            }
            delivered = true;
            receipts = rest;
        }
        let Some(request) = &self.request else {
            return match (delivered, receipts) {
                (true, []) => Ok(CustodyKind { delivered, weak: slice.destination == header.origin }),
                (false, []) => malformed("no receipt"),
                _ => malformed("custodians without a request"),
            };
        };
        let body = &request.body;
        if delivered && slice.destination != header.origin {
            return malformed("custodians beside the destination's own receipt");
        }
        if body.origin != header.origin
            || body.header != digest
            || body.destination != slice.destination
            || body.slice != slice.root
        {
            return malformed("a request for another slice");
        }
        if body.custodians.is_empty()
            || body.custodians.len() > MAX_CUSTODIANS
            || body.custodians.windows(2).any(|pair| pair[0] >= pair[1])
            || body.custodians.contains(&slice.destination)
        {
            return malformed("custodians are 1 to 8 other nodes in ascending order");
        }
        let request_digest = request.digest(federation);
        let named = receipts.len() == body.custodians.len()
            && (receipts.iter().zip(&body.custodians)).all(|(receipt, custodian)| {
                receipt.holder() == *custodian && receipt.item.request == Some(request_digest)
            });
        if !named {
            return malformed("not exactly the receipts of all named custodians");
        }
        let others = body.custodians.iter().filter(|custodian| **custodian != header.origin).count();
        let weak = if delivered { others < 1 } else { others < 2 };
        Ok(CustodyKind { delivered, weak })
    }
}

/// A header with all its receipts: what a sequencer includes, and what anyone may hand in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Sealed {
    /// The header.
    #[n(0)]
    pub header: Signed<Header>,
    /// For each of the header's slices its custody, in the same order.
    #[n(1)]
    pub custody: Vec<Custody>,
}

/// The digest of all receipts of a header.
pub(crate) fn custody_digest(custody: &[Custody]) -> Digest {
    Digest::tagged("custody", &[&encode(&custody)])
}

impl Sealed {
    /// Whether any destination refuses a leaf of these messages, given by their indexes in the batch.
    pub fn refuses(&self, indexes: Range<u64>) -> bool {
        let receipts = self.custody.iter().flat_map(|custody| &custody.receipts);
        receipts.flat_map(|receipt| &receipt.item.refused).any(|leaf| indexes.contains(&leaf.index))
    }

    /// The header's digest.
    pub fn digest(&self, federation: &Federation) -> Digest {
        self.header.digest(federation)
    }

    /// The digest of all receipts, which the cut commits to beside the header.
    pub fn custody_digest(&self) -> Digest {
        custody_digest(&self.custody)
    }

    /// Whether any slice is held weakly.
    pub fn is_weak(&self, federation: &Federation) -> bool {
        let digest = self.digest(federation);
        (self.custody.iter().zip(&self.header.body.slices)).any(|(custody, slice)| {
            custody.check(&self.header.body, digest, slice, federation).is_ok_and(|kind| kind.weak)
        })
    }
}

impl Verify for Sealed {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        let header = &self.header.body;
        let malformed = |reason| Err(VerifyError::malformed(Header::KIND, reason));
        if header.slices.len() as u64 > federation.params().max_slices {
            return malformed("more slices than genesis allows");
        }
        if header.slices.windows(2).any(|pair| pair[0].destination >= pair[1].destination) {
            return malformed("slices are not in ascending order of destination");
        }
        let leaves = header.slices.iter().fold(0_u64, |sum, slice| sum.saturating_add(slice.count));
        if leaves > federation.params().max_leaves() {
            return malformed("more leaves than a batch can hold");
        }
        if header.slices.is_empty() != (header.entries.messages == 0) {
            return malformed("messages without slices, or slices without messages");
        }
        if header.slices.is_empty() && header.attestation.is_none() {
            return malformed("neither messages nor an attestation");
        }
        if self.custody.len() != header.slices.len() {
            return malformed("not one custody for each slice");
        }
        self.header.claims(federation, claims)?;
        let digest = self.digest(federation);
        for (custody, slice) in self.custody.iter().zip(&header.slices) {
            custody.check(header, digest, slice, federation)?;
            if let Some(request) = &custody.request {
                request.claims(federation, claims)?;
            }
            for receipt in &custody.receipts {
                receipt.claims(federation, claims)?;
            }
        }
        Ok(())
    }
}
