//! On PostgreSQL, with `psql` as the other user and as the oracle.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::runs::Runs;
use atlas_sidecar::engine::postgres::upkeep::Keeper;
use atlas_sidecar::store::{Ended, Upkeep};
use atlas_sidecar::task::Tasks;

use super::{Desk, NIGHT, until};
use crate::support::postgres::{Cluster, ROLE};

const RUNS: &str = include_str!("../../../migrations/postgres/0003_job_runs.sql");
const TABLES: &str = "CREATE TABLE sidecar_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TIMESTAMPTZ NOT NULL DEFAULT now());
    CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash VARCHAR(64) NOT NULL, query_text TEXT NOT NULL) WITH (autovacuum_enabled = false);
    CREATE INDEX cache_hash ON search_cache (query_hash);";

struct Server {
    cluster: Cluster,
    keeper: Arc<dyn Upkeep>,
    desk: Desk,
}

impl Server {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let url = cluster.database("one");
        cluster.psql("one", &format!("SET ROLE {ROLE};{TABLES}{RUNS}"));
        let database = Database::open(&url, None).await.unwrap();
        let keeper: Arc<dyn Upkeep> = Arc::new(Keeper::new(database.clone()));
        let desk = Desk::new(Arc::new(Runs::new(database)), Arc::clone(&keeper), Duration::from_secs(300));
        Self { cluster, keeper, desk }
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.psql("one", sql)
    }

    /// Many rows come, and four of five go again: autovacuum is off, so nobody has looked yet.
    fn wear(&self) {
        self.sql("INSERT INTO search_cache SELECT md5(n::text), md5(n::text || 'x') || md5(n::text || 'y'), 'q' FROM generate_series(1, 60000) AS n");
        self.sql("VACUUM (ANALYZE) search_cache");
        self.sql("DELETE FROM search_cache WHERE substr(id, 1, 1) < 'd'");
        self.told();
    }

    /// Waits until what sessions did has come to the statistics.
    fn told(&self) {
        until("the statistics", || {
            self.sql("SELECT pg_stat_force_next_flush()");
            self.sql("SELECT n_dead_tup > 1000 FROM pg_stat_user_tables WHERE relname = 'search_cache'") == "t"
        });
    }

    fn size(&self, index: &str) -> u64 {
        self.sql(&format!("SELECT pg_relation_size('{index}')")).parse().unwrap()
    }

    fn invalid(&self) -> String {
        self.sql("SELECT coalesce(string_agg(relname, ',' ORDER BY relname), '') FROM pg_index JOIN pg_class ON oid = indexrelid WHERE NOT indisvalid")
    }

    /// Somebody in a transaction that has seen the table.
    fn transaction(&self, table: &str) -> Holder {
        let mut psql: Command = self.cluster.psql_command("one");
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {table}; SELECT pg_sleep(600)");
        let holder = psql.args(["-c", &sql]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the transaction", || {
            self.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
        });
        Holder(holder)
    }

    fn let_go(&self, mut holder: Holder) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
        holder.0.wait().unwrap();
    }
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// rows that are gone make room for others, and the next try finds that the indexes are too large by now.
#[tokio::test]
async fn r16_dead_rows_go_then_bloated_indexes_are_rebuilt() {
    let server = Server::new().await;
    server.wear();
    let before = server.size("cache_hash");
    let end = server.desk.by_hand(true).await;
    assert!(end.words.starts_with("would be done: vacuum `search_cache` with 4"), "{}", end.words);
    assert_ne!(server.sql("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'search_cache'"), "0");
    let end = server.desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.starts_with("done: vacuum `search_cache` with 4"), "{}", end.words);
    until("VACUUM to be seen", || {
        server.sql("SELECT n_dead_tup = 0 AND vacuum_count = 2 AND analyze_count = 2 FROM pg_stat_user_tables WHERE relname = 'search_cache'") == "t"
    });
    assert_eq!(server.size("cache_hash"), before);
    let node = server.sql("SELECT relfilenode FROM pg_class WHERE relname = 'cache_hash'");
    let end = server.desk.by_hand(false).await;
    println!("{} in {:?}; {before} -> {}", end.words, end.took, server.size("cache_hash"));
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.contains("reindex `cache_hash` with "), "{}", end.words);
    assert!(server.size("cache_hash") < before / 2);
    assert_ne!(server.sql("SELECT relfilenode FROM pg_class WHERE relname = 'cache_hash'"), node);
    assert!(end.bytes >= before / 2);
    assert_eq!(server.invalid(), "");
    assert_eq!(server.desk.counted("atlas_sidecar_upkeep_freed_bytes_total", &[]), end.bytes as f64);
    let end = server.desk.by_hand(false).await;
    assert_eq!((end.ended, end.words.as_str()), (Ended::Success, "nothing done"));
}

