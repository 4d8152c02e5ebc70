//! Sins in the simulator: one node cheats, or two that help each other, among the same faults as always.
//!
//! A seed says who sins, how and how often ([`engine::cheat`](postroad_engine::cheat)). After the run the court
//! assembles every claim that fits what was handed out, and near misses against everybody. Each sin that was committed
//! must be proven against its sinner, by evidence of the kind of the table in docs/blame.md, unless what would prove it
//! never came about; which that was is counted. Nothing convicts an honest key.

mod court;
mod report;

use std::collections::BTreeMap;

use postroad_engine::cheat::{Cheat, Sin, When};
use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::challenge::Lost;
use postroad_protocol::evidence::{Claim, Fault, Verdict};
use postroad_protocol::moving::Handoff;
use postroad_protocol::state::PendingKey;
use postroad_protocol::{MailboxId, NodeId, Signed};

use crate::framing::history::{History, View};
use crate::framing::near::Prosecutor;
use crate::sim::rng::Rng;
use crate::sim::{Sinful, Sinners, sin};
use court::Court;

pub use report::Report;

/// So many near misses are made of each run.
const NEAR_MISSES: usize = 60;
/// In so many of a thousand runs there are two sinners.
const TWO_OF_1000: u64 = 400;

/// What two sinners do together.
const PAIRS: [(Sin, Sin); 12] = [
    (Sin::Omit, Sin::MuteReceipts),
    (Sin::BadSlice, Sin::Withhold),
    (Sin::Drop, Sin::Withhold),
    (Sin::Equivocate, Sin::Withhold),
    (Sin::Drop, Sin::Omit),
    (Sin::Forge, Sin::Alter),
    (Sin::Lose, Sin::Withhold),
    (Sin::SplitView, Sin::MuteAttestations),
    (Sin::FalseHandoff, Sin::FalseImport),
    (Sin::FalseHome, Sin::ImportDrop),
    (Sin::WithholdHandoff, Sin::FalseImport),
    (Sin::WithholdHandoff, Sin::DenyAcceptance),
];

/// The fault that a sin is proven as; none where it leaves no contradiction behind.
pub fn fault_of(sin: Sin) -> Option<Fault> {
    match sin {
        Sin::Drop => Some(Fault::Drop),
        Sin::Alter | Sin::WrongOrder => Some(Fault::WrongEntry),
        Sin::SplitView => Some(Fault::SplitView),
        Sin::EarlyExpiry => Some(Fault::EarlyExpiry),
        Sin::Omit => Some(Fault::Omission),
        Sin::BadSlice => Some(Fault::BadSlice),
        Sin::Forge => Some(Fault::Forgery),
        Sin::Misorder => Some(Fault::Misordering),
        Sin::Equivocate => Some(Fault::Equivocation),
        Sin::Lose => Some(Fault::Loss),
        Sin::FalseHandoff => Some(Fault::FalseHandoff),
        Sin::FalseHome => Some(Fault::FalseHome),
        Sin::FalseImport => Some(Fault::FalseImport),
        Sin::ImportDrop => Some(Fault::Drop),
        Sin::MuteReceipts | Sin::MuteAttestations | Sin::Withhold => None,
        Sin::WithholdHandoff | Sin::DenyAcceptance => None,
    }
}

/// What became of one sinner.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What it was told to do, and its partner.
    pub cheat: Cheat,
    /// What its partner was told to do.
    pub partner: Option<Sin>,
    /// How often it did.
    pub sinned: u64,
    /// How many verdicts of the sin's kind there are.
    pub proven: u64,
    /// Of these, how many honest nodes found by themselves.
    pub found: u64,
    /// How many verdicts of other kinds there are.
    pub others: BTreeMap<Fault, u64>,
    /// Between the epoch of a verdict and the one that completed its evidence, at most.
    pub epochs: u64,
    /// Why nothing is proven, though it sinned.
    pub excuse: Option<&'static str>,
}

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Who sinned.
    pub trials: Vec<Trial>,
    /// Claims against somebody that cleared him.
    pub cleared: u64,
    /// What does not hold.
    pub failure: Option<String>,
}

