//! A federation in memory for tests: one sequencer, one origin, one home (which is the sequencer too), real cuts.

use postroad_protocol::attestation::{Anchor, Attestation, AttestedLog, LogHead, LogLeaf, MailboxAttestation};
use postroad_protocol::batch::{AttestationRef, Header, route};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::cut::{CertifiedCut, CutBody, CutHeader, HeaderProof, vote};
use postroad_protocol::entry::{Entry, EntryProof};
use postroad_protocol::genesis::{Genesis, Member};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::message::Message;
use postroad_protocol::moving::Base;
use postroad_protocol::receipt::{Custody, ReceiptItem, Sealed, sign_receipts};
use postroad_protocol::record::{Appointed, CoSigned, NodeRecord, Record, Registration, Start};
use postroad_protocol::signed::{Statement, sign_digest};
use postroad_protocol::state::{Draft, HomeProof, Imported, MailboxState, Moved, Span, State};
use postroad_protocol::{Digest, Federation, MailboxId, Params, SecretKey, Signed, Verified};

use crate::seal::foreign;

/// The key with this seed. 1 is sequencer and home, 2 the origin, 3 another home, 5 a sender, 7 the mailbox.
pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn federation() -> Federation {
    named("test")
}

pub(crate) fn other_federation() -> Federation {
    named("another")
}

fn named(name: &str) -> Federation {
    let committee = vec![Member { node: key(1).public(), addrs: vec![] }];
    let genesis = Genesis { name: name.into(), time_ms: 1_000, committee, allow: vec![], params: Params::default() };
    Federation::new(genesis).unwrap()
}

/// The federation's order so far, and the mailbox's log.
pub(crate) struct Order {
    pub(crate) federation: Federation,
    state: State,
    counter: u64,
    number: u64,
    log: Frontier,
    leaves: Vec<LogLeaf>,
    last: Option<LogLeaf>,
    attestations: u64,
    /// Whose attestations are made: the home's.
    home: u8,
}

/// An entry and the cut that ordered it.
#[derive(Clone)]
pub(crate) struct Delivered {
    pub(crate) entry: Entry,
    pub(crate) cut: CertifiedCut,
}

impl Order {
    /// Nodes, sender and mailbox are there after the first cut.
    pub(crate) fn new() -> Order {
        let federation = federation();
        let mut records = Vec::new();
        for seed in [1, 2, 3] {
            let (node, secret) = (key(seed).public(), key(seed));
            let record = NodeRecord { node, version: 1, name: String::new(), addrs: vec![], deputies: vec![] };
            records.push(Record::Node(Appointed::alone(Signed::sign(record, &secret, &federation).into_inner())));
            let start = Start { node, incarnation: 1, nonce: [seed; 16] };
            records.push(Record::Start(Signed::sign(start, &secret, &federation).into_inner()));
        }
        for seed in [5, 7] {
            let body = Registration {
                mailbox: key(seed).public(),
                home: key(1).public(),
                encryption_key: Digest([seed; 32]),
                recovery_key: None,
            };
            let owner = Signed::sign(body, &key(seed), &federation);
            records.push(Record::Register(CoSigned::sign(owner, &key(1), &federation).into_inner()));
        }
        let state = State::genesis(&federation);
        let mut order = Order {
            federation,
            state,
            counter: 1,
            number: 1,
            log: Frontier::new(),
            leaves: Vec::new(),
            last: None,
            attestations: 0,
            home: 1,
        };
        order.cut(CutBody { records, ..CutBody::default() });
        order
    }

    /// Settles a cut.
    fn cut(&mut self, body: CutBody) -> CertifiedCut {
        let federation = &self.federation;
        let mut draft = Draft::new(&self.state, self.state.time_ms + 25, federation);
        for record in &body.records {
            draft.record(&Verified::check(record.clone(), federation).unwrap()).unwrap();
        }
        for sealed in &body.headers {
            draft.header(&Verified::check(sealed.clone(), federation).unwrap()).unwrap();
        }
        let [records, fills, headers] = body.parts(federation);
        let header = CutHeader {
            epoch: self.state.epoch + 1,
            previous: self.state.cut,
            time_ms: self.state.time_ms + 25,
            age_ms: self.state.age_ms + 25,
            records,
            fills,
            headers,
            state: draft.state().root(),
        };
        self.state = draft.finish(&header).state;
        let certificate = vec![vote(&key(1), header.digest(federation))];
        CertifiedCut { header, certificate }
    }

