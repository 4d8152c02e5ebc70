//! One connection's worth of reading: what each message of the home does.

use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::Entry;
use postroad_protocol::evidence::Evidence;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::client::{Expired, FromClient, Settled, ToClient};
use postroad_protocol::{Federation, MailboxId};
use tokio::time::{Instant, timeout_at};

use super::moved::LOOK_EVERY;
use super::store::Position;
use super::{End, Mail, Received, Receiver};
use crate::accuse;
use crate::connection::unasked;
use crate::control::Numbering;
use crate::delivery::{Item, Mode};
use crate::error::ClientError;
use crate::seal::Seen;
use crate::verify_log::{Attested, Checked, Violation};

/// How many entries may be on their way.
pub(super) const WINDOW: u32 = 256;
/// How many cuts' hashes are remembered, to be compared with what senders know.
const MAX_CUTS: usize = 4_096;
/// How many messages may wait in strict order.
const MAX_HELD: usize = 65_536;

impl Receiver {
    /// Reads and handles one message of the home.
    pub(super) async fn read_one(&mut self) -> Result<(), ClientError> {
        let Some(stream) = &mut self.session else {
            return Ok(());
        };
        if self.taken >= WINDOW / 2 {
            let taken = std::mem::take(&mut self.taken);
            stream.outgoing.send(&FromClient::Credit(taken)).await?;
        }
        // A former home may stay silent, or go on as if nothing had happened.
        let Ok(message) = timeout_at(self.looked_at + LOOK_EVERY, stream.incoming.next()).await else {
            self.looked_at = Instant::now();
            if self.has_left() {
                self.session = None;
            }
            return Ok(());
        };
        self.take(message?)
    }

    /// Handles one message of the home.
    pub(super) fn take(&mut self, message: ToClient) -> Result<(), ClientError> {
        match self.handle(message) {
            Err(ClientError::Violation(violation)) => self.violated(violation),
            Err(ClientError::Unverified { source, .. }) => self.violated(Violation::Proof(source)),
            done => done,
        }
    }

    /// Nothing more is believed, and the attestations that show it are made durable.
    pub(super) fn violated(&mut self, violation: Violation) -> Result<(), ClientError> {
        self.end = End::Violated(violation.clone());
        self.store.keep_attestations(&self.attestations)?;
        Err(violation.into())
    }

    fn handle(&mut self, message: ToClient) -> Result<(), ClientError> {
        match message {
            ToClient::Cut(cut) => self.cut(cut),
            ToClient::Entry(entry) => self.entry(*entry),
            ToClient::Attested(attestation) => self.attested(&attestation),
            ToClient::Settled(settled) => {
                self.settled = Some(settled);
                self.apply_settled()
            }
            ToClient::Expired(expired) => self.expired(&expired),
            ToClient::Overdue(overdue) => {
                if self.delivery.overdue((overdue.epoch, overdue.position)) {
                    self.queue.push_back(Received::Overdue(overdue));
                }
                Ok(())
            }
            ToClient::Retiring(offered) => {
                self.offered(&offered);
                Ok(())
            }
            ToClient::Refused(refusal) => Err(refusal.into()),
            ToClient::Hello(..) | ToClient::Answer(..) => Err(unasked(self.mailbox.home())),
        }
    }

    fn cut(&mut self, cut: CertifiedCut) -> Result<(), ClientError> {
        let federation = self.mailbox.federation();
        cut.verify(federation).map_err(Violation::from)?;
        let (epoch, digest) = (cut.header.epoch, cut.header.digest(federation));
        if self.cuts.insert(epoch, digest).is_some_and(|before| before != digest) {
            return Err(Violation::TwoCuts { epoch }.into());
        }
        if self.cuts.len() > MAX_CUTS {
            self.cuts.pop_first();
        }
        self.newest.note(&cut.header, federation);
        self.time_ms = self.time_ms.max(cut.header.time_ms);
        self.cut = Some(cut);
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), ClientError> {
        let federation = self.mailbox.federation().clone();
        self.taken += 1;
        let Some(cut) = self.cut.clone() else {
            return Err(unasked(self.mailbox.home()));
        };
        let index = entry.log_index;
        if index != self.reading {
            return Err(Violation::Index { expected: self.reading, found: index }.into());
        }
        let checked = match self.check_entry(&entry, &cut, &federation) {
            Ok(checked) => checked,
            Err(violation) => {
                let before = self.verifier.leaf_before(self.verifier.next_index());
                let served = accuse::served_leaf(&entry, &cut, &federation);
                // What no origin may seal convicts it, whoever serves it.
                if let Some(evidence) = accuse::entry(&entry.proof, &cut, &federation) {
                    if let Some(leaf) = served
                        && self.passes_over(index, leaf)
                    {
                        return self.unsound(index, evidence);
                    }
                    self.evidence.push(evidence);
                }
                self.broken = before.into_iter().chain(served).map(|leaf| leaf.seq).collect();
                return Err(violation.into());
            }
        };
        self.reading += 1;
        self.check_continued()?;
        let is_new = index >= self.low && !self.above.contains_key(&index);
        if self.options.from.map_or(is_new, |from| checked.leaf.seq >= from) {
            let (mail, said) = Mail::open(entry, &checked, &cut, &self.mailbox);
            if !(is_new && self.came_before(&mail)) {
                self.compare_order(&mail, said.map(|(seen, _)| seen));
                self.offer(mail, said.map(|(_, numbering)| numbering))?;
            }
        }
        self.apply_settled()?;
        if let Some(attested) = self.verifier.caught_up(&federation)? {
            self.note_attested(attested);
        }
        Ok(())
    }

