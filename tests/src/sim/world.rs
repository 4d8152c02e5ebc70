//! The world: virtual time, one queue of events, and everything that they happen to.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::genesis::{Genesis, Member};
use postroad_protocol::{Federation, MailboxId, NodeId, Params, SecretKey};
use postroad_store::{Guard, Store};

use super::calls::Asker;
use super::client::Client;
use super::edge::{Edge, Refused};
use super::harvest::{Gathered, Story};
use super::invariants::{Broken, Checks, Verdict, Violation};
use super::net::{Link, Stream};
use super::node::SimNode;
use super::rng::Rng;
use super::sessions::Session;
use super::sinners::Sinners;
use super::stats::Stats;
use super::trace::Trace;
use super::{Bug, Options, Outcome};

/// Nothing, or the invariant that does not hold.
pub(super) type Step = Result<(), Violation>;

/// How long everything may take once all faults have stopped.
const PATIENCE_MS: u64 = 60_000;

/// What is to happen.
pub(super) enum Event {
    Start {
        node: usize,
    },
    Group {
        node: usize,
        life: u64,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Wake {
        node: usize,
        life: u64,
    },
    Frame {
        link: usize,
        generation: u64,
        from: usize,
        to: usize,
        stream: Stream,
        bytes: Vec<u8>,
    },
    Notice {
        link: usize,
        generation: u64,
        node: usize,
    },
    Redial {
        link: usize,
    },
    Question {
        asker: Asker,
        to: usize,
        bytes: Vec<u8>,
    },
    Reply {
        asker: Asker,
        bytes: Option<Vec<u8>>,
    },
    SessionUp {
        session: usize,
    },
    SessionLost {
        session: usize,
    },
    ToNode {
        session: usize,
        bytes: Vec<u8>,
    },
    ToClient {
        session: usize,
        bytes: Vec<u8>,
    },
    Tick {
        client: usize,
    },
    /// An owner thinks of moving.
    Wander {
        client: usize,
    },
    Fault,
    Heal,
    Check,
}

/// Everything.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) stats: Stats,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    pub(super) federation: Federation,
    pub(super) edge: Edge,
    pub(super) nodes: Vec<SimNode>,
    pub(super) ids: Vec<NodeId>,
    pub(super) deputies: Vec<Vec<usize>>,
    pub(super) sequencer: usize,
    /// Who has lapsed, after the last cut.
    pub(super) lapsed: BTreeSet<NodeId>,
    pub(super) links: Vec<Link>,
    pub(super) sessions: Vec<Session>,
    pub(super) clients: Vec<Client>,
    pub(super) checks: Checks,
    pub(super) bug: Option<Bug>,
    outcomes_only: bool,
    /// Whether owners move their mailboxes.
    pub(super) moves: bool,
    pub(super) heals_at: u64,
    pub(super) healed: bool,
    done: bool,
    /// What is told of it, and what was said in it, where somebody gathers that.
    pub(super) gathered: Option<Gathered>,
    /// Who cheats, in the runs in which somebody does.
    pub(super) sinners: Sinners,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> World {
        World::told(seed, options, None)
    }

