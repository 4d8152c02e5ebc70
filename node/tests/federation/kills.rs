//! SIGKILLs at random moments of random nodes, the sequencer's among them, under load: nothing accepted is lost, doubled
//! or reordered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::net::{Mailbox, Net, Process, text};

const KILLS: usize = 20;
/// Messages that each sender keeps under way.
const WINDOW: usize = 8;

/// The number in POSTROAD_SEED, or one from the clock; printed, so that a failure's choices can be made again.
fn seed() -> u64 {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    std::env::var("POSTROAD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fresh)
}

/// Sends to all others until `stop`, a window of messages at a time; counts what is ordered.
fn keep_sending(from: &Mailbox, to: &[Mailbox], stop: &AtomicBool, ordered: &AtomicUsize) -> Vec<Value> {
    let mut args = vec!["send", "--mailbox", text(&from.dir), "--timeout-ms", "120000", "--to"];
    args.extend(to.iter().map(|mailbox| mailbox.address.as_str()));
    let (sender, mut input) = Process::spawn_with_input(&args);
    let mut lines = Vec::new();
    let mut written = 0;
    loop {
        while written < lines.len() + WINDOW && !stop.load(Ordering::Relaxed) {
            writeln!(input, "{} {written}", from.address).expect("the sender reads");
            written += 1;
        }
        input.flush().expect("the sender reads");
        if lines.len() == written {
            return lines;
        }
        lines.push(sender.wait_for("sent"));
        ordered.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn twenty_kills_lose_double_and_reorder_nothing() {
    let seed = seed();
    println!("POSTROAD_SEED={seed} cargo test --release -p postroad --test federation twenty_kills");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut net = Net::start(4);
    let mailboxes: Vec<Mailbox> = (1..=4).map(|node| net.mailbox(&format!("m{node}"), node)).collect();
    let stop = AtomicBool::new(false);
    let ordered = AtomicUsize::new(0);
    let sent: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let senders: Vec<_> = mailboxes
            .iter()
            .map(|from| {
                let to: Vec<Mailbox> =
                    mailboxes.iter().filter(|other| other.address != from.address).cloned().collect();
                let (stop, ordered) = (&stop, &ordered);
                scope.spawn(move || keep_sending(from, &to, stop, ordered))
            })
            .collect();
        for _ in 0..KILLS {
            // A random moment: when so many more messages are ordered.
            let at = ordered.load(Ordering::Relaxed) + random.random_range(1..60);
            while ordered.load(Ordering::Relaxed) < at {
                assert!(!senders.iter().any(|sender| sender.is_finished()), "a sender has ended early");
                std::thread::yield_now();
            }
            let node = random.random_range(1..=4);
            net.kill(node);
            net.revive(node);
        }
        stop.store(true, Ordering::Relaxed);
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });

    let total: usize = sent.iter().map(Vec::len).sum();
    println!("{total} messages ordered across {KILLS} kills");
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
