//! Mailboxes that lived here and moved away: what stays of them until their move is finished.

use minicbor::{Decode, Encode};
use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::state::{MailboxState, State};
use postroad_protocol::{MailboxId, NodeId, Refusal};
use postroad_store::{Read, StoreError, Table, Write, prefix_end};

use crate::outbox::AttestedView;
use crate::tables::{self, ACKS, ARRIVALS, DEPARTURES, EDGES, EXTRACTS, LOGS, WAITING};

/// Rows of [`DEPARTURES`] that one round of housekeeping looks at, at most.
const MAX_LOOKED: usize = 64;
/// Rows that one round forgets, at most.
const MAX_FORGOTTEN: usize = 1_024;
/// Rows read at once to be forgotten; of those with payloads only a few.
const PAGE: (usize, usize) = (256, 16);

/// What a store knows of a mailbox that has left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Departure {
    /// The cut that settled the switch.
    #[n(0)]
    pub until: u64,
    /// The last final attestation of this node that names the mailbox, if there is one.
    #[n(1)]
    pub attested: Option<Box<MailboxAttestation>>,
    /// Whether it is being forgotten, in several rounds perhaps: what is left is handed over to nobody.
    #[n(2)]
    pub is_forgotten: bool,
}

/// The mailbox has left with the cut of epoch `until`, up to which this node's logs have come. What `last_final` says of
/// it, this node's last final attestation, is what is handed over from now on.
pub fn left(mailbox: &MailboxId, until: u64, last_final: Option<&AttestedView>) -> Write {
    let before = last_final.filter(|view| view.attestation.body.epoch < until);
    let attested = before.and_then(|view| view.of(mailbox)).map(Box::new);
    tables::put(DEPARTURES, mailbox.0, &Departure { until, attested, is_forgotten: false })
}

/// The final attestation of a mailbox's log up to which the node `me` hands that over.
///
/// # Errors
/// [`StoreError`]; and inside, why there is none: [`Refusal::NotFound`] where there will be none, because none names the
/// mailbox or the move is finished; [`Refusal::NotReady`] where one will come.
pub fn attested(
    mailbox: &MailboxId,
    me: &NodeId,
    head: &State,
    last_final: Option<&AttestedView>,
    routing_window_epochs: u64,
    store: &dyn Read,
) -> Result<Result<Box<MailboxAttestation>, Refusal>, StoreError> {
    let Some(known) = head.mailbox(mailbox) else {
        return Ok(Err(Refusal::NotFound { what: format!("mailbox {mailbox}") }));
    };
    let none = || Refusal::NotFound { what: format!("a final attestation of this node that names {mailbox}") };
    if known.home == *me {
        let Some(view) = last_final else { return Ok(Err(Refusal::NotReady)) };
        return Ok(view.of(mailbox).map(Box::new).ok_or_else(none));
    }
    let Some(until) = left_at(known, me) else { return Ok(Err(Refusal::NotHere { home: known.home })) };
    let departure: Option<Departure> = tables::get(store, DEPARTURES, &mailbox.0)?;
    if let Some(departure) = departure.filter(|departure| departure.until == until || departure.is_forgotten) {
        return Ok(departure.attested.filter(|_| !departure.is_forgotten).ok_or_else(none));
    }
    if is_finished(known, routing_window_epochs) {
        return Ok(Err(none()));
    }
    // The cut is applied, and the mail of the epochs before it is not in the logs yet.
    let view = last_final.filter(|view| view.attestation.body.epoch < until);
    Ok(view.and_then(|view| view.of(mailbox)).map(Box::new).ok_or(Refusal::NotReady))
}

/// The epoch since which a mailbox does not live at `me` any more.
fn left_at(known: &MailboxState, me: &NodeId) -> Option<u64> {
    let mut spans = known.moved.iter().flat_map(|moved| &moved.spans).rev();
    spans.find(|span| span.node == *me).map(|span| span.until)
}

/// Whether a mailbox lives at `me`, or has lived there as far as is remembered.
pub(crate) fn has_lived(known: &MailboxState, me: &NodeId) -> bool {
    known.home == *me || left_at(known, me).is_some()
}

fn is_finished(known: &MailboxState, routing_window_epochs: u64) -> bool {
    known.moved.as_ref().is_some_and(|moved| moved.is_finished(routing_window_epochs))
}

