//! The `postroad` command: one module per subcommand, each with its `Args` and its `run`.
//!
//! This module parses, starts logging and the runtime, runs one subcommand and turns its result into an exit code. A
//! command line that does not parse is an error like every other, in both forms of output.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod backup;
pub mod bench;
pub mod children;
mod client_side;
pub mod demo;
pub mod demo_client;
pub mod directory;
pub mod evidence;
pub mod explain;
mod export;
pub mod fsck;
pub mod genesis;
mod holes;
pub mod init;
mod live;
pub mod mailbox;
pub mod moving;
mod offers;
pub mod output;
mod passphrase;
pub mod recv;
pub mod retire;
pub mod run;
mod screen;
pub mod send;
pub mod signals;
pub mod status;
pub mod testnet;
pub mod verify;
mod watch;

use crate::config::LogFormat;
use output::{CliError, Output};

/// Postroad: a federation of nodes that carries mail in one order, every hop signed for.
#[derive(Parser)]
#[command(name = "postroad", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Print one JSON object per line, errors included
    #[arg(long, global = true, display_order = 100)]
    json: bool,

    /// Log more: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, display_order = 101, action = clap::ArgAction::Count)]
    verbose: u8,

    /// What to log on standard error, for example warn or info,postroad=debug [env: POSTROAD_LOG]
    #[arg(long, global = true, display_order = 102, value_name = "FILTER")]
    log: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch a federation work: four nodes, eight mailboxes, 2,000 messages, a killed node, and a check
    Demo(demo::Args),
    /// Measure what this machine carries, next to what it can do at most
    Bench(bench::Args),
    /// Run a federation of N nodes on this machine until Ctrl-C
    Testnet(testnet::Args),
    /// Make a node's directory: its key and postroad.toml with every value and a comment
    Init(init::Args),
    /// Write a federation file: the one thing that all its nodes share
    Genesis(genesis::Args),
    /// Run one node
    Run(run::Args),
    /// Show what a node knows of itself and of the federation
    Status(status::Args),
    /// Close a node: offer its mailboxes another home, and see who is still there
    Retire(retire::Args),
    /// Take a backup of a node, running or not; or check one
    Backup(backup::Args),
    /// Restore a node from a backup
    Restore(backup::RestoreArgs),
    /// Recompute everything that a stopped node holds, and name what does not agree
    Fsck(fsck::Args),
    /// Make a mailbox and register it with its home
    Mailbox(mailbox::Args),
    /// Send messages, and wait until they are accepted, ordered or delivered
    Send(send::Args),
    /// Receive verified messages in order
    Recv(recv::Args),
    /// Look up where a mailbox lives
    Directory(directory::Args),
    /// Move a mailbox to another home
    Move(moving::Args),
    /// Show the way of a message, hop by hop, and what became of it
    Explain(explain::Args),
    /// Check a message proof, an explanation or evidence offline
    Verify(verify::Args),
    /// Show what a node keeps of others' faults
    Evidence(evidence::Args),
    /// One client of the demo
    #[command(hide = true)]
    DemoClient(demo_client::Args),
}

/// The groups of the help page; every visible subcommand is in exactly one.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Try it", &["demo", "testnet", "bench"]),
    ("Run a node", &["init", "genesis", "run", "status", "retire", "backup", "restore", "fsck"]),
    ("Send and receive", &["mailbox", "send", "recv", "directory", "move"]),
    ("Prove", &["explain", "verify", "evidence"]),
];

const EXAMPLES: &str = "\
Examples:
  postroad demo                                     see it work, in under a minute
  postroad testnet --nodes 4 --dir net              four nodes; their addresses are in net/testnet.json
  postroad mailbox new --dir alice --home MULTIADDR
  echo hello | postroad send --mailbox alice --to ADDR
  postroad recv --mailbox bob --follow

Exit codes: 0 done, 1 refused, 2 usage, 3 verification failed, 4 unreachable or timed out,
5 directory in use, 130 interrupted. `postroad help COMMAND` says more about one command.";

/// The command line with its grouped help page.
fn command() -> clap::Command {
    let command = Cli::command();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        groups.push_str(&format!("{title}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(|sub| sub.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            groups.push_str(&format!("  {name:<10} {about}\n"));
        }
        groups.push('\n');
    }
    let template = format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}\n\n{EXAMPLES}\n");
    command.help_template(template)
}

