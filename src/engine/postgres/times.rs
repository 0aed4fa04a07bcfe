//! Times as a column of PostgreSQL holds them: `TIMESTAMP` with or without zone, or `DATE`.
//!
//! A time without zone is read as UTC, which is what every session of ours lives in and what we write (T-3). `infinity` is no time: it is counted
//! with NULL, never guessed (T-4). Microseconds are rounded to milliseconds.
//!
//! A column of another type holds no times here: the collector says so (`atlas::fit`).

/// The SQL expression of `$column`'s time in milliseconds since 1970, NULL where it has none.
macro_rules! millis {
    ($column:literal) => {
        concat!("(CASE WHEN isfinite(", $column, ") THEN round(extract(epoch FROM ", $column, ") * 1000)::bigint END)")
    };
}
pub(crate) use millis;
