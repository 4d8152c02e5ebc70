//! Inbound streams go to their tasks here; and typed messages over framed streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use minicbor::{Decode, Encode};
use postroad_net::{Event, FrameError, StreamReader, StreamWriter};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::{DecodeError, NodeId, wire};
use tokio::sync::{Semaphore, mpsc};

use super::core::LinkId;
use super::{MAX_CALLS, Shared, calls, clients, node_of, order, origins};

/// How long to wait for the first message of a stream, and for opening one.
pub(super) const GREETING: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Verify(#[from] postroad_protocol::VerifyError),
    #[error(transparent)]
    Open(#[from] postroad_net::OpenError),
    #[error(transparent)]
    Connect(#[from] postroad_net::ConnectError),
    #[error(transparent)]
    Store(#[from] postroad_store::StoreError),
    #[error("no greeting within ten seconds")]
    Silent,
    #[error("the peer belongs to another federation")]
    Federation,
    #[error("out of turn: {0}")]
    Unexpected(&'static str),
    #[error("the stream has ended")]
    Ended,
    #[error("no contact with this node, by its operator's policy")]
    Shunned,
    #[error("the node is stopping")]
    Stopping,
}

/// A number that no other stream of this process has.
pub(super) fn next_link() -> LinkId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the end of a stream that was up means to the task that keeps one: to open another, unless the node is stopping.
pub(super) fn was_up(node: &NodeId, ended: Result<(), StreamError>) -> Result<(), StreamError> {
    match ended {
        Err(StreamError::Stopping) => Err(StreamError::Stopping),
        Err(error) => {
            tracing::debug!(peer = %node, %error, "a stream to a node has ended");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Reads one message; [`StreamError::Ended`] at the stream's clean end.
pub(super) async fn read<T>(reader: &mut StreamReader, max_bytes: usize) -> Result<T, StreamError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    match reader.read(max_bytes).await? {
        Some(bytes) => Ok(decode(&bytes)?),
        None => Err(StreamError::Ended),
    }
}

/// Reads a stream's first message.
pub(super) async fn read_greeting<T>(reader: &mut StreamReader, max_bytes: usize) -> Result<T, StreamError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    tokio::time::timeout(GREETING, read(reader, max_bytes)).await.map_err(|_| StreamError::Silent)?
}

/// Writes one message.
pub(super) async fn write<T: Encode<()>>(writer: &mut StreamWriter, message: &T) -> Result<(), StreamError> {
    Ok(writer.send(&encode(message)).await?)
}

/// Writes `first` and everything else that waits in `queue`, with one flush.
pub(super) async fn write_all<T: Encode<()>>(
    writer: &mut StreamWriter,
    first: &T,
    queue: &mut mpsc::Receiver<T>,
) -> Result<(), StreamError> {
    writer.feed(&encode(first)).await?;
    while let Ok(next) = queue.try_recv() {
        writer.feed(&encode(&next)).await?;
    }
    Ok(writer.flush().await?)
}

/// Hands inbound streams to tasks of their own. It does nothing that could take long.
pub(super) async fn accept(shared: Shared, mut events: mpsc::Receiver<Event>, max_clients: usize) {
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    let clients = Arc::new(Semaphore::new(max_clients));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(event) = event else { return };
        let Event::Inbound { peer, protocol, stream } = event else { continue };
        let Some(node) = node_of(&peer) else { continue };
        // Of those with whom there is no contact, calls alone: what was taken for them is still handed out.
        if shared.offences.is_barred(&node) || (protocol != wire::CALL && shared.shuns(&node)) {
            continue;
        }
        let shared = shared.clone();
        let stream = shared.meter(&node, stream);
        match protocol {
            wire::MAIL => {
                tasks.spawn(log(origins::serve(shared, node, stream)));
            }
            wire::ORDER => {
                tasks.spawn(log(order::serve(shared, node, stream)));
            }
            wire::CLIENT => {
                if let Ok(permit) = Arc::clone(&clients).try_acquire_owned() {
                    tasks.spawn(log(async move {
                        let _permit = permit;
                        clients::serve(shared, node, stream).await
                    }));
                }
            }
            wire::CALL => {
                if let Ok(permit) = Arc::clone(&calls).try_acquire_owned() {
                    tasks.spawn(log(async move {
                        let _permit = permit;
                        calls::serve(shared, node, stream).await
                    }));
                }
            }
            _ => {}
        }
    }
}

async fn log(task: impl Future<Output = Result<(), StreamError>>) {
    match task.await {
        Ok(()) | Err(StreamError::Ended | StreamError::Stopping) => {}
        Err(error @ StreamError::Store(_)) => tracing::error!(%error, "a stream was closed: its rows cannot be read"),
        Err(error) => tracing::debug!(%error, "a stream was closed"),
    }
}
