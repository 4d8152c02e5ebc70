//! What an owner wants done when its home closes and offers it another one.

use std::fmt;
use std::str::FromStr;

use crate::error::ClientError;
use crate::mailbox_dir::Mailbox;
use crate::private_file::{damaged, read_if_there, write_durably};

/// The file in the mailbox's directory.
pub(crate) const FILE: &str = "move-policy";

/// What is done with the offer of a home that closes. Whatever it is, nothing moves without the mailbox's signature, and
/// the application is told ([`Received::Retiring`](crate::Received::Retiring)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MovePolicy {
    /// The owner is told, and decides.
    #[default]
    Ask,
    /// The mailbox moves to the home that is offered.
    Accept,
    /// Nothing is done, and nothing is asked.
    Never,
}

/// A text that names no [`MovePolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of `ask`, `accept` and `never`")]
pub struct BadMovePolicy(String);

impl FromStr for MovePolicy {
    type Err = BadMovePolicy;

    fn from_str(text: &str) -> Result<MovePolicy, BadMovePolicy> {
        match text {
            "ask" => Ok(MovePolicy::Ask),
            "accept" => Ok(MovePolicy::Accept),
            "never" => Ok(MovePolicy::Never),
            _ => Err(BadMovePolicy(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for MovePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MovePolicy::Ask => "ask",
            MovePolicy::Accept => "accept",
            MovePolicy::Never => "never",
        })
    }
}

impl Mailbox {
    /// What this mailbox does when its home closes and offers it another one.
    ///
    /// # Errors
    /// [`ClientError::Io`], [`ClientError::Directory`] when the file is damaged.
    pub fn move_policy(&self) -> Result<MovePolicy, ClientError> {
        let path = self.dir().join(FILE);
        let policy = |text: String| text.trim().parse().map_err(|error| damaged(&path, error));
        Ok(read_if_there(&path)?.map(policy).transpose()?.unwrap_or_default())
    }

    /// Decides that, from now on.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn set_move_policy(&self, policy: MovePolicy) -> Result<(), ClientError> {
        write_durably(&self.dir().join(FILE), format!("{policy}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::NodeAddr;
    use crate::fixture::{federation, key};

    #[test]
    fn the_owner_is_asked_until_it_decides() {
        let dir = tempfile::tempdir().unwrap();
        let home = NodeAddr::new(key(3).public(), "/ip4/127.0.0.1/tcp/4001").unwrap();
        let mailbox = Mailbox::create(dir.path(), &home, &federation()).unwrap();
        assert_eq!(mailbox.move_policy().unwrap(), MovePolicy::Ask);
        for policy in [MovePolicy::Accept, MovePolicy::Never, MovePolicy::Ask] {
            mailbox.set_move_policy(policy).unwrap();
            assert_eq!(Mailbox::open(dir.path()).unwrap().move_policy().unwrap(), policy);
        }
        std::fs::write(dir.path().join(FILE), "perhaps").unwrap();
        assert!(matches!(mailbox.move_policy(), Err(ClientError::Directory { .. })));
        assert!("Accept".parse::<MovePolicy>().is_err());
    }
}
