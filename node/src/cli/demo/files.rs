//! The two files that each client of the demo writes: what it sent and what it received.
//!
//! Both begin with the mailbox, number their lines, and end with a trailer that counts and hashes what stands before
//! it. The lines are those of `postroad send --json` and `recv --json`, with what a check needs besides. This module
//! knows the form alone; whether what it says holds together is for [`mod@super::check`].

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A line of either file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line {
    /// The first line: whose file it is.
    Mailbox(Owner),
    /// A message that was sent, in `sent.jsonl`.
    Sent(Sent),
    /// A message that was received, in `recv.jsonl`.
    Message(Message),
    /// Another copy of a message that was received before, in `recv.jsonl`.
    Repeat(Message),
    /// From here on another node delivers, in `recv.jsonl`.
    Moved(Moved),
    /// The last line.
    End(End),
}

/// Whose file it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The mailbox.
    pub address: String,
    /// The node that hosts it.
    pub home: String,
    /// Since which epoch.
    pub epoch: u64,
    /// Whether it is read in strict order.
    pub strict: bool,
}

/// A message as its sender wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// Its number in the file, from 1.
    pub line: u64,
    /// Its id.
    pub id: Option<String>,
    /// The sender's counter.
    pub counter: Option<u64>,
    /// How far it came: ordered or delivered, if all is well.
    pub state: String,
    /// Whether too few nodes answer for it.
    pub weak: bool,
    /// Its place in the order.
    pub seq: Option<String>,
    /// Its recipients.
    pub to: Vec<String>,
    /// SHA-256 of its text, in hex.
    pub text_sha256: String,
}

/// A message as a recipient wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Its number in the file, from 1.
    pub line: u64,
    /// Its index in the mailbox's log, from 0.
    pub log_index: u64,
    /// Its place in the order.
    pub seq: String,
    /// Its id.
    pub id: String,
    /// The time of the cut that ordered it.
    pub time_ms: u64,
    /// Who sent it.
    pub sender: String,
    /// All its recipients.
    pub recipients: Vec<String>,
    /// What it says.
    pub text: String,
    /// The sender's counter.
    pub counter: u64,
    /// The node that delivered it.
    pub home: String,
    /// Whether it came after its place in the order had passed.
    pub late: bool,
    /// Whether its proof holds.
    pub verified: bool,
}

/// A new home, as the reader found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// Its number in the file, from 1.
    pub line: u64,
    /// The new home.
    pub home: String,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The mailbox.
    pub address: String,
    /// How many numbered lines the file has.
    pub lines: u64,
    /// SHA-256 of everything before this line, in hex.
    pub sha256: String,
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The text of one line, with its end.
pub fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).expect("a line has nothing that JSON cannot say");
    text.push('\n');
    text
}

/// The trailer of a file that says `body` so far.
pub fn trailer(address: &str, lines: u64, body: &[u8]) -> String {
    trailer_of(address, lines, sha256(body))
}

/// The trailer of a file whose content so far has this hash.
pub fn trailer_of(address: &str, lines: u64, sha256: String) -> String {
    text(&Line::End(End { address: address.to_owned(), lines, sha256 }))
}

/// A file that was read: its owner and its numbered lines.
#[derive(Debug)]
pub struct Parsed {
    /// Whose it is.
    pub owner: Owner,
    /// What stands between the first and the last line.
    pub lines: Vec<Line>,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with its form.
pub fn parse(content: &str) -> Result<Parsed, String> {
    let body = content.strip_suffix('\n').ok_or("the last line is not complete")?;
    let start = body.rfind('\n').map_or(0, |at| at + 1);
    let (body, last) = content.split_at(start);
    let mut lines = Vec::new();
    for (place, line) in body.lines().enumerate() {
        let line = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", place + 1))?;
        lines.push(line);
    }
    if lines.is_empty() {
        return Err("it has no first line".to_owned());
    }
    let Line::Mailbox(owner) = lines.remove(0) else {
        return Err("the first line does not say whose file it is".to_owned());
    };
    // Compared as text, so that there is one trailer for one body.
    if last != trailer(&owner.address, lines.len() as u64, body.as_bytes()) {
        return Err("the last line does not count and hash what stands before it".to_owned());
    }
    Ok(Parsed { owner, lines })
}
