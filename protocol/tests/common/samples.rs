//! One value, at least, of everything that is signed, sent or stored, with its canonical bytes.

mod moving;

use std::fmt::Debug;

use minicbor::{Decode, Encode};
use postroad_protocol::batch::AttestationRef;
use postroad_protocol::block_list::BlockList;
use postroad_protocol::challenge::{Challenge, Lost};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::error::{DecodeError, Refusal};
use postroad_protocol::evidence::Included;
use postroad_protocol::explanation::{Disclosed, Explanation, LogWord, LossProof, Residence};
use postroad_protocol::merkle::log::{Frontier, Log};
use postroad_protocol::receipt::{LeafRefusal, RefusedLeaf};
use postroad_protocol::record::{Record, Registration};
use postroad_protocol::refused::{RefusedBy, RefusedProof, SettledFill};
use postroad_protocol::signed::Statement;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{Challenged, PendingKey, Reason, StateKey, Suspicion};
use postroad_protocol::wire::{call, client, mail, order};
use postroad_protocol::{Digest, Seq, Signature, Signed};

use super::claims::moving::dropped_import;
use super::claims::{Scale, guilty};
use super::story::{Story, story};
use super::{Hold, key};

/// A value's bytes, and the way through its type.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Decodes as the sample's type and encodes what came out.
    pub(crate) recode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

/// A signed statement's parts.
pub(crate) struct Spoken {
    pub(crate) kind: &'static str,
    pub(crate) signer: [u8; 32],
    pub(crate) body: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) signature: Signature,
}

fn recode<T: Encode<()> + for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode::<T>(bytes).map(|value| encode(&value))
}

fn sample<T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug>(name: &'static str, value: &T) -> Sample {
    let bytes = encode(value);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value), "{name}");
    Sample { name, bytes, recode: recode::<T> }
}

/// Every refusal.
pub(crate) fn refusals(story: &Story) -> Vec<Refusal> {
    let (mailbox, node) = (story.world.mailbox(0), story.world.node(0));
    vec![
        Refusal::Busy,
        Refusal::StaleCounter { last: 7 },
        Refusal::TooLarge { bytes: 1 << 33, limit: 65_536 },
        Refusal::UnknownRecipient { mailbox },
        Refusal::UnknownSender { mailbox },
        Refusal::WrongVia { via: node },
        Refusal::BadValidity { valid_until: 1, from: 256, to: 300 },
        Refusal::RepeatedRecipient { mailbox },
        Refusal::RecipientCount { count: 0, limit: 24 },
        Refusal::Invalid { reason: "no".into() },
        Refusal::WrongFederation,
        Refusal::NotReady,
        Refusal::NotHere { home: node },
        Refusal::AlreadyRegistered { home: node },
        Refusal::NotFound { what: "slice".into() },
        Refusal::NotAllowed { reason: "policy".into() },
        Refusal::Expired { valid_until: 9 },
        Refusal::StaleVersion { newest: 3 },
    ]
}

fn challenge(story: &Story) -> Signed<Challenge> {
    let body = Challenge { destination: story.world.node(2), header: story.first.digest, round: 1 };
    story.world.sign(body, &story.world.nodes[2])
}

fn lost(story: &Story) -> Signed<Lost> {
    let body = Lost { holder: story.world.node(1), destination: story.world.node(2), header: story.first.digest };
    story.world.sign(body, &story.world.nodes[1])
}

