//! A testnet of real processes, looked at from outside.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postroad_client::{Endpoint, Mailbox, NodeAddr};
use postroad_protocol::Federation;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A testnet, stopped and removed when dropped. There is one at a time.
pub(crate) struct Net {
    testnet: Child,
    pub(crate) federation: Federation,
    nodes: Vec<Value>,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Net {
    pub(crate) async fn start(nodes: usize) -> Net {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = dir.path().join("net");
        let mut testnet = Command::new(env!("CARGO_BIN_EXE_postroad"))
            .args(["--json", "testnet", "--nodes", &nodes.to_string(), "--dir"])
            .arg(&place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut lines = BufReader::new(testnet.stdout.take().expect("a pipe")).lines();
        assert!(lines.any(|line| line.expect("a line").contains("\"ready\"")), "the testnet serves");
        std::thread::spawn(move || lines.for_each(drop));
        let record = std::fs::read(place.join("testnet.json")).expect("testnet.json is there");
        let record: Value = serde_json::from_slice(&record).expect("testnet.json is JSON");
        let nodes = record["nodes"].as_array().expect("nodes").clone();
        let first: NodeAddr = nodes[0]["addrs"][0].as_str().expect("an address").parse().expect("an address");
        let endpoint = Endpoint::anonymous().expect("an endpoint");
        let federation = endpoint.genesis_within(&first, PATIENCE).await.expect("the genesis");
        Net { testnet, federation, nodes, dir, _alone: alone }
    }

    /// The TCP address of a node, from 0.
    pub(crate) fn addr(&self, node: usize) -> NodeAddr {
        self.nodes[node]["addrs"][0].as_str().expect("an address").parse().expect("an address")
    }

    /// The port of that address.
    pub(crate) fn port(&self, node: usize) -> u16 {
        let addr = self.addr(node).to_string();
        let mut parts = addr.split('/').skip_while(|part| *part != "tcp");
        parts.nth(1).expect("a port").parse().expect("a port")
    }

    /// A registered mailbox.
    pub(crate) async fn mailbox(&self, name: &str, node: usize) -> Mailbox {
        let mailbox =
            Mailbox::create(&self.dir.path().join(name), &self.addr(node), &self.federation).expect("a mailbox");
        mailbox.register(PATIENCE).await.expect("it is registered");
        mailbox
    }

    /// Bytes of a node in memory.
    pub(crate) fn memory_bytes(&self, node: usize) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(node))).expect("the node lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") * 1_024
    }

    /// How many file descriptors a node has open.
    pub(crate) fn descriptors(&self, node: usize) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid(node))).expect("the node lives").count()
    }

    /// Waits until a node has at most this many file descriptors open.
    pub(crate) async fn descriptors_fall_to(&self, node: usize, most: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.descriptors(node) > most {
            assert!(Instant::now() < deadline, "{} descriptors, at most {most} expected", self.descriptors(node));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn pid(&self, node: usize) -> u64 {
        self.nodes[node]["pid"].as_u64().expect("a pid")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.testnet.id().to_string()).status();
        let _ = self.testnet.wait();
    }
}
