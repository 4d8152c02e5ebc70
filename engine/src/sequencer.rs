//! The sequencer of a committee of one: collects headers, fills and records, and makes cuts of them.
//!
//! A cut is drafted with the same function that everybody applies it with; what cannot be settled is sent back or, if it
//! only waits for what comes before it, kept. The draft is written down, then the signing guard lets one vote per epoch
//! pass, then the cut is published. Where there is urgent work a cut follows the last one after `cut_interval_ms`, else
//! after `heartbeat_ms`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use postroad_protocol::codec::encode;
use postroad_protocol::cut::{CertifiedCut, Cut, CutBody, CutHeader, Part, Vote};
use postroad_protocol::receipt::{Fill, Sealed};
use postroad_protocol::record::Record;
use postroad_protocol::state::{Draft, Invalid, PendingKey, State};
use postroad_protocol::{Digest, Federation, NodeId, PublicKey, Verified};

use crate::io::{Now, Output, Time};

/// Headers of one origin that wait, at most.
const MAX_HEADERS_PER_ORIGIN: usize = 256;
/// Records that wait, at most: every node has an equal share, and what is no node (yet) has one share together.
const MAX_RECORDS: usize = 4_096;
/// Fills that wait, at most: every destination has an equal share.
const MAX_FILLS: usize = 16_384;
/// A share, at least.
const MIN_SHARE: usize = 16;
/// Records and fills of one cut, at most.
const MAX_PER_CUT: usize = 1_024;
/// Encoded bytes of a cut's fills at which no more are added; one that refuses many leaves is long.
const MAX_FILL_BYTES: usize = 2 << 20;
/// Encoded bytes of a cut's headers and receipts at which no more are added.
const MAX_HEADER_BYTES: usize = 8 << 20;

/// What waits to be ordered.
#[derive(Debug)]
pub struct Sequencer {
    federation: Federation,
    headers: BTreeMap<NodeId, BTreeMap<(u64, Digest), Waiting<Sealed>>>,
    fills: BTreeMap<(NodeId, Digest), Waiting<Fill>>,
    records: BTreeMap<Digest, Waiting<Record>>,
    /// The origin that begins the next cut's rounds.
    first: Option<NodeId>,
    last_cut: Time,
    drafted: Option<Drafted>,
    /// The last fill that was drafted.
    last_fill: (NodeId, Digest),
    /// The guard's last epoch: nothing is drafted at or below it.
    guard: u64,
    urgent: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    from: Option<NodeId>,
    value: Verified<T>,
}

#[derive(Debug)]
struct Drafted {
    token: u64,
    header: CutHeader,
    digest: Digest,
    body: CutBody,
}

impl Sequencer {
    /// A sequencer whose guard has signed up to `guard`.
    pub fn new(federation: &Federation, guard: u64) -> Sequencer {
        Sequencer {
            federation: federation.clone(),
            headers: BTreeMap::new(),
            fills: BTreeMap::new(),
            records: BTreeMap::new(),
            first: None,
            last_cut: Time(0),
            drafted: None,
            last_fill: (PublicKey([0; 32]), Digest::ZERO),
            guard,
            urgent: false,
        }
    }

    /// Takes up a draft that was written down before a restart and may have been signed.
    pub fn recall(&mut self, cut: Cut, out: &mut Vec<Output>) {
        let header = cut.certified.header;
        let digest = header.digest(&self.federation);
        out.push(Output::Vote(header.epoch, digest));
        self.drafted = Some(Drafted { token: 0, header, digest, body: cut.body });
    }

    /// Whether the guard has signed cuts that this node does not have: it must fetch them and sign nothing.
    pub fn is_behind_guard(&self, head: u64) -> bool {
        self.drafted.is_none() && head < self.guard
    }

