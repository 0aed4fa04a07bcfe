//! A bucket behind a network that answers 503, loses answers, resets, truncates, stalls, and swallows: what patience makes of it.

use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::object::patient::Patience;
use atlas_sidecar::object::{ObjectError, ObjectStore, PART_BYTES, Part, Settings, get_small, list_all};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::contract::read;
use super::{QUICK, key, noise, patient, store_in_parts};
use crate::support::proxy::{Fault, Proxy, Request};
use crate::support::s3::S3Server;

/// A server, a proxy in front of it, and what leads through the proxy.
fn behind_a_proxy() -> (S3Server, Proxy, Settings) {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    let mut settings = server.settings("p");
    settings.s3.endpoint = Some(proxy.endpoint.clone());
    (server, proxy, settings)
}

/// One request in three fails, each time in another way.
fn every_third(
    fault: impl Fn(&Request) -> Vec<Fault> + Send + 'static,
) -> impl FnMut(&Request) -> Option<Fault> + Send {
    let mut count = 0;
    move |request| {
        count += 1;
        let faults = fault(request);
        (count % 3 == 0).then(|| faults[count / 3 % faults.len()])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_gets_through_a_bad_network() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, registry) = patient(&settings, QUICK);
    proxy.rule(every_third(|request| {
        let mut faults =
            vec![Fault::Answer(503, "SlowDown"), Fault::LoseAnswer, Fault::Reset, Fault::Answer(429, "SlowDown")];
        if request.method == "GET" {
            faults = vec![
                Fault::Truncate(10),
                Fault::Stall(100),
                Fault::Answer(500, "InternalError"),
                Fault::Truncate(2_000_000),
            ];
        }
        faults
    }));
    let bytes = noise(2 * PART_BYTES + 5, 1);
    for round in 0..3 {
        let name = key(&format!("large{round}"));
        let upload = store.upload(&name).await.unwrap();
        store_in_parts(&*upload, &bytes).await.unwrap();
        assert_eq!(server.bytes(&format!("p/{name}")).unwrap(), bytes);
        assert_eq!(read(store.get(&name, Part::default()).await.unwrap()).await.unwrap(), bytes, "{round}");
        let part = Part { from: 5, to: Some(9_000_000), version: None };
        assert_eq!(read(store.get(&name, part).await.unwrap()).await.unwrap(), bytes[5..9_000_000]);
        store.put(&key("small"), noise(100, round)).await.unwrap();
        assert_eq!(get_small(&store, &key("small"), 100).await.unwrap(), noise(100, round));
        assert_eq!(list_all(&store, "large").await.unwrap().len() as u32, round + 1);
    }
    for round in 0..3 {
        store.delete(&key(&format!("large{round}"))).await.unwrap();
    }
    assert_eq!(server.keys(), ["p/small"]);
    // Of each upload whose beginning was answered and lost, one may be left open; none of the finished ones is.
    assert!(server.open_uploads() <= 3, "{}", server.open_uploads());
    let shown = format!("{:?}", registry.gather());
    assert!(shown.contains("atlas_sidecar_backup_object_requests_total") && shown.contains("transient"), "{shown}");
}

/// The answer of a successful create is lost: it is our own object that exists then, and the caller compares.
#[tokio::test]
async fn a_creation_whose_answer_is_lost_exists() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    proxy.fail("PUT", 1, Fault::LoseAnswer);
    let created = store.create(&key("claim"), noise(100, 1)).await;
    assert!(matches!(created, Err(ObjectError::Exists(_))), "{created:?}");
    assert_eq!(server.bytes("p/claim").unwrap(), noise(100, 1));
}

/// Bytes and note are both there or neither: what is created is whole, and what fails was not created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_and_its_bytes_get_through_a_bad_network_together() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, Patience { attempt: Duration::from_secs(5), ..QUICK });
    let note = |i: u32| format!(r#"{{"to":{i},"x":" y  z"}}"#);
    for (i, fault) in (0..).zip([
        Fault::LoseAnswer,
        Fault::Reset,
        Fault::Answer(503, "SlowDown"),
        Fault::Answer(500, "InternalError"),
        Fault::Truncate(0),
    ]) {
        proxy.fail("PUT", 1, fault);
        let name = key(&format!("t000001/{i:010}.wal.gz"));
        let created = store.create_noted(&name, noise(200_000, i), &note(i)).await;
        match fault {
            Fault::LoseAnswer => assert!(matches!(created, Err(ObjectError::Exists(_))), "{created:?}"),
            _ => created.unwrap(),
        }
        let stored = format!("p/{name}");
        assert_eq!(server.bytes(&stored).unwrap(), noise(200_000, i), "{fault:?}");
        assert_eq!(server.metadata(&stored)["atlas-note"], note(i), "{fault:?}");
        for fault in [Fault::Truncate(1000), Fault::LoseAnswer, Fault::Stall(10), Fault::Answer(503, "SlowDown")] {
            proxy.fail("GET", 1, fault);
            let download = store.get(&name, Part::default()).await.unwrap();
            assert_eq!(download.note, Some(note(i)), "{fault:?}");
            assert_eq!(read(download).await.unwrap(), noise(200_000, i), "{fault:?}");
        }
    }
    proxy.fail("PUT", 99, Fault::Answer(403, "AccessDenied"));
    assert!(store.create_noted(&key("k"), noise(10, 1), "note").await.is_err());
    assert_eq!(server.bytes("p/k"), None);
}

