//! Where the mailbox lives, and what a move makes of what was read.
//!
//! A new home continues a log that a former home attested finally; the state of the federation says which, once the new
//! home has taken over. What was read beyond that comes again, under other indexes: it is known by its number, and not
//! given to the application twice. A log that does not continue what was read here is a violation by the new home.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{Acknowledgement, LogHead};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::genesis::Member;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::OwnerBase;
use postroad_protocol::signed::Signed;
use postroad_protocol::state::MailboxState;
use postroad_protocol::{NodeId, Refusal, Seq};
use postroad_store::StoreError;
use tokio::time::{Instant, timeout};

use super::store::RecvStore;
use super::tail::Based;
use super::{Handed, Mail, Received, Receiver};
use crate::directory::{Directory, Home};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::moving;
use crate::nodes::{Nodes, addresses};
use crate::private_file::{damaged, write_durably};
use crate::verify_log::Violation;

/// How long the home may be away before others are asked whether the mailbox has moved.
pub(super) const ASK_OTHERS_AFTER: Duration = Duration::from_secs(1);
/// How often the mailbox's directory is looked at for a move that another process made.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the home is asked whether the move to it is finished, and how long it may take to say so.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// What the owner can hand to a new home, for a process that finds the store in use.
const BASE: &str = "recv/base";
/// The last final attestation of the present home all of which the application has, for such a process.
const VERIFIED: &str = "recv/verified";

/// A log that a home has attested finally, and that was read here as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct VerifiedLog {
    /// The home.
    #[n(0)]
    pub(crate) home: NodeId,
    /// The epoch that it attests.
    #[n(1)]
    pub(crate) epoch: u64,
    /// How many entries there are.
    #[n(2)]
    pub(crate) size: u64,
}

/// Where the mailbox lived when it was read last.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Residence {
    /// The home.
    #[n(0)]
    pub(super) home: NodeId,
    /// Since which epoch.
    #[n(1)]
    pub(super) since: u64,
    /// The homes before, the oldest first.
    #[n(2)]
    pub(super) former: Vec<NodeId>,
    /// The log that the home continues.
    #[n(3)]
    pub(super) continues: Option<LogHead>,
    /// The epoch of the import with which the move here was finished; none while that is not known. What the home has
    /// attested before is no log that a next home could continue.
    #[n(4)]
    pub(super) complete: Option<u64>,
}

impl Mailbox {
    /// What the owner itself has of its log, for a new home that does not get it from the old one: the last log that the
    /// home has attested finally and all of which the application has acknowledged. None if there is none yet. It can be
    /// had while a receiver runs, too: then it is what that receiver has written down.
    ///
    /// # Errors
    /// [`ClientError::Store`] (`InUse`) when a receiver runs that has written nothing down yet.
    pub fn owner_base(&self) -> Result<Option<OwnerBase>, ClientError> {
        let based = match RecvStore::open(self.dir()) {
            Ok(store) => store.load(None, None)?.tail.base().cloned(),
            Err(ClientError::Store(in_use @ StoreError::InUse { .. })) => match read_base(self.dir())? {
                Some(based) => Some(based),
                None => return Err(in_use.into()),
            },
            Err(error) => return Err(error),
        };
        Ok(based.map(|based| self.acknowledging(based)))
    }

    fn acknowledging(&self, Based { attested, frontier }: Based) -> OwnerBase {
        let body = Acknowledgement { mailbox: self.address(), log: attested.log.log };
        let acknowledged = Signed::sign(body, self.secret(), self.federation()).into_inner();
        OwnerBase { attested, frontier, acknowledged }
    }
}

/// What a running receiver has written down for a new home.
fn read_base(mailbox_dir: &Path) -> Result<Option<Based>, ClientError> {
    read_note(&mailbox_dir.join(BASE))
}

/// What a running receiver has written down of the log that it has read.
pub(crate) fn read_verified(mailbox_dir: &Path) -> Result<Option<VerifiedLog>, ClientError> {
    read_note(&mailbox_dir.join(VERIFIED))
}

