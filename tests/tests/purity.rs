//! `protocol` and `engine` stay pure: their dependencies are these and no others, and their sources name nothing that
//! has a clock, a thread, a file, a socket or an order of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `protocol` may depend on, however far down. No runtime, no sockets, no files, no clock, no random numbers:
/// `rand_core` is there for its traits, which ed25519-zebra's batches take, without the system's entropy.
const PROTOCOL: &[&str] = &[
    "allocator-api2",
    "block-buffer",
    "bs58",
    "cfg-if",
    "const-oid",
    "cpufeatures",
    "crypto-common",
    "curve25519-dalek",
    "curve25519-dalek-derive",
    "digest",
    "ed25519",
    "ed25519-dalek",
    "ed25519-zebra",
    "equivalent",
    "foldhash",
    "hashbrown",
    "hex",
    "hybrid-array",
    "minicbor",
    "minicbor-derive",
    "postroad-protocol",
    "proc-macro2",
    "quote",
    "rand_core",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_spanned",
    "sha2",
    "signature",
    "subtle",
    "syn",
    "thiserror",
    "thiserror-impl",
    "toml",
    "toml_datetime",
    "toml_parser",
    "toml_writer",
    "typenum",
    "unicode-ident",
    "winnow",
    "zeroize",
    "zeroize_derive",
];

/// What `engine` adds: the store's interface, without a back end that has a disk.
const ENGINE: &[&str] = &["crc32fast", "postroad-engine", "postroad-store"];

/// What their sources do not name.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "HashMap",
    "HashSet",
    "println!",
    "async fn",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}", "--locked"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn only(package: &str, allowed: &BTreeSet<&str>) {
    let found = dependencies(package);
    assert!(found.contains(package));
    let extra: Vec<&String> = found.iter().filter(|name| !allowed.contains(name.as_str())).collect();
    assert!(extra.is_empty(), "{package} depends on {extra:?}: is it pure? then add it to the list, with the reason");
}

#[test]
fn protocol_depends_on_nothing_impure() {
    only("postroad-protocol", &PROTOCOL.iter().copied().collect());
}

#[test]
fn engine_depends_on_nothing_impure() {
    only("postroad-engine", &PROTOCOL.iter().chain(ENGINE).copied().collect());
}

#[test]
fn sources_name_nothing_impure() {
    let mut folders = vec![workspace().join("protocol/src"), workspace().join("engine/src")];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let found = IMPURE.iter().find(|name| line.contains(**name));
                assert!(found.is_none(), "{}:{} names {}", path.display(), at + 1, found.unwrap_or(&""));
            }
            read += 1;
        }
    }
    assert!(read > 20, "only {read} files were read");
}
