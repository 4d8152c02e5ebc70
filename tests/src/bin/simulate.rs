//! Runs the simulator over many seeds. It can be stopped at any time, and goes on with the seed that it last named.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postroad_engine::cheat::Sin;
use postroad_tests::sim::{Bug, Options, Outcome, Stats, run};
use postroad_tests::sins;
use sha2::{Digest as _, Sha256};

const USAGE: &str = "usage: simulate --seeds A..B [--trace] [--jobs N] [--outcomes-only] \
                     [--moves] [--bug NAME] | --sins --seeds A..B [--sin NAME | --moves] [--trace] [--jobs N]";

/// In so many seeds everything must have happened.
const ENOUGH: u64 = 200;
/// Time between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What was asked for.
struct Asked {
    seeds: Range<u64>,
    options: Options,
    jobs: usize,
    /// Whether somebody sins, and how, if not as the seed says.
    sins: bool,
    sin: Option<Sin>,
}

fn main() -> ExitCode {
    let Some(asked) = read_args() else {
        let bugs: Vec<&str> = Bug::ALL.into_iter().map(Bug::name).collect();
        eprintln!("{USAGE}\nbugs: {}", bugs.join(", "));
        return ExitCode::from(2);
    };
    if asked.sins {
        return sinful(&asked);
    }
    let mut report = Report::new();
    in_order(&asked, |seed| run(seed, &asked.options), |outcome| report.outcome(&outcome, &asked));
    report.finish(asked.options.bug.is_some(), asked.options.moves)
}

/// Runs all seeds on as many threads as asked, and takes what comes of them in the order of the seeds.
fn in_order<T: Send>(asked: &Asked, run: impl Fn(u64) -> T + Sync, mut take: impl FnMut(T)) {
    let next = AtomicU64::new(asked.seeds.start);
    thread::scope(|scope| {
        let (sender, outcomes) = mpsc::sync_channel(64);
        for _ in 0..asked.jobs {
            let (sender, next, run) = (sender.clone(), &next, &run);
            // One seed runs on one thread; seeds know nothing of each other.
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= asked.seeds.end || sender.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut due = asked.seeds.start;
        for (seed, outcome) in outcomes {
            early.insert(seed, outcome);
            while let Some(outcome) = early.remove(&due) {
                take(outcome);
                due += 1;
            }
        }
    });
}

/// Runs with sins.
fn sinful(asked: &Asked) -> ExitCode {
    let began = Instant::now();
    let mut report = sins::Report::default();
    in_order(
        asked,
        |seed| sins::run(seed, asked.sin, asked.options.moves, asked.options.trace),
        |outcome| {
            report.add(&outcome);
            if let Some(failure) = &outcome.failure {
                let seed = outcome.seed;
                let moves = if asked.options.moves { " --moves" } else { "" };
                let sin = asked.sin.map(|sin| format!(" --sin {sin}")).unwrap_or_default();
                let who: Vec<String> = outcome.trials.iter().map(|trial| trial.cheat.to_string()).collect();
                println!("seed {seed} ({}): {failure}", who.join(", "));
                println!(
                    "  again: cargo run --release -p postroad-tests --bin simulate -- --sins{moves} --seeds {seed}..{}{sin} --trace",
                    seed + 1
                );
            }
        },
    );
    println!("{report} rate={:.1}/s", report.seeds as f64 / began.elapsed().as_secs_f64());
    let never = if asked.sin.is_none() { report.never(asked.options.moves) } else { Vec::new() };
    if !never.is_empty() {
        let never: Vec<&str> = never.iter().map(|sin| sin.name()).collect();
        println!("never proven: {}", never.join(", "));
    }
    if report.failed == 0 && never.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn read_args() -> Option<Asked> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut asked = Asked { seeds: 0..200, options: Options::default(), jobs, sins: false, sin: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--sins" => asked.sins = true,
            "--sin" => {
                let name = args.next()?;
                asked.sin = Some(Sin::ALL.into_iter().find(|sin| sin.name() == name)?);
            }
            "--trace" => asked.options.trace = true,
            "--moves" => asked.options.moves = true,
            "--outcomes-only" => asked.options.outcomes_only = true,
            "--jobs" => asked.jobs = args.next()?.parse().ok().filter(|jobs| *jobs > 0)?,
            "--bug" => asked.options.bug = Some(Bug::named(&args.next()?)?),
            "--seeds" => {
                let text = args.next()?;
                let (from, to) = text.split_once("..")?;
                asked.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            _ => return None,
        }
    }
    // The sins of a seed are drawn from those about moves, or one is named.
    if asked.sins && asked.options.moves && asked.sin.is_some() {
        return None;
    }
    if asked.options.trace {
        asked.jobs = 1;
    }
    Some(asked)
}

/// What is said of the seeds so far.
struct Report {
    count: u64,
    failed: u64,
    stats: Stats,
    /// The longest that anything accepted took to be final, and with which seed.
    slowest: (u64, u64),
    trace: Sha256,
    began: Instant,
    /// How many of [`PROGRESS`] have passed.
    rounds: u64,
}

impl Report {
    fn new() -> Report {
        Report {
            count: 0,
            failed: 0,
            stats: Stats::default(),
            slowest: (0, 0),
            trace: Sha256::new(),
            began: Instant::now(),
            rounds: 0,
        }
    }

    fn outcome(&mut self, outcome: &Outcome, asked: &Asked) {
        self.count += 1;
        self.trace.update(outcome.trace);
        self.stats.add(&outcome.stats);
        self.slowest = self.slowest.max((outcome.final_ms, outcome.seed));
        if let Some(violation) = &outcome.violation {
            self.failed += 1;
            let (seed, Options { bug, outcomes_only, moves, .. }) = (outcome.seed, asked.options);
            let moves = if moves { " --moves" } else { "" };
            let bug = bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
            let only = if outcomes_only { " --outcomes-only" } else { "" };
            println!("seed {seed}: {violation}");
            println!(
                "  again: cargo run --release -p postroad-tests --bin simulate -- --seeds {seed}..{}{moves}{bug}{only} --trace",
                seed + 1
            );
        }
        let rounds = self.began.elapsed().as_secs() / PROGRESS.as_secs();
        if std::mem::replace(&mut self.rounds, rounds) != rounds {
            let (count, failed, next, rate) = (self.count, self.failed, outcome.seed + 1, self.rate());
            println!("{count} seeds, {failed} failed, {rate:.1} seeds/s, next is {next}");
        }
    }

    fn rate(&self) -> f64 {
        self.count as f64 / self.began.elapsed().as_secs_f64()
    }

    fn finish(self, bugged: bool, moves: bool) -> ExitCode {
        for (name, value) in self.stats.list() {
            println!("{name:>22} {value}");
        }
        let (final_ms, seed) = self.slowest;
        println!("final at most {final_ms} ms of cut time after all faults (seed {seed}); {:.1} seeds/s", self.rate());
        let never = self.stats.never(moves);
        let all = bugged || self.count < ENOUGH || never.is_empty();
        if !all {
            println!("in {} seeds there were no {}", self.count, never.join(", "));
        }
        println!("seeds={} failed={} trace={}", self.count, self.failed, hex::encode(self.trace.finalize()));
        if self.failed == 0 && all { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}
