//! What happens to a machine and to its bucket: the bucket does not answer, the sidecar is frozen, the clock is set, the application waits for its checkpoint, and
//! nobody does anything at all.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Clock;
use s3s::s3_error;

use super::scene::{Fresh, Mark, fixture, sql};
use super::{FAST, SOON, Scene, Store, seed};
use crate::support::wait_for;

const AGE: &str = "atlas_sidecar_backup_oldest_unshipped_commit_age_seconds";
const SPOOL: &str = "atlas_sidecar_backup_spool_bytes";

/// A mark of a moment at which nothing can become durable: what was committed before it was cut, for nothing comes into the spool any more.
fn mark_in_an_outage(scene: &mut Scene) -> Mark {
    let _closed = scene.close();
    let mut spool = (scene.metric(SPOOL), Instant::now());
    wait_for("all to be cut", SOON, || {
        let now = scene.metric(SPOOL);
        if now != spool.0 {
            spool = (now, Instant::now());
        }
        (spool.1.elapsed() > Duration::from_secs(2)).then_some(())
    });
    let image = scene.image();
    let at = Clock::system().now();
    wait_for("the next millisecond", SOON, || (Clock::system().now() > at).then_some(()));
    // Which one it is, is known when it is durable.
    Mark { at, observed: at, position: 0, image }
}

/// H44: the age of what is not durable grows for as long as nothing becomes durable, and falls afterwards.
#[test]
fn an_outage_of_the_bucket_shows_and_loses_nothing() {
    let seed = seed();
    let mut scene = Scene::new(Store::s3(), FAST);
    scene.write_as(1, seed, &["calm"]);
    scene.mark();
    scene.store.server().fault(|_, _| Some(s3_error!(ServiceUnavailable, "injected")));
    for age in [2.0, 4.0] {
        wait_for(&format!("an age of {age} s; log:\n{}", scene.told()), SOON, || {
            scene.metric(AGE).filter(|now| *now >= age)
        });
        let mark = mark_in_an_outage(&mut scene);
        scene.marks.push(mark);
    }
    scene.store.server().heal();
    wait_for("the age to fall", SOON, || scene.metric(AGE).filter(|age| *age < 2.0));
    scene.mark();
    scene.rest();
    scene.the_tip_is_the_database();
    assert_eq!(scene.store.gaps(), 0, "log:\n{}", scene.told());
    let fresh = Fresh::new(&scene.store);
    for mark in &scene.marks {
        fresh.comes_back(mark);
    }
}

/// H12, as far as it goes for some seconds: what is frozen holds its locks, and goes on where it was.
#[test]
fn a_frozen_sidecar_goes_on() {
    let seed = seed();
    let mut scene = Scene::new(Store::folder(), FAST);
    scene.write(2, seed);
    for _ in 0..2 {
        scene.mark();
        scene.sidecar().signal("STOP");
        let begin = scene.close();
        let before = sql(&scene.database(), "SELECT coalesce(max(id), 0) FROM app_notes");
        drop(begin);
        // Not a wait for something: this is how long it is frozen.
        std::thread::sleep(Duration::from_secs(3));
        let end = scene.close();
        let after = sql(&scene.database(), "SELECT coalesce(max(id), 0) FROM app_notes");
        assert_ne!(before, after, "writers write all the same");
        drop(end);
        scene.sidecar().signal("CONT");
        scene.mark();
    }
    scene.rest();
    scene.the_tip_is_the_database();
    assert_eq!(scene.store.gaps(), 0, "its locks were there all the time; log:\n{}", scene.told());
    scene.all_come_back();
}

