//! Files that hold one value of a federation: magic bytes that say what it is, then the federation's id and the value.

use minicbor::{Decode, Encode};

use crate::codec::{decode, encode};
use crate::digest::Digest;
use crate::error::DecodeError;
use crate::evidence::ClaimError;
use crate::genesis::Federation;

/// What a file holds, as its first bytes say.
pub(crate) struct Kind {
    pub(crate) magic: &'static str,
    pub(crate) what: &'static str,
}

impl Kind {
    /// The bytes of a file that holds `value`.
    pub(crate) fn write<T: Encode<()>>(&self, value: &T, federation: &Federation) -> Vec<u8> {
        let mut bytes = self.magic.as_bytes().to_vec();
        bytes.extend(encode(&(federation.id(), value)));
        bytes
    }

    /// Whether a file claims to be of this kind.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(self.magic.as_bytes())
    }

    /// The value in a file; nothing of it is verified but its federation.
    pub(crate) fn read<'b, T>(&self, bytes: &'b [u8], federation: &Federation) -> Result<T, ClaimError>
    where
        T: Decode<'b, ()> + Encode<()>,
    {
        let body = bytes.strip_prefix(self.magic.as_bytes()).ok_or_else(|| DecodeError::Malformed {
            what: self.what,
            reason: format!("it does not begin with {:?}", self.magic),
        })?;
        let (theirs, value): (Digest, T) = decode(body)?;
        if theirs != federation.id() {
            return Err(ClaimError::WrongFederation { theirs, ours: federation.id() });
        }
        Ok(value)
    }
}
