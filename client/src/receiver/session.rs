//! One connection's worth of reading: what each message of the home does.

use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::Entry;
use postroad_protocol::signed::Verify;
use postroad_protocol::wire::client::{Expired, FromClient, Settled, ToClient};

use super::store::Position;
use super::{Content, End, Mail, Received, Receiver};
use crate::connection::{ClientStream, unasked};
use crate::delivery::{Item, Mode};
use crate::error::ClientError;
use crate::seal::Seen;
use crate::verify_log::{Attested, Violation};

/// How many entries may be on their way.
pub(super) const WINDOW: u32 = 256;
/// How many cuts' hashes are remembered, to be compared with what senders know.
const MAX_CUTS: usize = 4_096;
/// How many messages may wait in strict order.
const MAX_HELD: usize = 65_536;

/// A connection to the home.
pub(super) struct Session {
    pub(super) stream: ClientStream,
    /// The cut that ordered the entries to come.
    cut: Option<CertifiedCut>,
    /// Entries taken since the last credit.
    taken: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(stream: ClientStream) -> Session {
        Session { stream, cut: None, taken: 0 }
    }
}

impl Receiver {
    /// Reads and handles one message of the home.
    pub(super) async fn read_one(&mut self) -> Result<(), ClientError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if session.taken >= WINDOW / 2 {
            let taken = std::mem::take(&mut session.taken);
            session.stream.outgoing.send(&FromClient::Credit(taken)).await?;
        }
        let message = session.stream.incoming.next().await?;
        match self.handle(message) {
            Err(ClientError::Violation(violation)) => {
                self.end = End::Violated(violation.clone());
                Err(violation.into())
            }
            Err(ClientError::Unverified { source, .. }) => {
                let violation = Violation::Proof(source);
                self.end = End::Violated(violation.clone());
                Err(violation.into())
            }
            done => done,
        }
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
        if let Some(session) = &mut self.session {
            session.cut = Some(cut);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), ClientError> {
        let federation = self.mailbox.federation().clone();
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        session.taken += 1;
        let Some(cut) = session.cut.clone() else {
            return Err(unasked(self.mailbox.home()));
        };
        let index = entry.log_index;
        if index != self.reading {
            return Err(Violation::Index { expected: self.reading, found: index }.into());
        }
        let checked = if index < self.verifier.next_index() {
            let known = match self.above.get(&index) {
                Some(leaf) => Some(*leaf),
                None => self.store.leaf(index)?,
            };
            let known = known.or_else(|| self.verifier.leaf_at(index)).ok_or(Violation::Changed { index })?;
            self.verifier.again(&entry, &cut.header, &known, &federation)?
        } else {
            let checked = self.verifier.entry(&entry, &cut.header, &federation)?;
            if self.above.get(&index).is_some_and(|known| *known != checked.leaf) {
                return Err(Violation::Changed { index }.into());
            }
            checked
        };
        self.reading += 1;
        let is_new = index >= self.low && !self.above.contains_key(&index);
        if self.options.from.map_or(is_new, |from| checked.leaf.seq >= from) {
            let (mail, seen) = Mail::open(entry, &checked, &cut, &self.mailbox);
            self.compare_order(&mail, seen)?;
            self.offer(mail)?;
        }
        self.apply_settled()?;
        if let Some(attested) = self.verifier.caught_up(&federation)? {
            self.note_attested(attested);
        }
        Ok(())
    }

    /// Whether the sender's newest cut is one of the order that this home shows.
    fn compare_order(&self, mail: &Mail, seen: Option<Seen>) -> Result<(), Violation> {
        let Some(seen) = seen else { return Ok(()) };
        match self.cuts.get(&seen.epoch) {
            Some(shown) if *shown != seen.cut => Err(Violation::SplitOrder { seq: mail.seq, epoch: seen.epoch }),
            _ => Ok(()),
        }
    }

    fn offer(&mut self, mail: Mail) -> Result<(), ClientError> {
        let number = match &mail.content {
            Content::Sealed { number, .. } => Some(*number),
            Content::Foreign { .. } | Content::Unreadable { .. } => None,
        };
        let item = Item { index: mail.index, seq: mail.seq, id: mail.id, sender: mail.sender, number };
        self.verified.insert(mail.index, Box::new(mail));
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
        let attested = self.verifier.attested(attestation, &federation)?;
        self.expired_to = self.expired_to.max(attestation.log.expired_to);
        self.note_attested(attested);
        Ok(())
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
            let position = Position { log, before: Some(expired.last), mark: self.verifier.mark() };
            self.store.commit(&[], &position, std::iter::empty())?;
        }
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
