//! The script: under two shells, on the ways that its user may take, and with what stands in its way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use atlas_sidecar::backup::plan::Moment;
use atlas_sidecar::backup::{Kind, Manifest, layout};

use super::LIFE;
use super::made::tailed::tailed;
use super::made::{Destination, Form, destination, feed, images};
use crate::backup::restore as by_program;
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

/// The same with more in the environment.
pub fn restore_with(
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
        assert!(said.lines().all(|line| line.starts_with("restore.sh: warning: ")), "{said}");
        return Ok(said + &String::from_utf8(out.stdout).unwrap());
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

/// A life that was followed; see [`tailed`].
fn with_a_tail(folder: &Path, form: Form) -> Destination {
    let mut made = Destination::new(folder.join("backups"));
    made.form = form;
    tailed(&mut made, images(folder, 1024, 1, LIFE));
    by_program::claim(&made, 1, None);
    made
}

/// Restores every mark by the script and by the program, and compares it with the database there.
fn both_ways_to_every_mark(shell: &Shell, made: &Destination) {
    every_mark(shell, made, &[]);
    let target = made.folder.parent().unwrap().join("ours.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for mark in &made.marks {
        let (store, at) = (by_program::store(made), Moment::At(mark.manifest.observed));
        let place = mark.manifest.place();
        runtime
            .block_on(by_program::restore(&store, at, &target, None))
            .unwrap_or_else(|e| panic!("our way to {place}: {e}"));
        assert!(std::fs::read(&target).unwrap() == mark.image, "our way to {place}");
        std::fs::remove_file(&target).unwrap();
    }
}

/// Restores every mark by the script.
fn every_mark(shell: &Shell, made: &Destination, environment: &[(&str, &str)]) {
    let target = made.folder.parent().unwrap().join("restored.db");
    for mark in &made.marks {
        let place = mark.manifest.place();
        let said = restore_with(shell, made, &target, &[&place.position.0.to_string()], environment)
            .unwrap_or_else(|said| panic!("{place}: {said}"));
        let reached = format!("position {place}, seen at {}\n", mark.manifest.observed.to_rfc3339());
        assert!(said.ends_with(&reached), "{place}: {said}");
        assert_eq!(said.contains("is in one piece"), place.position.0 >= 8, "{place}: {said}");
        assert!(std::fs::read(&target).unwrap() == mark.image, "{place}");
        std::fs::remove_file(&target).unwrap();
    }
    let said = restore_with(shell, made, &target, &[], environment).unwrap();
    assert!(said.contains("t000001/0000000011"), "{said}");
    assert!(std::fs::read(&target).unwrap() == made.marks.last().unwrap().image);
    std::fs::remove_file(&target).unwrap();
}

/// The cover rule: whatever is left of live segments, fine and merged ones, every mark that is covered is restored to the byte.
#[test]
fn a_live_tail_is_restored_at_every_mark_however_it_was_folded() {
    let folder = tempfile::tempdir().unwrap();
    let made = with_a_tail(folder.path(), Form::default());
    both_ways_to_every_mark(&BUSYBOX, &made);
    // Over the full at position 5.
    let first = made.fold(Kind::Fine, 0, 2, None);
    made.fold(Kind::Fine, 2, 6, Some(&first));
    both_ways_to_every_mark(&DASH, &made);
    made.sweep(1..=3);
    both_ways_to_every_mark(&DASH, &made);
    made.sweep(4..=6);
    made.write_all_sums();
    both_ways_to_every_mark(&BUSYBOX, &made);
    made.fold(Kind::Merged, 0, 5, None);
    made.fold(Kind::Fine, 7, 10, None);
    made.fold(Kind::Merged, 7, 9, None);
    made.sweep(8..=9);
    both_ways_to_every_mark(&DASH, &made);
    // Without the full in the middle, folds lead over it.
    std::fs::remove_file(made.folder.join("t000001/0000000005.json")).unwrap();
    both_ways_to_every_mark(&DASH, &made);
}

#[test]
fn a_beginning_of_a_fine_segment_is_had_from_zstd_and_age_too() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("identity.txt");
    let key = key.to_str().unwrap();
    std::fs::write(key, feed(Command::new("age-keygen").stderr(std::process::Stdio::null()), b"")).unwrap();
    let recipient = run("age-keygen", &["-y", key]).trim().to_owned();
    for form in [Form { zstd: true, recipient: None }, Form { zstd: true, recipient: Some(recipient) }] {
        let scratch = tempfile::tempdir().unwrap();
        let made = with_a_tail(scratch.path(), form);
        made.fold(Kind::Fine, 0, 6, None);
        made.sweep(1..=6);
        every_mark(&DASH, &made, &[("IDENTITY", key)]);
    }
}

