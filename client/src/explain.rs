//! What became of a message, put together from what several nodes have of it.
//!
//! An [`Explainer`] asks the nodes that it was told of, and then those that they name: where the mailbox lives, who
//! sealed the batch, who held the slice. It believes nothing that does not verify, so it needs no favour from a suspect:
//! whoever followed the cuts has most of it, and what the asker knows by itself goes in first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postroad_protocol::attestation::{Attestation, LogLeaf, MailboxAttestation};
use postroad_protocol::evidence::{Broken, Claim, Evidence, Refuted, SplitView};
use postroad_protocol::explanation::{Conclusion, Explanation, Found, LogWord};
use postroad_protocol::genesis::Member;
use postroad_protocol::record::Record;
use postroad_protocol::refused::SettledFill;
use postroad_protocol::state::{HomeProof, Imported};
use postroad_protocol::wire::call::{Judged, Question, Reply};
use postroad_protocol::{Federation, MailboxId, NodeId, Seq, Signed};
use tokio::task::JoinSet;

use crate::accuse;
use crate::connection::{Endpoint, NodeAddr};
use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;

/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many nodes are asked about one message.
const MAX_ASKED: usize = 24;
/// How many nodes are told of a fault.
const MAX_TOLD: usize = 4;
/// Addresses of one node that are tried.
const MAX_ADDRS: usize = 2;

/// Asks nodes about messages.
///
/// ```no_run
/// use postroad_client::{Endpoint, Explainer, NodeAddr};
/// use postroad_protocol::explanation::Explanation;
///
/// # async fn example(
/// #     node: NodeAddr, mailbox: postroad_protocol::MailboxId, seq: postroad_protocol::Seq,
/// # ) -> Result<(), postroad_client::ClientError> {
/// let endpoint = Endpoint::anonymous()?;
/// let federation = endpoint.genesis(&node).await?;
/// let mut explainer = Explainer::new(endpoint, federation.clone(), [node]);
/// let explanation = explainer.explain(Explanation::new(mailbox, seq)).await;
/// println!("{}", explanation.conclusion(&federation));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Explainer {
    endpoint: Endpoint,
    federation: Federation,
    /// Where nodes listen, as far as they are known: nobody's word, but an address that is wrong answers nothing.
    known: BTreeMap<NodeId, Vec<NodeAddr>>,
}

impl Explainer {
    /// One that begins with these nodes, and the committee's. Who asks with a mailbox's key is shown what concerns that
    /// mailbox.
    pub fn new(endpoint: Endpoint, federation: Federation, nodes: impl IntoIterator<Item = NodeAddr>) -> Explainer {
        let mut explainer = Explainer { endpoint, known: BTreeMap::new(), federation };
        nodes.into_iter().for_each(|node| explainer.learn_one(node));
        let committee = explainer.federation.genesis().committee.clone();
        explainer.learn(&committee);
        explainer
    }

    /// One that asks as `mailbox`, beginning with these nodes and the mailbox's home.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the transports cannot be set up.
    pub fn of(mailbox: &Mailbox, nodes: impl IntoIterator<Item = NodeAddr>) -> Result<Explainer, ClientError> {
        let endpoint = Endpoint::with_key(mailbox.secret())?;
        let nodes = nodes.into_iter().chain([mailbox.home().clone()]);
        Ok(Explainer::new(endpoint, mailbox.federation().clone(), nodes))
    }

    fn learn_one(&mut self, addr: NodeAddr) {
        let known = self.known.entry(addr.node()).or_default();
        if known.len() < MAX_ADDRS && !known.contains(&addr) {
            known.push(addr);
        }
    }

    fn learn(&mut self, members: &[Member]) {
        for Member { node, addrs } in members {
            let mut addrs: Vec<&String> = addrs.iter().collect();
            // A dead TCP port answers at once.
            addrs.sort_by_key(|addr| !addr.contains("/tcp/"));
            for addr in addrs {
                if let Ok(addr) = NodeAddr::new(*node, addr) {
                    self.learn_one(addr);
                }
            }
        }
    }

    /// What the nodes have of the message that `known` is about, together with what `known` says.
    pub async fn explain(&mut self, known: Explanation) -> Explanation {
        let (mailbox, seq) = (known.mailbox, known.seq);
        let mut explanation = Explanation::new(mailbox, seq);
        let mut supplied = vec![known];
        let mut asked = BTreeSet::new();
        loop {
            for (reply, hints) in self.ask_all(&Question::Explain(mailbox, seq), &mut asked).await {
                supplied.push(reply);
                self.learn(&hints);
            }
            if asked.len() >= MAX_ASKED || self.known.keys().all(|node| asked.contains(node)) {
                break;
            }
        }
        // Every part is judged by those that it hangs on, which may have come from somebody else, later.
        for _ in 0..2 {
            supplied.iter().for_each(|part| explanation.merge(part.clone(), &self.federation));
        }
        if let Some(fill) = self.fill_of(&explanation).await {
            let fill = Some(Box::new(fill));
            explanation.merge(Explanation { fill, ..Explanation::new(mailbox, seq) }, &self.federation);
            supplied.iter().for_each(|part| explanation.merge(part.clone(), &self.federation));
        }
        explanation
    }

