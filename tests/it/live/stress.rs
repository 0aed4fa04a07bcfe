//! Writers that do everything at once, and every moment between two transactions comes back.

use std::time::{Duration, Instant};

use super::scene::Fresh;
use super::{Chance, FAST, Scene, Store, asked, seed};
use crate::support::sidecar;

/// So many images are kept; more would fill a disk in the hours of a soak.
const MOST_MARKS: usize = 60;

/// What the sidecar does beside the tail.
const BESIDE: [&[&str]; 4] =
    [&["jobs", "run", "backup-compact"], &["backup", "full"], &["backup", "incremental"], &["backup", "verify"]];

fn stressed(store: Store) {
    let (seed, soak) = (seed(), asked("SOAK_SECONDS").map(Duration::from_secs));
    let mut chance = Chance::new(seed);
    let (page_size, auto_vacuum) = (chance.of(&[1024, 4096, 4096, 16384]), chance.of(&[0, 1, 2]));
    println!("pages of {page_size} bytes, auto_vacuum {auto_vacuum}");
    let mut scene = Scene::on(store, FAST, page_size, auto_vacuum);
    scene.write(3, seed);
    let (begin, mut drilled) = (Instant::now(), Instant::now());
    // Ten seconds and eight marks: on a slow machine it is the marks that take the time.
    while begin.elapsed() < soak.unwrap_or(Duration::from_secs(10)) || scene.marks.len() < 8 {
        // Not a wait for something: writers write.
        std::thread::sleep(Duration::from_millis(chance.below(1500)));
        beside(&scene, &mut chance);
        scene.mark();
        if drilled.elapsed() > Duration::from_secs(60) {
            drill(&mut scene, &mut chance);
            drilled = Instant::now();
        }
    }
    scene.rest();
    scene.the_tip_is_the_database();
    scene.states_in_order();
    println!("{} states, {} gaps", scene.store.states().len(), scene.store.gaps());
    assert_eq!(scene.store.gaps(), 0, "it was there all the time; log:\n{}", scene.told());
    scene.all_come_back();
    assert_eq!(scene.running.take().unwrap().stop(), 0);
}

/// Folds, a full, a merge or an audit while writers write: asked of the running sidecar.
fn beside(scene: &Scene, chance: &mut Chance) {
    let Some(args) = BESIDE.get(usize::try_from(chance.below(8)).unwrap()) else { return };
    let out = sidecar(scene.folder(), &[*args, &["--config", "sidecar.toml"]].concat());
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    // 75: somebody else is at it, such as the schedule. And what is asked for is written down first, in a database on which others write as fast as they can.
    let done = matches!(out.status.code(), Some(0 | 75)) || said.contains("database is locked");
    assert!(done, "{args:?}: {said}log:\n{}", scene.told());
}

/// The newest mark and any other come back while the load goes on.
fn drill(scene: &mut Scene, chance: &mut Chance) {
    let fresh = Fresh::new(&scene.store);
    let any = usize::try_from(chance.below(scene.marks.len() as u64)).unwrap();
    fresh.comes_back(scene.marks.last().unwrap());
    fresh.comes_back(&scene.marks[any]);
    while scene.marks.len() > MOST_MARKS {
        let gone = scene.marks.remove(usize::try_from(chance.below(scene.marks.len() as u64)).unwrap());
        std::fs::remove_file(gone.image).unwrap();
    }
}

#[test]
fn every_moment_of_a_stressed_database_comes_back_from_s3() {
    stressed(Store::s3());
}

#[test]
fn every_moment_of_a_stressed_database_comes_back_from_a_folder() {
    stressed(Store::folder());
}
