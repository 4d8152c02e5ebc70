//! Keys, peer ids, addresses and redial delays.

use std::time::Duration;

use postroad_net::{
    AddressError, Backoff, Multiaddr, PeerId, join_address, key_from_peer_id, peer_id_from_key, peer_id_from_secret,
    split_address,
};
use proptest::prelude::*;

/// RFC 8032, section 7.1, test 1.
const SECRET: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5,
    0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72,
    0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

#[test]
fn a_seed_a_key_and_a_peer_are_one_identity() {
    let peer = peer_id_from_secret(&SECRET);
    assert_eq!(peer_id_from_key(&KEY), Ok(peer));
    assert_eq!(key_from_peer_id(&peer), Some(KEY));
    assert!(peer.to_string().starts_with("12D3KooW"));
}

#[test]
fn other_identities_are_refused() {
    // y = 2 is on no point of the curve.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    assert_eq!(peer_id_from_key(&no_point), Err(AddressError::BadKey));
    // A hashed key, as RSA keys have.
    let hashed: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().expect("a peer");
    assert_eq!(key_from_peer_id(&hashed), None);
    // The right key with a field more.
    let mut long = peer_id_from_secret(&SECRET).to_bytes();
    long[1] += 2;
    long.extend_from_slice(&[0x18, 0]);
    if let Ok(peer) = PeerId::from_bytes(&long) {
        assert_eq!(key_from_peer_id(&peer), None);
    }
}

#[test]
fn addresses_split_and_join() {
    let peer = peer_id_from_secret(&SECRET);
    for place in ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/udp/4001/quic-v1", "/dns4/post.example/tcp/4001"] {
        let place: Multiaddr = place.parse().expect("an address");
        let whole = join_address(peer, &place);
        assert_eq!(split_address(&whole.to_string()), Ok((peer, place)));
    }
    assert!(matches!(split_address("127.0.0.1:4001"), Err(AddressError::NotAnAddress { .. })));
    assert!(matches!(split_address("/ip4/127.0.0.1/tcp/4001"), Err(AddressError::NoPeer(_))));
    assert!(matches!(split_address(&format!("/p2p/{peer}")), Err(AddressError::NoPlace(_))));
    let relayed = format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}");
    assert!(matches!(split_address(&relayed), Err(AddressError::Relayed(_))));
}

proptest! {
    #[test]
    fn delays_stay_in_range_and_grow(seed: u64, first_ms in 1..2_000_u64, cap_ms in 1..60_000_u64) {
        let (first, cap) = (Duration::from_millis(first_ms), Duration::from_millis(cap_ms.max(first_ms)));
        let mut backoff = Backoff::new(first, Duration::from_millis(cap_ms), seed);
        let mut twin = backoff.clone();
        for n in 1..200_u32 {
            let delay = backoff.failed();
            prop_assert_eq!(delay, twin.failed(), "same seed, same delays");
            prop_assert!(delay >= first && delay <= cap);
            prop_assert!(n < 20 || delay >= cap / 2, "late delays are near the cap");
        }
        backoff.succeeded();
        prop_assert!(backoff.failed() <= (2 * first).min(cap));
    }
}

#[test]
fn seeds_spread_the_delays() {
    let delays: std::collections::BTreeSet<Duration> = (0..100).map(|seed| Backoff::standard(seed).failed()).collect();
    assert!(delays.len() > 95);
}
