//! What only a cheat or a bug would write: cuts that are certified and wrong, and a node that is behind.

use std::sync::Arc;

use postroad_engine::arrivals::Arrival;
use postroad_engine::departures::Departure;
use postroad_engine::node::Admission;
use postroad_engine::tables::{
    ARRIVALS, CUTS, DEPARTURES, EDGES, EXTRACTS, Edge, LogRow, SLICES, WAITING, extract_key, mailbox_key, number_key,
    put,
};
use postroad_engine::{Config, Input, Load, Node, Now, Output, Time};
use postroad_protocol::batch::{AttestationRef, Entries, Header};
use postroad_protocol::codec::decode;
use postroad_protocol::cut::{CertifiedCut, Cut, CutBody, CutHeader, vote};
use postroad_protocol::merkle::log::Frontier;
use postroad_protocol::moving::{Extract, Move, MovePhase, Switch};
use postroad_protocol::receipt::Sealed;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::state::{Draft, State, apply};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, SecretKey, Signed, Verified};
use postroad_store::Write;

use super::rows::Rows;

/// The state after all cuts of a node.
pub(crate) fn head(rows: &Rows) -> State {
    let mut state = State::genesis(&rows.federation);
    for (_, value) in rows.table(CUTS) {
        let cut = Verified::from_own_disk(decode::<Cut>(value).expect("a cut"));
        state = apply(&state, &cut, &rows.federation).expect("it is valid").state;
    }
    state
}

/// A row in each table that only a node with mailboxes that move has.
pub(crate) fn moving(rows: &Rows) -> Vec<Write> {
    let owner = SecretKey::from_seed([77; 32]);
    let mailbox = owner.public();
    let (_, value) = rows.table(SLICES).first().expect("a slice");
    let parcel: SliceParcel = decode(value).expect("a slice");
    let slice = SliceKey::of(&parcel, parcel.header.digest(&rows.federation));
    let index = parcel.body.index(parcel.header.body.entries.bundles, rows.federation.id()).expect("it is sound");
    let extract = Extract::of(parcel.header, parcel.destination, &parcel.body, &index, &mailbox);
    let switch = Switch { mailbox, replaces: Digest::ZERO, home: rows.me, recovery_key: None };
    let order = Move::new(switch).by_device(&owner, &rows.federation);
    let record = order.digest(&rows.federation);
    let row = LogRow { settled: 1, epoch: 1, position: 0, slice, leaves: Vec::new() };
    vec![
        put(EXTRACTS, extract_key(&mailbox, &slice), &extract),
        put(EDGES, mailbox.0, &Edge { frontier: Frontier::new(), expired_to: 0, last_epoch: 0 }),
        put(
            ARRIVALS,
            mailbox.0,
            &Arrival {
                order: Some(order),
                record,
                patience_ms: 1,
                owner: None,
                phase: MovePhase::Preparing,
                whole: None,
                resolved: None,
                since: None,
            },
        ),
        put(WAITING, mailbox_key(&mailbox, 1), &row),
        put(DEPARTURES, mailbox.0, &Departure { until: 1, attested: None, is_forgotten: false }),
    ]
}

/// The next cut, with this body; its state root is right if `honest`.
pub(crate) fn next_cut(
    state: &State,
    body: CutBody,
    honest: bool,
    sequencer: &SecretKey,
    federation: &Federation,
) -> Cut {
    let time_ms = state.time_ms + 1;
    let mut draft = Draft::new(state, time_ms, federation);
    for sealed in &body.headers {
        draft.header(&Verified::from_own_disk(sealed.clone())).expect("it can be included");
    }
    let [records, fills, headers] = body.parts(federation);
    let mut header = CutHeader {
        epoch: state.epoch + 1,
        previous: state.cut,
        time_ms,
        age_ms: state.next_age_ms(time_ms, federation),
        records,
        fills,
        headers,
        state: Digest::ZERO,
    };
    if honest {
        header.state = draft.finish(&header).state.root();
    }
    let certificate = vec![vote(sequencer, header.digest(federation))];
    Cut { certified: CertifiedCut { header, certificate }, body }
}

/// A header of `node` that names an attestation, and nothing else.
pub(crate) fn attesting_header(state: &State, node: &SecretKey, digest: Digest, federation: &Federation) -> Sealed {
    let known = state.node(&node.public()).expect("a node");
    let last = known.last_header.expect("it has sealed before");
    let number = known.last_attestation.expect("it has attested before").attestation.number + 1_000;
    let header = Header {
        origin: node.public(),
        incarnation: known.incarnation,
        number: last.number + 1_000,
        previous: last.digest,
        routing_epoch: state.epoch,
        attestation: Some(AttestationRef { number, digest, epoch: state.epoch }),
        entries: Entries::over(std::iter::empty(), federation.id()),
        slices: Vec::new(),
    };
    Sealed { header: Signed::sign(header, node, federation).into_inner(), custody: Vec::new() }
}

/// What a node would write that gets these cuts and can fetch nothing: the rows of a node that has mail to wait for.
pub(crate) fn follow(rows: &Rows, secret: &SecretKey, cuts: &[(Vec<u8>, Vec<u8>)]) -> Vec<Write> {
    let store = rows.store(&[]);
    let config = Config {
        federation: rows.federation.clone(),
        secret: secret.clone(),
        name: String::new(),
        addrs: Vec::new(),
        deputies: Vec::new(),
        deputy_for: Admission::Open,
        nonce: [9; 16],
        admission: Admission::Open,
        moves: Admission::Open,
        max_move_bytes: 1 << 40,
        max_queued_bytes: 1 << 20,
        max_flight_bytes: 1 << 20,
        max_sender_bytes: 1 << 20,
        max_custody_bytes: 1 << 20,
        max_mailboxes: 1 << 20,
        registrations_per_minute: 0,
        mailbox_quota: Load { entries: 1 << 20, bytes: 1 << 40 },
        policy: Default::default(),
        guard_epoch: 0,
    };
    let (mut node, mut out) = Node::open(config, &store.snapshot().expect("a snapshot")).expect("sound rows");
    let mut all = Vec::new();
    for (_, value) in cuts {
        let cut = Verified::check(decode::<Cut>(value).expect("a cut"), &rows.federation).expect("it verifies");
        let mut transaction = store.begin().expect("the one transaction");
        let now = Now { time: Time(0), wall_ms: 0 };
        node.handle(now, Input::Cut(Arc::new(cut)), &transaction, &mut out);
        for output in out.drain(..) {
            if let Output::Persist(_, writes) = output {
                writes.iter().for_each(|write| transaction.apply(write));
                all.extend(writes);
            }
        }
        transaction.commit().expect("memory takes everything");
    }
    all
}

/// A cut as a row.
pub(crate) fn row(cut: &Cut) -> Write {
    put(CUTS, number_key(cut.certified.header.epoch), cut)
}
