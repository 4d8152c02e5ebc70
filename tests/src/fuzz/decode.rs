//! Everything that is decoded from the network or the disk. The first byte of an input says as what.
//!
//! For every byte string: no panic; what decodes encodes to the same bytes; verification ends with an answer.

use minicbor::{Decode, Encode};
use postroad_engine::Held;
use postroad_engine::io::check_request;
use postroad_engine::tables::{Expiring, Floor, Holding, LogRow, PendingRow, StoredBatch, Taken};
use postroad_protocol::attestation::{Acknowledgement, Attestation, DeliveryProof, MailboxAttestation};
use postroad_protocol::batch::Header;
use postroad_protocol::block_list::BlockList;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::challenge::{Challenge, Lost};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::{CertifiedCut, Cut, HeaderProof};
use postroad_protocol::entry::{AcceptedProof, Entry, MessageProof, OrderedProof};
use postroad_protocol::evidence::Claim;
use postroad_protocol::explanation::Explanation;
use postroad_protocol::message::Message;
use postroad_protocol::moving::{Extract, Handoff, MoveRequest};
use postroad_protocol::receipt::{CustodyRequest, MAX_CUSTODIANS, Receipt, Sealed};
use postroad_protocol::record::Record;
use postroad_protocol::refused::RefusedProof;
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::SliceBody;
use postroad_protocol::state::{Challenged, Delayed, HomeProof, MailboxState, NodeState, Pending, State, StateKey};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::wire::client::{Answer, FromClient, ToClient};
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};
use postroad_protocol::{Digest, Genesis, MailboxId, Refusal, Seq, Signed};

use super::golden;

/// What is done with the bytes of one kind.
pub type Body = fn(&[u8]);

/// The types, each with the first words of its names in the golden vectors. New ones go to the end, so that the corpus
/// keeps its meaning.
pub const KINDS: &[(&str, Body)] = &[
    ("mail/outward", |bytes| value(bytes, outward)),
    ("mail/homeward", |bytes| value(bytes, homeward)),
    ("order/to", |bytes| value(bytes, to_sequencer)),
    ("order/from", |bytes| value(bytes, from_sequencer)),
    ("client/from", |bytes| value(bytes, from_client)),
    ("client/to", |bytes| value(bytes, to_client)),
    ("call/question", |bytes| value(bytes, question)),
    ("call/reply", |bytes| value(bytes, reply)),
    ("refusal", |bytes| value(bytes, |refusal: Refusal| drop(refusal.to_string()))),
    ("genesis", |bytes| value(bytes, |genesis: Genesis| drop(genesis.check()))),
    ("seq", |bytes| value(bytes, |_: Seq| ())),
    ("message-proof", |bytes| value(bytes, |proof: MessageProof| drop(proof.verify(golden())))),
    ("message", |bytes| value(bytes, |message: Message| drop((message.digest(), message.disclose())))),
    ("bundle", |bytes| value(bytes, bundle)),
    ("header-proof", |bytes| value(bytes, |_: HeaderProof| ())),
    ("header", |bytes| value(bytes, check::<Signed<Header>>)),
    ("slice", |bytes| value(bytes, slice)),
    ("receipt", |bytes| value(bytes, check::<Receipt>)),
    ("sealed", |bytes| value(bytes, sealed)),
    ("record", |bytes| value(bytes, check::<Record>)),
    ("cut", |bytes| value(bytes, cut)),
    ("certified-cut", |bytes| value(bytes, check::<CertifiedCut>)),
    ("entry", |bytes| value(bytes, |_: Entry| ())),
    ("accepted-proof", |bytes| value(bytes, |_: AcceptedProof| ())),
    ("ordered-proof", |bytes| value(bytes, |_: OrderedProof| ())),
    ("mailbox-attestation", |bytes| value(bytes, mailbox_attestation)),
    ("delivery-proof", |bytes| value(bytes, delivery)),
    ("home-proof", |bytes| value(bytes, home)),
    ("attestation", |bytes| value(bytes, check::<Signed<Attestation>>)),
    ("acknowledgement", |bytes| value(bytes, check::<Signed<Acknowledgement>>)),
    ("custody-request", |bytes| value(bytes, check::<Signed<CustodyRequest>>)),
    ("challenge", |bytes| value(bytes, check::<Signed<Challenge>>)),
    ("lost", |bytes| value(bytes, check::<Signed<Lost>>)),
    ("state-key", |bytes| value(bytes, |_: StateKey| ())),
    ("refused-proof", |bytes| value(bytes, |_: RefusedProof| ())),
    ("block-list", |bytes| value(bytes, check::<Signed<BlockList>>)),
    ("claim", |bytes| value(bytes, claim)),
    ("handoff", |bytes| value(bytes, check::<Signed<Handoff>>)),
    ("extract", |bytes| value(bytes, extract)),
];

