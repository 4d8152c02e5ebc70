//! The outbox keeps the mailbox logs of this node and attests them.
//!
//! A log is append-only; its rows are on disk, its Merkle tree in memory. About once a second the map of all logs is
//! attested: the number is written down before anything is signed, so that no number is ever used twice. An attestation
//! is final when a cut includes a header that names it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use postroad_protocol::attestation::{
    Acknowledgement, Anchor, Attestation, AttestedLog, DeliveryProof, LogHead, MailboxAttestation,
};
use postroad_protocol::batch::AttestationRef;
use postroad_protocol::merkle::log::Log;
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::merkle::tree::Path;
use postroad_protocol::receipt::RefusedLeaf;
use postroad_protocol::slice::{SliceIndex, SliceKey, SliceLeaf};
use postroad_protocol::{Federation, MailboxId, NodeId, Refusal, SecretKey, Seq, Signed, Verified};
use postroad_store::{Read, StoreError, Write};

use crate::gate::Load;
use crate::tables::{self, ACKS, ATTESTED, EDGES, EXPIRED, Edge, LOGS, LogRow, META, WAITING};

#[cfg(feature = "cheat")]
pub(crate) mod cheat;

/// An attestation and the map that it attests, for whoever serves mailboxes from it.
#[derive(Clone, Debug)]
pub struct AttestedView {
    /// The attestation.
    pub attestation: Signed<Attestation>,
    /// What it attests.
    pub map: MerkleMap<MailboxId, AttestedLog>,
    /// The cut that made it final, if one has.
    pub anchor: Option<Anchor>,
    /// What one owner is shown instead.
    #[cfg(feature = "cheat")]
    other: Option<Box<(MailboxId, MailboxAttestation)>>,
}

impl AttestedView {
    /// What one mailbox sees of it.
    pub fn of(&self, mailbox: &MailboxId) -> Option<MailboxAttestation> {
        #[cfg(feature = "cheat")]
        if let Some((_, other)) = self.other.as_deref().filter(|(of, _)| of == mailbox && self.anchor.is_none()) {
            return Some(other.clone());
        }
        Some(MailboxAttestation {
            attestation: self.attestation.clone(),
            log: self.map.get(mailbox)?.clone(),
            proof: self.map.prove(mailbox),
            anchor: self.anchor.clone(),
        })
    }
}

/// Where in the order a slice's entries stand, and for which slice.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The epoch that settles them.
    pub settled: u64,
    /// The epoch that ordered them.
    pub epoch: u64,
    /// Their header's position in that cut.
    pub position: u32,
    /// The slice.
    pub slice: SliceKey,
    /// The epoch whose directory routed it.
    pub routing_epoch: u64,
}

#[derive(Debug, Default)]
struct MailboxLog {
    /// The epoch since which the mailbox lives here: what was routed before it came belongs to an import.
    since: u64,
    log: Log,
    last_epoch: u64,
    /// Entries below this index are past retention.
    expired_to: u64,
    /// Settling epochs of the entries that are not, each with the index after its last entry.
    ends: VecDeque<(u64, u64)>,
    /// The log index of the first entry that a batch (epoch, position) added.
    first: BTreeMap<(u64, u32), u64>,
    acknowledged: Option<Signed<Acknowledgement>>,
    /// What each entry that is not acknowledged counts against the mailbox's quota, and the sum.
    open: VecDeque<Load>,
    load: Load,
}

/// A mailbox that lives here and whose log is not whole yet.
#[derive(Debug, Default)]
struct Partial {
    since: u64,
    /// Its entries so far, as in [`WAITING`].
    rows: Vec<LogRow>,
    load: Load,
}

