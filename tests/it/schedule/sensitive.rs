//! Whether the tests would notice: each guard of the jobs that lies in the database is taken away here, or goes round by somebody naive, and what the other
//! tests check has to go wrong. A guard that is a line of code has a test elsewhere that goes red without that line.

use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::{postgres, sqlite};
use atlas_sidecar::store::{Claim, Claimed, Reason, RunId, RunLog, Width};
use tokio::task::JoinSet;

use super::shared::Shared;
use super::{OnPostgres, OnSqlite, at};

const LEASE: Duration = Duration::from_secs(45);

fn claim(owner: &str) -> Claim<'_> {
    let now = at("2026-11-22T03:00:02Z");
    Claim {
        job: "j",
        slot: at("2026-11-22T03:00:00Z"),
        reason: Reason::Schedule,
        owner,
        now,
        lease_until: now.after(LEASE),
        dead: None,
    }
}

/// How many of `logs` get the slot that all of them claim at once.
async fn winners(logs: &[Arc<dyn RunLog>]) -> usize {
    let mut claims = JoinSet::new();
    for (at, log) in logs.iter().cloned().enumerate() {
        claims.spawn(async move { log.claim(claim(&at.to_string())).await.unwrap() });
    }
    claims.join_all().await.iter().filter(|claimed| matches!(claimed, Claimed::Yours(_))).count()
}

/// On PostgreSQL claims run beside each other; what is unique in the table decides. Each of them waits inside of its INSERT for the others to have read.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_unique_slot_two_would_run_it() {
    let on = OnPostgres::new().await;
    let mut logs: Vec<Arc<dyn RunLog>> = Vec::new();
    for _ in 0..4 {
        let database = postgres::Database::open(&on.cluster.url("one"), None).await.unwrap();
        logs.push(Arc::new(postgres::runs::Runs::new(database)));
    }
    let slow =
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER slowly BEFORE INSERT ON sidecar_job_runs FOR EACH ROW EXECUTE FUNCTION slowly()";
    on.cluster.psql("one", slow);
    assert_eq!(winners(&logs).await, 1);
    on.cluster.psql("one", "DELETE FROM sidecar_job_runs; DROP INDEX sidecar_job_runs_open");
    assert_eq!(winners(&logs).await, 1, "the slot alone is enough");
    on.cluster.psql(
        "one",
        "DELETE FROM sidecar_job_runs; ALTER TABLE sidecar_job_runs DROP CONSTRAINT sidecar_job_runs_job_slot_key",
    );
    assert!(winners(&logs).await > 1, "the race would notice");
    // And the other way round: another slot of the same job, at once.
    on.cluster.psql("one", "DELETE FROM sidecar_job_runs; ALTER TABLE sidecar_job_runs ADD UNIQUE (job, slot); CREATE UNIQUE INDEX sidecar_job_runs_open ON sidecar_job_runs(job) WHERE finished_at IS NULL");
    let another = |log: Arc<dyn RunLog>| async move {
        log.claim(Claim { slot: at("2026-11-22T04:00:00Z"), ..claim("b") }).await.unwrap()
    };
    let (one, two) = tokio::join!(logs[0].claim(claim("a")), another(Arc::clone(&logs[1])));
    let both = [one.unwrap(), two].iter().filter(|claimed| matches!(claimed, Claimed::Yours(_))).count();
    assert_eq!(both, 1, "a job runs once at a time");
}

/// A finish by who was taken for dead: the attempt is what keeps it from ending somebody else's run.
#[tokio::test]
async fn without_the_attempt_a_dead_owner_would_end_the_run_of_the_living() {
    let (sqlite, postgres) = (OnSqlite::new().await, OnPostgres::new().await);
    for log in [&sqlite.log, &postgres.log] {
        let Claimed::Yours(first) = log.claim(claim("a")).await.unwrap() else { panic!("it is free") };
        let open = log.standing("j", "", at("2026-11-22T03:00:03Z")).await.unwrap().open.unwrap();
        let Claimed::Yours(second) = log.claim(Claim { dead: Some(&open), ..claim("b") }).await.unwrap() else {
            panic!("it is taken over")
        };
        assert_eq!(second, RunId { row: first.row, attempt: 2 });
        let end = atlas_sidecar::store::End {
            at: at("2026-11-22T03:00:04Z"),
            ended: atlas_sidecar::store::Ended::Success,
            rows: 0,
            bytes: 0,
            words: String::new(),
            took: LEASE,
        };
        assert!(
            !log.finish(first, &end).await.unwrap() && !log.renew(first, at("2026-11-22T03:09:00Z")).await.unwrap()
        );
        // Somebody who says the row only would have ended it.
        assert!(log.finish(second, &end).await.unwrap());
    }
}

/// Rows by slice of five minutes: those in sealed buckets and those in the table, which together are all that ever came.
const ALL_ROWS: &str = "SELECT coalesce(sum(n), 0) FROM (SELECT sum(count) AS n FROM sidecar_metrics_rollup WHERE sealed AND step_secs = 300
    UNION ALL SELECT count(*) FROM system_metrics) AS places";

async fn retained(shared: &Shared, before: atlas_sidecar::clock::Timestamp) {
    let roll_ups: Arc<dyn atlas_sidecar::store::RollUps> = match shared {
        Shared::Sqlite(file) => {
            Arc::new(sqlite::roll_up::Buckets::new(sqlite::Database::open(file, false).await.unwrap()))
        }
        Shared::Postgres(cluster) => Arc::new(postgres::roll_up::Buckets::new(
            postgres::Database::open(&cluster.url("one"), None).await.unwrap(),
        )),
    };
    let mut prune = roll_ups.prune(before);
    while prune.next().await.unwrap().is_some() {}
}

/// Ten rows an hour apart, rolled up until the fifth; a naive DELETE by age, and ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_naive_delete_is_noticed_and_ours_stops_at_the_watermark() {
    for (_scratch, shared) in Shared::both() {
        shared.sql("DELETE FROM system_metrics");
        let start = Width::Hour.floor(Clock::system().now()).before(Duration::from_secs(40 * 86_400));
        let hour = Duration::from_secs(3600);
        for n in 0..10 {
            let text = start.after(hour * n).to_sql();
            shared.sql(&format!("INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES ('{n}', 'm', {n}, '{{}}', '{text}')"));
        }
        let watermark = start.after(hour * 5).millis();
        shared.sql(&format!(
            "INSERT INTO sidecar_state (key, value) VALUES ('roll_up', '{{\"watermark\":{watermark}}}')
            ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ));
        let before = start.after(hour * 9);
        retained(&shared, before).await;
        assert_eq!((shared.count("system_metrics"), shared.sql(ALL_ROWS)), (5, "10".to_owned()), "up to the watermark");
        shared.sql(&format!("DELETE FROM system_metrics WHERE recorded_at < '{}'", before.to_sql()));
        assert_ne!(shared.sql(ALL_ROWS), "10", "the checker sees that four are nowhere");
    }
}
