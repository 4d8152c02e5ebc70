//! Nodes as they are now: each is asked at every interval, and shown in a table that stays in its place on a terminal.
//!
//! Elsewhere it is one line per node and interval, or one JSON object per interval. `screen.rs`
//! draws the table.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime};

use postroad_client::{Endpoint, NodeAddr};
use postroad_protocol::wire::call::{PeerState, Status};
use serde::Serialize;
use serde_json::json;

use super::client_side::time_text;
use super::output::{CliError, Output};
use super::screen::Screen;

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Letters of a name, and of the reason why a node does not answer.
const NAME: usize = 16;
const REASON: usize = 40;

/// A node to ask.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What it is called in the table; the end of its id, if this is empty.
    pub(super) name: String,
    pub(super) addr: NodeAddr,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    peer_id: String,
    #[serde(flatten)]
    state: State,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum State {
    Up(Figures),
    Down { error: String },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Figures {
    epoch: u64,
    mailboxes: u64,
    ordered_per_second: f64,
    delivered_per_second: f64,
    lag_seconds: f64,
    pending: u64,
    peers_ready: usize,
    peers: usize,
}

/// What a node had counted, and when.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    incarnation: u64,
    ordered: u64,
    delivered: u64,
}

/// Asks nodes again and again.
pub(super) struct Live {
    endpoint: Endpoint,
    targets: Vec<Target>,
    before: BTreeMap<usize, Counted>,
    ticks: tokio::time::Interval,
    screen: Option<Screen>,
    output: Output,
}

impl Live {
    /// Ready to ask; the first look is at once.
    ///
    /// # Errors
    /// If the transports cannot be set up.
    pub(super) fn new(targets: Vec<Target>, interval: Duration, output: &Output) -> Result<Live, CliError> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let screen = draws(output).then(Screen::default);
        let endpoint = Endpoint::anonymous()?;
        Ok(Live { endpoint, targets, before: BTreeMap::new(), ticks, screen, output: *output })
    }

    /// Waits for the next moment, asks all nodes, and shows what they say.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) async fn next(&mut self) -> Result<(), CliError> {
        self.ticks.tick().await;
        let rows = self.look().await;
        if let Some(screen) = &mut self.screen {
            return screen.draw(&text(&rows));
        }
        let now_ms = unix_ms();
        let lines: Vec<String> = rows.iter().map(|row| format!("{} {}", time_text(now_ms), line(row))).collect();
        self.output.emit(&json!({ "type": "watch", "time_ms": now_ms, "nodes": rows }), &lines.join("\n"))
    }

    /// Prints something else above the table.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn aside(&mut self, print: impl FnOnce() -> Result<(), CliError>) -> Result<(), CliError> {
        match &mut self.screen {
            Some(screen) => screen.aside(print),
            None => print(),
        }
    }

    async fn look(&mut self) -> Vec<Row> {
        let asked = self.targets.iter().map(|target| async {
            match tokio::time::timeout(PATIENCE, self.endpoint.status(&target.addr)).await {
                Ok(Ok(status)) => Ok(status),
                Ok(Err(postroad_client::ClientError::Unreachable { reason, .. })) => Err(reason),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        });
        let answers = futures::future::join_all(asked).await;
        let mut rows = Vec::with_capacity(answers.len());
        for (place, (target, answer)) in self.targets.iter().zip(answers).enumerate() {
            let peer_id = target.addr.node().to_string();
            // The end of an id differs from node to node; its beginning does not.
            let name = match target.name.is_empty() {
                true => peer_id.chars().skip(peer_id.len().saturating_sub(NAME)).collect(),
                false => target.name.chars().take(NAME).collect(),
            };
            let state = match answer {
                Ok(status) => {
                    let now = Counted::of(&status);
                    let rates = self.before.insert(place, now).and_then(|before| now.since(before));
                    State::Up(figures(&status, rates.unwrap_or_default()))
                }
                Err(error) => {
                    self.before.remove(&place);
                    State::Down { error }
                }
            };
            rows.push(Row { name, peer_id, state });
        }
        rows
    }
}

/// Whether a table is drawn: standard output is a terminal, and people read it.
pub(super) fn draws(output: &Output) -> bool {
    !output.is_json() && std::io::stdout().is_terminal()
}

impl Counted {
    fn of(status: &Status) -> Counted {
        Counted {
            at: Instant::now(),
            incarnation: status.incarnation,
            ordered: status.messages_ordered,
            delivered: status.messages_delivered,
        }
    }

    /// Per second, ordered and delivered; none across a restart, at which a node begins to count again.
    fn since(self, before: Counted) -> Option<(f64, f64)> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        if self.incarnation != before.incarnation || seconds <= 0.0 {
            return None;
        }
        let ordered = self.ordered.checked_sub(before.ordered)?;
        let delivered = self.delivered.checked_sub(before.delivered)?;
        Some((ordered as f64 / seconds, delivered as f64 / seconds))
    }
}

