//! Retention of backups: in a folder, in a store whose clock is set by hand, and through the scheduler.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atlas_sidecar::backup::Catalog;
use atlas_sidecar::backup::plan::{Moment, State, state};
use atlas_sidecar::backup::prune::{Pruned, prune};
use atlas_sidecar::backup::retain::Policy;
use atlas_sidecar::backup::verify::{Depth, verify};
use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::sqlite::runs::Runs;
use atlas_sidecar::jobs::prune_backups::{BackupRetention, Metrics, PRUNE_BACKUPS};
use atlas_sidecar::object::{ObjectError, ObjectStore};
use atlas_sidecar::schedule::Flow;
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::store::{End, Ended};
use prometheus::Registry;
use tempfile::TempDir;

use super::rebuild::made::Destination;
use super::restore::{restore, small, store};
use crate::store::{Bench, SCHEMA};
use crate::support::memory_store::{Fate, Fault, FaultyStore, MemoryStore};

const RUNS: &str = include_str!("../../../migrations/sqlite/0003_job_runs.sql");

const DAY: Duration = Duration::from_secs(86_400);

/// Three of the six segments of [`small`], each an object and a manifest.
const OLD: usize = 6;

/// A window at `now` that begins a moment after the fourth mark, which is the second full: what is older is not needed.
fn policy(made: &Destination, now: Timestamp) -> Policy {
    let begin = made.marks[3].manifest.observed.after(Duration::from_secs(20));
    Policy { window: now.since(begin), weeks: 0, months: 0, grace: DAY }
}

/// A window in which all of it is.
fn wide(made: &Destination, now: Timestamp) -> Policy {
    Policy { window: now.since(made.marks[0].manifest.observed) + DAY, ..policy(made, now) }
}

async fn run(store: &dyn ObjectStore, policy: &Policy, now: Timestamp) -> Pruned {
    prune(store, policy, now, false, &|| true).await.unwrap()
}

/// The keys of what is not needed, and how many bytes their objects have.
fn old(made: &Destination) -> (BTreeSet<String>, u64) {
    let files = made.marks[..3].iter().flat_map(|mark| made.files(mark));
    let keys = files.map(|file| file.strip_prefix(&made.folder).unwrap().to_str().unwrap().to_owned()).collect();
    let objects = made.marks[..3].iter().filter_map(|mark| mark.manifest.object.as_ref());
    (keys, objects.map(|object| object.stored.bytes).sum())
}

/// Each mark from `first` on comes back to the byte.
async fn restorable(made: &Destination, store: &Arc<dyn ObjectStore>, first: usize) {
    for mark in &made.marks[first..] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("new.db");
        restore(store, Moment::At(mark.manifest.observed), &to, None).await.unwrap();
        assert!(std::fs::read(to).unwrap() == mark.image, "{}", mark.manifest.place());
    }
}

fn tombstones(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder.join("tombstones")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// Written a day and an hour earlier.
fn age(file: &Path) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written - DAY - Duration::from_secs(3600)).unwrap();
}

#[tokio::test]
async fn in_a_folder_what_is_condemned_goes_a_day_later() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let (store, clock) = (store(&made), Clock::system());
    let (keys, bytes) = old(&made);
    let first = run(store.as_ref(), &policy(&made, clock.now()), clock.now()).await;
    assert_eq!((first.condemned, first.deleted, first.plan.kept), (OLD, 0, 3));
    assert_eq!(first.plan.condemned.iter().map(|c| c.key.to_string()).collect::<BTreeSet<_>>(), keys);
    let again = run(store.as_ref(), &policy(&made, clock.now()), clock.now()).await;
    assert_eq!((again.condemned, again.deleted), (0, 0), "it waits");
    restorable(&made, &store, 0).await;

    let [tombstone] = tombstones(&made.folder).try_into().unwrap();
    age(&tombstone);
    let last = run(store.as_ref(), &policy(&made, clock.now()), clock.now()).await;
    assert_eq!((last.condemned, last.deleted, last.bytes, last.is_done()), (0, OLD as u64, bytes, true));
    assert!(keys.iter().all(|key| !made.folder.join(key).exists()));
    assert!(tombstones(&made.folder).is_empty(), "its work is done");
    restorable(&made, &store, 3).await;
    let after = run(store.as_ref(), &policy(&made, clock.now()), clock.now()).await;
    assert_eq!((after.condemned, after.deleted, after.plan.kept), (0, 0, 3));
}

