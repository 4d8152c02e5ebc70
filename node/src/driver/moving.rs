//! Mailboxes that move: the questions of owners and of new homes, and what this node asks as a new home.
//!
//! What is asked of the disk is bounded like the other questions that read many rows; what comes back is checked off the
//! reactor's threads before the core sees it.

use std::time::Duration;

use postroad_engine::Input;
use postroad_engine::arrivals::{Answered, Extracted, Handed, Wanted};
use postroad_engine::{departures, handover};
use postroad_protocol::moving::{HandoffRequest, Move, MoveRequest};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, NodeId, PublicKey, Refusal, Verified, VerifyError};
use tokio::sync::oneshot;

use super::Shared;
use super::calls::{REGISTRATION_PATIENCE, ask, ask_core, stopping, unreadable, verified};
use super::core::ToCore;
use super::streams::StreamError;

/// How many of these questions are answered from the disk at once.
pub(super) const MAX_MOVING: usize = 4;
/// Bytes of rows and messages in one answer, about.
const PAGE_BYTES: usize = 4 << 20;
/// How long a node has for one answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// By how much whoever asks may be ahead with the cuts.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long whoever asks waits for a place among those that are answered.
const QUEUE_PATIENCE: Duration = Duration::from_secs(2);

/// An owner moves its mailbox here. Whoever brings the order, its signatures say whose it is.
pub(super) async fn take_over(shared: &Shared, from: PublicKey, request: MoveRequest) -> Result<Reply, Refusal> {
    let federation = shared.federation.clone();
    let wanted = shared.offload(move || Wanted::check(request, &federation)).await;
    let wanted = shared.metrics.checked("move", wanted.ok_or(Refusal::NotReady)?);
    let wanted = verified(shared, from, wanted).await?;
    let (answer, taken) = oneshot::channel();
    shared.core.send(ToCore::Move(Box::new(wanted), answer)).await.map_err(stopping)?;
    let taken = tokio::time::timeout(REGISTRATION_PATIENCE, taken).await;
    let status = taken.map_err(|_| Refusal::NotReady)?.map_err(stopping)??;
    Ok(Reply::Moving(status))
}

/// How far a mailbox's move has come: for its owner.
pub(super) async fn status(shared: &Shared, from: PublicKey, mailbox: MailboxId) -> Result<Reply, Refusal> {
    owner_only(shared, &from, &mailbox)?;
    let status = ask_core(shared, move |node| node.move_status(&mailbox)).await?;
    let status = status.ok_or_else(|| Refusal::NotFound { what: format!("a move of {mailbox} to this node") })?;
    Ok(Reply::Moving(Box::new(status)))
}

/// What a mailbox of this node holds: for its owner.
pub(super) async fn inventory(shared: &Shared, from: PublicKey, mailbox: MailboxId) -> Result<Reply, Refusal> {
    owner_only(shared, &from, &mailbox)?;
    if let Some(inventory) = ask_core(shared, move |node| node.inventory(&mailbox)).await? {
        return Ok(Reply::Inventory(inventory));
    }
    Err(match shared.view.borrow().head.home(&mailbox) {
        Some(home) if home != shared.me => Refusal::NotHere { home },
        // It has moved here, and its log has not come.
        Some(_) => Refusal::NotReady,
        None => Refusal::NotFound { what: format!("mailbox {mailbox}") },
    })
}

/// The connection is the mailbox's own, or that of its recovery key.
fn owner_only(shared: &Shared, from: &PublicKey, mailbox: &MailboxId) -> Result<(), Refusal> {
    let recovery_key = || shared.view.borrow().head.mailbox(mailbox).and_then(|known| known.recovery_key);
    if from == mailbox || recovery_key() == Some(*from) {
        return Ok(());
    }
    Err(Refusal::NotAllowed { reason: "it is told to the mailbox's owner only".into() })
}

