//! The edges of a node: bytes in, verified values out. The same codec and the same verification as over real sockets.
//!
//! Verification is a pure function of the bytes, and many nodes get the same bytes; so what held once is remembered
//! under the hash of its bytes (and of the place that checked it). Nothing is taken unverified.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minicbor::{Decode, Encode};
use postroad_engine::{Held, io::check_request};
use postroad_protocol::attestation::Acknowledgement;
use postroad_protocol::bundle::Bundle;
use postroad_protocol::codec::decode;
use postroad_protocol::cut::Cut;
use postroad_protocol::receipt::{Fill, Receipt, Sealed};
use postroad_protocol::record::Record;
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::SliceKey;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::wire::client::{FromClient, ToClient};
use postroad_protocol::wire::mail::{Homeward, Outward, SliceName, SliceParcel};
use postroad_protocol::wire::order::{FromSequencer, ToSequencer};
use postroad_protocol::{Digest, Federation, Signed, Verified, digest};

use super::bugs::Bug;

/// Why bytes were refused.
pub(super) type Refused = String;

/// What an origin's stream brings.
pub(super) enum AtHolder {
    Hello,
    Slice(Held),
    Resume(Box<SliceName>),
}

/// What a holder's answers bring.
pub(super) enum AtOrigin {
    Hello,
    Receipts(Vec<Verified<Receipt>>),
    Missing(SliceKey),
    NotTaken(SliceKey, String),
    Ready(bool),
}

/// What the sequencer gets.
pub(super) enum AtSequencer {
    Hello(u64),
    Sealed(Box<Verified<Sealed>>),
    Fill(Box<Verified<Fill>>),
    Record(Box<Verified<Record>>),
    Applied(u64),
}

/// What the sequencer's stream brings.
pub(super) enum AtFollower {
    Hello(u64),
    Cut(Arc<Verified<Cut>>),
    Rejected(Digest, String),
    Busy(Digest),
}

/// What a client's stream brings.
pub(super) enum AtNode {
    Hello,
    Submit(Box<Verified<Bundle>>),
    Subscribe(u64),
    Acknowledge(Box<Verified<Signed<Acknowledgement>>>),
}

/// Decoding and verification for one federation.
pub(super) struct Edge {
    federation: Federation,
    bug: Option<Bug>,
    cuts: BTreeMap<Digest, Arc<Verified<Cut>>>,
    slices: BTreeMap<Digest, Held>,
    held: BTreeSet<Digest>,
}

fn read<'b, T: Decode<'b, ()> + Encode<()>>(bytes: &'b [u8]) -> Result<T, Refused> {
    decode(bytes).map_err(|error| error.to_string())
}

impl Edge {
    pub(super) fn new(federation: &Federation, bug: Option<Bug>) -> Edge {
        let (cuts, slices, held) = Default::default();
        Edge { federation: federation.clone(), bug, cuts, slices, held }
    }

    fn hello(&self, theirs: Digest) -> Result<(), Refused> {
        if theirs == self.federation.id() { Ok(()) } else { Err("another federation".into()) }
    }

    /// Verifies a value, unless the same bytes held at the same place before.
    pub(super) fn check<T: Verify>(&mut self, value: T, bytes: &[u8]) -> Result<Verified<T>, Refused> {
        let name = digest::hash(&[std::any::type_name::<T>().as_bytes(), bytes]);
        // Planted: signatures that nobody verifies.
        if self.held.contains(&name) || self.bug == Some(Bug::Unverified) {
            return Ok(Verified::from_own_disk(value));
        }
        let verified = Verified::check(value, &self.federation).map_err(|error| error.to_string())?;
        self.held.insert(name);
        Ok(verified)
    }

    fn parcel(&mut self, parcel: SliceParcel, bytes: &[u8]) -> Result<Held, Refused> {
        let name = digest::hash(&[bytes]);
        if let Some(held) = self.slices.get(&name) {
            return Ok(held.clone());
        }
        let held = Held::check(parcel, &self.federation).map_err(|error| error.to_string())?;
        self.slices.insert(name, held.clone());
        Ok(held)
    }

    fn cut(&mut self, cut: Cut, bytes: &[u8]) -> Result<Arc<Verified<Cut>>, Refused> {
        let name = digest::hash(&[bytes]);
        if let Some(cut) = self.cuts.get(&name) {
            return Ok(Arc::clone(cut));
        }
        let cut = Arc::new(Verified::check(cut, &self.federation).map_err(|error| error.to_string())?);
        self.cuts.insert(name, Arc::clone(&cut));
        Ok(cut)
    }

