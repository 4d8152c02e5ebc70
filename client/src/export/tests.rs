use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use postroad_protocol::SecretKey;
use postroad_store::{Pair, Read as _, StoreError};

use super::*;
use crate::connection::NodeAddr;
use crate::fixture;
use crate::mailbox_dir::FILES;

/// Little work, so that tests are fast.
const LOG_N: u8 = 2;

struct Bench {
    dir: tempfile::TempDir,
    mailbox: Mailbox,
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.into()).unwrap()
}

/// A mailbox with something in every table, larger than a chunk of the encryption.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let home = NodeAddr::new(SecretKey::from_seed([3; 32]).public(), "/ip4/127.0.0.1/tcp/4001").unwrap();
    let recovery = Some(SecretKey::from_seed([8; 32]).public());
    let mailbox = Mailbox::create_with(&dir.path().join("m"), &home, &fixture::federation(), recovery).unwrap();
    mailbox.set_move_policy(crate::MovePolicy::Never).unwrap();
    for kind in STORES {
        let locked = LockedStore::open(mailbox.dir(), kind).unwrap();
        let mut transaction = locked.store.begin().unwrap();
        for table in kind.tables {
            for number in 0..40u8 {
                transaction.put(*table, &[number], &[number; 300]);
            }
        }
        transaction.commit().unwrap();
    }
    Bench { dir, mailbox }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn export(&self) -> Vec<u8> {
        let mut file = Vec::new();
        export_at(LOG_N, self.mailbox.dir(), &passphrase("open"), &mut file).unwrap();
        file
    }

    /// What importing a file fails with; nothing is left of it.
    fn refused(&self, file: &[u8]) -> ExportError {
        let dir = self.path("refused");
        let error = Mailbox::import(file, &passphrase("open"), &dir).unwrap_err();
        assert!(!dir.exists() && !self.path("refused.importing").exists());
        match error {
            ClientError::Export(error) => error,
            other => panic!("{other}"),
        }
    }
}

