//! The inbox takes bundles from clients: limits, registration, counter, validity; and holds them until they are sealed.
//!
//! It refuses, with a reason, what it does not take. A bundle whose counter it has seen is not taken twice: the same
//! bytes get the answer that they had before, other bytes are told the last counter.
//!
//! Senders take turns: a batch takes one bundle of each, round and round, and no sender may fill more than its share of
//! the queue. So whoever sends without end waits behind himself, not others behind him.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use postroad_protocol::bundle::Bundle;
use postroad_protocol::state::State;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Refusal, Verified};
use postroad_store::{Read, StoreError};

use crate::io::ClientId;
use crate::tables::{self, BUNDLES, Taken};

/// Senders whose last counter is remembered without asking the store.
const MAX_REMEMBERED: usize = 65_536;

/// A bundle's sender and the counter of its first message.
pub type BundleKey = (MailboxId, u64);

/// What became of a submission.
#[derive(Debug)]
pub enum Submitted {
    /// It is taken, and waits to be sealed; an answer will come.
    Taken,
    /// It was taken before, and waits to be sealed or is on its way; an answer will come.
    Waiting,
    /// It was taken before and is ordered.
    Before(Taken),
}

/// Bundles waiting to be sealed, and the clients waiting for answers.
#[derive(Debug)]
pub struct Inbox {
    me: NodeId,
    federation: Federation,
    /// Of dead chains, before everything else, in the order in which they were sealed before.
    again: VecDeque<Bundle>,
    queues: BTreeMap<MailboxId, Queue>,
    /// Each sender with a queue, once, in the order of their turns.
    turns: VecDeque<MailboxId>,
    queued_bytes: u64,
    max_queued_bytes: u64,
    /// What one sender may have here, from its submission to its place in the order.
    max_sender_bytes: u64,
    sender_bytes: BTreeMap<MailboxId, u64>,
    last: BTreeMap<MailboxId, u64>,
    waiting: BTreeMap<BundleKey, Waiting>,
    /// The lowest counter that a client was told to send again; until it comes, nothing above it is taken, or the order
    /// in which the client signed would be lost.
    put_off: BTreeMap<ClientId, u64>,
    min_valid_until: u64,
}

/// What one sender has waiting, in the order of its counters.
#[derive(Debug, Default)]
struct Queue {
    bundles: VecDeque<Bundle>,
    bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    digest: Digest,
    clients: Vec<ClientId>,
    /// What it counts against its sender's share.
    bytes: u64,
}

impl Inbox {
    /// An empty inbox that holds at most `max_queued_bytes` of payload, and of one sender at most `max_sender_bytes` from
    /// its submission to its place in the order.
    pub fn new(me: NodeId, federation: &Federation, max_queued_bytes: u64, max_sender_bytes: u64) -> Inbox {
        Inbox {
            me,
            federation: federation.clone(),
            again: VecDeque::new(),
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            queued_bytes: 0,
            max_queued_bytes,
            max_sender_bytes,
            sender_bytes: BTreeMap::new(),
            last: BTreeMap::new(),
            waiting: BTreeMap::new(),
            put_off: BTreeMap::new(),
            min_valid_until: 0,
        }
    }

    /// Rule 4: a restored origin takes only bundles that it cannot have taken in the time that it forgot.
    pub fn forget_before(&mut self, valid_until: u64) {
        self.min_valid_until = valid_until;
    }

    /// The lowest valid-until that is taken.
    pub fn min_valid_until(&self) -> u64 {
        self.min_valid_until
    }

