//! The key `cheat`: a node of a testnet that cheats, in builds that can.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::mpsc;

/// Sins of a node that nobody has read yet, at most; the log has them all.
const MAX_SINS: usize = 1_024;

/// What a cheating node does, and when, as in `drop` or `drop@3`. Without the feature there is no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cheating(
    /// The cheat.
    #[cfg(feature = "cheat")]
    pub postroad_engine::cheat::Cheat,
    #[cfg(not(feature = "cheat"))] std::convert::Infallible,
);

impl FromStr for Cheating {
    type Err = String;

    #[cfg(feature = "cheat")]
    fn from_str(text: &str) -> Result<Cheating, String> {
        text.parse().map(Cheating).map_err(|error: postroad_engine::cheat::NoCheat| error.to_string())
    }

    #[cfg(not(feature = "cheat"))]
    fn from_str(_: &str) -> Result<Cheating, String> {
        Err("this build cannot cheat; build it with --features cheat".into())
    }
}

impl fmt::Display for Cheating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cheating {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cheating {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cheating, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Told of every sin: its name and its epoch. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct Sins(Option<mpsc::Sender<(&'static str, u64)>>);

impl Sins {
    /// A sender for the node, and the receiver for who listens.
    pub fn channel() -> (Sins, mpsc::Receiver<(&'static str, u64)>) {
        let (sender, receiver) = mpsc::channel(MAX_SINS);
        (Sins(Some(sender)), receiver)
    }

    /// Tells of a sin, if anybody listens and there is room.
    pub fn tell(&self, sin: &'static str, epoch: u64) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send((sin, epoch));
        }
    }
}

/// Who listens makes no difference to what a configuration says.
impl PartialEq for Sins {
    fn eq(&self, _: &Sins) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{NodeConfig, render};

    #[cfg(feature = "cheat")]
    #[test]
    fn a_cheat_is_read_from_the_file_and_stands_in_no_other() {
        let config = NodeConfig::parse("cheat = \"drop@3\"").expect("a build that can cheat");
        assert_eq!(config.cheat.map(|cheating| cheating.to_string()).as_deref(), Some("drop@3"));
        assert!(NodeConfig::parse("cheat = \"sulk\"").is_err_and(|error| error.contains("mute-attestations")));
        assert!(!render(&NodeConfig::default()).contains("cheat"));
    }

    #[cfg(not(feature = "cheat"))]
    #[test]
    fn an_honest_build_says_that_it_cannot_cheat() {
        let refused = NodeConfig::parse("cheat = \"drop@3\"").expect_err("this build cannot cheat");
        assert!(refused.contains("--features cheat"), "{refused}");
        assert!(!render(&NodeConfig::default()).contains("cheat"));
    }
}
