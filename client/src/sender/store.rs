//! What a sender must not forget: bundles exactly as they were signed, counters per origin, numbers per recipient.
//!
//! A bundle is durable before it is sent, and stays until it is ordered or finally refused. So after a crash the same
//! bytes are sent again, and the origin answers them as it did the first time. What became of it is kept for a while
//! longer ([`super::sent`]), to answer recipients that miss something.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::entry::AcceptedProof;
use postroad_protocol::{MailboxId, NodeId};
use postroad_store::{Read, StoreError, Table, Transaction, prefix_end};

use super::sent::{self, SentBundle};
use crate::control::{Fate, Forgotten, Numbering, Previous, Told};
use crate::error::ClientError;
use crate::locked_store::{LockedStore, StoreKind};

const PENDING: Table = Table("pending");
const ACCEPTED: Table = Table("accepted");
/// Which pending bundles were so when this directory was exported, by the same key.
const COPIED: Table = Table("copied");
const COUNTERS: Table = Table("counters");
const RECIPIENTS: Table = Table("recipients");
/// Single values.
pub(super) const META: Table = Table("meta");
/// What a mailbox's directory keeps of it.
pub(crate) const STORE: StoreKind =
    StoreKind { name: "send", tables: &[PENDING, ACCEPTED, COPIED, COUNTERS, RECIPIENTS, META, sent::SENT] };
/// How many messages were forgotten when this store was set back, in all.
const FORGOTTEN: &[u8] = b"forgotten";
/// A set-back is never taken for larger than this; an origin that says so is not believed.
const MAX_FORGOTTEN: u64 = 1 << 32;

/// The numbers of one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Sequence {
    #[n(0)]
    next: u64,
    /// How much of [`FORGOTTEN`] it has jumped over.
    #[n(1)]
    jumped: u64,
    /// The last message whose place is known. It always names its origin.
    #[n(2)]
    last: Option<Previous>,
    #[n(3)]
    forgotten: Option<Forgotten>,
}

/// A bundle that is not ordered yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct PendingBundle {
    /// Where its origin listens.
    #[n(0)]
    pub(super) via: String,
    /// The newest epoch when it was signed.
    #[n(1)]
    pub(super) epoch: u64,
    /// For each message and recipient the number inside, in order; zero where the application sealed.
    #[n(2)]
    pub(super) numbers: Vec<Vec<u64>>,
    /// The bundle as it was signed.
    #[n(3)]
    pub(super) bundle: Bundle,
}

impl PendingBundle {
    pub(super) fn counter(&self) -> u64 {
        self.bundle.signed.body.counter
    }

    fn key(&self) -> Vec<u8> {
        key(&self.bundle.signed.body.via, self.counter())
    }
}

/// Bundles of one origin ascend by counter.
fn key(via: &NodeId, counter: u64) -> Vec<u8> {
    [via.0.as_slice(), &counter.to_be_bytes()].concat()
}

/// The store under `send/`, locked. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct SendStore(Arc<LockedStore>);

/// A change that becomes durable as a whole.
pub(super) struct Change {
    pub(super) transaction: Transaction,
}

impl SendStore {
    pub(super) fn open(mailbox_dir: &Path) -> Result<SendStore, ClientError> {
        Ok(SendStore(Arc::new(LockedStore::open(mailbox_dir, STORE)?)))
    }

    /// The addresses of the origins for which bundles are pending.
    pub(super) fn vias(&self) -> Result<BTreeMap<NodeId, String>, ClientError> {
        let snapshot = self.0.store.snapshot()?;
        let mut vias = BTreeMap::new();
        let mut from = Vec::new();
        while let Some((key, value)) = snapshot.range(PENDING, &from, &[], 1)?.pop() {
            let pending: PendingBundle = read(PENDING, &key, &value)?;
            let via = pending.bundle.signed.body.via;
            vias.insert(via, pending.via);
            from = prefix_end(&via.0);
            if from.is_empty() {
                break;
            }
        }
        Ok(vias)
    }

    /// The bundles that are pending at one origin, with their acceptance, in ascending order of counter.
    pub(super) fn pending(&self, via: &NodeId) -> Result<Vec<(PendingBundle, Option<AcceptedProof>)>, ClientError> {
        let snapshot = self.0.store.snapshot()?;
        (snapshot.range(PENDING, &via.0, &prefix_end(&via.0), usize::MAX)?.into_iter())
            .map(|(key, value)| {
                let accepted = snapshot.get(ACCEPTED, &key)?;
                let accepted = accepted.map(|bytes| read(ACCEPTED, &key, &bytes)).transpose()?;
                Ok((read(PENDING, &key, &value)?, accepted))
            })
            .collect()
    }

    /// Whether a bundle was pending when this directory was exported: another copy of the mailbox may have sent it since.
    pub(super) fn is_copied(&self, pending: &PendingBundle) -> Result<bool, ClientError> {
        Ok(self.0.store.snapshot()?.get(COPIED, &pending.key())?.is_some())
    }

