//! Messages, bundles, batches and slices: what is bound to what, and who gets to see what.

use std::collections::BTreeSet;

use postroad_protocol::batch::{Entries, Header};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::digest::hash;
use postroad_protocol::merkle::sum::{SumPath, SumRoot};
use postroad_protocol::message::{Message, RECIPIENT_BYTES, common_digest};
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::{SliceBody, mailbox_value};
use postroad_protocol::wire::mail::SliceParcel;
use postroad_protocol::{Digest, Federation, MailboxId, Params, Refusal, VerifyError};

use crate::common::story::story;
use crate::common::{Batch, World, key};

fn malformed<T>(kind: &'static str, reason: &'static str) -> Result<T, VerifyError> {
    Err(VerifyError::Malformed { kind, reason })
}

fn path<T>(what: &'static str) -> Result<T, VerifyError> {
    Err(VerifyError::Path { what })
}

#[test]
fn every_recipient_has_a_proof_and_it_is_of_this_message_only() {
    let mut world = World::builder().mailboxes(9).build();
    for recipients in 1..=9 {
        let message = world.message("hello", &(0..recipients).collect::<Vec<_>>());
        let (digest, proofs) = message.disclose();
        assert_eq!(digest, message.digest());
        let (count, common) = (recipients as u32, common_digest(&message.common));
        for (position, proof) in proofs.iter().enumerate() {
            assert_eq!(proof.mailbox, world.mailbox(position));
            assert_eq!(proof.own, message.recipients[position].own);
            assert_eq!(proof.message(count, common), Some(digest));
            assert_ne!(proof.message(count + 1, common), Some(digest));
            assert_ne!(proof.message(count, common_digest(b"another")), Some(digest));
            let bytes = encode(proof);
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                if let Ok(changed) = decode::<postroad_protocol::message::RecipientProof>(&bytes) {
                    assert_ne!(changed.message(count, common), Some(digest), "bit {bit}");
                }
            }
        }
    }
}

#[test]
fn salts_keep_equal_leaves_apart() {
    let mut world = World::builder().build();
    let (one, two) = (world.message("hello", &[0, 1]), world.message("hello", &[0, 1]));
    assert_ne!(one.digest(), two.digest());
    let salts: BTreeSet<[u8; 16]> =
        [one.disclose().1, two.disclose().1].iter().flatten().flat_map(|proof| [proof.salt, proof.own_salt]).collect();
    assert_eq!(salts.len(), 8);
}

#[test]
fn a_message_signed_again_for_another_origin_keeps_its_id() {
    let mut world = World::builder().build();
    let message = world.message("hello", &[1]);
    let (one, two) = (world.bundle(0, 0, vec![message.clone()]), world.bundle(0, 1, vec![message]));
    assert_eq!(one.messages[0].digest(), two.messages[0].digest());
    assert_ne!(one.signed.digest(&world.federation), two.signed.digest(&world.federation));
}

#[test]
fn limits_of_messages_and_bundles_are_refused_with_what_is_allowed() {
    let mut world = World::builder().build();
    let params = Params {
        max_recipients: 2,
        max_message_bytes: 40,
        max_bundle_messages: 2,
        max_bundle_bytes: 50 + 2 * RECIPIENT_BYTES,
        ..Params::default()
    };
    let with = |world: &mut World, recipients: &[usize], common: &str| {
        let mut message = world.message(common, recipients);
        message.recipients.iter_mut().for_each(|recipient| recipient.own.clear());
        message
    };
    let mut check =
        |recipients: &[usize], bytes: usize| with(&mut world, recipients, &"x".repeat(bytes)).check(&params);
    assert_eq!(check(&[0, 1], 40), Ok(()));
    assert_eq!(check(&[0, 1], 41), Err(Refusal::TooLarge { bytes: 41, limit: 40 }));
    assert_eq!(check(&[], 0), Err(Refusal::RecipientCount { count: 0, limit: 2 }));
    assert_eq!(check(&[0, 1, 2], 0), Err(Refusal::RecipientCount { count: 3, limit: 2 }));
    let mailbox = key("mailbox 1").public();
    assert_eq!(check(&[1, 1], 0), Err(Refusal::RepeatedRecipient { mailbox }));

    let mut bundle = |sizes: &[usize]| {
        let messages = sizes.iter().map(|bytes| with(&mut world, &[0], &"x".repeat(*bytes))).collect();
        world.bundle(0, 0, messages).check_limits(&params)
    };
    assert_eq!(bundle(&[40, 10]), Ok(()));
    assert_eq!(
        bundle(&[40, 11]),
        Err(Refusal::TooLarge { bytes: 51 + 2 * RECIPIENT_BYTES, limit: 50 + 2 * RECIPIENT_BYTES })
    );
    assert_eq!(bundle(&[1, 1, 1]), Err(Refusal::TooLarge { bytes: 3, limit: 2 }));
    assert_eq!(bundle(&[41]), Err(Refusal::TooLarge { bytes: 41, limit: 40 }));
    assert!(matches!(bundle(&[]), Err(Refusal::Invalid { .. })));
}

