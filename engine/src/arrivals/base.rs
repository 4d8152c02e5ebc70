//! The log that a new home continues, in the making: rows that a former home hands over, or nothing but the right edge
//! that the owner has.

use postroad_protocol::MailboxId;
use postroad_protocol::NodeId;
use postroad_protocol::attestation::{LogHead, MailboxAttestation};
use postroad_protocol::merkle::log::{Frontier, Log};
use postroad_protocol::moving::{Base, Extent, HandoffRequest, Move};
use postroad_protocol::state::Moved;
use postroad_store::{Read, StoreError, Write};

use super::{Arrivals, Arriving, Handed, Steps, Surroundings, Whole};
use crate::departures::Departure;
use crate::io::{Output, Time};
use crate::tables::{self, ACKS, DEPARTURES, EDGES, EXTRACTS, Edge, Expiring, LOGS, LogRow};

#[cfg(feature = "cheat")]
pub(super) mod cheat;

/// Time between two times that a former home is asked which has answered nothing.
const ASK_AGAIN_MS: u64 = 300;
/// How often a former home may begin anew.
const MAX_RESTARTS: u32 = 3;
/// Time after which all former homes are asked again when nobody has the log.
const START_OVER_MS: u64 = 5_000;

/// A log in the making.
#[derive(Debug, Default)]
pub(super) struct Building {
    log: Log,
    edge: Option<Edge>,
    /// The indexes of its rows.
    rows: Vec<u64>,
    /// Indexes of rows that are there and do not belong to it.
    stale: Vec<u64>,
    /// The attestation that names exactly this log.
    whole: Option<Box<MailboxAttestation>>,
    /// Whether it names the newest that was heard of since [`Building::begin`].
    fresh: bool,
    asked: bool,
    ask_at: Time,
    progress: Option<Time>,
    /// Former homes that were asked in vain.
    skipped: Vec<NodeId>,
    /// What this node itself, as a former home, has attested last of this log.
    own: Option<Box<MailboxAttestation>>,
    /// Whether this node's own rows were looked through for the log that the state says it continues.
    looked_here: bool,
    /// The first entries, which this node itself, as a former home, may have to hand over as long as the mailbox does not
    /// live here again.
    kept: u64,
    /// How often what was handed over did not go on where the log ends.
    restarts: u32,
    start_over: Option<Time>,
    here: Extent,
    total: Extent,
}

impl Building {
    /// What a store has of a log: of one in the making; or, where the mailbox lived here before, what was attested last,
    /// or `wanted`.
    pub(super) fn open(
        mailbox: &MailboxId,
        wanted: Option<&LogHead>,
        store: &dyn Read,
    ) -> Result<Building, StoreError> {
        let mut building = Building { edge: tables::get(store, EDGES, &mailbox.0)?, ..Building::default() };
        if let Some(edge) = &building.edge {
            building.log = Log::from(edge.frontier.clone());
        }
        let departure: Option<Departure> = tables::get(store, DEPARTURES, &mailbox.0)?;
        let attested = departure.as_ref().and_then(|departure| departure.attested.clone());
        let end = match (wanted, &departure, &attested) {
            (Some(wanted), ..) => wanted.size,
            (None, None, _) => u64::MAX,
            (None, Some(_), None) => 0,
            (None, Some(_), Some(attested)) => attested.log.log.size,
        };
        let (mut from, last) = (tables::mailbox_key(mailbox, 0), tables::mailbox_key(mailbox, u64::MAX));
        loop {
            let rows = store.range(LOGS, &from, &last, 1_024)?;
            let Some((key, _)) = rows.last() else { break };
            from = [key.as_slice(), &[0]].concat();
            for (key, value) in &rows {
                let (index, row) = (tables::key_number(key), tables::read::<LogRow>(LOGS, key, value)?);
                if index != building.log.size() || index + row.leaves.len() as u64 > end {
                    building.stale.push(index);
                    continue;
                }
                building.append(index, &row);
            }
        }
        building.kept = attested.as_ref().map_or(0, |attested| attested.log.log.size);
        if let Some(attested) = attested
            && building.fits(&attested)
        {
            building.own = Some(attested.clone());
            building.whole = Some(attested);
        }
        Ok(building)
    }

    fn append(&mut self, index: u64, row: &LogRow) {
        self.rows.push(index);
        for leaf in row.log_leaves() {
            self.log.append(leaf.hash());
        }
    }

