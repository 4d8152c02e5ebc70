//! `fsck` on the directories of real nodes: nothing after real mail, and every kind of damage that it claims to find.

use minicbor::{Decode, Encode};
use postroad::config::NodeDir;
use postroad_engine::arrivals::Arrival;
use postroad_engine::tables::{
    ACKS, ARRIVALS, ATTESTED, BATCHES, BUNDLES, CUTS, DELIVERED, DEPARTURES, EDGES, EVIDENCE, EXTRACTS, FLOOR, Floor,
    Holding, LOGS, LogRow, META, PENDING, PLACES, PendingRow, ROOTS, SLICES, STATE, StoredBatch, Taken, WAITING,
    delete, key_number, mailbox_key, number_key, put,
};
use postroad_protocol::attestation::Acknowledgement;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::cut::{Cut, CutBody, vote};
use postroad_protocol::moving::{Extract, Move};
use postroad_protocol::state::{MailboxState, NodeState, StateKey};
use postroad_protocol::wire::call::Filed;
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, MailboxId, SecretKey, Signed, Verified};
use postroad_store::{Table, Write};

use super::forge;
use super::rows::Rows;
use crate::evidence::equivocation;
use crate::net::{Net, run, text};

/// Cuts that are appended, so that the state has a floor.
const MORE_CUTS: u64 = 300;

/// Three nodes after mail; the third was away while mail came for it.
struct Scene {
    /// The sequencer, which holds a slice for the third; one of its owners has acknowledged.
    first: Rows,
    second: Rows,
    /// The third, when it knows what waits for it and has none of it yet.
    third: Rows,
    keys: [SecretKey; 2],
}

fn play() -> Scene {
    let net = Net::start(3);
    let [carol, alice, dan, bob] =
        [("carol", 1), ("alice", 2), ("dan", 2), ("bob", 3)].map(|(name, node)| net.mailbox(name, node));
    for (from, to) in [(&alice, vec![&bob, &carol, &dan]), (&bob, vec![&alice]), (&carol, vec![&bob])] {
        let sent = from.send(&to, &["--wait", "delivered"], b"one\ntwo\nthree\n");
        assert_eq!(sent.code, 0, "{}", sent.error);
    }
    carol.recv_all(3);
    // Its acknowledgement is in an attestation.
    assert_eq!(alice.send(&[&carol], &["--wait", "delivered", "four"], &[]).code, 0);
    net.kill(3);
    assert_eq!(alice.send(&[&bob], &["late"], &[]).code, 0);
    for node in [1, 2] {
        net.kill(node);
    }
    let dirs = [1, 2, 3].map(|node| net.path(&format!("net/node-{node}")));
    for dir in &dirs {
        let args = ["fsck", "--dir", text(dir)];
        let mut checked = run(&args);
        while checked.code == 5 {
            // The killed process holds the lock for a moment longer.
            checked = run(&args);
        }
        assert_eq!(checked.code, 0, "{checked:?}");
        let last = checked.lines.last().expect("a summary");
        assert_eq!((&last["type"], &last["problems"]), (&"fsck".into(), &0.into()));
        assert!(last["records"].as_u64().is_some_and(|records| records > 10), "{last}");
    }
    let keys = [&dirs[0], &dirs[1]].map(|dir| NodeDir::new(dir).read_key().expect("its key"));
    let [first, second, third] = [&dirs[0], &dirs[1], &dirs[2]].map(|dir| Rows::of(dir));
    let secret = NodeDir::new(&dirs[2]).read_key().expect("its key");
    let missed = &first.table(CUTS)[third.table(CUTS).len()..];
    let third = third.with(&forge::follow(&third, &secret, missed));
    // The sequencer goes on alone for a while.
    let mut state = forge::head(&first);
    let mut more = Vec::new();
    for _ in 0..MORE_CUTS {
        let cut = forge::next_cut(&state, CutBody::default(), true, &keys[0], &first.federation);
        more.push((number_key(cut.certified.header.epoch), encode(&cut)));
        let cut = Verified::check(cut, &first.federation).expect("it verifies");
        state = postroad_protocol::state::apply(&state, &cut, &first.federation).expect("it is valid").state;
    }
    let first = first.with(&forge::follow(&first, &keys[0], &more));
    Scene { first, second, third, keys }
}

