//! What a [`Network`](crate::Network) is started with: who it is, where it listens, what it
//! accepts, and the bound of everything a peer could make it hold.

use std::time::Duration;

use libp2p::Multiaddr;

/// The settings of one network.
#[derive(Clone)]
pub struct Config {
    /// The ed25519 seed; the peer id derives from it.
    pub secret: [u8; 32],
    /// Where to listen; port 0 takes a free port, reported by
    /// [`Event::Listening`](crate::Event::Listening). Empty for a client.
    pub listen: Vec<Multiaddr>,
    /// The protocols on which streams are accepted. Others can still be opened.
    pub protocols: Vec<Protocol>,
    /// What this program calls itself, told to peers.
    pub agent: String,
    /// The protocol family, told to peers, as in `/postroad/1`.
    pub identify_protocol: String,
    /// The bounds.
    pub limits: Limits,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("peer", &crate::peer_id_from_secret(&self.secret))
            .field("listen", &self.listen)
            .field("protocols", &self.protocols)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A protocol on which streams are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, which starts with a slash, as in `/postroad/1/mail`.
    pub name: &'static str,
    /// How many inbound streams one peer may have on it at once, over all its connections. A
    /// stream counts until its [`Stream`](crate::Stream) is dropped here, so a peer that
    /// reconnects needs room for the stream that its broken connection left behind.
    pub max_inbound_per_peer: usize,
}

/// The bounds of a network. Trusted peers are exempt where a bound says *strangers*.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Inbound connections still in their handshake. Nobody has a name there yet, so this bound
    /// holds for all.
    pub max_pending_incoming: usize,
    /// Established connections of strangers. Those that we dial count, but are not refused.
    pub max_established: usize,
    /// Established connections of one stranger. At least two, or simultaneous dials fail.
    pub max_per_peer: usize,
    /// With more bytes than this resident in the process, strangers are not let in. `None`, or a
    /// system without `/proc`, means no bound.
    pub max_memory_bytes: Option<u64>,
    /// Streams on one connection, both directions together. Each direction gets half.
    pub max_streams_per_connection: usize,
    /// Events waiting for the owner of this network; with so many, inbound streams are refused.
    pub max_waiting_events: usize,
    /// A connection without streams is closed after this time.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pending_incoming: 128,
            max_established: 4096,
            max_per_peer: 2,
            max_memory_bytes: None,
            max_streams_per_connection: 128,
            max_waiting_events: 1024,
            idle_timeout: Duration::from_secs(20),
        }
    }
}
