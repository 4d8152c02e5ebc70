//! The sins of a new home.

use std::collections::BTreeMap;

use postroad_protocol::MailboxId;
use postroad_protocol::attestation::LogHead;
use postroad_protocol::state::State;

use super::super::{Arrivals, Arriving, Steps, has_moved};
use crate::cheat::{Sin, Temptation};
use crate::tables::{self, ARRIVALS, EDGES, LOGS};

#[derive(Debug, Default)]
pub(crate) struct NewHome {
    pub(crate) temptation: Temptation,
    /// Mailboxes that have moved here, with the epochs in which they did, and whether that is denied.
    denied: BTreeMap<(MailboxId, u64), bool>,
    /// How many logs were taken over falsely.
    lies: u64,
}

impl NewHome {
    /// A log is whole, perhaps, with these steps. In turn, every import of it names one entry less; or its last row is not
    /// taken over, and what comes next takes its place.
    pub(in crate::arrivals) fn takes_over(
        &mut self,
        mailbox: &MailboxId,
        arriving: &mut Arriving,
        epoch: u64,
        steps: &mut Steps,
    ) {
        let is_whole = steps.whole.last() == Some(mailbox);
        let base = arriving.row.whole.as_mut().filter(|_| is_whole).and_then(|whole| whole.base.as_mut());
        let Some(base) = base.filter(|base| base.log.size > 0) else { return };
        if !self.temptation.sins(Sin::FalseImport, epoch) {
            return;
        }
        self.lies += 1;
        let building = &arriving.building;
        if let (Some(last), Some(edge), 0) = (building.rows.last(), &building.edge, self.lies % 2) {
            let mut edge = edge.clone();
            edge.expired_to = edge.expired_to.min(*last);
            steps.writes.push(tables::put(EDGES, mailbox.0, &edge));
            steps.writes.push(tables::delete(LOGS, tables::mailbox_key(mailbox, *last)));
            return;
        }
        let size = base.log.size - 1;
        base.log = LogHead { size, root: building.log.root_at(size).unwrap_or(base.log.root) };
        steps.writes.push(tables::put(ARRIVALS, mailbox.0, &arriving.row));
    }
}

impl Arrivals {
    /// Whether nothing is done for a mailbox that has moved here, though this node has signed the switch.
    pub(in crate::arrivals) fn denies(&mut self, mailbox: &MailboxId, arriving: &Arriving, head: &State) -> bool {
        let known = head.mailbox(mailbox).filter(|known| has_moved(known, &self.me, &arriving.row.record));
        let Some(known) = known.filter(|_| self.cheat.temptation.is(Sin::DenyAcceptance)) else { return false };
        let NewHome { temptation, denied, .. } = &mut self.cheat;
        *denied.entry((*mailbox, known.since)).or_insert_with(|| temptation.sins(Sin::DenyAcceptance, head.epoch))
    }
}
