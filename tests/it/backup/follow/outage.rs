//! The store does not answer, the spool is full, the log is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atlas_sidecar::backup::Kind;
use atlas_sidecar::object::ObjectError;

use super::{World, lives, primaries, sound, until};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

/// A store that takes nothing while the flag is set.
fn out(flag: &Arc<AtomicBool>) -> Arc<Fault> {
    let flag = Arc::clone(flag);
    Fault::new(move |_, _| match flag.load(Ordering::SeqCst) {
        true => Fate::Refused(ObjectError::Transient("nobody answers".to_owned())),
        false => Fate::Done,
    })
}

#[tokio::test]
async fn an_outage_is_spooled_and_caught_up_with() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    world.first_full().await;
    let down = Arc::new(AtomicBool::new(false));
    let process = world.start(&out(&down));
    world.commit(1, 1);
    world.shipped().await;
    process.until("nothing waits", |process| process.age() == 0.0).await;
    down.store(true, Ordering::SeqCst);
    let spooled = || std::fs::read_dir(world.machine.state.join("backup/live")).unwrap().count();
    for round in 0..8 {
        let before = spooled();
        world.commit(round, 100 + round as u8);
        until("another segment waits: each second is a mark", || spooled() > before).await;
    }
    process.until("the age grows", |process| process.age() >= 7.0).await;
    world.tick();
    process.until("and grows", |process| process.age() >= 8.0).await;
    assert_eq!(lives(&bucket), 1);
    down.store(false, Ordering::SeqCst);
    world.shipped().await;
    process.until("it falls", |process| process.age() == 0.0).await;
    process.end().await;
    assert_eq!(lives(&bucket), 9);
    sound(&bucket, &[world.database()]);
}

/// The process ends in the outage: what waits goes up first, in order.
#[tokio::test]
async fn what_waits_survives_the_process() {
    let bucket = MemoryStore::new();
    let mut world = World::new(&bucket, "a");
    world.first_full().await;
    world.pace.drain = Duration::from_millis(50);
    let down = Arc::new(AtomicBool::new(false));
    let process = world.start(&out(&down));
    process.until("it goes", |process| process.value("atlas_sidecar_backup_following") == 1.0).await;
    down.store(true, Ordering::SeqCst);
    let spooled = || std::fs::read_dir(world.machine.state.join("backup/live")).map_or(0, |files| files.count());
    for round in 0..4 {
        world.commit(round, 50);
        until("it waits", || spooled() > round).await;
    }
    process.end().await;
    world.commit(7, 7);
    let process = world.start(&Fault::none());
    world.shipped().await;
    process.end().await;
    assert_eq!(lives(&bucket), 5);
    sound(&bucket, &[world.database()]);
}

/// What the spool has no room for is a gap, and the application's log does not grow.
#[tokio::test]
async fn a_full_spool_lets_the_database_go_and_leaves_a_gap() {
    let bucket = MemoryStore::new();
    let mut world = World::new(&bucket, "a");
    world.settings.spool_max = 40 << 10;
    world.first_full().await;
    let down = Arc::new(AtomicBool::new(false));
    let process = world.start(&out(&down));
    world.commit(1, 1);
    world.shipped().await;
    down.store(true, Ordering::SeqCst);
    let mut round = 0;
    while world.log.released.load(Ordering::SeqCst) == 0 {
        world.commit(round % 9, 1 + (round % 200) as u8);
        round += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(round < 4000, "the database is let go");
    }
    assert_eq!(process.value("atlas_sidecar_backup_following"), 0.0);
    world.commit(3, 250);
    world.log.lost.store(true, Ordering::SeqCst);
    process.until("the age grows", |process| process.age() >= 1.0).await;
    down.store(false, Ordering::SeqCst);
    world.shipped().await;
    process.until("it goes on", |process| process.value("atlas_sidecar_backup_following") == 1.0).await;
    assert_eq!(process.value("atlas_sidecar_backup_gaps_total"), 1.0);
    world.commit(4, 251);
    world.shipped().await;
    process.until("nothing waits", |process| process.age() == 0.0).await;
    process.end().await;
    let all = primaries(&bucket);
    let gap = all.iter().position(|(_, manifest, _)| manifest.kind == Kind::Incremental).unwrap();
    assert_eq!(all[gap].1.gap_from, Some(all[gap - 1].1.observed), "the last instant that was known");
    assert_eq!(all.iter().filter(|(_, manifest, _)| manifest.gap_from.is_some()).count(), 1);
    sound(&bucket, &[world.database()]);
}

/// A heartbeat had said more than the last mark: the gap begins there.
#[tokio::test]
async fn a_gap_begins_where_a_heartbeat_ends() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.begun().await;
    world.commit(1, 1);
    world.shipped().await;
    process.until("nothing waits", |process| process.age() == 0.0).await;
    world.tick();
    world.tick();
    let quiet = world.machine.clock.now();
    // The last word at the end is a heartbeat.
    process.end().await;
    world.commit(2, 2);
    world.log.lost.store(true, Ordering::SeqCst);
    let process = world.start(&Fault::none());
    world.shipped().await;
    process.end().await;
    let gap = primaries(&bucket).pop().unwrap().1;
    assert_eq!((gap.kind, gap.gap_from), (Kind::Incremental, Some(quiet)));
    sound(&bucket, &[world.database()]);
}

/// A segment that one request cannot carry is an increment with a manifest, in its place in the row.
#[tokio::test]
async fn a_long_segment_is_an_increment() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.begun().await;
    world.commit(1, 1);
    world.shipped().await;
    world.tick();
    // 12 MiB that cannot be made smaller.
    world.database().resize(3100);
    world.shipped().await;
    world.commit(2, 2);
    world.shipped().await;
    process.end().await;
    let kinds: Vec<Kind> = primaries(&bucket).iter().map(|(_, manifest, _)| manifest.kind).collect();
    assert_eq!(kinds, [Kind::Full, Kind::Live, Kind::Incremental, Kind::Live]);
    sound(&bucket, &[world.database()]);
    // And a restart behind it knows it for its own.
    let process = world.start(&Fault::none());
    world.commit(3, 3);
    world.shipped().await;
    process.end().await;
    assert_eq!(world.machine.catalog().await.claims.len(), 1);
    sound(&bucket, &[world.database()]);
}
