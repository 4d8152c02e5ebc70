//! The network: one connection between any two nodes, with streams on it that are reliable and ordered while it lives.
//! A reset drops everything in flight, and each side learns of it when it learns of it.

use postroad_protocol::codec::encode;
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};

use postroad_engine::{Input, Output};

use super::edge::{AtFollower, AtHolder, AtOrigin, AtSequencer};
use super::node::Follower;
use super::world::{Event, Step, World};

/// Cuts that the sequencer sends ahead of what a follower has applied.
const AHEAD: u64 = 64;
/// Bytes of cuts in one page.
pub(super) const PAGE_BYTES: usize = 256 << 10;
/// A connection on which frames wait longer than this is broken, as those are that answer no pings.
const MAX_BACKLOG_MS: u64 = 2_000;
/// Longer frames carry statements or names, which rest on no order; shorter ones are greetings, credit and marks.
const STATEMENT_BYTES: usize = 64;

/// Which stream of a connection a frame is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// From an origin to a holder.
    Outward,
    /// Back from the holder.
    Homeward,
    /// To the sequencer.
    Up,
    /// From the sequencer.
    Down,
}

/// The connection between two nodes.
#[derive(Debug)]
pub(super) struct Link {
    /// The two nodes, in ascending order.
    pub(super) ends: (usize, usize),
    /// Rises with every connection and every loss of one.
    pub(super) generation: u64,
    pub(super) alive: bool,
    /// Until then nobody gets through.
    pub(super) blocked_until: u64,
    /// Until then everything takes long.
    pub(super) stalled_until: u64,
    /// Until then it carries only so many bytes in a millisecond.
    pub(super) slow_until: u64,
    pub(super) bytes_per_ms: u64,
    latency_ms: u64,
    /// When the last frame on each stream arrives.
    last: [u64; 8],
    /// When the last frame arrives that others on its stream may overtake.
    held_back: [u64; 8],
    /// When everything has left that waits, there and back.
    leaves: [u64; 2],
    redialling: bool,
}

impl Link {
    pub(super) fn new(a: usize, b: usize, latency_ms: u64) -> Link {
        Link {
            ends: (a, b),
            generation: 0,
            alive: false,
            blocked_until: 0,
            stalled_until: 0,
            slow_until: 0,
            bytes_per_ms: 1,
            latency_ms,
            last: [0; 8],
            held_back: [0; 8],
            leaves: [0; 2],
            redialling: false,
        }
    }

    pub(super) fn other(&self, node: usize) -> usize {
        if self.ends.0 == node { self.ends.1 } else { self.ends.0 }
    }
}

impl World {
    pub(super) fn link_between(&self, a: usize, b: usize) -> usize {
        let ends = (a.min(b), a.max(b));
        self.links.iter().position(|link| link.ends == ends).expect("any two nodes have a link")
    }

    /// Whether `from` believes that it is connected to `to`, and is.
    pub(super) fn connected(&self, from: usize, to: usize) -> bool {
        if from == to {
            return false;
        }
        let link = &self.links[self.link_between(from, to)];
        let view = self.nodes[from].running.as_ref().and_then(|running| running.peers[to]);
        link.alive && view == Some(link.generation)
    }

    /// Sends a frame; it vanishes if there is no connection. What is a statement may be overtaken by what comes behind.
    pub(super) fn send(&mut self, from: usize, to: usize, stream: Stream, bytes: Vec<u8>) {
        self.carry(from, to, stream, bytes, false);
    }

    /// Sends a frame that means something only behind everything that was sent before it.
    pub(super) fn send_behind(&mut self, from: usize, to: usize, stream: Stream, bytes: Vec<u8>) {
        self.carry(from, to, stream, bytes, true);
    }

