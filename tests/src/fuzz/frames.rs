//! The framing of streams, in whatever pieces the bytes come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::executor::block_on;
use futures::io::AsyncRead;
use postroad_net::{FramedReader, FramedWriter};

/// The largest message that the reader is told to take: more than a frame.
const MAX_BYTES: usize = 200_000;

/// Bytes that come at most `piece` at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = self.piece.min(self.bytes.len()).min(buf.len());
        let (now, later) = self.bytes.split_at(n);
        buf[..n].copy_from_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(n))
    }
}

/// The messages of these bytes, and whether they ended between two.
fn messages(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FramedReader::new(Pieces { bytes, piece });
    let mut messages = Vec::new();
    loop {
        match block_on(reader.read(MAX_BYTES)) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, true),
            Err(_) => {
                assert!(block_on(reader.read(MAX_BYTES)).is_err(), "an error is the last word");
                return (messages, false);
            }
        }
    }
}

/// The first byte says in which pieces the rest comes.
pub(super) fn frames(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = messages(bytes, usize::MAX);
    assert!(whole == messages(bytes, usize::from(*piece) + 1), "how the bytes were cut means nothing");
    let (messages, clean) = whole;
    if clean {
        let mut written = Vec::new();
        let mut writer = FramedWriter::new(&mut written);
        for message in &messages {
            block_on(writer.send(message)).expect("memory takes everything");
        }
        drop(writer);
        assert!(written == bytes, "a message has one framing");
    }
}
