//! The commands in the documents do what the documents say.

use std::path::Path;
use std::process::Command;

use atlas_sidecar::backup::by_hand;

use super::LIFE;
use super::made::{Destination, destination, images};

const FORMAT: &str = include_str!("../../../../docs/BACKUP_FORMAT.md");

/// What stands between the fences of `sh`.
fn commands(document: &str) -> String {
    let mut inside = false;
    let mut commands = String::new();
    for line in document.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => commands += &format!("{line}\n"),
            _ => {}
        }
    }
    assert!(!inside && commands.lines().count() > 5);
    commands
}

/// Runs them, one after another, in `folder`; what they wrote.
fn run_all(folder: &Path, document: &str) -> String {
    let out = Command::new("sh").args(["-eu", "-c", &commands(document)]).current_dir(folder).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

fn three_marks(folder: &Path) -> Destination {
    let made = destination(folder, images(folder, 4096, 0, &LIFE[..3]));
    made.write_sums();
    made
}

/// What the shell prints when a log was taken.
fn taken(made: &Destination, mark: usize) -> String {
    let manifest = &made.marks[mark].manifest;
    format!("{}\n0|{}|{1}\n", manifest.pages, manifest.sent_pages)
}

#[test]
fn the_guide_restores() {
    let folder = tempfile::tempdir().unwrap();
    let made = three_marks(folder.path());
    let said = run_all(folder.path(), by_hand::GUIDE);
    assert!(said.contains(&(taken(&made, 1) + &taken(&made, 2) + "ok\n")), "{said}");
    for (file, mark) in [("atlas.db", 2), ("earlier.db", 0), ("by-hand.db", 2)] {
        assert!(std::fs::read(folder.path().join(file)).unwrap() == made.marks[mark].image, "{file}");
    }
}

#[test]
fn the_format_is_as_described() {
    let folder = tempfile::tempdir().unwrap();
    let made = three_marks(folder.path());
    let said = run_all(folder.path(), FORMAT);
    assert!(said.contains(&(taken(&made, 1) + &taken(&made, 2) + "ok\n")), "{said}");
    assert!(said.contains("0000000 37 7f 06 82 00 2d e2 18 00 00 10 00 00 00 00 02\n"), "{said}");
    for (file, mark) in [("atlas.db", 2), ("first.db", 0), ("newest.db", 2)] {
        assert!(std::fs::read(folder.path().join(file)).unwrap() == made.marks[mark].image, "{file}");
    }
}

/// Each member that a manifest has is described, and nothing else.
#[test]
fn every_member_of_a_manifest_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let made = three_marks(folder.path());
    let manifest: serde_json::Value = serde_json::from_slice(&made.marks[1].manifest.to_bytes()).unwrap();
    let names = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let described = |heading: &str| -> Vec<String> {
        let table = FORMAT.split_once(heading).unwrap().1.split_once("|---|---|\n").unwrap().1;
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let mut names: Vec<String> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(described("## Manifests"), names(&manifest));
    assert_eq!(described("Members of `object`"), names(&manifest["object"]));
}
