//! A federation of real processes: `postroad testnet`, and the commands that a person would type.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The command with its arguments, JSON output, and a quiet standard input.
pub(crate) fn postroad(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postroad"));
    command.arg("--json").args(args).stdin(Stdio::null()).env_remove("POSTROAD_LOG").env_remove("POSTROAD_NODE");
    command
}

/// What a finished command printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) lines: Vec<Value>,
    pub(crate) error: Value,
}

/// Runs a command to its end, with `input` on its standard input.
pub(crate) fn run_with(args: &[&str], input: &[u8]) -> Ran {
    ended_with(&mut postroad(args), input)
}

/// Runs a command, made by [`postroad`], to its end.
pub(crate) fn ended(command: &mut Command) -> Ran {
    ended_with(command, &[])
}

fn ended_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that does not read its input closes the pipe.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the writer ends");
    let parse = |bytes: &[u8]| -> Vec<Value> {
        let text = String::from_utf8_lossy(bytes);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    Ran {
        code: output.status.code().unwrap_or(-1),
        lines: parse(&output.stdout),
        error: parse(&output.stderr).pop().unwrap_or(Value::Null),
    }
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    run_with(args, &[])
}

/// A process whose JSON lines are read as they come; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<Value>,
}

impl Process {
    pub(crate) fn spawn(args: &[&str]) -> Process {
        Process::spawn_with_input(args).0
    }

    /// With a standard input that the caller writes.
    pub(crate) fn spawn_with_input(args: &[&str]) -> (Process, ChildStdin) {
        Process::start(&mut postroad(args))
    }

    /// Starts a command whose standard error is set.
    pub(crate) fn start(command: &mut Command) -> (Process, ChildStdin) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command starts");
        let stdout = child.stdout.take().expect("a pipe");
        let stdin = child.stdin.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        (Process { child, lines }, stdin)
    }

    /// The next line of this type; others are passed over.
    pub(crate) fn wait_for(&self, kind: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line of type {kind} came"));
            if line["type"] == kind {
                return line;
            }
        }
    }

    /// The next line of any type, or none once the process has ended.
    pub(crate) fn next_line(&self) -> Option<Value> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it neither says anything nor ends"),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked after").is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name, as in `kill -NAME PID`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok(), "kill runs");
}

/// A testnet in a directory of its own; stopped and removed when dropped.
pub(crate) struct Net {
    testnet: Process,
    revived: Vec<Process>,
    dir: tempfile::TempDir,
}

impl Net {
    pub(crate) fn start(nodes: usize) -> Net {
        Net::start_with(nodes, &[])
    }

    /// With parameters of the federation, as `NAME=NUMBER`.
    pub(crate) fn start_with(nodes: usize, params: &[&str]) -> Net {
        Net::start_args(nodes, &params.iter().flat_map(|param| ["--param", *param]).collect::<Vec<_>>())
    }

