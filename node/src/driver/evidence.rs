//! Evidence: handed in, judged beside the core, kept, and handed on to every other node.
//!
//! What is known by its id costs nothing more. The rest is judged a few at a time, those of the federation's nodes apart
//! from those of strangers, and each peer has its own rate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad_engine::rate::Rate;
use postroad_engine::{Time, serve as rows, tables};
use postroad_net::Backoff;
use postroad_protocol::evidence::{Claim, ClaimError, Evidence};
use postroad_protocol::wire::call::{Filed, Judged, Question, Reply};
use postroad_protocol::{Digest, NodeId, Refusal};
use postroad_store::Read;
use tokio::sync::{Semaphore, oneshot};

use super::Shared;
use super::calls::{ask, stopping, unreadable};
use super::core::ToCore;
use super::offences::OFFENCE;
use super::streams::StreamError;

/// Claims that one peer may have judged in a minute.
const PER_MINUTE: u64 = 120;
/// Peers whose rates are remembered; with more, all begin anew.
const MAX_PEERS: usize = 4_096;
/// Claims that are judged at the same time: of nodes, of strangers, and what this node has found itself.
const TURNS: (usize, usize, usize) = (2, 1, 1);
/// Ids that are remembered of what another node has, at most.
const MAX_HAS: usize = 65_536;
/// How long a claim waits for its turn, and its evidence until it is on disk.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long another node has to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Between two attempts to hand evidence to a node that is busy: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Bytes of evidence in one answer, about.
const PAGE_BYTES: usize = 1 << 20;

/// Where evidence is handed in.
#[derive(Debug)]
pub(super) struct Desk {
    began: Instant,
    rates: Mutex<BTreeMap<NodeId, Rate>>,
    turns: (Semaphore, Semaphore, Semaphore),
}

impl Default for Desk {
    fn default() -> Desk {
        let turns = (Semaphore::new(TURNS.0), Semaphore::new(TURNS.1), Semaphore::new(TURNS.2));
        Desk { began: Instant::now(), rates: Mutex::default(), turns }
    }
}

impl Desk {
    fn admits(&self, peer: &NodeId) -> bool {
        let now = Time(self.began.elapsed().as_millis() as u64);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= MAX_PEERS && !rates.contains_key(peer) {
            rates.clear();
        }
        rates.entry(*peer).or_insert_with(|| Rate::new(PER_MINUTE)).pass(now)
    }
}

/// Answers who hands a claim in.
///
/// # Errors
/// [`Refusal`]: nothing is said of the claim.
pub(super) async fn accuse(shared: &Shared, from: NodeId, claim: Claim) -> Result<Reply, Refusal> {
    let id = claim.id(&shared.federation);
    if shared.view.borrow().evidence.contains_key(&id) {
        return Ok(Reply::Judged(Judged::Kept(id)));
    }
    if !shared.desk.admits(&from) {
        return Err(Refusal::Busy);
    }
    Ok(Reply::Judged(match judge(shared, from, claim).await? {
        Ok(evidence) => {
            let (answer, durable) = oneshot::channel();
            let told = ToCore::Evidence(from, Box::new(evidence), Some(answer));
            shared.core.send(told).await.map_err(stopping)?;
            let durable = tokio::time::timeout(PATIENCE, durable).await;
            durable.map_err(|_| Refusal::NotReady)?.map_err(stopping)??;
            Judged::Kept(id)
        }
        Err(ClaimError::Cleared(reason)) => Judged::Cleared(reason.to_string()),
        Err(error) => {
            // Whether its connection closes or not, this answer is the same.
            let _ = shared.offended(from, OFFENCE).await;
            Judged::Unproven(error.to_string())
        }
    }))
}

/// Judges a claim, when it is its turn.
async fn judge(shared: &Shared, from: NodeId, claim: Claim) -> Result<Result<Evidence, ClaimError>, Refusal> {
    let Desk { turns: (of_nodes, of_strangers, own), .. } = &*shared.desk;
    // What this node has found nobody finds again: it waits for as long as it takes.
    let (turns, patience) = match shared.view.borrow().head.node(&from) {
        _ if from == shared.me => (own, Duration::MAX),
        Some(_) => (of_nodes, PATIENCE),
        None => (of_strangers, PATIENCE),
    };
    let turn = tokio::time::timeout(patience, turns.acquire()).await;
    let _turn = turn.map_err(|_| Refusal::Busy)?.map_err(stopping)?;
    let federation = shared.federation.clone();
    let judged = shared.offload(move || Evidence::new(claim, &federation)).await;
    judged.ok_or(Refusal::NotReady)
}

