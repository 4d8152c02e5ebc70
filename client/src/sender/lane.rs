//! A lane: everything that one mailbox sends through one origin, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use postroad_net::Backoff;
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::entry::AcceptedProof;
use postroad_protocol::message::Message;
use postroad_protocol::signed::Signed;
use postroad_protocol::wire::client::{FromClient, ToClient};
use postroad_protocol::{NodeId, Refusal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::resolver::Resolved;
use super::store::{Change, PendingBundle, SendStore};
use super::{Body, Progress, Stage, Wait};
use crate::connection::{ClientStream, Endpoint, NodeAddr, backoff, unasked};
use crate::directory::Newest;
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::seal::{Binding, SealTo, foreign};

/// How many bundles may wait for their first answer.
pub(super) const MAX_UNANSWERED: usize = 4;
/// How many bundles may wait for their place in the order, and how many bytes.
const MAX_PENDING: usize = 256;
const MAX_PENDING_BYTES: u64 = 64 << 20;
/// How many messages go into one bundle.
const MAX_MESSAGES: u64 = 256;
/// Of how many submitted bundles the last counters are remembered.
const MAX_ENDS: usize = 1_024;
/// How many resolved messages wait in the lane.
const MAX_UNSIGNED: usize = 1_024;
/// Without a first answer for so long, the connection is taken for dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an origin may be away before its accepted headers are handed to another node.
const RESCUE_AFTER: Duration = Duration::from_secs(2);

/// Time between two questions what became of doubtful bundles.
const DOUBTS_PAUSE: Duration = Duration::from_secs(1);

/// A message whose owner waits for news.
pub(super) struct Track {
    pub(super) progress: watch::Sender<Progress>,
    pub(super) wait: Wait,
    /// The home of each recipient.
    pub(super) homes: Vec<NodeId>,
}

/// Where a bundle stands in the conversation with its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be submitted.
    Ready,
    /// Submitted, not answered.
    Sent,
    /// Accepted; the order is awaited.
    Accepted,
    /// Refused for the moment: the same bytes again.
    Again,
    /// Refused as it is signed, and never taken: to be signed anew, above this counter.
    Resign { above: u64 },
    /// Refused for one of its messages: to be signed anew, one by one.
    Split,
    /// Accepted once, refused now: the origin was set back. It may be ordered already, or still be; when that has become
    /// impossible it is to be signed anew, above this counter.
    Doubtful { above: u64 },
}

/// A bundle on its way.
pub(super) struct Flight {
    pub(super) pending: PendingBundle,
    pub(super) phase: Phase,
    pub(super) accepted: Option<AcceptedProof>,
    /// Whether it was pending when this directory was exported.
    pub(super) is_copied: bool,
    /// One for each message; none for those of an earlier process.
    pub(super) tracks: Vec<Option<Track>>,
    pub(super) since: Instant,
    /// Cuts up to this epoch were searched for it.
    pub(super) searched: u64,
}

impl Flight {
    fn new(pending: PendingBundle, tracks: Vec<Option<Track>>) -> Flight {
        let searched = pending.epoch.saturating_sub(1);
        let (phase, accepted, is_copied) = (Phase::Ready, None, false);
        Flight { pending, phase, accepted, is_copied, tracks, since: Instant::now(), searched }
    }

    pub(super) fn tell(&self, news: impl Fn(&mut Progress)) {
        for track in self.tracks.iter().flatten() {
            track.progress.send_modify(&news);
        }
    }
}