/// After `aws s3 sync` there are no notes: what the logs tell must do, and it is said.
#[test]
fn live_segments_without_notes_are_restored_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let made = with_a_tail(folder.path(), Form::default());
    let target = folder.path().join("restored.db");
    for mark in made.marks.iter().filter(|mark| mark.manifest.kind == Kind::Live) {
        std::fs::remove_file(made.note(&mark.manifest)).unwrap();
    }
    for (shell, mark) in [(&DASH, 3), (&BUSYBOX, 6), (&BUSYBOX, 10)] {
        let said = restore(shell, &made, &target, &[&(mark + 1).to_string()]).unwrap();
        assert!(said.contains("live segments have no note"), "{said}");
        assert!(said.ends_with("seen at a time that its note would tell\n"), "{said}");
        assert!(std::fs::read(&target).unwrap() == made.marks[mark].image);
        std::fs::remove_file(&target).unwrap();
    }
    // What can be seen without sums is refused all the same. (A bit in a page too: its log has sums of its own, and ends before it.)
    let object = |mark: usize| made.folder.join(&made.marks[mark].manifest.object.as_ref().unwrap().key);
    let refused = |what: &str, file: &Path, bytes: &[u8]| {
        let whole = std::fs::read(file).unwrap();
        std::fs::write(file, bytes).unwrap();
        for wanted in ["4", "2"] {
            restore(&DASH, &made, &target, &[wanted]).expect_err(what);
        }
        std::fs::write(file, whole).unwrap();
    };
    let stored = std::fs::read(object(1)).unwrap();
    refused("another position's", &object(1), &std::fs::read(object(2)).unwrap());
    refused("cut off", &object(1), &stored[..stored.len() / 2]);
    refused("empty", &object(1), &[]);
    let plain = &made.marks[1].plain;
    let frame = 24 + 1024;
    let packed = |plain: &[u8]| feed(Command::new("gzip").arg("-c"), plain);
    refused("without its last frame", &object(1), &packed(&plain[..plain.len() - frame]));
    refused("with half a frame", &object(1), &packed(&plain[..plain.len() - frame / 2]));
    refused("nothing but a header", &object(1), &packed(&plain[..32]));
    let mut bit = plain.clone();
    bit[200] ^= 1;
    refused("a bit in a page", &object(1), &packed(&bit));
    std::fs::remove_file(object(2)).unwrap();
    let said = restore(&DASH, &made, &target, &["4"]).unwrap_err();
    assert!(said.contains("no segment that leads on from position 2"), "{said}");
}

/// What a full, a fold and a live segment are made of: each file damaged, in another one's place, or away.
#[test]
fn every_damaged_file_of_a_tail_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = with_a_tail(folder.path(), Form::default());
    let fine = made.fold(Kind::Fine, 0, 3, None);
    made.sweep(1..=3);
    let merged = made.fold(Kind::Merged, 7, 9, None);
    made.sweep(8..=9);
    let target = folder.path().join("restored.db");
    let file = |key: &str| made.folder.join(key);
    let object = |manifest: &Manifest| file(&manifest.object.as_ref().unwrap().key);
    let last = &made.marks[10].manifest;
    let middle = &made.marks[5].manifest;
    let gap = &made.marks[7].manifest;
    let fold = |manifest: &Manifest| file(layout::fold_key(manifest.place(), manifest.kind).as_str());
    // Each with a position on whose way it lies; the note of the last one only where its note is asked.
    let all = [
        (object(&fine), "3"),
        (fold(&fine), "3"),
        (file(&fine.index.as_ref().unwrap().key), "3"),
        (object(&merged), "11"),
        (fold(&merged), "11"),
        (object(last), "11"),
        (made.note(last), "11"),
        (object(middle), "6"),
        (made.note(middle), "11"),
        (object(gap), "8"),
        (file(layout::manifest_key(gap.place()).as_str()), "11"),
    ];
    let fails = |what: String, wanted: &str| {
        if let Ok(said) = restore(&DASH, &made, &target, &[wanted]) {
            panic!("{what}: {said}");
        }
    };
    for (at, (path, wanted)) in all.iter().enumerate() {
        let whole = std::fs::read(path).unwrap();
        let other = std::fs::read(&all[(at + 2) % all.len()].0).unwrap();
        let flipped = |byte: usize| {
            let mut bytes = whole.clone();
            bytes[byte] ^= 4;
            bytes
        };
        let changes = [
            ("a bit in its middle", flipped(whole.len() / 2)),
            ("a bit at its beginning", flipped(2)),
            ("cut off", whole[..whole.len() / 2].to_vec()),
            ("empty", Vec::new()),
            ("another one's", other),
        ];
        // Of what a note or a manifest tells, some is for people.
        let for_people = |what: &str| what.contains("a bit in") && !path.to_str().unwrap().contains("gz");
        for (what, bytes) in changes {
            std::fs::write(path, bytes).unwrap();
            if !for_people(what) {
                fails(format!("{} {what}", path.display()), wanted);
            }
        }
        std::fs::remove_file(path).unwrap();
        if !path.to_str().unwrap().ends_with(".note") {
            fails(format!("{} away", path.display()), wanted);
        }
        std::fs::write(path, whole).unwrap();
        let said = restore(&DASH, &made, &target, &[wanted]).unwrap();
        assert!(!said.contains("no note"), "{said}");
        std::fs::remove_file(&target).unwrap();
    }
}

