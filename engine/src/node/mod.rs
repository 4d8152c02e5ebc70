//! A whole node: the rooms, and what carries the outputs of one to the next.
//!
//! [`Node::handle`] takes one input and appends outputs. The parts: [`joining`](self) (record and start), submissions,
//! cuts, and the housekeeping that time drives. A store error ends in [`Output::Fatal`]: the process stops, and the next
//! start recovers with the code that every start runs.

mod accepted;
mod admission;
mod challenges;
#[cfg(feature = "cheat")]
mod cheat;
mod cuts;
mod deputies;
mod evidence;
mod handing_in;
mod holding;
mod hosting;
mod joining;
mod leaving;
mod mending;
mod moving;
mod retention;
pub mod retiring;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postroad_protocol::cut::Cut;
use postroad_protocol::record::Record;
use postroad_protocol::state::State;
use postroad_protocol::wire::client::Answer;
use postroad_protocol::wire::mail::Homeward;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, PublicKey, Refusal, SecretKey, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::arrivals::{Answered, Arrivals};
use crate::auditor::Auditor;
use crate::departures::Forgetting;
use crate::deposits::Deposits;
use crate::evidence::{EvidencePool, Policy};
use crate::exhibits::Exhibits;
use crate::gate::{Gate, Load};
use crate::inbox::{Inbox, Submitted};
use crate::io::{ClientId, Held, Input, Now, Output, Report, Time, Token};
use crate::ledger::Ledger;
use crate::outbox::Outbox;
use crate::rate::Rate;
use crate::receiver::Receiver;
use crate::router::{Origin, Router};
use crate::sequencer::Sequencer;
use crate::tables::{self, BATCHES, CUTS, DRAFT, META, StoredBatch};

pub use seen::Backlog;

/// Time between two rounds of housekeeping: what was not answered is asked for again.
const HOUSEKEEPING_MS: u64 = 1_000;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The federation.
    pub federation: Federation,
    /// The node's key.
    pub secret: SecretKey,
    /// Its name, for people.
    pub name: String,
    /// Where others reach it, as multiaddresses without PeerId.
    pub addrs: Vec<String>,
    /// Whom it wishes for as deputies, in this order: at most 8, none twice, and not itself.
    pub deputies: Vec<NodeId>,
    /// Which nodes may name this one as a deputy.
    pub deputy_for: Admission,
    /// Sixteen random bytes, new at every start.
    pub nonce: [u8; 16],
    /// Who may register mailboxes here.
    pub admission: Admission,
    /// Payload bytes that wait in the inbox, at most.
    pub max_queued_bytes: u64,
    /// Payload bytes of one sender that wait in the inbox or are sealed and not ordered, at most.
    pub max_sender_bytes: u64,
    /// Bytes of slices that this node holds for one origin as custodian, at most.
    pub max_custody_bytes: u64,
    /// Payload bytes that are sealed and not ordered, at most.
    pub max_flight_bytes: u64,
    /// How many mailboxes may live here.
    pub max_mailboxes: u64,
    /// How many new ones are registered in a minute, at most; 0 for no bound.
    pub registrations_per_minute: u64,
    /// What a mailbox of this node may hold that its owner has not acknowledged; what comes beyond it is refused.
    pub mailbox_quota: Load,
    /// What to do about those whom evidence convicts.
    pub policy: Policy,
    /// Who may move a mailbox here.
    pub moves: Admission,
    /// Payload bytes that a mailbox may hold unacknowledged to be taken over.
    pub max_move_bytes: u64,
    /// The last epoch that the signing guard has signed; for the sequencer's node only.
    pub guard_epoch: u64,
}

/// Whom a node admits: mailboxes that are to live here, nodes that name it as their deputy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Anybody.
    Open,
    /// Nobody.
    Closed,
    /// These.
    List(Vec<PublicKey>),
}

