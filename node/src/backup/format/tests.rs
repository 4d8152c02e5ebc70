//! Every damage of a backup is found, and told apart.

use super::*;

fn backup(rows: u8) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let head = Head { node: NodeId::from([7; 32]), federation: Digest([8; 32]), taken_ms: 9 };
    writer.record(&Record::Head(head)).unwrap();
    writer.record(&Record::File("genesis.toml".into(), b"name = 'f'".to_vec())).unwrap();
    for row in 0..rows {
        writer.record(&Record::Row(CUTS.0.into(), vec![0, 0, 0, 0, 0, 0, 0, row], vec![row; 40])).unwrap();
    }
    writer.end().unwrap().0
}

fn read_bytes(bytes: &[u8]) -> Result<Contents, FormatError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    check(&path).map_err(|error| match error {
        BackupError::Format { source, .. } => source,
        other => panic!("{other}"),
    })
}

#[test]
fn what_was_written_is_read() {
    let contents = read_bytes(&backup(5)).unwrap();
    assert_eq!((contents.rows, contents.epoch, contents.has_key()), (5, 4, false));
    assert_eq!(contents.files["genesis.toml"], b"name = 'f'");
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let whole = backup(2);
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = read_bytes(&bad).unwrap_err();
        assert!(bit >= MAGIC.len() * 8 || matches!(error, FormatError::Foreign), "bit {bit}: {error}");
    }
    for len in 0..whole.len() {
        let error = read_bytes(&whole[..len]).unwrap_err();
        match len {
            0..16 => assert!(matches!(error, FormatError::Foreign), "{len}: {error}"),
            _ => assert!(matches!(error, FormatError::Truncated { at } if at == len as u64), "{len}: {error}"),
        }
    }
    assert!(matches!(read_bytes(&[&whole[..], b"x"].concat()), Err(FormatError::Trailing { .. })));
}

#[test]
fn a_record_that_was_taken_out_is_missed() {
    // Each record of the rest is sound.
    let (two, three) = (backup(2), backup(3));
    let end = 4 + encode(&Record::End(0, Digest::ZERO)).len() + 4;
    let spliced = [&two[..two.len() - end], &three[three.len() - end..]].concat();
    assert!(matches!(read_bytes(&spliced), Err(FormatError::Digest)));
}
