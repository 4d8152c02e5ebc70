//! A message as the application gets it.

use postroad_protocol::attestation::LogLeaf;
use postroad_protocol::cut::CertifiedCut;
use postroad_protocol::entry::{Entry, MessageProof};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Seq};

use crate::control::{Control, Numbering};
use crate::mailbox_dir::Mailbox;
use crate::seal::{Binding, Opened, Plain, Seen};
use crate::verify_log::Checked;

/// What a verified message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Sealed by this library.
    Sealed {
        /// The body.
        body: Vec<u8>,
        /// Its number from this sender to this mailbox.
        number: u64,
    },
    /// What the sender's library says to this one; no mail.
    Control {
        /// The question or answer.
        control: Control,
        /// Its number from this sender to this mailbox.
        number: u64,
    },
    /// The application's own ciphertext.
    Foreign {
        /// The payload that every recipient got.
        common: Vec<u8>,
        /// The payload for this recipient.
        own: Vec<u8>,
    },
    /// The sender sealed it wrongly. Its place is proven like that of any other.
    Unreadable {
        /// The common payload as it came.
        common: Vec<u8>,
        /// Why it does not open.
        reason: String,
    },
}

/// A verified message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Its index in this mailbox's log.
    pub index: u64,
    /// Its leaf there.
    pub leaf: LogLeaf,
    /// Its end-to-end id.
    pub id: Digest,
    /// Its place in the one order.
    pub seq: Seq,
    /// Cut time, Unix milliseconds.
    pub time_ms: u64,
    /// Who sent it.
    pub sender: MailboxId,
    /// The sender's counter.
    pub counter: u64,
    /// All recipients, as the sender says; only this mailbox, where the library did not seal.
    pub recipients: Vec<MailboxId>,
    /// The node that delivered it.
    pub home: NodeId,
    /// Whether it came after its place in the order had passed.
    pub late: bool,
    /// What it says.
    pub content: Content,
    /// Everything that proves it to a stranger, except the federation.
    pub cut: CertifiedCut,
    /// The entry as the home handed it over.
    pub entry: Entry,
}

impl Mail {
    /// The body, however it was sealed; none if it cannot be read.
    pub fn body(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Sealed { body, .. } => Some(body),
            Content::Foreign { common, .. } => Some(common),
            Content::Unreadable { .. } | Content::Control { .. } => None,
        }
    }

    /// Its number from this sender to this mailbox, if the library sealed it.
    pub fn number(&self) -> Option<u64> {
        match &self.content {
            Content::Sealed { number, .. } | Content::Control { number, .. } => Some(*number),
            Content::Foreign { .. } | Content::Unreadable { .. } => None,
        }
    }

    /// The proof that stands in a file.
    pub fn proof(&self, federation: &Federation) -> MessageProof {
        MessageProof { federation: federation.id(), cut: self.cut.clone(), entry: self.entry.proof.clone() }
    }

    /// The verified entry, opened, and what the sender says besides.
    pub(super) fn open(
        entry: Entry,
        checked: &Checked,
        cut: &CertifiedCut,
        mailbox: &Mailbox,
    ) -> (Mail, Option<(Seen, Numbering)>) {
        let me = mailbox.address();
        let placed = &checked.placed;
        let proof = &entry.proof;
        let binding = Binding { federation: mailbox.federation().id(), sender: placed.sender };
        let opened = binding.open(&proof.common, &proof.recipient.own, &me, mailbox.encryption());
        let unreadable = |reason: String| Content::Unreadable { common: proof.common.clone(), reason };
        let position = proof.recipient.position as usize;
        let (recipients, content, said) = match opened {
            Ok(Opened::Sealed { recipients, seen, numbering, plain }) => {
                if recipients.len() as u64 == u64::from(proof.recipient_count) && recipients.get(position) == Some(&me)
                {
                    let number = numbering.number;
                    let content = match plain {
                        Plain::Body(body) => Content::Sealed { body, number },
                        Plain::Control(control) => Content::Control { control, number },
                    };
                    (recipients, content, Some((seen, numbering)))
                } else {
                    (vec![me], unreadable("the sender lists other recipients than the message has".into()), None)
                }
            }
            Ok(Opened::Foreign { common, own }) => (vec![me], Content::Foreign { common, own }, None),
            Err(error) => (vec![me], unreadable(error.to_string()), None),
        };
        let mail = Mail {
            index: checked.index,
            leaf: checked.leaf,
            id: placed.id,
            seq: placed.seq,
            time_ms: placed.time_ms,
            sender: placed.sender,
            counter: placed.counter,
            recipients,
            home: mailbox.home().node(),
            late: checked.leaf.is_late(),
            content,
            cut: cut.clone(),
            entry,
        };
        (mail, said)
    }
}