    /// Whether an entry for which its origin is guilty stands in the log; then it is taken.
    fn passes_over(&mut self, index: u64, leaf: LogLeaf) -> bool {
        if index >= self.verifier.next_index() {
            return self.verifier.unsound(index, leaf).is_ok();
        }
        let known = self.above.get(&index).copied().or_else(|| self.verifier.leaf_at(index));
        if let Some(again) = &mut self.again {
            again.append(leaf.hash());
        }
        known.is_none_or(|known| known == leaf)
    }

    /// An entry that is no mail counts as had.
    fn unsound(&mut self, index: u64, evidence: Evidence) -> Result<(), ClientError> {
        self.reading += 1;
        self.check_continued()?;
        if index >= self.low
            && !self.above.contains_key(&index)
            && let Some(leaf) = self.verifier.leaf_at(index)
        {
            self.above.insert(index, leaf);
            self.is_changed = true;
            if !self.given.remove(&leaf.seq) {
                self.queue.push_back(Received::Unsound { index, evidence: Box::new(evidence) });
            }
        }
        self.apply_settled()?;
        if let Some(attested) = self.verifier.caught_up(&self.mailbox.federation().clone())? {
            self.note_attested(attested);
        }
        Ok(())
    }

    fn check_entry(
        &mut self,
        entry: &Entry,
        cut: &CertifiedCut,
        federation: &Federation,
    ) -> Result<Checked, Violation> {
        let index = entry.log_index;
        if index < self.verifier.next_index() {
            return self.read_again(entry, cut, federation);
        }
        let checked = self.verifier.entry(entry, &cut.header, federation)?;
        if self.above.get(&index).is_some_and(|known| *known != checked.leaf) {
            return Err(Violation::Changed { index });
        }
        Ok(checked)
    }

    /// An entry that was verified before. Where its leaf is kept it is compared with that; where it is not, all that are
    /// read again must make the log that was verified before.
    fn read_again(&mut self, entry: &Entry, cut: &CertifiedCut, federation: &Federation) -> Result<Checked, Violation> {
        let index = entry.log_index;
        let known = self.above.get(&index).copied().or_else(|| self.verifier.leaf_at(index));
        let known = known.or_else(|| self.shelf.notes().get(&index).map(|note| note.leaf));
        let checked = self.verifier.check(entry, &cut.header, federation)?;
        let leaf = checked.leaf;
        if known.is_some_and(|known| known != leaf) {
            return Err(Violation::Changed { index });
        }
        let Some(again) = &mut self.again else {
            // Every entry from the wanted place on is kept, so what is not cannot be one of them.
            let is_wanted = self.options.from.is_none_or(|from| leaf.seq >= from);
            return if known.is_none() && is_wanted { Err(Violation::Changed { index }) } else { Ok(checked) };
        };
        again.append(leaf.hash());
        if let Some(head) = self.verifier.head_at(again.size())
            && head.root != again.root()
        {
            return Err(Violation::Changed { index });
        }
        Ok(checked)
    }

    /// The sender's newest cut should be one of the order that this home shows. What it says of its message's own epoch,
    /// or a later one, it cannot have known.
    fn compare_order(&mut self, mail: &Mail, seen: Option<Seen>) {
        let Some(seen) = seen.filter(|seen| seen.epoch < mail.seq.epoch) else { return };
        if self.cuts.get(&seen.epoch).is_some_and(|shown| *shown != seen.cut) {
            let (sender, seq, epoch) = (mail.sender, mail.seq, seen.epoch);
            self.queue.push_back(Received::ForeignCut { sender, seq, epoch });
        }
    }

    fn offer(&mut self, mail: Mail, numbering: Option<Numbering>) -> Result<(), ClientError> {
        let via = mail.entry.proof.order.header.body.origin;
        let item = Item { seq: mail.seq, id: mail.id, sender: mail.sender, via, numbering };
        self.verified.insert(mail.seq, Box::new(mail));
        let mut outs = Vec::new();
        self.delivery.message(item, &mut outs)?;
        self.hand_out(outs);
        match self.delivery.held() {
            held if held > MAX_HELD => Err(ClientError::TooManyHeld { held }),
            _ => Ok(()),
        }
    }

