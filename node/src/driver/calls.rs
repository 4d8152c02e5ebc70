//! Calls: one question and one answer on a stream of its own, for look-ups and catching up. From both ends.

use std::time::Duration;

use postroad_engine::tables::{CUTS, key_number};
use postroad_engine::{Fate, Input, serve as rows};
use postroad_net::Stream;
use postroad_protocol::block_list::BlockList;
use postroad_protocol::genesis::Member;
use postroad_protocol::state::{HomeProof, NodeState};
use postroad_protocol::wire::call::{MAX_MEMBERS, PeerState, PeerStatus, Question, Reply, Status};
use postroad_protocol::{MailboxId, NodeId, Refusal, Seq, Signed, Verified, wire};
use postroad_store::StoreError;
use tokio::sync::oneshot;

use super::core::ToCore;
use super::offences::OFFENCE;
use super::streams::{GREETING, StreamError, read, read_greeting, write};
use super::{Shared, deputies, evidence, explain, fetch, moving};

/// Suspicions that a status names, at most.
const MAX_SUSPICIONS: usize = 256;
/// Bytes of cuts in one answer, about. Anybody may ask sixteen times at once and read slowly.
const PAGE_BYTES: usize = 1 << 20;
/// How long a registration may take until a cut settles it, and a block list until it is on disk.
pub(super) const REGISTRATION_PATIENCE: Duration = Duration::from_secs(8);
/// Headers that may be handed in at once.
const MAX_HANDED_IN: usize = 256;

/// Asks another node.
pub(super) async fn ask(shared: &Shared, node: &NodeId, question: &Question) -> Result<Reply, StreamError> {
    // Mail that is ordered is fetched from whoever holds it.
    if shared.shuns(node) && !is_for_ordered_mail(question) {
        return Err(StreamError::Shunned);
    }
    let (mut reader, mut writer) = shared.open(node, wire::CALL).await?.framed();
    write(&mut writer, question).await?;
    read(&mut reader, wire::MAX_ANSWER_BYTES).await
}

/// Whether a question is for mail that is ordered.
fn is_for_ordered_mail(question: &Question) -> bool {
    matches!(question, Question::Slice(_) | Question::Handoff(_) | Question::Extracts(..))
}

/// Answers one question.
pub(super) async fn serve(shared: Shared, from: NodeId, stream: Stream) -> Result<(), StreamError> {
    let (mut reader, mut writer) = stream.framed();
    let (what, answered) = match read_greeting::<Question>(&mut reader, wire::MAX_QUESTION_BYTES).await {
        Ok(question) => (name(&question), answer(&shared, from, question).await),
        Err(StreamError::Ended) => return Ok(()),
        Err(error) => ("question", Err(Refusal::Invalid { reason: error.to_string() })),
    };
    let reply = answered.unwrap_or_else(|refusal| {
        shared.metrics.refused(what, &refusal);
        Reply::Refused(refusal)
    });
    // A peer that reads slowly holds one of its own few calls, for a while.
    let sent = tokio::time::timeout(GREETING, write(&mut writer, &reply)).await;
    sent.map_err(|_| StreamError::Silent)??;
    let _ = writer.close().await;
    Ok(())
}

/// What a question is called where refusals are counted.
fn name(question: &Question) -> &'static str {
    match question {
        Question::Genesis => "genesis",
        Question::Status => "status",
        Question::Home(..) => "home",
        Question::Register(_) => "registration",
        Question::Cuts(_) => "cuts",
        Question::Slice(_) => "slice",
        Question::Delivery(..) => "delivery",
        Question::HandIn(_) => "hand-in",
        Question::BlockList(_) | Question::SetBlockList(_) => "block-list",
        Question::Accuse(_) | Question::Evidence(_) => "evidence",
        Question::Explain(..) | Question::Anchored(..) => "explanation",
        Question::Move(_) | Question::MoveStatus(_) | Question::MayMove(..) | Question::Inventory(_) => "move",
        Question::Handoff(_) | Question::Extracts(..) => "handoff",
        Question::Nodes(_) => "nodes",
        Question::Deputise(_) => "deputies",
    }
}

