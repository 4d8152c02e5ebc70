//! Where each mailbox lives when, and what its log is there: the rule of docs/moving.md, which mail belongs to whom, from
//! cuts and batches alone.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::attestation::{LogHead, LogLeaf};
use postroad_protocol::cut::Cut;
use postroad_protocol::merkle::tree;
use postroad_protocol::moving::Import;
use postroad_protocol::record::Record;
use postroad_protocol::state::State;
use postroad_protocol::{Digest, MailboxId, NodeId, Seq};

use super::logs::NAME;
use super::{Verdict, broken};

/// A time in which a mailbox lives at one home.
#[derive(Debug)]
pub(in crate::sim) struct Residence {
    pub(in crate::sim) node: NodeId,
    pub(in crate::sim) since: u64,
    until: Option<u64>,
    /// The log that is continued here, once an import has told it: how many entries of `log` that are, which of the
    /// residences attested it, and when.
    base: Option<Based>,
    log: Vec<LogLeaf>,
    /// The first import and the last one.
    imported: Option<(u64, u64)>,
    /// What the imports have brought.
    closed: BTreeSet<Seq>,
}

#[derive(Clone, Copy, Debug)]
struct Based {
    residence: usize,
    epoch: u64,
}

/// One message for one mailbox, as it was ordered.
#[derive(Debug)]
struct Routed {
    leaf: LogLeaf,
    destination: NodeId,
    origin: NodeId,
    routing_epoch: u64,
    /// The epoch in which its destination settled it, and whether that refused it.
    settled: Option<(u64, bool)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::sim) struct Residences {
    all: BTreeMap<MailboxId, Vec<Residence>>,
    routed: BTreeMap<MailboxId, BTreeMap<Seq, Routed>>,
    /// What the cut that is looked at appends.
    due: BTreeMap<MailboxId, Vec<LogLeaf>>,
}

impl Residence {
    pub(in crate::sim) fn is_at(&self, node: &NodeId, epoch: u64) -> bool {
        self.node == *node && self.covers(epoch)
    }

    fn covers(&self, epoch: u64) -> bool {
        self.since <= epoch && self.until.is_none_or(|until| epoch < until)
    }

    /// Whether the log up to an epoch must be whole here: an import says so.
    pub(in crate::sim) fn is_known(&self, epoch: u64) -> bool {
        self.base.is_some() && self.imported.is_none_or(|(first, _)| first <= epoch)
    }

    /// Whether the log that is continued is known.
    pub(in crate::sim) fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The epoch of the first import; none where the mailbox registered.
    pub(in crate::sim) fn imported(&self) -> Option<u64> {
        self.imported.map(|(first, _)| first)
    }

    pub(in crate::sim) fn log(&self) -> &[LogLeaf] {
        &self.log
    }

    /// The log up to an epoch.
    pub(in crate::sim) fn up_to(&self, epoch: u64) -> &[LogLeaf] {
        &self.log[..self.log.partition_point(|leaf| leaf.settled <= epoch)]
    }
}

/// The log of these entries.
pub(in crate::sim) fn head_of(log: &[LogLeaf]) -> LogHead {
    LogHead { size: log.len() as u64, root: root_of(log) }
}

/// The root over a log: the tree over all leaves at once, not the one that grows.
pub(in crate::sim) fn root_of(log: &[LogLeaf]) -> Digest {
    tree::root(&log.iter().map(LogLeaf::hash).collect::<Vec<_>>())
}

impl Residences {
    pub(in crate::sim) fn of(&self, mailbox: &MailboxId) -> &[Residence] {
        self.all.get(mailbox).map_or(&[], Vec::as_slice)
    }

    pub(in crate::sim) fn all(&self) -> impl Iterator<Item = (&MailboxId, &Residence)> {
        self.all.iter().flat_map(|(mailbox, all)| all.iter().map(move |residence| (mailbox, residence)))
    }

    pub(in crate::sim) fn last(&self) -> impl Iterator<Item = (&MailboxId, &Residence)> {
        self.all.iter().filter_map(|(mailbox, all)| Some((mailbox, all.last()?)))
    }

    /// Where mail of a routing epoch goes.
    pub(in crate::sim) fn home_at(&self, mailbox: &MailboxId, epoch: u64) -> Option<NodeId> {
        self.of(mailbox).iter().find(|residence| residence.covers(epoch)).map(|residence| residence.node)
    }

    /// A cut: who lives where after it.
    pub(in crate::sim) fn begin(&mut self, epoch: u64, state: &State) {
        for (mailbox, known) in state.mailboxes() {
            let all = self.all.entry(*mailbox).or_default();
            if all.last().is_some_and(|last| (last.node, last.since) == (known.home, known.since)) {
                continue;
            }
            let base = (known.moved.is_none()).then_some(Based { residence: 0, epoch: 0 });
            if let Some(last) = all.last_mut() {
                last.until = Some(epoch);
            }
            all.push(Residence {
                node: known.home,
                since: known.since,
                until: None,
                base,
                log: Vec::new(),
                imported: None,
                closed: BTreeSet::new(),
            });
        }
    }

    /// A message was ordered.
    pub(in crate::sim) fn routed(
        &mut self,
        mailbox: &MailboxId,
        leaf: LogLeaf,
        destination: NodeId,
        origin: NodeId,
        routing_epoch: u64,
    ) {
        let routed = Routed { leaf, destination, origin, routing_epoch, settled: None };
        self.routed.entry(*mailbox).or_default().insert(leaf.seq, routed);
    }

