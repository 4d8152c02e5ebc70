//! What came of all combinations.

use std::collections::BTreeMap;

use postroad_protocol::evidence::{Claim, Cleared, Fault, Verdict};

use super::Answer;

/// Somebody who was honest, convicted.
#[derive(Clone, Debug)]
pub struct Conviction {
    /// Which combination.
    pub number: u64,
    /// What was found.
    pub verdict: Verdict,
    /// Of this claim.
    pub claim: Claim,
    /// Its file.
    pub file: Vec<u8>,
    /// The genesis with which it was judged, as a file has it.
    pub genesis: String,
}

/// Counts of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Made.
    pub combinations: u64,
    /// That decoded.
    pub decoded: u64,
    /// Whose statements hold, and the accused is innocent.
    pub cleared: u64,
    /// That prove nothing.
    pub unproven: u64,
    /// Losses that the holder has settled itself.
    pub losses: u64,
    /// Convictions of the honest.
    pub verdicts: u64,
}

/// Counts, and what should not be.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kind.
    pub kinds: BTreeMap<Fault, Counts>,
    /// How often each reason cleared somebody of each kind.
    pub reasons: BTreeMap<(Fault, String), u64>,
    /// How many stories were told.
    pub stories: u64,
    /// Those that ended before their time, and why.
    pub cut_short: Vec<String>,
    /// The first convictions.
    pub convictions: Vec<Conviction>,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.combinations += other.combinations;
        self.decoded += other.decoded;
        self.cleared += other.cleared;
        self.unproven += other.unproven;
        self.losses += other.losses;
        self.verdicts += other.verdicts;
    }
}

impl Report {
    pub(super) fn count(&mut self, kind: Fault, answer: &Answer) {
        let counts = self.kinds.entry(kind).or_default();
        counts.combinations += 1;
        counts.decoded += u64::from(!matches!(answer, Answer::NotDecoded));
        match answer {
            Answer::NotDecoded => {}
            Answer::Unproven => counts.unproven += 1,
            Answer::Cleared(why) => {
                counts.cleared += 1;
                *self.reasons.entry((kind, name_of(why))).or_default() += 1;
            }
            Answer::Lost => counts.losses += 1,
            Answer::Convicted(_) => counts.verdicts += 1,
        }
    }

    pub(super) fn add(&mut self, other: Report) {
        for (kind, counts) in &other.kinds {
            self.kinds.entry(*kind).or_default().add(counts);
        }
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.stories += other.stories;
        self.cut_short.extend(other.cut_short);
        self.convictions.extend(other.convictions);
        self.convictions.sort_by_key(|conviction| conviction.number);
    }

    /// All kinds together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.kinds.values().for_each(|counts| total.add(counts));
        total
    }
}

/// The reason's name alone.
fn name_of(why: &Cleared) -> String {
    let text = format!("{why:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}