/// somebody cancels it midway. What it leaves is dropped, and the next run does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_a_rebuilding_that_is_cancelled_leaves_nothing() {
    let server = Server::new().await;
    server.wear();
    server.desk.by_hand(false).await;
    let before = server.size("cache_hash");
    // It waits for this one, having built its index.
    let holder = server.transaction("search_cache");
    let tasks = Tasks::new();
    let psql = server.cluster.psql_command("one");
    tasks.spawn("cancel", cancel(psql));
    let end = server.desk.by_hand(false).await;
    tasks.stop().await;
    assert_eq!(end.ended, Ended::Failed, "{}", end.words);
    assert!(end.words.contains("reindex `cache_hash`"), "{}", end.words);
    server.let_go(holder);
    // Dropping waits for old transactions as well; what it did not get is there until the next run.
    let end = server.desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(server.invalid(), "");
    assert!(server.size("cache_hash") < before / 2, "{}", end.words);
}

/// Cancels the first REINDEX that is seen.
async fn cancel(mut psql: Command) {
    let sql = "DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot();
        IF (SELECT count(pg_cancel_backend(pid)) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%') > 0 THEN RETURN; END IF;
        END LOOP; END $$";
    tokio::task::spawn_blocking(move || psql.args(["-c", sql]).output().unwrap()).await.unwrap();
}

/// leftovers of whoever rebuilt are dropped from our tables, and from nobody else's.
#[tokio::test]
async fn r17_leftovers_go_from_our_tables_only() {
    let server = Server::new().await;
    server.sql(&format!("SET ROLE {ROLE}; CREATE TABLE mine (a int); CREATE INDEX mine_a ON mine (a); CREATE INDEX search_cache_cc ON search_cache (query_text)"));
    let holder = server.transaction("search_cache");
    for index in ["cache_hash", "mine_a"] {
        let cut = server.cluster.try_psql("one", "SET statement_timeout = 0").and_then(|_| {
            let mut psql = server.cluster.psql_command("one");
            let out = psql
                .env("PGOPTIONS", "-c statement_timeout=1500")
                .args(["-c", &format!("REINDEX INDEX CONCURRENTLY {index}")])
                .output()
                .unwrap();
            if out.status.success() { Ok(()) } else { Err(String::new()) }
        });
        assert!(cut.is_err(), "{index}");
    }
    // Somebody's own index that failed is somebody's to repeat.
    server.let_go(holder);
    server.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'search_cache_cc'::regclass");
    assert_eq!(server.invalid(), "cache_hash_ccnew,mine_a_ccnew,search_cache_cc");
    let end = server.desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(end.words, "done: drop_leftover `cache_hash_ccnew` on `search_cache`, INVALID");
    assert_eq!(server.invalid(), "mine_a_ccnew,search_cache_cc");
}

/// A right that is missing is said, and is no failure.
#[tokio::test]
async fn tables_of_another_role_are_named_and_left_alone() {
    let server = Server::new().await;
    server.sql("ALTER TABLE search_cache OWNER TO postgres; CREATE TABLE webhooks (id int)");
    server.wear();
    let end = server.desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(
        end.words,
        "nothing done. not: vacuum `search_cache`, `webhooks`: the role neither owns them nor has MAINTAIN (PostgreSQL 17)"
    );
}

/// Samples and leases are written while an index is rebuilt: it has a session of its own. And a night with an application at work is not quiet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_database_puts_it_off() {
    let server = Server::new().await;
    server.wear();
    let mut bench = server.cluster.psql_command("one");
    let statements = "SELECT 1;\n".repeat(200_000);
    let mut child = bench.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let _ = stdin.write_all(statements.repeat(20).as_bytes());
    });
    let end = server.desk.scheduled(NIGHT).await;
    child.kill().unwrap();
    child.wait().unwrap();
    writer.join().unwrap();
    assert_eq!(end.ended, Ended::Skipped, "{}", end.words);
    assert!(end.words.contains("others are at work"), "{}", end.words);
    // What the server has read already it still does, and tells of it later.
    let since = Instant::now();
    while server.keeper.load(Duration::from_secs(2)).await.unwrap().transactions > 5.0 {
        assert!(since.elapsed() < Duration::from_secs(60), "it is never quiet");
    }
    let end = server.desk.scheduled("2026-11-22T04:00:00Z").await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.contains("vacuum `search_cache`"), "{}", end.words);
    assert!(server.keeper.load(Duration::from_millis(200)).await.unwrap().host_percent.is_none());
}