    /// The first counter at an origin that this store has not seen used.
    pub(super) fn next_counter(&self, via: &NodeId) -> Result<u64, ClientError> {
        self.0.store.snapshot()?.get(COUNTERS, &via.0)?.map_or(Ok(1), |bytes| read(COUNTERS, &via.0, &bytes))
    }

    /// Whether anything was ever sealed to this recipient.
    pub(super) fn has_written_to(&self, recipient: &MailboxId) -> Result<bool, ClientError> {
        Ok(self.0.store.snapshot()?.get(RECIPIENTS, &recipient.0)?.is_some())
    }

    /// What this store knows of the message to `recipient` with this number.
    pub(super) fn told(&self, recipient: &MailboxId, number: u64) -> Result<Told, ClientError> {
        let snapshot = self.0.store.snapshot()?;
        if let Some(told) = sent::find(&snapshot, recipient, number)? {
            return Ok(told);
        }
        let mut next = Vec::new();
        while let Some((key, value)) = snapshot.range(PENDING, &next, &[], 1)?.pop() {
            let pending: PendingBundle = read(PENDING, &key, &value)?;
            let waits = pending.bundle.messages.iter().zip(&pending.numbers).any(|(message, numbers)| {
                message.recipients.iter().zip(numbers).any(|(to, taken)| to.mailbox == *recipient && *taken == number)
            });
            if waits {
                return Ok(Told { number, fate: Fate::Waiting, seq: None, statements: Vec::new() });
            }
            next = [key, vec![0]].concat();
        }
        Ok(Told { number, fate: Fate::Unknown, seq: None, statements: Vec::new() })
    }

    /// Begins a change.
    pub(super) fn change(&self) -> Result<Change, ClientError> {
        Ok(Change { transaction: self.0.store.begin()? })
    }
}

impl Change {
    /// Takes the next `count` counters for an origin, all above `last`.
    pub(super) fn counters(&mut self, via: &NodeId, count: u64, last: u64) -> Result<u64, ClientError> {
        let stored = self.transaction.get(COUNTERS, &via.0)?;
        let next: u64 = stored.map_or(Ok(1), |bytes| read(COUNTERS, &via.0, &bytes))?;
        let first = next.max(last.saturating_add(1));
        self.transaction.put(COUNTERS, &via.0, &encode(&first.saturating_add(count)));
        Ok(first)
    }

    /// Takes the next number for a recipient, for a message through `via`; they begin at 1.
    pub(super) fn number(&mut self, recipient: &MailboxId, via: &NodeId) -> Result<Numbering, ClientError> {
        let mut sequence = self.sequence(recipient)?;
        let forgotten = self.forgotten()?;
        let jump = forgotten.saturating_sub(sequence.jumped);
        if jump > 0 {
            let to = sequence.next.saturating_add(jump - 1);
            sequence.forgotten = Some(Forgotten { from: sequence.next, to });
            sequence.next = to.saturating_add(1);
            sequence.jumped = forgotten;
        }
        let number = sequence.next;
        sequence.next = number.saturating_add(1);
        self.transaction.put(RECIPIENTS, &recipient.0, &encode(&sequence));
        let previous = sequence.last.map(|last| Previous { via: last.via.filter(|at| at != via), ..last });
        Ok(Numbering { number, previous, forgotten: sequence.forgotten })
    }

    /// Gives a number back that never left, if it is the last one that was taken. Returns whether it was.
    pub(super) fn give_back(&mut self, recipient: &MailboxId, number: u64) -> Result<bool, ClientError> {
        let mut sequence = self.sequence(recipient)?;
        let is_last = number > 0 && sequence.next == number.saturating_add(1);
        if is_last {
            sequence.next = number;
            self.transaction.put(RECIPIENTS, &recipient.0, &encode(&sequence));
        }
        Ok(is_last)
    }

    /// The place of an ordered message is known.
    pub(super) fn place(&mut self, recipient: &MailboxId, place: Previous) -> Result<(), ClientError> {
        let mut sequence = self.sequence(recipient)?;
        if sequence.last.is_none_or(|last| last.number < place.number) {
            sequence.last = Some(place);
            self.transaction.put(RECIPIENTS, &recipient.0, &encode(&sequence));
        }
        Ok(())
    }

    /// This store was set back, and has forgotten that many messages: all numbers jump over as many.
    pub(super) fn set_back(&mut self, messages: u64) -> Result<(), ClientError> {
        let before = self.forgotten()?;
        let forgotten = before.saturating_add(messages.min(MAX_FORGOTTEN));
        self.transaction.put(META, FORGOTTEN, &encode(&forgotten));
        Ok(())
    }

    fn forgotten(&self) -> Result<u64, ClientError> {
        self.transaction.get(META, FORGOTTEN)?.map_or(Ok(0), |bytes| read(META, FORGOTTEN, &bytes))
    }

