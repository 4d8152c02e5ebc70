//! `init`, `genesis`, `run` and the records of a testnet, as an operator meets them: exit codes, errors, files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use postroad::cli::genesis::ParamArgs;
use postroad::cli::testnet::plan::Plan;
use postroad::cli::testnet::record::{self, Record};
use serde_json::Value;

fn postroad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postroad"))
        .args(args)
        .stdin(Stdio::null())
        .env_remove("POSTROAD_LOG")
        .output()
        .expect("the command starts")
}

/// Runs it with `--json` and returns the exit code and the one object that it prints, behind what a node logs.
fn json(args: &[&str]) -> (i32, Value) {
    let output = postroad(&[&["--json"], args].concat());
    let code = output.status.code().expect("it exits by itself");
    let text = if code == 0 { output.stdout } else { output.stderr };
    let text = String::from_utf8(text).expect("it prints text");
    let line = text.lines().next_back().unwrap_or_default();
    (code, serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text:?}")))
}

struct Temp(tempfile::TempDir);

impl Temp {
    fn new() -> Temp {
        Temp(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path of text").to_owned()
    }
}

#[test]
fn help_is_grouped_and_a_usage_error_is_one_in_both_forms() {
    let help = postroad(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).expect("help is text");
    for part in ["Try it:", "Run a node:", "Send and receive:", "Prove:", "Examples:", "130 interrupted"] {
        assert!(help.contains(part), "{part}:\n{help}");
    }
    assert!(!help.contains("demo-client"));

    let (code, error) = json(&["rnu"]);
    assert_eq!((code, &error["type"], &error["code"]), (2, &"error".into(), &"usage".into()));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("rnu")));
    assert_eq!(postroad(&["init"]).status.code(), Some(2));
}

#[test]
fn a_node_is_made_step_by_step() {
    let temp = Temp::new();
    let (node, other, file) = (temp.path("node"), temp.path("other"), temp.path("federation.toml"));
    let (code, made) = json(&["init", "--dir", &node, "--name", "uni", "--listen", "/ip4/127.0.0.1/tcp/4170"]);
    assert_eq!((code, &made["type"]), (0, &"node".into()));
    let (code, error) = json(&["init", "--dir", &node]);
    assert_eq!((code, &error["code"]), (1, &"exists".into()));
    let (code, error) = json(&["run", "--dir", &node]);
    assert_eq!((code, &error["code"]), (2, &"no-genesis".into()));

    let (code, genesis) = json(&["genesis", "--name", "test", "--dir", &node, "--out", &file]);
    assert_eq!((code, &genesis["type"]), (0, &"genesis".into()));
    let text = std::fs::read_to_string(&file).expect("it is written");
    assert!(text.contains(made["peer_id"].as_str().expect("an id")));
    assert_eq!(text, std::fs::read_to_string(format!("{node}/genesis.toml")).expect("the node has it"));
    let (code, error) = json(&["genesis", "--dir", &node, "--out", &temp.path("second.toml")]);
    assert_eq!((code, &error["code"]), (1, &"exists".into()));
    assert!(!Path::new(&temp.path("second.toml")).exists());

    let (code, joined) = json(&["init", "--dir", &other, "--genesis", &file]);
    assert_eq!((code, &joined["made"][2]), (0, &"genesis.toml".into()));
}

#[test]
fn a_genesis_needs_exactly_one_reachable_member() {
    let temp = Temp::new();
    let (node, file) = (temp.path("node"), temp.path("federation.toml"));
    let (code, error) = json(&["genesis", "--out", &file]);
    assert_eq!((code, &error["code"]), (2, &"genesis".into()));
    json(&["init", "--dir", &node]);
    let (code, error) = json(&["genesis", "--dir", &node, "--out", &file]);
    assert_eq!((code, &error["code"]), (2, &"no-address".into()));
    assert_eq!(json(&["genesis", "--member", "x", "--out", &file]).0, 2);
    assert!(!Path::new(&file).exists());

    let id = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let member = format!("{id}@/dns4/post.example/tcp/4170");
    let other = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    assert_eq!(json(&["genesis", "--member", &member, "--allow", other, "--out", &file]).0, 0);
    let federation = postroad::config::read_genesis(Path::new(&file)).expect("it is usable");
    let addrs = &federation.genesis().committee[0].addrs;
    assert_eq!(addrs, &[format!("/dns4/post.example/tcp/4170/p2p/{id}")]);
    assert_eq!(federation.genesis().allow.len(), 2, "the committee is allowed as well");
}

