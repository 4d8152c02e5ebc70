//! The sequence number: a message's place in the one global order.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

/// (epoch, position of the batch in the cut, index of the message in the batch), all zero-based, compared as numbers.
/// Its text is `epoch.position.index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(array)]
pub struct Seq {
    /// The epoch whose cut ordered the batch.
    #[n(0)]
    pub epoch: u64,
    /// The batch's position among the cut's headers.
    #[n(1)]
    pub position: u32,
    /// The message's index in the batch.
    #[n(2)]
    pub index: u64,
}

/// A text that is not a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a sequence number: write it as epoch.position.index, for example 17.0.3")]
pub struct BadSeq {
    text: String,
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.position, self.index)
    }
}

impl FromStr for Seq {
    type Err = BadSeq;

    fn from_str(text: &str) -> Result<Seq, BadSeq> {
        let parse = || {
            let mut parts = text.split('.');
            let seq = Seq {
                epoch: parts.next()?.parse().ok()?,
                position: parts.next()?.parse().ok()?,
                index: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(seq)
        };
        parse().ok_or_else(|| BadSeq { text: text.chars().take(80).collect() })
    }
}
