//! What a recipient makes of its log: every entry is verified down to the certified cut, every attestation against the
//! log that came.

use postroad_protocol::attestation::{LogLeaf, MailboxAttestation};
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::{Entry, Placed};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::client::Settled;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};

/// A log as its owner has it.
#[derive(Debug, Default)]
pub(super) struct Log {
    frontier: Frontier,
    /// The root at each size.
    roots: Vec<Digest>,
    leaves: Vec<LogLeaf>,
    cut: Option<CertifiedCut>,
    settled: Option<Settled>,
    ahead: Option<MailboxAttestation>,
    /// Number and size of the highest attestation.
    mark: Option<(u64, u64)>,
    /// Size of the last final attestation that holds.
    pub(super) final_size: Option<u64>,
}

impl Log {
    pub(super) fn next_index(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub(super) fn last(&self) -> Option<&LogLeaf> {
        self.leaves.last()
    }

    pub(super) fn root(&self) -> Digest {
        self.frontier.root()
    }

    /// A cut that the next entries are of.
    pub(super) fn cut(&mut self, cut: CertifiedCut, federation: &Federation) -> Result<(), String> {
        if self.cut.as_ref() != Some(&cut) {
            cut.verify(federation).map_err(|error| error.to_string())?;
            self.cut = Some(cut);
        }
        Ok(())
    }

    /// The next entry. Gives what it amounts to, and its leaf.
    pub(super) fn entry(
        &mut self,
        entry: &Entry,
        me: &MailboxId,
        federation: &Federation,
    ) -> Result<(Placed, LogLeaf), String> {
        let cut = self.cut.as_ref().ok_or("an entry without a cut")?;
        let placed = entry.proof.verify(&cut.header, federation).map_err(|error| error.to_string())?;
        if placed.recipient != *me || entry.log_index != self.next_index() || entry.settled < placed.seq.epoch {
            return Err(format!("entry {} where {} is due", entry.log_index, self.next_index()));
        }
        let leaf = LogLeaf { settled: entry.settled, seq: placed.seq, message: placed.id, own: placed.own };
        let place = (placed.seq.epoch, placed.seq.position);
        if self.settled.is_some_and(|settled| place < settled.below) {
            return Err(format!("{} came after it was said to be settled", placed.seq));
        }
        if self.roots.is_empty() {
            self.roots.push(self.frontier.root());
        }
        self.frontier.append(leaf.hash());
        self.roots.push(self.frontier.root());
        self.leaves.push(leaf);
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.log.log.size <= self.leaves.len() as u64) {
            self.compare(&ahead)?;
        }
        Ok((placed, leaf))
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
    pub(super) fn attested(
        &mut self,
        attested: MailboxAttestation,
        me: &MailboxId,
        home: &NodeId,
        federation: &Federation,
    ) -> Result<(), String> {
        attested.verify(me, home, federation).map_err(|error| error.to_string())?;
        let (number, size) = (attested.attestation.body.number, attested.log.log.size);
        if let Some((before, marked)) = self.mark
            && number > before
            && size < marked
        {
            return Err(format!("attestation {number} names {size} entries, attestation {before} {marked}"));
        }
        self.mark = self.mark.max(Some((number, size)));
        if attested.log.log.size > self.next_index() {
            self.ahead = Some(attested);
            return Ok(());
        }
        self.compare(&attested)
    }

    fn compare(&mut self, attested: &MailboxAttestation) -> Result<(), String> {
        let (log, epoch) = (attested.log.log, attested.attestation.body.epoch);
        let size = log.size as usize;
        let root = if size == 0 { Frontier::new().root() } else { self.roots[size] };
        if root != log.root {
            return Err(format!("attestation {} names another log", attested.attestation.body.number));
        }
        let last = size.checked_sub(1).map_or(0, |at| self.leaves[at].settled);
        if last != attested.log.last_epoch {
            return Err(format!("the last of {size} entries is of {last}, attested {}", attested.log.last_epoch));
        }
        if self.leaves.get(size).is_some_and(|leaf| leaf.settled <= epoch) {
            return Err(format!("entry {size} is of an epoch that was attested without it"));
        }
        if attested.anchor.is_some() {
            self.final_size = self.final_size.max(Some(log.size));
        }
        Ok(())
    }
}
