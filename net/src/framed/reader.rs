//! The reading half: bytes in whatever pieces they come, whole messages out.
//!
//! All state between two bytes lives in the reader, so a `read` that is dropped half way loses
//! nothing. It refuses what [`FrameError`] names and allocates only for bytes that have arrived,
//! plus at most one frame and its own input buffer.

use futures::io::{AsyncRead, AsyncReadExt};

use super::{FRAME_BYTES, FrameError, HEAD_BYTES, MORE};

/// The input buffer's first size; it doubles whenever a read fills it.
const INPUT_FIRST_BYTES: usize = 4 * 1024;

/// The input buffer's largest size.
const INPUT_CAP_BYTES: usize = 64 * 1024;

/// Reads messages from `R`.
#[derive(Debug)]
pub struct FramedReader<R> {
    io: R,
    /// Bytes read and not yet parsed are `input[taken..filled]`.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    phase: Phase,
    /// What has arrived of the message under way.
    message: Vec<u8>,
    /// Whether a frame of the message under way is complete.
    inside: bool,
}

/// Where in a frame the reader stands.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Head { have: usize, bytes: [u8; HEAD_BYTES] },
    Body { left: usize, more: bool },
    Broken,
}

impl Phase {
    const START: Self = Self::Head { have: 0, bytes: [0; HEAD_BYTES] };
}

impl<R> FramedReader<R> {
    /// A reader at the start of a message.
    pub fn new(io: R) -> Self {
        Self { io, input: Vec::new(), taken: 0, filled: 0, phase: Phase::START, message: Vec::new(), inside: false }
    }

    /// The bytes of memory that this reader holds, for tests and for accounting.
    pub fn memory_bytes(&self) -> usize {
        self.input.capacity() + self.message.capacity()
    }

    /// Parses what is buffered; a message once one is complete.
    fn parse(&mut self, max_bytes: usize) -> Result<Option<Vec<u8>>, FrameError> {
        while self.taken < self.filled {
            match &mut self.phase {
                Phase::Broken => return Err(FrameError::Broken),
                Phase::Head { have, bytes } => {
                    let n = (HEAD_BYTES - *have).min(self.filled - self.taken);
                    bytes[*have..*have + n].copy_from_slice(&self.input[self.taken..self.taken + n]);
                    self.taken += n;
                    *have += n;
                    if *have == HEAD_BYTES {
                        let head = u32::from_be_bytes(*bytes);
                        let (left, more) = self.check_head(head, max_bytes)?;
                        // Within one frame the peer's word is good enough.
                        self.message.reserve(left);
                        self.phase = Phase::Body { left, more };
                    }
                }
                Phase::Body { left, .. } => {
                    let n = (*left).min(self.filled - self.taken);
                    self.message.extend_from_slice(&self.input[self.taken..self.taken + n]);
                    self.taken += n;
                    *left -= n;
                }
            }
            if let Phase::Body { left: 0, more } = self.phase {
                self.phase = Phase::START;
                self.inside = more;
                if !more {
                    return Ok(Some(std::mem::take(&mut self.message)));
                }
            }
        }
        Ok(None)
    }

    /// A frame's length and whether more follow, if this frame may stand here.
    fn check_head(&self, head: u32, max_bytes: usize) -> Result<(usize, bool), FrameError> {
        let more = head & MORE != 0;
        let length_bytes = (head & !MORE) as usize;
        if length_bytes > FRAME_BYTES {
            return Err(FrameError::FrameTooLong { length_bytes });
        }
        if more && length_bytes != FRAME_BYTES || length_bytes == 0 && self.inside {
            return Err(FrameError::NotCanonical);
        }
        // A frame that is followed by others announces at least one byte more.
        let at_least = self.message.len() + length_bytes + usize::from(more);
        if at_least > max_bytes {
            return Err(FrameError::TooLarge { max_bytes });
        }
        Ok((length_bytes, more))
    }
}

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// The next message, or `None` if the stream ended cleanly between two messages.
    ///
    /// `max_message_bytes` is checked at each frame's head, before its bytes are taken in.
    ///
    /// Safe to cancel: dropping the future before it is ready loses no bytes, and the next call
    /// goes on where it stopped.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; after one, every further call returns [`FrameError::Broken`].
    pub async fn read(&mut self, max_message_bytes: usize) -> Result<Option<Vec<u8>>, FrameError> {
        let result = self.read_inner(max_message_bytes).await;
        if result.is_err() {
            self.phase = Phase::Broken;
            self.input = Vec::new();
            self.message = Vec::new();
            (self.taken, self.filled) = (0, 0);
        }
        result
    }

    async fn read_inner(&mut self, max_bytes: usize) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            if matches!(self.phase, Phase::Broken) {
                return Err(FrameError::Broken);
            }
            if let Some(message) = self.parse(max_bytes)? {
                return Ok(Some(message));
            }
            let was_full = self.filled == self.input.len();
            (self.taken, self.filled) = (0, 0);
            if was_full && self.input.len() < INPUT_CAP_BYTES {
                let size = (self.input.len() * 2).clamp(INPUT_FIRST_BYTES, INPUT_CAP_BYTES);
                self.input.resize(size, 0);
            }
            let n = self.io.read(&mut self.input).await?;
            if n == 0 {
                let between = matches!(self.phase, Phase::Head { have: 0, .. }) && !self.inside;
                return if between { Ok(None) } else { Err(FrameError::Truncated) };
            }
            self.filled = n;
        }
    }
}
