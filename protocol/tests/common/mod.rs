//! A tiny deterministic federation with an in-memory sequencer, router and receiver, which makes real certified cuts
//! with real signatures. All keys follow from names, so that one way of building gives the same bytes every time.

pub(crate) mod claims;
pub(crate) mod samples;
pub(crate) mod story;

use std::collections::BTreeMap;

use postroad_protocol::attestation::{
    Acknowledgement, Anchor, Attestation, AttestedLog, DeliveryProof, LogHead, LogLeaf, MailboxAttestation,
};
use postroad_protocol::batch::{AttestationRef, Header, Routed, route};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::cut::{CertifiedCut, Cut, CutBody, CutHeader, vote};
use postroad_protocol::digest::hash;
use postroad_protocol::entry::{AcceptedProof, Entry, EntryProof, MessageProof, OrderedProof};
use postroad_protocol::genesis::Member;
use postroad_protocol::merkle::log::Log;
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::merkle::sum::SumTree;
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::receipt::{Custody, CustodyRequest, Fill, Receipt, ReceiptItem, Sealed, sign_receipts};
use postroad_protocol::record::{Appointed, CoSigned, NodeRecord, Record, Registration, Start};
use postroad_protocol::signed::{Statement, Verify, sign_digest};
use postroad_protocol::slice::SliceBody;
use postroad_protocol::state::{Applied, Draft, Invalid, PendingKey, State, apply};
use postroad_protocol::{
    Digest, Federation, Genesis, MailboxId, NodeId, Params, PublicKey, SecretKey, Seq, Signed, Verified, batch,
};

/// The key that follows from a name.
pub(crate) fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(hash(&[b"postroad test key ", name.as_bytes()]).0)
}

/// Builds a [`World`].
pub(crate) struct Builder {
    name: String,
    nodes: usize,
    mailboxes: usize,
    allow: Vec<usize>,
    params: Params,
}

impl Builder {
    pub(crate) fn name(mut self, name: &str) -> Builder {
        self.name = name.into();
        self
    }

    pub(crate) fn nodes(mut self, nodes: usize) -> Builder {
        self.nodes = nodes;
        self
    }

    pub(crate) fn mailboxes(mut self, mailboxes: usize) -> Builder {
        self.mailboxes = mailboxes;
        self
    }

    /// The nodes on the allow list; without any, all may join.
    pub(crate) fn allow(mut self, nodes: &[usize]) -> Builder {
        self.allow = nodes.to_vec();
        self
    }

    pub(crate) fn params(mut self, change: impl FnOnce(&mut Params)) -> Builder {
        change(&mut self.params);
        self
    }

    /// The federation before its first cut.
    pub(crate) fn unborn(self) -> World {
        let mut nodes: Vec<SecretKey> = (0..self.nodes).map(|i| key(&format!("node {i}"))).collect();
        nodes.sort_by_key(SecretKey::public);
        let member = Member { node: nodes[0].public(), addrs: vec!["/ip4/127.0.0.1/tcp/4001".into()] };
        let genesis = Genesis {
            name: self.name,
            time_ms: 1_700_000_000_000,
            committee: vec![member],
            allow: self.allow.iter().map(|node| nodes[*node].public()).collect(),
            params: self.params,
        };
        let federation = Federation::new(genesis).unwrap();
        let state = State::genesis(&federation);
        World {
            nodes,
            mailboxes: (0..self.mailboxes).map(|i| key(&format!("mailbox {i}"))).collect(),
            states: vec![state.clone()],
            state,
            federation,
            cuts: Vec::new(),
            slices: BTreeMap::new(),
            logs: BTreeMap::new(),
            counters: BTreeMap::new(),
            attestations: BTreeMap::new(),
            salts: 0,
            step_ms: 25,
        }
    }

    /// The federation after its first cut, which settles records, starts and registrations of everybody.
    pub(crate) fn build(self) -> World {
        let mut world = self.unborn();
        let nodes = 0..world.nodes.len();
        let mut records: Vec<Record> = nodes.clone().map(|node| world.node_record(node, 1)).collect();
        records.extend(nodes.map(|node| world.start(node, 1)));
        records.extend((0..world.mailboxes.len()).map(|mailbox| world.registration(mailbox)));
        world.cut(CutBody { records, ..CutBody::default() });
        world
    }
}

