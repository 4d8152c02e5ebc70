//! `apply`: the one pure function that says whether a cut is valid, and what the state is after it.
//!
//! A cut is settled in the order records, fills, headers (rule 1). [`Draft`] settles one thing at a time; the sequencer
//! drafts a cut with it, and [`apply`] drafts the same cut again and compares. So there is one set of rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::{MailboxId, NodeId};
use crate::cut::{Cut, CutHeader};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::receipt::{Fill, Receipt, Sealed};
use crate::record::{CoSigned, NodeRecord, Record, Start};
use crate::signed::Verified;

use super::{Anchored, KeptUp, LastHeader, MailboxState, NodeState, Pending, PendingKey, State, StateKey};

/// Why a cut, or one thing in it, is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The cut does not follow the last one.
    #[error("cut {found} does not follow cut {expected}")]
    Epoch {
        /// The epoch that would follow.
        expected: u64,
        /// The cut's.
        found: u64,
    },
    /// The cut's `previous` is another cut.
    #[error("cut {epoch} follows another cut {}", epoch - 1)]
    Previous {
        /// The cut's epoch.
        epoch: u64,
    },
    /// Cut time does not rise.
    #[error("the time of cut {epoch} is not above that of the cut before")]
    Time {
        /// The cut's epoch.
        epoch: u64,
    },
    /// The age is not the one that follows from the time.
    #[error("the age of cut {epoch} is {found} ms, and must be {expected} ms")]
    Age {
        /// The cut's epoch.
        epoch: u64,
        /// What follows from the times.
        expected: u64,
        /// The cut's.
        found: u64,
    },
    /// The state after the cut has another root.
    #[error("the state after cut {epoch} has another root than the cut says")]
    StateRoot {
        /// The cut's epoch.
        epoch: u64,
    },
    /// Too many headers.
    #[error("the cut has more headers than genesis allows")]
    Full,
    /// A node that is not registered, or has not started.
    #[error("{node} is not a node of this federation, or has not started")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node may not join.
    #[error("{node} may not join: {reason}")]
    NotAdmitted {
        /// The node.
        node: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// A record that the state has overtaken.
    #[error("the {what} of {node} is out of date")]
    Stale {
        /// Which record.
        what: &'static str,
        /// Whose.
        node: NodeId,
    },
    /// The mailbox is registered already.
    #[error("the mailbox {mailbox} is registered already, at {home}")]
    Registered {
        /// The mailbox.
        mailbox: NodeId,
        /// Its home.
        home: NodeId,
    },
    /// A switch or an import that does not fit what is known of the mailbox.
    #[error("the mailbox {mailbox} is not moved: {reason}")]
    Moving {
        /// The mailbox.
        mailbox: MailboxId,
        /// Why.
        reason: &'static str,
    },
    /// A fill for nothing that is pending.
    #[error("the fill is for no pending slice")]
    NotPending,
    /// The header does not follow its origin's last included header.
    #[error("the header does not follow the last included header of {origin}")]
    Chain {
        /// The origin.
        origin: NodeId,
    },
    /// The routing epoch is too old, not settled yet, or falls along the chain.
    #[error("the routing epoch {routing_epoch} is outside of {from}..={to}")]
    RoutingEpoch {
        /// The header's.
        routing_epoch: u64,
        /// The lowest that is allowed.
        from: u64,
        /// The highest.
        to: u64,
    },
    /// The attestation's number was used before.
    #[error("attestation {number} of {node} does not follow the last final one")]
    AttestationNumber {
        /// The node.
        node: NodeId,
        /// The number.
        number: u64,
    },
    /// The attestation claims an epoch that is not settled yet.
    #[error("attestation of {node} claims epoch {epoch}, which no cut has settled yet")]
    AttestationEpoch {
        /// The node.
        node: NodeId,
        /// The epoch that it claims.
        epoch: u64,
    },
    /// A receipt of a node that has lapsed.
    #[error("{node} has lapsed, and its receipts do not count until its attestations have caught up")]
    Lapsed {
        /// The node.
        node: NodeId,
    },
    /// The origin has as many pending slices as it may have.
    #[error("{origin} has max_pending_per_origin pending slices")]
    TooManyPending {
        /// The origin.
        origin: NodeId,
    },
    /// A challenge, an answer or a loss that does not fit what is pending.
    #[error("not settled: {reason}")]
    Challenge {
        /// Why.
        reason: &'static str,
    },
    /// Receipts that are not complete.
    #[error(transparent)]
    Custody(#[from] VerifyError),
}

/// A cut in the making: the state so far, and the keys it has touched.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(super) federation: Federation,
    pub(super) state: State,
    pub(super) touched: BTreeSet<StateKey>,
    headers: u32,
    /// What destinations have said that they lost, in this cut.
    pub(super) losses: BTreeMap<NodeId, u32>,
}