/// Changes a row, and keeps its checksum right.
fn change<T>(rows: &Rows, table: Table, key: &[u8], change: impl FnOnce(&mut T)) -> Write
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    let mut value = rows.value::<T>(table, key);
    change(&mut value);
    put(table, key, &value)
}

fn first_key(rows: &Rows, table: Table) -> Vec<u8> {
    rows.table(table).first().unwrap_or_else(|| panic!("a row in {table}")).0.clone()
}

/// The first cut that includes mail.
fn cut_with_mail(rows: &Rows) -> Cut {
    let cuts = rows.table(CUTS).iter().map(|(_, value)| decode::<Cut>(value).expect("a cut"));
    let has_mail = |cut: &Cut| cut.body.headers.iter().any(|sealed| !sealed.custody.is_empty());
    cuts.into_iter().find(has_mail).expect("a cut with mail")
}

/// The number of the first own batch with mail.
fn batch_with_mail(rows: &Rows) -> Vec<u8> {
    let has_mail =
        |(_, value): &&(Vec<u8>, Vec<u8>)| !decode::<StoredBatch>(value).expect("a batch").bundles.is_empty();
    rows.table(BATCHES).iter().find(has_mail).expect("a batch with mail").0.clone()
}

struct Plant<'a> {
    rows: &'a Rows,
    writes: Vec<Write>,
    table: Table,
    says: &'static str,
}

