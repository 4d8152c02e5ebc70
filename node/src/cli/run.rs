//! `postroad run`: one node, in the foreground, until it is asked to end.
//!
//! The directory's lock comes before everything that the directory holds: two processes under one key would contradict
//! each other. Then the node drains: on SIGTERM or Ctrl-C, and with `--with-parent` also when standard input ends, which
//! is how a node that a testnet started notices that the testnet is gone, however it went.

use std::path::PathBuf;

use postroad_net::{Multiaddr, peer_id_from_secret};
use postroad_store::{DirLock, StoreError};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::output::{CliError, Output};
use super::signals::{Signals, Stop};
use super::testnet::record;
use crate::config::{LogFormat, NodeConfig, Ready, Serving, Setting, Sins, with_peer};
use crate::driver::{NodeError, run_node};

/// Arguments of `postroad run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every value of postroad.toml can also be given as POSTROAD_<KEY> in the environment or by --set. Flags win over the
environment, and the environment over the file. SIGTERM and Ctrl-C drain: what was accepted is safe in any case.

Examples:
  postroad run --dir node
  postroad run --dir node --listen /ip4/127.0.0.1/tcp/4170 --set limits.max_clients=100
  postroad run --dir net/node-3        takes its place in a testnet again")]
pub struct Args {
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// A name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Where to listen; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
    /// The addresses under which others reach this node; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Vec<Multiaddr>,
    /// Another node to join through; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<Multiaddr>,
    /// Who may register a mailbox: open, closed, or addresses separated by commas
    #[arg(long, value_name = "WHO")]
    pub allow_registration: Option<String>,
    /// Any value of postroad.toml, as in limits.max_clients=100; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Drain and end when standard input ends
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Args {
    /// The log filter, `wanted` or else what the configuration says, and the form of log lines.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn logging(&self, wanted: Option<String>) -> Result<(String, LogFormat), CliError> {
        let config = self.config()?;
        Ok((wanted.unwrap_or(config.log), config.log_format))
    }

    fn config(&self) -> Result<NodeConfig, CliError> {
        let variables = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
        let mut settings = Vec::new();
        for (key, value) in variables.filter(|(key, _)| key.starts_with("POSTROAD_")) {
            let value = value.into_string().map_err(|_| {
                CliError::usage("config", format!("{key}: the value is not UTF-8"), "correct the value")
            })?;
            settings.push((key, value));
        }
        let mut settings = Setting::from_env(settings);
        settings.extend(self.settings());
        Ok(NodeConfig::load(&self.dir, &settings)?)
    }

    fn settings(&self) -> Vec<Setting> {
        let list = |addrs: &[Multiaddr]| {
            let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        };
        let flags = [
            ("--name", "name", self.name.clone()),
            ("--listen", "listen", list(&self.listen)),
            ("--announce", "announce", list(&self.announce)),
            ("--bootstrap", "bootstrap", list(&self.bootstrap)),
            ("--allow-registration", "allow_registration", self.allow_registration.clone()),
        ];
        let set = self.set.iter().map(|(key, value)| Setting::flag(&format!("--set {key}"), key, value));
        let flags = flags.into_iter().filter_map(|(flag, key, value)| Some(Setting::flag(flag, key, value?)));
        set.chain(flags).collect()
    }
}

