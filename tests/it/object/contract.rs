//! What every store does.

use std::sync::Arc;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::object::probe::{Verdict, honours_create, probe};
use atlas_sidecar::object::{
    Download, MOST_NOTE_BYTES, ObjectError, ObjectStore, PART_BYTES, Part, get_small, list_all,
};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{OnFolder, OnServer, Stand, key, noise, store_in_parts};

/// Makes each function a test on a folder and on the server in this process, and all of them one function for servers that take longer to start.
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => {
        mod on_folder {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name::<super::OnFolder>().await;
            })+
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name::<super::OnServer>().await;
            })+
        }
        /// All of it but the creation under a condition, which some servers do not have.
        pub async fn all<S: Stand>() {
            $(eprintln!(stringify!($name)); $name::<S>().await;)+
        }
    };
}

on_each!(
    what_is_stored_comes_back,
    parts_of_an_object_come_back,
    a_download_of_one_writing_is_of_no_other,
    large_objects_are_stored_in_parts,
    an_upload_that_is_not_finished_leaves_no_object,
    listings_are_in_order_and_of_the_prefix,
    listings_come_in_pages,
    what_is_deleted_is_gone,
    a_note_comes_with_its_object,
    what_is_no_note_is_refused,
    a_probe_finds_nothing_bad_and_leaves_nothing,
);

pub async fn read(download: Download) -> Result<Vec<u8>, ObjectError> {
    let chunks: Vec<Bytes> = download.body.try_collect().await?;
    Ok(chunks.concat())
}

async fn read_part(store: &Arc<dyn ObjectStore>, from: u64, to: Option<u64>) -> Result<Vec<u8>, ObjectError> {
    let part = Part { from, to, version: None };
    read(store.get(&key("k"), part).await?).await
}

async fn what_is_stored_comes_back<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let long = format!("{}/{}/x", "a".repeat(200), "b.c-d_e".repeat(25));
    for (name, bytes) in [
        ("k", noise(10, 1)),
        ("k", noise(2_500_000, 2)),
        ("empty", Bytes::new()),
        ("t000001/0000000001-20261123T021500Z-full.db.gz", noise(100, 3)),
        ("t000001/0000000001.json", noise(100, 4)),
        (long.as_str(), noise(100, 5)),
    ] {
        store.put(&key(name), bytes.clone()).await.unwrap();
        let download = store.get(&key(name), Part::default()).await.unwrap();
        assert_eq!(download.bytes, bytes.len() as u64);
        assert_eq!(read(download).await.unwrap(), bytes, "{name}");
        assert_eq!(get_small(&*store, &key(name), 3_000_000).await.unwrap(), bytes);
    }
    assert!(matches!(get_small(&*store, &key("k"), 2_499_999).await, Err(ObjectError::Corrupt(_))));
    assert!(matches!(store.get(&key("t000001/none"), Part::default()).await, Err(ObjectError::Missing(_))));
    assert!(matches!(store.get(&key("none/none"), Part::default()).await, Err(ObjectError::Missing(_))));
}

async fn parts_of_an_object_come_back<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let bytes = noise(3_000_000, 7);
    store.put(&key("k"), bytes.clone()).await.unwrap();
    for (from, to) in [
        (0, Some(1)),
        (0, None),
        (5, Some(2_000_005)),
        (2_999_999, None),
        (2_999_999, Some(9_000_000)),
        (0, Some(9_000_000)),
    ] {
        let download = store.get(&key("k"), Part { from, to, version: None }).await.unwrap();
        assert_eq!(download.bytes, 3_000_000, "the length is the whole object's");
        let to = to.unwrap_or(u64::MAX).min(3_000_000);
        assert_eq!(read(download).await.unwrap(), bytes[from as usize..to as usize], "{from} {to}");
    }
    for (from, to) in [(3_000_000, None), (3_000_001, None), (10, Some(10)), (10, Some(5))] {
        assert!(matches!(read_part(&store, from, to).await, Err(ObjectError::Corrupt(_))), "{from} {to:?}");
    }
}

async fn a_download_of_one_writing_is_of_no_other<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let get = async |version: &Option<String>, from| {
        store.get(&key("k"), Part { from, to: None, version: version.clone() }).await
    };
    store.put(&key("k"), noise(1000, 1)).await.unwrap();
    let version = get(&None, 0).await.unwrap().version;
    assert!(version.is_some());
    assert_eq!(read(get(&version, 900).await.unwrap()).await.unwrap(), noise(1000, 1)[900..]);
    assert_eq!(read(get(&version, 0).await.unwrap()).await.unwrap(), noise(1000, 1));
    store.put(&key("k"), noise(1000, 2)).await.unwrap();
    for from in [0, 900] {
        assert!(matches!(get(&version, from).await, Err(ObjectError::Corrupt(_))));
    }
}

