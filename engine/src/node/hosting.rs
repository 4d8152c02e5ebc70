//! Hosting: registrations that clients ask for, until a cut settles them.

use postroad_protocol::block_list::BlockList;
use postroad_protocol::record::{CoSigned, OwnerSigned, Record};
use postroad_protocol::{Digest, Refusal, Signed, Verified};

use super::{Node, Phase};
use crate::io::{Output, Time, Token};

/// Registrations under way, at most.
const MAX_REGISTERING: usize = 1_024;

/// A registration under way.
#[derive(Debug)]
pub(super) struct Registering {
    digest: Digest,
    record: Verified<Record>,
    tokens: Vec<Token>,
}

impl Node {
    /// A client asks to be registered here.
    pub(super) fn register(&mut self, token: Token, owner: Verified<OwnerSigned>, now: Time, out: &mut Vec<Output>) {
        if let Err(refusal) = self.try_register(token, owner, now, out) {
            out.push(Output::Registered(token, Err(refusal)));
        }
    }

    fn try_register(
        &mut self,
        token: Token,
        owner: Verified<OwnerSigned>,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let registration = &owner.body;
        let mailbox = registration.mailbox;
        if registration.home != self.me {
            return Err(Refusal::NotHere { home: registration.home });
        }
        let digest = owner.digest(&self.config.federation);
        if let Some(known) = self.ledger.head().mailbox(&mailbox) {
            if known.home == self.me && known.record == digest {
                out.push(Output::Registered(token, Ok(())));
                return Ok(());
            }
            return Err(Refusal::AlreadyRegistered { home: known.home });
        }
        if !self.config.admission.allows(&mailbox) {
            return Err(Refusal::NotAllowed { reason: "this node's registration policy does not admit it".into() });
        }
        if self.phase == Phase::Joining || self.draining {
            return Err(Refusal::NotReady);
        }
        if let Some(known) = self.registering.get_mut(&mailbox) {
            if known.digest != digest {
                return Err(Refusal::Busy);
            }
            known.tokens.push(token);
            return Ok(());
        }
        self.is_open()?;
        self.has_place(0)?;
        if self.registering.len() >= MAX_REGISTERING || !self.registrations.pass(now) {
            return Err(Refusal::Busy);
        }
        let signed = CoSigned::sign(owner, &self.config.secret, &self.config.federation);
        let record = Verified::check(Record::Register(signed.into_inner()), &self.config.federation)
            .map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
        self.hand_in_record(record.clone(), out);
        self.registering.insert(mailbox, Registering { digest, record, tokens: vec![token] });
        Ok(())
    }

    /// An owner says whom it blocks; answered once that is durable.
    pub(super) fn block(&mut self, token: Token, list: &Verified<Signed<BlockList>>, out: &mut Vec<Output>) {
        let mailbox = list.body.mailbox;
        let taken = match self.ledger.head().home(&mailbox) {
            // One that moves here brings its list.
            Some(home) if home == self.me || self.arrivals.has(&mailbox) => self.gate.block(list),
            Some(home) => Err(Refusal::NotHere { home }),
            None => Err(Refusal::NotFound { what: format!("mailbox {mailbox}") }),
        };
        let answer = taken.map(|write| self.persist(write.into_iter().collect(), out));
        out.push(Output::Blocked(token, answer));
    }

    /// Hands all registrations in again.
    pub(super) fn hand_in_registrations(&mut self, out: &mut Vec<Output>) {
        let records: Vec<Verified<Record>> =
            self.registering.values().map(|registering| registering.record.clone()).collect();
        for record in records {
            self.hand_in_record(record, out);
        }
    }

    /// A cut settled a registration.
    pub(super) fn registered(&mut self, signed: &CoSigned, out: &mut Vec<Output>) {
        let registration = &signed.owner.body;
        if registration.home == self.me {
            self.outbox.host(registration.mailbox, self.ledger.head().epoch);
        }
        let digest = signed.owner.digest(&self.config.federation);
        if let Some(known) = self.registering.remove(&registration.mailbox) {
            let answer = if known.digest == digest {
                Ok(())
            } else {
                Err(Refusal::AlreadyRegistered { home: registration.home })
            };
            out.extend(known.tokens.into_iter().map(|token| Output::Registered(token, answer.clone())));
        }
    }

    /// The sequencer cannot settle something that this node handed in.
    pub(super) fn rejected(&mut self, digest: Digest, reason: String, out: &mut Vec<Output>) {
        for flight in self.router.flights().filter(|flight| flight.digest == digest) {
            // The next round of housekeeping hands it in again; if it can never be included, its chain is resealed.
            flight.rejected = true;
        }
        self.refuse_registration(&digest, &Refusal::NotAllowed { reason: reason.clone() }, out);
        self.move_rejected(&digest, &reason, out);
        out.push(Output::Report(crate::io::Report::Refused { peer: Some(self.config.federation.sequencer()), reason }));
    }

    /// The sequencer has no room for something that this node handed in. Housekeeping hands headers, fills and this
    /// node's own records in again; who waits for a registration asks again.
    pub(super) fn deferred(&mut self, digest: &Digest, out: &mut Vec<Output>) {
        self.refuse_registration(digest, &Refusal::Busy, out);
    }

    fn refuse_registration(&mut self, digest: &Digest, refusal: &Refusal, out: &mut Vec<Output>) {
        let mut registering = self.registering.iter();
        let found = registering.find(|(_, registering)| registering.digest == *digest).map(|(mailbox, _)| *mailbox);
        if let Some(known) = found.and_then(|mailbox| self.registering.remove(&mailbox)) {
            out.extend(known.tokens.into_iter().map(|token| Output::Registered(token, Err(refusal.clone()))));
        }
    }
}
