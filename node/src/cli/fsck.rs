//! `postroad fsck`: recomputes what a stopped node's store holds, and names what does not agree.

use std::path::PathBuf;

use postroad_engine::tables::ALL;
use postroad_store::{DirLock, Store};
use serde_json::json;

use super::output::{CliError, Output};
use super::run::{DAMAGED, locked};
use crate::config::{NodeDir, StoreKind};
use crate::fsck;

/// Arguments of `postroad fsck`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It changes nothing. The node must be stopped; a running one can be checked by restoring a backup of it elsewhere.

Examples:
  postroad fsck --dir node
  postroad fsck --dir node --json")]
pub struct Args {
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Checks the store.
///
/// # Errors
/// If a process runs on the directory, the store cannot be read, or there are problems.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let dir = NodeDir::new(&args.dir);
    let me = dir.read_key()?.public();
    let federation = dir.read_genesis()?;
    if !dir.store(StoreKind::Redb).exists() {
        let message = format!("{} is missing: this node never ran", dir.store(StoreKind::Redb).display());
        return Err(CliError::usage("no-store", message, "give the directory of a node that ran"));
    }
    let lock = DirLock::take(&args.dir).map_err(locked)?;
    let to = *output;
    let checked = tokio::task::spawn_blocking(move || {
        let store = Store::inspect(&dir.store(StoreKind::Redb), &ALL).map_err(locked)?;
        let snapshot = store.snapshot().map_err(locked)?;
        let mut printed = Ok(());
        let summary = fsck::check(&snapshot, me, &federation, &mut |problem| {
            let line = json!({ "type": "problem", "what": problem.what, "key": problem.key });
            if printed.is_ok() {
                printed = to.emit(&line, &format!("{}: {}", problem.key, problem.what));
            }
        });
        printed?;
        summary.map_err(locked)
    });
    // What the tree above the rows says may be impossible; redb does not expect that.
    let summary = checked.await.map_err(|_| {
        let message = "the store's tree is damaged, and its rows cannot be reached";
        CliError::unverified("store-damaged", message, DAMAGED)
    })??;
    drop(lock);
    let fsck::Summary { records, problems, epoch, attestations, unknown_attestations } = summary;
    output.emit(
        &json!({
            "type": "fsck",
            "records": records,
            "problems": problems,
            "epoch": epoch,
            "attestations": attestations,
            "unknown_attestations": unknown_attestations,
        }),
        &format!(
            "{records} records up to epoch {epoch}: {problems} problems\n{attestations} final attestations recomputed; \
             {unknown_attestations} hold acknowledgements that later ones have replaced"
        ),
    )?;
    match problems {
        0 => Ok(()),
        _ => Err(CliError::unverified("problems", format!("{problems} problems"), DAMAGED)),
    }
}
