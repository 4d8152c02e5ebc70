//! The framing alone, on pipes in memory: one framing per message, nothing believed, nothing lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::executor::block_on;
use futures::io::{AsyncRead, AsyncWrite, Cursor};
use postroad_net::{FRAME_BYTES, FrameError, FramedReader, FramedWriter};
use proptest::prelude::*;

const MORE: u32 = 1 << 31;

/// Gives and takes at most `step` bytes at a time, and is not ready every other time.
struct Slow<'a> {
    data: &'a mut Vec<u8>,
    at: usize,
    step: usize,
    ready: bool,
}

impl<'a> Slow<'a> {
    fn new(data: &'a mut Vec<u8>, step: usize) -> Self {
        Self { data, at: 0, step, ready: false }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready = !self.ready;
        if self.ready {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Slow<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.turn(cx));
        let n = self.step.min(buf.len()).min(self.data.len() - self.at);
        buf[..n].copy_from_slice(&self.data[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Slow<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.turn(cx));
        let n = self.step.min(buf.len());
        self.data.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts the writes.
#[derive(Default)]
struct Writes(Vec<usize>);

impl AsyncWrite for Writes {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.push(buf.len());
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn encode(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    block_on(async {
        let mut writer = FramedWriter::new(Cursor::new(&mut bytes));
        for message in messages {
            writer.feed(message).await.expect("feeds");
        }
        writer.close().await.expect("closes");
    });
    bytes
}

/// Every message up to the end or the first error.
fn decode(bytes: &[u8], max: usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
    block_on(async {
        let mut reader = FramedReader::new(bytes);
        let mut messages = Vec::new();
        loop {
            match reader.read(max).await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, None),
                Err(error) => {
                    assert!(matches!(reader.read(max).await, Err(FrameError::Broken)));
                    return (messages, Some(error));
                }
            }
            assert!(reader.memory_bytes() <= 2 * bytes.len() + 3 * FRAME_BYTES);
        }
    })
}

fn frame(more: bool, length: usize) -> Vec<u8> {
    let head = length as u32 | if more { MORE } else { 0 };
    let mut bytes = head.to_be_bytes().to_vec();
    bytes.resize(4 + length, 1);
    bytes
}

#[test]
fn the_bytes_on_the_wire() {
    assert_eq!(encode(&[b"post".to_vec(), Vec::new()]), b"\0\0\0\x04post\0\0\0\0");
    let long = encode(&[vec![1; FRAME_BYTES + 1]]);
    assert_eq!(long, [frame(true, FRAME_BYTES), frame(false, 1)].concat());
    assert_eq!(&long[..4], b"\x80\x01\0\0");
    assert_eq!(encode(&[vec![1; FRAME_BYTES]]), frame(false, FRAME_BYTES));
}

#[test]
fn every_other_framing_is_refused() {
    let full = frame(true, FRAME_BYTES);
    for bytes in [
        frame(true, 0),
        frame(true, 5),
        frame(true, FRAME_BYTES - 1),
        [full.clone(), frame(false, 0)].concat(),
        [full.clone(), frame(true, 0)].concat(),
    ] {
        let (messages, error) = decode(&bytes, 1 << 20);
        assert!(messages.is_empty() && matches!(error, Some(FrameError::NotCanonical)));
    }
    for length in [FRAME_BYTES + 1, (MORE - 1) as usize] {
        for more in [0, MORE] {
            let (_, error) = decode(&(length as u32 | more).to_be_bytes(), usize::MAX);
            let Some(FrameError::FrameTooLong { length_bytes }) = error else { panic!() };
            assert_eq!(length_bytes, length);
        }
    }
}

#[test]
fn an_end_inside_a_message_is_no_end() {
    let whole = encode(&[b"whole".to_vec(), vec![3; FRAME_BYTES * 2]]);
    for cut in [1, 3, 4, 8, 10, 13, 20, 9 + 4 + FRAME_BYTES, whole.len() - 1] {
        let (messages, error) = decode(&whole[..cut], 1 << 20);
        assert!(matches!(error, Some(FrameError::Truncated)), "cut at {cut}");
        assert_eq!(messages.len(), usize::from(cut >= 9));
    }
    assert!(decode(&whole[..9], 1 << 20).1.is_none());
    assert!(decode(&[], 0).1.is_none());
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_head() {
    for length in [1, 100, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES] {
        let bytes = encode(&[vec![9; length]]);
        assert_eq!(decode(&bytes, length).0.len(), 1);
        let (messages, error) = decode(&bytes, length - 1);
        assert!(messages.is_empty());
        let Some(FrameError::TooLarge { max_bytes }) = error else { panic!("{error:?}") };
        assert_eq!(max_bytes, length - 1);
    }
    // A frame that says others follow is more than itself.
    let head = (FRAME_BYTES as u32 | MORE).to_be_bytes();
    assert!(matches!(decode(&head, FRAME_BYTES).1, Some(FrameError::TooLarge { .. })));
}

#[test]
fn announced_lengths_cost_one_frame_at_most() {
    // Long announcements, one after the other, none of them kept.
    for _ in 0..100 {
        let head = frame(false, FRAME_BYTES);
        block_on(async {
            let mut reader = FramedReader::new(&head[..10]);
            assert!(reader.read(usize::MAX).await.is_err());
            assert_eq!(reader.memory_bytes(), 0, "an error frees everything");
        });
    }
}

#[test]
fn many_small_messages_leave_in_one_write() {
    let mut writes = Writes::default();
    block_on(async {
        let mut writer = FramedWriter::new(&mut writes);
        for _ in 0..1000 {
            writer.feed(&[5; 60]).await.expect("feeds");
        }
        assert_eq!(writer.buffered_bytes(), 64_000);
        writer.flush().await.expect("flushes");
        for _ in 0..4000 {
            writer.feed(&[5; 60]).await.expect("feeds");
        }
        assert!(writer.buffered_bytes() <= 128 * 1024);
        writer.send(b"last").await.expect("sends");
    });
    assert_eq!(writes.0[0], 64_000);
    assert_eq!(writes.0.len(), 3, "{:?}", writes.0);
}

#[test]
fn dropped_reads_and_writes_lose_nothing() {
    let messages: Vec<Vec<u8>> = (0..40).map(|i| vec![i as u8; i * 37]).collect();
    let mut wire = Vec::new();
    block_on(async {
        let mut writer = FramedWriter::new(Slow::new(&mut wire, 7));
        for message in &messages {
            // Taken when first polled, although it is dropped half way.
            let _ = futures::poll!(Box::pin(writer.send(message)));
        }
        while futures::poll!(Box::pin(writer.flush())).is_pending() {}
    });
    assert_eq!(wire, encode(&messages));
    block_on(async {
        let mut reader = FramedReader::new(Slow::new(&mut wire, 1));
        for message in &messages {
            let read = loop {
                if let Poll::Ready(read) = futures::poll!(Box::pin(reader.read(1 << 20))) {
                    break read.expect("reads").expect("a message");
                }
            };
            assert_eq!(&read, message);
        }
    });
}

fn lengths() -> impl Strategy<Value = usize> {
    let edge = prop::sample::select(vec![0, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1]);
    prop_oneof![6 => 0..200_usize, 3 => edge, 1 => 0..3 * FRAME_BYTES]
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let plausible = (any::<bool>(), lengths()).prop_map(|(more, length)| frame(more, length));
    let good = Just(frame(true, FRAME_BYTES));
    let noise = prop::collection::vec(any::<u8>(), 0..50);
    let piece = prop_oneof![4 => plausible, 2 => good, 1 => noise];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read(messages in prop::collection::vec(lengths(), 0..10), step in 1..5000_usize) {
        let messages: Vec<Vec<u8>> = messages.into_iter().map(|n| vec![n as u8; n]).collect();
        let mut bytes = encode(&messages);
        let (read, error) = decode(&bytes, usize::MAX);
        prop_assert!(error.is_none());
        prop_assert_eq!(&read, &messages);
        let slowly = block_on(async {
            let mut reader = FramedReader::new(Slow::new(&mut bytes, step));
            let mut read = Vec::new();
            while let Some(message) = reader.read(usize::MAX).await.expect("reads") {
                read.push(message);
            }
            read
        });
        prop_assert_eq!(slowly, messages);
    }

    /// Whatever comes, what was understood has exactly the bytes that were consumed for it.
    #[test]
    fn garbage_is_refused_and_framings_are_unique(bytes in garbage(), max in 0..300_000_usize) {
        let (messages, error) = decode(&bytes, max);
        prop_assert!(messages.iter().all(|message| message.len() <= max));
        let again = encode(&messages);
        prop_assert!(bytes.starts_with(&again));
        prop_assert_eq!(error.is_none(), again.len() == bytes.len());
    }
}
