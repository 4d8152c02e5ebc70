//! Which mailboxes a node takes over: what its operator allows is told before anything else.

use postroad_engine::node::Admission;
use postroad_engine::tables::ALL;
use postroad_engine::{Config, Load, Node};
use postroad_protocol::genesis::{Federation, Genesis, Member, Params};
use postroad_protocol::moving::Extent;
use postroad_protocol::{MailboxId, Refusal, SecretKey};
use postroad_store::Store;

fn id(seed: u8) -> MailboxId {
    SecretKey::from_seed([seed; 32]).public()
}

/// What a node that waits for its start says to a mailbox with so many bytes: not ready, if it is allowed.
fn asked(moves: Admission, max_mailboxes: u64, mailbox: u8, bytes: u64) -> Refusal {
    asked_for(moves, max_mailboxes, mailbox, bytes, 0)
}

/// The same, with so many others besides.
fn asked_for(moves: Admission, max_mailboxes: u64, mailbox: u8, bytes: u64, besides: u64) -> Refusal {
    let committee = vec![Member { node: id(0), addrs: Vec::new() }];
    let genesis =
        Genesis { name: "admission".into(), time_ms: 0, committee, allow: Vec::new(), params: Params::default() };
    let config = Config {
        federation: Federation::new(genesis).unwrap(),
        secret: SecretKey::from_seed([1; 32]),
        name: String::new(),
        addrs: Vec::new(),
        deputies: Vec::new(),
        deputy_for: Admission::Open,
        nonce: [0; 16],
        admission: Admission::Closed,
        max_queued_bytes: 1 << 20,
        max_flight_bytes: 1 << 20,
        max_sender_bytes: 1 << 20,
        max_custody_bytes: 1 << 20,
        max_mailboxes,
        registrations_per_minute: 0,
        mailbox_quota: Load { entries: 1 << 20, bytes: 1 << 40 },
        policy: Default::default(),
        moves,
        max_move_bytes: 1_000,
        guard_epoch: 0,
    };
    let (node, _) = Node::open(config, &Store::memory(&ALL).snapshot().unwrap()).unwrap();
    node.may_move(&id(mailbox), Extent { entries: 1, bytes }, besides).expect_err("it is not started")
}

#[test]
fn the_operator_says_which_mailboxes_may_move_here_and_how_large() {
    let reason = |refusal: Refusal| match refusal {
        Refusal::NotAllowed { reason } => reason,
        other => panic!("{other}"),
    };
    // Registration is closed here; that is another question.
    assert_eq!(asked(Admission::Open, 1, 7, 1_000), Refusal::NotReady);
    assert!(reason(asked(Admission::Open, 1, 7, 1_001)).contains("1001 bytes"));
    assert!(reason(asked(Admission::Closed, 1, 7, 0)).contains("policy"));
    assert_eq!(asked(Admission::List(vec![id(7)]), 1, 7, 0), Refusal::NotReady);
    assert!(reason(asked(Admission::List(vec![id(7)]), 1, 8, 0)).contains("policy"));
    assert!(reason(asked(Admission::Open, 0, 7, 0)).contains("as many mailboxes"));
    assert_eq!(asked_for(Admission::Open, 3, 7, 0, 2), Refusal::NotReady);
    assert!(reason(asked_for(Admission::Open, 3, 7, 0, 3)).contains("as many mailboxes"));
    assert!(reason(asked_for(Admission::Open, 3, 7, 0, u64::MAX)).contains("as many mailboxes"));
}