fn figures(status: &Status, (ordered, delivered): (f64, f64)) -> Figures {
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    Figures {
        epoch: status.epoch,
        mailboxes: status.mailboxes,
        ordered_per_second: tenth(ordered),
        delivered_per_second: tenth(delivered),
        lag_seconds: tenth(unix_ms().saturating_sub(status.time_ms) as f64 / 1_000.0),
        pending: status.pending,
        peers_ready: status.peers.iter().filter(|peer| peer.state == PeerState::Ready).count(),
        peers: status.peers.len(),
    }
}

/// The table for a terminal.
fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).fold("node".len(), usize::max);
    let mut text = format!(
        "{:<width$} {:>8} {:>9} {:>10} {:>11} {:>7} {:>7} {:>6}",
        "node", "epoch", "mailboxes", "ordered/s", "delivered/s", "lag s", "pending", "peers"
    );
    let (mut ordered, mut delivered) = (0.0, 0.0);
    for row in rows {
        text.push_str(&match &row.state {
            State::Up(now) => {
                ordered += now.ordered_per_second;
                delivered += now.delivered_per_second;
                let peers = format!("{}/{}", now.peers_ready, now.peers);
                format!(
                    "\n{:<width$} {:>8} {:>9} {:>10.1} {:>11.1} {:>7.1} {:>7} {peers:>6}",
                    row.name,
                    now.epoch,
                    now.mailboxes,
                    now.ordered_per_second,
                    now.delivered_per_second,
                    now.lag_seconds,
                    now.pending
                )
            }
            State::Down { error } => format!("\n{:<width$}     away {}", row.name, short(error)),
        });
    }
    if rows.len() > 1 {
        text.push_str(&format!("\n{:<width$} {:>8} {:>9} {ordered:>10.1} {delivered:>11.1}", "all", "", ""));
    }
    text
}

/// One node, for a file or a pipe.
fn line(row: &Row) -> String {
    match &row.state {
        State::Up(now) => format!(
            "{} epoch={} mailboxes={} ordered/s={:.1} delivered/s={:.1} lag_seconds={:.1} pending={} peers={}/{}",
            row.name,
            now.epoch,
            now.mailboxes,
            now.ordered_per_second,
            now.delivered_per_second,
            now.lag_seconds,
            now.pending,
            now.peers_ready,
            now.peers
        ),
        State::Down { error } => format!("{} away: {}", row.name, short(error)),
    }
}

/// The beginning of what may be long: errors say first what it is, and then where and why.
fn short(text: &str) -> String {
    text.split([':', '\n']).next().unwrap_or_default().chars().take(REASON).collect()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(name: &str, epoch: u64) -> Row {
        let figures = Figures {
            epoch,
            mailboxes: 2,
            ordered_per_second: 10.0,
            delivered_per_second: 20.5,
            lag_seconds: 0.1,
            pending: 0,
            peers_ready: 1,
            peers: 2,
        };
        Row { name: name.into(), peer_id: "12D3".into(), state: State::Up(figures) }
    }

    fn down(name: &str, error: &str) -> Row {
        Row { name: name.into(), peer_id: "12D3".into(), state: State::Down { error: error.into() } }
    }

    #[test]
    fn a_table_has_one_line_per_node_and_fits_a_terminal() {
        let error = "a long story about it that nobody wants to read in a table: no\nmore";
        let table = text(&[up("node-1", 123_456), up("node-22", 7), down("node-3", error)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>()[..3], ["node-1", "123456", "2"]);
        assert!(lines[3].starts_with("node-3      away a long story about it"), "{table}");
        assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["all", "20.0", "41.0"]);
    }

    #[test]
    fn json_says_the_figures_or_the_error() {
        let json = serde_json::to_value([up("a", 7), down("b", "no")]).unwrap();
        assert_eq!((&json[0]["epoch"], &json[0]["peers_ready"]), (&7.into(), &1.into()));
        assert_eq!((&json[1]["name"], &json[1]["error"], &json[1]["epoch"]), (&"b".into(), &"no".into(), &().into()));
    }

    #[test]
    fn rates_begin_again_with_a_restart() {
        let at = Instant::now();
        let before = Counted { at, incarnation: 1, ordered: 10, delivered: 5 };
        let later = Counted { at: at + Duration::from_secs(2), incarnation: 1, ordered: 30, delivered: 5 };
        assert_eq!(later.since(before), Some((10.0, 0.0)));
        assert_eq!(Counted { incarnation: 2, ..later }.since(before), None);
        assert_eq!(Counted { ordered: 3, ..later }.since(before), None);
    }
}
