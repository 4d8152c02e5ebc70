//! `postroad backup` and `postroad restore`.

use std::path::PathBuf;

use serde_json::json;

use super::output::{CliError, Exit, Output};
use super::run::locked;
use crate::backup::{self, BackupError};
use crate::config::NodeDir;

/// Arguments of `postroad backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The node may run or not. The backup holds postroad.toml, genesis.toml and everything that the node stores; the key only
with --with-key; the sequencer's guard never. It is read back and checked before it gets its name.

Examples:
  postroad backup --dir node --out /backups
  postroad backup --dir node --out node.backup --with-key
  postroad backup --check node.backup")]
pub struct Args {
    /// The node's directory
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    pub dir: Option<PathBuf>,
    /// The file to write, or the directory to write one into
    #[arg(long, value_name = "FILE_OR_DIR", required_unless_present = "check")]
    pub out: Option<PathBuf>,
    /// Put the node's key into the backup: whoever has the file is the node
    #[arg(long)]
    pub with_key: bool,
    /// Only check that this backup is whole
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "out", "with_key"])]
    pub check: Option<PathBuf>,
}

/// Takes or checks a backup.
///
/// # Errors
/// If it could not be taken, or is not whole.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    match args {
        Args { check: Some(file), .. } => check(file, output).await,
        Args { dir: Some(dir), out: Some(out), with_key, .. } => take(dir, out, with_key, output).await,
        _ => Err(CliError::usage("usage", "--dir and --out, or --check, are needed", "see postroad help backup")),
    }
}

async fn check(file: PathBuf, output: &Output) -> Result<(), CliError> {
    let path = file.clone();
    let contents = offload(move || backup::check(&path)).await?;
    let backup::Contents { head, rows, epoch, digest, .. } = &contents;
    let key = contents.has_key();
    output.emit(
        &json!({
            "type": "backup",
            "file": file,
            "node": head.node.to_string(),
            "taken_ms": head.taken_ms,
            "epoch": epoch,
            "rows": rows,
            "digest": digest.to_string(),
            "key": key,
        }),
        &format!(
            "{} is whole: node {}, epoch {epoch}, {rows} rows, digest {digest}\n{}",
            file.display(),
            head.node,
            about_key(key)
        ),
    )
}

async fn take(dir: PathBuf, out: PathBuf, with_key: bool, output: &Output) -> Result<(), CliError> {
    let dir = NodeDir::new(&dir);
    let taken = offload(move || backup::take(&dir, &out, with_key)).await?;
    let backup::Taken { file, rows, bytes, epoch, digest, running } = &taken;
    output.emit(
        &json!({
            "type": "backup",
            "file": file,
            "epoch": epoch,
            "rows": rows,
            "bytes": bytes,
            "digest": digest.to_string(),
            "key": with_key,
            "running": running,
        }),
        &format!(
            "{}: epoch {epoch}, {rows} rows, {bytes} bytes, digest {digest}\n{}",
            file.display(),
            about_key(with_key)
        ),
    )
}

fn about_key(is_in_it: bool) -> &'static str {
    match is_in_it {
        true => "THE KEY IS IN IT: whoever has the file is the node. The signing guard is not, and must not be.",
        false => "The key is NOT in it: keep a copy of the file key elsewhere. Neither is the signing guard.",
    }
}

/// Arguments of `postroad restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The directory may be new, or hold what is left of the node (its key, its guard, its configuration), but no store. What is
restored is checked as fsck does before anything gets its name.

Examples:
  postroad restore --from node.backup --dir node
  mv node/store.redb damaged.redb && postroad restore --from node.backup --dir node")]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Restores a backup.
///
/// # Errors
/// If the backup is not whole or does not agree with itself, or something is in its way.
pub async fn run_restore(args: RestoreArgs, output: &Output) -> Result<(), CliError> {
    let dir = NodeDir::new(&args.dir);
    let restored = offload(move || backup::restore(&args.from, &dir)).await?;
    let backup::Restored { contents, summary, has_key, guard } = &restored;
    let (node, epoch, records) = (contents.head.node, contents.epoch, summary.records);
    output.emit(
        &json!({
            "type": "restored",
            "dir": args.dir,
            "node": node.to_string(),
            "epoch": epoch,
            "records": records,
            "problems": summary.problems,
            "key": has_key,
            "guard": guard,
        }),
        &format!("node {node} is restored as of epoch {epoch}: {records} records, no problems"),
    )?;
    if !has_key {
        output
            .note(&format!("The key was not in the backup: put it at {} (mode 600).", args.dir.join("key").display()));
    }
    match guard {
        Some(true) => {
            output.note("It is the sequencer, and its guard is as it was: it fetches the cuts that it forgot first.")
        }
        Some(false) => output.note(
            "It is the SEQUENCER, and guard/ is missing: it does not start until the newest guard/ that this \
             sequencer wrote is put back.",
        ),
        None => {}
    }
    output.note(
        "At its next start it begins a new incarnation, follows the cuts to the present, and fetches the slices that \
         it forgot.\nMake sure that no other copy of this node runs.",
    );
    Ok(())
}

async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CliError::refused("stopped", format!("it broke off: {error}"), ""))?.map_err(CliError::from)
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> CliError {
        let message = error.to_string();
        match error {
            BackupError::Format { source: backup::FormatError::Io(_), .. } => {
                CliError::refused("io", message, "check the path and its permissions")
            }
            BackupError::Format { .. } => CliError::unverified("backup", message, "use another backup"),
            BackupError::Node(_) => CliError::refused("backup-refused", message, "see the node's log, and try again"),
            BackupError::NoSocket { .. } => {
                CliError::new(Exit::InUse, "in-use", message, "stop the process first; its log says why")
            }
            BackupError::Refused { .. } => CliError::refused("in-the-way", message, ""),
            BackupError::Problems { .. } => {
                CliError::unverified("problems", message, "use an older backup; nothing was restored")
            }
            BackupError::Config(error) => error.into(),
            BackupError::Store(error) => locked(error),
            BackupError::Io { .. } => {
                CliError::refused("io", message, "check the path, its permissions and the free space")
            }
        }
    }
}
