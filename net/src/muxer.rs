//! Yamux with bounds: a smaller window, a stream cap that does not kill, a close that ends.
//!
//! `libp2p-yamux` hides the receive window (1 GiB per connection), tears the whole connection down
//! when our own side opens a stream too many, and waits without end for a dead peer to take the
//! last bytes of a close. So this is the same adapter over the `yamux` crate, with the window set,
//! outbound streams waiting for room, and a deadline on closing. On the wire it is `/yamux/1.0.0`.

use std::collections::VecDeque;
use std::future::{Future, Ready, ready};
use std::io;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{ConnectionError, Mode};

/// What all streams of a connection may grow beyond the first window that the protocol gives each,
/// in bytes. Enough for 160 MB/s on one stream at a round trip of 100 ms.
const WINDOW_GROWTH_BYTES: usize = 16 * 1024 * 1024;

/// How long a closing connection may take to flush.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// The bounds of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    yamux: yamux::Config,
    /// Streams that each side may have open.
    per_direction: usize,
}

impl Bounds {
    pub(crate) fn new(max_streams: usize) -> Self {
        let window = max_streams * yamux::DEFAULT_CREDIT as usize + WINDOW_GROWTH_BYTES;
        let mut yamux = yamux::Config::default();
        // No bound in between, for each setter checks both.
        yamux.set_max_connection_receive_window(None);
        yamux.set_max_num_streams(max_streams);
        yamux.set_max_connection_receive_window(Some(window));
        Self { yamux, per_direction: max_streams / 2 }
    }

    fn muxer<C>(self, io: C, mode: Mode) -> Muxer<C>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        Muxer {
            connection: yamux::Connection::new(io, self.yamux, mode),
            waiting: VecDeque::new(),
            inbound_waker: None,
            opened: Arc::default(),
            per_direction: self.per_direction,
            deadline: None,
        }
    }
}

impl UpgradeInfo for Bounds {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Bounds
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(io, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Bounds
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(io, Mode::Client)))
    }
}

/// One multiplexed connection.
pub(crate) struct Muxer<C> {
    connection: yamux::Connection<C>,
    /// Inbound streams that arrived while nobody asked for one. Yamux makes progress only by
    /// yielding them, so they need a place; with too many, further ones are reset.
    waiting: VecDeque<Substream>,
    inbound_waker: Option<Waker>,
    opened: Arc<Opened>,
    per_direction: usize,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Substream, MuxerError>> {
        let stream = ready!(self.connection.poll_next_inbound(cx))
            .ok_or(MuxerError(ConnectionError::Closed))?
            .map_err(MuxerError)?;
        Poll::Ready(Ok(Substream { stream, _counted: None }))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Substream;
    type Error = MuxerError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        if let Poll::Ready(result) = self.poll_next(cx) {
            return Poll::Ready(result);
        }
        self.inbound_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        // Registered before the look, so that a stream dropped in between wakes us.
        self.opened.waker.register(cx.waker());
        if self.opened.count.load(Ordering::Acquire) >= self.per_direction {
            return Poll::Pending;
        }
        let stream = ready!(self.connection.poll_new_outbound(cx)).map_err(MuxerError)?;
        Poll::Ready(Ok(Substream { stream, _counted: Some(Counted::new(&self.opened)) }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Poll::Ready(result) = self.connection.poll_close(cx) {
            return Poll::Ready(result.map_err(MuxerError));
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_DEADLINE)));
        // Late, the connection is dropped as it is.
        deadline.as_mut().poll(cx).map(Ok)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let this = self.get_mut();
        let stream = ready!(this.poll_next(cx))?;
        if this.waiting.len() < this.per_direction {
            this.waiting.push_back(stream);
            if let Some(waker) = this.inbound_waker.take() {
                waker.wake();
            }
        } else {
            tracing::debug!("stream reset: too many wait for negotiation");
        }
        // There may be more, but others on this connection come first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How many streams our side opened, and who waits to open one.
#[derive(Debug, Default)]
struct Opened {
    count: AtomicUsize,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Counted(Arc<Opened>);

impl Counted {
    fn new(opened: &Arc<Opened>) -> Self {
        opened.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(opened))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.waker.wake();
    }
}

/// One stream of a connection; counted if our side opened it.
#[derive(Debug)]
pub(crate) struct Substream {
    stream: yamux::Stream,
    _counted: Option<Counted>,
}

impl AsyncRead for Substream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Why a connection broke.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct MuxerError(ConnectionError);

impl From<MuxerError> for io::Error {
    fn from(error: MuxerError) -> Self {
        match error.0 {
            ConnectionError::Io(e) => e,
            e => io::Error::other(e),
        }
    }
}
