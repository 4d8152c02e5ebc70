//! Looks for claims against honest nodes that hold. See docs/testing.md.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use postroad_tests::framing::{Flaw, Options, Report, run};

const USAGE: &str = "usage: frame [--combinations N] [--seed S] [--from N] [--jobs N] [--reasons] [--flaw NAME]";

/// What was asked for.
struct Asked {
    options: Options,
    reasons: bool,
}

fn main() -> ExitCode {
    let Some(Asked { options, reasons }) = read_args() else {
        let flaws: Vec<&str> = Flaw::ALL.into_iter().map(Flaw::name).collect();
        eprintln!("{USAGE}\nflaws: {}", flaws.join(", "));
        return ExitCode::from(2);
    };
    let began = Instant::now();
    let report = run(&options);
    if reasons {
        report.cut_short.iter().for_each(|story| println!("cut short: {story}"));
        for ((kind, reason), count) in &report.reasons {
            println!("{kind:>14} cleared {count:>8} {reason}");
        }
    }
    for conviction in &report.convictions {
        let number = conviction.number;
        let name = format!("framed-{}-{number}", options.seed);
        println!("{} of {} (combination {number})", conviction.verdict.fault, conviction.verdict.culprit);
        let flaw = options.flaw.map(|flaw| format!(" --flaw {}", flaw.name())).unwrap_or_default();
        println!(
            "  again: cargo run --release -p postroad-tests --bin frame -- --seed {} --from {number} --combinations 1{flaw}",
            options.seed
        );
        let written = std::fs::write(format!("{name}.evidence"), &conviction.file)
            .and_then(|()| std::fs::write(format!("{name}.genesis.toml"), &conviction.genesis));
        match written {
            Ok(()) => println!("  postroad verify {name}.evidence --genesis {name}.genesis.toml"),
            Err(error) => println!("  {name}.evidence: {error}"),
        }
    }
    println!("{}", line(&report, &options, began.elapsed().as_secs_f64()));
    if report.convictions.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Everything in one line.
fn line(report: &Report, options: &Options, seconds: f64) -> String {
    let total = report.total();
    let kinds: Vec<String> =
        report.kinds.iter().map(|(kind, counts)| format!("{kind}={}", counts.combinations)).collect();
    format!(
        "stories={} combinations={} decoded={} cleared={} unproven={} losses={} verdicts={} seed={} rate={:.0}/s {}",
        report.stories,
        total.combinations,
        total.decoded,
        total.cleared,
        total.unproven,
        total.losses,
        total.verdicts,
        options.seed,
        total.combinations as f64 / seconds,
        kinds.join(" ")
    )
}

fn read_args() -> Option<Asked> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seed: 1, from: 0, combinations: 10_000, jobs, flaw: None, stop: false };
    let mut reasons = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--reasons" => reasons = true,
            "--combinations" => options.combinations = args.next()?.parse().ok()?,
            "--seed" => options.seed = args.next()?.parse().ok()?,
            "--from" => options.from = args.next()?.parse().ok()?,
            "--jobs" => options.jobs = args.next()?.parse().ok().filter(|jobs| *jobs > 0)?,
            "--flaw" => {
                options.flaw = Some(Flaw::named(&args.next()?)?);
                options.stop = true;
            }
            _ => return None,
        }
    }
    Some(Asked { options, reasons })
}
