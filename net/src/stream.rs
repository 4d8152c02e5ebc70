//! One stream to a peer: bytes both ways, over whatever transport the connection has.
//!
//! Dropping a stream abandons it, and what the peer then sees depends on the transport: a reset
//! over TCP, possibly a clean end over QUIC. So the end of a stream never means success; an answer
//! of the application does. A peer that takes no byte for half a minute loses the stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use crate::framed::{FramedReader, FramedWriter};
use crate::patience::Patience;
use crate::quota::Place;

/// The reading half of a framed stream.
pub type StreamReader = FramedReader<ReadHalf<Stream>>;

/// The writing half of a framed stream.
pub type StreamWriter = FramedWriter<WriteHalf<Stream>>;

/// Bytes that streams have carried; of as many streams as it is given to.
#[derive(Debug, Default)]
pub struct Meter {
    read: AtomicU64,
    written: AtomicU64,
}

impl Meter {
    /// Bytes read so far. What the transport adds (encryption, multiplexing) is not in it.
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes written so far, as far as the stream took them.
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Adds what a transfer that is done has carried.
fn count(done: Poll<io::Result<usize>>, to: Option<&AtomicU64>) -> Poll<io::Result<usize>> {
    if let (Poll::Ready(Ok(bytes)), Some(total)) = (&done, to) {
        total.fetch_add(*bytes as u64, Ordering::Relaxed);
    }
    done
}

/// A stream to a peer. It keeps its connection alive until it is dropped.
#[derive(Debug)]
pub struct Stream {
    // Before the place, so that it is gone when the place is given back.
    inner: libp2p::Stream,
    patience: Patience,
    _place: Option<Place>,
    meter: Option<Arc<Meter>>,
}

impl Stream {
    pub(crate) fn outbound(inner: libp2p::Stream) -> Self {
        Self { inner, patience: Patience::default(), _place: None, meter: None }
    }

    pub(crate) fn inbound(inner: libp2p::Stream, place: Place) -> Self {
        Self { inner, patience: Patience::default(), _place: Some(place), meter: None }
    }

    /// The same stream, whose bytes are counted from now on.
    #[must_use]
    pub fn metered(self, meter: Arc<Meter>) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Both halves, for messages. The stream lives until both are dropped.
    pub fn framed(self) -> (StreamReader, StreamWriter) {
        let (reader, writer) = self.split();
        (FramedReader::new(reader), FramedWriter::new(writer))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        count(done, self.meter.as_ref().map(|meter| &meter.read))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_read_vectored(cx, bufs);
        count(done, self.meter.as_ref().map(|meter| &meter.read))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        let done = self.patience.with(cx, polled);
        count(done, self.meter.as_ref().map(|meter| &meter.written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        let done = self.patience.with(cx, polled);
        count(done, self.meter.as_ref().map(|meter| &meter.written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.patience.with(cx, polled)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_close(cx);
        self.patience.with(cx, polled)
    }
}
