//! `log-pruning` on tables of both engines: which rows go (T-1, T-2, T-4), which a condition keeps, and what is no failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::jobs::prune_logs::{LogPruning, Metrics, Settings};
use atlas_sidecar::schedule::Flow;
use atlas_sidecar::schedule::cron::{CatchUp, Schedule};
use atlas_sidecar::schedule::runner::{Me, Plan, Planned, Runner};
use atlas_sidecar::store::{Aged, End, Ended, Expiry, Rule, RunLog};
use prometheus::{Registry, TextEncoder};
use tokio::task::JoinSet;

use super::expiry::forms;
use super::{OnPostgres, OnSqlite, at, value};

pub(super) const NOW: &str = "2026-11-22T19:00:00Z";
const DAY: Duration = Duration::from_secs(86_400);

/// Runs the job once, by hand; its end, and what it shows then.
pub(super) async fn pruned(
    log: &Arc<dyn RunLog>,
    expiry: &Arc<dyn Expiry>,
    settings: Settings,
    now: Timestamp,
    dry_run: bool,
) -> (End, String) {
    pruned_within(log, expiry, settings, now, dry_run, Duration::from_secs(120)).await
}

pub(super) async fn pruned_within(
    log: &Arc<dyn RunLog>,
    expiry: &Arc<dyn Expiry>,
    settings: Settings,
    now: Timestamp,
    dry_run: bool,
    timeout: Duration,
) -> (End, String) {
    let me = Me { owner: "me".to_owned(), host: "h".to_owned() };
    // This clock is no server's. A run that is asked for has its instant to itself, and none is at a whole second, which are a schedule's.
    static RUNS: AtomicU64 = AtomicU64::new(1);
    let now = now.after(Duration::from_millis(RUNS.fetch_add(1, Ordering::Relaxed)));
    let registry = Registry::new();
    let runner = Runner::new(Arc::clone(log), me, Clock::by_hand(now), &registry);
    let metrics = Arc::new(Metrics::new(&registry));
    let job = Arc::new(LogPruning::new(Arc::clone(expiry), settings, metrics));
    let schedule = Schedule::parse("40 * * * *", "UTC").unwrap();
    runner.set_jobs(vec![Planned { job, plan: Plan { schedule, enabled: true, timeout, catch_up: CatchUp::RunOnce } }]);
    let mut flow = runner.run_asked("log-pruning", dry_run, true).await.unwrap();
    let over = flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.unwrap().clone();
    let Flow::Over(end) = over else { panic!("it is over") };
    (end, TextEncoder::new().encode_to_string(&registry.gather()).unwrap())
}

fn rule(table: &str, only: Option<&str>) -> Settings {
    let ages = vec![Aged { column: "at".to_owned(), keep: 7 * DAY }];
    let rule = Rule { table: table.to_owned(), ages, only: only.map(str::to_owned) };
    Settings { tables: vec![rule], ..Settings::default() }
}

#[tokio::test]
async fn t1_old_rows_of_a_named_table_go_in_whatever_form_and_a_condition_keeps_some() {
    let on = OnSqlite::new().await;
    let (now, minute) = (at(NOW), Duration::from_secs(60));
    on.sql("CREATE TABLE access_log (id TEXT, at TIMESTAMP, status INTEGER)");
    let mut rows = Vec::new();
    for (n, form) in forms(now.before(7 * DAY + minute)).iter().enumerate() {
        rows.push(format!("('gone-{n}', {form}, 200)"));
        rows.push(format!("('kept-error-{n}', {form}, 500)"));
        rows.push(format!("('kept-unknown-{n}', {form}, NULL)"));
    }
    for (n, form) in forms(now.before(7 * DAY - minute)).iter().enumerate() {
        rows.push(format!("('kept-young-{n}', {form}, 200)"));
    }
    for (n, odd) in ["NULL", "'yesterday'", "''", "20261101", "x'00'", "1795341600000000"].iter().enumerate() {
        rows.push(format!("('kept-odd-{n}', {odd}, 200)"));
    }
    on.sql(&format!("INSERT INTO access_log VALUES {}", rows.join(",")));
    let settings = rule("access_log", Some("status < 500 -- errors stay"));

    let (end, _) = pruned(&on.log, &on.expiry, settings.clone(), now, true).await;
    assert_eq!((end.ended, end.rows), (Ended::Success, 8), "{}", end.words);
    assert_eq!(end.words, "8 rows of `access_log` would be deleted, 6 with unreadable times stay");
    let (end, page) = pruned(&on.log, &on.expiry, settings.clone(), now, false).await;
    assert_eq!((end.ended, end.rows), (Ended::Success, 8), "{}", end.words);
    assert_eq!(on.sql("SELECT count(*) FROM access_log WHERE id LIKE 'gone%'"), "0");
    assert_eq!(on.sql("SELECT count(*) FROM access_log WHERE id LIKE 'kept%'"), "30");
    let shown = |family: &str| value(&page, &format!("{family}{{table=\"access_log\"}}"));
    assert_eq!(shown("atlas_sidecar_retention_table_rows_total"), Some(8.0));
    assert_eq!(shown("atlas_sidecar_retention_table_unreadable_rows"), Some(6.0));
    let (end, _) = pruned(&on.log, &on.expiry, settings, now, false).await;
    assert_eq!((end.ended, end.rows), (Ended::Success, 0), "again changes nothing");
}

