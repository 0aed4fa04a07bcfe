//! T-5: clocks that are wrong for good, on both engines. Steps of a running sidecar's clock are in `steps`, the rules in `src/schedule/watch.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::{postgres, sqlite};
use atlas_sidecar::jobs::expire::CacheExpiry;
use atlas_sidecar::jobs::prune_logs::{self, LogPruning};
use atlas_sidecar::jobs::retain::{self, Keep, MetricRetention};
use atlas_sidecar::jobs::roll_up::{self, MetricRollUp};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::schedule::trigger::Beat;
use atlas_sidecar::schedule::{Flow, Job};
use atlas_sidecar::store::{Aged, End, Ended, Expiry, RollUps, Rule, RunLog, Width};
use prometheus::Registry;

use super::shared::Shared;
use super::{faked, set_clock, value};
use crate::support::postgres::Cluster;
use crate::support::{Sidecar, sidecar, wait_for};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// Rolling up and retention in a scheduler whose clock is moved by hand.
struct Side {
    runner: Runner,
    clock: Clock,
    registry: Registry,
}

impl Side {
    async fn new(shared: &Shared, owner: &str, now: Timestamp) -> Self {
        let (log, roll_ups): (Arc<dyn RunLog>, Arc<dyn RollUps>) = match shared {
            Shared::Sqlite(file) => {
                let database = sqlite::Database::open(file, false).await.unwrap();
                (Arc::new(sqlite::runs::Runs::new(database.clone())), Arc::new(sqlite::roll_up::Buckets::new(database)))
            }
            Shared::Postgres(cluster) => {
                let database = postgres::Database::open(&cluster.url("one"), None).await.unwrap();
                (
                    Arc::new(postgres::runs::Runs::new(database.clone())),
                    Arc::new(postgres::roll_up::Buckets::new(database)),
                )
            }
        };
        let (clock, registry) = (Clock::by_hand(now), Registry::new());
        let me = Me { owner: owner.to_owned(), host: "h".to_owned() };
        let runner = Runner::new(log, me, clock.clone(), &registry);
        let keep = Keep { rows: 30 * DAY, five_minutes: 180 * DAY, hours: 1825 * DAY };
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
    async fn beat(&self, now: Timestamp) {
        self.clock.set(now);
        self.runner.tick(Beat::Wake).await;
        let since = Instant::now();
        while self.runner.list().await.unwrap().iter().any(|job| job.running) {
            assert!(since.elapsed() < Duration::from_secs(60), "the jobs run on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn asked(&self, job: &str, clock_is_right: bool) -> End {
        // Two requests of one millisecond are one.
        self.clock.set(self.clock.now().after(Duration::from_millis(1)));
        let mut flow = self.runner.run_asked(job, false, clock_is_right).await.unwrap();
        let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
        let Flow::Over(end) = over else { panic!("it is over") };
        end
    }

    fn blocked(&self) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == "atlas_sidecar_retention_blocked").unwrap();
        let metric = family.get_metric().iter().find(|m| m.get_label()[0].value() == "clock").unwrap();
        metric.get_gauge().get_value()
    }
}

fn row(shared: &Shared, at: Timestamp) {
    let text = at.to_sql();
    shared.sql(&format!(
        "INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES ('{text}', 'm', 1, '{{}}', '{text}')"
    ));
}

/// The sidecar is new, and its clock was wrong when it began: nothing ever jumped, and what it writes is of the wrong time. As what is now is far ahead
/// of the rows, the server's clock agrees with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_wrong_from_the_start_deletes_no_row() {
    for (_scratch, shared) in Shared::both() {
        shared.sql("DELETE FROM system_metrics; DELETE FROM sidecar_job_runs; DELETE FROM sidecar_state WHERE key LIKE 'clock/%'");
        let wrong = Clock::system().now().before(2 * DAY);
        let right = wrong.before(3650 * DAY);
        for day in 0..40 {
            row(&shared, right.before(day * DAY));
        }
        let side = Side::new(&shared, "0123456789ab", wrong).await;
        for hour in 0..4 {
            let now = wrong.after(HOUR * hour);
            row(&shared, now);
            side.beat(now.after(HOUR / 2)).await;
            side.beat(now.after(HOUR / 2 + HOUR / 6)).await;
        }
        assert_eq!((shared.count("system_metrics"), side.blocked()), (44, 1.0));
        // Neither for somebody who has not thought of the clock; and nothing has to go for a refusal.
        let end = side.asked("metric-retention", false).await;
        assert_eq!((end.ended, shared.count("system_metrics")), (Ended::Failed, 44), "{}", end.words);
        assert!(
            end.words.contains("for as long as rows are kept") && end.words.contains("--clock-is-right"),
            "{}",
            end.words
        );
        // It was in a cellar for ten years after all.
        let end = side.asked("metric-retention", true).await;
        assert_eq!((end.ended, end.rows, shared.count("system_metrics")), (Ended::Success, 40, 4), "{}", end.words);
        assert_eq!(side.blocked(), 0.0);
    }
}

