//! Runs the simulator over many seeds.

use std::process::ExitCode;
use std::time::Instant;

use postroad_tests::sim::{Bug, Options, Stats, run};
use sha2::{Digest as _, Sha256};

const USAGE: &str = "usage: simulate --seeds A..B [--trace] [--bug sign-before-persist|deliver-before-cut]";

fn main() -> ExitCode {
    let mut seeds = 0..200;
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let known = match arg.as_str() {
            "--trace" => {
                options.trace = true;
                true
            }
            "--seeds" => args.next().and_then(|text| range(&text)).map(|range| seeds = range).is_some(),
            "--bug" => {
                options.bug = args.next().and_then(|name| Bug::named(&name));
                options.bug.is_some()
            }
            _ => false,
        };
        if !known {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    let (mut count, mut failed, mut stats) = (0_u64, 0_u64, Stats::default());
    let mut trace = Sha256::new();
    let began = Instant::now();
    for seed in seeds {
        let outcome = run(seed, &options);
        count += 1;
        trace.update(outcome.trace);
        stats.add(&outcome.stats);
        if let Some(violation) = outcome.violation {
            failed += 1;
            let bug = options.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
            println!("seed {seed}: {violation}");
            println!(
                "  again: cargo run --release -p postroad-tests --bin simulate -- --seeds {seed}..{}{bug} --trace",
                seed + 1
            );
        }
        if count.is_multiple_of(50) {
            println!("{count} seeds, {failed} failed, {:.1} seeds/s", count as f64 / began.elapsed().as_secs_f64());
        }
    }
    for (name, value) in stats.list() {
        println!("{name:>22} {value}");
    }
    println!("{:.1} seeds/s", count as f64 / began.elapsed().as_secs_f64());
    println!("seeds={count} failed={failed} trace={}", hex::encode(trace.finalize()));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn range(text: &str) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}
