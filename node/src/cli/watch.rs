//! What `recv` prints of what it watches for: holes, what the libraries say about them, and broken words. The names and
//! fields do not change; docs/clients.md lists them.

use postroad_client::control::{Control, Fate};
use postroad_client::{Closed, Hole, Violation};
use postroad_protocol::MailboxId;
use serde_json::{Value, json};

/// A hole.
pub(super) fn gap(sender: &MailboxId, hole: &Hole, asked: bool) -> (Value, String) {
    let Hole { from, to, hint, .. } = hole;
    let hint_json = hint
        .map(|(number, place)| json!({ "number": number, "via": place.via.to_string(), "seq": place.seq.to_string() }));
    let hint_plain =
        hint.map(|(number, place)| format!("; number {number} stands at {}", place.seq)).unwrap_or_default();
    let asked_plain = if asked { "its sender was asked" } else { "its sender will be asked" };
    (
        json!({
            "type": "gap",
            "from": sender.to_string(),
            "numbers": [from, to],
            "asked": asked,
            "hint": hint_json,
        }),
        format!(
            "missing: {sender} has sent this mailbox messages number {from} to {to}, and they are not \
             here{hint_plain}; {asked_plain}"
        ),
    )
}

/// A hole that is none any more.
pub(super) fn gap_closed(sender: &MailboxId, from: u64, to: u64, why: Closed) -> (Value, String) {
    let (why, plain) = match why {
        Closed::Arrived => ("arrived", "are here now"),
        Closed::Forgotten => ("forgotten", "may never have been used: the sender's memory was set back"),
        Closed::GivenUp => ("given-up", "were never ordered, as the sender says"),
        Closed::Refused => ("refused", "were refused by this mailbox's home, as the sender has proven"),
    };
    (
        json!({ "type": "gap-closed", "from": sender.to_string(), "numbers": [from, to], "why": why }),
        format!("no longer missing: the messages number {from} to {to} of {sender} {plain}"),
    )
}

/// What another library says.
pub(super) fn control(sender: &MailboxId, control: &Control) -> (Value, String) {
    match control {
        Control::Ask { from, to } => (
            json!({ "type": "asked", "from": sender.to_string(), "numbers": [from, to] }),
            format!("{sender} misses the messages number {from} to {to} of this mailbox"),
        ),
        Control::Told(told) => {
            let (fate, plain) = match told.fate {
                Fate::Ordered => ("ordered", "is ordered"),
                Fate::Waiting => ("waiting", "is not ordered yet"),
                Fate::GivenUp => ("given-up", "was never ordered"),
                Fate::Unknown => ("unknown", "is not known any more"),
            };
            let seq = told.seq.map(|seq| seq.to_string());
            let at = seq.as_ref().map(|seq| format!(" at {seq}")).unwrap_or_default();
            (
                json!({
                    "type": "told",
                    "from": sender.to_string(),
                    "number": told.number,
                    "fate": fate,
                    "seq": seq,
                }),
                format!("{sender} says of its message number {}: it {plain}{at}", told.number),
            )
        }
    }
}

/// A broken word.
pub(super) fn violation(violation: &Violation) -> Value {
    let mut line = match violation {
        Violation::Proof(_) => json!({}),
        Violation::Index { expected, found } => json!({ "expected": expected, "found": found }),
        Violation::NotMine { index, recipient } => json!({ "index": index, "recipient": recipient.to_string() }),
        Violation::Forgotten { index, to } => json!({ "index": index, "to": to }),
        Violation::Unattested { to } => json!({ "to": to }),
        Violation::SettledEarly { index, settled, epoch } => {
            json!({ "index": index, "settled": settled, "epoch": epoch })
        }
        Violation::Order { index, seq, before } => {
            json!({ "index": index, "seq": seq.to_string(), "before": before.to_string() })
        }
        Violation::Changed { index } => json!({ "index": index }),
        Violation::Root { number, size } => json!({ "number": number, "size": size }),
        Violation::Shrunk { number, size, before } => json!({ "number": number, "size": size, "before": before }),
        Violation::TwoAttestations { number } => json!({ "number": number }),
        Violation::LastEpoch { number, attested, found } => {
            json!({ "number": number, "attested": attested, "found": found })
        }
        Violation::AfterAttested { index, settled, attested } => {
            json!({ "index": index, "settled": settled, "attested": attested })
        }
        Violation::TwoCuts { epoch } => json!({ "epoch": epoch }),
        Violation::NotContinued { home, size } => json!({ "home": home.to_string(), "size": size }),
        Violation::BelowSettled { seq, below_epoch, below_position } => {
            json!({ "seq": seq.to_string(), "below_epoch": below_epoch, "below_position": below_position })
        }
    };
    line["type"] = "violation".into();
    line["code"] = violation.code().into();
    line["reason"] = violation.to_string().into();
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::{PublicKey, Seq, VerifyError};

    #[test]
    fn every_violation_has_its_code_and_all_its_fields() {
        let seq = Seq { epoch: 3, position: 1, index: 2 };
        let cases = [
            (Violation::Proof(VerifyError::Path { what: "bundle" }), json!({ "code": "proof" })),
            (Violation::Index { expected: 1, found: 2 }, json!({ "code": "index", "expected": 1, "found": 2 })),
            (Violation::Changed { index: 4 }, json!({ "code": "changed", "index": 4 })),
            (
                Violation::Order { index: 4, seq, before: seq },
                json!({ "code": "order", "index": 4, "seq": "3.1.2", "before": "3.1.2" }),
            ),
            (
                Violation::BelowSettled { seq, below_epoch: 5, below_position: 6 },
                json!({ "code": "below-settled", "seq": "3.1.2", "below_epoch": 5, "below_position": 6 }),
            ),
        ];
        for (found, mut expected) in cases {
            expected["type"] = "violation".into();
            expected["reason"] = found.to_string().into();
            assert_eq!(violation(&found), expected);
        }
    }

    #[test]
    fn a_hole_says_what_is_known_of_it() {
        let hole = Hole { from: 2, to: 3, hint: None, asked: false };
        let (line, plain) = gap(&PublicKey([5; 32]), &hole, true);
        assert_eq!((&line["numbers"], &line["asked"], &line["hint"]), (&json!([2, 3]), &json!(true), &Value::Null));
        assert!(plain.ends_with("its sender was asked"), "{plain}");
    }
}
