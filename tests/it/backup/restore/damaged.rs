//! Destinations that somebody or something changed: nothing of them is ever restored as if it were whole.

use std::path::PathBuf;

use atlas_sidecar::backup::codec::Identity;
use atlas_sidecar::backup::layout::manifest_key;
use atlas_sidecar::backup::manifest::Manifest;
use atlas_sidecar::backup::plan::Moment;
use atlas_sidecar::backup::restore::{OrderError, RestoreError};

use super::{claim, left_in, restore, small, store};
use crate::backup::rebuild::made::{Destination, Form, images};

/// A change to a destination, and what an error about it must name.
type Change = fn(&Destination) -> String;

fn object(made: &Destination, mark: usize) -> (PathBuf, String) {
    let key = made.marks[mark].manifest.object.as_ref().unwrap().key.clone();
    (made.folder.join(&key), key)
}

fn edit(made: &Destination, mark: usize, change: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = made.marks[mark].manifest.clone();
    let key = manifest_key(manifest.place());
    change(&mut manifest);
    made.put(key.as_str(), &manifest.to_bytes());
    format!("{}", made.marks[mark].manifest.place())
}

/// What is done to the segments of the first chain: marks 0 (full), 1 and 2. Each must be noticed by whoever wants mark 2.
pub const CHANGES: [(&str, Change); 12] = [
    ("a bit of a full is turned", |made| turned(made, 0)),
    ("a bit of an increment is turned", |made| turned(made, 1)),
    ("an object is cut off", |made| {
        let (path, key) = object(made, 1);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        key
    }),
    ("something trails", |made| {
        let (path, key) = object(made, 1);
        std::fs::write(&path, [std::fs::read(&path).unwrap(), vec![0]].concat()).unwrap();
        key
    }),
    ("an object is empty", |made| {
        let (path, key) = object(made, 0);
        std::fs::write(path, "").unwrap();
        key
    }),
    ("an object is missing", |made| {
        let (path, key) = object(made, 1);
        std::fs::remove_file(path).unwrap();
        key
    }),
    ("two objects are swapped", |made| {
        let ((one, _), (other, key)) = (object(made, 1), object(made, 2));
        let (a, b) = (std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
        std::fs::write(one, b).unwrap();
        std::fs::write(other, a).unwrap();
        key
    }),
    ("a full is replaced by a later one, with its manifest's sums", |made| {
        let (path, _) = object(made, 0);
        std::fs::copy(object(made, 3).0, path).unwrap();
        let other = made.marks[3].manifest.object.clone().unwrap();
        edit(made, 0, |m| {
            let key = m.object.as_ref().unwrap().key.clone();
            m.object = Some(atlas_sidecar::backup::manifest::Object { key, ..other });
        })
    }),
    ("a manifest's digest is edited", |made| {
        let digest = made.marks[1].manifest.digest_after;
        edit(made, 0, |m| m.digest_after = digest)
    }),
    ("a manifest's time is edited", |made| {
        edit(made, 1, |m| m.observed = m.observed.before(std::time::Duration::from_secs(1)))
    }),
    ("a manifest is no JSON", |made| {
        made.put(manifest_key(made.marks[1].manifest.place()).as_str(), b"{");
        "t000001/0000000002".to_owned()
    }),
    ("a manifest is missing", |made| {
        std::fs::remove_file(&made.files(&made.marks[1])[1]).unwrap();
        "t000001/0000000002".to_owned()
    }),
];

fn turned(made: &Destination, mark: usize) -> String {
    let (path, key) = object(made, mark);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).unwrap();
    key
}

#[tokio::test]
async fn what_was_changed_is_refused_by_its_name_and_nothing_is_left() {
    for (what, change) in CHANGES {
        let folder = tempfile::tempdir().unwrap();
        let made = small(folder.path());
        let named = change(&made);
        let to = folder.path().join("new.db");
        let at = Moment::At(made.marks[2].manifest.observed);
        let error = restore(&store(&made), at, &to, None).await.expect_err(what).to_string();
        assert!(error.contains(&named), "{what}: `{named}` is not in: {error}");
        assert_eq!(left_in(folder.path()), [""; 0], "{what}");
        // The other chain is as good as before.
        restore(&store(&made), Moment::Latest, &to, None).await.expect(what);
        assert!(std::fs::read(&to).unwrap() == made.marks[5].image);
    }
}

/// The last manifest has no successor that knows its sum: what it says of the database is what shows the change.
#[tokio::test]
async fn the_newest_manifest_is_held_to_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    edit(&made, 4, |m| m.pages += 1);
    let to = folder.path().join("new.db");
    let at = Moment::At(made.marks[4].manifest.observed);
    let error = restore(&store(&made), at, &to, None).await.unwrap_err();
    let key = &object(&made, 4).1;
    assert!(matches!(&error, OrderError::Restore(RestoreError::Damaged { key: named, .. }) if named == key), "{error}");
    assert_eq!(left_in(folder.path()), [""; 0]);
}

#[tokio::test]
async fn encrypted_backups_need_an_identity_and_say_so_before_anything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity");
    assert!(
        std::process::Command::new("age-keygen")
            .arg("-o")
            .arg(&file)
            .output()
            .expect("tests/run installs age")
            .status
            .success()
    );
    let identity = Identity::from_file(&file).unwrap();
    let recipient = identity.recipients().next().unwrap().to_string();
    let mut made = Destination::new(folder.path().join("backups"));
    made.form = Form { zstd: true, recipient: Some(recipient) };
    let images = images(folder.path(), 4096, 0, &["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]);
    made.full(images[0].clone());
    made.increment(images[1].clone());
    claim(&made, 1, None);
    let to = folder.path().join("new.db");
    let error = restore(&store(&made), Moment::Latest, &to, None).await.unwrap_err();
    assert!(matches!(error, OrderError::Restore(RestoreError::Identity { .. })), "{error}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(left_in(folder.path()), [""; 0]);
    restore(&store(&made), Moment::Latest, &to, Some(&identity)).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == images[1]);
}