#[test]
fn a_bundle_is_exactly_what_was_signed() {
    let mut world = World::builder().build();
    let messages: Vec<Message> = (0..3).map(|n| world.message(&format!("{n}"), &[1, 2])).collect();
    let good = world.bundle(0, 0, messages);
    let check = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle.verify(&world.federation)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let count = || malformed("bundle", "the signed count is not the number of messages");
    let others = || malformed("bundle", "the messages are not those that were signed");
    assert_eq!(check(&|bundle| drop(bundle.messages.pop())), count());
    assert_eq!(check(&|bundle| bundle.messages.push(bundle.messages[0].clone())), count());
    assert_eq!(check(&|bundle| bundle.messages.swap(0, 1)), others());
    assert_eq!(check(&|bundle| bundle.messages[1].common.push(0)), others());
    assert_eq!(check(&|bundle| bundle.messages[1].recipients.swap(0, 1)), others());
    assert_eq!(check(&|bundle| drop(bundle.messages[1].recipients.pop())), others());
    // Taken apart with a count to match, it is no longer the messages that were signed.
    let apart = check(&|bundle| {
        bundle.messages.pop();
        bundle.signed.body.count = 2;
    });
    assert_eq!(apart, others());
    let signer = world.mailbox(0);
    let signature = Err(VerifyError::Signature { kind: "bundle", signer });
    assert_eq!(check(&|bundle| bundle.signed.body.valid_until += 1), signature);
    assert_eq!(check(&|bundle| bundle.signed.body.via = world.node(1)), signature);
    assert_eq!(check(&|bundle| bundle.signed.body.counter += 1), signature);
}

#[test]
fn counters_begin_at_one_and_end_below_two_to_the_64() {
    let mut world = World::builder().build();
    let messages = vec![world.message("one", &[1]), world.message("two", &[1])];
    let check = |counter| {
        let body = BundleBody::new(world.mailbox(0), world.node(0), counter, 9, &messages);
        let last = body.last_counter();
        let bundle = Bundle { signed: world.sign(body, &world.mailboxes[0]), messages: messages.clone() };
        bundle.verify(&world.federation).map(|()| last)
    };
    assert_eq!(check(1), Ok(2));
    assert_eq!(check(u64::MAX - 2), Ok(u64::MAX - 1));
    let refused = malformed("bundle", "counters begin at 1 and end below 2^64");
    assert_eq!(check(0), refused);
    assert_eq!(check(u64::MAX - 1), refused);
    assert_eq!(check(u64::MAX), refused);
}

/// Three bundles of 1, 3 and 2 messages, to homes all over.
fn batch(world: &mut World) -> Batch {
    let plan: [(usize, &[&[usize]]); 3] =
        [(0, &[&[0, 1, 2, 3, 4]]), (1, &[&[1], &[2, 6], &[5, 0]]), (4, &[&[4, 0], &[7, 3, 2]])];
    let mut bundles = Vec::new();
    for (sender, messages) in plan {
        let messages =
            messages.iter().map(|recipients| world.message(&format!("{recipients:?}"), recipients)).collect();
        bundles.push(world.bundle(sender, 0, messages));
    }
    world.seal(0, bundles)
}

fn verify(body: &SliceBody, batch: &Batch, slice: usize, federation: &Federation) -> Result<(), VerifyError> {
    body.verify(&batch.header.body, &batch.header.body.slices[slice], federation).map(drop)
}