fn plants(scene: &Scene) -> Vec<Plant<'_>> {
    let Scene { first, second, third, keys } = scene;
    let mut plants: Vec<Plant<'_>> = Vec::new();
    let mut plant = |rows, writes, table, says| plants.push(Plant { rows, writes, table, says });
    let other = MailboxId::from([3; 32]);

    let mail = cut_with_mail(first);
    let key = number_key(mail.certified.header.epoch);
    let cut = |how: &dyn Fn(&mut Cut)| vec![change(first, CUTS, &key, how)];
    let resign = |cut: &mut Cut| {
        let digest = cut.certified.header.digest(&first.federation);
        cut.certified.certificate = vec![vote(&keys[0], digest)];
    };
    plant(first, cut(&|cut| cut.certified.certificate[0].signature.0[5] ^= 1), CUTS, "certificate");
    plant(first, cut(&|cut| cut.body.headers[0].header.signature.0[5] ^= 1), CUTS, "on this header does not hold");
    plant(first, cut(&|cut| cut.body.headers[0].header.body.number += 1), CUTS, "not what the header commits to");
    let receipt = |cut: &mut Cut| {
        let custody = cut.body.headers.iter_mut().flat_map(|sealed| &mut sealed.custody).next().expect("a receipt");
        custody.receipts[0].signed.signature.0[5] ^= 1;
        cut.certified.header.headers = cut.body.parts(&first.federation)[2];
        resign(cut);
    };
    plant(first, cut(&receipt), CUTS, "on this receipt does not hold");
    let astray = |cut: &mut Cut| {
        cut.certified.header.previous = Digest::ZERO;
        resign(cut);
    };
    plant(first, cut(&astray), CUTS, "does not follow the cut before");
    plant(first, vec![delete(CUTS, key.clone())], CUTS, "the cut is missing");
    plant(first, vec![put(CUTS, key.clone(), &"no cut")], CUTS, "these bytes are no");
    let state = forge::head(second);
    let beyond = number_key(state.epoch + 1);
    plant(second, vec![put(CUTS, beyond, &mail)], CUTS, "it holds the cut of epoch");
    let invalid = forge::next_cut(&state, CutBody::default(), false, &keys[0], &second.federation);
    plant(second, vec![forge::row(&invalid)], CUTS, "it is not valid");
    let header = forge::attesting_header(&state, &keys[1], Digest([7; 32]), &second.federation);
    let body = CutBody { headers: vec![header], ..CutBody::default() };
    let cheat = forge::next_cut(&state, body, true, &keys[0], &second.federation);
    plant(second, vec![forge::row(&cheat)], CUTS, "is not of the logs that the cuts make");

    let node = encode(&StateKey::Node(first.me));
    plant(
        first,
        vec![change(first, STATE, &node, |node: &mut NodeState| node.version += 1)],
        STATE,
        "not what the cuts make",
    );
    plant(first, vec![delete(STATE, node)], STATE, "the value is missing");
    let known = first.table(STATE).iter().find(|(key, _)| matches!(decode(key), Ok(StateKey::Mailbox(_))));
    let known: MailboxState = decode(&known.expect("a mailbox").1).expect("its state");
    let unknown = encode(&StateKey::Mailbox(other));
    plant(first, vec![put(STATE, unknown, &known)], STATE, "has no such value");
    plant(first, vec![change(first, META, FLOOR, |floor: &mut Floor| floor.time_ms += 1)], META, "not that of the cut");
    plant(first, vec![delete(META, FLOOR)], META, "has no floor");
    plant(first, vec![put(META, DELIVERED, &1_000_000_u64)], META, "has no cut");
    plant(first, vec![put(META, DELIVERED, &1_u64)], LOGS, "no cut makes this node owe");
    plant(first, vec![put(META, ATTESTED, &"many")], META, "these bytes are no");

    let key = batch_with_mail(second);
    let batch = |how: &dyn Fn(&mut StoredBatch)| vec![change(second, BATCHES, &key, how)];
    plant(second, batch(&|batch| batch.bundles[0].signed.signature.0[5] ^= 1), BATCHES, "on this bundle does not hold");
    plant(second, batch(&|batch| batch.bundles[0].messages[0].common[0] ^= 1), BATCHES, "not those that were signed");
    plant(second, batch(&|batch| batch.bundles[0].signed.body.via = first.me), BATCHES, "meant for another node");
    plant(second, batch(&|batch| batch.header.entries.messages += 1), BATCHES, "does not commit to its bundles");
    plant(second, batch(&|batch| batch.header.entries.messages += 1), BATCHES, "included another header");
    let elsewhere = |batch: &mut StoredBatch| {
        let home = *batch.homes.values().next().expect("a recipient");
        let to = if home == first.me { second.me } else { first.me };
        batch.homes.values_mut().for_each(|home| *home = to);
    };
    plant(second, batch(&elsewhere), BATCHES, "does not commit to the slices");
    plant(second, vec![delete(BATCHES, key.clone())], BATCHES, "a batch that a cut included is missing");
    let unchained = |number: u64| {
        let mut batch = second.value::<StoredBatch>(BATCHES, &key);
        batch.header.number = number;
        put(BATCHES, number_key(number), &batch)
    };
    plant(second, vec![unchained(500), unchained(501)], BATCHES, "does not follow the batch before");
    plant(
        second,
        vec![change(second, PLACES, &key, |place: &mut (u64, u32)| place.1 += 1)],
        PLACES,
        "the cuts put the batch",
    );
    plant(second, vec![delete(PLACES, key.clone())], PLACES, "the place of an included batch is missing");
    plant(second, vec![put(PLACES, number_key(500), &(3_u64, 0_u32))], PLACES, "has no header of that number");
    let taken = second.value::<StoredBatch>(BATCHES, &key).bundles[0].signed.body.clone();
    let bundle = mailbox_key(&taken.sender, taken.counter);
    plant(
        second,
        vec![change(second, BUNDLES, &bundle, |taken: &mut Taken| taken.bundle = Digest::ZERO)],
        BUNDLES,
        "it is not what batch",
    );
    plant(second, vec![delete(BUNDLES, bundle.clone())], BUNDLES, "is not known as taken");
    let taken = second.value::<Taken>(BUNDLES, &bundle);
    plant(second, vec![put(BUNDLES, mailbox_key(&other, 1), &taken)], BUNDLES, "does not hold the bundle");

    // A slice of the first node's own, and one that it holds for the third.
    let held = |own: bool| {
        let is_it = |(_, value): &&(Vec<u8>, Vec<u8>)| {
            decode::<SliceParcel>(value).expect("a slice").destination == if own { first.me } else { third.me }
        };
        first.table(SLICES).iter().find(is_it).expect("such a slice").0.clone()
    };
    let (own, kept) = (held(true), held(false));
    let slice = |key: &[u8], how: &dyn Fn(&mut SliceParcel)| vec![change(first, SLICES, key, how)];
    plant(
        first,
        slice(&own, &|parcel| parcel.body.bundles[0].messages[0].common[0] ^= 1),
        SLICES,
        "does not lead to its root",
    );
    plant(
        first,
        slice(&own, &|parcel| parcel.body.bundles[0].messages[0].common[0] ^= 1),
        SLICES,
        "not the slice that the cuts name",
    );
    plant(first, slice(&own, &|parcel| parcel.header.signature.0[5] ^= 1), SLICES, "on this header does not hold");
    plant(first, slice(&kept, &|parcel| parcel.destination = second.me), SLICES, "it holds another slice");
    let request = |parcel: &mut SliceParcel| parcel.request.as_mut().expect("a request").signature.0[5] ^= 1;
    plant(first, slice(&kept, &request), SLICES, "on this custody-request does not hold");
    plant(
        first,
        vec![delete(SLICES, own.clone()), delete(ROOTS, own.clone())],
        SLICES,
        "entries are in the logs is missing",
    );
    plant(first, vec![delete(SLICES, own.clone())], SLICES, "held by name is missing");
    plant(first, vec![delete(SLICES, kept.clone()), delete(ROOTS, kept.clone())], SLICES, "others wait for it");
    plant(
        first,
        vec![change(first, ROOTS, &own, |holding: &mut Holding| holding.root = Digest::ZERO)],
        ROOTS,
        "not the slice's root",
    );
    plant(first, vec![delete(ROOTS, own)], ROOTS, "root of a slice that is held is missing");

    let key = first_key(third, PENDING);
    plant(
        third,
        vec![change(third, PENDING, &key, |row: &mut PendingRow| row.position += 1)],
        PENDING,
        "not what the cuts say",
    );
    plant(third, vec![delete(PENDING, key.clone())], PENDING, "its row is missing");
    let row: PendingRow = third.value(PENDING, &key);
    plant(third, vec![put(PENDING, [5; 32], &row)], PENDING, "it names another slice");
    plant(second, vec![put(PENDING, key, &row)], PENDING, "the slice is not pending");

    let key = first_key(third, LOGS);
    let row: LogRow = third.value(LOGS, &key);
    let mailbox = MailboxId::from(*key.first_chunk().expect("a mailbox"));
    plant(
        third,
        vec![change(third, LOGS, &key, |row: &mut LogRow| row.leaves[0].message = Digest::ZERO)],
        LOGS,
        "not those that cuts and slices make",
    );
    plant(third, vec![delete(LOGS, key.clone())], LOGS, "delivered are missing");
    let last = third.table(LOGS).iter().rfind(|(key, _)| key[..32] == mailbox.0).expect("a row");
    let end = key_number(&last.0) + decode::<LogRow>(&last.1).expect("a row").leaves.len() as u64;
    plant(third, vec![put(LOGS, mailbox_key(&mailbox, end), &row)], LOGS, "no cut makes this node owe");
    plant(third, vec![put(LOGS, mailbox_key(&other, 0), &row)], LOGS, "does not live here");
    plant(third, vec![put(LOGS, [1; 5], &row)], LOGS, "names no mailbox and index");

    let key = first_key(first, ACKS);
    type Ack = Signed<Acknowledgement>;
    let ack = |how: &dyn Fn(&mut Ack)| vec![change(first, ACKS, &key, how)];
    plant(first, ack(&|ack| ack.signature.0[5] ^= 1), ACKS, "on this acknowledgement does not hold");
    plant(first, ack(&|ack| ack.body.log.root = Digest::ZERO), ACKS, "has another root");
    plant(first, ack(&|ack| ack.body.log.size = 10_000), ACKS, "entries only");
    plant(first, vec![put(ACKS, other.0, &first.value::<Ack>(ACKS, &key))], ACKS, "another mailbox's");

    let moving = forge::moving(first);
    fn of<T: for<'b> Decode<'b, ()> + Encode<()>>(writes: &[Write], table: Table) -> (Vec<u8>, T) {
        let row = writes.iter().find_map(|write| match write {
            Write::Put { table: known, key, value } if *known == table => Some((key.clone(), decode(value))),
            _ => None,
        });
        let (key, value) = row.expect("a row in each table");
        (key, value.expect("a value"))
    }
    let (key, extract) = of::<Extract>(&moving, EXTRACTS);
    let mut forged = extract.clone();
    forged.header.signature.0[5] ^= 1;
    plant(first, vec![put(EXTRACTS, key.clone(), &forged)], EXTRACTS, "on this header does not hold");
    plant(first, vec![put(EXTRACTS, [&key[..103], &[9]].concat(), &extract)], EXTRACTS, "of another slice");
    plant(first, vec![put(EXTRACTS, [1; 5], &extract)], EXTRACTS, "names no mailbox");
    let (key, arrival) = of::<Arrival>(&moving, ARRIVALS);
    let forged = |how: &dyn Fn(&mut Arrival)| {
        let mut forged = arrival.clone();
        how(&mut forged);
        vec![put(ARRIVALS, key.clone(), &forged)]
    };
    plant(first, forged(&|arrival| arrival.record = Digest::ZERO), ARRIVALS, "not the order's digest");
    plant(first, forged(&|arrival| order(arrival).switch.home = second.me), ARRIVALS, "to another node");
    let unsign = |arrival: &mut Arrival| order(arrival).device.as_mut().expect("a signature").0[5] ^= 1;
    plant(first, forged(&unsign), ARRIVALS, "on this switch does not hold");
    for table in [EDGES, WAITING, DEPARTURES] {
        plant(first, vec![put(table, other.0, &"many")], table, "these bytes are no");
    }

    let (claim, innocent) =
        (equivocation(&keys[1], 1, &first.federation), equivocation(&keys[1], 2, &first.federation));
    let evidence =
        |key: [u8; 32], claim| vec![put(EVIDENCE, key, &Filed { found_epoch: 1, found_by: first.me, claim })];
    let id = innocent.id(&first.federation).0;
    plant(first, evidence([7; 32], claim), EVIDENCE, "it holds other evidence");
    plant(first, evidence(id, innocent), EVIDENCE, "two incarnations");
    plants
}

#[test]
fn fsck_finds_nothing_after_real_mail_and_every_damage_that_is_planted() {
    let scene = play();
    // What a node has for mailboxes that move is sound as well.
    assert_eq!(scene.first.check(&forge::moving(&scene.first)).1, []);
    for rows in [&scene.first, &scene.second, &scene.third] {
        let (summary, problems) = rows.check(&[]);
        assert_eq!(problems, [], "{summary:?}");
        assert!(summary.attestations > 0, "{summary:?}");
    }
    // Where nobody has acknowledged, every attestation is recomputed.
    assert_eq!(scene.second.check(&[]).0.unknown_attestations, 0);
    let plants = plants(&scene);
    assert!(plants.len() > 50);
    for Plant { rows, writes, table, says } in plants {
        let (summary, problems) = rows.check(&writes);
        let found =
            problems.iter().any(|problem| problem.key.starts_with(&format!("{table}/")) && problem.what.contains(says));
        assert!(found, "planted: {says} in {table}; found: {problems:?}");
        assert_eq!(summary.problems, problems.len() as u64);
    }
}

fn order(arrival: &mut Arrival) -> &mut Move {
    arrival.order.as_mut().expect("an order")
}
