//! Placeholder: `postroad directory` is being written.

use super::output::{CliError, Output};

/// Arguments of `postroad directory`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:")]
pub struct Args {}

/// Says that it is not there yet.
///
/// # Errors
/// Always.
pub async fn run(_: Args, _: &Output) -> Result<(), CliError> {
    Err(CliError::refused("placeholder", "not written yet", ""))
}
