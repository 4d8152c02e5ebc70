//! Asking senders about holes, and answering those who ask: through the mail itself, from the same mailbox.
//!
//! What was asked is remembered in `recv/` once the question is signed in `send/`, so it is asked once, whatever dies
//! in between. While another process sends for this mailbox, questions and answers wait for the next time.

use std::time::Duration;

use postroad_protocol::attestation::{LogHead, LogLeaf, MailboxAttestation};
use postroad_protocol::codec::decode;
use postroad_protocol::{MailboxId, Seq};
use tokio::time::timeout;

use super::{Content, Kept, Mail, Received, Receiver};
use crate::control::{Control, Fate, MAX_STATEMENT_BYTES, Statements, Told};
use crate::error::ClientError;
use crate::numbers::{Closed, Hole};
use crate::sender::{Outgoing, Sender};

/// How long the origin may take until a question or an answer can be signed.
const SIGNING_PATIENCE: Duration = Duration::from_secs(3);
/// How long to stay until what was signed is ordered. What is not is sent by the next sender.
const ORDER_PATIENCE: Duration = Duration::from_secs(3);

impl Receiver {
    /// Whether a sender is to be asked about a hole, or somebody who asked is to be answered.
    pub fn has_letters(&mut self) -> bool {
        self.letters.duty().is_some() || self.next_question().is_some()
    }

    /// Asks the senders of all holes that were not asked yet, and answers those who asked this mailbox, through a sender
    /// of the same mailbox. Returns how many letters are on their way; what does not get there now waits for the next
    /// call. Each hole is asked about once.
    ///
    /// # Errors
    /// [`ClientError::Store`], [`ClientError::Stopped`].
    pub async fn correspond(&mut self, sender: &Sender) -> Result<usize, ClientError> {
        let mut letters = 0;
        while let Some((peer, hole)) = self.next_question() {
            if !is_signed(sender, peer, Control::Ask { from: hole.from, to: hole.to }).await? {
                return Ok(letters);
            }
            self.letters.asked(peer, self.time_ms);
            self.delivery.asked(&peer, hole.from);
            self.touched.insert(peer);
            self.save(Vec::new(), &[])?;
            letters += 1;
        }
        while let Some(duty) = self.letters.duty() {
            // A stranger, to whom nothing can be missing, does not even learn that somebody is here.
            if sender.has_written_to(&duty.peer)? {
                let told = sender.told(&duty.peer, duty.from)?;
                if !is_signed(sender, duty.peer, Control::Told(told)).await? {
                    return Ok(letters);
                }
                letters += 1;
            }
            self.letters.answered();
            self.save(Vec::new(), &[])?;
        }
        Ok(letters)
    }

    /// As [`Receiver::correspond`], with a sender of its own that is gone afterwards. Returns false if there is
    /// something to write and another sender runs on the mailbox, in this process or another: it waits.
    ///
    /// # Errors
    /// Those of [`Receiver::correspond`].
    pub async fn correspond_alone(&mut self) -> Result<bool, ClientError> {
        if !self.has_letters() {
            return Ok(true);
        }
        let Some(sender) = Sender::connect_now(&self.mailbox)? else {
            return Ok(false);
        };
        let done = self.correspond(&sender).await;
        sender.finish(ORDER_PATIENCE).await;
        done.map(|_| true)
    }

    fn next_question(&mut self) -> Option<(MailboxId, Hole)> {
        let (letters, now_ms) = (&mut self.letters, self.time_ms);
        self.delivery.holes().find(|(peer, hole)| !hole.asked && letters.may_ask(*peer, now_ms))
    }

    /// What another library says to this one.
    pub(super) fn letter(&mut self, mail: &Mail) {
        // Read again, it was answered then.
        if mail.index < self.low || self.above.contains_key(&mail.index) {
            return;
        }
        match &mail.content {
            Content::Control { control: Control::Ask { from, to }, .. } => {
                self.is_changed |= self.letters.question(mail.sender, *from, *to, mail.time_ms);
            }
            Content::Control { control: Control::Told(told), .. } => self.answer(mail.sender, told),
            _ => {}
        }
    }

