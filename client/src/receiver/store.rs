//! What a receiver remembers: which entries the application has, and the log that they are.
//!
//! The log's right edge is kept at the first entry that the application does not have yet; for entries that it has,
//! what [`super::keep`] says. So a receiver goes on where the application stood, and an entry that is read again is
//! compared with what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{LogLeaf, MailboxAttestation};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::{Digest, MailboxId, Seq};
use postroad_store::{Read, Snapshot, StoreError, Table, Transaction};

use super::attested::{Attestations, MAX_RECENT};
use super::keep::{Keep, Kept, Note, Shelf};
use super::letters::Letters;
use super::moved::{Given, Residence};
use super::tail::{Floor, Tail};
use crate::control::Told;
use crate::delivery::MAX_SEEN;
use crate::error::ClientError;
use crate::locked_store::{LockedStore, StoreKind};
use crate::numbers::Numbers;
use crate::verify_log::Mark;

const ENTRIES: Table = Table("entries");
const SENDERS: Table = Table("senders");
const SEEN: Table = Table("seen");
const ATTESTED: Table = Table("attested");
const TOLD: Table = Table("told");
const TAIL: Table = Table("tail");
const GIVEN: Table = Table("given");
const META: Table = Table("meta");
const POSITION: &[u8] = b"position";
const FLOOR: &[u8] = b"floor";
const RESIDENCE: &[u8] = b"residence";
const LETTERS: &[u8] = b"letters";
const LAST_FINAL: &[u8] = b"final";
const PAGE: usize = 4_096;
/// What a mailbox's directory keeps of it.
pub(crate) const STORE: StoreKind =
    StoreKind { name: "recv", tables: &[ENTRIES, SENDERS, SEEN, ATTESTED, TOLD, TAIL, GIVEN, META] };
/// How many answers about missing messages are kept.
const MAX_TOLD: usize = 64;

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
    /// What is kept of the entries.
    #[n(3)]
    pub(super) keep: Keep,
    /// The log up to the first entry from which on all are kept, where they are.
    #[n(4)]
    pub(super) floor: Option<Frontier>,
    /// The highest place of an entry that is not kept.
    #[n(5)]
    pub(super) forgotten_to: Option<Seq>,
    /// Whether entries were never read here.
    #[n(6)]
    pub(super) blind: bool,
    /// How many messages were handed out.
    #[n(7)]
    pub(super) handed_out: u64,
}

/// What a start finds.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) position: Position,
    pub(super) shelf: Shelf,
    /// Leaves at or above the position that the application has.
    pub(super) above: BTreeMap<u64, LogLeaf>,
    /// The first entry to read.
    pub(super) start: u64,
    /// Where entries are read again that are not kept: the log before the first one.
    pub(super) again: Option<Frontier>,
    /// Ids that the application has, and will not get again; oldest first.
    pub(super) seen: Vec<Digest>,
    pub(super) numbers: BTreeMap<MailboxId, Numbers>,
    pub(super) attestations: Attestations,
    pub(super) letters: Letters,
    pub(super) tail: Tail,
    pub(super) given: Given,
    pub(super) residence: Option<Residence>,
}

/// What becomes durable at once.
pub(super) struct Change<'a> {
    pub(super) position: &'a Position,
    /// Entries to be kept.
    pub(super) kept: &'a [(u64, Kept)],
    /// Entries that a move has taken back.
    pub(super) rolled_back: &'a [u64],
    /// Entries to be forgotten.
    pub(super) dropped: &'a [u64],
    /// Messages that were handed out, the last of `position.handed_out`.
    pub(super) seen: &'a [(Digest, Seq)],
    pub(super) numbers: &'a [(MailboxId, &'a Numbers)],
    pub(super) attestations: &'a Attestations,
    pub(super) letters: &'a Letters,
    pub(super) told: &'a [(MailboxId, Told)],
    pub(super) tail: &'a Tail,
    /// Rows of the tail that a move has taken back.
    pub(super) tail_rewritten: &'a [u64],
    pub(super) given: &'a Given,
    pub(super) residence: Option<&'a Residence>,
}

/// The store under `recv/`, locked.
#[derive(Debug)]
pub(super) struct RecvStore(LockedStore);

impl RecvStore {
    pub(super) fn open(mailbox_dir: &Path) -> Result<RecvStore, ClientError> {
        Ok(RecvStore(LockedStore::open(mailbox_dir, STORE)?))
    }

