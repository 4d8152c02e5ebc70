//! `postroad directory show`: where a mailbox lives, with proof.

use std::path::PathBuf;

use postroad_client::{ClientError, Directory, Endpoint, History, Mailbox, NodeAddr};
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
  postroad directory show 12D3KooW… --mailbox alice
  postroad directory show 12D3KooW… --mailbox alice --history")]
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
    /// Show its former homes as well, each with the record that made it the home
    #[arg(long)]
    history: bool,
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
    if args.history {
        let history = History::of(&mailbox, endpoint, node, &federation).await?;
        return show_history(&mailbox, &history, output);
    }
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

/// One line per home, the oldest first.
fn show_history(mailbox: &MailboxId, history: &History, output: &Output) -> Result<(), CliError> {
    if history.is_cut_short {
        let line = json!({ "type": "earlier-homes", "address": mailbox.to_string() });
        output.emit(&line, "  (it has had earlier homes, which the federation's state has forgotten)")?;
    }
    for residence in &history.residences {
        let (home, since, until) = (residence.home.to_string(), residence.since, residence.until);
        let signed = residence.record.map(|record| {
            let by = [(true, "home"), (record.by_device, "device"), (record.by_recovery, "recovery")];
            by.into_iter().filter(|(signed, _)| *signed).map(|(_, who)| who).collect::<Vec<_>>()
        });
        let line = json!({
            "type": "residence",
            "home": home,
            "since": since,
            "until": until,
            "record": residence.record.map(|record| record.digest.to_string()),
            "registration": residence.record.map(|record| record.is_registration),
            "signed": signed,
            "as_of": history.as_of,
        });
        let time = match until {
            Some(until) => format!("from epoch {since} to {until}"),
            None => format!("since epoch {since}"),
        };
        let by = match (&residence.record, &signed) {
            (Some(record), Some(signed)) => {
                let what = if record.is_registration { "registration" } else { "switch" };
                format!("{what} {}, signed by {}", record.digest, signed.join(", "))
            }
            _ => "its record is in no cut of that epoch that this node has".to_owned(),
        };
        output.emit(&line, &format!("{home} {time}\n  {by}"))?;
    }
    Ok(())
}
