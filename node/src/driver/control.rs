//! The control socket: a running node holds its store alone, so whoever takes a backup of it asks the process.
//!
//! The rows come from a snapshot, beside the core thread, which goes on writing. While one is being read the store does
//! not use freed pages again, so there is one at a time, and one that is not read is given up.

use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use postroad_store::Store;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::backup;
use crate::config::NodeDir;

/// What is asked for.
pub(crate) const BACKUP_REQUEST: &[u8; 8] = b"backup1\n";
/// Between two attempts to take a connection, where the system refuses.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for the question, and for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the socket until the node stops. Without one a backup needs the node stopped, and that is all.
pub(super) async fn serve(dir: NodeDir, store: Store) {
    let path = dir.control();
    // What an earlier process left there; this one has the directory.
    let _ = std::fs::remove_file(&path);
    let bound = UnixListener::bind(&path).and_then(|socket| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    });
    let socket = match bound {
        Ok(socket) => socket,
        Err(error) => {
            let path = path.display().to_string();
            tracing::warn!(path, %error, "no control socket: a backup can be taken only while this node is stopped");
            return;
        }
    };
    let turns = Arc::new(Semaphore::new(1));
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            // Too many open files, and the like: not at full speed.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (store, turns) = (store.clone(), Arc::clone(&turns));
        tokio::spawn(async move {
            if let Err(error) = answer(stream, store, turns).await {
                tracing::warn!(%error, "a backup was not taken to its end");
            }
        });
    }
}

async fn answer(mut stream: UnixStream, store: Store, turns: Arc<Semaphore>) -> std::io::Result<()> {
    let mut request = [0; BACKUP_REQUEST.len()];
    let asked = tokio::time::timeout(PATIENCE, stream.read_exact(&mut request)).await;
    if !matches!(asked, Ok(Ok(_))) || request != *BACKUP_REQUEST {
        return Ok(());
    }
    let turn = turns.try_acquire_owned();
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let sent = tokio::task::spawn_blocking(move || {
        let to = BufWriter::with_capacity(1 << 18, stream);
        if turn.is_err() {
            return backup::send(Err("another backup is being taken".into()), to);
        }
        match store.snapshot() {
            Ok(rows) => backup::send(Ok(&rows), to),
            Err(error) => backup::send(Err(error.to_string()), to),
        }
    });
    sent.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
