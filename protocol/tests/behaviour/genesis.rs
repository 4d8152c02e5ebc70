//! Genesis: its text, its limits, and its id.

use postroad_protocol::codec::{decode, encode};
use postroad_protocol::{Federation, Genesis, Params};

use crate::common::{World, key};

fn genesis() -> Genesis {
    World::builder().allow(&[0, 2]).unborn().federation.genesis().clone()
}

#[test]
fn the_text_says_the_same_as_the_bytes() {
    let genesis = genesis();
    assert_eq!(Genesis::from_text(&genesis.to_text()), Ok(genesis.clone()));
    assert_eq!(decode::<Genesis>(&encode(&genesis)), Ok(genesis));
}

#[test]
fn the_id_is_that_of_the_values_and_not_of_the_text() {
    let genesis = genesis();
    let text = genesis.to_text();
    let (head, params) = text.split_once("[params]\n").unwrap();
    let (head, committee) = head.split_once("[[committee]]\n").unwrap();
    let mut lines: Vec<&str> = params.lines().collect();
    lines.reverse();
    let params = lines.join("\n\n").replace(" = ", "   =  ");
    let text = format!("# a comment\n{head}\n[params] # the limits\n{params}\n\n[[committee]]\n{committee}");
    let again = Genesis::from_text(&text).unwrap();
    assert_eq!(again.id(), genesis.id());
    // And of all values.
    let mut other = genesis.clone();
    other.params.heartbeat_ms += 1;
    assert_ne!(other.id(), genesis.id());
    let mut other = genesis.clone();
    other.committee[0].addrs.clear();
    assert_ne!(other.id(), genesis.id());
}

#[test]
fn what_the_text_leaves_out_has_its_default() {
    let node = key("node 0").public();
    let text = format!(
        "name = \"small\"\ntime_ms = 1\n[[committee]]\nnode = \"{node}\"\naddrs = []\n[params]\nmax_slices = 7\n"
    );
    let genesis = Genesis::from_text(&text).unwrap();
    assert_eq!(genesis.params, Params { max_slices: 7, ..Params::default() });
    assert_eq!(genesis.allow, []);
}

/// One of the numbers.
type Field = fn(&mut Params) -> &mut u64;

/// What is said of a genesis with a change.
fn complaint(change: impl FnOnce(&mut Genesis)) -> String {
    let mut genesis = genesis();
    change(&mut genesis);
    let text = Federation::new(genesis).map(|_| ()).unwrap_err().to_string();
    text.strip_prefix("not a usable genesis file: ").unwrap().to_owned()
}

#[test]
fn values_outside_of_the_limits_are_refused_by_name() {
    assert_eq!(complaint(|g| g.committee.clear()), "committee: this version runs a committee of exactly one member");
    let two = complaint(|g| g.committee.push(g.committee[0].clone()));
    assert_eq!(two, "committee: this version runs a committee of exactly one member");
    assert_eq!(complaint(|g| g.name = "é".repeat(33)), "name: at most 64 bytes");
    let weak = complaint(|g| g.committee[0].node.0 = [0; 32]);
    assert!(weak.starts_with("committee: 12D3KooW") || weak.ends_with("is not an acceptable key"), "{weak}");
    assert_eq!(complaint(|g| g.params.routing_window_epochs = 7), "routing_window_epochs: at least 8");
    let validity = complaint(|g| g.params.validity_epochs = 4 * g.params.routing_window_epochs - 1);
    assert_eq!(validity, "validity_epochs: at least four times routing_window_epochs");
    let interval = "cut_interval_ms: at least 1 and at most heartbeat_ms";
    assert_eq!(complaint(|g| g.params.cut_interval_ms = 0), interval);
    assert_eq!(complaint(|g| g.params.heartbeat_ms = g.params.cut_interval_ms - 1), interval);
    let zeros: [(&str, Field); 10] = [
        ("deadline_cap_ms", |p| &mut p.deadline_cap_ms),
        ("max_recipients", |p| &mut p.max_recipients),
        ("max_message_bytes", |p| &mut p.max_message_bytes),
        ("max_bundle_messages", |p| &mut p.max_bundle_messages),
        ("max_bundle_bytes", |p| &mut p.max_bundle_bytes),
        ("max_batch_bytes", |p| &mut p.max_batch_bytes),
        ("max_slices", |p| &mut p.max_slices),
        ("max_cut_headers", |p| &mut p.max_cut_headers),
        ("max_mailboxes_per_node", |p| &mut p.max_mailboxes_per_node),
        ("max_nodes", |p| &mut p.max_nodes),
    ];
    for (name, field) in zeros {
        assert_eq!(complaint(|g| *field(&mut g.params) = 0), format!("{name}: at least 1"));
    }
    let sizes = "max_message_bytes, max_bundle_bytes, max_batch_bytes: at most 8388608";
    assert_eq!(complaint(|g| g.params.max_batch_bytes = (8 << 20) + 1), sizes);
    let nested = "a message must fit a bundle, and a bundle a batch";
    assert_eq!(complaint(|g| g.params.max_bundle_bytes = g.params.max_message_bytes - 1), nested);
    assert_eq!(complaint(|g| g.params.max_batch_bytes = g.params.max_bundle_bytes - 1), nested);
    let counts = "max_slices: at most 1024; max_cut_headers and max_recipients: at most 4096";
    assert_eq!(complaint(|g| g.params.max_slices = 1_025), counts);
    assert_eq!(complaint(|g| g.params.max_cut_headers = 4_097), counts);
    assert_eq!(complaint(|g| g.params.max_recipients = 4_097), counts);
}

#[test]
fn every_genesis_that_passes_the_check_has_a_text_and_none_panics() {
    let fields: [fn(&mut Genesis) -> &mut u64; 9] = [
        |g| &mut g.time_ms,
        |g| &mut g.params.routing_window_epochs,
        |g| &mut g.params.validity_epochs,
        |g| &mut g.params.cut_interval_ms,
        |g| &mut g.params.heartbeat_ms,
        |g| &mut g.params.deadline_cap_ms,
        |g| &mut g.params.retention_ms,
        |g| &mut g.params.max_mailboxes_per_node,
        |g| &mut g.params.max_nodes,
    ];
    for field in fields {
        for value in [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
            let mut genesis = genesis();
            *field(&mut genesis) = value;
            if genesis.check().is_ok() {
                assert_eq!(Genesis::from_text(&genesis.to_text()), Ok(genesis));
            }
        }
    }
}

#[test]
fn a_text_that_is_no_genesis_says_where_it_is_wrong() {
    let text = genesis().to_text();
    let complaint = |text: &str| Genesis::from_text(text).unwrap_err().to_string();
    assert!(complaint(&text.replace("max_slices", "max_slice")).contains("max_slice"));
    assert!(complaint(&text.replace("time_ms = 1", "time_ms = \"1\"")).contains("time_ms"));
    assert!(complaint(&text.replace("12D3KooW", "12D3KooX")).contains("is not an address"));
    assert!(complaint("").contains("name"));
}
