//! Keys, signatures, and the one signature predicate of the project.
//!
//! ed25519-dalek signs. Verification is ZIP 215 (<https://zips.z.cash/zip-0215>), by ed25519-zebra: cofactored, so that
//! verification one by one and in batches agree on every input. The verification calls of ed25519-dalek disagree with
//! each other on crafted signatures, which would let a client make an honest inbox accept what recipients reject;
//! `clippy.toml` forbids them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer as _;
use rand_core::{TryCryptoRng, TryRng};
use sha2::{Digest as _, Sha512};

use crate::codec::byte_string;

/// What precedes an ed25519 key in a libp2p PeerId: an identity multihash of 36 bytes that holds the protobuf of the
/// key (<https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// An ed25519 public key. Its text is the base58 libp2p PeerId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A node's key, which is its name.
pub type NodeId = PublicKey;
/// A mailbox's key, which is its address.
pub type MailboxId = PublicKey;

/// An ed25519 signature (64 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

/// An ed25519 signing key.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

/// A text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: an address is the base58 PeerId of an ed25519 key (it begins with 12D3KooW)")]
pub struct BadAddress {
    text: String,
}

impl PublicKey {
    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` over `message` holds under ZIP 215.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_zebra::VerificationKey::try_from(self.0) else {
            return false;
        };
        key.verify(&ed25519_zebra::Signature::from_bytes(&signature.0), message).is_ok()
    }

    /// Whether the key may be registered: a canonically encoded point that is not of small order.
    pub fn is_acceptable(&self) -> bool {
        ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| !key.is_weak() && key.to_edwards().compress().to_bytes() == self.0)
    }
}

/// Whether all of these signatures hold, each over its message: the same predicate as [`PublicKey::verifies`], at
/// about half the price where there are many. It does not say which one does not hold.
pub fn all_verify<M: AsRef<[u8]>>(claims: impl Iterator<Item = (PublicKey, M, Signature)>) -> bool {
    let mut all = Sha512::new_with_prefix(b"postroad batch of signatures");
    let mut batch = ed25519_zebra::batch::Verifier::new();
    for (key, message, signature) in claims {
        let message = message.as_ref();
        for part in [&key.0[..], &signature.0, &(message.len() as u64).to_be_bytes(), message] {
            all.update(part);
        }
        let key = ed25519_zebra::VerificationKeyBytes::from(key.0);
        batch.queue((key, ed25519_zebra::Signature::from_bytes(&signature.0), message));
    }
    batch.verify(Coins { seed: all.finalize().into(), drawn: 0 }).is_ok()
}

/// The coefficients of a batch: SHA-512 in counter mode over everything that the batch claims. Whoever makes a claim
/// fixes it before its coefficients are known, which is all that a batch asks of them; so no entropy is needed here.
struct Coins {
    seed: [u8; 64],
    drawn: u64,
}

impl TryRng for Coins {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for chunk in to.chunks_mut(64) {
            let block = Sha512::new_with_prefix(self.seed).chain_update(self.drawn.to_be_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.drawn += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Coins {}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }
}

impl SecretKey {
    /// The key of a 32-byte seed (RFC 8032).
    pub fn from_seed(seed: [u8; 32]) -> SecretKey {
        SecretKey(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The seed.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs raw bytes. Statements are signed through [`crate::Signed::sign`], which adds the domain.
    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "…{}", &text[text.len() - 6..])
    }
}

impl FromStr for PublicKey {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<PublicKey, BadAddress> {
        let bad = || BadAddress { text: text.chars().take(80).collect() };
        let mut bytes = [0; 38];
        let length = bs58::decode(text).onto(&mut bytes).map_err(|_| bad())?;
        match bytes.strip_prefix(&PEER_ID_PREFIX) {
            Some(key) if length == 38 => Ok(PublicKey(key.try_into().map_err(|_| bad())?)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sig:{}…", hex::encode(&self.0[..4]))
    }
}

byte_string!(PublicKey);

byte_string!(Signature);
