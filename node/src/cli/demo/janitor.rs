//! Who removes a demo's temporary directory when the demo itself is killed and cannot.
//!
//! A process of its own that waits for its standard input to end, as all children of a demo do, and then removes the
//! directory until it stays away: nodes that are still draining may write to it once more.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};

/// Nodes have drained after this.
const LINGER: Duration = Duration::from_secs(15);
/// So long without the directory, and nobody makes it again.
const QUIET: Duration = Duration::from_secs(5);

/// Waits for the end of the demo, then removes `dir`.
pub async fn sweep_after(dir: &Path) {
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    while matches!(input.read(&mut bytes).await, Ok(count) if count > 0) {}
    let started = Instant::now();
    let mut gone_since = started;
    while started.elapsed() < LINGER && gone_since.elapsed() < QUIET {
        if dir.exists() {
            // What is written meanwhile makes this fail; the next round gets it.
            let _ = std::fs::remove_dir_all(dir);
            gone_since = Instant::now();
        }
        sleep(Duration::from_millis(100)).await;
    }
}
