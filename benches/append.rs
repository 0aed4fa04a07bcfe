//! `SampleStore::append` beside a bare loop over SQLite's C interface: same rows, same pragmas, same indexes, fresh files, in turns.
//!
//! The bare loop is the least that can be done: one prepared INSERT of 500 rows, texts bound without a copy, times formatted
//! beforehand, transactions of 2,000 rows. Ours formats times, checks values, ignores known ids and goes through sqlx's thread. The bar is a
//! ratio of 0.8 (benches/README.md).
#![allow(unsafe_code, reason = "the other side is SQLite's C interface itself")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::ids::{Ids, Instance};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::samples::Samples;
use atlas_sidecar::store::{Appended, Row, SampleStore};
use libsqlite3_sys as ffi;

const ROWS: usize = 200_000;
const TRANSACTION: usize = 2_000;
const STATEMENT: usize = 500;
const ROUNDS: usize = 7;

/// The specification's table and its index.
const SCHEMA: &str = "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
    metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(Instance::load_or_make(folder.path()).unwrap());
    let times: Vec<String> = rows.iter().map(|row| row.at.to_sql()).collect();
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let file = |who: &str| folder.path().join(format!("{who}-{round}.db"));
        // In turns, and in turns who is first: the machine's mood is shared.
        let mut measure = |mine: bool| match mine {
            true => ours.push(runtime.block_on(append(&file("ours"), &rows))),
            false => bare.push(bare_loop(&file("bare"), &rows, &times)),
        };
        measure(round % 2 == 0);
        measure(round % 2 == 1);
        let rate = |t: &Vec<Duration>| per_second(t[round]);
        println!("round {round}: bare {:>8.0} rows/s, append {:>8.0} rows/s", rate(&bare), rate(&ours));
        std::fs::read_dir(folder.path()).unwrap().for_each(|f| drop(std::fs::remove_file(f.unwrap().path())));
    }
    let (bare, ours) = (per_second(median(bare)), per_second(median(ours)));
    println!("median: bare {bare:.0} rows/s, append {ours:.0} rows/s, ratio {:.2}", ours / bare);
}

/// Rows of one collection of a source.
const COLLECTION: usize = 40;

/// What `ingest` hands over in life: collections of 25 sources one after another, each at a time of its own. No row has the name of the one
/// before, and the tags tell which of a source's series it is: nothing repeats that a store could share.
fn rows(instance: Instance) -> Vec<Row> {
    let ids = Ids::new(instance);
    let start = Timestamp::from_rfc3339("2026-11-22T00:00:00Z").unwrap();
    (0..ROWS)
        .map(|n| {
            let (collection, series) = (n / COLLECTION, n % COLLECTION);
            let source = collection % 25;
            let at = start.after(Duration::from_millis(collection as u64 * 2_413));
            Row {
                id: ids.next(at),
                name: format!("shop_{source:02}_request_{:02}_duration_seconds_total", series % 20),
                tags: format!(
                    r#"{{"host":"db-1.example.org","path":"/api/v1/{series}","source":"shop-{source}","worker":"{}"}}"#,
                    n % 1_000
                ),
                value: n as f64 * 1.37,
                at,
            }
        })
        .collect()
}

async fn append(file: &Path, rows: &[Row]) -> Duration {
    let database = Database::open(file, true).await.unwrap();
    let mut tx = database.write().await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let store = Samples::new(database.clone(), Instance::parse("000000000001").unwrap());
    let start = Instant::now();
    for batch in rows.chunks(TRANSACTION) {
        assert_eq!(store.append(batch).await.unwrap(), Appended::Now);
    }
    let took = start.elapsed();
    database.close().await;
    took
}

fn bare_loop(file: &Path, rows: &[Row], times: &[String]) -> Duration {
    let path = CString::new(file.to_str().unwrap()).unwrap();
    let mut db = ptr::null_mut();
    // SAFETY: pointers come from SQLite and are used by this thread only; bound texts outlive the statement's step.
    unsafe {
        assert_eq!(ffi::sqlite3_open(path.as_ptr(), &mut db), ffi::SQLITE_OK);
        execute(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = OFF");
        execute(db, SCHEMA);
        let insert = prepare(db);
        let start = Instant::now();
        for (rows, times) in rows.chunks(TRANSACTION).zip(times.chunks(TRANSACTION)) {
            execute(db, "BEGIN IMMEDIATE");
            for (rows, times) in rows.chunks(STATEMENT).zip(times.chunks(STATEMENT)) {
                let mut place = 0;
                for (row, time) in rows.iter().zip(times) {
                    bind(insert, &mut place, &row.id);
                    bind(insert, &mut place, &row.name);
                    place += 1;
                    ffi::sqlite3_bind_double(insert, place, row.value);
                    bind(insert, &mut place, &row.tags);
                    bind(insert, &mut place, time);
                }
                assert_eq!(ffi::sqlite3_step(insert), ffi::SQLITE_DONE);
                ffi::sqlite3_reset(insert);
            }
            execute(db, "COMMIT");
        }
        let took = start.elapsed();
        ffi::sqlite3_finalize(insert);
        ffi::sqlite3_close(db);
        took
    }
}

unsafe fn prepare(db: *mut ffi::sqlite3) -> *mut ffi::sqlite3_stmt {
    let values = vec!["(?,?,?,?,?)"; STATEMENT].join(",");
    let sql = format!("INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) VALUES {values}");
    let sql = CString::new(sql).unwrap();
    let mut statement = ptr::null_mut();
    // SAFETY: `db` is open, `sql` ends with a zero byte.
    let done = unsafe { ffi::sqlite3_prepare_v2(db, sql.as_ptr(), -1, &mut statement, ptr::null_mut()) };
    assert_eq!(done, ffi::SQLITE_OK);
    statement
}

unsafe fn bind(statement: *mut ffi::sqlite3_stmt, place: &mut i32, text: &str) {
    *place += 1;
    let length = i32::try_from(text.len()).unwrap();
    // SAFETY: the row outlives the step, so SQLite need not copy it (SQLITE_STATIC).
    unsafe { ffi::sqlite3_bind_text(statement, *place, text.as_ptr().cast(), length, ffi::SQLITE_STATIC()) };
}

unsafe fn execute(db: *mut ffi::sqlite3, sql: &str) {
    let sql = CString::new(sql).unwrap();
    // SAFETY: `db` is open, `sql` ends with a zero byte.
    let done = unsafe { ffi::sqlite3_exec(db, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) };
    assert_eq!(done, ffi::SQLITE_OK);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn per_second(took: Duration) -> f64 {
    ROWS as f64 / took.as_secs_f64()
}
