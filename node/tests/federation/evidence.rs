//! Evidence over real processes: judged, kept, handed on to every node, listed, and verified with nothing but the
//! genesis.

use std::time::{Duration, Instant};

use postroad::config::NodeDir;
use postroad_client::{Endpoint, NodeAddr};
use postroad_protocol::batch::{Entries, Header};
use postroad_protocol::evidence::{Claim, Equivocation};
use postroad_protocol::wire::call::{Judged, Question, Reply};
use postroad_protocol::{Digest, Federation, SecretKey, Signed};
use serde_json::Value;

use crate::net::{Net, run, text};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two headers of `secret` with one number, the second of this incarnation: one number for each incarnation, so that those
/// of two incarnations are another fault.
pub(crate) fn equivocation(secret: &SecretKey, incarnation: u64, federation: &Federation) -> Claim {
    let with = incarnation;
    let sign = |incarnation, routing_epoch| {
        let header = Header {
            origin: secret.public(),
            incarnation,
            number: 1_000_000 + with,
            previous: Digest::ZERO,
            routing_epoch,
            attestation: None,
            entries: Entries::over(std::iter::empty(), federation.id()),
            slices: Vec::new(),
        };
        Signed::sign(header, secret, federation).into_inner()
    };
    Claim::Equivocation(Box::new(Equivocation::of(sign(1, 1), sign(incarnation, 2), federation)))
}

/// What a node's key and the federation would make of it.
pub(crate) fn equivocation_of(net: &Net, culprit: usize) -> (Claim, Federation) {
    let dir = NodeDir::new(&net.path(&format!("net/node-{culprit}")));
    let federation = dir.read_genesis().expect("its federation");
    (equivocation(&dir.read_key().expect("its key"), 1, &federation), federation)
}

/// Hands a claim to a node.
pub(crate) fn accuse(addr: &str, claim: &Claim) -> Judged {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node: NodeAddr = addr.parse().expect("an address");
        let question = Question::Accuse(Box::new(claim.clone()));
        let endpoint = Endpoint::anonymous().expect("an endpoint");
        match endpoint.call(&node, &question, PATIENCE).await.expect("an answer") {
            Reply::Judged(judged) => judged,
            reply => panic!("{reply:?}"),
        }
    })
}

/// The lines of `evidence list`, once there are so many.
pub(crate) fn listed(addr: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ran = run(&["evidence", "list", "--node", addr]);
        assert_eq!(ran.code, 0, "{ran:?}");
        if ran.lines.len() >= count {
            return ran.lines;
        }
        assert!(Instant::now() < deadline, "{} of {count}", ran.lines.len());
    }
}

