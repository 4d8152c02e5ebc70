//! Payload sealing: what nodes carry without being able to read it.
//!
//! A message's payloads begin with one byte that says whose envelope follows: `0x00` the application's own ciphertext,
//! passed through as it is; `0x01` the envelope of this module. Big-endian numbers, canonical CBOR (RFC 8949):
//!
//! ```text
//! common = 0x01 ‖ ChaCha20-Poly1305(key, nonce = 0^12, aad = C,
//!                                   plaintext = [[recipient…], [epoch, cut hash], body, control?])
//!     C   = "postroad/1/common" ‖ 0x00 ‖ federation (32) ‖ sender (32)
//! own    = 0x01 ‖ enc (32) ‖ HPKE-base(recipient's key, info = O, aad = SHA-256(common),
//!                                      plaintext = [key, number, previous?, forgotten?])
//!     O   = "postroad/1/own" ‖ 0x00 ‖ federation (32) ‖ sender (32) ‖ recipient (32)
//! previous = [number, [epoch, position, index], via?]     forgotten = [from, to]
//! control  = [0, [from, to]] | [1, [[number, fate, seq?, statements]]]
//! ```
//!
//! What is marked `?` is left out at the end of its array where it is absent, and null elsewhere.
//!
//! HPKE is RFC 9180 with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. The `key` of 32 bytes is fresh
//! for every message, so its nonce need not be. `number` is contiguous per (sender, recipient), so that a missing
//! message leaves a hole; `epoch` and `cut hash` are the newest that the sender knew, so that a split order comes to
//! light at the first message across the split. `previous` is the last message to this recipient whose place the sender
//! knew, with its origin where that is another one than this message's: whoever has a hole above it knows where to look.
//! `forgotten` are numbers that a sender whose memory was set back may have used: a hole there means nothing. A message
//! with `control` has an empty body and is between the libraries ([`crate::control`]).
//!
//! The sender needs no authentication from HPKE, because the bundle around a message is signed; but the signature does
//! not say who *made* the ciphertext, so both parts bind the sender's address, and no other sender can pass them on as
//! its own.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use minicbor::{Decode, Encode};
use postroad_protocol::codec::{decode, encode};
use postroad_protocol::digest::hash;
use postroad_protocol::message::{Message, Recipient};
use postroad_protocol::{Digest, MailboxId};

use crate::control::{Control, Forgotten, Numbering, Previous};

/// First byte of a payload that is the application's own ciphertext.
pub const FOREIGN: u8 = 0x00;
/// First byte of a payload that this module sealed.
pub const SEALED: u8 = 0x01;

type Kdf = hpke::kdf::HkdfSha256;
type HpkeAead = hpke::aead::ChaCha20Poly1305;

const ENCAPPED_BYTES: usize = 32;

/// The newest cut that somebody knew: epoch and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct Seen {
    /// The epoch; zero when none was known.
    #[n(0)]
    pub epoch: u64,
    /// The cut's hash.
    #[n(1)]
    pub cut: Digest,
}

/// What the common payload holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Common {
    #[n(0)]
    recipients: Vec<MailboxId>,
    #[n(1)]
    seen: Seen,
    #[cbor(n(2), with = "minicbor::bytes")]
    body: Vec<u8>,
    #[n(3)]
    control: Option<Control>,
}

/// What an own payload holds.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Own {
    #[n(0)]
    key: Digest,
    #[n(1)]
    number: u64,
    #[n(2)]
    previous: Option<Previous>,
    #[n(3)]
    forgotten: Option<Forgotten>,
}

impl Own {
    fn new(key: Digest, numbering: Numbering) -> Own {
        let Numbering { number, previous, forgotten } = numbering;
        Own { key, number, previous, forgotten }
    }

    fn numbering(&self) -> Numbering {
        Numbering { number: self.number, previous: self.previous, forgotten: self.forgotten }
    }
}

/// A mailbox's X25519 secret, to which others seal.
#[derive(Clone)]
pub struct EncryptionSecret(<X25519HkdfSha256 as Kem>::PrivateKey);

impl std::fmt::Debug for EncryptionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncryptionSecret({:?})", self.public())
    }
}