fn read_note<T: for<'b> Decode<'b, ()> + Encode<()>>(path: &Path) -> Result<Option<T>, ClientError> {
    match std::fs::read(path) {
        Ok(bytes) => decode(&bytes).map(Some).map_err(|error| damaged(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ClientError::Io { path: path.to_owned(), source }),
    }
}

impl Receiver {
    /// What the owner itself has of its log; see [`Mailbox::owner_base`].
    pub fn owner_base(&self) -> Option<OwnerBase> {
        self.tail.base().cloned().map(|based| self.mailbox.acknowledging(based))
    }

    /// How many entries that the application had from a former home are still to come again from the new one.
    pub fn awaited_again(&self) -> usize {
        let unseen = |seq: &&Seq| !self.handed.contains_key(seq);
        self.given.iter().filter(unseen).count() + self.again_here.len()
    }

    /// Writes down what [`Mailbox::owner_base`] finds while this receiver runs.
    pub(super) fn write_base(&self) -> Result<(), ClientError> {
        match self.tail.base() {
            Some(based) => write_durably(&self.mailbox.dir().join(BASE), &encode(based)),
            None => Ok(()),
        }
    }

    /// Writes down, for a process that follows a move, what the application has of what the home attested last.
    pub(super) fn write_verified(&mut self) -> Result<(), ClientError> {
        let Some(last) = self.attestations.last_final().filter(|last| last.log.log.size <= self.low) else {
            return Ok(());
        };
        let body = &last.attestation.body;
        let verified = VerifiedLog { home: body.node, epoch: body.epoch, size: last.log.log.size };
        if moving::target(self.mailbox.dir()).is_some() && self.written != Some(verified) {
            write_durably(&self.mailbox.dir().join(VERIFIED), &encode(&verified))?;
            self.written = Some(verified);
        }
        Ok(())
    }

    /// The home closes, and offers another one. Nothing proves it, and nothing follows from it but by the owner's order.
    pub(super) fn offered(&mut self, to: &Member) {
        let home = self.mailbox.home().node();
        let offer = (home, to.node);
        if to.node == home || self.offered == Some(offer) {
            return;
        }
        match addresses(to.node, &to.addrs).into_iter().next() {
            Some(to) => {
                self.offered = Some(offer);
                self.queue.push_back(Received::Retiring { home, to });
            }
            None => tracing::debug!(node = %to.node, "the home that is offered listens nowhere"),
        }
    }

    /// Whether a move to another node is under way, so that what that node may continue has to stay.
    pub(super) fn is_leaving(&self) -> bool {
        let here = self.residence.as_ref().map(|residence| residence.home);
        moving::target(self.mailbox.dir()).is_some_and(|target| Some(target) != here)
    }

    /// Whether a next home may still continue another log than the one of this home: a move away is under way, or the one
    /// that led here was not finished when the home attested last, so that its log is none that could be continued.
    pub(super) fn may_go_back(&self) -> bool {
        let attested = self.attestations.last_final().map_or(0, |last| last.attestation.body.epoch);
        let is_new =
            |known: &Residence| known.continues.is_some() && known.complete.is_none_or(|complete| attested < complete);
        self.is_leaving() || self.residence.as_ref().is_some_and(is_new)
    }

    /// Asks the home now and then whether the move that led to it is finished, once that can be.
    pub(super) async fn learn_completion(&mut self) {
        let window = self.mailbox.federation().params().routing_window_epochs;
        let attested = self.attestations.last_final().map_or(0, |last| last.attestation.body.epoch);
        let Some(known) = &self.residence else { return };
        let may_be = known.continues.is_some() && known.complete.is_none() && attested >= known.since + window;
        if !may_be || self.asked_at.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return;
        }
        self.asked_at = Some(Instant::now());
        let (endpoint, home) = (self.endpoint.clone(), self.mailbox.home().clone());
        let federation = self.mailbox.federation().clone();
        let mut directory = Directory::sharing(endpoint, home, federation, self.newest.clone());
        let Ok(Ok(found)) = timeout(ASK_EVERY, directory.look_up(&self.mailbox.address())).await else { return };
        let Some(value) = found.value else { return };
        let moved = value.moved.as_ref().filter(|moved| moved.is_finished(window));
        if let Some(import) = moved.and_then(|moved| moved.import.as_ref())
            && let Some(known) = &mut self.residence
            && (known.home, known.since) == (value.home, value.since)
        {
            known.complete = Some(import.epoch);
        }
    }

    /// Another process may have learnt that the mailbox moved.
    pub(super) fn has_left(&self) -> bool {
        self.mailbox.recorded_home().is_some_and(|home| home != *self.mailbox.home())
    }

    /// Finds out where the mailbox lives now, and goes there. With `ask_others`, whoever is known is asked as well.
    pub(super) async fn locate(&mut self, ask_others: bool) -> Result<(), ClientError> {
        if let Some(home) = self.mailbox.recorded_home() {
            self.mailbox.lives_at(home)?;
        }
        let address = self.mailbox.address();
        let federation = self.mailbox.federation().clone();
        let home = self.mailbox.home().clone();
        let mut directory = Directory::sharing(self.endpoint.clone(), home.clone(), federation, self.newest.clone());
        let Home { value, .. } = match directory.look_up(&address).await {
            // A brand-new federation has no cut to prove anything with.
            Err(ClientError::Refused(Refusal::NotFound { .. })) => return Ok(()),
            Err(error) if ask_others && !error.is_violation() => {
                tracing::debug!(%error, "the home does not say where the mailbox lives; others are asked");
                let since = self.residence.as_ref().map(|residence| residence.since);
                Nodes::of(&self.mailbox, self.endpoint.clone())?.home(&address, since, &self.newest).await?
            }
            // It is behind, or seems to be.
            Err(ClientError::Misbehaving { .. }) => return Err(Refusal::NotReady.into()),
            found => found?,
        };
        // A home that is behind does not know a new mailbox yet, and says so itself.
        let Some(value) = value else { return Ok(()) };
        if self.residence.as_ref().is_some_and(|known| value.since < known.since) {
            return Err(Refusal::NotReady.into());
        }
        let mut nodes = Nodes::of(&self.mailbox, self.endpoint.clone())?;
        if value.home != home.node() {
            let addr = nodes.address(value.home).await?;
            self.mailbox.lives_at(addr)?;
        }
        if !self.has_learnt {
            // Whoever is known now can be asked when the home is gone.
            self.has_learnt = nodes.learn_from(self.mailbox.home()).await.is_ok();
        }
        self.settle_in(&value)
    }

    /// Takes note of the mailbox's place, as a certified cut has it.
    pub(super) fn settle_in(&mut self, value: &MailboxState) -> Result<(), ClientError> {
        let is_known = |known: &Residence| (known.home, known.since) == (value.home, value.since);
        if self.residence.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let spans = value.moved.iter().flat_map(|moved| &moved.spans);
        let former: Vec<NodeId> = spans.map(|span| span.node).collect();
        let mut residence = Residence { home: value.home, since: value.since, former, continues: None, complete: None };
        if let Some(moved) = &value.moved {
            // What the new home continues stands in the state once it has taken over.
            let Some(import) = &moved.import else { return Err(Refusal::NotReady.into()) };
            let empty = LogHead { size: 0, root: Frontier::new().root() };
            let continues = import.base.map_or(empty, |base| base.log);
            residence.continues = Some(continues);
            // Otherwise there was another home between that which was read last and this one, or this one continues the
            // log of an older one: what that had is not known.
            let came_straight = self.residence.as_ref().is_some_and(|known| {
                moved.spans.last().is_some_and(|span| (span.node, span.since) == (known.home, known.since))
                    && import.base.is_some_and(|base| base.node == known.home && known.since <= base.attestation.epoch)
            });
            let ended = self.go_on(&residence, continues, came_straight);
            if let Err(ClientError::Violation(violation)) = ended {
                return self.violated(violation);
            }
            ended?;
        }
        self.residence = Some(residence);
        self.save(Vec::new(), &[])
    }

    fn go_on(&mut self, to: &Residence, continues: LogHead, came_straight: bool) -> Result<(), ClientError> {
        let not_continued = || Violation::NotContinued { home: to.home, size: continues.size };
        let here = self.verifier.next_index();
        let sure = self.tail.base().map(|base| base.frontier.size()).filter(|_| !came_straight);
        let mut size = continues.size.min(sure.unwrap_or(here)).min(here);
        let edge = |size: u64| {
            let known = self.verifier.frontier_at(size).map(|log| (log, self.verifier.leaf_before(size)));
            known.or_else(|| self.tail.edge_at(size)).ok_or_else(not_continued)
        };
        let (mut log, mut before) = edge(size)?;
        if size == continues.size && log.root() != continues.root {
            // The home before this one had continued a shorter log: the two part above that.
            size = self
                .tail
                .base()
                .map(|base| base.frontier.size())
                .filter(|base| *base < size)
                .ok_or_else(not_continued)?;
            (log, before) = edge(size)?;
        }
        self.tail_rewritten = self.tail.is_rewritten(size);
        let beyond = self.tail.roll_back(size);
        if size < here {
            let above = self.above.split_off(&size);
            self.given.add(beyond.iter().chain(above.values()).map(|leaf| leaf.seq));
            self.offered_again(size);
            self.dropped = self.shelf.roll_back(&log);
            self.verifier.roll_back(log.clone(), before);
            (self.low, self.reading) = (self.low.min(size), self.reading.min(size));
            if size < self.position.log.size() {
                (self.position.log, self.position.before) = (log, before);
            }
            self.again = self.again.take().filter(|again| again.size() <= size);
        }
        self.verifier.moves_to(to.home, to.since, continues.size);
        self.attestations.forget();
        self.delivery.moved();
        (self.settled, self.told, self.expired_to) = (None, None, 0);
        Ok(())
    }

    /// What was offered to the application beyond `size` comes again, and is known by its number.
    fn offered_again(&mut self, size: u64) {
        let again = &mut self.again_here;
        let beyond = |mail: &Mail| (mail.index >= size).then_some(mail.seq);
        again.extend(self.verified.values().filter_map(|mail| beyond(mail)));
        again.extend(self.queue.iter().filter_map(Received::mail).filter_map(beyond));
        for (seq, handed) in &mut self.handed {
            if handed.index.is_some_and(|index| index >= size) {
                handed.index = None;
                again.insert(*seq);
            }
        }
    }

    /// Whether the application had an entry before, from a former home, or has it before it in the queue.
    pub(super) fn came_before(&mut self, mail: &Mail) -> bool {
        let seq = mail.seq;
        if self.again_here.remove(&seq) {
            if let Some(handed) = self.handed.get_mut(&seq) {
                *handed = Handed::of(mail);
            } else if let Some(waiting) = self.verified.get_mut(&seq) {
                **waiting = mail.clone();
            } else if let Some(queued) = self.queue.iter_mut().filter_map(Received::mail_mut).find(|it| it.seq == seq) {
                *queued = mail.clone();
            } else if self.given.contains(&seq) {
                self.handed.insert(seq, Handed::of(mail));
            }
            return true;
        }
        if self.options.from.is_some_and(|from| seq >= from) || !self.given.contains(&seq) {
            return false;
        }
        self.handed.insert(seq, Handed::of(mail));
        true
    }

    /// The new home's log is that which it says it continues, as far as that goes.
    pub(super) fn check_continued(&self) -> Result<(), Violation> {
        let Some(Residence { home, continues: Some(continues), .. }) = &self.residence else { return Ok(()) };
        if self.verifier.next_index() == continues.size && self.verifier.head() != *continues {
            return Err(Violation::NotContinued { home: *home, size: continues.size });
        }
        Ok(())
    }
}

/// The numbers of entries that the application had from a former home, and that have not come again.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    numbers: BTreeSet<Seq>,
    /// What has changed since it was stored.
    pub(super) changed: BTreeSet<Seq>,
}

impl Given {
    pub(super) fn resume(numbers: BTreeSet<Seq>) -> Given {
        Given { numbers, changed: BTreeSet::new() }
    }

    fn iter(&self) -> impl Iterator<Item = &Seq> {
        self.numbers.iter()
    }

    pub(super) fn contains(&self, seq: &Seq) -> bool {
        self.numbers.contains(seq)
    }

    pub(super) fn add(&mut self, numbers: impl IntoIterator<Item = Seq>) {
        for seq in numbers {
            if self.numbers.insert(seq) {
                self.changed.insert(seq);
            }
        }
    }

    pub(super) fn remove(&mut self, seq: &Seq) -> bool {
        let was_there = self.numbers.remove(seq);
        if was_there {
            self.changed.insert(*seq);
        }
        was_there
    }
}
