//! `postroad send`: one message, or one per line; each waits for its own answer, and is told in line order.

use std::path::PathBuf;
use std::time::Duration;

use postroad_client::{Mailbox, NodeAddr, Outgoing, Progress, Sender, SenderOptions, Stage, Ticket, Wait};
use postroad_protocol::MailboxId;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::client_side::usage;
use super::output::{CliError, Output};

/// How long to stay for what an earlier `send` could not finish, once everything of this one is told.
const LEFT_OVER_PATIENCE: Duration = Duration::from_secs(10);

/// Messages that were given and are not told yet.
const MAX_UNTOLD: usize = 4_096;

/// Arguments of `postroad send`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad send --mailbox alice --to 12D3KooW… \"good day\"
  postroad send --mailbox alice --to 12D3KooW… 12D3KooW… --wait delivered < lines.txt
  postroad send --mailbox alice --to 12D3KooW… --file photo.jpg --via MULTIADDR
Without TEXT and --file, each line of standard input is a message, empty lines included.
What was signed and is not answered in time is kept, and sent again by the next `send` of this mailbox.")]
pub struct Args {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
    /// The recipients' addresses
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    to: Vec<String>,
    /// Submit through this node instead of the home
    #[arg(long, value_name = "MULTIADDR")]
    via: Option<String>,
    /// The answer to wait for
    #[arg(long, value_enum, default_value_t = Answer::Ordered)]
    wait: Answer,
    /// How long to wait for each message's answer
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
    /// Send the file's bytes as one message
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// The message
    #[arg(value_name = "TEXT")]
    text: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Answer {
    /// It is where it must be
    Accepted,
    /// It has its place in the order
    Ordered,
    /// It is in every recipient's mailbox, finally
    Delivered,
}

/// A message whose answer is awaited.
struct Untold {
    line: u64,
    ticket: Ticket,
    deadline: Instant,
}

/// How it ends when not everything went well; the first that applies, in this order.
#[derive(Default)]
struct Troubles {
    unverified: Option<String>,
    refused: Option<String>,
    /// Not answered in time: signed, so kept; and not even signed.
    late: u64,
    unsent: u64,
    /// The first line of the latter. Lines are signed in order, so all of them are from there on.
    first_unsent: Option<u64>,
}

/// Sends.
///
/// # Errors
/// If a message is refused or expires, is not answered in time, or an answer does not verify.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let (to, text) = recipients(&args)?;
    let mailbox = Mailbox::open(&args.mailbox)?;
    let via: Option<NodeAddr> = args.via.as_deref().map(str::parse).transpose()?;
    let sender = Sender::connect(&mailbox, SenderOptions { via }).await?;
    if sender.left_over() > 0 {
        output.note(&format!("{} bundles of an earlier send are sent first", sender.left_over()));
    }
    let wait = match args.wait {
        Answer::Accepted => Wait::Accepted,
        Answer::Ordered => Wait::Ordered,
        Answer::Delivered => Wait::Delivered,
    };
    let within = Duration::from_millis(args.timeout_ms);
    let (given, untold) = mpsc::channel(MAX_UNTOLD);
    let giving = async {
        let mut line = 0;
        let mut source = Source::open(&args, text)?;
        let limit = mailbox.federation().params().max_message_bytes;
        while let Some(body) = source.next(limit).await? {
            line += 1;
            let ticket = sender.send(Outgoing::new(to.clone(), body).waiting_for(wait)).await?;
            let untold = Untold { line, ticket, deadline: Instant::now() + within };
            if given.send(untold).await.is_err() {
                break;
            }
        }
        drop(given);
        Ok::<_, CliError>(())
    };
    let (gave, told) = tokio::join!(giving, tell(untold, wait, &to, output));
    let troubles = told?;
    gave?;
    if sender.left_over() > 0 && !sender.finish(within.min(LEFT_OVER_PATIENCE)).await {
        output.note("what an earlier send left is still not ordered; it stays kept");
    }
    troubles.into_result()
}

/// The addresses, and the text, which a list of addresses before it swallows.
fn recipients(args: &Args) -> Result<(Vec<MailboxId>, Option<String>), CliError> {
    let mut words = args.to.clone();
    let mut text = args.text.clone();
    if let [_, .., last] = words.as_slice()
        && text.is_none()
        && args.file.is_none()
        && last.parse::<MailboxId>().is_err()
        && !last.starts_with("12D3KooW")
    {
        text = words.pop();
    }
    let to = (words.iter())
        .map(|word| word.parse::<MailboxId>().map_err(|error| usage(format!("--to: {error}"), "check the address")))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((to, text))
}

