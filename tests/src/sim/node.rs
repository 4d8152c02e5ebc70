//! A node in the world: the real rooms on a store in memory, and the loop that a driver runs around them.
//!
//! One transaction is open over a group of inputs. At the end of the group it is committed, which takes a while; then
//! what the group wants to say is said, in order; then the rooms hear that it is on disk. A crash can come between any
//! two steps: the transaction is lost with everything in memory, or it was committed and nothing was said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use postroad_engine::arrivals::Unsettled;
use postroad_engine::handover::Handovers;
use postroad_engine::outbox::AttestedView;
use postroad_engine::{Config, Input, Load, Node, Now, Output, Time, Token};
use postroad_protocol::wire::client::Overdue;
use postroad_protocol::{MailboxId, NodeId, SecretKey};
use postroad_store::{Guard, Snapshot, Store, Write};

use super::bugs::{Bug, unvoted};
use super::calls::Asker;
use super::disk::{Backup, Syncing, stage};
use super::harvest::Gathered;
use super::invariants::Violation;
use super::invariants::one_statement::Committed;
use super::world::{Event, Step, World};

/// How long a node that drains waits for what is under way.
const DRAIN_PATIENCE_MS: u64 = 1_500;

/// One node: its key, its disk, and what runs of it.
pub(super) struct SimNode {
    pub(super) secret: SecretKey,
    pub(super) id: NodeId,
    pub(super) store: Store,
    pub(super) guard: Guard,
    /// Rises with every start and every crash, so that what was meant for an earlier process does not reach a later one.
    pub(super) life: u64,
    pub(super) running: Option<Running>,
    /// It stays down until then.
    pub(super) down_until: u64,
    pub(super) slow_disk_until: u64,
    pub(super) full_disk_until: u64,
    /// The wall clock, less virtual time.
    pub(super) clock_ms: u64,
    /// After so many more steps it crashes.
    pub(super) fuse: Option<u64>,
    /// An older state of the disk, with which it may come back.
    pub(super) backup: Option<Backup>,
    pub(super) restored: bool,
    pub(super) committed: Committed,
}

/// A running process.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) inputs: VecDeque<Input>,
    pub(super) syncing: Option<Syncing>,
    /// What a planted bug has put aside.
    pub(super) aside: Vec<Write>,
    /// It is to stop by then.
    drain_by: Option<u64>,
    /// The token that is on disk and that the rooms were not told of.
    persisted: Option<u64>,
    stirred: bool,
    wakes_at: Option<u64>,
    /// Connections as this node sees them, by generation.
    pub(super) peers: Vec<Option<u64>>,
    /// Nodes that opened their stream of slices to this one.
    pub(super) origins: BTreeSet<usize>,
    pub(super) followers: BTreeMap<usize, Follower>,
    /// The last epoch of which it was said that it is applied.
    pub(super) applied: u64,
    /// How far its logs went at that moment: what is delivered, and below what nothing can come late.
    pub(super) settled: (u64, (u64, u32)),
    /// Overdue slices, as its clients are told.
    pub(super) overdue: Vec<Overdue>,
    pub(super) view: Option<Arc<AttestedView>>,
    /// Its last attestation that is final.
    pub(super) last_final: Option<Arc<AttestedView>>,
    /// How far logs were handed over.
    pub(super) handovers: Handovers,
    /// What former homes may still have for mailboxes that moved here.
    pub(super) unsettled: BTreeMap<MailboxId, Unsettled>,
    pub(super) asked: BTreeMap<Token, Asker>,
    pub(super) next_token: Token,
}

/// A node that gets cuts from the sequencer.
#[derive(Clone, Copy)]
pub(super) struct Follower {
    pub(super) sent: u64,
    pub(super) applied: u64,
}

impl SimNode {
    /// What is on its disk.
    pub(super) fn disk(&self) -> Result<Snapshot, Violation> {
        self.store.snapshot().map_err(|error| Violation { invariant: "store", what: error.to_string(), at_ms: 0 })
    }
}

