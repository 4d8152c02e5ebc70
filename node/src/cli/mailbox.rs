//! `postroad mailbox`: `new` makes a key, a home, and the record that ties them, settled in a cut; `new-recovery-key` the
//! key that the record may name; `export` and `import` are for the day on which the device is lost; `block`, `unblock` and
//! `blocked` are about the senders from whom it takes no mail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_client::{Endpoint, Mailbox, NodeAddr, new_secret_key, read_genesis, read_secret_key};
use postroad_protocol::{MailboxId, PublicKey};
use serde_json::json;

use super::client_side::usage;
use super::export;
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
  postroad mailbox new --dir alice --home MULTIADDR --genesis federation.toml   trust this file, not the node
  postroad mailbox new --dir alice --home MULTIADDR --recovery-key 12D3KooW…")]
    New(New),
    /// Make a recovery key, to be named with `new --recovery-key` and kept away from the mailbox
    #[command(after_help = "\
Examples:
  postroad mailbox new-recovery-key --out recovery.key
Keep the file where a thief of the device does not find it: it overrides what the device's key alone has signed.
Only its public half, which is printed, is needed to make a mailbox.")]
    NewRecoveryKey(NewRecoveryKey),
    /// Write the whole state of a mailbox, keys included, to a file under a passphrase
    #[command(after_help = "\
Examples:
  postroad mailbox export --mailbox alice --out alice.age
  postroad mailbox export --mailbox alice --out alice.age --passphrase-file secret.txt
Nobody may send or receive for the mailbox meanwhile. The file is in the age format (age-encryption.org).")]
    Export(export::Export),
    /// Make a mailbox's directory of a file that `export` wrote
    #[command(after_help = "\
Examples:
  postroad mailbox import --in alice.age --mailbox alice
No other copy of the mailbox may be used from then on. What waited to be sent when it was exported is sent, unless the
mailbox was used to send since; then it was sent by that, and is not sent again.")]
    Import(export::Import),
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
    /// The key that can take the mailbox back from a thief: what `new-recovery-key` printed, or its file
    #[arg(long, value_name = "KEY_OR_FILE")]
    recovery_key: Option<String>,
    /// How long to wait for the registration
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
}

#[derive(Debug, clap::Args)]
struct NewRecoveryKey {
    /// The file to write the secret key to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Makes and registers a mailbox, exports or imports one, makes a recovery key, or changes or shows a block list.
///
/// # Errors
/// If the directory belongs to another mailbox, or the home says no or nothing.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    match args.command {
        Command::New(args) => new(args, output).await,
        Command::NewRecoveryKey(args) => new_recovery_key(&args.out, output),
        Command::Export(args) => export::export(args, output).await,
        Command::Import(args) => export::import(args, output).await,
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
    let recovery = args.recovery_key.as_deref().map(recovery_key).transpose()?;
    let mailbox = Mailbox::create_with(&args.dir, &home, &federation, recovery)?;
    let epoch = mailbox.register(within).await?;
    let (address, node) = (mailbox.address(), home.node());
    output.emit(
        &json!({
            "type": "mailbox",
            "address": address.to_string(),
            "home": node.to_string(),
            "epoch": epoch,
            "recovery_key": mailbox.recovery_key().map(|key| key.to_string()),
        }),
        &format!(
            "{address}\n  lives at {node} since epoch {epoch}; its keys are in {}{}",
            args.dir.display(),
            recovery_line(mailbox.recovery_key())
        ),
    )
}

/// What people are told of a recovery key: a line of its own, or nothing.
pub(super) fn recovery_line(key: Option<PublicKey>) -> String {
    key.map(|key| format!("\n  its recovery key is {key}")).unwrap_or_default()
}

/// A public key, or the public half of the secret key in a file.
fn recovery_key(word: &str) -> Result<PublicKey, CliError> {
    if let Ok(key) = word.parse() {
        return Ok(key);
    }
    let path = Path::new(word);
    if !path.exists() {
        let message = format!("--recovery-key: {word} is neither a public key nor a file");
        return Err(usage(message, "give what `postroad mailbox new-recovery-key` printed, or the file that it wrote"));
    }
    Ok(read_secret_key(path)?.public())
}

fn new_recovery_key(out: &Path, output: &Output) -> Result<(), CliError> {
    let key = new_secret_key(out)?.public().to_string();
    output.emit(
        &json!({ "type": "recovery-key", "key": key, "file": out }),
        &format!("{key}\n  its secret is in {}: keep that away from the mailbox, and do not lose it", out.display()),
    )
}
