//! One client of the demo: a mailbox that sends and receives at the same time, and writes down both. It sends its script,
//! or at a steady pace to all others until it is told that it is enough.
//!
//! It is told what to do on standard input, says on standard output how far it is, and ends when its input does.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postroad_client::{
    Mailbox, Mode, NodeAddr, Outgoing, Progress, Received, Receiver, ReceiverOptions, Sender, SenderOptions, Stage,
    Ticket, Wait, read_genesis,
};
use postroad_protocol::MailboxId;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::demo::files::{Line, Message, Moved, Owner, Sent, sha256, text, trailer_of};
use super::demo::script::script;
use super::output::{CliError, Output};

/// Messages that one client has under way, by its script and at a pace.
const WINDOW: usize = 16;
const MAX_WAITING: usize = 1_024;
/// How often it says how far it is.
const TELL: Duration = Duration::from_millis(25);
/// How long a registration may take.
const REGISTRATION: Duration = Duration::from_secs(30);

/// Arguments of `postroad demo-client`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The mailbox's directory
    #[arg(long)]
    pub dir: PathBuf,
    /// The federation
    #[arg(long)]
    pub genesis: PathBuf,
    /// The mailbox's home
    #[arg(long)]
    pub home: NodeAddr,
    /// Which of the mailboxes it is
    #[arg(long)]
    pub place: usize,
    /// The seed of the script
    #[arg(long)]
    pub seed: u64,
    /// How many messages it sends
    #[arg(long)]
    pub messages: u64,
    /// Instead of the script: a message to all others each so many milliseconds, until it is told that it is enough
    #[arg(long)]
    pub pace_ms: Option<u64>,
    /// Read in strict order
    #[arg(long)]
    pub strict: bool,
}

/// The first thing that a client is told: who the mailboxes are.
#[derive(Deserialize)]
struct Begin {
    addresses: Vec<String>,
}

/// Only to a client that sends at a pace: no more.
#[derive(Deserialize)]
struct Enough {}

/// The last thing: up to where it has to read, and how many messages it is owed.
#[derive(Clone, Copy, Deserialize)]
struct Until {
    epoch: u64,
    owed: u64,
}

/// Runs the client.
///
/// # Errors
/// Whatever the client library says, or `interrupted` when standard input ends.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let federation = read_genesis(&args.genesis)?;
    let mailbox = Mailbox::create(&args.dir, &args.home, &federation)?;
    let epoch = tokio::select! {
        epoch = mailbox.register(REGISTRATION) => epoch?,
        error = gone(&mut input) => return Err(error),
    };
    let address = mailbox.address().to_string();
    let owner = Owner { address: address.clone(), home: args.home.node().to_string(), epoch, strict: args.strict };
    output
        .emit(&json!({ "type": "mailbox", "address": address, "home": args.home.to_string(), "epoch": epoch }), "")?;
    let begin: Begin = told(&mut input).await?;
    let addresses = begin.addresses.iter().map(|text| text.parse()).collect::<Result<Vec<MailboxId>, _>>();
    let addresses = addresses.map_err(|error| CliError::usage("usage", error.to_string(), ""))?;

    let (ordered, received) = (AtomicU64::new(0), Receipts::default());
    let (until, wanted) = watch::channel(None);
    let sending = async {
        let sending = Sending::connect(&args.dir, &mailbox, &owner, &ordered).await?;
        let (epoch, lost) = match args.pace_ms {
            Some(pace_ms) => {
                let others = addresses.iter().copied().filter(|address| *address != mailbox.address()).collect();
                sending.at_pace(others, Duration::from_millis(pace_ms.max(1)), &mut input).await?
            }
            None => sending.script(&args, &addresses).await?,
        };
        let count = ordered.load(Ordering::Relaxed);
        output.emit(&json!({ "type": "sent", "epoch": epoch, "lost": lost, "ordered": count }), "")?;
        until.send_replace(Some(told::<Until>(&mut input).await?));
        // From now on only the end of the input is of interest.
        Err::<(), CliError>(gone(&mut input).await)
    };
    let receiving = receive_all(&args, &mailbox, &owner, &received, wanted);
    let telling = async {
        let mut said = None;
        loop {
            let now = (ordered.load(Ordering::Relaxed), received.count.load(Ordering::Relaxed));
            if said.replace(now) != Some(now) {
                let pause_ms = received.pause_ms.swap(0, Ordering::Relaxed);
                let line = json!({
                    "type": "progress", "ordered": now.0, "received": now.1, "pause_ms": pause_ms,
                });
                output.emit(&line, "")?;
            }
            tokio::time::sleep(TELL).await;
        }
    };
    tokio::select! {
        ended = sending => ended?,
        ended = telling => return ended,
        ended = receiving => ended?,
    }
    output.emit(&json!({ "type": "done" }), "")
}

/// What was received so far.
#[derive(Default)]
struct Receipts {
    count: AtomicU64,
    /// The longest time between two messages since this was told last.
    pause_ms: AtomicU64,
}

