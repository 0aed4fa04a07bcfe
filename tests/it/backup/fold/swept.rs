//! What is covered goes, and not before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atlas_sidecar::backup::Kind;
use atlas_sidecar::backup::codec::Form;
use atlas_sidecar::object::ObjectError;

use super::world::World;
use crate::support::memory_store::{Fate, Fault, FaultyStore};

/// Two fine segments of three live ones each, two hours old, and one live one behind them.
async fn prepared() -> World {
    let mut world = World::new(Form::default(), None).await;
    for _ in 0..2 {
        for number in 0..3 {
            world.write(number + 2, number as u8).await;
        }
        world.fine().await.unwrap();
    }
    world.pass(Duration::from_secs(7_200));
    world.write(2, 9).await;
    // The listing's newest object is what says how late it is.
    world.bucket.set("t000001/heartbeat-20261123T021500Z.json", "{}");
    world
}

fn live(world: &World) -> usize {
    world.bucket.keys().iter().filter(|key| key.ends_with(".wal.gz") && !key.contains('-')).count()
}

#[tokio::test]
async fn what_is_covered_goes_after_two_hours() {
    let world = prepared().await;
    assert_eq!(live(&world), 7);
    let swept = world.sweep_through(world.store()).await.unwrap();
    assert_eq!((swept.live, swept.heartbeats, swept.left, swept.refused), (6, 0, 0, None));
    assert!(swept.bytes > 0);
    assert_eq!(live(&world), 1);
    assert_eq!(world.sweep_through(world.store()).await.unwrap().live, 0);
    world.fine().await.unwrap();
    world.restorable("swept").await;
}

/// T-5: this machine's clock, however far ahead, has no say.
#[tokio::test]
async fn nothing_goes_before_by_the_store_s_clock() {
    let mut world = World::new(Form::default(), None).await;
    for number in 0..3 {
        world.write(number + 2, number as u8).await;
    }
    world.fine().await.unwrap();
    world.clock.set(world.clock.now().after(Duration::from_secs(86_400)));
    assert_eq!(world.sweep_through(world.store()).await.unwrap(), Default::default());
    assert_eq!(live(&world), 3);
}

#[tokio::test]
async fn nothing_goes_whose_fine_segment_is_not_whole() {
    for lost in [".wal.gz", ".index.gz", ".fine.json"] {
        for cut in [false, true] {
            let world = prepared().await;
            let catalog = world.catalog().await;
            let fine = catalog.folds.keys().next().unwrap();
            let name = format!("{}", fine.0.position);
            let key = world
                .bucket
                .keys()
                .into_iter()
                .find(|key| key.contains(&name) && key.ends_with(lost) && (key.contains("fine")));
            let key = key.unwrap();
            match cut {
                // A manifest that is cut is no manifest; the catalog was read before.
                true if lost == ".fine.json" => continue,
                true => world.bucket.set(&key, world.bucket.bytes(&key).unwrap().slice(1..)),
                false => world.bucket.remove(&key),
            }
            // Storing it again makes it new as well, but it is its length that counts: its manifest is as old as before.
            let swept = world.sweep_through(world.store()).await.unwrap();
            assert_eq!(swept.live, 3, "{lost}, cut: {cut}");
        }
    }
}

#[tokio::test]
async fn the_newest_two_heartbeats_stay() {
    let world = prepared().await;
    for minute in 16..20 {
        world.bucket.set(&format!("t000001/heartbeat-20261123T02{minute}00Z.json"), "{}");
    }
    let swept = world.sweep_through(world.store()).await.unwrap();
    assert_eq!(swept.heartbeats, 3);
    let left: Vec<String> = world.bucket.keys().into_iter().filter(|key| key.contains("heartbeat")).collect();
    assert_eq!(left, ["t000001/heartbeat-20261123T021800Z.json", "t000001/heartbeat-20261123T021900Z.json"]);
}

#[tokio::test]
async fn a_store_that_lets_nobody_delete_is_no_failure() {
    let world = prepared().await;
    let fault = Fault::new(|_, what| match what.starts_with("delete ") {
        true => Fate::Refused(ObjectError::Denied("AccessDenied".to_owned())),
        false => Fate::Done,
    });
    let store = FaultyStore { inner: Arc::clone(&world.bucket), fault: Arc::clone(&fault) };
    let swept = world.sweep_through(Arc::new(store)).await.unwrap();
    assert_eq!((swept.live, swept.left, swept.refused.as_deref()), (0, 6, Some("AccessDenied")));
    let asked = fault.log.lock().unwrap().iter().filter(|what| what.starts_with("delete ")).count();
    assert!(asked <= 4, "{asked}");
    // One that only says that it deleted is asked again.
    world.bucket.swallows_deletes.store(true, Ordering::SeqCst);
    assert_eq!(world.sweep_through(world.store()).await.unwrap().live, 6);
    assert_eq!(live(&world), 7);
    assert!(world.catalog().await.folds.keys().all(|(_, kind)| *kind == Kind::Fine));
}