/// Tells what becomes of each message, in line order.
async fn tell(
    mut untold: mpsc::Receiver<Untold>,
    wait: Wait,
    to: &[MailboxId],
    output: &Output,
) -> Result<Troubles, CliError> {
    let mut troubles = Troubles::default();
    while let Some(Untold { line, mut ticket, deadline }) = untold.recv().await {
        let progress = match timeout_at(deadline, ticket.reached(wait)).await {
            Ok(reached) => reached?,
            Err(_) => ticket.progress(),
        };
        if !progress.stage.satisfies(wait) {
            match progress.id {
                Some(_) => troubles.late += 1,
                None => {
                    troubles.unsent += 1;
                    troubles.first_unsent.get_or_insert(line);
                }
            }
        }
        let state = match &progress.stage {
            Stage::Waiting => continue,
            Stage::Accepted => "accepted",
            Stage::Ordered | Stage::NotDelivered => "ordered",
            Stage::Delivered => "delivered",
            Stage::Expired => {
                troubles.refused.get_or_insert(format!("line {line}: not ordered while it was valid; send it again"));
                "expired"
            }
            Stage::Refused(refusal) => {
                troubles.refused.get_or_insert(format!("line {line}: {refusal}"));
                "refused"
            }
            Stage::Unverified(reason) => {
                troubles.unverified.get_or_insert(format!("line {line}: {reason}"));
                continue;
            }
        };
        output.emit(&sent_json(line, state, &progress, to), &sent_plain(line, state, &progress))?;
        for refused in &progress.refused {
            let (to, reason) = (refused.mailbox, refused.reason.code());
            troubles.refused.get_or_insert(format!("line {line}: the home of {to} does not take it ({reason})"));
            output.emit(
                &json!({
                    "type": "refused",
                    "line": line,
                    "id": progress.id.map(|id| id.to_string()),
                    "seq": progress.seq.map(|seq| seq.to_string()),
                    "to": to.to_string(),
                    "reason": reason,
                }),
                &format!("{line}: refused for {to}: {reason}"),
            )?;
        }
    }
    Ok(troubles)
}

fn sent_json(line: u64, state: &str, progress: &Progress, to: &[MailboxId]) -> serde_json::Value {
    json!({
        "type": "sent",
        "line": line,
        "id": progress.id.map(|id| id.to_string()),
        "counter": progress.counter,
        "state": state,
        "weak": progress.weak,
        "seq": progress.seq.map(|seq| seq.to_string()),
        "to": to.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn sent_plain(line: u64, state: &str, progress: &Progress) -> String {
    let at = progress.seq.map(|seq| format!(" at {seq}")).unwrap_or_default();
    let weak = if progress.weak { ", weakly: too few nodes answer for it" } else { "" };
    let id = progress.id.map(|id| format!("  {id}")).unwrap_or_default();
    format!("{line}: {state}{at}{weak}{id}")
}

impl Troubles {
    fn into_result(self) -> Result<(), CliError> {
        if let Some(reason) = self.unverified {
            return Err(CliError::unverified(
                "unverified",
                reason,
                "do not use this node; keep the mailbox's directory",
            ));
        }
        if let Some(reason) = self.refused {
            return Err(CliError::refused("refused", reason, ""));
        }
        if let Some(line) = self.first_unsent {
            let message =
                format!("{} messages were not answered in time, and {} did not leave at all", self.late, self.unsent);
            let fix = format!("check that the node runs (`postroad status`), and send again from line {line} on");
            return Err(CliError::unreachable("unreachable", message, fix));
        }
        if self.late > 0 {
            let message = format!("{} messages were not answered in time", self.late);
            let fix = "they are kept; the next `send` of this mailbox sends them again. See `postroad status`";
            return Err(CliError::unreachable("timed-out", message, fix));
        }
        Ok(())
    }
}

/// Where messages come from.
enum Source {
    One(Option<Vec<u8>>),
    Lines(Box<BufReader<tokio::io::Stdin>>),
}

impl Source {
    fn open(args: &Args, text: Option<String>) -> Result<Source, CliError> {
        match (&args.file, text) {
            (Some(file), _) => {
                let bytes = std::fs::read(file)
                    .map_err(|error| CliError::io(format_args!("read {}", file.display()), &error))?;
                Ok(Source::One(Some(bytes)))
            }
            (None, Some(text)) => Ok(Source::One(Some(text.into_bytes()))),
            (None, None) => Ok(Source::Lines(Box::new(BufReader::new(tokio::io::stdin())))),
        }
    }

    /// The next message: a line without its newline, of at most `limit` bytes.
    async fn next(&mut self, limit: u64) -> Result<Option<Vec<u8>>, CliError> {
        let lines = match self {
            Source::One(bytes) => return Ok(bytes.take()),
            Source::Lines(lines) => lines,
        };
        let mut line = Vec::new();
        let read = lines.take(limit + 1).read_until(b'\n', &mut line).await;
        if read.map_err(|error| CliError::io("read standard input", &error))? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 > limit {
            let message = format!("a line of standard input is longer than the {limit} bytes that a message may have");
            return Err(CliError::refused("too-large", message, "send it as several lines"));
        }
        Ok(Some(line))
    }
}
