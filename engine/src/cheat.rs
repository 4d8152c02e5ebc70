//! Cheats on demand: a node that is a correct node but for one named sin.
//!
//! Only in builds with the feature `cheat`. The rooms carry the hooks, each a line under `cfg(feature = "cheat")`, and
//! what a hook does stands beside its room (`outbox/cheat.rs`, `receiver/cheat.rs`, `router/cheat.rs`, `arrivals/base/cheat.rs`,
//! `node/cheat.rs`).
//! A node that was not told to cheat behaves as one without the feature.

use std::fmt;
use std::str::FromStr;

/// What a cheat does; everything else it does as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sin {
    /// A home does not append an entry that it owes.
    Drop,
    /// A home appends another message than the one that was ordered, and serves it so.
    Alter,
    /// A home appends two entries in the wrong order.
    WrongOrder,
    /// A home shows the owner of a mailbox another attestation than the one that it anchors under that number.
    SplitView,
    /// A home attests entries as past retention that are younger and not acknowledged.
    EarlyExpiry,
    /// An origin leaves a recipient out of the slice for its home.
    Omit,
    /// An origin's slice root commits to another message than its entries root.
    BadSlice,
    /// An origin includes a bundle that its sender did not sign.
    Forge,
    /// An origin includes two bundles of one sender in falling order.
    Misorder,
    /// An origin signs two headers with one number.
    Equivocate,
    /// A holder deletes a slice that it has signed for, and says so.
    Lose,
    /// A holder signs no receipts and no fills for slices of others.
    MuteReceipts,
    /// A home signs no attestation after its first.
    MuteAttestations,
    /// A holder signs for slices, and hands none out.
    Withhold,
    /// An old home hands over another log than the one that it attested.
    FalseHandoff,
    /// An old home answers nothing to whoever takes a mailbox over.
    WithholdHandoff,
    /// An old home goes on attesting a mailbox that has left it.
    FalseHome,
    /// A new home imports a log that its former home never attested, or does not continue the one that it imported.
    FalseImport,
    /// A new home leaves out what its import has taken over.
    ImportDrop,
    /// A new home signs a switch, and then acts as if it had not.
    DenyAcceptance,
}

impl Sin {
    /// All sins.
    pub const ALL: [Sin; 20] = [
        Sin::Drop,
        Sin::Alter,
        Sin::WrongOrder,
        Sin::SplitView,
        Sin::EarlyExpiry,
        Sin::Omit,
        Sin::BadSlice,
        Sin::Forge,
        Sin::Misorder,
        Sin::Equivocate,
        Sin::Lose,
        Sin::MuteReceipts,
        Sin::MuteAttestations,
        Sin::Withhold,
        Sin::FalseHandoff,
        Sin::WithholdHandoff,
        Sin::FalseHome,
        Sin::FalseImport,
        Sin::ImportDrop,
        Sin::DenyAcceptance,
    ];

    /// Whether only mailboxes that move give an opportunity for it.
    pub fn is_about_moves(self) -> bool {
        self >= Sin::FalseHandoff
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Sin::Drop => "drop",
            Sin::Alter => "alter",
            Sin::WrongOrder => "wrong-order",
            Sin::SplitView => "split-view",
            Sin::EarlyExpiry => "early-expiry",
            Sin::Omit => "omit",
            Sin::BadSlice => "bad-slice",
            Sin::Forge => "forge",
            Sin::Misorder => "misorder",
            Sin::Equivocate => "equivocate",
            Sin::Lose => "lose",
            Sin::MuteReceipts => "mute-receipts",
            Sin::MuteAttestations => "mute-attestations",
            Sin::Withhold => "withhold",
            Sin::FalseHandoff => "false-handoff",
            Sin::WithholdHandoff => "withhold-handoff",
            Sin::FalseHome => "false-home",
            Sin::FalseImport => "false-import",
            Sin::ImportDrop => "import-drop",
            Sin::DenyAcceptance => "deny-acceptance",
        }
    }
}

impl fmt::Display for Sin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which opportunities a cheat takes. They are counted from the node's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Every one.
    Always,
    /// The n-th, and no other.
    Only(u64),
    /// Every n-th.
    Every(u64),
}

