//! One value, one byte string: what was encoded comes back, and no other bytes stand for it.

use std::sync::OnceLock;

use postroad_protocol::codec::{decode, encode};
use postroad_protocol::{DecodeError, Digest, Seq};
use proptest::prelude::*;

use crate::common::samples::{self, Sample};

fn all() -> &'static [Sample] {
    static ALL: OnceLock<Vec<Sample>> = OnceLock::new();
    ALL.get_or_init(samples::all)
}

/// One data item of a sample: where its head and the whole item stand.
struct Item {
    at: usize,
    head: usize,
    end: usize,
    major: u8,
    value: u64,
}

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;

/// All items of canonical bytes, outermost first.
fn items(bytes: &[u8]) -> Vec<Item> {
    fn walk(bytes: &[u8], at: usize, found: &mut Vec<Item>) -> usize {
        let (major, info) = (bytes[at] >> 5, bytes[at] & 31);
        let width = match info {
            0..24 => 0,
            24..28 => 1 << (info - 24),
            _ => panic!("indefinite length at {at}"),
        };
        let value = match width {
            0 => u64::from(info),
            _ => bytes[at + 1..=at + width].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        };
        let index = found.len();
        let head = 1 + width;
        found.push(Item { at, head, end: 0, major, value });
        let mut end = at + head;
        match major {
            BYTES | TEXT => end += value as usize,
            ARRAY => (0..value).for_each(|_| end = walk(bytes, end, found)),
            UNSIGNED | 7 => {}
            other => panic!("major type {other} at {at}"),
        }
        found[index].end = end;
        end
    }
    let mut found = Vec::new();
    assert_eq!(walk(bytes, 0, &mut found), bytes.len());
    found
}

/// A head of the given width in bytes.
fn head(major: u8, value: u64, width: usize) -> Vec<u8> {
    let mut head = match width {
        0 => return vec![major << 5 | value as u8],
        _ => vec![major << 5 | (24 + width.trailing_zeros() as u8)],
    };
    head.extend(&value.to_be_bytes()[8 - width..]);
    head
}

fn replaced(bytes: &[u8], from: usize, to: usize, with: &[u8]) -> Vec<u8> {
    [&bytes[..from], with, &bytes[to..]].concat()
}

/// Every other encoding of the same value that CBOR has and this protocol does not, with what it is.
fn variants(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut variants = Vec::new();
    for item in items(bytes) {
        let (body, end) = (item.at + item.head, item.end);
        if item.major != 7 {
            for width in [1, 2, 4, 8].into_iter().filter(|width| item.head <= *width) {
                let head = head(item.major, item.value, width);
                variants.push(("an over-long head", replaced(bytes, item.at, body, &head)));
            }
        }
        if item.major == ARRAY {
            let inner = &bytes[body..end];
            variants.push(("an indefinite array", replaced(bytes, item.at, end, &[&[0x9f], inner, &[0xff]].concat())));
            for null in [0xf6, 0xf7] {
                let longer = head(ARRAY, item.value + 1, if item.value + 1 < 24 { 0 } else { 1 });
                let longer = [&longer, inner, &[null]].concat();
                variants.push(("a trailing null", replaced(bytes, item.at, end, &longer)));
            }
        }
        if item.major == BYTES || item.major == TEXT {
            let whole = &bytes[item.at..end];
            let chunked = [&[item.major << 5 | 31], whole, &[0xff]].concat();
            variants.push(("an indefinite string", replaced(bytes, item.at, end, &chunked)));
            let other = if item.major == BYTES { TEXT } else { BYTES };
            let swapped = bytes[item.at] & 31 | other << 5;
            variants.push(("text for bytes", replaced(bytes, item.at, item.at + 1, &[swapped])));
        }
        if bytes[item.at] == 0xf6 {
            variants.push(("undefined for null", replaced(bytes, item.at, end, &[0xf7])));
        }
        variants.push(("a tag", replaced(bytes, item.at, item.at, &[0xc0])));
    }
    variants
}

#[test]
fn every_type_comes_back_from_its_bytes() {
    for sample in all() {
        assert_eq!((sample.recode)(&sample.bytes).as_ref(), Ok(&sample.bytes), "{}", sample.name);
    }
}

