//! Crashes at every side effect, and answers that are lost.

use std::sync::Arc;

use atlas_sidecar::backup::codec::Form;
use atlas_sidecar::object::ObjectStore;

use super::world::World;
use crate::support::memory_store::{Fate, Fault, FaultyStore};

/// What is done to the store.
#[derive(Clone, Copy, Debug)]
enum Work {
    Fine,
    Merged,
    Sweep,
}

/// A world in which there is something to do.
async fn prepared(work: Work) -> World {
    let mut world = World::new(Form::default(), None).await;
    for _ in 0..2 {
        for number in 0..4 {
            world.write(number + 2, number as u8).await;
        }
        if !matches!(work, Work::Fine) {
            world.fine().await.unwrap();
        }
    }
    if matches!(work, Work::Sweep) {
        world.pass(std::time::Duration::from_secs(7_300));
        world.write(2, 3).await;
        world.bucket.set("t000001/heartbeat-20261123T021500Z.json", "{}");
        world.bucket.set("t000001/heartbeat-20261123T021600Z.json", "{}");
        world.bucket.set("t000001/heartbeat-20261123T021700Z.json", "{}");
    }
    world
}

async fn done(world: &World, work: Work, store: Arc<dyn ObjectStore>) -> Result<(), String> {
    let told = |e: atlas_sidecar::backup::fold::FoldError| e.to_string();
    match work {
        Work::Fine => world.fine_through(store).await.map(drop).map_err(told),
        Work::Merged => world.merged_through(store).await.map(drop).map_err(told),
        Work::Sweep => world.sweep_through(store).await.map(drop).map_err(told),
    }
}

fn faulty(world: &World, fault: &Arc<Fault>) -> Arc<dyn ObjectStore> {
    Arc::new(FaultyStore { inner: Arc::clone(&world.bucket), fault: Arc::clone(fault) })
}

/// After whatever happened, the next run ends it, and every state comes back.
async fn goes_on(world: &World, work: Work, told: &str) {
    done(world, work, world.store()).await.unwrap_or_else(|e| panic!("{told}: {e}"));
    world.fine().await.unwrap();
    let catalog = world.catalog().await;
    let expected = match work {
        Work::Fine => 1,
        Work::Merged => 3,
        Work::Sweep => 3,
    };
    assert_eq!(catalog.folds.len(), expected, "{told}");
    world.restorable(told).await;
    assert_eq!(world.left(), 0, "{told}: the scratch folder");
}

#[tokio::test]
async fn a_crash_at_any_side_effect_is_ended_by_the_next_run() {
    for work in [Work::Fine, Work::Merged, Work::Sweep] {
        let world = prepared(work).await;
        let fault = Fault::none();
        done(&world, work, faulty(&world, &fault)).await.unwrap();
        let effects = fault.calls();
        assert!(effects >= 5, "{:?}", fault.log.lock().unwrap());
        for at in 1..=effects {
            for fate in [Fate::DiesBefore, Fate::DiesAfter] {
                let world = prepared(work).await;
                let dies = fate.clone();
                let fault = Fault::new(move |number, _| if number == at { dies.clone() } else { Fate::Done });
                tokio::select! {
                    done = done(&world, work, faulty(&world, &fault)) => panic!("it did not die: {done:?}"),
                    () = fault.reached.notified() => {}
                }
                let last = fault.log.lock().unwrap().last().cloned();
                goes_on(&world, work, &format!("{work:?}, {fate:?} {at}: {last:?}")).await;
            }
        }
    }
}

/// Whatever is asked, it is done and the answer is lost.
#[tokio::test]
async fn a_lost_answer_is_no_second_fold() {
    for work in [Work::Fine, Work::Merged] {
        let world = prepared(work).await;
        let fault = Fault::none();
        done(&world, work, faulty(&world, &fault)).await.unwrap();
        for at in 1..=fault.calls() {
            let world = prepared(work).await;
            let fault = Fault::new(move |number, _| if number == at { Fate::Unanswered } else { Fate::Done });
            let ended = done(&world, work, faulty(&world, &fault)).await;
            let call = fault.log.lock().unwrap()[at - 1].clone();
            if call.starts_with("create ") {
                assert!(ended.is_ok(), "{call}: {ended:?}");
            }
            goes_on(&world, work, &format!("{work:?} {call}")).await;
        }
    }
}

/// Of two sidecars that fold the same, one commits; the other takes what that one made, and leaves two objects that nobody names.
#[tokio::test]
async fn two_that_fold_the_same_make_one() {
    let world = prepared(Work::Fine).await;
    let fault = Fault::new(|_, what| if what.starts_with("create ") { Fate::Waits } else { Fate::Done });
    let second = World { folder: tempfile::tempdir().unwrap(), ..prepared(Work::Fine).await };
    let second = World { bucket: Arc::clone(&world.bucket), ..second };
    let racing = async {
        fault.reached.notified().await;
        let made = second.fine().await.unwrap().unwrap();
        fault.gate.notify_one();
        made
    };
    let (late, made) = tokio::join!(world.fine_through(faulty(&world, &fault)), racing);
    assert_eq!(late.unwrap().unwrap().manifest, made.manifest);
    let catalog = world.catalog().await;
    assert_eq!((catalog.folds.len(), catalog.unnamed.len()), (1, 2));
    world.restorable("both").await;
}
