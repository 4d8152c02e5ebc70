//! `postroad bench`: the instrument. Nodes as processes of their own, many clients over loopback, and next to every
//! figure what this machine can do at most.
//!
//! A run is honest or it fails: a rate that is asked for is kept whatever the nodes do, latency counts from the time
//! at which a message was to be sent, the warm-up is left out, and every entry that a recipient gets is compared with
//! what was sent; one that is missing, double or different ends the run with exit code 3.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `workload` | what is sent to whom |
//! | `client` | one client: sends, receives, checks |
//! | `phase` | the clients together at one rate, and what was counted |
//! | `usage` | what the processes used, from `/proc` |
//! | `limits` | what the machine can do at most |
//! | `report` | the table |

pub mod client;
pub mod limits;
pub mod phase;
pub mod report;
pub mod usage;
pub mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_client::NodeAddr;
use postroad_protocol::SecretKey;
use tokio::sync::{Semaphore, watch};

use super::children::{Child, stop_all};
use super::output::{CliError, Exit, Output};
use super::signals::{Signals, Stop};
use super::testnet::plan::Plan;
use super::testnet::{DRAIN, spawn, until_ready};
use client::{Client, Party, Stage, Tally};
use limits::Limits;
use phase::{Figures, Pace, Run};
use workload::Workload;

/// How long each limit of the machine is measured, before and after each work load.
const LIMIT: Duration = Duration::from_millis(500);
/// How long the loop is closed before the first phase, to learn how much to sign ahead.
const PROBE: Duration = Duration::from_millis(1_500);

/// When bundles are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sign {
    /// Before the phase in which they are sent
    Ahead,
    /// As they are sent
    Live,
}

/// Arguments of `postroad bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
W1 one recipient, 12 B + 42 B; W2 ten recipients, 1 KiB + 42 B each; W3 as W1, 100 messages per bundle; W4 as W1,
recipients on another node. Each at its maximum (clients wait for each other's deliveries), at half of that, and at a
low rate. The clients run in this process and share the machine with the nodes; they compare what they get with what
was sent and verify no proofs.

Examples:
  postroad bench                               all four, about two minutes
  postroad bench --workload W1 --seconds 10
  postroad bench --quick                       a few seconds, to see that it works")]
pub struct Args {
    /// Which work loads; all, if none is named
    #[arg(long, value_name = "W", value_delimiter = ',')]
    pub workload: Vec<String>,
    /// How long each rate is measured
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub seconds: f64,
    /// How long each rate is kept before it is measured
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub warm_up: f64,
    /// Client connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=2_000))]
    pub clients: u16,
    /// Nodes; by default one, and two for W4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub nodes: Option<u16>,
    /// Bundles under way per client at the maximum
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
    /// Messages per second at the low rate
    #[arg(long, value_name = "N", default_value_t = 200.0)]
    pub low: f64,
    /// This rate alone (messages per second), instead of the three
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// When bundles are signed
    #[arg(long, value_enum, default_value_t = Sign::Ahead)]
    pub sign: Sign,
    /// Where the nodes' directories are made, which decides the disk; by default the current directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the nodes' directories and logs where they are
    #[arg(long)]
    pub keep: bool,
    /// W1 with eight clients for a second at each rate
    #[arg(long, conflicts_with_all = ["workload", "seconds", "warm_up", "clients"])]
    pub quick: bool,
}

impl Args {
    fn settled(mut self) -> Args {
        if self.quick {
            (self.workload, self.clients) = (vec!["W1".into()], 8);
            (self.seconds, self.warm_up) = (1.0, 0.3);
        }
        self
    }

    fn loads(&self) -> Result<Vec<Workload>, CliError> {
        // Bundles are signed for a number of epochs, of which there are forty a second.
        if !(0.1..=300.0).contains(&self.seconds) || !(0.0..=60.0).contains(&self.warm_up) {
            return Err(CliError::usage("seconds", "--seconds is 0.1 to 300 and --warm-up 0 to 60", ""));
        }
        if self.rate.into_iter().chain([self.low]).any(|rate| !(0.1..=10_000_000.0).contains(&rate)) {
            return Err(CliError::usage("rate", "rates are 0.1 to 10,000,000 messages per second", ""));
        }
        if self.workload.is_empty() {
            return Ok(workload::ALL.to_vec());
        }
        let named = |name: &String| {
            let fix = "choose from W1, W2, W3, W4";
            Workload::named(name).ok_or_else(|| CliError::usage("workload", format!("no work load {name:?}"), fix))
        };
        self.workload.iter().map(named).collect()
    }
}

/// Runs the work loads, one after the other, each on nodes of its own.
///
/// # Errors
/// `unverified` if anything is missing, double or different; otherwise what kept a run from its end.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let args = args.settled();
    let loads = args.loads()?;
    let mut signals = Signals::catch().map_err(|error| CliError::io("catch signals", &error))?;
    let parent = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let dir = tempfile::Builder::new()
        .prefix("postroad-bench-")
        .tempdir_in(&parent)
        .map_err(|error| CliError::io(format_args!("make a directory in {}", parent.display()), &error))?;
    let mut ended = Ok(());
    for load in loads {
        let mut nodes = Vec::new();
        ended = tokio::select! {
            ended = measure(&args, load, dir.path(), &mut nodes, output) => ended,
            stop = signals.next() => Err(match stop {
                Stop::Interrupt => CliError::interrupted(),
                Stop::Terminate => CliError::refused("terminated", "the run was asked to stop", ""),
            }),
        };
        let hurry = async {
            signals.next().await;
        };
        stop_all(&mut nodes, DRAIN, hurry).await;
        if ended.is_err() {
            break;
        }
    }
    if args.keep {
        output.note(&format!("kept in {}", dir.keep().display()));
    }
    ended
}