impl EncryptionSecret {
    /// A fresh secret.
    pub fn generate() -> EncryptionSecret {
        EncryptionSecret(X25519HkdfSha256::gen_keypair_with_rng(&mut rand::rng()).0)
    }

    /// The secret of 32 bytes that [`EncryptionSecret::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<EncryptionSecret> {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(bytes).ok().map(EncryptionSecret)
    }

    /// The secret's bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes().into()
    }

    /// The public key, as the mailbox's registration names it.
    pub fn public(&self) -> Digest {
        Digest(X25519HkdfSha256::sk_to_pk(&self.0).to_bytes().into())
    }
}

/// One recipient of a message to be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealTo {
    /// The address.
    pub mailbox: MailboxId,
    /// Its registered encryption key.
    pub encryption_key: Digest,
    /// This message's number from this sender to this recipient.
    pub numbering: Numbering,
}

/// What is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The application's message.
    Body(Vec<u8>),
    /// What the libraries say to each other.
    Control(Control),
}

/// What came out of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An envelope of this module.
    Sealed {
        /// All recipients, as the sender says.
        recipients: Vec<MailboxId>,
        /// The newest cut that the sender knew.
        seen: Seen,
        /// The message's number from this sender to this recipient.
        numbering: Numbering,
        /// The body.
        plain: Plain,
    },
    /// The application's own ciphertext, without the first byte.
    Foreign {
        /// The common payload.
        common: Vec<u8>,
        /// The recipient's own payload.
        own: Vec<u8>,
    },
}

/// Why an envelope could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The recipient registered something that is no X25519 key.
    #[error("{mailbox} has registered no usable encryption key")]
    BadKey {
        /// The recipient.
        mailbox: MailboxId,
    },
    /// The first byte names no envelope that this version knows.
    #[error("the payload begins with no envelope that this version knows")]
    UnknownEnvelope,
    /// The own payload does not open: altered, sealed to another key, or passed on by another sender.
    #[error("the payload was not sealed by this sender to this mailbox's key")]
    Own,
    /// The common payload does not open under the key in the own payload.
    #[error("the common payload does not open under its key")]
    Common,
    /// What was sealed is not laid out as it should be.
    #[error("what was sealed is not laid out as this version expects")]
    Layout,
}

/// The public halves of an envelope's surroundings, which it is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The federation's id.
    pub federation: Digest,
    /// Who sends.
    pub sender: MailboxId,
}

impl Binding {
    fn common(&self) -> Vec<u8> {
        [b"postroad/1/common\0".as_slice(), &self.federation.0, &self.sender.0].concat()
    }

    fn own(&self, recipient: &MailboxId) -> Vec<u8> {
        [b"postroad/1/own\0".as_slice(), &self.federation.0, &self.sender.0, &recipient.0].concat()
    }

    /// Seals `plain` to every recipient.
    ///
    /// # Errors
    /// [`SealError::BadKey`] names the recipient whose key cannot be used.
    pub fn seal(&self, plain: &Plain, seen: Seen, to: &[SealTo]) -> Result<Message, SealError> {
        let mut key = [0; 32];
        rand::fill(&mut key);
        let recipients = to.iter().map(|recipient| recipient.mailbox).collect();
        let (body, control) = match plain {
            Plain::Body(body) => (body.clone(), None),
            Plain::Control(control) => (Vec::new(), Some(control.clone())),
        };
        let plain = encode(&Common { recipients, seen, body, control });
        let sealed = ChaCha20Poly1305::new(&Key::from(key))
            .encrypt(&Nonce::default(), Payload { msg: &plain, aad: &self.common() })
            .map_err(|_| SealError::Common)?;
        let mut common = vec![SEALED];
        common.extend(sealed);
        let common_digest = hash(&[&common]);
        let recipients = (to.iter())
            .map(|recipient| {
                let mailbox = recipient.mailbox;
                let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(recipient.encryption_key.as_bytes())
                    .map_err(|_| SealError::BadKey { mailbox })?;
                let plain = encode(&Own::new(Digest(key), recipient.numbering));
                let (encapped, sealed) = hpke::single_shot_seal_with_rng::<HpkeAead, Kdf, X25519HkdfSha256>(
                    &OpModeS::Base,
                    &public,
                    &self.own(&mailbox),
                    &plain,
                    common_digest.as_bytes(),
                    &mut rand::rng(),
                )
                .map_err(|_| SealError::BadKey { mailbox })?;
                let mut own = vec![SEALED];
                own.extend_from_slice(&encapped.to_bytes());
                own.extend(sealed);
                Ok(Recipient { mailbox, own })
            })
            .collect::<Result<Vec<_>, SealError>>()?;
        Ok(Message { salt: fresh_salt(), common, recipients })
    }

