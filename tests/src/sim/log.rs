//! What a recipient makes of its log: the client library's own verifier, and what the home said was settled.

use std::collections::BTreeSet;

use postroad_client::verify_log::{Attested, Checked, LogVerifier};
use postroad_protocol::attestation::{LogHead, LogLeaf, MailboxAttestation};
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::Entry;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::client::Settled;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

/// A log as its owner has it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    verifier: LogVerifier,
    /// Which message is at which place, entry by entry.
    read: Vec<(Digest, Seq)>,
    last: Option<LogLeaf>,
    cut: Option<CertifiedCut>,
    settled: Option<Settled>,
    /// What may come late below that all the same.
    overdue: BTreeSet<(u64, u32)>,
    /// Size of the last final attestation that holds.
    pub(super) final_size: Option<u64>,
}

impl Log {
    pub(super) fn new(mailbox: MailboxId, home: NodeId) -> Log {
        Log {
            verifier: LogVerifier::new(mailbox, home),
            read: Vec::new(),
            last: None,
            cut: None,
            settled: None,
            overdue: BTreeSet::new(),
            final_size: None,
        }
    }

    pub(super) fn next_index(&self) -> u64 {
        self.verifier.next_index()
    }

    pub(super) fn last(&self) -> Option<&LogLeaf> {
        self.last.as_ref()
    }

    /// What this log has and an older copy of it does not.
    pub(super) fn behind(&self, older: &Log) -> &[(Digest, Seq)] {
        &self.read[older.read.len()..]
    }

    /// The log so far, which its owner acknowledges: nobody asks for smaller ones any more.
    pub(super) fn acknowledge(&mut self) -> LogHead {
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
        self.last = Some(checked.leaf);
        self.read.push((checked.placed.id, seq));
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
    pub(super) fn attested(&mut self, attested: &MailboxAttestation, federation: &Federation) -> Result<(), String> {
        let attested = self.verifier.attested(attested, federation).map_err(|error| error.to_string())?;
        self.note(attested);
        Ok(())
    }

    fn note(&mut self, attested: Attested) {
        if let Attested::Holds { size, is_final: true, .. } = attested {
            self.final_size = self.final_size.max(Some(size));
        }
    }
}