    fn sequence(&self, recipient: &MailboxId) -> Result<Sequence, ClientError> {
        let new = Sequence { next: 1, jumped: 0, last: None, forgotten: None };
        let stored = self.transaction.get(RECIPIENTS, &recipient.0)?;
        stored.map_or(Ok(new), |bytes| read(RECIPIENTS, &recipient.0, &bytes))
    }

    /// Keeps what became of a bundle.
    pub(super) fn keep_sent(&mut self, bundle: &SentBundle) -> Result<(), ClientError> {
        sent::put(&mut self.transaction, bundle)
    }

    pub(super) fn put(&mut self, pending: &PendingBundle) {
        self.transaction.put(PENDING, &pending.key(), &encode(pending));
    }

    pub(super) fn accept(&mut self, pending: &PendingBundle, proof: &AcceptedProof) {
        self.transaction.put(ACCEPTED, &pending.key(), &encode(proof));
    }

    pub(super) fn remove(&mut self, pending: &PendingBundle) {
        self.transaction.delete(PENDING, &pending.key());
        self.transaction.delete(ACCEPTED, &pending.key());
        self.transaction.delete(COPIED, &pending.key());
    }

    pub(super) fn commit(self) -> Result<(), ClientError> {
        Ok(self.transaction.commit()?)
    }
}

/// Marks what an import puts into a sender's store, where it is a bundle that was pending.
pub(crate) fn mark_copied(transaction: &mut Transaction, table: Table, key: &[u8]) {
    if table == PENDING {
        transaction.put(COPIED, key, &[]);
    }
}

pub(super) fn read<T: for<'b> Decode<'b, ()> + Encode<()>>(
    table: Table,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, ClientError> {
    decode(bytes).map_err(|_| StoreError::Corrupt { table, key: key.to_vec() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, key as secret};
    use crate::seal::foreign;
    use postroad_protocol::bundle::BundleBody;
    use postroad_protocol::signed::Signed;

    fn pending(counter: u64) -> PendingBundle {
        let messages = vec![foreign(b"hello", &[(secret(7).public(), vec![])])];
        let body = BundleBody::new(secret(5).public(), secret(1).public(), counter, 100, &messages);
        let signed = Signed::sign(body, &secret(5), &fixture::federation()).into_inner();
        let bundle = Bundle { signed, messages };
        PendingBundle { via: "/ip4/127.0.0.1/tcp/1".into(), epoch: 3, numbers: vec![vec![0]], bundle }
    }

    #[test]
    fn a_bundle_is_the_same_bytes_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = [pending(1), pending(2), pending(300)];
        let bytes: Vec<Vec<u8>> = bundles.iter().map(|pending| encode(&pending.bundle)).collect();
        let store = SendStore::open(dir.path()).unwrap();
        let mut change = store.change().unwrap();
        bundles.iter().rev().for_each(|pending| change.put(pending));
        change.commit().unwrap();
        drop(store);
        let store = SendStore::open(dir.path()).unwrap();
        let via = secret(1).public();
        let found = store.pending(&via).unwrap();
        assert_eq!(found.iter().map(|(pending, _)| encode(&pending.bundle)).collect::<Vec<_>>(), bytes);
        assert_eq!(store.vias().unwrap(), BTreeMap::from([(via, "/ip4/127.0.0.1/tcp/1".to_owned())]));
        let mut change = store.change().unwrap();
        bundles.iter().for_each(|pending| change.remove(pending));
        change.commit().unwrap();
        assert_eq!(store.vias().unwrap(), BTreeMap::new());
    }

    #[test]
    fn counters_and_numbers_rise_and_only_the_last_number_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = SendStore::open(dir.path()).unwrap();
        let (via, to) = (secret(1).public(), secret(7).public());
        let mut change = store.change().unwrap();
        assert_eq!(change.counters(&via, 3, 0).unwrap(), 1);
        assert_eq!(change.counters(&via, 1, 0).unwrap(), 4);
        assert_eq!(change.counters(&via, 1, 70).unwrap(), 71);
        assert_eq!(change.counters(&to, 1, 0).unwrap(), 1);
        let number = |change: &mut Change| change.number(&to, &via).unwrap().number;
        assert_eq!((number(&mut change), number(&mut change)), (1, 2));
        assert!(!change.give_back(&to, 1).unwrap());
        assert_eq!(number(&mut change), 3);
        assert!(change.give_back(&to, 3).unwrap());
        change.commit().unwrap();
        assert_eq!(number(&mut store.change().unwrap()), 3);
    }

    #[test]
    fn a_second_sender_on_one_mailbox_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = SendStore::open(dir.path()).unwrap();
        let second = SendStore::open(dir.path()).unwrap_err();
        assert!(matches!(second, ClientError::Store(StoreError::InUse { .. })), "{second}");
    }
}
