//! Retiring: what an operator says and asks over the control socket when its node closes.
//!
//! The new home is asked about every mailbox before anything is offered: whether its policy admits it, whether it takes
//! over so much, and whether there is room for all of them.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use postroad_engine::node::retiring::progress;
use postroad_protocol::moving::Extent;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, NodeId, Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Shared;
use super::calls::{ask, ask_core, stopping};
use super::core::ToCore;

/// How many mailboxes the new home is asked about at once.
const MAX_ASKED: usize = 8;
/// How long it has for one of them.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    /// To see how far it is.
    Look,
    /// To close, offering this node; `anyway` also if that takes some of the mailboxes only.
    Close { to: String, anyway: bool },
    /// To stay open.
    Stay,
}

/// What the node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// How it stands, now that this is durable.
    Stands(Standing),
    /// No, and nothing has changed.
    Refused(String),
    /// The new home does not take these mailboxes, and nothing has changed.
    NotTaken(Vec<(String, String)>),
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The node.
    pub(crate) node: String,
    /// The home that it offers, if it closes.
    pub(crate) to: Option<String>,
    /// Whose mailboxes live there.
    pub(crate) remaining: Vec<String>,
    /// Whose have left and still need something from it.
    pub(crate) leaving: Vec<String>,
    /// How many have left and need nothing.
    pub(crate) moved: u64,
    /// Slices that it holds or has sealed, and their destinations do not have yet.
    pub(crate) held: u64,
}

/// Does what the operator wants.
pub(super) async fn answer(shared: &Shared, wish: Wish) -> Word {
    let done = match wish {
        Wish::Look => Ok(()),
        Wish::Close { to, anyway } => match to.parse() {
            Ok(to) => close(shared, to, anyway).await,
            Err(error) => Err(Word::Refused(format!("{to}: {error}"))),
        },
        Wish::Stay => retire(shared, None).await.map_err(refused),
    };
    match done {
        Ok(()) => standing(shared).await.map_or_else(refused, Word::Stands),
        Err(word) => word,
    }
}

fn refused(refusal: Refusal) -> Word {
    Word::Refused(refusal.to_string())
}

async fn close(shared: &Shared, to: NodeId, anyway: bool) -> Result<(), Word> {
    ask_core(shared, move |node| node.may_retire(&to)).await.map_err(refused)?.map_err(refused)?;
    let residents = ask_core(shared, |node| node.residents()).await.map_err(refused)?;
    let asked = stream::iter((0_u64..).zip(residents)).map(|(besides, resident)| takes(shared, to, resident, besides));
    let mut answers = asked.buffered(MAX_ASKED);
    let mut not_taken = Vec::new();
    while let Some(answer) = answers.next().await {
        not_taken.extend(answer?);
    }
    if !not_taken.is_empty() && !anyway {
        return Err(Word::NotTaken(not_taken));
    }
    retire(shared, Some(to)).await.map_err(refused)
}

/// Why the new home does not take a mailbox that so many others come besides; none if it does.
async fn takes(
    shared: &Shared,
    to: NodeId,
    (mailbox, extent): (MailboxId, Extent),
    besides: u64,
) -> Result<Option<(String, String)>, Word> {
    let question = Question::MayMove(mailbox, extent, besides);
    let asked = async || tokio::time::timeout(PATIENCE, ask(shared, &to, &question)).await.ok()?.ok();
    let reply = match asked().await {
        // Its connection may be older than its process.
        None => asked().await,
        reply => reply,
    };
    match reply {
        Some(Reply::Taken) => Ok(None),
        Some(Reply::Refused(Refusal::NotAllowed { reason })) => Ok(Some((mailbox.to_string(), reason))),
        Some(Reply::Refused(refusal)) => Err(Word::Refused(format!("{to} says: {refusal}"))),
        Some(_) => Err(Word::Refused(format!("{to} answers something else"))),
        None => Err(Word::Refused(format!("{to} does not answer"))),
    }
}

async fn retire(shared: &Shared, to: Option<NodeId>) -> Result<(), Refusal> {
    let (answer, durable) = oneshot::channel();
    shared.core.send(ToCore::Retire(to, answer)).await.map_err(stopping)?;
    durable.await.map_err(stopping)?
}

async fn standing(shared: &Shared) -> Result<Standing, Refusal> {
    let (retirement, head) = ask_core(shared, |node| (node.retirement().copied(), node.head().clone())).await?;
    let (me, window) = (shared.me, shared.federation.params().routing_window_epochs);
    let found = shared.offload(move || progress(&me, retirement.as_ref(), &head, window)).await;
    let found = found.ok_or(Refusal::NotReady)?;
    let texts = |mailboxes: Vec<MailboxId>| mailboxes.iter().map(ToString::to_string).collect();
    Ok(Standing {
        node: me.to_string(),
        to: retirement.map(|retirement| retirement.to.to_string()),
        remaining: texts(found.remaining),
        leaving: texts(found.leaving),
        moved: found.moved,
        held: found.held,
    })
}
