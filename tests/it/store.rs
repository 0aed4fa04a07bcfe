//! The store of samples on real files, with the sqlite3 shell as the other writer and as the oracle.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::ids::{Ids, Instance};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::samples::{self, Samples};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Kind, Labels, tags};
use atlas_sidecar::store::{Appended, History, Meta, Row, SampleStore, StoreError, Stored};
use tempfile::TempDir;

use crate::support::run;

/// The specification's tables (with the columns that it adds), and ours.
pub const SCHEMA: &str = "
    CREATE TABLE api_keys (id VARCHAR(36) PRIMARY KEY, name VARCHAR(255) NOT NULL, key_hash VARCHAR(255) NOT NULL UNIQUE,
        permissions JSON, rate_limit_per_hour INTEGER DEFAULT 1000, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        last_used_at TIMESTAMP, is_active BOOLEAN DEFAULT TRUE);
    CREATE TABLE webhooks (id VARCHAR(36) PRIMARY KEY, url VARCHAR(2048) NOT NULL, events JSON NOT NULL, secret VARCHAR(255),
        is_active BOOLEAN DEFAULT TRUE, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, last_triggered_at TIMESTAMP,
        failure_count INTEGER DEFAULT 0);
    CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash VARCHAR(64) NOT NULL UNIQUE, query_text TEXT NOT NULL,
        results JSON NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP NOT NULL);
    CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
        metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);
    CREATE TABLE content_metadata (id VARCHAR(36) PRIMARY KEY, title TEXT, url TEXT, created_at TIMESTAMP,
        search_indexed_at TIMESTAMP, last_accessed_at TIMESTAMP, access_count INTEGER DEFAULT 0, cognitive_score DECIMAL(5,2),
        vector_embedding JSON);
    CREATE INDEX idx_content_cognitive_score ON content_metadata(cognitive_score);
    CREATE TABLE processing_queue (id VARCHAR(36) PRIMARY KEY, content_id VARCHAR(36), status TEXT DEFAULT 'pending',
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP, priority INTEGER DEFAULT 5,
        estimated_duration INTEGER, actual_duration INTEGER, worker_id VARCHAR(255));
    CREATE INDEX idx_queue_priority_status ON processing_queue(priority, status);
    CREATE TABLE sidecar_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT);
    CREATE TABLE sidecar_metric_meta (name TEXT PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL, updated_at TEXT NOT NULL);
";

/// A file with [`SCHEMA`], a store on it, and ids.
pub struct Bench {
    pub folder: TempDir,
    pub database: Database,
    pub store: Samples,
    pub ids: Ids,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(SCHEMA).await
    }

    pub async fn with(schema: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("atlas.db"), true).await.unwrap();
        let instance = Instance::load_or_make(&folder.path().join("state")).unwrap();
        let bench = Self { store: Samples::new(database.clone(), instance), ids: Ids::new(instance), database, folder };
        bench.sql(schema);
        bench
    }

    pub fn file(&self) -> &Path {
        self.database.path()
    }

    /// Runs `sql` in the sqlite3 shell, another process, and gives what it prints.
    pub fn sql(&self, sql: &str) -> String {
        run("sqlite3", &["-bail", "-cmd", ".timeout 5000", self.file().to_str().unwrap(), sql])
    }

    pub fn count(&self) -> usize {
        self.sql("SELECT count(*) FROM system_metrics").trim().parse().unwrap()
    }

    pub fn rows(&self, count: usize) -> Vec<Row> {
        let labels = Labels::none().with("host", "h").with("odd", "\"\\\n\u{0}ü'");
        (0..count)
            .map(|n| Row {
                id: self.ids.next(at("2026-11-22T10:00:00Z")),
                name: format!("m{}", n % 7),
                tags: tags::to_json(&labels),
                value: n as f64 / 4.0,
                at: at("2026-11-22T10:00:00Z").after(Duration::from_millis(n as u64)),
            })
            .collect()
    }

    pub async fn history(&self, from: &str, to: &str, names: &Globs) -> (Vec<Stored>, History) {
        let mut rows = Vec::new();
        let mut each = |row| {
            rows.push(row);
            Ok(())
        };
        let done = self.store.history(at(from), at(to), names, &mut each).await.unwrap();
        (rows, done)
    }
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(text).unwrap()
}

