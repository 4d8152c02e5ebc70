//! What a move looks like from its new home.

use postroad_protocol::moving::{MovePhase, MoveStatus};
use postroad_protocol::state::State;
use postroad_protocol::{MailboxId, NodeId};

use super::Arrivals;

impl Arrivals {
    /// How far the move of a mailbox to this node has come; none if it neither moves here nor has moved here.
    pub fn status(&self, mailbox: &MailboxId, head: &State) -> Option<MoveStatus> {
        let known = head.mailbox(mailbox)?;
        let former = known.moved.as_ref().and_then(|moved| moved.spans.last()).filter(|_| known.home == self.me);
        let Some(arriving) = self.all.get(mailbox) else {
            let span = former?;
            let record = known.moved.as_ref().map_or(known.record, |moved| moved.switch);
            let status = MoveStatus::new(*mailbox, MovePhase::Finished, span.node, self.me, record);
            return Some(MoveStatus { epoch: Some(known.since), handed_over: true, ..status });
        };
        let delayed = head.delayed(mailbox).filter(|delayed| delayed.record == arriving.row.record);
        let from: NodeId = former.map_or(known.home, |span| span.node);
        let (here, total) = arriving.building.extent();
        Some(MoveStatus {
            mailbox: *mailbox,
            phase: arriving.row.phase,
            from,
            to: self.me,
            record: arriving.row.record,
            epoch: (known.home == self.me).then_some(known.since),
            due: delayed.map(|delayed| (delayed.due_age_ms, head.age_ms)),
            here,
            total,
            looked: arriving.looked,
            recovered: arriving.recovered,
            owed: arriving.items.owed(),
            handed_over: arriving.row.whole.as_ref().is_some_and(|whole| whole.handed_over),
            reason: arriving.reason.clone(),
        })
    }
}