    /// The destination of a message has settled it.
    pub(in crate::sim) fn settled(&mut self, mailbox: &MailboxId, seq: Seq, epoch: u64, refused: bool) {
        let Some(routed) = self.routed.get_mut(mailbox).and_then(|routed| routed.get_mut(&seq)) else { return };
        routed.settled = Some((epoch, refused));
        let Some(home) = self.all.get(mailbox).and_then(|all| all.last()) else { return };
        // One residence from its routing to its settling.
        if home.node == routed.destination && home.since <= routed.routing_epoch && !refused {
            self.due.entry(*mailbox).or_default().push(LogLeaf { settled: epoch, ..routed.leaf });
        }
    }

    /// The imports of a cut, and then its entries. `is_doubtful` says what is not known.
    pub(in crate::sim) fn end(
        &mut self,
        cut: &Cut,
        state: &State,
        is_doubtful: impl Fn(&MailboxId) -> bool,
    ) -> Verdict {
        let epoch = cut.certified.header.epoch;
        for record in &cut.body.records {
            if let Record::Import(signed) = record
                && !is_doubtful(&signed.body.mailbox)
            {
                self.import(epoch, &signed.body, state)?;
            }
        }
        for (mailbox, mut leaves) in std::mem::take(&mut self.due) {
            leaves.sort_by_key(LogLeaf::order);
            if let Some(home) = self.all.get_mut(&mailbox).and_then(|all| all.last_mut()) {
                home.log.extend(leaves);
            }
        }
        Ok(())
    }

    fn import(&mut self, epoch: u64, import: &Import, state: &State) -> Verdict {
        let mailbox = import.mailbox;
        let Some((home, former)) = self.all.get_mut(&mailbox).and_then(|all| all.split_last_mut()) else {
            return broken(NAME, format!("an import of {mailbox:?}, which is not registered"));
        };
        // What a switch in the same cut follows is the log of a home that is none any more.
        if home.node != import.home || home.since == epoch {
            return Ok(());
        }
        let remembered: Vec<(NodeId, u64)> = (state.mailbox(&mailbox).and_then(|known| known.moved.as_ref()).iter())
            .flat_map(|moved| moved.spans.iter().map(|span| (span.node, span.since)))
            .collect();
        let based = match home.base {
            Some(based) => based,
            None => {
                let (based, log) = match &import.base {
                    None => {
                        let oldest = former.iter().position(|it| remembered.first() == Some(&(it.node, it.since)));
                        let Some(residence) = oldest else {
                            return broken(NAME, format!("{mailbox:?} never lived in its oldest span"));
                        };
                        (Based { residence, epoch: former[residence].since.saturating_sub(1) }, Vec::new())
                    }
                    Some(base) => {
                        let at = base.attestation.epoch;
                        let Some(residence) = former.iter().position(|it| it.is_at(&base.node, at)) else {
                            return broken(NAME, format!("an import of {mailbox:?} continues a log of nobody's"));
                        };
                        let log = former[residence].up_to(at);
                        if !former[residence].has_base() || head_of(log) != base.log {
                            let (size, found) = (base.log.size, log.len());
                            return broken(
                                NAME,
                                format!(
                                    "an import of {mailbox:?} in cut {epoch} continues a log of {size} entries that \
                                     was never there at epoch {at}, where it had {found}"
                                ),
                            );
                        }
                        (Based { residence, epoch: at }, log.to_vec())
                    }
                };
                home.log.splice(0..0, log);
                home.base = Some(based);
                based
            }
        };
        home.imported = Some((home.imported.map_or(epoch, |(first, _)| first), epoch));
        let due = self.due.entry(mailbox).or_default();
        for (seq, item) in self.routed.get(&mailbox).into_iter().flatten() {
            let routed_to = former.iter().position(|it| it.is_at(&item.destination, item.routing_epoch));
            let Some(at) = routed_to.filter(|at| remembered.contains(&(former[*at].node, former[*at].since))) else {
                continue;
            };
            let in_base = at < based.residence
                || at == based.residence && item.settled.is_some_and(|(settled, _)| settled <= based.epoch);
            // What a home refuses once the mailbox has left says nothing for it; what stood in the cut's custody does.
            let refused = item.settled.is_some_and(|(settled, refused)| {
                refused && (settled == seq.epoch || former[at].until.is_some_and(|until| settled < until))
            });
            if !in_base && !refused && import.closes(&item.origin, seq.epoch) && home.closed.insert(*seq) {
                due.push(LogLeaf { settled: epoch, ..item.leaf });
            }
        }
        Ok(())
    }

    /// Whether a log of this head may be that of a residence whose base no import has told yet: some former log, and
    /// what was appended since.
    pub(in crate::sim) fn may_be(&self, mailbox: &MailboxId, residence: &Residence, epoch: u64, head: LogHead) -> bool {
        let normal = residence.up_to(epoch);
        let Some(size) = (head.size as usize).checked_sub(normal.len()) else { return false };
        let mut bases = self.of(mailbox).iter().filter(|it| it.has_base() && it.since < residence.since);
        size == 0 && root_of(normal) == head.root
            || bases.any(|base| base.log.get(..size).is_some_and(|base| root_of(&[base, normal].concat()) == head.root))
    }
}