/// All logs of this node.
#[derive(Debug)]
pub struct Outbox {
    me: NodeId,
    secret: SecretKey,
    federation: Federation,
    logs: BTreeMap<MailboxId, MailboxLog>,
    partial: BTreeMap<MailboxId, Partial>,
    map: MerkleMap<MailboxId, AttestedLog>,
    /// The last epoch that is past retention.
    expired: u64,
    /// Which logs have entries of an epoch that is not.
    due: BTreeMap<u64, BTreeSet<MailboxId>>,
    incarnation: u64,
    number: u64,
    attested_epoch: u64,
    begun: Option<(u64, Attestation, MerkleMap<MailboxId, AttestedLog>)>,
    /// Signed, and not in a header yet.
    fresh: Option<AttestationRef>,
    /// Signed, by number; final ones and those before them are dropped.
    signed: BTreeMap<u64, Arc<AttestedView>>,
    last_final: Option<Arc<AttestedView>>,
    #[cfg(feature = "cheat")]
    pub(crate) cheat: cheat::Home,
}

impl Outbox {
    /// Reads the logs of a store: of the mailboxes that live here, with the epochs since which they do. `is_partial` says
    /// whose log is not whole.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        secret: &SecretKey,
        federation: &Federation,
        residents: &BTreeMap<MailboxId, u64>,
        is_partial: impl Fn(&MailboxId, u64) -> bool,
        store: &dyn Read,
    ) -> Result<Outbox, StoreError> {
        let mut outbox = Outbox {
            me: secret.public(),
            secret: secret.clone(),
            federation: federation.clone(),
            logs: BTreeMap::new(),
            partial: BTreeMap::new(),
            map: MerkleMap::default(),
            expired: tables::get(store, META, EXPIRED)?.unwrap_or(0),
            due: BTreeMap::new(),
            incarnation: 0,
            number: tables::get(store, META, ATTESTED)?.unwrap_or(0),
            attested_epoch: 0,
            begun: None,
            fresh: None,
            signed: BTreeMap::new(),
            last_final: None,
            #[cfg(feature = "cheat")]
            cheat: cheat::Home::default(),
        };
        for (mailbox, since) in residents {
            if is_partial(mailbox, *since) {
                drop(outbox.expect(*mailbox, *since));
            } else {
                outbox.logs.insert(*mailbox, MailboxLog { since: *since, ..MailboxLog::default() });
            }
        }
        for (key, value) in store.range(EDGES, &[], &[], usize::MAX)? {
            let edge: Edge = tables::read(EDGES, &key, &value)?;
            let mailbox = key.first_chunk().copied().map(MailboxId::from);
            if let Some(log) = mailbox.and_then(|mailbox| outbox.logs.get_mut(&mailbox)) {
                log.begin_at(edge);
            }
        }
        outbox.read_rows(&[], &[], store)?;
        for (mailbox, log) in &mut outbox.logs {
            if let Some(acknowledged) = tables::get(store, ACKS, &mailbox.0)? {
                log.acknowledge(acknowledged);
            }
        }
        for (key, value) in store.range(WAITING, &[], &[], usize::MAX)? {
            let row: LogRow = tables::read(WAITING, &key, &value)?;
            let mailbox = key.first_chunk().copied().map(MailboxId::from);
            if let Some(partial) = mailbox.and_then(|mailbox| outbox.partial.get_mut(&mailbox)) {
                partial.push(row);
            }
        }
        outbox.due = outbox.due.split_off(&(outbox.expired + 1));
        outbox.map = outbox.logs.iter().map(|(mailbox, log)| (*mailbox, log.attested())).collect();
        Ok(outbox)
    }

    /// Reads the rows between two keys into the logs that are there.
    fn read_rows(&mut self, from: &[u8], to: &[u8], store: &dyn Read) -> Result<(), StoreError> {
        let mut from = from.to_vec();
        loop {
            let rows = store.range(LOGS, &from, to, 1_024)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in &rows {
                let corrupt = || StoreError::Corrupt { table: LOGS, key: key.clone() };
                let mailbox = MailboxId::from(key.first_chunk().copied().ok_or_else(corrupt)?);
                let Some(log) = self.logs.get_mut(&mailbox) else { continue };
                let row: LogRow = tables::read(LOGS, key, value)?;
                if log.log.size() != tables::key_number(key) {
                    return Err(corrupt());
                }
                log.push(&row, self.expired);
                self.due.entry(row.settled).or_default().insert(mailbox);
            }
        }
    }

    /// From now on attestations carry this incarnation, and numbers above `number`.
    pub fn start(&mut self, incarnation: u64, number: u64) {
        self.incarnation = incarnation;
        // Rule 12: a number that a disk set back has forgotten is not used again either.
        self.number = self.number.max(number).max(incarnation.saturating_mul(1 << 32));
    }

    /// A mailbox has registered here, in this epoch: it has an empty log.
    pub fn host(&mut self, mailbox: MailboxId, since: u64) {
        let log = self.logs.entry(mailbox).or_insert_with(|| MailboxLog { since, ..MailboxLog::default() });
        if self.map.get(&mailbox).is_none() {
            self.map.insert(mailbox, log.attested());
        }
    }

    /// A mailbox has moved here, in this epoch: its entries wait until the log before them is whole. What waits from an
    /// earlier time in which it lived here has no log to go into any more.
    pub fn expect(&mut self, mailbox: MailboxId, since: u64) -> Vec<Write> {
        #[cfg(feature = "cheat")]
        if self.cheat.lets_go(&mailbox) {
            self.map.remove(&mailbox);
        }
        let before = self.partial.insert(mailbox, Partial { since, ..Partial::default() });
        before.map_or_else(Vec::new, |before| before.forget(&mailbox))
    }

    /// The log of a mailbox that has moved here is whole, on disk: what waited for that is appended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn arrive(&mut self, mailbox: &MailboxId, store: &dyn Read) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        let Some(Partial { since, rows, .. }) = self.partial.remove(mailbox) else { return Ok(writes) };
        let mut log = MailboxLog { since, ..MailboxLog::default() };
        if let Some(edge) = tables::get(store, EDGES, &mailbox.0)? {
            log.begin_at(edge);
        }
        self.logs.insert(*mailbox, log);
        let (from, to) = (tables::mailbox_key(mailbox, 0), tables::mailbox_key(mailbox, u64::MAX));
        self.read_rows(&from, &to, store)?;
        if let (Some(log), Some(acknowledged)) = (self.logs.get_mut(mailbox), tables::get(store, ACKS, &mailbox.0)?) {
            log.acknowledge(acknowledged);
        }
        for (number, row) in rows.into_iter().enumerate() {
            writes.push(tables::delete(WAITING, tables::mailbox_key(mailbox, number as u64)));
            self.append_row(mailbox, &row, &mut writes);
        }
        if let Some(log) = self.logs.get(mailbox) {
            self.map.insert(*mailbox, log.attested());
        }
        Ok(writes)
    }

    /// Those of these mailboxes into whose logs the imports of this epoch go; none while one of the logs is to come. A
    /// residence that is over, as `is_over` says of a mailbox and the epoch since which it lasted, or as its coming back
    /// does, is attested no more: a log that did not come in time, since this node's disk was set back, does not come.
    pub fn importing(
        &self,
        mailboxes: &[MailboxId],
        epoch: u64,
        is_over: impl Fn(&MailboxId, u64) -> bool,
    ) -> Option<Vec<MailboxId>> {
        let comes = |mailbox: &&MailboxId| self.partial.get(mailbox).map(|partial| partial.since);
        let waits =
            |mailbox: &&MailboxId| comes(mailbox).is_some_and(|since| since <= epoch && !is_over(mailbox, since));
        if mailboxes.iter().any(|mailbox| waits(&mailbox)) {
            return None;
        }
        Some(mailboxes.iter().filter(|mailbox| comes(mailbox).is_none()).copied().collect())
    }

    /// A mailbox lives here no more.
    pub fn depart(&mut self, mailbox: &MailboxId, since: u64) -> Vec<Write> {
        let mut writes = Vec::new();
        if let Some(partial) = self.partial.remove(mailbox) {
            if partial.since <= since {
                writes.extend(partial.forget(mailbox));
            } else {
                // It has come back already.
                self.partial.insert(*mailbox, partial);
            }
        }
        if self.logs.get(mailbox).is_some_and(|log| log.since <= since) {
            self.logs.remove(mailbox);
            #[cfg(feature = "cheat")]
            if self.cheat.keeps(mailbox) {
                return writes;
            }
            self.map.remove(mailbox);
        }
        writes
    }

    /// Appends one row to the log of a mailbox that lives here.
    pub fn append_row(&mut self, mailbox: &MailboxId, row: &LogRow, writes: &mut Vec<Write>) -> u64 {
        let Some(log) = self.logs.get_mut(mailbox) else { return 0 };
        writes.push(tables::put(LOGS, tables::mailbox_key(mailbox, log.log.size()), row));
        log.push(row, self.expired);
        self.due.entry(row.settled).or_default().insert(*mailbox);
        self.map.insert(*mailbox, log.attested());
        row.leaves.len() as u64
    }

    /// How many mailboxes live here.
    pub fn mailboxes(&self) -> u64 {
        (self.logs.len() + self.partial.len()) as u64
    }

    /// How many entries a mailbox has.
    pub fn size(&self, mailbox: &MailboxId) -> Option<u64> {
        self.logs.get(mailbox).map(|log| log.log.size())
    }

    /// What a mailbox holds that its owner has not acknowledged; none if it does not live here.
    pub fn unacknowledged(&self, mailbox: &MailboxId) -> Option<Load> {
        let partial = self.partial.get(mailbox).map(|partial| partial.load);
        partial.or_else(|| self.logs.get(mailbox).map(|log| log.load))
    }

    /// Appends a slice's entries to the logs of the mailboxes that live here, except those that the cut shows to be
    /// `refused` (in ascending order). Returns how many.
    pub fn append(
        &mut self,
        place: Place,
        index: &SliceIndex,
        refused: &[RefusedLeaf],
        writes: &mut Vec<Write>,
    ) -> u64 {
        let is_refused = |mailbox: &MailboxId, leaf: &SliceLeaf| {
            refused.binary_search_by_key(&(leaf.index, *mailbox), |refused| (refused.index, refused.mailbox)).is_ok()
        };
        let mut entries = 0;
        let Place { settled, epoch, position, slice, routing_epoch } = place;
        for (mailbox, leaves) in index.leaves() {
            let is_partial = self.partial.get(mailbox).is_some_and(|partial| partial.since <= routing_epoch);
            if !is_partial && self.logs.get(mailbox).is_none_or(|log| log.since > routing_epoch) {
                continue;
            }
            let leaves: Vec<SliceLeaf> = leaves.iter().filter(|leaf| !is_refused(mailbox, leaf)).copied().collect();
            #[cfg(feature = "cheat")]
            let leaves = self.cheat.spoil(leaves, place.settled);
            if leaves.is_empty() {
                continue;
            }
            let row = LogRow { settled, epoch, position, slice, leaves };
            if let Some(partial) = self.partial.get_mut(mailbox).filter(|_| is_partial) {
                let number = partial.rows.len() as u64;
                writes.push(tables::put(WAITING, tables::mailbox_key(mailbox, number), &row));
                partial.push(row);
                continue;
            }
            let rows = [row];
            #[cfg(feature = "cheat")]
            let rows = rows.into_iter().flat_map(|row| self.cheat.reorder(mailbox, row, writes)).collect::<Vec<_>>();
            for row in rows {
                entries += self.append_row(mailbox, &row, writes);
            }
        }
        entries
    }

    /// The last epoch that is past retention.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Epochs up to `epoch` are past retention: their entries are attested as forgotten.
    pub fn expire(&mut self, epoch: u64) {
        self.expired = epoch;
        let rest = self.due.split_off(&(epoch + 1));
        for mailbox in std::mem::replace(&mut self.due, rest).into_values().flatten() {
            let Some(log) = self.logs.get_mut(&mailbox) else { continue };
            while let Some((_, end)) = log.ends.front().copied().filter(|(settled, _)| *settled <= epoch) {
                log.expired_to = log.expired_to.max(end);
                log.ends.pop_front();
            }
            log.trim();
            self.map.insert(mailbox, log.attested());
        }
    }

    /// Takes an owner's acknowledgement of a log that this one continues.
    ///
    /// # Errors
    /// [`Refusal`] when the mailbox does not live here, or the acknowledged log is another one.
    pub fn acknowledge(
        &mut self,
        acknowledgement: &Verified<Signed<Acknowledgement>>,
        writes: &mut Vec<Write>,
    ) -> Result<(), Refusal> {
        let Acknowledgement { mailbox, log: head } = acknowledgement.body;
        let Some(log) = self.logs.get_mut(&mailbox) else {
            return Err(Refusal::NotFound { what: format!("mailbox {mailbox}") });
        };
        if log.log.root_at(head.size) != Some(head.root) {
            return Err(Refusal::Invalid { reason: "the acknowledged log is not this mailbox's".into() });
        }
        if log.acknowledged.as_ref().is_some_and(|known| known.body.log.size >= head.size) {
            return Ok(());
        }
        let signed = (**acknowledgement).clone();
        writes.push(tables::put(ACKS, mailbox.0, &signed));
        log.acknowledge(signed);
        self.map.insert(mailbox, log.attested());
        Ok(())
    }

    /// Begins an attestation of everything up to `epoch`, unless one is under way or there is nothing new. The write
    /// must be persisted under `token`; then [`Outbox::persisted`] signs.
    pub fn begin(&mut self, epoch: u64, token: u64) -> Option<Write> {
        if self.incarnation == 0 || self.begun.is_some() || self.fresh.is_some() || epoch <= self.attested_epoch {
            return None;
        }
        #[cfg(feature = "cheat")]
        if self.cheat.attests_nothing(epoch) {
            return None;
        }
        #[cfg(feature = "cheat")]
        self.cheat.names_kept(epoch);
        self.number += 1;
        self.attested_epoch = epoch;
        let body = Attestation {
            node: self.me,
            incarnation: self.incarnation,
            number: self.number,
            epoch,
            mailboxes: self.map.len() as u64,
            root: self.map.root(),
        };
        self.begun = Some((token, body, self.map.clone()));
        Some(tables::put(META, ATTESTED, &self.number))
    }

    /// Rows up to `token` are durable: signs what waits for that.
    pub fn persisted(&mut self, token: u64) -> Option<Arc<AttestedView>> {
        let (_, body, map) = self.begun.take_if(|(waits, ..)| *waits <= token)?;
        let (number, epoch) = (body.number, body.epoch);
        let attestation = Signed::sign(body, &self.secret, &self.federation).into_inner();
        self.fresh = Some(AttestationRef { number, digest: attestation.digest(&self.federation), epoch });
        let view = AttestedView {
            attestation,
            map,
            anchor: None,
            #[cfg(feature = "cheat")]
            other: None,
        };
        #[cfg(feature = "cheat")]
        let view = self.split(view);
        let view = Arc::new(view);
        self.signed.insert(number, Arc::clone(&view));
        while self.signed.len() > 64 {
            self.signed.pop_first();
        }
        Some(view)
    }

    /// The attestation that the next header is to name.
    pub fn take_fresh(&mut self) -> Option<AttestationRef> {
        self.fresh.take()
    }

    /// Whether an attestation waits for a header.
    pub fn has_fresh(&self) -> bool {
        self.fresh.is_some()
    }

    /// A cut has made attestation `number` final.
    pub fn anchored(&mut self, number: u64, anchor: Anchor) -> Option<Arc<AttestedView>> {
        let view = self.signed.get(&number)?;
        let view = Arc::new(AttestedView { anchor: Some(anchor), ..(**view).clone() });
        self.signed = self.signed.split_off(&(number + 1));
        self.last_final = Some(Arc::clone(&view));
        Some(view)
    }

    /// The last attestation that is final, of those that were signed since the start.
    pub fn last_final(&self) -> Option<&AttestedView> {
        self.last_final.as_deref()
    }

    /// From the entries at these indexes to the root of a mailbox's log when it had `size` entries.
    pub fn paths(&self, mailbox: &MailboxId, size: u64, indexes: &[u64]) -> Option<Vec<Path>> {
        let log = &self.logs.get(mailbox)?.log;
        indexes.iter().map(|index| log.inclusion(*index, size)).collect()
    }

    /// The proof that the message at `seq` is with `mailbox`, if the last final attestation covers it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn delivery(
        &self,
        mailbox: &MailboxId,
        seq: Seq,
        store: &dyn Read,
    ) -> Result<Option<DeliveryProof>, StoreError> {
        let found = || {
            let log = self.logs.get(mailbox)?;
            let first = *log.first.get(&(seq.epoch, seq.position))?;
            let attested = self.last_final.as_ref()?.of(mailbox)?;
            (first < attested.log.log.size).then_some((log, first, attested))
        };
        let Some((log, first, attested)) = found() else { return Ok(None) };
        let key = tables::mailbox_key(mailbox, first);
        let row: LogRow = tables::get(store, LOGS, &key)?.ok_or(StoreError::Corrupt { table: LOGS, key })?;
        let proof = row.log_leaves().enumerate().find(|(_, leaf)| leaf.seq == seq).and_then(|(offset, leaf)| {
            let index = first + offset as u64;
            let path = log.log.inclusion(index, attested.log.log.size)?;
            Some(DeliveryProof { mailbox: *mailbox, leaf, index, path, attested })
        });
        Ok(proof)
    }
}

