//! What becomes of a node's outputs.

use std::sync::Arc;

use postroad_engine::{Input, Output, Report, tables};
use postroad_protocol::codec::encode;
use postroad_protocol::cut::{Cut, Vote, vote};
use postroad_protocol::moving::Import;
use postroad_protocol::record::Record;
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};
use postroad_protocol::{MailboxId, NodeId, Signature};

use super::bugs::Bug;
use super::invariants::{STEPS, broken};
use super::net::Stream;
use super::world::{Step, World};

impl World {
    /// Carries one output out.
    pub(super) fn carry_out(&mut self, me: usize, output: Output) -> Step {
        match output {
            Output::Persist(..) => {}
            Output::ToHolder(..) | Output::ToOrigin(..) | Output::ToOrigins(..) | Output::ToSequencer(..) => {
                self.transmit(me, output)?;
            }
            Output::Vote(epoch, digest) => self.vote(me, epoch, digest)?,
            Output::Publish(_) => {}
            Output::Reject(node, digest, reason) => match self.index_of(&node) {
                Some(to) if to == me => self.input(me, Input::Rejected(digest, reason)),
                Some(to) => self.send_behind(me, to, Stream::Down, encode(&FromSequencer::Rejected(digest, reason))),
                None => {}
            },
            Output::Answer(client, counter, answer) => self.answer(client, counter, *answer),
            Output::Defer(node, digest) => match self.index_of(&node) {
                Some(to) if to == me => self.input(me, Input::Deferred(digest)),
                Some(to) => self.send(me, to, Stream::Down, encode(&FromSequencer::Busy(digest))),
                None => return self.broken("world", "a busy sequencer tells nobody"),
            },
            Output::Moving(token, answer) => self.moving(me, token, answer),
            Output::AskHandoff(node, request) => self.ask_handoff(me, node, *request),
            Output::AskExtracts(node, mailbox, slices) => self.ask_extracts(me, node, mailbox, slices),
            Output::AskDeputies(record) => self.ask_deputies(me, &record),
            Output::Blocked(..) | Output::Retiring(..) => {
                return self.broken("world", "an answer that nobody here asked for");
            }
            Output::Registered(token, result) => self.registered(me, token, result),
            Output::Delivery(token, proof) => self.delivery(me, token, proof),
            Output::Fetch(key, nodes) => self.fetch(me, key, &nodes),
            Output::FetchCuts(after) => self.fetch_cuts(me, after),
            Output::Applied(epoch, _) => self.applied(me, epoch)?,
            Output::Attested(view) => {
                let disk = self.nodes[me].disk()?;
                if let Some(gathered) = self.gathered.as_mut() {
                    gathered.attested(&view, &disk);
                }
                let committed = &self.nodes[me].committed;
                let verdict = self.checks.statements.attestation(&view.attestation, &self.federation, committed);
                self.judge(verdict)?;
                if !self.sinners.is(me) {
                    let verdict = self.checks.attestations.said(&view, &self.checks.logs, &self.federation);
                    self.judge(verdict)?;
                }
                if let Some(running) = self.nodes[me].running.as_mut() {
                    if view.anchor.is_some() {
                        running.last_final = Some(Arc::clone(&view));
                    }
                    running.view = Some(view);
                }
                self.show_attestation(me);
            }
            Output::Accuse(claim) => self.accused(me, *claim)?,
            Output::Kept(..) => return self.broken("world", "evidence that nobody here handed in"),
            Output::Report(report) => {
                match &report {
                    Report::Away { .. } => self.stats.aways += 1,
                    Report::Back { .. } => self.stats.backs += 1,
                    Report::Resealed { .. } => self.stats.reseals += 1,
                    Report::Sinned { epoch, .. } => self.sinned(me, *epoch),
                    Report::Refused { reason, .. } if reason.contains("certified cut is not valid") => {
                        return self.broken("apply", format!("node {me}: {reason}"));
                    }
                    _ => {}
                }
                self.trace.say(self.now, me, &format!("{report:?}"));
            }
            Output::Fatal(reason) => return self.broken("fatal", format!("node {me}: {reason}")),
        }
        Ok(())
    }

    fn vote(&mut self, me: usize, epoch: u64, digest: postroad_protocol::Digest) -> Step {
        let sim = &self.nodes[me];
        let (secret, id) = (sim.secret.clone(), sim.id);
        let signed = match self.bug {
            Some(Bug::NoGuard) => Ok(vote(&secret, digest).signature.0),
            _ => sim.guard.sign(epoch, digest.0, || vote(&secret, digest).signature.0),
        };
        match signed {
            Ok(signature) => {
                let verdict = self.checks.statements.vote(&id, epoch, digest, &sim.committed);
                self.judge(verdict)?;
                let verdict = self.checks.order.certified(epoch, digest);
                self.judge(verdict)?;
                self.input(me, Input::Voted(epoch, Vote { member: id, signature: Signature(signature) }));
            }
            Err(error) => self.input(me, Input::VoteRefused(epoch, error.to_string())),
        }
        Ok(())
    }

