//! What the parts of an explanation amount to.

use super::{Disclosed, Explanation, Found, LogWord};
use crate::crypto::NodeId;
use crate::evidence::{
    BadSlice, Claim, ClaimError, Cleared, Drop, Entry, Evidence, Forgery, Included, Loss, Omission, Owed, SplitOrder,
    Stale, Wrong, WrongEntry,
};
use crate::genesis::Federation;
use crate::receipt::LeafRefusal;
use crate::state::Imported;

/// What became of a message, and whose fault it is if it is anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// It is in the mailbox's log, finally.
    Delivered {
        /// The home.
        home: NodeId,
        /// Its index in the log.
        index: u64,
        /// Why it came late, if it did.
        late: Option<Cleared>,
    },
    /// The home did not take it, as the cut shows: it is owed by nobody.
    Refused {
        /// The home.
        home: NodeId,
        /// Why.
        reason: LeafRefusal,
    },
    /// It is in custody, and not owed by the home yet.
    Pending {
        /// The home.
        home: NodeId,
        /// Who holds it.
        holders: Vec<NodeId>,
    },
    /// It was routed to a home that the mailbox has left since, and the new one takes it over.
    Moved {
        /// The former home.
        from: NodeId,
        /// The home.
        to: NodeId,
        /// Since which epoch.
        since: u64,
        /// The epoch of the home's last import, if that says that the message is taken over, where it was owed.
        taken: Option<u64>,
    },
    /// Somebody broke its word; the evidence stands for itself.
    Guilty(Box<Evidence>),
    /// Somebody was suspected, and is innocent.
    Cleared {
        /// Who.
        accused: NodeId,
        /// Why.
        reason: Cleared,
    },
    /// Statements are missing.
    Open(Vec<Missing>),
}

/// A statement that nobody has supplied yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What, and who beside these nodes could supply it.
    pub what: String,
    /// Nodes that must have it.
    pub nodes: Vec<NodeId>,
}

impl Conclusion {
    /// A short stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Conclusion::Delivered { .. } => "delivered",
            Conclusion::Refused { .. } => "refused",
            Conclusion::Pending { .. } => "pending",
            Conclusion::Moved { .. } => "moved",
            Conclusion::Guilty(_) => "guilty",
            Conclusion::Cleared { .. } => "cleared",
            Conclusion::Open(_) => "open",
        }
    }
}

impl std::fmt::Display for Conclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Conclusion::Delivered { home, index, late: None } => {
                write!(f, "{home} has it in the mailbox's log, as entry {index}, finally")
            }
            Conclusion::Delivered { home, index, late: Some(reason) } => {
                write!(f, "{home} has it in the mailbox's log, as entry {index}, finally; it came late: {reason}")
            }
            Conclusion::Refused { home, reason } => {
                write!(f, "{home} did not take it for this mailbox ({}), as the cut shows", reason.code())
            }
            Conclusion::Pending { holders, .. } => {
                write!(f, "{}", Cleared::Pending { holders: holders.clone(), until: None })
            }
            Conclusion::Moved { from, to, since, taken } => {
                write!(f, "the mailbox moved in epoch {since}, and the message was routed to {from} before: ")?;
                match taken {
                    Some(epoch) => {
                        write!(f, "{to} has taken it over if {from} owed it, says its import of epoch {epoch}")
                    }
                    None => write!(f, "no import of {to} speaks of it yet"),
                }
            }
            Conclusion::Guilty(evidence) => {
                let verdict = evidence.verdict();
                write!(f, "{} is guilty of {}, in epoch {}", verdict.culprit, verdict.fault, verdict.epoch)
            }
            Conclusion::Cleared { accused, reason } => write!(f, "{accused} is innocent: {reason}"),
            Conclusion::Open(missing) => {
                let all: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
                write!(f, "it cannot be told without {}", all.join("; and "))
            }
        }
    }
}

impl Explanation {
    /// What the parts amount to. Parts that do not hold count as missing.
    pub fn conclusion(&self, federation: &Federation) -> Conclusion {
        let mut sound = self.clone();
        sound.retain_sound(federation);
        sound.conclude(federation)
    }

