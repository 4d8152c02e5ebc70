//! `testnet`, `run` and `demo` as real processes: who starts, who dies, who takes whose place, and that nobody is left.
//!
//! Nothing here waits for a fixed time: every step waits for what a process says, or for its end.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use postroad::cli::testnet::record::{self, Record};
use postroad_store::{DirLock, StoreError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A process whose objects are read one by one, and which does not outlive the test.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(args: &[&str]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postroad"))
            .arg("--json")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        Process { child, lines }
    }

    /// Reads until an object of this type.
    fn until(&mut self, kind: &str) -> Value {
        for line in &mut self.lines {
            let value: Value = serde_json::from_str(&line.expect("it prints text")).expect("it prints JSON");
            if value["type"] == kind {
                return value;
            }
        }
        panic!("it ended without saying {kind}");
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it can be waited for").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not zero");
    kill_process(pid, signal).expect("it is there");
}

fn read(dir: &Path) -> Record {
    record::read(dir).expect("it is a record").expect("it is there")
}

/// Waits until nobody runs on these directories.
fn all_gone(record: &Record) {
    let since = Instant::now();
    let runs = |dir: &Path| matches!(DirLock::take(dir), Err(StoreError::InUse { .. }));
    while record.nodes.iter().any(|node| runs(&node.dir)) {
        assert!(since.elapsed() < Duration::from_secs(20), "somebody still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_that_died_is_replaced_by_hand_and_stopped_with_the_others() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("net");
    let text = dir.to_str().expect("text");
    let mut testnet = Process::start(&["testnet", "--nodes", "2", "--dir", text]);
    testnet.until("ready");
    let first = read(&dir);
    assert!(first.nodes.iter().all(|node| node.pid.is_some()));
    assert_eq!(Process::start(&["testnet", "--dir", text]).exit_code(), Some(5));
    let second = first.nodes[1].dir.to_str().expect("text");
    assert_eq!(Process::start(&["run", "--dir", second]).exit_code(), Some(5));

    send(first.nodes[1].pid.expect("it runs"), Signal::KILL);
    assert_eq!(testnet.until("died")["name"], "node-2");
    assert_eq!(read(&dir).nodes[1].pid, None);
    let mut by_hand = Process::start(&["run", "--dir", second]);
    assert_eq!(by_hand.until("ready")["peer_id"], first.nodes[1].peer_id.as_str());
    assert_eq!(read(&dir).nodes[1].pid, Some(by_hand.child.id()));

    testnet.signal(Signal::INT);
    assert_eq!(testnet.exit_code(), Some(130));
    assert_eq!(by_hand.exit_code(), Some(0));
    let last = read(&dir);
    assert!(last.nodes.iter().all(|node| node.pid.is_none()));
    all_gone(&last);

    let mut again = Process::start(&["testnet", "--dir", text]);
    again.until("ready");
    let resumed = read(&dir);
    let same = |record: &Record| -> Vec<_> {
        record.nodes.iter().map(|node| (node.peer_id.clone(), node.addrs.clone())).collect()
    };
    assert_eq!((same(&resumed), &resumed.federation), (same(&first), &first.federation));
    again.signal(Signal::KILL);
    all_gone(&resumed);
}

#[test]
fn a_demo_passes_its_check_and_damage_to_what_it_kept_does_not() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("demo");
    let text = dir.to_str().expect("text");
    let mut demo = Process::start(&["demo", "--keep", text, "--messages", "40", "--seed", "3"]);
    let killed = demo.until("killed");
    let restarted = demo.until("restarted");
    assert!(killed["name"] == restarted["name"] && killed["name"] != "node-1");
    assert!(killed["pid"] != restarted["pid"]);
    let verdict = demo.until("demo");
    assert_eq!((verdict["ok"].as_bool(), verdict["ordered"].as_u64()), (Some(true), Some(320)));
    let of_moves = demo.until("demo");
    assert_eq!((of_moves["ok"].as_bool(), of_moves["disordered"].as_u64()), (Some(true), Some(0)));
    assert_eq!(demo.exit_code(), Some(0));
    all_gone(&read(&dir.join("net")));
    let moves = read(&dir.join("moves/net"));
    assert_eq!(moves.nodes.iter().filter(|node| !node.dir.exists()).count(), 1, "one is destroyed for good");
    all_gone(&moves);

    assert_eq!(Process::start(&["demo", "--check", text]).exit_code(), Some(0));
    for chapter in ["", "moves/"] {
        let file = dir.join(format!("{chapter}mailboxes/carol/recv.jsonl"));
        let whole = std::fs::read_to_string(&file).expect("it is there");
        let line = whole.lines().nth(7).expect("it has lines");
        std::fs::write(&file, whole.replacen(&format!("{line}\n"), "", 1)).expect("it can be written");
        let mut check = Process::start(&["demo", "--check", text]);
        while check.until("demo")["ok"] == true {}
        assert_eq!(check.exit_code(), Some(3));
        std::fs::write(&file, whole).expect("it can be written");
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    leaves_nothing("killed", "2000");
}

#[test]
fn a_demo_that_is_interrupted_while_mailboxes_move_leaves_nothing() {
    leaves_nothing("moves", "40");
}

/// Interrupts a demo once it has said this.
fn leaves_nothing(said: &str, messages: &str) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_postroad"))
        .args(["--json", "demo", "--messages", messages])
        .env("TMPDIR", temp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
    let mut demo = Process { child, lines };
    demo.until(said);
    demo.signal(Signal::INT);
    assert_eq!(demo.exit_code(), Some(130));
    assert_eq!(std::fs::read_dir(temp.path()).expect("it is there").count(), 0);
}
