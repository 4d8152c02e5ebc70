//! A peer never sizes our memory: what decoding allocates is in proportion to the bytes that came.
//!
//! Measured from outside: the test runs itself again in a process of its own and asks the kernel how large that became.

use std::process::Command;

use minicbor::Decode;
use minicbor::Encode;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::record::NodeRecord;
use postroad_protocol::slice::SliceBody;
use postroad_protocol::wire::{call, mail, order};

use crate::codec::claim_too_much;
use crate::common::samples;
use crate::common::story::story;

const CHILD: &str = "POSTROAD_TEST_MEMORY_OF";

/// The largest that this process has been, in bytes: address space, so that memory counts which nobody has touched.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

/// By how much `work` makes a fresh process grow.
fn growth_bytes(test: &str, case: &str, work: impl FnOnce()) -> Option<u64> {
    match std::env::var(CHILD) {
        Ok(chosen) if chosen == case => {
            let before = peak_bytes();
            work();
            println!("grown by {} bytes", peak_bytes() - before);
            None
        }
        Ok(_) => None,
        Err(_) => {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture", "--test-threads=1"])
                .env(CHILD, case)
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let grown = text.split("grown by ").nth(1).unwrap_or_else(|| panic!("{case}: {text}"));
            Some(grown.split(' ').next().unwrap().parse().unwrap())
        }
    }
}

/// `prefix`, then an array of `count` times `element`; the rest of the value is missing.
fn many(prefix: &[u8], element: &[u8], bytes: usize) -> Vec<u8> {
    let count = (bytes / element.len()) as u32;
    let mut message = prefix.to_vec();
    message.push(0x9a);
    message.extend(count.to_be_bytes());
    (0..count).for_each(|_| message.extend(element));
    message
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_length_claims_is_not_allocated() {
    let grown = growth_bytes("memory::what_a_length_claims_is_not_allocated", "claims", || {
        samples::all().iter().for_each(claim_too_much);
    });
    assert!(grown.is_none_or(|grown| grown < 32 << 20), "{grown:?}");
}

fn refuse<T: Encode<()> + for<'b> Decode<'b, ()>>(bytes: &[u8]) {
    assert!(decode::<T>(bytes).is_err());
}

/// The smallest elements that a list of larger things can have, thousands of times.
#[cfg(target_os = "linux")]
#[test]
fn small_elements_do_not_become_large_values() {
    const TEST: &str = "memory::small_elements_do_not_become_large_values";
    const SIZE: usize = 4 << 20;
    let story = story();
    let header = encode(&*story.first.header);
    let sealed = [&[0x82, 0x01, 0x81, 0x82], header.as_slice()].concat();
    let bundle = encode(&story.first.bundles[0].signed);
    let slice = [&[0x81, 0x81, 0x84, 0x00], bundle.as_slice(), &[0x80]].concat();
    let node = [&[0x85, 0x58, 0x20], [7; 32].as_slice(), &[0x01, 0x60]].concat();
    type Case = (&'static str, Vec<u8>, fn(&[u8]));
    let cases: [Case; 5] = [
        ("custody", many(&sealed, &[0x82, 0xf6, 0x80], SIZE), refuse::<order::ToSequencer>),
        ("slice message", many(&slice, &[0x85, 0x00, 0x80, 0x40, 0x00, 0x80], SIZE), refuse::<SliceBody>),
        ("address", many(&node, &[0x60], SIZE), refuse::<NodeRecord>),
        ("receipt", many(&[0x82, 0x02, 0x81], &[0x84], SIZE), refuse::<mail::Homeward>),
        ("cut", many(&[0x82, 0x04, 0x81], &[0x82], SIZE), refuse::<call::Reply>),
    ];
    for (case, bytes, refuse) in cases {
        let grown = growth_bytes(TEST, case, || refuse(&bytes));
        println!("{case}: {grown:?}");
        // Nothing that would not fit the bytes that came, twice over.
        assert!(grown.is_none_or(|grown| grown < 2 * SIZE as u64), "{case}: {grown:?} bytes for {SIZE}");
    }
}
