//! The router seals batches and gets each of their slices under receipts: from the destination, or from custodians
//! while that is away. It hands complete headers to the sequencer in the order of their chain, and knows each until a
//! cut includes it or it can never be included.
//!
//! It never waits for a dead node: a destination has an adaptive deadline, an absent one has none.

#[cfg(feature = "cheat")]
pub(crate) mod cheat;
mod leg;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use postroad_protocol::batch::{AttestationRef, Header, Routed, SliceRef, route};
use postroad_protocol::bundle::Bundle;
use postroad_protocol::merkle::sum::SumPath;
use postroad_protocol::receipt::{Receipt, ReceiptItem, RefusedLeaf, Sealed, sign_receipts};
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::state::State;
use postroad_protocol::{Digest, Federation, NodeId, SecretKey, Signed, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::inbox::BundleKey;
use crate::io::{Output, Report, Time};
use crate::peers::{Change, Peers};
use crate::slices::settled_by;
use crate::tables::{self, BATCHES, BUNDLES, Expiring, StoredBatch, Taken};
use leg::Leg;

/// Headers under way at most; more wait, and make larger batches.
const MAX_FLIGHTS: usize = 32;

/// The router's fixed surroundings.
#[derive(Clone, Debug)]
pub struct Origin {
    /// This node.
    pub me: NodeId,
    /// Its key.
    pub secret: SecretKey,
    /// The federation.
    pub federation: Federation,
}

/// Batches that are sealed and not yet ordered.
#[derive(Debug)]
pub struct Router {
    origin: Origin,
    incarnation: u64,
    flights: VecDeque<Flight>,
    next_number: u64,
    max_bytes: u64,
    /// How other nodes look from here.
    pub peers: Peers,
    #[cfg(feature = "cheat")]
    pub(crate) cheat: cheat::Sinner,
}

/// One batch on its way.
#[derive(Debug)]
pub struct Flight {
    /// The header's number.
    pub number: u64,
    /// The header's digest.
    pub digest: Digest,
    header: Header,
    /// The bundles, in order.
    pub bundles: Vec<BundleKey>,
    /// How many messages each bundle has.
    pub counts: Vec<u64>,
    bytes: u64,
    phase: Phase,
    legs: Vec<Leg>,
    /// For each bundle the path to the header's entries root.
    pub paths: Vec<SumPath>,
    /// Whether the sequencer was handed it since the last connection to it.
    pub handed_in: bool,
    /// Whether the sequencer could not settle it.
    pub rejected: bool,
    /// Whether the senders were told that it is accepted.
    pub accepted: bool,
}

#[derive(Debug)]
enum Phase {
    /// Its row is being written; nothing is signed yet.
    Writing { token: u64 },
    /// Signed; its slices wait for receipts.
    Routing { signed: Box<Signed<Header>> },
    /// All receipts are here.
    Complete { sealed: Arc<Verified<Sealed>> },
}

impl Flight {
    fn new(batch: &StoredBatch, routed: Routed, origin: &Origin, phase: Phase) -> Flight {
        let digest = batch.header.digest(origin.federation.id());
        let header = batch.header.clone();
        let legs = (header.slices.iter().zip(routed.bodies))
            .map(|(slice, body)| {
                let key = SliceKey {
                    origin: origin.me,
                    number: header.number,
                    header: digest,
                    destination: slice.destination,
                };
                Leg::new(key, *slice, Arc::new(body))
            })
            .collect();
        Flight {
            number: header.number,
            digest,
            bundles: batch
                .bundles
                .iter()
                .map(|bundle| (bundle.signed.body.sender, bundle.signed.body.counter))
                .collect(),
            counts: batch.bundles.iter().map(|bundle| bundle.messages.len() as u64).collect(),
            bytes: batch.bundles.iter().map(Bundle::weight_bytes).sum(),
            header,
            phase,
            legs,
            paths: routed.paths,
            handed_in: false,
            rejected: false,
            accepted: false,
        }
    }

    /// The header with all its receipts, once they are here.
    pub fn sealed(&self) -> Option<&Arc<Verified<Sealed>>> {
        match &self.phase {
            Phase::Complete { sealed } => Some(sealed),
            _ => None,
        }
    }
}

/// A batch that was just sealed: what to write, and the part that is for this node itself.
#[derive(Debug)]
pub struct SealedBatch {
    /// The rows.
    pub writes: Vec<Write>,
    /// The slice for this node itself, if there is one.
    pub own: Option<(SliceKey, Arc<SliceBody>)>,
}

impl Router {
    /// An empty router; `max_bytes` of payload may be on the way.
    pub fn new(origin: Origin, max_bytes: u64) -> Router {
        let cap_ms = origin.federation.params().deadline_cap_ms;
        Router {
            origin,
            incarnation: 0,
            flights: VecDeque::new(),
            next_number: 1,
            max_bytes,
            peers: Peers::new(cap_ms),
            #[cfg(feature = "cheat")]
            cheat: cheat::Sinner::default(),
        }
    }

    /// From now on headers carry this incarnation, and numbers above `number`.
    pub fn start(&mut self, incarnation: u64, number: u64) {
        self.incarnation = incarnation;
        self.next_number = self.next_number.max(number + 1);
    }

    /// Whether another batch may be sealed now.
    pub fn has_room(&self) -> bool {
        let writing = self.flights.back().is_some_and(|flight| matches!(flight.phase, Phase::Writing { .. }));
        !writing && self.flights.len() < MAX_FLIGHTS && !self.is_full()
    }

    /// Whether every batch has all its receipts.
    pub fn all_complete(&self) -> bool {
        self.flights.iter().all(|flight| flight.sealed().is_some())
    }

    /// Whether the bytes on the way fill their bound.
    pub fn is_full(&self) -> bool {
        self.under_way().1 >= self.max_bytes
    }

    /// How many batches are on their way, and their payload bytes.
    pub fn under_way(&self) -> (u64, u64) {
        (self.flights.len() as u64, self.flights.iter().map(|flight| flight.bytes).sum())
    }

    /// Batches on their way, in the order of their chain.
    pub fn flights(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.flights.iter_mut()
    }

    /// Seals bundles (or none, for an attestation alone) on the end of the chain. The writes must be persisted under
    /// `token`; the header is signed when they are.
    pub fn seal(
        &mut self,
        bundles: Vec<Bundle>,
        attestation: Option<AttestationRef>,
        head: &State,
        token: u64,
    ) -> SealedBatch {
        let mut homes = BTreeMap::new();
        for bundle in &bundles {
            for recipient in bundle.messages.iter().flat_map(|message| &message.recipients) {
                if let Some(home) = head.home(&recipient.mailbox) {
                    homes.insert(recipient.mailbox, home);
                }
            }
        }
        let federation = self.origin.federation.id();
        #[cfg(feature = "cheat")]
        let homes = self.cheat.omit(&bundles, homes, &self.origin.me, head.epoch);
        let routed = route(&bundles, federation, |mailbox| homes.get(mailbox).copied());
        #[cfg(feature = "cheat")]
        let routed = self.cheat.bad_slice(routed, &self.origin, head.epoch);
        let last = head.node(&self.origin.me).and_then(|node| node.last_header);
        let previous = match self.flights.back() {
            Some(flight) => flight.digest,
            None => last.map_or(Digest::ZERO, |last| last.digest),
        };
        // A header that a disk set back has forgotten may be included at any time: others have it, and hand it in.
        self.next_number = self.next_number.max(last.map_or(0, |last| last.number) + 1);
        let header = Header {
            origin: self.origin.me,
            incarnation: self.incarnation,
            number: self.next_number,
            previous,
            routing_epoch: head.epoch,
            attestation,
            entries: routed.entries,
            slices: routed.slices.clone(),
        };
        self.next_number += 1;
        let batch = StoredBatch { header, bundles, homes };
        let number = batch.header.number;
        let until = settled_by(head.epoch, &self.origin.federation);
        let mut writes = vec![
            tables::put(BATCHES, tables::number_key(number), &batch),
            tables::expiring(until, batch.header.digest(federation), self.origin.me, &Expiring::Batch(number)),
        ];
        for (ordinal, bundle) in batch.bundles.iter().enumerate() {
            let body = &bundle.signed.body;
            let taken = Taken {
                bundle: bundle.signed.digest(&self.origin.federation),
                last_counter: body.last_counter(),
                batch: batch.header.number,
                ordinal: ordinal as u32,
            };
            writes.push(tables::put(BUNDLES, tables::mailbox_key(&body.sender, body.counter), &taken));
        }
        let flight = Flight::new(&batch, routed, &self.origin, Phase::Writing { token });
        let own = flight.own_slice(&self.origin.me);
        self.flights.push_back(flight);
        SealedBatch { writes, own }
    }

    /// This node's own receipt for a slice of its own is to refuse these leaves.
    pub fn refuse_own(&mut self, key: &SliceKey, refused: Vec<RefusedLeaf>) {
        let mut legs = self.flights.iter_mut().flat_map(|flight| &mut flight.legs);
        if let Some(leg) = legs.find(|leg| leg.key == *key) {
            leg.refused = refused;
        }
    }

    /// Takes a batch up again that an earlier incarnation wrote. It is signed again at [`Router::start`].
    pub fn recall(&mut self, batch: &StoredBatch) -> Option<(SliceKey, Arc<SliceBody>)> {
        let routed = batch.route(self.origin.federation.id());
        self.next_number = self.next_number.max(batch.header.number + 1);
        let flight = Flight::new(batch, routed, &self.origin, Phase::Writing { token: 0 });
        let own = flight.own_slice(&self.origin.me);
        self.flights.push_back(flight);
        own
    }

    /// Rows up to `token` are durable: signs the headers that wait for that, and sends their slices out.
    pub fn persisted(&mut self, token: u64, now: Time, head: &State, out: &mut Vec<Output>) {
        for at in 0..self.flights.len() {
            let flight = &mut self.flights[at];
            if !matches!(flight.phase, Phase::Writing { token: waits } if waits <= token) {
                continue;
            }
            let signed = Signed::sign(flight.header.clone(), &self.origin.secret, &self.origin.federation).into_inner();
            flight.phase = Phase::Routing { signed: Box::new(signed) };
            for leg in 0..self.flights[at].legs.len() {
                self.dispatch(at, leg, now, head, out);
            }
            self.complete(at, out);
        }
    }

    /// A receipt came from a holder.
    pub fn receipt(&mut self, receipt: &Verified<Receipt>, now: Time, out: &mut Vec<Output>) {
        let holder = receipt.holder();
        let Some(at) = self.flights.iter().position(|flight| flight.digest == receipt.item.header) else { return };
        let flight = &mut self.flights[at];
        let Some(leg) = flight.legs.iter_mut().find(|leg| leg.key.destination == receipt.item.destination) else {
            return;
        };
        // One that no cut would take must not end the wait for another.
        if !receipt.item.refuses_within(&leg.slice, flight.header.entries.messages) {
            return;
        }
        if let Some(elapsed_ms) = leg.take_receipt(receipt, now, &self.origin.federation) {
            match self.peers.answered(holder, elapsed_ms) {
                Change::None => {}
                Change::Away => out.push(away(holder, "it keeps answering late")),
                Change::Back => out.push(Output::Report(Report::Back { node: holder })),
            }
        }
        self.complete(at, out);
    }

    /// The stream to a holder is up or gone. What it had to answer is asked for again, or goes elsewhere.
    pub fn holder(&mut self, node: NodeId, up: bool, now: Time, head: &State, out: &mut Vec<Output>) {
        let was_present = self.peers.is_present(&node);
        self.peers.connected(node, up);
        if was_present {
            out.push(away(node, "the connection is gone"));
        }
        for at in 0..self.flights.len() {
            let Phase::Routing { .. } = self.flights[at].phase else { continue };
            for index in 0..self.flights[at].legs.len() {
                let leg = &self.flights[at].legs[index];
                if !leg.awaits(&node) {
                    continue;
                }
                if up && leg.has_body(&node) {
                    out.push(Output::ToHolder(node, Box::new(leg.resume())));
                } else if !up {
                    self.give_up_on(at, index, &[node], now, head, out);
                }
            }
            self.complete(at, out);
        }
    }

    /// A holder says whether it is caught up.
    pub fn ready(&mut self, node: NodeId, ready: bool, out: &mut Vec<Output>) {
        let was = self.peers.is_present(&node);
        self.peers.ready(node, ready);
        match (was, self.peers.is_present(&node)) {
            (false, true) => out.push(Output::Report(Report::Back { node })),
            (true, false) => out.push(away(node, "it is catching up")),
            _ => {}
        }
    }

    /// The holder does not have (or does not take) the slice: it is sent whole, or elsewhere.
    pub fn missing(
        &mut self,
        node: NodeId,
        key: &SliceKey,
        taken: bool,
        now: Time,
        head: &State,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.flights.iter().position(|flight| flight.digest == key.header) else { return };
        let Phase::Routing { signed } = &self.flights[at].phase else { return };
        let signed = signed.clone();
        let Some(index) = self.flights[at].legs.iter().position(|leg| leg.key == *key) else { return };
        if !self.flights[at].legs[index].awaits(&node) {
            return;
        }
        if taken {
            let parcel = self.flights[at].legs[index].parcel(&signed);
            out.push(Output::ToHolder(node, Box::new(parcel)));
        } else {
            self.give_up_on(at, index, &[node], now, head, out);
            self.complete(at, out);
        }
    }

    /// Deadlines that have passed send slices to custodians, or to others.
    pub fn timed_out(&mut self, now: Time, head: &State, out: &mut Vec<Output>) {
        for at in 0..self.flights.len() {
            let Phase::Routing { .. } = self.flights[at].phase else { continue };
            for index in 0..self.flights[at].legs.len() {
                let leg = &self.flights[at].legs[index];
                if leg.deadline.is_none_or(|deadline| deadline > now) {
                    continue;
                }
                let late = leg.awaited();
                for node in &late {
                    if self.peers.missed(*node) {
                        out.push(away(*node, "it did not answer in time"));
                    }
                }
                self.give_up_on(at, index, &late, now, head, out);
            }
            self.complete(at, out);
        }
    }

    /// The next deadline.
    pub fn next_timeout(&self) -> Option<Time> {
        self.flights.iter().flat_map(|flight| &flight.legs).filter_map(|leg| leg.deadline).min()
    }

    /// The complete headers at the beginning of the chain, in order: what the sequencer can include.
    pub fn complete_prefix(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().take_while(|flight| flight.sealed().is_some())
    }

    /// A cut included the header with this digest. Returns its batch; earlier ones are gone with it.
    pub fn included(&mut self, digest: &Digest) -> Option<Flight> {
        self.flights.iter().position(|flight| flight.digest == *digest)?;
        loop {
            let flight = self.flights.pop_front()?;
            if flight.digest == *digest {
                return Some(flight);
            }
        }
    }

    /// Whether the chain can never be included: it hangs on another header than the last included one, or its routing
    /// epoch is out of the window of the next cut.
    pub fn is_dead(&self, head: &State) -> bool {
        let Some(first) = self.flights.front() else { return false };
        let last = head.node(&self.origin.me).and_then(|node| node.last_header);
        let window = self.origin.federation.params().routing_window_epochs;
        first.header.previous != last.map_or(Digest::ZERO, |last| last.digest)
            || first.header.routing_epoch + window < head.epoch + 1
    }

    /// Gives up the dead chain. Returns its bundles in order, and the writes that remove its rows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bury(&mut self, store: &dyn Read) -> Result<(Vec<Bundle>, Vec<Write>), StoreError> {
        let mut bundles = Vec::new();
        let mut writes = Vec::new();
        for flight in self.flights.drain(..) {
            let key = tables::number_key(flight.number);
            if let Some(batch) = tables::get::<StoredBatch>(store, BATCHES, &key)? {
                bundles.extend(batch.bundles);
            }
            writes.push(tables::delete(BATCHES, key));
        }
        Ok((bundles, writes))
    }

    /// Sends a leg's slice to its destination, or to custodians.
    fn dispatch(&mut self, at: usize, index: usize, now: Time, head: &State, out: &mut Vec<Output>) {
        let flight = &mut self.flights[at];
        let Phase::Routing { signed } = &flight.phase else { return };
        let leg = &mut flight.legs[index];
        let destination = leg.key.destination;
        if destination == self.origin.me {
            let receipt = own_receipt(&self.origin, self.incarnation, leg, None);
            leg.take_receipt(&receipt, now, &self.origin.federation);
        } else if self.peers.is_present(&destination) && !has_lapsed(head, &destination) {
            #[cfg(feature = "cheat")]
            if self.cheat.keeps(leg, &flight.header, &self.origin) {
                return self.ask_custodians(at, index, now, head, out);
            }
            #[cfg(feature = "cheat")]
            let signed = &self.cheat.face(signed, &destination, &self.origin);
            leg.send_to(destination, now, self.peers.deadline_ms(&destination));
            out.push(Output::ToHolder(destination, Box::new(leg.parcel(signed))));
            return;
        }
        self.ask_custodians(at, index, now, head, out);
    }

    /// Asks the best custodians that are present: two, or one for a slice of this node's own.
    fn ask_custodians(&mut self, at: usize, index: usize, now: Time, head: &State, out: &mut Vec<Output>) {
        let me = self.origin.me;
        let flight = &mut self.flights[at];
        let Phase::Routing { signed } = &flight.phase else { return };
        let leg = &mut flight.legs[index];
        let own = leg.key.destination == me;
        let deputies = head.node(&leg.key.destination).map_or(&[][..], |node| &node.deputies);
        let started = head.nodes().filter(|(_, node)| node.incarnation > 0).map(|(node, _)| *node);
        let ranked = crate::peers::rank_custodians(&leg.key.destination, deputies, started);
        let mut chosen: Vec<NodeId> = (ranked.into_iter())
            .filter(|node| {
                *node != me && self.peers.is_present(node) && !leg.has_failed(node) && !has_lapsed(head, node)
            })
            .take(if own { 1 } else { 2 })
            .collect();
        #[cfg(feature = "cheat")]
        chosen.retain(|_| !self.cheat.keeps(leg, &flight.header, &self.origin));
        if chosen.is_empty() && !own {
            chosen.push(me);
        }
        chosen.sort();
        if !leg.ask(chosen.clone(), &self.origin, self.incarnation) {
            return;
        }
        for node in chosen {
            if node == me {
                let request = leg.request_digest(&self.origin.federation);
                let receipt = own_receipt(&self.origin, self.incarnation, leg, request);
                leg.take_receipt(&receipt, now, &self.origin.federation);
                continue;
            }
            let message = if leg.has_body(&node) { leg.resume() } else { leg.parcel(signed) };
            leg.send_to(node, now, self.peers.deadline_ms(&node));
            out.push(Output::ToHolder(node, Box::new(message)));
        }
    }

    /// The leg no longer waits for these nodes.
    fn give_up_on(
        &mut self,
        at: usize,
        index: usize,
        nodes: &[NodeId],
        now: Time,
        head: &State,
        out: &mut Vec<Output>,
    ) {
        self.flights[at].legs[index].failed(nodes);
        self.ask_custodians(at, index, now, head, out);
    }

    /// If all legs have their receipts, the header is complete.
    fn complete(&mut self, at: usize, out: &mut Vec<Output>) {
        let federation = &self.origin.federation;
        let flight = &mut self.flights[at];
        let Phase::Routing { signed } = &flight.phase else { return };
        let mut custody = Vec::with_capacity(flight.legs.len());
        for leg in &flight.legs {
            let Some(complete) = leg.custody() else { return };
            if complete.check(&flight.header, flight.digest, &leg.slice, federation).is_err() {
                return;
            }
            custody.push(complete);
        }
        let sealed = Verified::from_own_disk(Sealed { header: (**signed).clone(), custody });
        for leg in &mut flight.legs {
            leg.deadline = None;
        }
        flight.phase = Phase::Complete { sealed: Arc::new(sealed) };
        let entries = &flight.header.entries;
        if entries.bundles > 0 {
            let (bundles, messages) = (u64::from(entries.bundles), entries.messages);
            out.push(Output::Report(Report::Accepted { bundles, messages }));
        }
    }
}

impl Flight {
    fn own_slice(&self, me: &NodeId) -> Option<(SliceKey, Arc<SliceBody>)> {
        let leg = self.legs.iter().find(|leg| leg.key.destination == *me)?;
        Some((leg.key, leg.body()))
    }
}

/// Whether no cut would take the node's receipts.
fn has_lapsed(head: &State, node: &NodeId) -> bool {
    head.node(node).is_some_and(|node| node.lapsed.is_some())
}

fn away(node: NodeId, reason: &'static str) -> Output {
    Output::Report(Report::Away { node, reason })
}

/// This node's receipt for a slice of its own batch, which is on its disk.
fn own_receipt(origin: &Origin, incarnation: u64, leg: &Leg, request: Option<Digest>) -> Verified<Receipt> {
    let SliceRef { destination, root, .. } = leg.slice;
    let refused = if request.is_none() { leg.refused.clone() } else { Vec::new() };
    let item = ReceiptItem { header: leg.key.header, destination, slice: root, request, refused };
    let mut receipts = sign_receipts(vec![item], incarnation, &origin.secret, &origin.federation);
    receipts.remove(0)
}
