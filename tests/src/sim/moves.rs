//! What a node's driver does for mailboxes that move: it asks former homes, and answers those that ask.

use postroad_engine::arrivals::{Answered, Extracted, Handed, Wanted};
use postroad_engine::{Input, Token, departures, handover};
use postroad_protocol::codec::encode;
use postroad_protocol::moving::{HandoffRequest, Move, MoveRequest, MoveStatus};
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{MailboxState, State};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, NodeId, Refusal, Verified, VerifyError};

use super::calls::Asker;
use super::node::Running;
use super::world::{Event, Step, World};

/// How often a question is put off by a node that is behind with the cuts, and for how long.
const WAITS: (u32, u64) = (8, 100);

impl World {
    /// Whether the log of a mailbox is at a node.
    pub(super) fn hosts(&self, node: usize, mailbox: &MailboxId) -> bool {
        let hosts = |running: &Running| running.node.hosts(mailbox) || running.node.keeps(mailbox);
        !self.moves || self.nodes[node].running.as_ref().is_some_and(hosts)
    }

    /// Whether a client is where it thinks, as far as that node knows.
    pub(super) fn is_here(&self, node: usize, client: usize) -> bool {
        let client = &self.clients[client];
        let running = self.nodes[node].running.as_ref();
        if running.is_some_and(|running| running.node.keeps(&client.id)) {
            return true;
        }
        let known = running.and_then(|running| running.node.head().mailbox(&client.id));
        let is_here = |known: &MailboxState| {
            known.home == self.ids[node] && (known.since == client.since || client.since == 0 && known.moved.is_none())
        };
        !self.moves || known.is_some_and(is_here)
    }

    /// An owner brings an order.
    pub(super) fn take_over(&mut self, asker: Asker, to: usize, request: MoveRequest) {
        match Wanted::check(request, &self.federation) {
            Ok(wanted) => {
                let token = self.remember(to, asker);
                self.input(to, Input::Move(token, Box::new(wanted)));
            }
            Err(error) => self.reply(asker, &Reply::Refused(Refusal::Invalid { reason: error.to_string() })),
        }
    }

    /// A node says what becomes of an order.
    pub(super) fn moving(&mut self, me: usize, token: Token, answer: Result<Box<MoveStatus>, Refusal>) {
        if let Some(asker) = self.asker(me, token) {
            let reply = answer.map_or_else(Reply::Refused, Reply::Moving);
            self.reply(asker, &reply);
        }
    }

    /// A node wants a log of a former home.
    pub(super) fn ask_handoff(&mut self, me: usize, of: NodeId, request: HandoffRequest) {
        let Some(of) = self.index_of(&of) else { return };
        let (life, mailbox) = (self.nodes[me].life, request.mailbox);
        let asker = Asker::Handoff { node: me, life, of, mailbox, waits: 0 };
        self.ask(asker, of, &Question::Handoff(Box::new(request)));
    }

    /// A node wants what slices hold for a mailbox.
    pub(super) fn ask_extracts(&mut self, me: usize, of: NodeId, mailbox: MailboxId, slices: Vec<SliceKey>) {
        let Some(of) = self.index_of(&of) else { return };
        let life = self.nodes[me].life;
        let asker = Asker::Extracts { node: me, life, of, mailbox, slices: slices.clone(), waits: 0 };
        if of == me {
            let after = self.rng.within(1..=20);
            let bytes = encode(&Question::Extracts(mailbox, slices));
            self.after(after, Event::Question { asker, to: me, bytes });
        } else {
            self.ask(asker, of, &Question::Extracts(mailbox, slices));
        }
    }

    /// What an entry is served from is not on a node's disk: it asks somebody else.
    pub(super) fn mend_extract(&mut self, me: usize, mailbox: MailboxId, slice: SliceKey) {
        let of = self.rng.index(self.nodes.len());
        self.ask_extracts(me, self.ids[of], mailbox, vec![slice]);
    }

