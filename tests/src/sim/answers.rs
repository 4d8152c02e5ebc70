//! What clients are told: registrations, entries, attestations, and what became of their bundles. All of it is verified.

use postroad_client::verify_log::Checked;
use postroad_protocol::attestation::Acknowledgement;
use postroad_protocol::message::Message;
use postroad_protocol::wire::call::Reply;
use postroad_protocol::wire::client::{Answer, FromClient, ToClient};
use postroad_protocol::{Digest, MailboxId, Refusal, Seq, Signed};

use super::client::{ROGUE, State};
use super::invariants::central::Got;
use super::invariants::once_each::{ACCEPTED, ORDERED};
use super::world::{Step, World};

/// What a node could not take now is sent again after this.
const AGAIN_MS: u64 = 300;

impl World {
    pub(super) fn session_lost(&mut self, session: usize) {
        let (client, node) = (self.sessions[session].client, self.sessions[session].node);
        let sessions = &mut self.clients[client].sessions;
        if sessions.get(&node).is_some_and(|(current, _)| *current == session) {
            sessions.remove(&node);
        }
    }

    /// A registration was answered.
    pub(super) fn client_registered(&mut self, me: usize, reply: Option<Reply>) -> Step {
        match reply {
            Some(Reply::Home(proof)) => {
                let client = &self.clients[me];
                let cut = match proof.verify(&client.id, &self.federation) {
                    Ok(cut) => cut,
                    Err(error) => return self.broken("verification", format!("a home proof: {error}")),
                };
                let verdict = self.checks.order.shown(&client.id, cut, &self.federation);
                self.judge(verdict)?;
                let first = self.moves || proof.value.as_ref().map(|value| value.home) == Some(self.ids[client.home]);
                if !first {
                    return self.broken("verification", "a home proof names another home");
                }
                let epoch = cut.epoch;
                let client = &mut self.clients[me];
                client.registered = true;
                client.epoch = client.epoch.max(epoch);
            }
            // It has moved since.
            Some(Reply::Refused(Refusal::AlreadyRegistered { .. })) if self.moves => self.clients[me].registered = true,
            Some(Reply::Refused(Refusal::NotReady | Refusal::Busy)) | None => {}
            Some(other) => return self.broken("world", format!("a registration was answered with {other:?}")),
        }
        Ok(())
    }

    /// A delivery proof came, or not yet.
    pub(super) fn client_delivered(
        &mut self,
        me: usize,
        (recipient, seq, id): (MailboxId, Seq, Digest),
        reply: Option<Reply>,
    ) -> Step {
        let Some(Reply::Delivery(Some(proof))) = reply else { return Ok(()) };
        let node = proof.attested.attestation.body.node;
        let home = self.index_of(&node).unwrap_or(0);
        if self.checks.logs.residence(&recipient, &node, proof.attested.attestation.body.epoch).is_none() {
            let step = self.broken("verification", "a delivery proof by a node where the recipient did not live");
            return self.unless_sinner(home, step);
        }
        if let Err(error) = proof.verify(id, seq, &recipient, &node, &self.federation) {
            let step = self.broken("verification", format!("a delivery proof: {error}"));
            return self.unless_sinner(home, step);
        }
        self.clients[me].delivered = true;
        self.stats.delivered += 1;
        Ok(())
    }

