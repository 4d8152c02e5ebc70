//! `postroad evidence`: what a node keeps of others' faults; and judging a file of it, with nothing but the genesis.
//!
//! Every verdict that is printed was judged here. Of the node's own word are only when it came and from whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_client::{Endpoint, NodeAddr, read_genesis};
use postroad_engine::{serve, tables};
use postroad_protocol::codec::encode;
use postroad_protocol::evidence::{Claim, ClaimError, Verdict};
use postroad_protocol::wire::call::{Filed, Question, Reply};
use postroad_protocol::{Digest, Federation};
use postroad_store::{DirLock, Store};
use serde_json::json;

use super::client_side::{default_node, usage};
use super::output::{CliError, Output};
use super::run::locked;
use crate::config::{NodeDir, StoreKind};

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `postroad evidence`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad evidence list --node MULTIADDR
  postroad evidence show ID --node MULTIADDR
  postroad evidence export ID --out fault.evidence --dir node
  postroad evidence verify fault.evidence --genesis genesis.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All evidence that a node keeps
    #[command(
        after_help = "Examples:\n  postroad evidence list --node MULTIADDR --json\n  postroad evidence list --dir node"
    )]
    List(Source),
    /// One piece of evidence
    #[command(after_help = "Examples:\n  postroad evidence show ID --node MULTIADDR")]
    Show(One),
    /// Write one piece of evidence to a file, which anybody can verify offline
    #[command(after_help = "Examples:\n  postroad evidence export ID --out fault.evidence --node MULTIADDR")]
    Export(Export),
    /// Judge a file with nothing but the federation's genesis
    #[command(after_help = "Examples:\n  postroad evidence verify fault.evidence --genesis genesis.toml")]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Source {
    /// The node to ask; without it POSTROAD_NODE, or the first of ./testnet.json
    #[arg(long, value_name = "MULTIADDR", conflicts_with = "dir")]
    node: Option<String>,
    /// Read the store of this node, which must be stopped
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The evidence's id, or so much of its beginning that there is no other
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
struct Export {
    #[command(flatten)]
    one: One,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The evidence, as `evidence export` wrote it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The federation's genesis
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
}

/// Lists, shows, exports or judges.
///
/// # Errors
/// If the node does not answer, its store cannot be read, or what it keeps does not hold.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    match args.command {
        Command::List(source) => {
            let (all, federation) = read(&source).await?;
            all.iter().try_for_each(|filed| tell(filed, &federation, output))
        }
        Command::Show(one) => {
            let (filed, federation) = find(&one).await?;
            tell(&filed, &federation, output)
        }
        Command::Export(Export { one, out }) => {
            let (filed, federation) = find(&one).await?;
            std::fs::write(&out, filed.claim.to_file(&federation))
                .map_err(|error| CliError::io(format_args!("write {}", out.display()), &error))?;
            tell(&filed, &federation, output)
        }
        Command::Verify(Verify { file, genesis }) => {
            let federation = read_genesis(&genesis)?;
            let bytes =
                std::fs::read(&file).map_err(|error| CliError::io(format_args!("read {}", file.display()), &error))?;
            judge_file(&file, &bytes, &federation, output)
        }
    }
}

/// Judges the bytes of a file, and prints the verdict.
///
/// # Errors
/// `cleared` when the accused is innocent; `malformed` when the file proves nothing.
pub(super) fn judge_file(file: &Path, bytes: &[u8], federation: &Federation, to: &Output) -> Result<(), CliError> {
    let unproven = |error: ClaimError| {
        let message = format!("{} proves nothing: {error}", file.display());
        CliError::unverified("malformed", message, "get the evidence again from whoever has it")
    };
    let claim = Claim::from_file(bytes, federation).map_err(unproven)?;
    let (id, accused) = (claim.id(federation), claim.accused(federation));
    match claim.judge(federation) {
        Ok(verdict) => to.emit(&verdict_line(&verdict, &id), &plain(&verdict, &id)),
        Err(ClaimError::Cleared(reason)) => {
            let kind = claim.fault().code();
            let line = json!({
                "type": "cleared", "reason": reason.to_string(), "accused": accused.to_string(), "kind": kind,
            });
            to.emit(&line, &format!("cleared: {accused} is innocent of {kind}\n  {reason}"))?;
            Err(CliError::refused("cleared", format!("the accused is innocent: {reason}"), ""))
        }
        Err(error) => Err(unproven(error)),
    }
}