    /// A fill so late that no node looked for it: the log says which cut settled it.
    async fn fill_of(&self, explanation: &Explanation) -> Option<SettledFill> {
        let Found::Entry(entry) = &explanation.log.as_ref()?.found else { return None };
        if !entry.leaf.is_late() || explanation.fill.is_some() {
            return None;
        }
        let slice = explanation.slice_key(&self.federation)?;
        for cut in self.cuts_of(entry.leaf.settled).await {
            if let Some(fill) = SettledFill::find(&cut, &slice) {
                return Some(fill);
            }
        }
        None
    }

    /// The cut of one epoch, as each node has it.
    async fn cuts_of(&self, epoch: u64) -> Vec<postroad_protocol::cut::Cut> {
        let Some(before) = epoch.checked_sub(1) else { return Vec::new() };
        let replies = self.ask(&Question::Cuts(before), self.known.keys().copied().take(MAX_ASKED)).await;
        let cuts = replies.into_iter().filter_map(|reply| match reply {
            Reply::Cuts(cuts) => cuts.into_iter().next(),
            _ => None,
        });
        cuts.filter(|cut| cut.certified.header.epoch == epoch).collect()
    }

    /// Whether nodes have two certified cuts of one epoch.
    pub async fn split_order(&self, epoch: u64) -> Option<Evidence> {
        let mut cuts = self.cuts_of(epoch).await.into_iter().map(|cut| cut.certified);
        let first = cuts.next()?;
        cuts.find_map(|other| accuse::split_order(first.clone(), other, &self.federation))
    }

    /// Whether any node has another attestation of that number as the final one: then its home shows two views.
    pub async fn split_view(&self, attestation: &Signed<Attestation>) -> Option<Evidence> {
        let body = &attestation.body;
        let question = Question::Anchored(body.node, Some(body.number));
        let replies = self.ask(&question, self.known.keys().copied().take(MAX_ASKED)).await;
        replies.into_iter().find_map(|reply| match reply {
            Reply::Anchored(Some(anchor)) => {
                let view = SplitView::Anchored(Box::new(attestation.clone()), anchor);
                accuse::judged(Claim::SplitView(view), &self.federation)
            }
            _ => None,
        })
    }

    /// Where a mailbox lives and has lived, as each node says, if what it says holds.
    async fn homes(&self, mailbox: MailboxId) -> Vec<HomeProof> {
        let replies = self.ask(&Question::Home(mailbox, None), self.known.keys().copied().take(MAX_ASKED)).await;
        let proofs = replies.into_iter().filter_map(|reply| match reply {
            Reply::Home(proof) => Some(*proof),
            _ => None,
        });
        proofs.filter(|proof| proof.verify(&mailbox, &self.federation).is_ok()).collect()
    }

    /// Whether two of these attestations are a home's contradictory words on its log of `mailbox`, in one residence; or
    /// one names the mailbox though it lived elsewhere.
    pub async fn split_logs(&self, mailbox: MailboxId, attestations: &[MailboxAttestation]) -> Option<Evidence> {
        let homes = self.homes(mailbox).await;
        let pairs =
            || attestations.iter().enumerate().flat_map(|(at, one)| attestations[..at].iter().map(move |it| (one, it)));
        homes.iter().find_map(|home| {
            let elsewhere =
                || attestations.iter().find_map(|it| accuse::false_home(mailbox, it, home, &self.federation));
            let split = |(one, other)| accuse::split_logs(mailbox, (one, None), (other, None), home, &self.federation);
            pairs().find_map(split).or_else(elsewhere)
        })
    }

