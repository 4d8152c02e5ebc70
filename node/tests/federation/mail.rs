//! Mail between nodes, as its users see it; and the proofs that they can keep.

use crate::net::{Net, run, text};

/// Text with empty lines, long lines and letters of several bytes.
fn letter() -> String {
    let mut letter = String::from("# Ein Brief\n\n");
    for line in 0..120 {
        letter.push_str(&format!("Zeile {line}: {}\n", "grün ".repeat(line % 17)));
    }
    letter
}

#[test]
fn three_recipients_on_three_nodes_get_the_same_lines_in_the_same_order() {
    let net = Net::start(4);
    let sender = net.mailbox("sender", 1);
    let recipients = [net.mailbox("a", 2), net.mailbox("b", 3), net.mailbox("c", 4)];
    let to: Vec<_> = recipients.iter().collect();
    let sent = sender.send(&to, &[], letter().as_bytes());
    assert_eq!(sent.code, 0, "{}", sent.error);
    assert_eq!(sent.lines.len(), letter().lines().count());
    assert!(sent.lines.iter().all(|line| line["state"] == "ordered"));

    let mut seen = Vec::new();
    for recipient in &recipients {
        let messages = recipient.recv_all(sent.lines.len());
        let got: Vec<&str> = messages.iter().filter_map(|message| message["text"].as_str()).collect();
        assert_eq!(got.join("\n") + "\n", letter());
        assert!(messages.iter().all(|message| message["verified"] == true));
        let places = |lines: &[serde_json::Value]| -> Vec<_> {
            lines.iter().map(|line| (line["seq"].clone(), line["id"].clone(), line["counter"].clone())).collect()
        };
        assert_eq!(places(&messages), places(&sent.lines));
        seen.push(places(&messages));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    // What was acknowledged is not printed again; --from reads it again.
    assert_eq!(recipients[0].recv(&[]).lines.iter().filter(|line| line["type"] == "message").count(), 0);
    let from = seen[0][100].0.as_str().expect("a number").to_owned();
    let again = recipients[0].recv(&["--from", &from]);
    assert_eq!(again.lines.iter().filter(|line| line["type"] == "message").count(), seen[0].len() - 100);
}

#[test]
fn delivered_is_proven_and_any_node_takes_a_submission() {
    let net = Net::start(3);
    let (sender, recipient) = (net.mailbox("sender", 1), net.mailbox("recipient", 2));
    let sent = sender.send(&[&recipient], &["--via", &net.addr(3), "--wait", "delivered", "by another road"], &[]);
    assert_eq!((sent.code, &sent.lines[0]["state"]), (0, &"delivered".into()), "{}", sent.error);
    assert_eq!(recipient.recv_all(1)[0]["text"], "by another road");
    // A mailbox's home, with its proof, from a node that is neither.
    let home = run(&["directory", "show", &recipient.address, "--node", &net.addr(3)]);
    assert!(net.addr(2).ends_with(home.lines[0]["home"].as_str().expect("a home")), "{home:?}");
}

#[test]
fn every_message_has_a_proof_that_verifies_offline_and_breaks_with_any_bit() {
    let net = Net::start(2);
    let (sender, recipient) = (net.mailbox("sender", 1), net.mailbox("recipient", 2));
    assert_eq!(sender.send(&[&recipient], &[], b"one\ntwo\nthree\n").code, 0);
    let proofs = net.path("proofs");
    assert_eq!(recipient.recv(&["--proof", text(&proofs)]).code, 0);
    let files: Vec<_> =
        std::fs::read_dir(&proofs).expect("a directory").map(|file| file.expect("a file").path()).collect();
    assert_eq!(files.len(), 3);
    for file in &files {
        let verdict = run(&["verify", text(file), "--genesis", &net.genesis()]);
        assert_eq!((verdict.code, &verdict.lines[0]["result"]), (0, &"holds".into()));
    }
    // Every bit of one file, by the library call that the command makes; a few through the command itself.
    let genesis = std::fs::read_to_string(net.genesis()).expect("the genesis");
    let genesis = postroad_protocol::Genesis::from_text(&genesis).expect("a genesis");
    let federation = postroad_protocol::Federation::new(genesis).expect("a federation");
    let whole = std::fs::read(&files[0]).expect("the proof");
    let holds = |bytes: &[u8]| {
        postroad_protocol::entry::MessageProof::from_file(bytes).is_ok_and(|proof| proof.verify(&federation).is_ok())
    };
    assert!(holds(&whole));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!holds(&flipped), "bit {bit} of {} does not matter", whole.len() * 8);
    }
    for bit in (0..whole.len() * 8).step_by(whole.len() * 8 / 10) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let file = net.path("flipped.proof");
        std::fs::write(&file, flipped).expect("it is written");
        let verdict = run(&["verify", text(&file), "--genesis", &net.genesis()]);
        assert_eq!((verdict.code, &verdict.lines[0]["result"]), (3, &"malformed".into()), "bit {bit}");
    }
}
