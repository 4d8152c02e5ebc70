//! Clients: each has a mailbox, sends bundles through its home or another node, keeps the exact bytes until they are
//! ordered, and verifies everything that it is told.

use std::collections::BTreeMap;

use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::receipt::Sealed;
use postroad_protocol::record::{OwnerSigned, Registration};
use postroad_protocol::wire::call::Question;
use postroad_protocol::wire::client::FromClient;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, SecretKey, Seq, Signed};

use super::calls::Asker;
use super::client_store::Saved;
use super::log::Log;
use super::movers::Order;
use super::rng::Rng;
use super::world::{Event, Step, World};

/// Counters of bundles that are meant to be refused begin here.
pub(super) const ROGUE: u64 = 1 << 40;

/// A client and its mailbox.
pub(super) struct Client {
    pub(super) secret: SecretKey,
    pub(super) id: MailboxId,
    pub(super) home: usize,
    /// The epoch since which the mailbox lives there, as far as its owner knows.
    pub(super) since: u64,
    /// When it last asked its home for its entries.
    pub(super) subscribed_at: u64,
    /// Its recovery key.
    pub(super) recovery: Option<SecretKey>,
    /// Switches that no node has taken note of yet.
    pub(super) orders: Vec<Order>,
    owner: OwnerSigned,
    pub(super) registered: bool,
    pub(super) asked_at: u64,
    /// Node → session, and whether the node has greeted.
    pub(super) sessions: BTreeMap<usize, (usize, bool)>,
    /// The newest epoch that it has heard of.
    pub(super) epoch: u64,
    pub(super) counters: BTreeMap<usize, u64>,
    pub(super) outgoing: Vec<Outgoing>,
    left: u64,
    rogues: u64,
    pub(super) log: Log,
    pub(super) delivered: bool,
    /// A copy of its store.
    pub(super) saved: Option<Saved>,
}

/// A bundle until it is ordered.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) via: usize,
    pub(super) bundle: Bundle,
    pub(super) state: State,
    /// It is sent again then, unless there is an answer.
    pub(super) again_at: u64,
    handed_in_at: u64,
    pub(super) chain: Vec<Sealed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Sent,
    Accepted {
        at: u64,
    },
    Ordered(Seq),
    /// Its messages were signed again.
    Replaced,
}

impl Client {
    pub(super) fn new(rng: &mut Rng, nodes: usize, federation: &Federation, ids: &[NodeId], moves: bool) -> Client {
        let secret = SecretKey::from_seed(rng.array());
        let home = rng.index(nodes);
        let recovery = (moves && rng.permille(300)).then(|| SecretKey::from_seed(rng.array()));
        let registration = Registration {
            mailbox: secret.public(),
            home: ids[home],
            encryption_key: Digest(rng.array()),
            recovery_key: recovery.as_ref().map(SecretKey::public),
        };
        Client {
            id: secret.public(),
            home,
            since: 0,
            subscribed_at: 0,
            recovery,
            orders: Vec::new(),
            owner: Signed::sign(registration, &secret, federation).into_inner(),
            registered: false,
            asked_at: 0,
            sessions: BTreeMap::new(),
            epoch: 0,
            counters: BTreeMap::new(),
            outgoing: Vec::new(),
            left: rng.within(4..=12),
            rogues: 0,
            log: Log::new(secret.public(), ids[home]),
            secret,
            delivered: false,
            saved: None,
        }
    }

    /// What it still waits for.
    pub(super) fn unfinished(&self) -> Option<String> {
        if !self.registered {
            return Some("is not registered".into());
        }
        let open = |outgoing: &&Outgoing| !matches!(outgoing.state, State::Ordered(_) | State::Replaced);
        if let Some(outgoing) = self.outgoing.iter().find(open) {
            let body = &outgoing.bundle.signed.body;
            return Some(format!("bundle {} via node {} is {:?}", body.counter, outgoing.via, outgoing.state));
        }
        if self.log.final_size != Some(self.log.next_index()) {
            return Some(format!("{} entries, {:?} are final", self.log.next_index(), self.log.final_size));
        }
        None
    }

    /// The message for which it asks whether it is delivered: recipient, place, id.
    pub(super) fn sample(&self) -> Option<(MailboxId, Seq, Digest)> {
        self.outgoing.iter().find_map(|outgoing| match outgoing.state {
            State::Ordered(seq) => {
                let message = &outgoing.bundle.messages[0];
                Some((message.recipients[0].mailbox, seq, message.digest()))
            }
            _ => None,
        })
    }
}

impl World {
    /// A client looks after its things.
    pub(super) fn tick(&mut self, me: usize) -> Step {
        let again = self.rng.within(100..=500);
        self.after(again, Event::Tick { client: me });
        let home = self.clients[me].home;
        if !self.clients[me].sessions.contains_key(&home) {
            self.open_session(me, home);
        }
        if !self.clients[me].registered {
            if self.now >= self.clients[me].asked_at + 700 {
                self.clients[me].asked_at = self.now;
                let question = Question::Register(self.clients[me].owner.clone());
                // Whoever has moved is told so where it registered.
                let first = self.index_of(&self.clients[me].owner.body.home).unwrap_or(home);
                self.ask(Asker::Register { client: me }, first, &question);
            }
            return Ok(());
        }
        if self.moves {
            self.look_up(me)?;
        }
        if self.now < self.heals_at {
            let bundles = self.rng.below(3).min(self.clients[me].left);
            self.clients[me].left -= bundles;
            for _ in 0..bundles {
                self.compose(me);
            }
            if self.rng.permille(60) {
                self.misuse(me);
            }
            if self.rng.permille(60) {
                self.save_client(me);
            }
        }
        self.resend(me);
        let client = &self.clients[me];
        if self.healed
            && !client.delivered
            && self.now >= client.asked_at + 600
            && let Some((recipient, seq, id)) = client.sample()
        {
            self.clients[me].asked_at = self.now;
            let at = self.clients.iter().find(|client| client.id == recipient).map_or(0, |client| client.home);
            let asker = Asker::Delivery { client: me, recipient, seq, id };
            self.ask(asker, at, &Question::Delivery(recipient, seq));
        }
        Ok(())
    }

