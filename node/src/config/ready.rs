//! How a node tells whoever started it that it serves.

use std::sync::Arc;

use postroad_net::Multiaddr;
use tokio::sync::watch;

/// Told once, with the addresses that the node listens on. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct Ready(Option<Arc<watch::Sender<Option<Vec<Multiaddr>>>>>);

impl Ready {
    /// A sender for the node and the receiver for who waits; it holds `None` until the node serves.
    pub fn channel() -> (Ready, watch::Receiver<Option<Vec<Multiaddr>>>) {
        let (sender, receiver) = watch::channel(None);
        (Ready(Some(Arc::new(sender))), receiver)
    }

    /// Says that the node serves on `addrs`, which need not end in `/p2p/ID`.
    pub fn tell(&self, addrs: Vec<Multiaddr>) {
        if let Some(sender) = &self.0 {
            sender.send_replace(Some(addrs));
        }
    }
}

/// Who listens makes no difference to what a configuration says.
impl PartialEq for Ready {
    fn eq(&self, _: &Ready) -> bool {
        true
    }
}