/// The same of the end of an upload: the second end is told that there is no such upload, because there is the object.
#[tokio::test]
async fn the_end_of_an_upload_whose_answer_is_lost_is_the_end() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    let upload = store.upload(&key("large")).await.unwrap();
    let bytes = noise(PART_BYTES + 1, 1);
    proxy.fail("POST", 1, Fault::LoseAnswer);
    store_in_parts(&*upload, &bytes).await.unwrap();
    assert_eq!(server.bytes("p/large").unwrap(), bytes);
    // Where there is none, or another one, it is an error.
    for other in [None, Some(noise(100, 2))] {
        let upload = store.upload(&key("gone")).await.unwrap();
        upload.part(1, bytes.slice(..PART_BYTES)).await.unwrap();
        upload.abort().await.unwrap();
        if let Some(other) = other {
            server.store("p/gone", other);
        }
        assert!(matches!(upload.finish(1).await, Err(ObjectError::Missing(_))));
    }
}

#[tokio::test]
async fn what_does_not_pass_is_not_tried_again() {
    let (_server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    for (status, code) in
        [(403, "AccessDenied"), (404, "NoSuchBucket"), (501, "NotImplemented"), (400, "InvalidRequest")]
    {
        let before = proxy.seen().len();
        proxy.fail("PUT", 99, Fault::Answer(status, code));
        let put = store.put(&key("k"), Bytes::from_static(b"x")).await;
        assert!(matches!(put, Err(ObjectError::Denied(_))), "{put:?}");
        assert_eq!(proxy.seen().len(), before + 1, "{code}");
    }
}

#[tokio::test]
async fn patience_has_an_end() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, Patience { budget: Duration::from_millis(300), ..QUICK });
    proxy.rule(|_| Some(Fault::Answer(503, "SlowDown")));
    let Err(ObjectError::Transient(words)) = store.put(&key("k"), Bytes::new()).await else { panic!() };
    assert!(words.contains("503 SlowDown") && words.contains("tries in"), "{words}");
    server.store("p/k", noise(1000, 1));
    // Each answer brings one byte: it comes on, and never well.
    proxy.rule(|request| (request.method == "GET").then_some(Fault::Truncate(1)));
    let download = store.get(&key("k"), Part::default()).await.unwrap();
    let Err(ObjectError::Transient(words)) = read(download).await else { panic!() };
    assert!(words.contains("times in a row") && words.contains("`k` at byte"), "{words}");
}

#[tokio::test]
async fn a_request_that_is_never_answered_is_given_up_and_tried_again() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, Patience { attempt: Duration::from_millis(700), ..QUICK });
    proxy.fail("PUT", 1, Fault::Hang);
    store.put(&key("k"), noise(10, 1)).await.unwrap();
    assert_eq!(server.bytes("p/k").unwrap(), noise(10, 1));
    proxy.fail("GET", 1, Fault::Hang);
    assert_eq!(get_small(&store, &key("k"), 10).await.unwrap(), noise(10, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_where_it_broke_and_asks_for_no_byte_twice() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    let bytes = noise(5_000_000, 1);
    server.store("p/k", bytes.clone());
    for fault in [Fault::Truncate(2_000_000), Fault::Stall(2_000_000), Fault::Truncate(0), Fault::Stall(0)] {
        let before = proxy.seen().len();
        proxy.fail("GET", 1, fault);
        let download = store.get(&key("k"), Part::default()).await.unwrap();
        assert_eq!(read(download).await.unwrap(), bytes, "{fault:?}");
        let seen = &proxy.seen()[before..];
        let range = |request: &Request| request.headers.iter().find(|(n, _)| n == "range").map(|(_, v)| v.clone());
        assert_eq!(range(&seen[0]), None);
        // Everything that came was kept (how much did, the kernel decides), and the end is named.
        let again = range(seen.last().unwrap()).unwrap();
        assert!(again.ends_with("-4999999"), "{again}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_does_not_go_on_with_another_object() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    server.store("p/k", noise(5_000_000, 1));
    proxy.fail("GET", 1, Fault::Truncate(1_000_000));
    let mut download = store.get(&key("k"), Part::default()).await.unwrap();
    assert!(download.body.try_next().await.unwrap().is_some());
    server.store("p/k", noise(5_000_000, 2));
    let Err(ObjectError::Corrupt(words)) = read(download).await else { panic!("two objects mixed") };
    assert!(words.contains("replaced"), "{words}");
}

/// Some stores say that they deleted and keep it: a listing tells.
#[tokio::test]
async fn a_swallowed_deletion_is_seen_in_a_listing() {
    let (server, proxy, settings) = behind_a_proxy();
    let (store, _) = patient(&settings, QUICK);
    store.put(&key("k"), Bytes::new()).await.unwrap();
    proxy.fail("DELETE", 1, Fault::Swallow);
    store.delete(&key("k")).await.unwrap();
    assert_eq!(list_all(&store, "").await.unwrap().len(), 1);
    store.delete(&key("k")).await.unwrap();
    assert!(server.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_more_requests_at_once_than_allowed() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let slow = super::patience::Slow { now: Arc::clone(&now), most: Arc::clone(&most) };
    let metrics = atlas_sidecar::object::patient::Metrics::new(&prometheus::Registry::new());
    let store = atlas_sidecar::object::patient::Patient::new(Arc::new(slow), QUICK, metrics);
    let keys: Vec<_> = (0..40).map(|i| key(&format!("k{i}"))).collect();
    futures_util::future::try_join_all(keys.iter().map(|key| store.delete(key))).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), QUICK.at_once);
}