    /// A header with its receipts. Bounded per origin: the highest numbers are dropped, and handed in again later.
    pub fn header(&mut self, from: Option<NodeId>, value: Verified<Sealed>, head: &State, out: &mut Vec<Output>) {
        let header = &value.header.body;
        let digest = value.digest(&self.federation);
        let last = head.node(&header.origin).and_then(|node| node.last_header);
        if last.is_some_and(|last| last.digest == digest) {
            return;
        }
        // A sequencer that was set back judges nothing by a state that it knows to be old: its draft will.
        let behind = self.is_behind_guard(head.epoch);
        if !behind && last.is_some_and(|last| header.number <= last.number) {
            reject(from, digest, "a header with its number, or a higher one, is included already", out);
            return;
        }
        let origin = header.origin;
        if !behind && head.node(&origin).is_none_or(|node| node.incarnation == 0) {
            reject(from, digest, "its origin is not a node of this federation, or has not started", out);
            return;
        }
        if header.routing_epoch > head.epoch && !self.is_behind_guard(head.epoch) {
            reject(from, digest, "its routing epoch is not settled yet", out);
            return;
        }
        if header.slices.len() as u64 > self.federation.params().max_slices {
            reject(from, digest, "more slices than genesis allows", out);
            return;
        }
        self.urgent |= !header.slices.is_empty();
        let number = header.number;
        let waiting = self.headers.entry(origin).or_default();
        // The newest takes the place: a header that is handed in again may come with other receipts, and better ones.
        waiting.insert((number, digest), Waiting { from, value });
        if waiting.len() > MAX_HEADERS_PER_ORIGIN {
            waiting.pop_last();
        }
    }

    /// A fill. Only for what is pending, and only its destination's; whoever has one hands it in again until a cut has
    /// settled it.
    pub fn fill(&mut self, from: NodeId, value: Verified<Fill>, head: &State, out: &mut Vec<Output>) {
        let key = PendingKey { destination: value.item.destination, header: value.item.header };
        let owed = head.pending(&key).is_some_and(|pending| pending.slice == value.item.slice);
        if !owed || value.holder() != key.destination {
            return;
        }
        let slot = (key.destination, key.header);
        let all = (key.destination, Digest::ZERO)..=(key.destination, Digest([u8::MAX; 32]));
        if !self.fills.contains_key(&slot) && self.fills.range(all).count() >= share(MAX_FILLS, head) {
            out.push(Output::Defer(from, key.header));
            return;
        }
        self.urgent = true;
        self.fills.insert(slot, Waiting { from: Some(from), value });
    }

    /// A record. Only its sender's share of the room is open to it, so that no node keeps the others' out.
    pub fn record(&mut self, from: NodeId, value: Verified<Record>, head: &State, out: &mut Vec<Output>) {
        let digest = value.digest(&self.federation);
        let member = |node: Option<NodeId>| node.filter(|node| head.node(node).is_some());
        let same = |waiting: &&Waiting<Record>| member(waiting.from) == member(Some(from));
        if !self.records.contains_key(&digest) && self.records.values().filter(same).count() >= share(MAX_RECORDS, head)
        {
            out.push(Output::Defer(from, digest));
            return;
        }
        self.urgent = true;
        self.records.insert(digest, Waiting { from: Some(from), value });
    }

    /// When the next cut is due.
    pub fn next_timeout(&self) -> Option<Time> {
        if self.drafted.is_some() {
            return None;
        }
        let params = self.federation.params();
        Some(self.last_cut.after_ms(if self.urgent { params.cut_interval_ms } else { params.heartbeat_ms }))
    }

