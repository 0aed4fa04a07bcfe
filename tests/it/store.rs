//! The store of samples on both engines, with their own shells as the other writer and as the oracle. What holds on both is written once, in
//! `store/contract.rs`, and runs on both; beside it is what only one of them does.

mod contract;
mod postgres;
mod sqlite;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::ids::{Ids, Instance, Registered};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::samples::{self, Samples};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Labels, tags};
use atlas_sidecar::store::{History, Row, SampleStore, Stored};
use tempfile::TempDir;

use crate::support::run;

/// A store on one engine, with the engine's own shell as the other writer and as the oracle.
trait Stand: Sized {
    /// The table of samples as the engine's users make it, and ours.
    const SCHEMA: &'static str;

    /// An empty database with the tables of `schema`.
    async fn with(schema: &str) -> Self;

    fn store(&self) -> &dyn SampleStore;

    fn ids(&self) -> &Ids;

    /// Runs `sql` in the engine's shell, another process, and gives what it prints: columns by `|`.
    fn sql(&self, sql: &str) -> String;

    /// Somebody else in a transaction that lets nobody write.
    fn lock(&self) -> Shell;

    /// Registers `instance` under `host`.
    async fn register(&self, instance: Instance, host: &str, now: Timestamp);

    async fn registered(&self) -> Registered;

    async fn fresh() -> Self {
        Self::with(Self::SCHEMA).await
    }

    fn count(&self) -> usize {
        self.sql("SELECT count(*) FROM system_metrics").parse().unwrap()
    }

    fn rows(&self, count: usize) -> Vec<Row> {
        rows(self.ids(), count)
    }

    async fn history(&self, from: &str, to: &str, names: &Globs) -> (Vec<Stored>, History) {
        let mut rows = Vec::new();
        let mut each = |row| {
            rows.push(row);
            Ok(())
        };
        let done = self.store().history(at(from), at(to), names, &mut each).await.unwrap();
        (rows, done)
    }

    /// The history of the day that tests live in.
    async fn day(&self) -> (Vec<Stored>, History) {
        self.history("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z", &Globs::all()).await
    }
}

/// Rows of one collection: seven names, one label with everything that needs an escape.
fn rows(ids: &Ids, count: usize) -> Vec<Row> {
    let labels = Labels::none().with("host", "h").with("odd", "\"\\\n\u{0}ü'");
    (0..count)
        .map(|n| Row {
            id: ids.next(at("2026-11-22T10:00:00Z")),
            name: format!("m{}", n % 7),
            tags: tags::to_json(&labels),
            value: n as f64 / 4.0,
            at: at("2026-11-22T10:00:00Z").after(Duration::from_millis(n as u64)),
        })
        .collect()
}

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

    pub fn rows(&self, count: usize) -> Vec<Row> {
        rows(&self.ids, count)
    }
}

impl Stand for Bench {
    const SCHEMA: &'static str = SCHEMA;

    async fn with(schema: &str) -> Self {
        Self::with(schema).await
    }

    fn store(&self) -> &dyn SampleStore {
        &self.store
    }

    fn ids(&self) -> &Ids {
        &self.ids
    }

    fn sql(&self, sql: &str) -> String {
        self.sql(sql).trim_end().to_owned()
    }

    fn lock(&self) -> Shell {
        let mut command = Command::new("sqlite3");
        command.args(["-bail", "-cmd", ".timeout 5000"]).arg(self.file());
        let mut shell = Shell::open(command);
        shell.run("BEGIN IMMEDIATE");
        shell
    }

    async fn register(&self, instance: Instance, host: &str, now: Timestamp) {
        Samples::new(self.database.clone(), instance).register(host, now).await.unwrap();
    }

    async fn registered(&self) -> Registered {
        samples::registered(&self.database).await.unwrap()
    }
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(text).unwrap()
}

/// A shell that holds a transaction open.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Shell {
    fn open(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the engine's shell starts: the README's test command installs it");
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
