//! The runner in this process, ticked by hand, with a clock that is moved by hand, on a real SQLite file.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Refused, Runner};
use atlas_sidecar::schedule::trigger::Beat;
use atlas_sidecar::schedule::{Flow, Job, JobContext, JobError, Outcome};
use atlas_sidecar::store::{Ended, RunLog};
use atlas_sidecar::task::Pending;
use prometheus::Registry;

use super::{OnSqlite, SOON, at};

/// What [`Toy`] does in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Work,
    Fail,
    Panic,
    /// Works until it is asked to stop.
    Heed,
    /// Sleeps and never asks.
    Sleep,
    /// Nothing if the clock is doubtful.
    Doubt,
}

/// A job that notes its slots.
struct Toy {
    does: Mutex<Does>,
    begun: AtomicUsize,
    at_once: AtomicUsize,
    overlapped: AtomicBool,
    slots: Mutex<Vec<Timestamp>>,
}

impl Toy {
    fn new(does: Does) -> Arc<Self> {
        let (begun, at_once, overlapped, slots) = Default::default();
        Arc::new(Self { does: Mutex::new(does), begun, at_once, overlapped, slots })
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    async fn work(&self, cx: &JobContext) -> Result<Outcome, JobError> {
        let does = *self.does.lock().unwrap();
        self.slots.lock().unwrap().push(cx.slot());
        self.begun.fetch_add(1, Ordering::SeqCst);
        match does {
            Does::Work => Ok(Outcome::done(3, "three rows")),
            Does::Fail => Err(JobError::Failed("no luck\nand more".to_owned())),
            Does::Panic => panic!("broken toy"),
            Does::Heed => loop {
                cx.check()?;
                cx.progress(1, Some(2), "rows");
                cx.rest(Duration::from_millis(20)).await?;
            },
            Does::Sleep => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(Outcome::default())
            }
            Does::Doubt => cx.clock_doubt().map_or_else(|| Ok(Outcome::done(0, "sure")), |doubt| cx.refuse(doubt)),
        }
    }
}

impl Job for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn run<'a>(&'a self, cx: &'a JobContext) -> Pending<'a, Result<Outcome, JobError>> {
        Box::pin(async move {
            if self.at_once.fetch_add(1, Ordering::SeqCst) > 0 {
                self.overlapped.store(true, Ordering::SeqCst);
            }
            let done = self.work(cx).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            done
        })
    }
}

fn plan(pattern: &str) -> Plan {
    Plan {
        schedule: Schedule::parse(pattern, "UTC").unwrap(),
        enabled: true,
        timeout: Duration::from_secs(600),
        catch_up: CatchUp::RunOnce,
    }
}

/// A sidecar's scheduler.
struct Side {
    runner: Runner,
    clock: Clock,
    registry: Registry,
    toy: Arc<Toy>,
}

impl Side {
    fn new(on: &OnSqlite, owner: &str, now: &str, does: Does, plan: Plan) -> Self {
        Self::with(Arc::clone(&on.log), owner, now, does, plan)
    }

    fn with(log: Arc<dyn RunLog>, owner: &str, now: &str, does: Does, plan: Plan) -> Self {
        let (clock, registry, toy) = (Clock::by_hand(at(now)), Registry::new(), Toy::new(does));
        let me = Me { owner: owner.to_owned(), host: "h".to_owned() };
        let runner = Runner::new(log, me, clock.clone(), &registry);
        let side = Self { runner, clock, registry, toy };
        side.set(plan);
        side
    }

    fn set(&self, plan: Plan) {
        self.runner.set_jobs(vec![Planned { job: Arc::clone(&self.toy) as Arc<dyn Job>, plan }]);
    }

    async fn tick(&self, now: &str) -> Duration {
        self.clock.set(at(now));
        self.runner.tick(Beat::Wake).await
    }

    /// Ticks and waits until nothing runs.
    async fn tick_through(&self, now: &str) {
        self.tick(now).await;
        self.quiet().await;
    }

