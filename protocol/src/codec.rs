//! The one canonical encoding: CBOR (RFC 8949) with core deterministic rules, structures as arrays.
//!
//! A value has exactly one byte string. [`decode`] refuses trailing bytes, and every encoding that is not the one that
//! [`encode`] would write (over-long integers, indefinite lengths, a null in the place of an absent last field). It
//! allocates in proportion to the bytes that it was given, never to a length that those bytes claim.

use minicbor::{Decode, Decoder, Encode};

use crate::error::DecodeError;

/// The canonical bytes of a value.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into memory fails only where a type's own Encode does, and none here does")
}

/// The value of which `bytes` is the canonical encoding.
///
/// # Errors
/// [`DecodeError::Malformed`] when the bytes are no such value, [`DecodeError::Trailing`] when something follows it,
/// [`DecodeError::NotCanonical`] when the value has another encoding.
pub fn decode<'b, T: Decode<'b, ()> + Encode<()>>(bytes: &'b [u8]) -> Result<T, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let value: T = decoder
        .decode()
        .map_err(|error| DecodeError::Malformed { what: std::any::type_name::<T>(), reason: error.to_string() })?;
    if decoder.position() != bytes.len() {
        return Err(DecodeError::Trailing { bytes: bytes.len() - decoder.position() });
    }
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

/// Reads a byte string of exactly `N` bytes.
pub(crate) fn fixed_bytes<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], minicbor::decode::Error> {
    let position = d.position();
    let bytes = d.bytes()?;
    bytes.try_into().map_err(|_| minicbor::decode::Error::message("byte string of another length").at(position))
}

/// Reads a list of at least one, for use as `#[cbor(decode_with = "…")]`: where an empty list means nothing, refusing it
/// while decoding keeps a few bytes from becoming a large value, thousands of times.
pub(crate) fn one_or_more<'b, C, T: Decode<'b, C>>(
    d: &mut Decoder<'b>,
    ctx: &mut C,
) -> Result<Vec<T>, minicbor::decode::Error> {
    let position = d.position();
    let items: Vec<T> = d.decode_with(ctx)?;
    if items.is_empty() {
        return Err(minicbor::decode::Error::message("an empty list").at(position));
    }
    Ok(items)
}

/// Reads a list of at most `N`, for use as `#[cbor(decode_with = "…")]`.
pub(crate) fn at_most<'b, const N: usize, C, T: Decode<'b, C>>(
    d: &mut Decoder<'b>,
    ctx: &mut C,
) -> Result<Vec<T>, minicbor::decode::Error> {
    let position = d.position();
    let length = (d.array()?)
        .filter(|length| *length <= N as u64)
        .ok_or_else(|| minicbor::decode::Error::message("a list of too many, or of no definite length").at(position))?;
    (0..length).map(|_| d.decode_with(ctx)).collect()
}

/// Encodes a newtype over an array of bytes as a byte string of exactly that length.
macro_rules! byte_string {
    ($type:ident) => {
        impl<C> minicbor::Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $type {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                $crate::codec::fixed_bytes(d).map($type)
            }
        }
    };
}

pub(crate) use byte_string;

/// A byte string of exactly sixteen bytes, for use as `#[cbor(with = "crate::codec::bytes16")]`.
pub(crate) mod bytes16 {
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: minicbor::encode::Write>(
        value: &[u8; 16],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(value)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<[u8; 16], minicbor::decode::Error> {
        super::fixed_bytes(d)
    }
}
