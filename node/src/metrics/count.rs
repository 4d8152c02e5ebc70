//! What is counted when: outputs of the engine as they are carried out, and what the core shows between two groups.

use std::time::Duration;

use postroad_engine::{Backlog, Node, Output, Report};
use postroad_protocol::NodeId;
use postroad_protocol::wire::client::Answer;
use postroad_protocol::wire::mail::Homeward;

use super::{KindLabel, Metrics, PeerLabel, QueueLabels, signed};

/// A queue towards a peer: who, on which stream, how many messages wait, and how many may.
pub(crate) type PeerQueue<'a> = (&'a NodeId, &'static str, usize, usize);

impl Metrics {
    /// An output is carried out: everything before it is durable.
    pub(crate) fn count(&self, output: &Output) {
        match output {
            Output::ToOrigin(_, Homeward::Receipts(receipts)) => {
                self.receipts_signed.inc_by(receipts.len() as u64);
            }
            Output::Publish(_) => {
                self.cuts_signed.inc();
            }
            Output::Answer(_, _, answer) => {
                if let Answer::Refused(refusal) = &**answer {
                    self.refused("bundle", refusal);
                }
            }
            Output::Attested(view) => {
                let kind = if view.anchor.is_some() { "final" } else { "signed" };
                self.attestations.get_or_create(&KindLabel { kind }).inc();
                if view.anchor.is_some() {
                    self.pulse.attested(view.attestation.body.epoch);
                }
            }
            Output::Report(report) => self.count_report(report),
            _ => {}
        }
    }

    fn count_report(&self, report: &Report) {
        match report {
            Report::Taken { messages } => self.taken.add(1, *messages),
            Report::Accepted { bundles, messages } => self.accepted.add(*bundles, *messages),
            Report::Ordered { bundles, messages } => self.ordered.add(*bundles, *messages),
            Report::Delivered { entries } => {
                self.delivered.inc_by(*entries);
            }
            Report::Cut { headers, messages, fills } => {
                self.cuts_applied.inc();
                self.cut_headers.inc_by(*headers);
                self.cut_messages.inc_by(*messages);
                self.cut_fills.inc_by(*fills);
            }
            Report::Held { in_custody } => {
                let kind = if *in_custody { "custody" } else { "own" };
                self.slices_held.get_or_create(&KindLabel { kind }).inc();
            }
            Report::Away { node, .. } => {
                self.peer_away.get_or_create(&PeerLabel::node(node)).inc();
            }
            Report::Back { node } => {
                self.peer_back.get_or_create(&PeerLabel::node(node)).inc();
            }
            Report::Resealed { batches } => {
                self.batches_resealed.inc_by(*batches);
            }
            Report::Refused { peer, .. } => {
                let peer = peer.as_ref().map_or_else(|| "stranger".to_owned(), NodeId::to_string);
                self.statements_refused.get_or_create(&PeerLabel { peer }).inc();
            }
            Report::Convicted { verdict, .. } => {
                self.evidence.get_or_create(&KindLabel { kind: verdict.fault.code() }).inc();
            }
            Report::Started { .. } | Report::Retired | Report::NoDeputy { .. } | Report::Sinned { .. } => {}
        }
    }

    /// A group of so many messages was committed, in this time; the store had something to write.
    pub(crate) fn committed(&self, messages: usize, took: Duration) {
        self.store_commit_seconds.observe(took.as_secs_f64());
        self.store_group_messages.observe(messages as f64);
    }

    /// Shows how the engine stands. The core calls it between two groups, a few times a second.
    pub(crate) fn show<'a>(&self, node: &Node, core: (usize, usize), queues: impl Iterator<Item = PeerQueue<'a>>) {
        let head = node.head();
        self.pulse.show(head.epoch, head.time_ms, node.incarnation());
        let (mailboxes, pending) = node.load();
        self.mailboxes.set(signed(mailboxes));
        self.pending_slices.set(signed(pending));
        self.overdue_slices.set(signed(node.overdue().len() as u64));
        self.delivered_epoch.set(signed(node.settled().0));
        let Backlog {
            inbox_bytes,
            inbox_bound_bytes,
            batches,
            batch_bytes,
            batch_bound_bytes,
            undelivered,
            registrations,
        } = node.backlog();
        self.inbox_bytes.set(signed(inbox_bytes));
        self.inbox_bound_bytes.set(signed(inbox_bound_bytes));
        self.batches_under_way.set(signed(batches));
        self.batches_under_way_bytes.set(signed(batch_bytes));
        self.batches_under_way_bound_bytes.set(signed(batch_bound_bytes));
        self.undelivered_epochs.set(signed(undelivered));
        self.registrations_waiting.set(signed(registrations));
        self.core_queue.set(signed(core.0 as u64));
        self.core_queue_bound.set(signed(core.1 as u64));
        let me = node.me();
        for (other, _) in head.nodes().filter(|(other, _)| *other != me) {
            let label = PeerLabel::node(other);
            let (connected, present) = (node.peers().is_connected(other), node.peers().is_present(other));
            self.peer_connected.get_or_create(&label).set(i64::from(connected));
            self.peer_present.get_or_create(&label).set(i64::from(present));
        }
        // A queue goes with its stream.
        self.peer_queue.clear();
        self.peer_queue_bound.clear();
        for (peer, stream, waiting, bound) in queues {
            let labels = QueueLabels { peer: peer.to_string(), stream };
            self.peer_queue.get_or_create(&labels).set(signed(waiting as u64));
            self.peer_queue_bound.get_or_create(&labels).set(signed(bound as u64));
        }
    }
}