#[test]
fn errors_of_run_say_which_value_is_wrong() {
    let temp = Temp::new();
    let (code, error) = json(&["run", "--dir", &temp.path("none")]);
    assert_eq!((code, &error["code"]), (2, &"missing".into()));
    let node = temp.path("node");
    json(&["init", "--dir", &node]);
    let (code, error) = json(&["run", "--dir", &node, "--set", "limits.max_clients=many"]);
    assert_eq!((code, &error["code"]), (2, &"config".into()));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("limits.max_clients")));
    let (code, error) = json(&["run", "--dir", &node, "--log", "=,="]);
    assert_eq!((code, &error["code"]), (2, &"log-filter".into()));
}

#[test]
fn a_store_of_another_engine_is_not_left_behind_unnoticed() {
    let temp = Temp::new();
    let (node, file) = (temp.path("node"), temp.path("federation.toml"));
    json(&["init", "--dir", &node, "--listen", "/ip4/127.0.0.1/tcp/4170"]);
    json(&["genesis", "--dir", &node, "--out", &file]);
    std::fs::create_dir(Path::new(&node).join("store.sled")).expect("it can be made");
    let (code, error) = json(&["run", "--dir", &node]);
    assert_eq!((code, &error["code"]), (2, &"other-store".into()), "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("store.sled is a sled store") && message.contains("set store = \"sled\""), "{message}");
    assert!(!Path::new(&node).join("store.redb").exists(), "a new store was begun");
}

#[cfg(not(feature = "sled"))]
#[test]
fn an_engine_that_this_build_has_not_is_told() {
    let temp = Temp::new();
    let node = temp.path("node");
    json(&["init", "--dir", &node]);
    let (code, error) = json(&["run", "--dir", &node, "--set", "store=sled"]);
    assert_eq!((code, &error["code"]), (2, &"config".into()));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("built without sled") && message.contains("--features sled"), "{message}");
}

#[test]
fn a_second_process_on_one_directory_is_told() {
    let temp = Temp::new();
    let (node, file) = (temp.path("node"), temp.path("federation.toml"));
    json(&["init", "--dir", &node, "--listen", "/ip4/127.0.0.1/tcp/4170"]);
    json(&["genesis", "--dir", &node, "--out", &file]);
    let _held = postroad_store::DirLock::take(Path::new(&node)).expect("nobody else has it");
    let (code, error) = json(&["run", "--dir", &node]);
    assert_eq!((code, &error["code"]), (5, &"in-use".into()));
}

fn plan(dir: &Path, nodes: Option<usize>, base_port: u16) -> Result<Record, (&'static str, i32)> {
    plan_with(dir, nodes, base_port, &[])
}

fn plan_with(
    dir: &Path,
    nodes: Option<usize>,
    base_port: u16,
    params: &[(&str, u64)],
) -> Result<Record, (&'static str, i32)> {
    let params = ParamArgs { set: params.iter().map(|(name, value)| ((*name).into(), *value)).collect() };
    let plan = Plan::prepare(dir, nodes, base_port, &params).map_err(|error| (error.code, error.exit as i32))?;
    Ok(plan.record(&[Some(1), None, Some(3)]))
}

#[test]
fn a_testnet_has_the_parameters_that_it_was_made_with() {
    let temp = Temp::new();
    let dir = PathBuf::from(temp.path("net"));
    assert_eq!(plan_with(&dir, Some(1), 0, &[("retention", 1)]), Err(("param", 2)));
    assert_eq!(plan_with(&dir, Some(1), 0, &[("routing_window_epochs", 1)]), Err(("genesis", 1)));
    let made = plan_with(&dir, Some(1), 0, &[("retention_ms", 60_000)]).expect("it is made");
    let text = std::fs::read_to_string(dir.join("genesis.toml")).expect("it is there");
    assert!(text.contains("retention_ms = 60000") && text.contains("max_nodes = 1024"), "{text}");
    assert_eq!(plan_with(&dir, None, 0, &[("retention_ms", 60_000)]), Ok(made.clone()));
    assert_eq!(plan_with(&dir, None, 0, &[("retention_ms", 60_001)]), Err(("params-differ", 2)));
    assert_eq!(plan(&dir, None, 0), Ok(made));
}

