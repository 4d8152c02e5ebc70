//! `postroad mailbox new`: a key, a home, and the record that ties them, settled in a cut.

use std::path::PathBuf;
use std::time::Duration;

use postroad_client::{Endpoint, Mailbox, NodeAddr, read_genesis};
use serde_json::json;

use super::output::{CliError, Output};

/// Arguments of `postroad mailbox`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad mailbox new --dir alice --home /ip4/127.0.0.1/tcp/4170/p2p/12D3KooW…
Running it again after an interruption is safe: the key stays, and so does the record.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a mailbox and register it with its home
    #[command(after_help = "\
Examples:
  postroad mailbox new --dir alice --home /ip4/127.0.0.1/tcp/4170/p2p/12D3KooW…
  postroad mailbox new --dir alice --home MULTIADDR --genesis federation.toml   trust this file, not the node")]
    New(New),
}

#[derive(Debug, clap::Args)]
struct New {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node that is to host it
    #[arg(long, value_name = "MULTIADDR")]
    home: String,
    /// The federation file; without it the home's word is taken, once, and remembered
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// How long to wait for the registration
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
}

/// Makes and registers the mailbox.
///
/// # Errors
/// If the directory belongs to another mailbox, or the home says no or nothing.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let Command::New(args) = args.command;
    let home: NodeAddr = args.home.parse()?;
    let within = Duration::from_millis(args.timeout_ms);
    let federation = match &args.genesis {
        Some(file) => read_genesis(file)?,
        None if Mailbox::exists(&args.dir) => Mailbox::open(&args.dir)?.federation().clone(),
        None => Endpoint::anonymous()?.genesis_within(&home, within).await?,
    };
    let mailbox = Mailbox::create(&args.dir, &home, &federation)?;
    let epoch = mailbox.register(within).await?;
    let (address, node) = (mailbox.address(), home.node());
    output.emit(
        &json!({
            "type": "mailbox",
            "address": address.to_string(),
            "home": node.to_string(),
            "epoch": epoch,
        }),
        &format!("{address}\n  lives at {node} since epoch {epoch}; its keys are in {}", args.dir.display()),
    )
}
