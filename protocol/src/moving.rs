//! Moving a mailbox: the owner's switch, the old home's handoff, the new home's import, and the parts of slices that
//! travel for it.
//!
//! A switch takes effect in one cut, the same for everybody. What was routed to a former home afterwards, or stood there
//! beyond the attestation that the new home continues, are the *items* of that home's span; each belongs to the import
//! that closes it (docs/moving.md).

use minicbor::{Decode, Encode};

use crate::attestation::{Acknowledgement, LogHead, LogLeaf, MailboxAttestation};
use crate::batch::{AttestationRef, Header};
use crate::crypto::{MailboxId, NodeId, PublicKey, SecretKey, Signature};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::evidence::SliceProof;
use crate::genesis::Federation;
use crate::merkle::log::Frontier;
use crate::seq::Seq;
use crate::signed::{Claims, Signed, Statement, Verified, Verify, digest_of, sign_digest};
use crate::slice::{LeafRef, SliceBody, SliceIndex, SliceKey, SliceLeaf};

/// The most former homes that the state remembers of a mailbox.
pub const MAX_SPANS: usize = 8;
/// The most ranges of headers that an import may name as missing.
pub const MAX_MISSING: usize = 64;

/// An owner's word on where its mailbox lives from now on, and which key may overrule it. It replaces the record in
/// force, and of two that replace the same one the first in a cut wins. One that names the present home moves nothing:
/// it abandons whatever else was signed for the same record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Switch {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The digest of the record in force: the registration's or the last switch's. A switch with the recovery key's
    /// signature may name the last record that has one, or the registration's, instead.
    #[n(1)]
    pub replaces: Digest,
    /// The new home.
    #[n(2)]
    pub home: NodeId,
    /// The recovery key from now on.
    #[n(3)]
    pub recovery_key: Option<PublicKey>,
}

impl Statement for Switch {
    const KIND: &'static str = "switch";

    fn signer(&self) -> PublicKey {
        self.mailbox
    }
}

/// A recovery key's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Recovery {
    /// The key.
    #[n(0)]
    pub key: PublicKey,
    /// Its signature over the switch's digest.
    #[n(1)]
    pub signature: Signature,
}

/// A switch with its signatures, all over the same digest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Move {
    /// What is signed.
    #[n(0)]
    pub switch: Switch,
    /// The device's: the mailbox key's.
    #[n(1)]
    pub device: Option<Signature>,
    /// The recovery key's.
    #[n(2)]
    pub recovery: Option<Recovery>,
    /// The new home's.
    #[n(3)]
    pub home: Option<Signature>,
}

impl Move {
    /// A switch that nobody has signed yet.
    pub fn new(switch: Switch) -> Move {
        Move { switch, device: None, recovery: None, home: None }
    }

    /// The digest that is signed, and that names the record.
    pub fn digest(&self, federation: &Federation) -> Digest {
        digest_of(&self.switch, federation.id())
    }

    /// With the device's signature.
    #[must_use]
    pub fn by_device(mut self, secret: &SecretKey, federation: &Federation) -> Move {
        self.device = Some(sign_digest(secret, self.digest(federation)));
        self
    }

    /// With the recovery key's signature.
    #[must_use]
    pub fn by_recovery(mut self, secret: &SecretKey, federation: &Federation) -> Move {
        self.recovery =
            Some(Recovery { key: secret.public(), signature: sign_digest(secret, self.digest(federation)) });
        self
    }
}

impl Verified<Move> {
    /// With the new home's signature.
    #[must_use]
    pub fn co_sign(self, secret: &SecretKey, federation: &Federation) -> Verified<Move> {
        debug_assert_eq!(self.switch.home, secret.public());
        let home = Some(sign_digest(secret, self.digest(federation)));
        Verified(Move { home, ..self.into_inner() })
    }
}

