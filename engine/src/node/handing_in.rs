//! Handing in: what goes to the sequencer, which may be in this very node.

use postroad_protocol::receipt::{Fill, Sealed};
use postroad_protocol::record::Record;
use postroad_protocol::wire::order::ToSequencer;
use postroad_protocol::{NodeId, Verified};

use super::Node;
use crate::io::Output;

impl Node {
    pub(super) fn hand_in_header(&mut self, from: Option<NodeId>, sealed: Verified<Sealed>, out: &mut Vec<Output>) {
        match &mut self.sequencer {
            Some(sequencer) => sequencer.header(from, sealed, self.ledger.head(), out),
            None => out.push(Output::ToSequencer(Box::new(ToSequencer::Sealed(Box::new(sealed.into_inner()))))),
        }
    }

    pub(super) fn hand_in_fill(&mut self, fill: Fill, out: &mut Vec<Output>) {
        match &mut self.sequencer {
            Some(sequencer) => sequencer.fill(self.me, Verified::from_own_disk(fill), self.ledger.head(), out),
            None => out.push(Output::ToSequencer(Box::new(ToSequencer::Fill(Box::new(fill))))),
        }
    }

    pub(super) fn hand_in_record(&mut self, record: Verified<Record>, out: &mut Vec<Output>) {
        match &mut self.sequencer {
            Some(sequencer) => sequencer.record(self.me, record, self.ledger.head(), out),
            None => out.push(Output::ToSequencer(Box::new(ToSequencer::Record(Box::new(record.into_inner()))))),
        }
    }
}