/// A sqlite3 shell that holds a transaction open.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Shell {
    fn open(file: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .args(["-bail", file.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`sqlite3` does not start: the README's test command installs it");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    /// Runs `sql` and waits until it is done.
    fn run(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql}; SELECT 'done';").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "after {sql}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn rows_are_written_as_documented_and_only_once() {
    let bench = Bench::new().await;
    let rows = bench.rows(1203);
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 1203);
    // Every byte of a row, as another SQLite reads it.
    let shown = bench.sql(
        "SELECT id, metric_name, metric_value, typeof(tags), hex(tags), recorded_at FROM system_metrics ORDER BY rowid DESC LIMIT 1",
    );
    let last = rows.last().unwrap();
    let tags: String = last.tags.bytes().map(|b| format!("{b:02X}")).collect();
    assert_eq!(shown, format!("{}|m5|300.5|text|{tags}|2026-11-22 10:00:01.202\n", last.id));
    // A retry whose first answer was lost, whole and of less than a chunk.
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.store.append(&rows[..3]).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.count(), 1203);
}

#[tokio::test]
async fn ids_taken_by_other_rows_write_nothing() {
    let bench = Bench::new().await;
    let rows = bench.rows(1000);
    bench.store.append(&rows[700..701]).await.unwrap();
    assert!(matches!(bench.store.append(&rows).await, Err(StoreError::Taken)));
    assert_eq!(bench.count(), 1);
    bench.store.append(&bench.rows(5)).await.unwrap();
    assert_eq!(bench.count(), 6);
}

#[tokio::test]
async fn v2_v3_v4_v9_a_row_that_cannot_be_stored_is_named_and_nothing_is_written() {
    let bench = Bench::new().await;
    for (row, spoil, reason) in [
        (3, (|r| r.value = f64::NAN) as fn(&mut Row), "not_finite"),
        (999, |r| r.value = f64::NEG_INFINITY, "not_finite"),
        (500, |r| r.name = "ü".repeat(256), "name_too_long"),
    ] {
        let mut rows = bench.rows(1000);
        spoil(&mut rows[row]);
        match bench.store.append(&rows).await {
            Err(StoreError::Rejected { row: named, reason: why }) => assert_eq!((named, why), (row, reason)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.count(), 0);
    let mut rows = bench.rows(1);
    rows[0].name = "ü".repeat(255);
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
}

#[tokio::test]
async fn v2_a_rule_of_the_table_names_its_row_and_spares_the_others() {
    let bench = Bench::with(
        &SCHEMA.replace("metric_name VARCHAR(255) NOT NULL", "metric_name TEXT CHECK (metric_name <> 'bad')"),
    )
    .await;
    for bad in [0, 499, 700, 1011] {
        let mut rows = bench.rows(1012);
        rows[bad].name = "bad".to_owned();
        let refused = bench.store.append(&rows).await;
        assert!(
            matches!(refused, Err(StoreError::Rejected { row, reason: "constraint" }) if row == bad),
            "{refused:?}"
        );
        let before = bench.count();
        rows.remove(bad);
        assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
        assert_eq!(bench.count(), before + 1011);
    }
}

#[tokio::test]
async fn v1_v5_v6_values_come_back_to_the_bit() {
    let bench = Bench::new().await;
    let values = [
        5e11,
        1e15,
        99_999_999_999.999_9,
        3.2e-5,
        5.0,
        5.5,
        0.0,
        -7.25,
        9_007_199_254_740_993.0,
        1e300,
        5e-324,
        f64::MAX,
        0.1,
    ];
    let mut rows = bench.rows(values.len());
    for (row, value) in rows.iter_mut().zip(values) {
        (row.name, row.value) = ("v".to_owned(), value);
    }
    bench.store.append(&rows).await.unwrap();
    let (read, _) = bench.history("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z", &Globs::all()).await;
    assert_eq!(read.iter().map(|r| r.value.to_bits()).collect::<Vec<_>>(), values.map(f64::to_bits));
    // NUMERIC affinity has no negative zero: the one value that changes.
    rows = bench.rows(1);
    rows[0].value = -0.0;
    bench.store.append(&rows).await.unwrap();
    assert_eq!(
        bench.sql("SELECT typeof(metric_value), metric_value FROM system_metrics WHERE metric_name = 'm0'"),
        "integer|0\n"
    );
}

#[tokio::test]
async fn history_gives_whole_series_in_order_whatever_wrote_them() {
    let bench = Bench::new().await;
    // V-8 NULL ids, V-11 permuted keys and numbers, T-1 and T-2 forms, T-7 ties, out of order in the table.
    bench.sql(
        r#"INSERT INTO system_metrics VALUES
        (NULL, 'm', 6, '{"b":1,"a":"x"}', '2026-11-22 10:06:00'),
        (NULL, 'm', 1, '{"a":"x","b":"1"}', '2026-11-22T12:01:00+02:00'),
        ('u1', 'm', 3, '{"a":"x","b":1}', 1795341780),
        ('u2', 'm', 2, ' {"a":"x", "b":1}', '2026-11-22T10:02:00.000000'),
        ('u3', 'm', 4, '{"a":"y","a":"x","b":"1"}', 1795341840000),
        ('u4', 'm', 5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00Z'),
        ('u5', 'm', 5.5, '{"a":"x","b":"1"}', '2026-11-22 10:05:00.000'),
        ('n1', 'm', 8, NULL, '2026-11-22 10:00:00'),
        ('n2', 'm', 9, '{}', '2026-11-22 10:00:01'),
        ('o1', 'm', 0, NULL, '2026-11-22 09:59:59.999'),
        ('o2', 'm', 0, NULL, '2026-11-22 10:10:00'),
        ('o3', 'm', 0, NULL, '2026-11-22T09:30:00-00:40'),
        ('l1', 'l.x', 7, NULL, '2026-11-22 10:00:00'),
        ('b1', 'm', 'abc', NULL, '2026-11-22 10:00:00'),
        ('b2', 'm', 'NaN', '{"a":"x","b":"1"}', '2026-11-22 10:00:00'),
        ('b3', 'm', 1, '[1]', '2026-11-22 10:00:00'),
        ('b4', 'm', 1, '{"a"', '2026-11-22 10:00:00'),
        ('b5', 'm', 1, printf('{"a":"%*c"}', 2000000, 'x'), '2026-11-22 10:00:00'),
        ('b6', 'm', x'00ff', NULL, '2026-11-22 10:00:00'),
        ('t1', 'm', 1, NULL, NULL),
        ('t2', 'z', 1, NULL, 'yesterday'),
        ('t3', 'm', 1, NULL, 20261122)"#,
    );
    assert_eq!(bench.sql("SELECT unixepoch('2026-11-22 10:03:00')"), "1795341780\n");
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::all()).await;
    let told: Vec<_> = read
        .iter()
        .map(|r| format!("{}{} {} {}", r.name, tags::to_json(&r.labels), r.value, &r.at.to_sql()[14..]))
        .collect();
    assert_eq!(
        told,
        [
            r"l.x{} 7 00:00.000",
            r"m{} 8 00:00.000",
            r"m{} 9 00:01.000",
            r#"m{"a":"x","b":"1"} 1 01:00.000"#,
            r#"m{"a":"x","b":"1"} 2 02:00.000"#,
            r#"m{"a":"x","b":"1"} 3 03:00.000"#,
            r#"m{"a":"x","b":"1"} 4 04:00.000"#,
            r#"m{"a":"x","b":"1"} 5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 5.5 05:00.000"#,
            r#"m{"a":"x","b":"1"} 6 06:00.000"#,
        ]
    );
    assert_eq!(done, History { rows: 10, bad_rows: 6, bad_times: 3 });
    let (read, done) = bench.history("2026-11-22T10:00:00Z", "2026-11-22T10:10:00Z", &Globs::new(["l*"])).await;
    assert_eq!((read.len(), done.rows), (1, 1));
}

#[tokio::test]
async fn history_stops_where_its_reader_stops() {
    let bench = Bench::new().await;
    bench.store.append(&bench.rows(100)).await.unwrap();
    let mut left = 5;
    let mut each = |_: Stored| {
        left -= 1;
        if left == 0 { Err(std::io::Error::other("pipe closed")) } else { Ok(()) }
    };
    let (from, to) = (at("2026-11-22T00:00:00Z"), at("2026-11-23T00:00:00Z"));
    let ended = bench.store.history(from, to, &Globs::all(), &mut each).await;
    assert!(ended.is_err_and(|e| e.to_string().contains("pipe closed")));
    assert_eq!(left, 0);
}

/// E-6: another process holds the write lock. The append says so instead of waiting for ever, and the same rows go in afterwards.
#[tokio::test]
async fn e6_a_busy_writer_is_busy_and_the_retry_stores_once() {
    let bench = Bench::new().await;
    let rows = bench.rows(600);
    let mut shell = Shell::open(bench.file());
    shell.run("BEGIN IMMEDIATE; DELETE FROM webhooks");
    let start = Instant::now();
    assert!(matches!(bench.store.append(&rows).await, Err(StoreError::Busy(_))));
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    shell.run("COMMIT");
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Earlier);
    assert_eq!(bench.count(), 600);
}

/// The lock goes away while the append waits for it: no error at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e6_a_short_lock_is_waited_for() {
    let bench = Bench::new().await;
    let rows = bench.rows(10);
    let mut shell = Shell::open(bench.file());
    shell.run("BEGIN IMMEDIATE");
    let (appended, ()) = tokio::join!(bench.store.append(&rows), async {
        tokio::task::spawn_blocking(move || {
            shell.run("COMMIT");
        })
        .await
        .unwrap();
    });
    assert_eq!(appended.unwrap(), Appended::Now);
}

#[tokio::test]
async fn a_full_disk_is_full_and_heals() {
    let bench = Bench::new().await;
    bench.store.append(&bench.rows(10)).await.unwrap();
    let limit = |pages: u32| {
        let database = bench.database.clone();
        async move {
            let mut tx = database.write().await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    };
    limit(40).await;
    let rows = bench.rows(2000);
    assert!(matches!(bench.store.append(&rows).await, Err(StoreError::Full(_))));
    assert_eq!(bench.count(), 10);
    limit(1_000_000).await;
    assert_eq!(bench.store.append(&rows).await.unwrap(), Appended::Now);
    assert_eq!(bench.count(), 2010);
}

/// SQLite ends a transaction by itself on some errors; sqlx goes on counting it. The writer must not stay lost.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_does_not_block_the_writer() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        let mut tx = bench.database.write().await.unwrap();
        sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        assert!(tx.rollback().await.is_err());
        assert_eq!(bench.store.append(&bench.rows(5)).await.unwrap(), Appended::Now);
    }
    assert_eq!(bench.count(), 15);
}

