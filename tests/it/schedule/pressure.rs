//! on PostgreSQL jobs make room for standbys that do not keep up and for sessions that wait, and never for ever.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Clock;
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::expiry::OldRows;
use atlas_sidecar::engine::postgres::pressure::{Considerate, Own, Pressure};
use atlas_sidecar::engine::postgres::roll_up::Buckets;
use atlas_sidecar::jobs::expire::CacheExpiry;
use atlas_sidecar::store::{Cursor, Expiry, RollUps, Step};
use prometheus::Registry;
use std::sync::Arc;

use super::shared::Shared;
use crate::support::postgres::{Cluster, ROLE};
use crate::support::wait_for;

struct Bench {
    _scratch: tempfile::TempDir,
    shared: Shared,
    registry: Registry,
    pressure: Pressure,
    database: Database,
}

impl Bench {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let shared = Shared::postgres(scratch.path(), Cluster::start());
        let bench = Self { _scratch: scratch, ..Self::on(shared).await };
        bench.cluster().psql("one", &format!("GRANT pg_monitor TO {ROLE}"));
        bench
    }

    async fn on(shared: Shared) -> Self {
        let Shared::Postgres(cluster) = &shared else { unreachable!() };
        let database = Database::open(&cluster.url("one"), None).await.unwrap();
        let registry = Registry::new();
        let pressure = Pressure::new(database.clone(), &Own::new(&registry));
        Self { _scratch: tempfile::tempdir().unwrap(), shared, registry, pressure, database }
    }

    fn cluster(&self) -> &Cluster {
        let Shared::Postgres(cluster) = &self.shared else { unreachable!() };
        cluster
    }

    /// How many batches were followed by a pause, for that reason.
    fn pauses(&self, reason: &str) -> u64 {
        let families = self.registry.gather();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let of = metrics.filter(|metric| metric.get_label()[0].value() == reason);
        of.map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    /// Expires the whole cache, 1000 rows of it, in one step; how long that took.
    async fn expire(&self) -> Duration {
        let columns = "'row-' || n, n, 'q', '{}', '2020-01-01', '2020-01-02'";
        self.shared.insert("search_cache", 1000, columns);
        let expiry: Arc<dyn Expiry> =
            Arc::new(Considerate::new(OldRows::new(self.database.clone()), self.pressure.clone()));
        let rule = CacheExpiry::new(Arc::clone(&expiry), Duration::from_secs(3600)).rule().clone();
        let step = Step { from: Cursor::default(), limit: 1_000_000, within: Duration::from_secs(30), dry_run: false };
        // Not a wait for something: a look of the last 200 ms at which all was well is believed.
        tokio::time::sleep(Duration::from_millis(250)).await;
        let since = Instant::now();
        let expired = expiry.expire(&rule, Clock::system().now(), step).await.unwrap().unwrap();
        assert_eq!(expired.rows, 1000);
        since.elapsed()
    }
}

/// A pause is bounded: whatever the machine, it is no shorter, and the batch was done before it.
const LONGEST: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_standby_that_does_not_keep_up_gets_time_and_not_for_ever() {
    let bench = Bench::new().await;
    let standby = bench.cluster().standby();
    wait_for("the standby", Duration::from_secs(30), || {
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL";
        (bench.cluster().psql("one", streaming) == "1").then_some(())
    });
    wait_for("the standby's place", Duration::from_secs(30), || {
        let behind = "SELECT coalesce(max(pg_current_wal_lsn() - replay_lsn), 0) < 1000000 FROM pg_stat_replication";
        (bench.cluster().psql("one", behind) == "t").then_some(())
    });
    bench.expire().await;
    assert_eq!(bench.pauses("standby"), 0, "it keeps up");

    standby.psql("postgres", "SELECT pg_wal_replay_pause()");
    bench.cluster().psql(
        "one",
        "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1 << 20))) FROM generate_series(1, 24)",
    );
    let took = bench.expire().await;
    assert_eq!(bench.pauses("standby"), 1);
    assert!(took >= LONGEST, "{took:?}");
    // The rows had gone before; and roll-ups make room as well.
    for n in 0..3 {
        bench.shared.sql(&format!("INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES ('a{n}', 'm', 1, '{{}}', '2020-01-01 00:0{n}:00')"));
    }
    let roll_ups = Considerate::new(Buckets::new(bench.database.clone()), bench.pressure.clone());
    let now = Clock::system().now();
    let mut chore = roll_ups.roll_up(now.before(Duration::from_secs(20 * 365 * 86_400)), now);
    while chore.next().await.unwrap().is_some() {}
    let rolled_up = bench.pauses("standby");
    assert!(rolled_up > 1, "{rolled_up}");
    let mut chore = roll_ups.prune(now);
    while chore.next().await.unwrap().is_some() {}
    assert!(bench.pauses("standby") > rolled_up);

    standby.psql("postgres", "SELECT pg_wal_replay_resume()");
    wait_for("the standby to catch up", Duration::from_secs(60), || {
        let behind = "SELECT max(pg_current_wal_lsn() - replay_lsn) < 1000000 FROM pg_stat_replication";
        (bench.cluster().psql("one", behind) == "t").then_some(())
    });
    let pauses = bench.pauses("standby");
    bench.expire().await;
    assert_eq!(bench.pauses("standby"), pauses, "it keeps up again");
}

/// Five sessions queue for one row that a sixth has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_sessions_that_wait_get_time_and_a_job_goes_on_all_the_same() {
    let bench = Bench::new().await;
    bench.shared.sql("CREATE TABLE busy (n int); INSERT INTO busy VALUES (1)");
    bench.expire().await;
    assert_eq!(bench.pauses("waiting"), 0);
    let session = |sql: &str| {
        let mut psql = bench.cluster().psql_command("one");
        Waiting(psql.args(["-c", sql]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let holder = session("BEGIN; UPDATE busy SET n = 2; SELECT pg_sleep(600)");
    wait_for("the holder", Duration::from_secs(30), || {
        (bench.cluster().psql("one", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1")
            .then_some(())
    });
    let waiting: Vec<Waiting> = (0..5).map(|_| session("UPDATE busy SET n = 3")).collect();
    wait_for("those who wait", Duration::from_secs(30), || {
        (bench.cluster().psql("one", "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "5")
            .then_some(())
    });
    let took = bench.expire().await;
    assert_eq!(bench.pauses("waiting"), 1);
    assert!(took >= LONGEST, "{took:?}");
    bench.cluster().psql("one", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    drop((holder, waiting));
    wait_for("the end of the queue", Duration::from_secs(30), || {
        (bench.cluster().psql("one", "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0")
            .then_some(())
    });
    bench.expire().await;
    assert_eq!(bench.pauses("waiting"), 1);
}

/// Without the right to see others nothing is seen, and nothing waits or fails for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_what_the_role_may_not_see_keeps_nothing_waiting() {
    let bench = Bench::new().await;
    bench.cluster().psql("one", &format!("REVOKE pg_monitor FROM {ROLE}"));
    let standby = bench.cluster().standby();
    standby.psql("postgres", "SELECT pg_wal_replay_pause()");
    bench.cluster().psql(
        "one",
        "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1 << 20))) FROM generate_series(1, 24)",
    );
    bench.expire().await;
    assert_eq!((bench.pauses("standby"), bench.pauses("waiting")), (0, 0));
}

struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
