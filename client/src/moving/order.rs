//! What an owner has signed: the file `move` in the mailbox's directory. It is durable before anybody hears of it, so
//! whoever takes a move up sends the same bytes.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use minicbor::{Decode, Encode};
use postroad_protocol::NodeId;
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::moving::{Move, OwnerBase};

use crate::error::ClientError;
use crate::private_file::{damaged, write_durably};

const FILE: &str = "move";

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Order {
    /// The switch, signed by the device, and by the recovery key if it was at hand.
    #[n(0)]
    pub(super) signed: Move,
    /// Where the new home listens.
    #[n(1)]
    pub(super) to: String,
    /// The home before.
    #[n(2)]
    pub(super) from: NodeId,
    /// How long the old home may be silent, in milliseconds.
    #[n(3)]
    pub(super) patience_ms: u64,
    /// What the owner itself has of the log.
    #[n(4)]
    pub(super) base: Option<OwnerBase>,
}

impl Order {
    pub(super) fn load(mailbox_dir: &Path) -> Result<Option<Order>, ClientError> {
        let path = mailbox_dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(Some).map_err(|error| damaged(&path, error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ClientError::Io { path, source }),
        }
    }

    pub(super) fn save(&self, mailbox_dir: &Path) -> Result<(), ClientError> {
        write_durably(&mailbox_dir.join(FILE), &encode(self))
    }

    /// The move is over. A file that comes back after a crash is found to be over again.
    pub(super) fn forget(mailbox_dir: &Path) -> Result<(), ClientError> {
        let path = mailbox_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(ClientError::Io { path, source: error }),
            _ => Ok(()),
        }
    }

    pub(super) fn target(&self) -> NodeId {
        self.signed.switch.home
    }
}

/// The node that a move under way goes to. One that cannot be read counts as none: it is told as damaged where it is
/// needed.
pub(crate) fn target(mailbox_dir: &Path) -> Option<NodeId> {
    Order::load(mailbox_dir).ok().flatten().map(|order| order.target())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{federation, key};
    use postroad_protocol::Digest;
    use postroad_protocol::moving::Switch;

    #[test]
    fn an_order_is_the_same_bytes_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((Order::load(dir.path()).unwrap(), target(dir.path())), (None, None));
        let switch =
            Switch { mailbox: key(7).public(), replaces: Digest([1; 32]), home: key(3).public(), recovery_key: None };
        let signed = Move::new(switch).by_device(&key(7), &federation());
        let order = Order { signed, to: "there".into(), from: key(1).public(), patience_ms: 7, base: None };
        order.save(dir.path()).unwrap();
        assert_eq!(Order::load(dir.path()).unwrap(), Some(order));
        assert_eq!(target(dir.path()), Some(key(3).public()));
        Order::forget(dir.path()).unwrap();
        Order::forget(dir.path()).unwrap();
        assert_eq!(target(dir.path()), None);
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert!(matches!(Order::load(dir.path()), Err(ClientError::Directory { .. })));
    }
}
