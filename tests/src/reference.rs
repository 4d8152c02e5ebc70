//! The central server: a counter and a list per mailbox. What a federation has to be indistinguishable from.

use std::collections::BTreeMap;

use postroad_protocol::bundle::Bundle;
use postroad_protocol::{Digest, MailboxId};

/// One server that everybody trusts.
#[derive(Debug, Default)]
pub struct Central {
    counter: u64,
    mailboxes: BTreeMap<MailboxId, Vec<Delivered>>,
}

/// A message in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its place among all messages.
    pub number: u64,
    /// Its id.
    pub id: Digest,
    /// Its sender.
    pub sender: MailboxId,
    /// What every recipient gets.
    pub common: Vec<u8>,
    /// What this recipient gets.
    pub own: Vec<u8>,
}

impl Central {
    /// Takes a bundle: each message gets the next number, and is with its recipients.
    pub fn submit(&mut self, bundle: &Bundle) {
        for message in &bundle.messages {
            for recipient in &message.recipients {
                self.mailboxes.entry(recipient.mailbox).or_default().push(Delivered {
                    number: self.counter,
                    id: message.digest(),
                    sender: bundle.signed.body.sender,
                    common: message.common.clone(),
                    own: recipient.own.clone(),
                });
            }
            self.counter += 1;
        }
    }

    /// What is in a mailbox, in order.
    pub fn mailbox(&self, mailbox: &MailboxId) -> &[Delivered] {
        self.mailboxes.get(mailbox).map_or(&[], Vec::as_slice)
    }
}
