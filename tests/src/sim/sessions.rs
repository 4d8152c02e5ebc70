//! What a node's driver does for its clients: it reads their frames, serves entries from what is on disk, and carries
//! answers back.

use std::sync::Arc;

use postroad_engine::serve::{Library, Reader, Served, Unreadable};
use postroad_engine::{ClientId, Input};
use postroad_protocol::codec::encode;
use postroad_protocol::wire::client::{Answer, FromClient, Settled, ToClient};

use super::bugs::Bug;
use super::edge::AtNode;
use super::world::{Event, Step, World};

/// One connection of a client to a node. Its place in the list is its [`ClientId`].
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) open: bool,
    life: u64,
    latency_ms: u64,
    /// When the last frame arrives, there and back.
    last: [u64; 2],
    pub(super) subscription: Option<Subscription>,
}

/// Where a subscriber stands.
pub(super) struct Subscription {
    next: u64,
    reader: Reader,
}

impl World {
    /// A client dials a node.
    pub(super) fn open_session(&mut self, client: usize, node: usize) {
        if self.nodes[node].running.is_none() {
            return;
        }
        let latency_ms = self.rng.within(1..=30);
        let life = self.nodes[node].life;
        let session = self.sessions.len();
        let (last, subscription) = ([0; 2], None);
        self.sessions.push(Session { client, node, open: false, life, latency_ms, last, subscription });
        self.clients[client].sessions.insert(node, (session, false));
        self.after(2 * latency_ms, Event::SessionUp { session });
    }

    pub(super) fn session_up(&mut self, session: usize) {
        let Session { client, node, life, .. } = self.sessions[session];
        // A client that has died since it dialled has forgotten that.
        if self.clients[client].sessions.get(&node).is_none_or(|(known, _)| *known != session) {
            return;
        }
        if self.nodes[node].life != life || self.nodes[node].running.is_none() {
            self.after(50, Event::SessionLost { session });
            return;
        }
        self.sessions[session].open = true;
        let hello = FromClient::Hello(self.federation.id());
        self.send_to_node(session, &hello);
    }

    /// All connections of a node are gone.
    pub(super) fn lose_sessions_of(&mut self, node: usize) {
        for session in 0..self.sessions.len() {
            if self.sessions[session].node == node && self.sessions[session].open {
                self.close_session(session);
            }
        }
    }

    /// A connection breaks.
    pub(super) fn close_session(&mut self, session: usize) {
        let Session { node, life, .. } = self.sessions[session];
        self.sessions[session].open = false;
        self.sessions[session].subscription = None;
        if self.nodes[node].life == life {
            self.input(node, Input::ClientGone(session as ClientId));
        }
        let after = self.rng.within(0..=300);
        self.after(after, Event::SessionLost { session });
    }

    fn arrival(&mut self, session: usize, back: bool) -> u64 {
        let Session { latency_ms, .. } = self.sessions[session];
        let jitter = self.rng.below(latency_ms + 1);
        let last = &mut self.sessions[session].last[usize::from(back)];
        *last = (*last).max(self.now + latency_ms + jitter);
        *last
    }

    pub(super) fn send_to_node(&mut self, session: usize, message: &FromClient) {
        if self.sessions[session].open {
            let at = self.arrival(session, false);
            self.at(at, Event::ToNode { session, bytes: encode(message) });
        }
    }

    fn send_to_client(&mut self, session: usize, message: &ToClient) {
        if self.sessions[session].open {
            let at = self.arrival(session, true);
            self.at(at, Event::ToClient { session, bytes: encode(message) });
        }
    }

    /// A client's frame arrives.
    pub(super) fn node_gets(&mut self, session: usize, bytes: &[u8]) -> Step {
        let Session { client, node, open, .. } = self.sessions[session];
        if !open {
            return Ok(());
        }
        self.trace.note(self.now, "from-client", client as u64, node as u64, bytes);
        if self.rng.permille(30) {
            self.mangled_client_frame(bytes)?;
        }
        match self.accept(|edge| edge.at_node(bytes))? {
            None => {}
            Some(AtNode::Hello) => {
                let applied = self.nodes[node].running.as_ref().map_or(0, |running| running.applied);
                self.send_to_client(session, &ToClient::Hello(self.federation.id(), applied));
            }
            Some(AtNode::Submit(bundle)) => {
                let mailbox = self.clients[client].id;
                self.input(node, Input::Submit(session as ClientId, mailbox, bundle));
            }
            Some(AtNode::Acknowledge(signed)) => self.input(node, Input::Acknowledge(signed)),
            // Whoever reads asks first where the mailbox lives, and since when.
            Some(AtNode::Subscribe(_)) if !self.is_here(node, client) => {}
            Some(AtNode::Subscribe(next)) => {
                let library = Library::new(self.nodes[node].id, &self.federation);
                let reader = Reader::new(Arc::new(library));
                self.sessions[session].subscription = Some(Subscription { next, reader });
                self.serve(session)?;
                self.show_attestation_to(session);
            }
        }
        Ok(())
    }

