//! Holder tasks: one per other node, each with a long-lived stream on which this node's slices go out and receipts come
//! back. Bytes go out against the credit that the holder grants from what it has made durable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postroad_engine::Input;
use postroad_net::{Backoff, StreamReader};
use postroad_protocol::codec::encode;
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::{NodeId, Verified, wire};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::core::ToCore;
use super::streams::{StreamError, next_link, read, read_greeting, was_up, write};
use super::{Shared, evidence, peer_of};

/// Messages that wait for one holder, at most; the engine bounds their bytes.
const MAX_QUEUED: usize = 4_096;
/// How long a holder may grant nothing while it holds up the next slice.
const STANDSTILL: Duration = Duration::from_secs(30);
/// The shortest pause between two dials.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Starts a task for every other node of the directory, and tells the network which peers are nodes.
pub(super) async fn peers(shared: Shared) {
    let mut view = shared.view.clone();
    let mut tasks = JoinSet::new();
    let mut started = BTreeSet::new();
    let mut shunned = Arc::default();
    loop {
        let (nodes, shuns): (Vec<NodeId>, _) = {
            let view = view.borrow_and_update();
            (view.head.nodes().map(|(node, _)| *node).collect(), Arc::clone(&view.shunned))
        };
        let mut changed = !Arc::ptr_eq(&shunned, &shuns);
        for peer in shuns.difference(&shunned).filter_map(peer_of) {
            tracing::warn!(%peer, "no contact with this node any more, by the operator's policy");
            shared.network.disconnect(peer).await;
        }
        shunned = shuns;
        for node in nodes.into_iter().chain([shared.federation.sequencer()]) {
            if node != shared.me && started.insert(node) {
                changed = true;
                tasks.spawn(hold(shared.clone(), node));
            }
        }
        if changed {
            shared.network.set_trusted(started.difference(&shunned).filter_map(peer_of)).await;
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps a stream to one node, for ever.
async fn hold(shared: Shared, node: NodeId) {
    let mut backoff = Backoff::new(FIRST_PAUSE, shared.redial_cap, u64::from_be_bytes(seed(&node)));
    loop {
        match stream(&shared, node).await {
            Err(StreamError::Stopping) => return,
            Err(error) => tracing::debug!(peer = %node, %error, "no stream to a holder"),
            Ok(()) => backoff.succeeded(),
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

fn seed(node: &NodeId) -> [u8; 8] {
    let mut seed = [0; 8];
    seed.copy_from_slice(&node.0[..8]);
    seed
}

/// One stream, from its opening to its end. `Ok` when it was up.
async fn stream(shared: &Shared, node: NodeId) -> Result<(), StreamError> {
    if shared.shuns(&node) {
        return Err(StreamError::Shunned);
    }
    let stream = shared.open(&node, wire::MAIL).await?;
    let (mut reader, mut writer) = stream.framed();
    write(&mut writer, &Outward::Hello(shared.federation.id())).await?;
    let Homeward::Hello(federation, credit) = read_greeting(&mut reader, wire::MAX_MAIL_BYTES).await? else {
        return Err(StreamError::Unexpected("no greeting"));
    };
    if federation != shared.federation.id() {
        return Err(StreamError::Federation);
    }
    let link = next_link();
    let (sender, mut queue) = mpsc::channel(MAX_QUEUED);
    if !shared.tell(ToCore::HolderUp(node, link, sender)).await {
        return Err(StreamError::Stopping);
    }
    let granted = watch::Sender::new(0_u64);
    let mut grants = granted.subscribe();
    let send = async {
        let window = credit.min(shared.max_peer_bytes);
        let mut sent: u64 = 0;
        while let Some(message) = queue.recv().await {
            let bytes = encode(&message);
            if matches!(message, Outward::Slice(_)) {
                // One slice may go beyond the credit, so that the largest slice fits any window.
                if sent.saturating_sub(*grants.borrow_and_update()) >= window {
                    writer.flush().await?;
                    let more = grants.wait_for(|granted| sent.saturating_sub(*granted) < window);
                    tokio::time::timeout(STANDSTILL, more)
                        .await
                        .map_err(|_| StreamError::Silent)?
                        .map_err(|_| StreamError::Ended)?;
                }
                sent += bytes.len() as u64;
            }
            writer.feed(&bytes).await?;
            if queue.is_empty() {
                writer.flush().await?;
            }
        }
        Err(StreamError::Ended)
    };
    let ended = tokio::select! {
        ended = send => ended,
        ended = receive(shared, node, &mut reader, &granted) => ended,
        ended = evidence::spread(shared, node) => ended,
    };
    let _ = shared.tell(ToCore::HolderDown(node, link)).await;
    was_up(&node, ended)
}

async fn receive(
    shared: &Shared,
    node: NodeId,
    reader: &mut StreamReader,
    granted: &watch::Sender<u64>,
) -> Result<(), StreamError> {
    loop {
        let input = match read(reader, wire::MAX_MAIL_BYTES).await? {
            Homeward::Hello(..) => return Err(StreamError::Unexpected("a second greeting")),
            Homeward::Credit(bytes) => {
                granted.send_modify(|granted| *granted = granted.saturating_add(bytes));
                continue;
            }
            Homeward::Receipts(receipts) => {
                // The receipts of one disk sync share one signature.
                let federation = shared.federation.clone();
                let verified = shared.offload(move || Verified::check_all(receipts, &federation)).await;
                let verified = verified.ok_or(StreamError::Stopping)?;
                let verified = verified.into_iter().map(|receipt| shared.metrics.checked("receipt", receipt));
                Input::Receipts(node, verified.collect::<Result<_, _>>()?)
            }
            Homeward::Missing(key) => Input::Missing(node, key),
            Homeward::Refused(key, reason) => Input::NotTaken(node, key, reason),
            Homeward::Ready(ready) => Input::Ready(node, ready),
        };
        if !shared.tell(ToCore::input(input)).await {
            return Err(StreamError::Stopping);
        }
    }
}
