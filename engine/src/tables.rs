//! The rows of a node's store: which tables there are, how keys look, and the values that only the engine knows.
//!
//! Keys begin with what orders them (epochs, numbers, big endian), so that rows are written in log order.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use postroad_protocol::batch::{Header, Routed, route};
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::merkle::log::Frontier;
pub use postroad_protocol::moving::LogRow;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::{Digest, MailboxId, NodeId};
use postroad_store::{Read, StoreError, Table, Write};

/// Single values, by name.
pub const META: Table = Table("meta");
/// Epoch → whole cut.
pub const CUTS: Table = Table("cuts");
/// State key → value, as of the floor epoch.
pub const STATE: Table = Table("state");
/// Own batch number → [`StoredBatch`].
pub const BATCHES: Table = Table("batches");
/// Own batch number → (epoch, position) that a cut gave it.
pub const PLACES: Table = Table("places");
/// Sender and counter → [`Taken`]: bundles that this node took.
pub const BUNDLES: Table = Table("bundles");
/// Slice key → slice parcel: everything that this node holds for itself or for others.
pub const SLICES: Table = Table("slices");
/// Slice key → [`Holding`], for each row of [`SLICES`]: what is asked of a slice without reading it.
pub const ROOTS: Table = Table("roots");
/// Header digest → [`PendingRow`]: slices for this node that are ordered and not in the logs yet.
pub const PENDING: Table = Table("pending");
/// Mailbox and log index → [`LogRow`].
pub const LOGS: Table = Table("logs");
/// Mailbox → its owner's last acknowledgement.
pub const ACKS: Table = Table("acks");

/// Epoch, header and node → [`Expiring`]: what may be forgotten once that epoch is past retention.
pub const EXPIRING: Table = Table("expiring");
/// Epoch and position of a header → the epoch that settled this node's receipt or fill for its slice, where that
/// refuses leaves.
pub const REFUSED: Table = Table("refused");

/// Mailbox → its owner's block list.
pub const BLOCKS: Table = Table("blocks");

/// Id → [`Filed`](postroad_protocol::wire::call::Filed): evidence.
pub const EVIDENCE: Table = Table("evidence");

/// Mailbox → [`Edge`]: where its rows in [`LOGS`] begin, for one whose log did not begin here.
pub const EDGES: Table = Table("edges");
/// Mailbox and slice key → [`Extract`](postroad_protocol::moving::Extract): mail that a former home's slices hold for it.
pub const EXTRACTS: Table = Table("extracts");
/// Mailbox → [`Arrival`](crate::arrivals::Arrival): mailboxes that move here.
pub const ARRIVALS: Table = Table("arrivals");
/// Mailbox and a running number → [`LogRow`]: entries that wait until the log before them is here.
pub const WAITING: Table = Table("waiting");
/// Mailbox → [`Departure`](crate::departures::Departure): mailboxes that lived here.
pub const DEPARTURES: Table = Table("departures");

/// All tables of a node's store.
pub const ALL: [Table; 20] = [
    META, CUTS, STATE, BATCHES, PLACES, BUNDLES, SLICES, ROOTS, PENDING, LOGS, ACKS, EXPIRING, REFUSED, BLOCKS,
    EVIDENCE, EDGES, EXTRACTS, ARRIVALS, WAITING, DEPARTURES,
];

/// [`META`]: the state's floor, a [`Floor`].
pub const FLOOR: &[u8] = b"floor";
/// [`META`]: the sequencer's draft that awaits its vote, a cut without certificate.
pub const DRAFT: &[u8] = b"draft";
/// [`META`]: the number of the last attestation that was begun, a u64.
pub const ATTESTED: &[u8] = b"attested";
/// [`META`]: the last epoch whose mail is in the logs, a u64.
pub const DELIVERED: &[u8] = b"delivered";

/// [`META`]: the last epoch that is past retention, a u64.
pub const EXPIRED: &[u8] = b"expired";
/// [`META`]: that the node closes, a [`Retirement`](crate::node::retiring::Retirement).
pub const RETIREMENT: &[u8] = b"retirement";
/// [`META`]: after the disk was set back, the lowest valid-until that is taken (rule 4), a u64.
pub const FORGOTTEN: &[u8] = b"forgotten";

/// The epoch as of which [`STATE`] stands; later cuts are applied again at every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Floor {
    /// The epoch.
    #[n(0)]
    pub epoch: u64,
    /// Its cut's time.
    #[n(1)]
    pub time_ms: u64,
    /// Its cut's age.
    #[n(2)]
    pub age_ms: u64,
    /// Its cut's hash.
    #[n(3)]
    pub cut: Digest,
}

/// A batch as its origin keeps it. The signature follows from the header (ed25519 is deterministic), so the row is
/// written before anything is signed and never again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct StoredBatch {
    /// The header.
    #[n(0)]
    pub header: Header,
    /// The bundles, in order.
    #[n(1)]
    pub bundles: Vec<Bundle>,
    /// Where the recipients lived at the routing epoch, so that the slices can be cut again at any time.
    #[n(2)]
    pub homes: BTreeMap<MailboxId, NodeId>,
}

