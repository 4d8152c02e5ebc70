//! An ordered key-value store with one durable write path, and the signing guard.
//!
//! A node keeps what it must not forget in byte-keyed, byte-valued tables. All writes go through
//! one [`Transaction`] at a time; [`Transaction::commit`] returns only when the disk has them, so
//! "persist, then sign, then send" needs nothing but the order of calls. The same interface has
//! three back ends: redb on a disk (feature `redb`, the default), memory, for tests and for the
//! simulator, and sled (feature `sled`) with limits of its own. A pure crate depends on this one without default features and gets no IO at all.
//!
//! What it refuses: a file that is not ours or from a newer version, a value whose checksum does
//! not match, a second process on the same file, and to go on after the disk failed.
//!
//! Not detected: a record that is missing because the *key* bytes or the tree above it rotted.
//! The checksum covers what is read, not what is absent.

#[cfg(feature = "redb")]
mod disk;
mod error;
pub mod guard;
#[cfg(feature = "redb")]
mod guard_draft;
#[cfg(feature = "redb")]
mod guard_file;
#[cfg(feature = "redb")]
mod lock;
#[cfg(feature = "redb")]
mod medium;
mod memory;
#[cfg(all(test, feature = "redb"))]
mod power;
mod seal;
#[cfg(feature = "sled")]
mod sled_disk;
mod staged;
mod store;

pub use error::StoreError;
pub use guard::{Guard, GuardError, GuardRecord, SignedDraft};
#[cfg(feature = "redb")]
pub use lock::DirLock;
pub use store::{Snapshot, Store, Transaction};

/// The name of a table. Tables are declared when the store is opened; using another one is a bug
/// of the caller and panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub &'static str);

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One change to the store, as the rooms emit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets `key` to `value`, whether or not it existed.
    Put {
        /// Where.
        table: Table,
        /// Any bytes, the empty key included.
        key: Vec<u8>,
        /// Any bytes, the empty value included.
        value: Vec<u8>,
    },
    /// Removes `key`; nothing happens if it is absent.
    Delete {
        /// Where.
        table: Table,
        /// The key to remove.
        key: Vec<u8>,
    },
}

/// Reading, from a [`Transaction`] (which sees its own staged writes) or a [`Snapshot`].
///
/// Keys are ordered as unsigned bytes. An empty `to` means "no upper bound": as a bound it would
/// select nothing, and [`prefix_end`] needs a way to say "to the end".
pub trait Read {
    /// The value of `key`, or `None`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the stored bytes do not match their checksum.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` pairs with `from <= key < to`, in ascending key order.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if one of the returned values does not match its checksum.
    fn range(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError>;

    /// The pair with the greatest key in `from <= key < to`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if its value does not match its checksum.
    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StoreError>;
}

/// The smallest key greater than every key that starts with `prefix`, for use as the `to` of
/// [`Read::range`] and [`Read::last`].
///
/// No such key exists for the empty prefix and for a prefix of 0xff bytes only: the result is then
/// empty, which [`Read`] takes as "no upper bound".
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(byte) = end.pop() {
        if byte < 0xff {
            end.push(byte + 1);
            break;
        }
    }
    end
}
