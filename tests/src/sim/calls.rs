//! Calls: one question, one answer, each of which may be lost. Nodes fetch slices and cuts, clients register, hand in
//! what was accepted, and ask whether it is delivered.

use postroad_engine::{Fate, Input, Token, serve};
use postroad_protocol::codec::encode;
use postroad_protocol::record::NodeRecord;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{Digest, MailboxId, NodeId, Refusal, Seq, Signed, Verified};

use super::net::PAGE_BYTES;
use super::world::{Event, Step, World};

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A node that wants a slice, and whom else it can ask.
    Slice { node: usize, life: u64, key: SliceKey, others: Vec<usize> },
    /// A node that wants the cuts after an epoch, whom it asks, and whom else it can ask.
    Cuts { node: usize, life: u64, after: u64, from: usize, others: Vec<usize> },
    /// A node that wants the consent of a deputy to the record with this digest.
    Deputy { node: usize, life: u64, deputy: NodeId, record: Digest },
    /// A client that registers.
    Register { client: usize },
    /// A client that hands in an accepted chain.
    HandIn,
    /// A client that asks for its message.
    Delivery { client: usize, recipient: MailboxId, seq: Seq, id: Digest },
    /// An owner that moves its mailbox, and which of its orders it is.
    Move { client: usize, order: u64 },
    /// A node to which a mailbox moves, and which other one it asks for the log; how often that has put it off.
    Handoff { node: usize, life: u64, of: usize, mailbox: MailboxId, waits: u32 },
    /// A node to which a mailbox has moved, which other one it asks for slices, and for which.
    Extracts { node: usize, life: u64, of: usize, mailbox: MailboxId, slices: Vec<SliceKey>, waits: u32 },
}

impl World {
    /// A question goes out. What is lost is answered by nothing, after a while.
    pub(super) fn ask(&mut self, asker: Asker, to: usize, question: &Question) {
        let reachable = match &asker {
            Asker::Slice { node, .. }
            | Asker::Cuts { node, .. }
            | Asker::Deputy { node, .. }
            | Asker::Handoff { node, .. }
            | Asker::Extracts { node, .. } => self.connected(*node, to),
            _ => true,
        };
        if !reachable || self.nodes[to].running.is_none() || (!self.healed && self.rng.permille(50)) {
            let after = self.rng.within(20..=400);
            self.after(after, Event::Reply { asker, bytes: None });
            return;
        }
        let after = self.rng.within(1..=40);
        self.after(after, Event::Question { asker, to, bytes: encode(question) });
    }

    pub(super) fn reply(&mut self, asker: Asker, reply: &Reply) {
        let after = self.rng.within(1..=40);
        let bytes = (self.healed || !self.rng.permille(30)).then(|| encode(reply));
        self.after(after, Event::Reply { asker, bytes });
    }