    fn applied(&mut self, me: usize, epoch: u64) -> Step {
        let sim = &self.nodes[me];
        let Some(running) = sim.running.as_ref() else { return Ok(()) };
        // One group may apply more cuts than a node remembers states of.
        if let Some((state, _)) = running.node.ledger().at(epoch) {
            let verdict = self.checks.order.applied(&sim.id, epoch, state.cut, state.root());
            self.judge(verdict)?;
            if me == self.sequencer {
                let lapsed = state.nodes().filter(|(_, node)| node.lapsed.is_some()).map(|(node, _)| *node).collect();
                let before = std::mem::replace(&mut self.lapsed, lapsed);
                self.stats.lapses += self.lapsed.difference(&before).count() as u64;
                self.stats.lapses_ended += before.difference(&self.lapsed).count() as u64;
            }
        }
        if let Some(running) = self.nodes[me].running.as_mut() {
            running.applied = epoch;
            running.settled = running.node.settled();
            running.overdue = running.node.overdue();
            running.unsettled = running.node.unsettled();
        }
        let disk = self.nodes[me].disk()?;
        for epoch in self.checks.oracle.epoch() + 1..=epoch {
            let cut = tables::get::<Cut>(&disk, tables::CUTS, &tables::number_key(epoch));
            let Ok(Some(cut)) = cut else {
                self.judge(broken(STEPS, format!("node {me} applied cut {epoch}, which is not on its disk")))?;
                break;
            };
            self.ordered(&cut)?;
        }
        self.send(me, self.sequencer, Stream::Up, encode(&ToSequencer::Applied(epoch)));
        let followers: Vec<usize> = (self.nodes[me].running.as_ref())
            .map(|running| running.followers.keys().copied().collect())
            .unwrap_or_default();
        for follower in followers {
            self.feed_follower(me, follower)?;
        }
        self.serve_all(me)
    }

    /// A trace tells who moves.
    fn tell_record(&mut self, cut: &Cut, mailbox: &MailboxId, home: &NodeId, what: &str) {
        let (client, epoch) =
            (self.clients.iter().position(|client| client.id == *mailbox), cut.certified.header.epoch);
        let node = self.index_of(home).unwrap_or(0);
        self.trace.say(self.now, node, &format!("cut {epoch}: {what} of client {client:?} {mailbox:?}"));
    }

    /// A cut that nobody counted before.
    fn ordered(&mut self, cut: &Cut) -> Step {
        self.stats.cuts += 1;
        if let Some(gathered) = self.gathered.as_mut() {
            gathered.cuts.push(cut.clone());
        }
        for sealed in &cut.body.headers {
            // The sequencer's own headers reach itself without leaving it.
            if let Some(origin) = self.index_of(&sealed.header.body.origin)
                && origin == self.sequencer
            {
                let committed = &self.nodes[origin].committed;
                let verdict = self.checks.statements.header(&sealed.header, &self.federation, committed);
                self.unless_sinner(origin, self.judge(verdict))?;
            }
        }
        self.stats.fills += cut.body.fills.len() as u64;
        for record in &cut.body.records {
            match record {
                Record::Move(order) => {
                    self.stats.switches += u64::from(order.home.is_some());
                    self.tell_record(cut, &order.switch.mailbox, &order.switch.home, "switch");
                }
                Record::Challenge(_) => self.stats.challenges += 1,
                Record::Answer(_) => self.stats.answers += 1,
                Record::Lost(_) => self.stats.losses += 1,
                Record::Import(signed) => {
                    self.stats.imports += 1;
                    let Import { mailbox, home, base, through, missing, .. } = &signed.body;
                    let base = base.map(|base| (self.index_of(&base.node), base.attestation.epoch, base.log.size));
                    let what = format!("import on {base:?} through {through} without {}", missing.len());
                    self.tell_record(cut, mailbox, home, &what);
                    self.stats.imports_missing += u64::from(!signed.body.missing.is_empty());
                }
                Record::Node(_) | Record::Start(_) | Record::Register(_) => {}
            }
        }
        for custody in cut.body.headers.iter().flat_map(|sealed| &sealed.custody) {
            let delivered = custody.receipts.first().is_some_and(|receipt| receipt.item.request.is_none());
            self.stats.pending += u64::from(!delivered);
        }
        let verdict = self.checks.ordered(cut, &self.federation);
        self.judge(verdict)
    }
}
