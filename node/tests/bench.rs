//! `postroad bench` as a process: that it measures what it says, on nodes of its own, and that nothing is lost.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_run_delivers_everything_and_fills_its_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_postroad"))
        .args(["--json", "bench", "--quick", "--dir"])
        .arg(dir.path())
        .output()
        .expect("the command starts");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect();
    let [run] = lines.as_slice() else { panic!("one line for one work load: {text}") };
    assert_eq!((&run["type"], &run["workload"], &run["nodes"]), (&"bench".into(), &"W1".into(), &1.into()));
    for limit in ["verifications", "batched_verifications", "signatures", "syncs"] {
        assert!(run["limits"][limit].as_f64().is_some_and(|rate| rate > 1.0), "{limit}: {run}");
    }
    let phases = run["phases"].as_array().expect("phases");
    let loads: Vec<&Value> = phases.iter().map(|phase| &phase["load"]).collect();
    assert_eq!(loads, ["max", "half", "low"]);
    for phase in phases {
        for none in ["missing", "duplicate", "wrong"] {
            assert_eq!(phase[none], 0, "{none}: {phase}");
        }
        for some in ["sent", "accepted", "ordered", "delivered", "client_bytes", "resident_bytes", "written_bytes"] {
            assert!(phase[some].as_f64().is_some_and(|count| count > 0.0), "{some}: {phase}");
        }
        assert!(phase["latency"]["samples"].as_u64().is_some_and(|samples| samples > 0), "{phase}");
        assert!(phase["latency"]["p99_ms"].as_f64() >= phase["latency"]["p50_ms"].as_f64(), "{phase}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the directory is there").collect();
    assert!(left.is_empty(), "{left:?}");
}
