//! The file of the signing guard.
//!
//! Two copies of one record, each alone in its own page, written and synced one after the other
//! before a signature leaves. A crash during the first write leaves the second copy with the old
//! record, whose successor nobody saw; a crash after it leaves the new record in the first. One
//! copy that rots at rest leaves the same record in the other. With a single sync into alternating
//! copies, rot of the newest would look like a torn write, and the guard would go back one slot.
//!
//! The file never grows, so that `fdatasync` has no metadata to write. It is created beside its
//! place and renamed into it: a crash leaves a whole file or none.
//!
//! Layout of a copy, integers little endian: magic (8), kind (1: 0 nothing signed yet, 1 signed),
//! slot (8), digest (32), signature (64), CRC-32 of all that (4).

use std::io;
use std::path::{Path, PathBuf};

use crate::guard::{GuardError, GuardRecord, SignedDraft};
use crate::guard_draft;
use crate::medium::{Medium, OpenFile, make_dirs};

const MAGIC: [u8; 8] = *b"PRguard1";
const BODY_BYTES: usize = 8 + 1 + 8 + 32 + 64;
const COPY_BYTES: usize = BODY_BYTES + 4;
/// Where the two copies start: no write of one touches a sector of the other.
const OFFSETS: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;

/// `None` is a guard that has signed nothing yet.
type Copy = Option<GuardRecord>;

