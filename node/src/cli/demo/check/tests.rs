//! The check against every kind of damage: each single line dropped, repeated, swapped or altered in any field.
//!
//! Damage is done twice: as it is, where the trailer shows it, and with the trailer made to fit, where what the files
//! say of each other has to show it.

use serde_json::{Value, json};

use super::super::files::{Line, Message, Moved, Owner, Sent, sha256, text, trailer};
use super::*;

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

fn address(name: &str) -> String {
    format!("address-of-{name}")
}

fn owner(name: &str) -> Owner {
    Owner { address: address(name), home: format!("home-of-{name}"), epoch: 3, strict: false }
}

/// (sender, recipients, place); every epoch has two witnesses, so that each word of one is held against another's.
const MAIL: [(usize, &[usize], Place); 7] = [
    (0, &[1, 2], (5, 0, 0)),
    (0, &[0, 1], (5, 0, 1)),
    (1, &[2], (6, 0, 0)),
    (1, &[0, 1, 2], (6, 1, 0)),
    (2, &[0, 1], (9, 0, 0)),
    (2, &[1, 2], (10, 0, 0)),
    (0, &[2, 1], (10, 1, 0)),
];

/// Three clients' files as they should be; carol gets the third message late.
fn sound() -> Vec<Written> {
    let mut sent: Vec<Vec<Line>> = vec![Vec::new(); 3];
    let mut recv: Vec<Vec<Message>> = vec![Vec::new(); 3];
    for (number, (sender, to, (epoch, position, index))) in MAIL.into_iter().enumerate() {
        let (seq, id) = (format!("{epoch}.{position}.{index}"), format!("id-{number}"));
        let recipients: Vec<String> = to.iter().map(|to| address(NAMES[*to])).collect();
        let says = format!("message {number}");
        let counter = sent[sender].len() as u64 + 1;
        sent[sender].push(Line::Sent(Sent {
            line: counter,
            id: Some(id.clone()),
            counter: Some(counter),
            state: "ordered".into(),
            weak: false,
            seq: Some(seq.clone()),
            to: recipients.clone(),
            text_sha256: sha256(says.as_bytes()),
        }));
        for to in to {
            recv[*to].push(Message {
                line: 0,
                log_index: 0,
                seq: seq.clone(),
                id: id.clone(),
                time_ms: 1_000 + epoch,
                sender: address(NAMES[sender]),
                recipients: recipients.clone(),
                text: says.clone(),
                counter,
                home: format!("home-of-{}", NAMES[*to]),
                late: false,
                verified: true,
            });
        }
    }
    recv[2].swap(1, 2);
    recv[2][2].late = true;
    let file = |name: &str, lines: Vec<Line>| {
        let mut body = text(&Line::Mailbox(owner(name)));
        let count = lines.len() as u64;
        lines.iter().for_each(|line| body.push_str(&text(line)));
        let end = trailer(&address(name), count, body.as_bytes());
        body + &end
    };
    (NAMES.iter().zip(sent).zip(recv))
        .map(|((name, sent), mut recv)| {
            for (number, message) in (0..).zip(&mut recv) {
                (message.line, message.log_index) = (number + 1, number);
            }
            let recv = recv.into_iter().map(Line::Message).collect();
            Written { name: (*name).into(), sent: file(name, sent), recv: file(name, recv) }
        })
        .collect()
}

/// Does `damage` to the lines of every file in turn, and hands over the result with the trailer as it was, and with
/// one that fits.
fn damaged(damage: impl Fn(&[String]) -> Vec<Vec<String>>, mut judge: impl FnMut(Vec<Written>, bool, &str)) {
    let sound = sound();
    for client in 0..sound.len() {
        for is_sent in [true, false] {
            let pick = |written: &mut Vec<Written>| match is_sent {
                true => std::mem::take(&mut written[client].sent),
                false => std::mem::take(&mut written[client].recv),
            };
            let put = |content: String| {
                let mut written = sound.clone();
                *(if is_sent { &mut written[client].sent } else { &mut written[client].recv }) = content;
                written
            };
            let content = pick(&mut sound.clone());
            let lines: Vec<String> = content.lines().map(|line| format!("{line}\n")).collect();
            for (number, lines) in damage(&lines).into_iter().enumerate() {
                let what = format!("{} sent={is_sent} case {number}", NAMES[client]);
                judge(put(lines.concat()), false, &what);
                let is_end = |line: &String| line.contains("\"type\":\"end\"");
                let body: Vec<String> = lines.iter().filter(|line| !is_end(line)).cloned().collect();
                let count = body.len().saturating_sub(1) as u64;
                let end = trailer(&address(NAMES[client]), count, body.concat().as_bytes());
                judge(put(body.concat() + &end), true, &what);
            }
        }
    }
}