async fn answer(shared: &Shared, from: NodeId, question: Question) -> Result<Reply, Refusal> {
    if shared.shuns(&from) && !is_for_ordered_mail(&question) {
        return Err(Refusal::NotAllowed { reason: "no contact with this node, by its operator's policy".into() });
    }
    Ok(match question {
        Question::Genesis => Reply::Genesis(Box::new(shared.federation.genesis().clone())),
        Question::Status => Reply::Status(Box::new(status(shared).await?)),
        Question::Home(mailbox, epoch) => Reply::Home(Box::new(home(shared, mailbox, epoch).await?)),
        Question::Register(owner) => {
            let checked = shared.metrics.checked("registration", Verified::check(owner, &shared.federation));
            let owner = verified(shared, from, checked).await?;
            let mailbox = owner.body.mailbox;
            let (answer, settled) = oneshot::channel();
            shared.core.send(ToCore::Register(Box::new(owner), answer)).await.map_err(stopping)?;
            let settled = tokio::time::timeout(REGISTRATION_PATIENCE, settled).await;
            settled.map_err(|_| Refusal::NotReady)?.map_err(stopping)??;
            Reply::Home(Box::new(home(shared, mailbox, None).await?))
        }
        Question::Cuts(after) => {
            let store = shared.store.clone();
            let cuts = shared.offload(move || store.snapshot().and_then(|store| rows::cuts(&store, after, PAGE_BYTES)));
            let cuts = cuts.await.ok_or(Refusal::NotReady)?;
            if let Err(StoreError::Corrupt { table: CUTS, key }) = &cuts {
                let (shared, epoch) = (shared.clone(), key_number(key));
                shared.runtime.clone().spawn(async move { fetch::cut(&shared, epoch).await });
            }
            Reply::Cuts(cuts.map_err(unreadable)?)
        }
        // Who writes to whom is for the destination alone.
        Question::Slice(key) if key.destination != from => {
            return Err(Refusal::NotAllowed { reason: "a slice is handed out to its destination only".into() });
        }
        Question::Slice(key) => {
            #[cfg(feature = "cheat")]
            if withholds(shared, key).await? {
                return Err(Refusal::NotFound { what: format!("slice {} of header {}", key.number, key.header) });
            }
            let task = shared.clone();
            let slice = shared.offload(move || {
                task.store.snapshot().and_then(|store| rows::slice(&store, &task.me, &task.federation, &key))
            });
            match slice.await.ok_or(Refusal::NotReady)?.map_err(unreadable)? {
                Some(parcel) => Reply::Slice(Box::new(parcel)),
                None => {
                    return Err(Refusal::NotFound { what: format!("slice {} of header {}", key.number, key.header) });
                }
            }
        }
        Question::BlockList(mailbox) if mailbox != from => {
            return Err(Refusal::NotAllowed { reason: "a block list is shown to the mailbox's owner only".into() });
        }
        Question::BlockList(mailbox) => Reply::BlockList(block_list(shared, mailbox).await?),
        Question::SetBlockList(list) => {
            let checked = shared.metrics.checked("block-list", Verified::check(list, &shared.federation));
            let list = verified(shared, from, checked).await?;
            let mailbox = list.body.mailbox;
            let (answer, durable) = oneshot::channel();
            shared.core.send(ToCore::Block(Box::new(list), answer)).await.map_err(stopping)?;
            let durable = tokio::time::timeout(REGISTRATION_PATIENCE, durable).await;
            durable.map_err(|_| Refusal::NotReady)?.map_err(stopping)??;
            Reply::BlockList(block_list(shared, mailbox).await?)
        }
        Question::Accuse(claim) => evidence::accuse(shared, from, *claim).await?,
        Question::Evidence(after) => evidence::page(shared, after).await?,
        Question::Delivery(mailbox, seq) => delivery(shared, mailbox, seq).await?,
        Question::Explain(mailbox, seq) => {
            let (explanation, listeners) = explain::explain(shared, from, mailbox, seq).await?;
            Reply::Explained(Box::new(explanation), listeners)
        }
        Question::Anchored(node, number) => {
            Reply::Anchored(explain::anchored(shared, node, number).await?.map(Box::new))
        }
        Question::Move(request) => moving::take_over(shared, from, *request).await?,
        Question::MoveStatus(mailbox) => moving::status(shared, from, mailbox).await?,
        Question::MayMove(mailbox, extent, besides) => {
            ask_core(shared, move |node| node.may_move(&mailbox, extent, besides)).await??;
            Reply::Taken
        }
        Question::Inventory(mailbox) => moving::inventory(shared, from, mailbox).await?,
        Question::Handoff(request) => moving::hand_over(shared, from, *request).await?,
        Question::Extracts(mailbox, slices) => moving::extracts(shared, from, mailbox, slices).await?,
        Question::Nodes(from) => {
            let head = shared.view.borrow().head.clone();
            let mut nodes: Vec<(&NodeId, &NodeState)> = head.nodes().filter(|(node, _)| **node >= from).collect();
            nodes.sort_by_key(|(node, _)| **node);
            let member = |(node, known): (&NodeId, &NodeState)| Member { node: *node, addrs: known.addrs.clone() };
            Reply::Nodes(nodes.into_iter().take(MAX_MEMBERS).map(member).collect())
        }
        Question::Deputise(record) => deputies::consent(shared, from, record).await?,
        Question::HandIn(chain) => {
            if chain.len() > MAX_HANDED_IN {
                return Err(Refusal::TooLarge { bytes: chain.len() as u64, limit: MAX_HANDED_IN as u64 });
            }
            for sealed in chain {
                let federation = shared.federation.clone();
                let sealed = shared.offload(move || Verified::check(sealed, &federation)).await;
                let sealed = shared.metrics.checked("header", sealed.ok_or(Refusal::NotReady)?);
                let sealed = verified(shared, from, sealed).await?;
                let input = Input::Sealed(None, Box::new(sealed));
                shared.core.send(ToCore::input(input)).await.map_err(stopping)?;
            }
            Reply::Taken
        }
    })
}