impl Draft {
    /// The draft of the cut after `state`, with time `time_ms`. What time alone brings about, it has settled already.
    pub fn new(state: &State, time_ms: u64, federation: &Federation) -> Draft {
        let mut state = state.clone();
        state.epoch += 1;
        state.age_ms = state.next_age_ms(time_ms, federation);
        state.time_ms = time_ms;
        let mut draft = Draft {
            federation: federation.clone(),
            state,
            touched: BTreeSet::new(),
            headers: 0,
            losses: BTreeMap::new(),
        };
        draft.sweep();
        draft.lapse();
        draft.switch_due();
        draft
    }

    /// Nodes that have not kept up for too long have lapsed.
    fn lapse(&mut self) {
        let lapse_ms = self.federation.params().lapse_ms;
        let late = |node: &NodeState| self.state.age_ms > node.kept_up.age_ms.saturating_add(lapse_ms);
        let lapsed: Vec<(NodeId, NodeState)> = (self.state.nodes())
            .filter(|(_, node)| node.incarnation > 0 && node.lapsed.is_none() && late(node))
            .map(|(id, node)| (*id, NodeState { lapsed: Some(self.state.epoch), ..node.clone() }))
            .collect();
        for (id, node) in lapsed {
            self.set_node(id, node);
        }
    }

    fn now(&self) -> KeptUp {
        KeptUp { epoch: self.state.epoch, age_ms: self.state.age_ms }
    }

    /// The state so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Settles a record. On an error the draft is as it was.
    ///
    /// # Errors
    /// [`Invalid`] says why this record cannot be settled now.
    pub fn record(&mut self, record: &Verified<Record>) -> Result<(), Invalid> {
        match &**record {
            Record::Node(signed) => self.node_record(&signed.node.body),
            Record::Start(signed) => self.start(&signed.body),
            Record::Register(signed) => self.register(signed),
            Record::Challenge(signed) => self.challenge(signed),
            Record::Answer(receipt) => self.answer(receipt),
            Record::Lost(signed) => self.lost(&signed.body),
            Record::Move(order) => self.switch(order),
            Record::Import(signed) => self.import(signed),
        }
    }

    fn node_record(&mut self, record: &NodeRecord) -> Result<(), Invalid> {
        let node = record.node;
        let genesis = self.federation.genesis();
        let mut next = match self.state.nodes.get(&node) {
            Some(known) if record.version <= known.version => {
                return Err(Invalid::Stale { what: "node record", node });
            }
            Some(known) => known.clone(),
            None => {
                let member = genesis.committee.iter().any(|member| member.node == node);
                if !genesis.allow.is_empty() && !genesis.allow.contains(&node) && !member {
                    return Err(Invalid::NotAdmitted {
                        node,
                        reason: "genesis has an allow list, and it is not on it",
                    });
                }
                if self.state.nodes.len() as u64 >= genesis.params.max_nodes && !member {
                    return Err(Invalid::NotAdmitted { node, reason: "the federation has max_nodes nodes" });
                }
                NodeState {
                    version: 0,
                    name: String::new(),
                    addrs: Vec::new(),
                    deputies: Vec::new(),
                    incarnation: 0,
                    nonce: [0; 16],
                    started: 0,
                    last_header: None,
                    last_attestation: None,
                    mailboxes: 0,
                    lapsed: None,
                    pending: 0,
                    kept_up: self.now(),
                    lost: 0,
                }
            }
        };
        next.version = record.version;
        next.name.clone_from(&record.name);
        next.addrs.clone_from(&record.addrs);
        next.deputies.clone_from(&record.deputies);
        self.set_node(node, next);
        Ok(())
    }

    fn start(&mut self, start: &Start) -> Result<(), Invalid> {
        let node = start.node;
        let mut next = self.state.nodes.get(&node).ok_or(Invalid::UnknownNode { node })?.clone();
        if start.incarnation != next.incarnation + 1 {
            return Err(Invalid::Stale { what: "start", node });
        }
        if next.incarnation == 0 {
            next.kept_up = self.now();
        }
        next.incarnation = start.incarnation;
        next.nonce = start.nonce;
        next.started = self.state.epoch;
        self.set_node(node, next);
        Ok(())
    }