/// Runs the node.
///
/// # Errors
/// If the directory is in use or not usable, or the node had to stop.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let mut signals = Signals::catch().map_err(|error| CliError::io("catch signals", &error))?;
    let mut config = args.config()?;
    let _lock = DirLock::take(&args.dir).map_err(locked)?;
    let peer_id = peer_id_from_secret(&config.dir.read_key()?.seed());
    config.dir.read_genesis()?;
    if config.announced().is_empty() {
        tracing::warn!("this node announces no address, so others cannot dial it: set announce in postroad.toml");
    }
    if config.cheat.is_some() && !record::is_testnet(&args.dir) {
        let message = format!("{} is in no testnet, and nodes cheat nowhere else", args.dir.display());
        return Err(CliError::usage("cheat", message, "remove the key cheat from postroad.toml"));
    }
    record::take_place(&args.dir, &peer_id.to_string())?;

    let (ready, mut serves) = Ready::channel();
    config.ready = ready;
    let (sins, mut sinned) = Sins::channel();
    config.sins = sins;
    let (shutdown, asked) = watch::channel(false);
    let mut node = std::pin::pin!(run_node(config, asked));
    let mut parent = std::pin::pin!(parent_gone());
    let mut stopped_by = None;
    loop {
        tokio::select! {
            ended = &mut node => {
                ended.map_err(stopped)?;
                break;
            }
            // The sender of this channel lives as long as the node does, so an error means that the node is ending.
            Ok(()) = serves.changed() => {
                let Serving { addrs, http } = serves.borrow_and_update().clone().unwrap_or_default();
                let addrs: Vec<String> = addrs.iter().map(|addr| with_peer(addr, peer_id).to_string()).collect();
                let mut plain = format!("node {peer_id} serves on\n  {}", addrs.join("\n  "));
                if let Some(http) = http {
                    plain.push_str(&format!("\n  http://{http}/metrics and /healthz"));
                }
                let line = json!({
                    "type": "ready", "peer_id": peer_id.to_string(), "addrs": addrs, "http": http,
                });
                let told = output.emit(&line, &plain);
                if let Err(error) = told {
                    tracing::warn!(%error, "nobody reads that this node is ready");
                }
            }
            Some((sin, epoch)) = sinned.recv() => {
                let line = json!({ "type": "sinned", "peer_id": peer_id.to_string(), "sin": sin, "epoch": epoch });
                // The log has it as well.
                let _ = output.emit(&line, &format!("sinned: {sin} in epoch {epoch}"));
            }
            stop = signals.next() => {
                if stopped_by.replace(stop).is_some() {
                    // Asked twice: whoever waits is out of patience, and a crash loses nothing.
                    return Err(CliError::interrupted());
                }
                let _ = shutdown.send(true);
            }
            () = &mut parent, if args.with_parent && stopped_by.is_none() => {
                stopped_by = Some(Stop::Terminate);
                let _ = shutdown.send(true);
            }
        }
    }
    match stopped_by {
        Some(Stop::Interrupt) => Err(CliError::interrupted()),
        _ => Ok(()),
    }
}

/// Waits for the end of standard input.
async fn parent_gone() {
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    while matches!(input.read(&mut bytes).await, Ok(count) if count > 0) {}
}

/// What to do about a record that is damaged.
pub(super) const DAMAGED: &str = "check the disk; postroad fsck names all damaged records; then restore a backup, or see \"Damaged records\" in docs/operators.md";

/// What a lock that was not given means.
pub(super) fn locked(error: StoreError) -> CliError {
    match error {
        StoreError::InUse { .. } => CliError::in_use(error.to_string()),
        StoreError::Full => CliError::refused("full", error.to_string(), "free some space, and start it again"),
        StoreError::Corrupt { .. } => CliError::refused("store-damaged", error.to_string(), DAMAGED),
        _ => CliError::refused("store", error.to_string(), "check the directory and its disk"),
    }
}

/// Why a node has stopped, and what to do.
fn stopped(error: NodeError) -> CliError {
    let message = error.to_string();
    match error {
        NodeError::Config(error) => error.into(),
        NodeError::Store(error) => locked(error),
        NodeError::Guard(_) => {
            CliError::refused("guard", message, "never restore or delete the guard of a running key")
        }
        NodeError::Network(_) => CliError::refused("network", message, "check listen, and that the ports are free"),
        NodeError::Fatal(_) => CliError::refused("stopped", message, "see the log, check the disk, and start it again"),
    }
}
