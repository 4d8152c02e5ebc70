//! What a recipient makes of its log: the client library's own verifier, and what the home said was settled.

use std::collections::BTreeSet;

use postroad_client::verify_log::{Attested, Checked, LogVerifier};
use postroad_protocol::attestation::{LogHead, LogLeaf, MailboxAttestation};
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::Entry;
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::client::Settled;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

/// A message by its digest, and its number.
type Known = (Digest, Seq);

/// A log as its owner has it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    mailbox: MailboxId,
    verifier: LogVerifier,
    /// Which message is at which place, entry by entry.
    read: Vec<(Digest, Seq)>,
    leaves: Vec<LogLeaf>,
    cut: Option<CertifiedCut>,
    settled: Option<Settled>,
    /// What may come late below that all the same.
    overdue: BTreeSet<(u64, u32)>,
    /// Size of the last final attestation that holds.
    pub(super) final_size: Option<u64>,
    /// That attestation.
    last_final: Option<Box<MailboxAttestation>>,
    /// The log that the home continues, after a move.
    continues: Option<LogHead>,
    /// What its owner has said it has: that it keeps, wherever the mailbox moves.
    kept: Vec<Kept>,
}

/// Leaves of a log, and which message is at which place.
type Kept = (Vec<LogLeaf>, Vec<(Digest, Seq)>);

impl Log {
    pub(super) fn new(mailbox: MailboxId, home: NodeId) -> Log {
        Log {
            mailbox,
            verifier: LogVerifier::new(mailbox, home),
            read: Vec::new(),
            leaves: Vec::new(),
            cut: None,
            settled: None,
            overdue: BTreeSet::new(),
            final_size: None,
            last_final: None,
            continues: None,
            kept: Vec::new(),
        }
    }

    /// How many entries are known of it, read or kept.
    pub(super) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub(super) fn next_index(&self) -> u64 {
        self.verifier.next_index()
    }

    pub(super) fn last(&self) -> Option<&LogLeaf> {
        self.leaves.last()
    }

    /// What this log has and an older copy of it does not.
    pub(super) fn behind(&self, older: &Log) -> Vec<(Digest, Seq)> {
        let has = |read: &&(Digest, Seq)| !older.read.contains(read);
        self.read.iter().filter(has).copied().collect()
    }

    /// How much of it a log has as well.
    pub(super) fn in_common(&self, with: &[LogLeaf]) -> usize {
        in_common(&self.leaves, with)
    }

    /// Goes back to what is kept and most like a log, if that is more like it than what was read last. Returns what was
    /// read beyond, and what is kept in its place.
    pub(super) fn recall(&mut self, with: &[LogLeaf]) -> Option<(Vec<Known>, Vec<Known>)> {
        let kept = self.kept.iter().max_by_key(|(leaves, _)| in_common(leaves, with))?;
        let size = in_common(&kept.0, with);
        if size <= self.in_common(with) {
            return None;
        }
        let (leaves, read) = (kept.0[..size].to_vec(), kept.1[..size].to_vec());
        self.leaves = leaves;
        Some((std::mem::replace(&mut self.read, read.clone()), read))
    }

    fn keep(&mut self, size: usize) {
        self.kept.push((self.leaves[..size].to_vec(), self.read[..size].to_vec()));
    }

    /// The mailbox lives at `home` since an epoch, and its log there continues this one as it had `size` entries, or one
    /// that was never read here. Returns what comes again.
    pub(super) fn moves_to(&mut self, home: NodeId, since: u64, size: usize, continues: LogHead) -> Vec<(Digest, Seq)> {
        self.leaves.truncate(size);
        let (edge, last) = (self.edge(size), self.leaves.last().copied());
        self.verifier = LogVerifier::resume(self.mailbox, home, edge, last, None);
        self.verifier.moves_to(home, since, continues.size);
        (self.settled, self.final_size, self.continues) = (None, None, Some(continues));
        self.overdue.clear();
        self.read.split_off(size)
    }

    fn edge(&self, size: usize) -> Frontier {
        let mut edge = Frontier::new();
        self.leaves[..size].iter().for_each(|leaf| edge.append(leaf.hash()));
        edge
    }

    /// What its owner can hand to a new home: the last log that was attested finally, and its right edge.
    pub(super) fn base(&mut self) -> Option<(MailboxAttestation, Frontier)> {
        let attested = self.last_final.as_deref()?.clone();
        let size = usize::try_from(attested.log.log.size).ok().filter(|size| *size <= self.leaves.len())?;
        let edge = self.edge(size);
        if edge.root() != attested.log.log.root {
            return None;
        }
        self.keep(size);
        Some((attested, edge))
    }

    /// The log so far, which its owner acknowledges: nobody asks for smaller ones any more.
    pub(super) fn acknowledge(&mut self) -> LogHead {
        self.keep(self.leaves.len());
        self.verifier.release(self.verifier.next_index());
        self.verifier.head()
    }

    /// A cut that the next entries are of.
    pub(super) fn cut(&mut self, cut: CertifiedCut, federation: &Federation) -> Result<(), String> {
        if self.cut.as_ref() != Some(&cut) {
            cut.verify(federation).map_err(|error| error.to_string())?;
            self.cut = Some(cut);
        }
        Ok(())
    }

    /// The next entry.
    pub(super) fn entry(&mut self, entry: &Entry, federation: &Federation) -> Result<Checked, String> {
        let cut = self.cut.as_ref().ok_or("an entry without a cut")?;
        let checked = self.verifier.entry(entry, &cut.header, federation).map_err(|error| error.to_string())?;
        let seq = checked.placed.seq;
        let at = (seq.epoch, seq.position);
        if self.settled.is_some_and(|settled| at < settled.below) && !self.overdue.contains(&at) {
            return Err(format!("{seq} came after it was said to be settled"));
        }
        self.leaves.push(checked.leaf);
        self.read.push((checked.placed.id, seq));
        if self.continues.is_some_and(|log| log.size == self.next_index() && log != self.verifier.head()) {
            return Err("the log is not the one that the home says it continues".into());
        }
        if let Some(attested) = self.verifier.caught_up(federation).map_err(|error| error.to_string())? {
            self.note(attested);
        }
        Ok(checked)
    }

    /// The home says that a slice is overdue. Returns whether that is new.
    pub(super) fn overdue(&mut self, at: (u64, u32)) -> bool {
        self.overdue.insert(at)
    }

    /// How far the home says that it is.
    pub(super) fn settled(&mut self, settled: Settled) -> Result<(), String> {
        if settled.size != self.next_index() {
            return Err(format!("settled at {} entries, {} came", settled.size, self.next_index()));
        }
        if self.settled.is_none_or(|before| before.below <= settled.below) {
            self.settled = Some(settled);
        }
        Ok(())
    }

    /// An attestation.
    pub(super) fn attested(&mut self, shown: &MailboxAttestation, federation: &Federation) -> Result<(), String> {
        let attested = self.verifier.attested(shown, federation).map_err(|error| error.to_string())?;
        self.note(attested);
        if let Attested::Holds { is_final: true, .. } = attested {
            self.last_final = Some(Box::new(shown.clone()));
        }
        Ok(())
    }

    fn note(&mut self, attested: Attested) {
        if let Attested::Holds { size, is_final: true, .. } = attested {
            self.final_size = self.final_size.max(Some(size));
        }
    }
}

fn in_common(one: &[LogLeaf], other: &[LogLeaf]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
