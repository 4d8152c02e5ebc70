//! Other implementations of libp2p against a node: what `tests/interop/` does with js-libp2p and py-libp2p, over TCP, Noise
//! and Yamux. Where they cannot be installed, the test says so and asks nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use crate::net::{Net, signal};

/// How long an installation may take; with what is cached, seconds.
const INSTALLATION: Duration = Duration::from_secs(240);
/// How long a script may take.
const RUN: Duration = Duration::from_secs(120);

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop").join(language)
}

/// A folder for what is installed, which later runs find again.
fn installed(language: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop").join(language);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs a command to its end, or kills it; `None` where there is no such program, or it took too long.
fn within(time: Duration, command: &mut Command) -> Option<Output> {
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().ok()?;
    let pid = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(time) {
        Ok(output) => output.ok(),
        Err(_) => {
            signal(pid, "KILL");
            None
        }
    }
}

/// Whether a step of an installation went well; tells if not.
fn step(what: &str, command: &mut Command) -> bool {
    match within(INSTALLATION, command) {
        Some(output) if output.status.success() => true,
        Some(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("skipped: {what} fails: {}", said.lines().last().unwrap_or("without a word"));
            false
        }
        None => {
            println!("skipped: {what} cannot be run, or does not end");
            false
        }
    }
}

/// Runs a script against a node, and looks at what it found.
fn meet(script: &mut Command) {
    let net = Net::start(1);
    let output = within(RUN, script.arg(net.addr(1))).expect("the script ends");
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{told}");
    let found: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
    println!("{found}");
    assert_eq!(found["agentVersion"], format!("postroad/{}", found["version"].as_str().expect("a version")));
    assert!(found["epoch"].is_u64());
}

#[test]
fn js_libp2p_speaks_with_a_node() {
    let folder = installed("js");
    for file in ["package.json", "interop.mjs", "node20.mjs"] {
        std::fs::copy(sources("js").join(file), folder.join(file)).expect("a copy");
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]).current_dir(&folder);
    if step("npm install", &mut npm) {
        meet(Command::new("node").arg("interop.mjs").current_dir(&folder));
    }
}

#[test]
fn py_libp2p_speaks_with_a_node() {
    let folder = installed("py");
    let python = folder.join("venv/bin/python");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "-r"]).arg(sources("py").join("requirements.txt"));
    let venv = python.exists()
        || step("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")));
    if venv && step("pip install", &mut pip) {
        meet(Command::new(&python).arg(sources("py").join("interop.py")));
    }
}