    fn carry(&mut self, from: usize, to: usize, stream: Stream, bytes: Vec<u8>, behind: bool) {
        if !self.connected(from, to) {
            return;
        }
        let index = self.link_between(from, to);
        let (now, healed) = (self.now, self.healed);
        let statement = bytes.len() > STATEMENT_BYTES;
        let link = &mut self.links[index];
        let way = usize::from(from > to);
        let mut leaves = link.leaves[way].max(now);
        if link.slow_until > now {
            leaves += bytes.len() as u64 / link.bytes_per_ms;
            self.stats.slow_frames += 1;
        }
        link.leaves[way] = leaves;
        if leaves > now + MAX_BACKLOG_MS {
            self.stats.choked += 1;
            return self.reset(index);
        }
        let slot = stream as usize + 4 * way;
        let mut arrives = leaves + link.latency_ms + self.rng.below(link.latency_ms + 1);
        if link.stalled_until > now {
            arrives += self.rng.within(50..=900);
        }
        if !healed && self.rng.permille(3) {
            // Everything behind it waits as well.
            arrives += self.rng.within(200..=1_500);
            self.stats.delays += 1;
        }
        if behind {
            arrives = arrives.max(link.last[slot]).max(link.held_back[slot]);
            link.last[slot] = arrives;
        } else if !healed && statement && self.rng.permille(30) {
            // What comes behind it may overtake it.
            arrives += self.rng.within(10..=300);
            link.held_back[slot] = link.held_back[slot].max(arrives);
        } else {
            arrives = arrives.max(link.last[slot]);
            link.last[slot] = arrives;
            self.stats.overtaken += u64::from(arrives < link.held_back[slot]);
        }
        let generation = link.generation;
        if statement && stream != Stream::Down && self.rng.permille(15) {
            self.stats.duplicates += 1;
            let again = arrives + self.rng.below(60);
            self.at(again, Event::Frame { link: index, generation, from, to, stream, bytes: bytes.clone() });
        }
        self.at(arrives, Event::Frame { link: index, generation, from, to, stream, bytes });
    }

    /// The connection breaks. Each side notices after a while; then one of them dials again.
    pub(super) fn reset(&mut self, index: usize) {
        let link = &mut self.links[index];
        if !link.alive {
            return;
        }
        let generation = link.generation;
        link.alive = false;
        link.generation += 1;
        let (a, b) = link.ends;
        self.trace.note(self.now, "reset", a as u64, b as u64, &[]);
        for node in [a, b] {
            let after = self.rng.within(0..=250);
            self.after(after, Event::Notice { link: index, generation, node });
        }
        self.redial(index, 260);
    }

    /// Dials soon, unless somebody does already.
    pub(super) fn redial(&mut self, index: usize, at_least_ms: u64) {
        if !std::mem::replace(&mut self.links[index].redialling, true) {
            let after = self.rng.within(at_least_ms..=at_least_ms + 600);
            self.after(after, Event::Redial { link: index });
        }
    }

    /// A node learns that a connection is gone.
    pub(super) fn notice(&mut self, index: usize, generation: u64, node: usize) {
        let peer = self.links[index].other(node);
        let (peer_id, follows) = (self.nodes[peer].id, peer == self.sequencer);
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        if running.peers[peer] != Some(generation) {
            return;
        }
        running.peers[peer] = None;
        running.origins.remove(&peer);
        running.followers.remove(&peer);
        running.inputs.push_back(Input::Holder(peer_id, false));
        if follows {
            running.inputs.push_back(Input::Sequencer(None));
        }
        self.stir(node);
    }

