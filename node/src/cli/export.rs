//! `postroad mailbox export` and `postroad mailbox import`: a mailbox's whole state in one file under a passphrase.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use postroad_client::{ExportError, Exported, Mailbox, Passphrase};
use serde_json::json;

use super::client_side::time_text;
use super::output::{CliError, Output};
use super::passphrase;

/// Arguments of `postroad mailbox export`.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

/// Arguments of `postroad mailbox import`.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file that `mailbox export` wrote
    #[arg(long = "in", value_name = "FILE")]
    from: PathBuf,
    /// The mailbox's new directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

/// Exports a mailbox.
///
/// # Errors
/// If a process sends or receives for it, or the file exists or cannot be written.
pub(super) async fn export(args: Export, output: &Output) -> Result<(), CliError> {
    if args.out.exists() {
        return Err(exists(&args.out));
    }
    // Whoever mistakes the directory is not asked for a passphrase first.
    Mailbox::open(&args.mailbox)?;
    let passphrase = args.passphrase.read(true).await?;
    let Export { mailbox, out, .. } = args;
    let (exported, out) = offload(move || Ok((write(&mailbox, &passphrase, &out)?, out))).await?;
    let Exported { mailbox, taken_ms, rows } = exported;
    output.emit(
        &json!({
            "type": "exported",
            "address": mailbox.to_string(),
            "file": out,
            "taken_ms": taken_ms,
            "rows": rows,
        }),
        &format!(
            "{mailbox}\n  is in {}, with its keys: whoever has the file and the passphrase is the owner",
            out.display()
        ),
    )
}

/// Writes the file; it appears under its name when it is whole and on the disk.
fn write(mailbox: &Path, passphrase: &Passphrase, out: &Path) -> Result<Exported, CliError> {
    let failed = |error: std::io::Error| CliError::io(format_args!("write {}", out.display()), &error);
    let dir = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For its owner only, and removed when something goes wrong.
    let mut draft = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let mut to = BufWriter::with_capacity(1 << 20, draft.as_file_mut());
    let exported = Mailbox::export(mailbox, passphrase, &mut to)?;
    to.flush().map_err(failed)?;
    drop(to);
    draft.as_file().sync_all().map_err(failed)?;
    draft.persist_noclobber(out).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(out),
        _ => failed(error.error),
    })?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(exported)
}

fn exists(out: &Path) -> CliError {
    CliError::refused("exists", format!("{} exists already and is not overwritten", out.display()), "name another file")
}

/// Imports a mailbox.
///
/// # Errors
/// If the directory is not empty, the passphrase does not open the file, or the file is not whole.
pub(super) async fn import(args: Import, output: &Output) -> Result<(), CliError> {
    let file = File::open(&args.from);
    let file = file.map_err(|error| CliError::io(format_args!("read {}", args.from.display()), &error))?;
    let passphrase = args.passphrase.read(false).await?;
    let dir = args.mailbox.clone();
    let (mailbox, exported) = offload(move || Ok(Mailbox::import(file, &passphrase, &dir)?)).await?;
    let (address, home) = (mailbox.address(), mailbox.home());
    output.emit(
        &json!({
            "type": "imported",
            "address": address.to_string(),
            "home": home.node().to_string(),
            "taken_ms": exported.taken_ms,
            "rows": exported.rows,
        }),
        &format!(
            "{address}\n  is in {} as of {} (UTC); it lives at {}",
            args.mailbox.display(),
            time_text(exported.taken_ms),
            home.node()
        ),
    )?;
    output.note(
        "Make sure that no other copy of it is used. `recv` shows again what it showed after the export, as far as the \
         home still has it.",
    );
    Ok(())
}

async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CliError::refused("stopped", format!("it broke off: {error}"), ""))?
}

/// How what is wrong with a file or a passphrase ends a process.
pub(super) fn failed(error: ExportError) -> CliError {
    let message = error.to_string();
    match error {
        ExportError::NoPassphrase => CliError::usage("passphrase", message, "choose a long one"),
        ExportError::WrongPassphrase => CliError::refused("passphrase", message, "try again with another one"),
        ExportError::TooCostly { .. } => {
            CliError::refused("too-costly", message, "open it with an age tool, and encrypt it again")
        }
        ExportError::Foreign(_) | ExportError::Damaged | ExportError::Unknown(_) => {
            CliError::unverified("export", message, "use another copy of the file; nothing was imported")
        }
        ExportError::Io(_) => CliError::refused("io", message, "check the path, its permissions and the free space"),
    }
}