/// How a slice of a header is held.
#[derive(Clone, Debug)]
pub(crate) enum Hold {
    /// The destination has signed.
    Home,
    /// These nodes have signed, on the origin's request.
    Custodians(Vec<usize>),
    /// The destination (the origin itself) and these.
    HomeAnd(Vec<usize>),
}

/// A batch that its origin has sealed, before it has receipts.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) origin: usize,
    pub(crate) header: Verified<Signed<Header>>,
    pub(crate) digest: Digest,
    pub(crate) bundles: Vec<Bundle>,
    pub(crate) routed: Routed,
}

/// An attestation with what stands behind it.
pub(crate) struct Attested {
    pub(crate) signed: Verified<Signed<Attestation>>,
    pub(crate) map: MerkleMap<MailboxId, AttestedLog>,
    logs: BTreeMap<MailboxId, Log>,
}

impl Attested {
    pub(crate) fn reference(&self, world: &World) -> AttestationRef {
        let body = &self.signed.body;
        AttestationRef { number: body.number, digest: self.signed.digest(&world.federation), epoch: body.epoch }
    }
}

/// The federation. Nodes are numbered in the order of their keys; mailbox `i` lives at node `i % nodes` at first; node 0
/// is the sequencer.
pub(crate) struct World {
    pub(crate) federation: Federation,
    pub(crate) nodes: Vec<SecretKey>,
    pub(crate) mailboxes: Vec<SecretKey>,
    /// The state now.
    pub(crate) state: State,
    /// The state after each epoch.
    pub(crate) states: Vec<State>,
    /// The cut of epoch `e` at `e - 1`.
    pub(crate) cuts: Vec<Verified<Cut>>,
    slices: BTreeMap<(Digest, NodeId), SliceBody>,
    logs: BTreeMap<MailboxId, Vec<LogLeaf>>,
    counters: BTreeMap<(MailboxId, NodeId), u64>,
    attestations: BTreeMap<NodeId, u64>,
    salts: u64,
    /// Milliseconds between two cuts.
    pub(crate) step_ms: u64,
}

impl World {
    pub(crate) fn builder() -> Builder {
        // The golden vectors stand on these values; a default may change without changing them.
        let params = Params { deadline_cap_ms: 500, ..Params::default() };
        Builder { name: "testing".into(), nodes: 4, mailboxes: 8, allow: Vec::new(), params }
    }

    pub(crate) fn node(&self, node: usize) -> NodeId {
        self.nodes[node].public()
    }

    pub(crate) fn mailbox(&self, mailbox: usize) -> MailboxId {
        self.mailboxes[mailbox].public()
    }

    /// The key of a node.
    pub(crate) fn secret(&self, node: &NodeId) -> &SecretKey {
        &self.nodes[self.index_of(node)]
    }

    /// The state after a cut, and the keys that it touched.
    pub(crate) fn applied(&self, cut: usize) -> Applied {
        apply(&self.states[cut], &self.cuts[cut], &self.federation).unwrap()
    }

    /// Where a mailbox lives, or will.
    pub(crate) fn home_of(&self, mailbox: usize) -> usize {
        let home = self.state.home(&self.mailbox(mailbox));
        home.map_or(mailbox % self.nodes.len(), |home| self.index_of(&home))
    }

    pub(crate) fn check<T: Verify>(&self, value: T) -> Verified<T> {
        Verified::check(value, &self.federation).unwrap()
    }

    pub(crate) fn sign<T: postroad_protocol::signed::Statement>(&self, body: T, secret: &SecretKey) -> Signed<T> {
        Signed::sign(body, secret, &self.federation).into_inner()
    }

    // Records.

    pub(crate) fn node_record(&self, node: usize, version: u64) -> Record {
        let body = NodeRecord {
            node: self.node(node),
            version,
            name: format!("node {node}"),
            addrs: vec![format!("/ip4/10.0.0.{node}/tcp/4001")],
            deputies: (self.nodes.len() > 1).then(|| self.node((node + 1) % self.nodes.len())).into_iter().collect(),
        };
        Record::Node(self.appointed(body, &self.nodes[node]))
    }

    /// A record with the consent of every deputy that is a node here.
    pub(crate) fn appointed(&self, body: NodeRecord, secret: &SecretKey) -> Appointed {
        let digest = body.digest(self.federation.id());
        let deputies = (body.deputies.iter())
            .filter_map(|deputy| self.nodes.iter().find(|node| node.public() == *deputy))
            .map(|deputy| sign_digest(deputy, digest))
            .collect();
        Appointed { node: self.sign(body, secret), deputies }
    }