#[test]
fn evidence_is_judged_kept_spread_and_verified_without_any_node() {
    let mut net = Net::start(3);
    let (claim, federation) = equivocation_of(&net, 2);
    net.kill(3);
    let id = claim.id(&federation);
    for _ in 0..2 {
        assert_eq!(accuse(&net.addr(1), &claim), Judged::Kept(id));
    }
    let told = net.wait_for("verdict");
    assert_eq!((&told["kind"], &told["culprit_node"]), (&"equivocation".into(), &2.into()), "{told}");
    assert!(told["found_by_node"].is_null() && told["after_epochs"].is_u64(), "a stranger handed it in: {told}");
    let verdict = run(&["verify", told["evidence"].as_str().expect("a path"), "--genesis", &net.genesis()]);
    assert_eq!((verdict.code, &verdict.lines[0]["id"]), (0, &id.to_string().into()), "{verdict:?}");

    let secret = NodeDir::new(&net.path("net/node-2")).read_key().expect("its key");
    let innocent = equivocation(&secret, 2, &federation);
    let cleared = accuse(&net.addr(1), &innocent);
    assert!(matches!(&cleared, Judged::Cleared(reason) if reason.contains("incarnations")), "{cleared:?}");
    let Claim::Equivocation(mut forged) = claim.clone() else { panic!("an equivocation") };
    forged.first.body.number += 7;
    forged.second.body.number += 7;
    assert!(matches!(accuse(&net.addr(1), &Claim::Equivocation(forged)), Judged::Unproven(_)));

    // The second node is told by the first, and the third when it is back.
    net.revive(3);
    for node in [1, 2, 3] {
        let lines = listed(&net.addr(node), 1);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        assert_eq!((&line["type"], &line["kind"]), (&"evidence".into(), &"equivocation".into()));
        assert_eq!((&line["culprit"], &line["id"]), (&net.peer_id(2).into(), &id.to_string().into()));
        assert!(line["found_epoch"].is_u64() && line["bytes"].is_u64(), "{line}");
        let others: Vec<String> =
            [1, 2, 3].into_iter().filter(|other| *other != node).map(|n| net.peer_id(n)).collect();
        assert!(node == 1 || others.iter().any(|other| line["found_by"] == other.as_str()), "{line}");
    }

    let file = net.path("fault.evidence");
    let short = &id.to_string()[..12];
    let exported = run(&["evidence", "export", short, "--out", text(&file), "--node", &net.addr(3)]);
    assert_eq!((exported.code, &exported.lines[0]["id"]), (0, &id.to_string().into()), "{exported:?}");
    net.stop_revived();
    for node in [1, 2] {
        net.stop(node);
    }
    let dir = net.path("net/node-2");
    // The process holds the directory for a moment longer.
    let mut checked = run(&["fsck", "--dir", text(&dir)]);
    while checked.code == 5 {
        checked = run(&["fsck", "--dir", text(&dir)]);
    }
    assert_eq!(checked.code, 0, "{checked:?}");
    let stopped = run(&["evidence", "show", short, "--dir", text(&dir)]);
    assert_eq!((stopped.code, &stopped.lines[0]["kind"]), (0, &"equivocation".into()), "{stopped:?}");

    let genesis = net.genesis();
    for args in [&["verify"][..], &["evidence", "verify"]] {
        let verdict = run(&[args, &[text(&file), "--genesis", &genesis]].concat());
        assert_eq!((verdict.code, &verdict.lines[0]["result"]), (0, &"guilty".into()), "{verdict:?}");
        assert_eq!(verdict.lines[0]["culprit"], net.peer_id(2).as_str());
    }
    std::fs::write(&file, innocent.to_file(&federation)).expect("it is written");
    let cleared = run(&["verify", text(&file), "--genesis", &genesis]);
    assert_eq!((cleared.code, &cleared.lines[0]["type"]), (1, &"cleared".into()), "{cleared:?}");
    let mut bytes = claim.to_file(&federation);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("it is written");
    let nothing = run(&["verify", text(&file), "--genesis", &genesis]);
    assert_eq!((nothing.code, &nothing.error["code"]), (3, &"malformed".into()), "{nothing:?}");
}

/// Operators decide: one takes no new mail of a convicted node, one has no contact with it, one does nothing. What was
/// taken into custody before is delivered.
#[test]
fn a_convicted_node_is_treated_as_each_operator_says() {
    let mut net = Net::start(4);
    net.configure(3, &[("policy", "\"refuse-contact\"".into())]);
    let [culprit, friend, shunning] =
        [("culprit", 2), ("friend", 4), ("shunning", 3)].map(|(n, at)| net.mailbox(n, at));
    assert_eq!(culprit.send(&[&shunning, &friend], &["--wait", "delivered", "before"], &[]).code, 0);
    let (claim, federation) = equivocation_of(&net, 2);
    assert_eq!(accuse(&net.addr(1), &claim), Judged::Kept(claim.id(&federation)));
    listed(&net.addr(3), 1);
    let state = |node: usize| -> Value {
        let ran = run(&["status", "--node", &net.addr(node)]);
        let peers = ran.lines[0]["peers"].as_array().expect("a list").clone();
        peers.into_iter().find(|peer| peer["peer_id"] == net.peer_id(2).as_str()).expect("the culprit")["state"].clone()
    };
    let deadline = Instant::now() + PATIENCE;
    while state(3) != "unreachable" {
        assert!(Instant::now() < deadline, "{}", state(3));
    }
    assert_eq!(state(1), "ready", "its operator said nothing");
    assert_eq!(culprit.send(&[&friend], &["--wait", "delivered", "after"], &[]).code, 0);
    assert_eq!(shunning.recv_all(1)[0]["text"], "before");
    assert_eq!(friend.recv_all(2)[1]["text"], "after");
}