#[tokio::test]
async fn an_append_that_is_dropped_leaves_nothing_open() {
    let bench = Bench::new().await;
    let rows = bench.rows(5000);
    for micros in [1, 200, 1000, 5000, 20_000] {
        let _ = tokio::time::timeout(Duration::from_micros(micros), bench.store.append(&rows)).await;
        // The shell gets the lock, and all rows or none are there.
        bench.sql("BEGIN IMMEDIATE; COMMIT");
        assert!([0, 5000].contains(&bench.count()));
    }
    assert!(bench.store.append(&rows).await.is_ok());
    assert_eq!(bench.count(), 5000);
}

#[tokio::test]
async fn own_rows_are_counted_by_instance_and_time() {
    let bench = Bench::new().await;
    let now = at("2026-11-22T10:00:00Z");
    bench.store.append(&bench.rows(20)).await.unwrap();
    bench.sql("INSERT INTO system_metrics SELECT '01999999-0000-7000-8000-' || printf('%012x', value), 'x', 1, NULL, CURRENT_TIMESTAMP FROM generate_series(1, 50)");
    bench.sql("INSERT INTO system_metrics (id, metric_name, metric_value) VALUES (NULL, 'x', 1), ('z', 'x', 1)");
    assert_eq!(bench.store.own_rows_since(now).await.unwrap(), 20);
    assert_eq!(bench.store.own_rows_since(now.before(Duration::from_secs(1))).await.unwrap(), 20);
    assert_eq!(bench.store.own_rows_since(now.after(Duration::from_millis(1))).await.unwrap(), 0);
}

