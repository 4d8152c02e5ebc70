//! `postroad init`: a node's directory with its key and a commented configuration.
//!
//! It never overwrites: what is there stays, and a directory that lacks nothing is refused.

use std::path::PathBuf;

use postroad_net::Multiaddr;
use postroad_protocol::SecretKey;
use serde_json::json;

use super::output::{CliError, Exit, Output};
use crate::config::{ConfigError, NodeConfig, NodeDir, read_genesis, render};

/// Arguments of `postroad init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad init --dir node --name uni --listen /ip4/192.0.2.7/tcp/4170 --genesis federation.toml
  postroad init --dir node            then edit node/postroad.toml")]
pub struct Args {
    /// The node's directory; it is made if it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// A name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Where to listen; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
    /// The federation to join; without it the node cannot run yet
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
}

/// Makes the directory.
///
/// # Errors
/// If there is nothing left to make, the genesis is not usable, or the disk refuses.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let federation = args.genesis.as_deref().map(read_genesis).transpose()?;
    let dir = NodeDir::new(&args.dir);
    let wants_config = args.name.is_some() || !args.listen.is_empty();
    let mut config = NodeConfig::default();
    if let Some(name) = args.name {
        config.name = name;
    }
    if !args.listen.is_empty() {
        config.listen = args.listen;
    }
    config.check().map_err(|message| CliError::usage("config", message, ""))?;

    let mut made = Vec::new();
    match dir.write_key(&SecretKey::from_seed(rand::random())) {
        Ok(()) => made.push("key"),
        Err(ConfigError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match dir.write_config(&render(&config)) {
        Ok(()) => made.push("postroad.toml"),
        Err(ConfigError::Exists { .. }) if !wants_config => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(federation) = &federation
        && !dir.genesis().exists()
    {
        dir.write_genesis(federation)?;
        made.push("genesis.toml");
    }
    if made.is_empty() {
        let message = format!("{} is a node's directory already", args.dir.display());
        return Err(CliError::refused("exists", message, "run it with postroad run, or choose another directory"));
    }
    let peer_id = dir.read_key()?.public().to_string();
    let next = match dir.genesis().exists() {
        true => format!("postroad run --dir {}", args.dir.display()),
        false => format!("put the federation's genesis file at {}", dir.genesis().display()),
    };
    output.emit(
        &json!({ "type": "node", "peer_id": peer_id, "dir": args.dir, "made": made }),
        &format!("node {peer_id}\nmade {} in {}\nnext: {next}", made.join(", "), args.dir.display()),
    )
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        let (exit, code, fix) = match &error {
            ConfigError::Missing { .. } => (Exit::Usage, "missing", "make the directory with postroad init"),
            ConfigError::NoGenesis { .. } => (Exit::Usage, "no-genesis", ""),
            ConfigError::Bad { .. } => (Exit::Usage, "config", "correct the file"),
            ConfigError::BadSetting { .. } => (Exit::Usage, "config", "correct the value"),
            ConfigError::ExposedKey { .. } => (Exit::Usage, "exposed-key", ""),
            ConfigError::OtherStore { .. } => (Exit::Usage, "other-store", "correct store in the configuration"),
            ConfigError::Exists { .. } => (Exit::Refused, "exists", "choose another directory, or edit the file"),
            ConfigError::Unreadable { .. } | ConfigError::Unwritable { .. } => {
                (Exit::Refused, "io", "check the path, its permissions and the free space")
            }
        };
        CliError::new(exit, code, error.to_string(), fix)
    }
}
