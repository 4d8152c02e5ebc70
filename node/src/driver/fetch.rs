//! Fetching what this node lacks: slices from those who hold them, cuts from whoever has them.

use std::sync::Arc;
use std::time::Duration;

use postroad_engine::{Held, Input};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{NodeId, Verified};

use super::Shared;
use super::calls::ask;
use super::core::ToCore;

/// How long one node has to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks each source in turn, and tells the core.
pub(super) fn slice(shared: &Shared, key: SliceKey, sources: Vec<NodeId>) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let mut found = None;
        for node in sources {
            let reply = tokio::time::timeout(PATIENCE, ask(&shared, &node, &Question::Slice(key))).await;
            let Ok(Ok(Reply::Slice(parcel))) = reply else { continue };
            let federation = shared.federation.clone();
            let checked = shared.offload(move || Held::check(*parcel, &federation)).await;
            match checked.map(|checked| shared.metrics.checked("slice", checked)) {
                Some(Ok(held)) if held.key == key => {
                    found = Some(held);
                    break;
                }
                Some(Err(error)) => tracing::warn!(peer = %node, %error, "a fetched slice does not verify"),
                _ => {}
            }
        }
        shared.tell(ToCore::input(Input::Fetched(key, found))).await;
    });
}

/// Fetches the cuts after `epoch` from the sequencer or any other node, and tells the core.
pub(super) fn cuts(shared: &Shared, epoch: u64) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let mut nodes = vec![shared.federation.sequencer()];
        nodes.extend(shared.view.borrow().head.nodes().map(|(node, _)| *node));
        nodes.extend(shared.known.keys().copied());
        let mut after = epoch;
        let mut asked = std::collections::BTreeSet::new();
        for node in nodes.into_iter().filter(|node| *node != shared.me) {
            if !asked.insert(node) {
                continue;
            }
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
