//! What the commands of a mailbox's owner share: how the client library's errors end a process, which node is asked
//! when none is named, and how times and bytes are written.

use std::path::Path;

use postroad_client::{ClientError, NodeAddr};
use postroad_store::StoreError;

use super::output::{CliError, Exit};
use super::testnet::record;

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        let message = error.to_string();
        match error {
            ClientError::BadAddress { .. } => {
                CliError::usage("bad-address", message, "copy it from the node's operator")
            }
            ClientError::Unreachable { .. } => CliError::unreachable(
                "unreachable",
                message,
                "check the address, and that the node runs (`postroad status --node MULTIADDR`)",
            ),
            ClientError::TimedOut { .. } => {
                CliError::unreachable("timed-out", message, "try again, or give it more time (--timeout-ms)")
            }
            ClientError::Refused(refusal) => CliError::refused(refusal_code(refusal.code()), message, ""),
            ClientError::NotRegistered { .. } => {
                CliError::refused("not-registered", message, "check the address, or register it: postroad mailbox new")
            }
            ClientError::Unverified { .. } => {
                CliError::unverified("unverified", message, "do not use this node; keep what it said")
            }
            ClientError::Violation(_) => {
                CliError::unverified("violation", message, "nothing was acknowledged; keep the mailbox's directory")
            }
            ClientError::Misbehaving { .. } => {
                CliError::unverified("misbehaving", message, "check the node's version, or use another node")
            }
            ClientError::Genesis(_) => CliError::usage("bad-genesis", message, "get the federation's file again"),
            ClientError::WrongFederation { .. } => {
                CliError::refused("wrong-federation", message, "use a node of the mailbox's own federation")
            }
            ClientError::Directory { .. } => CliError::usage("mailbox-directory", message, ""),
            ClientError::Io { .. } => {
                CliError::refused("io", message, "check the path, its permissions and the free space")
            }
            ClientError::Store(StoreError::InUse { .. }) => CliError::in_use(message),
            ClientError::Store(_) => CliError::refused("store", message, ""),
            ClientError::Export(error) => super::export::failed(error),
            ClientError::TooManyHeld { .. } => CliError::refused("too-many-held", message, "read without --strict"),
            ClientError::MoveUnderWay { .. } => {
                CliError::refused("move-under-way", message, "postroad move abort --mailbox DIR, or move resume")
            }
            ClientError::NoMove => CliError::refused("no-move", message, "begin one with postroad move start"),
            ClientError::HasMoved { .. } => CliError::refused("has-moved", message, "postroad move start --to OLD"),
            ClientError::Stopped { .. } => CliError::refused("stopped", message, "start again; nothing is lost"),
        }
    }
}

/// A refusal's code in the command's spelling. There are few, and each is made once.
fn refusal_code(code: &'static str) -> &'static str {
    match code {
        "stale_counter" => "stale-counter",
        "too_large" => "too-large",
        "unknown_recipient" => "unknown-recipient",
        "unknown_sender" => "unknown-sender",
        "wrong_via" => "wrong-via",
        "bad_validity" => "bad-validity",
        "repeated_recipient" => "repeated-recipient",
        "recipient_count" => "recipient-count",
        "wrong_federation" => "wrong-federation",
        "not_ready" => "not-ready",
        "not_here" => "not-here",
        "already_registered" => "already-registered",
        "not_found" => "not-found",
        "not_allowed" => "not-allowed",
        code => code,
    }
}

/// The node that is asked when none is named: `POSTROAD_NODE`, else the first of `./testnet.json`.
///
/// # Errors
/// A usage error that says so, when there is neither.
pub(super) fn default_node() -> Result<NodeAddr, CliError> {
    if let Ok(text) = std::env::var("POSTROAD_NODE") {
        return Ok(text.parse::<NodeAddr>()?);
    }
    let record = record::read(Path::new("."))?;
    let first = record.iter().flat_map(|record| &record.nodes).flat_map(|node| &node.addrs).next();
    match first {
        Some(addr) => Ok(addr.parse::<NodeAddr>()?),
        None => Err(CliError::usage(
            "no-node",
            "no node is named, POSTROAD_NODE is not set, and there is no testnet.json in this directory",
            "name one with --node MULTIADDR",
        )),
    }
}

/// A wrong argument.
pub(super) fn usage(message: impl Into<String>, fix: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, "usage", message, fix)
}

/// A Unix time in milliseconds as `2025-11-22 18:30:05` (UTC).
pub(super) fn time_text(time_ms: u64) -> String {
    let seconds = time_ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date by 400-year eras that begin on 1 March (Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// Base64 with padding (RFC 4648, section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let padded = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00");
        assert_eq!(time_text(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(time_text(1_763_836_205_999), "2025-11-22 18:30:05");
    }
}