/// H34, H41: an hour back, two days ahead, back again, while it runs and while it is away. Marks never go back, and the newest state is the database.
#[test]
fn a_clock_that_is_set_never_sets_a_mark_back() {
    let mut scene = Scene::prepared(Store::folder(), FAST, 4096, 0);
    let (folder, mut environment) = (scene.folder().to_owned(), vec![("LD_PRELOAD", faketime())]);
    let set = |seconds: i64| {
        // Another file in its place: half a file would be another time.
        std::fs::write(folder.join("clock.tmp"), format!("{seconds:+}")).unwrap();
        std::fs::rename(folder.join("clock.tmp"), folder.join("clock")).unwrap();
    };
    set(0);
    environment.push(("FAKETIME_TIMESTAMP_FILE", folder.join("clock").display().to_string()));
    environment.push(("FAKETIME_NO_CACHE", "1".to_owned()));
    environment.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()));
    for (step, seconds) in [0, -3600, 172_800, 172_800 - 3600, 0].into_iter().enumerate() {
        if step % 2 == 0 {
            scene.kill_sidecar();
            set(seconds);
            scene.launch(&environment);
            scene.sidecar().wait_ready();
        }
        set(seconds);
        for commit in 0..3 {
            sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({step}, 'commit {commit}')"));
            scene.mark();
        }
    }
    let states = scene.states_in_order();
    let last = states.last().unwrap();
    // No mark's time is that of this machine: each is asked for by the time that was written down with it, and of equal times the last is meant.
    let fresh = Fresh::new(&scene.store);
    fresh.equals(last.observed(), &scene.marks.last().unwrap().image);
    for mark in &scene.marks {
        let stated = states.iter().find(|state| state.position == mark.position).unwrap();
        let of_this_time = states.iter().filter(|state| state.observed() == stated.observed());
        if of_this_time.max_by_key(|state| state.position).unwrap().position == mark.position {
            fresh.equals(stated.observed(), &mark.image);
        }
    }
    scene.the_tip_is_the_database();
}

/// libfaketime, in the variety for programs with threads.
fn faketime() -> String {
    let folders =
        std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let found = folders.into_iter().find(|path| path.exists());
    found.expect("libfaketime is installed: the README's test command does it").display().to_string()
}

/// H9: a checkpoint that waits for readers, asked for by the application beside the tail, goes through. How long it took and what it cost the other writers is printed.
#[test]
fn the_applications_own_checkpoints_go_through() {
    let seed = seed();
    let mut scene = Scene::new(Store::folder(), FAST);
    scene.mark();
    scene.write_as(2, seed, &["calm"]);
    let mut through = 0;
    for kind in ["TRUNCATE", "RESTART", "FULL"] {
        let out = Command::new("python3")
            .arg(fixture("python/checkpoints.py"))
            .arg(scene.database())
            .args([kind, "5"])
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8(out.stdout).unwrap();
        print!("{said}");
        through += said.lines().filter(|line| line.contains(" busy=0 ")).count();
    }
    println!("{through} of 15 went through");
    assert!(through > 0, "none of the application's checkpoints went through; log:\n{}", scene.told());
    scene.mark();
    scene.rest();
    scene.the_tip_is_the_database();
    assert_eq!(scene.store.gaps(), 0, "log:\n{}", scene.told());
    scene.all_come_back();
}

/// A database in which nothing is committed: nothing is asked of the bucket but now and then a heartbeat.
#[test]
fn an_idle_database_asks_nothing_of_the_bucket() {
    let store = Store::s3();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    store.server().fault(move |operation, key| {
        noted.lock().unwrap().push(format!("{operation} {key}"));
        None
    });
    // The sidecar's own rows go elsewhere.
    let mut scene = Scene::prepared(store, FAST, 4096, 0);
    scene.config.push_str("[database]\nmetrics_url = \"sqlite://data/metrics.db\"\n");
    scene.start();
    scene.mark();
    // What belongs to the commits before, such as the first look at what is there, ends.
    let mut quiet = (asked.lock().unwrap().len(), Instant::now());
    wait_for("the end of what was begun", SOON, || {
        let now = asked.lock().unwrap().len();
        if now != quiet.0 {
            quiet = (now, Instant::now());
        }
        (quiet.1.elapsed() > Duration::from_secs(3)).then_some(())
    });
    // Not a wait for something: nothing is to happen in this time, which is a hundred cuts and more.
    std::thread::sleep(asked_seconds());
    let after: Vec<String> = asked.lock().unwrap()[quiet.0..].to_vec();
    println!("in {:?}: {after:?}", asked_seconds());
    // A heartbeat, and the look before it whether somebody has claimed the next timeline. One comes each few minutes.
    let others: Vec<&String> =
        after.iter().filter(|line| !line.contains("heartbeat") && !line.contains("timelines/")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(after.len() <= 2 + usize::try_from(asked_seconds().as_secs() / 30).unwrap(), "{after:?}");
}

/// How long nothing is done; longer in a soak.
fn asked_seconds() -> Duration {
    Duration::from_secs(super::asked("SOAK_SECONDS").map_or(12, |soak| soak.min(600)))
}
