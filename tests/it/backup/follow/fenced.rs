//! More than one writer (H19, H20, H29), and the wrong database (H30).

use std::time::Duration;

use atlas_sidecar::backup::ship::ShipError;

use super::{LIMIT, World, primaries, sound};
use crate::support::memory_store::{Fault, MemoryStore};

/// A second installation goes on from the first one: that one's next heartbeat sees it, and it stops.
#[tokio::test]
async fn the_heartbeat_sees_who_has_taken_over() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let mut a = World::new(&bucket, "a");
        a.pace.heartbeat = Duration::from_millis(50);
        let first = a.begun().await;
        a.commit(1, 1);
        a.shipped().await;
        let b = World::new(&bucket, "b");
        let second = b.begun().await;
        tokio::time::timeout(LIMIT, first.task).await.expect("it stops by itself").unwrap();
        let before = primaries(&bucket).len();
        a.commit(2, 2);
        b.commit(3, 3);
        b.shipped().await;
        second.end().await;
        assert_eq!(primaries(&bucket).len(), before + 1, "only one goes on");
        assert!(a.log.released.load(std::sync::atomic::Ordering::SeqCst) > 0, "and lets its database go");
        // Also the next process, and its jobs.
        let error = first.follower.full(&a.machine.cx()).await.unwrap_err();
        assert!(matches!(&error, ShipError::Fenced(who) if who.contains("host-of-b")), "{error}");
        sound(&bucket, &[a.database(), b.database()]);
    }
}

/// A copied machine has the same claim; of two segments to one place the store takes one.
#[tokio::test]
async fn of_a_machine_and_its_copy_one_goes_on() {
    let bucket = MemoryStore::new();
    let a = World::new(&bucket, "a");
    a.begun().await.end().await;
    let first = a.start(&Fault::none());
    a.commit(1, 1);
    a.shipped().await;
    let b = a.copied();
    let second = b.start(&Fault::none());
    second.until("it goes", |process| process.value("atlas_sidecar_backup_following") == 1.0).await;
    a.commit(2, 2);
    a.shipped().await;
    b.commit(3, 3);
    tokio::time::timeout(LIMIT, second.task).await.expect("it stops by itself").unwrap();
    a.commit(4, 4);
    a.shipped().await;
    first.end().await;
    sound(&bucket, &[a.database(), b.database()]);
    // Deleting its record, it goes on for itself.
    std::fs::remove_file(b.machine.record()).unwrap();
    b.first_full().await;
    let second = b.start(&Fault::none());
    b.commit(5, 5);
    b.shipped().await;
    second.end().await;
    sound(&bucket, &[a.database(), b.database()]);
}

/// The file was replaced: a full begins a new timeline, which somebody has to make.
#[tokio::test]
async fn another_database_is_a_new_timeline() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.begun().await;
    world.commit(1, 1);
    world.shipped().await;
    process.end().await;
    world.database().replace();
    let process = world.start(&Fault::none());
    let mut wanted = process.follower.wants_full();
    let why = tokio::time::timeout(LIMIT, wanted.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(why.unwrap().contains("replaced"));
    process.follower.full(&world.machine.cx()).await.unwrap();
    world.commit(2, 2);
    world.shipped().await;
    process.end().await;
    assert_eq!(world.machine.catalog().await.claims.len(), 2);
    sound(&bucket, &[world.database()]);
}

/// H30: nothing is shipped of an empty database where there are backups of one.
#[tokio::test]
async fn an_empty_database_is_not_followed() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.begun().await.end().await;
    world.database().empty(true);
    let begun = || world.log.begun.load(std::sync::atomic::Ordering::SeqCst);
    let before = (bucket.keys(), begun());
    let process = world.start(&Fault::none());
    world.commit(1, 1);
    process.until("the age tells", |process| process.age() > 0.0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    process.end().await;
    assert_eq!((bucket.keys(), begun()), before);
}