/// Without `SHA256SUMS`: what follows from notes and manifests alone.
#[test]
fn members_of_notes_and_folds_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = with_a_tail(folder.path(), Form::default());
    let first = made.fold(Kind::Fine, 0, 2, None);
    let fine = made.fold(Kind::Fine, 2, 6, Some(&first));
    made.sweep(1..=6);
    let target = folder.path().join("restored.db");
    let fine_file = made.folder.join(layout::fold_key(fine.place(), Kind::Fine).as_str());
    let first_file = made.folder.join(layout::fold_key(first.place(), Kind::Fine).as_str());
    std::fs::remove_file(made.folder.join("t000001/0000000005.json")).unwrap();
    let note = made.note(&made.marks[9].manifest);
    let other = "\"0123456789abcdef0123456789abcdef\"";
    let long = "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"";
    for (file, wanted, member, value) in [
        (&fine_file, "6", "digest_before", other),
        (&fine_file, "6", "digest_before", "null"),
        (&fine_file, "6", "previous", long),
        (&fine_file, "6", "from", "2"),
        (&fine_file, "6", "from", "1"),
        (&fine_file, "6", "to", "9"),
        (&fine_file, "6", "kind", "\"merged\""),
        (&fine_file, "6", "page_size", "2048"),
        (&fine_file, "6", "timeline", "2"),
        (&fine_file, "7", "pages", "999"),
        (&fine_file, "7", "sent_pages", "9"),
        (&first_file, "7", "engine_version", "\"3.7.0\""),
        (&first_file, "7", "digest_after", other),
        (&note, "11", "digest_before", other),
        (&note, "11", "digest_after", other),
        (&note, "11", "previous", long),
        (&note, "11", "observed", "\"2026-11-23T02:15:00.000Z\""),
        (&note, "10", "from", "8"),
        (&note, "10", "to", "9"),
        (&note, "10", "kind", "\"full\""),
        (&note, "10", "format", "2"),
        (&note, "10", "engine", "\"postgres\""),
        (&note, "10", "timeline", "2"),
        (&note, "10", "pages", "1"),
        (&note, "10", "sent_pages", "1"),
        (&note, "10", "key", "\"t000001/0000000009.wal.gz\""),
    ] {
        let whole = std::fs::read_to_string(file).unwrap();
        let blank = if file.extension().unwrap() == "note" { "" } else { " " };
        let name = format!("\"{member}\":{blank}");
        let from = whole.rfind(&name).unwrap() + name.len();
        let to = from + whole[from..].find([',', '\n', '}']).unwrap();
        assert_ne!(&whole[from..to], value);
        std::fs::write(file, format!("{}{value}{}", &whole[..from], &whole[to..])).unwrap();
        if let Ok(said) = restore(&DASH, &made, &target, &[wanted]) {
            panic!("{} with {member} {value}: {said}", file.display());
        }
        std::fs::write(file, whole).unwrap();
    }
    restore(&DASH, &made, &target, &["11"]).unwrap();
}
