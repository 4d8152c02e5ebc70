//! The writing half: many small messages leave in one write.
//!
//! Messages collect in a buffer, framed, until somebody flushes or the buffer is full. What is
//! written is dropped from the buffer only when the stream has taken it, so a dropped future leaves
//! the stream in step.

use futures::io::{AsyncWrite, AsyncWriteExt};

use super::{FRAME_BYTES, FrameError, HEAD_BYTES, MORE};

/// With more than this buffered, [`FramedWriter::feed`] writes before it returns.
const FLUSH_BYTES: usize = 128 * 1024;

/// Writes messages to `W`.
#[derive(Debug)]
pub struct FramedWriter<W> {
    io: W,
    /// Framed bytes; those before `sent` are written.
    buffer: Vec<u8>,
    sent: usize,
    broken: bool,
}

impl<W> FramedWriter<W> {
    /// A writer at the start of a message.
    pub fn new(io: W) -> Self {
        Self { io, buffer: Vec::new(), sent: 0, broken: false }
    }

    /// Framed bytes that the stream has not taken yet.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.sent
    }

    fn append(&mut self, message: &[u8]) {
        let frames = message.len().div_ceil(FRAME_BYTES).max(1);
        self.buffer.reserve(message.len() + frames * HEAD_BYTES);
        let mut rest = message;
        loop {
            let (frame, after) = rest.split_at(rest.len().min(FRAME_BYTES));
            let more = if after.is_empty() { 0 } else { MORE };
            // At most FRAME_BYTES, which fits 31 bits.
            self.buffer.extend_from_slice(&(frame.len() as u32 | more).to_be_bytes());
            self.buffer.extend_from_slice(frame);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> FramedWriter<W> {
    /// Buffers one message, and writes once more than about 128 KiB are buffered.
    ///
    /// The message is taken, whole, when the future is first polled; dropping the future later
    /// stops the waiting only, and the next call goes on writing.
    ///
    /// # Errors
    ///
    /// [`FrameError::Io`], and [`FrameError::Broken`] after it.
    pub async fn feed(&mut self, message: &[u8]) -> Result<(), FrameError> {
        self.check()?;
        self.append(message);
        if self.buffered_bytes() > FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what is buffered and flushes the stream. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`FrameError::Io`], and [`FrameError::Broken`] after it.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        self.check()?;
        let result = self.drain().await;
        self.broken = result.is_err();
        result.map_err(FrameError::Io)
    }

    /// [`feed`](Self::feed) and [`flush`](Self::flush); same rule when dropped.
    ///
    /// # Errors
    ///
    /// [`FrameError::Io`], and [`FrameError::Broken`] after it.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), FrameError> {
        self.check()?;
        self.append(message);
        self.flush().await
    }

    /// Flushes and closes this direction, so that the reader sees a clean end.
    ///
    /// That the stream took it is no proof that the peer did.
    ///
    /// # Errors
    ///
    /// [`FrameError::Io`], and [`FrameError::Broken`] after it.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        self.flush().await?;
        let result = self.io.close().await;
        self.broken = true;
        result.map_err(FrameError::Io)
    }

    fn check(&self) -> Result<(), FrameError> {
        if self.broken { Err(FrameError::Broken) } else { Ok(()) }
    }

    async fn drain(&mut self) -> std::io::Result<()> {
        while self.sent < self.buffer.len() {
            let n = self.io.write(&self.buffer[self.sent..]).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.sent += n;
        }
        self.buffer.clear();
        self.buffer.shrink_to(FLUSH_BYTES);
        self.sent = 0;
        self.io.flush().await
    }
}
