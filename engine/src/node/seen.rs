//! What a node shows of itself, to those who drive, serve and watch it.

use postroad_protocol::NodeId;
use postroad_protocol::block_list::BlockList;
use postroad_protocol::merkle::tree::Path;
use postroad_protocol::state::State;
use postroad_protocol::wire::client::Overdue;
use postroad_protocol::{MailboxId, Signed};

use super::{Node, Phase};
use crate::io::ClientId;
use crate::ledger::Ledger;

/// What waits in a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Payload bytes that wait to be sealed.
    pub inbox_bytes: u64,
    /// And how many may.
    pub inbox_bound_bytes: u64,
    /// Batches that are sealed and not ordered.
    pub batches: u64,
    /// Their payload bytes.
    pub batch_bytes: u64,
    /// And how many there may be.
    pub batch_bound_bytes: u64,
    /// Epochs whose mail for this node is not in the logs yet.
    pub undelivered: u64,
    /// Registrations that no cut has settled yet.
    pub registrations: u64,
}

impl Node {
    /// Who this node is.
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// The state after the last cut.
    pub fn head(&self) -> &State {
        self.ledger.head()
    }

    /// The states of recent epochs.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How other nodes look from here.
    pub fn peers(&self) -> &crate::peers::Peers {
        &self.router.peers
    }

    /// The last epoch whose mail is in the logs, and below which (epoch, position) nothing can come late.
    pub fn settled(&self) -> (u64, (u64, u32)) {
        (self.receiver.delivered(), self.receiver.settled_below())
    }

    /// Slices for this node that are overdue: mail that its mailboxes miss.
    pub fn overdue(&self) -> Vec<Overdue> {
        self.receiver.overdue()
    }

    /// A client was told elsewhere to send the bundle with this counter again later: its order is kept.
    pub fn put_off(&mut self, client: ClientId, counter: u64) {
        self.inbox.put_off(client, counter);
    }

    /// The incarnation; zero while the start is not settled.
    pub fn incarnation(&self) -> u64 {
        match self.phase {
            Phase::Joining => 0,
            Phase::Started { incarnation } => incarnation,
        }
    }

    /// How many mailboxes live here, and how many slices for this node are pending.
    pub fn load(&self) -> (u64, u64) {
        (self.outbox.mailboxes(), self.receiver.pending())
    }

    /// Whether a mailbox's log is here: it lives here, and if it moved here, its log has come.
    pub fn hosts(&self, mailbox: &MailboxId) -> bool {
        self.outbox.size(mailbox).is_some()
    }

    /// What waits here, and in which bounds.
    pub fn backlog(&self) -> Backlog {
        let (inbox_bytes, inbox_bound_bytes) = self.inbox.queued_bytes();
        let (batches, batch_bytes) = self.router.under_way();
        Backlog {
            inbox_bytes,
            inbox_bound_bytes,
            batches,
            batch_bytes,
            batch_bound_bytes: self.config.max_flight_bytes,
            undelivered: self.receiver.undelivered(),
            registrations: self.registering.len() as u64,
        }
    }

    /// From entries of a mailbox's log to its root when it had `size` entries.
    pub fn log_paths(&self, mailbox: &MailboxId, size: u64, indexes: &[u64]) -> Option<Vec<Path>> {
        self.outbox.paths(mailbox, size, indexes)
    }

    /// The block list of a mailbox.
    pub fn block_list(&self, mailbox: &MailboxId) -> Option<&Signed<BlockList>> {
        self.gate.block_list(mailbox)
    }

    /// Whether nothing waits to be sealed and everything sealed is complete: a draining node may stop.
    pub fn is_drained(&self) -> bool {
        self.inbox.is_empty() && !self.outbox.has_fresh() && self.router.all_complete()
    }
}