    pub(crate) fn start(&self, node: usize, incarnation: u64) -> Record {
        let nonce = [node as u8; 16];
        Record::Start(self.sign(Start { node: self.node(node), incarnation, nonce }, &self.nodes[node]))
    }

    pub(crate) fn registration(&self, mailbox: usize) -> Record {
        self.registration_at(&self.mailboxes[mailbox], self.home_of(mailbox))
    }

    pub(crate) fn registration_at(&self, owner: &SecretKey, home: usize) -> Record {
        self.registration_with(owner, home, None)
    }

    pub(crate) fn registration_with(&self, owner: &SecretKey, home: usize, recovery: Option<PublicKey>) -> Record {
        let body = Registration {
            mailbox: owner.public(),
            home: self.node(home),
            encryption_key: hash(&[b"encryption key", &owner.public().0]),
            recovery_key: recovery,
        };
        let owner = Signed::sign(body, owner, &self.federation);
        Record::Register(CoSigned::sign(owner, &self.nodes[home], &self.federation).into_inner())
    }

    // Mail.

    /// A message to some mailboxes, each with an own payload, and with salts that nothing else has.
    pub(crate) fn message(&mut self, common: &str, recipients: &[usize]) -> Message {
        self.salts += 1;
        let mut salt = [0; 16];
        salt[8..].copy_from_slice(&self.salts.to_be_bytes());
        let recipients = recipients
            .iter()
            .map(|mailbox| Recipient {
                mailbox: self.mailbox(*mailbox),
                own: format!("{common} for {mailbox}").into_bytes(),
            })
            .collect();
        Message { salt, common: common.as_bytes().to_vec(), recipients }
    }

    /// A bundle of messages with the sender's next counters.
    pub(crate) fn bundle(&mut self, sender: usize, via: usize, messages: Vec<Message>) -> Bundle {
        let (mailbox, node) = (self.mailbox(sender), self.node(via));
        let counter = self.counters.entry((mailbox, node)).or_insert(1);
        let body = BundleBody::new(mailbox, node, *counter, self.state.epoch + 100, &messages);
        *counter += messages.len() as u64;
        Bundle { signed: self.sign(body, &self.mailboxes[sender]), messages }
    }

    /// Seals bundles as the origin's next batch.
    pub(crate) fn seal(&mut self, origin: usize, bundles: Vec<Bundle>) -> Batch {
        self.seal_with(origin, bundles, |_| {})
    }

    /// Seals bundles, after a change to the header.
    pub(crate) fn seal_with(&mut self, origin: usize, bundles: Vec<Bundle>, change: impl FnOnce(&mut Header)) -> Batch {
        let routed = route(&bundles, self.federation.id(), |mailbox| self.state.home(mailbox));
        let last = self.state.node(&self.node(origin)).and_then(|node| node.last_header);
        let mut body = Header {
            origin: self.node(origin),
            incarnation: 1,
            number: last.map_or(1, |last| last.number + 1),
            previous: last.map_or(Digest::ZERO, |last| last.digest),
            routing_epoch: self.state.epoch,
            attestation: None,
            entries: routed.entries,
            slices: routed.slices.clone(),
        };
        change(&mut body);
        let header = Signed::sign(body, &self.nodes[origin], &self.federation);
        let digest = header.digest(&self.federation);
        for (slice, body) in routed.slices.iter().zip(&routed.bodies) {
            self.slices.insert((digest, slice.destination), body.clone());
        }
        Batch { origin, header, digest, bundles, routed }
    }

    // Custody.

    pub(crate) fn item(&self, batch: &Batch, slice: usize, request: Option<Digest>) -> ReceiptItem {
        let slice = &batch.header.body.slices[slice];
        ReceiptItem {
            header: batch.digest,
            destination: slice.destination,
            slice: slice.root,
            request,
            refused: Vec::new(),
        }
    }

    pub(crate) fn receipt(&self, holder: usize, item: ReceiptItem) -> Receipt {
        self.receipts(holder, vec![item]).remove(0)
    }

    pub(crate) fn receipts(&self, holder: usize, items: Vec<ReceiptItem>) -> Vec<Receipt> {
        let receipts = sign_receipts(items, 1, &self.nodes[holder], &self.federation);
        receipts.into_iter().map(Verified::into_inner).collect()
    }

