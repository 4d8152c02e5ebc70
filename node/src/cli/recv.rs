//! `postroad recv`: verified messages in order. What was written out, and only that, is acknowledged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use postroad_client::{
    ClientError, Content, Keep, Mail, Mailbox, Mode, MovePolicy, Received, Receiver, ReceiverOptions, Violation,
};
use postroad_protocol::{MailboxId, Seq};
use serde_json::{Value, json};

use super::client_side::{base64, time_text, usage};
use super::explain;
use super::holes::Holes;
use super::offers::Offers;
use super::output::{CliError, Output};
use super::watch;

/// Written lines after which they are acknowledged in any case.
const ACKNOWLEDGE_EVERY: usize = 256;

/// Arguments of `postroad recv`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad recv --mailbox alice                        everything up to now, then end
  postroad recv --mailbox alice --follow --json | jq -r 'select(.type == \"message\").text'
  postroad recv --mailbox alice --from 17.0.3 --no-ack      read again from there, change nothing
  postroad recv --mailbox alice --proof proofs         a proof per message, for `postroad verify`
Whatever does not verify ends with a `violation` and exit code 3, and is never acknowledged.")]
pub struct Args {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
    /// Wait for new messages
    #[arg(long)]
    follow: bool,
    /// Never out of order: hold messages back while an earlier one may still come late
    #[arg(long)]
    strict: bool,
    /// Read again from this sequence number on
    #[arg(long, value_name = "SEQ")]
    from: Option<String>,
    /// Acknowledge nothing, ask nothing, answer nothing: the same messages come again the next time
    #[arg(long)]
    no_ack: bool,
    /// What to keep of the entries that were read, from now on: `frontier`, `cross-checked` or `epochs=N`
    #[arg(long, value_name = "HOW")]
    keep: Option<Keep>,
    /// What to do, from now on, when the home closes and offers another one: `ask`, `accept` or `never`
    #[arg(long, value_name = "WHAT")]
    moves: Option<MovePolicy>,
    /// Write a proof of each message into this directory
    #[arg(long, value_name = "DIR")]
    proof: Option<PathBuf>,
    /// Without --follow: how long to look for the home
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
}

/// Receives.
///
/// # Errors
/// If the home cannot be reached, or its word does not hold.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let from: Option<Seq> = (args.from.as_deref().map(str::parse).transpose())
        .map_err(|error: postroad_protocol::seq::BadSeq| usage(error.to_string(), ""))?;
    if let Some(dir) = &args.proof {
        fs::create_dir_all(dir).map_err(|error| CliError::io(format_args!("make {}", dir.display()), &error))?;
    }
    let mailbox = Mailbox::open(&args.mailbox)?;
    if let Some(policy) = args.moves {
        mailbox.set_move_policy(policy)?;
    }
    let mut offers = Offers::of(&mailbox, args.follow, args.no_ack, output)?;
    let options = ReceiverOptions {
        mode: if args.strict { Mode::Strict } else { Mode::Live },
        follow: args.follow,
        from,
        patience: (!args.follow).then(|| Duration::from_millis(args.timeout_ms)),
        keep: args.keep,
    };
    match receive(&mailbox, options, &mut offers, &args, output).await {
        Ok(written) => written?,
        Err(error) => return Err(error.into()),
    }
    offers.end().await
}

/// The library's errors outside, those of the output inside.
async fn receive(
    mailbox: &Mailbox,
    options: ReceiverOptions,
    offers: &mut Offers,
    args: &Args,
    output: &Output,
) -> Result<Result<(), CliError>, ClientError> {
    let mut receiver = Receiver::connect(mailbox, options).await?;
    let ended = read(&mut receiver, offers, args, output).await;
    let violation = match &ended {
        Err(ClientError::Violation(violation)) => Some(violation.clone()),
        Err(ClientError::Unverified { source, .. }) => Some(Violation::Proof(source.clone())),
        _ => None,
    };
    if let Some(violation) = violation {
        let mut line = watch::violation(&violation);
        line["proven"] = explain::proven(&receiver, &violation).await.into();
        if let Err(error) = output.emit(&line, "") {
            return Ok(Err(error));
        }
    }
    ended
}