    async fn quiet(&self) {
        let since = Instant::now();
        while self.runner.list().await.unwrap()[0].running {
            assert!(since.elapsed() < SOON, "the toy runs on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn begun(&self, times: usize) {
        let since = Instant::now();
        while self.toy.begun() < times {
            assert!(since.elapsed() < SOON, "the toy was begun {} times, not {times}", self.toy.begun());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.registry.gather().into_iter().find(|f| f.name() == format!("atlas_sidecar_{name}"))?;
        let metric = family.get_metric().iter().find(|metric| {
            labels.iter().all(|(n, v)| metric.get_label().iter().any(|l| l.name() == *n && l.value() == *v))
        })?;
        Some(metric.get_counter().get_value() + metric.get_gauge().get_value())
    }
}

/// The log's lines: slot, reason, owner, attempt, outcome.
fn lines(on: &OnSqlite) -> Vec<String> {
    let sql = "SELECT strftime('%d %H:%M', slot), reason, owner, attempt, coalesce(outcome, 'open') FROM sidecar_job_runs ORDER BY id";
    on.sql(sql).lines().map(|line| line.replace('|', " ")).collect()
}

#[tokio::test]
async fn a_slot_is_run_once_and_counted() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Work, plan("0 3 * * *"));
    let wake = side.tick("2026-11-22T02:59:30Z").await;
    assert!(
        wake > Duration::from_secs(29) && wake < Duration::from_secs(41),
        "until the slot and its jitter: {wake:?}"
    );
    assert_eq!(side.metric("job_next_run_timestamp_seconds", &[]), Some(at("2026-11-22T03:00:00Z").seconds()));
    for now in ["2026-11-22T03:00:11Z", "2026-11-22T03:00:12Z", "2026-11-22T03:01:00Z", "2026-11-22T12:00:00Z"] {
        side.tick_through(now).await;
    }
    assert_eq!(*side.toy.slots.lock().unwrap(), [at("2026-11-22T03:00:00Z")]);
    assert_eq!(lines(&on), ["22 03:00 schedule a 1 success"]);
    assert_eq!(side.metric("job_runs_total", &[("outcome", "success")]), Some(1.0));
    assert_eq!(side.metric("job_rows_total", &[]), Some(3.0));
    assert_eq!(side.metric("job_missed_total", &[]), Some(0.0));
    assert_eq!(side.metric("job_last_success_timestamp_seconds", &[]), Some(at("2026-11-22T03:00:11Z").seconds()));
    assert_eq!(side.metric("job_next_run_timestamp_seconds", &[]), Some(at("2026-11-23T03:00:00Z").seconds()));
    assert_eq!(side.metric("scheduler_last_tick_timestamp_seconds", &[]), Some(at("2026-11-22T12:00:00Z").seconds()));

    // After a restart nothing is forgotten.
    let again = Side::new(&on, "a", "2026-11-22T12:00:30Z", Does::Work, plan("0 3 * * *"));
    again.tick_through("2026-11-22T12:00:30Z").await;
    assert_eq!(again.toy.begun(), 0);
    assert_eq!(again.metric("job_last_success_timestamp_seconds", &[]), Some(at("2026-11-22T03:00:11Z").seconds()));
}

/// S-8
#[tokio::test]
async fn failures_and_panics_are_that_runs_and_the_next_slot_comes() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Fail, plan("* * * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    side.tick_through("2026-11-22T03:00:11Z").await;
    assert_eq!(side.metric("job_last_run_failed", &[]), Some(1.0));
    side.toy.does(Does::Panic);
    side.tick_through("2026-11-22T03:01:11Z").await;
    // Another process tells it, too, from the log.
    let again = Side::new(&on, "a", "2026-11-22T03:01:30Z", Does::Work, plan("* * * * *"));
    again.tick_through("2026-11-22T03:01:30Z").await;
    assert_eq!(again.metric("job_last_run_failed", &[]), Some(1.0));
    side.toy.does(Does::Work);
    side.tick_through("2026-11-22T03:02:11Z").await;
    assert_eq!(side.metric("job_last_run_failed", &[]), Some(0.0));
    assert_eq!(
        lines(&on),
        ["22 03:00 schedule a 1 failed", "22 03:01 schedule a 1 failed", "22 03:02 schedule a 1 success"]
    );
    assert_eq!(
        on.sql("SELECT words FROM sidecar_job_runs ORDER BY id"),
        "no luck\nit panicked: broken toy\nthree rows"
    );
    assert_eq!(side.metric("job_runs_total", &[("outcome", "failed")]), Some(2.0));
}

/// A job that asks is stopped at once; one that never asks is dropped after its grace of five seconds.
#[tokio::test]
async fn a_timeout_ends_a_run() {
    let on = OnSqlite::new().await;
    for (does, least) in [(Does::Heed, 0), (Does::Sleep, 5)] {
        let plan = Plan { timeout: Duration::from_millis(300), ..plan("* * * * *") };
        let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", does, plan);
        let since = Instant::now();
        let mut flow = side.runner.run_now("toy", false).await.unwrap();
        let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
        let Flow::Over(end) = over else { panic!("over") };
        assert_eq!(end.ended, Ended::TimedOut, "{end:?}");
        // No longer than a machine that is busy takes for it: the toy itself would take an hour.
        let took = since.elapsed();
        assert!(took.as_secs() >= least && took < SOON, "{does:?}: {took:?}");
        side.quiet().await;
    }
    let words = "SELECT words FROM sidecar_job_runs ORDER BY id";
    let dropped = "it took longer than its timeout; it did not stop and was dropped";
    assert_eq!(on.sql(words), format!("it took longer than its timeout\n{dropped}"));
}

/// S-5
#[tokio::test]
async fn a_job_runs_once_at_a_time_here_and_elsewhere() {
    let on = OnSqlite::new().await;
    let here = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Heed, plan("* * * * *"));
    let there = Side::new(&on, "b", "2026-11-22T02:59:30Z", Does::Heed, plan("* * * * *"));
    here.tick("2026-11-22T02:59:30Z").await;
    there.tick("2026-11-22T02:59:30Z").await;
    here.tick("2026-11-22T03:00:11Z").await;
    here.begun(1).await;
    for minute in 1..5 {
        here.tick(&format!("2026-11-22T03:0{minute}:11Z")).await;
        // Within the lease of who runs: 45 s by the clock of the wall, which stands still for who runs it.
        there.tick("2026-11-22T03:00:12Z").await;
    }
    assert_eq!((here.toy.begun(), there.toy.begun()), (1, 0));
    match here.runner.run_now("toy", false).await {
        Err(Refused::Running(who)) => assert_eq!(who, "in this sidecar"),
        other => panic!("{:?}", other.map(drop)),
    }
    match there.runner.run_now("toy", true).await {
        Err(Refused::Running(who)) => assert!(who.starts_with("in sidecar `a`"), "{who}"),
        other => panic!("{:?}", other.map(drop)),
    }
    assert!(matches!(here.runner.run_now("toys", false).await, Err(Refused::Unknown)));
    here.runner.drain().await;
    assert!(matches!(here.runner.run_now("toy", false).await, Err(Refused::Ending)));
}

