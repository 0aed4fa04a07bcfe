//! Crashes at every side effect, and answers that are lost (H31).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::{World, lives, primaries, sound};
use crate::support::memory_store::{Fate, Fault, MemoryStore};

/// A full, and then commits while the store does what `fault` says; until the last one is there or the process has died.
async fn some_commits(world: &World, fault: &Arc<Fault>) -> bool {
    let process = world.start(fault);
    let work = async {
        for round in 1..=3 {
            world.commit(round, 9);
            world.shipped().await;
        }
    };
    let survived = tokio::select! {
        () = work => true,
        () = fault.reached.notified() => false,
    };
    process.stop.cancel();
    let mut process = process;
    let survived = survived
        && tokio::select! {
            ended = &mut process.task => ended.is_ok(),
            () = fault.reached.notified() => false,
        };
    if !survived {
        process.die().await;
    }
    survived
}

#[tokio::test]
async fn a_crash_at_any_side_effect_leaves_a_chain_that_is_gone_on_with() {
    for new_store in [MemoryStore::new as fn() -> Arc<MemoryStore>, MemoryStore::ignoring_conditions] {
        let bucket = new_store();
        let world = World::new(&bucket, "a");
        world.first_full().await;
        let fault = Fault::none();
        assert!(some_commits(&world, &fault).await);
        let effects = fault.calls();
        assert!(effects > 10, "{:?}", fault.log.lock().unwrap());
        for at in 1..=effects {
            for fate in [Fate::DiesBefore, Fate::DiesAfter] {
                let bucket = new_store();
                let world = World::new(&bucket, "a");
                world.first_full().await;
                let dies = fate.clone();
                let fault = Fault::new(move |number, _| if number == at { dies.clone() } else { Fate::Done });
                some_commits(&world, &fault).await;
                sound(&bucket, &[world.database()]);
                let again = world.start(&Fault::none());
                world.shipped().await;
                world.commit(5, 5);
                world.shipped().await;
                let gaps = again.value("atlas_sidecar_backup_gaps_total");
                again.end().await;
                let last = fault.log.lock().unwrap().last().cloned();
                let context = format!("{fate:?} {at}: {last:?}");
                sound(&bucket, &[world.database()]);
                assert_eq!(gaps, 0.0, "{context}");
                assert_eq!(world.machine.catalog().await.claims.len(), 1, "{context}: no timeline was lost");
                assert!(lives(&bucket) <= 4, "{context}: nothing is doubled");
            }
        }
    }
}

/// An answer that was lost is no reason to store it twice, and none to think that somebody else has.
#[tokio::test]
async fn lost_answers_change_nothing() {
    for bucket in [MemoryStore::new(), MemoryStore::ignoring_conditions()] {
        let world = World::new(&bucket, "a");
        world.first_full().await;
        let asked = Mutex::new(BTreeSet::new());
        let fault = Fault::new(move |_, what| {
            match what.starts_with("create t0") && asked.lock().unwrap().insert(what.to_owned()) {
                true => Fate::Unanswered,
                false => Fate::Done,
            }
        });
        assert!(some_commits(&world, &fault).await);
        assert_eq!(lives(&bucket), 3);
        sound(&bucket, &[world.database()]);
    }
}

/// The spool is lost, or the newest segment in it is: the store has one that we do not know to be ours.
#[tokio::test]
async fn who_has_lost_its_spool_begins_a_timeline() {
    let bucket = MemoryStore::new();
    let world = World::new(&bucket, "a");
    let process = world.begun().await;
    world.commit(1, 1);
    world.shipped().await;
    process.end().await;
    std::fs::remove_dir_all(world.machine.state.join("backup/live")).unwrap();
    world.commit(2, 2);
    let follower = world.follower(&Fault::none(), &prometheus::Registry::new());
    let report = follower.full(&world.machine.cx()).await.unwrap();
    let first = primaries(&bucket).into_iter().find(|(place, ..)| place.timeline.0 == 2).unwrap();
    assert!(first.0.position.0 > 1000, "numbers are left out for whoever has the other timeline: {}", report.words);
    let claims = world.machine.catalog().await.claims;
    let parent = claims.values().last().unwrap().parent.unwrap();
    assert_eq!((parent.place.timeline.0, parent.place.position.0), (1, 2), "a live segment is what it goes on from");
    assert_eq!(first.1.previous, Some(primaries(&bucket)[1].2.clone()));
    let process = world.start(&Fault::none());
    world.commit(3, 3);
    world.shipped().await;
    process.end().await;
}
