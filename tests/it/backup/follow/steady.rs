//! When nothing goes wrong.

use std::time::Duration;

use atlas_sidecar::backup::catalog::Heartbeat;
use atlas_sidecar::backup::layout::heartbeat_of;
use atlas_sidecar::backup::{Kind, Timeline};
use atlas_sidecar::object::ObjectKey;

use super::{World, entries, lives, position, primaries, sound, until};
use crate::support::memory_store::{Fault, MemoryStore};

#[tokio::test]
async fn what_is_committed_is_in_the_store_in_order() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let world = World::new(&bucket, "a");
        let process = world.begun().await;
        for round in 1..=5 {
            world.commit(round, 7);
            world.shipped().await;
        }
        world.database().resize(25);
        world.shipped().await;
        world.database().resize(22);
        world.shipped().await;
        process.end().await;
        let all = primaries(&bucket);
        assert_eq!(all.iter().map(|(place, ..)| place.position.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
        assert!(all[1..].iter().all(|(_, manifest, _)| manifest.kind == Kind::Live));
        sound(&bucket, &[world.database()]);
    }
}

#[tokio::test]
async fn a_restart_goes_on_where_it_ended() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.begun().await.end().await;
    for round in 1..=3 {
        let process = world.start(&Fault::none());
        world.commit(round, 1);
        world.shipped().await;
        // Nobody looked any more.
        process.end().await;
        world.commit(round, 2);
    }
    let process = world.start(&Fault::none());
    world.shipped().await;
    assert_eq!(process.value("atlas_sidecar_backup_gaps_total"), 0.0);
    process.end().await;
    // What was committed while nobody looked is in a segment of its own or in the next one.
    assert!((4..=6).contains(&lives(&bucket)));
    assert_eq!(world.machine.catalog().await.claims.len(), 1);
    sound(&bucket, &[world.database()]);
}

#[tokio::test]
async fn what_was_committed_last_goes_up_at_the_end() {
    let bucket = MemoryStore::new();
    let mut world = World::new(&bucket, "a");
    world.settings.interval = Some(Duration::from_secs(3600));
    let process = world.begun().await;
    process.until("it goes", |process| process.value("atlas_sidecar_backup_following") == 1.0).await;
    // The first look was at the beginning.
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.commit(2, 2);
    process.end().await;
    assert_eq!(primaries(&bucket).last().unwrap().1.digest_after, world.database().digest());
    sound(&bucket, &[world.database()]);
}

/// Idle, the store is asked for nothing but the heartbeat.
#[tokio::test]
async fn silence_costs_a_heartbeat_and_nothing_else() {
    let bucket = MemoryStore::new();
    let mut world = World::new(&bucket, "a");
    world.pace.heartbeat = Duration::from_millis(100);
    world.first_full().await;
    let fault = Fault::none();
    let process = world.start(&fault);
    world.commit(2, 2);
    world.shipped().await;
    process.until("all was stored", |process| process.age() == 0.0).await;
    world.tick();
    let quiet = world.machine.clock.now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = fault.calls();
    until("five more requests", || fault.calls() >= before + 5).await;
    let log = fault.log.lock().unwrap()[before..].to_vec();
    assert!(
        log.iter().all(|what| what == "get timelines/t000002.json" || what.starts_with("put t000001/heartbeat-")),
        "{log:?}"
    );
    process.end().await;
    let newest = bucket.keys().into_iter().rfind(|key| heartbeat_of(&ObjectKey::ours(key)) == Some(Timeline(1)));
    let beat: Heartbeat = serde_json::from_slice(&bucket.bytes(&newest.unwrap()).unwrap()).unwrap();
    assert_eq!((beat.tip.place.position, beat.until), (position(2), quiet));
    assert_eq!(beat.tip.digest, world.database().digest());
}

/// An hour's work while the store was slow, in a few segments rather than in many.
#[tokio::test]
async fn a_slow_store_gets_fewer_segments() {
    use crate::support::memory_store::Fate;
    let bucket = MemoryStore::new();
    let mut world = World::new(&bucket, "a");
    world.pace.slow = Duration::from_secs(3600);
    world.settings.interval = Some(Duration::from_millis(5));
    world.first_full().await;
    let fault = Fault::new(|_, what| match what.starts_with("create t0") {
        true => Fate::Waits,
        false => Fate::Done,
    });
    let process = world.start(&fault);
    let opened = async {
        loop {
            // So long does it take it to store one.
            tokio::time::sleep(Duration::from_millis(60)).await;
            fault.gate.notify_one();
        }
    };
    let committed = async {
        for round in 0..100 {
            world.commit(round % 10, 40 + round as u8);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.shipped().await;
    };
    tokio::select! {
        () = opened => {}
        () = committed => {}
    }
    assert!(lives(&bucket) <= 50, "{} segments", lives(&bucket));
    process.die().await;
    sound(&bucket, &[world.database()]);
}

/// Without a live tail a full is a full, and with one there is one state for both.
#[tokio::test]
async fn a_database_that_cannot_be_followed_has_its_schedule() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.log.unsupported.store(true, std::sync::atomic::Ordering::SeqCst);
    let process = world.begun().await;
    until("it was asked", || world.log.begun.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    world.commit(1, 1);
    let cx = world.machine.cx();
    let report = process.follower.incremental(&cx).await.unwrap();
    assert!(report.words.starts_with("incremental t000001/0000000002: 1 of 20 pages"), "{}", report.words);
    process.until("no age", |process| process.age() == 0.0).await;
    process.end().await;
    assert_eq!(entries(&world).await.len(), 2);
    sound(&bucket, &[world.database()]);
}

/// In a process that does not follow, what changed is one live segment more.
#[tokio::test]
async fn an_increment_by_hand_catches_up() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.begun().await.end().await;
    world.commit(1, 1);
    let follower = world.follower(&Fault::none(), &prometheus::Registry::new());
    let cx = world.machine.cx();
    let report = follower.incremental(&cx).await.unwrap();
    assert!(report.words.starts_with("live t000001/0000000002"), "{}", report.words);
    let report = follower.incremental(&cx).await.unwrap();
    assert!(report.words.contains("nothing was committed"), "{}", report.words);
    let process = world.start(&Fault::none());
    world.commit(2, 2);
    world.shipped().await;
    process.end().await;
    sound(&bucket, &[world.database()]);
}
