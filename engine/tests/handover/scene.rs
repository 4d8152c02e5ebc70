//! A node's store, with the log of a mailbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_engine::arrivals::{Extracted, Handed};
use postroad_engine::handover::{Handovers, extracts};
use postroad_engine::outbox::{AttestedView, Outbox, Place};
use postroad_engine::tables::{self, ALL, CUTS, SLICES, StoredBatch};
use postroad_protocol::attestation::{Acknowledgement, Anchor, LogHead};
use postroad_protocol::batch::{Header, Routed, route};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::cut::{CertifiedCut, Cut, CutBody, CutHeader, vote};
use postroad_protocol::genesis::{Federation, Genesis, Member, Params};
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::moving::{Handoff, HandoffPage};
use postroad_protocol::receipt::Sealed;
use postroad_protocol::slice::{SliceKey, SliceLeaf};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, MailboxId, NodeId, SecretKey, Signed};
use postroad_store::{Read, Store, Write};

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) const SEQUENCER: u8 = 0;
/// The old home, and the origin of some of the mail.
pub(crate) const HOME: u8 = 1;
pub(crate) const ORIGIN: u8 = 2;
pub(crate) const OTHER: u8 = 3;
pub(crate) const NEW_HOME: u8 = 4;
pub(crate) const ALICE: u8 = 100;
pub(crate) const BOB: u8 = 101;
pub(crate) const NOBODY: u8 = 102;

pub(crate) const MORE: usize = 1 << 20;

pub(crate) fn id(seed: u8) -> MailboxId {
    key(seed).public()
}

