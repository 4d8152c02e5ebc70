//! Faults of an origin: what it signed over its batches.

use minicbor::{Decode, Encode};

use super::parts::{BundleAt, Included, MessageAt, RecipientAt, SliceProof};
use super::{ClaimError, Cleared, Fault, Verdict, in_order};
use crate::batch::Header;
use crate::crypto::{MailboxId, NodeId};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::seq::Seq;
use crate::signed::{Signed, Verify};
use crate::slice::LeafRef;
use crate::state::HomeProof;

/// Two headers of one incarnation with one number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Equivocation {
    /// The one with the lower digest.
    #[n(0)]
    pub first: Signed<Header>,
    /// The other one.
    #[n(1)]
    pub second: Signed<Header>,
}

impl Equivocation {
    /// Of two headers in any order.
    pub fn of(a: Signed<Header>, b: Signed<Header>, federation: &Federation) -> Equivocation {
        let (first, second) = if a.digest(federation) < b.digest(federation) { (a, b) } else { (b, a) };
        Equivocation { first, second }
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let (first, second) = (&self.first.body, &self.second.body);
        for header in [&self.first, &self.second] {
            within_limits(&header.body, federation)?;
            header.verify(federation)?;
        }
        if first.origin != second.origin || first.number != second.number {
            return Err(Cleared::OtherSlot.into());
        }
        in_order(self.first.digest(federation), self.second.digest(federation))?;
        if first.incarnation != second.incarnation {
            return Err(Cleared::OtherIncarnation.into());
        }
        Ok(Verdict::new(Fault::Equivocation, first.origin, first.routing_epoch))
    }
}

/// A header that no cut has included may have any size; one that could be included has not.
fn within_limits(header: &Header, federation: &Federation) -> Result<(), ClaimError> {
    if header.slices.len() as u64 > federation.params().max_slices {
        return Err(VerifyError::malformed("header", "more slices than genesis allows").into());
    }
    Ok(())
}

/// A mailbox's home as of an epoch, from a proof of that or a later epoch, which tells where it lived before.
fn home_at(proof: &HomeProof, mailbox: &MailboxId, epoch: u64, federation: &Federation) -> Result<NodeId, ClaimError> {
    let header = proof.verify(mailbox, federation)?;
    if header.epoch < epoch {
        return Err(VerifyError::malformed("home proof", "it is of an earlier epoch").into());
    }
    let home = proof.value.as_ref().and_then(|value| value.home_at(epoch));
    home.ok_or(Cleared::NotThere { epoch }.into())
}

/// Included entries hold a message for a mailbox, and the slice for its home does not.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Omission {
    /// The header.
    #[n(0)]
    pub included: Included,
    /// The message.
    #[n(1)]
    pub message: MessageAt,
    /// The recipient; the message's digest follows from it.
    #[n(2)]
    pub recipient: RecipientAt,
    /// Where the recipient lived at the routing epoch.
    #[n(3)]
    pub home: HomeProof,
    /// What the slice for that home holds for the recipient; none if the header has no such slice.
    #[n(4)]
    pub slice: Option<SliceProof>,
}

impl Omission {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.included.verify(federation)?;
        let header = self.included.header();
        let index = self.message.resolve(header, federation)?;
        if self.recipient.message()? != self.message.message {
            return Err(VerifyError::Path { what: "recipient" }.into());
        }
        let mailbox = self.recipient.mailbox;
        let home = home_at(&self.home, &mailbox, header.routing_epoch, federation)?;
        match (header.slice(&home), &self.slice) {
            (Some(slice), Some(proof)) => {
                let leaves = proof.verify(&slice.root, &mailbox)?;
                if leaves.iter().any(|leaf| leaf.index == index) {
                    return Err(Cleared::InSlice { seq: self.included.seq(index) }.into());
                }
            }
            (None, None) => {}
            _ => return Err(VerifyError::malformed("omission", "not what the header says of that slice").into()),
        }
        let verdict = Verdict::new(Fault::Omission, header.origin, self.included.epoch());
        Ok(verdict.for_message(self.included.seq(index), Some(mailbox)))
    }
}

/// A leaf of a slice that its header's entries contradict.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BadSlice {
    /// The header.
    #[n(0)]
    pub header: Signed<Header>,
    /// Whose slice.
    #[n(1)]
    pub destination: NodeId,
    /// The mailbox.
    #[n(2)]
    pub mailbox: MailboxId,
    /// What the slice holds for it.
    #[n(3)]
    pub slice: SliceProof,
    /// Which of its leaves.
    #[n(4)]
    pub leaf: u32,
    /// What stands there in the entries.
    #[n(5)]
    pub entry: Entry,
}