    pub(crate) fn request(&self, batch: &Batch, slice: usize, custodians: &[usize]) -> Signed<CustodyRequest> {
        let slice = &batch.header.body.slices[slice];
        let body = CustodyRequest {
            origin: batch.header.body.origin,
            incarnation: 1,
            header: batch.digest,
            destination: slice.destination,
            slice: slice.root,
            custodians: custodians.iter().map(|node| self.node(*node)).collect(),
        };
        self.sign(body, &self.nodes[batch.origin])
    }

    fn index_of(&self, node: &NodeId) -> usize {
        self.nodes.iter().position(|known| known.public() == *node).unwrap()
    }

    /// The custody of one slice, held as told.
    pub(crate) fn custody(&self, batch: &Batch, slice: usize, hold: &Hold) -> Custody {
        let home = self.index_of(&batch.header.body.slices[slice].destination);
        let own = || self.receipt(home, self.item(batch, slice, None));
        let (mut receipts, custodians) = match hold {
            Hold::Home => return Custody { request: None, receipts: vec![own()] },
            Hold::Custodians(custodians) => (Vec::new(), custodians),
            Hold::HomeAnd(custodians) => (vec![own()], custodians),
        };
        let request = self.request(batch, slice, custodians);
        let digest = Some(request.digest(&self.federation));
        receipts.extend(custodians.iter().map(|node| self.receipt(*node, self.item(batch, slice, digest))));
        Custody { request: Some(request), receipts }
    }

    /// The batch's header with custody of every slice, held by its destination.
    pub(crate) fn held(&self, batch: &Batch) -> Verified<Sealed> {
        self.held_as(batch, |_| Hold::Home)
    }

    /// The batch's header with custody of every slice, as `hold` says for its destination.
    pub(crate) fn held_as(&self, batch: &Batch, hold: impl Fn(usize) -> Hold) -> Verified<Sealed> {
        self.check(self.held_unchecked(batch, hold))
    }

    pub(crate) fn held_unchecked(&self, batch: &Batch, hold: impl Fn(usize) -> Hold) -> Sealed {
        let slices = batch.header.body.slices.iter().enumerate();
        let custody =
            slices.map(|(index, slice)| self.custody(batch, index, &hold(self.index_of(&slice.destination)))).collect();
        Sealed { header: batch.header.clone().into_inner(), custody }
    }

    /// The destination's fill for a slice that custodians hold.
    pub(crate) fn fill(&self, batch: &Batch, destination: usize) -> Fill {
        let node = self.node(destination);
        let slice = batch.header.body.slices.iter().position(|slice| slice.destination == node).unwrap();
        self.receipt(destination, self.item(batch, slice, None))
    }

    // Cuts.

    /// A certified cut with this body after the state now, or why it is not valid.
    pub(crate) fn draft(&self, body: CutBody) -> Result<(Verified<Cut>, State), Invalid> {
        let mut draft = Draft::new(&self.state, self.state.time_ms + self.step_ms, &self.federation);
        for record in &body.records {
            draft.record(&self.check(record.clone()))?;
        }
        for fill in &body.fills {
            draft.fill(&self.check(fill.clone()))?;
        }
        for sealed in &body.headers {
            draft.header(&self.check(sealed.clone()))?;
        }
        let [records, fills, headers] = body.parts(&self.federation);
        let header = CutHeader {
            epoch: self.state.epoch + 1,
            previous: self.state.cut,
            time_ms: self.state.time_ms + self.step_ms,
            age_ms: draft.state().age_ms,
            records,
            fills,
            headers,
            state: draft.state().root(),
        };
        let cut = self.certify(header.clone(), body);
        Ok((self.check(cut), draft.finish(&header).state))
    }

    /// Certifies whatever it is told.
    pub(crate) fn certify(&self, header: CutHeader, body: CutBody) -> Cut {
        let certificate = vec![vote(&self.nodes[0], header.digest(&self.federation))];
        Cut { certified: CertifiedCut { header, certificate }, body }
    }

    /// Certifies and applies a cut, and delivers its mail.
    pub(crate) fn cut(&mut self, body: CutBody) -> CertifiedCut {
        let (cut, drafted) = self.draft(body).unwrap();
        let applied = apply(&self.state, &cut, &self.federation).unwrap();
        assert_eq!(applied.state.root(), drafted.root());
        assert_eq!(applied.state.cut, drafted.cut);
        self.deliver(&cut);
        self.state = applied.state;
        self.states.push(self.state.clone());
        let certified = cut.certified.clone();
        self.cuts.push(cut);
        certified
    }