/// Taken for dead and alive after all: it hears of it when it next moves its lease on, stops, and leaves the record to who has the run now.
#[tokio::test]
async fn who_hears_that_its_run_is_somebody_elses_stops() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Heed, plan("* * * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    side.tick("2026-11-22T03:00:11Z").await;
    side.begun(1).await;
    on.sql("UPDATE sidecar_job_runs SET owner = 'b', attempt = 2");
    // To when it is moved on.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    let since = Instant::now();
    while side.metric("job_running", &[("job", "toy")]) != Some(0.0) {
        assert!(since.elapsed() < SOON, "it runs on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(on.sql("SELECT owner, attempt, outcome IS NULL FROM sidecar_job_runs"), "b|2|1");
}

#[tokio::test]
async fn two_sidecars_share_the_slots() {
    let on = OnSqlite::new().await;
    let sides = ["a", "b"].map(|owner| Side::new(&on, owner, "2026-11-22T02:59:30Z", Does::Work, plan("* * * * *")));
    for side in &sides {
        side.tick("2026-11-22T02:59:30Z").await;
    }
    for minute in 0..20 {
        let now = format!("2026-11-22T03:{minute:02}:11Z");
        tokio::join!(sides[0].tick(&now), sides[1].tick(&now));
        for side in &sides {
            side.quiet().await;
        }
    }
    let mut slots: Vec<Timestamp> = sides.iter().flat_map(|side| side.toy.slots.lock().unwrap().clone()).collect();
    slots.sort();
    let wanted: Vec<Timestamp> = (0..20).map(|m| at(&format!("2026-11-22T03:{m:02}:00Z"))).collect();
    assert_eq!(slots, wanted, "each slot once, whoever ran it");
}

/// S-9
#[tokio::test]
async fn the_end_waits_for_runs_and_the_next_start_takes_them_up() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Heed, plan("0 3 * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    side.tick("2026-11-22T03:00:11Z").await;
    side.begun(1).await;
    side.runner.drain().await;
    assert_eq!(lines(&on), ["22 03:00 schedule a 1 cancelled"]);
    let again = Side::new(&on, "b", "2026-11-22T03:02:00Z", Does::Work, plan("0 3 * * *"));
    again.tick_through("2026-11-22T03:02:00Z").await;
    assert_eq!(lines(&on), ["22 03:00 schedule b 2 success"]);
}

/// What this installation itself left behind is not waited for; and a job that takes its process along three times is given up.
#[tokio::test]
async fn a_run_that_we_left_behind_is_taken_up_and_not_for_ever() {
    let on = OnSqlite::new().await;
    let first = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Sleep, plan("0 3 * * *"));
    first.tick("2026-11-22T02:59:30Z").await;
    let mut sides = vec![first];
    for attempt in 1..=3 {
        let side = sides.last().unwrap();
        side.tick(&format!("2026-11-22T03:0{attempt}:00Z")).await;
        side.begun(1).await;
        assert_eq!(lines(&on), [format!("22 03:00 schedule a {attempt} open")]);
        // Not drained: as after `kill -9`, as far as the log can tell.
        sides.push(Side::new(&on, "a", "2026-11-22T03:05:00Z", Does::Sleep, plan("0 3 * * *")));
    }
    let last = sides.last().unwrap();
    last.tick("2026-11-22T03:05:00Z").await;
    assert_eq!(last.toy.begun(), 0);
    assert_eq!(lines(&on), ["22 03:00 schedule a 3 lost"]);
}

/// S-11
#[tokio::test]
async fn what_was_missed_is_caught_up_as_the_plan_says() {
    for (catch_up, wanted, missed) in [
        (CatchUp::Skip, vec!["22 10:00 schedule  1 missed"], 10.0),
        (CatchUp::RunOnce, vec!["22 10:00 catch-up a 1 success"], 9.0),
        (
            CatchUp::RunAll,
            vec!["22 08:00 catch-up a 1 success", "22 09:00 catch-up a 1 success", "22 10:00 catch-up a 1 success"],
            0.0,
        ),
    ] {
        let on = OnSqlite::new().await;
        let start = if catch_up == CatchUp::RunAll { "2026-11-22T07:30:00Z" } else { "2026-11-22T00:30:00Z" };
        let plan = Plan { catch_up, ..plan("0 * * * *") };
        Side::new(&on, "a", start, Does::Work, plan.clone()).tick(start).await;
        let side = Side::new(&on, "a", "2026-11-22T10:30:00Z", Does::Work, plan);
        for _ in 0..4 {
            side.tick_through("2026-11-22T10:30:00Z").await;
        }
        assert_eq!(lines(&on), wanted, "{catch_up:?}");
        assert_eq!(side.metric("job_missed_total", &[]), Some(missed), "{catch_up:?}");
    }
}

#[tokio::test]
async fn a_new_schedule_has_missed_nothing() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Work, plan("0 3 * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    side.tick_through("2026-11-22T03:00:11Z").await;
    side.set(plan("30 * * * *"));
    side.tick_through("2026-11-22T12:10:00Z").await;
    assert_eq!(side.toy.begun(), 1, "nine slots before the change are not its own");
    side.tick_through("2026-11-22T12:30:11Z").await;
    assert_eq!(lines(&on)[1..], ["22 12:30 schedule a 1 success"]);
    // A job that is not wanted any more shows nothing but what it counted.
    side.runner.set_jobs(Vec::new());
    side.tick("2026-11-22T12:31:00Z").await;
    assert_eq!(side.metric("job_next_run_timestamp_seconds", &[("job", "toy")]), None);
    assert_eq!(side.metric("job_last_success_timestamp_seconds", &[("job", "toy")]), None);
}

#[tokio::test]
async fn a_job_that_is_not_enabled_runs_by_hand_only() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Work, Plan { enabled: false, ..plan("* * * * *") });
    side.tick("2026-11-22T02:59:30Z").await;
    side.tick_through("2026-11-22T03:10:00Z").await;
    assert_eq!(lines(&on), Vec::<String>::new());
    side.runner.run_now("toy", false).await.unwrap();
    side.quiet().await;
    assert_eq!(lines(&on), ["22 03:10 manual a 1 success"]);
}

