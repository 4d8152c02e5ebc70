//! Moving a mailbox, for its owner: plan, start, follow, abort, and the check at the end.
//!
//! The signed switch is durable in the mailbox's directory before it is sent, and stays until the move is over, so a
//! [`Mover`] takes up what an earlier process began, with the same bytes. How far a move has come is the new home's own
//! word; that it happened, or that another switch came first, is proven by a certified cut, and that the log went on
//! unbroken by [`Mover::check`].

mod check;
mod order;
mod policy;
mod unfinished;

use std::time::Duration;

use postroad_protocol::moving::{Move, MovePhase, MoveRequest, MoveStatus, OwedBy, Switch};
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Inventory, Question, Reply};
use postroad_protocol::{Digest, NodeId, Refusal, SecretKey};
use tokio::time::{Instant, sleep};

use crate::connection::{CALL_TIMEOUT, Endpoint, NodeAddr, backoff, unasked};
use crate::directory::{Directory, Home, Newest};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::nodes::Nodes;

pub use check::Checked;
use order::Order;
pub(crate) use order::target;
pub(crate) use policy::FILE as POLICY;
pub use policy::{BadMovePolicy, MovePolicy};
use unfinished::is_finished;

/// How long the old home may be silent before the move goes on without it.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long one question may take.
const ASKED: Duration = Duration::from_secs(5);
/// How long a node may take to have an abandonment settled.
const SETTLING: Duration = Duration::from_secs(10);

/// How a mailbox is moved.
#[derive(Clone, Debug)]
pub struct MoveOptions {
    /// Do not ask the old home for anything.
    pub without_old_home: bool,
    /// How long the old home may be silent before the move goes on without it.
    pub patience: Duration,
    /// The recovery key: with its signature the move is immediate.
    pub recovery: Option<SecretKey>,
}

impl Default for MoveOptions {
    fn default() -> MoveOptions {
        MoveOptions { without_old_home: false, patience: PATIENCE, recovery: None }
    }
}

/// What a move would mean, before anything is signed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The home.
    pub from: NodeId,
    /// The new home.
    pub to: NodeId,
    /// What the home says it holds; none if it does not answer.
    pub inventory: Option<Inventory>,
    /// Whether the new home would take the mailbox, or why not.
    pub answer: Result<(), Refusal>,
    /// How long the switch waits before it takes effect, in milliseconds of cut time.
    pub delay_ms: u64,
    /// What could be lost, or has to be known, in words.
    pub remarks: Vec<String>,
}

/// How far a move has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// The phase: the new home's word, but never behind what a certified cut proves.
    pub phase: MovePhase,
    /// The home before.
    pub from: NodeId,
    /// The new home.
    pub to: NodeId,
    /// The epoch that settled the switch, as a certified cut proves.
    pub epoch: Option<u64>,
    /// The epoch that settled the first import, likewise.
    pub imported: Option<u64>,
    /// What the new home says besides, if it answered.
    pub status: Option<MoveStatus>,
    /// Where the mailbox lives, if another switch came first.
    pub overtaken: Option<NodeId>,
}

impl Following {
    /// Who still has to hand out what, as the new home says.
    pub fn owed(&self) -> &[OwedBy] {
        self.status.as_ref().map_or(&[], |status| &status.owed)
    }

    /// Whether the new home has taken over: what follows is the check.
    pub fn has_moved(&self) -> bool {
        self.imported.is_some()
    }
}

/// What became of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// No move was under way.
    Nothing,
    /// A cut has settled that the mailbox stays.
    Stays,
    /// Another switch came first, and the mailbox lives there.
    Overtaken(NodeId),
}

/// Moves one mailbox.
///
/// ```no_run
/// use postroad_client::moving::{MoveOptions, Mover};
/// use postroad_client::{Mailbox, NodeAddr};
///
/// # async fn example(mailbox: Mailbox, to: NodeAddr) -> Result<(), postroad_client::ClientError> {
/// let mut mover = Mover::new(&mailbox)?;
/// let plan = mover.plan(&to, &MoveOptions::default()).await?;
/// plan.answer?;
/// mover.start(&to, MoveOptions::default()).await?;
/// let moved = mover.follow(|progress| println!("{}", progress.phase.code())).await?;
/// assert!(moved.overtaken.is_none());
/// let checked = mover.check(std::time::Duration::from_secs(30)).await?;
/// println!("the log went on: {} entries", checked.size);
/// mover.finish()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Mover {
    mailbox: Mailbox,
    endpoint: Endpoint,
    newest: Newest,
    nodes: Nodes,
}

