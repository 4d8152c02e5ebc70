//! `postroad explain`: the way of one message, hop by hop, with what each hop signed; and what became of it.
//!
//! What is printed is what verifies here. Nobody has to answer: whoever does supplies what it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_client::control::Statements;
use postroad_client::{ClientError, Endpoint, Explainer, Mailbox, Memory, NodeAddr, Receiver, Violation, read_genesis};
use postroad_protocol::codec::decode;
use postroad_protocol::evidence::Evidence;
use postroad_protocol::explanation::{Conclusion, Explanation, Hop, HopState};
use postroad_protocol::{Federation, MailboxId, Seq};
use postroad_store::StoreError;
use serde_json::{Value, json};

use super::client_side::{default_node, usage};
use super::output::{CliError, Output};

/// How many of the home's last attestations are compared with what other nodes saw become final.
const MAX_COMPARED: usize = 3;

/// How often, and how many times, nodes are asked whether the home's word on a broken entry is final.
const FINAL: Duration = Duration::from_millis(500);
const MAX_TRIES: usize = 10;

/// Arguments of `postroad explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad explain --mailbox alice --seq 17.0.3                  what became of a message to me
  postroad explain --mailbox alice --from 12D3KooW… --number 7   of one that is missing here
  postroad explain --mailbox 12D3KooW… --as bob --seq 17.0.3     of one that I, bob, sent
  postroad explain --mailbox 12D3KooW… --seq 17.0.3 --node MULTIADDR --out way.explanation
  postroad verify way.explanation --genesis genesis.toml         the same answer, offline, for whoever gets the file
The recipient and the sender are shown what the batch and the slice hold; others are shown what every node has.")]
pub struct Args {
    /// The recipient: its directory, or its address
    #[arg(long, value_name = "DIR|ADDR")]
    mailbox: String,
    /// The message's sequence number
    #[arg(long, value_name = "SEQ", required_unless_present = "number")]
    seq: Option<String>,
    /// Instead of SEQ, for what is missing in one's own mailbox: who sent it
    #[arg(long, value_name = "ADDR", requires = "number", conflicts_with = "seq")]
    from: Option<String>,
    /// And its number from that sender, as the `gap` of `recv` names it
    #[arg(long, value_name = "N", requires = "from")]
    number: Option<u64>,
    /// Ask as this mailbox, for example the sender's
    #[arg(long = "as", value_name = "DIR")]
    asker: Option<PathBuf>,
    /// A node to begin with; may be given several times. Without it POSTROAD_NODE, the first of ./testnet.json, or the
    /// mailbox's home
    #[arg(long, value_name = "MULTIADDR")]
    node: Vec<String>,
    /// The federation's genesis, where no mailbox of one's own names it
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// An explanation that was kept before, of the same message
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Keep the explanation in this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Who is asked for what, by whom.
struct Plan {
    mailbox: MailboxId,
    federation: Federation,
    /// What the recipient knows, where it is the one who asks.
    memory: Option<Memory>,
    explainer: Explainer,
}

/// Collects and tells.
///
/// # Errors
/// If the arguments name nobody, a file cannot be used, or nobody who has the message's cut can be reached.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let Plan { mailbox, federation, memory, mut explainer } = plan(&args).await?;
    let mut known = begin(&args, mailbox, memory.as_ref())?;
    let seq = known.seq;
    if let Some(path) = &args.with {
        let kept = read(path, &federation)?;
        if (kept.mailbox, kept.seq) != (mailbox, seq) {
            let message = format!("{} explains {} to {}", path.display(), kept.seq, kept.mailbox);
            return Err(usage(message, "give the file of this message"));
        }
        known.merge(kept, &federation);
    }
    let mut explanation = explainer.explain(known).await;
    if let Some(memory) = &memory {
        memory.complete(&mut explanation);
    }
    if explanation.included.is_none() {
        let message = format!("nobody who could be reached has the batch at {seq}");
        return Err(CliError::unreachable("unexplained", message, "check the number; name a node with --node"));
    }
    if let Some(path) = &args.out {
        std::fs::write(path, explanation.to_file(&federation))
            .map_err(|error| CliError::io(format_args!("write {}", path.display()), &error))?;
    }
    if let Conclusion::Guilty(evidence) = explanation.conclusion(&federation)
        && !explainer.accuse(&evidence).await
    {
        output.note(
            "no node that could be reached keeps this evidence; `postroad verify` on a kept explanation shows it",
        );
    }
    tell(&explanation, &federation, output)
}