    /// A client writes messages and sends them.
    fn compose(&mut self, me: usize) {
        let known: Vec<MailboxId> =
            self.clients.iter().filter(|client| client.registered).map(|client| client.id).collect();
        let count = if self.rng.permille(600) { 1 } else { self.rng.within(2..=5) };
        let mut messages = Vec::new();
        for _ in 0..count {
            let mut recipients: Vec<Recipient> = Vec::new();
            for _ in 0..self.rng.within(1..=4) {
                let mailbox = *self.rng.pick(&known);
                if recipients.iter().all(|recipient| recipient.mailbox != mailbox) {
                    let len = self.rng.below(24);
                    recipients.push(Recipient { mailbox, own: self.rng.bytes(len as usize) });
                }
            }
            let len = self.rng.below(80);
            messages.push(Message { salt: self.rng.array(), common: self.rng.bytes(len as usize), recipients });
        }
        let other = self.rng.index(self.nodes.len());
        let via = if self.rng.permille(700) { self.clients[me].home } else { other };
        self.stats.messages += count;
        self.sign(me, via, messages, None);
    }

    /// A client signs a bundle and keeps it, before it sends it; with a valid-until that the node wants, if it said so.
    pub(super) fn sign(&mut self, me: usize, via: usize, messages: Vec<Message>, wanted: Option<(u64, u64)>) {
        let params = self.federation.params();
        let (window, validity) = (params.routing_window_epochs, params.validity_epochs);
        let ahead = if self.rng.permille(200) { 2 * window + 4 } else { self.rng.within(3 * window..=validity / 2) };
        let client = &mut self.clients[me];
        let valid_until = wanted.map_or(client.epoch + ahead, |(from, to)| from + (to - from) / 2);
        let counter = client.counters.entry(via).or_insert(1);
        let body = BundleBody::new(client.id, self.ids[via], *counter, valid_until, &messages);
        *counter = body.last_counter() + 1;
        let signed = Signed::sign(body, &client.secret, &self.federation).into_inner();
        let bundle = Bundle { signed, messages };
        self.checks.once.signed(&bundle);
        client.outgoing.push(Outgoing {
            via,
            bundle,
            state: State::Sent,
            again_at: 0,
            handed_in_at: 0,
            chain: Vec::new(),
        });
    }

    /// Sends what was not answered, the same bytes, in order; hands in what was accepted by a node that is gone.
    pub(super) fn resend(&mut self, me: usize) {
        for at in 0..self.clients[me].outgoing.len() {
            let client = &self.clients[me];
            let Outgoing { via, state, again_at, handed_in_at, .. } = client.outgoing[at];
            let session = client.sessions.get(&via).copied();
            let patience = match state {
                State::Sent => 1_500,
                State::Accepted { .. } => 3_000,
                State::Ordered(_) | State::Replaced => continue,
            };
            match session {
                None => self.open_session(me, via),
                Some((session, true)) if self.now >= again_at => {
                    let client = &mut self.clients[me];
                    client.outgoing[at].again_at = self.now + patience;
                    let message = FromClient::Submit(Box::new(client.outgoing[at].bundle.clone()));
                    self.send_to_node(session, &message);
                }
                Some(_) => {}
            }
            if let State::Accepted { at: accepted } = state
                && session.is_none()
                && self.now >= accepted + 800
                && self.now >= handed_in_at + 1_500
            {
                let to = self.rng.index(self.nodes.len());
                let client = &mut self.clients[me];
                client.outgoing[at].handed_in_at = self.now;
                let question = Question::HandIn(client.outgoing[at].chain.clone());
                self.stats.hand_ins += 1;
                self.ask(Asker::HandIn, to, &question);
            }
        }
    }

    /// A client submits what must be refused.
    fn misuse(&mut self, me: usize) {
        let home = self.clients[me].home;
        let Some((session, true)) = self.clients[me].sessions.get(&home).copied() else { return };
        let kind = self.rng.below(6);
        let (salt, stranger) = (self.rng.array(), SecretKey::from_seed(self.rng.array()));
        let client = &mut self.clients[me];
        client.rogues += 1;
        let recipient = |mailbox| Recipient { mailbox, own: Vec::new() };
        let mut message = Message { salt, common: b"never".to_vec(), recipients: vec![recipient(client.id)] };
        let mut via = self.ids[home];
        let mut valid_until = client.epoch + 3 * self.federation.params().routing_window_epochs;
        let mut secret = &client.secret;
        match kind {
            0 => via = self.ids[(home + 1) % self.ids.len()],
            // Not the client's own epoch: a home that lags far behind would still take that.
            1 => valid_until = 1,
            2 => message.recipients.push(recipient(stranger.public())),
            3 => message.recipients.push(recipient(client.id)),
            4 => message.common = vec![0; 5_000],
            _ => secret = &stranger,
        }
        let messages = vec![message];
        let body = BundleBody::new(secret.public(), via, ROGUE + client.rogues, valid_until, &messages);
        let signed = Signed::sign(body, secret, &self.federation).into_inner();
        let submit = FromClient::Submit(Box::new(Bundle { signed, messages }));
        self.send_to_node(session, &submit);
    }
}