fn encode(record: &Copy) -> [u8; COPY_BYTES] {
    let (kind, (slot, digest, signature)) = match record {
        Some(record) => (1, *record),
        None => (0, (0, [0; 32], [0; 64])),
    };
    let mut bytes = [0; COPY_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = kind;
    bytes[9..17].copy_from_slice(&slot.to_le_bytes());
    bytes[17..49].copy_from_slice(&digest);
    bytes[49..BODY_BYTES].copy_from_slice(&signature);
    let sum = crc32fast::hash(&bytes[..BODY_BYTES]);
    bytes[BODY_BYTES..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The record of a copy, or `None` if it is torn or rotten.
fn decode(bytes: &[u8; COPY_BYTES]) -> Option<Copy> {
    let (slot, digest, signature) =
        (u64::from_le_bytes(*bytes[9..].first_chunk()?), *bytes[17..].first_chunk()?, *bytes[49..].first_chunk()?);
    let record = (bytes[8] == 1).then_some((slot, digest, signature));
    // One encoding per record: this checks magic, kind, padding and checksum at once.
    (encode(&record) == *bytes).then_some(record)
}

/// The newest of two copies, or `None` if they do not tell.
fn newest(copies: [Option<Copy>; 2]) -> Option<Copy> {
    let slot = |copy: &Copy| copy.map(|(slot, ..)| slot);
    match copies {
        [Some(a), Some(b)] if a == b => Some(a),
        [Some(a), Some(b)] if slot(&a) > slot(&b) => Some(a),
        [Some(a), Some(b)] if slot(&b) > slot(&a) => Some(b),
        // Two records for one slot: no crash does that.
        [Some(_), Some(_)] | [None, None] => None,
        [Some(copy), None] | [None, Some(copy)] => Some(copy),
    }
}

/// The open file, locked for this process.
pub(crate) struct GuardFile {
    dir: PathBuf,
    file: OpenFile,
    _lock: OpenFile,
}

impl GuardFile {
    pub(crate) fn open(medium: &dyn Medium, dir: &Path, create: bool) -> Result<(Self, Copy), GuardError> {
        let failed = |doing: &'static str| move |source: io::Error| GuardError::Fatal { doing, source };
        let path = dir.join("guard");
        let lock_path = dir.join("guard.lock");
        make_dirs(medium, dir).map_err(failed("create its directory"))?;
        let lock = medium
            .open_locked(&lock_path)
            .map_err(failed("lock its directory"))?
            .ok_or(GuardError::InUse { path: lock_path })?;
        if !medium.exists(&path).map_err(failed("look for its file"))? {
            if !create {
                return Err(GuardError::Missing { path });
            }
            create_file(medium, dir, &path).map_err(failed("create its file"))?;
        }
        // Also when it was there: whoever made it may have been killed before it had synced the name.
        medium.sync_dir(dir).map_err(failed("sync its directory"))?;
        let file = medium.open(&path).map_err(failed("open its file"))?;
        let guard = Self { dir: dir.to_owned(), file, _lock: lock };
        let copies = guard.read().map_err(failed("read its file"))?;
        let last = copies.and_then(newest).ok_or(GuardError::Corrupt { path })?;
        if copies != Some([Some(last); 2]) {
            guard.write_copies(&last).map_err(failed("repair its file"))?;
        }
        Ok((guard, last))
    }

    /// Makes what is about to be signed for `slot` durable beside the record of what was signed before.
    pub(crate) fn keep(&self, slot: u64, draft: &[u8], before: Option<&GuardRecord>) -> io::Result<()> {
        guard_draft::write(&self.dir, slot, draft, before)
    }

    /// What was kept up to `last`, with its signatures, the newest first.
    pub(crate) fn kept(&self, last: GuardRecord) -> io::Result<Vec<SignedDraft>> {
        guard_draft::read(&self.dir, last)
    }

    /// Makes `record` durable in both copies.
    pub(crate) fn write(&self, record: &GuardRecord) -> io::Result<()> {
        self.write_copies(&Some(*record))
    }

    fn write_copies(&self, record: &Copy) -> io::Result<()> {
        let bytes = encode(record);
        for offset in OFFSETS {
            self.file.write(offset, &bytes)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Both copies as far as they are readable; `None` if the file has not the right length.
    fn read(&self) -> io::Result<Option<[Option<Copy>; 2]>> {
        if self.file.len()? != FILE_BYTES {
            return Ok(None);
        }
        let mut copies = [None; 2];
        for (copy, offset) in copies.iter_mut().zip(OFFSETS) {
            let mut bytes = [0; COPY_BYTES];
            self.file.read(offset, &mut bytes)?;
            *copy = decode(&bytes);
        }
        Ok(Some(copies))
    }
}

fn create_file(medium: &dyn Medium, dir: &Path, path: &Path) -> io::Result<()> {
    let unfinished = dir.join("guard.new");
    let busy = || io::Error::other("another process makes the same file");
    let file = medium.open_locked(&unfinished)?.ok_or_else(busy)?;
    file.set_len(0)?;
    file.set_len(FILE_BYTES)?;
    for offset in OFFSETS {
        file.write(offset, &encode(&None))?;
    }
    file.sync_data()?;
    medium.rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Guard;

    const OLD: GuardRecord = (7, [1; 32], [2; 64]);
    const NEW: GuardRecord = (9, [3; 32], [4; 64]);

    fn with_copies(a: &[u8], b: &[u8]) -> (tempfile::TempDir, Result<Guard, GuardError>) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; FILE_BYTES as usize];
        bytes[..a.len()].copy_from_slice(a);
        bytes[4096..][..b.len()].copy_from_slice(b);
        fs::write(dir.path().join("guard"), bytes).unwrap();
        let guard = Guard::open(dir.path(), false);
        (dir, guard)
    }

    #[test]
    fn a_write_torn_anywhere_leaves_the_old_or_the_new_record() {
        let (old, new) = (encode(&Some(OLD)), encode(&Some(NEW)));
        for cut in 0..=COPY_BYTES {
            for (head, tail) in [(&new, &old), (&old, &new)] {
                let torn = [&head[..cut], &tail[cut..]].concat();
                let (_dir, guard) = with_copies(&torn, &old);
                let last = guard.unwrap().last().unwrap();
                assert_eq!(last, if torn == new { NEW } else { OLD }, "first copy, {cut}");
                let (dir, guard) = with_copies(&new, &torn);
                assert_eq!(guard.unwrap().last(), Some(NEW), "second copy, {cut}");
                // Opening repaired the file: both copies say the same.
                let bytes = fs::read(dir.path().join("guard")).unwrap();
                assert_eq!(&bytes[..COPY_BYTES], &new);
                assert_eq!(&bytes[4096..][..COPY_BYTES], &new);
            }
        }
    }

    #[test]
    fn one_rotten_copy_is_survived_and_two_are_refused() {
        let good = encode(&Some(NEW));
        for bit in 0..COPY_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
            if bit % 40 != 0 {
                continue; // Opening a file costs real syncs; one bit in five bytes will do.
            }
            assert_eq!(with_copies(&bad, &good).1.unwrap().last(), Some(NEW));
            assert_eq!(with_copies(&good, &bad).1.unwrap().last(), Some(NEW));
            assert!(matches!(with_copies(&bad, &bad).1, Err(GuardError::Corrupt { .. })));
        }
    }

    #[test]
    fn two_records_for_one_slot_are_refused() {
        let (a, b) = (encode(&Some(NEW)), encode(&Some((9, [5; 32], [6; 64]))));
        assert!(matches!(with_copies(&a, &b).1, Err(GuardError::Corrupt { .. })));
    }

    #[test]
    fn a_file_of_another_length_is_refused_and_kept() {
        for len in [0, 1, COPY_BYTES, 4096, 8191, 8193] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("guard");
            let mut bytes = encode(&Some(NEW)).to_vec();
            bytes.resize(len, 0);
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(Guard::open(dir.path(), true), Err(GuardError::Corrupt { .. })));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn the_empty_record_has_one_encoding() {
        let mut odd = encode(&None);
        odd[20] = 1;
        let sum = crc32fast::hash(&odd[..BODY_BYTES]);
        odd[BODY_BYTES..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(decode(&odd), None);
        assert_eq!(decode(&encode(&None)), Some(None));
    }
}
