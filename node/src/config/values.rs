//! The types of single values in `postroad.toml`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use postroad_engine::evidence::{Action, Policy};
use postroad_engine::node::Admission;
use postroad_protocol::{MailboxId, NodeId, PublicKey};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The storage engine of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// redb: one file, two-phase commit, every transaction synced.
    Redb,
    /// sled 0.34, in a build with the feature of that name: a directory, and no safety against power loss.
    Sled,
}

impl StoreKind {
    /// The word in `postroad.toml`.
    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Redb => "redb",
            StoreKind::Sled => "sled",
        }
    }

    /// What to do about an engine that this build has not.
    #[cfg(not(feature = "sled"))]
    pub(crate) const NO_SLED: &str = "store: this postroad was built without sled: set store = \"redb\", or build it \
                                      with cargo build --release --features sled, whose limits the operator's guide \
                                      tells";

    /// Refuses what this build has not.
    pub(super) fn check(self) -> Result<(), String> {
        #[cfg(not(feature = "sled"))]
        if self == StoreKind::Sled {
            return Err(StoreKind::NO_SLED.to_owned());
        }
        Ok(())
    }
}

/// Which mailboxes a node lets in: those that register, and those that move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Nobody; mailboxes that are registered stay.
    Closed,
    /// These addresses.
    Only(Vec<MailboxId>),
}

impl Registration {
    /// As the engine takes it.
    pub(crate) fn admission(&self) -> Admission {
        match self {
            Registration::Open => Admission::Open,
            Registration::Closed => Admission::Closed,
            Registration::Only(list) => Admission::List(list.clone()),
        }
    }

    /// Whether `mailbox` may register.
    pub fn allows(&self, mailbox: &MailboxId) -> bool {
        match self {
            Registration::Open => true,
            Registration::Closed => false,
            Registration::Only(list) => list.contains(mailbox),
        }
    }
}

/// Which nodes may name this one as a deputy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeputyFor {
    /// All nodes of the federation.
    Anybody,
    /// None.
    Nobody,
    /// These.
    Only(Vec<NodeId>),
}

impl DeputyFor {
    /// As the engine takes it.
    pub(crate) fn admission(&self) -> Admission {
        match self {
            DeputyFor::Anybody => Admission::Open,
            DeputyFor::Nobody => Admission::Closed,
            DeputyFor::Only(list) => Admission::List(list.clone()),
        }
    }
}

/// Which mailboxes of other nodes may move here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moves {
    /// Whose.
    pub accept: Registration,
    /// Payload bytes that a mailbox may hold unacknowledged.
    pub max_mailbox_bytes: u64,
}

impl Default for Moves {
    fn default() -> Moves {
        Moves { accept: Registration::Open, max_mailbox_bytes: 4 << 30 }
    }
}

/// HTTP for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where `/metrics` and `/healthz` are served; nowhere, if it is empty.
    #[serde(with = "socket_addr")]
    pub listen: Option<SocketAddr>,
}

impl Default for Http {
    fn default() -> Http {
        Http { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4171))) }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for people.
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// An address, or the empty text.
mod socket_addr {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(addr: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&addr.map(|addr| addr.to_string()).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |_| de::Error::custom(format!("{text:?} is not an address and a port, as in 127.0.0.1:4171"));
        text.parse().map(Some).map_err(bad)
    }
}

/// What a node does about those whom evidence convicts. A loss convicts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Blame {
    /// What it does.
    pub policy: BlamePolicy,
    /// The nodes about whom it does nothing.
    #[serde(with = "node_ids")]
    pub allow: Vec<NodeId>,
    /// The nodes that it treats as if they were convicted; their slices are refused at least.
    #[serde(with = "node_ids")]
    pub deny: Vec<NodeId>,
}

/// What is done about somebody who is convicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlamePolicy {
    /// Nothing: the evidence is kept and handed on.
    #[default]
    Record,
    /// Its new slices are not taken.
    RefuseSlices,
    /// Nor is there any connection.
    RefuseContact,
}

impl Blame {
    /// What types cannot say.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.allow.iter().find(|node| self.deny.contains(node)) {
            Some(node) => Err(format!("blame: {node} is in both allow and deny")),
            None => Ok(()),
        }
    }

    /// As the engine takes it.
    pub(crate) fn policy(&self) -> Policy {
        let action = match self.policy {
            BlamePolicy::Record => Action::Record,
            BlamePolicy::RefuseSlices => Action::RefuseSlices,
            BlamePolicy::RefuseContact => Action::RefuseContact,
        };
        Policy { action, allow: self.allow.clone(), deny: self.deny.clone() }
    }
}

