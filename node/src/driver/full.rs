//! The core thread while the disk is full: what is read goes on, nothing new is taken, and what was handled but could
//! not be written waits, with everything that was to be said after it.
//!
//! The engine is ahead of the disk then, so it sees nothing but questions until the write has gone through: mail is
//! turned away here, what others repeat anyway is dropped beyond a bound, and the rest is handled later, in order.

use std::time::{Duration, Instant};

use postroad_engine::Input;
use postroad_protocol::Refusal;
use postroad_protocol::wire::client::{Answer, ToClient};
use postroad_protocol::wire::mail::Homeward;
use postroad_store::{StoreError, Transaction, Write};
use tokio::runtime::Runtime;

use super::core::{Thread, ToCore};

/// Pauses between two tries: the first, doubled up to the last. A try that fails costs a repair of the file.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// Messages beyond which what others repeat is dropped.
const MAX_BACKLOG: usize = 1_024;
/// Messages beyond which nothing more is looked at until the next try.
const MAX_UNSEEN: usize = 8 * MAX_BACKLOG;

impl Thread {
    /// Makes a group durable, however long the disk stays full.
    ///
    /// # Errors
    /// What cannot be tried again; and a full disk, when the node is asked to stop meanwhile.
    pub(super) fn commit(
        &mut self,
        runtime: &Runtime,
        transaction: Transaction,
        writes: &[Write],
    ) -> Result<(), StoreError> {
        let mut ended = transaction.commit();
        while let Err(error) = &ended
            && error.is_retryable()
        {
            self.wait_for_space(runtime)?;
            ended = self.store.begin().and_then(|mut transaction| {
                writes.iter().for_each(|write| transaction.apply(write));
                transaction.commit()
            });
        }
        if ended.is_ok() && self.full.take().is_some() {
            self.metrics.pulse.full(false);
            tracing::warn!("there is space on the disk again: this node goes on");
            // They were told that it is not ready.
            for origin in self.origins.keys() {
                self.backlog.push_front(ToCore::input(Input::Origin(*origin)));
            }
        }
        ended
    }

    /// Answers what can be answered until it is time for another try.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the node is asked to stop: nothing of the group was said, so that is like a crash.
    pub(super) fn wait_for_space(&mut self, runtime: &Runtime) -> Result<(), StoreError> {
        let pause = match self.full {
            Some(pause) => PAUSES.1.min(pause * 2),
            None => {
                tracing::error!("the disk is full: this node takes nothing new until there is space");
                self.origins.retain(|_, (_, sender)| sender.try_send(Homeward::Ready(false)).is_ok());
                PAUSES.0
            }
        };
        self.full = Some(pause);
        self.metrics.pulse.full(true);
        let until = Instant::now() + pause;
        loop {
            self.metrics.pulse.beat();
            if self.drain_by.is_some_and(|by| Instant::now() >= by) {
                return Err(StoreError::Full);
            }
            if self.backlog.len() >= MAX_UNSEEN {
                runtime.block_on(async { tokio::time::sleep_until(until.into()).await });
                return Ok(());
            }
            match runtime.block_on(async { tokio::time::timeout_at(until.into(), self.from_tasks.recv()).await }) {
                Ok(Some(message)) => self.turn_away(message),
                Ok(None) => return Err(StoreError::Full),
                Err(_) => return Ok(()),
            }
        }
    }

    fn turn_away(&mut self, message: ToCore) {
        match message {
            ToCore::Ask(question) => question(&self.node),
            ToCore::Input(input) => match *input {
                Input::Submit(client, _, bundle) => {
                    let counter = bundle.signed.body.counter;
                    self.node.put_off(client, counter);
                    self.metrics.refused("bundle", &Refusal::Busy);
                    let busy = Box::new(Answer::Refused(Refusal::Busy));
                    if let Some(sender) = self.clients.get(&client)
                        && sender.try_send(ToClient::Answer(counter, busy)).is_err()
                    {
                        self.clients.remove(&client);
                        self.backlog.push_back(ToCore::input(Input::ClientGone(client)));
                    }
                }
                Input::Slice(origin, held) => {
                    // The origin gives it to custodians.
                    let refused = Homeward::Refused(held.key, "the disk is full".into());
                    if let Some((_, sender)) = self.origins.get(&origin)
                        && sender.try_send(refused).is_err()
                    {
                        self.origins.remove(&origin);
                    }
                }
                input if self.backlog.len() >= MAX_BACKLOG && is_repeated(&input) => {}
                input => self.backlog.push_back(ToCore::input(input)),
            },
            // The slice that it is about was refused, or is in the group that waits: one more does no harm.
            ToCore::Durable(sender, message) => {
                if let Some(sender) = sender.upgrade() {
                    let _ = sender.try_send(message);
                }
            }
            ToCore::Register(_, answer) | ToCore::Block(_, answer) | ToCore::Retire(_, answer) => {
                let _ = answer.send(Err(Refusal::Busy));
            }
            ToCore::Move(_, answer) => {
                let _ = answer.send(Err(Refusal::Busy));
            }
            // Without an answer the question ends with "not ready".
            ToCore::Delivery(..) => {}
            ToCore::ClientUp(link, sender) => {
                self.clients.insert(link, sender);
            }
            ToCore::Drain(patience) => self.drain_by = Some(Instant::now() + patience),
            link => self.backlog.push_back(link),
        }
    }
}

/// Whether whoever said this says it again, or fetches what it was about.
fn is_repeated(input: &Input) -> bool {
    matches!(
        input,
        Input::Cut(_)
            | Input::Sealed(..)
            | Input::Fill(..)
            | Input::Record(..)
            | Input::Receipts(..)
            | Input::Acknowledge(_)
            | Input::Resume(..)
            | Input::NotTaken(..)
            | Input::Missing(..)
    )
}
