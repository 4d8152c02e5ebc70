//! How a node tells whoever started it that it serves.

use std::net::SocketAddr;
use std::sync::Arc;

use postroad_net::Multiaddr;
use tokio::sync::watch;

/// Where a node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// The addresses that it listens on, which need not end in `/p2p/ID`.
    pub addrs: Vec<Multiaddr>,
    /// Where its metrics and health are, if anywhere.
    pub http: Option<SocketAddr>,
}

/// Told once, with where the node serves. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct Ready(Option<Arc<watch::Sender<Option<Serving>>>>);

impl Ready {
    /// A sender for the node and the receiver for who waits; it holds `None` until the node serves.
    pub fn channel() -> (Ready, watch::Receiver<Option<Serving>>) {
        let (sender, receiver) = watch::channel(None);
        (Ready(Some(Arc::new(sender))), receiver)
    }

    /// Says that the node serves.
    pub fn tell(&self, serving: Serving) {
        if let Some(sender) = &self.0 {
            sender.send_replace(Some(serving));
        }
    }
}

/// Who listens makes no difference to what a configuration says.
impl PartialEq for Ready {
    fn eq(&self, _: &Ready) -> bool {
        true
    }
}