/// Every kind of statement, once.
pub(crate) fn statements(story: &Story) -> Vec<Spoken> {
    let world = &story.world;
    let federation = &world.federation;
    fn spoken<T: Statement>(signed: &Signed<T>, federation: Digest) -> Spoken {
        Spoken {
            kind: T::KIND,
            signer: signed.body.signer().0,
            body: encode(&signed.body),
            digest: signed.body.digest(federation),
            signature: signed.signature,
        }
    }
    let id = federation.id();
    let certified = world.certified(2);
    let (Record::Node(node), Record::Start(start), Record::Register(registration)) =
        (world.node_record(1, 1), world.start(1, 1), world.registration(2))
    else {
        unreachable!("the three kinds of records")
    };
    let custody = world.custody(&story.first, 1, &Hold::Custodians(vec![1, 3]));
    vec![
        spoken(&story.first.bundles[0].signed, id),
        spoken(&story.first.header, id),
        spoken(&custody.receipts[0].signed, id),
        spoken(&custody.request.unwrap(), id),
        spoken(&node.node, id),
        spoken(&start, id),
        spoken(&registration.owner, id),
        spoken(&story.attested.signed, id),
        spoken(&world.acknowledgement(2), id),
        spoken(&challenge(story), id),
        spoken(&lost(story), id),
        spoken(&block_list(story), id),
        spoken(&world.sign(moving::switch(story), &world.mailboxes[2]), id),
        spoken(&moving::import(story), id),
        spoken(&moving::handoff(story), id),
        Spoken {
            kind: "cut",
            signer: certified.certificate[0].member.0,
            body: encode(&certified.header),
            digest: certified.header.digest(federation),
            signature: certified.certificate[0].signature,
        },
    ]
}

fn block_list(story: &Story) -> Signed<BlockList> {
    let world = &story.world;
    let mut senders = vec![world.mailbox(0), world.mailbox(1)];
    senders.sort();
    world.sign(BlockList { mailbox: world.mailbox(2), version: 3, senders }, &world.mailboxes[2])
}

/// The shape of a refusal's proof; nothing is refused in the story.
fn refused_proof(story: &Story, by_fill: bool) -> RefusedProof {
    let world = &story.world;
    let (ordering, settling) = (&world.cuts[1], &world.cuts[2]);
    let settled = || SettledFill {
        cut: settling.certified.clone(),
        fill: settling.body.fills[0].clone(),
        index: 0,
        path: settling.body.fill_path(0),
    };
    RefusedProof {
        cut: ordering.certified.clone(),
        order: ordering.body.header_proofs(&world.federation).remove(0),
        by: match by_fill {
            true => RefusedBy::Fill(Box::new(settled())),
            false => RefusedBy::Receipt(ordering.body.headers[0].custody.clone()),
        },
    }
}