/// A store with which a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    me: NodeId,
    ledger: Ledger,
    inbox: Inbox,
    router: Router,
    receiver: Receiver,
    outbox: Outbox,
    gate: Gate,
    deposits: Deposits,
    arrivals: Arrivals,
    /// Logs that are whole once rows up to the token are durable.
    arriving: Vec<(u64, MailboxId)>,
    /// Who waits for a switch to the present home.
    staying: BTreeMap<Digest, Vec<Token>>,
    evidence: EvidencePool,
    auditor: Auditor,
    exhibits: Exhibits,
    /// About whom something is done, by the operator's policy.
    refused: Arc<BTreeSet<NodeId>>,
    /// What this node has found since it started.
    accused: BTreeSet<Digest>,
    /// A certified cut was not valid: no more cuts are followed.
    halted: bool,
    sequencer: Option<Sequencer>,
    phase: Phase,
    draining: bool,
    token: u64,
    /// The sequencer's last epoch when it was last reached; none while it is out of reach.
    sequencer_epoch: Option<u64>,
    fetching_cuts: bool,
    /// A fetched slice is being written: what waited for it goes on when it is durable.
    fetched_some: bool,
    /// Cuts that came before one that is missing.
    early_cuts: BTreeMap<u64, Arc<Verified<Cut>>>,
    early_slices: Vec<(NodeId, Held)>,
    registering: BTreeMap<MailboxId, hosting::Registering>,
    registrations: Rate,
    consents: deputies::Consents,
    retirement: Option<retiring::Retirement>,
    /// Whether origins were last told that this node is caught up.
    told_ready: bool,
    /// Since when this node has all cuts and all mail that is its own, and whether what waited for it is in as well.
    here_since: Option<Time>,
    has_returned: bool,
    next_round: Time,
    /// What is left to forget of mailboxes that have moved away.
    departed: Forgetting,
    /// How many rounds of housekeeping there were.
    rounds: usize,
    /// The slice without which nothing can be delivered, and the age since which it is missing.
    missing_since: Option<(Digest, u64)>,
    next_attestation: Time,
    #[cfg(feature = "cheat")]
    old_home: cheat::OldHome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The start is not settled: nothing is signed.
    Joining,
    /// It is, with this incarnation.
    Started { incarnation: u64 },
}

