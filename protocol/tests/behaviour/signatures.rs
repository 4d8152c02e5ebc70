//! The one signature predicate: ZIP 215 on every crafted input, alone and in batches, and which keys may register.

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::{PublicKey, Signature, Verified, VerifyError, crypto};
use sha2::{Digest as _, Sha512};

use crate::common::{World, key};

const MESSAGE: &[u8] = b"Zcash";

/// The order of the base point, little-endian.
const L: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

struct Case {
    key: [u8; 32],
    signature: [u8; 64],
}

impl Case {
    fn new(key: [u8; 32], r: [u8; 32], s: [u8; 32]) -> Case {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(&s);
        Case { key, signature }
    }

    fn claim(&self) -> (PublicKey, &'static [u8], Signature) {
        (PublicKey(self.key), MESSAGE, Signature(self.signature))
    }

    /// The project's answer, after asking the batch verifier for the same.
    fn verifies(&self) -> bool {
        let single = PublicKey(self.key).verifies(MESSAGE, &Signature(self.signature));
        for companions in 0..3 {
            assert_eq!(all_verify(std::slice::from_ref(self), companions), single, "single and batch disagree");
        }
        single
    }
}

/// Whether all cases hold in one batch, beside some honest signatures.
fn all_verify(cases: &[Case], companions: u8) -> bool {
    let honest: Vec<Case> = (0..companions).map(honest).collect();
    crypto::all_verify(cases.iter().chain(&honest).map(Case::claim))
}

fn challenge(r: &[u8; 32], key: &[u8; 32]) -> Scalar {
    let digest = Sha512::new().chain_update(r).chain_update(key).chain_update(MESSAGE).finalize();
    Scalar::from_bytes_mod_order_wide(&digest.into())
}

fn scalar(label: &[u8]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Sha512::digest(label).into())
}

/// A signature by the key `secret`·B + `twist`, whose R is `nonce`·B + `r_twist`, encoded as told.
fn signed(
    secret: Scalar,
    twist: EdwardsPoint,
    nonce: Scalar,
    r_twist: EdwardsPoint,
    r_bytes: Option<[u8; 32]>,
) -> Case {
    let key = (ED25519_BASEPOINT_POINT * secret + twist).compress().to_bytes();
    let r = r_bytes.unwrap_or_else(|| (ED25519_BASEPOINT_POINT * nonce + r_twist).compress().to_bytes());
    let s = nonce + challenge(&r, &key) * secret;
    Case::new(key, r, s.to_bytes())
}

fn honest(label: u8) -> Case {
    let none = EIGHT_TORSION[0];
    signed(scalar(&[label]), none, scalar(&[label, 1]), none, None)
}

/// All 26 point encodings that are not canonical; the first six are of small order.
fn non_canonical() -> Vec<[u8; 32]> {
    let mut found = vec![];
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut large = vec![one, minus_one].into_iter().map(|y| (y, vec![0x80])).collect::<Vec<_>>();
    // y of p to p + 18, which is 2^255 - 1.
    large.extend((0xed..=0xff).map(|low| {
        let mut y = minus_one;
        y[0] = low;
        (y, vec![0x00, 0x80])
    }));
    for (y, signs) in large {
        for sign in signs {
            let mut encoding = y;
            encoding[31] |= sign;
            if let Some(point) = CompressedEdwardsY(encoding).decompress() {
                assert_ne!(point.compress().to_bytes(), encoding);
                found.push(encoding);
            }
        }
    }
    found
}

/// The eight torsion points and the six other encodings of some of them.
fn small_order() -> Vec<[u8; 32]> {
    let canonical = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes());
    let all: Vec<_> = canonical.chain(non_canonical().into_iter().take(6)).collect();
    for encoding in &all {
        assert!(CompressedEdwardsY(*encoding).decompress().unwrap().is_small_order());
    }
    assert_eq!(all.len(), 14);
    all
}

#[test]
fn rfc_8032_vectors_hold() {
    // RFC 8032, section 7.1: seed, key, message, signature of tests 1 to 3.
    let vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, public, message, signature) in vectors {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let secret = postroad_protocol::SecretKey::from_seed(bytes(seed).try_into().unwrap());
        assert_eq!(hex::encode(secret.public().0), public);
        let signature = Signature(bytes(signature).try_into().unwrap());
        assert!(secret.public().verifies(&bytes(message), &signature));
        assert!(!secret.public().verifies(b"another", &signature));
    }
}

#[test]
fn the_196_small_order_vectors_of_zip_215_verify() {
    let mut cases = Vec::new();
    for key in small_order() {
        for r in small_order() {
            cases.push(Case::new(key, r, [0; 32]));
        }
    }
    assert_eq!(cases.len(), 196);
    assert!(cases.iter().all(Case::verifies));
    assert!(all_verify(&cases, 3));
}

#[test]
fn torsion_in_r_or_in_the_key_changes_nothing() {
    let mut cases = Vec::new();
    for twist in EIGHT_TORSION {
        for r_twist in EIGHT_TORSION {
            cases.push(signed(scalar(b"mixed"), twist, scalar(b"nonce"), r_twist, None));
        }
    }
    assert!(cases.iter().all(Case::verifies));
    assert!(all_verify(&cases, 3));
}

