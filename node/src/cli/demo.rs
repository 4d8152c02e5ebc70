//! Being written.

pub mod check;
pub mod files;

use super::output::{CliError, Output};

/// Arguments of `postroad demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:")]
pub struct Args {}

/// Not yet.
///
/// # Errors
/// Always.
pub async fn run(_: Args, _: &Output) -> Result<(), CliError> {
    Err(CliError::refused("placeholder", "not written yet", ""))
}
