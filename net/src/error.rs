//! What can go wrong with a network, by the call that says it.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

/// Why a network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Called outside a tokio runtime.
    #[error("a network starts only inside a tokio runtime")]
    NoRuntime,
    /// A protocol's name does not start with a slash, or appears twice.
    #[error("{0:?} is no protocol name, or appears twice")]
    BadProtocol(&'static str),
    /// A bound is so low that nothing would work.
    #[error("limit {0} is too low")]
    BadLimit(&'static str),
    /// The transports could not be set up.
    #[error("transport: {0}")]
    Transport(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address of the configuration.
        address: Multiaddr,
        /// The system's reason.
        reason: String,
    },
}

/// Why there is no connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No address was given, or only addresses of this very network.
    #[error("no address to dial")]
    NoAddress,
    /// The peer is this network itself.
    #[error("that peer is this node itself")]
    Myself,
    /// An address ends in another peer's id.
    #[error("{0} names another peer")]
    BadAddress(Multiaddr),
    /// Another peer than the wanted one lives at the address, and no other address answered.
    #[error("{address} is {obtained}, not the wanted peer")]
    WrongPeer {
        /// Where.
        address: Multiaddr,
        /// Who is there.
        obtained: PeerId,
    },
    /// No address answered, or none got through the handshake.
    #[error("unreachable: {reason}")]
    Unreachable {
        /// Each address with its own reason, as text.
        reason: String,
    },
    /// Our own limits forbid one more connection.
    #[error("refused by our own limits: {reason}")]
    Denied {
        /// Which limit.
        reason: String,
    },
    /// Not connected in time; the dial may still succeed later.
    #[error("not connected within {0:?}")]
    TimedOut(Duration),
    /// The network has stopped.
    #[error("the network has stopped")]
    Stopped,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No live connection to the peer: connect first.
    #[error("not connected")]
    NotConnected,
    /// The peer does not speak the protocol.
    #[error("peer does not speak {0}")]
    Unsupported(&'static str),
    /// No stream in time.
    #[error("no stream within {0:?}")]
    TimedOut(Duration),
    /// The connection failed while the stream was being opened, and again on a second try.
    #[error("connection failed: {0}")]
    Closed(String),
    /// Too many streams are being opened on this connection already.
    #[error("too many streams are being opened to this peer")]
    Busy,
    /// The network has stopped.
    #[error("the network has stopped")]
    Stopped,
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many wrappers print their cause themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
