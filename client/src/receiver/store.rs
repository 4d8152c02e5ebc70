//! What a receiver remembers: which entries the application has, and the log that they are.
//!
//! The log's right edge is kept at the first entry that the application does not have yet; for every entry that it
//! has, the leaf. So a receiver goes on where the application stood, and an entry that is read again is compared with
//! what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::{Digest, MailboxId, Seq};
use postroad_store::{DirLock, Read, Store, StoreError, Table};

use crate::delivery::Numbers;
use crate::error::ClientError;
use crate::verify_log::Mark;

const LOG: Table = Table("log");
const NUMBERS: Table = Table("numbers");
const META: Table = Table("meta");
const POSITION: &[u8] = b"position";
const PAGE: usize = 4_096;

/// Where the application stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Position {
    /// The log up to the first entry that the application does not have.
    #[n(0)]
    pub(super) log: Frontier,
    /// The last leaf of it.
    #[n(1)]
    pub(super) before: Option<LogLeaf>,
    /// The newest attestation that held.
    #[n(2)]
    pub(super) mark: Option<Mark>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) position: Position,
    /// Leaves at or above the position that the application has.
    pub(super) above: BTreeMap<u64, LogLeaf>,
    /// The first entry to read.
    pub(super) start: u64,
    /// Ids that the application has, and will not get again.
    pub(super) seen: BTreeSet<Digest>,
    pub(super) numbers: BTreeMap<MailboxId, Numbers>,
}

/// The store under `recv/`, locked.
#[derive(Debug)]
pub(super) struct RecvStore {
    store: Store,
    _lock: DirLock,
}

impl RecvStore {
    pub(super) fn open(mailbox_dir: &Path) -> Result<RecvStore, ClientError> {
        let dir = mailbox_dir.join("recv");
        let lock = DirLock::take(&dir)?;
        let store = Store::open(&dir.join("store.redb"), &[LOG, NUMBERS, META])?;
        Ok(RecvStore { store, _lock: lock })
    }

    /// Everything remembered; reading again starts at the lowest entry at or above `from`.
    pub(super) fn load(&self, from: Option<Seq>) -> Result<Remembered, ClientError> {
        let snapshot = self.store.snapshot()?;
        let mut found = Remembered::default();
        if let Some(bytes) = snapshot.get(META, POSITION)? {
            found.position = read(META, POSITION, &bytes)?;
        }
        let low = found.position.log.size();
        found.start = low;
        let mut next = Vec::new();
        loop {
            let page = snapshot.range(LOG, &next, &[], PAGE)?;
            let Some((last, _)) = page.last() else { break };
            next = [last, [0].as_slice()].concat();
            for (key, value) in &page {
                let index = u64::from_be_bytes(key.as_slice().try_into().map_err(|_| corrupt(LOG, key))?);
                let leaf: LogLeaf = read(LOG, key, value)?;
                if from.is_some_and(|from| leaf.seq >= from) {
                    found.start = found.start.min(index);
                } else {
                    found.seen.insert(leaf.message);
                }
                if index >= low {
                    found.above.insert(index, leaf);
                }
            }
        }
        for (key, value) in snapshot.range(NUMBERS, &[], &[], usize::MAX)? {
            let sender = key.as_slice().try_into().map_err(|_| corrupt(NUMBERS, &key))?;
            found.numbers.insert(postroad_protocol::PublicKey(sender), read(NUMBERS, &key, &value)?);
        }
        Ok(found)
    }

    /// The leaf of an entry that the application has.
    pub(super) fn leaf(&self, index: u64) -> Result<Option<LogLeaf>, ClientError> {
        let key = index.to_be_bytes();
        self.store.snapshot()?.get(LOG, &key)?.map(|bytes| read(LOG, &key, &bytes)).transpose()
    }

    /// The application has these entries, and everything before `position`.
    pub(super) fn commit<'a>(
        &self,
        leaves: &[(u64, LogLeaf)],
        position: &Position,
        numbers: impl Iterator<Item = (MailboxId, &'a Numbers)>,
    ) -> Result<(), ClientError> {
        let mut transaction = self.store.begin()?;
        for (index, leaf) in leaves {
            transaction.put(LOG, &index.to_be_bytes(), &encode(leaf));
        }
        for (sender, numbers) in numbers {
            transaction.put(NUMBERS, &sender.0, &encode(numbers));
        }
        transaction.put(META, POSITION, &encode(position));
        Ok(transaction.commit()?)
    }
}

fn corrupt(table: Table, key: &[u8]) -> ClientError {
    StoreError::Corrupt { table, key: key.to_vec() }.into()
}

fn read<T: for<'b> Decode<'b, ()> + Encode<()>>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, ClientError> {
    decode(bytes).map_err(|_| corrupt(table, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_receiver_on_one_mailbox_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let first = RecvStore::open(dir.path()).unwrap();
        let second = RecvStore::open(dir.path()).unwrap_err();
        assert!(matches!(second, ClientError::Store(StoreError::InUse { .. })), "{second}");
        drop(first);
        RecvStore::open(dir.path()).unwrap();
    }

    #[test]
    fn what_was_committed_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = |epoch: u64| LogLeaf {
            settled: epoch,
            seq: Seq { epoch, position: 0, index: 0 },
            message: Digest([epoch as u8; 32]),
            own: Digest::ZERO,
        };
        let store = RecvStore::open(dir.path()).unwrap();
        let mut log = Frontier::new();
        log.append(leaf(1).hash());
        let position = Position { log, before: Some(leaf(1)), mark: None };
        store.commit(&[(0, leaf(1)), (2, leaf(3))], &position, std::iter::empty()).unwrap();
        drop(store);
        let store = RecvStore::open(dir.path()).unwrap();
        let found = store.load(None).unwrap();
        assert_eq!((found.position, found.start), (position, 1));
        assert_eq!(found.above.into_keys().collect::<Vec<_>>(), [2]);
        assert_eq!(found.seen, BTreeSet::from([leaf(1).message, leaf(3).message]));
        let again = store.load(Some(Seq { epoch: 1, position: 0, index: 0 })).unwrap();
        assert_eq!((again.start, again.seen.len()), (0, 0));
        assert_eq!(store.leaf(2).unwrap(), Some(leaf(3)));
        assert_eq!(store.leaf(1).unwrap(), None);
    }
}