fn verdict_line(verdict: &Verdict, id: &Digest) -> serde_json::Value {
    json!({
        "type": "verdict",
        "result": "guilty",
        "kind": verdict.fault.code(),
        "culprit": verdict.culprit.to_string(),
        "epoch": verdict.epoch,
        "seq": verdict.seq.map(|seq| seq.to_string()),
        "mailbox": verdict.mailbox.map(|mailbox| mailbox.to_string()),
        "id": id.to_string(),
    })
}

fn plain(verdict: &Verdict, id: &Digest) -> String {
    let mut text = format!("{} by {}\n  epoch    {}", verdict.fault, verdict.culprit, verdict.epoch);
    if let Some(seq) = verdict.seq {
        text.push_str(&format!("\n  message  {seq}"));
    }
    if let Some(mailbox) = verdict.mailbox {
        text.push_str(&format!("\n  mailbox  {mailbox}"));
    }
    text.push_str(&format!("\n  id       {id}"));
    text
}

/// Judges what a node keeps, and prints it.
fn tell(filed: &Filed, federation: &Federation, output: &Output) -> Result<(), CliError> {
    let (id, bytes) = (filed.claim.id(federation), encode(&filed.claim).len());
    let verdict = filed.claim.judge(federation).map_err(|error| {
        let message = format!("the node keeps as evidence {id} what is none: {error}");
        CliError::unverified("unverified", message, "do not believe this node")
    })?;
    let mut line = verdict_line(&verdict, &id);
    line["type"] = "evidence".into();
    line["found_epoch"] = filed.found_epoch.into();
    line["found_by"] = filed.found_by.to_string().into();
    line["bytes"] = bytes.into();
    if let Some(line) = line.as_object_mut() {
        line.remove("result");
    }
    let found = format!("\n  found    in epoch {} by {}, {bytes} bytes", filed.found_epoch, filed.found_by);
    output.emit(&line, &(plain(&verdict, &id) + &found))
}

/// All that a node keeps, running or stopped, and its federation.
async fn read(source: &Source) -> Result<(Vec<Filed>, Federation), CliError> {
    let Some(dir) = &source.dir else {
        let node: NodeAddr = match &source.node {
            Some(text) => text.parse()?,
            None => default_node()?,
        };
        let endpoint = Endpoint::anonymous()?;
        let federation = endpoint.genesis(&node).await?;
        let all = ask(&endpoint, &node, &federation, None).await?;
        return Ok((all, federation));
    };
    let of = NodeDir::new(dir);
    let federation = of.read_genesis()?;
    let path = of.store(StoreKind::Redb);
    if !path.exists() {
        let message = format!("{} is missing: this node never ran", path.display());
        return Err(CliError::usage("no-store", message, "give the directory of a node that ran"));
    }
    let _lock = DirLock::take(dir).map_err(locked)?;
    let store = Store::inspect(&path, &tables::ALL).and_then(|store| store.snapshot()).map_err(locked)?;
    Ok((serve::evidence(&store, None, usize::MAX).map_err(locked)?, federation))
}

/// All evidence that a running node keeps after an id.
///
/// # Errors
/// If it does not answer, or its answers do not go on.
pub(super) async fn ask(
    endpoint: &Endpoint,
    node: &NodeAddr,
    federation: &Federation,
    mut after: Option<Digest>,
) -> Result<Vec<Filed>, CliError> {
    let mut all: Vec<Filed> = Vec::new();
    let misbehaving = |what| CliError::unverified("misbehaving", format!("{node} {what}"), "use another node");
    loop {
        let Reply::Evidence(page) = endpoint.call(node, &Question::Evidence(after), PATIENCE).await? else {
            return Err(misbehaving("answered what was not asked"));
        };
        if page.is_empty() {
            return Ok(all);
        }
        for filed in page {
            let id = filed.claim.id(federation);
            if after.is_some_and(|last| last >= id) {
                return Err(misbehaving("gave evidence out of order"));
            }
            after = Some(id);
            all.push(filed);
        }
    }
}

async fn find(one: &One) -> Result<(Filed, Federation), CliError> {
    let (all, federation) = read(&one.source).await?;
    let is_it = |filed: &Filed| filed.claim.id(&federation).to_string().starts_with(&one.id);
    let mut found = all.into_iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(filed), None) => Ok((filed, federation)),
        (None, _) => Err(CliError::refused(
            "not-found",
            format!("there is no evidence {} there", one.id),
            "postroad evidence list shows what there is",
        )),
        (Some(_), Some(_)) => Err(usage(format!("several ids begin with {}", one.id), "give more of it")),
    }
}
