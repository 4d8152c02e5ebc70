//! The verdict on a demo, from nothing but what its clients wrote.
//!
//! A pure function over file contents that shares no code with node or client library: it knows what people were
//! promised, not how it is kept. Everything ordered is with every recipient exactly once; nothing is received that
//! nobody sent; every mailbox reads in the one order, and all agree on it; and whatever two files say of one message is
//! the same. Order within a file means: a message that is not marked late comes after everything before it; where the
//! mailbox is read in strict order, every message does.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Line, Message, Owner, Sent, parse, sha256};

/// What one client wrote.
#[derive(Clone, Debug)]
pub struct Written {
    /// The client's name.
    pub name: String,
    /// The content of `sent.jsonl`.
    pub sent: String,
    /// The content of `recv.jsonl`.
    pub recv: String,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages that their senders say are ordered.
    pub ordered: u64,
    /// Messages in the mailboxes, once per recipient.
    pub received: u64,
    /// Messages that are not with a recipient.
    pub missing: u64,
    /// Messages that a mailbox has more than once, and ids and places that were given twice.
    pub duplicate: u64,
    /// Messages out of order, or at different places in different files.
    pub disordered: u64,
    /// Everything that is wrong, in words.
    pub problems: Vec<String>,
    /// One row per client.
    pub rows: Vec<Row>,
}

/// One client's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Messages that it sent.
    pub sent: u64,
    /// Messages that it received.
    pub received: u64,
    /// Received messages whose proof holds.
    pub verified: u64,
}

impl Report {
    /// Whether everything is as it must be.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Epoch, position, index.
type Place = (u64, u64, u64);

/// A message as its sender's file has it.
struct Original<'a> {
    sender: &'a str,
    place: Place,
    sent: &'a Sent,
}

/// A client whose files have the right form.
struct Client<'a> {
    name: &'a str,
    owner: Owner,
    sent: Vec<Sent>,
    /// Messages, repeats and moves.
    recv: Vec<Line>,
}

impl Client<'_> {
    /// What came, and whether it is another copy of what came before.
    fn messages(&self) -> impl Iterator<Item = (&Message, bool)> {
        self.recv.iter().filter_map(|line| match line {
            Line::Message(message) => Some((message, false)),
            Line::Repeat(message) => Some((message, true)),
            _ => None,
        })
    }
}

/// Checks what the clients wrote.
pub fn check(written: &[Written]) -> Report {
    let mut report = Report::default();
    let clients: Vec<Client<'_>> = written
        .iter()
        .filter_map(|files| match read(files) {
            Ok(client) => Some(client),
            Err(problem) => {
                report.problems.push(problem);
                None
            }
        })
        .collect();
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for client in &clients {
        if known.insert(&client.owner.address, client.name).is_some() {
            report.problems.push(format!("{}: two files of one mailbox", client.name));
        }
    }
    let originals = check_sent(&clients, &known, &mut report);
    check_received(&clients, &originals, &mut report);
    check_agreement(&clients, &mut report);
    if originals.is_empty() {
        report.problems.push("nothing was ordered at all".to_owned());
    }
    report
}

fn read<'a>(files: &'a Written) -> Result<Client<'a>, String> {
    let name = &files.name;
    let sent = parse(&files.sent).map_err(|problem| format!("{name}/sent.jsonl: {problem}"))?;
    let recv = parse(&files.recv).map_err(|problem| format!("{name}/recv.jsonl: {problem}"))?;
    if sent.owner != recv.owner {
        return Err(format!("{name}: the two files are not of one mailbox"));
    }
    let mut client = Client { name, owner: sent.owner, sent: Vec::new(), recv: Vec::new() };
    for line in sent.lines {
        match line {
            Line::Sent(sent) => client.sent.push(sent),
            _ => return Err(format!("{name}/sent.jsonl: a line that does not belong there")),
        }
    }
    for line in recv.lines {
        match line {
            Line::Message(_) | Line::Repeat(_) | Line::Moved(_) => client.recv.push(line),
            _ => return Err(format!("{name}/recv.jsonl: a line that does not belong there")),
        }
    }
    Ok(client)
}

