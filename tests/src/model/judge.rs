//! To whom a message belongs, and who can be convicted: from cuts, the directory and attested logs alone.

use super::state::{Base, Epoch, Log, MESSAGES, Message, Residence, State};
use super::{Bug, Moving};

/// A residence's node owes a message as ever: the slice was its own, routed while the mailbox lived there, and settled
/// while it still did.
pub fn is_normal(message: &Message, home: &Residence) -> bool {
    let settled = message.settled();
    message.to == home.node && home.since <= message.routed && home.since <= settled && within(settled, home)
}

fn within(epoch: Epoch, home: &Residence) -> bool {
    home.until == 0 || epoch < home.until
}

/// Of which residence before `home` a message is an item.
fn item_of(state: &State, message: &Message, home: usize) -> Option<usize> {
    let earlier = &state.residences()[..home];
    earlier.iter().position(|r| r.node == message.to && r.since <= message.routed && within(message.routed, r))
}

/// Whether an item is in the log on which a residence builds.
fn is_in_base(state: &State, message: &Message, home: usize) -> bool {
    match (item_of(state, message, home), state.residences()[home].base) {
        (Some(item), Some(Base::Attested(base, epoch))) => {
            let (base, settled) = (base as usize, message.settled());
            item < base || (item == base && settled != 0 && settled <= epoch)
        }
        _ => false,
    }
}

/// Whether a message is an item that a residence's imports have to close.
pub fn is_open(state: &State, message: &Message, home: usize) -> bool {
    !message.refused && item_of(state, message, home).is_some() && !is_in_base(state, message, home)
}

impl Moving {
    /// What an honest node could be convicted of by any attestation that it signs, or what is wrong with whom the
    /// messages belong to.
    pub fn blame(&self, state: &State) -> Option<String> {
        (0..state.residences().len()).find_map(|at| {
            let home = &state.residences()[at];
            self.false_home(state, home)
                .or_else(|| self.not_once(state, at))
                .or_else(|| false_import(state, at))
                .or_else(|| attested(state, home).find_map(|epoch| drop_or_wrong_entry(state, at, epoch)))
                .or_else(|| self.split_view(state, at))
        })
    }

    /// An attestation that names the mailbox, of an epoch in which it lives elsewhere.
    fn false_home(&self, state: &State, home: &Residence) -> Option<String> {
        let beyond = self.bug == Some(Bug::AttestsOn) && home.until != 0 && state.alive_at(home.node, home.until);
        let named = attested(state, home).chain(beyond.then_some(home.until));
        let wrong = named.into_iter().find(|epoch| state.home_at(*epoch) != Some(home.node));
        wrong.map(|epoch| format!("false home: node {} names the mailbox in epoch {epoch}", home.node))
    }

    /// To a home that has a base everything belongs once: as ever, by its base, or by an import. When its move has
    /// finished, nothing of before is left over.
    fn not_once(&self, state: &State, at: usize) -> Option<String> {
        let home = &state.residences()[at];
        home.base?;
        (0..MESSAGES).find_map(|number| {
            let message = &state.messages[number];
            let ways = [is_normal(message, home), is_in_base(state, message, at), home.closed[number] != 0];
            let count = ways.into_iter().filter(|way| *way).count();
            if count > 1 {
                return Some(format!("message {number} belongs to residence {at} twice"));
            }
            let left = message.included != 0 && home.complete != 0 && is_open(state, message, at);
            (left && count == 0).then(|| format!("message {number} belongs to nobody after the move to residence {at}"))
        })
    }

    /// Two attested logs of one node that disagree. What a node attested in another residence binds it no more.
    fn split_view(&self, state: &State, at: usize) -> Option<String> {
        let home = &state.residences()[at];
        let guilty = || Some(format!("split view: node {} contradicts what it attested before", home.node));
        if let Some((base, until)) = home.forgotten
            && attested(state, home).last() >= Some(until)
            && !state.log(at).continues(&state.base_log(Some(base)))
        {
            return guilty();
        }
        if self.bug != Some(Bug::SplitAcrossResidences) {
            return None;
        }
        let last = attested(state, home).last()?;
        let log = state.log(at).up_to(last);
        let earlier = state.residences()[..at].iter().enumerate().filter(|(_, earlier)| earlier.node == home.node);
        let mut before = earlier.filter_map(|(at, earlier)| Some((at, attested(state, earlier).last()?)));
        before.any(|(at, epoch)| !log.continues(&state.log(at).up_to(epoch))).then(guilty).flatten()
    }
}

/// The epochs of which a residence's node can have attested the mailbox.
fn attested<'a>(state: &'a State, home: &Residence) -> impl Iterator<Item = Epoch> + use<'a> {
    let until = if home.until == 0 { state.head + 1 } else { home.until };
    let (node, from) = (home.node, home.named);
    let epochs = if from == 0 { 0..0 } else { from..until };
    epochs.filter(move |epoch| state.alive_at(node, *epoch))
}

/// An import's base is the log of an attestation of a residence from where that is complete, and what follows in the
/// home's log was settled in its own residence.
fn false_import(state: &State, at: usize) -> Option<String> {
    let home = &state.residences()[at];
    let guilty = |why: &str| Some(format!("false import: node {} {why}", home.node));
    if home.imported.first == 0 {
        return None;
    }
    if let Some(Base::Attested(base, epoch)) = home.base
        && !attested(state, &state.residences()[base as usize]).any(|attested| attested == epoch)
    {
        return guilty("builds on what nobody attested");
    }
    let before = home.own.as_slice().iter().any(|entry| entry.settled < home.since);
    if before { guilty("appended what was settled before it was home") } else { None }
}

fn drop_or_wrong_entry(state: &State, at: usize, epoch: Epoch) -> Option<String> {
    let home = &state.residences()[at];
    let log: Log = state.log(at).up_to(epoch);
    for (number, message) in state.messages.iter().enumerate() {
        let normal = is_normal(message, home) && message.settled() <= epoch && !message.refused;
        let closed = home.closed[number] != 0 && home.closed[number] <= epoch;
        if (normal || closed) && !log.holds(number) {
            return Some(format!("drop: node {} lacks message {number} in epoch {epoch}", home.node));
        }
    }
    let order = |entry: &super::state::Entry| {
        let seq = state.messages[entry.message as usize].seq();
        (entry.settled, entry.settled == seq.0, seq)
    };
    if !log.as_slice().is_sorted_by(|one, next| order(one) < order(next)) {
        return Some(format!("wrong entry: node {} is out of order in epoch {epoch}", home.node));
    }
    let own = log.as_slice().iter().filter(|entry| entry.settled >= home.since);
    let lawful = |entry: &super::state::Entry| {
        let number = entry.message as usize;
        let message = &state.messages[number];
        let normal = is_normal(message, home) && message.settled() == entry.settled && !message.refused;
        normal || home.closed[number] == entry.settled
    };
    let wrong = own.into_iter().find(|entry| !lawful(entry))?;
    Some(format!("wrong entry: node {} has message {} that is not its own", home.node, wrong.message))
}