impl Partial {
    fn push(&mut self, row: LogRow) {
        row.leaves.iter().map(Load::of).for_each(|load| self.load.add(load));
        self.rows.push(row);
    }

    /// What removes its rows.
    fn forget(self, mailbox: &MailboxId) -> Vec<Write> {
        let numbers = 0..self.rows.len() as u64;
        numbers.map(|number| tables::delete(WAITING, tables::mailbox_key(mailbox, number))).collect()
    }
}

impl MailboxLog {
    /// Goes on with a log whose beginning is not here.
    fn begin_at(&mut self, edge: Edge) {
        self.log = Log::from(edge.frontier);
        self.expired_to = edge.expired_to;
        self.last_epoch = edge.last_epoch;
    }

    fn push(&mut self, row: &LogRow, expired: u64) {
        self.first.insert((row.epoch, row.position), self.log.size());
        for leaf in row.log_leaves() {
            self.log.append(leaf.hash());
        }
        for load in row.leaves.iter().map(Load::of) {
            self.open.push_back(load);
            self.load.add(load);
        }
        self.last_epoch = row.settled;
        let end = self.log.size();
        match self.ends.back_mut() {
            _ if row.settled <= expired => self.expired_to = self.expired_to.max(end),
            Some(last) if last.0 == row.settled => last.1 = end,
            _ => self.ends.push_back((row.settled, end)),
        }
        self.trim();
    }

    fn acknowledge(&mut self, acknowledged: Signed<Acknowledgement>) {
        let head = acknowledged.body.log;
        // One of a log that a former home had beyond what was taken over counts no more.
        if self.log.root_at(head.size) == Some(head.root) {
            self.acknowledged = Some(acknowledged);
        }
        self.trim();
    }

    /// What is acknowledged or past retention counts against the quota no more.
    fn trim(&mut self) {
        let acknowledged = self.acknowledged.as_ref().map_or(0, |known| known.body.log.size);
        let open = self.log.size().saturating_sub(acknowledged.max(self.expired_to));
        while self.open.len() as u64 > open
            && let Some(load) = self.open.pop_front()
        {
            self.load.subtract(load);
        }
    }

    fn attested(&self) -> AttestedLog {
        AttestedLog {
            log: LogHead { size: self.log.size(), root: self.log.root() },
            last_epoch: self.last_epoch,
            expired_to: self.expired_to,
            acknowledged: self.acknowledged.clone(),
        }
    }
}
