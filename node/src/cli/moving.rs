//! `postroad move`: a mailbox goes to another home. `start` says what would happen, begins or goes on, and ends with one
//! check; `status` looks, `resume` goes on, `abort` calls it off while that is possible.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postroad_client::moving::{Aborted, Checked, Following, MoveOptions, Mover, Plan};
use postroad_client::{ClientError, Mailbox, NodeAddr};
use postroad_protocol::moving::{MovePhase, OwedBy};
use postroad_protocol::{NodeId, SecretKey};
use serde_json::{Value, json};

use super::client_side::usage;
use super::output::{CliError, Exit, Output};

/// How long the check at the end waits for an attestation.
const CHECK_MS: u64 = 60_000;
/// Between two attempts to take an offer where nobody answers: the first pause, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Arguments of `postroad move`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad move start --mailbox alice --to MULTIADDR
  postroad move start --mailbox alice --to MULTIADDR --without-old-home    the old home is gone
  postroad move status --mailbox alice
  postroad move abort --mailbox alice
Whatever interrupts it: `move resume`, or the same `move start` again, goes on where it stood.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Move a mailbox, or go on with its move
    #[command(after_help = "\
Examples:
  postroad move start --mailbox alice --to MULTIADDR
  postroad move start --mailbox alice --to MULTIADDR --recovery-key-file alice.recovery")]
    Start(Start),
    /// Show how far a move has come
    Status(Of),
    /// Go on with a move that was interrupted
    Resume(Resume),
    /// Call a move off: the mailbox stays where it is
    Abort(Abort),
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The mailbox's directory
    #[arg(long, value_name = "DIR")]
    mailbox: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Start {
    #[command(flatten)]
    of: Of,
    /// The new home
    #[arg(long, value_name = "MULTIADDR")]
    to: String,
    /// Do not ask the old home for anything
    #[arg(long)]
    without_old_home: bool,
    /// How long the old home may be silent before the move goes on without it, for example 10s
    #[arg(long, value_name = "T", value_parser = parse_patience, default_value = "10s")]
    patience: Duration,
    /// The recovery key: 64 hexadecimal digits. With its signature the move is immediate
    #[arg(long, value_name = "FILE")]
    recovery_key_file: Option<PathBuf>,
    #[command(flatten)]
    end: End,
}

#[derive(Debug, clap::Args)]
struct Resume {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    end: End,
}

#[derive(Debug, clap::Args)]
struct End {
    /// How long to wait, at the end, for an attestation that makes the check possible
    #[arg(long, value_name = "T", default_value_t = CHECK_MS)]
    timeout_ms: u64,
}

#[derive(Debug, clap::Args)]
struct Abort {
    #[command(flatten)]
    of: Of,
    /// The recovery key: 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    recovery_key_file: Option<PathBuf>,
    /// How long to wait until a cut has settled it
    #[arg(long, value_name = "T", default_value_t = 30_000)]
    timeout_ms: u64,
}

/// Moves a mailbox, or shows, resumes or aborts its move.
///
/// # Errors
/// If a home says no or nothing, another switch came first, or the log did not go on unbroken.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    match args.command {
        Command::Start(args) => start(args, output).await,
        Command::Status(of) => status(&of, output).await,
        Command::Resume(args) => {
            let mut mover = open(&args.of)?;
            if mover.under_way()?.is_none() {
                return Err(no_move());
            }
            follow(&mut mover, &args.end, output).await
        }
        Command::Abort(args) => abort(args, output).await,
    }
}

/// `10s`, `500ms` or `2m`.
fn parse_patience(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("it is a number with ms, s or m behind it, for example 10s".into()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "it begins with a number".to_owned())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "it is too long".into())
}

fn open(of: &Of) -> Result<Mover, CliError> {
    Ok(Mover::new(&Mailbox::open(&of.mailbox)?)?)
}

fn no_move() -> CliError {
    CliError::from(ClientError::NoMove)
}

