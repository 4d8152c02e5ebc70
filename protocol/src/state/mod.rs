//! What all nodes of a federation agree on: an authenticated map that only cuts change.
//!
//! A [`State`] is a persistent value: a clone shares everything, so that a node keeps the states of the last W epochs
//! and looks a routing epoch up in the one that was current then. Its root, which every cut carries, covers nodes,
//! mailboxes, pending slices, challenges, moves and the committee; the last cut's hash is not in it.

mod apply;
mod challenges;
mod moves;
mod proof;

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use crate::batch::AttestationRef;
use crate::codec::{decode, encode};
use crate::crypto::{MailboxId, NodeId, PublicKey};
use crate::digest::Digest;
use crate::error::DecodeError;
use crate::genesis::Federation;
use crate::merkle::map::{MapKey, MapValue, MerkleMap};

pub use apply::{Applied, Draft, Invalid, apply};
pub use challenges::{Challenged, MAX_ROUNDS, MAX_WITNESSES, Reason, SWEEP_EPOCHS, Suspicion};
pub use moves::{Delayed, Imported, Moved, Span};
pub use proof::{HomeProof, STATE_PARTS, verify_lost, verify_pending};

/// What the federation knows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NodeState {
    /// The version of its record.
    #[n(0)]
    pub version: u64,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// Where it listens.
    #[n(2)]
    pub addrs: Vec<String>,
    /// Its deputies.
    #[n(3)]
    pub deputies: Vec<NodeId>,
    /// Its incarnation; zero until its first start is settled.
    #[n(4)]
    pub incarnation: u64,
    /// The nonce of that start.
    #[cbor(n(5), with = "crate::codec::bytes16")]
    pub nonce: [u8; 16],
    /// The epoch that settled that start.
    #[n(6)]
    pub started: u64,
    /// Its last included header.
    #[n(7)]
    pub last_header: Option<LastHeader>,
    /// Its last final attestation.
    #[n(8)]
    pub last_attestation: Option<Anchored>,
    /// How many mailboxes live there.
    #[n(9)]
    pub mailboxes: u64,
    /// Since which epoch it is lapsed, if it is.
    #[n(10)]
    pub lapsed: Option<u64>,
    /// How many slices of its batches are pending.
    #[n(11)]
    pub pending: u64,
    /// When it last kept up with the cuts.
    #[n(12)]
    pub kept_up: KeptUp,
    /// How many slices it has said that it lost, of those that it had signed for as destination and that are not past
    /// retention.
    #[n(13)]
    pub lost: u64,
}

/// When a node last kept up: it started, or an attestation became final that reached the epoch of the time before. So
/// its final attestations are never further behind than the age since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeptUp {
    /// The epoch.
    #[n(0)]
    pub epoch: u64,
    /// The age of its cut.
    #[n(1)]
    pub age_ms: u64,
}

/// The end of an origin's included chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LastHeader {
    /// Its number.
    #[n(0)]
    pub number: u64,
    /// Its digest.
    #[n(1)]
    pub digest: Digest,
    /// Its routing epoch, below which the chain cannot fall.
    #[n(2)]
    pub routing_epoch: u64,
}

/// A final attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Anchored {
    /// Number and digest.
    #[n(0)]
    pub attestation: AttestationRef,
    /// The epoch whose cut made it final.
    #[n(1)]
    pub epoch: u64,
}

/// What the federation knows of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MailboxState {
    /// Its home.
    #[n(0)]
    pub home: NodeId,
    /// The epoch since which it lives there.
    #[n(1)]
    pub since: u64,
    /// The digest of the record that says so.
    #[n(2)]
    pub record: Digest,
    /// The X25519 key to which senders seal.
    #[n(3)]
    pub encryption_key: Digest,
    /// The recovery key, if it has one.
    #[n(4)]
    pub recovery_key: Option<PublicKey>,
    /// The epoch that settled its registration.
    #[n(5)]
    pub registered: u64,
    /// Where it lived before; none if it has never moved.
    #[n(6)]
    pub moved: Option<Moved>,
    /// The last record that the recovery key signed, or the registration's, where others have replaced it since: what
    /// the recovery key may replace whatever the device signs. None if that is the record in force, or there is no
    /// recovery key.
    #[n(7)]
    pub recovered: Option<Digest>,
}