/// The number of the kind whose name, as the golden vectors have it, begins this way.
pub fn kind_of(name: &str) -> Option<u8> {
    let named = KINDS.iter().enumerate().filter(|(_, (prefix, _))| name.starts_with(prefix));
    named.max_by_key(|(_, (prefix, _))| prefix.len()).map(|(number, _)| number as u8)
}

/// Statements, proofs and wire messages.
pub(super) fn statements(input: &[u8]) {
    if let Some((kind, bytes)) = input.split_first()
        && let Some((_, body)) = KINDS.get(usize::from(*kind))
    {
        body(bytes);
    }
}

/// Proof files.
pub(super) fn proof(input: &[u8]) {
    if let Ok(proof) = MessageProof::from_file(input) {
        assert_eq!(proof.to_file(), input, "a proof file has one form");
        // A tie to the golden federation would hide what comes after it.
        let own = MessageProof { federation: golden().id(), ..proof };
        let _ = own.verify(golden());
    }
}

/// Values of the store, which are read after a checksum has found no accident. The first byte says of which table.
pub(super) fn rows(input: &[u8]) {
    let Some((table, bytes)) = input.split_first() else { return };
    match table {
        0 => value(bytes, |_: Floor| ()),
        1 => value(bytes, |batch: StoredBatch| drop(batch.route(golden().id()))),
        2 => value(bytes, |_: Taken| ()),
        3 => value(bytes, |_: PendingRow| ()),
        4 => value(bytes, |row: LogRow| drop(row.log_leaves().map(|leaf| leaf.hash()).collect::<Vec<_>>())),
        5 => value(bytes, |_: (u64, u32)| ()),
        6 => value(bytes, |_: NodeState| ()),
        7 => value(bytes, |_: MailboxState| ()),
        8 => value(bytes, |_: Pending| ()),
        9 => value(bytes, |_: u64| ()),
        10 => value(bytes, |_: Digest| ()),
        11 => restore(bytes),
        12 => value(bytes, |_: Challenged| ()),
        13 => value(bytes, |_: Holding| ()),
        14 => value(bytes, |_: Expiring| ()),
        15 => value(bytes, |_: Delayed| ()),
        _ => {}
    }
}

/// A key of the state and its value, as they lie next to each other.
fn restore(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let Some((key, bytes)) = bytes.split_at_checked(usize::from(*length)) else { return };
    let Ok(key) = decode::<StateKey>(key) else { return };
    let mut state = State::genesis(golden());
    let before = state.root();
    match state.restore(key, bytes) {
        Ok(()) => assert_eq!(state.value(&key).as_deref(), Some(bytes), "a state keeps what it was given"),
        Err(_) => assert_eq!(state.root(), before, "what does not decode changes nothing"),
    }
}

fn value<T: Encode<()> + for<'b> Decode<'b, ()>>(bytes: &[u8], look: impl FnOnce(T)) {
    if let Ok(value) = decode::<T>(bytes) {
        assert!(encode(&value) == bytes, "a value has one encoding");
        look(value);
    }
}

fn check<T: Verify>(value: T) {
    let _ = value.verify(golden());
}

fn bundle(bundle: Bundle) {
    let _ = bundle.check_limits(golden().params());
    check(bundle);
}

fn claim(claim: Claim) {
    let id = claim.id(golden());
    if let Ok(verdict) = claim.judge(golden()) {
        assert_eq!((verdict.fault, verdict.culprit), (claim.fault(), claim.accused(golden())));
    }
    let file = claim.to_file(golden());
    let again = Claim::from_file(&file, golden()).expect("what is written can be read");
    assert!(again == claim && again.id(golden()) == id, "a claim keeps its id through its file");
}

fn slice(slice: SliceBody) {
    let _ = (slice.payload_bytes(), slice.index(2, golden().id()));
}

/// What is for one mailbox has an answer for every mailbox.
fn extract(extract: Extract) {
    let _ = (extract.key(golden()), extract.verify(&someone(), golden()));
    if let Some(message) = extract.body.bundles.first().and_then(|bundle| bundle.messages.first())
        && let Some(recipient) = message.recipients.first()
    {
        let _ = extract.verify(&recipient.mailbox, golden());
    }
}

fn moved(request: MoveRequest) {
    let mailbox = request.order.switch.mailbox;
    check(request.order);
    if let Some(base) = request.base {
        let _ = base.verify(&mailbox, golden());
    }
}

