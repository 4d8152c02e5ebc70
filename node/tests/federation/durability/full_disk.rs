//! A full disk: nothing is signed for, what is there is read, and the node goes on by itself when there is space.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::cluster::{Cluster, copy_dir};
use crate::net::{PATIENCE, Process, run, text};

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "POSTROAD_MOUNTS";

/// Runs a command; whether it succeeded.
fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A small disk over a directory; unmounted when dropped.
struct Disk<'a> {
    dir: &'a Path,
}

impl<'a> Disk<'a> {
    fn mount(dir: &'a Path, size: &str) -> Option<Disk<'a>> {
        succeeds("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", text(dir)]).then_some(Disk { dir })
    }

    fn resize(&self, size: &str) {
        let resized = succeeds("mount", &["-o", &format!("remount,size={size}"), text(self.dir)]);
        assert!(resized, "the disk can be resized");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        succeeds("umount", &["-l", text(self.dir)]);
    }
}

/// Runs this test where it may mount: here, or in a namespace of its own. None where neither is allowed, or when it was
/// run there.
fn small_disk<'a>(dir: &'a Path, test: &str) -> Option<Disk<'a>> {
    let kept = tempfile::tempdir().expect("a temporary directory");
    copy_dir(dir, kept.path());
    let disk = Disk::mount(dir, "8m");
    if disk.is_some() {
        copy_dir_into(kept.path(), dir);
        return disk;
    }
    if std::env::var_os(INSIDE).is_none() && succeeds("unshare", &["-rm", "mount", "-t", "tmpfs", "tmpfs", text(dir)]) {
        let exe = std::env::current_exe().expect("this test's path");
        let status = Command::new("unshare")
            .args(["-rm", text(&exe), "--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare runs");
        assert!(status.success(), "it failed in its namespace");
        return None;
    }
    println!("SKIPPED: no file system can be mounted here");
    None
}

fn copy_dir_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// The first word of a message.
fn name(message: &Value) -> String {
    message["text"].as_str().and_then(|text| text.split(' ').next()).unwrap_or_default().to_owned()
}

#[test]
fn a_node_on_a_full_disk_signs_nothing_reads_on_and_resumes() {
    let mut cluster = Cluster::plan(3);
    let dir = cluster.node_dir(2);
    let test = "durability::full_disk::a_node_on_a_full_disk_signs_nothing_reads_on_and_resumes";
    let Some(disk) = small_disk(&dir, test) else { return };
    cluster.run_all(&[1, 2, 3]);
    let (near, far) = (cluster.mailbox("near", 2), cluster.mailbox("far", 3));
    let (here, there) = (cluster.mailbox("here", 2), cluster.mailbox("there", 1));

    // Fill it: through the node, until it no longer answers.
    let padding = "x".repeat(100_000);
    let (mut taken, mut ordered) = (Vec::new(), 0);
    let is_full = |cluster: &mut Cluster| cluster.running(2).log().contains("the disk is full");
    let deadline = Instant::now() + PATIENCE;
    while !is_full(&mut cluster) {
        assert!(Instant::now() < deadline, "the disk never fills");
        let number = taken.len();
        let sent = near.send(&[&here], &["--timeout-ms", "3000"], format!("{number} {padding}").as_bytes());
        // What is not answered in time is sent again by the next one.
        taken.push(number.to_string());
        assert!([0, 4].contains(&sent.code), "{sent:?}");
        ordered += usize::from(sent.code == 0);
    }
    println!("full after {} messages of 100 kB", taken.len());

    // No: in so many words to whoever registers, and no answer but "busy" to whoever sends.
    let path = cluster.path("new");
    let refused = run(&["mailbox", "new", "--dir", text(&path), "--home", &cluster.addr(2), "--timeout-ms", "2000"]);
    assert_ne!(refused.code, 0, "a full node takes no mailbox: {refused:?}");
    assert!(refused.error["message"].as_str().unwrap_or_default().contains("busy"), "{refused:?}");
    let waits = near.send(&[&far], &["--timeout-ms", "2000", "waits"], &[]);
    assert_eq!(waits.code, 4, "nothing is accepted: {waits:?}");
    assert!(waits.lines.is_empty(), "nothing is accepted: {waits:?}");

    // Reads go on: the mailbox, the directory, the status.
    // (Without --follow `recv` waits for an attestation of the last of it, and nothing is signed now.)
    let reader = ["recv", "--mailbox", text(&here.dir), "--no-ack", "--from", "0.0.0", "--follow"];
    let reader = Process::spawn(&reader);
    for number in taken.iter().take(ordered - 1) {
        assert_eq!(name(&reader.wait_for("message")), *number, "what was delivered can be read");
    }
    drop(reader);
    assert_eq!(run(&["directory", "show", &here.address, "--node", &cluster.addr(2)]).code, 0);
    let before = cluster.status(2);

    // Mail for it goes to custodians, without its receipt, and the others go on.
    let mut late = Vec::new();
    for number in 0..5 {
        let text = format!("late-{number}");
        let sent = there.send(&[&here], &[&text], &[]);
        assert_eq!((sent.code, &sent.lines[0]["state"]), (0, &"ordered".into()), "{sent:?}");
        late.push(text);
    }
    assert_eq!(cluster.status(2)["epoch"], before["epoch"], "nothing is written");
    assert!(is_full(&mut cluster) && !cluster.running(2).has_ended(), "it is still there");

    disk.resize("64m");
    cluster.until_status(2, "the cuts of the others", |status| status["epoch"].as_u64() > before["epoch"].as_u64());
    assert!(cluster.running(2).log().contains("there is space on the disk again"));
    let sent = near.send(&[&far, &here], &["goes on"], &[]);
    assert_eq!(sent.code, 0, "{sent:?}");
    let waited: Vec<_> = far.recv_all(2).iter().map(|message| message["text"].clone()).collect();
    assert_eq!(waited, ["waits", "goes on"], "what waited came, once and in order");

    // Everything that was taken is there, once; what came while it was full had custodians.
    let owed = taken.len() + late.len() + 1;
    let got = here.recv_until(&[], owed);
    let names: Vec<String> = got.iter().map(name).collect();
    let of = |wanted: &[String]| names.iter().filter(|name| wanted.contains(name)).cloned().collect::<Vec<_>>();
    assert_eq!((got.len(), of(&taken), of(&late)), (owed, taken.clone(), late.clone()), "once and in order");
    let had_custodians = |text: &String| got.iter().any(|message| message["text"] == **text && message["late"] == true);
    assert!(late.iter().all(had_custodians), "it gave no receipt while it was full");
    cluster.stop_all();
}

#[test]
fn a_node_does_not_start_on_a_full_disk_and_says_so() {
    let mut cluster = Cluster::plan(1);
    let dir = cluster.node_dir(1);
    let test = "durability::full_disk::a_node_does_not_start_on_a_full_disk_and_says_so";
    let Some(disk) = small_disk(&dir, test) else { return };
    let filler = dir.join("filler");
    while let Ok(file) = fs::OpenOptions::new().create(true).append(true).open(&filler)
        && std::io::Write::write_all(&mut &file, &[0; 4_096]).is_ok()
    {}
    let mut command = cluster.command(1);
    cluster.launch(1, &mut command);
    let ended = cluster.ended(1);
    assert_eq!((ended.code, &ended.error["code"]), (Some(1), &"full".into()), "{ended:?}");
    assert!(ended.error["message"].as_str().unwrap_or_default().contains("no space left"), "{ended:?}");
    disk.resize("16m");
    cluster.run_all(&[1]);
    cluster.stop(1);
}
