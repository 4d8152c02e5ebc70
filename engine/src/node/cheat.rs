//! A node that was told to cheat: what is no single room's.

use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::record::Record;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::PendingKey;
use postroad_store::{Read, StoreError, Write};

use super::Node;
use crate::cheat::{Cheat, Sin, Temptation};
use crate::io::{Output, Report};
use crate::slices::forget;

impl Node {
    /// From now on the node cheats.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tempt(&mut self, cheat: Cheat, store: &dyn Read) -> Result<(), StoreError> {
        self.router.cheat.temptation = Temptation::of(cheat);
        self.receiver.cheat.temptation = Temptation::of(cheat);
        self.outbox.tempt(Temptation::of(cheat), store)
    }

    /// Whether it hands a slice out to nobody.
    pub fn withholds(&mut self, key: &SliceKey) -> bool {
        self.receiver.cheat.withholds(key, self.ledger.head().epoch)
    }

    /// Says what it did.
    pub(super) fn confess(&mut self, out: &mut Vec<Output>) {
        let rooms = [&mut self.router.cheat.temptation, &mut self.receiver.cheat.temptation];
        let sins = rooms.into_iter().chain([&mut self.outbox.cheat.temptation]).flat_map(Temptation::take);
        out.extend(sins.map(|(sin, epoch)| Output::Report(Report::Sinned { sin: sin.name(), epoch })));
    }

    /// An attestation is to be begun. An owner may acknowledge at any moment, so what is forgotten too early is forgotten
    /// now, and attested at once.
    pub(super) fn expire_early(&mut self, out: &mut Vec<Output>) {
        if !self.draining
            && self.receiver.is_caught_up()
            && let Some(write) = self.outbox.expire_early(self.receiver.delivered())
        {
            self.persist(vec![write], out);
        }
    }

    /// A round of housekeeping.
    pub(super) fn cheat_on(&mut self, out: &mut Vec<Output>) {
        let writes = self.outbox.give_back();
        if !writes.is_empty() {
            self.persist(writes, out);
        }
        for slice in self.receiver.cheat.losing.clone() {
            self.hand_in_loss(&slice, out);
        }
    }

    /// A cut was applied: slices of others that it has under this node's receipt are deleted, and that is said at once.
    pub(super) fn lose(&mut self, cut: &Cut, writes: &mut Vec<Write>, out: &mut Vec<Output>) {
        for record in &cut.body.records {
            if let Record::Lost(lost) = record
                && lost.body.holder == self.me
            {
                let is_it = |key: &SliceKey| key.header == lost.body.header && key.destination == lost.body.destination;
                self.receiver.cheat.losing.retain(|key| !is_it(key));
            }
        }
        let me = self.me;
        for sealed in cut.body.headers.iter().filter(|sealed| sealed.header.body.origin != me) {
            let header = &sealed.header.body;
            for (slice, custody) in header.slices.iter().zip(&sealed.custody) {
                let digest = sealed.digest(&self.config.federation);
                let key = SliceKey {
                    origin: header.origin,
                    number: header.number,
                    header: digest,
                    destination: slice.destination,
                };
                let pending = PendingKey { destination: key.destination, header: digest };
                let is_owed = key.destination == me || self.ledger.head().pending(&pending).is_some();
                let is_held = custody.receipts.iter().map(Receipt::holder).any(|holder| holder == me);
                if is_owed && is_held && self.receiver.cheat.temptation.sins(Sin::Lose, cut.certified.header.epoch) {
                    self.receiver.lose(key);
                    writes.extend(forget(&key));
                    self.hand_in_loss(&key, out);
                }
            }
        }
    }
}