/// One sin, and when: `drop`, `drop@3` or `drop%10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cheat {
    /// The sin.
    pub sin: Sin,
    /// Which opportunities it takes.
    pub when: When,
}

impl fmt::Display for Cheat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            When::Always => write!(f, "{}", self.sin),
            When::Only(n) => write!(f, "{}@{n}", self.sin),
            When::Every(n) => write!(f, "{}%{n}", self.sin),
        }
    }
}

/// A text that names no cheat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no cheat: write SIN, SIN@N (only the N-th opportunity) or SIN%N (every N-th), where SIN is one of {}",
    Sin::ALL.map(Sin::name).join(", ")
)]
pub struct NoCheat {
    text: String,
}

impl FromStr for Cheat {
    type Err = NoCheat;

    fn from_str(text: &str) -> Result<Cheat, NoCheat> {
        let wrong = || NoCheat { text: text.to_owned() };
        let (name, when) = match text.find(['@', '%']) {
            None => (text, When::Always),
            Some(at) => {
                let n = text[at + 1..].parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
                (&text[..at], if text[at..].starts_with('@') { When::Only(n) } else { When::Every(n) })
            }
        };
        let sin = Sin::ALL.into_iter().find(|sin| sin.name() == name).ok_or_else(wrong)?;
        Ok(Cheat { sin, when })
    }
}

/// What a room knows of the cheat: whether it yields to an opportunity, and when it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Temptation {
    cheat: Option<Cheat>,
    opportunities: u64,
    sins: Vec<u64>,
}

impl Temptation {
    pub(crate) fn of(cheat: Cheat) -> Temptation {
        Temptation { cheat: Some(cheat), ..Temptation::default() }
    }

    pub(crate) fn is(&self, sin: Sin) -> bool {
        self.cheat.is_some_and(|cheat| cheat.sin == sin)
    }

    /// An opportunity for `sin`. Returns whether it is taken; then [`Temptation::sinned`] follows where that comes about.
    pub(crate) fn yields(&mut self, sin: Sin) -> bool {
        let Some(cheat) = self.cheat.filter(|cheat| cheat.sin == sin) else { return false };
        self.opportunities += 1;
        match cheat.when {
            When::Always => true,
            When::Only(n) => self.opportunities == n,
            When::Every(n) => self.opportunities.is_multiple_of(n),
        }
    }

    /// The opportunity was none: the next one counts in its place.
    pub(crate) fn repent(&mut self) {
        self.opportunities = self.opportunities.saturating_sub(1);
    }

    pub(crate) fn sinned(&mut self, epoch: u64) {
        self.sins.push(epoch);
    }

    /// An opportunity that is a sin as soon as it is taken.
    pub(crate) fn sins(&mut self, sin: Sin, epoch: u64) -> bool {
        let yields = self.yields(sin);
        if yields {
            self.sinned(epoch);
        }
        yields
    }

    /// The sins since this was last asked.
    pub(crate) fn take(&mut self) -> Vec<(Sin, u64)> {
        let Some(cheat) = self.cheat else { return Vec::new() };
        self.sins.drain(..).map(|epoch| (cheat.sin, epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cheat_is_read_as_it_is_written() {
        for sin in Sin::ALL {
            for when in [When::Always, When::Only(3), When::Every(10)] {
                let cheat = Cheat { sin, when };
                assert_eq!(cheat.to_string().parse(), Ok(cheat));
            }
        }
        for text in ["", "dropp", "drop@", "drop@0", "drop%0", "drop@x", "drop@1%2", "@3"] {
            assert!(text.parse::<Cheat>().is_err(), "{text}");
        }
    }

    #[test]
    fn opportunities_are_taken_as_told() {
        let taken = |text: &str| {
            let mut temptation = Temptation::of(text.parse().expect("a cheat"));
            assert!(!temptation.sins(Sin::Alter, 1), "another sin is none of its own");
            (1..=6).filter(|epoch| temptation.sins(Sin::Drop, *epoch)).collect::<Vec<u64>>()
        };
        assert_eq!(taken("drop"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(taken("drop@3"), [3]);
        assert_eq!(taken("drop%2"), [2, 4, 6]);
        assert!(!Temptation::default().yields(Sin::Drop), "who was not told to cheat does not");
    }
}