    /// Whether the present home of `mailbox` says that it continues a log which the former home has not attested so, as
    /// one of these attestations or a cut shows; or one of them is its own, of a log shorter than that which it took over.
    pub async fn false_import(&self, mailbox: MailboxId, attestations: &[MailboxAttestation]) -> Option<Evidence> {
        for home in self.homes(mailbox).await {
            let shorter = |it| accuse::not_continued(mailbox, it, &home, Broken::Shorter, &self.federation);
            if let Some(evidence) = attestations.iter().find_map(shorter) {
                return Some(evidence);
            }
            let moved = home.value.as_ref().and_then(|value| value.moved.as_ref());
            let Some(Imported { epoch, base: Some(base), .. }) = moved.and_then(|moved| moved.import.as_ref()) else {
                continue;
            };
            let question = Question::Anchored(base.node, Some(base.attestation.number));
            let replies = self.ask(&question, self.known.keys().copied().take(MAX_ASKED)).await;
            let anchors = replies.into_iter().filter_map(|reply| match reply {
                Reply::Anchored(anchor) => anchor.map(Refuted::Other),
                _ => None,
            });
            let logs = attestations.iter().map(|it| Refuted::Log(Box::new(it.clone().into())));
            let refuted: Vec<Refuted> = logs.chain(anchors).collect();
            let cuts = self.cuts_of(*epoch).await;
            let imports = cuts.iter().flat_map(|cut| &cut.body.records).filter_map(|record| match record {
                Record::Import(import) if import.body.mailbox == mailbox => Some(import),
                _ => None,
            });
            for import in imports {
                let false_base = |by: &Refuted| accuse::false_base(import, by.clone(), &self.federation);
                if let Some(evidence) = refuted.iter().find_map(false_base) {
                    return Some(evidence);
                }
            }
        }
        None
    }

    /// What the log of `mailbox` that its home has attested, finally, proves at the entries with these numbers, which
    /// stand next to each other: one is not the message that was ordered there, or they stand in the wrong order.
    pub async fn wrong_entries(&mut self, mailbox: MailboxId, seqs: &[Seq]) -> Option<Evidence> {
        let mut words: Vec<LogWord> = Vec::new();
        let mut home = None;
        for seq in seqs {
            let explanation = self.explain(Explanation::new(mailbox, *seq)).await;
            // One that stands elsewhere is also missing where it belongs.
            if let Conclusion::Guilty(evidence) = explanation.conclusion(&self.federation) {
                return Some(*evidence);
            }
            words.extend(explanation.log.map(|word| *word));
            home = explanation.residence.map(|residence| residence.home).or(home);
        }
        let [one, other] = words.as_slice() else { return None };
        let (Found::Entry(one_entry), Found::Entry(other_entry)) = (&one.found, &other.found) else { return None };
        if one.attested != other.attested {
            return None;
        }
        let is_first = one_entry.index < other_entry.index;
        let (entry, next) = if is_first { (one_entry, other_entry) } else { (other_entry, one_entry) };
        accuse::out_of_order(mailbox, one.into(), entry, next, &home?, &self.federation)
    }

    /// Whether the home of `mailbox` has attested, finally, that it forgot the entry with this leaf before its time.
    pub async fn early_expiry(&mut self, mailbox: MailboxId, leaf: &LogLeaf) -> Option<Evidence> {
        let explanation = self.explain(Explanation::new(mailbox, leaf.seq)).await;
        let (word, home) = (explanation.log?, explanation.residence?.home);
        let Found::Entry(entry) = &word.found else { return None };
        let settled = self.cuts_of(entry.leaf.settled).await.into_iter().next()?.certified;
        accuse::early_expiry(mailbox, (&*word).into(), entry, settled, &home, &self.federation)
    }

    /// Hands evidence to nodes other than the culprit, which hand it on; whether one of them keeps it now.
    pub async fn accuse(&self, evidence: &Evidence) -> bool {
        let others = self.known.keys().copied().filter(|node| *node != evidence.verdict().culprit);
        let replies = self.ask(&Question::Accuse(Box::new(evidence.claim().clone())), others.take(MAX_TOLD)).await;
        replies.iter().any(|reply| matches!(reply, Reply::Judged(Judged::Kept(_))))
    }

    async fn ask_all(&self, question: &Question, asked: &mut BTreeSet<NodeId>) -> Vec<(Explanation, Vec<Member>)> {
        let left = MAX_ASKED.saturating_sub(asked.len());
        let nodes: Vec<NodeId> = self.known.keys().filter(|node| !asked.contains(node)).take(left).copied().collect();
        asked.extend(&nodes);
        let replies = self.ask(question, nodes.into_iter()).await.into_iter();
        let explained = replies.filter_map(|reply| match reply {
            Reply::Explained(explanation, hints) => Some((*explanation, hints)),
            _ => None,
        });
        explained.collect()
    }

    /// Asks several nodes at the same time. Who does not answer is left out.
    async fn ask(&self, question: &Question, nodes: impl Iterator<Item = NodeId>) -> Vec<Reply> {
        let mut calls = JoinSet::new();
        for addrs in nodes.filter_map(|node| self.known.get(&node)).cloned() {
            let (endpoint, question) = (self.endpoint.clone(), question.clone());
            calls.spawn(async move {
                for addr in addrs {
                    match endpoint.call(&addr, &question, PATIENCE).await {
                        Ok(reply) => return Some(reply),
                        Err(error) => tracing::debug!(%addr, %error, "does not explain"),
                    }
                }
                None
            });
        }
        calls.join_all().await.into_iter().flatten().collect()
    }
}
