//! The control socket: what only the node's operator may ask, who can open it.
//!
//! A running node holds its store alone, so whoever takes a backup of it asks the process. The rows come from a snapshot,
//! beside the core thread, which goes on writing. While one is being read the store does not use freed pages again, so
//! there is one at a time, and one that is not read is given up. The other question is whether the node closes
//! (`retiring.rs`).

use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use postroad_store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Shared, Word, retiring};
use crate::backup;
use crate::config::NodeDir;

/// What is asked for: the node's rows.
pub(crate) const BACKUP_REQUEST: &[u8; 8] = b"backup1\n";
/// Or that it closes; a [`Wish`](super::Wish) follows, as JSON, and a [`Word`](super::Word) comes back.
pub(crate) const RETIRE_REQUEST: &[u8; 8] = b"retire1\n";
/// The longest wish.
const MAX_WISH_BYTES: u64 = 4_096;
/// Between two attempts to take a connection, where the system refuses.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for the question, and for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the socket until the node stops. Without one a backup needs the node stopped, and that is all.
pub(super) async fn serve(dir: NodeDir, shared: Shared) {
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
            tracing::warn!(path, %error, "no control socket: no backup while this node runs, and it cannot be closed");
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
        let (shared, turns) = (shared.clone(), Arc::clone(&turns));
        tokio::spawn(async move {
            if let Err(error) = answer(stream, shared, turns).await {
                tracing::warn!(%error, "what was asked at the control socket was not answered to its end");
            }
        });
    }
}

async fn answer(mut stream: UnixStream, shared: Shared, turns: Arc<Semaphore>) -> std::io::Result<()> {
    let mut request = [0; BACKUP_REQUEST.len()];
    let asked = tokio::time::timeout(PATIENCE, stream.read_exact(&mut request)).await;
    if !matches!(asked, Ok(Ok(_))) {
        return Ok(());
    }
    match &request {
        BACKUP_REQUEST => back_up(stream, shared.store.clone(), turns).await,
        RETIRE_REQUEST => retire(stream, &shared).await,
        _ => Ok(()),
    }
}

async fn retire(mut stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut text = Vec::new();
    let mut limited = (&mut stream).take(MAX_WISH_BYTES);
    let read = tokio::time::timeout(PATIENCE, limited.read_to_end(&mut text)).await;
    read.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let word = match serde_json::from_slice(&text) {
        Ok(wish) => retiring::answer(shared, wish).await,
        Err(error) => Word::Refused(format!("that is no question: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&word)?).await?;
    stream.shutdown().await
}

async fn back_up(stream: UnixStream, store: Store, turns: Arc<Semaphore>) -> std::io::Result<()> {
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
