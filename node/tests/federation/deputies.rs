//! Deputies: named with their consent only, and first to hold the mail of the node that names them.

use std::time::Instant;

use postroad::config::NodeDir;
use postroad_client::{ClientError, Endpoint, NodeAddr};
use postroad_protocol::record::{NodeRecord, Record};
use postroad_protocol::signed::{Statement, verify_digest};
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{NodeId, Refusal, SecretKey, Signature, Signed};
use serde_json::Value;

use crate::net::{Mailbox, Net, PATIENCE, run};

/// Has a node wish for these deputies, which all consent, and waits until they are named.
pub(crate) fn deputise(net: &mut Net, node: usize, deputies: &[usize]) {
    wish(net, node, deputies);
    until_named(net, node, deputies);
}

fn wish(net: &mut Net, node: usize, deputies: &[usize]) {
    let ids: Vec<String> = deputies.iter().map(|deputy| net.peer_id(*deputy)).collect();
    net.configure(node, &[("deputies", format!("{ids:?}"))]);
}

/// Waits until a cut has settled a record that names exactly these.
fn until_named(net: &Net, node: usize, deputies: &[usize]) {
    let id = |number: usize| -> NodeId { net.peer_id(number).parse().expect("a PeerId") };
    let (node, deputies) = (id(node), deputies.iter().map(|deputy| id(*deputy)).collect::<Vec<_>>());
    let at: NodeAddr = net.addr(1).parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::anonymous().expect("an endpoint");
        let deadline = Instant::now() + PATIENCE;
        let (mut after, mut named) = (0, Vec::new());
        while named != deputies {
            assert!(Instant::now() < deadline, "{node} names {named:?}");
            let Reply::Cuts(cuts) = endpoint.call(&at, &Question::Cuts(after), PATIENCE).await.expect("an answer")
            else {
                panic!("no cuts");
            };
            for record in cuts.iter().flat_map(|cut| &cut.body.records) {
                match record {
                    Record::Node(signed) if signed.node.body.node == node => {
                        named.clone_from(&signed.node.body.deputies);
                    }
                    _ => {}
                }
            }
            after = cuts.last().map_or(after, |cut| cut.certified.header.epoch);
        }
    });
}

/// What node `number` says when it is asked to be a deputy of whoever has `secret`: its consent, once that is verified.
fn consent(net: &Net, number: usize, secret: &SecretKey, deputies: Vec<NodeId>) -> Result<Signature, Refusal> {
    let federation = postroad_client::read_genesis(net.genesis().as_ref()).expect("the genesis");
    let body = NodeRecord { node: secret.public(), version: 1_000, name: String::new(), addrs: Vec::new(), deputies };
    let digest = body.digest(federation.id());
    let record = Signed::sign(body, secret, &federation).into_inner();
    let at: NodeAddr = net.addr(number).parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let asked = runtime.block_on(async {
        let endpoint = Endpoint::anonymous().expect("an endpoint");
        endpoint.call(&at, &Question::Deputise(record), PATIENCE).await
    });
    match asked {
        Ok(Reply::Deputised(consent)) => {
            assert!(verify_digest(&at.node(), digest, &consent), "it consents to exactly this record");
            Ok(consent)
        }
        Err(ClientError::Refused(refusal)) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_consents_only_where_its_operator_and_the_record_say_so() {
    let mut net = Net::start(3);
    let asker = NodeDir::new(&net.path("net/node-2")).read_key().expect("its key");
    let stranger = SecretKey::from_seed([7; 32]);
    let id = |number: usize| -> NodeId { net.peer_id(number).parse().expect("a PeerId") };
    let (named, other) = (vec![id(3)], vec![id(1)]);
    let refused = |reason: &str| Err(Refusal::NotAllowed { reason: reason.into() });
    assert!(consent(&net, 3, &asker, named.clone()).is_ok());
    assert_eq!(consent(&net, 3, &stranger, named.clone()), refused("a deputy only of nodes of the federation"));
    let unnamed = Err(Refusal::Invalid { reason: "the record does not name this node as a deputy".into() });
    assert_eq!(consent(&net, 3, &asker, other), unnamed);
    let others = format!("[{:?}]", net.peer_id(1));
    net.configure(3, &[("deputy_for", others)]);
    let policy = "this node's policy does not let that node name it as a deputy";
    assert_eq!(consent(&net, 3, &asker, named), refused(policy));
}

/// Who holds a message that is sent while its home is away.
fn holders(net: &Net, sender: &Mailbox, recipient: &Mailbox, words: &str) -> Vec<usize> {
    let sent = sender.send(&[recipient], &[words], &[]);
    assert_eq!(sent.code, 0, "{}", sent.error);
    let seq = sent.lines[0]["seq"].as_str().expect("a number");
    let explained = run(&["explain", "--mailbox", &recipient.address, "--seq", seq, "--node", &net.addr(1)]);
    let told = explained.lines.last().expect("a conclusion");
    assert_eq!(told["conclusion"], "pending", "{told}");
    let holders = told["holders"].as_array().expect("a list");
    let number = |holder: &Value| (1..=5).find(|node| *holder == net.peer_id(*node)).expect("a node");
    holders.iter().map(number).collect()
}

#[test]
fn a_deputy_that_consents_holds_the_mail_of_a_node_that_is_away() {
    let mut net = Net::start(5);
    let (sender, recipient) = (net.mailbox("sender", 4), net.mailbox("recipient", 2));
    let before = sender.send(&[&recipient], &["--wait", "delivered", "before"], &[]);
    assert_eq!(before.code, 0, "{}", before.error);
    net.kill(2);
    let by_hash = holders(&net, &sender, &recipient, "nobody is named");
    assert_eq!(by_hash.len(), 2, "{by_hash:?}");
    let deputy = [1, 3, 5].into_iter().find(|node| !by_hash.contains(node)).expect("a third one");
    let unwilling = *by_hash.iter().find(|node| **node != 1).expect("one of two");
    net.revive(2);
    net.configure(unwilling, &[("deputy_for", "\"nobody\"".to_owned())]);
    wish(&mut net, 2, &[unwilling, deputy]);
    until_named(&net, 2, &[deputy]);
    let during = sender.send(&[&recipient], &["--wait", "delivered", "in between"], &[]);
    assert_eq!(during.code, 0, "{}", during.error);
    net.kill(2);
    let named = holders(&net, &sender, &recipient, "a deputy is named");
    assert!(named.contains(&deputy), "{named:?} hold it, not {deputy}");

    net.revive(2);
    let mut texts: Vec<Value> =
        recipient.recv_until(&[], 4).into_iter().map(|message| message["text"].clone()).collect();
    texts.sort_by_key(Value::to_string);
    assert_eq!(texts, ["a deputy is named", "before", "in between", "nobody is named"]);

    net.configure(unwilling, &[("deputy_for", "\"anybody\"".to_owned())]);
    until_named(&net, 2, &[unwilling, deputy]);
}
