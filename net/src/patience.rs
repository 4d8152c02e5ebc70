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
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { limit: WRITE_PATIENCE, waiting: None }
    }
}

impl Patience {
    /// `polled`, or an error when it has been pending for too long.
    pub(crate) fn with<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.waiting = None;
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_and_one_that_takes_something_is_not() {
        let limit = Duration::from_millis(200);
        let mut patience = Patience { limit, waiting: None };
        let mut given_up = async |mut steps: u32| {
            let began = Instant::now();
            let mut next = tokio::time::interval(limit / 2);
            let ended: io::Result<()> = poll_fn(|cx| {
                // A step forward now and then, as long as there are any.
                while steps > 0 && next.poll_tick(cx).is_ready() {
                    steps -= 1;
                    assert!(patience.with(cx, Poll::Ready(Ok(()))).is_ready());
                }
                patience.with(cx, Poll::Pending)
            })
            .await;
            assert_eq!(ended.expect_err("nothing is taken").kind(), io::ErrorKind::TimedOut);
            began.elapsed()
        };
        assert!(given_up(0).await >= limit);
        assert!(given_up(5).await >= 3 * limit, "five steps, half a limit apart, and then the limit");
    }
}
