//! Cuts: the sequencer's decision for one epoch. The certificate signs a header of Merkle roots, so that a light proof
//! carries paths and never the cut.

use minicbor::{Decode, Encode};

use crate::batch::Header;
use crate::codec::encode;
use crate::crypto::{NodeId, PublicKey, SecretKey, Signature};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::tree::{self, Path, Tree};
use crate::receipt::{Fill, Sealed};
use crate::record::Record;
use crate::signed::{Claims, Signed, Statement, Verified, Verify, digest_of, sign_digest, verify_digest};

/// What the committee certifies.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CutHeader {
    /// The epoch, from 1.
    #[n(0)]
    pub epoch: u64,
    /// The digest of the cut header before; of the first, the federation's id.
    #[n(1)]
    pub previous: Digest,
    /// Cut time: Unix milliseconds, rising. For people; what is counted is age.
    #[n(2)]
    pub time_ms: u64,
    /// The federation's age: the sum over cuts of the time step, of which at most two heartbeats count (rule 11).
    /// Retention, delays and deadlines count in it, so that a sequencer that was away ends none of them.
    #[n(3)]
    pub age_ms: u64,
    /// The records.
    #[n(4)]
    pub records: Part,
    /// The fills.
    #[n(5)]
    pub fills: Part,
    /// The included headers with their receipts.
    #[n(6)]
    pub headers: Part,
    /// The root of the state after this cut.
    #[n(7)]
    pub state: Digest,
}

/// The size and root of one part of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Part {
    /// How many.
    #[n(0)]
    pub count: u32,
    /// The root of the tree over them.
    #[n(1)]
    pub root: Digest,
}

/// One committee member's signature over a cut header.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Vote {
    /// The member.
    #[n(0)]
    pub member: NodeId,
    /// Its signature.
    #[n(1)]
    pub signature: Signature,
}

/// A cut header with its certificate: all that a light client needs of a cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CertifiedCut {
    /// What is certified.
    #[n(0)]
    pub header: CutHeader,
    /// The members' signatures, in ascending order of member.
    #[n(1)]
    pub certificate: Vec<Vote>,
}

/// What a cut settles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CutBody {
    /// Records, settled first.
    #[n(0)]
    pub records: Vec<Record>,
    /// Fills, settled second.
    #[n(1)]
    pub fills: Vec<Fill>,
    /// Headers, in the order of their positions.
    #[n(2)]
    pub headers: Vec<Sealed>,
}

/// A whole cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Cut {
    /// The certified header.
    #[n(0)]
    pub certified: CertifiedCut,
    /// What it commits to.
    #[n(1)]
    pub body: CutBody,
}

impl Statement for CutHeader {
    const KIND: &'static str = "cut";

    /// A cut is certified by votes; this is never asked.
    fn signer(&self) -> PublicKey {
        PublicKey([0; 32])
    }
}

impl CutHeader {
    /// The cut's hash.
    pub fn digest(&self, federation: &Federation) -> Digest {
        digest_of(self, federation.id())
    }
}

/// A member's vote for a cut of this digest. Only a signing guard may call it.
pub fn vote(secret: &SecretKey, digest: Digest) -> Vote {
    Vote { member: secret.public(), signature: sign_digest(secret, digest) }
}

impl CutBody {
    /// The parts to which a header of this body commits: records, fills, headers.
    pub fn parts(&self, federation: &Federation) -> [Part; 3] {
        let part = |leaves: Vec<Digest>| Part { count: leaves.len() as u32, root: Tree::new(leaves).root() };
        [
            part(self.records.iter().map(|record| tree::leaf_hash(&encode(record))).collect()),
            part(self.fills.iter().map(|fill| tree::leaf_hash(&encode(fill))).collect()),
            part(self.header_leaves(federation)),
        ]
    }

    /// The path from the record at `index` to the root of the records.
    pub fn record_path(&self, index: usize) -> Path {
        Tree::new(self.records.iter().map(|record| tree::leaf_hash(&encode(record))).collect()).path(index)
    }

    /// The path from the fill at `index` to the root of the fills.
    pub fn fill_path(&self, index: usize) -> Path {
        Tree::new(self.fills.iter().map(|fill| tree::leaf_hash(&encode(fill))).collect()).path(index)
    }

    fn header_leaves(&self, federation: &Federation) -> Vec<Digest> {
        (self.headers.iter()).map(|sealed| header_leaf(sealed.digest(federation), sealed.custody_digest())).collect()
    }

    /// For each header, the proof that it stands in this cut.
    pub fn header_proofs(&self, federation: &Federation) -> Vec<HeaderProof> {
        let tree = Tree::new(self.header_leaves(federation));
        (self.headers.iter().enumerate())
            .map(|(position, sealed)| HeaderProof {
                header: sealed.header.clone(),
                custody: sealed.custody_digest(),
                position: position as u32,
                path: tree.path(position),
            })
            .collect()
    }
}

fn header_leaf(header: Digest, custody: Digest) -> Digest {
    tree::leaf_hash(Digest::tagged("included", &[&header.0, &custody.0]).as_bytes())
}

impl Verify for CertifiedCut {
    /// A committee of one: exactly its member's vote. It is verified at once, because nothing else of a cut is worth a
    /// look without it.
    fn claims(&self, federation: &Federation, _: &mut Claims) -> Result<(), VerifyError> {
        let epoch = self.header.epoch;
        let [vote] = self.certificate.as_slice() else {
            return Err(VerifyError::Certificate { epoch });
        };
        let digest = self.header.digest(federation);
        if vote.member != federation.sequencer() || !verify_digest(&vote.member, digest, &vote.signature) {
            return Err(VerifyError::Certificate { epoch });
        }
        Ok(())
    }
}

impl Verify for Cut {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        let header = &self.certified.header;
        self.certified.verify(federation)?;
        if self.body.parts(federation) != [header.records, header.fills, header.headers] {
            return Err(VerifyError::malformed(CutHeader::KIND, "the body is not what the header commits to"));
        }
        for record in &self.body.records {
            record.claims(federation, claims)?;
        }
        for fill in &self.body.fills {
            fill.claims(federation, claims)?;
        }
        for sealed in &self.body.headers {
            sealed.claims(federation, claims)?;
        }
        Ok(())
    }
}

/// That a header stands at a position of a certified cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct HeaderProof {
    /// The header.
    #[n(0)]
    pub header: Signed<Header>,
    /// The digest of its receipts.
    #[n(1)]
    pub custody: Digest,
    /// Its position.
    #[n(2)]
    pub position: u32,
    /// From the header's leaf to the cut's headers root.
    #[n(3)]
    pub path: Path,
}

impl HeaderProof {
    /// Checks the header's signature and its path to `cut`.
    ///
    /// # Errors
    /// [`VerifyError::Signature`], [`VerifyError::Path`].
    pub fn verify(&self, cut: &CutHeader, federation: &Federation) -> Result<(), VerifyError> {
        let leaf = header_leaf(self.header.digest(federation), self.custody);
        let root = tree::root_from_path(leaf, u64::from(self.position), u64::from(cut.headers.count), &self.path);
        if root != Some(cut.headers.root) {
            return Err(VerifyError::Path { what: "header" });
        }
        self.header.verify(federation)
    }
}

impl Verified<Cut> {
    /// A cut as the sequencer that has just drafted it holds it: every part was verified before.
    pub fn assemble(certified: CertifiedCut, body: CutBody) -> Verified<Cut> {
        Verified(Cut { certified, body })
    }
}