    /// Where mailbox 7 lives after one more cut.
    pub(crate) fn home_proof(&mut self) -> HomeProof {
        let cut = self.cut(CutBody::default());
        self.state.prove_home(&key(7).public(), cut)
    }

    /// The last epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Orders a batch of one bundle from mailbox 5 to mailbox 7 and appends its entries to the log.
    pub(crate) fn deliver(&mut self, bodies: &[&str]) -> Vec<Delivered> {
        let messages = bodies.iter().map(|body| foreign(body.as_bytes(), &[(key(7).public(), vec![])])).collect();
        self.deliver_messages(messages)
    }

    pub(crate) fn deliver_messages(&mut self, messages: Vec<Message>) -> Vec<Delivered> {
        let (cut, proofs) = self.order(messages);
        proofs.into_iter().map(|proof| self.append(proof, &cut, cut.header.epoch)).collect()
    }

    /// Appends an ordered message to the mailbox's log, settled by `settled`.
    pub(crate) fn append(&mut self, proof: EntryProof, cut: &CertifiedCut, settled: u64) -> Delivered {
        let placed = proof.verify(&cut.header, &self.federation).unwrap();
        let leaf = LogLeaf { settled, seq: placed.seq, message: placed.id, own: placed.own };
        let log_index = self.log.size();
        self.log.append(leaf.hash());
        self.leaves.push(leaf);
        self.last = Some(leaf);
        Delivered { entry: Entry { log_index, settled, proof }, cut: cut.clone() }
    }

    /// What the directory says of the mailbox.
    pub(crate) fn home(&self) -> MailboxState {
        self.state.mailbox(&key(7).public()).unwrap().clone()
    }

    /// The mailbox moves to the node with this seed, which continues the first `size` entries. What was delivered behind
    /// them is to be appended again. Returns what the directory says then.
    pub(crate) fn moves_to(&mut self, seed: u8, size: u64) -> MailboxState {
        let since = self.cut(CutBody::default()).header.epoch;
        self.leaves.truncate(size as usize);
        self.log = self.leaves.iter().fold(Frontier::new(), |mut log, leaf| {
            log.append(leaf.hash());
            log
        });
        self.last = self.leaves.last().copied();
        let known = self.home();
        let span =
            Span { node: key(self.home).public(), since: known.since, until: since, complete: Some(known.since) };
        let log = LogHead { size, root: self.log.root() };
        let attestation = AttestationRef { number: 1, digest: Digest::ZERO, epoch: since - 1 };
        let base = Some(Base { node: span.node, attestation, log });
        let import =
            Imported { digest: Digest::ZERO, first: since, epoch: since, through: since, base, missing: Vec::new() };
        self.home = seed;
        let moved = Some(Moved { spans: vec![span], switch: Digest::ZERO, import: Some(import) });
        self.cut(CutBody::default());
        MailboxState { home: key(seed).public(), since, moved, ..known }
    }

    /// The origin forgets that it has taken bundles: the next one's counter is this.
    pub(crate) fn set_back(&mut self, counter: u64) {
        self.counter = counter;
    }

    /// Orders a batch without delivering it.
    pub(crate) fn order(&mut self, messages: Vec<Message>) -> (CertifiedCut, Vec<EntryProof>) {
        self.order_signed(messages, &key(5))
    }

    /// Orders a batch of mailbox 5 that somebody signed.
    pub(crate) fn order_signed(
        &mut self,
        messages: Vec<Message>,
        signer: &SecretKey,
    ) -> (CertifiedCut, Vec<EntryProof>) {
        let (origin, destination) = (key(2), key(1).public());
        let count = messages.len() as u64;
        let body = BundleBody::new(key(5).public(), origin.public(), self.counter, 1_000, &messages);
        self.counter += count;
        let signature = sign_digest(signer, body.digest(self.federation.id()));
        let signed = Signed { body, signature };
        let routed = route(&[Bundle { signed, messages }], self.federation.id(), |_| Some(destination));
        let header = Header {
            origin: origin.public(),
            incarnation: 1,
            number: self.number,
            previous: self.previous(&origin),
            routing_epoch: self.state.epoch,
            attestation: None,
            entries: routed.entries,
            slices: routed.slices.clone(),
        };
        self.number += 1;
        let header = Signed::sign(header, &origin, &self.federation).into_inner();
        let item = ReceiptItem {
            header: header.digest(&self.federation),
            destination,
            slice: routed.slices[0].root,
            request: None,
            refused: vec![],
        };
        let receipts = sign_receipts(vec![item], 1, &key(1), &self.federation);
        let receipts = receipts.into_iter().map(Verified::into_inner).collect();
        let (cut, order) = self.include(Sealed { header, custody: vec![Custody { request: None, receipts }] });
        let body = &routed.bodies[0];
        let index = body.index(routed.entries.bundles, self.federation.id()).expect("a slice just cut");
        let mut leaves: Vec<_> = index.leaves().values().flatten().collect();
        leaves.sort_by_key(|leaf| (leaf.index, leaf.recipient_at));
        leaves.dedup_by_key(|leaf| leaf.index);
        let proofs = leaves.into_iter().filter_map(|leaf| EntryProof::of(body, leaf, order.clone())).collect();
        (cut, proofs)
    }

