//! What is damaged, missing or out of its place is refused, and nothing is left at the target.

use std::path::{Path, PathBuf};

use atlas_sidecar::backup::{Manifest, Position, RebuildError, layout};

use super::made::{Destination, destination, images};
use super::script::{DASH, restore};
use super::{LIFE, rebuild, unpacked};

fn four_marks(folder: &Path) -> Destination {
    destination(folder, images(folder, 1024, 0, &LIFE[..4]))
}

/// Has the script restore while `change` is made to `file`.
fn with_change(made: &Destination, file: &PathBuf, what: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let whole = std::fs::read(file).unwrap();
    let mut changed = whole.clone();
    change(&mut changed);
    std::fs::write(file, changed).unwrap();
    let target = made.folder.parent().unwrap().join("restored.db");
    if let Ok(said) = restore(&DASH, made, &target, &[]) {
        panic!("{} {what}: {said}", file.display());
    }
    std::fs::write(file, whole).unwrap();
}

#[test]
fn the_script_refuses_every_damaged_object() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    made.write_sums();
    let all: Vec<PathBuf> = made.marks.iter().flat_map(|mark| made.files(mark)).collect();
    assert_eq!(all.len(), 8);
    for (at, file) in all.iter().enumerate() {
        with_change(&made, file, "with a bit flipped in its middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        });
        with_change(&made, file, "with a bit flipped at its end", |bytes| *bytes.last_mut().unwrap() ^= 1);
        with_change(&made, file, "cut off", |bytes| bytes.truncate(bytes.len() / 2));
        with_change(&made, file, "empty", Vec::clear);
        with_change(&made, file, "with a byte more", |bytes| bytes.push(0));
        let other = std::fs::read(&all[(at + 2) % all.len()]).unwrap();
        with_change(&made, file, "in another one's place", |bytes| *bytes = other);
        let away = folder.path().join("away");
        std::fs::rename(file, &away).unwrap();
        let target = folder.path().join("restored.db");
        let said = restore(&DASH, &made, &target, &["4"]).unwrap_err();
        assert!(said.contains("there is no"), "{said}");
        std::fs::rename(away, file).unwrap();
    }
    restore(&DASH, &made, &folder.path().join("restored.db"), &[]).unwrap();
}

/// Without `SHA256SUMS`: what follows from the manifests alone.
#[test]
fn the_script_refuses_manifests_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    let other = "0123456789abcdef0123456789abcdef";
    // Of the last one the script cannot check `digest_after` and what it does not use; of the others, nothing may be changed.
    for (mark, member, value) in [
        (3, "format", "2"),
        (3, "engine", "\"postgres\""),
        (3, "kind", "\"full\""),
        (3, "kind", "\"other\""),
        (3, "from", "1"),
        (3, "from", "4"),
        (3, "from", "null"),
        (3, "to", "3"),
        (3, "page_size", "512"),
        (3, "pages", "9"),
        (3, "sent_pages", "9"),
        (3, "digest_before", &format!("\"{other}\"")),
        (3, "digest_before", "null"),
        (3, "previous", &format!("\"{other}{other}\"")),
        (2, "digest_after", &format!("\"{other}\"")),
        (2, "observed", "\"2026-11-23T02:15:00.000Z\""),
        (1, "engine_version", "\"3.7.0\""),
        (0, "pages", "2"),
        (0, "soundness", "null"),
    ] {
        let file = made.files(&made.marks[mark]).pop().unwrap();
        with_change(&made, &file, &format!("with {member} {value}"), |bytes| {
            let mut text = String::from_utf8(bytes.clone()).unwrap();
            let from = text.find(&format!("\n  \"{member}\": ")).unwrap() + member.len() + 7;
            let to = from + text[from..].find(",\n").unwrap();
            assert_ne!(&text[from..to], value);
            text.replace_range(from..to, value);
            *bytes = text.into_bytes();
        });
    }
}

/// SQLite itself does not mind: what the guide says, and why the script is strict.
#[test]
fn sqlite_takes_a_damaged_log_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    let (database, log) = (folder.path().join("a.db"), folder.path().join("a.db-wal"));
    std::fs::write(&database, &made.marks[0].plain).unwrap();
    let mut damaged = made.marks[1].plain.clone();
    damaged[100] ^= 1;
    std::fs::write(&log, damaged).unwrap();
    let said = crate::support::run("sqlite3", &[database.to_str().unwrap(), "PRAGMA wal_checkpoint(FULL)"]);
    assert_eq!(said, "0|0|0\n");
    assert!(!log.exists() && std::fs::read(&database).unwrap() == made.marks[0].image);
}