/// A destination in memory, whose clock is ours.
struct Scene {
    _folder: TempDir,
    made: Destination,
    bucket: Arc<MemoryStore>,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = small(folder.path());
        let bucket = MemoryStore::new();
        let now = made.marks[5].manifest.observed.after(Duration::from_secs(3600));
        bucket.set_clock(now);
        copy(&made.folder, &made.folder, &bucket);
        Self { _folder: folder, made, bucket, now }
    }

    /// One in which everything old is condemned, and its grace is over.
    async fn ripe() -> Self {
        let mut scene = Self::new();
        assert_eq!(scene.prune().await.condemned, OLD);
        scene.go_on(DAY + Duration::from_secs(60));
        scene
    }

    fn go_on(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.bucket.set_clock(self.now);
    }

    async fn prune(&self) -> Pruned {
        run(self.bucket.as_ref(), &policy(&self.made, self.now), self.now).await
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.bucket) as Arc<dyn ObjectStore>
    }

    fn faulty(&self, decide: impl Fn(usize, &str) -> Fate + Send + Sync + 'static) -> FaultyStore {
        FaultyStore { inner: Arc::clone(&self.bucket), fault: Fault::new(decide) }
    }

    /// What is there but for what a tombstone is made of.
    fn keys(&self) -> BTreeSet<String> {
        self.bucket.keys().into_iter().filter(|key| !key.starts_with("tombstones/")).collect()
    }

    /// Nothing that is named is broken, and the window is there to the byte.
    async fn whole(&self, told: &str) {
        let catalog = Catalog::load(self.bucket.as_ref()).await.unwrap();
        for entry in catalog.entries.values() {
            assert_eq!(
                state(&catalog.ways(entry.manifest.timeline), entry),
                State::Restorable,
                "{told}: {}",
                entry.manifest.place()
            );
        }
        let report = verify(&self.store(), &catalog, Depth::Deep, self.now, None, &|_| ()).await.unwrap();
        assert_eq!(report.problems, [], "{told}");
        restorable(&self.made, &self.store(), 3).await;
    }
}

fn copy(root: &Path, folder: &Path, bucket: &MemoryStore) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            copy(root, &path, bucket);
        } else {
            let key = path.strip_prefix(root).unwrap().to_str().unwrap();
            bucket.set(key, std::fs::read(&path).unwrap());
        }
    }
}

/// The grace is counted by the store's clock, from the tombstone that it has.
#[tokio::test]
async fn it_goes_when_the_grace_is_over_and_not_before() {
    let mut scene = Scene::new();
    let before = scene.keys();
    assert_eq!(scene.prune().await.condemned, OLD);
    scene.go_on(DAY - Duration::from_secs(60));
    assert_eq!(scene.prune().await.deleted, 0);
    assert_eq!(scene.keys(), before);
    scene.go_on(Duration::from_secs(120));
    assert_eq!(scene.prune().await.deleted, OLD as u64);
    assert_eq!(before.difference(&scene.keys()).cloned().collect::<BTreeSet<_>>(), old(&scene.made).0);
    scene.whole("after it").await;
}