pub(super) struct Lane {
    pub(super) mailbox: Mailbox,
    pub(super) endpoint: Endpoint,
    pub(super) via: NodeAddr,
    pub(super) store: SendStore,
    pub(super) newest: Newest,
    requests: mpsc::Receiver<Resolved>,
    is_open: bool,
    unsigned: VecDeque<Resolved>,
    /// By counter.
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) deliveries: JoinSet<()>,
    /// The last epoch of which the origin has spoken.
    pub(super) origin_epoch: u64,
    /// The lowest valid-until that the origin takes; high where its disk was set back (rule 4).
    pub(super) origin_takes_from: u64,
    /// When refused bundles are tried again, and how long that takes the next time.
    again_at: Instant,
    again: Backoff,
    /// When it is asked again what became of doubtful bundles.
    doubts_at: Instant,
    sent_at: Instant,
    /// The first counter of which this mailbox's directory did not know, when the lane began, that it was used.
    pub(super) unused: u64,
    /// The last counters of the newest bundles that this process has submitted.
    ends: BTreeSet<u64>,
}

impl Lane {
    pub(super) fn new(
        mailbox: &Mailbox,
        endpoint: Endpoint,
        via: NodeAddr,
        store: SendStore,
        newest: Newest,
        requests: mpsc::Receiver<Resolved>,
    ) -> Result<Lane, ClientError> {
        let mut flights = BTreeMap::new();
        for (pending, accepted) in store.pending(&via.node())? {
            let tracks = pending.bundle.messages.iter().map(|_| None).collect();
            let is_copied = store.is_copied(&pending)?;
            flights.insert(pending.counter(), Flight { accepted, is_copied, ..Flight::new(pending, tracks) });
        }
        let now = Instant::now();
        let unused = store.next_counter(&via.node())?;
        Ok(Lane {
            mailbox: mailbox.clone(),
            endpoint,
            via,
            store,
            newest,
            requests,
            is_open: true,
            unsigned: VecDeque::new(),
            flights,
            deliveries: JoinSet::new(),
            origin_epoch: 0,
            origin_takes_from: 0,
            again_at: now,
            again: backoff(),
            doubts_at: now,
            sent_at: now,
            unused,
            ends: BTreeSet::new(),
        })
    }

    /// How many bundles are on their way.
    pub(super) fn pending(&self) -> usize {
        self.flights.len()
    }