#[test]
fn a_testnet_is_found_again_as_it_was_made() {
    let temp = Temp::new();
    let dir = PathBuf::from(temp.path("net"));
    assert_eq!(plan(&dir, None, 0), Err(("no-testnet", 2)));
    let made = plan(&dir, Some(3), 0).expect("it is made");
    assert_eq!(made.nodes.iter().map(|node| node.pid).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
    assert_eq!(made.nodes.iter().map(|node| node.sequencer).collect::<Vec<_>>(), [true, false, false]);
    for node in &made.nodes {
        assert_eq!(node.addrs.len(), 2);
        assert!(node.addrs.iter().all(|addr| addr.ends_with(&format!("/p2p/{}", node.peer_id))));
    }
    assert_eq!(plan(&dir, None, 0), Ok(made.clone()));
    assert_eq!(plan(&dir, Some(3), 0), Ok(made));
    assert_eq!(plan(&dir, Some(4), 0), Err(("nodes-differ", 2)));
    assert_eq!(plan(&dir, Some(3), 20_000), Err(("ports-differ", 2)));
    assert_eq!(plan(&temp.0.path().join("other"), Some(0), 0), Err(("nodes", 2)));
    assert_eq!(plan(&temp.0.path().join("other"), Some(4), 65_534), Err(("base-port", 2)));
}

#[test]
fn a_first_start_that_was_killed_is_completed() {
    let temp = Temp::new();
    let dir = PathBuf::from(temp.path("net"));
    let made = plan(&dir, Some(3), 21_000).expect("it is made");
    assert_eq!(made.nodes[2].addrs[0], format!("/ip4/127.0.0.1/tcp/21002/p2p/{}", made.nodes[2].peer_id));
    // As if it had been killed before the last node and the common file were written.
    std::fs::remove_file(dir.join("genesis.toml")).expect("it was there");
    std::fs::remove_dir_all(dir.join("node-3")).expect("it was there");
    let again = plan(&dir, Some(3), 21_000).expect("it is completed");
    assert_eq!((&again.federation, &again.nodes[..2]), (&made.federation, &made.nodes[..2]));
}

#[test]
fn nodes_take_their_places_in_the_record_at_the_same_time() {
    let temp = Temp::new();
    let dir = PathBuf::from(temp.path("net"));
    let made = plan(&dir, Some(4), 0).expect("it is made");
    let dir = dir.canonicalize().expect("it is there");
    assert_eq!(record::read(&dir).expect("no record is no error"), None);
    record::take_place(&made.nodes[0].dir, &made.nodes[0].peer_id).expect("no testnet runs, and that is no error");
    assert_eq!(record::read(&dir).expect("still none"), None);

    record::write(&dir, &made).expect("it is written");
    std::thread::scope(|scope| {
        for node in &made.nodes {
            scope.spawn(|| record::take_place(&node.dir, &node.peer_id).expect("it takes its place"));
        }
        for round in 0..50 {
            // A reader never sees half a file.
            assert!(record::read(&dir).expect("it is a record").is_some(), "{round}");
        }
    });
    let ours = Some(std::process::id());
    let now = record::read(&dir).expect("it is a record").expect("it is there");
    assert!(now.nodes.iter().all(|node| node.pid == ours));
    record::take_place(&made.nodes[0].dir, "somebody else").expect("that is no error");
    assert_eq!(record::read(&dir).expect("it is a record"), Some(now));

    std::fs::write(dir.join("testnet.json"), "{").expect("it can be written");
    assert_eq!(record::read(&dir).expect_err("it is damaged").code, "testnet-record");
}

#[test]
fn a_check_without_a_demo_and_a_full_directory_are_usage_errors() {
    let temp = Temp::new();
    std::fs::write(temp.path("file"), "").expect("it can be written");
    let (code, error) = json(&["demo", "--check", &temp.path("none")]);
    assert_eq!((code, &error["code"]), (2, &"no-demo".into()));
    let (code, error) = json(&["demo", "--keep", temp.0.path().to_str().expect("text")]);
    assert_eq!((code, &error["code"]), (2, &"not-empty".into()));
}