/// R-22; and what looks like it and is not.
#[tokio::test]
async fn r22_what_is_missing_is_skipped_and_a_mistake_is_not() {
    let on = OnSqlite::new().await;
    let run = async |settings| pruned(&on.log, &on.expiry, settings, at(NOW), false).await.0;
    let end = run(Settings::default()).await;
    assert_eq!(end.ended, Ended::Skipped);
    for only in [None, Some("level = 'debug'")] {
        let end = run(rule("access_log", only)).await;
        assert_eq!((end.ended, end.words.as_str()), (Ended::Skipped, "there is no `access_log` with `at`"));
    }
    on.sql("CREATE TABLE access_log (id TEXT, level TEXT); INSERT INTO access_log VALUES ('a', 'x')");
    let end = run(rule("access_log", Some("level = 'debug'"))).await;
    assert_eq!((end.ended, end.words.as_str()), (Ended::Skipped, "there is no `access_log` with `at`"));
    on.sql("ALTER TABLE access_log ADD at TEXT; UPDATE access_log SET at = '2020-01-01 00:00:00'");
    // A misspelt column, in every kind of quotes, is nothing that could hold for every row.
    for (only, words) in [
        ("levle <> 'debug'", "no such column"),
        ("[levle] <> 'debug'", "no such column"),
        ("\"levle\" <> 'debug'", "double quotes"),
        ("1) OR (1", "parentheses"),
        ("1; DELETE FROM access_log", "more than a condition"),
        ("id = ?1", "parameters"),
        ("level = 'x' /*", "comment"),
    ] {
        let end = run(rule("access_log", Some(only))).await;
        assert_eq!(end.ended, Ended::Failed, "{only}");
        assert!(end.words.contains(words), "{only}: {}", end.words);
    }
    on.sql("CREATE VIEW v AS SELECT * FROM access_log; CREATE TABLE w (at TEXT PRIMARY KEY) WITHOUT ROWID");
    for table in ["v", "w"] {
        let end = run(rule(table, None)).await;
        assert_eq!(end.ended, Ended::Failed, "{table}: {}", end.words);
        assert!(end.words.contains("no ordinary table"), "{}", end.words);
    }
    assert_eq!(on.sql("SELECT count(*) FROM access_log"), "1");
    // One rule's mistake is not the others'.
    let mut both = rule("v", None);
    both.tables.extend(rule("access_log", None).tables);
    let end = run(both).await;
    assert_eq!(end.ended, Ended::Failed);
    assert!(end.words.contains("1 rows of `access_log` deleted"), "{}", end.words);
    assert_eq!(on.sql("SELECT count(*) FROM access_log"), "0");
}

#[tokio::test]
async fn postgresql_prunes_tables_of_each_type_of_time_and_partitions() {
    let on = OnPostgres::new().await;
    let psql = |sql: &str| on.cluster.psql("one", &format!("SET ROLE atlas; {sql}")).replace("SET\n", "");
    let (old, young) = ("2026-11-15 18:59", "2026-11-15 19:01");
    for (table, kind) in [("plain", "timestamp"), ("zoned", "timestamptz"), ("day", "date")] {
        psql(&format!(
            "SET TimeZone = 'UTC'; CREATE TABLE {table} (n int, at {kind}, status int);
            INSERT INTO {table} SELECT n, '{old}'::timestamp - interval '1 day', 200 FROM generate_series(1, 3000) AS n;
            INSERT INTO {table} SELECT n, '{young}'::timestamp + interval '1 day', 200 FROM generate_series(1, 2000) AS n;
            INSERT INTO {table} VALUES (0, NULL, 200), (0, 'infinity', 200), (0, '{old}'::timestamp - interval '1 day', 500)"
        ));
        let settings = rule(table, Some("status < 500 -- errors stay"));
        let (end, _) = pruned(&on.log, &on.expiry, settings.clone(), at(NOW), true).await;
        assert_eq!((end.ended, end.rows), (Ended::Success, 3000), "{table}: {}", end.words);
        let (end, page) = pruned(&on.log, &on.expiry, settings, at(NOW), false).await;
        assert_eq!((end.ended, end.rows), (Ended::Success, 3000), "{table}: {}", end.words);
        assert_eq!(end.words, format!("3000 rows of `{table}` deleted, 2 with unreadable times stay"));
        assert_eq!(on.cluster.psql("one", &format!("SELECT count(*) FROM {table}")), "2003");
        let unread = format!("atlas_sidecar_retention_table_unreadable_rows{{table=\"{table}\"}}");
        assert_eq!(value(&page, &unread), Some(2.0));
    }
    // The parent has no pages of its own.
    psql(&format!(
        "CREATE TABLE parted (n int, at timestamp) PARTITION BY HASH (n);
        CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO parted SELECT n, CASE n % 3 WHEN 0 THEN '{young}'::timestamp ELSE '{old}' END FROM generate_series(1, 60000) AS n"
    ));
    let (end, _) = pruned(&on.log, &on.expiry, rule("parted", None), at(NOW), false).await;
    assert_eq!((end.ended, end.rows), (Ended::Success, 40_000), "{}", end.words);
    assert_eq!(on.cluster.psql("one", "SELECT count(*) FROM parted"), "20000");
}

