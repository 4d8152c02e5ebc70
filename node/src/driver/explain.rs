//! What this node shows of the way of a message, and which header made an attestation final.
//!
//! Both read many rows at worst, so few are answered at once; who asks meanwhile is told that the node is busy.

use postroad_engine::explain::{self, Asked, Located};
use postroad_engine::outbox::AttestedView;
use postroad_protocol::attestation::Anchor;
use postroad_protocol::evidence::{LeafAt, LogGap};
use postroad_protocol::explanation::{Explanation, Found, LogWord};
use postroad_protocol::genesis::Member;
use postroad_protocol::merkle::tree::Path;
use postroad_protocol::state::State;
use postroad_protocol::{MailboxId, NodeId, PublicKey, Refusal, Seq};
use tokio::sync::SemaphorePermit;

use super::Shared;
use super::calls::{ask_core, unreadable};

/// How many of these questions are answered at once.
pub(super) const MAX_EXPLAINING: usize = 4;
/// How many nodes an answer names beside those on the message's way.
const OTHERS: usize = 4;

/// What this node has of the way of a message, and where those on it listen.
pub(super) async fn explain(
    shared: &Shared,
    asker: PublicKey,
    mailbox: MailboxId,
    seq: Seq,
) -> Result<(Explanation, Vec<Member>), Refusal> {
    let view = shared.view.borrow().clone();
    let is_known = view.head.node(&asker).is_some() || view.head.mailbox(&asker).is_some();
    let _permit = permit(shared, is_known)?;
    let task = shared.clone();
    let (state, cut) = (view.head.clone(), view.head_cut.clone());
    let read = shared.offload(move || {
        let store = task.store.snapshot()?;
        let asked = Asked { me: task.me, federation: &task.federation, state: &state, cut: cut.as_ref(), asker };
        asked.explain(&store, mailbox, seq)
    });
    let mut explanation = read.await.ok_or(Refusal::NotReady)?.map_err(unreadable)?;
    if explanation.home() == Some(shared.me)
        && let Some(attested) = view.last_final
    {
        let word = log_word(shared, &explanation, &attested).await?;
        // Whom the message does not concern learns whether it is there, and nothing of its neighbours.
        let concerned = asker == mailbox || view.head.node(&asker).is_some() || explanation.disclosed.is_some();
        let word = word.filter(|word| concerned || matches!(word.found, Found::Entry(_)));
        explanation.log = word.map(Box::new);
    }
    // A slice for this node that it did not take, because the batch says something else.
    if explanation.home() == Some(shared.me)
        && explanation.slice.is_none()
        && (asker == mailbox || view.head.node(&asker).is_some())
        && let Some(header) = explanation.included.as_ref().map(|included| included.digest(&shared.federation))
    {
        let me = shared.me;
        let shown =
            move |node: &postroad_engine::Node| node.exhibit_of(&header, &me).map(|exhibit| exhibit.slice(&mailbox));
        explanation.slice = ask_core(shared, shown).await?;
    }
    let hints = listeners(&view.head, &explanation);
    Ok((explanation, hints))
}

/// This home's own word on its log, where the message belongs in it.
async fn log_word(shared: &Shared, explanation: &Explanation, view: &AttestedView) -> Result<Option<LogWord>, Refusal> {
    let mailbox = explanation.mailbox;
    let (Some(order), Some(attested)) = (explanation.log_order(&shared.federation), view.of(&mailbox)) else {
        return Ok(None);
    };
    let Some(anchor) = attested.anchor.clone() else { return Ok(None) };
    let size = attested.log.log.size;
    let task = shared.clone();
    let read = shared.offload(move || explain::located(&task.store.snapshot()?, &mailbox, size, order));
    let located = read.await.ok_or(Refusal::NotReady)?.map_err(unreadable)?;
    let indexes: Vec<u64> = match located {
        Located::Entry(index, _) => vec![index],
        Located::Gap(before, after) => before.iter().chain(&after).map(|(index, _)| *index).collect(),
    };
    let paths = ask_core(shared, move |node| node.log_paths(&mailbox, size, &indexes)).await?;
    let Some(paths) = paths else { return Ok(None) };
    let mut paths = paths.into_iter();
    let mut at = |(index, leaf)| LeafAt { index, leaf, path: paths.next().unwrap_or_else(|| Path(Vec::new())) };
    let found = match located {
        Located::Entry(index, leaf) => Found::Entry(at((index, leaf))),
        Located::Gap(before, after) => Found::Gap(LogGap { before: before.map(&mut at), after: after.map(&mut at) }),
    };
    Ok(Some(LogWord { attested: attested.into(), anchor, found }))
}

/// Where those listen who signed something on the message's way, and a few others.
fn listeners(state: &State, explanation: &Explanation) -> Vec<Member> {
    let mut nodes: Vec<NodeId> = explanation.home().into_iter().collect();
    if let Some(included) = &explanation.included {
        nodes.push(included.header().origin);
        nodes.extend(explanation.custody.iter().flat_map(|custody| &custody.receipts).map(|receipt| receipt.holder()));
    }
    nodes.extend(state.nodes().map(|(node, _)| *node).take(OTHERS));
    nodes.sort();
    nodes.dedup();
    let known = nodes.into_iter().filter_map(|node| Some((node, state.node(&node)?)));
    known.map(|(node, known)| Member { node, addrs: known.addrs.clone() }).collect()
}

/// The header that made an attestation final.
pub(super) async fn anchored(shared: &Shared, node: NodeId, number: Option<u64>) -> Result<Option<Anchor>, Refusal> {
    let _permit = permit(shared, true)?;
    let (task, state) = (shared.clone(), shared.view.borrow().head.clone());
    let read =
        shared.offload(move || explain::anchored(&task.store.snapshot()?, &state, &task.federation, &node, number));
    read.await.ok_or(Refusal::NotReady)?.map_err(unreadable)
}

/// Strangers leave a place for those whom it may concern.
fn permit(shared: &Shared, is_known: bool) -> Result<SemaphorePermit<'_>, Refusal> {
    if !is_known && shared.explaining.available_permits() <= MAX_EXPLAINING / 2 {
        return Err(Refusal::Busy);
    }
    shared.explaining.try_acquire().map_err(|_| Refusal::Busy)
}