#[test]
fn nothing_may_follow_a_value_and_nothing_may_be_missing() {
    for sample in all() {
        for byte in [0x00, 0x80, 0xf6, 0xff] {
            let longer = [sample.bytes.as_slice(), &[byte]].concat();
            assert_eq!((sample.recode)(&longer), Err(DecodeError::Trailing { bytes: 1 }), "{}", sample.name);
        }
        for length in 0..sample.bytes.len() {
            let cut = (sample.recode)(&sample.bytes[..length]);
            assert!(matches!(cut, Err(DecodeError::Malformed { .. })), "{} of {length}", sample.name);
        }
    }
}

#[test]
fn no_other_encoding_of_a_value_is_taken() {
    let mut seen = 0;
    for sample in all() {
        for (what, bytes) in variants(&sample.bytes) {
            let found = (sample.recode)(&bytes);
            // In a list of optional values one more null is one more value.
            if sample.name == "call/reply/extracts" && what == "a trailing null" && found.as_ref() == Ok(&bytes) {
                continue;
            }
            assert!(found.is_err(), "{}: {what} was taken: {}", sample.name, hex::encode(bytes));
            seen += 1;
        }
    }
    assert!(seen > 10_000, "{seen} variants");
}

#[test]
fn an_absent_last_field_is_left_out_and_an_absent_inner_one_is_null() {
    let named = |name: &str| all().iter().find(|sample| sample.name == name).unwrap();
    let without = named("call/question/home-now");
    assert_eq!(without.bytes[..3], [0x82, 0x02, 0x81]);
    let mut with_null = without.bytes.clone();
    with_null[2] = 0x82;
    with_null.push(0xf6);
    assert_eq!((without.recode)(&with_null), Err(DecodeError::NotCanonical));
    // A header without an attestation: the sixth of eight fields.
    let header = &named("header").bytes;
    assert_eq!(items(header).iter().filter(|item| header[item.at] == 0xf6).count(), 1);
}

#[test]
fn claimed_lengths_are_not_believed() {
    for sample in all() {
        claim_too_much(sample);
    }
}

/// Puts a huge length in the place of every length of the sample.
pub(crate) fn claim_too_much(sample: &Sample) {
    for item in items(&sample.bytes).iter().filter(|item| [BYTES, TEXT, ARRAY].contains(&item.major)) {
        for length in [1 << 31, 1 << 40, 1 << 60, u64::MAX] {
            let head = head(item.major, length, 8);
            let found = (sample.recode)(&replaced(&sample.bytes, item.at, item.at + item.head, &head));
            assert!(matches!(found, Err(DecodeError::Malformed { .. })), "{} at {}", sample.name, item.at);
        }
    }
}

#[test]
fn a_digest_has_32_bytes_and_a_number_fits() {
    assert!(decode::<Digest>(&encode(&Digest([1; 32]))).is_ok());
    for length in [0u8, 31, 33] {
        let bytes = [&[0x58, length][..], &vec![0; usize::from(length)]].concat();
        assert!(decode::<Digest>(&bytes).is_err());
    }
    // A position has 32 bits.
    assert!(decode::<Seq>(&[0x83, 0x00, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x00]).is_ok());
    assert!(decode::<Seq>(&[0x83, 0x00, 0x1b, 0, 0, 0, 1, 0, 0, 0, 0, 0x00]).is_err());
}

/// A change to some bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(usize, u8),
    Set(usize, u8),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Copy(usize, usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 1usize..40).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), at(), 1usize..80).prop_map(|(from, to, count)| Mutation::Copy(from, to, count)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let length = bytes.len().max(1);
    match mutation {
        _ if bytes.is_empty() => {}
        Mutation::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
        Mutation::Set(at, byte) => bytes[at % length] = *byte,
        Mutation::Remove(at, count) => {
            let at = at % length;
            bytes.drain(at..(at + count).min(length));
        }
        Mutation::Insert(at, more) => {
            let at = at % length;
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Copy(from, to, count) => {
            let (from, to) = (from % length, to % length);
            let part = bytes[from..(from + count).min(length)].to_vec();
            bytes.splice(to..to, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_are_refused_or_are_the_encoding_of_another_value(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let sample = which.get(all());
        let mut bytes = sample.bytes.clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        if let Ok(again) = (sample.recode)(&bytes) {
            prop_assert_eq!(again, bytes, "{}", sample.name);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for sample in all() {
            if let Ok(again) = (sample.recode)(&bytes) {
                prop_assert_eq!(&again, &bytes, "{}", sample.name);
            }
        }
    }
}
