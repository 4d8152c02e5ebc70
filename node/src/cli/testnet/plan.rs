//! A testnet's directory: made once, found again ever after.
//!
//! Keys, ports and genesis are chosen at the first start and read from then on. Every step leaves what it finds, so a
//! first start that was killed half-way is completed by the next one; genesis is the last file, and from then on the
//! number of nodes is fixed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use postroad_net::{Multiaddr, peer_id_from_secret};
use postroad_protocol::genesis::Member;
use postroad_protocol::{Federation, SecretKey};
use rand::RngExt;

use super::record::{Node, Record};
use crate::cli::genesis::{self, ParamArgs};
use crate::cli::output::CliError;
use crate::config::{Cheating, ConfigError, Http, NodeConfig, NodeDir, read_genesis, render, with_peer};

/// Nodes redial each other at most this far apart, so that one that returns is back at once.
const REDIAL_CAP_MS: u64 = 1_000;

/// The most nodes that a testnet may have.
const MAX_NODES: usize = 64;

/// A testnet that can be started.
#[derive(Debug)]
pub struct Plan {
    /// The testnet's directory, absolute.
    pub dir: PathBuf,
    /// What its nodes share.
    pub federation: Federation,
    /// The nodes; the first one is the sequencer.
    pub nodes: Vec<PlannedNode>,
}

/// A node that can be started.
#[derive(Debug)]
pub struct PlannedNode {
    /// Its name, which is that of its directory.
    pub name: String,
    /// Its PeerId.
    pub peer_id: String,
    /// Its configuration.
    pub config: NodeConfig,
}

impl PlannedNode {
    /// Its addresses, each ending in `/p2p/ID`.
    pub fn addrs(&self) -> Vec<String> {
        let Ok(peer) = self.peer_id.parse() else { return Vec::new() };
        self.config.announced().iter().map(|address| with_peer(address, peer).to_string()).collect()
    }
}

impl Plan {
    /// Makes or finds the testnet in `dir`. `nodes` may be `None` and `base_port` 0 if it exists.
    ///
    /// # Errors
    /// If what is asked for contradicts what is there, no ports are free, or the disk refuses.
    pub fn prepare(dir: &Path, nodes: Option<usize>, base_port: u16, params: &ParamArgs) -> Result<Plan, CliError> {
        fs::create_dir_all(dir).map_err(|error| CliError::io(format_args!("make {}", dir.display()), &error))?;
        let dir = dir.canonicalize().map_err(|error| CliError::io(format_args!("open {}", dir.display()), &error))?;
        let genesis_path = dir.join("genesis.toml");
        let begun = genesis_path.exists();
        let count = match (begun, nodes) {
            (true, None) => count_nodes(&dir),
            (true, Some(nodes)) if nodes == count_nodes(&dir) => nodes,
            (true, Some(nodes)) => {
                let message = format!("the testnet in {} has {} nodes, not {nodes}", dir.display(), count_nodes(&dir));
                return Err(CliError::usage("nodes-differ", message, "leave --nodes out, or use another --dir"));
            }
            (false, None) => return Err(Plan::missing(&dir)),
            (false, Some(nodes)) => nodes,
        };
        if !(1..=MAX_NODES).contains(&count) {
            let message = format!("a testnet has 1 to {MAX_NODES} nodes, not {count}");
            return Err(CliError::usage("nodes", message, "choose --nodes in that range"));
        }
        check_base_port(base_port, count)?;
        let mut ports = Ports::new(base_port);
        let planned = (1..=count).map(|number| plan_node(&dir, number, &mut ports)).collect::<Result<Vec<_>, _>>()?;
        drop(ports);
        let federation = match begun {
            true => {
                let federation = read_genesis(&genesis_path)?;
                let same = params.set.is_empty() || params.params().as_ref() == Ok(federation.params());
                if !same {
                    let message = format!("the testnet in {} has other parameters", dir.display());
                    return Err(CliError::usage("params-differ", message, "leave --param out, or use another --dir"));
                }
                federation
            }
            false => begin(&dir, &planned[0], params)?,
        };
        for node in &planned {
            node.config.dir.write_genesis(&federation)?;
        }
        let text = federation.genesis().to_text();
        if !begun {
            // Last, and by a rename: from now on the testnet exists.
            let partial = dir.join("genesis.toml.partial");
            fs::write(&partial, text)
                .and_then(|()| fs::rename(&partial, &genesis_path))
                .map_err(|error| CliError::io(format_args!("write {}", genesis_path.display()), &error))?;
        }
        if federation.sequencer().to_string() != planned[0].peer_id {
            let message = format!("the genesis in {} is of another federation", dir.display());
            return Err(CliError::usage("genesis-differs", message, "restore node-1's key, or use another --dir"));
        }
        Ok(Plan { dir, federation, nodes: planned })
    }

    /// Writes into a node's `postroad.toml` how it cheats from its next start on.
    ///
    /// # Errors
    /// If there is no such node, or the disk refuses.
    pub fn cheat(&mut self, number: usize, cheating: Cheating) -> Result<(), CliError> {
        let count = self.nodes.len();
        let Some(node) = number.checked_sub(1).and_then(|at| self.nodes.get_mut(at)) else {
            let message = format!("the testnet has no node {number}: they are 1 to {count}");
            return Err(CliError::usage("cheat", message, "write it as NUMBER=SIN, as in 2=drop"));
        };
        let path = node.config.dir.config();
        let failed = |error| CliError::io(format_args!("write {}", path.display()), &error);
        let text = fs::read_to_string(&path).map_err(failed)?;
        let rest = text.lines().filter(|line| !line.starts_with("cheat =")).flat_map(|line| [line, "\n"]);
        // First, because keys that are in no section come before the sections.
        let text: String = [format!("cheat = \"{cheating}\"\n")].into_iter().chain(rest.map(str::to_owned)).collect();
        fs::write(&path, text).map_err(failed)?;
        node.config.cheat = Some(cheating);
        Ok(())
    }

