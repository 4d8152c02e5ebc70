//! What the origin's answers do, and the question whether a message was delivered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postroad_protocol::entry::{AcceptedProof, OrderedProof};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::wire::client::Answer;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Refusal, Seq, VerifyError};
use tokio::sync::watch;
use tokio::time::sleep;

use super::lane::{Flight, Lane, Phase, give_back};
use super::sent::SentBundle;
use super::store::{Change, PendingBundle};
use super::{Progress, RefusedRecipient, Stage, Wait};
use crate::connection::{Endpoint, NodeAddr, backoff};
use crate::control::Previous;
use crate::directory::{Directory, Newest};
use crate::error::ClientError;

/// How long one question for a delivery may take; the home answers after two heartbeats.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an origin may not know what the directory already says, because it lags.
const LAG: Duration = Duration::from_secs(5);

impl Lane {
    /// Handles the answer to the bundle with this counter.
    pub(super) fn answer(&mut self, counter: u64, answer: Answer) -> Result<(), ClientError> {
        match answer {
            Answer::Accepted(proof) => self.accepted(counter, *proof),
            Answer::Ordered(proof) => self.ordered(counter, &proof),
            Answer::Refused(refusal) => self.refused(counter, refusal),
        }
    }

    fn accepted(&mut self, counter: u64, proof: AcceptedProof) -> Result<(), ClientError> {
        let Some(flight) = self.flights.get_mut(&counter) else {
            return Ok(());
        };
        match proof.verify(&flight.pending.bundle, self.mailbox.federation()) {
            Ok(weak) => {
                let mut change = self.store.change()?;
                change.accept(&flight.pending, &proof);
                change.commit()?;
                flight.accepted = Some(proof);
                flight.phase = Phase::Accepted;
                flight.tell(|progress| {
                    progress.stage = Stage::Accepted;
                    progress.weak = weak;
                });
                self.is_going_well();
            }
            Err(error) => self.unverified(counter, "accepted", &error),
        }
        Ok(())
    }

    /// Takes the proof of a bundle's place in the order, from whomever it comes.
    pub(super) fn ordered(&mut self, counter: u64, proof: &OrderedProof) -> Result<(), ClientError> {
        let Some(flight) = self.flights.get(&counter) else {
            return Ok(());
        };
        let federation = self.mailbox.federation().clone();
        let first = match proof.verify(&flight.pending.bundle.signed, &federation) {
            Ok(first) => first,
            Err(error) => {
                self.unverified(counter, "ordered", &error);
                return Ok(());
            }
        };
        self.newest.note(&proof.cut.header, &federation);
        let mut change = self.store.change()?;
        change.remove(&flight.pending);
        keep_ordered(&mut change, &flight.pending, proof, first)?;
        change.commit()?;
        let Some(Flight { pending, tracks, .. }) = self.flights.remove(&counter) else {
            return Ok(());
        };
        for ((message, track), index) in pending.bundle.messages.iter().zip(tracks).zip(first.index..) {
            let Some(track) = track else { continue };
            let seq = Seq { index, ..first };
            let recipients = message.recipients.iter().map(|to| to.mailbox).zip(track.homes);
            let mut to: Vec<(MailboxId, NodeId)> = recipients.collect();
            let mut refused = Vec::new();
            to.retain(|(mailbox, home)| {
                let Some((reason, proof)) = proof.refusal(seq, mailbox, home, &federation) else { return true };
                refused.push(RefusedRecipient { mailbox: *mailbox, reason, proof: Arc::new(proof) });
                false
            });
            track.progress.send_modify(|progress| {
                progress.stage = Stage::Ordered;
                progress.weak = proof.weak;
                progress.seq = Some(seq);
                progress.refused = refused;
            });
            if track.wait == Wait::Delivered {
                let question = Delivery {
                    endpoint: self.endpoint.clone(),
                    via: self.via.clone(),
                    federation: federation.clone(),
                    newest: self.newest.clone(),
                    id: message.digest(),
                    seq,
                    to,
                };
                self.deliveries.spawn(question.ask(track.progress));
            }
        }
        self.is_going_well();
        Ok(())
    }

