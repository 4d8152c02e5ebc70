//! Mailboxes that move, among real processes: under load, with homes killed in the middle, and away from a home of which
//! nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::kills::{Progress, keep_sending};
use crate::net::{Mailbox, Net, PATIENCE, Process, number_from_env, run, seed, text};

/// Moves in CI; POSTROAD_MOVES says how many otherwise.
const MOVES: usize = 12;
/// Mailboxes that move.
const MOVERS: usize = 3;

/// What a reader was given, and the time before and at which each message came.
struct Read {
    messages: Vec<Value>,
    came: Vec<[Instant; 2]>,
}

/// A move: whose, when, and whether one of its homes was killed in the middle.
struct Move {
    of: usize,
    time: [Instant; 2],
    is_killed: bool,
}

impl Move {
    /// The longest time in which the mailbox's reader was given nothing.
    fn pause(&self, read: &[Read]) -> Duration {
        let [began, ended] = self.time;
        let came = read[self.of].came.iter().filter(|[since, came]| *since < ended && *came > began);
        came.map(|[since, came]| *came - *since).max().unwrap_or_default()
    }
}

/// Prints the pauses of moves with kills, or without.
fn tell(what: &str, moves: impl Iterator<Item = Duration>) {
    let mut pauses: Vec<u128> = moves.map(|pause| pause.as_millis()).collect();
    pauses.sort_unstable();
    let at = |percent: usize| pauses.get((pauses.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
    let [p50, p99, max] = [50, 99, 100].map(at);
    println!("{} moves {what}: a reader pauses {p50} ms (p50), {p99} ms (p99), {max} ms (max)", pauses.len());
}

/// Reads strictly, across all moves, until it has as many messages as `owed` says in the end.
fn read(mailbox: &Mailbox, owed: &AtomicUsize) -> Read {
    let reader = Process::spawn(&["recv", "--mailbox", text(&mailbox.dir), "--strict", "--follow"]);
    let mut read = Read { messages: Vec::new(), came: Vec::new() };
    let mut last = Instant::now();
    while read.messages.len() < owed.load(Ordering::Relaxed) {
        let line = reader.next_line().expect("it reads on");
        if line["type"] == "message" {
            let now = Instant::now();
            read.came.push([last, now]);
            last = now;
            read.messages.push(line);
        }
    }
    read
}

/// Begins a move to node `to`.
fn begin(net: &Net, mailbox: &Mailbox, to: usize, more: &[&str]) -> Process {
    let addr = net.addr(to);
    let args = ["move", "start", "--mailbox", text(&mailbox.dir), "--to", &addr, "--patience", "3s"];
    Process::spawn(&[&args[..], more].concat())
}

/// How a process has ended, and its lines.
fn ended(mut process: Process) -> (Option<i32>, Vec<Value>) {
    let mut lines = Vec::new();
    while let Some(line) = process.next_line() {
        lines.push(line);
    }
    (process.wait(), lines)
}

/// The last line of a move that has ended well. Where nobody answered, the same command goes on.
fn end(net: &Net, moving: Process, (mailbox, to, more): (&Mailbox, usize, &[&str])) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let mut found = ended(moving);
    while found.0 != Some(0) && Instant::now() < deadline {
        found = ended(begin(net, mailbox, to, more));
    }
    let last = found.1.last().cloned().unwrap_or_default();
    let is_there = last["type"] == "moved" && last["ok"] == true || last["state"] == "finished";
    assert!(found.0 == Some(0) && is_there, "{found:?}");
    last
}

/// Moves to node `to`, to the end.
fn moved(net: &Net, mailbox: &Mailbox, to: usize, more: &[&str]) -> Value {
    end(net, begin(net, mailbox, to, more), (mailbox, to, more))
}

/// However a test ends, its senders and readers end as well.
struct Stop<'a>(&'a Progress, &'a AtomicUsize);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop();
        if std::thread::panicking() {
            self.1.store(0, Ordering::Relaxed);
        }
    }
}

fn ids<'a>(lines: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    lines.into_iter().map(|line| line["id"].to_string()).collect()
}

/// A sequence number's three parts.
fn place(line: &Value) -> Vec<u64> {
    let seq = line["seq"].as_str().expect("a sequence number");
    seq.split('.').map(|part| part.parse().expect("a number")).collect()
}

