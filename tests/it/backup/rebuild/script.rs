//! The script: under two shells, on the ways that its user may take, and with what stands in its way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::LIFE;
use super::made::{Destination, Form, destination, feed, images};
use crate::support::run;

/// A shell, and where it finds programs.
pub struct Shell {
    program: &'static str,
    arguments: &'static [&'static str],
    path: fn() -> Option<&'static Path>,
}

/// Debian's `sh`, with GNU programs.
pub const DASH: Shell = Shell { program: "dash", arguments: &[], path: || None };

/// As on Alpine: nothing but busybox and sqlite3.
const BUSYBOX: Shell = Shell { program: "busybox", arguments: &["sh"], path: || Some(only_busybox()) };

/// A folder with the programs of busybox, and sqlite3.
fn only_busybox() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let which = |program: &str| run("sh", &["-c", &format!("command -v {program}")]).trim().to_owned();
        for applet in run("busybox", &["--list"]).lines() {
            std::os::unix::fs::symlink(which("busybox"), folder.path().join(applet)).unwrap();
        }
        for program in ["busybox", "sqlite3"] {
            std::os::unix::fs::symlink(which(program), folder.path().join(program)).unwrap();
        }
        folder
    });
    folder.path()
}

/// Runs the script that lies in the destination: what it said, or what it complained about. Where it fails, it leaves nothing.
pub fn restore(shell: &Shell, made: &Destination, to: &Path, more: &[&str]) -> Result<String, String> {
    restore_with(shell, made, to, more, &[])
}

fn restore_with(
    shell: &Shell,
    made: &Destination,
    to: &Path,
    more: &[&str],
    environment: &[(&str, &str)],
) -> Result<String, String> {
    let beside = |to: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(to.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    };
    let mut before = beside(to);
    let mut command = Command::new(shell.program);
    command.args(shell.arguments).arg(made.folder.join("restore.sh")).arg(&made.folder).arg(to).args(more);
    command.envs(environment.iter().copied());
    if let Some(path) = (shell.path)() {
        command.env("PATH", path);
    }
    let out = command.output().unwrap_or_else(|e| panic!("{command:?} does not start ({e}): tests/run installs it"));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() {
        before.push(to.to_owned());
        before.sort();
        assert_eq!(beside(to), before, "something else is left");
        assert_eq!(said, "");
        return Ok(String::from_utf8(out.stdout).unwrap());
    }
    assert_eq!(beside(to), before, "something is left: {said}");
    assert!(!said.is_empty());
    Err(said)
}

/// Two timelines, of a database with three marks each.
fn two_timelines(folder: &Path) -> Destination {
    let mut made = destination(folder, images(folder, 4096, 0, &LIFE[..3]));
    made.claim();
    let mut images = images(folder, 4096, 0, &LIFE[..4]).into_iter();
    made.full(images.next().unwrap());
    images.for_each(|image| made.increment(image));
    made
}

#[test]
fn it_takes_a_position_or_a_timeline_or_the_newest_state() {
    for shell in [&DASH, &BUSYBOX] {
        let folder = tempfile::tempdir().unwrap();
        let made = two_timelines(folder.path());
        let target = folder.path().join("a b.db");
        for (wanted, mark) in [
            (&[][..], 6),
            (&["t000002"], 6),
            (&["t000001"], 2),
            (&["2"], 1),
            (&["0000000005"], 4),
            (&["t000001/0000000001"], 0),
        ] {
            let said = restore(shell, &made, &target, wanted).unwrap();
            assert!(said.contains(&format!(" {}, ", made.marks[mark].manifest.place())), "{wanted:?}: {said}");
            assert!(std::fs::read(&target).unwrap() == made.marks[mark].image, "{wanted:?}");
            std::fs::remove_file(&target).unwrap();
        }
        for wanted in ["8", "0", "t000003", "t000002/0000000001", "yesterday", "t00000x", "-1", "0x1"] {
            restore(shell, &made, &target, &[wanted]).unwrap_err();
        }
    }
}