/// A page of what is kept.
///
/// # Errors
/// [`Refusal`].
pub(super) async fn page(shared: &Shared, after: Option<Digest>) -> Result<Reply, Refusal> {
    let store = shared.store.clone();
    let page = shared.offload(move || store.snapshot().and_then(|store| rows::evidence(&store, after, PAGE_BYTES)));
    Ok(Reply::Evidence(page.await.ok_or(Refusal::NotReady)?.map_err(unreadable)?))
}

/// This node found a contradiction.
pub(super) fn found(shared: &Shared, claim: Claim) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let (fault, accused) = (claim.fault(), claim.accused(&shared.federation));
        if shared.view.borrow().evidence.contains_key(&claim.id(&shared.federation)) {
            return;
        }
        match judge(&shared, shared.me, claim).await {
            Ok(Ok(evidence)) => {
                let _ = shared.tell(ToCore::Evidence(shared.me, Box::new(evidence), None)).await;
            }
            Ok(Err(error)) => tracing::warn!(%fault, peer = %accused, %error, "what looked like a fault is none"),
            Err(_) => tracing::warn!(%fault, peer = %accused, "a fault was not judged: too many at once"),
        }
    });
}

/// Takes from a node what this one lacks, then hands on what the node lacks, for ever; while its stream is up.
pub(super) async fn spread(shared: &Shared, node: NodeId) -> Result<(), StreamError> {
    let mut has = take_over(shared, node).await?;
    let mut view = shared.view.clone();
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, 0);
    loop {
        let kept = std::sync::Arc::clone(&view.borrow_and_update().evidence);
        for id in kept.keys().filter(|id| !has.contains(*id)).copied().collect::<Vec<_>>() {
            loop {
                let Some(claim) = load(shared, id).await else { break };
                let question = Question::Accuse(Box::new(claim));
                match tokio::time::timeout(ANSWER, ask(shared, &node, &question)).await {
                    Ok(Ok(Reply::Refused(Refusal::Busy | Refusal::NotReady))) | Ok(Err(_)) | Err(_) => {
                        tokio::time::sleep(backoff.failed()).await;
                    }
                    Ok(Ok(reply)) => {
                        if !matches!(reply, Reply::Judged(Judged::Kept(_))) {
                            tracing::debug!(peer = %node, %id, ?reply, "evidence is not kept there");
                        }
                        break;
                    }
                }
            }
            backoff.succeeded();
            has.insert(id);
        }
        let more = view.wait_for(|view| view.evidence.len() > kept.len()).await;
        more.map_err(|_| StreamError::Stopping)?;
    }
}

async fn load(shared: &Shared, id: Digest) -> Option<Claim> {
    let store = shared.store.clone();
    let row = shared.offload(move || tables::get::<Filed>(&store.snapshot()? as &dyn Read, tables::EVIDENCE, &id.0));
    row.await?.ok()?.map(|filed| filed.claim)
}

/// Takes from a node what this one lacks. Returns the ids of what the node has. What does not hold ends it.
async fn take_over(shared: &Shared, node: NodeId) -> Result<BTreeSet<Digest>, StreamError> {
    let mut has = BTreeSet::new();
    loop {
        let question = Question::Evidence(has.last().copied());
        let reply = tokio::time::timeout(ANSWER, ask(shared, &node, &question)).await;
        let Ok(Ok(Reply::Evidence(page))) = reply else { return Ok(has) };
        if page.is_empty() {
            return Ok(has);
        }
        for filed in page {
            let id = filed.claim.id(&shared.federation);
            if has.last().is_some_and(|last| *last >= id) {
                return Err(StreamError::Unexpected("evidence out of order"));
            }
            has.insert(id);
            if shared.view.borrow().evidence.contains_key(&id) {
                continue;
            }
            if has.len() >= MAX_HAS || !shared.desk.admits(&node) {
                return Ok(has);
            }
            match judge(shared, node, filed.claim).await {
                Ok(Ok(evidence)) => {
                    if !shared.tell(ToCore::Evidence(node, Box::new(evidence), None)).await {
                        return Err(StreamError::Stopping);
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(peer = %node, %error, "what a node keeps as evidence is none");
                    shared.offended(node, OFFENCE).await?;
                    return Ok(has);
                }
                Err(_) => return Ok(has),
            }
        }
    }
}
