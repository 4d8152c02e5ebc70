//! The sins of an origin.

use std::collections::BTreeMap;

use postroad_protocol::batch::{Header, Routed, bundle_leaf};
use postroad_protocol::bundle::{Bundle, BundleBody};
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::message::{Message, Recipient, common_digest};
use postroad_protocol::slice::{SliceBody, SliceLeaf, mailbox_value};
use postroad_protocol::state::State;
use postroad_protocol::{Digest, MailboxId, NodeId, Signature, Signed};

use super::leg::Leg;
use super::{Origin, Router};
use crate::cheat::{Sin, Temptation};
use crate::outbox::cheat::altered;

/// Senders whose last bundle is kept, to be included once more; with more, all are forgotten.
const MAX_EARLIER: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Sinner {
    pub(crate) temptation: Temptation,
    /// The last bundle of each sender.
    earlier: BTreeMap<MailboxId, Bundle>,
}

/// The slice root over a body whose paths are not followed.
fn root_of(body: &SliceBody, bundle_count: u32, federation: Digest) -> Option<Digest> {
    let mut leaves: BTreeMap<MailboxId, Vec<SliceLeaf>> = BTreeMap::new();
    for (bundle, bundle_at) in body.bundles.iter().zip(0..) {
        let leaf = bundle_leaf(&bundle.signed, federation);
        let (count, ordinal) = (u64::from(bundle.signed.body.count), u64::from(bundle.ordinal));
        let (_, first) = bundle.path.resolve(count, &leaf, ordinal, u64::from(bundle_count))?;
        for (message, message_at) in bundle.messages.iter().zip(0..) {
            for (recipient, recipient_at) in message.recipients.iter().zip(0..) {
                leaves.entry(recipient.mailbox).or_default().push(SliceLeaf {
                    index: first + u64::from(message.index),
                    message: recipient.message(message.recipient_count, common_digest(&message.common))?,
                    own: recipient.own_digest(),
                    bundle_at,
                    message_at,
                    recipient_at,
                    bytes: 0,
                });
            }
        }
    }
    let values = leaves.iter().map(|(mailbox, leaves)| (*mailbox, mailbox_value(leaves.iter())));
    Some(values.collect::<MerkleMap<_, _>>().root())
}

fn bend(body: &mut SliceBody) {
    if let Some(message) = body.bundles.first_mut().and_then(|bundle| bundle.messages.first_mut()) {
        message.common = altered(&message.common);
    }
}

/// Cuts bad slices again as their header has them.
pub(crate) fn bend_again(mut routed: Routed, header: &Header) -> Routed {
    for (at, named) in header.slices.iter().enumerate() {
        if let (Some(slice), Some(body)) = (routed.slices.get_mut(at), routed.bodies.get_mut(at))
            && *named != *slice
        {
            *slice = *named;
            bend(body);
        }
    }
    routed
}

impl Sinner {
    /// Where recipients live, as this batch is routed: without one of another node's.
    pub(super) fn omit(
        &mut self,
        bundles: &[Bundle],
        mut homes: BTreeMap<MailboxId, NodeId>,
        me: &NodeId,
        epoch: u64,
    ) -> BTreeMap<MailboxId, NodeId> {
        for message in bundles.iter().flat_map(|bundle| &bundle.messages) {
            let away = message.recipients.iter().find(|it| homes.get(&it.mailbox).is_some_and(|home| home != me));
            // A batch with messages and no slice at all is refused by everybody.
            if let Some(recipient) = away
                && homes.len() > 1
                && self.temptation.sins(Sin::Omit, epoch)
            {
                homes.remove(&recipient.mailbox);
            }
        }
        homes
    }

    /// One slice for another node commits to another message.
    pub(super) fn bad_slice(&mut self, mut routed: Routed, origin: &Origin, epoch: u64) -> Routed {
        let Some(at) = routed.slices.iter().position(|slice| slice.destination != origin.me) else { return routed };
        if self.temptation.yields(Sin::BadSlice) {
            let mut body = routed.bodies[at].clone();
            bend(&mut body);
            if let Some(root) = root_of(&body, routed.entries.bundles, origin.federation.id()) {
                routed.slices[at].root = root;
                routed.bodies[at] = body;
                self.temptation.sinned(epoch);
            }
        }
        routed
    }

