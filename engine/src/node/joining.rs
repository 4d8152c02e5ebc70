//! Joining: the node's record and its start are settled before it signs anything else.

use postroad_protocol::record::{Appointed, Record, Start};
use postroad_protocol::{Digest, Signed, Verified};

use super::{Node, Phase};
use crate::io::{Output, Report, Time};
use crate::tables::{self, BATCHES, FORGOTTEN, META, StoredBatch};
use postroad_protocol::signed::Statement;
use postroad_protocol::wire::mail::Homeward;
use postroad_store::{Read, StoreError};

/// How long a node that has just started waits for the mail that waited for it, before it takes new mail itself.
const RETURN_PATIENCE_MS: u64 = 3_000;

impl Node {
    /// The sequencer is in reach, with its last epoch, or out of reach.
    pub(super) fn sequencer_changed(&mut self, epoch: Option<u64>, out: &mut Vec<Output>) {
        if self.sequencer.is_some() {
            return;
        }
        self.sequencer_epoch = epoch;
        if epoch.is_none() {
            return;
        }
        // What was handed in before may have been lost with the connection.
        for flight in self.router.flights() {
            flight.handed_in = false;
        }
        let fills: Vec<_> = self.receiver.open_fills().cloned().collect();
        for fill in fills {
            self.hand_in_fill(fill, out);
        }
        self.hand_in_registrations(out);
        self.pursue_start(out);
    }

    /// Whether all cuts that the sequencer had when it was last reached are applied.
    pub(super) fn follows(&self) -> bool {
        self.sequencer_epoch.is_some_and(|epoch| self.ledger.head().epoch >= epoch)
    }

    /// Hands in the record and the start, if they are not settled.
    pub(super) fn pursue_start(&mut self, out: &mut Vec<Output>) {
        if self.phase != Phase::Joining || !self.follows() || self.draining {
            return;
        }
        let known = self.ledger.head().node(&self.me);
        let incarnation = known.map_or(0, |node| node.incarnation);
        if !known.is_some_and(|node| self.is_current(node)) {
            // Whoever starts waits for nobody: the deputies' consents come later.
            let record = Record::Node(Appointed::alone(self.draft_record(Vec::new())));
            // A sole sequencer settles its own, and must certify nothing that others refuse.
            match Verified::check(record, &self.config.federation) {
                Ok(record) => self.hand_in_record(record, out),
                Err(error) => {
                    out.push(Output::Fatal(format!(
                        "this node's record cannot be settled: {error}; change its configuration"
                    )));
                    return;
                }
            }
        }
        let body = Start { node: self.me, incarnation: incarnation + 1, nonce: self.config.nonce };
        let signed = Signed::sign(body, &self.config.secret, &self.config.federation);
        self.hand_in_record(Verified::from_own_disk(Record::Start(signed.into_inner())), out);
    }

    /// After a cut: is the start settled, or has another process with this key started since?
    pub(super) fn check_start(&mut self, store: &dyn Read, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let head = self.ledger.head();
        let Some(known) = head.node(&self.me).filter(|node| node.incarnation > 0) else { return Ok(()) };
        let mine = known.nonce == self.config.nonce;
        match self.phase {
            Phase::Started { .. } if !mine => {
                let reason = "another process with this node's key has started since; only one may run. \
                              If the directory was copied, stop one of the two";
                out.push(Output::Fatal(reason.into()));
            }
            Phase::Joining if mine => {
                let incarnation = known.incarnation;
                let last = known.last_header;
                let attested = known.last_attestation.map_or(0, |last| last.attestation.number);
                let started = known.started;
                self.phase = Phase::Started { incarnation };
                let mut writes = Vec::new();
                if !self.has_batch(last.map(|last| (last.number, last.digest)), store)? {
                    let lowest = started + self.config.federation.params().validity_epochs + 1;
                    self.inbox.forget_before(lowest);
                    // Written down: at the next start the last included header may be one that was sealed since.
                    writes.push(tables::put(META, FORGOTTEN, &lowest));
                }
                self.router.start(incarnation, last.map_or(0, |last| last.number));
                self.receiver.start(incarnation);
                self.outbox.start(incarnation, attested);
                out.push(Output::Report(Report::Started { incarnation }));
                // What an earlier incarnation wrote and did not sign, or signed and did not send, goes on.
                self.persist(writes, out);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the last included header is on this node's disk; if not, the disk was set back (rule 4).
    fn has_batch(&self, last: Option<(u64, Digest)>, store: &dyn Read) -> Result<bool, StoreError> {
        let Some((number, digest)) = last else { return Ok(true) };
        let batch: Option<StoredBatch> = tables::get(store, BATCHES, &tables::number_key(number))?;
        Ok(batch.is_some_and(|batch| batch.header.digest(self.config.federation.id()) == digest))
    }

    /// Tells origins when this node becomes ready for slices of its own, or is no longer.
    pub(super) fn tell_ready(&mut self, time: Time, out: &mut Vec<Output>) {
        let started = matches!(self.phase, Phase::Started { .. });
        let following = self.sequencer.is_some() || self.sequencer_epoch.is_none() || self.follows();
        let here = started && following && self.receiver.is_caught_up();
        if here && !self.has_returned {
            // What waited for this node comes first, so that its mailboxes get their mail in order; but where mail goes
            // on all the while, the last of it is never in, so that is not waited for for ever.
            let since = *self.here_since.get_or_insert(time);
            self.has_returned = self.receiver.obtainable() == 0 || time.since_ms(since) >= RETURN_PATIENCE_MS;
        }
        let ready = here && self.has_returned && !self.draining;
        if ready != self.told_ready {
            self.told_ready = ready;
            out.push(Output::ToOrigins(Homeward::Ready(ready)));
        }
    }
}