    /// A question arrives.
    pub(super) fn question(&mut self, asker: Asker, to: usize, bytes: &[u8]) -> Step {
        self.trace.note(self.now, "question", to as u64, 0, bytes);
        let Some(applied) = self.nodes[to].running.as_ref().map(|running| running.applied) else {
            self.after(100, Event::Reply { asker, bytes: None });
            return Ok(());
        };
        let question = self.accept(|edge| edge.question(bytes))?;
        let id = self.nodes[to].id;
        match question {
            Question::Slice(key) => {
                let found = serve::slice(&self.nodes[to].disk()?, &id, &self.federation, &key);
                let found = found.or_else(|error| self.broken("store", error.to_string()))?;
                let found = if self.withholds(to, &key) { None } else { found };
                let reply = match found {
                    Some(parcel) => Reply::Slice(Box::new(parcel)),
                    None => {
                        // Only a disk that was set back may have forgotten what its node signed for.
                        if !self.nodes[to].restored && !self.sinners.is(to) {
                            let verdict = self.checks.custody.lost(&id, applied, &key);
                            self.judge(verdict)?;
                        }
                        Reply::Refused(Refusal::NotFound { what: "slice".into() })
                    }
                };
                self.reply(asker, &reply);
            }
            Question::Cuts(after) => {
                let cuts = serve::cuts(&self.nodes[to].disk()?, after, PAGE_BYTES);
                let cuts = cuts.or_else(|error| self.broken("store", error.to_string()))?;
                self.reply(asker, &Reply::Cuts(cuts));
            }
            Question::Register(owner) => match Verified::check(owner, &self.federation) {
                Ok(owner) => {
                    let token = self.remember(to, asker);
                    self.input(to, Input::Register(token, Box::new(owner)));
                }
                Err(error) => self.reply(asker, &Reply::Refused(Refusal::Invalid { reason: error.to_string() })),
            },
            Question::Deputise(record) => {
                let record = Verified::check(record, &self.federation);
                let node = self.nodes[to].running.as_ref().map(|running| &running.node);
                let consent = match (record, node) {
                    (Ok(record), Some(node)) => node.deputise(&record),
                    (Err(error), _) => Err(Refusal::Invalid { reason: error.to_string() }),
                    (_, None) => Err(Refusal::NotReady),
                };
                self.reply(asker, &consent.map_or_else(Reply::Refused, Reply::Deputised));
            }
            Question::Delivery(mailbox, seq) => {
                let token = self.remember(to, asker);
                self.input(to, Input::Delivery(token, mailbox, seq));
            }
            Question::HandIn(chain) => {
                for sealed in chain {
                    let bytes = encode(&sealed);
                    let sealed = self.accept(|edge| edge.check(sealed, &bytes))?;
                    self.input(to, Input::Sealed(None, Box::new(sealed)));
                }
                self.reply(asker, &Reply::Taken);
            }
            Question::Move(request) => self.take_over(asker, to, *request),
            Question::Handoff(request) => return self.hand_over(asker, to, *request, bytes),
            Question::Extracts(mailbox, slices) => return self.extracts(asker, to, mailbox, &slices, bytes),
            Question::Genesis
            | Question::Status
            | Question::Home(..)
            | Question::BlockList(_)
            | Question::SetBlockList(_)
            | Question::Accuse(_)
            | Question::Evidence(_)
            | Question::Explain(..)
            | Question::Anchored(..)
            | Question::MoveStatus(_)
            | Question::MayMove(..)
            | Question::Inventory(_)
            | Question::Nodes(_) => {
                return self.broken("world", "a question that nobody here asks");
            }
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, node: usize, asker: Asker) -> Token {
        let Some(running) = self.nodes[node].running.as_mut() else { return 0 };
        running.next_token += 1;
        running.asked.insert(running.next_token, asker);
        running.next_token
    }

    pub(super) fn asker(&mut self, node: usize, token: Token) -> Option<Asker> {
        self.nodes[node].running.as_mut()?.asked.remove(&token)
    }

    /// A node says that a registration is settled, or refused.
    pub(super) fn registered(&mut self, me: usize, token: Token, result: Result<(), Refusal>) {
        let Some(asker) = self.asker(me, token) else { return };
        let Some(running) = self.nodes[me].running.as_ref() else { return };
        let reply = match (&asker, result) {
            (Asker::Register { client }, Ok(())) => {
                let ledger = running.node.ledger();
                match ledger.head_cut() {
                    Some(cut) => {
                        let proof = ledger.head().prove_home(&self.clients[*client].id, cut.clone());
                        Reply::Home(Box::new(proof))
                    }
                    None => Reply::Refused(Refusal::NotReady),
                }
            }
            (_, Err(refusal)) => Reply::Refused(refusal),
            _ => Reply::Refused(Refusal::NotReady),
        };
        self.reply(asker, &reply);
    }

    /// A node says whether a message is delivered.
    pub(super) fn delivery(&mut self, me: usize, token: Token, fate: Option<Fate>) {
        if let Some(asker) = self.asker(me, token) {
            let reply = match fate {
                Some(Fate::Delivered(proof)) => Reply::Delivery(Some(proof)),
                Some(Fate::Refused(proof)) => Reply::LeafRefused(proof),
                None => Reply::Delivery(None),
            };
            self.reply(asker, &reply);
        }
    }

    /// A node wants a slice.
    pub(super) fn fetch(&mut self, me: usize, key: SliceKey, nodes: &[NodeId]) {
        let mut others: Vec<usize> = nodes.iter().filter_map(|node| self.index_of(node)).collect();
        others.reverse();
        self.stats.fetches += 1;
        self.fetch_next(me, self.nodes[me].life, key, others);
    }

    fn fetch_next(&mut self, me: usize, life: u64, key: SliceKey, mut others: Vec<usize>) {
        match others.pop() {
            Some(to) => self.ask(Asker::Slice { node: me, life, key, others }, to, &Question::Slice(key)),
            None => self.input(me, Input::Fetched(key, None)),
        }
    }

    /// A node wants the cuts after an epoch: from one node after the other, all that each has.
    pub(super) fn fetch_cuts(&mut self, me: usize, after: u64) {
        self.stats.fetches += 1;
        let others: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != me).collect();
        self.fetch_cuts_of_next(me, self.nodes[me].life, after, others);
    }

