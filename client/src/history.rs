//! The homes of a mailbox, one after the other, each with the signed record that made it the home.
//!
//! The federation's state names the last homes and the epochs between; the records stand in the cuts of those epochs.
//! Nothing is believed that a certified cut does not hold.

use postroad_protocol::cut::Cut;
use postroad_protocol::record::Record;
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{Digest, Federation, MailboxId, NodeId, Verified};

use crate::connection::{CALL_TIMEOUT, Endpoint, NodeAddr, unasked};
use crate::directory::Directory;
use crate::error::ClientError;

/// A time in which a mailbox lived at one home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residence {
    /// The home.
    pub home: NodeId,
    /// The epoch since which it lived there.
    pub since: u64,
    /// The epoch since which it does not; none of the present home.
    pub until: Option<u64>,
    /// The record that says so, if the cut of `since` holds it. That of a switch that waited for its delay stands in an
    /// earlier cut.
    pub record: Option<HomeRecord>,
}

/// A record that made a node the home of a mailbox. Its signatures hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeRecord {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is the registration.
    pub is_registration: bool,
    /// Whether the mailbox's own key signed it.
    pub by_device: bool,
    /// Whether the recovery key did.
    pub by_recovery: bool,
}

/// The homes of a mailbox, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The homes that are remembered.
    pub residences: Vec<Residence>,
    /// Whether there were earlier ones, which the federation's state has forgotten.
    pub is_cut_short: bool,
    /// The epoch whose cut proves which homes there were.
    pub as_of: u64,
}

impl History {
    /// Asks `node` for the homes of `mailbox` and their records.
    ///
    /// # Errors
    /// [`ClientError::NotRegistered`], and those of [`Directory::look_up`].
    pub async fn of(
        mailbox: &MailboxId,
        endpoint: Endpoint,
        node: NodeAddr,
        federation: &Federation,
    ) -> Result<History, ClientError> {
        let mut directory = Directory::new(endpoint.clone(), node.clone(), federation.clone());
        let found = directory.look_up(mailbox).await?;
        let place = found.value.ok_or(ClientError::NotRegistered { mailbox: *mailbox })?;
        let mut residences = residences(&place);
        for residence in &mut residences {
            let question = Question::Cuts(residence.since.saturating_sub(1));
            let Reply::Cuts(cuts) = endpoint.call(&node, &question, CALL_TIMEOUT).await? else {
                return Err(unasked(&node));
            };
            let cut = cuts.into_iter().find(|cut| cut.certified.header.epoch == residence.since);
            residence.record = cut.and_then(|cut| record(cut, mailbox, &residence.home, federation));
        }
        let is_cut_short = residences.first().is_some_and(|first| first.since > place.registered);
        Ok(History { residences, is_cut_short, as_of: found.as_of })
    }
}

fn residences(place: &MailboxState) -> Vec<Residence> {
    let spans = place.moved.iter().flat_map(|moved| &moved.spans);
    let former =
        spans.map(|span| Residence { home: span.node, since: span.since, until: Some(span.until), record: None });
    let present = Residence { home: place.home, since: place.since, until: None, record: None };
    former.chain([present]).collect()
}

/// The record in a cut that made `home` the home of a mailbox, if both hold.
fn record(cut: Cut, mailbox: &MailboxId, home: &NodeId, federation: &Federation) -> Option<HomeRecord> {
    let cut = Verified::check(cut, federation).ok()?;
    cut.body.records.iter().find_map(|record| {
        let found = match record {
            Record::Register(signed) if signed.owner.body.mailbox == *mailbox && signed.owner.body.home == *home => {
                HomeRecord {
                    digest: signed.owner.digest(federation),
                    is_registration: true,
                    by_device: true,
                    by_recovery: false,
                }
            }
            Record::Move(order) if order.switch.mailbox == *mailbox && order.switch.home == *home => HomeRecord {
                digest: order.digest(federation),
                is_registration: false,
                by_device: order.device.is_some(),
                by_recovery: order.recovery.is_some(),
            },
            _ => return None,
        };
        Verified::check(record.clone(), federation).is_ok().then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Order, key};

    #[test]
    fn the_homes_follow_one_another() {
        let mut order = Order::new();
        let first = order.home();
        let place = order.moves_to(3, 0);
        let homes = residences(&place);
        let told: Vec<_> = homes.iter().map(|it| (it.home, it.since, it.until)).collect();
        assert_eq!(told, [(first.home, first.since, Some(place.since)), (key(3).public(), place.since, None)]);
        assert_eq!(residences(&first).len(), 1);
    }
}
