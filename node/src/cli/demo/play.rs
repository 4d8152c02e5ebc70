//! The play itself: nodes and clients as processes, a node killed in the middle and started again, until every client
//! has what it is owed.
//!
//! Everything is driven by what the processes say; the only pause is the one in which the killed node stays dead, so
//! that mail has to find its way around it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::progress::Progress;
use super::script::{Blow, NAMES, NODES, blow, script};
use crate::cli::children::{Child, Said, next_end};
use crate::cli::output::{CliError, Output};
use crate::cli::testnet::plan::Plan;
use crate::cli::testnet::{record, spawn, until_ready};

/// How long the killed node stays dead.
const DEAD: Duration = Duration::from_millis(1_500);
/// After this, something is stuck.
const PATIENCE: Duration = Duration::from_secs(180);
/// Nodes follow the clients in the numbering of who says something.
const FIRST_NODE: usize = NAMES.len();

/// What a demo is to do.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where everything lies.
    pub dir: PathBuf,
    /// The seed of the script.
    pub seed: u64,
    /// Messages of each client.
    pub messages: u64,
}

impl Setting {
    /// The directory of one mailbox.
    pub fn mailbox(&self, name: &str) -> PathBuf {
        mailboxes(&self.dir).join(name)
    }
}

/// Where the mailboxes of a demo in `dir` lie.
pub fn mailboxes(dir: &Path) -> PathBuf {
    dir.join("mailboxes")
}

/// The processes of a demo, apart from the play, so that they can be stopped however it ends.
#[derive(Debug, Default)]
pub struct Cast {
    /// The nodes.
    pub nodes: Vec<Child>,
    /// The clients.
    pub clients: Vec<Child>,
}

/// How far a client is.
#[derive(Clone, Debug, Default)]
struct Client {
    address: Option<String>,
    ordered: u64,
    received: u64,
    /// Once everything it sent has its answer: the last epoch, and the lines that were not ordered.
    sent: Option<(u64, Vec<u64>)>,
    done: bool,
}

/// The killed node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Alive,
    Dead { since: Instant },
    Starting,
    Back,
}

struct Play<'a> {
    setting: &'a Setting,
    output: &'a Output,
    plan: Plan,
    cast: &'a mut Cast,
    clients: Vec<Client>,
    progress: Progress,
    blow: Blow,
    fate: Fate,
    total: u64,
    say: mpsc::Sender<Said>,
}

/// Starts so many nodes in `dir`, and waits until they are ready.
pub(super) async fn start_nodes(dir: &Path, nodes: usize, cast: &mut Cast) -> Result<Plan, CliError> {
    let plan = Plan::prepare(&dir.join("net"), Some(nodes), 0, &Default::default())?;
    for node in &plan.nodes {
        cast.nodes.push(spawn(node)?);
    }
    for node in &mut cast.nodes {
        until_ready(node).await?;
    }
    let pids: Vec<Option<u32>> = cast.nodes.iter().map(|node| Some(node.pid)).collect();
    record::write(&plan.dir, &plan.record(&pids))?;
    Ok(plan)
}

/// Plays a demo to its end: every client has written its files and has ended.
///
/// # Errors
/// If a process ends that should not, or nothing goes on any more.
pub async fn play(setting: &Setting, cast: &mut Cast, output: &Output) -> Result<(), CliError> {
    let plan = start_nodes(&setting.dir, NODES, cast).await?;
    for node in &cast.nodes {
        output.emit(
            &json!({ "type": "node", "name": node.name, "pid": node.pid }),
            &format!("{} serves (pid {})", node.name, node.pid),
        )?;
    }
    let owed: usize = (0..NAMES.len())
        .flat_map(|place| script(setting.seed, place, setting.messages))
        .map(|message| message.to.len())
        .sum();
    let total = setting.messages * NAMES.len() as u64;
    let (say, mut said) = mpsc::channel(1_024);
    let mut play = Play {
        setting,
        output,
        plan,
        cast,
        clients: vec![Client::default(); NAMES.len()],
        progress: Progress::new(output, total, owed as u64),
        blow: blow(setting.seed, total),
        fate: Fate::Alive,
        total,
        say,
    };
    play.start_clients()?;
    tokio::time::timeout(PATIENCE, play.run(&mut said)).await.unwrap_or_else(|_| Err(play.stuck()))
}

