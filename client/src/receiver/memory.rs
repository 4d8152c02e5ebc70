//! What a mailbox knows by itself of a message and of its log: its part of an explanation, for which nobody has to be
//! asked. What it keeps of entries says how far that reaches ([`super::keep`]).

use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::codec::decode;
use postroad_protocol::evidence::{BundleAt, Included, MessageAt, RecipientAt};
use postroad_protocol::explanation::{Disclosed, Explanation, LogOrder, LogWord};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::{Federation, MailboxId, Seq};

use super::attested::Attestations;
use super::store::{RecvStore, Remembered};
use super::{Kept, Receiver};
use crate::control::Statements;
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;

/// What a mailbox remembers, read without connecting.
#[derive(Debug)]
pub struct Memory {
    mailbox: MailboxId,
    federation: Federation,
    store: RecvStore,
    found: Remembered,
}

impl Memory {
    /// Reads what a receiver of this mailbox has kept.
    ///
    /// # Errors
    /// [`ClientError::Store`] (`InUse`) while a receiver runs on the mailbox.
    pub fn open(mailbox: &Mailbox) -> Result<Memory, ClientError> {
        let store = RecvStore::open(mailbox.dir())?;
        let found = store.load(None, None)?;
        Ok(Memory { mailbox: mailbox.address(), federation: mailbox.federation().clone(), store, found })
    }

    /// What is kept of the message at `seq`.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn known(&self, seq: Seq) -> Result<Explanation, ClientError> {
        let mut notes = self.found.shelf.notes().iter();
        let Some((index, note)) = notes.find(|(_, note)| note.leaf.seq == seq) else {
            return Ok(Explanation::new(self.mailbox, seq));
        };
        let kept = self.store.kept(*index)?;
        let known = kept.map_or_else(|| Explanation::new(self.mailbox, seq), |kept| kept.explain(self.mailbox));
        Ok(Explanation { log: self.word(note.leaf.order()).map(Box::new), ..known })
    }

    /// What is known of a sender's message with this number that is not here, and where it stands: by the sender's answer,
    /// or by the hint in a later message. None if neither has said that.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn missing(&self, sender: &MailboxId, number: u64) -> Result<Option<Explanation>, ClientError> {
        let told = self.store.told(sender, number)?;
        let statements = told.and_then(|told| decode::<Statements>(&told.statements).ok());
        if let Some(known) = statements.and_then(|statements| statements.explain(self.mailbox, &self.federation)) {
            return Ok(Some(known));
        }
        let mut holes = self.found.numbers.get(sender).into_iter().flat_map(|numbers| numbers.holes());
        let hint = holes.find_map(|hole| hole.hint.filter(|(of, _)| *of == number));
        Ok(hint.map(|(_, place)| Explanation::new(self.mailbox, place.seq)))
    }

    /// Adds what this mailbox's log holds at the message's place, once that is known.
    pub fn complete(&self, explanation: &mut Explanation) {
        complete(explanation, &self.federation, |order| self.word(order));
    }

    fn word(&self, order: LogOrder) -> Option<LogWord> {
        let Remembered { shelf, above, position, attestations, .. } = &self.found;
        let leaf = |index: u64| shelf.notes().get(&index).map(|note| note.leaf).or_else(|| above.get(&index).copied());
        word(attestations, [shelf.floor(), Some(&position.log)], leaf, order)
    }
}

impl Receiver {
    /// Adds what this mailbox's log holds at the message's place, once that is known.
    pub fn complete(&self, explanation: &mut Explanation) {
        let leaf = |index: u64| self.kept_leaf(index).or_else(|| self.verifier.leaf_at(index));
        let edge = self.verifier.frontier_at(self.low);
        complete(explanation, self.mailbox.federation(), |order| {
            word(&self.attestations, [self.shelf.floor(), edge.as_ref()], leaf, order)
        });
    }
}

fn complete(explanation: &mut Explanation, federation: &Federation, word: impl Fn(LogOrder) -> Option<LogWord>) {
    if let Some(log) = explanation.log_order(federation).and_then(word) {
        let (mailbox, seq) = (explanation.mailbox, explanation.seq);
        explanation.merge(Explanation { log: Some(Box::new(log)), ..Explanation::new(mailbox, seq) }, federation);
    }
}

/// The home's last final word at `order`, if the leaves that are known lead to what it attested: all of them, or those
/// above a size of which the log's right edge is known.
fn word(
    attestations: &Attestations,
    edges: [Option<&Frontier>; 2],
    leaf: impl Fn(u64) -> Option<LogLeaf>,
    order: LogOrder,
) -> Option<LogWord> {
    let attestation = attestations.last_final()?;
    let start = Frontier::new();
    let mut bases = std::iter::once(&start).chain(edges.into_iter().flatten());
    bases.find_map(|base| {
        let leaves: Option<Vec<LogLeaf>> = (base.size()..attestation.log.log.size).map(&leaf).collect();
        LogWord::of(attestation, base, &leaves?, order)
    })
}

impl Kept {
    /// What it says of the message's way.
    pub fn explain(&self, mailbox: MailboxId) -> Explanation {
        let proof = &self.proof;
        let bundle = BundleAt { ordinal: proof.ordinal, signed: proof.bundle.clone(), path: proof.bundle_path.clone() };
        let message =
            MessageAt { bundle, index: proof.index, message: self.leaf.message, path: proof.message_path.clone() };
        let recipient = RecipientAt {
            position: proof.position,
            count: proof.recipient_count,
            mailbox,
            salt: proof.salt,
            own: self.leaf.own,
            common: proof.common,
            path: proof.recipient_path.clone(),
        };
        Explanation {
            included: Some(Included { cut: proof.cut.clone(), order: proof.order.clone() }),
            disclosed: Some(Box::new(Disclosed { message, recipient })),
            ..Explanation::new(mailbox, self.leaf.seq)
        }
    }
}

impl Statements {
    /// What they say of the message's way; none if they do not hold.
    pub fn explain(&self, mailbox: MailboxId, federation: &Federation) -> Option<Explanation> {
        let first = self.ordered.verify(&self.bundle, federation).ok()?;
        let seq = Seq { index: first.index.checked_add(u64::from(self.index))?, ..first };
        let (ordered, recipient) = (&self.ordered, &self.recipient);
        let order = &ordered.order;
        let bundle = BundleAt { ordinal: ordered.ordinal, signed: self.bundle.clone(), path: ordered.path.clone() };
        let leaf = recipient.message(self.recipient_count, self.common)?;
        let message = MessageAt { bundle, index: self.index, message: leaf, path: self.path.clone() };
        let recipient = RecipientAt {
            position: recipient.position,
            count: self.recipient_count,
            mailbox: recipient.mailbox,
            salt: recipient.salt,
            own: recipient.own_digest(),
            common: self.common,
            path: recipient.path.clone(),
        };
        Some(Explanation {
            included: Some(Included { cut: ordered.cut.clone(), order: order.clone() }),
            custody: ordered.custody.clone(),
            disclosed: Some(Box::new(Disclosed { message, recipient })),
            ..Explanation::new(mailbox, seq)
        })
    }
}