/// Who sins in a seed, and how.
fn cheats(seed: u64, only: Option<Sin>, moves: bool) -> Vec<Cheat> {
    let mut rng = Rng::new(seed ^ 0x5149_5350);
    let is_meant = |sin: &Sin| !moves || sin.is_about_moves();
    let pairs: Vec<(Sin, Sin)> = PAIRS.into_iter().filter(|(one, _)| is_meant(one)).collect();
    let all: Vec<Sin> = Sin::ALL.into_iter().filter(is_meant).collect();
    let (pair, alone) = (*rng.pick(&pairs), *rng.pick(&all));
    let sins = match (only, rng.permille(TWO_OF_1000)) {
        (Some(sin), _) => vec![sin],
        (None, true) => vec![pair.0, pair.1],
        (None, false) => vec![alone],
    };
    let when = |sin: Sin, rng: &mut Rng| {
        // A mailbox moves a few times in a run.
        let many = if sin.is_about_moves() { 2 } else { 6 };
        match rng.below(3) {
            0 => When::Only(rng.within(1..=many)),
            1 => When::Every(rng.within(2..=many.min(5))),
            _ => When::Always,
        }
    };
    sins.into_iter().map(|sin| Cheat { sin, when: when(sin, &mut rng) }).collect()
}

/// Runs one seed; with `only`, one node commits this sin; with `moves`, sins are about moves. Owners move their mailboxes
/// where a sin is about that.
pub fn run(seed: u64, only: Option<Sin>, moves: bool, trace: bool) -> Outcome {
    let cheats = cheats(seed, only, moves);
    let moves = cheats.iter().any(|cheat| cheat.sin.is_about_moves());
    let Sinful { harvest, sinners } = sin(seed, &cheats, moves, trace);
    let violation = harvest.violation.as_ref().map(ToString::to_string);
    let history = History::told(harvest);
    let court = Court::held(&history, &sinners);
    let mut failure = violation;
    let convicted = court.verdicts.values().map(|(verdict, _)| verdict.clone());
    let near = near_misses(seed, &history, &sinners);
    let framed = convicted.chain(near).find(|verdict| !is_just(verdict, &sinners));
    if let Some(Verdict { fault, culprit, epoch, .. }) = framed {
        failure = failure.or(Some(format!("honest {culprit} is convicted of {fault} in epoch {epoch}")));
    }
    if let Some(why) = court.unproven.first() {
        failure = failure.or(Some(format!("what was signed proves nothing: {why}")));
    }
    let partner = |at: usize| (cheats.len() == 2).then(|| cheats[1 - at].sin);
    let trials: Vec<Trial> = (sinners.keys.iter())
        .map(|(node, cheat)| {
            let at = cheats.iter().position(|other| other == cheat).unwrap_or(0);
            trial(*node, *cheat, partner(at), &court, &history, &sinners)
        })
        .collect();
    for trial in &trials {
        if trial.sinned > 0 && fault_of(trial.cheat.sin).is_some() && trial.proven == 0 && trial.excuse.is_none() {
            failure = failure.or(Some(format!("{} was committed, and is not proven", trial.cheat)));
        }
    }
    Outcome { seed, trials, cleared: court.cleared, failure }
}

/// Whether a verdict is against a sinner, or what the holder itself says that it lost when its disk was set back.
fn is_just(verdict: &Verdict, sinners: &Sinners) -> bool {
    sinners.keys.contains_key(&verdict.culprit)
        || verdict.fault == Fault::Loss && sinners.restored.contains(&verdict.culprit)
}