/// Structures that travel or are stored.
pub(crate) fn structures(story: &Story) -> Vec<Sample> {
    let world = &story.world;
    let pending = PendingKey { destination: world.node(2), header: story.first.digest };
    let mut item = world.item(&story.first, 1, Some(Digest([7; 32])));
    let refused = |index, reason| RefusedLeaf { index, mailbox: world.mailbox(2), reason };
    item.refused =
        vec![refused(0, LeafRefusal::Full), refused(1, LeafRefusal::Blocked), refused(2, LeafRefusal::Unknown)];
    let mut with_receipts = world.ordered_proof(2, 0, &story.first, 1);
    with_receipts.custody = world.cuts[1].body.headers[0].custody.clone();
    let attested = world.mailbox_attestation(&story.attested, 2);
    let mut not_final = attested.clone();
    not_final.anchor = None;
    let chain = vec![world.cuts[1].body.headers[0].clone()];
    let absent = world.state.prove_home(&key("nobody").public(), world.certified(4).clone());
    let recoverable = Registration {
        mailbox: world.mailbox(0),
        home: world.node(0),
        encryption_key: Digest([9; 32]),
        recovery_key: Some(key("recovery").public()),
    };
    let mut samples = vec![
        sample("genesis", world.federation.genesis()),
        sample("seq", &Seq { epoch: 300, position: 2, index: 70_000 }),
        sample("message", &story.first.bundles[0].messages[0]),
        sample("bundle", &story.first.bundles[0]),
        sample("header", &story.first.header.clone().into_inner()),
        sample("attestation-ref", &AttestationRef { number: 1, digest: Digest([1; 32]), epoch: 3 }),
        sample("slice", &story.first.routed.bodies[1]),
        sample("record-challenge", &Record::Challenge(challenge(story))),
        sample("record-answer", &Record::Answer(Box::new(world.fill(&story.first, 2)))),
        sample("record-lost", &Record::Lost(lost(story))),
        sample("challenged", &Challenged { epoch: 5, age_ms: 700, seed: Digest([2; 32]), challenge: Digest([3; 32]) }),
        sample("receipt", &world.fill(&story.first, 2)),
        sample("receipt-item-with-refusals", &item),
        sample("sealed", &world.cuts[1].body.headers[0]),
        sample("record-node", &world.node_record(1, 1)),
        sample("record-start", &world.start(1, 1)),
        sample("record-register", &world.registration(1)),
        sample("registration-with-recovery-key", &recoverable),
        sample("cut", &*world.cuts[1]),
        sample("certified-cut", world.certified(2)),
        sample("header-proof", &world.cuts[1].body.header_proofs(&world.federation)[0]),
        sample("entry", &world.entry(2, 0)),
        sample("message-proof", &world.message_proof(2, 0)),
        sample("accepted-proof", &world.accepted_proof(chain, &story.first, 1)),
        sample("ordered-proof", &world.ordered_proof(2, 0, &story.first, 1)),
        sample("ordered-proof-with-receipts", &with_receipts),
        sample("refused-proof-by-receipt", &refused_proof(story, false)),
        sample("refused-proof-by-fill", &refused_proof(story, true)),
        sample("mailbox-attestation-final", &attested),
        sample("mailbox-attestation-not-final", &not_final),
        sample("delivery-proof", &world.delivery_proof(&story.attested, 2, 1)),
        sample("home-proof-present", &world.state.prove_home(&world.mailbox(2), world.certified(4).clone())),
        sample("home-proof-absent", &absent),
        sample("state-node", world.state.node(&world.node(2)).unwrap()),
        sample("state-mailbox", world.state.mailbox(&world.mailbox(2)).unwrap()),
        sample("state-pending", world.states[2].pending(&pending).unwrap()),
        sample("state-key-node", &StateKey::Node(world.node(2))),
        sample("state-key-mailbox", &StateKey::Mailbox(world.mailbox(2))),
        sample("state-key-pending", &StateKey::Pending(pending)),
    ];
    samples.extend(moving::structures(story));
    samples.extend(claims());
    samples
}

/// A claim of every kind.
fn claims() -> Vec<Sample> {
    const NAMES: [&str; 16] = [
        "claim/equivocation",
        "claim/omission",
        "claim/bad-slice",
        "claim/forgery",
        "claim/misordering",
        "claim/stale",
        "claim/drop",
        "claim/wrong-entry",
        "claim/early-expiry",
        "claim/split-view",
        "claim/loss",
        "claim/invalid-cut",
        "claim/split-order",
        "claim/false-handoff",
        "claim/false-import",
        "claim/false-home",
    ];
    let mut samples: Vec<Sample> =
        guilty(Scale::SMALL).iter().zip(NAMES).map(|(guilty, name)| sample(name, &guilty.claim)).collect();
    samples.push(sample("claim/drop-import", &dropped_import(Scale::SMALL).claim));
    samples
}