    fn previous(&self, origin: &SecretKey) -> Digest {
        let node = self.state.node(&origin.public()).unwrap();
        node.last_header.map_or(Digest::ZERO, |last| last.digest)
    }

    fn include(&mut self, sealed: Sealed) -> (CertifiedCut, HeaderProof) {
        let body = CutBody { headers: vec![sealed], ..CutBody::default() };
        let order = body.header_proofs(&self.federation).remove(0);
        (self.cut(body), order)
    }

    /// The home attests the mailbox's log as it is.
    pub(crate) fn attest(&mut self) -> MailboxAttestation {
        let log = LogHead { size: self.log.size(), root: self.log.root() };
        self.attest_log(log)
    }

    /// The home attests any log.
    pub(crate) fn attest_log(&mut self, log: LogHead) -> MailboxAttestation {
        self.attestations += 1;
        let number = self.attestations;
        self.attest_as(number, log)
    }

    /// The home attests a log that ends with `last`, which is its only entry.
    pub(crate) fn attest_short(&mut self, last: &Delivered) -> MailboxAttestation {
        let placed = last.entry.proof.verify(&last.cut.header, &self.federation).unwrap();
        let leaf = LogLeaf { settled: last.entry.settled, seq: placed.seq, message: placed.id, own: placed.own };
        let mut log = Frontier::new();
        log.append(leaf.hash());
        self.attestations += 1;
        self.sign_attestation(self.attestations, LogHead { size: 1, root: log.root() }, leaf.settled, 0)
    }

    /// The home attests any log under any number.
    pub(crate) fn attest_as(&self, number: u64, log: LogHead) -> MailboxAttestation {
        self.sign_attestation(number, log, self.last.map_or(0, |leaf| leaf.settled), 0)
    }

    /// The home attests that it has forgotten the entries below `expired_to`.
    pub(crate) fn attest_forgotten(&mut self, expired_to: u64) -> MailboxAttestation {
        self.attestations += 1;
        let log = LogHead { size: self.log.size(), root: self.log.root() };
        self.sign_attestation(self.attestations, log, self.last.map_or(0, |leaf| leaf.settled), expired_to)
    }

    fn sign_attestation(&self, number: u64, log: LogHead, last_epoch: u64, expired_to: u64) -> MailboxAttestation {
        let log = AttestedLog { log, last_epoch, expired_to, acknowledged: None };
        let mut map: MerkleMap<MailboxId, AttestedLog> = MerkleMap::default();
        map.insert(key(7).public(), log.clone());
        let body = Attestation {
            node: key(self.home).public(),
            incarnation: 1,
            number,
            epoch: self.state.epoch,
            mailboxes: 1,
            root: map.root(),
        };
        let attestation = Signed::sign(body, &key(self.home), &self.federation).into_inner();
        MailboxAttestation { attestation, log, proof: map.prove(&key(7).public()), anchor: None }
    }

    /// Anchors an attestation in a cut.
    pub(crate) fn anchor(&mut self, mut attested: MailboxAttestation) -> MailboxAttestation {
        let body = &attested.attestation.body;
        let named =
            AttestationRef { number: body.number, digest: body.digest(self.federation.id()), epoch: body.epoch };
        let header = Header {
            origin: key(self.home).public(),
            incarnation: 1,
            number: named.number,
            previous: self.previous(&key(self.home)),
            routing_epoch: self.state.epoch,
            attestation: Some(named),
            entries: route(&[], self.federation.id(), |_| None).entries,
            slices: vec![],
        };
        let header = Signed::sign(header, &key(self.home), &self.federation).into_inner();
        let (cut, header) = self.include(Sealed { header, custody: vec![] });
        attested.anchor = Some(Anchor { cut, header });
        attested
    }
}
