//! `kill -9` of applications and of the sidecar at any moment, under load; and the commit that was never one (H1).

use std::process::Command;
use std::time::Duration;

use super::preload::killed_in_commit;
use super::scene::{fixture, sql};
use super::{Chance, FAST, SOON, Scene, Store, asked, seed};
use crate::support::wait_for;

/// What the log's header says about which log it is: the checkpoint's number and the salts.
fn which_log(scene: &Scene) -> Vec<u8> {
    let log = std::fs::read(scene.log()).unwrap_or_default();
    log.get(12..24).unwrap_or_default().to_vec()
}

/// While the sidecar is away, or after the last segment that it spooled, the log may begin anew: then it cannot know each commit. Whether it did while it was away.
fn away_for_a_while(scene: &mut Scene, chance: &mut Chance) -> bool {
    let closed = scene.close();
    let log = which_log(scene);
    scene.kill_sidecar();
    // Either it dies while it ships what was committed last, and that is all; or writers go on without it.
    let closed = match chance.below(2) {
        0 => closed,
        _ => {
            drop(closed);
            // Not a wait for something: writers write.
            std::thread::sleep(Duration::from_millis(chance.below(400)));
            scene.close()
        }
    };
    let same_log = which_log(scene) == log;
    scene.start();
    scene.mark_behind(closed);
    same_log
}

#[test]
fn whoever_is_killed_at_any_moment_what_was_durable_comes_back() {
    let (seed, rounds) = (seed(), asked("KILLS").unwrap_or(20));
    let mut chance = Chance::new(seed);
    let mut scene = Scene::new(Store::s3(), FAST);
    scene.write(2, seed);
    let mut same = 0;
    for round in 0..rounds {
        // Not a wait for something: the moment of the kill is what the test is about.
        std::thread::sleep(Duration::from_millis(chance.below(500)));
        match round % 4 {
            0 => same += u32::from(away_for_a_while(&mut scene, &mut chance)),
            1 => scene.kill_writer(0),
            // In the middle of whatever it does.
            2 => {
                scene.kill_sidecar();
                scene.start();
            }
            _ => {
                scene.kill_writer(0);
                scene.kill_sidecar();
                scene.start();
            }
        }
        if scene.writers() < 2 {
            scene.write(1, seed);
        }
        if round % 4 == 3 {
            scene.mark();
        }
    }
    scene.rest();
    scene.the_tip_is_the_database();
    scene.states_in_order();
    println!("{rounds} kills, {} gaps; in {same} of the rests the log stayed the same", scene.store.gaps());
    scene.all_come_back();
}

/// H18 where nobody begins the log anew: neither a kill nor the commits while nobody was there make a gap.
#[test]
fn commits_while_it_was_away_are_followed_where_the_log_goes_on() {
    let seed = seed();
    let mut scene = Scene::new(Store::folder(), FAST);
    // A reader that stays keeps the log from beginning anew.
    let mut reader = Command::new("python3")
        .args(["-c", "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\ndb.execute('BEGIN')\ndb.execute('SELECT count(*) FROM app_notes').fetchone()\nsys.stdin.read()"])
        .arg(scene.database())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    scene.mark();
    for round in 0..3 {
        sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({seed}, 'before {round}')"));
        scene.kill_sidecar();
        for _ in 0..3 {
            sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({seed}, 'while {round}')"));
        }
        scene.start();
        scene.mark();
    }
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert_eq!(scene.store.gaps(), 0, "log:\n{}", scene.told());
    scene.all_come_back();
}

const PHANTOMS: &str = "SELECT count(*) FROM app_notes WHERE body LIKE 'phantom%'";

/// What SQLite answers on a copy of the database and of all of its log, without the wal-index.
fn recovered(scene: &Scene, question: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(scene.database(), &copy).unwrap();
    std::fs::copy(scene.log(), folder.path().join("copy.db-wal")).unwrap();
    sql(&copy, question)
}

/// H1: an application dies in the synchronisation of its commit. The whole transaction is in the log, valid and with the right sums, and no reader ever sees it,
/// because the wal-index was not told; the next commit, a shorter one, is written over it. Who reads the file alone ships what never was.
#[test]
fn a_commit_that_nobody_was_told_of_is_not_shipped() {
    let mut scene = Scene::new(Store::s3(), FAST);
    scene.mark();
    for round in 0..3 {
        sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({round}, 'published')"));
        scene.mark();
        let states = scene.store.states().len();
        let status = Command::new("python3")
            .arg(fixture("python/phantom.py"))
            .arg(scene.database())
            .envs(killed_in_commit())
            .status()
            .unwrap();
        assert!(!status.success(), "it dies in its commit");
        assert_eq!(recovered(&scene, PHANTOMS), "40", "its pages are in the log, as SQLite itself would recover them");
        // Not a wait for something: ten cuts in which it could be taken for a commit.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(sql(&scene.database(), PHANTOMS), "0");
        let shipped = scene.store.states().len() - states;
        sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({round}, 'shorter')"));
        wait_for("the shorter one", SOON, || (scene.store.states().len() > states + shipped).then_some(()));
        scene.mark();
    }
    scene.the_tip_is_the_database();
    scene.all_come_back();
    assert_eq!(scene.store.gaps(), 0, "log:\n{}", scene.told());
}
