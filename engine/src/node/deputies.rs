//! Deputies: the nodes that this node names to take its slices while it is away, and those that name this one.
//!
//! A record that names deputies counts with the consent of each of them, and a consent is to exactly that record. So this
//! node asks all whom its operator wishes for about a record that names them all; if some refuse or are silent, it asks
//! the others about one that names only them. What all of its deputies have consented to is handed in, if it names more
//! than the record in force does. A node that has just started names nobody yet, so that it waits for nobody.

use std::collections::BTreeMap;

use postroad_protocol::record::{Appointed, NodeRecord, Record};
use postroad_protocol::signed::{Statement, sign_digest, verify_digest};
use postroad_protocol::state::NodeState;
use postroad_protocol::{Digest, NodeId, Refusal, Signature, Signed, Verified};

use super::{Node, Phase};
use crate::io::{Output, Report, Time};

/// How long deputies have to answer.
const PATIENCE_MS: u64 = 10_000;
/// Time from one round of questions to the next: at first, since nodes that start together are not all there at once.
const FIRST_PAUSE_MS: u64 = 1_000;
/// And at most.
const MAX_PAUSE_MS: u64 = 10_000;

/// The consents that this node gathers.
#[derive(Debug)]
pub(super) struct Consents {
    asked: Option<Asked>,
    /// A record with all consents, until it is settled.
    agreed: Option<Verified<Record>>,
    next_round: Time,
    pause_ms: u64,
    /// Why each of them does not consent, as the operator was last told.
    told: BTreeMap<NodeId, String>,
}

/// A record about which its deputies are asked.
#[derive(Debug)]
struct Asked {
    record: Signed<NodeRecord>,
    digest: Digest,
    /// None: it does not consent.
    answers: BTreeMap<NodeId, Option<Signature>>,
    until: Time,
}

impl Default for Consents {
    fn default() -> Consents {
        Consents { asked: None, agreed: None, next_round: Time(0), pause_ms: FIRST_PAUSE_MS, told: BTreeMap::new() }
    }
}

impl Node {
    /// Whether the record in force says what the operator wants said, as far as the deputies consent.
    pub(super) fn is_current(&self, known: &NodeState) -> bool {
        let mut wanted = self.config.deputies.iter();
        known.name == self.config.name
            && known.addrs == self.config.addrs
            && known.deputies.iter().all(|deputy| wanted.any(|wanted| wanted == deputy))
    }

    /// This node's next record, which names these deputies.
    pub(super) fn draft_record(&self, deputies: Vec<NodeId>) -> Signed<NodeRecord> {
        let version = self.ledger.head().node(&self.me).map_or(0, |node| node.version) + 1;
        let (name, addrs) = (self.config.name.clone(), self.config.addrs.clone());
        let body = NodeRecord { node: self.me, version, name, addrs, deputies };
        Signed::sign(body, &self.config.secret, &self.config.federation).into_inner()
    }

    /// Asks those whom the operator wishes for and who are not named yet.
    pub(super) fn pursue_deputies(&mut self, time: Time, out: &mut Vec<Output>) {
        if self.phase == Phase::Joining || self.draining || !self.follows() {
            return;
        }
        let Some(known) = self.ledger.head().node(&self.me) else { return };
        self.consents.agreed.take_if(|agreed| version(agreed) <= known.version);
        if let Some(agreed) = self.consents.agreed.clone() {
            return self.hand_in_record(agreed, out);
        }
        if known.deputies == self.config.deputies {
            self.consents.asked = None;
            return;
        }
        let waits = self.consents.asked.as_ref().is_some_and(|asked| time < asked.until);
        if waits || time < self.consents.next_round {
            return;
        }
        self.consents.next_round = time.after_ms(self.consents.pause_ms);
        self.consents.pause_ms = (2 * self.consents.pause_ms).min(MAX_PAUSE_MS);
        self.ask_deputies(self.config.deputies.clone(), time, out);
    }