    /// A node's frame arrives at a client.
    pub(super) fn client_gets(&mut self, session: usize, bytes: &[u8]) -> Step {
        let (me, node, open) = {
            let session = &self.sessions[session];
            (session.client, session.node, session.open)
        };
        if !open {
            return Ok(());
        }
        self.trace.note(self.now, "to-client", node as u64, me as u64, bytes);
        let message = self.accept(|edge| edge.at_client(bytes))?;
        let federation = self.federation.clone();
        let client = &mut self.clients[me];
        let id = client.id;
        let result = match message {
            ToClient::Hello(_, epoch) => {
                client.epoch = client.epoch.max(epoch);
                client.sessions.insert(node, (session, true));
                for outgoing in client.outgoing.iter_mut().filter(|outgoing| outgoing.via == node) {
                    outgoing.again_at = 0;
                }
                if node == client.home {
                    let from = client.log.next_index();
                    client.subscribed_at = self.now;
                    self.send_to_node(session, &FromClient::Subscribe(from));
                }
                self.resend(me);
                Ok(())
            }
            ToClient::Answer(counter, answer) => {
                let step = self.client_answered(me, node, counter, *answer);
                return self.unless_sinner(node, step);
            }
            ToClient::Cut(cut) => {
                let verdict = self.checks.order.shown(&id, &cut.header, &federation);
                self.judge(verdict)?;
                self.clients[me].log.cut(cut, &federation)
            }
            ToClient::Entry(entry) => {
                let before = client.log.last().copied();
                match client.log.entry(&entry, &federation) {
                    Err(error) => Err(error),
                    Ok(Checked { placed, leaf, .. }) => {
                        self.stats.entries += 1;
                        self.stats.late += u64::from(leaf.is_late());
                        let verdict = self.checks.order.appended(&id, before.as_ref(), &leaf);
                        let is_misled = self.is_misled(me);
                        if !is_misled {
                            self.unless_sinner(node, self.judge(verdict))?;
                        }
                        let verdict = self.checks.order.placed(&id, placed.seq, placed.id);
                        self.judge(verdict)?;
                        // An origin that sins may include a bundle twice.
                        let verdict = self.checks.once.came(&id, &placed);
                        if !is_misled && !self.checks.sinners.contains(&placed.via) {
                            self.judge(verdict)?;
                        }
                        let proof = &entry.proof;
                        let (common, own) = (proof.common.clone(), proof.recipient.own.clone());
                        let got = Got { id: placed.id, sender: placed.sender, common, own };
                        self.checks.oracle.got(id, placed.seq, got);
                        if self.rng.permille(50) {
                            self.acknowledge(me, session);
                        }
                        Ok(())
                    }
                }
            }
            ToClient::Attested(attested) => {
                self.stats.attestations += 1;
                if self.sinners.is(node) {
                    let digest = attested.attestation.digest(&federation);
                    self.sinners.shown.insert(digest, (*attested).clone());
                }
                client.log.attested(&attested, &federation)
            }
            ToClient::Settled(settled) => {
                client.epoch = client.epoch.max(settled.epoch);
                client.log.settled(settled)
            }
            // Only a story has a retention that is shorter than its run; what this client missed ends its part in it.
            ToClient::Expired(_) if self.gathered.is_some() => {
                self.sessions[session].open = false;
                Ok(())
            }
            ToClient::Expired(_) => Err("entries have expired".into()),
            ToClient::Overdue(overdue) => {
                self.stats.overdue += u64::from(client.log.overdue((overdue.epoch, overdue.position)));
                Ok(())
            }
            ToClient::Refused(refusal) => Err(refusal.to_string()),
            ToClient::Retiring(_) => Err("no node closes here".into()),
        };
        result.or_else(|what| self.wrong(me, node, what))
    }

    fn acknowledge(&mut self, me: usize, session: usize) {
        let client = &mut self.clients[me];
        let log = client.log.acknowledge();
        if self.moves {
            // What an owner has acknowledged it keeps: no home has to hand that over.
            client.saved = None;
        }
        let signed = Signed::sign(Acknowledgement { mailbox: client.id, log }, &client.secret, &self.federation);
        self.send_to_node(session, &FromClient::Acknowledge(signed.into_inner()));
    }

