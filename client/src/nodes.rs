//! The federation's other nodes, as far as a mailbox knows them: who is asked where the mailbox lives when its home does
//! not answer, and where a node listens that is known by its key only.
//!
//! What is learnt is kept in the file `nodes` of the mailbox's directory, one multiaddress a line. Nobody has signed it:
//! an address that is wrong answers nothing, and what a node says of a mailbox's home carries its proof.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use postroad_protocol::genesis::Member;
use postroad_protocol::state::MailboxState;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{MailboxId, NodeId, PublicKey};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Endpoint, NodeAddr, unasked};
use crate::directory::{Home, Newest, verify_home};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::private_file::{read_if_there, write_durably};

const FILE: &str = "nodes";
/// How many nodes are remembered, and how many addresses of each.
const MAX_KNOWN: usize = 16;
const MAX_ADDRS: usize = 2;
/// How long one node may take to say where a mailbox lives.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long others are waited for once one has.
const GRACE: Duration = Duration::from_millis(300);

/// The nodes that a mailbox knows.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    mailbox: Mailbox,
    endpoint: Endpoint,
    known: BTreeMap<NodeId, Vec<NodeAddr>>,
}

impl Nodes {
    /// The committee, the home, and those that were learnt before.
    pub(crate) fn of(mailbox: &Mailbox, endpoint: Endpoint) -> Result<Nodes, ClientError> {
        let mut nodes = Nodes { mailbox: mailbox.clone(), endpoint, known: BTreeMap::new() };
        nodes.learn_one(mailbox.home().clone());
        for Member { node, addrs } in &mailbox.federation().genesis().committee {
            nodes.learn(*node, addrs);
        }
        let remembered = read_if_there(&nodes.path())?.unwrap_or_default();
        // A line that is no address was damaged: the node will be learnt again.
        for addr in remembered.lines().filter_map(|line| line.parse().ok()) {
            nodes.learn_one(addr);
        }
        Ok(nodes)
    }

    fn path(&self) -> PathBuf {
        self.mailbox.dir().join(FILE)
    }

    fn learn_one(&mut self, addr: NodeAddr) -> bool {
        if !self.known.contains_key(&addr.node()) && self.known.len() >= MAX_KNOWN {
            return false;
        }
        let known = self.known.entry(addr.node()).or_default();
        let is_new = known.len() < MAX_ADDRS && !known.contains(&addr);
        if is_new {
            known.push(addr);
        }
        is_new
    }

    fn learn(&mut self, node: NodeId, addrs: &[String]) -> bool {
        let mut is_new = false;
        for addr in addresses(node, addrs) {
            is_new |= self.learn_one(addr);
        }
        is_new
    }

    /// A node that is known otherwise.
    pub(crate) fn note(&mut self, addr: NodeAddr) {
        if !self.known.contains_key(&addr.node()) {
            self.make_room();
        }
        self.learn_one(addr);
    }

