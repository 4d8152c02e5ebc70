//! The gate decides which leaves of a slice this node's mailboxes do not take (rule 7): the mailbox does not live here,
//! its owner blocks the sender, or it is full. The others are taken whatever becomes of these, so nobody can shut a home
//! by filling one mailbox.
//!
//! It is asked when a slice is on its way under this node's own receipt or fill. What it lets in counts as promised
//! from then on, beside what the mailbox's log holds unacknowledged, until the log has it or its header can no longer be
//! ordered; until that is ordered, against its own origin only. Promises are kept in memory: a node that starts again
//! has forgotten what it had promised and may go over a quota by as much as was on its way.

use std::collections::BTreeMap;

use postroad_protocol::block_list::BlockList;
use postroad_protocol::cut::Cut;
use postroad_protocol::message::RECIPIENT_BYTES;
use postroad_protocol::receipt::{LeafRefusal, RefusedLeaf};
use postroad_protocol::slice::{SliceIndex, SliceKey, SliceLeaf};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, PublicKey, Refusal, Signed, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::tables::{self, BLOCKS};

/// The `until` of a promise whose slice is ordered.
const ORDERED: u64 = u64::MAX;
/// Promises that are remembered; the oldest of the lowest origin is forgotten for a new one.
const MAX_PROMISES: usize = 65_536;

/// So many entries with so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Entries.
    pub entries: u64,
    /// Payload bytes, and 512 for each entry.
    pub bytes: u64,
}