/// One work load, from its nodes' start to its last figure.
async fn measure(
    args: &Args,
    load: Workload,
    dir: &std::path::Path,
    nodes: &mut Vec<Child>,
    output: &Output,
) -> Result<(), CliError> {
    let before = limits(dir).await?;
    let count = args.nodes.unwrap_or(if load.remote { 2 } else { 1 });
    if load.remote && count < 2 {
        return Err(CliError::usage("nodes", format!("{} needs two nodes", load.name), "raise --nodes"));
    }
    let plan = Plan::prepare(&dir.join(load.name), Some(count.into()), 0, &Default::default())?;
    for node in &plan.nodes {
        nodes.push(spawn(node)?);
    }
    for node in nodes.iter_mut() {
        until_ready(node).await?;
    }
    let stage = Arc::new(stage(args, load, &plan)?);
    let places = 0..stage.parties.len();
    let clients = futures::future::try_join_all(places.map(|place| Client::connect(Arc::clone(&stage), place)));
    let clients = clients.await?;
    let pids: Vec<u32> = nodes.iter().map(|node| node.pid).collect();
    let dirs: Vec<PathBuf> = plan.nodes.iter().map(|node| node.config.dir.path().to_owned()).collect();
    let mut run = Run::new(stage, clients, pids, dirs, args);

    let probe = run.probe(PROBE).await?;
    let mut measured = Vec::new();
    if let Some(rate) = args.rate {
        measured.push(run.phase("rate", Pace::Open(rate), rate).await?);
    } else {
        let max = run.phase("max", Pace::Closed, probe).await?;
        let half = max.delivered / 2.0;
        measured.push(max);
        measured.push(run.phase("half", Pace::Open(half), half).await?);
        measured.push(run.phase("low", Pace::Open(args.low), args.low).await?);
    }
    let limits = before.mean(limits(dir).await?);
    report::print(&load, args, count, &limits, &measured, output)?;
    verdict(&measured)
}

async fn limits(dir: &std::path::Path) -> Result<Limits, CliError> {
    let dir = dir.to_owned();
    let measured = tokio::task::spawn_blocking(move || Limits::measure(&dir, LIMIT)).await;
    measured.map_err(|error| CliError::refused("bench", error.to_string(), ""))?
}

fn stage(args: &Args, load: Workload, plan: &Plan) -> Result<Stage, CliError> {
    let nodes = plan.nodes.iter().map(|node| node.addrs().first().map_or("", String::as_str).parse::<NodeAddr>());
    let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    let parties = (0..usize::from(args.clients))
        .map(|place| {
            let secret = SecretKey::from_seed(rand::random());
            Party { address: secret.public(), secret, home: place % nodes.len() }
        })
        .collect();
    Ok(Stage {
        load,
        federation: plan.federation.clone(),
        nodes,
        parties,
        began: Instant::now(),
        tally: Tally::default(),
        room: Semaphore::new(0),
        failed: watch::Sender::new(None),
    })
}

/// Whether everything that was sent arrived, once and unchanged.
fn verdict(measured: &[Figures]) -> Result<(), CliError> {
    let sum = |of: fn(&Figures) -> u64| measured.iter().map(of).sum::<u64>();
    let (missing, duplicate, wrong) = (sum(|f| f.missing), sum(|f| f.duplicate), sum(|f| f.wrong));
    if missing + duplicate + wrong == 0 {
        return Ok(());
    }
    let message = format!("deliveries: {missing} missing, {duplicate} double, {wrong} different from what was sent");
    Err(CliError::new(Exit::Unverified, "bench", message, "run it again with --keep, and report it"))
}