/// A part of the log of a mailbox that moves, for the node that it moves to: its home, or where its owner orders it.
pub(super) async fn hand_over(shared: &Shared, from: NodeId, request: HandoffRequest) -> Result<Reply, Refusal> {
    let HandoffRequest { mailbox, order, from: index } = request;
    if order.is_none() {
        until_home(shared, &mailbox, &from).await;
    }
    let (head, last_final) = {
        let view = shared.view.borrow();
        (view.head.clone(), view.last_final.clone())
    };
    let Some(known) = head.mailbox(&mailbox).cloned() else {
        return Err(Refusal::NotFound { what: format!("mailbox {mailbox}") });
    };
    if known.home != from {
        let order = order.ok_or_else(|| not_to(&mailbox))?;
        authorise(&order, &mailbox, &known, &from)?;
        let federation = shared.federation.clone();
        let order = shared.offload(move || Verified::check(*order, &federation)).await;
        let order = shared.metrics.checked("move", order.ok_or(Refusal::NotReady)?);
        verified(shared, from, order).await?;
    }
    let _permit = permit(shared).await?;
    let task = shared.clone();
    let attested = shared.offload(move || {
        let window = task.federation.params().routing_window_epochs;
        let store = task.store.snapshot()?;
        departures::attested(&mailbox, &task.me, &head, last_final.as_deref(), window, &store)
    });
    let attested = attested.await.ok_or(Refusal::NotReady)?.map_err(unreadable)??;
    let (handoff, attested) = ask_core(shared, move |node| {
        let handoff = node.hand_over(&mailbox, &from, &attested)?;
        Ok::<_, Refusal>((handoff, attested))
    })
    .await??;
    let task = shared.clone();
    let page = shared.offload(move || {
        let store = task.store.snapshot()?;
        task.handovers.page(&store, &task.federation, handoff, *attested, index, PAGE_BYTES)
    });
    let page = page.await.ok_or(Refusal::NotReady)?.map_err(unreadable)?;
    Ok(Reply::Handoff(Box::new(page)))
}

fn not_to(mailbox: &MailboxId) -> Refusal {
    Refusal::NotAllowed { reason: format!("{mailbox} is handed over only to its home, or where its owner orders it") }
}

/// Whether an order, once its signatures hold, would move the mailbox from where it lives now to this node.
fn authorise(order: &Move, mailbox: &MailboxId, known: &MailboxState, to: &NodeId) -> Result<(), Refusal> {
    let switch = &order.switch;
    let is_next = switch.mailbox == *mailbox && switch.home == *to && known.admits(order).is_ok();
    if is_next { Ok(()) } else { Err(not_to(mailbox)) }
}

/// What slices hold for a mailbox: for its home, and for itself.
pub(super) async fn extracts(
    shared: &Shared,
    from: PublicKey,
    mailbox: MailboxId,
    slices: Vec<SliceKey>,
) -> Result<Reply, Refusal> {
    if from != mailbox && !until_home(shared, &mailbox, &from).await {
        let reason = "what slices hold for a mailbox is told to its home and to itself".into();
        return Err(Refusal::NotAllowed { reason });
    }
    #[cfg(feature = "cheat")]
    if ask_core(shared, move |node| node.withholds_from(&mailbox)).await? {
        return Err(Refusal::NotReady);
    }
    let _permit = permit(shared).await?;
    let task = shared.clone();
    let found = shared.offload(move || {
        let store = task.store.snapshot()?;
        handover::extracts(&store, &task.me, &task.federation, &mailbox, &slices, PAGE_BYTES)
    });
    Ok(Reply::Extracts(found.await.ok_or(Refusal::NotReady)?.map_err(unreadable)?))
}

/// Whether a mailbox lives at a node; one that asks right after the cut may be ahead of this one.
async fn until_home(shared: &Shared, mailbox: &MailboxId, node: &NodeId) -> bool {
    let mut view = shared.view.clone();
    let lives_there = view.wait_for(|view| view.head.home(mailbox) == Some(*node));
    matches!(tokio::time::timeout(HEAD_START, lives_there).await, Ok(Ok(_)))
}

async fn permit(shared: &Shared) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
    let permit = tokio::time::timeout(QUEUE_PATIENCE, shared.moving.acquire()).await;
    permit.map_err(|_| Refusal::Busy)?.map_err(stopping)
}