    fn register(&mut self, signed: &CoSigned) -> Result<(), Invalid> {
        let registration = &signed.owner.body;
        let (mailbox, node) = (registration.mailbox, registration.home);
        if let Some(known) = self.state.mailboxes.get(&mailbox) {
            return Err(Invalid::Registered { mailbox, home: known.home });
        }
        let mut home = self.started(&node)?.clone();
        if home.mailboxes >= self.federation.params().max_mailboxes_per_node {
            return Err(Invalid::NotAdmitted { node, reason: "it has max_mailboxes_per_node mailboxes" });
        }
        home.mailboxes += 1;
        self.set_node(node, home);
        let value = MailboxState {
            home: node,
            since: self.state.epoch,
            record: signed.owner.digest(&self.federation),
            encryption_key: registration.encryption_key,
            recovery_key: registration.recovery_key,
            registered: self.state.epoch,
            moved: None,
            recovered: None,
        };
        self.set_mailbox(mailbox, value);
        Ok(())
    }

    /// Settles a fill. On an error the draft is as it was.
    ///
    /// # Errors
    /// [`Invalid::NotPending`] when the slice is not pending, [`Invalid::UnknownNode`].
    pub fn fill(&mut self, fill: &Verified<Fill>) -> Result<(), Invalid> {
        let item = &fill.item;
        let key = PendingKey { destination: item.destination, header: item.header };
        let pending = self.state.pending.get(&key).ok_or(Invalid::NotPending)?;
        if fill.holder() != item.destination || item.request.is_some() || item.slice != pending.slice {
            return Err(Invalid::NotPending);
        }
        self.receipt(fill, None)?;
        self.close_pending(&key);
        Ok(())
    }

    pub(super) fn set_pending(&mut self, key: PendingKey, value: Pending) {
        self.touched.insert(StateKey::Pending(key));
        self.state.pending.insert(key, value);
    }

    /// A slice is pending no more, and challenged no more.
    pub(super) fn close_pending(&mut self, key: &PendingKey) {
        let Some(pending) = self.state.pending.get(key).cloned() else { return };
        self.touched.insert(StateKey::Pending(*key));
        self.state.pending.remove(key);
        self.close_challenge(key);
        if let Some(mut origin) = self.state.nodes.get(&pending.origin).cloned() {
            origin.pending = origin.pending.saturating_sub(1);
            self.set_node(pending.origin, origin);
        }
    }

    pub(super) fn close_challenge(&mut self, key: &PendingKey) {
        if self.state.challenges.remove(key) {
            self.touched.insert(StateKey::Challenge(*key));
        }
    }

    /// Settles a header and returns its position. On an error the draft is as it was.
    ///
    /// # Errors
    /// [`Invalid`] says why the header cannot be included now.
    pub fn header(&mut self, sealed: &Verified<Sealed>) -> Result<u32, Invalid> {
        let header = &sealed.header.body;
        let params = self.federation.params();
        if u64::from(self.headers) >= params.max_cut_headers {
            return Err(Invalid::Full);
        }
        let origin = header.origin;
        let mut next = self.started(&origin)?.clone();
        let last = next.last_header;
        if header.previous != last.map_or(Digest::ZERO, |last| last.digest)
            || last.is_some_and(|last| header.number <= last.number)
        {
            return Err(Invalid::Chain { origin });
        }
        let window = self.state.epoch.saturating_sub(params.routing_window_epochs);
        let from = window.max(last.map_or(0, |last| last.routing_epoch));
        let to = self.state.epoch - 1;
        if !(from..=to).contains(&header.routing_epoch) {
            return Err(Invalid::RoutingEpoch { routing_epoch: header.routing_epoch, from, to });
        }
        if let Some(attestation) = header.attestation {
            let number = attestation.number;
            if next.last_attestation.is_some_and(|last| number <= last.attestation.number) {
                return Err(Invalid::AttestationNumber { node: origin, number });
            }
            if attestation.epoch >= self.state.epoch {
                return Err(Invalid::AttestationEpoch { node: origin, epoch: attestation.epoch });
            }
            next.last_attestation = Some(Anchored { attestation, epoch: self.state.epoch });
            if attestation.epoch >= next.kept_up.epoch {
                next.kept_up = self.now();
            }
            if next.lapsed.is_some_and(|lapsed| attestation.epoch >= lapsed) {
                (next.lapsed, next.kept_up) = (None, self.now());
            }
        }
        let digest = sealed.digest(&self.federation);
        let mut pending = Vec::new();
        for (custody, slice) in sealed.custody.iter().zip(&header.slices) {
            self.started(&slice.destination)?;
            for receipt in &custody.receipts {
                self.receipt(receipt, Some(origin))?;
            }
            if !custody.check(header, digest, slice, &self.federation)?.delivered {
                let holders = custody.receipts.iter().map(Receipt::holder).collect();
                let value = Pending {
                    epoch: self.state.epoch,
                    position: self.headers,
                    origin,
                    number: header.number,
                    slice: slice.root,
                    holders,
                    age_ms: self.state.age_ms,
                    rounds: 0,
                    answered: None,
                    lost: Vec::new(),
                };
                pending.push((PendingKey { destination: slice.destination, header: digest }, value));
            }
        }
        next.pending += pending.len() as u64;
        if !pending.is_empty() && next.pending > params.max_pending_per_origin {
            return Err(Invalid::TooManyPending { origin });
        }
        for (key, value) in pending {
            self.set_pending(key, value);
        }
        next.last_header = Some(LastHeader { number: header.number, digest, routing_epoch: header.routing_epoch });
        self.set_node(origin, next);
        self.headers += 1;
        Ok(self.headers - 1)
    }

