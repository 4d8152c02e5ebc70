//! Statements, their domain-separated digests, and the two wrappers that keep unverified words apart from verified ones.
//!
//! A statement's digest covers the protocol and version, the statement's kind, the federation, and the canonical bytes
//! of its body; the signature covers that digest. So no signature ever means two things, and none made for the Noise or
//! TLS handshake of libp2p (which sign with the same key under prefixes of their own) can stand for one.

use std::collections::BTreeSet;
use std::ops::Deref;

use minicbor::{Decode, Encode};

use crate::codec::encode;
use crate::crypto::{PublicKey, SecretKey, Signature, all_verify};
use crate::digest::{Digest, PROTOCOL};
use crate::error::VerifyError;
use crate::genesis::Federation;

/// Something that one key says.
pub trait Statement: Encode<()> {
    /// The kind's name, part of the domain.
    const KIND: &'static str;

    /// Whose key must have signed it.
    fn signer(&self) -> PublicKey;

    /// The digest that is signed, and by which the statement is named.
    fn digest(&self, federation: Digest) -> Digest {
        digest_of(self, federation)
    }
}

/// The digest of a body that may have several signers (a registration, a cut).
pub(crate) fn digest_of<T: Statement + ?Sized>(body: &T, federation: Digest) -> Digest {
    Digest::tagged(T::KIND, &[&federation.0, &encode(&body)])
}

/// The bytes that a signature covers.
fn signing_bytes(digest: Digest) -> [u8; PROTOCOL.len() + 1 + 32] {
    let mut bytes = [0; PROTOCOL.len() + 1 + 32];
    bytes[..PROTOCOL.len()].copy_from_slice(PROTOCOL.as_bytes());
    bytes[PROTOCOL.len()] = b':';
    bytes[PROTOCOL.len() + 1..].copy_from_slice(&digest.0);
    bytes
}

/// Signs a statement's digest.
pub fn sign_digest(secret: &SecretKey, digest: Digest) -> Signature {
    secret.sign(&signing_bytes(digest))
}

/// Whether `signer` signed this digest.
pub fn verify_digest(signer: &PublicKey, digest: Digest, signature: &Signature) -> bool {
    signer.verifies(&signing_bytes(digest), signature)
}

/// Whether each of these signers signed its digest; see [`verify_digest`]. All at once, at about half the price.
pub fn verify_digests(claims: &[(PublicKey, Digest, Signature)]) -> bool {
    all_verify(claims.iter().map(|(signer, digest, signature)| (*signer, signing_bytes(*digest), *signature)))
}

/// The signatures that values claim to carry, collected so that they are verified together, and each only once.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// In the order in which they were made, which decides whose failure is told.
    all: Vec<(PublicKey, Digest, Signature)>,
    kinds: Vec<&'static str>,
    known: BTreeSet<(PublicKey, Digest, [u8; 64])>,
}

impl Claims {
    /// `signer` is claimed to have signed `digest`, which is that of a statement of this kind.
    pub fn add(&mut self, kind: &'static str, signer: PublicKey, digest: Digest, signature: &Signature) {
        if self.known.insert((signer, digest, signature.0)) {
            self.all.push((signer, digest, *signature));
            self.kinds.push(kind);
        }
    }

    /// Verifies them.
    ///
    /// # Errors
    /// [`VerifyError::Signature`] names the signer of the first that does not hold.
    pub fn check(self) -> Result<(), VerifyError> {
        if self.hold_together() {
            return Ok(());
        }
        let mut claims = self.all.iter().zip(&self.kinds);
        match claims.find(|((signer, digest, signature), _)| !verify_digest(signer, *digest, signature)) {
            Some(((signer, ..), kind)) => Err(VerifyError::Signature { kind, signer: *signer }),
            None => Ok(()),
        }
    }

    fn hold_together(&self) -> bool {
        match self.all.as_slice() {
            // A batch of one costs more.
            [(signer, digest, signature)] => verify_digest(signer, *digest, signature),
            all => verify_digests(all),
        }
    }
}

/// A statement with the signature of its signer. Not verified yet: see [`Verified`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Signed<T> {
    /// What is said.
    #[n(0)]
    pub body: T,
    /// By the body's signer.
    #[n(1)]
    pub signature: Signature,
}

impl<T: Statement> Signed<T> {
    /// Signs `body`. The key must be the body's signer's.
    pub fn sign(body: T, secret: &SecretKey, federation: &Federation) -> Verified<Signed<T>> {
        debug_assert_eq!(body.signer(), secret.public(), "a {} is signed by its own signer", T::KIND);
        let signature = sign_digest(secret, digest_of(&body, federation.id()));
        Verified(Signed { body, signature })
    }

    /// The digest that names the statement.
    pub fn digest(&self, federation: &Federation) -> Digest {
        digest_of(&self.body, federation.id())
    }
}

impl<T: Statement> Verify for Signed<T> {
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError> {
        claims.add(T::KIND, self.body.signer(), digest_of(&self.body, federation.id()), &self.signature);
        Ok(())
    }
}

/// Something whose signatures and inner structure can be checked without any state.
pub trait Verify {
    /// Checks everything but its signatures, and collects those.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    fn claims(&self, federation: &Federation, claims: &mut Claims) -> Result<(), VerifyError>;

    /// Checks it.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold, and names the signer where there is one.
    fn verify(&self, federation: &Federation) -> Result<(), VerifyError> {
        let mut claims = Claims::default();
        self.claims(federation, &mut claims)?;
        claims.check()
    }
}

/// A value that was verified. The rooms take nothing else, so an unverified statement cannot be used by mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(pub(crate) T);

impl<T: Verify> Verified<T> {
    /// Verifies a value.
    ///
    /// # Errors
    /// Those of [`Verify::verify`].
    pub fn check(value: T, federation: &Federation) -> Result<Verified<T>, VerifyError> {
        value.verify(federation)?;
        Ok(Verified(value))
    }

    /// Verifies many values, at about half the price if they all hold. What each of them gets does not depend on
    /// the others.
    pub fn check_all(values: Vec<T>, federation: &Federation) -> Vec<Result<Verified<T>, VerifyError>> {
        let mut together = Claims::default();
        let structure: Vec<_> = values.iter().map(|value| value.claims(federation, &mut together)).collect();
        let all_hold = together.hold_together();
        (values.into_iter().zip(structure))
            .map(|(value, structure)| match structure {
                Ok(()) if all_hold => Ok(Verified(value)),
                Ok(()) => Verified::check(value, federation),
                Err(error) => Err(error),
            })
            .collect()
    }
}

impl<T> Verified<T> {
    /// Wraps what this node verified before it wrote it to its own disk (whose records carry checksums).
    pub fn from_own_disk(value: T) -> Verified<T> {
        Verified(value)
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