/// All of the way of a message that came late.
pub(crate) fn explanation(story: &Story) -> Explanation {
    let (world, mailbox) = (&story.world, 2);
    let seq = Seq { epoch: 2, position: 0, index: 0 };
    let (cut, last) = (&world.cuts[1], world.certified(world.state.epoch));
    let order = cut.body.header_proofs(&world.federation).swap_remove(0);
    let key = PendingKey { destination: world.node(2), header: story.first.digest };
    let leaves = world.log(mailbox);
    let attested = world.mailbox_attestation(&story.attested, mailbox);
    let at = leaves.iter().position(|leaf| leaf.seq == seq).unwrap();
    let index = story.first.routed.bodies[2].index(story.first.header.body.entries.bundles, world.federation.id());
    Explanation {
        included: Some(Included { cut: cut.certified.clone(), order }),
        custody: cut.body.headers[0].custody.clone(),
        residence: Some(Residence {
            home: world.state.prove_home(&world.mailbox(mailbox), last.clone()),
            loss: Some(LossProof { value: None, path: world.state.prove_lost(&key) }),
        }),
        fill: SettledFill::find(&world.cuts[2], &key).map(Box::new),
        slice: Some(index.unwrap().prove(&world.mailbox(mailbox))),
        disclosed: Disclosed::of(&world.entry(mailbox, at).proof).ok().map(Box::new),
        log: LogWord::of(&attested, &Frontier::new(), leaves, leaves[at].order()).map(Box::new),
        ..Explanation::new(world.mailbox(mailbox), seq)
    }
}