async fn read(
    receiver: &mut Receiver,
    offers: &mut Offers,
    args: &Args,
    output: &Output,
) -> Result<Result<(), CliError>, ClientError> {
    let mut written = 0;
    let mut holes = Holes::default();
    loop {
        // Acknowledging costs a disk sync, so it waits until there is a pause, or many lines are out.
        let ready = if written < ACKNOWLEDGE_EVERY { receiver.next().now_or_never() } else { None };
        let next = match ready {
            Some(next) => next?,
            None => {
                if written > 0 && !args.no_ack {
                    receiver.acknowledge().await?;
                    receiver.correspond_alone().await?;
                }
                written = 0;
                receiver.next().await?
            }
        };
        let Some(received) = next else { break };
        if matches!(received, Received::Gap { .. }) && !args.no_ack {
            receiver.correspond_alone().await?;
        }
        let mut verdict = None;
        // Who changes nothing asks nobody.
        match &received {
            _ if args.no_ack => {}
            Received::Gap { sender, hole } => {
                if let Some((number, place)) = hole.hint {
                    verdict = explain::missing(receiver, sender, number, place.seq).await;
                    holes.follow(receiver);
                    if verdict.as_ref().is_some_and(is_last) {
                        holes.explained(&(*sender, number));
                    }
                }
            }
            Received::Expired { .. } => verdict = explain::forgotten(receiver).await,
            Received::Unsound { evidence, .. } => verdict = explain::unsound(receiver, evidence).await,
            Received::ForeignCut { epoch, .. } => verdict = explain::foreign(receiver, *epoch).await,
            // The home's word is final now: what it lacks, it lacks for good.
            Received::Settled { is_final: true, .. } => {
                holes.follow(receiver);
                for (name, seq) in holes.due() {
                    let found = explain::missing(receiver, &name.0, name.1, seq).await;
                    let Some(found) = found.filter(is_last) else { continue };
                    holes.explained(&name);
                    if let Err(error) = tell_explained(name, found, output) {
                        return Ok(Err(error));
                    }
                }
            }
            _ => {}
        }
        let done = match &received {
            Received::Retiring { home, to } => offers.offered(*home, to),
            received => write(received, verdict, receiver, args, output),
        };
        if let Err(error) = done {
            return Ok(Err(error));
        }
        // It is no mail, and nothing waits for it to be acknowledged.
        written += usize::from(!matches!(received, Received::Settled { .. } | Received::Retiring { .. }));
    }
    if !args.no_ack {
        receiver.acknowledge().await?;
        receiver.correspond_alone().await?;
    }
    Ok(Ok(()))
}

/// Whether what was found of a missing message will not change.
fn is_last(found: &Value) -> bool {
    found["conclusion"] == "guilty" || found["conclusion"] == "refused"
}

fn tell_explained((sender, number): (MailboxId, u64), found: Value, output: &Output) -> Result<(), CliError> {
    let plain = format!("what became of number {number} of {sender}: {}", found["reason"].as_str().unwrap_or_default());
    let line = json!({ "type": "gap-explained", "from": sender.to_string(), "number": number, "verdict": found });
    output.emit(&line, &plain)
}

