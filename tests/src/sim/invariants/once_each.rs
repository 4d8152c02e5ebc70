//! Nothing accepted is lost and nothing comes twice: when the world has healed, everything accepted or ordered is with
//! each of its recipients exactly once, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::bundle::Bundle;
use postroad_protocol::entry::Placed;
use postroad_protocol::{Digest, MailboxId, Seq};

use super::{Verdict, broken};

const NAME: &str = "once-each";

/// The promise that a sender has proof that a bundle was accepted.
pub(in crate::sim) const ACCEPTED: &str = "accepted";
/// The promise that it has proof that the bundle was ordered.
pub(in crate::sim) const ORDERED: &str = "ordered";

/// Everything that was sent, and everything that arrived.
#[derive(Debug, Default)]
pub(in crate::sim) struct OnceEach {
    /// Message → recipients and how many bundles carry it.
    sent: BTreeMap<Digest, Sent>,
    /// Recipient and message → where it came.
    came: BTreeMap<(MailboxId, Digest), BTreeSet<Seq>>,
    /// Messages that must arrive.
    owed: BTreeMap<Digest, &'static str>,
}

#[derive(Debug, Default)]
struct Sent {
    sender: Option<MailboxId>,
    recipients: BTreeSet<MailboxId>,
    /// (via, counter) of each bundle that carries it.
    copies: BTreeSet<(MailboxId, u64)>,
}

impl OnceEach {
    /// A client has signed a bundle.
    pub(in crate::sim) fn signed(&mut self, bundle: &Bundle) {
        let body = &bundle.signed.body;
        for (at, message) in bundle.messages.iter().enumerate() {
            let sent = self.sent.entry(message.digest()).or_default();
            sent.sender = Some(body.sender);
            sent.recipients.extend(message.recipients.iter().map(|recipient| recipient.mailbox));
            sent.copies.insert((body.via, body.counter + at as u64));
        }
    }

    /// A client has proof that a bundle was accepted, or ordered.
    pub(in crate::sim) fn promised(&mut self, bundle: &Bundle, how: &'static str) {
        for message in &bundle.messages {
            let promise = self.owed.entry(message.digest()).or_insert(how);
            if how == ORDERED {
                *promise = how;
            }
        }
    }

    /// A message came to a recipient.
    pub(in crate::sim) fn came(&mut self, recipient: &MailboxId, placed: &Placed) -> Verdict {
        let id = placed.id;
        let Some(sent) = self.sent.get(&id) else {
            return broken(NAME, format!("{recipient:?} got {id} at {}, which nobody sent", placed.seq));
        };
        if sent.sender != Some(placed.sender)
            || !sent.recipients.contains(recipient)
            || !sent.copies.contains(&(placed.via, placed.counter))
        {
            return broken(NAME, format!("{recipient:?} got {id} at {}, not as it was sent", placed.seq));
        }
        let copies = sent.copies.len();
        let places = self.came.entry((*recipient, id)).or_default();
        if !places.insert(placed.seq) || places.len() > copies {
            return broken(NAME, format!("{recipient:?} got {id} {} times: {places:?}", places.len() + 1));
        }
        Ok(())
    }

    /// A sender has lost a bundle that it had to keep: what was only accepted is not owed any more.
    pub(in crate::sim) fn not_kept(&mut self, bundle: &Bundle) {
        for message in &bundle.messages {
            self.owed.retain(|id, how| *id != message.digest() || *how != ACCEPTED);
        }
    }

    /// A recipient whose store was set back has forgotten a message, and reads it again.
    pub(in crate::sim) fn forgotten(&mut self, recipient: MailboxId, id: Digest, seq: Seq) {
        if let Some(places) = self.came.get_mut(&(recipient, id)) {
            places.remove(&seq);
            if places.is_empty() {
                self.came.remove(&(recipient, id));
            }
        }
    }

    /// A recipient that has moved reads on in a log of which it has kept this message.
    pub(in crate::sim) fn kept(&mut self, recipient: MailboxId, id: Digest, seq: Seq) {
        self.came.entry((recipient, id)).or_default().insert(seq);
    }

    /// How many (message, recipient) pairs are promised and have not come.
    pub(in crate::sim) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (id, how) in &self.owed {
            for recipient in self.sent.get(id).into_iter().flat_map(|sent| &sent.recipients) {
                if !self.came.contains_key(&(*recipient, *id)) {
                    missing.push(format!("{id} ({how}) for {recipient:?}"));
                }
            }
        }
        missing
    }

    /// Nothing may be missing of what the honest sent through the honest to the honest.
    pub(in crate::sim) fn finish_among(
        &self,
        mailboxes: &BTreeSet<MailboxId>,
        sinners: &BTreeSet<MailboxId>,
    ) -> Verdict {
        for (id, how) in &self.owed {
            let Some(sent) = self.sent.get(id).filter(|sent| !sent.copies.iter().any(|(via, _)| sinners.contains(via)))
            else {
                continue;
            };
            let missing = |recipient: &&MailboxId| !self.came.contains_key(&(**recipient, *id));
            if let Some(recipient) = sent.recipients.intersection(mailboxes).find(missing) {
                return broken(NAME, format!("{id} ({how}) never came to {recipient:?}, and no sinner had it"));
            }
        }
        Ok(())
    }

    /// The end: nothing may be missing.
    pub(in crate::sim) fn finish(&self) -> Verdict {
        let missing = self.missing();
        match missing.first() {
            None => Ok(()),
            Some(first) => broken(NAME, format!("{} never came, for example {first}", missing.len())),
        }
    }
}
