//! The checksum that every stored value carries.
//!
//! redb checks no sums when it reads, so a bit that flips on the disk would reach the node as a
//! fact. A sealed value is the value followed by four bytes, little endian: the CRC-32 of table
//! name, key and value, the first two behind their length as u32. With table and key inside, a
//! value that turns up under the wrong key is refused too. This finds accidents, not attackers:
//! who can write the file can also write checksums.

use crate::{StoreError, Table};

const SUM_BYTES: usize = 4;

fn sum(table: Table, key: &[u8], value: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    for part in [table.0.as_bytes(), key] {
        // A length cut to 32 bits still delimits: redb refuses keys of 3 GiB and more.
        hasher.update(&(part.len() as u32).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

/// The bytes to store for `value`.
pub(crate) fn seal(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(value.len() + SUM_BYTES);
    sealed.extend_from_slice(value);
    sealed.extend_from_slice(&sum(table, key, value));
    sealed
}

/// The value in `sealed`, checked.
pub(crate) fn open(table: Table, key: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    match sealed.split_last_chunk::<SUM_BYTES>() {
        Some((value, found)) if *found == sum(table, key, value) => {
            sealed.truncate(sealed.len() - SUM_BYTES);
            Ok(sealed)
        }
        _ => Err(StoreError::Corrupt { table, key: key.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Table = Table("t");

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let sealed = seal(T, b"key", b"value");
        assert_eq!(open(T, b"key", sealed.clone()).unwrap(), b"value");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(T, b"key", bad), Err(StoreError::Corrupt { .. })));
        }
        for len in 0..sealed.len() {
            assert!(open(T, b"key", sealed[..len].to_vec()).is_err());
        }
    }

    #[test]
    fn a_value_is_bound_to_its_table_and_key() {
        let sealed = seal(Table("ab"), b"c", b"value");
        assert!(open(Table("a"), b"bc", sealed.clone()).is_err());
        assert!(open(Table("ab"), b"d", sealed).is_err());
    }
}
