//! `apply` under whatever a small federation may say: the input is read as a sequence of records, fills, headers and
//! cuts, lawful or not, with real signatures.
//!
//! What a draft takes, `apply` takes, with the same state; a cut that was altered is refused; the state's root follows
//! from its values alone.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use postroad_protocol::attestation::LogHead;
use postroad_protocol::batch::{AttestationRef, Entries, Header, SliceRef};
use postroad_protocol::challenge::{Challenge, Lost};
use postroad_protocol::codec::encode;
use postroad_protocol::cut::{CertifiedCut, Cut, CutBody, CutHeader, vote};
use postroad_protocol::genesis::Member;
use postroad_protocol::moving::{Base, Import, Missing, Move, Switch};
use postroad_protocol::receipt::{Custody, CustodyRequest, Fill, ReceiptItem, Sealed, sign_receipts};
use postroad_protocol::record::{Appointed, CoSigned, NodeRecord, Record, Registration, Start};
use postroad_protocol::signed::{Statement, sign_digest};
use postroad_protocol::state::{Draft, PendingKey, State, apply};
use postroad_protocol::{Digest, Federation, Genesis, NodeId, Params, SecretKey, Signed, Verified};

const NODES: usize = 4;
const MAILBOXES: usize = 4;
/// What one input may ask for, so that none takes long.
const MAX_STEPS: usize = 96;

/// Keys, and the federation after a cut in which all nodes have joined and started.
struct World {
    federation: Federation,
    nodes: Vec<SecretKey>,
    mailboxes: Vec<SecretKey>,
    begun: State,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut nodes: Vec<SecretKey> = (0..NODES).map(|node| SecretKey::from_seed([node as u8 + 1; 32])).collect();
        nodes.sort_by_key(SecretKey::public);
        let params = Params { routing_window_epochs: 8, validity_epochs: 32, max_cut_headers: 6, ..Params::default() };
        let params = Params { max_mailboxes_per_node: 2, max_pending_per_origin: 3, ..params };
        let params = Params { max_challenges_per_node: 2, heartbeat_ms: 1_000, lapse_ms: 10_000, ..params };
        let params = Params { challenge_ms: 3_000, move_delay_ms: 2_000, ..params };
        let committee = vec![Member { node: nodes[0].public(), addrs: Vec::new() }];
        let genesis =
            Genesis { name: "fuzzed".into(), time_ms: 1_700_000_000_000, committee, allow: Vec::new(), params };
        let federation = Federation::new(genesis).expect("a genesis");
        let mailboxes = (0..MAILBOXES).map(|mailbox| SecretKey::from_seed([mailbox as u8 + 100; 32])).collect();
        let begun = State::genesis(&federation);
        let mut world = World { federation, nodes, mailboxes, begun };
        let mut run = Run::new(&world, &[]);
        for node in 0..NODES - 1 {
            run.record(world.node_record(node, 1));
            run.record(world.start(node, 1));
        }
        run.close(0);
        world.begun = run.state;
        world
    })
}

impl World {
    fn id(&self, node: usize) -> NodeId {
        self.nodes[node % NODES].public()
    }

    fn node_record(&self, node: usize, version: u64) -> Record {
        let node = node % NODES;
        let deputies = vec![self.id(node + 1)];
        let body = NodeRecord { node: self.id(node), version, name: "n".into(), addrs: Vec::new(), deputies };
        let consent = sign_digest(&self.nodes[(node + 1) % NODES], body.digest(self.federation.id()));
        let node = Signed::sign(body, &self.nodes[node], &self.federation).into_inner();
        Record::Node(Appointed { node, deputies: vec![consent] })
    }

    fn start(&self, node: usize, incarnation: u64) -> Record {
        let body = Start { node: self.id(node), incarnation, nonce: [incarnation as u8; 16] };
        Record::Start(Signed::sign(body, &self.nodes[node % NODES], &self.federation).into_inner())
    }