fn sealed(sealed: Sealed) {
    let _ = (sealed.digest(golden()), sealed.custody_digest(), sealed.is_weak(golden()));
    check(sealed);
}

fn cut(cut: Cut) {
    let _ = (cut.body.parts(golden()), cut.body.header_proofs(golden()));
    check(cut);
}

fn mailbox_attestation(attestation: MailboxAttestation) {
    let home = attestation.attestation.body.node;
    let _ = attestation.verify(&someone(), &home, golden());
}

fn delivery(proof: DeliveryProof) {
    let (mailbox, leaf, home) = (proof.mailbox, proof.leaf, proof.attested.attestation.body.node);
    let _ = proof.verify(leaf.message, leaf.seq, &mailbox, &home, golden());
}

fn home(proof: HomeProof) {
    let _ = proof.verify(&someone(), golden());
}

/// A key that is in the golden state.
fn someone() -> MailboxId {
    golden().genesis().committee[0].node
}

fn outward(message: Outward) {
    match message {
        Outward::Hello(_) => {}
        Outward::Slice(parcel) => drop(Held::check(*parcel, golden())),
        Outward::Resume(name) => {
            if let Some(request) = &name.request {
                let _ = check_request(request, &name.slice, golden());
            }
        }
    }
}

fn homeward(message: Homeward) {
    if let Homeward::Receipts(receipts) = message {
        receipts.into_iter().for_each(check);
    }
}

fn to_sequencer(message: ToSequencer) {
    match message {
        ToSequencer::Hello(..) | ToSequencer::Applied(_) => {}
        ToSequencer::Sealed(value) => sealed(*value),
        ToSequencer::Fill(fill) => check(*fill),
        ToSequencer::Record(record) => check(*record),
    }
}

fn from_sequencer(message: FromSequencer) {
    if let FromSequencer::Cut(value) = message {
        cut(*value);
    }
}

fn from_client(message: FromClient) {
    match message {
        FromClient::Submit(submitted) => bundle(*submitted),
        FromClient::Acknowledge(signed) => check(signed),
        _ => {}
    }
}

fn to_client(message: ToClient) {
    match message {
        ToClient::Cut(cut) => check(cut),
        ToClient::Attested(attestation) => mailbox_attestation(*attestation),
        ToClient::Answer(_, answer) => answered(*answer),
        _ => {}
    }
}

/// The proofs of an answer are checked against the bundle that was sent: here the golden one.
fn answered(answer: Answer) {
    let sent = include_bytes!("../../../fuzz/corpus/statements/bundle");
    let sent: Bundle = decode(&sent[1..]).expect("the golden bundle");
    match answer {
        Answer::Accepted(proof) => drop(proof.verify(&sent, golden())),
        Answer::Ordered(proof) => drop(proof.verify(&sent.signed, golden())),
        Answer::Refused(_) => {}
    }
}

/// Whatever it holds, it has an end and an answer.
fn explained(explanation: &Explanation) {
    assert!(explanation.hops(golden()).len() <= 6 + MAX_CUSTODIANS);
    let mut again = Explanation::new(explanation.mailbox, explanation.seq);
    again.merge(explanation.clone(), golden());
    assert_eq!(again.verify(golden()), Ok(()), "what was merged holds");
}

fn question(question: Question) {
    match question {
        Question::Register(owner) => check(owner),
        Question::Deputise(record) => check(record),
        Question::Accuse(accused) => claim(*accused),
        Question::HandIn(chain) => chain.into_iter().for_each(sealed),
        Question::Move(request) => moved(*request),
        Question::Handoff(request) => request.order.into_iter().for_each(|order| check(*order)),
        _ => {}
    }
}

fn reply(reply: Reply) {
    match reply {
        Reply::Genesis(genesis) => drop(genesis.check()),
        Reply::Home(proof) => home(*proof),
        Reply::Cuts(cuts) => cuts.into_iter().for_each(cut),
        Reply::Slice(parcel) => drop(Held::check(*parcel, golden())),
        Reply::Delivery(Some(proof)) => delivery(*proof),
        Reply::Explained(explanation, _) => explained(&explanation),
        Reply::Anchored(Some(anchor)) => drop(anchor.verify(golden())),
        Reply::Handoff(page) => {
            check(page.handoff);
            mailbox_attestation(page.attested);
            page.rows.into_iter().filter_map(|row| row.extract).for_each(|found| extract(*found));
        }
        Reply::Extracts(found) => found.into_iter().flatten().for_each(extract),
        Reply::Evidence(filed) => filed.into_iter().for_each(|filed| claim(filed.claim)),
        _ => {}
    }
}