    fn refused(&mut self, counter: u64, refusal: Refusal) -> Result<(), ClientError> {
        let window = self.mailbox.federation().params().routing_window_epochs;
        let epoch = self.newest.get().epoch.max(self.origin_epoch);
        if let Refusal::StaleCounter { last } = refusal {
            let forgotten = self.forgotten(counter, last);
            if forgotten > 0 {
                tracing::warn!(forgotten, "this mailbox's directory is an old copy; its numbers jump");
                let mut change = self.store.change()?;
                change.set_back(forgotten)?;
                change.commit()?;
            }
        }
        let Some(flight) = self.flights.get_mut(&counter) else {
            return Ok(());
        };
        let never_taken = flight.accepted.is_none();
        let cannot_come = epoch > flight.pending.bundle.signed.body.valid_until.saturating_add(window);
        let lags = matches!(refusal, Refusal::UnknownSender { .. } | Refusal::UnknownRecipient { .. })
            && flight.since.elapsed() < LAG;
        if let Refusal::BadValidity { from, to, .. } = &refusal {
            self.origin_takes_from = *from;
            // The highest epoch that the origin takes tells where it believes the order to be.
            let ahead = self.mailbox.federation().params().validity_epochs;
            self.origin_epoch = self.origin_epoch.max(to.saturating_sub(ahead));
        }
        let is_stale = matches!(refusal, Refusal::StaleCounter { .. });
        if flight.is_copied && is_stale && (never_taken || cannot_come) {
            return self.leave_to_the_other_copy(counter);
        }
        let above = if let Refusal::StaleCounter { last } = &refusal { *last } else { 0 };
        let phase = match &refusal {
            Refusal::Expired { .. } => None,
            refusal if refusal.is_transient() || lags => Some(Phase::Again),
            _ if !never_taken && !cannot_come => Some(Phase::Doubtful { above }),
            Refusal::StaleCounter { .. } | Refusal::BadValidity { .. } => Some(Phase::Resign { above }),
            _ if flight.pending.bundle.messages.len() > 1 => Some(Phase::Split),
            _ => None,
        };
        match phase {
            Some(phase) => {
                flight.phase = phase;
                if phase == Phase::Again {
                    self.try_again_later();
                }
            }
            None => self.drop_flight(counter, &refusal)?,
        }
        Ok(())
    }

    /// The bundle was pending when this directory was exported, and since then the origin has taken its counter or a later
    /// one: the mailbox has sent it after the export, or has given it up. Signed anew, old mail might come twice.
    fn leave_to_the_other_copy(&mut self, counter: u64) -> Result<(), ClientError> {
        let Some(flight) = self.flights.remove(&counter) else {
            return Ok(());
        };
        tracing::warn!(counter, "what waited when this mailbox was exported was sent since, and is not sent again");
        let mut change = self.store.change()?;
        change.remove(&flight.pending);
        change.commit()
    }

    /// The bundle is refused for good.
    fn drop_flight(&mut self, counter: u64, refusal: &Refusal) -> Result<(), ClientError> {
        let Some(flight) = self.flights.remove(&counter) else {
            return Ok(());
        };
        let mut change = self.store.change()?;
        change.remove(&flight.pending);
        let mut leaves_no_hole = flight.accepted.is_none();
        if leaves_no_hole {
            for (message, numbers) in flight.pending.bundle.messages.iter().zip(&flight.pending.numbers).rev() {
                let to: Vec<MailboxId> = message.recipients.iter().map(|to| to.mailbox).collect();
                leaves_no_hole &= give_back(&mut change, &to, numbers)?;
            }
        }
        if !leaves_no_hole {
            let PendingBundle { bundle, numbers, .. } = &flight.pending;
            if let Some(given_up) = SentBundle::new(bundle, numbers, None) {
                change.keep_sent(&given_up)?;
            }
        }
        change.commit()?;
        let stage = match refusal {
            Refusal::Expired { .. } => Stage::Expired,
            refusal => Stage::Refused(refusal.clone()),
        };
        flight.tell(|progress| progress.stage = stage.clone());
        Ok(())
    }

    /// The origin's answer does not hold. The bundle stays on the disk: the next process asks again.
    fn unverified(&mut self, counter: u64, what: &str, error: &VerifyError) {
        tracing::error!(%error, what, "the origin's answer does not verify");
        if let Some(flight) = self.flights.remove(&counter) {
            let reason = format!("the answer \"{what}\" of {}: {error}", self.via);
            flight.tell(|progress| progress.stage = Stage::Unverified(reason.clone()));
        }
    }
}

/// Remembers where a bundle's messages stand, for recipients that miss one, and for the hint in the next message.
fn keep_ordered(
    change: &mut Change,
    pending: &PendingBundle,
    proof: &OrderedProof,
    first: Seq,
) -> Result<(), ClientError> {
    let PendingBundle { bundle, numbers, .. } = pending;
    let via = Some(bundle.signed.body.via);
    let mut last: BTreeMap<MailboxId, Previous> = BTreeMap::new();
    for ((message, numbers), index) in bundle.messages.iter().zip(numbers).zip(first.index..) {
        for (to, number) in message.recipients.iter().zip(numbers).filter(|(_, number)| **number > 0) {
            last.insert(to.mailbox, Previous { number: *number, seq: Seq { index, ..first }, via });
        }
    }
    for (recipient, place) in last {
        change.place(&recipient, place)?;
    }
    match SentBundle::new(bundle, numbers, Some((proof.clone(), first))) {
        Some(sent) => change.keep_sent(&sent),
        None => Ok(()),
    }
}

/// The question whether one message is with all its recipients, finally.
struct Delivery {
    endpoint: Endpoint,
    via: NodeAddr,
    federation: Federation,
    newest: Newest,
    id: Digest,
    seq: Seq,
    to: Vec<(MailboxId, NodeId)>,
}

