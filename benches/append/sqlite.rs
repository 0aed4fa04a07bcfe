//! SQLite: the peer is a bare loop over its C interface, with the same pragmas and indexes.
//!
//! The bare loop is the least that can be done: one prepared INSERT of 500 rows, texts bound without a copy, times formatted
//! beforehand, transactions of 2,000 rows. Ours formats times, checks values, ignores known ids and goes through sqlx's thread.
#![allow(unsafe_code, reason = "the other side is SQLite's C interface itself")]

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use atlas_sidecar::engine::ids::Instance;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::samples::Samples;
use atlas_sidecar::store::Row;
use libsqlite3_sys as ffi;
use tokio::runtime::Runtime;

use super::{Contest, TRANSACTION, append};

const STATEMENT: usize = 500;

/// The specification's table and its index.
const SCHEMA: &str = "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
    metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);";

/// Runs it.
pub fn run(runtime: &Runtime, rows: &[Row]) {
    let folder = tempfile::tempdir().unwrap();
    let times: Vec<String> = rows.iter().map(|row| row.at.to_sql()).collect();
    let mut bare = BareLoop::open(&folder.path().join("bare.db"));
    let database = runtime.block_on(made(&folder.path().join("ours.db")));
    let store = Samples::new(database.clone(), Instance::parse("000000000001").unwrap());
    Contest::on("sqlite")
        .of("bare loop", |batch| {
            let of = batch * TRANSACTION..(batch + 1) * TRANSACTION;
            bare.write(&rows[of.clone()], &times[of])
        })
        .of("append", |batch| runtime.block_on(append(&store, rows, batch)))
        .run();
    runtime.block_on(database.close());
}

async fn made(file: &Path) -> Database {
    let database = Database::open(file, true).await.unwrap();
    let mut tx = database.write().await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    database
}

/// The peer; used by this thread only.
struct BareLoop {
    db: *mut ffi::sqlite3,
    insert: *mut ffi::sqlite3_stmt,
}

impl BareLoop {
    fn open(file: &Path) -> Self {
        let path = CString::new(file.to_str().unwrap()).unwrap();
        let mut db = ptr::null_mut();
        // SAFETY: `path` ends with a zero byte, and the pointer that SQLite gives is used while it is open.
        unsafe {
            assert_eq!(ffi::sqlite3_open(path.as_ptr(), &mut db), ffi::SQLITE_OK);
            execute(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = OFF");
            execute(db, SCHEMA);
            Self { db, insert: prepare(db) }
        }
    }

    fn write(&mut self, rows: &[Row], times: &[String]) -> Duration {
        let start = Instant::now();
        // SAFETY: database and statement are open; bound texts outlive the statement's step.
        unsafe {
            execute(self.db, "BEGIN IMMEDIATE");
            for (rows, times) in rows.chunks(STATEMENT).zip(times.chunks(STATEMENT)) {
                let mut place = 0;
                for (row, time) in rows.iter().zip(times) {
                    bind(self.insert, &mut place, &row.id);
                    bind(self.insert, &mut place, &row.name);
                    place += 1;
                    ffi::sqlite3_bind_double(self.insert, place, row.value);
                    bind(self.insert, &mut place, &row.tags);
                    bind(self.insert, &mut place, time);
                }
                assert_eq!(ffi::sqlite3_step(self.insert), ffi::SQLITE_DONE);
                ffi::sqlite3_reset(self.insert);
            }
            execute(self.db, "COMMIT");
        }
        start.elapsed()
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        // SAFETY: both are open, and nobody uses them afterwards.
        unsafe {
            ffi::sqlite3_finalize(self.insert);
            ffi::sqlite3_close(self.db);
        }
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