#[test]
fn small_order_r_in_any_encoding_verifies_for_an_honest_key() {
    for r in small_order() {
        assert!(signed(scalar(b"honest"), EIGHT_TORSION[0], Scalar::ZERO, EIGHT_TORSION[0], Some(r)).verifies());
    }
}

#[test]
fn s_must_be_below_the_order() {
    let order: [u8; 32] = hex::decode(L).unwrap().try_into().unwrap();
    let plus_order = |s: [u8; 32]| {
        let mut carry = 0;
        std::array::from_fn(|at| {
            let sum = u16::from(s[at]) + u16::from(order[at]) + carry;
            carry = sum >> 8;
            sum as u8
        })
    };
    let case = honest(9);
    let (r, s) = (case.signature[..32].try_into().unwrap(), case.signature[32..].try_into().unwrap());
    assert!(case.verifies());
    assert!(!Case::new(case.key, r, plus_order(s)).verifies());
    for encoding in small_order() {
        assert!(!Case::new(encoding, encoding, order).verifies());
    }
}

#[test]
fn what_does_not_hold_does_not_hold_in_a_batch_either() {
    let case = honest(1);
    for bit in 0..512 {
        let mut changed = Case { key: case.key, signature: case.signature };
        changed.signature[bit / 8] ^= 1 << (bit % 8);
        assert!(!changed.verifies(), "bit {bit}");
    }
    // y = 2 is on no curve point.
    let mut no_point = [0; 32];
    no_point[0] = 2;
    assert!(CompressedEdwardsY(no_point).decompress().is_none());
    assert!(!Case::new(no_point, EIGHT_TORSION[0].compress().to_bytes(), [0; 32]).verifies());
    assert!(!PublicKey(no_point).is_acceptable());
}

#[test]
fn small_order_and_non_canonical_keys_may_not_register() {
    let non_canonical = non_canonical();
    assert_eq!(non_canonical.len(), 26);
    for encoding in small_order().into_iter().chain(non_canonical) {
        assert!(!PublicKey(encoding).is_acceptable(), "{}", hex::encode(encoding));
    }
    assert!(key("anybody").public().is_acceptable());
    // A key with torsion beside its prime-order part is its owner's business: one predicate holds everywhere.
    let mixed = signed(scalar(b"mixed"), EIGHT_TORSION[1], scalar(b"nonce"), EIGHT_TORSION[0], None);
    assert!(PublicKey(mixed.key).is_acceptable());
}

#[test]
fn of_many_values_each_gets_its_own_answer() {
    let mut world = World::builder().nodes(2).mailboxes(6).build();
    let mut bundles: Vec<Bundle> = (0..6)
        .map(|sender| {
            let message = world.message("hello", &[0]);
            world.bundle(sender, 0, vec![message])
        })
        .collect();
    let all = Verified::check_all(bundles.clone(), &world.federation);
    assert!(all.iter().all(Result::is_ok));
    // One with another's signature, one whose messages are not those that were signed.
    bundles[2].signed.signature = bundles[3].signed.signature;
    bundles[4].messages[0].common.push(0);
    let all = Verified::check_all(bundles, &world.federation);
    let holds: Vec<bool> = all.iter().map(Result::is_ok).collect();
    assert_eq!(holds, [true, true, false, true, false, true]);
    let signer = world.mailbox(2);
    assert_eq!(all[2].as_ref().err(), Some(&VerifyError::Signature { kind: "bundle", signer }));
    assert!(matches!(all[4], Err(VerifyError::Malformed { .. })));
    assert!(Verified::check_all(Vec::<Bundle>::new(), &world.federation).is_empty());
}

#[test]
fn receipts_that_share_a_signature_fall_with_it() {
    let mut world = World::builder().nodes(3).mailboxes(3).build();
    let message = world.message("hello", &[0, 1, 2]);
    let bundle = world.bundle(0, 0, vec![message]);
    let batch = world.seal(0, vec![bundle]);
    let items = (0..batch.header.body.slices.len()).map(|slice| world.item(&batch, slice, None)).collect();
    let mut receipts: Vec<Receipt> = world.receipts(1, items);
    assert!(receipts.len() > 1);
    assert!(Verified::check_all(receipts.clone(), &world.federation).iter().all(Result::is_ok));
    // Good bytes somewhere do not vouch for other bytes elsewhere.
    receipts[0].signed.signature.0[0] ^= 1;
    let all = Verified::check_all(receipts.clone(), &world.federation);
    let holds: Vec<bool> = all.iter().map(Result::is_ok).collect();
    assert!(!holds[0] && holds[1..].iter().all(|holds| *holds), "{holds:?}");
    receipts.iter_mut().for_each(|receipt| receipt.signed.signature.0[0] = !receipt.signed.signature.0[0]);
    assert!(Verified::check_all(receipts, &world.federation).iter().all(Result::is_err));
}
