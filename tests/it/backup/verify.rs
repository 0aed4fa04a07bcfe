//! Verifying: finds what a restore would trip over, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use atlas_sidecar::backup::Catalog;
use atlas_sidecar::backup::codec::Identity;
use atlas_sidecar::backup::layout::{claim_key, format_key};
use atlas_sidecar::backup::verify::{Depth, Report, verify};
use atlas_sidecar::clock::{Clock, Timestamp};

use super::rebuild::made::{Destination, Form, images};
use super::restore::damaged::CHANGES;
use super::restore::{claim, small, store};

async fn look(made: &Destination, depth: Depth, now: Timestamp, identity: Option<&Identity>) -> Report {
    let store = store(made);
    let catalog = Catalog::load(store.as_ref()).await.unwrap();
    verify(&store, &catalog, depth, now, identity, &|_| ()).await.unwrap()
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn found(report: &Report) -> String {
    report.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[tokio::test]
async fn what_is_as_it_should_be_is_proven() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let report = look(&made, Depth::Deep, now(), None).await;
    assert!(report.proven() && report.notes.is_empty(), "{report:?}");
    assert_eq!((report.segments, report.objects, report.checked_objects), (6, 5, 5));
    assert_eq!((report.stored_bytes, report.timelines), (report.checked_bytes, 1));
}

/// Every object's bytes within thirty days, and once only.
#[tokio::test]
async fn a_month_of_daily_looks_sees_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let mut bytes = 0;
    for day in 0..30 {
        let report = look(&made, Depth::Plain, Timestamp::from_millis(day * 86_400_000 + 5), None).await;
        assert!(report.proven(), "{report:?}");
        bytes += report.checked_bytes;
    }
    assert_eq!(bytes, look(&made, Depth::Deep, now(), None).await.stored_bytes);
}

#[tokio::test]
async fn every_change_is_a_problem_with_a_name() {
    for (what, change) in CHANGES {
        let folder = tempfile::tempdir().unwrap();
        let made = small(folder.path());
        let named = change(&made);
        let report = look(&made, Depth::Deep, now(), None).await;
        assert!(!report.proven(), "{what}");
        assert!(found(&report).contains(&named), "{what}: `{named}` is not in {}", found(&report));
    }
}

/// A plain look finds a turned bit on the day that is the object's.
#[tokio::test]
async fn a_turned_bit_is_found_on_its_day() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let (_, turn) = CHANGES[1];
    let named = turn(&made);
    let mut days = BTreeMap::new();
    for day in 0..30 {
        let report = look(&made, Depth::Plain, Timestamp::from_millis(day * 86_400_000), None).await;
        *days.entry(found(&report).contains(&named)).or_insert(0) += 1;
    }
    assert_eq!(days, BTreeMap::from([(false, 29), (true, 1)]));
}

#[tokio::test]
async fn what_no_manifest_names_is_told_when_it_is_a_day_old() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    made.put("t000001/0000000009-stray.db.gz", b"left");
    assert!(look(&made, Depth::Plain, now(), None).await.notes.is_empty(), "it may be on its way");
    let tomorrow = now().after(std::time::Duration::from_secs(2 * 86_400));
    let report = look(&made, Depth::Plain, tomorrow, None).await;
    assert!(report.proven(), "{report:?}");
    assert_eq!(report.notes[0].object, "t000001/0000000009-stray.db.gz");
}

#[tokio::test]
async fn claims_and_the_format_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    for key in [format_key(), claim_key(atlas_sidecar::backup::Timeline(1))] {
        std::fs::remove_file(made.folder.join(key.as_str())).unwrap();
        let report = look(&made, Depth::Plain, now(), None).await;
        assert!(found(&report).contains(&format!("`{key}`: is missing")), "{}", found(&report));
    }
}

/// A hole between two fulls is what retention leaves; one below an increment is not.
#[tokio::test]
async fn marks_that_were_removed_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let remove =
        |mark: usize| made.files(&made.marks[mark]).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    remove(2);
    let report = look(&made, Depth::Deep, now(), None).await;
    assert!(report.proven(), "{report:?}");
    assert_eq!(report.notes[0].object, "t000001/0000000004.json");
    remove(3);
    let report = look(&made, Depth::Deep, now(), None).await;
    assert_eq!(report.problems.len(), 2, "{report:?}");
}

async fn sealed(folder: &Path) -> (Destination, Identity) {
    let file = folder.join("identity");
    let made = std::process::Command::new("age-keygen").arg("-o").arg(&file).output().expect("tests/run installs age");
    assert!(made.status.success());
    let identity = Identity::from_file(&file).unwrap();
    let recipient = identity.recipients().next().unwrap().to_string();
    let mut made = Destination::new(folder.join("backups"));
    made.form = Form { zstd: false, recipient: Some(recipient) };
    made.full(images(folder, 4096, 0, &["CREATE TABLE t(a)"]).remove(0));
    claim(&made, 1, None);
    (made, identity)
}

/// Without an identity nothing that is encrypted is proven, but its stored bytes are compared all the same.
#[tokio::test]
async fn encrypted_bytes_without_an_identity_are_not_proven() {
    let folder = tempfile::tempdir().unwrap();
    let (made, identity) = sealed(folder.path()).await;
    let report = look(&made, Depth::Deep, now(), None).await;
    assert!(!report.proven() && report.problems.is_empty(), "{report:?}");
    assert!(report.unchecked[0].what.starts_with("not checked: no identity"), "{report:?}");
    assert!(look(&made, Depth::Plain, now(), None).await.proven());
    assert!(look(&made, Depth::Deep, now(), Some(&identity)).await.proven());
    let path = made.folder.join(&made.marks[0].manifest.object.as_ref().unwrap().key);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
    assert_eq!(look(&made, Depth::Deep, now(), None).await.problems.len(), 1);
}
