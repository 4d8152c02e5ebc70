//! The second chapter: a node drops mail and is named for it; an honest node is suspected and cleared; and in the end,
//! with no node left, the evidence convinces whoever has the federation's genesis.
//!
//! Everybody in it is a process, and says only what the commands of `postroad` say.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::play::Cast;
use crate::cli::children::{Child, Said, send_signal, stop_all};
use crate::cli::output::{CliError, Output};
use crate::cli::testnet::{DRAIN, record};

/// The node that cheats, and the one that is honest and away, by their numbers.
const CHEAT: usize = 2;
const AWAY: usize = 4;
/// Which of the messages that it owes the cheat drops.
const DROPPED: u64 = 2;
/// After so many letters something is wrong.
const MAX_LETTERS: u64 = 40;
/// How long a verdict may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the chapter needs: a place, and where everybody's errors go.
struct Stage<'a> {
    dir: PathBuf,
    log: PathBuf,
    output: &'a Output,
}

/// Plays the chapter in `dir`. Its testnet is in `cast`, so that it can be stopped however this ends.
///
/// # Errors
/// If anything does not end as it should.
pub async fn play(dir: &Path, cast: &mut Cast, output: &Output) -> Result<(), CliError> {
    std::fs::create_dir(dir).map_err(|error| CliError::io(format_args!("make {}", dir.display()), &error))?;
    let stage = Stage { dir: dir.to_owned(), log: dir.join("log"), output };
    let net = stage.path("net");
    let cheat = format!("{CHEAT}=drop@{DROPPED}");
    let args = ["testnet", "--nodes", "4", "--dir", &net, "--cheat", &cheat].map(OsStr::new);
    cast.nodes.push(Child::spawn("testnet", &args, &stage.log)?);
    let (say, mut said) = mpsc::channel(1_024);
    for testnet in &mut cast.nodes {
        testnet.expect("ready").await?;
        testnet.forward(0, say.clone());
    }
    stage.tell("chapter", "four nodes; node-2 will drop the second message that it owes")?;
    let file = stage.scenes(&net, &mut said).await?;
    stop_all(&mut cast.nodes, 2 * DRAIN, std::future::pending()).await;
    let genesis = format!("{net}/genesis.toml");
    let lines = stage.ask(&["verify", &file, "--genesis", &genesis]).await?;
    let holds = lines.iter().any(|line| line["type"] == "verdict" && line["kind"] == "drop");
    stage.must(holds, "the evidence verifies without any node", &lines)?;
    let size = std::fs::metadata(&file).map_or(0, |file| file.len());
    stage.tell(
        "offline",
        &format!("all nodes are stopped: postroad verify finds the same, from {size} bytes and genesis"),
    )
}

