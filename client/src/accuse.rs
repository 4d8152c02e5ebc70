//! Claims from what a client has: entries with their proofs, attestations, cuts.
//!
//! Each function gives [`Evidence`], judged, or nothing: what does not convict is not handed on. What a single home
//! shows to a single client can be enough; where another view is needed, [`crate::explain`] asks for it.

use postroad_protocol::attestation::{Anchor, Attestation, LogLeaf, MailboxAttestation};
use postroad_protocol::batch::bundle_leaf;
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::{Entry, EntryProof};
use postroad_protocol::evidence::{
    Attested, Broken, BundleAt, Claim, EarlyExpiry, Entry as Held, Evidence, FalseBase, FalseHome, FalseImport,
    Forgery, Included, LeafAt, Misordering, NotContinued, Refuted, SplitLogs, SplitOrder, SplitView, Stale, Wrong,
    WrongEntry,
};
use postroad_protocol::explanation::{Disclosed, Explanation, LogWord};
use postroad_protocol::moving::Import;
use postroad_protocol::state::HomeProof;
use postroad_protocol::{Federation, MailboxId, Seq, Signed};

/// The evidence that a claim is, if it holds.
pub fn judged(claim: Claim, federation: &Federation) -> Option<Evidence> {
    Evidence::new(claim, federation).ok()
}

/// An entry's header and bundle, as the cut has them.
fn parts(entry: &EntryProof, cut: &CertifiedCut) -> (Included, BundleAt) {
    let included = Included { cut: cut.clone(), order: entry.order.clone() };
    let path = entry.bundle_path.clone();
    (included, BundleAt { ordinal: entry.ordinal, signed: entry.bundle.clone(), path })
}

/// An entry whose bundle its sender did not sign for this origin, or that was routed past its valid-until. The origin is
/// guilty, whoever serves it.
pub fn entry(entry: &EntryProof, cut: &CertifiedCut, federation: &Federation) -> Option<Evidence> {
    let (included, bundle) = parts(entry, cut);
    let stale = Stale { included: included.clone(), bundle: bundle.clone() };
    judged(Claim::Stale(Box::new(stale)), federation).or_else(|| {
        let forgery = Forgery { included, bundle, unregistered: None };
        judged(Claim::Forgery(Box::new(forgery)), federation)
    })
}

/// Two entries of one sender through one origin whose counters do not rise, in any order.
pub fn misordered(
    one: (&EntryProof, &CertifiedCut),
    other: (&EntryProof, &CertifiedCut),
    federation: &Federation,
) -> Option<Evidence> {
    let place = |entry: &EntryProof| (entry.order.header.body.number, entry.ordinal);
    let ((first, cut), (second, later_cut)) = if place(one.0) <= place(other.0) { (one, other) } else { (other, one) };
    let ((before, earlier), (after, later)) = (parts(first, cut), parts(second, later_cut));
    let is_same = before.digest(federation) == after.digest(federation);
    let claim = Misordering { before, earlier, after: (!is_same).then_some(after), later };
    judged(Claim::Misordering(Box::new(claim)), federation)
}

/// The leaf of an entry as its home served it, whether or not the entry verifies: what the home has signed, if its
/// attested log has this leaf.
pub fn served_leaf(entry: &Entry, cut: &CertifiedCut, federation: &Federation) -> Option<LogLeaf> {
    let found = Disclosed::of(&entry.proof).ok()?;
    let order = &entry.proof.order;
    let bundle = &found.message.bundle;
    let leaf = bundle_leaf(&bundle.signed, federation.id());
    let (count, of) = (u64::from(bundle.signed.body.count), u64::from(order.header.body.entries.bundles));
    let (_, first) = bundle.path.resolve(count, &leaf, u64::from(bundle.ordinal), of)?;
    let index = first.checked_add(u64::from(found.message.index))?;
    let seq = Seq { epoch: cut.header.epoch, position: order.position, index };
    Some(LogLeaf { settled: entry.settled, seq, message: found.message.message, own: found.recipient.own })
}

/// A home's word on a mailbox's log, and the header that made it final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalWord {
    attested: Attested,
    anchor: Anchor,
}

impl FinalWord {
    /// Of an attestation; none if it is not final.
    pub fn of(attestation: &MailboxAttestation) -> Option<FinalWord> {
        Some(FinalWord { attested: attestation.clone().into(), anchor: attestation.anchor.clone()? })
    }
}

impl From<&LogWord> for FinalWord {
    fn from(word: &LogWord) -> FinalWord {
        FinalWord { attested: word.attested.clone(), anchor: word.anchor.clone() }
    }
}

