//! SHA-256 digests, and the tags that keep digests of different things apart.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::codec::byte_string;

/// The protocol's name and version; the first bytes under every tagged hash and every signature.
pub const PROTOCOL: &str = "postroad/1";

/// A SHA-256 digest (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Thirty-two zero bytes: stands for "there is none before this one".
    pub const ZERO: Digest = Digest([0; 32]);

    /// Digest of `parts` under a tag of this protocol. Parts are hashed one after the other, so a caller makes them of
    /// fixed length, or puts only the last one free.
    pub fn tagged(tag: &str, parts: &[&[u8]]) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(PROTOCOL.as_bytes());
        hasher.update(b"/");
        hasher.update(tag.as_bytes());
        hasher.update([0]);
        for part in parts {
            hasher.update(part);
        }
        Digest(hasher.finalize().into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Digest(bytes))
    }
}

/// SHA-256 of the concatenation of `parts`, without a tag: the hash under RFC 6962 trees.
pub fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Digest(hasher.finalize().into())
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

byte_string!(Digest);
