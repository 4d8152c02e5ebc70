//! [`MAIL`](super::MAIL): slices one way, receipts the other.

use minicbor::{Decode, Encode};

use crate::batch::Header;
use crate::crypto::NodeId;
use crate::digest::Digest;
use crate::receipt::{CustodyRequest, Receipt};
use crate::signed::Signed;
use crate::slice::{SliceBody, SliceKey};

/// From the origin to the holder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outward {
    /// First of all.
    #[n(0)]
    Hello(#[n(0)] Digest),
    /// A slice to hold. Counts against the credit.
    #[n(1)]
    Slice(#[n(0)] Box<SliceParcel>),
    /// After a reconnection: "if this slice is on your disk, sign for it again; else I send it".
    #[n(2)]
    Resume(#[n(0)] Box<SliceName>),
}

/// A slice with its header and, for a custodian, the origin's request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceParcel {
    /// The batch's header.
    #[n(0)]
    pub header: Signed<Header>,
    /// Whom the slice is for.
    #[n(1)]
    pub destination: NodeId,
    /// For a custodian: the request.
    #[n(2)]
    pub request: Option<Signed<CustodyRequest>>,
    /// The slice.
    #[n(3)]
    pub body: SliceBody,
}

/// A slice by name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SliceName {
    /// The slice.
    #[n(0)]
    pub slice: SliceKey,
    /// For a custodian: the request.
    #[n(1)]
    pub request: Option<Signed<CustodyRequest>>,
}

/// From the holder to the origin.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Homeward {
    /// First of all: the federation, and how many bytes of slices may be on the way.
    #[n(0)]
    Hello(#[n(0)] Digest, #[n(1)] u64),
    /// So many bytes more, now that as many are durable.
    #[n(1)]
    Credit(#[n(0)] u64),
    /// The slices of one disk sync, signed for.
    #[n(2)]
    Receipts(#[n(0)] Vec<Receipt>),
    /// The slice that was to be resumed is not here.
    #[n(3)]
    Missing(#[n(0)] SliceKey),
    /// The slice is not taken.
    #[n(4)]
    Refused(#[n(0)] SliceKey, #[n(1)] String),
    /// Whether the holder has caught up with the cuts and takes slices that are for itself.
    #[n(5)]
    Ready(#[n(0)] bool),
}
