//! The text of `postroad.toml`, and the names under which its values can also be given.
//!
//! Keys, order and comments stand in one table; the values come from the configuration itself. A test holds the table
//! against the struct, both ways.

use toml::{Table, Value};

use super::NodeConfig;

/// Every key with its comment, in the order of the file. Keys with a dot are in a section, and sections come last.
const COMMENTS: &[(&str, &str)] = &[
    ("name", "A name for people, at most 64 bytes. Others see it in this node's record."),
    ("listen", "Where to listen, as multiaddresses. QUIC is UDP; keep TCP as well, since some networks block UDP."),
    (
        "announce",
        "The addresses under which others reach this node; they go into its record.\n\
         Empty: those of `listen` that name a host and a port (0.0.0.0 does not).",
    ),
    (
        "bootstrap",
        "Other nodes to join the federation through, beside the committee in genesis.toml.\n\
         Each ends in /p2p/ID.",
    ),
    (
        "deputies",
        "The nodes (their PeerIds) that hold this one's mail while it is away, in order of preference, at most 8. Each of\n\
         them has to consent. Empty: nodes ranked by hash.",
    ),
    (
        "deputy_for",
        "Which nodes may name this one among their deputies: \"anybody\", \"nobody\", or a list of PeerIds.",
    ),
    (
        "allow_registration",
        "Who may register a mailbox here: \"open\", \"closed\", or a list of addresses.\n\
         Mailboxes that are registered stay.",
    ),
    (
        "store",
        "The storage engine: \"redb\". A build with the feature has \"sled\", which is not safe against power loss.",
    ),
    ("redial_cap_ms", "The longest pause between two attempts to reach a node that is away, in milliseconds."),
    (
        "log",
        "What to log on standard error: error, warn, info, debug, trace, or per module, as in \"warn,postroad=debug\".\n\
         At info there is a line for everything that matters, and none for a message.",
    ),
    ("log_format", "The form of log lines: \"text\" or \"json\"."),
    (
        "http.listen",
        "Where /metrics and /healthz are served, as in \"127.0.0.1:4171\"; port 0 takes a free one, \"\" serves neither.\n\
         Whoever reaches this address can read how much this node carries, and with whom.",
    ),
    (
        "moves.accept",
        "Whose mailboxes may move here from other nodes: \"open\", \"closed\", or a list of addresses. Those that live here may\n\
         always move away.",
    ),
    (
        "moves.max_mailbox_bytes",
        "Payload bytes that a mailbox may hold unread when it moves here; they are stored anew.",
    ),
    (
        "blame.policy",
        "What to do about a node that evidence convicts of a fraud: \"record\" it, \"refuse-slices\" (its new mail is not\n\
         taken), \"refuse-contact\" (nor is there any connection). A loss is no fraud.",
    ),
    ("blame.allow", "The nodes (their PeerIds) about whom nothing is done, whatever the evidence."),
    (
        "blame.deny",
        "The nodes that are treated as if they were convicted; with \"record\" their new mail is not taken.",
    ),
    ("limits.max_connections", "Connections in all, those of the federation's nodes aside."),
    ("limits.max_connections_per_peer", "Connections of one peer; at least 2."),
    ("limits.max_pending_connections", "Inbound connections still in their handshake."),
    ("limits.max_memory_bytes", "Resident memory above which strangers are not let in; 0 for no bound."),
    ("limits.max_clients", "Clients with an open session."),
    ("limits.inbox_queue_bytes", "Bytes of bundles that wait to be sealed. Beyond, a client is told that we are busy."),
    ("limits.peer_queue_bytes", "Bytes on their way to one other node."),
    (
        "limits.sender_queue_bytes",
        "Bytes of one sender's bundles between their submission and their place in the order; one bundle always may.\n\
         Beyond, the sender is told that we are busy, and the others' room stays theirs.",
    ),
    (
        "limits.custody_bytes_per_origin",
        "Bytes of slices that this node holds for one other node while their destinations are away.\n\
         Beyond, it is to ask somebody else.",
    ),
    ("limits.max_mailboxes", "Mailboxes that live here. Beyond, no new one is registered; 0 takes none."),
    (
        "limits.registrations_per_minute",
        "New mailboxes in a minute, and as many at once after a quiet one; 0 for no bound. Beyond, who registers is\n\
         told that we are busy, and tries again.",
    ),
    (
        "limits.mailbox_entries",
        "Messages that a mailbox here may hold unacknowledged. Beyond, new ones for it are refused, and their senders\n\
         are told that it is full.",
    ),
    ("limits.mailbox_bytes", "Bytes of these: payload, and 512 for each."),
];

const HEAD: &str = "\
# A node of a Postroad federation. Every value that there is stands here.
#
# The environment overrides this file, and flags override both. The variable of a value is POSTROAD_ and
# its key in capitals: POSTROAD_NAME, POSTROAD_LIMITS_MAX_CLIENTS. Lists there are separated by commas.
";

/// The text of a `postroad.toml` that says what `config` says.
pub fn render(config: &NodeConfig) -> String {
    let mut table = Table::try_from(config).expect("a configuration has nothing that TOML cannot say");
    let mut text = HEAD.to_owned();
    let mut section = "";
    for (key, comment) in COMMENTS {
        text.push('\n');
        let (prefix, name) = key.split_once('.').unwrap_or(("", key));
        if prefix != section {
            section = prefix;
            text.push_str(&format!("[{section}]\n"));
        }
        for line in comment.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let value = slot(&mut table, key).expect("the table of comments knows only keys that there are");
        text.push_str(&format!("{name} = {value}\n"));
    }
    text
}

/// All keys, as in `limits.max_clients`.
pub(super) fn keys() -> Vec<String> {
    COMMENTS.iter().map(|(key, _)| (*key).to_owned()).collect()
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("POSTROAD_{}", key.replace('.', "_").to_uppercase())
}

/// The value of a key in a table.
pub(super) fn slot<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        Some((section, key)) => table.get_mut(section)?.as_table_mut()?.get_mut(key),
        None => table.get_mut(key).filter(|value| !value.is_table()),
    }
}

/// Reads `text` as a value of the same kind as `like`. Whom a node admits is a word or a list.
pub(super) fn value_like(like: &Value, text: &str) -> Result<Value, String> {
    let is_whom = |word: &str| matches!(word, "open" | "closed" | "anybody" | "nobody");
    let is_list = match like {
        Value::Array(_) => !is_whom(text),
        Value::String(word) => is_whom(word) && text.contains("12D3Koo"),
        Value::Integer(_) => {
            return text.trim().parse().map(Value::Integer).map_err(|_| format!("{text:?} is not a whole number"));
        }
        _ => false,
    };
    if !is_list {
        return Ok(Value::String(text.to_owned()));
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_comment_and_every_comment_a_value() {
        let table = Table::try_from(NodeConfig::default()).unwrap();
        let mut found = Vec::new();
        for (key, value) in &table {
            match value.as_table() {
                Some(section) => found.extend(section.keys().map(|inner| format!("{key}.{inner}"))),
                None => found.push(key.clone()),
            }
        }
        let mut known = keys();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