    pub(super) fn conclude(&self, federation: &Federation) -> Conclusion {
        let mut cleared = None;
        for claim in self.claims(federation) {
            let accused = claim.accused(federation);
            match Evidence::new(claim, federation) {
                Ok(evidence) => return Conclusion::Guilty(Box::new(evidence)),
                Err(ClaimError::Cleared(reason)) => cleared = Some(Conclusion::Cleared { accused, reason }),
                Err(_) => {}
            }
        }
        let Some(included) = &self.included else {
            return open("the cut of its epoch and the header, which every node has", Vec::new());
        };
        let (Some(case), Some(home)) = (self.case(federation), self.home()) else {
            return match &self.residence {
                Some(_) => open("a home: the mailbox is not registered", Vec::new()),
                None => open("the mailbox's place in the directory, which every node has", Vec::new()),
            };
        };
        if let Some(moved) = self.moved(included) {
            return match &self.log {
                Some(log) if let Found::Entry(entry) = &log.found => {
                    Conclusion::Delivered { home, index: entry.index, late: None }
                }
                _ => moved,
            };
        }
        let origin = case.header.origin;
        let Some(receipts) = case.receipts else {
            return match case.slice {
                Some(_) => open("the receipts of the slice, which every node has", Vec::new()),
                None => open(WHOSE, vec![origin]),
            };
        };
        let holders = case.holders();
        let refused = case.settled.into_iter().flat_map(|(_, refused)| refused);
        let mut refused = refused.filter(|leaf| (leaf.index, leaf.mailbox) == (self.seq.index, self.mailbox));
        if let Some(leaf) = refused.next() {
            return Conclusion::Refused { home, reason: leaf.reason };
        }
        match &self.log {
            Some(log) if let Found::Entry(entry) = &log.found => {
                let until = entry.leaf.is_late().then_some(entry.leaf.settled);
                let late = until.map(|until| Cleared::Pending { holders, until: Some(until) });
                return Conclusion::Delivered { home, index: entry.index, late };
            }
            _ => {}
        }
        if self.slice.is_some() && self.leaf().is_none() {
            return open(WHOSE, vec![origin]);
        }
        if case.settled.is_none() {
            return Conclusion::Pending { home, holders };
        }
        if let (Some((settled, _)), Some(log)) = (case.settled, &self.log) {
            let (settled, attested) = (settled.epoch, log.attested.attestation.body.epoch);
            if attested < settled {
                let until = Some(settled);
                let is_late = self.fill.is_some();
                let pending = Cleared::Pending { holders, until };
                let reason = if is_late { pending } else { Cleared::NotYet { settled, attested } };
                return Conclusion::Cleared { accused: home, reason };
            }
        }
        if let Some(cleared) = cleared {
            return cleared;
        }
        let mut missing = Vec::new();
        if self.slice.is_none() {
            let mut nodes: Vec<NodeId> = receipts.iter().map(crate::receipt::Receipt::holder).collect();
            nodes.extend([origin, home]);
            nodes.sort();
            nodes.dedup();
            let what = "what the slice holds for the mailbox, which its origin and whoever signed for it have";
            missing.push(Missing { what: what.into(), nodes });
        }
        if self.log.is_none() {
            let epoch = case.settled.map_or(included.epoch(), |(settled, _)| settled.epoch);
            let what = format!(
                "what the home, which signed for it, attests of its log from epoch {epoch} on; the home has it, and the \
                 recipient"
            );
            missing.push(Missing { what, nodes: vec![home] });
        }
        if missing.is_empty() {
            let what = "a state since the home's attestation, which says whether the home has lost the slice; every node has it";
            missing.push(Missing { what: what.into(), nodes: Vec::new() });
        }
        Conclusion::Open(missing)
    }

    /// Whether it was routed to a former home, by the directory of its epoch.
    fn moved(&self, included: &Included) -> Option<Conclusion> {
        let value = self.residence.as_ref()?.home.value.as_ref()?;
        let header = included.header();
        let from = value.home_at(header.routing_epoch).filter(|_| header.routing_epoch < value.since)?;
        let import = value.moved.as_ref().and_then(|moved| moved.import.as_ref());
        let closes = |import: &&Imported| {
            let is_missing = import.missing.iter().any(|it| it.covers(&header.origin, included.epoch()));
            included.epoch() <= import.through && !is_missing
        };
        let taken = import.filter(closes).map(|import| import.epoch);
        Some(Conclusion::Moved { from, to: value.home, since: value.since, taken })
    }

    /// What the parts might convict somebody of, the strongest first.
    fn claims(&self, federation: &Federation) -> Vec<Claim> {
        let mut claims = Vec::new();
        let Some(included) = &self.included else { return claims };
        if let Some(other) = &self.other_cut {
            let split = SplitOrder::of(included.cut.clone(), other.clone(), federation);
            claims.push(Claim::SplitOrder(Box::new(split)));
        }
        if let Some(disclosed) = &self.disclosed {
            self.claims_of_entries(included, disclosed, federation, &mut claims);
        }
        if let Some(log) = &self.log {
            self.claims_of_log(included, log, &mut claims);
        }
        if let Some(lost) = &self.lost
            && let Some(residence) = &self.residence
            && let Some(loss) = &residence.loss
            && let Some(value) = loss.value
        {
            let (home, path) = (&residence.home, loss.path.clone());
            let (cut, owed, parts) = (home.cut.clone(), Owed::Delivered(value), home.parts);
            claims.push(Claim::Loss(Box::new(Loss { lost: lost.clone(), cut, owed, path, parts })));
        }
        claims
    }

