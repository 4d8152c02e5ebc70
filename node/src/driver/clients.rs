//! Client streams: bundles and acknowledgements come in, answers and the mailbox's entries go out.
//!
//! The connection authenticates the client: its PeerId is its address. Answers and entries have queues of their own, so
//! a client that reads its mailbox slowly still gets its answers.

use std::sync::Arc;

use postroad_engine::Input;
use postroad_engine::serve::{Reader, Served, Unreadable};
use postroad_net::{Stream, StreamReader, StreamWriter};
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::decode;
use postroad_protocol::genesis::Member;
use postroad_protocol::wire::client::{FromClient, Overdue, Settled, ToClient};
use postroad_protocol::{MailboxId, Params, Refusal, Verified, wire};
use tokio::sync::{mpsc, watch};

use super::calls::ask_core;
use super::core::ToCore;
use super::offences::{NUISANCE, OFFENCE};
use super::streams::{StreamError, next_link, read_greeting, write, write_all};
use super::{Shared, fetch};

/// Answers that wait for one client, at most.
const MAX_ANSWERS: usize = 8_192;
/// Entries that wait for one client's writer.
const MAX_ENTRIES: usize = 64;
/// Entries, and bytes of entries, read from disk at once.
const PAGE: (usize, usize) = (64, 1 << 20);
/// Entries that a client may allow ahead, at most.
const MAX_CREDIT: u64 = 65_536;

/// The longest message that a client can have a reason to send: the largest bundle, and what surrounds its payloads.
fn max_message_bytes(params: &Params) -> usize {
    let bundle = usize::try_from(params.max_bundle_bytes).unwrap_or(usize::MAX);
    bundle.saturating_mul(2).saturating_add(1 << 20).min(wire::MAX_CLIENT_BYTES)
}

/// Serves one stream until it ends.
pub(super) async fn serve(shared: Shared, mailbox: MailboxId, stream: Stream) -> Result<(), StreamError> {
    let (mut reader, mut writer) = stream.framed();
    let greeting = read_greeting(&mut reader, max_message_bytes(shared.federation.params())).await;
    let refusal = match greeting {
        Ok(FromClient::Hello(federation)) if federation == shared.federation.id() => None,
        Ok(FromClient::Hello(_)) => Some((Refusal::WrongFederation, StreamError::Federation)),
        Ok(_) => {
            let error = StreamError::Unexpected("no greeting");
            Some((Refusal::Invalid { reason: error.to_string() }, error))
        }
        Err(error) => Some((Refusal::Invalid { reason: error.to_string() }, error)),
    };
    if let Some((refusal, error)) = refusal {
        shared.metrics.refused("session", &refusal);
        write(&mut writer, &ToClient::Refused(refusal)).await?;
        let _ = writer.close().await;
        return Err(error);
    }
    let epoch = shared.view.borrow().head.epoch;
    write(&mut writer, &ToClient::Hello(shared.federation.id(), epoch)).await?;
    let _session = shared.metrics.client();
    let link = next_link();
    let (answers, mut answer_queue) = mpsc::channel(MAX_ANSWERS);
    // Only the core keeps the queue open: when it lets go, the stream ends, and the client asks again.
    let refusals = answers.downgrade();
    if !shared.tell(ToCore::ClientUp(link, answers)).await {
        return Err(StreamError::Stopping);
    }
    let (entries, mut entry_queue) = mpsc::channel(MAX_ENTRIES);
    let (wishes, wished) = watch::channel(Wishes::default());
    let ended = tokio::select! {
        ended = receive(&shared, mailbox, link, &mut reader, refusals, wishes) => ended,
        ended = subscription(&shared, mailbox, wished, entries) => ended,
        ended = send(&mut writer, &mut answer_queue, &mut entry_queue) => ended,
    };
    let _ = shared.tell(ToCore::ClientDown(link)).await;
    if let Err(StreamError::Verify(_)) = &ended {
        shared.offended(mailbox, OFFENCE).await?;
    }
    if let Err(error @ (StreamError::Frame(_) | StreamError::Decode(_) | StreamError::Unexpected(_))) = &ended {
        let refusal = Refusal::Invalid { reason: error.to_string() };
        shared.metrics.refused("session", &refusal);
        write(&mut writer, &ToClient::Refused(refusal)).await?;
        let _ = writer.close().await;
    }
    ended
}

async fn send(
    writer: &mut StreamWriter,
    answers: &mut mpsc::Receiver<ToClient>,
    entries: &mut mpsc::Receiver<ToClient>,
) -> Result<(), StreamError> {
    loop {
        tokio::select! {
            answer = answers.recv() => write_all(writer, &answer.ok_or(StreamError::Ended)?, answers).await?,
            entry = entries.recv() => write_all(writer, &entry.ok_or(StreamError::Ended)?, entries).await?,
        }
    }
}

/// What a client wants to read.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    /// From which log index on, and the how-manieth subscription of the stream it is.
    from: Option<(u64, u64)>,
    /// Entries that it has allowed in all.
    credit: u64,
}