/// What verified, or the refusal of what did not, which its sender answers for.
pub(super) async fn verified<T>(
    shared: &Shared,
    from: NodeId,
    checked: Result<T, postroad_protocol::VerifyError>,
) -> Result<T, Refusal> {
    match checked {
        Ok(value) => Ok(value),
        Err(error) => {
            // Whether its connection closes or not, this answer is the same.
            let _ = shared.offended(from, OFFENCE).await;
            Err(Refusal::Invalid { reason: error.to_string() })
        }
    }
}

pub(super) fn stopping<E>(_: E) -> Refusal {
    Refusal::NotReady
}

pub(super) fn unreadable(error: StoreError) -> Refusal {
    if error.is_retryable() {
        return Refusal::Busy;
    }
    tracing::error!(%error, "a row cannot be read");
    Refusal::NotFound { what: "it cannot be read from this node's disk".into() }
}

/// Asks the core something about its engine.
pub(super) async fn ask_core<T: Send + 'static>(
    shared: &Shared,
    question: impl FnOnce(&postroad_engine::Node) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (answer, answered) = oneshot::channel();
    let question = ToCore::Ask(Box::new(move |node| {
        let _ = answer.send(question(node));
    }));
    shared.core.send(question).await.map_err(stopping)?;
    answered.await.map_err(stopping)
}

/// Whether this node cheats with the slice.
#[cfg(feature = "cheat")]
async fn withholds(shared: &Shared, key: postroad_protocol::slice::SliceKey) -> Result<bool, Refusal> {
    let (answer, answered) = oneshot::channel();
    shared.core.send(ToCore::Withholds(key, answer)).await.map_err(stopping)?;
    answered.await.map_err(stopping)
}