impl Load {
    /// One entry.
    pub fn of(leaf: &SliceLeaf) -> Load {
        Load { entries: 1, bytes: u64::from(leaf.bytes) + RECIPIENT_BYTES }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Load) {
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Takes another one away.
    pub fn subtract(&mut self, other: Load) {
        self.entries = self.entries.saturating_sub(other.entries);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    fn with(mut self, other: Load) -> Load {
        self.add(other);
        self
    }

    fn fits(self, quota: Load) -> bool {
        self.entries <= quota.entries && self.bytes <= quota.bytes
    }
}

/// What was decided on a slice that is on its way.
#[derive(Debug)]
struct Promise {
    /// The last epoch in which its header can be ordered; the end of time once it is.
    until: u64,
    takes: Vec<(MailboxId, Load)>,
    refused: Vec<RefusedLeaf>,
}

/// Decides on leaves.
#[derive(Debug)]
pub struct Gate {
    federation: Federation,
    /// What a mailbox may hold unacknowledged.
    quota: Load,
    blocked: BTreeMap<MailboxId, Signed<BlockList>>,
    promises: BTreeMap<SliceKey, Promise>,
    /// The sum of the promises whose slices are ordered.
    ordered: BTreeMap<MailboxId, Load>,
    /// The sum of the others, which count against their own origin alone: nothing holds it to hand the headers in.
    waiting: BTreeMap<(MailboxId, NodeId), Load>,
}

impl Gate {
    /// A gate that lets each mailbox hold `quota` unacknowledged, and knows the block lists in the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(federation: &Federation, quota: Load, store: &dyn Read) -> Result<Gate, StoreError> {
        let mut blocked = BTreeMap::new();
        for (key, value) in store.range(BLOCKS, &[], &[], usize::MAX)? {
            let list: Signed<BlockList> = tables::read(BLOCKS, &key, &value)?;
            blocked.insert(list.body.mailbox, list);
        }
        let federation = federation.clone();
        Ok(Gate {
            federation,
            quota,
            blocked,
            promises: BTreeMap::new(),
            ordered: BTreeMap::new(),
            waiting: BTreeMap::new(),
        })
    }

    /// The block list of a mailbox.
    pub fn block_list(&self, mailbox: &MailboxId) -> Option<&Signed<BlockList>> {
        self.blocked.get(mailbox)
    }

    /// Takes an owner's new block list; it holds for what is decided from now on. Returns what to write, nothing if it
    /// is the list that holds already.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], and [`Refusal::StaleVersion`] where another list with this version or a higher one holds.
    pub fn block(&mut self, list: &Verified<Signed<BlockList>>) -> Result<Option<Write>, Refusal> {
        list.body.check().map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
        let mailbox = list.body.mailbox;
        match self.blocked.get(&mailbox) {
            Some(known) if known.body == list.body => return Ok(None),
            Some(known) if known.body.version >= list.body.version => {
                return Err(Refusal::StaleVersion { newest: known.body.version });
            }
            _ => {}
        }
        self.blocked.insert(mailbox, (**list).clone());
        Ok(Some(tables::put(BLOCKS, mailbox.0, &**list)))
    }

    /// What was decided on a slice before, if it is still on its way.
    pub fn decided(&self, slice: &SliceKey) -> Option<&[RefusedLeaf]> {
        self.promises.get(slice).map(|promise| promise.refused.as_slice())
    }

    /// Decides on the leaves of a slice whose header can be ordered in the epochs up to `until`. `holds` says what a
    /// mailbox of this node holds unacknowledged; none for one that does not live here. A slice that was decided on
    /// before and is still on its way gets the same answer.
    pub fn decide(
        &mut self,
        slice: &SliceKey,
        until: u64,
        index: &SliceIndex,
        holds: impl Fn(&MailboxId) -> Option<Load>,
    ) -> Vec<RefusedLeaf> {
        if let Some(refused) = self.decided(slice) {
            return refused.to_vec();
        }
        let mut promise = Promise { until, takes: Vec::new(), refused: Vec::new() };
        for (mailbox, leaves) in index.leaves() {
            let held = holds(mailbox);
            let blocked = self.blocked.get(mailbox).map_or(&[][..], |list| &list.body.senders);
            let ordered = self.ordered.get(mailbox).copied().unwrap_or_default();
            let waiting = self.waiting.get(&(*mailbox, slice.origin)).copied().unwrap_or_default();
            let before = held.unwrap_or_default().with(ordered).with(waiting);
            let mut taken = Load::default();
            for leaf in leaves {
                let with_it = taken.with(Load::of(leaf));
                let reason = if held.is_none() {
                    LeafRefusal::Unknown
                } else if index.sender(leaf).is_some_and(|sender| blocked.binary_search(sender).is_ok()) {
                    LeafRefusal::Blocked
                } else if !before.with(with_it).fits(self.quota) {
                    LeafRefusal::Full
                } else {
                    taken = with_it;
                    continue;
                };
                promise.refused.push(RefusedLeaf { index: leaf.index, mailbox: *mailbox, reason });
            }
            if taken.entries > 0 {
                promise.takes.push((*mailbox, taken));
            }
        }
        promise.refused.sort_by_key(|leaf| (leaf.index, leaf.mailbox));
        let refused = promise.refused.clone();
        if self.promises.len() >= MAX_PROMISES
            && let Some((slice, oldest)) = self.promises.pop_first()
        {
            self.release(&slice, &oldest);
        }
        for (mailbox, load) in &promise.takes {
            match until {
                ORDERED => self.ordered.entry(*mailbox).or_default().add(*load),
                _ => self.waiting.entry((*mailbox, slice.origin)).or_default().add(*load),
            }
        }
        self.promises.insert(*slice, promise);
        refused
    }

    fn release(&mut self, slice: &SliceKey, promise: &Promise) {
        for (mailbox, load) in &promise.takes {
            match promise.until {
                ORDERED => take_away(&mut self.ordered, mailbox, *load),
                _ => take_away(&mut self.waiting, &(*mailbox, slice.origin), *load),
            }
        }
    }

    /// A slice's entries are in the logs.
    pub fn delivered(&mut self, slice: &SliceKey) {
        if let Some(promise) = self.promises.remove(slice) {
            self.release(slice, &promise);
        }
    }

    /// A cut was applied: what can no longer be ordered is no longer promised.
    pub fn cut(&mut self, cut: &Cut) {
        let epoch = cut.certified.header.epoch;
        let mut dead: Vec<SliceKey> = Vec::new();
        for sealed in &cut.body.headers {
            let header = &sealed.header.body;
            let digest = sealed.digest(&self.federation);
            let lowest = |number, fill: u8| SliceKey {
                origin: header.origin,
                number,
                header: Digest([fill; 32]),
                destination: PublicKey([fill; 32]),
            };
            // Numbers rise along the chain: what has a lower one, or this one and another digest, is dead.
            for (slice, promise) in self.promises.range_mut(lowest(0, 0)..=lowest(header.number, u8::MAX)) {
                if slice.header == digest {
                    for (mailbox, load) in promise.takes.iter().filter(|_| promise.until != ORDERED) {
                        take_away(&mut self.waiting, &(*mailbox, slice.origin), *load);
                        self.ordered.entry(*mailbox).or_default().add(*load);
                    }
                    promise.until = ORDERED;
                } else if promise.until != ORDERED {
                    dead.push(*slice);
                }
            }
        }
        dead.extend(self.promises.iter().filter(|(_, promise)| promise.until < epoch).map(|(slice, _)| *slice));
        for slice in dead {
            self.delivered(&slice);
        }
    }
}

/// Takes a load away from a sum; none is kept at zero.
fn take_away<K: Ord>(sums: &mut BTreeMap<K, Load>, key: &K, load: Load) {
    if let Some(sum) = sums.get_mut(key) {
        sum.subtract(load);
        if *sum == Load::default() {
            sums.remove(key);
        }
    }
}