    /// Asks one node for others, and remembers them.
    ///
    /// # Errors
    /// Those of [`Endpoint::call`], and [`ClientError::Io`].
    pub(crate) async fn learn_from(&mut self, node: &NodeAddr) -> Result<(), ClientError> {
        let mut is_new = self.learn_one(node.clone());
        for Member { node, addrs } in ask(&self.endpoint, node, PublicKey([0; 32])).await? {
            is_new |= self.learn(node, &addrs);
        }
        if is_new { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), ClientError> {
        let lines: Vec<String> = self.known.values().flatten().map(|addr| format!("{addr}\n")).collect();
        write_durably(&self.path(), lines.concat().as_bytes())
    }

    /// All addresses, the home's first.
    pub(crate) fn all(&self) -> Vec<NodeAddr> {
        let home = self.mailbox.home().node();
        let (first, others): (Vec<_>, Vec<_>) =
            self.known.values().flatten().cloned().partition(|it| it.node() == home);
        first.into_iter().chain(others).collect()
    }

    /// Where a node listens: as remembered, or as some node says now.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody knows.
    pub(crate) async fn address(&mut self, node: NodeId) -> Result<NodeAddr, ClientError> {
        let mut asked = self.ask_each(&Question::Nodes(node));
        // What the directory says now is newer than what is remembered.
        while let Some(told) = asked.join_next().await {
            let Ok(Some((_, Reply::Nodes(members)))) = told else { continue };
            if let Some(member) = members.into_iter().find(|member| member.node == node) {
                let before = self.known.remove(&node);
                self.make_room();
                if self.learn(node, &member.addrs) {
                    self.save()?;
                    break;
                }
                self.known.extend(before.map(|before| (node, before)));
            }
        }
        let reason = || "no node that this mailbox knows says where it listens".into();
        let known = self.known.get(&node).and_then(|known| known.first()).cloned();
        known.ok_or_else(|| ClientError::Unreachable { node: node.to_string(), reason: reason() })
    }

    /// Asks every node, each under the first of its addresses that answers.
    fn ask_each(&self, question: &Question) -> JoinSet<Option<(NodeAddr, Reply)>> {
        let mut asked = JoinSet::new();
        for addrs in self.known.values().cloned() {
            let (endpoint, question) = (self.endpoint.clone(), question.clone());
            asked.spawn(async move {
                for addr in addrs {
                    match endpoint.call(&addr, &question, PATIENCE / MAX_ADDRS as u32).await {
                        Ok(reply) => return Some((addr, reply)),
                        Err(error) => tracing::debug!(%addr, %error, "does not answer"),
                    }
                }
                None
            });
        }
        asked
    }

    fn make_room(&mut self) {
        let home = self.mailbox.home().node();
        while self.known.len() >= MAX_KNOWN
            && let Some(other) = self.known.keys().find(|node| **node != home).copied()
        {
            self.known.remove(&other);
        }
    }

    /// Where a mailbox lives, as the newest proof says that any of the nodes shows. A node that does not answer costs
    /// nothing where another one shows that it moved after epoch `since`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none of them answers with a proof.
    pub(crate) async fn home(
        &self,
        mailbox: &MailboxId,
        since: Option<u64>,
        newest: &Newest,
    ) -> Result<Home, ClientError> {
        let mut asked = self.ask_each(&Question::Home(*mailbox, None));
        let mut best: Option<Home> = None;
        let mut until = Instant::now() + PATIENCE;
        while let Ok(Some(found)) = timeout_at(until, asked.join_next()).await {
            let Ok(Some((addr, Reply::Home(proof)))) = found else { continue };
            let verified = verify_home(*proof, mailbox, &addr, self.mailbox.federation(), newest);
            let Ok(found) = verified else { continue };
            let is_later = |value: &MailboxState| since.is_some_and(|since| value.since > since);
            if found.value.as_ref().is_some_and(is_later) {
                return Ok(found);
            }
            // Those who are there have answered soon after the first one.
            until = until.min(Instant::now() + GRACE);
            if best.as_ref().is_none_or(|best| best.as_of < found.as_of) {
                best = Some(found);
            }
        }
        let reason = "no node that this mailbox knows answers";
        best.ok_or_else(|| ClientError::Unreachable { node: "the federation".into(), reason: reason.into() })
    }
}

/// What of this is to be dialled: by TCP where that is offered, as nodes do among themselves. A dead TCP port answers at
/// once, and a connection to a node that was killed ends at once; QUIC learns of both late.
pub(crate) fn addresses(node: NodeId, addrs: &[String]) -> Vec<NodeAddr> {
    let is_tcp = |addr: &&String| addr.contains("/tcp/");
    let any_tcp = addrs.iter().any(|addr| is_tcp(&addr));
    let addrs = addrs.iter().filter(|addr| !any_tcp || is_tcp(addr));
    addrs.filter_map(|addr| NodeAddr::new(node, addr).ok()).collect()
}

async fn ask(endpoint: &Endpoint, of: &NodeAddr, from: NodeId) -> Result<Vec<Member>, ClientError> {
    match endpoint.call(of, &Question::Nodes(from), PATIENCE).await? {
        Reply::Nodes(members) => Ok(members),
        _ => Err(unasked(of)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fixture::{self, key};

    fn addr(seed: u8) -> NodeAddr {
        NodeAddr::new(key(seed).public(), "/ip4/127.0.0.1/tcp/9").unwrap()
    }

    fn nodes(dir: &Path) -> Nodes {
        let mailbox = Mailbox::create(dir, &addr(1), &fixture::federation()).unwrap();
        Nodes::of(&mailbox, Endpoint::anonymous().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_was_learnt_is_remembered_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = nodes(dir.path());
        let addrs = |seed: u8| vec![format!("/ip4/127.0.0.1/udp/{seed}/quic-v1"), format!("/ip4/127.0.0.1/tcp/{seed}")];
        for seed in 2..60 {
            known.learn(key(seed).public(), &addrs(seed));
        }
        known.save().unwrap();
        let again = nodes(dir.path());
        assert_eq!(again.known.len(), MAX_KNOWN);
        assert_eq!(again.known.keys().collect::<Vec<_>>(), known.known.keys().collect::<Vec<_>>());
        assert_eq!(again.all()[0], addr(1), "the home is asked first");
        let of_two = &again.known[&key(2).public()];
        assert!(of_two.len() == 1 && of_two[0].to_string().contains("/tcp/"), "{of_two:?}");
    }

    #[tokio::test]
    async fn a_damaged_line_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        drop(nodes(dir.path()));
        std::fs::write(dir.path().join(FILE), format!("nonsense\n{}\n", addr(9))).unwrap();
        assert!(nodes(dir.path()).known.contains_key(&key(9).public()));
    }
}
