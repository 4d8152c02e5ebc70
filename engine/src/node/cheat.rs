//! A node that was told to cheat: what is no single room's.

use std::cell::RefCell;
use std::collections::BTreeMap;

use postroad_protocol::cut::Cut;
use postroad_protocol::moving::Base;
use postroad_protocol::receipt::Receipt;
use postroad_protocol::record::Record;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::PendingKey;
use postroad_protocol::{MailboxId, Refusal};
use postroad_store::{Read, StoreError, Write};

use super::Node;
use crate::cheat::{Cheat, Sin, Temptation};
use crate::departures::has_lived;
use crate::io::{Output, Report};
use crate::outbox::Outbox;
use crate::slices::forget;

/// The sins of an old home. It commits them when it is asked, which changes nothing else of a node.
#[derive(Debug, Default)]
pub(super) struct OldHome {
    temptation: RefCell<Temptation>,
    /// What was asked for, by the number of the attestation, and whether it lies about that or says nothing.
    judged: RefCell<BTreeMap<(MailboxId, u64), bool>>,
}

impl OldHome {
    /// What is signed as handed over: the log that was attested last, or another one, or nothing. Every page of one log
    /// says the same.
    pub(super) fn hands_over(&self, mailbox: &MailboxId, base: Base, outbox: &Outbox) -> Result<Base, Refusal> {
        if self.withholds(mailbox, base.attestation.epoch) {
            return Err(Refusal::NotReady);
        }
        match outbox.shortened(mailbox, base.log) {
            Some(log) if self.judges(mailbox, base.attestation.number, Sin::FalseHandoff, base.attestation.epoch) => {
                Ok(Base { log, ..base })
            }
            _ => Ok(base),
        }
    }

    fn withholds(&self, mailbox: &MailboxId, epoch: u64) -> bool {
        self.judges(mailbox, 0, Sin::WithholdHandoff, epoch)
    }

    fn judges(&self, mailbox: &MailboxId, number: u64, sin: Sin, epoch: u64) -> bool {
        let mut temptation = self.temptation.borrow_mut();
        temptation.is(sin)
            && *self.judged.borrow_mut().entry((*mailbox, number)).or_insert_with(|| temptation.sins(sin, epoch))
    }
}

impl Node {
    /// From now on the node cheats.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tempt(&mut self, cheat: Cheat, store: &dyn Read) -> Result<(), StoreError> {
        self.router.cheat.temptation = Temptation::of(cheat);
        self.receiver.cheat.temptation = Temptation::of(cheat);
        self.arrivals.cheat.temptation = Temptation::of(cheat);
        self.old_home.temptation = RefCell::new(Temptation::of(cheat));
        self.outbox.tempt(Temptation::of(cheat), store)
    }

    /// Whether it hands a slice out to nobody.
    pub fn withholds(&mut self, key: &SliceKey) -> bool {
        self.receiver.cheat.withholds(key, self.ledger.head().epoch)
    }

    /// Whether it answers nothing to the new home of a mailbox that lived here.
    pub fn withholds_from(&self, mailbox: &MailboxId) -> bool {
        let head = self.ledger.head();
        let has_lived = head.mailbox(mailbox).is_some_and(|known| has_lived(known, &self.me));
        has_lived && self.old_home.withholds(mailbox, head.epoch)
    }

    /// Whether it serves a mailbox that has left as if it lived here.
    pub fn keeps(&self, mailbox: &MailboxId) -> bool {
        self.outbox.keeps(mailbox)
    }

    /// Says what it did.
    pub(super) fn confess(&mut self, out: &mut Vec<Output>) {
        let rooms = [&mut self.router.cheat.temptation, &mut self.receiver.cheat.temptation];
        let of_homes = [
            &mut self.outbox.cheat.temptation,
            &mut self.arrivals.cheat.temptation,
            self.old_home.temptation.get_mut(),
        ];
        let sins = rooms.into_iter().chain(of_homes).flat_map(Temptation::take);
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
