//! What only a folder does, and what happens to folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::object::dir::Dir;
use atlas_sidecar::object::{ObjectError, ObjectStore, PART_BYTES, Part, list_all};
use bytes::Bytes;

use super::contract::read;
use super::{key, noise, store_in_parts};

fn open(folder: &Path) -> Dir {
    Dir::open(folder.to_owned(), Clock::system())
}

async fn put(store: &Dir, name: &str) -> Result<(), ObjectError> {
    store.put(&key(name), Bytes::from_static(b"bytes")).await
}

/// The temporary files in `folder`.
fn temporary(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".tmp-")).count()
}

#[tokio::test]
async fn only_the_owner_may_read() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("backups");
    let store = open(&folder);
    put(&store, "a/b/put").await.unwrap();
    store.create(&key("a/created"), Bytes::from_static(b"x")).await.unwrap();
    store_in_parts(&*store.upload(&key("a/large")).await.unwrap(), &noise(PART_BYTES + 1, 1)).await.unwrap();
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
    for name in ["", "a", "a/b"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    for name in ["a/b/put", "a/created", "a/large"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(temporary(&folder), 0);
}

#[tokio::test]
async fn a_folder_that_is_gone_is_an_error_and_is_not_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (scratch.path().join("backups"), scratch.path().join("elsewhere"));
    fs::create_dir(&folder).unwrap();
    // One that was there at the start, and one that was made by us.
    for store in [open(&folder), open(&scratch.path().join("made"))] {
        put(&store, "k").await.unwrap();
        let upload = store.upload(&key("large")).await.unwrap();
        upload.part(1, Bytes::from_static(b"x")).await.unwrap();
        let folder = Path::new(store.place().strip_prefix("file:").unwrap()).to_owned();
        fs::rename(&folder, &elsewhere).unwrap();
        let gone = |result: Result<(), ObjectError>| {
            let Err(ObjectError::Denied(words)) = result else { panic!("{result:?}") };
            assert!(words.contains("is gone") && words.contains("not mounted"), "{words}");
        };
        gone(put(&store, "k").await);
        gone(upload.finish(1).await);
        gone(store.create(&key("c"), Bytes::new()).await);
        gone(store.delete(&key("k")).await);
        gone(store.list("", None).await.map(drop));
        gone(store.get(&key("k"), Part::default()).await.map(drop));
        gone(store.upload(&key("u")).await.map(drop));
        assert!(!folder.exists());
        // What the mount point of a disk looks like that is not there.
        fs::create_dir(&folder).unwrap();
        let Err(ObjectError::Denied(words)) = put(&store, "k").await else { panic!("written beside the disk") };
        assert!(words.contains("empty") && words.contains("not mounted"), "{words}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        // The disk is there again.
        fs::remove_dir(&folder).unwrap();
        fs::rename(&elsewhere, &folder).unwrap();
        put(&store, "k").await.unwrap();
        upload.finish(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_was_mounted_again_may_have_other_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("backups");
    let store = open(&folder);
    put(&store, "k").await.unwrap();
    // Another folder with the same things in it.
    fs::rename(&folder, scratch.path().join("before")).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::copy(scratch.path().join("before/k"), folder.join("k")).unwrap();
    put(&store, "l").await.unwrap();
    assert_eq!(list_all(&store, "").await.unwrap().len(), 2);
}

#[tokio::test]
async fn looking_makes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("backups");
    let store = open(&folder);
    assert!(list_all(&store, "").await.unwrap().is_empty());
    assert!(matches!(store.get(&key("k"), Part::default()).await, Err(ObjectError::Missing(_))));
    store.delete(&key("k")).await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn what_a_crash_leaves_behind_is_removed_a_day_later() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    {
        // A crash: nothing of the upload is dropped.
        let upload = open(folder).upload(&key("large")).await.unwrap();
        upload.part(1, noise(PART_BYTES, 1)).await.unwrap();
        std::mem::forget(upload);
    }
    fs::write(folder.join(".other"), "not ours").unwrap();
    assert_eq!(temporary(folder), 1);
    let clock = Clock::by_hand(Clock::system().now().after(Duration::from_secs(23 * 3600)));
    put(&Dir::open(folder.to_owned(), clock.clone()), "k").await.unwrap();
    assert_eq!(temporary(folder), 1, "another sidecar may still be writing it");
    clock.set(clock.now().after(Duration::from_secs(2 * 3600)));
    // Looking does not remove anything.
    let store = Dir::open(folder.to_owned(), clock);
    assert_eq!(list_all(&store, "").await.unwrap().len(), 1);
    assert_eq!(temporary(folder), 1);
    put(&store, "k").await.unwrap();
    assert_eq!(temporary(folder), 0);
    assert!(folder.join(".other").exists());
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_no_file() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path());
    let upload = store.upload(&key("large")).await.unwrap();
    upload.part(1, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(temporary(scratch.path()), 1);
    drop(upload);
    assert_eq!(temporary(scratch.path()), 0);
}

#[tokio::test]
async fn parts_that_do_not_fit_make_no_object() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path());
    let upload = store.upload(&key("large")).await.unwrap();
    upload.part(1, Bytes::from_static(b"short")).await.unwrap();
    upload.part(2, Bytes::from_static(b"last")).await.unwrap();
    assert!(matches!(upload.finish(2).await, Err(ObjectError::Corrupt(words)) if words.contains("only 5 bytes")));
    // What lies behind the last part that counts is cut off.
    upload.finish(1).await.unwrap();
    assert_eq!(fs::read(scratch.path().join("large")).unwrap(), b"short");
}

