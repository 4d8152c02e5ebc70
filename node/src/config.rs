//! A node's configuration: `postroad.toml`, the environment and flags, in this order; the last one wins.
//!
//! [`NodeConfig`] is what a node runs with. The written file comes from the same struct that reads it (`config/text.rs`
//! adds the comments), so the two cannot drift. What is refused: unknown keys, wrong types (with the line), values that
//! cannot work, and a key that others may read. Where things lie in a node's directory is [`NodeDir`]'s to say.

mod cheating;
mod dir;
mod error;
mod ready;
mod text;
mod values;

use std::path::{Path, PathBuf};

use postroad_net::{Multiaddr, PeerId, join_address, split_address};
use postroad_protocol::record::MAX_DEPUTIES;
use postroad_protocol::{Federation, NodeId};
use serde::{Deserialize, Serialize};

pub use cheating::{Cheating, Sins};
pub use dir::NodeDir;
pub use error::ConfigError;
pub use ready::{Ready, Serving};
pub use text::render;
pub use values::{Blame, DeputyFor, Http, Limits, LogFormat, Moves, Registration, StoreKind};

/// What a node runs with. Every key of `postroad.toml` is a field of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node's directory: key, genesis, store and guard. Never in the file, which lies in it.
    #[serde(skip)]
    pub dir: NodeDir,
    /// Told once the node serves. Never in the file.
    #[serde(skip)]
    pub ready: Ready,
    /// Told of every sin. Never in the file.
    #[serde(skip)]
    pub sins: Sins,
    /// A name for people, put into the node record.
    pub name: String,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// The addresses in the node record; empty means [`NodeConfig::announced`] derives them.
    pub announce: Vec<Multiaddr>,
    /// Other nodes to join through, beside the committee in genesis; each ends in `/p2p/ID`.
    pub bootstrap: Vec<Multiaddr>,
    /// The nodes that stand in for this one while it is away, in order of preference; each if it consents.
    #[serde(with = "values::node_ids")]
    pub deputies: Vec<NodeId>,
    /// Which nodes may name this one among theirs.
    pub deputy_for: DeputyFor,
    /// Who may register a mailbox here.
    pub allow_registration: Registration,
    /// The storage engine.
    pub store: StoreKind,
    /// The longest pause between two dials of a node that is away.
    pub redial_cap_ms: u64,
    /// What to log on standard error.
    pub log: String,
    /// And in which form.
    pub log_format: LogFormat,
    /// How the node cheats, in a testnet and in a build that can; in no file that says nothing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cheat: Option<Cheating>,
    /// HTTP for operators.
    pub http: Http,
    /// Which mailboxes may move here.
    pub moves: Moves,
    /// What to do about nodes that evidence convicts.
    pub blame: Blame,
    /// The bounds of what strangers can make this node hold.
    pub limits: Limits,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        let address = |text: &str| text.parse().expect("a well-formed constant");
        NodeConfig {
            dir: NodeDir::default(),
            ready: Ready::default(),
            sins: Sins::default(),
            name: String::new(),
            listen: vec![address("/ip4/0.0.0.0/tcp/4170"), address("/ip4/0.0.0.0/udp/4170/quic-v1")],
            announce: Vec::new(),
            bootstrap: Vec::new(),
            deputies: Vec::new(),
            deputy_for: DeputyFor::Anybody,
            allow_registration: Registration::Open,
            store: StoreKind::Redb,
            redial_cap_ms: 60_000,
            log: "info,libp2p_swarm=warn".to_owned(),
            log_format: LogFormat::Text,
            cheat: None,
            http: Http::default(),
            moves: Moves::default(),
            blame: Blame::default(),
            limits: Limits::default(),
        }
    }
}

/// A value from the environment or the command line, on its way into a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it comes from, as the operator wrote it: `POSTROAD_NAME`, `--name`.
    pub origin: String,
    /// Its key, as in `name` or `limits.max_clients`.
    pub key: String,
    /// Its value; lists are separated by commas.
    pub value: String,
}

impl Setting {
    /// A setting that a flag gives.
    pub fn flag(flag: &str, key: &str, value: impl Into<String>) -> Setting {
        Setting { origin: flag.to_owned(), key: key.to_owned(), value: value.into() }
    }

