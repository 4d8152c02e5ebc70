//! Bytes that mean nothing, on every protocol: each is refused, with a word where the protocol has one, and the node
//! serves on.

use std::time::Duration;

use postroad_net::{Config, Limits, Network, split_address};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::wire::call::Reply;
use postroad_protocol::wire::client::{FromClient, ToClient};
use postroad_protocol::wire::{CALL, CLIENT, MAIL, ORDER};
use postroad_protocol::{Digest, Refusal};

use crate::net::{Net, run};

const PATIENCE: Duration = Duration::from_secs(10);

fn stranger() -> Network {
    let config = Config {
        secret: [77; 32],
        listen: Vec::new(),
        protocols: Vec::new(),
        agent: "stranger".into(),
        identify_protocol: "/postroad/1".into(),
        limits: Limits::default(),
    };
    Network::start(config).expect("a network").0
}

/// Writes one message and reads what comes back until the node ends the stream.
async fn exchange(network: &Network, addr: &str, protocol: &'static str, messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (peer, place) = split_address(addr).expect("an address");
    network.connect(peer, vec![place], PATIENCE).await.expect("a connection");
    let (mut reader, mut writer) = network.open(peer, protocol, PATIENCE).await.expect("a stream").framed();
    for message in messages {
        // The node may have closed the stream on an earlier message.
        let _ = writer.send(message).await;
    }
    let mut answers = Vec::new();
    let read = async {
        while let Ok(Some(answer)) = reader.read(1 << 20).await {
            answers.push(answer);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the node ends the stream");
    answers
}

#[test]
fn garbage_is_refused_on_every_protocol_and_the_node_serves_on() {
    let net = Net::start(2);
    let addr = net.addr(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let network = stranger();
        let garbage: [&[u8]; 5] = [b"", b"\xff", &[0x9f; 64], &[0x82, 0x00, 0x9b, 0xff, 0xff, 0xff], &[0x5a; 100_000]];
        for bytes in garbage {
            for protocol in [MAIL, ORDER] {
                assert_eq!(exchange(&network, &addr, protocol, &[bytes.to_vec()]).await, Vec::<Vec<u8>>::new());
            }
            let answers = exchange(&network, &addr, CALL, &[bytes.to_vec()]).await;
            let reply: Reply = decode(&answers[0]).expect("a well-formed answer");
            assert!(matches!(reply, Reply::Refused(Refusal::Invalid { .. })), "{reply:?}");
            let answers = exchange(&network, &addr, CLIENT, &[bytes.to_vec()]).await;
            let answer: ToClient = decode(&answers[0]).expect("a well-formed answer");
            assert!(matches!(answer, ToClient::Refused(Refusal::Invalid { .. })), "{answer:?}");
        }
        // Another federation's client is told so.
        let foreign = encode(&FromClient::Hello(Digest([9; 32])));
        let answers = exchange(&network, &addr, CLIENT, &[foreign]).await;
        let answer: ToClient = decode(&answers[0]).expect("a well-formed answer");
        assert_eq!(answer, ToClient::Refused(Refusal::WrongFederation));
        // A good greeting, then garbage.
        let genesis = std::fs::read_to_string(net.genesis()).expect("the genesis");
        let id = postroad_protocol::Genesis::from_text(&genesis).expect("a genesis").id();
        let hello = encode(&FromClient::Hello(id));
        let answers = exchange(&network, &addr, CLIENT, &[hello, vec![0xff; 9]]).await;
        let last: ToClient = decode(answers.last().expect("an answer")).expect("a well-formed answer");
        assert!(matches!(last, ToClient::Refused(Refusal::Invalid { .. })), "{last:?}");
        network.shutdown().await;
    });
    let (sender, recipient) = (net.mailbox("sender", 1), net.mailbox("recipient", 2));
    assert_eq!(sender.send(&[&recipient], &["still here"], &[]).code, 0);
    assert_eq!(recipient.recv_all(1)[0]["text"], "still here");
}

#[test]
fn wrong_addresses_are_told_and_lose_nothing() {
    let net = Net::start(1);
    let sender = net.mailbox("sender", 1);
    let own = sender.clone();
    let nobody = postroad_protocol::SecretKey::from_seed([5; 32]).public().to_string();
    let unknown = crate::net::Mailbox { dir: own.dir.clone(), address: nobody };
    let refused = sender.send(&[&unknown], &["to nobody"], &[]);
    assert_eq!((refused.code, &refused.lines[0]["state"]), (1, &"refused".into()), "{refused:?}");
    let twice = sender.send(&[&own, &own], &["twice"], &[]);
    assert!([1, 2].contains(&twice.code), "{twice:?}");
    assert_eq!(run(&["send", "--mailbox", "nowhere", "--to", &own.address, "x"]).code, 2);
    let sent = sender.send(&[&own], &["to myself"], &[]);
    assert_eq!((sent.code, &sent.lines[0]["weak"]), (0, &true.into()), "one node is always weak: {sent:?}");
    assert_eq!(own.recv_all(1)[0]["text"], "to myself");
}

#[test]
fn one_directory_has_one_process() {
    let net = Net::start(1);
    let node = net.path("net/node-1");
    let second = run(&["run", "--dir", node.to_str().expect("a path")]);
    assert_eq!((second.code, &second.error["code"]), (5, &"in-use".into()), "{second:?}");
    let mailbox = net.mailbox("m", 1);
    let follower = crate::net::Process::spawn(&["recv", "--mailbox", crate::net::text(&mailbox.dir), "--follow"]);
    follower.wait_for("settled");
    assert_eq!(mailbox.recv(&[]).code, 5);
    assert_eq!(mailbox.send(&[&mailbox], &["while it follows"], &[]).code, 0, "sending and receiving go together");
    assert_eq!(follower.wait_for("message")["text"], "while it follows");
}
