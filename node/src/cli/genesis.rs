//! `postroad genesis`: the file that a federation begins with.
//!
//! Its hash is the federation's id, so it is written once and copied, never edited. The first member needs its key
//! before there is a genesis, and the genesis before it can run: given by `--dir`, it gets its copy at once.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use postroad_net::{Multiaddr, PeerId};
use postroad_protocol::genesis::Member;
use postroad_protocol::{Federation, Genesis, NodeId, Params};
use serde_json::json;

use super::output::{CliError, Output};
use crate::config::{NodeConfig, NodeDir, with_peer};

/// Arguments of `postroad genesis`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postroad genesis --name uni --dir node --out federation.toml
  postroad genesis --member 12D3KooW…@/dns4/post.example/tcp/4170 --allow 12D3KooW… --out federation.toml")]
pub struct Args {
    /// A name for people
    #[arg(long, default_value = "postroad")]
    pub name: String,
    /// The directory of a committee member on this machine; it gets a copy of the file
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,
    /// A committee member elsewhere, and where it listens
    #[arg(long, value_name = "PEERID@MULTIADDR", value_parser = parse_member)]
    pub member: Vec<(NodeId, Multiaddr)>,
    /// Any node may join (this is so unless --allow names some)
    #[arg(long, conflicts_with = "allow")]
    pub open: bool,
    /// Only these nodes, and the committee, may join; may be given several times
    #[arg(long, value_name = "PEERID")]
    pub allow: Vec<NodeId>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The federation's parameters
    #[command(flatten)]
    pub params: ParamArgs,
}

/// Parameters of a federation that are not to have their defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ParamArgs {
    /// A parameter of the federation, for ever: retention_ms=86400000 (docs/protocol.md lists all); may be given several
    /// times
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parse_param)]
    pub set: Vec<(String, u64)>,
}

impl ParamArgs {
    /// The parameters: what is set, and the defaults.
    ///
    /// # Errors
    /// If there is no such parameter.
    pub fn params(&self) -> Result<Params, String> {
        let mut table = toml::Table::try_from(Params::default()).map_err(|error| error.to_string())?;
        for (name, value) in &self.set {
            let known: Vec<String> = table.keys().cloned().collect();
            let Some(param) = table.get_mut(name) else {
                return Err(format!("there is no parameter {name}; there are {}", known.join(", ")));
            };
            let value = i64::try_from(*value).map_err(|_| format!("{name}: at most {}", i64::MAX))?;
            *param = toml::Value::Integer(value);
        }
        table.try_into().map_err(|error| error.to_string())
    }
}

fn parse_param(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=NUMBER")?;
    Ok((name.to_owned(), value.parse().map_err(|_| format!("{value:?} is not a number"))?))
}

fn parse_member(text: &str) -> Result<(NodeId, Multiaddr), String> {
    let (id, address) = text.split_once('@').ok_or("write it as PEERID@MULTIADDR")?;
    let id = id.parse().map_err(|error: postroad_protocol::crypto::BadAddress| error.to_string())?;
    let address = address.parse().map_err(|error| format!("{address:?} is not a multiaddr: {error}"))?;
    Ok((id, address))
}

/// Writes the file.
///
/// # Errors
/// If the committee is not one member with an address, or the file exists.
pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let mut committee: Vec<Member> = Vec::new();
    for (node, address) in &args.member {
        add(&mut committee, *node, vec![address.clone()])?;
    }
    let mut dirs = Vec::new();
    for dir in &args.dir {
        let config = NodeConfig::load(dir, &[])?;
        let addrs = config.announced();
        if addrs.is_empty() {
            let message = format!("{} names no address that others can dial", config.dir.config().display());
            return Err(CliError::usage("no-address", message, "set announce there, or listen on a concrete address"));
        }
        add(&mut committee, config.dir.read_key()?.public(), addrs)?;
        dirs.push(config.dir);
    }
    let params = args.params.params().map_err(|message| CliError::usage("param", message, ""))?;
    let federation = build(&args.name, committee, args.allow, params)
        .map_err(|message| CliError::usage("genesis", message, "name one member, by --dir or --member"))?;
    // Before the file is written, so that a refusal leaves nothing behind.
    if let Some(dir) = dirs.iter().find(|dir| dir.genesis().exists()) {
        let message = format!("{} is in a federation already", dir.path().display());
        return Err(CliError::refused("exists", message, "a node belongs to one federation for ever"));
    }
    write_new(&args.out, &federation.genesis().to_text())?;
    install(&federation, &dirs)?;
    let id = federation.id().to_string();
    output.emit(
        &json!({ "type": "genesis", "federation": id, "name": args.name, "file": args.out }),
        &format!(
            "federation {id}\nwrote {}\nnext: give every node a copy (postroad init --genesis)",
            args.out.display()
        ),
    )
}

/// Adds a member, or an address to one that is there.
fn add(committee: &mut Vec<Member>, node: NodeId, addrs: Vec<Multiaddr>) -> Result<(), CliError> {
    let peer: PeerId = (node.to_string().parse())
        .map_err(|_| CliError::usage("genesis", format!("{node} is not a PeerId"), "use the id that init printed"))?;
    let addrs = addrs.iter().map(|address| with_peer(address, peer).to_string());
    match committee.iter_mut().find(|member| member.node == node) {
        Some(member) => member.addrs.extend(addrs),
        None => committee.push(Member { node, addrs: addrs.collect() }),
    }
    Ok(())
}

/// A federation that begins now.
///
/// # Errors
/// What is wrong with it.
pub fn build(name: &str, committee: Vec<Member>, mut allow: Vec<NodeId>, params: Params) -> Result<Federation, String> {
    if !allow.is_empty() {
        allow.extend(committee.iter().map(|member| member.node));
        allow.sort_unstable();
        allow.dedup();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| "this machine's clock is before 1970")?;
    let time_ms = u64::try_from(since.as_millis()).map_err(|_| "this machine's clock is out of range")?;
    let genesis = Genesis { name: name.to_owned(), time_ms, committee, allow, params };
    Federation::new(genesis).map_err(|error| error.to_string())
}

fn install(federation: &Federation, dirs: &[NodeDir]) -> Result<(), CliError> {
    dirs.iter().try_for_each(|dir| Ok(dir.write_genesis(federation)?))
}

/// Writes a file where none is yet.
fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists already and is not overwritten", path.display());
            CliError::refused("exists", message, "choose another --out")
        }
        _ => CliError::io(format_args!("write {}", path.display()), &error),
    })
}