impl Verify for Move {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed(Switch::KIND, reason));
        if self.switch.recovery_key.is_some_and(|key| !key.is_acceptable()) {
            return malformed("the recovery key is of small order or not canonical");
        }
        if self.device.is_none() && self.recovery.is_none() {
            return malformed("neither the device nor the recovery key has signed it");
        }
        let digest = self.digest(federation);
        if let Some(signature) = &self.device {
            claims.add(Switch::KIND, self.switch.mailbox, digest, signature);
        }
        if let Some(Recovery { key, signature }) = &self.recovery {
            claims.add(Switch::KIND, *key, digest, signature);
        }
        if let Some(signature) = &self.home {
            claims.add(Switch::KIND, self.switch.home, digest, signature);
        }
        Ok(())
    }
}

/// The log that a new home continues: one that a former home has attested, finally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Base {
    /// The former home.
    #[n(0)]
    pub node: NodeId,
    /// Its attestation, and the epoch that it attests.
    #[n(1)]
    pub attestation: AttestationRef,
    /// What that says of the mailbox's log.
    #[n(2)]
    pub log: LogHead,
}

/// Headers of one origin whose slices for former homes could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(array)]
pub struct Missing {
    /// The origin.
    #[n(0)]
    pub origin: NodeId,
    /// The first epoch whose cut included one.
    #[n(1)]
    pub from: u64,
    /// The last one.
    #[n(2)]
    pub to: u64,
}

impl Missing {
    /// Whether it covers a header of this origin that the cut of this epoch included.
    pub fn covers(&self, origin: &NodeId, epoch: u64) -> bool {
        self.origin == *origin && (self.from..=self.to).contains(&epoch)
    }
}

/// A new home's word that it has taken over: all mail that was routed to the mailbox's former homes, and that cuts up
/// to `through` included, is in the log, but for what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Import {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// Its home.
    #[n(1)]
    pub home: NodeId,
    /// The import before this one; of the first, the switch.
    #[n(2)]
    pub previous: Digest,
    /// The log that is continued; none if it begins with the oldest home that is remembered: the registration's, but
    /// for mailboxes that have moved often. All imports of a move say the same.
    #[n(3)]
    pub base: Option<Base>,
    /// The last epoch whose cut is considered.
    #[n(4)]
    pub through: u64,
    /// What could not be had, ascending.
    #[cbor(n(5), decode_with = "crate::codec::at_most::<MAX_MISSING, _, _>")]
    pub missing: Vec<Missing>,
}

impl Statement for Import {
    const KIND: &'static str = "import";

    fn signer(&self) -> PublicKey {
        self.home
    }
}

impl Import {
    /// Whether it speaks of a header of this origin that the cut of this epoch included, and does not name it as missing.
    pub fn closes(&self, origin: &NodeId, epoch: u64) -> bool {
        epoch <= self.through && !self.missing.iter().any(|missing| missing.covers(origin, epoch))
    }
}

/// An old home's word on what it hands over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Handoff {
    /// The old home.
    #[n(0)]
    pub node: NodeId,
    /// The mailbox.
    #[n(1)]
    pub mailbox: MailboxId,
    /// To whom.
    #[n(2)]
    pub home: NodeId,
    /// The final attestation that names the log.
    #[n(3)]
    pub attestation: AttestationRef,
    /// The log.
    #[n(4)]
    pub log: LogHead,
}

impl Statement for Handoff {
    const KIND: &'static str = "handoff";

    fn signer(&self) -> PublicKey {
        self.node
    }
}

/// What a slice holds for one mailbox: that part of it, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extract {
    /// The slice's header.
    #[n(0)]
    pub header: Signed<Header>,
    /// Whom the slice was for.
    #[n(1)]
    pub destination: NodeId,
    /// The mailbox's leaves in the slice, or their absence.
    #[n(2)]
    pub proof: SliceProof,
    /// The messages behind those leaves, for that mailbox alone; empty where there are none.
    #[n(3)]
    pub body: SliceBody,
}

impl Extract {
    /// What `index`, of the slice `body` under `header`, holds for `mailbox`.
    pub fn of(
        header: Signed<Header>,
        destination: NodeId,
        body: &SliceBody,
        index: &SliceIndex,
        mailbox: &MailboxId,
    ) -> Extract {
        Extract { header, destination, proof: index.prove(mailbox), body: body.part_of(mailbox) }
    }