/// Sends, and writes each message down once it has its answer.
struct Sending<'a> {
    sender: Sender,
    file: Writer,
    waiting: VecDeque<(Sent, Ticket)>,
    ordered: &'a AtomicU64,
    line: u64,
    /// The last epoch in which a message stands.
    epoch: u64,
    /// The lines of messages that were not ordered.
    lost: Vec<u64>,
}

impl<'a> Sending<'a> {
    async fn connect(
        dir: &Path,
        mailbox: &Mailbox,
        owner: &Owner,
        ordered: &'a AtomicU64,
    ) -> Result<Sending<'a>, CliError> {
        let file = Writer::create(&dir.join("sent.jsonl"), owner)?;
        let sender = Sender::connect(mailbox, SenderOptions::default()).await?;
        Ok(Sending { sender, file, waiting: VecDeque::new(), ordered, line: 0, epoch: 0, lost: Vec::new() })
    }

    /// Sends the script. Returns the last epoch, and the lines of messages that were not ordered.
    async fn script(mut self, args: &Args, addresses: &[MailboxId]) -> Result<(u64, Vec<u64>), CliError> {
        for message in script(args.seed, args.place, args.messages) {
            let to = message.to.iter().filter_map(|place| addresses.get(*place)).copied().collect();
            self.send(to, message.text).await?;
            while self.waiting.len() >= WINDOW {
                self.answered().await?;
            }
        }
        self.finish().await
    }

    /// Sends to these at every tick, until it is told that it is enough. Returns the same.
    async fn at_pace(
        mut self,
        to: Vec<MailboxId>,
        pace: Duration,
        input: &mut Lines<BufReader<Stdin>>,
    ) -> Result<(u64, Vec<u64>), CliError> {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                enough = told::<Enough>(input) => {
                    enough?;
                    return self.finish().await;
                }
                _ = ticks.tick(), if self.waiting.len() < MAX_WAITING => {
                    let text = format!("letter {}", self.line + 1);
                    self.send(to.clone(), text).await?;
                }
                answered = self.answered(), if !self.waiting.is_empty() => answered?,
            }
        }
    }

    async fn send(&mut self, to: Vec<MailboxId>, text: String) -> Result<(), CliError> {
        self.line += 1;
        let sent = Sent {
            line: self.line,
            id: None,
            counter: None,
            state: String::new(),
            weak: false,
            seq: None,
            to: to.iter().map(MailboxId::to_string).collect(),
            text_sha256: sha256(text.as_bytes()),
        };
        let ticket = self.sender.send(Outgoing::new(to, text)).await?;
        self.waiting.push_back((sent, ticket));
        Ok(())
    }

    /// Waits for the answer to the first message that has none, and writes it down. Cancelling loses nothing.
    async fn answered(&mut self) -> Result<(), CliError> {
        let Some((_, ticket)) = self.waiting.front_mut() else { return Ok(()) };
        let Progress { id, counter, stage, weak, seq, .. } = ticket.reached(Wait::Ordered).await?;
        let Some((mut sent, _)) = self.waiting.pop_front() else { return Ok(()) };
        (sent.state, sent.weak, sent.counter) = (state(&stage).to_owned(), weak, counter);
        (sent.id, sent.seq) = (id.map(|id| id.to_string()), seq.map(|seq| seq.to_string()));
        match seq {
            Some(seq) => {
                self.epoch = self.epoch.max(seq.epoch);
                self.ordered.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                tracing::warn!(line = sent.line, ?stage, "a message was not ordered");
                self.lost.push(sent.line);
            }
        }
        self.file.write(&Line::Sent(sent))
    }

    async fn finish(mut self) -> Result<(u64, Vec<u64>), CliError> {
        while !self.waiting.is_empty() {
            self.answered().await?;
        }
        self.file.finish()?;
        Ok((self.epoch, self.lost))
    }
}

fn state(stage: &Stage) -> &'static str {
    match stage {
        Stage::Waiting => "waiting",
        Stage::Accepted => "accepted",
        Stage::Ordered => "ordered",
        Stage::Delivered => "delivered",
        Stage::NotDelivered => "not-delivered",
        Stage::Refused(_) => "refused",
        Stage::Expired => "expired",
        Stage::Unverified(_) => "unverified",
    }
}