#[test]
fn the_index_of_a_message_is_its_place_in_the_batch() {
    let mut world = World::builder().build();
    let batch = batch(&mut world);
    let entries = batch.header.body.entries;
    assert_eq!((entries.bundles, entries.messages), (3, 6));
    assert_eq!(Entries::over(batch.bundles.iter().map(|bundle| &bundle.signed), world.federation.id()), entries);
    let order: Vec<(Digest, Vec<MailboxId>)> = (batch.bundles.iter().flat_map(|bundle| &bundle.messages))
        .map(|message| {
            let recipients = message.recipients.iter().map(|recipient| recipient.mailbox).collect();
            (message.digest(), recipients)
        })
        .collect();
    let mut seen = BTreeSet::new();
    for (slice, body) in batch.header.body.slices.iter().zip(&batch.routed.bodies) {
        let index = body.verify(&batch.header.body, slice, &world.federation).unwrap();
        assert_eq!(index.count(), slice.count);
        for (mailbox, leaves) in index.leaves() {
            assert_eq!(world.state.home(mailbox), Some(slice.destination));
            for leaf in leaves {
                let (digest, recipients) = &order[leaf.index as usize];
                assert_eq!(leaf.message, *digest);
                assert!(recipients.contains(mailbox));
                let message = &body.bundles[leaf.bundle_at as usize].messages[leaf.message_at as usize];
                assert_eq!(message.recipients[leaf.recipient_at as usize].mailbox, *mailbox);
                seen.insert((leaf.index, *mailbox));
            }
        }
    }
    let all = order.iter().enumerate().flat_map(|(index, (_, to))| to.iter().map(move |to| (index as u64, *to)));
    assert_eq!(seen, all.collect());
}

#[test]
fn a_slice_discloses_its_own_recipients_only() {
    let mut world = World::builder().build();
    let batch = batch(&mut world);
    let senders: BTreeSet<MailboxId> = batch.bundles.iter().map(|bundle| bundle.signed.body.sender).collect();
    for (slice, body) in batch.header.body.slices.iter().zip(&batch.routed.bodies) {
        let bytes = encode(body);
        let shows = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for message in batch.bundles.iter().flat_map(|bundle| &bundle.messages) {
            let here = |mailbox: &MailboxId| world.state.home(mailbox) == Some(slice.destination);
            assert_eq!(shows(&message.common), message.recipients.iter().any(|recipient| here(&recipient.mailbox)));
            assert!(!shows(&message.salt), "the salt of all salts");
            for recipient in &message.recipients {
                assert_eq!(shows(&recipient.own), here(&recipient.mailbox));
                // A sender is shown as such.
                let shown = shows(&recipient.mailbox.0);
                assert!(shown == here(&recipient.mailbox) || shown && senders.contains(&recipient.mailbox));
            }
        }
    }
}

#[test]
fn a_slice_shows_who_is_in_it_and_who_is_not() {
    let mut world = World::builder().mailboxes(12).build();
    let batch = batch(&mut world);
    for (slice, body) in batch.header.body.slices.iter().zip(&batch.routed.bodies) {
        let index = body.verify(&batch.header.body, slice, &world.federation).unwrap();
        let map = index.map();
        assert_eq!(map.root(), slice.root);
        for mailbox in 0..12 {
            let mailbox = world.mailbox(mailbox);
            let shown = map.prove(&mailbox).verify(&slice.root, &mailbox.0);
            let expected = index.leaves().get(&mailbox).map(|leaves| hash(&[&mailbox_value(leaves.iter()).0]));
            assert_eq!(shown, Some(expected));
        }
    }
}

#[test]
fn any_changed_bit_of_a_parcel_is_refused() {
    let story = story();
    let world = &story.world;
    let parcel = SliceParcel {
        header: story.first.header.clone().into_inner(),
        destination: world.node(2),
        request: Some(world.request(&story.first, 2, &[1, 3])),
        body: story.first.routed.bodies[2].clone(),
    };
    let verify = |parcel: &SliceParcel| -> Result<(), VerifyError> {
        parcel.header.verify(&world.federation)?;
        let header = &parcel.header.body;
        let slice = header.slice(&parcel.destination).ok_or(VerifyError::Path { what: "slice" })?;
        parcel.body.verify(header, slice, &world.federation)?;
        parcel.request.as_ref().map_or(Ok(()), |request| request.verify(&world.federation))
    };
    assert_eq!(verify(&parcel), Ok(()));
    let bytes = encode(&parcel);
    let mut decoded = 0;
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(parcel) = decode::<SliceParcel>(&bytes) {
            assert!(verify(&parcel).is_err(), "bit {bit} of byte {}", bit / 8);
            decoded += 1;
        }
    }
    assert!(decoded > 8_000, "{decoded} of {}", bytes.len() * 8);
}