    /// Somebody dials.
    pub(super) fn dial(&mut self, index: usize) -> Step {
        self.links[index].redialling = false;
        let link = &self.links[index];
        let (a, b) = link.ends;
        if link.alive {
            return Ok(());
        }
        if link.blocked_until > self.now || self.nodes[a].running.is_none() || self.nodes[b].running.is_none() {
            self.redial(index, 100);
            return Ok(());
        }
        let link = &mut self.links[index];
        link.alive = true;
        link.generation += 1;
        (link.last, link.held_back, link.leaves) = ([0; 8], [0; 8], [0; 2]);
        let generation = link.generation;
        self.trace.note(self.now, "connected", a as u64, b as u64, &[]);
        let federation = self.federation.id();
        for (me, peer) in [(a, b), (b, a)] {
            // A connection that this side still took for alive is gone with the new one.
            let stale = self.nodes[me].running.as_ref().and_then(|running| running.peers[peer]);
            if let Some(stale) = stale {
                self.notice(index, stale, me);
            }
            if let Some(running) = self.nodes[me].running.as_mut() {
                running.peers[peer] = Some(generation);
            }
        }
        for (me, peer) in [(a, b), (b, a)] {
            self.send(me, peer, Stream::Outward, encode(&Outward::Hello(federation)));
            if peer == self.sequencer {
                let after = self.nodes[me].running.as_ref().map_or(0, |running| running.applied);
                self.send(me, peer, Stream::Up, encode(&ToSequencer::Hello(federation, after)));
            }
        }
        Ok(())
    }

    /// A frame arrives.
    pub(super) fn frame(
        &mut self,
        index: usize,
        generation: u64,
        route: (usize, usize),
        stream: Stream,
        bytes: &[u8],
    ) -> Step {
        let (from, to) = route;
        let link = &self.links[index];
        if !link.alive || link.generation != generation || self.nodes[to].running.is_none() {
            return Ok(());
        }
        self.trace.note(self.now, stream.name(), from as u64, to as u64, bytes);
        if self.rng.permille(20) {
            self.mangled_frame(stream, bytes)?;
        }
        let peer = self.nodes[from].id;
        let input = match stream {
            Stream::Outward => match self.accept(|edge| edge.at_holder(bytes))? {
                AtHolder::Hello => {
                    let hello = Homeward::Hello(self.federation.id(), 1 << 20);
                    self.send(to, from, Stream::Homeward, encode(&hello));
                    if let Some(running) = self.nodes[to].running.as_mut() {
                        running.origins.insert(from);
                    }
                    Input::Origin(peer)
                }
                AtHolder::Slice(held) => {
                    if self.sinners.is(from) {
                        let header = &held.parcel.header;
                        self.sinners.faces.insert(header.digest(&self.federation), header.clone());
                    }
                    Input::Slice(peer, held)
                }
                AtHolder::Resume(name) => Input::Resume(peer, name.slice, name.request),
            },
            Stream::Homeward => match self.accept(|edge| edge.at_origin(bytes))? {
                None => return Ok(()),
                Some(AtOrigin::Hello) => Input::Holder(peer, true),
                Some(AtOrigin::Receipts(receipts)) => Input::Receipts(peer, receipts),
                Some(AtOrigin::Missing(key)) => Input::Missing(peer, key),
                Some(AtOrigin::NotTaken(key, reason)) => Input::NotTaken(peer, key, reason),
                Some(AtOrigin::Ready(ready)) => Input::Ready(peer, ready),
            },
            Stream::Up => match self.accept(|edge| edge.at_sequencer(bytes))? {
                AtSequencer::Hello(after) => {
                    let Some(running) = self.nodes[to].running.as_mut() else { return Ok(()) };
                    let hello = FromSequencer::Hello(self.federation.id(), running.applied);
                    running.followers.insert(from, Follower { sent: after, applied: after });
                    self.send(to, from, Stream::Down, encode(&hello));
                    return self.feed_follower(to, from);
                }
                AtSequencer::Applied(epoch) => {
                    let running = self.nodes[to].running.as_mut();
                    if let Some(follower) = running.and_then(|running| running.followers.get_mut(&from)) {
                        follower.applied = follower.applied.max(epoch);
                    }
                    return self.feed_follower(to, from);
                }
                AtSequencer::Sealed(sealed) => Input::Sealed(Some(peer), sealed),
                AtSequencer::Fill(fill) => Input::Fill(peer, fill),
                AtSequencer::Record(record) => Input::Record(peer, record),
            },
            Stream::Down => match self.accept(|edge| edge.at_follower(bytes))? {
                AtFollower::Hello(epoch) => Input::Sequencer(Some(epoch)),
                AtFollower::Cut(cut) => Input::Cut(cut),
                AtFollower::Rejected(digest, reason) => Input::Rejected(digest, reason),
                AtFollower::Busy(digest) => Input::Deferred(digest),
            },
        };
        self.input(to, input);
        Ok(())
    }