async fn receive(
    shared: &Shared,
    mailbox: MailboxId,
    link: u64,
    reader: &mut StreamReader,
    answers: mpsc::WeakSender<ToClient>,
    wishes: watch::Sender<Wishes>,
) -> Result<(), StreamError> {
    let max_bytes = max_message_bytes(shared.federation.params());
    loop {
        let bytes = reader.read(max_bytes).await?.ok_or(StreamError::Ended)?;
        let input = match decode::<FromClient>(&bytes)? {
            FromClient::Hello(_) => return Err(StreamError::Unexpected("a second greeting")),
            FromClient::Submit(bundle) => {
                let counter = bundle.signed.body.counter;
                let checked = check(shared, *bundle).await?;
                if let Err(refusal) = &checked {
                    // It costs the node more than the peer. Honest software sends nothing else that is refused here.
                    let is_early = matches!(refusal, Refusal::UnknownSender { .. });
                    shared.offended(mailbox, if is_early { NUISANCE } else { OFFENCE }).await?;
                }
                match checked {
                    Ok(bundle) => Input::Submit(link, mailbox, Box::new(bundle)),
                    Err(refusal) => {
                        shared.metrics.refused("bundle", &refusal);
                        let answer = postroad_protocol::wire::client::Answer::Refused(refusal);
                        let answers = answers.upgrade().ok_or(StreamError::Ended)?;
                        let sent = answers.send(ToClient::Answer(counter, Box::new(answer))).await;
                        sent.map_err(|_| StreamError::Stopping)?;
                        continue;
                    }
                }
            }
            FromClient::Subscribe(from) => {
                wishes.send_modify(|wishes| {
                    let count = wishes.from.map_or(0, |(_, count)| count);
                    wishes.from = Some((from, count + 1));
                });
                continue;
            }
            FromClient::Credit(more) => {
                wishes.send_modify(|wishes| wishes.credit = wishes.credit.saturating_add(u64::from(more)));
                continue;
            }
            FromClient::Acknowledge(signed) => {
                match shared.metrics.checked("acknowledgement", Verified::check(signed, &shared.federation)) {
                    Ok(signed) if signed.body.mailbox == mailbox => Input::Acknowledge(Box::new(signed)),
                    Ok(_) => return Err(StreamError::Unexpected("an acknowledgement of another mailbox")),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if !shared.tell(ToCore::input(input)).await {
            return Err(StreamError::Stopping);
        }
    }
}

/// What can be said of a bundle without the inbox: limits and names cost nothing; hashing and the signature are paid for
/// only within them.
async fn check(shared: &Shared, bundle: Bundle) -> Result<Result<Verified<Bundle>, Refusal>, StreamError> {
    if let Err(refusal) = bundle.check_limits(shared.federation.params()) {
        return Ok(Err(refusal));
    }
    let sender = bundle.signed.body.sender;
    if shared.view.borrow().head.mailbox(&sender).is_none() {
        return Ok(Err(Refusal::UnknownSender { mailbox: sender }));
    }
    let verified = shared.verifier.check(bundle).await.ok_or(StreamError::Stopping)?;
    let verified = shared.metrics.checked("bundle", verified);
    Ok(verified.map_err(|error| Refusal::Invalid { reason: error.to_string() }))
}

/// Tells a subscriber that there is nothing for it.
async fn refuse(shared: &Shared, entries: &mpsc::Sender<ToClient>, refusal: Refusal) -> Result<(), StreamError> {
    shared.metrics.refused("subscription", &refusal);
    entries.send(ToClient::Refused(refusal)).await.map_err(|_| StreamError::Ended)
}

/// Sends the mailbox's entries as they come, what is attested of them, and how far the log is settled.
async fn subscription(
    shared: &Shared,
    mailbox: MailboxId,
    mut wished: watch::Receiver<Wishes>,
    entries: mpsc::Sender<ToClient>,
) -> Result<(), StreamError> {
    let mut view = shared.view.clone();
    // The last subscription that was taken up, and whether it goes on.
    let (mut asked, mut is_open) = (0, false);
    let mut is_hosted = false;
    let mut next = 0;
    let mut sent: u64 = 0;
    let mut told = (0, 0, (0, (0, 0)));
    let mut overdue = Vec::new();
    // The home that was offered because this node closes.
    let mut offered = None;
    let mut reader = Reader::new(Arc::clone(&shared.library));
    loop {
        let Wishes { from, credit } = *wished.borrow_and_update();
        if let Some((from, count)) = from.filter(|(_, count)| *count != asked) {
            (asked, next, told, overdue) = (count, from, (0, 0, (0, (0, 0))), Vec::new());
            reader = Reader::new(Arc::clone(&shared.library));
            (is_open, is_hosted, offered) = (true, false, None);
        }
        if !is_open {
            wished.changed().await.map_err(|_| StreamError::Ended)?;
            continue;
        }
        // The view first: the snapshot is at least as new, so what the view says of the log is in it.
        let seen = view.borrow_and_update().clone();
        // A mailbox may move away while its owner reads.
        let home = seen.head.home(&mailbox);
        if home != Some(shared.me) {
            let refusal = match home {
                Some(home) => Refusal::NotHere { home },
                None => Refusal::NotFound { what: format!("mailbox {mailbox}") },
            };
            refuse(shared, &entries, refusal).await?;
            is_open = false;
            continue;
        }
        // One that has just moved here has no log before its old home, or its owner, has handed that over.
        if !is_hosted {
            let hosts = ask_core(shared, move |node| node.hosts(&mailbox)).await;
            is_hosted = hosts.map_err(|_| StreamError::Stopping)?;
        }
        if !is_hosted {
            tokio::select! {
                changed = view.changed() => changed.map_err(|_| StreamError::Stopping)?,
                changed = wished.changed() => changed.map_err(|_| StreamError::Ended)?,
            }
            continue;
        }
        let offer = seen.retiring.map(|retirement| retirement.to);
        if offer != offered {
            offered = offer;
            if let Some(node) = offer {
                let addrs = seen.head.node(&node).map(|known| known.addrs.clone()).unwrap_or_default();
                let message = ToClient::Retiring(Member { node, addrs });
                entries.send(message).await.map_err(|_| StreamError::Ended)?;
            }
        }
        let allowed = credit.min(sent.saturating_add(MAX_CREDIT)).saturating_sub(sent);
        let (limit, bytes) = PAGE;
        let limit = limit.min(usize::try_from(allowed).unwrap_or(limit));
        let store = shared.store.clone();
        let page = shared.offload(move || {
            let page = store.snapshot().map_err(Unreadable::from);
            let page = page.and_then(|rows| reader.entries(&rows, &mailbox, next, limit, bytes));
            (reader, page)
        });
        let (back, page) = page.await.ok_or(StreamError::Stopping)?;
        reader = back;
        let page = match page {
            Ok(page) => page,
            Err(unreadable) => {
                fetch::mend(shared, unreadable).await?;
                continue;
            }
        };
        let mut count = 0;
        let mut behind = None;
        let mut unattested = false;
        if let [Served::Elsewhere(begin)] = page[..] {
            let what = format!(
                "entries before {begin}: they were not handed over when the mailbox moved here, and its owner has them"
            );
            refuse(shared, &entries, Refusal::NotFound { what }).await?;
            is_open = false;
            continue;
        }
        for served in page {
            let message = match served {
                Served::Elsewhere(_) => break,
                Served::Cut(cut) => ToClient::Cut(*cut),
                Served::Entry(entry) => {
                    count += 1;
                    ToClient::Entry(entry)
                }
                Served::Expired(expired) => {
                    let to = expired.before.size() + 1;
                    // The reader goes on behind them once this node has signed that they have expired.
                    let attested = seen.signed.as_ref().and_then(|view| view.of(&mailbox));
                    let Some(attested) = attested.filter(|attested| attested.log.expired_to >= to) else {
                        unattested = true;
                        break;
                    };
                    let message = ToClient::Attested(Box::new(attested));
                    entries.send(message).await.map_err(|_| StreamError::Ended)?;
                    behind = Some(to);
                    ToClient::Expired(expired)
                }
            };
            entries.send(message).await.map_err(|_| StreamError::Ended)?;
        }
        next += count;
        sent += count;
        if let Some(index) = behind {
            next = index;
            continue;
        }
        if count > 0 && allowed > count {
            continue;
        }
        if count < limit as u64 && !unattested {
            // Everything that this snapshot has was sent.
            let signed = seen.signed.as_ref().map_or(0, |view| view.attestation.body.number);
            let anchored = seen.last_final.as_ref().map_or(0, |view| view.attestation.body.number);
            for (view, known) in [(&seen.signed, signed != told.0), (&seen.last_final, anchored != told.1)] {
                let Some(view) = view.as_ref().filter(|_| known) else { continue };
                if let Some(attested) = view.of(&mailbox) {
                    let message = ToClient::Attested(Box::new(attested));
                    entries.send(message).await.map_err(|_| StreamError::Ended)?;
                }
            }
            // Before it is said that everything below is settled.
            let unsettled = seen.unsettled.get(&mailbox);
            let missing = seen.overdue.iter().chain(unsettled.iter().flat_map(|unsettled| &unsettled.overdue));
            let missing: Vec<Overdue> = missing.cloned().collect();
            for missing in missing.iter().filter(|missing| !overdue.contains(*missing)) {
                entries.send(ToClient::Overdue(missing.clone())).await.map_err(|_| StreamError::Ended)?;
            }
            overdue = missing;
            let of_former_homes = unsettled.and_then(|unsettled| unsettled.below);
            let below = of_former_homes.map_or(seen.settled_below, |below| below.min(seen.settled_below));
            if (seen.delivered, below) != told.2 {
                let settled = Settled { epoch: seen.delivered, size: next, below };
                entries.send(ToClient::Settled(settled)).await.map_err(|_| StreamError::Ended)?;
            }
            told = (signed, anchored, (seen.delivered, below));
        }
        tokio::select! {
            changed = view.changed() => changed.map_err(|_| StreamError::Stopping)?,
            changed = wished.changed() => changed.map_err(|_| StreamError::Ended)?,
        }
    }
}