impl Mover {
    /// For a mailbox of this device.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the transports cannot be set up.
    pub fn new(mailbox: &Mailbox) -> Result<Mover, ClientError> {
        let endpoint = Endpoint::with_key(mailbox.secret())?;
        let nodes = Nodes::of(mailbox, endpoint.clone())?;
        Ok(Mover { mailbox: mailbox.clone(), endpoint, newest: Newest::default(), nodes })
    }

    /// The mailbox, whose home is the new one once that is proven.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The node that a move under way goes to; none if there is none.
    ///
    /// # Errors
    /// [`ClientError::Directory`] when the file is damaged.
    pub fn under_way(&self) -> Result<Option<NodeId>, ClientError> {
        Ok(Order::load(self.mailbox.dir())?.map(|order| order.target()))
    }

    /// What a move to `to` would mean. Nothing is signed.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody proves where the mailbox lives, or the new home does not answer.
    pub async fn plan(&mut self, to: &NodeAddr, options: &MoveOptions) -> Result<Plan, ClientError> {
        self.nodes.learn_from(to).await?;
        let place = self.place(&[]).await?;
        let me = self.mailbox.address();
        let mut inventory = None;
        if !options.without_old_home {
            let home = self.nodes.address(place.home).await;
            if let Ok(home) = home
                && let Ok(Reply::Inventory(found)) =
                    self.endpoint.call(&home, &Question::Inventory(me), options.patience.min(ASKED)).await
            {
                inventory = Some(found);
            }
        }
        let extent = inventory.map(|found| found.open).unwrap_or_default();
        let answer = match self.endpoint.call(to, &Question::MayMove(me, extent, 0), CALL_TIMEOUT).await {
            Ok(Reply::Taken) => Ok(()),
            Ok(_) => return Err(unasked(to)),
            Err(ClientError::Refused(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        };
        let params = self.mailbox.federation().params();
        let recovers = options.recovery.as_ref().map(SecretKey::public);
        let is_delayed = place.recovery_key.is_some() && place.recovery_key != recovers;
        let delay_ms = if is_delayed { params.move_delay_ms } else { 0 };
        let has_base = self.mailbox.owner_base().map(|base| base.is_some()).unwrap_or(false);
        let mut remarks = remarks(inventory.as_ref(), has_base, delay_ms, params.retention_ms);
        let waits = !options.without_old_home && options.recovery.is_none();
        if waits && !is_finished(&place, params.routing_window_epochs) {
            remarks.push(format!(
                "the move before is not finished: this one waits until it is, which takes {} epochs, or until the present \
                 home is silent",
                params.routing_window_epochs
            ));
        }
        Ok(Plan { from: place.home, to: to.node(), inventory, answer, delay_ms, remarks })
    }

    /// Signs the switch, makes it durable and hands it to the new home. Before that it waits until the move before is
    /// finished, if it gets on: what the present home attests until then is no log that the next could continue. Where a
    /// move to the same node is under way, that one is taken up; where the mailbox lives there already, nothing happens.
    ///
    /// # Errors
    /// [`ClientError::MoveUnderWay`] when a move to another node is; [`ClientError::Refused`] with the new home's no.
    pub async fn start(&mut self, to: &NodeAddr, options: MoveOptions) -> Result<(), ClientError> {
        self.nodes.learn_from(to).await?;
        if let Some(mut order) = Order::load(self.mailbox.dir())? {
            let target = order.target();
            if target != to.node() {
                return Err(ClientError::MoveUnderWay { target });
            }
            order.to = to.to_string();
            order.patience_ms = patience_ms(&options);
            if let Some(recovery) = &options.recovery {
                order.signed = order.signed.by_recovery(recovery, self.mailbox.federation());
            }
            order.save(self.mailbox.dir())?;
            return self.send(&order).await;
        }
        let place = self.place(std::slice::from_ref(to)).await?;
        if place.home == to.node() {
            return self.mailbox.lives_at(to.clone());
        }
        let place = self.until_finished(&options).await?;
        let switch = Switch {
            mailbox: self.mailbox.address(),
            replaces: place.record,
            home: to.node(),
            recovery_key: place.recovery_key,
        };
        let signed = self.sign(switch, options.recovery.as_ref());
        let patience_ms = patience_ms(&options);
        let mut order = Order { signed, to: to.to_string(), from: place.home, patience_ms, base: None };
        // From here on a running receiver keeps what the new home may continue; only then that is looked at.
        order.save(self.mailbox.dir())?;
        order.base = match self.mailbox.owner_base() {
            Ok(base) => base,
            Err(error) => {
                tracing::debug!(%error, "the old home alone can hand the log over");
                None
            }
        };
        order.save(self.mailbox.dir())?;
        self.send(&order).await
    }

    fn sign(&self, switch: Switch, recovery: Option<&SecretKey>) -> Move {
        let federation = self.mailbox.federation();
        let signed = Move::new(switch).by_device(self.mailbox.secret(), federation);
        match recovery {
            Some(recovery) => signed.by_recovery(recovery, federation),
            None => signed,
        }
    }

    /// Hands the order to the new home, which answers the same order as it did before.
    async fn send(&self, order: &Order) -> Result<(), ClientError> {
        let request = MoveRequest {
            order: order.signed.clone(),
            patience_ms: order.patience_ms,
            base: order.base.clone().map(Box::new),
        };
        let to: NodeAddr = order.to.parse()?;
        match self.endpoint.call(&to, &Question::Move(Box::new(request)), CALL_TIMEOUT).await? {
            Reply::Moving(_) => self.mailbox.bring_blocked(&self.endpoint, &to).await,
            _ => Err(unasked(&to)),
        }
    }

    /// How far the move has come; none if none is under way.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody proves where the mailbox lives.
    pub async fn status(&mut self) -> Result<Option<Following>, ClientError> {
        let Some(order) = Order::load(self.mailbox.dir())? else { return Ok(None) };
        let to: NodeAddr = order.to.parse()?;
        let asked = Question::MoveStatus(self.mailbox.address());
        let status = match self.endpoint.call(&to, &asked, ASKED).await {
            Ok(Reply::Moving(status)) => Some(*status),
            Ok(_) => return Err(unasked(&to)),
            // It has forgotten, perhaps with its disk; before the switch the same order can be given again.
            Err(ClientError::Refused(Refusal::NotFound { .. })) => match self.send(&order).await {
                Err(error) if !error.is_transient() => return Err(error),
                _ => None,
            },
            Err(error) if error.is_transient() => None,
            Err(error) => return Err(error),
        };
        let digest = order.signed.digest(self.mailbox.federation());
        let status = status.filter(|status| status.record == digest);
        let place = self.place_at(&to).await?;
        Ok(Some(self.judge(&order, digest, to, status, &place)?))
    }

    /// What a certified cut and the new home's word amount to.
    fn judge(
        &mut self,
        order: &Order,
        digest: Digest,
        to: NodeAddr,
        status: Option<MoveStatus>,
        place: &MailboxState,
    ) -> Result<Following, ClientError> {
        let mut following = Following {
            phase: status.as_ref().map_or(MovePhase::Preparing, |status| status.phase),
            from: order.from,
            to: order.target(),
            epoch: None,
            imported: None,
            status,
            overtaken: None,
        };
        if place.record == digest {
            let window = self.mailbox.federation().params().routing_window_epochs;
            let moved = place.moved.as_ref();
            following.epoch = Some(place.since);
            following.imported = moved.and_then(|moved| moved.import.as_ref()).map(|import| import.first);
            following.phase = match moved {
                Some(moved) if moved.is_finished(window) => MovePhase::Finished,
                Some(moved) if moved.import.is_some() => MovePhase::Following,
                _ => MovePhase::Importing,
            };
            self.mailbox.lives_at(to)?;
        } else if place.record != order.signed.switch.replaces {
            following.phase = MovePhase::Abandoned;
            following.overtaken = Some(place.home);
        } else if matches!(following.phase, MovePhase::Importing | MovePhase::Following | MovePhase::Finished) {
            // It is ahead of the cut that the proof is of.
            following.phase = MovePhase::Switching;
        }
        Ok(following)
    }

    /// Follows the move, about five times a second, until the new home has taken over or another switch came first.
    /// Survives whatever breaks on the way.
    ///
    /// # Errors
    /// [`ClientError::NoMove`] when none is under way; [`ClientError::Refused`] with the new home's no.
    pub async fn follow(&mut self, mut progress: impl FnMut(&Following)) -> Result<Following, ClientError> {
        let mut delays = backoff();
        loop {
            match self.status().await {
                Ok(None) => return Err(ClientError::NoMove),
                Ok(Some(following)) => {
                    progress(&following);
                    if following.overtaken.is_some() {
                        Order::forget(self.mailbox.dir())?;
                        return Ok(following);
                    }
                    if following.has_moved() {
                        return Ok(following);
                    }
                    delays.succeeded();
                    sleep(Duration::from_millis(200)).await;
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "asking again how far the move has come");
                    sleep(delays.failed()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The move is over and checked: what was kept for it may go.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn finish(&self) -> Result<(), ClientError> {
        Order::forget(self.mailbox.dir())
    }

    /// Calls the move off: signs that the mailbox stays, which makes the order void once a cut has settled it.
    ///
    /// # Errors
    /// [`ClientError::HasMoved`] when the switch came first; [`ClientError::TimedOut`] when nothing was settled `within`
    /// that time, and the order may still come into force.
    pub async fn abort(&mut self, recovery: Option<&SecretKey>, within: Duration) -> Result<Aborted, ClientError> {
        let Some(order) = Order::load(self.mailbox.dir())? else { return Ok(Aborted::Nothing) };
        let federation = self.mailbox.federation().clone();
        let switch = Switch { home: order.from, ..order.signed.switch.clone() };
        let stays = self.sign(switch, recovery);
        let (ours, abandoned) = (order.signed.digest(&federation), stays.digest(&federation));
        let deadline = Instant::now() + within;
        let mut delays = backoff();
        loop {
            let place = self.place(&[]).await?;
            if place.record == ours {
                return Err(ClientError::HasMoved { home: place.home, from: order.from });
            }
            if place.record != order.signed.switch.replaces {
                Order::forget(self.mailbox.dir())?;
                let is_ours = place.record == abandoned;
                return Ok(if is_ours { Aborted::Stays } else { Aborted::Overtaken(place.home) });
            }
            let request = MoveRequest { order: stays.clone(), patience_ms: 0, base: None };
            let question = Question::Move(Box::new(request));
            let mut last = Ok(());
            // Any node can hand it in.
            for node in self.nodes.all() {
                match self.endpoint.call(&node, &question, SETTLING).await {
                    Ok(_) => break,
                    Err(error) => last = Err(error),
                }
            }
            let delay = delays.failed();
            if Instant::now() + delay >= deadline {
                last?;
                return Err(ClientError::TimedOut { what: "the cut that settles that the mailbox stays".into() });
            }
            sleep(delay).await;
        }
    }

    /// Where the mailbox lives, as one node proves, or another if that one does not answer.
    async fn place_at(&mut self, node: &NodeAddr) -> Result<MailboxState, ClientError> {
        let federation = self.mailbox.federation().clone();
        let mut directory = Directory::sharing(self.endpoint.clone(), node.clone(), federation, self.newest.clone());
        match directory.look_up(&self.mailbox.address()).await {
            Ok(Home { value: Some(place), .. }) => Ok(place),
            _ => self.place(&[]).await,
        }
    }

    /// Where the mailbox lives, proven, asking these nodes as well.
    async fn place(&mut self, also: &[NodeAddr]) -> Result<MailboxState, ClientError> {
        for node in also {
            self.nodes.note(node.clone());
        }
        let mailbox = self.mailbox.address();
        let found = self.nodes.home(&mailbox, None, &self.newest).await?;
        found.value.ok_or(ClientError::NotRegistered { mailbox })
    }
}

fn patience_ms(options: &MoveOptions) -> u64 {
    let patience = if options.without_old_home { Duration::ZERO } else { options.patience };
    u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)
}

/// What an owner should know before it moves.
fn remarks(inventory: Option<&Inventory>, has_base: bool, delay_ms: u64, retention_ms: u64) -> Vec<String> {
    let mut remarks = Vec::new();
    let days = retention_ms / 86_400_000;
    match inventory {
        Some(_) => remarks.push(
            "nothing is lost while both homes answer; what the old home does not hand over is fetched from those who hold it"
                .to_owned(),
        ),
        None if has_base => remarks.push(format!(
            "the old home does not answer: what it held since this mailbox last acknowledged is fetched from those who \
             hold it and those who sealed it, as far as it is not older than {days} days; what none of them has is named"
        )),
        None => remarks.push(format!(
            "the old home does not answer, and nothing was read here that it had attested: the log is rebuilt from those \
             who hold the mail and those who sealed it, as far as it is not older than {days} days"
        )),
    }
    if delay_ms > 0 {
        let hours = delay_ms.div_ceil(3_600_000);
        remarks.push(format!(
            "the mailbox has a recovery key, which does not sign: the move waits {hours} hours, in which that key can stop it"
        ));
    }
    remarks
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