    /// An answer about a bundle goes to its sender.
    pub(super) fn answer(&mut self, client: ClientId, counter: u64, answer: Answer) {
        let session = client as usize;
        self.send_to_client(session, &ToClient::Answer(counter, Box::new(answer)));
    }

    /// All subscribers of a node get what is new on its disk.
    pub(super) fn serve_all(&mut self, node: usize) -> Step {
        for session in 0..self.sessions.len() {
            let Session { node: other, open, .. } = self.sessions[session];
            if open && other == node && self.sessions[session].subscription.is_some() {
                self.serve(session)?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, session: usize) -> Step {
        let Session { client, node, .. } = self.sessions[session];
        let mailbox = self.clients[client].id;
        if !self.is_here(node, client) {
            self.sessions[session].subscription = None;
            return Ok(());
        }
        if !self.hosts(node, &mailbox) {
            return Ok(());
        }
        let disk = self.nodes[node].disk()?;
        loop {
            let Some(subscription) = self.sessions[session].subscription.as_mut() else { return Ok(()) };
            let served = subscription.reader.entries(&disk, &mailbox, subscription.next, 16, 64 << 10);
            let served = match served {
                Ok(served) => served,
                Err(Unreadable::Extract(slice, mailbox, _)) => {
                    self.mend_extract(node, mailbox, *slice);
                    return Ok(());
                }
                Err(error) => {
                    let step = self.broken("serve", format!("node {node} cannot serve {mailbox:?}: {error}"));
                    return self.unless_sinner(node, step);
                }
            };
            if served.is_empty() {
                break;
            }
            for item in served {
                let message = match item {
                    Served::Elsewhere(from) => {
                        let step = self.broken("serve", format!("node {node} has {mailbox:?} from {from} on only"));
                        // Whoever was lied to may have less than it has acknowledged.
                        return if self.is_misled(client) { Ok(()) } else { self.unless_sinner(node, step) };
                    }
                    Served::Cut(cut) => ToClient::Cut(*cut),
                    Served::Expired(expired) => {
                        if let Some(subscription) = self.sessions[session].subscription.as_mut() {
                            subscription.next = expired.before.size() + 1;
                        }
                        ToClient::Expired(expired)
                    }
                    Served::Entry(entry) => {
                        if let Some(subscription) = self.sessions[session].subscription.as_mut() {
                            subscription.next = entry.log_index + 1;
                        }
                        ToClient::Entry(entry)
                    }
                };
                self.send_to_client(session, &message);
            }
        }
        let running = self.nodes[node].running.as_ref();
        let unsettled = running.and_then(|running| running.unsettled.get(&mailbox)).cloned();
        let mut overdue = running.map(|running| running.overdue.clone()).unwrap_or_default();
        overdue.extend(unsettled.iter().flat_map(|unsettled| unsettled.overdue.iter().cloned()));
        for missing in overdue {
            self.send_to_client(session, &ToClient::Overdue(missing));
        }
        let settled = self.nodes[node].running.as_ref().map(|running| running.settled);
        let size = self.sessions[session].subscription.as_ref().map(|subscription| subscription.next);
        if let (Some((epoch, mut below)), Some(size)) = (settled, size) {
            if let Some(before) = unsettled.and_then(|unsettled| unsettled.below) {
                below = below.min(before);
            }
            if self.bug == Some(Bug::SettledTooFar) {
                below = (epoch + 1, 0);
            }
            self.send_to_client(session, &ToClient::Settled(Settled { epoch, size, below }));
        }
        Ok(())
    }

    /// All subscribers of a node get its newest attestation.
    pub(super) fn show_attestation(&mut self, node: usize) {
        for session in 0..self.sessions.len() {
            // A driver may leave attestations out; the newest one says everything.
            if self.sessions[session].node == node && (self.healed || self.rng.permille(400)) {
                self.show_attestation_to(session);
            }
        }
    }

    fn show_attestation_to(&mut self, session: usize) {
        let Session { client, node, open, .. } = self.sessions[session];
        if !open || self.sessions[session].subscription.is_none() {
            return;
        }
        let view = self.nodes[node].running.as_ref().and_then(|running| running.view.clone());
        if let Some(attested) = view.and_then(|view| view.of(&self.clients[client].id)) {
            self.send_to_client(session, &ToClient::Attested(Box::new(attested)));
        }
    }
}
