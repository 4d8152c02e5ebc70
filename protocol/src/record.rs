//! Records: what a cut settles first. Nodes joining, nodes starting, mailboxes registering and moving; challenges, their
//! answers, and losses.

use minicbor::{Decode, Encode};

use crate::challenge::{Challenge, Lost};
use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId, PublicKey, SecretKey, Signature};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::moving::{Import, Move};
use crate::receipt::Receipt;
use crate::signed::{Claims, Signed, Statement, Verified, Verify, digest_of, sign_digest};

/// The most addresses that a node announces.
pub const MAX_ADDRS: usize = 8;
/// The longest address, in bytes.
pub const MAX_ADDR_BYTES: usize = 256;
/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The most deputies of a node.
pub const MAX_DEPUTIES: usize = 8;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NodeRecord {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Rises with every record of this node.
    #[n(1)]
    pub version: u64,
    /// A name for people.
    #[n(2)]
    pub name: String,
    /// Where it listens, as multiaddresses without the PeerId.
    #[cbor(n(3), decode_with = "crate::codec::at_most::<MAX_ADDRS, _, _>")]
    pub addrs: Vec<String>,
    /// Nodes that take its slices first while it is away; none of them twice, and not the node itself.
    #[n(4)]
    pub deputies: Vec<NodeId>,
}

impl NodeRecord {
    /// Checks what needs no signature.
    ///
    /// # Errors
    /// [`VerifyError::Malformed`] says what is not well formed.
    pub fn check(&self) -> Result<(), VerifyError> {
        let malformed = |reason| Err(VerifyError::malformed(NodeRecord::KIND, reason));
        if self.addrs.len() > MAX_ADDRS || self.addrs.iter().any(|addr| addr.len() > MAX_ADDR_BYTES) {
            return malformed("more than 8 addresses, or one of more than 256 bytes");
        }
        if self.name.len() > MAX_NAME_BYTES || self.deputies.len() > MAX_DEPUTIES {
            return malformed("a name of more than 64 bytes, or more than 8 deputies");
        }
        if self.addrs.iter().chain([&self.name]).any(|text| text.chars().any(char::is_control)) {
            return malformed("control characters in a name or an address");
        }
        if !self.node.is_acceptable() || self.deputies.iter().any(|deputy| !deputy.is_acceptable()) {
            return malformed("the key is of small order or not canonical");
        }
        let mut deputies = self.deputies.iter().enumerate();
        if deputies.any(|(at, deputy)| *deputy == self.node || self.deputies[..at].contains(deputy)) {
            return malformed("a node that is its own deputy, or a deputy named twice");
        }
        Ok(())
    }
}

impl Statement for NodeRecord {
    const KIND: &'static str = "node-record";

    fn signer(&self) -> PublicKey {
        self.node
    }
}

/// A node's record with the consent of those whom it names: nobody is a deputy against its will.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Appointed {
    /// The record.
    #[n(0)]
    pub node: Signed<NodeRecord>,
    /// The deputies' signatures over the record's digest, in the order of its deputies.
    #[cbor(n(1), decode_with = "crate::codec::at_most::<MAX_DEPUTIES, _, _>")]
    pub deputies: Vec<Signature>,
}

impl Appointed {
    /// A record that names nobody.
    pub fn alone(node: Signed<NodeRecord>) -> Appointed {
        Appointed { node, deputies: Vec::new() }
    }
}

/// A node's start. Everything that it signs afterwards carries the new incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Start {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// One more than the incarnation before.
    #[n(1)]
    pub incarnation: u64,
    /// Random, so that of two copies of one node only one recognises its own start.
    #[cbor(n(2), with = "crate::codec::bytes16")]
    pub nonce: [u8; 16],
}

impl Statement for Start {
    const KIND: &'static str = "start";

    fn signer(&self) -> PublicKey {
        self.node
    }
}

/// A mailbox's registration, signed by its owner and by its home.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Registration {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The node that hosts it.
    #[n(1)]
    pub home: NodeId,
    /// The X25519 key to which senders seal (RFC 9180).
    #[n(2)]
    pub encryption_key: Digest,
    /// A key that can override a move, if the owner names one.
    #[n(3)]
    pub recovery_key: Option<PublicKey>,
}