    /// The state after the cut whose header is `header`, and the keys that it has touched.
    pub fn finish(mut self, header: &CutHeader) -> Applied {
        self.state.cut = header.digest(&self.federation);
        Applied { state: self.state, touched: self.touched }
    }

    pub(super) fn started(&self, node: &NodeId) -> Result<&NodeState, Invalid> {
        match self.state.nodes.get(node) {
            Some(known) if known.incarnation > 0 => Ok(known),
            _ => Err(Invalid::UnknownNode { node: *node }),
        }
    }

    /// A receipt counts when its holder has started the incarnation that it states, and has not lapsed. An origin's own
    /// receipts under its header count all the same: a lapsed node's headers stay includable.
    pub(super) fn receipt(&self, receipt: &Receipt, origin: Option<NodeId>) -> Result<(), Invalid> {
        let node = receipt.holder();
        let incarnation = receipt.signed.body.incarnation;
        let known = self.started(&node)?;
        if incarnation == 0 || incarnation > known.incarnation {
            return Err(Invalid::UnknownNode { node });
        }
        if known.lapsed.is_some() && origin != Some(node) {
            return Err(Invalid::Lapsed { node });
        }
        Ok(())
    }

    pub(super) fn set_node(&mut self, node: NodeId, value: NodeState) {
        self.touched.insert(StateKey::Node(node));
        self.state.nodes.insert(node, value);
    }
}

/// A state, and which of its keys the last cut has touched.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The state after the cut.
    pub state: State,
    /// The keys that were written or removed.
    pub touched: BTreeSet<StateKey>,
}

/// The state after `cut`, or why the cut is not valid.
///
/// # Errors
/// [`Invalid`].
pub fn apply(state: &State, cut: &Verified<Cut>, federation: &Federation) -> Result<Applied, Invalid> {
    let header = &cut.certified.header;
    let epoch = header.epoch;
    if epoch != state.epoch + 1 {
        return Err(Invalid::Epoch { expected: state.epoch + 1, found: epoch });
    }
    if header.previous != state.cut {
        return Err(Invalid::Previous { epoch });
    }
    if header.time_ms <= state.time_ms {
        return Err(Invalid::Time { epoch });
    }
    let expected = state.next_age_ms(header.time_ms, federation);
    if header.age_ms != expected {
        return Err(Invalid::Age { epoch, expected, found: header.age_ms });
    }
    let mut draft = Draft::new(state, header.time_ms, federation);
    // The parts of a verified cut are verified.
    for record in &cut.body.records {
        draft.record(&Verified(record.clone()))?;
    }
    for fill in &cut.body.fills {
        draft.fill(&Verified(fill.clone()))?;
    }
    for sealed in &cut.body.headers {
        draft.header(&Verified(sealed.clone()))?;
    }
    let applied = draft.finish(header);
    if applied.state.root() != header.state {
        return Err(Invalid::StateRoot { epoch });
    }
    Ok(applied)
}