    fn fetch_cuts_of_next(&mut self, me: usize, life: u64, after: u64, mut others: Vec<usize>) {
        if others.is_empty() {
            return self.input(me, Input::CutsFetched);
        }
        let from = others.swap_remove(self.rng.index(others.len()));
        let asker = Asker::Cuts { node: me, life, after, from, others };
        self.ask(asker, from, &Question::Cuts(after));
    }

    /// A node wants the consents of its deputies.
    pub(super) fn ask_deputies(&mut self, me: usize, record: &Signed<NodeRecord>) {
        let digest = record.digest(&self.federation);
        let life = self.nodes[me].life;
        for deputy in &record.body.deputies {
            let asker = Asker::Deputy { node: me, life, deputy: *deputy, record: digest };
            match self.index_of(deputy) {
                Some(to) => self.ask(asker, to, &Question::Deputise(record.clone())),
                None => self.after(1, Event::Reply { asker, bytes: None }),
            }
        }
    }

    /// An answer arrives, or none ever will.
    pub(super) fn answered(&mut self, asker: Asker, bytes: Option<&[u8]>) -> Step {
        self.trace.note(self.now, "reply", u64::from(bytes.is_some()), 0, bytes.unwrap_or(&[]));
        let reply = match bytes {
            None => None,
            Some(bytes) => Some(self.accept(|edge| edge.reply(bytes))?),
        };
        match asker {
            Asker::Slice { node, life, key, others } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                match (reply, bytes) {
                    (Some(Reply::Slice(parcel)), Some(bytes)) => match self.edge.fetched((*parcel).clone(), bytes) {
                        Ok(held) => self.input(node, Input::Fetched(key, Some(held))),
                        Err(why) => {
                            self.bent(*parcel, why)?;
                            self.fetch_next(node, life, key, others);
                        }
                    },
                    _ => self.fetch_next(node, life, key, others),
                }
            }
            Asker::Cuts { node, life, mut after, from, others } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                let cuts = match reply {
                    Some(Reply::Cuts(cuts)) => cuts,
                    _ => Vec::new(),
                };
                let last = after;
                for cut in cuts {
                    after = after.max(cut.certified.header.epoch);
                    let cut = self.accept(|edge| edge.paged(cut))?;
                    self.input(node, Input::Cut(cut));
                }
                if after > last {
                    let asker = Asker::Cuts { node, life, after, from, others };
                    self.ask(asker, from, &Question::Cuts(after));
                } else {
                    self.fetch_cuts_of_next(node, life, after, others);
                }
            }
            Asker::Deputy { node, life, deputy, record } => {
                if self.nodes[node].life == life {
                    let answer = match reply {
                        Some(Reply::Deputised(consent)) => Ok(consent),
                        Some(Reply::Refused(refusal)) => Err(refusal.to_string()),
                        _ => Err("it does not answer".to_owned()),
                    };
                    self.input(node, Input::Deputised(deputy, record, answer));
                }
            }
            Asker::Register { client } => self.client_registered(client, reply)?,
            Asker::HandIn => {}
            Asker::Move { client, order } => self.ordered_move(client, order, reply)?,
            Asker::Handoff { node, life, of, mailbox, .. } => {
                if self.nodes[node].life == life {
                    self.handed(node, of, mailbox, reply)?;
                }
            }
            Asker::Extracts { node, life, of, mailbox, slices, .. } => {
                if self.nodes[node].life == life {
                    self.extracted(node, of, mailbox, slices, reply)?;
                }
            }
            Asker::Delivery { client, recipient, seq, id } => {
                self.client_delivered(client, (recipient, seq, id), reply)?;
            }
        }
        Ok(())
    }
}
