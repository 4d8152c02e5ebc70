//! Keys, peer ids and addresses: three spellings of who, and one of where.
//!
//! A Postroad identity is an ed25519 public key; its libp2p peer id holds the key itself, so both
//! directions are pure. Everything here refuses peer ids of other key types, keys that are no curve
//! point, and addresses that name no peer or more than one.

use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Why a key or an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The 32 bytes are not an ed25519 public key.
    #[error("not an ed25519 public key")]
    BadKey,
    /// The text is no multiaddr; the reason is the parser's.
    #[error("{text:?} is not a multiaddr: {reason}")]
    NotAnAddress {
        /// What was given.
        text: String,
        /// The parser's reason.
        reason: String,
    },
    /// The address does not end in `/p2p/ID`.
    #[error("{0} names no peer: it must end in /p2p/ID")]
    NoPeer(Multiaddr),
    /// The address names a peer before its end, as relayed addresses do.
    #[error("{0} names a peer before its end: relayed addresses are not supported")]
    Relayed(Multiaddr),
    /// The address is nothing but a peer.
    #[error("{0} says who but not where")]
    NoPlace(Multiaddr),
}

/// The peer id of an ed25519 public key.
///
/// # Errors
///
/// [`AddressError::BadKey`] if the bytes are no curve point.
pub fn peer_id_from_key(key: &[u8; 32]) -> Result<PeerId, AddressError> {
    let key = ed25519::PublicKey::try_from_bytes(key).map_err(|_| AddressError::BadKey)?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The peer id that a network started with this ed25519 seed has.
pub fn peer_id_from_secret(secret: &[u8; 32]) -> PeerId {
    keypair(secret).public().to_peer_id()
}

/// The ed25519 public key inside a peer id, if it holds one.
///
/// Peer ids of other key types, and hashes of keys, give `None`.
pub fn key_from_peer_id(peer: &PeerId) -> Option<[u8; 32]> {
    const IDENTITY: u64 = 0;
    if peer.as_ref().code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    // The protobuf has several encodings of one key; only the canonical one is an identity here.
    if key.to_peer_id() != *peer {
        return None;
    }
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Splits `/ip4/127.0.0.1/tcp/4001/p2p/ID` in who and where.
///
/// # Errors
///
/// [`AddressError`] if the text is no address, does not end in a peer, or names one before its end.
pub fn split_address(text: &str) -> Result<(PeerId, Multiaddr), AddressError> {
    let address: Multiaddr = text.parse().map_err(|e: libp2p::multiaddr::Error| AddressError::NotAnAddress {
        text: text.to_owned(),
        reason: e.to_string(),
    })?;
    let mut place = address.clone();
    let Some(Protocol::P2p(peer)) = place.pop() else {
        return Err(AddressError::NoPeer(address));
    };
    if place.is_empty() {
        return Err(AddressError::NoPlace(address));
    }
    if place.iter().any(|part| matches!(part, Protocol::P2p(_))) {
        return Err(AddressError::Relayed(address));
    }
    Ok((peer, place))
}

/// Puts who and where together: the inverse of [`split_address`].
pub fn join_address(peer: PeerId, place: &Multiaddr) -> Multiaddr {
    place.clone().with(Protocol::P2p(peer))
}

/// An address without its `/p2p/ID` end, and the peer named there.
pub(crate) fn strip_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        _ => (address, None),
    }
}

pub(crate) fn keypair(secret: &[u8; 32]) -> Keypair {
    let mut secret = *secret;
    // Any 32 bytes are an ed25519 seed.
    Keypair::ed25519_from_bytes(&mut secret).expect("a 32-byte seed is a key pair")
}