    /// A cut of these headers.
    pub(crate) fn include(&mut self, headers: Vec<Verified<Sealed>>) -> CertifiedCut {
        let headers = headers.into_iter().map(Verified::into_inner).collect();
        self.cut(CutBody { headers, ..CutBody::default() })
    }

    /// Cuts without anything.
    pub(crate) fn idle(&mut self, cuts: u64) {
        (0..cuts).for_each(|_| {
            self.cut(CutBody::default());
        });
    }

    pub(crate) fn certified(&self, epoch: u64) -> &CertifiedCut {
        &self.cuts[epoch as usize - 1].certified
    }

    // Delivery.

    /// Appends to the mailbox logs what the cut makes their homes owe: fills first, then headers, each by number.
    fn deliver(&mut self, cut: &Cut) {
        let settled = cut.certified.header.epoch;
        let mut fills: Vec<_> = (cut.body.fills.iter())
            .map(|fill| {
                let key = PendingKey { destination: fill.item.destination, header: fill.item.header };
                let pending = self.state.pending(&key).unwrap();
                ((pending.epoch, pending.position), key)
            })
            .collect();
        fills.sort();
        for (place, key) in fills {
            let header = self.cuts[place.0 as usize - 1].body.headers[place.1 as usize].header.body.clone();
            self.append(settled, place, &header, key.header, key.destination);
        }
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let (header, digest) = (&sealed.header.body, sealed.digest(&self.federation));
            for (custody, slice) in sealed.custody.iter().zip(&header.slices) {
                if custody.check(header, digest, slice, &self.federation).unwrap().delivered {
                    self.append(settled, (settled, position as u32), header, digest, slice.destination);
                }
            }
        }
    }

    fn append(&mut self, settled: u64, place: (u64, u32), header: &Header, digest: Digest, destination: NodeId) {
        let Some(body) = self.slices.get(&(digest, destination)) else { return };
        let index = body.verify(header, header.slice(&destination).unwrap(), &self.federation).unwrap();
        for (mailbox, leaves) in index.leaves() {
            let entries = leaves.iter().map(|leaf| LogLeaf {
                settled,
                seq: Seq { epoch: place.0, position: place.1, index: leaf.index },
                message: leaf.message,
                own: leaf.own,
            });
            self.logs.entry(*mailbox).or_default().extend(entries);
        }
    }

    /// A mailbox's log.
    pub(crate) fn log(&self, mailbox: usize) -> &[LogLeaf] {
        self.logs.get(&self.mailbox(mailbox)).map_or(&[], Vec::as_slice)
    }

    /// A home drops an entry from a log.
    pub(crate) fn drop_entry(&mut self, mailbox: usize, log_index: usize) -> LogLeaf {
        let mailbox = self.mailbox(mailbox);
        self.logs.get_mut(&mailbox).expect("it has a log").remove(log_index)
    }

    /// An entry of a mailbox's log, with its proof.
    pub(crate) fn entry(&self, mailbox: usize, log_index: usize) -> Entry {
        let found = self.log(mailbox)[log_index];
        let cut = &self.cuts[found.seq.epoch as usize - 1];
        let order = cut.body.header_proofs(&self.federation).remove(found.seq.position as usize);
        let home = self.node(self.home_of(mailbox));
        let body = &self.slices[&(order.header.digest(&self.federation), home)];
        let index = body.index(order.header.body.entries.bundles, self.federation.id()).unwrap();
        let leaves = &index.leaves()[&self.mailbox(mailbox)];
        let leaf = leaves.iter().find(|leaf| leaf.index == found.seq.index).unwrap();
        let proof = EntryProof::of(body, leaf, order).unwrap();
        Entry { log_index: log_index as u64, settled: found.settled, proof }
    }

    /// An entry's proof as it stands in a file.
    pub(crate) fn message_proof(&self, mailbox: usize, log_index: usize) -> MessageProof {
        let entry = self.entry(mailbox, log_index).proof;
        let epoch = self.log(mailbox)[log_index].seq.epoch;
        MessageProof { federation: self.federation.id(), cut: self.certified(epoch).clone(), entry }
    }

    fn bundle_tree(&self, batch: &Batch) -> SumTree {
        let leaf = |bundle: &Bundle| {
            let leaf = batch::bundle_leaf(&bundle.signed, self.federation.id());
            (u64::from(bundle.signed.body.count), leaf)
        };
        SumTree::new(batch.bundles.iter().map(leaf).collect())
    }

    pub(crate) fn accepted_proof(&self, chain: Vec<Sealed>, batch: &Batch, ordinal: usize) -> AcceptedProof {
        AcceptedProof { chain, ordinal: ordinal as u32, path: self.bundle_tree(batch).path(ordinal) }
    }

    pub(crate) fn ordered_proof(&self, epoch: u64, position: usize, batch: &Batch, ordinal: usize) -> OrderedProof {
        let cut = &self.cuts[epoch as usize - 1];
        OrderedProof {
            cut: cut.certified.clone(),
            order: cut.body.header_proofs(&self.federation).remove(position),
            ordinal: ordinal as u32,
            path: self.bundle_tree(batch).path(ordinal),
            weak: cut.body.headers[position].is_weak(&self.federation),
            custody: Vec::new(),
        }
    }

    // Attestations.

    /// The owner's acknowledgement of its whole log.
    pub(crate) fn acknowledgement(&self, mailbox: usize) -> Signed<Acknowledgement> {
        let log = log_of(self.log(mailbox));
        let log = LogHead { size: log.size(), root: log.root() };
        self.sign(Acknowledgement { mailbox: self.mailbox(mailbox), log }, &self.mailboxes[mailbox])
    }

    /// A node's next attestation over all mailboxes that live there; those in `acknowledged` have acknowledged.
    pub(crate) fn attest(&mut self, node: usize, acknowledged: &[usize]) -> Attested {
        let acknowledged = acknowledged.iter().map(|mailbox| (*mailbox, self.acknowledgement(*mailbox))).collect();
        self.attest_to(node, acknowledged)
    }

    /// A node's next attestation, with these acknowledgements, lawful or not.
    pub(crate) fn attest_to(
        &mut self,
        node: usize,
        mut acknowledged: BTreeMap<usize, Signed<Acknowledgement>>,
    ) -> Attested {
        let number = self.attestations.entry(self.nodes[node].public()).or_insert(0);
        *number += 1;
        let number = *number;
        let (mut map, mut logs) = (MerkleMap::new(), BTreeMap::new());
        for mailbox in (0..self.mailboxes.len()).filter(|mailbox| self.home_of(*mailbox) == node) {
            let log = log_of(self.log(mailbox));
            let value = AttestedLog {
                log: LogHead { size: log.size(), root: log.root() },
                last_epoch: self.log(mailbox).last().map_or(0, |leaf| leaf.settled),
                expired_to: 0,
                acknowledged: acknowledged.remove(&mailbox),
            };
            map.insert(self.mailbox(mailbox), value);
            logs.insert(self.mailbox(mailbox), log);
        }
        let body = Attestation {
            node: self.node(node),
            incarnation: 1,
            number,
            epoch: self.state.epoch,
            mailboxes: map.len() as u64,
            root: map.root(),
        };
        Attested { signed: Signed::sign(body, &self.nodes[node], &self.federation), map, logs }
    }

    /// Where an attestation was anchored, if it was.
    pub(crate) fn anchor(&self, attested: &Attested) -> Option<Anchor> {
        let reference = attested.reference(self);
        self.cuts.iter().find_map(|cut| {
            let proofs = cut.body.header_proofs(&self.federation);
            let header = proofs.into_iter().find(|proof| proof.header.body.attestation == Some(reference))?;
            Some(Anchor { cut: cut.certified.clone(), header })
        })
    }

    pub(crate) fn mailbox_attestation(&self, attested: &Attested, mailbox: usize) -> MailboxAttestation {
        let id = self.mailbox(mailbox);
        MailboxAttestation {
            attestation: attested.signed.clone().into_inner(),
            log: attested.map.get(&id).unwrap().clone(),
            proof: attested.map.prove(&id),
            anchor: self.anchor(attested),
        }
    }

    pub(crate) fn delivery_proof(&self, attested: &Attested, mailbox: usize, index: usize) -> DeliveryProof {
        let id = self.mailbox(mailbox);
        let log = &attested.logs[&id];
        DeliveryProof {
            mailbox: id,
            leaf: self.log(mailbox)[index],
            index: index as u64,
            path: log.inclusion(index as u64, log.size()).unwrap(),
            attested: self.mailbox_attestation(attested, mailbox),
        }
    }
}

fn log_of(leaves: &[LogLeaf]) -> Log {
    let mut log = Log::new();
    leaves.iter().for_each(|leaf| log.append(leaf.hash()));
    log
}
