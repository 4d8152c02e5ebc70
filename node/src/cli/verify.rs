//! `postroad verify`: checks a message proof or an explanation, or judges evidence, with nothing but the federation's
//! genesis.

use std::path::PathBuf;

use postroad_client::read_genesis;
use postroad_protocol::entry::{MessageProof, Placed};
use postroad_protocol::evidence::Claim;
use postroad_protocol::explanation::Explanation;
use serde_json::json;

use super::client_side::time_text;
use super::evidence::judge_file;
use super::explain;
use super::output::{CliError, Output};

/// Arguments of `postroad verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad recv --mailbox alice --proof proofs
  postroad verify proofs/17.0.3.proof --genesis alice/genesis.toml
  postroad verify fault.evidence --genesis alice/genesis.toml")]
pub struct Args {
    /// The proof, as `recv --proof` wrote it; the explanation, as `explain --out` did; or evidence, as `evidence export`
    /// did
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The federation's genesis; a mailbox's directory has it as genesis.toml
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
}

/// Checks the file.
///
/// # Errors
/// If a file cannot be read, the proof does not hold, or the accused is innocent.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let federation = read_genesis(&args.genesis)?;
    let bytes = std::fs::read(&args.file)
        .map_err(|error| CliError::io(format_args!("read {}", args.file.display()), &error))?;
    if Claim::is_file(&bytes) {
        return judge_file(&args.file, &bytes, &federation, output);
    }
    if Explanation::is_file(&bytes) {
        return explain::tell(&explain::read(&args.file, &federation)?, &federation, output);
    }
    let checked = match MessageProof::from_file(&bytes) {
        Ok(proof) => proof.verify(&federation).map_err(|error| error.to_string()),
        Err(error) => Err(format!("not a message proof: {error}")),
    };
    match checked {
        Ok(placed) => output.emit(&verdict("holds", Some(&placed), "every signature and path holds"), &plain(&placed)),
        Err(reason) => {
            output.emit(&verdict("malformed", None, &reason), "")?;
            let message = format!("{} proves nothing: {reason}", args.file.display());
            Err(CliError::unverified("malformed", message, "get the proof again from whoever claims it"))
        }
    }
}

fn verdict(result: &str, placed: Option<&Placed>, reason: &str) -> serde_json::Value {
    json!({
        "type": "verdict",
        "result": result,
        "kind": "message",
        "culprit": null,
        "epoch": placed.map(|placed| placed.seq.epoch),
        "seq": placed.map(|placed| placed.seq.to_string()),
        "reason": reason,
    })
}

fn plain(placed: &Placed) -> String {
    format!(
        "holds: the message {}\n  sequence number {}\n  ordered         {} UTC\n  sender          {}, counter {}\n  recipient       {}\n  through         {}",
        placed.id,
        placed.seq,
        time_text(placed.time_ms),
        placed.sender,
        placed.counter,
        placed.recipient,
        placed.via,
    )
}
