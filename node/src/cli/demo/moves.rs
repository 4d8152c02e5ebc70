//! The chapter on moving: a mailbox changes its home while it is written to and read, and two mailboxes leave a node whose
//! directory is gone for good.
//!
//! Nodes and clients are processes as in the first chapter, and what the clients write is judged by the same check. Here
//! readers keep to strict order, and one mailbox writes to all others at a steady pace all the while.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use postroad_client::moving::{MoveOptions, Mover};
use postroad_client::{Mailbox, NodeAddr};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::play::{Cast, mailboxes, start_nodes};
use crate::cli::children::{Child, Said, next_end};
use crate::cli::output::{CliError, Output};
use crate::cli::testnet::plan::Plan;
use crate::cli::testnet::record;

/// The mailboxes and their homes, by the nodes' places. The first writes to the others.
const HOMES: [(&str, usize); 4] = [("alice", 0), ("bob", 1), ("carol", 2), ("dave", 2)];
const NODES: usize = 4;
const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
const DAVE: usize = 3;
/// Where bob goes, and the node that dies with its directory.
const NEW_HOME: usize = 3;
const LOST: usize = 2;
/// Time between two letters of alice's.
const PACE_MS: u64 = 10;
/// So many letters pass before anything happens, and after each scene.
const LETTERS: u64 = 100;
/// After this, something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client has said.
#[derive(Clone, Debug, Default)]
struct Client {
    address: Option<String>,
    ordered: u64,
    received: u64,
    /// The longest time between two messages that it has received, since this was set back.
    pause_ms: u64,
    /// Once everything it sent has its answer: the last epoch, and how many were ordered.
    sent: Option<(u64, u64)>,
    has_closed: bool,
    done: bool,
}

struct Moves<'a> {
    dir: &'a Path,
    output: &'a Output,
    plan: Plan,
    cast: &'a mut Cast,
    clients: Vec<Client>,
    said: mpsc::Receiver<Said>,
}

/// Plays the chapter in `dir`, until every client has written its files and has ended.
///
/// # Errors
/// If a process ends that should not, a move fails, or nothing goes on any more.
pub async fn play(dir: &Path, cast: &mut Cast, output: &Output) -> Result<(), CliError> {
    let plan = start_nodes(dir, NODES, cast).await?;
    let (say, said) = mpsc::channel(1_024);
    let mut moves = Moves { dir, output, plan, cast, clients: vec![Client::default(); HOMES.len()], said };
    moves.start_clients(&say)?;
    match tokio::time::timeout(PATIENCE, moves.scenes()).await {
        Ok(played) => played,
        Err(_) => Err(moves.stuck()),
    }
}

