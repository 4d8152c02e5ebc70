//! What headers a node seals.

use postroad_engine::router::{Origin, Router};
use postroad_engine::tables::{BATCHES, StoredBatch};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::genesis::{Federation, Genesis, Member, Params};
use postroad_protocol::state::{KeptUp, LastHeader, NodeState, State, StateKey};
use postroad_protocol::{Digest, SecretKey};
use postroad_store::Write;

const HEADER: LastHeader = LastHeader { number: 7, digest: Digest([7; 32]), routing_epoch: 3 };

#[test]
fn a_header_goes_on_from_one_that_this_node_has_forgotten_and_others_have_handed_in() {
    let secret = SecretKey::from_seed([1; 32]);
    let committee = vec![Member { node: secret.public(), addrs: Vec::new() }];
    let genesis =
        Genesis { name: "router".into(), time_ms: 0, committee, allow: Vec::new(), params: Params::default() };
    let federation = Federation::new(genesis).unwrap();
    let mut head = State::genesis(&federation);
    let me = NodeState {
        version: 1,
        name: String::new(),
        addrs: Vec::new(),
        deputies: Vec::new(),
        incarnation: 2,
        nonce: [0; 16],
        started: 1,
        last_header: Some(HEADER),
        last_attestation: None,
        mailboxes: 0,
        lapsed: None,
        pending: 0,
        kept_up: KeptUp { epoch: 0, age_ms: 0 },
        lost: 0,
    };
    head.restore(StateKey::Node(secret.public()), &encode(&me)).unwrap();
    let mut router = Router::new(Origin { me: secret.public(), secret, federation }, 1 << 20);
    // It was set back, and started when its third header was the last that a cut had included.
    router.start(2, 3);
    let mut sealed = Vec::new();
    for token in 1..=2 {
        let batch = router.seal(Vec::new(), None, &head, token);
        for write in batch.writes {
            match write {
                Write::Put { table: BATCHES, value, .. } => {
                    let batch: StoredBatch = decode(&value).unwrap();
                    sealed.push((batch.header.number, batch.header.previous == HEADER.digest));
                }
                _ => continue,
            }
        }
    }
    assert_eq!(sealed, [(8, true), (9, false)]);
}