    /// The world of a story, or of the seed alone.
    pub(super) fn told(seed: u64, options: &Options, story: Option<&Story>) -> World {
        let mut rng = Rng::new(story.map_or(seed, |story| story.keys));
        let count = rng.within(3..=5) as usize;
        let secrets: Vec<SecretKey> = (0..count).map(|_| SecretKey::from_seed(rng.array())).collect();
        let ids: Vec<NodeId> = secrets.iter().map(SecretKey::public).collect();
        let sequencer = rng.index(count);
        let window = *rng.pick(&[8, 16, 64]);
        let heartbeat_ms = *rng.pick(&[500, 1_000]);
        let params = Params {
            routing_window_epochs: window,
            validity_epochs: window * 32,
            cut_interval_ms: *rng.pick(&[25, 50, 100]),
            heartbeat_ms,
            deadline_cap_ms: *rng.pick(&[100, 250, 500]),
            max_recipients: 8,
            max_message_bytes: 4_096,
            max_bundle_messages: 8,
            max_bundle_bytes: 16_384,
            max_batch_bytes: *rng.pick(&[16_384, 65_536]),
            challenge_ms: story.filter(|story| story.careless).map_or_else(|| *rng.pick(&[1_500, 60_000]), |_| 200),
            lapse_ms: *rng.pick(&[10 * heartbeat_ms, 300_000]),
            retention_ms: story.map_or(Params::default().retention_ms, |story| story.retention_ms),
            move_delay_ms: if options.moves { *rng.pick(&[200, 2_000]) } else { Params::default().move_delay_ms },
            ..Params::default()
        };
        let wall_ms = 1_700_000_000_000;
        let genesis = Genesis {
            name: story.map_or("simulated", |story| story.name).into(),
            time_ms: wall_ms,
            committee: vec![Member { node: ids[sequencer], addrs: Vec::new() }],
            allow: Vec::new(),
            params,
        };
        let federation = Federation::new(genesis).expect("the simulator's genesis is valid");
        let deputies =
            (0..count).map(|node| (0..count).filter(|other| *other != node && rng.permille(250)).collect()).collect();
        let nodes = (secrets.into_iter().enumerate())
            .map(|(at, secret)| SimNode {
                id: ids[at],
                secret,
                store: Store::memory(&postroad_engine::tables::ALL),
                guard: Guard::memory(),
                life: 0,
                running: None,
                down_until: 0,
                slow_disk_until: 0,
                full_disk_until: 0,
                clock_ms: wall_ms + rng.below(3_000),
                fuse: None,
                backup: None,
                restored: false,
                committed: Default::default(),
            })
            .collect();
        let mut links = Vec::new();
        for a in 0..count {
            for b in a + 1..count {
                links.push(Link::new(a, b, rng.within(1..=40)));
            }
        }
        let moves = options.moves;
        let clients = (0..rng.within(4..=10)).map(|_| Client::new(&mut rng, count, &federation, &ids, moves)).collect();
        let mut world = World {
            now: 0,
            rng,
            trace: Trace::new(seed, options.trace),
            stats: Stats::default(),
            queue: BTreeMap::new(),
            events: 0,
            edge: Edge::new(&federation, options.bug),
            checks: Checks::new(&federation),
            federation,
            nodes,
            ids,
            deputies,
            sequencer,
            lapsed: BTreeSet::new(),
            links,
            sessions: Vec::new(),
            clients,
            bug: options.bug,
            outcomes_only: options.outcomes_only,
            moves: options.moves,
            heals_at: 0,
            healed: false,
            done: false,
            gathered: story.map(|story| Gathered::new(*story)),
            sinners: Sinners::default(),
        };
        if story.is_some() {
            world.rng = Rng::new(seed);
        }
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let after = self.rng.below(200);
            self.after(after, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            let after = self.rng.within(100..=600);
            self.after(after, Event::Tick { client });
            if self.moves {
                let after = self.rng.within(500..=4_000);
                self.after(after, Event::Wander { client });
            }
        }
        self.heals_at = self.rng.within(5_000..=9_000);
        let first = self.rng.within(300..=1_500);
        self.after(first, Event::Fault);
        self.at(self.heals_at, Event::Heal);
    }

    /// Runs until everything has arrived, or something does not hold.
    pub(super) fn run(mut self, seed: u64) -> Outcome {
        let mut violation = self.run_until(u64::MAX);
        let mut final_ms = 0;
        if violation.is_none() {
            match self.finish() {
                Ok(slowest) => final_ms = slowest,
                Err(found) => violation = Some(found),
            }
        }
        Outcome { seed, violation, stats: self.stats, final_ms, trace: self.trace.finish() }
    }

    /// Runs up to a time, unless it is over before; gives what does not hold.
    pub(super) fn run_until(&mut self, end: u64) -> Option<Violation> {
        while !self.done {
            let (&key, _) = self.queue.first_key_value().filter(|(key, _)| key.0 <= end)?;
            let event = self.queue.remove(&key)?;
            self.now = key.0;
            self.stats.events += 1;
            if let Err(mut found) = self.happen(event) {
                found.at_ms = self.now;
                return Some(found);
            }
        }
        None
    }

    fn happen(&mut self, event: Event) -> Step {
        match event {
            Event::Start { node } => self.start(node)?,
            Event::Group { node, life } => self.group(node, life)?,
            Event::Synced { node, life } => self.synced(node, life)?,
            Event::Wake { node, life } => self.wake(node, life),
            Event::Frame { link, generation, from, to, stream, bytes } => {
                let step = self.frame(link, generation, (from, to), stream, &bytes);
                self.unless_sinner(from, step)?;
            }
            Event::Notice { link, generation, node } => self.notice(link, generation, node),
            Event::Redial { link } => self.dial(link)?,
            Event::Question { asker, to, bytes } => self.question(asker, to, &bytes)?,
            Event::Reply { asker, bytes } => self.answered(asker, bytes.as_deref())?,
            Event::SessionUp { session } => self.session_up(session),
            Event::SessionLost { session } => self.session_lost(session),
            Event::ToNode { session, bytes } => self.node_gets(session, &bytes)?,
            Event::ToClient { session, bytes } => self.client_gets(session, &bytes)?,
            Event::Tick { client } => self.tick(client)?,
            Event::Wander { client } => self.wander(client)?,
            Event::Fault => self.fault()?,
            Event::Heal => self.heal(),
            Event::Check => self.check()?,
        }
        Ok(())
    }

