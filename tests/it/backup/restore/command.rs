//! The command, on a machine that has nothing but the destination.

use std::path::Path;
use std::process::{Command, Output};

use atlas_sidecar::backup::Kind;
use atlas_sidecar::backup::layout::manifest_key;
use atlas_sidecar::backup::manifest::Sum;

use super::{LIFE, claim, left_in, small};
use crate::backup::rebuild::made::{Destination, images};
use crate::support::SIDECAR;

/// Runs the program in `folder`, which has `backups` and no configuration.
fn sidecar(folder: &Path, args: &[&str]) -> Output {
    Command::new(SIDECAR).args(args).current_dir(folder).env_clear().output().unwrap()
}

fn restore(folder: &Path, args: &[&str]) -> Output {
    sidecar(folder, &[&["restore", "--destination", "file:backups"], args].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(out: &Output) -> serde_json::Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", text(&out.stdout), text(&out.stderr)))
}

/// H33: it ends with the mark that was reached.
#[test]
fn h33_every_mark_comes_back_to_the_byte_with_only_the_destination() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    assert_eq!(made.marks.len(), LIFE.len());
    assert!(made.marks.last().unwrap().manifest.object.is_none(), "an increment without a change");
    for mark in &made.marks {
        let at = mark.manifest.observed.to_rfc3339();
        let out = restore(folder.path(), &["--at", &at, "--to", "new.db"]);
        let said = text(&out.stdout);
        assert_eq!(out.status.code(), Some(0), "{said}{}", text(&out.stderr));
        assert!(std::fs::read(folder.path().join("new.db")).unwrap() == mark.image, "{at}");
        let ends = format!("restored `new.db`: {} of {}", mark.manifest.place(), at.replace(".000Z", "Z"));
        assert!(said.lines().last().unwrap().starts_with(&ends), "{said}");
        assert!(said.contains(&mark.manifest.digest_after.to_string()), "{said}");
        assert_eq!(left_in(folder.path()), ["new.db"], "and nothing else is made");
        std::fs::remove_file(folder.path().join("new.db")).unwrap();
    }
    let out = restore(folder.path(), &["--json", "--at", "latest", "--to", "new.db"]);
    let (said, last) = (json(&out), made.marks.last().unwrap());
    assert_eq!(said["restored"]["digest"], last.manifest.digest_after.to_string());
    assert_eq!(said["restored"]["position"], last.manifest.to.0);
    assert_eq!(said["plan"]["segments"].as_array().unwrap().len(), 3);
    assert_eq!(said["restored"]["fetched_bytes"], said["plan"]["fetched_bytes"]);
}

#[test]
fn a_plan_is_printed_and_nothing_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let mark = &made.marks[4].manifest;
    let at = mark.observed.after(std::time::Duration::from_secs(10)).to_rfc3339();
    let out = restore(folder.path(), &["--at", &at, "--plan"]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{said}{}", text(&out.stderr));
    assert!(said.starts_with("SEGMENT             KIND         OBSERVED "), "{said}");
    assert!(said.contains("\nt000001/0000000004  full         2025-11-23T02:04:01Z      "), "{said}");
    assert!(said.contains(&mark.object.as_ref().unwrap().key), "{said}");
    assert!(said.contains("`atlas.db` (sqlite) as it was at 2025-11-23T02:05:01.250Z, 10 s before"), "{said}");
    let out = restore(folder.path(), &["--at", "latest", "--plan", "--json"]);
    assert_eq!(json(&out)["plan"]["mark"]["position"], 6);
    assert_eq!(json(&out)["plan"]["newest"], true);
    assert_eq!(left_in(folder.path()), [""; 0]);
}

/// H39.
#[test]
fn h39_what_is_at_the_target_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    small(folder.path());
    for name in ["new.db", "new.db-wal", "new.db-shm", "new.db-journal"] {
        std::fs::write(folder.path().join(name), "mine").unwrap();
        let out = restore(folder.path(), &["--at", "latest", "--to", "new.db"]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("error: `{name}` exists: ")), "{said}");
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"mine");
        assert_eq!(left_in(folder.path()), [name]);
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let out = restore(folder.path(), &["--at", "latest", "--to", "nowhere/new.db"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("cannot restore to `nowhere/new.db`"), "{}", text(&out.stderr));
}