/// What the entries hold at a leaf's index.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Entry {
    /// Nothing: the batch has fewer messages.
    #[n(0)]
    Beyond,
    /// Another message.
    #[n(1)]
    Other(#[n(0)] Box<MessageAt>),
    /// That message, with another payload of that recipient's own.
    #[n(2)]
    OtherOwn(#[n(0)] Box<MessageAt>, #[n(1)] Box<RecipientAt>),
}

impl Entry {
    /// Checks that `header`'s entries hold something else than `leaf` for `mailbox`.
    pub(super) fn contradicts(
        &self,
        header: &Header,
        mailbox: &MailboxId,
        leaf: &LeafRef,
        federation: &Federation,
    ) -> Result<(), ClaimError> {
        let at = |message: &MessageAt| match message.resolve(header, federation)? {
            index if index == leaf.index => Ok(()),
            _ => Err(VerifyError::malformed("entry", "it is of another index")),
        };
        let differs = match self {
            Entry::Beyond => leaf.index >= header.entries.messages,
            Entry::Other(message) => {
                at(message)?;
                message.message != leaf.message
            }
            Entry::OtherOwn(message, recipient) => {
                at(message)?;
                if recipient.message()? != message.message || recipient.mailbox != *mailbox {
                    return Err(VerifyError::Path { what: "recipient" }.into());
                }
                if message.message != leaf.message {
                    return Err(VerifyError::malformed("entry", "the recipient is not needed").into());
                }
                recipient.own != leaf.own
            }
        };
        if differs { Ok(()) } else { Err(Cleared::Agrees { index: leaf.index }.into()) }
    }
}

impl BadSlice {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        within_limits(&self.header.body, federation)?;
        self.header.verify(federation)?;
        let header = &self.header.body;
        let malformed = |reason| VerifyError::malformed("bad slice", reason);
        let slice = header.slice(&self.destination).ok_or(malformed("the header has no such slice"))?;
        let leaves = self.slice.verify(&slice.root, &self.mailbox)?;
        let leaf = leaves.get(self.leaf as usize).ok_or(malformed("the slice has no such leaf"))?;
        self.entry.contradicts(header, &self.mailbox, leaf, federation)?;
        let mut verdict = Verdict::new(Fault::BadSlice, header.origin, header.routing_epoch);
        verdict.mailbox = Some(self.mailbox);
        Ok(verdict)
    }
}

/// An included bundle that its sender did not sign for this origin, or that nobody registered could have signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Forgery {
    /// The header.
    #[n(0)]
    pub included: Included,
    /// The bundle.
    #[n(1)]
    pub bundle: BundleAt,
    /// That the sender is not registered, where that is the fault; none where the bundle itself shows it.
    #[n(2)]
    pub unregistered: Option<HomeProof>,
}

impl Forgery {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.included.verify(federation)?;
        let header = self.included.header();
        let first = self.bundle.first(header, federation)?;
        let body = &self.bundle.signed.body;
        let is_forged = match &self.unregistered {
            Some(proof) => {
                if proof.verify(&body.sender, federation)?.epoch < header.routing_epoch {
                    return Err(VerifyError::malformed("home proof", "it is of an earlier epoch").into());
                }
                // Who is registered stays so. Since when it lives at its home says nothing of that.
                proof.value.is_none()
            }
            None => {
                body.via != header.origin
                    || body.count == 0
                    || body.counter == 0
                    || body.counter.checked_add(u64::from(body.count)).is_none()
                    || self.bundle.signed.verify(federation).is_err()
            }
        };
        if !is_forged {
            return Err(Cleared::Signed { sender: body.sender }.into());
        }
        let verdict = Verdict::new(Fault::Forgery, header.origin, self.included.epoch());
        Ok(verdict.for_message(self.included.seq(first), None))
    }
}

/// Two bundles of one sender in included headers of one incarnation, with counters that do not rise.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Misordering {
    /// The header of the earlier bundle.
    #[n(0)]
    pub before: Included,
    /// The earlier bundle.
    #[n(1)]
    pub earlier: BundleAt,
    /// The header of the later one; none if it is the same.
    #[n(2)]
    pub after: Option<Included>,
    /// The later bundle.
    #[n(3)]
    pub later: BundleAt,
}

impl Misordering {
    /// The header of the later bundle.
    pub(super) fn after(&self) -> &Included {
        self.after.as_ref().unwrap_or(&self.before)
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let after = self.after();
        self.before.verify(federation)?;
        after.verify(federation)?;
        let (one, other) = (self.before.header(), after.header());
        self.earlier.first(one, federation)?;
        let first = self.later.first(other, federation)?;
        if one.origin != other.origin {
            return Err(Cleared::OtherSlot.into());
        }
        let place = |header: &Header, bundle: &BundleAt| (header.number, bundle.ordinal);
        let same = self.before.digest(federation) == after.digest(federation);
        if place(one, &self.earlier) >= place(other, &self.later) || same != self.after.is_none() {
            return Err(VerifyError::malformed("misordering", "the bundles do not stand one after the other").into());
        }
        let (earlier, later) = (&self.earlier.signed.body, &self.later.signed.body);
        if earlier.sender != later.sender || earlier.via != one.origin || later.via != one.origin {
            return Err(Cleared::OtherSlot.into());
        }
        if earlier.last_counter() < later.counter {
            return Err(Cleared::Rising.into());
        }
        if one.incarnation != other.incarnation {
            return Err(Cleared::OtherIncarnation.into());
        }
        let verdict = Verdict::new(Fault::Misordering, one.origin, after.epoch());
        Ok(verdict.for_message(after.seq(first), None))
    }
}

/// A bundle that was routed after its valid-until.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Stale {
    /// The header.
    #[n(0)]
    pub included: Included,
    /// The bundle.
    #[n(1)]
    pub bundle: BundleAt,
}

impl Stale {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.included.verify(federation)?;
        let header = self.included.header();
        let first: u64 = self.bundle.first(header, federation)?;
        let (valid_until, routed) = (self.bundle.signed.body.valid_until, header.routing_epoch);
        if routed <= valid_until {
            return Err(Cleared::InTime { valid_until, routed }.into());
        }
        let seq: Seq = self.included.seq(first);
        Ok(Verdict::new(Fault::Stale, header.origin, self.included.epoch()).for_message(seq, None))
    }
}