/// Every message of every protocol.
pub(crate) fn messages(story: &Story) -> Vec<Sample> {
    let world = &story.world;
    let id = world.federation.id();
    let (first, second) = (&story.first, &story.second);
    let header = first.header.clone().into_inner();
    let request = world.request(first, 2, &[1, 3]);
    let destination = world.node(2);
    let parcel = |request| mail::SliceParcel {
        header: header.clone(),
        destination,
        request,
        body: first.routed.bodies[2].clone(),
    };
    let slice = SliceKey::of(&parcel(None), first.digest);
    let name = |request| mail::SliceName { slice, request };
    let receipt = world.fill(first, 2);
    let sealed = &world.cuts[1].body.headers;
    let Record::Node(appointed) = world.node_record(1, 1) else { unreachable!("a node record") };
    let Record::Register(registration) = world.registration(1) else { unreachable!("a registration") };
    let status = call::Status {
        node: world.node(0),
        federation: id,
        incarnation: 1,
        epoch: 4,
        cut: world.state.cut,
        time_ms: world.state.time_ms,
        mailboxes: 2,
        pending: 0,
        peers: [call::PeerState::Ready, call::PeerState::Away, call::PeerState::Unreachable]
            .into_iter()
            .enumerate()
            .map(|(node, state)| call::PeerStatus { node: world.node(node + 1), name: "peer".into(), state })
            .collect(),
        version: "0.1.0".into(),
        suspicions: [Reason::Unanswered, Reason::Unfilled, Reason::Lapsed]
            .map(|reason| Suspicion {
                node: world.node(1),
                reason,
                since: 3,
                slice: Some(PendingKey { destination: world.node(2), header: story.first.digest })
                    .filter(|_| reason != Reason::Lapsed),
            })
            .to_vec(),
        delivered: 3,
        messages_ordered: 5,
        messages_delivered: 7,
        retiring: Some(world.node(2)),
    };
    let cut = world.cuts[1].clone().into_inner();
    let accepted = world.accepted_proof(vec![sealed[1].clone()], second, 0);
    let ordered = world.ordered_proof(2, 1, second, 0);
    let attested = world.mailbox_attestation(&story.attested, 2);
    let home = world.state.prove_home(&world.mailbox(2), world.certified(4).clone());
    let delivery = world.delivery_proof(&story.attested, 2, 0);
    let settled = client::Settled { epoch: 4, size: 3, below: (5, 0) };
    use client::{Answer, FromClient, ToClient};
    let mut log = Log::new();
    story.world.log(2).iter().for_each(|leaf| log.append(leaf.hash()));
    let expired = client::Expired {
        before: log.frontier_at(1).unwrap(),
        last: story.world.log(2)[1],
        path: log.consistency(1, 2).unwrap(),
    };
    let claim = guilty(Scale::SMALL).remove(0).claim;
    let filed = call::Filed { found_epoch: 4, found_by: world.node(3), claim: claim.clone() };
    use mail::{Homeward, Outward};
    use order::{FromSequencer, ToSequencer};
    let mut samples = vec![
        sample("mail/outward/hello", &Outward::Hello(id)),
        sample("mail/outward/slice", &Outward::Slice(Box::new(parcel(None)))),
        sample("mail/outward/slice-for-custody", &Outward::Slice(Box::new(parcel(Some(request.clone()))))),
        sample("mail/outward/resume", &Outward::Resume(Box::new(name(None)))),
        sample("mail/outward/resume-custody", &Outward::Resume(Box::new(name(Some(request))))),
        sample("mail/homeward/hello", &Homeward::Hello(id, 1 << 24)),
        sample("mail/homeward/credit", &Homeward::Credit(65_536)),
        sample("mail/homeward/receipts", &Homeward::Receipts(vec![receipt.clone()])),
        sample("mail/homeward/missing", &Homeward::Missing(slice)),
        sample("mail/homeward/refused", &Homeward::Refused(slice, "full".into())),
        sample("mail/homeward/ready", &Homeward::Ready(true)),
        sample("order/to/hello", &ToSequencer::Hello(id, 0)),
        sample("order/to/sealed", &ToSequencer::Sealed(Box::new(sealed[1].clone()))),
        sample("order/to/fill", &ToSequencer::Fill(Box::new(receipt))),
        sample("order/to/record", &ToSequencer::Record(Box::new(world.start(1, 1)))),
        sample("order/to/applied", &ToSequencer::Applied(23)),
        sample("order/from/hello", &FromSequencer::Hello(id, 24)),
        sample("order/from/cut", &FromSequencer::Cut(Box::new(cut.clone()))),
        sample("order/from/rejected", &FromSequencer::Rejected(first.digest, "it follows another header".into())),
        sample("order/from/busy", &FromSequencer::Busy(first.digest)),
        sample("client/from/hello", &FromClient::Hello(id)),
        sample("client/from/submit", &FromClient::Submit(Box::new(second.bundles[0].clone()))),
        sample("client/from/subscribe", &FromClient::Subscribe(0)),
        sample("client/from/acknowledge", &FromClient::Acknowledge(world.acknowledgement(2))),
        sample("client/from/credit", &FromClient::Credit(255)),
        sample("client/to/hello", &ToClient::Hello(id, 4)),
        sample("client/to/answer-accepted", &ToClient::Answer(1, Box::new(Answer::Accepted(Box::new(accepted))))),
        sample("client/to/answer-ordered", &ToClient::Answer(1, Box::new(Answer::Ordered(Box::new(ordered))))),
        sample("client/to/answer-refused", &ToClient::Answer(1, Box::new(Answer::Refused(Refusal::Busy)))),
        sample("client/to/cut", &ToClient::Cut(world.certified(2).clone())),
        sample("client/to/entry", &ToClient::Entry(Box::new(world.entry(2, 0)))),
        sample("client/to/attested", &ToClient::Attested(Box::new(attested))),
        sample("client/to/settled", &ToClient::Settled(settled)),
        sample("client/to/refused", &ToClient::Refused(Refusal::NotReady)),
        sample("client/to/expired", &ToClient::Expired(Box::new(expired))),
        sample(
            "client/to/overdue",
            &ToClient::Overdue(client::Overdue {
                epoch: 4,
                position: 1,
                origin: world.node(0),
                holders: vec![world.node(1), world.node(3)],
            }),
        ),
        sample("client/to/retiring", &ToClient::Retiring(world.federation.genesis().committee[0].clone())),
        sample("call/question/genesis", &call::Question::Genesis),
        sample("call/question/status", &call::Question::Status),
        sample("call/question/home-now", &call::Question::Home(world.mailbox(0), None)),
        sample("call/question/home-then", &call::Question::Home(world.mailbox(0), Some(3))),
        sample("call/question/register", &call::Question::Register(registration.owner)),
        sample("call/question/cuts", &call::Question::Cuts(0)),
        sample("call/question/slice", &call::Question::Slice(slice)),
        sample(
            "call/question/delivery",
            &call::Question::Delivery(world.mailbox(2), Seq { epoch: 2, position: 0, index: 0 }),
        ),
        sample("call/question/block-list", &call::Question::BlockList(world.mailbox(2))),
        sample("call/question/set-block-list", &call::Question::SetBlockList(block_list(story))),
        sample("call/question/hand-in", &call::Question::HandIn(vec![sealed[1].clone()])),
        sample("call/reply/refused", &call::Reply::Refused(Refusal::WrongFederation)),
        sample("call/reply/genesis", &call::Reply::Genesis(Box::new(world.federation.genesis().clone()))),
        sample("call/reply/status", &call::Reply::Status(Box::new(status))),
        sample("call/reply/home", &call::Reply::Home(Box::new(home))),
        sample("call/reply/cuts", &call::Reply::Cuts(vec![cut])),
        sample("call/reply/slice", &call::Reply::Slice(Box::new(parcel(None)))),
        sample("call/reply/delivery", &call::Reply::Delivery(Some(Box::new(delivery)))),
        sample("call/reply/delivery-not-yet", &call::Reply::Delivery(None)),
        sample("call/reply/taken", &call::Reply::Taken),
        sample("call/reply/block-list", &call::Reply::BlockList(Some(Box::new(block_list(story))))),
        sample("call/reply/block-list-none", &call::Reply::BlockList(None)),
        sample("call/question/explain", &call::Question::Explain(world.mailbox(2), world.log(2)[1].seq)),
        sample("call/question/anchored", &call::Question::Anchored(world.node(2), Some(1))),
        sample("call/question/anchored-last", &call::Question::Anchored(world.node(2), None)),
        sample("call/question/deputise", &call::Question::Deputise(appointed.node)),
        sample("call/reply/deputised", &call::Reply::Deputised(appointed.deputies[0])),
        sample(
            "call/reply/explained",
            &call::Reply::Explained(
                Box::new(explanation(story)),
                vec![world.federation.genesis().committee[0].clone()],
            ),
        ),
        sample("call/reply/anchored", &call::Reply::Anchored(world.anchor(&story.attested).map(Box::new))),
        sample("call/reply/anchored-none", &call::Reply::Anchored(None)),
        sample("call/question/accuse", &call::Question::Accuse(Box::new(claim.clone()))),
        sample("call/question/evidence", &call::Question::Evidence(None)),
        sample("call/question/evidence-after", &call::Question::Evidence(Some(Digest([1; 32])))),
        sample("call/reply/judged-kept", &call::Reply::Judged(call::Judged::Kept(Digest([1; 32])))),
        sample("call/reply/judged-cleared", &call::Reply::Judged(call::Judged::Cleared("it was pending".into()))),
        sample("call/reply/judged-unproven", &call::Reply::Judged(call::Judged::Unproven("no path".into()))),
        sample("call/reply/evidence", &call::Reply::Evidence(vec![filed])),
        sample("call/reply/leaf-refused", &call::Reply::LeafRefused(Box::new(refused_proof(story, false)))),
    ];
    samples.extend(moving::messages(story));
    const NAMES: [&str; 18] = [
        "refusal/busy",
        "refusal/stale-counter",
        "refusal/too-large",
        "refusal/unknown-recipient",
        "refusal/unknown-sender",
        "refusal/wrong-via",
        "refusal/bad-validity",
        "refusal/repeated-recipient",
        "refusal/recipient-count",
        "refusal/invalid",
        "refusal/wrong-federation",
        "refusal/not-ready",
        "refusal/not-here",
        "refusal/already-registered",
        "refusal/not-found",
        "refusal/not-allowed",
        "refusal/expired",
        "refusal/stale-version",
    ];
    samples.extend(refusals(story).iter().zip(NAMES).map(|(refusal, name)| sample(name, refusal)));
    samples
}

/// All samples.
pub(crate) fn all() -> Vec<Sample> {
    let story = story();
    let mut samples = structures(&story);
    samples.extend(messages(&story));
    samples
}
