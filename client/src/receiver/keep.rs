//! What a mailbox keeps of the entries that it has acknowledged: enough to say later, without anybody's help, what its
//! log was. Payloads are not kept; they are the application's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::{LogHead, LogLeaf};
use postroad_protocol::bundle::{BundleBody, messages_root};
use postroad_protocol::cut::{CertifiedCut, HeaderProof};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::merkle::sum::SumPath;
use postroad_protocol::merkle::tree::{self, Path};
use postroad_protocol::message::{common_digest, message_digest};
use postroad_protocol::signed::Signed;
use postroad_protocol::{Digest, MailboxId, Seq};

use super::Mail;
use crate::numbers::Numbers;

/// How many entries are kept under [`Keep::CrossChecked`] at most; the oldest are forgotten first.
const MAX_CROSS_CHECKED: usize = 16_384;

/// How long entries are kept once they are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub enum Keep {
    /// Those settled in the last so many epochs.
    #[n(0)]
    Epochs(#[n(0)] u64),
    /// Until the sender's next number is there as well; those beside a hole until it is closed.
    #[default]
    #[n(1)]
    CrossChecked,
    /// Nothing but the log's right edge and the last attestations: constant size.
    #[n(2)]
    Frontier,
}

/// A text that names no [`Keep`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of `frontier`, `cross-checked` and `epochs=N`")]
pub struct BadKeep(String);

impl FromStr for Keep {
    type Err = BadKeep;

    fn from_str(text: &str) -> Result<Keep, BadKeep> {
        match (text, text.strip_prefix("epochs=").map(str::parse)) {
            ("frontier", _) => Ok(Keep::Frontier),
            ("cross-checked", _) => Ok(Keep::CrossChecked),
            (_, Some(Ok(epochs))) => Ok(Keep::Epochs(epochs)),
            _ => Err(BadKeep(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Epochs(epochs) => write!(f, "epochs={epochs}"),
            Keep::CrossChecked => f.write_str("cross-checked"),
            Keep::Frontier => f.write_str("frontier"),
        }
    }
}

/// An entry without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Kept {
    /// Its leaf in this mailbox's log.
    #[n(0)]
    pub leaf: LogLeaf,
    /// Who sent it.
    #[n(1)]
    pub sender: MailboxId,
    /// Its number from that sender, if the library sealed it.
    #[n(2)]
    pub number: Option<u64>,
    /// What proves its place.
    #[n(3)]
    pub proof: KeptProof,
}

/// An entry's proof with digests in the place of the payloads.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeptProof {
    /// The cut that ordered it.
    #[n(0)]
    pub cut: CertifiedCut,
    /// The batch's header in its cut.
    #[n(1)]
    pub order: HeaderProof,
    /// The bundle in its batch.
    #[n(2)]
    pub ordinal: u32,
    /// What the sender signed.
    #[n(3)]
    pub bundle: Signed<BundleBody>,
    /// From the bundle to the header's entries root.
    #[n(4)]
    pub bundle_path: SumPath,
    /// The message in its bundle.
    #[n(5)]
    pub index: u32,
    /// From the message to the bundle's signed root.
    #[n(6)]
    pub message_path: Path,
    /// The digest of the common payload.
    #[n(7)]
    pub common: Digest,
    /// How many recipients the message has in all.
    #[n(8)]
    pub recipient_count: u32,
    /// This mailbox's place among them.
    #[n(9)]
    pub position: u32,
    /// The salt of this mailbox's leaf.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub salt: [u8; 16],
    /// From that leaf to the root of the recipients.
    #[n(11)]
    pub recipient_path: Path,
}

impl Kept {
    pub(super) fn of(mail: &Mail) -> Kept {
        let proof = &mail.entry.proof;
        Kept {
            leaf: mail.leaf,
            sender: mail.sender,
            number: mail.number(),
            proof: KeptProof {
                cut: mail.cut.clone(),
                order: proof.order.clone(),
                ordinal: proof.ordinal,
                bundle: proof.bundle.clone(),
                bundle_path: proof.bundle_path.clone(),
                index: proof.index,
                message_path: proof.message_path.clone(),
                common: common_digest(&proof.common),
                recipient_count: proof.recipient_count,
                position: proof.recipient.position,
                salt: proof.recipient.salt,
                recipient_path: proof.recipient.path.clone(),
            },
        }
    }

    /// Whether the digests lead from the leaf of `mailbox` to what the sender signed.
    pub fn holds(&self, mailbox: &MailboxId) -> bool {
        let proof = &self.proof;
        let leaf = Digest::tagged("recipient", &[&proof.salt, &mailbox.0, &self.leaf.own.0]);
        let (at, count) = (u64::from(proof.position), u64::from(proof.recipient_count));
        let root = tree::root_from_path(tree::leaf_hash(leaf.as_bytes()), at, count, &proof.recipient_path);
        let id = root.map(|root| message_digest(proof.recipient_count, root, proof.common));
        let body = &proof.bundle.body;
        id == Some(self.leaf.message)
            && messages_root(self.leaf.message, proof.index, body.count, &proof.message_path) == Some(body.messages)
    }
}

/// What is remembered of a kept entry without asking the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) leaf: LogLeaf,
    pub(super) sender: MailboxId,
    pub(super) number: Option<u64>,
}

impl Note {
    pub(super) fn of(kept: &Kept) -> Note {
        Note { leaf: kept.leaf, sender: kept.sender, number: kept.number }
    }
}

/// Decides what is kept.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    keep: Keep,
    notes: BTreeMap<u64, Note>,
    by_sender: BTreeMap<MailboxId, BTreeSet<u64>>,
    /// The log up to an index from which on every acknowledged entry is kept, under [`Keep::Epochs`].
    floor: Option<Frontier>,
    /// Above this place every acknowledged entry is kept.
    forgotten_to: Option<Seq>,
}