    /// The slice's name.
    pub fn key(&self, federation: &Federation) -> SliceKey {
        let (header, digest) = (&self.header.body, self.header.digest(federation));
        SliceKey { origin: header.origin, number: header.number, header: digest, destination: self.destination }
    }

    /// Checks the header's signature, the proof under its slice root, and every path of the body. Returns the mailbox's
    /// leaves, with their places in the body.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn verify(&self, mailbox: &MailboxId, federation: &Federation) -> Result<Vec<SliceLeaf>, VerifyError> {
        let malformed = |reason| VerifyError::malformed("extract", reason);
        let header = &self.header.body;
        if header.slices.len() as u64 > federation.params().max_slices {
            return Err(malformed("the header has more slices than genesis allows"));
        }
        let slice = header.slice(&self.destination).ok_or(malformed("the header names no such slice"))?;
        self.header.verify(federation)?;
        let proven = self.proof.verify(&slice.root, mailbox)?;
        let leaves = self.body.leaves_of(mailbox, header, federation)?;
        if !leaves.iter().map(LeafRef::from).eq(proven.iter().copied()) {
            return Err(malformed("the messages are not those of the leaves"));
        }
        Ok(leaves)
    }
}

/// The entries that one slice added to one mailbox log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LogRow {
    /// The epoch that settled them.
    #[n(0)]
    pub settled: u64,
    /// The epoch that ordered them.
    #[n(1)]
    pub epoch: u64,
    /// Their header's position in that cut.
    #[n(2)]
    pub position: u32,
    /// The slice that holds them.
    #[n(3)]
    pub slice: SliceKey,
    /// The entries.
    #[n(4)]
    pub leaves: Vec<SliceLeaf>,
}

impl LogRow {
    /// The log leaves of the row's entries.
    pub fn log_leaves(&self) -> impl Iterator<Item = LogLeaf> + '_ {
        self.leaves.iter().map(|leaf| LogLeaf {
            settled: self.settled,
            seq: Seq { epoch: self.epoch, position: self.position, index: leaf.index },
            message: leaf.message,
            own: leaf.own,
        })
    }
}

/// What an owner asks its new home to do.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MoveRequest {
    /// The switch, without the new home's signature.
    #[n(0)]
    pub order: Move,
    /// How long the old home may be silent before the move goes on without it, in milliseconds; 0: it is not asked.
    #[n(1)]
    pub patience_ms: u64,
    /// What the owner has of the log, in case nobody else hands it over.
    #[n(2)]
    pub base: Option<Box<OwnerBase>>,
}

/// A log as its owner has it: everything in it is safe with the owner.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OwnerBase {
    /// The final attestation that names it.
    #[n(0)]
    pub attested: MailboxAttestation,
    /// Its right edge.
    #[n(1)]
    pub frontier: Frontier,
    /// The owner's acknowledgement of it.
    #[n(2)]
    pub acknowledged: Signed<Acknowledgement>,
}

impl OwnerBase {
    /// Checks every signature and that all three are of one log of `mailbox`.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn verify(&self, mailbox: &MailboxId, federation: &Federation) -> Result<Base, VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed("base", reason));
        let attestation = &self.attested.attestation.body;
        if self.attested.anchor.is_none() {
            return malformed("the attestation is not final");
        }
        self.attested.verify(mailbox, &attestation.node, federation)?;
        let log = self.attested.log.log;
        if (self.frontier.size(), self.frontier.root()) != (log.size, log.root) {
            return malformed("the frontier is another log's");
        }
        let acknowledged = &self.acknowledged.body;
        if acknowledged.mailbox != *mailbox || acknowledged.log != log {
            return malformed("the acknowledgement is of another log");
        }
        self.acknowledged.verify(federation)?;
        Ok(self.attested.base(federation))
    }
}

/// A new home asks an old one for a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct HandoffRequest {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The owner's order, while no cut has settled it.
    #[n(1)]
    pub order: Option<Box<Move>>,
    /// The log index from which on rows are wanted.
    #[n(2)]
    pub from: u64,
}