impl Moves<'_> {
    fn tell(&self, scene: &str, plain: &str, figures: Value) -> Result<(), CliError> {
        let mut line = json!({ "type": "moves", "scene": scene, "text": plain });
        for (name, figure) in figures.as_object().into_iter().flatten() {
            line[name] = figure.clone();
        }
        self.output.emit(&line, plain)
    }

    fn addr(&self, node: usize) -> String {
        self.plan.nodes[node].addrs().into_iter().next().unwrap_or_default()
    }

    fn mailbox(&self, place: usize) -> PathBuf {
        mailboxes(self.dir).join(HOMES[place].0)
    }

    fn start_clients(&mut self, say: &mpsc::Sender<Said>) -> Result<(), CliError> {
        for (place, (name, home)) in HOMES.into_iter().enumerate() {
            let dir = self.mailbox(place);
            std::fs::create_dir_all(&dir)
                .map_err(|error| CliError::io(format_args!("make {}", dir.display()), &error))?;
            let genesis = self.plan.dir.join("genesis.toml");
            let (home, place_text, pace) = (self.addr(home), place.to_string(), PACE_MS.to_string());
            let mut args: Vec<OsString> = vec!["demo-client".into(), "--strict".into()];
            let options: [(&str, &OsStr); 6] = [
                ("--dir", dir.as_os_str()),
                ("--genesis", genesis.as_os_str()),
                ("--home", home.as_ref()),
                ("--place", place_text.as_ref()),
                ("--seed", "0".as_ref()),
                ("--messages", "0".as_ref()),
            ];
            let pace: Option<(&str, &OsStr)> = (place == ALICE).then(|| ("--pace-ms", pace.as_ref()));
            args.extend(options.into_iter().chain(pace).flat_map(|(name, value)| [name.into(), value.to_owned()]));
            let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
            let mut client = Child::spawn(name, &args, &dir.join("log"))?;
            client.forward(place, say.clone());
            self.cast.clients.push(client);
        }
        Ok(())
    }

    async fn scenes(&mut self) -> Result<(), CliError> {
        self.until(|clients| clients.iter().all(|client| client.address.is_some())).await?;
        let addresses: Vec<&String> = self.clients.iter().filter_map(|client| client.address.as_ref()).collect();
        let start = json!({ "addresses": addresses });
        self.tell_clients(|_| start.clone()).await;
        let per_second = 1_000 / PACE_MS;
        self.tell(
            "chapter",
            &format!(
                "four nodes; alice (node-1) writes {per_second} letters a second to bob (node-2), carol and dave \
                 (node-3), who read in strict order"
            ),
            json!({}),
        )?;
        self.more_letters(&[BOB, CAROL, DAVE]).await?;
        self.moves_under_load().await?;
        self.leaves_the_lost().await?;
        self.end().await
    }

    /// Bob moves while he is written to, and while his reader reads.
    async fn moves_under_load(&mut self) -> Result<(), CliError> {
        self.tell("moving", "bob moves from node-2 to node-4, and nobody stops for it", json!({}))?;
        self.clients[BOB].pause_ms = 0;
        let moving = move_to(self.mailbox(BOB), self.addr(NEW_HOME), false);
        let recovered = self.meanwhile(moving).await?;
        self.more_letters(&[BOB]).await?;
        let pause_ms = self.clients[BOB].pause_ms;
        self.tell(
            "moved",
            &format!("bob lives at node-4; the longest that his reader waited for a letter was {pause_ms} ms"),
            json!({ "pause_ms": pause_ms, "recovered": recovered }),
        )
    }

    /// The home of carol and dave is destroyed, and they move away from it.
    async fn leaves_the_lost(&mut self) -> Result<(), CliError> {
        // A letter more, so that the blow falls right after the node has delivered one.
        self.one_more(&[CAROL, DAVE]).await?;
        let node = &mut self.cast.nodes[LOST];
        node.signal(Signal::KILL);
        let _ = node.ended().await;
        let (name, pid) = (node.name.clone(), node.pid);
        let dir = self.plan.nodes[LOST].config.dir.path();
        std::fs::remove_dir_all(dir).map_err(|error| CliError::io(format_args!("remove {}", dir.display()), &error))?;
        record::change(&self.plan.dir, |record| record.nodes[LOST].pid = None)?;
        self.tell(
            "lost",
            &format!("{name} (pid {pid}) was killed by SIGKILL just after it delivered, and its directory is deleted"),
            json!({ "name": name, "pid": pid }),
        )?;
        (self.clients[CAROL].pause_ms, self.clients[DAVE].pause_ms) = (0, 0);
        let carol = move_to(self.mailbox(CAROL), self.addr(NEW_HOME), true);
        let dave = move_to(self.mailbox(DAVE), self.addr(BOB), true);
        let both = async { tokio::try_join!(carol, dave) };
        let (carol, dave) = self.meanwhile(both).await?;
        self.more_letters(&[CAROL, DAVE]).await?;
        for (place, home, recovered) in [(CAROL, "node-4", carol), (DAVE, "node-2", dave)] {
            let (name, pause_ms) = (HOMES[place].0, self.clients[place].pause_ms);
            self.tell(
                "rescued",
                &format!(
                    "{name} lives at {home}, without the old home: {recovered} entries were recovered from others; the \
                     reader waited {pause_ms} ms at most"
                ),
                json!({ "name": name, "pause_ms": pause_ms, "recovered": recovered }),
            )?;
        }
        Ok(())
    }

    /// Alice stops, and everybody reads to the end.
    async fn end(&mut self) -> Result<(), CliError> {
        self.cast.clients[ALICE].tell(&json!({ "enough": true })).await;
        self.until(|clients| clients.iter().all(|client| client.sent.is_some())).await?;
        let (epoch, ordered) = self.clients[ALICE].sent.unwrap_or_default();
        self.tell_clients(|place| json!({ "epoch": epoch, "owed": if place == ALICE { 0 } else { ordered } })).await;
        self.until(|clients| clients.iter().all(|client| client.done)).await
    }

    async fn tell_clients(&mut self, what: impl Fn(usize) -> Value) {
        for (place, client) in self.cast.clients.iter_mut().enumerate() {
            client.tell(&what(place)).await;
        }
    }

    /// Until these have received so many more that something has passed.
    async fn more_letters(&mut self, places: &[usize]) -> Result<(), CliError> {
        self.receive(places, LETTERS).await
    }

    /// Until each of these has received one more.
    async fn one_more(&mut self, places: &[usize]) -> Result<(), CliError> {
        self.receive(places, 1).await
    }

    async fn receive(&mut self, places: &[usize], more: u64) -> Result<(), CliError> {
        let wanted: Vec<u64> = places.iter().map(|place| self.clients[*place].received + more).collect();
        self.until(|clients| places.iter().zip(&wanted).all(|(place, wanted)| clients[*place].received >= *wanted))
            .await
    }

    async fn until(&mut self, is_so: impl Fn(&[Client]) -> bool) -> Result<(), CliError> {
        while !is_so(&self.clients) {
            self.hear().await?;
        }
        Ok(())
    }

    /// Waits for something, and listens to everybody meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                heard = self.hear() => heard?,
            }
        }
    }

    /// Takes note of the next thing that happens. Cancelling loses nothing.
    async fn hear(&mut self) -> Result<(), CliError> {
        if let Some(place) = self.clients.iter().position(|client| client.has_closed && !client.done) {
            let child = &mut self.cast.clients[place];
            let status = child.ended().await.map_err(|error| CliError::io("watch the clients", &error))?;
            return Err(child.failure(status));
        }
        tokio::select! {
            Some((place, value)) = self.said.recv() => self.heard(place, value),
            (place, status) = next_end(&mut self.cast.nodes) => {
                let status = status.map_err(|error| CliError::io("watch the nodes", &error))?;
                return Err(self.cast.nodes[place].failure(status));
            }
        }
        Ok(())
    }

    fn heard(&mut self, place: usize, value: Option<Value>) {
        let client = &mut self.clients[place];
        let Some(value) = value else {
            client.has_closed = true;
            return;
        };
        let number = |key: &str| value[key].as_u64().unwrap_or_default();
        match value["type"].as_str() {
            Some("mailbox") => client.address = value["address"].as_str().map(str::to_owned),
            Some("progress") => {
                (client.ordered, client.received) = (number("ordered"), number("received"));
                client.pause_ms = client.pause_ms.max(number("pause_ms"));
            }
            Some("sent") => client.sent = Some((number("epoch"), number("ordered"))),
            Some("done") => client.done = true,
            _ => {}
        }
    }

    fn stuck(&self) -> CliError {
        let rows: Vec<String> = HOMES
            .iter()
            .zip(&self.clients)
            .map(|((name, _), client)| format!("{name}: {} ordered, {} received", client.ordered, client.received))
            .collect();
        let message = format!("nothing goes on\n    {}", rows.join("\n    "));
        CliError::unreachable("stuck", message, "run it again with --keep DIR and read the logs there")
    }
}

/// Moves the mailbox in `dir`, which a client reads meanwhile, as `postroad move start` does, until the new home has taken
/// over. What the readers write shows at the end whether the logs went on unbroken. Returns how many entries others had.
async fn move_to(dir: PathBuf, to: String, without_old_home: bool) -> Result<u64, CliError> {
    let to: NodeAddr = to.parse()?;
    let options = MoveOptions { without_old_home, ..MoveOptions::default() };
    let mut mover = Mover::new(&Mailbox::open(&dir)?)?;
    let plan = mover.plan(&to, &options).await?;
    plan.answer.map_err(postroad_client::ClientError::from)?;
    mover.start(&to, options).await?;
    let followed = mover.follow(|_| {}).await?;
    if let Some(home) = followed.overtaken {
        return Err(CliError::unverified("demo", format!("the mailbox lives at {home}, where nobody sent it"), ""));
    }
    mover.finish()?;
    Ok(followed.status.map_or(0, |status| status.recovered))
}
