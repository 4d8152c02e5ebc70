//! Mailboxes that move here: the log that a former home hands over (or the owner), the switch, and what was under way.
//!
//! Every arrival is one row of the store and one `Arriving` in memory, which a start makes again from the row and the
//! cuts. What happens to it is decided in [`Arrivals::pursue`], a step at a time; what others answer only changes what
//! the next step finds. The log is built in the rows that it keeps afterwards, and is shown to nobody until it is whole.

mod base;
mod checked;
mod imports;
mod items;
mod status;

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use postroad_protocol::moving::{Base, Missing, Move, MovePhase, OwnerBase};
use postroad_protocol::record::Record;
use postroad_protocol::state::{MailboxState, Span, State};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Refusal, SecretKey, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::io::{Output, Time};
use crate::tables::{self, ARRIVALS};

pub use base::Answered;
use base::Building;
pub use checked::{Extracted, Handed, Wanted};
pub use imports::{Cuts, Unsettled};
use items::{Items, Origins};

/// Mailboxes that move here at the same time.
const MAX_ARRIVALS: usize = 256;
/// Time between two looks at what moves here.
const PURSUIT_MS: u64 = 20;
/// Time between two times that something is handed in.
const HAND_IN_MS: u64 = 1_000;

/// What a store knows of a mailbox that moves here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Arrival {
    /// The owner's order, without this node's signature; none where only the state is known of the move.
    #[n(0)]
    pub order: Option<Move>,
    /// The switch's digest.
    #[n(1)]
    pub record: Digest,
    /// How long a former home may be silent.
    #[n(2)]
    pub patience_ms: u64,
    /// What the owner has of the log.
    #[n(3)]
    pub owner: Option<Box<OwnerBase>>,
    /// The phase.
    #[n(4)]
    pub phase: MovePhase,
    /// The log that is continued, once it is here.
    #[n(5)]
    pub whole: Option<Whole>,
    /// Up to which epoch all slices of former homes were looked into when an import was last signed, but for the missing.
    #[n(6)]
    pub resolved: Option<Resolved>,
    /// The cut that settled the switch.
    #[n(7)]
    pub since: Option<u64>,
}

/// The log that a new home continues, which is here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Whole {
    /// The log; none is the empty one of the registration.
    #[n(0)]
    pub base: Option<Base>,
    /// Whether a former home has handed it over.
    #[n(1)]
    pub handed_over: bool,
}

/// What an import was signed for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Resolved {
    /// Its last epoch.
    #[n(0)]
    pub through: u64,
    /// What it names as missing.
    #[n(1)]
    pub missing: Vec<Missing>,
}

/// A mailbox that moves here.
#[derive(Debug)]
struct Arriving {
    row: Arrival,
    building: Building,
    /// Whether what the disk has of its log is still to be read.
    is_unread: bool,
    items: Items,
    /// The last epoch whose cut was looked through for items; none before the base is known.
    scanned: Option<u64>,
    /// The next of the cuts that the base covers which is to be looked through, going back.
    older: Option<u64>,
    /// Slices that were looked into, and entries found in them.
    looked: u64,
    recovered: u64,
    /// Since when the import waits for nothing but what nobody has.
    failed_since: Option<Time>,
    /// When everything that nobody had is asked for again.
    retry_at: Time,
    /// An import that waits for a token to be persisted, then for a cut.
    import: Option<imports::Signing>,
    handed_in: Option<Time>,
    reason: Option<String>,
}

impl Arriving {
    fn new(row: Arrival) -> Arriving {
        Arriving {
            row,
            building: Building::default(),
            is_unread: true,
            items: Items::default(),
            scanned: None,
            older: None,
            looked: 0,
            recovered: 0,
            failed_since: None,
            retry_at: Time(0),
            import: None,
            handed_in: None,
            reason: None,
        }
    }

    /// Whether it is time to hand something in (again).
    fn hands_in(&mut self, now: Time) -> bool {
        let due = self.handed_in.is_none_or(|last| now >= last.after_ms(HAND_IN_MS));
        if due {
            self.handed_in = Some(now);
        }
        due
    }
}

/// What an arrival needs of the rest of its node.
pub struct Surroundings<'a> {
    /// The time.
    pub now: Time,
    /// The state after the last cut.
    pub head: &'a State,
    /// The last epoch whose mail is in the logs.
    pub delivered: u64,
    /// Committed rows.
    pub store: &'a dyn Read,
    /// The token under which what is written now is persisted.
    pub token: u64,
    /// Whether a node can be reached, as far as is known.
    pub is_present: &'a dyn Fn(&NodeId) -> bool,
    /// Cuts that were read.
    pub cuts: Cuts,
}