    /// The settings among environment variables: those whose name is `POSTROAD_` and a key, as in
    /// `POSTROAD_LIMITS_MAX_CLIENTS`. Others with that prefix are somebody else's.
    pub fn from_env(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Setting> {
        let keys = text::keys();
        let setting = |(name, value): (String, String)| {
            let key = keys.iter().find(|key| text::variable(key) == name)?;
            Some(Setting { origin: name, key: key.clone(), value })
        };
        variables.into_iter().filter_map(setting).collect()
    }
}

impl NodeConfig {
    /// Reads `postroad.toml` of a node's directory, then lets `settings` override it, later ones over earlier ones.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line or the setting, and what would be right.
    pub fn load(dir: &Path, settings: &[Setting]) -> Result<NodeConfig, ConfigError> {
        let dir = NodeDir::new(dir);
        let path = dir.config();
        let text = dir.read(&path, "postroad init writes it")?;
        let mut config =
            NodeConfig::parse(&text).map_err(|message| ConfigError::Bad { path: path.clone(), message })?;
        config.dir = dir;
        for setting in settings {
            config = config.with(setting)?;
        }
        config.check().map_err(|message| ConfigError::Bad { path, message })?;
        Ok(config)
    }

    /// Reads the text of a `postroad.toml`.
    ///
    /// # Errors
    /// A sentence with the line and column.
    pub fn parse(text: &str) -> Result<NodeConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// This configuration with one value replaced.
    ///
    /// # Errors
    /// [`ConfigError::BadSetting`] if there is no such key or the value does not fit it.
    pub fn with(&self, setting: &Setting) -> Result<NodeConfig, ConfigError> {
        let bad = |message: String| ConfigError::BadSetting { origin: setting.origin.clone(), message };
        let mut table = toml::Table::try_from(self).map_err(|error| bad(error.to_string()))?;
        let slot = text::slot(&mut table, &setting.key).ok_or_else(|| bad(format!("no key {:?}", setting.key)))?;
        *slot = text::value_like(slot, &setting.value).map_err(bad)?;
        let mut config: NodeConfig =
            table.try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
        config.dir = self.dir.clone();
        config.ready = self.ready.clone();
        config.sins = self.sins.clone();
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// A sentence that names the key and what it must be.
    pub fn check(&self) -> Result<(), String> {
        if self.listen.is_empty() {
            return Err("listen: at least one address".to_owned());
        }
        if self.name.len() > 64 {
            return Err("name: at most 64 bytes".to_owned());
        }
        if let Some(address) = self.bootstrap.iter().find(|address| split_address(&address.to_string()).is_err()) {
            return Err(format!("bootstrap: {address} must say where and end in /p2p/ID"));
        }
        if self.deputies.len() > MAX_DEPUTIES {
            return Err(format!("deputies: at most {MAX_DEPUTIES}"));
        }
        if let Some((_, twice)) =
            (self.deputies.iter().enumerate()).find(|(at, deputy)| self.deputies[..*at].contains(deputy))
        {
            return Err(format!("deputies: {twice} stands there twice"));
        }
        if self.redial_cap_ms == 0 {
            return Err("redial_cap_ms: at least 1".to_owned());
        }
        self.store.check()?;
        self.blame.check()?;
        self.limits.check()
    }

    /// Where the store of the engine that the configuration names lies, or will lie.
    ///
    /// # Errors
    /// [`ConfigError::OtherStore`] if the directory has one of another engine: a new one beside it would begin empty.
    pub fn store_path(&self) -> Result<PathBuf, ConfigError> {
        let others = [StoreKind::Redb, StoreKind::Sled].into_iter().filter(|other| *other != self.store);
        for kind in others {
            let found = self.dir.store(kind);
            if found.exists() {
                return Err(ConfigError::OtherStore { found, kind, wanted: self.store });
            }
        }
        Ok(self.dir.store(self.store))
    }

    /// The addresses for the node record: `announce`, or else those of `listen` that others can dial as they stand.
    pub fn announced(&self) -> Vec<Multiaddr> {
        if !self.announce.is_empty() {
            return self.announce.clone();
        }
        self.listen.iter().filter(|address| is_concrete(address)).cloned().collect()
    }
}

/// Whether an address names a host and a port, not "any".
pub fn is_concrete(address: &Multiaddr) -> bool {
    let text = address.to_string();
    let mut parts = text.split('/');
    !parts.any(|part| matches!(part, "0.0.0.0" | "::" | "0"))
}

/// An address with `/p2p/ID` at its end, put there if it is missing.
pub fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    match split_address(&address.to_string()) {
        Ok(_) => address.clone(),
        Err(_) => join_address(peer, address),
    }
}

/// The federation in a genesis file.
///
/// # Errors
/// [`ConfigError`] if the file is missing or not usable.
pub fn read_genesis(path: &Path) -> Result<Federation, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::NoGenesis { path: path.to_owned() },
        _ => ConfigError::Unreadable { path: path.to_owned(), source },
    })?;
    let bad = |message: String| ConfigError::Bad { path: path.to_owned(), message };
    let genesis = postroad_protocol::Genesis::from_text(&text).map_err(|error| bad(error.to_string()))?;
    Federation::new(genesis).map_err(|error| bad(error.to_string()))
}
