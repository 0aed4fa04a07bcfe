//! The commands in the documents do what the documents say.

use std::path::Path;
use std::process::Command;

use atlas_sidecar::backup::catalog::Heartbeat;
use atlas_sidecar::backup::{Kind, by_hand, layout};
use flate2::read::MultiGzDecoder;

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

/// A full, two increments, and three live segments, the first two of which are in a fine one, too.
fn six_marks(folder: &Path) -> Destination {
    let mut images = images(folder, 4096, 0, &LIFE[..6]);
    let live = images.split_off(3);
    let mut made = destination(folder, images);
    live.into_iter().for_each(|image| made.live(image));
    made.fold(Kind::Fine, 2, 4, None);
    let tip = &made.marks[5].manifest;
    let heartbeat = Heartbeat { format: layout::FORMAT, tip: tip.base(), until: tip.observed };
    let key = layout::heartbeat_key(tip.timeline, tip.observed);
    made.put(key.as_str(), &serde_json::to_vec(&heartbeat).unwrap());
    made.write_all_sums();
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
    let made = six_marks(folder.path());
    let said = run_all(folder.path(), by_hand::GUIDE);
    assert!(said.contains(&(taken(&made, 1) + &taken(&made, 2))) && said.ends_with("ok\n"), "{said}");
    assert!(said.contains("{\"position\":4,") && said.contains("\"to\":6,\"observed\":"), "{said}");
    for (file, mark) in [("atlas.db", 5), ("earlier.db", 0), ("by-hand.db", 2)] {
        assert!(std::fs::read(folder.path().join(file)).unwrap() == made.marks[mark].image, "{file}");
    }
}

#[test]
fn the_format_is_as_described() {
    let folder = tempfile::tempdir().unwrap();
    let made = six_marks(folder.path());
    let said = run_all(folder.path(), FORMAT);
    assert!(said.contains(&(taken(&made, 1) + &taken(&made, 2) + "ok\n")), "{said}");
    assert!(said.contains("0000000 37 7f 06 82 00 2d e2 18 00 00 10 00 00 00 00 02\n"), "{said}");
    // Of the whole fine segment all of its frames are taken, though the first of them are there already.
    let fine = [3, 4].map(|mark: usize| made.marks[mark].manifest.sent_pages).iter().sum::<u32>();
    let whole = format!("{}\n0|{fine}|{fine}\n", made.marks[4].manifest.pages);
    assert!(said.contains(&(taken(&made, 3) + &whole + &taken(&made, 5))), "{said}");
    for (file, mark) in [("atlas.db", 5), ("first.db", 0), ("fourth.db", 3), ("newest.db", 5)] {
        assert!(std::fs::read(folder.path().join(file)).unwrap() == made.marks[mark].image, "{file}");
    }
}

/// Each member that manifests and indexes have is described, and nothing else.
#[test]
fn every_member_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let made = six_marks(folder.path());
    let mut fine = made.fold(Kind::Fine, 2, 5, None);
    fine.gap_from = Some(fine.observed);
    let manifest: serde_json::Value = serde_json::from_slice(&fine.to_bytes()).unwrap();
    let index = std::fs::File::open(made.folder.join(&fine.index.unwrap().key)).unwrap();
    let lines = std::io::read_to_string(MultiGzDecoder::new(index)).unwrap();
    assert_eq!(lines.lines().count(), 3);
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
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
    assert_eq!(described("The index has a line"), names(&line));
}
