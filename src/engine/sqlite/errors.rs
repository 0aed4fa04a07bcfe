//! What an error of SQLite means to the caller: for a store and a backup what to do next, for a collector why there is nothing.
//!
//! The low byte of a code is its kind, the rest its variety (<https://www.sqlite.org/rescode.html>): 517, `SQLITE_BUSY_SNAPSHOT`, is a 5.

use crate::backup::SourceError;
use crate::scrape::CollectError;
use crate::store::StoreError;

const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const SCHEMA: i32 = 17;
const CONSTRAINT: i32 = 19;
const NOTADB: i32 = 26;
/// A write that the file system refused: a quota, mostly. Space may come back.
const IOERR_WRITE: i32 = 778;
/// The WAL's index could not grow: no space for the `-shm` file.
const IOERR_SHMSIZE: i32 = 4874;

/// SQLite's extended result code, where the error is SQLite's.
pub fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

fn kind(error: &sqlx::Error) -> Option<i32> {
    code(error).map(|code| code & 0xff)
}

/// Whether the statement was ended before its end: by a deadline, mostly.
pub fn is_interrupt(error: &sqlx::Error) -> bool {
    kind(error) == Some(INTERRUPT)
}

/// Whether the file is not what it should be.
pub fn is_corrupt(error: &sqlx::Error) -> bool {
    matches!(kind(error), Some(CORRUPT | NOTADB))
}

/// Whether a row broke a rule of its table.
pub fn is_constraint(error: &sqlx::Error) -> bool {
    kind(error) == Some(CONSTRAINT)
}

/// Whether another connection is in the way (SQLite's, with whatever varieties: E-6; or ours, the pool's only one), so that the same may be
/// tried again.
pub fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::PoolTimedOut) || matches!(kind(error), Some(BUSY | LOCKED))
}

/// Whether the table that is asked for does not exist; only for statements that name one table.
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.message().starts_with("no such table"))
}

/// Whether a connection that only reads has found what one that writes must take back first: the journal of a process that was killed.
pub fn wants_recovery(error: &sqlx::Error) -> bool {
    matches!(kind(error), Some(READONLY | CANTOPEN))
}

/// What it means for a backup.
pub fn source_error(error: sqlx::Error) -> SourceError {
    let why = error.to_string();
    match kind(&error) {
        Some(NOTADB) => SourceError::Unsupported(format!(
            "{why}: another file, or an encrypted database, which only its own application can read"
        )),
        Some(CORRUPT) => SourceError::Broken(why),
        _ => SourceError::Busy(why),
    }
}

/// What a writer does next. A constraint is named by its caller, who knows the row; here it is `Broken`.
pub fn store_error(error: sqlx::Error) -> StoreError {
    let why = error.to_string();
    match code(&error) {
        Some(FULL | IOERR_WRITE | IOERR_SHMSIZE) => StoreError::Full(why),
        Some(code) => match code & 0xff {
            BUSY | LOCKED | PROTOCOL | INTERRUPT | SCHEMA | NOMEM => StoreError::Busy(why),
            // Descriptors come back, disks and mounts too, and a table that is missing may be in the middle of the application's own migration.
            // The queue bounds how long that is hoped for.
            IOERR | CANTOPEN | READONLY => StoreError::Busy(why),
            _ if is_missing_table(&error) => StoreError::Busy(why),
            _ => StoreError::Broken(why),
        },
        None => match error {
            // The pool is closed for good; everything else between us and SQLite heals with the next connection.
            sqlx::Error::PoolClosed => StoreError::Broken(why),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                StoreError::Broken(why)
            }
            _ => StoreError::Busy(why),
        },
    }
}

/// Why a collection gave nothing.
pub fn collect_error(error: sqlx::Error) -> CollectError {
    let why = error.to_string();
    match kind(&error) {
        Some(INTERRUPT) => CollectError::Timeout,
        Some(BUSY | LOCKED | PROTOCOL | CANTOPEN | IOERR) => CollectError::Unreachable(why),
        Some(CORRUPT | NOTADB) => CollectError::Malformed(why),
        Some(_) => CollectError::Internal(why),
        None => match error {
            sqlx::Error::PoolTimedOut => CollectError::Timeout,
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => CollectError::Unreachable(why),
            // What a collector itself found wrong with a row travels through sqlx as its own error.
            sqlx::Error::Decode(e) => e.downcast::<CollectError>().map_or(CollectError::Malformed(why), |own| *own),
            sqlx::Error::ColumnDecode { .. } => CollectError::Malformed(why),
            _ => CollectError::Internal(why),
        },
    }
}
