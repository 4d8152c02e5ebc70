//! Bad bytes on every edge: random, cut short, too long, and with one bit flipped. They must be refused, and what is
//! refused reaches no room.

use postroad_protocol::codec::decode;
use postroad_protocol::wire::client::FromClient;
use postroad_protocol::wire::mail::{Homeward, Outward};
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};

use super::net::Stream;
use super::world::{Step, World};

impl World {
    fn mangle(&mut self, bytes: &[u8], signed: bool) -> Vec<u8> {
        let mut mangled = bytes.to_vec();
        match self.rng.below(if signed { 6 } else { 3 }) {
            0 => {
                let len = self.rng.within(0..=200);
                return self.rng.bytes(len as usize);
            }
            1 => mangled.truncate(self.rng.index(bytes.len())),
            2 => mangled.extend(self.rng.array::<3>()),
            _ => {
                let at = self.rng.index(bytes.len());
                mangled[at] ^= 1 << self.rng.below(8);
            }
        }
        mangled
    }

    /// A mangled copy of a frame between nodes is refused. Every bit of a signed statement counts; what carries no
    /// signature (names, credit) rests on the connection's.
    pub(super) fn mangled_frame(&mut self, stream: Stream, bytes: &[u8]) -> Step {
        let signed = match stream {
            Stream::Outward => matches!(decode(bytes), Ok(Outward::Slice(_))),
            Stream::Homeward => matches!(decode(bytes), Ok(Homeward::Receipts(_))),
            Stream::Up => !matches!(decode(bytes), Ok(ToSequencer::Hello(..) | ToSequencer::Applied(_))),
            Stream::Down => matches!(decode(bytes), Ok(FromSequencer::Cut(_))),
        };
        let mangled = self.mangle(bytes, signed);
        if mangled == bytes {
            return Ok(());
        }
        let refused = match stream {
            Stream::Outward => self.edge.at_holder(&mangled).is_err(),
            Stream::Homeward => self.edge.at_origin(&mangled).is_err(),
            Stream::Up => self.edge.at_sequencer(&mangled).is_err(),
            Stream::Down => self.edge.at_follower(&mangled).is_err(),
        };
        self.must_be_refused(refused, stream.name(), &mangled)
    }

    /// A mangled copy of a client's frame is refused.
    pub(super) fn mangled_client_frame(&mut self, bytes: &[u8]) -> Step {
        let signed = matches!(decode(bytes), Ok(FromClient::Submit(_) | FromClient::Acknowledge(_)));
        let mangled = self.mangle(bytes, signed);
        let refused = mangled == bytes || self.edge.at_node(&mangled).is_err();
        self.must_be_refused(refused, "from-client", &mangled)
    }

    fn must_be_refused(&mut self, refused: bool, edge: &str, bytes: &[u8]) -> Step {
        self.stats.mangled += 1;
        if refused {
            return Ok(());
        }
        self.broken("bad-bytes", format!("{edge} took {}", hex::encode(&bytes[..bytes.len().min(64)])))
    }
}