#[test]
fn sound_files_pass_and_are_counted() {
    let report = check(&sound());
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.ordered, report.received), (7, 14));
    assert_eq!((report.missing, report.duplicate, report.disordered), (0, 0, 0));
    let rows: Vec<_> = report.rows.iter().map(|row| (row.sent, row.received, row.verified)).collect();
    assert_eq!(rows, [(3, 3, 3), (2, 6, 6), (2, 5, 5)]);
}

#[test]
fn nothing_at_all_does_not_pass() {
    assert!(!check(&[]).is_ok());
}

#[test]
fn every_dropped_line_shows() {
    let drop = |lines: &[String]| {
        (0..lines.len()).map(|at| [&lines[..at], &lines[at + 1..]].concat()).collect::<Vec<Vec<String>>>()
    };
    let whole = sound();
    damaged(drop, |written, forged, what| {
        // With a trailer that fits, a file whose trailer alone was dropped is the sound one again.
        let is_sound = written.iter().zip(&whole).all(|(a, b)| a.sent == b.sent && a.recv == b.recv);
        assert!(!check(&written).is_ok() || (forged && is_sound), "{what} forged={forged}");
    });
}

#[test]
fn every_repeated_line_shows() {
    let repeat = |lines: &[String]| {
        (0..lines.len()).map(|at| [&lines[..=at], &lines[at..]].concat()).collect::<Vec<Vec<String>>>()
    };
    let whole = sound();
    damaged(repeat, |written, forged, what| {
        let is_sound = written.iter().zip(&whole).all(|(a, b)| a.sent == b.sent && a.recv == b.recv);
        assert!(!check(&written).is_ok() || (forged && is_sound), "{what} forged={forged}");
    });
}

#[test]
fn every_two_swapped_lines_show() {
    let swap = |lines: &[String]| {
        let mut cases = Vec::new();
        for a in 0..lines.len() {
            for b in a + 1..lines.len() {
                let mut lines = lines.to_vec();
                lines.swap(a, b);
                cases.push(lines);
            }
        }
        cases
    };
    let whole = sound();
    damaged(swap, |written, forged, what| {
        let is_sound = written.iter().zip(&whole).all(|(a, b)| a.sent == b.sent && a.recv == b.recv);
        assert!(!check(&written).is_ok() || (forged && is_sound), "{what} forged={forged}");
    });
}

/// Swapped lines whose numbers and trailer were made to fit: the order itself has to show it.
#[test]
fn swapped_and_renumbered_lines_show() {
    for (client, at) in [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)] {
        let mut written = sound();
        let mut lines: Vec<Value> =
            written[client].recv.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.pop();
        lines.swap(at, at + 1);
        for (number, line) in lines.iter_mut().enumerate().skip(1) {
            line["line"] = json!(number);
            line["log_index"] = json!(number - 1);
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let end = trailer(&address(NAMES[client]), lines.len() as u64 - 1, body.as_bytes());
        written[client].recv = body + &end;
        let report = check(&written);
        assert!(report.disordered > 0, "{client} {at}: {:?}", report.problems);
    }
}

/// Other values for a field.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(value) => vec![json!(!value)],
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![json!(number + 1), json!(number.wrapping_sub(1)), json!("1"), json!(null)]
        }
        Value::String(text) => vec![json!(format!("{text}x")), json!(format!("0{text}")), json!(""), json!(null)],
        Value::Array(items) => {
            let mut more = items.clone();
            more.push(json!(address("alice")));
            let mut fewer = items.clone();
            fewer.pop();
            let mut turned = items.clone();
            turned.reverse();
            let mut cases = vec![json!(more), json!(fewer), json!([]), json!(null)];
            cases.extend((items.len() > 1).then(|| json!(turned)));
            cases
        }
        _ => vec![json!(1)],
    }
}

#[test]
fn every_altered_field_of_every_line_shows() {
    // Of these, no other file says anything; only the trailer keeps them.
    const ALONE: [&str; 2] = ["weak", "late"];
    let fields = [
        "type",
        "line",
        "id",
        "counter",
        "state",
        "weak",
        "seq",
        "to",
        "text_sha256",
        "log_index",
        "time_ms",
        "sender",
        "recipients",
        "text",
        "home",
        "late",
        "verified",
        "address",
        "epoch",
        "strict",
        "lines",
        "sha256",
    ];
    let whole = sound();
    for field in fields {
        let alter = |lines: &[String]| {
            let mut cases = Vec::new();
            for at in 0..lines.len() {
                let line: Value = serde_json::from_str(&lines[at]).unwrap();
                let Some(value) = line.get(field) else { continue };
                for other in others(value) {
                    let mut line = line.clone();
                    line[field] = other;
                    let mut lines = lines.to_vec();
                    lines[at] = format!("{line}\n");
                    cases.push(lines);
                }
                let mut without = line.clone();
                without.as_object_mut().unwrap().shift_remove(field);
                let mut lines = lines.to_vec();
                lines[at] = format!("{without}\n");
                cases.push(lines);
            }
            cases
        };
        damaged(alter, |written, forged, what| {
            let ok = check(&written).is_ok();
            let is_sound = written.iter().zip(&whole).all(|(a, b)| a.sent == b.sent && a.recv == b.recv);
            assert!(!ok || (forged && (is_sound || ALONE.contains(&field))), "{field}: {what} forged={forged}");
        });
    }
}

