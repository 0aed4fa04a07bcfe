//! The schema on PostgreSQL, in databases that others made. The oracles are psql and pg_dump, over the server's own socket.

mod beside;
mod busy;
mod full_text;
mod interrupted;
mod metric_value;
mod rights;

use std::time::Duration;

use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::schema::{migrate, prepare};
use atlas_sidecar::engine::schema::{KeySink, MigrateOptions, Report};
use atlas_sidecar::engine::{EngineError, Settings};

use super::{BASE, MORE_INDEXES, SEED, clock};
use crate::support::postgres::{Cluster, program};
use crate::support::python;

/// A server with databases, and a scratch folder for the state.
struct Place {
    cluster: Cluster,
    scene: super::Scene,
    database: String,
}

impl Place {
    /// With one database, which is empty.
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let place = Self {
            cluster: Cluster::start_with(settings),
            scene: super::Scene::new(),
            database: "atlas_db".to_owned(),
        };
        // Every step here is a session or two; without a build for release the hashes of SCRAM would take most of the time.
        let trust = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        std::fs::write(place.cluster.data().join("pg_hba.conf"), trust).unwrap();
        place.cluster.psql("postgres", "SELECT pg_reload_conf()");
        place.cluster.database(&place.database);
        place
    }

    /// The database as the application makes it, with rows in every table.
    fn made_by_the_application(shape: &str) -> Self {
        let place = Self::new();
        place.python("create", shape);
        place
    }

    /// What the application's role makes.
    fn made_by_sql(sql: &str) -> Self {
        let place = Self::new();
        place.sql_as_owner(sql);
        place
    }

    fn python(&self, verb: &str, shape: &str) -> String {
        let url = self.cluster.url(&self.database).replace("postgres://", "postgresql+pg8000://");
        python::script("atlas/atlas.py", &[verb, &url, shape])
    }

    /// As the superuser.
    fn sql(&self, sql: &str) -> String {
        self.cluster.psql(&self.database, sql)
    }

    fn sql_as_owner(&self, sql: &str) -> String {
        self.sql(&format!("SET ROLE atlas; {sql}"))
    }

    fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    fn settings(&self) -> Settings {
        Settings { url: self.url(), ..self.scene.settings() }
    }

    async fn open(&self) -> Database {
        Database::open(&self.url(), None).await.unwrap()
    }

    async fn migrate(&self) -> Report {
        self.try_migrate(&self.settings(), false).await.unwrap()
    }

    async fn try_migrate(&self, settings: &Settings, dry_run: bool) -> Result<Report, EngineError> {
        let key_sink = KeySink::File(settings.state_directory.clone());
        migrate(settings, MigrateOptions { dry_run, key_sink }, &clock()).await
    }

    /// What `run` does at its start.
    async fn run_starts(&self, settings: &Settings) -> Result<Report, EngineError> {
        let app = Database::open(&settings.url, None).await?;
        let report = prepare(&app, None, settings, &clock()).await;
        app.close().await;
        report
    }

    /// Another database with the same content; nobody may be connected to this one.
    fn copy(&self, name: &str) -> String {
        self.cluster.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {} OWNER atlas", self.database));
        name.to_owned()
    }

    /// The whole schema as pg_dump writes it.
    fn dump(&self, more: &[&str]) -> String {
        let out = std::process::Command::new(program("pg_dump"))
            .args(["-U", "postgres", "-h"])
            .arg(self.cluster.data())
            .args(["-p", &self.cluster.port.to_string(), "-d", &self.database])
            .args(more)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // A random word against what a hostile dump could tell psql.
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines()
            .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn schema(&self) -> String {
        self.dump(&["--schema-only"])
    }
}

/// Columns and indexes of the seed's tables, as the catalogs say them.
const SHAPE: &str = "
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'sidecar%' AND a.attnum > 0
    ORDER BY 1, a.attnum;
    SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'sidecar%' ORDER BY 1";

