//! What an error of PostgreSQL means to the caller: for a store what to do next, for a collector why there is nothing.
//!
//! The first two characters of a SQLSTATE are its class (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use crate::scrape::CollectError;
use crate::store::StoreError;

/// The SQLSTATE, where the error is the server's.
pub fn state(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the table that is asked for does not exist.
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    state(error).as_deref() == Some("42P01")
}

/// What a writer does next.
pub fn store_error(error: sqlx::Error) -> StoreError {
    let why = error.to_string();
    match state(&error).as_deref() {
        Some("53100") => StoreError::Full(why),
        Some(_) | None => StoreError::Busy(why),
    }
}

/// Why a collection gave nothing.
pub fn collect_error(error: sqlx::Error) -> CollectError {
    let why = error.to_string();
    match state(&error).as_deref() {
        Some("57014") => CollectError::Timeout,
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
