//! Admission: which mailboxes this node takes in.

use postroad_protocol::moving::Extent;
use postroad_protocol::{MailboxId, PublicKey, Refusal};

use super::{Admission, Node, Phase};

impl Admission {
    /// Whether it admits this mailbox or node.
    pub fn allows(&self, who: &PublicKey) -> bool {
        match self {
            Admission::Open => true,
            Admission::Closed => false,
            Admission::List(list) => list.contains(who),
        }
    }
}

impl Node {
    /// Whether this node would take a mailbox over that holds so much, for its owner, unacknowledged, and so many others
    /// besides.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn may_move(&self, mailbox: &MailboxId, extent: Extent, besides: u64) -> Result<(), Refusal> {
        self.is_open()?;
        if !self.config.moves.allows(mailbox) {
            return Err(Refusal::NotAllowed { reason: "this node's policy for moves does not admit it".into() });
        }
        self.has_place(besides)?;
        let (held, limit) = (extent.bytes, self.config.max_move_bytes);
        if held > limit {
            let reason = format!("it holds {held} bytes unread where this node takes over {limit}; read some first");
            return Err(Refusal::NotAllowed { reason });
        }
        if self.phase == Phase::Joining || self.draining {
            return Err(Refusal::NotReady);
        }
        Ok(())
    }

    /// Whether one mailbox more may live here, and so many others besides.
    pub(super) fn has_place(&self, besides: u64) -> Result<(), Refusal> {
        let here = self.outbox.mailboxes() + self.registering.len() as u64;
        if here.saturating_add(besides) >= self.config.max_mailboxes {
            return Err(Refusal::NotAllowed { reason: "this node hosts as many mailboxes as it may".into() });
        }
        Ok(())
    }
}