    /// Whether a slice is one that nobody else would sign for.
    pub(super) fn keeps(&self, leg: &Leg, header: &Header, origin: &Origin) -> bool {
        self.temptation.is(Sin::BadSlice) && leg.body().verify(header, &leg.slice, &origin.federation).is_err()
    }

    /// The header as a destination sees it: the last one of a batch may see another one.
    pub(super) fn face(&mut self, signed: &Signed<Header>, to: &NodeId, origin: &Origin) -> Signed<Header> {
        let mut body = signed.body.clone();
        let last = body.slices.iter().rfind(|slice| slice.destination != origin.me);
        if last.is_none_or(|slice| slice.destination != *to) || body.routing_epoch == 0 {
            return signed.clone();
        }
        if !self.temptation.sins(Sin::Equivocate, body.routing_epoch) {
            return signed.clone();
        }
        body.routing_epoch -= 1;
        Signed::sign(body, &origin.secret, &origin.federation).into_inner()
    }

    /// Two bundles of one sender in falling order: two of this batch, or one of it and then an earlier one once more.
    fn misorder(&mut self, mut bundles: Vec<Bundle>, epoch: u64) -> Vec<Bundle> {
        if !self.temptation.is(Sin::Misorder) {
            return bundles;
        }
        let sender = |bundle: &Bundle| bundle.signed.body.sender;
        let is_fit = |earlier: &&Bundle| earlier.signed.body.valid_until >= epoch;
        let again = bundles.iter().enumerate().find_map(|(at, bundle)| {
            let earlier = self.earlier.get(&sender(bundle)).filter(is_fit)?;
            Some((at, earlier.clone()))
        });
        if self.earlier.len() > MAX_EARLIER {
            self.earlier.clear();
        }
        self.earlier.extend(bundles.iter().map(|bundle| (sender(bundle), bundle.clone())));
        let mut pairs = (0..bundles.len()).flat_map(|one| (one + 1..bundles.len()).map(move |other| (one, other)));
        match pairs.find(|(one, other)| sender(&bundles[*one]) == sender(&bundles[*other])) {
            Some((one, other)) if self.temptation.sins(Sin::Misorder, epoch) => bundles.swap(one, other),
            Some(_) => {}
            None => {
                if let Some((at, earlier)) = again.filter(|_| self.temptation.sins(Sin::Misorder, epoch)) {
                    bundles.insert(at + 1, earlier);
                }
            }
        }
        bundles
    }
}

impl Router {
    /// What is sealed instead of these bundles.
    pub(crate) fn tamper(&mut self, bundles: Vec<Bundle>, head: &State) -> Vec<Bundle> {
        let mut bundles = self.cheat.misorder(bundles, head.epoch);
        if !bundles.is_empty()
            && let Some(forged) = self.forged(head)
            && self.cheat.temptation.sins(Sin::Forge, head.epoch)
        {
            bundles.push(forged);
        }
        bundles
    }

    /// A bundle that its sender never signed, from one mailbox of other nodes to another. Its counter rises with every
    /// batch, so that it is out of no order.
    fn forged(&self, head: &State) -> Option<Bundle> {
        let me = self.origin.me;
        let mut others = head.mailboxes().filter(|(_, state)| state.home != me).map(|(mailbox, _)| *mailbox);
        let sender = others.next()?;
        let recipient = Recipient { mailbox: others.last().unwrap_or(sender), own: Vec::new() };
        let messages = vec![Message { salt: [0; 16], common: b"forged".to_vec(), recipients: vec![recipient] }];
        let valid_until = head.epoch + self.origin.federation.params().validity_epochs;
        let body = BundleBody::new(sender, me, self.next_number, valid_until, &messages);
        Some(Bundle { signed: Signed { body, signature: Signature([1; 64]) }, messages })
    }
}

#[cfg(test)]
mod tests;