impl Node {
    /// Opens a node on its store. The outputs are to be carried out first.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config, store: &dyn Read) -> Result<(Node, Vec<Output>), OpenError> {
        let federation = &config.federation;
        let me = config.secret.public();
        let ledger = Ledger::open(federation, store)?;
        let origin = Origin { me, secret: config.secret.clone(), federation: federation.clone() };
        let is_sequencer = federation.sequencer() == me;
        let receiver = Receiver::open(&config.secret, federation, store)?;
        let arrivals = Arrivals::open(&config.secret, federation, store)?;
        let (residents, coming, mut leaving) = residences(&me, ledger.head(), receiver.delivered());
        let is_partial = |mailbox: &MailboxId, since| arrivals.is_of(mailbox, since);
        let outbox = Outbox::open(&config.secret, federation, &residents, is_partial, store)?;
        let mut node = Node {
            me,
            inbox: Inbox::new(me, federation, config.max_queued_bytes, config.max_sender_bytes),
            router: Router::new(origin, config.max_flight_bytes),
            receiver,
            outbox,
            arrivals,
            arriving: Vec::new(),
            staying: BTreeMap::new(),
            deposits: Deposits::open(me, federation, config.max_custody_bytes, ledger.head(), store)?,
            gate: Gate::open(federation, config.mailbox_quota, store)?,
            evidence: EvidencePool::open(federation, store)?,
            auditor: Auditor::new(me, federation),
            exhibits: Exhibits::default(),
            refused: Arc::default(),
            accused: BTreeSet::new(),
            halted: false,
            sequencer: is_sequencer.then(|| Sequencer::new(federation, config.guard_epoch)),
            phase: Phase::Joining,
            draining: false,
            token: 0,
            sequencer_epoch: is_sequencer.then_some(0),
            fetching_cuts: false,
            fetched_some: false,
            early_cuts: BTreeMap::new(),
            early_slices: Vec::new(),
            registering: BTreeMap::new(),
            registrations: Rate::new(config.registrations_per_minute),
            consents: deputies::Consents::default(),
            retirement: tables::get(store, META, tables::RETIREMENT)?,
            told_ready: false,
            here_since: None,
            has_returned: false,
            next_round: Time(0),
            departed: Forgetting::default(),
            rounds: 0,
            missing_since: None,
            next_attestation: Time(0),
            #[cfg(feature = "cheat")]
            old_home: cheat::OldHome::default(),
            ledger,
            config,
        };
        let mut out = Vec::new();
        let mut writes = Vec::new();
        for (mailbox, since) in coming {
            writes.extend(node.outbox.expect(mailbox, since));
        }
        for mailbox in node.arrivals.whole() {
            writes.extend(node.outbox.arrive(&mailbox, store)?);
        }
        node.inbox.forget_before(tables::get(store, META, tables::FORGOTTEN)?.unwrap_or(0));
        node.recall_batches(store)?;
        let head = node.ledger.head().epoch;
        for epoch in node.receiver.delivered() + 1..=head {
            let key = tables::number_key(epoch);
            let cut: Cut = tables::get(store, CUTS, &key)?.ok_or(StoreError::Corrupt { table: CUTS, key })?;
            for sealed in &cut.body.headers {
                node.audit(&sealed.header, &mut out);
            }
            writes.extend(node.receiver.cut(&cut, leaving.remove(&epoch).unwrap_or_default()));
        }
        let rooms = (&mut node.outbox, &mut node.gate, &mut node.auditor, &mut node.arrivals);
        writes.extend(node.receiver.deliver(rooms, store, &mut out)?);
        node.decide();
        writes.extend(node.receiver.judge(node.ledger.head(), &mut node.gate));
        node.persist(writes, &mut out);
        if let Some(sequencer) = &mut node.sequencer
            && let Some(draft) = tables::get::<Cut>(store, META, DRAFT)?
            && draft.certified.header.epoch == head + 1
        {
            sequencer.recall(draft, &mut out);
        }
        Ok((node, out))
    }

    /// Takes the batches up again that were sealed before and that no cut has included.
    fn recall_batches(&mut self, store: &dyn Read) -> Result<(), StoreError> {
        let last = self.ledger.head().node(&self.me).and_then(|node| node.last_header);
        let from = tables::number_key(last.map_or(0, |last| last.number + 1));
        for (key, value) in store.range(BATCHES, &from, &[], usize::MAX)? {
            let batch: StoredBatch = tables::read(BATCHES, &key, &value)?;
            for bundle in &batch.bundles {
                self.inbox.recall(bundle);
            }
            if let Some((key, body)) = self.router.recall(&batch) {
                self.hold_own(key, &body, batch.header.entries.bundles);
            }
        }
        Ok(())
    }

    /// What happened, and what to do.
    pub fn handle(&mut self, now: Now, input: Input, store: &dyn Read, out: &mut Vec<Output>) {
        if let Err(error) = self.try_handle(now, input, store, out) {
            out.push(Output::Fatal(error.to_string()));
        }
    }

    fn try_handle(
        &mut self,
        now: Now,
        input: Input,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let time = now.time;
        match input {
            Input::Persisted(token) => {
                self.persisted(token, time, out);
                self.arrivals_persisted(token, store, out)?;
                // Now the cuts and slices that a claim quotes can be read.
                self.accuse_found(store, out);
                if std::mem::take(&mut self.fetched_some) {
                    self.deliver(store, out)?;
                    self.pursue_pending(store, out)?;
                }
            }
            Input::TimedOut => self.timed_out(now, store, out)?,
            Input::Flush => self.flush(out),
            Input::Holder(node, up) => self.router.holder(node, up, time, self.ledger.head(), out),
            Input::Ready(node, ready) => self.router.ready(node, ready, out),
            Input::Receipts(node, receipts) => {
                for receipt in receipts.iter().filter(|receipt| receipt.holder() == node) {
                    // One that no cut would take must not make a header complete.
                    let known = self.ledger.head().node(&node).filter(|known| known.lapsed.is_none());
                    let incarnation = receipt.signed.body.incarnation;
                    if known.is_some_and(|known| (1..=known.incarnation).contains(&incarnation)) {
                        self.router.receipt(receipt, time, out);
                    }
                }
            }
            Input::Missing(node, key) => self.router.missing(node, &key, true, time, self.ledger.head(), out),
            Input::NotTaken(node, key, reason) => {
                out.push(Output::Report(Report::Refused { peer: Some(node), reason }));
                self.router.missing(node, &key, false, time, self.ledger.head(), out);
            }
            Input::Sequencer(epoch) => self.sequencer_changed(epoch, out),
            Input::Rejected(digest, reason) => self.rejected(digest, reason, out),
            Input::Deferred(digest) => self.deferred(&digest, out),
            Input::Cut(cut) => self.follow(cut, store, out)?,
            Input::UnsoundCut(cut) => self.unsound_cut(*cut, out),
            Input::Exhibit(exhibit) => self.exhibit(*exhibit, store, out)?,
            Input::CutsFetched => self.fetching_cuts = false,
            Input::Voted(epoch, vote) => {
                if let Some(cut) = self.sequencer.as_mut().and_then(|sequencer| sequencer.voted(epoch, vote)) {
                    out.push(Output::Publish(Arc::clone(&cut)));
                    self.follow(cut, store, out)?;
                }
            }
            Input::VoteRefused(epoch, reason) => {
                out.push(Output::Report(Report::Refused { peer: Some(self.me), reason }));
                if let Some(sequencer) = &mut self.sequencer {
                    sequencer.vote_refused(epoch);
                }
            }
            Input::Sealed(from, sealed) => {
                self.audit(&sealed.header, out);
                self.hand_in_header(from, *sealed, out);
            }
            Input::Fill(from, fill) => {
                if let Some(sequencer) = &mut self.sequencer {
                    sequencer.fill(from, *fill, self.ledger.head(), out);
                }
            }
            Input::Record(from, record) => {
                if let Some(sequencer) = &mut self.sequencer {
                    sequencer.record(from, *record, self.ledger.head(), out);
                }
            }
            Input::Origin(node) => out.push(Output::ToOrigin(node, Homeward::Ready(self.told_ready))),
            Input::Slice(from, held) => {
                self.audit(&held.parcel.header, out);
                self.slice(from, held, store, out)?;
            }
            Input::Resume(from, key, request) => self.resume(from, key, request.as_ref(), store, out)?,
            Input::Fetched(key, held) => {
                if let Some(held) = &held {
                    self.audit(&held.parcel.header, out);
                }
                let writes = self.receiver.fetched(&key, held.as_ref(), store)?;
                // Where nobody had it, the next round of housekeeping asks again.
                if !writes.is_empty() {
                    self.fetched_some = true;
                    self.persist(writes, out);
                    out.push(Output::Report(Report::Held { in_custody: key.destination != self.me }));
                }
            }
            Input::Submit(client, mailbox, bundle) => self.submit(client, mailbox, *bundle, store, out)?,
            Input::ClientGone(client) => self.inbox.client_gone(client),
            Input::Register(token, owner) => self.register(token, *owner, time, out),
            Input::Acknowledge(acknowledgement) => {
                let mut writes = Vec::new();
                if let Err(refusal) = self.outbox.acknowledge(&acknowledgement, &mut writes) {
                    out.push(Output::Report(Report::Refused { peer: None, reason: refusal.to_string() }));
                }
                self.persist(writes, out);
            }
            Input::Block(token, list) => self.block(token, &list, out),
            Input::Delivery(token, mailbox, seq) => {
                let fate = self.fate(&mailbox, seq, store)?;
                out.push(Output::Delivery(token, fate));
            }
            Input::Evidence(token, from, evidence) => self.keep(token, from, &evidence, out),
            Input::Move(token, wanted) => self.want(token, *wanted, out),
            Input::HandedOver(mailbox, answer) => {
                if let Answered::Page(handed) = &answer
                    && let Some(claim) = handed.accusation()
                {
                    out.push(Output::Accuse(Box::new(claim)));
                }
                let writes = self.arrivals.handed(&mailbox, answer, time);
                if !writes.is_empty() {
                    self.persist(writes, out);
                }
            }
            Input::Extracted(mailbox, node, asked, found) => {
                self.mend_extracts(&mailbox, &found, store, out)?;
                let head = self.ledger.head().epoch;
                let writes = self.arrivals.extracted(&mailbox, &node, &asked, &found, head, time);
                if !writes.is_empty() {
                    self.persist(writes, out);
                }
            }
            Input::Deputised(deputy, record, answer) => self.deputised(deputy, record, answer, time, out),
            Input::Retire(token, to) => self.retire(token, to, out),
            Input::Drain => self.draining = true,
        }
        self.tell_accepted(false, out);
        self.tell_ready(time, out);
        #[cfg(feature = "cheat")]
        self.confess(out);
        Ok(())
    }

    /// When [`Input::TimedOut`] is wanted next.
    pub fn next_timeout(&self) -> Time {
        let sequencer = self.sequencer.as_ref().and_then(Sequencer::next_timeout);
        let router = self.router.next_timeout();
        let arrivals = self.arrivals.next_timeout().filter(|_| self.phase != Phase::Joining && !self.draining);
        [sequencer, router, arrivals].into_iter().flatten().fold(self.next_round.min(self.next_attestation), Time::min)
    }

    fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    fn persist(&mut self, writes: Vec<Write>, out: &mut Vec<Output>) {
        let token = self.next_token();
        out.push(Output::Persist(token, writes));
    }

    /// Rows up to `token` are durable: everything that waits for that is signed and sent.
    fn persisted(&mut self, token: u64, time: Time, out: &mut Vec<Output>) {
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.persisted(token, out);
        }
        if self.phase == Phase::Joining {
            return;
        }
        let signatures = self.receiver.persisted(token);
        for (origin, receipts) in signatures.receipts {
            out.push(Output::ToOrigin(origin, Homeward::Receipts(receipts)));
        }
        for fill in signatures.fills {
            self.hand_in_fill(fill, out);
        }
        for answer in signatures.answers {
            self.hand_in_record(Verified::from_own_disk(Record::Answer(Box::new(answer))), out);
        }
        self.router.persisted(token, time, self.ledger.head(), out);
        if let Some(view) = self.outbox.persisted(token) {
            out.push(Output::Attested(view));
        }
    }

    fn timed_out(&mut self, now: Now, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        self.router.timed_out(now.time, self.ledger.head(), out);
        if self.sequencer.is_some() {
            let token = self.next_token();
            let head = self.ledger.head();
            if let Some(cut) = self.sequencer.as_mut().and_then(|sequencer| sequencer.draft(now, head, token, out)) {
                out.push(Output::Persist(token, vec![tables::put(META, DRAFT, &cut)]));
            }
        }
        self.pursue_arrivals(now.time, store, out)?;
        if now.time >= self.next_attestation {
            self.next_attestation = now.time.after_ms(self.config.federation.params().heartbeat_ms);
            #[cfg(feature = "cheat")]
            self.expire_early(out);
            let token = self.next_token();
            // A node whose disk was set back attests nothing before it has again what it attested then: a shorter log
            // under a higher number would look as if it had dropped mail.
            if !self.draining
                && self.receiver.is_caught_up()
                && let Some(write) = self.outbox.begin(self.receiver.delivered(), token)
            {
                out.push(Output::Persist(token, vec![write]));
            }
        }
        if now.time >= self.next_round {
            self.next_round = now.time.after_ms(HOUSEKEEPING_MS);
            self.pursue_start(out);
            self.pursue_deputies(now.time, out);
            let tried = self.router.peers.try_again().into_iter();
            out.extend(tried.map(|node| Output::Report(Report::Back { node })));
            let fills: Vec<_> = self.receiver.open_fills().cloned().collect();
            for fill in fills {
                self.hand_in_fill(fill, out);
            }
            for flight in self.router.flights().filter(|flight| flight.rejected) {
                (flight.rejected, flight.handed_in) = (false, false);
            }
            self.tell_accepted(true, out);
            self.deliver(store, out)?;
            self.pursue_pending(store, out)?;
            self.pursue_challenges(now.time, store, out)?;
            self.forget(store, out)?;
            #[cfg(feature = "cheat")]
            self.cheat_on(out);
            let behind_guard =
                self.sequencer.as_ref().is_some_and(|sequencer| sequencer.is_behind_guard(self.ledger.head().epoch));
            if behind_guard && !self.fetching_cuts {
                self.fetching_cuts = true;
                out.push(Output::FetchCuts(self.ledger.head().epoch));
            }
        }
        Ok(())
    }

    /// Seals what waits, if there is room for another batch.
    fn flush(&mut self, out: &mut Vec<Output>) {
        let waits = !self.inbox.is_empty() || self.outbox.has_fresh();
        if self.phase == Phase::Joining || !waits || !self.router.has_room() {
            return;
        }
        self.drop_expired(self.ledger.head().epoch, out);
        if self.inbox.is_empty() && !self.outbox.has_fresh() {
            return;
        }
        let bundles = self.inbox.take_batch(self.ledger.head());
        #[cfg(feature = "cheat")]
        let bundles = self.router.tamper(bundles, self.ledger.head());
        let count = bundles.len() as u32;
        let attestation = self.outbox.take_fresh();
        let token = self.next_token();
        let sealed = self.router.seal(bundles, attestation, self.ledger.head(), token);
        if let Some((key, body)) = sealed.own {
            self.hold_own(key, &body, count);
        }
        out.push(Output::Persist(token, sealed.writes));
    }

    fn submit(
        &mut self,
        client: ClientId,
        mailbox: MailboxId,
        bundle: Verified<postroad_protocol::bundle::Bundle>,
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let body = &bundle.signed.body;
        let (sender, counter) = (body.sender, body.counter);
        let answer = if sender != mailbox {
            Err(Refusal::NotAllowed { reason: format!("a bundle of {sender} on a connection of {mailbox}") })
        } else if self.phase == Phase::Joining || self.draining {
            self.inbox.put_off(client, counter);
            Err(Refusal::NotReady)
        } else {
            let busy = self.router.is_full() || self.adds_to_a_heap(&bundle);
            let messages = bundle.messages.len() as u64;
            let submitted = self.inbox.submit(client, bundle, self.ledger.head(), busy, store)?;
            if matches!(submitted, Ok(Submitted::Taken)) {
                out.push(Output::Report(Report::Taken { messages }));
            }
            submitted
        };
        match answer {
            Err(refusal) => out.push(Output::Answer(client, counter, Box::new(Answer::Refused(refusal)))),
            Ok(Submitted::Taken) => {}
            Ok(Submitted::Waiting) => {
                // The same bytes again: if their batch is complete already, the answer is known.
                let accepted = self.router.flights().find(|flight| flight.bundles.contains(&(sender, counter)));
                if accepted.is_some_and(|flight| flight.accepted) {
                    self.answer_accepted(&(sender, counter), &[client], out);
                }
            }
            Ok(Submitted::Before(taken)) => {
                // Without a proof the row is of a batch that died before this disk was set back.
                let answer = match self.ordered_proof(&taken, store)? {
                    Some(proof) => Answer::Ordered(Box::new(proof)),
                    None => Answer::Refused(Refusal::StaleCounter { last: taken.last_counter }),
                };
                out.push(Output::Answer(client, counter, Box::new(answer)));
            }
        }
        Ok(())
    }

    /// Whether a bundle is for a node that is away, while as many slices of this node are pending as may well be: what
    /// is under way still has to fit below the bound of `apply`.
    fn adds_to_a_heap(&self, bundle: &postroad_protocol::bundle::Bundle) -> bool {
        let head = self.ledger.head();
        let pending = head.node(&self.me).map_or(0, |node| node.pending);
        let max = self.config.federation.params().max_pending_per_origin;
        pending >= max / 4 * 3
            && (bundle.messages.iter().flat_map(|message| &message.recipients))
                .filter_map(|recipient| head.home(&recipient.mailbox))
                .any(|home| home != self.me && !self.router.peers.is_present(&home))
    }
}

