//! Messages on a stream: length-prefixed, split in frames, with one framing per message.
//!
//! A frame is a big-endian `u32`, whose top bit says that more frames of this message follow and
//! whose low 31 bits are the frame's length, then that many bytes. Every frame but a message's last
//! is exactly [`FRAME_BYTES`] long, and only the empty message has an empty frame, so a message has
//! one framing and no other. Frames keep one long message from needing a length that nobody can
//! check: a reader holds what arrived, never what a peer announced.

mod reader;
mod writer;

pub use reader::FramedReader;
pub use writer::FramedWriter;

/// The longest frame, and the exact length of every frame that is not its message's last, in bytes.
pub const FRAME_BYTES: usize = 64 * 1024;

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 4;

/// The head's bit that says more frames of this message follow.
const MORE: u32 = 1 << 31;

/// Why a framed stream cannot be read on, or written on.
///
/// Every variant is final for the reader or writer that returned it: the stream is out of step and
/// should be dropped.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame's head names more than [`FRAME_BYTES`].
    #[error("frame of {length_bytes} bytes, the longest allowed has {FRAME_BYTES}")]
    FrameTooLong {
        /// The length in the head.
        length_bytes: usize,
    },
    /// The message is longer than the reader allows; what is past the limit was not read.
    #[error("message longer than {max_bytes} bytes")]
    TooLarge {
        /// The limit given to [`FramedReader::read`].
        max_bytes: usize,
    },
    /// A frame that is not its message's last is shorter than [`FRAME_BYTES`], or an empty frame
    /// ends a message that has others.
    #[error("message is not framed the one allowed way")]
    NotCanonical,
    /// The stream ended inside a message.
    #[error("stream ended inside a message")]
    Truncated,
    /// An earlier error left this reader or writer out of step.
    #[error("stream failed before")]
    Broken,
    /// The stream under the frames failed.
    #[error("stream failed: {0}")]
    Io(#[from] std::io::Error),
}