type Files = Vec<(&'static str, Vec<u8>)>;

/// Everything in a mailbox's directory, but that bundles are marked as copied.
fn state(mailbox: &Mailbox) -> (Files, BTreeMap<String, Vec<Pair>>) {
    let mut rows = BTreeMap::new();
    for kind in STORES {
        let locked = LockedStore::open(mailbox.dir(), kind).unwrap();
        for table in kind.tables.iter().filter(|table| table.0 != "copied") {
            let table_rows = locked.store.snapshot().unwrap().range(*table, &[], &[], usize::MAX).unwrap();
            rows.insert(format!("{}/{table}", kind.name), table_rows);
        }
    }
    (mailbox.files().unwrap(), rows)
}

#[test]
fn what_is_imported_is_the_whole_mailbox() {
    let bench = bench();
    let file = bench.export();
    assert!(file.len() > 2 << 16, "{}: more than one chunk is tested", file.len());
    let (imported, exported) = Mailbox::import(&file[..], &passphrase("open"), &bench.path("new/place")).unwrap();
    assert_eq!((exported.mailbox, imported.address()), (bench.mailbox.address(), bench.mailbox.address()));
    let (files, rows) = state(&bench.mailbox);
    assert_eq!(files.len(), FILES.len());
    assert!(rows.contains_key("recv/entries") && rows.contains_key("send/pending"));
    assert!(rows.values().all(|rows| rows.len() == 40));
    assert_eq!(state(&imported), (files, rows));
    assert_eq!(imported.recovery_key(), bench.mailbox.recovery_key());
    assert!(!bench.path("new/place.importing").exists());
}

#[test]
fn only_the_passphrase_opens_it_and_an_empty_one_is_none() {
    let bench = bench();
    let file = bench.export();
    let dir = bench.path("n");
    let wrong = Mailbox::import(&file[..], &passphrase("Open"), &dir).unwrap_err();
    assert!(matches!(wrong, ClientError::Export(ExportError::WrongPassphrase)), "{wrong}");
    assert!(!dir.exists() && !bench.path("n.importing").exists());
    for empty in ["", " ", "\n"] {
        assert!(matches!(Passphrase::new(empty.into()), Err(ExportError::NoPassphrase)));
    }
    assert!(!format!("{:?}", passphrase("open")).contains("open"));
}

#[test]
fn a_file_that_was_cut_off_anywhere_leaves_nothing() {
    let bench = bench();
    let file = bench.export();
    let chunk = 65_536 + 16;
    // The header of age ends with the line of its MAC; a nonce of 16 bytes and chunks follow.
    let mac = file.windows(4).position(|bytes| bytes == b"\n---").unwrap();
    let header = mac + 1 + file[mac + 1..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let cuts = [1, 20, mac, header - 1, header, header + 15, header + 16, header + 17, header + 16 + chunk - 1];
    let later =
        [header + 16 + chunk, header + 16 + chunk + 1, header + 16 + 2 * chunk, file.len() - 16, file.len() - 1];
    for cut in cuts.into_iter().chain(later) {
        let error = bench.refused(&file[..cut]);
        let is_begin = cut < b"age-encryption.org/".len();
        assert!(matches!(error, ExportError::Damaged) || is_begin, "{cut}: {error}");
    }
    assert!(matches!(bench.refused(b""), ExportError::Foreign(_)));
    assert!(matches!(bench.refused(&[&file[..], &[0]].concat()), ExportError::Damaged), "or has more");
}

#[test]
fn a_bit_that_flips_anywhere_leaves_nothing() {
    let bench = bench();
    let file = bench.export();
    // Each byte of the header and of what the first chunk begins with, and some of every chunk.
    let places = (0..220).chain((220..file.len()).step_by(file.len() / 20)).chain([file.len() - 1]);
    for place in places {
        let mut flipped = file.clone();
        flipped[place] ^= 1 << (place % 8);
        bench.refused(&flipped);
    }
}

#[test]
fn other_files_are_told_apart() {
    let bench = bench();
    let seal = |log_n: u8, plain: &[u8]| {
        let mut recipient = age::scrypt::Recipient::new(passphrase("open").0.clone());
        recipient.set_work_factor(log_n);
        age::encrypt(&recipient, plain).unwrap()
    };
    assert!(matches!(bench.refused(b"PK\x03\x04 something else, which is long enough"), ExportError::Foreign(_)));
    assert!(matches!(bench.refused(&seal(LOG_N, b"a letter")), ExportError::Foreign(_)));
    let to_a_key = age::x25519::Identity::generate().to_public();
    assert!(matches!(bench.refused(&age::encrypt(&to_a_key, b"a letter").unwrap()), ExportError::Foreign(_)));
    let later = [&b"postroad-mailbox\x02"[..], &[0; 40]].concat();
    assert!(matches!(bench.refused(&seal(LOG_N, &later)), ExportError::Unknown(_)));
    // A length that is never reached, and one that is not believed.
    for length in [[0, 0, 0, 9], [0xff; 4]] {
        let long = [&b"postroad-mailbox\x01"[..], &length, &[0; 8]].concat();
        assert!(matches!(bench.refused(&seal(LOG_N, &long)), ExportError::Unknown(_)), "{length:?}");
    }
    // A header without an end, and work without one, cost nothing.
    let endless = [&b"age-encryption.org/v1\n-> scrypt "[..], &[b'a'; 1 << 20]].concat();
    assert!(matches!(bench.refused(&endless), ExportError::Foreign(_)));
    let costly = String::from_utf8_lossy(&seal(LOG_N, b"a letter")[..80]).replacen(" 2\n", " 40\n", 1);
    let costly = [costly.as_bytes(), &seal(LOG_N, b"a letter")[80..]].concat();
    assert!(matches!(bench.refused(&costly), ExportError::TooCostly { log_n: 40, limit: 20 }));
}

/// A file with these items, made by a writer that checks nothing.
fn forged(bench: &Bench, items: &[&str]) -> Vec<u8> {
    let mut file = Vec::new();
    let (mailbox, federation) = (bench.mailbox.address(), bench.mailbox.federation().id());
    let head = Head { mailbox, federation, taken_ms: 0 };
    let mut writer = Writer::new(&mut file, &passphrase("open"), LOG_N, &head).unwrap();
    let files: BTreeMap<_, _> = bench.mailbox.files().unwrap().into_iter().collect();
    for item in items {
        match item.split_once('/') {
            None => writer.file(item, files.get(item).cloned().unwrap_or_default()).unwrap(),
            Some((store, table)) => {
                let table = postroad_store::Table(Box::leak(table.to_owned().into_boxed_str()));
                writer.row(store, table, (vec![1], vec![2])).unwrap();
            }
        }
    }
    writer.finish().unwrap();
    file
}

#[test]
fn one_state_is_one_file_and_half_a_mailbox_is_none() {
    let bench = bench();
    let whole = ["identity.key", "encryption.key", "genesis.toml", "home", "recv/seen", "send/meta"];
    let dir = bench.path("n");
    assert!(Mailbox::import(&forged(&bench, &whole)[..], &passphrase("open"), &dir).is_ok());
    let disordered: [&[&str]; 7] = [
        &["encryption.key", "identity.key"],
        &["identity.key", "identity.key"],
        &["recv/seen", "home"],
        &["send/meta", "recv/seen"],
        &["send/meta", "send/accepted"],
        &["send/meta", "send/meta"],
        &["../identity.key"],
    ];
    for items in disordered.into_iter().chain([&["other.key"][..], &["send/other"], &["other/meta"]]) {
        assert!(matches!(bench.refused(&forged(&bench, items)), ExportError::Unknown(_)), "{items:?}");
    }
    for missing in 0..4 {
        let mut items = whole.to_vec();
        items.remove(missing);
        let error = Mailbox::import(&forged(&bench, &items)[..], &passphrase("open"), &bench.path("half")).unwrap_err();
        assert!(matches!(error, ClientError::Directory { .. }), "{error}");
        assert!(!bench.path("half").exists() && !bench.path("half.importing").exists());
    }
}

#[test]
fn a_directory_that_holds_anything_is_not_touched() {
    let bench = bench();
    let file = bench.export();
    let import = |dir: &Path| Mailbox::import(&file[..], &passphrase("open"), dir).map(|(mailbox, _)| mailbox);
    let dir = bench.path("full");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("letter"), "dear").unwrap();
    assert!(import(&dir).unwrap_err().to_string().contains("not empty"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    assert!(import(bench.mailbox.dir()).unwrap_err().to_string().contains("not empty"));
    fs::remove_file(dir.join("letter")).unwrap();
    assert_eq!(import(&dir).unwrap().address(), bench.mailbox.address(), "an empty one is taken");
    assert!(import(Path::new("/")).is_err());
}

#[test]
fn what_a_killed_import_left_is_replaced_unless_it_is_a_mailbox() {
    let bench = bench();
    let file = bench.export();
    let (dir, draft) = (bench.path("n"), bench.path("n.importing"));
    fs::create_dir_all(draft.join("send")).unwrap();
    fs::write(draft.join("identity.key"), "half").unwrap();
    assert!(matches!(Mailbox::open(&draft), Err(ClientError::Directory { .. })), "it does not look complete");
    let lock = DirLock::take(&draft).unwrap();
    let import = || Mailbox::import(&file[..], &passphrase("open"), &dir);
    assert!(matches!(import(), Err(ClientError::Store(StoreError::InUse { .. }))), "another import runs");
    drop(lock);
    fs::write(draft.join("home"), "somewhere").unwrap();
    assert!(import().unwrap_err().to_string().contains("in the way"));
    fs::remove_file(draft.join("home")).unwrap();
    assert_eq!(import().unwrap().0.address(), bench.mailbox.address());
    assert!(!draft.exists());
}

#[test]
fn nothing_is_exported_while_somebody_sends_or_receives() {
    let bench = bench();
    for kind in STORES {
        let used = LockedStore::open(bench.mailbox.dir(), kind).unwrap();
        let mut file = Vec::new();
        let error = export_at(LOG_N, bench.mailbox.dir(), &passphrase("open"), &mut file).unwrap_err();
        assert!(matches!(error, ClientError::Store(StoreError::InUse { .. })), "{error}");
        assert!(error.to_string().contains(kind.name) && file.is_empty());
        drop(used);
    }
    bench.export();
    assert!(matches!(
        export_at(LOG_N, &bench.path("nobody"), &passphrase("open"), Vec::new()),
        Err(ClientError::Directory { .. })
    ));
    assert!(!bench.path("nobody").exists());
}

#[cfg(unix)]
#[test]
fn what_is_imported_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    let dir = bench.path("n");
    Mailbox::import(&bench.export()[..], &passphrase("open"), &dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for (name, _) in bench.mailbox.files().unwrap() {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}