/// What near misses convict of, made of this run alone.
fn near_misses(seed: u64, history: &History, sinners: &Sinners) -> Vec<Verdict> {
    let mut prosecutor = Prosecutor::new(std::slice::from_ref(history), Rng::new(seed ^ 0x6E65_6172));
    let mut claims: Vec<Claim> = Vec::new();
    for _ in 0..NEAR_MISSES {
        let fault = *prosecutor.rng.pick(&Fault::ALL);
        claims.extend(prosecutor.claim(fault).map(|(_, claim)| claim));
    }
    let federation = &history.federation;
    claims.retain(|claim| !sinners.keys.contains_key(&claim.accused(federation)));
    claims.iter().filter_map(|claim| claim.judge(federation).ok()).collect()
}

fn trial(
    node: NodeId,
    cheat: Cheat,
    partner: Option<Sin>,
    court: &Court<'_>,
    history: &History,
    sinners: &Sinners,
) -> Trial {
    let wanted = fault_of(cheat.sin);
    let (mut proven, mut epochs, mut others) = (0, 0, BTreeMap::new());
    for (verdict, complete) in court.verdicts.values().filter(|(verdict, _)| verdict.culprit == node) {
        if Some(verdict.fault) == wanted {
            proven += 1;
            epochs = epochs.max(complete.saturating_sub(verdict.epoch));
        } else {
            *others.entry(verdict.fault).or_insert(0) += 1;
        }
    }
    let is_found = |claim: &&Claim| claim.accused(&history.federation) == node && Some(claim.fault()) == wanted;
    let sins: Vec<u64> =
        sinners.sinned.iter().filter(|sinned| sinned.node == node).map(|sinned| sinned.epoch).collect();
    // One sin that could have been proven is enough.
    let excuses = || sins.iter().map(|epoch| excuse(node, cheat, *epoch, history, sinners)).collect::<Option<Vec<_>>>();
    let excuse = if proven > 0 { None } else { excuses().and_then(|excuses| excuses.first().copied()) };
    let found = sinners.accusations.iter().filter(is_found).count() as u64;
    Trial { cheat, partner, sinned: sins.len() as u64, proven, found, others, epochs, excuse }
}