    /// The state that a node's driver knows of.
    fn state_of(&self, node: usize) -> Option<&State> {
        let running = self.nodes[node].running.as_ref()?;
        running.node.ledger().at(running.applied).map(|(state, _)| state)
    }

    /// Puts a question off whose asker is ahead with the cuts. Gives it back when that was done too often.
    fn put_off(&mut self, asker: Asker, to: usize, bytes: &[u8]) -> Option<Asker> {
        let mut asker = asker;
        match &mut asker {
            Asker::Handoff { waits, .. } | Asker::Extracts { waits, .. } if *waits < WAITS.0 => *waits += 1,
            _ => return Some(asker),
        }
        self.after(WAITS.1, Event::Question { asker, to, bytes: bytes.to_vec() });
        None
    }

    /// A node is asked for a log.
    pub(super) fn hand_over(&mut self, asker: Asker, to: usize, request: HandoffRequest, bytes: &[u8]) -> Step {
        let HandoffRequest { mailbox, order, from: index } = request;
        let Asker::Handoff { node, .. } = asker else { return self.broken("world", "a client asks for a handoff") };
        let from = self.ids[node];
        let known = self.state_of(to).and_then(|state| state.mailbox(&mailbox).cloned());
        if known.as_ref().is_none_or(|known| known.home != from) {
            let Some(order) = order else {
                if let Some(asker) = self.put_off(asker, to, bytes) {
                    let reason = "it lives elsewhere".into();
                    self.reply(asker, &Reply::Refused(Refusal::NotAllowed { reason }));
                }
                return Ok(());
            };
            let allowed = known.as_ref().is_some_and(|known| authorises(&order, &mailbox, known, &from));
            if !allowed {
                let reason = "the order does not authorise it".into();
                self.reply(asker, &Reply::Refused(Refusal::NotAllowed { reason }));
                return Ok(());
            }
            if let Err(error) = Verified::check(*order, &self.federation) {
                return self.broken("verification", format!("an order: {error}"));
            }
        }
        let disk = self.nodes[to].disk()?;
        let page_bytes = *self.rng.pick(&[1, 1_000, 100_000]);
        let Some(running) = self.nodes[to].running.as_ref() else { return Ok(()) };
        let me = self.ids[to];
        let window = self.federation.params().routing_window_epochs;
        let Some((head, _)) = running.node.ledger().at(running.applied) else {
            self.reply(asker, &Reply::Refused(Refusal::NotReady));
            return Ok(());
        };
        let attested = departures::attested(&mailbox, &me, head, running.last_final.as_deref(), window, &disk);
        let attested = attested.or_else(|error| self.broken("store", error.to_string()))?;
        let handed = attested.and_then(|attested| {
            let handoff = running.node.hand_over(&mailbox, &from, &attested)?;
            Ok((handoff, attested))
        });
        let (handoff, attested) = match handed {
            Ok(handed) => handed,
            Err(refusal) => {
                self.reply(asker, &Reply::Refused(refusal));
                return Ok(());
            }
        };
        let page = running.handovers.page(&disk, &self.federation, handoff, *attested, index, page_bytes);
        let page = page.or_else(|error| self.broken("store", error.to_string()))?;
        self.stats.handoffs += 1;
        self.reply(asker, &Reply::Handoff(Box::new(page)));
        Ok(())
    }

    /// A node was told what a former home has.
    pub(super) fn handed(&mut self, me: usize, of: usize, mailbox: MailboxId, reply: Option<Reply>) -> Step {
        let node = self.ids[of];
        let answered = match reply {
            Some(Reply::Handoff(page)) => match Handed::check(*page, &node, &mailbox, &self.federation) {
                Ok(handed) => {
                    if handed.accusation().is_some() {
                        let step =
                            self.broken("verification", format!("node {of} hands over another log than its own"));
                        self.unless_sinner(of, step)?;
                    }
                    self.sinners.handed(&handed.page, &self.federation);
                    Answered::Page(Box::new(handed))
                }
                Err(error) => {
                    let step = self.broken("verification", format!("a handoff of node {of}: {error}"));
                    self.unless_sinner(of, step)?;
                    Answered::Refused(node, error.to_string())
                }
            },
            None | Some(Reply::Refused(Refusal::Busy | Refusal::NotReady)) => Answered::Silent,
            Some(Reply::Refused(refusal)) => Answered::Refused(node, refusal.to_string()),
            Some(other) => return self.broken("world", format!("a handoff was answered with {other:?}")),
        };
        if let Answered::Refused(_, reason) = &answered {
            self.trace.say(self.now, me, &format!("node {of} hands nothing over: {reason}"));
        }
        self.input(me, Input::HandedOver(mailbox, answered));
        Ok(())
    }