    /// Applies the home's word on lateness once all entries that it counts are here.
    fn apply_settled(&mut self) -> Result<(), ClientError> {
        let here = self.reading.min(self.verifier.next_index());
        if let Some(Settled { epoch, below, .. }) = self.settled.take_if(|settled| settled.size <= here) {
            self.settled_epoch = self.settled_epoch.max(epoch);
            let mut outs = Vec::new();
            self.delivery.settled(below, &mut outs);
            self.hand_out(outs);
            self.maybe_complete();
        }
        Ok(())
    }

    fn attested(&mut self, attestation: &MailboxAttestation) -> Result<(), ClientError> {
        let federation = self.mailbox.federation().clone();
        let attested = self.verifier.attested(attestation, &federation);
        if matches!(attested, Err(Violation::Proof(_))) {
            return Err(attested.expect_err("it is one").into());
        }
        let compared = self.attestations.compare(attestation, &federation);
        if attested.is_err() || compared.is_err() {
            let found = self.attestations.convict(attestation, &federation);
            self.evidence.extend(found);
        }
        self.attestations.take(attestation);
        let attested = attested?;
        compared?;
        if attested == Attested::Old {
            self.compare_old(attestation)?;
        }
        self.expired_to = self.expired_to.max(attestation.log.expired_to);
        self.note_attested(attested);
        self.write_verified()
    }

    /// An attestation of a size that the verifier has released. It can still be compared where the leaves since then are
    /// kept, and was compared with the last attestations in any case. What neither shows is not checked: the entries
    /// of that size are acknowledged, and were compared with an attestation of at least that size then.
    pub(super) fn compare_old(&self, attestation: &MailboxAttestation) -> Result<(), Violation> {
        let log = &attestation.log.log;
        let number = attestation.attestation.body.number;
        match self.shelf.head_at(log.size) {
            Some(head) if head != *log => Err(Violation::Root { number, size: log.size }),
            _ => Ok(()),
        }
    }

    /// The home has forgotten the entries that are due: reading goes on behind them.
    fn expired(&mut self, expired: &Expired) -> Result<(), ClientError> {
        let (from, here) = (self.reading, self.verifier.next_index());
        let to = expired.before.size() + 1;
        if to <= from {
            return Err(unasked(self.mailbox.home()));
        }
        // What is acknowledged afterwards covers them too: the home's own word must be there before.
        if to > self.expired_to {
            return Err(Violation::Unattested { to }.into());
        }
        if from < here && here < to {
            // Read again up to what was verified before; from there on the home has to show what follows.
            self.session = None;
        } else if from == here {
            self.verifier.skip(expired)?;
            self.low = self.low.max(to);
            self.above = self.above.split_off(&to);
            let log = self.verifier.frontier_at(to).expect("the log was just set to that size");
            self.delivery.skipped();
            self.shelf.skip(&log, expired.last.seq);
            self.tail.reset(log.clone(), Some(expired.last));
            self.position = Position { log, before: Some(expired.last), ..self.position.clone() };
            let senders: Vec<MailboxId> = self.delivery.senders().copied().collect();
            self.touched.extend(senders);
            self.save(Vec::new(), &[])?;
        } else if let Some(again) = &mut self.again {
            *again = expired.before.clone();
            again.append(expired.last.hash());
        }
        self.forgotten = Some(expired.last);
        self.reading = to.min(self.verifier.next_index());
        self.queue.push_back(Received::Expired { from, to: self.reading });
        self.apply_settled()?;
        if let Some(attested) = self.verifier.caught_up(&self.mailbox.federation().clone())? {
            self.note_attested(attested);
        }
        Ok(())
    }

    fn note_attested(&mut self, attested: Attested) {
        let Attested::Holds { epoch, size, is_final } = attested else {
            return;
        };
        let complete = self.target.is_some_and(|target| epoch >= target) && self.reading >= size;
        if complete {
            self.last_word = Some(Received::Settled { epoch, size, is_final, held: 0 });
            self.maybe_complete();
        } else if self.target.is_none() && self.told != Some((size, is_final)) {
            self.told = Some((size, is_final));
            self.queue.push_back(Received::Settled { epoch, size, is_final, held: self.delivery.held() });
        }
    }

    /// Without `follow`: whether everything up to the epoch known at the start is here. Strict order waits for the
    /// home's word on lateness as well.
    fn maybe_complete(&mut self) {
        let Some(target) = self.target else { return };
        if matches!(self.options.mode, Mode::Strict) && self.settled_epoch < target {
            return;
        }
        if let Some(Received::Settled { epoch, size, is_final, .. }) = self.last_word.take() {
            self.queue.push_back(Received::Settled { epoch, size, is_final, held: self.delivery.held() });
            self.end = End::Complete;
        }
    }
}
