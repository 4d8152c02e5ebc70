//! What became of the bundles that were sent, without their common payloads: what a recipient that misses a message is
//! answered from.
//!
//! The newest are kept, at most [`MAX_BUNDLES`] of them and [`MAX_BYTES`] in all. That a message was delivered is no
//! reason to forget it: the proof that it was is what convicts a home which does not show it.

use minicbor::{Decode, Encode};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::codec::encode;
use postroad_protocol::entry::OrderedProof;
use postroad_protocol::merkle::tree::{Tree, leaf_hash};
use postroad_protocol::message::{Message, Recipient, common_digest};
use postroad_protocol::signed::Signed;
use postroad_protocol::{Digest, MailboxId, Seq};
use postroad_store::{Read, Snapshot, Table, Transaction};

use super::store::{META, read};
use crate::control::{Fate, MAX_STATEMENT_BYTES, Statements, Told};
use crate::error::ClientError;

/// Bundles by a running number.
pub(super) const SENT: Table = Table("sent");
const SHELF: &[u8] = b"sent";
const MAX_BUNDLES: u64 = 1_024;
const MAX_BYTES: u64 = 16 << 20;
const PAGE: usize = 64;

/// A bundle that is ordered, or was given up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct SentBundle {
    #[n(0)]
    signed: Signed<BundleBody>,
    #[n(1)]
    messages: Vec<SentMessage>,
    /// None if it was given up.
    #[n(2)]
    ordered: Option<OrderedProof>,
    /// The sequence number of its first message, if it is ordered.
    #[n(3)]
    first: Option<Seq>,
}

/// A message without its common payload.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct SentMessage {
    #[n(0)]
    common: Digest,
    #[cbor(n(1), with = "minicbor::bytes")]
    salt: [u8; 16],
    #[n(2)]
    recipients: Vec<Recipient>,
    /// For each recipient; zero where the application sealed.
    #[n(3)]
    numbers: Vec<u64>,
}

impl SentMessage {
    fn number_for(&self, recipient: &MailboxId) -> Option<(usize, u64)> {
        let mut all = self.recipients.iter().zip(&self.numbers).enumerate();
        all.find(|(_, (to, _))| to.mailbox == *recipient).map(|(at, (_, number))| (at, *number))
    }

    /// The message as far as its recipients' leaves need it.
    fn bare(&self) -> Message {
        Message { salt: self.salt, common: Vec::new(), recipients: self.recipients.clone() }
    }

    fn id(&self) -> Option<Digest> {
        let (_, leaves) = self.bare().disclose();
        leaves.first()?.message(self.recipients.len() as u32, self.common)
    }
}

impl SentBundle {
    /// What is kept of a bundle; none if nobody can ask for one of its messages, since the application sealed them.
    pub(super) fn new(
        bundle: &Bundle,
        numbers: &[Vec<u64>],
        ordered: Option<(OrderedProof, Seq)>,
    ) -> Option<SentBundle> {
        if numbers.iter().flatten().all(|number| *number == 0) {
            return None;
        }
        let messages = (bundle.messages.iter().zip(numbers))
            .map(|(message, numbers)| SentMessage {
                common: common_digest(&message.common),
                salt: message.salt,
                recipients: message.recipients.clone(),
                numbers: numbers.clone(),
            })
            .collect();
        let (ordered, first) = ordered.unzip();
        Some(SentBundle { signed: bundle.signed.clone(), messages, ordered, first })
    }

    fn told(&self, at: usize, recipient_at: usize, number: u64) -> Option<Told> {
        let (Some(ordered), Some(first)) = (&self.ordered, self.first) else {
            return Some(Told { number, fate: Fate::GivenUp, seq: None, statements: Vec::new() });
        };
        let ids: Option<Vec<Digest>> = self.messages.iter().map(SentMessage::id).collect();
        let tree = Tree::new(ids?.iter().map(|id| leaf_hash(&id.0)).collect());
        let message = &self.messages[at];
        let (_, mut leaves) = message.bare().disclose();
        let statements = Statements {
            bundle: self.signed.clone(),
            index: at as u32,
            path: tree.path(at),
            common: message.common,
            recipient_count: message.recipients.len() as u32,
            recipient: leaves.swap_remove(recipient_at),
            ordered: ordered.clone(),
        };
        let mut statements = encode(&statements);
        if statements.len() > MAX_STATEMENT_BYTES {
            statements.clear();
        }
        let seq = Seq { index: first.index.saturating_add(at as u64), ..first };
        Some(Told { number, fate: Fate::Ordered, seq: Some(seq), statements })
    }
}

/// Which running numbers are taken, and the bytes of their rows.
#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
#[cbor(array)]
struct Shelf {
    #[n(0)]
    first: u64,
    #[n(1)]
    next: u64,
    #[n(2)]
    bytes: u64,
}