/// A wider window, or what was newer was lost: condemned objects that are needed again stay, and their grace begins anew.
#[tokio::test]
async fn what_is_needed_again_is_spared() {
    let mut scene = Scene::ripe().await;
    let spared = run(scene.bucket.as_ref(), &wide(&scene.made, scene.now), scene.now).await;
    assert_eq!((spared.deleted, spared.condemned, spared.plan.kept), (0, 0, 6));
    let again = scene.prune().await;
    assert_eq!((again.deleted, again.condemned), (0, OLD), "the old tombstone counts no more");
    restorable(&scene.made, &scene.store(), 0).await;
    scene.go_on(DAY + Duration::from_secs(60));
    assert_eq!(scene.prune().await.deleted, OLD as u64);
}

/// Some stores answer 200 and keep the object.
#[tokio::test]
async fn swallowed_deletes_are_told() {
    let scene = Scene::ripe().await;
    scene.bucket.swallows_deletes.store(true, Ordering::SeqCst);
    let pruned = scene.prune().await;
    assert_eq!((pruned.deleted, pruned.bytes, pruned.is_done()), (0, 0, false));
    let kept: BTreeSet<String> = pruned.kept_by_store.iter().map(ToString::to_string).collect();
    assert_eq!(kept, old(&scene.made).0);
    scene.bucket.swallows_deletes.store(false, Ordering::SeqCst);
    assert_eq!(scene.prune().await.deleted, OLD as u64);
    scene.whole("afterwards").await;
}

fn refuses_deletes(_: usize, what: &str) -> Fate {
    match what.starts_with("delete ") {
        true => Fate::Refused(ObjectError::Denied("AccessDenied".to_owned())),
        false => Fate::Done,
    }
}

#[tokio::test]
async fn denied_deletes_are_told_and_asked_for_once() {
    let scene = Scene::ripe().await;
    let store = scene.faulty(refuses_deletes);
    let before = scene.keys();
    let pruned = run(&store, &policy(&scene.made, scene.now), scene.now).await;
    assert_eq!((pruned.deleted, pruned.refused.as_deref(), pruned.is_done()), (0, Some("AccessDenied"), false));
    assert_eq!(scene.keys(), before);
    let asked = store.fault.log.lock().unwrap().iter().filter(|what| what.starts_with("delete ")).count();
    assert_eq!(asked, 1);
}

/// T-5: one of the two clocks is wrong, and nobody knows which.
#[tokio::test]
async fn t5_clocks_apart_condemn_nothing() {
    let scene = Scene::new();
    let before = scene.keys();
    let hour = Duration::from_secs(3600);
    for now in [scene.now.after(hour), scene.now.before(hour)] {
        let error = prune(scene.bucket.as_ref(), &policy(&scene.made, now), now, false, &|| true).await.unwrap_err();
        assert!(matches!(error, ObjectError::Denied(_)), "{error:?}");
        assert!(error.to_string().contains("until both clocks agree"), "{error}");
    }
    assert_eq!(scene.bucket.keys().iter().filter(|key| key.ends_with(".json") && key.starts_with("tomb")).count(), 0);
    assert_eq!(scene.keys(), before);
}

/// `kill -9` before and after each thing that a run does.
#[tokio::test]
async fn a_crash_anywhere_leaves_nothing_broken_and_the_next_run_ends_it() {
    let ripe = Scene::ripe().await;
    let counting = ripe.faulty(|_, _| Fate::Done);
    run(&counting, &policy(&ripe.made, ripe.now), ripe.now).await;
    let calls = counting.fault.calls();
    assert!(counting.fault.log.lock().unwrap().iter().filter(|what| what.starts_with("delete ")).count() > OLD);
    for number in 1..=calls {
        for after in [false, true] {
            let told = format!("call {number} of {calls}, after it: {after}");
            let scene = Scene::ripe().await;
            let store = scene.faulty(move |call, _| match (call == number, after) {
                (false, _) => Fate::Done,
                (true, false) => Fate::DiesBefore,
                (true, true) => Fate::DiesAfter,
            });
            let policy = policy(&scene.made, scene.now);
            tokio::select! {
                ended = prune(&store, &policy, scene.now, false, &|| true) => panic!("{told}: {ended:?}"),
                () = store.fault.reached.notified() => {}
            }
            scene.whole(&told).await;
            let mut scene = scene;
            // What lost its manifest is condemned once more, for another reason.
            scene.prune().await;
            scene.go_on(2 * DAY);
            scene.prune().await;
            scene.whole(&told).await;
            let (keys, left) = (old(&scene.made).0, scene.keys());
            assert_eq!(keys.intersection(&left).count(), 0, "{told}");
        }
    }
}

