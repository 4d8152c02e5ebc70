use super::*;

fn open(dir: &Path) -> RecvStore {
    RecvStore::open(dir).unwrap()
}

#[test]
fn a_second_receiver_on_one_mailbox_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = RecvStore::open(dir.path()).unwrap_err();
    assert!(matches!(second, ClientError::Store(StoreError::InUse { .. })), "{second}");
    drop(first);
    open(dir.path());
}

#[test]
fn the_newest_ids_are_remembered_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut position = Position::default();
    for commit in 0..40_u64 {
        let ids: Vec<(Digest, Seq)> = (0..256)
            .map(|index| {
                let mut id = [0; 32];
                id[..8].copy_from_slice(&(commit * 256 + index).to_be_bytes());
                (Digest(id), Seq { epoch: commit, position: 0, index })
            })
            .collect();
        position.handed_out += ids.len() as u64;
        store
            .commit(&Change {
                position: &position,
                kept: &[],
                rolled_back: &[],
                dropped: &[],
                seen: &ids,
                numbers: &[],
                attestations: &Attestations::default(),
                letters: &Letters::default(),
                told: &[],
                tail: &Tail::default(),
                tail_rewritten: &[],
                given: &Given::default(),
                residence: None,
            })
            .unwrap();
    }
    let found = store.load(None, None).unwrap().seen;
    assert_eq!(found.len(), MAX_SEEN);
    assert!(found.is_sorted());
    let last = 40 * 256_u64 - 1;
    assert_eq!(found.last().unwrap().0[..8], last.to_be_bytes());
    // What is read again is not known any more, what lies before it is.
    let again = store.load(Some(Seq { epoch: 30, position: 0, index: 0 }), None).unwrap().seen;
    assert_eq!(again.len(), MAX_SEEN - 10 * 256);
}
