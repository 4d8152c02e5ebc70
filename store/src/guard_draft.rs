//! What the signing guard signs, kept beside its signature.
//!
//! The guard's record says that something was signed, not what. A store that is set back forgets it, and what nobody else
//! has yet could never be published again. So each draft is written here before it is signed, together with the record of
//! the signature before it: with the guard's own record the last [`KEPT`] drafts have their signatures. The files are
//! used in turns, so that a write that is torn harms nothing that was signed.
//!
//! Layout, integers little endian: magic (8), slot (8), the record before: slot (8), digest (32), signature (64), all
//! zero if there is none; the draft; CRC-32 of all that (4).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::guard::{GuardRecord, SignedDraft};

/// How many drafts are kept: those of some seconds under load, of a minute alone.
pub(crate) const KEPT: u64 = 64;

const MAGIC: [u8; 8] = *b"PRdraft1";
const HEAD_BYTES: usize = 8 + 8 + 8 + 32 + 64;

fn path(dir: &Path, slot: u64) -> PathBuf {
    dir.join(format!("draft-{}", slot % KEPT))
}

/// Makes the draft of `slot` durable in `dir`, with the record of what was signed before it.
pub(crate) fn write(dir: &Path, slot: u64, draft: &[u8], before: Option<&GuardRecord>) -> io::Result<()> {
    let (before_slot, digest, signature) = before.copied().unwrap_or((0, [0; 32], [0; 64]));
    let mut bytes = Vec::with_capacity(HEAD_BYTES + draft.len() + 4);
    bytes.extend(MAGIC);
    bytes.extend(slot.to_le_bytes());
    bytes.extend(before_slot.to_le_bytes());
    bytes.extend(digest);
    bytes.extend(signature);
    bytes.extend(draft);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    let path = path(dir, slot);
    let mut file = File::create(&path)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    // Each time: an attempt before may have made the file, and found no space for its bytes.
    File::open(dir)?.sync_all()
}

/// The drafts that were signed up to `last`, with their signatures, the newest first, as far back as they are here and
/// whole.
pub(crate) fn read(dir: &Path, last: GuardRecord) -> io::Result<Vec<SignedDraft>> {
    let mut kept = Vec::new();
    let (mut slot, _, mut signature) = last;
    while let Some((draft, before)) = read_one(dir, slot)? {
        kept.push((draft, signature));
        if kept.len() as u64 == KEPT || before.0.checked_add(1) != Some(slot) {
            break;
        }
        (slot, _, signature) = before;
    }
    Ok(kept)
}

fn read_one(dir: &Path, slot: u64) -> io::Result<Option<(Vec<u8>, GuardRecord)>> {
    let bytes = match fs::read(path(dir, slot)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes, slot))
}

fn parse(bytes: &[u8], slot: u64) -> Option<(Vec<u8>, GuardRecord)> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let is_whole = crc32fast::hash(body).to_le_bytes() == *sum;
    let rest = body.strip_prefix(MAGIC.as_slice())?.strip_prefix(slot.to_le_bytes().as_slice())?;
    let (before_slot, rest) = rest.split_first_chunk::<8>()?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let (signature, draft) = rest.split_first_chunk::<64>()?;
    is_whole.then(|| (draft.to_vec(), (u64::from_le_bytes(*before_slot), *digest, *signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record of a slot, as the guard would have it.
    fn record(slot: u64) -> GuardRecord {
        (slot, [1; 32], [slot as u8; 64])
    }

    fn kept(dir: &Path, last: u64) -> Vec<(u64, u8)> {
        let drafts = read(dir, record(last)).unwrap().into_iter();
        drafts.map(|(draft, signature)| (u64::from_le_bytes(draft.try_into().unwrap()), signature[0])).collect()
    }

    #[test]
    fn the_last_drafts_are_kept_with_their_signatures() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path(), 1), []);
        for slot in 1..=KEPT + 5 {
            let before = (slot > 1).then(|| record(slot - 1));
            write(dir.path(), slot, &slot.to_le_bytes(), before.as_ref()).unwrap();
        }
        let last = KEPT + 5;
        let expected: Vec<_> = (6..=last).rev().map(|slot| (slot, slot as u8)).collect();
        assert_eq!(kept(dir.path(), last), expected);
        // The draft of a slot that was never signed covers the oldest, and nothing else.
        write(dir.path(), last + 1, b"unsigned", Some(&record(last))).unwrap();
        assert_eq!(kept(dir.path(), last), expected[..expected.len() - 1]);
    }

    #[test]
    fn behind_a_torn_draft_nothing_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for slot in 1..=3 {
            write(dir.path(), slot, &slot.to_le_bytes(), Some(&record(slot - 1))).unwrap();
        }
        let whole = fs::read(path(dir.path(), 2)).unwrap();
        for cut in 0..whole.len() {
            fs::write(path(dir.path(), 2), &whole[..cut]).unwrap();
            assert_eq!(kept(dir.path(), 3), [(3, 3)], "{cut} bytes");
        }
    }
}