    /// Everything remembered; from now on, `keep` is kept of the entries. Reading again starts at the lowest entry at or
    /// above `from`, at the very first where that is not kept.
    pub(super) fn load(&self, from: Option<Seq>, keep: Option<Keep>) -> Result<Remembered, ClientError> {
        let snapshot = self.0.store.snapshot()?;
        let stored = snapshot.get(META, POSITION)?;
        let mut position: Position = stored.map_or(Ok(Position::default()), |bytes| read(META, POSITION, &bytes))?;
        position.keep = keep.unwrap_or(position.keep);
        let low = position.log.size();
        let mut shelf = Shelf::new(position.keep, position.floor.clone(), position.forgotten_to);
        shelf.set_floor(&position.log);
        let (mut above, mut start, mut again) = (BTreeMap::new(), low, None);
        each(&snapshot, ENTRIES, |key, value| {
            let index = u64::from_be_bytes(key.try_into().map_err(|_| corrupt(ENTRIES, key))?);
            let kept: Kept = read(ENTRIES, key, value)?;
            if from.is_some_and(|from| kept.leaf.seq >= from) {
                start = start.min(index);
            }
            if index >= low {
                above.insert(index, kept.leaf);
            }
            shelf.add(index, Note::of(&kept));
            Ok(())
        })?;
        if low > 0 && from.is_some_and(|from| position.forgotten_to.is_some_and(|forgotten| from <= forgotten)) {
            start = 0;
            again = Some(Frontier::new());
        }
        let mut seen = Vec::new();
        each(&snapshot, SEEN, |key, value| {
            let ids: Vec<(Digest, Seq)> = read(SEEN, key, value)?;
            seen.extend(ids.into_iter().filter(|(_, seq)| from.is_none_or(|from| *seq < from)).map(|(id, _)| id));
            Ok(())
        })?;
        let mut numbers = BTreeMap::new();
        each(&snapshot, SENDERS, |key, value| {
            let sender = key.try_into().map_err(|_| corrupt(SENDERS, key))?;
            numbers.insert(postroad_protocol::PublicKey(sender), read(SENDERS, key, value)?);
            Ok(())
        })?;
        let (mut recent, mut last_final) = (Vec::new(), None);
        each(&snapshot, ATTESTED, |key, value| {
            let attestation: MailboxAttestation = read(ATTESTED, key, value)?;
            if key == LAST_FINAL {
                last_final = Some(attestation)
            } else {
                recent.push(attestation)
            }
            Ok(())
        })?;
        let letters = snapshot.get(META, LETTERS)?;
        let mut given = BTreeSet::new();
        each(&snapshot, GIVEN, |key, _| {
            given.insert(given_seq(key).ok_or_else(|| corrupt(GIVEN, key))?);
            Ok(())
        })?;
        let residence = snapshot.get(META, RESIDENCE)?;
        Ok(Remembered {
            tail: load_tail(&snapshot, &position)?,
            given: Given::resume(given),
            residence: residence.map(|bytes| read(META, RESIDENCE, &bytes)).transpose()?,
            position,
            shelf,
            above,
            start,
            again,
            seen,
            numbers,
            attestations: Attestations::resume(recent, last_final),
            letters: letters.map_or(Ok(Letters::default()), |bytes| read(META, LETTERS, &bytes))?,
        })
    }

    /// A kept entry.
    pub(super) fn kept(&self, index: u64) -> Result<Option<Kept>, ClientError> {
        let key = index.to_be_bytes();
        self.0.store.snapshot()?.get(ENTRIES, &key)?.map(|bytes| read(ENTRIES, &key, &bytes)).transpose()
    }

    /// What a sender has told of its message with this number.
    pub(super) fn told(&self, sender: &MailboxId, number: u64) -> Result<Option<Told>, ClientError> {
        let key = told_key(sender, number);
        self.0.store.snapshot()?.get(TOLD, &key)?.map(|bytes| read(TOLD, &key, &bytes)).transpose()
    }

    pub(super) fn commit(&self, change: &Change<'_>) -> Result<(), ClientError> {
        let mut transaction = self.0.store.begin()?;
        // What a move has taken back may stand where something is kept anew.
        for index in change.rolled_back {
            transaction.delete(ENTRIES, &index.to_be_bytes());
        }
        for (index, kept) in change.kept {
            transaction.put(ENTRIES, &index.to_be_bytes(), &encode(kept));
        }
        for index in change.dropped {
            transaction.delete(ENTRIES, &index.to_be_bytes());
        }
        for (sender, numbers) in change.numbers {
            transaction.put(SENDERS, &sender.0, &encode(*numbers));
        }
        put_seen(&mut transaction, change)?;
        put_attested(&mut transaction, change.attestations);
        for (sender, told) in change.told {
            let key = told_key(sender, told.number);
            if transaction.range(TOLD, &[], &[], MAX_TOLD)?.len() < MAX_TOLD {
                transaction.put(TOLD, &key, &encode(told));
            }
        }
        put_tail(&mut transaction, change);
        for seq in &change.given.changed {
            match change.given.contains(seq) {
                true => transaction.put(GIVEN, &given_key(seq), &[]),
                false => transaction.delete(GIVEN, &given_key(seq)),
            }
        }
        if let Some(residence) = change.residence {
            transaction.put(META, RESIDENCE, &encode(residence));
        }
        transaction.put(META, LETTERS, &encode(change.letters));
        transaction.put(META, POSITION, &encode(change.position));
        Ok(transaction.commit()?)
    }