async fn large_objects_are_stored_in_parts<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    for length in [1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 5] {
        let bytes = noise(length, length as u32);
        let upload = store.upload(&key("a/large")).await.unwrap();
        let parts = length.div_ceil(PART_BYTES) as u32;
        // The last one first, and once with other bytes: a part can be stored again.
        for number in (1..=parts).rev() {
            let from = (number as usize - 1) * PART_BYTES;
            let part = bytes.slice(from..length.min(from + PART_BYTES));
            upload.part(number, noise(part.len(), 99)).await.unwrap();
            upload.part(number, part).await.unwrap();
        }
        upload.finish(parts).await.unwrap();
        // After an answer that was lost.
        upload.finish(parts).await.unwrap();
        assert_eq!(get_small(&*store, &key("a/large"), length as u64).await.unwrap(), bytes);
        drop(upload);
        assert_eq!(list_all(&*store, "").await.unwrap().len(), 1);
    }
    let upload = store.upload(&key("a/large")).await.unwrap();
    store_in_parts(&*upload, &noise(2 * PART_BYTES, 5)).await.unwrap();
    assert_eq!(get_small(&*store, &key("a/large"), u64::MAX).await.unwrap(), noise(2 * PART_BYTES, 5));
}

async fn an_upload_that_is_not_finished_leaves_no_object<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let upload = store.upload(&key("large")).await.unwrap();
    upload.part(1, noise(PART_BYTES, 1)).await.unwrap();
    assert!(list_all(&*store, "").await.unwrap().is_empty());
    assert!(matches!(upload.finish(2).await, Err(ObjectError::Corrupt(_))), "part 2 was never stored");
    upload.abort().await.unwrap();
    upload.abort().await.unwrap();
    assert!(upload.finish(1).await.is_err());
    assert!(list_all(&*store, "").await.unwrap().is_empty());
    assert!(matches!(store.get(&key("large"), Part::default()).await, Err(ObjectError::Missing(_))));
}

async fn listings_are_in_order_and_of_the_prefix<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    assert!(list_all(&*store, "").await.unwrap().is_empty());
    // In the order of bytes, where a folder's name and a longer one stand on both sides of its `/`.
    let keys = ["A/z", "a-b", "a-b.json", "a.b", "a/b", "a/b.json", "a/c/d", "a0", "ab", "t1/x", "t10/x", "t2/x"];
    for name in keys.iter().rev() {
        store.put(&key(name), Bytes::from(name.to_string())).await.unwrap();
    }
    let clock = Clock::system();
    for prefix in ["", "a", "a/", "a/b", "a-", "t1", "t1/", "none", "a/c/", "a/c/d"] {
        let listed = list_all(&*store, prefix).await.unwrap();
        let found: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let expected: Vec<&str> = keys.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(found, expected, "{prefix}");
        for object in listed {
            assert_eq!(object.bytes, object.key.as_str().len() as u64);
            // A minute: its clock is ours, and a second is what some servers count in.
            assert!(clock.now().since(object.modified).max(object.modified.since(clock.now())).as_secs() < 60);
        }
    }
}

async fn listings_come_in_pages<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    // S3 and a folder give 1,000 at a time.
    let keys: Vec<_> = (0..2003).map(|i| key(&format!("{}/{i:05}", if i < 700 { "a-b" } else { "a/c" }))).collect();
    stand.fill(&keys).await;
    let listed: Vec<_> = list_all(&*store, "a").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, keys);
    let page = store.list("a/", None).await.unwrap();
    assert_eq!(page.objects.len(), 1000);
    // What is deleted meanwhile moves nothing else.
    store.delete(&keys[1699]).await.unwrap();
    let next = store.list("a/", page.next.as_deref()).await.unwrap();
    let rest: Vec<_> = next.objects.into_iter().map(|object| object.key).collect();
    assert_eq!((rest, next.next), (keys[1700..].to_vec(), None));
}

async fn what_is_deleted_is_gone<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    for name in ["a/b/c", "a/d"] {
        store.put(&key(name), Bytes::from_static(b"x")).await.unwrap();
    }
    store.delete(&key("a/b/c")).await.unwrap();
    store.delete(&key("a/b/c")).await.unwrap();
    store.delete(&key("never/there")).await.unwrap();
    let left: Vec<_> = list_all(&*store, "").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(left, [key("a/d")]);
    assert!(matches!(store.get(&key("a/b/c"), Part::default()).await, Err(ObjectError::Missing(_))));
    store.put(&key("a/b/c"), Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(get_small(&*store, &key("a/b/c"), 1).await.unwrap(), "y");
}