/// Names a slice that was ordered before its destination signed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct PendingKey {
    /// Whom it is for.
    #[n(0)]
    pub destination: NodeId,
    /// The header's digest.
    #[n(1)]
    pub header: Digest,
}

/// A pending slice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Pending {
    /// The epoch that ordered it.
    #[n(0)]
    pub epoch: u64,
    /// The header's position in that cut.
    #[n(1)]
    pub position: u32,
    /// The header's origin.
    #[n(2)]
    pub origin: NodeId,
    /// The header's number.
    #[n(3)]
    pub number: u64,
    /// The slice root.
    #[n(4)]
    pub slice: Digest,
    /// Who holds it: the custodians, then the witnesses of answers.
    #[n(5)]
    pub holders: Vec<NodeId>,
    /// The age of the cut that ordered it.
    #[n(6)]
    pub age_ms: u64,
    /// How many challenges for it were answered.
    #[n(7)]
    pub rounds: u32,
    /// Epoch and age of the last answer.
    #[n(8)]
    pub answered: Option<(u64, u64)>,
    /// Who has said that it lost the slice.
    #[n(9)]
    pub lost: Vec<NodeId>,
}

/// A slice of which its destination has said that it signed for it and lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LostSlice {
    /// The epoch that settled its word.
    #[n(0)]
    pub epoch: u64,
    /// The age of that cut.
    #[n(1)]
    pub age_ms: u64,
}

macro_rules! map_key {
    ($($key:ty),*) => {$(
        impl MapKey for $key {
            fn key_bytes(&self) -> Vec<u8> {
                encode(self)
            }
        }
    )*};
}