/// A part of a log that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct HandoffPage {
    /// The old home's word on the whole.
    #[n(0)]
    pub handoff: Signed<Handoff>,
    /// The final attestation that it names.
    #[n(1)]
    pub attested: MailboxAttestation,
    /// The right edge of the log before the first row of this page, whose size is at most what was asked for.
    #[n(2)]
    pub before: Frontier,
    /// The rows, in order; the log is whole when they reach its size.
    #[n(3)]
    pub rows: Vec<HandedRow>,
    /// How many entries of the whole log the owner has not acknowledged and retention has not taken, and their payload
    /// bytes.
    #[n(4)]
    pub open: Extent,
}

/// Entries that are handed over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct HandedRow {
    /// The row.
    #[n(0)]
    pub row: LogRow,
    /// The messages, unless the owner has acknowledged them all or they are past retention.
    #[n(1)]
    pub extract: Option<Box<Extract>>,
}

/// So many entries with so many payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extent {
    /// Entries.
    #[n(0)]
    pub entries: u64,
    /// Payload bytes.
    #[n(1)]
    pub bytes: u64,
}

/// How far a move has come, as the new home sees it. Its own word; what proves the end is the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MoveStatus {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The phase.
    #[n(1)]
    pub phase: MovePhase,
    /// The home before.
    #[n(2)]
    pub from: NodeId,
    /// The new home.
    #[n(3)]
    pub to: NodeId,
    /// The switch's digest.
    #[n(4)]
    pub record: Digest,
    /// The cut that settled the switch, once one has.
    #[n(5)]
    pub epoch: Option<u64>,
    /// The age at which a switch that waits for its delay takes effect, and the age now.
    #[n(6)]
    pub due: Option<(u64, u64)>,
    /// What of the log is here.
    #[n(7)]
    pub here: Extent,
    /// What of the log is to be here, as far as is known.
    #[n(8)]
    pub total: Extent,
    /// Slices of former homes that were looked into for mail under way.
    #[n(9)]
    pub looked: u64,
    /// Entries that were found in them.
    #[n(10)]
    pub recovered: u64,
    /// Slices of former homes that could not be had so far: who is to hand them out.
    #[n(11)]
    pub owed: Vec<OwedBy>,
    /// Whether the old home handed the log over.
    #[n(12)]
    pub handed_over: bool,
    /// Why it stands still or has failed.
    #[n(13)]
    pub reason: Option<String>,
}

impl MoveStatus {
    /// Of a move with this order, of which nothing is here.
    pub fn new(mailbox: MailboxId, phase: MovePhase, from: NodeId, to: NodeId, record: Digest) -> MoveStatus {
        MoveStatus {
            mailbox,
            phase,
            from,
            to,
            record,
            epoch: None,
            due: None,
            here: Extent::default(),
            total: Extent::default(),
            looked: 0,
            recovered: 0,
            owed: Vec::new(),
            handed_over: false,
            reason: None,
        }
    }
}

/// Slices that a new home could not have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OwedBy {
    /// Which headers.
    #[n(0)]
    pub missing: Missing,
    /// How many slices.
    #[n(1)]
    pub slices: u64,
    /// Who signed for them or made them.
    #[n(2)]
    pub holders: Vec<NodeId>,
}

/// The phases of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum MovePhase {
    /// The old home hands the log over; nothing has changed.
    #[n(0)]
    Preparing,
    /// The switch is co-signed and handed in.
    #[n(1)]
    Switching,
    /// The switch is settled, and waits for the delay that guards against a thief.
    #[n(2)]
    Delayed,
    /// The mailbox lives at its new home, which fetches what was under way.
    #[n(3)]
    Importing,
    /// A cut has settled the import; what is still routed to the old home follows.
    #[n(4)]
    Following,
    /// Nothing can come any more.
    #[n(5)]
    Finished,
    /// It was abandoned, or another switch came first; nothing has changed.
    #[n(6)]
    Abandoned,
}

impl MovePhase {
    /// A short stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            MovePhase::Preparing => "preparing",
            MovePhase::Switching => "switching",
            MovePhase::Delayed => "delayed",
            MovePhase::Importing => "importing",
            MovePhase::Following => "following",
            MovePhase::Finished => "finished",
            MovePhase::Abandoned => "abandoned",
        }
    }
}