impl Shelf {
    pub(super) fn new(keep: Keep, floor: Option<Frontier>, forgotten_to: Option<Seq>) -> Shelf {
        Shelf { keep, notes: BTreeMap::new(), by_sender: BTreeMap::new(), floor, forgotten_to }
    }

    pub(super) fn keep(&self) -> Keep {
        self.keep
    }

    pub(super) fn floor(&self) -> Option<&Frontier> {
        self.floor.as_ref()
    }

    pub(super) fn forgotten_to(&self) -> Option<Seq> {
        self.forgotten_to
    }

    pub(super) fn notes(&self) -> &BTreeMap<u64, Note> {
        &self.notes
    }

    /// Whose entries are kept.
    pub(super) fn senders(&self) -> impl Iterator<Item = &MailboxId> {
        self.by_sender.keys()
    }

    pub(super) fn add(&mut self, index: u64, note: Note) {
        self.by_sender.entry(note.sender).or_default().insert(index);
        self.notes.insert(index, note);
    }

    /// Takes off what need not be kept any more, now that the application has everything below `low`, the log is
    /// complete up to `epoch`, and something of the `touched` senders has changed. Returns the indices.
    pub(super) fn tidy<'a>(
        &mut self,
        low: u64,
        epoch: u64,
        touched: &BTreeSet<MailboxId>,
        numbers: impl Fn(&MailboxId) -> Option<&'a Numbers>,
    ) -> Vec<u64> {
        let below = |notes: &BTreeMap<u64, Note>| notes.range(..low).map(|(index, _)| *index).collect::<Vec<_>>();
        let due: Vec<u64> = match self.keep {
            Keep::Frontier => below(&self.notes),
            Keep::Epochs(epochs) => (self.notes.range(..low))
                .take_while(|(_, note)| note.leaf.settled.saturating_add(epochs) < epoch)
                .map(|(index, _)| *index)
                .collect(),
            Keep::CrossChecked => {
                let mut due: Vec<u64> =
                    touched.iter().flat_map(|sender| self.cross_checked(sender, low, numbers(sender))).collect();
                let rest = self.notes.len() - due.len();
                due.extend(below(&self.notes).into_iter().take(rest.saturating_sub(MAX_CROSS_CHECKED)));
                due
            }
        };
        due.into_iter().filter(|index| self.take_off(*index)).collect()
    }

    fn cross_checked(&self, sender: &MailboxId, low: u64, numbers: Option<&Numbers>) -> Vec<u64> {
        let Some(indices) = self.by_sender.get(sender) else { return Vec::new() };
        let last = indices.range(..low).next_back();
        (indices.range(..low))
            .filter(|index| match (self.notes.get(index).and_then(|note| note.number), numbers) {
                (Some(number), Some(numbers)) => number < numbers.through() && !numbers.is_beside_hole(number),
                _ => Some(*index) != last,
            })
            .copied()
            .collect()
    }

    fn take_off(&mut self, index: u64) -> bool {
        let Some(note) = self.notes.remove(&index) else { return false };
        if let Some(indices) = self.by_sender.get_mut(&note.sender) {
            indices.remove(&index);
            if indices.is_empty() {
                self.by_sender.remove(&note.sender);
            }
        }
        self.forgotten_to = self.forgotten_to.max(Some(note.leaf.seq));
        match &mut self.floor {
            Some(floor) if floor.size() == index => floor.append(note.leaf.hash()),
            Some(floor) if floor.size() < index => self.floor = None,
            _ => {}
        }
        true
    }

    /// Without a floor, everything is kept from `log` on, if everything will be.
    pub(super) fn set_floor(&mut self, log: &Frontier) {
        if matches!(self.keep, Keep::Epochs(_)) {
            self.floor.get_or_insert_with(|| log.clone());
        } else {
            self.floor = None;
        }
    }

    /// The entries between are not kept.
    pub(super) fn skip(&mut self, log: &Frontier, last: Seq) {
        self.floor = None;
        self.set_floor(log);
        self.forgotten_to = self.forgotten_to.max(Some(last));
    }

    /// The log is `log` again: what is kept beyond it is no part of it any more. Returns the indices.
    pub(super) fn roll_back(&mut self, log: &Frontier) -> Vec<u64> {
        let beyond = self.notes.split_off(&log.size());
        for (index, note) in &beyond {
            if let Some(indices) = self.by_sender.get_mut(&note.sender) {
                indices.remove(index);
                if indices.is_empty() {
                    self.by_sender.remove(&note.sender);
                }
            }
        }
        if self.floor.as_ref().is_some_and(|floor| floor.size() > log.size()) {
            self.floor = Some(log.clone());
        }
        beyond.into_keys().collect()
    }

    /// The log when it had `size` entries, if what is kept tells.
    pub(super) fn head_at(&self, size: u64) -> Option<LogHead> {
        let mut log = self.floor.clone().filter(|floor| floor.size() <= size)?;
        for index in log.size()..size {
            log.append(self.notes.get(&index)?.leaf.hash());
        }
        Some(LogHead { size, root: log.root() })
    }

    /// The kept entries next to a place in log order: the last not after it, and the first after it.
    pub(super) fn beside(&self, seq: Seq) -> (Option<u64>, Option<u64>) {
        let place = |(index, note): (&u64, &Note)| (note.leaf.seq, *index);
        let before = self.notes.iter().map(place).filter(|(at, _)| *at <= seq).max();
        let after = self.notes.iter().map(place).filter(|(at, _)| *at > seq).min();
        (before.map(|(_, index)| index), after.map(|(_, index)| index))
    }
}
