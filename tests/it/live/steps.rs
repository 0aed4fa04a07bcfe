//! The sidecar ends at any of its own steps: before the n-th call that changes a file of its state directory, whatever that is. The next start goes on, what
//! was durable stays, and what was committed meanwhile becomes so.

use super::preload::killed_at;
use super::scene::sql;
use super::{Chance, FAST, SOON, Scene, Store, asked, seed};
use crate::support::wait_for;

/// A cut is some ten such calls, a start some more: beyond this it is another cut of the same kind.
const CALLS: u64 = 80;

#[test]
fn a_sidecar_that_ends_at_any_of_its_steps_goes_on() {
    let (seed, kills) = (seed(), asked("KILLS").unwrap_or(10));
    let mut chance = Chance::new(seed);
    let mut scene = Scene::new(Store::s3(), FAST);
    scene.mark();
    for round in 0..kills {
        scene.kill_sidecar();
        // Each region of the calls has its turn, and within it chance.
        let number = 1 + round * CALLS / kills + chance.below(CALLS.div_ceil(kills));
        let environment = killed_at(&scene.folder().join("data/state"), number);
        scene.launch(&environment);
        let mut committed = 0;
        wait_for(&format!("the end before call {number} (SEED={seed}); log:\n{}", scene.told()), SOON, || {
            committed += 1;
            sql(
                &scene.database(),
                &format!("INSERT INTO app_notes(writer, body) VALUES ({round}, 'before call {number}')"),
            );
            scene.running.as_mut().unwrap().child.try_wait().unwrap()
        });
        println!("ended before call {number}, after {committed} commits");
        scene.kill_sidecar();
        scene.start();
        scene.mark();
    }
    assert!(scene.sidecar().address.port() > 0);
    scene.states_in_order();
    scene.the_tip_is_the_database();
    scene.all_come_back();
}
