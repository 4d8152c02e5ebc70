//! The way of a message, hop by hop, with what each signed.

use super::{Conclusion, Explanation, Found};
use crate::crypto::PublicKey;
use crate::evidence::Fault;
use crate::genesis::Federation;
use crate::receipt::Receipt;
use crate::signed::Verify;

/// A hop's part in the way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Who wrote it.
    Sender,
    /// Who sealed the batch.
    Origin,
    /// Who ordered it.
    Sequencer,
    /// Who held the slice while its destination was away.
    Custodian,
    /// For whom the slice is.
    Destination,
    /// The destination again, as the keeper of the mailbox's log.
    Home,
}

impl Stage {
    /// A short stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Stage::Sender => "sender",
            Stage::Origin => "origin",
            Stage::Sequencer => "sequencer",
            Stage::Custodian => "custodian",
            Stage::Destination => "destination",
            Stage::Home => "home",
        }
    }
}

/// Whether a hop did its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// It signed what it had to.
    Ok,
    /// Its statement is not there: nobody supplied it, or it has not made it.
    Missing,
    /// It broke its word.
    Wrong,
}

/// One hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Its part.
    pub stage: Stage,
    /// Its key, as far as it is known.
    pub who: Option<PublicKey>,
    /// What it signed, in words.
    pub signed: String,
    /// The epoch that settled it.
    pub epoch: Option<u64>,
    /// Whether it did its part.
    pub state: HopState,
}

impl Hop {
    fn new(stage: Stage, who: impl Into<Option<PublicKey>>, signed: impl Into<String>) -> Hop {
        Hop { stage, who: who.into(), signed: signed.into(), epoch: None, state: HopState::Ok }
    }

    fn at(self, epoch: u64) -> Hop {
        Hop { epoch: Some(epoch), ..self }
    }

    fn missing(self) -> Hop {
        Hop { state: HopState::Missing, ..self }
    }
}

impl Explanation {
    /// The way of the message. Parts that do not hold count as missing.
    pub fn hops(&self, federation: &Federation) -> Vec<Hop> {
        let mut sound = self.clone();
        sound.retain_sound(federation);
        let mut hops = sound.way(federation);
        if let Conclusion::Guilty(evidence) = sound.conclude(federation) {
            let verdict = evidence.verdict();
            let stage = stage_of(verdict.fault);
            let mut of_culprit = hops.iter_mut().filter(|hop| hop.who.is_none_or(|who| who == verdict.culprit));
            if let Some(hop) = of_culprit.find(|hop| hop.stage == stage) {
                hop.state = HopState::Wrong;
                hop.signed = format!("{}: {}", hop.signed, verdict.fault);
            }
        }
        hops
    }

    fn way(&self, federation: &Federation) -> Vec<Hop> {
        let mut hops = Vec::new();
        hops.push(match &self.disclosed {
            None => Hop::new(Stage::Sender, None, "the bundle, which nobody has shown").missing(),
            Some(disclosed) => {
                let bundle = &disclosed.message.bundle.signed;
                let counter = bundle.body.counter.saturating_add(u64::from(disclosed.message.index));
                let hop = Hop::new(Stage::Sender, bundle.body.sender, format!("the message with counter {counter}"));
                if bundle.verify(federation).is_ok() { hop } else { hop.missing() }
            }
        });
        let Some(included) = &self.included else {
            hops.push(Hop::new(Stage::Origin, None, "the header, which nobody has shown").missing());
            hops.push(Hop::new(Stage::Sequencer, federation.sequencer(), "the cut, which nobody has shown").missing());
            return hops;
        };
        let header = included.header();
        let sealed = format!("header {}, routed as of epoch {}", header.number, header.routing_epoch);
        hops.push(Hop::new(Stage::Origin, header.origin, sealed).at(included.epoch()));
        let ordered = format!("cut {}, which has the header at position {}", included.epoch(), included.order.position);
        hops.push(Hop::new(Stage::Sequencer, federation.sequencer(), ordered).at(included.epoch()));
        let Some(case) = self.case(federation) else { return hops };
        let Some(home) = case.home else {
            hops.push(Hop::new(Stage::Destination, None, "unknown: where the mailbox lives").missing());
            return hops;
        };
        if let Conclusion::Moved { from, since, .. } = self.conclude(federation) {
            let left = format!("nothing for it any more: the mailbox left in epoch {since}");
            hops.push(Hop::new(Stage::Destination, from, left).at(since));
            return hops;
        }
        if case.slice.is_none() {
            hops.push(Hop::new(Stage::Destination, home, "nothing: the header has no slice for it").missing());
            return hops;
        }
        let receipts = case.receipts.unwrap_or_default();
        for receipt in receipts.iter().filter(|receipt| receipt.item.request.is_some()) {
            hops.push(Hop::new(Stage::Custodian, receipt.holder(), "a receipt for the slice").at(included.epoch()));
        }
        let own = receipts.iter().find(|receipt| receipt.item.request.is_none());
        hops.push(match (own, &self.fill) {
            (Some(receipt), _) => {
                Hop::new(Stage::Destination, home, self.took("a receipt", receipt)).at(included.epoch())
            }
            (None, Some(fill)) => {
                Hop::new(Stage::Destination, home, self.took("a fill", &fill.fill)).at(fill.cut.header.epoch)
            }
            (None, None) if case.receipts.is_some() => {
                Hop::new(Stage::Destination, home, "nothing yet: the slice is pending").missing()
            }
            (None, None) => Hop::new(Stage::Destination, home, "a receipt, which nobody has shown").missing(),
        });
        hops.push(match &self.log {
            None => Hop::new(Stage::Home, home, "an attestation of its log, which nobody has shown").missing(),
            Some(log) => {
                let body = &log.attested.attestation.body;
                let word = format!("attestation {}, complete up to epoch {}", body.number, body.epoch);
                match &log.found {
                    Found::Entry(entry) => {
                        Hop::new(Stage::Home, home, format!("{word}, with it as entry {}", entry.index)).at(body.epoch)
                    }
                    Found::Gap(_) => {
                        Hop::new(Stage::Home, home, format!("{word}, without it")).at(body.epoch).missing()
                    }
                }
            }
        });
        hops
    }

    fn took(&self, what: &str, receipt: &Receipt) -> String {
        let mut refused = receipt.item.refused.iter();
        match refused.find(|leaf| (leaf.index, leaf.mailbox) == (self.seq.index, self.mailbox)) {
            Some(leaf) => format!("{what} for the slice, which refuses the message ({})", leaf.reason.code()),
            None if self.lost.is_some() => format!("{what} for the slice, and later that it lost it"),
            None => format!("{what} for the slice"),
        }
    }
}

/// Which of its parts a fault is about.
fn stage_of(fault: Fault) -> Stage {
    match fault {
        Fault::Equivocation
        | Fault::Omission
        | Fault::BadSlice
        | Fault::Forgery
        | Fault::Misordering
        | Fault::Stale => Stage::Origin,
        Fault::Drop
        | Fault::WrongEntry
        | Fault::EarlyExpiry
        | Fault::SplitView
        | Fault::FalseHandoff
        | Fault::FalseImport
        | Fault::FalseHome => Stage::Home,
        Fault::Loss => Stage::Destination,
        Fault::InvalidCut | Fault::SplitOrder => Stage::Sequencer,
    }
}