#[tokio::test]
async fn an_empty_database_gets_the_whole_seed() {
    let place = Place::new();
    let report = place.migrate().await;
    assert!(report.to_string().contains("create table `search_cache`"), "{report}");
    assert!(!format!("{report:?}").contains(crate::support::postgres::PASSWORD), "{report:?}");

    place.cluster.database("oracle");
    let seed = std::fs::read_to_string(SEED).unwrap();
    place.cluster.psql("oracle", &format!("{BASE}\n{seed}\n{MORE_INDEXES}"));
    let wanted = place
        .cluster
        .psql("oracle", SHAPE)
        .replace("metric_value|numeric(15,4)", "metric_value|numeric")
        .replace("|CURRENT_TIMESTAMP", "|(CURRENT_TIMESTAMP AT TIME ZONE 'UTC'::text)")
        .replace(
            "idx_system_metrics_recorded ON public.system_metrics USING btree (recorded_at)",
            "idx_system_metrics_recorded ON public.system_metrics USING brin (recorded_at) WITH (autosummarize='on')",
        );
    assert_eq!(place.sql(SHAPE), wanted);

    let applied = "SELECT track, version, name, length(checksum), applied_at FROM sidecar_migrations ORDER BY 1, 2";
    assert_eq!(
        place.sql(applied),
        "atlas|1|API infrastructure|0|2026-11-22 19:00:00.5\natlas|2|search enhancement|0|2026-11-22 19:00:00.5\n\
         own|1|migrations|64|2026-11-22 19:00:00.5\nown|2|state|64|2026-11-22 19:00:00.5\n\
         own|3|job runs|64|2026-11-22 19:00:00.5\nown|4|rollup|64|2026-11-22 19:00:00.5"
    );
    let (schema, again) = (place.schema(), place.migrate().await);
    assert!(again.unchanged(), "{again}");
    assert_eq!(place.schema(), schema);
}

/// T-3: a row gets the time in UTC from a session in any zone.
#[tokio::test]
async fn the_default_of_a_time_is_utc_whatever_the_session_is() {
    let place = Place::new();
    place.migrate().await;
    let late = place.sql(
        "SET TimeZone = 'America/New_York'; INSERT INTO system_metrics (id, metric_name, metric_value) VALUES ('a', 'a', 1);
         SELECT recorded_at - (now() AT TIME ZONE 'UTC') BETWEEN '-1 s' AND '1 s' FROM system_metrics",
    );
    assert_eq!(late, "t");
}

/// What happens is said in the same words on both engines, for the same starting points.
#[tokio::test]
async fn both_engines_do_the_same_steps() {
    for shape in ["base", "older", "full"] {
        let (lite, place) = (super::Scene::made_by_the_application(shape), Place::made_by_the_application(shape));
        let words = |report: Report| -> Vec<String> {
            let lacks = " (without `DEFAULT CURRENT_TIMESTAMP`, which SQLite cannot add)";
            report.files[0].steps.iter().map(|s| s.replace(lacks, "")).collect()
        };
        let (lite, postgres) = (lite.migrate().await, place.migrate().await);
        let notes = |report: &Report| report.files[0].notes.join("\n").replace("SQLite", "PostgreSQL");
        assert_eq!(notes(&lite), notes(&postgres), "{shape}");
        assert_eq!(words(lite), words(postgres), "{shape}");
    }
}