/// What was sent: each message once, at a place of its own, with recipients that exist, counters rising in the order.
fn check_sent<'a>(
    clients: &'a [Client<'a>],
    known: &BTreeMap<&str, &str>,
    report: &mut Report,
) -> BTreeMap<&'a str, Original<'a>> {
    let mut originals: BTreeMap<&str, Original<'_>> = BTreeMap::new();
    let mut places: BTreeSet<Place> = BTreeSet::new();
    for client in clients {
        let sender = client.owner.address.as_str();
        let mut counters: Vec<(Place, u64)> = Vec::new();
        for (number, sent) in (1..).zip(&client.sent) {
            let mut wrong = |what: &str| report.problems.push(format!("{}/sent.jsonl {number}: {what}", client.name));
            if sent.line != number {
                wrong("the lines are not numbered 1, 2, 3, …");
            }
            let to: BTreeSet<&str> = sent.to.iter().map(String::as_str).collect();
            if to.is_empty() || to.len() != sent.to.len() || !to.iter().all(|address| known.contains_key(address)) {
                wrong("its recipients are not distinct mailboxes of this demo");
            }
            let place = sent.seq.as_deref().and_then(place);
            let (Some(id), Some(counter), Some(place), "ordered" | "delivered") =
                (&sent.id, sent.counter, place, sent.state.as_str())
            else {
                wrong("it was not ordered");
                continue;
            };
            report.ordered += 1;
            counters.push((place, counter));
            if !places.insert(place) {
                report.duplicate += 1;
                report.problems.push(format!("{}/sent.jsonl {number}: its place is another's, too", client.name));
            }
            if originals.insert(id, Original { sender, place, sent }).is_some() {
                report.duplicate += 1;
                report.problems.push(format!("{}/sent.jsonl {number}: its id is another's, too", client.name));
            }
        }
        counters.sort_unstable();
        if counters.windows(2).any(|pair| pair[0].1 >= pair[1].1) {
            report.disordered += 1;
            report.problems.push(format!("{}/sent.jsonl: counters do not rise along the order", client.name));
        }
    }
    originals
}

/// A home of a mailbox, and which indexes of its log were seen there.
struct Residence<'a> {
    home: &'a str,
    /// The next index, where the log is read as it is.
    next: Option<u64>,
    seen: BTreeSet<u64>,
}