/// Which message it is, with what the mailbox itself knows of it.
fn begin(args: &Args, mailbox: MailboxId, memory: Option<&Memory>) -> Result<Explanation, CliError> {
    if let Some(text) = &args.seq {
        let seq: Seq = text.parse().map_err(|error: postroad_protocol::seq::BadSeq| usage(error.to_string(), ""))?;
        return match memory {
            Some(memory) => Ok(memory.known(seq)?),
            None => Ok(Explanation::new(mailbox, seq)),
        };
    }
    let (Some(from), Some(number), Some(memory)) = (&args.from, args.number, memory) else {
        let fix = "give the directory as --mailbox, and stop a `recv` that runs on it";
        return Err(usage("--from and --number are for a mailbox of one's own that nobody reads now", fix));
    };
    let sender: MailboxId = from.parse().map_err(|error| usage(format!("{error}"), ""))?;
    memory.missing(&sender, number)?.ok_or_else(|| {
        let message = format!("where number {number} of {sender} stands is not known here");
        CliError::refused("unknown-place", message, "`recv` asks the sender, and keeps the answer")
    })
}

async fn plan(args: &Args) -> Result<Plan, CliError> {
    let own = Path::new(&args.mailbox);
    let own = if Mailbox::exists(own) { Some(Mailbox::open(own)?) } else { None };
    let mailbox = match &own {
        Some(own) => own.address(),
        None => args.mailbox.parse().map_err(|error| {
            usage(format!("{:?} is neither a mailbox's directory nor an address: {error}", args.mailbox), "")
        })?,
    };
    let mut nodes = Vec::new();
    for text in &args.node {
        nodes.push(text.parse::<NodeAddr>()?);
    }
    let memory = match own.as_ref().map(Memory::open) {
        // A running receiver has what it knows to itself.
        Some(Err(ClientError::Store(StoreError::InUse { .. }))) | None => None,
        Some(opened) => Some(opened?),
    };
    let asker = match &args.asker {
        Some(dir) => Some(Mailbox::open(dir)?),
        None => own,
    };
    if let Some(asker) = asker {
        let federation = asker.federation().clone();
        return Ok(Plan { mailbox, federation, memory, explainer: Explainer::of(&asker, nodes)? });
    }
    if nodes.is_empty() {
        nodes.push(default_node()?);
    }
    let endpoint = Endpoint::anonymous()?;
    let federation = match &args.genesis {
        Some(path) => read_genesis(path)?,
        None => endpoint.genesis(&nodes[0]).await?,
    };
    Ok(Plan { mailbox, explainer: Explainer::new(endpoint, federation.clone(), nodes), federation, memory })
}

/// Reads a file in which an explanation was kept, all of which must hold.
///
/// # Errors
/// If it cannot be read, or does not hold.
pub(super) fn read(path: &Path, federation: &Federation) -> Result<Explanation, CliError> {
    let bytes = std::fs::read(path).map_err(|error| CliError::io(format_args!("read {}", path.display()), &error))?;
    let kept = Explanation::from_file(&bytes, federation).map_err(|error| error.to_string());
    let checked = kept.and_then(|kept| match kept.verify(federation) {
        Ok(()) => Ok(kept),
        Err(error) => Err(error.to_string()),
    });
    checked.map_err(|reason| {
        let message = format!("{} does not hold: {reason}", path.display());
        CliError::unverified("malformed", message, "get it again from whoever kept it")
    })
}

/// Prints the hops and the conclusion.
///
/// # Errors
/// If it cannot be written out.
pub(super) fn tell(explanation: &Explanation, federation: &Federation, output: &Output) -> Result<(), CliError> {
    for hop in explanation.hops(federation) {
        output.emit(&hop_json(&hop), &hop_plain(&hop))?;
    }
    let conclusion = explanation.conclusion(federation);
    let plain = format!("{}: {conclusion}", conclusion.code());
    output.emit(&explained(explanation, &conclusion), &plain)
}

fn state(hop: &Hop) -> &'static str {
    match hop.state {
        HopState::Ok => "ok",
        HopState::Missing => "missing",
        HopState::Wrong => "wrong",
    }
}

fn hop_json(hop: &Hop) -> Value {
    json!({
        "type": "hop",
        "hop": hop.stage.code(),
        "node": hop.who.map(|who| who.to_string()),
        "signed": hop.signed,
        "epoch": hop.epoch,
        "ok": hop.state == HopState::Ok,
        "state": state(hop),
    })
}

fn hop_plain(hop: &Hop) -> String {
    let who = hop.who.map_or_else(|| "?".into(), |who| who.to_string());
    let epoch = hop.epoch.map_or_else(String::new, |epoch| format!(" (epoch {epoch})"));
    format!("{:<8} {:<12} {who}\n         {}{epoch}", state(hop), hop.stage.code(), hop.signed)
}

/// What became of a message that a receiver misses, as far as its sender and the nodes can say, for the line that says
/// so.
pub(super) async fn missing(receiver: &Receiver, sender: &MailboxId, number: u64, seq: Seq) -> Option<Value> {
    let mailbox = receiver.mailbox();
    let federation = mailbox.federation();
    let mut explainer = Explainer::of(mailbox, []).ok()?;
    let told = receiver.told(sender, number).ok().flatten();
    let statements = told.and_then(|told| decode::<Statements>(&told.statements).ok());
    let known = statements.and_then(|statements| statements.explain(mailbox.address(), federation));
    let known = known.unwrap_or_else(|| Explanation::new(mailbox.address(), seq));
    let mut explanation = explainer.explain(known).await;
    receiver.complete(&mut explanation);
    let conclusion = explanation.conclusion(federation);
    if let Conclusion::Guilty(evidence) = &conclusion {
        explainer.accuse(evidence).await;
    }
    Some(explained(&explanation, &conclusion))
}

