//! `postroad retire`: a node that closes offers its mailboxes another home, and says how many are still there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use postroad_net::split_address;
use serde_json::{Value, json};

use super::output::{CliError, Output};
use crate::config::NodeDir;
use crate::driver::{RETIRE_REQUEST, Standing, Wish, Word};

/// How long the node may take; it asks the new home about every mailbox.
const PATIENCE: Duration = Duration::from_secs(300);

/// Arguments of `postroad retire`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The node has to run, and goes on: what it does is tell its mailboxes' owners, who take the offer or go elsewhere. Without
--to or --cancel it says how far it is.

Examples:
  postroad retire --dir node --to 12D3KooW…      close, and offer that node
  postroad retire --dir node                     who is still there, and what is left to wait for
  postroad retire --dir node --cancel            stay open")]
pub struct Args {
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node to offer: its PeerId, or a multiaddress that ends in it
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Also if that node does not take all of the mailboxes
    #[arg(long, requires = "to")]
    anyway: bool,
    /// Stay open, and take mailboxes in again
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
}

/// Closes a node, or shows how far that is.
///
/// # Errors
/// If the node does not run, or the new home does not take the mailboxes.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let wish = match (args.to, args.cancel) {
        (Some(to), _) => {
            let node = split_address(&to).map_or_else(|_| to.clone(), |(peer, _)| peer.to_string());
            Wish::Close { to: node, anyway: args.anyway }
        }
        (None, true) => Wish::Stay,
        (None, false) => Wish::Look,
    };
    let dir = NodeDir::new(&args.dir);
    let asked = tokio::task::spawn_blocking(move || ask(&dir, &wish)).await;
    match asked.map_err(|error| CliError::refused("stopped", format!("it broke off: {error}"), ""))?? {
        Word::Stands(standing) => output.emit(&standing_json(&standing), &standing_text(&standing)),
        Word::Refused(reason) => Err(CliError::refused("not-closed", reason, "nothing has changed")),
        Word::NotTaken(mailboxes) => {
            for (mailbox, reason) in &mailboxes {
                output.emit(
                    &json!({ "type": "not-taken", "mailbox": mailbox, "reason": reason }),
                    &format!("not taken: {mailbox}: {reason}"),
                )?;
            }
            Err(CliError::refused(
                "not-taken",
                format!("the new home does not take {} of the mailboxes; nothing has changed", mailboxes.len()),
                "its operator can change [moves] and [limits]; or offer another node, or add --anyway",
            ))
        }
    }
}

fn ask(dir: &NodeDir, wish: &Wish) -> Result<Word, CliError> {
    let no_node = |error: std::io::Error| {
        let message = format!("no node answers in {}: {error}", dir.path().display());
        CliError::unreachable("not-running", message, "start it: it closes by telling its mailboxes' owners")
    };
    let mut socket = UnixStream::connect(dir.control()).map_err(no_node)?;
    let question = serde_json::to_vec(wish).map_err(|error| CliError::io("write JSON", &error.into()))?;
    let mut answer = Vec::new();
    let asked = (socket.set_read_timeout(Some(PATIENCE)))
        .and_then(|()| socket.write_all(RETIRE_REQUEST))
        .and_then(|()| socket.write_all(&question))
        .and_then(|()| socket.shutdown(Shutdown::Write))
        .and_then(|()| socket.read_to_end(&mut answer));
    asked.map_err(no_node)?;
    serde_json::from_slice(&answer).map_err(|error| no_node(error.into()))
}

/// What is said in one word: `open`, `retiring`, and `retired` once nobody lives there any more.
fn state(standing: &Standing) -> &'static str {
    match (&standing.to, standing.remaining.is_empty()) {
        (None, _) => "open",
        (Some(_), false) => "retiring",
        (Some(_), true) => "retired",
    }
}

/// Whether nobody needs the node any more.
fn is_over(standing: &Standing) -> bool {
    state(standing) == "retired" && standing.leaving.is_empty() && standing.held == 0
}

fn standing_json(standing: &Standing) -> Value {
    json!({
        "type": "retirement",
        "node": standing.node,
        "state": state(standing),
        "to": standing.to,
        "moved": standing.moved,
        "leaving": standing.leaving,
        "remaining": standing.remaining,
        "held": standing.held,
        "over": is_over(standing),
    })
}

fn standing_text(standing: &Standing) -> String {
    let Some(to) = &standing.to else {
        return format!("open: {} mailboxes live here, and it does not close", standing.remaining.len());
    };
    let list = |what: &str, mailboxes: &[String]| -> String {
        mailboxes.iter().map(|mailbox| format!("\n  {what} {mailbox}")).collect()
    };
    let last = match is_over(standing) {
        true => "\nnobody needs this node any more: stop it; its directory can be deleted".to_owned(),
        false => format!("\n  {} slices are held for destinations that do not have them yet", standing.held),
    };
    format!(
        "{}: its mailboxes are offered {to}; {} have moved, {} are leaving, {} remain{}{}{last}",
        state(standing),
        standing.moved,
        standing.leaving.len(),
        standing.remaining.len(),
        list("leaving", &standing.leaving),
        list("remains", &standing.remaining),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nobody_needs_the_node() {
        let node = "n".to_owned();
        let mut standing =
            Standing { node, to: Some("t".into()), remaining: Vec::new(), leaving: Vec::new(), moved: 3, held: 0 };
        assert_eq!((state(&standing), is_over(&standing)), ("retired", true));
        assert!(standing_text(&standing).contains("can be deleted"));
        standing.held = 1;
        assert!(!is_over(&standing) && standing_text(&standing).contains("1 slices"));
        (standing.held, standing.leaving) = (0, vec!["m".into()]);
        assert!(!is_over(&standing) && standing_text(&standing).contains("leaving m"));
        standing.remaining = vec!["r".into()];
        let line = standing_json(&standing);
        assert_eq!(
            (&line["state"], &line["remaining"][0], &line["over"]),
            (&"retiring".into(), &"r".into(), &false.into())
        );
        standing.to = None;
        assert_eq!((state(&standing), is_over(&standing)), ("open", false));
    }
}