async fn a_note_comes_with_its_object<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let printable: String = (b' '..=b'~').map(char::from).collect();
    let manifest = r#"{"format":1,"engine":"sqlite","database":"a  \\ \"b\" \u00fc, =?UTF-8?Q?x?=.db","tables":{}}"#;
    for (i, (bytes, note)) in [
        (noise(1000, 1), manifest.to_owned()),
        (noise(PART_BYTES, 2), format!("|{printable}|")),
        (Bytes::from_static(b"x"), "!".to_owned()),
        (noise(10, 3), (b'!'..=b'~').map(char::from).cycle().take(MOST_NOTE_BYTES).collect()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = key(&format!("t000001/{i:010}.wal.gz"));
        store.create_noted(&name, bytes.clone(), &note).await.unwrap();
        for to in [Some(1), None] {
            let download = store.get(&name, Part { from: 0, to, version: None }).await.unwrap();
            assert_eq!(download.note.as_deref(), Some(note.as_str()));
            assert_eq!(download.bytes, bytes.len() as u64);
            let to = to.unwrap_or(download.bytes) as usize;
            assert_eq!(read(download).await.unwrap(), bytes[..to]);
        }
        // It is no object, and does not stay.
        let listed = list_all(&*store, "").await.unwrap();
        assert_eq!(listed.iter().map(|object| &object.key).collect::<Vec<_>>(), [&name]);
        store.delete(&name).await.unwrap();
        store.put(&name, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.get(&name, Part::default()).await.unwrap().note, None);
        store.delete(&name).await.unwrap();
    }
}

async fn what_is_no_note_is_refused<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let long = "x".repeat(MOST_NOTE_BYTES + 1);
    for note in ["", " ", " x", "x ", "a\nb", "a\tb", "a\0b", "\u{7f}", "ü", &long] {
        let created = store.create_noted(&key("k"), Bytes::from_static(b"x"), note).await;
        assert!(matches!(created, Err(ObjectError::Denied(_))), "{note:?}: {created:?}");
    }
    assert!(list_all(&*store, "").await.unwrap().is_empty());
}

async fn a_probe_finds_nothing_bad_and_leaves_nothing<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    let lines = probe(&*store, &Clock::system()).await;
    assert!(lines.len() >= 7, "{lines:#?}");
    for line in &lines {
        // Garage ignores the condition.
        let expected = if line.name == "create twice" && !honours_create(&*store).await.unwrap() {
            Verdict::Look
        } else {
            Verdict::Good
        };
        assert_eq!(line.verdict, expected, "{line:?}");
    }
    assert!(list_all(&*store, "").await.unwrap().is_empty());
}

/// What the commit of a live segment stands on: bytes and note are one's own or another one's.
pub async fn of_many_creations_with_notes_one_wins<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    for round in 0..5 {
        let name = key(&format!("a/{round}"));
        let create = |i: u32| {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { (i, store.create_noted(&name, noise(100, i), &format!("note {i}")).await) }
        };
        let results = futures_util::future::join_all((0..8).map(create)).await;
        let won: Vec<u32> = results.iter().filter(|(_, result)| result.is_ok()).map(|(i, _)| *i).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        let others = results.iter().filter(|(i, _)| *i != won[0]);
        assert!(others.into_iter().all(|(_, result)| matches!(result, Err(ObjectError::Exists(_)))), "{results:?}");
        let download = store.get(&name, Part::default()).await.unwrap();
        assert_eq!(download.note, Some(format!("note {}", won[0])));
        assert_eq!(read(download).await.unwrap(), noise(100, won[0]));
    }
    assert_eq!(list_all(&*store, "").await.unwrap().len(), 5);
}

/// What the commit stands on, where the store has it.
pub async fn of_many_creations_one_wins<S: Stand>() {
    let stand = S::fresh().await;
    let store = stand.store();
    assert!(honours_create(&*store).await.unwrap());
    let create = |i: u32| {
        let store = Arc::clone(&store);
        async move { (i, store.create(&key("a/claim"), noise(100, i)).await) }
    };
    let results = futures_util::future::join_all((0..16).map(create)).await;
    let won: Vec<u32> = results.iter().filter(|(_, result)| result.is_ok()).map(|(i, _)| *i).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    for (i, result) in results {
        assert!(i == won[0] || matches!(result, Err(ObjectError::Exists(_))), "{result:?}");
    }
    assert_eq!(get_small(&*store, &key("a/claim"), 100).await.unwrap(), noise(100, won[0]));
    assert_eq!(list_all(&*store, "").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creations_in_a_folder_one_wins() {
    of_many_creations_one_wins::<OnFolder>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creations_in_a_bucket_one_wins() {
    of_many_creations_one_wins::<OnServer>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creations_with_notes_in_a_folder_one_wins() {
    of_many_creations_with_notes_one_wins::<OnFolder>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creations_with_notes_in_a_bucket_one_wins() {
    of_many_creations_with_notes_one_wins::<OnServer>().await;
}