    fn fits(&self, attested: &MailboxAttestation) -> bool {
        let log = attested.log.log;
        log.size == self.log.size() && log.root == self.log.root()
    }

    /// Whether the log begins with this one, and can end there: the epoch of its last entry has to be known.
    fn begins_with(&self, log: &LogHead) -> bool {
        let is_named = self.whole.as_ref().is_some_and(|attested| attested.log.log == *log);
        let is_end = log.size == self.log.size() || self.rows.contains(&log.size);
        let has_end = self.rows.first().is_some_and(|first| *first < log.size) && is_end;
        log.size == 0 || (is_named || has_end) && self.log.root_at(log.size) == Some(log.root)
    }

    /// What is beyond the first `size` entries does not belong to the log.
    fn end_at(&mut self, size: u64) {
        let kept = self.rows.partition_point(|index| *index < size);
        self.stale.extend(self.rows.drain(kept..));
        if let Some(edge) = &mut self.edge {
            edge.expired_to = edge.expired_to.min(size);
        }
    }

    /// The old home is asked from now on, unless it is already.
    pub(super) fn start(&mut self, now: Time) {
        self.progress.get_or_insert(now);
    }

    /// The mailbox lives here again: nothing of what this node had before is to be handed over.
    pub(super) fn comes_back(&mut self) {
        self.kept = 0;
    }

    /// Former homes are asked again: what they hand over from now on is the newest.
    pub(super) fn begin(&mut self, now: Time) {
        self.progress = Some(now);
        self.fresh = false;
        self.skipped.clear();
        self.restarts = 0;
        self.comes_back();
    }

    pub(super) fn is_silent(&self, now: Time, patience_ms: u64) -> bool {
        self.progress.is_some_and(|progress| now.since_ms(progress) >= patience_ms)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.is_some() && self.fresh
    }

    pub(super) fn extent(&self) -> (Extent, Extent) {
        (self.here, self.total)
    }

    pub(super) fn gave_up(&self, node: &NodeId) -> bool {
        self.skipped.contains(node)
    }

    /// Asks for the next rows, unless that is under way.
    pub(super) fn ask(
        &mut self,
        node: &NodeId,
        mailbox: &MailboxId,
        order: Option<&Move>,
        now: Time,
        outputs: &mut Vec<Output>,
    ) {
        if self.asked || now < self.ask_at {
            return;
        }
        self.asked = true;
        self.ask_at = now.after_ms(ASK_AGAIN_MS);
        let order = order.cloned().map(Box::new);
        let request = HandoffRequest { mailbox: *mailbox, order, from: self.log.size() };
        outputs.push(Output::AskHandoff(*node, Box::new(request)));
    }

    /// Nothing of what is here belongs to the log.
    pub(super) fn wipe(&mut self, mailbox: &MailboxId, writes: &mut Vec<Write>) {
        self.stale.append(&mut self.rows);
        self.drop_stale(mailbox, writes);
        if self.edge.take().is_some() {
            writes.push(tables::delete(EDGES, mailbox.0));
        }
        (self.log, self.whole, self.here) = (Log::new(), None, Extent::default());
    }

    /// Nothing of what is here belongs to the log, but for what this node has to keep.
    fn begin_anew(&mut self, mailbox: &MailboxId, writes: &mut Vec<Write>) {
        match self.log.frontier_at(self.kept).filter(|_| self.kept > 0) {
            Some(frontier) => {
                self.end_at(self.kept);
                (self.log, self.whole, self.here) = (Log::from(frontier), None, Extent::default());
            }
            None => self.wipe(mailbox, writes),
        }
    }

    fn drop_stale(&mut self, mailbox: &MailboxId, writes: &mut Vec<Write>) {
        let stale = std::mem::take(&mut self.stale).into_iter();
        writes.extend(stale.map(|index| tables::delete(LOGS, tables::mailbox_key(mailbox, index))));
    }