#[test]
fn moves_under_load_lose_double_and_reorder_nothing() {
    let (seed, moves) = (seed(), number_from_env("POSTROAD_MOVES", MOVES));
    println!(
        "POSTROAD_SEED={seed} POSTROAD_MOVES={moves} cargo test --release -p postroad --test federation moves_under"
    );
    println!(
        "in full: POSTROAD_MOVES=100 cargo test --release -p postroad --test federation moves_under -- --nocapture"
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut net = Net::start(4);
    let senders: Vec<Mailbox> = (1..=2).map(|node| net.mailbox(&format!("s{node}"), node)).collect();
    let movers: Vec<Mailbox> = (0..MOVERS).map(|at| net.mailbox(&format!("m{at}"), at + 2)).collect();
    let mut homes: Vec<usize> = (0..MOVERS).map(|at| at + 2).collect();
    let (progress, owed) = (Progress::of(2), AtomicUsize::new(usize::MAX));
    let (mut made, first) = (Vec::new(), Instant::now());
    let (sent, read): (Vec<Vec<Value>>, Vec<Read>) = std::thread::scope(|scope| {
        let (progress, owed, movers) = (&progress, &owed, &movers);
        let readers: Vec<_> = movers.iter().map(|mover| scope.spawn(move || read(mover, owed))).collect();
        let senders: Vec<_> = (senders.iter().enumerate())
            .map(|(number, from)| scope.spawn(move || keep_sending(from, movers, progress, number)))
            .collect();
        let stop = Stop(progress, owed);
        progress.wait_for_more(1);
        for number in 1..=moves {
            let at = random.random_range(0..MOVERS);
            let (old, new) = (homes[at], (homes[at] + random.random_range(0..3)) % 4 + 1);
            let (moving, began) = (begin(&net, &movers[at], new, &[]), Instant::now());
            let is_killed = random.random_bool(0.5);
            if is_killed {
                // At a random moment of it: when so many more messages are ordered.
                let then = progress.total() + random.random_range(0..40);
                progress.wait_until("mail is ordered", |ordered| ordered.iter().sum::<usize>() >= then);
                let node = if random.random_bool(0.5) { old } else { new };
                net.kill(node);
                net.revive(node);
            }
            end(&net, moving, (&movers[at], new, &[]));
            made.push(Move { of: at, time: [began, Instant::now()], is_killed });
            homes[at] = new;
            progress.wait_for_more(1);
            if number % 20 == 0 {
                println!("{number} moves, {} messages ordered", progress.total());
            }
        }
        drop(stop);
        let sent: Vec<Vec<Value>> = senders.into_iter().map(|sender| sender.join().expect("a sender")).collect();
        owed.store(sent.iter().map(Vec::len).sum(), Ordering::Relaxed);
        (sent, readers.into_iter().map(|reader| reader.join().expect("a reader")).collect())
    });

    let total: usize = sent.iter().map(Vec::len).sum();
    let rate = (total * MOVERS) as f64 / first.elapsed().as_secs_f64();
    println!("{total} messages to each of {MOVERS}: {rate:.0} messages/s to the mailboxes that move");
    for (what, is_killed) in [("with both homes alive", false), ("with a home killed", true)] {
        let moves = made.iter().filter(|made| made.is_killed == is_killed);
        tell(what, moves.map(|made| made.pause(&read)));
    }
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for line in sent.iter().flatten() {
        assert_eq!(line["state"], "ordered", "{line}");
        assert_eq!(places.insert(line["id"].to_string(), line["seq"].to_string()), None, "an id comes once: {line}");
    }
    for (mover, Read { messages, .. }) in movers.iter().zip(&read) {
        assert_eq!(messages.len(), total, "nothing comes twice at {}", mover.address);
        assert_eq!(ids(messages), ids(sent.iter().flatten()), "everything ordered is here, and nothing else");
        for message in messages {
            assert_eq!(message["verified"], true);
            assert_eq!(places[&message["id"].to_string()], message["seq"].to_string(), "one place for all");
        }
        assert!(messages.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "in order, at {}", mover.address);
    }
    // What was ordered is delivered: the last message of each sender comes after all others.
    for sender in &senders {
        let to: Vec<&Mailbox> = movers.iter().collect();
        let last = sender.send(&to, &["--wait", "delivered", "the last"], &[]);
        assert_eq!((last.code, &last.lines[0]["state"]), (0, &"delivered".into()), "{last:?}");
    }
}

#[test]
fn a_home_of_which_nothing_is_left_takes_no_mail_with_it() {
    let net = Net::start(4);
    let (alice, bob, carol) = (net.mailbox("alice", 1), net.mailbox("bob", 3), net.mailbox("carol", 3));
    let say = |words: &str, wait: &str| {
        let sent = alice.send(&[&bob, &carol], &["--wait", wait, words], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
        sent.lines[0]["weak"].clone()
    };
    say("read before", "delivered");
    assert_eq!(bob.recv_all(1).len(), 1);
    let neighbour = carol.send(&[&bob], &["--wait", "ordered", "from the same home"], &[]);
    assert_eq!((neighbour.code, &neighbour.lines[0]["weak"]), (0, &false.into()), "{neighbour:?}");
    // Signed for by the home that is destroyed right afterwards.
    assert_eq!(say("not read", "accepted"), false);
    net.kill(3);
    std::fs::remove_dir_all(net.path("net/node-3")).expect("its directory can be removed");
    say("while nobody is there", "ordered");

    for mailbox in [&bob, &carol] {
        let moved = moved(&net, mailbox, 4, &["--without-old-home"]);
        assert_eq!((&moved["owed"], &moved["handed_over"]), (&Value::Array(Vec::new()), &false.into()), "{moved}");
    }
    say("at the new home", "delivered");
    let texts = |mailbox: &Mailbox, count: usize| -> Vec<String> {
        let messages = mailbox.recv_all(count);
        messages.iter().map(|message| message["text"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let after = ["not read", "while nobody is there", "at the new home"];
    assert_eq!(texts(&bob, 4), [&["from the same home"][..], &after].concat());
    assert_eq!(texts(&carol, 4), [&["read before"][..], &after].concat());
    let history = run(&["directory", "show", &bob.address, "--history", "--node", &net.addr(1)]);
    assert_eq!(history.code, 0, "{history:?}");
    let homes: Vec<&str> = history.lines.iter().filter_map(|line| line["home"].as_str()).collect();
    assert!(homes.contains(&net.peer_id(3).as_str()) && homes.contains(&net.peer_id(4).as_str()), "{history:?}");
}

#[test]
fn a_move_is_called_off_and_what_was_signed_for_it_never_settles() {
    let mut net = Net::start(3);
    let (alice, bob) = (net.mailbox("alice", 1), net.mailbox("bob", 2));
    // The new home cannot be had when the order comes, so nothing has happened yet.
    let to = net.addr(3);
    net.kill(3);
    let mut moving = Process::spawn(&["move", "start", "--mailbox", text(&bob.dir), "--to", &to]);
    while moving.next_line().is_some() {}
    assert_ne!(moving.wait(), Some(0), "it cannot begin");
    net.revive(3);
    let aborted = run(&["move", "abort", "--mailbox", text(&bob.dir)]);
    assert!(aborted.code == 0 || aborted.error["code"].is_string(), "{aborted:?}");
    assert_eq!(alice.send(&[&bob], &["--wait", "delivered", "here still"], &[]).code, 0);
    assert_eq!(bob.recv_all(1).len(), 1);
    // Twice the same is one move.
    let first = moved(&net, &bob, 3, &[]);
    let again = moved(&net, &bob, 3, &[]);
    assert_eq!((&first["to"], &first["to"]), (&again["to"], &net.peer_id(3).into()), "{again}");
    assert_eq!(alice.send(&[&bob], &["--wait", "delivered", "there now"], &[]).code, 0);
    assert_eq!(bob.recv_all(1)[0]["text"], "there now");
}

#[test]
fn whom_an_owner_blocks_stays_blocked_where_the_mailbox_moves() {
    let net = Net::start(3);
    let (pest, owner) = (net.mailbox("pest", 1), net.mailbox("owner", 2));
    let blocked = run(&["mailbox", "block", "--mailbox", text(&owner.dir), &pest.address]);
    assert_eq!(blocked.code, 0, "{blocked:?}");
    let is_refused = || {
        let sent = pest.send(&[&owner], &["--wait", "delivered", "buy this"], &[]);
        sent.lines.iter().any(|line| line["type"] == "refused" && line["reason"] == "blocked")
    };
    assert!(is_refused());
    moved(&net, &owner, 3, &[]);
    assert!(is_refused());
    // The copy of the list that the owner keeps goes along where the home shows none.
    net.kill(3);
    moved(&net, &owner, 1, &["--without-old-home"]);
    assert!(is_refused());
}
