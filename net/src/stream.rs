//! One stream to a peer: bytes both ways, over whatever transport the connection has.
//!
//! Dropping a stream abandons it, and what the peer then sees depends on the transport: a reset
//! over TCP, possibly a clean end over QUIC. So the end of a stream never means success; an answer
//! of the application does. A peer that takes no byte for half a minute loses the stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use crate::framed::{FramedReader, FramedWriter};
use crate::patience::Patience;
use crate::quota::Place;

/// The reading half of a framed stream.
pub type StreamReader = FramedReader<ReadHalf<Stream>>;

/// The writing half of a framed stream.
pub type StreamWriter = FramedWriter<WriteHalf<Stream>>;

/// A stream to a peer. It keeps its connection alive until it is dropped.
#[derive(Debug)]
pub struct Stream {
    // Before the place, so that it is gone when the place is given back.
    inner: libp2p::Stream,
    patience: Patience,
    _place: Option<Place>,
}

impl Stream {
    pub(crate) fn outbound(inner: libp2p::Stream) -> Self {
        Self { inner, patience: Patience::default(), _place: None }
    }

    pub(crate) fn inbound(inner: libp2p::Stream, place: Place) -> Self {
        Self { inner, patience: Patience::default(), _place: Some(place) }
    }

    /// Both halves, for messages. The stream lives until both are dropped.
    pub fn framed(self) -> (StreamReader, StreamWriter) {
        let (reader, writer) = self.split();
        (FramedReader::new(reader), FramedWriter::new(writer))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.patience.with(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.patience.with(cx, polled)
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