/// Asks a former home for a log, and tells the core.
pub(super) fn ask_handoff(shared: &Shared, node: NodeId, request: HandoffRequest) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let mailbox = request.mailbox;
        let answered = handed(&shared, node, request).await;
        shared.tell(ToCore::input(Input::HandedOver(mailbox, answered))).await;
    });
}

async fn handed(shared: &Shared, node: NodeId, request: HandoffRequest) -> Answered {
    let mailbox = request.mailbox;
    match within(shared, &node, Question::Handoff(Box::new(request))).await {
        Ok(Reply::Handoff(page)) => {
            let checked = check(shared, move |federation| Handed::check(*page, &node, &mailbox, federation)).await;
            match checked {
                Some(Ok(handed)) => Answered::Page(Box::new(handed)),
                Some(Err(error)) => Answered::Refused(node, error.to_string()),
                None => Answered::Silent,
            }
        }
        Ok(Reply::Refused(Refusal::Busy | Refusal::NotReady)) | Err(_) => Answered::Silent,
        Ok(Reply::Refused(refusal)) => Answered::Refused(node, refusal.to_string()),
        Ok(_) => Answered::Refused(node, "it answers something else".into()),
    }
}

/// Asks a node for what slices hold for a mailbox, and tells the core of each slice once, as the answers come.
pub(super) fn ask_extracts(shared: &Shared, node: NodeId, mailbox: MailboxId, slices: Vec<SliceKey>) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        let mut rest = slices;
        while !rest.is_empty() {
            let found = extracted(&shared, node, mailbox, &rest).await;
            // Whoever answers nothing is not asked for the others.
            let (answered, found) = found.unwrap_or_else(|| (rest.len(), Vec::new()));
            let asked: Vec<SliceKey> = rest.drain(..answered).collect();
            if !shared.tell(ToCore::input(Input::Extracted(mailbox, node, asked, found))).await {
                return;
            }
        }
    });
}

/// For how many of the first slices a node has answered, and what it has of them; none if it did not answer.
pub(super) async fn extracted(
    shared: &Shared,
    node: NodeId,
    mailbox: MailboxId,
    slices: &[SliceKey],
) -> Option<(usize, Vec<Extracted>)> {
    let extracts = if node == shared.me {
        let (task, slices) = (shared.clone(), slices.to_vec());
        let own = shared.offload(move || {
            let store = task.store.snapshot()?;
            handover::extracts(&store, &task.me, &task.federation, &mailbox, &slices, PAGE_BYTES)
        });
        own.await?.ok()?
    } else {
        let reply = within(shared, &node, Question::Extracts(mailbox, slices.to_vec())).await;
        let Ok(Reply::Extracts(extracts)) = reply else { return None };
        extracts
    };
    let answered = extracts.len();
    if answered == 0 || answered > slices.len() {
        return None;
    }
    let asked = slices[..answered].to_vec();
    let checked = check(shared, move |federation| {
        let mut found = Vec::new();
        for (slice, extract) in asked.iter().zip(extracts) {
            let Some(extract) = extract else { continue };
            let extracted = Extracted::check(extract, &mailbox, federation)?;
            if extracted.key != *slice {
                return Err(VerifyError::Malformed { kind: "extract", reason: "it is of another slice" });
            }
            found.push(extracted);
        }
        Ok(found)
    });
    match checked.await? {
        Ok(found) => Some((answered, found)),
        Err(error) => {
            tracing::warn!(peer = %node, %error, "what was extracted from a slice does not verify");
            None
        }
    }
}

async fn within(shared: &Shared, node: &NodeId, question: Question) -> Result<Reply, StreamError> {
    tokio::time::timeout(PATIENCE, ask(shared, node, &question)).await.map_err(|_| StreamError::Silent)?
}

async fn check<T: Send + 'static>(
    shared: &Shared,
    check: impl FnOnce(&postroad_protocol::Federation) -> Result<T, VerifyError> + Send + 'static,
) -> Option<Result<T, VerifyError>> {
    let federation = shared.federation.clone();
    let checked = shared.offload(move || check(&federation)).await?;
    Some(shared.metrics.checked("handoff", checked))
}