impl MapKey for PublicKey {
    fn key_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

map_key!(PendingKey);

macro_rules! map_value {
    ($($value:ty),*) => {$(
        impl MapValue for $value {
            fn value_bytes(&self) -> Vec<u8> {
                encode(self)
            }
        }
    )*};
}

map_value!(NodeState, MailboxState, Pending, Challenged, LostSlice, Delayed);

/// The name of one value of the state, as a store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum StateKey {
    /// A node.
    #[n(0)]
    Node(#[n(0)] NodeId),
    /// A mailbox.
    #[n(1)]
    Mailbox(#[n(0)] MailboxId),
    /// A pending slice.
    #[n(2)]
    Pending(#[n(0)] PendingKey),
    /// An open challenge for a pending slice.
    #[n(3)]
    Challenge(#[n(0)] PendingKey),
    /// A slice that its destination had signed for, and lost.
    #[n(4)]
    Lost(#[n(0)] PendingKey),
    /// A switch that waits for its delay.
    #[n(5)]
    Move(#[n(0)] MailboxId),
}

/// The state after one cut.
#[derive(Clone, Debug)]
pub struct State {
    /// The epoch of the last cut; zero at genesis.
    pub epoch: u64,
    /// The last cut's time.
    pub time_ms: u64,
    /// The last cut's age; zero at genesis.
    pub age_ms: u64,
    /// The last cut's hash; at genesis the federation's id.
    pub cut: Digest,
    nodes: MerkleMap<NodeId, NodeState>,
    mailboxes: MerkleMap<MailboxId, MailboxState>,
    pending: MerkleMap<PendingKey, Pending>,
    challenges: MerkleMap<PendingKey, Challenged>,
    losses: MerkleMap<PendingKey, LostSlice>,
    moves: MerkleMap<MailboxId, Delayed>,
    /// No switch that waits is due below this age; so that no cut but those few looks at all of them.
    none_due_below_ms: u64,
    committee: Digest,
}

impl State {
    /// The state before the first cut.
    pub fn genesis(federation: &Federation) -> State {
        let members: Vec<NodeId> = federation.genesis().committee.iter().map(|member| member.node).collect();
        State {
            epoch: 0,
            time_ms: federation.genesis().time_ms,
            age_ms: 0,
            cut: federation.id(),
            nodes: MerkleMap::default(),
            mailboxes: MerkleMap::default(),
            pending: MerkleMap::default(),
            challenges: MerkleMap::default(),
            losses: MerkleMap::default(),
            moves: MerkleMap::default(),
            none_due_below_ms: u64::MAX,
            committee: Digest::tagged("committee", &[&encode(&members)]),
        }
    }

    /// The age of a next cut whose time is `time_ms`: a step of more than two heartbeats counts as two (rule 11).
    pub fn next_age_ms(&self, time_ms: u64, federation: &Federation) -> u64 {
        let longest = federation.params().heartbeat_ms.saturating_mul(2);
        self.age_ms.saturating_add(time_ms.saturating_sub(self.time_ms).min(longest))
    }

    /// A node.
    pub fn node(&self, node: &NodeId) -> Option<&NodeState> {
        self.nodes.get(node)
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// All nodes, in the order of their hashed keys.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeState)> {
        self.nodes.iter()
    }

    /// A mailbox.
    pub fn mailbox(&self, mailbox: &MailboxId) -> Option<&MailboxState> {
        self.mailboxes.get(mailbox)
    }

    /// Where a mailbox lives.
    pub fn home(&self, mailbox: &MailboxId) -> Option<NodeId> {
        self.mailboxes.get(mailbox).map(|mailbox| mailbox.home)
    }

    /// How many mailboxes are registered.
    pub fn mailbox_count(&self) -> u64 {
        self.mailboxes.len() as u64
    }

    /// All mailboxes, in the order of their hashed keys.
    pub fn mailboxes(&self) -> impl Iterator<Item = (&MailboxId, &MailboxState)> {
        self.mailboxes.iter()
    }

    /// A pending slice.
    pub fn pending(&self, key: &PendingKey) -> Option<&Pending> {
        self.pending.get(key)
    }

    /// All pending slices, in the order of their hashed keys.
    pub fn all_pending(&self) -> impl Iterator<Item = (&PendingKey, &Pending)> {
        self.pending.iter()
    }

    /// A slice that its destination had signed for, and lost.
    pub fn lost(&self, key: &PendingKey) -> Option<&LostSlice> {
        self.losses.get(key)
    }

    /// The root that the cut carries.
    pub fn root(&self) -> Digest {
        proof::state_root(&self.parts())
    }

    /// The canonical bytes of one value, as a store keeps it; none if the state has no such value.
    pub fn value(&self, key: &StateKey) -> Option<Vec<u8>> {
        match key {
            StateKey::Node(node) => self.nodes.get(node).map(encode),
            StateKey::Mailbox(mailbox) => self.mailboxes.get(mailbox).map(encode),
            StateKey::Pending(pending) => self.pending.get(pending).map(encode),
            StateKey::Challenge(pending) => self.challenges.get(pending).map(encode),
            StateKey::Lost(slice) => self.losses.get(slice).map(encode),
            StateKey::Move(mailbox) => self.moves.get(mailbox).map(encode),
        }
    }

    /// The keys of all values.
    pub fn keys(&self) -> BTreeSet<StateKey> {
        let nodes = self.nodes.iter().map(|(key, _)| StateKey::Node(*key));
        let mailboxes = self.mailboxes.iter().map(|(key, _)| StateKey::Mailbox(*key));
        let pending = self.pending.iter().map(|(key, _)| StateKey::Pending(*key));
        let challenges = self.challenges.iter().map(|(key, _)| StateKey::Challenge(*key));
        let losses = self.losses.iter().map(|(key, _)| StateKey::Lost(*key));
        let moves = self.moves.iter().map(|(key, _)| StateKey::Move(*key));
        nodes.chain(mailboxes).chain(pending).chain(challenges).chain(losses).chain(moves).collect()
    }

    /// Puts a value back that [`State::value`] gave: how a store's copy becomes a state again.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no such value.
    pub fn restore(&mut self, key: StateKey, value: &[u8]) -> Result<(), DecodeError> {
        match key {
            StateKey::Node(node) => self.nodes.insert(node, decode(value)?),
            StateKey::Mailbox(mailbox) => self.mailboxes.insert(mailbox, decode(value)?),
            StateKey::Pending(pending) => self.pending.insert(pending, decode(value)?),
            StateKey::Challenge(pending) => self.challenges.insert(pending, decode(value)?),
            StateKey::Lost(slice) => self.losses.insert(slice, decode(value)?),
            StateKey::Move(mailbox) => self.wait(mailbox, decode(value)?),
        };
        Ok(())
    }
}
