//! How long a stream waits for a peer that takes nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// A peer that has taken no byte for so long loses the stream. Yamux opens a stream's window again when half of it has
/// been read, so one that reads a byte now and then takes nothing either.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Watches one direction of a stream: every step forward winds it up again.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// `polled`, or an error when it has been pending for too long.
    pub(crate) fn with<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_PATIENCE)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}