/// Receives until everything that is wanted is here, and writes it down.
async fn receive_all(
    args: &Args,
    mailbox: &Mailbox,
    owner: &Owner,
    receipts: &Receipts,
    mut wanted: watch::Receiver<Option<Until>>,
) -> Result<(), CliError> {
    let mut file = Writer::create(&args.dir.join("recv.jsonl"), owner)?;
    let mode = if args.strict { Mode::Strict } else { Mode::Live };
    let options = ReceiverOptions { follow: true, mode, ..ReceiverOptions::default() };
    let mut receiver = Receiver::connect(mailbox, options).await?;
    let (mut messages, mut settled) = (0, 0);
    let mut home = owner.home.clone();
    let mut last: Option<Instant> = None;
    loop {
        let until = *wanted.borrow_and_update();
        if until.is_some_and(|until| settled >= until.epoch && messages >= until.owed) {
            return file.finish();
        }
        let received = tokio::select! {
            received = receiver.next() => received?,
            // Its sender lives as long as this function does.
            _ = wanted.changed() => continue,
        };
        if let Some(Received::Message(mail) | Received::Repeat(mail)) = &received {
            let now_at = mail.home.to_string();
            if now_at != home {
                home = now_at;
                file.write(&Line::Moved(Moved { line: file.lines + 1, home: home.clone() }))?;
            }
        }
        match received {
            Some(Received::Message(mail)) => {
                messages += 1;
                file.write(&Line::Message(line(&mail, file.lines + 1)))?;
                let pause = last.replace(Instant::now()).map_or(Duration::ZERO, |last| last.elapsed());
                receipts.pause_ms.fetch_max(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                receipts.count.store(messages, Ordering::Relaxed);
            }
            Some(Received::Repeat(mail)) => file.write(&Line::Repeat(line(&mail, file.lines + 1)))?,
            Some(Received::Settled { epoch, .. }) => settled = epoch,
            Some(Received::Control(_) | Received::GapClosed { .. }) => {}
            Some(Received::Gap { sender, hole }) => {
                let message = format!("the messages {} to {} of {sender} are not there", hole.from, hole.to);
                return Err(CliError::unverified("gap", message, ""));
            }
            Some(Received::Overdue(overdue)) => {
                let message = format!("batch {} of epoch {} is overdue", overdue.position, overdue.epoch);
                return Err(CliError::unverified("overdue", message, ""));
            }
            Some(Received::Unsound { index, .. }) => {
                return Err(CliError::unverified("unsound", format!("entry {index} is no mail"), ""));
            }
            Some(Received::ForeignCut { sender, epoch, .. }) => {
                let message = format!("{sender} knows another cut of epoch {epoch}");
                return Err(CliError::unverified("foreign-cut", message, ""));
            }
            Some(Received::Retiring { home, .. }) => {
                return Err(CliError::refused("retiring", format!("{home} closes, in a demo"), ""));
            }
            Some(Received::Expired { from, to }) => {
                let message = format!("the entries {from} to {to} have expired");
                return Err(CliError::unverified("expired", message, ""));
            }
            None => return Err(CliError::refused("ended", "the mailbox has nothing more to say", "")),
        }
        file.flush()?;
        receiver.acknowledge().await?;
    }
}

/// What is written of a message. That it is here at all means that the library has verified it.
fn line(mail: &postroad_client::Mail, line: u64) -> Message {
    Message {
        line,
        log_index: mail.index,
        seq: mail.seq.to_string(),
        id: mail.id.to_string(),
        time_ms: mail.time_ms,
        sender: mail.sender.to_string(),
        recipients: mail.recipients.iter().map(MailboxId::to_string).collect(),
        text: String::from_utf8_lossy(mail.body().unwrap_or_default()).into_owned(),
        counter: mail.counter,
        home: mail.home.to_string(),
        late: mail.late,
        verified: mail.body().is_some(),
    }
}

/// One of the two files, hashed while it is written.
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    address: String,
    lines: u64,
}

impl Writer {
    fn create(path: &Path, owner: &Owner) -> Result<Writer, CliError> {
        let failed = |error| CliError::io(format_args!("write {}", path.display()), &error);
        let file = BufWriter::new(File::create(path).map_err(failed)?);
        let (path, address) = (path.to_owned(), owner.address.clone());
        let mut writer = Writer { path, file, hash: Sha256::new(), address, lines: 0 };
        writer.put(&text(&Line::Mailbox(owner.clone())))?;
        Ok(writer)
    }

    fn put(&mut self, text: &str) -> Result<(), CliError> {
        self.hash.update(text.as_bytes());
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| CliError::io(format_args!("write {}", self.path.display()), &error))
    }

    fn write(&mut self, line: &Line) -> Result<(), CliError> {
        self.lines += 1;
        self.put(&text(line))
    }

    fn flush(&mut self) -> Result<(), CliError> {
        self.file.flush().map_err(|error| CliError::io(format_args!("write {}", self.path.display()), &error))
    }

    fn finish(mut self) -> Result<(), CliError> {
        let sha256 = hex::encode(self.hash.clone().finalize());
        let end = trailer_of(&self.address, self.lines, sha256);
        self.put(&end)?;
        self.flush()
    }
}

/// The next thing that the demo tells.
async fn told<T: serde::de::DeserializeOwned>(input: &mut Lines<BufReader<Stdin>>) -> Result<T, CliError> {
    match input.next_line().await {
        Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| {
            CliError::usage("usage", format!("told {line:?}: {error}"), "only postroad demo runs this")
        }),
        _ => Err(CliError::interrupted()),
    }
}

/// Waits for the end of the demo.
async fn gone(input: &mut Lines<BufReader<Stdin>>) -> CliError {
    while let Ok(Some(_)) = input.next_line().await {}
    CliError::interrupted()
}