    /// The error for a directory without a testnet.
    pub fn missing(dir: &Path) -> CliError {
        let message = format!("there is no testnet in {} yet", dir.display());
        CliError::usage("no-testnet", message, "say how many nodes it is to have: --nodes 4")
    }

    /// The record of this testnet, with the pids of the processes that run it.
    pub fn record(&self, pids: &[Option<u32>]) -> Record {
        let pids = pids.iter().copied().chain(std::iter::repeat(None));
        let sequencer = self.federation.sequencer().to_string();
        let nodes = self.nodes.iter().zip(pids).map(|(node, pid)| Node {
            name: node.name.clone(),
            peer_id: node.peer_id.clone(),
            addrs: node.addrs(),
            http: node.config.http.listen.map(|at| at.to_string()),
            dir: node.config.dir.path().to_owned(),
            pid,
            sequencer: node.peer_id == sequencer,
        });
        Record {
            federation: self.federation.id().to_string(),
            genesis: self.dir.join("genesis.toml"),
            nodes: nodes.collect(),
        }
    }
}

fn count_nodes(dir: &Path) -> usize {
    (1..=MAX_NODES).take_while(|number| NodeDir::new(&dir.join(format!("node-{number}"))).key().exists()).count()
}

/// A federation of the first node; its own copy may be there already, if a first start was killed.
fn begin(dir: &Path, first: &PlannedNode, params: &ParamArgs) -> Result<Federation, CliError> {
    let params = params.params().map_err(|message| CliError::usage("param", message, ""))?;
    match first.config.dir.read_genesis() {
        Err(ConfigError::NoGenesis { .. }) => {}
        there => return Ok(there?),
    }
    let name = dir.file_name().map_or_else(|| "testnet".into(), |name| name.to_string_lossy());
    let name: String = name.chars().take(16).collect();
    let node = first.peer_id.parse().map_err(|_| CliError::refused("key", "node-1 has no usable key", ""))?;
    let member = Member { node, addrs: first.addrs() };
    genesis::build(&name, vec![member], Vec::new(), params).map_err(|message| CliError::refused("genesis", message, ""))
}

fn plan_node(dir: &Path, number: usize, ports: &mut Ports) -> Result<PlannedNode, CliError> {
    let name = format!("node-{number}");
    let node_dir = NodeDir::new(&dir.join(&name));
    match node_dir.write_key(&SecretKey::from_seed(rand::random())) {
        Ok(()) | Err(ConfigError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if !node_dir.config().exists() {
        let config = NodeConfig {
            name: name.clone(),
            listen: loopback(ports.next(number)?),
            http: Http { listen: Some((Ipv4Addr::LOCALHOST, ports.free()?).into()) },
            redial_cap_ms: REDIAL_CAP_MS,
            ..NodeConfig::default()
        };
        node_dir.write_config(&render(&config))?;
    }
    let config = NodeConfig::load(node_dir.path(), &[])?;
    let peer_id = peer_id_from_secret(&node_dir.read_key()?.seed()).to_string();
    if let Some(port) = ports.fixed(number)
        && config.listen != loopback(port)
    {
        let message = format!("{name} is configured for other addresses than port {port} on 127.0.0.1");
        return Err(CliError::usage("ports-differ", message, "leave --base-port out, or use another --dir"));
    }
    Ok(PlannedNode { name, peer_id, config })
}

/// One port number, for TCP and for QUIC.
fn loopback(port: u16) -> Vec<Multiaddr> {
    let address = |text: String| text.parse().expect("a well-formed address");
    vec![address(format!("/ip4/127.0.0.1/tcp/{port}")), address(format!("/ip4/127.0.0.1/udp/{port}/quic-v1"))]
}

fn check_base_port(base_port: u16, count: usize) -> Result<(), CliError> {
    if usize::from(base_port) + count > usize::from(u16::MAX) + 1 {
        let message = format!("there are no {count} ports from {base_port} on");
        return Err(CliError::usage("base-port", message, "choose a lower --base-port"));
    }
    Ok(())
}

/// Ports for new nodes. Free ones are held until all are chosen, so that no two nodes get the same.
struct Ports {
    base: u16,
    held: Vec<(TcpListener, UdpSocket)>,
}

impl Ports {
    fn new(base: u16) -> Ports {
        Ports { base, held: Vec::new() }
    }

    /// The port that the operator chose for a node.
    fn fixed(&self, number: usize) -> Option<u16> {
        let offset = u16::try_from(number).ok()?.checked_sub(1)?;
        (self.base != 0).then(|| self.base.checked_add(offset)).flatten()
    }

    fn next(&mut self, number: usize) -> Result<u16, CliError> {
        match self.fixed(number) {
            Some(port) => Ok(port),
            None => self.free(),
        }
    }

    fn free(&mut self) -> Result<u16, CliError> {
        // Below the range that systems give to outgoing connections: a node that is down must find its port again.
        for _ in 0..1_000 {
            let port = rand::rng().random_range(10_000..32_000);
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
            if let (Ok(tcp), Ok(udp)) = (tcp, udp) {
                self.held.push((tcp, udp));
                return Ok(port);
            }
        }
        Err(CliError::refused("ports", "found no free port on 127.0.0.1", "choose some yourself by --base-port"))
    }
}