impl World {
    /// The process starts.
    pub(super) fn start(&mut self, me: usize) -> Step {
        let count = self.nodes.len();
        let sim = &mut self.nodes[me];
        if sim.running.is_some() || sim.down_until > self.now {
            return Ok(());
        }
        sim.life += 1;
        sim.fuse = None;
        let mut config = Config {
            federation: self.federation.clone(),
            secret: sim.secret.clone(),
            name: format!("node-{me}"),
            addrs: Vec::new(),
            deputies: self.deputies[me].iter().map(|node| self.ids[*node]).collect(),
            deputy_for: postroad_engine::node::Admission::Open,
            nonce: self.rng.array(),
            admission: postroad_engine::node::Admission::Open,
            moves: postroad_engine::node::Admission::Open,
            max_move_bytes: 1 << 40,
            max_queued_bytes: 1 << 20,
            max_flight_bytes: 1 << 20,
            max_sender_bytes: 1 << 20,
            max_custody_bytes: 1 << 30,
            max_mailboxes: 1 << 20,
            registrations_per_minute: 0,
            policy: Default::default(),
            mailbox_quota: self.gathered.as_ref().map_or(Load { entries: 1 << 20, bytes: 1 << 40 }, Gathered::quota),
            guard_epoch: sim.guard.last().map_or(0, |(slot, ..)| slot),
        };
        match self.bug {
            Some(Bug::NoGuard) => config.guard_epoch = 0,
            Some(Bug::SameNonce) => config.nonce = [7; 16],
            _ => {}
        }
        let mut transaction = match sim.store.begin() {
            Ok(transaction) => transaction,
            Err(error) => return self.broken("store", error.to_string()),
        };
        let (mut node, outputs) = match Node::open(config, &transaction) {
            Ok(opened) => opened,
            Err(error) => return self.broken("recovery", format!("node {me} does not open: {error}")),
        };
        stage(&mut transaction, &outputs);
        if let Some(cheat) = self.sinners.cheat(me)
            && let Err(error) = node.tempt(cheat, &transaction)
        {
            return self.broken("store", error.to_string());
        }
        let applied = node.head().epoch;
        self.trace.note(self.now, "start", me as u64, applied, &[]);
        self.nodes[me].running = Some(Running {
            node,
            inputs: VecDeque::new(),
            syncing: None,
            aside: Vec::new(),
            drain_by: None,
            persisted: None,
            stirred: false,
            wakes_at: None,
            peers: vec![None; count],
            origins: BTreeSet::new(),
            followers: BTreeMap::new(),
            applied,
            settled: (0, (0, 0)),
            overdue: Vec::new(),
            view: None,
            last_final: None,
            handovers: Handovers::default(),
            unsettled: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 1,
        });
        for link in 0..self.links.len() {
            let (a, b) = self.links[link].ends;
            if a == me || b == me {
                self.redial(link, 5);
            }
        }
        self.settle(me, transaction, outputs)
    }

    /// The process dies.
    pub(super) fn crash(&mut self, me: usize) -> Step {
        let Some(mut running) = self.nodes[me].running.take() else { return Ok(()) };
        self.stats.crashes += 1;
        self.stats.crashes_sequencer += u64::from(me == self.sequencer);
        self.trace.note(self.now, "crash", me as u64, 0, &[]);
        if let Some(syncing) = running.syncing.take() {
            self.interrupted(me, syncing)?;
        }
        self.gone(me);
        Ok(())
    }

    /// The process ends by itself.
    pub(super) fn stop(&mut self, me: usize) -> Step {
        self.nodes[me].running = None;
        self.stats.stops += 1;
        self.trace.note(self.now, "stop", me as u64, 0, &[]);
        self.gone(me);
        Ok(())
    }

    /// The process takes nothing new, and stops when nothing is under way any more.
    pub(super) fn drain(&mut self, me: usize) {
        let by = self.now + DRAIN_PATIENCE_MS;
        let life = self.nodes[me].life;
        if let Some(running) = self.nodes[me].running.as_mut()
            && running.drain_by.is_none()
        {
            running.drain_by = Some(by);
            self.stats.drains += 1;
            self.input(me, Input::Drain);
            self.at(by, Event::Wake { node: me, life });
        }
    }

    /// What ends with a process.
    fn gone(&mut self, me: usize) {
        let sim = &mut self.nodes[me];
        sim.life += 1;
        sim.fuse = None;
        let (now, healed) = (self.now, self.healed);
        for link in 0..self.links.len() {
            let (a, b) = self.links[link].ends;
            if (a == me || b == me) && self.links[link].alive {
                self.reset(link);
            }
        }
        self.lose_sessions_of(me);
        self.maybe_restore(me);
        self.maybe_lose(me);
        let down = if healed { self.rng.within(10..=100) } else { self.downtime(me) };
        self.nodes[me].down_until = now + down;
        self.after(down, Event::Start { node: me });
    }

    /// What a node's clocks say.
    pub(super) fn clock(&self, me: usize) -> Now {
        let wall_ms = self.nodes[me].clock_ms + self.now;
        // Planted: timers by the wall clock.
        let time = if self.bug == Some(Bug::WallClockTimers) { wall_ms } else { self.now };
        Now { time: Time(time), wall_ms }
    }

