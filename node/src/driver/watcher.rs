//! The watcher: once a second it looks at the node as `/healthz` does, and says in the log what has changed.
//!
//! So an operator who reads only the log sees one line when something goes wrong and one when it is over, however long
//! it lasts.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Shared;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// The network's task is late enough to be told of, though the node is still healthy.
const LATE: Duration = Duration::from_secs(1);
/// The disk is nearly full: the store grows by large steps, and with the last of them the node can take nothing more.
const LOW_BYTES: u64 = 512 << 20;

/// Watches for ever. Nothing is said of a node that has not been healthy yet: its start is told of elsewhere.
pub(super) async fn run(shared: Shared, store: PathBuf) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known: BTreeMap<&'static str, String> = BTreeMap::new();
    let (mut was_healthy, mut was_late, mut was_low) = (false, false, false);
    loop {
        ticks.tick().await;
        let lag = shared.network.lag();
        let health = shared.metrics.pulse.health(lag);
        was_healthy |= health.healthy;
        if was_healthy {
            let now: BTreeMap<_, _> =
                health.reasons.into_iter().map(|because| (because.reason, because.detail)).collect();
            for (reason, detail) in now.iter().filter(|(reason, _)| !known.contains_key(*reason)) {
                tracing::warn!(reason, detail, epoch = health.epoch, "not healthy");
            }
            for reason in known.keys().filter(|reason| !now.contains_key(*reason)) {
                tracing::info!(reason, epoch = health.epoch, "no longer the case");
            }
            if !known.is_empty() && now.is_empty() {
                tracing::info!(epoch = health.epoch, "healthy again");
            }
            known = now;
        }
        if std::mem::replace(&mut was_late, lag > LATE) != was_late {
            match was_late {
                true => tracing::warn!(lag_seconds = lag.as_secs_f64(), "the network's task is late"),
                false => tracing::info!(lag_seconds = lag.as_secs_f64(), "the network's task is in time again"),
            }
        }
        let path = store.clone();
        if let Some(Some((store_bytes, free_bytes))) = shared.offload(move || disk(&path)).await {
            shared.metrics.disk(store_bytes, free_bytes);
            if std::mem::replace(&mut was_low, free_bytes < LOW_BYTES) != was_low {
                match was_low {
                    true => tracing::warn!(free_bytes, "the disk is nearly full"),
                    false => tracing::info!(free_bytes, "the disk has room again"),
                }
            }
        }
    }
}

/// The bytes that the store takes (it is a file, or a directory of files), and those that are free beside it.
fn disk(store: &Path) -> Option<(u64, u64)> {
    let taken = |meta: std::fs::Metadata| meta.blocks() * 512;
    let meta = std::fs::metadata(store).ok()?;
    let bytes = if meta.is_dir() {
        let files = std::fs::read_dir(store).ok()?;
        files.flatten().filter_map(|file| file.metadata().ok()).map(taken).sum()
    } else {
        taken(meta)
    };
    let free = rustix::fs::statvfs(store).ok()?;
    Some((bytes, free.f_bavail.saturating_mul(free.f_frsize)))
}
