//! `postroad status`: what a node knows of itself and of the federation. Nobody has signed it.

use postroad_client::{Endpoint, NodeAddr};
use postroad_protocol::state::Reason;
use postroad_protocol::wire::call::{PeerState, Status};
use serde_json::json;

use super::client_side::{default_node, time_text};
use super::output::{CliError, Output};

/// Arguments of `postroad status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad status --node /ip4/127.0.0.1/tcp/4170/p2p/12D3KooW…
  POSTROAD_NODE=MULTIADDR postroad status --json
In the directory of a testnet, its first node is asked.")]
pub struct Args {
    /// The node to ask; without it POSTROAD_NODE, or the first of ./testnet.json
    #[arg(long, value_name = "MULTIADDR")]
    node: Option<String>,
}

/// Asks and prints.
///
/// # Errors
/// If the node does not answer.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let node: NodeAddr = match &args.node {
        Some(text) => text.parse()?,
        None => default_node()?,
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
        "peers": peers,
        "suspicions": suspicions,
    });
    output.emit(&line, &plain(&status))
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
        "{}\n  federation  {}\n  epoch       {} at {} UTC\n  cut         {}\n  mailboxes   {}\n  pending     {}\n  incarnation {}, version {}",
        status.node,
        status.federation,
        status.epoch,
        time_text(status.time_ms),
        status.cut,
        status.mailboxes,
        status.pending,
        status.incarnation,
        status.version,
    );
    for peer in &status.peers {
        text.push_str(&format!("\n  {:<11} {} {}", word(peer.state), peer.node, peer.name));
    }
    for found in &status.suspicions {
        text.push_str(&format!("\n  suspected   {} since epoch {}: {}", found.node, found.since, reason(found.reason)));
    }
    text
}