impl Delivery {
    async fn ask(self, progress: watch::Sender<Progress>) {
        let mut stage = Stage::NotDelivered;
        for (mailbox, home) in &self.to {
            match self.ask_for(mailbox, home).await {
                Ok(None) => stage = Stage::Delivered,
                Ok(Some(refused)) => progress.send_modify(|progress| progress.refused.push(refused)),
                Err(reason) => {
                    progress.send_modify(|progress| progress.stage = Stage::Unverified(reason.clone()));
                    return;
                }
            }
        }
        progress.send_modify(|progress| progress.stage = stage);
    }

    /// Asks until the message is with `mailbox`, or refused for it.
    async fn ask_for(&self, mailbox: &MailboxId, home: &NodeId) -> Result<Option<RefusedRecipient>, String> {
        let question = Question::Delivery(*mailbox, self.seq);
        let mut delays = backoff();
        loop {
            match self.endpoint.call(&self.via, &question, DELIVERY_TIMEOUT).await {
                Ok(Reply::Delivery(Some(proof))) => {
                    let homes = match self.homes(mailbox, home, proof.attested.attestation.body.node).await {
                        Ok(homes) => homes,
                        Err(error) => {
                            tracing::debug!(%error, "asking again where the recipient lives");
                            sleep(delays.failed()).await;
                            continue;
                        }
                    };
                    let verify = |home: &NodeId| proof.verify(self.id, self.seq, mailbox, home, &self.federation);
                    let held = any_of(&homes, verify);
                    return held.map(|()| None).map_err(|error| format!("the answer \"delivered\": {error}"));
                }
                Ok(Reply::LeafRefused(proof)) => {
                    let verify = |home: &NodeId| proof.verify(self.seq, mailbox, home, &self.federation);
                    let reason = match verify(home) {
                        Ok(reason) => Ok(reason),
                        // It may have been refused where the recipient has lived before, or lives now.
                        Err(error) => match self.places(mailbox).await {
                            Ok(homes) => any_of(&homes, verify).map_err(|_| error),
                            Err(unknown) => {
                                tracing::debug!(error = %unknown, "asking again where the recipient lives");
                                sleep(delays.failed()).await;
                                continue;
                            }
                        },
                    };
                    let reason = reason.map_err(|error| format!("the answer \"refused\": {error}"))?;
                    return Ok(Some(RefusedRecipient { mailbox: *mailbox, reason, proof: Arc::new(*proof) }));
                }
                // Not there yet. A node that answers at once instead of waiting is not asked in a tight loop.
                Ok(Reply::Delivery(None)) => sleep(Duration::from_millis(50)).await,
                Ok(_) => return Err(format!("{} answers something else than it was asked", self.via)),
                Err(error) => {
                    tracing::debug!(%error, "asking for the delivery again");
                    sleep(delays.failed()).await;
                }
            }
        }
    }

    /// Whose word on the recipient's log counts: the home's of the time when the message was sealed, or, if somebody else
    /// has attested it, that of whoever the directory says is its home or was.
    async fn homes(&self, mailbox: &MailboxId, home: &NodeId, by: NodeId) -> Result<Vec<NodeId>, ClientError> {
        if by == *home { Ok(vec![by]) } else { self.places(mailbox).await }
    }

    /// The recipient's home and its former homes, with proof.
    async fn places(&self, mailbox: &MailboxId) -> Result<Vec<NodeId>, ClientError> {
        let (endpoint, federation) = (self.endpoint.clone(), self.federation.clone());
        let found =
            Directory::sharing(endpoint, self.via.clone(), federation, self.newest.clone()).look_up(mailbox).await?;
        let place = found.value.ok_or(ClientError::NotRegistered { mailbox: *mailbox })?;
        let former = place.moved.iter().flat_map(|moved| &moved.spans).map(|span| span.node);
        Ok(std::iter::once(place.home).chain(former).collect())
    }
}

/// What one of these homes has proven; the error of the first if none has.
fn any_of<T>(homes: &[NodeId], verify: impl Fn(&NodeId) -> Result<T, VerifyError>) -> Result<T, VerifyError> {
    let mut tried = homes.iter().map(verify);
    let first = tried.next().unwrap_or(Err(VerifyError::Path { what: "home" }));
    match first {
        Ok(value) => Ok(value),
        Err(error) => tried.find_map(Result::ok).ok_or(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;

    #[test]
    fn one_home_that_proves_it_is_enough_and_the_first_error_is_told_otherwise() {
        let homes = [key(1).public(), key(2).public()];
        let error = |what| VerifyError::Path { what };
        let second = |home: &NodeId| if *home == homes[1] { Ok(7) } else { Err(error("first")) };
        assert_eq!(any_of(&homes, second), Ok(7));
        assert_eq!(any_of(&homes[..1], second), Err(error("first")));
        assert!(any_of(&[], second).is_err());
    }
}
