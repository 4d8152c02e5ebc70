//! `postroad status`: what a node knows of itself and of the federation. Nobody has signed it.

use std::path::Path;
use std::time::Duration;

use postroad_client::{Endpoint, NodeAddr};
use postroad_protocol::state::Reason;
use postroad_protocol::wire::call::{PeerState, Status};
use serde_json::json;

use super::client_side::{default_node, time_text, usage};
use super::live::{Live, Target};
use super::output::{CliError, Output};
use super::testnet::record;

/// Arguments of `postroad status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad status --node /ip4/127.0.0.1/tcp/4170/p2p/12D3KooW…
  POSTROAD_NODE=MULTIADDR postroad status --json
  postroad status --watch --node MULTIADDR --node MULTIADDR
In the directory of a testnet its first node is asked, and with --watch all its nodes.")]
pub struct Args {
    /// The node to ask; without it POSTROAD_NODE, or the first of ./testnet.json. With --watch, several times
    #[arg(long, value_name = "MULTIADDR")]
    node: Vec<String>,
    /// Ask again and again until Ctrl-C: a table on a terminal, one line per node or one JSON object elsewhere
    #[arg(long)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "MS", default_value_t = 1_000, requires = "watch", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: u64,
}

/// Asks and prints.
///
/// # Errors
/// If the node does not answer.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    if args.watch {
        let mut live = Live::new(targets(&args.node)?, Duration::from_millis(args.interval_ms), output)?;
        loop {
            live.next().await?;
        }
    }
    let node: NodeAddr = match args.node.as_slice() {
        [] => default_node()?,
        [text] => text.parse()?,
        _ => return Err(usage("several nodes to ask once", "name one, or add --watch")),
    };
    let status = Endpoint::anonymous()?.status(&node).await?;
    let peers: Vec<_> = (status.peers.iter())
        .map(|peer| json!({ "peer_id": peer.node.to_string(), "state": word(peer.state) }))
        .collect();
    let suspicions: Vec<_> = (status.suspicions.iter())
        .map(|found| {
            json!({
                "peer_id": found.node.to_string(),
                "reason": reason(found.reason),
                "since": found.since,
                "header": found.slice.map(|slice| slice.header.to_string()),
            })
        })
        .collect();
    let line = json!({
        "type": "status",
        "peer_id": status.node.to_string(),
        "epoch": status.epoch,
        "cut": status.cut.to_string(),
        "mailboxes": status.mailboxes,
        "pending": status.pending,
        "delivered": status.delivered,
        "messages_ordered": status.messages_ordered,
        "messages_delivered": status.messages_delivered,
        "peers": peers,
        "suspicions": suspicions,
        "retiring": status.retiring.map(|to| to.to_string()),
    });
    output.emit(&line, &plain(&status))
}

/// The nodes to watch: those named, or all of `./testnet.json`, or the default one.
fn targets(named: &[String]) -> Result<Vec<Target>, CliError> {
    if !named.is_empty() {
        return named.iter().map(|text| Ok(Target { name: String::new(), addr: text.parse()? })).collect();
    }
    match record::read(Path::new("."))? {
        Some(record) if std::env::var_os("POSTROAD_NODE").is_none() => of_record(&record),
        _ => Ok(vec![Target { name: String::new(), addr: default_node()? }]),
    }
}

/// All nodes of a testnet, under their names.
pub(super) fn of_record(record: &record::Record) -> Result<Vec<Target>, CliError> {
    let addrs = record.nodes.iter().filter_map(|node| Some((&node.name, node.addrs.first()?)));
    addrs.map(|(name, addr)| Ok(Target { name: name.clone(), addr: addr.parse()? })).collect()
}

fn word(state: PeerState) -> &'static str {
    match state {
        PeerState::Ready => "ready",
        PeerState::Away => "away",
        PeerState::Unreachable => "unreachable",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unanswered => "unanswered",
        Reason::Unfilled => "unfilled",
        Reason::Lapsed => "lapsed",
    }
}

fn plain(status: &Status) -> String {
    let mut text = format!(
        "{}\n  federation  {}\n  epoch       {} at {} UTC\n  cut         {}\n  mailboxes   {}\n  pending     {}\n  delivered   up to epoch {}\n  incarnation {}, version {}",
        status.node,
        status.federation,
        status.epoch,
        time_text(status.time_ms),
        status.cut,
        status.mailboxes,
        status.pending,
        status.delivered,
        status.incarnation,
        status.version,
    );
    if let Some(to) = &status.retiring {
        text.push_str(&format!("\n  closes      and offers its mailboxes {to}"));
    }
    for peer in &status.peers {
        text.push_str(&format!("\n  {:<11} {} {}", word(peer.state), peer.node, peer.name));
    }
    for found in &status.suspicions {
        text.push_str(&format!("\n  suspected   {} since epoch {}: {}", found.node, found.since, reason(found.reason)));
    }
    text
}
