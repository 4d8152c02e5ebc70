//! What a state of the model holds: the directory with its history, the records on their way, the messages, the logs.
//!
//! Epochs and numbers are small integers, and 0 stands for *never*. Everything is inline and compared whole, so that two
//! ways to one state are one state.

/// A node, by index.
pub type Node = u8;
/// An epoch; 0 is before all.
pub type Epoch = u8;

/// How many messages are sent to the mailbox, each in a header of its own.
pub const MESSAGES: usize = 3;
/// How long a header can be included after its routing epoch.
pub const WINDOW: Epoch = 2;
/// How long a switch that the recovery key did not sign waits, in epochs.
pub const DELAY: Epoch = 2;
/// The most residences in a run: the first home, two moves or one and a thief's, and one more to come to rest.
const RESIDENCES: usize = 5;
/// The most records signed in a run.
const RECORDS: usize = 6;

/// A message, or rather its header with the one slice that holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Message {
    /// The routing epoch; 0: not written yet.
    pub routed: Epoch,
    /// Where the slice went.
    pub to: Node,
    /// The cut that included it; 0: not yet, or never.
    pub included: Epoch,
    /// Its position in that cut.
    pub position: u8,
    /// Whether the header came with its destination's receipt. Otherwise custodians hold it.
    pub delivered: bool,
    /// Whether that receipt refuses it.
    pub refused: bool,
    /// The cut that settled a fill; 0: none.
    pub filled: Epoch,
}

impl Message {
    /// The routing epoch of those that were never included and cannot be any more.
    pub const DEAD: Epoch = Epoch::MAX;

    /// Its sequence number.
    pub fn seq(&self) -> (Epoch, u8) {
        (self.included, self.position)
    }

    /// The cut that settled its destination's receipt or fill; 0: none.
    pub fn settled(&self) -> Epoch {
        if self.delivered { self.included } else { self.filled }
    }
}

/// An entry of a mailbox log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Which message.
    pub message: u8,
    /// The cut by which it came into the log.
    pub settled: Epoch,
}

/// A list of entries without allocation. It can hold more than there are messages, so that doubles are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    entries: [Entry; 2 * MESSAGES],
    len: u8,
}

impl Log {
    /// The entries, in order.
    pub fn as_slice(&self) -> &[Entry] {
        &self.entries[..self.len as usize]
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: Entry) {
        // More than every message twice says nothing new.
        if (self.len as usize) < self.entries.len() {
            self.entries[self.len as usize] = entry;
            self.len += 1;
        }
    }

    /// Whether a message is in it.
    pub fn holds(&self, message: usize) -> bool {
        self.as_slice().iter().any(|entry| entry.message as usize == message)
    }

    /// What of it was settled up to an epoch.
    pub fn up_to(&self, epoch: Epoch) -> Log {
        let mut log = Log::default();
        self.as_slice().iter().take_while(|entry| entry.settled <= epoch).for_each(|entry| log.push(*entry));
        log
    }

    /// Whether it begins with another one.
    pub fn continues(&self, other: &Log) -> bool {
        self.as_slice().starts_with(other.as_slice())
    }
}

/// On what a new home builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The empty log.
    Empty,
    /// The log under a final attestation of an earlier residence, by index, of an epoch.
    Attested(u8, Epoch),
}

/// What imports of a residence have settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Imported {
    /// The cut of the first one; 0: none yet.
    pub first: Epoch,
    /// What was included up to here is in the log ...
    pub through: Epoch,
    /// ... but for these messages, as bits.
    pub missing: u8,
}

/// A time for which the mailbox has one home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Residence {
    /// The home.
    pub node: Node,
    /// The first epoch.
    pub since: Epoch,
    /// The first epoch elsewhere; 0: it lasts.
    pub until: Epoch,
    /// From here on the node's attestations name the whole log; 0: not yet, or never.
    pub complete: Epoch,
    /// What its imports have settled.
    pub imported: Imported,
    /// By message: the cut of the import that closed it as an item of an earlier residence, as the state derives it.
    pub closed: [Epoch; MESSAGES],
    /// What the node builds on, from when it has that. None for the first residence as well.
    pub base: Option<Base>,
    /// From here on the node attests the mailbox; 0: it does not yet.
    pub named: Epoch,
    /// What the node itself has appended.
    pub own: Log,
    /// A base that the node forgot after it had attested it, until when it did (only with a planted bug).
    pub forgotten: Option<(Base, Epoch)>,
}

/// A switch that was signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Switch {
    /// The home that it names; the present one: it abandons.
    pub to: Node,
    /// Whether that was the present home when it was signed.
    pub abandons: bool,
    /// Whether that was the present home when it settled.
    pub stays: bool,
    /// The record that it replaces.
    pub replaces: u8,
    /// The last cut when it was signed.
    pub signed: Epoch,
    /// Whether the recovery key signed it (as well).
    pub recovery: bool,
    /// Whether a thief of the device key signed it.
    pub thief: bool,
    /// The cut that settled it; 0: it is on its way, or dead.
    pub settled: Epoch,
    /// The cut in which it changed the home; 0: none.
    pub effect: Epoch,
}