/// What our way says to segments that `change` was done to; it must not take them.
fn refused(made: &Destination, change: impl FnOnce(&mut Vec<(Manifest, Vec<u8>)>)) -> String {
    let whole = unpacked(made, made.marks.len() - 1);
    let mut segments: Vec<(Manifest, Vec<u8>)> = whole.into_iter().map(|(m, plain)| (m.clone(), plain)).collect();
    change(&mut segments);
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("ours.db");
    match rebuild(segments.iter().map(|(manifest, plain)| (manifest, plain.clone())), &into) {
        Err(RebuildError::Damaged(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_way_refuses_every_damaged_segment() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    for at in 0..made.marks.len() {
        let place = made.marks[at].manifest.place().to_string();
        let length = made.marks[at].plain.len();
        for byte in (0..length).step_by(length / 40).chain([length - 1]) {
            let what = refused(&made, |segments| segments[at].1[byte] ^= 8);
            assert!(what.starts_with(&place), "{what}");
        }
        for cut in [0, 1, 31, 32, length / 2, length - 1] {
            let what = refused(&made, |segments| segments[at].1.truncate(cut));
            assert!(what.starts_with(&place), "{what}");
        }
        for more in [1, 1024, 1048] {
            let what = refused(&made, |segments| segments[at].1.extend(vec![0; more]));
            assert!(what.starts_with(&place), "{what}");
        }
    }
}

#[test]
fn our_way_refuses_segments_out_of_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    let says = |change: fn(&mut Vec<(Manifest, Vec<u8>)>), what: &str| {
        let said = refused(&made, change);
        assert!(said.contains(what), "{said}");
    };
    says(|s| s.swap(1, 2), "t000001/0000000003 does not go on from t000001/0000000001");
    says(|s| drop(s.remove(0)), "is an increment, and there is no database");
    says(|s| drop(s.remove(2)), "does not go on from t000001/0000000002");
    says(|s| s.insert(1, s[1].clone()), "does not go on from t000001/0000000002");
    says(|s| s.insert(1, s[0].clone()), "there are segments already");
    says(Vec::clear, "there is no database");
    // One's bytes with another one's manifest.
    says(
        |s| {
            let plain = s[1].1.clone();
            s[2].1 = plain;
        },
        "t000001/0000000003",
    );
    // A log that fits a state of the same size, and is of another one.
    says(|s| s[2].0.digest_before = Some(s[0].0.digest_after), "begins at the digest");
    says(|s| s[2].0.digest_after = s[0].0.digest_after, "leads to the digest");
    says(|s| s[1].0.timeline.0 = 2, "does not go on from");
    says(|s| s[1].0.from = Some(Position(7)), "does not go on from");
    says(|s| s[1].0.page_size = 2048, "has pages of 2048 bytes, not 1024");
    says(
        |s| (s[0].0.page_size, s[0].0.pages) = (2048, s[0].0.pages / 2),
        "is no SQLite database with pages of 2048 bytes",
    );
    says(|s| s[0].0.pages += 1, "has less than");
    says(|s| s[0].0.pages -= 1, "has more than");
    says(|s| s[1].0.pages -= 1, "another number of pages");
    says(|s| s[1].0.pages += 100_000, "grows by more pages than it holds");
    says(|s| s[1].0.sent_pages += 1, "its manifest says");
    says(|s| s[1].0.object = None, "no object, and bytes");
    says(|s| s[0].0.engine = "postgres".to_owned(), "is no full of a SQLite database");
}

/// After an error nothing can be laid over what is left, and it is not given out.
#[test]
fn an_error_is_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let made = four_marks(folder.path());
    let mut building = atlas_sidecar::engine::rebuild("sqlite").unwrap().begin(&folder.path().join("ours.db")).unwrap();
    let marks = &made.marks;
    building.full(&marks[0].manifest, &mut marks[0].plain.as_slice()).unwrap();
    building.changes(&marks[1].manifest, &mut &marks[1].plain[..5000]).unwrap_err();
    building.changes(&marks[1].manifest, &mut marks[1].plain.as_slice()).unwrap_err();
    building.full(&marks[0].manifest, &mut marks[0].plain.as_slice()).unwrap_err();
    building.finish().unwrap_err();
    // A file that is there is not ours.
    atlas_sidecar::engine::rebuild("sqlite").unwrap().begin(&folder.path().join("ours.db")).err().unwrap();
    assert!(atlas_sidecar::engine::rebuild("postgres").is_none());
    assert_eq!(layout::FORMAT, 1, "the script knows this format only");
}