/// Rows of each day, and then nobody has written for three days: whatever else may be well, nothing grows, and a person can tell why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_alone_is_a_reason() {
    for (_scratch, shared) in Shared::both() {
        shared.sql("DELETE FROM system_metrics; DELETE FROM sidecar_job_runs; DELETE FROM sidecar_state WHERE key LIKE 'clock/%'");
        let now = Clock::system().now();
        for day in 3..40 {
            row(&shared, now.before(day * DAY));
        }
        let side = Side::new(&shared, "0123456789ab", now).await;
        assert_eq!(side.asked("metric-rollup", false).await.ended, Ended::Success);
        let end = side.asked("metric-retention", false).await;
        assert_eq!(
            (end.ended, shared.count("system_metrics"), side.blocked()),
            (Ended::Failed, 37, 1.0),
            "{}",
            end.words
        );
        assert!(end.words.contains("and the newest row is of"), "{}", end.words);
        row(&shared, now);
        let end = side.asked("metric-retention", false).await;
        assert_eq!((end.ended, end.rows > 7, side.blocked()), (Ended::Success, true, 0.0), "{}", end.words);
    }
}

/// It jumped, and weeks go by: neither days of even running nor a restart make it right.
#[tokio::test]
async fn a_clock_that_stays_in_2036_is_never_believed() {
    for (_scratch, shared) in Shared::both() {
        shared.sql("DELETE FROM system_metrics; DELETE FROM sidecar_job_runs; DELETE FROM sidecar_state WHERE key LIKE 'clock/%'");
        // Ten years ago all was well; so what is now is as far ahead as 2036 was from 2026, and the server says the same.
        // Half past: which row is past its age does not hang on the minute.
        let wrong = Width::Hour.floor(Clock::system().now()).before(60 * DAY).after(HOUR / 2);
        let right = wrong.before(3650 * DAY);
        for day in 0..40 {
            row(&shared, right.before(day * DAY));
        }
        let side = Side::new(&shared, "0123456789ab", right).await;
        for minutes in [1, 11, 21] {
            side.beat(right.after(HOUR * minutes / 60)).await;
        }
        assert_eq!(shared.count("system_metrics"), 31, "what is past its age goes while the clock is right");
        let believed = "SELECT value FROM sidecar_state WHERE key = 'clock/believed'";
        let then = shared.sql(believed);
        for day in 0..50 {
            let now = wrong.after(day * DAY);
            row(&shared, now);
            if day > 0 {
                // The monotonic clock runs as evenly.
                tokio::time::pause();
                tokio::time::advance(DAY).await;
                tokio::time::resume();
            }
            if day % 10 == 0 {
                // A restart knows no more than what is written down.
                Side::new(&shared, "0123456789ab", now).await.beat(now.after(HOUR)).await;
            }
            side.beat(now.after(HOUR)).await;
        }
        assert_eq!((shared.count("system_metrics"), side.blocked()), (31 + 50, 1.0));
        assert_eq!(shared.sql(believed), then, "a doubted time is not written down as a believed one");
        let end = side.asked("metric-retention", false).await;
        assert_eq!(end.ended, Ended::Failed, "{}", end.words);
        assert!(end.words.contains("the clock jumped from") && end.words.contains("--clock-is-right"), "{}", end.words);
    }
}

