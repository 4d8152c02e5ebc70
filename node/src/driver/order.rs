//! The order stream, from both ends: a node hands in headers, fills and records, and follows the cuts.

use std::time::Duration;

use postroad_engine::{Input, serve as rows};
use postroad_net::{Backoff, Stream, StreamReader};
use postroad_protocol::codec::decode;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};
use postroad_protocol::{NodeId, Verified, wire};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::core::{ToCore, ToFollower};
use super::offences::OFFENCE;
use super::streams::{StreamError, next_link, read, read_greeting, was_up, write, write_all};

/// Messages that wait for the sequencer, at most.
const MAX_QUEUED: usize = 4_096;
/// Messages that wait for one follower, at most; one that is further behind reads from disk again.
const MAX_FOLLOWER_QUEUED: usize = 512;
/// Cuts that a follower may be behind what was sent to it.
const CUT_CREDIT: u64 = 256;
/// How long a follower may apply nothing while it has no credit.
const STANDSTILL: Duration = Duration::from_secs(30);
/// The largest message of somebody who is no node yet: his record.
const MAX_NEWCOMER_BYTES: usize = 64 << 10;
/// Bytes of cuts read from disk at once.
const PAGE_BYTES: usize = 4 << 20;
/// Between two attempts to read cuts while the disk is full.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause between two dials.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Keeps the stream to the sequencer, for ever.
pub(super) async fn link(shared: Shared) {
    let mut backoff = Backoff::new(FIRST_PAUSE, shared.redial_cap, u64::from(shared.me.0[0]));
    loop {
        match follow(&shared).await {
            Err(StreamError::Stopping) => return,
            Err(error) => tracing::debug!(%error, "no stream to the sequencer"),
            Ok(()) => backoff.succeeded(),
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// One stream to the sequencer, from its opening to its end. `Ok` when it was up.
async fn follow(shared: &Shared) -> Result<(), StreamError> {
    let sequencer = shared.federation.sequencer();
    let stream = shared.open(&sequencer, wire::ORDER).await?;
    let (mut reader, mut writer) = stream.framed();
    let mut view = shared.view.clone();
    let epoch = view.borrow_and_update().head.epoch;
    write(&mut writer, &ToSequencer::Hello(shared.federation.id(), epoch)).await?;
    let FromSequencer::Hello(federation, epoch) = read_greeting(&mut reader, wire::MAX_ORDER_BYTES).await? else {
        return Err(StreamError::Unexpected("no greeting"));
    };
    if federation != shared.federation.id() {
        return Err(StreamError::Federation);
    }
    let link = next_link();
    let (sender, mut queue) = mpsc::channel(MAX_QUEUED);
    if !shared.tell(ToCore::SequencerUp(epoch, link, sender)).await {
        return Err(StreamError::Stopping);
    }
    let send = async {
        loop {
            tokio::select! {
                message = queue.recv() => {
                    let message = message.ok_or(StreamError::Ended)?;
                    write_all(&mut writer, &message, &mut queue).await?;
                }
                changed = view.changed() => {
                    changed.map_err(|_| StreamError::Stopping)?;
                    let epoch = view.borrow_and_update().head.epoch;
                    write(&mut writer, &ToSequencer::Applied(epoch)).await?;
                }
            }
        }
    };
    let ended: Result<(), StreamError> = tokio::select! {
        ended = send => ended,
        ended = take_cuts(shared, &mut reader) => ended,
    };
    let _ = shared.tell(ToCore::SequencerDown(link)).await;
    was_up(&sequencer, ended)
}

async fn take_cuts(shared: &Shared, reader: &mut StreamReader) -> Result<(), StreamError> {
    loop {
        let bytes = reader.read(wire::MAX_ORDER_BYTES).await?.ok_or(StreamError::Ended)?;
        let input = match decode(&bytes)? {
            FromSequencer::Hello(..) => return Err(StreamError::Unexpected("a second greeting")),
            FromSequencer::Cut(cut) => match check(shared, "cut", *cut).await {
                Ok(cut) => Input::Cut(Arc::new(cut)),
                Err(error) => {
                    // It may be certified all the same.
                    if let (StreamError::Verify(_), Ok(FromSequencer::Cut(cut))) = (&error, decode(&bytes)) {
                        shared.tell(ToCore::input(Input::UnsoundCut(cut))).await;
                    }
                    return Err(error);
                }
            },
            FromSequencer::Rejected(digest, reason) => Input::Rejected(digest, reason),
            FromSequencer::Busy(digest) => Input::Deferred(digest),
        };
        if !shared.tell(ToCore::input(input)).await {
            return Err(StreamError::Stopping);
        }
    }
}

/// Serves one follower, on the sequencer's node.
pub(super) async fn serve(shared: Shared, node: NodeId, stream: Stream) -> Result<(), StreamError> {
    let (mut reader, mut writer) = stream.framed();
    let ToSequencer::Hello(federation, epoch) = read_greeting(&mut reader, 1_024).await? else {
        return Err(StreamError::Unexpected("no greeting"));
    };
    if federation != shared.federation.id() {
        return Err(StreamError::Federation);
    }
    if shared.federation.sequencer() != shared.me {
        return Err(StreamError::Unexpected("this node is not the sequencer"));
    }
    let head = shared.view.borrow().head.epoch;
    write(&mut writer, &FromSequencer::Hello(shared.federation.id(), head)).await?;
    let link = next_link();
    // From here on new cuts wait in the queue; those before are read from disk first.
    let (sender, queue) = mpsc::channel(MAX_FOLLOWER_QUEUED);
    if !shared.tell(ToCore::FollowerUp(node, link, sender)).await {
        return Err(StreamError::Stopping);
    }
    let (applied, credit) = watch::channel(epoch);
    let ended = tokio::select! {
        ended = send_cuts(&shared, epoch, credit, queue, &mut writer) => ended,
        ended = take_in(&shared, node, &mut reader, applied) => ended,
    };
    let _ = shared.tell(ToCore::FollowerDown(node, link)).await;
    if let Err(StreamError::Verify(_)) = &ended {
        shared.offended(node, OFFENCE).await?;
    }
    ended
}

async fn send_cuts(
    shared: &Shared,
    mut sent: u64,
    mut credit: watch::Receiver<u64>,
    mut queue: mpsc::Receiver<ToFollower>,
    writer: &mut postroad_net::StreamWriter,
) -> Result<(), StreamError> {
    loop {
        let store = shared.store.clone();
        let page = shared.offload(move || store.snapshot().and_then(|rows| rows::cuts(&rows, sent, PAGE_BYTES)));
        let cuts = match page.await.ok_or(StreamError::Stopping)? {
            // The file is opened again when the disk has space.
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(UNREADABLE_PAUSE).await;
                continue;
            }
            page => page?,
        };
        if cuts.is_empty() {
            break;
        }
        for cut in cuts {
            sent = cut.certified.header.epoch;
            write(writer, &FromSequencer::Cut(Box::new(cut))).await?;
            has_credit(&mut credit, sent).await?;
        }
    }
    while let Some(message) = queue.recv().await {
        match message {
            ToFollower::Cut(epoch, _) if epoch <= sent => {}
            ToFollower::Cut(epoch, bytes) => {
                has_credit(&mut credit, epoch).await?;
                sent = epoch;
                writer.send(&bytes).await?;
            }
            ToFollower::Rejected(digest, reason) => write(writer, &FromSequencer::Rejected(digest, reason)).await?,
            ToFollower::Busy(digest) => write(writer, &FromSequencer::Busy(digest)).await?,
        }
    }
    Err(StreamError::Ended)
}

/// Waits until the follower has applied enough of what it was sent. One that stands still loses its stream, and begins
/// again where it stands.
async fn has_credit(credit: &mut watch::Receiver<u64>, epoch: u64) -> Result<(), StreamError> {
    let enough = credit.wait_for(|applied| applied.saturating_add(CUT_CREDIT) >= epoch);
    match tokio::time::timeout(STANDSTILL, enough).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(StreamError::Ended),
        Err(_) => Err(StreamError::Unexpected("no cut is applied any more")),
    }
}

/// Verifies what a node hands in, off the reactor threads.
async fn check<T: Verify + Send + 'static>(
    shared: &Shared,
    kind: &'static str,
    value: T,
) -> Result<Verified<T>, StreamError> {
    let federation = shared.federation.clone();
    let verified = shared.offload(move || Verified::check(value, &federation)).await;
    Ok(shared.metrics.checked(kind, verified.ok_or(StreamError::Stopping)?)?)
}

async fn take_in(
    shared: &Shared,
    node: NodeId,
    reader: &mut StreamReader,
    applied: watch::Sender<u64>,
) -> Result<(), StreamError> {
    loop {
        let known = shared.view.borrow().head.node(&node).is_some();
        let input = match read(reader, if known { wire::MAX_ORDER_BYTES } else { MAX_NEWCOMER_BYTES }).await? {
            ToSequencer::Hello(..) => return Err(StreamError::Unexpected("a second greeting")),
            ToSequencer::Applied(epoch) => {
                applied.send_replace(epoch);
                continue;
            }
            ToSequencer::Sealed(sealed) => Input::Sealed(Some(node), Box::new(check(shared, "header", *sealed).await?)),
            ToSequencer::Fill(fill) => Input::Fill(node, Box::new(check(shared, "fill", *fill).await?)),
            ToSequencer::Record(record) => Input::Record(node, Box::new(check(shared, "record", *record).await?)),
        };
        if !shared.tell(ToCore::input(input)).await {
            return Err(StreamError::Stopping);
        }
    }
}