impl Switch {
    /// What those replace that can never settle any more.
    pub const DEAD: u8 = u8::MAX;
}

/// The one thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing has yet.
    Well,
    /// A node was started again: what was not on its disk is gone.
    Restarted,
    /// A node is gone for good, with its disk, after a cut.
    Dead(Node, Epoch),
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The last cut.
    pub head: Epoch,
    residences: [Residence; RESIDENCES],
    residence_count: u8,
    switches: [Switch; RECORDS],
    switch_count: u8,
    /// The record in force: 0 the registration, then the switches from 1.
    pub record: u8,
    /// The last record that the recovery key signed, or the registration: what a switch with its signature may name.
    pub anchor: u8,
    /// A switch that waits, and the epoch in which it is due.
    pub waiting: Option<(u8, Epoch)>,
    /// The messages, in the order in which they are written.
    pub messages: [Message; MESSAGES],
    /// What has gone wrong.
    pub fate: Fate,
    /// What the owner was shown, as bits.
    pub shown: u8,
    /// Whether anything was shown twice.
    pub shown_twice: bool,
    /// How long the log was that the owner last read; 0 for a client that knows messages by their numbers.
    pub read: u8,
}

impl State {
    /// A mailbox that was registered at node 0 in cut 1.
    pub fn registered() -> State {
        let mut state = State {
            head: 1,
            residences: [Residence::default(); RESIDENCES],
            residence_count: 1,
            switches: [Switch::default(); RECORDS],
            switch_count: 0,
            record: 0,
            anchor: 0,
            waiting: None,
            messages: [Message::default(); MESSAGES],
            fate: Fate::Well,
            shown: 0,
            shown_twice: false,
            read: 0,
        };
        state.residences[0] = Residence { since: 1, complete: 1, named: 1, ..Residence::default() };
        state
    }

    /// All residences, the present one last.
    pub fn residences(&self) -> &[Residence] {
        &self.residences[..self.residence_count as usize]
    }

    /// The same, to change.
    pub fn residences_mut(&mut self) -> &mut [Residence] {
        &mut self.residences[..self.residence_count as usize]
    }

    /// The present residence.
    pub fn present(&self) -> &Residence {
        &self.residences[self.residence_count as usize - 1]
    }

    /// The same, to change.
    pub fn present_mut(&mut self) -> &mut Residence {
        &mut self.residences[self.residence_count as usize - 1]
    }

    /// A new residence begins.
    pub fn settle_in(&mut self, residence: Residence) {
        self.residences[self.residence_count as usize] = residence;
        self.residence_count += 1;
    }

    /// What was signed, in that order.
    pub fn switches(&self) -> &[Switch] {
        &self.switches[..self.switch_count as usize]
    }

    /// A switch, by its record's number (from 1).
    pub fn switch(&self, record: u8) -> &Switch {
        &self.switches[record as usize - 1]
    }

    /// The same, to change.
    pub fn switch_mut(&mut self, record: u8) -> &mut Switch {
        &mut self.switches[record as usize - 1]
    }

    /// Signs a switch, and gives its record's number.
    pub fn sign(&mut self, switch: Switch) -> u8 {
        self.switches[self.switch_count as usize] = switch;
        self.switch_count += 1;
        self.switch_count
    }

    /// The home as of a cut: the directory, as every node has it that has applied that cut.
    pub fn home_at(&self, epoch: Epoch) -> Option<Node> {
        let lives = |r: &&Residence| r.since <= epoch && (r.until == 0 || epoch < r.until);
        self.residences().iter().find(lives).map(|residence| residence.node)
    }

    /// Whether a node was there after a cut.
    pub fn alive_at(&self, node: Node, epoch: Epoch) -> bool {
        !matches!(self.fate, Fate::Dead(dead, at) if dead == node && epoch > at)
    }

    /// Whether a node is there now.
    pub fn alive(&self, node: Node) -> bool {
        !matches!(self.fate, Fate::Dead(dead, _) if dead == node)
    }

    /// The log under a base.
    pub fn base_log(&self, base: Option<Base>) -> Log {
        match base {
            Some(Base::Attested(residence, epoch)) => self.log(residence as usize).up_to(epoch),
            Some(Base::Empty) | None => Log::default(),
        }
    }

    /// The log that a residence's node has: its base, and what it appended itself.
    pub fn log(&self, residence: usize) -> Log {
        let residence = &self.residences()[residence];
        let mut log = self.base_log(residence.base);
        residence.own.as_slice().iter().for_each(|entry| log.push(*entry));
        log
    }
}