/// Keeps one more, and forgets the oldest where they are too many.
pub(super) fn put(transaction: &mut Transaction, bundle: &SentBundle) -> Result<(), ClientError> {
    let stored = transaction.get(META, SHELF)?;
    let mut shelf: Shelf = stored.map_or(Ok(Shelf::default()), |bytes| read(META, SHELF, &bytes))?;
    let bytes = encode(bundle);
    shelf.bytes = shelf.bytes.saturating_add(bytes.len() as u64);
    transaction.put(SENT, &shelf.next.to_be_bytes(), &bytes);
    shelf.next += 1;
    while shelf.next - shelf.first > 1 && (shelf.next - shelf.first > MAX_BUNDLES || shelf.bytes > MAX_BYTES) {
        let key = shelf.first.to_be_bytes();
        if let Some(oldest) = transaction.get(SENT, &key)? {
            shelf.bytes = shelf.bytes.saturating_sub(oldest.len() as u64);
            transaction.delete(SENT, &key);
        }
        shelf.first += 1;
    }
    transaction.put(META, SHELF, &encode(&shelf));
    Ok(())
}

/// What is kept of the message to `recipient` with this number; of two, the newer.
pub(super) fn find(snapshot: &Snapshot, recipient: &MailboxId, number: u64) -> Result<Option<Told>, ClientError> {
    let mut found = None;
    let mut next = Vec::new();
    loop {
        let page = snapshot.range(SENT, &next, &[], PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in &page {
            let bundle: SentBundle = read(SENT, key, value)?;
            for (at, message) in bundle.messages.iter().enumerate() {
                if let Some((recipient_at, taken)) = message.number_for(recipient)
                    && taken == number
                    && number > 0
                {
                    found = bundle.told(at, recipient_at, number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Order, key};
    use crate::seal::foreign;
    use crate::sender::store::SendStore;
    use postroad_protocol::codec::decode;

    fn messages(count: usize) -> Vec<Message> {
        (0..count).map(|_| foreign(b"hello", &[(key(7).public(), b"own".to_vec())])).collect()
    }

    /// A bundle as it was ordered, with the proof that its sender got.
    fn ordered(order: &mut Order, messages: &[Message]) -> (Bundle, OrderedProof, Seq) {
        let (cut, proofs) = order.order(messages.to_vec());
        let entry = &proofs[0];
        let (order_of, path) = (entry.order.clone(), entry.bundle_path.clone());
        let ordinal = entry.ordinal;
        let proof = OrderedProof { cut, order: order_of, ordinal, path, weak: false, custody: vec![] };
        let bundle = Bundle { signed: entry.bundle.clone(), messages: messages.to_vec() };
        let first = proof.verify(&bundle.signed, &order.federation).unwrap();
        (bundle, proof, first)
    }

    fn keep(store: &SendStore, bundle: &SentBundle) {
        let mut change = store.change().unwrap();
        change.keep_sent(bundle).unwrap();
        change.commit().unwrap();
    }

    #[test]
    fn what_is_told_of_an_ordered_message_proves_its_place_to_its_recipient_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = SendStore::open(dir.path()).unwrap();
        let mut order = Order::new();
        let (bundle, proof, first) = ordered(&mut order, &messages(3));
        let numbers = [vec![4], vec![5], vec![6]];
        keep(&store, &SentBundle::new(&bundle, &numbers, Some((proof, first))).unwrap());
        let (me, home) = (key(7).public(), key(1).public());
        let told = store.told(&me, 5).unwrap();
        let seq = Seq { index: 1, ..first };
        assert_eq!((told.number, told.fate, told.seq), (5, Fate::Ordered, Some(seq)));
        let statements: Statements = decode(&told.statements).unwrap();
        assert_eq!(statements.verify(&me, &home, &order.federation), Some((seq, None)));
        assert_eq!(statements.verify(&key(8).public(), &home, &order.federation), None);
        let other = Statements { index: 2, ..statements };
        assert_eq!(other.verify(&me, &home, &order.federation), None);
        assert_eq!(store.told(&me, 7).unwrap().fate, Fate::Unknown);
        assert_eq!(store.told(&key(8).public(), 5).unwrap().fate, Fate::Unknown);
    }

    #[test]
    fn what_was_given_up_is_told_so_and_what_the_application_sealed_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = SendStore::open(dir.path()).unwrap();
        let (bundle, ..) = ordered(&mut Order::new(), &messages(1));
        keep(&store, &SentBundle::new(&bundle, &[vec![9]], None).unwrap());
        assert_eq!(store.told(&key(7).public(), 9).unwrap().fate, Fate::GivenUp);
        assert_eq!(SentBundle::new(&bundle, &[vec![0]], None), None);
    }

    #[test]
    fn the_newest_bundles_are_kept_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = SendStore::open(dir.path()).unwrap();
        let (bundle, ..) = ordered(&mut Order::new(), &messages(1));
        let mut change = store.change().unwrap();
        for number in 1..=MAX_BUNDLES + 3 {
            change.keep_sent(&SentBundle::new(&bundle, &[vec![number]], None).unwrap()).unwrap();
        }
        change.commit().unwrap();
        let fate = |number| store.told(&key(7).public(), number).unwrap().fate;
        assert_eq!([fate(3), fate(4), fate(MAX_BUNDLES + 3)], [Fate::Unknown, Fate::GivenUp, Fate::GivenUp]);
    }
}
