//! Retiring: a node that closes offers its mailboxes another home. Each owner takes it, or goes elsewhere, by a move like
//! any other; this node takes nobody in meanwhile, and carries mail as ever for those who are still here.

use minicbor::{Decode, Encode};
use postroad_protocol::moving::Extent;
use postroad_protocol::state::State;
use postroad_protocol::{MailboxId, NodeId, Refusal};

use super::{Node, Phase};
use crate::departures::is_safe;
use crate::io::{Output, Report, Token};
use crate::tables::{self, META, RETIREMENT};

/// What a node that closes remembers of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Retirement {
    /// The home that it offers.
    #[n(0)]
    pub to: NodeId,
    /// The epoch in which it began: who left before has not left because of it.
    #[n(1)]
    pub since: u64,
}

/// How far it has come, as the state has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whose mailboxes live here.
    pub remaining: Vec<MailboxId>,
    /// Whose have left, and may still need something from here: their new homes have not taken over everything, and
    /// attested that.
    pub leaving: Vec<MailboxId>,
    /// How many have left since this node closes, and need nothing.
    pub moved: u64,
    /// Slices that are ordered and that this node holds, or has sealed, and their destinations do not have yet.
    pub held: u64,
}

/// What `head` says of the retirement of `me`, or of a node that does not close.
pub fn progress(me: &NodeId, retirement: Option<&Retirement>, head: &State, routing_window_epochs: u64) -> Progress {
    let mut progress = Progress::default();
    for (mailbox, known) in head.mailboxes() {
        if known.home == *me {
            progress.remaining.push(*mailbox);
            continue;
        }
        let spans = known.moved.iter().flat_map(|moved| &moved.spans);
        let Some(left) = spans.filter(|span| span.node == *me).map(|span| span.until).max() else { continue };
        if !is_safe(known, head, routing_window_epochs) {
            progress.leaving.push(*mailbox);
        } else if retirement.is_some_and(|retirement| left > retirement.since) {
            progress.moved += 1;
        }
    }
    let holds = head.all_pending().filter(|(_, pending)| pending.origin == *me || pending.holders.contains(me));
    progress.held = holds.count() as u64;
    progress
}

impl Node {
    /// The home that this node offers its mailboxes, if it closes.
    pub fn retirement(&self) -> Option<&Retirement> {
        self.retirement.as_ref()
    }

    /// The mailboxes that live here, with what each of them would bring along.
    pub fn residents(&self) -> Vec<(MailboxId, Extent)> {
        let head = self.ledger.head();
        let here = head.mailboxes().filter(|(_, known)| known.home == self.me).map(|(mailbox, _)| *mailbox);
        here.map(|mailbox| (mailbox, self.inventory(&mailbox).map(|found| found.open).unwrap_or_default())).collect()
    }

    /// Whether this node may close, and offer `to`.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn may_retire(&self, to: &NodeId) -> Result<(), Refusal> {
        let not_allowed = |reason: &str| Err(Refusal::NotAllowed { reason: reason.into() });
        if self.sequencer.is_some() {
            return not_allowed("this node is the sequencer, and there is no order without it");
        }
        if *to == self.me {
            return not_allowed("a node that closes is no new home for its own mailboxes");
        }
        if self.ledger.head().node(to).is_none_or(|known| known.incarnation == 0) {
            return Err(Refusal::NotFound { what: format!("node {to} in the federation") });
        }
        if self.phase == Phase::Joining || self.draining {
            return Err(Refusal::NotReady);
        }
        Ok(())
    }

    /// The operator closes this node, or (none) thinks otherwise. Answered once that is durable.
    pub(super) fn retire(&mut self, token: Token, to: Option<NodeId>, out: &mut Vec<Output>) {
        if let Some(Err(refusal)) = to.map(|to| self.may_retire(&to)) {
            return out.push(Output::Retiring(token, Err(refusal)));
        }
        // Who has left for the home that was offered before has left because of that too.
        let since = self.retirement.map_or(self.ledger.head().epoch, |before| before.since);
        self.retirement = to.map(|to| Retirement { to, since });
        let write = match &self.retirement {
            Some(retirement) => tables::put(META, RETIREMENT, retirement),
            None => tables::delete(META, RETIREMENT),
        };
        self.persist(vec![write], out);
        out.push(Output::Retiring(token, Ok(())));
    }

    /// A cut has settled that mailboxes have left.
    pub(super) fn tell_retired(&self, out: &mut Vec<Output>) {
        let mut homes = self.ledger.head().mailboxes().map(|(_, known)| known.home);
        if self.retirement.is_some() && homes.all(|home| home != self.me) {
            out.push(Output::Report(Report::Retired));
        }
    }

    /// A node that closes takes nobody in.
    pub(super) fn is_open(&self) -> Result<(), Refusal> {
        match self.retirement {
            Some(_) => Err(Refusal::NotAllowed { reason: "this node closes, and takes no mailbox in any more".into() }),
            None => Ok(()),
        }
    }
}
