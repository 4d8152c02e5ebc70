//! `postroad testnet`: a federation on this machine, one process per node.
//!
//! The first start chooses keys, ports and genesis; later ones resume. Nodes that die are reported and stay dead, since
//! whoever tests a federation kills nodes on purpose; one that is started by hand takes its place again and is stopped
//! with the others at the end. No node outlives the testnet, even if that is killed.

pub mod plan;
pub mod record;
mod verdicts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_store::{DirLock, StoreError};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc;

use super::children::{Child, next_end, send_signal, stop_all};
use super::genesis::ParamArgs;
use super::live::{self, Live};
use super::output::{CliError, Output};
use super::run::locked;
use super::signals::{Signals, Stop};
use super::status::of_record;
use crate::config::Cheating;
use plan::{Plan, PlannedNode};
use verdicts::Verdicts;

/// How long a node may take to serve.
const START: Duration = Duration::from_secs(60);
/// How long a node may take to drain.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// Lines of nodes that wait to be printed, at most.
const MAX_SAID: usize = 64;

/// Time between two looks at the nodes, on a terminal.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `postroad testnet`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The nodes' addresses and pids are in DIR/testnet.json, their logs in DIR/node-N/log. node-1 is the sequencer.
On a terminal a table shows how the nodes are; `postroad status --watch` in DIR shows it anywhere.

Examples:
  postroad testnet --nodes 4 --dir net
  postroad testnet --dir net                        resumes it: same keys, ports and mail
  postroad run --dir net/node-3                     brings back a node that died or was killed
  postroad testnet --nodes 4 --dir net --cheat 2=drop@3
                                                    node-2 loses the third entry that it owes (docs/testing.md)")]
pub struct Args {
    /// How many nodes; may be left out when DIR holds a testnet
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// The testnet's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Node i listens on port P + i - 1, TCP and UDP; by default free ports are chosen once
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub base_port: u16,
    /// Node N cheats: drop, or drop@3 (only the third opportunity), or drop%10 (every tenth); may be given several
    /// times. Only in a build with the feature cheat; docs/testing.md lists the sins
    #[arg(long, value_name = "N=SIN", value_parser = parse_cheat)]
    pub cheat: Vec<(usize, Cheating)>,
    /// The federation's parameters
    #[command(flatten)]
    pub params: ParamArgs,
}

fn parse_cheat(text: &str) -> Result<(usize, Cheating), String> {
    let (number, sin) = text.split_once('=').ok_or("write it as N=SIN, as in 2=drop")?;
    let number = number.parse().map_err(|_| format!("{number:?} is no node's number"))?;
    Ok((number, sin.parse()?))
}

/// Runs the testnet until a signal comes.
///
/// # Errors
/// If it cannot start; after Ctrl-C, `interrupted`.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let mut signals = Signals::catch().map_err(|error| CliError::io("catch signals", &error))?;
    // Taking the lock makes the directory, so what is certainly wrong is refused before.
    if args.nodes.is_none() && !args.dir.exists() {
        return Err(Plan::missing(&args.dir));
    }
    let _lock = DirLock::take(&args.dir).map_err(locked)?;
    let mut plan = Plan::prepare(&args.dir, args.nodes, args.base_port, &args.params)?;
    for (number, cheating) in &args.cheat {
        plan.cheat(*number, *cheating)?;
    }
    record::remove(&plan.dir)?;
    let mut children = Vec::new();
    let ended = tokio::select! {
        ended = serve(&plan, &mut children, output) => ended,
        stop = signals.next() => match stop {
            Stop::Interrupt => Err(CliError::interrupted()),
            Stop::Terminate => Ok(()),
        },
    };
    output.note("stopping the nodes");
    let pids: Vec<u32> = children.iter().map(|child| child.pid).collect();
    let hurry = async {
        signals.next().await;
    };
    stop_all(&mut children, DRAIN, hurry).await;
    stop_by_record(&plan.dir, &pids).await?;
    ended
}

