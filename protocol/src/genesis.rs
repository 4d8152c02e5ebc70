//! Genesis: the one small file that a federation begins with. Its hash is the federation's id, inside every signature.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::encode;
use crate::crypto::NodeId;
use crate::digest::Digest;
use crate::message::RECIPIENT_BYTES;
use crate::record::MAX_ADDRS;

/// What all nodes of a federation agree on before the first cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Genesis {
    /// A name for people.
    #[n(0)]
    pub name: String,
    /// Unix time of the beginning, in milliseconds; the first cut is later than this.
    #[n(1)]
    pub time_ms: u64,
    /// The sequencer's committee (1, 4, 7, … members), and where to find it.
    #[n(2)]
    pub committee: Vec<Member>,
    /// Which nodes may join; empty means any.
    #[n(3)]
    pub allow: Vec<NodeId>,
    /// The federation's limits and rates.
    #[n(4)]
    pub params: Params,
}

/// A member of the committee.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Member {
    /// The member's key.
    #[n(0)]
    pub node: NodeId,
    /// Where it listens, as multiaddresses; hints, never part of a proof.
    #[n(1)]
    pub addrs: Vec<String>,
}

/// The limits and rates of a federation. Units are in the names; epochs are numbers of cuts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(array)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// W: a header is included only while its routing epoch is at most this many epochs old.
    #[n(0)]
    pub routing_window_epochs: u64,
    /// V: a bundle's valid-until is at most this many epochs ahead.
    #[n(1)]
    pub validity_epochs: u64,
    /// The shortest time between two cuts.
    #[n(2)]
    pub cut_interval_ms: u64,
    /// The longest time between two cuts, and about the time between two attestations of a node.
    #[n(3)]
    pub heartbeat_ms: u64,
    /// The most that an origin waits for a destination before it turns to custodians (rule 15).
    #[n(4)]
    pub deadline_cap_ms: u64,
    /// How long an origin keeps its batches and a home its entries, in age.
    #[n(5)]
    pub retention_ms: u64,
    /// Recipients of one message.
    #[n(6)]
    pub max_recipients: u64,
    /// Bytes of one message: common payload and all own payloads.
    #[n(7)]
    pub max_message_bytes: u64,
    /// Messages of one bundle.
    #[n(8)]
    pub max_bundle_messages: u64,
    /// Bytes of one bundle: payloads, and 512 for each recipient.
    #[n(9)]
    pub max_bundle_bytes: u64,
    /// Bytes, counted as a bundle's, at which a batch is sealed.
    #[n(10)]
    pub max_batch_bytes: u64,
    /// Slices of one header: destinations of one batch.
    #[n(11)]
    pub max_slices: u64,
    /// Headers of one cut.
    #[n(12)]
    pub max_cut_headers: u64,
    /// Mailboxes registered with one node.
    #[n(13)]
    pub max_mailboxes_per_node: u64,
    /// Nodes in the federation.
    #[n(14)]
    pub max_nodes: u64,
    /// C: how long a challenged slice may stay unanswered, and an answered one unfilled, in age.
    #[n(15)]
    pub challenge_ms: u64,
    /// Open challenges of one destination.
    #[n(16)]
    pub max_challenges_per_node: u64,
    /// Pending slices of one origin.
    #[n(17)]
    pub max_pending_per_origin: u64,
    /// A node whose final attestations stay behind the cuts for longer than this has lapsed; in age.
    #[n(18)]
    pub lapse_ms: u64,
    /// How long a switch waits that the device alone has signed, where there is a recovery key; in age.
    #[n(19)]
    pub move_delay_ms: u64,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            routing_window_epochs: 256,
            validity_epochs: 16_384,
            cut_interval_ms: 25,
            heartbeat_ms: 1_000,
            deadline_cap_ms: 1_000,
            retention_ms: 30 * 24 * 3_600 * 1_000,
            max_recipients: 256,
            max_message_bytes: 1 << 20,
            max_bundle_messages: 1_024,
            max_bundle_bytes: 4 << 20,
            max_batch_bytes: 4 << 20,
            max_slices: 64,
            max_cut_headers: 256,
            max_mailboxes_per_node: 1_000_000,
            max_nodes: 1_024,
            challenge_ms: 60_000,
            max_challenges_per_node: 64,
            max_pending_per_origin: 65_536,
            lapse_ms: 300_000,
            move_delay_ms: 72 * 3_600 * 1_000,
        }
    }
}

impl Params {
    /// The most leaves, (message, recipient) pairs, that a batch within the limits can have.
    pub fn max_leaves(&self) -> u64 {
        (self.max_batch_bytes / RECIPIENT_BYTES).max(1)
    }
}

impl Genesis {
    /// The federation's id: the digest of the canonical bytes.
    pub fn id(&self) -> Digest {
        Digest::tagged("genesis", &[&encode(self)])
    }