    fn registration(&self, mailbox: usize, home: usize) -> Record {
        let owner = &self.mailboxes[mailbox % MAILBOXES];
        let body = Registration {
            mailbox: owner.public(),
            home: self.id(home),
            encryption_key: Digest([mailbox as u8; 32]),
            // Every other mailbox has a recovery key: another mailbox's own.
            recovery_key: (!mailbox.is_multiple_of(2)).then(|| self.recovery(mailbox).public()),
        };
        let owner = Signed::sign(body, owner, &self.federation);
        Record::Register(CoSigned::sign(owner, &self.nodes[home % NODES], &self.federation).into_inner())
    }

    fn recovery(&self, mailbox: usize) -> &SecretKey {
        &self.mailboxes[(mailbox + 1) % MAILBOXES]
    }

    fn receipt(&self, holder: usize, incarnation: u64, item: ReceiptItem) -> Fill {
        let signed = sign_receipts(vec![item], incarnation, &self.nodes[holder % NODES], &self.federation);
        signed.into_iter().next().expect("one item, one receipt").into_inner()
    }
}

/// The rest of an input, which never ends: after its last byte come zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

/// One history in the making.
struct Run<'a> {
    world: &'a World,
    bytes: Bytes<'a>,
    state: State,
    draft: Draft,
    body: CutBody,
    /// Slices that a draft has taken as pending, for the fills.
    slices: BTreeMap<Digest, Vec<SliceRef>>,
}

/// The target.
pub(super) fn apply_what_was_drafted(input: &[u8]) {
    let mut run = Run::new(world(), input);
    for _ in 0..MAX_STEPS {
        if run.bytes.0.is_empty() {
            break;
        }
        run.step();
    }
    let how = run.bytes.next();
    run.close(how);
}