/// Mailboxes with the epochs since which they live here.
type Residents = BTreeMap<MailboxId, u64>;
/// Mailboxes that leave, by the epoch in which they do, each with the epoch since which it had lived here.
type Leaving = BTreeMap<u64, Vec<(MailboxId, u64)>>;

/// Who lived at `me` in epoch `delivered`, who has moved there since, and who has left since, by epoch, with the epoch
/// since which it had lived there. Whoever has registered since lives there already: nobody could write to it before.
fn residences(me: &NodeId, head: &State, delivered: u64) -> (Residents, Residents, Leaving) {
    let (mut residents, mut coming) = (Residents::new(), Residents::new());
    let mut leaving = Leaving::new();
    for (mailbox, known) in head.mailboxes() {
        let spans = known.moved.iter().flat_map(|moved| &moved.spans);
        for span in spans.filter(|span| span.node == *me && delivered < span.until) {
            leaving.entry(span.until).or_default().push((*mailbox, span.since));
            if span.since <= delivered {
                residents.insert(*mailbox, span.since);
            }
        }
        if known.home == *me {
            let is_here = known.moved.is_none() || known.since <= delivered;
            let of = if is_here { &mut residents } else { &mut coming };
            of.insert(*mailbox, known.since);
        }
    }
    (residents, coming, leaving)
}