/// An entry of a finally attested log that is not the message at its number, as `truth` (the entries, from the sender or
/// the origin, or what the slice holds) shows.
pub fn wrong_entry(word: FinalWord, entry: &LeafAt, truth: &Explanation, federation: &Federation) -> Option<Evidence> {
    let included = Box::new(truth.included.clone()?);
    let found = truth.disclosed.as_ref();
    let home = &truth.residence.as_ref()?.home;
    let wrong = match found {
        Some(found) if found.message.message != entry.leaf.message => {
            Wrong::Other(included, Box::new(Held::Other(Box::new(found.message.clone()))))
        }
        _ => Wrong::NotAddressed(included, truth.slice.clone().map(Box::new)),
    };
    wrong_in(truth.mailbox, word, entry, wrong, home, federation)
}

/// Two entries that stand next to each other in a finally attested log, the later not after the earlier in log order.
pub fn out_of_order(
    mailbox: MailboxId,
    word: FinalWord,
    entry: &LeafAt,
    next: &LeafAt,
    home: &HomeProof,
    federation: &Federation,
) -> Option<Evidence> {
    wrong_in(mailbox, word, entry, Wrong::Order(Box::new(next.clone())), home, federation)
}

fn wrong_in(
    mailbox: MailboxId,
    word: FinalWord,
    entry: &LeafAt,
    wrong: Wrong,
    home: &HomeProof,
    federation: &Federation,
) -> Option<Evidence> {
    let (FinalWord { attested, anchor }, entry, home) = (word, entry.clone(), home.clone());
    judged(Claim::WrongEntry(Box::new(WrongEntry { mailbox, attested, anchor, entry, wrong, home })), federation)
}

/// A finally attested log that has forgotten `entry` before retention was over; `settled` is the cut of the epoch that
/// the entry names.
pub fn early_expiry(
    mailbox: MailboxId,
    word: FinalWord,
    entry: &LeafAt,
    settled: CertifiedCut,
    home: &HomeProof,
    federation: &Federation,
) -> Option<Evidence> {
    let (FinalWord { attested, anchor }, entry, home) = (word, entry.clone(), home.clone());
    judged(Claim::EarlyExpiry(Box::new(EarlyExpiry { mailbox, attested, anchor, entry, settled, home })), federation)
}

/// Two attestations of one number, in any order.
pub fn two_attestations(
    one: &Signed<Attestation>,
    other: &Signed<Attestation>,
    federation: &Federation,
) -> Option<Evidence> {
    let (mut first, mut second) = (Box::new(one.clone()), Box::new(other.clone()));
    if first.digest(federation) > second.digest(federation) {
        std::mem::swap(&mut first, &mut second);
    }
    judged(Claim::SplitView(SplitView::Number(first, second)), federation)
}

/// Two attestations of one incarnation and one residence, as `home` shows, whose logs of a mailbox disagree: at an index
/// where both have an entry, or the later log is shorter.
pub fn split_logs(
    mailbox: MailboxId,
    one: (&MailboxAttestation, Option<LeafAt>),
    other: (&MailboxAttestation, Option<LeafAt>),
    home: &HomeProof,
    federation: &Federation,
) -> Option<Evidence> {
    let number = |it: &MailboxAttestation| it.attestation.body.number;
    let (first, second) = if number(one.0) <= number(other.0) { (one, other) } else { (other, one) };
    let (earlier, later): (Attested, Attested) = (first.0.clone().into(), second.0.clone().into());
    let logs = SplitLogs { mailbox, earlier, later, entries: first.1.zip(second.1), home: home.clone() };
    judged(Claim::SplitView(SplitView::Logs(Box::new(logs))), federation)
}

/// An attestation that names a mailbox which lived elsewhere in its epoch, as `home` shows.
pub fn false_home(
    mailbox: MailboxId,
    attestation: &MailboxAttestation,
    home: &HomeProof,
    federation: &Federation,
) -> Option<Evidence> {
    let (attested, home) = (attestation.clone().into(), home.clone());
    judged(Claim::FalseHome(Box::new(FalseHome { mailbox, attested, home })), federation)
}

/// An import of a log that the former home has not attested so, as `by` shows.
pub fn false_base(import: &Signed<Import>, by: Refuted, federation: &Federation) -> Option<Evidence> {
    let claim = FalseImport::Base(Box::new(FalseBase { import: import.clone(), by }));
    judged(Claim::FalseImport(claim), federation)
}

/// A new home's log that does not continue the one which it took over, as `home` shows.
pub fn not_continued(
    mailbox: MailboxId,
    attestation: &MailboxAttestation,
    home: &HomeProof,
    broken: Broken,
    federation: &Federation,
) -> Option<Evidence> {
    let (attested, home) = (attestation.clone().into(), home.clone());
    let claim = FalseImport::Continued(Box::new(NotContinued { mailbox, attested, home, broken }));
    judged(Claim::FalseImport(claim), federation)
}

/// Two certified cuts of one epoch.
pub fn split_order(one: CertifiedCut, other: CertifiedCut, federation: &Federation) -> Option<Evidence> {
    judged(Claim::SplitOrder(Box::new(SplitOrder::of(one, other, federation))), federation)
}

#[cfg(test)]
#[path = "accuse_tests.rs"]
mod tests;
