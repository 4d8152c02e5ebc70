//! Honest senders, and the comparison of what they reach with an attacker and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postroad_client::{Mailbox, Outgoing, Sender, SenderOptions, Wait};
use tokio::task::JoinHandle;

use crate::net::{Net, PATIENCE};

/// Messages of one sender on their way.
const WINDOW: usize = 16;

/// A sender that counts what is ordered: as fast as answers come, or at a pace.
pub(crate) struct Honest {
    ordered: Arc<AtomicU64>,
    lanes: Vec<JoinHandle<()>>,
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.lanes.iter().for_each(JoinHandle::abort);
    }
}

impl Honest {
    /// Sends from one mailbox to itself until dropped: each of the lanes its next message when the last is ordered, and
    /// not more often than at `pace`.
    pub(crate) async fn start(mailbox: &Mailbox, pace: Option<Duration>) -> Honest {
        let sender = Arc::new(Sender::connect(mailbox, SenderOptions::default()).await.expect("a sender"));
        let ordered = Arc::new(AtomicU64::new(0));
        let to = mailbox.address();
        let lane = |_| {
            let (sender, ordered) = (Arc::clone(&sender), Arc::clone(&ordered));
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(pace.unwrap_or(Duration::from_nanos(1)) * WINDOW as u32);
                loop {
                    if pace.is_some() {
                        ticks.tick().await;
                    }
                    let mut ticket = sender.send(Outgoing::new([to], "honest mail")).await.expect("it is taken");
                    ticket.reached(Wait::Ordered).await.expect("it is ordered");
                    ordered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Honest { lanes: (0..WINDOW).map(lane).collect(), ordered }
    }

    /// How many messages are ordered so far.
    pub(crate) fn ordered(&self) -> u64 {
        assert!(self.lanes.iter().all(|lane| !lane.is_finished()), "an honest sender has failed");
        self.ordered.load(Ordering::Relaxed)
    }
}

/// What some senders reached in some time.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    /// Messages per second of each.
    pub(crate) rates: Vec<f64>,
    /// By how much the node's memory grew meanwhile.
    pub(crate) growth_bytes: i64,
}

impl Reached {
    pub(crate) fn total(&self) -> f64 {
        self.rates.iter().sum()
    }
}

/// Looks at the senders for a while.
pub(crate) async fn look(net: &Net, senders: &[Honest], time: Duration) -> Reached {
    let (before, memory) = (senders.iter().map(Honest::ordered).collect::<Vec<_>>(), net.memory_bytes(0));
    let began = Instant::now();
    tokio::time::sleep(time).await;
    let seconds = began.elapsed().as_secs_f64();
    let rates = senders.iter().zip(before).map(|(sender, before)| (sender.ordered() - before) as f64 / seconds);
    let rates = rates.collect();
    Reached { rates, growth_bytes: net.memory_bytes(0) as i64 - memory as i64 }
}

/// All rounds of one comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) without: Vec<Reached>,
    pub(crate) with: Vec<Reached>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Comparison {
    /// Honest throughput with the attacker, as a part of that without: the median of the pairs of neighbouring rounds.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.with.iter().zip(&self.without).map(|(with, without)| with.total() / without.total()).collect())
    }

    /// Of each sender its throughput with the attacker, as a part of an equal share of all that the honest reached
    /// without; the lowest.
    pub(crate) fn lowest_share(&self) -> f64 {
        let senders = self.with[0].rates.len();
        let of = |sender: usize| {
            let pairs = self.with.iter().zip(&self.without);
            median(pairs.map(|(with, without)| with.rates[sender] * senders as f64 / without.total()).collect())
        };
        (0..senders).map(of).fold(f64::INFINITY, f64::min)
    }

    /// How much more the node grew in rounds with the attacker than in those without.
    pub(crate) fn growth_bytes(&self) -> i64 {
        let sum = |rounds: &[Reached]| rounds.iter().map(|round| round.growth_bytes).sum::<i64>();
        sum(&self.with) - sum(&self.without)
    }
}

/// Compares rounds without and with an attacker, in alternation, until the medians satisfy what is asked, for at most
/// three times as many rounds: other programs run on this machine, and the first few may be theirs.
pub(crate) async fn compare<A>(
    net: &Net,
    senders: &[Honest],
    (rounds, time): (usize, Duration),
    mut attack: impl AsyncFnMut() -> A,
    good: impl Fn(&Comparison) -> bool,
) -> Comparison {
    let deadline = Instant::now() + PATIENCE;
    while senders.iter().any(|sender| sender.ordered() == 0) {
        assert!(Instant::now() < deadline, "the honest senders get nothing ordered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut comparison = Comparison::default();
    for round in 0..3 * rounds {
        comparison.without.push(look(net, senders, time).await);
        let attacker = attack().await;
        comparison.with.push(look(net, senders, time).await);
        drop(attacker);
        if round + 1 >= rounds && good(&comparison) {
            break;
        }
    }
    comparison
}