    /// Something happened to a node.
    pub(super) fn input(&mut self, me: usize, input: Input) {
        if let Some(running) = self.nodes[me].running.as_mut() {
            running.inputs.push_back(input);
            self.stir(me);
        }
    }

    /// The node looks at what has come, soon.
    pub(super) fn stir(&mut self, me: usize) {
        let life = self.nodes[me].life;
        let Some(running) = self.nodes[me].running.as_mut() else { return };
        if !running.stirred && running.syncing.is_none() {
            running.stirred = true;
            let after = self.rng.below(3);
            self.after(after, Event::Group { node: me, life });
        }
    }

    /// One group of inputs.
    pub(super) fn group(&mut self, me: usize, life: u64) -> Step {
        let now = self.clock(me);
        let sim = &mut self.nodes[me];
        if sim.life != life {
            return Ok(());
        }
        let Some(running) = sim.running.as_mut() else { return Ok(()) };
        running.stirred = false;
        if running.syncing.is_some() {
            return Ok(());
        }
        let mut inputs = VecDeque::new();
        let count = match running.inputs.len() {
            0 => 0,
            waiting => 1 + self.rng.index(waiting),
        };
        inputs.extend(running.inputs.drain(..count));
        if let Some(token) = running.persisted.take() {
            // What is on disk is told among other things: some of the group comes before it, and is not on disk.
            let at = self.rng.index(inputs.len() + 1);
            inputs.insert(at, Input::Persisted(token));
        }
        if running.node.next_timeout() <= now.time {
            inputs.push_back(Input::TimedOut);
        }
        inputs.push_back(Input::Flush);
        let mut transaction = match sim.store.begin() {
            Ok(transaction) => transaction,
            Err(error) => return self.broken("store", error.to_string()),
        };
        let mut outputs = Vec::new();
        if !running.aside.is_empty() && self.rng.permille(200) {
            outputs.push(Output::Persist(0, std::mem::take(&mut running.aside)));
            stage(&mut transaction, &outputs);
        }
        while let Some(input) = inputs.pop_front() {
            let mut new = Vec::new();
            running.node.handle(now, input, &transaction, &mut new);
            if let Some(bug) = self.bug {
                bug.spoil(&mut new, &mut running.aside);
            }
            stage(&mut transaction, &new);
            if self.bug == Some(Bug::DeliverBeforeCut) {
                inputs.extend(unvoted(&new));
            }
            outputs.append(&mut new);
        }
        self.settle(me, transaction, outputs)
    }

    /// What a group wants to say is said; then the rooms hear what is on disk.
    pub(super) fn said(&mut self, me: usize, life: u64, outputs: Vec<Output>, token: Option<u64>) -> Step {
        self.release(me, life, outputs)?;
        let (now, clock) = (self.now, self.clock(me));
        let sim = &mut self.nodes[me];
        if sim.life != life {
            return Ok(());
        }
        let Some(running) = sim.running.as_mut() else { return Ok(()) };
        if let Some(token) = token {
            running.persisted = Some(token);
        }
        let drained = running.inputs.is_empty() && running.persisted.is_none() && running.node.is_drained();
        if running.drain_by.is_some_and(|by| drained || now >= by) {
            self.stats.drained += u64::from(drained);
            return self.stop(me);
        }
        if running.persisted.is_some() || !running.inputs.is_empty() {
            running.stirred = true;
            self.after(0, Event::Group { node: me, life });
            return Ok(());
        }
        let due = (now + running.node.next_timeout().since_ms(clock.time)).max(now + 1);
        if running.wakes_at.is_none_or(|at| at > due) {
            running.wakes_at = Some(due);
            self.at(due, Event::Wake { node: me, life });
        }
        Ok(())
    }

    /// A timer has come.
    pub(super) fn wake(&mut self, me: usize, life: u64) {
        let sim = &mut self.nodes[me];
        if sim.life != life {
            return;
        }
        if let Some(running) = sim.running.as_mut() {
            running.wakes_at = None;
            self.stir(me);
        }
    }

    /// Outputs go out one by one; between any two of them the process may die.
    pub(super) fn release(&mut self, me: usize, life: u64, outputs: Vec<Output>) -> Step {
        for output in outputs {
            let sim = &mut self.nodes[me];
            if let Some(fuse) = sim.fuse.as_mut() {
                if *fuse == 0 {
                    self.stats.crashes_unreleased += 1;
                    return self.crash(me);
                }
                *fuse -= 1;
            }
            self.carry_out(me, output)?;
            if self.nodes[me].life != life {
                return Ok(());
            }
        }
        Ok(())
    }
}
