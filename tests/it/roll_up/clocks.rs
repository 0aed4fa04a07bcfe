//! T-5: what the jobs do when the clock jumps, and when rolling up fails. With the real scheduler, ticked by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::sqlite::runs::Runs;
use atlas_sidecar::jobs::retain::{self, Keep, MetricRetention};
use atlas_sidecar::jobs::roll_up::{self, MetricRollUp};
use atlas_sidecar::schedule::Flow;
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::schedule::trigger::Beat;
use atlas_sidecar::store::{End, Ended, RollUps};
use prometheus::Registry;

use super::*;

/// Behind all rows.
const FAR: i64 = START + 1_000_000 * DAY;

const RUNS: &str = include_str!("../../../migrations/sqlite/0003_job_runs.sql");

/// The two jobs, every five minutes, in a scheduler.
struct Jobs {
    runner: Runner,
    clock: Clock,
    registry: Registry,
}

impl Jobs {
    fn new(bench: &Bench, now: i64) -> Self {
        let (clock, registry) = (Clock::by_hand(at(now)), Registry::new());
        let me = Me { owner: "0123456789ab".to_owned(), host: "h".to_owned() };
        let runner = Runner::new(Arc::new(Runs::new(bench.database.clone())), me, clock.clone(), &registry);
        let day = Duration::from_secs(86_400);
        let keep = Keep { rows: 30 * day, five_minutes: 180 * day, hours: 1_825 * day };
        let roll_ups: Arc<dyn RollUps> = Arc::new(bench.buckets.clone());
        let plan = Plan {
            schedule: Schedule::parse("*/5 * * * *", "UTC").unwrap(),
            enabled: true,
            timeout: Duration::from_secs(600),
            catch_up: CatchUp::RunOnce,
        };
        let roll_up =
            MetricRollUp::new(Some(roll_ups.clone()), keep.five_minutes, roll_up::Metrics::new(&registry).into());
        let retain = MetricRetention::new(Some(roll_ups), keep, retain::Metrics::new(&registry).into());
        runner.set_jobs(vec![
            Planned { job: Arc::new(roll_up), plan: plan.clone() },
            Planned { job: Arc::new(retain), plan },
        ]);
        Self { runner, clock, registry }
    }

    /// A beat of the scheduler at `now`, and the end of what it started.
    async fn beat(&self, now: i64) {
        self.clock.set(at(now));
        self.runner.tick(Beat::Wake).await;
        let since = Instant::now();
        while self.runner.list().await.unwrap().iter().any(|job| job.running) {
            assert!(since.elapsed() < Duration::from_secs(60), "the jobs run on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Somebody who has looked at the clock asks for it.
    async fn run(&self, job: &str, dry_run: bool) -> End {
        self.asked(job, dry_run, true).await
    }

    async fn asked(&self, job: &str, dry_run: bool, clock_is_right: bool) -> End {
        // Two requests of one millisecond are one.
        self.clock.set(self.clock.now().after(Duration::from_millis(1)));
        let mut flow = self.runner.run_asked(job, dry_run, clock_is_right).await.unwrap();
        let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
        let Flow::Over(end) = over else { panic!("it is over") };
        end
    }

    fn blocked(&self, reason: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == "atlas_sidecar_retention_blocked").unwrap();
        let metric = family.get_metric().iter().find(|m| m.get_label()[0].value() == reason).unwrap();
        metric.get_gauge().get_value()
    }
}

#[tokio::test]
async fn t5_a_clock_in_2036_deletes_nothing() {
    let mut bench = Bench::new().await;
    bench.sql(RUNS).await;
    for hour in 0..40 {
        bench.point("m", START + hour * DAY, hour as f64).await;
    }
    let now = START + 39 * DAY + HOUR;
    let jobs = Jobs::new(&bench, now);
    jobs.beat(now).await;
    jobs.beat(now + 30 * MINUTE).await;
    jobs.beat(now + 60 * MINUTE).await;
    assert_eq!(bench.left(FAR).await, 30, "what is older than 30 days has gone");
    assert_eq!((jobs.blocked("clock"), jobs.blocked("roll_up")), (0.0, 0.0));

    let wrong = now + 3_650 * DAY;
    for beat in 0..6 {
        // Our own collectors write with that clock, too.
        bench.point("m", wrong + beat * HOUR, 1.0).await;
        jobs.beat(wrong + beat * HOUR + MINUTE).await;
    }
    assert_eq!(bench.left(FAR).await, 36, "nothing goes");
    assert_eq!(jobs.blocked("clock"), 1.0);

    // Put right again: pruning goes on.
    bench.point("m", now + 23 * HOUR, 1.0).await;
    for beat in 0..3 {
        jobs.beat(now + 23 * HOUR + beat * 30 * MINUTE + MINUTE).await;
    }
    assert_eq!(jobs.blocked("clock"), 0.0);
    assert_eq!(bench.left(FAR).await, 36, "30 of the last days without the oldest, and the seven others");
}

#[tokio::test]
async fn t5_silence_for_more_than_a_day_needs_a_person() {
    let mut bench = Bench::new().await;
    bench.sql(RUNS).await;
    bench.point("m", START, 1.0).await;
    bench.roll_up(START + 60 * DAY).await;
    let jobs = Jobs::new(&bench, START + 60 * DAY);
    jobs.beat(START + 60 * DAY).await;
    jobs.beat(START + 60 * DAY + 20 * MINUTE).await;
    assert_eq!((bench.left(FAR).await, jobs.blocked("clock")), (1, 1.0));
    let end = jobs.run("metric-retention", true).await;
    assert_eq!((end.ended, end.rows, bench.left(FAR).await), (Ended::Success, 1, 1), "{end:?}");
    let end = jobs.asked("metric-retention", false, false).await;
    assert_eq!((end.ended, bench.left(FAR).await), (Ended::Failed, 1), "{end:?}");
    assert!(end.words.contains("--clock-is-right"), "{}", end.words);
    let end = jobs.run("metric-retention", false).await;
    assert_eq!((end.ended, end.rows, bench.left(FAR).await), (Ended::Success, 1, 0), "{end:?}");
    assert_eq!(jobs.blocked("clock"), 0.0);
}

#[tokio::test]
async fn r2_where_rolling_up_fails_pruning_halts_and_says_so() {
    let mut bench = Bench::new().await;
    bench.sql(RUNS).await;
    for day in [0, 1, 59] {
        bench.point("m", START + day * DAY, 1.0).await;
    }
    bench.roll_up(START + 12 * HOUR).await;
    bench
        .sql("CREATE TRIGGER broken BEFORE INSERT ON sidecar_metrics_rollup BEGIN SELECT raise(ABORT, 'broken'); END")
        .await;
    bench.point("m", START + 2 * DAY, 1.0).await;
    let jobs = Jobs::new(&bench, START + 59 * DAY);
    assert_eq!(jobs.run("metric-rollup", false).await.ended, Ended::Failed);
    let end = jobs.run("metric-retention", false).await;
    assert_eq!(end.ended, Ended::Failed, "{end:?}");
    assert_eq!(bench.left(FAR).await, 4 - 1, "the bucket that was there is sealed, the others' rows stay");
    assert_eq!(jobs.blocked("roll_up"), 1.0);
    bench.sql("DROP TRIGGER broken").await;
    assert_eq!(jobs.run("metric-rollup", false).await.ended, Ended::Success);
    assert_eq!(jobs.run("metric-retention", false).await.ended, Ended::Success);
    assert_eq!((bench.left(FAR).await, jobs.blocked("roll_up")), (1, 0.0));
    bench.nothing_is_lost_or_doubled().await;
}
