//! Fulls beside the live tail.

use std::sync::atomic::Ordering;

use atlas_sidecar::backup::Kind;
use atlas_sidecar::backup::ship::ShipError;

use super::{LIMIT, World, entries, primaries, sound};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

#[tokio::test]
async fn a_full_is_of_a_state_that_has_a_live_segment() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let world = World::new(&bucket, "a");
        let process = world.begun().await;
        for round in 1..=2 {
            world.commit(round, 1);
            world.shipped().await;
            let report = process.follower.full(&world.machine.cx()).await.unwrap();
            assert!(report.words.starts_with("full t000001/"), "{}", report.words);
        }
        world.commit(3, 3);
        world.shipped().await;
        process.end().await;
        let kinds: Vec<_> = primaries(&bucket).iter().map(|(place, m, _)| (place.position.0, m.kind)).collect();
        let (full, live) = (Kind::Full, Kind::Live);
        // Nothing was committed before the full, so that page 1 goes up once more.
        assert_eq!(kinds, [(1, full), (2, live), (3, live), (3, full), (4, live), (5, live), (5, full), (6, live)]);
        sound(&bucket, &[world.database()]);
        // A restart goes on from there, a full being the newest state or not.
        let process = world.start(&Fault::none());
        process.follower.full(&world.machine.cx()).await.unwrap();
        process.end().await;
        let process = world.start(&Fault::none());
        world.commit(4, 4);
        world.shipped().await;
        process.end().await;
        assert_eq!(world.machine.catalog().await.claims.len(), 1);
        sound(&bucket, &[world.database()]);
    }
}

/// The manifest comes after the live segment, and commits go on meanwhile.
#[tokio::test]
async fn a_full_waits_for_its_live_segment() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.first_full().await;
    let fault = Fault::new(|_, what| if what == "create t000001/0000000002.wal.gz" { Fate::Waits } else { Fate::Done });
    let process = world.start(&fault);
    process.until("it goes", |process| process.value("atlas_sidecar_backup_following") == 1.0).await;
    let cx = world.machine.cx();
    let full = process.follower.full(&cx);
    let meanwhile = async {
        tokio::time::timeout(LIMIT, fault.reached.notified()).await.unwrap();
        world.commit(4, 4);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(entries(&world).await.len(), 1, "it waits");
        fault.gate.notify_one();
    };
    let (full, ()) = tokio::join!(full, meanwhile);
    full.unwrap();
    world.shipped().await;
    process.end().await;
    let log = fault.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|done| done.starts_with(what)).unwrap();
    assert!(at("create t000001/0000000002.wal.gz") < at("create t000001/0000000002.json"));
    sound(&bucket, &[world.database()]);
}

/// The two were made in different ways. Where they differ one is wrong, and nothing says which.
#[tokio::test]
async fn a_full_that_differs_is_not_committed() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.begun().await;
    world.commit(1, 1);
    world.shipped().await;
    world.log.lies.store(true, Ordering::SeqCst);
    let error = process.follower.full(&world.machine.cx()).await.unwrap_err();
    assert!(matches!(&error, ShipError::Failed(why) if why.contains("is not committed")), "{error}");
    assert_eq!(entries(&world).await.len(), 1);
    // A full without the tail is asked for, and it is followed again from there.
    let mut wanted = process.follower.wants_full();
    tokio::time::timeout(LIMIT, wanted.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(process.value("atlas_sidecar_backup_following"), 0.0);
    // Nobody follows this: the full goes over it, and says so.
    world.commit(5, 5);
    process.follower.full(&world.machine.cx()).await.unwrap();
    assert_eq!(process.value("atlas_sidecar_backup_gaps_total"), 1.0);
    world.commit(2, 2);
    world.shipped().await;
    process.end().await;
    assert_eq!(entries(&world).await.len(), 2);
    let gaps: Vec<_> = primaries(&bucket).into_iter().filter_map(|(_, m, _)| m.gap_from.map(|_| m.kind)).collect();
    assert_eq!(gaps, [Kind::Full]);
    sound(&bucket, &[world.database()]);
}

/// A damaged database is shipped and marked, and it is no success.
#[tokio::test]
async fn the_first_full_without_a_tail_is_asked_for() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.start(&Fault::none());
    let mut wanted = process.follower.wants_full();
    let why = tokio::time::timeout(LIMIT, wanted.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(why.unwrap().contains("no full on t000001"));
    process.follower.full(&world.machine.cx()).await.unwrap();
    tokio::time::timeout(LIMIT, wanted.wait_for(Option::is_none)).await.unwrap().unwrap();
    world.commit(1, 1);
    world.shipped().await;
    process.end().await;
    sound(&bucket, &[world.database()]);
}