    fn ask_deputies(&mut self, deputies: Vec<NodeId>, time: Time, out: &mut Vec<Output>) {
        let record = self.draft_record(deputies);
        let digest = record.digest(&self.config.federation);
        let until = time.after_ms(PATIENCE_MS);
        out.push(Output::AskDeputies(Box::new(record.clone())));
        self.consents.asked = Some(Asked { record, digest, answers: BTreeMap::new(), until });
    }

    /// A deputy has answered about the record with this digest, or will not.
    pub(super) fn deputised(
        &mut self,
        deputy: NodeId,
        record: Digest,
        answer: Result<Signature, String>,
        time: Time,
        out: &mut Vec<Output>,
    ) {
        let asked = self.consents.asked.as_mut().filter(|asked| asked.digest == record);
        let Some(asked) = asked.filter(|asked| asked.record.body.deputies.contains(&deputy)) else { return };
        let answer = answer.and_then(|consent| match verify_digest(&deputy, record, &consent) {
            true => Ok(consent),
            false => Err("its signature does not verify".to_owned()),
        });
        match &answer {
            Ok(_) => {
                self.consents.told.remove(&deputy);
            }
            Err(reason) if self.consents.told.get(&deputy) != Some(reason) => {
                self.consents.told.insert(deputy, reason.clone());
                out.push(Output::Report(Report::NoDeputy { node: deputy, reason: reason.clone() }));
            }
            Err(_) => {}
        }
        asked.answers.insert(deputy, answer.ok());
        let complete = asked.answers.len() == asked.record.body.deputies.len();
        if let Some(asked) = self.consents.asked.take_if(|_| complete) {
            self.conclude(asked, time, out);
        }
    }

    /// All have answered.
    fn conclude(&mut self, asked: Asked, time: Time, out: &mut Vec<Output>) {
        let Some(known) = self.ledger.head().node(&self.me) else { return };
        let named = &asked.record.body.deputies;
        let consents: Vec<(NodeId, Signature)> =
            named.iter().filter_map(|deputy| Some((*deputy, asked.answers.get(deputy).copied()??))).collect();
        if asked.record.body.version <= known.version || consents.len() <= known.deputies.len() {
            return;
        }
        if consents.len() < named.len() {
            return self.ask_deputies(consents.into_iter().map(|(deputy, _)| deputy).collect(), time, out);
        }
        let deputies = consents.into_iter().map(|(_, consent)| consent).collect();
        self.agree(Appointed { node: asked.record, deputies }, out);
    }

    fn agree(&mut self, record: Appointed, out: &mut Vec<Output>) {
        // A sole sequencer settles its own, and must certify nothing that others refuse.
        match Verified::check(Record::Node(record), &self.config.federation) {
            Ok(record) => {
                self.consents.agreed = Some(record.clone());
                self.hand_in_record(record, out);
            }
            Err(error) => {
                out.push(Output::Report(Report::Refused { peer: Some(self.me), reason: error.to_string() }));
            }
        }
    }

    /// This node's consent to be a deputy, if its operator lets that node name it.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn deputise(&self, record: &Verified<Signed<NodeRecord>>) -> Result<Signature, Refusal> {
        let body = &record.body;
        body.check().map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
        if !body.deputies.contains(&self.me) {
            return Err(Refusal::Invalid { reason: "the record does not name this node as a deputy".into() });
        }
        let not_allowed = |reason: &str| Refusal::NotAllowed { reason: reason.into() };
        if !self.config.deputy_for.allows(&body.node) || self.refused.contains(&body.node) {
            return Err(not_allowed("this node's policy does not let that node name it as a deputy"));
        }
        if self.ledger.head().node(&body.node).is_none() {
            return Err(not_allowed("a deputy only of nodes of the federation"));
        }
        if self.phase == Phase::Joining || self.draining {
            return Err(Refusal::NotReady);
        }
        Ok(sign_digest(&self.config.secret, body.digest(self.config.federation.id())))
    }
}

/// A node record's version.
fn version(record: &Record) -> u64 {
    match record {
        Record::Node(record) => record.node.body.version,
        _ => 0,
    }
}