impl Play<'_> {
    fn start_clients(&mut self) -> Result<(), CliError> {
        for (place, name) in NAMES.iter().enumerate() {
            let dir = self.setting.mailbox(name);
            std::fs::create_dir_all(&dir)
                .map_err(|error| CliError::io(format_args!("make {}", dir.display()), &error))?;
            let home = self.plan.nodes[place % NODES].addrs().into_iter().next().unwrap_or_default();
            let text = |text: &str| OsString::from(text);
            let args = [
                text("demo-client"),
                text("--dir"),
                dir.clone().into(),
                text("--genesis"),
                self.plan.dir.join("genesis.toml").into(),
                text("--home"),
                text(&home),
                text("--place"),
                text(&place.to_string()),
                text("--seed"),
                text(&self.setting.seed.to_string()),
                text("--messages"),
                text(&self.setting.messages.to_string()),
            ];
            let args: Vec<_> = args.iter().map(OsString::as_os_str).collect();
            let mut client = Child::spawn(name, &args, &dir.join("log"))?;
            client.forward(place, self.say.clone());
            self.cast.clients.push(client);
        }
        Ok(())
    }

    async fn run(&mut self, said: &mut mpsc::Receiver<Said>) -> Result<(), CliError> {
        loop {
            let back_at = match self.fate {
                Fate::Dead { since } => Some(since + DEAD),
                _ => None,
            };
            tokio::select! {
                Some((place, value)) = said.recv() => match value {
                    Some(value) if place < FIRST_NODE => self.client_says(place, &value).await?,
                    None if place < FIRST_NODE => self.client_ended(place).await?,
                    Some(value) if value["type"] == "ready" => self.is_back().await,
                    _ => {}
                },
                (place, status) = next_end(&mut self.cast.nodes) => {
                    let status = status.map_err(|error| CliError::io("watch the nodes", &error))?;
                    return Err(self.cast.nodes[place].failure(status));
                }
                () = sleep_until(back_at.unwrap_or_else(Instant::now)), if back_at.is_some() => self.restart()?,
            }
            if self.fate == Fate::Alive && self.ordered() >= self.blow.after {
                self.kill().await?;
            }
            if self.clients.iter().all(|client| client.done) {
                return Ok(());
            }
        }
    }

    fn ordered(&self) -> u64 {
        self.clients.iter().map(|client| client.ordered).sum()
    }

    async fn client_says(&mut self, place: usize, value: &Value) -> Result<(), CliError> {
        let number = |key: &str| value[key].as_u64().unwrap_or_default();
        let client = &mut self.clients[place];
        match value["type"].as_str() {
            Some("mailbox") => {
                client.address = value["address"].as_str().map(str::to_owned);
                let addresses: Vec<&String> =
                    self.clients.iter().filter_map(|client| client.address.as_ref()).collect();
                if addresses.len() == NAMES.len() {
                    let start = json!({ "addresses": addresses });
                    for client in &mut self.cast.clients {
                        client.tell(&start).await;
                    }
                }
            }
            Some("progress") => {
                (client.ordered, client.received) = (number("ordered"), number("received"));
                let received = self.clients.iter().map(|client| client.received).sum();
                let ordered = self.ordered();
                self.progress.set(ordered, received);
            }
            Some("sent") => {
                let lost = value["lost"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
                client.sent = Some((number("epoch"), lost));
                self.announce_end().await;
            }
            Some("done") => client.done = true,
            _ => {}
        }
        Ok(())
    }

    /// A client that has closed its output must have said that it is done.
    async fn client_ended(&mut self, place: usize) -> Result<(), CliError> {
        if self.clients[place].done {
            return Ok(());
        }
        let child = &mut self.cast.clients[place];
        let status = child.ended().await.map_err(|error| CliError::io("watch the clients", &error))?;
        Err(child.failure(status))
    }

    /// Once everything is sent and the killed node is back, tells every client up to where it has to read.
    async fn announce_end(&mut self) {
        if self.fate != Fate::Back {
            return;
        }
        let Some(sent) = self.clients.iter().map(|client| client.sent.clone()).collect::<Option<Vec<_>>>() else {
            return;
        };
        let epoch = sent.iter().map(|(epoch, _)| *epoch).max().unwrap_or_default();
        let mut owed = [0_u64; NAMES.len()];
        for (place, (_, lost)) in sent.iter().enumerate() {
            for (line, message) in (1..).zip(script(self.setting.seed, place, self.setting.messages)) {
                if !lost.contains(&line) {
                    message.to.iter().for_each(|to| owed[*to] += 1);
                }
            }
        }
        for (client, owed) in self.cast.clients.iter_mut().zip(owed) {
            client.tell(&json!({ "epoch": epoch, "owed": owed })).await;
        }
    }

    async fn kill(&mut self) -> Result<(), CliError> {
        let node = &mut self.cast.nodes[self.blow.node];
        node.signal(Signal::KILL);
        let _ = node.ended().await;
        let (name, pid) = (node.name.clone(), node.pid);
        self.fate = Fate::Dead { since: Instant::now() };
        let ordered = self.ordered();
        let percent = ordered * 100 / self.total.max(1);
        self.progress.aside(|| {
            self.output.emit(
                &json!({ "type": "killed", "name": name, "pid": pid, "ordered": ordered }),
                &format!("{name} (pid {pid}) was killed by SIGKILL when {percent} % were ordered"),
            )
        })
    }

    fn restart(&mut self) -> Result<(), CliError> {
        let place = self.blow.node;
        let mut node = spawn(&self.plan.nodes[place])?;
        node.forward(FIRST_NODE + place, self.say.clone());
        let (name, pid) = (node.name.clone(), node.pid);
        self.cast.nodes[place] = node;
        self.fate = Fate::Starting;
        self.progress.aside(|| {
            self.output.emit(
                &json!({ "type": "restarted", "name": name, "pid": pid }),
                &format!("{name} was started again (pid {pid})"),
            )
        })
    }

    async fn is_back(&mut self) {
        self.fate = Fate::Back;
        self.announce_end().await;
    }

    fn stuck(&self) -> CliError {
        let (ordered, total) = (self.ordered(), self.total);
        let rows: Vec<String> = NAMES
            .iter()
            .zip(&self.clients)
            .map(|(name, client)| format!("{name}: {} ordered, {} received", client.ordered, client.received))
            .collect();
        let message =
            format!("{ordered} of {total} messages are ordered, and nothing goes on\n    {}", rows.join("\n    "));
        CliError::unreachable("stuck", message, "run it again with --keep DIR and read the logs there")
    }
}