async fn start(args: Start, output: &Output) -> Result<(), CliError> {
    let to: NodeAddr = args.to.parse()?;
    let recovery = args.recovery_key_file.as_deref().map(read_recovery).transpose()?;
    let options = MoveOptions { without_old_home: args.without_old_home, patience: args.patience, recovery };
    let mut mover = open(&args.of)?;
    if mover.under_way()?.is_none() {
        let plan = mover.plan(&to, &options).await?;
        if plan.from == plan.to {
            mover.start(&to, options).await?;
            let line = json!({ "type": "move", "state": "finished", "from": plan.from.to_string(),
                "to": plan.to.to_string(), "epoch": null, "entries": 0, "recovered": 0, "owed": [] });
            return output.emit(&line, &format!("the mailbox lives at {} already", plan.to));
        }
        agreed(&plan, output)?;
    }
    mover.start(&to, options).await?;
    follow(&mut mover, &args.end, output).await
}

/// Says what would happen; an error if the new home does not take the mailbox.
fn agreed(plan: &Plan, output: &Output) -> Result<(), CliError> {
    output.emit(&plan_json(plan), &plan_text(plan))?;
    plan.answer.clone().map_err(|refusal| CliError::from(ClientError::from(refusal)))
}

/// What a home that closes offers.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// That home.
    pub(super) home: NodeId,
    /// The new one.
    pub(super) to: NodeAddr,
}

/// As [`accept`], however long it takes until somebody answers.
pub(super) async fn take_up(mailbox: &Path, offer: Option<&Offer>, output: &Output) -> Result<(), CliError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match accept(mailbox, offer, true, output).await {
            Err(error) if error.exit == Exit::Unreachable => {
                tracing::debug!(%error, ?pause, "the move is taken up again");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(MAX_PAUSE);
            }
            // Another process has brought it to its end.
            Err(error) if error == no_move() => return Ok(()),
            ended => return ended,
        }
    }
}

/// Goes on with the move that is under way, and then takes the offer, if the mailbox lives where that was made. With
/// `waits` also where the switch takes effect days later.
pub(super) async fn accept(
    mailbox: &Path,
    offer: Option<&Offer>,
    waits: bool,
    output: &Output,
) -> Result<(), CliError> {
    let end = End { timeout_ms: CHECK_MS };
    let mut mover = Mover::new(&Mailbox::open(mailbox)?)?;
    if let Some(target) = mover.under_way()? {
        let found = mover.status().await?;
        if !waits && found.is_some_and(|following| following.phase == MovePhase::Delayed) {
            return Ok(());
        }
        follow(&mut mover, &end, output).await?;
        if offer.is_none_or(|offer| offer.to.node() == target) {
            return Ok(());
        }
    }
    let Some(Offer { home, to }) = offer else { return Ok(()) };
    let options = MoveOptions::default();
    let plan = mover.plan(to, &options).await?;
    if plan.from != *home {
        return Ok(());
    }
    agreed(&plan, output)?;
    mover.start(to, options).await?;
    if plan.delay_ms > 0 && !waits {
        return Ok(());
    }
    follow(&mut mover, &end, output).await
}

/// Shows how the move goes on, and checks its end.
async fn follow(mover: &mut Mover, end: &End, output: &Output) -> Result<(), CliError> {
    let mut view = View::new(output);
    let mut broken = Ok(());
    let followed = mover.follow(|following| {
        if broken.is_ok() {
            broken = view.show(following);
        }
    });
    let following = followed.await?;
    broken?;
    view.clear();
    if let Some(home) = following.overtaken {
        return Err(CliError::refused(
            "overtaken",
            format!("another switch came first: the mailbox lives at {home}"),
            "nothing was lost; see `postroad directory show ADDR --history`",
        ));
    }
    let checked = mover.check(Duration::from_millis(end.timeout_ms)).await?;
    let following = mover.status().await?.unwrap_or(following);
    output.emit(&checked_json(&following, &checked), &checked_text(&following, &checked))?;
    if checked.missing > 0 && following.owed().is_empty() {
        return Err(CliError::unverified(
            "missing-entries",
            format!("{} entries that were read before are not in the new home's log", checked.missing),
            "keep the mailbox's directory; `postroad explain` says who answers for each",
        ));
    }
    Ok(mover.finish()?)
}

async fn status(of: &Of, output: &Output) -> Result<(), CliError> {
    match open(of)?.status().await? {
        Some(following) => output.emit(&following_json(&following), &following_text(&following)),
        None => Err(no_move()),
    }
}

