//! What this machine can do at most, measured beside a run: the figures of a run mean something only next to these.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use postroad_protocol::signed::{sign_digest, verify_digest, verify_digests};
use postroad_protocol::{Digest, PublicKey, SecretKey, Signature};
use serde::Serialize;

use crate::cli::output::CliError;

/// Signatures that are verified together.
const BATCH: usize = 64;
/// Bytes that are written before each sync.
const SYNC_BYTES: usize = 4_096;

/// Operations per second, each on one thread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Ed25519 signatures verified one by one, by the project's predicate.
    pub verifications: f64,
    /// The same in batches of 64 by different signers.
    pub batched_verifications: f64,
    /// Ed25519 signatures made.
    pub signatures: f64,
    /// fdatasync of a file on the file system of the nodes, each after a write of 4 KiB at its start.
    pub syncs: f64,
}

impl Limits {
    /// Measures each for `each` long.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn measure(dir: &Path, each: Duration) -> Result<Limits, CliError> {
        let secrets: Vec<SecretKey> = (0..BATCH).map(|_| SecretKey::from_seed(rand::random())).collect();
        let claims: Vec<(PublicKey, Digest, Signature)> = (secrets.iter())
            .map(|secret| {
                let digest = Digest(rand::random());
                (secret.public(), digest, sign_digest(secret, digest))
            })
            .collect();
        let mut next = (0..BATCH).cycle();
        let mut at = move || next.next().unwrap_or(0);
        let verifications = rate(each, || {
            let (signer, digest, signature) = &claims[at()];
            assert!(verify_digest(signer, *digest, signature), "an honest signature holds");
        });
        let batches = rate(each, || assert!(verify_digests(&claims), "honest signatures hold"));
        let signatures = rate(each, || {
            black_box(sign_digest(&secrets[0], claims[0].1));
        });
        Ok(Limits {
            verifications,
            batched_verifications: batches * BATCH as f64,
            signatures,
            syncs: syncs(dir, each).map_err(|error| CliError::io("measure fdatasync", &error))?,
        })
    }

    /// The mean of two measurements, before and after a run.
    pub fn mean(self, other: Limits) -> Limits {
        let mean = |a: f64, b: f64| (a + b) / 2.0;
        Limits {
            verifications: mean(self.verifications, other.verifications),
            batched_verifications: mean(self.batched_verifications, other.batched_verifications),
            signatures: mean(self.signatures, other.signatures),
            syncs: mean(self.syncs, other.syncs),
        }
    }
}

fn rate(each: Duration, mut work: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut done = 0_u32;
    while began.elapsed() < each {
        work();
        done += 1;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

fn syncs(dir: &Path, each: Duration) -> std::io::Result<f64> {
    let path = dir.join("fdatasync");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let mut failed = Ok(());
    let mut block = [0_u8; SYNC_BYTES];
    let rate = rate(each, || {
        block[0] = block[0].wrapping_add(1);
        let synced = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&block)).and_then(|()| file.sync_data());
        if let Err(error) = synced {
            failed = Err(error);
        }
    });
    drop(file);
    std::fs::remove_file(path)?;
    failed.map(|()| rate)
}