    /// A former home hands a page over.
    fn page(&mut self, mailbox: &MailboxId, handed: Handed, now: Time, writes: &mut Vec<Write>) {
        (self.progress, self.ask_at) = (Some(now), now);
        let page = handed.page;
        if Some(&page.before) != self.log.frontier_at(page.before.size()).as_ref()
            || page.before.size() < self.log.size()
        {
            let empty = self.log.size() == 0;
            self.begin_anew(mailbox, writes);
            if !empty {
                // From the beginning, the next time.
                self.restarts += 1;
                if self.restarts > MAX_RESTARTS {
                    self.skip(page.handoff.body.node);
                }
                return;
            }
            self.log = Log::from(page.before.clone());
        }
        self.drop_stale(mailbox, writes);
        // Rows of this node's own may go before: then the log begins where those do.
        let begin = if self.rows.is_empty() { page.before } else { Frontier::new() };
        self.whole = None;
        self.total = page.open;
        let attested = page.attested;
        let log = attested.log.log;
        let brings_nothing = page.rows.is_empty();
        for handed in page.rows {
            let index = self.log.size();
            if index >= log.size {
                break;
            }
            if let Some(extract) = handed.extract {
                let slice = handed.row.slice;
                self.here.entries += handed.row.leaves.len() as u64;
                self.here.bytes += handed.row.leaves.iter().map(|leaf| u64::from(leaf.bytes)).sum::<u64>();
                writes.push(tables::put(EXTRACTS, tables::extract_key(mailbox, &slice), &*extract));
                let expiring = Expiring::Extract(*mailbox, slice);
                writes.push(tables::expiring(handed.row.settled, slice.header, *mailbox, &expiring));
            }
            writes.push(tables::put(LOGS, tables::mailbox_key(mailbox, index), &handed.row));
            self.append(index, &handed.row);
        }
        let acknowledged = attested.log.acknowledged.as_ref();
        let acknowledged =
            acknowledged.filter(|known| self.log.root_at(known.body.log.size) == Some(known.body.log.root));
        let mut edge = self.edge.take().unwrap_or(Edge { frontier: begin, expired_to: 0, last_epoch: 0 });
        edge.last_epoch = attested.log.last_epoch;
        edge.expired_to = edge.expired_to.max(edge.frontier.size()).max(attested.log.expired_to.min(log.size));
        if let Some(acknowledged) = acknowledged {
            edge.expired_to = edge.expired_to.max(acknowledged.body.log.size);
            writes.push(tables::put(ACKS, mailbox.0, acknowledged));
        }
        writes.push(tables::put(EDGES, mailbox.0, &edge));
        self.edge = Some(edge);
        if self.fits(&attested) {
            (self.whole, self.fresh) = (Some(Box::new(attested)), true);
        } else if self.log.size() >= log.size || brings_nothing {
            // Not the log that it attests, or no end of it: what it hands over is worth nothing.
            self.skip(attested.attestation.body.node);
            self.begin_anew(mailbox, writes);
        }
    }

    fn skip(&mut self, node: NodeId) {
        if !self.skipped.contains(&node) {
            self.skipped.push(node);
        }
    }
}

impl Arrivals {
    /// What a former home has answered.
    pub fn handed(&mut self, mailbox: &MailboxId, answer: Answered, now: Time) -> Vec<Write> {
        let mut writes = Vec::new();
        let Some(arriving) = self.all.get_mut(mailbox) else { return writes };
        arriving.building.asked = false;
        if arriving.row.whole.is_some() {
            return writes;
        }
        match answer {
            Answered::Page(handed) => arriving.building.page(mailbox, *handed, now, &mut writes),
            Answered::Refused(node, reason) => {
                arriving.reason = Some(format!("{node}: {reason}"));
                arriving.building.skip(node);
            }
            Answered::Silent => {}
        }
        self.next = self.next.min(now);
        writes
    }