    /// A node is asked what slices hold for a mailbox.
    pub(super) fn extracts(
        &mut self,
        asker: Asker,
        to: usize,
        mailbox: MailboxId,
        slices: &[SliceKey],
        bytes: &[u8],
    ) -> Step {
        let Asker::Extracts { node, .. } = asker else { return self.broken("world", "a client asks for extracts") };
        let lives_there = self.state_of(to).is_some_and(|state| state.home(&mailbox) == Some(self.ids[node]));
        if node != to && !lives_there {
            if let Some(asker) = self.put_off(asker, to, bytes) {
                let reason = "it lives elsewhere".into();
                self.reply(asker, &Reply::Refused(Refusal::NotAllowed { reason }));
            }
            return Ok(());
        }
        if node != to && self.nodes[to].running.as_ref().is_some_and(|running| running.node.withholds_from(&mailbox)) {
            self.reply(asker, &Reply::Refused(Refusal::NotReady));
            return Ok(());
        }
        let disk = self.nodes[to].disk()?;
        let page_bytes = *self.rng.pick(&[1, 1_000, 100_000]);
        let found = handover::extracts(&disk, &self.ids[to], &self.federation, &mailbox, slices, page_bytes);
        let found = found.or_else(|error| self.broken("store", error.to_string()))?;
        self.reply(asker, &Reply::Extracts(found));
        Ok(())
    }

    /// A node was told what slices hold for a mailbox: it takes what came, and asks for the rest.
    pub(super) fn extracted(
        &mut self,
        me: usize,
        of: usize,
        mailbox: MailboxId,
        mut slices: Vec<SliceKey>,
        reply: Option<Reply>,
    ) -> Step {
        let node = self.ids[of];
        let extracts = match reply {
            Some(Reply::Extracts(extracts)) if (1..=slices.len()).contains(&extracts.len()) => extracts,
            // Whoever answers nothing is not asked for the others.
            None | Some(Reply::Refused(_)) => {
                self.input(me, Input::Extracted(mailbox, node, slices, Vec::new()));
                return Ok(());
            }
            Some(other) => return self.broken("world", format!("extracts were answered with {other:?}")),
        };
        let rest = slices.split_off(extracts.len());
        let checked: Result<Vec<Extracted>, VerifyError> = (extracts.into_iter().flatten())
            .map(|extract| Extracted::check(extract, &mailbox, &self.federation))
            .collect();
        let found = match checked {
            Ok(found) => found,
            Err(error) => {
                let step = self.broken("verification", format!("an extract of node {of}: {error}"));
                self.unless_sinner(of, step)?;
                Vec::new()
            }
        };
        self.stats.extracts += found.len() as u64;
        self.input(me, Input::Extracted(mailbox, node, slices, found));
        if !rest.is_empty() {
            self.ask_extracts(me, node, mailbox, rest);
        }
        Ok(())
    }
}

/// Whether an order would move the mailbox from where it lives to this node.
fn authorises(order: &Move, mailbox: &MailboxId, known: &MailboxState, to: &NodeId) -> bool {
    let switch = &order.switch;
    let by_recovery = order.recovery.as_ref().map(|recovery| Some(recovery.key) == known.recovery_key);
    let replaces =
        switch.replaces == known.record || by_recovery == Some(true) && switch.replaces == known.last_recovered();
    by_recovery != Some(false) && switch.mailbox == *mailbox && switch.home == *to && replaces
}
