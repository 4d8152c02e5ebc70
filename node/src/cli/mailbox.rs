//! `postroad mailbox`: `new` makes a key, a home, and the record that ties them, settled in a cut; `block`, `unblock`
//! and `blocked` are about the senders from whom it takes no mail.

use std::path::PathBuf;
use std::time::Duration;

use postroad_client::{Endpoint, Mailbox, NodeAddr, read_genesis};
use postroad_protocol::MailboxId;
use serde_json::json;

use super::client_side::usage;
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
    /// Take no more mail from these senders
    #[command(after_help = "\
Examples:
  postroad mailbox block --mailbox alice 12D3KooW…
The home refuses their mail from then on, and tells them so. What is on its way may still arrive.")]
    Block(Change),
    /// Take mail from these senders again
    Unblock(Change),
    /// Show from whom no mail is taken
    Blocked(Blocked),
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The senders' addresses
    #[arg(value_name = "ADDR", required = true, num_args = 1..)]
    senders: Vec<String>,
    #[command(flatten)]
    at: Blocked,
}

#[derive(Debug, clap::Args)]
struct Blocked {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
    /// How long to wait for the home
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
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

/// Makes and registers a mailbox, or changes or shows its block list.
///
/// # Errors
/// If the directory belongs to another mailbox, or the home says no or nothing.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    match args.command {
        Command::New(args) => new(args, output).await,
        Command::Block(change) => block(&change.at, &addresses(&change.senders)?, &[], output).await,
        Command::Unblock(change) => block(&change.at, &[], &addresses(&change.senders)?, output).await,
        Command::Blocked(at) => block(&at, &[], &[], output).await,
    }
}

fn addresses(words: &[String]) -> Result<Vec<MailboxId>, CliError> {
    let address = |word: &String| word.parse().map_err(|error| usage(format!("{word}: {error}"), "check the address"));
    words.iter().map(address).collect()
}

/// Changes the block list, where there is something to change, and shows it.
async fn block(at: &Blocked, block: &[MailboxId], unblock: &[MailboxId], output: &Output) -> Result<(), CliError> {
    let mailbox = Mailbox::open(&at.mailbox)?;
    let blocked = mailbox.block(block, unblock, Duration::from_millis(at.timeout_ms)).await?;
    let senders: Vec<String> = blocked.iter().map(ToString::to_string).collect();
    let plain = if senders.is_empty() { "nobody is blocked".to_owned() } else { senders.join("\n") };
    output.emit(&json!({ "type": "blocked", "address": mailbox.address().to_string(), "senders": senders }), &plain)
}

async fn new(args: New, output: &Output) -> Result<(), CliError> {
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
