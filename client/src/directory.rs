//! Where mailboxes live: look-ups whose proofs are checked under a certified cut, and the newest cut seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use postroad_protocol::cut::CutHeader;
use postroad_protocol::state::{HomeProof, MailboxState};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{Federation, MailboxId};
use tokio::sync::watch;

use crate::connection::{CALL_TIMEOUT, Endpoint, NodeAddr, unasked};
use crate::error::ClientError;
use crate::seal::Seen;

/// How many homes a directory remembers; the oldest look-up is forgotten first.
const MAX_REMEMBERED: usize = 65_536;

/// A mailbox's place in the directory, proven as of one cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// What the directory says; none if the mailbox is not registered.
    pub value: Option<MailboxState>,
    /// The epoch whose cut proves it.
    pub as_of: u64,
}

/// The newest certified cut that this process has seen. Clones share it.
#[derive(Clone, Debug)]
pub struct Newest(Arc<watch::Sender<Seen>>);

impl Default for Newest {
    fn default() -> Newest {
        Newest(Arc::new(watch::Sender::new(Seen::default())))
    }
}

impl Newest {
    /// Epoch and hash.
    pub fn get(&self) -> Seen {
        *self.0.borrow()
    }

    /// Takes note of a cut that is certified.
    pub fn note(&self, cut: &CutHeader, federation: &Federation) {
        self.0.send_if_modified(|seen| {
            let newer = cut.epoch > seen.epoch;
            if newer {
                *seen = Seen { epoch: cut.epoch, cut: cut.digest(federation) };
            }
            newer
        });
    }
}

/// Looks mailboxes up at one node, and believes nothing but proofs.
///
/// ```no_run
/// use postroad_client::{Directory, Endpoint, NodeAddr};
///
/// # async fn example(node: NodeAddr, address: postroad_protocol::MailboxId) -> Result<(), postroad_client::ClientError> {
/// let endpoint = Endpoint::anonymous()?;
/// let federation = endpoint.genesis(&node).await?;
/// let mut directory = Directory::new(endpoint, node, federation);
/// if let Some(state) = directory.look_up(&address).await?.value {
///     println!("lives at {} since epoch {}", state.home, state.since);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Directory {
    endpoint: Endpoint,
    node: NodeAddr,
    federation: Federation,
    newest: Newest,
    known: BTreeMap<MailboxId, (u64, MailboxState)>,
    asked: u64,
}

impl Directory {
    /// A directory that asks `node`.
    pub fn new(endpoint: Endpoint, node: NodeAddr, federation: Federation) -> Directory {
        Directory::sharing(endpoint, node, federation, Newest::default())
    }

    /// As [`Directory::new`], sharing the newest cut with others of this process.
    pub(crate) fn sharing(endpoint: Endpoint, node: NodeAddr, federation: Federation, newest: Newest) -> Directory {
        Directory { endpoint, node, federation, newest, known: BTreeMap::new(), asked: 0 }
    }

    /// Asks for a mailbox's home and checks the proof.
    ///
    /// # Errors
    /// [`ClientError::Unverified`] when the proof does not hold or is older than a routing window allows; those of
    /// [`Endpoint::call`].
    pub async fn look_up(&mut self, mailbox: &MailboxId) -> Result<Home, ClientError> {
        let reply = self.endpoint.call(&self.node, &Question::Home(*mailbox, None), CALL_TIMEOUT).await?;
        let Reply::Home(proof) = reply else {
            return Err(unasked(&self.node));
        };
        let found = verify_home(*proof, mailbox, &self.node, &self.federation, &self.newest)?;
        if let Some(value) = &found.value {
            self.remember(*mailbox, value.clone());
        }
        Ok(found)
    }

    /// A mailbox's place, remembered or looked up; none if it is not registered.
    ///
    /// # Errors
    /// Those of [`Directory::look_up`].
    pub async fn find(&mut self, mailbox: &MailboxId) -> Result<Option<MailboxState>, ClientError> {
        match self.known.get(mailbox) {
            Some((_, known)) => Ok(Some(known.clone())),
            None => Ok(self.look_up(mailbox).await?.value),
        }
    }

    fn remember(&mut self, mailbox: MailboxId, value: MailboxState) {
        if self.known.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.known.iter().min_by_key(|(_, (asked, _))| *asked).map(|(mailbox, _)| *mailbox)
        {
            self.known.remove(&oldest);
        }
        self.asked += 1;
        self.known.insert(mailbox, (self.asked, value));
    }
}

/// What a node's proof says of a mailbox, if it holds and is not long past.
pub(crate) fn verify_home(
    proof: HomeProof,
    mailbox: &MailboxId,
    node: &NodeAddr,
    federation: &Federation,
    newest: &Newest,
) -> Result<Home, ClientError> {
    let cut = (proof.verify(mailbox, federation))
        .map_err(|source| ClientError::Unverified { what: "the home's proof", source })?;
    let window = federation.params().routing_window_epochs;
    if cut.epoch + window < newest.get().epoch {
        let reason = format!("it answers as of epoch {}, long past", cut.epoch);
        return Err(ClientError::Misbehaving { node: node.to_string(), reason });
    }
    newest.note(cut, federation);
    Ok(Home { as_of: cut.epoch, value: proof.value })
}