/// R-22, and that a condition of the operator's only reads.
#[tokio::test]
async fn postgresql_skips_what_is_missing_and_refuses_what_is_wrong() {
    let on = OnPostgres::new().await;
    let run = async |settings| pruned(&on.log, &on.expiry, settings, at(NOW), false).await.0;
    assert_eq!(run(rule("access_log", None)).await.ended, Ended::Skipped);
    let made =
        "SET ROLE atlas; CREATE TABLE access_log (id text, level text); INSERT INTO access_log VALUES ('a', 'x');
        CREATE SEQUENCE s; CREATE TABLE other (n int); INSERT INTO other VALUES (1)";
    on.cluster.psql("one", made);
    assert_eq!(run(rule("access_log", Some("level = 'x'"))).await.ended, Ended::Skipped);
    let time = "SET ROLE atlas; ALTER TABLE access_log ADD at timestamp; UPDATE access_log SET at = '2020-01-01';
        CREATE VIEW v AS SELECT * FROM access_log";
    on.cluster.psql("one", time);
    for only in [
        "levle <> 'debug'",
        "\"levle\" <> 'debug'",
        "true) OR (true",
        "true; DELETE FROM access_log",
        "id = $1",
        "id = 'x' /* /* */",
        "nextval('s') > 0",
        "EXISTS (WITH gone AS (DELETE FROM other RETURNING 1) SELECT * FROM gone)",
        "1",
    ] {
        let end = run(rule("access_log", Some(only))).await;
        assert_eq!(end.ended, Ended::Failed, "{only}: {}", end.words);
    }
    let end = run(rule("v", None)).await;
    assert!(end.ended == Ended::Failed && end.words.contains("no ordinary table"), "{}", end.words);
    assert_eq!(on.cluster.psql("one", "SELECT (SELECT count(*) FROM access_log), (SELECT count(*) FROM other)"), "1|1");
    // A `?` is an operator here, and `::` a cast.
    let end = run(rule("access_log", Some("'{\"x\": 1}'::jsonb ? level"))).await;
    assert_eq!((end.ended, end.rows), (Ended::Success, 1), "{}", end.words);
}

/// 200,000 rows, and an application that writes all the while. Some seconds.
#[tokio::test(flavor = "multi_thread")]
async fn r13_an_application_is_kept_out_for_a_quarter_of_a_second_at_most() {
    let on = OnSqlite::new().await;
    on.sql("PRAGMA journal_mode = WAL; CREATE TABLE access_log (id TEXT, at TEXT, path TEXT);
        CREATE INDEX by_path ON access_log (path, at); WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000)
        INSERT INTO access_log SELECT 'row-' || n, '2026-11-10T00:00:00+00:00', '/page/' || (n % 1000) FROM n");
    let (log, expiry) = (Arc::clone(&on.log), Arc::clone(&on.expiry));
    let settings = rule("access_log", Some("path LIKE '/page/%'"));
    let mut job = JoinSet::new();
    job.spawn(async move { pruned(&log, &expiry, settings, at(NOW), false).await.0 });
    let application = Database::open(on.bench.file(), false).await.unwrap();
    let (mut longest, mut writes) = (Duration::ZERO, 0);
    let end = loop {
        if let Some(end) = job.try_join_next() {
            break end.unwrap();
        }
        let since = Instant::now();
        let mut tx = application.write().await.unwrap();
        longest = longest.max(since.elapsed());
        sqlx::query("INSERT INTO processing_queue (id) VALUES (hex(randomblob(16)))").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        writes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((end.ended, end.rows), (Ended::Success, 200_000), "{}", end.words);
    assert!(writes > 1, "{writes}");
    let wal = std::fs::metadata(on.bench.file().with_extension("db-wal")).map_or(0, |about| about.len());
    println!("{:?} for the job, {writes} writes, the longest waited {longest:?}, WAL {wal} bytes", end.took);
    assert!(longest < Duration::from_millis(250) || cfg!(debug_assertions), "somebody waited {longest:?}");
    assert!(wal < 64 << 20, "WAL of {wal} bytes");
}
