//! A node's rows, out of its store and into one that lives in memory; and bytes that flip in the store's file.

use std::path::Path;

use postroad::config::{NodeDir, StoreKind};
use postroad::fsck::{self, Problem, Summary};
use postroad_engine::tables::{ALL, get};
use postroad_protocol::{Federation, NodeId};
use postroad_store::{Pair, Read, Store, Table, Write};

/// All rows of one node.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) me: NodeId,
    pub(crate) federation: Federation,
    tables: Vec<(Table, Vec<Pair>)>,
}

impl Rows {
    /// Of a node that is stopped.
    pub(crate) fn of(dir: &Path) -> Rows {
        let dir = NodeDir::new(dir);
        Rows {
            me: dir.read_key().expect("its key").public(),
            federation: dir.read_genesis().expect("its federation"),
            tables: all(&Store::inspect(&dir.store(StoreKind::Redb), &ALL).expect("nobody runs on it")),
        }
    }

    /// These rows, changed.
    pub(crate) fn with(&self, writes: &[Write]) -> Rows {
        Rows { tables: all(&self.store(writes)), ..self.clone() }
    }

    pub(crate) fn table(&self, table: Table) -> &[Pair] {
        &self.tables.iter().find(|(name, _)| *name == table).expect("a table").1
    }

    /// A store of these rows, changed by `writes`.
    pub(crate) fn store(&self, writes: &[Write]) -> Store {
        let store = Store::memory(&ALL);
        let mut transaction = store.begin().expect("the one transaction");
        for (table, rows) in &self.tables {
            rows.iter().for_each(|(key, value)| transaction.put(*table, key, value));
        }
        writes.iter().for_each(|write| transaction.apply(write));
        transaction.commit().expect("memory takes everything");
        store
    }

    /// What `fsck` says of these rows, changed by `writes`.
    pub(crate) fn check(&self, writes: &[Write]) -> (Summary, Vec<Problem>) {
        let mut problems = Vec::new();
        let store = self.store(writes).snapshot().expect("a snapshot");
        let summary = fsck::check(&store, self.me, &self.federation, &mut |problem| problems.push(problem));
        (summary.expect("memory can be read"), problems)
    }

    pub(crate) fn value_bytes(&self, table: Table, key: &[u8]) -> Vec<u8> {
        self.table(table).iter().find(|(known, _)| known == key).expect("a row").1.clone()
    }

    /// The value of a row.
    pub(crate) fn value<T>(&self, table: Table, key: &[u8]) -> T
    where
        T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
    {
        get(&self.store(&[]).snapshot().expect("a snapshot"), table, key).expect("a sound row").expect("a row")
    }
}

fn all(store: &Store) -> Vec<(Table, Vec<Pair>)> {
    let snapshot = store.snapshot().expect("a snapshot");
    let rows = |table| (table, snapshot.range(table, &[], &[], usize::MAX).expect("sound rows"));
    ALL.into_iter().map(rows).collect()
}

/// Flips one bit in the middle of a stored value, wherever the store's file has it.
pub(crate) fn flip(file: &Path, table: Table, key: &[u8], value: &[u8]) {
    let mut sum = crc32fast::Hasher::new();
    for part in [table.0.as_bytes(), key] {
        sum.update(&(part.len() as u32).to_le_bytes());
        sum.update(part);
    }
    sum.update(value);
    // As the store seals it: with table and key in the sum these bytes are this record and no other.
    let sealed = [value, &sum.finalize().to_le_bytes()].concat();
    let mut bytes = std::fs::read(file).expect("the store's file");
    let mut found = 0;
    let mut at = 0;
    while let Some(next) = bytes[at..].windows(sealed.len()).position(|window| window == sealed) {
        bytes[at + next + value.len() / 2] ^= 0x10;
        found += 1;
        at += next + sealed.len();
    }
    assert!(found > 0, "{table} {} is in the file", hex::encode(key));
    std::fs::write(file, bytes).expect("it is written");
}