async fn abort(args: Abort, output: &Output) -> Result<(), CliError> {
    let recovery = args.recovery_key_file.as_deref().map(read_recovery).transpose()?;
    let mut mover = open(&args.of)?;
    let (state, home) = match mover.abort(recovery.as_ref(), Duration::from_millis(args.timeout_ms)).await? {
        Aborted::Nothing => return Err(no_move()),
        Aborted::Stays => ("abandoned", mover.mailbox().home().node()),
        Aborted::Overtaken(home) => ("overtaken", home),
    };
    output.emit(
        &json!({ "type": "move", "state": state, "home": home.to_string() }),
        &format!("the move is off, and can never come into force: the mailbox lives at {home}"),
    )
}

fn read_recovery(path: &Path) -> Result<SecretKey, CliError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| CliError::io(format_args!("read {}", path.display()), &error))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed)
        .map_err(|_| usage(format!("{} holds no key", path.display()), "it is 64 hexadecimal digits"))?;
    Ok(SecretKey::from_seed(seed))
}

/// What is shown while it goes on: a bar on a terminal, a line per change elsewhere.
struct View {
    bar: Option<ProgressBar>,
    output: Output,
    told: Option<Value>,
}

impl View {
    fn new(output: &Output) -> View {
        let draws = !output.is_json() && std::io::stderr().is_terminal();
        let bar = draws.then(|| {
            let template = "{prefix:>10} {bar:40} {pos:>6} of {len} {elapsed:>4}  {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        View { bar, output: *output, told: None }
    }

    fn show(&mut self, following: &Following) -> Result<(), CliError> {
        if let Some(bar) = &self.bar {
            bar.set_prefix(following.phase.code());
            if let Some(status) = &following.status {
                bar.set_length(status.total.entries.max(status.here.entries));
                bar.set_position(status.here.entries);
                bar.set_message(status.reason.clone().unwrap_or_default());
            }
            return Ok(());
        }
        let line = following_json(following);
        if self.told.as_ref() == Some(&line) {
            return Ok(());
        }
        self.told = Some(line.clone());
        self.output.emit(&line, &following_text(following))
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn plan_json(plan: &Plan) -> Value {
    let inventory = plan.inventory.map(|found| {
        json!({ "entries": found.open.entries, "bytes": found.open.bytes, "size": found.size, "pending": found.pending })
    });
    json!({
        "type": "move-plan",
        "from": plan.from.to_string(),
        "to": plan.to.to_string(),
        "inventory": inventory,
        "delay_ms": plan.delay_ms,
        "accepted": plan.answer.is_ok(),
        "reason": plan.answer.as_ref().err().map(ToString::to_string),
        "remarks": plan.remarks,
    })
}

fn plan_text(plan: &Plan) -> String {
    let what = match &plan.inventory {
        Some(found) => format!(
            "{} entries that are not acknowledged, {} bytes, of a log of {}; {} slices are pending at the old home",
            found.open.entries, found.open.bytes, found.size, found.pending
        ),
        None => "what the old home holds is not known".to_owned(),
    };
    let answer = match &plan.answer {
        Ok(()) => "the new home takes it".to_owned(),
        Err(refusal) => format!("the new home does not take it: {refusal}"),
    };
    let remarks: String = plan.remarks.iter().map(|remark| format!("\n  {remark}")).collect();
    format!("from {}\n  to {}\n  {what}\n  {answer}{remarks}", plan.from, plan.to)
}

fn owed_json(owed: &[OwedBy]) -> Vec<Value> {
    let line = |owed: &OwedBy| {
        json!({
            "origin": owed.missing.origin.to_string(),
            "epochs": [owed.missing.from, owed.missing.to],
            "slices": owed.slices,
            "holders": owed.holders.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    owed.iter().map(line).collect()
}

fn following_json(following: &Following) -> Value {
    let status = following.status.as_ref();
    json!({
        "type": "move",
        "state": if following.overtaken.is_some() { "overtaken" } else { following.phase.code() },
        "from": following.from.to_string(),
        "to": following.to.to_string(),
        "epoch": following.epoch,
        "entries": status.map(|status| status.here.entries),
        "recovered": status.map(|status| status.recovered),
        "owed": owed_json(following.owed()),
        "due": status.and_then(|status| status.due).map(|(at, now)| at.saturating_sub(now)),
        "handed_over": status.map(|status| status.handed_over),
        "reason": status.and_then(|status| status.reason.clone()),
    })
}

fn owed_text(owed: &[OwedBy]) -> String {
    let line = |owed: &OwedBy| {
        let holders: Vec<String> = owed.holders.iter().map(ToString::to_string).collect();
        format!(
            "\n  still owed: {} slices sealed by {}, ordered in the epochs {} to {}, held by {}",
            owed.slices,
            owed.missing.origin,
            owed.missing.from,
            owed.missing.to,
            holders.join(", ")
        )
    };
    owed.iter().map(line).collect()
}

fn following_text(following: &Following) -> String {
    if let Some(home) = following.overtaken {
        return format!("another switch came first: the mailbox lives at {home}");
    }
    let state = match following.phase {
        MovePhase::Preparing => "preparing: the old home hands the log over; nothing has changed yet".to_owned(),
        MovePhase::Switching => "switching: the order is handed in; nothing has changed yet".to_owned(),
        MovePhase::Delayed => match following.status.as_ref().and_then(|status| status.due) {
            Some((at, now)) => {
                let minutes = at.saturating_sub(now).div_ceil(60_000);
                format!("delayed: takes effect in {} hours {} minutes of cut time", minutes / 60, minutes % 60)
            }
            None => "delayed: the switch waits".to_owned(),
        },
        MovePhase::Importing => "moved; the new home fetches what was under way".to_owned(),
        MovePhase::Following => "the new home has taken over; stragglers may follow".to_owned(),
        MovePhase::Finished => "finished".to_owned(),
        MovePhase::Abandoned => "abandoned; nothing has changed".to_owned(),
    };
    let Some(status) = &following.status else { return format!("{state} (the new home does not answer)") };
    let reason = status.reason.as_ref().map(|reason| format!("\n  {reason}")).unwrap_or_default();
    let (here, total) = (status.here.entries, status.total.entries.max(status.here.entries));
    let counts = format!("{here} of {total} entries, {} recovered from others", status.recovered);
    format!("{state}: {counts}{reason}{}", owed_text(following.owed()))
}

fn checked_json(following: &Following, checked: &Checked) -> Value {
    let mut line = following_json(following);
    line["type"] = "moved".into();
    line["size"] = checked.size.into();
    line["attested_epoch"] = checked.epoch.into();
    line["missing"] = checked.missing.into();
    line["by_reader"] = checked.by_reader.into();
    line["ok"] = (checked.missing == 0).into();
    line
}

fn checked_text(following: &Following, checked: &Checked) -> String {
    let recovered = following.status.as_ref().map_or(0, |status| status.recovered);
    let by = if checked.by_reader { " (checked by the reader that runs)" } else { "" };
    let missing = match checked.missing {
        0 => "the log goes on unbroken".to_owned(),
        missing => format!("{missing} entries that were read before have not come again"),
    };
    format!(
        "moved to {}: {missing}; {} entries, finally attested up to epoch {}{by}\n  {recovered} entries were recovered \
         from others{}",
        checked.home,
        checked.size,
        checked.epoch,
        owed_text(following.owed())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::SecretKey;

    fn following(phase: MovePhase) -> Following {
        let node = |seed: u8| SecretKey::from_seed([seed; 32]).public();
        Following { phase, from: node(1), to: node(2), epoch: Some(7), imported: None, status: None, overtaken: None }
    }

    #[test]
    fn lines_have_the_fields_that_programs_read() {
        let line = following_json(&following(MovePhase::Importing));
        assert_eq!((line["type"].as_str(), line["state"].as_str()), (Some("move"), Some("importing")));
        assert_eq!((line["epoch"].as_u64(), line["owed"].as_array().map(Vec::len)), (Some(7), Some(0)));
        let home = following(MovePhase::Following).to;
        let checked = Checked { home, epoch: 9, size: 3, missing: 1, by_reader: false };
        let line = checked_json(&following(MovePhase::Following), &checked);
        assert_eq!((line["type"].as_str(), line["ok"].as_bool()), (Some("moved"), Some(false)));
    }

    #[test]
    fn patience_has_a_unit() {
        let parsed = ["10s", "500ms", "2m", "0s"].map(|text| parse_patience(text).unwrap().as_millis());
        assert_eq!(parsed, [10_000, 500, 120_000, 0]);
        for bad in ["10", "s", "", "10h", "-1s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(parse_patience(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_recovery_key_is_a_seed_in_hexadecimal_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, format!("{}\n", "07".repeat(32))).unwrap();
        assert_eq!(read_recovery(&path).unwrap().public(), SecretKey::from_seed([7; 32]).public());
        std::fs::write(&path, "07").unwrap();
        assert_eq!(read_recovery(&path).unwrap_err().code, "usage");
    }
}