    /// A node says what became of a bundle.
    fn client_answered(&mut self, me: usize, node: usize, counter: u64, answer: Answer) -> Step {
        let found = (self.clients[me].outgoing.iter())
            .position(|outgoing| outgoing.via == node && outgoing.bundle.signed.body.counter == counter);
        let open = |state| matches!(state, State::Sent | State::Accepted { .. });
        let Some(at) = found.filter(|at| open(self.clients[me].outgoing[*at].state)) else {
            match answer {
                Answer::Refused(_) => self.stats.refused += u64::from(counter > ROGUE),
                _ if counter > ROGUE => {
                    return self.broken("refusals", format!("bad bundle {counter} of client {me} was taken"));
                }
                _ => {}
            }
            return Ok(());
        };
        if let Answer::Refused(refusal) = &answer {
            self.trace.say(self.now, node, &format!("refuses bundle {counter} of client {me}: {refusal:?}"));
        }
        let now = self.now;
        let federation = self.federation.clone();
        let outgoing = &mut self.clients[me].outgoing[at];
        match answer {
            Answer::Accepted(proof) => {
                if matches!(outgoing.state, State::Accepted { .. }) {
                    return Ok(());
                }
                // Long chains come again with every bundle, and are what a run costs most: a third of them is enough.
                let look = proof.chain.len() <= 2 || self.rng.permille(333);
                let weak = match if look { proof.verify(&outgoing.bundle, &federation) } else { Ok(false) } {
                    Ok(weak) => weak,
                    Err(error) => return self.broken("verification", format!("an accepted proof: {error}")),
                };
                outgoing.state = State::Accepted { at: now };
                outgoing.chain = proof.chain;
                self.stats.accepted += 1;
                self.stats.weak += u64::from(weak);
                self.checks.once.promised(&outgoing.bundle, ACCEPTED);
                self.checks.in_time.promised(&outgoing.bundle);
            }
            Answer::Ordered(proof) => {
                let seq = match proof.verify(&outgoing.bundle.signed, &federation) {
                    Ok(seq) => seq,
                    Err(error) => return self.broken("verification", format!("an ordered proof: {error}")),
                };
                outgoing.state = State::Ordered(seq);
                outgoing.chain = Vec::new();
                self.stats.ordered += 1;
                self.checks.once.promised(&outgoing.bundle, ORDERED);
                self.checks.in_time.promised(&outgoing.bundle);
                let id = self.clients[me].id;
                let verdict = self.checks.order.shown(&id, &proof.cut.header, &federation);
                self.judge(verdict)?;
                let messages = &self.clients[me].outgoing[at].bundle.messages;
                let digests: Vec<Digest> = messages.iter().map(Message::digest).collect();
                for (offset, digest) in digests.into_iter().enumerate() {
                    let seq = Seq { index: seq.index + offset as u64, ..seq };
                    let verdict = self.checks.order.placed(&id, seq, digest);
                    self.judge(verdict)?;
                }
            }
            Answer::Refused(refusal) => match refusal {
                Refusal::Busy
                | Refusal::NotReady
                | Refusal::UnknownSender { .. }
                | Refusal::UnknownRecipient { .. } => outgoing.again_at = now + AGAIN_MS,
                Refusal::StaleCounter { last } => {
                    outgoing.state = State::Replaced;
                    let messages = outgoing.bundle.messages.clone();
                    let counter = self.clients[me].counters.entry(node).or_insert(1);
                    *counter = (*counter).max(last + 1);
                    self.stats.signed_again += 1;
                    self.sign(me, node, messages, None);
                }
                Refusal::BadValidity { from, to, .. } => {
                    outgoing.state = State::Replaced;
                    let messages = outgoing.bundle.messages.clone();
                    self.stats.signed_again += 1;
                    self.sign(me, node, messages, Some((from, to)));
                }
                Refusal::Expired { .. } => {
                    outgoing.state = State::Replaced;
                    let messages = outgoing.bundle.messages.clone();
                    self.stats.signed_again += 1;
                    self.sign(me, node, messages, None);
                }
                other => return self.broken("refusals", format!("client {me} was refused at node {node}: {other}")),
            },
        }
        Ok(())
    }
}