/// The other jobs that delete by age, and the one whose watermark says how far deleting may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_that_goes_by_age_does_anything_while_the_clock_is_doubted() {
    let scratch = tempfile::tempdir().unwrap();
    let shared = Shared::sqlite(scratch.path());
    let Shared::Sqlite(file) = &shared else { unreachable!() };
    let logs = scratch.path().canonicalize().unwrap().join("logs");
    std::fs::create_dir(&logs).unwrap();
    for name in ["access.log", "access.log.1"] {
        std::fs::write(logs.join(name), name).unwrap();
    }
    shared.sql("DELETE FROM sidecar_state WHERE key = 'roll_up'; CREATE TABLE access_log (at TEXT); INSERT INTO access_log VALUES (CURRENT_TIMESTAMP);
        INSERT INTO search_cache VALUES ('a', 'a', 'q', '{}', CURRENT_TIMESTAMP, datetime('now', '+20 hours'))");
    let database = sqlite::Database::open(file, false).await.unwrap();
    let log: Arc<dyn RunLog> = Arc::new(sqlite::runs::Runs::new(database.clone()));
    let expiry: Arc<dyn Expiry> = Arc::new(sqlite::expiry::OldRows::new(database.clone()));
    let roll_ups: Arc<dyn RollUps> = Arc::new(sqlite::roll_up::Buckets::new(database));
    let now = Clock::system().now();
    log.believe(now).await.unwrap();
    let (clock, registry) = (Clock::by_hand(now.after(3650 * DAY)), Registry::new());
    let me = Me { owner: "0123456789ab".to_owned(), host: "h".to_owned() };
    let runner = Runner::new(log, me, clock.clone(), &registry);
    let ages = vec![Aged { column: "at".to_owned(), keep: 7 * DAY }];
    let settings = prune_logs::Settings {
        tables: vec![Rule { table: "access_log".to_owned(), ages, only: None }],
        files: vec![prune_logs::Files {
            directory: logs.clone(),
            glob: Globs::new(["access.log*".to_owned()]),
            keep: 7 * DAY,
            compress_after: None,
        }],
        ..prune_logs::Settings::default()
    };
    let jobs: Vec<Arc<dyn Job>> = vec![
        Arc::new(CacheExpiry::new(Arc::clone(&expiry), DAY)),
        Arc::new(LogPruning::new(expiry, settings, prune_logs::Metrics::new(&registry).into())),
        Arc::new(MetricRollUp::new(Some(roll_ups), 180 * DAY, roll_up::Metrics::new(&registry).into())),
    ];
    let plan = Plan {
        schedule: Schedule::parse("*/5 * * * *", "UTC").unwrap(),
        enabled: true,
        timeout: Duration::from_secs(600),
        catch_up: CatchUp::RunOnce,
    };
    let names: Vec<&str> = jobs.iter().map(|job| job.name()).collect();
    runner.set_jobs(jobs.into_iter().map(|job| Planned { job, plan: plan.clone() }).collect());
    let untouched = || {
        assert_eq!((shared.count("search_cache"), shared.count("access_log")), (1, 1));
        assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 2);
        assert_eq!(shared.sql("SELECT count(*) FROM sidecar_state WHERE key = 'roll_up'"), "0", "no watermark");
    };
    for wait in [Duration::ZERO, HOUR] {
        clock.set(clock.now().after(wait));
        runner.tick(Beat::Wake).await;
        let since = Instant::now();
        while runner.list().await.unwrap().iter().any(|job| job.running) {
            assert!(since.elapsed() < Duration::from_secs(60), "the jobs run on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    untouched();
    assert_eq!(shared.sql("SELECT count(DISTINCT job) FROM sidecar_job_runs WHERE outcome = 'skipped' AND words LIKE 'the clock jumped from%'"), "3");
    for name in names {
        clock.set(clock.now().after(Duration::from_secs(1)));
        let mut flow = runner.run_now(name, false).await.unwrap();
        let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
        assert!(matches!(&over, Flow::Over(end) if end.ended == Ended::Failed), "{name}: {over:?}");
    }
    untouched();
}

/// PostgreSQL's server has a clock of its own, and a first start has nothing else to compare with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_otherwise_is_a_reason_to_delete_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let shared = Shared::postgres(scratch.path(), Cluster::start());
    shared.sql(
        "DELETE FROM system_metrics; DELETE FROM sidecar_job_runs; DELETE FROM sidecar_state WHERE key LIKE 'clock/%'",
    );
    let now = Clock::system().now();
    let wrong = now.after(3650 * DAY);
    for day in 0..40 {
        row(&shared, now.before(day * DAY));
    }
    // So that neither silence nor a gap is what keeps the rows.
    for day in 1..3600 {
        if day % 20 == 0 {
            row(&shared, now.after(day * DAY));
        }
    }
    let kept = shared.count("system_metrics");
    row(&shared, wrong);
    let side = Side::new(&shared, "0123456789ab", wrong).await;
    side.beat(wrong.after(HOUR)).await;
    side.beat(wrong.after(HOUR + HOUR / 6)).await;
    assert_eq!((shared.count("system_metrics"), side.blocked()), (kept + 1, 1.0));
    let words = shared.sql("SELECT DISTINCT words FROM sidecar_job_runs WHERE outcome = 'skipped'");
    assert!(words.contains("and that of the database's server 20"), "{words}");
}

/// The real program beside the real server, over a jump and a restart.
#[test]
fn a_sidecar_in_2036_deletes_nothing_on_postgresql() {
    const EVERY_MINUTE: &str = "[jobs.cache-expiry]\nschedule = \"* * * * *\"\n[scrape]\ninterval = \"1h\"\n";
    let scratch = tempfile::tempdir().unwrap();
    let shared = Shared::postgres(scratch.path(), Cluster::start());
    shared.sql("INSERT INTO search_cache VALUES ('a', 'a', 'q', '{}', now(), now() + interval '20 hours')");
    let environment = faked(&scratch, 5);
    set_clock(&scratch, 3650 * 86_400);
    let config = format!("{EVERY_MINUTE}{}", shared.config());
    let first = Sidecar::launch(scratch.path(), &config, &environment);
    first.wait_ready();
    let skipped = "SELECT count(*) FROM sidecar_job_runs WHERE job = 'cache-expiry' AND outcome = 'skipped' AND slot > '2030-01-01'";
    wait_for("a run that does nothing", Duration::from_secs(120), || (shared.sql(skipped) != "0").then_some(()));
    assert_eq!(value(&first.metrics(), "atlas_sidecar_clock_doubtful"), Some(1.0));
    let out = sidecar(scratch.path(), &["jobs", "run", "cache-expiry", "--config", "sidecar.toml"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("--clock-is-right"), "{said}");
    assert_eq!(first.stop(), 0);
    assert_eq!(shared.count("search_cache"), 1);
}