#[tokio::test]
async fn a_pause_outlives_a_restart_and_is_not_caught_up() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Work, plan("* * * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    side.runner.pause("toy", true).await.unwrap();
    side.tick_through("2026-11-22T03:10:00Z").await;
    let again = Side::new(&on, "a", "2026-11-22T03:20:00Z", Does::Work, plan("* * * * *"));
    again.tick_through("2026-11-22T03:20:00Z").await;
    assert_eq!(again.metric("job_paused", &[]), Some(1.0));
    assert_eq!(again.metric("job_next_run_timestamp_seconds", &[]), None);
    // By hand it runs.
    again.runner.run_now("toy", false).await.unwrap();
    again.quiet().await;
    again.runner.pause("toy", false).await.unwrap();
    again.tick_through("2026-11-22T03:20:20Z").await;
    assert_eq!(again.metric("job_paused", &[]), Some(0.0));
    again.tick_through("2026-11-22T03:21:11Z").await;
    assert_eq!(lines(&on), ["22 03:20 manual a 1 success", "22 03:21 schedule a 1 success"]);
    assert!(matches!(again.runner.pause("toys", true).await, Err(Refused::Unknown)));
}

/// T-5: the clock goes back and forth, by hours and by years.
#[tokio::test]
async fn a_clock_that_jumps_runs_nothing_twice_and_is_doubted() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Doubt, plan("0 * * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    for now in [
        "2026-11-22T03:00:11Z",
        "2026-11-22T04:00:11Z",
        // Back by two hours: both come again.
        "2026-11-22T02:00:11Z",
        "2026-11-22T03:00:11Z",
        "2026-11-22T04:00:11Z",
        "2026-11-22T05:00:11Z",
    ] {
        side.tick_through(now).await;
    }
    let hours = ["22 03:00 schedule a 1 success", "22 04:00 schedule a 1 success", "22 05:00 schedule a 1 success"];
    assert_eq!(lines(&on)[..3], hours);
    assert_eq!(side.metric("clock_doubtful", &[]), Some(0.0));

    side.tick_through("2036-01-01T00:30:00Z").await;
    assert_eq!(side.metric("clock_doubtful", &[]), Some(1.0));
    assert_eq!(lines(&on)[3..], ["01 00:00 catch-up a 1 skipped"]);
    // A restart does not make the clock any better.
    let again = Side::new(&on, "a", "2036-01-01T01:00:11Z", Does::Doubt, plan("0 * * * *"));
    again.tick_through("2036-01-01T01:00:11Z").await;
    assert_eq!(lines(&on)[4..], ["01 01:00 schedule a 1 skipped"]);
    // It is put right: on with where it was.
    again.tick_through("2026-11-22T06:00:11Z").await;
    assert_eq!(lines(&on)[5..], ["22 06:00 schedule a 1 success"]);
    assert_eq!(again.metric("clock_doubtful", &[]), Some(0.0));

    // After a long holiday it is right, and somebody says so.
    let later = Side::new(&on, "a", "2026-12-24T06:00:11Z", Does::Doubt, plan("0 * * * *"));
    later.tick_through("2026-12-24T06:00:11Z").await;
    assert_eq!(lines(&on)[6..], ["24 06:00 schedule a 1 skipped"]);
    // A run by hand is no such word.
    later.runner.run_now("toy", false).await.unwrap();
    later.quiet().await;
    later.tick_through("2026-12-24T07:00:11Z").await;
    assert_eq!(lines(&on)[7..], ["24 06:00 manual a 1 failed", "24 07:00 schedule a 1 skipped"]);
    // Another sidecar that was there all the while hears of it from the log.
    let other = Side::new(&on, "b", "2026-12-24T08:00:11Z", Does::Doubt, plan("0 * * * *"));
    other.tick("2026-12-24T07:30:00Z").await;
    assert_eq!(other.metric("clock_doubtful", &[]), Some(1.0));
    later.runner.run_asked("toy", false, true).await.unwrap();
    later.quiet().await;
    later.tick_through("2026-12-24T08:00:11Z").await;
    assert_eq!(lines(&on)[9..], ["24 07:00 manual a 1 success", "24 08:00 schedule a 1 success"]);
    assert_eq!(later.metric("clock_doubtful", &[]), Some(0.0));
    other.tick("2026-12-24T08:01:00Z").await;
    assert_eq!(other.metric("clock_doubtful", &[]), Some(0.0));
}

/// A database that somebody holds is waited for; the slot is not lost.
#[tokio::test]
async fn where_the_run_log_cannot_be_written_jobs_wait() {
    let on = OnSqlite::new().await;
    let side = Side::new(&on, "a", "2026-11-22T02:59:30Z", Does::Work, plan("0 3 * * *"));
    side.tick("2026-11-22T02:59:30Z").await;
    let held = on.bench.database.clone();
    // The only connection that writes, and the lock with it.
    let tx = held.write().await.unwrap();
    let ticking = tokio::time::timeout(Duration::from_secs(1), side.tick("2026-11-22T03:00:11Z")).await;
    assert!(ticking.is_err(), "it waits");
    assert_eq!(side.toy.begun(), 0);
    drop(tx);
    side.tick_through("2026-11-22T03:01:11Z").await;
    assert_eq!(lines(&on), ["22 03:00 schedule a 1 success"]);
}