    /// Makes the attestations durable and nothing else: one of them is a lie.
    pub(super) fn keep_attestations(&self, attestations: &Attestations) -> Result<(), ClientError> {
        let mut transaction = self.0.store.begin()?;
        put_attested(&mut transaction, attestations);
        Ok(transaction.commit()?)
    }
}

/// The newest ids, a row for each commit, under the number of messages handed out before it.
fn put_seen(transaction: &mut Transaction, change: &Change<'_>) -> Result<(), ClientError> {
    if change.seen.is_empty() {
        return Ok(());
    }
    let end = change.position.handed_out;
    let newest = change.seen.len().min(MAX_SEEN);
    let row = change.seen[change.seen.len() - newest..].to_vec();
    transaction.put(SEEN, &(end - newest as u64).to_be_bytes(), &encode(&row));
    // A row ends where the next one begins: it goes when that is far enough back.
    let bound = end.saturating_sub(MAX_SEEN as u64) + 1;
    let rows = transaction.range(SEEN, &[], &bound.to_be_bytes(), PAGE)?;
    for pair in rows.windows(2) {
        transaction.delete(SEEN, &pair[0].0);
    }
    Ok(())
}

fn put_attested(transaction: &mut Transaction, attestations: &Attestations) {
    if !attestations.is_changed {
        return;
    }
    let rows: Vec<Vec<u8>> = attestations.recent().map(encode).collect();
    for at in 0..MAX_RECENT {
        let key = [at as u8];
        match rows.get(at) {
            Some(row) => transaction.put(ATTESTED, &key, row),
            None => transaction.delete(ATTESTED, &key),
        }
    }
    match attestations.last_final() {
        Some(last_final) => transaction.put(ATTESTED, LAST_FINAL, &encode(last_final)),
        None => transaction.delete(ATTESTED, LAST_FINAL),
    }
}

/// The end of the log that a move may make come again; of an older store, which has none, it begins where the
/// application stands.
fn load_tail(snapshot: &Snapshot, position: &Position) -> Result<Tail, ClientError> {
    let mut leaves = Vec::new();
    each(snapshot, TAIL, |key, value| {
        leaves.push(read(TAIL, key, value)?);
        Ok(())
    })?;
    let floor = snapshot.get(META, FLOOR)?;
    let floor: Floor = floor.map_or(Ok(Floor::default()), |bytes| read(META, FLOOR, &bytes))?;
    let mut tail = Tail::resume(floor, leaves);
    if tail.end() != position.log.size() {
        tail.reset(position.log.clone(), position.before);
    }
    Ok(tail)
}

fn put_tail(transaction: &mut Transaction, change: &Change<'_>) {
    let (put, gone) = change.tail.changes();
    for index in change.tail_rewritten.iter().chain(&gone) {
        transaction.delete(TAIL, &index.to_be_bytes());
    }
    for (index, leaf) in put {
        transaction.put(TAIL, &index.to_be_bytes(), &encode(&leaf));
    }
    transaction.put(META, FLOOR, &encode(change.tail.floor()));
}

/// Numbers ascend in the order of keys.
fn given_key(seq: &Seq) -> Vec<u8> {
    [&seq.epoch.to_be_bytes()[..], &seq.position.to_be_bytes(), &seq.index.to_be_bytes()].concat()
}

fn given_seq(key: &[u8]) -> Option<Seq> {
    let (epoch, rest) = key.split_first_chunk()?;
    let (position, rest) = rest.split_first_chunk()?;
    let index = rest.try_into().ok()?;
    Some(Seq {
        epoch: u64::from_be_bytes(*epoch),
        position: u32::from_be_bytes(*position),
        index: u64::from_be_bytes(index),
    })
}

fn told_key(sender: &MailboxId, number: u64) -> Vec<u8> {
    [sender.0.as_slice(), &number.to_be_bytes()].concat()
}

/// Does something with every row of a table.
fn each(
    snapshot: &Snapshot,
    table: Table,
    mut row: impl FnMut(&[u8], &[u8]) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut next = Vec::new();
    loop {
        let page = snapshot.range(table, &next, &[], PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in &page {
            row(key, value)?;
        }
    }
}

fn corrupt(table: Table, key: &[u8]) -> ClientError {
    StoreError::Corrupt { table, key: key.to_vec() }.into()
}

fn read<T: for<'b> Decode<'b, ()> + Encode<()>>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, ClientError> {
    decode(bytes).map_err(|_| corrupt(table, key))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
