//! Rolling up beside one statement that makes the same buckets, and pruning beside one big DELETE: same file, same indexes, in turns.
//!
//! The statement is what somebody would write by hand: a GROUP BY over five minutes with a window for the growth, and another over hours, in
//! one transaction that keeps writers out for its whole length. Ours works in transactions of some 60 ms, reads tags of anybody, and counts
//! what it deletes. The bars are in benches/README.md. `ROWS=100000` makes a short run of it.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

use std::path::Path;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::roll_up::Buckets;
use atlas_sidecar::store::{Chore, RollUps};
use sqlx::AssertSqlSafe;

const ROUNDS: usize = 5;
const SERIES: i64 = 200;
const INTERVAL_SECS: i64 = 15;
/// 2026-11-22 00:00 UTC.
const START_SECS: i64 = 1_795_305_600;

const SCHEMA: &str = concat!(
    "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
        metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);
    CREATE INDEX idx_system_metrics_recorded ON system_metrics(recorded_at);
    CREATE TABLE peer (step_secs, start_ms, name, tags, count, sum, min, max, first, first_ms, last, last_ms, increase,
        PRIMARY KEY (step_secs, start_ms, name, tags)) WITHOUT ROWID;",
    include_str!("../migrations/sqlite/0002_state.sql"),
    include_str!("../migrations/sqlite/0004_rollup.sql")
);

/// Buckets of one width. SQLite takes bare columns beside one `min` or `max` from that row, so first and last come by a window.
fn by_hand(step: i64) -> String {
    format!(
        "INSERT INTO peer
        SELECT {step}, start, metric_name, tags, count(*), sum(value), min(value), max(value), min(first), min(at), min(last), max(at),
            sum(CASE WHEN before IS NULL THEN 0 WHEN value >= before THEN value - before ELSE value END)
        FROM (SELECT metric_name, tags, value, at, start, lag(value) OVER series AS before,
                first_value(value) OVER bucket AS first, last_value(value) OVER bucket AS last
            FROM (SELECT metric_name, tags, CAST(metric_value AS REAL) AS value, at, at - at % ({step} * 1000) AS start
                FROM (SELECT *, CAST(round(unixepoch(recorded_at, 'subsec') * 1000) AS INTEGER) AS at FROM system_metrics))
            WINDOW series AS (PARTITION BY metric_name, tags ORDER BY at),
                bucket AS (PARTITION BY metric_name, tags, start ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING))
        GROUP BY start, metric_name, tags"
    )
}

fn main() {
    let rows: i64 = std::env::var("ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.db");
    runtime.block_on(fill(&base, rows));
    let rate = |took: Duration| rows as f64 / took.as_secs_f64();
    let mut all: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        let file = folder.path().join(format!("{round}.db"));
        std::fs::copy(&base, &file).unwrap();
        let took = runtime.block_on(measure(&file, rows));
        println!(
            "round {round}: one statement {:.0} rows/s, rolling up {:.0}; one DELETE {:.0} rows/s, pruning {:.0} (held {:?} at most)",
            rate(took.0[0]),
            rate(took.0[1]),
            rate(took.0[2]),
            rate(took.0[3]),
            took.1,
        );
        all.iter_mut().zip(took.0).for_each(|(all, took)| all.push(took));
        std::fs::remove_file(&file).unwrap();
    }
    // Round by round: what else the machine does changes from one to the next.
    let ratio = |part: usize, of: usize| {
        median(all[part].iter().zip(&all[of]).map(|(part, of)| part.as_secs_f64() / of.as_secs_f64()))
    };
    println!("rolling up takes {:.2} of the statement's time (bar 1.5)", ratio(1, 0));
    println!("pruning has {:.2} of the DELETE's rate (bar 0.5)", ratio(2, 3));
}

async fn fill(file: &Path, rows: i64) {
    let database = Database::open(file, true).await.unwrap();
    let mut tx = database.write().await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await.unwrap();
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
        INSERT INTO system_metrics SELECT printf('%036d', i), 'metric_' || (i % 40) || '_total', i * 0.25,
            '{{\"host\":\"db-1.example.org\",\"path\":\"/api/v1/' || (i % {SERIES} / 40) || '\"}}',
            strftime('%Y-%m-%d %H:%M:%f', {START_SECS} + i / {SERIES} * {INTERVAL_SECS}, 'unixepoch') FROM n"
    );
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    database.close().await;
}

async fn measure(file: &Path, rows: i64) -> ([Duration; 4], Duration) {
    let database = Database::open(file, false).await.unwrap();
    let statement = {
        let start = Instant::now();
        let mut tx = database.write().await.unwrap();
        for step in [300, 3600] {
            sqlx::query(AssertSqlSafe(by_hand(step))).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        start.elapsed()
    };
    let end = START_SECS + rows / SERIES * INTERVAL_SECS;
    let now = Timestamp::from_millis((end - end % 3600 + 3600) * 1000);
    let buckets = Buckets::new(database.clone());
    let (roll_up, held) = timed(buckets.roll_up(Timestamp::from_millis(0), now)).await;
    compare(&database).await;
    let delete = delete(&database).await;
    let (prune, held_pruning) = timed(buckets.prune(now)).await;
    let mut tx = database.write().await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM system_metrics").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(left, 0);
    drop(tx);
    database.close().await;
    ([statement, roll_up, delete, prune], held.max(held_pruning))
}

/// One DELETE, on a copy of the file.
async fn delete(database: &Database) -> Duration {
    let copy = database.path().with_extension("copy");
    // The base has neither the buckets nor the other peer's table filled; a DELETE touches neither.
    std::fs::copy(database.path().with_file_name("base.db"), &copy).unwrap();
    let other = Database::open(&copy, false).await.unwrap();
    let start = Instant::now();
    let mut tx = other.write().await.unwrap();
    sqlx::query("DELETE FROM system_metrics WHERE recorded_at < '2099-01-01'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let took = start.elapsed();
    other.close().await;
    std::fs::remove_file(&copy).unwrap();
    took
}

/// Both made the same.
async fn compare(database: &Database) {
    let mut tx = database.write().await.unwrap();
    let differing: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM peer) - (SELECT count(*) FROM peer p JOIN sidecar_metrics_series s USING (name, tags) \
         JOIN sidecar_metrics_rollup r ON r.step_secs = p.step_secs AND r.start_ms = p.start_ms AND r.series = s.id \
         WHERE (r.count, r.sum, r.min, r.max, r.first, r.last, r.increase) = (p.count, p.sum, p.min, p.max, p.first, p.last, p.increase))",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert_eq!(differing, 0, "buckets that differ");
}

async fn timed(mut chore: Box<dyn Chore + '_>) -> (Duration, Duration) {
    let (start, mut held) = (Instant::now(), Duration::ZERO);
    while let Some(done) = chore.next().await.unwrap() {
        held = held.max(done.held);
    }
    (start.elapsed(), held)
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