    /// The mailbox lives here: takes the log that a former home has handed over, or the owner's, or the empty one.
    pub(super) fn take_base(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        moved: &Moved,
        around: &Surroundings<'_>,
        steps: &mut Steps,
    ) -> Result<(), StoreError> {
        let required = moved.import.as_ref().map(|import| import.base);
        // An import by this node has said it, before its disk was set back: any log that begins with that one will do,
        // and it may be this node's own.
        if let Some(Some(base)) = required {
            let building = &mut arriving.building;
            if base.node == self.me && !building.begins_with(&base.log) && !building.looked_here {
                *building = Building::open(mailbox, Some(&base.log), around.store)?;
                building.looked_here = true;
            }
            if building.begins_with(&base.log) {
                self.finish(mailbox, arriving, Some(base), true, steps);
                return Ok(());
            }
        }
        let fits = |base: Option<&Base>| {
            required.is_none_or(|required| required.map(|base| base.log) == base.map(|base| base.log))
                && moved.base_span(base).is_some()
        };
        let patience_ms = arriving.row.patience_ms;
        let building = &mut arriving.building;
        building.start(around.now);
        let handed = building.whole.as_ref().map(|attested| attested.base(&self.federation));
        let handed = handed.filter(|base| fits(Some(base)));
        let owner = arriving.row.owner.as_ref().map(|owner| owner.attested.base(&self.federation));
        let owner = owner.filter(|base| fits(Some(base)));
        // What is handed over is never less than what the owner has seen attested.
        let place = |base: &Base| (moved.base_span(Some(base)), base.attestation.epoch);
        let is_best = |base: &Base| owner.as_ref().is_none_or(|owner| place(base) >= place(owner));
        let handed = handed.filter(is_best);
        if let Some(base) = handed.filter(|_| building.fresh) {
            self.finish(mailbox, arriving, Some(base), true, steps);
            return Ok(());
        }
        let own = building.own.as_ref().map(|attested| attested.base(&self.federation));
        let own = own.filter(|base| fits(Some(base)) && building.begins_with(&base.log));
        // What a home before that one has attested says less.
        let least = [&handed, &own, &owner].into_iter().flatten().filter_map(|base| moved.base_span(Some(base))).max();
        let spans = moved.spans.iter().skip(least.unwrap_or(0)).rev();
        for span in spans.filter(|span| span.complete.is_some() && span.node != self.me) {
            if patience_ms == 0 || building.gave_up(&span.node) {
                continue;
            }
            if building.is_silent(around.now, patience_ms) {
                building.skip(span.node);
                building.progress = Some(around.now);
                continue;
            }
            if building.fresh {
                // It has handed over what does not fit.
                building.skip(span.node);
                continue;
            }
            building.ask(&span.node, mailbox, None, around.now, &mut steps.outputs);
            return Ok(());
        }
        if let Some(base) = [handed, own].into_iter().flatten().filter(is_best).max_by_key(place) {
            self.finish(mailbox, arriving, Some(base), true, steps);
            return Ok(());
        }
        if let Some((base, owner)) = owner.zip(arriving.row.owner.clone()) {
            building.wipe(mailbox, &mut steps.writes);
            let size = owner.frontier.size();
            building.log = Log::from(owner.frontier.clone());
            let last_epoch = owner.attested.log.last_epoch;
            building.edge = Some(Edge { frontier: owner.frontier, expired_to: size, last_epoch });
            steps.writes.push(tables::put(ACKS, mailbox.0, &owner.acknowledged));
            self.finish(mailbox, arriving, Some(required.flatten().unwrap_or(base)), false, steps);
            return Ok(());
        }
        if fits(None) {
            self.finish(mailbox, arriving, None, false, steps);
            return Ok(());
        }
        arriving.reason = Some(
            "no former home hands the log over, and its owner has handed in none that a former home attested as a whole: \
             the owner's device has to be there, or a former home"
                .into(),
        );
        let again = *building.start_over.get_or_insert(around.now.after_ms(START_OVER_MS));
        if around.now >= again {
            (building.start_over, building.progress) = (None, Some(around.now));
            building.skipped.clear();
        }
        Ok(())
    }

    fn finish(
        &self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        base: Option<Base>,
        handed_over: bool,
        steps: &mut Steps,
    ) {
        let building = &mut arriving.building;
        match base {
            Some(base) if base.log.size > 0 => building.end_at(base.log.size),
            _ => building.wipe(mailbox, &mut steps.writes),
        }
        building.drop_stale(mailbox, &mut steps.writes);
        let edge = building.edge.get_or_insert_with(Edge::default);
        steps.writes.push(tables::put(EDGES, mailbox.0, edge));
        steps.writes.push(tables::delete(DEPARTURES, mailbox.0));
        arriving.row.whole = Some(Whole { base, handed_over });
        arriving.reason = None;
        steps.whole.push(*mailbox);
    }
}

/// What a former home that was asked for a log has answered.
#[derive(Clone, Debug)]
pub enum Answered {
    /// A page, which holds.
    Page(Box<Handed>),
    /// It has nothing to hand over, and why.
    Refused(NodeId, String),
    /// Nothing, or nothing that holds; it may answer later.
    Silent,
}