/// More than nine positions, so that a number with a zero in front is no octal one.
#[test]
fn busybox_alone_restores_a_whole_life() {
    let folder = tempfile::tempdir().unwrap();
    let made = destination(folder.path(), images(folder.path(), 4096, 1, LIFE));
    made.write_sums();
    let target = folder.path().join("restored.db");
    restore(&BUSYBOX, &made, &target, &["0000000010"]).unwrap();
    assert!(std::fs::read(&target).unwrap() == made.marks[9].image);
    std::fs::remove_file(&target).unwrap();
    restore(&BUSYBOX, &made, &target, &[]).unwrap();
    assert!(std::fs::read(&target).unwrap() == made.marks[10].image);
}

/// H39.
#[test]
fn what_lies_at_the_target_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let made = destination(folder.path(), images(folder.path(), 512, 0, &LIFE[..2]));
    let target = folder.path().join("restored.db");
    for end in ["", "-wal", "-shm", "-journal"] {
        let stray = folder.path().join(format!("restored.db{end}"));
        std::fs::write(&stray, "mine").unwrap();
        let said = restore(&DASH, &made, &target, &[]).unwrap_err();
        assert!(said.contains(&format!("restored.db{end} exists")), "{said}");
        assert_eq!(std::fs::read(&stray).unwrap(), b"mine");
        std::fs::remove_file(stray).unwrap();
    }
    std::os::unix::fs::symlink("nowhere", &target).unwrap();
    restore(&DASH, &made, &target, &[]).unwrap_err();
    let nowhere = folder.path().join("no/such/folder");
    std::fs::create_dir(nowhere.parent().unwrap().parent().unwrap()).unwrap();
    std::fs::create_dir(nowhere.parent().unwrap()).unwrap();
    restore(&DASH, &made, &nowhere, &["1"]).unwrap();
}

#[test]
fn zstd_and_age_are_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("identity.txt");
    let key = key.to_str().unwrap();
    std::fs::write(key, feed(Command::new("age-keygen").stderr(std::process::Stdio::null()), b"")).unwrap();
    let recipient = run("age-keygen", &["-y", key]).trim().to_owned();
    let images = images(folder.path(), 4096, 0, &LIFE[..3]);
    for (at, form) in [
        Form { zstd: true, recipient: None },
        Form { zstd: false, recipient: Some(recipient.clone()) },
        Form { zstd: true, recipient: Some(recipient.clone()) },
    ]
    .into_iter()
    .enumerate()
    {
        let mut made = Destination::new(folder.path().join(format!("backups-{at}")));
        made.form = form.clone();
        made.full(images[0].clone());
        images[1..].iter().for_each(|image| made.increment(image.clone()));
        let target = folder.path().join("restored.db");
        if form.recipient.is_some() {
            let said = restore(&DASH, &made, &target, &[]).unwrap_err();
            assert!(said.contains("IDENTITY=FILE"), "{said}");
            restore_with(&DASH, &made, &target, &[], &[("IDENTITY", "/dev/null")]).unwrap_err();
        }
        restore_with(&DASH, &made, &target, &[], &[("IDENTITY", key)]).unwrap();
        assert!(std::fs::read(&target).unwrap() == images[2], "{form:?}");
        std::fs::remove_file(target).unwrap();
    }
}

/// A database that was damaged when it was backed up is not given out without a word, but it can be had.
#[test]
fn a_database_that_was_damaged_before_can_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = images(folder.path(), 4096, 0, &LIFE[..2]).pop().unwrap();
    // The kind of page 3, a root of a tree.
    image[2 * 4096] = 99;
    let made = destination(folder.path(), vec![image.clone()]);
    let target = folder.path().join("restored.db");
    let said = restore(&DASH, &made, &target, &[]).unwrap_err();
    assert!(said.contains("SKIP_CHECK=1"), "{said}");
    restore_with(&DASH, &made, &target, &[], &[("SKIP_CHECK", "1")]).unwrap();
    assert!(std::fs::read(&target).unwrap() == image);
}

#[test]
fn it_says_how_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let made = destination(folder.path(), images(folder.path(), 512, 0, &LIFE[..1]));
    let out = Command::new("dash").arg(made.folder.join("restore.sh")).output().unwrap();
    assert_eq!(out.status.code(), Some(64));
    assert!(String::from_utf8(out.stderr).unwrap().contains("sh restore.sh FOLDER TARGET"));
    made.put("format", b"{\"format\":2}\n");
    let said = restore(&DASH, &made, &folder.path().join("restored.db"), &[]).unwrap_err();
    assert!(said.contains("use the restore.sh that lies in it"), "{said}");
}