impl<'a> Residence<'a> {
    fn first(owner: &'a Owner) -> Residence<'a> {
        Residence { home: &owner.home, next: (!owner.strict).then_some(0), seen: BTreeSet::new() }
    }

    /// What was read beyond the log that a new home continues stands there again, at other indexes, and is not read
    /// twice: here the indexes have holes.
    fn next(home: &'a str) -> Residence<'a> {
        Residence { home, next: None, seen: BTreeSet::new() }
    }

    /// Whether a message can be at this index; strict order is not the order of the log.
    fn has_place_for(&mut self, index: u64) -> bool {
        let expected = self.next.is_none_or(|next| next == index);
        self.next = self.next.map(|next| next.saturating_add(1));
        self.seen.insert(index) && expected
    }
}

/// What was received: what was sent to this mailbox, all of it, once, in order.
fn check_received(clients: &[Client<'_>], originals: &BTreeMap<&str, Original<'_>>, report: &mut Report) {
    for client in clients {
        let me = client.owner.address.as_str();
        let mut have: BTreeSet<&str> = BTreeSet::new();
        let mut newest: Option<Place> = None;
        let mut verified = 0;
        let mut residence = Residence::first(&client.owner);
        for (number, line) in (1_u64..).zip(&client.recv) {
            let mut problems: Vec<&str> = Vec::new();
            let (message, repeat) = match line {
                Line::Message(message) => (message, false),
                Line::Repeat(message) => (message, true),
                Line::Moved(moved) => {
                    if moved.line != number || moved.home == residence.home {
                        report.problems.push(format!("{}/recv.jsonl {number}: it did not move", client.name));
                    }
                    residence = Residence::next(&moved.home);
                    continue;
                }
                _ => continue,
            };
            if message.line != number || !residence.has_place_for(message.log_index) {
                problems.push("lines and log are not numbered without holes");
            }
            match message.verified {
                true => verified += 1,
                false => problems.push("its proof does not hold"),
            }
            if message.home != residence.home {
                problems.push("it was delivered by another node than the mailbox's home");
            }
            let here = place(&message.seq);
            let may_be_late = message.late && !client.owner.strict;
            if here.is_none() || (!may_be_late && here <= newest) {
                report.disordered += 1;
                problems.push("it is out of order");
            }
            newest = newest.max(here);
            if repeat {
                if !have.contains(message.id.as_str()) {
                    problems.push("it is called a repeat, and is none");
                }
            } else {
                report.received += 1;
                if !have.insert(&message.id) {
                    report.duplicate += 1;
                    problems.push("it was here before");
                }
            }
            match originals.get(message.id.as_str()) {
                Some(original) => {
                    // Another copy has a place, and so a counter, of its own.
                    let same_copy = here == Some(original.place) && Some(message.counter) == original.sent.counter;
                    if !repeat && !same_copy {
                        report.disordered += u64::from(here != Some(original.place));
                        problems.push("its place or counter is not the sender's");
                    }
                    problems.extend(differences(message, original, me));
                }
                None => problems.push("nobody sent it"),
            }
            report.problems.extend(problems.iter().map(|what| format!("{}/recv.jsonl {number}: {what}", client.name)));
        }
        for (id, original) in originals {
            if original.sent.to.iter().any(|to| to == me) && !have.contains(id) {
                report.missing += 1;
                report.problems.push(format!("{}/recv.jsonl: {id} is missing", client.name));
            }
        }
        let received = client.messages().filter(|(_, repeat)| !repeat).count() as u64;
        let (name, address, sent) = (client.name.to_owned(), me.to_owned(), client.sent.len() as u64);
        report.rows.push(Row { name, address, sent, received, verified });
    }
}

/// Where a received message differs from the one that was sent.
fn differences(message: &Message, original: &Original<'_>, me: &str) -> Vec<&'static str> {
    let mut differences = Vec::new();
    if message.sender != original.sender {
        differences.push("another mailbox sent it");
    }
    if message.recipients != original.sent.to {
        differences.push("it was sent to others");
    }
    if !original.sent.to.iter().any(|to| to == me) {
        differences.push("it is for somebody else");
    }
    if sha256(message.text.as_bytes()) != original.sent.text_sha256 {
        differences.push("it says something else than was sent");
    }
    differences
}

/// Between any two mailboxes: one place per message, one message per place, one time per cut, and time does not go back.
fn check_agreement(clients: &[Client<'_>], report: &mut Report) {
    let mut place_of: BTreeMap<&str, Place> = BTreeMap::new();
    let mut at: BTreeMap<Place, &str> = BTreeMap::new();
    let mut time_of: BTreeMap<u64, u64> = BTreeMap::new();
    for client in clients {
        for (message, repeat) in client.messages() {
            let Some(here) = place(&message.seq) else { continue };
            let elsewhere = !repeat && *place_of.entry(&message.id).or_insert(here) != here;
            if elsewhere || *at.entry(here).or_insert(&message.id) != message.id {
                report.disordered += 1;
                report.problems.push(format!("{}: {} is elsewhere in another mailbox", client.name, message.id));
            }
            if *time_of.entry(here.0).or_insert(message.time_ms) != message.time_ms {
                report.problems.push(format!("{}: epoch {} has another time elsewhere", client.name, here.0));
            }
        }
    }
    let times: Vec<u64> = time_of.into_values().collect();
    if times.windows(2).any(|pair| pair[0] > pair[1]) {
        report.problems.push("the time of the cuts goes back".to_owned());
    }
}

/// A place in the order, as `epoch.position.index` in plain decimal numbers.
fn place(text: &str) -> Option<Place> {
    let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
    let place = (parts.next()??, parts.next()??, parts.next()??);
    let (epoch, position, index) = place;
    (text == format!("{epoch}.{position}.{index}")).then_some(place)
}

#[cfg(test)]
mod tests;
