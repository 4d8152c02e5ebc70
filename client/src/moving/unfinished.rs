//! A move that is not finished when the next one is to begin.
//!
//! While more may come for a former home, what the present home attests is no log that a next one could continue: that
//! one would go back to an older log, and fetch everything since. So the next move waits, as long as the present home
//! gets on. It may come to nothing for lack of time, so this is no rule of the federation: who will not wait, moves
//! without the old home.

use std::time::Duration;

use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Question, Reply};
use tokio::time::{Instant, sleep};

use super::{ASKED, MoveOptions, Mover};
use crate::error::ClientError;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// Whether everything that was routed to former homes is known to have come.
pub(super) fn is_finished(place: &MailboxState, routing_window_epochs: u64) -> bool {
    place.moved.as_ref().is_none_or(|moved| moved.is_finished(routing_window_epochs))
}

impl Mover {
    /// Waits until the move that led to the present home is finished, and that home has attested what came of it,
    /// finally. Not where mail is missing, since nobody may have it; and where the home does not answer, or has not got
    /// there in the end, for the old home's patience. Returns where the mailbox lives.
    pub(super) async fn until_finished(&mut self, options: &MoveOptions) -> Result<MailboxState, ClientError> {
        let window = self.mailbox.federation().params().routing_window_epochs;
        let mut answered = Instant::now();
        let mut late = None;
        loop {
            let place = self.place(&[]).await?;
            let import = place.moved.as_ref().and_then(|moved| moved.import.as_ref());
            let is_missing = import.is_some_and(|import| !import.missing.is_empty());
            if place.moved.is_none() || is_missing || options.without_old_home || options.recovery.is_some() {
                return Ok(place);
            }
            let attested = self.attested(&place).await;
            if attested.is_some() {
                answered = Instant::now();
            }
            let is_attested = import.is_some_and(|import| attested.is_some_and(|epoch| epoch >= import.epoch));
            if is_attested && is_finished(&place, window) {
                return Ok(place);
            }
            // From then on nothing can come.
            if self.newest.get().epoch > place.since + window {
                late.get_or_insert_with(Instant::now);
            }
            if answered.elapsed() >= options.patience || late.is_some_and(|late| late.elapsed() >= options.patience) {
                tracing::info!("the move before is not finished; this one begins all the same");
                return Ok(place);
            }
            sleep(PAUSE).await;
        }
    }

    /// The last epoch that the present home has attested finally, as it says itself; none if it does not answer.
    async fn attested(&mut self, place: &MailboxState) -> Option<u64> {
        let home = self.nodes.address(place.home).await.ok()?;
        match self.endpoint.call(&home, &Question::Anchored(place.home, None), ASKED).await {
            Ok(Reply::Anchored(anchor)) => {
                let named = anchor.and_then(|anchor| anchor.header.header.body.attestation);
                Some(named.map_or(0, |attestation| attestation.epoch))
            }
            _ => None,
        }
    }
}