    /// Sends a follower the cuts that it does not have, as far as its credit goes.
    pub(super) fn feed_follower(&mut self, me: usize, follower: usize) -> Step {
        loop {
            let Some(running) = self.nodes[me].running.as_ref() else { return Ok(()) };
            let applied = running.applied;
            let Some(Follower { sent, applied: has }) = running.followers.get(&follower).copied() else {
                return Ok(());
            };
            if sent >= applied || sent >= has + AHEAD {
                return Ok(());
            }
            let cuts = postroad_engine::serve::cuts(&self.nodes[me].disk()?, sent, PAGE_BYTES);
            let cuts = cuts.or_else(|error| self.broken("store", error.to_string()))?;
            if cuts.is_empty() {
                return Ok(());
            }
            for cut in cuts {
                let epoch = cut.certified.header.epoch;
                if epoch > has + AHEAD {
                    return Ok(());
                }
                self.send(me, follower, Stream::Down, encode(&FromSequencer::Cut(Box::new(cut))));
                let running = self.nodes[me].running.as_mut();
                if let Some(follower) = running.and_then(|running| running.followers.get_mut(&follower)) {
                    follower.sent = epoch;
                }
            }
        }
    }

    /// What a node wants to send to others goes out.
    pub(super) fn transmit(&mut self, me: usize, output: Output) -> Step {
        let id = self.nodes[me].id;
        let committed = &self.nodes[me].committed;
        if let Some(gathered) = self.gathered.as_mut() {
            gathered.sent(&output);
        }
        match output {
            Output::ToHolder(node, message) => {
                if let Outward::Slice(parcel) = &*message {
                    let verdict = self.checks.statements.header(&parcel.header, &self.federation, committed);
                    self.unless_sinner(me, self.judge(verdict))?;
                    self.stats.custody += u64::from(parcel.request.is_some());
                }
                if let Some(to) = self.index_of(&node) {
                    self.send(me, to, Stream::Outward, encode(&*message));
                }
            }
            Output::ToOrigin(node, message) => {
                if let Homeward::Receipts(receipts) = &message {
                    for receipt in receipts {
                        let verdict = self.checks.statements.receipt(receipt, &id, committed);
                        self.judge(verdict)?;
                    }
                }
                if let Some(to) = self.index_of(&node) {
                    self.send(me, to, Stream::Homeward, encode(&message));
                }
            }
            Output::ToOrigins(message) => {
                let origins = self.nodes[me].running.as_ref().map(|running| running.origins.clone());
                for to in origins.unwrap_or_default() {
                    self.send(me, to, Stream::Homeward, encode(&message));
                }
            }
            Output::ToSequencer(message) => {
                match &*message {
                    ToSequencer::Sealed(sealed) => {
                        let verdict = self.checks.statements.sealed(sealed, &id, &self.federation, committed);
                        self.unless_sinner(me, self.judge(verdict))?;
                    }
                    ToSequencer::Fill(fill) => {
                        let verdict = self.checks.statements.receipt(fill, &id, committed);
                        self.judge(verdict)?;
                    }
                    _ => {}
                }
                self.send(me, self.sequencer, Stream::Up, encode(&*message));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Outward => "outward",
            Stream::Homeward => "homeward",
            Stream::Up => "to-sequencer",
            Stream::Down => "from-sequencer",
        }
    }
}
