//! Framing: whatever anybody assembles from what honest nodes and clients signed convicts nobody.
//!
//! Honest histories come from the simulator ([`sim::harvest`](crate::sim::harvest)): with crashes, restarts, disks that
//! were set back, mail that was refused, pending, filled, expired and lost, in several incarnations and federations.
//! From all that was signed in them claims are made, of every kind: near misses, that are right in everything but one
//! thing; crosses, in which a part of one claim stands in the place of another's; and mutations of fields and of bits.
//! Each is encoded, decoded and judged. A verdict is a defect, unless it is a *loss* that the holder itself has settled.
//!
//! Combination `n` of a seed is the same whenever it is made, so that one line finds it again.

pub(crate) mod history;
pub(crate) mod near;
mod report;
mod tree;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use postroad_protocol::Federation;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::evidence::{Claim, ClaimError, Cleared, Fault, Verdict};

use crate::sim::Story;
use crate::sim::rng::Rng;
use history::History;
use near::Prosecutor;
use tree::Tree;

pub use report::{Conviction, Report};

/// So many combinations are made of the same histories.
const OF_ONE_TELLING: u64 = 20_000;
/// So many convictions are kept.
const KEPT: usize = 16;

/// A defect that is planted, so that the generator shows that it finds such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Signatures do not cover the federation: two histories of the same keys are told as of one.
    NoFederation,
    /// A pair of two incarnations counts as one of one.
    NoIncarnation,
    /// What is pending is taken for owed.
    PendingIsOwed,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 3] = [Flaw::NoFederation, Flaw::NoIncarnation, Flaw::PendingIsOwed];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::NoFederation => "no-federation",
            Flaw::NoIncarnation => "no-incarnation",
            Flaw::PendingIsOwed => "pending-is-owed",
        }
    }

    /// The flaw of this name.
    pub fn named(name: &str) -> Option<Flaw> {
        Flaw::ALL.into_iter().find(|flaw| flaw.name() == name)
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from this.
    pub seed: u64,
    /// The first combination.
    pub from: u64,
    /// How many.
    pub combinations: u64,
    /// How many threads.
    pub jobs: usize,
    /// What is planted.
    pub flaw: Option<Flaw>,
    /// Whether the first conviction ends it.
    pub stop: bool,
}

/// What became of one combination.
enum Answer {
    NotDecoded,
    Unproven,
    Cleared(Cleared),
    /// A holder's own word.
    Lost,
    Convicted(Verdict),
}

/// Makes and judges combinations.
pub fn run(options: &Options) -> Report {
    let end = options.from + options.combinations;
    let next = AtomicU64::new(options.from / OF_ONE_TELLING);
    let stopped = AtomicBool::new(false);
    let mut report = Report::default();
    thread::scope(|scope| {
        let work = || {
            let mut report = Report::default();
            loop {
                let telling = next.fetch_add(1, Ordering::Relaxed);
                let first = telling * OF_ONE_TELLING;
                if first >= end || stopped.load(Ordering::Relaxed) {
                    return report;
                }
                let told = Told::new(options, telling);
                report.stories += told.histories.len() as u64;
                report.cut_short.extend(told.histories.iter().filter_map(|history| history.cut_short.clone()));
                for number in first.max(options.from)..(first + OF_ONE_TELLING).min(end) {
                    told.combination(number, &mut report);
                    if options.stop && report.convictions.len() == 1 {
                        stopped.store(true, Ordering::Relaxed);
                        return report;
                    }
                }
            }
        };
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            report.add(worker.join().expect("no claim makes the judge panic"));
        }
    });
    report
}

/// Histories, and what is made of them.
struct Told {
    seed: u64,
    flaw: Option<Flaw>,
    histories: Vec<History>,
}

impl Told {
    /// Histories in pairs of the same keys: two that the storm alone shakes, two with everything.
    fn new(options: &Options, telling: u64) -> Told {
        let base = options.seed.wrapping_mul(1 << 24).wrapping_add(telling * 8);
        let second = if options.flaw == Some(Flaw::NoFederation) { "first" } else { "second" };
        let mut histories = Vec::new();
        for pair in 0..3 {
            for (at, name) in ["first", second].into_iter().enumerate() {
                let seed = base + 2 * pair + at as u64;
                let calm =
                    Story { keys: base + pair, seed, name, retention_ms: 1 << 40, quota: 1 << 20, careless: false };
                let story = match pair {
                    0 => calm,
                    1 => Story { retention_ms: 2_500, quota: 24, careless: true, ..calm },
                    _ => Story { retention_ms: 1 << 40, quota: 48, careless: true, ..calm },
                };
                histories.push(History::of(&story));
            }
        }
        Told { seed: options.seed, flaw: options.flaw, histories }
    }