/// What a home has proven against itself when it forgot mail that was never read here.
pub(super) async fn forgotten(receiver: &Receiver) -> Option<Value> {
    let mut explainer = Explainer::of(receiver.mailbox(), []).ok()?;
    let evidence = explainer.early_expiry(receiver.mailbox().address(), &receiver.forgotten()?).await?;
    explainer.accuse(&evidence).await;
    Some(verdict(&evidence))
}

/// Hands on what an origin was found guilty of.
pub(super) async fn unsound(receiver: &Receiver, evidence: &Evidence) -> Option<Value> {
    Explainer::of(receiver.mailbox(), []).ok()?.accuse(evidence).await;
    Some(verdict(evidence))
}

/// Whether nodes have two certified cuts of an epoch.
pub(super) async fn foreign(receiver: &Receiver, epoch: u64) -> Option<Value> {
    let explainer = Explainer::of(receiver.mailbox(), []).ok()?;
    let evidence = explainer.split_order(epoch).await?;
    explainer.accuse(&evidence).await;
    Some(verdict(&evidence))
}

/// What a broken word proves, by itself or with what other nodes have seen, for the line that says so; handed to nodes
/// as well.
pub(super) async fn proven(receiver: &Receiver, violation: &Violation) -> Vec<Value> {
    let mut proven = receiver.evidence().to_vec();
    let Ok(mut explainer) = Explainer::of(receiver.mailbox(), []) else { return Vec::new() };
    if let Violation::TwoCuts { epoch } = violation {
        proven.extend(explainer.split_order(*epoch).await);
    }
    // What the home has shown convicts it once its word on it is final, or another one is.
    let mut pause = tokio::time::interval(FINAL);
    for _ in 0..MAX_TRIES {
        if !proven.is_empty() {
            break;
        }
        pause.tick().await;
        for attested in receiver.attestations().iter().rev().take(MAX_COMPARED) {
            proven.extend(explainer.split_view(&attested.attestation).await);
        }
        if proven.is_empty() {
            proven.extend(explainer.split_logs(receiver.mailbox().address(), &receiver.attestations()).await);
        }
        if proven.is_empty() {
            proven.extend(explainer.false_import(receiver.mailbox().address(), &receiver.attestations()).await);
        }
        if proven.is_empty() && !receiver.broken().is_empty() {
            proven.extend(explainer.wrong_entries(receiver.mailbox().address(), receiver.broken()).await);
        }
    }
    let mut lines = Vec::new();
    for evidence in &proven {
        explainer.accuse(evidence).await;
        lines.push(verdict(evidence));
    }
    lines
}

fn verdict(evidence: &Evidence) -> Value {
    let verdict = evidence.verdict();
    json!({
        "kind": verdict.fault.code(),
        "culprit": verdict.culprit.to_string(),
        "epoch": verdict.epoch,
        "evidence": evidence.id().to_string(),
    })
}

/// The conclusion as a line.
fn explained(explanation: &Explanation, conclusion: &Conclusion) -> Value {
    let mut line = json!({
        "type": "explained",
        "conclusion": conclusion.code(),
        "kind": null,
        "culprit": null,
        "mailbox": explanation.mailbox.to_string(),
        "seq": explanation.seq.to_string(),
        "epoch": explanation.seq.epoch,
        "reason": conclusion.to_string(),
    });
    let names = |nodes: &[postroad_protocol::NodeId]| -> Value { nodes.iter().map(ToString::to_string).collect() };
    match conclusion {
        Conclusion::Delivered { home, index, late } => {
            line["home"] = home.to_string().into();
            line["index"] = (*index).into();
            line["late"] = late.is_some().into();
        }
        Conclusion::Refused { home, .. } => line["home"] = home.to_string().into(),
        Conclusion::Pending { home, holders } => {
            line["home"] = home.to_string().into();
            line["holders"] = names(holders);
        }
        Conclusion::Moved { from, to, since, taken } => {
            line["home"] = to.to_string().into();
            line["from"] = from.to_string().into();
            line["since"] = (*since).into();
            line["import"] = (*taken).into();
        }
        Conclusion::Guilty(evidence) => {
            let verdict = evidence.verdict();
            line["kind"] = verdict.fault.code().into();
            line["culprit"] = verdict.culprit.to_string().into();
            line["epoch"] = verdict.epoch.into();
            line["evidence"] = evidence.id().to_string().into();
        }
        Conclusion::Cleared { accused, .. } => line["accused"] = accused.to_string().into(),
        Conclusion::Open(missing) => {
            let missing = missing.iter().map(|it| json!({ "what": it.what, "nodes": names(&it.nodes) }));
            line["missing"] = missing.collect();
        }
    }
    line
}