/// The bounds of what others can make a node hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Established connections, those of the federation's nodes aside.
    pub max_connections: u64,
    /// Connections of one peer.
    pub max_connections_per_peer: u64,
    /// Inbound connections still in their handshake.
    pub max_pending_connections: u64,
    /// Resident memory above which strangers are not let in; 0 for no bound.
    pub max_memory_bytes: u64,
    /// Clients with an open session.
    pub max_clients: u64,
    /// Bytes of bundles that wait to be sealed.
    pub inbox_queue_bytes: u64,
    /// Bytes on their way to one other node.
    pub peer_queue_bytes: u64,
    /// Bytes of one sender's bundles on their way to their place in the order.
    pub sender_queue_bytes: u64,
    /// Bytes of slices held for one origin while their destinations are away.
    pub custody_bytes_per_origin: u64,
    /// Mailboxes that live here.
    pub max_mailboxes: u64,
    /// New mailboxes in a minute; 0 for no bound.
    pub registrations_per_minute: u64,
    /// Entries that a mailbox holds unacknowledged.
    pub mailbox_entries: u64,
    /// Their payload bytes, and 512 for each.
    pub mailbox_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 4_096,
            max_connections_per_peer: 4,
            max_pending_connections: 128,
            max_memory_bytes: 0,
            max_clients: 4_096,
            inbox_queue_bytes: 64 << 20,
            peer_queue_bytes: 64 << 20,
            sender_queue_bytes: 32 << 20,
            custody_bytes_per_origin: 16 << 30,
            max_mailboxes: 1_000_000,
            registrations_per_minute: 6_000,
            mailbox_entries: 1_000_000,
            mailbox_bytes: 4 << 30,
        }
    }
}

impl Limits {
    /// What types cannot say.
    pub(super) fn check(&self) -> Result<(), String> {
        /// The largest batch that a genesis may allow, with its frame.
        const FLOOR: u64 = 16 << 20;
        let counts = [
            ("max_connections", self.max_connections),
            ("max_pending_connections", self.max_pending_connections),
            ("max_clients", self.max_clients),
            ("mailbox_entries", self.mailbox_entries),
            ("mailbox_bytes", self.mailbox_bytes),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(format!("limits.{name}: at least 1"));
        }
        if self.max_connections_per_peer < 2 {
            return Err("limits.max_connections_per_peer: at least 2, or two peers that dial each other fail".into());
        }
        let queues = [
            ("inbox_queue_bytes", self.inbox_queue_bytes),
            ("peer_queue_bytes", self.peer_queue_bytes),
            ("custody_bytes_per_origin", self.custody_bytes_per_origin),
        ];
        match queues.iter().find(|(_, bytes)| *bytes < FLOOR) {
            Some((name, _)) => Err(format!("limits.{name}: at least {FLOOR}, or the largest batch does not fit")),
            None => Ok(()),
        }
    }
}

/// Lists of node ids as lists of their texts.
pub(super) mod node_ids {
    use postroad_protocol::NodeId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::config) fn serialize<S: Serializer>(ids: &[NodeId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ids.iter().map(NodeId::to_string))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }
}

/// Whom a value names: two words, or a list of keys.
enum Whom {
    Everybody,
    Nobody,
    Only(Vec<PublicKey>),
}

impl Whom {
    /// Reads it; `words` are those for everybody and nobody, and `keys` says what a list is of.
    fn read<'de, D: Deserializer<'de>>(words: [&str; 2], keys: &str, from: D) -> Result<Whom, D::Error> {
        struct Read<'a>([&'a str; 2], &'a str);

        impl<'de> Visitor<'de> for Read<'_> {
            type Value = Whom;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}, {:?} or a list of {}", self.0[0], self.0[1], self.1)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Whom, E> {
                match self.0.iter().position(|word| *word == text) {
                    Some(0) => Ok(Whom::Everybody),
                    Some(_) => Ok(Whom::Nobody),
                    None => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Whom, A::Error> {
                let mut list = Vec::new();
                while let Some(text) = texts.next_element::<String>()? {
                    list.push(text.parse().map_err(de::Error::custom)?);
                }
                Ok(Whom::Only(list))
            }
        }

        from.deserialize_any(Read(words, keys))
    }
}

impl Registration {
    const WORDS: [&str; 2] = ["open", "closed"];
}

impl Serialize for Registration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Registration::Open => to.serialize_str(Registration::WORDS[0]),
            Registration::Closed => to.serialize_str(Registration::WORDS[1]),
            Registration::Only(list) => to.collect_seq(list.iter().map(MailboxId::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for Registration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Registration, D::Error> {
        Ok(match Whom::read(Registration::WORDS, "addresses", from)? {
            Whom::Everybody => Registration::Open,
            Whom::Nobody => Registration::Closed,
            Whom::Only(list) => Registration::Only(list),
        })
    }
}

impl DeputyFor {
    const WORDS: [&str; 2] = ["anybody", "nobody"];
}

impl Serialize for DeputyFor {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            DeputyFor::Anybody => to.serialize_str(DeputyFor::WORDS[0]),
            DeputyFor::Nobody => to.serialize_str(DeputyFor::WORDS[1]),
            DeputyFor::Only(list) => to.collect_seq(list.iter().map(NodeId::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for DeputyFor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<DeputyFor, D::Error> {
        Ok(match Whom::read(DeputyFor::WORDS, "PeerIds", from)? {
            Whom::Everybody => DeputyFor::Anybody,
            Whom::Nobody => DeputyFor::Nobody,
            Whom::Only(list) => DeputyFor::Only(list),
        })
    }
}