#[tokio::test]
async fn a_reader_keeps_what_it_began_with() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path());
    store.put(&key("k"), noise(3 << 20, 1)).await.unwrap();
    let download = store.get(&key("k"), Part::default()).await.unwrap();
    store.put(&key("k"), noise(3 << 20, 2)).await.unwrap();
    assert_eq!(read(download).await.unwrap(), noise(3 << 20, 1));
    let download = store.get(&key("k"), Part::default()).await.unwrap();
    fs::File::options().write(true).open(scratch.path().join("k")).unwrap().set_len(1 << 20).unwrap();
    assert!(matches!(read(download).await, Err(ObjectError::Corrupt(words)) if words.contains("shorter")));
}

#[tokio::test]
async fn what_stands_in_the_way_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path());
    put(&store, "a").await.unwrap();
    put(&store, "b/c").await.unwrap();
    // A file where a folder should be, and the other way round.
    for name in ["a/x", "b"] {
        let Err(ObjectError::Denied(words)) = put(&store, name).await else { panic!("{name}") };
        assert!(words.contains(&format!("`{name}`")) && words.contains("cannot store"), "{words}");
    }
    assert!(matches!(store.get(&key("b"), Part::default()).await, Err(ObjectError::Missing(_))));
    assert_eq!(temporary(scratch.path()), 0);
    let file = open(&scratch.path().join("a"));
    assert!(matches!(put(&file, "k").await, Err(ObjectError::Denied(words)) if words.contains("not a folder")));
}

/// A name that is taken by a link is taken, and what it leads to stays.
#[tokio::test]
async fn creation_follows_no_link() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("precious"), "mine").unwrap();
    let folder = scratch.path().join("backups");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink("../precious", folder.join("k")).unwrap();
    let store = open(&folder);
    assert!(matches!(store.create(&key("k"), Bytes::new()).await, Err(ObjectError::Exists(_))));
    put(&store, "k").await.unwrap();
    assert_eq!(fs::read_to_string(scratch.path().join("precious")).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_that_come_and_go_are_no_error() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path());
    let one = async |name: &str| {
        for _ in 0..100 {
            put(&store, name).await.unwrap();
            list_all(&store, "").await.unwrap();
            store.delete(&key(name)).await.unwrap();
        }
    };
    tokio::join!(one("a/b/x"), one("a/b/y"), one("a/z"));
    assert!(list_all(&store, "").await.unwrap().is_empty());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_note_is_a_file_beside_its_object() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, copy) = (scratch.path().join("backups"), scratch.path().join("copy"));
    let store = open(&folder);
    let name = key("t000001/0000000002.wal.gz");
    let beside = folder.join("t000001/.0000000002.wal.gz.note");
    let create = async |bytes: &'static str, note: &str| {
        store.create_noted(&name, Bytes::from_static(bytes.as_bytes()), note).await
    };
    // A crash between the two left it.
    fs::create_dir_all(beside.parent().unwrap()).unwrap();
    fs::write(&beside, "of nothing").unwrap();
    assert!(matches!(store.get(&name, Part::default()).await, Err(ObjectError::Missing(_))));
    create("bytes", "note").await.unwrap();
    assert_eq!(fs::read_to_string(&beside).unwrap(), "note");
    assert_eq!(fs::metadata(&beside).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(matches!(create("others", "other").await, Err(ObjectError::Exists(_))));
    crate::support::run("cp", &["-a", folder.to_str().unwrap(), copy.to_str().unwrap()]);
    for store in [&store, &open(&copy)] {
        let download = store.get(&name, Part { from: 0, to: Some(1), version: None }).await.unwrap();
        assert_eq!(download.note.as_deref(), Some("note"));
        assert_eq!(list_all(store, "").await.unwrap().len(), 1);
    }
    store.delete(&name).await.unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "the note went with it, and the folder");
    // What has no room for an object has none for its note.
    std::os::unix::fs::symlink("nowhere", folder.join("linked")).unwrap();
    let linked = store.create_noted(&key("linked"), Bytes::new(), "note").await;
    assert!(matches!(linked, Err(ObjectError::Exists(_))), "{linked:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_deletes_meanwhile_takes_both_or_neither() {
    let scratch = tempfile::tempdir().unwrap();
    let (writer, deleter) = (open(scratch.path()), open(scratch.path()));
    let name = key("t000001/0000000002.wal.gz");
    let write = async {
        for _ in 0..60 {
            match writer.create_noted(&name, Bytes::from_static(b"x"), "note").await {
                Ok(()) | Err(ObjectError::Exists(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    let delete = async {
        for _ in 0..60 {
            deleter.delete(&name).await.unwrap();
        }
    };
    let look = async {
        for _ in 0..300 {
            match deleter.get(&name, Part::default()).await {
                Ok(download) => assert_eq!(download.note.as_deref(), Some("note")),
                Err(ObjectError::Missing(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    tokio::join!(write, delete, look);
}
