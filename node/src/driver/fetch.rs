//! Fetching what this node lacks: slices from those who hold them, cuts from whoever has them.

use std::sync::Arc;
use std::time::Duration;

use postroad_engine::peers::rank_custodians;
use postroad_engine::serve::Unreadable;
use postroad_engine::{Held, Input};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{NodeId, Verified};

use super::calls::ask;
use super::core::ToCore;
use super::streams::StreamError;
use super::{Shared, moving};

/// How long one node has to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Nodes that are asked for a slice whose row is damaged, at most.
const MAX_SOURCES: usize = 8;
/// Between two attempts to get again what is damaged.
const AGAIN: Duration = Duration::from_millis(500);

/// Asks each source in turn, and tells the core.
pub(super) fn slice(shared: &Shared, key: SliceKey, sources: Vec<NodeId>) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move { find(&shared, key, sources).await });
}

async fn find(shared: &Shared, key: SliceKey, sources: Vec<NodeId>) {
    let mut found = None;
    for node in sources {
        let reply = tokio::time::timeout(PATIENCE, ask(shared, &node, &Question::Slice(key))).await;
        let Ok(Ok(Reply::Slice(parcel))) = reply else { continue };
        let federation = shared.federation.clone();
        let checked = shared.offload(move || Held::examine(*parcel, &federation)).await;
        let Some(checked) = checked else { continue };
        let checked = match checked {
            Ok(held) => Ok(held),
            Err((error, exhibit)) => {
                if let Some(exhibit) = exhibit {
                    shared.tell(ToCore::input(Input::Exhibit(exhibit))).await;
                }
                Err(error)
            }
        };
        match shared.metrics.checked("slice", checked) {
            Ok(held) if held.key == key => {
                found = Some(held);
                break;
            }
            Err(error) => tracing::warn!(peer = %node, %error, "a fetched slice does not verify"),
            Ok(_) => {}
        }
    }
    shared.tell(ToCore::input(Input::Fetched(key, found))).await;
}

/// Gets again what others have of what is damaged on this disk, so that who reads can go on.
///
/// # Errors
/// What nobody else has; the reader's stream ends.
pub(super) async fn mend(shared: &Shared, unreadable: Unreadable) -> Result<(), StreamError> {
    match unreadable {
        Unreadable::Cut(epoch, error) => {
            tracing::error!(%error, epoch, "nothing is served of this cut; it is asked for from other nodes");
            cut(shared, epoch).await;
        }
        Unreadable::Slice(key, error) => {
            tracing::error!(%error, "nothing is served of this slice; it is asked for from its holders and its origin");
            find(shared, *key, holders(shared, &key)).await;
        }
        Unreadable::Extract(key, mailbox, error) => {
            tracing::error!(%error, "nothing is served of this slice; others are asked for what it holds for the mailbox");
            for node in holders(shared, &key) {
                let asked = moving::extracted(shared, node, mailbox, &[*key]).await;
                let found = asked.map_or_else(Vec::new, |(_, found)| found);
                if !found.is_empty() {
                    shared.tell(ToCore::input(Input::Extracted(mailbox, node, vec![*key], found))).await;
                    break;
                }
            }
        }
        // The file is opened again when the disk has space.
        Unreadable::Store(error) if error.is_retryable() => {}
        Unreadable::Store(error) => return Err(error.into()),
    }
    // Where it is in now, the next cut finds it; where nobody had it, it is not asked for all the time.
    tokio::time::sleep(AGAIN).await;
    Ok(())
}

/// Who may have a slice: its destination, its origin, its custodians.
fn holders(shared: &Shared, key: &SliceKey) -> Vec<NodeId> {
    let view = shared.view.borrow();
    let deputies = view.head.node(&key.destination).map_or(&[][..], |node| &node.deputies);
    let started = view.head.nodes().filter(|(_, node)| node.incarnation > 0).map(|(node, _)| *node);
    let custodians = rank_custodians(&key.destination, deputies, started);
    let all = [key.destination, key.origin].into_iter().chain(custodians);
    all.filter(|node| *node != shared.me).take(MAX_SOURCES).collect()
}

/// Fetches one cut that was applied before.
pub(super) async fn cut(shared: &Shared, epoch: u64) {
    for node in nodes_with_cuts(shared) {
        let question = Question::Cuts(epoch.saturating_sub(1));
        let reply = tokio::time::timeout(PATIENCE, ask(shared, &node, &question)).await;
        let Ok(Ok(Reply::Cuts(cuts))) = reply else { continue };
        let Some(cut) = cuts.into_iter().next().filter(|cut| cut.certified.header.epoch == epoch) else { continue };
        let federation = shared.federation.clone();
        let checked = shared.offload(move || Verified::check(cut, &federation)).await;
        if let Some(Ok(cut)) = checked.map(|checked| shared.metrics.checked("cut", checked)) {
            shared.tell(ToCore::input(Input::Cut(Arc::new(cut)))).await;
            return;
        }
    }
}

/// The other nodes, the sequencer first.
fn nodes_with_cuts(shared: &Shared) -> Vec<NodeId> {
    let mut nodes = vec![shared.federation.sequencer()];
    nodes.extend(shared.view.borrow().head.nodes().map(|(node, _)| *node));
    nodes.extend(shared.known.keys().copied());
    let mut asked = std::collections::BTreeSet::from([shared.me]);
    nodes.retain(|node| asked.insert(*node));
    nodes
}

/// Fetches the cuts after `epoch` from the sequencer or any other node, and tells the core.
pub(super) fn cuts(shared: &Shared, epoch: u64) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let mut after = epoch;
        for node in nodes_with_cuts(&shared) {
            while let Ok(Ok(Reply::Cuts(cuts))) =
                tokio::time::timeout(PATIENCE, ask(&shared, &node, &Question::Cuts(after))).await
            {
                let before = after;
                for cut in cuts {
                    let federation = shared.federation.clone();
                    let checked = shared.offload(move || Verified::check(cut, &federation)).await;
                    let checked = checked.map(|checked| shared.metrics.checked("cut", checked));
                    let Some(Ok(cut)) = checked else { break };
                    after = after.max(cut.certified.header.epoch);
                    shared.tell(ToCore::input(Input::Cut(Arc::new(cut)))).await;
                }
                if after == before {
                    // It has no more, or none that holds.
                    break;
                }
            }
        }
        shared.tell(ToCore::input(Input::CutsFetched)).await;
    });
}
