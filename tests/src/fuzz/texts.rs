//! What people write: genesis, configuration, addresses.

use postroad::config::{NodeConfig, Setting, render};
use postroad_client::NodeAddr;
use postroad_protocol::{Genesis, PublicKey, Seq};

/// A genesis file.
pub(super) fn genesis(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(genesis) = Genesis::from_text(text) {
        let again = Genesis::from_text(&genesis.to_text()).expect("what is written can be read");
        assert_eq!(again.id(), genesis.id(), "a genesis keeps its id through its file");
    }
}

/// `postroad.toml`, and one setting of the environment: the first line, which is a comment.
pub(super) fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(config) = NodeConfig::parse(text) else { return };
    let valid = config.check().is_ok();
    let again = NodeConfig::parse(&render(&config)).expect("what is written can be read");
    assert_eq!(again, config, "a configuration keeps its values through its file");
    assert_eq!(again.check().is_ok(), valid);
    if let Some((key, value)) = text.lines().next().and_then(|line| line.strip_prefix('#')?.split_once('=')) {
        let _ = config.with(&Setting::flag("--flag", key.trim(), value.trim()));
    }
}

/// Mailboxes, sequence numbers, and addresses of nodes.
pub(super) fn texts(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text, "a key has one text");
    }
    if let Ok(seq) = text.parse::<Seq>() {
        assert_eq!(seq.to_string().parse::<Seq>().ok(), Some(seq));
    }
    if let Ok(addr) = text.parse::<NodeAddr>() {
        let again: NodeAddr = addr.to_string().parse().expect("what is written can be read");
        assert_eq!(again.to_string(), addr.to_string());
    }
}