    /// One combination.
    fn combination(&self, number: u64, report: &mut Report) {
        let rng = Rng::new(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number);
        let mut prosecutor = Prosecutor::new(&self.histories, rng);
        let Some((at, kind, claim)) = some_claim(&mut prosecutor, None) else { return };
        let (bytes, assembled) = combined(&mut prosecutor, kind, &claim);
        let rng = &mut prosecutor.rng;
        let judge = match rng.below(20) {
            0 => rng.index(self.histories.len()),
            1 | 2 => at ^ 1,
            _ => at,
        };
        let history = &self.histories[judge];
        let (answer, claim) = match decode::<Claim>(&bytes) {
            Ok(claim) => (self.judge(&claim, history), Some(claim)),
            Err(error) => {
                assert!(!assembled, "what was encoded decodes: {error}");
                (Answer::NotDecoded, None)
            }
        };
        let kind = claim.as_ref().map_or(kind, Claim::fault);
        report.count(kind, &answer);
        if let (Answer::Convicted(verdict), Some(claim)) = (answer, claim)
            && report.convictions.len() < KEPT
        {
            let federation = &history.federation;
            let (file, genesis) = (claim.to_file(federation), federation.genesis().to_text());
            report.convictions.push(Conviction { number, verdict, claim, file, genesis });
        }
    }

    fn judge(&self, claim: &Claim, history: &History) -> Answer {
        let federation: &Federation = &history.federation;
        match (claim.judge(federation), self.flaw) {
            (Ok(verdict), _) if is_loss(claim, history) => {
                debug_assert_eq!(verdict.fault, Fault::Loss);
                Answer::Lost
            }
            (Ok(verdict), _) => Answer::Convicted(verdict),
            (Err(ClaimError::Cleared(Cleared::OtherIncarnation)), Some(Flaw::NoIncarnation))
            | (Err(ClaimError::Cleared(Cleared::Pending { .. })), Some(Flaw::PendingIsOwed)) => {
                let (fault, culprit) = (claim.fault(), claim.accused(federation));
                Answer::Convicted(Verdict { fault, culprit, epoch: 0, seq: None, mailbox: None })
            }
            (Err(ClaimError::Cleared(why)), _) => Answer::Cleared(why),
            (Err(_), _) => Answer::Unproven,
        }
    }
}

/// Whether a cut of the history has settled that very word.
fn is_loss(claim: &Claim, history: &History) -> bool {
    matches!(claim, Claim::Loss(loss) if history.losses.iter().any(|(_, lost)| lost.body == loss.lost.body))
}

/// A near miss, of one kind or of any.
fn some_claim(prosecutor: &mut Prosecutor<'_>, kind: Option<Fault>) -> Option<(usize, Fault, Claim)> {
    (0..32).find_map(|_| {
        let kind = kind.unwrap_or_else(|| *prosecutor.rng.pick(&Fault::ALL));
        let (at, claim) = prosecutor.claim(kind)?;
        Some((at, kind, claim))
    })
}

/// The bytes of a claim, as it is, crossed or mutated; and whether it is still as it was assembled.
fn combined(prosecutor: &mut Prosecutor<'_>, kind: Fault, claim: &Claim) -> (Vec<u8>, bool) {
    let mut bytes = encode(claim);
    let way = prosecutor.rng.below(20);
    match way {
        0..=9 => return (bytes, true),
        10..=15 => {
            let mut tree = Tree::of(&bytes);
            let of = prosecutor.rng.permille(800).then_some(kind);
            if let Some((.., other)) = some_claim(prosecutor, of) {
                let other = Tree::of(&encode(&other));
                for _ in 0..1 + prosecutor.rng.below(3) {
                    tree.cross(&other, &mut prosecutor.rng);
                }
            }
            if way == 15 {
                tree.mutate(&mut prosecutor.rng);
            }
            bytes = tree.bytes();
        }
        16 | 17 => {
            let mut tree = Tree::of(&bytes);
            tree.mutate(&mut prosecutor.rng);
            bytes = tree.bytes();
        }
        _ => {
            for _ in 0..1 + prosecutor.rng.below(2) {
                let at = prosecutor.rng.index(bytes.len());
                bytes[at] ^= 1 << prosecutor.rng.below(8);
            }
        }
    }
    (bytes, false)
}
