//! `postroad demo`: the main job, on real processes, sockets, disks and signatures, with a crash in the middle and an
//! independent verdict at the end.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `script` | who writes what to whom, and which node dies when: a function of the seed |
//! | `play` | the processes and how they go on |
//! | `files` | the form of what the clients write |
//! | `check` | the verdict, from those files alone |
//! | `blame` | the second chapter: a node that drops mail; in builds that can cheat |
//! | `moves` | the last chapter: mailboxes that move, also away from a node that is gone for good |
//! | `progress` | bars |
//! | `janitor` | removes the temporary directory if the demo is killed |

#[cfg(feature = "cheat")]
pub mod blame;
pub mod check;
pub mod files;
pub mod janitor;
pub mod moves;
pub mod play;
pub mod progress;
pub mod script;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::children::{Child, stop_all};
use super::output::{CliError, Exit, Output};
use super::signals::{Signals, Stop};
use super::testnet::DRAIN;
use check::{Report, Written, check};
use play::{Cast, Setting, mailboxes, play};

/// How many problems are told; the rest is counted.
const MAX_TOLD: usize = 20;

/// Arguments of `postroad demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Four nodes and eight mailboxes, a process each, in a temporary directory. In the middle one node is killed and started
again. At the end everything ordered must be with every recipient exactly once, in one order for all; that is checked
from nothing but what the clients wrote. Exit code 3 if it is not so. Then a node cheats and is named (in builds that can
cheat), and mailboxes move under load, and away from a node whose directory is deleted; the same check follows.

Examples:
  postroad demo
  postroad demo --keep demo --seed 7       keeps everything in demo/
  postroad demo --check demo               checks what was kept again")]
pub struct Args {
    /// Keep everything in DIR, which must be empty or missing
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Decides who writes what to whom, and which node is killed when
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Messages of each of the eight mailboxes
    #[arg(long, value_name = "M", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub messages: u64,
    /// Only check what a demo has kept in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keep", "seed", "messages"])]
    pub check: Option<PathBuf>,
    /// Remove DIR when standard input ends
    #[arg(long, value_name = "DIR", hide = true)]
    pub sweep: Option<PathBuf>,
}

/// Runs the demo, or checks one.
///
/// # Errors
/// `unverified` if the check finds anything; `interrupted` after Ctrl-C; otherwise what kept the demo from its end.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    if let Some(dir) = &args.sweep {
        janitor::sweep_after(dir).await;
        return Ok(());
    }
    if let Some(dir) = &args.check {
        verdict(&read(dir)?, output)?;
        // A demo that ended early has no last chapter.
        let moves = moves_in(dir);
        return if moves.exists() { verdict(&read(&moves)?, output) } else { Ok(()) };
    }
    let mut signals = Signals::catch().map_err(|error| CliError::io("catch signals", &error))?;
    let (stage, mut janitor) = Stage::set(args.keep.as_deref())?;
    let setting = Setting { dir: stage.dir().to_owned(), seed: args.seed, messages: args.messages };
    let started = std::time::Instant::now();
    let mut cast = Cast::default();
    let ended = tokio::select! {
        ended = play(&setting, &mut cast, output) => ended,
        stop = signals.next() => Err(stopped(stop)),
    };
    leave(cast, &mut signals).await;
    let judged = match ended {
        Ok(()) => read(stage.dir()).and_then(|written| {
            output.note(&format!("finished after {:.1} s", started.elapsed().as_secs_f32()));
            verdict(&written, output)
        }),
        Err(error) => Err(error),
    };
    let judged = match judged {
        Ok(()) => second(stage.dir(), &mut signals, output).await,
        failed => failed,
    };
    let judged = match judged {
        Ok(()) => last(&moves_in(stage.dir()), &mut signals, output).await,
        failed => failed,
    };
    let cleared = stage.clear();
    if let Some(janitor) = &mut janitor {
        janitor.signal(Signal::KILL);
        let _ = janitor.ended().await;
    }
    judged.and(cleared)
}

/// What a signal makes of a demo.
fn stopped(stop: Stop) -> CliError {
    match stop {
        Stop::Interrupt => CliError::interrupted(),
        Stop::Terminate => CliError::refused("terminated", "the demo was asked to stop", ""),
    }
}

/// Ends all processes of a chapter; another signal hurries them.
async fn leave(mut cast: Cast, signals: &mut Signals) {
    let hurry = async {
        signals.next().await;
    };
    // Clients keep nothing that is worth draining.
    stop_all(&mut cast.clients, Duration::ZERO, std::future::ready(())).await;
    stop_all(&mut cast.nodes, DRAIN, hurry).await;
}

/// Where the last chapter takes place.
fn moves_in(dir: &Path) -> PathBuf {
    dir.join("moves")
}

/// The last chapter, about mailboxes that move, and the verdict on it.
async fn last(dir: &Path, signals: &mut Signals, output: &Output) -> Result<(), CliError> {
    let mut cast = Cast::default();
    let ended = tokio::select! {
        ended = moves::play(dir, &mut cast, output) => ended,
        stop = signals.next() => Err(stopped(stop)),
    };
    leave(cast, signals).await;
    ended?;
    verdict(&read(dir)?, output)
}