    /// Drafts a cut if one is due. The draft must be persisted under `token`.
    pub fn draft(&mut self, now: Now, head: &State, token: u64, out: &mut Vec<Output>) -> Option<Cut> {
        if self.drafted.is_some() || self.is_behind_guard(head.epoch) {
            return None;
        }
        if self.next_timeout().is_none_or(|due| due > now.time) {
            return None;
        }
        self.last_cut = now.time;
        self.urgent = false;
        let time_ms = now.wall_ms.max(head.time_ms + 1);
        let mut draft = Draft::new(head, time_ms, &self.federation);
        let mut body = CutBody::default();
        self.draft_records(&mut draft, &mut body, out);
        self.draft_fills(&mut draft, &mut body, out);
        self.draft_headers(&mut draft, &mut body, out);
        let [records, fills, headers]: [Part; 3] = body.parts(&self.federation);
        let header = CutHeader {
            epoch: head.epoch + 1,
            previous: head.cut,
            time_ms,
            age_ms: draft.state().age_ms,
            records,
            fills,
            headers,
            state: draft.state().root(),
        };
        let certified = CertifiedCut { header: header.clone(), certificate: Vec::new() };
        let digest = header.digest(&self.federation);
        self.drafted = Some(Drafted { token, header, digest, body: body.clone() });
        Some(Cut { certified, body })
    }

    fn draft_records(&mut self, draft: &mut Draft, body: &mut CutBody, out: &mut Vec<Output>) {
        // Node records before starts before registrations, as each may need the one before; an import before a switch that
        // leaves its home; and an answer before a new challenge for the same slice.
        let mut records: Vec<(u8, Digest)> = (self.records.iter())
            .map(|(digest, waiting)| match &*waiting.value {
                Record::Node(_) => (0, *digest),
                Record::Start(_) => (1, *digest),
                Record::Register(_) => (2, *digest),
                Record::Import(_) => (3, *digest),
                Record::Move(_) => (4, *digest),
                Record::Lost(_) => (5, *digest),
                Record::Answer(_) => (6, *digest),
                Record::Challenge(_) => (7, *digest),
            })
            .collect();
        records.sort();
        for (_, digest) in records.into_iter().take(MAX_PER_CUT) {
            let Some(waiting) = self.records.remove(&digest) else { continue };
            match draft.record(&waiting.value) {
                Ok(()) => body.records.push(waiting.value.into_inner()),
                Err(invalid) => reject(waiting.from, digest, &invalid.to_string(), out),
            }
        }
        self.urgent |= !self.records.is_empty();
    }

    fn draft_fills(&mut self, draft: &mut Draft, body: &mut CutBody, out: &mut Vec<Output>) {
        let mut bytes = 0;
        while body.fills.len() < MAX_PER_CUT && bytes < MAX_FILL_BYTES {
            // In turns, from cut to cut: the fills of no destination come before all others for ever.
            let next = self.fills.range((Bound::Excluded(self.last_fill), Bound::Unbounded)).next();
            let Some(slot) = next.or_else(|| self.fills.first_key_value()).map(|(slot, _)| *slot) else { break };
            self.last_fill = slot;
            let (Some(waiting), (_, digest)) = (self.fills.remove(&slot), slot) else { break };
            match draft.fill(&waiting.value) {
                Ok(()) => {
                    bytes += encode(&*waiting.value).len();
                    body.fills.push(waiting.value.into_inner());
                }
                Err(invalid) => reject(waiting.from, digest, &invalid.to_string(), out),
            }
        }
        self.urgent |= !self.fills.is_empty();
    }