    /// What the message, as the batch holds it, says against its origin.
    fn claims_of_entries(
        &self,
        included: &Included,
        disclosed: &Disclosed,
        federation: &Federation,
        claims: &mut Vec<Claim>,
    ) {
        use crate::signed::Verify;
        let Disclosed { message, recipient } = disclosed;
        let (header, bundle) = (included.header(), &message.bundle);
        let body = &bundle.signed.body;
        if body.valid_until < header.routing_epoch {
            let (included, bundle) = (included.clone(), bundle.clone());
            claims.push(Claim::Stale(Box::new(Stale { included, bundle })));
        }
        if body.via != header.origin || body.counter == 0 || bundle.signed.verify(federation).is_err() {
            let (included, bundle) = (included.clone(), bundle.clone());
            claims.push(Claim::Forgery(Box::new(Forgery { included, bundle, unregistered: None })));
        }
        let Some(residence) = &self.residence else { return };
        let named = self.home().and_then(|home| header.slice(&home));
        match (named, &self.slice, self.leaf()) {
            (Some(named), Some(slice), Some((leaf, known))) => {
                let entry = if known.message != message.message {
                    Entry::Other(Box::new(message.clone()))
                } else if known.own != recipient.own {
                    Entry::OtherOwn(Box::new(message.clone()), Box::new(recipient.clone()))
                } else {
                    return;
                };
                let (header, destination) = (included.order.header.clone(), named.destination);
                let (mailbox, slice) = (self.mailbox, slice.clone());
                claims.push(Claim::BadSlice(Box::new(BadSlice { header, destination, mailbox, slice, leaf, entry })));
            }
            (Some(_), None, _) => {}
            (_, slice, _) => {
                let (included, home, slice) = (included.clone(), residence.home.clone(), slice.clone());
                let (message, recipient) = (message.clone(), recipient.clone());
                claims.push(Claim::Omission(Box::new(Omission { included, message, recipient, home, slice })));
            }
        }
    }

    /// What the home's log says against the home.
    fn claims_of_log(&self, included: &Included, log: &LogWord, claims: &mut Vec<Claim>) {
        let Some(residence) = &self.residence else { return };
        let (attested, anchor) = (log.attested.clone(), log.anchor.clone());
        match &log.found {
            Found::Entry(entry) => {
                let mut say = |wrong| {
                    let (mailbox, entry) = (self.mailbox, entry.clone());
                    let (attested, anchor, home) = (attested.clone(), anchor.clone(), residence.home.clone());
                    let claim = WrongEntry { mailbox, attested, anchor, entry, wrong, home };
                    claims.push(Claim::WrongEntry(Box::new(claim)));
                };
                let (message, own) = (entry.leaf.message, entry.leaf.own);
                match (&self.disclosed, &self.slice) {
                    (Some(it), _) if it.message.message != message => {
                        let entry = Entry::Other(Box::new(it.message.clone()));
                        say(Wrong::Other(Box::new(included.clone()), Box::new(entry)));
                    }
                    (_, Some(slice))
                        if self.leaf().is_none_or(|(_, leaf)| (leaf.message, leaf.own) != (message, own)) =>
                    {
                        let slice = Some(Box::new(slice.clone()));
                        say(Wrong::NotAddressed(Box::new(included.clone()), slice));
                    }
                    _ => {}
                }
            }
            Found::Gap(gap) => {
                if let Some(slice) = &self.slice
                    && let Some((leaf, _)) = self.leaf()
                    && let Some(loss) = &residence.loss
                {
                    claims.push(Claim::Drop(Box::new(Drop {
                        included: included.clone(),
                        custody: self.custody.clone(),
                        fill: self.fill.clone(),
                        mailbox: self.mailbox,
                        slice: slice.clone(),
                        leaf,
                        attested,
                        anchor,
                        gap: gap.clone(),
                        home: residence.home.clone(),
                        lost: loss.value,
                        lost_path: loss.path.clone(),
                        closed: None,
                    })));
                }
            }
        }
    }
}

const WHOSE: &str = "the message itself: the slice for the mailbox's home holds none of that number, and whether the batch \
                     does, only its sender and its origin can show";

fn open(what: &str, nodes: Vec<NodeId>) -> Conclusion {
    Conclusion::Open(vec![Missing { what: what.into(), nodes }])
}