impl Stage<'_> {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn tell(&self, scene: &str, plain: &str) -> Result<(), CliError> {
        self.output.emit(&json!({ "type": "blame", "scene": scene, "text": plain }), plain)
    }

    fn must(&self, holds: bool, what: &str, lines: &[Value]) -> Result<(), CliError> {
        if holds {
            return Ok(());
        }
        let message = format!("it is not so that {what}: {}", json!(lines));
        Err(CliError::unverified("demo", message, "keep the files (--keep DIR) and report them"))
    }

    /// Runs a command of this executable to its end. Its lines say what became of it.
    async fn ask(&self, args: &[&str]) -> Result<Vec<Value>, CliError> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        let mut child = Child::spawn("a client", &args, &self.log)?;
        let (say, mut said) = mpsc::channel(1_024);
        child.forward(0, say);
        let mut lines = Vec::new();
        while let Some((_, Some(line))) = said.recv().await {
            lines.push(line);
        }
        child.ended().await.map_err(|error| CliError::io("wait for a client", &error))?;
        Ok(lines)
    }

    async fn mailbox(&self, name: &str, home: &str) -> Result<String, CliError> {
        let lines = self.ask(&["mailbox", "new", "--dir", &self.path(name), "--home", home]).await?;
        let address = lines.iter().find_map(|line| line["address"].as_str());
        self.must(address.is_some(), "a mailbox can be made", &lines)?;
        Ok(address.unwrap_or_default().to_owned())
    }

    /// Sends a letter; returns its number in the order.
    async fn send(&self, from: &str, to: &str, text: &str) -> Result<String, CliError> {
        let lines = self.ask(&["send", "--mailbox", &self.path(from), "--to", to, text]).await?;
        let seq = lines.iter().find_map(|line| line["seq"].as_str());
        self.must(seq.is_some(), "a letter is ordered", &lines)?;
        Ok(seq.unwrap_or_default().to_owned())
    }

    /// Both scenes. Returns the file with the evidence.
    async fn scenes(&self, net: &str, said: &mut mpsc::Receiver<Said>) -> Result<String, CliError> {
        let record = record::read(Path::new(net))?;
        let nodes = record.map(|record| record.nodes).unwrap_or_default();
        self.must(nodes.len() == 4, "the testnet has four nodes", &[])?;
        let addr = |number: usize| nodes[number - 1].addrs.first().cloned().unwrap_or_default();
        let bob = self.mailbox("bob", &addr(CHEAT)).await?;
        let _ = self.mailbox("carol", &addr(3)).await?;
        let dave = self.mailbox("dave", &addr(AWAY)).await?;
        let file = tokio::time::timeout(PATIENCE, self.dropped(&bob, said)).await;
        let file = file.unwrap_or_else(|_| Err(self.stuck()))?;
        self.suspected(&dave, nodes[AWAY - 1].pid).await?;
        Ok(file)
    }

    fn stuck(&self) -> CliError {
        CliError::unverified("demo", "nobody was named", "keep the files (--keep DIR) and report them")
    }

    /// Carol writes to bob, until the federation names who dropped a letter.
    async fn dropped(&self, bob: &str, said: &mut mpsc::Receiver<Said>) -> Result<String, CliError> {
        self.tell("mail", "carol (node-3) writes letters to bob (node-2), and bob reads them")?;
        let (mut has_gap, mut letters) = (false, 0);
        loop {
            letters += 1;
            if letters > MAX_LETTERS {
                return Err(self.stuck());
            }
            self.send("carol", bob, &format!("letter {letters}")).await?;
            let lines = self.ask(&["recv", "--mailbox", &self.path("bob")]).await?;
            if !has_gap && lines.iter().any(|line| line["type"] == "gap") {
                has_gap = true;
                self.tell("gap", "bob's client: a number of carol's is missing; it asks who has seen it")?;
            }
            while let Ok((_, Some(line))) = said.try_recv() {
                if line["type"] == "sinned" {
                    self.tell("sinned", &format!("node-2 drops a message of epoch {}", line["epoch"]))?;
                }
                if line["type"] == "verdict" {
                    let is_it = line["kind"] == "drop" && line["culprit_node"] == CHEAT;
                    self.must(is_it, "node-2 is named, for dropping mail", std::slice::from_ref(&line))?;
                    let after = &line["after_epochs"];
                    self.tell(
                        "verdict",
                        &format!("the federation names node-2: drop, {after} epochs after the message"),
                    )?;
                    return Ok(line["evidence"].as_str().map(|file| self.evidence(file)).unwrap_or_default());
                }
            }
        }
    }

    /// Where the testnet has put evidence, which it names by its path or by that within its directory.
    fn evidence(&self, file: &str) -> String {
        self.dir.join("net").join(file).display().to_string()
    }

    /// Node-4 stands still and has not signed for dave's letter. That is no guilt, and the statements say so.
    async fn suspected(&self, dave: &str, pid: Option<u32>) -> Result<(), CliError> {
        let pid = pid.unwrap_or_default();
        let carol = self.path("carol");
        send_signal(pid, Signal::STOP);
        let asked = async {
            let seq = self.send("carol", dave, "are you there?").await?;
            let way = self.path("dave.explanation");
            let lines = self.ask(&["explain", "--mailbox", dave, "--as", &carol, "--seq", &seq, "--out", &way]).await?;
            Ok::<_, CliError>((seq, lines))
        };
        let asked = asked.await;
        send_signal(pid, Signal::CONT);
        let (seq, lines) = asked?;
        let last = lines.last().cloned().unwrap_or_default();
        self.must(last["conclusion"] == "pending", "custodians hold dave's letter", &lines)?;
        let reason = last["reason"].as_str().unwrap_or_default();
        self.tell("suspected", "node-4 stands still, and dave's letter is not with dave: did node-4 drop it?")?;
        self.tell("cleared", &format!("no: {reason}"))?;
        let read = async {
            while !self
                .ask(&["recv", "--mailbox", &self.path("dave")])
                .await?
                .iter()
                .any(|line| line["seq"] == seq.as_str())
            {}
            Ok::<(), CliError>(())
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| Err(self.stuck()))?;
        self.tell("late", "node-4 goes on, and dave has the letter, at its true place, marked late")
    }
}