    /// Something is to happen at a time.
    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.events += 1;
        self.queue.insert((time.max(self.now), self.events), event);
    }

    /// Something is to happen after a while.
    pub(super) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    pub(super) fn index_of(&self, node: &NodeId) -> Option<usize> {
        self.ids.iter().position(|id| id == node)
    }

    pub(super) fn violation(&self, broken: Broken) -> Violation {
        Violation { invariant: broken.invariant, what: broken.what, at_ms: self.now }
    }

    pub(super) fn judge(&self, verdict: Verdict) -> Step {
        match verdict {
            Err(broken) if self.outcomes_only && broken.is_order_of_steps() => Ok(()),
            // In a story what is lost for good, refused or past retention is missing where the invariants look for it.
            Err(_) if self.gathered.is_some() && !self.sinners.is_any() => Ok(()),
            verdict => verdict.map_err(|broken| self.violation(broken)),
        }
    }

    pub(super) fn broken<T>(&self, invariant: &'static str, what: impl Into<String>) -> Result<T, Violation> {
        Err(self.violation(Broken { invariant, what: what.into() }))
    }

    /// What an honest node sends is never refused.
    pub(super) fn accept<T>(&mut self, read: impl FnOnce(&mut Edge) -> Result<T, Refused>) -> Result<T, Violation> {
        let result = read(&mut self.edge);
        result.or_else(|reason| self.broken("verification", format!("what an honest node sent was refused: {reason}")))
    }

    /// Everything works from now on.
    fn heal(&mut self) {
        self.trace.note(self.now, "heal", 0, 0, &[]);
        self.healed = true;
        self.checks.in_time.healed(self.clock(self.sequencer).wall_ms);
        for link in 0..self.links.len() {
            self.links[link].blocked_until = 0;
            self.links[link].stalled_until = 0;
            self.links[link].slow_until = 0;
            self.redial(link, 5);
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].fuse = None;
            self.nodes[node].slow_disk_until = 0;
            self.nodes[node].full_disk_until = 0;
            self.nodes[node].down_until = 0;
            let after = self.rng.below(200);
            self.after(after, Event::Start { node });
        }
        self.after(500, Event::Check);
    }

    /// Is everything where it belongs?
    fn check(&mut self) -> Step {
        match self.unfinished() {
            None => self.done = true,
            Some(what) if self.now > self.heals_at + PATIENCE_MS => {
                return self.broken("progress", format!("{PATIENCE_MS} ms after all faults: {what}"));
            }
            Some(_) => self.after(250, Event::Check),
        }
        Ok(())
    }

    /// What is still to come, in words.
    fn unfinished(&self) -> Option<String> {
        for (at, client) in self.clients.iter().enumerate() {
            if let Some(what) = client.unfinished() {
                return Some(format!("client {at} at node {}: {what}", client.home));
            }
            if client.sample().is_some_and(|(to, ..)| !client.delivered && self.can_prove(&to)) {
                return Some(format!("client {at} at node {}: has no delivery proof", client.home));
            }
            if let Some(what) = self.unsettled_move(at) {
                return Some(format!("client {at} at node {}: {what}", client.home));
            }
        }
        if let Some(missing) = self.checks.once.missing().first() {
            return Some(missing.clone());
        }
        if let Some(lapsed) = self.lapsed.first() {
            return Some(format!("node {:?} has lapsed", self.index_of(lapsed)));
        }
        let epoch = self.checks.oracle.epoch();
        for (at, sim) in self.nodes.iter().enumerate() {
            let Some(running) = sim.running.as_ref() else { return Some(format!("node {at} is down")) };
            let node = &running.node;
            if node.incarnation() == 0 {
                return Some(format!("node {at} has not started"));
            }
            if running.applied + 2 < epoch {
                return Some(format!("node {at} is at epoch {}, the last cut is {epoch}", running.applied));
            }
            if node.settled().0 + 2 < epoch || node.load().1 > 0 {
                return Some(format!(
                    "node {at} has delivered {}, {} slices are pending",
                    node.settled().0,
                    node.load().1
                ));
            }
            if let Some(away) = self.ids.iter().find(|id| **id != sim.id && !node.peers().is_present(id)) {
                return Some(format!("node {at} takes node {:?} for away", self.index_of(away)));
            }
        }
        let mailboxes: Vec<MailboxId> = self.clients.iter().map(|client| client.id).collect();
        self.checks.oracle.finish(&mailboxes).err().map(|broken| broken.what)
    }

    /// The last word of every invariant.
    fn finish(&mut self) -> Result<u64, Violation> {
        for at in 0..self.nodes.len() {
            let disk = self.nodes[at].disk()?;
            let verdict = self.checks.chains.on_disk(at, &disk);
            self.judge(verdict)?;
            let verdict = self.checks.logs.on_disk(at, self.nodes[at].id, &disk);
            self.judge(verdict)?;
        }
        let mailboxes: Vec<MailboxId> = self.clients.iter().map(|client| client.id).collect();
        self.checks.finish(&mailboxes).map_err(|broken| self.violation(broken))
    }
}