    /// Opens a message for `recipient`, who holds `secret`.
    ///
    /// # Errors
    /// [`SealError`] says which part does not open. The sender made it so: what nodes carried is covered by proofs.
    pub fn open(
        &self,
        common: &[u8],
        own: &[u8],
        recipient: &MailboxId,
        secret: &EncryptionSecret,
    ) -> Result<Opened, SealError> {
        match (common.split_first(), own.split_first()) {
            (Some((&FOREIGN, common)), Some((&FOREIGN, own))) => {
                Ok(Opened::Foreign { common: common.to_vec(), own: own.to_vec() })
            }
            (Some((&SEALED, sealed)), Some((&SEALED, own))) => {
                let digest = hash(&[common]);
                let (encapped, own) = own.split_at_checked(ENCAPPED_BYTES).ok_or(SealError::Own)?;
                let encapped =
                    <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapped).map_err(|_| SealError::Own)?;
                let plain = hpke::single_shot_open::<HpkeAead, Kdf, X25519HkdfSha256>(
                    &OpModeR::Base,
                    &secret.0,
                    &encapped,
                    &self.own(recipient),
                    own,
                    digest.as_bytes(),
                )
                .map_err(|_| SealError::Own)?;
                let own: Own = decode(&plain).map_err(|_| SealError::Layout)?;
                let plain = ChaCha20Poly1305::new(&Key::from(own.key.0))
                    .decrypt(&Nonce::default(), Payload { msg: sealed, aad: &self.common() })
                    .map_err(|_| SealError::Common)?;
                let Common { recipients, seen, body, control } = decode(&plain).map_err(|_| SealError::Layout)?;
                let plain = match control {
                    None => Plain::Body(body),
                    Some(control) if body.is_empty() => Plain::Control(control),
                    Some(_) => return Err(SealError::Layout),
                };
                Ok(Opened::Sealed { recipients, seen, numbering: own.numbering(), plain })
            }
            _ => Err(SealError::UnknownEnvelope),
        }
    }
}

/// A message that carries the application's own ciphertext: one common payload, and one own payload per recipient.
pub fn foreign(common: &[u8], to: &[(MailboxId, Vec<u8>)]) -> Message {
    let mark = |bytes: &[u8]| [&[FOREIGN], bytes].concat();
    let recipients = to.iter().map(|(mailbox, own)| Recipient { mailbox: *mailbox, own: mark(own) }).collect();
    Message { salt: fresh_salt(), common: mark(common), recipients }
}