/// Whether the new home has the whole log and has attested it, finally: another one can continue that from now on.
pub(crate) fn is_safe(known: &MailboxState, head: &State, routing_window_epochs: u64) -> bool {
    let import = known.moved.as_ref().and_then(|moved| moved.import.as_ref());
    let last = head.node(&known.home).and_then(|home| home.last_attestation);
    is_finished(known, routing_window_epochs)
        && import.zip(last).is_some_and(|(import, last)| last.attestation.epoch >= import.epoch)
}

/// Forgets, a little in every round, the logs of mailboxes whose moves are finished.
#[derive(Debug, Default)]
pub struct Forgetting {
    /// Where the next round goes on.
    next: Vec<u8>,
}

impl Forgetting {
    /// A round of housekeeping at the node `me`. Nothing is forgotten of a mailbox that lives here again or comes back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn round(
        &mut self,
        me: &NodeId,
        head: &State,
        routing_window_epochs: u64,
        store: &dyn Read,
    ) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        let rows = keys(store, DEPARTURES, &self.next, &[], MAX_LOOKED)?;
        let looked_at_all = rows.len() < MAX_LOOKED;
        for key in rows {
            let mailbox = key.first_chunk().map(|bytes| MailboxId::from(*bytes));
            let known = mailbox.and_then(|mailbox| head.mailbox(&mailbox));
            let departure: Option<Departure> = tables::get(store, DEPARTURES, &key)?;
            // What has begun is ended, also where the mailbox has moved on in between.
            let has_begun = departure.as_ref().is_some_and(|departure| departure.is_forgotten);
            let may_forget = known
                .is_some_and(|known| known.home != *me && (has_begun || is_safe(known, head, routing_window_epochs)));
            // Who says that the log begins anew has not taken over what is here.
            let import = known.and_then(|known| known.moved.as_ref()?.import.as_ref());
            let is_needed = import.is_some_and(|import| import.base.is_none())
                && departure.as_ref().is_some_and(|departure| departure.attested.is_some());
            if may_forget && !is_needed && store.get(ARRIVALS, &key)?.is_none() {
                if let Some(departure) = departure.filter(|_| !has_begun) {
                    let row = Departure { attested: None, is_forgotten: true, ..departure };
                    writes.push(tables::put(DEPARTURES, &key[..], &row));
                    writes.push(tables::delete(EDGES, &key[..]));
                }
                forget(&key, store, &mut writes)?;
                if writes.len() >= MAX_FORGOTTEN {
                    // It goes on with this one.
                    self.next = key;
                    return Ok(writes);
                }
            }
            self.next = [&key[..], &[0]].concat();
        }
        if looked_at_all {
            self.next.clear();
        }
        Ok(writes)
    }
}

/// Forgets rows of one mailbox; the one that names it in [`DEPARTURES`] last.
fn forget(mailbox: &[u8], store: &dyn Read, writes: &mut Vec<Write>) -> Result<(), StoreError> {
    let (small, large) = PAGE;
    for (table, page) in [(EXTRACTS, large), (WAITING, small), (LOGS, small)] {
        let mut from = mailbox.to_vec();
        loop {
            let room = MAX_FORGOTTEN.saturating_sub(writes.len()).min(page);
            if room == 0 {
                return Ok(());
            }
            let rows = keys(store, table, &from, &prefix_end(mailbox), room)?;
            let Some(last) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            writes.extend(rows.into_iter().map(|key| tables::delete(table, key)));
        }
    }
    writes.extend([EDGES, ACKS, DEPARTURES].map(|table| tables::delete(table, mailbox)));
    Ok(())
}

/// The next keys of a table, that of a damaged row as well: nothing has to be read of what is forgotten.
fn keys(store: &dyn Read, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
    match store.range(table, from, to, limit) {
        Ok(rows) => Ok(rows.into_iter().map(|(key, _)| key).collect()),
        Err(StoreError::Corrupt { key, .. }) => {
            let mut keys = Vec::new();
            for (sound, _) in store.range(table, from, &key, limit)? {
                keys.push(sound);
            }
            keys.push(key);
            Ok(keys)
        }
        Err(error) => Err(error),
    }
}
