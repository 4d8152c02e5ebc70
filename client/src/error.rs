//! What can go wrong for an application, sorted by what it has to do about it.

use std::path::PathBuf;

use postroad_protocol::genesis::BadGenesis;
use postroad_protocol::{Refusal, VerifyError};
use postroad_store::StoreError;

use crate::export::ExportError;
use crate::verify_log::Violation;

/// Why a call of this library failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A text is no address of a node.
    #[error("{text:?} is not the address of a node: {reason}; it is a multiaddress that ends in /p2p/ID")]
    BadAddress {
        /// What was given.
        text: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answers there, or the connection broke.
    #[error("{node} cannot be reached: {reason}")]
    Unreachable {
        /// The node's address.
        node: String,
        /// What failed.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer in time: {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// The node says no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// An address is not registered in the federation.
    #[error("{mailbox} is not registered in this federation")]
    NotRegistered {
        /// The address.
        mailbox: postroad_protocol::MailboxId,
    },
    /// What a node said does not verify.
    #[error("{what} does not verify: {source}")]
    Unverified {
        /// Which statement.
        what: &'static str,
        /// Which part of it.
        source: VerifyError,
    },
    /// The mailbox's log is not what it must be.
    #[error("the mailbox's home broke its word: {0}")]
    Violation(#[from] Violation),
    /// The node answers something else than it was asked.
    #[error("{node} answers against the protocol: {reason}")]
    Misbehaving {
        /// The node's address.
        node: String,
        /// What it did.
        reason: String,
    },
    /// The genesis cannot be used, or is another federation's.
    #[error("{0}")]
    Genesis(#[from] BadGenesis),
    /// The node belongs to another federation than the genesis that was given or remembered.
    #[error("the node belongs to the federation {theirs}, but {ours} is expected")]
    WrongFederation {
        /// The node's.
        theirs: postroad_protocol::Digest,
        /// The one expected.
        ours: postroad_protocol::Digest,
    },
    /// The mailbox's directory is missing, incomplete, or not what it should be.
    #[error("{}: {reason}", path.display())]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The store under the mailbox's directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A mailbox could not be exported or imported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// In strict order, too much waits behind a slice that is not there yet.
    #[error("{held} messages wait behind one that is not there yet; read live (without strict order) to get them")]
    TooManyHeld {
        /// How many wait.
        held: usize,
    },
    /// Another move of the mailbox is under way.
    #[error("a move to {target} is under way; abort it first, or take it up again")]
    MoveUnderWay {
        /// Where it goes.
        target: postroad_protocol::NodeId,
    },
    /// No move is under way.
    #[error("no move of this mailbox is under way")]
    NoMove,
    /// A move that was to be aborted has happened.
    #[error("the mailbox has moved, to {home}; to have it back, move it to {from} again")]
    HasMoved {
        /// Its home.
        home: postroad_protocol::NodeId,
        /// The home before.
        from: postroad_protocol::NodeId,
    },
    /// The sender was stopped, by its owner or by a failure that it has reported.
    #[error("the sender has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => true,
            ClientError::Refused(refusal) => refusal.is_transient(),
            _ => false,
        }
    }

    /// Whether a node was caught: something that it signed or sent does not verify.
    pub fn is_violation(&self) -> bool {
        matches!(self, ClientError::Unverified { .. } | ClientError::Violation(_))
    }
}
