//! SIGKILLs at random moments of random nodes, the sequencer's among them, under load: nothing accepted is lost, doubled
//! or reordered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::net::{Mailbox, Net, PATIENCE, Process, number_from_env, seed, text};

/// Kills in CI; POSTROAD_KILLS says how many otherwise.
const KILLS: usize = 20;
/// How long a killed node may take until it serves, and until mail flows from every home again.
const RECOVERY: Duration = Duration::from_secs(5);
/// Messages that each sender keeps under way.
const WINDOW: usize = 8;

/// How many messages each sender has had ordered, and whether they are to stop.
pub(crate) struct Progress {
    ordered: Mutex<Vec<usize>>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Progress {
    pub(crate) fn of(senders: usize) -> Progress {
        Progress { ordered: Mutex::new(vec![0; senders]), changed: Condvar::new(), stop: AtomicBool::new(false) }
    }

    pub(crate) fn ordered(&self) -> Vec<usize> {
        self.ordered.lock().expect("no sender panicked").clone()
    }

    pub(crate) fn total(&self) -> usize {
        self.ordered().iter().sum()
    }

    /// Waits until this holds of the counts.
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&[usize]) -> bool) {
        let ordered = self.ordered.lock().expect("no sender panicked");
        let waited = self.changed.wait_timeout_while(ordered, PATIENCE, |ordered| !holds(ordered));
        assert!(!waited.expect("no sender panicked").1.timed_out(), "it never came that {what}");
    }

    /// Waits until each sender has had that many more ordered.
    pub(crate) fn wait_for_more(&self, more: usize) {
        let before = self.ordered();
        let has_more = |now: &[usize]| now.iter().zip(&before).all(|(now, before)| *now >= before + more);
        self.wait_until("mail is ordered from every sender", has_more);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends to all others until it is to stop, a window of messages at a time. Where the test fails, it fails by itself.
pub(crate) fn keep_sending(from: &Mailbox, to: &[Mailbox], progress: &Progress, number: usize) -> Vec<Value> {
    let mut args = vec!["send", "--mailbox", text(&from.dir), "--timeout-ms", "120000", "--to"];
    args.extend(to.iter().map(|mailbox| mailbox.address.as_str()));
    let (sender, mut input) = Process::spawn_with_input(&args);
    let mut lines = Vec::new();
    let mut written = 0;
    loop {
        while written < lines.len() + WINDOW && !progress.stop.load(Ordering::Relaxed) {
            writeln!(input, "{} {written}", from.address).expect("the sender reads");
            written += 1;
        }
        input.flush().expect("the sender reads");
        if lines.len() == written {
            return lines;
        }
        lines.push(sender.wait_for("sent"));
        progress.ordered.lock().expect("no sender panicked")[number] += 1;
        progress.changed.notify_all();
    }
}

/// Prints how long something took, and returns the longest.
fn tell(what: &str, mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: {} ms (p50), {} ms (max)", p50.as_millis(), max.as_millis());
    max
}

#[test]
fn kills_lose_double_and_reorder_nothing() {
    let (seed, kills) = (seed(), number_from_env("POSTROAD_KILLS", KILLS));
    println!("POSTROAD_SEED={seed} POSTROAD_KILLS={kills} cargo test --release -p postroad --test federation kills");
    println!("in full: POSTROAD_KILLS=200 cargo test --release -p postroad --test federation kills -- --nocapture");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut net = Net::start(4);
    let mailboxes: Vec<Mailbox> = (1..=4).map(|node| net.mailbox(&format!("m{node}"), node)).collect();
    let progress = Progress::of(4);
    let (mut serves_after, mut flows_after) = (Vec::new(), Vec::new());
    let sent: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let senders: Vec<_> = mailboxes
            .iter()
            .enumerate()
            .map(|(number, from)| {
                let to: Vec<Mailbox> =
                    mailboxes.iter().filter(|other| other.address != from.address).cloned().collect();
                let progress = &progress;
                scope.spawn(move || keep_sending(from, &to, progress, number))
            })
            .collect();
        for kill in 1..=kills {
            // A random moment: when so many more messages are ordered.
            let at = progress.total() + random.random_range(1..60);
            progress.wait_until("mail is ordered", |ordered| ordered.iter().sum::<usize>() >= at);
            let node = random.random_range(1..=4);
            net.kill(node);
            let began = Instant::now();
            net.revive(node);
            serves_after.push(began.elapsed());
            // From every home, that of the killed one among them.
            progress.wait_for_more(1);
            flows_after.push(began.elapsed());
            if kill % 50 == 0 {
                println!("{kill} kills, {} messages ordered", progress.total());
            }
        }
        progress.stop();
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });

    let total: usize = sent.iter().map(Vec::len).sum();
    println!("{total} messages ordered across {kills} kills");
    let serves = tell("a killed node serves after", serves_after);
    let flows = tell("mail flows from every home after", flows_after);
    assert!(serves.max(flows) < RECOVERY, "recovery takes too long");
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for line in sent.iter().flatten() {
        assert_eq!(line["state"], "ordered", "{line}");
        let (id, seq) = (line["id"].to_string(), line["seq"].to_string());
        assert_eq!(places.insert(id, seq), None, "an id comes once: {line}");
    }
    for (own, mailbox) in mailboxes.iter().enumerate() {
        let owed: BTreeSet<String> = (sent.iter().enumerate())
            .filter(|(from, _)| *from != own)
            .flat_map(|(_, lines)| lines.iter().map(|line| line["id"].to_string()))
            .collect();
        let got = mailbox.recv_all(owed.len());
        let ids: BTreeSet<String> = got.iter().map(|message| message["id"].to_string()).collect();
        assert_eq!(got.len(), ids.len(), "nothing comes twice");
        assert_eq!(ids, owed, "everything ordered is here, and nothing else");
        for message in &got {
            assert_eq!(message["verified"], true);
            assert_eq!(places[&message["id"].to_string()], message["seq"].to_string(), "one place for all");
        }
    }
}