impl StoredBatch {
    /// Cuts the slices again.
    pub fn route(&self, federation: Digest) -> Routed {
        let routed = route(&self.bundles, federation, |mailbox| self.homes.get(mailbox).copied());
        #[cfg(feature = "cheat")]
        let routed = crate::router::cheat::bend_again(routed, &self.header);
        routed
    }
}

/// A slice that this node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Holding {
    /// The slice's root, which a receipt names.
    #[n(0)]
    pub root: Digest,
    /// The epoch with which it may be forgotten: its row in [`EXPIRING`].
    #[n(1)]
    pub until: u64,
}

impl Holding {
    /// The rows of a slice that is held until another epoch.
    pub fn until(self, slice: &SliceKey, until: u64) -> [Write; 2] {
        [
            put(ROOTS, slice_key(slice), &Holding { until, ..self }),
            expiring(until, slice.header, slice.destination, &Expiring::Slice(*slice)),
        ]
    }
}

/// What a mailbox's log has from before the mailbox lived here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Edge {
    /// The log's right edge before its first row here.
    #[n(0)]
    pub frontier: Frontier,
    /// Entries below this index came without their messages: the owner had acknowledged them, or they were past
    /// retention.
    #[n(1)]
    pub expired_to: u64,
    /// The epoch that settled the last entry under that edge, if the log ends there.
    #[n(2)]
    pub last_epoch: u64,
}

/// What may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Expiring {
    /// A slice held.
    #[n(0)]
    Slice(#[n(0)] SliceKey),
    /// A batch of this node's own, by number.
    #[n(1)]
    Batch(#[n(0)] u64),
    /// What a former home's slice holds for a mailbox.
    #[n(2)]
    Extract(#[n(0)] MailboxId, #[n(1)] SliceKey),
}

/// A row of [`EXPIRING`].
pub fn expiring(epoch: u64, header: Digest, node: NodeId, what: &Expiring) -> Write {
    put(EXPIRING, expiring_key(epoch, header, node), what)
}

/// A key of [`EXPIRING`].
pub fn expiring_key(epoch: u64, header: Digest, node: NodeId) -> Vec<u8> {
    [epoch.to_be_bytes().as_slice(), &header.0, &node.0].concat()
}

/// What became of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Taken {
    /// The digest of its signed body.
    #[n(0)]
    pub bundle: Digest,
    /// The counter of its last message.
    #[n(1)]
    pub last_counter: u64,
    /// The batch that holds it.
    #[n(2)]
    pub batch: u64,
    /// Its place in that batch.
    #[n(3)]
    pub ordinal: u32,
}

/// A slice for this node that was ordered while others held it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PendingRow {
    /// The slice.
    #[n(0)]
    pub slice: SliceKey,
    /// Its root.
    #[n(1)]
    pub root: Digest,
    /// The epoch that ordered it.
    #[n(2)]
    pub epoch: u64,
    /// Its header's position in that cut.
    #[n(3)]
    pub position: u32,
    /// Who holds it.
    #[n(4)]
    pub holders: Vec<NodeId>,
    /// The epoch whose directory routed it.
    #[n(5)]
    pub routing_epoch: u64,
}

/// A key of one number.
pub fn number_key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// A key of [`REFUSED`].
pub fn place_key(epoch: u64, position: u32) -> Vec<u8> {
    [&epoch.to_be_bytes()[..], &position.to_be_bytes()].concat()
}

/// A key of [`SLICES`].
pub fn slice_key(slice: &SliceKey) -> Vec<u8> {
    let mut key = slice.origin.0.to_vec();
    key.extend(slice.number.to_be_bytes());
    key.extend(slice.header.0);
    key.extend(slice.destination.0);
    key
}

/// A key of [`EXTRACTS`].
pub fn extract_key(mailbox: &MailboxId, slice: &SliceKey) -> Vec<u8> {
    [&mailbox.0[..], &slice_key(slice)].concat()
}

/// A key of [`LOGS`], [`WAITING`] or [`BUNDLES`]: a mailbox and a number.
pub fn mailbox_key(mailbox: &MailboxId, number: u64) -> Vec<u8> {
    let mut key = mailbox.0.to_vec();
    key.extend(number.to_be_bytes());
    key
}

/// The number at the end of a key.
pub fn key_number(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A write of a value.
pub fn put<T: Encode<()>>(table: Table, key: impl Into<Vec<u8>>, value: &T) -> Write {
    Write::Put { table, key: key.into(), value: encode(value) }
}

/// A write that removes a key.
pub fn delete(table: Table, key: impl Into<Vec<u8>>) -> Write {
    Write::Delete { table, key: key.into() }
}

/// Reads a value. A row that passes the store's checksum but is no such value was written by another version.
///
/// # Errors
/// [`StoreError`], [`StoreError::Corrupt`] when the row does not decode.
pub fn get<T>(store: &dyn Read, table: Table, key: &[u8]) -> Result<Option<T>, StoreError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    match store.get(table, key)? {
        None => Ok(None),
        Some(bytes) => read(table, key, &bytes).map(Some),
    }
}

/// Decodes a row that was read by range.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn read<T>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, StoreError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    decode(bytes).map_err(|_| StoreError::Corrupt { table, key: key.to_vec() })
}