#[test]
fn a_slice_has_one_form() {
    let mut world = World::builder().build();
    let batch = batch(&mut world);
    let federation = &world.federation;
    // Node 0 has something of every bundle, and two recipients of one message.
    let good = &batch.routed.bodies[0];
    assert_eq!(verify(good, &batch, 0, federation), Ok(()));
    assert_eq!(good.bundles.len(), 3);
    let check = |change: &dyn Fn(&mut SliceBody)| {
        let mut body = good.clone();
        change(&mut body);
        verify(&body, &batch, 0, federation)
    };
    assert_eq!(check(&|body| body.bundles.clear()), malformed("slice", "a slice without a bundle"));
    assert_eq!(check(&|body| drop(body.bundles.pop())), path("slice"));
    assert_eq!(check(&|body| body.bundles.swap(0, 1)), malformed("slice", "bundles are not in ascending order"));
    let twice = check(&|body| body.bundles.push(body.bundles[2].clone()));
    assert_eq!(twice, malformed("slice", "bundles are not in ascending order"));
    assert_eq!(check(&|body| body.bundles[0].messages.clear()), malformed("slice", "a bundle without a message"));
    let none = check(&|body| body.bundles[0].messages[0].recipients.clear());
    assert_eq!(none, malformed("slice", "a message without a recipient"));
    let turned = check(&|body| body.bundles[0].messages[0].recipients.swap(0, 1));
    assert_eq!(turned, malformed("slice", "recipients are not in ascending order"));
    let repeated = check(&|body| {
        let messages = &mut body.bundles[1].messages;
        messages.push(messages[0].clone());
    });
    assert_eq!(repeated, malformed("slice", "messages are not in ascending order"));
    assert_eq!(check(&|body| body.bundles[1].signed.body.count += 1), path("bundle"));
    assert_eq!(check(&|body| body.bundles[1].messages[0].index = 3), path("message"));
    // Another destination's slice is not this one's.
    assert_eq!(verify(&batch.routed.bodies[1], &batch, 0, federation), path("slice"));
}

#[test]
fn a_header_that_counts_wrong_has_no_slice() {
    let mut world = World::builder().build();
    let batch = batch(&mut world);
    let check = |change: &dyn Fn(&mut Header)| {
        let mut header = batch.header.body.clone();
        change(&mut header);
        batch.routed.bodies[0].verify(&header, &header.slices[0], &world.federation).map(drop)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|header| header.entries.messages += 1), path("bundle"));
    assert_eq!(check(&|header| header.entries.bundles += 1), path("bundle"));
    assert_eq!(check(&|header| header.entries.root = Digest::ZERO), path("bundle"));
    assert_eq!(check(&|header| header.slices[0].count += 1), path("slice"));
    assert_eq!(check(&|header| header.slices[0].root = Digest::ZERO), path("slice"));
}

#[test]
fn a_recipient_named_twice_makes_no_slice() {
    let mut world = World::builder().build();
    let mut message = world.message("hello", &[0, 4]);
    message.recipients[1].mailbox = world.mailbox(0);
    let bundle = world.bundle(1, 0, vec![message]);
    // What a dishonest origin would have to send: the honest one's `route` does not make it.
    let (_, recipients) = bundle.messages[0].disclose();
    let mut other = world.message("other", &[0, 4]);
    other.salt = [1; 16];
    let stand_in = world.bundle(1, 0, vec![other]);
    let mut body = world.seal(0, vec![stand_in]).routed.bodies.remove(0);
    body.bundles[0].signed = bundle.signed.clone();
    body.bundles[0].messages[0].common = bundle.messages[0].common.clone();
    body.bundles[0].messages[0].recipients = recipients;
    let refused = body.index(1, world.federation.id()).map(drop);
    assert_eq!(refused, malformed("slice", "a message names a recipient twice"));
}

#[test]
fn counts_at_the_end_of_the_numbers_are_refused_and_nothing_overflows() {
    let mut world = World::builder().build();
    let batch = batch(&mut world);
    let mut body = batch.routed.bodies[0].clone();
    body.bundles.truncate(1);
    body.bundles[0].ordinal = 1;
    let sibling = |count| SumPath(vec![SumRoot { count, hash: Digest::ZERO }]);
    for index in [0, 1, 5, u32::MAX] {
        for count in [u64::MAX - 1, u64::MAX] {
            body.bundles[0].path = sibling(count);
            body.bundles[0].messages[0].index = index;
            let found = body.index(2, world.federation.id()).map(drop);
            let lawful = index == 0 && count == u64::MAX - 1;
            assert_eq!(found.is_ok(), lawful, "message {index} behind {count}");
        }
    }
}