#[tokio::test]
async fn a_lost_state_directory_leaves_the_old_instance_known() {
    let bench = Bench::new().await;
    let now = at("2026-11-22T10:00:00Z");
    bench.store.register("h1", now).await.unwrap();
    bench.store.register("h1", now.after(Duration::from_secs(60))).await.unwrap();
    std::fs::remove_dir_all(bench.folder.path().join("state")).unwrap();
    let second = Instance::load_or_make(&bench.folder.path().join("state")).unwrap();
    Samples::new(bench.database.clone(), second).register("h1", now).await.unwrap();
    let registered = samples::registered(&bench.database).await.unwrap();
    let (old, new) = (bench.ids.next(now), Ids::new(second).next(now));
    for id in [&old, &new] {
        assert!(atlas_sidecar::engine::ids::is_own(Some(id), &registered), "{id} in {registered:?}");
    }
    assert_eq!(
        bench.sql(&format!(
            "SELECT value, updated_at FROM sidecar_state WHERE key = 'instance/{}'",
            bench.ids.instance()
        )),
        "{\"first_seen\":\"2026-11-22T10:00:00.000Z\",\"host\":\"h1\"}|2026-11-22 10:00:00.000\n"
    );
}

#[tokio::test]
async fn metas_are_kept_and_replaced() {
    let bench = Bench::new().await;
    let meta = |name: &str, kind, help: &str| Meta { name: name.to_owned(), kind, help: help.to_owned() };
    let first = [meta("b", Kind::Gauge, "it's"), meta("a", Kind::Histogram, ""), meta("c", Kind::Unknown, "?")];
    bench.store.describe(&first).await.unwrap();
    bench.sql("UPDATE sidecar_metric_meta SET updated_at = 'untouched'");
    bench.store.describe(&[meta("b", Kind::Gauge, "it's"), meta("a", Kind::Counter, "now")]).await.unwrap();
    assert_eq!(
        bench.store.metas().await.unwrap(),
        [meta("a", Kind::Counter, "now"), meta("b", Kind::Gauge, "it's"), meta("c", Kind::Unknown, "?")]
    );
    assert_eq!(bench.sql("SELECT name FROM sidecar_metric_meta WHERE updated_at = 'untouched' ORDER BY 1"), "b\nc\n");
    assert!(bench.store.describe(&[]).await.is_ok());
}

/// E-5: the statement itself is interrupted, within 1.2 times its limit, and its connection works at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_an_endless_statement_is_interrupted_and_its_connection_works() {
    let bench = Bench::new().await;
    let limit = Duration::from_millis(500);
    for _ in 0..4 {
        let start = Instant::now();
        let mut reader = bench.database.read(limit).await.unwrap();
        let endless =
            sqlx::query("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n");
        let error = endless.fetch_one(&mut *reader).await.unwrap_err();
        assert!(error.to_string().contains("interrupted"), "{error}");
        assert!(start.elapsed() < limit.mul_f64(1.2), "took {:?}", start.elapsed());
        drop(reader);
        let start = Instant::now();
        let mut reader = bench.database.read(limit).await.unwrap();
        let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *reader).await.unwrap();
        assert_eq!(one, 1);
        assert!(start.elapsed() < Duration::from_millis(100), "waited {:?}", start.elapsed());
    }
}