    /// Takes a bundle, or says why not. `busy` is whether what is under way already fills its bounds.
    ///
    /// # Errors
    /// The outer error is the store's; the inner one is the answer to the client.
    pub fn submit(
        &mut self,
        client: ClientId,
        bundle: Verified<Bundle>,
        head: &State,
        busy: bool,
        store: &dyn Read,
    ) -> Result<Result<Submitted, Refusal>, StoreError> {
        let body = &bundle.signed.body;
        if body.via != self.me {
            return Ok(Err(Refusal::WrongVia { via: body.via }));
        }
        let key = (body.sender, body.counter);
        let digest = bundle.signed.digest(&self.federation);
        if self.put_off.get(&client) == Some(&body.counter) {
            // It is here again; whatever answer it gets now, what comes after it need not wait for it any more.
            self.put_off.remove(&client);
        }
        if let Some(waiting) = self.waiting.get_mut(&key)
            && waiting.digest == digest
        {
            if !waiting.clients.contains(&client) {
                waiting.clients.push(client);
            }
            return Ok(Ok(Submitted::Waiting));
        }
        let last = self.last_counter(&body.sender, store)?;
        if body.counter <= last {
            let row = tables::get::<Taken>(store, BUNDLES, &tables::mailbox_key(&body.sender, body.counter))?;
            return Ok(match row {
                Some(taken) if taken.bundle == digest => Ok(Submitted::Before(taken)),
                _ => Err(Refusal::StaleCounter { last }),
            });
        }
        if let Err(refusal) = self.check(&bundle, head) {
            return Ok(Err(refusal));
        }
        let bytes = bundle.weight_bytes();
        let out_of_turn = self.put_off.get(&client).is_some_and(|first| *first < body.counter);
        // A sender with nothing waiting gets a place while there is any, however busy the others keep this node.
        let waits = self.queues.contains_key(&body.sender);
        let of_sender = self.sender_bytes.get(&body.sender).copied().unwrap_or(0);
        let over_share = of_sender > 0 && of_sender + bytes > self.max_sender_bytes;
        if (busy && waits) || over_share || out_of_turn || self.queued_bytes + bytes > self.max_queued_bytes {
            self.put_off(client, body.counter);
            return Ok(Err(Refusal::Busy));
        }
        if self.last.len() >= MAX_REMEMBERED {
            // What was sealed is in the store; only what still waits must be remembered here.
            let again: BTreeSet<MailboxId> = self.again.iter().map(|bundle| bundle.signed.body.sender).collect();
            self.last.retain(|sender, _| self.queues.contains_key(sender) || again.contains(sender));
        }
        self.last.insert(body.sender, body.last_counter());
        self.wait_for(key, digest, bytes);
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.clients.push(client);
        }
        self.queued_bytes += bytes;
        let sender = body.sender;
        let queue = self.queues.entry(sender).or_insert_with(|| {
            self.turns.push_back(sender);
            Queue::default()
        });
        queue.bytes += bytes;
        queue.bundles.push_back(bundle.into_inner());
        Ok(Ok(Submitted::Taken))
    }

    fn last_counter(&mut self, sender: &MailboxId, store: &dyn Read) -> Result<u64, StoreError> {
        if let Some(last) = self.last.get(sender) {
            return Ok(*last);
        }
        let (from, to) = (tables::mailbox_key(sender, 0), tables::mailbox_key(sender, u64::MAX));
        let row = store.last(BUNDLES, &from, &to)?;
        let last = match row {
            Some((key, value)) => tables::read::<Taken>(BUNDLES, &key, &value)?.last_counter,
            None => 0,
        };
        Ok(last)
    }

    /// What does not depend on what was taken before.
    fn check(&self, bundle: &Bundle, head: &State) -> Result<(), Refusal> {
        let params = self.federation.params();
        let body = &bundle.signed.body;
        bundle.check_limits(params)?;
        if head.mailbox(&body.sender).is_none() {
            return Err(Refusal::UnknownSender { mailbox: body.sender });
        }
        let from = (head.epoch + 2 * params.routing_window_epochs).max(self.min_valid_until);
        let to = (head.epoch + params.validity_epochs).max(from);
        if !(from..=to).contains(&body.valid_until) {
            return Err(Refusal::BadValidity { valid_until: body.valid_until, from, to });
        }
        let homes = homes_of(bundle, head, params.max_slices).len() as u64;
        if homes > params.max_slices {
            return Err(Refusal::TooLarge { bytes: homes, limit: params.max_slices });
        }
        for message in &bundle.messages {
            for recipient in &message.recipients {
                if head.mailbox(&recipient.mailbox).is_none() {
                    return Err(Refusal::UnknownRecipient { mailbox: recipient.mailbox });
                }
            }
        }
        Ok(())
    }

    /// The client was told to send this counter again later.
    pub fn put_off(&mut self, client: ClientId, counter: u64) {
        let first = self.put_off.entry(client).or_insert(counter);
        *first = (*first).min(counter);
    }

    /// Whether anything waits to be sealed.
    pub fn is_empty(&self) -> bool {
        self.again.is_empty() && self.queues.is_empty()
    }

    /// Payload bytes that wait to be sealed, and how many may.
    pub fn queued_bytes(&self) -> (u64, u64) {
        (self.queued_bytes, self.max_queued_bytes)
    }

    /// The next bundle: of a dead chain, or of the sender whose turn it is.
    fn front(&self) -> Option<&Bundle> {
        let of_turn = || self.queues.get(self.turns.front()?)?.bundles.front();
        self.again.front().or_else(of_turn)
    }

    /// Takes the next bundle, and gives the turn to the next sender.
    fn pop(&mut self) -> Option<Bundle> {
        if let Some(bundle) = self.again.pop_front() {
            return Some(bundle);
        }
        let sender = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&sender)?;
        let bundle = queue.bundles.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(bundle.weight_bytes());
        if queue.bundles.is_empty() {
            self.queues.remove(&sender);
        } else {
            self.turns.push_back(sender);
        }
        Some(bundle)
    }

    /// Takes what fits into one batch, each sender's bundles in order.
    pub fn take_batch(&mut self, head: &State) -> Vec<Bundle> {
        let limit = self.federation.params().max_batch_bytes;
        let max_slices = self.federation.params().max_slices;
        let mut bytes = 0;
        let mut homes = BTreeSet::new();
        let mut batch = Vec::new();
        while let Some(bundle) = self.front() {
            let size = bundle.weight_bytes();
            let mut with_it = homes.clone();
            with_it.extend(homes_of(bundle, head, max_slices));
            if !batch.is_empty() && (bytes + size > limit || with_it.len() as u64 > max_slices) {
                break;
            }
            homes = with_it;
            bytes += size;
            self.queued_bytes = self.queued_bytes.saturating_sub(size);
            batch.extend(self.pop());
        }
        batch
    }

    /// Drops the bundles whose valid-until is below `lowest`: no header may hold them any more. Returns which.
    pub fn drop_expired(&mut self, lowest: u64) -> Vec<(BundleKey, u64)> {
        let mut expired = Vec::new();
        let mut freed = 0;
        let mut alive = |bundle: &Bundle| {
            let body = &bundle.signed.body;
            let alive = body.valid_until >= lowest;
            if !alive {
                freed += bundle.weight_bytes();
                expired.push(((body.sender, body.counter), body.valid_until));
            }
            alive
        };
        self.again.retain(&mut alive);
        self.queues.retain(|_, queue| {
            queue.bundles.retain(&mut alive);
            queue.bytes = queue.bundles.iter().map(Bundle::weight_bytes).sum();
            !queue.bundles.is_empty()
        });
        self.turns.retain(|sender| self.queues.contains_key(sender));
        self.queued_bytes = self.queued_bytes.saturating_sub(freed);
        expired
    }

    /// Puts the bundles of a dead chain back, before everything else, in their order.
    pub fn put_back(&mut self, bundles: Vec<Bundle>) {
        for bundle in bundles.into_iter().rev() {
            let body = &bundle.signed.body;
            let digest = bundle.signed.digest(&self.federation);
            let key = (body.sender, body.counter);
            self.wait_for(key, digest, bundle.weight_bytes());
            let last = self.last.entry(body.sender).or_insert(0);
            *last = (*last).max(body.last_counter());
            self.queued_bytes += bundle.weight_bytes();
            self.again.push_front(bundle);
        }
    }

    /// Knows a bundle again that was sealed before a restart, so that its sender can ask after it.
    pub fn recall(&mut self, bundle: &Bundle) {
        let body = &bundle.signed.body;
        let digest = bundle.signed.digest(&self.federation);
        self.wait_for((body.sender, body.counter), digest, bundle.weight_bytes());
    }

    /// A bundle is on its way; it counts against its sender's share until [`Inbox::finish`].
    fn wait_for(&mut self, key: BundleKey, digest: Digest, bytes: u64) {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.waiting.entry(key) {
            slot.insert(Waiting { digest, clients: Vec::new(), bytes });
            *self.sender_bytes.entry(key.0).or_default() += bytes;
        }
    }

    /// The clients that wait for an answer about a bundle.
    pub fn clients(&self, key: &BundleKey) -> &[ClientId] {
        self.waiting.get(key).map_or(&[], |waiting| &waiting.clients)
    }

    /// The clients that wait for a last answer about a bundle, which is then forgotten here.
    pub fn finish(&mut self, key: &BundleKey) -> Vec<ClientId> {
        let Some(waiting) = self.waiting.remove(key) else { return Vec::new() };
        if let Some(bytes) = self.sender_bytes.get_mut(&key.0) {
            *bytes = bytes.saturating_sub(waiting.bytes);
            if *bytes == 0 {
                self.sender_bytes.remove(&key.0);
            }
        }
        waiting.clients
    }

    /// A client has gone. What it submitted goes its way.
    pub fn client_gone(&mut self, client: ClientId) {
        self.put_off.remove(&client);
        for waiting in self.waiting.values_mut() {
            waiting.clients.retain(|other| *other != client);
        }
    }
}

/// The homes of a bundle's recipients; nothing where the federation has so few nodes that their number cannot matter.
fn homes_of(bundle: &Bundle, head: &State, max_slices: u64) -> BTreeSet<NodeId> {
    if head.node_count() <= max_slices {
        return BTreeSet::new();
    }
    let recipients = bundle.messages.iter().flat_map(|message| &message.recipients);
    recipients.filter_map(|recipient| head.home(&recipient.mailbox)).collect()
}

#[cfg(test)]
mod tests;