    /// With more arguments.
    pub(crate) fn start_args(nodes: usize, more: &[&str]) -> Net {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let net = dir.path().join("net");
        let nodes = nodes.to_string();
        let mut args = vec!["testnet", "--nodes", &nodes, "--dir", text(&net)];
        args.extend(more);
        let testnet = Process::spawn(&args);
        testnet.wait_for("ready");
        Net { testnet, revived: Vec::new(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn node(&self, number: usize) -> Value {
        let record = std::fs::read_to_string(self.path("net/testnet.json")).expect("testnet.json is there");
        let record: Value = serde_json::from_str(&record).expect("testnet.json is JSON");
        record["nodes"][number - 1].clone()
    }

    /// The lines that the testnet has said since this was last asked.
    #[cfg(feature = "cheat")]
    pub(crate) fn news(&self) -> Vec<Value> {
        self.testnet.lines.try_iter().collect()
    }

    /// The first address of node `number` (from 1).
    pub(crate) fn addr(&self, number: usize) -> String {
        self.node(number)["addrs"][0].as_str().expect("an address").to_owned()
    }

    /// The PeerId of node `number`.
    pub(crate) fn peer_id(&self, number: usize) -> String {
        self.node(number)["peer_id"].as_str().expect("a PeerId").to_owned()
    }

    /// Sets values of a node's configuration, and starts it again.
    pub(crate) fn configure(&mut self, number: usize, values: &[(&str, String)]) {
        let path = self.path(&format!("net/node-{number}/postroad.toml"));
        let mut text = std::fs::read_to_string(&path).expect("the configuration is there");
        for (name, value) in values {
            let lines: Vec<String> = (text.lines())
                .map(|line| match line.split_once(" = ") {
                    Some((known, _)) if known == *name => format!("{name} = {value}"),
                    _ => line.to_owned(),
                })
                .collect();
            let changed = lines.join("\n") + "\n";
            assert_ne!(changed, text, "the configuration names {name}");
            text = changed;
        }
        self.kill(number);
        std::fs::write(&path, text).expect("the configuration can be written");
        self.revive(number);
    }

    /// The next line of this kind that the testnet prints.
    pub(crate) fn wait_for(&self, kind: &str) -> Value {
        self.testnet.wait_for(kind)
    }

    /// Where node `number` serves its metrics and health.
    pub(crate) fn http(&self, number: usize) -> String {
        self.node(number)["http"].as_str().expect("an address").to_owned()
    }

    pub(crate) fn genesis(&self) -> String {
        text(&self.path("net/genesis.toml")).to_owned()
    }

    /// SIGKILLs a node.
    pub(crate) fn kill(&self, number: usize) {
        let pid = self.node(number)["pid"].as_u64().expect("a pid");
        signal(pid as u32, "KILL");
        // It is gone when its directory can be had: the revived one waits for nothing else.
    }

    /// Asks a node to stop, as an operator does.
    pub(crate) fn stop(&self, number: usize) {
        let pid = self.node(number)["pid"].as_u64().expect("a pid");
        signal(pid as u32, "TERM");
    }

    /// Starts a node again by hand and waits until it serves.
    pub(crate) fn revive(&mut self, number: usize) {
        let dir = self.path(&format!("net/node-{number}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut process = Process::spawn(&["run", "--dir", text(&dir)]);
            let first = process.lines.recv_timeout(PATIENCE);
            match first {
                Ok(line) if line["type"] == "ready" => {
                    self.revived.push(process);
                    return;
                }
                // The killed one may hold the lock for a moment longer.
                _ => assert!(process.wait() == Some(5) && Instant::now() < deadline, "node {number} starts again"),
            }
        }
    }

    /// Stops the nodes that were started again by hand.
    pub(crate) fn stop_revived(&mut self) {
        for mut process in self.revived.drain(..) {
            process.signal("TERM");
            process.wait();
        }
    }

    /// A new mailbox at node `number`.
    pub(crate) fn mailbox(&self, name: &str, number: usize) -> Mailbox {
        Mailbox::new(self.path(name), &self.addr(number))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for process in &self.revived {
            process.signal("TERM");
        }
        self.testnet.signal("TERM");
        let _ = self.testnet.wait();
    }
}

/// A mailbox's directory and address.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(crate) dir: PathBuf,
    pub(crate) address: String,
}

impl Mailbox {
    /// A new mailbox at the node with this address.
    pub(crate) fn new(dir: PathBuf, home: &str) -> Mailbox {
        let ran = run(&["mailbox", "new", "--dir", text(&dir), "--home", home]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let address = ran.lines[0]["address"].as_str().expect("an address").to_owned();
        Mailbox { dir, address }
    }

    /// `send` with these arguments after `--to ADDR…`.
    pub(crate) fn send(&self, to: &[&Mailbox], args: &[&str], input: &[u8]) -> Ran {
        let mut all = vec!["send", "--mailbox", text(&self.dir), "--to"];
        all.extend(to.iter().map(|mailbox| mailbox.address.as_str()));
        all.extend(args);
        run_with(&all, input)
    }

    /// `recv` with these arguments.
    pub(crate) fn recv(&self, args: &[&str]) -> Ran {
        let mut all = vec!["recv", "--mailbox", text(&self.dir)];
        all.extend(args);
        run(&all)
    }

    /// The messages that `recv --strict` prints, in the order of their numbers, until `count` are there. (On a busy
    /// machine a node may be taken for away for a moment; then some mail is late, which strict reading does not show.)
    pub(crate) fn recv_all(&self, count: usize) -> Vec<Value> {
        self.recv_until(&["--strict"], count)
    }

    /// The messages that `recv` prints with these arguments, until `count` are there.
    pub(crate) fn recv_until(&self, args: &[&str], count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut messages = Vec::new();
        while messages.len() < count {
            let ran = self.recv(args);
            assert!(ran.code == 0 || ran.code == 4, "{:?} {}", ran.code, ran.error);
            messages.extend(ran.lines.into_iter().filter(|line| line["type"] == "message"));
            assert!(Instant::now() < deadline, "{} of {count} messages came", messages.len());
        }
        messages
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// The number in POSTROAD_SEED, or one from the clock; printed, so that a failure's choices can be made again.
pub(crate) fn seed() -> u64 {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    number_from_env("POSTROAD_SEED", fresh)
}

/// How much of something, from the environment.
pub(crate) fn number_from_env<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}
