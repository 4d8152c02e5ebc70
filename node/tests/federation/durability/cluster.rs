//! Nodes that a test starts one by one, each as it needs it: under a tracer, on a small disk, from a copy.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::Instant;

use postroad::cli::genesis::ParamArgs;
use postroad::cli::testnet::plan::Plan;
use postroad_protocol::{Federation, NodeId};
use postroad_store::{Store, StoreError};
use serde_json::Value;

use crate::net::{Mailbox, PATIENCE, Process, postroad, run, signal, text};

/// How a node ended: its exit code, and the error that it printed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) error: Value,
}

/// A running node. Its standard input is a pipe, which it does not read.
pub(super) struct Running {
    process: Process,
    _input: ChildStdin,
    log: PathBuf,
}

impl Running {
    /// Starts a node; what it says on standard error goes to `log`.
    pub(super) fn start(command: &mut Command, log: PathBuf) -> Running {
        let (process, input) = Process::start(command.stderr(File::create(&log).expect("a log")));
        Running { process, _input: input, log }
    }

    /// Waits until it serves; none if it ended instead.
    pub(super) fn ready(&self) -> Option<Value> {
        std::iter::from_fn(|| self.process.next_line()).find(|line| line["type"] == "ready")
    }

    pub(super) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILLs what the process runs, and not the process itself: a tracer writes its trace to the end.
    pub(super) fn kill_child(&self) {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        children.split_whitespace().for_each(|child| signal(child.parse().expect("a pid"), "KILL"));
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits for its end.
    pub(super) fn ended(mut self) -> Ended {
        while self.process.next_line().is_some() {}
        let code = self.process.wait();
        let errors = self.log();
        let error = errors.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back();
        Ended { code, error: error.unwrap_or(Value::Null) }
    }

    /// What it has said on standard error.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Nodes of one federation, each in a directory of its own; the first is the sequencer.
pub(super) struct Cluster {
    pub(super) plan: Plan,
    running: BTreeMap<usize, Running>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Plans that many nodes and starts them.
    pub(super) fn start(nodes: usize) -> Cluster {
        let mut cluster = Cluster::plan(nodes);
        let numbers: Vec<usize> = (1..=nodes).collect();
        cluster.run_all(&numbers);
        cluster
    }

    /// Plans that many nodes.
    pub(super) fn plan(nodes: usize) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let params = ParamArgs::default();
        let plan = Plan::prepare(&dir.path().join("net"), Some(nodes), 0, &params).expect("a plan");
        Cluster { plan, running: BTreeMap::new(), dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of node `number` (from 1).
    pub(super) fn node_dir(&self, number: usize) -> PathBuf {
        self.plan.nodes[number - 1].config.dir.path().to_owned()
    }

    pub(super) fn id(&self, number: usize) -> NodeId {
        self.plan.nodes[number - 1].config.dir.read_key().expect("a key").public()
    }

    pub(super) fn federation(&self) -> &Federation {
        &self.plan.federation
    }

    pub(super) fn addr(&self, number: usize) -> String {
        self.plan.nodes[number - 1].addrs()[0].clone()
    }

    /// A new mailbox at node `number`.
    pub(super) fn mailbox(&self, name: &str, number: usize) -> Mailbox {
        Mailbox::new(self.path(name), &self.addr(number))
    }

    /// What runs node `number`.
    pub(super) fn command(&self, number: usize) -> Command {
        postroad(&["run", "--dir", text(&self.node_dir(number))])
    }

    /// Starts a node with this command, without waiting for anything.
    pub(super) fn launch(&mut self, number: usize, command: &mut Command) {
        let running = Running::start(command, self.path(&format!("log-{number}")));
        assert!(self.running.insert(number, running).is_none(), "node {number} runs already");
    }

    /// Waits until a node serves.
    pub(super) fn until_ready(&self, number: usize) {
        let running = &self.running[&number];
        assert!(running.ready().is_some(), "node {number} has ended: {}", running.log());
    }

    /// Starts nodes and waits until they serve.
    pub(super) fn run_all(&mut self, numbers: &[usize]) {
        for number in numbers {
            let mut command = self.command(*number);
            self.launch(*number, &mut command);
        }
        for number in numbers {
            self.until_ready(*number);
        }
    }

    pub(super) fn running(&mut self, number: usize) -> &mut Running {
        self.running.get_mut(&number).expect("it runs")
    }

    /// The nodes that run.
    pub(super) fn numbers(&self) -> Vec<usize> {
        self.running.keys().copied().collect()
    }

    /// Stops a node where it is, and waits until all of it has stopped.
    pub(super) fn freeze(&mut self, number: usize) {
        let running = self.running(number);
        running.signal("STOP");
        let tasks = format!("/proc/{}/task", running.process.pid());
        let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        let all_stopped = || {
            let mut tasks = fs::read_dir(&tasks).expect("its threads").flatten();
            tasks.all(|task| fs::read_to_string(task.path().join("stat")).map_or(true, is_stopped))
        };
        let deadline = Instant::now() + PATIENCE;
        while !all_stopped() {
            assert!(Instant::now() < deadline, "node {number} does not stop");
        }
    }

    /// A copy of a running node's store, as a crash at this moment would leave it.
    pub(super) fn frozen_store(&mut self, number: usize) -> PathBuf {
        let copy = self.path(&format!("frozen-{number}"));
        self.freeze(number);
        fs::copy(self.node_dir(number).join("store.redb"), &copy).expect("a copy");
        self.running(number).signal("CONT");
        copy
    }

    /// Waits for a node's end.
    pub(super) fn ended(&mut self, number: usize) -> Ended {
        self.running.remove(&number).expect("it runs").ended()
    }

    /// SIGKILLs a node and waits until it is gone.
    pub(super) fn kill(&mut self, number: usize) {
        self.running(number).signal("KILL");
        self.ended(number);
    }

    /// Stops a node in order.
    pub(super) fn stop(&mut self, number: usize) {
        self.running(number).signal("TERM");
        let ended = self.ended(number);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Stops all nodes in order.
    pub(super) fn stop_all(&mut self) {
        for running in self.running.values() {
            running.signal("TERM");
        }
        while let Some((_, running)) = self.running.pop_first() {
            running.ended();
        }
    }

    /// What a node says of itself.
    pub(super) fn status(&self, number: usize) -> Value {
        let ran = run(&["status", "--node", &self.addr(number)]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.lines[0].clone()
    }

    /// Waits until `holds` of what a node says of itself.
    pub(super) fn until_status(&self, number: usize, what: &str, holds: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.status(number)) {
            assert!(Instant::now() < deadline, "node {number} never had {what}");
        }
    }

    /// A copy of a node's directory as it is, under another name.
    pub(super) fn copy(&self, number: usize, name: &str) -> PathBuf {
        let copy = self.path(name);
        copy_dir(&self.node_dir(number), &copy);
        copy
    }

    /// Waits until a node has told `witness` that it has all its mail.
    pub(super) fn until_caught_up(&self, number: usize, witness: usize) {
        let peer_id = &self.plan.nodes[number - 1].peer_id;
        let is_ready = |peer: &Value| peer["peer_id"] == **peer_id && peer["state"] == "ready";
        self.until_status(witness, "that peer ready", |status| {
            status["peers"].as_array().is_some_and(|peers| peers.iter().any(is_ready))
        });
    }
}

/// Copies a directory; what was in `to` is gone.
pub(super) fn copy_dir(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("it can be removed");
    }
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if entry.file_type().expect("a type").is_file() {
            // A node's control socket is nothing to copy.
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Opens a copy of a store, so that the file itself stays as it is.
pub(super) fn open_copy(store: &Path) -> Result<(Store, tempfile::TempDir), StoreError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let copy = dir.path().join("store.redb");
    fs::copy(store, &copy).expect("a copy");
    Ok((Store::open(&copy, &postroad_engine::tables::ALL)?, dir))
}