#[test]
fn each_wrong_is_counted_as_what_it_is() {
    let damage = |client: usize, from: &str, to: &str| {
        let mut written = sound();
        let lines: Vec<String> = written[client].recv.lines().map(|line| format!("{line}\n")).collect();
        let body: String = lines[..lines.len() - 1].concat().replace(from, to);
        let end = trailer(&address(NAMES[client]), lines.len() as u64 - 2, body.as_bytes());
        written[client].recv = body + &end;
        check(&written)
    };
    let report = damage(0, "id-1", "id-9");
    assert_eq!((report.missing, report.duplicate), (1, 0));
    assert!(report.problems.iter().any(|problem| problem.contains("nobody sent it")));
    let report = damage(1, "id-1", "id-0");
    assert_eq!((report.missing, report.duplicate), (1, 1));
    let report = damage(1, "\"seq\":\"6.1.0\"", "\"seq\":\"6.2.0\"");
    assert!(report.disordered > 0 && report.missing == 0);
    let report = damage(2, "\"late\":true", "\"late\":false");
    assert_eq!(report.disordered, 1);
    let report = damage(2, "\"verified\":true", "\"verified\":false");
    assert_eq!(report.rows[2].verified, 0);
}

#[test]
fn a_client_that_is_gone_shows() {
    let mut written = sound();
    written.remove(1);
    assert!(!check(&written).is_ok());
}

#[test]
fn a_message_that_was_not_ordered_is_a_problem() {
    let mut written = sound();
    written[0].sent = written[0].sent.replace("ordered", "accepted");
    assert!(!check(&written).is_ok());
}

#[test]
fn places_have_one_text() {
    assert_eq!(place("17.0.3"), Some((17, 0, 3)));
    for bad in ["", "1.2", "1.2.3.4", "01.2.3", "+1.2.3", "1.2.3 ", "1.2.-3"] {
        assert_eq!(place(bad), None, "{bad:?}");
    }
}

/// Bob's files, read strictly, with a move before his last two messages; then `change` alters what he received.
fn moved(change: impl Fn(&mut Vec<Line>)) -> Report {
    let mut written = sound();
    let again = |content: &str, change: &dyn Fn(&mut Vec<Line>)| {
        let parsed = parse(content).unwrap();
        let mut lines = parsed.lines;
        change(&mut lines);
        for (number, line) in (1..).zip(&mut lines) {
            match line {
                Line::Message(message) => message.line = number,
                Line::Moved(moved) => moved.line = number,
                _ => {}
            }
        }
        let first = Line::Mailbox(Owner { strict: true, ..parsed.owner.clone() });
        let body: String = [&first].into_iter().chain(&lines).map(text).collect();
        let end = trailer(&parsed.owner.address, lines.len() as u64, body.as_bytes());
        body + &end
    };
    written[1].sent = again(&written[1].sent, &|_| {});
    written[1].recv = again(&written[1].recv, &|lines| {
        lines.insert(4, Line::Moved(Moved { line: 0, home: "new-home-of-bob".into() }));
        for (line, log_index) in lines[5..].iter_mut().zip([9, 7]) {
            let Line::Message(message) = line else { panic!("bob has six messages") };
            (message.home, message.log_index, message.late) = ("new-home-of-bob".into(), log_index, true);
        }
        change(lines);
    });
    check(&written)
}

fn message(line: &mut Line) -> &mut Message {
    let Line::Message(message) = line else { panic!("it is a message") };
    message
}

#[test]
fn a_mailbox_may_move_and_nothing_is_lost_or_out_of_order_by_that() {
    let report = moved(|_| {});
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.received, 14);
    assert_eq!(moved(|lines| drop(lines.remove(6))).missing, 1);
    assert_eq!(moved(|lines| drop(lines.remove(2))).missing, 1);
    assert!(moved(|lines| lines.push(lines[3].clone())).duplicate > 0);
}

#[test]
fn a_move_that_does_not_fit_shows() {
    type Damage = fn(&mut Vec<Line>);
    let cases: [(&str, Damage); 6] = [
        ("no move", |lines| drop(lines.remove(4))),
        ("too late", |lines| lines.swap(4, 5)),
        ("too early", |lines| lines.swap(3, 4)),
        ("told twice", |lines| lines.insert(4, lines[4].clone())),
        ("delivered by the former home", |lines| message(&mut lines[6]).home = "home-of-bob".into()),
        ("one index twice", |lines| message(&mut lines[6]).log_index = 9),
    ];
    for (what, change) in cases {
        assert!(!moved(change).is_ok(), "{what}");
    }
}

#[test]
fn strict_order_knows_no_late_messages() {
    let report = moved(|lines| lines.swap(5, 6));
    assert_eq!((report.disordered, report.missing, report.duplicate), (1, 0, 0));
}