    /// One header of each origin in turn, so that no origin crowds out the others. Each cut begins with another one: in
    /// a cut that becomes full, the first have an advantage.
    fn draft_headers(&mut self, draft: &mut Draft, body: &mut CutBody, out: &mut Vec<Output>) {
        let mut origins: Vec<NodeId> = self.headers.keys().copied().collect();
        let first = origins.iter().position(|origin| Some(*origin) >= self.first).unwrap_or(0);
        origins.rotate_left(first);
        self.first = origins.get(1).copied();
        let mut bytes = 0;
        while !origins.is_empty() {
            let mut goes_on = Vec::new();
            for origin in origins {
                match self.draft_next(&origin, draft, out) {
                    Ok(Some(sealed)) => {
                        bytes += encode(&sealed).len();
                        body.headers.push(sealed);
                        goes_on.push(origin);
                        if bytes > MAX_HEADER_BYTES {
                            self.urgent = true;
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(Full) => {
                        self.urgent = true;
                        return;
                    }
                }
            }
            origins = goes_on;
        }
        self.headers.retain(|_, waiting| !waiting.is_empty());
    }

    /// The next header of `origin` that can be included.
    fn draft_next(
        &mut self,
        origin: &NodeId,
        draft: &mut Draft,
        out: &mut Vec<Output>,
    ) -> Result<Option<Sealed>, Full> {
        let Some(waiting) = self.headers.get_mut(origin) else { return Ok(None) };
        let last = draft.state().node(origin).and_then(|node| node.last_header);
        let previous = last.map_or(Digest::ZERO, |last| last.digest);
        let keys: Vec<(u64, Digest)> = waiting.keys().copied().collect();
        for key in keys {
            let header = &waiting[&key].value.header.body;
            if last.is_none_or(|last| header.number > last.number) && header.previous != previous {
                // It waits for the header before it; if that never comes, its routing epoch runs out.
                let window = self.federation.params().routing_window_epochs;
                if header.routing_epoch.saturating_add(window) >= draft.state().epoch {
                    continue;
                }
            }
            match draft.header(&waiting[&key].value) {
                Ok(_) => return Ok(waiting.remove(&key).map(|waiting| waiting.value.into_inner())),
                Err(Invalid::Full) => return Err(Full),
                Err(invalid) => {
                    if let Some(dead) = waiting.remove(&key) {
                        reject(dead.from, key.1, &invalid.to_string(), out);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Rows up to `token` are durable: asks for the vote on the draft that waits for that.
    pub fn persisted(&mut self, token: u64, out: &mut Vec<Output>) {
        if let Some(drafted) = self.drafted.as_mut().filter(|drafted| drafted.token != 0 && drafted.token <= token) {
            drafted.token = 0;
            out.push(Output::Vote(drafted.header.epoch, drafted.digest));
        }
    }

    /// The guard has voted: the cut is certified.
    pub fn voted(&mut self, epoch: u64, vote: Vote) -> Option<Arc<Verified<Cut>>> {
        let drafted = self.drafted.take_if(|drafted| drafted.header.epoch == epoch)?;
        self.guard = self.guard.max(epoch);
        let certified = CertifiedCut { header: drafted.header, certificate: vec![vote] };
        Some(Arc::new(Verified::assemble(certified, drafted.body)))
    }

    /// The guard refuses: this node was set back, and has to fetch what it signed before. What was drafted waits again.
    pub fn vote_refused(&mut self, epoch: u64) {
        self.guard = self.guard.max(epoch);
        let Some(drafted) = self.drafted.take() else { return };
        for record in drafted.body.records {
            let digest = record.digest(&self.federation);
            self.records.insert(digest, Waiting { from: None, value: Verified::from_own_disk(record) });
        }
        for fill in drafted.body.fills {
            let key = (fill.item.destination, fill.item.header);
            self.fills.insert(key, Waiting { from: None, value: Verified::from_own_disk(fill) });
        }
        for sealed in drafted.body.headers {
            let key = (sealed.header.body.number, sealed.digest(&self.federation));
            let waiting = Waiting { from: None, value: Verified::from_own_disk(sealed) };
            self.headers.entry(waiting.value.header.body.origin).or_default().insert(key, waiting);
        }
    }
}

/// One node's part of a room for `total`.
fn share(total: usize, head: &State) -> usize {
    (total / (head.node_count() as usize + 1)).max(MIN_SHARE)
}

/// The cut has as many headers as genesis allows.
struct Full;

fn reject(from: Option<NodeId>, digest: Digest, reason: &str, out: &mut Vec<Output>) {
    if let Some(node) = from {
        out.push(Output::Reject(node, digest, reason.to_owned()));
    }
}