    /// What is wrong with this genesis, if anything is.
    ///
    /// # Errors
    /// A sentence that names the value and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let p = &self.params;
        if self.committee.len() != 1 {
            return Err("committee: this version runs a committee of exactly one member".into());
        }
        if self.name.len() > 64 {
            return Err("name: at most 64 bytes".into());
        }
        if self.committee.iter().any(|member| member.addrs.len() > MAX_ADDRS) {
            return Err(format!("committee: at most {MAX_ADDRS} addresses for each member"));
        }
        if let Some(member) = self.committee.iter().find(|member| !member.node.is_acceptable()) {
            return Err(format!("committee: {} is not an acceptable key", member.node));
        }
        if p.routing_window_epochs < 8 {
            return Err("routing_window_epochs: at least 8".into());
        }
        if p.validity_epochs < p.routing_window_epochs.saturating_mul(4) {
            return Err("validity_epochs: at least four times routing_window_epochs".into());
        }
        if p.cut_interval_ms == 0 || p.heartbeat_ms < p.cut_interval_ms {
            return Err("cut_interval_ms: at least 1 and at most heartbeat_ms".into());
        }
        if p.lapse_ms < p.heartbeat_ms.saturating_mul(10) {
            return Err("lapse_ms: at least ten times heartbeat_ms".into());
        }
        let counts = [
            ("deadline_cap_ms", p.deadline_cap_ms),
            ("max_recipients", p.max_recipients),
            ("max_message_bytes", p.max_message_bytes),
            ("max_bundle_messages", p.max_bundle_messages),
            ("max_bundle_bytes", p.max_bundle_bytes),
            ("max_batch_bytes", p.max_batch_bytes),
            ("max_slices", p.max_slices),
            ("max_cut_headers", p.max_cut_headers),
            ("max_mailboxes_per_node", p.max_mailboxes_per_node),
            ("max_nodes", p.max_nodes),
            ("challenge_ms", p.challenge_ms),
            ("max_challenges_per_node", p.max_challenges_per_node),
            ("max_pending_per_origin", p.max_pending_per_origin),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name}: at least 1"));
        }
        let sizes = [p.max_message_bytes, p.max_bundle_bytes, p.max_batch_bytes];
        if sizes.iter().any(|bytes| *bytes > 8 << 20) {
            return Err("max_message_bytes, max_bundle_bytes, max_batch_bytes: at most 8388608".into());
        }
        if p.max_bundle_bytes > p.max_batch_bytes || p.max_message_bytes > p.max_bundle_bytes {
            return Err("a message must fit a bundle, and a bundle a batch".into());
        }
        if p.max_slices > 1_024 || p.max_cut_headers > 4_096 || p.max_recipients > 4_096 {
            return Err("max_slices: at most 1024; max_cut_headers and max_recipients: at most 4096".into());
        }
        Ok(())
    }
}

/// The text of a genesis file (TOML). Its layout is free: the id is that of the values, never of the text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    time_ms: u64,
    #[serde(default)]
    allow: Vec<String>,
    committee: Vec<TextMember>,
    #[serde(default)]
    params: Params,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextMember {
    node: String,
    addrs: Vec<String>,
}

/// A genesis file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable genesis file: {0}")]
pub struct BadGenesis(String);

impl Genesis {
    /// The text of a genesis file.
    pub fn to_text(&self) -> String {
        let text = Text {
            name: self.name.clone(),
            time_ms: self.time_ms,
            allow: self.allow.iter().map(NodeId::to_string).collect(),
            committee: (self.committee.iter())
                .map(|member| TextMember { node: member.node.to_string(), addrs: member.addrs.clone() })
                .collect(),
            params: self.params.clone(),
        };
        toml::to_string(&text).expect("a genesis has nothing that TOML cannot say")
    }

    /// Reads the text of a genesis file and checks it.
    ///
    /// # Errors
    /// [`BadGenesis`] says what is wrong and where.
    pub fn from_text(text: &str) -> Result<Genesis, BadGenesis> {
        let text: Text = toml::from_str(text).map_err(|error| BadGenesis(error.to_string()))?;
        let key = |text: &String| text.parse::<NodeId>().map_err(|error| BadGenesis(error.to_string()));
        let genesis = Genesis {
            name: text.name,
            time_ms: text.time_ms,
            committee: (text.committee.into_iter())
                .map(|member| Ok(Member { node: key(&member.node)?, addrs: member.addrs }))
                .collect::<Result<_, BadGenesis>>()?,
            allow: text.allow.iter().map(key).collect::<Result<_, _>>()?,
            params: text.params,
        };
        genesis.check().map_err(BadGenesis)?;
        Ok(genesis)
    }
}

/// A checked genesis with its id. Cheap to clone; whoever signs or verifies holds one.
#[derive(Clone, Debug)]
pub struct Federation {
    id: Digest,
    genesis: Arc<Genesis>,
}

impl Federation {
    /// Checks a genesis and computes its id.
    ///
    /// # Errors
    /// Those of [`Genesis::check`].
    pub fn new(genesis: Genesis) -> Result<Federation, BadGenesis> {
        genesis.check().map_err(BadGenesis)?;
        Ok(Federation { id: genesis.id(), genesis: Arc::new(genesis) })
    }

    /// The federation's id.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The limits and rates.
    pub fn params(&self) -> &Params {
        &self.genesis.params
    }

    /// The only member of a committee of one.
    pub fn sequencer(&self) -> NodeId {
        self.genesis.committee[0].node
    }
}