impl Statement for Registration {
    const KIND: &'static str = "registration";

    fn signer(&self) -> PublicKey {
        self.mailbox
    }
}

/// A registration that its owner signed; what a client hands to the home it wishes for.
pub type OwnerSigned = Signed<Registration>;

/// A registration with both signatures.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CoSigned {
    /// Signed by the owner.
    #[n(0)]
    pub owner: Signed<Registration>,
    /// The home's signature over the same digest.
    #[n(1)]
    pub home: Signature,
}

impl CoSigned {
    /// Adds the home's signature.
    pub fn sign(owner: Verified<OwnerSigned>, secret: &SecretKey, federation: &Federation) -> Verified<CoSigned> {
        debug_assert_eq!(owner.body.home, secret.public());
        let home = sign_digest(secret, owner.digest(federation));
        Verified(CoSigned { owner: owner.into_inner(), home })
    }
}

/// Anything that a cut settles in its first part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Record {
    /// A node joins, or says something new of itself.
    #[n(0)]
    Node(#[n(0)] Appointed),
    /// A node has started.
    #[n(1)]
    Start(#[n(0)] Signed<Start>),
    /// A mailbox registers.
    #[n(2)]
    Register(#[n(0)] CoSigned),
    /// A destination asks for a pending slice in public.
    #[n(3)]
    Challenge(#[n(0)] Signed<Challenge>),
    /// A witness's receipt, which names the challenge: it has the slice and hands it out.
    #[n(4)]
    Answer(#[n(0)] Box<Receipt>),
    /// A holder has lost a slice.
    #[n(5)]
    Lost(#[n(0)] Signed<Lost>),
    /// An owner moves its mailbox, or abandons a move.
    #[n(6)]
    Move(#[n(0)] Box<Move>),
    /// A new home has taken over.
    #[n(7)]
    Import(#[n(0)] Signed<Import>),
}

impl Record {
    /// The digest that names the record.
    pub fn digest(&self, federation: &Federation) -> Digest {
        match self {
            Record::Node(signed) => signed.node.digest(federation),
            Record::Start(signed) => signed.digest(federation),
            Record::Register(signed) => signed.owner.digest(federation),
            Record::Challenge(signed) => signed.digest(federation),
            Record::Answer(receipt) => Digest::tagged("answer", &[&encode(receipt)]),
            Record::Lost(signed) => signed.digest(federation),
            Record::Move(order) => order.digest(federation),
            Record::Import(signed) => signed.digest(federation),
        }
    }
}

impl Verify for Record {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        match self {
            Record::Node(signed) => {
                let record = &signed.node.body;
                record.check()?;
                if signed.deputies.len() != record.deputies.len() {
                    return Err(VerifyError::malformed(NodeRecord::KIND, "not one consent for each deputy"));
                }
                signed.node.claims(federation, claims)?;
                let digest = digest_of(record, federation.id());
                for (deputy, consent) in record.deputies.iter().zip(&signed.deputies) {
                    claims.add(NodeRecord::KIND, *deputy, digest, consent);
                }
                Ok(())
            }
            Record::Start(signed) => signed.claims(federation, claims),
            Record::Challenge(signed) => signed.claims(federation, claims),
            Record::Answer(receipt) => receipt.claims(federation, claims),
            Record::Lost(signed) => signed.claims(federation, claims),
            Record::Move(order) => order.claims(federation, claims),
            Record::Import(signed) => signed.claims(federation, claims),
            Record::Register(signed) => {
                let registration = &signed.owner.body;
                let malformed = |reason| Err(VerifyError::malformed(Registration::KIND, reason));
                if !registration.mailbox.is_acceptable() {
                    return malformed("the mailbox's key is of small order or not canonical");
                }
                if registration.recovery_key.is_some_and(|key| !key.is_acceptable()) {
                    return malformed("the recovery key is of small order or not canonical");
                }
                let digest = digest_of(registration, federation.id());
                claims.add(Registration::KIND, registration.mailbox, digest, &signed.owner.signature);
                claims.add(Registration::KIND, registration.home, digest, &signed.home);
                Ok(())
            }
        }
    }
}