/// Starts the nodes, says so, and reports those that die. Ends only by an error.
async fn serve(plan: &Plan, children: &mut Vec<Child>, output: &Output) -> Result<(), CliError> {
    for node in &plan.nodes {
        children.push(spawn(node)?);
    }
    for child in children.iter_mut() {
        until_ready(child).await?;
    }
    let pids: Vec<Option<u32>> = children.iter().map(|child| Some(child.pid)).collect();
    let record = plan.record(&pids);
    record::write(&plan.dir, &record)?;
    output.emit(&json!({ "type": "ready" }), &table(&record))?;
    // Programs, files and pipes get the lines alone.
    let federation = crate::config::read_genesis(&record.genesis)?;
    let mut verdicts = Verdicts::new(of_record(&record)?, federation, &plan.dir)?;
    // In a task of its own, so that nothing that a node says interrupts a question.
    let (tell_verdict, mut verdict) = mpsc::channel(MAX_SAID);
    tokio::spawn(async move {
        loop {
            let found = verdicts.next().await;
            let failed = found.is_err();
            if tell_verdict.send(found).await.is_err() || failed {
                return;
            }
        }
    });
    let mut live = live::draws(output).then(|| Live::new(of_record(&record)?, LOOK, output)).transpose()?;
    let (said, mut says) = mpsc::channel(MAX_SAID);
    for (place, child) in children.iter_mut().enumerate() {
        child.forward(place, said.clone());
    }
    loop {
        let (place, status) = tokio::select! {
            ended = next_end(children) => ended,
            // This task holds a sender, so there is always a next one; `None` in it is the end of a node's output.
            Some((place, value)) = says.recv() => {
                if let Some(value) = value.filter(|value| value["type"] == "sinned") {
                    told_sin(place, &plan.nodes[place].name, &value, &mut live, output)?;
                }
                continue;
            }
            shown = look(&mut live) => {
                shown?;
                continue;
            }
            Some(found) = verdict.recv() => {
                for (line, plain) in found? {
                    match &mut live {
                        Some(live) => live.aside(|| output.emit(&line, &plain))?,
                        None => output.emit(&line, &plain)?,
                    }
                }
                continue;
            }
        };
        let Child { name, pid, .. } = &children[place];
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        record::change(&plan.dir, |record| {
            if let Some(node) = record.nodes.iter_mut().find(|node| node.name == *name && node.pid == Some(*pid)) {
                node.pid = None;
            }
        })?;
        let back = plan.nodes[place].config.dir.path().display();
        let line = json!({ "type": "died", "name": name, "pid": pid, "status": status });
        let plain = format!("{name} (pid {pid}) died: {status}; postroad run --dir {back} brings it back");
        tell(&mut live, output, &line, &plain)?;
    }
}

/// Passes on what a cheating node says of itself.
fn told_sin(
    place: usize,
    name: &str,
    value: &serde_json::Value,
    live: &mut Option<Live>,
    output: &Output,
) -> Result<(), CliError> {
    let (sin, epoch) = (&value["sin"], &value["epoch"]);
    let line = json!({ "type": "sinned", "node": place + 1, "sin": sin, "epoch": epoch });
    let plain = format!("{name} sinned: {} in epoch {epoch}", sin.as_str().unwrap_or_default());
    tell(live, output, &line, &plain)
}

/// Prints a line, aside of the table where one is drawn.
fn tell(live: &mut Option<Live>, output: &Output, line: &serde_json::Value, plain: &str) -> Result<(), CliError> {
    match live {
        Some(live) => live.aside(|| output.emit(line, plain)),
        None => output.emit(line, plain),
    }
}

/// The next look at the nodes; none ever, where no table is drawn.
async fn look(live: &mut Option<Live>) -> Result<(), CliError> {
    match live {
        Some(live) => live.next().await,
        None => std::future::pending().await,
    }
}

/// Starts a node of a testnet.
///
/// # Errors
/// If the process cannot be started.
pub(super) fn spawn(node: &PlannedNode) -> Result<Child, CliError> {
    let dir = node.config.dir.path();
    let args = ["run".as_ref(), "--with-parent".as_ref(), "--dir".as_ref(), dir.as_os_str()];
    Child::spawn(&node.name, &args, &dir.join("log"))
}

/// Waits until a node serves.
///
/// # Errors
/// If it ends, or takes too long.
pub(super) async fn until_ready(child: &mut Child) -> Result<(), CliError> {
    match tokio::time::timeout(START, child.expect("ready")).await {
        Ok(ready) => ready.map(drop),
        Err(_) => {
            let message = format!("{} (pid {}) does not serve after {} s", child.name, child.pid, START.as_secs());
            Err(CliError::unreachable("start", message, format!("see {}", child.log.display())))
        }
    }
}

/// Stops the nodes that were started by hand, and clears all pids.
///
/// A pid in the record is that of a running node only while the node's directory is locked, because a node takes the
/// lock before it writes its pid.
async fn stop_by_record(dir: &Path, own: &[u32]) -> Result<(), CliError> {
    let Some(record) = record::read(dir)? else { return Ok(()) };
    for node in &record.nodes {
        let Some(pid) = node.pid.filter(|pid| !own.contains(pid)) else { continue };
        let started = tokio::time::Instant::now();
        let mut sent = None;
        while matches!(DirLock::take(&node.dir), Err(StoreError::InUse { .. })) {
            let signal = if started.elapsed() < DRAIN { Signal::TERM } else { Signal::KILL };
            if sent.replace(signal) != Some(signal) {
                send_signal(pid, signal);
            }
            if started.elapsed() > 2 * DRAIN {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    record::change(dir, |record| record.nodes.iter_mut().for_each(|node| node.pid = None))?;
    Ok(())
}

fn table(record: &record::Record) -> String {
    let mut text = format!("federation {}\n", record.federation);
    for node in &record.nodes {
        let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let role = if node.sequencer { "sequencer" } else { "" };
        text.push_str(&format!("{:<8} pid {pid:<8} {role:<10} {}\n", node.name, node.addrs.join("  ")));
    }
    text.push_str("ready; Ctrl-C stops all nodes");
    text
}