fn write(
    received: &Received,
    verdict: Option<Value>,
    receiver: &Receiver,
    args: &Args,
    output: &Output,
) -> Result<(), CliError> {
    let emit = |(line, plain): (Value, String)| output.emit(&line, &plain);
    match received {
        Received::Message(mail) => {
            if let Some(dir) = &args.proof {
                write_proof(dir, mail, receiver.mailbox())?;
            }
            output.emit(&message_json(mail), &message_plain(mail))
        }
        Received::Repeat(mail) => output.emit(
            &json!({
                "type": "repeat",
                "seq": mail.seq.to_string(),
                "id": mail.id.to_string(),
                "sender": mail.sender.to_string(),
            }),
            "",
        ),
        Received::Gap { sender, hole } => {
            let (mut line, plain) = watch::gap(sender, hole, receiver.is_asked(sender, hole.from));
            line["verdict"] = verdict.into();
            emit((line, plain))
        }
        Received::GapClosed { sender, from, to, why } => emit(watch::gap_closed(sender, *from, *to, *why)),
        Received::Control(mail) => match &mail.content {
            Content::Control { control, .. } => emit(watch::control(&mail.sender, control)),
            _ => Ok(()),
        },
        // Told, and taken, elsewhere.
        Received::Retiring { .. } => Ok(()),
        Received::Settled { epoch, size, is_final, held } => output.emit(
            &json!({ "type": "settled", "epoch": epoch, "size": size, "final": is_final, "held": held }),
            &settled_plain(args, *epoch, *size, *is_final, *held),
        ),
        Received::Overdue(overdue) => {
            let holders: Vec<String> = overdue.holders.iter().map(ToString::to_string).collect();
            output.emit(
                &json!({
                    "type": "overdue",
                    "epoch": overdue.epoch,
                    "position": overdue.position,
                    "origin": overdue.origin.to_string(),
                    "holders": holders,
                }),
                &format!(
                    "overdue: batch {} of epoch {}, sealed by {}, may hold mail for this mailbox, and its holders do not \
                     give it out: {}",
                    overdue.position,
                    overdue.epoch,
                    overdue.origin,
                    holders.join(", ")
                ),
            )
        }
        Received::Unsound { index, evidence } => output.emit(
            &json!({ "type": "unsound", "index": index, "verdict": verdict }),
            &format!(
                "entry {index} is no mail: its origin {} is guilty of {}",
                evidence.verdict().culprit,
                evidence.verdict().fault
            ),
        ),
        Received::ForeignCut { sender, seq, epoch } => output.emit(
            &json!({
                "type": "foreign-cut", "from": sender.to_string(), "seq": seq.to_string(), "epoch": epoch,
                "verdict": verdict,
            }),
            &format!("{sender} says, in {seq}, that it knows another cut of epoch {epoch} than this home has shown"),
        ),
        Received::Expired { from, to } => output.emit(
            &json!({ "type": "expired", "from": from, "to": to, "verdict": verdict }),
            &format!("expired: the home has forgotten the entries {from} to {to} of this mailbox"),
        ),
    }
}

fn settled_plain(args: &Args, epoch: u64, size: u64, is_final: bool, held: usize) -> String {
    if args.follow {
        return String::new();
    }
    let word = if is_final { "finally" } else { "not finally yet" };
    let held = match held {
        0 => String::new(),
        held => format!("; {held} more wait for one that may come late"),
    };
    format!(
        "everything up to epoch {epoch} is here: {size} messages since the beginning (signed by the home, {word}){held}"
    )
}

fn message_json(mail: &Mail) -> Value {
    let mut line = json!({
        "type": "message",
        "seq": mail.seq.to_string(),
        "id": mail.id.to_string(),
        "time_ms": mail.time_ms,
        "sender": mail.sender.to_string(),
        "recipients": mail.recipients.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "counter": mail.counter,
        "home": mail.home.to_string(),
        "late": mail.late,
        "verified": true,
    });
    match (&mail.content, mail.body().map(std::str::from_utf8)) {
        (Content::Unreadable { common, reason }, _) => {
            line["base64"] = base64(common).into();
            line["unreadable"] = reason.as_str().into();
        }
        (_, Some(Ok(text))) => line["text"] = text.into(),
        (_, _) => line["base64"] = base64(mail.body().unwrap_or_default()).into(),
    }
    line
}

fn message_plain(mail: &Mail) -> String {
    let body = match (&mail.content, mail.body().map(std::str::from_utf8)) {
        (Content::Unreadable { reason, .. }, _) => format!("(cannot be read: {reason})"),
        (_, Some(Ok(text))) => text.to_owned(),
        (_, _) => format!(
            "({} bytes, base64) {}",
            mail.body().unwrap_or_default().len(),
            base64(mail.body().unwrap_or_default())
        ),
    };
    let late = if mail.late { "  late" } else { "" };
    format!(
        "{}  {} UTC  from {}{late}\n    {}",
        mail.seq,
        time_text(mail.time_ms),
        mail.sender,
        body.replace('\n', "\n    ")
    )
}

/// Writes the proof whole or not at all.
fn write_proof(dir: &Path, mail: &Mail, mailbox: &Mailbox) -> Result<(), CliError> {
    let path = dir.join(format!("{}.proof", mail.seq));
    let draft = path.with_extension("proof.new");
    let bytes = mail.proof(mailbox.federation()).to_file();
    fs::write(&draft, bytes)
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|error| CliError::io(format_args!("write {}", path.display()), &error))
}