async fn block_list(shared: &Shared, mailbox: MailboxId) -> Result<Option<Box<Signed<BlockList>>>, Refusal> {
    ask_core(shared, move |node| node.block_list(&mailbox).cloned().map(Box::new)).await
}

async fn home(shared: &Shared, mailbox: MailboxId, epoch: Option<u64>) -> Result<HomeProof, Refusal> {
    let found = ask_core(shared, move |node| {
        let ledger = node.ledger();
        let (state, cut) = ledger.at(epoch.unwrap_or(ledger.head().epoch))?;
        Some((state.clone(), cut?.clone()))
    });
    match found.await? {
        Some((state, cut)) => Ok(state.prove_home(&mailbox, cut)),
        None => Err(Refusal::NotFound { what: "a state of that epoch; only recent epochs are kept".into() }),
    }
}

/// Whether a message is with a recipient, finally: asked of the recipient's home.
async fn delivery(shared: &Shared, mailbox: MailboxId, seq: Seq) -> Result<Reply, Refusal> {
    let home = shared.view.borrow().head.home(&mailbox);
    match home {
        None => Err(Refusal::UnknownRecipient { mailbox }),
        Some(home) if home == shared.me => {
            let patience = Duration::from_millis(2 * shared.federation.params().heartbeat_ms);
            let deadline = tokio::time::Instant::now() + patience;
            let mut view = shared.view.clone();
            loop {
                let before = view.borrow_and_update().last_final.as_ref().map(|last| last.attestation.body.number);
                let (answer, answered) = oneshot::channel();
                shared.core.send(ToCore::Delivery(mailbox, seq, answer)).await.map_err(stopping)?;
                match answered.await.map_err(stopping)? {
                    Some(Fate::Delivered(proof)) => return Ok(Reply::Delivery(Some(proof))),
                    Some(Fate::Refused(proof)) => return Ok(Reply::LeafRefused(proof)),
                    None => {}
                }
                let newer =
                    view.wait_for(|view| view.last_final.as_ref().map(|last| last.attestation.body.number) != before);
                match tokio::time::timeout_at(deadline, newer).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return Err(Refusal::NotReady),
                    Err(_) => return Ok(Reply::Delivery(None)),
                }
            }
        }
        Some(home) => match ask(shared, &home, &Question::Delivery(mailbox, seq)).await {
            Ok(reply @ (Reply::Delivery(_) | Reply::LeafRefused(_) | Reply::Refused(_))) => Ok(reply),
            Ok(_) | Err(_) => Ok(Reply::Delivery(None)),
        },
    }
}

async fn status(shared: &Shared) -> Result<Status, Refusal> {
    let me = shared.me;
    let federation = shared.federation.id();
    let head = shared.view.borrow().head.clone();
    let mut suspicions = head.suspicions(&shared.federation);
    suspicions.truncate(MAX_SUSPICIONS);
    let metrics = std::sync::Arc::clone(&shared.metrics);
    ask_core(shared, move |node| {
        let head = node.head();
        let (mailboxes, pending) = node.load();
        let peers = head
            .nodes()
            .filter(|(other, _)| **other != me)
            .map(|(other, known)| {
                let state = if node.peers().is_present(other) {
                    PeerState::Ready
                } else if node.peers().is_connected(other) {
                    PeerState::Away
                } else {
                    PeerState::Unreachable
                };
                PeerStatus { node: *other, name: known.name.clone(), state }
            })
            .collect();
        Status {
            node: me,
            federation,
            incarnation: node.incarnation(),
            epoch: head.epoch,
            cut: head.cut,
            time_ms: head.time_ms,
            mailboxes,
            pending,
            peers,
            version: env!("CARGO_PKG_VERSION").into(),
            suspicions,
            delivered: node.settled().0,
            messages_ordered: metrics.messages_ordered(),
            messages_delivered: metrics.messages_delivered(),
            retiring: node.retirement().map(|retirement| retirement.to),
        }
    })
    .await
}