impl<'a> Run<'a> {
    fn new(world: &'a World, input: &'a [u8]) -> Run<'a> {
        let state = world.begun.clone();
        let draft = Draft::new(&state, state.time_ms + 25, &world.federation);
        Run { world, bytes: Bytes(input), state, draft, body: CutBody::default(), slices: BTreeMap::new() }
    }

    fn step(&mut self) {
        let (what, who) = (self.bytes.next(), usize::from(self.bytes.next()));
        let known = self.draft.state().node(&self.world.id(who));
        let (version, incarnation) = known.map_or((0, 0), |node| (node.version, node.incarnation));
        match what % 11 {
            0 => {
                let to = u64::from(self.bytes.next() % 3);
                self.record(self.world.node_record(who, version + to));
            }
            1 => {
                let to = u64::from(self.bytes.next() % 3);
                self.record(self.world.start(who, incarnation + to));
            }
            2 => {
                let home = usize::from(self.bytes.next());
                self.record(self.world.registration(who, home));
            }
            3 => self.fill(who),
            4..=6 => self.header(who),
            7 => self.dispute(who),
            9 => self.order(who),
            10 => self.import(who),
            _ => {
                let how = self.bytes.next();
                self.close(how);
            }
        }
    }

    /// A challenge for something that is pending or is not, an answer to it, or the word of a holder that it is lost.
    fn dispute(&mut self, who: usize) {
        let (which, how) = (usize::from(self.bytes.next()), self.bytes.next());
        let world = self.world;
        let state = self.draft.state();
        let pending: Vec<PendingKey> = state.all_pending().map(|(key, _)| *key).collect();
        let nothing = PendingKey { destination: world.id(who), header: Digest([how; 32]) };
        let key = pending.get(which % (pending.len() + 1)).copied().unwrap_or(nothing);
        let node = |id: NodeId| (0..NODES).find(|node| world.id(*node) == id).unwrap_or(who % NODES);
        let record = match how % 3 {
            0 => {
                let round = state.pending(&key).map_or(0, |pending| pending.rounds) + u32::from(how / 128);
                let body = Challenge { destination: key.destination, header: key.header, round };
                let destination = &world.nodes[node(key.destination)];
                Record::Challenge(Signed::sign(body, destination, &world.federation).into_inner())
            }
            1 => {
                let challenge = state.challenges().find(|(challenged, _)| **challenged == key);
                let item = ReceiptItem {
                    header: key.header,
                    destination: key.destination,
                    slice: state.pending(&key).map_or(Digest::ZERO, |pending| pending.slice),
                    request: challenge.map(|(_, challenged)| challenged.challenge),
                    refused: Vec::new(),
                };
                let witness = if how < 128 { state.witnesses(&key).first().map_or(who, |id| node(*id)) } else { who };
                Record::Answer(Box::new(world.receipt(witness, 1, item)))
            }
            // A destination may always say that it lost its own, which changes nothing.
            _ if world.id(who) == key.destination => return,
            _ => {
                let body = Lost { holder: world.id(who), destination: key.destination, header: key.header };
                Record::Lost(Signed::sign(body, &world.nodes[who % NODES], &world.federation).into_inner())
            }
        };
        self.record(record);
    }

    /// A switch to some home, of the record in force or another one, signed by the device, the recovery key, or both.
    fn order(&mut self, who: usize) {
        let (to, how) = (usize::from(self.bytes.next()), self.bytes.next());
        let (world, who) = (self.world, who % MAILBOXES);
        let owner = &world.mailboxes[who];
        let Some(known) = self.draft.state().mailbox(&owner.public()) else { return };
        let replaces = match how & 3 {
            0 => known.last_recovered(),
            1 => Digest([how; 32]),
            _ => known.record,
        };
        let recovery_key = if how & 12 == 12 { None } else { known.recovery_key };
        let (home, present) = (world.id(to), known.home);
        let mut order = Move::new(Switch { mailbox: owner.public(), replaces, home, recovery_key });
        if how & 16 != 0 {
            order = order.by_recovery(world.recovery(who), &world.federation);
        }
        if how & 16 == 0 || how & 32 != 0 {
            order = order.by_device(owner, &world.federation);
        }
        let signed = home != present || how & 64 != 0;
        let order = Verified::check(order, &world.federation).expect("it is well-formed and signed");
        let order = if signed { order.co_sign(&world.nodes[to % NODES], &world.federation) } else { order };
        self.record(Record::Move(Box::new(order.into_inner())));
    }

    /// An import by a mailbox's home or somebody else, of a base that is one or is not.
    fn import(&mut self, who: usize) {
        let (node, how, back) = (usize::from(self.bytes.next()), self.bytes.next(), u64::from(self.bytes.next()));
        let world = self.world;
        let state = self.draft.state();
        let mailbox = world.mailboxes[who % MAILBOXES].public();
        let Some(known) = state.mailbox(&mailbox) else { return };
        let last = known.moved.as_ref().and_then(|moved| moved.import.as_ref());
        let home = if how & 1 == 0 { known.home } else { world.id(node) };
        let through = (state.epoch - 1).saturating_sub(back / 64);
        let epoch = through.saturating_sub(back % 64);
        let base = Base {
            node: world.id(node),
            attestation: AttestationRef { number: 1, digest: Digest([how; 32]), epoch },
            log: LogHead { size: u64::from(how), root: Digest([how; 32]) },
        };
        let missing = Missing { origin: world.id(node), from: epoch, to: through };
        let import = Import {
            mailbox,
            home,
            previous: known.moved.as_ref().map_or(known.record, |moved| moved.follows()),
            base: if how & 6 == 0 { Some(base) } else { last.and_then(|last| last.base) },
            through,
            missing: if how & 24 == 0 { vec![missing] } else { Vec::new() },
        };
        let Some(signer) = (0..NODES).find(|node| world.id(*node) == home) else { return };
        let signed = Signed::sign(import, &world.nodes[signer], &world.federation);
        self.record(Record::Import(signed.into_inner()));
    }

    /// A cut settles records before everything else, so what comes too late waits for the next.
    fn record(&mut self, record: Record) {
        if !self.body.fills.is_empty() || !self.body.headers.is_empty() {
            self.close(0);
        }
        let record = Verified::check(record, &self.world.federation).expect("it is well-formed and signed");
        if self.draft.record(&record).is_ok() {
            self.body.records.push(record.into_inner());
        }
    }

    /// A fill of some pending slice, or of nothing, by its destination or somebody else.
    fn fill(&mut self, who: usize) {
        if !self.body.headers.is_empty() {
            self.close(0);
        }
        let pending: Vec<(PendingKey, Digest)> =
            self.draft.state().all_pending().map(|(key, pending)| (*key, pending.slice)).collect();
        let (which, how) = (usize::from(self.bytes.next()), self.bytes.next());
        let (key, slice) = match pending.get(which % (pending.len() + 1)) {
            Some(found) => *found,
            None => (PendingKey { destination: self.world.id(who), header: Digest([how; 32]) }, Digest::ZERO),
        };
        let holder = match how % 4 {
            0 => who,
            _ => (0..NODES).find(|node| self.world.id(*node) == key.destination).unwrap_or(who),
        };
        let item = ReceiptItem {
            header: key.header,
            destination: key.destination,
            slice: if how & 16 == 0 { slice } else { Digest([how; 32]) },
            request: (how & 32 != 0).then_some(Digest::ZERO),
            refused: Vec::new(),
        };
        let fill = self.world.receipt(holder, u64::from(how >> 6), item);
        if let Ok(fill) = Verified::check(fill, &self.world.federation)
            && self.draft.fill(&fill).is_ok()
        {
            self.body.fills.push(fill.into_inner());
        }
    }

    /// A header that follows its origin's last one or does not, with receipts that are complete or are not.
    fn header(&mut self, who: usize) {
        let (place, route, mail, held) = (self.bytes.next(), self.bytes.next(), self.bytes.next(), self.bytes.next());
        let world = self.world;
        let state = self.draft.state();
        let last = state.node(&world.id(who)).and_then(|node| node.last_header);
        let attested = state.node(&world.id(who)).and_then(|node| node.last_attestation);
        let slices: Vec<SliceRef> = (0..NODES)
            .filter(|node| mail & (1 << node) != 0)
            .map(|node| SliceRef { destination: world.id(node), root: Digest([mail; 32]), count: 1 })
            .collect();
        let number = attested.map_or(0, |last| last.attestation.number) + u64::from(place >> 6);
        let header = Header {
            origin: world.id(who),
            incarnation: u64::from(route >> 6),
            number: last.map_or(0, |last| last.number) + u64::from(place % 4),
            previous: match place & 12 {
                12 => Digest([place; 32]),
                _ => last.map_or(Digest::ZERO, |last| last.digest),
            },
            routing_epoch: state.epoch.saturating_sub(u64::from(route % 8)),
            attestation: (place & 16 != 0).then_some(AttestationRef {
                number,
                digest: Digest([place; 32]),
                epoch: state.epoch.saturating_sub(u64::from(route >> 4)),
            }),
            entries: Entries { bundles: 1, messages: slices.len() as u64, root: Digest([mail; 32]) },
            slices: slices.clone(),
        };
        let header = Signed::sign(header, &world.nodes[who % NODES], &world.federation);
        let digest = header.digest(&world.federation);
        let custody = slices.iter().enumerate().map(|(at, slice)| self.custody(who, digest, slice, held >> (2 * at)));
        let sealed = Sealed { custody: custody.collect(), header: header.into_inner() };
        let Ok(sealed) = Verified::check(sealed, &world.federation) else { return };
        if self.draft.header(&sealed).is_ok() {
            self.slices.insert(digest, slices);
            self.body.headers.push(sealed.into_inner());
        }
    }

    fn custody(&self, origin: usize, header: Digest, slice: &SliceRef, how: u8) -> Custody {
        let world = self.world;
        let home = (0..NODES).find(|node| world.id(*node) == slice.destination).unwrap_or(0);
        let item = |request| ReceiptItem {
            header,
            destination: slice.destination,
            slice: slice.root,
            request,
            refused: vec![],
        };
        if how.is_multiple_of(2) {
            return Custody { request: None, receipts: vec![world.receipt(home, 1, item(None))] };
        }
        let custodians: Vec<usize> = (0..NODES).filter(|node| *node != home).skip(usize::from(how & 2 != 0)).collect();
        let request = CustodyRequest {
            origin: world.id(origin),
            incarnation: 1,
            header,
            destination: slice.destination,
            slice: slice.root,
            custodians: custodians.iter().map(|node| world.id(*node)).collect(),
        };
        let request = Signed::sign(request, &world.nodes[origin % NODES], &world.federation);
        let digest = request.digest(&world.federation);
        let receipts = custodians.iter().map(|node| world.receipt(*node, 1, item(Some(digest)))).collect();
        Custody { request: Some(request.into_inner()), receipts }
    }

    /// Makes a cut of what the draft has taken, and goes on after it.
    fn close(&mut self, how: u8) {
        let federation = &self.world.federation;
        let body = std::mem::take(&mut self.body);
        let [records, fills, headers] = body.parts(federation);
        let header = CutHeader {
            epoch: self.state.epoch + 1,
            previous: self.state.cut,
            time_ms: self.draft.state().time_ms,
            age_ms: self.draft.state().age_ms,
            records,
            fills,
            headers,
            state: self.draft.state().root(),
        };
        let drafted = self.draft.clone().finish(&header);
        let cut = self.certify(header.clone(), body.clone());
        let verified = Verified::check(cut.clone(), federation).expect("what was drafted is well-formed and signed");
        let applied = apply(&self.state, &verified, federation).expect("what was drafted applies");
        assert_eq!(applied.state.root(), header.state);
        assert_eq!(applied.state.cut, drafted.state.cut);
        assert_eq!(applied.touched, drafted.touched);
        self.check_values(&applied.state);
        self.check_touched(&applied.state, &applied.touched);
        if let Some(altered) = self.alter(cut, how) {
            let refused = match Verified::check(altered, federation) {
                Ok(altered) => apply(&self.state, &altered, federation).is_err(),
                Err(_) => true,
            };
            assert!(refused, "a cut that was altered (way {how}) applies");
        }
        self.state = applied.state;
        // Now and then the sequencer is away for a while.
        let step_ms = [25, 25, 700, 1 << 30][usize::from(how) / 64];
        self.draft = Draft::new(&self.state, self.state.time_ms + step_ms, federation);
    }

    fn certify(&self, header: CutHeader, body: CutBody) -> Cut {
        let certificate = vec![vote(&self.world.nodes[0], header.digest(&self.world.federation))];
        Cut { certified: CertifiedCut { header, certificate }, body }
    }

    /// A cut that differs from this one and still has a good signature (or a bad one), if there is a way.
    fn alter(&self, cut: Cut, how: u8) -> Option<Cut> {
        let Cut { certified: CertifiedCut { mut header, mut certificate }, mut body } = cut;
        match how % 12 {
            0 => header.epoch += 1,
            1 => header.previous = Digest([how; 32]),
            2 => header.time_ms = self.state.time_ms,
            3 => header.state.0[usize::from(how) % 32] ^= 1,
            4 => {
                certificate[0].signature.0[usize::from(how) % 64] ^= 1;
                return Some(Cut { certified: CertifiedCut { header, certificate }, body });
            }
            5 => certificate = vec![vote(&self.world.nodes[1], header.digest(&self.world.federation))],
            6 => header.headers.root.0[0] ^= 1,
            7 => drop(body.records.pop()?),
            8 => drop(body.fills.pop()?),
            9 => drop(body.headers.pop()?),
            10 => header.age_ms += 1,
            _ => body.headers.push(body.headers.last()?.clone()),
        }
        if how % 12 == 5 {
            return Some(Cut { certified: CertifiedCut { header, certificate }, body });
        }
        if how % 12 >= 7 {
            [header.records, header.fills, header.headers] = body.parts(&self.world.federation);
        }
        Some(self.certify(header, body))
    }

    /// A state that is put together again from its values has the same root.
    fn check_values(&self, state: &State) {
        let mut restored = State::genesis(&self.world.federation);
        for key in state.keys() {
            restored.restore(key, &state.value(&key).expect("it has what it lists")).expect("its own value");
        }
        assert_eq!(restored.root(), state.root(), "the root follows from the values");
    }

    /// What is not among the touched keys is as it was.
    fn check_touched(&self, after: &State, touched: &std::collections::BTreeSet<postroad_protocol::state::StateKey>) {
        for key in self.state.keys().union(&after.keys()).filter(|key| !touched.contains(key)) {
            assert_eq!(after.value(key), self.state.value(key), "{} was not touched", hex::encode(encode(key)));
        }
    }
}