/// Why a sin of this epoch cannot be proven.
fn excuse(node: NodeId, cheat: Cheat, epoch: u64, history: &History, sinners: &Sinners) -> Option<&'static str> {
    let restored = sinners.restored.contains(&node).then_some("set back");
    let own = |view: &&usize| history.views[**view].said.attestation.body.node == node;
    match cheat.sin {
        Sin::Drop | Sin::Alter | Sin::WrongOrder | Sin::EarlyExpiry => {
            let reaches = |view: &usize| history.views[*view].said.attestation.body.epoch >= epoch;
            let anchored = history.anchored.iter().filter(own).any(reaches);
            if anchored { restored } else { Some("not attested") }
        }
        Sin::SplitView => {
            let number = |view: &usize| {
                let body = &history.views[*view].said.attestation.body;
                (body.epoch == epoch).then_some(body.number)
            };
            let number = history.anchored.iter().filter(own).find_map(number);
            let Some(number) = number else { return Some("not anchored") };
            let is_shown = sinners.shown.values().any(|shown| {
                let known = history.views.iter().any(|view| view.said.attestation == shown.attestation);
                shown.attestation.body.number == number && shown.attestation.body.node == node && !known
            });
            (!is_shown).then_some("not shown")
        }
        Sin::Omit | Sin::Forge | Sin::Misorder => {
            let is_ordered = history.included_of(&node, epoch);
            if is_ordered { None } else { Some("not ordered") }
        }
        Sin::BadSlice => {
            let is_handed = sinners.bent.iter().any(|parcel| parcel.header.body.origin == node);
            (!is_handed).then_some("handed to nobody")
        }
        Sin::Equivocate => {
            let mut faces = sinners.faces.iter().filter(|(digest, _)| !history.is_written(digest));
            let is_seen = faces.any(|(_, face)| face.body.origin == node && face.body.routing_epoch + 1 == epoch);
            if is_seen && history.included_of(&node, epoch) { None } else { Some("one header seen") }
        }
        Sin::Lose => {
            let mut words = history.losses.iter().filter(|(_, lost)| lost.body.holder == node).peekable();
            let is_owed = |(epoch, lost): &(u64, Signed<Lost>)| {
                let key = PendingKey { destination: lost.body.destination, header: lost.body.header };
                let state = &history.states[*epoch as usize];
                state.pending(&key).is_some() || state.lost(&key).is_some()
            };
            match words.peek() {
                None => Some("no word"),
                Some(_) => (!words.any(is_owed)).then_some("filled meanwhile"),
            }
        }
        Sin::FalseHandoff => {
            let said = |(handoff, attested): &(Signed<Handoff>, MailboxAttestation)| {
                handoff.body.node == node && handoff.body.log != attested.log.log
            };
            (!sinners.handoffs.values().any(said)).then_some("handed to nobody")
        }
        Sin::FalseHome => {
            let names = |view: &View| {
                let body = &view.said.attestation.body;
                let home = |mailbox| history.states.get(body.epoch as usize).and_then(|state| state.home(mailbox));
                body.node == node && view.said.map.iter().any(|(mailbox, _)| home(mailbox) != Some(node))
            };
            (!history.views.iter().any(names)).then_some("not attested")
        }
        Sin::FalseImport => (!imports_falsely(&node, history)).then_some("not said"),
        Sin::ImportDrop => {
            let closed = history.imports().filter(|(of, import)| *of == epoch && import.body.home == node);
            let mut closed = closed.map(|(_, import)| import.body.mailbox);
            let is_shown = |mailbox: MailboxId| {
                let lives_there = |epoch: u64| {
                    let known = history.states.get(epoch as usize).and_then(|state| state.mailbox(&mailbox));
                    known.is_some_and(|known| known.home == node && known.since < epoch)
                };
                history.anchored.iter().filter(own).map(|view| &history.views[*view]).any(|view| {
                    let said = view.said.map.get(&mailbox).is_some_and(|said| !history.log(said).is_empty());
                    let anchor = view.anchor.as_ref().map_or(0, |anchor| anchor.cut.header.epoch);
                    view.said.attestation.body.epoch >= epoch && lives_there(anchor) && said
                })
            };
            if closed.all(is_shown) { restored } else { Some("not attested") }
        }
        Sin::MuteReceipts | Sin::MuteAttestations | Sin::Withhold => None,
        Sin::WithholdHandoff | Sin::DenyAcceptance => None,
    }
}

/// Whether a node has said that it continues a log that was not attested so, or attested one that does not continue what
/// it said that it continues.
fn imports_falsely(node: &NodeId, history: &History) -> bool {
    history.imports().filter(|(_, import)| import.body.home == *node).any(|(epoch, import)| {
        let (mailbox, Some(base)) = (import.body.mailbox, import.body.base) else { return false };
        let log = |view: &View| view.said.map.get(&mailbox).map(|said| said.log);
        let is_base = |view: &&View| view.said.attestation.digest(&history.federation) == base.attestation.digest;
        let is_false = history.views.iter().find(is_base).is_some_and(|view| log(view) != Some(base.log));
        let ends = |epoch: u64| {
            let known = history.states.get(epoch as usize).and_then(|state| state.mailbox(&mailbox));
            known.is_none_or(|known| known.home != *node)
        };
        is_false
            || history.views.iter().any(|view| {
                let body = &view.said.attestation.body;
                let Some(log) = log(view).filter(|_| body.node == *node && body.epoch >= epoch) else { return false };
                let is_known = base.log.size > log.size || !history.leaves_of(&log.root).is_empty();
                let continues = history.leaves_of(&log.root).starts_with(history.leaves_of(&base.log.root));
                is_known && !(epoch..=body.epoch).any(ends) && (base.log.size > log.size || !continues)
            })
    })
}
