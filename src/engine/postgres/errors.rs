//! What an error of PostgreSQL means to the caller: for a store what to do next, for a collector why there is nothing.
//!
//! The first two characters of a SQLSTATE are its class (<https://www.postgresql.org/docs/current/errcodes-appendix.html>). For a store they
//! fall into four groups:
//!
//! | group | states | next |
//! |---|---|---|
//! | the server or the way to it | 08, 57P0x, 58, 28, 3D, 53 but one; no state at all | `Busy`: servers are restarted, fail over, change their passwords |
//! | somebody else, for a while | 55 and 40 (locks, deadlocks, serialization), 57014 (a timeout), 25 (read-only: a standby that is about to be promoted), 42501 (a right that an administrator can grant), 42P01 (a table in the middle of the application's own migration) | `Busy`; the queue bounds how long that is hoped for |
//! | no space | 53100 | `Full` |
//! | one row | 22, 23, 44, P0001, but 23505 on the id | `Rejected`, with [`row_reason`] |
//!
//! Everything else is `Broken`: a mistake of ours, or a damaged server.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::scrape::CollectError;
use crate::store::StoreError;

/// The classes that pass: the server or the way to it, somebody else's lock, a standby.
const PASSING: &[&str] = &["08", "25", "28", "3D", "40", "53", "55", "57", "58"];

/// Whether `state` belongs to one of `classes`. What comes over the network may be shorter than a class.
fn is_of(state: &str, classes: &[&str]) -> bool {
    state.get(..2).is_some_and(|class| classes.contains(&class))
}

/// The SQLSTATE, where the error is the server's.
pub fn state(error: &sqlx::Error) -> Option<String> {
    Some(told(error)?.code().to_owned())
}

/// What the server told.
fn told(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Whether the table that is asked for does not exist.
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    state(error).as_deref() == Some("42P01")
}

/// Whether a row has a key that another row has.
pub fn is_taken(error: &sqlx::Error) -> bool {
    state(error).as_deref() == Some("23505")
}

/// Whether the session is over, and not only a statement.
pub fn is_session_over(error: &sqlx::Error) -> bool {
    told(error).is_none_or(|told| told.severity() != PgSeverity::Error)
}

/// Why the table refuses a row, if that is what the error says: the label of a counter.
pub fn row_reason(error: &sqlx::Error) -> Option<&'static str> {
    let state = state(error)?;
    match state.as_str() {
        // numeric_value_out_of_range
        "22003" => Some("overflow"),
        // string_data_right_truncation
        "22001" => Some("name_too_long"),
        // character_not_in_repertoire, untranslatable_character: not in the encoding of the database, or NUL
        "22021" | "22P05" => Some("encoding"),
        // raise_exception: a trigger's
        "P0001" => Some("constraint"),
        state if is_of(state, &["22", "23", "44"]) => Some("constraint"),
        _ => None,
    }
}

/// Which row of a COPY into `table` the error is about, from zero. The server says "COPY system_metrics, line 3, column …" in its own language,
/// but always the table before the line.
pub fn copied_row(error: &sqlx::Error, table: &str) -> Option<usize> {
    told(error)?.r#where()?.lines().find_map(|line| {
        let (_, behind) = line.split_once(table)?;
        let number = behind.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        number[..end].parse::<usize>().ok()?.checked_sub(1)
    })
}

/// The error's words. Those of sqlx say "at line 3655": a line of the server's own source, which looks like one of the statement; and what it says in
/// front of an error of input and output adds nothing.
pub fn said(error: &sqlx::Error) -> String {
    match (told(error), error) {
        (Some(told), _) => format!("{} ({})", told.message(), told.code()),
        (None, sqlx::Error::Io(e)) => e.to_string(),
        (None, other) => other.to_string(),
    }
}

/// The error's words, with what to do about it where that is somebody's to do.
fn words(error: &sqlx::Error) -> String {
    let what = said(error);
    match state(error).as_deref() {
        Some("42501") => format!(
            "{what}; the sidecar's role needs SELECT and INSERT on `system_metrics` (for `metric-retention` also UPDATE and DELETE), DELETE where a job deletes, and all four on the `sidecar_` tables"
        ),
        Some("25006") => format!("{what}: this server is a standby, or set to read-only"),
        Some("53100") => format!("{what}: the server's disk is full"),
        _ => what,
    }
}

/// What a writer does next. What a row broke is named by its caller, who knows the row; here it is `Broken`.
pub fn store_error(error: sqlx::Error) -> StoreError {
    let why = words(&error);
    match state(&error).as_deref() {
        Some("53100") => StoreError::Full(why),
        Some("57014" | "42501" | "42P01") => StoreError::Busy(why),
        Some(state) if is_of(state, PASSING) => StoreError::Busy(why),
        Some(_) => StoreError::Broken(why),
        None => match error {
            // The pool is closed for good; everything else between us and the server heals with the next connection.
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
    let why = said(&error);
    match state(&error).as_deref() {
        // query_canceled: by `statement_timeout`, mostly
        Some("57014") => CollectError::Timeout,
        // data_corrupted, index_corrupted
        Some("XX001" | "XX002") => CollectError::Malformed(why),
        // The server does not take us, refuses what we ask, or holds a lock on it.
        Some(state) if state == "42501" || is_of(state, PASSING) => CollectError::Unreachable(why),
        Some(_) => CollectError::Internal(why),
        None => match error {
            sqlx::Error::PoolTimedOut => CollectError::Timeout,
            // What a collector itself found wrong with a row travels through sqlx as its own error.
            sqlx::Error::Decode(e) => e.downcast::<CollectError>().map_or(CollectError::Malformed(why), |own| *own),
            sqlx::Error::ColumnDecode { .. } => CollectError::Malformed(why),
            _ => CollectError::Unreachable(why),
        },
    }
}
