//! The table of a run, and the same as JSON.

use serde_json::{Value, json};

use super::limits::Limits;
use super::phase::Figures;
use super::workload::Workload;
use super::{Args, Sign};
use crate::cli::output::{CliError, Output};

const HEAD: &str = concat!(
    "load   offered accepted  ordered delivered  p50 ms  p99 ms p99.9 ms  cpu µs core µs client µs core busy",
    "   disk B  wire B  RSS MiB  x verify x batch  / sync",
);

/// Prints one work load.
///
/// # Errors
/// If standard output is closed.
pub fn print(
    load: &Workload,
    args: &Args,
    nodes: u16,
    limits: &Limits,
    measured: &[Figures],
    output: &Output,
) -> Result<(), CliError> {
    let signed = match args.sign {
        Sign::Ahead => "ahead",
        Sign::Live => "live",
    };
    let mut text = format!(
        "{}: {}; {nodes} node{}, {} clients, signed {signed}; payloads are not sealed, clients verify no proofs\n\
         machine: {:.0} verifications/s, {:.0} batched, {:.0} signatures/s (one thread each), {:.0} fdatasync/s\n{HEAD}",
        load.name,
        load.about,
        if nodes == 1 { "" } else { "s" },
        args.clients,
        limits.verifications,
        limits.batched_verifications,
        limits.signatures,
        limits.syncs,
    );
    for figures in measured {
        text.push('\n');
        text.push_str(&row(figures, limits));
    }
    let mut remarks = Vec::new();
    for figures in measured {
        let Figures { load, missing, duplicate, wrong, busy, signed_live, other_cpus, .. } = figures;
        if missing + duplicate + wrong > 0 {
            remarks.push(format!("{load}: {missing} deliveries missing, {duplicate} double, {wrong} different"));
        }
        if *busy > 0 {
            remarks.push(format!("{load}: {busy} bundles came again, because a node was busy"));
        }
        if args.sign == Sign::Ahead && *signed_live > 0 {
            remarks.push(format!("{load}: {signed_live} bundles were signed as they were sent"));
        }
        if *other_cpus > 0.1 {
            remarks.push(format!("{load}: other processes kept {other_cpus:.1} CPUs busy"));
        }
    }
    for remark in remarks {
        text.push_str("\n  ");
        text.push_str(&remark);
    }
    text.push('\n');
    let phases: Vec<Value> = measured.iter().map(|figures| with_ratios(figures, limits)).collect();
    let json = json!({
        "type": "bench", "workload": load.name, "about": load.about, "nodes": nodes, "clients": args.clients,
        "seconds": args.seconds, "signed": signed, "sealed": false, "proofs_verified": false, "limits": limits,
        "phases": phases,
    });
    output.emit(&json, &text)
}

fn row(figures: &Figures, limits: &Limits) -> String {
    let Figures { load, offered, accepted, ordered, delivered, latency, .. } = figures;
    let offered = offered.map_or_else(|| "-".into(), |rate| format!("{rate:.0}"));
    format!(
        "{load:<5} {offered:>8} {accepted:>8.0} {ordered:>8.0} {delivered:>9.0} {:>7.1} {:>7.1} {:>8.1} {:>7.0} {:>7.0} {:>9.0} {:>9.2} {:>8.0} {:>7.0} {:>8.0} {:>9.3} {:>7.3} {:>7.2}",
        latency.p50_ms,
        latency.p99_ms,
        latency.p999_ms,
        figures.node_cpu_us,
        figures.core_cpu_us,
        figures.client_cpu_us,
        figures.core_busy,
        figures.disk_bytes,
        figures.wire_bytes,
        figures.resident_bytes as f64 / f64::from(1 << 20),
        delivered / limits.verifications,
        delivered / limits.batched_verifications,
        delivered / limits.syncs,
    )
}

/// The figures with delivered messages per second as multiples of what the machine can do.
fn with_ratios(figures: &Figures, limits: &Limits) -> Value {
    let mut value = json!(figures);
    value["ratios"] = json!({
        "to_verifications": figures.delivered / limits.verifications,
        "to_batched_verifications": figures.delivered / limits.batched_verifications,
        "to_syncs": figures.delivered / limits.syncs,
    });
    value
}