fn fresh_salt() -> [u8; 16] {
    let mut salt = [0; 16];
    rand::fill(&mut salt);
    salt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Fate, Told};
    use postroad_protocol::{SecretKey, Seq};

    fn address(seed: u8) -> MailboxId {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn binding() -> Binding {
        Binding { federation: Digest([9; 32]), sender: address(1) }
    }

    fn sealed(secrets: &[EncryptionSecret]) -> Message {
        let to: Vec<SealTo> = (secrets.iter().zip(2..)).map(|(secret, seed)| seal_to(seed, secret.public())).collect();
        binding().seal(&Plain::Body(b"good day".to_vec()), Seen { epoch: 3, cut: Digest([4; 32]) }, &to).unwrap()
    }

    fn numbering() -> Numbering {
        let seq = Seq { epoch: 2, position: 0, index: 5 };
        let previous = Some(Previous { number: 6, seq, via: None });
        Numbering { number: 7, previous, forgotten: Some(Forgotten { from: 3, to: 5 }) }
    }

    fn seal_to(seed: u8, encryption_key: Digest) -> SealTo {
        SealTo { mailbox: address(seed), encryption_key, numbering: numbering() }
    }

    #[test]
    fn every_recipient_opens_it_and_learns_all_recipients() {
        let secrets = [EncryptionSecret::generate(), EncryptionSecret::generate()];
        let message = sealed(&secrets);
        for (recipient, secret) in message.recipients.iter().zip(&secrets) {
            let opened = binding().open(&message.common, &recipient.own, &recipient.mailbox, secret).unwrap();
            let expected = Opened::Sealed {
                recipients: vec![address(2), address(3)],
                seen: Seen { epoch: 3, cut: Digest([4; 32]) },
                numbering: numbering(),
                plain: Plain::Body(b"good day".to_vec()),
            };
            assert_eq!(opened, expected);
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_surroundings_open() {
        let secret = EncryptionSecret::generate();
        let message = sealed(std::slice::from_ref(&secret));
        let (common, own) = (&message.common, &message.recipients[0].own);
        let open = |binding: Binding, common: &[u8], own: &[u8]| binding.open(common, own, &address(2), &secret);
        assert!(open(binding(), common, own).is_ok());
        for (bytes, is_common) in [(common, true), (own, false)] {
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let opened = if is_common { open(binding(), &bytes, own) } else { open(binding(), common, &bytes) };
                // The top bit of an X25519 point is ignored (RFC 7748), but HPKE hashes the point's bytes.
                assert!(opened.is_err(), "bit {bit}, common {is_common}");
            }
        }
        assert_eq!(open(Binding { sender: address(5), ..binding() }, common, own), Err(SealError::Own));
        assert_eq!(open(Binding { federation: Digest([8; 32]), ..binding() }, common, own), Err(SealError::Own));
        assert_eq!(binding().open(common, own, &address(3), &secret), Err(SealError::Own));
        assert_eq!(open(binding(), &[], &[]), Err(SealError::UnknownEnvelope));
        assert_eq!(open(binding(), common, &[SEALED, 1]), Err(SealError::Own));
        assert_eq!(open(binding(), &[FOREIGN], own), Err(SealError::UnknownEnvelope));
    }

    #[test]
    fn foreign_ciphertext_passes_through() {
        let message = foreign(b"theirs", &[(address(2), b"own".to_vec())]);
        let secret = EncryptionSecret::generate();
        let opened = binding().open(&message.common, &message.recipients[0].own, &address(2), &secret);
        assert_eq!(opened, Ok(Opened::Foreign { common: b"theirs".to_vec(), own: b"own".to_vec() }));
    }

    #[test]
    fn a_key_that_is_none_names_its_mailbox() {
        let sealed = binding().seal(&Plain::Body(vec![]), Seen::default(), &[seal_to(2, Digest::ZERO)]);
        assert_eq!(sealed, Err(SealError::BadKey { mailbox: address(2) }));
    }

    #[test]
    fn control_mail_opens_as_such_and_a_plain_number_costs_nothing_more() {
        let secret = EncryptionSecret::generate();
        let controls = [
            Control::Ask { from: 3, to: 4 },
            Control::Told(Told { number: 3, fate: Fate::Unknown, seq: None, statements: vec![] }),
        ];
        for control in controls {
            let to = seal_to(2, secret.public());
            let message = binding().seal(&Plain::Control(control.clone()), Seen::default(), &[to]).unwrap();
            let opened = binding().open(&message.common, &message.recipients[0].own, &address(2), &secret);
            assert!(matches!(opened, Ok(Opened::Sealed { plain: Plain::Control(found), .. }) if found == control));
        }
        let own = |numbering| encode(&Own::new(Digest::ZERO, numbering)).len();
        assert_eq!(own(Numbering { number: 7, ..Numbering::default() }), 1 + 34 + 1);
        let hint = Previous { number: 6, seq: Seq { epoch: 300, position: 2, index: 5 }, via: None };
        let hinted = Numbering { number: 7, previous: Some(hint), forgotten: None };
        assert_eq!(own(hinted), 1 + 34 + 1 + 8);
    }

    #[test]
    fn secrets_survive_their_bytes() {
        let secret = EncryptionSecret::generate();
        assert_eq!(EncryptionSecret::from_bytes(&secret.to_bytes()).unwrap().public(), secret.public());
    }
}