/// All shapes of the application's own making: nothing of it changes but what was asked for, the application goes on working, and a second run
/// has nothing to do and changes nothing.
#[tokio::test]
async fn what_the_application_made_is_completed_and_otherwise_untouched() {
    for shape in ["base", "older", "full"] {
        let place = Place::made_by_the_application(shape);
        let rows = |place: &Place| {
            let tables = place.sql("SELECT string_agg(format('SELECT to_jsonb(t) - ''access_count'' FROM %I t ORDER BY 1', relname), ';' ORDER BY relname)
                FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'sidecar%'");
            place.sql(&tables)
        };
        let before = rows(&place);
        let objects = place.sql("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace");
        let report = place.migrate().await;
        assert_eq!(place.sql("SELECT count(*) FROM content_metadata WHERE access_count IS NULL"), "0", "{shape}");
        let counts = if shape == "base" { "0" } else { "9900" };
        assert_eq!(place.sql("SELECT sum(access_count) FROM content_metadata"), counts, "0, 2, 4 … 198 are kept");
        let after = rows(&place);
        for row in before.lines() {
            let fields: serde_json::Value = serde_json::from_str(row).unwrap();
            let kept = after.lines().any(|row| {
                let row: serde_json::Value = serde_json::from_str(row).unwrap();
                fields.as_object().unwrap().iter().all(|(key, value)| row.get(key) == Some(value))
            });
            assert!(kept, "{shape}: {row}\n{report}");
        }
        let now = place.sql("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace");
        assert!(objects.lines().all(|o| now.lines().any(|n| n == o)), "{shape}: nothing is dropped\n{now}");
        assert_eq!(place.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid"), "0");

        let schema = place.schema();
        let again = place.migrate().await;
        assert!(again.unchanged(), "{shape}: {again}");
        assert_eq!(place.schema(), schema);
        assert_eq!(place.python("use", shape), "used\n");
        assert!(place.migrate().await.unchanged(), "{shape}: rows written later are nobody's business here");
    }
}

#[tokio::test]
async fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    for shape in ["empty", "base"] {
        let place = if shape == "empty" { Place::new() } else { Place::made_by_the_application(shape) };
        let before = place.dump(&[]);
        let dry = place.try_migrate(&place.settings(), true).await.unwrap();
        assert_eq!(place.dump(&[]), before);
        assert!(dry.dry_run && !dry.unchanged() && !place.scene.path("state").exists());
        assert_eq!(dry.files[0].steps, place.migrate().await.files[0].steps);
    }
}

/// The key is in its file, its hash in the table, and the key nowhere else: not even in the log of a server that logs every statement.
#[tokio::test]
async fn the_admin_key_is_in_its_file_and_nowhere_else() {
    let place = Place::with(&[("log_statement", "all"), ("log_min_duration_statement", "0")]);
    let report = place.migrate().await;
    let path = place.scene.path("state/admin-key");
    assert_eq!(report.admin_key_file.as_deref(), Some(path.as_path()));
    let key = std::fs::read_to_string(path).unwrap();
    let sum =
        crate::support::run("sh", &["-c", &format!("printf %s '{}' | sha256sum | cut -d' ' -f1", key.trim_end())]);
    let row = "SELECT id, name, permissions, rate_limit_per_hour, created_at, is_active, key_hash FROM api_keys";
    let wanted = "admin-key-001|Admin API Key|[\"read\", \"write\", \"admin\"]|1000|2026-11-22 19:00:00|t|";
    assert_eq!(place.sql(row), format!("{wanted}{}", sum.trim_end()));
    assert!(place.cluster.log_text().contains("INSERT INTO api_keys"), "the log is the server's");
    assert!(!place.cluster.log_text().contains(&key.trim_end()[6..]) && !report.to_string().contains(key.trim_end()));

    place.sql("DELETE FROM api_keys");
    let error = place.try_migrate(&place.settings(), false).await.unwrap_err();
    assert!(error.to_string().contains("is not overwritten"), "{error}");
}

/// V-8 and others: names that are something else are left alone and named, and types that do not fit are told.
#[tokio::test]
async fn what_is_something_else_does_not_end_a_migration() {
    let place = Place::made_by_sql(
        "CREATE TYPE shouted AS ENUM ('PENDING', 'DONE');
         CREATE TABLE content_metadata (id text PRIMARY KEY, title text, \"Access_Count\" int);
         CREATE TABLE processing_queue (id int PRIMARY KEY, status shouted, created_at timestamptz);
         CREATE VIEW search_cache AS SELECT id, title AS query_text FROM content_metadata;
         CREATE TABLE system_metrics (id text, metric_name text, metric_value float8, tags json, recorded_at timestamp) PARTITION BY RANGE (recorded_at);
         CREATE TABLE webhooks (id uuid PRIMARY KEY, url text, is_active smallint);
         CREATE TABLE api_keys (id uuid PRIMARY KEY, name text, key_hash bytea, permissions text[]);
         CREATE TABLE \"Api_Keys\" (id int); CREATE TABLE idx_queue_worker (a int);
         CREATE INDEX idx_queue_priority_status ON processing_queue (status)",
    );
    let report = place.migrate().await;
    let notes = report.files[0].notes.join("\n");
    for note in [
        "`search_cache` is a view",
        "`system_metrics` is a partitioned table",
        "index `idx_queue_worker` is not made: the name is taken by a table",
        "index `idx_queue_priority_status` is another one, on `processing_queue`",
        "`idx_queue_pending` is not made: its condition `status = 'pending'` does not fit a column that is `enum('PENDING', 'DONE')`",
        "`idx_webhooks_active_url` is not made: its condition `is_active` does not fit a column that is `smallint`",
        "no admin key is made in `api_keys`: its column `id` is `uuid`",
    ] {
        assert!(notes.contains(note), "{note}\n{notes}");
    }
    assert_eq!(place.sql("SELECT count(access_count) FROM content_metadata"), "0", "beside the column with capitals");
    assert!(place.migrate().await.unchanged());
}

/// An extension's views in `public` make no database an application's; tables in other schemas do.
#[tokio::test]
async fn what_counts_is_what_a_name_reaches() {
    let place = Place::new();
    place.sql("CREATE EXTENSION pg_stat_statements");
    assert!(place.run_starts(&place.settings()).await.unwrap().files[0].pending.is_empty());
    assert_eq!(place.sql("SELECT count(*) FROM api_keys"), "1");

    let place =
        Place::made_by_sql("CREATE SCHEMA app; CREATE TABLE app.content_metadata (id text PRIMARY KEY, title text)");
    let report = place.run_starts(&place.settings()).await.unwrap();
    assert!(report.files[0].warnings[0].contains("but `app` has tables"), "{report}");
    assert!(report.files[0].pending.iter().any(|p| p.contains("create table `api_keys`")), "{report}");
    place.sql("DROP TABLE sidecar_job_runs, sidecar_metrics_series, sidecar_metrics_rollup, sidecar_state, sidecar_metric_meta, sidecar_migrations; ALTER ROLE atlas SET search_path = app, public");
    let report = place.migrate().await;
    assert!(report.files[0].warnings.is_empty(), "{report}");
    let schemas = "SELECT DISTINCT relnamespace::regnamespace FROM pg_class WHERE relname IN ('sidecar_state', 'api_keys', 'idx_content_last_accessed')";
    assert_eq!(place.sql(schemas), "app");
    // One table may be in a later schema of the path; its indexes are made beside it.
    place.sql("ALTER TABLE app.webhooks SET SCHEMA public; DROP INDEX public.idx_webhooks_active");
    place.migrate().await;
    assert_eq!(
        place.sql("SELECT relnamespace::regnamespace FROM pg_class WHERE relname = 'idx_webhooks_active'"),
        "public"
    );
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_an_error_that_says_what_makes_one() {
    let place = Place::new();
    let settings = Settings { url: place.cluster.url("nowhere"), create: true, ..place.settings() };
    let error = place.try_migrate(&settings, false).await.unwrap_err();
    assert!(error.message.contains("nowhere") && error.hint.as_ref().unwrap().contains("createdb"), "{error}");
    assert!(!error.to_string().contains(crate::support::postgres::PASSWORD));
}

#[tokio::test]
async fn a_database_that_a_newer_sidecar_was_in_is_refused() {
    let place = Place::new();
    place.migrate().await;
    place.sql("INSERT INTO sidecar_migrations VALUES ('own', 77, 'later', 'ff', now(), '')");
    let before = place.dump(&[]);
    for dry_run in [true, false] {
        let error = place.try_migrate(&place.settings(), dry_run).await.unwrap_err();
        assert!(error.to_string().contains("migration 77") && error.to_string().contains("newer sidecar"), "{error}");
    }
    assert_eq!(place.dump(&[]), before);
}

/// The queries that the indexes are for use them.
#[tokio::test]
async fn queries_use_the_indexes() {
    let place = Place::new();
    place.migrate().await;
    // Ranges of pages are worth it only where there are many.
    place.sql(
        "INSERT INTO system_metrics SELECT i::text, 'm' || i % 50, 1, NULL, timestamp '2026-01-01' + i * interval '1 min' FROM generate_series(1, 60000) i",
    );
    place.sql("VACUUM ANALYZE system_metrics");
    for (query, index) in [
        (
            "SELECT id FROM processing_queue WHERE status = 'pending' ORDER BY priority, created_at LIMIT 1",
            "idx_queue_pending",
        ),
        ("SELECT * FROM system_metrics WHERE recorded_at < '2026-01-02'", "idx_system_metrics_recorded"),
        (
            "SELECT * FROM system_metrics WHERE metric_name = 'm7' AND recorded_at > '2026-02-01'",
            "idx_system_metrics_name_time",
        ),
        ("DELETE FROM search_cache WHERE expires_at < '2026-01-01'", "idx_search_cache_expires"),
    ] {
        let plan = place.sql(&format!("SET enable_seqscan = off; EXPLAIN {query}"));
        assert!(plan.contains(index), "{query}\n{plan}");
    }
}

const LIMIT: Duration = Duration::from_secs(30);
