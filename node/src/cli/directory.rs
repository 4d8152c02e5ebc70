//! `postroad directory show`: where a mailbox lives, with proof.

use std::path::PathBuf;

use postroad_client::{ClientError, Directory, Endpoint, Mailbox, NodeAddr};
use postroad_protocol::MailboxId;
use serde_json::json;

use super::client_side::{default_node, usage};
use super::mailbox::recovery_line;
use super::output::{CliError, Output};

/// Arguments of `postroad directory`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad directory show 12D3KooW… --node /ip4/127.0.0.1/tcp/4170/p2p/12D3KooW…
  postroad directory show 12D3KooW… --mailbox alice      asks the home of alice, under alice's federation")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A mailbox's home, since when it lives there, and its recovery key
    #[command(after_help = "\
Examples:
  postroad directory show 12D3KooW… --node MULTIADDR
  postroad directory show 12D3KooW… --mailbox alice")]
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The mailbox's address
    #[arg(value_name = "ADDR")]
    address: String,
    /// The node to ask; without it POSTROAD_NODE, or the first of ./testnet.json
    #[arg(long, value_name = "MULTIADDR", conflicts_with = "mailbox")]
    node: Option<String>,
    /// Ask the home of this mailbox, and trust the federation that it trusts
    #[arg(long, value_name = "DIR")]
    mailbox: Option<PathBuf>,
}

/// Asks and checks the proof.
///
/// # Errors
/// If the mailbox is not registered, or the proof does not hold.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let Command::Show(args) = args.command;
    let mailbox: MailboxId = args
        .address
        .parse()
        .map_err(|error| usage(format!("{error}"), "give the address that `mailbox new` printed"))?;
    let endpoint = Endpoint::anonymous()?;
    let (node, federation) = match (&args.mailbox, &args.node) {
        (Some(dir), _) => {
            let own = Mailbox::open(dir)?;
            (own.home().clone(), own.federation().clone())
        }
        (None, node) => {
            let node: NodeAddr = match node {
                Some(text) => text.parse()?,
                None => default_node()?,
            };
            let federation = endpoint.genesis(&node).await?;
            (node, federation)
        }
    };
    let found = Directory::new(endpoint, node, federation).look_up(&mailbox).await?;
    let place = found.value.ok_or(ClientError::NotRegistered { mailbox })?;
    let (home, epoch) = (place.home, place.since);
    output.emit(
        &json!({
            "type": "home",
            "epoch": epoch,
            "home": home.to_string(),
            "recovery_key": place.recovery_key.map(|key| key.to_string()),
        }),
        &format!(
            "{mailbox}\n  lives at {home} since epoch {epoch} (proven as of epoch {}){}",
            found.as_of,
            recovery_line(place.recovery_key)
        ),
    )
}