/// The job, as the scheduler runs it.
struct Scheduled {
    runner: Runner,
    registry: Registry,
    _bench: Bench,
}

impl Scheduled {
    async fn new(scene: &Scene, store: Arc<dyn ObjectStore>) -> Self {
        let bench = Bench::with(&format!("{SCHEMA}{RUNS}")).await;
        let registry = Registry::new();
        let me = Me { owner: "a".to_owned(), host: "h".to_owned() };
        let clock = Clock::by_hand(scene.now);
        let runner = Runner::new(Arc::new(Runs::new(bench.database.clone())), me, clock, &registry);
        let metrics = Arc::new(Metrics::new(&registry));
        let job = Arc::new(BackupRetention::new(store, policy(&scene.made, scene.now), metrics));
        let plan = Plan {
            schedule: Schedule::parse("15 5 * * *", "UTC").unwrap(),
            enabled: true,
            timeout: Duration::from_secs(600),
            catch_up: CatchUp::RunOnce,
        };
        runner.set_jobs(vec![Planned { job, plan }]);
        Self { runner, registry, _bench: bench }
    }

    async fn run(&self, dry_run: bool) -> End {
        let mut flow = self.runner.run_now(PRUNE_BACKUPS, dry_run).await.unwrap();
        match flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone() {
            Flow::Over(end) => end,
            Flow::Running(_) => unreachable!(),
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == format!("atlas_sidecar_backup_{name}")).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

#[tokio::test]
async fn the_job_does_it_and_a_dry_run_changes_nothing() {
    let scene = Scene::ripe().await;
    let scheduled = Scheduled::new(&scene, scene.store()).await;
    let before = scene.bucket.keys();
    let end = scheduled.run(true).await;
    assert_eq!(end.ended, Ended::Success, "{end:?}");
    assert_eq!(end.words, "6 objects would be deleted, 0 would be condemned, 3 segments stay");
    assert_eq!(scene.bucket.keys(), before, "not even the object that tells the time is written");
    assert_eq!(scheduled.metric("deleted_objects_total"), 0.0);
    let end = scheduled.run(false).await;
    assert_eq!((end.ended, end.rows, end.bytes), (Ended::Success, OLD as u64, old(&scene.made).1), "{}", end.words);
    assert_eq!(end.words, "6 objects deleted, 0 condemned, 3 segments stay");
    assert_eq!(scheduled.metric("deleted_objects_total"), 6.0);
    scene.whole("after the job").await;
}

#[tokio::test]
async fn the_job_fails_where_the_store_keeps_what_it_should_not() {
    let scene = Scene::ripe().await;
    let scheduled = Scheduled::new(&scene, Arc::new(scene.faulty(refuses_deletes))).await;
    let end = scheduled.run(false).await;
    assert_eq!(end.ended, Ended::Failed, "{end:?}");
    assert!(end.words.ends_with("; not allowed to delete: AccessDenied"), "{}", end.words);
    assert_eq!(scheduled.metric("undeleted_objects"), 1.0);
    scene.bucket.swallows_deletes.store(true, Ordering::SeqCst);
    let scheduled = Scheduled::new(&scene, scene.store()).await;
    let end = scheduled.run(false).await;
    assert_eq!(end.ended, Ended::Failed, "{end:?}");
    assert!(end.words.contains("; the store kept 6 that it said it deleted, `t000001/"), "{}", end.words);
    assert_eq!(scheduled.metric("undeleted_objects"), 6.0);
}
