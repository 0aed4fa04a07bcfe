//! The schema on SQLite, against files that others made. The oracle is the sqlite3 shell: an independent build that reads what we wrote.

mod admin_key;
mod beside;
mod full_text;
mod interrupted;
mod postgres;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::schema::{KeySink, MigrateOptions, Report};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::schema::{databases, migrate, prepare};
use atlas_sidecar::engine::{Builtin, EngineError, FullText, Settings};
use atlas_sidecar::sample::globs::Globs;
use tempfile::TempDir;

use crate::support::{python, run};

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/atlas/seed-schema.sql");

/// The application's own tables as an empty database gets them: what the seed stands on.
const BASE: &str = "
CREATE TABLE content_metadata (id VARCHAR(36) PRIMARY KEY, title TEXT, url VARCHAR(2048), created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE processing_queue (id VARCHAR(36) PRIMARY KEY, content_id VARCHAR(36), status VARCHAR(32) DEFAULT 'pending',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP);";

/// What is added to the seed's indexes.
const MORE_INDEXES: &str = "
CREATE INDEX idx_api_keys_active_hash ON api_keys(key_hash) WHERE is_active;
CREATE INDEX idx_webhooks_active_url ON webhooks(url) WHERE is_active;
CREATE INDEX idx_queue_pending ON processing_queue(priority, created_at) WHERE status = 'pending';
CREATE INDEX idx_system_metrics_recorded ON system_metrics(recorded_at);";

/// A scratch folder with a database `atlas.db`, which may not exist yet.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// The database as the application makes it, with rows in every table.
    fn made_by_the_application(shape: &str) -> Self {
        let scene = Self::new();
        python::script("atlas/atlas.py", &["create", &scene.text("atlas.db"), shape]);
        scene
    }

    fn made_by_sql(sql: &str) -> Self {
        let scene = Self::new();
        scene.sql(sql);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// What the sqlite3 shell answers.
    fn sql(&self, sql: &str) -> String {
        shell(&self.path("atlas.db"), sql)
    }

    fn settings(&self) -> Settings {
        Settings {
            url: format!("sqlite://{}", self.text("atlas.db")),
            metrics_url: None,
            password: None,
            metrics_password: None,
            widen_metric_value: false,
            create: false,
            full_text: Vec::new(),
            state_directory: self.path("state"),
            builtin: Builtin {
                collectors: Vec::new(),
                interval: Duration::from_secs(60),
                timeout: Duration::from_secs(10),
                store: Globs::all(),
            },
            queries: Vec::new(),
            follow: None,
        }
    }

    async fn migrate(&self) -> Report {
        self.try_migrate(&self.settings(), false).await.unwrap()
    }

    /// A key that is made goes to the folder `state`.
    async fn try_migrate(&self, settings: &Settings, dry_run: bool) -> Result<Report, EngineError> {
        let key_sink = KeySink::File(settings.state_directory.clone());
        migrate(settings, MigrateOptions { dry_run, key_sink }, &clock()).await
    }

    /// Schema objects in order of their names: what two ways to the same schema have in common.
    fn objects(&self) -> String {
        self.sql("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    }

    /// Every row of the application's tables in the columns that they have now, as text. `access_count` is what migration 002 changes.
    fn rows(&self) -> BTreeMap<String, Vec<String>> {
        let tables = self.sql(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'sqlite_*'",
        );
        tables
            .lines()
            .map(|table| {
                let quoted = format!("'{}'", table.replace('\'', "''"));
                let columns = self.sql(&format!(
                    "SELECT format('quote(\"%w\")', name) FROM pragma_table_info({quoted}) WHERE name <> 'access_count'"
                ));
                (table.to_owned(), columns.lines().map(str::to_owned).collect())
            })
            .collect()
    }

    fn dump(&self, rows: &BTreeMap<String, Vec<String>>) -> String {
        let sql: Vec<String> = rows
            .iter()
            .map(|(table, columns)| format!("SELECT {} FROM \"{table}\" ORDER BY 1;", columns.join(" || '|' || ")))
            .collect();
        self.sql(&sql.concat())
    }
}

fn shell(path: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", path.to_str().unwrap(), sql])
}

fn clock() -> Clock {
    Clock::by_hand(Timestamp::from_rfc3339("2026-11-22T19:00:00.5Z").unwrap())
}

fn text_of(report: &Report) -> String {
    report.to_string()
}

/// Columns (name, type, NOT NULL, default, key) and indexes (uniqueness, columns, text) of the seed's tables.
fn shape(path: &Path) -> String {
    let tables = "('content_metadata', 'processing_queue', 'api_keys', 'webhooks', 'search_cache', 'system_metrics')";
    shell(
        path,
        &format!(
            "SELECT l.name, c.name, c.type, c.\"notnull\", c.dflt_value, c.pk FROM pragma_table_list l, pragma_table_info(l.name) c
             WHERE l.name IN {tables} ORDER BY 1, c.cid;
             SELECT l.name, i.name, i.\"unique\", i.origin, i.partial,
                 (SELECT group_concat(x.name) FROM pragma_index_info(i.name) x),
                 (SELECT replace(sql, ' (', '(') FROM sqlite_schema WHERE name = i.name)
             FROM pragma_table_list l, pragma_index_list(l.name) i WHERE l.name IN {tables} ORDER BY 1, 2"
        ),
    )
}

#[tokio::test]
async fn an_empty_file_gets_the_whole_seed() {
    let scene = Scene::new();
    std::fs::write(scene.path("atlas.db"), "").unwrap();
    let report = scene.migrate().await;
    assert!(text_of(&report).contains("create table `search_cache`"), "{report}");

    let oracle = scene.path("oracle.db");
    shell(&oracle, &format!("{BASE}\n{}\n{MORE_INDEXES}", std::fs::read_to_string(SEED).unwrap()));
    let wanted = shape(&oracle).replace("metric_value|DECIMAL(15,4)", "metric_value|NUMERIC");
    assert_eq!(shape(&scene.path("atlas.db")), wanted);
    assert_eq!(scene.sql("PRAGMA integrity_check"), "ok\n");

    let applied =
        scene.sql("SELECT track, version, name, length(checksum), applied_at FROM sidecar_migrations ORDER BY 1, 2");
    assert_eq!(
        applied,
        "atlas|1|API infrastructure|0|2026-11-22 19:00:00.500\natlas|2|search enhancement|0|2026-11-22 19:00:00.500\n\
         own|1|migrations|64|2026-11-22 19:00:00.500\nown|2|state|64|2026-11-22 19:00:00.500\n\
         own|3|job runs|64|2026-11-22 19:00:00.500\nown|4|rollup|64|2026-11-22 19:00:00.500\n"
    );
    assert_eq!(scene.sql("SELECT count(*) FROM sidecar_state; SELECT count(*) FROM sidecar_metric_meta"), "0\n0\n");
    assert!(scene.migrate().await.unchanged());
}

#[tokio::test]
async fn a_missing_file_is_made_only_where_the_settings_say_so() {
    let scene = Scene::new();
    let error = scene.try_migrate(&scene.settings(), false).await.unwrap_err();
    assert!(error.message.contains("does not exist") && error.hint.is_some(), "{error}");
    assert_eq!(std::fs::read_dir(scene.folder.path()).unwrap().count(), 0);

    let settings = Settings { create: true, ..scene.settings() };
    let report = scene.try_migrate(&settings, false).await.unwrap();
    assert!(report.files[0].made);
    assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
}

/// All shapes of the application's own making: nothing of it changes but what was asked for, the application goes on working, and a second run
/// has nothing to do and changes nothing.
#[tokio::test]
async fn what_the_application_made_is_completed_and_otherwise_untouched() {
    for kind in ["base", "older", "full"] {
        let scene = Scene::made_by_the_application(kind);
        let (rows, objects) = (scene.rows(), scene.sql("SELECT name FROM sqlite_schema"));
        let before = scene.dump(&rows);
        let report = scene.migrate().await;
        assert_eq!(scene.dump(&rows), before, "{kind}");
        assert_eq!(scene.sql("PRAGMA integrity_check; PRAGMA foreign_key_check"), "ok\n");
        let now = scene.sql("SELECT name FROM sqlite_schema");
        assert!(objects.lines().all(|o| now.lines().any(|n| n == o)), "{kind}: nothing is dropped\n{now}");
        for (table, columns) in columns_wanted() {
            let has = scene.sql(&format!("SELECT group_concat(name) FROM pragma_table_info('{table}')"));
            for column in columns {
                assert!(has.trim().split(',').any(|c| c == column), "{kind}: {table}.{column}\n{report}");
            }
        }
        assert_eq!(scene.sql("SELECT count(*) FROM content_metadata WHERE access_count IS NULL"), "0\n", "{kind}");
        let counts = if kind == "base" { "0\n" } else { "9900\n" };
        assert_eq!(
            scene.sql("SELECT sum(access_count) FROM content_metadata"),
            counts,
            "{kind}: 0, 2, 4 … 198 are kept"
        );
        assert_eq!(scene.sql("SELECT count(*) FROM content_metadata WHERE search_indexed_at IS NOT NULL"), "0\n");

        let schema = scene.sql(".schema");
        let again = scene.migrate().await;
        assert!(again.unchanged(), "{kind}: {again}");
        assert_eq!(scene.sql(".schema"), schema);
        assert_eq!(scene.dump(&rows), before);
        assert_eq!(python::script("atlas/atlas.py", &["use", &scene.text("atlas.db"), kind]), "used\n");
        assert!(scene.migrate().await.unchanged(), "{kind}: rows written later are nobody's business here");
    }
}

fn columns_wanted() -> [(&'static str, Vec<&'static str>); 6] {
    [
        (
            "content_metadata",
            vec!["search_indexed_at", "last_accessed_at", "access_count", "cognitive_score", "vector_embedding"],
        ),
        ("processing_queue", vec!["priority", "estimated_duration", "actual_duration", "worker_id"]),
        ("api_keys", vec!["rate_limit_per_hour", "last_used_at", "is_active", "permissions"]),
        ("webhooks", vec!["failure_count", "events"]),
        ("search_cache", vec!["expires_at"]),
        ("system_metrics", vec!["tags", "recorded_at"]),
    ]
}

#[tokio::test]
async fn an_index_of_the_application_under_another_name_is_not_made_twice() {
    let scene = Scene::made_by_the_application("full");
    let report = text_of(&scene.migrate().await);
    for made in ["idx_queue_pending", "idx_system_metrics_recorded", "idx_api_keys_hash"] {
        assert!(report.contains(&format!("create index `{made}`")), "{report}");
    }
    for there in ["idx_queue_priority_status", "idx_queue_worker", "idx_content_last_accessed"] {
        assert!(!report.contains(there), "{report}");
    }
}

#[tokio::test]
async fn the_queries_that_the_indexes_are_for_use_them() {
    let scene = Scene::made_by_sql("VACUUM");
    scene.migrate().await;
    for (query, index) in [
        (
            "SELECT id FROM processing_queue WHERE status = 'pending' ORDER BY priority, created_at LIMIT 1",
            "idx_queue_pending",
        ),
        ("SELECT url FROM webhooks WHERE is_active", "idx_webhooks_active_url"),
        ("SELECT key_hash FROM api_keys WHERE is_active ORDER BY key_hash", "idx_api_keys_active_hash"),
        ("SELECT * FROM system_metrics WHERE recorded_at < '2026'", "idx_system_metrics_recorded"),
        (
            "SELECT * FROM system_metrics WHERE metric_name = 'a' AND recorded_at > '2026'",
            "idx_system_metrics_name_time",
        ),
        ("DELETE FROM search_cache WHERE expires_at < '2026'", "idx_search_cache_expires"),
        ("SELECT id FROM content_metadata WHERE search_indexed_at IS NULL", "idx_content_search_indexed"),
        ("SELECT count(*) FROM processing_queue WHERE priority = 5 AND status = 'done'", "idx_queue_priority_status"),
    ] {
        let plan = scene.sql(&format!("EXPLAIN QUERY PLAN {query}"));
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{query}\n{plan}");
    }
    // Beside an index of the application on `status` alone, SQLite needs statistics to see which one is better.
    let scene = Scene::made_by_the_application("base");
    scene.migrate().await;
    let plan = scene.sql(
        "ANALYZE; EXPLAIN QUERY PLAN
         SELECT id FROM processing_queue WHERE status = 'pending' ORDER BY priority, created_at LIMIT 1",
    );
    assert!(plan.contains("idx_queue_pending") && !plan.contains("TEMP B-TREE"), "{plan}");
}

/// `run` awaits this among its tasks.
#[test]
fn the_futures_can_be_sent_to_another_thread() {
    fn sent<T: Send>(_: T) {}
    let (scene, clock) = (Scene::new(), clock());
    let settings = scene.settings();
    sent(migrate(&settings, MigrateOptions { dry_run: true, key_sink: KeySink::Terminal }, &clock));
    let prepared = async |app: &Database| prepare(app, None, &settings, &clock).await;
    let _ = |app: &'static Database| sent(prepared(app));
}

/// V-8 and others: names that are something else are left alone and named, and what is broken in the application's schema stays its affair.
#[tokio::test]
async fn views_virtual_tables_and_broken_objects_do_not_end_a_migration() {
    let scene = Scene::made_by_sql(
        "CREATE TABLE gone(a); CREATE TABLE content_metadata(id TEXT PRIMARY KEY, title);
         CREATE VIEW broken AS SELECT a FROM gone; DROP TABLE gone;
         CREATE VIEW api_keys AS SELECT id, title AS name FROM content_metadata;
         CREATE TABLE webhooks(id TEXT PRIMARY KEY, url) WITHOUT ROWID;
         CREATE VIRTUAL TABLE search_cache USING fts5(query_text);
         CREATE TABLE idx_queue_worker(a);
         CREATE TABLE Processing_Queue(ID INTEGER PRIMARY KEY, Status, PRIORITY);
         CREATE INDEX idx_queue_priority_status ON processing_queue(status);
         PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema VALUES('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING vec0(a)');",
    );
    let settings = Settings { full_text: vec![full_text("content_metadata", "id", &["title"])], ..scene.settings() };
    let report = scene.try_migrate(&settings, false).await.unwrap();
    let notes = report.files[0].notes.join("\n");
    for note in [
        "`api_keys` is a view",
        "`webhooks` is a table WITHOUT ROWID",
        "`search_cache` is a virtual table",
        "index `idx_queue_priority_status` is another one",
        "index `idx_queue_worker` is not made: the name is taken",
        "index `idx_queue_pending` is not made: column `created_at` of `Processing_Queue` is missing",
    ] {
        assert!(notes.contains(note), "{note}\n{notes}");
    }
    assert!(
        scene.sql("SELECT sql FROM sqlite_schema WHERE name = 'Processing_Queue'").contains("worker_id VARCHAR(255)")
    );
    assert!(scene.sql("SELECT name FROM sqlite_schema").contains("sidecar_fts_content_metadata\n"));
    assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
}

#[tokio::test]
async fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    for journal in ["delete", "wal"] {
        let scene = Scene::made_by_the_application("base");
        scene.sql(&format!("PRAGMA journal_mode = {journal}"));
        let before = contents(scene.folder.path());
        let dry = scene.try_migrate(&scene.settings(), true).await.unwrap();
        assert_eq!(contents(scene.folder.path()), before, "{journal}");
        assert!(dry.dry_run && !dry.unchanged());
        let done = scene.migrate().await;
        assert_eq!(dry.files[0].steps, done.files[0].steps);
    }
}

/// Content that is only in the WAL is seen, and stays there.
#[tokio::test]
async fn a_dry_run_does_not_checkpoint_what_a_crash_left() {
    let made = Scene::made_by_sql("PRAGMA journal_mode = wal; CREATE TABLE a(b)");
    let scene = Scene::new();
    let python = "import sqlite3, sys, shutil, os\n\
        c = sqlite3.connect(sys.argv[1]); c.execute('CREATE TABLE webhooks(id)'); c.commit()\n\
        [shutil.copy(sys.argv[1] + s, sys.argv[2] + s) for s in ('', '-wal')]; os._exit(0)";
    run("python3", &["-c", python, &made.text("atlas.db"), &scene.text("atlas.db")]);
    let before = contents(scene.folder.path());
    let dry = scene.try_migrate(&scene.settings(), true).await.unwrap();
    assert!(text_of(&dry).contains("add column `webhooks`.`secret`"), "{dry}");
    let mut after = contents(scene.folder.path());
    after.remove("atlas.db-shm");
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_dry_run_without_a_file_says_what_would_be_made() {
    let scene = Scene::new();
    assert!(scene.try_migrate(&scene.settings(), true).await.is_err());
    let report = scene.try_migrate(&Settings { create: true, ..scene.settings() }, true).await.unwrap();
    assert!(text_of(&report).contains("atlas.db (would be made): "), "{report}");
    assert_eq!(contents(scene.folder.path()), BTreeMap::new());
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn full_text(table: &str, key: &str, columns: &[&str]) -> FullText {
    FullText { table: table.into(), key: key.into(), columns: columns.iter().map(|c| (*c).into()).collect() }
}

#[tokio::test]
async fn a_database_that_a_newer_sidecar_was_in_is_refused() {
    let scene = Scene::new();
    let settings = Settings { create: true, ..scene.settings() };
    scene.try_migrate(&settings, false).await.unwrap();
    scene.sql("INSERT INTO sidecar_migrations VALUES('own', 77, 'later', 'ff', '', '')");
    let before = scene.objects();
    for dry_run in [true, false] {
        let error = scene.try_migrate(&settings, dry_run).await.unwrap_err();
        assert!(error.to_string().contains("migration 77") && error.to_string().contains("newer sidecar"), "{error}");
    }
    scene.sql("DELETE FROM sidecar_migrations WHERE version = 77; UPDATE sidecar_migrations SET checksum = 'x' WHERE track = 'own'");
    assert!(scene.try_migrate(&settings, false).await.unwrap_err().message.contains("another text"));
    assert_eq!(scene.objects(), before);
}

#[tokio::test]
async fn a_report_is_json_too() {
    let scene = Scene::made_by_the_application("full");
    let json: serde_json::Value = serde_json::to_value(scene.migrate().await).unwrap();
    assert_eq!(json["files"][0]["database"], scene.text("atlas.db"));
    assert!(json["files"][0]["steps"].as_array().unwrap().len() > 5);
    assert!(json["files"][0]["warnings"][0].as_str().unwrap().contains("`admin-key-001`"));
}

#[test]
fn two_names_of_one_file_are_one_database() {
    let scene = Scene::made_by_sql("CREATE TABLE a(b)");
    std::os::unix::fs::symlink(scene.path("atlas.db"), scene.path("metrics.db")).unwrap();
    let metrics_url = Some(format!("sqlite://{}", scene.text("metrics.db")));
    assert_eq!(databases(&Settings { metrics_url, ..scene.settings() }).unwrap().len(), 1);
}
