//! Leaving: what this node says of a mailbox of its own to whoever takes it over.

use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::message::RECIPIENT_BYTES;
use postroad_protocol::moving::{Extent, Handoff};
use postroad_protocol::wire::call::Inventory;
use postroad_protocol::{MailboxId, NodeId, Refusal, Signed};

use super::{Node, Phase};

impl Node {
    /// What a mailbox holds; none if it does not live here.
    pub fn inventory(&self, mailbox: &MailboxId) -> Option<Inventory> {
        let load = self.outbox.unacknowledged(mailbox)?;
        // A quota counts so many bytes more for each entry.
        let bytes = load.bytes.saturating_sub(load.entries.saturating_mul(RECIPIENT_BYTES));
        let open = Extent { entries: load.entries, bytes };
        Some(Inventory { open, size: self.outbox.size(mailbox)?, pending: self.receiver.pending() })
    }

    /// This node's word that it hands a log over to `home`: the one that `attested`, its own final attestation, names. As
    /// that says the same, nothing has to be written down before it is signed.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] while the start is not settled.
    pub fn hand_over(
        &self,
        mailbox: &MailboxId,
        home: &NodeId,
        attested: &MailboxAttestation,
    ) -> Result<Signed<Handoff>, Refusal> {
        if self.phase == Phase::Joining {
            return Err(Refusal::NotReady);
        }
        let federation = &self.config.federation;
        let base = attested.base(federation);
        #[cfg(feature = "cheat")]
        let base = self.old_home.hands_over(mailbox, base, &self.outbox)?;
        let handoff =
            Handoff { node: self.me, mailbox: *mailbox, home: *home, attestation: base.attestation, log: base.log };
        Ok(Signed::sign(handoff, &self.config.secret, federation).into_inner())
    }
}