    fn answer(&mut self, sender: MailboxId, told: &Told) {
        let number = told.number;
        let is_missing =
            self.delivery.holes().any(|(of, hole)| of == sender && (hole.from..=hole.to).contains(&number));
        if !is_missing || told.statements.len() > MAX_STATEMENT_BYTES {
            return;
        }
        let why = match told.fate {
            Fate::GivenUp => Some(Closed::GivenUp),
            Fate::Ordered => self.is_refused(&sender, told).then_some(Closed::Refused),
            Fate::Waiting | Fate::Unknown => None,
        };
        if let Some(why) = why {
            let mut outs = Vec::new();
            self.delivery.explained(&sender, number, why, &mut outs);
            self.hand_out(outs);
        }
        self.touched.insert(sender);
        self.told_now.push((sender, told.clone()));
        self.is_changed = true;
    }

    /// Whether the sender proves that this mailbox's home has refused the message.
    fn is_refused(&self, sender: &MailboxId, told: &Told) -> bool {
        let Ok(statements) = decode::<Statements>(&told.statements) else { return false };
        let former = self.residence.iter().flat_map(|residence| residence.former.iter().copied());
        let mut homes = former.chain([self.mailbox.home().node()]);
        let is_theirs = statements.bundle.body.sender == *sender;
        is_theirs
            && homes.any(|home| {
                let proven = statements.verify(&self.mailbox.address(), &home, self.mailbox.federation());
                proven.is_some_and(|(seq, refused)| told.seq == Some(seq) && refused.is_some())
            })
    }

    /// Everything that is missing: for each hole its sender and numbers, and where the sender has told that one of them
    /// stands.
    pub fn holes(&self) -> impl Iterator<Item = (MailboxId, Hole)> + '_ {
        self.delivery.holes()
    }

    /// Whether the sender was asked about the hole that begins with this number.
    pub fn is_asked(&self, sender: &MailboxId, from: u64) -> bool {
        self.delivery.holes().any(|(of, hole)| of == *sender && hole.from == from && hole.asked)
    }

    /// What a sender has answered about its message with this number: its place, and an encoded [`Statements`].
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn told(&self, sender: &MailboxId, number: u64) -> Result<Option<Told>, ClientError> {
        self.store.told(sender, number)
    }

    /// The last attestations of the home, all of whose signatures hold: the last final one first, then the others,
    /// oldest first.
    pub fn attestations(&self) -> Vec<MailboxAttestation> {
        self.attestations.all().cloned().collect()
    }

    /// The leaf of an acknowledged entry, if it is kept.
    pub fn kept_leaf(&self, index: u64) -> Option<LogLeaf> {
        self.shelf.notes().get(&index).map(|note| note.leaf)
    }

    /// An acknowledged entry with its proof, if it is kept.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn kept(&self, index: u64) -> Result<Option<Kept>, ClientError> {
        self.store.kept(index)
    }

    /// The kept entries next to a place in the order, each with its log index: the last that is not after it, and the
    /// first that is. They are neighbours in the log if their indices are.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn kept_beside(&self, seq: Seq) -> Result<[Option<(u64, Kept)>; 2], ClientError> {
        let (before, after) = self.shelf.beside(seq);
        let kept = |index: Option<u64>| match index {
            Some(index) => Ok(self.store.kept(index)?.map(|kept| (index, kept))),
            None => Ok::<_, ClientError>(None),
        };
        Ok([kept(before)?, kept(after)?])
    }

    /// The log when it had `size` entries, as it was verified here, if what is kept tells.
    pub fn log_at(&self, size: u64) -> Option<LogHead> {
        self.verifier.head_at(size).or_else(|| self.shelf.head_at(size))
    }

    /// All holes that were not asked about are told again at a start.
    pub(super) fn tell_open_holes(&mut self) {
        let open = self.delivery.holes().filter(|(_, hole)| !hole.asked);
        self.queue.extend(open.map(|(sender, hole)| Received::Gap { sender, hole }));
    }

    pub(super) fn gap(&self, sender: MailboxId, from: u64, to: u64) -> Received {
        let known = self.delivery.numbers(&sender).and_then(|numbers| numbers.holes().find(|hole| hole.from == from));
        Received::Gap { sender, hole: known.unwrap_or(Hole { from, to, hint: None, asked: false }) }
    }
}

/// Gives a letter to the sender, and waits until it is signed: from then on it leaves, whatever happens.
async fn is_signed(sender: &Sender, to: MailboxId, control: Control) -> Result<bool, ClientError> {
    let mut ticket = sender.send(Outgoing::control(to, control)).await?;
    Ok(timeout(SIGNING_PATIENCE, ticket.signed()).await.unwrap_or(false))
}