    pub(super) fn at_holder(&mut self, bytes: &[u8]) -> Result<AtHolder, Refused> {
        Ok(match read(bytes)? {
            Outward::Hello(federation) => {
                self.hello(federation)?;
                AtHolder::Hello
            }
            Outward::Slice(parcel) => AtHolder::Slice(self.parcel(*parcel, bytes)?),
            Outward::Resume(name) => {
                if let Some(request) = &name.request {
                    check_request(request, &name.slice, &self.federation).map_err(|error| error.to_string())?;
                }
                AtHolder::Resume(name)
            }
        })
    }

    pub(super) fn at_origin(&mut self, bytes: &[u8]) -> Result<Option<AtOrigin>, Refused> {
        Ok(Some(match read(bytes)? {
            Homeward::Hello(federation, _) => {
                self.hello(federation)?;
                AtOrigin::Hello
            }
            Homeward::Credit(_) => return Ok(None),
            Homeward::Receipts(receipts) => {
                let mut verified = Vec::with_capacity(receipts.len());
                for (at, receipt) in receipts.into_iter().enumerate() {
                    verified.push(self.check(receipt, &[bytes, &at.to_be_bytes()].concat())?);
                }
                AtOrigin::Receipts(verified)
            }
            Homeward::Missing(key) => AtOrigin::Missing(key),
            Homeward::Refused(key, reason) => AtOrigin::NotTaken(key, reason),
            Homeward::Ready(ready) => AtOrigin::Ready(ready),
        }))
    }

    pub(super) fn at_sequencer(&mut self, bytes: &[u8]) -> Result<AtSequencer, Refused> {
        Ok(match read(bytes)? {
            ToSequencer::Hello(federation, after) => {
                self.hello(federation)?;
                AtSequencer::Hello(after)
            }
            ToSequencer::Sealed(sealed) => AtSequencer::Sealed(Box::new(self.check(*sealed, bytes)?)),
            ToSequencer::Fill(fill) => AtSequencer::Fill(Box::new(self.check(*fill, bytes)?)),
            ToSequencer::Record(record) => AtSequencer::Record(Box::new(self.check(*record, bytes)?)),
            ToSequencer::Applied(epoch) => AtSequencer::Applied(epoch),
        })
    }

    pub(super) fn at_follower(&mut self, bytes: &[u8]) -> Result<AtFollower, Refused> {
        Ok(match read(bytes)? {
            FromSequencer::Hello(federation, epoch) => {
                self.hello(federation)?;
                AtFollower::Hello(epoch)
            }
            FromSequencer::Cut(cut) => AtFollower::Cut(self.cut(*cut, bytes)?),
            FromSequencer::Rejected(digest, reason) => AtFollower::Rejected(digest, reason),
            FromSequencer::Busy(digest) => AtFollower::Busy(digest),
        })
    }

    pub(super) fn at_node(&mut self, bytes: &[u8]) -> Result<Option<AtNode>, Refused> {
        Ok(Some(match read(bytes)? {
            FromClient::Hello(federation) => {
                self.hello(federation)?;
                AtNode::Hello
            }
            FromClient::Submit(bundle) => AtNode::Submit(Box::new(self.check(*bundle, bytes)?)),
            FromClient::Subscribe(from) => AtNode::Subscribe(from),
            FromClient::Acknowledge(signed) => AtNode::Acknowledge(Box::new(self.check(signed, bytes)?)),
            FromClient::Credit(_) => return Ok(None),
        }))
    }

    pub(super) fn at_client(&self, bytes: &[u8]) -> Result<ToClient, Refused> {
        read(bytes)
    }

    pub(super) fn question(&self, bytes: &[u8]) -> Result<Question, Refused> {
        read(bytes)
    }

    pub(super) fn reply(&self, bytes: &[u8]) -> Result<Reply, Refused> {
        read(bytes)
    }

    /// The slice of a reply, checked.
    pub(super) fn fetched(&mut self, parcel: SliceParcel, bytes: &[u8]) -> Result<Held, Refused> {
        self.parcel(parcel, bytes)
    }

    /// A cut of a page of cuts, checked.
    pub(super) fn paged(&mut self, cut: Cut) -> Result<Arc<Verified<Cut>>, Refused> {
        let bytes = postroad_protocol::codec::encode(&FromSequencer::Cut(Box::new(cut.clone())));
        self.cut(cut, &bytes)
    }
}