    /// Runs until nothing is left to do, or the store fails.
    pub(super) async fn run(mut self) {
        let mut delays = backoff();
        let mut down_since = Instant::now();
        while !self.is_done() {
            let ended = match self.endpoint.open(&self.via, self.mailbox.federation()).await {
                Ok(stream) => {
                    delays.succeeded();
                    let ended = self.session(stream).await;
                    down_since = Instant::now();
                    ended
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => continue,
                Err(error @ ClientError::Store(_)) => {
                    tracing::error!(%error, "sending stops");
                    return;
                }
                Err(error) if error.is_transient() => tracing::debug!(%error, "connecting again"),
                Err(error) => self.give_up_waiting(&error),
            }
            if down_since.elapsed() >= RESCUE_AFTER
                && let Err(error) = self.rescue().await
            {
                tracing::debug!(%error, "no other node took the accepted headers");
            }
            sleep(delays.failed()).await;
        }
    }

    fn is_done(&self) -> bool {
        !self.is_open && self.unsigned.is_empty() && self.flights.is_empty() && self.deliveries.is_empty()
    }

    /// The origin will not talk to this mailbox: whoever waits is told. What is signed stays on the disk.
    fn give_up_waiting(&mut self, error: &ClientError) {
        tracing::warn!(%error, "the origin does not talk to this mailbox");
        let stage = match error {
            ClientError::Refused(refusal) => Stage::Refused(refusal.clone()),
            error => Stage::Unverified(error.to_string()),
        };
        for resolved in self.unsigned.drain(..) {
            resolved.progress.send_modify(|progress| progress.stage = stage.clone());
        }
        for flight in self.flights.values() {
            flight.tell(|progress| progress.stage = stage.clone());
        }
    }

    async fn session(&mut self, mut stream: ClientStream) -> Result<(), ClientError> {
        self.origin_epoch = self.origin_epoch.max(stream.epoch);
        // The origin answers bundles that it has taken as it did before, so everything is simply said again.
        self.flights.values_mut().for_each(|flight| flight.phase = Phase::Ready);
        self.again.succeeded();
        loop {
            self.repair()?;
            while let Some(counter) = self.next_to_submit()? {
                let bundle = Box::new(self.submitted(counter));
                stream.outgoing.send(&FromClient::Submit(bundle)).await?;
            }
            if self.is_done() {
                return Ok(());
            }
            let (unanswered, refused) = (self.count(Phase::is_sent) > 0, self.count(Phase::is_refused) > 0);
            let doubtful = self.count(Phase::is_doubtful) > 0;
            tokio::select! {
                message = stream.incoming.next() => match message? {
                    ToClient::Answer(counter, answer) => self.answer(counter, *answer)?,
                    ToClient::Refused(refusal) => return Err(refusal.into()),
                    _ => return Err(unasked(&self.via)),
                },
                resolved = self.requests.recv(), if self.is_open && self.unsigned.len() < MAX_UNSIGNED => {
                    self.is_open = resolved.is_some();
                    self.unsigned.extend(resolved);
                    while self.unsigned.len() < MAX_UNSIGNED && let Ok(more) = self.requests.try_recv() {
                        self.unsigned.push_back(more);
                    }
                }
                () = sleep_until(self.again_at), if refused && !unanswered && !doubtful => {}
                () = sleep_until(self.doubts_at), if doubtful && !unanswered => {
                    if let Err(error) = self.resolve_doubts().await {
                        tracing::debug!(%error, "nobody tells what became of a bundle");
                    }
                    self.doubts_at = Instant::now() + DOUBTS_PAUSE;
                }
                () = sleep_until(self.sent_at + ANSWER_TIMEOUT), if unanswered => {
                    return Err(ClientError::TimedOut { what: format!("the answer of {}", self.via) });
                }
                Some(_) = self.deliveries.join_next(), if !self.deliveries.is_empty() => {}
            }
        }
    }

    /// The bundle that is submitted now.
    pub(super) fn submitted(&mut self, counter: u64) -> Bundle {
        let flight = self.flights.get_mut(&counter).expect("it is one of the flights");
        flight.phase = Phase::Sent;
        self.sent_at = Instant::now();
        let bundle = flight.pending.bundle.clone();
        self.ends.insert(last_counter(&bundle));
        if self.ends.len() > MAX_ENDS {
            self.ends.pop_first();
        }
        bundle
    }

    /// The origin has taken a bundle that ends with `last` instead of the one with this counter. How many messages this
    /// mailbox must have sent and forgotten for that: its directory is an old copy. (A later bundle of this process may
    /// have overtaken one that was refused as busy; that is no such sign.)
    pub(super) fn forgotten(&mut self, counter: u64, last: u64) -> u64 {
        let Some(end) = self.flights.get(&counter).map(|flight| last_counter(&flight.pending.bundle)) else {
            return 0;
        };
        if last < self.unused || last < counter || (last != end && self.ends.contains(&last)) {
            return 0;
        }
        let forgotten = last - self.unused + 1;
        self.unused = last.saturating_add(1);
        forgotten
    }

    fn count(&self, wanted: impl Fn(&Phase) -> bool) -> usize {
        self.flights.values().filter(|flight| wanted(&flight.phase)).count()
    }

    /// The counter of the bundle to submit now, signing a new one if messages wait and none is ready.
    fn next_to_submit(&mut self) -> Result<Option<u64>, ClientError> {
        // Behind a refused bundle nothing leaves: messages are ordered as they were given.
        let refused = self.count(Phase::is_refused) + self.count(Phase::is_doubtful);
        if self.count(Phase::is_sent) >= MAX_UNANSWERED || refused > 0 {
            return Ok(None);
        }
        if let Some((counter, _)) = self.flights.iter().find(|(_, flight)| flight.phase == Phase::Ready) {
            return Ok(Some(*counter));
        }
        let bytes: u64 = self.flights.values().map(|flight| flight.pending.bundle.weight_bytes()).sum();
        if self.flights.len() >= MAX_PENDING || bytes >= MAX_PENDING_BYTES {
            return Ok(None);
        }
        self.sign_waiting()
    }

    /// Signs the messages that wait as one bundle, and makes it durable.
    fn sign_waiting(&mut self) -> Result<Option<u64>, ClientError> {
        if self.unsigned.is_empty() {
            return Ok(None);
        }
        let params = self.mailbox.federation().params().clone();
        let mut change = self.store.change()?;
        let (mut messages, mut numbers, mut tracks) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        while (messages.len() as u64) < MAX_MESSAGES.min(params.max_bundle_messages)
            && let Some(resolved) = self.unsigned.pop_front()
        {
            let (message, taken) = self.seal(&resolved, &mut change)?;
            let checked = message.and_then(|message| message.check(&params).map(|()| message));
            match checked {
                Ok(message) if messages.is_empty() || bytes + message.weight_bytes() <= params.max_bundle_bytes => {
                    bytes += message.weight_bytes();
                    let homes = resolved.places.iter().map(|place| place.home).collect();
                    messages.push(message);
                    numbers.push(taken);
                    tracks.push(Some(Track { progress: resolved.progress, wait: resolved.message.wait, homes }));
                }
                Ok(_) => {
                    give_back(&mut change, &resolved.message.to, &taken)?;
                    self.unsigned.push_front(resolved);
                    break;
                }
                Err(refusal) => {
                    give_back(&mut change, &resolved.message.to, &taken)?;
                    resolved.progress.send_modify(|progress| progress.stage = Stage::Refused(refusal.clone()));
                }
            }
        }
        let flight =
            (!messages.is_empty()).then(|| self.sign(messages, numbers, tracks, 0, &mut change)).transpose()?;
        change.commit()?;
        Ok(flight.map(|flight| self.launch(flight)))
    }

    /// Seals one message; with it the numbers that it took.
    fn seal(
        &self,
        resolved: &Resolved,
        change: &mut Change,
    ) -> Result<(Result<Message, Refusal>, Vec<u64>), ClientError> {
        let invalid = |reason: String| Err(Refusal::Invalid { reason });
        let to = &resolved.message.to;
        match &resolved.message.body {
            Body::Sealed(plain) => {
                let mut sealed_to = Vec::with_capacity(to.len());
                for (mailbox, place) in to.iter().zip(&resolved.places) {
                    let numbering = change.number(mailbox, &self.via.node())?;
                    sealed_to.push(SealTo { mailbox: *mailbox, encryption_key: place.encryption_key, numbering });
                }
                let numbers = sealed_to.iter().map(|to| to.numbering.number).collect();
                let binding = Binding { federation: self.mailbox.federation().id(), sender: self.mailbox.address() };
                let message = binding.seal(plain, self.newest.get(), &sealed_to);
                Ok((message.or_else(|error| invalid(error.to_string())), numbers))
            }
            Body::Foreign { common, own } => {
                let message = if own.len() == to.len() {
                    let to: Vec<_> = to.iter().copied().zip(own.iter().cloned()).collect();
                    Ok(foreign(common, &to))
                } else {
                    invalid("not one own payload for each recipient".into())
                };
                Ok((message, vec![0; to.len()]))
            }
        }
    }

    /// Signs a bundle and stages it.
    pub(super) fn sign(
        &self,
        messages: Vec<Message>,
        numbers: Vec<Vec<u64>>,
        tracks: Vec<Option<Track>>,
        above: u64,
        change: &mut Change,
    ) -> Result<Flight, ClientError> {
        let federation = self.mailbox.federation();
        let (sender, via) = (self.mailbox.address(), self.via.node());
        let epoch = self.newest.get().epoch.max(self.origin_epoch);
        let valid_until = (epoch + federation.params().validity_epochs / 2).max(self.origin_takes_from);
        let counter = change.counters(&via, messages.len() as u64, above)?;
        let body = BundleBody::new(sender, via, counter, valid_until, &messages);
        let signed = Signed::sign(body, self.mailbox.secret(), federation).into_inner();
        let bundle = Bundle { signed, messages };
        let pending = PendingBundle { via: self.via.to_string(), epoch, numbers, bundle };
        change.put(&pending);
        Ok(Flight::new(pending, tracks))
    }

    /// Takes up a bundle that is durable now.
    pub(super) fn launch(&mut self, flight: Flight) -> u64 {
        let first = flight.pending.counter();
        for ((message, track), counter) in flight.pending.bundle.messages.iter().zip(&flight.tracks).zip(first..) {
            if let Some(track) = track {
                let id = message.digest();
                track.progress.send_modify(|progress| {
                    progress.id = Some(id);
                    progress.counter = Some(counter);
                });
            }
        }
        self.flights.insert(first, flight);
        first
    }

    /// A bundle was refused for the moment.
    pub(super) fn try_again_later(&mut self) {
        let delay = self.again.failed();
        self.again_at = Instant::now() + delay;
    }

    /// A bundle was accepted.
    pub(super) fn is_going_well(&mut self) {
        self.again.succeeded();
    }

    /// Once every bundle that was sent is answered: refused ones are made ready again, in order. From the first one on
    /// that must be signed anew, all are, so that their counters keep the order.
    fn repair(&mut self) -> Result<(), ClientError> {
        let unclear = self.count(Phase::is_sent) + self.count(Phase::is_doubtful);
        if self.count(Phase::is_refused) == 0 || unclear > 0 || Instant::now() < self.again_at {
            return Ok(());
        }
        let refused: Vec<u64> = (self.flights.iter())
            .filter(|(_, flight)| flight.phase.is_refused())
            .map(|(counter, _)| *counter)
            .collect();
        let mut above = 0;
        let mut anew = false;
        for counter in refused {
            let phase = self.flights[&counter].phase;
            anew |= phase != Phase::Again;
            if !anew {
                self.flights.entry(counter).and_modify(|flight| flight.phase = Phase::Ready);
                continue;
            }
            if let Phase::Resign { above: last } = phase {
                above = above.max(last);
            }
            self.sign_anew(counter, phase == Phase::Split, above)?;
        }
        Ok(())
    }

    fn sign_anew(&mut self, counter: u64, one_by_one: bool, above: u64) -> Result<(), ClientError> {
        let Some(Flight { pending, tracks, .. }) = self.flights.remove(&counter) else {
            return Ok(());
        };
        let mut change = self.store.change()?;
        change.remove(&pending);
        let PendingBundle { numbers, bundle, .. } = pending;
        let mut flights = Vec::new();
        if one_by_one {
            for ((message, numbers), track) in bundle.messages.into_iter().zip(numbers).zip(tracks) {
                flights.push(self.sign(vec![message], vec![numbers], vec![track], above, &mut change)?);
            }
        } else {
            flights.push(self.sign(bundle.messages, numbers, tracks, above, &mut change)?);
        }
        change.commit()?;
        for flight in flights {
            self.launch(flight);
        }
        Ok(())
    }
}

fn last_counter(bundle: &Bundle) -> u64 {
    let body = &bundle.signed.body;
    body.counter.saturating_add(u64::from(body.count)).saturating_sub(1)
}

/// Numbers of a message that never left go back, the last one first. Returns whether all of them did.
pub(super) fn give_back(
    change: &mut Change,
    to: &[postroad_protocol::MailboxId],
    numbers: &[u64],
) -> Result<bool, ClientError> {
    let mut all = true;
    for (recipient, number) in to.iter().zip(numbers).rev() {
        all &= change.give_back(recipient, *number)?;
    }
    Ok(all)
}

impl Phase {
    fn is_sent(&self) -> bool {
        matches!(self, Phase::Sent)
    }

    pub(super) fn is_doubtful(&self) -> bool {
        matches!(self, Phase::Doubtful { .. })
    }

    fn is_refused(&self) -> bool {
        matches!(self, Phase::Again | Phase::Resign { .. } | Phase::Split)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