/// A node's store, with the log of a mailbox.
pub(crate) struct Scene {
    pub(crate) federation: Federation,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) epoch: u64,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let genesis = Genesis {
            name: "handover".into(),
            time_ms: 0,
            committee: vec![Member { node: id(SEQUENCER), addrs: Vec::new() }],
            allow: Vec::new(),
            params: Params::default(),
        };
        let federation = Federation::new(genesis).unwrap();
        let store = Store::memory(&ALL);
        let mut outbox =
            Outbox::open(&key(HOME), &federation, &BTreeMap::new(), |_, _| false, &store.snapshot().unwrap()).unwrap();
        outbox.start(1, 0);
        outbox.host(id(ALICE), 1);
        outbox.host(id(BOB), 1);
        Scene { federation, store, outbox, epoch: 0 }
    }

    pub(crate) fn write(&self, writes: &[Write]) {
        let mut transaction = self.store.begin().unwrap();
        writes.iter().for_each(|write| transaction.apply(write));
        transaction.commit().unwrap();
    }

    /// A batch of `origin` with one message of a hundred bytes for each of these recipients, at their homes.
    pub(crate) fn batch(
        &self,
        origin: u8,
        number: u64,
        recipients: &[(u8, u8)],
    ) -> (StoredBatch, Signed<Header>, Routed) {
        let message = |(salt, (mailbox, _)): (usize, &(u8, u8))| Message {
            salt: [salt as u8; 16],
            common: vec![number as u8; 100],
            recipients: vec![Recipient { mailbox: id(*mailbox), own: Vec::new() }],
        };
        let messages: Vec<Message> = recipients.iter().enumerate().map(message).collect();
        let body = BundleBody::new(id(50), id(origin), number * 100, 1_000, &messages);
        let bundle = Bundle { signed: Signed::sign(body, &key(50), &self.federation).into_inner(), messages };
        let homes: BTreeMap<MailboxId, NodeId> = recipients.iter().map(|(to, home)| (id(*to), id(*home))).collect();
        let routed = route(std::slice::from_ref(&bundle), self.federation.id(), |mailbox| homes.get(mailbox).copied());
        let header = Header {
            origin: id(origin),
            incarnation: 1,
            number,
            previous: Digest::ZERO,
            routing_epoch: 1,
            attestation: None,
            entries: routed.entries,
            slices: routed.slices.clone(),
        };
        let signed = Signed::sign(header.clone(), &key(origin), &self.federation).into_inner();
        (StoredBatch { header, bundles: vec![bundle], homes }, signed, routed)
    }

    pub(crate) fn key_of(&self, header: &Signed<Header>, destination: u8) -> SliceKey {
        let digest = header.digest(&self.federation);
        let Header { origin, number, .. } = header.body;
        SliceKey { origin, number, header: digest, destination: id(destination) }
    }

    /// A slice of another origin, held on this disk.
    pub(crate) fn hold(&self, number: u64, destination: u8, recipients: &[u8]) -> SliceKey {
        let recipients: Vec<(u8, u8)> = recipients.iter().map(|recipient| (*recipient, destination)).collect();
        let (_, header, routed) = self.batch(ORIGIN, number, &recipients);
        let slice = self.key_of(&header, destination);
        let body = routed.bodies[0].clone();
        let parcel = SliceParcel { header, destination: id(destination), request: None, body };
        self.write(&[tables::put(SLICES, tables::slice_key(&slice), &parcel)]);
        slice
    }

    /// The cut of the next epoch, with these headers.
    pub(crate) fn cut(&mut self, headers: &[Signed<Header>]) -> Cut {
        self.epoch += 1;
        let sealed = |header: &Signed<Header>| Sealed { header: header.clone(), custody: Vec::new() };
        let body = CutBody { headers: headers.iter().map(sealed).collect(), ..CutBody::default() };
        let [records, fills, headers] = body.parts(&self.federation);
        let header = CutHeader {
            epoch: self.epoch,
            previous: Digest::ZERO,
            time_ms: self.epoch,
            age_ms: self.epoch,
            records,
            fills,
            headers,
            state: Digest::ZERO,
        };
        let certificate = vec![vote(&key(SEQUENCER), header.digest(&self.federation))];
        let cut = Cut { certified: CertifiedCut { header, certificate }, body };
        self.write(&[tables::put(CUTS, tables::number_key(self.epoch), &cut)]);
        cut
    }

    /// Delivers a slice of another origin with so many messages for Alice, and one for Bob.
    pub(crate) fn deliver(&mut self, number: u64, count: usize) {
        let mut recipients = vec![BOB];
        recipients.extend(std::iter::repeat_n(ALICE, count));
        let slice = self.hold(number, HOME, &recipients);
        let row = self.store.snapshot().unwrap().get(SLICES, &tables::slice_key(&slice)).unwrap().unwrap();
        let parcel: SliceParcel = tables::read(SLICES, &[], &row).unwrap();
        let index = parcel.body.index(1, self.federation.id()).unwrap();
        self.cut(&[parcel.header]);
        let place = Place { settled: self.epoch, epoch: self.epoch, position: 0, slice, routing_epoch: 1 };
        let mut writes = Vec::new();
        self.outbox.append(place, &index, &[], &mut writes);
        self.write(&writes);
    }

    pub(crate) fn acknowledge(&mut self, log: LogHead) {
        let body = Acknowledgement { mailbox: id(ALICE), log };
        let signed = Signed::sign(body, &key(ALICE), &self.federation);
        let mut writes = Vec::new();
        self.outbox.acknowledge(&signed, &mut writes).unwrap();
        self.write(&writes);
    }

    /// Attests all logs, finally.
    pub(crate) fn attest(&mut self) -> Arc<AttestedView> {
        self.outbox.begin(self.epoch, self.epoch).expect("something new");
        let view = self.outbox.persisted(self.epoch).expect("it is signed");
        let named = self.outbox.take_fresh();
        let (mut batch, ..) = self.batch(HOME, 900 + self.epoch, &[(BOB, HOME)]);
        batch.header.attestation = named;
        let header = Signed::sign(batch.header, &key(HOME), &self.federation).into_inner();
        let cut = self.cut(&[header]);
        let proof = cut.body.header_proofs(&self.federation).remove(0);
        let anchor = Anchor { cut: cut.certified, header: proof };
        self.outbox.anchored(view.attestation.body.number, anchor).expect("it is final")
    }

    pub(crate) fn handoff(
        &self,
        view: &AttestedView,
        from: u64,
        max_bytes: usize,
        handovers: &Handovers,
    ) -> HandoffPage {
        let attested = view.of(&id(ALICE)).unwrap();
        let base = attested.base(&self.federation);
        let handoff = Handoff {
            node: id(HOME),
            mailbox: id(ALICE),
            home: id(NEW_HOME),
            attestation: base.attestation,
            log: base.log,
        };
        let handoff = Signed::sign(handoff, &key(HOME), &self.federation).into_inner();
        let store = self.store.snapshot().unwrap();
        let page = handovers.page(&store, &self.federation, handoff, attested, from, max_bytes).unwrap();
        let checked = Handed::check(page.clone(), &id(HOME), &id(ALICE), &self.federation).expect("the page holds");
        assert_eq!(checked.accusation(), None);
        page
    }

    pub(crate) fn extract(&self, slices: &[SliceKey], mailbox: u8, max_bytes: usize) -> Vec<Option<Vec<SliceLeaf>>> {
        let store = self.store.snapshot().unwrap();
        let found = extracts(&store, &id(HOME), &self.federation, &id(mailbox), slices, max_bytes).unwrap();
        let check = |(extract, slice): (Option<_>, &SliceKey)| {
            let checked = Extracted::check(extract?, &id(mailbox), &self.federation).expect("the extract holds");
            assert_eq!(checked.key, *slice);
            Some(checked.leaves)
        };
        found.into_iter().zip(slices).map(check).collect()
    }
}
