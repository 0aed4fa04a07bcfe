//! Jobs: when they are due, who runs them, and what is left when somebody dies. On real databases, with the real program, and with clocks that
//! jump.

mod clock;
mod commands;
mod expiry;
mod killed;
mod log;
mod pressure;
mod processes;
mod pruning;
mod pruning_files;
mod runner;
mod sensitive;
mod shared;
mod slots;
mod steps;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::engine::postgres;
use atlas_sidecar::engine::sqlite;
use atlas_sidecar::store::{Expiry, RunLog};
use tempfile::TempDir;

use crate::store::{Bench, SCHEMA};
use crate::support::postgres::{Cluster, ROLE};
use crate::support::run;

const RUNS_ON_SQLITE: &str = include_str!("../../migrations/sqlite/0003_job_runs.sql");
const RUNS_ON_POSTGRES: &str = include_str!("../../migrations/postgres/0003_job_runs.sql");

/// What a wait of a loaded machine may take before the test says that it did not come.
const SOON: Duration = Duration::from_secs(20);

fn at(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(text).unwrap()
}

/// A SQLite file with the application's tables and ours.
struct OnSqlite {
    bench: Bench,
    log: Arc<dyn RunLog>,
    expiry: Arc<dyn Expiry>,
}

impl OnSqlite {
    async fn new() -> Self {
        let bench = Bench::with(&format!("{SCHEMA}{RUNS_ON_SQLITE}")).await;
        let log = Arc::new(sqlite::runs::Runs::new(bench.database.clone()));
        let expiry = Arc::new(sqlite::expiry::OldRows::new(bench.database.clone()));
        Self { bench, log, expiry }
    }

    /// What the sqlite3 shell answers.
    fn sql(&self, sql: &str) -> String {
        self.bench.sql(sql).trim_end().to_owned()
    }
}

/// The same on a PostgreSQL server.
struct OnPostgres {
    cluster: Cluster,
    log: Arc<dyn RunLog>,
    expiry: Arc<dyn Expiry>,
}

impl OnPostgres {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let url = cluster.database("one");
        let state = "CREATE TABLE sidecar_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TIMESTAMPTZ NOT NULL DEFAULT now());";
        let cache = "CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash VARCHAR(64) NOT NULL UNIQUE, query_text TEXT NOT NULL,
            results JSON NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP NOT NULL);";
        cluster.psql("one", &format!("SET ROLE {ROLE};{state}{cache}{RUNS_ON_POSTGRES}"));
        let database = postgres::Database::open(&url, None).await.unwrap();
        let log = Arc::new(postgres::runs::Runs::new(database.clone()));
        let expiry = Arc::new(postgres::expiry::OldRows::new(database));
        Self { cluster, log, expiry }
    }
}

/// What the sqlite3 shell answers about a file.
fn sql(database: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", "-cmd", ".timeout 5000", database.to_str().unwrap(), sql]).trim_end().to_owned()
}

/// The value of a series, as text 0.0.4 writes it.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Variables that give a program a wall clock of its own: the next minute begins in `lead` seconds, and [`set_clock`] moves it on. The file is in
/// `folder`.
fn faked(folder: &TempDir, lead: i64) -> Vec<(&'static str, String)> {
    let now = Clock::system().now().millis() / 1000;
    std::fs::write(folder.path().join("lead"), (60 - now.rem_euclid(60) - lead).to_string()).unwrap();
    set_clock(folder, 0);
    faked_as_before(folder)
}

/// The same for another program in `folder`.
fn faked_as_before(folder: &TempDir) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library()),
        ("FAKETIME_TIMESTAMP_FILE", folder.path().join("clock").display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// Sets the clock of [`faked`] so many seconds away from what it would be.
fn set_clock(folder: &TempDir, seconds: i64) {
    let lead: i64 = std::fs::read_to_string(folder.path().join("lead")).unwrap().parse().unwrap();
    // Another file in its place: half a file would be another time.
    let draft = folder.path().join("clock.tmp");
    std::fs::write(&draft, format!("{:+}", lead + seconds)).unwrap();
    std::fs::rename(draft, folder.path().join("clock")).unwrap();
}

/// libfaketime, in the variety for programs with threads.
fn library() -> String {
    let folders =
        std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let found = folders.into_iter().find(|path| path.exists());
    found.expect("libfaketime is installed: the README's test command does it").display().to_string()
}