/// H34: what is before the window, behind it, and where there is nothing.
#[test]
fn h34_an_instant_without_a_mark_is_told_where_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let out = restore(folder.path(), &["--at", "2020-01-01T00:00:00Z", "--to", "new.db"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    let (first, last) = (made.marks[0].manifest.observed, made.marks[5].manifest.observed);
    assert!(said.contains(&format!("lies from {first} until {last}")), "{said}");
    assert!(said.contains(&format!("hint: the nearest mark: `--at {first}`")), "{said}");
    let out = restore(folder.path(), &["--at", "2035-01-01T00:00:00Z", "--plan"]);
    assert!(
        text(&out.stdout).contains("d 21 h before 2035-01-01T00:00:00Z: t000001/0000000006, the newest mark"),
        "{}",
        text(&out.stdout)
    );

    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for destination in ["file:empty", "file:nowhere"] {
        let out =
            sidecar(folder.path(), &["restore", "--destination", destination, "--at", "latest", "--to", "new.db"]);
        assert_ne!(out.status.code(), Some(0));
        assert!(text(&out.stderr).starts_with("error: there is no backup at file:"), "{}", text(&out.stderr));
    }
    let out = restore(folder.path(), &["--at", "latest", "--to", "new.db", "--timeline", "7"]);
    assert!(
        text(&out.stderr).contains("there is no mark on t000007; there are some on t000001"),
        "{}",
        text(&out.stderr)
    );
    // What the configuration says, where nothing else is said: there is nothing yet.
    let out = sidecar(folder.path(), &["restore", "--at", "latest", "--to", "new.db"]);
    assert_eq!(text(&out.stderr), "error: there is no backup at file:data/backups\n");
    std::fs::write(folder.path().join("none.toml"), "[backup]\ndestination = \"\"\n").unwrap();
    for (args, flag) in [
        (&["restore", "--at", "latest", "--to", "new.db"][..], true),
        (&["backup", "list"], true),
        (&["backup", "full"], false),
        (&["backup", "prune"], false),
        (&["jobs", "run", "backup-verify"], false),
    ] {
        let out = sidecar(folder.path(), &[&["--config", "none.toml"], args].concat());
        assert_eq!(out.status.code(), Some(64), "{args:?}: {}", text(&out.stderr));
        assert_eq!(text(&out.stderr).contains("`--destination file:PATH`"), flag, "{args:?}: {}", text(&out.stderr));
    }
    std::fs::remove_file(folder.path().join("none.toml")).unwrap();
    assert_eq!(left_in(folder.path()), ["empty"]);
}

/// H32, H33: a hole is refused, and what the hint says works.
#[test]
fn h32_h33_a_hole_is_refused_and_the_hint_works() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    std::fs::remove_file(&made.files(&made.marks[2])[1]).unwrap();
    let between = made.marks[2].manifest.observed.to_rfc3339();
    let out = restore(folder.path(), &["--at", &between, "--to", "new.db"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("what lies between t000001/0000000002 of ") && said.contains("and t000001/0000000004 of "),
        "{said}"
    );
    let hint = said.split("`--at ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let out = restore(folder.path(), &["--at", &hint, "--to", "new.db"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(std::fs::read(folder.path().join("new.db")).unwrap() == made.marks[1].image);
}

/// What was written on a branch that was left is had by its number only.
#[test]
fn a_branch_is_chosen_by_its_timeline() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = small(folder.path());
    let parent = made.marks[1].manifest.base();
    made.claim();
    claim(&made, 2, Some(parent));
    let image = images(folder.path(), 1024, 0, &["CREATE TABLE other(a)"]).remove(0);
    made.full(image);
    // The destination of the tests goes on from its newest mark whatever was claimed.
    let mut first = made.marks[6].manifest.clone();
    first.previous = Some(Sum::of(&made.marks[1].manifest.to_bytes()));
    made.put(manifest_key(first.place()).as_str(), &first.to_bytes());
    let at = made.marks[5].manifest.observed.to_rfc3339();
    for (timeline, mark) in [(None, 1), (Some("1"), 5), (Some("t000002"), 1)] {
        let timeline: Vec<&str> = timeline.into_iter().flat_map(|number| ["--timeline", number]).collect();
        let out = restore(folder.path(), &[&["--at", &at, "--to", "new.db"], timeline.as_slice()].concat());
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        assert!(std::fs::read(folder.path().join("new.db")).unwrap() == made.marks[mark].image, "{timeline:?}");
        std::fs::remove_file(folder.path().join("new.db")).unwrap();
    }
}

#[test]
fn the_list_shows_what_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let made: Destination = small(folder.path());
    std::fs::remove_file(&made.files(&made.marks[1])[0]).unwrap();
    made.put("t000001/0000000009-stray.db.gz", b"left");
    let out = sidecar(folder.path(), &["backup", "list", "--destination", "file:backups"]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("MARK                KIND         FROM        OBSERVED "), "{said}");
    let key = &made.marks[1].manifest.object.as_ref().unwrap().key;
    assert!(
        lines[1].starts_with("t000001/0000000001  full         -  ") && lines[1].ends_with("  restorable"),
        "{said}"
    );
    assert!(lines[2].contains("  0000000001  ") && lines[2].contains("  1 min  "), "{said}");
    assert!(lines[2].ends_with(&format!("  broken: `{key}` is missing")), "{said}");
    assert!(lines[3].ends_with(&format!("  uploaded: `{key}` is missing")), "{said}");
    assert!(lines[6].ends_with("  restorable"), "{said}");
    let (first, last) = ("2025-11-23T02:01:00.250Z", "2025-11-23T02:06:01.500Z");
    assert!(
        said.contains(&format!(", can be restored from {first} until {last}; claimed by `old-host` at ")),
        "{said}"
    );
    assert!(said.contains("objects that no manifest names: 1, 4 B\n"), "{said}");
    assert!(lines.last().unwrap().contains("backups: 6 marks, "), "{said}");

    let out = sidecar(folder.path(), &["backup", "list", "--destination", "file:backups", "--json"]);
    let said = json(&out);
    assert_eq!(said["segments"][1]["state"], "broken");
    assert_eq!(said["segments"][3]["manifest"]["kind"], serde_json::to_value(Kind::Full).unwrap());
    assert_eq!(said["timelines"][0]["restorable_until"], last);
}

#[test]
fn verify_ends_with_1_where_something_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let verify = || sidecar(folder.path(), &["backup", "verify", "--deep", "--destination", "file:backups"]);
    let out = verify();
    assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).starts_with("6 marks on 1 timelines, 5 objects of "), "{}", text(&out.stdout));
    assert!(text(&out.stdout).ends_with(": as it should be\n"), "{}", text(&out.stdout));
    let object = &made.files(&made.marks[1])[0];
    let mut bytes = std::fs::read(object).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(object, bytes).unwrap();
    let out = verify();
    assert_eq!(out.status.code(), Some(1));
    let key = &made.marks[1].manifest.object.as_ref().unwrap().key;
    assert!(text(&out.stdout).starts_with(&format!("problem: `{key}`: ")), "{}", text(&out.stdout));
    assert!(text(&out.stdout).ends_with(": 1 problem\n"), "{}", text(&out.stdout));
}
