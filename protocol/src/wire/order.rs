//! [`ORDER`](super::ORDER): what is to be ordered goes to the sequencer, cuts come back.

use minicbor::{Decode, Encode};

use crate::cut::Cut;
use crate::digest::Digest;
use crate::receipt::{Fill, Sealed};
use crate::record::Record;

/// From any node to the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToSequencer {
    /// First of all: the federation, and the epoch after which cuts are wanted.
    #[n(0)]
    Hello(#[n(0)] Digest, #[n(1)] u64),
    /// A header with its receipts.
    #[n(1)]
    Sealed(#[n(0)] Box<Sealed>),
    /// A fill.
    #[n(2)]
    Fill(#[n(0)] Box<Fill>),
    /// A record.
    #[n(3)]
    Record(#[n(0)] Box<Record>),
    /// Cuts up to this epoch are applied: credit for more.
    #[n(4)]
    Applied(#[n(0)] u64),
}

/// From the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromSequencer {
    /// First of all: the federation, and the last epoch.
    #[n(0)]
    Hello(#[n(0)] Digest, #[n(1)] u64),
    /// The next cut.
    #[n(1)]
    Cut(#[n(0)] Box<Cut>),
    /// What was handed in under this digest cannot be settled.
    #[n(2)]
    Rejected(#[n(0)] Digest, #[n(1)] String),
    /// What was handed in under this digest was not taken, because too much of that node's waits: to be handed in again
    /// a little later.
    #[n(3)]
    Busy(#[n(0)] Digest),
}
