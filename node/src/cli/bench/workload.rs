//! The work loads, and what each message of them says: a function of who sends it, its number and who gets it, so that
//! a recipient can tell the right payload from any other.

use postroad_protocol::message::{Message, Recipient};

use super::client::Party;

/// A work load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Recipients of each message.
    pub recipients: usize,
    /// Bytes of the common payload.
    pub common_bytes: usize,
    /// Messages of one bundle.
    pub messages: usize,
    /// Whether recipients live on another node than their sender.
    pub remote: bool,
}

/// Bytes of each own payload.
pub const OWN_BYTES: usize = 42;

/// All work loads.
pub const ALL: [Workload; 4] = [
    Workload {
        name: "W1",
        about: "one recipient, 12 B + 42 B, one message per bundle",
        recipients: 1,
        common_bytes: 12,
        messages: 1,
        remote: false,
    },
    Workload {
        name: "W2",
        about: "ten recipients, 1 KiB + 42 B each, one message per bundle",
        recipients: 10,
        common_bytes: 1_024,
        messages: 1,
        remote: false,
    },
    Workload {
        name: "W3",
        about: "as W1, 100 messages per bundle",
        recipients: 1,
        common_bytes: 12,
        messages: 100,
        remote: false,
    },
    Workload {
        name: "W4",
        about: "as W1, recipients on another node",
        recipients: 1,
        common_bytes: 12,
        messages: 1,
        remote: true,
    },
];

impl Workload {
    /// The work load of this name.
    pub fn named(name: &str) -> Option<Workload> {
        ALL.into_iter().find(|load| load.name.eq_ignore_ascii_case(name))
    }

    /// Who may get what party `sender` sends.
    pub fn audience(&self, sender: usize, parties: &[Party], nodes: usize) -> Vec<usize> {
        let home = (parties[sender].home + usize::from(self.remote)) % nodes;
        let after = (1..=parties.len()).map(|step| (sender + step) % parties.len());
        after.filter(|other| parties[*other].home == home && *other != sender).collect()
    }

    /// Message `number` (from 1) of `sender`, to the next of its audience in turn.
    pub fn message(&self, sender: usize, number: u64, audience: &[usize], parties: &[Party]) -> Message {
        let first = (number as usize).wrapping_mul(self.recipients);
        let recipient = |place: usize| {
            let to = audience[(first + place) % audience.len()];
            Recipient { mailbox: parties[to].address, own: own(sender, number, to) }
        };
        Message {
            salt: rand::random(),
            common: self.common(sender, number),
            recipients: (0..self.recipients).map(recipient).collect(),
        }
    }

    /// The common payload.
    pub fn common(&self, sender: usize, number: u64) -> Vec<u8> {
        filled(sender, number, None, self.common_bytes)
    }
}

/// The payload for one recipient.
pub fn own(sender: usize, number: u64, recipient: usize) -> Vec<u8> {
    filled(sender, number, Some(recipient), OWN_BYTES)
}

fn filled(sender: usize, number: u64, recipient: Option<usize>, bytes: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(bytes);
    payload.extend_from_slice(&(sender as u32).to_be_bytes());
    payload.extend_from_slice(&number.to_be_bytes());
    if let Some(recipient) = recipient {
        payload.extend_from_slice(&(recipient as u32).to_be_bytes());
    }
    let rest = bytes.saturating_sub(payload.len()) as u64;
    payload.extend((0..rest).map(|at| (number ^ at) as u8));
    payload
}

/// Sender and number, as a common payload begins with them.
pub fn origin_of(common: &[u8]) -> Option<(usize, u64)> {
    let sender = u32::from_be_bytes(*common.first_chunk()?);
    let number = u64::from_be_bytes(*common.get(4..)?.first_chunk()?);
    Some((sender as usize, number))
}