/// Parses the command line of this process, runs it, and says how the process ends.
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let output = Output::new(cli.json);
    let ended = start(cli, &output);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            error.exit.into()
        }
    }
}

/// Help, version, or a usage error.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader of the help page that has left needs no complaint.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if !json {
        let _ = error.print();
        return output::Exit::Usage.into();
    }
    let text = error.render().to_string();
    let message = text.lines().next().unwrap_or("wrong usage").trim_start_matches("error: ").to_owned();
    let error = CliError::usage("usage", message, "see postroad --help, and postroad help COMMAND");
    Output::new(true).error(&error);
    error.exit.into()
}

fn start(cli: Cli, output: &Output) -> Result<(), CliError> {
    let wanted = match (cli.verbose, cli.log) {
        (0, log) => log.or_else(|| std::env::var("POSTROAD_LOG").ok()),
        (verbose, _) => Some(["info", "debug", "trace"][usize::from(verbose.min(3)) - 1].to_owned()),
    };
    if let Command::Run(args) = &cli.command {
        // A node's configuration names a log level too, and only the command line and the environment beat it.
        let (filter, format) = args.logging(wanted)?;
        start_logging(&filter, format)?;
    } else {
        start_logging(wanted.as_deref().unwrap_or("warn"), LogFormat::Text)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::io("start the runtime", &error))?;
    let ended = runtime.block_on(dispatch(cli.command, output));
    // A thread that waits for standard input would keep a plain drop waiting.
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, output: &Output) -> Result<(), CliError> {
    match command {
        // These take their children with them, or drain, when a signal comes.
        Command::Demo(args) => demo::run(args, output).await,
        Command::Testnet(args) => testnet::run(args, output).await,
        Command::Bench(args) => bench::run(args, output).await,
        Command::Run(args) => run::run(args, output).await,
        Command::DemoClient(args) => demo_client::run(args, output).await,
        command => tokio::select! {
            ended = client_side(command, output) => ended,
            () = signals::interrupt() => Err(CliError::interrupted()),
        },
    }
}

/// The commands that Ctrl-C simply ends.
async fn client_side(command: Command, output: &Output) -> Result<(), CliError> {
    match command {
        Command::Init(args) => init::run(args, output).await,
        Command::Genesis(args) => genesis::run(args, output).await,
        Command::Status(args) => status::run(args, output).await,
        Command::Retire(args) => retire::run(args, output).await,
        Command::Backup(args) => backup::run(args, output).await,
        Command::Restore(args) => backup::run_restore(args, output).await,
        Command::Fsck(args) => fsck::run(args, output).await,
        Command::Mailbox(args) => mailbox::run(args, output).await,
        Command::Send(args) => send::run(args, output).await,
        Command::Recv(args) => recv::run(args, output).await,
        Command::Directory(args) => directory::run(args, output).await,
        Command::Move(args) => moving::run(args, output).await,
        Command::Explain(args) => explain::run(args, output).await,
        Command::Verify(args) => verify::run(args, output).await,
        Command::Evidence(args) => evidence::run(args, output).await,
        Command::Demo(_) | Command::Testnet(_) | Command::Bench(_) | Command::Run(_) | Command::DemoClient(_) => {
            unreachable!("dispatched before")
        }
    }
}

fn start_logging(filter: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        CliError::usage("log-filter", format!("{filter:?} is not a log filter: {error}"), "use warn, info or debug")
    })?;
    let to_stderr = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => to_stderr.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => to_stderr.json().flatten_event(true).try_init(),
    };
    // Somebody else's subscriber, in a test, is as good as ours.
    let _ = started;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_is_in_one_group() {
        let command = command();
        command.clone().debug_assert();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut visible: Vec<&str> =
            command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name()).collect();
        grouped.sort_unstable();
        visible.sort_unstable();
        assert_eq!(grouped, visible);
    }

    #[test]
    fn every_command_has_one_line_about_and_examples() {
        for sub in command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.contains('\n'), "{}: {about:?}", sub.get_name());
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no examples:\n{help}", sub.get_name());
        }
    }
}
