//! The inputs in `fuzz/corpus/` through the fuzzers' bodies, on every run.
//!
//! They come from the golden vectors of the protocol, and from what a fuzzer has found. A new vector has an input when
//! `POSTROAD_BLESS=1 cargo test -p postroad-tests --test corpora` was run. How to fuzz on: `fuzz/README.md`.

use std::path::{Path, PathBuf};

use peak_alloc::PeakAlloc;
use postroad_tests::fuzz::{TARGETS, kind_of};

/// What the bodies take is measured.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// `name hex`, line by line.
fn vectors(file: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/testdata").join(file);
    let text = std::fs::read_to_string(&path).expect("the golden vectors");
    let line = |line: &str| {
        let (name, hex) = line.split_once(' ').expect("a name and hex");
        (name.to_owned(), hex::decode(hex).expect("hex"))
    };
    text.lines().map(line).collect()
}

/// The corpus's inputs that follow from the golden vectors: target, file, bytes.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, bytes) in vectors("structures.hex").into_iter().chain(vectors("wire.hex")) {
        let row = match name.as_str() {
            "state-node" => Some(6),
            "state-mailbox" => Some(7),
            "state-pending" => Some(8),
            "challenged" => Some(12),
            "state-move" => Some(15),
            name if name.starts_with("state-mailbox-") => Some(7),
            _ => None,
        };
        let (target, kind) = match (row, kind_of(&name)) {
            (Some(row), _) => ("rows", row),
            (None, Some(kind)) => ("statements", kind),
            (None, None) => continue,
        };
        seeds.push((target, name.replace('/', "-"), [vec![kind], bytes].concat()));
    }
    for (name, bytes) in vectors("statements.hex") {
        // A statement is its body and its signature, which have lines of their own.
        if let Some(kind) = name.strip_suffix(".body").filter(|name| kind_of(name).is_some())
            && let Some((_, signature)) =
                vectors("statements.hex").into_iter().find(|(other, _)| *other == format!("{kind}.signature"))
            && ["attestation", "acknowledgement", "custody-request", "challenge", "lost", "block-list", "handoff"]
                .contains(&kind)
        {
            let signed =
                [&[kind_of(kind).expect("a kind"), 0x82], bytes.as_slice(), &[0x58, 0x40], &signature].concat();
            seeds.push(("statements", kind.to_owned(), signed));
        }
    }
    for (name, bytes) in vectors("files.hex") {
        match name.as_str() {
            "genesis.toml" => seeds.push(("genesis", "golden".into(), bytes)),
            "message.proof" => seeds.push(("proof", "golden".into(), bytes)),
            _ => {}
        }
    }
    let config = postroad::config::render(&postroad::config::NodeConfig::default());
    seeds.push(("config", "default".into(), format!("# limits.max_clients = 12\n{config}").into_bytes()));
    seeds
}

#[test]
fn every_golden_vector_has_an_input() {
    let bless = std::env::var_os("POSTROAD_BLESS").is_some();
    for (target, name, bytes) in seeds() {
        let path = folder(target).join(&name);
        if bless {
            std::fs::create_dir_all(folder(target)).expect("a folder");
            std::fs::write(&path, bytes).expect("a file");
            continue;
        }
        let known = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(known == bytes, "{}: POSTROAD_BLESS=1 writes it anew", path.display());
    }
}

/// Each input as it is, and cut, and with every bit of some bytes flipped: what a fuzzer would try first.
#[test]
fn no_input_breaks_what_must_hold() {
    for target in &TARGETS {
        let mut inputs = 0;
        let entries = std::fs::read_dir(folder(target.name)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        for entry in entries {
            let input = std::fs::read(entry.expect("an entry").path()).expect("an input");
            inputs += 1;
            target.run(&input);
            let stride = input.len() / 24 + 1;
            for at in (0..input.len()).step_by(stride) {
                target.run(&input[..at]);
                let mut flipped = input.clone();
                flipped[at] ^= 1 << (at % 8);
                target.run(&flipped);
            }
        }
        assert!(inputs > 0, "{} has no inputs", target.name);
        println!("{}: {inputs} inputs", target.name);
    }
    assert!(ALLOCATOR.current_usage() > 0, "what the bodies take was measured");
}