/// The second chapter, about a node that drops mail.
#[cfg(feature = "cheat")]
async fn second(dir: &Path, signals: &mut Signals, output: &Output) -> Result<(), CliError> {
    let mut cast = Cast::default();
    let dir = dir.join("blame");
    let ended = tokio::select! {
        ended = blame::play(&dir, &mut cast, output) => ended,
        stop = signals.next() => Err(stopped(stop)),
    };
    leave(cast, signals).await;
    ended
}

/// No node of this build can cheat.
#[cfg(not(feature = "cheat"))]
async fn second(_: &Path, _: &mut Signals, output: &Output) -> Result<(), CliError> {
    output.note("the second chapter, about a node that drops mail, is in builds with --features cheat");
    Ok(())
}

/// Where a demo takes place.
enum Stage {
    Kept(PathBuf),
    Passing(tempfile::TempDir),
}

impl Stage {
    /// The directory, and who removes it if this process cannot.
    fn set(keep: Option<&Path>) -> Result<(Stage, Option<Child>), CliError> {
        let Some(dir) = keep else {
            let dir = tempfile::Builder::new()
                .prefix("postroad-demo-")
                .tempdir()
                .map_err(|error| CliError::io("make a temporary directory", &error))?;
            let args = ["demo".as_ref(), "--sweep".as_ref(), dir.path().as_os_str()];
            let janitor = Child::spawn("janitor", &args, Path::new("/dev/null"))?;
            return Ok((Stage::Passing(dir), Some(janitor)));
        };
        let failed = |error| CliError::io(format_args!("use {}", dir.display()), &error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
            let message = format!("{} is not empty", dir.display());
            return Err(CliError::usage("not-empty", message, "give --keep an empty or a new directory"));
        }
        Ok((Stage::Kept(dir.canonicalize().map_err(failed)?), None))
    }

    fn dir(&self) -> &Path {
        match self {
            Stage::Kept(dir) => dir,
            Stage::Passing(dir) => dir.path(),
        }
    }

    fn clear(self) -> Result<(), CliError> {
        match self {
            Stage::Kept(_) => Ok(()),
            Stage::Passing(dir) => dir.close().map_err(|error| CliError::io("remove the temporary directory", &error)),
        }
    }
}

/// Reads what the clients of the demo in `dir` wrote.
fn read(dir: &Path) -> Result<Vec<Written>, CliError> {
    let dir = mailboxes(dir);
    let failed = |path: &Path, error: &std::io::Error| {
        let message = format!("could not read {}: {error}", path.display());
        CliError::usage("no-demo", message, "name a directory that postroad demo --keep has filled")
    };
    let mut written = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(|error| failed(&dir, &error))? {
        let entry = entry.map_err(|error| failed(&dir, &error))?;
        // What is not text is damaged, and the check says so.
        let text = |file: &str| {
            let path = entry.path().join(file);
            let bytes = std::fs::read(&path).map_err(|error| failed(&path, &error))?;
            Ok::<_, CliError>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        written.push(Written { name, sent: text("sent.jsonl")?, recv: text("recv.jsonl")? });
    }
    written.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(written)
}

/// Checks, and says what came out.
fn verdict(written: &[Written], output: &Output) -> Result<(), CliError> {
    let report = check(written);
    let heading = format!("{:<8} {:>6} {:>9} {:>9}  address", "mailbox", "sent", "received", "verified");
    output.emit(&json!({ "type": "table", "rows": report.rows.len() }), &heading)?;
    for row in &report.rows {
        output.emit(
            &json!({
                "type": "row", "name": row.name, "address": row.address,
                "sent": row.sent, "received": row.received, "verified": row.verified,
            }),
            &format!("{:<8} {:>6} {:>9} {:>9}  {}", row.name, row.sent, row.received, row.verified, row.address),
        )?;
    }
    for problem in report.problems.iter().take(MAX_TOLD) {
        output.emit(&json!({ "type": "problem", "problem": problem }), &format!("wrong: {problem}"))?;
    }
    let Report { ordered, received, missing, duplicate, disordered, .. } = report;
    let ok = report.is_ok();
    output.emit(
        &json!({
            "type": "demo", "ordered": ordered, "received": received, "missing": missing,
            "duplicate": duplicate, "disordered": disordered, "ok": ok,
        }),
        &format!(
            "{}: {ordered} messages ordered, {received} times received; \
             {missing} missing, {duplicate} duplicate, {disordered} out of order",
            if ok { "everything is as it must be" } else { "NOT as it must be" },
        ),
    )?;
    match ok {
        true => Ok(()),
        false => {
            let message = format!("the check found {} problems", report.problems.len());
            Err(CliError::new(Exit::Unverified, "demo", message, "keep the files (--keep DIR) and report them"))
        }
    }
}