/// What a look at the arrivals came to.
#[derive(Debug, Default)]
pub struct Steps {
    /// What to write.
    pub writes: Vec<Write>,
    /// What to ask others.
    pub outputs: Vec<Output>,
    /// Records to hand in.
    pub records: Vec<Record>,
    /// Logs that are whole with these writes, and go on here from now on.
    pub whole: Vec<MailboxId>,
}

/// All mailboxes that move here.
#[derive(Debug)]
pub struct Arrivals {
    me: NodeId,
    secret: SecretKey,
    federation: Federation,
    all: BTreeMap<MailboxId, Arriving>,
    next: Time,
    #[cfg(feature = "cheat")]
    pub(crate) cheat: base::cheat::NewHome,
}

impl Arrivals {
    /// Reads what a store knows of mailboxes that move here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(secret: &SecretKey, federation: &Federation, store: &dyn Read) -> Result<Arrivals, StoreError> {
        let mut all = BTreeMap::new();
        for (key, value) in store.range(ARRIVALS, &[], &[], usize::MAX)? {
            let corrupt = || StoreError::Corrupt { table: ARRIVALS, key: key.clone() };
            let mailbox = MailboxId::from(key.first_chunk().copied().ok_or_else(corrupt)?);
            let row: Arrival = tables::read(ARRIVALS, &key, &value)?;
            all.insert(mailbox, Arriving::new(row));
        }
        let me = secret.public();
        Ok(Arrivals {
            me,
            secret: secret.clone(),
            federation: federation.clone(),
            all,
            next: Time(0),
            #[cfg(feature = "cheat")]
            cheat: base::cheat::NewHome::default(),
        })
    }

    /// Whether a mailbox moves here, or has and is not finished.
    pub fn has(&self, mailbox: &MailboxId) -> bool {
        self.all.contains_key(mailbox)
    }

    /// Whether the log of a mailbox that lives here, or has, since this epoch is an arrival's: it may not be whole.
    pub fn is_of(&self, mailbox: &MailboxId, since: u64) -> bool {
        self.all.get(mailbox).is_some_and(|arriving| arriving.row.since == Some(since))
    }

    /// Those whose logs are whole.
    pub fn whole(&self) -> Vec<MailboxId> {
        self.all.iter().filter(|(_, arriving)| arriving.row.whole.is_some()).map(|(mailbox, _)| *mailbox).collect()
    }

    /// When they want to be looked at next; never, if there are none.
    pub fn next_timeout(&self) -> Option<Time> {
        (!self.all.is_empty()).then_some(self.next)
    }

    /// An owner moves its mailbox here. The same order again changes how long former homes may be silent, and what the
    /// owner has.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn want(&mut self, wanted: Wanted, head: &State) -> Result<Vec<Write>, Refusal> {
        let invalid = |reason: &str| Err(Refusal::Invalid { reason: reason.into() });
        let switch = &wanted.order.switch;
        let mailbox = switch.mailbox;
        let record = wanted.order.digest(&self.federation);
        let Some(known) = head.mailbox(&mailbox) else {
            return Err(Refusal::NotFound { what: format!("mailbox {mailbox}") });
        };
        let owner = wanted.base.map(|(_, owner)| owner);
        if let Some(arriving) = self.all.get_mut(&mailbox).filter(|arriving| arriving.row.record == record) {
            arriving.row.patience_ms = wanted.patience_ms;
            arriving.row.owner = owner.or(arriving.row.owner.take());
            return Ok(vec![tables::put(ARRIVALS, mailbox.0, &arriving.row)]);
        }
        if has_moved(known, &self.me, &record) {
            return Ok(Vec::new());
        }
        if let Err(reason) = known.admits(&wanted.order) {
            return invalid(reason);
        }
        if known.home == self.me {
            return invalid("the mailbox lives here");
        }
        if self.all.get(&mailbox).is_some_and(|arriving| arriving.row.phase != MovePhase::Preparing) {
            return invalid("another switch to this node is under way: abandon it first");
        }
        if self.all.len() >= MAX_ARRIVALS {
            return Err(Refusal::Busy);
        }
        let row = Arrival {
            order: Some(wanted.order.into_inner()),
            record,
            patience_ms: wanted.patience_ms,
            owner,
            phase: MovePhase::Preparing,
            whole: None,
            resolved: None,
            since: None,
        };
        Ok(vec![self.replace(&mailbox, row)])
    }

    /// A cut has moved a mailbox here. One of which nothing is known moved here before this disk was set back.
    pub fn expect(&mut self, mailbox: &MailboxId, switch: Digest, since: u64) -> Write {
        let known = self.all.get_mut(mailbox).filter(|arriving| arriving.row.record == switch);
        if let Some(arriving) = known {
            arriving.row.since = Some(since);
            return tables::put(ARRIVALS, mailbox.0, &arriving.row);
        }
        self.replace(mailbox, Arrival::unknown(switch, since))
    }

    /// An arrival takes the place of another one of the same mailbox, and what that has built of the log, unless it has
    /// lived with it.
    fn replace(&mut self, mailbox: &MailboxId, row: Arrival) -> Write {
        let write = tables::put(ARRIVALS, mailbox.0, &row);
        let mut arriving = Arriving::new(row);
        if let Some(before) = self.all.remove(mailbox).filter(|before| before.row.since.is_none()) {
            (arriving.building, arriving.is_unread) = (before.building, before.is_unread);
        }
        self.all.insert(*mailbox, arriving);
        write
    }

    /// Looks at each arrival and takes the steps that can be taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pursue(&mut self, around: &Surroundings<'_>) -> Result<Steps, StoreError> {
        let mut steps = Steps::default();
        if around.now < self.next {
            return Ok(steps);
        }
        self.next = around.now.after_ms(PURSUIT_MS);
        let mailboxes: Vec<MailboxId> = self.all.keys().copied().collect();
        for mailbox in mailboxes {
            let Some(mut arriving) = self.all.remove(&mailbox) else { continue };
            if arriving.is_unread && arriving.row.whole.is_none() {
                // Of an earlier residence of its own, this node may still have to append to these rows.
                let spans = around.head.mailbox(&mailbox).and_then(|known| known.moved.as_ref());
                let spans = spans.iter().flat_map(|moved| &moved.spans);
                let is_earlier = |span: &&Span| arriving.row.since.is_none_or(|since| span.since < since);
                if spans.filter(is_earlier).any(|span| span.node == self.me && around.delivered < span.until) {
                    self.all.insert(mailbox, arriving);
                    continue;
                }
                arriving.building = Building::open(&mailbox, None, around.store)?;
                if arriving.row.since.is_some() {
                    arriving.building.comes_back();
                }
            }
            arriving.is_unread = false;
            #[cfg(feature = "cheat")]
            if self.denies(&mailbox, &arriving, around.head) {
                self.all.insert(mailbox, arriving);
                continue;
            }
            let goes_on = self.step(&mailbox, &mut arriving, around, &mut steps)?;
            #[cfg(feature = "cheat")]
            self.cheat.takes_over(&mailbox, &mut arriving, around.head.epoch, &mut steps);
            if goes_on {
                self.all.insert(mailbox, arriving);
            }
        }
        Ok(steps)
    }

    /// One arrival's step. Returns whether it goes on.
    fn step(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        around: &Surroundings<'_>,
        steps: &mut Steps,
    ) -> Result<bool, StoreError> {
        let Some(known) = around.head.mailbox(mailbox) else { return Ok(false) };
        let before = arriving.row.progress();
        let settled = has_moved(known, &self.me, &arriving.row.record);
        if settled {
            if arriving.row.phase < MovePhase::Importing {
                arriving.row.phase = MovePhase::Importing;
                arriving.building.begin(around.now);
                (arriving.handed_in, arriving.reason) = (None, None);
            }
            let Some(moved) = &known.moved else { return Ok(false) };
            if arriving.row.whole.is_none() {
                self.take_base(mailbox, arriving, moved, around, steps)?;
            } else if self.import(mailbox, arriving, known, moved, around, steps)? {
                steps.writes.push(tables::delete(ARRIVALS, mailbox.0));
                return Ok(false);
            }
        } else if known.home == self.me || arriving.row.order.as_ref().is_none_or(|order| known.admits(order).is_err())
        {
            // Another record came first, or the mailbox has moved on.
            if self.lags_behind(mailbox, arriving, known, around)? {
                return Ok(true);
            }
            let spans = known.moved.iter().flat_map(|moved| &moved.spans);
            if known.home != self.me && !spans.into_iter().any(|span| span.node == self.me) {
                arriving.building.wipe(mailbox, &mut steps.writes);
            }
            steps.writes.push(tables::delete(ARRIVALS, mailbox.0));
            return Ok(false);
        } else if around.head.delayed(mailbox).is_some_and(|delayed| delayed.record == arriving.row.record) {
            arriving.row.phase = MovePhase::Delayed;
        } else {
            self.prepare(mailbox, arriving, known, around, steps);
        }
        if arriving.row.progress() != before {
            steps.writes.push(tables::put(ARRIVALS, mailbox.0, &arriving.row));
        }
        Ok(true)
    }

    /// A mailbox that has moved on, and cuts from before that whose mail is not in its log here yet. What this node does
    /// not have of it any more, since its disk was set back, is not handed to a former home: the log, or the entry, does
    /// not come. Nothing of this residence was attested since.
    fn lags_behind(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        known: &MailboxState,
        around: &Surroundings<'_>,
    ) -> Result<bool, StoreError> {
        let (Some(moved), Some(since)) = (&known.moved, arriving.row.since) else { return Ok(false) };
        let mine = moved.spans.iter().position(|span| span.node == self.me && span.since == since);
        let Some(mine) = mine.filter(|mine| around.delivered < moved.spans[*mine].until) else { return Ok(false) };
        let Some(whole) = arriving.row.whole.clone() else { return Ok(true) };
        let base_span = moved.base_span(whole.base.as_ref()).filter(|base| *base < mine);
        let Some(base_span) = base_span else { return Ok(false) };
        let spans = &moved.spans[..mine];
        let of = Origins::new(*mailbox, self.me, spans, whole.base.as_ref(), base_span, &self.federation);
        let is_caught_up = self.look(arriving, &of, around)?;
        self.recall(mailbox, arriving, around.store)?;
        if is_caught_up {
            arriving.items.give_up();
        }
        Ok(true)
    }

    /// Before the switch: what the old home hands over, then this node's signature.
    fn prepare(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        known: &MailboxState,
        around: &Surroundings<'_>,
        steps: &mut Steps,
    ) {
        let row = &mut arriving.row;
        if row.phase == MovePhase::Preparing {
            arriving.building.start(around.now);
            let silent = arriving.building.is_silent(around.now, row.patience_ms);
            let building = &arriving.building;
            let gone_on = row.patience_ms == 0 || silent || building.is_whole() || building.gave_up(&known.home);
            if !gone_on {
                arriving.building.ask(&known.home, mailbox, row.order.as_ref(), around.now, &mut steps.outputs);
                return;
            }
            row.phase = MovePhase::Switching;
        }
        if arriving.hands_in(around.now)
            && let Some(order) = &arriving.row.order
        {
            let signed = Verified::from_own_disk(order.clone()).co_sign(&self.secret, &self.federation);
            steps.records.push(Record::Move(Box::new(signed.into_inner())));
        }
    }

    /// The sequencer cannot settle something that this node handed in.
    pub fn rejected(&mut self, digest: &Digest, reason: &str) {
        for arriving in self.all.values_mut() {
            let import = arriving.import.as_ref().is_some_and(|import| import.digest(&self.federation) == *digest);
            if import {
                // It is made again from the state as it is then.
                arriving.import = None;
            }
            if import || arriving.row.record == *digest {
                arriving.reason = Some(reason.to_owned());
            }
        }
    }
}

/// Whether this switch has brought the mailbox to this node.
fn has_moved(known: &MailboxState, me: &NodeId, switch: &Digest) -> bool {
    known.home == *me && known.moved.as_ref().is_some_and(|moved| moved.switch == *switch)
}

impl Arrival {
    /// What a step changes.
    fn progress(&self) -> (MovePhase, Option<Whole>, Option<Resolved>) {
        (self.phase, self.whole.clone(), self.resolved.clone())
    }

    /// Of a move of which only the state is known: this disk was set back.
    fn unknown(record: Digest, since: u64) -> Arrival {
        Arrival {
            order: None,
            record,
            patience_ms: DEFAULT_PATIENCE_MS,
            owner: None,
            phase: MovePhase::Importing,
            whole: None,
            resolved: None,
            since: Some(since),
        }
    }
}

/// How long former homes may be silent where no owner has said it.
const DEFAULT_PATIENCE_MS: u64 = 10_000;
