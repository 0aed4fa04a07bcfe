//! Databases from segments: our way and the way by hand give the same bytes, those of the database at each mark; and what is damaged is refused by both.

mod documents;
mod fetched;
pub mod made;
mod refused;
mod script;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use atlas_sidecar::backup::{Kind, Manifest, RebuildError};
use atlas_sidecar::engine;
use atlas_sidecar::engine::sqlite::wal::lock_page;
use flate2::read::MultiGzDecoder;

use crate::support::run;

use made::{Destination, destination, images};
use script::{DASH, restore};

/// What a database goes through: growth, changes, holes in it, shrinking, and nothing at all.
const LIFE: &[&str] = &[
    "CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB); CREATE TABLE u (x); CREATE INDEX i ON t (v)",
    "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 400) \
     INSERT INTO t SELECT k, randomblob(k % 900) FROM n",
    "UPDATE t SET v = randomblob(40) WHERE k % 7 = 0",
    "INSERT INTO u VALUES (randomblob(300000)), (zeroblob(70000))",
    "",
    "DELETE FROM t WHERE k % 2; PRAGMA incremental_vacuum(20)",
    "DROP TABLE u; PRAGMA incremental_vacuum",
    "VACUUM",
    "INSERT INTO t SELECT k + 1000, randomblob(2000) FROM t",
    "DELETE FROM t; VACUUM",
    "CREATE TABLE w (x UNIQUE); INSERT INTO w VALUES (randomblob(100000))",
];

/// The segments that lead to mark `to`, the full first.
fn chain(made: &Destination, to: usize) -> std::ops::RangeInclusive<usize> {
    let full = (0..=to).rev().find(|at| made.marks[*at].manifest.kind == Kind::Full).unwrap();
    full..=to
}

/// Rebuilds as a restore does; `plain` gives what it is to take for the segments.
fn rebuild<'a>(segments: impl IntoIterator<Item = (&'a Manifest, Vec<u8>)>, into: &Path) -> Result<(), RebuildError> {
    let mut building = engine::rebuild("sqlite").unwrap().begin(into)?;
    for (manifest, plain) in segments {
        match manifest.kind {
            Kind::Full => building.full(manifest, &mut plain.as_slice())?,
            _ => building.changes(manifest, &mut plain.as_slice())?,
        }
    }
    building.finish()
}

/// The segments up to mark `to`, unpacked from their objects.
fn unpacked(made: &Destination, to: usize) -> Vec<(&Manifest, Vec<u8>)> {
    chain(made, to)
        .map(|at| {
            let manifest = &made.marks[at].manifest;
            let mut plain = Vec::new();
            if let Some(object) = &manifest.object {
                let file = std::fs::File::open(made.folder.join(&object.key)).unwrap();
                MultiGzDecoder::new(file).read_to_end(&mut plain).unwrap();
            }
            (manifest, plain)
        })
        .collect()
}

/// Our way to every mark; the script's to those that `by_hand` says, as it starts dozens of processes for each segment.
fn both_ways(folder: &Path, made: &Destination, by_hand: impl Fn(usize) -> bool) {
    for (to, mark) in made.marks.iter().enumerate() {
        let (ours, theirs) = (folder.join(format!("ours-{to}.db")), folder.join(format!("theirs-{to}.db")));
        rebuild(unpacked(made, to), &ours).unwrap();
        assert!(std::fs::read(&ours).unwrap() == mark.image, "our way to mark {to}");
        if !by_hand(to) {
            continue;
        }
        let said = restore(&DASH, made, &theirs, &[&mark.manifest.to.0.to_string()]).unwrap();
        let reached = format!("position {}, seen at {}\n", mark.manifest.place(), mark.manifest.observed.to_rfc3339());
        assert!(said.ends_with(&reached), "{said}");
        assert!(std::fs::read(&theirs).unwrap() == mark.image, "the script's way to mark {to}");
    }
}

fn whole_life(page_size: u32) {
    for auto_vacuum in 0..=2 {
        let folder = tempfile::tempdir().unwrap();
        let made = destination(folder.path(), images(folder.path(), page_size, auto_vacuum, LIFE));
        let manifests: Vec<&Manifest> = made.marks.iter().map(|mark| &mark.manifest).collect();
        assert!(manifests[4].object.is_none(), "a step without a change");
        assert!(manifests.windows(2).any(|pair| pair[0].pages > pair[1].pages), "nothing became smaller");
        // Every mark where most has to move, at the size that most databases have; else the end, which every one before it leads to.
        let last = made.marks.len() - 1;
        both_ways(folder.path(), &made, |to| to == last || (page_size == 4096 && auto_vacuum == 2));
    }
}

#[test]
fn both_ways_give_the_bytes_of_each_mark_pages_of_512() {
    whole_life(512);
}

#[test]
fn both_ways_give_the_bytes_of_each_mark_pages_of_1024() {
    whole_life(1024);
}

#[test]
fn both_ways_give_the_bytes_of_each_mark_pages_of_4096() {
    whole_life(4096);
}

#[test]
fn both_ways_give_the_bytes_of_each_mark_pages_of_65536() {
    whole_life(65_536);
}

/// H26: over the page at 1 GiB, which is never written, and back. The first GiB is a hole that belongs to nobody, so that only `integrity_check` minds.
#[test]
#[ignore = "some GiB of memory and disk: .ci/long runs it"]
fn both_ways_lead_over_a_gibibyte() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live.db");
    let shell = |sql: &str| run("sqlite3", &["-batch", "-init", "/dev/null", live.to_str().unwrap(), sql]);
    shell("PRAGMA page_size = 65536; CREATE TABLE t (x)");
    let pages = lock_page(65_536) - 5;
    let file = std::fs::OpenOptions::new().write(true).open(&live).unwrap();
    file.set_len(u64::from(pages) * 65_536).unwrap();
    file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
    drop(file);
    shell("PRAGMA journal_mode = wal");
    let mut made = Destination::new(folder.path().join("backups"));
    made.full(std::fs::read(&live).unwrap());
    for step in ["INSERT INTO t VALUES (randomblob(650000))", "INSERT INTO t VALUES (randomblob(9)); VACUUM"] {
        shell(step);
        made.increment(std::fs::read(&live).unwrap());
    }
    let sizes: Vec<u32> = made.marks.iter().map(|mark| mark.manifest.pages).collect();
    assert!(sizes[1] > lock_page(65_536) && sizes[2] < 20, "{sizes:?}");
    for (to, mark) in made.marks.iter().enumerate() {
        let (ours, theirs) = (folder.path().join("ours.db"), folder.path().join("theirs.db"));
        rebuild(unpacked(&made, to), &ours).unwrap();
        assert!(std::fs::read(&ours).unwrap() == mark.image, "our way to mark {to}");
        script::restore_with(&DASH, &made, &theirs, &[&(to + 1).to_string()], &[("SKIP_CHECK", "1")]).unwrap();
        assert!(std::fs::read(&theirs).unwrap() == mark.image, "the script's way to mark {to}");
        std::fs::remove_file(ours).unwrap();
        std::fs::remove_file(theirs).unwrap();
    }
}
